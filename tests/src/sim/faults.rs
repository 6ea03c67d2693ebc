//! The faults of a world: which classes there are, which of them a seed switches on, and what they draw from. Each class
//! draws from a generator of its own, so that one can be switched off without a change to the others. What each does is
//! told in `strikes`.

use super::clock::{MS, SECOND};
use super::net::Class;
use super::node::Node;
use super::plan::{NODES_MAX, Plan};
use crate::xdp::random::Random;

/// Declares the classes once: constant and name.
macro_rules! classes {
    ($($(#[$about:meta])* $class:ident = $name:literal,)*) => {
        #[expect(non_camel_case_types, clippy::upper_case_acronyms, reason = "they name the constants below")]
        enum Numbers { $($class,)* }
        $($(#[$about])* pub const $class: usize = Numbers::$class as usize;)*
        /// Names of all classes, by number.
        pub const NAMES: &[&str] = &[$($name,)*];
    };
}

classes! {
    /// Frames are lost on one wire.
    LOSS = "loss",
    /// They take longer, and overtake each other.
    DELAY = "delay",
    /// They arrive twice.
    DOUBLE = "double",
    /// A bit of them changes.
    DAMAGE = "damage",
    /// Nothing passes in one direction between two nodes.
    ONE_WAY = "one_way",
    /// Nothing passes between two sides.
    PARTITION = "partition",
    /// Nothing passes between a node and all others.
    ISOLATED = "isolated",
    /// Messages between controllers do not pass, and frames do.
    MESSAGES_CUT = "messages_cut",
    /// Probes or echoes do not pass.
    ONE_KIND_CUT = "one_kind_cut",
    /// One thread of a daemon does not run.
    THREAD_PAUSED = "thread_paused",
    /// No thread of a daemon runs; the kernel does.
    DAEMON_PAUSED = "daemon_paused",
    /// A machine sleeps.
    SLEEP = "sleep",
    /// A daemon is killed, and comes back.
    DAEMON_KILLED = "daemon_killed",
    /// A machine falls, and comes back.
    MACHINE_FALLS = "machine_falls",
    /// It comes back with an empty disk.
    DISK_LOST = "disk_lost",
    /// A write fails.
    DISK_FAILS = "disk_fails",
    /// Writes do not return.
    DISK_HANGS = "disk_hangs",
    /// A node is asked to leave, and comes back.
    LEAVE = "leave",
    /// Somebody asks for a change.
    REQUEST = "request",
    /// Frames that passed are sent again.
    REPLAY = "replay",
    /// The pacing thread stops between reading the stamp and reading the grant.
    SIGNING = "stopped_signing",
    /// The hypervisor stops the machine, which no clock shows: what it does then on its old lease has its token for the
    /// only guard.
    MACHINE_PAUSED = "machine_paused",
    /// A disciplined clock is slewed beyond what leases allow for.
    SLEWED = "clock_slewed",
    /// An older copy of the disk comes back, and the page of this machine start knows of a newer one.
    PUT_BACK = "disk_put_back",
    /// The file is found cut off, or with a bit changed.
    SPOILED = "disk_spoiled",
    /// Frames that nobody sent.
    FORGED = "forged",
    /// A machine goes on from a snapshot. Of what it does on its old lease its token is the only guard, and what its vote has
    /// forgotten is promised nothing of.
    SNAPSHOT = "snapshot_restored",
    /// An older copy of the disk comes back, and nobody can know it: likewise of its vote.
    UNSEEN = "disk_put_back_unseen",
    /// A daemon is stopped in good order, its kernel goes on, and the next one takes over.
    HANDOVER = "handover",
    /// A daemon stands still for longer than the lease, and often for longer than the hang limit.
    LONG_PAUSE = "long_pause",
    /// An operator has a node that waits go on alone: the word that all others are down, which is mostly wrong here. The
    /// properties of acting are then not promised any more.
    FORCED = "forced_start",
    /// Some hear each other only through a third: two of all, neighbours in a ring, or whatever pairs were drawn.
    INTRANSITIVE = "intransitive_cut",
    /// A daemon is started anew to join only, and later as ever.
    JOIN_ONLY = "join_only",
}

/// Classes of faults.
pub const CLASSES: usize = NAMES.len();

/// Which classes are on, and whether clocks drift.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Faults {
    /// A bit for each class.
    pub classes: u64,
    /// Clocks run up to 200 ppm wrong.
    pub drift: bool,
    /// Clocks run so much more wrong than they are allowed to, in thousands: what must fail, to see that it is seen.
    pub lawless_drift: u64,
}

impl Faults {
    /// None at all.
    pub const NONE: Self = Self { classes: 0, drift: false, lawless_drift: 0 };

    /// Says whether a class is on.
    #[must_use]
    pub const fn has(self, class: usize) -> bool {
        self.classes >> class & 1 == 1
    }
}

/// Draws the classes of a seed: each with one half; what leaves less to be judged, in fewer worlds.
#[must_use]
pub fn draw(seed: u64) -> Faults {
    let mut random = Random::new(seed ^ 0xfa_0175);
    let mut classes = random.word() & ((1 << CLASSES) - 1);
    for (class, rarely) in [(MACHINE_PAUSED, 4), (SNAPSHOT, 16), (UNSEEN, 16), (LONG_PAUSE, 2), (FORCED, 64)] {
        if !random.one_in(rarely) {
            classes &= !(1 << class);
        }
    }
    // Who is slewed is seen by its controller, which holds the node: it has to run for that.
    if classes >> SLEWED & 1 == 1 {
        for class in [THREAD_PAUSED, DAEMON_PAUSED, DAEMON_KILLED, PUT_BACK, SPOILED, HANDOVER, LONG_PAUSE] {
            classes &= !(1 << class);
        }
    }
    Faults { classes, drift: random.one_in(2), lawless_drift: 0 }
}

/// What ends a fault.
#[derive(Clone, Debug)]
pub(super) enum End {
    Nothing,
    Wire { from: usize, to: usize, network: usize, what: Wrong },
    Cut { pairs: Vec<(usize, usize)>, classes: &'static [Class] },
    RunOn(usize),
    Boot(usize),
    Start(usize),
    MayStand(usize),
    Slewed(usize),
    Restore(Box<Node>),
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Wrong {
    Loss(u16),
    Delay(u64),
    Double(u16),
    Damage(u16),
}

/// Draws and ends faults.
#[derive(Clone, Debug)]
pub struct Player {
    faults: Faults,
    pub(super) randoms: Vec<Random>,
    pub(super) gaps: Vec<u64>,
    pub(super) ends: Vec<End>,
    /// No new fault comes.
    pub over: bool,
    drifts: [(i64, i64); NODES_MAX],
}

impl Player {
    /// Prepares the faults of a plan.
    #[must_use]
    pub fn new(plan: &Plan) -> Self {
        let mut randoms: Vec<Random> =
            (0..CLASSES as u64 + 1).map(|class| Random::new(plan.seed ^ class << 40 ^ 0xfa17)).collect();
        let gaps = randoms.iter_mut().map(|random| random.pick(&[1, 3, 8]) * SECOND).collect();
        let (faults, lawless) = (plan.faults, plan.faults.lawless_drift);
        let mut drift = || {
            let random = &mut randoms[CLASSES];
            let most = 200_000 + lawless * 1_000_000;
            let draw = |random: &mut Random| random.below(2 * most + 1) as i64 - most as i64;
            if faults.drift { (draw(random), draw(random)) } else { (0, 0) }
        };
        let drifts = std::array::from_fn(|_| drift());
        Self { faults, randoms, gaps, ends: Vec::new(), over: false, drifts }
    }

    /// Returns how wrong a machine's clocks run, billionths: the disciplined ones, and the raw one.
    #[must_use]
    pub const fn drift(&self, place: usize) -> (i64, i64) {
        self.drifts[place]
    }

    /// Says whether a class is on in this world.
    #[must_use]
    pub const fn has(&self, class: usize) -> bool {
        self.faults.has(class)
    }

    /// Says for how long the pacing thread stops between reading a stamp and reading the grant; `None`: it does not.
    pub fn stops_between(&mut self) -> Option<u64> {
        if self.over || !self.faults.has(SIGNING) {
            return None;
        }
        let random = &mut self.randoms[SIGNING];
        random.one_in(40).then(|| MS + random.below(1_500 * MS))
    }
}

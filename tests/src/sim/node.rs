//! One played machine: its clocks, kernel and disk, and the daemon that runs on it. It holds what they are made of; what
//! the threads of the daemon do is told in `pacer`, `decider` and `shell`.

use super::clock::Clock;
use super::disk::Disk;
use super::heap::THREADS;
use super::kernel::Kernel;
use super::net::Frame;
use super::plan::{self, NODES_MAX, Plan};
use super::properties::Gap;
use super::service::Service;
use crate::xdp::random::Random;
use heartbeat_common::frame::{self, STANDING_GATED, STANDING_VOTES, STANDING_WAITS, STANDING_WORDS};
use heartbeat_common::tick::Tick;
use heartbeat_common::view::{Name, Order};
use heartbeat_user::core::agreement::Agreement;
use heartbeat_user::core::agreement::document::Member;
use heartbeat_user::core::agreement::types::{Input, Standing};
use heartbeat_user::core::controller::Controller;
use heartbeat_user::core::facts::Facts;
use heartbeat_user::core::identity;
use heartbeat_user::core::ids::NodeId;
use heartbeat_user::core::path::{ATTEMPTS, Attempt};
use heartbeat_user::io::agreement::clocks::Clocks;
use heartbeat_user::keys::{self, ProbeSigner};
use std::collections::VecDeque;

/// What the pacing thread has of a path.
#[derive(Clone, Debug)]
pub struct Paced {
    /// Makes its probes.
    pub signer: ProbeSigner,
    /// The newest sequence.
    pub sequence: u64,
    /// The latest send calls.
    pub attempts: [Attempt; ATTEMPTS],
    /// Read before a pause, and signed after it: sequence, send time, the peer's incarnation and its stamp.
    pub half: Option<(u64, u64, u64, u64)>,
}

impl Paced {
    /// Returns the newest sequence that was tried, not counting bursts.
    #[must_use]
    pub fn newest_attempt(&self) -> u64 {
        self.attempts.iter().map(|attempt| attempt.sequence).max().unwrap_or(0)
    }
}

/// The pacing thread.
#[derive(Clone, Debug)]
pub struct Pacer {
    /// Each path.
    pub paths: Vec<Paced>,
    /// When probes are due, CLOCK_MONOTONIC.
    pub due: u64,
    /// The worst lateness that nobody has taken yet: due and ran.
    pub late: Option<(u64, u64)>,
    /// Frames to be sent as they are, by path.
    pub frames: Vec<(usize, Frame)>,
}

/// What was last copied of a path, and what moves when something is written.
#[derive(Clone, Debug, Default)]
pub struct Look {
    /// The tick.
    pub tick: Tick<u64>,
    /// The newest attempt at the copy.
    attempt: u64,
    /// Something was written since the look before.
    pub changed: bool,
    looked: bool,
}

impl Look {
    /// Copies the tick of a path if it was written since.
    pub fn refresh(&mut self, kernel: &Kernel, path: usize, attempt: u64) {
        let lock = kernel.ticks[path].lock.get();
        self.changed = !self.looked || lock != self.tick.lock || attempt != self.attempt;
        self.looked = true;
        self.attempt = attempt;
        if lock != self.tick.lock {
            kernel.copy_tick(path, &mut self.tick);
        }
    }
}

/// What the keeper has to do: say this, from then on.
#[derive(Clone, Debug)]
pub struct Restanding {
    /// What.
    pub standing: Box<Standing>,
    /// When it is done, true time.
    pub at: u64,
}

/// A daemon that runs.
#[derive(Clone, Debug)]
pub struct Process {
    /// Its incarnation.
    pub incarnation: u64,
    /// Its generation.
    pub generation: u32,
    /// The detector.
    pub controller: Controller,
    /// The agreement.
    pub agreement: Agreement,
    /// What was last copied of each path.
    pub looks: Vec<Look>,
    /// What is remembered of hearing each peer.
    pub facts: Facts,
    /// How this machine's clocks part.
    pub clocks: Clocks,
    /// The pacing thread.
    pub pacer: Pacer,
    /// When the deciding thread is due, CLOCK_MONOTONIC.
    pub due: u64,
    /// What waits for the deciding thread.
    pub inbox: VecDeque<Input>,
    /// What the keeper was told.
    pub standing: Option<Restanding>,
    /// The agreement asked for all that runs to be stopped, and was not told yet.
    pub stops: bool,
    /// Numbers of fences.
    pub nonce: u64,
    /// When it began, CLOCK_MONOTONIC.
    pub began: u64,
    /// When a thread of it was last found late, CLOCK_MONOTONIC; 0: never.
    pub late_at: u64,
    /// It told that it is cut off, and heard nobody since.
    pub told_isolated: bool,
    /// What it told of views.
    pub told: Told,
    /// Numbers of requests.
    pub requests: u64,
    /// Peers that took this incarnation for the newest, a bit for each.
    pub greeted: u64,
    /// The newest incarnation of each peer that the connecting thread knows.
    pub known: [u64; NODES_MAX],
}

/// A machine.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its place.
    pub place: usize,
    /// It runs, or sleeps; false: it is off.
    pub up: bool,
    /// Its clocks.
    pub clock: Clock,
    /// This start of the machine.
    pub boot: [u64; 2],
    /// Changes with each start and end of daemon and machine: what was foreseen for an older one does not happen.
    pub life: u32,
    /// Until when each thread does not run, true time.
    pub paused: [u64; THREADS],
    /// Until when the machine sleeps or is paused; 0: it is not.
    pub halted_until: u64,
    /// Its kernel.
    pub kernel: Kernel,
    /// Identity as the pinned maps have it.
    pub pins: Option<identity::Kept>,
    /// Its disk.
    pub disk: Disk,
    /// The daemon.
    pub process: Option<Process>,
    /// What runs under the lease.
    pub service: Service,
    /// The newest incarnation that a peer told of.
    pub learnt: u64,
    /// Newest sequence of the agreement's state that the page remembered at the last start.
    pub remembered: u64,
    /// The last start found the agreement's state lost.
    pub vote_lost: bool,
    /// Ungraceful ends: true times.
    pub ends: Vec<u64>,
    /// The page was kept at the start.
    pub adopted: bool,
    /// It only joins.
    pub join_only: bool,
    /// When this snapshot of it was taken, true time; 0: it is none.
    pub taken_at: u64,
    /// When it last went on from one, true time; 0: never.
    pub restored_at: u64,
    /// It stays down until somebody starts it.
    pub stays_down: bool,
    /// When a controller of it last made a round, CLOCK_MONOTONIC.
    pub ran: u64,
    /// When its daemon was last started, true time; 0: never.
    pub started: u64,
    /// Since when it stands still, true time.
    pub halted_at: u64,
    /// The times of this machine start that none of its clocks shows, true time: from, to.
    pub unseen: Vec<(u64, u64)>,
    /// The gaps in its life.
    pub gap: Gap,
    /// When the last replayed frame of each peer arrives here, true time; 0: none ever did.
    pub replayed: [u64; NODES_MAX],
    /// When a probe whose thread had stopped while it signed last left, true time; 0: never.
    pub signed_late: u64,
}

impl Node {
    /// Makes a machine that is off, with an empty disk.
    #[must_use]
    pub fn new(place: usize, plan: &Plan) -> Self {
        Self {
            place,
            up: false,
            clock: Clock::new(0, 1, 0, 0),
            boot: [0; 2],
            life: 0,
            paused: [0; THREADS],
            halted_until: 0,
            kernel: Kernel::new(plan.paths()),
            pins: None,
            disk: Disk::default(),
            process: None,
            service: Service::default(),
            learnt: 0,
            remembered: 0,
            vote_lost: false,
            ends: Vec::new(),
            taken_at: 0,
            restored_at: 0,
            adopted: false,
            join_only: false,
            stays_down: false,
            ran: 0,
            started: 0,
            halted_at: 0,
            unseen: Vec::new(),
            gap: Gap::default(),
            replayed: [0; NODES_MAX],
            signed_late: 0,
        }
    }

    /// Says whether, at a moment from `since` on, a probe of it waited for a thread that had stopped while it signed.
    #[must_use]
    pub fn signed_late_since(&self, since: u64) -> bool {
        let waits = |process: &Process| process.pacer.paths.iter().any(|path| path.half.is_some());
        self.signed_late != 0 && self.signed_late >= since || self.process.as_ref().is_some_and(waits)
    }

    /// Returns since when this machine has run for `ns`, true time: what none of its clocks shows does not count.
    #[must_use]
    pub fn ran_for(&self, ns: u64, now: u64) -> u64 {
        let (mut left, mut at) = (ns, if self.clock.is_paused() { self.halted_at } else { now });
        for (from, to) in self.unseen.iter().rev() {
            let ran = at.saturating_sub(*to);
            if ran >= left {
                break;
            }
            (left, at) = (left - ran, *from);
        }
        at.saturating_sub(left)
    }

    /// Says whether there is a time in this machine start that none of its clocks shows.
    #[must_use]
    pub fn has_unseen(&self) -> bool {
        self.clock.is_paused() || !self.unseen.is_empty()
    }

    /// Returns until when a thread does not run, true time; `None`: it runs.
    #[must_use]
    pub fn held(&self, thread: super::heap::Thread, now: u64) -> Option<u64> {
        let until = self.paused[thread as usize].max(self.halted_until);
        (until > now).then_some(until)
    }

    /// Says whether the thread of this life can run.
    #[must_use]
    pub const fn is(&self, life: u32) -> bool {
        self.life == life && self.process.is_some()
    }

    /// Returns the identity that the pins show, or will.
    #[must_use]
    pub fn state_id(&self) -> u64 {
        self.disk.identity.map_or(0, |disk| disk.kept.state_id)
    }
}

/// What a process told of views.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// The last one that it told to be installed.
    pub view: Name,
    /// How many removals by the next one it told since.
    pub count: usize,
    /// All removals that it told since: by which view, of whom.
    pub removals: Vec<(Order, Member)>,
    /// Of those that it told to have left by themselves since, the same.
    pub left: Vec<(Order, Member)>,
    /// How many joins by that view it told.
    pub joins: usize,
    /// And how many there were; `None`: it is not known which view it held before.
    pub joins_due: Option<usize>,
    /// The newest view that it told to be in force.
    pub in_force: Order,
    /// Whether it last told that it may act, or that it may not; `None`: neither yet.
    pub acts: Option<bool>,
    /// The newest view under which it told that it may act.
    pub acted: Order,
    /// Whom it told to be refused for a quarantine.
    pub refused: Vec<Member>,
}

/// What frames of a path say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Say {
    /// The words of the standing, with the grant.
    pub words: [u64; STANDING_WORDS],
    /// What the page's GRANTING is while the grant goes out; 0: it never does.
    pub mark: u64,
}

impl Say {
    /// What is said before there is anything of a view to say.
    #[must_use]
    pub const fn nothing(incarnation: u64, generation: u32, settings: u64) -> Self {
        Self { words: [incarnation, frame::identity(generation, 0), 0, 0, 0, settings, 0], mark: 0 }
    }

    /// What is said of a standing to a peer, in the form of the shipped shell.
    #[must_use]
    pub fn of(incarnation: u64, generation: u32, settings: u64, standing: &Standing, to: NodeId) -> Self {
        let of = |set: bool, flag: u16| if set { flag } else { 0 };
        let flags = of(standing.votes, STANDING_VOTES)
            | of(!standing.member, STANDING_WAITS)
            | of(standing.stops_at_once, STANDING_GATED);
        let grant = standing.grants.iter().find(|(node, _)| *node == to).map_or(0, |(_, word)| *word);
        // A grant without a mark would be sent whatever the page says.
        let grant = if standing.mark == 0 { 0 } else { grant };
        let (order, digest) = (standing.view.order.0, standing.view.digest[0]);
        let words = [incarnation, frame::identity(generation, flags), order, digest, grant, settings, 0];
        Self { words, mark: standing.mark }
    }

    /// Makes the signer of a path.
    #[must_use]
    pub fn signer(&self, spec: &keys::PathSpec) -> ProbeSigner {
        ProbeSigner::new(plan::ring(), spec, &self.words).granting_under(self.mark)
    }
}

impl Pacer {
    /// Begins to send under an incarnation, at `mono`.
    #[must_use]
    pub fn new(plan: &Plan, own: usize, say: &Say, mono: u64, random: &mut Random) -> Self {
        // As the shipping thread begins, above every sequence of an earlier controller of this incarnation.
        let first = (mono / 1000) << 1;
        let path = |path: usize| Paced {
            signer: say.signer(&plan.path_spec(own, path)),
            sequence: first,
            attempts: [Attempt::default(); ATTEMPTS],
            half: None,
        };
        let paths = (0..plan.paths()).map(path).collect();
        Self { paths, due: mono + random.below(plan.delay_ns() / 4), late: None, frames: Vec::new() }
    }
}

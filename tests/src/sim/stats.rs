//! Counts of what a world went through: faults played, stages reached, frames by their end. A run in which something
//! never happened has shown nothing about it, so every count is printed, and a long run wants each above zero.

use super::rules::{Judged, NOT_YET, Rule};
use heartbeat_common::counter::Counter;

/// Declares what is counted once: variant and name.
macro_rules! counts {
    ($($variant:ident = $name:literal,)*) => {
        /// Something counted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Count { $(#[doc = $name] $variant,)* }

        impl Count {
            /// Everything counted, in order.
            pub const ALL: &[(Self, &'static str)] = &[$((Self::$variant, $name),)*];
        }
    };
}

counts! {
    Worlds = "worlds",
    Probes = "probes",
    Rounds = "rounds",
    LateRounds = "late_rounds",
    SleepsNoticed = "sleeps_noticed",
    ClocksOut = "clocks_out_or_in_bounds",
    Down = "verdicts_down",
    Isolated = "isolated",
    Reincarnated = "reincarnated",
    Started = "started",
    Adopted = "adopted",
    StatesLost = "states_lost",
    Messages = "messages",
    MessagesLost = "messages_lost",
    Outrun = "greetings_of_older_incarnations",
    Restored = "snapshots_restored",
    Writes = "writes",
    WritesFailed = "writes_failed",
    WritesFailedLate = "of_them_with_their_file_there",
    Cleared = "grants_cleared",
    Banks = "banks_made",
    Standings = "standings_told",
    StoppedSigning = "stopped_while_signing",
    InForce = "views_in_force",
    Installed = "views_installed",
    Removed = "members_removed",
    Joined = "members_joined",
    LeftView = "members_left",
    Regroups = "regroups",
    Waits = "regroups_waiting",
    LeaseGained = "leases_gained",
    LeaseLost = "leases_lost",
    LeftOut = "left_out",
    OlderState = "older_states_noticed",
    TimeWentBack = "time_went_back",
    ControlLost = "messages_missed",
    FencesAcknowledged = "fences_acknowledged",
    FencedSelf = "fenced",
    StoppedSaid = "known_stopped",
    Quarantined = "quarantined",
    Changed = "changes_decided",
    FoundAhead = "found_ahead",
    Fences = "fences_sent",
    FencesObeyed = "fences_obeyed",
    StopServices = "services_stopped",
    ServiceStarts = "services_started",
    Acts = "acts",
    ActsRefused = "acts_refused",
    ActsStale = "acts_on_a_time_that_no_clock_shows",
    ActsStaleRefused = "of_them_refused_by_their_token",
    Answers = "requests_answered",
    Left = "exits_left",
    Out = "exits_out",
    Forfeited = "exits_forfeited",
    ZombiesSeen = "rounds_beside_a_controller_that_stands",
    Decided = "views_decided",
    Forced = "forced_starts",
    Settled = "times_settled",
    TrialDeaths = "trials_of_a_death",
    TrialRestarts = "trials_of_a_restart",
    TrialHangs = "trials_of_a_controller_that_stands",
    TrialSplits = "trials_of_a_split",
    TrialMutes = "trials_of_messages_that_do_not_pass",
    MutedMany = "of_them_with_more_than_may_go_at_once",
    MutedAllStay = "of_them_in_which_nobody_goes",
    TrialsWithoutMajority = "trials_that_left_no_majority",
    Cores = "cores_that_were_healed_alone",
    CoresLost = "of_them_without_a_majority_soon_after",
    Unrecoverable = "worlds_without_a_majority_of_disks",
}

/// What has a bound and is timed.
pub const TIMES: [&str; 6] = [
    "until_settled",
    "until_left_out",
    "until_taken_over",
    "until_back",
    "until_muted_left_out",
    "until_a_core_settled",
];

/// How long something took, over all worlds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Taken {
    /// How often it happened.
    pub count: u64,
    /// All together, ns.
    pub sum_ns: u64,
    /// The longest, ns.
    pub most_ns: u64,
}

impl Taken {
    const fn add(&mut self, took: u64) {
        self.count += 1;
        self.sum_ns += took;
        if took > self.most_ns {
            self.most_ns = took;
        }
    }
}

/// The counts of one world or many.
#[derive(Clone, Debug)]
pub struct Stats {
    counts: [u64; Count::ALL.len()],
    frames: [u64; Counter::ALL.len()],
    /// Faults played, by class.
    pub faults: [u64; super::faults::CLASSES],
    /// How often each rule had something to judge.
    pub judged: Judged,
    /// How long what has a bound took, ns.
    pub times: [Taken; TIMES.len()],
    /// Events that happened.
    pub events: u64,
    /// Simulated time, ns.
    pub simulated_ns: u64,
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            counts: [0; Count::ALL.len()],
            frames: [0; Counter::ALL.len()],
            faults: [0; super::faults::CLASSES],
            judged: Judged::default(),
            times: [Taken::default(); TIMES.len()],
            events: 0,
            simulated_ns: 0,
        }
    }
}

impl Stats {
    /// Counts one.
    pub fn add(&mut self, what: Count) {
        self.counts[what as usize] += 1;
    }

    /// Takes note of how long it took to settle, ns.
    pub const fn settled_within(&mut self, took: u64) {
        self.times[0].add(took);
    }

    /// Takes note of how long it took until a view left somebody out everywhere, ns.
    pub const fn left_within(&mut self, took: u64) {
        self.times[1].add(took);
    }

    /// Takes note of how long it took from there until those that are left acted, ns.
    pub const fn taken_over_within(&mut self, took: u64) {
        self.times[2].add(took);
    }

    /// Takes note of how long it took until a machine that was started again was a member that acts, ns.
    pub const fn back_within(&mut self, took: u64) {
        self.times[3].add(took);
    }

    /// Takes note of how long it took until a view was without all whose messages do not pass, ns.
    pub const fn muted_within(&mut self, took: u64) {
        self.times[4].add(took);
    }

    /// Takes note of how long it took a core that was healed alone to settle, ns.
    pub const fn core_settled_within(&mut self, took: u64) {
        self.times[5].add(took);
    }

    /// Counts a frame by its end.
    pub fn count(&mut self, end: Counter) {
        self.frames[end as usize] += 1;
    }

    /// Returns a count.
    #[must_use]
    pub const fn of(&self, what: Count) -> u64 {
        self.counts[what as usize]
    }

    /// Adds another's.
    pub fn merge(&mut self, other: &Self) {
        let pairs = self.counts.iter_mut().zip(&other.counts).chain(self.frames.iter_mut().zip(&other.frames));
        for (own, other) in pairs.chain(self.faults.iter_mut().zip(&other.faults)) {
            *own += other;
        }
        self.judged.merge(&other.judged);
        for (own, other) in self.times.iter_mut().zip(&other.times) {
            own.count += other.count;
            own.sum_ns += other.sum_ns;
            own.most_ns = own.most_ns.max(other.most_ns);
        }
        self.events += other.events;
        self.simulated_ns += other.simulated_ns;
    }

    /// Returns how often each kind of fault was played.
    pub fn faults_by_name(&self) -> impl Iterator<Item = (String, u64)> {
        super::faults::NAMES.iter().zip(self.faults).map(|(name, count)| ((*name).to_owned(), count))
    }

    /// Returns how often each rule had something to judge, with what it says; `None`: nothing can be judged by it yet.
    pub fn rules(&self) -> impl Iterator<Item = (&'static str, &'static str, Option<u64>)> {
        let judged = |rule| (!NOT_YET.contains(&rule)).then(|| self.judged.of(rule));
        Rule::ALL.iter().map(move |(rule, name, says)| (*name, *says, judged(*rule)))
    }

    /// Returns every count with its name.
    pub fn counts_by_name(&self) -> impl Iterator<Item = (String, u64)> {
        Count::ALL.iter().map(|(what, name)| ((*name).to_owned(), self.of(*what)))
    }

    /// Returns how many frames came to each end.
    pub fn frames_by_name(&self) -> impl Iterator<Item = (String, u64)> {
        Counter::ALL.iter().zip(self.frames).map(|(end, count)| (end.name().to_owned(), count))
    }
}

//! Counts of what a world went through: faults played, stages reached, frames by their end. A run in which something
//! never happened has shown nothing about it, so every count is printed, and a long run wants each above zero.

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
    FoundAhead = "found_ahead",
    Fences = "fences_sent",
    FencesObeyed = "fences_obeyed",
    StopServices = "services_stopped",
    ServiceStarts = "services_started",
    Acts = "acts",
    ActsRefused = "acts_refused",
    Answers = "requests_answered",
    Left = "exits_left",
    Out = "exits_out",
    Forfeited = "exits_forfeited",
    PairsChecked = "pairs_checked",
    Decided = "views_decided",
    Settled = "worlds_settled",
    Unrecoverable = "worlds_without_a_majority_of_disks",
}

/// The counts of one world or many.
#[derive(Clone, Debug)]
pub struct Stats {
    counts: [u64; Count::ALL.len()],
    frames: [u64; Counter::ALL.len()],
    /// Faults played, by class.
    pub faults: [u64; super::faults::CLASSES],
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
        self.events += other.events;
        self.simulated_ns += other.simulated_ns;
    }

    /// Returns how often each kind of fault was played.
    pub fn faults_by_name(&self) -> impl Iterator<Item = (String, u64)> {
        super::faults::NAMES.iter().zip(self.faults).map(|(name, count)| ((*name).to_owned(), count))
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

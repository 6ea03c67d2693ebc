//! What views are decided by and acted in: the settings of lease, votes, quarantine and regroup, and the times that
//! they add up to. It judges no text.

use super::{Config, Settings};
use crate::core::agreement::document::LeaseTerms;
use heartbeat_common::lease::NODES_MAX;
use std::fmt;
use std::time::Duration;

/// How views are decided and how long they may be acted in. The first four, and the nodes' weights, begin a cluster;
/// from then on the view says what holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quorum {
    /// How long a node may act on its last proof of quorum: 100 ms to 1 h, with what stopping takes in it.
    pub lease: Duration,
    /// How much of the lease stopping takes. What is left is at least three of the longest delays.
    pub stop_time: Duration,
    /// Votes follow membership, down to the last node.
    pub dynamic: bool,
    /// Id of the node that loses its vote first where their number is even.
    pub lower_priority: Option<u16>,
    /// Ungraceful ends within an hour that lead to quarantine: 1 to 100; 0: none does.
    pub quarantine_threshold: u8,
    /// How long quarantine lasts: 1 s to 2^32 - 1 s, which is for ever.
    pub quarantine_duration: Duration,
}

/// How long the steps to the next view take at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Regroup {
    /// Interval at which messages are said again: 10 to 1000 ms. All others are at least two of it.
    pub tick: Duration,
    /// How long every node is waited for at the beginning.
    pub opening_timeout: Duration,
    /// How long a step may take before it is tried again, or by somebody else.
    pub stage_timeout: Duration,
    /// How long members that stay are waited for until they are left out for it.
    pub pruning_timeout: Duration,
    /// How long messages of a node whose controller runs may fail to pass.
    pub control_limit: Duration,
}

/// How long things take with these settings, from the moment in which a node dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Until it counts as silent on every path.
    pub detection: Duration,
    /// Until it is called down: it was asked once more, by a node that is not late.
    pub verdict: Duration,
    /// Until there is a view without it, if every node had to be waited for and the first to propose had died as well.
    pub view: Duration,
    /// Until others take over what it ran, if it was not proved sooner to have stopped.
    pub take_over: Duration,
    /// How long a node may act on its last proof of quorum before it begins to stop.
    pub act: Duration,
}

impl Budget {
    /// Adds up what settings make.
    #[must_use]
    pub fn of(settings: &Settings) -> Self {
        let detection = settings.longest_detection_time();
        let verdict = detection + settings.longest_delay() + settings.lateness_budget;
        let view = verdict + settings.regroup.opening_timeout + settings.regroup.stage_timeout;
        let Quorum { lease, stop_time, .. } = settings.quorum;
        let ms = u32::try_from(lease.as_millis()).unwrap_or(u32::MAX);
        let over = LeaseTerms { lease_ms: ms, stop_ms: 0, longest_ms: ms }.surely_over();
        Self { detection, verdict, view, take_over: view + over, act: lease.saturating_sub(stop_time) }
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { detection, verdict, view, take_over, act } = self;
        write!(
            formatter,
            "a dead node is silent for {detection:?}, down within {verdict:?}, out of the view within {view:?} and \
             taken over from within {take_over:?}; a node that is cut off acts for {act:?} at most"
        )
    }
}

impl Config {
    /// Says what is allowed and does not do what people expect of it.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let (quorum, votes) = (&self.settings.quorum, self.nodes.iter().filter(|node| node.weight > 0).count());
        let (nodes, detection) = (self.nodes.len(), self.settings.longest_detection_time());
        let mut warnings = Vec::new();
        if nodes > NODES_MAX {
            warnings.push(format!(
                "{nodes} nodes: a view holds at most {NODES_MAX}, so these watch each other and cannot form a cluster"
            ));
        }
        if votes == 2 && quorum.dynamic {
            warnings.push(
                "two nodes with votes: one of the two decides alone, and where that one dies the other stops as well"
                    .to_owned(),
            );
        } else if votes == 2 {
            warnings
                .push("two nodes with votes, and dynamic_quorum = false: neither goes on without the other".to_owned());
        }
        if quorum.lease < detection {
            warnings.push(format!(
                "quorum_arbitration_time_max_s is {:?}, shorter than the detection time, {detection:?}: a node that is \
                 cut off stops before the others call it down",
                quorum.lease
            ));
        }
        warnings
    }
}

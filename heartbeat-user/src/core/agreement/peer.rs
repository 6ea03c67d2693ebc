//! What is known of one peer: the facts of the ticks, its newest report, and whether its messages pass. It concludes
//! nothing about membership.

use super::document::Member;
use super::event::JoinFault;
use super::message::{Health, Hears, Report};
use super::types::{PeerFacts, Timing};
use crate::core::ids::NodeId;
use crate::core::time::MonoTime;
use std::time::Duration;

/// A serial further ahead than this is no later one. Each controller of an incarnation begins 2^32 higher: so many of them
/// that one could be thought to leap would take one each second, unheard, for 68 years.
const SERIAL_LEAP_MAX: u64 = 1 << 63;

/// What a peer, under the incarnation that is heard, and this node have to do with each other by the view held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tie {
    /// Both are members.
    Members,
    /// The peer is, and this node is not.
    Joining,
    /// The peer is none, whatever this node is.
    Strangers,
}

/// A peer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Peer {
    pub facts: PeerFacts,
    /// Its newest report, of its own hand or passed on.
    pub report: Option<Report>,
    /// It came since this node last ran late: what it says is of now.
    pub fresh: bool,
    /// When the newest message of its present incarnation came, or the time for it began.
    pub message_at: MonoTime,
    /// When a message last came of it, whoever spoke; or its present incarnation began to be heard.
    pub spoke_at: MonoTime,
    /// The highest number of a probe of this node that it knows of: its kernel accepted or answered it.
    pub knows_of: u64,
    /// The newest incarnation of it of which a message came, from itself; 0: none.
    pub spoke_as: u64,
    /// When this node's own controller began.
    begun: MonoTime,
    /// Since when it is heard, and not both ways.
    pub apart_since: Option<MonoTime>,
    /// When it was told that its messages do not pass, if none came since.
    pub control_lost: Option<MonoTime>,
    /// When a view was last sent to it, or asked of it, unasked.
    pub pushed: Option<MonoTime>,
    pub fetched: Option<MonoTime>,
    /// Why it was last told to be refused, and under which incarnation.
    pub refused: Option<(u64, JoinFault)>,
}

impl Peer {
    pub fn new(node: NodeId, now: MonoTime) -> Self {
        let facts = PeerFacts {
            node,
            incarnation: 0,
            incarnation_since: now,
            older_heard: MonoTime::ZERO,
            health: Health::Unknown,
            heard: MonoTime::ZERO,
            both_ways_since: None,
            controller_age: None,
            generation: 0,
            stopped: false,
            fence_acked: 0,
            gated: false,
            quorate: false,
            accepted: 0,
            answered: 0,
            tried: 0,
        };
        Self {
            facts,
            report: None,
            fresh: false,
            begun: now,
            message_at: now,
            spoke_at: now,
            knows_of: 0,
            spoke_as: 0,
            apart_since: None,
            control_lost: None,
            pushed: None,
            fetched: None,
            refused: None,
        }
    }

    /// Takes in what the ticks say. A newer incarnation inherits nothing.
    pub fn look(&mut self, facts: PeerFacts, now: MonoTime, timing: &Timing) {
        let newer = facts.incarnation > self.facts.incarnation;
        if self.report.as_ref().is_some_and(|report| report.author.incarnation < facts.incarnation) {
            self.report = None;
        }
        // The time for messages begins where they can pass, and its controller can send them.
        let able = |facts: &PeerFacts| facts.both_ways_since.is_some() && facts.health == Health::Up;
        // One that stands still says nothing by its silence, long before it counts as stalled.
        let still = facts.controller_age.is_some_and(|age| age >= timing.control_limit / 2);
        // Nor has one that began a moment ago had the time of the one before it: a manager that starts it again and again
        // has it killed before it can speak, and that says nothing of whether its messages pass. But a node that only ever
        // begins is as much use as one that hangs, and is given no longer than that.
        let another = facts.generation > self.facts.generation && now.since(self.spoke_at) < timing.hang;
        if newer {
            self.spoke_at = now;
        }
        if newer || another || still || able(&facts) && !able(&self.facts) {
            self.message_at = now;
        }
        let one_way = facts.health == Health::Up && facts.both_ways_since.is_none();
        self.apart_since = if one_way { self.apart_since.filter(|_| !newer).or(Some(now)) } else { None };
        self.facts = PeerFacts { fence_acked: facts.fence_acked.max(self.facts.fence_acked), ..facts };
    }

    pub const fn member(&self) -> Member {
        Member { node: self.facts.node, incarnation: self.facts.incarnation }
    }

    /// Returns the newest incarnation of it that was heard, or spoken of by its own report.
    pub fn newest(&self) -> u64 {
        self.report.as_ref().map_or(0, |report| report.author.incarnation).max(self.facts.incarnation)
    }

    /// Takes a report, its own or one passed on. Returns whether it is the newest, and not of an older incarnation.
    pub fn take(&mut self, report: &Report) -> bool {
        let known = self.report.as_ref().map_or((0, 0), |known| (known.author.incarnation, known.serial));
        let new = (report.author.incarnation, report.serial);
        // Nobody begins where no later one could follow.
        let leaps = report.serial.saturating_sub(known.1) > SERIAL_LEAP_MAX;
        let fresh = new > known && report.author.incarnation >= self.facts.incarnation && !leaps;
        if fresh {
            self.report = Some(report.clone());
            self.fresh = true;
        }
        fresh
    }

    /// Says that it acts, as far as it is heard: whether it hears this node too does not matter.
    pub const fn says_quorate(&self) -> bool {
        self.facts.quorate && !matches!(self.facts.health, Health::Down | Health::Left | Health::GaveUp)
    }

    /// Says whether its messages pass, or its controller is too stalled to send any. Between members they do until they
    /// have failed to for the limit; of whoever is to be in a view with this node and was not, one has to have come. Only
    /// a member's silence is excused by a stall.
    pub fn messages_pass(&self, tie: Tie, now: MonoTime, limit: Duration) -> bool {
        let spoke = self.spoke_as == self.facts.incarnation;
        match self.facts.health {
            Health::Up => (spoke || tie == Tie::Members) && now.since(self.message_at) < limit,
            _ => spoke || tie != Tie::Strangers,
        }
    }

    /// Says whether an older incarnation is still heard beside the present one: two nodes have one identity.
    pub fn doubled(&self, now: MonoTime, detection: Duration) -> bool {
        let older = self.facts.older_heard;
        older > self.facts.incarnation_since && now.since(older) < detection
    }

    /// Says whether the present incarnation has been heard alone for so long that the older ones are surely over.
    pub fn ripened(&self, now: MonoTime, delay: Duration) -> bool {
        let alone = self.facts.incarnation_since.max(self.facts.older_heard);
        self.facts.incarnation != 0 && self.facts.heard != MonoTime::ZERO && now.since(alone) >= delay
    }

    /// Says whether nothing more is to be expected of it before a cluster is created: it has reported, or had its time
    /// to, which is longer where it is heard.
    pub fn said_all(&self, now: MonoTime, detection: Duration, limit: Duration) -> bool {
        let reported = self.report.as_ref().is_some_and(|report| report.author.incarnation >= self.facts.incarnation);
        let heard = matches!(self.facts.health, Health::Up | Health::Stalled);
        let [unheard_by, heard_by] = self.said_all_by(detection, limit);
        reported || now >= if heard { heard_by } else { unheard_by }
    }

    /// Returns when [`Self::said_all`] becomes true by time alone: where it is not heard, and where it is.
    pub fn said_all_by(&self, detection: Duration, limit: Duration) -> [MonoTime; 2] {
        [self.begun + detection, self.begun + detection.max(limit)]
    }

    /// Says whether this node's own controller began a moment ago, and had no time yet to hear of everybody.
    pub fn is_young(&self, now: MonoTime, detection: Duration) -> bool {
        now.since(self.begun) < detection
    }

    /// Returns the edge to it, as this node sees it.
    pub fn hears(&self, tie: Tie, now: MonoTime, limit: Duration, detection: Duration) -> Hears {
        // A controller that began a moment ago has not asked everybody yet: that it has no answer says nothing.
        let unasked =
            self.is_young(now, detection) && self.facts.health == Health::Up && self.facts.both_ways_since.is_none();
        let both = self.facts.both_ways_since.map_or(0, |since| millis(now.since(since)).max(1));
        let heard = self.facts.heard;
        Hears {
            peer: self.member(),
            health: if unasked { Health::Unknown } else { self.facts.health },
            both_ways_ms: both,
            silent_ms: if heard == MonoTime::ZERO { u32::MAX } else { millis(now.since(heard)) },
            controller_age_ms: self.facts.controller_age.map_or(0, millis),
            messages_pass: self.messages_pass(tie, now, limit),
            accepted: self.facts.accepted,
        }
    }
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

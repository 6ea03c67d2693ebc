//! What the agreement is told of each peer: the detector's verdict, and what the kernel's ticks say of hearing each other.
//! It keeps what a single look cannot say: since when. It judges nobody.

use crate::core::agreement::message::Health;
use crate::core::agreement::types::PeerFacts;
use crate::core::ids::NodeId;
use crate::core::node::{Node, Verdict};
use crate::core::time::MonoTime;
use heartbeat_common::frame::{self, word};
use heartbeat_common::tick::Tick;
use std::collections::BTreeMap;
use std::time::Duration;

/// What is remembered of one peer.
#[derive(Clone, Debug, Default)]
struct Seen {
    incarnation: u64,
    since: MonoTime,
    /// Since when each hears the other without a gap, and when that was last proved.
    both: Option<(MonoTime, MonoTime)>,
}

/// One peer at one look.
#[derive(Clone, Copy, Debug)]
pub struct PeerLook<'a> {
    /// Which.
    pub id: NodeId,
    /// What is believed of it.
    pub node: &'a Node,
    /// The longest detection time of its paths: a longer silence is a gap.
    pub detection: Duration,
}

/// All peers.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    seen: BTreeMap<NodeId, Seen>,
}

impl Facts {
    /// Forgets since when anybody is heard: this node runs under a new incarnation, which nobody has heard yet.
    pub fn renew(&mut self) {
        self.seen.values_mut().for_each(|seen| seen.both = None);
    }

    /// Sums up one peer at `now`; `ticks` are those of its paths, copied after `now` was read.
    pub fn of(&mut self, now: MonoTime, look: PeerLook<'_>, ticks: &[&Tick<u64>]) -> PeerFacts {
        let PeerLook { id, node, detection } = look;
        let incarnation = ticks.iter().map(|tick| tick.peer_incarnation).max().unwrap_or(0);
        let current = || ticks.iter().filter(|tick| tick.peer_incarnation == incarnation && incarnation != 0);
        let newest = |of: fn(&Tick<u64>) -> u64| MonoTime(current().map(|tick| of(tick)).max().unwrap_or(0));
        let seen = self.seen.entry(id).or_default();
        if incarnation != seen.incarnation {
            *seen = Seen { incarnation, since: now, both: None };
        }
        let echo = newest(|tick| tick.echo_ns);
        seen.note_echo(now, echo, detection);
        let said = current().max_by_key(|tick| tick.peer_dynamic_ns);
        let flags = said.map_or(0, |tick| frame::flags(tick.peer_dynamic));
        let standing = said.map_or(0, |tick| (tick.standing[word::IDENTITY - word::STANDING] >> 32) as u16);
        PeerFacts {
            node: id,
            incarnation,
            incarnation_since: seen.since,
            older_heard: MonoTime(ticks.iter().map(|tick| tick.older_heard_ns).max().unwrap_or(0)),
            health: health(node.verdict()),
            heard: newest(|tick| tick.heard_ns),
            both_ways_since: seen.both.map(|(since, _)| since),
            controller_age: node.said().controller_age_ms.map(Duration::from_millis),
            stopped: flags & frame::FLAG_STOPPED != 0,
            fence_acked: ticks.iter().map(|tick| tick.fence_acked).max().unwrap_or(0),
            gated: standing & frame::STANDING_GATED != 0,
            quorate: flags & frame::FLAG_QUORATE != 0,
        }
    }
}

impl Seen {
    /// An echo within its time is proof of both directions at once: the probe arrived, and its answer too.
    fn note_echo(&mut self, now: MonoTime, echo: MonoTime, detection: Duration) {
        if let Some((_, last)) = self.both
            && echo.since(last) > detection
        {
            self.both = None;
        }
        self.both = match self.both {
            Some((since, last)) => Some((since, last.max(echo))),
            // What came before this controller or this incarnation was noticed proves nothing of a time without gaps.
            None => (echo.0 != 0 && echo >= self.since).then_some((echo, echo)),
        };
        if self.both.is_some_and(|(_, last)| now.since(last) > detection) {
            self.both = None;
        }
    }
}

const fn health(verdict: Verdict) -> Health {
    match verdict {
        Verdict::Unknown => Health::Unknown,
        Verdict::Up => Health::Up,
        Verdict::Stalled => Health::Stalled,
        Verdict::Hung => Health::Hung,
        Verdict::Left => Health::Left,
        Verdict::Down => Health::Down,
    }
}

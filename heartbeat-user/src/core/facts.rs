//! What the agreement is told of each peer: the detector's verdict, and what the kernel's ticks say of hearing each other.
//! It keeps what a single look cannot say: since when. It judges nobody.

use crate::core::agreement::message::Health;
use crate::core::agreement::types::PeerFacts;
use crate::core::ids::NodeId;
use crate::core::node::{Node, Verdict};
use crate::core::time::MonoTime;
use heartbeat_common::fence::GATED;
use heartbeat_common::frame;
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
    /// The highest number of a probe that this controller tried to send it, on any path; 0: none yet.
    pub tried: u64,
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
        let PeerLook { id, node, detection, tried } = look;
        let incarnation = ticks.iter().map(|tick| tick.peer_incarnation).max().unwrap_or(0);
        let current = || ticks.iter().filter(|tick| tick.peer_incarnation == incarnation && incarnation != 0);
        let highest = |of: fn(&Tick<u64>) -> u64| current().map(|tick| of(tick)).max().unwrap_or(0);
        let newest = |of| MonoTime(highest(of));
        let seen = self.seen.entry(id).or_default();
        if incarnation != seen.incarnation {
            *seen = Seen { incarnation, since: now, both: None };
        }
        let echo = newest(|tick| tick.echo_ns);
        seen.note_echo(now, echo, detection);
        let said = current().max_by_key(|tick| tick.peer_dynamic_ns);
        let flags = said.map_or(0, |tick| frame::flags(tick.peer_dynamic));
        let said_last = node.said();
        // A newer incarnation acknowledges too, without having obeyed anything: it proves itself, by being heard.
        let obeyed = || ticks.iter().filter(|tick| tick.fence_acked != 0 && tick.fence_acked_by == tick.fence_acked);
        let fence_acked = obeyed().map(|tick| tick.fence_acked).max().unwrap_or(0);
        let gates = |tick: &&Tick<u64>| tick.fence_acked == fence_acked && tick.fence_acked_flags & GATED != 0;
        PeerFacts {
            node: id,
            incarnation,
            incarnation_since: seen.since,
            older_heard: MonoTime(ticks.iter().map(|tick| tick.older_heard_ns).max().unwrap_or(0)),
            health: health(node.verdict(), said_last.gave_up),
            heard: newest(|tick| tick.heard_ns),
            both_ways_since: seen.both.map(|(since, _)| since),
            controller_age: said_last.controller_age_ms.map(Duration::from_millis),
            stopped: flags & frame::FLAG_STOPPED != 0,
            fence_acked,
            gated: obeyed().any(gates),
            quorate: flags & frame::FLAG_QUORATE != 0,
            generation: if said_last.incarnation == incarnation { said_last.generation } else { 0 },
            accepted: highest(|tick| tick.probe_top),
            answered: highest(|tick| tick.echo_top),
            tried,
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

const fn health(verdict: Verdict, gave_up: bool) -> Health {
    match verdict {
        Verdict::Unknown => Health::Unknown,
        Verdict::Up => Health::Up,
        Verdict::Stalled => Health::Stalled,
        Verdict::Hung => Health::Hung,
        Verdict::Left if gave_up => Health::GaveUp,
        Verdict::Left => Health::Left,
        Verdict::Down => Health::Down,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::event::NodeName;
    use crate::core::node::{Limits, Said};
    use heartbeat_common::tick::{DEPARTURES, Departure};

    const MS: u64 = 1_000_000;

    fn of(facts: &mut Facts, now: u64, ticks: &[&Tick<u64>]) -> PeerFacts {
        let name = NodeName { node: "b".to_owned(), node_id: NodeId(2) };
        let node = Node::new(name, MonoTime::ZERO);
        let look = PeerLook { id: NodeId(2), node: &node, detection: Duration::from_millis(500), tried: 90 };
        facts.of(MonoTime(now * MS), look, ticks)
    }

    #[test]
    fn only_the_victim_itself_proves_by_an_acknowledgement_that_it_stopped() {
        let acked =
            |by, flags| Tick::<u64> { fence_acked: 7, fence_acked_by: by, fence_acked_flags: flags, ..Tick::default() };
        let told = |tick: &Tick<u64>| {
            let fact = of(&mut Facts::default(), 1, &[tick]);
            (fact.fence_acked, fact.gated)
        };
        assert_eq!(told(&Tick::default()), (0, false));
        assert_eq!(told(&acked(7, GATED)), (7, true));
        assert_eq!(told(&acked(7, 0)), (7, false));
        assert_eq!(told(&acked(8, GATED)), (0, false), "a newer incarnation knows of it, and obeyed nothing");
        let (older, newer) = (acked(7, GATED), Tick::<u64> { fence_acked: 9, fence_acked_by: 9, ..Tick::default() });
        let fact = of(&mut Facts::default(), 1, &[&older, &newer]);
        assert_eq!((fact.fence_acked, fact.gated), (9, false), "what the newest said is said of the newest");
    }

    #[test]
    fn the_highest_numbers_of_all_paths_are_told_of_the_present_incarnation() {
        let tick = |incarnation, probe_top, echo_top| {
            let departed = [Departure { sequence: 50, ns: 1 }; DEPARTURES];
            Tick::<u64> { peer_incarnation: incarnation, probe_top, echo_top, departed, ..Tick::default() }
        };
        let (one, two, older) = (tick(7, 40, 70), tick(7, 60, 30), tick(6, 900, 900));
        let fact = of(&mut Facts::default(), 1, &[&one, &two, &older]);
        assert_eq!((fact.accepted, fact.answered, fact.tried), (60, 70, 90), "tried, whatever was seen to leave");
        let none = of(&mut Facts::default(), 1, &[&Tick::default()]);
        assert_eq!((none.accepted, none.answered), (0, 0));
    }

    #[test]
    fn hearing_each_other_begins_anew_after_a_gap_and_with_an_incarnation() {
        let mut facts = Facts::default();
        let tick = |incarnation, echo: u64| Tick::<u64> {
            peer_incarnation: incarnation,
            heard_ns: echo * MS,
            echo_ns: echo * MS,
            ..Tick::default()
        };
        let mut since = |now, tick: &Tick<u64>| of(&mut facts, now, &[tick]).both_ways_since.map(|at| at.0 / MS);
        assert_eq!(since(1_000, &tick(7, 900)), None, "an echo from before it was noticed");
        assert_eq!(since(1_100, &tick(7, 1_050)), Some(1_050));
        assert_eq!(since(1_500, &tick(7, 1_490)), Some(1_050));
        assert_eq!(since(1_991, &tick(7, 1_490)), None, "silent for longer than the detection time");
        assert_eq!(since(2_600, &tick(7, 2_590)), Some(2_590));
        assert_eq!(since(2_700, &tick(8, 2_690)), None, "a newer incarnation");
        assert_eq!(since(2_800, &tick(8, 2_790)), Some(2_790));
    }

    #[test]
    fn of_several_paths_the_newest_word_of_the_present_incarnation_counts() {
        let tick = |incarnation, at: u64, flags| Tick::<u64> {
            peer_incarnation: incarnation,
            heard_ns: at * MS,
            peer_dynamic: frame::dynamic(frame::Kind::Echo, 0, 0, flags),
            peer_dynamic_ns: at * MS,
            ..Tick::default()
        };
        let older = Tick::<u64> { older_heard_ns: 1_700 * MS, ..tick(6, 1_900, 0) };
        let (one, two) = (tick(7, 1_500, frame::FLAG_QUORATE), tick(7, 1_600, frame::FLAG_STOPPED));
        for ticks in [[&older, &one, &two], [&two, &one, &older]] {
            let fact = of(&mut Facts::default(), 2_000, &ticks);
            assert_eq!((fact.incarnation, fact.stopped, fact.quorate), (7, true, false));
            assert_eq!((fact.heard, fact.older_heard), (MonoTime(1_600 * MS), MonoTime(1_700 * MS)));
        }
    }

    #[test]
    fn who_left_is_told_from_who_was_given_up() {
        let limits = Limits { stall: Duration::from_secs(1), hang: Duration::from_secs(60) };
        let leaving = frame::FLAG_LEAVING;
        for (age, flags, expected) in [
            (0, 0, Health::Up),
            (0, leaving, Health::Left),
            (frame::U24_MAX, leaving, Health::GaveUp),
            (frame::U24_MAX, 0, Health::Hung),
        ] {
            let tick = Tick::<u64> {
                peer_incarnation: 7,
                heard_ns: 1_500 * MS,
                peer_dynamic: frame::dynamic(frame::Kind::Echo, age, 0, flags),
                peer_dynamic_ns: 1_500 * MS,
                ..Tick::default()
            };
            let name = NodeName { node: "b".to_owned(), node_id: NodeId(2) };
            let mut node = Node::new(name, MonoTime(MS));
            let mut said = Said::default();
            said.add(&tick);
            node.listen(said, limits, &mut Vec::new());
            let look = PeerLook { id: NodeId(2), node: &node, detection: Duration::from_millis(500), tried: 90 };
            let fact = Facts::default().of(MonoTime(2_000 * MS), look, &[&tick]);
            assert_eq!(fact.health, expected, "{age:#x} {flags:#x}");
        }
    }

    #[test]
    fn hearing_each_other_begins_anew_after_a_gap_that_nobody_looked_into_and_under_another_name() {
        let mut facts = Facts::default();
        let since = |facts: &mut Facts, now, echo: u64| {
            let tick = Tick::<u64> { peer_incarnation: 7, echo_ns: echo * MS, ..Tick::default() };
            of(facts, now, &[&tick]).both_ways_since.map(|at| at.0 / MS)
        };
        assert_eq!((since(&mut facts, 1_000, 900), since(&mut facts, 1_100, 1_050)), (None, Some(1_050)));
        assert_eq!(since(&mut facts, 1_600, 1_551), Some(1_551));
        facts.renew();
        assert_eq!(since(&mut facts, 1_700, 1_650), Some(1_650));
    }
}

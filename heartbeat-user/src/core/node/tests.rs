//! Tests of what is believed of a peer from what it says, without its silence.

use super::*;
use crate::core::ids::NodeId;
use heartbeat_common::frame::Kind;
use heartbeat_common::tick::Tick;

const LIMITS: Limits = Limits { stall: Duration::from_millis(500), hang: Duration::from_secs(60) };
const S: u64 = 1_000_000_000;

struct Rig {
    node: Node,
    tick: Tick<u64>,
}

impl Rig {
    fn new() -> Self {
        let name = NodeName { node: "b".into(), node_id: NodeId(2) };
        Self { node: Node::new(name, MonoTime(S)), tick: Tick::default() }
    }

    /// A frame that comes `at` seconds, saying `age` and `flags`.
    fn frame(&mut self, at: u64, age: Option<Duration>, flags: u8) -> &mut Self {
        let age = age.map_or(u64::MAX, |age| age.as_nanos() as u64 >> frame::AGE_SHIFT);
        self.tick.peer_dynamic = frame::dynamic(Kind::Echo, age, 0, flags);
        self.tick.peer_dynamic_ns = at * S;
        self.tick.heard_ns = at * S;
        self
    }

    fn identity(&mut self, incarnation: u64, generation: u32) -> &mut Self {
        self.tick.peer_incarnation = incarnation;
        self.tick.standing[0] = incarnation;
        self.tick.standing[1] = frame::identity(generation, 0);
        self
    }

    fn listen(&mut self) -> Vec<&'static str> {
        let mut said = Said::default();
        said.add(&self.tick);
        let mut out = Vec::new();
        self.node.listen(said, LIMITS, &mut out);
        out.iter().map(|(_, body)| body.name()).collect()
    }
}

#[test]
fn the_controller_age_alone_tells_stalled_from_hung() {
    let mut rig = Rig::new();
    assert_eq!(rig.frame(2, Some(Duration::ZERO), 0).listen(), ["node_up"]);
    assert_eq!(rig.frame(3, Some(Duration::from_millis(500)), 0).listen(), [""; 0]);
    assert_eq!(rig.frame(4, Some(Duration::from_millis(502)), 0).listen(), ["node_stalled"]);
    assert_eq!(rig.frame(5, Some(Duration::from_secs(60)), 0).listen(), [""; 0]);
    assert_eq!(rig.node.verdict(), Verdict::Stalled);
    assert_eq!(rig.frame(6, Some(Duration::from_millis(60_002)), 0).listen(), ["node_hung"]);
    assert_eq!(rig.frame(7, Some(Duration::ZERO), 0).listen(), ["node_recovered"]);
    assert_eq!((rig.node.verdict(), rig.node.since()), (Verdict::Up, MonoTime(7 * S)));
    assert_eq!(rig.frame(8, None, 0).listen(), ["node_hung"], "an age that does not fit is infinite");
    assert_eq!(rig.node.said().controller_age_ms, None);
}

#[test]
fn the_newest_word_over_all_paths_counts() {
    let mut old = Tick::<u64> { peer_dynamic: frame::dynamic(Kind::Echo, u64::MAX, 0, 0), ..Tick::default() };
    old.peer_dynamic_ns = 5;
    let new = Tick::<u64> { peer_dynamic_ns: 6, ..Tick::default() };
    for pair in [[&old, &new], [&new, &old]] {
        let mut said = Said::default();
        pair.into_iter().for_each(|tick| said.add(tick));
        assert_eq!(said.age(), Some(Duration::ZERO));
    }
}

#[test]
fn restarts_are_told_by_incarnation_and_generation() {
    let mut rig = Rig::new();
    let fresh = Some(Duration::ZERO);
    assert_eq!(rig.identity(7, 1).frame(2, fresh, 0).listen(), ["node_up"]);
    assert_eq!(rig.identity(7, 2).frame(3, fresh, 0).listen(), ["controller_restarted"]);
    assert_eq!(rig.node.verdict(), Verdict::Up);
    assert_eq!(rig.identity(7, 1).frame(4, fresh, 0).listen(), [""; 0], "a late word of the older generation");
    assert_eq!(rig.identity(9, 1).frame(5, fresh, 0).listen(), ["node_restarted"]);
    assert_eq!(rig.node.since(), MonoTime(5 * S));
    assert_eq!((rig.node.said().incarnation, rig.node.said().generation), (9, 1));
    assert_eq!(rig.identity(8, 5).frame(6, fresh, 0).listen(), [""; 0]);
    assert_eq!(rig.node.said().incarnation, 9, "nothing older outlives a newer incarnation");
}

#[test]
fn left_stays_left_until_a_word_without_the_flags() {
    let mut rig = Rig::new();
    let fresh = Some(Duration::ZERO);
    rig.identity(7, 1).frame(2, fresh, 0).listen();
    assert_eq!(rig.frame(3, fresh, frame::FLAG_LEAVING).listen(), ["node_left"]);
    assert_eq!(rig.frame(4, fresh, frame::FLAG_LEAVING).listen(), [""; 0]);
    let stopped = frame::FLAG_LEAVING | frame::FLAG_STOPPED;
    assert_eq!(rig.frame(5, None, stopped).listen(), ["node_left"], "stopped is more than leaving");
    assert_eq!(rig.frame(6, None, stopped).listen(), [""; 0], "and is neither stalled nor hung");
    assert_eq!(rig.node.verdict(), Verdict::Left);
    assert_eq!(rig.frame(7, fresh, 0).listen(), ["node_up"]);
    assert_eq!(rig.frame(8, fresh, frame::FLAG_FENCED).listen(), ["node_left"]);
    assert_eq!(rig.identity(8, 1).frame(9, fresh, 0).listen(), ["node_restarted", "node_up"]);
}

#[test]
fn whoever_leaves_without_a_controller_was_given_up() {
    let fresh = Some(Duration::ZERO);
    let (leaving, stopped) = (frame::FLAG_LEAVING, frame::FLAG_LEAVING | frame::FLAG_STOPPED);
    for (age, flags, gave_up) in [
        (fresh, leaving, false),
        (fresh, stopped, false),
        (Some(Duration::from_secs(3_600)), stopped, false),
        (None, leaving, true),
        (None, stopped, true),
        (None, frame::FLAG_FENCED, false),
        (None, 0, false),
    ] {
        let mut rig = Rig::new();
        rig.identity(7, 1).frame(2, fresh, frame::FLAG_MEMBER).listen();
        assert!(!rig.node.said().gave_up);
        rig.frame(3, age, flags).listen();
        assert_eq!(rig.node.said().gave_up, gave_up, "{age:?} {flags:#x}");
        let told = rig.node.reason().contains("gave up");
        assert_eq!((told, rig.node.verdict() == Verdict::Hung), (gave_up, flags == 0), "{}", rig.node.reason());
    }
    assert!(!Rig::new().node.said().gave_up, "nothing was heard of it");
}

#[test]
fn records_from_before_the_start_are_no_news() {
    let mut rig = Rig::new();
    assert_eq!(rig.identity(7, 1).frame(0, None, frame::FLAG_LEAVING).listen(), [""; 0]);
    rig.tick.peer_dynamic_ns = S - 1;
    rig.tick.heard_ns = S - 1;
    assert_eq!(rig.listen(), [""; 0]);
    assert_eq!((rig.node.verdict(), rig.node.was_heard()), (Verdict::Unknown, false));
}

#[test]
fn an_older_incarnation_on_another_path_is_neither_life_nor_a_word_of_the_newest() {
    let stopped = frame::dynamic(Kind::Echo, 0, 0, frame::FLAG_STOPPED);
    let old =
        Tick::<u64> { peer_incarnation: 7, peer_dynamic: stopped, peer_dynamic_ns: 9, heard_ns: 9, ..Tick::default() };
    let new = Tick::<u64> { peer_incarnation: 8, peer_dynamic_ns: 6, heard_ns: 5, ..Tick::default() };
    let never = Tick::<u64>::default();
    for ticks in [[&old, &new, &never], [&never, &new, &old], [&new, &never, &old]] {
        let mut said = Said::default();
        ticks.into_iter().for_each(|tick| said.add(tick));
        assert_eq!((said.incarnation, said.at, said.heard, said.left()), (8, 6, 5, false));
    }
}

#[test]
fn a_newer_incarnation_is_taken_though_an_older_one_spoke_later() {
    let mut rig = Rig::new();
    let fresh = Some(Duration::ZERO);
    rig.identity(7, 1).frame(5, fresh, 0).listen();
    // The newer one was heard first, by a path whose tick is looked at only now.
    assert_eq!(rig.identity(8, 1).frame(4, fresh, 0).listen(), ["node_restarted"]);
    assert_eq!(rig.node.said().incarnation, 8);
    assert_eq!(rig.identity(7, 1).frame(9, fresh, frame::FLAG_STOPPED).listen(), [""; 0]);
    assert_eq!((rig.node.verdict(), rig.node.heard()), (Verdict::Up, MonoTime(5 * S)), "no life of the newer one");
}

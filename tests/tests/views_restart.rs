//! Nodes that leave, restart and come back, one after another and at random: the others go on, lose no heartbeat and need
//! no restart; and one that is killed again and again is out in the end.

use heartbeat_tests::lab::crew::{Crew, Mark};
use heartbeat_tests::lab::play::number;
use heartbeat_tests::lab::timely::{DELAY, DETECTION, VIEW, noticed};
use heartbeat_tests::lab::views::{FORMING, Stands, long_rounds, pause_at_random, rounds};
use heartbeat_tests::lab::wait::{root_or_skip, wait_every};
use heartbeat_tests::lab::{Options, Probes, Timely, monotonic_ns};
use serde_json::Value;
use std::time::Duration;

const C: usize = 2;

fn leaves(crew: &mut Crew, node: usize) {
    let ended = crew.take(node).terminate(Duration::from_secs(20)).unwrap();
    assert!(ended.success(), "{ended}");
}

/// Between two that stay nothing was lost since, and nothing said of their paths.
struct Quiet {
    nodes: [usize; 2],
    probes: Probes,
    mark: Mark,
}

impl Quiet {
    fn begin(crew: &Crew, nodes: [usize; 2]) -> Self {
        Self { nodes, probes: Probes::between(crew, nodes).unwrap(), mark: crew.mark().unwrap() }
    }

    fn check(&self, crew: &Crew) {
        let [one, other] = self.nodes;
        assert_eq!(self.probes.lost(crew).unwrap(), 0, "probes between {one} and {other} were lost");
        for (by, about) in [(one, other), (other, one)] {
            let of_paths = |event: &Value| {
                event["event"].as_str().is_some_and(|event| event.starts_with("path_"))
                    && event["node"] == crew.name(about)
            };
            let said: Vec<Value> = crew.since(&self.mark, by).unwrap().into_iter().filter(of_paths).collect();
            assert!(said.is_empty(), "{said:?}");
        }
    }
}

/// Two round trips between nodes of a lab are microseconds, and what userspace takes for its turns is far more: of these the
/// benchmark `leave` tells, over ways that are long. What can be told here is that nothing waits. Who leaves says so at
/// once, and each of the others looks twice in a delay; all that follows is over before a detection time would be.
#[test]
fn fault_66_who_leaves_is_out_without_a_verdict_and_without_a_fence() {
    let name = "fault_66_who_leaves_is_out_without_a_verdict_and_without_a_fence";
    if !root_or_skip(name) {
        return;
    }
    let (count, mut random) = rounds(name, 200);
    let (mut crew, sink) = Crew::formed(3).unwrap();
    let mut known = Timely::new("asked to leave, until all others know it", DELAY * 2);
    let mut gone = Timely::new("asked to leave, until it is in no view", DETECTION);
    for _ in 0..count {
        let node = random.below(3) as usize;
        let others: Vec<usize> = (0..3).filter(|other| *other != node).collect();
        let (before, mark) = (crew.stands(node).unwrap().view, crew.mark().unwrap());
        let old = crew.incarnation(node).unwrap();
        let asked = monotonic_ns();
        leaves(&mut crew, node);
        // It went only after the view without it was decided, so the others need no second look.
        for by in &others {
            let stands = crew.await_stands(*by, "to be without it", |stands| stands.view > before).unwrap();
            assert_eq!((stands.members.len(), stands.view), (2, before.next().unwrap()), "{stands:?}");
        }
        let view = crew.await_view(&others).unwrap();
        let told = others.iter().map(|by| crew.await_said_of(&mark, *by, "node_left", node).unwrap());
        known.add(asked, told.map(|event| noticed(&event).unwrap()).max().unwrap()).unwrap();
        gone.add(asked, crew.all_installed(&mark, &others, view).unwrap()).unwrap();
        for by in &others {
            let said = crew.since(&mark, *by).unwrap();
            let bad = ["node_down", "fence_sent", "quorum_lost", "node_removed", "isolated"];
            let bad: Vec<&Value> =
                said.iter().filter(|event| bad.contains(&event["event"].as_str().unwrap())).collect();
            assert!(bad.is_empty(), "{bad:?}");
            let left = said.iter().find(|event| event["event"] == "node_left_view").expect("it is told");
            assert_eq!((&left["node"], &left["handed_over"]), (&crew.name(node).into(), &true.into()), "{left}");
        }
        sink.acts().gave_way(&[node], &others, view).unwrap();
        crew.start_at_once(node).unwrap();
        crew.await_view(&[0, 1, 2]).unwrap();
        assert!(crew.incarnation(node).unwrap() > old);
    }
    known.judge().unwrap();
    gone.judge().unwrap();
    crew.audit(&sink).unwrap();
}

#[test]
fn fault_68_rolling_restarts_cost_the_others_no_heartbeat_and_no_quorum() {
    let name = "fault_68_rolling_restarts_cost_the_others_no_heartbeat_and_no_quorum";
    if !root_or_skip(name) {
        return;
    }
    let (count, _) = rounds(name, 100);
    let (mut crew, sink) = Crew::formed(3).unwrap();
    for round in 0..count {
        let node = (round % 3) as usize;
        let others = [(node + 1) % 3, (node + 2) % 3];
        let (quiet, from) = (Quiet::begin(&crew, others), monotonic_ns());
        // By turns a clean restart of the daemon and one of the machine without a word.
        if round % 2 == 0 {
            leaves(&mut crew, node);
        } else {
            crew.machine_dies(node, &sink).unwrap();
            crew.lab.heal().unwrap();
        }
        crew.start_at_once(node).unwrap();
        crew.await_view(&[0, 1, 2]).unwrap();
        quiet.check(&crew);
        let (acts, to) = (sink.acts(), monotonic_ns());
        for other in &others {
            let breaks: Vec<_> = acts.breaks_of(*other, from, to).collect();
            assert!(breaks.is_empty(), "node {other} lost its quorum: {breaks:?}");
            assert!(crew.said(&quiet.mark, *other, "started").unwrap().is_empty(), "no survivor restarts");
        }
    }
    crew.audit(&sink).unwrap();
}

/// Says whether what runs is a majority of the votes of the newest view that somebody holds.
fn majority_runs(crew: &Crew, running: &[usize]) -> (bool, Value) {
    let shown: Vec<Value> = running
        .iter()
        .filter_map(|node| {
            let shown = crew.daemon(*node).ctl(&["--json", "quorum"]).ok()?;
            serde_json::from_slice(&shown.stdout).ok()
        })
        .collect();
    let order = |quorum: &&Value| (quorum["view"]["force"].as_u64(), quorum["view"]["number"].as_u64());
    let Some(newest) = shown.iter().max_by_key(order) else { return (false, Value::Null) };
    let names: Vec<&str> = running.iter().map(|node| crew.name(*node)).collect();
    let votes = newest["votes"].as_array().cloned().unwrap_or_default();
    let there = votes.iter().filter(|vote| names.contains(&vote["holder"].as_str().unwrap_or_default()));
    let weight: u64 = there.filter_map(|vote| vote["weight"].as_u64()).sum();
    (weight >= newest["votes_needed"].as_u64().unwrap_or(u64::MAX), newest.clone())
}

#[test]
fn fault_69_started_and_stopped_at_random_round_the_quorum_point_nodes_act_just_when_they_have_it() {
    let name = "fault_69_started_and_stopped_at_random_round_the_quorum_point_nodes_act_just_when_they_have_it";
    if !root_or_skip(name) {
        return;
    }
    let (count, mut random) = rounds(name, 500);
    let mut crew = Crew::idle(5).unwrap();
    // Votes that stay where they are: the quorum point is three of five.
    crew.cluster = crew.cluster.clone().with("dynamic_quorum", false);
    let sink = crew.form().unwrap();
    for _ in 0..count {
        // Between one and three things happen at once.
        for _ in 0..=random.below(3) {
            let node = random.below(5) as usize;
            match (crew.runs(node), random.below(2)) {
                (true, 0) => leaves(&mut crew, node),
                (true, _) => crew.machine_dies(node, &sink).map(drop).unwrap(),
                (false, _) => {
                    crew.lab
                        .repair(
                            &crew
                                .lab
                                .ports_of(node)
                                .into_iter()
                                .map(|port| {
                                    heartbeat_tests::lab::Fault::Cut(port, heartbeat_tests::lab::Direction::Both)
                                })
                                .collect::<Vec<_>>(),
                        )
                        .unwrap();
                    crew.forget_exits(node).unwrap();
                    crew.launch(node, &Options::default()).unwrap();
                    crew.wait_ready(node, Duration::from_secs(10)).unwrap();
                }
            }
            pause_at_random(&mut random, Duration::from_millis(300));
        }
        let what = "those that run to act if, and only if, they are a majority";
        wait_every(Duration::from_millis(100), FORMING, what, || -> anyhow::Result<()> {
            crew.tend()?;
            let running: Vec<usize> = (0..5).filter(|node| crew.runs(*node)).collect();
            let (majority, quorum) = majority_runs(&crew, &running);
            let all = running.iter().map(|node| crew.stands(*node)).collect::<anyhow::Result<Vec<Stands>>>()?;
            let names: Vec<String> = running.iter().map(|node| crew.name(*node).to_owned()).collect();
            let settled = all
                .iter()
                .all(|one| if majority { one.acts_with(&names) && one.view == all[0].view } else { !one.acting });
            anyhow::ensure!(settled, "majority {majority}: {all:?} {quorum}");
            Ok(())
        })
        .unwrap();
    }
    crew.audit(&sink).unwrap();
}

/// Starts that a service manager makes in a minute before it gives the daemon up, by the unit that is shipped.
fn starts_before_giving_up() -> usize {
    let unit = include_str!("../../packaging/heartbeatd.service");
    let burst = unit.lines().find_map(|line| line.strip_prefix("StartLimitBurst="));
    burst.expect("a start limit").parse().unwrap()
}

/// What is noted of the ends of c's runs.
fn noted_ends(crew: &Crew) -> String {
    std::fs::read_to_string(crew.cluster.state_dir(&crew.lab, C).join("exits.json")).unwrap()
}

/// Each of the starts goes on where the one before was killed: nobody is removed and nothing is interrupted. When the
/// manager gives up, what it runs then has the node removed: no hang limit is waited for, nobody judges it or fences it,
/// and nothing of it acts. That is a bad end by its own word, and its next start is a newer incarnation.
#[test]
fn fault_42_killed_again_and_again_until_its_manager_gives_up_a_node_is_out_at_once_and_that_counts() {
    let name = "fault_42_killed_again_and_again_until_its_manager_gives_up_a_node_is_out_at_once_and_that_counts";
    if !root_or_skip(name) {
        return;
    }
    let (count, _) = long_rounds(name, 50);
    let mut left = Timely::new("given up, until it is in no view", VIEW);
    for _ in 0..count {
        let (mut crew, sink) = Crew::formed(3).unwrap();
        let (view, old) = (crew.stands(0).unwrap().view, crew.incarnation(C).unwrap());
        let (mark, from) = (crew.mark().unwrap(), monotonic_ns());
        for _ in 1..starts_before_giving_up() {
            crew.take(C).kill().unwrap();
            crew.start(C, &Options::default()).unwrap();
            crew.await_stands(C, "to act on", |stands| stands.acting && stands.view == view).unwrap();
        }
        crew.acted_on(&sink, &[0, 1, C], from).unwrap();
        crew.nobody_removed(&mark).unwrap();
        assert_eq!(crew.incarnation(C).unwrap(), old);
        let given_up = monotonic_ns();
        crew.manager_gives_up(C).unwrap();
        sink.stopped(C).unwrap();
        let without = crew.await_view(&[0, 1]).unwrap();
        assert_eq!(Some(without), view.next());
        left.add(given_up, crew.all_installed(&mark, &[0, 1], without).unwrap()).unwrap();
        sink.acts().gave_way(&[C], &[0, 1], without).unwrap();
        for by in [0, 1] {
            let removed = crew.await_said_of(&mark, by, "node_removed", C).unwrap();
            assert_eq!((&removed["id"], &removed["cause"]), (&1135.into(), &"gave_up".into()), "{removed}");
            let nobody = Value::Array(Vec::new());
            assert_eq!((&removed["judges"], &removed["level"]), (&nobody, &"error".into()), "{removed}");
            for bad in ["node_down", "node_hung", "node_left_view", "fence_sent", "quorum_lost"] {
                assert!(crew.said(&mark, by, bad).unwrap().is_empty(), "{bad}");
            }
        }
        crew.start(C, &Options::default()).unwrap();
        crew.await_view(&[0, 1, 2]).unwrap();
        assert!(crew.incarnation(C).unwrap() > old);
        let ends = noted_ends(&crew);
        assert_eq!((ends.matches("\"gave_up\"").count(), ends.matches("\"died\"").count()), (1, 0), "{ends}");
        assert!(crew.said(&mark, C, "restart_backoff").unwrap().is_empty(), "the first one is waited for by nobody");
        crew.audit(&sink).unwrap();
    }
    left.judge().unwrap();
}

/// Lets c end badly and start again, what is noted of its ends left in place.
fn ends_and_returns(crew: &mut Crew, end: impl FnOnce(&mut Crew)) -> Mark {
    let mark = crew.mark().unwrap();
    end(crew);
    crew.await_view(&[0, 1]).unwrap();
    crew.lab.heal().unwrap();
    crew.start(C, &Options::default()).unwrap();
    crew.await_view(&[0, 1, 2]).unwrap();
    mark
}

#[test]
fn who_ended_badly_twice_within_the_hour_waits_before_it_asks_to_join_and_says_so() {
    let name = "who_ended_badly_twice_within_the_hour_waits_before_it_asks_to_join_and_says_so";
    if !root_or_skip(name) {
        return;
    }
    let (mut crew, sink) = Crew::formed(3).unwrap();
    let mark = ends_and_returns(&mut crew, |crew| crew.machine_dies(C, &sink).map(drop).unwrap());
    assert!(crew.said(&mark, C, "restart_backoff").unwrap().is_empty(), "a single death is waited for by nobody");
    let mark = ends_and_returns(&mut crew, |crew| crew.manager_gives_up(C).unwrap());
    let told = crew.said(&mark, C, "restart_backoff").unwrap();
    let [waits] = &told[..] else { panic!("once: {told:?}") };
    assert_eq!((&waits["id"], &waits["ends"], &waits["wait_ms"]), (&20_114.into(), &2.into(), &4000.into()), "{waits}");
    let ends = noted_ends(&crew);
    assert_eq!((ends.matches("\"died\"").count(), ends.matches("\"gave_up\"").count()), (1, 1), "{ends}");
    // The wait began a moment before it was told of.
    let told_at = number(waits, "noticed_ns").unwrap();
    for by in [0, 1] {
        let joined = number(&crew.await_said_of(&mark, by, "node_joined", C).unwrap(), "noticed_ns").unwrap();
        let after = Duration::from_nanos(joined.saturating_sub(told_at));
        assert!(after >= Duration::from_millis(3_500), "it was let in {after:?} after it said that it waits for 4 s");
    }
    crew.audit(&sink).unwrap();
}

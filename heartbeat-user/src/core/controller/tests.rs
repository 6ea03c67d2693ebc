//! Scenarios of the whole core in virtual time, and random ones.

use super::sim::{LAN, MS, START, World, settings};
use super::*;
use crate::core::event::Cause;
use crate::core::path::{ATTEMPTS, Attempt};
use crate::core::settings::PathSettings;
use heartbeat_common::tick::Tick;
use proptest::prelude::*;

fn down(world: &World, index: usize) -> (&Event, &crate::core::event::Evidence) {
    let event = world.named("node_down")[index];
    let EventBody::NodeDown { evidence, .. } = &event.body else { unreachable!("named so") };
    (event, evidence)
}

fn ms(time: MonoTime) -> u64 {
    (time.0 - START) / MS
}

#[test]
fn a_death_is_told_500_to_650_ms_after_the_last_answer_for_any_phase() {
    let (mut least, mut most) = (u64::MAX, 0);
    for (own, theirs, death) in (0..100)
        .step_by(7)
        .flat_map(|own| (0..100).step_by(13).flat_map(move |t| (0..100).step_by(11).map(move |d| (own, t, d))))
    {
        let mut world =
            World::new(settings(2, 2, LAN), |path| ((own + 37 * path as u64) % 100, (theirs + 53 * path as u64) % 100));
        world.cut(1, (1_000 + death, 1_000_000));
        world.run(2_500);
        assert_eq!(world.named("node_down").len(), 1);
        let (event, evidence) = down(&world, 0);
        assert_eq!((evidence.cause, event.at), (Cause::PeerSilent, evidence.silent_since_ns));
        assert!(evidence.paths.iter().all(|path| path.misses >= 5 && path.unsent == 0));
        let took = event.noticed.since(event.at).as_nanos() as u64;
        (least, most) = (least.min(took), most.max(took));
    }
    assert!(least >= 500 * MS && most <= 650 * MS, "{least}..{most}");
}

#[test]
fn the_burst_rides_on_the_last_paced_probe() {
    let mut world = World::new(settings(2, 1, LAN), |path| (10, 60 + path as u64));
    world.cut(1, (990, 1_000_000));
    world.run(3_000);
    // The first probe after the peer was last heard (at 960) left at 1010; four more; the last at 1410.
    let (event, evidence) = down(&world, 0);
    assert_eq!((ms(event.at), ms(event.noticed)), (960, 1_510));
    assert_eq!(event.noticed.0, START + 1_510 * MS, "to the nanosecond");
    assert_eq!(ms(evidence.burst_ns), 1_410);
    assert_eq!(ms(evidence.paths[0].last_departure_ns), 1_510);
    let ladder: Vec<(&str, u64)> = world.events.iter().skip(2).map(|event| (event.name(), ms(event.at))).collect();
    assert_eq!(ladder, [("path_lost", 1_210), ("path_unreachable", 1_410), ("path_failed", 1_510), ("node_down", 960)]);
}

#[test]
fn a_pacer_that_catches_up_makes_no_verdict_earlier() {
    // A late probe leaves right after the peer was heard, and the four that follow are on time: their times are over
    // before the detection time is. That nobody is accused within it is checked with each accusation.
    for death in 1_000..1_500 {
        let mut world = World::new(settings(1, 1, LAN), |_| (10, 57));
        world.jitter = vec![48 * MS, 0, 49 * MS, 0, 0];
        world.cut(1, (death, 9_000));
        world.run(2_500);
        let (event, evidence) = down(&world, 0);
        let silence = event.noticed.since(evidence.silent_since_ns).as_millis();
        assert!((500..=700).contains(&silence), "{death}: {silence}");
    }
}

#[test]
fn loss_shorter_than_the_threshold_is_never_a_death() {
    for (from, length) in (0..100).step_by(9).flat_map(|from| [150, 250, 399].map(|length| (from, length))) {
        let mut world = World::new(settings(2, 2, LAN), |path| (10 + path as u64, 60));
        for n in 0..10 {
            let at = 1_000 + from + n * 700;
            world.cut(1, (at, at + length));
        }
        world.run(9_000);
        assert_eq!(world.named("node_down").len(), 0, "{from} {length}");
        assert!(length < 250 || !world.named("path_restored").is_empty());
    }
}

#[test]
fn one_network_cut_climbs_the_ladder_and_takes_nobody_down() {
    let mut world = World::new(settings(2, 2, LAN), |path| (10 * path as u64, 60));
    world.wires[0].cut.push((1_000, 3_000));
    world.run(4_000);
    let told = world.told();
    let expected = ["path_lost n1", "path_unreachable n1", "path_failed n1", "path_restored n1", "path_up n1"];
    assert_eq!(told[2..], expected);
    let EventBody::PathFailed { location, .. } = world.named("path_failed")[0].body else { unreachable!() };
    assert_eq!(location, FailLocation::PeerInterface);
}

#[test]
fn a_stopped_observer_accuses_no_live_peer_and_dates_the_dead_one_right() {
    for death in (2_000..7_500).step_by(310) {
        let mut world = World::new(settings(2, 2, LAN), |path| (11 * path as u64, 60));
        world.stopped.push((2_000, 7_000));
        world.cut(1, (death, 1_000_000));
        world.run(10_000);
        let downs: Vec<_> = world.told().into_iter().filter(|line| line.starts_with("node_down")).collect();
        assert_eq!(downs, ["node_down n1"], "death at {death}");
        let (event, evidence) = down(&world, 0);
        assert!(ms(event.at) + 100 >= death && ms(event.at) <= death, "dated {} for {death}", ms(event.at));
        assert!(ms(event.noticed) <= 7_000.max(death) + 650, "hidden until {}", ms(event.noticed));
        assert!(death > 6_500 || evidence.own_lateness_us > 4_900_000);
        assert!(!world.named("local_lateness").is_empty());
    }
}

#[test]
fn a_stopped_decider_finds_the_misses_of_a_pacer_that_ran_and_asks_once_more() {
    let mut world = World::new(settings(2, 2, LAN), |path| (11 * path as u64, 60));
    world.decider_stopped.push((2_000, 7_000));
    world.cut(1, (3_000, 1_000_000));
    world.run(9_000);
    assert_eq!(world.named("node_down").len(), 1);
    let (event, evidence) = down(&world, 0);
    assert!((7_100..=7_250).contains(&ms(event.noticed)), "{}", ms(event.noticed));
    assert!(ms(evidence.burst_ns) >= 7_000);
    assert_eq!(evidence.silent_since_ns, event.at);
}

#[test]
fn an_observer_that_is_always_late_still_finds_a_death() {
    for sloth in [30, 90, 140] {
        let mut world = World::new(settings(2, 1, LAN), |_| (10, 60));
        world.sloth = sloth * MS;
        world.cut(1, (2_000, 1_000_000));
        world.run(6_000);
        assert_eq!(world.named("node_down").len(), 1, "{sloth}");
        let hidden = ms(down(&world, 0).0.noticed) - 2_000;
        assert!(hidden <= 600 + 5 * sloth + 500, "{sloth}: {hidden}");
        let lateness = world.named("local_lateness").len();
        assert!((5..=7).contains(&lateness), "one a second, not {lateness}");
    }
}

#[test]
fn settings_that_differ_for_five_seconds_are_told_once_and_their_end_too() {
    const HASH: usize = heartbeat_common::frame::word::SETTINGS - heartbeat_common::frame::word::STANDING;
    let mut world = World::new(settings(2, 2, LAN), |path| (11 * path as u64, 60));
    let say = |world: &mut World, network: usize, hash: u64| {
        // The second peer's paths come last.
        let tick = &mut world.wires[2 + network].tick;
        (tick.standing[0], tick.standing[HASH]) = (tick.peer_incarnation, hash);
    };
    let told = |world: &World| -> Vec<String> {
        world.told().into_iter().filter(|line| line.starts_with("settings")).collect()
    };
    let agree = |world: &World| world.core.nodes().map(|(_, node)| node.settings_agree()).collect::<Vec<_>>();
    world.run(1_000);
    assert_eq!(agree(&world), [None, None], "nobody said");
    (0..2).for_each(|network| say(&mut world, network, 0x5e8));
    world.run(5_900);
    assert_eq!((told(&world), agree(&world)), (vec![], vec![None, Some(false)]));
    world.run(6_200);
    assert_eq!(told(&world), ["settings_differ n2"]);
    let event = world.named("settings_differ")[0];
    assert!(event.noticed.since(event.at) >= Duration::from_secs(5) && ms(event.at) < 1_200, "{event:?}");
    assert!(event.to_string().contains("00000000000005e8"), "{event}");
    world.run(30_000);
    assert_eq!(told(&world).len(), 1);
    // What this node runs with counts as much: it is reloaded with what the peer has.
    let mut fresh = world.core.settings().clone();
    fresh.hash = 0x5e8;
    world.core.reconfigure(fresh, MonoTime(world.now));
    world.run(31_000);
    assert_eq!(told(&world), ["settings_differ n2", "settings_agree n2"]);
    assert_eq!(agree(&world), [None, Some(true)]);
    world.run(40_000);
    assert_eq!(told(&world).len(), 2);
}

#[test]
fn a_silent_peer_is_not_accused_of_its_old_settings() {
    const HASH: usize = heartbeat_common::frame::word::SETTINGS - heartbeat_common::frame::word::STANDING;
    let mut world = World::new(settings(2, 1, LAN), |_| (10, 60));
    let tick = &mut world.wires[0].tick;
    (tick.standing[0], tick.standing[HASH]) = (tick.peer_incarnation, 0x5e8);
    world.cut(1, (2_000, 20_000));
    world.run(15_000);
    assert_eq!(world.named("node_down").len(), 1);
    assert_eq!(world.named("settings_differ").len(), 0);
    world.run(26_000);
    assert_eq!(world.named("settings_differ").len(), 1, "it is up again, and has them still");
}

#[test]
fn being_cut_off_is_said_before_anybody_is_called_down() {
    let mut world = World::new(settings(3, 2, LAN), |path| (17 * path as u64 % 100, 41 * path as u64 % 100));
    for node in 1..=3 {
        world.cut(node, (2_000, 5_000));
    }
    world.run(6_000);
    let told = world.told();
    let nodes: Vec<_> = told.iter().filter(|line| !line.starts_with("path")).skip(3).map(String::as_str).collect();
    assert_eq!(nodes[0], "isolated");
    assert_eq!(nodes[1..4].iter().filter(|line| line.starts_with("node_down")).count(), 3, "{nodes:?}");
    assert_eq!(nodes[4], "isolation_ended");
    assert_eq!(nodes[5..].iter().filter(|line| line.starts_with("node_up")).count(), 3);
    assert!((0..3).all(|n| down(&world, n).1.cause == Cause::Isolated));
    let EventBody::NodeUp { silent_from_ns: Some(from), silent_to_ns: Some(to), .. } = world.named("node_up")[3].body
    else {
        panic!("the silence is missing")
    };
    assert!(ms(from) <= 2_000 && ms(to) >= 5_000);
}

#[test]
fn probes_that_cannot_leave_are_not_blamed_on_the_peer() {
    let mut world = World::new(settings(2, 1, LAN), |_| (10, 60));
    world.wires[0].unresolved.push((2_000, 1_000_000));
    world.run(4_000);
    assert_eq!(world.named("node_down").len(), 0, "the peer's own probes prove its life");
    world.cut(1, (4_000, 1_000_000));
    world.run(6_000);
    let (_, evidence) = down(&world, 0);
    assert_eq!(evidence.cause, Cause::CannotSend);
    assert_eq!(evidence.paths[0].misses, 0);
}

#[test]
fn a_peer_never_heard_is_unknown_for_a_detection_time() {
    let mut world = World::new(settings(2, 1, LAN), |_| (10, 60));
    world.cut(1, (0, 1_000_000));
    world.run(499);
    assert_eq!(world.core.nodes().next().unwrap().1.verdict(), Verdict::Unknown);
    world.run(2_000);
    let (event, evidence) = down(&world, 0);
    assert!(evidence.never_heard && (500..=650).contains(&ms(event.noticed)));
    assert_eq!(world.named("isolated").len(), 0);
}

#[test]
fn a_lost_interface_fails_its_path_at_once_and_its_peer_in_time() {
    let mut world = World::new(settings(2, 1, LAN), |_| (10, 60));
    world.run(2_000);
    world.cut(1, (2_000, 1_000_000));
    world.wires[0].usable = false;
    world.run(4_000);
    let EventBody::PathFailed { location, .. } = world.named("path_failed")[0].body else { unreachable!() };
    assert_eq!(location, FailLocation::OwnInterface);
    assert!(ms(world.named("path_failed")[0].noticed) <= 2_050);
    let (event, evidence) = down(&world, 0);
    assert_eq!(evidence.cause, Cause::CannotSend);
    assert!((2_500..=2_650).contains(&ms(event.noticed)), "{}", ms(event.noticed));
}

#[test]
fn a_node_that_cannot_ask_accuses_nobody_and_does_not_call_itself_cut_off() {
    let mut world = World::new(settings(2, 1, LAN), |_| (10, 60));
    world.run(2_000);
    world.wires.iter_mut().for_each(|wire| wire.mute = true);
    // What a peer asks is heard; then both peers ask nothing any more, for whatever reason.
    world.run(4_000);
    world.cut(1, (4_000, 1_000_000));
    world.cut(2, (4_000, 1_000_000));
    world.run(9_000);
    assert_eq!((world.named("node_down").len(), world.named("isolated").len()), (0, 0), "{:?}", world.told());
    world.wires.iter_mut().for_each(|wire| wire.mute = false);
    world.run(11_000);
    assert_eq!(world.named("node_down").len(), 2, "asked at last, and silent");
}

#[test]
fn a_mute_path_holds_up_a_verdict_only_while_it_hears_the_peer() {
    let mut world = World::new(settings(1, 2, LAN), |_| (10, 60));
    world.run(2_000);
    world.wires[0].mute = true;
    world.wires[1].cut.push((2_000, 1_000_000));
    world.run(4_000);
    assert_eq!(world.named("node_down").len(), 0, "its probes are heard");
    world.cut(1, (4_000, 1_000_000));
    world.run(6_000);
    let (event, _) = down(&world, 0);
    assert!((4_490..=4_650).contains(&ms(event.noticed)), "{}", ms(event.noticed));
}

#[test]
fn nobody_is_accused_where_one_path_is_mute_and_the_other_has_no_carrier() {
    let mut world = World::new(settings(1, 2, LAN), |_| (10, 60));
    world.run(2_000);
    (world.wires[0].mute, world.wires[1].usable) = (true, false);
    world.cut(1, (2_000, 1_000_000));
    world.run(9_000);
    assert_eq!((world.named("node_down").len(), world.named("isolated").len()), (0, 0), "{:?}", world.told());
    assert!(world.core.reason(NodeId(1)).contains("can be asked on no path"), "{}", world.core.reason(NodeId(1)));
    world.wires[0].mute = false;
    world.run(11_000);
    assert_eq!(world.named("node_down").len(), 1, "asked at last, and silent");
}

#[test]
fn no_verdict_comes_of_changed_settings() {
    let slow = PathSettings { delay: Duration::from_secs(1), threshold: 10, ..LAN };
    for (before, after) in [(LAN, slow), (slow, LAN), (LAN, PathSettings { threshold: 2, ..LAN })] {
        let mut world = World::new(settings(2, 2, before), |path| (10 + path as u64, 60));
        let half = before.detection_time().as_millis() as u64 * 3 / 5;
        world.cut(1, (3_000, 3_000 + half));
        world.run(3_000 + half - 1);
        let now = MonoTime(world.now);
        world.core.reconfigure(settings(2, 2, after), now);
        world.run(3_000 + half);
        assert_eq!(world.named("node_down").len(), 0, "{before:?} {after:?}");
        assert!(world.core.nodes().all(|(_, node)| node.verdict() == Verdict::Up));
    }
}

#[test]
fn a_newer_incarnation_of_this_node_is_asked_for_once_a_value() {
    let mut core = Controller::new(settings(1, 1, LAN), MonoTime(START));
    let attempts = [Attempt::default(); ATTEMPTS];
    let ask = |core: &mut Controller, stale_newest| {
        let tick = Tick { stale_newest, ..Tick::default() };
        core.observe(MonoTime(START), &[PathInput::fresh(&tick, &attempts)]);
        core.poll_command()
    };
    assert_eq!(ask(&mut core, 49), None);
    assert_eq!(ask(&mut core, 50), Some(Command::Reincarnate { above: 50 }));
    assert_eq!(ask(&mut core, 50), None);
    assert_eq!(ask(&mut core, 60), Some(Command::Reincarnate { above: 60 }));
    core.handle(Input::Incarnation { own: 61 }, MonoTime(START));
    assert_eq!(ask(&mut core, 60), None);
    assert_eq!(ask(&mut core, 61), Some(Command::Reincarnate { above: 61 }));
}

#[test]
fn two_nodes_of_one_identity_do_not_take_turns() {
    let mut core = Controller::new(settings(1, 1, LAN), MonoTime(START));
    let attempts = [Attempt::default(); ATTEMPTS];
    let mut look = |second: u64, own: u64, stale_newest, probes| {
        core.handle(Input::Incarnation { own }, MonoTime(START));
        let tick = Tick { stale_newest, probes, ..Tick::default() };
        let input = PathInput::fresh(&tick, &attempts);
        core.observe(MonoTime(START + second * 1_000 * MS), &[input]);
        let told = std::iter::from_fn(|| core.poll_event()).filter(|event| event.name() == "second_address").count();
        (core.poll_command(), told)
    };
    // Learnt from a peer that never knew this incarnation: that is this node's own past.
    assert_eq!(look(1, 50, 60, 0), (Some(Command::Reincarnate { above: 60 }), 0));
    // The peer has asked 61 by name, and now knows 62.
    assert_eq!(look(2, 61, 0, 9), (None, 0));
    assert_eq!(look(3, 61, 62, 9), (Some(Command::Reincarnate { above: 62 }), 1), "it may be a snapshot's past");
    assert_eq!(look(4, 63, 64, 9), (None, 1), "twice within a minute is somebody else");
    assert_eq!(look(5, 63, 64, 9), (None, 0), "told once");
    assert_eq!(look(62, 63, 65, 0), (None, 0), "nor by one that did not ask by name");
    assert_eq!(look(63, 63, 65, 9), (Some(Command::Reincarnate { above: 65 }), 1), "whoever it was may be gone");
}

#[test]
fn what_a_peer_knows_by_messages_alone_is_outrun_too() {
    let mut core = Controller::new(settings(1, 1, LAN), MonoTime(START));
    let mut hear = |second: u64, own: u64, newest, took| {
        let now = MonoTime(START + second * 1_000 * MS);
        core.handle(Input::Incarnation { own }, now);
        core.handle(Input::Outrun { newest, took }, now);
        core.poll_command()
    };
    assert_eq!(hear(1, 50, 50, false), None, "that is this one");
    assert_eq!(hear(1, 50, 60, false), Some(Command::Reincarnate { above: 60 }));
    assert_eq!(hear(1, 50, 60, false), None, "asked for already");
    assert_eq!(hear(2, 61, 70, false), Some(Command::Reincarnate { above: 70 }), "its own past, known to another");
    assert_eq!(hear(3, 71, 72, true), Some(Command::Reincarnate { above: 72 }), "it may be a snapshot's past");
    assert_eq!(hear(4, 73, 74, true), None, "twice within a minute is somebody else");
    assert_eq!(hear(63, 73, 74, true), Some(Command::Reincarnate { above: 74 }));
}

#[test]
fn echoes_that_do_not_arrive_step_the_path_down_once() {
    let mut core = Controller::new(settings(1, 1, LAN), MonoTime(START));
    let attempts = [Attempt::default(); ATTEMPTS];
    let mut commands = Vec::new();
    for n in 1..30 {
        let now = START + n * 100 * MS;
        let tick = Tick { heard_ns: now, echo_ns: now, echoes: n, answers: n, returned_ns: 5, ..Tick::default() };
        core.observe(MonoTime(now), &[PathInput::fresh(&tick, &attempts)]);
        commands.extend(std::iter::from_fn(|| core.poll_command()).map(|command| (n, command)));
    }
    assert_eq!(commands, [(6, Command::StepDown { path: PathId(0) })]);
    let lost = std::iter::from_fn(|| core.poll_event()).filter(|event| event.id() == 20_013).count();
    assert_eq!(lost, 1);
}

#[test]
fn after_a_change_of_settings_every_path_is_judged_whether_or_not_its_facts_changed() {
    let mut core = Controller::new(settings(1, 1, LAN), MonoTime(START));
    let (quiet, attempts) = (Tick::default(), [Attempt::default(); ATTEMPTS]);
    let unchanged = |tick| PathInput { changed: false, ..PathInput::fresh(tick, &attempts) };
    core.observe(MonoTime(START), &[unchanged(&quiet)]);
    core.reconfigure(settings(1, 2, LAN), MonoTime(START));
    let heard = Tick { heard_ns: START + 1, peer_incarnation: 7, ..Tick::default() };
    core.observe(MonoTime(START + 2), &[unchanged(&heard); 2]);
    assert!(core.paths().all(|(_, _, path)| path.state() == PathState::Up));
    assert!(core.nodes().all(|(_, node)| node.verdict() == Verdict::Up));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Random cuts, unresolved neighbours, pauses and lateness: the world's own checks hold at every step, and once
    /// all is well again, every peer is Up.
    #[test]
    fn random_worlds(
        phases in prop::collection::vec((0u64..100, 0u64..100), 4),
        cuts in prop::collection::vec((0usize..4, 0u64..6_000, 1u64..1_500), 0..10),
        unresolved in prop::collection::vec((0usize..4, 0u64..6_000, 1u64..1_500), 0..4),
        stopped in prop::collection::vec((0u64..6_000, 1u64..1_500), 0..4),
        decider in prop::collection::vec((0u64..6_000, 1u64..1_500), 0..4),
        sloth in 0u64..60,
        jitter in prop::collection::vec(0u64..150, 1..6),
    ) {
        let mut world = World::new(settings(2, 2, LAN), |path| phases[path]);
        world.sloth = sloth * MS;
        world.jitter = jitter.iter().map(|late| late * MS).collect();
        for (path, from, length) in cuts {
            world.wires[path].cut.push((from, from + length));
        }
        for (path, from, length) in unresolved {
            world.wires[path].unresolved.push((from, from + length));
        }
        world.stopped = stopped.iter().map(|(from, length)| (*from, from + length)).collect();
        world.decider_stopped = decider.iter().map(|(from, length)| (*from, from + length)).collect();
        world.run(9_000);
        prop_assert!(world.core.nodes().all(|(_, node)| node.verdict() == Verdict::Up));
        prop_assert!(world.core.paths().all(|(_, _, path)| path.state() == PathState::Up));
        prop_assert!(world.core.isolated_from().is_none());
    }

    /// A death among random pauses of this node is found within its lateness and a detection time more.
    #[test]
    fn no_death_is_hidden(
        phases in prop::collection::vec((0u64..100, 0u64..100), 4),
        stopped in prop::collection::vec((0u64..4_000, 1u64..1_500), 0..4),
        death in 500u64..4_000,
        sloth in 0u64..60,
    ) {
        let mut world = World::new(settings(2, 2, LAN), |path| phases[path]);
        world.sloth = sloth * MS;
        world.stopped = stopped.iter().map(|(from, length)| (*from, from + length)).collect();
        world.cut(1, (death, 1_000_000));
        world.run(13_000);
        prop_assert_eq!(world.named("node_down").len(), 1);
        let (event, _) = down(&world, 0);
        let lateness: u64 = stopped.iter().filter(|(from, length)| from + length > death).map(|stop| stop.1).sum();
        prop_assert!(ms(event.noticed) <= death + 600 + lateness + 5 * sloth + 500, "{} {}", death, ms(event.noticed));
    }

    /// No panic and no endless wake, whatever the ticks hold and whichever order the reports come in.
    #[test]
    fn garbage_never_panics(ops in prop::collection::vec(
        (0u8..6, any::<u64>(), any::<u64>(), prop::collection::vec(any::<u64>(), 12)), 1..40,
    )) {
        let mut core = Controller::new(settings(2, 2, LAN), MonoTime(START));
        for (op, a, b, words) in ops {
            match op {
                0 => core.handle(Input::BurstSent { node: NodeId(a as u16 % 3), sent: MonoTime(b) }, MonoTime(a)),
                1 => {
                    let source = if a & 1 == 0 { LateSource::Pacer } else { LateSource::Decider };
                    core.handle(Input::Late { source, due: MonoTime(a), ran: MonoTime(b) }, MonoTime(b));
                }
                2 => core.reconfigure(settings(1 + a as u16 % 3, 1 + b as u16 % 2, LAN), MonoTime(a)),
                _ => {
                    let mut tick = Tick {
                        heard_ns: words[0], peer_incarnation: words[1], echo_ns: words[2], returned_ns: words[3],
                        peer_dynamic: words[4], peer_dynamic_ns: words[5], stale_newest: words[6],
                        answers: words[7], echoes: words[8], ..Tick::default()
                    };
                    tick.standing[0] = words[1];
                    tick.standing[1] = words[9];
                    tick.departed[words[10] as usize & 7].sequence = words[10];
                    tick.departed[words[10] as usize & 7].ns = words[11];
                    let attempts = [Attempt { sequence: words[11], ns: words[10] }; ATTEMPTS];
                    let input = PathInput { tick: &tick, attempts: &attempts, usable: a & 1 == 0, mute: a & 2 == 2, answers_in_kernel: b & 1 == 0, changed: true };
                    core.observe(MonoTime(a), &[input; 5]);
                }
            }
            let _ = core.poll_timeout();
            while let Some(event) = core.poll_event() {
                prop_assert!(serde_json::to_string(&event).unwrap().contains(event.name()));
            }
            while core.poll_command().is_some() {}
        }
    }
}

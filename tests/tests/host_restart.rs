//! Ends and starts of real daemons: killed, marked left, handed over, told to stop, their state lost. It looks at what
//! the peers say of them and at what is left on the node.

use heartbeat_tests::lab::crew::{Crew, Mark, PATIENCE, heartbeatd, programs};
use heartbeat_tests::lab::wait::root_or_skip;
use heartbeat_tests::lab::{Cluster, Lab, Options, Spec, wait_for};
use std::path::Path;
use std::time::Duration;

const A: usize = 0;
const B: usize = 1;

/// Two nodes on two networks that show each other up; `settings` are laid over the `lan` profile.
fn pair(settings: &[(&str, u64)]) -> Crew {
    Crew::pair(2, settings, &Options::default()).unwrap()
}

fn incarnation(crew: &Crew) -> u64 {
    crew.peer(A, B).unwrap()["incarnation"].as_u64().unwrap()
}

fn terminate(crew: &mut Crew, node: usize) {
    let status = crew.take(node).terminate(PATIENCE).unwrap();
    assert!(status.success(), "{status}");
}

fn names(crew: &Crew, mark: &Mark) -> Vec<String> {
    crew.verdicts(mark).unwrap().into_iter().filter(|(by, ..)| by == "a").map(|(_, name, _)| name).collect()
}

#[test]
fn fault_41_killed_and_restarted_within_the_stall_limit_is_one_event_and_no_verdict() {
    if !root_or_skip("fault_41_killed_and_restarted_within_the_stall_limit_is_one_event_and_no_verdict") {
        return;
    }
    let mut crew = pair(&[("stall_limit_ms", 5000)]);
    let (mark, before) = (crew.mark().unwrap(), incarnation(&crew));
    crew.take(B).kill().unwrap();
    crew.start(B, &Options::default()).unwrap();
    let restarted = crew.await_said(&mark, A, "controller_restarted").unwrap();
    assert_eq!(restarted["new_generation"].as_u64(), restarted["old_generation"].as_u64().map(|old| old + 1));
    crew.await_said(&mark, B, "controller_adopted").unwrap();
    crew.all_up().unwrap();
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(crew.said(&mark, A, "controller_restarted").unwrap().len(), 1);
    assert_eq!(names(&crew, &mark), Vec::<String>::new(), "no verdict");
    assert_eq!(crew.said(&mark, A, "path_lost").unwrap().len(), 0, "not one echo was missing");
    assert_eq!(incarnation(&crew), before);
}

#[test]
fn fault_41_killed_for_good_is_stalled_then_hung_then_left_when_marked() {
    if !root_or_skip("fault_41_killed_for_good_is_stalled_then_hung_then_left_when_marked") {
        return;
    }
    let mut crew = pair(&[("stall_limit_ms", 1000), ("hang_limit_s", 3)]);
    let mark = crew.mark().unwrap();
    let config = crew.daemon(B).config();
    let running = heartbeatd(&crew.lab, B, &[], &["mark-left", "--config", config.to_str().unwrap()]).unwrap();
    let text = String::from_utf8_lossy(&running.stdout);
    assert!(running.status.success() && text.contains("nothing done"), "a running daemon is not marked: {text}");
    let killed = heartbeat_tests::lab::monotonic_ns();
    crew.take(B).kill().unwrap();
    let stalled = crew.await_said(&mark, A, "node_stalled").unwrap();
    let hung = crew.await_said(&mark, A, "node_hung").unwrap();
    for (event, limit_ms) in [(&stalled, 1000), (&hung, 3000)] {
        let after_ms = event["noticed_ns"].as_u64().unwrap().saturating_sub(killed) / 1_000_000;
        assert!((limit_ms - 150..limit_ms + 600).contains(&after_ms), "after {after_ms} ms: {event}");
    }
    crew.nobody_removed(&mark).unwrap_err();
    assert_eq!(crew.said(&mark, A, "node_down").unwrap().len(), 0, "the kernel answers on");
    let marked = heartbeatd(&crew.lab, B, &[], &["mark-left", "--config", config.to_str().unwrap()]).unwrap();
    assert!(marked.status.success(), "{}", String::from_utf8_lossy(&marked.stderr));
    let left = crew.await_said(&mark, A, "node_left").unwrap();
    assert_eq!((&left["leaving"], &left["stopped"]), (&true.into(), &true.into()));
    // What was said to have stopped does not rise again: the next start is a newer incarnation.
    let before = incarnation(&crew);
    crew.start(B, &Options::default()).unwrap();
    crew.await_said(&mark, A, "node_restarted").unwrap();
    crew.all_up().unwrap();
    assert!(incarnation(&crew) > before);
}

#[test]
fn told_to_stop_a_node_leaves_and_comes_back_as_a_newer_incarnation() {
    if !root_or_skip("told_to_stop_a_node_leaves_and_comes_back_as_a_newer_incarnation") {
        return;
    }
    let mut crew = pair(&[]);
    let (mark, before) = (crew.mark().unwrap(), incarnation(&crew));
    terminate(&mut crew, B);
    let left = crew.await_said(&mark, A, "node_left").unwrap();
    assert_eq!(left["leaving"], true);
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(crew.said(&mark, A, "node_down").unwrap().len(), 0, "who left is not accused");
    crew.start(B, &Options::default()).unwrap();
    crew.await_said(&mark, A, "node_restarted").unwrap();
    crew.all_up().unwrap();
    assert!(incarnation(&crew) > before);
}

#[test]
fn after_a_clean_stop_nothing_is_left_on_the_node() {
    if !root_or_skip("after_a_clean_stop_nothing_is_left_on_the_node") {
        return;
    }
    let mut crew = pair(&[]);
    assert_eq!(programs(&crew.lab, B).unwrap(), (2, 2), "there is something to be left");
    assert!(crew.pins(B).exists());
    terminate(&mut crew, B);
    assert!(!crew.lab.pin_dir(B).join("heartbeatd").exists(), "pins are gone, and their directory");
    assert_eq!(programs(&crew.lab, B).unwrap(), (0, 0));
    let queues = crew.lab.node(B).run("tc", &["qdisc", "show"]).unwrap();
    assert!(!queues.contains("clsact"), "{queues}");
    assert!(!crew.lab.node_dir(B).join("run/control.sock").exists());
    let sockets = crew.lab.node(B).run("ss", &["-Huan"]).unwrap();
    assert!(!sockets.contains(":3343"), "{sockets}");
}

#[test]
fn a_lost_state_directory_is_made_good_by_the_peers() {
    if !root_or_skip("a_lost_state_directory_is_made_good_by_the_peers") {
        return;
    }
    // Killed, the pins are what is left.
    let mut crew = pair(&[("stall_limit_ms", 5000)]);
    wipe_and_restart(&mut crew, true);
    // Told to stop, everything is gone, disk and pins alike: it begins with a number by chance. Where that is lower
    // than what its peer knows, it has to learn so from the peer; the number known rises until it is.
    for attempt in 0.. {
        let mark = crew.mark().unwrap();
        let before = wipe_and_restart(&mut crew, false);
        let first = crew.said(&mark, B, "started").unwrap()[0]["incarnation"].as_u64().unwrap();
        let changes = crew.said(&mark, B, "incarnation_changed").unwrap();
        let outrun = |event: &serde_json::Value| event["reason"].to_string().contains("newer incarnation");
        if first <= before {
            assert!(changes.iter().any(outrun), "it learnt it from its peer: {changes:?}");
            break;
        }
        assert!(attempt < 20, "twenty numbers by chance were all higher than the last: {first} after {before}");
    }
}

/// Loses B's state directory, ends B and starts it again. Returns the incarnation before; the one after is higher.
fn wipe_and_restart(crew: &mut Crew, killed: bool) -> u64 {
    let (mark, before) = (crew.mark().unwrap(), incarnation(crew));
    std::fs::remove_dir_all(crew.lab.node_dir(B).join("state")).unwrap();
    if killed {
        crew.take(B).kill().unwrap();
    } else {
        terminate(crew, B);
    }
    crew.start(B, &Options::default()).unwrap();
    crew.await_said(&mark, A, "node_restarted").unwrap();
    crew.all_up().unwrap();
    assert!(incarnation(crew) > before, "killed: {killed}; {} after {before}", incarnation(crew));
    before
}

#[test]
fn a_first_incarnation_that_was_lost_is_never_taken_again() {
    if !root_or_skip("a_first_incarnation_that_was_lost_is_never_taken_again") {
        return;
    }
    let mut crew = pair(&[]);
    let (mark, before) = (crew.mark().unwrap(), incarnation(&crew));
    std::fs::remove_dir_all(crew.lab.node_dir(B).join("state")).unwrap();
    terminate(&mut crew, B);
    crew.start(B, &Options::default()).unwrap();
    crew.await_said(&mark, A, "node_restarted").unwrap();
    crew.all_up().unwrap();
    assert!(incarnation(&crew) > before);
}

/// (probes that left, answers) of A on all of its paths.
fn exchanged(crew: &Crew) -> (u64, u64) {
    let answer = crew.daemon(A).ask("paths").unwrap();
    let paths = answer["paths"].as_array().unwrap().clone();
    let sum = |key: &str| paths.iter().map(|path| path[key].as_u64().unwrap()).sum::<u64>();
    (sum("departed"), sum("echoes") + sum("late_echoes"))
}

/// Probes of A that were never answered: of many looks the least, since the newest probes are still on their way.
fn unanswered(crew: &Crew) -> u64 {
    let looks = (0..20).map(|_| {
        std::thread::sleep(Duration::from_millis(7));
        let (departed, answered) = exchanged(crew);
        departed.saturating_sub(answered)
    });
    looks.min().unwrap()
}

#[test]
fn a_handover_under_1000_probes_a_second_loses_no_answer() {
    if !root_or_skip("a_handover_under_1000_probes_a_second_loses_no_answer") {
        return;
    }
    // Verdicts are not what is measured: the thresholds leave them out of it.
    let lab = Lab::new(Spec::new(2, 1)).unwrap();
    let cluster = Cluster::new(&lab, "lan").with("same_subnet_delay_ms", 1).with("same_subnet_threshold", 120);
    let mut crew = Crew::new(lab, cluster.with("stall_limit_ms", 8000));
    crew.start_all(&Options::default()).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let (mark, before, incarnation_before) = (crew.mark().unwrap(), unanswered(&crew), incarnation(&crew));
    let (departed, _) = exchanged(&crew);
    let output = crew.daemon(B).ctl(&["handover"]).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    terminate(&mut crew, B);
    assert!(crew.pins(B).exists(), "the program stays");
    std::thread::sleep(Duration::from_millis(500));
    crew.start(B, &Options::default()).unwrap();
    crew.await_said(&mark, A, "controller_restarted").unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let sent = exchanged(&crew).0 - departed;
    assert!(sent > 500, "only {sent} probes in the window");
    let after = unanswered(&crew);
    assert!(after <= before, "{before} unanswered before, {after} after, of {sent} probes");
    assert_eq!(names(&crew, &mark), Vec::<String>::new());
    assert_eq!(incarnation(&crew), incarnation_before);
}

#[test]
fn detach_takes_every_program_off_and_userspace_answers() {
    if !root_or_skip("detach_takes_every_program_off_and_userspace_answers") {
        return;
    }
    let mut crew = pair(&[("stall_limit_ms", 3000), ("same_subnet_threshold", 10)]);
    let mark = crew.mark().unwrap();
    let output = crew.daemon(B).ctl(&["detach"]).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // Longer than a repair takes: what was detached stays detached.
    std::thread::sleep(Duration::from_millis(2500));
    assert!(!crew.pins(B).exists(), "no pin comes back");
    assert_eq!(programs(&crew.lab, B).unwrap(), (0, 2), "departures are still stamped");
    let modes = crew.modes(B).unwrap();
    assert!(modes.iter().all(|(_, mode, reason)| mode == "userspace" && reason.contains("detached")), "{modes:?}");
    crew.all_up().unwrap();
    crew.nobody_removed(&mark).unwrap();
    assert_eq!(crew.peer(A, B).unwrap()["responder"], "userspace");
    terminate(&mut crew, B);
    crew.start(B, &Options::default()).unwrap();
    crew.all_up().unwrap();
    assert!(crew.modes(B).unwrap().iter().all(|(_, mode, _)| mode == "native"), "the next start attaches again");
}

#[test]
fn pins_removed_between_two_runs_make_a_newer_incarnation() {
    if !root_or_skip("pins_removed_between_two_runs_make_a_newer_incarnation") {
        return;
    }
    let mut crew = pair(&[]);
    let (mark, before) = (crew.mark().unwrap(), incarnation(&crew));
    crew.take(B).kill().unwrap();
    std::fs::remove_dir_all(crew.lab.pin_dir(B).join("heartbeatd")).unwrap();
    crew.start(B, &Options::default()).unwrap();
    crew.await_said(&mark, A, "node_restarted").unwrap();
    crew.all_up().unwrap();
    assert!(incarnation(&crew) > before);
    let changed = crew.await_said(&mark, B, "incarnation_changed").unwrap();
    assert!(changed["reason"].to_string().contains("pinned program was gone"), "{changed}");
}

#[test]
fn what_is_pinned_in_a_former_pin_dir_is_off_before_the_new_incarnation_is_heard() {
    if !root_or_skip("what_is_pinned_in_a_former_pin_dir_is_off_before_the_new_incarnation_is_heard") {
        return;
    }
    let mut crew = pair(&[]);
    let (mark, before, attached) = (crew.mark().unwrap(), incarnation(&crew), programs(&crew.lab, B).unwrap());
    crew.take(B).kill().unwrap();
    let moved = format!("\"{}\"", crew.lab.pin_dir(B).join("moved").display());
    let options = Options { daemon: vec![("pin_dir".to_owned(), moved)], ..Options::default() };
    crew.start(B, &options).unwrap();
    crew.await_said(&mark, A, "node_restarted").unwrap();
    crew.all_up().unwrap();
    assert!(incarnation(&crew) > before);
    assert!(!crew.lab.pin_dir(B).join("heartbeatd").exists(), "the former pins are gone");
    assert!(crew.modes(B).unwrap().iter().all(|(_, mode, _)| mode == "native"), "and no program is in the way");
    assert_eq!(programs(&crew.lab, B).unwrap(), attached);
}

#[test]
fn another_plan_of_paths_adopts_no_ticks() {
    if !root_or_skip("another_plan_of_paths_adopts_no_ticks") {
        return;
    }
    let mut crew = pair(&[]);
    let (mark, before) = (crew.mark().unwrap(), incarnation(&crew));
    crew.take(B).kill().unwrap();
    // A third node joins the file: index n of the maps is another path now.
    let third = "[[node]]\nname = \"z\"\nid = 9\naddresses = [\"10.77.1.99\", \"10.77.2.99\"]\n";
    crew.start(B, &Options { extra: third.to_owned(), ..Options::default() }).unwrap();
    crew.await_said(&mark, A, "node_restarted").unwrap();
    crew.await_state(A, B, "up").unwrap();
    assert!(incarnation(&crew) > before);
    assert_eq!(crew.said(&mark, B, "controller_adopted").unwrap().len(), 0);
}

#[test]
fn what_a_killed_controller_left_behind_is_taken_over() {
    if !root_or_skip("what_a_killed_controller_left_behind_is_taken_over") {
        return;
    }
    let mut crew = pair(&[("stall_limit_ms", 5000)]);
    let before = programs(&crew.lab, B).unwrap();
    assert_eq!(before, (2, 2), "one of each on each network");
    for _ in 0..3 {
        crew.take(B).kill().unwrap();
        assert!(socket_file(&crew).exists(), "the socket's file is left");
        assert!(heartbeat_pinned(&crew.pins(B)), "and the pins");
        crew.start(B, &Options::default()).unwrap();
        wait_for(PATIENCE, "one program of each kind on each network", || {
            let now = programs(&crew.lab, B).unwrap();
            if now == before { Ok(()) } else { Err(format!("{now:?}")) }
        })
        .unwrap();
        crew.all_up().unwrap();
    }
    terminate(&mut crew, B);
    assert!(!crew.lab.pin_dir(B).join("heartbeatd").exists());
    assert_eq!(programs(&crew.lab, B).unwrap(), (0, 0));
}

fn socket_file(crew: &Crew) -> std::path::PathBuf {
    crew.lab.node_dir(B).join("run/control.sock")
}

fn heartbeat_pinned(pins: &Path) -> bool {
    heartbeat_common::maps::PINNED.iter().all(|name| pins.join(name).exists())
}

//! Nodes that begin: all at once after a loss of power, too few of them, with an empty disk, or broken off while they
//! start. There is one view, or none; and never a second cluster.

use heartbeat_common::maps::PINNED;
use heartbeat_tests::lab::crew::{Crew, programs};
use heartbeat_tests::lab::timely::{CONVERGENCE, noticed};
use heartbeat_tests::lab::views::{long_rounds, pause_at_random, rounds};
use heartbeat_tests::lab::wait::root_or_skip;
use heartbeat_tests::lab::{Daemon, Options, Timely, safety, wait_for};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::time::Duration;

/// Nodes that started no further apart are in one view, whatever the machine is busy with.
const TOGETHER: Duration = Duration::from_millis(300);

/// There is one view, which is one further, and all are in it and act within the time to converge. Where a busy machine
/// starts one so late that the others cannot wait for it there are two, which is seldom, and never three.
#[test]
fn fault_63_all_nodes_that_start_at_once_after_a_loss_of_power_come_up_in_one_view() {
    let name = "fault_63_all_nodes_that_start_at_once_after_a_loss_of_power_come_up_in_one_view";
    if !root_or_skip(name) {
        return;
    }
    let (count, mut random) = rounds(name, 50);
    let (mut crew, sink) = Crew::formed(3).unwrap();
    let mut formed = Timely::new("the last of all nodes started, until all are in one view in force", CONVERGENCE);
    let mut in_one = 0;
    for _ in 0..count {
        let before = crew.stands(0).unwrap().view;
        let old: Vec<u64> = (0..3).map(|node| crew.incarnation(node).unwrap()).collect();
        pause_at_random(&mut random, Duration::from_millis(200));
        crew.power_fails(&sink).unwrap();
        (0..3).for_each(|node| crew.forget_exits(node).unwrap());
        let mark = crew.mark().unwrap();
        crew.start_together(&[0, 1, 2]).unwrap();
        let view = crew.await_view(&[0, 1, 2]).unwrap();
        let started = |node| noticed(&crew.said(&mark, node, "started").unwrap()[0]).unwrap();
        let started = [0, 1, 2].map(started);
        let in_force = crew.all_told(&mark, &[0, 1, 2], "view_in_force", view).unwrap();
        formed.add(*started.iter().max().unwrap(), in_force).unwrap();
        let apart = Duration::from_nanos(started.iter().max().unwrap() - started.iter().min().unwrap());
        let views = view.number() - before.number();
        println!("{views} views of nodes that started {apart:?} apart");
        assert!(views == 1 || apart > TOGETHER && views == 2, "{views} views of nodes that started {apart:?} apart");
        in_one += u64::from(views == 1);
        assert!((0..3).all(|node| crew.incarnation(node).unwrap() > old[node]));
    }
    println!("{name}: {in_one} times in one view");
    assert!(in_one * 10 >= count * 9, "in one view {in_one} times of {count}");
    formed.judge().unwrap();
    crew.audit(&sink).unwrap();
}

#[test]
fn fault_64_started_with_too_few_a_node_waits_and_says_for_whom() {
    let name = "fault_64_started_with_too_few_a_node_waits_and_says_for_whom";
    if !root_or_skip(name) {
        return;
    }
    let (count, _) = long_rounds(name, 50);
    let (mut crew, sink) = Crew::formed(3).unwrap();
    for _ in 0..count {
        crew.power_fails(&sink).unwrap();
        let mark = crew.mark().unwrap();
        crew.start_at_once(0).unwrap();
        let waits = |stands: &heartbeat_tests::lab::views::Stands| stands.waits_for == ["b", "c"];
        let before = crew.await_stands(0, "to wait for both others", waits).unwrap().view;
        let told = crew.await_said(&mark, 0, "waits_for_votes").unwrap();
        assert_eq!((&told["votes_needed"], &told["votes_available"]), (&2.into(), &1.into()), "{told}");
        std::thread::sleep(Duration::from_secs(5));
        let stands = crew.stands_idle(0).unwrap();
        safety::ensure(stands.view == before, || format!("one of three decided alone: {stands:?}")).unwrap();
        let shown = crew.daemon(0).ctl(&["status"]).unwrap();
        let text = String::from_utf8_lossy(&shown.stdout).into_owned();
        assert!(text.contains("waits for") && text.contains('b') && text.contains('c'), "{text}");
        // With one more there is a majority, and the third is not needed.
        crew.start_at_once(1).unwrap();
        assert!(crew.await_view(&[0, 1]).unwrap() > before);
        crew.start_at_once(2).unwrap();
        crew.await_view(&[0, 1, 2]).unwrap();
    }
    crew.audit(&sink).unwrap();
}

#[test]
fn fault_65_a_node_that_starts_alone_forms_nothing_with_its_disk_or_without() {
    let name = "fault_65_a_node_that_starts_alone_forms_nothing_with_its_disk_or_without";
    if !root_or_skip(name) {
        return;
    }
    let (count, _) = long_rounds(name, 50);
    let (mut crew, sink) = Crew::formed(3).unwrap();
    for emptied in (0..count).flat_map(|_| [false, true]) {
        let before = crew.stands(0).unwrap().view;
        // The others go on, and c starts where it does not hear them.
        crew.machine_dies(2, &sink).unwrap();
        let view = crew.await_view(&[0, 1]).unwrap();
        assert!(view > before);
        if emptied {
            std::fs::remove_dir_all(crew.lab.node_dir(2).join("state")).unwrap();
        }
        crew.start_at_once(2).unwrap();
        std::thread::sleep(Duration::from_secs(4));
        let alone = crew.stands_idle(2).unwrap();
        safety::ensure(alone.view < view, || format!("one of three decided alone: {alone:?}")).unwrap();
        assert_eq!(alone.life == "no_view", emptied, "{alone:?}");
        assert_eq!(crew.await_view(&[0, 1]).unwrap(), view);
        crew.lab.heal().unwrap();
        crew.await_view(&[0, 1, 2]).unwrap();
        // A cluster is created once: who hears one that has a view is refused.
        let again = crew.daemon(2).ctl(&["init", "lab"]).unwrap();
        assert!(!again.status.success(), "{again:?}");
    }
    crew.audit(&sink).unwrap();
}

#[test]
fn an_empty_disk_that_hears_a_cluster_creates_none() {
    let name = "an_empty_disk_that_hears_a_cluster_creates_none";
    if !root_or_skip(name) {
        return;
    }
    let mut crew = Crew::idle(3).unwrap();
    crew.start_together(&[0, 1]).unwrap();
    let sink = crew.created(&[0, 1]).unwrap();
    // c's settings are others: it is heard, hears the others, and is not taken in.
    let cluster = crew.cluster.clone();
    crew.cluster = cluster.clone().with("quarantine_duration_s", 7);
    crew.start(2, &Options::default()).unwrap();
    let refused = crew.daemon(2).ctl(&["init", "lab"]).unwrap();
    assert!(!refused.status.success(), "{refused:?}");
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(text.contains("another node is heard that has a view") || text.contains("has a view already"), "{text}");
    crew.stands_idle(2).unwrap();
    crew.audit(&sink).unwrap();
}

const C: usize = 2;

/// Nodes that were started with `--prevent-quorum`, be they a majority of the votes: they form nothing, with each other or
/// with one that may, however long it takes. Where others have a majority they join, and are members as all others are.
#[test]
fn nodes_that_may_only_join_form_nothing_and_are_members_once_they_have_joined() {
    let name = "nodes_that_may_only_join_form_nothing_and_are_members_once_they_have_joined";
    if !root_or_skip(name) {
        return;
    }
    let (mut crew, sink) = Crew::formed(3).unwrap();
    let before = crew.stands(0).unwrap().view;
    crew.power_fails(&sink).unwrap();
    let joins = || Options { arguments: vec!["--prevent-quorum".to_owned()], ..Options::default() };
    (0..3).for_each(|node| crew.forget_exits(node).unwrap());
    let mark = crew.mark().unwrap();
    crew.start(1, &joins()).unwrap();
    crew.start(C, &joins()).unwrap();
    // First the two alone, then with one that may, and lacks votes.
    for alone in [true, false] {
        let here: &[usize] = if alone { &[1, C] } else { &[0, 1, C] };
        if !alone {
            crew.start(0, &Options::default()).unwrap();
        }
        crew.all_up().unwrap();
        // As long as all together have to be of one mind, and once more.
        crew.stays(here, before, CONVERGENCE * 2).unwrap();
        assert!(here.iter().all(|node| !crew.stands(*node).unwrap().acting), "{here:?}");
    }
    let installed = |crew: &Crew, node| crew.said(&mark, node, "view_installed").unwrap();
    assert!((0..3).all(|node| installed(&crew, node).is_empty()), "nobody decided anything");
    // With b there is a majority that may, and c joins it, as what it was started as.
    crew.take(1).kill().unwrap();
    crew.start(1, &Options::default()).unwrap();
    let view = crew.await_view(&[0, 1, C]).unwrap();
    assert!(view > before);
    // A member is one: without a, the two go on, and c's vote is needed for that.
    crew.machine_dies(0, &sink).unwrap();
    assert_eq!(Some(crew.await_view(&[1, C]).unwrap()), view.next());
    crew.lab.heal().unwrap();
    crew.start_at_once(0).unwrap();
    crew.await_view(&[0, 1, C]).unwrap();
    crew.audit(&sink).unwrap();
}

/// Something that a start comes to, and how it is seen.
type Step = (&'static str, fn(&Crew, &Daemon) -> bool);

/// What can be seen of a start of c from outside, one after another.
const STEPS: [Step; 7] = [
    ("its process", |_, _| true),
    ("its socket for people", |crew, _| socket(crew).exists()),
    ("its directory of pins", |crew, _| crew.pins(C).exists()),
    ("its maps", |crew, _| PINNED.iter().all(|name| crew.pins(C).join(name).exists())),
    ("its first program", |crew, _| programs(&crew.lab, C).unwrap().1 > 0),
    ("its last program", |crew, _| programs(&crew.lab, C).unwrap().0 == crew.lab.spec().networks),
    ("its word that it is ready", |_, daemon| daemon.notify().ready().is_some()),
];

fn socket(crew: &Crew) -> PathBuf {
    crew.lab.node_dir(C).join("run/control.sock")
}

/// Everything that is pinned for c.
fn pinned(crew: &Crew) -> Vec<String> {
    let name = |entry: std::fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
    let entries = std::fs::read_dir(crew.pins(C)).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(name).collect();
    names.sort();
    names
}

/// Sockets of c's machine that have heartbeat's port, and hear by it.
fn sockets(crew: &Crew) -> usize {
    let shown = ["-Huan", "-Htln"].map(|which| crew.lab.node(C).run("ss", &[which]).unwrap());
    shown.iter().flat_map(|shown| shown.lines()).filter(|line| line.contains(":3343")).count()
}

/// Of a daemon that left nothing is there: no program, no pin, no socket.
fn nothing_is_left(crew: &Crew) {
    assert_eq!(programs(&crew.lab, C).unwrap(), (0, 0), "whoever leaves takes its programs along");
    assert!(!crew.lab.pin_dir(C).join("heartbeatd").exists(), "and its pins: {:?}", pinned(crew));
    assert!(!socket(crew).exists() && sockets(crew) == 0, "and its sockets");
}

/// Of a daemon that was killed, what is pinned is there for the next, and nothing else answers or listens.
fn only_pins_are_left(crew: &Crew) {
    // The kernel may take a moment to clear up after a process.
    wait_for(Duration::from_secs(1), "what is attached to be pinned", || {
        let (answering, stamping) = programs(&crew.lab, C).unwrap();
        let links = pinned(crew).iter().filter(|name| !PINNED.contains(&name.as_str())).count();
        let found = (answering, stamping, sockets(crew));
        if found == (links, 0, 0) { Ok(()) } else { Err(format!("{found:?} of {:?}", pinned(crew))) }
    })
    .unwrap();
}

/// Broken off at each step that can be seen, by a kill and by order, and at a random moment after it. A process that was
/// killed clears nothing up: what it had pinned is taken over by the next start, and that one has no more than any other.
#[test]
fn fault_67_a_start_that_is_broken_off_anywhere_leaves_nothing_in_the_way_of_the_next() {
    let name = "fault_67_a_start_that_is_broken_off_anywhere_leaves_nothing_in_the_way_of_the_next";
    if !root_or_skip(name) {
        return;
    }
    let (count, mut random) = rounds(name, 1000);
    let (mut crew, sink) = Crew::formed(3).unwrap();
    let (whole, whole_pins) = (programs(&crew.lab, C).unwrap(), pinned(&crew));
    for round in 0..count {
        let view = crew.stands(0).unwrap().view;
        assert!(crew.take(C).terminate(Duration::from_secs(20)).unwrap().success());
        nothing_is_left(&crew);
        crew.await_view(&[0, 1]).unwrap();
        crew.forget_exits(C).unwrap();
        let (step, seen) = STEPS[(round / 2) as usize % STEPS.len()];
        let daemon = Daemon::launch(&crew.lab, C, &crew.cluster, &Options::default()).unwrap();
        wait_for(Duration::from_secs(10), step, || if seen(&crew, &daemon) { Ok(()) } else { Err("not yet") }).unwrap();
        pause_at_random(&mut random, Duration::from_millis(20));
        if round % 2 == 0 {
            daemon.kill().unwrap();
            only_pins_are_left(&crew);
        } else {
            // Before it listens for it, the signal ends it as any other program; afterwards it leaves.
            let ended = daemon.terminate(Duration::from_secs(20)).unwrap();
            if ended.success() {
                nothing_is_left(&crew);
            } else {
                assert_eq!(ended.signal(), Some(nix::sys::signal::Signal::SIGTERM as i32), "{step}: {ended}");
                only_pins_are_left(&crew);
            }
        }
        crew.start_at_once(C).unwrap();
        assert!(crew.await_view(&[0, 1, C]).unwrap() > view);
        assert_eq!((programs(&crew.lab, C).unwrap(), pinned(&crew)), (whole, whole_pins.clone()), "{step}");
    }
    crew.audit(&sink).unwrap();
}

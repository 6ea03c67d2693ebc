//! Nodes that begin: all at once after a loss of power, too few of them, with an empty disk, or broken off while they
//! start. There is one view, or none; and never a second cluster.

use heartbeat_tests::lab::crew::{Crew, programs};
use heartbeat_tests::lab::views::{pause_at_random, rounds};
use heartbeat_tests::lab::wait::root_or_skip;
use heartbeat_tests::lab::{Daemon, Options};
use std::time::Duration;

#[test]
fn fault_63_all_nodes_that_start_at_once_after_a_loss_of_power_come_up_in_one_view() {
    let name = "fault_63_all_nodes_that_start_at_once_after_a_loss_of_power_come_up_in_one_view";
    if !root_or_skip(name) {
        return;
    }
    let (count, mut random) = rounds(name, 50);
    let (mut crew, sink) = Crew::formed(3).unwrap();
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
        let started = |node| crew.said(&mark, node, "started").unwrap()[0]["noticed_ns"].as_u64().unwrap();
        let started = [0, 1, 2].map(started);
        // A busy machine may start one so late that the others could not wait for it: two views then, never three.
        let apart_ms = (started.iter().max().unwrap() - started.iter().min().unwrap()) / 1_000_000;
        let views = view.number() - before.number();
        assert!(views == 1 || apart_ms > 300 && views == 2, "{views} views of nodes that started {apart_ms} ms apart");
        in_one += u64::from(views == 1);
        assert!((0..3).all(|node| crew.incarnation(node).unwrap() > old[node]));
    }
    println!("{name}: {in_one} times in one view");
    assert!(in_one > 0, "never in one view");
    crew.audit(&sink).unwrap();
}

#[test]
fn fault_64_started_with_too_few_a_node_waits_and_says_for_whom() {
    let name = "fault_64_started_with_too_few_a_node_waits_and_says_for_whom";
    if !root_or_skip(name) {
        return;
    }
    let (mut crew, sink) = Crew::formed(3).unwrap();
    let before = crew.stands(0).unwrap().view;
    crew.power_fails(&sink).unwrap();
    let mark = crew.mark().unwrap();
    crew.start_at_once(0).unwrap();
    let waits = |stands: &heartbeat_tests::lab::views::Stands| stands.waits_for == ["b", "c"];
    crew.await_stands(0, "to wait for both others", waits).unwrap();
    let told = crew.await_said(&mark, 0, "waits_for_votes").unwrap();
    assert_eq!((&told["votes_needed"], &told["votes_available"]), (&2.into(), &1.into()), "{told}");
    std::thread::sleep(Duration::from_secs(5));
    let stands = crew.stands(0).unwrap();
    assert_eq!((stands.view, stands.acting), (before, false), "however long: {stands:?}");
    let shown = crew.daemon(0).ctl(&["status"]).unwrap();
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(text.contains("waits for") && text.contains('b') && text.contains('c'), "{text}");
    // With one more there is a majority, and the third is not needed.
    crew.start_at_once(1).unwrap();
    assert!(crew.await_view(&[0, 1]).unwrap() > before);
    crew.start_at_once(2).unwrap();
    crew.await_view(&[0, 1, 2]).unwrap();
    crew.audit(&sink).unwrap();
}

#[test]
fn fault_65_a_node_that_starts_alone_forms_nothing_with_its_disk_or_without() {
    let name = "fault_65_a_node_that_starts_alone_forms_nothing_with_its_disk_or_without";
    if !root_or_skip(name) {
        return;
    }
    let (mut crew, sink) = Crew::formed(3).unwrap();
    for emptied in [false, true] {
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
        let alone = crew.stands(2).unwrap();
        assert!(!alone.acting && alone.view <= before, "{alone:?}");
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
    assert!(!crew.stands(2).unwrap().acting);
    crew.audit(&sink).unwrap();
}

#[test]
fn fault_67_a_start_that_is_broken_off_anywhere_leaves_nothing_in_the_way_of_the_next() {
    let name = "fault_67_a_start_that_is_broken_off_anywhere_leaves_nothing_in_the_way_of_the_next";
    if !root_or_skip(name) {
        return;
    }
    let (count, mut random) = rounds(name, 1000);
    let (mut crew, sink) = Crew::formed(3).unwrap();
    for round in 0..count {
        let view = crew.stands(0).unwrap().view;
        assert!(crew.take(2).terminate(Duration::from_secs(20)).unwrap().success());
        crew.await_view(&[0, 1]).unwrap();
        crew.forget_exits(2).unwrap();
        let daemon = Daemon::launch(&crew.lab, 2, &crew.cluster, &Options::default()).unwrap();
        pause_at_random(&mut random, Duration::from_millis(400));
        if round % 2 == 0 {
            daemon.kill().unwrap();
        } else {
            // Before it listens for it, the signal ends it as any other program; afterwards it leaves.
            let ended = daemon.terminate(Duration::from_secs(20)).unwrap();
            if ended.success() {
                assert_eq!(programs(&crew.lab, 2).unwrap(), (0, 0), "whoever leaves takes its programs along");
                assert!(
                    !crew.lab.pin_dir(2).join("heartbeatd").exists()
                        && !crew.lab.node_dir(2).join("run/control.sock").exists()
                );
            }
        }
        crew.start_at_once(2).unwrap();
        assert!(crew.await_view(&[0, 1, 2]).unwrap() > view);
    }
    crew.audit(&sink).unwrap();
}

//! A cluster that forms, acts and changes, made of real daemons in a lab: it is created once, by command; nodes join it,
//! die, come back and leave.

use heartbeat_tests::lab::crew::{Crew, PATIENCE};
use heartbeat_tests::lab::wait::root_or_skip;
use heartbeat_tests::lab::{Cluster, Lab, Options, Spec, wait_for};
use serde_json::Value;
use std::time::Duration;

/// How a node says that it stands: its view's number, its members by name, what it is, whether it may act.
#[derive(Debug, PartialEq, Eq)]
struct Stands {
    number: u64,
    members: Vec<String>,
    life: String,
    acting: bool,
}

fn stands(crew: &Crew, node: usize) -> Stands {
    // Exit code 9 says that it may not act; the answer is there all the same.
    let shown = crew.daemon(node).ctl(&["--json", "view"]).unwrap();
    let view: Value = serde_json::from_slice(&shown.stdout).unwrap_or_else(|error| panic!("{error}: {shown:?}"));
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let members = view["view"]["members"].as_array().cloned().unwrap_or_default();
    Stands {
        number: view["view"]["number"].as_u64().unwrap_or(0),
        members: members.iter().map(|member| word(&member["name"])).collect(),
        life: word(&view["life"]),
        acting: view["acting"].as_bool().unwrap_or(false),
    }
}

/// Waits until each of `nodes` is a member that may act, in one view of just these.
fn await_view(crew: &Crew, nodes: &[usize]) -> u64 {
    let names: Vec<String> = nodes.iter().map(|node| crew.name(*node).to_owned()).collect();
    wait_for(PATIENCE, "one view of them all, in force", || {
        let all: Vec<Stands> = nodes.iter().map(|node| stands(crew, *node)).collect();
        let fits =
            |one: &Stands| one.members == names && one.life == "member" && one.acting && one.number == all[0].number;
        if all.iter().all(fits) { Ok(all[0].number) } else { Err(format!("{all:?}")) }
    })
    .unwrap()
}

fn three() -> Crew {
    let lab = Lab::new(Spec::new(3, 2)).unwrap();
    let cluster = Cluster::new(&lab, "lan").with("stall_limit_ms", 4000);
    let mut crew = Crew::new(lab, cluster);
    crew.start_all(&Options::default()).unwrap();
    crew
}

fn init(crew: &Crew, node: usize) {
    let made = crew.daemon(node).ctl(&["init", "lab"]).unwrap();
    assert!(made.status.success(), "{made:?}");
}

#[test]
fn a_cluster_is_created_once_by_command_and_the_others_join_it() {
    if !root_or_skip("a_cluster_is_created_once_by_command_and_the_others_join_it") {
        return;
    }
    let crew = three();
    for node in 0..3 {
        assert_eq!(stands(&crew, node).life, "no_view", "an empty disk never stands for a view");
    }
    let wrong = crew.daemon(0).ctl(&["init", "other"]).unwrap();
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
    init(&crew, 0);
    await_view(&crew, &[0, 1, 2]);
    let again = crew.daemon(1).ctl(&["init", "lab"]).unwrap();
    assert!(!again.status.success(), "{again:?}");
}

#[test]
fn a_dead_machine_is_out_of_the_view_and_returns_as_a_newer_incarnation() {
    if !root_or_skip("a_dead_machine_is_out_of_the_view_and_returns_as_a_newer_incarnation") {
        return;
    }
    let mut crew = three();
    init(&crew, 0);
    let first = await_view(&crew, &[0, 1, 2]);
    let mark = crew.mark().unwrap();
    crew.lab.cut_all(2).unwrap();
    assert!(await_view(&crew, &[0, 1]) > first);
    for survivor in [0, 1] {
        let removed = crew.await_said(&mark, survivor, "node_removed").unwrap();
        assert_eq!((&removed["id"], &removed["node"]), (&1135.into(), &crew.name(2).into()), "{removed}");
    }
    wait_for(PATIENCE, "the lost node to stop acting", || {
        let lost = stands(&crew, 2);
        if lost.acting { Err(format!("{lost:?}")) } else { Ok(()) }
    })
    .unwrap();
    crew.lab.heal().unwrap();
    let ended = crew.take(2).wait(Duration::from_secs(20)).unwrap();
    assert_eq!(ended.code(), Some(10), "it finds itself left out");
    crew.start(2, &Options::default()).unwrap();
    await_view(&crew, &[0, 1, 2]);
}

#[test]
fn a_node_that_leaves_is_out_at_once_and_no_one_is_fenced() {
    if !root_or_skip("a_node_that_leaves_is_out_at_once_and_no_one_is_fenced") {
        return;
    }
    let mut crew = three();
    init(&crew, 0);
    await_view(&crew, &[0, 1, 2]);
    let mark = crew.mark().unwrap();
    assert!(crew.take(2).terminate(Duration::from_secs(20)).unwrap().success());
    await_view(&crew, &[0, 1]);
    for survivor in [0, 1] {
        assert!(crew.said(&mark, survivor, "fence_sent").unwrap().is_empty());
        assert!(crew.said(&mark, survivor, "node_down").unwrap().is_empty());
    }
}

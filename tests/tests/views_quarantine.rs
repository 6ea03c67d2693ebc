//! Nodes that end badly again and again: they are kept out for a while and are told so, and never more of them at once than
//! one, or a quarter of the members.

use heartbeat_tests::lab::crew::{Crew, Mark};
use heartbeat_tests::lab::views::{FORMING, long_rounds};
use heartbeat_tests::lab::wait::{root_or_skip, wait_every};
use heartbeat_tests::lab::{Cluster, Lab, Sink, Spec, monotonic_ns};
use serde_json::Value;
use std::time::Duration;

const C: usize = 2;

fn clear(crew: &Crew) {
    let cleared = crew.daemon(0).ctl(&["clear-quarantine", "c"]).unwrap();
    assert!(cleared.status.success(), "{cleared:?}");
}

/// Lets the service manager of c give up, three times within the hour.
fn loops(crew: &mut Crew, mark: &Mark) {
    for end in 0..3 {
        crew.manager_gives_up(C).unwrap();
        for by in [0, 1] {
            let removed = wait_every(Duration::from_millis(50), FORMING, "c to be removed once more", || {
                let mut said = crew.said(mark, by, "node_removed").unwrap();
                if said.len() > end { Ok(said.remove(end)) } else { Err(said.len()) }
            })
            .unwrap();
            assert_eq!((&removed["node"], &removed["cause"]), (&"c".into(), &"gave_up".into()), "{removed}");
        }
        crew.start_at_once(C).unwrap();
        if end < 2 {
            crew.await_view(&[0, 1, 2]).unwrap();
        }
    }
}

/// It lasts until somebody clears it: nothing of the node acts, and it costs the others no view.
#[test]
fn fault_42_whose_manager_gives_up_three_times_is_in_quarantine_until_it_is_cleared() {
    let name = "fault_42_whose_manager_gives_up_three_times_is_in_quarantine_until_it_is_cleared";
    if !root_or_skip(name) {
        return;
    }
    let (count, _) = long_rounds(name, 20);
    for _ in 0..count {
        let mut crew = Crew::idle(3).unwrap();
        crew.cluster = crew.cluster.clone().with("quarantine_threshold", 3);
        let sink = crew.form().unwrap();
        let mark = crew.mark().unwrap();
        loops(&mut crew, &mark);
        for by in [0, 1] {
            let told = crew.await_said_of(&mark, by, "node_quarantined", C).unwrap();
            assert_eq!((&told["id"], &told["ends"]), (&1672.into(), &3.into()), "{told}");
            let refused = crew.await_said_of(&mark, by, "join_refused_by_quarantine", C).unwrap();
            assert_eq!(refused["id"], 1675, "{refused}");
        }
        let own = crew.await_said(&mark, C, "quarantined").unwrap();
        assert_eq!(own["id"], 1676, "{own}");
        // Two hours by default, of which next to nothing is over.
        assert!((7_100_000..=7_200_000).contains(&own["remaining_ms"].as_u64().unwrap()), "{own}");
        let (view, from) = (crew.await_view(&[0, 1]).unwrap(), monotonic_ns());
        crew.stays(&[0, 1], view, Duration::from_secs(5)).unwrap();
        crew.acted_on(&sink, &[0, 1], from).unwrap();
        crew.stands_idle(C).unwrap();
        let shown = crew.daemon(0).ctl(&["view"]).unwrap();
        assert!(String::from_utf8_lossy(&shown.stdout).contains("quarantine"), "{shown:?}");
        clear(&crew);
        crew.await_view(&[0, 1, 2]).unwrap();
        crew.await_said(&mark, C, "quarantine_cleared").unwrap();
        crew.audit(&sink).unwrap();
    }
}

#[test]
fn fault_17_a_link_that_flaps_brings_its_node_into_quarantine_which_ends_by_itself() {
    let name = "fault_17_a_link_that_flaps_brings_its_node_into_quarantine_which_ends_by_itself";
    if !root_or_skip(name) {
        return;
    }
    let mut crew = Crew::idle(3).unwrap();
    crew.cluster = crew.cluster.clone().with("quarantine_threshold", 3).with("quarantine_duration_s", 8);
    let sink = crew.form().unwrap();
    let mark = crew.mark().unwrap();
    for end in 0..3 {
        crew.lab.cut_all(C).unwrap();
        crew.await_view(&[0, 1]).unwrap();
        crew.lab.heal().unwrap();
        crew.await_left_out(C).unwrap();
        crew.start_at_once(C).unwrap();
        if end < 2 {
            crew.await_view(&[0, 1, 2]).unwrap();
        }
    }
    crew.await_said_of(&mark, 0, "node_quarantined", C).unwrap();
    crew.await_view(&[0, 1, 2]).unwrap();
    let cleared = crew.await_said_of(&mark, 0, "quarantine_cleared", C).unwrap();
    let begun = crew.await_said_of(&mark, 0, "node_quarantined", C).unwrap();
    let lasted = cleared["noticed_ns"].as_u64().unwrap() - begun["noticed_ns"].as_u64().unwrap();
    assert!(lasted >= 8_000_000_000, "it lasted {} ms", lasted / 1_000_000);
    crew.audit(&sink).unwrap();
}

/// A crew whose nodes are quarantined for their first bad end.
fn strict(nodes: usize) -> (Crew, Sink) {
    let lab = Lab::new(Spec::new(nodes, 1)).unwrap();
    let cluster = Cluster::new(&lab, "lan").with("quarantine_threshold", 1);
    let mut crew = Crew::new(lab, cluster);
    let sink = crew.form().unwrap();
    (crew, sink)
}

/// Whom a node has told to be in quarantine since.
fn quarantined(crew: &Crew, mark: &Mark, by: usize) -> Vec<usize> {
    let said = crew.said(mark, by, "node_quarantined").unwrap();
    let index = |event: &Value| crew.lab.spec().nodes.iter().position(|name| event["node"] == **name).unwrap();
    let mut nodes: Vec<usize> = said.iter().map(index).collect();
    nodes.sort_unstable();
    nodes
}

#[test]
fn of_three_one_at_most_is_in_quarantine_and_the_next_that_ends_badly_comes_back() {
    let name = "of_three_one_at_most_is_in_quarantine_and_the_next_that_ends_badly_comes_back";
    if !root_or_skip(name) {
        return;
    }
    let (mut crew, sink) = strict(3);
    let mark = crew.mark().unwrap();
    for (dead, rest) in [(C, vec![0, 1]), (1, vec![0])] {
        crew.machine_dies(dead, &sink).unwrap();
        crew.await_view(&rest).unwrap();
        crew.lab.heal().unwrap();
        crew.start_at_once(dead).unwrap();
        // b is let in, c is not.
        crew.await_view(&[0, 1]).unwrap();
    }
    assert_eq!(quarantined(&crew, &mark, 0), [C], "one of three, though two ended badly");
    crew.await_said_of(&mark, 0, "join_refused_by_quarantine", C).unwrap();
    crew.stands_idle(C).unwrap();
    clear(&crew);
    crew.await_view(&[0, 1, 2]).unwrap();
    crew.audit(&sink).unwrap();
}

#[test]
fn of_eight_a_quarter_at_most_is_in_quarantine_though_more_end_badly_at_once() {
    let name = "of_eight_a_quarter_at_most_is_in_quarantine_though_more_end_badly_at_once";
    if !root_or_skip(name) {
        return;
    }
    let (mut crew, sink) = strict(8);
    let mark = crew.mark().unwrap();
    let (stay, gone) = ([0, 1, 2, 3, 4], [5, 6, 7]);
    crew.lab.partition(&[&stay[..], &gone[..]]).unwrap();
    crew.await_view(&stay).unwrap();
    let kept_out = wait_every(Duration::from_millis(50), FORMING, "two of eight to be in quarantine", || {
        let told = quarantined(&crew, &mark, 0);
        if told.len() >= 2 { Ok(told) } else { Err(format!("{told:?}")) }
    })
    .unwrap();
    assert!(kept_out.iter().all(|node| gone.contains(node)), "{kept_out:?}");
    crew.lab.heal().unwrap();
    // The third is let in; the two ask, and are refused.
    let mut members: Vec<usize> = (0..8).filter(|node| !kept_out.contains(node)).collect();
    crew.await_view(&members).unwrap();
    for by in stay {
        assert_eq!(quarantined(&crew, &mark, by), kept_out, "node {by}: all tell of the same two");
    }
    assert_eq!(kept_out.len(), 2);
    for node in kept_out {
        crew.await_said_of(&mark, 0, "join_refused_by_quarantine", node).unwrap();
        crew.stands_idle(node).unwrap();
        let cleared = crew.daemon(0).ctl(&["clear-quarantine", crew.name(node)]).unwrap();
        assert!(cleared.status.success(), "{cleared:?}");
        members.push(node);
        members.sort_unstable();
        crew.await_view(&members).unwrap();
    }
    crew.audit(&sink).unwrap();
}

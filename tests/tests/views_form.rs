//! A cluster that forms, acts and changes, made of real daemons in a lab: it is created once, by command; nodes join it,
//! die, come back and leave.

use heartbeat_tests::lab::crew::Crew;
use heartbeat_tests::lab::views::rounds;
use heartbeat_tests::lab::wait::root_or_skip;

#[test]
fn a_cluster_is_created_once_by_command_and_the_others_join_it() {
    if !root_or_skip("a_cluster_is_created_once_by_command_and_the_others_join_it") {
        return;
    }
    let mut crew = Crew::idle(3).unwrap();
    crew.start_together(&[0, 1, 2]).unwrap();
    crew.all_up().unwrap();
    for node in 0..3 {
        assert_eq!(crew.stands(node).unwrap().life, "no_view", "an empty disk never stands for a view");
    }
    let wrong = crew.daemon(0).ctl(&["init", "other"]).unwrap();
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
    let sink = crew.created(&[0, 1, 2]).unwrap();
    let again = crew.daemon(1).ctl(&["init", "lab"]).unwrap();
    assert!(!again.status.success(), "{again:?}");
    crew.audit(&sink).unwrap();
}

#[test]
fn a_dead_machine_is_out_of_the_view_of_every_survivor_and_returns_as_a_newer_incarnation() {
    let name = "a_dead_machine_is_out_of_the_view_of_every_survivor_and_returns_as_a_newer_incarnation";
    if !root_or_skip(name) {
        return;
    }
    let (count, mut random) = rounds(name, 200);
    let (mut crew, sink) = Crew::formed(3).unwrap();
    for _ in 0..count {
        let dead = random.below(3) as usize;
        let rest: Vec<usize> = (0..3).filter(|node| *node != dead).collect();
        let (first, old, mark) = (crew.stands(0).unwrap().view, crew.incarnation(dead).unwrap(), crew.mark().unwrap());
        crew.machine_dies(dead, &sink).unwrap();
        let view = crew.await_view(&rest).unwrap();
        assert_eq!(Some(view), first.next());
        for survivor in &rest {
            let removed = crew.await_said_of(&mark, *survivor, "node_removed", dead).unwrap();
            assert_eq!(
                (&removed["id"], &removed["cause"], &removed["incarnation"]),
                (&1135.into(), &"down".into(), &old.into())
            );
            assert_eq!(removed["judges"].as_array().map(Vec::len), Some(2), "both say so: {removed}");
        }
        crew.lab.heal().unwrap();
        crew.start_at_once(dead).unwrap();
        assert_eq!(Some(crew.await_view(&[0, 1, 2]).unwrap()), view.next());
        assert!(crew.incarnation(dead).unwrap() > old);
        for survivor in &rest {
            assert!(crew.said(&mark, *survivor, "started").unwrap().is_empty(), "no survivor needs a restart");
            assert!(crew.said(&mark, *survivor, "quorum_lost").unwrap().is_empty());
        }
    }
    crew.audit(&sink).unwrap();
}

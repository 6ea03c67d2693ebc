//! From the agreement's words to the answers. It starts nothing.

use super::*;
use crate::core::agreement::document::{LeaseTerms, Owed, Quarantined, QuorumTerms, Removal, SCHEMA};
use heartbeat_common::lease::{Refused, Token};
use heartbeat_common::view::VoteId;

fn names() -> NodeNames {
    NodeNames::new(vec![(NodeId(30), "c".into()), (NodeId(10), "a".into()), (NodeId(20), "b".into())])
}

fn order(number: u64) -> Order {
    Order::new(0, number).unwrap()
}

/// View 0.8 of a and b, which has left c out.
fn document() -> Document {
    let member = |node, incarnation| Member { node: NodeId(node), incarnation };
    let vote = |holder, id, weight| Vote { holder, id: VoteId([id, 0]), configured: 1, weight };
    Document {
        schema: SCHEMA,
        instance: [1, 2],
        order: order(8),
        parent: [3; 4],
        members: vec![member(10, 5), member(20, 6)],
        votes: vec![
            vote(Holder::Node(NodeId(10)), 1, 1),
            vote(Holder::Node(NodeId(20)), 2, 1),
            vote(Holder::Node(NodeId(30)), 3, 0),
            vote(Holder::Witness(0), 4, 1),
        ],
        admitted: vec![member(10, 5), member(20, 6), member(30, 7)],
        owed: vec![Owed { member: member(30, 7), left_out_by: order(8) }],
        lease: LeaseTerms { lease_ms: 500, stop_ms: 100, longest_ms: 20_000 },
        quorum: QuorumTerms { dynamic: true, lower_priority: Some(NodeId(20)) },
        quarantined: vec![Quarantined { node: NodeId(40), exits: 3 }],
        removals: vec![Removal {
            member: member(30, 7),
            reason: Reason::Down,
            silent_ms: 510,
            controller_age_ms: 8,
            judges: 0b011,
        }],
        change: None,
        witness: Vec::new(),
        settings: Vec::new(),
    }
}

fn status() -> Status {
    Status {
        life: agreement::Life::Member,
        view: Some(document()),
        in_force: order(7),
        owed: vec![Member { node: NodeId(30), incarnation: 7 }],
        stage: agreement::Stage::Cleanup,
        turn: 3,
        waits_for: vec![NodeId(20)],
        last_disk: Some(NodeId(10)),
        acting: true,
        forfeited: false,
        granting: true,
        quarantines: vec![(NodeId(40), Duration::from_secs(600))],
    }
}

fn facts() -> LeaseFacts {
    LeaseFacts {
        acting: Ok(Token { order: order(7).0, incarnation: 5 }),
        left: Duration::from_millis(250),
        own: Some(Duration::ZERO),
        others: vec![(NodeId(20), Some(Duration::from_millis(150))), (NodeId(30), Some(Duration::from_millis(450)))],
    }
}

#[test]
fn a_view_is_named_and_says_what_it_waits_for() {
    let document = document();
    document.check().unwrap();
    let answer = view(&status(), &facts(), &names());
    assert_eq!((answer.life, answer.stage, answer.acting), (Life::Member, Stage::Cleanup, true));
    assert_eq!((answer.token.as_deref(), answer.in_force.as_deref()), (Some("0.7.5"), Some("0.7")));
    assert_eq!(answer.waits_for, ["b", "c to have stopped"]);
    assert!(!answer.is_in_force());
    let held = answer.view.unwrap();
    let bytes = document.name().digest[0].to_le_bytes();
    let digest: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!((held.name.number, &held.name.digest), (8, &digest));
    assert_eq!(held.members.iter().map(|member| member.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!((held.removals[0].reason, held.removals[0].judges.join("")), (RemovalReason::Down, "ab".into()));
    assert_eq!((held.owed[0].left_out_by.as_str(), held.owed[0].stopped), ("0.8", false));
    assert_eq!(held.quarantined[0].name, "40", "a node that is not configured here goes by its number");
    assert_eq!(held.quarantined[0].remaining_ms, 600_000);
}

#[test]
fn a_stage_goes_by_its_name_in_mscs_and_for_whom_it_waits_stands_beside_it() {
    for (stage, name) in [
        (agreement::Stage::Activate, "activate"),
        (agreement::Stage::Closing, "closing"),
        (agreement::Stage::Pruning, "pruning"),
        (agreement::Stage::Cleanup, "cleanup"),
        (agreement::Stage::Stabilized, "stabilized"),
    ] {
        let answer = view(&Status { stage, ..status() }, &facts(), &names());
        let json = serde_json::to_value(&answer).unwrap();
        assert_eq!((&json["stage"], &json["waits_for"]), (&name.into(), &vec!["b", "c to have stopped"].into()));
        assert_eq!(answer.stage.to_string(), name);
    }
}

#[test]
fn what_is_known_to_have_stopped_is_told() {
    let mut status = status();
    status.owed.clear();
    status.waits_for.clear();
    let answer = view(&status, &facts(), &names());
    assert!(answer.waits_for.is_empty() && answer.view.unwrap().owed[0].stopped);
}

#[test]
fn who_holds_no_view_waits_for_one() {
    let mut none = status();
    (none.life, none.view, none.in_force) = (agreement::Life::NoView, None, Order::NONE);
    none.owed.clear();
    none.waits_for.clear();
    let facts = LeaseFacts { acting: Err(Refused::Nobody), left: Duration::ZERO, own: None, others: Vec::new() };
    let answer = view(&none, &facts, &names());
    assert_eq!((answer.view, answer.in_force, answer.token), (None, None, None));
    assert_eq!(answer.not_acting.unwrap(), "no incarnation runs");
    assert!(answer.waits_for[0].contains("heartbeatctl init"));
    assert_eq!(quorum(&none, &facts, &names(), NodeId(10), Duration::ZERO), None);
}

#[test]
fn votes_are_fresh_within_the_lease_less_the_time_to_stop() {
    let answer = quorum(&status(), &facts(), &names(), NodeId(10), Duration::from_secs(1)).unwrap();
    assert_eq!((answer.votes_total, answer.votes_needed, answer.votes_fresh), (3, 2, 2));
    let rows: Vec<_> = answer.votes.iter().map(|vote| (vote.holder.as_str(), vote.own, vote.granted_ms_ago)).collect();
    assert_eq!(
        rows,
        [("a", true, Some(0)), ("b", false, Some(150)), ("c", false, Some(450)), ("witness 0", false, None)]
    );
    assert_eq!((answer.lease_left_ms, answer.last_disk.as_deref()), (Some(250), Some("a")));
    assert_eq!((answer.dynamic, answer.lower_priority.as_deref()), (true, Some("b")));
    // 20 s x 1.0002 / 0.9998 / 0.9991, rounded up.
    assert_eq!(answer.budget.takeover_ms(), 1000 + 20 + 20_027);
    let mut late = facts();
    late.others[0].1 = Some(Duration::from_millis(400));
    late.acting = Err(Refused::Expired);
    let over = quorum(&status(), &late, &names(), NodeId(10), Duration::ZERO).unwrap();
    assert_eq!((over.votes_fresh, over.lease_left_ms), (1, None));
}

#[test]
fn what_only_began_the_cluster_is_told_where_the_view_has_it_otherwise() {
    let text = "[cluster]\nname = \"demo\"\nid = \"6f0c5d9e2a417b83\"\n[settings]\nquorum_arbitration_time_max_s = 0.5\n\
        stop_time_s = 0.1\nlower_quorum_priority_node = \"b\"\n[[network]]\nname = \"n\"\nsubnets = [\"10.1.0.0/24\"]\n\
        [[node]]\nname = \"a\"\nid = 10\naddresses = [\"10.1.0.1\"]\n[[node]]\nname = \"b\"\nid = 20\n\
        addresses = [\"10.1.0.2\"]\n[[node]]\nname = \"c\"\nid = 30\naddresses = [\"10.1.0.3\"]\n";
    let config = crate::config::parse("file", text.as_bytes()).unwrap();
    assert_eq!(outdated_seeds(&config, &document()), Vec::<String>::new());
    let mut view = document();
    (view.lease.lease_ms, view.lease.stop_ms, view.quorum.dynamic) = (800, 50, false);
    (view.quorum.lower_priority, view.votes[2].configured) = (None, 0);
    let told = outdated_seeds(&config, &view);
    let expected = [
        "quorum_arbitration_time_max_s is 0.5 in the configuration and 0.8 in the view",
        "stop_time_s is 0.1 in the configuration and 0.05 in the view",
        "dynamic_quorum is true in the configuration and false in the view",
        "lower_quorum_priority_node is b in the configuration and none in the view",
        "weight of node c is 1 in the configuration and 0 in the view",
    ];
    assert_eq!(told.len(), expected.len(), "{told:?}");
    assert!(told.iter().zip(expected).all(|(told, expected)| told.starts_with(expected)), "{told:?}");
}

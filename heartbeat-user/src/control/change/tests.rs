//! What people ask, and what they are told. It starts nothing.

use super::*;
use heartbeat_common::view::Order;
use std::collections::BTreeSet;

const NODES: [(NodeId, &str); 3] = [(NodeId(1), "a"), (NodeId(2), "b"), (NodeId(12), "7")];

fn names() -> Names<'static> {
    Names { cluster: "demo", own: NodeId(1), nodes: &NODES }
}

fn asked(change: &Change) -> Result<Request, ErrorCode> {
    change.request(&names(), [4, 5]).map_err(|refusal| refusal.code)
}

fn set(setting: SettingChange) -> Change {
    Change::Set { setting }
}

fn every_change() -> Vec<Change> {
    let cluster = || "demo".to_owned();
    let node = || "b".to_owned();
    vec![
        Change::Init { cluster: cluster() },
        Change::Leave,
        Change::Fence { node: node(), cluster: cluster() },
        Change::ClearQuarantine { node: node() },
        set(SettingChange::QuorumArbitrationTimeMax { lease_ms: 20_000 }),
        set(SettingChange::StopTime { stop_ms: 1500 }),
        set(SettingChange::NodeWeight { node: node(), weight: 0 }),
        set(SettingChange::LowerQuorumPriorityNode { node: Some(node()) }),
        set(SettingChange::LowerQuorumPriorityNode { node: None }),
        set(SettingChange::DynamicQuorum { dynamic: false }),
        Change::ForceQuorum { cluster: cluster() },
    ]
}

#[test]
fn each_change_is_asked_for_by_numbers() {
    let asked: Vec<Request> = every_change().iter().map(|change| asked(change).unwrap()).collect();
    assert_eq!(
        asked,
        [
            Request::Init { instance: [4, 5] },
            Request::Leave,
            Request::Fence(NodeId(2)),
            Request::ClearQuarantine(NodeId(2)),
            Request::Set(Setting::LeaseMs(20_000)),
            Request::Set(Setting::StopMs(1500)),
            Request::Set(Setting::Weight(NodeId(2), 0)),
            Request::Set(Setting::LowerPriority(Some(NodeId(2)))),
            Request::Set(Setting::LowerPriority(None)),
            Request::Set(Setting::Dynamic(false)),
            Request::Force,
        ]
    );
}

#[test]
fn what_must_be_typed_is_the_name_of_this_cluster() {
    for typed in ["prod", "", "Demo", "demo "] {
        let cluster = || typed.to_owned();
        for change in [
            Change::Init { cluster: cluster() },
            Change::Fence { node: "b".into(), cluster: cluster() },
            Change::ForceQuorum { cluster: cluster() },
        ] {
            assert_eq!(asked(&change), Err(ErrorCode::WrongCluster), "{change:?}");
        }
    }
}

#[test]
fn a_node_is_meant_by_name_first_then_by_id() {
    let clear = |node: &str| asked(&Change::ClearQuarantine { node: node.to_owned() });
    assert_eq!(clear("b"), Ok(Request::ClearQuarantine(NodeId(2))));
    assert_eq!(clear("2"), Ok(Request::ClearQuarantine(NodeId(2))));
    assert_eq!(clear("7"), Ok(Request::ClearQuarantine(NodeId(12))), "a name that is a number");
    for unknown in ["c", "", "3", "65537", "-2"] {
        assert_eq!(clear(unknown), Err(ErrorCode::UnknownNode), "{unknown}");
    }
    let refusal = names().node("c").unwrap_err();
    assert!(refusal.message.contains("its nodes are a, b, 7"), "{refusal}");
}

#[test]
fn nobody_fences_itself_and_bounds_are_kept() {
    let fence = |node: &str| Change::Fence { node: node.to_owned(), cluster: "demo".to_owned() };
    for own in ["a", "1"] {
        assert_eq!(asked(&fence(own)), Err(ErrorCode::RuleBroken), "{own}");
    }
    for (setting, allowed) in [
        (SettingChange::QuorumArbitrationTimeMax { lease_ms: *LEASE_MS.start() }, true),
        (SettingChange::QuorumArbitrationTimeMax { lease_ms: *LEASE_MS.start() - 1 }, false),
        (SettingChange::QuorumArbitrationTimeMax { lease_ms: *LEASE_MS.end() }, true),
        (SettingChange::QuorumArbitrationTimeMax { lease_ms: *LEASE_MS.end() + 1 }, false),
        (SettingChange::StopTime { stop_ms: 0 }, true),
        (SettingChange::StopTime { stop_ms: *LEASE_MS.end() }, false),
        (SettingChange::NodeWeight { node: "b".into(), weight: 1 }, true),
        (SettingChange::NodeWeight { node: "b".into(), weight: 2 }, false),
    ] {
        let code = asked(&set(setting.clone())).err();
        assert_eq!(code, (!allowed).then_some(ErrorCode::RuleBroken), "{setting:?}");
    }
}

#[test]
fn an_answer_says_what_was_done_or_that_nothing_was() {
    let order = Order::new(1, 8).unwrap();
    for change in every_change() {
        let decided = change.answer(&Outcome::Decided(order)).unwrap();
        assert_eq!((decided.view, decided.done), (Some("1.8".into()), format!("{change}: decided in view 1.8")));
        assert_eq!(change.answer(&Outcome::Done).unwrap().view, None);
        let late = change.answer(&Outcome::NoQuorum).unwrap_err();
        assert_eq!(late.code, ErrorCode::NoQuorum);
        assert!(late.message.contains("within 10 s") && late.message.contains("withdrawn"), "{late}");
    }
    let lease = set(SettingChange::QuorumArbitrationTimeMax { lease_ms: 1250 });
    assert_eq!(lease.to_string(), "set quorum_arbitration_time_max_s = 1.25");
}

#[test]
fn each_rule_has_its_own_code_or_sentence() {
    let rules = [
        (Rule::NoView, ErrorCode::NoView),
        (Rule::HasView, ErrorCode::RuleBroken),
        (Rule::PeerHasView, ErrorCode::RuleBroken),
        (Rule::PeersUnheard, ErrorCode::RuleBroken),
        (Rule::NotMember, ErrorCode::RuleBroken),
        (Rule::UnknownNode, ErrorCode::UnknownNode),
        (Rule::Lease, ErrorCode::RuleBroken),
        (Rule::NoVotes, ErrorCode::RuleBroken),
        (Rule::QuorateHeard, ErrorCode::RuleBroken),
        (Rule::NotWaiting, ErrorCode::RuleBroken),
        (Rule::NoVote, ErrorCode::RuleBroken),
        (Rule::Busy, ErrorCode::Busy),
        (Rule::Exhausted, ErrorCode::RuleBroken),
        (Rule::Ending, ErrorCode::RuleBroken),
        (Rule::Conflict, ErrorCode::RuleBroken),
    ];
    let mut told = BTreeSet::new();
    for (rule, code) in rules {
        let refusal = Change::Leave.answer(&Outcome::Refused(rule)).unwrap_err();
        assert_eq!(refusal.code, code, "{rule:?}");
        assert!(told.insert(refusal.message), "{rule:?} has a sentence of its own");
    }
}

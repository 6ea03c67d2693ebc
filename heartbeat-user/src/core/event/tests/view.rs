//! Tests of the agreement's events: numbers, sentences, JSON, and where they come from. They decide nothing.

use super::super::*;
use crate::core::agreement::AgreementEvent as A;
use crate::core::agreement::document::{ChangeId, Member, Reason};
use crate::core::agreement::event::{ControlFault, Grounds, JoinFault, Trigger};
use crate::core::agreement::message::Setting;
use crate::core::agreement::stops::How;
use crate::core::ids::NodeId;
use crate::core::time::MonoTime;
use heartbeat_common::lease::{Refused, hold};
use heartbeat_common::view::{Name, Order};
use serde_json::json;
use std::collections::BTreeSet;
use std::time::Duration;

fn names() -> NodeNames {
    NodeNames::new(vec![(NodeId(3), "c".into()), (NodeId(1), "a".into()), (NodeId(2), "b".into())])
}

fn view(number: u64) -> Order {
    Order::new(0, number).unwrap()
}

fn member(node: u16) -> Member {
    Member { node: NodeId(node), incarnation: 10 + u64::from(node) }
}

fn grounds(reason: Reason) -> Grounds {
    let judges = vec![NodeId(1), NodeId(2)];
    Grounds { reason, silent_ms: 512, controller_age_ms: 9, judges, others: Vec::new() }
}

fn removed(reason: Reason) -> A {
    A::NodeRemoved { view: view(8), member: member(3), grounds: Some(grounds(reason)) }
}

fn change() -> ChangeId {
    ChangeId { by: member(2), sequence: 4 }
}

/// Events about membership and quorum: each case whose sentences differ.
fn grave() -> Vec<A> {
    let lost = |why, missing| A::QuorumLost { view: view(7), why, missing, ended: MonoTime(1) };
    let left_out = |grounds, stayed| A::LeftOut { view: view(8), grounds, stayed };
    vec![
        removed(Reason::Down),
        removed(Reason::Hung),
        removed(Reason::Restarted),
        removed(Reason::Left),
        removed(Reason::NotConnected),
        removed(Reason::NoMessages),
        removed(Reason::CannotApply),
        removed(Reason::Fenced),
        removed(Reason::Forced),
        removed(Reason::GaveUp),
        A::NodeRemoved { view: view(8), member: member(3), grounds: None },
        lost(Refused::Expired, vec![NodeId(2), NodeId(3)]),
        lost(Refused::Expired, Vec::new()),
        lost(Refused::Held(hold::CLOCK), Vec::new()),
        A::Fenced { by: Some(NodeId(1)), view: Some(view(8)), reason: Some(Reason::Hung) },
        A::Fenced { by: None, view: None, reason: None },
        left_out(Some(grounds(Reason::NotConnected)), vec![NodeId(1), NodeId(2)]),
        left_out(None, vec![NodeId(1)]),
        A::JoinRefused { node: member(3), why: JoinFault::Settings },
        A::StateNotNewest { held: view(7), newest: view(9), told_by: NodeId(2) },
        A::WaitsForVotes { view: view(7), needed: 2, available: 1, missing: vec![NodeId(2), NodeId(3)] },
        A::OtherSideForced { own: view(7), other: Order::new(1, 8).unwrap() },
        A::Quarantined { node: NodeId(3), ends: 3, remaining: Duration::from_secs(7200) },
        A::QuarantineRefused { node: NodeId(3), remaining: Duration::from_secs(60) },
        A::OwnQuarantine { ends: 3, remaining: Duration::from_secs(7200) },
        A::StoppedForConsistency,
        A::VoteForfeited,
        A::OlderState { sequence: 4, seen: 9, seen_by: NodeId(2) },
        A::Hole { view: view(8), hung: false, lost: Duration::from_secs(1) },
        A::Hole { view: view(8), hung: true, lost: Duration::from_secs(1) },
        A::RestartBackoff { ends: 2, wait: Duration::from_secs(4) },
        A::ForcedQuorum { view: Order::new(1, 8).unwrap() },
        A::ClockOutOfBounds,
        A::TimeWentBack,
    ]
}

/// Events of the ordinary course, likewise.
fn ordinary() -> Vec<A> {
    let began = |trigger| A::RegroupStarted { turn: 2, trigger };
    let setting = |setting| A::ViewSettingChanged { view: view(8), change: change(), setting };
    let waits = |view, waits_for| A::RegroupWaits { view, waits_for };
    vec![
        A::ViewInstalled {
            view: Name { order: view(8), digest: [0x0807_0605_0403_0201, 0, 0, 0] },
            members: vec![member(1), member(2)],
            voters: vec![NodeId(1)],
            change: Some(change()),
        },
        A::ViewInForce { view: view(8), after: Duration::from_secs(1) },
        began(Trigger::Member(member(3), Reason::Down)),
        began(Trigger::Joiner(member(3))),
        began(Trigger::Wish(change())),
        began(Trigger::Unfinished),
        began(Trigger::Start),
        began(Trigger::Release(NodeId(3))),
        began(Trigger::Leave),
        began(Trigger::Joined(NodeId(2))),
        waits(view(7), vec![NodeId(2), NodeId(3)]),
        waits(Order::NONE, Vec::new()),
        waits(Order::NONE, vec![NodeId(2)]),
        A::NodeJoined { view: view(8), member: member(3) },
        A::NodeLeftView { view: view(8), member: member(3), handed_over: true },
        A::NodeLeftView { view: view(7), member: member(1), handed_over: false },
        A::LeaseGained { view: view(8) },
        A::LeaseGivenUp { view: view(8) },
        A::FenceSent { victim: member(3), view: view(8) },
        A::FenceAcknowledged { victim: member(3), gated: true },
        A::FenceAcknowledged { victim: member(3), gated: false },
        A::KnownStopped { member: member(3), how: How::Waited },
        A::QuarantineCleared { node: NodeId(3) },
        setting(Some(Setting::LeaseMs(1250))),
        setting(Some(Setting::StopMs(2000))),
        setting(Some(Setting::Weight(NodeId(3), 0))),
        setting(Some(Setting::LowerPriority(None))),
        setting(Some(Setting::LowerPriority(Some(NodeId(2))))),
        setting(Some(Setting::Dynamic(true))),
        setting(None),
        A::NoConnectedMajority { view: view(7), apart: vec![NodeId(1), NodeId(3)] },
        A::LastDisk { view: view(8), node: NodeId(1) },
        A::ControlLost { node: NodeId(2), fault: ControlFault::There },
        A::ControlLost { node: NodeId(2), fault: ControlFault::Here },
        A::ControlLost { node: NodeId(2), fault: ControlFault::NotDetermined },
        A::ControlRestored { node: NodeId(2) },
    ]
}

fn event(body: impl Into<EventBody>) -> Event {
    Event { at: MonoTime(1), noticed: MonoTime(2), body: body.into() }
}

fn sentence(told: A) -> String {
    event(tell(told, &names())).to_string()
}

#[test]
fn numbers_are_those_of_windows_or_from_20100() {
    let windows = [1006, 1070, 1073, 1118, 1135, 1177, 1561, 1672, 1675, 1676, 5396, 5398];
    let own: BTreeSet<u32> = ViewEvent::ALL.iter().map(|event| event.0).filter(|id| !windows.contains(id)).collect();
    let expected: BTreeSet<u32> = (20_100..=20_125).collect();
    assert_eq!(own, expected);
    assert_eq!(ViewEvent::ALL.len(), windows.len() + own.len());
}

#[test]
fn each_event_has_a_flat_line_and_a_sentence_of_its_own() {
    let told = grave().into_iter().chain(ordinary()).map(|told| tell(told, &names()));
    let bodies = told.chain([
        ViewEvent::HookFailed { hook: "/etc/h".into(), event_id: 1177, reason: "it was killed after 10 s".into() },
        ViewEvent::ChangeAsked { change: "fence c".into(), uid: 0, outcome: "fence c: decided in view 0.8".into() },
    ]);
    let (mut ids, mut sentences) = (BTreeSet::new(), BTreeSet::new());
    for body in bodies {
        let event = event(body);
        ids.insert(event.id());
        let text = event.to_string();
        assert!(text.contains(' ') && text != event.name() && !text.ends_with('.'), "{text}");
        assert!(!text.contains('\n') && !text.contains("  "), "one line, no gaps: {text}");
        let json = serde_json::to_value(&event).unwrap();
        assert_eq!((&json["id"], &json["name"]), (&event.id().into(), &event.name().into()));
        assert!(json.as_object().unwrap().values().all(|value| !value.is_object()), "{json}");
        assert!(sentences.insert(text.clone()), "told twice alike: {text}");
    }
    let declared: BTreeSet<u32> = ViewEvent::ALL.iter().map(|event| event.0).collect();
    assert_eq!(ids, declared);
}

#[test]
fn a_removal_says_why_who_judged_and_where_the_fault_was() {
    let event = event(tell(removed(Reason::Down), &names()));
    assert_eq!(
        event.to_string(),
        "node c (incarnation 13) was removed from the membership by view 0.8: it was silent on every path: it is dead, \
         or cut off from those that judged it (silent for 512 ms, its controller had last said 9 ms of age); so judged \
         by a and b"
    );
    let line = serde_json::to_value(&event).unwrap();
    for (field, value) in [
        ("id", json!(1135)),
        ("level", json!("error")),
        ("node", json!("c")),
        ("node_id", json!(3)),
        ("incarnation", json!(13)),
        ("view", json!("0.8")),
        ("cause", json!("down")),
        ("judges", json!(["a", "b"])),
        ("others", json!([])),
        ("silent_ms", json!(512)),
        ("controller_age_ms", json!(9)),
    ] {
        assert_eq!(line[field], value, "{field}: {line}");
    }
}

#[test]
fn whose_fault_a_broken_connection_was_follows_from_who_judged() {
    let text = |reason, judges, others| {
        let grounds = Grounds { judges, others, ..grounds(reason) };
        sentence(A::NodeRemoved { view: view(8), member: member(3), grounds: Some(grounds) })
    };
    let all = text(Reason::NoMessages, vec![NodeId(1), NodeId(2)], Vec::new());
    assert!(all.ends_with("so judged by a and b, which is everybody that stayed: look at its end first"), "{all}");
    let one = text(Reason::NotConnected, vec![NodeId(1)], vec![NodeId(2)]);
    assert!(one.ends_with("so judged by a and not by b: look between it and the former"), "{one}");
    let pair = text(Reason::NotConnected, vec![NodeId(1)], Vec::new());
    assert!(pair.ends_with("so judged by a"), "of two ends neither is known to be at fault: {pair}");
    let never = Grounds { silent_ms: u32::MAX, ..grounds(Reason::Down) };
    let never = sentence(A::NodeRemoved { view: view(8), member: member(3), grounds: Some(never) });
    assert!(never.contains("(never heard)"), "{never}");
}

#[test]
fn a_removal_by_a_view_that_was_never_seen_claims_no_reason() {
    let event = event(tell(A::NodeRemoved { view: view(8), member: member(3), grounds: None }, &names()));
    let line = serde_json::to_value(&event).unwrap();
    assert_eq!((&line["id"], &line["node"], &line["view"]), (&json!(1135), &json!("c"), &json!("0.8")));
    assert!(line.get("cause").is_none() && line.get("judges").is_none(), "{line}");
}

#[test]
fn who_leaves_by_itself_is_no_error() {
    let level = |reason| event(tell(removed(reason), &names())).level();
    assert_eq!(level(Reason::Left), Level::Info);
    assert_eq!(level(Reason::Restarted), Level::Warning);
    let bad = [Reason::Down, Reason::Hung, Reason::NotConnected, Reason::NoMessages, Reason::GaveUp, Reason::Fenced];
    for reason in bad {
        assert_eq!(level(reason), Level::Error, "{reason:?}");
    }
}

#[test]
fn a_lost_quorum_names_the_votes_that_are_missing() {
    let lost = |why, missing| sentence(A::QuorumLost { view: view(7), why, missing, ended: MonoTime(1) });
    let text = lost(Refused::Expired, vec![NodeId(2), NodeId(3)]);
    assert!(text.contains("no majority of votes has granted within the lease"), "{text}");
    assert!(text.ends_with("of the holders of votes b and c is not heard: dead, or cut off from this node"), "{text}");
    let text = lost(Refused::Held(hold::DISK), vec![NodeId(2)]);
    assert!(text.ends_with("its disk state is lost or was given up"), "who is missing is not the reason: {text}");
}

#[test]
fn a_loss_that_was_noticed_late_says_so() {
    let told = |noticed_after_ms| {
        let mut told = tell(
            A::QuorumLost { view: view(7), why: Refused::Expired, missing: vec![NodeId(2)], ended: MonoTime(1) },
            &names(),
        );
        if let ViewEvent::QuorumLost { noticed_after_ms: after, .. } = &mut told {
            *after = noticed_after_ms;
        }
        event(told).to_string()
    };
    assert!(told(12_000).ends_with("; noticed 12.0 s later"), "{}", told(12_000));
    assert!(!told(40).contains("noticed"), "{}", told(40));
}

#[test]
fn who_was_fenced_knows_by_whom_under_which_view_and_why() {
    assert_eq!(
        sentence(A::Fenced { by: Some(NodeId(1)), view: Some(view(8)), reason: Some(Reason::Hung) }),
        "this node was told to stop by node a in the name of view 0.8, and its kernel obeyed: its kernel answered and \
         its controller made no progress: the fault is on that node"
    );
    let unknown = tell(A::Fenced { by: None, view: None, reason: None }, &names());
    let line = serde_json::to_value(event(unknown)).unwrap();
    let fields = (&line["by"], &line["by_id"], &line["view"], &line["cause"]);
    assert_eq!(fields, (&json!(null), &json!(null), &json!(null), &json!(null)));
}

#[test]
fn a_view_is_named_by_order_and_digest() {
    let line = serde_json::to_value(event(tell(ordinary().remove(0), &names()))).unwrap();
    assert_eq!((&line["view"], &line["digest"]), (&json!("0.8"), &json!("0102030405060708")));
    let told = (&line["members"], &line["voters"], &line["asked_of"]);
    assert_eq!(told, (&json!(["a", "b"]), &json!(["a"]), &json!("b")));
}

#[test]
fn names_come_from_the_settings_and_numbers_where_there_are_none() {
    let names = names();
    assert_eq!((names.of(NodeId(2)), names.of(NodeId(9))), ("b".into(), "9".into()));
    assert_eq!(names.all([NodeId(3), NodeId(1)]), ["c", "a"]);
}

#[test]
fn seconds_are_written_as_settings_are() {
    for (ms, text) in [(0, "0"), (20_000, "20"), (500, "0.5"), (1250, "1.25"), (3007, "3.007"), (100, "0.1")] {
        assert_eq!(seconds_text(ms), text);
    }
}

/// The first table for people names each event; several may share a row.
#[test]
fn the_readme_names_every_event() {
    let table = include_str!("../../../../../README.md");
    let numbers = |cell: &str| cell.split(", ").map(|id| id.parse::<u32>().ok()).collect::<Option<Vec<u32>>>();
    let row = |line: &'static str| {
        let mut cells = line.split('|').map(str::trim).skip(1);
        let (ids, names) = (numbers(cells.next()?)?, cells.next()?.split(", ").collect::<Vec<_>>());
        (names.iter().all(|name| name.starts_with('`')) && ids.len() == names.len()).then_some((ids, names))
    };
    let rows: Vec<(Vec<u32>, Vec<&str>)> = table.lines().filter_map(row).collect();
    let named: BTreeSet<(u32, String)> = rows
        .iter()
        .flat_map(|(ids, names)| ids.iter().zip(names).map(|(id, name)| (*id, name.replace('`', ""))))
        .collect();
    let all: BTreeSet<(u32, String)> =
        EventBody::ALL.iter().chain(ViewEvent::ALL).map(|(id, name, _)| (*id, (*name).to_owned())).collect();
    assert_eq!(named, all);
    assert!(rows.is_sorted_by_key(|(ids, _)| ids[0]), "by number");
}

/// The table for people has each event, as it is declared.
#[test]
fn the_documentation_lists_every_event() {
    let table = include_str!("../../../../../docs/events.md");
    let cells = |line: &'static str| {
        let mut cells = line.split('|').map(str::trim).skip(1);
        let row: [&str; 3] = [cells.next()?, cells.next()?, cells.next()?];
        row[0].parse::<u32>().is_ok().then_some(row)
    };
    let rows: Vec<[&str; 3]> = table.lines().filter_map(cells).collect();
    let all: Vec<_> = EventBody::ALL.iter().chain(ViewEvent::ALL).collect();
    assert_eq!(rows.len(), all.len());
    assert!(rows.is_sorted_by_key(|[id, ..]| id.parse::<u32>().ok()), "by number");
    for (id, name, level) in all {
        let level = format!("{level:?}").to_lowercase();
        let (id, name) = (id.to_string(), format!("`{name}`"));
        assert!(rows.contains(&[&*id, &*name, &*level]), "{id} {name} {level}");
    }
}

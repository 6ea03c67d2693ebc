//! Tests of numbers, names, sentences and JSON of the events. They decide nothing.

mod view;

use super::*;
use crate::core::ids::{NetworkId, NodeId, PathId};
use std::collections::BTreeSet;

fn node() -> NodeName {
    NodeName { node: "b".into(), node_id: NodeId(2) }
}

fn link() -> Link {
    Link {
        path: PathId(3),
        node: "b".into(),
        node_id: NodeId(2),
        network: "net1".into(),
        network_id: NetworkId(1),
        local_address: "10.1.0.1".parse().unwrap(),
        peer_address: "10.1.0.2".parse().unwrap(),
    }
}

fn down() -> Event {
    let path = PathEvidence {
        path: PathId(3),
        network: "net1".into(),
        peer_address: "10.1.0.2".parse().unwrap(),
        misses: 5,
        unsent: 1,
        last_heard_ns: MonoTime(1_000_000_000),
        last_departure_ns: MonoTime(1_450_000_000),
        round_trip_ns: 80_000,
    };
    let evidence = Evidence {
        silent_since_ns: MonoTime(1_000_000_000),
        cause: Cause::PeerSilent,
        never_heard: false,
        burst_ns: MonoTime(1_450_000_000),
        own_lateness_us: 120,
        said: PeerSaid { incarnation: 7, ..PeerSaid::default() },
        paths: vec![path],
    };
    let body = EventBody::NodeDown { node: node(), evidence: Box::new(evidence) };
    Event { at: MonoTime(1_000_000_000), noticed: MonoTime(1_550_000_000), body }
}

#[test]
fn numbers_and_names_are_unique_and_plain() {
    let all: Vec<_> = EventBody::ALL.iter().chain(ViewEvent::ALL).collect();
    assert_eq!(all.iter().map(|event| event.0).collect::<BTreeSet<_>>().len(), all.len());
    assert_eq!(all.iter().map(|event| event.1).collect::<BTreeSet<_>>().len(), all.len());
    for (id, name, _) in EventBody::ALL {
        assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{name}");
        assert!([1122, 1123, 1125, 1126, 1127].contains(id) || (20_000..20_100).contains(id), "{id}");
    }
}

#[test]
fn a_death_is_one_flat_object_and_one_sentence() {
    let event = down();
    assert_eq!(
        event.to_string(),
        "node b is down: silent on all of 1 paths for 550 ms; probes left this node and none was answered \
         (5 missed, 1 unsent, own lateness at most 120 us)"
    );
    let json = serde_json::to_value(&event).unwrap();
    assert_eq!(json["id"], 20_000);
    assert_eq!(json["name"], "node_down");
    assert_eq!(json["level"], "error");
    assert_eq!(json["at_ns"], 1_000_000_000_u64);
    assert_eq!(json["node"], "b");
    assert_eq!(json["node_id"], 2);
    assert_eq!(json["silent_since_ns"], 1_000_000_000_u64);
    assert_eq!(json["cause"], "peer_silent");
    assert_eq!(json["incarnation"], 7);
    assert_eq!(json["paths"][0]["misses"], 5);
    assert_eq!(json["text"], event.to_string());
}

#[test]
fn the_ladder_names_path_and_place() {
    let (misses, unsent, last_heard_ns) = (6, 0, MonoTime(9));
    let body =
        EventBody::PathFailed { link: link(), misses, unsent, last_heard_ns, location: FailLocation::PeerInterface };
    let event = Event { at: MonoTime(9), noticed: MonoTime(10), body };
    assert_eq!((event.id(), event.name(), event.level()), (1127, "path_failed", Level::Error));
    assert_eq!(
        event.to_string(),
        "b on net1 (10.1.0.1 to 10.1.0.2) has failed (6 probes unanswered, 0 unsent in a row): the fault is at the \
         peer's interface, since other peers answer here"
    );
    let json = serde_json::to_value(&event).unwrap();
    assert_eq!(json["path"], 3);
    assert_eq!(json["location"], "peer_interface");
    assert_eq!(json["peer_address"], "10.1.0.2");
}

/// One of each event whose sentence is made by the shell's side: none may fall back to its bare name.
#[test]
fn every_local_event_has_a_sentence() {
    let text = || String::from("x");
    let bodies = [
        EventBody::Started { version: text(), node: node(), incarnation: 1, generation: 1 },
        EventBody::Stopped { reason: text(), handover: true },
        EventBody::Stopped { reason: text(), handover: false },
        EventBody::IncarnationChanged { old_incarnation: 1, new_incarnation: 2, reason: text() },
        EventBody::ControllerAdopted { incarnation: 1, generation: 2 },
        EventBody::HandoverAnnounced { by: text() },
        EventBody::LinkAttached { interface: text(), mode: EchoMode::Native },
        EventBody::StepDownMode { interface: text(), from: EchoMode::Native, to: EchoMode::Userspace, reason: text() },
        EventBody::LinkDetachedForeign { interface: text(), program: Program::Xdp },
        EventBody::LinkReattached { interface: text(), program: Program::Xdp, mode: EchoMode::Generic },
        EventBody::LinkReattached { interface: text(), program: Program::Egress, mode: EchoMode::Generic },
        EventBody::PinsRestored { directory: text(), count: 1 },
        EventBody::TableRepaired { table: text(), count: 1 },
        EventBody::InterfaceAppeared { interface: text() },
        EventBody::InterfaceGone { interface: text() },
        EventBody::VlanUncertain { interface: text(), reason: text() },
        EventBody::ThreadedNapi { interface: text() },
        EventBody::SecondAddress { node: node(), address: text(), reason: text() },
        EventBody::DeparturesUnstamped { interface: text(), reason: "x y".into() },
        EventBody::PortTaken { interface: text(), address: link().local_address, port: 3343 },
        EventBody::PortFree { interface: text(), address: link().local_address, port: 3343, taken_ms: 1 },
        EventBody::AddressUnasked { address: link().local_address, reason: text() },
        EventBody::ConfigReloaded { file: text(), changes: text() },
        EventBody::ConfigRejected { file: text(), reason: text() },
        EventBody::EventsDropped { count: 1 },
        EventBody::ClockStep { step_ms: -5 },
        EventBody::RealtimeRefused { priority: 50, reason: text() },
        EventBody::MemlockRefused { reason: text() },
    ];
    let ids: BTreeSet<u32> = bodies.iter().map(EventBody::id).collect();
    let declared: BTreeSet<u32> = EventBody::ALL.iter().map(|event| event.0).filter(|id| *id >= 20_020).collect();
    assert_eq!(ids, declared);
    for body in bodies {
        let event = Event { at: MonoTime(1), noticed: MonoTime(2), body };
        assert!(event.to_string().contains(' '), "{event}");
        let json = serde_json::to_value(&event).unwrap();
        assert_eq!(json["name"], event.name());
        assert!(json.as_object().unwrap().values().all(|value| !value.is_object()), "{json}");
    }
}

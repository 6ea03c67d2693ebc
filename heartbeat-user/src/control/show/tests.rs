//! What people see. It starts nothing.

use super::super::{LatenessUs, Mode, NodeState, PacingStatus, PathState, Responder, Role, SettingsStatus, Wanted};
use super::*;

pub(crate) use super::view::tests::{quorum, view};

pub(crate) fn status() -> Status {
    Status {
        version: "0.1.0".into(),
        cluster: "demo".into(),
        cluster_id: "6f0c5d9e2a417b83".into(),
        node: "a".into(),
        node_id: 1,
        incarnation: 7,
        generation: 2,
        uptime_ms: 11_520_000,
        settings: SettingsStatus {
            profile: "lan".into(),
            same_subnet: DetectionStatus { delay_ms: 100, threshold: 5, detection_time_ms: 500 },
            cross_subnet: DetectionStatus { delay_ms: 100, threshold: 10, detection_time_ms: 1000 },
            stall_limit_ms: 500,
            hang_limit_ms: 60_000,
        },
        controller_age_ms: Some(12),
        pacing: PacingStatus {
            realtime: "fifo 50".into(),
            memory_locked: true,
            own: LoopStatus { lateness_us: LatenessUs { p50: 11.5, p99: 80.0, max: 1234.0 }, late_events: 0 },
        },
        deciding: LoopStatus::default(),
        fast_path: vec![FastPathStatus {
            interface: "eth0".into(),
            mode: Mode::Native,
            wanted: Wanted::Auto,
            reason: None,
            unstamped: None,
            vlan_tag_visible: Some(true),
            threaded_napi: Some(false),
        }],
        nodes: NodesSummary { total: 2, up: 2, ..NodesSummary::default() },
        paths: PathsSummary { total: 4, up: 4, ..PathsSummary::default() },
        isolated: false,
        view: Some(super::super::ViewGlance::of(view(), Some(&quorum()))),
        warnings: Vec::new(),
    }
}

pub(crate) fn node(name: &str, state: NodeState) -> NodeStatus {
    NodeStatus {
        name: name.into(),
        id: 2,
        state,
        since: Some("2026-01-31T12:00:00.5Z".parse().unwrap()),
        reason: "silent on every path".into(),
        incarnation: Some(3),
        generation: Some(1),
        controller_age_ms: None,
        flags: vec!["member".into(), "quorate".into()],
        paths_up: 1,
        paths_total: 2,
        last_heard_ms_ago: Some(1500),
        responder: Some(Responder::Kernel),
        settings_agree: Some(true),
    }
}

pub(crate) fn path(peer: &str, state: PathState) -> PathStatus {
    PathStatus {
        network: "net1".into(),
        role: Role::Internal,
        interface: Some("eth0".into()),
        local: "10.1.0.1".parse().unwrap(),
        peer_node: peer.into(),
        peer_address: "10.1.0.2".parse().unwrap(),
        same_subnet: true,
        state,
        since: None,
        mode: Mode::Native,
        misses: 0,
        unsent: 0,
        delay_ms: 100,
        threshold: 5,
        last_heard_ms_ago: Some(42),
        rtt_us: None,
        sent: 1000,
        departed: 1000,
        echoes: 999,
        late_echoes: 1,
        probes_answered: 1001,
        loss_percent: Some(0.1),
        vlan: 0,
    }
}

#[test]
fn status_at_a_glance() {
    let text = show_status(&status());
    assert_eq!(text.lines().count(), 10, "{text}");
    assert!(text.starts_with("health     all is well\n"), "{text}");
    for part in [
        "node       a (id 1) of cluster demo (6f0c5d9e2a417b83), incarnation 7, generation 2, up 3h12m, version 0.1.0",
        "view       0.7 (00112233445566aa), in force of a, b; member, stabilized\n",
        "lease      432ms of 500ms left; votes of a; LAST DISK: a's disk",
        "peers      2: 2 up",
        "paths      4: 4 up",
        "same subnet 100 ms x 5 = 500ms, cross subnet 100 ms x 10 = 1s; stalled after 500ms, hung after 1m0s (profile lan)",
        "fast path  eth0 native\n",
        "pacing     fifo 50, memory locked, late by 11.5us / 80.0us / 1.23ms (p50/p99/max), 0 late",
        "progress proved 12 ms ago",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
}

#[test]
fn status_names_what_is_wrong() {
    let mut status = status();
    status.fast_path[0].mode = Mode::Generic;
    status.fast_path[0].reason = Some("the driver has no native XDP".into());
    status.fast_path[0].threaded_napi = Some(true);
    status.nodes = NodesSummary::of(&[node("b", NodeState::Up), node("c", NodeState::Down)]);
    status.paths = PathsSummary::of(&[path("b", PathState::Up), path("c", PathState::Failed)]);
    status.warnings = vec!["the kernel is old".into()];
    let text = show_status(&status);
    for part in [
        "degraded: 1 of 2 peers down; 1 of 2 paths failed; eth0 is generic, wanted auto",
        "eth0 generic (FALLEN BACK, wanted auto: the driver has no native XDP) (threaded NAPI: can be starved)",
        "peers      2: 1 up, 1 down",
        "paths      2: 1 up, 1 failed",
        "warning    the kernel is old",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    status.isolated = true;
    assert!(status.faults()[0].starts_with("cut off"));
    let held = status.view.as_mut().unwrap();
    (held.acting, held.not_acting) = (false, Some("no majority".into()));
    assert_eq!(status.faults()[1], "may not act in view 0.7: no majority");
    status.view = None;
    assert!(status.faults()[1].starts_with("1 of 2 peers"), "no view at all is no fault: {:?}", status.faults());
    assert!(show_status(&status).contains("view       none: the cluster was not initialised"));
}

#[test]
fn falling_back_is_judged_against_what_was_wanted() {
    let mut fast = status().fast_path.remove(0);
    let good = [
        (Wanted::Auto, Mode::Native),
        (Wanted::Native, Mode::Native),
        (Wanted::Generic, Mode::Generic),
        (Wanted::Off, Mode::Userspace),
    ];
    for wanted in [Wanted::Auto, Wanted::Native, Wanted::Generic, Wanted::Off] {
        for mode in [Mode::Native, Mode::Generic, Mode::Userspace, Mode::Detached] {
            (fast.wanted, fast.mode) = (wanted, mode);
            assert_eq!(fast.fallen_back(), !good.contains(&(wanted, mode)), "{wanted} {mode}");
        }
    }
}

#[test]
fn tables_have_one_line_a_row() {
    let mut long = node("b", NodeState::Hung);
    long.reason = "x".repeat(300) + "\n\x1b[2Jy";
    let text = show_nodes(&[node("a", NodeState::Up), long], true);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(lines[0].starts_with("NODE  ID  STATE"), "{text}");
    assert!(lines[1].contains("2026-01-31T12:00:00.500Z  1/2    1.500s  -    3.1"), "{text}");
    assert!(!text.contains('\x1b') && !text.contains('|'));
    assert_eq!(show_nodes(&[node("a", NodeState::Up)], false).lines().count(), 1);
    assert_eq!(show_nodes(&[], false), "");
}

#[test]
fn paths_and_counters() {
    let mut one = path("b", PathState::Up);
    one.rtt_us = Some(RttUs { p50: 49.15, p99: 65.0, max: 1500.0, ..RttUs::default() });
    one.vlan = 7;
    // Of a path that no probe is known to have left by, no loss is known.
    let mut blind = path("c", PathState::Unknown);
    (blind.departed, blind.loss_percent) = (0, None);
    let text = show_paths(&[one, blind], true);
    assert_eq!(text.matches('%').count(), 1, "{text}");
    assert!(text.lines().nth(2).unwrap().trim_end().ends_with(" -"), "{text}");
    assert!(text.contains("eth0 vlan 7") && text.contains("49.1us") && text.contains("1.50ms"), "{text}");
    assert!(text.contains("100msx5") && text.contains("0.100%"), "{text}");
    assert_eq!(text.lines().count(), 3);
    let row = CounterRow { name: "answered".into(), value: 12, meaning: "authentic probe".into() };
    assert_eq!(show_counters(&[row], true), "COUNTER   VALUE  MEANING\nanswered     12  authentic probe\n");
}

#[test]
fn events_are_one_line_and_bear_missing_fields() {
    let event = serde_json::json!({"time": "2026-01-31T12:00:00Z", "level": "warn", "id": 20000, "event": "node_down",
        "message": "b is down\nsilent"});
    assert_eq!(show_event(&event), "2026-01-31T12:00:00Z warn  20000 node_down: b is down silent");
    assert_eq!(show_event(&serde_json::Value::Null), "- -         - -: -");
}

#[test]
fn durations() {
    for (ms, text) in [
        (0, "0ms"),
        (999, "999ms"),
        (1000, "1s"),
        (59_999, "59.999s"),
        (60_000, "1m0s"),
        (3_599_999, "59m59s"),
        (3_600_000, "1h0m"),
        (86_400_000, "1d0h"),
        (u64::MAX, "213503982334d14h"),
    ] {
        assert_eq!(duration(ms), text);
    }
}

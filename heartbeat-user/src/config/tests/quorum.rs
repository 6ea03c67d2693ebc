//! The settings of views: what follows from what, every rule broken once, and what they add up to.

use super::bad::{appended, case, setting};
use super::*;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[test]
fn what_is_not_given_follows_from_the_profile_and_the_delays() {
    // Lease, tick, time-outs, control limit.
    let expected = [
        ("lan", 500, 50, 500, 1000),
        ("wsfc-2003", 20_000, 300, 5000, 14_400),
        ("wsfc-2008", 20_000, 300, 5000, 10_000),
        ("wsfc-2016", 20_000, 300, 5000, 40_000),
    ];
    for (name, lease, tick, timeout, control) in expected {
        let Settings { quorum, regroup, .. } = settings(&format!("profile = \"{name}\""));
        let (tick, timeout, control_limit) = (ms(tick), ms(timeout), ms(control));
        let [opening_timeout, stage_timeout, pruning_timeout] = [timeout; 3];
        assert_eq!(regroup, Regroup { tick, opening_timeout, stage_timeout, pruning_timeout, control_limit }, "{name}");
        let expected = Quorum {
            lease: ms(lease),
            stop_time: Duration::ZERO,
            dynamic: true,
            lower_priority: None,
            quarantine_threshold: 3,
            quarantine_duration: ms(7_200_000),
        };
        assert_eq!(quorum, expected, "{name}");
    }
}

#[test]
fn the_default_lease_keeps_its_own_rule() {
    let lease = |lines: &str| settings(lines).quorum.lease;
    assert_eq!(lease("stop_time_s = 1.25"), ms(1750), "stopping comes on top of the detection time");
    assert_eq!(lease("cross_subnet_threshold = 9"), ms(900), "of the longer of the two");
    assert_eq!(lease("same_subnet_threshold = 2\ncross_subnet_threshold = 2"), ms(300), "three delays at least");
    assert_eq!(lease("same_subnet_delay_ms = 1\ncross_subnet_delay_ms = 1"), ms(100), "the shortest there is");
    assert_eq!(lease("profile = \"wsfc-2016\"\nstop_time_s = 16"), ms(20_000));
    assert_eq!(lease("profile = \"wsfc-2016\"\nstop_time_s = 30"), ms(33_000));
    let slow = "same_subnet_delay_ms = 10_000\nsame_subnet_threshold = 120\nhang_limit_s = 1300\nstop_time_s = 2390";
    assert_eq!(lease(slow), ms(3_590_000));
    let ticks = settings("regroup_tick_ms = 1000").regroup;
    assert_eq!((ticks.opening_timeout, ticks.control_limit), (ms(2000), ms(2000)), "two ticks at least");
}

#[test]
fn wsfc_spellings_have_wsfc_units() {
    let given = settings(
        "QuorumArbitrationTimeMax = 20\nDynamicQuorum = 0\nLowerQuorumPriorityNodeID = 2\nQuarantineThreshold = 0\n\
         QuarantineDuration = 0xFFFF_FFFF\nClusSvcRegroupTickInMilliseconds = 300\nClusSvcRegroupOpeningTimeout = 5\n\
         ClusSvcRegroupStageTimeout = 6\nClusSvcRegroupPruningTimeout = 7",
    );
    assert_eq!((given.quorum.lease, given.quorum.dynamic, given.quorum.lower_priority), (ms(20_000), false, Some(2)));
    assert_eq!((given.quorum.quarantine_threshold, given.quorum.quarantine_duration.as_secs()), (0, 4_294_967_295));
    let Regroup { tick, opening_timeout, stage_timeout, pruning_timeout, .. } = given.regroup;
    assert_eq!([tick, opening_timeout, stage_timeout, pruning_timeout], [ms(300), ms(5000), ms(6000), ms(7000)]);
    let weight = |line: &str| good(&GOOD.replace("id = 1", &format!("id = 1\n{line}"))).nodes[0].weight;
    assert_eq!((weight("NodeWeight = 0"), weight("weight = 1"), weight("")), (0, 1, 1));
    setting(
        "ClusSvcRegroupStageTimeout = 61",
        &["5:30: settings.regroup_stage_timeout_ms: must be 1 to 60 s (got 61)"],
    );
    setting(
        "ClusSvcRegroupStageTimeout = 5\nregroup_stage_timeout_ms = 5000",
        &["6:1: settings.regroup_stage_timeout_ms: is given twice, in two spellings"],
    );
}

#[test]
fn the_preferred_node_is_a_node_of_the_configuration() {
    let lower = |value: &str| settings(&format!("lower_quorum_priority_node = {value}")).quorum.lower_priority;
    for (value, node) in [("\"a\"", Some(1)), ("\"B\"", Some(2)), ("1", Some(1)), ("0", None), ("\"\"", None)] {
        assert_eq!(lower(value), node, "{value}");
    }
    let wrong = |value: &str, rule: &str| {
        let fault = format!("5:30: settings.lower_quorum_priority_node: {rule} (got {value})");
        setting(&format!("lower_quorum_priority_node = {value}"), &[fault.as_str()]);
    };
    wrong("\"c\"", "must be the name or the id of a configured node");
    wrong("3", "must be the name or the id of a configured node");
    wrong("65536", "must be 0 to 65535");
    wrong("\"a b\"", "must be the name or the id of a node");
    wrong("true", "must be a string");
    // Where a node could not be read, which there are is not known.
    let text = GOOD.replace("[settings]", "[settings]\nlower_quorum_priority_node = \"c\"").replace("id = 2", "id = 0");
    let errors = parse("t.toml", text.as_bytes()).unwrap_err();
    assert_eq!(errors.0.iter().map(|fault| fault.key.as_str()).collect::<Vec<_>>(), ["node[2].id"]);
}

#[test]
fn seconds_have_at_most_three_decimals() {
    let lease = |value: &str| settings(&format!("quorum_arbitration_time_max_s = {value}")).quorum.lease;
    for (value, expected) in
        [("1", 1000), ("0.3", 300), ("1.001", 1001), ("4.35", 4350), ("3600", 3_600_000), ("3_599.999", 3_599_999)]
    {
        assert_eq!(lease(value), ms(expected), "{value}");
    }
    let wrong = |got: &str, kind: &str| {
        let rule = format!("must be {kind}0.1 to 3600 s, with at most 3 decimals");
        let fault = format!("5:33: settings.quorum_arbitration_time_max_s: {rule} (got {got})");
        setting(&format!("quorum_arbitration_time_max_s = {got}"), &[fault.as_str()]);
    };
    for got in ["0", "0.099", "0.0999", "3600.001", "-1", "1.0005", "nan", "inf", "1e300", "99999999999999999999999999"]
    {
        wrong(got, "");
    }
    for got in ["\"20\"", "true", "[20]"] {
        wrong(got, "a number, ");
    }
    let stop = "5:15: settings.stop_time_s: must be 0 to 3600 s, with at most 3 decimals (got -0.5)";
    setting("stop_time_s = -0.5", &[stop]);
}

#[test]
fn rules_between_the_settings_of_views() {
    let rule = "quorum_arbitration_time_max_s must exceed stop_time_s by at least 3 of the longest delay";
    let lease = |lines: &str, got: &str| {
        let fault = format!("5:33: settings.quorum_arbitration_time_max_s: {rule}, 100 ms (got {got})");
        setting(lines, &[fault.as_str()]);
    };
    lease("quorum_arbitration_time_max_s = 0.299", "299 ms and 0 ms by default");
    lease("quorum_arbitration_time_max_s = 2\nstop_time_s = 1.701", "2000 ms and 1701 ms");
    assert_eq!(settings("quorum_arbitration_time_max_s = 2\nstop_time_s = 1.7").quorum.stop_time, ms(1700));
    setting(
        "stop_time_s = 3600",
        &[&format!("5:15: settings.stop_time_s: {rule}, 100 ms (got 3600000 ms by default and 3600000 ms)")],
    );
    let ticks = |key: &str, at: usize| {
        let fault = format!("6:{at}: settings.{key}: must be at least 2 x regroup_tick_ms, 400 (got 799)");
        setting(&format!("regroup_tick_ms = 400\n{key} = 799"), &[fault.as_str()]);
        settings(&format!("regroup_tick_ms = 400\n{key} = 800"));
    };
    ticks("regroup_opening_timeout_ms", 30);
    ticks("regroup_stage_timeout_ms", 28);
    ticks("regroup_pruning_timeout_ms", 30);
    ticks("control_limit_ms", 20);
    setting("regroup_tick_ms = 9", &["5:19: settings.regroup_tick_ms: must be 10 to 1000 ms (got 9)"]);
    setting("quarantine_threshold = 101", &["5:24: settings.quarantine_threshold: must be 0 to 100 (got 101)"]);
    setting("quarantine_duration_s = 0", &["5:25: settings.quarantine_duration_s: must be 1 to 4294967295 s (got 0)"]);
    setting("dynamic_quorum = 2", &["5:18: settings.dynamic_quorum: must be 0 to 1 (got 2)"]);
    setting("dynamic_quorum = \"yes\"", &["5:18: settings.dynamic_quorum: must be true or false (got \"yes\")"]);
}

#[test]
fn somebody_has_a_vote() {
    case("id = 1", "id = 1\nweight = 2", &["12:10: node[1].weight: must be 0 to 1 (got 2)"]);
    let none = GOOD.replace("id = 1", "id = 1\nweight = 0").replace("id = 2", "id = 2\nweight = 0");
    let errors = parse("t.toml", none.as_bytes()).unwrap_err().to_string();
    assert_eq!(errors, "t.toml:12:10: node[1].weight: at least one node must have weight 1 (got 0 for each)");
}

#[test]
fn what_the_daemon_does_with_a_view() {
    let hooks = "[daemon]\nlease_pin = \"/r/lease\"\nleave_timeout_s = 9\nwatchdog_device = \"/dev/watchdog0\"\n\
                 on_event = [\"/h//b\", \"/h/a\"]\nhook_events = [\"node_down\", \"20001\"]\nhook_timeout_s = 3";
    let daemon = good(&format!("{GOOD}{hooks}")).daemon;
    assert_eq!((daemon.lease_pin.to_str(), daemon.leave_timeout), (Some("/r/lease"), ms(9000)));
    assert_eq!(daemon.watchdog_device, Some(PathBuf::from("/dev/watchdog0")));
    let events = vec![HookEvent { id: 20_000, name: "node_down" }, HookEvent { id: 20_001, name: "node_up" }];
    let programs = vec![PathBuf::from("/h/b"), PathBuf::from("/h/a")];
    assert_eq!(daemon.hooks, Hooks { programs, events, timeout: ms(3000) });
    let path = "must be an absolute path without \"..\", of at most 1024 bytes";
    let event = "must be the name or the id of an event";
    appended(
        "[daemon]\non_event = [\"hook\"]\nhook_events = [\"node_dwon\", \"1\"]\nhook_timeout_s = 0",
        &[
            &format!("18:13: daemon.on_event[1]: {path} (got \"hook\")"),
            &format!("19:16: daemon.hook_events[1]: {event}, did you mean \"node_down\"? (got \"node_dwon\")"),
            &format!("19:29: daemon.hook_events[2]: {event} (got \"1\")"),
            "20:18: daemon.hook_timeout_s: must be 1 to 3600 s (got 0)",
        ],
    );
    appended(
        "[daemon]\non_event = [\"/h\", \"/h/\"]\nhook_events = [\"node_up\", \"20001\"]",
        &[
            "18:19: daemon.on_event[2]: must be unique (got /h, also daemon.on_event[1] in line 18)",
            "19:27: daemon.hook_events[2]: must be unique (got node_up, also daemon.hook_events[1] in line 19)",
        ],
    );
    appended(
        "[daemon]\nleave_timeout_s = 601\nwatchdog_device = \"dog\"",
        &[
            "18:19: daemon.leave_timeout_s: must be 1 to 600 s (got 601)",
            &format!("19:19: daemon.watchdog_device: {path} (got \"dog\")"),
        ],
    );
    let closed = "lease_pin must not lie in pin_dir, which nobody else may pass through";
    for (lines, key, lease_pin, pin_dir) in [
        ("lease_pin = \"/sys/fs/bpf/heartbeatd/x\"", "13: daemon.lease_pin", "heartbeatd/x", "heartbeatd"),
        (
            "pin_dir = \"/sys/fs/bpf/heartbeatd-lease\"",
            "11: daemon.pin_dir",
            "heartbeatd-lease/lease",
            "heartbeatd-lease",
        ),
    ] {
        let (lease_pin, pin_dir) = (format!("/sys/fs/bpf/{lease_pin}"), format!("/sys/fs/bpf/{pin_dir}"));
        let fault = format!("18:{key}: {closed} (got {lease_pin}, and daemon.pin_dir is {pin_dir})");
        appended(&format!("[daemon]\n{lines}"), &[fault.as_str()]);
    }
}

#[test]
fn the_budget_adds_up() {
    let budget = Budget::of(&settings("stop_time_s = 0.2\nquorum_arbitration_time_max_s = 2"));
    let expected =
        Budget { detection: ms(500), verdict: ms(625), view: ms(1625), take_over: ms(1625 + 2003), act: ms(1800) };
    assert_eq!(budget, expected);
    assert_eq!(
        budget.to_string(),
        "a dead node is silent for 500ms, down within 625ms, out of the view within 1.625s and taken over from within \
         3.628s; a node that is cut off acts for 1.8s at most"
    );
    let cross = Budget::of(&settings("profile = \"wsfc-2016\""));
    assert_eq!((cross.detection, cross.verdict), (ms(20_000), ms(21_250)));
}

#[test]
fn what_surprises_people_is_said_before() {
    let warnings = |text: &str| good(text).warnings();
    let one = |text: &str, part: &str| {
        let said = warnings(text);
        assert!(matches!(&said[..], [only] if only.contains(part)), "{said:?}");
    };
    one(GOOD, "one of the two decides alone");
    one(&GOOD.replace("profile = \"lan\"", "dynamic_quorum = false"), "neither goes on without the other");
    assert_eq!(warnings(&GOOD.replace("id = 1", "id = 1\nweight = 0")), [""; 0], "one vote is no surprise");
    assert_eq!(warnings(ROUTED), [""; 0]);
    one(
        &ROUTED.replace("[settings]", "[settings]\nquorum_arbitration_time_max_s = 0.499"),
        "shorter than the detection",
    );
    let nodes = |count: usize| {
        let node = |id: usize| format!("[[node]]\nname = \"n{id}\"\nid = {id}\naddresses = [\"10.1.0.{id}\"]\n");
        format!("{GOOD}{}", (3..=count).map(node).collect::<String>())
    };
    assert_eq!(warnings(&nodes(64)), [""; 0]);
    one(&nodes(65), "65 nodes: a view holds at most 64");
}

//! Command lines, exit codes and the service manager's facts. It starts nothing.

use super::*;
use crate::control::SettingChange;
use clap::CommandFactory;
use std::time::Duration;

#[test]
fn definitions_are_consistent() {
    Heartbeatd::command().debug_assert();
    Heartbeatctl::command().debug_assert();
}

#[test]
fn heartbeatd_runs_by_default() {
    let DaemonCommand::Run(run) = Heartbeatd::try_parse_from(["heartbeatd"]).unwrap().into_command() else {
        panic!("run is the default");
    };
    assert_eq!(run.config.config, PathBuf::from(DEFAULT_CONFIG));
    assert_eq!(run.log_level, log::LevelFilter::Info);
    let line = ["heartbeatd", "--config", "/x", "--log-level", "debug", "--foreground"];
    let DaemonCommand::Run(run) = Heartbeatd::try_parse_from(line).unwrap().into_command() else {
        panic!("run is the default with options too");
    };
    assert_eq!((run.config.config, run.log_level), (PathBuf::from("/x"), log::LevelFilter::Debug));
    let line = ["heartbeatd", "run", "--bpf-object", "/o"];
    let DaemonCommand::Run(run) = Heartbeatd::try_parse_from(line).unwrap().into_command() else {
        panic!("run was named");
    };
    assert_eq!(run.bpf_object, Some(PathBuf::from("/o")));
}

#[test]
fn heartbeatd_subcommands() {
    let parse = |line: &[&str]| Heartbeatd::try_parse_from(line).map(Heartbeatd::into_command);
    let Ok(DaemonCommand::Check(check)) = parse(&["heartbeatd", "check", "--watchdog", "1min 30s"]) else {
        panic!("check");
    };
    assert_eq!(check.watchdog, Some(Watchdog::Every(Duration::from_secs(90))));
    assert!(matches!(parse(&["heartbeatd", "genkey", "/k"]), Ok(DaemonCommand::Genkey(_))));
    assert!(matches!(parse(&["heartbeatd", "mark-left", "--config", "/c"]), Ok(DaemonCommand::MarkLeft(_))));
    assert_eq!(parse(&["heartbeatd", "genkey"]).unwrap_err().exit_code(), ExitCode::Usage as i32);
    assert_eq!(parse(&["heartbeatd", "run", "--log-level", "loud"]).unwrap_err().exit_code(), 2);
}

#[test]
fn heartbeatctl_takes_global_options_after_the_verb() {
    let line = ["heartbeatctl", "paths", "--json", "--no-headers", "--socket", "/s"];
    let ctl = Heartbeatctl::try_parse_from(line).unwrap();
    assert!(ctl.json && ctl.no_headers);
    assert_eq!(ctl.socket, Some(PathBuf::from("/s")));
    assert_eq!(ctl.verb.request(), Request::Paths {});
    assert_eq!(Heartbeatctl::try_parse_from(["heartbeatctl", "poke"]).unwrap_err().exit_code(), 2);
    assert_eq!(Heartbeatctl::try_parse_from(["heartbeatctl", "events", "--since", "x"]).unwrap_err().exit_code(), 2);
}

#[test]
fn heartbeatctl_changes_the_cluster() {
    let request =
        |line: &[&str]| Heartbeatctl::try_parse_from([&["heartbeatctl"], line].concat()).map(|ctl| ctl.verb.request());
    let set = |setting| Request::Set { setting };
    let node = || "c".to_owned();
    for (line, expected) in [
        (&["view"][..], Request::View {}),
        (&["quorum"], Request::Quorum {}),
        (&["init", "demo"], Request::Init { cluster: "demo".into() }),
        (&["leave"], Request::Leave {}),
        (&["fence", "c", "demo"], Request::Fence { node: node(), cluster: "demo".into() }),
        (&["clear-quarantine", "c"], Request::ClearQuarantine { node: node() }),
        (&["force-quorum", "demo"], Request::ForceQuorum { cluster: "demo".into() }),
        (&["set", "node_weight", "c", "0"], set(SettingChange::NodeWeight { node: node(), weight: 0 })),
        (&["set", "NodeWeight", "c", "1"], set(SettingChange::NodeWeight { node: node(), weight: 1 })),
        (
            &["set", "quorum_arbitration_time_max_s", "0.5"],
            set(SettingChange::QuorumArbitrationTimeMax { lease_ms: 500 }),
        ),
        (&["set", "QuorumArbitrationTimeMax", "20"], set(SettingChange::QuorumArbitrationTimeMax { lease_ms: 20_000 })),
        (&["set", "stop_time_s", "2"], set(SettingChange::StopTime { stop_ms: 2000 })),
        (
            &["set", "lower_quorum_priority_node", "c"],
            set(SettingChange::LowerQuorumPriorityNode { node: Some(node()) }),
        ),
        (&["set", "LowerQuorumPriorityNodeID", "none"], set(SettingChange::LowerQuorumPriorityNode { node: None })),
        (&["set", "LowerQuorumPriorityNodeId", "none"], set(SettingChange::LowerQuorumPriorityNode { node: None })),
        (&["set", "DynamicQuorum", "0"], set(SettingChange::DynamicQuorum { dynamic: false })),
        (&["set", "dynamic_quorum", "true"], set(SettingChange::DynamicQuorum { dynamic: true })),
    ] {
        assert_eq!(request(line).unwrap(), expected, "{line:?}");
    }
    for wrong in [
        &["init"][..],
        &["fence", "c"],
        &["force-quorum"],
        &["clear-quarantine"],
        &["set"],
        &["set", "poke", "1"],
        &["set", "node_weight", "c", "2"],
        &["set", "node_weight", "c"],
        &["set", "stop_time_s", "soon"],
        &["set", "dynamic_quorum", "maybe"],
        &["leave", "demo"],
    ] {
        assert_eq!(request(wrong).unwrap_err().exit_code(), ExitCode::Usage as i32, "{wrong:?}");
    }
}

#[test]
fn a_start_is_forced_or_prevented_never_both() {
    let run = |line: &[&str]| {
        let line = Heartbeatd::try_parse_from([&["heartbeatd"], line].concat())?;
        let DaemonCommand::Run(run) = line.into_command() else { panic!("run is the default") };
        Ok::<_, clap::Error>(run.quorum)
    };
    assert_eq!(run(&[]).unwrap(), QuorumArgs::default());
    assert_eq!(run(&["run", "--force-quorum", "demo"]).unwrap().forced("demo"), Ok(true));
    assert_eq!(run(&["--force-quorum", "demo"]).unwrap().force_quorum.as_deref(), Some("demo"));
    assert!(run(&["run", "--prevent-quorum"]).unwrap().prevent_quorum);
    assert_eq!(run(&["run", "--force-quorum"]).unwrap_err().exit_code(), 2);
    assert_eq!(run(&["run", "--force-quorum", "demo", "--prevent-quorum"]).unwrap_err().exit_code(), 2);
}

#[test]
fn every_verb_and_exit_code_is_taught() {
    let help = Heartbeatctl::command().render_long_help().to_string();
    for code in ["0  ", "1  ", "2  ", "3  ", "4  ", "5  ", "9  "] {
        assert!(help.contains(&format!("\n  {code}")), "{code}");
    }
    assert!(help.contains(DEFAULT_SOCKET), "{help}");
    for verb in crate::control::Verb::ALL {
        assert!(help.contains(verb.name()), "{}", verb.name());
    }
    let help = Heartbeatd::command().render_long_help().to_string();
    for code in ["0  ", "1  ", "2  ", "6  ", "7  ", "8  ", "10 "] {
        assert!(help.contains(&format!("\n  {code}")), "{code}");
    }
}

#[test]
fn since_takes_durations_times_and_now() {
    let now: Timestamp = "2026-01-31T12:00:00Z".parse().unwrap();
    let at = |text: &str| since::since(text, now).map(|at| at.to_string());
    assert_eq!(at("90s").unwrap(), "2026-01-31T11:58:30Z");
    assert_eq!(at("1h30m").unwrap(), "2026-01-31T10:30:00Z");
    assert_eq!(at("1d").unwrap(), "2026-01-30T12:00:00Z");
    assert_eq!(at("2026-01-01T00:00:00+01:00").unwrap(), "2025-12-31T23:00:00Z");
    assert_eq!(at("now").unwrap(), "2026-01-31T12:00:00Z");
    for bad in ["", "x", "10", "1 month", "-5m", "99999999999999h", "2026-13-01T00:00:00Z"] {
        assert!(at(bad).is_err(), "{bad}");
    }
}

#[test]
fn watchdog_must_outlast_the_hang_limit() {
    let hang = Duration::from_secs(60);
    assert!(check_watchdog(Watchdog::Off, hang).is_ok());
    assert!(check_watchdog(Watchdog::Every(hang + Duration::from_nanos(1)), hang).is_ok());
    let error = check_watchdog(Watchdog::Every(hang), hang).unwrap_err().to_string();
    assert!(error.contains("watchdog (60 s)") && error.contains("hang_limit_s (60 s)"), "{error}");
}

#[test]
fn time_spans_of_the_manager() {
    let every = |us| Ok(Watchdog::Every(Duration::from_micros(us)));
    for (text, expected) in [
        ("90", every(90_000_000)),
        ("1min 30s", every(90_000_000)),
        ("2h", every(7_200_000_000)),
        ("1 d 5us", every(86_400_000_005)),
        ("250ms\n", every(250_000)),
        ("0", Ok(Watchdog::Off)),
        ("infinity", Ok(Watchdog::Off)),
    ] {
        assert_eq!(parse_time_span(text), expected, "{text}");
    }
    for bad in ["", "s", "5x", "-1s", "1.5s", "99999999999999999999s", "18446744073709551615h", "ß"] {
        assert!(parse_time_span(bad).is_err(), "{bad}");
    }
}

#[test]
fn mark_left_only_when_the_manager_gave_up() {
    let facts = |pairs: &[(&str, &str)]| {
        ServiceFacts::read(|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
    };
    let verdict = |pairs: &[(&str, &str)]| mark_left_verdict(&facts(pairs));
    let nothing = |pairs: &[(&str, &str)]| assert!(matches!(verdict(pairs), MarkLeft::Nothing(_)), "{pairs:?}");
    assert_eq!(verdict(&[]), MarkLeft::Mark, "by hand");
    nothing(&[("SERVICE_RESULT", "success"), ("EXIT_STATUS", "0")]);
    nothing(&[("SERVICE_RESULT", "signal"), ("EXIT_STATUS", "KILL")]);
    nothing(&[("SERVICE_RESULT", "watchdog"), ("EXIT_STATUS", "ABRT")]);
    nothing(&[("SERVICE_RESULT", "exit-code"), ("EXIT_STATUS", "1")]);
    nothing(&[("SERVICE_RESULT", "exit-code"), ("EXIT_STATUS", "8")]);
    nothing(&[("SERVICE_RESULT", "exit-code"), ("EXIT_STATUS", "7")]);
    nothing(&[("SERVICE_RESULT", "signal"), ("EXIT_STATUS", "6")]);
    assert_eq!(verdict(&[("SERVICE_RESULT", "exit-code"), ("EXIT_STATUS", "6")]), MarkLeft::Mark);
    assert_eq!(verdict(&[("SERVICE_RESULT", "exit-code"), ("EXIT_STATUS", "2")]), MarkLeft::Mark);
    assert_eq!(verdict(&[("MONITOR_SERVICE_RESULT", "start-limit-hit")]), MarkLeft::Mark);
    assert_eq!(verdict(&[("MONITOR_SERVICE_RESULT", "signal")]), MarkLeft::AskManager);
    nothing(&[("MONITOR_SERVICE_RESULT", "exit-code"), ("MONITOR_EXIT_STATUS", "7")]);
    assert_eq!(verdict(&[("MONITOR_SERVICE_RESULT", "exit-code"), ("MONITOR_EXIT_STATUS", "6")]), MarkLeft::Mark);
    assert_eq!(verdict(&[("MONITOR_SERVICE_RESULT", "exit-code"), ("MONITOR_EXIT_STATUS", "1")]), MarkLeft::AskManager);
    assert!(gave_up("failed\n") && gave_up("inactive"));
    assert!(!gave_up("activating") && !gave_up("active") && !gave_up("deactivating") && !gave_up(""));
}

#[test]
fn exit_codes_are_their_numbers() {
    for (number, code) in ExitCode::ALL.into_iter().enumerate() {
        assert_eq!(code as usize, number);
    }
}

#[test]
fn who_was_fenced_is_started_again() {
    assert!(!ExitCode::Fenced.prevents_restart() && !ExitCode::NotQuorate.prevents_restart());
}

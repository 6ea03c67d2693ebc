//! What a daemon is composed of, each part in a real one: the page that services read, hooks, the watchdog device, what
//! its disk tells its next start, newer incarnations, reloads, and the verbs that ask for a change.

use heartbeat_common::lease::{Refused, Token};
use heartbeat_tests::lab::crew::{Crew, Mark, PATIENCE, refused};
use heartbeat_tests::lab::wait::{binary, root_or_skip};
use heartbeat_tests::lab::{Cluster, Lab, Options, Spec, safety, wait_for};
use heartbeat_user::lease::{Lease, Owner, Places, text};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(30);

/// The answer of `heartbeatctl view`.
fn view(crew: &Crew, node: usize) -> Value {
    // Exit code 9 says that it may not act; the answer is there all the same.
    let shown = crew.daemon(node).ctl(&["--json", "view"]).unwrap();
    serde_json::from_slice(&shown.stdout).unwrap_or_else(|error| panic!("{error}: {shown:?}"))
}

fn members(view: &Value) -> Vec<String> {
    let members = view["view"]["members"].as_array().cloned().unwrap_or_default();
    members.iter().map(|member| member["name"].as_str().unwrap_or_default().to_owned()).collect()
}

/// Waits until each of `nodes` is a member that may act, in one view of just these.
fn await_view(crew: &Crew, nodes: &[usize]) -> Value {
    let names: Vec<String> = nodes.iter().map(|node| crew.name(*node).to_owned()).collect();
    wait_for(LONG, "one view of them all, in force", || {
        let all: Vec<Value> = nodes.iter().map(|node| view(crew, *node)).collect();
        let fits = |one: &Value| {
            members(one) == names && one["life"] == "member" && one["acting"] == true && one["view"] == all[0]["view"]
        };
        if all.iter().all(fits) { Ok(all[0].clone()) } else { Err(format!("{all:?}")) }
    })
    .unwrap()
}

/// So many nodes that run a daemon, in a cluster of two at least; it is created on the first and joined by the others.
fn formed(nodes: usize, settings: &[(&str, &str)], options: &Options<'_>) -> Crew {
    let lab = Lab::new(Spec::new(nodes.max(2), 2)).unwrap();
    let cluster = settings
        .iter()
        .fold(Cluster::new(&lab, "lan").with("stall_limit_ms", 4000), |cluster, (key, value)| cluster.with(key, value));
    let mut crew = Crew::new(lab, cluster);
    (0..nodes).for_each(|node| crew.start(node, options).unwrap());
    crew.all_up().unwrap();
    asked(&crew, 0, &["init", "lab"]);
    await_view(&crew, &(0..nodes).collect::<Vec<_>>());
    crew
}

/// Asks a node for something that it does.
fn asked(crew: &Crew, node: usize, words: &[&str]) -> String {
    let output = crew.daemon(node).ctl(words).unwrap();
    assert!(output.status.success(), "{words:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn places(crew: &Crew, node: usize) -> Places {
    let socket = crew.lab.node_dir(node).join("run/lease.sock");
    Places { socket, pin: None, owner: Owner::default() }
}

fn lease_pin(crew: &Crew, node: usize) -> PathBuf {
    crew.lab.pin_dir(node).join("heartbeatd-lease/lease")
}

fn acting(lease: &Lease) -> Result<Token, Refused> {
    lease.acting()
}

const PROGRAM: &str = r#"#include "heartbeat_lease.h"
int main(int count, char **words)
{
    hb_lease lease;
    hb_token token;
    char text[48];
    if (count != 2 || hb_lease_open(&lease, words[1]) != 0)
        return 3;
    hb_refused refused = hb_lease_acting(&lease, &token);
    hb_token_text(&token, text, sizeof text);
    printf("%d %s", (int)refused, text);
    hb_lease_close(&lease);
    return 0;
}
"#;

/// Compiles a program of somebody else's that asks the page.
fn program(crew: &Crew) -> PathBuf {
    let (source, to) = (crew.lab.scratch().join("asks.c"), crew.lab.scratch().join("asks"));
    std::fs::write(&source, PROGRAM).unwrap();
    let include = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging");
    let mut cc = Command::new("cc");
    cc.args(["-std=c11", "-D_GNU_SOURCE", "-Wall", "-Werror", "-I", include, "-o"]).arg(&to).arg(&source);
    let made = cc.output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    to
}

/// Asks a verb of the first node's page, its socket and then this pin: the exit code, and what it said.
fn by_pin(crew: &Crew, verb: &[&str], pin: &Path) -> (Option<i32>, String) {
    let mut ctl = crew.lab.node(0).command(binary("heartbeatctl", "HEARTBEATCTL").unwrap());
    ctl.args(verb).arg("--lease-socket").arg(places(crew, 0).socket).arg("--lease-pin").arg(pin);
    let output = ctl.output().unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn services_read_the_page_that_the_kernel_keeps_and_it_outlives_the_daemon() {
    if !root_or_skip("services_read_the_page_that_the_kernel_keeps_and_it_outlives_the_daemon") {
        return;
    }
    let mut crew = formed(1, &[], &Options::default());
    let lease = Lease::open(&places(&crew, 0)).unwrap();
    let token = acting(&lease).unwrap();
    assert!(lease.end() > heartbeat_user::lease::now());
    // By its pin, where nobody listens.
    let nobody = crew.lab.scratch().join("nobody.sock");
    let pinned = Places { socket: nobody, pin: Some(lease_pin(&crew, 0)), owner: Owner::default() };
    assert_eq!(acting(&Lease::open(&pinned).unwrap()), Ok(token));
    // By the verbs, and by a program in C.
    let socket = places(&crew, 0).socket;
    let words = |verb| ["--lease-socket", socket.to_str().unwrap(), verb].map(str::to_owned);
    for verb in ["is-quorate", "token"] {
        let words = words(verb);
        let said = asked(&crew, 0, &[words[2].as_str(), words[0].as_str(), words[1].as_str()]);
        assert!(said.contains(&text(token)), "{verb}: {said}");
    }
    let output = Command::new(program(&crew)).arg(&socket).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("0 {}", text(token)));
    // The verbs by the pin, where nobody hands the page out: heartbeatd stands still, then it is dead.
    let verbs: [&[&str]; 3] = [&["is-quorate"], &["token"], &["wait", "--quorate"]];
    crew.daemon(0).stop().unwrap();
    for verb in verbs {
        let (code, said) = by_pin(&crew, verb, &lease_pin(&crew, 0));
        assert!(code == Some(0) && said.contains(&text(token)), "{verb:?}: {code:?} {said}");
    }
    crew.daemon(0).resume().unwrap();
    // A controller that died is no reason to stop: the kernel goes on, and its successor takes over.
    crew.take(0).kill().unwrap();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(acting(&lease), Ok(token));
    for verb in verbs {
        let (code, said) = by_pin(&crew, verb, &lease_pin(&crew, 0));
        assert!(code == Some(0) && said.contains(&text(token)), "{verb:?}: {code:?} {said}");
    }
    let (code, said) = by_pin(&crew, &["is-quorate"], Path::new("/no/such/pin"));
    assert_eq!((code, said.as_str()), (Some(3), ""));
    crew.start(0, &Options::default()).unwrap();
    await_view(&crew, &[0]);
    assert_eq!(acting(&lease), Ok(token), "the same incarnation");
    // Whoever leaves ends the page, and takes the pin away.
    assert!(crew.take(0).terminate(PATIENCE).unwrap().success());
    assert_eq!(acting(&lease), Err(Refused::Closed));
    assert!(!lease_pin(&crew, 0).exists());
}

#[test]
fn a_page_that_no_kernel_keeps_ends_with_the_daemon() {
    if !root_or_skip("a_page_that_no_kernel_keeps_ends_with_the_daemon") {
        return;
    }
    let options = Options { fast_path: "off".to_owned(), ..Options::default() };
    let mut crew = formed(1, &[], &options);
    let lease = Lease::open(&places(&crew, 0)).unwrap();
    let token = acting(&lease).unwrap();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(acting(&lease), Ok(token), "it lives for as long as the daemon does");
    let output = Command::new(program(&crew)).arg(places(&crew, 0).socket).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("0 {}", text(token)));
    crew.take(0).kill().unwrap();
    // One lease, and a little for this machine's other work.
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!(acting(&lease), Err(Refused::Closed));
    crew.start(0, &options).unwrap();
    await_view(&crew, &[0]);
    safety::ensure(acting(&lease).is_err(), || "what is over stays so".to_owned()).unwrap();
    let newer = acting(&Lease::open(&places(&crew, 0)).unwrap()).unwrap();
    assert!(newer.incarnation > token.incarnation);
}

#[test]
fn hooks_are_run_with_the_token_and_the_event() {
    if !root_or_skip("hooks_are_run_with_the_token_and_the_event") {
        return;
    }
    let lab = Lab::new(Spec::new(2, 1)).unwrap();
    let (hook, told) = (lab.scratch().join("hook"), lab.scratch().join("told"));
    let script = format!(
        "#!/bin/sh\necho \"$HEARTBEAT_EVENT $HEARTBEAT_TOKEN $HEARTBEAT_NODE\" >> {told}\nexit 3\n",
        told = told.display()
    );
    std::fs::write(&hook, script).unwrap();
    std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o755)).unwrap();
    let daemon = vec![
        ("on_event".to_owned(), format!("[\"{}\"]", hook.display())),
        ("hook_events".to_owned(), "[\"lease_gained\", \"1177\"]".to_owned()),
    ];
    let cluster = Cluster::new(&lab, "lan").with("stall_limit_ms", 4000);
    let mut crew = Crew::new(lab, cluster);
    crew.start(0, &Options { daemon, ..Options::default() }).unwrap();
    let mark = crew.mark().unwrap();
    asked(&crew, 0, &["init", "lab"]);
    await_view(&crew, &[0]);
    let token = text(acting(&Lease::open(&places(&crew, 0)).unwrap()).unwrap());
    // The shell makes the file before it writes into it.
    let whole = || std::fs::read_to_string(&told).ok().filter(|text| text.ends_with('\n')).ok_or("no whole line");
    let line = wait_for(PATIENCE, "the hook to have run", whole);
    assert_eq!(line.unwrap(), format!("lease_gained {token} {}\n", crew.name(0)));
    // How it ended is an event, which no hook is told of.
    let failed = crew.await_said(&mark, 0, "hook_failed").unwrap();
    assert_eq!((&failed["event_id"], &failed["hook"]), (&20106.into(), &hook.display().to_string().into()), "{failed}");
}

#[test]
fn a_device_that_is_no_watchdog_is_refused_at_the_start() {
    if !root_or_skip("a_device_that_is_no_watchdog_is_refused_at_the_start") {
        return;
    }
    let lab = Lab::new(Spec::new(2, 1)).unwrap();
    let cluster = Cluster::new(&lab, "lan");
    let daemon = vec![("watchdog_device".to_owned(), "\"/dev/null\"".to_owned())];
    let ended = refused(&lab, 0, &cluster, &Options { daemon, ..Options::default() }).unwrap();
    assert_eq!(ended.code, Some(6), "{}", ended.text);
    assert!(ended.text.contains("/dev/null") && ended.text.contains("watchdog device"), "{}", ended.text);
}

/// Writes a state that is older than what views have admitted, as a disk that was put together from two may have it.
fn forget(crew: &Crew, node: usize, incarnation: u64) {
    let file = crew.lab.node_dir(node).join("state/state.json");
    let mut state: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    state["incarnation"] = incarnation.into();
    state["left"] = true.into();
    std::fs::write(&file, state.to_string()).unwrap();
}

#[test]
fn a_node_that_has_forgotten_its_number_asks_its_own_views() {
    if !root_or_skip("a_node_that_has_forgotten_its_number_asks_its_own_views") {
        return;
    }
    let mut crew = formed(2, &[], &Options::default());
    let shown = view(&crew, 0);
    let admitted = shown["view"]["members"][1]["incarnation"].as_u64().unwrap();
    for node in [1, 0] {
        // Both at once, so that no peer's memory is left.
        crew.take(node).kill().unwrap();
        std::fs::remove_dir_all(crew.pins(node)).unwrap();
    }
    forget(&crew, 1, 1);
    let mark = crew.mark().unwrap();
    crew.start(1, &Options::default()).unwrap();
    let started = crew.await_said(&mark, 1, "started").unwrap();
    // By how much it is newer is drawn: another node may have heard a later one.
    assert!(started["incarnation"].as_u64().unwrap() > admitted, "{started}");
    crew.start(0, &Options::default()).unwrap();
    await_view(&crew, &[0, 1]);
    assert!(crew.said(&mark, 1, "left_out").unwrap().is_empty());
}

#[test]
fn a_node_that_is_outrun_while_it_runs_joins_under_a_newer_incarnation() {
    if !root_or_skip("a_node_that_is_outrun_while_it_runs_joins_under_a_newer_incarnation") {
        return;
    }
    let mut crew = formed(3, &[], &Options::default());
    let admitted = view(&crew, 0)["view"]["members"][2]["incarnation"].as_u64().unwrap();
    assert!(crew.take(2).terminate(PATIENCE).unwrap().success());
    await_view(&crew, &[0, 1]);
    // Its views are gone, and its own number is that of long ago: the others' kernels remember.
    std::fs::remove_file(crew.lab.node_dir(2).join("state/agreement")).unwrap();
    forget(&crew, 2, 1);
    let mark = crew.mark().unwrap();
    crew.start(2, &Options::default()).unwrap();
    let changed = wait_for(PATIENCE, "a newer incarnation", || {
        let said = crew.said(&mark, 2, "incarnation_changed").unwrap();
        said.into_iter().find(|one| one["new_incarnation"].as_u64() > Some(admitted)).ok_or("none yet")
    });
    assert_eq!(changed.unwrap()["reason"], "a peer knows a newer incarnation of this node");
    let joined = await_view(&crew, &[0, 1, 2]);
    assert!(joined["view"]["members"][2]["incarnation"].as_u64().unwrap() > admitted, "{joined}");
}

#[test]
fn whoever_asks_a_node_to_leave_gets_the_answer_before_it_ends() {
    if !root_or_skip("whoever_asks_a_node_to_leave_gets_the_answer_before_it_ends") {
        return;
    }
    let mut crew = formed(2, &[], &Options::default());
    for _ in 0..5 {
        let said = asked(&crew, 1, &["leave"]);
        assert!(said.contains("leave the cluster: done"), "{said}");
        assert!(crew.take(1).wait(PATIENCE).unwrap().success());
        await_view(&crew, &[0]);
        crew.start(1, &Options::default()).unwrap();
        await_view(&crew, &[0, 1]);
    }
}

#[test]
fn nothing_is_said_to_have_stopped_before_its_time_to_stop() {
    if !root_or_skip("nothing_is_said_to_have_stopped_before_its_time_to_stop") {
        return;
    }
    let settings = [("quorum_arbitration_time_max_s", "3"), ("stop_time_s", "2")];
    let mut crew = formed(2, &settings, &Options::default());
    let mark = crew.mark().unwrap();
    let begun = Instant::now();
    assert!(crew.take(1).terminate(LONG).unwrap().success());
    assert!(begun.elapsed() >= Duration::from_secs(2), "{:?}", begun.elapsed());
    let said = |name: &str| crew.await_said(&mark, 0, name).unwrap();
    let (left, stopped) = (said("node_left_view"), said("known_stopped"));
    assert_eq!(stopped["proof"], "said", "{stopped}");
    let at = |event: &Value| event["at_ns"].as_u64().unwrap();
    assert!(at(&stopped) - at(&said("node_left")) >= 1_500_000_000, "{left} {stopped}");
}

#[test]
fn settings_that_were_reloaded_everywhere_let_a_node_join() {
    if !root_or_skip("settings_that_were_reloaded_everywhere_let_a_node_join") {
        return;
    }
    let mut crew = formed(2, &[], &Options::default());
    assert!(crew.take(1).terminate(PATIENCE).unwrap().success());
    await_view(&crew, &[0]);
    crew.cluster = crew.cluster.clone().with("same_subnet_threshold", 6).with("stop_time_s", "0.1");
    let mark = crew.mark().unwrap();
    let text = crew.cluster.render(&crew.lab, 0, &Options::default());
    std::fs::write(crew.daemon(0).config(), text).unwrap();
    crew.daemon(0).signal(nix::sys::signal::Signal::SIGHUP).unwrap();
    crew.await_said(&mark, 0, "config_reloaded").unwrap();
    // What only begins a cluster is not changed by it, and people are told.
    wait_for(PATIENCE, "a warning", || {
        let status = crew.daemon(0).ask("status").map_err(|error| error.to_string())?;
        let warnings = status["warnings"].to_string();
        let told = warnings.contains("stop_time_s is 0.1 in the configuration and 0 in the view");
        if told { Ok(()) } else { Err(warnings) }
    })
    .unwrap();
    crew.start(1, &Options::default()).unwrap();
    await_view(&crew, &[0, 1]);
}

/// Says that a node has told since that this user asked for a change, and what became of it.
fn told_who_asked(crew: &Crew, mark: &Mark, node: usize, change: &str, outcome: &str) {
    let told = wait_for(PATIENCE, &format!("who asked to {change}"), || {
        let said = crew.said(mark, node, "change_asked").unwrap();
        let of_it = |event: &&Value| {
            event["change"] == change && event["outcome"].as_str().is_some_and(|said| said.contains(outcome))
        };
        said.iter().find(of_it).cloned().ok_or_else(|| format!("{said:?}"))
    })
    .unwrap();
    assert_eq!((&told["id"], &told["uid"]), (&20125.into(), &nix::unistd::getuid().as_raw().into()), "{told}");
}

#[test]
fn an_operator_fences_sets_and_forces() {
    if !root_or_skip("an_operator_fences_sets_and_forces") {
        return;
    }
    let mut crew = formed(3, &[], &Options::default());
    let mark = crew.mark().unwrap();
    let wrong = crew.daemon(0).ctl(&["fence", crew.name(2), "other"]).unwrap();
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
    told_who_asked(&crew, &mark, 0, "fence c", "nothing was done");
    asked(&crew, 0, &["fence", crew.name(2), "lab"]);
    told_who_asked(&crew, &mark, 0, "fence c", "decided in view 0.");
    assert_eq!(crew.take(2).wait(LONG).unwrap().code(), Some(10));
    await_view(&crew, &[0, 1]);
    crew.start(2, &Options::default()).unwrap();
    await_view(&crew, &[0, 1, 2]);

    asked(&crew, 1, &["set", "quorum_arbitration_time_max_s", "0.8"]);
    told_who_asked(&crew, &mark, 1, "set quorum_arbitration_time_max_s = 0.8", "decided in view 0.");
    let quorum = crew.daemon(0).ctl(&["--json", "quorum"]).unwrap();
    let quorum: Value = serde_json::from_slice(&quorum.stdout).unwrap();
    assert_eq!(quorum["lease_ms"], 800, "{quorum}");

    // Two of three at once: the third waits, and goes on by an operator's word alone.
    for node in [1, 2] {
        crew.take(node).kill().unwrap();
        crew.lab.cut_all(node).unwrap();
    }
    wait_for(PATIENCE, "a node alone to stop acting", || {
        let alone = view(&crew, 0);
        if alone["acting"] == false { Ok(()) } else { Err(alone.to_string()) }
    })
    .unwrap();
    assert!(crew.take(0).terminate(LONG).unwrap().success());
    let wrong = Options { arguments: vec!["--force-quorum".to_owned(), "other".to_owned()], ..Options::default() };
    assert_eq!(refused(&crew.lab, 0, &crew.cluster, &wrong).unwrap().code, Some(2));
    let forced = Options { arguments: vec!["--force-quorum".to_owned(), "lab".to_owned()], ..Options::default() };
    crew.start(0, &forced).unwrap();
    let alone = await_view(&crew, &[0]);
    assert_eq!(alone["view"]["force"], 1, "{alone}");
    told_who_asked(&crew, &mark, 0, "go on without a majority, by the start itself", "decided in view 1.");
}

#[test]
fn a_node_that_may_only_join_forms_nothing() {
    if !root_or_skip("a_node_that_may_only_join_forms_nothing") {
        return;
    }
    let mut crew = formed(2, &[], &Options::default());
    for node in [0, 1] {
        crew.take(node).kill().unwrap();
        std::fs::remove_dir_all(crew.pins(node)).unwrap();
    }
    let joins = Options { arguments: vec!["--prevent-quorum".to_owned()], ..Options::default() };
    for node in [0, 1] {
        crew.start(node, &joins).unwrap();
    }
    crew.all_up().unwrap();
    std::thread::sleep(Duration::from_secs(3));
    for node in [0, 1] {
        assert_eq!(view(&crew, node)["acting"], false);
    }
    crew.take(0).kill().unwrap();
    crew.start(0, &Options::default()).unwrap();
    await_view(&crew, &[0, 1]);
}

#[test]
fn a_removal_is_told_with_what_each_path_showed() {
    if !root_or_skip("a_removal_is_told_with_what_each_path_showed") {
        return;
    }
    let mut crew = formed(3, &[], &Options::default());
    let mark = crew.mark().unwrap();
    crew.take(2).kill().unwrap();
    crew.lab.cut_all(2).unwrap();
    for survivor in [0, 1] {
        let removed = crew.await_said(&mark, survivor, "node_removed").unwrap();
        let judges = removed["judges"].as_array().unwrap();
        assert!(judges.contains(&crew.name(0).into()) && judges.contains(&crew.name(1).into()), "{removed}");
        let paths = removed["paths"].as_array().unwrap();
        assert_eq!(paths.len(), 2, "{removed}");
        assert!(paths.iter().all(|path| path["misses"].as_u64() >= Some(5)), "{removed}");
    }
}

//! The daemon under exactly what packaging/heartbeatd.service gives it: a user that is not root, the unit's
//! capabilities, no new privileges, the unit's limits. What the unit says is read from the unit.

use heartbeat_tests::lab::crew::{Crew, PATIENCE, heartbeatd, programs};
use heartbeat_tests::lab::wait::{binary, root_or_skip, skip};
use heartbeat_tests::lab::{Cluster, Lab, Options, Spec, wait_for};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use serde_json::Value;
use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

const UNIT: &str = include_str!("../../packaging/heartbeatd.service");
/// A user that nothing else runs as.
const USER: u32 = 64_937;
const A: usize = 0;
const B: usize = 1;

/// The one value of a key of the unit.
fn of_unit(key: &str) -> &'static str {
    let mut values = UNIT.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    let value = values.next().unwrap_or_else(|| panic!("the unit has no {key}="));
    assert_eq!(values.next(), None, "{key}= twice");
    value
}

/// Names such as `CAP_BPF CAP_NET_ADMIN` as setpriv wants it: `-all,+bpf,+net_admin`.
fn capabilities(key: &str) -> String {
    let names = of_unit(key).split_whitespace().map(|name| name.strip_prefix("CAP_").unwrap().to_lowercase());
    std::iter::once("-all".to_owned()).chain(names.map(|name| format!("+{name}"))).collect::<Vec<_>>().join(",")
}

/// A limit as prlimit wants it: the unit's, or what this machine allows where raising it is not ours to do.
fn limit(resource: Resource, key: &str) -> String {
    let wanted = of_unit(key);
    let number = |text: &str| if text == "infinity" { RLIM_INFINITY } else { text.parse().unwrap() };
    let (_, most) = getrlimit(resource).unwrap();
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    let capabilities = own.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    let may_raise = u64::from_str_radix(capabilities.trim(), 16).unwrap() & 1 << 24 != 0;
    if number(wanted) > most && !may_raise {
        skip(key, &format!("the unit's {wanted} needs CAP_SYS_RESOURCE to be set; the limit here stays {most}"));
        return most.to_string();
    }
    wanted.replace("infinity", "unlimited")
}

/// Number of CAP_NET_RAW.
const RAW: u32 = 13;

const LIMITS: [(&str, &str, Resource, &str); 4] = [
    ("rtprio", "LimitRTPRIO", Resource::RLIMIT_RTPRIO, "Max realtime priority"),
    ("memlock", "LimitMEMLOCK", Resource::RLIMIT_MEMLOCK, "Max locked memory"),
    ("nofile", "LimitNOFILE", Resource::RLIMIT_NOFILE, "Max open files"),
    ("core", "LimitCORE", Resource::RLIMIT_CORE, "Max core file size"),
];

fn as_the_user(words: &mut Vec<OsString>) {
    let ambient = capabilities("AmbientCapabilities");
    let no_new_privs = of_unit("NoNewPrivileges") == "yes";
    words.extend(
        [
            "setpriv".to_owned(),
            format!("--reuid={USER}"),
            format!("--regid={USER}"),
            "--clear-groups".to_owned(),
            format!("--inh-caps={ambient}"),
            format!("--ambient-caps={ambient}"),
            format!("--bounding-set={}", capabilities("CapabilityBoundingSet")),
        ]
        .map(OsString::from),
    );
    if no_new_privs {
        words.push("--no-new-privs".into());
    }
}

fn wrapper() -> Vec<OsString> {
    let mut words: Vec<OsString> = vec!["prlimit".into()];
    for (flag, key, resource, _) in LIMITS {
        words.push(format!("--{flag}={}", limit(resource, key)).into());
    }
    as_the_user(&mut words);
    words
}

fn options() -> Options<'static> {
    Options { fast_path: "native".to_owned(), wrapper: wrapper(), owner: Some((USER, USER)), ..Options::default() }
}

fn field(pid: u32, name: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
    line.split_whitespace().next().unwrap().to_owned()
}

/// Asks as the service's own user: root trusts no socket of a user that it does not know.
fn ask(crew: &Crew, node: usize, verb: &str) -> Value {
    let mut words = Vec::new();
    as_the_user(&mut words);
    let mut command: Command = crew.lab.node(node).command(&words[0]);
    command.args(&words[1..]).arg(binary("heartbeatctl", "HEARTBEATCTL").unwrap());
    command.arg("--socket").arg(crew.lab.node_dir(node).join("run/control.sock")).args([verb, "--json"]);
    let output = command.output().unwrap();
    assert!(matches!(output.status.code(), Some(0 | 4)), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn b_is_up(crew: &Crew) {
    wait_for(PATIENCE, "b to show a up", || {
        let nodes = ask(crew, B, "nodes");
        if nodes["nodes"][0]["state"] == "up" { Ok(()) } else { Err(nodes) }
    })
    .unwrap();
}

#[test]
fn under_the_units_own_rights_and_limits_the_daemon_does_all_it_does() {
    if !root_or_skip("under_the_units_own_rights_and_limits_the_daemon_does_all_it_does") {
        return;
    }
    let lab = Lab::new(Spec::new(2, 1)).unwrap();
    let cluster = Cluster::new(&lab, "lan").with("stall_limit_ms", 5000);
    // A runs as root with a key of its own file: the key of a user is nobody else's.
    let mut crew = Crew::new(lab, cluster);
    crew.start(A, &Options::default()).unwrap();
    let key = crew.lab.node_dir(B).join("cluster.key");
    std::fs::copy(&crew.cluster.key_file, &key).unwrap();
    crew.cluster.key_file = key;
    crew.start(B, &options()).unwrap();
    let pid = crew.daemon(B).pid();

    // It is what the unit says, and no more.
    let bits = |key: &str| {
        let number = |name: &str| match name {
            "CAP_NET_ADMIN" => 12,
            "CAP_NET_RAW" => RAW,
            "CAP_PERFMON" => 38,
            "CAP_BPF" => 39,
            other => panic!("the unit gives {other}, which this test does not know"),
        };
        of_unit(key).split_whitespace().map(|name| 1_u64 << number(name)).sum::<u64>()
    };
    let has = |name: &str| u64::from_str_radix(&field(pid, name), 16).unwrap();
    assert_eq!(field(pid, "Uid"), USER.to_string());
    // It has asked whether another machine has its addresses, and has given up what that took.
    let kept = bits("AmbientCapabilities") & !(1 << RAW);
    assert_ne!(kept, bits("AmbientCapabilities"));
    assert_eq!((has("CapEff"), has("CapPrm"), has("CapAmb")), (kept, kept, kept));
    // The log's thread begins before that, and gives it up by itself.
    for thread in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let status = std::fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
        let of = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).unwrap().trim();
        let permitted = u64::from_str_radix(of("CapPrm:"), 16).unwrap();
        assert_eq!(permitted & !kept, 0, "{} may do more than the others", of("Name:"));
    }
    assert!(ask(&crew, B, "status")["warnings"].to_string().find("nobody was asked").is_none());
    assert_eq!(has("CapBnd"), bits("CapabilityBoundingSet"));
    assert_eq!(field(pid, "NoNewPrivs"), "1");
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    for (_, key, resource, name) in LIMITS {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        let expected = limit(resource, key);
        assert!(line.split_whitespace().take(2).all(|value| value == expected), "{name}: {line}, not {expected}");
    }

    // Native XDP, heard both ways, events on disk, no complaint but one that is named.
    b_is_up(&crew);
    crew.await_state(A, B, "up").unwrap();
    let status = ask(&crew, B, "status");
    assert_eq!(status["fast_path"][0]["mode"], "native", "{status}");
    let realtime = status["pacing"]["realtime"].as_str().unwrap();
    let events = crew.events(B).unwrap();
    let told = |name: &str| events.iter().any(|event| event["event"] == name);
    assert!(told("started") && told("link_attached") && told("node_up"), "{events:?}");
    assert_eq!(realtime.starts_with("fifo"), !told("realtime_refused"), "had, or refused by name: {realtime}");
    let allowed = limit(Resource::RLIMIT_RTPRIO, "LimitRTPRIO") != "0";
    println!("with the limit {allowed}: {realtime}");
    assert!(allowed || !realtime.starts_with("fifo"), "{realtime}");
    assert!(realtime.starts_with("fifo") || realtime.starts_with("refused"), "{realtime}");
    assert_eq!(status["pacing"]["memory_locked"] == true, !told("memlock_refused"), "likewise: {status}");
    if limit(Resource::RLIMIT_MEMLOCK, "LimitMEMLOCK") == "unlimited" {
        assert_eq!(status["pacing"]["memory_locked"], true, "{status}");
    }

    // Killed, its successor adopts; told to stop, it leaves nothing.
    let mark = crew.mark().unwrap();
    crew.take(B).kill().unwrap();
    crew.start(B, &options()).unwrap();
    crew.await_said(&mark, A, "controller_restarted").unwrap();
    b_is_up(&crew);
    crew.nobody_removed(&mark).unwrap();
    let status = crew.take(B).terminate(PATIENCE).unwrap();
    assert!(status.success(), "{status}");
    crew.await_said(&mark, A, "node_left").unwrap();
    assert!(!crew.lab.pin_dir(B).join("heartbeatd").exists());
    assert_eq!(programs(&crew.lab, B).unwrap(), (0, 0));
}

#[test]
fn a_bpffs_that_is_closed_to_the_services_user_is_told_by_name() {
    if !root_or_skip("a_bpffs_that_is_closed_to_the_services_user_is_told_by_name") {
        return;
    }
    let lab = Lab::new(Spec::new(2, 1)).unwrap();
    let cluster = Cluster::new(&lab, "lan");
    let mut crew = Crew::new(lab, cluster);
    crew.start(B, &options()).unwrap();
    assert!(crew.take(B).terminate(PATIENCE).unwrap().success());
    // As it is where a service manager mounts it, and nothing opened the way.
    let bpffs = crew.lab.scratch().join("bpf");
    std::fs::set_permissions(&bpffs, std::fs::Permissions::from_mode(0o700)).unwrap();
    let config = crew.lab.node_dir(B).join("heartbeatd.toml");
    let words = wrapper();
    let wrapper: Vec<&str> = words.iter().map(|word| word.to_str().unwrap()).collect();
    for verb in ["check", "run"] {
        let output = heartbeatd(&crew.lab, B, &wrapper, &[verb, "--config", config.to_str().unwrap()]).unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(8), "{verb}: {said}");
        assert!(said.contains("closed to this user") && said.contains("systemd-tmpfiles --create"), "{verb}: {said}");
    }
}

#[test]
fn without_the_units_limits_what_is_refused_is_named() {
    if !root_or_skip("without_the_units_limits_what_is_refused_is_named") {
        return;
    }
    let lab = Lab::new(Spec::new(2, 1)).unwrap();
    let cluster = Cluster::new(&lab, "lan");
    let mut crew = Crew::new(lab, cluster);
    let mut words: Vec<OsString> = vec!["prlimit".into(), "--rtprio=0".into(), "--memlock=65536".into()];
    as_the_user(&mut words);
    crew.start(B, &Options { wrapper: words, ..options() }).unwrap();
    let mark = crew.mark().unwrap();
    let events = crew.events(B).unwrap();
    let told = |name: &str| events.iter().any(|event| event["event"] == name);
    assert!(told("realtime_refused") && told("memlock_refused"), "{events:?}");
    let status = ask(&crew, B, "status");
    assert!(status["pacing"]["realtime"].as_str().unwrap().starts_with("refused"), "{status}");
    assert_eq!(status["fast_path"][0]["mode"], "native");
    crew.nobody_removed(&mark).unwrap();
}

//! Bad input to a start: each kind ends with its exit code and a message that names what is wrong, and leaves nothing
//! behind; or, with `auto`, the daemon falls back by name. Bad input on the wire is counted.

use heartbeat_common::frame::{self, word};
use heartbeat_common::maps;
use heartbeat_tests::lab::crew::{Crew, heartbeatd, programs, refused};
use heartbeat_tests::lab::wait::root_or_skip;
use heartbeat_tests::lab::{Cluster, Lab, Options, Port, Spec, wait_for};
use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

const A: usize = 0;
const B: usize = 1;

fn lab() -> (Lab, Cluster) {
    let lab = Lab::new(Spec::new(2, 1)).unwrap();
    let cluster = Cluster::new(&lab, "lan");
    (lab, cluster)
}

fn native() -> Options<'static> {
    Options { fast_path: "native".to_owned(), ..Options::default() }
}

/// A start that is refused with `code`, `words` in its message, and nothing of it left.
fn assert_refused(lab: &Lab, cluster: &Cluster, options: &Options<'_>, code: i32, words: &[&str]) {
    let ended = refused(lab, B, cluster, options).unwrap();
    assert_eq!(ended.code, Some(code), "{}", ended.text);
    for word in words {
        assert!(ended.text.contains(word), "no {word:?} in {}", ended.text);
    }
    assert_eq!(programs(lab, B).unwrap(), (0, 0));
    assert!(!lab.node_dir(B).join("run/control.sock").exists());
}

/// `heartbeatd check` in node B, behind a wrapper: exit code and all that it says.
fn check(lab: &Lab, config: &Path, wrapper: &[&str]) -> (Option<i32>, String) {
    let words = ["check", "--watchdog", "90s", "--config", config.to_str().unwrap()];
    let output = heartbeatd(lab, B, wrapper, &words).unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code(), text)
}

fn written(lab: &Lab, cluster: &Cluster, options: &Options<'_>) -> std::path::PathBuf {
    let file = lab.node_dir(B).join("checked.toml");
    fs::write(&file, cluster.render(lab, B, options)).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    file
}

#[test]
fn fault_86_a_faulty_configuration_is_refused_by_line_and_column() {
    if !root_or_skip("fault_86_a_faulty_configuration_is_refused_by_line_and_column") {
        return;
    }
    let (lab, cluster) = lab();
    let cluster = cluster.with("same_subnet_delai_ms", 5).with("same_subnet_threshold", 0);
    let words = ["heartbeatd.toml:", "same_subnet_delai_ms", "same_subnet_threshold"];
    assert_refused(&lab, &cluster, &Options::default(), 6, &words);
    let (code, text) = check(&lab, &written(&lab, &cluster, &Options::default()), &[]);
    assert_eq!(code, Some(6), "{text}");
    assert!(words[1..].iter().all(|word| text.contains(word)), "{text}");
}

#[test]
fn fault_80_more_paths_than_the_tables_hold_are_refused_with_the_configuration() {
    if !root_or_skip("fault_80_more_paths_than_the_tables_hold_are_refused_with_the_configuration") {
        return;
    }
    let (lab, cluster) = lab();
    // 2 nodes of 33 addresses on one network: 33 x 33 paths.
    let text = cluster.render(&lab, B, &Options::default());
    let (head, _) = text.split_once("[[node]]").unwrap();
    let node = |name: &str, id: u8| {
        let all: Vec<String> = (0..33).map(|host| format!("\"10.77.1.{}\"", id * 40 + host)).collect();
        format!("[[node]]\nname = \"{name}\"\nid = {id}\naddresses = [{}]\n", all.join(", "))
    };
    let file = lab.node_dir(B).join("many.toml");
    fs::write(&file, format!("{head}{}{}", node("a", 1), node("b", 2))).unwrap();
    let (code, text) = check(&lab, &file, &[]);
    assert_eq!(code, Some(6), "{text}");
    assert!(text.contains("must have at most 1024 paths to other nodes (got 1089)"), "{text}");
}

#[test]
fn a_faulty_key_file_is_refused() {
    if !root_or_skip("a_faulty_key_file_is_refused") {
        return;
    }
    let (lab, cluster) = lab();
    let key = lab.scratch().join("bad.key");
    let with_key = Options { key_file: Some(key.clone()), ..Options::default() };
    assert_refused(&lab, &cluster, &with_key, 6, &["bad.key"]);
    fs::write(&key, "not a key\n").unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    assert_refused(&lab, &cluster, &with_key, 6, &["bad.key:1", "key"]);
    // A good key that others may read is no secret.
    fs::copy(&cluster.key_file, &key).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    assert_refused(&lab, &cluster, &with_key, 6, &["bad.key", "0644"]);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(!refused_text_has_key(&lab, &cluster, &key), "no message shows the key");
}

fn refused_text_has_key(lab: &Lab, cluster: &Cluster, key: &Path) -> bool {
    let secret = fs::read_to_string(key).unwrap();
    let is_key = |line: &&str| line.len() > 32 && !line.starts_with('#');
    let (slot, secret) = secret.lines().find(is_key).and_then(|line| line.split_once(':')).expect("the key's line");
    fs::write(key, format!("{slot}:{secret}zz\n")).unwrap();
    let options = Options { key_file: Some(key.to_owned()), ..Options::default() };
    let ended = refused(lab, B, cluster, &options).unwrap();
    assert_eq!(ended.code, Some(6), "{}", ended.text);
    ended.text.contains(&secret[..16])
}

#[test]
fn directories_that_others_may_enter_are_refused() {
    if !root_or_skip("directories_that_others_may_enter_are_refused") {
        return;
    }
    let (lab, cluster) = lab();
    let root = lab.pin_dir(B).join("heartbeatd");
    // Planted before the first start: somebody else's directory on a bpffs that anybody may write to.
    fs::DirBuilder::new().mode(0o755).create(&root).unwrap();
    for fast_path in ["auto", "native", "off"] {
        let options = Options { fast_path: fast_path.to_owned(), ..Options::default() };
        assert_refused(&lab, &cluster, &options, 8, &["heartbeatd", "0755", "0700"]);
        let (code, text) = check(&lab, &written(&lab, &cluster, &options), &[]);
        assert_eq!((code, text.contains("0755") && text.contains("0700")), (Some(8), true), "{fast_path}: {text}");
    }
    fs::set_permissions(&root, fs::Permissions::from_mode(0o700)).unwrap();
    nix::unistd::chown(&root, Some(nix::unistd::Uid::from_raw(65534)), None).unwrap();
    assert_refused(&lab, &cluster, &Options::default(), 8, &["uid 65534"]);
    fs::remove_dir(&root).unwrap();
    let mut crew = Crew::new(lab, cluster);
    crew.start(B, &Options::default()).unwrap();
}

#[test]
fn a_start_without_the_kernel_removes_nothing_through_another_ones_directory() {
    if !root_or_skip("a_start_without_the_kernel_removes_nothing_through_another_ones_directory") {
        return;
    }
    let (lab, cluster) = lab();
    let root = lab.pin_dir(B).join("heartbeatd");
    let elsewhere = lab.scratch().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let file = elsewhere.join("xdp-diary");
    fs::write(&file, "of somebody").unwrap();
    let off = Options { fast_path: "off".to_owned(), ..Options::default() };
    fs::DirBuilder::new().mode(0o700).create(&root).unwrap();
    let layout = root.join(format!("v{}", maps::ABI));
    std::os::unix::fs::symlink(&elsewhere, &layout).unwrap();
    let somebody = Some(nix::unistd::Uid::from_raw(65534));
    nix::unistd::chown(&root, somebody, None).unwrap();
    assert_refused(&lab, &cluster, &off, 8, &["uid 65534"]);
    assert!(file.exists());
    // Nor is a link followed in a directory of our own, or in the place of the directory.
    nix::unistd::chown(&root, Some(nix::unistd::Uid::from_raw(0)), None).unwrap();
    let mut crew = Crew::new(lab, cluster);
    crew.start(B, &off).unwrap();
    assert!(file.exists());
    crew.take(B).kill().unwrap();
    fs::remove_file(&layout).unwrap();
    // A directory of another layout that is not ours alone is refused as well.
    fs::DirBuilder::new().mode(0o700).create(root.join("v0")).unwrap();
    nix::unistd::chown(&root.join("v0"), somebody, None).unwrap();
    assert_refused(&crew.lab, &crew.cluster, &off, 8, &["v0", "uid 65534"]);
    fs::remove_dir(root.join("v0")).unwrap();
    fs::remove_dir(&root).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &root).unwrap();
    assert_refused(&crew.lab, &crew.cluster, &off, 8, &["not a directory"]);
    assert!(file.exists());
}

#[test]
fn a_host_that_is_not_in_the_configuration_is_refused() {
    if !root_or_skip("a_host_that_is_not_in_the_configuration_is_refused") {
        return;
    }
    let (lab, cluster) = lab();
    let port = Port { node: B, network: 0 };
    lab.node(B).ip(&format!("addr flush dev {}\n", lab.interface(port))).unwrap();
    assert_refused(&lab, &cluster, &Options::default(), 8, &["this host is no node of the configuration", "10.77.1.2"]);
    let (code, text) = check(&lab, &written(&lab, &cluster, &Options::default()), &[]);
    assert_eq!(code, Some(8), "{text}");
}

#[test]
fn fault_75_without_a_bpffs_native_is_refused_and_auto_falls_back_by_name() {
    if !root_or_skip("fault_75_without_a_bpffs_native_is_refused_and_auto_falls_back_by_name") {
        return;
    }
    let (lab, cluster) = lab();
    let elsewhere = vec![("pin_dir".to_owned(), format!("\"{}\"", lab.node_dir(B).join("pins").display()))];
    let options = Options { daemon: elsewhere.clone(), ..native() };
    assert_refused(&lab, &cluster, &options, 8, &["bpffs", "pins"]);
    let (code, text) = check(&lab, &written(&lab, &cluster, &options), &[]);
    assert_eq!((code, text.contains("bpffs")), (Some(8), true), "{text}");
    let options = Options { daemon: elsewhere, ..Options::default() };
    let (code, text) = check(&lab, &written(&lab, &cluster, &options), &[]);
    assert_eq!((code, text.contains("bpffs") && text.contains("warning")), (Some(0), true), "{text}");
    falls_back(lab, cluster, &options, "bpffs");
}

/// Node B starts in userspace and says why; it and A show each other up.
fn falls_back(lab: Lab, cluster: Cluster, options: &Options<'_>, why: &str) {
    let mut crew = Crew::new(lab, cluster.with("stall_limit_ms", 4000).with("same_subnet_threshold", 20));
    let mark = crew.mark().unwrap();
    crew.start(A, &Options::default()).unwrap();
    crew.start(B, options).unwrap();
    crew.all_up().unwrap();
    let step = crew.await_said(&mark, B, "step_down_mode").unwrap();
    assert_eq!(step["to"], "userspace");
    assert!(step["reason"].as_str().unwrap().contains(why), "{step}");
    let modes = crew.modes(B).unwrap();
    assert!(modes.iter().all(|(_, mode, reason)| mode == "userspace" && reason.contains(why)), "{modes:?}");
    let status = crew.daemon(B).ctl(&["status"]).unwrap();
    assert_eq!(status.status.code(), Some(4), "degraded: it is not what was wanted");
}

const DROP: [&str; 2] = ["setpriv", "--bounding-set=-bpf,-net_admin,-sys_admin,-perfmon"];

#[test]
fn fault_78_without_its_capabilities_native_is_refused_and_auto_falls_back_by_name() {
    if !root_or_skip("fault_78_without_its_capabilities_native_is_refused_and_auto_falls_back_by_name") {
        return;
    }
    let (lab, cluster) = lab();
    let wrapper = || DROP.iter().map(Into::into).collect();
    // Which step fails first is the kernel's to say; `check` says which capability.
    assert_refused(&lab, &cluster, &Options { wrapper: wrapper(), ..native() }, 8, &["permitted"]);
    let (code, text) = check(&lab, &written(&lab, &cluster, &native()), &DROP);
    assert_eq!(code, Some(8), "{text}");
    assert!(text.contains("CAP_NET_ADMIN and CAP_PERFMON and CAP_BPF missing"), "{text}");
    let auto = Options { wrapper: wrapper(), ..Options::default() };
    let (code, text) = check(&lab, &written(&lab, &cluster, &auto), &DROP);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("CAP_NET_ADMIN and CAP_PERFMON and CAP_BPF missing") && text.contains("userspace"), "{text}");
    let _ = fs::remove_dir(lab.pin_dir(B).join("heartbeatd"));
    falls_back(lab, cluster, &auto, "permitted");
}

#[test]
fn fault_78_a_program_that_the_kernel_does_not_take_is_refused_or_stepped_down_from_by_name() {
    if !root_or_skip("fault_78_a_program_that_the_kernel_does_not_take_is_refused_or_stepped_down_from_by_name") {
        return;
    }
    let (lab, cluster) = lab();
    let file = lab.scratch().join("program.o");
    fs::write(&file, "no program").unwrap();
    let arguments = vec!["--bpf-object".to_owned(), file.display().to_string()];
    assert_refused(&lab, &cluster, &Options { arguments: arguments.clone(), ..native() }, 8, &["BPF object"]);
    let _ = fs::remove_dir(lab.pin_dir(B).join("heartbeatd"));
    falls_back(lab, cluster, &Options { arguments, ..Options::default() }, "BPF object");
}

#[test]
fn check_tells_every_fault_at_once() {
    if !root_or_skip("check_tells_every_fault_at_once") {
        return;
    }
    let (lab, cluster) = lab();
    let key = lab.scratch().join("bad.key");
    fs::write(&key, "not a key\n").unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let options = Options { key_file: Some(key), ..native() };
    let text = cluster.with("hang_limit_s", 100).render(&lab, B, &options);
    // Addresses that this host does not have.
    let file = lab.node_dir(B).join("many-faults.toml");
    fs::write(&file, text.replace("10.77.1.2", "10.77.1.9")).unwrap();
    let (code, text) = check(&lab, &file, &DROP);
    assert_eq!(code, Some(6), "the code of the first: {text}");
    for word in ["bad.key:1", "watchdog", "CAP_NET_ADMIN and CAP_PERFMON and CAP_BPF missing", "is no node of"] {
        assert!(text.contains(word), "no {word:?} in {text}");
    }
    assert!(!text.contains("no fault found"), "{text}");
}

#[test]
fn a_time_namespace_with_an_offset_is_refused() {
    if !root_or_skip("a_time_namespace_with_an_offset_is_refused") {
        return;
    }
    let (lab, cluster) = lab();
    drop(lab.node(B).run("true", &[]).unwrap());
    for offset in [["--monotonic", "1000"], ["--boottime", "1000"]] {
        let shifted = ["unshare", "--time", "--fork", "--kill-child", offset[0], offset[1]];
        let wrapper = shifted.iter().map(Into::into).collect();
        assert_refused(&lab, &cluster, &Options { wrapper, ..Options::default() }, 8, &["time namespace"]);
        let (code, text) = check(&lab, &written(&lab, &cluster, &Options::default()), &shifted);
        assert_eq!((code, text.contains("time namespace")), (Some(8), true), "{text}");
    }
    let plain = ["unshare", "--time", "--fork", "--kill-child"];
    let (code, text) = check(&lab, &written(&lab, &cluster, &Options::default()), &plain);
    assert_eq!(code, Some(0), "one without an offset is as good as none: {text}");
}

/// A is up and looks at what B sends; B is no peer that it could know.
fn stranger(cluster_of_b: impl Fn(Cluster) -> Cluster, options: &Options<'_>, counter: &str) {
    let (lab, cluster) = lab();
    let mut crew = Crew::new(lab, cluster.clone());
    crew.start(A, &Options::default()).unwrap();
    let mark = crew.mark().unwrap();
    crew.cluster = cluster_of_b(cluster);
    crew.start(B, options).unwrap();
    let counted = || crew.counter(A, counter).map_err(|error| format!("{error:#}"));
    wait_for(Duration::from_secs(5), counter, || {
        counted().and_then(|count| (count >= 10).then_some(()).ok_or(format!("{count}")))
    })
    .unwrap();
    assert_ne!(crew.peer(A, B).unwrap()["state"], "up");
    assert_eq!(crew.said(&mark, A, "node_up").unwrap().len(), 0);
    assert_eq!(crew.counter(A, "answered").unwrap() + crew.counter(A, "answered_handshake").unwrap(), 0);
    // Counted, not told one by one.
    let lines = crew.since(&mark, A).unwrap().len();
    assert!(lines < 20, "{lines} events");
}

#[test]
fn a_wrong_key_is_counted_and_its_node_stays_apart() {
    if !root_or_skip("a_wrong_key_is_counted_and_its_node_stays_apart") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let key = directory.path().join("other.key");
    let output = std::process::Command::new(heartbeat_tests::lab::wait::binary("heartbeatd", "HEARTBEATD").unwrap())
        .arg("genkey")
        .arg(&key)
        .output()
        .unwrap();
    assert!(output.status.success());
    stranger(|cluster| cluster, &Options { key_file: Some(key), ..Options::default() }, "drop_tag");
}

#[test]
fn another_cluster_on_the_same_wire_is_counted_and_stays_apart() {
    if !root_or_skip("another_cluster_on_the_same_wire_is_counted_and_stays_apart") {
        return;
    }
    let other = |cluster: Cluster| Cluster { id: "1111222233334444".to_owned(), ..cluster };
    stranger(other, &Options::default(), "drop_cluster");
}

#[test]
fn an_unknown_protocol_version_is_counted() {
    if !root_or_skip("an_unknown_protocol_version_is_counted") {
        return;
    }
    let (lab, cluster) = lab();
    let mut crew = Crew::new(lab, cluster);
    crew.start(A, &Options::default()).unwrap();
    let (to, from) = (crew.lab.ipv4(Port { node: A, network: 0 }), crew.lab.ipv4(Port { node: B, network: 0 }));
    let mut words = [0; frame::WORDS];
    words[word::HEAD] = frame::head(0) + (1 << 32);
    let later = crew.lab.node(B).enter(|| {
        let socket = UdpSocket::bind((from, frame::PORT)).unwrap();
        socket.set_ttl(255).unwrap();
        for _ in 0..10 {
            socket.send_to(&frame::to_bytes(&words), (to, frame::PORT)).unwrap();
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    later.unwrap();
    wait_for(Duration::from_secs(5), "ten frames of a later version", || {
        let count = crew.counter(A, "drop_version").unwrap();
        if count == 10 { Ok(()) } else { Err(count) }
    })
    .unwrap();
}

#[test]
fn only_a_node_that_was_here_before_is_warned_that_its_state_is_gone() {
    if !root_or_skip("only_a_node_that_was_here_before_is_warned_that_its_state_is_gone") {
        return;
    }
    let (lab, cluster) = lab();
    let mut crew = Crew::new(lab, cluster);
    let lines = |crew: &Crew| -> Vec<String> {
        let log = crew.daemon(B).log();
        log.lines().filter(|line| line.contains("no state on disk")).map(str::to_owned).collect()
    };
    crew.start(B, &Options::default()).unwrap();
    let first = lines(&crew);
    assert!(first.len() == 1 && first[0].contains("INFO"), "{first:?}");
    // The whole directory is lost, and the pins tell that there was a life before.
    crew.take(B).kill().unwrap();
    std::fs::remove_dir_all(crew.lab.node_dir(B).join("state")).unwrap();
    crew.start(B, &Options::default()).unwrap();
    assert!(lines(&crew)[1].contains("WARN"), "{:?}", lines(&crew));
    // The state alone is lost, and the pins with it: the directory shows that it was used.
    crew.take(B).kill().unwrap();
    std::fs::remove_file(crew.lab.node_dir(B).join("state/state.json")).unwrap();
    std::fs::remove_dir_all(crew.lab.pin_dir(B).join("heartbeatd")).unwrap();
    crew.start(B, &Options::default()).unwrap();
    assert!(lines(&crew)[2].contains("WARN"), "{:?}", lines(&crew));
    // Neither is left: nobody can tell that from a first start.
    assert!(crew.take(B).terminate(Duration::from_secs(10)).unwrap().success());
    std::fs::remove_dir_all(crew.lab.node_dir(B).join("state")).unwrap();
    crew.start(B, &Options::default()).unwrap();
    assert!(lines(&crew)[3].contains("INFO"), "{:?}", lines(&crew));
}

#[test]
fn a_key_file_that_is_there_is_refused_with_the_code_of_a_refusal() {
    let directory = tempfile::tempdir().unwrap();
    let key = directory.path().join("cluster.key");
    let program = heartbeat_tests::lab::wait::binary("heartbeatd", "HEARTBEATD").unwrap();
    let make = || std::process::Command::new(&program).arg("genkey").arg(&key).output().unwrap();
    assert_eq!(make().status.code(), Some(0));
    let before = std::fs::read(&key).unwrap();
    let refused = make();
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{text}");
    assert!(text.contains("never overwritten"), "{text}");
    assert_eq!(std::fs::read(&key).unwrap(), before);
}

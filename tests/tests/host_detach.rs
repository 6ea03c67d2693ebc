//! `heartbeatctl detach` where the controller is dead: what it left goes, the peers are told first, and nothing is taken
//! from a controller that runs. It looks at devices, pins and what the peer says.

use heartbeat_common::maps;
use heartbeat_tests::lab::bpftool::{bpftool, links_in, text};
use heartbeat_tests::lab::crew::{Crew, heartbeatctl, heartbeatd, programs};
use heartbeat_tests::lab::wait::root_or_skip;
use heartbeat_tests::lab::{Options, guard};
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::{Uid, chown};
use std::fs::{self, DirBuilder, File, Permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

const A: usize = 0;
const B: usize = 1;
/// A user that nothing else runs as.
const SERVICE: u32 = 64_941;

/// Two nodes on two networks that show each other up.
fn pair() -> Crew {
    Crew::pair(2, &[("stall_limit_ms", 4000)], &Options::default()).unwrap()
}

/// The same, and then B's controller is killed.
fn killed() -> Crew {
    let mut crew = pair();
    crew.take(B).kill().unwrap();
    assert_eq!(programs(&crew.lab, B).unwrap().0, 2, "the kernel answers on");
    crew
}

fn root_of(crew: &Crew) -> PathBuf {
    crew.lab.pin_dir(B).join("heartbeatd")
}

/// `heartbeatctl detach` on B by the file of its daemon: exit code, stdout, stderr.
fn detach(crew: &Crew, wrapper: &[&str], words: &[&str]) -> (Option<i32>, String, String) {
    let config = crew.lab.node_dir(B).join("heartbeatd.toml");
    let mut all = vec!["detach", "--config", config.to_str().unwrap()];
    all.extend(words);
    asked(crew, wrapper, &all)
}

/// `heartbeatctl` on B, which is told nothing by the environment.
fn asked(crew: &Crew, wrapper: &[&str], words: &[&str]) -> (Option<i32>, String, String) {
    let clean = ["env", "-u", "HEARTBEAT_SOCKET", "-u", "HEARTBEATD_CONFIG"];
    let output = heartbeatctl(&crew.lab, B, &[&clean, wrapper].concat(), words).unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// Lets every user come as far as B's directories.
fn passable(crew: &Crew) {
    let scratch = crew.lab.scratch();
    let bpf = scratch.join("bpf");
    for path in [Path::new(guard::BASE), &scratch, &bpf, &crew.lab.node_dir(B), &crew.lab.pin_dir(B)] {
        fs::set_permissions(path, Permissions::from_mode(0o711)).unwrap();
    }
}

/// Gives B's pins and their directories to the user `SERVICE`.
fn give_pins_away(crew: &Crew) {
    let lease = crew.lab.pin_dir(B).join("heartbeatd-lease");
    let pins = |of: &Path| fs::read_dir(of).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    let all = [pins(&crew.pins(B)), pins(&lease), vec![lease, crew.pins(B), root_of(crew), crew.lab.pin_dir(B)]];
    for path in all.concat() {
        chown(&path, Some(Uid::from_raw(SERVICE)), None).unwrap();
    }
}

/// Shell words after which the user `SERVICE` has this name, and nobody else.
fn named(crew: &Crew, name: &str) -> String {
    let users = crew.lab.scratch().join("passwd");
    let known = fs::read_to_string("/etc/passwd").unwrap();
    let others =
        known.lines().filter(|line| !line.starts_with("heartbeatd:") && !line.starts_with(&format!("{name}:")));
    let others: String = others.map(|line| format!("{line}\n")).collect();
    fs::write(&users, format!("{others}{name}:x:{SERVICE}:{SERVICE}::/:/bin/false\n")).unwrap();
    fs::set_permissions(&users, Permissions::from_mode(0o644)).unwrap();
    format!("mount --bind {} /etc/passwd && ", users.display())
}

/// Shell words after which there is no configuration of the service, and its state directory, which is that of the user
/// `SERVICE`, notes that the pins are in `root`. Returns the note too.
fn noted(crew: &Crew, root: &Path) -> (String, PathBuf) {
    let state = crew.lab.scratch().join("noted");
    let note = state.join("pin_dir");
    DirBuilder::new().mode(0o700).create(&state).unwrap();
    fs::write(&note, format!("{}\n", root.display())).unwrap();
    for path in [&state, &note] {
        chown(path, Some(Uid::from_raw(SERVICE)), None).unwrap();
    }
    let hidden = "for d in /etc/heartbeatd /run/heartbeatd; do [ ! -d $d ] || mount -t tmpfs none $d || exit; done && ";
    (format!("{hidden}export STATE_DIRECTORY={} && ", state.display()), note)
}

/// Runs `heartbeatctl detach` behind shell words, with mounts of its own and not for ever.
fn detach_behind(crew: &Crew, words: &str) -> (Option<i32>, String, String) {
    let script = format!("{words}exec timeout 20 \"$@\"");
    asked(crew, &["unshare", "--mount", "sh", "-c", &script, "sh"], &["detach"])
}

fn socket(crew: &Crew) -> PathBuf {
    crew.lab.node_dir(B).join("run/control.sock")
}

#[test]
fn detach_without_a_controller_says_goodbye_and_takes_everything_off() {
    if !root_or_skip("detach_without_a_controller_says_goodbye_and_takes_everything_off") {
        return;
    }
    let mut crew = killed();
    let (mark, root) = (crew.mark().unwrap(), root_of(&crew));
    let before = crew.peer(A, B).unwrap()["incarnation"].as_u64().unwrap();
    // What another layout left goes as well.
    DirBuilder::new().mode(0o700).create(root.join("v0")).unwrap();
    fs::rename(crew.pins(B).join(maps::HISTOGRAMS), root.join("v0/xdp-native-9999")).unwrap();
    let (code, out, err) = detach(&crew, &[], &[]);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    assert!(out.contains("the peers were told that this node has left"), "{out}");
    let own = ["/xdp-native-", "/TICKS", "/OWN", "/COUNTERS", ""].map(|pin| format!("v{}{pin}", maps::ABI));
    for removed in ["v0/xdp-native-9999".to_owned(), "v0".to_owned()].into_iter().chain(own) {
        assert!(out.contains(&format!("removed {}/{removed}", root.display())), "no {removed} in {out}");
    }
    assert_eq!(programs(&crew.lab, B).unwrap(), (0, 0));
    assert!(!root.exists(), "pins are gone, and their directory");
    let left = crew.await_said(&mark, A, "node_left").unwrap();
    assert_eq!((&left["leaving"], &left["stopped"]), (&true.into(), &true.into()));
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(crew.said(&mark, A, "node_down").unwrap().len(), 0, "who left is not accused");
    // A second time there is nothing to do, which is no error.
    let (code, out, err) = detach(&crew, &[], &["--json"]);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    let answer: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&answer["schema"], &answer["removed"]), (&1.into(), &serde_json::json!([])), "{answer}");
    assert!(answer["done"].as_str().unwrap().starts_with("nothing done: heartbeatd is not running"), "{answer}");
    crew.start(B, &Options::default()).unwrap();
    crew.await_said(&mark, A, "node_restarted").unwrap();
    crew.all_up().unwrap();
    assert!(crew.peer(A, B).unwrap()["incarnation"].as_u64().unwrap() > before);
}

#[test]
fn detach_takes_nothing_from_a_controller_that_cannot_be_asked() {
    if !root_or_skip("detach_takes_nothing_from_a_controller_that_cannot_be_asked") {
        return;
    }
    let mut crew = pair();
    let (mark, nowhere) = (crew.mark().unwrap(), crew.lab.scratch().join("nowhere"));
    // Its file is not that of the socket.
    let (code, out, err) = detach(&crew, &[], &["--socket", nowhere.to_str().unwrap()]);
    assert_eq!((code, out.as_str(), err.contains("are of two heartbeatds")), (Some(2), "", true), "{err}");
    // It runs, and its socket is gone.
    let (socket, aside) = (socket(&crew), crew.lab.node_dir(B).join("run/aside.sock"));
    fs::rename(&socket, &aside).unwrap();
    let (code, out, err) = detach(&crew, &[], &[]);
    fs::rename(&aside, &socket).unwrap();
    assert_eq!((code, out.as_str()), (Some(1), ""), "{err}");
    assert!(err.contains("a heartbeatd runs and uses it, so nothing was detached"), "{err}");
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(programs(&crew.lab, B).unwrap(), (2, 2));
    assert_eq!(crew.said(&mark, B, "pins_restored").unwrap().len(), 0);
    crew.all_up().unwrap();
    crew.nobody_removed(&mark).unwrap();
    // Somebody else has the lock of what it left.
    crew.take(B).kill().unwrap();
    let held = Flock::lock(File::open(root_of(&crew)).unwrap(), FlockArg::LockExclusiveNonblock);
    let held = held.map_err(|(_, error)| error).unwrap();
    let (code, _, err) = detach(&crew, &[], &[]);
    assert_eq!((code, err.contains("nothing was detached")), (Some(1), true), "{err}");
    assert_eq!(programs(&crew.lab, B).unwrap().0, 2);
    std::thread::sleep(Duration::from_secs(1));
    crew.nobody_removed(&mark).unwrap();
    drop(held);
    // A file that is not there names no pins, and least of all the service's.
    let (code, _, err) = asked(&crew, &[], &["detach", "--config", nowhere.to_str().unwrap()]);
    assert_eq!((code, err.contains("nowhere: cannot be opened")), (Some(1), true), "{err}");
}

#[test]
fn detach_is_for_root_and_for_the_owner_of_the_pins() {
    if !root_or_skip("detach_is_for_root_and_for_the_owner_of_the_pins") {
        return;
    }
    let crew = killed();
    let root = root_of(&crew);
    fs::remove_file(socket(&crew)).unwrap();
    fs::set_permissions(crew.lab.node_dir(B).join("run"), Permissions::from_mode(0o711)).unwrap();
    passable(&crew);
    let stranger = ["setpriv", "--reuid=64942", "--regid=64942", "--clear-groups"];
    let refused = |wrapper: &[&str], code: i32, words: &str| {
        let (found, out, err) = detach(&crew, wrapper, &[]);
        assert_eq!((found, out.as_str(), err.contains(words)), (Some(code), "", true), "{err}");
        assert_eq!(programs(&crew.lab, B).unwrap().0, 2);
    };
    refused(&stranger, 5, "permission denied; where heartbeatd does not run, detach is for root");
    fs::set_permissions(crew.lab.pin_dir(B), Permissions::from_mode(0o700)).unwrap();
    refused(&stranger, 5, "permission denied; where heartbeatd does not run, detach is for root");
    // As `ip netns exec` does it: pins that are hidden are not taken for none.
    let bpf = crew.lab.scratch().join("bpf");
    let hidden = format!("mount -t tmpfs none {0} && mkdir -p {0}/b && exec \"$@\"", bpf.display());
    refused(
        &["unshare", "--mount", "sh", "-c", &hidden, "sh"],
        1,
        "is not on a bpffs, so what is pinned cannot be seen",
    );
    // The pins of a user that root does not know, and then of the service's.
    give_pins_away(&crew);
    refused(&[], 1, "belongs to uid 64941");
    let with = format!("{}exec \"$@\"", named(&crew, "heartbeatd"));
    // Root becomes the service's user, who is kept out further up.
    fs::set_permissions(&bpf, Permissions::from_mode(0o700)).unwrap();
    refused(&["unshare", "--mount", "sh", "-c", &with, "sh"], 1, "a directory above it is closed to this user");
    fs::set_permissions(&bpf, Permissions::from_mode(0o711)).unwrap();
    let mark = crew.mark().unwrap();
    let (code, out, err) = detach(&crew, &["unshare", "--mount", "sh", "-c", &with, "sh"], &[]);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    assert!(out.contains("the peers were told that this node has left"), "{out}");
    assert_eq!(programs(&crew.lab, B).unwrap(), (0, 0));
    assert!(!root.exists(), "{out}");
    crew.await_said(&mark, A, "node_left").unwrap();
    let (code, out, _) = detach(&crew, &[], &[]);
    assert_eq!((code, out.contains("nothing done")), (Some(0), true), "{out}");
}

#[test]
fn detach_is_not_led_to_other_pins_by_what_the_services_user_noted() {
    if !root_or_skip("detach_is_not_led_to_other_pins_by_what_the_services_user_noted") {
        return;
    }
    let crew = killed();
    passable(&crew);
    let (hidden, note) = noted(&crew, &root_of(&crew));
    // The pins are root's, the note is not: as whoever wrote it nothing can be done to them.
    let service = named(&crew, "heartbeatd");
    let (code, out, err) = detach_behind(&crew, &format!("{hidden}{service}"));
    assert_eq!((code, out.as_str(), err.contains("permission denied")), (Some(5), "", true), "{err}");
    // What does not end is not read to its end, and nobody is waited for.
    fs::remove_file(&note).unwrap();
    nix::unistd::mkfifo(&note, nix::sys::stat::Mode::S_IRWXU).unwrap();
    chown(&note, Some(Uid::from_raw(SERVICE)), None).unwrap();
    let (code, out, err) = detach_behind(&crew, &format!("{hidden}{service}"));
    assert_eq!((code, out.as_str(), err.contains("must be a regular file")), (Some(1), "", true), "{err}");
    // A user that the service does not run as notes nothing.
    let (code, out, err) = detach_behind(&crew, &format!("{hidden}{}", named(&crew, "somebody")));
    assert_eq!((code, out.as_str(), err.contains("belongs to uid 64941")), (Some(1), "", true), "{err}");
    assert_eq!(programs(&crew.lab, B).unwrap().0, 2, "the kernel answers on");
}

#[test]
fn detach_takes_the_user_that_the_unit_names_for_the_services() {
    if !root_or_skip("detach_takes_the_user_that_the_unit_names_for_the_services") {
        return;
    }
    let crew = killed();
    passable(&crew);
    give_pins_away(&crew);
    let root = root_of(&crew);
    let (hidden, _) = noted(&crew, &root);
    let manager = crew.lab.scratch().join("manager");
    DirBuilder::new().mode(0o755).create(&manager).unwrap();
    let says = "#!/bin/sh\n[ \"$*\" != 'show --property=User heartbeatd.service' ] || echo User=hb-other\n";
    fs::write(manager.join("systemctl"), says).unwrap();
    fs::set_permissions(manager.join("systemctl"), Permissions::from_mode(0o755)).unwrap();
    let asks = format!("{hidden}{}export PATH={}:$PATH && ", named(&crew, "hb-other"), manager.display());
    let mark = crew.mark().unwrap();
    let (code, out, err) = detach_behind(&crew, &asks);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    assert!(out.contains("the peers were told that this node has left"), "{out}");
    assert_eq!(programs(&crew.lab, B).unwrap(), (0, 0));
    assert!(!root.exists(), "{out}");
    crew.await_said(&mark, A, "node_left").unwrap();
}

#[test]
fn nobody_is_said_to_be_told_by_a_program_that_is_off() {
    if !root_or_skip("nobody_is_said_to_be_told_by_a_program_that_is_off") {
        return;
    }
    let crew = killed();
    for link in links_in(&crew.pins(B)) {
        bpftool(&["link", "detach", "pinned", text(&link)]).unwrap();
    }
    assert_eq!(programs(&crew.lab, B).unwrap().0, 0);
    let config = crew.lab.node_dir(B).join("heartbeatd.toml");
    let marked = heartbeatd(&crew.lab, B, &[], &["mark-left", "--config", text(&config)]).unwrap();
    let said = String::from_utf8_lossy(&marked.stdout).into_owned();
    assert!(said.contains("marked, but no program of heartbeatd is attached"), "{said}");
    let (code, out, err) = detach(&crew, &[], &[]);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    assert!(out.contains("the peers were told nothing, for no program of this build is attached any more"), "{out}");
    assert!(out.contains(&format!("v{}/OWN", maps::ABI)) && !root_of(&crew).exists(), "{out}");
}

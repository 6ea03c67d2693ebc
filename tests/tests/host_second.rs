//! A second controller on a node: refused while the first runs, and each leaves alone what the other has taken. It moves
//! pin directories as root would; no daemon is told of it.

use heartbeat_common::maps;
use heartbeat_tests::lab::bpftool::{bpftool, links_in, pin_a_map, text};
use heartbeat_tests::lab::crew::Crew;
use heartbeat_tests::lab::wait::root_or_skip;
use heartbeat_tests::lab::{Options, wait_for};
use nix::fcntl::{Flock, FlockArg};
use std::fs::File;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

const A: usize = 0;
const B: usize = 1;

/// Two nodes on one network that show each other up. The threshold leaves room for a busy machine.
fn pair() -> Crew {
    Crew::pair(1, &[("same_subnet_threshold", 10), ("stall_limit_ms", 4000)], &Options::default()).unwrap()
}

/// The configuration of a second controller on node B: its lock directory is its own, and so is all but the pins.
fn second(crew: &Crew) -> PathBuf {
    let own = crew.lab.node_dir(B);
    let config = std::fs::read_to_string(crew.daemon(B).config()).unwrap();
    let apart = own.join("second");
    let other = ["state", "run", "log"]
        .iter()
        .fold(config, |text, part| text.replace(own.join(part).to_str().unwrap(), apart.join(part).to_str().unwrap()));
    std::fs::create_dir(&apart).unwrap();
    let file = own.join("second.toml");
    std::fs::write(&file, &other).unwrap();
    file
}

/// Runs one more controller on node B that is expected to refuse: its exit code and words.
fn run(crew: &Crew, file: &Path) -> (Option<i32>, String) {
    let program = heartbeat_tests::lab::wait::binary("heartbeatd", "HEARTBEATD").unwrap();
    let output = crew.lab.node(B).command(&program).arg("run").arg("--config").arg(file).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn fault_83_a_removed_pin_directory_is_taken_again_and_not_by_a_second_controller() {
    if !root_or_skip("fault_83_a_removed_pin_directory_is_taken_again_and_not_by_a_second_controller") {
        return;
    }
    let crew = pair();
    let mark = crew.mark().unwrap();
    let second = second(&crew);
    std::fs::remove_dir_all(crew.lab.pin_dir(B).join("heartbeatd")).unwrap();
    crew.await_said(&mark, B, "pins_restored").unwrap();
    let (code, refusal) = run(&crew, &second);
    assert_eq!(code, Some(7), "{refusal}");
    assert!(refusal.contains("another heartbeatd uses it"), "{refusal}");
    let marked = heartbeat_tests::lab::crew::heartbeatd(
        &crew.lab,
        B,
        &[],
        &["mark-left", "--config", text(&crew.daemon(B).config())],
    );
    let said = String::from_utf8_lossy(&marked.unwrap().stdout).into_owned();
    assert!(said.contains("a heartbeatd runs here"), "{said}");
    crew.all_up().unwrap();
    crew.nobody_removed(&mark).unwrap();
}

/// Puts another controller's directory, filled by `fill` and held by it, into the place of that of node B's daemon in one
/// moment, and waits until the daemon says so. Returns the lock, and where the daemon's own directory is now.
fn taken_by_another(crew: &Crew, fill: impl Fn(&Path)) -> (Flock<File>, PathBuf) {
    let parent = crew.lab.pin_dir(B);
    let (root, aside, other) = (parent.join("heartbeatd"), parent.join("aside"), parent.join("other"));
    std::fs::DirBuilder::new().mode(0o700).create(&other).unwrap();
    fill(&other);
    let held = Flock::lock(File::open(&other).unwrap(), FlockArg::LockExclusiveNonblock);
    let held = held.map_err(|(_, error)| error).unwrap();
    std::fs::rename(&root, &aside).unwrap();
    std::fs::rename(&other, &root).unwrap();
    wait_for(Duration::from_secs(5), "the daemon to say so", || {
        let log = crew.daemon(B).log();
        if log.contains("another heartbeatd uses what is there now") { Ok(()) } else { Err(log) }
    })
    .unwrap();
    (held, aside)
}

/// Fills another controller's directory with pins that are named as those of node B's daemon. A map in the place of a
/// link will do: what counts is the name.
fn with_its_pins(crew: &Crew) -> impl Fn(&Path) + use<> {
    let link = links_in(&crew.pins(B)).pop().expect("a pinned link").file_name().unwrap().to_owned();
    move |other| {
        let version = other.join(format!("v{}", maps::ABI));
        std::fs::DirBuilder::new().mode(0o700).create(&version).unwrap();
        pin_a_map(&version.join(&link), "8", "link");
        pin_a_map(&version.join(maps::TICKS), "64", "TICKS");
    }
}

#[test]
fn fault_83_at_its_end_a_daemon_leaves_another_controllers_pins() {
    if !root_or_skip("fault_83_at_its_end_a_daemon_leaves_another_controllers_pins") {
        return;
    }
    let mut crew = pair();
    let (_held, aside) = taken_by_another(&crew, with_its_pins(&crew));
    let names = |crew: &Crew| -> Vec<PathBuf> {
        std::fs::read_dir(crew.pins(B)).into_iter().flatten().map(|entry| entry.unwrap().path()).collect()
    };
    let before = names(&crew);
    assert_eq!(before.len(), 2, "{before:?}");
    let mark = crew.mark().unwrap();
    crew.take(B).terminate(Duration::from_secs(10)).unwrap();
    crew.await_said(&mark, A, "node_left").unwrap();
    assert_eq!(names(&crew), before, "the other's pins");
    std::fs::remove_dir_all(&aside).unwrap();
}

#[test]
fn fault_83_what_another_controller_left_in_the_place_of_its_pins_is_replaced() {
    if !root_or_skip("fault_83_what_another_controller_left_in_the_place_of_its_pins_is_replaced") {
        return;
    }
    let mut crew = pair();
    let mark = crew.mark().unwrap();
    let (held, aside) = taken_by_another(&crew, with_its_pins(&crew));
    std::fs::remove_dir_all(&aside).unwrap();
    drop(held);
    let restored = crew.await_said(&mark, B, "pins_restored").unwrap();
    assert_eq!(restored["count"], 6, "five maps and a link, two of them in place of another's: {restored}");
    crew.nobody_removed(&mark).unwrap();
    // They are its own: without them the program would end with the controller.
    crew.take(B).kill().unwrap();
    crew.start(B, &Options::default()).unwrap();
    crew.await_said(&mark, B, "controller_adopted").unwrap();
    crew.all_up().unwrap();
    crew.nobody_removed(&mark).unwrap();
}

#[test]
fn fault_83_a_directory_that_another_controller_has_taken_is_left_alone_and_told() {
    if !root_or_skip("fault_83_a_directory_that_another_controller_has_taken_is_left_alone_and_told") {
        return;
    }
    let crew = pair();
    let mark = crew.mark().unwrap();
    let (held, aside) = taken_by_another(&crew, |_| {});
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(crew.daemon(B).log().matches("another heartbeatd uses what is there now").count(), 1, "said once");
    assert_eq!(crew.said(&mark, B, "pins_restored").unwrap().len(), 0);
    let inside: Vec<_> = std::fs::read_dir(crew.pins(B)).into_iter().flatten().collect();
    assert!(inside.is_empty(), "pinned among another's: {inside:?}");
    crew.all_up().unwrap();
    assert_eq!(crew.modes(B).unwrap()[0].1, "native", "it answers on");
    // A link that is lost meanwhile is attached again, and lives without a pin.
    let link = links_in(&aside.join(format!("v{}", maps::ABI))).pop().expect("a pinned link");
    bpftool(&["link", "detach", "pinned", text(&link)]).unwrap();
    crew.await_said(&mark, B, "link_reattached").unwrap();
    crew.all_up().unwrap();
    assert_eq!(crew.modes(B).unwrap()[0].1, "native", "it answers again");
    let inside: Vec<_> = std::fs::read_dir(crew.pins(B)).into_iter().flatten().collect();
    assert!(inside.is_empty(), "pinned among another's: {inside:?}");
    // The other ends: what it leaves is taken over.
    drop(held);
    let restored = crew.await_said(&mark, B, "pins_restored").unwrap();
    assert_eq!(restored["count"], 6, "{restored}");
    std::fs::remove_dir_all(&aside).unwrap();
    crew.all_up().unwrap();
    crew.nobody_removed(&mark).unwrap();
}

#[test]
fn fault_83_a_second_controller_is_refused_and_the_first_goes_on() {
    if !root_or_skip("fault_83_a_second_controller_is_refused_and_the_first_goes_on") {
        return;
    }
    let crew = pair();
    let mark = crew.mark().unwrap();
    let second = second(&crew);
    // One that asks for no kernel uses no pins, and must not take away those of the one that does.
    let off = second.with_extension("off");
    let with = std::fs::read_to_string(&second).unwrap();
    let without = with.replace("fast_path = \"auto\"", "fast_path = \"off\"");
    assert_ne!(with, without);
    std::fs::write(&off, without).unwrap();
    let uses = "another heartbeatd uses it";
    for (file, names) in [(crew.daemon(B).config(), "held by the heartbeatd with pid"), (second, uses), (off, uses)] {
        let (code, text) = run(&crew, &file);
        assert_eq!(code, Some(7), "{text}");
        assert!(text.contains(names), "{text}");
    }
    assert_eq!(crew.said(&mark, B, "pins_restored").unwrap().len(), 0);
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(crew.verdicts(&mark).unwrap(), vec![]);
    assert_eq!(crew.said(&mark, A, "controller_restarted").unwrap().len(), 0);
    assert_eq!(crew.modes(B).unwrap()[0].1, "native");
    crew.all_up().unwrap();
}

#[test]
fn fault_83_a_start_waits_for_a_detach_that_has_the_pins() {
    if !root_or_skip("fault_83_a_start_waits_for_a_detach_that_has_the_pins") {
        return;
    }
    let mut crew = pair();
    for (fast_path, mode) in [("off", "userspace"), ("auto", "native")] {
        // Something is there to be taken off.
        crew.take(B).kill().unwrap();
        let root = crew.lab.pin_dir(B).join("heartbeatd");
        std::fs::DirBuilder::new().mode(0o700).recursive(true).create(&root).unwrap();
        let held = Flock::lock(File::open(&root).unwrap(), FlockArg::LockExclusiveNonblock);
        let held = held.map_err(|(_, error)| error).unwrap();
        // As a detach does it: the directory goes, and with its process the lock.
        let detach = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_secs(1));
            std::fs::remove_dir_all(&root).unwrap();
            drop(held);
        });
        let log = crew.lab.node_dir(B).join("heartbeatd.log");
        let before = std::fs::read_to_string(&log).unwrap().len();
        let started = crew.start(B, &Options { fast_path: fast_path.to_owned(), ..Options::default() });
        detach.join().unwrap();
        started.unwrap();
        let said = std::fs::read_to_string(&log).unwrap().split_off(before);
        assert!(said.contains("somebody uses it; tried again for 3.2 s"), "{said}");
        crew.all_up().unwrap();
        assert_eq!(crew.modes(B).unwrap()[0].1, mode);
    }
}

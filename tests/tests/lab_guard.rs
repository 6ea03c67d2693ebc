//! The lab's clean-up and its starvation of processes: nothing stays behind, whatever ends a lab, and every way to
//! starve a process is seen to take its time. It tests no heartbeat.

use heartbeat_tests::lab::starve::{cpu_time, resume, stop};
use heartbeat_tests::lab::wait::{root_or_skip, starvation_or_skip, wait_for};
use heartbeat_tests::lab::{Freezer, Hog, Lab, Leak, NodeNs, Quota, Spec, leaks_of, leaks_tagged, sweep};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Tests that take a whole CPU run one at a time.
static CPUS: Mutex<()> = Mutex::new(());
const WINDOW: Duration = Duration::from_millis(1000);
const LIFE: Duration = Duration::from_secs(30);

fn lab() -> Lab {
    Lab::new(Spec::new(1, 1)).unwrap()
}

/// CPU time that a process uses in one window, as a part of it.
fn share(pid: u32) -> f64 {
    let before = cpu_time(pid).unwrap();
    std::thread::sleep(WINDOW);
    (cpu_time(pid).unwrap() - before).as_secs_f64() / WINDOW.as_secs_f64()
}

#[test]
fn a_fifo_hog_takes_its_cpu_and_ends_by_itself() {
    if !starvation_or_skip("a_fifo_hog_takes_its_cpu_and_ends_by_itself") {
        return;
    }
    let _alone = CPUS.lock().unwrap_or_else(PoisonError::into_inner);
    let lab = lab();
    let victim = Hog::start(&lab, 1, None, LIFE).unwrap();
    let free = share(victim.pid());
    let hog = Hog::start(&lab, 1, Some(99), Duration::from_millis(1500)).unwrap();
    let (before, victim_before) = (cpu_time(hog.pid()).unwrap(), cpu_time(victim.pid()).unwrap());
    std::thread::sleep(WINDOW);
    let taken = (cpu_time(hog.pid()).unwrap() - before).as_secs_f64();
    let left = (cpu_time(victim.pid()).unwrap() - victim_before).as_secs_f64();
    hog.wait().unwrap();
    println!("victim alone {free:.2}, beside the hog {left:.2}; hog {taken:.2}");
    assert!(free > 0.2, "the victim ran before: {free}");
    assert!(taken > 0.8 && left < 0.15, "hog {taken}, victim {left}");
}

#[test]
fn a_quota_holds_back() {
    if !starvation_or_skip("a_quota_holds_back") {
        return;
    }
    let _alone = CPUS.lock().unwrap_or_else(PoisonError::into_inner);
    let lab = lab();
    let quota = Quota::new(&lab, "tenth", Duration::from_millis(10), Duration::from_millis(100)).unwrap();
    let inside = Hog::start_with(&lab, 1, None, LIFE, |command| quota.join(command)).unwrap();
    let held = share(inside.pid());
    assert!(held < 0.2, "{held} of a tenth");
    let (times, total) = quota.throttled().unwrap();
    assert!(times >= 5 && total > Duration::from_millis(200), "{times} times, {total:?}");
    // Started inside, it has no realtime runtime: the kernel refuses SCHED_FIFO.
    assert!(Hog::start_with(&lab, 1, Some(10), LIFE, |command| quota.join(command)).is_err());
    quota.set(Duration::from_millis(80), Duration::from_millis(100)).unwrap();
    let widened = share(inside.pid());
    assert!(widened > 0.2, "{widened} of four fifths");
    quota.set(Duration::from_millis(10), Duration::from_millis(100)).unwrap();
    drop(inside);
    let outside = Hog::start(&lab, 1, None, LIFE).unwrap();
    assert!(share(outside.pid()) > 0.2, "outside it runs");
    quota.add(outside.pid()).unwrap();
    let added = share(outside.pid());
    assert!(added < 0.2, "{added} of a tenth");
}

#[test]
fn frozen_and_stopped_processes_stand_still() {
    if !starvation_or_skip("frozen_and_stopped_processes_stand_still") {
        return;
    }
    let _alone = CPUS.lock().unwrap_or_else(PoisonError::into_inner);
    let lab = lab();
    let victim = Hog::start(&lab, 1, None, LIFE).unwrap();
    let freezer = Freezer::new(&lab, "ice").unwrap();
    freezer.add(victim.pid()).unwrap();
    assert!(share(victim.pid()) > 0.1, "an unfrozen group runs");
    freezer.freeze().unwrap();
    assert_eq!(share(victim.pid()), 0.0);
    freezer.thaw().unwrap();
    assert!(share(victim.pid()) > 0.1);
    stop(victim.pid()).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(share(victim.pid()), 0.0);
    resume(victim.pid()).unwrap();
    assert!(share(victim.pid()) > 0.1);
}

/// A lab in a process of its own, with its tag.
fn hold(arguments: &[&str]) -> (Child, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_heartbeat-lab"));
    let mut child = command.args(["hold", "--seconds", "60"]).args(arguments).stdout(Stdio::piped()).spawn().unwrap();
    let mut tag = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut tag).unwrap();
    let tag = tag.trim().to_owned();
    assert!(tag.starts_with(&format!("hb-{}-", child.id())), "{tag:?}");
    (child, tag)
}

fn kinds(leaks: &[Leak]) -> [bool; 5] {
    [
        leaks.iter().any(|leak| matches!(leak, Leak::Process(_))),
        leaks.iter().any(|leak| matches!(leak, Leak::Group(_))),
        leaks.iter().any(|leak| matches!(leak, Leak::Mount(_))),
        leaks.iter().any(|leak| matches!(leak, Leak::Namespace(_))),
        leaks.iter().any(|leak| matches!(leak, Leak::Scratch(_))),
    ]
}

#[test]
fn a_killed_lab_leaves_only_what_the_sweep_removes() {
    if !starvation_or_skip("a_killed_lab_leaves_only_what_the_sweep_removes") {
        return;
    }
    let _alone = CPUS.lock().unwrap_or_else(PoisonError::into_inner);
    let (mut child, tag) = hold(&[]);
    let pid = child.id();
    sweep();
    assert_eq!(kinds(&leaks_of(pid)), [true; 5], "the sweep leaves a living lab alone");
    child.kill().unwrap();
    child.wait().unwrap();
    // Another test of this process, or of another, may sweep first; nobody else's lab may suffer by it.
    let own = lab();
    sweep();
    let gone = || if leaks_of(pid).is_empty() { Ok(()) } else { Err(format!("{:?}", leaks_of(pid))) };
    wait_for(Duration::from_secs(5), "the sweep of a killed lab", gone).unwrap();
    assert!(kinds(&leaks_tagged(own.tag()))[3], "{tag}'s end is not another's");
}

/// Number of the XDP program on an interface of a lab's node, if there is one.
fn program(tag: &str, node: &str, interface: &str) -> Option<u64> {
    let shown = Command::new("nsenter")
        .arg(format!("--net=/run/netns/{tag}-{node}"))
        .args(["ip", "-json", "-details", "link", "show", interface])
        .output()
        .unwrap();
    let links: serde_json::Value = serde_json::from_slice(&shown.stdout).ok()?;
    links[0]["xdp"]["prog"]["id"].as_u64()
}

/// Says whether the kernel still holds a program.
fn is_loaded(program: u64) -> bool {
    let id = program.to_string();
    Command::new("bpftool").args(["prog", "show", "id", &id]).output().unwrap().status.success()
}

#[test]
fn the_next_sweep_takes_daemons_pins_and_programs_of_a_killed_lab() {
    if !root_or_skip("the_next_sweep_takes_daemons_pins_and_programs_of_a_killed_lab") {
        return;
    }
    let (mut child, tag) = hold(&["--daemon"]);
    let scratch = std::path::Path::new(heartbeat_tests::lab::guard::BASE).join(&tag);
    let loaded = program(&tag, "a", "net1").unwrap();
    assert!(scratch.join("bpf/a/heartbeatd").is_dir() && is_loaded(loaded));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(is_loaded(loaded), "the pins hold the program, with and without its lab");
    // As before every run of the tests. Another test may have swept before it.
    let status = Command::new(env!("CARGO_BIN_EXE_heartbeat-lab")).arg("sweep").status().unwrap();
    assert!(status.success());
    assert_eq!(leaks_tagged(&tag), []);
    // The kernel frees a program some time after its last holder.
    let gone = || if is_loaded(loaded) { Err("still loaded") } else { Ok(()) };
    wait_for(Duration::from_secs(5), "the end of the program", gone).unwrap();
}

#[test]
fn a_lab_that_is_told_to_end_leaves_nothing() {
    if !starvation_or_skip("a_lab_that_is_told_to_end_leaves_nothing") {
        return;
    }
    let _alone = CPUS.lock().unwrap_or_else(PoisonError::into_inner);
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let (mut child, _) = hold(&[]);
        let pid = child.id();
        kill(Pid::from_raw(pid.cast_signed()), signal).unwrap();
        let status = child.wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(signal as i32));
        assert_eq!(leaks_of(pid), [], "after {signal}");
    }
}

#[test]
fn a_panicking_test_leaves_nothing() {
    if !root_or_skip("a_panicking_test_leaves_nothing") {
        return;
    }
    let tag = Mutex::new(String::new());
    let result = std::panic::catch_unwind(|| {
        let lab = lab();
        *tag.lock().unwrap() = lab.tag().to_owned();
        let mut sleeper = lab.node(0).command("sleep").arg("60").spawn().unwrap();
        assert_eq!(kinds(&leaks_tagged(lab.tag())), [true, false, true, true, true]);
        assert!(sleeper.try_wait().unwrap().is_some(), "this panic is part of the test");
    });
    assert!(result.is_err());
    let tag = tag.into_inner().unwrap_or_else(PoisonError::into_inner);
    assert!(tag.starts_with("hb-"));
    assert_eq!(leaks_tagged(&tag), []);
}

#[test]
fn a_node_is_entered_by_its_network_namespace_alone() {
    if !root_or_skip("a_node_is_entered_by_its_network_namespace_alone") {
        return;
    }
    let lab = lab();
    let inside = |ns: &NodeNs, what: &str| ns.run("readlink", &[&format!("/proc/self/ns/{what}")]).unwrap();
    let here = |what: &str| std::fs::read_link(format!("/proc/self/ns/{what}")).unwrap();
    assert_ne!(inside(lab.node(0), "net").trim(), here("net").to_str().unwrap());
    assert_ne!(inside(lab.node(0), "net"), inside(lab.switch(), "net"));
    assert_eq!(inside(lab.node(0), "mnt").trim(), here("mnt").to_str().unwrap());
    let entered = lab.node(0).enter(|| std::fs::read_link("/proc/thread-self/ns/net").unwrap()).unwrap();
    assert_eq!(entered.to_str().unwrap(), inside(lab.node(0), "net").trim());
    assert_ne!(here("net"), entered, "the caller stayed where it was");
}

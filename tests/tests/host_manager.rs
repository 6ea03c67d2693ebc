//! What a daemon tells its service manager, and does when it is told to reload, as one with a real socket sees it. There
//! is no service manager in the lab.

use heartbeat_tests::lab::crew::{Crew, PATIENCE, refused};
use heartbeat_tests::lab::wait::{root_or_skip, starvation_or_skip};
use heartbeat_tests::lab::{Cluster, Freezer, Lab, Options, Spec, wait_for};
use nix::sys::signal::Signal;
use std::time::Duration;

const A: usize = 0;
const B: usize = 1;
/// Longer than the hang limit of these tests, as it has to be; it is fed four times as often.
const WATCHDOG_US: u64 = 3_000_000;

fn fed(crew: &Crew) -> usize {
    crew.daemon(B).notify().lines().iter().filter(|(_, line)| line == "WATCHDOG=1").count()
}

fn await_fed(crew: &Crew, more_than: usize) {
    wait_for(PATIENCE, "the watchdog to be fed", || {
        let fed = fed(crew);
        if fed > more_than { Ok(()) } else { Err(fed) }
    })
    .unwrap();
}

#[test]
fn the_watchdog_is_fed_for_the_progress_of_the_deciding_thread_alone() {
    if !starvation_or_skip("the_watchdog_is_fed_for_the_progress_of_the_deciding_thread_alone") {
        return;
    }
    let options =
        Options { environment: vec![("WATCHDOG_USEC".to_owned(), WATCHDOG_US.to_string())], ..Options::default() };
    let crew = Crew::pair(1, &[("stall_limit_ms", 1000), ("hang_limit_s", 2)], &options).unwrap();
    await_fed(&crew, 1);
    let mark = crew.mark().unwrap();
    let freezer = Freezer::new(&crew.lab, "decider").unwrap();
    freezer.add_thread(crew.daemon(B).thread("hb-decider").unwrap()).unwrap();
    freezer.freeze().unwrap();
    // What was proved before may be told once more.
    std::thread::sleep(Duration::from_micros(WATCHDOG_US / 2));
    let before = fed(&crew);
    std::thread::sleep(Duration::from_micros(2 * WATCHDOG_US));
    assert_eq!(fed(&crew), before, "all its other threads run");
    crew.await_said(&mark, A, "node_hung").unwrap();
    freezer.thaw().unwrap();
    await_fed(&crew, before);
    crew.await_said(&mark, A, "node_recovered").unwrap();
    assert!(crew.said(&mark, A, "node_down").unwrap().is_empty());
}

#[test]
fn a_watchdog_shorter_than_the_hang_limit_is_refused_at_start() {
    if !root_or_skip("a_watchdog_shorter_than_the_hang_limit_is_refused_at_start") {
        return;
    }
    let lab = Lab::new(Spec::new(2, 1)).unwrap();
    let cluster = Cluster::new(&lab, "lan").with("hang_limit_s", 30);
    let environment = vec![("WATCHDOG_USEC".to_owned(), "20000000".to_owned())];
    let options = Options { environment, ..Options::default() };
    let ended = refused(&lab, B, &cluster, &options).unwrap();
    assert_eq!(ended.code, Some(6), "{}", ended.text);
    assert!(ended.text.contains("watchdog") && ended.text.contains("hang_limit_s"), "{}", ended.text);
}

#[test]
fn a_start_that_waits_for_what_ran_before_asks_for_the_time() {
    const STOP: Duration = Duration::from_secs(3);
    if !root_or_skip("a_start_that_waits_for_what_ran_before_asks_for_the_time") {
        return;
    }
    let lab = Lab::new(Spec::new(2, 1)).unwrap();
    let cluster = Cluster::new(&lab, "lan").with("stop_time_s", STOP.as_secs());
    let mut crew = Crew::new(lab, cluster);
    crew.start(B, &Options::default()).unwrap();
    // Killed, and its pins are lost: a new incarnation, that waits until what the old one ran has had its time to stop.
    crew.take(B).kill().unwrap();
    std::fs::remove_dir_all(crew.lab.pin_dir(B).join("heartbeatd")).unwrap();
    crew.start(B, &Options::default()).unwrap();
    let lines = crew.daemon(B).notify().lines();
    let ready = crew.daemon(B).notify().ready().unwrap();
    let asked = |(at, line): &(u64, String)| {
        let time: u64 = line.strip_prefix("EXTEND_TIMEOUT_USEC=")?.parse().unwrap();
        Some((*at, Duration::from_micros(time)))
    };
    let last = lines.iter().rev().find_map(asked);
    let (at, time) = last.unwrap_or_else(|| panic!("no time was asked for: {lines:?}"));
    assert!(ready >= at + STOP.as_nanos() as u64, "it is asked for before the wait: {lines:?}");
    // It may wait a little longer than that, and has to start then.
    assert!(time >= STOP + Duration::from_secs(60), "{time:?}");
}

#[test]
fn a_reload_that_is_refused_says_why_and_keeps_what_was() {
    if !root_or_skip("a_reload_that_is_refused_says_why_and_keeps_what_was") {
        return;
    }
    let crew = Crew::pair(1, &[("stall_limit_ms", 4000)], &Options::default()).unwrap();
    let (file, good) = (crew.daemon(B).config(), crew.cluster.render(&crew.lab, B, &Options::default()));
    let settings = || crew.daemon(B).ask("status").unwrap()["settings"].clone();
    let before = settings();
    assert!(before.is_object(), "{before}");
    let other_node = good.replace("name = \"a\"", "name = \"z\"");
    let faulty = [
        (good.replace("stall_limit_ms = 4000", "stall_limit_ms = \"long\""), "stall_limit_ms"),
        ("nonsense".to_owned(), "heartbeatd.toml:1"),
        (other_node, "take a restart"),
        (good.replace("fast_path = \"auto\"", "fast_path = \"off\""), "take a restart"),
    ];
    for (text, reason) in faulty {
        assert_ne!(text, good, "{reason}");
        let mark = crew.mark().unwrap();
        std::fs::write(&file, text).unwrap();
        crew.daemon(B).signal(Signal::SIGHUP).unwrap();
        let told = crew.await_said(&mark, B, "config_rejected").unwrap();
        assert!(told["reason"].as_str().unwrap().contains(reason), "no {reason:?} in {told}");
        assert_eq!(settings(), before);
        crew.all_up().unwrap();
    }
    let mark = crew.mark().unwrap();
    std::fs::write(&file, good.replace("stall_limit_ms = 4000", "stall_limit_ms = 5000")).unwrap();
    crew.daemon(B).signal(Signal::SIGHUP).unwrap();
    crew.await_said(&mark, B, "config_reloaded").unwrap();
    assert_ne!(settings(), before);
    crew.nobody_removed(&mark).unwrap();
}

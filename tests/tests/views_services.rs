//! What holds on to a node's lease: the holder that stands for the quorate target, up just while the node may act, and
//! hooks that hang, fail and leave children behind.

use heartbeat_tests::lab::crew::{Crew, Mark};
use heartbeat_tests::lab::timely::noticed;
use heartbeat_tests::lab::views::{long_rounds, rounds};
use heartbeat_tests::lab::wait::root_or_skip;
use heartbeat_tests::lab::{Cluster, Holder, Lab, Options, Spec, Timely, monotonic_ns, wait_for};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

const C: usize = 2;
const SOON: Duration = Duration::from_secs(10);

#[test]
fn the_target_is_up_while_the_node_may_act_and_down_when_it_may_not_though_its_daemon_is_stopped() {
    let name = "the_target_is_up_while_the_node_may_act_and_down_when_it_may_not_though_its_daemon_is_stopped";
    if !root_or_skip(name) {
        return;
    }
    let (count, _) = rounds(name, 100);
    let (mut crew, sink) = Crew::formed(3).unwrap();
    for round in 0..count {
        let stopped = round % 2 == 0;
        let mut holder = Holder::start(&crew.lab, C).unwrap();
        holder.wait_ready(SOON).unwrap();
        if stopped {
            crew.daemon(C).stop().unwrap();
            std::thread::sleep(Duration::from_secs(1));
        }
        assert!(holder.is_up().unwrap(), "a daemon that stands still is no reason");
        crew.lab.cut_all(C).unwrap();
        holder.wait_down(SOON).unwrap();
        assert!(holder.ended().unwrap().unwrap().success(), "it ends well: its manager starts it again");
        assert!(sink.acting(C).is_err());
        if stopped {
            crew.daemon(C).resume().unwrap();
        }
        // The next one waits, without being ready.
        let mut next = Holder::start(&crew.lab, C).unwrap();
        std::thread::sleep(Duration::from_millis(500));
        assert!(!next.is_up().unwrap() && next.ended().unwrap().is_none());
        crew.await_view(&[0, 1]).unwrap();
        crew.lab.heal().unwrap();
        crew.await_view(&[0, 1, 2]).unwrap();
        next.wait_ready(SOON).unwrap();
    }
    crew.audit(&sink).unwrap();
}

#[test]
fn the_target_is_down_before_anybody_takes_over() {
    let name = "the_target_is_down_before_anybody_takes_over";
    if !root_or_skip(name) {
        return;
    }
    let lab = Lab::new(Spec::new(3, 2)).unwrap();
    // What runs has 300 ms to stop, and the others wait for it.
    let cluster = Cluster::new(&lab, "lan")
        .with("quarantine_threshold", 0)
        .with("quorum_arbitration_time_max_s", "0.8")
        .with("stop_time_s", "0.3");
    let mut crew = Crew::new(lab, cluster);
    let sink = crew.form().unwrap();
    for _ in 0..10 {
        let mut holder = Holder::start(&crew.lab, C).unwrap();
        holder.wait_ready(SOON).unwrap();
        crew.lab.cut_all(C).unwrap();
        let down = holder.wait_down(SOON).unwrap();
        let view = crew.await_view(&[0, 1]).unwrap();
        let taken = [0, 1].iter().filter_map(|node| sink.acts().first_from(*node, view)).min().unwrap();
        assert!(down < taken, "down at {down}, taken over at {taken}");
        crew.lab.heal().unwrap();
        crew.await_view(&[0, 1, 2]).unwrap();
    }
    crew.audit(&sink).unwrap();
}

#[test]
fn a_holder_is_ready_once_its_daemon_has_taken_note_and_then_without_it() {
    let name = "a_holder_is_ready_once_its_daemon_has_taken_note_and_then_without_it";
    if !root_or_skip(name) {
        return;
    }
    let (mut crew, sink) = Crew::formed(3).unwrap();
    crew.daemon(C).stop().unwrap();
    let mut first = Holder::start(&crew.lab, C).unwrap();
    std::thread::sleep(Duration::from_secs(3));
    let waits = !first.is_up().unwrap() && first.ended().unwrap().is_none();
    assert!(waits, "its kernel may say that this node stops at once");
    crew.daemon(C).resume().unwrap();
    first.wait_ready(SOON).unwrap();
    crew.daemon(C).stop().unwrap();
    drop(first);
    // The page by its pin, and word of holders by the mark.
    let second = Holder::start(&crew.lab, C).unwrap();
    second.wait_ready(SOON).unwrap();
    crew.daemon(C).resume().unwrap();
    drop(second);
    crew.await_view(&[0, 1, 2]).unwrap();
    crew.audit(&sink).unwrap();
}

fn script(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// Processes that run a program of this name.
fn running(program: &str) -> usize {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let line = |entry: std::fs::DirEntry| std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
    processes
        .filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok())
        .map(line)
        .filter(|line| line.split(|byte| *byte == 0).any(|word| word == program.as_bytes()))
        .count()
}

/// Time that a hook has.
const HOOK_TIME: Duration = Duration::from_secs(1);

/// What the first node said of a hook that failed.
fn failed(crew: &Crew, since: &Mark, hook: &Path) -> Vec<Value> {
    let mut said = crew.said(since, 0, "hook_failed").unwrap();
    said.retain(|event| event["hook"] == hook.display().to_string());
    said
}

/// Waits until the first node has installed so many views at least, and both hooks have failed for each; returns how many.
fn all_failed(crew: &Crew, since: &Mark, hooks: [&Path; 2], least: usize) -> usize {
    wait_for(SOON, "each view's hooks to have failed", || {
        let views = crew.said(since, 0, "view_installed").unwrap().len();
        let failed = hooks.map(|hook| failed(crew, since, hook).len());
        if views >= least && failed == [views; 2] { Ok(views) } else { Err(format!("{views}: {failed:?}")) }
    })
    .unwrap()
}

/// A hook that hangs is ended with all that it started when its time is over, one that fails is told of, and neither is in
/// the way of the next one. What keeps the node acting is its kernel: no view and no lease waits for a hook, and so no
/// watchdog would either. There is none here to see that by.
#[test]
fn fault_110_hooks_that_hang_or_fork_are_ended_in_time_and_cost_no_lease() {
    let name = "fault_110_hooks_that_hang_or_fork_are_ended_in_time_and_cost_no_lease";
    if !root_or_skip(name) {
        return;
    }
    let (count, _) = long_rounds(name, 40);
    let lab = Lab::new(Spec::new(2, 1)).unwrap();
    let [hangs, fails, next] = ["hangs", "fails", "next"].map(|name| lab.scratch().join(name));
    let noted = lab.scratch().join("noted");
    let mark = format!("86{}", std::process::id());
    // It leaves children that ignore what they are told, and does not end.
    script(
        &hangs,
        &format!(
            "#!/bin/sh\ntrap '' TERM HUP\n(trap '' TERM HUP; sleep {mark}) &\nsetsid sleep {mark} &\nsleep {mark}\n"
        ),
    );
    script(&fails, "#!/bin/sh\nexit 3\n");
    script(&next, &format!("#!/bin/sh\necho \"$HEARTBEAT_EVENT\" >> {}\n", noted.display()));
    let cluster = Cluster::new(&lab, "lan").with("quarantine_threshold", 0);
    let mut crew = Crew::new(lab, cluster);
    let programs = [&hangs, &fails, &next].map(|program| format!("\"{}\"", program.display()));
    let daemon = vec![
        ("on_event".to_owned(), format!("[{}]", programs.join(", "))),
        ("hook_events".to_owned(), "[\"view_installed\"]".to_owned()),
        ("hook_timeout_s".to_owned(), HOOK_TIME.as_secs().to_string()),
    ];
    crew.start(0, &Options { daemon, ..Options::default() }).unwrap();
    crew.start(1, &Options::default()).unwrap();
    let begun = crew.mark().unwrap();
    let sink = crew.created(&[0, 1]).unwrap();
    let from = monotonic_ns();
    // One event at a time, so that no hook waits for another's end.
    let mut views = all_failed(&crew, &begun, [&hangs, &fails], 1);
    let mut ended = Timely::new("a hook that hangs, from its event until it is ended", HOOK_TIME + HOOK_TIME / 2);
    ended = ended.not_before(HOOK_TIME);
    for by in ["b", "none"].into_iter().cycle().take(5 * count as usize) {
        let set = crew.daemon(1).ctl(&["set", "lower_quorum_priority_node", by]).unwrap();
        assert!(set.status.success(), "{set:?}");
        views = all_failed(&crew, &begun, [&hangs, &fails], views + 1);
        let view = crew.said(&begun, 0, "view_installed").unwrap().pop().unwrap();
        let [hung, broke] = [&hangs, &fails].map(|hook| failed(&crew, &begun, hook).pop().unwrap());
        ended.add(noticed(&view).unwrap(), noticed(&hung).unwrap()).unwrap();
        assert_eq!((&hung["id"], &hung["event_id"]), (&20122.into(), &20100.into()), "{hung}");
        assert!(hung["reason"].to_string().contains("its time was over"), "{hung}");
        assert!(broke["reason"].to_string().contains("status 3"), "{broke}");
    }
    ended.judge().unwrap();
    wait_for(SOON, "the next hook to have run for each view", || {
        let written = std::fs::read_to_string(&noted).unwrap();
        if written.lines().count() == views { Ok(()) } else { Err(format!("{views} views: {written}")) }
    })
    .unwrap();
    wait_for(SOON, "all that the hooks left to be gone", || match running(&mark) {
        0 => Ok(()),
        left => Err(format!("{left} processes")),
    })
    .unwrap();
    crew.acted_on(&sink, &[0], from).unwrap();
    crew.nobody_removed(&begun).unwrap();
    crew.await_view(&[0, 1]).unwrap();
    crew.audit(&sink).unwrap();
}

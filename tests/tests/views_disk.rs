//! Disks that fail, forget or go back in time, and daemons that die between two writes: a vote that cannot be kept is not
//! given, and nothing is decided twice.

use heartbeat_tests::lab::crew::{Crew, Mark};
use heartbeat_tests::lab::disk::SmallDisk;
use heartbeat_tests::lab::views::{FORMING, rounds};
use heartbeat_tests::lab::wait::root_or_skip;
use heartbeat_tests::lab::{Options, Sink, monotonic_ns, wait_for};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const C: usize = 2;
/// Exit status of a daemon whose host failed it.
const HOST: i32 = 8;

fn agreement(crew: &Crew) -> PathBuf {
    crew.lab.node_dir(C).join("state/agreement")
}

/// Asks a for a change of a setting: another view follows.
fn change(crew: &Crew, node: &str) {
    let set = crew.daemon(0).ctl(&["set", "lower_quorum_priority_node", node]).unwrap();
    assert!(set.status.success(), "{set:?}");
}

/// c cannot write what was decided: it gives its vote up, says so, leaves and ends; the others go on.
fn gives_up(crew: &mut Crew, mark: &Mark) {
    let ended = crew.take(C).wait(FORMING).unwrap();
    assert_eq!(ended.code(), Some(HOST));
    for name in ["vote_forfeited", "stopped_for_consistency"] {
        let told = crew.await_said(mark, C, name);
        assert!(told.is_ok(), "{told:?}");
    }
    crew.await_view(&[0, 1]).unwrap();
}

/// Three nodes, the state of c on a small disk of its own.
fn on_a_small_disk() -> (Crew, Sink, SmallDisk) {
    let mut crew = Crew::idle(3).unwrap();
    let disk = SmallDisk::mount(&crew.lab.node_dir(C).join("state"), 256 * 1024).unwrap();
    let sink = crew.form().unwrap();
    (crew, sink, disk)
}

#[test]
fn fault_103_where_the_state_can_not_be_written_the_node_casts_no_vote_and_leaves() {
    let name = "fault_103_where_the_state_can_not_be_written_the_node_casts_no_vote_and_leaves";
    if !root_or_skip(name) {
        return;
    }
    let (count, _) = rounds(name, 100);
    let (mut crew, sink, disk) = on_a_small_disk();
    for round in 0..count {
        let full = round % 2 == 0;
        let mark = crew.mark().unwrap();
        if full {
            // A view alone does it no harm: what is written over and over has its room.
            disk.fill().unwrap();
            change(&crew, "a");
            crew.await_view(&[0, 1, 2]).unwrap();
            assert!(crew.said(&mark, C, "vote_forfeited").unwrap().is_empty());
            // That is gone, as where every write takes room of its own.
            fs::remove_file(agreement(&crew).with_extension("spare")).unwrap();
            disk.fill().unwrap()
        } else {
            disk.read_only(true).unwrap()
        }
        change(&crew, if full { "b" } else { "none" });
        gives_up(&mut crew, &mark);
        if full {
            disk.free().unwrap()
        } else {
            disk.read_only(false).unwrap()
        }
        crew.start_at_once(C).unwrap();
        crew.await_view(&[0, 1, 2]).unwrap();
        for node in [0, 1] {
            assert!(crew.said(&mark, node, "quorum_lost").unwrap().is_empty(), "the others go on");
        }
    }
    crew.audit(&sink).unwrap();
}

/// That the state was lost is an event, as the reason of a newer incarnation; what is wrong with it, and that the vote is
/// gone with it, is in the log.
#[test]
fn fault_104_a_state_that_is_not_whole_has_no_vote_until_a_view_names_a_new_one() {
    let name = "fault_104_a_state_that_is_not_whole_has_no_vote_until_a_view_names_a_new_one";
    if !root_or_skip(name) {
        return;
    }
    let (count, mut random) = rounds(name, 200);
    let (mut crew, sink) = Crew::formed(3).unwrap();
    for round in 0..count {
        crew.machine_dies(C, &sink).unwrap();
        crew.lab.heal().unwrap();
        let mut bytes = fs::read(agreement(&crew)).unwrap();
        let at = random.below(bytes.len() as u64) as usize;
        if round % 2 == 0 {
            bytes.truncate(at);
        } else {
            bytes[at] ^= 1 << random.below(8);
        }
        fs::write(agreement(&crew), bytes).unwrap();
        let mark = crew.mark().unwrap();
        crew.start_at_once(C).unwrap();
        let told = crew.await_said(&mark, C, "incarnation_changed").unwrap();
        assert_eq!((&told["id"], &told["reason"]), (&20022.into(), &"the disk state was lost".into()), "{told}");
        crew.await_view(&[0, 1, 2]).unwrap();
        let log = crew.daemon(C).log();
        let said = log.lines().filter(|line| line.contains("this node has no vote until a view names a new one"));
        assert_eq!(said.count() as u64, round + 1, "once at each start: {log}");
        let state = fs::read_dir(crew.lab.node_dir(C).join("state")).unwrap();
        let aside = state.flatten().filter(|entry| entry.file_name().to_string_lossy().contains("lost")).count();
        assert!(aside >= 1, "what was not whole is kept for people");
    }
    crew.audit(&sink).unwrap();
}

#[test]
fn fault_104_an_older_copy_of_the_state_is_told_by_the_others_and_gives_its_vote_up() {
    let name = "fault_104_an_older_copy_of_the_state_is_told_by_the_others_and_gives_its_vote_up";
    if !root_or_skip(name) {
        return;
    }
    let (count, _) = rounds(name, 200);
    let (mut crew, sink) = Crew::formed(3).unwrap();
    for round in 0..count {
        let older = fs::read(agreement(&crew)).unwrap();
        change(&crew, if round % 2 == 0 { "b" } else { "none" });
        crew.await_view(&[0, 1, 2]).unwrap();
        // What a vote has written is told with the next report.
        std::thread::sleep(Duration::from_millis(1500));
        crew.machine_dies(C, &sink).unwrap();
        crew.lab.heal().unwrap();
        fs::write(agreement(&crew), older).unwrap();
        let mark = crew.mark().unwrap();
        crew.start_at_once(C).unwrap();
        let told = crew.await_said(&mark, C, "older_state").unwrap();
        assert_eq!(told["id"], 20112, "{told}");
        gives_up(&mut crew, &mark);
        crew.start_at_once(C).unwrap();
        crew.await_view(&[0, 1, 2]).unwrap();
    }
    crew.audit(&sink).unwrap();
}

/// The sequence of a state on disk; 0: it cannot be read just now.
fn sequence(path: &Path) -> u64 {
    let mut bytes = [0; 8];
    let read = fs::File::open(path).and_then(|file| file.read_exact_at(&mut bytes, 24));
    read.map_or(0, |()| u64::from_le_bytes(bytes))
}

/// Counts the steps of writing the state: the spare file filled with a newer one, and that put in its place. Returns when
/// `step` of them were seen.
fn step_seen(file: &Path, step: u64, done: &AtomicBool) -> bool {
    let spare = file.with_extension("spare");
    let mut kept = sequence(file);
    let (mut seen, mut newest) = (0, kept);
    while !done.load(Ordering::Relaxed) {
        let (begun, now) = (sequence(&spare), sequence(file));
        seen += u64::from(begun.max(now) > newest) + u64::from(now > kept);
        (newest, kept) = (newest.max(begun).max(now), kept.max(now));
        if seen >= step {
            return true;
        }
    }
    false
}

#[test]
fn fault_70_killed_at_any_step_of_a_change_of_view_a_node_votes_once_and_goes_on() {
    let name = "fault_70_killed_at_any_step_of_a_change_of_view_a_node_votes_once_and_goes_on";
    if !root_or_skip(name) {
        return;
    }
    let (count, _) = rounds(name, 300);
    let (mut crew, sink) = Crew::formed(3).unwrap();
    let mut killed = 0;
    for round in 0..count {
        // Promise, acceptance and installation are three writes of two steps that can be seen.
        let step = 1 + round % 6;
        let (file, done) = (agreement(&crew), AtomicBool::new(false));
        let old = crew.incarnation(C).unwrap();
        let from = monotonic_ns();
        let hit = std::thread::scope(|scope| {
            let watching = scope.spawn(|| {
                let seen = step_seen(&file, step, &done);
                if seen {
                    crew.daemon(C).signal(nix::sys::signal::Signal::SIGKILL).unwrap();
                }
                seen
            });
            change(&crew, if round % 2 == 0 { "b" } else { "none" });
            std::thread::sleep(Duration::from_millis(300));
            done.store(true, Ordering::Relaxed);
            watching.join().unwrap()
        });
        if hit {
            killed += 1;
            crew.take(C).kill().map(drop).unwrap();
            crew.start(C, &Options::default()).unwrap();
        }
        crew.await_view(&[0, 1, 2]).unwrap();
        assert_eq!(crew.incarnation(C).unwrap(), old, "step {step}: with its state and pins it is who it was");
        let lost: Vec<_> = (0..2)
            .flat_map(|node| sink.acts().breaks_of(node, from, monotonic_ns()).copied().collect::<Vec<_>>())
            .collect();
        assert!(lost.is_empty(), "step {step}: {lost:?}");
    }
    println!("{name}: killed {killed} times");
    assert!(killed * 2 > count, "killed only {killed} times");
    crew.audit(&sink).unwrap();
}

/// How many numbers are missing between the records of a log, and how many events these say were lost.
fn lost(events: &[Value]) -> (u64, u64) {
    let number = |event: &Value| event["sequence"].as_u64().unwrap();
    let missing = events.windows(2).map(|two| number(&two[1]).saturating_sub(number(&two[0]) + 1)).sum();
    let told = events.iter().filter(|event| event["event"] == "events_dropped");
    (missing, told.map(|event| event["count"].as_u64().unwrap()).sum())
}

/// Full, moved away as by a rotation from outside, or deleted: nobody is removed and nobody stops acting. How many events
/// a full disk cost is in the next record, every record is whole, and what was taken away is begun anew.
#[test]
fn fault_105_an_event_log_without_room_or_taken_away_costs_no_view_and_no_lease() {
    let name = "fault_105_an_event_log_without_room_or_taken_away_costs_no_view_and_no_lease";
    if !root_or_skip(name) {
        return;
    }
    let mut crew = Crew::idle(3).unwrap();
    let disk = SmallDisk::mount(&crew.lab.node_dir(C).join("log"), 512 * 1024).unwrap();
    let sink = crew.form().unwrap();
    let (mark, from) = (crew.mark().unwrap(), monotonic_ns());
    let log = crew.lab.node_dir(C).join("log/events.jsonl");
    let (mut wanted, mut view) = (["b", "none"].into_iter().cycle(), crew.stands(0).unwrap().view);
    let mut three_views = |crew: &mut Crew| {
        for _ in 0..3 {
            change(crew, wanted.next().unwrap());
            let next = crew.await_view(&[0, 1, 2]).unwrap();
            assert_eq!(Some(next), view.next(), "just what was asked for");
            view = next;
        }
    };
    disk.fill().unwrap();
    three_views(&mut crew);
    disk.free().unwrap();
    three_views(&mut crew);
    let (missing, told) = wait_for(FORMING, "the next record to say what was lost", || {
        // Each line is a record: none begins with part of one that the disk did not take.
        let (missing, told) = lost(&crew.events(C).unwrap());
        if told > 0 { Ok((missing, told)) } else { Err(format!("{missing} missing")) }
    })
    .unwrap();
    // What was lost is counted each time, and so were the records that were to say so.
    assert!(told >= 3 && told <= missing && missing <= 2 * told, "{missing} records are missing, {told} are told of");
    for moved_away in [true, false] {
        if moved_away {
            fs::rename(&log, log.with_extension("moved")).unwrap();
        } else {
            fs::remove_file(&log).unwrap();
        }
        three_views(&mut crew);
        // What comes after is in a log of its own.
        wait_for(FORMING, "a new log", || {
            let views = crew.events(C).unwrap().iter().filter(|event| event["event"] == "view_installed").count();
            if views == 3 { Ok(()) } else { Err(format!("{views} views")) }
        })
        .unwrap();
    }
    crew.acted_on(&sink, &[C], from).unwrap();
    assert!(crew.runs(C) && crew.ended(C).unwrap().is_none());
    for by in [0, 1] {
        for bad in ["node_down", "node_hung", "node_left", "node_restarted", "node_removed"] {
            assert!(crew.said(&mark, by, bad).unwrap().is_empty(), "{bad}");
        }
    }
    // Of c's own log most is gone; what it did is judged by those of the others.
    sink.acts().keep_the_rule(&crew.all_views().unwrap()).unwrap();
}

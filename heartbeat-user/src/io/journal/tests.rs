//! The journal over files that rotate, are in the way, or take no more.

use super::*;

fn journal(directory: &Path, bytes_max: u64, files: u32) -> Journal {
    Journal::start(JournalSetup { file: directory.join("events.jsonl"), bytes_max, files, node: "a".to_owned() })
        .unwrap()
}

fn event(count: u64) -> EventBody {
    EventBody::EventsDropped { count }
}

#[test]
fn every_line_is_json_and_has_the_fields_that_programs_rely_on() {
    let directory = tempfile::tempdir().unwrap();
    let mut journal = journal(directory.path(), 1 << 20, 2);
    journal.sink.now(event(3));
    journal.stop();
    let text = fs::read_to_string(directory.path().join("events.jsonl")).unwrap();
    let line: Value = serde_json::from_str(text.trim()).unwrap();
    for field in ["schema", "sequence", "time", "noticed", "observer", "event", "message", "id", "level", "at_ns"] {
        assert!(line.get(field).is_some(), "{field} is missing in {line}");
    }
    assert_eq!(line["count"], 3);
    assert!(time_of(&line).is_some());
}

#[test]
fn files_are_bounded_in_size_and_number() {
    let directory = tempfile::tempdir().unwrap();
    let mut journal = journal(directory.path(), 2000, 3);
    for count in 0..200 {
        journal.sink.now(event(count));
    }
    journal.stop();
    let mut sizes: Vec<_> =
        fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).collect();
    sizes.sort_unstable();
    assert_eq!(sizes.len(), 3);
    assert!(sizes.iter().all(|size| *size <= 2000), "{sizes:?}");
}

#[test]
fn a_full_file_that_cannot_be_moved_grows_no_further() {
    let directory = tempfile::tempdir().unwrap();
    let blocked = directory.path().join("events.jsonl.1");
    // No file takes the place of a directory with something in it.
    fs::create_dir_all(blocked.join("in the way")).unwrap();
    let mut journal = journal(directory.path(), 2000, 2);
    for count in 0..50 {
        journal.sink.now(event(count));
    }
    journal.stop();
    let file = directory.path().join("events.jsonl");
    assert!((1..=2000).contains(&fs::metadata(&file).unwrap().len()));
    assert!(journal.sink.dropped.load(Ordering::Relaxed) > 0);
    assert!(journal.view.since(None).len() >= 50, "what could not be written is shown nonetheless");
}

/// The numbers of events that the file holds, and how many it says are lost.
fn written(file: &Path) -> (Vec<u64>, u64) {
    let (mut there, mut lost) = (Vec::new(), 0);
    for line in fs::read_to_string(file).unwrap().lines() {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let count = line["count"].as_u64();
        match line["new_incarnation"].as_u64() {
            Some(number) => there.push(number),
            None => lost += count.unwrap(),
        }
    }
    (there, lost)
}

/// An event that is told from others by its number.
fn numbered(number: u64) -> EventBody {
    EventBody::IncarnationChanged { old_incarnation: 0, new_incarnation: number, reason: "a test".to_owned() }
}

#[test]
fn a_fifo_in_place_of_the_file_is_refused_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("events.jsonl");
    nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let setup = JournalSetup { file: file.clone(), bytes_max: 2000, files: 2, node: "a".to_owned() };
    assert!(Journal::start(setup.clone()).is_err());
    let _reader = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&file).unwrap();
    let refused = Journal::start(setup).err().unwrap().to_string();
    assert!(refused.contains("not a plain file"), "{refused}");
}

#[test]
fn events_of_an_earlier_run_are_shown() {
    let directory = tempfile::tempdir().unwrap();
    let mut first = journal(directory.path(), 1 << 20, 2);
    first.sink.now(event(1));
    first.stop();
    let mut second = journal(directory.path(), 1 << 20, 2);
    assert_eq!(second.view.since(None).len(), 1);
    second.stop();
}

/// Waits until the journal has taken the event of this number.
fn taken(journal: &Journal, number: u64) {
    let has = || journal.view.since(None).iter().any(|line| line["new_incarnation"] == number);
    let until = clock::now() + std::time::Duration::from_secs(10);
    while !has() {
        assert!(clock::now() < until, "event {number} is not taken");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

#[test]
fn how_many_events_were_lost_is_told_once_the_file_can_be_written_again() {
    let directory = tempfile::tempdir().unwrap();
    let (file, next) = (directory.path().join("events.jsonl"), directory.path().join("events.jsonl.1"));
    fs::create_dir_all(next.join("in the way")).unwrap();
    let mut journal = journal(directory.path(), 2000, 2);
    (0..50).for_each(|number| journal.sink.now(numbered(number)));
    taken(&journal, 49);
    fs::remove_dir_all(&next).unwrap();
    journal.sink.now(numbered(50));
    journal.stop();
    let (before, after) = (written(&next), written(&file));
    assert_eq!((before.1, after.0.as_slice()), (0, &[50][..]), "{before:?}");
    assert_eq!(before.0.len() as u64 + after.1, 50, "each was written, or is counted: {before:?} {after:?}");
}

#[test]
fn a_file_that_somebody_moved_away_or_removed_is_begun_anew() {
    let directory = tempfile::tempdir().unwrap();
    let (file, moved) = (directory.path().join("events.jsonl"), directory.path().join("moved"));
    let mut journal = journal(directory.path(), 1 << 20, 2);
    let mut next = 0..;
    let mut take = || {
        let number = next.next().unwrap();
        journal.sink.now(numbered(number));
        taken(&journal, number);
    };
    take();
    fs::rename(&file, &moved).unwrap();
    take();
    assert_eq!((written(&moved), written(&file)), ((vec![0], 0), (vec![1], 0)));
    fs::remove_file(&file).unwrap();
    take();
    journal.stop();
    assert_eq!((written(&moved), written(&file)), ((vec![0], 0), (vec![2], 0)));
}

#[test]
fn a_file_in_whose_place_another_one_is_gets_no_more_events() {
    let directory = tempfile::tempdir().unwrap();
    let (file, moved) = (directory.path().join("events.jsonl"), directory.path().join("moved"));
    let mut journal = journal(directory.path(), 1 << 20, 2);
    let take = |number| {
        journal.sink.now(numbered(number));
        taken(&journal, number);
    };
    take(0);
    fs::rename(&file, &moved).unwrap();
    fs::write(&file, "").unwrap();
    take(1);
    assert_eq!((written(&moved), written(&file)), ((vec![0], 0), (vec![1], 0)));
    // A name that leads to the very file is none: events would go wherever somebody has them go.
    fs::rename(&file, &moved).unwrap();
    std::os::unix::fs::symlink(&moved, &file).unwrap();
    take(2);
    assert_eq!(written(&moved), (vec![1], 0));
    fs::remove_file(&file).unwrap();
    take(3);
    journal.stop();
    assert_eq!(written(&file), (vec![3], 1), "one is lost, and that is told");
}

/// Where the process is told to be the one whose files may not grow.
const CHILD: &str = "HEARTBEAT_JOURNAL_CHILD";

/// Lets the files of this process grow to so many bytes.
fn files_grow_to(bytes: u64) {
    let none = libc::RLIM_INFINITY;
    let limits = libc::rlimit { rlim_cur: bytes, rlim_max: none };
    // SAFETY: the limits live through the call, and the signal's action is no function.
    let results =
        unsafe { (libc::signal(libc::SIGXFSZ, libc::SIG_IGN), libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limits)) };
    assert!(results.0 != libc::SIG_ERR && results.1 == 0, "{results:?}: {}", io::Error::last_os_error());
}

#[test]
fn part_of_a_line_that_a_full_disk_took_is_taken_off_again() {
    if let Some(directory) = std::env::var_os(CHILD) {
        files_grow_to(2000);
        let mut journal = journal(Path::new(&directory), 1 << 20, 2);
        (0..50).for_each(|number| journal.sink.now(numbered(number)));
        taken(&journal, 49);
        files_grow_to(libc::RLIM_INFINITY);
        journal.sink.now(numbered(50));
        return journal.stop();
    }
    let directory = tempfile::tempdir().unwrap();
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    child.args(["io::journal::tests::part_of_a_line_that_a_full_disk_took_is_taken_off_again", "--exact"]);
    let output = child.env(CHILD, directory.path()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    let (there, lost) = written(&directory.path().join("events.jsonl"));
    assert_eq!((there.first(), there.last()), (Some(&0), Some(&50)));
    assert!(lost > 0 && there.len() as u64 + lost == 51, "each was written, or is counted: {there:?}, {lost} lost");
}

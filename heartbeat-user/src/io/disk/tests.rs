//! What was written is read back, what is broken is told apart, and no failure of a disk passes for a success.

use super::*;
use crate::core::agreement::document::{Document, Holder, LeaseTerms, Member, QuorumTerms, SCHEMA, Vote};
use crate::core::ids::NodeId;
use heartbeat_common::view::{Ballot, Order};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

mod faults;

const SPARE: &str = "agreement.spare";
const LIMIT: Duration = Duration::from_secs(60);
const STEPS: [Step; 5] = [Step::Create, Step::Write, Step::Flush, Step::Rename, Step::FlushDirectory];
/// Those of a write for which there is a spare file.
const SPARED: &[Step] = STEPS.split_at(1).1;
pub(super) const OWNER: Owner = Owner { node: NodeId(1), state_id: 77 };

/// Lets a write fail before one of its steps, and notes the steps begun.
#[derive(Clone, Debug, Default)]
pub(super) struct Seam {
    failing: Arc<Mutex<Option<(Step, i32)>>>,
    seen: Arc<Mutex<Vec<Step>>>,
}

impl Seam {
    pub(super) fn before(&self, step: Step) -> io::Result<()> {
        self.seen.lock().unwrap().push(step);
        match *self.failing.lock().unwrap() {
            Some((at, errno)) if at == step => Err(io::Error::from_raw_os_error(errno)),
            _ => Ok(()),
        }
    }

    fn fail(&self, at: Option<(Step, i32)>) {
        *self.failing.lock().unwrap() = at;
    }

    fn seen(&self) -> Vec<Step> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

/// What is remembered is a sequence, of whatever vote.
pub(super) fn since(sequence: u64) -> Remembered {
    Remembered { vote: VoteId::NONE, sequence }
}

/// A view of this node alone.
pub(in crate::io) fn state() -> State {
    let member = Member { node: NodeId(1), incarnation: 5 };
    let document = Document {
        schema: SCHEMA,
        instance: [1, 2],
        order: Order::new(0, 1).unwrap(),
        parent: [0; 4],
        members: vec![member],
        votes: vec![Vote { holder: Holder::Node(NodeId(1)), id: VoteId([7, 7]), configured: 1, weight: 1 }],
        admitted: vec![member],
        owed: Vec::new(),
        lease: LeaseTerms { lease_ms: 500, stop_ms: 0, longest_ms: 500 },
        quorum: QuorumTerms { dynamic: true, lower_priority: None },
        quarantined: Vec::new(),
        removals: Vec::new(),
        change: None,
        witness: Vec::new(),
        settings: Vec::new(),
    };
    State::new(VoteId([7, 7]), document)
}

/// The same vote later on, when it has accepted a successor.
pub(super) fn accepted(sequence: u64) -> State {
    let first = state();
    let view = first.installed.name();
    let next =
        Document { order: first.installed.order.next().unwrap(), parent: view.digest, ..first.installed.clone() };
    let ballot = Ballot { round: sequence, node: 1, incarnation: 5 };
    let register = first.register.accept(view, ballot, next.name().digest).unwrap();
    State { sequence, register, accepted: Some(next), ..first }
}

fn file(directory: &Path) -> AgreementFile {
    AgreementFile::new(directory, OWNER)
}

/// What lies in a directory, by name.
fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn whole(state: &State) -> Found {
    Found::Whole(Box::new(state.clone()))
}

#[test]
fn what_was_written_is_read_back_and_the_steps_are_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let file = file(directory.path());
    assert_eq!(file.read(since(0)).unwrap(), Found::Absent);
    assert_eq!(file.take_up(since(0)).unwrap(), TakenUp::Absent);
    file.write(&state()).unwrap();
    assert_eq!(file.seam.seen(), STEPS);
    assert_eq!(file.read(since(1)).unwrap(), whole(&state()));
    assert_eq!(names(directory.path()), [FILE], "nothing is left beside it");
    file.write(&accepted(2)).unwrap();
    assert_eq!(file.seam.seen(), STEPS, "the first write has nothing to exchange with, the second makes that");
    for sequence in 3..9 {
        file.write(&accepted(sequence)).unwrap();
        assert_eq!(file.read(since(sequence)).unwrap(), whole(&accepted(sequence)));
        assert_eq!(file.seam.seen(), SPARED);
        assert_eq!(names(directory.path()), [FILE, SPARE]);
    }
}

/// No write but the first two takes room of the disk or gives any back.
#[test]
fn two_files_serve_by_turns() {
    let directory = tempfile::tempdir().unwrap();
    let file = file(directory.path());
    let found = |name: &str| {
        let found = fs::metadata(directory.path().join(name)).unwrap();
        (found.ino(), found.len(), found.blocks())
    };
    (1..3).for_each(|sequence| file.write(&accepted(sequence)).unwrap());
    let (first, second) = (found(FILE), found(SPARE));
    assert!(first.1.is_multiple_of(4096) && first.1 / 512 == first.2, "its blocks are there: {first:?}");
    for sequence in 3..9 {
        file.write(&accepted(sequence)).unwrap();
        let expected = if sequence % 2 == 0 { (first, second) } else { (second, first) };
        assert_eq!((found(FILE), found(SPARE)), expected, "{sequence}");
    }
}

#[test]
fn a_spare_is_prepared_as_long_as_the_file_is() {
    let directory = tempfile::tempdir().unwrap();
    let file = file(directory.path());
    file.prepare();
    assert!(names(directory.path()).is_empty(), "where there is no state, nothing can be spared");
    file.write(&state()).unwrap();
    file.seam.seen();
    let spare = directory.path().join(SPARE);
    for length in [0, 4096, 8191] {
        fs::write(&spare, vec![1; length]).unwrap();
        fs::set_permissions(&spare, fs::Permissions::from_mode(0o600)).unwrap();
        file.prepare();
        let (made, kept) = (fs::metadata(&spare).unwrap(), fs::metadata(file.path()).unwrap());
        assert_eq!((made.len(), made.blocks(), made.mode()), (kept.len(), kept.blocks(), kept.mode()), "{length}");
    }
    let made = fs::metadata(&spare).unwrap().ino();
    file.prepare();
    assert_eq!(fs::metadata(&spare).unwrap().ino(), made, "one is enough");
    file.write(&accepted(2)).unwrap();
    assert_eq!(file.seam.seen(), SPARED);
    // Of the layout before there are files of any length: what is exchanged with one is no spare.
    fs::write(file.path(), vec![1; 5000]).unwrap();
    fs::remove_file(&spare).unwrap();
    file.prepare();
    assert_eq!(names(directory.path()), [FILE]);
}

#[test]
fn the_thread_prepares_what_it_writes_to_before_it_is_told_and_after_each_write() {
    let directory = tempfile::tempdir().unwrap();
    let file = file(directory.path());
    assert_eq!(written(&file, vec![accepted(1)]).len(), 1);
    assert_eq!(file.seam.seen(), STEPS);
    assert_eq!(names(directory.path()), [FILE, SPARE]);
    fs::remove_file(directory.path().join(SPARE)).unwrap();
    assert_eq!(written(&file, vec![accepted(2), accepted(3)]).len(), 2);
    assert_eq!(file.seam.seen(), [SPARED, SPARED].concat());
}

#[test]
fn what_is_longer_than_the_spare_gets_one_with_room_and_what_is_shorter_is_filled_up() {
    let directory = tempfile::tempdir().unwrap();
    let put = |value: u8, blocks: usize, room: usize| {
        let bytes = vec![value; blocks * put::BLOCK];
        put::swap(directory.path(), "x", bytes, (room * put::BLOCK, 4 * put::BLOCK), &|_| Ok(())).unwrap();
        let there = fs::read(directory.path().join("x")).unwrap();
        assert!(there.iter().enumerate().all(|(at, &byte)| byte == if at < blocks * put::BLOCK { value } else { 0 }));
        there.len() / put::BLOCK
    };
    assert_eq!([put(1, 1, 2), put(2, 1, 2), put(3, 2, 4), put(4, 3, 4)], [2, 2, 2, 4]);
    // That of two blocks is spare now, and then one of four.
    assert_eq!([put(5, 1, 2), put(6, 1, 2), put(7, 4, 1)], [2, 4, 4]);
}

#[test]
fn a_spare_that_somebody_else_could_see_is_made_anew() {
    let directory = tempfile::tempdir().unwrap();
    let file = file(directory.path());
    let spare = directory.path().join(SPARE);
    (1..4).for_each(|sequence| file.write(&accepted(sequence)).unwrap());
    let copy = directory.path().join("copy");
    let mut sequence = 4;
    let mut anew = |what: &str| {
        file.seam.seen();
        file.write(&accepted(sequence)).unwrap();
        assert_eq!(file.seam.seen(), STEPS, "{what}");
        assert_eq!(file.read(since(sequence)).unwrap(), whole(&accepted(sequence)), "{what}");
        sequence += 1;
    };
    fs::hard_link(&spare, &copy).unwrap();
    let before = fs::read(&copy).unwrap();
    anew("it is a copy under another name");
    assert_eq!(fs::read(&copy).unwrap(), before);
    fs::set_permissions(&spare, fs::Permissions::from_mode(0o644)).unwrap();
    anew("it is for everybody to read");
    fs::write(&spare, vec![1; 5000]).unwrap();
    anew("it is of no whole blocks");
    fs::write(&spare, vec![1; form::LEN_MAX + 4096]).unwrap();
    anew("it is longer than any state");
    fs::write(&spare, "").unwrap();
    anew("it has no room");
    fs::remove_file(&spare).unwrap();
    fs::hard_link(&copy, directory.path().join("target")).unwrap();
    std::os::unix::fs::symlink(directory.path().join("target"), &spare).unwrap();
    anew("it is a link");
    assert_eq!(fs::read(&copy).unwrap(), before);
    fs::remove_file(&spare).unwrap();
    nix::unistd::mkfifo(&spare, nix::sys::stat::Mode::S_IRWXU).unwrap();
    anew("it is a pipe");
}

#[test]
fn a_start_flushes_what_it_read_before_it_believes_it() {
    let directory = tempfile::tempdir().unwrap();
    let file = file(directory.path());
    (1..4).for_each(|sequence| file.write(&accepted(sequence)).unwrap());
    file.seam.seen();
    assert_eq!(file.take_up(since(3)).unwrap(), TakenUp::Resumed(Box::new(accepted(3))));
    assert_eq!(file.seam.seen(), STEPS, "into a new file: the spare may be the one that the disk goes by");
    for step in STEPS {
        file.seam.fail(Some((step, libc::EIO)));
        let refused = file.take_up(since(3)).unwrap_err();
        assert!(matches!(&refused, Refused::Unwritable(fault) if fault.step == step), "{refused}");
    }
}

/// The spare of an earlier run is written over by nobody: a flush of that run may have failed.
#[test]
fn a_start_takes_the_spare_of_the_run_before_away() {
    let directory = tempfile::tempdir().unwrap();
    let file = file(directory.path());
    let spare = directory.path().join(SPARE);
    let leave = || {
        fs::write(&spare, vec![1; 8192]).unwrap();
        fs::set_permissions(&spare, fs::Permissions::from_mode(0o600)).unwrap();
        file.seam.seen();
    };
    leave();
    assert_eq!(file.take_up(since(0)).unwrap(), TakenUp::Absent);
    assert!(!spare.exists());
    leave();
    file.create(&state()).unwrap();
    assert_eq!((file.seam.seen().as_slice(), spare.exists()), (&STEPS[..], false));
    fs::write(file.path(), "no agreement").unwrap();
    leave();
    assert!(matches!(file.take_up(since(0)).unwrap(), TakenUp::Lost { why: Lost::Foreign, .. }));
    assert!(!spare.exists());
    fs::create_dir(&spare).unwrap();
    let refused = file.take_up(since(0)).unwrap_err();
    assert!(matches!(&refused, Refused::Unwritable(fault) if fault.path == spare), "{refused}");
    assert!(matches!(file.create(&state()), Err(CreateFault::Write(_))));
}

#[test]
fn a_failure_at_any_step_leaves_the_old_state_or_the_new_one() {
    let errnos = [libc::EROFS, libc::ENOSPC, libc::EIO, libc::EIO, libc::EIO];
    for (step, errno) in STEPS.into_iter().zip(errnos) {
        for spared in [false, true] {
            let directory = tempfile::tempdir().unwrap();
            let file = file(directory.path());
            (1..if spared { 4 } else { 2 }).for_each(|sequence| file.write(&accepted(sequence)).unwrap());
            let Found::Whole(old) = file.read(since(1)).unwrap() else { panic!("nothing is there") };
            if spared && step == Step::Create {
                continue;
            }
            file.seam.fail(Some((step, errno)));
            let fault = file.write(&accepted(9)).unwrap_err();
            assert_eq!((fault.step, fault.errno()), (step, errno), "{fault}");
            file.seam.fail(None);
            // Behind the rename it is there, though nobody was told so.
            let expected = if step == Step::FlushDirectory { accepted(9) } else { *old };
            assert_eq!(file.read(since(1)).unwrap(), whole(&expected), "{step:?}");
            let beside = directory.path().join(SPARE).exists();
            assert_eq!(beside, step == Step::FlushDirectory, "{step:?}");
        }
    }
}

#[test]
fn a_crash_in_the_middle_of_the_spare_file_leaves_the_old_state() {
    let directory = tempfile::tempdir().unwrap();
    let file = file(directory.path());
    (1..3).for_each(|sequence| file.write(&accepted(sequence)).unwrap());
    let spare = directory.path().join(SPARE);
    let (old, new) = (fs::read(&spare).unwrap(), encode(OWNER, &accepted(3)));
    for length in (0..=new.len()).step_by(16) {
        fs::write(&spare, [&new[..length], &old[length..]].concat()).unwrap();
        assert_eq!(file.read(since(1)).unwrap(), whole(&accepted(2)), "{length}");
    }
    file.write(&accepted(4)).unwrap();
    assert_eq!(file.read(since(1)).unwrap(), whole(&accepted(4)), "what a crash left is in nobody's way");
}

#[test]
fn what_is_lost_is_set_aside_under_a_number_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let file = file(directory.path());
    for number in 1..=LOST_KEPT + 2 {
        fs::write(file.path(), format!("no agreement {number}")).unwrap();
        let TakenUp::Lost { why, aside } = file.take_up(since(0)).unwrap() else { panic!("{number} was believed") };
        let expected = directory.path().join(format!("agreement.lost.{}", number.min(LOST_KEPT)));
        assert_eq!((why, aside), (Lost::Foreign, Some(expected.clone())));
        assert_eq!(fs::read_to_string(expected).unwrap(), format!("no agreement {number}"));
        assert_eq!(file.read(since(0)).unwrap(), Found::Absent);
    }
    assert_eq!(fs::read_to_string(directory.path().join("agreement.lost.1")).unwrap(), "no agreement 1");
    let gone = TakenUp::Lost { why: Lost::Gone(9), aside: None };
    assert_eq!(file.take_up(since(9)).unwrap(), gone, "a file that is remembered and not there is lost too");
}

#[test]
fn an_older_copy_is_lost() {
    let directory = tempfile::tempdir().unwrap();
    let file = file(directory.path());
    file.write(&state()).unwrap();
    let copy = fs::read(file.path()).unwrap();
    file.write(&accepted(2)).unwrap();
    fs::write(file.path(), copy).unwrap();
    assert_eq!(file.read(since(0)).unwrap(), whole(&state()), "who remembers nothing notices nothing");
    assert_eq!(file.read(since(2)).unwrap(), Found::Lost(Lost::Older { sequence: 1, floor: 2 }));
}

#[test]
fn a_copy_of_an_earlier_vote_is_lost_however_high_its_sequence() {
    let directory = tempfile::tempdir().unwrap();
    let file = file(directory.path());
    file.write(&accepted(900)).unwrap();
    let own = Remembered { vote: accepted(900).vote, sequence: 2 };
    assert_eq!(file.read(own).unwrap(), whole(&accepted(900)));
    let other = Remembered { vote: VoteId([8, 8]), sequence: 2 };
    assert_eq!(file.read(other).unwrap(), Found::Lost(Lost::OtherVote));
    assert_eq!(file.read(Remembered { sequence: 0, ..other }).unwrap(), Found::Lost(Lost::OtherVote));
}

#[test]
fn a_cluster_is_begun_once() {
    let directory = tempfile::tempdir().unwrap();
    let file = file(directory.path());
    file.create(&state()).unwrap();
    let fault = file.create(&state()).unwrap_err();
    assert!(matches!(&fault, CreateFault::Exists(path) if *path == file.path()), "{fault}");
    // Whatever lies there: even what is no agreement was perhaps one.
    fs::write(file.path(), "").unwrap();
    assert!(matches!(file.create(&state()), Err(CreateFault::Exists(_))));
    fs::remove_file(file.path()).unwrap();
    std::os::unix::fs::symlink("/nowhere", file.path()).unwrap();
    assert!(matches!(file.create(&state()), Err(CreateFault::Exists(_))));
    fs::remove_file(file.path()).unwrap();
    file.create(&state()).unwrap();
    assert_eq!(file.read(since(1)).unwrap(), whole(&state()));
}

#[test]
fn votes_are_random_and_never_none() {
    let votes: std::collections::BTreeSet<VoteId> = (0..100).map(|_| new_vote().unwrap()).collect();
    assert!(votes.len() == 100 && votes.iter().all(|vote| vote.is_vote()));
}

/// Runs a writer over some states, each given when the one before was reported.
fn written(file: &AgreementFile, states: Vec<State>) -> Vec<Report> {
    let (reports, reported) = channel();
    let writer = Writer::start(file.clone(), move |report| reports.send(report).unwrap()).unwrap();
    let each = |state| {
        writer.write(Box::new(state));
        match reported.recv_timeout(LIMIT).expect("each state is reported") {
            Report::Written { sequence, .. } => Report::Written { sequence, took: Duration::ZERO },
            failed @ Report::Failed { .. } => failed,
        }
    };
    let all = states.into_iter().map(each).collect();
    drop(writer);
    let ended = reported.recv_timeout(LIMIT).unwrap_err();
    assert_eq!(ended, std::sync::mpsc::RecvTimeoutError::Disconnected, "nothing is told twice, and the thread ends");
    all
}

#[test]
fn the_thread_reports_what_is_on_disk() {
    let directory = tempfile::tempdir().unwrap();
    let file = file(directory.path());
    let report = |sequence| Report::Written { sequence, took: Duration::ZERO };
    assert_eq!(written(&file, vec![state(), accepted(2), accepted(3)]), [report(1), report(2), report(3)]);
    assert_eq!(file.read(since(3)).unwrap(), whole(&accepted(3)));
}

#[test]
fn an_older_copy_is_set_aside_by_the_thread_and_no_vote_for_the_next_start() {
    let directory = tempfile::tempdir().unwrap();
    let file = file(directory.path());
    file.write(&state()).unwrap();
    let (ended, end) = channel::<()>();
    let writer = Writer::start(file.clone(), move |_| drop(ended.clone())).unwrap();
    writer.set_aside();
    // The thread takes what it was told before it ends, and drops its end of the channel then.
    drop(writer);
    assert_eq!(end.recv_timeout(LIMIT).unwrap_err(), std::sync::mpsc::RecvTimeoutError::Disconnected);
    assert_eq!(file.read(Remembered::default()).unwrap(), Found::Absent);
    let aside = AgreementFile::path(&file).with_extension("lost.1");
    assert_eq!(decode(OWNER, Remembered::default(), &std::fs::read(aside).unwrap()).unwrap(), state());
}

/// What waits while a write takes its time.
#[test]
fn of_the_states_that_wait_the_newest_is_written_and_the_file_is_set_aside_after_it() {
    let directory = tempfile::tempdir().unwrap();
    let file = file(directory.path());
    let (reports, reported) = channel();
    let (go, wait) = channel::<()>();
    let writer = Writer::start(file.clone(), move |report| {
        reports.send(report).unwrap();
        wait.recv_timeout(LIMIT).unwrap();
    })
    .unwrap();
    let sequence = || match reported.recv_timeout(LIMIT).unwrap() {
        Report::Written { sequence, .. } => sequence,
        failed @ Report::Failed { .. } => panic!("{failed:?}"),
    };
    writer.write(Box::new(state()));
    assert_eq!(sequence(), 1);
    writer.set_aside();
    (2..=3).for_each(|number| writer.write(Box::new(accepted(number))));
    (0..2).for_each(|_| go.send(()).unwrap());
    assert_eq!(sequence(), 3);
    drop(writer);
    assert!(reported.recv_timeout(LIMIT).is_err(), "that was all");
    let aside = fs::read(file.path().with_extension("lost.1")).unwrap();
    assert_eq!(decode(OWNER, Remembered::default(), &aside).unwrap(), accepted(3));
    assert_eq!(file.read(Remembered::default()).unwrap(), Found::Absent);
}

#[test]
fn nobody_else_reads_what_a_vote_has_promised() {
    let directory = tempfile::tempdir().unwrap();
    let file = file(directory.path());
    for sequence in 1..4 {
        file.write(&accepted(sequence)).unwrap();
        for path in names(directory.path()).iter().map(|name| directory.path().join(name)) {
            assert_eq!(fs::metadata(path).unwrap().mode() & 0o777, 0o600);
        }
    }
}

#[test]
fn after_one_failure_the_disk_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let file = file(directory.path());
    file.write(&state()).unwrap();
    let (reports, reported) = channel();
    let writer = Writer::start(file.clone(), move |report| reports.send(report).unwrap()).unwrap();
    file.seam.fail(Some((Step::Flush, libc::EIO)));
    writer.write(Box::new(accepted(2)));
    let failed = |sequence| Report::Failed { sequence, step: Step::Flush, errno: libc::EIO };
    assert_eq!(reported.recv_timeout(LIMIT).unwrap(), failed(2));
    // The disk is well again, and nobody may find out by trying.
    file.seam.fail(None);
    file.seam.seen();
    writer.write(Box::new(accepted(3)));
    assert_eq!(reported.recv_timeout(LIMIT).unwrap(), failed(3));
    assert_eq!(file.seam.seen(), []);
    assert_eq!(file.read(since(1)).unwrap(), whole(&state()));
}

use super::*;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

fn unit(pairs: &[(&str, &str)]) -> Properties {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn unused() -> Properties {
    unit(&[(ACTIVE, "inactive"), (FILE, "disabled"), ("BoundBy", "")])
}

#[test]
fn nothing_is_claimed_that_is_not_known() {
    assert_eq!(judge(false, false, &Units::NoManager), Judged::Gated);
    assert_eq!(judge(false, false, &Units::Unused), Judged::Gated);
    assert_eq!(judge(false, false, &Units::Unknown), Judged::Unknown);
    let ungated = |hooks, held, units: &Units| matches!(judge(hooks, held, units), Judged::Ungated(_));
    let used = Units::Used("x".to_owned());
    assert!(ungated(false, false, &used));
    for units in [Units::NoManager, Units::Unused, Units::Unknown, used] {
        assert!(ungated(true, false, &units) && ungated(false, true, &units), "{units:?}");
    }
}

#[test]
fn whatever_hangs_on_the_target_or_may_be_started_counts() {
    let of = |target: Properties, holder: Properties| used(Some(&[target, holder]));
    assert_eq!(of(unused(), unused()), Units::Unused);
    // A unit that the manager does not know.
    assert_eq!(of(unit(&[(ACTIVE, "inactive")]), unit(&[(ACTIVE, "inactive")])), Units::Unused);
    for list in DEPENDENTS {
        let mut with = unused();
        with.insert(list.to_owned(), "a.service".to_owned());
        let on_target = Units::Used(format!("a.service hangs on {}", UNITS[0]));
        assert_eq!(of(with.clone(), unused()), on_target, "{list}");
        assert!(matches!(of(unused(), with), Units::Used(_)), "{list}");
    }
    // The two of them hang on each other.
    let mut holder = unused();
    holder.insert("BoundBy".to_owned(), UNITS[0].to_owned());
    assert_eq!(of(unused(), holder), Units::Unused);
    for state in ["active", "activating", "deactivating", "reloading", "maintenance"] {
        let mut busy = unused();
        busy.insert(ACTIVE.to_owned(), state.to_owned());
        assert!(matches!(of(busy.clone(), unused()), Units::Used(_)) && matches!(of(unused(), busy), Units::Used(_)));
    }
    for state in ["enabled", "enabled-runtime", "static", "linked", "generated", "indirect", "alias"] {
        let mut enabled = unused();
        enabled.insert(FILE.to_owned(), state.to_owned());
        assert_eq!(of(unused(), enabled), Units::Used(format!("{} is {state}", UNITS[1])));
    }
}

#[test]
fn a_manager_that_does_not_say_is_not_known() {
    assert_eq!(used(None), Units::Unknown);
    assert_eq!(used(Some(&[unused()])), Units::Unknown);
    assert_eq!(used(Some(&[unused(), unit(&[(FILE, "disabled")])])), Units::Unknown);
    assert_eq!(used(Some(&[unit(&[]), unused()])), Units::Unknown);
}

/// Who is told of the claim: it keeps what it was told, and answers unless it is stuck.
#[derive(Clone, Default)]
struct Told {
    claims: Arc<Mutex<Vec<bool>>>,
    stuck: Arc<Mutex<Vec<oneshot::Sender<()>>>>,
    is_stuck: bool,
    /// It takes no orders.
    is_deaf: bool,
}

impl Claims for Told {
    fn claim(&self, gated: bool, done: oneshot::Sender<()>) -> bool {
        self.claims.lock().unwrap().push(gated);
        if self.is_deaf {
            drop(done);
            return false;
        }
        if self.is_stuck {
            self.stuck.lock().unwrap().push(done);
        } else {
            let _ = done.send(());
        }
        true
    }
}

/// Serves for `time`, while `during` is done on another thread, and every thread of the runtime on which may be waited is
/// taken by somebody who does.
fn served(run_dir: &Path, told: &Told, ask: fn() -> Units, time: Duration, during: impl FnOnce() + Send) {
    served_looking(run_dir, told, (ask, LOOK), time, during);
}

/// The same with a time of its own between two looks.
fn served_looking(
    run_dir: &Path,
    told: &Told,
    (ask, every): (fn() -> Units, Duration),
    time: Duration,
    during: impl FnOnce() + Send,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build().unwrap();
    let (taken, end) = std::sync::mpsc::channel::<()>();
    runtime.spawn_blocking(move || end.recv());
    std::thread::scope(|scope| {
        let gating = Gating::open(run_dir, false).unwrap();
        scope.spawn(during);
        runtime.block_on(async {
            // `from_std` wants the runtime; the end of its time is the only end of serving.
            let ended = tokio::time::timeout(time, gating.serve_asking(told, ask, every)).await;
            assert!(ended.is_err(), "{ended:?}");
        });
    });
    drop(taken);
    runtime.shutdown_background();
}

const SHORT: Duration = Duration::from_millis(700);

#[test]
fn the_claim_is_made_when_nothing_is_found_and_given_up_for_good_when_a_holder_comes() {
    let directory = tempfile::tempdir().unwrap();
    let (mark, told) = (directory.path().join(HELD), Told::default());
    served(directory.path(), &told, || Units::NoManager, SHORT, || {});
    assert_eq!(*told.claims.lock().unwrap(), [true]);
    assert!(!mark.exists(), "nobody holds anything");
    let connect = || {
        std::thread::sleep(SHORT / 3);
        let mut byte = [0];
        io::Read::read_exact(&mut UnixStream::connect(directory.path().join(HOLD_SOCKET)).unwrap(), &mut byte).unwrap();
        assert!(mark.exists(), "it is there before the holder is answered");
    };
    served(directory.path(), &told, || Units::NoManager, SHORT, connect);
    assert_eq!(told.claims.lock().unwrap().last(), Some(&false));
    // A later controller of this machine start claims nothing, whatever it finds.
    let later = Told::default();
    served(directory.path(), &later, || Units::NoManager, SHORT, || {});
    assert_eq!(*later.claims.lock().unwrap(), [false]);
}

#[test]
fn the_mark_is_left_once_no_frame_makes_the_claim_and_not_before() {
    let directory = tempfile::tempdir().unwrap();
    let stuck = Told { is_stuck: true, ..Told::default() };
    served(directory.path(), &stuck, || Units::Used("x".to_owned()), SHORT, || {});
    assert_eq!(*stuck.claims.lock().unwrap(), [false]);
    assert!(!directory.path().join(HELD).exists(), "frames may still make it");
    served(directory.path(), &Told::default(), || Units::Used("x".to_owned()), SHORT, || {});
    assert!(directory.path().join(HELD).exists(), "a holder that is started later need not ask");
}

/// A holder that connects finds out by itself that it has to wait: it is told nothing, and there is no mark.
#[test]
fn no_holder_is_told_that_it_may_hold_on_while_the_claim_stands() {
    let directory = tempfile::tempdir().unwrap();
    let deaf = Told { is_deaf: true, ..Told::default() };
    let connect = || {
        std::thread::sleep(SHORT / 3);
        let mut holder = UnixStream::connect(directory.path().join(HOLD_SOCKET)).unwrap();
        assert_eq!(io::Read::read(&mut holder, &mut [0]).unwrap(), 0, "the connection ends without a word");
    };
    served(directory.path(), &deaf, || Units::NoManager, SHORT, connect);
    assert!(!directory.path().join(HELD).exists());
}

#[test]
fn a_mark_that_somebody_else_has_left_is_as_good() {
    let directory = tempfile::tempdir().unwrap();
    let mark = directory.path().join(HELD);
    leave(&mark).unwrap();
    leave(&mark).unwrap();
    assert!(leave(&mark.join("below")).is_err());
}

#[test]
fn a_manager_that_does_not_answer_ends_the_claim_and_marks_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let told = Told::default();
    served(directory.path(), &told, || Units::Unknown, SHORT, || {});
    assert_eq!(*told.claims.lock().unwrap(), [false]);
    assert!(!directory.path().join(HELD).exists());
}

#[test]
fn a_look_that_takes_too_long_ends_the_claim() {
    let directory = tempfile::tempdir().unwrap();
    let told = Told::default();
    let ask = || {
        std::thread::sleep(4 * SHORT);
        Units::NoManager
    };
    served_looking(directory.path(), &told, (ask, SHORT / 7), SHORT, || {});
    let claims = told.claims.lock().unwrap();
    assert!(!claims.is_empty() && !claims.contains(&true), "{claims:?}");
}

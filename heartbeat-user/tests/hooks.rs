//! Hooks as real programs. They run one test after the other: orphans of all hooks of a process fall to it alike.

mod page;

use heartbeat_common::lease::{Refused, Token, Words, word};
use heartbeat_user::io::hooks::{
    ChainError, End, Happened, Hooks, OUTPUT_MAX, Report, Settings, Shelter, WAITING_MAX, walk,
};
use heartbeat_user::lease::{Gate, Lease, Page};
use page::{INCARNATION, TOKEN, Written};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

static ONE: Mutex<()> = Mutex::new(());
const LONG: Duration = Duration::from_secs(30);

/// A directory that plays the root of the trusted tree, and the hooks of one test.
struct Place {
    root: tempfile::TempDir,
    page: Arc<Written>,
    _one: MutexGuard<'static, ()>,
}

impl Place {
    fn new() -> Self {
        let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let root = tempfile::tempdir().unwrap();
        mode(root.path(), 0o755);
        Self { root, page: Arc::new(Written::new()), _one: one }
    }

    /// Puts a program there; its path as the trusted tree has it.
    fn program(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.root.path().join(name);
        std::fs::write(&path, content).unwrap();
        mode(&path, 0o755);
        Path::new("/").join(name)
    }

    fn script(&self, name: &str, lines: &str) -> PathBuf {
        self.program(name, format!("#!/bin/sh\n{lines}\n"))
    }

    fn settings(&self, programs: &[&PathBuf], limit: Duration) -> Settings {
        Settings {
            programs: programs.iter().map(|path| (*path).clone()).collect(),
            events: Vec::new(),
            limit,
            node: "alpha".to_owned(),
            shelter: Shelter::Session,
            trusted: (std::fs::File::open(self.root.path()).unwrap().into(), nix::unistd::geteuid().as_raw()),
        }
    }

    fn gate(&self) -> Arc<dyn Gate> {
        Arc::new(Lease::of(Page::open(self.page.readable().as_fd()).unwrap()))
    }

    fn start(&self, settings: Settings) -> (Hooks, Receiver<Report>) {
        start(settings, self.gate())
    }
}

fn start(settings: Settings, gate: Arc<dyn Gate>) -> (Hooks, Receiver<Report>) {
    let (sender, reports) = channel();
    (Hooks::start(settings, gate, move |report| _ = sender.send(report)).unwrap(), reports)
}

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn lost() -> Happened {
    Happened { name: "quorum_lost".to_owned(), json: "{\"id\":1177}".to_owned(), needs_lease: false }
}

fn gained() -> Happened {
    Happened { name: "lease_gained".to_owned(), json: "{}".to_owned(), needs_lease: true }
}

fn next(reports: &Receiver<Report>) -> Report {
    reports.recv_timeout(LONG).expect("a report in time")
}

fn text(report: &Report) -> String {
    String::from_utf8(report.output.clone()).unwrap()
}

/// Processes whose command line has `marker` in it, the dead aside.
fn marked(marker: &str) -> usize {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines.filter(|line| String::from_utf8_lossy(line).contains(marker)).count()
}

fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < LONG, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_hook_has_exactly_this_environment() {
    let place = Place::new();
    place.page.grant(true);
    let printer = place.program("env", std::fs::read("/usr/bin/env").unwrap());
    let (hooks, reports) = place.start(place.settings(&[&printer], LONG));
    for needs_lease in [true, false] {
        hooks.offer(Happened { needs_lease, ..lost() });
        let report = next(&reports);
        assert!(report.end.is_success(), "{report:?}");
        let said = text(&report);
        let mut lines: Vec<&str> = said.lines().collect();
        lines.sort_unstable();
        let (token, incarnation) = (format!("HEARTBEAT_TOKEN={TOKEN}"), format!("HEARTBEAT_INCARNATION={INCARNATION}"));
        let expected = [
            "HEARTBEAT_EVENT=quorum_lost",
            "HEARTBEAT_EVENT_JSON={\"id\":1177}",
            &incarnation,
            "HEARTBEAT_NODE=alpha",
            &token,
            "HEARTBEAT_VIEW=1.7",
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        ];
        assert_eq!(lines, expected);
    }
    // What tells of a loss runs without a lease, and with nothing that a receiver would take.
    place.page.grant(false);
    hooks.offer(lost());
    let said = text(&next(&reports));
    for empty in ["HEARTBEAT_TOKEN=\n", "HEARTBEAT_VIEW=\n", "HEARTBEAT_INCARNATION=\n"] {
        assert!(said.contains(empty), "{said}");
    }
}

#[test]
fn a_hook_inherits_nothing_of_the_daemons() {
    let place = Place::new();
    let look = "pwd; umask; ls -l /proc/self/fd | grep -c passwd; cut -d' ' -f6 /proc/self/stat; echo $$; cat";
    let script = place.script("look", look);
    // One that nothing closes by itself.
    let open = std::fs::File::open("/etc/passwd").unwrap();
    nix::fcntl::fcntl(&open, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
    let (hooks, reports) = place.start(place.settings(&[&script], LONG));
    // The daemon's own is stricter.
    let before = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    hooks.offer(lost());
    let report = next(&reports);
    nix::sys::stat::umask(before);
    assert!(report.end.is_success(), "{report:?}");
    let said = text(&report);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(&lines[..2], ["/", "0022"]);
    assert_eq!(lines[2], "0", "{said}");
    assert_eq!(lines[3], lines[4], "a session of its own");
    assert_eq!(lines.len(), 5, "nothing to read: {said}");
    drop(open);
}

#[test]
fn what_is_no_program_is_given_to_no_shell() {
    let place = Place::new();
    let text = place.program("text", "exit 0\n");
    let (hooks, reports) = place.start(place.settings(&[&text], LONG));
    hooks.offer(lost());
    let report = next(&reports);
    assert!(matches!(&report.end, End::Failed(error) if error.raw_os_error() == Some(libc::ENOEXEC)), "{report:?}");
}

#[test]
fn status_output_and_filter() {
    let place = Place::new();
    let failing = place.script("failing", "echo out; echo err >&2; exit 3");
    let killed = place.script("killed", "kill -TERM $$");
    let long = place.script("long", "head -c 100000 /dev/zero | tr '\\0' x");
    let mut settings = place.settings(&[&failing, &killed, &long], LONG);
    settings.events = vec!["quorum_lost".to_owned()];
    let (hooks, reports) = place.start(settings);
    hooks.offer(gained());
    hooks.offer(lost());
    let mut found: Vec<Report> = (0..3).map(|_| next(&reports)).collect();
    found.sort_by(|one, other| one.program.cmp(&other.program));
    assert!(found.iter().all(|report| report.event == "quorum_lost"), "{found:?}");
    assert!(matches!(found[0].end, End::Exited(3)) && text(&found[0]) == "out\nerr\n", "{:?}", found[0]);
    assert!(matches!(found[1].end, End::Signalled(libc::SIGTERM)), "{:?}", found[1].end);
    assert!(found[2].end.is_success());
    assert_eq!((found[2].output.len(), found[2].cut), (OUTPUT_MAX, 100_000 - OUTPUT_MAX as u64));
    assert!(reports.try_recv().is_err());
}

#[test]
fn each_part_of_the_way_has_to_be_roots_alone() {
    let place = Place::new();
    let own = nix::unistd::geteuid().as_raw();
    let root = std::fs::File::open(place.root.path()).unwrap();
    let walked = |path: &str| walk(root.as_fd(), Path::new(path), own).map(drop);
    let at = |path: &str| place.root.path().join(path);
    std::fs::create_dir_all(at("etc/open")).unwrap();
    std::fs::create_dir_all(at("opt/bin")).unwrap();
    for directory in ["etc", "etc/open", "opt", "opt/bin"] {
        mode(&at(directory), 0o755);
    }
    for program in ["etc/good", "etc/open/inside", "opt/bin/real"] {
        place.script(program, "true");
    }
    // Links, relative and absolute, up and down, of files and of directories.
    symlink("../opt/bin/real", at("etc/relative")).unwrap();
    symlink("/opt/bin/real", at("etc/absolute")).unwrap();
    symlink("/opt/./bin", at("etc/directory")).unwrap();
    symlink("relative", at("etc/twice")).unwrap();
    for good in ["/etc/good", "/etc/open/inside", "/etc/relative", "/etc/absolute", "/etc/directory/real", "/etc/twice"]
    {
        walked(good).unwrap_or_else(|error| panic!("{good}: {error}"));
    }
    mode(&at("etc/open"), 0o775);
    symlink("open/inside", at("etc/through")).unwrap();
    for path in ["/etc/open/inside", "/etc/through"] {
        let error = walked(path).unwrap_err();
        let named = Path::new("/etc/open");
        assert!(matches!(&error, ChainError::Writable { path, mode: 0o775 } if path == named), "{error}");
    }
    mode(&at("opt/bin/real"), 0o757);
    for path in ["/opt/bin/real", "/etc/relative", "/etc/absolute", "/etc/directory/real", "/etc/twice"] {
        let error = walked(path).unwrap_err();
        let named = Path::new("/opt/bin/real");
        assert!(matches!(&error, ChainError::Writable { path, .. } if path == named), "{error}");
    }
    mode(&at("etc/good"), 0o644);
    symlink("round", at("etc/round")).unwrap();
    assert!(matches!(walked("/etc/good"), Err(ChainError::NoProgram(_))), "nobody may run it");
    assert!(matches!(walked("/etc"), Err(ChainError::NoProgram(_))));
    assert!(matches!(walked("/etc/good/more"), Err(ChainError::NoProgram(_))));
    assert!(matches!(walked("/etc/round"), Err(ChainError::Links(_))));
    assert!(matches!(walked("/etc/none"), Err(ChainError::Io { .. })));
    assert!(matches!(walked("etc/good"), Err(ChainError::Path(_))));
    assert!(matches!(walked("/etc/../etc/good"), Err(ChainError::Path(_))));
    mode(place.root.path(), 0o777);
    assert!(matches!(walked("/etc/twice"), Err(ChainError::Writable { path, .. }) if path == Path::new("/")));
    mode(place.root.path(), 0o755);
    if own == 0 {
        mode(&at("etc/good"), 0o755);
        std::os::unix::fs::lchown(at("etc/twice"), Some(64_939), None).unwrap();
        assert!(matches!(walked("/etc/twice"), Err(ChainError::Foreign { uid: 64_939, .. })), "a link of another's");
        chown(at("etc"), Some(64_939), None).unwrap();
        assert!(matches!(walked("/etc/good"), Err(ChainError::Foreign { path, .. }) if path == Path::new("/etc")));
    }
}

#[test]
fn an_untrusted_hook_is_reported_and_not_run() {
    let place = Place::new();
    let script = place.script("open", "echo ran");
    mode(&place.root.path().join("open"), 0o777);
    let (hooks, reports) = place.start(place.settings(&[&script], LONG));
    hooks.offer(lost());
    let report = next(&reports);
    let refused = matches!(report.end, End::Untrusted(ChainError::Writable { .. }));
    assert!(refused && report.output.is_empty(), "{report:?}");
}

#[test]
fn a_hook_of_gaining_runs_only_while_this_node_may_act() {
    let place = Place::new();
    let begun = place.root.path().join("begun");
    let script = place.script("gain", &format!("echo begun; touch {}; sleep 1000", begun.display()));
    let (mut hooks, reports) = place.start(place.settings(&[&script], LONG));
    hooks.offer(gained());
    assert!(matches!(next(&reports).end, End::NotActing(Refused::Expired)));
    place.page.grant(true);
    hooks.offer(gained());
    wait_for("it runs", || begun.exists());
    // A later view of the same life ends nothing.
    place.page.set(word::IN_FORCE, place.page.get(word::IN_FORCE) + 1);
    std::thread::sleep(Duration::from_millis(200));
    assert!(reports.try_recv().is_err());
    place.page.set(word::FENCED, INCARNATION);
    let report = next(&reports);
    assert!(matches!(report.end, End::LeaseOver) && text(&report) == "begun\n", "{report:?}");
    assert!(hooks.stop(LONG));
}

#[test]
fn the_end_of_the_lease_ends_no_hook_that_needs_none() {
    let place = Place::new();
    let (begun, go) = (place.root.path().join("begun"), place.root.path().join("go"));
    let lines = format!("touch {}; while [ ! -e {} ]; do sleep 0.02; done", begun.display(), go.display());
    let script = place.script("wait", &lines);
    let (hooks, reports) = place.start(place.settings(&[&script], LONG));
    place.page.grant(true);
    hooks.offer(lost());
    wait_for("it runs", || begun.exists());
    place.page.grant(false);
    // Hooks are looked at more often than that.
    std::thread::sleep(Duration::from_millis(200));
    std::fs::write(&go, "").unwrap();
    let report = next(&reports);
    assert!(report.end.is_success(), "{report:?}");
}

/// A page that says something else each time that it is read in one process.
struct Fickle(AtomicU64);

impl Gate for Fickle {
    fn acting(&self) -> Result<Token, Refused> {
        match self.0.fetch_add(1, Ordering::Relaxed) {
            0 => Ok(Token { order: 7, incarnation: 1 }),
            _ => Ok(Token { order: 8, incarnation: 1 }),
        }
    }
}

#[test]
fn the_token_is_that_of_the_moment_of_the_start() {
    let place = Place::new();
    let script = place.script("token", "echo $HEARTBEAT_TOKEN");
    // Read here: 7. Read by the child just before it would become the hook: 8. Read here again: 8, and so it is told.
    let (hooks, reports) = start(place.settings(&[&script], LONG), Arc::new(Fickle(AtomicU64::new(0))));
    hooks.offer(gained());
    let report = next(&reports);
    assert!(report.end.is_success() && text(&report) == "0.8.1\n", "{report:?}");
}

/// Starts hooks that scatter processes over sessions, and shows that each is gone when its hook is.
fn nothing_survives(place: &Place, shelter: &Shelter) {
    let scatter = |marker: &str| {
        format!(
            "sleep {marker}1 &\nsetsid sleep {marker}2 &\n(setsid sh -c 'sleep {marker}3 & setsid sleep {marker}4' &)\n\
             trap '' TERM HUP\n"
        )
    };
    let marker = |name: &str| format!("9{}{name}", std::process::id());
    let (hanging, leaving) = (marker("01."), marker("02."));
    let hang = place.script("hang", &format!("{}sleep {hanging}5", scatter(&hanging)));
    let leave = place.script("leave", &format!("{}sleep 0.2; echo bye", scatter(&leaving)));
    let settings =
        |program: &PathBuf, limit| Settings { shelter: shelter.clone(), ..place.settings(&[program], limit) };

    let limit = Duration::from_secs(4);
    let (mut hooks, reports) = place.start(settings(&hang, limit));
    let begun = Instant::now();
    hooks.offer(lost());
    wait_for("all of them run", || marked(&hanging) >= 5);
    let report = next(&reports);
    assert!(matches!(report.end, End::TimedOut), "{report:?}");
    assert!(begun.elapsed() >= limit);
    assert_eq!(marked(&hanging), 0, "at the limit");
    assert!(hooks.stop(LONG));

    let (mut hooks, reports) = place.start(settings(&leave, LONG));
    hooks.offer(lost());
    let report = next(&reports);
    assert!(report.end.is_success() && text(&report) == "bye\n", "{report:?}");
    assert_eq!(marked(&leaving), 0, "what a hook leaves behind ends with it");
    assert!(hooks.stop(LONG));

    let (mut hooks, reports) = place.start(settings(&hang, LONG));
    hooks.offer(lost());
    wait_for("all of them run", || marked(&hanging) >= 5);
    for _ in 0..3 {
        hooks.offer(lost());
    }
    assert!(hooks.stop(LONG));
    assert_eq!(marked(&hanging), 0, "when heartbeatd ends");
    assert!(reports.iter().all(|report| matches!(report.end, End::Stopped)));
}

#[test]
fn a_hook_that_forks_and_hangs_is_ended_whole() {
    let place = Place::new();
    nothing_survives(&place, &Shelter::Session);
}

/// A control group of the test's own, as a delegated one; `None` where none can be made.
fn delegated() -> Option<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
    let point = mounts.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        (fields[2] == "cgroup2").then(|| fields[1].to_owned())
    })?;
    let base = Path::new(&point).join(format!("heartbeat-hooks-{}", std::process::id()));
    std::fs::create_dir(&base).ok()?;
    base.join("cgroup.procs").exists().then_some(base)
}

#[test]
fn a_hook_in_a_control_group_is_ended_whole() {
    let place = Place::new();
    let Some(base) = delegated() else {
        let line = "SKIP a_hook_in_a_control_group_is_ended_whole: no control group (version 2) can be made here\n";
        print!("{line}");
        if let Some(file) = std::env::var_os("HEARTBEAT_SKIPS") {
            let mut file = std::fs::OpenOptions::new().append(true).create(true).open(file).unwrap();
            file.write_all(line.as_bytes()).unwrap();
        }
        return;
    };
    let shelter = Shelter::Cgroup(base.clone());
    nothing_survives(&place, &shelter);
    let left = || std::fs::read_dir(&base).unwrap().flatten().filter(|entry| entry.path().is_dir()).count();
    assert_eq!(left(), 0, "no group stays");
    // What a killed controller leaves is found by the next one.
    let orphaned = base.join("7");
    std::fs::create_dir(&orphaned).unwrap();
    let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    std::fs::write(orphaned.join("cgroup.procs"), child.id().to_string()).unwrap();
    shelter.clear(LONG).unwrap();
    assert!(!child.wait().unwrap().success());
    assert_eq!(left(), 0);
    std::fs::remove_dir(&base).unwrap();
}

#[test]
fn four_run_sixty_four_wait_and_the_rest_is_counted() {
    let place = Place::new();
    let (running, go) = (place.root.path().join("running"), place.root.path().join("go"));
    std::fs::create_dir(&running).unwrap();
    let lines = format!("touch {0}/$$; while [ ! -e {1} ]; do sleep 0.02; done", running.display(), go.display());
    let script = place.script("wait", &lines);
    let (mut hooks, reports) = place.start(place.settings(&[&script], LONG));
    let count = || std::fs::read_dir(&running).unwrap().count();
    for number in 1..=4 {
        hooks.offer(lost());
        wait_for("it runs", || count() == number);
    }
    for _ in 0..WAITING_MAX + 10 {
        hooks.offer(lost());
    }
    assert_eq!(hooks.dropped(), 10);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(count(), 4, "no fifth beside four");
    std::fs::write(&go, "").unwrap();
    for _ in 0..4 + WAITING_MAX {
        assert!(next(&reports).end.is_success());
    }
    assert_eq!(count(), 4 + WAITING_MAX);
    assert!(hooks.stop(LONG));
    assert!(reports.recv().is_err(), "and no more");
}

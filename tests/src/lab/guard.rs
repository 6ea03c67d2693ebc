//! Who owns what a lab leaves on the machine, and how it is taken away: on drop, on panic, on a signal, and by the
//! next lab's sweep when its owner was killed. It removes only what carries the tag of a lab of this kind.
//!
//! Every lab has a tag, `hb-<pid>-<n>`. Its namespaces, control groups and scratch directory are named after it and
//! its processes carry it in their environment, so all can be found again without anybody's memory of them.

use super::ns::NETNS_DIR;
use anyhow::{Context, Result};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, sigaction};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io::Read;
use std::os::fd::IntoRawFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, Instant};

/// Environment variable by which a lab's processes are known.
pub const TAG_VARIABLE: &str = "HEARTBEAT_LAB_TAG";
/// Where the scratch directories are.
pub const BASE: &str = "/run/heartbeat-lab";
/// Control group hierarchies (version 1) that a lab makes groups in.
pub const CGROUPS: [&str; 4] =
    ["/sys/fs/cgroup/cpu", "/sys/fs/cgroup/freezer", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/pids"];

static NEXT: AtomicU32 = AtomicU32::new(0);
static STOPPING: AtomicBool = AtomicBool::new(false);
static SIGNAL_PIPE: AtomicI32 = AtomicI32::new(-1);
static LIVE: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
static ONCE: Once = Once::new();

/// Something that a lab has put on the machine.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Leak {
    /// A process that carries the tag.
    Process(i32),
    /// A control group.
    Group(PathBuf),
    /// A mount in a scratch directory (pins go with their file system).
    Mount(PathBuf),
    /// A named network namespace, with every link in it.
    Namespace(PathBuf),
    /// A scratch directory.
    Scratch(PathBuf),
    /// A link outside the lab's namespaces.
    Link(String),
}

impl fmt::Display for Leak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process(pid) => write!(f, "process {pid}"),
            Self::Group(path) => write!(f, "control group {}", path.display()),
            Self::Mount(path) => write!(f, "mount {}", path.display()),
            Self::Namespace(path) => write!(f, "namespace {}", path.display()),
            Self::Scratch(path) => write!(f, "directory {}", path.display()),
            Self::Link(name) => write!(f, "link {name}"),
        }
    }
}

/// Ownership of one tag; everything that carries it is removed when this is dropped.
#[derive(Debug)]
pub struct Guard {
    tag: String,
}

impl Guard {
    /// Takes a new tag and makes its scratch directory (0700). The first call in a process also sweeps up after dead
    /// labs and takes SIGINT, SIGTERM and SIGHUP, so that they clean up before they end the process.
    ///
    /// # Errors
    /// Fails when the scratch directory cannot be made.
    pub fn claim() -> Result<Self> {
        ONCE.call_once(|| {
            if let Err(error) = watch_signals() {
                eprintln!("lab: signals will not clean up: {error:#}");
            }
            for leak in sweep() {
                eprintln!("lab: could not remove what a killed lab left: {leak}");
            }
        });
        let tag = format!("hb-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let guard = Self { tag };
        live().insert(guard.tag.clone());
        let scratch = guard.scratch();
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&scratch)
            .with_context(|| format!("making {}", scratch.display()))?;
        let started = start_time(std::process::id().cast_signed()).unwrap_or_default();
        fs::write(scratch.join("owner"), started).context("writing the owner file")?;
        Ok(guard)
    }

    /// The tag.
    #[must_use]
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// The scratch directory.
    #[must_use]
    pub fn scratch(&self) -> PathBuf {
        Path::new(BASE).join(&self.tag)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        for leak in remove(&self.tag) {
            eprintln!("lab {}: could not remove {leak}", self.tag);
        }
        live().remove(&self.tag);
    }
}

fn live() -> MutexGuard<'static, BTreeSet<String>> {
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// True once a signal has begun the tear-down of every lab of this process.
#[must_use]
pub fn stopping() -> bool {
    STOPPING.load(Ordering::Relaxed)
}

/// What labs of dead processes have left.
#[must_use]
pub fn abandoned() -> Vec<Leak> {
    all().into_iter().filter(|(tag, _)| !owner_lives(tag)).map(|(_, leak)| leak).collect()
}

/// Removes what labs of dead processes left, and returns what could not be removed.
pub fn sweep() -> Vec<Leak> {
    let tags: BTreeSet<String> = all().into_iter().map(|(tag, _)| tag).filter(|tag| !owner_lives(tag)).collect();
    tags.iter().flat_map(|tag| remove(tag)).collect()
}

/// What labs of process `pid` have on the machine now.
#[must_use]
pub fn leaks_of(pid: u32) -> Vec<Leak> {
    let prefix = format!("hb-{pid}-");
    all().into_iter().filter(|(tag, _)| tag.starts_with(&prefix)).map(|(_, leak)| leak).collect()
}

/// What all labs, of whichever process, have on the machine now.
#[must_use]
pub fn leaks() -> Vec<Leak> {
    all().into_iter().map(|(_, leak)| leak).collect()
}

/// What carries exactly this tag.
#[must_use]
pub fn leaks_tagged(tag: &str) -> Vec<Leak> {
    all().into_iter().filter(|(owner, _)| owner == tag).map(|(_, leak)| leak).collect()
}

/// Removes what carries the tag, and returns what is left.
fn remove(tag: &str) -> Vec<Leak> {
    // More than one pass: a process may still be on its way out, or may have made something meanwhile.
    let limit = Instant::now() + Duration::from_secs(5);
    loop {
        let mut left = leaks_tagged(tag);
        if left.is_empty() {
            return left;
        }
        left.sort();
        for leak in left.iter().filter(|leak| matches!(leak, Leak::Group(_))) {
            thaw(leak);
        }
        left.iter().for_each(discard);
        if Instant::now() > limit {
            return leaks_tagged(tag);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A frozen process obeys no signal, so it is thawed before it is killed.
fn thaw(leak: &Leak) {
    if let Leak::Group(path) = leak {
        let state = path.join("freezer.state");
        if state.exists() {
            let _ = fs::write(state, "THAWED");
        }
    }
}

/// Removes one thing. What fails is still there at the next look, which is where failure is judged.
fn discard(leak: &Leak) {
    match leak {
        Leak::Process(pid) => drop(kill(Pid::from_raw(*pid), Signal::SIGKILL)),
        Leak::Group(path) => drop(fs::remove_dir(path)),
        Leak::Mount(path) => drop(umount2(path, MntFlags::MNT_DETACH)),
        Leak::Namespace(path) => {
            let _ = umount2(path, MntFlags::MNT_DETACH);
            let _ = fs::remove_file(path);
        }
        Leak::Scratch(path) => {
            // Never into a pin file system that is still mounted: its unmounting comes first.
            if mounts().iter().all(|mount| !mount.starts_with(path)) {
                let _ = fs::remove_dir_all(path);
            }
        }
        Leak::Link(name) => {
            drop(std::process::Command::new("ip").args(["link", "delete", "dev", name]).output());
        }
    }
}

fn all() -> Vec<(String, Leak)> {
    let mut found = Vec::new();
    let mut named = |directory: &str, make: fn(PathBuf) -> Leak| {
        for path in entries(Path::new(directory)) {
            if let Some(tag) = path.file_name().and_then(|name| name.to_str()).and_then(tag_of) {
                found.push((tag, make(path)));
            }
        }
    };
    named(NETNS_DIR, Leak::Namespace);
    named(BASE, Leak::Scratch);
    CGROUPS.iter().for_each(|directory| named(directory, Leak::Group));
    named("/sys/class/net", |path| Leak::Link(path.file_name().unwrap_or_default().to_string_lossy().into_owned()));
    for mount in mounts() {
        let below = mount.strip_prefix(BASE).ok().and_then(|rest| rest.iter().next()).and_then(|name| name.to_str());
        if let Some(tag) = below.and_then(tag_of) {
            found.push((tag, Leak::Mount(mount)));
        }
    }
    for path in entries(Path::new("/proc")) {
        let pid = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
        if let Some(pid) = pid
            && let Some(tag) = tag_of_process(pid)
        {
            found.push((tag, Leak::Process(pid)));
        }
    }
    found
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory).map(|entries| entries.flatten().map(|entry| entry.path()).collect()).unwrap_or_default()
}

fn mounts() -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    text.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from).collect()
}

fn tag_of_process(pid: i32) -> Option<String> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let wanted = format!("{TAG_VARIABLE}=");
    let entry = environment.split(|byte| *byte == 0).find_map(|entry| entry.strip_prefix(wanted.as_bytes()))?;
    tag_of(std::str::from_utf8(entry).ok()?)
}

/// The tag at the start of a name, if it has one.
fn tag_of(name: &str) -> Option<String> {
    let mut parts = name.strip_prefix("hb-")?.splitn(3, '-');
    let pid: u32 = parts.next()?.parse().ok()?;
    let count: u32 = parts.next()?.parse().ok()?;
    Some(format!("hb-{pid}-{count}"))
}

fn owner_lives(tag: &str) -> bool {
    let Some(pid) = tag.split('-').nth(1).and_then(|pid| pid.parse().ok()) else { return true };
    let Some(started) = start_time(pid) else { return false };
    // Without an owner file the lab is just being made, or was almost removed: its process decides.
    fs::read_to_string(Path::new(BASE).join(tag).join("owner")).map_or(true, |owner| owner == started)
}

/// When a process started, in the kernel's words; with the pid it names one process for good.
fn start_time(pid: i32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let after_name = &stat[stat.rfind(')')? + 2..];
    let mut fields = after_name.split(' ');
    // A zombie has ended; only its parent has not looked yet.
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18).map(str::to_owned)
}

extern "C" fn on_signal(signal: i32) {
    let byte = signal.to_ne_bytes();
    // SAFETY: write is safe in a signal handler, and the pipe is never closed.
    unsafe { libc::write(SIGNAL_PIPE.load(Ordering::Relaxed), byte.as_ptr().cast(), byte.len()) };
}

fn watch_signals() -> Result<()> {
    let (mut reader, writer) = std::io::pipe().context("making the signal pipe")?;
    SIGNAL_PIPE.store(writer.into_raw_fd(), Ordering::Relaxed);
    std::thread::Builder::new().name("lab-signals".to_owned()).spawn(move || {
        let mut byte = [0; 4];
        if reader.read_exact(&mut byte).is_ok() {
            end_by(i32::from_ne_bytes(byte));
        }
    })?;
    let action = SigAction::new(SigHandler::Handler(on_signal), SaFlags::SA_RESTART, SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler does nothing but write to a pipe.
        unsafe { sigaction(signal, &action) }.with_context(|| format!("taking {signal}"))?;
    }
    Ok(())
}

/// Removes every lab of this process and then lets the signal do what it does by default.
fn end_by(number: i32) {
    STOPPING.store(true, Ordering::Relaxed);
    let tags = live().clone();
    for tag in tags {
        for leak in remove(&tag) {
            eprintln!("lab {tag}: could not remove {leak}");
        }
    }
    let signal = Signal::try_from(number).unwrap_or(Signal::SIGTERM);
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: restoring the default action runs no code of ours.
    let _ = unsafe { sigaction(signal, &default) };
    let _ = kill(Pid::this(), signal);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_read_from_names_of_ours_alone() {
        assert_eq!(tag_of("hb-12-3-a").as_deref(), Some("hb-12-3"));
        assert_eq!(tag_of("hb-12-3").as_deref(), Some("hb-12-3"));
        for other in ["hb-12", "hb-x-3", "hb", "xhb-12-3", "hb-12-x-3", "eth0"] {
            assert_eq!(tag_of(other), None, "{other}");
        }
    }

    #[test]
    fn a_process_lives_until_it_ends() {
        let own = std::process::id();
        assert!(owner_lives(&format!("hb-{own}-4000000000")));
        assert!(!owner_lives("hb-2147483647-0"));
    }
}

//! What holds a hook and everything that it started together, so that all of it can be ended: a control group where one
//! was delegated to this service, else a session, with this process as the one to which orphans fall. It ends processes
//! of hooks and no others.

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often what was killed is looked at.
const TICK: Duration = Duration::from_millis(20);

/// Where hooks run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shelter {
    /// Each in a control group of its own, below this one.
    Cgroup(PathBuf),
    /// Each in a session of its own.
    Session,
}

impl Shelter {
    /// Finds the control group that the service manager delegated to this service, and makes one for hooks in it; a
    /// session where there is none.
    #[must_use]
    pub fn find() -> Self {
        let Some(own) = own_cgroup() else { return Self::Session };
        // Another one's scope, or the whole machine's, is not ours to divide.
        if own.extension().is_none_or(|end| end != "service") {
            return Self::Session;
        }
        let base = own.join("hooks");
        let made = fs::create_dir(&base);
        let there = made.is_ok() || base.is_dir();
        if there && OpenOptions::new().write(true).open(base.join("cgroup.procs")).is_ok() {
            return Self::Cgroup(base);
        }
        Self::Session
    }

    /// Ends what hooks of an earlier controller have left in the control group, and waits until it is gone.
    ///
    /// # Errors
    /// If something is left after `limit`, or it cannot be looked at.
    pub fn clear(&self, limit: Duration) -> io::Result<()> {
        let Self::Cgroup(base) = self else { return Ok(()) };
        let begun = Instant::now();
        for entry in fs::read_dir(base)? {
            let directory = entry?.path();
            if !directory.is_dir() {
                continue;
            }
            kill_cgroup(&directory);
            while populated(&directory) {
                if begun.elapsed() >= limit {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, format!("{}", directory.display())));
                }
                std::thread::sleep(TICK);
                kill_cgroup(&directory);
            }
            fs::remove_dir(&directory)?;
        }
        Ok(())
    }

    /// Makes room for one hook.
    pub(super) fn make(&self, number: u64) -> io::Result<Fold> {
        let Self::Cgroup(base) = self else { return Ok(Fold::Session) };
        let directory = base.join(number.to_string());
        fs::create_dir(&directory)?;
        Ok(Fold::Cgroup(directory))
    }
}

/// What holds one hook together.
#[derive(Debug)]
pub(super) enum Fold {
    Cgroup(PathBuf),
    Session,
}

impl Fold {
    /// Opens what a process joins the control group by.
    pub(super) fn door(&self) -> io::Result<Option<File>> {
        match self {
            Self::Cgroup(directory) => OpenOptions::new().write(true).open(directory.join("cgroup.procs")).map(Some),
            Self::Session => Ok(None),
        }
    }

    /// Kills all that is in it and says whether nothing but dead ones was. `leaders` are the first processes of all
    /// hooks that run, this one's among them; none of them has been waited for, so that no number is another's by now.
    pub(super) fn end(&self, leader: Pid, leaders: &[Pid]) -> bool {
        match self {
            Self::Cgroup(directory) => {
                kill_cgroup(directory);
                !populated(directory)
            }
            // Twice: what was forked behind the look is seen by the next.
            Self::Session => (0..2).all(|_| end_session(leader, leaders)),
        }
    }

    /// Takes an empty control group away.
    pub(super) fn remove(self) {
        if let Self::Cgroup(directory) = self
            && let Err(error) = fs::remove_dir(&directory)
        {
            log::warn!("{}: cannot be removed: {error}", directory.display());
        }
    }
}

fn kill_cgroup(directory: &Path) {
    if fs::write(directory.join("cgroup.kill"), "1").is_ok() {
        return;
    }
    // Kernels before 5.14: one by one, again and again until none is left.
    let listed = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    for pid in listed.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 1) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

fn populated(directory: &Path) -> bool {
    // One that cannot be read is gone.
    fs::read_to_string(directory.join("cgroup.events")).is_ok_and(|text| text.lines().any(|line| line == "populated 1"))
}

/// What `/proc/PID/stat` says of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Process {
    pid: Pid,
    parent: Pid,
    session: Pid,
    dead: bool,
}

fn end_session(leader: Pid, leaders: &[Pid]) -> bool {
    let (own, own_session) = (Pid::this(), nix::unistd::getsid(None).unwrap_or(Pid::from_raw(0)));
    let mut empty = true;
    for process in processes() {
        // A process that left its session fell to this one when its parent ended, and no other child of this one has a
        // session of its own: what it is part of has no hook any more.
        let orphan = process.parent == own && process.session != own_session && !leaders.contains(&process.session);
        if process.session != leader && !orphan {
            continue;
        }
        if !process.dead {
            empty = false;
            let _ = kill(process.pid, Signal::SIGKILL);
        } else if orphan || process.parent == own && process.pid != leader {
            let _ = waitpid(process.pid, Some(WaitPidFlag::WNOHANG));
        }
    }
    empty
}

fn processes() -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(|pid| parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)).collect()
}

/// Reads the first fields of a line of `/proc/PID/stat`: pid, (name), state, parent, group, session.
fn parse(line: &str) -> Option<Process> {
    // A name may hold anything, brackets and blanks too: the last bracket ends it.
    let (head, tail) = line.rsplit_once(')')?;
    let pid = head.split_once(' ')?.0.parse().ok()?;
    let mut fields = tail.split_whitespace();
    let state = fields.next()?;
    let mut number = || fields.next()?.parse().ok().map(Pid::from_raw);
    let (parent, _group, session) = (number()?, number()?, number()?);
    Some(Process { pid: Pid::from_raw(pid), parent, session, dead: matches!(state, "Z" | "X") })
}

/// Makes this process the one to which its hooks' orphans fall.
pub(super) fn adopt_orphans() {
    if let Err(error) = nix::sys::prctl::set_child_subreaper(true) {
        log::warn!("what hooks leave behind may be left running: {error}");
    }
}

/// Returns the directory of this process's own control group, version 2.
fn own_cgroup() -> Option<PathBuf> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    cgroup_of(&groups, &mounts)
}

fn cgroup_of(groups: &str, mounts: &str) -> Option<PathBuf> {
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    // mountinfo: id, parent, device, root, mount point, options, tags ..., "-", type, source, options.
    let mount = mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut fields = before.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        (after.split(' ').next() == Some("cgroup2") && root == "/").then_some(point)
    })?;
    Some(Path::new(mount).join(group))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_its_name() {
        let process = parse("4711 (a) Z 1 (b) S 12 13 14 34816 0 0").unwrap();
        let expected =
            Process { pid: Pid::from_raw(4711), parent: Pid::from_raw(12), session: Pid::from_raw(14), dead: false };
        assert_eq!(process, expected);
        assert!(parse("5 (x) Z 1 1 1 0").unwrap().dead);
        for bad in ["", "5", "5 (x)", "5 (x) S 1 2", "x (y) S 1 2 3"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
        let own = processes().into_iter().find(|process| process.pid == Pid::this()).unwrap();
        assert_eq!((own.parent, own.dead), (Pid::parent(), false));
    }

    #[test]
    fn the_own_control_group_is_found_where_it_is_mounted() {
        let groups = "8:pids:/x\n0::/system.slice/heartbeatd.service\n";
        let mounts = "25 1 0:23 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw\n";
        let expected = PathBuf::from("/sys/fs/cgroup/system.slice/heartbeatd.service");
        assert_eq!(cgroup_of(groups, mounts), Some(expected));
        assert_eq!(cgroup_of("8:pids:/x\n", mounts), None, "version 1 alone");
        assert_eq!(cgroup_of(groups, "25 1 0:23 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"), None);
    }
}

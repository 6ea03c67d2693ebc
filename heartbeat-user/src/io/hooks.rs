//! Hooks: programs of the operator's that are run when something happened. It starts what it is told to, bounds it in
//! number, time and words, and ends it whole; it decides neither what happened nor whether this node may act.
//!
//! ```text
//! offer --64 waiting--> thread hb-hooks --4 at a time--> check the path, read the page, fork, exec
//!                                                            ends | time over | lease over | told to stop
//!                                                        kill what is left, wait until it is gone, report
//! ```
//!
//! A hook that needs the lease is started only while this node may act, is told the token, and is ended when the lease
//! is. One that tells of a loss runs without, and its token is empty then: whoever receives its acts refuses them.
//! Hooks may run side by side, so that what they are told, not the order of their starts, is the order of events.

mod chain;
mod group;
mod launch;
mod report;

pub use chain::{ChainError, walk};
pub use group::Shelter;
pub use launch::{OUTDATED, VARIABLES};
pub use report::{End, Report};

use crate::lease::{Gate, Refused, Token, text, view_text};
use anyhow::Context;
use group::Fold;
use launch::{Launch, launch};
use nix::errno::Errno;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::{AccessFlags, Pid, access};
use std::ffi::CString;
use std::io::{self, PipeReader, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, channel, sync_channel};
use std::time::{Duration, Instant};

/// Hooks that run at a time.
pub const RUNNING_MAX: usize = 4;
/// Hooks that wait for one of those; what comes then is dropped and counted.
pub const WAITING_MAX: usize = 64;
/// Bytes of a hook's output that are kept.
pub const OUTPUT_MAX: usize = 64 * 1024;
/// Bytes of an event as JSON, the kernel's own limit of one variable being twice that.
const JSON_MAX: usize = 64 * 1024;
/// How often hooks that run are looked at.
const TICK: Duration = Duration::from_millis(20);
/// Time after which it is said that something killed does not end.
const STUCK: Duration = Duration::from_secs(5);
/// Starts of one hook, each with the token of its moment, before a page that keeps changing is left alone.
const STARTS_MAX: u32 = 3;
/// Where a hook's programs are looked for.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Which programs, and under what bounds.
pub struct Settings {
    /// Programs, absolute; each is run for each event.
    pub programs: Vec<PathBuf>,
    /// Names of the events that they are run for; none: all that are offered.
    pub events: Vec<String>,
    /// How long one may run.
    pub limit: Duration,
    /// Name of this node.
    pub node: String,
    /// Where they run.
    pub shelter: Shelter,
    /// Where their paths begin and who has to own every part of them: the root directory and root. Tests have others.
    pub trusted: (OwnedFd, u32),
}

impl Settings {
    /// Returns the root directory and root.
    ///
    /// # Errors
    /// If the root directory cannot be opened.
    pub fn root() -> io::Result<(OwnedFd, u32)> {
        Ok((std::fs::File::open("/")?.into(), 0))
    }
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happened {
    /// Name of the event.
    pub name: String,
    /// The event, one JSON object.
    pub json: String,
    /// Whether it is one of gaining: its hooks run only while this node may act.
    pub needs_lease: bool,
}

/// The thread that runs hooks.
pub struct Hooks {
    jobs: Option<SyncSender<Job>>,
    ended: Receiver<()>,
    stopping: Arc<AtomicBool>,
    dropped: AtomicU64,
    programs: usize,
    events: Vec<String>,
}

/// One program for one event.
struct Job {
    program: usize,
    happened: Arc<Happened>,
}

impl Hooks {
    /// Starts the thread. `report` is called on it for each hook that ended.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn start(
        settings: Settings,
        gate: Arc<dyn Gate>,
        report: impl FnMut(Report) + Send + 'static,
    ) -> anyhow::Result<Self> {
        let (jobs, waiting) = sync_channel(WAITING_MAX);
        let (alive, ended) = channel();
        let stopping = Arc::new(AtomicBool::new(false));
        let (programs, events) = (settings.programs.len(), settings.events.clone());
        if settings.shelter == Shelter::Session {
            group::adopt_orphans();
        }
        let stop = stopping.clone();
        let runner = Runner { settings, gate, report: Box::new(report), runs: Vec::new(), number: 0 };
        std::thread::Builder::new()
            .name("hb-hooks".to_owned())
            .spawn(move || {
                runner.work(&waiting, &stop);
                drop(alive);
            })
            .context("start the thread of hooks")?;
        Ok(Self { jobs: Some(jobs), ended, stopping, dropped: AtomicU64::new(0), programs, events })
    }

    /// Offers an event to every program. It waits for nothing.
    pub fn offer(&self, happened: Happened) {
        let Some(jobs) = &self.jobs else { return };
        if !self.events.is_empty() && !self.events.contains(&happened.name) {
            return;
        }
        let happened = Arc::new(happened);
        for program in 0..self.programs {
            if jobs.try_send(Job { program, happened: happened.clone() }).is_err() {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Returns how many hooks were not run because too many waited.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Ends every hook, and waits for `limit` until all that they started is gone. Says whether it is.
    #[must_use]
    pub fn stop(&mut self, limit: Duration) -> bool {
        self.stopping.store(true, Ordering::Release);
        self.jobs = None;
        // The thread sends nothing: its end closes the channel.
        matches!(self.ended.recv_timeout(limit), Err(RecvTimeoutError::Disconnected))
    }
}

impl Drop for Hooks {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
    }
}

/// One hook that was started.
struct Run {
    job: Job,
    child: Child,
    fold: Fold,
    pipe: PipeReader,
    output: Vec<u8>,
    cut: u64,
    token: Option<Token>,
    until: Instant,
    /// Why it is being ended, and since when.
    ending: Option<(End, Instant)>,
    told_stuck: bool,
}

impl Run {
    fn leader(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    /// Takes what it wrote, as much as a pipe holds.
    fn read(&mut self) {
        let mut buffer = [0; 4096];
        for _ in 0..16 {
            let Ok(length @ 1..) = self.pipe.read(&mut buffer) else { return };
            let kept = length.min(OUTPUT_MAX - self.output.len());
            self.output.extend_from_slice(&buffer[..kept]);
            self.cut += (length - kept) as u64;
        }
    }

    /// Returns how its first process ended, which is not waited for: its number stays its own until all is over.
    fn left(&self) -> Option<End> {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        match waitid(Id::Pid(self.leader()), flags) {
            Ok(WaitStatus::Exited(_, status)) => Some(End::Exited(status)),
            Ok(WaitStatus::Signaled(_, signal, _)) => Some(End::Signalled(signal as i32)),
            // Somebody else has waited for it, or children are waited for by nobody: how it ended is lost.
            Err(Errno::ECHILD) => Some(End::Failed(Errno::ECHILD.into())),
            _ => None,
        }
    }

    /// Says why it has to be ended, if it has.
    fn why_end(&self, now: Instant, stop: bool, gate: &dyn Gate) -> Option<End> {
        if let Some(end) = self.left() {
            return Some(end);
        }
        // A later view is no end: the same incarnation goes on.
        let over = |token: Token| gate.acting().map(|found| found.incarnation) != Ok(token.incarnation);
        if self.token.is_some_and(over) {
            return Some(End::LeaseOver);
        }
        if stop {
            return Some(End::Stopped);
        }
        (now >= self.until).then_some(End::TimedOut)
    }
}

struct Runner {
    settings: Settings,
    gate: Arc<dyn Gate>,
    report: Box<dyn FnMut(Report) + Send>,
    runs: Vec<Run>,
    number: u64,
}

impl Runner {
    fn work(mut self, waiting: &Receiver<Job>, stopping: &AtomicBool) {
        loop {
            let stop = stopping.load(Ordering::Acquire);
            if stop && self.runs.is_empty() {
                return;
            }
            // Three ways to wait: for a job, for a job or a hook, for a hook.
            let job = if stop || self.runs.len() >= RUNNING_MAX {
                std::thread::sleep(TICK);
                None
            } else if self.runs.is_empty() {
                match waiting.recv() {
                    Ok(job) => Some(job),
                    Err(_) => return,
                }
            } else {
                match waiting.recv_timeout(TICK) {
                    Ok(job) => Some(job),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => {
                        std::thread::sleep(TICK);
                        None
                    }
                }
            };
            let stop = stopping.load(Ordering::Acquire);
            if let Some(job) = job
                && !stop
            {
                self.begin(job);
            }
            self.look(stop);
        }
    }

    fn begin(&mut self, job: Job) {
        for _ in 0..STARTS_MAX {
            let judged = self.gate.acting();
            if let (Err(refused), true) = (judged, job.happened.needs_lease) {
                return self.tell(&job, End::NotActing(refused));
            }
            match self.try_begin(&job, judged.ok()) {
                Ok((child, pipe, fold)) => {
                    let until = Instant::now() + self.settings.limit;
                    let token = judged.ok().filter(|_| job.happened.needs_lease);
                    let (output, cut, ending, told_stuck) = (Vec::new(), 0, None, false);
                    self.runs.push(Run { job, child, fold, pipe, output, cut, token, until, ending, told_stuck });
                    return;
                }
                Err(End::Failed(error)) if error.raw_os_error() == Some(OUTDATED) => {}
                Err(end) => return self.tell(&job, end),
            }
        }
        self.tell(&job, End::NotActing(Refused::Unsteady));
    }

    fn try_begin(&mut self, job: &Job, token: Option<Token>) -> Result<(Child, PipeReader, Fold), End> {
        let path = &self.settings.programs[job.program];
        let (root, owner) = &self.settings.trusted;
        let program = walk(root.as_fd(), path, *owner).map_err(End::Untrusted)?;
        let environment = environment(&self.settings.node, &job.happened, token).map_err(End::Failed)?;
        let name = CString::new(path.as_os_str().as_bytes()).map_err(|error| End::Failed(error.into()))?;
        self.number += 1;
        let fold = self.settings.shelter.make(self.number).map_err(End::Failed)?;
        let gate = self.gate.clone();
        let start = |group| launch(Launch { program, name, environment, group, gate, token });
        match fold.door().and_then(start) {
            Ok((child, pipe)) => Ok((child, pipe, fold)),
            Err(error) => {
                fold.remove();
                Err(End::Failed(error))
            }
        }
    }

    /// Looks at every hook that runs: takes what it wrote, ends what is due, and takes leave of what is gone.
    fn look(&mut self, stop: bool) {
        let leaders: Vec<Pid> = self.runs.iter().map(Run::leader).collect();
        let now = Instant::now();
        let mut index = 0;
        while let Some(run) = self.runs.get_mut(index) {
            run.read();
            if run.ending.is_none() {
                run.ending = run.why_end(now, stop, &*self.gate).map(|end| (end, now));
            }
            // Also where it ended by itself: what it left behind is nobody's.
            let gone = run.ending.is_some() && run.fold.end(run.leader(), &leaders) && run.left().is_some();
            if gone {
                let run = self.runs.swap_remove(index);
                self.finish(run);
                continue;
            }
            if let Some((_, since)) = &run.ending
                && since.elapsed() > STUCK
                && !run.told_stuck
            {
                run.told_stuck = true;
                let program = self.settings.programs[run.job.program].display();
                log::error!(
                    "hook {program} was killed and does not end: it waits in the kernel, and its place with it"
                );
            }
            index += 1;
        }
    }

    fn finish(&mut self, mut run: Run) {
        run.read();
        // It is dead: this waits for nothing, and frees its number.
        let _ = run.child.wait();
        run.fold.remove();
        let program = self.settings.programs[run.job.program].clone();
        let end = run.ending.map_or(End::Stopped, |(end, _)| end);
        let event = run.job.happened.name.clone();
        (self.report)(Report { program, event, end, output: run.output, cut: run.cut });
    }

    fn tell(&mut self, job: &Job, end: End) {
        let program = self.settings.programs[job.program].clone();
        let event = job.happened.name.clone();
        (self.report)(Report { program, event, end, output: Vec::new(), cut: 0 });
    }
}

/// Makes the environment: these variables, and no other.
fn environment(node: &str, happened: &Happened, token: Option<Token>) -> io::Result<[CString; VARIABLES]> {
    if happened.json.len() > JSON_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the event is too long for a variable"));
    }
    let variable = |name: &str, value: &str| Ok::<_, io::Error>(CString::new(format!("{name}={value}"))?);
    let of = |show: &dyn Fn(Token) -> String| token.map(show).unwrap_or_default();
    Ok([
        variable("PATH", PATH)?,
        variable("HEARTBEAT_NODE", node)?,
        variable("HEARTBEAT_EVENT", &happened.name)?,
        variable("HEARTBEAT_EVENT_JSON", &happened.json)?,
        variable("HEARTBEAT_TOKEN", &of(&text))?,
        variable("HEARTBEAT_VIEW", &of(&view_text))?,
        variable("HEARTBEAT_INCARNATION", &of(&|token| token.incarnation.to_string()))?,
    ])
}

/// Looks for what keeps a program from being run as a hook by this user, for `heartbeatd check`.
///
/// # Errors
/// [`ChainError`].
pub fn check(path: &Path) -> Result<(), ChainError> {
    let (root, owner) = Settings::root().map_err(|source| ChainError::Io { path: "/".into(), source })?;
    check_below(&(root, owner), path)
}

fn check_below((root, owner): &(OwnedFd, u32), path: &Path) -> Result<(), ChainError> {
    let program = walk(root.as_fd(), path, *owner)?;
    // The very file, asked for as the kernel will be: some user may run it, and this one has to.
    let same = format!("/proc/self/fd/{}", program.as_raw_fd());
    access(same.as_str(), AccessFlags::X_OK)
        .map_err(|errno| ChainError::Io { path: path.to_owned(), source: errno.into() })
}

#[cfg(test)]
mod tests;

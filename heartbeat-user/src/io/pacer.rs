//! The pacing thread: it sends every probe when it is due, and records how late it was itself. It judges nobody, and it
//! waits for nothing but time: no disk, no log, no lock, no full buffer.
//!
//! Paths of one delay share their phase, so that one system call sends them all. A probe that is overdue is sent once;
//! what a stopped node did not send is never sent after, and never counted.

use crate::core::path::Attempt;
use crate::io::lateness::LatenessRecord;
use crate::io::memory::Shared;
use crate::io::socket::{self, Batch};
use crate::io::{clock, realtime};
use crate::keys::ProbeSigner;
use anyhow::Context;
use heartbeat_common::frame;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::SockaddrStorage;
use nix::sys::time::{TimeSpec, TimeValLike};
use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

/// Attempts remembered for each path.
pub const ATTEMPTS: usize = 8;
/// Commands waiting at most; the thread empties the queue at every turn.
const COMMANDS_MAX: usize = 1024;
/// Departure reports awaited at most, for each socket.
const AWAITED_MAX: usize = 4096;
/// Longest sleep: bounds what a lost wake-up could cost.
const SLEEP_MAX_NS: u64 = 1_000_000_000;

/// What the pacing thread shows to others. Words that are written by it alone.
#[derive(Debug)]
pub struct PacerRecord {
    attempts: Vec<[(AtomicU64, AtomicU64); ATTEMPTS]>,
    sent: Vec<AtomicU64>,
    bursts: Vec<AtomicU64>,
    /// How late it ran.
    pub lateness: LatenessRecord,
    /// Lateness beyond the budget that nobody has taken yet: when it was due, when it ran.
    late_due: AtomicU64,
    late_ran: AtomicU64,
    /// Send calls that the kernel refused.
    pub refused: AtomicU64,
    /// SCHED_FIFO priority had; 0: none.
    pub realtime: AtomicU64,
    /// errno of the refusal of SCHED_FIFO; 0: none.
    pub realtime_errno: AtomicU64,
}

impl PacerRecord {
    fn new(paths: usize) -> Self {
        Self {
            attempts: (0..paths).map(|_| std::array::from_fn(|_| (AtomicU64::new(0), AtomicU64::new(0)))).collect(),
            sent: (0..paths).map(|_| AtomicU64::new(0)).collect(),
            bursts: (0..paths).map(|_| AtomicU64::new(0)).collect(),
            lateness: LatenessRecord::default(),
            late_due: AtomicU64::new(0),
            late_ran: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            realtime: AtomicU64::new(0),
            realtime_errno: AtomicU64::new(0),
        }
    }

    /// Copies the latest paced attempts of a path. An attempt being written shows its new time with its old sequence
    /// at worst, which is a departed one.
    #[must_use]
    pub fn attempts(&self, path: usize) -> [Attempt; ATTEMPTS] {
        std::array::from_fn(|index| {
            let (sequence, ns) = &self.attempts[path][index];
            let sequence = sequence.load(Ordering::Acquire);
            Attempt { sequence, ns: ns.load(Ordering::Acquire) }
        })
    }

    /// Probes handed to the kernel on a path.
    #[must_use]
    pub fn sent(&self, path: usize) -> u64 {
        self.sent[path].load(Ordering::Relaxed)
    }

    /// When the last burst went out on a path, ns; 0: never.
    #[must_use]
    pub fn burst_sent(&self, path: usize) -> u64 {
        self.bursts[path].load(Ordering::Acquire)
    }

    /// Takes the worst lateness since the last call: (due, ran), ns.
    #[must_use]
    pub fn take_late(&self) -> Option<(u64, u64)> {
        let ran = self.late_ran.swap(0, Ordering::AcqRel);
        if ran == 0 { None } else { Some((self.late_due.load(Ordering::Acquire), ran)) }
    }

    fn note_attempt(&self, path: usize, sequence: u64, now: u64) {
        let (cell, ns) = &self.attempts[path][(sequence >> 1) as usize % ATTEMPTS];
        ns.store(now, Ordering::Release);
        cell.store(sequence, Ordering::Release);
        self.count_sent(path);
    }

    fn count_sent(&self, path: usize) {
        self.sent[path].store(self.sent[path].load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    fn note_late(&self, due: u64, ran: u64) {
        let (seen_due, seen_ran) = (self.late_due.load(Ordering::Relaxed), self.late_ran.load(Ordering::Relaxed));
        if ran - due > seen_ran.saturating_sub(seen_due) {
            self.late_due.store(due, Ordering::Release);
            self.late_ran.store(ran, Ordering::Release);
        }
    }
}

/// A path as the pacing thread needs it.
pub struct PacedPath {
    /// Makes its probes.
    pub signer: ProbeSigner,
    /// Index of its socket.
    pub socket: usize,
    /// Where its probes go.
    pub peer: SockaddrStorage,
    /// Probe interval, ns.
    pub delay_ns: u64,
}

/// What the pacing thread can be told.
pub enum PacerCommand {
    /// Probe these paths at once.
    Burst(Vec<u32>),
    /// The socket of a local address, or that it is gone. True: departures are reported by the error queue.
    Socket(usize, Option<(OwnedFd, bool)>),
    /// New probe makers, after the own incarnation or standing changed: one for each path.
    Signers(Vec<ProbeSigner>),
    /// New delays, one for each path, ns, and the lateness budget.
    Delays(Vec<u64>, u64),
    /// End.
    Stop,
}

/// The way to the pacing thread.
pub struct Pacer {
    /// What it shows.
    pub record: Arc<PacerRecord>,
    commands: SyncSender<PacerCommand>,
    wake: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

/// The pacing thread's fixed surroundings.
pub struct PacerSetup {
    /// Shared memory.
    pub shared: Arc<Shared>,
    /// Every path, by index.
    pub paths: Vec<PacedPath>,
    /// Number of sockets.
    pub sockets: usize,
    /// SCHED_FIFO priority wanted; 0: none.
    pub priority: u8,
    /// Own lateness that is worth reporting, ns.
    pub budget_ns: u64,
}

impl Pacer {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the thread or its event descriptor cannot be made.
    pub fn start(setup: PacerSetup) -> anyhow::Result<Self> {
        let record = Arc::new(PacerRecord::new(setup.paths.len()));
        let wake = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).context("eventfd")?);
        let (commands, queue) = sync_channel(COMMANDS_MAX);
        let mut worker = Worker::new(setup, record.clone(), wake.clone(), queue);
        let ready = Arc::new(AtomicBool::new(false));
        let thread = {
            let ready = ready.clone();
            std::thread::Builder::new()
                .name("hb-pacer".to_owned())
                .stack_size(256 * 1024)
                .spawn(move || {
                    worker.prepare();
                    ready.store(true, Ordering::Release);
                    worker.run();
                })
                .context("start the pacing thread")?
        };
        while !ready.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
        Ok(Self { record, commands, wake, thread: Some(thread) })
    }

    /// Tells the thread something; it acts at once. False if its queue is full, which is a defect.
    pub fn tell(&self, command: PacerCommand) -> bool {
        let taken = self.commands.try_send(command).is_ok();
        let _ = self.wake.write(1);
        taken
    }

    /// Ends the thread and waits for it.
    pub fn stop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.tell(PacerCommand::Stop);
            let _ = thread.join();
        }
    }
}

impl Drop for Pacer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A socket, and the probes whose departure it is to report.
struct Outlet {
    fd: OwnedFd,
    reports: bool,
    next: u32,
    awaited: VecDeque<(u32, u32, u64)>,
}

impl Outlet {
    /// Begins the numbering of datagrams again, here and in the kernel: a refused one may or may not have been counted
    /// there. What was awaited is given up, and so counts as not sent.
    fn number_anew(&mut self) {
        if self.reports {
            while socket::next_departure(&self.fd).is_some() {}
            self.reports = socket::report_departures(&self.fd).is_ok();
            self.awaited.clear();
            self.next = 0;
        }
    }
}

struct Timed {
    path: PacedPath,
    due: u64,
    sequence: u64,
}

struct Worker {
    shared: Arc<Shared>,
    record: Arc<PacerRecord>,
    wake: Arc<EventFd>,
    queue: Receiver<PacerCommand>,
    paths: Vec<Timed>,
    outlets: Vec<Option<Outlet>>,
    batch: Batch,
    priority: u8,
    budget_ns: u64,
}

impl Worker {
    fn new(setup: PacerSetup, record: Arc<PacerRecord>, wake: Arc<EventFd>, queue: Receiver<PacerCommand>) -> Self {
        let now = clock::now().0;
        // Above every sequence that an earlier controller of this incarnation can have used: one probe a microsecond is
        // more than any ever sent.
        let first = (now / 1000) << 1;
        let batch = Batch::new(setup.paths.len());
        let paths = setup.paths.into_iter().map(|path| Timed { path, due: now, sequence: first }).collect();
        Self {
            shared: setup.shared,
            record,
            wake,
            queue,
            paths,
            outlets: (0..setup.sockets).map(|_| None).collect(),
            batch,
            priority: setup.priority,
            budget_ns: setup.budget_ns,
        }
    }

    fn prepare(&self) {
        realtime::no_timer_slack();
        if self.priority > 0 {
            match realtime::fifo(self.priority) {
                Ok(()) => self.record.realtime.store(u64::from(self.priority), Ordering::Release),
                Err(error) => {
                    let errno = error.raw_os_error().unwrap_or(libc::EPERM) as u64;
                    self.record.realtime_errno.store(errno, Ordering::Release);
                }
            }
        }
    }

    fn run(&mut self) {
        loop {
            let due = self.paths.iter().map(|timed| timed.due).min().unwrap_or(u64::MAX);
            self.sleep_until(due);
            let now = clock::now().0;
            if now >= due {
                let late = now - due;
                if self.record.lateness.note(late, self.budget_ns) {
                    self.record.note_late(due, now);
                }
                self.send_due(now);
            }
            loop {
                match self.queue.try_recv() {
                    Ok(PacerCommand::Stop) => return,
                    Ok(command) => self.obey(command),
                    Err(std::sync::mpsc::TryRecvError::Empty) => break,
                    Err(std::sync::mpsc::TryRecvError::Disconnected) => return,
                }
            }
            self.take_departures();
        }
    }

    fn sleep_until(&self, due: u64) {
        let now = clock::now().0;
        if now >= due {
            return;
        }
        let timeout = TimeSpec::nanoseconds((due - now).min(SLEEP_MAX_NS) as i64);
        let mut fds = [PollFd::new(self.wake.as_fd(), PollFlags::POLLIN)];
        if ppoll(&mut fds, Some(timeout), None).is_ok_and(|ready| ready > 0) {
            let _ = self.wake.read();
        }
    }

    /// Sends the probes that are due at `now`, each once, however long ago it was.
    fn send_due(&mut self, now: u64) {
        let mut due: [u64; 16] = [0; 16];
        // Marks of which paths are due, 64 to a word, so that nothing is allocated here.
        debug_assert!(self.paths.len() <= due.len() * 64);
        for (index, timed) in self.paths.iter_mut().enumerate() {
            if timed.due > now {
                continue;
            }
            let delay = timed.path.delay_ns;
            let behind = (now - timed.due) / delay;
            timed.due += (behind + 1) * delay;
            timed.sequence = (timed.sequence + 2) & !1;
            due[index / 64] |= 1 << (index % 64);
        }
        self.send(now, &due, false);
    }

    fn burst(&mut self, paths: &[u32]) {
        let mut marks: [u64; 16] = [0; 16];
        for path in paths {
            let index = *path as usize;
            if let Some(timed) = self.paths.get_mut(index) {
                timed.sequence = (timed.sequence + 1) | 1;
                marks[index / 64] |= 1 << (index % 64);
            }
        }
        self.send(clock::now().0, &marks, true);
    }

    /// Sends one probe on each marked path.
    fn send(&mut self, now: u64, marks: &[u64; 16], burst: bool) {
        let age = frame::age_since(self.shared.progress(), now);
        let flags = self.shared.flags();
        for socket in 0..self.outlets.len() {
            // Echoes that XDP takes never reach the neighbour table, which then doubts a peer that is well: while they
            // are fresh, the send call says so in their stead.
            for confirm in [true, false] {
                self.batch.clear();
                for (index, timed) in self.paths.iter_mut().enumerate() {
                    if marks[index / 64] >> (index % 64) & 1 == 0 || timed.path.socket != socket {
                        continue;
                    }
                    let (peer, stamp, echo_ns) = self.shared.peer_of(index as u32);
                    let fresh = echo_ns != 0 && now.saturating_sub(echo_ns) <= 2 * timed.path.delay_ns;
                    if fresh != confirm {
                        continue;
                    }
                    let probe = timed.path.signer.probe(timed.sequence, now, peer, stamp, age, flags);
                    self.batch.push(&probe, &timed.path.peer);
                    if burst {
                        self.record.count_sent(index);
                    } else {
                        self.record.note_attempt(index, timed.sequence, now);
                    }
                    if let Some(outlet) = &mut self.outlets[socket]
                        && outlet.reports
                        && outlet.awaited.len() < AWAITED_MAX
                    {
                        outlet.awaited.push_back((outlet.next, index as u32, timed.sequence));
                        outlet.next = outlet.next.wrapping_add(1);
                    }
                }
                if self.batch.is_empty() {
                    continue;
                }
                if let Some(outlet) = &mut self.outlets[socket] {
                    let flags = if confirm { libc::MSG_CONFIRM } else { 0 };
                    let (refused, _) = self.batch.send(&outlet.fd, flags);
                    if refused > 0 {
                        self.record.refused.fetch_add(refused as u64, Ordering::Relaxed);
                        outlet.number_anew();
                    }
                }
            }
        }
        if burst {
            for index in 0..self.paths.len() {
                if marks[index / 64] >> (index % 64) & 1 == 1 {
                    self.record.bursts[index].store(now, Ordering::Release);
                }
            }
        }
        self.take_departures();
    }

    /// Takes the departures that the kernel reports by the error queue. They are dated when they are read, which is
    /// later than they were: a miss is counted late rather than early.
    fn take_departures(&mut self) {
        for outlet in self.outlets.iter_mut().flatten() {
            if !outlet.reports {
                continue;
            }
            while let Some(index) = socket::next_departure(&outlet.fd) {
                while let Some((awaited, path, sequence)) = outlet.awaited.front().copied() {
                    if awaited.wrapping_sub(index) as i32 > 0 {
                        break;
                    }
                    outlet.awaited.pop_front();
                    if awaited == index {
                        let now = clock::now().0;
                        let _ = self.shared.with_tick(path, |tick| tick.depart(sequence, now));
                    }
                }
            }
        }
    }

    fn obey(&mut self, command: PacerCommand) {
        match command {
            PacerCommand::Burst(paths) => self.burst(&paths),
            PacerCommand::Socket(index, outlet) => {
                if let Some(place) = self.outlets.get_mut(index) {
                    *place = outlet.map(|(fd, reports)| Outlet { fd, reports, next: 0, awaited: VecDeque::new() });
                }
            }
            PacerCommand::Signers(signers) => {
                for (timed, signer) in self.paths.iter_mut().zip(signers) {
                    timed.path.signer = signer;
                }
            }
            PacerCommand::Delays(delays, budget_ns) => {
                let now = clock::now().0;
                for (timed, delay) in self.paths.iter_mut().zip(delays) {
                    timed.path.delay_ns = delay.max(1);
                    timed.due = timed.due.min(now + timed.path.delay_ns);
                }
                self.budget_ns = budget_ns;
            }
            PacerCommand::Stop => {}
        }
    }
}

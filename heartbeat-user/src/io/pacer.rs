//! The pacing thread: it sends every probe when it is due, and records how late it was itself. It judges nobody, and it
//! waits for nothing but time: no disk, no log, no lock, no full buffer. What it is told it takes by atomic words, or by
//! a lock that it only tries; memory that it no longer needs it hands back, for others to free.
//!
//! Paths of one delay share their phase, so that one system call sends them all. A probe that is overdue is sent once;
//! what a stopped node did not send is never sent after, and never counted.

mod ask;
mod inbox;

use crate::core::path::Attempt;
use crate::io::lateness::LatenessRecord;
use crate::io::memory::Shared;
use crate::io::socket::{self, Batch};
use crate::io::{clock, realtime};
use crate::keys::ProbeSigner;
use anyhow::Context;
use ask::ask;
use heartbeat_common::frame;
use heartbeat_common::maps::PATHS_MAX;
use heartbeat_common::tick::{DEPARTURES, Tick};
use inbox::Inbox;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::SockaddrStorage;
use nix::sys::time::{TimeSpec, TimeValLike};
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, TryLockError};
use std::thread::JoinHandle;

/// Attempts remembered for each path.
pub const ATTEMPTS: usize = 8;
/// Commands waiting and handed back at most.
const COMMANDS_MAX: usize = 1024;
/// Longest sleep: bounds what a lost wake-up could cost.
const SLEEP_MAX_NS: u64 = 1_000_000_000;

/// Which paths: one bit each, so that nothing is allocated to say so.
type Marks = [u64; MARK_WORDS];
const MARK_WORDS: usize = PATHS_MAX.div_ceil(64) as usize;

/// What the pacing thread shows to others. Words that are written by it alone.
#[derive(Debug)]
pub struct PacerRecord {
    attempts: Vec<[(AtomicU64, AtomicU64); ATTEMPTS]>,
    /// Sequence of the newest attempt, written after it.
    newest: Vec<AtomicU64>,
    sent: Vec<AtomicU64>,
    bursts: Vec<(AtomicU64, AtomicU64)>,
    /// Departures reported by the error queue: count, and the newest as (sequence, ns).
    departures: Vec<AtomicU64>,
    departed: Vec<[(AtomicU64, AtomicU64); DEPARTURES]>,
    /// How late it ran.
    pub lateness: LatenessRecord,
    /// Lateness beyond the budget that nobody has taken yet: by how much, and when it last ran so.
    late_by: AtomicU64,
    late_ran: AtomicU64,
    /// Send calls that the kernel refused.
    pub refused: AtomicU64,
    /// SCHED_FIFO priority had; 0: none.
    pub realtime: AtomicU64,
    /// errno of the refusal of SCHED_FIFO; 0: none.
    pub realtime_errno: AtomicU64,
}

impl PacerRecord {
    pub(crate) fn new(paths: usize) -> Self {
        Self {
            attempts: (0..paths).map(|_| std::array::from_fn(|_| <(AtomicU64, AtomicU64)>::default())).collect(),
            newest: (0..paths).map(|_| AtomicU64::new(0)).collect(),
            sent: (0..paths).map(|_| AtomicU64::new(0)).collect(),
            bursts: (0..paths).map(|_| <(AtomicU64, AtomicU64)>::default()).collect(),
            departures: (0..paths).map(|_| AtomicU64::new(0)).collect(),
            departed: (0..paths).map(|_| std::array::from_fn(|_| <(AtomicU64, AtomicU64)>::default())).collect(),
            lateness: LatenessRecord::default(),
            late_by: AtomicU64::new(0),
            late_ran: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            realtime: AtomicU64::new(0),
            realtime_errno: AtomicU64::new(0),
        }
    }

    /// Sequence of the newest paced attempt of a path: where it has not changed, no attempt has.
    #[must_use]
    pub fn newest_attempt(&self, path: usize) -> u64 {
        self.newest[path].load(Ordering::Acquire)
    }

    /// Number of departures of a path that no program stamped: where it has not changed, none of them has.
    #[must_use]
    pub fn departures(&self, path: usize) -> u64 {
        self.departures[path].load(Ordering::Acquire)
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

    /// Adds to a copy of a path's tick the departures that no program stamped: see `take_departures`.
    pub fn merge_departures(&self, path: usize, tick: &mut Tick<u64>) {
        tick.departures += self.departures[path].load(Ordering::Relaxed);
        for (slot, (sequence, ns)) in tick.departed.iter_mut().zip(&self.departed[path]) {
            let before = sequence.load(Ordering::Acquire);
            let stamp = ns.load(Ordering::Acquire);
            // One that is being replaced is found at the next look.
            if before > slot.sequence && sequence.load(Ordering::Acquire) == before {
                (slot.sequence, slot.ns) = (before, stamp);
            }
        }
    }

    /// Probes that the kernel took on a path.
    #[must_use]
    pub fn sent(&self, path: usize) -> u64 {
        self.sent[path].load(Ordering::Relaxed)
    }

    /// The newest burst on a path: when it was tried, and when the kernel last took one, ns; 0: never.
    #[must_use]
    pub fn burst(&self, path: usize) -> (u64, u64) {
        let (tried, taken) = &self.bursts[path];
        // In this order: a burst that was tried has its outcome.
        let tried = tried.load(Ordering::Acquire);
        (tried, taken.load(Ordering::Acquire))
    }

    /// Takes the worst lateness since the last call: (due, ran), ns. Of several, `ran` is the newest's.
    #[must_use]
    pub fn take_late(&self) -> Option<(u64, u64)> {
        let by = self.late_by.swap(0, Ordering::AcqRel);
        let ran = self.late_ran.load(Ordering::Acquire);
        if by == 0 { None } else { Some((ran.saturating_sub(by), ran)) }
    }

    pub(crate) fn note_attempt(&self, path: usize, sequence: u64, now: u64) {
        let (cell, ns) = &self.attempts[path][(sequence >> 1) as usize % ATTEMPTS];
        ns.store(now, Ordering::Release);
        cell.store(sequence, Ordering::Release);
        self.newest[path].store(sequence, Ordering::Release);
    }

    fn note_burst(&self, path: usize, now: u64, taken: bool) {
        let (at, taken_at) = &self.bursts[path];
        if taken {
            taken_at.store(now, Ordering::Release);
        }
        at.store(now, Ordering::Release);
    }

    pub(crate) fn note_departure(&self, path: usize, sequence: u64, now: u64) {
        let (newest, ns) = &self.departed[path][sequence as usize % DEPARTURES];
        // A stacked device reports once more at each layer, and a parked datagram after newer ones.
        if newest.load(Ordering::Relaxed) >= sequence {
            return;
        }
        // A reader sees nothing, or the whole: never one's sequence with another's time.
        newest.store(0, Ordering::Release);
        ns.store(now, Ordering::Release);
        newest.store(sequence, Ordering::Release);
        let count = &self.departures[path];
        // After the slot: whoever sees the count sees the departure.
        count.store(count.load(Ordering::Relaxed) + 1, Ordering::Release);
    }

    fn count_sent(&self, path: usize) {
        self.sent[path].store(self.sent[path].load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    fn note_late(&self, due: u64, ran: u64) {
        // The time first: whoever takes the amount finds a time no older than it.
        self.late_ran.store(ran, Ordering::Release);
        self.late_by.fetch_max(ran - due, Ordering::AcqRel);
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
    /// Probe these paths at once. Needs no lock: the deciding thread may ask for it.
    Burst(Vec<u32>),
    /// The socket of a local address, or that it is gone. True: departures are reported by the error queue.
    Socket(usize, Option<(OwnedFd, bool)>),
    /// Whether departures by the socket of a local address are reported by the error queue from now on.
    Reports(usize, bool),
    /// New probe makers, after the own incarnation or standing changed: one for each path.
    Signers(Vec<ProbeSigner>),
    /// New delays, one for each path, ns, and the lateness budget.
    Delays(Vec<u64>, u64),
    /// Send these frames as they are, each on its path: fences, which the deciding thread has signed. What cannot be
    /// sent is lost, as on the wire.
    Frames(Vec<(u32, [u64; frame::WORDS])>),
}

/// The way to the pacing thread.
pub struct Pacer {
    /// What it shows.
    pub record: Arc<PacerRecord>,
    inbox: Arc<Inbox>,
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
        let inbox = Arc::new(Inbox::new());
        let mut worker = Worker::new(setup, record.clone(), wake.clone(), inbox.clone());
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
        Ok(Self { record, inbox, wake, thread: Some(thread) })
    }

    /// Tells the thread something; it acts at once. False if its queue is full, which is a defect.
    pub fn tell(&self, command: PacerCommand) -> bool {
        let taken = self.inbox.put(command);
        let _ = self.wake.write(1);
        taken
    }

    /// Has these frames sent, without waiting for anybody: for the deciding thread. False if somebody else is telling
    /// the thread something just now, or its queue is full: then they are to be told again.
    pub fn send_frames(&self, frames: Vec<(u32, [u64; frame::WORDS])>) -> bool {
        let taken = match self.inbox.queue.try_lock() {
            Ok(mut queue) if queue.waiting.len() < COMMANDS_MAX => {
                queue.waiting.push_back(PacerCommand::Frames(frames));
                true
            }
            _ => false,
        };
        let _ = self.wake.write(1);
        taken
    }

    /// Ends the thread and waits for it.
    pub fn stop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.inbox.stop.store(true, Ordering::Release);
            let _ = self.wake.write(1);
            let _ = thread.join();
        }
    }
}

impl Drop for Pacer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A socket, and whether departures from it are reported by its error queue.
type Outlet = (OwnedFd, bool);

struct Timed {
    path: PacedPath,
    due: u64,
    sequence: u64,
}

struct Worker {
    shared: Arc<Shared>,
    record: Arc<PacerRecord>,
    wake: Arc<EventFd>,
    inbox: Arc<Inbox>,
    paths: Vec<Timed>,
    /// Which path each (socket, peer's address) is, in order.
    by_peer: Vec<(usize, IpAddr, u32)>,
    outlets: Vec<Option<Outlet>>,
    batch: Batch,
    /// Path of each frame in the batch.
    batched: Vec<usize>,
    priority: u8,
    budget_ns: u64,
}

impl Worker {
    fn new(setup: PacerSetup, record: Arc<PacerRecord>, wake: Arc<EventFd>, inbox: Arc<Inbox>) -> Self {
        let now = clock::now().0;
        // Above every sequence that an earlier controller of this incarnation can have used: one probe a microsecond is
        // more than any ever sent.
        let first = (now / 1000) << 1;
        let batch = Batch::new(setup.paths.len());
        let batched = Vec::with_capacity(setup.paths.len());
        let of_path = |(index, path): (usize, &PacedPath)| Some((path.socket, address_of(&path.peer)?, index as u32));
        let mut by_peer: Vec<_> = setup.paths.iter().enumerate().filter_map(of_path).collect();
        by_peer.sort_unstable();
        let paths = setup.paths.into_iter().map(|path| Timed { path, due: now, sequence: first }).collect();
        Self {
            shared: setup.shared,
            record,
            wake,
            inbox,
            paths,
            by_peer,
            outlets: (0..setup.sockets).map(|_| None).collect(),
            batch,
            batched,
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
            if self.inbox.stop.load(Ordering::Acquire) {
                return;
            }
            // Sockets and makers before bursts: a burst is to leave by what was told before it.
            self.obey_all();
            if let Some(marks) = self.inbox.take_bursts() {
                self.burst(&marks);
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
        let mut due: Marks = [0; MARK_WORDS];
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

    fn burst(&mut self, marks: &Marks) {
        for (index, timed) in self.paths.iter_mut().enumerate() {
            if marked(marks, index) {
                timed.sequence = (timed.sequence + 1) | 1;
            }
        }
        self.send(clock::now().0, marks, true);
    }

    /// Sends one probe on each marked path. What the kernel refuses, or what there is no socket for, was not sent.
    fn send(&mut self, now: u64, marks: &Marks, burst: bool) {
        let age = frame::age_since(self.shared.progress(), now);
        let flags = self.shared.flags();
        for index in (0..self.paths.len()).filter(|index| marked(marks, *index)) {
            if !burst {
                self.record.note_attempt(index, self.paths[index].sequence, now);
            } else if self.outlets.get(self.paths[index].path.socket).is_none_or(Option::is_none) {
                self.record.note_burst(index, now, false);
            }
        }
        for socket in 0..self.outlets.len() {
            // Echoes that XDP takes never reach the neighbour table, which then doubts a peer that is well: while they
            // are fresh, the send call says so in their stead.
            for confirm in [true, false] {
                self.batch.clear();
                self.batched.clear();
                let Some((fd, reports)) = &self.outlets[socket] else { continue };
                for (index, timed) in self.paths.iter_mut().enumerate() {
                    if !marked(marks, index) || timed.path.socket != socket {
                        continue;
                    }
                    let signer = &timed.path.signer;
                    let asked = ask(&self.shared, index as u32, signer, || ());
                    let fresh = asked.echo_ns != 0 && now.saturating_sub(asked.echo_ns) <= 2 * timed.path.delay_ns;
                    if fresh != confirm {
                        continue;
                    }
                    self.batch.push(&asked.probe(signer, timed.sequence, now, age, flags), &timed.path.peer);
                    self.batched.push(index);
                }
                if self.batch.is_empty() {
                    continue;
                }
                let flags = if confirm { libc::MSG_CONFIRM } else { 0 };
                let (refused, _) = self.batch.send(fd, flags, *reports);
                self.record.refused.fetch_add(refused as u64, Ordering::Relaxed);
                for (index, taken) in self.batched.iter().zip(self.batch.taken()) {
                    if *taken {
                        self.record.count_sent(*index);
                    }
                    if burst {
                        self.record.note_burst(*index, now, *taken);
                    }
                }
            }
        }
        self.take_departures();
    }

    /// Sends frames as they are. None of them is a probe, so none is an attempt, and no departure of one is counted.
    fn send_frames(&mut self, frames: &[(u32, [u64; frame::WORDS])]) {
        for socket in 0..self.outlets.len() {
            let Some((fd, reports)) = &self.outlets[socket] else { continue };
            let of_socket = |path: u32| self.paths.get(path as usize).filter(|timed| timed.path.socket == socket);
            self.batch.clear();
            for (timed, frame) in frames.iter().filter_map(|(path, frame)| Some((of_socket(*path)?, frame))) {
                self.batch.push(frame, &timed.path.peer);
            }
            if !self.batch.is_empty() {
                let (refused, _) = self.batch.send(fd, 0, *reports);
                self.record.refused.fetch_add(refused as u64, Ordering::Relaxed);
            }
        }
    }

    /// Takes the departures that the kernel reports by the error queue. They are dated when they are read, which is
    /// later than they were: a miss is counted late rather than early. They are kept apart from the tick, whose lock
    /// this thread must not wait for.
    fn take_departures(&self) {
        for (socket, outlet) in self.outlets.iter().enumerate() {
            let Some((fd, true)) = outlet else { continue };
            while let Some(report) = socket::next_departure(fd) {
                let Some(departed) = report else { continue };
                let key = (socket, departed.to);
                let Ok(found) = self.by_peer.binary_search_by_key(&key, |(socket, to, _)| (*socket, *to)) else {
                    continue;
                };
                self.record.note_departure(self.by_peer[found].2 as usize, departed.sequence, clock::now().0);
            }
        }
    }

    /// Obeys what waits, unless somebody is about to add to it and wakes this thread once more.
    fn obey_all(&mut self) {
        let inbox = self.inbox.clone();
        let mut queue = match inbox.queue.try_lock() {
            Ok(queue) => queue,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        while queue.obeyed.len() < COMMANDS_MAX
            && let Some(mut command) = queue.waiting.pop_front()
        {
            self.obey(&mut command);
            queue.obeyed.push(command);
        }
    }

    /// Obeys by exchange: the command keeps what it replaced.
    fn obey(&mut self, command: &mut PacerCommand) {
        match command {
            PacerCommand::Socket(index, outlet) => {
                if let Some(place) = self.outlets.get_mut(*index) {
                    // Closed here and at once: the port is to be free for whoever opens the address again.
                    *place = outlet.take();
                }
            }
            PacerCommand::Reports(index, wanted) => {
                if let Some(Some((fd, reports))) = self.outlets.get_mut(*index) {
                    *reports = *wanted && socket::report_departures(fd).is_ok();
                }
            }
            PacerCommand::Signers(signers) => {
                for (timed, signer) in self.paths.iter_mut().zip(signers) {
                    std::mem::swap(&mut timed.path.signer, signer);
                }
            }
            PacerCommand::Delays(delays, budget_ns) => {
                let now = clock::now().0;
                for (timed, delay) in self.paths.iter_mut().zip(delays) {
                    timed.path.delay_ns = (*delay).max(1);
                    timed.due = timed.due.min(now + timed.path.delay_ns);
                }
                self.budget_ns = *budget_ns;
            }
            PacerCommand::Frames(frames) => self.send_frames(frames),
            // Never queued: see `Inbox::put`.
            PacerCommand::Burst(_) => {}
        }
    }
}

const fn marked(marks: &Marks, path: usize) -> bool {
    marks[path / 64] >> (path % 64) & 1 == 1
}

fn address_of(peer: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = peer.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
    v4.or_else(|| peer.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
}

#[cfg(test)]
mod tests;

//! A relay in user space between a node and its bridge: delays, reorders, corrupts, loses, repeats and records frames,
//! by rules and a seed. It reads nothing of a frame but the UDP port by which a rule may be narrowed.

use super::monotonic_ns;
use anyhow::{Context, Result, ensure};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::socket::{MsgFlags, recv, send};
use nix::sys::time::TimeSpec;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::Error;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Most frames kept for a recording and most on their way; later ones are dropped and counted.
const FRAMES_MAX: usize = 1 << 16;
/// How soon the relay notices a new injection or its own end.
const WAKE: Duration = Duration::from_millis(5);
const PACKET_IGNORE_OUTGOING: i32 = 23;

/// What is done to frames of one direction. All zero: they pass as they come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Every frame is held for this long.
    pub delay: Duration,
    /// And for a random time up to this.
    pub jitter: Duration,
    /// So many of a thousand frames are held for `reorder_by` more, so that later ones overtake them.
    pub reorder_per_mille: u32,
    /// See `reorder_per_mille`.
    pub reorder_by: Duration,
    /// So many of a thousand have one random bit behind the Ethernet header flipped.
    pub corrupt_per_mille: u32,
    /// So many of a thousand are sent twice.
    pub duplicate_per_mille: u32,
    /// So many of a thousand are lost.
    pub loss_per_mille: u32,
    /// Where set, only UDP frames (IPv4, IPv6) to or from this port fall under these rules; others pass.
    pub only_port: Option<u16>,
}

/// Which way a frame goes through a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// From the node to the bridge.
    Out,
    /// From the bridge to the node.
    In,
}

/// A frame that was recorded as it came in, before any rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// When it came, CLOCK_MONOTONIC ns.
    pub at_ns: u64,
    /// Which way it went.
    pub way: Way,
    /// From the Ethernet header on.
    pub bytes: Vec<u8>,
}

/// What a relay has done since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Frames that came in.
    pub received: u64,
    /// Frames sent on, injected and repeated ones included.
    pub sent: u64,
    /// Frames with a bit flipped.
    pub corrupted: u64,
    /// Frames held longer than others.
    pub reordered: u64,
    /// Frames sent twice.
    pub duplicated: u64,
    /// Frames lost by rule.
    pub lost: u64,
    /// Frames dropped because too many were under way, or because the link refused them.
    pub dropped: u64,
}

#[derive(Debug, Default)]
struct Shared {
    rules: [Rules; 2],
    counts: Counts,
    recording: Option<Vec<Recorded>>,
    injected: Vec<(u64, Way, Vec<u8>)>,
}

/// A running relay; dropping it stops it, and nothing passes any more.
#[derive(Debug)]
pub struct Relay {
    shared: Arc<Mutex<Shared>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// Starts a relay between two interfaces of the calling thread's network namespace.
    ///
    /// # Errors
    /// Fails when a raw socket cannot be made.
    pub(super) fn start(near: &str, far: &str, seed: u64) -> Result<Self> {
        let sockets = [raw_socket(near)?, raw_socket(far)?];
        let shared = Arc::new(Mutex::new(Shared::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let mut worker = Worker {
            sockets,
            shared: Arc::clone(&shared),
            stop: Arc::clone(&stop),
            queue: BinaryHeap::new(),
            count: 0,
            random: Random(seed),
        };
        let thread = std::thread::Builder::new().name("lab-relay".to_owned()).spawn(move || worker.run())?;
        Ok(Self { shared, stop, thread: Some(thread) })
    }

    /// Replaces the rules of one way.
    pub fn set(&self, way: Way, rules: Rules) {
        self.shared().rules[way as usize] = rules;
    }

    /// What it has done.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.shared().counts
    }

    /// Begins to record, or begins anew.
    pub fn record(&self) {
        self.shared().recording = Some(Vec::new());
    }

    /// Ends the recording and returns it.
    #[must_use]
    pub fn recorded(&self) -> Vec<Recorded> {
        self.shared().recording.take().unwrap_or_default()
    }

    /// Sends recorded frames again, by the way each went, at the distances in which they came, beginning now.
    pub fn replay(&self, frames: &[Recorded]) {
        let Some(first) = frames.first() else { return };
        let now = monotonic_ns();
        let due = |frame: &Recorded| now + frame.at_ns.saturating_sub(first.at_ns);
        self.shared().injected.extend(frames.iter().map(|frame| (due(frame), frame.way, frame.bytes.clone())));
    }

    /// Sends a frame, from the Ethernet header on.
    pub fn inject(&self, way: Way, bytes: Vec<u8>) {
        self.shared().injected.push((monotonic_ns(), way, bytes));
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// SplitMix64: small, seeded, and good enough to lose frames by.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.next() % bound }
    }

    fn happens(&mut self, per_mille: u32) -> bool {
        self.below(1000) < u64::from(per_mille)
    }
}

/// A frame on its way: when it is due, its place among those of the same moment, which way, its bytes.
type Held = (u64, u64, Way, Vec<u8>);

struct Worker {
    sockets: [OwnedFd; 2],
    shared: Arc<Mutex<Shared>>,
    stop: Arc<AtomicBool>,
    queue: BinaryHeap<Reverse<Held>>,
    count: u64,
    random: Random,
}

impl Worker {
    fn run(&mut self) {
        let mut buffer = vec![0; 1 << 16];
        while !self.stop.load(Ordering::Relaxed) {
            self.wait();
            for way in [Way::Out, Way::In] {
                let socket = self.sockets[way as usize].as_raw_fd();
                while let Ok(length) = recv(socket, &mut buffer, MsgFlags::MSG_DONTWAIT) {
                    self.take(way, &buffer[..length]);
                }
            }
            let injected = std::mem::take(&mut self.lock().injected);
            for (due, way, bytes) in injected {
                self.push(due, way, bytes);
            }
            self.send_due();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self) {
        let next = self.queue.peek().map_or(u64::MAX, |Reverse((due, ..))| due.saturating_sub(monotonic_ns()));
        let timeout = Duration::from_nanos(next).min(WAKE);
        let mut polled = self.sockets.each_ref().map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN));
        // A failed poll (a link that went down) is followed by reads that say the same, and by the next round.
        let _ = ppoll(&mut polled, Some(TimeSpec::from_duration(timeout)), None);
    }

    fn take(&mut self, way: Way, frame: &[u8]) {
        let now = monotonic_ns();
        let rules = {
            let mut shared = self.lock();
            shared.counts.received += 1;
            if let Some(recording) = shared.recording.as_mut().filter(|recording| recording.len() < FRAMES_MAX) {
                recording.push(Recorded { at_ns: now, way, bytes: frame.to_vec() });
            }
            shared.rules[way as usize]
        };
        let rules = match rules.only_port {
            Some(port) if !is_udp_port(frame, port) => Rules::default(),
            _ => rules,
        };
        if self.random.happens(rules.loss_per_mille) {
            self.lock().counts.lost += 1;
            return;
        }
        let mut bytes = frame.to_vec();
        if self.random.happens(rules.corrupt_per_mille) && bytes.len() > 14 {
            let bit = self.random.below((bytes.len() as u64 - 14) * 8);
            bytes[14 + (bit / 8) as usize] ^= 1 << (bit % 8);
            self.lock().counts.corrupted += 1;
        }
        let mut due = now + rules.delay.as_nanos() as u64 + self.random.below(rules.jitter.as_nanos() as u64);
        if self.random.happens(rules.reorder_per_mille) {
            due += rules.reorder_by.as_nanos() as u64;
            self.lock().counts.reordered += 1;
        }
        if self.random.happens(rules.duplicate_per_mille) {
            self.lock().counts.duplicated += 1;
            self.push(due, way, bytes.clone());
        }
        self.push(due, way, bytes);
    }

    fn push(&mut self, due: u64, way: Way, bytes: Vec<u8>) {
        if self.queue.len() >= FRAMES_MAX {
            self.lock().counts.dropped += 1;
            return;
        }
        // The count keeps frames of the same moment in their order.
        self.count += 1;
        self.queue.push(Reverse((due, self.count, way, bytes)));
    }

    fn send_due(&mut self) {
        while self.queue.peek().is_some_and(|Reverse((due, ..))| *due <= monotonic_ns()) {
            let Some(Reverse((_, _, way, bytes))) = self.queue.pop() else { return };
            let other = self.sockets[1 - way as usize].as_raw_fd();
            let sent = send(other, &bytes, MsgFlags::MSG_DONTWAIT).is_ok();
            let mut shared = self.lock();
            if sent {
                shared.counts.sent += 1;
            } else {
                shared.counts.dropped += 1;
            }
        }
    }
}

/// True for an untagged UDP frame to or from `port`, IPv4 without options or IPv6 without extension headers.
fn is_udp_port(frame: &[u8], port: u16) -> bool {
    let header = match frame.get(12..15) {
        Some([0x08, 0x00, 0x45]) if frame.get(23) == Some(&17) => 34,
        Some([0x86, 0xdd, _]) if frame.get(20) == Some(&17) => 54,
        _ => return false,
    };
    let [high, low] = port.to_be_bytes();
    frame.get(header..header + 4).is_some_and(|ports| ports[..2] == [high, low] || ports[2..] == [high, low])
}

/// A raw socket that takes every frame that comes in by an interface, and none that goes out by it.
pub(super) fn raw_socket(interface: &str) -> Result<OwnedFd> {
    let index = nix::net::if_::if_nametoindex(interface).with_context(|| format!("looking for {interface}"))?;
    raw_socket_at(index.cast_signed(), true).with_context(|| format!("at {interface}"))
}

/// A raw socket of the calling thread's network namespace at the interface of an index, 0 being all; it can be told to
/// take none that goes out.
pub(super) fn raw_socket_at(index: i32, ignore_outgoing: bool) -> Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // SAFETY: socket takes no pointers. Protocol 0: nothing is taken until the socket is bound.
    let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
    ensure!(fd >= 0, "making a raw socket: {}", Error::last_os_error());
    // SAFETY: the call has just made this descriptor, and nothing else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let on = i32::from(ignore_outgoing);
    // SAFETY: the value is an int that lives for the length of the call.
    let result = unsafe {
        let (value, size) = (std::ptr::from_ref(&on).cast(), size_of::<i32>() as u32);
        libc::setsockopt(fd, libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, value, size)
    };
    ensure!(result == 0, "ignoring outgoing frames: {}", Error::last_os_error());
    // SAFETY: sockaddr_ll is plain integers, for which zero is a value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = index;
    // SAFETY: the address is a whole sockaddr_ll that lives for the length of the call.
    let result = unsafe { libc::bind(fd, std::ptr::from_ref(&address).cast(), size_of::<libc::sockaddr_ll>() as u32) };
    ensure!(result == 0, "binding a raw socket: {}", Error::last_os_error());
    Ok(socket)
}

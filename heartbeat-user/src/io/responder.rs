//! The userspace responder: what XDP does, done from sockets, where XDP cannot be had or is not wanted. The same
//! bytes, the same tests, the same ticks; stamps are of CLOCK_MONOTONIC, taken when a datagram was read from its socket.
//! It is only as prompt as its thread, and the yardstick for what XDP is worth.
//!
//! Where it can see less than XDP: a VLAN tag never reaches a socket, so tags are not judged; and an echo's hold counts
//! from the read, so that the time for which the thread was late is part of the round trip as its peer sees it.
//! Options, fragments and extension headers are told by control messages and refused under the counters of XDP; a
//! header that the kernel does not hand up to sockets (authentication without an association, mobility) is refused
//! without one. A chain of headers longer than XDP looks through is not ours to XDP, and is refused here.

mod pace;

use crate::io::memory::Shared;
use crate::io::socket::port_of;
use crate::io::{clock, realtime};
use anyhow::Context;
use heartbeat_common::counter::Counter;
use heartbeat_common::exchange::{self, Outcome};
use heartbeat_common::fence;
use heartbeat_common::frame::{self, word};
use heartbeat_common::path::PathConf;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{SockaddrLike, SockaddrStorage};
use pace::Pace;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::JoinHandle;

/// Datagrams taken from one socket before the next gets its turn.
const TURN_MAX: usize = 64;

/// The paths as the responder needs them: their configurations by index.
pub type Confs = Arc<RwLock<Vec<PathConf>>>;

/// A socket to answer on.
pub struct Door {
    /// The socket.
    pub fd: OwnedFd,
    /// Which path a peer's address is, through this socket.
    pub paths: BTreeMap<IpAddr, u32>,
}

/// What the thread can be told.
enum Command {
    /// Answer on this socket, under the index of its local address; `None`: no longer.
    Door(usize, Option<Door>),
    /// End.
    Stop,
}

/// The responder's thread.
pub struct Responder {
    commands: SyncSender<Command>,
    wake: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Responder {
    /// Starts the thread; it answers on nothing until it is given a socket. `priority` is of SCHED_FIFO, 0 for none.
    ///
    /// # Errors
    /// If the thread cannot be made.
    pub fn start(shared: Arc<Shared>, confs: Confs, priority: u8) -> anyhow::Result<Self> {
        let wake = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).context("eventfd")?);
        let (commands, queue) = sync_channel(64);
        let mut doors = Doors::new(&wake)?;
        let thread = {
            let wake = wake.clone();
            std::thread::Builder::new()
                .name("hb-responder".to_owned())
                .stack_size(256 * 1024)
                .spawn(move || {
                    if priority > 0 {
                        // A refusal is reported by the pacing thread, which asks for the same.
                        let _ = realtime::fifo(priority);
                    }
                    run(&shared, &confs, &wake, &queue, &mut doors);
                })
                .context("start the responder's thread")?
        };
        Ok(Self { commands, wake, thread: Some(thread) })
    }

    /// Begins or ends answering on a socket.
    pub fn set_door(&self, index: usize, door: Option<Door>) {
        let _ = self.commands.send(Command::Door(index, door));
        let _ = self.wake.write(1);
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        let _ = self.commands.send(Command::Stop);
        let _ = self.wake.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The open doors, and what tells that something came. By edges: the reports in the error queue of a socket are the
/// pacing thread's, and until it takes them a look at the level would find the socket ready all the time.
struct Doors {
    epoll: Epoll,
    open: BTreeMap<usize, Door>,
}

impl Doors {
    /// Index of the wake-up among the doors.
    const WAKE: u64 = u64::MAX;

    fn new(wake: &EventFd) -> anyhow::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("epoll")?;
        epoll.add(wake, EpollEvent::new(EpollFlags::EPOLLIN, Self::WAKE)).context("epoll")?;
        Ok(Self { epoll, open: BTreeMap::new() })
    }

    /// Opens or closes a door.
    fn set(&mut self, index: usize, door: Option<Door>) {
        if let Some(old) = self.open.remove(&index) {
            // The pacing thread's descriptor of the same socket lives on, and the registration would live with it.
            let _ = self.epoll.delete(&old.fd);
        }
        if let Some(door) = door {
            let events = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
            if self.epoll.add(&door.fd, EpollEvent::new(events, index as u64)).is_ok() {
                self.open.insert(index, door);
            }
        }
    }
}

fn run(shared: &Shared, confs: &Confs, wake: &EventFd, queue: &Receiver<Command>, doors: &mut Doors) {
    let mut events = [EpollEvent::empty(); 64];
    // Doors that may hold more than was taken.
    let mut ready: BTreeSet<usize> = BTreeSet::new();
    let mut pace = Pace::new(clock::now(), clock::thread_used());
    loop {
        if let Some(rest) = pace.rest(clock::now(), clock::thread_used) {
            std::thread::sleep(rest);
            pace.rested(clock::now());
        }
        let timeout = if ready.is_empty() { EpollTimeout::NONE } else { EpollTimeout::ZERO };
        let Ok(count) = doors.epoll.wait(&mut events, timeout) else { continue };
        for event in &events[..count] {
            match event.data() {
                Doors::WAKE => drop(wake.read()),
                index => drop(ready.insert(index as usize)),
            }
        }
        while let Ok(command) = queue.try_recv() {
            match command {
                Command::Door(index, door) => doors.set(index, door),
                Command::Stop => return,
            }
        }
        ready.retain(|index| doors.open.get(index).is_some_and(|door| serve(shared, confs, door)));
    }
}

/// Takes what waits at a door, so much at most that the next gets its turn. Says whether there may be more.
fn serve(shared: &Shared, confs: &Confs, door: &Door) -> bool {
    for _ in 0..TURN_MAX {
        let Some(datagram) = receive(&door.fd) else { return false };
        let counter = take(shared, confs, door, datagram);
        shared.count(counter);
    }
    true
}

/// A datagram on our port.
struct Datagram {
    bytes: [u8; frame::LEN + 1],
    length: usize,
    from: SockaddrStorage,
    hop_limit: Option<u32>,
    fragmented: bool,
    options: bool,
    received_ns: u64,
}

fn receive(fd: &OwnedFd) -> Option<Datagram> {
    let mut bytes = [0_u8; frame::LEN + 1];
    let mut vector = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let mut control = [0_u64; 32];
    // SAFETY: all zero is a valid socket address and a valid header.
    let (mut from, mut message): (libc::sockaddr_storage, libc::msghdr) = unsafe { std::mem::zeroed() };
    message.msg_name = (&raw mut from).cast();
    message.msg_namelen = size_of_val(&from) as libc::socklen_t;
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control) as _;
    // SAFETY: the header and all it points to live through the call.
    let length = unsafe { libc::recvmsg(fd.as_raw_fd(), &mut message, libc::MSG_DONTWAIT) };
    let received_ns = clock::now().0;
    if length < 0 {
        return None;
    }
    // SAFETY: the kernel wrote an address of `msg_namelen` bytes.
    let from = unsafe { SockaddrStorage::from_raw((&raw const from).cast(), Some(message.msg_namelen)) }?;
    let mut datagram = Datagram {
        bytes,
        length: length as usize,
        from,
        hop_limit: None,
        fragmented: false,
        // What was too long to be told is options: nothing else is.
        options: message.msg_flags & libc::MSG_CTRUNC != 0,
        received_ns,
    };
    // SAFETY: the kernel filled the control buffer and its length; the macros stay within.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(&message) };
    while !header.is_null() {
        // SAFETY: as above; each value is read unaligned with the type that the kernel writes for it.
        unsafe {
            let value = || libc::CMSG_DATA(header).cast::<i32>().read_unaligned();
            match ((*header).cmsg_level, (*header).cmsg_type) {
                (libc::IPPROTO_IP, libc::IP_TTL) | (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) => {
                    datagram.hop_limit = u32::try_from(value()).ok();
                }
                (libc::IPPROTO_IP, libc::IP_RECVFRAGSIZE) | (libc::IPPROTO_IPV6, libc::IPV6_RECVFRAGSIZE) => {
                    datagram.fragmented = value() > 0;
                }
                (libc::IPPROTO_IP, libc::IP_RECVOPTS) => {
                    datagram.options |= (*header).cmsg_len as usize > libc::CMSG_LEN(0) as usize;
                }
                (libc::IPPROTO_IPV6, libc::IPV6_HOPOPTS | libc::IPV6_DSTOPTS | libc::IPV6_RTHDR) => {
                    datagram.options = true;
                }
                _ => {}
            }
            header = libc::CMSG_NXTHDR(&message, header);
        }
    }
    Some(datagram)
}

/// Judges one datagram as XDP would judge its frame, and answers it.
fn take(shared: &Shared, confs: &Confs, door: &Door, datagram: Datagram) -> Counter {
    match judge(shared, confs, door, datagram) {
        Ok(counter) | Err(counter) => counter,
    }
}

fn judge(shared: &Shared, confs: &Confs, door: &Door, datagram: Datagram) -> Result<Counter, Counter> {
    let (peer, port) = peer_of(&datagram.from).ok_or(Counter::DropUnlisted)?;
    if datagram.options {
        return Err(Counter::DropLayer3);
    }
    if datagram.fragmented {
        return Err(Counter::DropFragment);
    }
    if datagram.length != frame::LEN {
        return Err(Counter::DropLength);
    }
    if port != frame::PORT {
        return Err(Counter::DropPort);
    }
    let path = *door.paths.get(&peer).ok_or(Counter::DropUnlisted)?;
    let conf = {
        let confs = confs.read().unwrap_or_else(PoisonError::into_inner);
        *confs.get(path as usize).ok_or(Counter::Internal)?
    };
    if datagram.hop_limit.unwrap_or(0) < conf.min_hop_limit {
        return Err(Counter::DropHopLimit);
    }
    let mut bytes = [0; frame::LEN];
    bytes.copy_from_slice(&datagram.bytes[..frame::LEN]);
    let mut frame = frame::from_bytes(&bytes);
    let good = match shared.peek_tick(path, |tick| exchange::authenticate(&frame, &conf, tick)) {
        Err(Counter::DropReserved) if fence::is_fence(&frame) => {
            return fenced(shared, path, &conf, &mut frame, datagram.received_ns, &door.fd, peer);
        }
        judged => judged?,
    };
    let page = shared.page();
    let outcome = shared
        .with_tick(path, |tick| {
            let outcome = exchange::record(&frame, &good, &conf, tick, page, datagram.received_ns);
            if let Ok(Outcome::Taken(_, round_trip)) = outcome {
                shared.count_round_trip(path, round_trip);
            }
            outcome
        })
        .ok_or(Counter::Contended)??;
    match outcome {
        Outcome::Taken(counter, _) => Ok(counter),
        Outcome::Answer(answer) => {
            let now = clock::now().0;
            let age = frame::age_since(shared.progress(), now);
            let hold_us = (now - datagram.received_ns.min(now)) / 1000;
            let (received, flags) = (datagram.received_ns, shared.flags());
            exchange::write_echo(&mut frame, &good, &conf, page, answer, received, age, hold_us, flags);
            debug_assert_eq!(frame[word::TAG_HIGH], 0);
            send(&door.fd, &frame::to_bytes(&frame), &port_of(peer));
            Ok(answer.counter)
        }
    }
}

/// Judges a fence or its acknowledgement as XDP would, and acknowledges.
fn fenced(
    shared: &Shared,
    path: u32,
    conf: &PathConf,
    frame: &mut [u64; frame::WORDS],
    received_ns: u64,
    fd: &OwnedFd,
    peer: IpAddr,
) -> Result<Counter, Counter> {
    let page = shared.page();
    let good = fence::authenticate(frame, conf, page)?;
    let recorded = shared.with_tick(path, |tick| fence::record(frame, &good, conf, tick, page, received_ns));
    let counter = recorded.ok_or(Counter::Contended)??;
    if matches!(counter, Counter::Fenced | Counter::FenceAcked) {
        fence::write_ack(frame, conf);
        send(fd, &frame::to_bytes(frame), &port_of(peer));
    }
    Ok(counter)
}

fn peer_of(from: &SockaddrStorage) -> Option<(IpAddr, u16)> {
    if let Some(v4) = from.as_sockaddr_in() {
        return Some((IpAddr::V4(v4.ip()), v4.port()));
    }
    from.as_sockaddr_in6().map(|v6| (IpAddr::V6(v6.ip()), v6.port()))
}

/// Sends an echo; one that the kernel refuses is lost, as on the wire.
fn send(fd: &OwnedFd, bytes: &[u8; frame::LEN], to: &SockaddrStorage) {
    // SAFETY: buffer and address live through the call, and their sizes are given.
    unsafe {
        libc::sendto(
            fd.as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            libc::MSG_DONTWAIT | libc::MSG_CONFIRM,
            to.as_ptr().cast(),
            to.len(),
        );
    }
}

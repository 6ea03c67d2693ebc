//! The datagram sockets that probes leave by, one for each local address, and by which the userspace responder
//! receives. It sets them up and sends batches; what is sent is its callers' business.

use anyhow::Context;
use heartbeat_common::frame::{self, Kind, PORT, word};
use nix::sys::socket::sockopt;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrIn6, SockaddrLike, SockaddrStorage, bind, setsockopt, socket,
};
use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// DSCP CS6, network control, as the type-of-service byte.
const CLASS: libc::c_int = 0xc0;
/// SO_PRIORITY of interactive traffic (TC_PRIO_INTERACTIVE): the highest that needs no capability.
const PRIORITY: libc::c_int = 6;
/// Longest frame that carries a heartbeat: Ethernet with one VLAN tag, IPv6, UDP.
const FRAME_MAX: usize = 14 + 4 + 40 + 8 + frame::LEN;

/// Returns the address of a heartbeat port.
#[must_use]
pub fn port_of(address: IpAddr) -> SockaddrStorage {
    match SocketAddr::new(address, PORT) {
        SocketAddr::V4(v4) => sockaddr(SockaddrIn::from(SocketAddrV4::new(*v4.ip(), v4.port()))),
        SocketAddr::V6(v6) => sockaddr(SockaddrIn6::from(SocketAddrV6::new(*v6.ip(), v6.port(), 0, 0))),
    }
}

fn sockaddr<S: SockaddrLike>(address: S) -> SockaddrStorage {
    // SAFETY: the pointer and the length are those of one live, typed address.
    unsafe { SockaddrStorage::from_raw(address.as_ptr(), Some(address.len())) }
        .expect("an IPv4 or IPv6 address is a socket address")
}

fn set(fd: &OwnedFd, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> std::io::Result<()> {
    // SAFETY: `value` lives through the call and its size is given.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// Opens the socket of a local address on its interface.
///
/// # Errors
/// If the address or the interface is not there, or the port is taken.
pub fn open(local: IpAddr, interface: &str) -> anyhow::Result<OwnedFd> {
    let family = if local.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(family, SockType::Datagram, flags, None).context("open a datagram socket")?;
    // The source of every probe is exactly this address on this interface, whatever else the host has.
    setsockopt(&fd, sockopt::BindToDevice, &interface.into()).with_context(|| format!("bind to {interface}"))?;
    set(&fd, libc::SOL_SOCKET, libc::SO_PRIORITY, PRIORITY).context("SO_PRIORITY")?;
    if local.is_ipv4() {
        set(&fd, libc::IPPROTO_IP, libc::IP_TTL, 255).context("IP_TTL")?;
        set(&fd, libc::IPPROTO_IP, libc::IP_TOS, CLASS).context("IP_TOS")?;
        set(&fd, libc::IPPROTO_IP, libc::IP_RECVTTL, 1).context("IP_RECVTTL")?;
        set(&fd, libc::IPPROTO_IP, libc::IP_RECVOPTS, 1).context("IP_RECVOPTS")?;
        // A heartbeat never comes in fragments; reassembled ones can be told by this alone.
        set(&fd, libc::IPPROTO_IP, libc::IP_RECVFRAGSIZE, 1).context("IP_RECVFRAGSIZE")?;
    } else {
        set(&fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1).context("IPV6_V6ONLY")?;
        set(&fd, libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, 255).context("IPV6_UNICAST_HOPS")?;
        set(&fd, libc::IPPROTO_IPV6, libc::IPV6_TCLASS, CLASS).context("IPV6_TCLASS")?;
        set(&fd, libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT, 1).context("IPV6_RECVHOPLIMIT")?;
        set(&fd, libc::IPPROTO_IPV6, libc::IPV6_RECVFRAGSIZE, 1).context("IPV6_RECVFRAGSIZE")?;
        // Nor with extension headers: each kind is told by its presence.
        set(&fd, libc::IPPROTO_IPV6, libc::IPV6_RECVHOPOPTS, 1).context("IPV6_RECVHOPOPTS")?;
        set(&fd, libc::IPPROTO_IPV6, libc::IPV6_RECVDSTOPTS, 1).context("IPV6_RECVDSTOPTS")?;
        set(&fd, libc::IPPROTO_IPV6, libc::IPV6_RECVRTHDR, 1).context("IPV6_RECVRTHDR")?;
    }
    let address = port_of(local);
    bind(fd.as_raw_fd(), &address).with_context(|| format!("bind UDP {local} port {PORT}"))?;
    Ok(fd)
}

/// Prepares a socket for departure reports by the error queue, where no egress program stamps departures. Only what
/// [`Batch::send`] asks a report for is reported: echoes that leave by the same socket are not.
///
/// # Errors
/// As setsockopt(2).
pub fn report_departures(fd: &OwnedFd) -> anyhow::Result<()> {
    let flags = libc::SOF_TIMESTAMPING_SOFTWARE;
    set(fd, libc::SOL_SOCKET, libc::SO_TIMESTAMPING, flags as libc::c_int).context("SO_TIMESTAMPING")
}

/// A probe of ours that reached the device's queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Departed {
    /// Where it goes.
    pub to: IpAddr,
    /// Its sequence.
    pub sequence: u64,
}

/// Reads one report from the error queue; `None` if there is none. `Some(None)` is a report of something else: the
/// caller asks again. The report is the frame itself, so that nothing need be counted to know whose it is: a refused
/// or parked datagram cannot shift what another report means.
#[must_use]
pub fn next_departure(fd: &OwnedFd) -> Option<Option<Departed>> {
    let mut frame = [0_u8; FRAME_MAX + 1];
    let mut control = [0_u64; 32];
    let mut vector = libc::iovec { iov_base: frame.as_mut_ptr().cast(), iov_len: frame.len() };
    // SAFETY: all zero is a valid msghdr.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control) as _;
    // SAFETY: the header and all it points to live through the call.
    let result = unsafe { libc::recvmsg(fd.as_raw_fd(), &mut message, libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT) };
    let length = usize::try_from(result).ok()?;
    let mut stamped = false;
    // SAFETY: the kernel filled the control buffer and its length.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(&message) };
    while !header.is_null() {
        // SAFETY: the macros stay within the control buffer; the error record is read unaligned.
        unsafe {
            let (level, kind) = ((*header).cmsg_level, (*header).cmsg_type);
            if (level == libc::IPPROTO_IP && kind == libc::IP_RECVERR)
                || (level == libc::IPPROTO_IPV6 && kind == libc::IPV6_RECVERR)
            {
                let error: libc::sock_extended_err =
                    libc::CMSG_DATA(header).cast::<libc::sock_extended_err>().read_unaligned();
                stamped |= error.ee_origin == libc::SO_EE_ORIGIN_TIMESTAMPING;
            }
            header = libc::CMSG_NXTHDR(&message, header);
        }
    }
    Some(if stamped { departed(&frame[..length.min(frame.len())]) } else { None })
}

/// Reads the probe from the frame that a report returns: IP without options, UDP and a heartbeat at its end, whatever
/// link header comes before.
fn departed(bytes: &[u8]) -> Option<Departed> {
    const UDP: usize = 8;
    let (headers, payload) = bytes.split_last_chunk::<{ frame::LEN }>()?;
    let ip = headers.len().checked_sub(UDP)?;
    let port = u16::from_be_bytes([headers[ip], headers[ip + 1]]);
    let words = frame::from_bytes(payload);
    if port != PORT || (words[word::DYNAMIC] >> 48) & frame::KIND_MASK != Kind::Probe as u64 {
        return None;
    }
    let version = |back: usize| ip.checked_sub(back).map(|at| headers[at]);
    let to = if version(20) == Some(0x45) {
        IpAddr::from(*headers[..ip].last_chunk::<4>()?)
    } else if version(40).is_some_and(|first| first >> 4 == 6) {
        IpAddr::from(*headers[..ip].last_chunk::<16>()?)
    } else {
        return None;
    };
    Some(Departed { to, sequence: words[word::SEQUENCE] })
}

/// The control message that asks for one datagram's report.
#[repr(C)]
#[derive(Clone, Copy)]
struct Ask {
    header: libc::cmsghdr,
    flags: u32,
    zero: u32,
}

/// Frames to be sent in one call, in memory that is made once.
pub struct Batch {
    frames: Vec<[u8; frame::LEN]>,
    addresses: Vec<SockaddrStorage>,
    vectors: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
    taken: Vec<bool>,
    ask: Box<Ask>,
    length: usize,
}

// SAFETY: the pointers within point into the same value's own heap memory and are set anew before each use.
unsafe impl Send for Batch {}

impl Batch {
    /// Makes room for `capacity` frames.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let empty = port_of(IpAddr::from([0, 0, 0, 0]));
        // SAFETY: all zero is a valid cmsghdr.
        let mut header: libc::cmsghdr = unsafe { std::mem::zeroed() };
        // SAFETY: arithmetic alone.
        header.cmsg_len = unsafe { libc::CMSG_LEN(size_of::<u32>() as libc::c_uint) } as _;
        header.cmsg_level = libc::SOL_SOCKET;
        header.cmsg_type = libc::SO_TIMESTAMPING;
        Self {
            frames: vec![[0; frame::LEN]; capacity],
            addresses: vec![empty; capacity],
            vectors: vec![libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; capacity],
            // SAFETY: all zero is a valid mmsghdr.
            headers: vec![unsafe { std::mem::zeroed() }; capacity],
            taken: vec![false; capacity],
            ask: Box::new(Ask { header, flags: libc::SOF_TIMESTAMPING_TX_SCHED, zero: 0 }),
            length: 0,
        }
    }

    /// Empties the batch.
    pub fn clear(&mut self) {
        self.length = 0;
    }

    /// Says whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Says, for each frame in the order of adding, whether the kernel took it when the batch was last sent.
    #[must_use]
    pub fn taken(&self) -> &[bool] {
        &self.taken[..self.length]
    }

    /// Adds a frame. A full batch takes no more; it was made for every path.
    pub fn push(&mut self, frame: &[u64; frame::WORDS], to: &SockaddrStorage) {
        if let (Some(bytes), Some(address)) = (self.frames.get_mut(self.length), self.addresses.get_mut(self.length)) {
            *bytes = frame::to_bytes(frame);
            *address = *to;
            self.taken[self.length] = false;
            self.length += 1;
        }
    }

    /// Hands every frame to the kernel. One that is refused is skipped; returns how many were, and the last error.
    /// With `report`, each frame's departure is to be reported: see [`report_departures`].
    pub fn send(&mut self, fd: &OwnedFd, flags: libc::c_int, report: bool) -> (usize, Option<std::io::Error>) {
        for index in 0..self.length {
            self.vectors[index] = libc::iovec { iov_base: self.frames[index].as_mut_ptr().cast(), iov_len: frame::LEN };
            let header = &mut self.headers[index].msg_hdr;
            header.msg_name = self.addresses[index].as_ptr().cast_mut().cast();
            header.msg_namelen = self.addresses[index].len();
            header.msg_iov = &raw mut self.vectors[index];
            header.msg_iovlen = 1;
            let (control, length) =
                if report { ((&raw mut *self.ask).cast(), size_of::<Ask>()) } else { (std::ptr::null_mut(), 0) };
            header.msg_control = control;
            header.msg_controllen = length as _;
        }
        let (mut sent, mut refused, mut last) = (0, 0, None);
        while sent < self.length {
            // SAFETY: the headers from `sent` on, and all they point to, live through the call.
            let result = unsafe {
                libc::sendmmsg(
                    fd.as_fd().as_raw_fd(),
                    self.headers.as_mut_ptr().add(sent),
                    (self.length - sent) as libc::c_uint,
                    flags | libc::MSG_DONTWAIT,
                )
            };
            if result > 0 {
                let before = sent;
                sent += result as usize;
                self.taken[before..sent].fill(true);
            } else {
                last = Some(std::io::Error::last_os_error());
                refused += 1;
                sent += 1;
            }
        }
        (refused, last)
    }
}

#[cfg(test)]
mod tests;

//! The datagram sockets that probes leave by, one for each local address, and by which the userspace responder
//! receives. It sets them up and sends batches; what is sent is its callers' business.

use anyhow::Context;
use heartbeat_common::frame::{self, PORT};
use nix::sys::socket::sockopt;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrIn6, SockaddrLike, SockaddrStorage, bind, setsockopt, socket,
};
use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// DSCP CS6, network control, as the type-of-service byte.
const CLASS: libc::c_int = 0xc0;
/// SO_PRIORITY of network control traffic (TC_PRIO_CONTROL).
const PRIORITY: libc::c_int = 7;

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
    }
    let address = port_of(local);
    bind(fd.as_raw_fd(), &address).with_context(|| format!("bind UDP {local} port {PORT}"))?;
    Ok(fd)
}

/// Asks the kernel to report each datagram's way to the device by the error queue: where no egress program stamps
/// departures.
///
/// # Errors
/// As setsockopt(2).
pub fn report_departures(fd: &OwnedFd) -> anyhow::Result<()> {
    let flags = libc::SOF_TIMESTAMPING_TX_SCHED
        | libc::SOF_TIMESTAMPING_SOFTWARE
        | libc::SOF_TIMESTAMPING_OPT_ID
        | libc::SOF_TIMESTAMPING_OPT_TSONLY;
    // Switching the numbering off and on starts it again from 0: after a refused send nobody knows whether the kernel
    // counted that datagram.
    set(fd, libc::SOL_SOCKET, libc::SO_TIMESTAMPING, 0).context("SO_TIMESTAMPING")?;
    set(fd, libc::SOL_SOCKET, libc::SO_TIMESTAMPING, flags as libc::c_int).context("SO_TIMESTAMPING")
}

/// Reads one departure report: the index of the datagram among all that this socket sent.
#[must_use]
pub fn next_departure(fd: &OwnedFd) -> Option<u32> {
    let mut control = [0_u64; 32];
    // SAFETY: all zero is a valid msghdr.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control) as _;
    // SAFETY: the header and the control buffer live through the call.
    let result = unsafe { libc::recvmsg(fd.as_raw_fd(), &mut message, libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT) };
    if result < 0 {
        return None;
    }
    let mut found = None;
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
                if error.ee_origin == libc::SO_EE_ORIGIN_TIMESTAMPING {
                    found = Some(error.ee_data);
                }
            }
            header = libc::CMSG_NXTHDR(&message, header);
        }
    }
    // A report of something else (an ICMP error) carries no index: the caller asks again.
    Some(found.unwrap_or(u32::MAX))
}

/// Frames to be sent in one call, in memory that is made once.
pub struct Batch {
    frames: Vec<[u8; frame::LEN]>,
    addresses: Vec<SockaddrStorage>,
    vectors: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
    length: usize,
}

// SAFETY: the pointers within point into the same value's own heap memory and are set anew before each use.
unsafe impl Send for Batch {}

impl Batch {
    /// Makes room for `capacity` frames.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let empty = port_of(IpAddr::from([0, 0, 0, 0]));
        Self {
            frames: vec![[0; frame::LEN]; capacity],
            addresses: vec![empty; capacity],
            vectors: vec![libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; capacity],
            // SAFETY: all zero is a valid mmsghdr.
            headers: vec![unsafe { std::mem::zeroed() }; capacity],
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

    /// Adds a frame. A full batch takes no more; it was made for every path.
    pub fn push(&mut self, frame: &[u64; frame::WORDS], to: &SockaddrStorage) {
        if let (Some(bytes), Some(address)) = (self.frames.get_mut(self.length), self.addresses.get_mut(self.length)) {
            *bytes = frame::to_bytes(frame);
            *address = *to;
            self.length += 1;
        }
    }

    /// Hands every frame to the kernel. One that is refused is skipped; returns how many were, and the last error.
    pub fn send(&mut self, fd: &OwnedFd, flags: libc::c_int) -> (usize, Option<std::io::Error>) {
        for index in 0..self.length {
            self.vectors[index] = libc::iovec { iov_base: self.frames[index].as_mut_ptr().cast(), iov_len: frame::LEN };
            let header = &mut self.headers[index].msg_hdr;
            header.msg_name = self.addresses[index].as_ptr().cast_mut().cast();
            header.msg_namelen = self.addresses[index].len();
            header.msg_iov = &raw mut self.vectors[index];
            header.msg_iovlen = 1;
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
                sent += result as usize;
            } else {
                last = Some(std::io::Error::last_os_error());
                refused += 1;
                sent += 1;
            }
        }
        (refused, last)
    }
}

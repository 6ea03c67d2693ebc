//! The clsact queue of a device over netlink: which filters hang on it, and its removal. It adds nothing and keeps no
//! state.

use crate::io::sys;
use anyhow::{Context, bail};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};
use std::io::Error;
use std::os::fd::AsRawFd;

/// `TC_H_CLSACT`, and the two sides in its lower half, from linux/pkt_sched.h.
const CLSACT: u32 = 0xffff_fff1;
const CLSACT_HANDLE: u32 = 0xffff_0000;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_ID: u16 = 11;
/// Bytes of nlmsghdr, and of tcmsg behind it.
const HEADER: usize = 16;
const TCMSG: usize = 20;

/// A side of the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Side {
    /// What comes in.
    Ingress = 0xffff_fff2,
    /// What goes out.
    Egress = 0xffff_fff3,
}

/// A filter on one side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Id of its BPF program; `None`: it is of another kind, or the head of a list.
    pub program: Option<u32>,
}

/// Returns the filters of a device on one side; none where there is no such queue.
///
/// # Errors
/// If the kernel does not answer the netlink request.
pub fn filters(ifindex: u32, side: Side) -> anyhow::Result<Vec<Filter>> {
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
    let messages = ask(libc::RTM_GETTFILTER, flags, ifindex, 0, side as u32).context("RTM_GETTFILTER")?;
    let found = messages.iter().filter(|(kind, _)| *kind == libc::RTM_NEWTFILTER);
    Ok(found.map(|(_, body)| Filter { program: program_of(body) }).collect())
}

fn program_of(body: &[u8]) -> Option<u32> {
    let options = sys::attribute(body.get(TCMSG..)?, TCA_OPTIONS)?;
    let id = sys::attribute(options, TCA_BPF_ID)?;
    Some(u32::from_ne_bytes(id.get(..4)?.try_into().ok()?))
}

/// Removes the queue of a device, and whatever hangs on it. One that is not there is fine.
///
/// # Errors
/// If the kernel refuses.
pub fn remove_clsact(ifindex: u32) -> anyhow::Result<()> {
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
    match ask(libc::RTM_DELQDISC, flags, ifindex, CLSACT_HANDLE, CLSACT) {
        Err(error) if error.downcast_ref::<Error>().and_then(Error::raw_os_error).is_some_and(is_absence) => Ok(()),
        other => other.context("RTM_DELQDISC").map(drop),
    }
}

/// What the kernel says of a queue that is not there (it depends on what else the device has), or of no such device.
const fn is_absence(code: i32) -> bool {
    matches!(code, libc::EINVAL | libc::ENOENT | libc::ENODEV)
}

/// Sends one request with a tcmsg, and returns (type, body) of each answer up to the end of them.
fn ask(kind: u16, flags: u16, ifindex: u32, handle: u32, parent: u32) -> anyhow::Result<Vec<(u16, Vec<u8>)>> {
    let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    let mut request = Vec::with_capacity(HEADER + TCMSG);
    request.extend(((HEADER + TCMSG) as u32).to_ne_bytes());
    request.extend(kind.to_ne_bytes());
    request.extend(flags.to_ne_bytes());
    request.extend(1_u32.to_ne_bytes());
    request.extend(0_u32.to_ne_bytes());
    // tcmsg: family and padding, device, handle, parent, info.
    for word in [0, ifindex, handle, parent, 0] {
        request.extend(word.to_ne_bytes());
    }
    send(fd.as_raw_fd(), &request, MsgFlags::empty())?;
    let mut answers = Vec::new();
    let mut buffer = vec![0; 32 * 1024];
    loop {
        let length = recv(fd.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let mut rest = &buffer[..length];
        while let Some(head) = rest.get(..HEADER) {
            let word = |at: usize| u32::from_ne_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
            let kind = u16::from_ne_bytes([head[4], head[5]]);
            let Some(body) = rest.get(HEADER..word(0) as usize) else { bail!("a netlink message cut short") };
            match i32::from(kind) {
                libc::NLMSG_DONE => return Ok(answers),
                libc::NLMSG_ERROR => {
                    let code = body.get(..4).map_or(0, |code| i32::from_ne_bytes([code[0], code[1], code[2], code[3]]));
                    return if code == 0 { Ok(answers) } else { Err(Error::from_raw_os_error(-code).into()) };
                }
                _ => answers.push((kind, body.to_vec())),
            }
            rest = rest.get((word(0) as usize).next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

//! Tells heartbeatd, before anything is held on to, that something will be: a node on which something holds on to the
//! lease does not stop the moment that its kernel obeys a fence, and must not claim to. It holds nothing itself.

use super::Places;
use super::open::believed;
use nix::sys::socket::MsgFlags;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, recv, setsockopt, socket, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;

/// Name of the socket, beside the lease's, that a holder connects to.
pub const HOLD_SOCKET: &str = "hold.sock";
/// Name of the file there by which heartbeatd says that it claims nothing any more, and never will beside it.
pub const HELD: &str = "held";
/// How long heartbeatd may take to answer, ms; its word is asked for again.
const PATIENCE_MS: i64 = 1_000;

/// Says whether heartbeatd knows of holders, or did when it last ran.
#[must_use]
pub fn is_noted(places: &Places) -> bool {
    let mark = places.socket.with_file_name(HELD);
    // Whoever could put it there could as well hand out another page.
    std::fs::symlink_metadata(mark).is_ok_and(|found| found.is_file() && believed(found.uid(), places.owner))
}

/// Has heartbeatd take note of a holder. It waits for an answer, for a second at most; whether it came is seen by
/// [`is_noted`] alone.
pub fn note(places: &Places) {
    let ask = || -> nix::Result<()> {
        let stream = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        setsockopt(&stream, sockopt::SendTimeout, &TimeVal::milliseconds(PATIENCE_MS))?;
        setsockopt(&stream, sockopt::ReceiveTimeout, &TimeVal::milliseconds(PATIENCE_MS))?;
        connect(stream.as_raw_fd(), &UnixAddr::new(&places.socket.with_file_name(HOLD_SOCKET))?)?;
        recv(stream.as_raw_fd(), &mut [0], MsgFlags::empty()).map(drop)
    };
    // Nobody listens, or does not answer: the next question is the next chance.
    let _ = ask();
}

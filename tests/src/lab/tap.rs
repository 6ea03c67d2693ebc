//! A tap on what a node sends: which fences left by its devices, and when, by the kernel's own stamps. It holds up no frame
//! and answers none.

use super::relay::raw_socket_at;
use super::{Lab, monotonic_ns};
use anyhow::{Context, Result, ensure};
use heartbeat_common::fence::words;
use heartbeat_common::frame::{self, Kind, word};
use nix::errno::Errno;
use nix::sys::socket::sockopt::ReceiveTimestampns;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};
use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, OwnedFd};

/// The wall clock may have moved so far against CLOCK_MONOTONIC while a tap listened, ns: more is a setting of it.
const STEP_NS: u64 = 100_000;

/// A tap on one node.
#[derive(Debug)]
pub struct Tap {
    socket: OwnedFd,
    /// What the wall clock was ahead of CLOCK_MONOTONIC as it began to listen, ns.
    ahead_ns: u64,
}

impl Tap {
    /// Begins to listen on all devices of a node. Stamps are sure a little later: the kernel begins to make them then.
    ///
    /// # Errors
    /// If the kernel refuses the socket.
    pub fn new(lab: &Lab, node: usize) -> Result<Self> {
        let socket = lab.node(node).enter(|| raw_socket_at(0, false))??;
        setsockopt(&socket, ReceiveTimestampns, &true).context("the kernel's stamps")?;
        Ok(Self { socket, ahead_ns: ahead()? })
    }

    /// Forgets what has left until now.
    ///
    /// # Errors
    /// If the socket cannot be read.
    pub fn forget(&mut self) -> Result<()> {
        while self.next()?.is_some() {}
        self.ahead_ns = ahead()?;
        Ok(())
    }

    /// Returns when fences of this incarnation left since, CLOCK_MONOTONIC ns.
    ///
    /// # Errors
    /// If the socket cannot be read, a frame has no stamp, or the wall clock, by which the kernel stamps, was set.
    pub fn fences(&self, victim: u64) -> Result<Vec<u64>> {
        let mut left = Vec::new();
        while let Some((stamp, frame)) = self.next()? {
            if fence_of(&frame) == Some(victim) {
                left.push(stamp.context("a frame without a stamp")?.saturating_sub(self.ahead_ns));
            }
        }
        let moved = ahead()?.abs_diff(self.ahead_ns);
        ensure!(moved < STEP_NS, "the wall clock was set by {moved} ns");
        Ok(left)
    }

    /// Returns the next frame and its stamp by the wall clock, ns.
    fn next(&self) -> Result<Option<(Option<u64>, Vec<u8>)>> {
        let mut frame = [0; 256];
        let mut control = nix::cmsg_space!(TimeSpec);
        let mut parts = [IoSliceMut::new(&mut frame)];
        let got = recvmsg::<()>(self.socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::MSG_DONTWAIT);
        let (length, stamp) = match got {
            Err(Errno::EAGAIN) => return Ok(None),
            Err(error) => return Err(error).context("reading a tap"),
            Ok(message) => {
                let stamp = message.cmsgs()?.find_map(|part| match part {
                    ControlMessageOwned::ScmTimestampns(at) => Some(nanos(at)),
                    _ => None,
                });
                (message.bytes, stamp)
            }
        };
        Ok(Some((stamp, frame[..length.min(frame.len())].to_vec())))
    }
}

fn nanos(time: TimeSpec) -> u64 {
    time.tv_sec().unsigned_abs() * 1_000_000_000 + time.tv_nsec().unsigned_abs()
}

/// What the wall clock is ahead of CLOCK_MONOTONIC, ns: of several readings the one that took the shortest.
fn ahead() -> Result<u64> {
    let read = || -> Result<(u64, u64)> {
        let before = monotonic_ns();
        let wall = nanos(clock_gettime(ClockId::CLOCK_REALTIME).context("the wall clock")?);
        let after = monotonic_ns();
        Ok((after - before, wall.saturating_sub(before.midpoint(after))))
    };
    let readings = (0..5).map(|_| read()).collect::<Result<Vec<_>>>()?;
    readings.into_iter().min().map(|(_, ahead)| ahead).context("a reading of the clocks")
}

/// The incarnation that a frame orders to stop; `None`: it is no fence. Untagged frames alone, IPv4 without options or IPv6
/// without extension headers: others are not sent.
fn fence_of(bytes: &[u8]) -> Option<u64> {
    let header = match bytes.get(12..15)? {
        [0x08, 0x00, 0x45] if bytes.get(23) == Some(&17) => 34,
        [0x86, 0xdd, _] if bytes.get(20) == Some(&17) => 54,
        _ => return None,
    };
    let port = bytes.get(header + 2..header + 4)?;
    let word = |index: usize| -> Option<u64> {
        let at = header + 8 + index * 8;
        Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
    };
    let fence = word(word::DYNAMIC)? >> 48 & 0b11 == Kind::Fence as u64;
    (port == frame::PORT.to_be_bytes() && fence).then_some(word(words::VICTIM)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame of this kind for incarnation 7.
    fn frame_of(kind: Kind, six: bool) -> Vec<u8> {
        let header = if six { 54 } else { 34 };
        let mut bytes = vec![0; header + 8 + frame::LEN];
        if six {
            (bytes[12], bytes[13], bytes[14], bytes[20]) = (0x86, 0xdd, 0x60, 17);
        } else {
            (bytes[12], bytes[13], bytes[14], bytes[23]) = (0x08, 0x00, 0x45, 17);
        }
        bytes[header + 2..header + 4].copy_from_slice(&frame::PORT.to_be_bytes());
        let mut put = |index: usize, value: u64| {
            let at = header + 8 + index * 8;
            bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        };
        put(word::DYNAMIC, frame::dynamic(kind, 0, 0, 0));
        put(words::VICTIM, 7);
        bytes
    }

    #[test]
    fn a_fence_is_told_from_all_else_and_names_its_victim() {
        assert_eq!(
            (fence_of(&frame_of(Kind::Fence, false)), fence_of(&frame_of(Kind::Fence, true))),
            (Some(7), Some(7))
        );
        assert_eq!((fence_of(&frame_of(Kind::Probe, false)), fence_of(&frame_of(Kind::FenceAck, true))), (None, None));
        let mut other = frame_of(Kind::Fence, false);
        other[37] ^= 1;
        assert_eq!(fence_of(&other), None, "another port");
        assert_eq!(fence_of(&other[..60]), None, "a short one");
    }

    #[test]
    fn the_clocks_are_compared_closely() {
        let (one, other) = (ahead().unwrap(), ahead().unwrap());
        assert!(one.abs_diff(other) < STEP_NS, "{one} {other}");
    }
}

//! A prober without a daemon: it signs probes as a node of the cluster, stamps departure and arrival itself, and
//! matches echoes to probes. It takes part in nothing else, and believes an echo by its sender and sequence alone.
//!
//! Its stamps are taken in userspace, under SCHED_FIFO, on its own CPU: what its own wake-up costs is in every round
//! trip, idle and starved alike.

use crate::lab::awake::hold;
use crate::lab::{Cluster, Lab, Port, monotonic_ns};
use anyhow::{Context as _, Result, ensure};
use heartbeat_common::frame::{self, word};
use heartbeat_user::io::realtime;
use heartbeat_user::keys::{Keys, PathSpec, ProbeSigner};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::{TimeSpec, TimeValLike};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

/// CPU that probers and daemons that must run are held to; the other one is starved.
pub const CPU: usize = 0;
/// SCHED_FIFO priority of the prober.
const PRIORITY: u8 = 60;
/// How long an answer is waited for after the last probe.
const GRACE: Duration = Duration::from_millis(200);

/// Somebody who is probed.
struct Target {
    address: SocketAddr,
    signer: ProbeSigner,
    incarnation: u64,
    stamp: u64,
}

/// The prober.
pub struct Prober {
    socket: UdpSocket,
    targets: Vec<Target>,
    sequence: u64,
}

/// The round trips of one target, ns, in order of sending; `None`: not answered in time.
pub type Trips = Vec<Option<u64>>;

/// What came in.
struct Answer {
    target: usize,
    sequence: u64,
    at: u64,
}

impl Prober {
    /// Makes a prober that stands for node `own` (which runs no daemon) and probes `peers` on the first network.
    ///
    /// # Errors
    /// Fails when the key file is not there yet, or the port is taken.
    pub fn new(lab: &Lab, cluster: &Cluster, own: usize, peers: &[usize]) -> Result<Self> {
        let ring = Keys::load(&cluster.key_file)?.ring(u64::from_str_radix(&cluster.id, 16)?);
        let ipv4 = |node| IpAddr::V4(lab.ipv4(Port { node, network: 0 }));
        let local = ipv4(own);
        let socket = lab.node(own).enter(|| UdpSocket::bind((local, frame::PORT)))?.context("the prober's socket")?;
        socket.set_nonblocking(true)?;
        socket.set_ttl(255)?;
        let target = |peer: &usize| {
            let spec = PathSpec {
                network: 1,
                own: own as u16 + 1,
                peer: *peer as u16 + 1,
                local,
                remote: ipv4(*peer),
                vlan: 0,
                answer_within: Duration::from_secs(1),
                min_hop_limit: 255,
            };
            let mut standing = [0; frame::STANDING_WORDS];
            (standing[0], standing[1]) = (1, frame::identity(1, 0));
            let signer = ProbeSigner::new(&ring, &spec, &standing);
            Target { address: (spec.remote, frame::PORT).into(), signer, incarnation: 0, stamp: 0 }
        };
        let targets = peers.iter().map(target).collect();
        Ok(Self { socket, targets, sequence: (monotonic_ns() / 1000) << 1 })
    }

    /// Puts the calling thread where a prober runs.
    ///
    /// # Errors
    /// Fails when the kernel refuses SCHED_FIFO or the CPU.
    pub fn settle_thread() -> Result<()> {
        hold(CPU)?;
        realtime::no_timer_slack();
        realtime::fifo(PRIORITY).context("SCHED_FIFO for the prober")
    }

    /// Probes until every target has told its incarnation.
    ///
    /// # Errors
    /// Fails when one has not within five seconds.
    pub fn meet(&mut self) -> Result<()> {
        let end = monotonic_ns() + 5_000_000_000;
        while self.targets.iter().any(|target| target.incarnation == 0) {
            ensure!(monotonic_ns() < end, "a target does not answer the prober");
            self.sequence += 2;
            for target in 0..self.targets.len() {
                self.send(target, self.sequence);
            }
            self.wait(monotonic_ns() + 20_000_000, &mut |_| {})?;
        }
        Ok(())
    }

    /// Probes every target once a `period` for `length`, evenly staggered, until `stop` says so.
    ///
    /// # Errors
    /// Fails when the socket does.
    pub fn run(&mut self, period: Duration, length: Duration, stop: &dyn Fn() -> bool) -> Result<Vec<Trips>> {
        let (targets, period) = (self.targets.len(), period.as_nanos() as u64);
        let rounds = (length.as_nanos() as u64 / period).max(1);
        let base = self.sequence + 2;
        let mut sent: Vec<Vec<u64>> = vec![Vec::with_capacity(rounds as usize); targets];
        let mut trips: Vec<Trips> = vec![Vec::with_capacity(rounds as usize); targets];
        let take = |answer: &Answer, sent: &[Vec<u64>], trips: &mut [Trips]| {
            let Some(index) = answer.sequence.checked_sub(base).map(|above| (above / 2) as usize) else { return };
            if let (Some(left), Some(trip)) = (sent[answer.target].get(index), trips[answer.target].get_mut(index)) {
                *trip = trip.or(Some(answer.at.saturating_sub(*left)));
            }
        };
        let start = monotonic_ns() + 1_000_000;
        for round in 0..rounds {
            if stop() {
                break;
            }
            self.sequence += 2;
            for target in 0..targets {
                let due = start + round * period + target as u64 * period / targets as u64;
                self.wait(due, &mut |answer| take(&answer, &sent, &mut trips))?;
                sent[target].push(self.send(target, self.sequence));
                trips[target].push(None);
                self.drain(&mut |answer| take(&answer, &sent, &mut trips))?;
            }
        }
        self.wait(monotonic_ns() + GRACE.as_nanos() as u64, &mut |answer| take(&answer, &sent, &mut trips))?;
        Ok(trips)
    }

    /// Sends one probe; returns its departure. A probe that the kernel refuses is lost, as on the wire.
    fn send(&self, target: usize, sequence: u64) -> u64 {
        let target = &self.targets[target];
        let now = monotonic_ns();
        let words = target.signer.probe(sequence, now, target.incarnation, target.stamp, 0, 0);
        let bytes = frame::to_bytes(&words);
        let to = nix::sys::socket::SockaddrStorage::from(target.address);
        let left = monotonic_ns();
        // Echoes never confirm the neighbour: the flag does, as the daemon's own sends do.
        let flags = nix::sys::socket::MsgFlags::from_bits_retain(libc::MSG_CONFIRM);
        let _ = nix::sys::socket::sendto(self.socket.as_raw_fd(), &bytes, &to, flags);
        left
    }

    fn wait(&mut self, until: u64, take: &mut dyn FnMut(Answer)) -> Result<()> {
        loop {
            let now = monotonic_ns();
            if now >= until {
                return self.drain(take);
            }
            let timeout = TimeSpec::nanoseconds((until - now) as i64);
            let ready = ppoll(&mut [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)], Some(timeout), None);
            if ready.is_ok_and(|ready| ready > 0) {
                self.drain(take)?;
            }
        }
    }

    fn drain(&mut self, take: &mut dyn FnMut(Answer)) -> Result<()> {
        let mut bytes = [0; frame::LEN];
        while let Ok((length, from)) = self.socket.recv_from(&mut bytes) {
            let at = monotonic_ns();
            let words = frame::from_bytes(&bytes);
            let echo = u64::from(frame::flags(words[word::DYNAMIC])) & frame::KIND_MASK == frame::Kind::Echo as u64;
            let Some(target) = self.targets.iter().position(|target| target.address == from) else { continue };
            if length != frame::LEN || !echo {
                continue;
            }
            let peer = &mut self.targets[target];
            peer.stamp = words[word::STAMP];
            if peer.incarnation != words[word::STANDING] {
                peer.incarnation = words[word::STANDING];
                peer.signer.expect_peer(peer.incarnation);
            }
            take(Answer { target, sequence: words[word::SEQUENCE], at });
        }
        Ok(())
    }
}

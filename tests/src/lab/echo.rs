//! A plain UDP echo in a node and a client that counts what comes back: the yardstick by which every fault of the lab
//! is itself proven. It knows nothing of heartbeats.

use super::{Lab, Port, monotonic_ns};
use anyhow::{Context, Result, ensure};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// UDP port of every echo.
pub const ECHO_PORT: u16 = 7007;
/// Least payload: a number and a send time.
pub const PAYLOAD_MIN: usize = 16;

/// One answer to one datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Which datagram it answers, counted from 0.
    pub number: u64,
    /// Time from sending to receiving.
    pub round_trip: Duration,
}

/// An echo in one node; dropping it ends it.
#[derive(Debug)]
pub struct Echo {
    address: SocketAddr,
    received: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    /// Starts an echo at one address of a node: IPv6 if `six`, else IPv4.
    ///
    /// # Errors
    /// Fails when the address is not there.
    pub fn start(lab: &Lab, port: Port, six: bool) -> Result<Self> {
        let address = SocketAddr::new(address(lab, port, six), ECHO_PORT);
        let socket = lab.node(port.node).enter(|| UdpSocket::bind(address))?.context("binding the echo")?;
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        let received = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let (count, ended) = (Arc::clone(&received), Arc::clone(&stop));
        let answer = move || {
            let mut buffer = [0; 16 * 1024];
            while !ended.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    count.fetch_add(1, Ordering::Relaxed);
                    // An answer that cannot be sent is an answer that does not come: the client counts it.
                    let _ = socket.send_to(&buffer[..length], from);
                }
            }
        };
        let thread = std::thread::Builder::new().name("lab-echo".to_owned()).spawn(answer)?;
        Ok(Self { address, received, stop, thread: Some(thread) })
    }

    /// How many datagrams it has received.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Sends `count` datagrams of `payload` bytes from `node`, `gap` apart, and returns the answers in the order in
    /// which they came, until `patience` has passed since the last was sent.
    ///
    /// # Errors
    /// Fails when the node cannot send at all, or `payload` is below [`PAYLOAD_MIN`].
    pub fn ask(&self, lab: &Lab, node: usize, count: u64, gap: Duration, payload: usize) -> Result<Vec<Answer>> {
        self.ask_patiently(lab, node, count, gap, payload, Duration::from_millis(150))
    }

    /// As [`Echo::ask`], waiting `patience` after the last datagram.
    ///
    /// # Errors
    /// As [`Echo::ask`].
    pub fn ask_patiently(
        &self,
        lab: &Lab,
        node: usize,
        count: u64,
        gap: Duration,
        payload: usize,
        patience: Duration,
    ) -> Result<Vec<Answer>> {
        ensure!(payload >= PAYLOAD_MIN, "a payload has at least {PAYLOAD_MIN} bytes");
        let any: IpAddr = if self.address.is_ipv6() { [0u16; 8].into() } else { [0u8; 4].into() };
        let socket = lab.node(node).enter(|| UdpSocket::bind((any, 0)))?.context("binding the client")?;
        let mut answers = Vec::new();
        let mut datagram = vec![0; payload];
        let start = Instant::now();
        for number in 0..count {
            datagram[..8].copy_from_slice(&number.to_le_bytes());
            datagram[8..16].copy_from_slice(&monotonic_ns().to_le_bytes());
            // A cut wire may refuse a datagram (no neighbour): it is lost like any other.
            let _ = socket.send_to(&datagram, self.address);
            collect(&socket, start + gap * (number as u32 + 1), &mut answers)?;
        }
        collect(&socket, Instant::now() + patience, &mut answers)?;
        Ok(answers)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn address(lab: &Lab, port: Port, six: bool) -> IpAddr {
    if six { IpAddr::V6(lab.ipv6(port)) } else { IpAddr::V4(lab.ipv4(port)) }
}

fn collect(socket: &UdpSocket, until: Instant, answers: &mut Vec<Answer>) -> Result<()> {
    let mut buffer = [0; 16 * 1024];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        socket.set_read_timeout(Some(left)).context("the client's timeout")?;
        let Ok(length) = socket.recv(&mut buffer) else { continue };
        let word = |index: usize| buffer[index..index + 8].try_into().map(u64::from_le_bytes);
        if length >= PAYLOAD_MIN
            && let (Ok(number), Ok(sent)) = (word(0), word(8))
        {
            answers.push(Answer { number, round_trip: Duration::from_nanos(monotonic_ns().saturating_sub(sent)) });
        }
    }
}

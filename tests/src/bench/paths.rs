//! CPU and memory of 128 paths at 10 ms: the daemon, and by turns a bare sendmmsg loop of the same frames from the same
//! node while the pinned program goes on taking the echoes. So the difference is the daemon's own work.

use super::death::wait_up;
use super::stats;
use super::{Bar, Context, Figure, Found};
use crate::lab::{Cluster, Daemon, Lab, Options, Port, Spec, monotonic_ns};
use anyhow::{Context as _, Result, ensure};
use heartbeat_common::frame::{self, word};
use heartbeat_user::io::{realtime, socket};
use heartbeat_user::keys::{Keys, PathSpec, ProbeSigner};
use nix::time::{ClockId, ClockNanosleepFlags, clock_nanosleep};
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::fs;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

const ADDRESSES: usize = 8;
const NETWORKS: usize = 2;
const PATHS: usize = NETWORKS * ADDRESSES * ADDRESSES;
const PERIOD: Duration = Duration::from_millis(10);
/// One measurement of the daemon or of the bare loop: short, so that what else the machine has to do falls on both alike,
/// and the median of many tells.
const TURN: Duration = Duration::from_secs(5);
/// For so long one more daemon runs after the last turn: its size is that of one that has settled.
const SETTLE: Duration = Duration::from_secs(30);

/// One turn.
#[derive(Debug, Serialize, Deserialize)]
struct Turn {
    /// CPU of the daemon, percent of one.
    daemon: f64,
    /// Of the bare loop.
    bare: f64,
}

/// All of it.
#[derive(Debug, Serialize, Deserialize)]
struct Measured {
    turns: Vec<Turn>,
    rss_kib: f64,
    peak_kib: f64,
}

/// CPU time of a thread (`/proc/<pid>/task/<tid>`), ns.
fn thread_time(directory: &str) -> Result<u64> {
    let text = fs::read_to_string(format!("{directory}/schedstat")).context(directory.to_owned())?;
    text.split(' ').next().and_then(|first| first.parse().ok()).context("a thread's schedstat")
}

/// CPU time of a process, ns.
fn process_time(pid: u32) -> Result<u64> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))?;
    tasks.map(|task| thread_time(&task?.path().to_string_lossy())).sum()
}

/// A line of a process's status, KiB.
fn status(pid: u32, key: &str) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(key)).with_context(|| format!("no {key}"))?;
    line.trim_matches([':', '\t', ' ']).trim_end_matches(" kB").trim().parse().context("a size")
}

/// The sockets and signers of node 0: for each own address its peers'.
struct Bare {
    outlets: Vec<(OwnedFd, Vec<(ProbeSigner, nix::sys::socket::SockaddrStorage)>)>,
    peer_incarnation: u64,
}

impl Bare {
    fn new(lab: &Lab, cluster: &Cluster, own_incarnation: u64, peer_incarnation: u64) -> Result<Self> {
        let ring = Keys::load(&cluster.key_file)?.ring(u64::from_str_radix(&cluster.id, 16)?);
        let mut standing = [0; frame::STANDING_WORDS];
        (standing[0], standing[1]) = (own_incarnation, frame::identity(1, 0));
        let mut outlets = Vec::new();
        for network in 0..NETWORKS {
            let port = Port { node: 0, network };
            for local in lab.addresses(port) {
                let fd = lab.node(0).enter(|| socket::open(local, &lab.interface(port)))??;
                let to = |remote: IpAddr| {
                    let spec = PathSpec {
                        network: network as u16 + 1,
                        own: 1,
                        peer: 2,
                        local,
                        remote,
                        vlan: 0,
                        answer_within: PERIOD,
                        min_hop_limit: 255,
                    };
                    let mut signer = ProbeSigner::new(&ring, &spec, &standing);
                    signer.expect_peer(peer_incarnation);
                    (signer, socket::port_of(remote))
                };
                outlets.push((fd, lab.addresses(Port { node: 1, network }).into_iter().map(to).collect()));
            }
        }
        Ok(Self { outlets, peer_incarnation })
    }

    /// Signs every frame beforehand, then does nothing but send them; returns the CPU time of the sending, ns.
    fn send(&self, length: Duration) -> Result<u64> {
        let rounds = (length.as_nanos() / PERIOD.as_nanos()) as u64;
        let first = (monotonic_ns() / 1000) << 1;
        let mut batches = Vec::new();
        for round in 0..rounds {
            for (_, peers) in &self.outlets {
                let mut batch = socket::Batch::new(peers.len());
                for (signer, to) in peers {
                    let words = signer.probe(first + 2 * round, monotonic_ns(), self.peer_incarnation, 0, 0, 0);
                    ensure!(words[word::SEQUENCE] != 0, "a sequence is not 0");
                    batch.push(&words, to);
                }
                batches.push(batch);
            }
        }
        realtime::no_timer_slack();
        realtime::fifo(50).context("SCHED_FIFO for the bare loop")?;
        let directory = format!("/proc/self/task/{}", nix::unistd::gettid());
        let before = thread_time(&directory)?;
        let start = monotonic_ns();
        for (round, batches) in (1..).zip(batches.chunks_mut(self.outlets.len())) {
            for (batch, (fd, _)) in batches.iter_mut().zip(&self.outlets) {
                let (refused, error) = batch.send(fd, libc::MSG_CONFIRM, false);
                ensure!(refused == 0, "{refused} frames were refused: {error:?}");
            }
            let until = Duration::from_nanos(start + round * PERIOD.as_nanos() as u64);
            // An early return only sends the next batch early.
            let _ = clock_nanosleep(ClockId::CLOCK_MONOTONIC, ClockNanosleepFlags::TIMER_ABSTIME, &until.into());
        }
        Ok(thread_time(&directory)?.saturating_sub(before))
    }
}

fn measure(turns: usize, settle: Duration) -> Result<Measured> {
    let lab = Lab::new(Spec { addresses: ADDRESSES, ..Spec::new(2, NETWORKS) })?;
    let fast = ["same_subnet_delay_ms", "cross_subnet_delay_ms"];
    let cluster = fast.iter().fold(Cluster::new(&lab, "lan"), |cluster, key| cluster.with(key, PERIOD.as_millis()));
    // The peer answers as ever, but asks less: its probes are not what is measured.
    let peer_cluster = Cluster { settings: Vec::new(), ..cluster.clone() }.with("same_subnet_delay_ms", 1000);
    let peer = Daemon::start(&lab, 1, &peer_cluster, &Options { cpu: Some(1), ..Options::default() })?;
    let start = || -> Result<Daemon> {
        let daemon = Daemon::start(&lab, 0, &cluster, &Options { cpu: Some(0), ..Options::default() })?;
        wait_up(&daemon)?;
        Ok(daemon)
    };
    let mut all = Vec::new();
    for _ in 0..turns {
        let daemon = start()?;
        let paths = daemon.ask("status")?["paths"]["total"].as_u64();
        ensure!(paths == Some(PATHS as u64), "{paths:?} paths instead of {PATHS}");
        std::thread::sleep(Duration::from_millis(500));
        let (before, at) = (process_time(daemon.pid())?, Instant::now());
        std::thread::sleep(TURN);
        let used = process_time(daemon.pid())?.saturating_sub(before);
        let percent = |used: u64, took: Duration| 100.0 * used as f64 / took.as_nanos() as f64;
        let cpu = percent(used, at.elapsed());
        let incarnation = |daemon: &Daemon| daemon.ask("status")?["incarnation"].as_u64().context("an incarnation");
        let (own, theirs) = (incarnation(&daemon)?, incarnation(&peer)?);
        // After a handover the program stays, and takes the echoes of the bare loop as it took the daemon's.
        ensure!(daemon.ctl(&["handover"])?.status.success(), "heartbeatctl handover");
        ensure!(daemon.terminate(Duration::from_secs(5))?.success(), "heartbeatd's end");
        let bare = Bare::new(&lab, &cluster, own, theirs)?;
        let used = std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    crate::lab::awake::hold(0)?;
                    bare.send(TURN)
                })
                .join()
        });
        let used = used.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        all.push(Turn { daemon: cpu, bare: percent(used, TURN) });
    }
    let daemon = start()?;
    std::thread::sleep(settle);
    let (rss_kib, peak_kib) = (status(daemon.pid(), "VmRSS")?, status(daemon.pid(), "VmHWM")?);
    Ok(Measured { turns: all, rss_kib, peak_kib })
}

pub fn run(context: &Context) -> Result<Found> {
    let (turns, settle) = context.choose((2, Duration::from_secs(1)), (30, SETTLE));
    let Measured { turns: all, rss_kib, peak_kib } = context.step("paths-128", || measure(turns, settle))?;
    let mut raw = String::from("turn,daemon_percent,bare_percent\n");
    for (index, Turn { daemon, bare }) in all.iter().enumerate() {
        writeln!(raw, "{index},{daemon},{bare}")?;
    }
    context.raw("paths-128.csv", &raw)?;
    let of = |value: fn(&Turn) -> f64| all.iter().map(value).collect::<Vec<f64>>();
    let figures = vec![
        Figure::new(
            "CPU of heartbeatd : bare loop, median",
            stats::median(&of(|turn| turn.daemon / turn.bare)),
            "",
            Bar::AtMost(1.5),
        ),
        Figure::new("CPU of heartbeatd, median", stats::median(&of(|turn| turn.daemon)), "%", Bar::Shown),
        Figure::new("CPU of the bare loop, median", stats::median(&of(|turn| turn.bare)), "%", Bar::Shown),
        Figure::new("RSS settled", rss_kib / 1024.0, "MiB", Bar::AtMost(20.0)),
        Figure::new("RSS peak", peak_kib / 1024.0, "MiB", Bar::Shown),
    ];
    let note = "CPU is all of heartbeatd's threads (schedstat); on veth pairs both sides' softirq work is in it and in \
                the bare loop's alike";
    Ok(Found { figures, notes: vec![note.to_owned()] })
}

//! The demonstration: real daemons on two networks, played through their faults step by step, first as nodes that watch
//! each other, then as clusters. It compares what the nodes say with what is expected of them, and never explains a difference away.

mod cluster;
mod seen;
mod steps;

use crate::lab::wait::binary;
use crate::lab::{Cluster, Daemon, Lab, Options, Quota, Spec, leaks_of, wait_for};
use anyhow::{Context, Result, ensure};
use seen::Seen;
use serde_json::Value;
use std::time::{Duration, Instant};

/// Longest the whole demonstration may take, building apart.
pub const LIMIT: Duration = Duration::from_secs(300);
/// Of which this is kept for the last step and for cleaning up.
const RESERVE: Duration = Duration::from_secs(20);
/// Longest one expected thing may take to show.
const PATIENCE: Duration = Duration::from_secs(6);
/// How long a node is starved where nothing may come of it: six detection times of the `lan` profile.
const STARVED: Duration = Duration::from_secs(3);

const A: usize = 0;
/// Starts in a cpu quota group, and so without SCHED_FIFO.
const B: usize = 1;
/// Held to the CPU that hogs take.
const C: usize = 2;
const HOG_CPU: usize = 1;

/// One row of the final table.
struct Row {
    step: String,
    expected: String,
    seen: String,
    good: bool,
}

/// What a step found: whether it is as expected, and what was seen, in a few words.
type Finding = (bool, String);

/// Plays the demonstration and prints its table. Returns whether everything was as expected.
///
/// # Errors
/// Fails when it cannot be played at all: no root, no binaries, a single CPU.
pub fn run() -> Result<bool> {
    ensure!(nix::unistd::geteuid().is_root(), "the demonstration needs root, for network namespaces");
    binary("heartbeatd", "HEARTBEATD")?;
    binary("heartbeatctl", "HEARTBEATCTL")?;
    let cpus = std::thread::available_parallelism().context("counting CPUs")?.get();
    ensure!(cpus > HOG_CPU, "the demonstration starves a node on a CPU of its own and needs two");
    let mut book = Book { started: Instant::now(), rows: Vec::new() };
    book.note("three nodes on two networks, behind a switch; profile lan, 100 ms x 5");
    book.note("on veth pairs XDP runs on the sender's CPU: figures of starved nodes flatter it");
    let played = steps::play(&mut book);
    book.note("clusters: a sink acts for each node that may, with the token of its page, on one clock");
    cluster::play(&mut book);
    book.row("nothing left behind", "no leftover", || {
        let left = leaks_of(std::process::id());
        Ok((left.is_empty(), if left.is_empty() { "no leftover".to_owned() } else { format!("{left:?}") }))
    });
    book.print();
    played?;
    Ok(book.rows.iter().all(|row| row.good))
}

/// The steps played so far.
struct Book {
    started: Instant,
    rows: Vec<Row>,
}

impl Book {
    fn note(&self, text: &str) {
        println!("[{:6.1} s] {text}", self.started.elapsed().as_secs_f64());
    }

    /// Plays one step. A step that fails is a row like any other: the next ones still say what they see.
    fn row(&mut self, step: &str, expected: &str, play: impl FnOnce() -> Result<Finding>) {
        self.note(&format!("{step} ..."));
        let (good, seen) = if self.started.elapsed() > LIMIT - RESERVE && step != "nothing left behind" {
            (false, "not played: no time left".to_owned())
        } else {
            play().unwrap_or_else(|error| (false, format!("{error:#}")))
        };
        self.note(&format!("{step}: {}{seen}", if good { "" } else { "DIFFERS: " }));
        self.rows.push(Row { step: step.to_owned(), expected: expected.to_owned(), seen, good });
    }

    fn print(&self) {
        let width = |text: fn(&Row) -> &str| self.rows.iter().map(|row| text(row).chars().count()).max().unwrap_or(0);
        let (step, expected) = (width(|row| &row.step), width(|row| &row.expected));
        println!("\n{:<step$}  {:<expected$}  {:<6}  SEEN", "STEP", "EXPECTED", "");
        for row in &self.rows {
            let verdict = if row.good { "ok" } else { "DIFFER" };
            println!("{:<step$}  {:<expected$}  {verdict:<6}  {}", row.step, row.expected, row.seen);
        }
        let differing = self.rows.iter().filter(|row| !row.good).count();
        println!("\n{} steps, {differing} differ, {:.1} s", self.rows.len(), self.started.elapsed().as_secs_f64());
    }
}

/// A running cluster. The daemons end before the group and the lab that they are in.
struct Play {
    daemons: Vec<Option<Daemon>>,
    quota: Quota,
    cluster: Cluster,
    fast_path: &'static str,
    lab: Lab,
}

impl Play {
    fn new(fast_path: &'static str) -> Result<Self> {
        let lab = Lab::new(Spec::new(3, 2))?;
        let quota = Quota::new(&lab, "quota", Duration::from_millis(200), Duration::from_millis(100))?;
        let cluster = Cluster::new(&lab, "lan");
        let mut play = Self { daemons: vec![None, None, None], quota, cluster, fast_path, lab };
        for node in [A, B, C] {
            play.start(node)?;
        }
        Ok(play)
    }

    fn start(&mut self, node: usize) -> Result<()> {
        let options = Options {
            fast_path: self.fast_path.to_owned(),
            quota: (node == B).then_some(&self.quota),
            // The observers stay off the CPU that hogs take, else the step would starve them all.
            cpu: Some(if node == C { HOG_CPU } else { 0 }),
            ..Options::default()
        };
        self.daemons[node] = Some(Daemon::start(&self.lab, node, &self.cluster, &options)?);
        Ok(())
    }

    fn daemon(&self, node: usize) -> Result<&Daemon> {
        self.daemons[node].as_ref().with_context(|| format!("node {} is not running", self.name(node)))
    }

    /// Ends a daemon by SIGTERM; its files stay.
    fn end(&mut self, node: usize) -> Result<()> {
        let daemon = self.daemons[node].take().with_context(|| format!("node {} is not running", self.name(node)))?;
        let status = daemon.terminate(PATIENCE)?;
        ensure!(status.success(), "heartbeatd of node {} ended with {status}", self.name(node));
        Ok(())
    }

    fn name(&self, node: usize) -> &str {
        &self.lab.spec().nodes[node]
    }

    fn events(&self, node: usize) -> Result<Vec<Value>> {
        self.daemon(node)?.events()
    }

    /// Begins to watch what every node says from now on.
    fn watch(&self) -> Result<Seen> {
        let counts = [A, B, C]
            .map(|node| if self.daemons[node].is_some() { self.events(node).map(|all| all.len()) } else { Ok(0) });
        Ok(Seen::from(counts.into_iter().collect::<Result<Vec<usize>>>()?))
    }

    /// What a node has said since `seen` began.
    fn since(&self, seen: &Seen, node: usize) -> Result<Vec<Value>> {
        Ok(seen.after(node, self.events(node)?))
    }

    /// What `by` says of `about` in `heartbeatctl nodes`.
    fn peer(&self, by: usize, about: usize) -> Result<Value> {
        let answer = self.daemon(by)?.ask("nodes")?;
        let nodes = answer["nodes"].as_array().context("`nodes` in the answer")?;
        let found = nodes.iter().find(|node| node["name"] == self.name(about));
        found.cloned().with_context(|| format!("no node {} in {answer}", self.name(about)))
    }

    /// Waits until every one of `nodes` shows every other of them up, on every path.
    fn wait_all_up(&self, nodes: &[usize]) -> Result<()> {
        wait_for(PATIENCE, "all nodes to show each other up", || {
            for (by, about) in pairs(nodes) {
                let peer = self.peer(by, about)?;
                let up = peer["state"] == "up" && peer["paths_up"] == peer["paths_total"];
                ensure!(up, "node {} shows {peer}", self.name(by));
            }
            Ok::<_, anyhow::Error>(())
        })
    }

    /// Waits until `by` has said `name` of node `about` since `seen` began, and returns the event.
    fn wait_said(&self, seen: &Seen, by: usize, name: &str, about: usize) -> Result<Value> {
        let what = format!("node {} to say {name} of node {}", self.name(by), self.name(about));
        wait_for(PATIENCE, &what, || {
            let events = self.since(seen, by).map_err(|error| format!("{error:#}"))?;
            let found = events.iter().find(|event| seen::is(event, name) && event["node"] == self.name(about));
            found.cloned().ok_or_else(|| seen::summary(&events))
        })
    }
}

/// Every ordered pair of different nodes.
fn pairs(nodes: &[usize]) -> impl Iterator<Item = (usize, usize)> {
    nodes.iter().flat_map(move |by| nodes.iter().filter(move |about| *about != by).map(move |about| (*by, *about)))
}

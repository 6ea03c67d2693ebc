//! A cluster of real daemons in a lab, and how it is watched: what each node has said since a moment, what it shows of
//! its peers, paths and counters. It tells what was said and shown; what should have been is the test's to judge.

use super::{Cluster, Daemon, Lab, Options, Spec, wait_for};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::time::Duration;

/// Longest that one expected thing may take to show.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Stall limit of the clusters that [`Play::lan`] makes, ms.
pub const STALL_MS: u64 = 4000;

/// A running cluster. The daemons end before the lab they are in.
#[derive(Debug)]
pub struct Play {
    /// The daemons, by node; a node without one is `None`.
    pub daemons: Vec<Option<Daemon>>,
    /// What they agree on.
    pub cluster: Cluster,
    /// Where they run.
    pub lab: Lab,
}

/// A moment in the event log of every node.
#[derive(Clone, Debug)]
pub struct Mark(Vec<usize>);

/// Lets the play go on for so many milliseconds.
pub fn pause(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

impl Play {
    /// Makes a lab and starts a cluster of the profile `lan` (100 ms x 5) in it; each node shows each other up. A busy
    /// machine that keeps a daemon waiting for less than [`STALL_MS`] is no news there.
    ///
    /// # Errors
    /// Fails when the lab cannot be made, a daemon does not start, or a node is not shown up.
    pub fn lan(spec: Spec) -> Result<Self> {
        let lab = Lab::new(spec)?;
        let cluster = Cluster::new(&lab, "lan").with("stall_limit_ms", STALL_MS);
        Self::up(lab, cluster)
    }

    /// As [`Play::lan`], each daemon with this `fast_path`.
    ///
    /// # Errors
    /// As there; also where the fast path cannot be had.
    pub fn lan_by(spec: Spec, fast_path: &str) -> Result<Self> {
        let lab = Lab::new(spec)?;
        let cluster = Cluster::new(&lab, "lan").with("stall_limit_ms", STALL_MS);
        let mut play = Self::idle(lab, cluster);
        for node in 0..play.daemons.len() {
            play.launch(node, &Options { fast_path: fast_path.to_owned(), ..Options::default() })?;
        }
        play.wait_up(&play.running())?;
        play.told_up()?;
        Ok(play)
    }

    /// Starts a daemon on every node of the lab under `cluster`; each node shows each other up.
    ///
    /// # Errors
    /// Fails when one of them does not start, or is not shown up.
    pub fn up(lab: Lab, cluster: Cluster) -> Result<Self> {
        let play = Self::start(lab, cluster)?;
        play.wait_up(&play.running())?;
        play.told_up()?;
        Ok(play)
    }

    /// Starts a daemon on every node of the lab under `cluster`.
    ///
    /// # Errors
    /// Fails when one of them does not start.
    pub fn start(lab: Lab, cluster: Cluster) -> Result<Self> {
        let mut play = Self::idle(lab, cluster);
        for node in 0..play.daemons.len() {
            play.launch(node, &Options::default())?;
        }
        Ok(play)
    }

    /// A cluster whose daemons are still to be started.
    #[must_use]
    pub fn idle(lab: Lab, cluster: Cluster) -> Self {
        let daemons = lab.spec().nodes.iter().map(|_| None).collect();
        Self { daemons, cluster, lab }
    }

    /// Starts the daemon of a node.
    ///
    /// # Errors
    /// Fails when it is not ready in time.
    pub fn launch(&mut self, node: usize, options: &Options<'_>) -> Result<()> {
        self.daemons[node] = Some(Daemon::start(&self.lab, node, &self.cluster, options)?);
        Ok(())
    }

    /// Every node that has a daemon.
    #[must_use]
    pub fn running(&self) -> Vec<usize> {
        (0..self.daemons.len()).filter(|node| self.daemons[*node].is_some()).collect()
    }

    /// The daemon of a node.
    ///
    /// # Errors
    /// Fails when there is none.
    pub fn daemon(&self, node: usize) -> Result<&Daemon> {
        self.daemons[node].as_ref().with_context(|| format!("node {} is not running", self.name(node)))
    }

    /// The name of a node.
    #[must_use]
    pub fn name(&self, node: usize) -> &str {
        &self.lab.spec().nodes[node]
    }

    /// Begins to watch what every node says.
    ///
    /// # Errors
    /// Fails when an event log cannot be read.
    pub fn mark(&self) -> Result<Mark> {
        let count = |node: &Option<Daemon>| node.as_ref().map_or(Ok(0), |daemon| daemon.events().map(|all| all.len()));
        Ok(Mark(self.daemons.iter().map(count).collect::<Result<_>>()?))
    }

    /// What a node has said since.
    ///
    /// # Errors
    /// Fails when its event log cannot be read.
    pub fn since(&self, mark: &Mark, node: usize) -> Result<Vec<Value>> {
        Ok(self.daemon(node)?.events()?.into_iter().skip(mark.0[node]).collect())
    }

    /// Every verdict on any node that was said since: `by: event about`.
    ///
    /// # Errors
    /// Fails when an event log cannot be read.
    pub fn verdicts(&self, mark: &Mark) -> Result<Vec<String>> {
        let mut all = Vec::new();
        for by in self.running() {
            for event in self.since(mark, by)? {
                if name(&event).starts_with("node_") || name(&event) == "isolated" {
                    let about = event["node"].as_str().unwrap_or("itself");
                    all.push(format!("{}: {} {about}", self.name(by), name(&event)));
                }
            }
        }
        Ok(all)
    }

    /// Waits until `by` has said `wanted` of `about` since, and returns the event.
    ///
    /// # Errors
    /// Fails with what it said instead.
    pub fn wait_said(&self, mark: &Mark, by: usize, wanted: &str, about: usize) -> Result<Value> {
        let about = self.name(about).to_owned();
        self.wait_event(mark, by, wanted, |event| event["node"] == *about)
    }

    /// Waits until `by` has said `wanted` since, of which `fits` holds, and returns the event.
    ///
    /// # Errors
    /// Fails with what it said instead.
    pub fn wait_event(&self, mark: &Mark, by: usize, wanted: &str, fits: impl Fn(&Value) -> bool) -> Result<Value> {
        wait_for(PATIENCE, &format!("node {} to say {wanted}", self.name(by)), || {
            let said = self.since(mark, by).map_err(|error| format!("{error:#}"))?;
            let found = said.iter().find(|event| name(event) == wanted && fits(event));
            found.cloned().ok_or_else(|| said.iter().map(brief).collect::<Vec<_>>().join("; "))
        })
    }

    /// How often `by` has said `wanted` since.
    ///
    /// # Errors
    /// Fails when its event log cannot be read.
    pub fn said(&self, mark: &Mark, by: usize, wanted: &str) -> Result<usize> {
        Ok(self.since(mark, by)?.iter().filter(|event| name(event) == wanted).count())
    }

    /// What `by` shows of `about`.
    ///
    /// # Errors
    /// Fails when it shows nothing of it.
    pub fn peer(&self, by: usize, about: usize) -> Result<Value> {
        let answer = self.daemon(by)?.ask("nodes")?;
        let rows = answer["nodes"].as_array().context("`nodes` in the answer")?;
        let found = rows.iter().find(|row| row["name"] == self.name(about));
        found.cloned().with_context(|| format!("no node {} in {answer}", self.name(about)))
    }

    /// What `by` shows of its path to `about` on a network (counted from 0), the first where there are several.
    ///
    /// # Errors
    /// Fails when it shows no such path.
    pub fn path(&self, by: usize, about: usize, network: usize) -> Result<Value> {
        let answer = self.daemon(by)?.ask("paths")?;
        let rows = answer["paths"].as_array().context("`paths` in the answer")?;
        let network = format!("net{}", network + 1);
        let found = rows.iter().find(|row| row["peer_node"] == self.name(about) && row["network"] == *network);
        found.cloned().with_context(|| format!("no path to {} on {network} in {answer}", self.name(about)))
    }

    /// What `by` shows of one of its interfaces; null if it shows none of that name.
    ///
    /// # Errors
    /// Fails when it shows no interfaces.
    pub fn fast_path(&self, by: usize, interface: &str) -> Result<Value> {
        let status = self.daemon(by)?.ask("status")?;
        let rows = status["fast_path"].as_array().context("`fast_path` in the answer")?;
        Ok(rows.iter().find(|row| row["interface"] == interface).cloned().unwrap_or_default())
    }

    /// Answers within their time from `about` to `by` on the first network, so far.
    ///
    /// # Errors
    /// Fails when `by` shows no path to `about` there.
    pub fn echoes(&self, by: usize, about: usize) -> Result<u64> {
        number(&self.path(by, about, 0)?, "echoes")
    }

    /// The value of a counter of `by`.
    ///
    /// # Errors
    /// Fails when there is none of that name.
    pub fn counter(&self, by: usize, wanted: &str) -> Result<u64> {
        let answer = self.daemon(by)?.ask("counters")?;
        let rows = answer["counters"].as_array().context("`counters` in the answer")?;
        let found = rows.iter().find(|row| row["name"] == wanted);
        found.and_then(|row| row["value"].as_u64()).with_context(|| format!("no counter {wanted} in {answer}"))
    }

    /// The sum of all counters of dropped frames of `by`.
    ///
    /// # Errors
    /// Fails when it shows no counters.
    pub fn drops(&self, by: usize) -> Result<u64> {
        let answer = self.daemon(by)?.ask("counters")?;
        let rows = answer["counters"].as_array().context("`counters` in the answer")?;
        let drop = |row: &&Value| row["name"].as_str().is_some_and(|name| name.starts_with("drop_"));
        Ok(rows.iter().filter(drop).filter_map(|row| row["value"].as_u64()).sum())
    }

    /// Waits until each of `nodes` shows each other of them up, on every path.
    ///
    /// # Errors
    /// Fails with what is shown instead.
    pub fn wait_up(&self, nodes: &[usize]) -> Result<()> {
        wait_for(PATIENCE, "all nodes to show each other up", || {
            for by in nodes {
                for about in nodes.iter().filter(|about| *about != by) {
                    let peer = self.peer(*by, *about)?;
                    let up = peer["state"] == "up" && peer["paths_up"] == peer["paths_total"];
                    ensure!(up, "node {} shows {peer}", self.name(*by));
                }
            }
            Ok::<_, anyhow::Error>(())
        })
    }

    /// Waits until every running node has written into its log that each other one is up: what is shown is known a little
    /// before it is written, and a mark must not come between.
    fn told_up(&self) -> Result<()> {
        let running = self.running();
        wait_for(PATIENCE, "all nodes to tell each other up", || {
            for by in &running {
                let events = self.daemon(*by)?.events()?;
                let told = events.iter().filter(|event| name(event) == "node_up").count();
                ensure!(told + 1 >= running.len(), "node {} has told {told} up", self.name(*by));
            }
            Ok::<_, anyhow::Error>(())
        })
    }
}

/// The stable name of an event.
#[must_use]
pub fn name(event: &Value) -> &str {
    event["event"].as_str().unwrap_or("?")
}

fn brief(event: &Value) -> String {
    format!("{}: {}", name(event), event["message"].as_str().unwrap_or(""))
}

/// A number of a JSON object.
///
/// # Errors
/// Fails when it is not there, or is no whole number.
pub fn number(value: &Value, field: &str) -> Result<u64> {
    value[field].as_u64().with_context(|| format!("no number {field} in {value}"))
}

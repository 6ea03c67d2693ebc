//! A cluster whose nodes run daemons, and what they said since a moment. It waits and reads; what should have been
//! said is the test's to know.

use super::daemon::{Prepared, read_events};
use super::{Cluster, Daemon, Lab, Options, Spec, wait_for};
use anyhow::{Context, Result, ensure};
use aya::programs::SchedClassifier;
use aya::programs::tc::TcAttachType;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// How long anything may take that is waited for.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A lab, its cluster, and a daemon on each node that has one. The daemons end before the lab does.
#[derive(Debug)]
pub struct Crew {
    daemons: Vec<Option<Daemon>>,
    /// What the nodes agree on.
    pub cluster: Cluster,
    /// The lab.
    pub lab: Lab,
}

/// A moment in every node's event log.
#[derive(Clone, Debug)]
pub struct Mark(Vec<usize>);

/// The stable name of an event.
#[must_use]
pub fn event_name(event: &Value) -> &str {
    event["event"].as_str().unwrap_or("?")
}

impl Crew {
    /// A crew without a daemon yet.
    #[must_use]
    pub fn new(lab: Lab, cluster: Cluster) -> Self {
        Self { daemons: lab.spec().nodes.iter().map(|_| None).collect(), cluster, lab }
    }

    /// Two nodes of the profile `lan` with these settings, on so many networks, that show each other up.
    ///
    /// # Errors
    /// If the lab cannot be made, or one does not start or show the other up.
    pub fn pair(networks: usize, settings: &[(&str, u64)], options: &Options<'_>) -> Result<Self> {
        let lab = Lab::new(Spec::new(2, networks))?;
        let cluster = settings.iter().fold(Cluster::new(&lab, "lan"), |cluster, (key, value)| cluster.with(key, value));
        let mut crew = Self::new(lab, cluster);
        crew.start_all(options)?;
        Ok(crew)
    }

    /// Starts a daemon on a node.
    ///
    /// # Errors
    /// As [`Daemon::start`].
    pub fn start(&mut self, node: usize, options: &Options<'_>) -> Result<()> {
        self.daemons[node] = Some(Daemon::start(&self.lab, node, &self.cluster, options)?);
        Ok(())
    }

    /// Starts a daemon on a node and waits for nothing.
    ///
    /// # Errors
    /// As [`Daemon::launch`].
    pub fn launch(&mut self, node: usize, options: &Options<'_>) -> Result<()> {
        self.daemons[node] = Some(Daemon::launch(&self.lab, node, &self.cluster, options)?);
        Ok(())
    }

    /// Starts daemons on nodes, one right after another, and waits for nothing: what takes time is made before the first.
    ///
    /// # Errors
    /// As [`Daemon::launch`].
    pub fn launch_together(&mut self, nodes: &[usize], options: &Options<'_>) -> Result<()> {
        let prepare = |node: &usize| Prepared::new(&self.lab, *node, &self.cluster, options);
        let prepared = nodes.iter().map(prepare).collect::<Result<Vec<_>>>()?;
        for (node, prepared) in nodes.iter().zip(prepared) {
            self.daemons[*node] = Some(prepared.launch()?);
        }
        Ok(())
    }

    /// Waits until a node's daemon is ready.
    ///
    /// # Errors
    /// As [`Daemon::wait_ready`].
    pub fn wait_ready(&mut self, node: usize, limit: Duration) -> Result<()> {
        self.daemons[node].as_mut().context("a daemon to wait for")?.wait_ready(limit)
    }

    /// Starts a daemon on every node and waits until all show each other up.
    ///
    /// # Errors
    /// As [`Daemon::start`], and when they do not hear each other in time.
    pub fn start_all(&mut self, options: &Options<'_>) -> Result<()> {
        for node in 0..self.daemons.len() {
            self.start(node, options)?;
        }
        self.all_up()
    }

    /// The daemon of a node that runs one.
    ///
    /// # Panics
    /// If the node runs none, which is the test's own mistake.
    #[must_use]
    pub fn daemon(&self, node: usize) -> &Daemon {
        self.daemons[node].as_ref().unwrap_or_else(|| panic!("node {} runs no daemon", self.name(node)))
    }

    /// Takes a node's daemon out, to kill it or to wait for its end.
    ///
    /// # Panics
    /// As [`Crew::daemon`].
    pub fn take(&mut self, node: usize) -> Daemon {
        self.daemons[node].take().unwrap_or_else(|| panic!("no daemon to take from node {node}"))
    }

    /// Ends a node's daemon, and has its service manager give up starting it: what that runs then is run.
    ///
    /// # Errors
    /// If that cannot be done, or does not mark the node.
    pub fn manager_gives_up(&mut self, node: usize) -> Result<()> {
        let config = self.daemon(node).config();
        self.take(node).kill()?;
        let words = ["mark-left", "--config", config.to_str().context("a path that is no text")?];
        let marked = heartbeatd(&self.lab, node, &["env", "MONITOR_SERVICE_RESULT=start-limit-hit"], &words)?;
        let said = String::from_utf8_lossy(&marked.stdout);
        ensure!(marked.status.success() && said.starts_with("marked: "), "{marked:?}");
        Ok(())
    }

    /// How a node's daemon has ended; `None`: it runs, or there is none.
    ///
    /// # Errors
    /// As [`Daemon::ended`].
    pub fn ended(&mut self, node: usize) -> Result<Option<std::process::ExitStatus>> {
        self.daemons[node].as_mut().map_or(Ok(None), Daemon::ended)
    }

    /// Whether a node has a daemon, be it that it has ended by itself.
    #[must_use]
    pub fn runs(&self, node: usize) -> bool {
        self.daemons[node].is_some()
    }

    /// Name of a node.
    #[must_use]
    pub fn name(&self, node: usize) -> &str {
        &self.lab.spec().nodes[node]
    }

    /// Directory of the pins of a node's daemon, by map layout.
    #[must_use]
    pub fn pins(&self, node: usize) -> PathBuf {
        self.lab.pin_dir(node).join("heartbeatd").join(format!("v{}", heartbeat_common::maps::ABI))
    }

    /// Every event that a node ever said.
    ///
    /// # Errors
    /// If its log is not JSON.
    pub fn events(&self, node: usize) -> Result<Vec<Value>> {
        read_events(&self.lab.node_dir(node).join("log/events.jsonl"))
    }

    /// Marks the present moment.
    ///
    /// # Errors
    /// As [`Crew::events`].
    pub fn mark(&self) -> Result<Mark> {
        let counts: Result<Vec<usize>> = (0..self.daemons.len()).map(|node| Ok(self.events(node)?.len())).collect();
        counts.map(Mark)
    }

    /// What a node said since.
    ///
    /// # Errors
    /// As [`Crew::events`].
    pub fn since(&self, mark: &Mark, node: usize) -> Result<Vec<Value>> {
        Ok(self.events(node)?.split_off(mark.0[node]))
    }

    /// Those events named `name` that a node said since.
    ///
    /// # Errors
    /// As [`Crew::events`].
    pub fn said(&self, mark: &Mark, node: usize, name: &str) -> Result<Vec<Value>> {
        Ok(self.since(mark, node)?.into_iter().filter(|event| event_name(event) == name).collect())
    }

    /// Waits until a node has said `name`, and returns the first such event.
    ///
    /// # Errors
    /// If it does not in time; the error tells what it said instead.
    pub fn await_said(&self, mark: &Mark, by: usize, name: &str) -> Result<Value> {
        wait_for(PATIENCE, &format!("node {} to say {name}", self.name(by)), || {
            let said = self.since(mark, by)?;
            let found = said.iter().find(|event| event_name(event) == name).cloned();
            found.with_context(|| said.iter().map(event_name).collect::<Vec<_>>().join(", "))
        })
    }

    /// What the nodes that run said of verdicts since: (by, name, about). Recoveries and stalls are among them.
    ///
    /// # Errors
    /// As [`Crew::events`].
    pub fn verdicts(&self, mark: &Mark) -> Result<Vec<(String, String, String)>> {
        let mut all = Vec::new();
        for by in 0..self.daemons.len() {
            for event in self.since(mark, by)? {
                let name = event_name(&event);
                if name.starts_with("node_") || name == "isolated" {
                    let about = event["node"].as_str().unwrap_or_default();
                    all.push((self.name(by).to_owned(), name.to_owned(), about.to_owned()));
                }
            }
        }
        Ok(all)
    }

    /// Says that nobody was removed since: no node down, hung, left or restarted, no node isolated.
    ///
    /// # Errors
    /// If one was; the error tells who said it of whom.
    pub fn nobody_removed(&self, mark: &Mark) -> Result<()> {
        let removed = ["node_down", "node_hung", "node_left", "node_restarted", "isolated"];
        let verdicts = self.verdicts(mark)?;
        ensure!(!verdicts.iter().any(|(_, name, _)| removed.contains(&name.as_str())), "{verdicts:?}");
        Ok(())
    }

    /// What `by` shows of `about`.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn peer(&self, by: usize, about: usize) -> Result<Value> {
        let answer = self.daemon(by).ask("nodes")?;
        let nodes = answer["nodes"].as_array().context("`nodes` in the answer")?;
        let found = nodes.iter().find(|node| node["name"] == self.name(about));
        found.cloned().with_context(|| format!("no node {} in {answer}", self.name(about)))
    }

    /// Waits until `by` shows `about` in a state.
    ///
    /// # Errors
    /// If it does not in time.
    pub fn await_state(&self, by: usize, about: usize, state: &str) -> Result<Value> {
        let what = format!("node {} to show {} {state}", self.name(by), self.name(about));
        wait_for(PATIENCE, &what, || {
            let peer = self.peer(by, about)?;
            ensure!(peer["state"] == state, "{peer}");
            Ok::<_, anyhow::Error>(peer)
        })
    }

    /// Waits until every node that runs shows every other that runs up on every path.
    ///
    /// # Errors
    /// If they do not in time.
    pub fn all_up(&self) -> Result<()> {
        let running = || (0..self.daemons.len()).filter(|node| self.daemons[*node].is_some());
        wait_for(PATIENCE, "all nodes to show each other up", || {
            for (by, about) in running().flat_map(|by| running().map(move |about| (by, about))) {
                if by != about {
                    let peer = self.peer(by, about)?;
                    let up = peer["state"] == "up" && peer["paths_up"] == peer["paths_total"];
                    ensure!(up, "node {} shows {peer}", self.name(by));
                }
            }
            Ok::<_, anyhow::Error>(())
        })
    }

    /// A counter of a node.
    ///
    /// # Errors
    /// If it does not answer, or counts no such thing.
    pub fn counter(&self, node: usize, name: &str) -> Result<u64> {
        let answer = self.daemon(node).ask("counters")?;
        let rows = answer["counters"].as_array().context("`counters` in the answer")?;
        let row = rows.iter().find(|row| row["name"] == name).with_context(|| format!("no counter {name}"))?;
        row["value"].as_u64().context("the counter's value")
    }

    /// (interface, mode, reason) of each interface of a node.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn modes(&self, node: usize) -> Result<Vec<(String, String, String)>> {
        let answer = self.daemon(node).ask("status")?;
        let rows = answer["fast_path"].as_array().context("`fast_path` in the answer")?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(rows.iter().map(|row| (text(&row["interface"]), text(&row["mode"]), text(&row["reason"]))).collect())
    }
}

/// Programs of anybody on a node's interfaces: (XDP, egress).
///
/// # Errors
/// If the kernel does not tell.
pub fn programs(lab: &Lab, node: usize) -> Result<(usize, usize)> {
    let interfaces = lab.ports_of(node).into_iter().map(|port| lab.interface(port));
    lab.node(node).enter(|| {
        let mut found = (0, 0);
        for interface in interfaces {
            let index = nix::net::if_::if_nametoindex(interface.as_str()).context("the node's interface")?;
            found.0 += usize::from(heartbeat_user::io::sys::xdp_program_of(index)?.is_some());
            found.1 += SchedClassifier::query_tcx(&interface, TcAttachType::Egress)?.1.len();
        }
        Ok(found)
    })?
}

/// How a short run of a daemon ended: exit code and what it wrote.
#[derive(Debug)]
pub struct Ended {
    /// Exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Everything it wrote.
    pub text: String,
}

/// Starts a daemon that is expected to refuse, and waits for its end.
///
/// # Errors
/// If it cannot be started, or runs on.
pub fn refused(lab: &Lab, node: usize, cluster: &Cluster, options: &Options<'_>) -> Result<Ended> {
    let daemon = Daemon::launch(lab, node, cluster, options)?;
    let log = lab.node_dir(node).join("heartbeatd.log");
    let status = daemon.wait(PATIENCE)?;
    let text = std::fs::read_to_string(&log).unwrap_or_default();
    std::fs::remove_file(&log).context("the log of a daemon that refused")?;
    Ok(Ended { code: status.code(), text })
}

/// Runs `heartbeatd` with these words in a node's network namespace, behind `wrapper`.
///
/// # Errors
/// If it cannot be started.
pub fn heartbeatd(lab: &Lab, node: usize, wrapper: &[&str], words: &[&str]) -> Result<Output> {
    run(lab, node, wrapper, &super::wait::binary("heartbeatd", "HEARTBEATD")?, words)
}

/// Runs `heartbeatctl` with these words in a node's network namespace, behind `wrapper`, whether a daemon runs or not.
///
/// # Errors
/// If it cannot be started.
pub fn heartbeatctl(lab: &Lab, node: usize, wrapper: &[&str], words: &[&str]) -> Result<Output> {
    run(lab, node, wrapper, &super::wait::binary("heartbeatctl", "HEARTBEATCTL")?, words)
}

fn run(lab: &Lab, node: usize, wrapper: &[&str], program: &Path, words: &[&str]) -> Result<Output> {
    let first = wrapper.first().map_or(program, |first| Path::new(*first));
    let mut command: Command = lab.node(node).command(first);
    if !wrapper.is_empty() {
        command.args(&wrapper[1..]).arg(program);
    }
    command.args(words).stdin(Stdio::null()).output().with_context(|| format!("running {}", program.display()))
}

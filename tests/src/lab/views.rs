//! A crew that is a cluster: created, joined, looked at, left out and brought back. It waits and reads; what a view should
//! be is the test's to know.

use super::acts::{Acts, Views, order};
use super::crew::{Crew, Mark};
use super::safety::breach;
use super::sink::Sink;
use super::told::{one_digest, told_in_order};
use super::wait::wait_every;
use super::{Cluster, Lab, Options, Spec};
use crate::xdp::random::Random;
use anyhow::{Context, Result, ensure};
use heartbeat_common::view::Order;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// How long a view may take to form: nodes that come back wait before they join, and a busy machine is slow.
pub const FORMING: Duration = Duration::from_secs(40);
/// Between two looks at all nodes.
pub const LOOK: Duration = Duration::from_millis(40);
/// Rounds of what is random, in an ordinary run.
const ROUNDS: u64 = 20;
/// Exit status of a daemon that the cluster left out.
pub const LEFT_OUT: i32 = 10;

/// How a node says that it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stands {
    /// The view that it holds; [`Order::NONE`]: none.
    pub view: Order,
    /// First words of that view's digest.
    pub digest: String,
    /// Names of its members.
    pub members: Vec<String>,
    /// What it is to the cluster, such as `member`.
    pub life: String,
    /// Whether it may act.
    pub acting: bool,
    /// The last view in force here.
    pub in_force: Order,
    /// How far the way to the next view is, such as `stabilized`.
    pub stage: String,
    /// Whom it waits for.
    pub waits_for: Vec<String>,
}

impl Stands {
    /// Reads an answer to `heartbeatctl view`.
    ///
    /// # Errors
    /// If it is none.
    pub fn read(answer: &Value) -> Result<Self> {
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let words = |value: &Value, key: &str| -> Vec<String> {
            let all = value.as_array().map(Vec::as_slice).unwrap_or_default();
            all.iter().map(|one| if key.is_empty() { word(one) } else { word(&one[key]) }).collect()
        };
        let held = &answer["view"];
        let number = |key: &str| held[key].as_u64().unwrap_or(0);
        let force = u16::try_from(number("force")).context("a force count")?;
        let in_force = &answer["in_force"];
        Ok(Self {
            view: Order::new(force, number("number")).context("a view's number")?,
            digest: word(&held["digest"]),
            members: words(&held["members"], "name"),
            life: answer["life"].as_str().with_context(|| format!("no `life` in {answer}"))?.to_owned(),
            acting: answer["acting"].as_bool().with_context(|| format!("no `acting` in {answer}"))?,
            in_force: if in_force.is_null() { Order::NONE } else { order(in_force)? },
            stage: word(&answer["stage"]),
            waits_for: words(&answer["waits_for"], ""),
        })
    }

    /// Says whether this node is a member that may act, of just these members, in a view that is in force.
    #[must_use]
    pub fn acts_with(&self, members: &[String]) -> bool {
        self.members == members && self.life == "member" && self.acting && self.view == self.in_force
    }
}

impl Crew {
    /// A crew of so many nodes on two networks, without a daemon yet, in the profile `lan`. Nobody is quarantined there.
    ///
    /// # Errors
    /// If the lab cannot be made.
    pub fn idle(nodes: usize) -> Result<Self> {
        let lab = Lab::new(Spec::new(nodes, 2))?;
        let cluster = Cluster::new(&lab, "lan").with("quarantine_threshold", 0);
        Ok(Self::new(lab, cluster))
    }

    /// A cluster of so many nodes that was created and joined, and a sink that watches what they do.
    ///
    /// # Errors
    /// If it does not form.
    pub fn formed(nodes: usize) -> Result<(Self, Sink)> {
        let mut crew = Self::idle(nodes)?;
        let sink = crew.form()?;
        Ok((crew, sink))
    }

    /// As [`Crew::formed`], each node's state on the disk of this directory: a lab's own is in memory, and writes quicker than
    /// any disk.
    ///
    /// # Errors
    /// As there.
    pub fn formed_on(nodes: usize, states: &Path) -> Result<(Self, Sink)> {
        let mut crew = Self::idle(nodes)?;
        crew.cluster.states = Some(states.to_owned());
        let sink = crew.form()?;
        Ok((crew, sink))
    }

    /// Starts a daemon on every node, creates the cluster on the first and waits until all have joined.
    ///
    /// # Errors
    /// If it does not form.
    pub fn form(&mut self) -> Result<Sink> {
        let all: Vec<usize> = (0..self.lab.spec().nodes.len()).collect();
        for node in &all {
            self.start(*node, &Options::default())?;
        }
        self.created(&all)
    }

    /// Starts daemons on nodes at once, and waits until each is ready.
    ///
    /// # Errors
    /// If one does not start.
    pub fn start_together(&mut self, nodes: &[usize]) -> Result<()> {
        let options = Options::default();
        self.launch_together(nodes, &options)?;
        nodes.iter().try_for_each(|node| self.wait_ready(*node, options.ready_limit))
    }

    /// Creates the cluster on the first of `nodes`, all of which run, and waits until all have joined.
    ///
    /// # Errors
    /// If it does not form.
    pub fn created(&mut self, nodes: &[usize]) -> Result<Sink> {
        self.all_up()?;
        let sink = Sink::start(&self.lab)?;
        self.init(nodes[0])?;
        self.await_view(nodes)?;
        Ok(sink)
    }

    /// Creates the cluster on a node.
    ///
    /// # Errors
    /// If that is refused.
    pub fn init(&self, node: usize) -> Result<()> {
        let made = self.daemon(node).ctl(&["init", &self.cluster.name])?;
        ensure!(made.status.success(), "heartbeatctl init: {made:?}");
        Ok(())
    }

    /// How a node says that it stands. Exit code 9 says that it may not act; the answer is there all the same.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn stands(&self, node: usize) -> Result<Stands> {
        let shown = self.daemon(node).ctl(&["--json", "view"])?;
        let answer: Value = serde_json::from_slice(&shown.stdout).with_context(|| format!("{shown:?}"))?;
        Stands::read(&answer)
    }

    /// Waits until each of `nodes` is a member that may act, in one view of just these, and returns it. A daemon that the
    /// cluster left out is started again, as a service manager would.
    ///
    /// # Errors
    /// If they do not in time.
    pub fn await_view(&mut self, nodes: &[usize]) -> Result<Order> {
        self.await_view_of(nodes, nodes)
    }

    /// As [`Crew::await_view`] of `members`, asking only `nodes` of them: the others cannot answer.
    ///
    /// # Errors
    /// As there.
    pub fn await_view_of(&mut self, nodes: &[usize], members: &[usize]) -> Result<Order> {
        let members: Vec<String> = members.iter().map(|node| self.name(*node).to_owned()).collect();
        let what = format!("one view of {}, in force", members.join(", "));
        wait_every(LOOK, FORMING, &what, || -> Result<Order> {
            self.tend()?;
            let all = nodes.iter().map(|node| self.stands(*node)).collect::<Result<Vec<_>>>()?;
            let fits = |one: &Stands| one.acts_with(&members) && one.view == all[0].view && one.digest == all[0].digest;
            ensure!(all.iter().all(fits), "{all:?}");
            Ok(all[0].view)
        })
    }

    /// Waits until a node stands as `fits` says.
    ///
    /// # Errors
    /// If it does not in time; the error says how it stands.
    pub fn await_stands(&self, node: usize, what: &str, fits: impl Fn(&Stands) -> bool) -> Result<Stands> {
        wait_every(LOOK, FORMING, &format!("node {} {what}", self.name(node)), || -> Result<Stands> {
            let stands = self.stands(node)?;
            ensure!(fits(&stands), "{stands:?}");
            Ok(stands)
        })
    }

    /// Starts daemons again that the cluster left out. Their waits before they join are taken away: they are not what is
    /// tested, but where a test says so.
    ///
    /// # Errors
    /// If one ended otherwise, or cannot be started.
    pub fn tend(&mut self) -> Result<()> {
        for node in 0..self.lab.spec().nodes.len() {
            if let Some(status) = self.ended(node)? {
                ensure!(status.code() == Some(LEFT_OUT), "heartbeatd of node {} ended: {status}", self.name(node));
                drop(self.take(node));
                self.forget_exits(node)?;
                self.start(node, &Options::default())?;
            }
        }
        Ok(())
    }

    /// Waits until the daemon of a node has found itself left out and ended, and takes it away.
    ///
    /// # Errors
    /// If it does not in time, or ends otherwise.
    pub fn await_left_out(&mut self, node: usize) -> Result<()> {
        let ended = self.take(node).wait(FORMING)?;
        ensure!(ended.code() == Some(LEFT_OUT), "heartbeatd of node {} ended: {ended}", self.name(node));
        Ok(())
    }

    /// Starts a node's daemon with nothing to wait for.
    ///
    /// # Errors
    /// As [`super::Daemon::start`].
    pub fn start_at_once(&mut self, node: usize) -> Result<()> {
        self.forget_exits(node)?;
        self.start(node, &Options::default())
    }

    /// Lets a node forget how it ended before.
    ///
    /// # Errors
    /// If that cannot be done.
    pub fn forget_exits(&self, node: usize) -> Result<()> {
        let path = self.cluster.state_dir(&self.lab, node).join("exits.json");
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("removing {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// Ends the machine of a node: its process, all that it has in the kernel, and its ways to the others, which are
    /// healed by [`Lab::heal`]. Only its disk stays.
    ///
    /// # Errors
    /// If that cannot be done.
    pub fn machine_dies(&mut self, node: usize, sink: &Sink) -> Result<super::Span> {
        sink.gone(node);
        let span = self.lab.cut_all(node)?;
        self.take(node).kill()?;
        let pins = self.lab.pin_dir(node).join("heartbeatd");
        fs::remove_dir_all(&pins).with_context(|| format!("removing {}", pins.display()))?;
        Ok(span)
    }

    /// Loses the power of all nodes' machines at once; the ways between them are whole.
    ///
    /// # Errors
    /// If that cannot be done.
    pub fn power_fails(&mut self, sink: &Sink) -> Result<()> {
        for node in 0..self.lab.spec().nodes.len() {
            if self.runs(node) {
                self.machine_dies(node, sink)?;
            }
        }
        self.lab.heal().map(drop)
    }

    /// What was the incarnation of a node's last start.
    ///
    /// # Errors
    /// If it never started.
    pub fn incarnation(&self, node: usize) -> Result<u64> {
        let events = self.events(node)?;
        let started = events.iter().rev().find(|event| event["event"] == "started");
        started.and_then(|event| event["incarnation"].as_u64()).with_context(|| format!("node {node} never started"))
    }

    /// Every view that any node installed.
    ///
    /// # Errors
    /// If a log cannot be read; if it does not say who joined which view, which is a breach of safety.
    pub fn all_views(&self) -> Result<Views> {
        let logs = (0..self.lab.spec().nodes.len()).map(|node| self.events(node)).collect::<Result<Vec<_>>>()?;
        Views::read(&logs, &self.lab.spec().nodes).map_err(breach)
    }

    /// Says that nobody acted who might not, that every node told each change once, in the order of views and with the cause
    /// that it knew, and that all nodes installed the same views.
    ///
    /// # Errors
    /// If it was otherwise, which is a breach of safety: the error says how.
    pub fn audit(&self, sink: &Sink) -> Result<Acts> {
        let (acts, views) = (sink.acts(), self.all_views()?);
        ensure!(acts.count > 0, "nobody acted at all");
        acts.keep_the_rule(&views)?;
        let mut digests = BTreeMap::new();
        for node in 0..self.lab.spec().nodes.len() {
            let events = self.events(node)?;
            let told = told_in_order(&events, &views).and_then(|()| one_digest(&events, &mut digests));
            told.with_context(|| format!("node {}", self.name(node))).map_err(breach)?;
        }
        Ok(acts)
    }

    /// The event `name` that a node said since of `about`.
    ///
    /// # Errors
    /// If it does not in time.
    pub fn await_said_of(&self, mark: &Mark, by: usize, name: &str, about: usize) -> Result<Value> {
        let what = format!("node {} to say {name} of {}", self.name(by), self.name(about));
        wait_every(LOOK, FORMING, &what, || -> Result<Value> {
            let said = self.said(mark, by, name)?;
            let found = said.iter().find(|event| event["node"] == self.name(about));
            found.cloned().with_context(|| format!("{said:?}"))
        })
    }
}

/// Whether tests run at their full length: `HEARTBEAT_LONG=1`.
#[must_use]
pub fn is_long() -> bool {
    std::env::var_os("HEARTBEAT_LONG").is_some_and(|value| value == "1")
}

/// How often a test plays what is random in it, and its source of chance, whose seed is printed: 20 times, or `long` times
/// where `HEARTBEAT_LONG=1`.
#[must_use]
pub fn rounds(test: &str, long: u64) -> (u64, Random) {
    played(test, if is_long() { long } else { ROUNDS })
}

/// As [`rounds`], where a round is long: once in an ordinary run.
#[must_use]
pub fn long_rounds(test: &str, long: u64) -> (u64, Random) {
    played(test, if is_long() { long } else { 1 })
}

fn played(test: &str, count: u64) -> (u64, Random) {
    println!("{test}: {count} rounds");
    (count, Random::new(Random::seed(test)))
}

/// Lets random time pass: a part of `most`.
pub fn pause_at_random(random: &mut Random, most: Duration) {
    std::thread::sleep(Duration::from_micros(random.below(most.as_micros().max(1) as u64)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_answer_is_read() {
        let answer = json!({"life": "member", "view": {"force": 0, "number": 3, "digest": "ab", "members": [{"name": "a"}]},
            "in_force": "0.2", "stage": "cleanup", "waits_for": ["b to have stopped"], "acting": true});
        let stands = Stands::read(&answer).unwrap();
        assert_eq!((stands.view, stands.in_force), (Order(3), Order(2)));
        assert_eq!(
            (stands.members.as_slice(), stands.waits_for.as_slice()),
            (&["a".to_owned()][..], &["b to have stopped".to_owned()][..])
        );
        assert!(!stands.acts_with(&["a".to_owned()]), "it is not in force");
        let none = json!({"life": "no_view", "view": null, "in_force": null, "stage": "stabilized", "waits_for": [], "acting": false});
        assert_eq!(Stands::read(&none).unwrap().view, Order::NONE);
        assert!(Stands::read(&json!({})).is_err());
    }
}

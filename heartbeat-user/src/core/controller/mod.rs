//! The deciding core as a whole: ticks, attempts and inputs in, events and commands out. It does no I/O and reads no
//! clock; whoever owns it brings the time and carries out the commands.
//!
//! One round of its owner:
//! 1. read the clock; if this round began late, say so by [`Input::Late`] first;
//! 2. copy ticks and attempts, or find them unchanged and say so, *after* the clock was read, and call
//!    [`Controller::observe`] with that time;
//! 3. drain [`Controller::poll_command`] and [`Controller::poll_event`];
//! 4. sleep until [`Controller::poll_timeout`], but never longer than half the smallest delay: the core cannot know
//!    of probes and answers that it was not shown yet.

mod outbox;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;

use crate::core::echoes::EchoLoss;
use crate::core::event::{Event, EventBody, FailLocation, LateSource, Link, NodeName, PathEvidence};
use crate::core::ids::{NodeId, PathId};
use crate::core::lateness::Lateness;
use crate::core::node::{Limits, Next, Node, Said, Silence, Verdict};
use crate::core::path::{Changes, Path, PathInput, PathState, Step};
use crate::core::settings::{PathSpec, Settings};
use crate::core::time::{MonoTime, millis};
use outbox::Outbox;
use std::collections::BTreeSet;
use std::time::Duration;

/// What the owner is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Send an extra probe on every path of this peer at once, then report [`Input::BurstSent`]. Asked again after a
    /// delay without report.
    Burst {
        /// The peer.
        node: NodeId,
    },
    /// Take an incarnation above this one, on disk before the next probe, then report [`Input::Incarnation`].
    Reincarnate {
        /// The newest incarnation of this node that a peer knows.
        above: u64,
    },
    /// Answer this path's probes in a lesser way: those answers do not arrive.
    StepDown {
        /// The path.
        path: PathId,
    },
}

/// What the owner reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// The burst asked for left the send calls at `sent`, the time read before the first of them.
    BurstSent {
        /// The peer.
        node: NodeId,
        /// When.
        sent: MonoTime,
    },
    /// A thread that was due at `due` ran at `ran`. Every round may be reported; the budget decides what is late.
    Late {
        /// Which thread.
        source: LateSource,
        /// When it should have run.
        due: MonoTime,
        /// When it ran.
        ran: MonoTime,
    },
    /// This node runs under a new incarnation.
    Incarnation {
        /// The incarnation.
        own: u64,
    },
    /// A peer that was greeted under this node's incarnation knows a newer one. What it knows by messages alone, no stale
    /// echo of its kernel ever says.
    Outrun {
        /// The newest incarnation of this node that it knows.
        newest: u64,
        /// It had taken the present incarnation for the newest before.
        took: bool,
    },
}

/// Time between two newer incarnations that a node takes against somebody else of its own identity.
const DOUBLED_GAP: Duration = Duration::from_secs(60);

/// A peer and its paths.
#[derive(Clone, Debug)]
struct Member {
    id: NodeId,
    node: Node,
    /// Indices of its paths.
    paths: Vec<usize>,
}

/// The core.
#[derive(Clone, Debug)]
pub struct Controller {
    settings: Settings,
    paths: Vec<Path>,
    members: Vec<Member>,
    lateness: Lateness,
    isolated_from: Option<MonoTime>,
    reincarnate: u64,
    /// The newest incarnation that somebody else took under this node's identity; 0: none.
    doubled: u64,
    /// When one was last answered with a newer one.
    doubled_at: Option<MonoTime>,
    /// The newest time that came in.
    now: MonoTime,
    outbox: Outbox,
    /// When this controller began.
    began: MonoTime,
    /// Paths whose silence was announced by their peer.
    expected_silence: BTreeSet<PathId>,
    /// The next observation judges every path, whether or not its facts changed: the settings did.
    anew: bool,
}

impl Controller {
    /// Begins to watch: everything is Unknown at `now`.
    #[must_use]
    pub fn new(settings: Settings, now: MonoTime) -> Self {
        let paths = settings.paths.iter().map(|spec| Path::new(spec.settings, now)).collect();
        let members = settings.nodes.iter().map(|spec| member(&settings, spec.id, now)).collect();
        Self {
            settings,
            paths,
            members,
            lateness: Lateness::default(),
            isolated_from: None,
            reincarnate: 0,
            doubled: 0,
            doubled_at: None,
            now,
            outbox: Outbox::default(),
            began: now,
            expected_silence: BTreeSet::new(),
            anew: true,
        }
    }

    /// Takes in one observation, made at `now`; `inputs` are by path index. A path without input is not judged.
    pub fn observe(&mut self, now: MonoTime, inputs: &[PathInput<'_>]) {
        self.now = self.now.max(now);
        let anew = std::mem::take(&mut self.anew);
        let look = |(path, input): (&mut Path, &PathInput<'_>)| {
            path.observe(now, &PathInput { changed: input.changed || anew, ..*input })
        };
        let looked = self.paths.iter_mut().zip(inputs).map(look).enumerate();
        // All are judged before any is told of: what is told of one looks at others.
        let changes: Vec<_> = looked.filter(|(_, changes)| *changes != Changes::default()).collect();
        for (index, changes) in changes {
            self.tell_path(now, index, changes);
        }
        self.hear(now, inputs, anew);
        self.judge(now);
        self.compare_settings(now);
        self.tell_lateness(now);
        self.check_stale(now, inputs);
    }

    /// Takes in a report at `now`. Verdicts fall in [`Self::observe`] alone.
    pub fn handle(&mut self, input: Input, now: MonoTime) {
        self.now = self.now.max(now);
        match input {
            Input::BurstSent { node, sent } => {
                if let Some(member) = self.members.iter_mut().find(|member| member.id == node) {
                    member.node.note_burst(sent);
                }
            }
            Input::Late { source, due, ran } => {
                self.lateness.note(source, due, ran, self.settings.lateness_budget);
                self.tell_lateness(now);
            }
            Input::Incarnation { own } => self.settings.incarnation = own,
            Input::Outrun { newest, took } => {
                if newest > self.settings.incarnation && newest > self.reincarnate {
                    self.take_newer(now, newest, took);
                }
            }
        }
    }

    /// Puts new settings in force. Paths and peers that stay keep what was counted and believed: see
    /// `Path::reconfigure` for what a changed rule does with it. No verdict comes of the change itself.
    pub fn reconfigure(&mut self, settings: Settings, now: MonoTime) {
        self.now = self.now.max(now);
        self.anew = true;
        let old = std::mem::replace(&mut self.settings, settings);
        let old_paths = std::mem::take(&mut self.paths);
        let keep = |spec: &PathSpec| {
            let at = old.paths.iter().position(|before| before.same_path(spec))?;
            old_paths.get(at).cloned()
        };
        let renew = |spec: &PathSpec| match keep(spec) {
            Some(mut path) => {
                path.reconfigure(spec.settings);
                path
            }
            None => Path::new(spec.settings, now),
        };
        self.paths = self.settings.paths.iter().map(renew).collect();
        let old_members = std::mem::take(&mut self.members);
        for spec in &self.settings.nodes {
            let mut fresh = member(&self.settings, spec.id, now);
            if let Some(known) = old_members.iter().find(|known| known.id == spec.id) {
                fresh.node = known.node.clone();
                fresh.node.rename(name(&self.settings, spec.id));
            }
            self.members.push(fresh);
        }
    }

    /// Returns the next command, oldest first.
    #[must_use]
    pub fn poll_command(&mut self) -> Option<Command> {
        self.outbox.command()
    }

    /// Returns the next event, in the order in which they were noticed.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<Event> {
        self.outbox.next_event(self.now)
    }

    /// Returns the earliest time at which [`Self::observe`] with unchanged inputs would change anything; a time that
    /// has passed means at once. `None`: nothing is pending.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<MonoTime> {
        let paths = self.paths.iter().filter_map(Path::timeout);
        let nodes = self.members.iter().filter_map(|member| {
            let silence = self.silence(member)?;
            member.node.timeout(self.now, &silence, &self.lateness)
        });
        let settings = self.members.iter().filter_map(|member| member.node.compare_timeout());
        paths.chain(nodes).chain(settings).chain(self.lateness.timeout()).min()
    }

    /// Returns the settings in force.
    #[must_use]
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Returns every peer, in the order of the settings.
    pub fn nodes(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.members.iter().map(|member| (member.id, &member.node))
    }

    /// Returns every path, by index.
    pub fn paths(&self) -> impl Iterator<Item = (PathId, &PathSpec, &Path)> {
        let numbered = self.settings.paths.iter().zip(&self.paths);
        (0..).map(PathId).zip(numbered).map(|(id, (spec, path))| (id, spec, path))
    }

    /// Returns the most by which this node ran late in the minute before `now`.
    #[must_use]
    pub fn worst_lateness(&self, now: MonoTime) -> Duration {
        self.lateness.worst(MonoTime::ZERO, now)
    }

    /// Returns since when no peer is heard at all, if so.
    #[must_use]
    pub const fn isolated_from(&self) -> Option<MonoTime> {
        self.isolated_from
    }

    fn silence(&self, member: &Member) -> Option<Silence> {
        if self.cannot_ask(member) {
            return None;
        }
        let paths = member.paths.iter().filter_map(|&index| self.paths.get(index));
        Silence::of(paths.filter(|path| !path.aside()))
    }

    /// Says whether nothing is known of a peer, not even its silence: it is heard on no path of late, none of those left
    /// can be used, and on one at least nothing but another process keeps this node from asking.
    fn cannot_ask(&self, member: &Member) -> bool {
        let paths = || member.paths.iter().filter_map(|&index| self.paths.get(index));
        paths().any(Path::aside) && paths().all(|path| path.aside() || !path.usable() && !path.mute())
    }

    /// Why a peer is believed to be what it is.
    #[must_use]
    pub fn reason(&self, node: NodeId) -> String {
        let Some(member) = self.members.iter().find(|member| member.id == node) else { return String::new() };
        let reason = member.node.reason();
        if !self.cannot_ask(member) {
            return reason;
        }
        format!("{reason}; that was before: it can be asked on no path, for another process has this node's port")
    }

    fn link(&self, index: usize) -> Link {
        let spec = &self.settings.paths[index];
        Link {
            path: path_id(index),
            node: name(&self.settings, spec.node).node,
            node_id: spec.node,
            network: network(&self.settings, spec),
            network_id: spec.network,
            local_address: spec.local,
            peer_address: spec.peer,
        }
    }

    fn tell_path(&mut self, now: MonoTime, index: usize, changes: Changes) {
        for step in changes.steps {
            self.tell_step(now, index, step);
        }
        if let Some(EchoLoss { answers, open }) = changes.echoes_lost {
            let link = self.link(index);
            self.outbox.event(now, now, EventBody::EchoesLost { link, answers });
            // Where another peer has echoes of the same address, it is the network that loses them, not the interface.
            if open && !self.echoes_arrive_elsewhere(now, index) {
                self.outbox.ask(Command::StepDown { path: path_id(index) });
            }
        }
    }

    fn echoes_arrive_elsewhere(&self, now: MonoTime, index: usize) -> bool {
        let local = self.settings.paths[index].local;
        let mut others = self.settings.paths.iter().zip(&self.paths).enumerate();
        others.any(|(other, (spec, path))| other != index && spec.local == local && path.echoes_arrive(now))
    }

    /// Tells a step, unless the peer had said that it leaves: that its paths fall silent then is no fault of anything,
    /// and neither is news that they are heard again.
    fn tell_step(&mut self, now: MonoTime, index: usize, step: Step) {
        let node = self.settings.paths[index].node;
        let left = self.members.iter().any(|member| member.id == node && member.node.verdict() == Verdict::Left);
        if left && step.to != PathState::Up && self.paths[index].usable() {
            self.expected_silence.insert(path_id(index));
            return;
        }
        if self.expected_silence.remove(&path_id(index)) && step.to == PathState::Up {
            return;
        }
        let (misses, unsent) = (self.paths[index].misses(), self.paths[index].unsent());
        let last_heard_ns = step.silent_since;
        let body = match step.to {
            PathState::Unknown => return,
            PathState::Lost => EventBody::PathLost { link: self.link(index), misses, unsent, last_heard_ns },
            PathState::Unreachable => {
                EventBody::PathUnreachable { link: self.link(index), misses, unsent, last_heard_ns }
            }
            PathState::Failed => {
                let location = self.locate(index);
                EventBody::PathFailed { link: self.link(index), misses, unsent, last_heard_ns, location }
            }
            PathState::Up => {
                if step.from == PathState::Unknown {
                    return;
                }
                // A path that was never heard has been silent since it is watched.
                let silent_ms = millis(step.at.since(step.silent_since.max(self.began)));
                let link = self.link(index);
                self.outbox.event(step.at, now, EventBody::PathRestored { link: link.clone(), silent_ms });
                if step.from == PathState::Lost {
                    return;
                }
                EventBody::PathUp { link, silent_ms }
            }
        };
        self.outbox.event(step.at, now, body);
    }

    /// Says where a failed path's fault is, as far as this node can tell by itself.
    fn locate(&self, index: usize) -> FailLocation {
        if !self.paths[index].usable() {
            return FailLocation::OwnInterface;
        }
        let spec = &self.settings.paths[index];
        let shares =
            |other: &PathSpec| other.network == spec.network && other.local == spec.local && other.node != spec.node;
        let answers = self
            .settings
            .paths
            .iter()
            .zip(&self.paths)
            .any(|(other, path)| shares(other) && path.state() == PathState::Up && path.count() < path.rule().lost);
        if answers { FailLocation::PeerInterface } else { FailLocation::NotDetermined }
    }

    fn hear(&mut self, now: MonoTime, inputs: &[PathInput<'_>], anew: bool) {
        let limits = Limits { stall: self.settings.stall_limit, hang: self.settings.hang_limit };
        let mut told = Vec::new();
        let mut heard = None;
        for member in &mut self.members {
            let inputs = || member.paths.iter().filter_map(|&index| inputs.get(index));
            if !anew && !inputs().any(|input| input.changed) {
                continue;
            }
            let mut said = Said::default();
            inputs().for_each(|input| said.add(input.tick));
            if member.node.listen(said, limits, &mut told) {
                heard = heard.max(Some(member.node.heard()));
            }
        }
        if let (Some(at), Some(from)) = (heard, self.isolated_from) {
            self.isolated_from = None;
            let isolated_ms = millis(at.since(from));
            self.outbox.event(at, now, EventBody::IsolationEnded { isolated_ms });
        }
        for (at, body) in told {
            self.outbox.event(at, now, body);
        }
    }

    fn judge(&mut self, now: MonoTime) {
        let mut accused = Vec::new();
        for index in 0..self.members.len() {
            let Some(silence) = self.silence(&self.members[index]) else { continue };
            let member = &mut self.members[index];
            match member.node.next(now, &silence, &self.lateness) {
                Next::Nothing => {}
                Next::Burst => self.outbox.ask(Command::Burst { node: member.id }),
                Next::Accuse => accused.push(index),
            }
        }
        if accused.is_empty() {
            return;
        }
        self.check_isolation(now);
        for index in accused {
            let paths = self.members[index].paths.iter().map(|&path| self.path_evidence(path)).collect();
            let isolated = self.isolated_from.is_some();
            let (at, body) = self.members[index].node.accuse(now, paths, isolated, &self.lateness);
            self.outbox.event(at, now, body);
        }
    }

    /// Called before a verdict: if no peer is heard any more, that is said first. Peers that left are not missed, and
    /// a node that never heard anybody was not cut off.
    fn check_isolation(&mut self, now: MonoTime) {
        let missed = || self.members.iter().filter(|member| member.node.verdict() != Verdict::Left);
        let quiet = |member: &Member| {
            // A node that cannot ask does not know whether it is cut off.
            let unwatched = || member.paths.is_empty();
            member.node.verdict() == Verdict::Down
                || self.silence(member).map_or_else(unwatched, |silence| silence.fading)
        };
        let heard = missed().any(|member| member.node.was_heard());
        if self.isolated_from.is_some() || !heard || !missed().all(quiet) {
            return;
        }
        let peers = u32::try_from(missed().count()).unwrap_or(u32::MAX);
        let from = missed().map(|member| member.node.heard()).max().unwrap_or(now);
        self.isolated_from = Some(from);
        self.outbox.event(from, now, EventBody::Isolated { peers });
    }

    fn compare_settings(&mut self, now: MonoTime) {
        for member in &mut self.members {
            if let Some((at, body)) = member.node.compare(now, self.settings.hash) {
                self.outbox.event(at, now, body);
            }
        }
    }

    /// Returns what was sent and heard on each path to a peer.
    #[must_use]
    pub fn evidence_of(&self, node: NodeId) -> Vec<PathEvidence> {
        let paths = self.settings.paths.iter().enumerate().filter(|(_, spec)| spec.node == node);
        paths.map(|(index, _)| self.path_evidence(index)).collect()
    }

    fn path_evidence(&self, index: usize) -> PathEvidence {
        let (spec, path) = (&self.settings.paths[index], &self.paths[index]);
        PathEvidence {
            path: path_id(index),
            network: network(&self.settings, spec),
            peer_address: spec.peer,
            misses: path.misses(),
            unsent: path.unsent(),
            last_heard_ns: path.heard(),
            last_departure_ns: path.last_departure(),
            round_trip_ns: path.round_trip_ns(),
        }
    }

    fn tell_lateness(&mut self, now: MonoTime) {
        let budget_us = u64::try_from(self.settings.lateness_budget.as_micros()).unwrap_or(u64::MAX);
        for report in self.lateness.tell(now) {
            let max_us = u64::try_from(report.max.as_micros()).unwrap_or(u64::MAX);
            let (source, count) = (report.source, report.count);
            self.outbox.event(report.at, now, EventBody::LocalLateness { source, max_us, count, budget_us });
        }
    }

    /// Looks whether a peer knows a newer incarnation of this node. After lost disk state that is how a node learns of
    /// its past. But a peer that had asked this very incarnation by name knew of none newer then: somebody else runs
    /// under this node's identity, or did. Such a claim is answered with a newer incarnation once in a while only, so
    /// that two machines of one identity do not take turns for ever.
    fn check_stale(&mut self, now: MonoTime, inputs: &[PathInput<'_>]) {
        let own = self.settings.incarnation;
        let outrun =
            |input: &PathInput<'_>| input.tick.stale_newest >= own && input.tick.stale_newest > self.reincarnate;
        let inputs = &inputs[..inputs.len().min(self.paths.len())];
        let Some(newest) = inputs.iter().filter(|input| outrun(input)).map(|input| input.tick.stale_newest).max()
        else {
            return;
        };
        let by_name = inputs.iter().position(|input| outrun(input) && input.tick.probes > 0);
        if let Some(index) = by_name
            && newest > self.doubled
        {
            self.doubled = newest;
            let spec = &self.settings.paths[index];
            let (node, address) = (name(&self.settings, spec.node), spec.local.to_string());
            let reason = format!("{node} knows incarnation {newest}, and had known {own} as the newest");
            self.outbox.event(now, now, EventBody::SecondAddress { node, address, reason });
        }
        self.take_newer(now, newest, by_name.is_some());
    }

    /// Asks for an incarnation above `newest`; `took`: whoever knows that one had taken this node's for the newest.
    fn take_newer(&mut self, now: MonoTime, newest: u64, took: bool) {
        // Once there are two, what is asked by name reaches now the one and now the other.
        if self.doubled_at.is_some_and(|at| now < at + DOUBLED_GAP) {
            return;
        }
        if took {
            self.doubled_at = Some(now);
        }
        self.reincarnate = newest;
        self.outbox.ask(Command::Reincarnate { above: newest });
    }
}

fn path_id(index: usize) -> PathId {
    PathId(u32::try_from(index).unwrap_or(u32::MAX))
}

fn name(settings: &Settings, id: NodeId) -> NodeName {
    let known = settings.nodes.iter().find(|node| node.id == id);
    NodeName { node: known.map_or_else(|| id.to_string(), |node| node.name.clone()), node_id: id }
}

fn network(settings: &Settings, spec: &PathSpec) -> String {
    let known = settings.networks.iter().find(|network| network.id == spec.network);
    known.map_or_else(|| spec.network.to_string(), |network| network.name.clone())
}

fn member(settings: &Settings, id: NodeId, now: MonoTime) -> Member {
    let paths = settings.paths.iter().enumerate().filter(|(_, spec)| spec.node == id);
    Member { id, node: Node::new(name(settings, id), now), paths: paths.map(|(index, _)| index).collect() }
}

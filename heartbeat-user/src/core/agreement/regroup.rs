//! When to regroup, whom to ask, and what to do with what the reports come to. It judges by [`super::closing`], and
//! leaves deciding to the votes.
//!
//! ```text
//! Stabilized --trigger, higher turn--> Activate --all accounted for, or time--> Closing --same--> Stabilized
//!                                         ^   ^                                  |   `- votes missing: waits in it
//!                                         |   `----------- somebody new ---------'
//!                                         `---- beaten, or no answer --- Pruning <- proposed, by rank
//! ```

mod scene;

use super::closing::{Plan, Verdict, is_member};
use super::document::Member;
use super::ending::Course;
use super::engine::Agreement;
use super::event::{AgreementEvent, Trigger};
use super::install::mark;
use super::message::{Health, Message, Report, is_believable};
use super::parted::Parted;
use super::status::Stage;
use super::types::Setup;
use crate::core::ids::NodeId;
use crate::core::time::MonoTime;
use heartbeat_common::view::Name;
use std::collections::BTreeSet;
use std::time::Duration;

/// What this node knows of the present regroup, and of attempts upon the present view.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Regroup {
    /// Which one; reports of older ones do not count.
    pub turn: u64,
    pub active: bool,
    /// When this turn began here.
    pub since: MonoTime,
    /// What led to it, or was looked at in it.
    covered: Vec<Trigger>,
    pub serial: u64,
    sent: Option<MonoTime>,
    /// What the last report said of the others.
    said: Vec<(Member, Health, bool)>,
    /// Since when a view may be proposed.
    ready: Option<MonoTime>,
    pub waits_for: Vec<NodeId>,
    parted: Parted,
    /// The reports were judged, and something is to be done.
    judged: bool,
    /// Votes are missing.
    waiting: bool,
    pub told_waits: Option<MonoTime>,
    told_apart: Vec<NodeId>,
    /// Highest round seen upon the view held.
    pub round: u64,
    /// When another node's attempt upon it was last seen.
    pub ballot_seen: Option<MonoTime>,
    pub tries: u32,
    pub not_before: MonoTime,
    /// Since when a value is accepted here, and no decision was heard.
    pub accepted_since: Option<MonoTime>,
    /// An attempt upon a view that has to be fetched before.
    pub stash: Option<(Member, Box<Message>)>,
    /// Before, this node does not ask to join.
    pub joins_from: MonoTime,
}

impl Regroup {
    pub fn new(setup: &Setup, now: MonoTime) -> Self {
        Self {
            turn: 0,
            active: false,
            since: now,
            covered: Vec::new(),
            // A controller that takes an incarnation over says more than the one before.
            serial: u64::from(setup.generation) << 32,
            sent: None,
            said: Vec::new(),
            ready: None,
            waits_for: Vec::new(),
            parted: Parted::default(),
            judged: false,
            waiting: false,
            told_waits: None,
            told_apart: Vec::new(),
            round: 0,
            ballot_seen: None,
            tries: 0,
            not_before: now,
            accepted_since: None,
            stash: None,
            joins_from: now,
        }
    }

    /// A view was installed: nothing that was seen upon the one before counts.
    pub fn installed(&mut self, now: MonoTime) {
        self.active = false;
        self.since = now;
        self.covered.clear();
        self.ready = None;
        self.waits_for.clear();
        self.parted.nobody(false);
        self.judged = false;
        self.waiting = false;
        self.told_apart.clear();
        self.round = 0;
        self.ballot_seen = None;
        self.tries = 0;
        self.not_before = now;
        self.accepted_since = None;
    }

    /// Takes note of a round that somebody has seen upon the view held.
    pub fn heard_round(&mut self, round: u64) {
        if is_believable(round, self.round) {
            self.round = self.round.max(round);
        }
    }

    /// What was seen before says nothing about now.
    pub fn begin_again(&mut self, now: MonoTime) {
        self.since = now;
        self.ready = None;
        self.judged = false;
        self.parted.begin_again(now);
    }

    /// This node ran late: the same, and it has waited for nobody meanwhile.
    pub fn late(&mut self, now: MonoTime) {
        self.begin_again(now);
        self.parted.late(now);
    }

    pub const fn stage(&self) -> Stage {
        match (self.active, self.judged) {
            (true, true) => Stage::Closing,
            (true, false) => Stage::Activate,
            (false, _) => Stage::Stabilized,
        }
    }

    /// Says whether votes are missing, by the last judgement.
    pub const fn lacks_votes(&self) -> bool {
        self.waiting
    }
}

impl Agreement {
    /// Sends reports, begins regroups and judges them.
    pub(super) fn run_regroup(&mut self) {
        if matches!(self.course, Course::Out { .. } | Course::Ended) {
            return;
        }
        let triggers = self.triggers();
        self.regroup.covered.retain(|trigger| triggers.contains(trigger));
        let new = triggers.iter().find(|trigger| !self.regroup.covered.contains(trigger)).copied();
        // A path that flaps begins one a tick, at most.
        let paced = self.regroup.turn == 0 || self.passed(self.regroup.since) >= self.setup.timing.tick;
        if let Some(trigger) = new
            && self.looked
            && (self.regroup.active || paced)
        {
            self.regroup.covered.clone_from(&triggers);
            if !self.regroup.active {
                self.regroup.turn = self.regroup.turn.saturating_add(1);
                self.activate(Some(trigger));
            }
        }
        self.report_if_due();
        if self.regroup.active || !self.regroup.covered.is_empty() {
            self.close(&triggers);
        }
        self.wait_to_join();
        self.finish();
    }

    /// Begins a regroup, and says why where that is news.
    fn activate(&mut self, trigger: Option<Trigger>) {
        self.regroup.active = true;
        self.regroup.begin_again(self.now.mono);
        self.regroup.waiting = false;
        let turn = self.regroup.turn;
        if let Some(trigger) = trigger {
            self.tell(AgreementEvent::RegroupStarted { turn, trigger });
        }
        self.report_now();
    }

    /// Joins a regroup that another node began upon the same view; or takes note of its number.
    pub(super) fn join_turn(&mut self, turn: u64, view: Name, by: NodeId) {
        if turn <= self.regroup.turn || !is_believable(turn, self.regroup.turn) {
            return;
        }
        // The first that a controller hears of, which took over from another, that one may have told long ago.
        let known = self.regroup.turn == 0 && self.membership().is_some();
        self.regroup.turn = turn;
        if self.held.as_ref().is_some_and(|held| held.name == view) {
            self.activate((!known).then_some(Trigger::Joined(by)));
        }
    }

    /// Says whether something was begun upon the view held that has to be decided: grants were cleared for it.
    pub(super) fn owes_decision(&self) -> bool {
        let cleared = self.held.as_ref().is_some_and(|held| self.page.cleared == mark(held.name));
        cleared || self.voter.as_ref().is_some_and(|voter| voter.state().register.has_accepted())
    }

    fn close(&mut self, triggers: &[Trigger]) {
        if self.attempt.is_some() {
            return;
        }
        let Some(verdict) = self.judge_now() else { return };
        self.regroup.waiting = false;
        self.regroup.judged = !matches!(verdict, Verdict::NotYet(_) | Verdict::Same { .. });
        match verdict {
            Verdict::NotYet(nodes) => {
                self.regroup.waits_for = nodes;
                self.regroup.ready = None;
            }
            Verdict::Unsettled { nodes, edges } => {
                self.regroup.waits_for = nodes;
                self.regroup.ready = None;
                self.regroup.parted.note(edges, self.now.mono);
            }
            Verdict::Same { apart } => self.stabilize(triggers, apart),
            Verdict::Waits { available, missing } => {
                self.regroup.waiting = true;
                self.regroup.ready = None;
                self.regroup.parted.nobody(true);
                self.wait_for_votes(available, missing);
            }
            Verdict::Propose(plan) => {
                self.wait_for_proposal(&plan);
                self.propose_in_turn(&plan);
            }
        }
    }

    fn stabilize(&mut self, triggers: &[Trigger], apart: Vec<NodeId>) {
        self.regroup.active = false;
        self.regroup.ready = None;
        self.regroup.parted.nobody(false);
        self.regroup.waits_for.clear();
        self.regroup.covered = triggers.to_vec();
        if apart != self.regroup.told_apart {
            self.regroup.told_apart.clone_from(&apart);
            let view = self.held_order();
            if !apart.is_empty() {
                self.tell(AgreementEvent::NoConnectedMajority { view, apart });
            }
        }
    }

    /// Proposes when it is this node's turn to: the first in rank at once, each other one a stage later than the one
    /// before, and nobody while an attempt is on its way.
    fn propose_in_turn(&mut self, plan: &Plan) {
        let own = self.setup.own.node;
        let Some(rank) = plan.ranks.iter().position(|node| *node == own) else { return };
        let stage = self.setup.timing.stage;
        let ready = *self.regroup.ready.get_or_insert(self.now.mono);
        let turn = ready + stage.saturating_mul(u32::try_from(rank).unwrap_or(u32::MAX));
        let due = self.now.mono >= turn.max(self.regroup.not_before);
        if due && self.quiet() && self.may_propose() && self.document_of(plan).is_some() {
            self.begin_attempt();
        }
    }

    /// Says that no other node's attempt is on its way.
    pub(super) fn quiet(&self) -> bool {
        self.regroup.ballot_seen.is_none_or(|seen| self.passed(seen) >= self.setup.timing.stage)
    }

    fn may_propose(&self) -> bool {
        self.own_vote().is_vote() && (self.membership().is_some() || !self.setup.join_only)
    }

    /// Finishes what was accepted here, where no decision was heard within a stage: every voter may, also one that the
    /// next view leaves out.
    fn finish(&mut self) {
        let (Some(held), Some(voter)) = (&self.held, &self.voter) else { return };
        let begun = voter.state().register.has_accepted() && voter.state().register.view == held.name;
        if !begun {
            return;
        }
        let settled = voter.settled();
        let since = *self.regroup.accepted_since.get_or_insert(self.now.mono);
        let due = self.passed(since) >= self.setup.timing.stage && self.now.mono >= self.regroup.not_before;
        if due && settled && self.quiet() && self.attempt.is_none() && self.may_propose() {
            self.begin_attempt();
        }
    }

    /// Sends a report to all, at once.
    pub(super) fn report_now(&mut self) {
        self.regroup.serial = self.regroup.serial.saturating_add(1);
        self.regroup.sent = Some(self.now.mono);
        let report = self.own_report();
        self.regroup.said = said(&report);
        self.send_all(&Message::Report(Box::new(report)));
    }

    fn report_gap(&self) -> Duration {
        let timing = &self.setup.timing;
        let slow = timing.tick.saturating_mul(10).min(timing.control_limit / 4);
        let opened = self.passed(self.regroup.since) >= timing.opening.saturating_mul(2);
        if self.regroup.active && !(self.regroup.waiting && opened) { timing.tick.min(slow) } else { slow }
    }

    fn report_if_due(&mut self) {
        let due = self.regroup.sent.is_none_or(|sent| self.passed(sent) >= self.report_gap());
        if due || self.regroup.active && self.looked && said(&self.own_report()) != self.regroup.said {
            self.report_now();
        }
    }

    pub(super) fn regroup_timeout(&self) -> Option<MonoTime> {
        if matches!(self.course, Course::Out { .. } | Course::Ended) {
            return None;
        }
        let timing = &self.setup.timing;
        let report = self.regroup.sent.map_or(self.now.mono, |sent| sent + self.report_gap());
        let openings = [1, 2].map(|times| self.regroup.since + timing.opening.saturating_mul(times));
        let settled = self.regroup.parted.timeouts(timing);
        let openings = openings.into_iter().filter(|_| self.regroup.active).chain(settled);
        let finish = self.regroup.accepted_since.map(|since| since + timing.stage);
        let later = openings.chain(finish).chain([self.regroup.not_before]).filter(|end| *end > self.now.mono);
        later.chain([report]).min()
    }

    /// Whose quarantine is over, by this node's own clock.
    pub(super) fn released(&self) -> BTreeSet<NodeId> {
        let Some(held) = self.membership() else { return BTreeSet::new() };
        let nodes = held.document.quarantined.iter().map(|one| one.node);
        nodes.filter(|node| self.quarantine_left(*node) == Duration::ZERO).collect()
    }

    /// Says whether this node leaves a view in which others stay.
    pub(super) fn leaves_others(&self) -> bool {
        let others = self
            .held
            .as_ref()
            .is_some_and(|held| is_member(&held.document, self.setup.own) && held.document.members.len() > 1);
        others && matches!(self.course, Course::Leaving { .. })
    }
}

/// What of a report is told at once when it changes.
pub(super) fn said(report: &Report) -> Vec<(Member, Health, bool)> {
    let edges = report.hears.iter();
    edges.map(|hears| (hears.peer, hears.health, hears.both_ways_ms > 0 && hears.messages_pass)).collect()
}

//! One decision: attempts of this node, and what it answers to those of others. A document is chosen only once a majority
//! has promised; until then nothing is accepted, and no grant is cleared, anywhere.

use super::document::{Holder, Member};
use super::engine::Agreement;
use super::message::{Message, is_believable};
use super::proposer::{Proposer, Stage};
use crate::core::ids::NodeId;
use crate::core::time::MonoTime;
use heartbeat_common::acceptor::Refusal;
use heartbeat_common::view::{Ballot, Name, VoteId};

/// An attempt of this node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Attempt {
    pub proposer: Proposer,
    pub began: MonoTime,
    /// When those who have not answered were last asked.
    pub asked: MonoTime,
}

/// Largest power of two by which attempts are spread, in ticks.
const SPREAD_MAX: u32 = 6;

impl Agreement {
    /// Begins an attempt upon the view held, with a higher ballot than any seen.
    pub(super) fn begin_attempt(&mut self) {
        let (Some(held), Some(voter)) = (&self.held, &self.voter) else { return };
        let (own, name) = (self.setup.own, held.name);
        let round = self.regroup.round.max(voter.state().register.promised.round).saturating_add(1);
        let ballot = Ballot { round, node: own.node.0, incarnation: own.incarnation };
        let proposer = Proposer::begin(&held.document, ballot, voter.state().vote);
        self.attempt = Some(Attempt { proposer, began: self.now.mono, asked: self.now.mono });
        self.regroup.round = round;
        self.ask(&Message::Prepare { view: name, ballot });
        if let Some(voter) = &mut self.voter {
            let effects = voter.prepare(own.node, name, ballot);
            self.carry_out(effects);
        }
    }

    /// Sends a question to all other voters that have not answered, those whom the next view leaves out too.
    fn ask(&mut self, message: &Message) {
        let (Some(held), Some(attempt)) = (&self.held, &self.attempt) else { return };
        let open: Vec<VoteId> = attempt.proposer.missing().collect();
        let own = self.setup.own.node;
        let node = |holder: Holder| match holder {
            Holder::Node(node) if node != own => Some(node),
            Holder::Node(_) | Holder::Witness(_) => None,
        };
        let votes = held.document.votes.iter().filter(|vote| open.contains(&vote.id));
        let nodes: Vec<NodeId> = votes.filter_map(|vote| node(vote.holder)).collect();
        for node in nodes {
            self.send(node, message.clone());
        }
    }

    /// Takes an answer, of a peer or of the own vote.
    pub(super) fn answered(&mut self, message: Message) {
        let Some(attempt) = &mut self.attempt else { return };
        match message {
            Message::Promised { view, ballot, vote, promise, document } => {
                let asking = *attempt.proposer.stage() == Stage::Asking;
                attempt.proposer.promised(view, ballot, vote, &promise, document.map(|document| *document));
                if asking {
                    self.advance_attempt();
                }
            }
            Message::Accepted { view, ballot, vote, value } => {
                if attempt.proposer.accepted(view, ballot, vote, value) {
                    self.decided();
                }
            }
            Message::Refused { view, ballot, refusal } => self.refused(view, ballot, refusal),
            Message::Report(_)
            | Message::Prepare { .. }
            | Message::Accept { .. }
            | Message::Decided(_)
            | Message::Fetch(_) => {}
        }
    }

    /// Goes from promises to a value: that which was accepted before, else one made now.
    fn advance_attempt(&mut self) {
        if self.attempt.as_ref().is_some_and(|attempt| *attempt.proposer.stage() == Stage::Choosing) {
            let document = self.plan().and_then(|plan| self.document_of(&plan));
            match (document, &mut self.attempt) {
                (Some(document), Some(attempt)) => {
                    attempt.proposer.choose(document);
                }
                // What was to be proposed is not wanted any more, or lacks answers: promises alone bind nobody.
                (_, attempt) => *attempt = None,
            }
        }
        let Some(attempt) = &mut self.attempt else { return };
        let Stage::Proposing(document) = attempt.proposer.stage() else { return };
        let (view, ballot, document) = (attempt.proposer.view(), attempt.proposer.ballot(), document.clone());
        attempt.asked = self.now.mono;
        self.ask(&Message::Accept { view, ballot, document: document.clone() });
        if let Some(voter) = &mut self.voter {
            let effects = voter.accept(self.setup.own.node, view, ballot, &document);
            self.note_acceptance();
            self.carry_out(effects);
        }
    }

    fn decided(&mut self) {
        let Some(attempt) = self.attempt.take() else { return };
        let Stage::Decided(document) = attempt.proposer.stage() else { return };
        self.send_all(&Message::Decided(document.clone()));
        self.learn((**document).clone());
    }

    fn refused(&mut self, view: Name, ballot: Ballot, refusal: Refusal) {
        let ours = self.attempt.as_ref().map(|attempt| (attempt.proposer.view(), attempt.proposer.ballot()));
        if ours != Some((view, ballot)) {
            return;
        }
        match refusal {
            Refusal::Promised(other) => {
                self.regroup.heard_round(other.round);
                self.step_back();
            }
            Refusal::OlderView(_) | Refusal::OtherValue => self.step_back(),
            // It will ask for the view, and answer then.
            Refusal::NewerView => {}
        }
    }

    /// Gives way to another attempt, for a time that differs from node to node and grows.
    fn step_back(&mut self) {
        self.attempt = None;
        self.regroup.tries = self.regroup.tries.saturating_add(1);
        let most = 1u64 << self.regroup.tries.min(SPREAD_MAX);
        let draw = scatter(self.setup.seed ^ u64::from(self.regroup.tries) ^ u64::from(self.setup.own.node.0) << 32);
        let ticks = u32::try_from(draw % most + 1).unwrap_or(1);
        self.regroup.not_before = self.now.mono + self.setup.timing.tick.saturating_mul(ticks);
    }

    /// Asks again what was not answered, and gives up what takes too long.
    pub(super) fn run_attempt(&mut self) {
        let Some(attempt) = &self.attempt else { return };
        let timing = self.setup.timing;
        if self.passed(attempt.asked) >= timing.stage {
            let open: Vec<VoteId> = attempt.proposer.missing().collect();
            self.wait_for_answers(&open);
        }
        let Some(attempt) = &self.attempt else { return };
        if self.passed(attempt.began) >= timing.pruning.max(timing.stage.saturating_mul(2)) {
            self.step_back();
            return;
        }
        if self.passed(attempt.asked) < timing.stage {
            return;
        }
        let (view, ballot) = (attempt.proposer.view(), attempt.proposer.ballot());
        let message = match attempt.proposer.stage() {
            Stage::Proposing(document) => Message::Accept { view, ballot, document: document.clone() },
            Stage::Asking | Stage::Choosing | Stage::Decided(_) => Message::Prepare { view, ballot },
        };
        self.ask(&message);
        if let Some(attempt) = &mut self.attempt {
            attempt.asked = self.now.mono;
        }
    }

    pub(super) fn attempt_timeout(&self) -> Option<MonoTime> {
        self.attempt.as_ref().map(|attempt| attempt.asked + self.setup.timing.stage)
    }

    /// Answers another node's attempt. One upon a view that this node does not hold yet is kept until it does.
    pub(super) fn hear_attempt(&mut self, from: Member, message: Message) {
        let (view, ballot) = match &message {
            Message::Prepare { view, ballot } | Message::Accept { view, ballot, .. } => (*view, *ballot),
            _ => return,
        };
        if self.setup.join_only && self.membership().is_none() {
            return;
        }
        let newest = self.voter.as_ref().map(|voter| voter.state().register.view);
        let Some(newest) = newest.filter(|newest| newest.order >= view.order) else {
            self.regroup.stash = Some((from, Box::new(message)));
            self.fetch(from.node);
            return;
        };
        if newest.order > view.order {
            self.push_view(from.node);
        }
        if newest == view {
            let promised = self.voter.as_ref().map_or(0, |voter| voter.state().register.promised.round);
            if !is_believable(ballot.round, self.regroup.round.max(promised)) {
                // No later attempt might be left above it.
                return;
            }
            self.regroup.heard_round(ballot.round);
            self.regroup.ballot_seen = Some(self.now.mono);
        }
        let Some(voter) = &mut self.voter else { return };
        let effects = match message {
            Message::Accept { document, .. } => voter.accept(from.node, view, ballot, &document),
            _ => voter.prepare(from.node, view, ballot),
        };
        self.note_acceptance();
        self.carry_out(effects);
    }

    /// Takes up again the attempt that had to wait for its view.
    pub(super) fn replay(&mut self) {
        if let Some((from, message)) = self.regroup.stash.take() {
            self.hear_attempt(from, *message);
        }
    }

    /// Whoever has accepted owes a decision, from then on.
    fn note_acceptance(&mut self) {
        if self.voter.as_ref().is_some_and(|voter| voter.state().register.has_accepted()) {
            self.regroup.accepted_since = Some(self.now.mono);
        }
    }
}

/// Spreads bits evenly (S. Vigna's splitmix64).
fn scatter(seed: u64) -> u64 {
    let mut word = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}

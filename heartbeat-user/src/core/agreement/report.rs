//! What this node says of itself, and what in its own facts asks for a new view. It sends nothing.

use super::closing::{applies, is_member, join_fault};
use super::document::{Member, Reason};
use super::ending::Course;
use super::engine::Agreement;
use super::event::Trigger;
use super::message::{Health, Report};
use super::peer::{Peer, Tie};
use super::stops::How;
use super::voter::Voter;
use crate::core::ids::NodeId;
use heartbeat_common::lease::NODES_MAX;
use heartbeat_common::view::{Ballot, Name, VoteId};
use std::collections::BTreeMap;

impl Agreement {
    /// Returns what this node says of itself now.
    pub(super) fn own_report(&self) -> Report {
        let (now, timing) = (self.now.mono, &self.setup.timing);
        let name = self.held.as_ref().map_or(Name::NONE, |held| held.name);
        let register = self.voter.as_ref().map(|voter| voter.state().register).filter(|one| one.view == name);
        let proved = self.stops.known().filter(|(_, how)| *how != How::Waited);
        let stopped: BTreeMap<NodeId, Member> = proved.map(|(member, _)| (member.node, member)).collect();
        let stuck = self.writing.is_some_and(|since| self.passed(since) >= timing.control_limit);
        let joins = self.held.is_some()
            && self.membership().is_none()
            && self.course == Course::Runs
            && now >= self.regroup.joins_from
            && self.own_vote().is_vote()
            && !self.stands_aside();
        let tie = |peer: &Peer| match &self.held {
            Some(held) if !is_member(&held.document, peer.member()) => Tie::Strangers,
            Some(_) if self.membership().is_some() => Tie::Members,
            Some(_) => Tie::Joining,
            None => Tie::Strangers,
        };
        let hears = |peer: &Peer| peer.hears(tie(peer), now, timing.control_limit, timing.detection);
        Report {
            author: self.setup.own,
            serial: self.regroup.serial,
            turn: self.regroup.turn,
            view: name,
            vote: if self.stands_aside() { VoteId::NONE } else { self.own_vote() },
            sequence: self.voter.as_ref().map_or(0, Voter::durable),
            accepted: register.map_or(Ballot::NONE, |register| register.accepted),
            round: self.regroup.round.max(register.map_or(0, |register| register.promised.round)),
            settings: self.setup.settings,
            leaving: matches!(self.course, Course::Leaving { .. }),
            cannot_apply: stuck || self.forfeited(),
            joins,
            hears: self.peers.values().map(hears).collect(),
            stopped: stopped.into_values().take(NODES_MAX).collect(),
            ends: self.own_ends(),
            wishes: self.requests.wishes().copied().collect(),
            remembers: self.ends.remembers(),
        }
    }

    /// Says whether this node has no part in what the others come to: it only joins, and there is nothing to join. It
    /// answers no attempt as long as it is no member, so nobody is to count on its vote where a majority is looked for.
    fn stands_aside(&self) -> bool {
        self.setup.join_only && self.membership().is_none() && !self.peers.values().any(Peer::says_quorate)
    }

    /// Everything that asks for a new view, as this node sees it.
    pub(super) fn triggers(&self) -> Vec<Trigger> {
        let Some(held) = &self.held else { return Vec::new() };
        let own = self.setup.own;
        let view = &held.document;
        if !is_member(view, own) {
            let may = view.weight_of(self.own_vote()) > 0 && !self.setup.join_only;
            return if may { vec![Trigger::Start] } else { Vec::new() };
        }
        let complaint = |member: &Member| Some(Trigger::Member(*member, self.complaint(*member)?));
        let others = view.members.iter().filter(|member| member.node != own.node);
        let mut triggers: Vec<Trigger> = others.filter_map(complaint).collect();
        triggers.extend(self.peers.keys().filter_map(|node| self.joiner(*node)).map(Trigger::Joiner));
        let reports = self.peers.values().filter_map(|peer| peer.report.as_ref());
        let reports = reports.filter(|report| is_member(view, report.author));
        let wishes = reports.flat_map(|report| &report.wishes).chain(self.requests.wishes());
        triggers.extend(wishes.filter(|one| applies(view, one.wish)).map(|one| Trigger::Wish(one.id)));
        triggers.extend(self.released().into_iter().map(Trigger::Release));
        if self.leaves_others() {
            triggers.push(Trigger::Leave);
        }
        if self.owes_decision() {
            triggers.push(Trigger::Unfinished);
        }
        triggers.sort_unstable();
        triggers.dedup();
        triggers
    }

    /// Says why a member may have to go, by this node's own facts and its own report.
    fn complaint(&self, member: Member) -> Option<Reason> {
        let Some(peer) = self.peers.get(&member.node) else { return Some(Reason::Down) };
        let (facts, timing) = (&peer.facts, &self.setup.timing);
        if facts.incarnation > member.incarnation {
            return Some(Reason::Restarted);
        }
        let report = peer.report.as_ref().filter(|report| report.author == member);
        if report.is_some_and(|report| report.leaving) {
            return Some(Reason::Left);
        }
        if report.is_some_and(|report| report.cannot_apply) {
            return Some(Reason::CannotApply);
        }
        match facts.health {
            Health::Down => Some(Reason::Down),
            Health::Hung => Some(Reason::Hung),
            Health::Left if facts.incarnation == member.incarnation => Some(Reason::Left),
            Health::GaveUp if facts.incarnation == member.incarnation => Some(Reason::GaveUp),
            Health::Left | Health::GaveUp | Health::Unknown | Health::Stalled => None,
            Health::Up if facts.both_ways_since.is_none() => {
                let apart = peer.apart_since.is_some_and(|since| self.passed(since) >= timing.detection);
                apart.then_some(Reason::NotConnected)
            }
            Health::Up => {
                (!peer.messages_pass(Tie::Members, self.now.mono, timing.control_limit)).then_some(Reason::NoMessages)
            }
        }
    }

    /// Returns who of this node may join, by this node's own facts and its report.
    fn joiner(&self, node: NodeId) -> Option<Member> {
        let (held, peer) = (self.held.as_ref()?, self.peers.get(&node)?);
        let report = peer.report.as_ref()?;
        let (now, timing) = (self.now.mono, &self.setup.timing);
        let long = peer.facts.both_ways_since.is_some_and(|since| self.passed(since) >= timing.detection);
        let fit = report.joins
            && report.view == held.name
            && report.author == peer.member()
            && long
            && peer.messages_pass(Tie::Strangers, now, timing.control_limit)
            && !peer.doubled(now, timing.detection)
            && peer.ripened(now, timing.delay)
            && join_fault(&held.document, report, self.setup.settings).is_none();
        fit.then_some(report.author)
    }
}

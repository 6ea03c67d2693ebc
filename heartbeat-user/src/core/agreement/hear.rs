//! What other controllers say: who may say it, what becomes of it, and what is answered at once. It believes who said it
//! (the connection knows), and nothing that an older incarnation says.

use super::closing::{is_member, join_fault};
use super::document::Member;
use super::engine::Agreement;
use super::event::{AgreementEvent, JoinFault};
use super::message::{Health, Hears, Message, Report, is_believable};
use super::regroup::said;
use crate::core::ids::NodeId;
use heartbeat_common::acceptor::Refusal;
use heartbeat_common::view::Order;
use std::time::Duration;

/// More forced starts than this were not made behind a node's back: an operator types each of them, and waits for it. What
/// is dropped here is lost without a word, so it has to be what nobody can mean.
const FORCES_MAX: u16 = 1 << 15;

impl Agreement {
    pub(super) fn connected(&mut self, peer: Member) {
        if self.peers.contains_key(&peer.node) {
            self.regroup.serial = self.regroup.serial.saturating_add(1);
            let report = self.own_report();
            self.send(peer.node, Message::Report(Box::new(report)));
        }
    }

    /// Takes a message.
    pub(super) fn hear(&mut self, from: Member, message: Message) {
        let now = self.now.mono;
        let Some(peer) = self.peers.get_mut(&from.node) else { return };
        if from.incarnation < peer.facts.incarnation {
            return;
        }
        (peer.message_at, peer.spoke_at) = (now, now);
        peer.spoke_as = from.incarnation;
        match message {
            Message::Report(report) => self.hear_report(from, &report),
            Message::Prepare { .. } | Message::Accept { .. } => self.hear_attempt(from, message),
            Message::Promised { .. } | Message::Accepted { .. } => self.answered(message),
            Message::Refused { refusal, .. } => {
                if let Refusal::OlderView(_) = refusal {
                    self.fetch(from.node);
                }
                self.answered(message);
            }
            Message::Decided(document) if self.may_follow(document.order) => {
                self.tell_not_newest(&document, from.node);
                self.learn(*document);
            }
            Message::Decided(_) => {}
            Message::Fetch(order) => {
                if let Some(held) = self.held.as_ref().filter(|held| held.name.order > order) {
                    let document = Box::new(held.document.clone());
                    self.send(from.node, Message::Decided(document));
                }
            }
        }
    }

    fn hear_report(&mut self, from: Member, report: &Report) {
        let author = report.author;
        let Some(peer) = self.peers.get_mut(&author.node) else {
            self.hear_of_itself(report);
            return;
        };
        let known = peer.report.as_ref().map(|known| (known.turn, said(known)));
        if !peer.take(report) {
            self.tell_author(from, report);
            return;
        }
        self.note_accepted(report);
        self.remember_state(report);
        self.compare_states(report, author);
        self.join_turn(report.turn, report.view, author.node);
        if self.held.as_ref().is_some_and(|held| held.name == report.view) {
            self.regroup.heard_round(report.round);
        }
        let held = self.held.as_ref().map(|held| held.name).unwrap_or_default();
        // Of two forced views of one order the lower digest wins; both ends tell theirs.
        let other = report.view.order == held.order && report.view != held;
        if report.view.order > held.order {
            self.fetch(from.node);
        } else if from == author && (report.view.order < held.order || other) {
            self.push_view(author.node);
        }
        self.tell_refusal(report);
        if from == author && self.regroup.active {
            self.pass_on(report, known != Some((report.turn, said(report))));
        }
    }

    /// Says whether a view of this order may have been decided after the one held: the last numbers are reached by no
    /// leap. Where nothing is held the force count may be any.
    fn may_follow(&self, order: Order) -> bool {
        let held = self.held_order();
        let forces = order.force().saturating_sub(held.force());
        is_believable(order.number(), held.number()) && (!held.is_view() || forces <= FORCES_MAX)
    }

    /// Passes a report on to those who do not hear its author: all of a connected part know the same. Between members that
    /// hear each other again since a moment ago messages may not pass yet: what is news goes to those too.
    fn pass_on(&mut self, report: &Report, news: bool) {
        let Some(held) = &self.held else { return };
        let limit = self.setup.timing.control_limit;
        let news = news && is_member(&held.document, report.author);
        let young = |hears: &Hears| Duration::from_millis(hears.both_ways_ms.into()) < limit;
        let deaf = |to: &NodeId| {
            let theirs = self.peers.get(to).and_then(|peer| peer.report.as_ref());
            let edge = theirs.and_then(|theirs| theirs.hears.iter().find(|one| one.peer.node == report.author.node));
            let member = news && theirs.is_some_and(|theirs| is_member(&held.document, theirs.author));
            edge.is_some_and(|hears| hears.health != Health::Up || !hears.messages_pass || member && young(hears))
        };
        let others = self.peers.keys().filter(|node| **node != report.author.node);
        let deaf: Vec<NodeId> = others.copied().filter(deaf).collect();
        for to in deaf {
            self.send(to, Message::Report(Box::new(report.clone())));
        }
    }

    /// Asks a peer for its view, once a tick.
    pub(super) fn fetch(&mut self, node: NodeId) {
        let (now, gap, held) = (self.now.mono, self.setup.timing.tick, self.held_order());
        let Some(peer) = self.peers.get_mut(&node) else { return };
        if peer.fetched.is_none_or(|at| now.since(at) >= gap) {
            peer.fetched = Some(now);
            self.send(node, Message::Fetch(held));
        }
    }

    /// Sends the view held to a peer that is behind, once a tick.
    pub(super) fn push_view(&mut self, node: NodeId) {
        let (now, gap) = (self.now.mono, self.setup.timing.tick);
        let Some(document) = self.held.as_ref().map(|held| held.document.clone()) else { return };
        let Some(peer) = self.peers.get_mut(&node) else { return };
        if peer.pushed.is_none_or(|at| now.since(at) >= gap) {
            peer.pushed = Some(now);
            self.send(node, Message::Decided(Box::new(document)));
        }
    }

    /// Tells why somebody who wants to join may not: once for each incarnation and reason.
    fn tell_refusal(&mut self, report: &Report) {
        let Some(held) = self.membership() else { return };
        let node = report.author;
        if !report.joins || is_member(&held.document, node) {
            return;
        }
        let detection = self.setup.timing.detection;
        let doubled = self.peers.get(&node.node).is_some_and(|peer| peer.doubled(self.now.mono, detection));
        let fault = join_fault(&held.document, report, self.setup.settings);
        let Some(why) = fault.or(doubled.then_some(JoinFault::Doubled)) else { return };
        let Some(peer) = self.peers.get_mut(&node.node) else { return };
        if peer.refused.replace((node.incarnation, why)) == Some((node.incarnation, why)) {
            return;
        }
        let event = if why == JoinFault::Quarantined {
            AgreementEvent::QuarantineRefused { node: node.node, remaining: self.quarantine_left(node.node) }
        } else {
            AgreementEvent::JoinRefused { node, why }
        };
        self.tell(event);
    }
}

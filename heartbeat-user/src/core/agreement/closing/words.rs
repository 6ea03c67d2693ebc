//! What the reports of one regroup say of a node, and what that comes to: who is accounted for, who has gone and why, who
//! hears whom.

use super::{Judge, is_member};
use crate::core::agreement::document::{Member, Reason};
use crate::core::agreement::message::{Health, Hears, Report, Wish, Wished};
use crate::core::ids::NodeId;
use std::time::Duration;

impl<'a> Judge<'a> {
    /// What those say of a node whose word counts, members and holders of votes: each that has reported, but itself.
    pub(in crate::core::agreement) fn words(
        &self,
        node: NodeId,
    ) -> impl Iterator<Item = (&'a Report, Option<&'a Hears>)> {
        let view = self.scene.view;
        let counts = move |report: &&Report| is_member(view, report.author) || view.weight_of(report.vote) > 0;
        let others = self.scene.reports.values().copied().filter(counts);
        others.filter(move |report| report.author.node != node).map(move |report| (report, edge(report, node)))
    }

    /// Says whether all others say so of a node, and at least one does.
    pub(super) fn all_say(&self, node: NodeId, so: impl Fn(&Hears) -> bool) -> bool {
        let mut words = self.words(node).peekable();
        words.peek().is_some() && words.all(|(_, hears)| hears.is_some_and(&so))
    }

    pub(super) fn one_says(&self, node: NodeId, so: impl Fn(&Hears) -> bool) -> bool {
        self.words(node).any(|(_, hears)| hears.is_some_and(&so))
    }

    /// Returns what a node says of itself, whatever view it holds.
    fn own_word(&self, node: NodeId) -> Option<&'a Report> {
        self.scene.reports.get(&node).or_else(|| self.scene.behind.get(&node)).copied()
    }

    pub(super) fn accounted(&self, node: NodeId) -> bool {
        let incarnation = self.scene.view.incarnation_of(node);
        let known = |hears: &Hears| match hears.health {
            Health::Unknown => false,
            Health::Up => incarnation.is_some_and(|old| hears.peer.incarnation > old),
            Health::Stalled | Health::Hung | Health::Left | Health::GaveUp | Health::Down => true,
        };
        self.scene.reports.contains_key(&node) || self.scene.behind.contains_key(&node) || self.all_say(node, known)
    }

    /// Says whether a node's controller makes no progress; a report in this regroup shows that it does.
    pub(super) fn is_stalled(&self, node: NodeId) -> bool {
        !self.scene.reports.contains_key(&node)
            && self.one_says(node, |hears| matches!(hears.health, Health::Stalled | Health::Hung))
    }

    pub(super) fn condemnation(&self, member: Member) -> Option<Reason> {
        if let Some(report) = self.own_word(member.node) {
            return (report.author == member && report.cannot_apply).then_some(Reason::CannotApply);
        }
        let hung = |hears: &Hears| hears.health == Health::Hung;
        let not_heard = |hears: &Hears| matches!(hears.health, Health::Down | Health::Unknown);
        let all = self.all_say(member.node, |hears| hung(hears) || not_heard(hears));
        (all && self.one_says(member.node, hung)).then_some(Reason::Hung)
    }

    /// Says whether this incarnation has gone, or goes, by its own word, a newer one's, or an operator's. What its service
    /// manager has its kernel say is its own word too.
    pub(in crate::core::agreement) fn gone(&self, member: Member) -> Option<Reason> {
        if matches!(self.wish, Some(Wished { wish: Wish::Without(node), .. }) if node == member.node) {
            return Some(Reason::Fenced);
        }
        let newer = |hears: &Hears| hears.peer.incarnation > member.incarnation;
        let ended = |how: Health| {
            let so = |hears: &Hears| hears.health == how && hears.peer.incarnation == member.incarnation;
            self.one_says(member.node, so)
        };
        let report = self.own_word(member.node);
        if report.is_some_and(|report| report.author.incarnation > member.incarnation)
            || self.one_says(member.node, newer)
        {
            Some(Reason::Restarted)
        } else if report.is_some_and(|report| report.leaving) {
            // What became of its controller on the way does not make it another end.
            Some(Reason::Left)
        } else if ended(Health::GaveUp) {
            Some(Reason::GaveUp)
        } else if ended(Health::Left) {
            Some(Reason::Left)
        } else {
            None
        }
    }

    /// Says whether `a` hears `b`, by its own report; the other side's stands for one that has not reported, and for a
    /// member that cannot say yet, whose controller began a moment ago: its kernel answered all the while, and to have
    /// heard both ways takes both.
    pub(in crate::core::agreement) fn hears(&self, a: Member, b: Member, messages: bool) -> bool {
        let both = is_member(self.scene.view, a) && is_member(self.scene.view, b);
        let says = |report: &&Report| !both || edge(report, b.node).is_none_or(|hears| hears.health != Health::Unknown);
        let other = self.scene.reports.get(&b.node).copied();
        let (from, to) = match self.scene.reports.get(&a.node).copied().filter(says) {
            Some(report) => (Some(report), b),
            None if other.is_some() || !self.scene.reports.contains_key(&a.node) => (other, a),
            None => return false,
        };
        // Neither has reported: both are stalled, or wait for the same cure; who hears them keeps them.
        let Some(report) = from else { return true };
        let Some(hears) = edge(report, to.node) else { return false };
        let long = if both { 1 } else { millis(self.scene.detection) };
        hears.peer.incarnation == to.incarnation
            && is_heard(hears)
            && hears.both_ways_ms >= long
            && (hears.messages_pass || !messages)
    }

    pub(super) fn both_hear(&self, a: Member, b: Member) -> bool {
        self.hears(a, b, true) && self.hears(b, a, true)
    }
}

fn edge(report: &Report, node: NodeId) -> Option<&Hears> {
    report.hears.iter().find(|hears| hears.peer.node == node)
}

/// Says whether frames of the other end arrive, whatever its controller does.
pub(in crate::core::agreement) const fn is_heard(hears: &Hears) -> bool {
    matches!(hears.health, Health::Up | Health::Stalled | Health::Hung)
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

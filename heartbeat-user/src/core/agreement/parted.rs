//! Members that are heard, and would be left out because they are not connected with all that stay: nobody goes for that
//! while who hears whom still changes. Networks neither break nor heal in one moment, and what is seen on the way is no
//! ground to send anybody away. It remembers what was seen and since when; who would go is judged in [`super::closing`].

use super::closing::{Judge, Verdict, is_heard};
use super::document::Member;
use super::types::Timing;
use crate::core::ids::NodeId;
use crate::core::time::MonoTime;
use heartbeat_common::lease::NODES_MAX;
use std::time::Duration;

/// Who hears whom, by all reports together: for each node whom it hears, a bit for each, and whose messages pass too.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Edges(Vec<(Member, u64, u64)>);

/// What a judgement has to know of those before it.
#[derive(Clone, Copy, Debug)]
pub struct Patience<'a> {
    /// Who heard whom all the time for two delays; `None`: that changed meanwhile.
    pub lasted: Option<&'a Edges>,
    /// It was waited for that for as long as it may be.
    pub over: bool,
    /// Votes were missing until a moment ago: whoever is not heard yet may be about to be.
    pub wary: bool,
}

/// What is remembered between judgements.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Parted {
    seen: Option<Seen>,
    wary: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Seen {
    edges: Edges,
    /// Since when just these.
    since: MonoTime,
    /// Since when somebody who is heard would go, whoever that was.
    begun: MonoTime,
}

impl Parted {
    /// Takes note of who hears whom, where somebody who is heard would go.
    pub fn note(&mut self, edges: Edges, now: MonoTime) {
        match &mut self.seen {
            Some(seen) if seen.edges == edges => {}
            Some(seen) => (seen.edges, seen.since) = (edges, now),
            None => self.seen = Some(Seen { edges, since: now, begun: now }),
        }
    }

    /// All stay, for now; or nobody can go, for want of votes.
    pub fn nobody(&mut self, votes_missing: bool) {
        (self.seen, self.wary) = (None, votes_missing);
    }

    /// What was seen before says nothing of how long it lasted.
    pub fn begin_again(&mut self, now: MonoTime) {
        if let Some(seen) = &mut self.seen {
            seen.since = now;
        }
    }

    /// This node did not run for a while: of that time nothing is known, and none of it was waited.
    pub fn late(&mut self, now: MonoTime) {
        if let Some(seen) = &mut self.seen {
            (seen.since, seen.begun) = (now, now);
        }
    }

    /// Returns what a judgement at `now` has to know.
    pub fn patience(&self, now: MonoTime, timing: &Timing) -> Patience<'_> {
        let passed = |since| move |end: Duration| now.since(since) >= end;
        let lasted = self.seen.as_ref().filter(|seen| passed(seen.since)(settling(timing)));
        let over = self.seen.as_ref().is_some_and(|seen| passed(seen.begun)(timing.control_limit));
        Patience { lasted: lasted.map(|seen| &seen.edges), over, wary: self.wary }
    }

    /// Returns when that changes by time alone.
    pub fn timeouts(&self, timing: &Timing) -> impl Iterator<Item = MonoTime> {
        let ends = self.seen.as_ref().map(|seen| [seen.since + settling(timing), seen.begun + timing.control_limit]);
        ends.into_iter().flatten()
    }
}

/// For so long who hears whom must have stayed the same: each has asked each other twice.
const fn settling(timing: &Timing) -> Duration {
    timing.delay.saturating_mul(2)
}

impl Judge<'_> {
    /// Returns what is to be waited for where `kept` alone would stay, and others that are heard might yet be connected;
    /// `also` are nodes that may come, and so count in who hears whom.
    pub(super) fn unsettled(&self, kept: &[Member], also: &[Member]) -> Option<Verdict> {
        let Patience { lasted, over, wary } = self.scene.patience;
        let heard = |member: &Member| {
            let mut words = self.words(member.node).filter(|(report, _)| kept.contains(&report.author));
            words.any(|(_, hears)| hears.is_some_and(|one| one.peer.incarnation == member.incarnation && is_heard(one)))
        };
        let unsure = |member: &&Member| {
            !kept.contains(member)
                && !self.condemned.contains_key(&member.node)
                && self.gone(**member).is_none()
                && (wary || heard(member))
        };
        let nodes: Vec<NodeId> = self.scene.view.members.iter().filter(unsure).map(|member| member.node).collect();
        if nodes.is_empty() || over {
            return None;
        }
        // To hear both ways takes both, so that one end alone says so for a moment only, or in a report that is outdated:
        // frames pass at once where a network heals, and connections come back later. Of a member that nobody hears there
        // is no newer word to wait for: what it said before it fell silent contradicts nothing.
        let one_ended = |a: &&Member, b: &Member| self.hears(**a, *b, false) != self.hears(*b, **a, false);
        let mut parted = self.scene.view.members.iter().filter(unsure).filter(|member| heard(member));
        let contradicted = parted.any(|a| kept.iter().any(|b| one_ended(&a, b)));
        let edges = self.edges(also);
        (contradicted || lasted != Some(&edges)).then_some(Verdict::Unsettled { nodes, edges })
    }

    fn edges(&self, also: &[Member]) -> Edges {
        let mut all: Vec<Member> = self.scene.view.members.iter().chain(also).copied().collect();
        all.sort_unstable();
        all.dedup();
        all.truncate(NODES_MAX);
        let row = |a: &Member, messages: bool| {
            let to = |bit: usize, b: &Member| u64::from(a != b && self.hears(*a, *b, messages)) << bit;
            all.iter().enumerate().fold(0, |set, (bit, b)| set | to(bit, b))
        };
        Edges(all.iter().map(|a| (*a, row(a, false), row(a, true))).collect())
    }
}

//! What this node remembers of others across views: how often each ended ungracefully, since when it is in quarantine,
//! how new the state of each vote was. It decides nothing: counts go into reports, and into the documents built of them.

use super::build::is_ungraceful;
use super::document::{Document, Member};
use super::engine::Agreement;
use super::event::AgreementEvent;
use super::message::{Report, is_believable};
use super::stops::Clocks;
use super::voter::Served;
use crate::core::ids::NodeId;
use heartbeat_common::lease::{NODES_MAX, SLOTS};
use heartbeat_common::view::VoteId;
use std::collections::BTreeMap;
use std::time::Duration;

/// For so long an ungraceful end is remembered.
const HOUR: Duration = Duration::from_secs(3_600);
/// Most ends remembered of one node.
const ENDS_MAX: usize = 16;
/// The longest wait of a node before it asks to join.
const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// How long a quarantine has lasted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Lasted {
    /// The newest incarnation of the node that was admitted: another quarantine is of a later one.
    incarnation: u64,
    /// So long, and since then.
    served: Duration,
    since: Clocks,
}

impl Lasted {
    fn by(&self, now: Clocks) -> Duration {
        self.served + now.since(self.since)
    }
}

/// What is remembered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Ends {
    /// When views left each node out ungracefully, the newest last.
    noted: BTreeMap<NodeId, Vec<Clocks>>,
    /// How long each quarantine has lasted.
    quarantined: BTreeMap<NodeId, Lasted>,
    /// The newest sequence seen of each vote.
    states: BTreeMap<VoteId, u64>,
}

impl Ends {
    pub fn remembers(&self) -> Vec<(VoteId, u64)> {
        self.states.iter().map(|(vote, sequence)| (*vote, *sequence)).collect()
    }

    /// Begins with what the disk remembers. Of the time in which no controller ran here all is counted that this machine
    /// start shows: if it is the one in which that was written, the time since then; if it is a later one, at least its own
    /// is. Neither is ever longer than what has passed.
    pub fn of(states: &[(VoteId, u64)], quarantines: &[Served], now: Clocks) -> Self {
        let lasted = |one: &Served| {
            let passed = now.boot_ns.checked_sub(one.boot_ns).unwrap_or(now.boot_ns);
            let served = Duration::from_millis(one.served_ms).saturating_add(Duration::from_nanos(passed));
            (one.member.node, Lasted { incarnation: one.member.incarnation, served, since: now })
        };
        let quarantined = quarantines.iter().map(lasted).collect();
        Self { states: states.iter().copied().collect(), quarantined, ..Self::default() }
    }

    /// Takes up the quarantines of a view. Those that last go on; what is no quarantine any more is forgotten.
    pub fn quarantine(&mut self, view: &Document, now: Clocks) {
        let begins = |node: NodeId| {
            let fresh = Lasted { incarnation: view.admitted_of(node), served: Duration::ZERO, since: now };
            let lasts = self.quarantined.get(&node).filter(|one| one.incarnation == fresh.incarnation);
            (node, lasts.copied().unwrap_or(fresh))
        };
        self.quarantined = view.quarantined.iter().map(|one| begins(one.node)).collect();
    }

    /// Returns how long the quarantines of a view have lasted, for the disk.
    pub fn served(&self, view: &Document, now: Clocks) -> Vec<Served> {
        let mut ends = Self { quarantined: self.quarantined.clone(), ..Self::default() };
        ends.quarantine(view, now);
        let served = |(node, one): (&NodeId, &Lasted)| Served {
            member: Member { node: *node, incarnation: one.incarnation },
            served_ms: u64::try_from(one.by(now).as_millis()).unwrap_or(u64::MAX),
            boot_ns: now.boot_ns,
        };
        ends.quarantined.iter().map(served).collect()
    }

    /// Remembers how new a vote's state is. Says whether that is news.
    pub fn remember(&mut self, vote: VoteId, sequence: u64) -> bool {
        let room = self.states.len() < SLOTS || self.states.contains_key(&vote);
        let known = self.states.get(&vote).copied().unwrap_or(0);
        let news = vote.is_vote() && room && known < sequence && is_believable(sequence, known);
        if news {
            self.states.insert(vote, sequence);
        }
        news
    }
}

impl Agreement {
    /// Waits before it asks to join, the longer the more often it ended of late.
    pub(super) fn begin_backoff(&mut self) {
        let ends = self.setup.own_ends;
        // A member has joined before: the controller that takes it over waits for nothing.
        if ends > 0 && self.membership().is_none() {
            let wait = Duration::from_secs(1 << u32::from(ends.min(6))).min(BACKOFF_MAX);
            self.regroup.joins_from = self.now.mono + wait;
            self.tell(AgreementEvent::RestartBackoff { ends, wait });
        }
    }

    /// Notes whom a view left out ungracefully, and since when somebody is in quarantine.
    pub(super) fn note_ends(&mut self, view: &Document) {
        let now = self.now.clocks();
        let ends = &mut self.ends;
        for removal in view.removals.iter().filter(|removal| is_ungraceful(removal.reason)) {
            let noted = ends.noted.entry(removal.member.node).or_default();
            noted.push(now);
            if noted.len() > ENDS_MAX {
                noted.remove(0);
            }
        }
        // Votes that no view names any more leave room for others.
        ends.states.retain(|vote, _| view.votes.iter().any(|one| one.id == *vote));
        ends.quarantine(view, now);
    }

    pub(super) fn own_ends(&self) -> Vec<(NodeId, u8)> {
        let now = self.now.clocks();
        let recent = |noted: &Vec<Clocks>| noted.iter().filter(|at| now.since(**at) < HOUR).count();
        let counts =
            self.ends.noted.iter().map(|(node, noted)| (*node, u8::try_from(recent(noted)).unwrap_or(u8::MAX)));
        counts.filter(|(_, count)| *count > 0).take(NODES_MAX).collect()
    }

    /// Returns how often each node ended ungracefully, by whoever remembers most.
    pub(super) fn ends_told<'a>(&self, reports: impl Iterator<Item = &'a Report>) -> BTreeMap<NodeId, u8> {
        let mut told = BTreeMap::new();
        for (node, count) in reports.flat_map(|report| &report.ends) {
            let most = told.entry(*node).or_insert(0);
            *most = (*most).max(*count);
        }
        told
    }

    /// Returns how long a quarantine lasts yet, by this node's own clock.
    pub(super) fn quarantine_left(&self, node: NodeId) -> Duration {
        let duration = self.setup.quarantine.duration;
        let lasted = self.ends.quarantined.get(&node);
        lasted.map_or(duration, |lasted| duration.saturating_sub(lasted.by(self.now.clocks())))
    }

    pub(super) fn tell_quarantine(&mut self, old: Option<&Document>, view: &Document) {
        let own = self.setup.own.node;
        let was = |node: NodeId| old.is_some_and(|old| old.quarantined.iter().any(|one| one.node == node));
        for one in view.quarantined.iter().filter(|one| !was(one.node)) {
            let (node, ends, remaining) = (one.node, one.exits, self.quarantine_left(one.node));
            self.tell(if node == own {
                AgreementEvent::OwnQuarantine { ends, remaining }
            } else {
                AgreementEvent::Quarantined { node, ends, remaining }
            });
        }
        let is = |node: NodeId| view.quarantined.iter().any(|one| one.node == node);
        for one in old.iter().flat_map(|old| &old.quarantined).filter(|one| !is(one.node)) {
            self.tell(AgreementEvent::QuarantineCleared { node: one.node });
        }
    }

    /// Remembers how new the state of a report's author is, here and on the own disk.
    pub(super) fn remember_state(&mut self, report: &Report) {
        if self.ends.remember(report.vote, report.sequence)
            && let Some(voter) = &mut self.voter
        {
            voter.remember(self.ends.remembers());
        }
    }

    /// Compares what a peer remembers of this node's state with what the disk holds: an older copy has no vote, for it
    /// has forgotten what it promised.
    pub(super) fn compare_states(&mut self, report: &Report, by: Member) {
        let Some(voter) = &self.voter else { return };
        let (vote, sequence) = (voter.state().vote, voter.state().sequence);
        let seen = report.remembers.iter().find(|(id, _)| *id == vote).map_or(0, |(_, seen)| *seen);
        if seen > sequence && !voter.forfeited() && is_believable(seen, sequence) {
            self.tell(AgreementEvent::OlderState { sequence, seen, seen_by: by.node });
            self.forfeit();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    fn lasted(served_ms: u64, boot_s: u64, now_s: u64) -> Duration {
        let member = Member { node: NodeId(3), incarnation: 30 };
        let now = Clocks { boot_ns: now_s * S, raw_ns: now_s * S };
        let ends = Ends::of(&[], &[Served { member, served_ms, boot_ns: boot_s * S }], now);
        ends.quarantined[&NodeId(3)].by(Clocks { boot_ns: (now_s + 1) * S, raw_ns: (now_s + 1) * S })
    }

    #[test]
    fn a_quarantine_lasts_on_while_no_controller_runs() {
        assert_eq!(lasted(5_000, 100, 107), Duration::from_secs(5 + 7 + 1));
        assert_eq!(lasted(5_000, 100, 60), Duration::from_secs(5 + 60 + 1), "another machine start, 60 s ago");
        assert_eq!(lasted(u64::MAX, 0, 1).as_millis() as u64, u64::MAX.wrapping_add(2_000), "nothing overflows");
    }
}

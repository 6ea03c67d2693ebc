//! What this node remembers of others across views: how often each ended ungracefully, since when it is in quarantine,
//! how new the state of each vote was. It decides nothing: counts go into reports, and into the documents built of them.

use super::build::is_ungraceful;
use super::document::{Document, Member};
use super::engine::Agreement;
use super::event::AgreementEvent;
use super::message::Report;
use super::stops::Clocks;
use crate::core::ids::NodeId;
use heartbeat_common::lease::{NODES_MAX, SLOTS};
use heartbeat_common::view::{VoteId, is_believable};
use std::collections::BTreeMap;
use std::time::Duration;

/// For so long an ungraceful end is remembered.
const HOUR: Duration = Duration::from_secs(3_600);
/// Most ends remembered of one node.
const ENDS_MAX: usize = 16;
/// The longest wait of a node before it asks to join.
const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// What is remembered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Ends {
    /// When views left each node out ungracefully, the newest last.
    noted: BTreeMap<NodeId, Vec<Clocks>>,
    /// When this node learned of each quarantine.
    quarantined: BTreeMap<NodeId, Clocks>,
    /// The newest sequence seen of each vote.
    states: BTreeMap<VoteId, u64>,
}

impl Ends {
    pub fn remembers(&self) -> Vec<(VoteId, u64)> {
        self.states.iter().map(|(vote, sequence)| (*vote, *sequence)).collect()
    }

    /// Begins with what the disk remembers.
    pub fn of(states: &[(VoteId, u64)]) -> Self {
        Self { states: states.iter().copied().collect(), ..Self::default() }
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
        ends.quarantined.retain(|node, _| view.quarantined.iter().any(|one| one.node == *node));
        for one in &view.quarantined {
            ends.quarantined.entry(one.node).or_insert(now);
        }
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
        let since = self.ends.quarantined.get(&node);
        since.map_or(duration, |since| duration.saturating_sub(self.now.clocks().since(*since)))
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

//! What is known to have stopped. A view is in force once every incarnation that it owes is: that was said by itself,
//! acknowledged by its kernel, shown by a newer incarnation, told by a member that knows, or waited for. It hopes for
//! nothing, and asks nobody.

use super::document::{Document, Member, SLEW_PPM, SLEW_WINDOW};
use crate::core::ids::NodeId;
use std::collections::BTreeMap;
use std::time::Duration;

/// Two clocks of this host. What is waited for has to pass on both: the one runs on while the host sleeps, the other is
/// never slewed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Clocks {
    /// CLOCK_BOOTTIME, ns.
    pub boot_ns: u64,
    /// CLOCK_MONOTONIC_RAW, ns.
    pub raw_ns: u64,
}

impl Clocks {
    /// Returns what has surely passed since then.
    #[must_use]
    pub fn since(self, then: Self) -> Duration {
        let boot = self.boot_ns.saturating_sub(then.boot_ns);
        let raw = self.raw_ns.saturating_sub(then.raw_ns);
        Duration::from_nanos(boot.min(raw))
    }
}

/// Returns what is waited beyond the longest lease, which is lengthened by every rate already. The kernel slews by less
/// than a tenth; its owner sees that a round later, and there are two in a delay at least. Before that the clock may have
/// lost what a whole window allows, at the end of one and at the beginning of the next. An owner that stands still sees
/// nothing: if its clock is slewed beyond [`SLEW_PPM`] from then on, and no fence reaches its kernel, its lease lasts up to
/// a ninth longer than this covers. To wait for that always would cost as much at each take-over.
#[must_use]
pub fn slack(delay: Duration) -> Duration {
    let windows = SLEW_WINDOW.saturating_mul(2).as_nanos() * u128::from(SLEW_PPM) / 1_000_000;
    delay / 20 + Duration::from_nanos(u64::try_from(windows).unwrap_or(u64::MAX))
}

/// How it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum How {
    /// Its controller said that it has stopped.
    Said,
    /// Its kernel acknowledged a fence, and gates what it runs.
    Fenced,
    /// A newer incarnation of the node was heard.
    Restarted,
    /// A member of the view knows it.
    Told,
    /// The longest lease that it can have had is over.
    Waited,
}

/// One incarnation that is owed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Debt {
    /// When this node learned of the decision, or itself started.
    learned: Clocks,
    /// The longest lease that it can have, by every view seen since.
    wait: Duration,
    known: Option<How>,
}

/// All that is owed by the view installed here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Stops {
    debts: BTreeMap<Member, Debt>,
}

impl Stops {
    /// Takes up the view installed. What it owes no more is forgotten; what is owed longer keeps its time and proofs.
    /// `slack` is waited beyond the longest lease: for so much longer a clock that is slewed keeps one, until its owner
    /// has seen that and holds itself.
    pub fn install(&mut self, document: &Document, slack: Duration, now: Clocks) {
        let wait = document.lease.surely_over() + slack;
        let mut debts = BTreeMap::new();
        for owed in &document.owed {
            let fresh = Debt { learned: now, wait, known: None };
            let mut debt = self.debts.remove(&owed.member).unwrap_or(fresh);
            debt.wait = debt.wait.max(wait);
            debts.insert(owed.member, debt);
        }
        self.debts = debts;
    }

    /// Its controller said that it has stopped, after all that it ran had.
    pub fn said(&mut self, member: Member) {
        self.prove(How::Said, |owed| owed == member);
    }

    /// A newer incarnation of a node was heard for long enough: it runs only after it has killed what the older ran.
    pub fn restarted(&mut self, node: NodeId, incarnation: u64) {
        self.prove(How::Restarted, |owed| owed.node == node && owed.incarnation < incarnation);
    }

    /// Another member knows it.
    pub fn told(&mut self, member: Member) {
        self.prove(How::Told, |owed| owed == member);
    }

    /// The kernel of a node obeyed a fence of everything up to this incarnation, and whatever the node runs asks that
    /// kernel before it acts. Of one that does not ask nothing is known by that: it may look at the page for the next
    /// time when its lease would have ended, and begin to stop then.
    pub fn fenced(&mut self, node: NodeId, incarnation: u64) {
        self.prove(How::Fenced, |owed| owed.node == node && owed.incarnation <= incarnation);
    }

    /// Takes note of the time. Returns who is now known to have stopped, and how.
    pub fn advance(&mut self, now: Clocks) -> Vec<(Member, How)> {
        let mut news = Vec::new();
        for (member, debt) in &mut self.debts {
            if debt.known.is_none() && now.since(debt.learned) >= debt.wait {
                debt.known = Some(How::Waited);
                news.push((*member, How::Waited));
            }
        }
        news
    }

    /// Returns whom this node knows to have stopped, among those that are owed.
    pub fn known(&self) -> impl Iterator<Item = (Member, How)> {
        self.debts.iter().filter_map(|(member, debt)| debt.known.map(|how| (*member, how)))
    }

    /// Returns who is still waited for.
    pub fn waited_for(&self) -> impl Iterator<Item = Member> {
        self.debts.iter().filter(|(_, debt)| debt.known.is_none()).map(|(member, _)| *member)
    }

    /// Says whether the view owes nobody at all.
    #[must_use]
    pub fn owes_nothing(&self) -> bool {
        self.debts.is_empty()
    }

    /// Says whether the view is in force here.
    #[must_use]
    pub fn in_force(&self) -> bool {
        self.waited_for().next().is_none()
    }

    /// Returns when the next wait is over, at the earliest, from now.
    #[must_use]
    pub fn remaining(&self, now: Clocks) -> Option<Duration> {
        let open = self.debts.values().filter(|debt| debt.known.is_none());
        open.map(|debt| debt.wait.saturating_sub(now.since(debt.learned))).min()
    }

    /// What was only waited for can be proved later on; a proof counts for others, a wait does not.
    fn prove(&mut self, how: How, whom: impl Fn(Member) -> bool) {
        for (member, debt) in &mut self.debts {
            if matches!(debt.known, None | Some(How::Waited)) && whom(*member) {
                debt.known = Some(how);
            }
        }
    }
}

#[cfg(test)]
mod tests;

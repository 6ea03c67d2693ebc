//! What the world itself saw: every state that reached a disk, and from it what was promised, accepted and decided. The
//! core has no part in it, so that what the core says of itself can be held against it.

mod accusals;
mod forgetting;
mod spoken;

use super::rules::{Judged, Rule};
use accusals::Accusal;
use heartbeat_common::view::{Ballot, Name, Order, VoteId};
use heartbeat_user::core::agreement::document::{Document, Member};
use heartbeat_user::core::agreement::voter::State;
use heartbeat_user::core::identity::Identity;
use heartbeat_user::core::ids::NodeId;
use spoken::Spoken;
use std::collections::{BTreeMap, BTreeSet};

/// A property that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub property: &'static str,
    /// How.
    pub what: String,
}

/// Says that a property does not hold.
///
/// # Errors
/// Always.
pub fn broken<T>(property: &'static str, what: impl Into<String>) -> Result<T, Violation> {
    Err(Violation { property, what: what.into() })
}

/// A view that was decided.
#[derive(Clone, Debug)]
pub struct Decided {
    /// Its name.
    pub name: Name,
    /// It.
    pub document: Document,
    /// When the last acceptance that it needed was on disk, true time.
    pub at: u64,
}

/// What a disk last held.
#[derive(Clone, Copy, Debug)]
struct Held {
    vote: VoteId,
    sequence: u64,
    installed: Name,
    promised: Ballot,
    accepted: Ballot,
}

/// Votes that did something under a ballot, and to what value.
type Votes = (Option<[u64; 4]>, Vec<VoteId>);

/// A change that a view makes, of which people are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// It left a member out.
    Removed(Member),
    /// A member left by itself.
    Left(Member),
    /// A node is a member.
    Joined(Member),
    /// A node is in quarantine.
    Quarantined(NodeId),
    /// It is in quarantine no more.
    Cleared(NodeId),
    /// What somebody asked for.
    Setting,
}

/// The record.
#[derive(Clone, Debug, Default)]
pub struct Ghost {
    /// By order, and those of one order by digest: there are two of one order only where two nodes went on by force, and
    /// the lower digest wins.
    views: BTreeMap<(Order, [u64; 4]), Decided>,
    /// The highest ballot upon each view that each vote has promised, on disk.
    promises: BTreeMap<(Name, VoteId), Ballot>,
    acceptances: BTreeMap<(Name, Ballot), Votes>,
    held: Vec<Option<Held>>,
    /// Highest view that each vote ever held.
    holds: BTreeMap<VoteId, Order>,
    /// The highest view decided.
    pub newest: Order,
    /// Peers that a detector called Down.
    accusals: Vec<Accusal>,
    /// Whose messages reached whom.
    spoken: Spoken,
    /// Changes told: by which incarnation of which node, of which view.
    told: BTreeSet<(usize, u64, Name, Change)>,
    /// Fences that members sent: against whom, for which view, by its order and as much of its digest as a fence carries.
    fences: BTreeSet<(Member, u64, [u64; 3])>,
    /// The newest incarnation that each node took, while its disk lasts.
    incarnations: Vec<u64>,
    /// Whose incarnation was once drawn or learnt anew, without regard to the newest, by place.
    drawn_anew: Vec<bool>,
    /// Members of views that a test installed by hand.
    by_hand: BTreeSet<(Order, Member)>,
    /// The hash of each node's settings, by place.
    settings: Vec<u64>,
    /// Views that nodes made alone, by an operator's word.
    pub forced: u64,
    /// By place: the newest view as disk or memory of an earlier time last came back there. What its vote did upon views
    /// up to that one it may have forgotten, and nobody can know it.
    forgot: Vec<Order>,
    /// What a vote had forgotten has led to two successors of one view: nothing is promised from there on.
    pub void: bool,
    /// How often what is watched here had something to judge.
    pub judged: Judged,
}

/// "An incarnation that a view left out is never admitted again; it returns as a newer one."
fn never_again(document: &Document, parent: &Decided) -> Result<(), Violation> {
    let known = |member: &&Member| parent.document.members.contains(member);
    let old = |member: &&Member| member.incarnation <= parent.document.admitted_of(member.node);
    match document.members.iter().filter(|member| !known(member)).find(old) {
        None => Ok(()),
        Some(member) => broken("S9", format!("{member:?} is let in again by {:?}", document.order)),
    }
}

fn weight(document: &Document, votes: &[VoteId]) -> u32 {
    votes.iter().map(|vote| document.weight_of(*vote)).sum()
}

fn add(votes: &mut Vec<VoteId>, vote: VoteId) {
    if !votes.contains(&vote) {
        votes.push(vote);
    }
}

impl Ghost {
    /// Begins with empty disks. `settings`: the hash of each node's, by place.
    #[must_use]
    pub fn new(settings: Vec<u64>) -> Self {
        let nodes = settings.len();
        let forgot = vec![Order::NONE; nodes];
        Self {
            held: vec![None; nodes],
            incarnations: vec![0; nodes],
            drawn_anew: vec![false; nodes],
            forgot,
            settings,
            spoken: Spoken::new(nodes),
            ..Self::default()
        }
    }

    /// Returns a view that was decided; of two that forced starts made, the one that wins.
    #[must_use]
    pub fn view(&self, order: Order) -> Option<&Decided> {
        self.views.range((order, [0; 4])..=(order, [u64::MAX; 4])).next().map(|(_, view)| view)
    }

    /// Returns the view before another.
    #[must_use]
    pub fn before(&self, view: &Decided) -> Option<&Decided> {
        self.views().rev().find(|older| older.name.digest == view.document.parent)
    }

    /// Returns the view of this name, if it was decided.
    #[must_use]
    pub fn named(&self, name: Name) -> Option<&Decided> {
        self.views.get(&(name.order, name.digest))
    }

    /// Returns the view of an order that another one follows, or that it is itself: after forced starts there may be
    /// views of this order in other lines.
    #[must_use]
    pub fn in_line(&self, name: Name, order: Order) -> Option<&Decided> {
        let mut view = self.named(name)?;
        while view.name.order > order {
            view = self.before(view)?;
        }
        (view.name.order == order).then_some(view)
    }

    /// Returns who founded the newest view's line, alone: by the order to create the cluster, or, where nodes went on by
    /// force in it, the last that did.
    #[must_use]
    pub fn founder(&self) -> Option<Member> {
        let force = self.newest.force();
        let mut view = self.view(self.newest)?;
        while let Some(before) = self.before(view).filter(|before| before.name.order.force() == force) {
            view = before;
        }
        view.document.members.first().copied()
    }

    /// Returns every view that was decided, by order.
    pub fn views(&self) -> impl DoubleEndedIterator<Item = &Decided> {
        self.views.values()
    }

    /// Says whether an incarnation is a member of a view that was decided; `None`: no such view was.
    #[must_use]
    pub fn has_member(&self, order: Order, member: Member) -> Option<bool> {
        let view = self.view(order).map(|view| view.document.members.contains(&member));
        view.or_else(|| self.by_hand.contains(&(order, member)).then_some(true))
    }

    /// Takes note of a change that an incarnation of a node tells; false: it told it before.
    pub fn tells(&mut self, place: usize, incarnation: u64, view: Name, change: Change) -> bool {
        self.told.insert((place, incarnation, view, change))
    }

    /// Takes a view for decided that a test made, whatever it follows.
    pub fn admit_alone(&mut self, view: &Document, at: u64) {
        let name = view.name();
        self.newest = self.newest.max(view.order);
        self.views.insert((name.order, name.digest), Decided { name, document: view.clone(), at });
    }

    /// Takes a member for one of a view that a test installs without any agreement.
    pub fn admit_by_hand(&mut self, order: Order, member: Member) {
        self.by_hand.insert((order, member));
    }

    /// Takes note that a disk was emptied or put back: what it holds next is compared with nothing.
    pub fn forget(&mut self, node: usize) {
        self.held[node] = None;
    }

    /// Takes note that the incarnation on a disk is lost too: it can only be drawn or learnt from peers, who may not know
    /// the newest.
    pub fn forget_incarnation(&mut self, node: usize) {
        self.incarnations[node] = 0;
        self.drawn_anew[node] = true;
        self.told.retain(|(by, ..)| *by != node);
    }

    /// Takes note that the identity on a disk is an earlier one again, of this incarnation; 0: none.
    pub fn goes_back(&mut self, node: usize, incarnation: u64) {
        self.forget_incarnation(node);
        self.incarnations[node] = incarnation;
    }

    /// Takes note of an identity that a start took.
    ///
    /// # Errors
    /// If the incarnation is not above all before it, and is not one that goes on.
    pub fn takes(&mut self, node: usize, identity: &Identity) -> Result<(), Violation> {
        self.judged.add(Rule::S9);
        let newest = std::mem::replace(&mut self.incarnations[node], identity.incarnation);
        let rises = if identity.adopt { identity.incarnation == newest } else { identity.incarnation > newest };
        if rises { Ok(()) } else { broken("S9", format!("node {node} takes {identity:?} after {newest}")) }
    }

    /// Takes note of a fence that was sent for a view.
    pub fn sends_fence(&mut self, victim: Member, view: Name) {
        let [one, two, three, _] = view.digest;
        self.fences.insert((victim, view.order.0, [one, two, three]));
    }

    /// "Obeyed only by a frame whose tag was made by a member for a decided view that lacks the victim."
    ///
    /// # Errors
    /// If nobody sent one for the view that it names.
    pub fn obeys(&mut self, victim: Member, order: u64, digest: [u64; 3]) -> Result<(), Violation> {
        self.judged.add(Rule::S6);
        if self.fences.contains(&(victim, order, digest)) {
            Ok(())
        } else {
            broken("S6", format!("{victim:?} obeys a fence of nobody's for {:?}", Order(order)))
        }
    }

    /// Takes note of a state that is on disk from now on.
    ///
    /// # Errors
    /// If it should not be.
    pub fn durable(&mut self, node: usize, state: &State, at: u64) -> Result<(), Violation> {
        let register = &state.register;
        let now = Held {
            vote: state.vote,
            sequence: state.sequence,
            installed: register.view,
            promised: register.promised,
            accepted: register.accepted,
        };
        if let Some(before) = self.held[node].replace(now)
            && before.vote == now.vote
        {
            self.judged.add(Rule::S9);
            Self::rises(node, &before, &now)?;
        }
        if register.promised != Ballot::NONE {
            let promised = self.promises.entry((register.view, state.vote)).or_default();
            *promised = (*promised).max(register.promised);
        }
        self.installed(node, &state.installed, at)?;
        let held = self.holds.entry(state.vote).or_default();
        *held = (*held).max(state.installed.order);
        match &state.accepted {
            Some(document) => self.accepted(state, document, at),
            None => Ok(()),
        }
    }

    fn rises(node: usize, before: &Held, now: &Held) -> Result<(), Violation> {
        let (old, new) = (before.installed.order, now.installed.order);
        if now.sequence < before.sequence {
            return broken("S9", format!("node {node}: sequence {} after {}", now.sequence, before.sequence));
        }
        if new < old {
            return broken("S9", format!("node {node}: view {new:?} after {old:?}"));
        }
        if new == old && (now.promised, now.accepted) < (before.promised, before.accepted) {
            return broken("S9", format!("node {node}: a promise or an acceptance was taken back"));
        }
        Ok(())
    }

    fn installed(&mut self, node: usize, document: &Document, at: u64) -> Result<(), Violation> {
        self.judged.add(Rule::S1);
        // Whoever has it by heart is spared the digest.
        if self.of_order(document.order).any(|known| known.document == *document) {
            return Ok(());
        }
        let rivals = self.of_order(document.order).next().is_some();
        if rivals && document.order.force() == 0 {
            let what = format!("node {node} installed another view {:?}", document.order);
            return self.two_successors(document.parent, what);
        }
        // A forced start is alone in its view, which no vote of the view before has to accept.
        let alone = document.members.len() == 1 && document.members[0].node.0 as usize == node + 1;
        let parent = self.views().find(|older| older.name.digest == document.parent);
        let forced = alone && parent.is_some_and(|parent| document.order.force() == parent.name.order.force() + 1);
        let first = document.parent == [0; 4] && self.views.is_empty();
        if first || forced {
            self.forced += u64::from(forced);
            return self.decided(document, at);
        }
        broken("S2", format!("node {node} installed view {:?}, which no majority has accepted", document.order))
    }

    fn of_order(&self, order: Order) -> impl Iterator<Item = &Decided> {
        self.views.range((order, [0; 4])..=(order, [u64::MAX; 4])).map(|(_, view)| view)
    }

    fn accepted(&mut self, state: &State, document: &Document, at: u64) -> Result<(), Violation> {
        let register = &state.register;
        let key = (register.view, register.accepted);
        let (value, votes) = self.acceptances.entry(key).or_default();
        if *value.get_or_insert(register.value) != register.value {
            let author = usize::from(register.accepted.node) - 1;
            if self.may_forget(author, register.view.order) {
                self.void = true;
                return Ok(());
            }
            return broken("S9", format!("ballot {:?} has two values", register.accepted));
        }
        let before = votes.len();
        add(votes, state.vote);
        if votes.len() == before {
            return Ok(());
        }
        let votes = votes.clone();
        let Some(parent) = self.named(register.view) else {
            return broken("S2", format!("an acceptance upon {:?}, which was not decided", register.view));
        };
        if !parent.document.is_majority(weight(&parent.document, &votes)) {
            return Ok(());
        }
        if document.parent != parent.name.digest || Some(document.order) != parent.name.order.next() {
            return broken("S1", format!("view {:?} does not follow {:?}", document.order, parent.name.order));
        }
        // Beside it there may be one that a forced start made, or that follows such a one.
        let same = |known: &&Decided| known.document.parent == document.parent || document.order.force() == 0;
        let known = self.of_order(document.order).find(same).map(|known| known.document == *document);
        if let Some(equal) = known {
            self.judged.add(Rule::S1);
            let what = || format!("two views {:?} were decided", document.order);
            return if equal { Ok(()) } else { self.two_successors(document.parent, what()) };
        }
        never_again(document, parent)?;
        let parent = parent.clone();
        self.silent_for_its_judges(document, &parent)?;
        self.joiners_spoke(document, &parent, at)?;
        self.judged.add(Rule::S9);
        self.judged.add(Rule::S2);
        self.well_founded(document, register.view.order)?;
        self.decided(document, at)
    }

    /// "A proposal is made only after a majority of the new votes, holding view n on disk, has answered this regroup."
    fn well_founded(&self, document: &Document, parent: Order) -> Result<(), Violation> {
        let holding = |vote: &&heartbeat_user::core::agreement::document::Vote| {
            self.holds.get(&vote.id).is_some_and(|held| *held >= parent)
        };
        let weight: u32 = document.votes.iter().filter(holding).map(|vote| u32::from(vote.weight)).sum();
        if document.is_majority(weight) {
            return Ok(());
        }
        broken("S2", format!("view {:?} was decided, and no majority of its votes holds {parent:?}", document.order))
    }

    fn decided(&mut self, document: &Document, at: u64) -> Result<(), Violation> {
        let name = document.name();
        self.newest = self.newest.max(document.order);
        self.views.insert((name.order, name.digest), Decided { name, document: document.clone(), at });
        self.same_settings(document)
    }

    /// "Nodes with different committed config never sit in one quorate view."
    fn same_settings(&mut self, document: &Document) -> Result<(), Violation> {
        let settings = |member: &Member| self.settings.get(usize::from(member.node.0) - 1).copied();
        let mut others = document.members.iter().map(settings);
        let first = others.next().flatten();
        if document.members.len() < 2 {
            return Ok(());
        }
        let same = others.all(|other| other == first);
        self.judged.add(Rule::S11);
        if same { Ok(()) } else { broken("S11", format!("members of {:?} have other settings", document.order)) }
    }

    /// "It accepts nothing without a majority of promises": who asks for an acceptance has them, on disk.
    ///
    /// # Errors
    /// If it has not.
    pub fn asks_to_accept(&mut self, view: Name, ballot: Ballot) -> Result<(), Violation> {
        self.judged.add(Rule::S2);
        // A vote that has promised more since then has promised this as well.
        let promised = |(of, vote): (&(Name, VoteId), &Ballot)| (of.0 == view && *vote >= ballot).then_some(of.1);
        let votes: Vec<VoteId> = self.promises.iter().filter_map(promised).collect();
        match self.named(view) {
            Some(known) if known.document.is_majority(weight(&known.document, &votes)) => Ok(()),
            _ => broken("S2", format!("{ballot:?} asks for acceptance upon {:?} without a majority", view.order)),
        }
    }

    /// "Sent only for a decided view, by its members", against an incarnation that it left out.
    ///
    /// # Errors
    /// If this fence is not.
    pub fn fences(&mut self, by: Member, victim: Member, view: Name) -> Result<(), Violation> {
        self.judged.add(Rule::S6);
        let Some(known) = self.named(view) else {
            return broken("S6", format!("{by:?} fences for {:?}, which was not decided", view.order));
        };
        let (members, left_out) = (&known.document.members, !known.document.members.contains(&victim));
        let was_admitted = known.document.admitted_of(victim.node) >= victim.incarnation;
        if members.contains(&by) && left_out && was_admitted {
            return Ok(());
        }
        broken("S6", format!("{by:?} fences {victim:?} for view {:?}", view.order))
    }
}

#[cfg(test)]
mod tests;

//! What the reports of one regroup come to: who stays, who comes, who goes and why, and whether votes for that are
//! there. The same reports give the same answer on every node; time and the own place in it come in as flags. It asks
//! nobody and decides nothing: a set is proposed, and the votes decide.

mod removals;
mod words;

use super::document::{ChangeId, Document, Holder, Member, Reason, Removal};
use super::event::JoinFault;
use super::message::{Health, Hears, Report, Wish, Wished};
use super::parted::{Edges, Patience};
use super::select::{Candidate, select};
use crate::core::ids::NodeId;
use heartbeat_common::lease::NODES_MAX;
use heartbeat_common::view::Name;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

pub(super) use words::is_heard;

/// What is judged.
pub struct Scene<'a> {
    /// The view to be followed.
    pub view: &'a Document,
    /// Its name.
    pub name: Name,
    /// The newest report of each node in this regroup, the own one among them.
    pub reports: BTreeMap<NodeId, &'a Report>,
    /// What members say in it that hold another view, as who cannot write one does, and that they go or cannot apply it:
    /// of this alone they may still speak, and for nothing else do they count.
    pub behind: BTreeMap<NodeId, &'a Report>,
    /// For so long a joiner and every member must have heard each other.
    pub detection: Duration,
    /// Hash of the settings that a joiner must have.
    pub settings: u64,
    /// Reports were waited for long enough.
    pub opened: bool,
    /// And once more as long: whoever comes back with a vote had time to qualify.
    pub opened_twice: bool,
    /// Something was begun upon this view, and has to be decided, be it the same members again.
    pub must_decide: bool,
    /// Nodes whose quarantine is over.
    pub released: BTreeSet<NodeId>,
    /// Whether who hears whom has lasted.
    pub patience: Patience<'a>,
    /// Wishes that cannot be fulfilled now.
    pub passed_over: BTreeSet<ChangeId>,
}

/// What it comes to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Somebody has not reported yet, and is waited for.
    NotYet(Vec<NodeId>),
    /// These are heard, and would be left out for want of connections, while who hears whom still changes.
    Unsettled {
        /// Who.
        nodes: Vec<NodeId>,
        /// Who hears whom now.
        edges: Edges,
    },
    /// Nothing changes.
    Same {
        /// Members that are not connected with everybody, and stay for want of others.
        apart: Vec<NodeId>,
    },
    /// Votes are missing.
    Waits {
        /// Weight that is there.
        available: u32,
        /// Who has the rest.
        missing: Vec<NodeId>,
    },
    /// A new view may be proposed.
    Propose(Plan),
}

/// A view to be proposed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Plan {
    /// Its members, by node.
    pub members: Vec<Member>,
    /// Members whose controllers make no progress.
    pub stalled: BTreeSet<NodeId>,
    /// Who goes, and why, by member.
    pub removals: Vec<Removal>,
    /// The wish that it fulfils.
    pub wish: Option<Wished>,
    /// Who may propose it, the first in rank first.
    pub ranks: Vec<NodeId>,
}

/// Who may join.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Joiners {
    fit: Vec<Member>,
    /// They are heard, and want time.
    pending: Vec<NodeId>,
}

/// Judges a scene.
#[must_use]
pub fn judge(scene: &Scene<'_>) -> Verdict {
    Judge::new(scene).verdict()
}

/// Says why a node that wants to join may not, by what it says and what the view holds.
#[must_use]
pub fn join_fault(view: &Document, report: &Report, settings: u64) -> Option<JoinFault> {
    let node = report.author.node;
    if report.author.incarnation <= view.admitted_of(node) {
        Some(JoinFault::LeftOut)
    } else if view.quarantined.iter().any(|one| one.node == node) {
        Some(JoinFault::Quarantined)
    } else if report.settings != settings {
        Some(JoinFault::Settings)
    } else {
        None
    }
}

/// Says whether somebody is a member of a view, under this very incarnation.
#[must_use]
pub fn is_member(view: &Document, member: Member) -> bool {
    view.incarnation_of(member.node) == Some(member.incarnation)
}

/// Says whether a wish would change anything in the view.
#[must_use]
pub fn applies(view: &Document, wish: Wish) -> bool {
    match wish {
        Wish::Without(node) => view.incarnation_of(node).is_some() && view.members.len() > 1,
        Wish::Release(node) => view.quarantined.iter().any(|one| one.node == node),
        Wish::Change(setting) => super::build::changed(view, setting).is_some(),
    }
}

/// A scene, and what is found in it first.
pub(super) struct Judge<'a> {
    pub(super) scene: &'a Scene<'a>,
    /// The wish that is fulfilled by the next view.
    wish: Option<Wished>,
    /// Members that are to go by judgement: hung, or unable to apply what was decided.
    pub(super) condemned: BTreeMap<NodeId, Reason>,
    /// So many may go by judgement at once.
    limit: usize,
}

impl<'a> Judge<'a> {
    fn new(scene: &'a Scene<'a>) -> Self {
        let wishes = scene.reports.values().filter(|report| is_member(scene.view, report.author));
        let wish = wishes.flat_map(|report| &report.wishes).copied();
        let wish = wish.filter(|wished| applies(scene.view, wished.wish) && !scene.passed_over.contains(&wished.id));
        let wish = wish.min_by_key(|wished| wished.id);
        let limit = (scene.view.members.len() / 4).max(1);
        let mut judge = Self { scene, wish, condemned: BTreeMap::new(), limit };
        let reason = |member: &Member| Some((member.node, judge.condemnation(*member)?));
        judge.condemned = scene.view.members.iter().filter_map(reason).take(limit).collect();
        judge
    }

    fn verdict(&self) -> Verdict {
        let waited: Vec<NodeId> = self.holders().filter(|node| !self.accounted(*node)).collect();
        if !waited.is_empty() && !self.scene.opened {
            return Verdict::NotYet(waited);
        }
        let (staying, cut) = self.staying();
        if self.quorate(&staying) { self.successor(staying, &cut) } else { self.gathered() }
    }

    /// The members that stay are a majority: whoever is fit joins them.
    fn successor(&self, staying: Vec<Member>, cut: &BTreeSet<NodeId>) -> Verdict {
        let scene = self.scene;
        if let Some(unsettled) = self.unsettled(&staying, &[]) {
            return unsettled;
        }
        let joiners = self.joiners(&staying);
        let changed = staying != scene.view.members || self.wish.is_some() || !scene.released.is_empty();
        if !changed && !joiners.pending.is_empty() && !scene.opened {
            return Verdict::NotYet(joiners.pending);
        }
        if !changed && !scene.must_decide && joiners.fit.is_empty() {
            return Verdict::Same { apart: self.apart(&staying) };
        }
        let mut members = staying;
        members.extend(joiners.fit);
        members.sort_unstable();
        Verdict::Propose(self.plan(members, cut))
    }

    /// The members that stay are too few: those who hold votes and came back are counted in.
    fn gathered(&self) -> Verdict {
        let scene = self.scene;
        let back = |report: &&&Report| {
            report.joins && join_fault(scene.view, report, scene.settings).is_none() && report.view == scene.name
        };
        let mut candidates = self.candidates();
        candidates.extend(scene.reports.values().filter(back).map(|report| report.author));
        candidates.sort_unstable();
        candidates.dedup_by_key(|member| member.node);
        let members = self.select(&candidates, true);
        let outside = |node: &NodeId| !members.iter().any(|member| member.node == *node);
        if !self.quorate(&members) {
            let votes = |node: &NodeId| scene.reports.get(node).is_some_and(|report| self.votes_outside(report));
            return Verdict::Waits {
                available: self.weight(&members),
                missing: self.weighty().filter(|node| outside(node) && !votes(node)).collect(),
            };
        }
        // Who is heard, and could be in the same view a moment later, is waited for: one view, not two.
        let over = |hears: &Hears| matches!(hears.health, Health::Down | Health::Left | Health::GaveUp);
        let gone = |node: NodeId| self.all_say(node, over);
        let wants = scene.reports.values().filter(back).map(|report| report.author.node);
        let all: BTreeSet<NodeId> = self.holders().chain(wants).collect();
        let coming: Vec<NodeId> = all.into_iter().filter(|node| outside(node) && !gone(*node)).collect();
        if !coming.is_empty() && !scene.opened_twice {
            return Verdict::NotYet(coming);
        }
        let unsettled = self.unsettled(&members, &candidates);
        unsettled.unwrap_or_else(|| Verdict::Propose(self.plan(members, &BTreeSet::new())))
    }

    fn plan(&self, members: Vec<Member>, cut: &BTreeSet<NodeId>) -> Plan {
        let scene = self.scene;
        let stalled: BTreeSet<NodeId> =
            members.iter().map(|member| member.node).filter(|node| self.is_stalled(*node)).collect();
        let left = scene.view.members.iter().filter(|member| !members.contains(member));
        let removals = left.map(|member| self.removal(*member, &members, cut)).collect();
        let mut ranks: Vec<Member> = members.clone();
        let reported = |member: &Member| scene.reports.get(&member.node).is_some_and(|one| one.author == *member);
        ranks.sort_by_key(|member| {
            let node = member.node;
            (!reported(member), stalled.contains(&node), !is_member(scene.view, *member), node)
        });
        let ranks = ranks.into_iter().map(|member| member.node).collect();
        Plan { members, stalled, removals, wish: self.wish, ranks }
    }

    /// Members and holders of votes with weight: all whose word counts.
    fn holders(&self) -> impl Iterator<Item = NodeId> {
        let members = self.scene.view.members.iter().map(|member| member.node);
        members.chain(self.weighty()).collect::<BTreeSet<_>>().into_iter()
    }

    fn weighty(&self) -> impl Iterator<Item = NodeId> {
        self.scene.view.votes.iter().filter(|vote| vote.weight > 0).filter_map(|vote| match vote.holder {
            Holder::Node(node) => Some(node),
            Holder::Witness(_) => None,
        })
    }

    /// The members that may stay.
    fn candidates(&self) -> Vec<Member> {
        let may = |member: &&Member| {
            let heard = self.scene.reports.contains_key(&member.node) || self.one_says(member.node, is_heard);
            heard && self.gone(**member).is_none() && !self.condemned.contains_key(&member.node)
        };
        self.scene.view.members.iter().filter(may).copied().collect()
    }

    /// Returns the members that stay, and whom they go without for want of messages alone. Of those no more go at once
    /// than may by judgement, first who holds a vote, and of these the worst connected; the others go with the views that
    /// follow. Where those whose messages pass are no majority all stay who are heard: nobody could decide anything
    /// without the rest.
    fn staying(&self) -> (Vec<Member>, BTreeSet<NodeId>) {
        let candidates = self.candidates();
        let mut strict = self.select(&candidates, true);
        if strict.len() == candidates.len() {
            // Whoever is connected by messages too is heard: there is nobody to cut off.
            return (strict, BTreeSet::new());
        }
        let heard = self.select(&candidates, false);
        let mut cut: Vec<Member> = heard.iter().filter(|member| !strict.contains(member)).copied().collect();
        let room = self.limit.saturating_sub(self.condemned.len());
        if cut.len() > room && self.quorate(&heard) {
            // Whoever does not even hear all of the larger part goes for that first, and the judgement is made anew.
            let within = strict.iter().all(|member| heard.contains(member));
            if !within || !self.quorate(&strict) {
                return (heard, BTreeSet::new());
            }
            let passing = |member: &Member| strict.iter().filter(|one| self.both_hear(**one, *member)).count();
            // Who has a vote goes before who has none. Two halves can be told apart by the one vote alone that this view leaves
            // out; did somebody without one go, the next view could leave out a vote of those who stay, and they would wait
            // for ever. With a vote of the others gone they are more, whichever is left out.
            let votes = &self.scene.view.votes;
            let votes = |node| votes.iter().any(|vote| vote.configured > 0 && vote.holder == Holder::Node(node));
            cut.sort_by_cached_key(|member| (!votes(member.node), passing(member), member.node));
            strict.extend(cut.drain(room..));
            strict.sort_unstable();
        }
        (strict, cut.into_iter().map(|member| member.node).collect())
    }

    fn select(&self, candidates: &[Member], messages: bool) -> Vec<Member> {
        let low = self.scene.view.quorum.lower_priority;
        let weighed = |member: &Member| Candidate { weight: self.weight_of(*member), low: low == Some(member.node) };
        let weighed: Vec<Candidate> = candidates.iter().map(weighed).collect();
        let row = |a: &Member| {
            let to = |bit: usize, b: &Member| u64::from(a != b && self.hears(*a, *b, messages)) << bit;
            candidates.iter().take(NODES_MAX).enumerate().fold(0, |set, (bit, b)| set | to(bit, b))
        };
        let rows: Vec<u64> = candidates.iter().map(row).collect();
        let chosen = select(&weighed, &rows);
        let inside = |(bit, member): (usize, &Member)| (chosen.set >> bit & 1 == 1).then_some(*member);
        candidates.iter().take(NODES_MAX).enumerate().filter_map(inside).collect()
    }

    fn joiners(&self, staying: &[Member]) -> Joiners {
        let scene = self.scene;
        let wants = scene.reports.values().filter(|report| {
            report.joins && !report.leaving && join_fault(scene.view, report, scene.settings).is_none()
        });
        let with_all = |joiner: &Member| staying.iter().all(|one| self.both_hear(*one, *joiner));
        let (fit, rest): (Vec<Member>, Vec<Member>) = wants.map(|report| report.author).partition(with_all);
        let room = NODES_MAX.saturating_sub(scene.view.members.len());
        let fit = self.select(&fit, true).into_iter().take(room).collect();
        Joiners { fit, pending: rest.into_iter().map(|member| member.node).collect() }
    }

    fn weight_of(&self, member: Member) -> u32 {
        let view = self.scene.view;
        if let Some(report) = self.scene.reports.get(&member.node) {
            return view.weight_of(report.vote);
        }
        let vote = view.votes.iter().find(|vote| vote.holder == Holder::Node(member.node));
        vote.map_or(0, |vote| u32::from(vote.weight))
    }

    /// Says whether the author of a report votes though it is to be no member: a member that goes by its own or an
    /// operator's word; or one that is none and may not be admitted now, or does not ask to be. Every vote of the view
    /// takes part in following it. Who wants to be a member and may be is waited for instead; and of whom all say that it
    /// is silent, or has no controller any more, nothing is to be had, whatever it said before.
    fn votes_outside(&self, report: &Report) -> bool {
        let scene = self.scene;
        let silent = |hears: &Hears| matches!(hears.health, Health::Down | Health::GaveUp);
        if self.all_say(report.author.node, silent) || scene.view.weight_of(report.vote) == 0 {
            return false;
        }
        if is_member(scene.view, report.author) {
            return matches!(self.gone(report.author), Some(Reason::Left | Reason::Fenced));
        }
        !report.joins || join_fault(scene.view, report, scene.settings).is_some()
    }

    /// The weight of a set, and of those outside it who vote all the same.
    fn weight(&self, set: &[Member]) -> u32 {
        let votes = |report: &&&Report| !set.contains(&report.author) && self.votes_outside(report);
        let outside = self.scene.reports.values().filter(votes);
        let inside: u32 = set.iter().map(|member| self.weight_of(*member)).sum();
        inside + outside.map(|report| self.scene.view.weight_of(report.vote)).sum::<u32>()
    }

    fn quorate(&self, set: &[Member]) -> bool {
        !set.is_empty() && self.scene.view.is_majority(self.weight(set))
    }

    /// Members that are not connected with every other one, where all stay nevertheless.
    fn apart(&self, staying: &[Member]) -> Vec<NodeId> {
        let lone = |a: &&Member| staying.iter().any(|b| a.node != b.node && !self.both_hear(**a, *b));
        staying.iter().filter(lone).map(|member| member.node).collect()
    }
}

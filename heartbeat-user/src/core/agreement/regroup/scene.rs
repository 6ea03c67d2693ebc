//! What is judged in a regroup: whose reports count, which settings a joiner must have, and the document that a plan makes.

use crate::core::agreement::build::{Knowledge, next};
use crate::core::agreement::closing::{Plan, Scene, Verdict, is_member, join_fault, judge};
use crate::core::agreement::document::{Document, Holder, Vote};
use crate::core::agreement::engine::Agreement;
use crate::core::agreement::message::{Health, Report, WISHES_MAX};
use crate::core::agreement::peer::Peer;
use crate::core::agreement::stops::How;
use crate::core::ids::NodeId;
use heartbeat_common::view::{Ballot, Name, VoteId};
use std::collections::{BTreeMap, BTreeSet};

impl Agreement {
    fn scene_reports<'a>(&'a self, own: &'a Report) -> BTreeMap<NodeId, &'a Report> {
        let name = self.held.as_ref().map_or(Name::NONE, |held| held.name);
        let (now, detection) = (self.now.mono, self.setup.timing.detection);
        let counts = |report: &Report| report.turn == self.regroup.turn && report.view == name;
        let peers = self.peers.iter().filter(|(_, peer)| !peer.doubled(now, detection));
        // Whom this node heard before a pause says nothing of who is there now; promises that came since do not either. Of a
        // stalled member the last report stands.
        let stalled = |peer: &Peer| matches!(peer.facts.health, Health::Stalled | Health::Hung);
        let peers = peers.filter(|(_, peer)| peer.fresh || stalled(peer));
        let reports = peers.filter_map(|(node, peer)| Some((*node, peer.report.as_ref()?)));
        let mut reports: BTreeMap<NodeId, &Report> = reports.filter(|(_, report)| counts(report)).collect();
        reports.insert(self.setup.own.node, own);
        without_silent(own, reports)
    }

    /// Returns whose reports count in this regroup.
    pub(in crate::core::agreement) fn reporters(&self) -> BTreeSet<NodeId> {
        self.scene_reports(&self.own_report()).into_keys().collect()
    }

    /// Returns what members say in this regroup that hold another view, and are to go by their own word.
    fn scene_behind(&self) -> BTreeMap<NodeId, &Report> {
        let Some(held) = &self.held else { return BTreeMap::new() };
        let counts = |report: &&Report| {
            report.turn == self.regroup.turn
                && report.view != held.name
                && (report.leaving || report.cannot_apply)
                && is_member(&held.document, report.author)
        };
        let (now, detection) = (self.now.mono, self.setup.timing.detection);
        let peers = self.peers.iter().filter(|(_, peer)| peer.fresh && !peer.doubled(now, detection));
        let reports = peers.filter_map(|(node, peer)| Some((*node, peer.report.as_ref()?)));
        reports.filter(|(_, report)| counts(report)).collect()
    }

    /// Returns the hash of the settings that a joiner must have: a member's. Whoever is none does not know whether its own
    /// are those of the view, and goes by what a member says; where none is left, by what most of the votes say. So a
    /// stranger with other settings founds nothing upon the votes of all others. Of equal parts that one counts which has
    /// more votes of nodes that may be members, for one that may not founds nothing itself; then the one with the lowest
    /// node.
    fn settings_to_join(&self, reports: &BTreeMap<NodeId, &Report>) -> u64 {
        let own = self.setup.settings;
        let Some(view) = self.held.as_ref().map(|held| &held.document) else { return own };
        if self.membership().is_some() {
            return own;
        }
        if let Some(member) = reports.values().find(|report| is_member(view, report.author)) {
            return member.settings;
        }
        let weights = |settings: u64| -> (u32, u32) {
            let of = |report: &&&Report| report.settings == settings;
            let may = |report: &&&Report| join_fault(view, report, settings).is_none();
            let weight = |report: &&Report| view.weight_of(report.vote);
            let all = reports.values().filter(of).map(weight).sum();
            (all, reports.values().filter(of).filter(may).map(weight).sum())
        };
        let (most, _) = reports.values().fold((own, (0, 0)), |(most, best), report| {
            let weights = weights(report.settings);
            if weights > best { (report.settings, weights) } else { (most, best) }
        });
        most
    }

    pub(super) fn judge_now(&self) -> Option<Verdict> {
        let held = self.held.as_ref()?;
        let open = self.voter.as_ref()?.state().register.view == held.name;
        if !self.looked || !open {
            return None;
        }
        let own = self.own_report();
        let reports = self.scene_reports(&own);
        let begun = reports.values().any(|report| report.accepted != Ballot::NONE);
        let (passed, opening) = (self.passed(self.regroup.since), self.setup.timing.opening);
        let settings = self.settings_to_join(&reports);
        let mut scene = Scene {
            view: &held.document,
            name: held.name,
            reports,
            behind: self.scene_behind(),
            detection: self.setup.timing.detection,
            settings,
            opened: passed >= opening,
            opened_twice: passed >= opening.saturating_mul(2),
            must_decide: begun || self.owes_decision(),
            released: self.released(),
            passed_over: BTreeSet::new(),
            patience: self.regroup.parted.patience(self.now.mono, &self.setup.timing),
        };
        // A wish that no view can fulfil now holds up nothing: neither failures and joins, nor other wishes.
        loop {
            let verdict = judge(&scene);
            let wished = match &verdict {
                Verdict::Propose(plan) if scene.passed_over.len() < WISHES_MAX => {
                    plan.wish.filter(|_| self.document_of(plan).is_none())
                }
                _ => None,
            };
            match wished {
                Some(wished) => scene.passed_over.insert(wished.id),
                None => return Some(verdict),
            };
        }
    }

    /// Returns what this node would propose now.
    pub(in crate::core::agreement) fn plan(&self) -> Option<Plan> {
        match self.judge_now()? {
            Verdict::Propose(plan) => Some(plan),
            Verdict::NotYet(_) | Verdict::Unsettled { .. } | Verdict::Same { .. } | Verdict::Waits { .. } => None,
        }
    }

    /// Returns the document that a plan makes, if a majority of its votes holds the present view on disk and has
    /// answered this regroup: else nobody could go on from it.
    pub(in crate::core::agreement) fn document_of(&self, plan: &Plan) -> Option<Document> {
        let held = self.held.as_ref()?;
        let own = self.own_report();
        let reports = self.scene_reports(&own);
        let votes: BTreeMap<NodeId, VoteId> = reports.iter().map(|(node, report)| (*node, report.vote)).collect();
        let configured = self.setup.configured.iter().map(|one| (one.node, one.weight)).collect();
        let proved = self.stops.known().filter(|(_, how)| *how != How::Waited);
        let known = Knowledge {
            votes: &votes,
            configured: &configured,
            stopped: &proved.map(|(member, _)| member).collect(),
            installed_for: self.now.clocks().since(held.since).saturating_sub(self.slewed()),
            ends: &self.ends_told(reports.values().copied()),
            threshold: self.setup.quarantine.threshold,
            released: &self.released(),
        };
        let document = next(&held.document, held.name, plan, &known)?;
        let answered = |vote: &&Vote| match vote.holder {
            Holder::Node(node) => votes.get(&node) == Some(&vote.id),
            Holder::Witness(_) => false,
        };
        let weight = document.votes.iter().filter(answered).map(|vote| u32::from(vote.weight)).sum();
        document.is_majority(weight).then_some(document)
    }
}

/// Takes out what those said who have fallen silent since: nobody hears them of all that this node hears, itself or through
/// others. They are not there any more, whatever they said before.
fn without_silent<'a>(own: &'a Report, mut reports: BTreeMap<NodeId, &'a Report>) -> BTreeMap<NodeId, &'a Report> {
    let (mut there, mut open) = (BTreeSet::from([own.author.node]), vec![own]);
    while let Some(report) = open.pop() {
        for hears in report.hears.iter().filter(|hears| hears.health != Health::Down) {
            if there.insert(hears.peer.node) {
                open.extend(reports.get(&hears.peer.node).copied());
            }
        }
    }
    reports.retain(|node, _| there.contains(node));
    reports
}

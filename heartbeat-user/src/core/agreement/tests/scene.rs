//! Reports written by hand, and what is judged of them: what no cluster in memory comes to by itself.

use super::world::DETECTION;
use crate::core::agreement::closing::{Scene, Verdict, judge};
use crate::core::agreement::document::{Document, Holder, Member};
use crate::core::agreement::message::{Health, Hears, Report};
use crate::core::agreement::parted::Patience;
use heartbeat_common::view::Ballot;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Nothing was seen before, and nothing is waited for.
pub const CALM: Patience<'static> = Patience { lasted: None, over: false, wary: false };

/// What `author` reports in a regroup: whom it hears both ways, and whom not.
pub fn says(view: &Document, author: Member, hears: &[(Member, bool)]) -> Report {
    let holder = Holder::Node(author.node);
    let edge = |(peer, both): &(Member, bool)| Hears {
        peer: *peer,
        health: if *both { Health::Up } else { Health::Down },
        both_ways_ms: if *both { 5_000 } else { 0 },
        silent_ms: 0,
        controller_age_ms: 0,
        messages_pass: true,
        accepted: 0,
    };
    Report {
        author,
        serial: 1,
        turn: 1,
        view: view.name(),
        vote: view.votes.iter().find(|vote| vote.holder == holder).expect("it votes").id,
        sequence: 1,
        accepted: Ballot::NONE,
        round: 0,
        settings: 5,
        leaving: false,
        cannot_apply: false,
        joins: !view.members.contains(&author),
        hears: hears.iter().map(edge).collect(),
        stopped: Vec::new(),
        ends: Vec::new(),
        wishes: Vec::new(),
        remembers: Vec::new(),
    }
}

/// Judges these reports, a while after the regroup began.
pub fn judge_reports(view: &Document, reports: &[Report], patience: Patience<'_>) -> Verdict {
    judge(&Scene {
        view,
        name: view.name(),
        reports: reports.iter().map(|report| (report.author.node, report)).collect(),
        behind: BTreeMap::new(),
        detection: Duration::from_millis(DETECTION),
        settings: 5,
        opened: true,
        opened_twice: true,
        must_decide: false,
        released: BTreeSet::new(),
        passed_over: BTreeSet::new(),
        patience,
    })
}

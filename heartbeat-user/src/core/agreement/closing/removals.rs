//! Why a member goes with a plan, and by whose word. It changes nobody's place in it.

use super::{Judge, is_member};
use crate::core::agreement::document::{Member, Reason, Removal};
use crate::core::agreement::message::{Health, Hears, Report};
use crate::core::ids::NodeId;
use heartbeat_common::lease::NODES_MAX;
use std::collections::BTreeSet;

impl<'a> Judge<'a> {
    pub(super) fn removal(&self, member: Member, members: &[Member], cut: &BTreeSet<NodeId>) -> Removal {
        let scene = self.scene;
        let place = |report: &Report| members.iter().position(|one| *one == report.author);
        let word = |(report, hears): (&Report, Option<&'a Hears>)| {
            Some((is_member(scene.view, report.author), place(report)?, hears?))
        };
        // Why a member goes is for those to say who were members with it. Who comes with a vote has not had its time to
        // hear everybody, and is heard only where it stands for them.
        let said: Vec<(bool, usize, &Hears)> = self.words(member.node).filter_map(word).collect();
        let by_members = said.iter().any(|(by_member, ..)| *by_member);
        let said = said.into_iter().filter(|(by_member, ..)| *by_member || !by_members);
        let words: Vec<(usize, &Hears)> = said.map(|(_, place, hears)| (place, hears)).collect();
        let down = !words.is_empty() && words.iter().all(|(_, hears)| hears.health == Health::Down);
        // Heard, and heard by it, and silent only where controllers speak.
        let unspoken = |hears: &Hears| hears.health == Health::Up && hears.both_ways_ms > 0 && !hears.messages_pass;
        let by_facts = if down {
            Reason::Down
        } else if cut.contains(&member.node) || words.iter().any(|(_, hears)| unspoken(hears)) {
            Reason::NoMessages
        } else {
            Reason::NotConnected
        };
        let reason = self.gone(member).or_else(|| self.condemned.get(&member.node).copied()).unwrap_or(by_facts);
        let nearest = words.iter().min_by_key(|(_, hears)| hears.silent_ms).map(|(_, hears)| **hears);
        let judges = |of: fn(&Hears, Member) -> bool| {
            let judging = words.iter().filter(move |(_, hears)| of(hears, member) && accuses(hears, reason));
            judging.fold(0, |set, (place, _)| set | 1 << (place % NODES_MAX))
        };
        // Whoever lost its disk may have come back under a lower number: then that is all that anybody heard of it.
        let strict = judges(|hears, member| [0, member.incarnation].contains(&hears.peer.incarnation));
        Removal {
            member,
            reason,
            silent_ms: nearest.map_or(0, |hears| hears.silent_ms),
            controller_age_ms: nearest.map_or(0, |hears| hears.controller_age_ms),
            judges: if strict == 0 { judges(|_, _| true) } else { strict },
        }
    }
}

/// Says whether whoever reports this of a member that went for `reason` has judged it so itself. Who only agreed to the
/// view has not, nor has a controller that cannot say yet; and what a member or an operator says needs no judge.
fn accuses(hears: &Hears, reason: Reason) -> bool {
    let one_way = hears.health != Health::Unknown && hears.both_ways_ms == 0;
    match reason {
        Reason::Down => hears.health == Health::Down,
        Reason::Hung => matches!(hears.health, Health::Hung | Health::Down),
        Reason::NotConnected => one_way,
        Reason::NoMessages => one_way || hears.health == Health::Up && !hears.messages_pass,
        Reason::Restarted | Reason::Left | Reason::CannotApply | Reason::Fenced | Reason::Forced | Reason::GaveUp => {
            false
        }
    }
}

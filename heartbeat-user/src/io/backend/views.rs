//! Turns what the agreement and the page of the lease say into what people and programs are answered. It names and adds
//! up; it decides nothing.

use crate::config::Config;
use crate::control::{
    BudgetStatus, LeaseFacts, Life, MemberStatus, OwedStatus, QuarantineStatus, QuorumStatus, RemovalReason,
    RemovalStatus, Stage, ViewDocument, ViewNumber, ViewRef, ViewStatus, VoteStatus,
};
use crate::core::agreement::document::{Document, Holder, Member, Reason, Vote};
use crate::core::agreement::event::Grounds;
use crate::core::agreement::{self, Status};
use crate::core::event::{NodeNames, NotActing, seconds_text};
use crate::core::ids::NodeId;
use crate::core::time::millis;
use heartbeat_common::view::Order;
use std::time::Duration;

/// What the way from the last verdict to the new view takes where disks and network are quick.
const VIEW: Duration = Duration::from_millis(20);

/// Answers `view`.
pub(super) fn view(status: &Status, facts: &LeaseFacts, names: &NodeNames) -> ViewStatus {
    let token = facts.acting.ok().map(|token| {
        let view = ViewNumber::from(Order(token.order));
        format!("{view}.{}", token.incarnation)
    });
    ViewStatus {
        life: match status.life {
            agreement::Life::NoView => Life::NoView,
            agreement::Life::Observer => Life::Observer,
            agreement::Life::Installed => Life::Installed,
            agreement::Life::Member => Life::Member,
            agreement::Life::Leaving => Life::Leaving,
            agreement::Life::Out => Life::Out,
        },
        view: status.view.as_ref().map(|document| held(document, status, names)),
        in_force: status.in_force.is_view().then(|| ViewNumber::from(status.in_force).to_string()),
        stage: match status.stage {
            agreement::Stage::Activate => Stage::Activate,
            agreement::Stage::Closing => Stage::Closing,
            agreement::Stage::Pruning => Stage::Pruning,
            agreement::Stage::Cleanup => Stage::Cleanup,
            agreement::Stage::Stabilized => Stage::Stabilized,
        },
        waits_for: waits_for(status, names),
        acting: facts.acting.is_ok(),
        not_acting: facts.acting.err().map(|why| NotActing(why).to_string()),
        token,
    }
}

/// Whom this node waits for, and for what: votes and reports for the next view, stops for this one.
fn waits_for(status: &Status, names: &NodeNames) -> Vec<String> {
    let mut phrases = names.all(status.waits_for.iter().copied());
    if phrases.is_empty() && status.life == agreement::Life::NoView {
        phrases.push("a node with a view, or for `heartbeatctl init`".to_owned());
    }
    phrases.extend(status.owed.iter().map(|owed| format!("{} to have stopped", names.of(owed.node))));
    phrases
}

fn held(document: &Document, status: &Status, names: &NodeNames) -> ViewDocument {
    let member = |member: &Member| MemberStatus {
        name: names.of(member.node),
        id: member.node.0,
        incarnation: member.incarnation,
    };
    ViewDocument {
        name: ViewRef::from(&document.name()),
        members: document.members.iter().map(member).collect(),
        removals: document
            .removals
            .iter()
            .map(|removal| RemovalStatus {
                member: member(&removal.member),
                reason: reason(removal.reason),
                judges: names.all(Grounds::of(document, removal).judges),
                silent_ms: removal.silent_ms,
                controller_age_ms: removal.controller_age_ms,
            })
            .collect(),
        owed: document
            .owed
            .iter()
            .map(|owed| OwedStatus {
                member: member(&owed.member),
                left_out_by: ViewNumber::from(owed.left_out_by).to_string(),
                stopped: !status.owed.contains(&owed.member),
            })
            .collect(),
        quarantined: document
            .quarantined
            .iter()
            .map(|one| {
                let left = status.quarantines.iter().find(|(node, _)| *node == one.node);
                QuarantineStatus {
                    name: names.of(one.node),
                    id: one.node.0,
                    exits: one.exits,
                    remaining_ms: left.map_or(0, |(_, left)| millis(*left)),
                }
            })
            .collect(),
    }
}

const fn reason(reason: Reason) -> RemovalReason {
    match reason {
        Reason::Down => RemovalReason::Down,
        Reason::Hung => RemovalReason::Hung,
        Reason::Restarted => RemovalReason::Restarted,
        Reason::Left => RemovalReason::Left,
        Reason::NotConnected => RemovalReason::NotConnected,
        Reason::NoMessages => RemovalReason::NoMessages,
        Reason::CannotApply => RemovalReason::CannotApply,
        Reason::Fenced => RemovalReason::Fenced,
        Reason::Forced => RemovalReason::Forced,
        Reason::GaveUp => RemovalReason::GaveUp,
    }
}

/// Answers `quorum`; `None` where there is no view. `detection` is the longest detection time configured.
pub(super) fn quorum(
    status: &Status,
    facts: &LeaseFacts,
    names: &NodeNames,
    own: NodeId,
    detection: Duration,
) -> Option<QuorumStatus> {
    let document = status.view.as_ref()?;
    let total = document.total_weight();
    let act = Duration::from_millis(document.lease.lease_ms.saturating_sub(document.lease.stop_ms).into());
    let granted = |vote: &Vote| match vote.holder {
        Holder::Node(node) if node == own => facts.own,
        Holder::Node(node) => facts.others.iter().find(|(other, _)| *other == node).and_then(|(_, ago)| *ago),
        Holder::Witness(_) => None,
    };
    let row = |vote: &Vote| {
        let (holder, id) = match vote.holder {
            Holder::Node(node) => (names.of(node), Some(node.0)),
            Holder::Witness(place) => (format!("witness {place}"), None),
        };
        VoteStatus {
            holder,
            id,
            configured: vote.configured,
            weight: vote.weight,
            own: vote.holder == Holder::Node(own),
            granted_ms_ago: granted(vote).map(millis),
        }
    };
    let fresh = document.votes.iter().filter(|vote| granted(vote).is_some_and(|ago| ago < act));
    Some(QuorumStatus {
        view: ViewRef::from(&document.name()),
        dynamic: document.quorum.dynamic,
        lower_priority: document.quorum.lower_priority.map(|node| names.of(node)),
        votes: document.votes.iter().map(row).collect(),
        votes_total: total,
        votes_needed: total / 2 + 1,
        votes_fresh: fresh.map(|vote| u32::from(vote.weight)).sum(),
        lease_ms: document.lease.lease_ms.into(),
        stop_ms: document.lease.stop_ms.into(),
        longest_ms: document.lease.longest_ms.into(),
        lease_left_ms: facts.acting.is_ok().then(|| millis(facts.left)),
        last_disk: status.last_disk.map(|node| names.of(node)),
        budget: BudgetStatus {
            detection_ms: millis(detection),
            view_ms: millis(VIEW),
            in_force_ms: millis(document.lease.surely_over()),
        },
    })
}

/// Returns a warning for each key of the configuration that only began the cluster, and that the view has otherwise by
/// now: it is the view that holds.
pub(in crate::io) fn outdated_seeds(config: &Config, view: &Document) -> Vec<String> {
    let quorum = &config.settings.quorum;
    let ms = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
    let name = |id: Option<u16>| {
        let node = id.map(|id| config.node(id).map_or_else(|| id.to_string(), |node| node.name.clone()));
        node.unwrap_or_else(|| "none".to_owned())
    };
    let mut differ = Vec::new();
    let mut compare = |key: &str, here: String, there: String| {
        if here != there {
            differ.push(format!(
                "{key} is {here} in the configuration and {there} in the view, which holds: `heartbeatctl set` changes it"
            ));
        }
    };
    compare("quorum_arbitration_time_max_s", seconds_text(ms(quorum.lease)), seconds_text(view.lease.lease_ms));
    compare("stop_time_s", seconds_text(ms(quorum.stop_time)), seconds_text(view.lease.stop_ms));
    compare("dynamic_quorum", quorum.dynamic.to_string(), view.quorum.dynamic.to_string());
    let lower = view.quorum.lower_priority.map(|node| node.0);
    compare("lower_quorum_priority_node", name(quorum.lower_priority), name(lower));
    for vote in &view.votes {
        let Holder::Node(node) = vote.holder else { continue };
        if let Some(configured) = config.node(node.0) {
            let key = format!("weight of node {}", configured.name);
            compare(&key, configured.weight.to_string(), vote.configured.to_string());
        }
    }
    differ
}

#[cfg(test)]
mod tests;

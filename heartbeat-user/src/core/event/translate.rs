//! Turns what the agreement tells into events: numbers become names, bits become lists. It decides nothing.

use super::view::{Judgement, MemberName, ViewEvent, ViewId};
use super::{NodeName, NotActing, RemovalCause, ViewEvent as E};
use crate::core::agreement::AgreementEvent as A;
use crate::core::agreement::document::Member;
use crate::core::agreement::event::{Grounds, Trigger};
use crate::core::agreement::message::Setting;
use crate::core::ids::NodeId;
use crate::core::time::{Human, millis};
use heartbeat_common::view::Name;
use std::time::Duration;

/// The configured nodes' names, this one's too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeNames(Vec<(NodeId, String)>);

impl NodeNames {
    /// Takes the names in any order.
    #[must_use]
    pub fn new(mut names: Vec<(NodeId, String)>) -> Self {
        names.sort();
        Self(names)
    }

    /// Returns the name of a node; its number, where it is not configured.
    #[must_use]
    pub fn of(&self, node: NodeId) -> String {
        self.0.iter().find(|(id, _)| *id == node).map_or_else(|| node.to_string(), |(_, name)| name.clone())
    }

    /// Returns the names of several.
    #[must_use]
    pub fn all(&self, nodes: impl IntoIterator<Item = NodeId>) -> Vec<String> {
        nodes.into_iter().map(|node| self.of(node)).collect()
    }

    fn node(&self, node: NodeId) -> NodeName {
        NodeName { node: self.of(node), node_id: node }
    }

    fn member(&self, member: Member) -> MemberName {
        MemberName { node: self.of(member.node), node_id: member.node, incarnation: member.incarnation }
    }

    fn judgement(&self, grounds: Grounds) -> Judgement {
        Judgement {
            cause: grounds.reason.into(),
            judges: self.all(grounds.judges),
            others: self.all(grounds.others),
            silent_ms: grounds.silent_ms,
            controller_age_ms: grounds.controller_age_ms,
        }
    }
}

/// Returns the event that tells people and programs of `event`.
#[must_use]
pub fn tell(event: A, names: &NodeNames) -> ViewEvent {
    let id = ViewId;
    match event {
        A::NodeRemoved { view, member, grounds } => {
            let judgement = grounds.map(|grounds| names.judgement(grounds));
            E::NodeRemoved { member: names.member(member), view: id(view), judgement, paths: Vec::new() }
        }
        A::QuorumLost { view, why, missing, .. } => {
            let missing = names.all(missing);
            E::QuorumLost { view: id(view), cause: NotActing(why), missing, noticed_after_ms: 0 }
        }
        A::Fenced { by, view, reason } => {
            let cause = reason.map(Into::into);
            E::Fenced { by: by.map(|by| names.of(by)), by_id: by, view: view.map(id), cause }
        }
        A::LeftOut { view, grounds, stayed } => {
            let judgement = grounds.map(|grounds| names.judgement(grounds));
            E::LeftOut { view: id(view), stayed: names.all(stayed), judgement }
        }
        A::JoinRefused { node, why } => E::JoinRefused { member: names.member(node), cause: why.into() },
        A::StateNotNewest { held, newest, told_by } => {
            E::StateNotNewest { held: id(held), newest: id(newest), told_by: names.of(told_by) }
        }
        A::WaitsForVotes { view, needed, available, missing } => {
            let missing = names.all(missing);
            E::WaitsForVotes { view: id(view), votes_needed: needed, votes_available: available, missing }
        }
        A::OtherSideForced { own, other } => E::OtherSideForced { held: id(own), other: id(other) },
        A::Quarantined { node, ends, remaining } => {
            E::NodeQuarantined { node: names.node(node), ends, remaining_ms: millis(remaining) }
        }
        A::QuarantineRefused { node, remaining } => {
            E::QuarantineRefused { node: names.node(node), remaining_ms: millis(remaining) }
        }
        A::OwnQuarantine { ends, remaining } => E::OwnQuarantine { ends, remaining_ms: millis(remaining) },
        A::StoppedForConsistency => E::StoppedForConsistency {},
        A::ViewInstalled { view, members, voters, change } => E::ViewInstalled {
            view: id(view.order),
            digest: digest_text(&view),
            members: names.all(members.into_iter().map(|member| member.node)),
            voters: names.all(voters),
            asked_of: change.map(|change| names.of(change.by.node)),
        },
        A::ViewInForce { view, after } => E::ViewInForce { view: id(view), after_ms: millis(after) },
        A::RegroupStarted { turn, trigger } => E::RegroupStarted { turn, trigger: trigger_text(trigger, names) },
        A::RegroupWaits { view, waits_for } => {
            E::RegroupWaits { view: view.is_view().then_some(id(view)), waits_for: names.all(waits_for) }
        }
        A::NodeJoined { view, member } => E::NodeJoined { member: names.member(member), view: id(view) },
        A::NodeLeftView { view, member, handed_over } => {
            E::NodeLeftView { member: names.member(member), view: id(view), handed_over }
        }
        A::LeaseGained { view } => E::LeaseGained { view: id(view) },
        A::LeaseGivenUp { view } => E::LeaseGivenUp { view: id(view) },
        A::FenceSent { victim, view } => E::FenceSent { member: names.member(victim), view: id(view) },
        A::FenceAcknowledged { victim, gated } => E::FenceAcknowledged { member: names.member(victim), gated },
        A::KnownStopped { member, how } => E::KnownStopped { member: names.member(member), proof: how.into() },
        A::VoteForfeited => E::VoteForfeited {},
        A::OlderState { sequence, seen, seen_by } => E::OlderState { sequence, seen, seen_by: names.of(seen_by) },
        A::Hole { view, hung, lost } => E::Hole { view: id(view), hung, lost_ms: millis(lost) },
        A::RestartBackoff { ends, wait } => E::RestartBackoff { ends, wait_ms: millis(wait) },
        A::QuarantineCleared { node } => E::QuarantineCleared { node: names.node(node) },
        A::ViewSettingChanged { view, change, setting } => {
            let setting = setting.map(|setting| setting_text(setting, names));
            E::ViewSettingChanged { view: id(view), setting, asked_of: names.of(change.by.node) }
        }
        A::ForcedQuorum { view } => E::ForcedQuorum { view: id(view) },
        A::NoConnectedMajority { view, apart } => E::NoConnectedMajority { view: id(view), apart: names.all(apart) },
        A::LastDisk { view, node } => E::LastDisk { node: names.node(node), view: id(view) },
        A::ControlLost { node, fault } => E::ControlLost { node: names.node(node), location: fault.into() },
        A::ControlRestored { node } => E::ControlRestored { node: names.node(node) },
        A::ClockOutOfBounds => E::ClockOutOfBounds {},
        A::TimeWentBack => E::TimeWentBack {},
    }
}

/// Returns the first 8 bytes of a document's digest: 16 hex digits.
fn digest_text(name: &Name) -> String {
    // The words are little-endian: swapped, they read as the bytes stand.
    format!("{:016x}", name.digest[0].swap_bytes())
}

fn trigger_text(trigger: Trigger, names: &NodeNames) -> String {
    match trigger {
        Trigger::Member(member, reason) => format!("{}: {}", names.member(member), RemovalCause::from(reason)),
        Trigger::Joiner(member) => format!("{} wants to join", names.member(member)),
        Trigger::Wish(change) => format!("node {} was asked for a change", names.of(change.by.node)),
        Trigger::Unfinished => "a view was accepted, and no decision of it was heard".to_owned(),
        Trigger::Start => "this node holds a vote, and is no member under its present incarnation".to_owned(),
        Trigger::Release(node) => format!("the quarantine of node {} is over", names.of(node)),
        Trigger::Leave => "this node leaves".to_owned(),
        Trigger::Joined(node) => format!("node {} began it", names.of(node)),
    }
}

/// Returns a setting of a view and its value, as `heartbeatctl set` names them.
fn setting_text(setting: Setting, names: &NodeNames) -> String {
    match setting {
        Setting::LeaseMs(ms) => format!("quorum_arbitration_time_max_s = {}", seconds_text(ms)),
        Setting::StopMs(ms) => format!("stop_time_s = {}", seconds_text(ms)),
        Setting::Weight(node, weight) => format!("node_weight of {} = {weight}", names.of(node)),
        Setting::LowerPriority(node) => {
            let node = node.map_or_else(|| "none".to_owned(), |node| names.of(node));
            format!("lower_quorum_priority_node = {node}")
        }
        Setting::Dynamic(dynamic) => format!("dynamic_quorum = {dynamic}"),
    }
}

/// Returns milliseconds as seconds, as they are written in settings.
#[must_use]
pub fn seconds_text(ms: u32) -> String {
    let text = format!("{}.{:03}", ms / 1000, ms % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Returns a time as people read it.
pub(super) fn human(ms: u64) -> Human {
    Human(Duration::from_millis(ms))
}

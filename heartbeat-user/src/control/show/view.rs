//! Turns answers about views and votes into text for people. It prints nothing and asks nothing.

use super::super::{
    MemberStatus, OwedStatus, QuarantineStatus, QuorumStatus, RemovalReason, RemovalStatus, ViewGlance, ViewRef,
    ViewStatus, VoteStatus,
};
use super::{NONE, duration, named, or_none, table};
use std::fmt::Write;

/// Returns what this node holds and what it waits for, one line each.
#[must_use]
pub fn show_view(status: &ViewStatus) -> String {
    let held = status.view.as_ref().map(|view| &view.name);
    let in_force = status.is_in_force();
    let mut rows = vec![("view", held.map_or_else(|| "none".to_owned(), |name| named_view(name, in_force)))];
    if let Some(last) = status.in_force.as_ref().filter(|_| !in_force) {
        rows.push(("in force", format!("still {last}: who goes on acts under that one")));
    }
    let acts = match (&status.token, &status.not_acting) {
        (Some(token), _) => format!("acts, with token {token}"),
        (None, Some(why)) => format!("may NOT act: {why}"),
        (None, None) => "may NOT act".to_owned(),
    };
    rows.push(("node", format!("{}; {acts}", status.life)));
    rows.push(("stage", status.stage.to_string()));
    if !status.waits_for.is_empty() {
        rows.push(("waits for", status.waits_for.join(", ")));
    }
    if let Some(view) = &status.view {
        let members: Vec<String> = view.members.iter().map(member).collect();
        rows.push(("members", members.join(", ")));
        rows.extend(view.removals.iter().map(|removal| ("left out", left_out(removal))));
        rows.extend(view.owed.iter().map(|one| ("owed", owed(one))));
        rows.extend(view.quarantined.iter().map(|one| ("quarantine", quarantined(one))));
    }
    named(rows)
}

/// Returns votes, lease and budget.
#[must_use]
pub fn show_quorum(status: &QuorumStatus, heads: bool) -> String {
    let mode = if status.dynamic { "they follow membership" } else { "they stay as configured" };
    let lower = status.lower_priority.as_ref().map(|node| format!("; {node} loses its own first")).unwrap_or_default();
    let left = status.lease_left_ms.map_or_else(|| "it is OVER".to_owned(), |ms| format!("{} left", duration(ms)));
    let (total, needed, fresh) = (status.votes_total, status.votes_needed, status.votes_fresh);
    let budget = &status.budget;
    let mut rows = vec![
        ("view", format!("{} ({})", status.view, status.view.digest)),
        ("votes", format!("{fresh} of {total} granted within the lease, {needed} needed; {mode}{lower}")),
        (
            "lease",
            format!(
                "{}, of which stopping takes {}; {left}; the longest that may still run anywhere is {}",
                duration(status.lease_ms),
                duration(status.stop_ms),
                duration(status.longest_ms)
            ),
        ),
        (
            "budget",
            format!(
                "detection {} + view {} + in force {} = taken over within {}",
                duration(budget.detection_ms),
                duration(budget.view_ms),
                duration(budget.in_force_ms),
                duration(budget.takeover_ms())
            ),
        ),
    ];
    rows.extend(status.last_disk.as_ref().map(|node| ("last disk", last_disk(node))));
    let votes = status.votes.iter().map(vote);
    named(rows) + &table(&["HOLDER", "ID", "WEIGHT", "CONFIGURED", "GRANTED"], &[1, 2, 3, 4], heads, votes)
}

/// Returns the view in one line of `status`.
pub(super) fn glance(glance: Option<&ViewGlance>) -> String {
    let Some(glance) = glance else {
        return "none: the cluster was not initialised (heartbeatctl init CLUSTER)".to_owned();
    };
    let waits = if glance.waits_for.is_empty() { String::new() } else { format!("; waits for {}", glance.waits()) };
    let Some(held) = &glance.held else {
        return format!("none ({}){waits}", glance.life);
    };
    let in_force = glance.is_in_force();
    let mut text = format!("{} of {}", named_view(held, in_force), glance.members.join(", "));
    if let Some(last) = glance.in_force.as_ref().filter(|_| !in_force) {
        let _ = write!(text, "; acts under {last} meanwhile");
    }
    let _ = write!(text, "; {}, {}", glance.life, glance.stage);
    for one in &glance.quarantined {
        let _ = write!(text, "; {} in quarantine for {}", one.name, duration(one.remaining_ms));
    }
    text += &waits;
    text
}

/// Returns the lease in one line of `status`.
pub(super) fn lease(glance: Option<&ViewGlance>) -> String {
    let Some((glance, lease_ms)) = glance.and_then(|glance| Some((glance, glance.lease_ms?))) else {
        return NONE.to_owned();
    };
    let mut text = match (glance.lease_left_ms, &glance.not_acting) {
        (Some(left), None) => format!("{} of {} left", duration(left), duration(lease_ms)),
        (_, Some(why)) => format!("may NOT act: {why}"),
        (None, None) => "may NOT act: it is over".to_owned(),
    };
    if !glance.vote_holders.is_empty() {
        let _ = write!(text, "; votes of {}", glance.vote_holders.join(", "));
    }
    if let Some(node) = &glance.last_disk {
        let _ = write!(text, "; LAST DISK: {}", last_disk(node));
    }
    text
}

fn named_view(name: &ViewRef, in_force: bool) -> String {
    let standing = if in_force { "in force" } else { "agreed, NOT in force" };
    format!("{name} ({}), {standing}", name.digest)
}

fn last_disk(node: &str) -> String {
    format!("{node}'s disk alone is the cluster: without it no view can follow")
}

fn member(member: &MemberStatus) -> String {
    format!("{} (incarnation {})", member.name, member.incarnation)
}

fn left_out(removal: &RemovalStatus) -> String {
    let why = match removal.reason {
        RemovalReason::Down => format!("silent on every path for {}", duration(removal.silent_ms.into())),
        RemovalReason::Hung => {
            format!("its controller made no progress for {}", duration(removal.controller_age_ms.into()))
        }
        RemovalReason::Restarted => "it came back under a newer incarnation".to_owned(),
        RemovalReason::Left => "it left by itself".to_owned(),
        RemovalReason::NotConnected => "it and others that stay did not hear each other both ways".to_owned(),
        RemovalReason::NoMessages => "its messages did not pass, though its controller ran".to_owned(),
        RemovalReason::CannotApply => "it said that it cannot apply what was decided".to_owned(),
        RemovalReason::Fenced => "an operator asked for it".to_owned(),
        RemovalReason::Forced => "an operator forced a start without it".to_owned(),
        RemovalReason::GaveUp => "its service manager gave up starting its controller".to_owned(),
    };
    let judges =
        if removal.judges.is_empty() { String::new() } else { format!("; so judged by {}", removal.judges.join(", ")) };
    format!("{}: {why}{judges}", member(&removal.member))
}

fn owed(owed: &OwedStatus) -> String {
    let known = if owed.stopped { "it has stopped" } else { "NOT known to have stopped" };
    format!("{}, left out by view {}: {known}", member(&owed.member), owed.left_out_by)
}

fn quarantined(one: &QuarantineStatus) -> String {
    format!(
        "{} may not join for {}: it ended ungracefully {} times within an hour",
        one.name,
        duration(one.remaining_ms),
        one.exits
    )
}

fn vote(vote: &VoteStatus) -> Vec<String> {
    let granted = match (vote.own, vote.granted_ms_ago) {
        (true, Some(0)) => "stands".to_owned(),
        (_, Some(ms)) => format!("{} ago", duration(ms)),
        (_, None) => NONE.to_owned(),
    };
    vec![
        if vote.own { format!("{} (this node)", vote.holder) } else { vote.holder.clone() },
        or_none(vote.id),
        vote.weight.to_string(),
        vote.configured.to_string(),
        granted,
    ]
}

#[cfg(test)]
pub(super) mod tests;

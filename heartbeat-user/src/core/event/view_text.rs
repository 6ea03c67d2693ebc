//! The one sentence that people read for each event of the agreement: what happened, why, and where the fault was. It
//! decides nothing.

use super::translate::human;
use super::view::{Judgement, ViewEvent};
use super::{NotActing, RemovalCause, ViewId};
use heartbeat_common::lease::Refused;
use std::fmt;

/// From here on a loss of quorum was noticed late, ms: a controller that runs looks more often.
const LATE_MS: u64 = 1_000;

/// Names in a row; "nobody" where there is none.
struct List<'a>(&'a [String]);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [] => f.write_str("nobody"),
            [one] => f.write_str(one),
            [head @ .., last] => write!(f, "{} and {last}", head.join(", ")),
        }
    }
}

impl fmt::Display for Judgement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cause.fmt(f)?;
        let (silent, age) = (human(self.silent_ms.into()), human(self.controller_age_ms.into()));
        let never = self.silent_ms == u32::MAX;
        match self.cause {
            RemovalCause::Down | RemovalCause::NotConnected | RemovalCause::NoMessages if never => {
                f.write_str(" (never heard)")?;
            }
            RemovalCause::Down => write!(f, " (silent for {silent}, its controller had last said {age} of age)")?,
            RemovalCause::Hung => write!(f, " (for {age})")?,
            RemovalCause::NotConnected | RemovalCause::NoMessages => {
                write!(f, " (heard {silent} before, controller {age} old)")?;
            }
            RemovalCause::Restarted
            | RemovalCause::Left
            | RemovalCause::CannotApply
            | RemovalCause::Fenced
            | RemovalCause::Forced
            | RemovalCause::GaveUp => {}
        }
        if self.judges.is_empty() {
            return Ok(());
        }
        write!(f, "; so judged by {}", List(&self.judges))?;
        // Whose fault it was: of connections that all fail their common end, else what lies between.
        let between = matches!(self.cause, RemovalCause::NotConnected | RemovalCause::NoMessages);
        match (&self.others[..], &self.judges[..]) {
            ([], [_, _, ..]) if between => f.write_str(", which is everybody that stayed: look at its end first"),
            ([], _) => Ok(()),
            (others, _) if between => write!(f, " and not by {}: look between it and the former", List(others)),
            (others, _) => write!(f, " and not by {}", List(others)),
        }
    }
}

impl fmt::Display for ViewEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use ViewEvent as E;
        match self {
            E::NodeRemoved { member, view, judgement: Some(judgement), .. } => {
                write!(f, "node {member} was removed from the membership by view {view}: {judgement}")
            }
            E::NodeRemoved { member, view, .. } => write!(
                f,
                "node {member} is out of the membership, in view {view} at the latest: a view that this node has not \
                 seen removed it, and later ones do not say why"
            ),
            E::LeftOut { view, stayed, judgement } => {
                write!(f, "this node was left out of view {view}, in which {} stayed", List(stayed))?;
                match judgement {
                    Some(judgement) => write!(f, "; of this node the view says: {judgement}")?,
                    None => f.write_str("; the view no longer says why: an older one left it out")?,
                }
                f.write_str("; what it ran is stopped, and it joins anew under a new incarnation")
            }
            E::Fenced { by, view, cause, .. } => {
                f.write_str("this node was told to stop by ")?;
                match by {
                    Some(by) => write!(f, "node {by}")?,
                    None => f.write_str("a member of the cluster")?,
                }
                if let Some(view) = view {
                    write!(f, " in the name of view {view}")?;
                }
                f.write_str(", and its kernel obeyed")?;
                match cause {
                    Some(cause) => write!(f, ": {cause}"),
                    None => f.write_str("; why is not known here yet: event 1135 of its older incarnation says it"),
                }
            }
            E::QuorumLost { view, cause, missing, noticed_after_ms } => {
                quorum_lost(f, *view, *cause, missing)?;
                let late = *noticed_after_ms >= LATE_MS;
                if late { write!(f, "; noticed {} later", human(*noticed_after_ms)) } else { Ok(()) }
            }
            E::JoinRefused { member, cause } => write!(f, "node {member} may not join: {cause}"),
            E::StateNotNewest { held, newest, told_by } => write!(
                f,
                "this node holds view {held}, and node {told_by} knows of view {newest}: this node's state is not the \
                 newest, so it does not stand for the cluster"
            ),
            E::WaitsForVotes { view, votes_needed, votes_available, missing } => write!(
                f,
                "no successor of view {view} can be decided: {votes_available} of the {votes_needed} votes needed are \
                 there, and {} has the rest",
                List(missing)
            ),
            E::OtherSideForced { held, other } => write!(
                f,
                "this node holds view {held}, and the other side was started by force under view {other}, which \
                 outranks it: this node stops and joins that side"
            ),
            E::ViewInstalled { view, members, voters, asked_of, .. } => {
                write!(f, "view {view} was agreed: members {}, votes of {}", List(members), List(voters))?;
                asked_of.as_ref().map_or(Ok(()), |node| write!(f, "; as was asked of node {node}"))
            }
            E::ViewInForce { view, after_ms } => write!(
                f,
                "view {view} is in force, {} after it was installed: all that it left out are known to have stopped",
                human(*after_ms)
            ),
            E::LeaseGained { view } => {
                write!(f, "this node may act, under view {view}: a majority of votes has granted within the lease")
            }
            E::LeaseGivenUp { view } => {
                write!(f, "this node leaves: it may not act any more in view {view}, and stops what it runs")
            }
            E::StoppedForConsistency {} => {
                f.write_str("this node leaves the cluster: its disk does not keep what this node promised the others")
            }
            other => other.course(f),
        }
    }
}

fn quorum_lost(f: &mut fmt::Formatter<'_>, view: ViewId, cause: NotActing, missing: &[String]) -> fmt::Result {
    write!(f, "this node may not act any more in view {view}, and stops what it runs: {cause}")?;
    match (cause.0, missing) {
        (Refused::Expired, []) => f.write_str(
            "; every holder of a vote is heard, so they grant to a newer view, or their grants come too late",
        ),
        (Refused::Expired, missing) => {
            write!(f, "; of the holders of votes {} is not heard: dead, or cut off from this node", List(missing))
        }
        _ => Ok(()),
    }
}

impl ViewEvent {
    /// The sentences of the ordinary course: regroups, joins, stops, settings and connections.
    fn course(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use ViewEvent as E;
        match self {
            E::RegroupStarted { turn, trigger } => write!(f, "regroup {turn} has begun: {trigger}"),
            E::RegroupWaits { view: Some(view), waits_for } => {
                write!(f, "the successor of view {view} waits for {}", List(waits_for))
            }
            E::RegroupWaits { view: None, waits_for } if waits_for.is_empty() => f.write_str(
                "this node holds no view: it waits for a node that lists it, or for `heartbeatctl init` on one node",
            ),
            E::RegroupWaits { view: None, waits_for } => {
                write!(f, "this node holds no view: it waits for {}", List(waits_for))
            }
            E::NodeJoined { member, view } => write!(f, "node {member} is a member of view {view}"),
            E::NodeLeftView { member, view, handed_over: true } => {
                write!(f, "node {member} has left by itself: view {view} goes on without it and its vote")
            }
            E::NodeLeftView { member, view, .. } => write!(
                f,
                "node {member} has left by itself, and no view without it was decided in time: its vote in view {view} \
                 was not handed over, so the others may have to wait for its disk"
            ),
            E::FenceSent { member, view } => {
                write!(f, "the kernel of node {member} is ordered to stop it, since view {view} left it out")
            }
            E::FenceAcknowledged { member, gated: true } => {
                write!(f, "the kernel of node {member} has obeyed: all that it ran asks that kernel, and has stopped")
            }
            E::FenceAcknowledged { member, .. } => write!(
                f,
                "the kernel of node {member} has obeyed; what ran there does not ask that kernel, so the time to stop \
                 is waited for"
            ),
            E::KnownStopped { member, proof } => write!(f, "node {member} is known to have stopped: {proof}"),
            E::ViewSettingChanged { view, setting: Some(setting), asked_of } => {
                write!(f, "{setting} from view {view} on, as was asked of node {asked_of}")
            }
            E::ViewSettingChanged { view, asked_of, .. } => {
                write!(f, "settings changed with view {view}, as was asked of node {asked_of}")
            }
            E::ForcedQuorum { view } => write!(
                f,
                "this node goes on alone under view {view}, by an operator's word that all others are down; until the \
                 sides meet only tokens protect"
            ),
            E::NoConnectedMajority { view, apart } => write!(
                f,
                "{} do not all hear each other, and no others make a majority without them: view {view} stays as it is",
                List(apart)
            ),
            E::LastDisk { node, view } => write!(
                f,
                "the disk of node {node} alone is the cluster from view {view} on: without it no view can follow"
            ),
            E::ControlLost { node, location } => {
                write!(f, "messages of node {node} do not pass, though its controller runs: {location}")
            }
            E::ControlRestored { node } => write!(f, "messages of node {node} pass again"),
            other => other.own(f),
        }
    }

    /// The sentences of quarantine and of this node's own troubles.
    fn own(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use ViewEvent as E;
        match self {
            E::NodeQuarantined { node, ends, remaining_ms } => write!(
                f,
                "node {node} may not join for {}: it ended ungracefully {ends} times within an hour \
                 (`heartbeatctl clear-quarantine {node}` lets it)",
                human(*remaining_ms)
            ),
            E::QuarantineRefused { node, remaining_ms } => {
                let remaining = human(*remaining_ms);
                write!(f, "node {node} wants to join and may not for {remaining} more: it is in quarantine")
            }
            E::OwnQuarantine { ends, remaining_ms } => write!(
                f,
                "this node is in quarantine for {}, since it ended ungracefully {ends} times within an hour: find out \
                 why, then use `heartbeatctl clear-quarantine` on a member",
                human(*remaining_ms)
            ),
            E::QuarantineCleared { node } => write!(f, "node {node} may join again: its quarantine is over"),
            E::VoteForfeited {} => f.write_str(
                "this node's disk may not hold what it promised (a write failed, or it is an older copy), so its vote is given up",
            ),
            E::OlderState { sequence, seen, seen_by } => write!(
                f,
                "this node's disk holds its state number {sequence}, and node {seen_by} has seen number {seen}: the \
                 disk is an older copy, and its vote is given up"
            ),
            E::Hole { view, hung: false, lost_ms } => write!(
                f,
                "this node was judged dead by view {view} while it was not: nobody had heard it for {}; what it did \
                 meanwhile was done without the cluster",
                human(*lost_ms)
            ),
            E::Hole { view, lost_ms, .. } => write!(
                f,
                "this node was judged hung by view {view}: its controller had made no progress for {}; what it did \
                 meanwhile was done without the cluster",
                human(*lost_ms)
            ),
            E::RestartBackoff { ends, wait_ms } => write!(
                f,
                "this node waits for {} before it asks to join: it ended ungracefully {ends} times within an hour",
                human(*wait_ms)
            ),
            E::HookFailed { hook, event_id, reason } => {
                write!(f, "the hook {hook} failed for event {event_id}: {reason}")
            }
            E::ClockOutOfBounds {} => f.write_str(
                "a clock of this node runs faster or slower than a clock may, so it does not act: see to whatever \
                 slews it (chrony: maxslewrate 100)",
            ),
            E::TimeWentBack {} => f.write_str(
                "a peer knows of this node what it has not said, sent or stamped yet: this memory is that of an older \
                 snapshot, and does not act under this incarnation",
            ),
            E::ChangeAsked { change, uid, outcome } => write!(f, "user {uid} asked to {change}: {outcome}"),
            other => f.write_str(other.name()),
        }
    }
}

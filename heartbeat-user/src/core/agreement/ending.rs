//! How a node's part ends: it leaves, or a view or a fence put it out. What it runs stops first, and only then is
//! anything said to have stopped.

use super::closing::is_member;
use super::document::{Document, Holder, Member, Reason, Vote};
use super::engine::Agreement;
use super::event::{AgreementEvent, Grounds};
use super::install::out_of;
use super::message::Message;
use super::types::{Command, Ending};
use crate::core::time::MonoTime;
use heartbeat_common::lease::hold;
use heartbeat_common::view::Order;
use std::time::Duration;

/// Where this node is going.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Course {
    /// On.
    Runs,
    /// It leaves.
    Leaving {
        since: MonoTime,
        ending: Ending,
        /// All that it ran has stopped.
        stopped: bool,
        /// The view without it was decided, though it cannot be written here.
        decided: bool,
    },
    /// It is out.
    Out {
        since: MonoTime,
        fenced: bool,
        /// All that it ran has stopped.
        stopped: bool,
    },
    /// The last command was given.
    Ended,
}

impl Agreement {
    /// Begins to leave: no new acts, everything stops, and the others are asked for a view without this node.
    pub(super) fn leave(&mut self, ending: Ending) {
        if self.course != Course::Runs {
            return;
        }
        self.course = Course::Leaving { since: self.now.mono, ending, stopped: false, decided: false };
        self.hold(hold::LEAVING, true);
        self.commands.extend([Command::StopServices, Command::Burst]);
        self.report_now();
    }

    /// A newer view has left this incarnation out. Who leaves anyway goes on leaving.
    pub(super) fn left_out(&mut self, view: &Document) {
        if self.course != Course::Runs {
            return;
        }
        self.go_out(false);
        // An operator's word or a broken connection calls nobody dead.
        let hole = grounds_of(view, self.setup.own).and_then(|grounds| match grounds.reason {
            Reason::Down => Some((false, grounds.silent_ms)),
            Reason::Hung => Some((true, grounds.controller_age_ms)),
            _ => None,
        });
        if let Some((hung, lost_ms)) = hole {
            let lost = Duration::from_millis(u64::from(lost_ms));
            self.tell(AgreementEvent::Hole { view: view.order, hung, lost });
        }
    }

    /// Goes out: stops what it runs, at once.
    pub(super) fn go_out(&mut self, fenced: bool) {
        if matches!(self.course, Course::Out { .. } | Course::Ended) {
            return;
        }
        let stopped = matches!(self.course, Course::Leaving { stopped: true, .. });
        self.course = Course::Out { since: self.now.mono, fenced, stopped };
        self.attempt = None;
        self.hold(hold::STOPPING, true);
        if !stopped {
            self.commands.push_back(Command::StopServices);
        }
        if fenced {
            // Why is said by the view that ordered it.
            let held = self.held_order();
            self.send_all(&Message::Fetch(held));
        }
    }

    pub(super) fn services_stopped(&mut self) {
        match &mut self.course {
            Course::Leaving { stopped, .. } | Course::Out { stopped, .. } => *stopped = true,
            Course::Runs | Course::Ended => {}
        }
    }

    pub(super) fn run_course(&mut self) {
        match self.course {
            Course::Leaving { since, ending, stopped: true, decided } => self.run_leaving(since, ending, decided),
            Course::Out { since, fenced, stopped: true } => {
                let told = self.held.as_ref().is_some_and(|held| !is_member(&held.document, self.setup.own));
                // Who ended before that view is on disk would find the one before it there, come back as if it knew of
                // nothing, and be put out once more.
                let written = self.unwritten().is_none();
                if told && written || self.now.mono >= self.out_until(since) {
                    self.say_why(fenced);
                    self.end(if self.is_ordered_out() { Ending::Removed } else { Ending::Out });
                }
            }
            Course::Runs | Course::Leaving { .. } | Course::Out { .. } | Course::Ended => {}
        }
    }

    /// Returns a view that was decided and is not on disk yet, though it may still get there.
    fn unwritten(&self) -> Option<&Document> {
        let voter = self.voter.as_ref().filter(|voter| !voter.forfeited())?;
        let held = self.held.as_ref().map(|held| held.name);
        (held != Some(voter.state().register.view)).then(|| &voter.state().installed)
    }

    /// Returns when a node that is out since then ends, whatever it has not been told or written: a stage later, or one
    /// after the write began that brings the view without it to disk. A disk that failed is waited for no longer.
    fn out_until(&self, since: MonoTime) -> MonoTime {
        let begun = self.writing.filter(|_| self.unwritten().is_some()).unwrap_or(since);
        since.max(begun) + self.setup.timing.stage
    }

    /// Takes note of a view that cannot be written, as the disk failed: it may be the one without this node.
    pub(super) fn handed_over(&mut self, view: &Document) {
        let out = self.forfeited() && view.order > self.held_order() && out_of(view, self.setup.own);
        if let Course::Leaving { decided, .. } = &mut self.course {
            *decided |= out;
        }
    }

    fn run_leaving(&mut self, since: MonoTime, ending: Ending, decided: bool) {
        let held = self.membership().filter(|_| !decided);
        let alone = held.is_none_or(|held| held.document.members.len() == 1);
        let vain = held.is_some_and(|held| self.forfeited() && !self.others_may_decide(&held.document));
        if !alone && !vain && self.passed(since) < self.setup.timing.leave {
            return;
        }
        if let Some(view) = held.map(|held| held.name.order) {
            self.tell(AgreementEvent::NodeLeftView { view, member: self.setup.own, handed_over: false });
        }
        self.end(ending);
    }

    /// Says whether the votes of a view may be a majority without this node's own, and without those that are known to be
    /// over. If not, nobody can decide the view without it before one of them is back, and that begins with its end.
    fn others_may_decide(&self, view: &Document) -> bool {
        let stands = |vote: &&Vote| match vote.holder {
            Holder::Node(node) if node == self.setup.own.node => false,
            Holder::Node(node) => {
                let report = self.peers.get(&node).and_then(|peer| peer.report.as_ref());
                report.is_none_or(|report| report.vote == vote.id)
            }
            Holder::Witness(_) => true,
        };
        view.is_majority(view.votes.iter().filter(stands).map(|vote| u32::from(vote.weight)).sum())
    }

    /// Says whether it was an operator who had this node left out, as far as the view that did it is known.
    fn is_ordered_out(&self) -> bool {
        let newest = self.unwritten().or(self.held.as_ref().map(|held| &held.document));
        let grounds = newest.and_then(|view| grounds_of(view, self.setup.own));
        grounds.is_some_and(|grounds| matches!(grounds.reason, Reason::Fenced | Reason::Forced))
    }

    fn say_why(&mut self, fenced: bool) {
        // The newest view known: also one that did not get to the disk.
        let newest = self.unwritten().or(self.held.as_ref().map(|held| &held.document));
        let without = newest.filter(|view| !is_member(view, self.setup.own));
        let view = without.map(|view| view.order).unwrap_or_default();
        let left_out_by = without.and_then(|view| left_out_by(view, self.setup.own));
        let grounds = without.and_then(|view| grounds_of(view, self.setup.own));
        let stayed = without.iter().flat_map(|view| &view.members).map(|member| member.node).collect();
        self.tell(if fenced {
            let reason = grounds.map(|grounds| grounds.reason);
            AgreementEvent::Fenced { by: self.page.fenced_by, view: left_out_by, reason }
        } else {
            AgreementEvent::LeftOut { view, grounds, stayed }
        });
    }

    fn end(&mut self, ending: Ending) {
        self.answer_all_at_end();
        self.course = Course::Ended;
        self.commands.push_back(Command::Exit(ending));
    }

    pub(super) fn course_timeout(&self) -> Option<MonoTime> {
        let timing = &self.setup.timing;
        match self.course {
            Course::Leaving { since, stopped: true, .. } => Some(since + timing.leave),
            Course::Out { since, stopped: true, .. } => Some(self.out_until(since)),
            Course::Runs | Course::Leaving { .. } | Course::Out { .. } | Course::Ended => None,
        }
    }
}

/// Returns which view left an incarnation out, as far as this one shows it.
fn left_out_by(view: &Document, member: Member) -> Option<Order> {
    let owed = || view.owed.iter().find(|owed| owed.member == member).map(|owed| owed.left_out_by);
    if grounds_of(view, member).is_some() { Some(view.order) } else { owed() }
}

/// Returns why a view left out this very incarnation.
fn grounds_of(view: &Document, member: Member) -> Option<Grounds> {
    let removal = view.removals.iter().find(|removal| removal.member == member)?;
    Some(Grounds::of(view, removal))
}

//! A trial of messages that do not pass, in neither direction, between the controllers of two sides, while heartbeats do.
//! It must not end in limbo: the side that is a majority by the votes of the view goes on without the other, or nobody
//! goes. It is judged by what was decided and reached disks and pages.

use super::ghost::broken;
use super::net::Class;
use super::plan;
use super::rules::Rule;
use super::stats::Count;
use super::world::World;
use heartbeat_common::view::Order;
use heartbeat_user::core::agreement::document::Reason;

impl World {
    /// Messages stop between two sides. Within each all pass, and everybody is heard, so that everybody selects the same
    /// side: that with more votes. It is a majority, unless the votes are split evenly, for nobody else has any.
    pub(super) fn mute(&mut self, side: u64) {
        let all = self.everybody();
        self.part(side, &[Class::Messages]);
        let stays = if self.majority_without(!side & all).is_empty() { !side & all } else { side };
        let larger = self.majority_without(!stays & all);
        let members = self.newest_document().map_or(0, |view| view.members.len());
        if larger.is_empty() || larger.len() == members {
            self.all_stay();
        } else if self.silent_go(!stays & all, &larger) {
            self.taken_over(!stays & all);
        }
    }

    /// Nobody could decide a view without the others, or the other side has no member: no view follows, and no lease ends,
    /// as kernels go on to grant.
    fn all_stay(&mut self) {
        self.stats.add(Count::MutedAllStay);
        let before = self.ghost.newest;
        let within = self.control_limit() + 2 * self.d();
        let changed = |world: &Self| world.ghost.newest != before || world.settled().is_err();
        let changed = self.comes(within, changed);
        if self.violation.is_none() {
            self.ghost.judged.add(Rule::Limbo);
            if changed {
                let (newest, settled) = (self.ghost.newest, self.settled());
                self.check(broken("limbo", format!("{before:?}, in which all stay, became {newest:?}: {settled:?}")));
            }
        }
    }

    /// The larger side is the view, on all of its disks, in time. Says whether it came to that.
    ///
    /// Messages have failed the control limit after the last one, which came before they stopped. Each regroup waits as
    /// long as the detection time for reports that do not come, then two delays for who hears whom to last, then it agrees:
    /// that is D. With each view as many go as may by judgement at once, and so it takes several of that. Who stays for one
    /// more view has its vote in it: the larger side has to be a majority of those votes as well.
    fn silent_go(&mut self, out: u64, larger: &[usize]) -> bool {
        let (began, before) = (self.now, self.ghost.newest);
        let (members, go) =
            self.newest_document().map_or((0, 0), |view| (view.members.len(), view.members.len() - larger.len()));
        if go > at_once(members) {
            self.stats.add(Count::MutedMany);
        }
        let within = self.control_limit() + views_for(members, go) * self.d();
        let alone = |world: &Self| {
            world.newest_document().is_some_and(|view| {
                view.members.iter().map(|member| plan::place(member.node)).eq(larger.iter().copied())
            })
        };
        let held = |world: &Self| larger.iter().all(|place| world.installed(*place) == world.ghost.newest);
        let done = self.comes(within, |world| alone(world) && held(world));
        if self.violation.is_some() {
            return false;
        }
        self.ghost.judged.add(Rule::Limbo);
        self.stats.muted_within(self.now - began);
        let fault = if done { self.unduly_gone(out, before, began) } else { Some(self.still_there(out, larger)) };
        if let Some(what) = fault {
            self.check(broken("limbo", what));
        }
        self.violation.is_none()
    }

    fn still_there(&self, out: u64, larger: &[usize]) -> String {
        let members: Vec<_> =
            self.newest_document().iter().flat_map(|view| &view.members).map(|one| one.node.0).collect();
        let newest = self.ghost.newest;
        let behind: Vec<_> = larger.iter().filter(|place| self.installed(**place) != newest).collect();
        format!("without messages of {out:b} {newest:?} has {members:?}, and {behind:?} hold another")
    }

    /// Says what was wrong with how they went: too early, too many at once, for another reason, or somebody else.
    fn unduly_gone(&self, out: u64, before: Order, began: u64) -> Option<String> {
        // As often as that reports come at least: so much of the limit may be over when messages stop.
        let earliest = began + self.control_limit() / 4 * 3;
        self.ghost.views().filter(|view| view.name.order > before).find_map(|view| {
            let (order, removals) = (view.name.order, &view.document.removals);
            let most = self.ghost.before(view).map_or(0, |view| at_once(view.document.members.len()));
            let other = removals.iter().find(|removal| out >> plan::place(removal.member.node) & 1 == 0);
            let reason = removals.iter().find(|removal| removal.reason != Reason::NoMessages);
            if let Some(removal) = other.or(reason) {
                Some(format!("{order:?} leaves out {:?} for {:?}", removal.member, removal.reason))
            } else if removals.len() > most {
                Some(format!("{order:?} leaves out {} at once, and {most} may go", removals.len()))
            } else if !removals.is_empty() && view.at < earliest {
                Some(format!("{order:?} was decided {} ns after messages stopped", view.at - began))
            } else {
                None
            }
        })
    }

    fn control_limit(&self) -> u64 {
        self.plan.control_limit().as_nanos() as u64
    }
}

/// "At most max(1, a quarter) of the members is removed by judgement at once."
const fn at_once(members: usize) -> usize {
    let quarter = members / 4;
    if quarter > 1 { quarter } else { 1 }
}

/// Returns how many views it takes until so many of so many members are gone.
fn views_for(members: usize, out: usize) -> u64 {
    let (mut members, mut left, mut views) = (members, out, 0);
    while left > 0 {
        let go = at_once(members).min(left);
        (members, left, views) = (members - go, left - go, views + 1);
    }
    views
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_of_the_members_or_one_goes_with_each_view() {
        let views = |members, out| views_for(members, out);
        assert_eq!([views(5, 0), views(2, 1), views(3, 1), views(5, 2), views(7, 3)], [0, 1, 1, 2, 3]);
        assert_eq!([views(8, 2), views(8, 3), views(9, 4), views(16, 7)], [1, 2, 3, 2]);
    }
}

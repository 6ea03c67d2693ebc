//! Who called whom silent, which incarnation, and until when: what a view that leaves somebody out for silence rests on.

use super::{Decided, Ghost, Violation, broken};
use crate::sim::rules::Rule;
use heartbeat_user::core::agreement::document::{Document, Member, Reason};

/// A detector's word that a peer is silent on every path.
#[derive(Clone, Copy, Debug)]
pub(super) struct Accusal {
    /// Whose, by place.
    by: usize,
    /// Of whom, by place.
    peer: usize,
    /// Which incarnation it had heard last; 0: none.
    incarnation: u64,
    /// When it was withdrawn, true time; `u64::MAX`: it stands.
    until: u64,
}

/// For so long a report that says so may be on its way and taken for the last one, ns.
const REPORTED: u64 = 2_000_000_000;

impl Ghost {
    /// Takes note that a detector calls a peer Down, of which it last heard this incarnation; 0: none.
    pub fn accuse(&mut self, by: usize, peer: usize, incarnation: u64) {
        self.accusals.push(Accusal { by, peer, incarnation, until: u64::MAX });
    }

    /// Takes note that a detector hears a peer again, or ends: `None` is for all peers.
    pub fn withdraws(&mut self, by: usize, peer: Option<usize>, at: u64) {
        let is = |one: &&mut Accusal| one.by == by && peer.is_none_or(|peer| peer == one.peer);
        self.accusals.iter_mut().filter(is).for_each(|one| one.until = one.until.min(at));
    }

    /// Takes note that a detector is again as it was at `then`: what it had not withdrawn by then stands.
    pub fn stands_again(&mut self, by: usize, then: u64) {
        let is = |one: &&mut Accusal| one.by == by && one.until > then;
        self.accusals.iter_mut().filter(is).for_each(|one| one.until = u64::MAX);
    }

    /// Says whether a detector, by place, called an incarnation Down, or a later one that is a proof of its end, and has
    /// not withdrawn that before `since`.
    fn calls_down(&self, by: usize, victim: Member, since: u64) -> bool {
        let peer = usize::from(victim.node.0) - 1;
        // Where an incarnation was drawn anew, a later one may be a lower number.
        let of = |one: &Accusal| one.incarnation == 0 || one.incarnation >= victim.incarnation || self.drawn_anew[peer];
        self.accusals.iter().any(|one| one.by == by && one.peer == peer && of(one) && one.until >= since)
    }

    /// Says whether any detector ever called an incarnation Down.
    #[must_use]
    pub fn was_accused(&self, victim: Member) -> bool {
        (0..self.held.len()).any(|by| self.calls_down(by, victim, 0))
    }

    /// Whom a view leaves out for its silence was silent for each that it names for that, while the view before stood.
    pub(super) fn silent_for_its_judges(&mut self, document: &Document, parent: &Decided) -> Result<(), Violation> {
        let since = parent.at.saturating_sub(REPORTED);
        for removal in document.removals.iter().filter(|removal| removal.reason == Reason::Down) {
            self.judged.add(Rule::S7);
            let judges = || document.members.iter().enumerate().filter(|(place, _)| removal.judges >> place & 1 == 1);
            let said =
                |(_, judge): (usize, &Member)| self.calls_down(usize::from(judge.node.0) - 1, removal.member, since);
            if judges().next().is_none() || !judges().all(said) {
                let what = format!("{:?} leaves {:?} out for silence: {removal:?}", document.order, removal.member);
                return broken("S7", what);
            }
        }
        Ok(())
    }
}

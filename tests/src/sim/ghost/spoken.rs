//! Whose messages reached whom, under which incarnations: whoever joins has shown each member that they pass, and each
//! member it.

use super::{Decided, Ghost, Violation, broken};
use crate::sim::rules::Rule;
use heartbeat_user::core::agreement::document::{Document, Member};
use std::collections::BTreeSet;

/// For so long a member may be spoken of as one that makes no progress after it has gone on, ns: its word is not asked for.
const REPORTED: u64 = 3_000_000_000;

/// What is remembered of messages.
#[derive(Clone, Debug, Default)]
pub(super) struct Spoken {
    /// From whom, to whom.
    passed: BTreeSet<(Member, Member)>,
    /// When each node's controller last made a round, and when it last made one after it had stood still; true time, by
    /// place.
    rounds: Vec<(u64, u64)>,
    /// For so long without a round a controller may count as one that makes no progress, ns.
    still: u64,
}

impl Spoken {
    pub fn new(nodes: usize) -> Self {
        Self { passed: BTreeSet::new(), rounds: vec![(0, 0); nodes], still: 0 }
    }
}

impl Ghost {
    /// Takes note that a message was taken in.
    pub fn passes(&mut self, from: Member, to: Member) {
        self.spoken.passed.insert((from, to));
    }

    /// Takes note that a node's controller makes a round. `still`: without one for so long it may count as stalled, ns.
    pub fn makes_round(&mut self, place: usize, at: u64, still: u64) {
        let (last, went_on) = self.spoken.rounds[place];
        self.spoken.still = still;
        self.spoken.rounds[place] = (at, if at - last > still { at } else { went_on });
    }

    /// Says whether a member may be one whose word nobody asked for: its controller stood still a moment ago.
    fn may_be_stalled(&self, member: Member, at: u64) -> bool {
        let (last, went_on) = self.spoken.rounds[usize::from(member.node.0) - 1];
        at - last > self.spoken.still || at - went_on < REPORTED
    }

    /// "Whoever joins and every member have heard each other's messages."
    pub(super) fn joiners_spoke(&mut self, document: &Document, parent: &Decided, at: u64) -> Result<(), Violation> {
        let was = |member: &Member| parent.document.members.contains(member);
        for joiner in document.members.iter().filter(|member| !was(member)) {
            for other in document.members.iter().filter(|other| *other != joiner) {
                if was(other) && self.may_be_stalled(*other, at) {
                    continue;
                }
                self.judged.add(Rule::Joins);
                let passed = |from: &Member, to: &Member| self.spoken.passed.contains(&(*from, *to));
                if !passed(joiner, other) || !passed(other, joiner) {
                    let what =
                        format!("{joiner:?} joins by {:?}, and no messages passed with {other:?}", document.order);
                    return broken("joins", what);
                }
            }
        }
        Ok(())
    }
}

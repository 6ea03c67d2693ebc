//! The document of a view: all that its members have agreed on, in one canonical form whose digest is the view's name.
//! It says what a document may be; it decides none.
//!
//! The form is [borsh](https://borsh.io), which writes each value in one way only. Lists are sorted and free of
//! doubles, so that equal views have equal digests.

use crate::core::ids::NodeId;
use borsh::{BorshDeserialize, BorshSerialize};
use heartbeat_common::lease::{NODES_MAX, SLOTS};
use heartbeat_common::view::{Name, Order, VoteId};
use sha2::{Digest, Sha256};
use std::time::Duration;
use thiserror::Error;

/// Version of the form.
pub const SCHEMA: u16 = 1;
/// Longest document, bytes.
pub const LEN_MAX: usize = 32 * 1024;
/// Bounds of a lease, ms.
pub const LEASE_MS: std::ops::RangeInclusive<u32> = 100..=3_600_000;
/// Longest section kept for a witness or for settings, bytes.
const SECTION_MAX: usize = 8 * 1024;
/// Most nodes in quarantine at once, whatever their number.
const QUARANTINED_MAX: usize = 16;
/// Clocks of two nodes may drift by so much each, in millionths.
pub const DRIFT_PPM: u64 = 200;
/// A clock that is slewed may gain or lose so much on one that is not, in millionths, before its owner holds itself: what
/// corrects the drift of both against true time, and what the kernel adds to set a clock (500). Every wait covers it.
pub const SLEW_PPM: u64 = 2 * DRIFT_PPM + 500;
/// Over which time an owner compares the two: within one it may lose at once what is allowed in all of it.
pub const SLEW_WINDOW: Duration = Duration::from_secs(1);

/// A node under one of its incarnations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, BorshSerialize, BorshDeserialize)]
pub struct Member {
    /// The node.
    pub node: NodeId,
    /// Its incarnation, never 0.
    pub incarnation: u64,
}

/// Who keeps the disk state that a vote belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, BorshSerialize, BorshDeserialize)]
pub enum Holder {
    /// A node; it need not be a member.
    Node(NodeId),
    /// A witness, by its place.
    Witness(u8),
}

/// A vote upon the successor of this view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, BorshSerialize, BorshDeserialize)]
pub struct Vote {
    /// Who holds it.
    pub holder: Holder,
    /// The disk state that it belongs to.
    pub id: VoteId,
    /// What it weighs by configuration, 0 or 1.
    pub configured: u8,
    /// What it weighs now, at most as much.
    pub weight: u8,
}

/// An incarnation that a view left out and that is not known to have stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, BorshSerialize, BorshDeserialize)]
pub struct Owed {
    /// Who.
    pub member: Member,
    /// The view that left it out.
    pub left_out_by: Order,
}

/// How long grants allow to act.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, BorshSerialize, BorshDeserialize)]
pub struct LeaseTerms {
    /// The lease, and the death timer, ms.
    pub lease_ms: u32,
    /// How much of it stopping takes, ms; less than the lease.
    pub stop_ms: u32,
    /// The longest lease that may still run anywhere, ms; at least the lease.
    pub longest_ms: u32,
}

impl LeaseTerms {
    /// Returns the terms of a successor that wants this lease. The longest one that may run shrinks only where the
    /// proposer installed this view so long ago that all of the older ones are over.
    #[must_use]
    pub fn after(self, lease_ms: u32, stop_ms: u32, installed_for: Duration) -> Self {
        let run_out = installed_for >= self.surely_over();
        let older = if run_out { self.lease_ms } else { self.longest_ms };
        Self { lease_ms, stop_ms, longest_ms: lease_ms.max(self.lease_ms).max(older) }
    }

    /// Returns after which time on the clock of any node the longest lease is over on the clock of every other.
    #[must_use]
    pub fn surely_over(self) -> Duration {
        with_drift(self.longest_ms)
    }
}

/// Lengthens a time by the drift of two clocks against each other, and by what the one may be slewed while its owner lets
/// that pass, to the next millisecond.
fn with_drift(ms: u32) -> Duration {
    let fast = u128::from(ms) * u128::from((1_000_000 + DRIFT_PPM) * 1_000_000);
    let slow = u128::from((1_000_000 - DRIFT_PPM) * (1_000_000 - SLEW_PPM));
    Duration::from_millis(u64::try_from(fast.div_ceil(slow)).unwrap_or(u64::MAX))
}

/// How votes make a majority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, BorshSerialize, BorshDeserialize)]
pub struct QuorumTerms {
    /// Whether votes follow membership, down to the last node standing.
    pub dynamic: bool,
    /// The node that loses its vote first where their number is even.
    pub lower_priority: Option<NodeId>,
}

/// A node that may not join for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, BorshSerialize, BorshDeserialize)]
pub struct Quarantined {
    /// Who.
    pub node: NodeId,
    /// How often it ended ungracefully within an hour.
    pub exits: u8,
}

/// Why a view left a member out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, BorshSerialize, BorshDeserialize)]
pub enum Reason {
    /// It was silent on every path.
    Down,
    /// Its kernel answered and its controller made no progress for the hang limit.
    Hung,
    /// It came back under a newer incarnation.
    Restarted,
    /// It left by itself.
    Left,
    /// It and others that stay do not hear each other both ways.
    NotConnected,
    /// Its messages did not pass, though its controller ran.
    NoMessages,
    /// It said that it cannot apply what was decided.
    CannotApply,
    /// An operator asked for it.
    Fenced,
    /// An operator forced a start without it.
    Forced,
    /// Its service manager gave up starting its controller, and had its kernel say so.
    GaveUp,
}

/// A member that this view left out, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, BorshSerialize, BorshDeserialize)]
pub struct Removal {
    /// Who.
    pub member: Member,
    /// Why.
    pub reason: Reason,
    /// How long it had been silent for the one who heard it last, ms.
    pub silent_ms: u32,
    /// How old its controller last said to be, ms.
    pub controller_age_ms: u32,
    /// Who called it so by its own report: bit `n` is the member of this view with the `n`th lowest id. None for what
    /// needs no judge: its own word, a newer incarnation's, an operator's.
    pub judges: u64,
}

/// Which request a view fulfils: whoever asked learns that it was this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, BorshSerialize, BorshDeserialize)]
pub struct ChangeId {
    /// Who asked.
    pub by: Member,
    /// Its number for it.
    pub sequence: u64,
}

/// All that the members of a view have agreed on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, BorshSerialize, BorshDeserialize)]
pub struct Document {
    /// [`SCHEMA`].
    pub schema: u16,
    /// The cluster, as it was created: random.
    pub instance: [u64; 2],
    /// What views are ordered by.
    pub order: Order,
    /// Digest of the view before; zero in the first.
    pub parent: [u64; 4],
    /// The members, by node.
    pub members: Vec<Member>,
    /// The votes upon the next view, by holder.
    pub votes: Vec<Vote>,
    /// The highest incarnation of each node ever admitted, by node. It never shrinks.
    pub admitted: Vec<Member>,
    /// What is left out and not known to have stopped, by member.
    pub owed: Vec<Owed>,
    /// How long grants allow to act.
    pub lease: LeaseTerms,
    /// How votes make a majority.
    pub quorum: QuorumTerms,
    /// Who may not join, by node.
    pub quarantined: Vec<Quarantined>,
    /// Whom this view left out, by member.
    pub removals: Vec<Removal>,
    /// The request that it fulfils.
    pub change: Option<ChangeId>,
    /// Kept for a witness: carried, under the digest, and not read.
    pub witness: Vec<u8>,
    /// Kept for settings, likewise.
    pub settings: Vec<u8>,
}

/// What is wrong with a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DocumentFault {
    /// Longer than [`LEN_MAX`].
    #[error("it is longer than {LEN_MAX} bytes")]
    TooLong,
    /// Not the canonical form of anything.
    #[error("its bytes are no document")]
    Malformed,
    /// Another version of the form.
    #[error("its form is version {0}, and this build reads version {SCHEMA}")]
    Schema(u16),
    /// A list has too many entries.
    #[error("its {0} are too many")]
    TooMany(&'static str),
    /// A list is not sorted, or has an entry twice.
    #[error("its {0} are not in order, or one is there twice")]
    Unsorted(&'static str),
    /// A rule between its parts is broken.
    #[error("{0}")]
    Rule(&'static str),
}

impl Document {
    /// Returns the canonical bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        borsh::to_vec(self).expect("a vector takes all that is written to it")
    }

    /// Reads canonical bytes and checks what they say.
    ///
    /// # Errors
    /// Says what is wrong with them.
    pub fn decode(bytes: &[u8]) -> Result<Self, DocumentFault> {
        if bytes.len() > LEN_MAX {
            return Err(DocumentFault::TooLong);
        }
        if let Some((schema, _)) = bytes.split_first_chunk()
            && u16::from_le_bytes(*schema) != SCHEMA
        {
            return Err(DocumentFault::Schema(u16::from_le_bytes(*schema)));
        }
        let document: Self = borsh::from_slice(bytes).map_err(|_| DocumentFault::Malformed)?;
        document.check()?;
        Ok(document)
    }

    /// Returns the view's name.
    #[must_use]
    pub fn name(&self) -> Name {
        let hash = Sha256::digest(self.encode());
        let (words, _) = hash.as_chunks::<8>();
        let word = |index: usize| words.get(index).map_or(0, |bytes| u64::from_le_bytes(*bytes));
        Name { order: self.order, digest: std::array::from_fn(word) }
    }

    /// Returns the incarnation under which a node is a member.
    #[must_use]
    pub fn incarnation_of(&self, node: NodeId) -> Option<u64> {
        self.members.iter().find(|member| member.node == node).map(|member| member.incarnation)
    }

    /// Returns the highest incarnation of a node ever admitted; 0: none.
    #[must_use]
    pub fn admitted_of(&self, node: NodeId) -> u64 {
        self.admitted.iter().find(|member| member.node == node).map_or(0, |member| member.incarnation)
    }

    /// Returns the weight of a vote; 0 if it is not named.
    #[must_use]
    pub fn weight_of(&self, id: VoteId) -> u32 {
        self.votes.iter().find(|vote| vote.id == id).map_or(0, |vote| u32::from(vote.weight))
    }

    /// Returns all weights together.
    #[must_use]
    pub fn total_weight(&self) -> u32 {
        self.votes.iter().map(|vote| u32::from(vote.weight)).sum()
    }

    /// Says whether votes of this weight are a majority.
    #[must_use]
    pub fn is_majority(&self, weight: u32) -> bool {
        weight.saturating_mul(2) > self.total_weight()
    }

    /// Checks what the form cannot.
    ///
    /// # Errors
    /// Says which rule is broken.
    pub fn check(&self) -> Result<(), DocumentFault> {
        use DocumentFault::Rule;
        if self.schema != SCHEMA {
            return Err(DocumentFault::Schema(self.schema));
        }
        list("members", &self.members, NODES_MAX, |member| member.node)?;
        list("votes", &self.votes, SLOTS, |vote| vote.holder)?;
        list("admitted nodes", &self.admitted, NODES_MAX, |member| member.node)?;
        list("left-out incarnations", &self.owed, NODES_MAX, |owed| owed.member)?;
        list("quarantined nodes", &self.quarantined, QUARANTINED_MAX, |one| one.node)?;
        list("removals", &self.removals, NODES_MAX, |removal| removal.member)?;
        let LeaseTerms { lease_ms, stop_ms, longest_ms } = self.lease;
        let mut ids: Vec<VoteId> = self.votes.iter().map(|vote| vote.id).collect();
        ids.sort_unstable();
        ids.dedup();
        let admitted = |member: &Member| self.admitted_of(member.node);
        let rules = [
            (self.order.is_view(), "its number is 0"),
            (!self.members.is_empty(), "it has no members"),
            (self.members.iter().all(|member| member.incarnation != 0), "a member's incarnation is 0"),
            (self.members.iter().all(|one| one.incarnation == admitted(one)), "a member is not the newest admitted"),
            (
                self.owed.iter().all(|one| one.member.incarnation <= admitted(&one.member)),
                "it left out whom it never had",
            ),
            (self.owed.iter().all(|one| !self.members.contains(&one.member)), "it left out a member"),
            (self.owed.iter().all(|one| one.left_out_by <= self.order), "a later view left somebody out"),
            (self.removals.iter().all(|one| !self.members.contains(&one.member)), "it removed a member"),
            (ids.len() == self.votes.len(), "two votes have one id"),
            (ids.iter().all(|id| id.is_vote()), "a vote has no id"),
            (self.votes.iter().all(|vote| vote.configured <= 1 && vote.weight <= vote.configured), "a vote's weight"),
            (self.total_weight() > 0, "nobody has a vote"),
            (LEASE_MS.contains(&lease_ms), "its lease is out of bounds"),
            (stop_ms < lease_ms, "stopping takes the whole lease"),
            (longest_ms >= lease_ms && LEASE_MS.contains(&longest_ms), "its longest lease is out of bounds"),
            (self.witness.len().max(self.settings.len()) <= SECTION_MAX, "a section is too long"),
        ];
        rules.iter().find(|(kept, _)| !kept).map_or(Ok(()), |(_, rule)| Err(Rule(rule)))
    }
}

fn list<T, K: Ord>(what: &'static str, list: &[T], most: usize, key: impl Fn(&T) -> K) -> Result<(), DocumentFault> {
    if list.len() > most {
        return Err(DocumentFault::TooMany(what));
    }
    if list.is_sorted_by(|one, next| key(one) < key(next)) { Ok(()) } else { Err(DocumentFault::Unsorted(what)) }
}

#[cfg(test)]
mod tests;

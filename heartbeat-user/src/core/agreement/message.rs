//! What controllers say to each other, and its form. It bounds what it reads; it believes nothing: who said it is known
//! from the connection, and what it means is judged elsewhere.

use super::document::{ChangeId, Document, DocumentFault, LEN_MAX, Member};
use crate::core::ids::NodeId;
use borsh::{BorshDeserialize, BorshSerialize};
use heartbeat_common::acceptor::{Promise, Refusal};
use heartbeat_common::lease::{NODES_MAX, SLOTS};
use heartbeat_common::view::{Ballot, Name, Order, VoteId};
use thiserror::Error;

/// Longest message, bytes: a document, and what is around it.
pub const MESSAGE_MAX: usize = LEN_MAX + 1024;

/// A counter of somebody else that is further ahead of what is known than this is not believed: nobody counts so far
/// unheard, and one that was believed could leave no number above it.
const LEAP_MAX: u64 = 1 << 32;

/// Says whether a counter that somebody else tells is no leap from what is known.
#[must_use]
pub const fn is_believable(told: u64, known: u64) -> bool {
    told.saturating_sub(known) <= LEAP_MAX
}

/// What a node knows of another, from its kernel's ticks and its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, BorshSerialize, BorshDeserialize)]
pub enum Health {
    /// Not heard yet.
    Unknown,
    /// Heard, and its controller makes progress.
    Up,
    /// Heard; its controller makes none, for the stall limit.
    Stalled,
    /// Heard; its controller makes none, for the hang limit.
    Hung,
    /// It said that it leaves or has stopped.
    Left,
    /// Silent on every path for the detection time.
    Down,
    /// It said that its service manager gave up starting its controller: it leaves, or has stopped, and that was nobody's
    /// will.
    GaveUp,
}

/// One edge of the hear-graph, as its hearing end sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, BorshSerialize, BorshDeserialize)]
pub struct Hears {
    /// The other end, under the incarnation that is heard; 0: none was.
    pub peer: Member,
    /// What is believed of it.
    pub health: Health,
    /// For how long each has heard the other without a gap, ms; 0: not both ways now.
    pub both_ways_ms: u32,
    /// For how long it has been silent, ms.
    pub silent_ms: u32,
    /// How old its controller last said to be, ms.
    pub controller_age_ms: u32,
    /// Its messages pass: of a member, they have not failed to for the control limit, or its controller is too stalled to
    /// send any; of anybody else, one has come.
    pub messages_pass: bool,
    /// The highest number of a probe of it that this end's kernel accepted, on any path; 0: none. Whoever has not sent as
    /// much yet was set back.
    pub accepted: u64,
}

/// What can be changed in a view by request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, BorshSerialize, BorshDeserialize)]
pub enum Setting {
    /// The lease, ms.
    LeaseMs(u32),
    /// How much of it stopping takes, ms.
    StopMs(u32),
    /// What a node's vote weighs, 0 or 1.
    Weight(NodeId, u8),
    /// The node that loses its vote first.
    LowerPriority(Option<NodeId>),
    /// Whether votes follow membership.
    Dynamic(bool),
}

/// What somebody wants the next view to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, BorshSerialize, BorshDeserialize)]
pub enum Wish {
    /// Without this node.
    Without(NodeId),
    /// With this node free to join.
    Release(NodeId),
    /// With this changed.
    Change(Setting),
}

/// A wish, and whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, BorshSerialize, BorshDeserialize)]
pub struct Wished {
    /// Which request it is.
    pub id: ChangeId,
    /// What is wished.
    pub wish: Wish,
}

/// Most wishes in a report.
pub const WISHES_MAX: usize = 16;

/// What a node says of itself in a regroup.
#[derive(Clone, Debug, PartialEq, Eq, Hash, BorshSerialize, BorshDeserialize)]
pub struct Report {
    /// Its author; others may pass it on.
    pub author: Member,
    /// Rises with each report of this incarnation: the newest counts.
    pub serial: u64,
    /// The regroup that it belongs to.
    pub turn: u64,
    /// The view on its disk; [`Name::NONE`]: none.
    pub view: Name,
    /// Its vote and the sequence of its disk state; [`VoteId::NONE`]: it has lost it, or keeps it out of forming a view.
    pub vote: VoteId,
    /// See `vote`.
    pub sequence: u64,
    /// The newest attempt that it has accepted upon the view.
    pub accepted: Ballot,
    /// The highest round that it has seen upon the view.
    pub round: u64,
    /// Hash of its settings, as its frames say it.
    pub settings: u64,
    /// It is leaving.
    pub leaving: bool,
    /// It cannot apply what was decided.
    pub cannot_apply: bool,
    /// It wants to be a member, and may be proposed as one.
    pub joins: bool,
    /// What it hears, by node.
    pub hears: Vec<Hears>,
    /// Incarnations that it knows to have stopped, by node.
    pub stopped: Vec<Member>,
    /// Ungraceful ends within the last hour that it remembers, by node.
    pub ends: Vec<(NodeId, u8)>,
    /// What it was asked for, by its own number.
    pub wishes: Vec<Wished>,
    /// The newest state of each vote that it remembers, by vote.
    pub remembers: Vec<(VoteId, u64)>,
}

/// A message between controllers.
#[derive(Clone, Debug, PartialEq, Eq, Hash, BorshSerialize, BorshDeserialize)]
pub enum Message {
    /// What somebody says of itself.
    Report(Box<Report>),
    /// May this attempt be made?
    Prepare {
        /// The view that it follows.
        view: Name,
        /// The attempt.
        ballot: Ballot,
    },
    /// It may; what was accepted before goes with it.
    Promised {
        /// The view.
        view: Name,
        /// The attempt.
        ballot: Ballot,
        /// Whose promise it is.
        vote: VoteId,
        /// What was accepted.
        promise: Promise,
        /// Its document.
        document: Option<Box<Document>>,
    },
    /// Accept this.
    Accept {
        /// The view that it follows.
        view: Name,
        /// The attempt.
        ballot: Ballot,
        /// The value.
        document: Box<Document>,
    },
    /// It was accepted.
    Accepted {
        /// The view.
        view: Name,
        /// The attempt.
        ballot: Ballot,
        /// Whose acceptance it is.
        vote: VoteId,
        /// Digest of the document.
        value: [u64; 4],
    },
    /// It was not.
    Refused {
        /// The view.
        view: Name,
        /// The attempt.
        ballot: Ballot,
        /// Why.
        refusal: Refusal,
    },
    /// This view was decided.
    Decided(Box<Document>),
    /// Send me your view, if it is newer than this.
    Fetch(Order),
}

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MessageFault {
    /// Longer than [`MESSAGE_MAX`].
    #[error("a message is longer than {MESSAGE_MAX} bytes")]
    TooLong,
    /// Not the form of any.
    #[error("bytes that are no message")]
    Malformed,
    /// A list in it has too many entries, or is not sorted.
    #[error("a report names nodes twice, out of order, or too many")]
    Lists,
    /// The document in it is faulty.
    #[error("a document: {0}")]
    Document(#[from] DocumentFault),
}

impl Message {
    /// Returns its bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        borsh::to_vec(self).expect("a vector takes all that is written to it")
    }

    /// Reads a message and checks what is in it.
    ///
    /// # Errors
    /// Says why it is none.
    pub fn decode(bytes: &[u8]) -> Result<Self, MessageFault> {
        if bytes.len() > MESSAGE_MAX {
            return Err(MessageFault::TooLong);
        }
        let message: Self = borsh::from_slice(bytes).map_err(|_| MessageFault::Malformed)?;
        match &message {
            Self::Report(report) => report.check()?,
            Self::Promised { document: Some(document), .. }
            | Self::Accept { document, .. }
            | Self::Decided(document) => document.check()?,
            Self::Prepare { .. }
            | Self::Promised { document: None, .. }
            | Self::Accepted { .. }
            | Self::Refused { .. }
            | Self::Fetch(_) => {}
        }
        Ok(message)
    }
}

impl Report {
    fn check(&self) -> Result<(), MessageFault> {
        let short = [self.hears.len(), self.stopped.len(), self.ends.len()].into_iter().all(|len| len <= NODES_MAX);
        let sorted = self.hears.is_sorted_by(|one, next| one.peer.node < next.peer.node)
            && self.stopped.is_sorted_by(|one, next| one.node < next.node)
            && self.ends.is_sorted_by(|(one, _), (next, _)| one < next)
            && self.wishes.is_sorted_by(|one, next| one.id < next.id)
            && self.remembers.is_sorted_by(|(one, _), (next, _)| one < next);
        let short = short && self.wishes.len() <= WISHES_MAX && self.remembers.len() <= SLOTS;
        if short && sorted { Ok(()) } else { Err(MessageFault::Lists) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn report() -> Report {
        let hears = |node: u16| Hears {
            peer: Member { node: NodeId(node), incarnation: 3 },
            health: Health::Up,
            both_ways_ms: 500,
            silent_ms: 3,
            controller_age_ms: 12,
            messages_pass: true,
            accepted: 40,
        };
        Report {
            author: Member { node: NodeId(1), incarnation: 7 },
            serial: 4,
            turn: 2,
            view: Name::NONE,
            vote: VoteId([1, 2]),
            sequence: 9,
            accepted: Ballot::NONE,
            round: 0,
            settings: 5,
            leaving: false,
            cannot_apply: false,
            joins: false,
            hears: vec![hears(2), hears(3)],
            stopped: Vec::new(),
            ends: vec![(NodeId(9), 2)],
            wishes: Vec::new(),
            remembers: vec![(VoteId([1, 2]), 9)],
        }
    }

    #[test]
    fn what_was_said_is_read() {
        let message = Message::Report(Box::new(report()));
        assert_eq!(Message::decode(&message.encode()), Ok(message));
        let fetch = Message::Fetch(Order::NONE);
        assert_eq!(Message::decode(&fetch.encode()), Ok(fetch));
    }

    #[test]
    fn a_report_that_names_a_node_twice_is_refused() {
        let mut twice = report();
        twice.hears[1].peer.node = NodeId(2);
        assert_eq!(Message::decode(&Message::Report(Box::new(twice)).encode()), Err(MessageFault::Lists));
        let mut many = report();
        many.ends = (0..65).map(|node| (NodeId(node), 1)).collect();
        assert_eq!(Message::decode(&Message::Report(Box::new(many)).encode()), Err(MessageFault::Lists));
        assert_eq!(Message::decode(&vec![0; MESSAGE_MAX + 1]), Err(MessageFault::TooLong));
    }

    proptest! {
        #[test]
        fn no_bytes_can_do_harm(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = Message::decode(&bytes);
        }
    }
}

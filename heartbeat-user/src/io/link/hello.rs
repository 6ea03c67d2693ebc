//! What the two ends of a connection say first, and which connection stays where two nodes have several. It judges what
//! was said; who said it has been proved by the key, and closing is done elsewhere.

use crate::core::agreement::document::SCHEMA;
use crate::core::ids::NodeId;
use borsh::{BorshDeserialize, BorshSerialize};
use thiserror::Error;

/// The first record of each end, under the keys of this connection: whoever sends it is there now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Hello {
    /// Who speaks.
    pub node: NodeId,
    /// Its incarnation, never 0.
    pub incarnation: u64,
    /// Which of its controllers under this incarnation it is.
    pub generation: u32,
    /// The newest incarnation of the listener that the speaker knows; 0: none.
    pub knows: u64,
    /// The cluster that its disk state is of, as `init` named it; 0: it has none yet.
    pub instance: [u64; 2],
    /// Lowest schema of documents that it reads.
    pub schema_lowest: u16,
    /// Highest.
    pub schema_highest: u16,
    /// Rises with each connection that this controller begins.
    pub counter: u64,
}

/// Length of a hello, bytes; it has one only.
pub const HELLO_LEN: usize = 2 + 8 + 4 + 8 + 16 + 2 + 2 + 8;

/// What this end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Own incarnation.
    pub incarnation: u64,
    /// Own generation.
    pub generation: u32,
    /// Own instance; 0: none yet.
    pub instance: [u64; 2],
}

/// Why a connection ends with its first words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HelloFault {
    /// No hello at all, or one of another node than the connection is with.
    #[error("no proper greeting")]
    Malformed,
    /// The peer has a newer incarnation than this one.
    #[error("incarnation {said} is not its newest: {known} was heard")]
    OldIncarnation {
        /// What it said.
        said: u64,
        /// What is known.
        known: u64,
    },
    /// The peer knows a newer incarnation of this node.
    #[error("it knows incarnation {0} of this node")]
    Outrun(u64),
    /// Both have a cluster's state, of two different ones.
    #[error("its state is that of another cluster of this name")]
    OtherInstance,
    /// No schema of documents is read by both.
    #[error("it reads documents of schema {lowest} to {highest}, and this node reads {SCHEMA}")]
    Schema {
        /// Lowest that the peer reads.
        lowest: u16,
        /// Highest that the peer reads.
        highest: u16,
    },
}

impl Hello {
    /// Returns its bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        borsh::to_vec(self).expect("a vector takes all that is written to it")
    }

    /// Reads what `from` said, and judges it by what is known: `known` is the newest incarnation of it that was heard.
    ///
    /// # Errors
    /// Says why the connection must end.
    pub fn judge(bytes: &[u8], from: NodeId, standing: &Standing, known: u64) -> Result<Self, HelloFault> {
        let hello: Self = borsh::from_slice(bytes).map_err(|_| HelloFault::Malformed)?;
        if hello.node != from || hello.incarnation == 0 || hello.schema_lowest > hello.schema_highest {
            return Err(HelloFault::Malformed);
        }
        if hello.incarnation < known {
            return Err(HelloFault::OldIncarnation { said: hello.incarnation, known });
        }
        if hello.knows > standing.incarnation {
            return Err(HelloFault::Outrun(hello.knows));
        }
        if hello.instance != [0; 2] && standing.instance != [0; 2] && hello.instance != standing.instance {
            return Err(HelloFault::OtherInstance);
        }
        if !(hello.schema_lowest..=hello.schema_highest).contains(&SCHEMA) {
            return Err(HelloFault::Schema { lowest: hello.schema_lowest, highest: hello.schema_highest });
        }
        Ok(hello)
    }
}

/// What a connection has to show against another one between the same nodes; the greater stays. Both ends reckon it
/// from the same two hellos, so they keep the same one. The own incarnation is that of both, since all connections
/// end when it changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claim {
    /// The peer's incarnation: the newer wins, always.
    pub incarnation: u64,
    /// The node with the lower id began it.
    begun_by_lower: bool,
    /// Generation of the controller that began it.
    generation: u32,
    /// Which of that controller's connections it is.
    counter: u64,
}

impl Claim {
    /// Reckons the claim of a connection from `own` and `other`, the hellos of its ends.
    #[must_use]
    pub fn new(own: &Hello, other: &Hello, begun_here: bool) -> Self {
        let beginner = if begun_here { own } else { other };
        Self {
            incarnation: other.incarnation,
            begun_by_lower: begun_here == (own.node < other.node),
            generation: beginner.generation,
            counter: beginner.counter,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STANDING: Standing = Standing { incarnation: 10, generation: 1, instance: [3, 4] };

    fn hello(node: u16, incarnation: u64, counter: u64) -> Hello {
        Hello {
            node: NodeId(node),
            incarnation,
            generation: 1,
            knows: 0,
            instance: [0; 2],
            schema_lowest: SCHEMA,
            schema_highest: SCHEMA,
            counter,
        }
    }

    fn judge(hello: Hello) -> Result<Hello, HelloFault> {
        Hello::judge(&hello.encode(), NodeId(2), &STANDING, 7)
    }

    #[test]
    fn a_proper_hello_is_taken() {
        let fresh = hello(2, 7, 1);
        assert_eq!(fresh.encode().len(), HELLO_LEN);
        assert_eq!(judge(fresh), Ok(fresh));
        for good in [
            Hello { incarnation: 8, ..fresh },
            Hello { knows: 10, ..fresh },
            Hello { instance: STANDING.instance, ..fresh },
            Hello { schema_highest: SCHEMA + 3, ..fresh },
        ] {
            assert_eq!(judge(good), Ok(good));
        }
    }

    #[test]
    fn each_fault_has_its_name() {
        let fresh = hello(2, 7, 1);
        let cases = [
            (Hello { node: NodeId(3), ..fresh }, HelloFault::Malformed),
            (Hello { incarnation: 0, ..fresh }, HelloFault::Malformed),
            (Hello { schema_lowest: 2, schema_highest: 1, ..fresh }, HelloFault::Malformed),
            (Hello { incarnation: 6, ..fresh }, HelloFault::OldIncarnation { said: 6, known: 7 }),
            (Hello { knows: 11, ..fresh }, HelloFault::Outrun(11)),
            (Hello { instance: [3, 5], ..fresh }, HelloFault::OtherInstance),
            (
                Hello { schema_lowest: SCHEMA + 1, schema_highest: SCHEMA + 2, ..fresh },
                HelloFault::Schema { lowest: SCHEMA + 1, highest: SCHEMA + 2 },
            ),
        ];
        for (said, fault) in cases {
            assert_eq!(judge(said), Err(fault), "{said:?}");
        }
        let mut long = fresh.encode();
        long.push(0);
        assert_eq!(Hello::judge(&long, NodeId(2), &STANDING, 7), Err(HelloFault::Malformed));
    }

    /// The claims of one connection at its two ends.
    fn ends(low: &Hello, high: &Hello, begun_by_low: bool) -> (Claim, Claim) {
        (Claim::new(low, high, begun_by_low), Claim::new(high, low, !begun_by_low))
    }

    #[test]
    fn a_newer_incarnation_wins_then_the_lower_beginner_then_the_later() {
        let (low, high) = (hello(1, 5, 1), hello(2, 9, 1));
        let at_low = |high: &Hello, low: &Hello, by_low| ends(low, high, by_low).0;
        let reborn = Hello { incarnation: 10, counter: 0, ..high };
        assert!(at_low(&reborn, &low, false) > at_low(&high, &low, true));
        assert!(at_low(&high, &low, true) > at_low(&Hello { counter: 99, ..high }, &low, false));
        let later = Hello { counter: 2, ..low };
        assert!(at_low(&high, &later, true) > at_low(&high, &low, true));
        let successor = Hello { generation: 2, counter: 1, ..low };
        assert!(at_low(&high, &successor, true) > at_low(&high, &later, true));
    }

    proptest! {
        #[test]
        fn both_ends_keep_the_same_connection(
            one in (any::<bool>(), 1_u32..4, 1_u64..6), two in (any::<bool>(), 1_u32..4, 1_u64..6),
        ) {
            let both = |(by_low, generation, counter): (bool, u32, u64)| {
                let low = Hello { generation, ..hello(1, 5, counter) };
                let high = Hello { generation, ..hello(2, 9, counter) };
                ends(&low, &high, by_low)
            };
            let ((one_low, one_high), (two_low, two_high)) = (both(one), both(two));
            prop_assert_eq!(one_low.cmp(&two_low), one_high.cmp(&two_high));
        }

        #[test]
        fn no_bytes_can_do_harm(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = Hello::judge(&bytes, NodeId(2), &STANDING, 7);
        }
    }
}

//! The bytes of `agreement`: a head that says whose they are and whether they are whole, and behind it the state. It
//! turns the one into the other and opens no file.
//!
//! ```text
//! 0 magic (8)  8 schema (2)  10 node (2)  12 length of the state (4)  16 state id (8)  24 sequence (8)
//! 32 SHA-256 of all before and of the state (32)  64 the state, in the canonical form of borsh
//! then zeros up to the end of a block: files of whole blocks can be written over and over without a new length
//! ```
//!
//! Numbers are little-endian.

use super::put::BLOCK;
use crate::core::agreement::document::{self, DocumentFault};
use crate::core::agreement::voter::{Served, State};
use crate::core::ids::NodeId;
use heartbeat_common::lease::Remembered;
use sha2::{Digest, Sha256};
use thiserror::Error;

const MAGIC: [u8; 8] = *b"HBAGREE1";
/// Layout of head and state.
const SCHEMA: u16 = 3;
/// The oldest layout that is read too: its state ends before the quarantines.
const OLDER: u16 = 1;
/// The layout from which on there are zeros behind the state; before, a file ended with it.
const FILLED: u16 = 3;
/// Length of the head, bytes.
const HEAD: usize = 64;
/// Where the checksum lies.
const SUM: std::ops::Range<usize> = 32..HEAD;
/// Longest file, bytes: two documents, and what goes with them.
pub(super) const LEN_MAX: usize = (HEAD + 2 * document::LEN_MAX + 4096).next_multiple_of(BLOCK);

/// Whose state it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The node. A disk that was copied to another host shows another one.
    pub node: NodeId,
    /// Id of the state directory's contents: where the directory was replaced in part, it differs.
    pub state_id: u64,
}

/// Why what is on disk is no vote any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Lost {
    /// There is no file, though one of this sequence is remembered.
    #[error("it is gone, and sequence {0} was on disk")]
    Gone(u64),
    /// The bytes end before the state does.
    #[error("it is cut off after {0} bytes")]
    Truncated(usize),
    /// There are more bytes than a state has.
    #[error("there is something behind its end")]
    TooLong,
    /// It does not begin as such a file does.
    #[error("it is no agreement of heartbeatd")]
    Foreign,
    /// Another build's layout.
    #[error("its layout is version {0}, and this build reads versions {OLDER} to {SCHEMA}")]
    Schema(u16),
    /// Not what was written.
    #[error("its checksum is wrong")]
    Checksum,
    /// It is whole and means nothing.
    #[error("its checksum is right and its contents are not: {0}")]
    Contents(DocumentFault),
    /// It was made by another node.
    #[error("it is of node {0}: a disk copied from there?")]
    OtherNode(NodeId),
    /// It was made with another state of this node.
    #[error("it is of state {0:016x}: the state directory was put together from two?")]
    OtherState(u64),
    /// It is of a vote that was lost since: this node took another one, or will.
    #[error("it is an older copy, of a vote that was lost since")]
    OtherVote,
    /// A newer one is known to have been on disk.
    #[error("it is an older copy: its sequence is {sequence}, and {floor} was on disk")]
    Older {
        /// Its own sequence.
        sequence: u64,
        /// The newest that is remembered.
        floor: u64,
    },
}

/// Writes a state down.
#[must_use]
pub fn encode(owner: Owner, state: &State) -> Vec<u8> {
    let body = borsh::to_vec(state).expect("a vector takes all that is written to it");
    let length = u32::try_from(body.len()).expect("two documents are far below 4 GiB");
    let mut bytes = Vec::with_capacity(HEAD + body.len());
    bytes.extend(MAGIC);
    bytes.extend(SCHEMA.to_le_bytes());
    bytes.extend(owner.node.0.to_le_bytes());
    bytes.extend(length.to_le_bytes());
    bytes.extend(owner.state_id.to_le_bytes());
    bytes.extend(state.sequence.to_le_bytes());
    let sum = checksum(&bytes, &body);
    bytes.extend(sum);
    bytes.extend(body);
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}

/// Returns the length of the file to make for a state of `length` bytes: one that accepts a view holds two of them.
pub(super) fn room(length: usize) -> usize {
    (2 * length).next_multiple_of(BLOCK).min(LEN_MAX)
}

/// Reads a state, and holds it against what is remembered to have been on disk.
///
/// # Errors
/// Says why it is no vote any more. What the bytes say is believed only once the checksum has proved them whole.
pub fn decode(owner: Owner, remembered: Remembered, bytes: &[u8]) -> Result<State, Lost> {
    let (head, body) = whole(bytes)?;
    let node = NodeId(u16::from_le_bytes(field(head, 10)));
    let state_id = u64::from_le_bytes(field(head, 16));
    if node != owner.node {
        return Err(Lost::OtherNode(node));
    }
    if state_id != owner.state_id {
        return Err(Lost::OtherState(state_id));
    }
    let state = contents(head, body).map_err(Lost::Contents)?;
    let sequence = u64::from_le_bytes(field(head, 24));
    if sequence != state.sequence {
        return Err(Lost::Contents(DocumentFault::Rule("its sequence is not that of its head")));
    }
    if remembered.vote.is_vote() && state.vote != remembered.vote {
        return Err(Lost::OtherVote);
    }
    if sequence < remembered.sequence {
        return Err(Lost::Older { sequence, floor: remembered.sequence });
    }
    Ok(state)
}

/// Returns the newest incarnation of `node` that the view in these bytes has admitted; 0: none, or they are not whole.
/// That is so whatever became of the vote: an older copy, or another state's, tells of incarnations that were.
#[must_use]
pub fn admitted(node: NodeId, bytes: &[u8]) -> u64 {
    let state = whole(bytes).ok().and_then(|(head, body)| contents(head, body).ok());
    state.map_or(0, |state| state.installed.admitted_of(node))
}

/// Takes head and state apart, once the checksum has proved them whole.
fn whole(bytes: &[u8]) -> Result<(&[u8], &[u8]), Lost> {
    let shown = bytes.len().min(MAGIC.len());
    if bytes.get(..shown) != MAGIC.get(..shown) {
        return Err(Lost::Foreign);
    }
    let Some((head, body)) = bytes.split_at_checked(HEAD) else { return Err(Lost::Truncated(bytes.len())) };
    let schema = u16::from_le_bytes(field(head, 8));
    if !(OLDER..=SCHEMA).contains(&schema) {
        return Err(Lost::Schema(schema));
    }
    let length = u32::from_le_bytes(field(head, 12)) as usize;
    let filled = schema >= FILLED;
    // A damaged length looks the same as too few bytes; both are lost.
    let Some((body, behind)) = body.split_at_checked(length).filter(|_| !filled || bytes.len().is_multiple_of(BLOCK))
    else {
        return Err(Lost::Truncated(bytes.len()));
    };
    if behind.iter().any(|&byte| byte != 0 || !filled) {
        return Err(Lost::TooLong);
    }
    if checksum(&head[..SUM.start], body) != head[SUM] {
        return Err(Lost::Checksum);
    }
    Ok((head, body))
}

fn contents(head: &[u8], body: &[u8]) -> Result<State, DocumentFault> {
    let none = borsh::to_vec(&Vec::<Served>::new()).unwrap_or_default();
    let whole = if u16::from_le_bytes(field(head, 8)) == OLDER { [body, &none].concat() } else { body.to_vec() };
    let state: State = borsh::from_slice(&whole).map_err(|_| DocumentFault::Malformed)?;
    state.check()?;
    if let Some(accepted) = &state.accepted {
        accepted.check()?;
    }
    Ok(state)
}

fn checksum(head: &[u8], body: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(head).chain_update(body).finalize().into()
}

/// Takes a number out of a whole head.
fn field<const N: usize>(head: &[u8], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&head[at..at + N]);
    bytes
}

#[cfg(test)]
mod tests;

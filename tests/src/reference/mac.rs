//! The tag as one hash over one byte message, by the published crate. It keeps no state between frames.

use super::{LEN, PORT, Settings, word};
use siphasher::sip::SipHasher24;
use siphasher::sip128;

/// The keys of one slot of one path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keys {
    /// Exchanges in which the peer is the prober.
    pub theirs: [u8; 16],
    /// Exchanges in which this node is the prober.
    pub mine: [u8; 16],
    /// The peer's standing as read here.
    pub peer_standing: [u8; 16],
    /// This node's standing as read by the peer.
    pub own_standing: [u8; 16],
    /// What the peer sends of fences.
    pub their_fences: [u8; 16],
    /// What this node sends of fences.
    pub own_fences: [u8; 16],
}

/// SipHash-2-4 of `message`.
#[must_use]
pub fn sip(key: &[u8; 16], message: &[u8]) -> u64 {
    SipHasher24::new_with_key(key).hash(message)
}

/// The digest of the standing that a heartbeat carries, words 9 to 15.
#[must_use]
pub fn standing(key: &[u8; 16], heartbeat: &[u8]) -> u64 {
    sip(key, &heartbeat[72..128])
}

/// The tag that a heartbeat ought to carry. `echo` says whose exchange it is: an echo that comes to this node, or a
/// probe that leaves it, belongs to an exchange in which this node probes.
#[must_use]
pub fn tag(heartbeat: &[u8], settings: &Settings, mine: bool, exchange: &[u8; 16], author: &[u8; 16]) -> u64 {
    assert_eq!(heartbeat.len(), LEN);
    let (prober, responder) = if mine { (settings.own, settings.peer) } else { (settings.peer, settings.own) };
    let mut message = Vec::with_capacity(111);
    message.extend_from_slice(&heartbeat[0..24]);
    message.extend_from_slice(&prober);
    message.extend_from_slice(&responder);
    message.extend_from_slice(&settings.vlan.to_le_bytes());
    message.extend_from_slice(&PORT.to_le_bytes());
    message.extend_from_slice(&[0; 4]);
    message.extend_from_slice(&heartbeat[24..56]);
    message.extend_from_slice(&(word(heartbeat, 56) ^ standing(author, heartbeat)).to_le_bytes());
    message.extend_from_slice(&heartbeat[64..71]);
    sip(exchange, &message)
}

/// The two halves of the tag that a fence or its acknowledgement ought to carry. `mine`: this node is its author.
#[must_use]
pub fn fence_tag(heartbeat: &[u8], settings: &Settings, mine: bool, key: &[u8; 16]) -> [u8; 16] {
    let (author, reader) = if mine { (settings.own, settings.peer) } else { (settings.peer, settings.own) };
    let vlan = u64::from(settings.vlan).to_le_bytes();
    let message = [&heartbeat[..128], &author, &reader, &vlan].concat();
    sip128::SipHasher24::new_with_key(key).hash(&message).as_bytes()
}

//! What the tag of a frame covers, and in which order. It computes tags; it compares none and holds no key.
//!
//! A probe and its echo form one *exchange* under one key, derived for (prober, responder). Both tags
//! continue one state over everything that the two share:
//!
//! ```text
//! S     = head, cluster, ids, prober address, responder address, vlan   constant per path: `exchange_base`
//!         prober's incarnation, responder's incarnation as named        constant per pair: `with_incarnations`
//!         sequence, send time                                           per probe: `with_probe`
//! tag   = S, stamp ^ D, dynamic (7 bytes, the kind among them)          `tag`
//! ```
//!
//! `D` is the tag, under a key of (author, reader), of the author's standing: what changes rarely is hashed
//! when it changes and compared when it does not. Folding `D` into the stamp word is safe because `D` is a
//! 64-bit PRF output the network never sees: another standing gives an unpredictable word.

use crate::frame::{STANDING_WORDS, Words, word};
use crate::siphash::{Key, Midstate};

/// Bytes under the tag, modulo 256: eight constant words, two incarnations, sequence, send time, stamp, tail.
const LEN: u8 = 13 * 8 + 7;

/// An IPv4-mapped or IPv6 address as two little-endian words of its sixteen bytes.
pub type AddressWords = [u64; 2];

/// Packs sixteen address bytes.
#[must_use]
pub fn address_words(bytes: [u8; 16]) -> AddressWords {
    let [a0, a1, a2, a3, a4, a5, a6, a7, b0, b1, b2, b3, b4, b5, b6, b7] = bytes;
    [u64::from_le_bytes([a0, a1, a2, a3, a4, a5, a6, a7]), u64::from_le_bytes([b0, b1, b2, b3, b4, b5, b6, b7])]
}

/// Returns the midstate over what is constant on a path, for one key slot.
#[must_use]
pub fn exchange_base(
    key: Key,
    head: u64,
    cluster: u64,
    ids: u64,
    prober: AddressWords,
    responder: AddressWords,
    vlan: u16,
) -> Midstate {
    Midstate::new(key)
        .absorb(head)
        .absorb(cluster)
        .absorb(ids)
        .absorb(prober[0])
        .absorb(prober[1])
        .absorb(responder[0])
        .absorb(responder[1])
        .absorb(vlan as u64 | (crate::frame::PORT as u64) << 16)
}

/// Continues `base` over the two incarnations of an exchange.
#[inline(always)]
#[must_use]
pub const fn with_incarnations(base: Midstate, prober: u64, responder: u64) -> Midstate {
    base.absorb(prober).absorb(responder)
}

/// Continues over what one probe and its echo share.
#[inline(always)]
#[must_use]
pub const fn with_probe(state: Midstate, sequence: u64, sent: u64) -> Midstate {
    state.absorb(sequence).absorb(sent)
}

/// Returns the tag of a frame: `state` is from [`with_probe`], `digest` from [`standing_digest`].
#[inline(always)]
#[must_use]
pub const fn tag(state: Midstate, stamp: u64, digest: u64, dynamic: u64) -> u64 {
    state.absorb(stamp ^ digest).finish(dynamic, LEN)
}

/// Returns the digest of a standing under the key of (author, reader).
#[inline(always)]
#[must_use]
pub fn standing_digest(key: Key, standing: &[u64; STANDING_WORDS]) -> u64 {
    crate::siphash::tag_words(key, standing)
}

/// Reads the standing that a frame carries.
#[inline(always)]
pub fn standing_of<W: Words>(frame: &W) -> [u64; STANDING_WORDS] {
    [
        frame.get(word::STANDING),
        frame.get(word::IDENTITY),
        frame.get(word::VIEW_NUMBER),
        frame.get(word::VIEW_DIGEST),
        frame.get(word::GRANT),
        frame.get(word::SETTINGS),
        frame.get(word::NOTICE),
    ]
}

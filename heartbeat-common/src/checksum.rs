//! The UDP checksum of an echo, written in full from the words of the echo, never adjusted from the probe's: a peer
//! on the same host sends probes whose checksum is not finished. What is the same in every echo of a path is summed
//! once, when the path is configured.
//!
//! Sums are of 32-bit halves, in memory order, in 64 bits: far from overflow, folded at the end (RFC 1071).

use crate::auth::AddressWords;
use crate::frame::{LEN, PORT, STANDING_WORDS};

/// Protocol number of UDP.
const UDP: u16 = 17;

/// Returns the sum of one word of the frame.
#[inline(always)]
#[must_use]
pub const fn of(word: u64) -> u64 {
    (word & 0xffff_ffff) + (word >> 32)
}

/// Adds one word to a sum.
#[inline(always)]
#[must_use]
pub const fn add(sum: u64, word: u64) -> u64 {
    sum.wrapping_add(of(word))
}

/// Returns the sum of what every plain echo of a path shares: pseudo header, UDP header, the constant words and the
/// responder's standing (with notice 0). `ipv6` says which pseudo header it is; the sum over addresses is the same in
/// both directions.
#[must_use]
pub fn constant(
    ipv6: bool,
    prober: AddressWords,
    responder: AddressWords,
    head: u64,
    cluster: u64,
    ids: u64,
    standing: &[u64; STANDING_WORDS],
) -> u64 {
    let mut sum = u64::from(UDP.to_be()) + 2 * u64::from((8 + LEN as u16).to_be()) + 2 * u64::from(PORT.to_be());
    for address in [prober, responder] {
        sum += if ipv6 { of(address[0]) + of(address[1]) } else { address[1] >> 32 };
    }
    for word in [head, cluster, ids].iter().chain(standing) {
        sum += of(*word);
    }
    sum
}

/// Folds a sum into the checksum as it lies in memory. UDP sends a computed zero as all ones (RFC 768).
#[inline(always)]
#[must_use]
pub const fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}

#[cfg(test)]
mod tests;

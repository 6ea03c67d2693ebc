//! The heartbeat on the wire: eighteen little-endian words, the same size for a probe and its echo.
//! It names the words and packs what shares one; it verifies nothing.
//!
//! ```text
//! word  0  magic u32 | wire version u8 | key slot u8 | zero u16
//!       1  cluster id
//!       2  network u16 | prober u16 | responder u16 | zero u16
//!       3  prober's incarnation                  (both under the MAC; an echo returns them as they came)
//!       4  responder's incarnation, as the prober knows it (0: not yet)
//!       5  sequence
//!       6  send time, the prober's clock
//!       7  probe: receive stamp of the responder's last echo, brought back | echo: receive time, the responder's clock
//!       8  dynamic: age u24 x 2^20 ns | hold u24 us | flags u8 | zero u8
//!  9..=15  standing of the frame's author: incarnation; generation, standing flags, versions spoken;
//!          order of its view; digest of that; grant; settings hash; notice (newest incarnation known, in a stale echo)
//!      16  tag
//!      17  second half of a fence's 128-bit tag, else zero
//! ```
//!
//! A fence and its acknowledgement use the same words otherwise: see [`crate::fence`].

/// UDP port of every probe, echo and fence, source and destination alike (3343, as WSFC's).
pub const PORT: u16 = 3343;
/// Words in a frame.
pub const WORDS: usize = 18;
/// Bytes of UDP payload.
pub const LEN: usize = WORDS * 8;
/// First four bytes of every frame, read as a little-endian word: "HBT1".
pub const MAGIC: u32 = u32::from_le_bytes(*b"HBT1");
/// Wire version of this layout.
pub const VERSION: u8 = 1;
/// Lowest wire version this build speaks.
pub const VERSION_MIN: u8 = 1;
/// Highest wire version this build speaks.
pub const VERSION_MAX: u8 = 1;
/// Number of words in a standing.
pub const STANDING_WORDS: usize = 7;

/// Index of each word.
pub mod word {
    /// Magic, wire version, key slot.
    pub const HEAD: usize = 0;
    /// Cluster id.
    pub const CLUSTER: usize = 1;
    /// Network, prober, responder.
    pub const IDS: usize = 2;
    /// Prober's incarnation.
    pub const PROBER_INCARNATION: usize = 3;
    /// Responder's incarnation as the prober knows it.
    pub const RESPONDER_INCARNATION: usize = 4;
    /// Sequence.
    pub const SEQUENCE: usize = 5;
    /// Send time, prober's clock.
    pub const SENT: usize = 6;
    /// Returned stamp (probe) or receive time (echo), responder's clock.
    pub const STAMP: usize = 7;
    /// Age, hold, flags.
    pub const DYNAMIC: usize = 8;
    /// First word of the standing: the author's incarnation.
    pub const STANDING: usize = 9;
    /// Generation, standing flags, versions: second word of the standing.
    pub const IDENTITY: usize = 10;
    /// Order of the view that the author has installed ([`crate::view::Order`]).
    pub const VIEW_NUMBER: usize = 11;
    /// First word of that view's digest.
    pub const VIEW_DIGEST: usize = 12;
    /// The grant that the author's vote gives the reader ([`crate::lease`]); 0: none.
    pub const GRANT: usize = 13;
    /// Settings hash.
    pub const SETTINGS: usize = 14;
    /// Last word of the standing: the newest incarnation known, in a stale echo.
    pub const NOTICE: usize = 15;
    /// Tag.
    pub const TAG: usize = 16;
    /// Second half of a fence's tag.
    pub const TAG_HIGH: usize = 17;
}

/// What a frame is: bits 0 and 1 of the dynamic flags, and so under the MAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A heartbeat request.
    Probe = 0,
    /// The answer to a probe. It is never answered.
    Echo = 1,
    /// The order that stops a node ([`crate::fence`]).
    Fence = 2,
    /// The kernel's acknowledgement of a fence. It is never answered.
    FenceAck = 3,
}

/// Mask of the kind in the dynamic flags.
pub const KIND_MASK: u64 = 3;
/// Dynamic flag: this echo answers a prober whose incarnation is old; `NOTICE` names the newest known.
pub const FLAG_STALE: u8 = 1 << 2;
/// Dynamic flag: the author is leaving.
pub const FLAG_LEAVING: u8 = 1 << 3;
/// Dynamic flag: the author's controller has stopped for good and says so.
pub const FLAG_STOPPED: u8 = 1 << 4;
/// Dynamic flag: the author obeys a fence.
pub const FLAG_FENCED: u8 = 1 << 5;
/// Dynamic flag: the author is a member of its view.
pub const FLAG_MEMBER: u8 = 1 << 6;
/// Dynamic flag: the author is quorate.
pub const FLAG_QUORATE: u8 = 1 << 7;

/// Standing flag: echoes of this node come from userspace on this path, not from XDP.
pub const STANDING_USERSPACE: u16 = 1 << 0;
/// Standing flag: the author's disk state is good, and it votes.
pub const STANDING_VOTES: u16 = 1 << 1;
/// Standing flag: the author has no quorum and asks.
pub const STANDING_WAITS: u16 = 1 << 2;
/// Standing flag: whatever the author runs asks its kernel before it acts, and needs no time to stop.
pub const STANDING_GATED: u16 = 1 << 3;

/// Largest age and hold that fit; both saturate there. An age of this value means "not known".
pub const U24_MAX: u64 = 0x00ff_ffff;

/// Binary logarithm of the unit of an age, in nanoseconds.
pub const AGE_SHIFT: u32 = 20;

/// Access to the words of a frame, wherever it lies.
pub trait Words {
    /// Returns word `index`, which is below [`WORDS`].
    fn get(&self, index: usize) -> u64;
    /// Replaces word `index`, which is below [`WORDS`].
    fn set(&mut self, index: usize, value: u64);
}

impl Words for [u64; WORDS] {
    #[inline(always)]
    fn get(&self, index: usize) -> u64 {
        self[index]
    }
    #[inline(always)]
    fn set(&mut self, index: usize, value: u64) {
        self[index] = value;
    }
}

/// Where the key slot lies in word 0.
pub const SLOT_SHIFT: u32 = 40;

/// Packs word 0.
#[inline(always)]
#[must_use]
pub const fn head(key_slot: u8) -> u64 {
    MAGIC as u64 | (VERSION as u64) << 32 | (key_slot as u64) << SLOT_SHIFT
}

/// Packs word 2.
#[inline(always)]
#[must_use]
pub const fn ids(network: u16, prober: u16, responder: u16) -> u64 {
    network as u64 | (prober as u64) << 16 | (responder as u64) << 32
}

/// Packs word 8. `age` (units of 2^20 ns) and `hold_us` saturate at [`U24_MAX`].
#[inline(always)]
#[must_use]
pub const fn dynamic(kind: Kind, age: u64, hold_us: u64, flags: u8) -> u64 {
    let age = if age > U24_MAX { U24_MAX } else { age };
    let hold = if hold_us > U24_MAX { U24_MAX } else { hold_us };
    age | hold << 24 | ((flags as u64 & !KIND_MASK) | kind as u64) << 48
}

/// Returns the age that word 8 takes for progress last made at `progress_ns`, 0 meaning never.
/// The unit is 2^20 ns because BPF divides slowly and shifts fast.
#[inline(always)]
#[must_use]
pub const fn age_since(progress_ns: u64, now_ns: u64) -> u64 {
    if progress_ns == 0 { U24_MAX } else { now_ns.saturating_sub(progress_ns) >> AGE_SHIFT }
}

/// Returns the age in nanoseconds that word 8 carries; `None` if it is not known or did not fit.
#[inline(always)]
#[must_use]
pub const fn age_ns(dynamic: u64) -> Option<u64> {
    let age = dynamic & U24_MAX;
    if age == U24_MAX { None } else { Some(age << AGE_SHIFT) }
}

/// Returns the hold time in microseconds that word 8 carries.
#[inline(always)]
#[must_use]
pub const fn hold_us(dynamic: u64) -> u64 {
    (dynamic >> 24) & U24_MAX
}

/// Returns the dynamic flags that word 8 carries, kind included.
#[inline(always)]
#[must_use]
pub const fn flags(dynamic: u64) -> u8 {
    (dynamic >> 48) as u8
}

/// Packs the second word of a standing.
#[inline(always)]
#[must_use]
pub const fn identity(generation: u32, standing_flags: u16) -> u64 {
    generation as u64 | (standing_flags as u64) << 32 | (VERSION_MIN as u64) << 48 | (VERSION_MAX as u64) << 56
}

/// Reads a frame from the payload of a datagram.
#[must_use]
pub fn from_bytes(bytes: &[u8; LEN]) -> [u64; WORDS] {
    core::array::from_fn(|index| {
        let mut word = [0; 8];
        word.copy_from_slice(&bytes[index * 8..index * 8 + 8]);
        u64::from_le_bytes(word)
    })
}

/// Writes a frame as the payload of a datagram.
#[must_use]
pub fn to_bytes(frame: &[u64; WORDS]) -> [u8; LEN] {
    let mut bytes = [0; LEN];
    for (chunk, word) in bytes.chunks_exact_mut(8).zip(frame) {
        chunk.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests;

//! What userspace tells the kernel about one path: identities, precomputed MAC states, limits.
//! Written whole by userspace, read by the packet path; it changes nothing by itself.

use crate::frame::STANDING_WORDS;
use crate::maps::RouteKey;
use crate::siphash::{Key, Midstate};

/// Bit of [`PathConf::flags`]: key slot 0 holds a key.
pub const SLOT0: u32 = 1 << 0;
/// Bit of [`PathConf::flags`]: key slot 1 holds a key.
pub const SLOT1: u32 = 1 << 1;

/// The keys of one slot, in the form in which they are used.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct Slot {
    /// Base of exchanges in which the peer is the prober.
    pub theirs: Midstate,
    /// Base of exchanges in which this node is the prober.
    pub mine: Midstate,
    /// Key of the peer's standing, read here.
    pub standing_key: Key,
    /// Digest of this node's standing, read by the peer.
    pub own_digest: u64,
    /// Key of this node's standing, for the stale echo, whose notice differs.
    pub own_standing_key: Key,
    /// Checksum of what is the same in every echo: [`crate::checksum::constant`].
    pub echo_sum: u64,
}

/// The keys of fences and their acknowledgements, of one slot.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct FenceKeys {
    /// Of what the peer sends.
    pub theirs: Key,
    /// Of what this node sends.
    pub mine: Key,
}

/// One path as the packet path sees it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct PathConf {
    /// The triple that leads here: what a hint is checked by.
    pub key: RouteKey,
    /// Cluster id.
    pub cluster: u64,
    /// Ids word of exchanges in which the peer is the prober.
    pub theirs_ids: u64,
    /// Ids word of exchanges in which this node is the prober.
    pub mine_ids: u64,
    /// This node's standing on this path; its first word is the own incarnation.
    pub standing: [u64; STANDING_WORDS],
    /// A probe's time to be answered: one delay, ns.
    pub answer_within_ns: u64,
    /// Both key slots.
    pub slots: [Slot; 2],
    /// Lowest hop limit taken: 255 on same-subnet paths.
    pub min_hop_limit: u32,
    /// VLAN id that frames of this path carry; 0: untagged.
    pub vlan: u32,
    /// [`SLOT0`], [`SLOT1`].
    pub flags: u32,
    /// Index of the path.
    pub path: u32,
    /// Mark of the view in which the grant in `standing` is given: it is sent only while the page grants under the very
    /// same. 0: this node's vote grants in no view.
    pub grant_mark: u64,
    /// Slot of the peer's vote in the page.
    pub vote_slot: u32,
    /// Zero.
    pub zero: u32,
    /// Keys of fences, by key slot; read on the cold path alone.
    pub fences: [FenceKeys; 2],
}

const _: () = assert!(SLOT0 == 1 && SLOT1 == 1 << 1);

impl PathConf {
    /// Says whether key slot `slot`, 0 or 1, holds a key.
    #[inline(always)]
    #[must_use]
    pub const fn has_slot(&self, slot: u64) -> bool {
        self.flags >> slot & SLOT0 != 0
    }
}

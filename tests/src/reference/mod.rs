//! A slow and obvious model of the whole receive path, from Ethernet bytes to verdict, answer and recorded facts.
//! It shares with the product only the counters' names: no word layout, window, MAC state or parser of its own making.
//!
//! It follows the documents of the wire format word by word, over byte slices, and keeps its state in plain sets and
//! fields. Where it and the kernel program differ, one of the two is wrong.

pub mod answer;
pub mod facts;
pub mod fence;
pub mod judge;
pub mod mac;
pub mod page;
pub mod parse;

pub use facts::{Facts, Taken};
pub use judge::{Judged, Node, Verdict};
pub use mac::Keys;
pub use page::Page;

/// UDP port of heartbeats.
pub const PORT: u16 = 3343;
/// Bytes of a heartbeat.
pub const LEN: usize = 144;

/// One path as its owner configured it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Interface that the peer's frames come in by.
    pub ifindex: u32,
    /// This node's address: sixteen bytes, IPv4 as `::ffff:a.b.c.d`.
    pub own: [u8; 16],
    /// The peer's address, likewise.
    pub peer: [u8; 16],
    /// Cluster id.
    pub cluster: u64,
    /// Network id.
    pub network: u16,
    /// This node's id.
    pub own_id: u16,
    /// The peer's id.
    pub peer_id: u16,
    /// VLAN id, 0 for untagged.
    pub vlan: u16,
    /// Lowest hop limit taken.
    pub min_hop_limit: u8,
    /// A probe's time to be answered, ns.
    pub answer_within_ns: u64,
    /// This node's standing: incarnation, identity, view number, view digest, grant, settings hash, notice.
    pub standing: [u64; 7],
    /// The mark under which the grant in `standing` is given.
    pub grant_mark: u64,
    /// The slot of the peer's vote.
    pub vote_slot: u32,
    /// The two key slots.
    pub slots: [Option<Keys>; 2],
}

/// Reads the little-endian word at byte `at`.
#[must_use]
pub fn word(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

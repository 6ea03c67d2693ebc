//! What has happened on the link, for people and tests. Nothing is decided by it.

use std::sync::atomic::{AtomicU64, Ordering};

/// Something that is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Count {
    /// Connections that stood.
    Connected,
    /// Connections that were displaced by another one with the same peer.
    Displaced,
    /// Connections that were closed because the one that stood stays.
    Surplus,
    /// Connections from an address that is no peer's.
    Stranger,
    /// Connections from a peer's address while too many had not proved the key.
    Crowded,
    /// First bytes that are no head of a link, or another node's.
    BadHead,
    /// Handshakes and first records not made with the cluster's key.
    BadKey,
    /// Connections that did not get as far as a hello in time.
    TooSlow,
    /// Hellos that were refused.
    BadHello,
    /// Records of a wrong length, or that were not the next one the peer sealed.
    BadRecord,
    /// Records that are no message.
    BadMessage,
    /// Connections on which nothing came, or nothing left, for the control limit.
    Silent,
    /// Connections that were given up because too much waited for the peer.
    Overfull,
    /// Messages that nobody was connected for, that the thread did not take, or that are longer than any may be.
    Unsent,
    /// Messages that the deciding thread did not take in time.
    Untaken,
    /// Times that a peer had to wait because it said too much.
    Held,
}

impl Count {
    /// How many there are.
    pub const ALL: usize = Self::Held as usize + 1;
}

/// All of them.
#[derive(Debug, Default)]
pub struct Counts([AtomicU64; Count::ALL]);

impl Counts {
    /// Counts one.
    pub fn add(&self, count: Count) {
        self.add_many(count, 1);
    }

    /// Counts several.
    pub fn add_many(&self, count: Count, number: usize) {
        self.0[count as usize].fetch_add(number as u64, Ordering::Relaxed);
    }

    /// Returns how often it was.
    #[must_use]
    pub fn get(&self, count: Count) -> u64 {
        self.0[count as usize].load(Ordering::Relaxed)
    }
}

//! Derives the key of each direction from a secret of the cluster. It keeps no secret, only what HKDF extracted.

use super::{SECRET_LEN, SLOTS};
use heartbeat_common::siphash::Key;
use hkdf::Hkdf;
use sha2::Sha256;
use std::fmt;
use zeroize::Zeroizing;

/// Longest key derived, bytes.
const DERIVED_MAX: usize = 64;

/// HKDF-SHA256 over each slot's secret, with the cluster id as salt.
///
/// The key of a purpose and direction is the expansion with the info
/// `"heartbeat v1 " purpose first-id second-id slot`: ids as two little-endian bytes each, the slot as one. Networks
/// and addresses are not in it: they are under the tag itself.
#[derive(Clone)]
pub struct KeyRing {
    slots: [Option<Hkdf<Sha256>>; SLOTS],
    cluster: u64,
    active: usize,
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let filled = self.slots.each_ref().map(Option::is_some);
        formatter.debug_struct("KeyRing").field("filled", &filled).field("active", &self.active).finish_non_exhaustive()
    }
}

impl KeyRing {
    pub(super) fn new(cluster: u64, secrets: [Option<&[u8; SECRET_LEN]>; SLOTS], active: usize) -> Self {
        let salt = cluster.to_le_bytes();
        let slots = secrets.map(|secret| secret.map(|secret| Hkdf::<Sha256>::new(Some(&salt), secret)));
        Self { slots, cluster, active }
    }

    /// Returns the id of the cluster that the keys are for.
    #[must_use]
    pub const fn cluster(&self) -> u64 {
        self.cluster
    }

    /// Returns the slot that own probes are signed under. It holds a key.
    #[must_use]
    pub const fn active(&self) -> usize {
        self.active
    }

    /// Says whether `slot` holds a key.
    #[must_use]
    pub fn holds(&self, slot: usize) -> bool {
        self.slots.get(slot).is_some_and(Option::is_some)
    }

    /// Returns the key of exchanges that `prober` begins with `responder`; `None` if the slot is empty.
    #[must_use]
    pub fn exchange(&self, prober: u16, responder: u16, slot: usize) -> Option<Key> {
        self.expand(b"exchange", prober, responder, slot)
    }

    /// Returns the key of `author`'s standing as `reader` checks it; `None` if the slot is empty.
    #[must_use]
    pub fn standing(&self, author: u16, reader: u16, slot: usize) -> Option<Key> {
        self.expand(b"standing", author, reader, slot)
    }

    /// Returns the key of fences and acknowledgements that `author` sends to `reader`; `None` if the slot is empty.
    #[must_use]
    pub fn fence(&self, author: u16, reader: u16, slot: usize) -> Option<Key> {
        self.expand(b"fence128", author, reader, slot)
    }

    /// Returns the secret that `one` and `other` share for messages between their controllers, whichever of them begins
    /// the connection; `None` if the slot is empty.
    #[must_use]
    pub fn link(&self, one: u16, other: u16, slot: usize) -> Option<Zeroizing<[u8; SECRET_LEN]>> {
        self.bytes(b"link psk", one.min(other), one.max(other), slot)
    }

    fn expand(&self, purpose: &[u8; 8], first: u16, second: u16, slot: usize) -> Option<Key> {
        let bytes = self.bytes::<16>(purpose, first, second, slot)?;
        let (words, _) = bytes.as_chunks::<8>();
        Some(Key { k: [u64::from_le_bytes(words[0]), u64::from_le_bytes(words[1])] })
    }

    fn bytes<const LEN: usize>(
        &self,
        purpose: &[u8; 8],
        first: u16,
        second: u16,
        slot: usize,
    ) -> Option<Zeroizing<[u8; LEN]>> {
        const { assert!(LEN <= DERIVED_MAX, "no key is that long") };
        let hkdf = self.slots.get(slot)?.as_ref()?;
        let mut bytes = Zeroizing::new([0; LEN]);
        let info: [&[u8]; 5] = [b"heartbeat v1 ", purpose, &first.to_le_bytes(), &second.to_le_bytes(), &[slot as u8]];
        hkdf.expand_multi_info(&info, bytes.as_mut()).expect("a key is shorter than HKDF-SHA256 can give");
        Some(bytes)
    }
}

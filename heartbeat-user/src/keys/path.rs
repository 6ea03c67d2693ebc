//! What the kernel and the pacing thread need of one path: its configuration, its route, and a signer of its probes.
//! Pure: it sends nothing and writes no map.

use super::{KeyRing, SLOTS};
use heartbeat_common::auth::{self, AddressWords};
use heartbeat_common::checksum;
use heartbeat_common::fence;
use heartbeat_common::frame::{self, Kind, STANDING_WORDS, WORDS, word};
use heartbeat_common::maps::RouteKey;
use heartbeat_common::path::{FenceKeys, PathConf, SLOT0, SLOT1, Slot};
use heartbeat_common::siphash::{Key, Midstate};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

/// One path, as far as frames show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathSpec {
    /// Id of the network.
    pub network: u16,
    /// Id of this node.
    pub own: u16,
    /// Id of the peer.
    pub peer: u16,
    /// This node's address.
    pub local: IpAddr,
    /// The peer's address.
    pub remote: IpAddr,
    /// VLAN id that frames carry; 0: untagged.
    pub vlan: u16,
    /// A probe's time to be answered: one delay.
    pub answer_within: Duration,
    /// Lowest hop limit to take.
    pub min_hop_limit: u8,
}

impl PathSpec {
    /// Describes a planned path of node `own`.
    #[must_use]
    pub fn new(own: u16, plan: &crate::config::PathPlan, settings: &crate::config::Settings) -> Self {
        Self {
            network: plan.network,
            own,
            peer: plan.peer_node,
            local: plan.local,
            remote: plan.peer,
            vlan: plan.vlan,
            answer_within: settings.path(plan.same_subnet).delay,
            min_hop_limit: settings.min_hop_limit(plan.same_subnet),
        }
    }

    /// Returns the ids word of exchanges in which this node is the prober.
    const fn mine_ids(&self) -> u64 {
        frame::ids(self.network, self.own, self.peer)
    }

    /// Returns the ids word of exchanges in which the peer is the prober.
    const fn theirs_ids(&self) -> u64 {
        frame::ids(self.network, self.peer, self.own)
    }

    /// Returns the state over what is constant in exchanges in which this node is the prober.
    fn mine(&self, ring: &KeyRing, slot: usize) -> Option<Midstate> {
        let key = ring.exchange(self.own, self.peer, slot)?;
        let (local, remote) = (address_words(self.local), address_words(self.remote));
        let head = frame::head(slot as u8);
        Some(auth::exchange_base(key, head, ring.cluster(), self.mine_ids(), local, remote, self.vlan))
    }

    /// Returns the state over what is constant in exchanges in which the peer is the prober.
    fn theirs(&self, ring: &KeyRing, slot: usize) -> Option<Midstate> {
        let key = ring.exchange(self.peer, self.own, slot)?;
        let (local, remote) = (address_words(self.local), address_words(self.remote));
        let head = frame::head(slot as u8);
        Some(auth::exchange_base(key, head, ring.cluster(), self.theirs_ids(), remote, local, self.vlan))
    }
}

/// Returns an address as the packet path sees it; IPv4 as IPv4-mapped IPv6.
#[must_use]
pub fn address_words(address: IpAddr) -> AddressWords {
    let address = match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    };
    auth::address_words(address.octets())
}

/// Returns what leads frames of the path that arrive on interface `ifindex` to it.
#[must_use]
pub fn route_key(path: &PathSpec, ifindex: u32) -> RouteKey {
    RouteKey { source: address_words(path.remote), destination: address_words(path.local), ifindex, zero: 0 }
}

/// Returns what the packet path gets to know of a path. `standing` is this node's on the path, its own incarnation
/// first; the interface, the index, and what belongs to a vote are left out.
#[must_use]
pub fn path_conf(ring: &KeyRing, path: &PathSpec, standing: &[u64; STANDING_WORDS]) -> PathConf {
    let slots: [Option<Slot>; SLOTS] = std::array::from_fn(|slot| slot_of(ring, path, standing, slot));
    let mut flags = 0;
    for (filled, bit) in slots.iter().zip([SLOT0, SLOT1]) {
        if filled.is_some() {
            flags |= bit;
        }
    }
    let fences = std::array::from_fn(|slot| fence_keys(ring, path, slot).unwrap_or_default());
    PathConf {
        key: route_key(path, 0),
        cluster: ring.cluster(),
        theirs_ids: path.theirs_ids(),
        mine_ids: path.mine_ids(),
        standing: *standing,
        answer_within_ns: u64::try_from(path.answer_within.as_nanos()).unwrap_or(u64::MAX),
        slots: slots.map(Option::unwrap_or_default),
        min_hop_limit: path.min_hop_limit.into(),
        vlan: path.vlan.into(),
        flags,
        path: 0,
        grant_mark: 0,
        vote_slot: 0,
        zero: 0,
        fences,
    }
}

fn fence_keys(ring: &KeyRing, path: &PathSpec, slot: usize) -> Option<FenceKeys> {
    let (theirs, mine) = (ring.fence(path.peer, path.own, slot)?, ring.fence(path.own, path.peer, slot)?);
    Some(FenceKeys { theirs, mine })
}

fn slot_of(ring: &KeyRing, path: &PathSpec, standing: &[u64; STANDING_WORDS], slot: usize) -> Option<Slot> {
    let own_standing_key = ring.standing(path.own, path.peer, slot)?;
    Some(Slot {
        theirs: path.theirs(ring, slot)?,
        mine: path.mine(ring, slot)?,
        standing_key: ring.standing(path.peer, path.own, slot)?,
        own_digest: auth::standing_digest(own_standing_key, standing),
        own_standing_key,
        echo_sum: checksum::constant(
            path.local.is_ipv6(),
            address_words(path.remote),
            address_words(path.local),
            frame::head(slot as u8),
            ring.cluster(),
            path.theirs_ids(),
            standing,
        ),
    })
}

/// Builds the signed probes of one path, under the active slot: with the grant of its standing, or without, as the page
/// says at the moment.
#[derive(Clone)]
pub struct ProbeSigner {
    head: u64,
    cluster: u64,
    ids: u64,
    standing: [u64; STANDING_WORDS],
    digest: u64,
    /// Digest of the standing without its grant.
    bare_digest: u64,
    /// Mark of the view in which the grant is given.
    mark: u64,
    base: Midstate,
    /// The peer's incarnation that `state` was made for.
    peer_incarnation: u64,
    /// `base` continued over both incarnations.
    state: Midstate,
}

impl fmt::Debug for ProbeSigner {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let incarnation = self.standing[0];
        let mut fields = formatter.debug_struct("ProbeSigner");
        fields.field("ids", &self.ids).field("incarnation", &incarnation);
        fields.field("peer_incarnation", &self.peer_incarnation).finish_non_exhaustive()
    }
}

impl ProbeSigner {
    /// Makes the signer of a path. `standing` is this node's on the path, its own incarnation (not 0) first; the
    /// peer's incarnation counts as not known until [`Self::expect_peer`] says it.
    #[must_use]
    pub fn new(ring: &KeyRing, path: &PathSpec, standing: &[u64; STANDING_WORDS]) -> Self {
        let slot = ring.active();
        let base = path.mine(ring, slot).expect("the active slot of a key ring holds a key");
        let key = ring.standing(path.own, path.peer, slot).expect("the active slot of a key ring holds a key");
        let mut bare = *standing;
        bare[GRANT] = 0;
        Self {
            head: frame::head(slot as u8),
            cluster: ring.cluster(),
            ids: path.mine_ids(),
            standing: *standing,
            digest: auth::standing_digest(key, standing),
            bare_digest: auth::standing_digest(key, &bare),
            mark: 0,
            base,
            peer_incarnation: 0,
            state: auth::with_incarnations(base, standing[0], 0),
        }
    }

    /// Says under which mark the grant in the standing is given: it goes out only while the page grants under the same.
    #[must_use]
    pub const fn granting_under(mut self, mark: u64) -> Self {
        self.mark = mark;
        self
    }

    /// Returns the mark under which the grant in the standing is given.
    #[must_use]
    pub const fn mark(&self) -> u64 {
        self.mark
    }

    /// Returns this node's incarnation.
    #[must_use]
    pub const fn incarnation(&self) -> u64 {
        self.standing[0]
    }

    /// Prepares for probes that name this incarnation of the peer; any other is signed as well, a little slower.
    pub const fn expect_peer(&mut self, incarnation: u64) {
        if self.peer_incarnation != incarnation {
            self.peer_incarnation = incarnation;
            self.state = auth::with_incarnations(self.base, self.standing[0], incarnation);
        }
    }

    /// Returns a signed probe with the grant of the standing. `sequence` is not 0 and higher than any before on this path
    /// under this incarnation; `sent_ns` is this host's CLOCK_MONOTONIC; `peer_incarnation` is 0 where it is not known;
    /// `returned_stamp` is the peer's newest receive stamp; `age` is from [`frame::age_since`]; `flags` are dynamic
    /// flags, without kind.
    #[must_use]
    pub fn probe(
        &self,
        sequence: u64,
        sent_ns: u64,
        peer_incarnation: u64,
        returned_stamp: u64,
        age: u64,
        flags: u8,
    ) -> [u64; WORDS] {
        let dynamic = frame::dynamic(Kind::Probe, age, 0, flags);
        let mut words = self.unsigned(sequence, sent_ns, peer_incarnation, returned_stamp, dynamic);
        words[word::TAG] = self.tag(&words, self.digest);
        words
    }

    /// Returns the same without the grant: for as long as this node's vote gives none.
    #[must_use]
    pub fn bare_probe(
        &self,
        sequence: u64,
        sent_ns: u64,
        peer_incarnation: u64,
        returned_stamp: u64,
        age: u64,
        flags: u8,
    ) -> [u64; WORDS] {
        let dynamic = frame::dynamic(Kind::Probe, age, 0, flags);
        let mut words = self.unsigned(sequence, sent_ns, peer_incarnation, returned_stamp, dynamic);
        words[word::GRANT] = 0;
        words[word::TAG] = self.tag(&words, self.bare_digest);
        words
    }

    fn unsigned(&self, sequence: u64, sent_ns: u64, peer: u64, stamp: u64, dynamic: u64) -> [u64; WORDS] {
        let mut words = [0; WORDS];
        words[word::HEAD] = self.head;
        words[word::CLUSTER] = self.cluster;
        words[word::IDS] = self.ids;
        words[word::PROBER_INCARNATION] = self.standing[0];
        words[word::RESPONDER_INCARNATION] = peer;
        words[word::SEQUENCE] = sequence;
        words[word::SENT] = sent_ns;
        words[word::STAMP] = stamp;
        words[word::DYNAMIC] = dynamic;
        words[word::STANDING..word::STANDING + STANDING_WORDS].copy_from_slice(&self.standing);
        words
    }

    fn tag(&self, words: &[u64; WORDS], digest: u64) -> u64 {
        let peer = words[word::RESPONDER_INCARNATION];
        let state = if peer == self.peer_incarnation {
            self.state
        } else {
            auth::with_incarnations(self.base, self.standing[0], peer)
        };
        let shared = auth::with_probe(state, words[word::SEQUENCE], words[word::SENT]);
        auth::tag(shared, words[word::STAMP], digest, words[word::DYNAMIC])
    }
}

/// Index of the grant in a standing.
const GRANT: usize = word::GRANT - word::STANDING;

/// Builds the signed fences of one path, under the active slot.
#[derive(Clone, Debug)]
pub struct FenceSigner {
    slot: u8,
    cluster: u64,
    ids: u64,
    key: Key,
    own: AddressWords,
    peer: AddressWords,
    vlan: u16,
}

impl FenceSigner {
    /// Makes the signer of a path.
    #[must_use]
    pub fn new(ring: &KeyRing, path: &PathSpec) -> Self {
        let slot = ring.active();
        Self {
            slot: slot as u8,
            cluster: ring.cluster(),
            ids: path.mine_ids(),
            key: ring.fence(path.own, path.peer, slot).expect("the active slot of a key ring holds a key"),
            own: address_words(path.local),
            peer: address_words(path.remote),
            vlan: path.vlan,
        }
    }

    /// Returns a signed fence of the peer.
    #[must_use]
    pub fn fence(&self, order: &fence::Order) -> [u64; WORDS] {
        let mut words = fence::write(self.slot, self.cluster, self.ids, order);
        fence::sign(&mut words, self.key, self.own, self.peer, self.vlan.into());
        words
    }
}

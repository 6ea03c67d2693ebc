//! Paths for tests: settings for the reference, and the same as the controller would tell them to the kernel.

use super::random::Random;
use super::{LOOPBACK, Rig};
use crate::reference::{Keys, Node, Settings};
use anyhow::Result;
use heartbeat_common::auth::{address_words, exchange_base, standing_digest};
use heartbeat_common::checksum;
use heartbeat_common::frame;
use heartbeat_common::lease::{self, bank, word};
use heartbeat_common::maps::{Hint, Own, Route, RouteKey};
use heartbeat_common::path::{FenceKeys, PathConf, SLOT0, SLOT1, Slot};
use heartbeat_common::siphash::Key;

fn key(bytes: [u8; 16]) -> Key {
    Key { k: address_words(bytes) }
}

/// Draws the keys of a slot.
pub fn keys(random: &mut Random) -> Keys {
    let mut draw = || {
        let mut key = [0; 16];
        key[..8].copy_from_slice(&random.word().to_le_bytes());
        key[8..].copy_from_slice(&random.word().to_le_bytes());
        key
    };
    Keys {
        theirs: draw(),
        mine: draw(),
        peer_standing: draw(),
        own_standing: draw(),
        their_fences: draw(),
        own_fences: draw(),
    }
}

/// The standing of a node of incarnation `incarnation`, the rest drawn.
pub fn standing(random: &mut Random, incarnation: u64) -> [u64; 7] {
    let mut standing = [0; 7];
    standing[0] = incarnation;
    for word in &mut standing[1..6] {
        *word = random.word();
    }
    standing
}

/// An IPv4 address as sixteen bytes.
#[must_use]
pub fn ipv4(address: [u8; 4]) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[10..12].fill(0xff);
    bytes[12..].copy_from_slice(&address);
    bytes
}

/// An address in fd00::/64.
#[must_use]
pub fn ipv6(low: u16) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..2].copy_from_slice(&[0xfd, 0x00]);
    bytes[14..].copy_from_slice(&low.to_be_bytes());
    bytes
}

/// A path: number `index`, IPv6 if odd, own incarnation 7, keys in slot 0, 255 hops, 10 ms.
pub fn settings(random: &mut Random, index: u16) -> Settings {
    let [high, low] = (index + 1).to_be_bytes();
    let (own, peer) = if index.is_multiple_of(2) {
        (ipv4([10, high, low, 1]), ipv4([10, high, low, 2]))
    } else {
        (ipv6(index * 2 + 1), ipv6(index * 2 + 2))
    };
    Settings {
        ifindex: LOOPBACK,
        own,
        peer,
        cluster: random.word(),
        network: index + 1,
        own_id: 1,
        peer_id: 2,
        vlan: 0,
        min_hop_limit: 255,
        answer_within_ns: 10_000_000,
        standing: standing(random, 7),
        grant_mark: 0,
        vote_slot: u32::from(index) % 96,
        slots: [Some(keys(random)), None],
    }
}

/// What the kernel is told of a path.
#[must_use]
pub fn conf(settings: &Settings) -> PathConf {
    let (own, peer) = (address_words(settings.own), address_words(settings.peer));
    let theirs_ids = frame::ids(settings.network, settings.peer_id, settings.own_id);
    let mine_ids = frame::ids(settings.network, settings.own_id, settings.peer_id);
    let slot = |number: u8| {
        let Some(keys) = settings.slots[usize::from(number)] else { return Slot::default() };
        let head = frame::head(number);
        let base = |exchange, ids, prober, responder| {
            exchange_base(key(exchange), head, settings.cluster, ids, prober, responder, settings.vlan)
        };
        Slot {
            theirs: base(keys.theirs, theirs_ids, peer, own),
            mine: base(keys.mine, mine_ids, own, peer),
            standing_key: key(keys.peer_standing),
            own_digest: standing_digest(key(keys.own_standing), &settings.standing),
            own_standing_key: key(keys.own_standing),
            echo_sum: checksum::constant(
                !super::frames::is_mapped(&settings.own),
                peer,
                own,
                head,
                settings.cluster,
                theirs_ids,
                &settings.standing,
            ),
        }
    };
    let mut flags = 0;
    for (slot, flag) in settings.slots.iter().zip([SLOT0, SLOT1]) {
        flags |= if slot.is_some() { flag } else { 0 };
    }
    PathConf {
        key: route_key(settings),
        cluster: settings.cluster,
        theirs_ids,
        mine_ids,
        standing: settings.standing,
        answer_within_ns: settings.answer_within_ns,
        slots: [slot(0), slot(1)],
        min_hop_limit: u32::from(settings.min_hop_limit),
        vlan: u32::from(settings.vlan),
        flags,
        path: 0,
        grant_mark: settings.grant_mark,
        vote_slot: settings.vote_slot,
        zero: 0,
        fences: settings.slots.map(|slot| {
            let of = |keys: Keys| FenceKeys { theirs: key(keys.their_fences), mine: key(keys.own_fences) };
            slot.map(of).unwrap_or_default()
        }),
    }
}

/// The triple of a path.
#[must_use]
pub fn route_key(settings: &Settings) -> RouteKey {
    RouteKey {
        source: address_words(settings.peer),
        destination: address_words(settings.own),
        ifindex: settings.ifindex,
        zero: 0,
    }
}

/// Tells the kernel of every path of `node`: path and configuration number are its index. Hints are right, wrong and
/// missing by turns: they may decide nothing.
///
/// # Errors
/// If the kernel refuses.
pub fn install(rig: &mut Rig, node: &Node) -> Result<()> {
    for (index, (settings, _)) in (0..).zip(&node.paths) {
        rig.configure(index, &PathConf { path: index, ..conf(settings) })?;
        rig.route(route_key(settings), Route { path: index, conf: index })?;
        match index % 3 {
            0 => rig.hint(&route_key(settings), Hint::at(index))?,
            1 => rig.hint(&route_key(settings), Hint::at(0))?,
            _ => {}
        }
    }
    install_own(rig, node);
    install_page(rig, node);
    Ok(())
}

/// Writes the page as `node` has it, into the bank that is not active, and makes that active.
pub fn install_page(rig: &Rig, node: &Node) {
    let (lease, page) = (&rig.lease, &node.page);
    let active = lease.get(0, word::ACTIVE) + 1;
    let at = word::BANKS + (active & 1) as usize * bank::WORDS;
    lease.set(0, at + bank::ORDER, page.order);
    lease.set(0, at + bank::MEMBER, u64::from(page.member));
    for (slot, (expected, date)) in page.votes.iter().enumerate() {
        lease.set(0, at + bank::EXPECTED + slot, *expected);
        lease.set(0, at + bank::DATES + slot, *date);
    }
    lease.set(0, word::MAGIC, if page.incarnation == 0 { 0 } else { lease::MAGIC });
    lease.set(0, word::INCARNATION, page.incarnation);
    lease.set(0, word::FENCED, page.fenced);
    lease.set(0, word::GRANTING, page.granting);
    lease.set(0, word::AHEAD, u64::from(page.ahead));
    lease.set(0, word::ACTIVE, active);
}

/// Tells the kernel of `node`'s progress and flags.
pub fn install_own(rig: &Rig, node: &Node) {
    rig.own(&Own { progress_ns: node.progress_ns, flags: u64::from(node.flags), ..Own::default() });
}

//! What becomes of a fence and of its acknowledgement, and of the page of whoever is fenced.

use super::{Facts, Page, Settings, mac, word};
use heartbeat_common::counter::Counter;

/// Shortest time between two acknowledgements on one path, ns.
pub const ACK_GAP_NS: u64 = 1_000_000;

/// Says whether a heartbeat is one of the two by its looks: the kind, and that it has a second half of a tag.
#[must_use]
pub fn is_fence(heartbeat: &[u8]) -> bool {
    heartbeat[71] == 0 && heartbeat[70] & 2 == 2 && word(heartbeat, 136) != 0
}

/// Judges one. True: it is to be acknowledged.
pub fn judge(heartbeat: &[u8], settings: &Settings, facts: &mut Facts, page: &mut Page, now: u64) -> (bool, Counter) {
    let drop = |counter| (false, counter);
    let ack = heartbeat[70] == 3;
    let (sender, victim) = (word(heartbeat, 24), word(heartbeat, 32));
    let mut zero = [&heartbeat[56..70], &heartbeat[80..88]].concat();
    if !ack {
        zero.extend_from_slice(&heartbeat[120..128]);
    }
    if ![2, 3].contains(&heartbeat[70]) || zero.iter().any(|byte| *byte != 0) || sender == 0 || victim == 0 {
        return drop(Counter::DropReserved);
    }
    let (from, to) = if ack { (settings.own_id, settings.peer_id) } else { (settings.peer_id, settings.own_id) };
    if heartbeat[16..24] != [settings.network, from, to, 0].map(u16::to_le_bytes).concat() {
        return drop(Counter::DropIds);
    }
    let (own, author) = (settings.standing[0], word(heartbeat, 72));
    let mine = if ack { sender == own && author >= victim } else { victim <= own && author == sender };
    if !mine || !ack && page.incarnation != own {
        return drop(Counter::DropFenceIncarnation);
    }
    let order = word(heartbeat, 88);
    let outranked = order >> 48 < page.order >> 48;
    if !ack && victim == own && (page.member && order <= page.order || outranked) {
        return drop(Counter::DropFenceView);
    }
    let Some(keys) = &settings.slots[usize::from(heartbeat[5])] else { return drop(Counter::DropKeySlot) };
    if heartbeat[128..144] != mac::fence_tag(heartbeat, settings, false, &keys.their_fences) {
        return drop(Counter::DropFenceTag);
    }
    if ack {
        if victim > facts.fence_acked.0 {
            facts.fence_acked = (victim, author, word(heartbeat, 120) & 1, now);
        }
        return drop(Counter::FenceTakenAck);
    }
    if victim == own {
        page.fenced = page.fenced.max(own);
        page.granting = 0;
    }
    if facts.fence_answered_ns != 0 && now.saturating_sub(facts.fence_answered_ns) < ACK_GAP_NS {
        return drop(Counter::DropFenceLimit);
    }
    facts.fence_answered_ns = now;
    (true, if victim == own { Counter::Fenced } else { Counter::FenceAcked })
}

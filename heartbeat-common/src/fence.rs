//! The fence, the order that stops a node, and its acknowledgement: what their words are, what the tag covers, and what
//! becomes of one that comes in. The victim's kernel obeys by it before its controller hears of it. It sends nothing,
//! reads no clock and takes no lock: `record` wants the tick's lock held.
//!
//! ```text
//! word  0  as of every frame       8  the kind, all else zero
//!       1  cluster id              9  the author's incarnation
//!       2  network, sender, victim 10 zero
//!       3  sender's incarnation    11 order of the decided view that the victim is not in
//!       4  victim's incarnation    12..=14 the first three words of its digest
//!       5  nonce                   15 zero; in an acknowledgement, GATED or zero
//!       6  reason                  16, 17 tag
//!       7  zero
//! ```
//!
//! The tag is SipHash-2-4 of 128 bits under a key of (author, reader), over words 0 to 15, the author's and the reader's
//! address, and the VLAN. An acknowledgement keeps the words of the fence that it answers, so it answers no other one.

use crate::auth::AddressWords;
use crate::checksum;
use crate::counter::Counter;
use crate::frame::{self, Kind, Words, word};
use crate::lease;
use crate::path::PathConf;
use crate::siphash::{Key, Midstate};
use crate::tick::Tick;
use crate::view::Name;
use core::cell::Cell;
use core::hint::black_box;

/// Shortest time between two acknowledgements on one path. A recorder that replays old fences cannot make more.
pub const ACK_GAP_NS: u64 = 1_000_000;

/// Bit of word 15 of an acknowledgement: whatever the victim runs asks its kernel before it acts.
pub const GATED: u64 = 1 << 0;

/// Words of a fence that mean something else than those of a probe.
pub mod words {
    /// The sender's incarnation, in the fence and in what acknowledges it.
    pub const SENDER: usize = super::word::PROBER_INCARNATION;
    /// The victim's incarnation: it and all before it are over.
    pub const VICTIM: usize = super::word::RESPONDER_INCARNATION;
    /// Tells one fence from another.
    pub const NONCE: usize = super::word::SEQUENCE;
    /// Why, for people.
    pub const REASON: usize = super::word::SENT;
    /// The author's incarnation.
    pub const AUTHOR: usize = super::word::STANDING;
    /// Order of the view.
    pub const ORDER: usize = super::word::VIEW_NUMBER;
    /// First of three words of its digest.
    pub const DIGEST: usize = super::word::VIEW_DIGEST;
    /// What the acknowledgement says of its author.
    pub const SAYS: usize = super::word::NOTICE;
}

/// Bytes under the tag: words 0 to 15, two addresses, the VLAN.
const LEN: u8 = (16 + 4 + 1) * 8;

/// Why a node is fenced, as word 6 tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Reason {
    /// It was left out because nobody heard it.
    Silent = 1,
    /// Its controller hung.
    Hung = 2,
    /// Its messages did not pass, or it could not apply what was decided.
    Control = 3,
    /// An operator ordered it.
    Operator = 4,
    /// A newer incarnation of it runs.
    Restarted = 5,
    /// It was not fully connected to those that stay.
    Unconnected = 6,
}

impl Reason {
    /// Reads word 6; a reason that this build does not know is `None`.
    #[must_use]
    pub const fn of(word: u64) -> Option<Self> {
        match word {
            1 => Some(Self::Silent),
            2 => Some(Self::Hung),
            3 => Some(Self::Control),
            4 => Some(Self::Operator),
            5 => Some(Self::Restarted),
            6 => Some(Self::Unconnected),
            _ => None,
        }
    }
}

/// What a fence is to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// The sender's incarnation.
    pub sender: u64,
    /// The incarnation that is over; not 0.
    pub victim: u64,
    /// A decided view that does not have it.
    pub view: Name,
    /// Tells this fence from another.
    pub nonce: u64,
    /// Why.
    pub reason: Reason,
}

/// Returns a fence whose tag is still to be set by [`sign`]. `ids` is the ids word of what the sender begins.
#[must_use]
pub const fn write(slot: u8, cluster: u64, ids: u64, order: &Order) -> [u64; frame::WORDS] {
    let mut words = [0; frame::WORDS];
    words[word::HEAD] = frame::head(slot);
    words[word::CLUSTER] = cluster;
    words[word::IDS] = ids;
    words[words::SENDER] = order.sender;
    words[words::VICTIM] = order.victim;
    words[words::NONCE] = order.nonce;
    words[words::REASON] = order.reason as u64;
    words[word::DYNAMIC] = frame::dynamic(Kind::Fence, 0, 0, 0);
    words[words::AUTHOR] = order.sender;
    words[words::ORDER] = order.view.order.0;
    words[words::DIGEST] = order.view.digest[0];
    words[words::DIGEST + 1] = order.view.digest[1];
    words[words::DIGEST + 2] = order.view.digest[2];
    words
}

/// Tags a fence or an acknowledgement. One in 2^64 has a tag whose second half is zero and is dropped where it arrives,
/// as every frame but these has that: the next has another nonce.
#[inline(always)]
pub fn sign<W: Words>(frame: &mut W, key: Key, author: AddressWords, reader: AddressWords, vlan: u64) {
    let [low, high] = tag(frame, key, author, reader, vlan);
    frame.set(word::TAG, low);
    frame.set(word::TAG_HIGH, high);
}

/// Word by word and not in a loop: the kernel's verifier wants to see each place in the packet.
#[inline(always)]
fn tag<W: Words>(frame: &W, key: Key, author: AddressWords, reader: AddressWords, vlan: u64) -> [u64; 2] {
    Midstate::new_128(key)
        .absorb(frame.get(0))
        .absorb(frame.get(1))
        .absorb(frame.get(2))
        .absorb(frame.get(3))
        .absorb(frame.get(4))
        .absorb(frame.get(5))
        .absorb(frame.get(6))
        .absorb(frame.get(7))
        .absorb(frame.get(8))
        .absorb(frame.get(9))
        .absorb(frame.get(10))
        .absorb(frame.get(11))
        .absorb(frame.get(12))
        .absorb(frame.get(13))
        .absorb(frame.get(14))
        .absorb(frame.get(15))
        .absorb(author[0])
        .absorb(author[1])
        .absorb(reader[0])
        .absorb(reader[1])
        .absorb(vlan)
        .finish_128(LEN)
}

/// Says whether a frame that `exchange::authenticate` refused for a reserved field is a fence or an acknowledgement: by
/// its kind and by the second half of its tag, which every other frame has zero. The head is looked at again, for that
/// has a reserved field too; if it is whole, the cluster was found right as well.
#[inline(always)]
pub fn is_fence<W: Words>(frame: &W) -> bool {
    let (head, dynamic) = (frame.get(word::HEAD), frame.get(word::DYNAMIC));
    let whole = head == frame::head(0) || head == frame::head(1);
    whole && frame.get(word::TAG_HIGH) != 0 && dynamic >> 49 & 1 == 1 && dynamic >> 56 == 0
}

/// A fence or an acknowledgement whose tag was found good.
#[derive(Clone, Copy, Debug)]
pub struct Authentic {
    /// It acknowledges a fence of this node's.
    ack: bool,
}

/// Checks a frame for which [`is_fence`] holds, cheapest test first and its tag last, and whether it orders anything.
/// Its head and cluster were found good; nothing is changed.
///
/// # Errors
/// Returns the counter of the first test that it does not pass.
#[inline(always)]
pub fn authenticate<W: Words, P: lease::Words>(frame: &W, conf: &PathConf, page: &P) -> Result<Authentic, Counter> {
    let dynamic = frame.get(word::DYNAMIC);
    let ack = dynamic == frame::dynamic(Kind::FenceAck, 0, 0, 0);
    let zero = frame.get(word::STAMP) | frame.get(word::IDENTITY) | if ack { 0 } else { frame.get(words::SAYS) };
    let whole = ack || dynamic == frame::dynamic(Kind::Fence, 0, 0, 0);
    if !whole || zero != 0 || frame.get(words::SENDER) == 0 || frame.get(words::VICTIM) == 0 {
        return Err(Counter::DropReserved);
    }
    if ack {
        fits_ack(frame, conf)?
    } else {
        fits_fence(frame, conf, page)?
    }
    let slot = slot_of(frame);
    if !conf.has_slot(slot as u64) {
        return Err(Counter::DropKeySlot);
    }
    let key = conf.fences[slot].theirs;
    let [low, high] = tag(frame, key, conf.key.source, conf.key.destination, conf.vlan as u64);
    if low != frame.get(word::TAG) || high != frame.get(word::TAG_HIGH) {
        return Err(Counter::DropFenceTag);
    }
    Ok(Authentic { ack })
}

/// Says in which key slot a frame was tagged whose head was found good.
#[inline(always)]
fn slot_of<W: Words>(frame: &W) -> usize {
    (frame.get(word::HEAD) >> frame::SLOT_SHIFT & 1) as usize
}

#[inline(always)]
fn fits_ack<W: Words>(frame: &W, conf: &PathConf) -> Result<(), Counter> {
    if frame.get(word::IDS) != conf.mine_ids {
        return Err(Counter::DropIds);
    }
    // An older incarnation never acknowledges what is above it.
    if frame.get(words::SENDER) != conf.standing[0] || frame.get(words::AUTHOR) < frame.get(words::VICTIM) {
        return Err(Counter::DropFenceIncarnation);
    }
    Ok(())
}

#[inline(always)]
fn fits_fence<W: Words, P: lease::Words>(frame: &W, conf: &PathConf, page: &P) -> Result<(), Counter> {
    if frame.get(word::IDS) != conf.theirs_ids {
        return Err(Counter::DropIds);
    }
    let own = conf.standing[0];
    let victim = frame.get(words::VICTIM);
    // Without a page of this very incarnation there is nothing that could obey; the sender asks again.
    let known = page.get(lease::word::MAGIC) == lease::MAGIC && page.get(lease::word::INCARNATION) == own;
    if !known || victim > own || frame.get(words::AUTHOR) != frame.get(words::SENDER) {
        return Err(Counter::DropFenceIncarnation);
    }
    let bank = lease::active_bank(page);
    let member = page.get(bank + lease::bank::MEMBER) != 0;
    let (order, held) = (frame.get(words::ORDER), page.get(bank + lease::bank::ORDER));
    // Who goes on by force acts in nothing until its view is in force, and is no member by its bank: the side that it has
    // outranked may not stop it.
    let outranked = crate::view::Order(order).force() < crate::view::Order(held).force();
    if victim == own && (member && order <= held || outranked) {
        return Err(Counter::DropFenceView);
    }
    Ok(())
}

/// Obeys a good fence, or takes a good acknowledgement, that came at `now`; the tick's lock is held. An order to this
/// very incarnation ends its lease and its grants before anything is answered; to an older one there is nothing to end.
///
/// # Errors
/// Returns the counter of a frame that is not to be answered; an order was obeyed nonetheless.
#[inline(always)]
pub fn record<W: Words, P: lease::Words>(
    frame: &W,
    good: &Authentic,
    conf: &PathConf,
    tick: &Tick<Cell<u64>>,
    page: &P,
    now: u64,
) -> Result<Counter, Counter> {
    let victim = frame.get(words::VICTIM);
    if good.ack {
        if victim > tick.fence_acked.get() {
            tick.fence_acked.set(victim);
            tick.fence_acked_by.set(frame.get(words::AUTHOR));
            tick.fence_acked_flags.set(frame.get(words::SAYS) & GATED);
            tick.fence_acked_ns.set(now);
        }
        return Ok(Counter::FenceTakenAck);
    }
    let obeyed = victim == conf.standing[0];
    if obeyed {
        page.raise(lease::word::FENCED, victim);
        page.clear(lease::word::GRANTING);
        // It may have been outraced on other CPUs for too long: then nothing is claimed, and the sender asks again.
        if !lease::fenced(page, victim) {
            return Err(Counter::Contended);
        }
    }
    let last = tick.fence_answered_ns.get();
    if last != 0 && now.saturating_sub(last) < ACK_GAP_NS {
        return Err(Counter::DropFenceLimit);
    }
    tick.fence_answered_ns.set(now);
    Ok(if obeyed { Counter::Fenced } else { Counter::FenceAcked })
}

/// Turns a fence, found good and obeyed, into its acknowledgement, in place.
#[inline(always)]
pub fn write_ack<W: Words>(frame: &mut W, conf: &PathConf) {
    let gated = conf.standing[1] >> 32 & frame::STANDING_GATED as u64 != 0;
    frame.set(word::DYNAMIC, frame::dynamic(Kind::FenceAck, 0, 0, 0));
    frame.set(words::AUTHOR, conf.standing[0]);
    frame.set(words::SAYS, if gated { GATED } else { 0 });
    let key = conf.fences[slot_of(frame)].mine;
    sign(frame, key, conf.key.destination, conf.key.source, conf.vlan as u64);
}

/// Returns the sum for the UDP checksum of an acknowledgement.
#[inline(always)]
pub fn ack_sum<W: Words>(frame: &W, conf: &PathConf) -> u64 {
    let mut sum = conf.slots[slot_of(frame)].echo_sum;
    // Of what is summed beforehand, the standing is not in this frame. One word after the other, which the compiler would
    // not do by itself: all of them at once would not fit onto the kernel's stack.
    let mut index = 0;
    while index < frame::STANDING_WORDS {
        sum = black_box(sum.wrapping_sub(checksum::of(conf.standing[index])));
        index += 1;
    }
    let mut index = word::PROBER_INCARNATION;
    while index < frame::WORDS {
        sum = black_box(checksum::add(sum, frame.get(index)));
        index += 1;
    }
    sum
}

#[cfg(test)]
mod tests;

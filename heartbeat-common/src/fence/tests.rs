//! A sender, a victim and what they make of fences; and whoever would pass for one of them.

extern crate std;

use super::*;
use crate::auth::address_words;
use crate::frame::{WORDS, identity, ids};
use crate::lease::{Bank, Refused, Vote, acting, bank};
use crate::maps::RouteKey;
use crate::path::{FenceKeys, SLOT0, SLOT1, Slot};
use crate::view;
use siphasher::sip128::{Hasher128, SipHasher24};
use std::hash::Hasher;
use std::vec::Vec;

type Frame = [u64; WORDS];

/// Incarnations of the sender and of the victim.
const SENDER: u64 = 7;
const VICTIM: u64 = 70;
const NOW: u64 = 5_000_000_000;
/// Order of the view that the victim holds as a member.
const HELD: u64 = 4;

struct Node {
    conf: PathConf,
    tick: Tick<Cell<u64>>,
    page: [Cell<u64>; lease::WORDS],
}

fn address(id: u16) -> AddressWords {
    let mut bytes = [0xfd; 16];
    bytes[14..].copy_from_slice(&id.to_be_bytes());
    address_words(bytes)
}

fn key(author: u16, slot: u64) -> Key {
    Key { k: [u64::from(author) << 8 | slot, 0x0102_0304_0506_0708] }
}

fn node(id: u16, peer: u16, incarnation: u64) -> Node {
    let fences = [0, 1].map(|slot| FenceKeys { theirs: key(peer, slot), mine: key(id, slot) });
    let standing = [incarnation, identity(1, 0), HELD, 5, 0, 6, 0];
    let theirs_ids = ids(3, peer, id);
    let slot = Slot {
        echo_sum: checksum::constant(true, address(peer), address(id), frame::head(0), 0xc1, theirs_ids, &standing),
        ..Slot::default()
    };
    let conf = PathConf {
        key: RouteKey { source: address(peer), destination: address(id), ifindex: 1, zero: 0 },
        cluster: 0xc1,
        theirs_ids,
        mine_ids: ids(3, id, peer),
        standing,
        slots: [slot; 2],
        vlan: 10,
        flags: SLOT0,
        grant_mark: 44,
        fences,
        ..PathConf::default()
    };
    let page = [const { Cell::new(0) }; lease::WORDS];
    lease::begin(&page, incarnation, [1, 2]);
    let mut bank = Bank {
        order: HELD,
        act_ns: u64::MAX / 4,
        own_mark: 44,
        own_weight: 1,
        total_weight: 2,
        member: true,
        ..Bank::default()
    };
    bank.votes[0] = Vote { weight: 1, expected: 9 };
    lease::install(&page, &bank);
    assert!(lease::grant(&page, 44));
    page[lease::word::IN_FORCE].set(HELD);
    lease::renew(&page, 0, 9, NOW, NOW);
    assert!(acting(&page, NOW).is_ok());
    Node { conf, tick: Tick::default(), page }
}

fn pair() -> (Node, Node) {
    (node(1, 2, SENDER), node(2, 1, VICTIM))
}

fn order(victim: u64, order: u64) -> Order {
    let name = view::Name { order: view::Order(order), digest: [11, 12, 13, 14] };
    Order { sender: SENDER, victim, view: name, nonce: 77, reason: Reason::Hung }
}

impl Node {
    fn fence(&self, order: &Order) -> Frame {
        self.sign(write(0, self.conf.cluster, self.conf.mine_ids, order))
    }

    fn sign(&self, mut frame: Frame) -> Frame {
        let slot = (frame[0] >> 40 & 1) as usize;
        let (own, peer) = (self.conf.key.destination, self.conf.key.source);
        sign(&mut frame, self.conf.fences[slot].mine, own, peer, u64::from(self.conf.vlan));
        frame
    }

    /// Takes a frame at `now`; returns what was counted, and the acknowledgement if there is one.
    fn take(&self, frame: &Frame, now: u64) -> (Counter, Option<Frame>) {
        assert!(is_fence(frame));
        let good = match authenticate(frame, &self.conf, &self.page) {
            Ok(good) => good,
            Err(counter) => return (counter, None),
        };
        match record(frame, &good, &self.conf, &self.tick, &self.page, now) {
            Ok(counter @ (Counter::Fenced | Counter::FenceAcked)) => {
                let mut ack = *frame;
                write_ack(&mut ack, &self.conf);
                let sum = ack_sum(&ack, &self.conf);
                if slot_of(frame) == 0 {
                    let zero = [0; frame::STANDING_WORDS];
                    let (own, peer) = (self.conf.key.destination, self.conf.key.source);
                    let full = checksum::constant(true, peer, own, ack[0], ack[1], ack[2], &zero);
                    let full = ack[3..].iter().fold(full, |sum, word| checksum::add(sum, *word));
                    assert_eq!(checksum::fold(sum), checksum::fold(full), "the sum is the acknowledgement's");
                }
                (counter, Some(ack))
            }
            Ok(counter) | Err(counter) => (counter, None),
        }
    }

    fn facts(&self) -> (Vec<u64>, std::string::String) {
        (self.page.iter().map(Cell::get).collect(), std::format!("{:?}", self.tick))
    }
}

#[test]
fn the_tag_is_siphash_of_128_bits_over_all_that_is_said() {
    let (a, _) = pair();
    let frame = a.fence(&order(VICTIM, 5));
    let Key { k: [low, high] } = key(1, 0);
    let mut hash = SipHasher24::new_with_keys(low, high);
    let (own, peer) = (address(1), address(2));
    for word in frame[..16].iter().chain(&own).chain(&peer).chain(&[10]) {
        hash.write(&word.to_le_bytes());
    }
    let tag = hash.finish128();
    assert_eq!([frame[word::TAG], frame[word::TAG_HIGH]], [tag.h1, tag.h2]);
}

#[test]
fn a_victim_obeys_before_it_answers() {
    let (a, b) = pair();
    let (counter, ack) = b.take(&a.fence(&order(VICTIM, 5)), NOW);
    assert_eq!(counter, Counter::Fenced);
    assert_eq!(acting(&b.page, NOW), Err(Refused::Fenced));
    assert!(!lease::grants(&b.page, 44, VICTIM) && b.page[lease::word::GRANTING].get() == 0);
    assert!(!lease::grant(&b.page, 44), "nor can userspace undo it");
    let ack = ack.unwrap();
    assert_eq!(a.take(&ack, NOW + 9), (Counter::FenceTakenAck, None));
    let tick = &a.tick;
    assert_eq!((tick.fence_acked.get(), tick.fence_acked_by.get()), (VICTIM, VICTIM));
    assert_eq!((tick.fence_acked_ns.get(), tick.fence_acked_flags.get()), (NOW + 9, 0));
    // Lost and asked again, it is acknowledged again, and no sooner than it may.
    for after in [0, ACK_GAP_NS - 1] {
        assert_eq!(b.take(&a.fence(&order(VICTIM, 5)), NOW + after).0, Counter::DropFenceLimit);
    }
    assert_eq!(b.take(&a.fence(&order(VICTIM, 5)), NOW + ACK_GAP_NS).0, Counter::Fenced);
    // An acknowledgement that was recorded tells nothing newer.
    a.take(&ack, NOW + 10);
    assert_eq!(a.tick.fence_acked_ns.get(), NOW + 9);
}

#[test]
fn an_order_is_obeyed_though_it_may_not_be_answered_yet() {
    let (a, b) = pair();
    b.tick.fence_answered_ns.set(NOW);
    assert_eq!(b.take(&a.fence(&order(VICTIM, 5)), NOW + 1), (Counter::DropFenceLimit, None));
    assert_eq!(acting(&b.page, NOW), Err(Refused::Fenced));
}

#[test]
fn a_late_fence_spares_the_reborn() {
    let (a, b) = pair();
    let before = b.facts().0;
    let (counter, ack) = b.take(&a.fence(&order(VICTIM - 1, 5)), NOW);
    assert_eq!(counter, Counter::FenceAcked);
    assert_eq!(b.facts().0, before, "nothing but the answer");
    assert!(acting(&b.page, NOW).is_ok());
    a.take(&ack.unwrap(), NOW);
    assert_eq!((a.tick.fence_acked.get(), a.tick.fence_acked_by.get()), (VICTIM - 1, VICTIM));
}

#[test]
fn a_fence_outlives_no_incarnation() {
    let (a, b) = pair();
    b.take(&a.fence(&order(VICTIM, 5)), NOW);
    let fenced = |incarnation| lease::fenced(&b.page, incarnation);
    assert!(fenced(VICTIM) && fenced(VICTIM - 1) && !fenced(VICTIM + 1));
    lease::begin(&b.page, VICTIM + 1, [1, 2]);
    let alone = Bank { order: 6, own_mark: 66, own_weight: 1, total_weight: 1, member: true, ..Bank::default() };
    lease::install(&b.page, &alone);
    assert!(lease::grant(&b.page, 66));
    b.page[lease::word::IN_FORCE].set(6);
    assert!(acting(&b.page, NOW).is_ok());
}

#[test]
fn a_fence_of_an_older_view_is_dropped() {
    for (name, obeyed) in [(HELD - 1, false), (HELD, false), (HELD + 1, true), (1 << 48 | 1, true)] {
        let (a, b) = pair();
        let before = b.facts();
        let counter = b.take(&a.fence(&order(VICTIM, name)), NOW).0;
        assert_eq!(counter, if obeyed { Counter::Fenced } else { Counter::DropFenceView }, "view {name:x}");
        assert_eq!(b.facts() == before, !obeyed);
        assert_eq!(acting(&b.page, NOW).is_ok(), !obeyed);
    }
    // Whoever is no member has no view to hold against it, but for one that a forced start has made.
    let (a, b) = pair();
    b.page[lease::active_bank(&b.page) + bank::MEMBER].set(0);
    assert_eq!(b.take(&a.fence(&order(VICTIM, HELD)), NOW).0, Counter::Fenced);
}

#[test]
fn a_fence_of_the_side_that_lost_stops_nobody_who_goes_on_by_force() {
    let forced = |force: u16| view::Order::new(force, HELD).unwrap().0;
    for (held, ordered, member, obeyed) in [
        (forced(1), forced(0) + 9, true, false),
        (forced(1), forced(0) + 9, false, false),
        (forced(2), forced(1), false, false),
        (forced(1), forced(1), false, true),
        (forced(1), forced(2) - 2, false, true),
    ] {
        let (a, b) = pair();
        let bank = lease::active_bank(&b.page);
        b.page[bank + bank::ORDER].set(held);
        b.page[bank + bank::MEMBER].set(u64::from(member));
        let before = b.facts();
        let counter = b.take(&a.fence(&order(VICTIM, ordered)), NOW).0;
        assert_eq!(counter, if obeyed { Counter::Fenced } else { Counter::DropFenceView }, "{held:x} {ordered:x}");
        assert_eq!(b.facts() == before, !obeyed);
    }
}

#[test]
fn who_never_was_and_who_has_no_page_is_not_fenced() {
    let (a, b) = pair();
    let before = b.facts();
    assert_eq!(b.take(&a.fence(&order(VICTIM + 1, 5)), NOW).0, Counter::DropFenceIncarnation);
    assert_eq!(b.facts(), before);
    let spoiled = [(lease::word::INCARNATION, VICTIM - 1), (lease::word::INCARNATION, 0), (lease::word::MAGIC, 1)];
    for (index, value) in spoiled {
        let (a, b) = pair();
        b.page[index].set(value);
        assert_eq!(b.take(&a.fence(&order(VICTIM, 5)), NOW).0, Counter::DropFenceIncarnation);
        assert_eq!(b.take(&a.fence(&order(VICTIM - 1, 5)), NOW).0, Counter::DropFenceIncarnation);
    }
}

#[test]
fn every_bit_is_under_the_tag() {
    let (a, b) = pair();
    let fence = a.fence(&order(VICTIM, 5));
    let ack = b.take(&fence, NOW).1.unwrap();
    let (a, b) = pair();
    for (frame, reader) in [(fence, &b), (ack, &a)] {
        let before = reader.facts();
        for bit in 0..WORDS * 64 {
            let mut frame = frame;
            frame[bit / 64] ^= 1 << (bit % 64);
            // The head and the cluster id are judged before, with those of all frames.
            if bit >= 128 && is_fence(&frame) {
                assert!(authenticate(&frame, &reader.conf, &reader.page).is_err(), "bit {bit}");
            }
        }
        assert_eq!(reader.facts(), before);
        assert_ne!(reader.take(&frame, NOW).0, Counter::DropFenceTag);
    }
}

#[test]
fn what_the_frame_does_not_carry_is_under_the_tag() {
    let (a, b) = pair();
    let fence = a.fence(&order(VICTIM, 5));
    let strange: [fn(&mut PathConf); 6] = [
        |conf| conf.key.source[1] ^= 1,
        |conf| conf.key.destination[0] ^= 1,
        |conf| std::mem::swap(&mut conf.key.source, &mut conf.key.destination),
        |conf| conf.vlan = 11,
        |conf| conf.fences[0].theirs.k[1] ^= 1,
        |conf| conf.fences[0].theirs = conf.fences[0].mine,
    ];
    for strange in strange {
        let mut conf = b.conf;
        strange(&mut conf);
        assert_eq!(authenticate(&fence, &conf, &b.page).map(|_| ()), Err(Counter::DropFenceTag));
    }
}

#[test]
fn nothing_comes_back_to_its_author_and_no_acknowledgement_is_answered() {
    let (a, b) = pair();
    let fence = a.fence(&order(VICTIM, 5));
    let (_, ack) = b.take(&fence, NOW);
    let ack = ack.unwrap();
    assert_eq!(a.take(&fence, NOW), (Counter::DropIds, None), "a fence reflected");
    assert_eq!(b.take(&ack, NOW), (Counter::DropIds, None), "an acknowledgement reflected");
    assert_eq!(a.take(&ack, NOW), (Counter::FenceTakenAck, None));
    // Relabelled as the other, with all that is not secret made to look right.
    let mut relabelled = ack;
    relabelled[word::DYNAMIC] = frame::dynamic(Kind::Fence, 0, 0, 0);
    relabelled[word::IDS] = a.conf.theirs_ids;
    (relabelled[words::VICTIM], relabelled[words::SENDER], relabelled[words::AUTHOR]) = (SENDER, VICTIM, VICTIM);
    assert_eq!(a.take(&relabelled, NOW), (Counter::DropFenceTag, None));
}

#[test]
fn an_acknowledgement_is_of_this_senders_fence_and_of_nobody_older() {
    let (a, b) = pair();
    let (_, ack) = b.take(&a.fence(&order(VICTIM, 5)), NOW);
    let ack = ack.unwrap();
    let reborn = node(1, 2, SENDER + 1);
    assert_eq!(reborn.take(&ack, NOW), (Counter::DropFenceIncarnation, None));
    let mut older = ack;
    older[words::AUTHOR] = VICTIM - 1;
    assert_eq!(a.take(&b.sign(older), NOW), (Counter::DropFenceIncarnation, None));
    assert_eq!(a.tick.fence_acked.get(), 0);
}

#[test]
fn reserved_words_are_zero() {
    let (a, b) = pair();
    let fence = a.fence(&order(VICTIM, 5));
    let spoiled: [fn(&mut Frame); 6] = [
        |frame| frame[word::STAMP] = 1,
        |frame| frame[word::IDENTITY] = 1,
        |frame| frame[words::SAYS] = 1,
        |frame| frame[word::DYNAMIC] |= 1,
        |frame| frame[words::SENDER] = 0,
        |frame| frame[words::VICTIM] = 0,
    ];
    for spoil in spoiled {
        let mut frame = fence;
        spoil(&mut frame);
        assert_eq!(b.take(&a.sign(frame), NOW).0, Counter::DropReserved);
    }
    assert!(acting(&b.page, NOW).is_ok());
}

/// Its head has a reserved field as well, and a frame that was refused for that is no fence, whoever signed it.
#[test]
fn the_reserved_field_of_the_head_is_zero_too() {
    let (a, _) = pair();
    for bit in 48..64 {
        let mut frame = a.fence(&order(VICTIM, 5));
        frame[word::HEAD] ^= 1 << bit;
        assert!(!is_fence(&a.sign(frame)), "bit {bit}");
    }
}

#[test]
fn slots_have_keys_of_their_own() {
    let (a, mut b) = pair();
    let frame = a.sign(write(1, a.conf.cluster, a.conf.mine_ids, &order(VICTIM, 5)));
    assert_eq!(b.take(&frame, NOW).0, Counter::DropKeySlot);
    b.conf.flags |= SLOT1;
    let mut other = frame;
    sign(&mut other, a.conf.fences[0].mine, address(1), address(2), 10);
    assert_eq!(b.take(&other, NOW).0, Counter::DropFenceTag);
    let (counter, ack) = b.take(&frame, NOW);
    assert_eq!(counter, Counter::Fenced);
    assert_eq!(a.take(&ack.unwrap(), NOW).0, Counter::DropKeySlot, "the answer is in the slot of the question");
}

#[test]
fn a_gated_victim_says_so() {
    let (a, mut b) = pair();
    b.conf.standing[1] = identity(1, frame::STANDING_GATED);
    b.conf.slots[0].echo_sum =
        b.conf.slots[0].echo_sum + checksum::of(b.conf.standing[1]) - checksum::of(identity(1, 0));
    let (_, ack) = b.take(&a.fence(&order(VICTIM, 5)), NOW);
    a.take(&ack.unwrap(), NOW);
    assert_eq!(a.tick.fence_acked_flags.get(), GATED);
}

#[test]
fn reasons_are_read_back() {
    use Reason as R;
    for reason in [R::Silent, R::Hung, R::Control, R::Operator, R::Restarted, R::Unconnected] {
        assert_eq!(Reason::of(reason as u64), Some(reason));
    }
    assert_eq!((Reason::of(0), Reason::of(7)), (None, None));
}

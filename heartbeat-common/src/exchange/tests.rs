//! Two nodes, A and B, that probe and answer each other in memory; and whoever would pass for one of them.

mod grants;

use super::*;
use crate::auth::{
    AddressWords, address_words, exchange_base, standing_digest, standing_of, tag, with_incarnations, with_probe,
};
use crate::frame::{WORDS, dynamic, head, ids, to_bytes};
use crate::siphash::Key;
use crate::{checksum, lease, path};
use std::string::String;
use std::{format, vec};

type Frame = [u64; WORDS];

const DELAY: u64 = 100_000_000;
/// A's and B's incarnations.
const A: u64 = 7;
const B: u64 = 70;

/// One end of a path: what its kernel knows, and what it needs to probe by itself.
struct Node {
    conf: PathConf,
    tick: Tick<Cell<u64>>,
    page: [Cell<u64>; lease::WORDS],
}

/// Who the two ends are, and under which keys they speak.
#[derive(Clone, Copy)]
struct Who {
    cluster: u64,
    network: u16,
    id: u16,
    peer: u16,
    key: u64,
}

const NODE_A: Who = Who { cluster: 0xc1, network: 3, id: 1, peer: 2, key: 0 };

fn address(id: u16) -> AddressWords {
    let mut bytes = [0; 16];
    bytes[10..12].fill(0xff);
    bytes[12..].copy_from_slice(&[10, 0, 3, id as u8]);
    address_words(bytes)
}

/// The key that `from` and `to` share for that direction and purpose.
fn key(who: Who, from: u16, to: u16, purpose: u64, slot: u8) -> Key {
    let low = u64::from(from) << 48 | u64::from(to) << 32 | u64::from(slot) << 8 | purpose;
    Key { k: [low ^ who.key, 0x1122_3344_5566_7788] }
}

impl Node {
    fn new(who: Who, incarnation: u64) -> Self {
        let theirs_ids = ids(who.network, who.peer, who.id);
        let mine_ids = ids(who.network, who.id, who.peer);
        let standing = [incarnation, frame::identity(1, 0), 5, 0xd1, 0x91, 0x5e, 0];
        let slot = |slot| {
            let base = |prober, responder, ids| {
                let key = key(who, prober, responder, 0, slot);
                exchange_base(key, head(slot), who.cluster, ids, address(prober), address(responder), 0)
            };
            let own_standing_key = key(who, who.id, who.peer, 1, slot);
            let (own, peer) = (address(who.id), address(who.peer));
            Slot {
                theirs: base(who.peer, who.id, theirs_ids),
                mine: base(who.id, who.peer, mine_ids),
                standing_key: key(who, who.peer, who.id, 1, slot),
                own_digest: standing_digest(own_standing_key, &standing),
                own_standing_key,
                echo_sum: checksum::constant(false, peer, own, head(slot), who.cluster, theirs_ids, &standing),
            }
        };
        let conf = PathConf {
            cluster: who.cluster,
            theirs_ids,
            mine_ids,
            standing,
            answer_within_ns: DELAY,
            slots: [slot(0), slot(1)],
            min_hop_limit: 255,
            vlan: 0,
            flags: path::SLOT0,
            ..PathConf::default()
        };
        Self { conf, tick: Tick::default(), page: [const { Cell::new(0) }; lease::WORDS] }
    }

    /// A probe of this node's.
    fn probe(&self, names: u64, sequence: u64, sent: u64) -> Frame {
        let mut frame = [0; WORDS];
        frame[word::HEAD] = head(0);
        frame[word::CLUSTER] = self.conf.cluster;
        frame[word::IDS] = self.conf.mine_ids;
        frame[word::PROBER_INCARNATION] = self.conf.standing[0];
        frame[word::RESPONDER_INCARNATION] = names;
        frame[word::SEQUENCE] = sequence;
        frame[word::SENT] = sent;
        frame[word::STAMP] = self.tick.peer_stamp.get();
        frame[word::DYNAMIC] = dynamic(Kind::Probe, 2, 0, frame::FLAG_MEMBER);
        frame[word::STANDING..word::TAG].copy_from_slice(&self.conf.standing);
        self.sign(frame)
    }

    /// Tags a probe of this node's, whatever it says.
    fn sign(&self, mut frame: Frame) -> Frame {
        let slot = slot_of(&self.conf, frame[word::HEAD] >> 40 & 1);
        let state = with_incarnations(slot.mine, frame[3], frame[4]);
        let digest = standing_digest(slot.own_standing_key, &standing_of(&frame));
        let state = with_probe(state, frame[5], frame[6]);
        frame[word::TAG] = tag(state, frame[word::STAMP], digest, frame[word::DYNAMIC]);
        frame
    }

    fn take(&self, frame: &Frame, now: u64) -> Result<Outcome, Counter> {
        let good = authenticate(frame, &self.conf, &self.tick)?;
        record(frame, &good, &self.conf, &self.tick, &self.page, now)
    }

    /// Takes a probe at `now` and returns how it was answered, and the echo.
    fn answer(&self, frame: &Frame, now: u64) -> Result<(Counter, Frame), Counter> {
        let good = authenticate(frame, &self.conf, &self.tick)?;
        let Outcome::Answer(answer) = record(frame, &good, &self.conf, &self.tick, &self.page, now)? else {
            panic!("an echo was to be answered");
        };
        let mut echo = *frame;
        let sum = write_echo(&mut echo, &good, &self.conf, &self.page, answer, now, 3, 4, frame::FLAG_QUORATE);
        assert_eq!(checksum::fold(sum), checksum::fold(full_sum(&self.conf, &echo)), "the sum is the echo's");
        Ok((answer.counter, echo))
    }

    fn facts(&self) -> String {
        format!("{:?}", self.tick)
    }
}

fn full_sum(conf: &PathConf, echo: &Frame) -> u64 {
    let id = |shift| (conf.theirs_ids >> shift) as u16;
    let standing = echo[9..16].try_into().unwrap();
    let start = checksum::constant(false, address(id(16)), address(id(32)), echo[0], echo[1], echo[2], standing);
    echo[3..9].iter().chain(&echo[16..]).fold(start, |sum, word| checksum::add(sum, *word))
}

fn pair() -> (Node, Node) {
    (Node::new(NODE_A, A), Node::new(Who { id: 2, peer: 1, ..NODE_A }, B))
}

/// A pair that has exchanged one probe each way.
fn acquainted() -> (Node, Node) {
    let (a, b) = pair();
    for (from, to, names) in [(&a, &b, B), (&b, &a, A)] {
        let (_, echo) = to.answer(&from.probe(names, 2, 1000), 1500).unwrap();
        assert_eq!(from.take(&echo, 2000), Ok(Outcome::Taken(Counter::EchoTimely, 1000)));
    }
    (a, b)
}

fn hex(frame: &Frame) -> String {
    to_bytes(frame).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A's probe, as it lies in the datagram; the tag was computed apart from this crate.
const PROBE: &str = "\
    4842543101000000c1000000000000000300010002000000070000000000000046000000000000000807060504030201\
    444433332222111100000000000000000200000000004000070000000000000001000000000001010500000000000000\
    d10000000000000091000000000000005e00000000000000000000000000000014dc9f4df929dd5b0000000000000000";
/// B's echo to it, likewise.
const ECHO: &str = "\
    4842543101000000c1000000000000000300010002000000070000000000000046000000000000000807060504030201\
    444433332222111188887777666655550300000400008100460000000000000001000000000001010500000000000000\
    d10000000000000091000000000000005e000000000000000000000000000000294e1d8f681fadd70000000000000000";

#[test]
fn the_wire_does_not_change() {
    let (a, b) = pair();
    let probe = a.probe(B, 0x0102_0304_0506_0708, 0x1111_2222_3333_4444);
    assert_eq!(hex(&probe), PROBE);
    let (_, echo) = b.answer(&probe, 0x5555_6666_7777_8888).unwrap();
    assert_eq!(hex(&echo), ECHO);
}

#[test]
fn an_exchange_leaves_its_facts() {
    let (a, b) = acquainted();
    for node in [&a, &b] {
        let tick = &node.tick;
        assert_eq!(
            (tick.heard_ns.get(), tick.probe_ns.get(), tick.answered_ns.get()),
            (2000.max(tick.probe_ns.get()), 1500, 1500)
        );
        assert_eq!((tick.echo_ns.get(), tick.round_trip_ns.get(), tick.peer_stamp.get()), (2000, 1000, 1500));
        assert_eq!((tick.probes.get(), tick.answers.get(), tick.echoes.get(), tick.late_echoes.get()), (1, 1, 1, 0));
    }
    assert_eq!((a.tick.peer_incarnation.get(), b.tick.peer_incarnation.get()), (B, A));
}

#[test]
fn every_bit_is_under_the_tag() {
    // With nothing cached, and with everything cached.
    for (a, b) in [pair(), acquainted()] {
        let probe = a.probe(B, 10, 5000);
        let (_, echo) = Node::new(Who { id: 2, peer: 1, ..NODE_A }, B).answer(&probe, 6000).unwrap();
        for (frame, reader) in [(probe, &b), (echo, &a)] {
            let before = reader.facts();
            for bit in 0..WORDS * 64 {
                let mut frame = frame;
                frame[bit / 64] ^= 1 << (bit % 64);
                assert!(reader.take(&frame, 7000).is_err(), "bit {bit}");
            }
            assert_eq!(reader.facts(), before, "a refused frame changes nothing");
            reader.take(&frame, 7000).unwrap();
        }
    }
}

#[test]
fn nothing_comes_back_to_its_author() {
    let (a, b) = acquainted();
    let probe = a.probe(B, 10, 5000);
    let (_, echo) = b.answer(&probe, 6000).unwrap();
    assert_eq!(a.take(&probe, 7000), Err(Counter::DropIds), "a probe reflected");
    assert_eq!(b.take(&echo, 7000), Err(Counter::DropIds), "an echo reflected");
    // Relabelled, with everything that is not secret made to look right.
    let relabel = |mut frame: Frame, kind: Kind, like: &Frame| {
        frame[word::DYNAMIC] = frame[word::DYNAMIC] & !(3 << 48) | (kind as u64) << 48;
        frame[word::IDS..word::SEQUENCE].copy_from_slice(&like[word::IDS..word::SEQUENCE]);
        frame[word::STANDING] = like[word::STANDING];
        frame[word::SEQUENCE] = 100;
        frame
    };
    let (_, other_echo) = a.answer(&b.probe(A, 12, 5000), 6000).unwrap();
    assert_eq!(a.take(&relabel(probe, Kind::Echo, &echo), 7000), Err(Counter::DropTag));
    assert_eq!(b.take(&relabel(probe, Kind::Echo, &other_echo), 7000), Err(Counter::DropTag));
    assert_eq!(a.take(&relabel(echo, Kind::Probe, &b.probe(A, 14, 1)), 7000), Err(Counter::DropTag));
    assert_eq!(b.take(&relabel(echo, Kind::Probe, &probe), 7000), Err(Counter::DropTag));
}

#[test]
fn a_fence_is_taken_for_nothing_else() {
    let (a, b) = acquainted();
    for kind in [2, 3] {
        let mut frame = a.probe(B, 10, 1);
        frame[word::DYNAMIC] |= kind << 48;
        assert_eq!(b.take(&a.sign(frame), 1), Err(Counter::DropKind));
        frame[word::TAG_HIGH] = 1;
        assert_eq!(b.take(&a.sign(frame), 1), Err(Counter::DropReserved));
    }
}

#[test]
fn strangers_are_refused() {
    let (a, b) = acquainted();
    let strangers = [
        (Who { cluster: 0xc2, ..NODE_A }, Counter::DropCluster),
        (Who { network: 4, ..NODE_A }, Counter::DropIds),
        (Who { id: 3, ..NODE_A }, Counter::DropIds),
        (Who { peer: 3, ..NODE_A }, Counter::DropIds),
        (Who { key: 1 << 20, ..NODE_A }, Counter::DropTag),
    ];
    for (who, counter) in strangers {
        let stranger = Node::new(who, A);
        assert_eq!(b.take(&stranger.probe(B, 10, 1), 1), Err(counter));
        // With the constants of the right path, under its own keys.
        let mut frame = a.probe(B, 10, 1);
        frame[word::TAG] = stranger.probe(B, 10, 1)[word::TAG];
        assert_eq!(b.take(&frame, 1), Err(Counter::DropTag));
    }
}

#[test]
fn slots() {
    let (a, mut b) = acquainted();
    let mut frame = a.probe(B, 10, 1);
    frame[word::HEAD] = head(1);
    assert_eq!(b.take(&a.sign(frame), 1), Err(Counter::DropKeySlot), "an empty slot");
    b.conf.flags |= path::SLOT1;
    assert_eq!(b.take(&frame, 1), Err(Counter::DropTag), "the other slot's tag");
    b.take(&a.sign(frame), 1).unwrap();
    frame[word::HEAD] = head(2);
    assert_eq!(b.take(&frame, 1), Err(Counter::DropKeySlot));
    let old = a.probe(B, 12, 1);
    b.conf.flags = path::SLOT1;
    assert_eq!(b.take(&old, 1), Err(Counter::DropKeySlot), "emptied");
}

#[test]
fn a_replaced_key_is_not_found_in_the_cache() {
    let (a, mut b) = acquainted();
    let other = Node::new(Who { id: 2, peer: 1, key: 99, ..NODE_A }, B);
    b.conf.slots[0] = other.conf.slots[0];
    assert_eq!(b.take(&a.probe(B, 10, 1), 1), Err(Counter::DropTag));
    b.take(&Node::new(Who { key: 99, ..NODE_A }, A).probe(B, 12, 1), 1).unwrap();
}

#[test]
fn heads() {
    let (a, b) = acquainted();
    let cases = [
        (0, Counter::DropMagic),
        (31, Counter::DropMagic),
        (32, Counter::DropVersion),
        (41, Counter::DropKeySlot),
        (47, Counter::DropKeySlot),
        (48, Counter::DropReserved),
        (63, Counter::DropReserved),
    ];
    for (bit, counter) in cases {
        let mut frame = a.probe(B, 10, 1);
        frame[word::HEAD] ^= 1 << bit;
        assert_eq!(b.take(&frame, 1), Err(counter), "bit {bit}");
    }
}

#[test]
fn a_handshake_is_answered_once_and_leaves_no_tick() {
    let (a, b) = pair();
    for names in [0, B - 1, B + 1] {
        let sequence = 10 + names;
        let probe = a.probe(names, sequence, 1000);
        let (counter, echo) = b.answer(&probe, 1500).unwrap();
        assert_eq!(counter, Counter::AnsweredHandshake);
        assert_eq!(echo[word::STANDING], B, "the echo tells who answers");
        assert_eq!(b.take(&probe, 1600), Err(Counter::DropReplay));
        assert_eq!((b.tick.heard_ns.get(), b.tick.peer_incarnation.get(), b.tick.probes.get()), (0, 0, 0));
        // It names A's incarnation, so it is life to A.
        a.take(&echo, 1700).unwrap();
        assert_eq!((a.tick.peer_incarnation.get(), a.tick.heard_ns.get()), (B, 1700));
    }
    // A new incarnation begins its handshake anew; an older one cannot.
    let newer = Node::new(NODE_A, A + 1);
    assert_eq!(b.answer(&newer.probe(0, 1, 1), 2000).unwrap().0, Counter::AnsweredHandshake);
    assert_eq!(b.take(&a.probe(0, 1000, 1), 2000), Err(Counter::DropReplay));
    assert_eq!(b.take(&newer.probe(B, 0, 1), 2000), Err(Counter::DropReplay), "sequence 0");
    assert_eq!(b.take(&newer.probe(0, 0, 1), 2000), Err(Counter::DropReplay), "sequence 0");
}

#[test]
fn an_old_incarnation_is_told_the_newest_at_a_limited_rate() {
    let (a, b) = acquainted();
    let newer = Node::new(NODE_A, A + 5);
    assert_eq!(b.answer(&newer.probe(B, 2, 1), 1_000_000).unwrap().0, Counter::Answered);
    let heard = b.tick.heard_ns.get();
    let at = 2_000_000;
    let (counter, echo) = b.answer(&a.probe(B, 10, 1), at).unwrap();
    assert_eq!(counter, Counter::AnsweredStale);
    assert_eq!(echo[word::NOTICE], A + 5);
    assert_ne!(frame::flags(echo[word::DYNAMIC]) & frame::FLAG_STALE, 0);
    assert_eq!(b.tick.heard_ns.get(), heard, "it is no life");
    for (after, answered) in [(0, false), (STALE_GAP_NS - 1, false), (STALE_GAP_NS, true), (STALE_GAP_NS + 1, false)] {
        assert_eq!(b.answer(&a.probe(B, 10, 1), at + after).is_ok(), answered, "{after} ns after");
    }
    // The old one learns it; the newer one is not bothered by what a recorder makes of it.
    a.take(&echo, 2_000_001).unwrap();
    assert_eq!(a.tick.stale_newest.get(), A + 5);
    assert_eq!(newer.take(&echo, 2_000_001), Err(Counter::DropIncarnation));
}

#[test]
fn the_newer_incarnation_wins() {
    let (a, b) = acquainted();
    for sequence in [4, 6, 8] {
        a.answer(&b.probe(A, sequence, 1), 3000).unwrap();
    }
    let old = b.answer(&a.probe(B, 20, 3000), 3100).unwrap().1;
    let reborn = Node::new(Who { id: 2, peer: 1, ..NODE_A }, B + 1);
    assert_eq!(a.answer(&reborn.probe(A, 2, 1), 3200).unwrap().0, Counter::Answered, "its window is new");
    assert_eq!((a.tick.peer_incarnation.get(), a.tick.probe_top.get(), a.tick.peer_stamp.get()), (B + 1, 2, 0));
    assert_eq!(a.tick.standing[0].get(), B + 1);
    assert_eq!(a.take(&old, 3300), Err(Counter::DropIncarnation), "the older one's echo");
    // A probe whose standing is not its prober's is nobody's.
    let mut frame = reborn.probe(A, 4, 1);
    frame[word::STANDING] = B;
    assert_eq!(a.take(&reborn.sign(frame), 1), Err(Counter::DropIncarnation));
    // An echo to what this node was before.
    let before = Node::new(NODE_A, A - 1);
    let (_, echo) = Node::new(Who { id: 2, peer: 1, ..NODE_A }, B).answer(&before.probe(B, 30, 1), 2).unwrap();
    assert_eq!(a.take(&echo, 3300), Err(Counter::DropIncarnation));
}

#[test]
fn an_echo_is_late_after_one_delay() {
    for (round_trip, counter) in [
        (0, Counter::EchoTimely),
        (DELAY, Counter::EchoTimely),
        (DELAY + 1, Counter::EchoLate),
        (1 << 40, Counter::EchoLate),
    ] {
        let (a, b) = acquainted();
        let before = a.facts();
        let (heard, told) = (a.tick.heard_ns.get(), a.tick.peer_dynamic_ns.get());
        let (_, echo) = b.answer(&a.probe(B, 10, 5000), 6000).unwrap();
        assert_eq!(a.take(&echo, 5000 + round_trip), Ok(Outcome::Taken(counter, round_trip)));
        assert_eq!(a.tick.round_trip_ns.get(), round_trip);
        assert_ne!(a.facts(), before);
        if counter == Counter::EchoLate {
            assert_eq!(
                (a.tick.heard_ns.get(), a.tick.echo_ns.get(), a.tick.peer_dynamic_ns.get()),
                (heard, 2000, told)
            );
            assert_eq!(a.tick.peer_stamp.get(), 6000, "it still dates what the peer had received");
        }
        assert_eq!(a.take(&echo, 5000 + round_trip), Err(Counter::DropReplay));
    }
}

#[test]
fn the_kernels_departure_counts_before_the_frames_word() {
    let (a, b) = acquainted();
    a.tick.depart(10, 8_000);
    let (_, echo) = b.answer(&a.probe(B, 10, 1), 8_500).unwrap();
    assert_eq!(a.take(&echo, 9_000), Ok(Outcome::Taken(Counter::EchoTimely, 1_000)));
    // Of another probe in the same place: then the frame's.
    a.tick.depart(18, 20_000);
    let (_, echo) = b.answer(&a.probe(B, 26, 15_000), 16_000).unwrap();
    assert_eq!(a.take(&echo, 21_000), Ok(Outcome::Taken(Counter::EchoTimely, 6_000)));
    assert_eq!(a.tick.departures.get(), 2);
}

#[test]
fn returned_stamps_prove_that_echoes_arrive() {
    let (a, b) = acquainted();
    assert_eq!(b.tick.returned_ns.get(), 0);
    b.answer(&a.probe(B, 10, 5000), 6000).unwrap();
    assert_eq!(b.tick.returned_ns.get(), 1500, "B's own stamp, brought back by A");
    let mut frame = a.probe(B, 12, 5000);
    for (stamp, returned) in [(1400, 1500), (6999, 6999), (7001, 6999), (u64::MAX, 6999)] {
        frame[word::SEQUENCE] += 2;
        frame[word::STAMP] = stamp;
        b.take(&a.sign(frame), 7000).unwrap();
        assert_eq!(b.tick.returned_ns.get(), returned, "stamp {stamp}");
    }
}

#[test]
fn an_overtaken_frame_is_life_but_no_news() {
    let (mut a, b) = acquainted();
    let old = a.probe(B, 10, 1);
    a.conf.standing[4] += 1;
    let mut new = a.probe(B, 12, 1);
    new[word::DYNAMIC] = dynamic(Kind::Probe, 9, 0, frame::FLAG_LEAVING);
    let new = a.sign(new);
    b.take(&new, 3000).unwrap();
    b.take(&old, 4000).unwrap();
    assert_eq!((b.tick.peer_dynamic.get(), b.tick.peer_dynamic_ns.get()), (new[word::DYNAMIC], 3000));
    assert_eq!(b.tick.standing[4].get(), a.conf.standing[4]);
    assert_eq!((b.tick.heard_ns.get(), b.tick.probes.get()), (4000, 3));
}

#[test]
fn what_changed_since_authentication_is_judged_again() {
    let (a, b) = acquainted();
    let probe = a.probe(B, 10, 1);
    let (_, echo) = b.answer(&probe, 5000).unwrap();
    // Two CPUs find the same frame good; one is recorded.
    let next = a.probe(B, 12, 1);
    let good = authenticate(&next, &b.conf, &b.tick).unwrap();
    record(&next, &good, &b.conf, &b.tick, &b.page, 5001).unwrap();
    let facts = b.facts();
    assert_eq!(record(&next, &good, &b.conf, &b.tick, &b.page, 5002), Err(Counter::DropReplay));
    assert_eq!(b.facts(), facts);
    let good = authenticate(&echo, &a.conf, &a.tick).unwrap();
    record(&echo, &good, &a.conf, &a.tick, &a.page, 5003).unwrap();
    let facts = a.facts();
    assert_eq!(record(&echo, &good, &a.conf, &a.tick, &a.page, 5004), Err(Counter::DropReplay));
    assert_eq!(a.facts(), facts);
    // Or a newer incarnation came in between.
    let (_, echo) = b.answer(&a.probe(B, 14, 1), 5000).unwrap();
    let good = authenticate(&echo, &a.conf, &a.tick).unwrap();
    a.answer(&Node::new(Who { id: 2, peer: 1, ..NODE_A }, B + 1).probe(A, 2, 1), 5005).unwrap();
    assert_eq!(record(&echo, &good, &a.conf, &a.tick, &a.page, 5006), Err(Counter::DropIncarnation));
}

#[test]
fn a_cache_torn_by_another_cpu_makes_no_difference() {
    let (a, b) = acquainted();
    let damaged = vec![&b.tick.theirs.lanes[2], &b.tick.standing_digest, &b.tick.theirs.base, &b.tick.standing_mark];
    for (cell, sequence) in damaged.into_iter().zip((10..).step_by(2)) {
        cell.set(cell.get() ^ 1);
        b.take(&a.probe(B, sequence, 1), 1).unwrap();
    }
}

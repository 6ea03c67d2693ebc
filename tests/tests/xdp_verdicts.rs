//! Each way a frame can end, one by one, through BPF_PROG_TEST_RUN and beside the reference. Nothing is attached.

use heartbeat_common::counter::Counter;
use heartbeat_common::frame;
use heartbeat_common::maps::{CONFS_MAX, Route};
use heartbeat_tests::reference::parse::{Parsed, parse};
use heartbeat_tests::reference::{LEN, Settings, Verdict, answer};
use heartbeat_tests::xdp::checked::Checked;
use heartbeat_tests::xdp::random::Random;
use heartbeat_tests::xdp::rig::Action;
use heartbeat_tests::xdp::{Frame, Heartbeat, LOOPBACK, Rig, may_run, now, world};

/// Own incarnation on every path.
const OWN: u64 = 7;
/// The peer's incarnation.
const PEER: u64 = 70;
/// IPv4, IPv6, IPv4 in VLAN 10, IPv6 in VLAN 20.
const PATHS: usize = 4;

struct Bench {
    both: Checked,
    random: Random,
    author: [u64; 7],
    sequence: u64,
}

impl Bench {
    fn new(test: &str) -> Option<Self> {
        if !may_run(test) {
            return None;
        }
        let mut random = Random::new(1);
        let mut settings: Vec<Settings> = (0..PATHS as u16).map(|index| world::settings(&mut random, index)).collect();
        settings[2].vlan = 10;
        settings[3].vlan = 20;
        let author = world::standing(&mut random, PEER);
        let both = Checked::of(Rig::new().expect("the program loads"), settings).expect("the maps are filled");
        Some(Self { both, random, author, sequence: 2 })
    }

    fn settings(&self, path: usize) -> Settings {
        self.both.node.paths[path].0.clone()
    }

    /// The next probe of the peer, before it is signed.
    fn heartbeat(&mut self, path: usize) -> Heartbeat {
        self.sequence += 2;
        Heartbeat::probe(&self.settings(path), 0, &self.author, OWN, self.sequence)
    }

    fn wrap(&self, path: usize, heartbeat: &Heartbeat) -> Frame {
        let settings = self.settings(path);
        let keys = settings.slots[0].expect("slot 0 holds a key");
        Frame::to_node(&settings, &heartbeat.signed(&settings, &keys))
    }

    fn probe(&mut self, path: usize) -> Frame {
        let heartbeat = self.heartbeat(path);
        self.wrap(path, &heartbeat)
    }

    fn echo(&mut self, path: usize, sent: u64) -> Frame {
        self.sequence += 2;
        let heartbeat = Heartbeat::echo(&self.settings(path), 0, &self.author, self.sequence, sent, 1);
        self.wrap(path, &heartbeat)
    }

    /// Judges on both sides and checks how the frame ended. Returns the answer if there was one.
    #[track_caller]
    fn expect(&mut self, bytes: &[u8], counted: Option<Counter>) -> Option<Vec<u8>> {
        let (judged, answer) = self.both.receive(bytes).expect("both sides agree");
        assert_eq!(judged.counted, counted);
        self.both.compare_counters().expect("the kernel counted the same");
        answer
    }

    #[track_caller]
    fn dropped(&mut self, frame: &Frame, counter: Counter) {
        assert_eq!(self.expect(&frame.bytes(), Some(counter)), None);
    }

    #[track_caller]
    fn answered(&mut self, frame: &Frame) -> Vec<u8> {
        self.expect(&frame.bytes(), Some(Counter::Answered)).expect("an answer")
    }
}

/// Sums IP header and UDP datagram with their checksums in place: a right one makes all ones.
#[track_caller]
fn assert_checksums(bytes: &[u8]) {
    let Parsed::Plain(plain) = parse(bytes) else { panic!("an echo is a plain frame") };
    if !plain.ipv6 {
        assert_eq!(answer::checksum(&bytes[plain.ip..plain.udp]), 0, "IPv4 header");
    }
    let addresses = if plain.ipv6 { plain.ip + 8..plain.udp } else { plain.ip + 12..plain.udp };
    let mut summed = bytes[addresses].to_vec();
    summed.extend_from_slice(&[0, 17, 0, (8 + LEN) as u8]);
    summed.extend_from_slice(&bytes[plain.udp..plain.udp + 8 + LEN]);
    assert_eq!(answer::checksum(&summed), 0, "UDP");
    assert_ne!(bytes[plain.udp + 6..plain.udp + 8], [0, 0], "a checksum is always there");
}

/// A frame that ends in `counter`, after what must come before it. `None`: not on the receive path.
fn case(bench: &mut Bench, path: usize, counter: Counter) -> Option<Vec<u8>> {
    use Counter as C;
    let mut frame = bench.probe(path);
    let mut heartbeat = bench.heartbeat(path);
    match counter {
        C::Answered => {}
        C::AnsweredStale | C::DropStaleLimit => {
            bench.answered(&frame);
            let mut stale = || {
                let mut heartbeat = bench.heartbeat(path);
                heartbeat.words[3] = PEER - 1;
                heartbeat.words[9] = PEER - 1;
                bench.wrap(path, &heartbeat)
            };
            let (first, second) = (stale(), stale());
            frame = second;
            if counter == C::DropStaleLimit {
                bench.expect(&first.bytes(), Some(C::AnsweredStale)).expect("a stale echo");
            }
        }
        C::AnsweredHandshake => {
            heartbeat.words[4] = OWN - 1;
            frame = bench.wrap(path, &heartbeat);
        }
        C::EchoTimely => frame = bench.echo(path, now()),
        C::EchoLate => frame = bench.echo(path, now() - 1_000_000_000),
        C::DropLayer2 => frame.tags = vec![(0x8100, 10), (0x8100, 20)],
        C::DropVlan => frame.tags = vec![(0x8100, 99)],
        C::DropLayer3 if frame.ipv6 => frame.extensions = vec![(60, vec![0; 8])],
        C::DropLayer3 => frame.options = vec![1; 4],
        C::DropFragment if frame.ipv6 => frame.extensions = vec![(44, vec![0, 0, 0, 1, 0, 0, 0, 9])],
        C::DropFragment => frame.fragment = 0x2000,
        C::DropPort => frame.ports[0] = 3344,
        C::DropLength => frame.udp_length_error = 1,
        C::DropHopLimit => frame.hop_limit = 254,
        C::DropUnlisted => frame.addresses[0][15] ^= 0x40,
        C::DropMagic => frame.payload[0] ^= 1,
        C::DropVersion => frame.payload[4] = 2,
        C::DropCluster => frame.payload[8] ^= 1,
        C::DropIds => frame.payload[16] ^= 1,
        C::DropKeySlot => frame.payload[5] = 1,
        C::DropKind => frame.payload[70] |= 2,
        C::DropReserved => frame.payload[6] = 1,
        C::DropReplay => {
            bench.answered(&frame);
        }
        C::DropTag => frame.payload[128] ^= 1,
        C::DropIncarnation => {
            heartbeat = Heartbeat::echo(&bench.settings(path), 0, &bench.author, 2, now(), 1);
            heartbeat.words[3] = OWN - 1;
            frame = bench.wrap(path, &heartbeat);
        }
        C::ChecksumZero if frame.ipv6 => frame.checksum = Some(0),
        // Outside IPv6 it is never counted; these end otherwise than in a count of a received frame.
        C::ChecksumZero | C::DropDisabled | C::Contended | C::Internal | C::Departed | C::DepartedUnknown => {
            return None;
        }
    }
    Some(frame.bytes())
}

#[test]
fn each_counter_has_a_case() {
    let Some(mut bench) = Bench::new("each_counter_has_a_case") else { return };
    for path in 0..PATHS {
        for counter in Counter::ALL {
            bench.both.forget(path);
            let Some(bytes) = case(&mut bench, path, *counter) else { continue };
            // A frame without checksum is counted as such and then ends as any other.
            let ends = if *counter == Counter::ChecksumZero { Counter::Answered } else { *counter };
            let answer = bench.expect(&bytes, Some(ends));
            let answers = [Counter::Answered, Counter::AnsweredHandshake, Counter::AnsweredStale];
            assert_eq!(answer.is_some(), answers.contains(&ends), "{}", counter.name());
            if let Some(answer) = answer {
                assert_checksums(&answer);
            }
        }
    }
    for counter in Counter::ALL {
        use Counter as C;
        let elsewhere = [C::DropDisabled, C::Contended, C::Internal, C::Departed, C::DepartedUnknown];
        assert!(elsewhere.contains(counter) || bench.both.counted[*counter as usize] > 0, "{}", counter.name());
    }
}

#[test]
fn an_answer_is_the_probe_turned_round() {
    let Some(mut bench) = Bench::new("an_answer_is_the_probe_turned_round") else { return };
    for path in 0..PATHS {
        let mut frame = bench.probe(path);
        if let Some((_, tag)) = frame.tags.first_mut() {
            *tag |= 0xb000;
        }
        let bytes = frame.bytes();
        let answer = bench.answered(&frame);
        assert_eq!(answer.len(), bytes.len(), "out is never more than in");
        assert_eq!(answer[..6], bytes[6..12]);
        assert_eq!(answer[6..12], bytes[..6]);
        let (Parsed::Plain(probe), Parsed::Plain(echo)) = (parse(&bytes), parse(&answer)) else { panic!("both plain") };
        assert_eq!((echo.source, echo.destination), (probe.destination, probe.source));
        assert_eq!((echo.hop_limit, echo.vlan), (255, probe.vlan));
        assert_eq!(answer[12..echo.ip], bytes[12..probe.ip], "tags are kept with their priority");
        let payload = &answer[echo.udp + 8..];
        assert_eq!(payload[..56], bytes[probe.udp + 8..][..56], "what an echo returns");
        assert_checksums(&answer);
    }
}

#[test]
fn an_answers_checksum_owes_nothing_to_the_probes() {
    let Some(mut bench) = Bench::new("an_answers_checksum_owes_nothing_to_the_probes") else { return };
    for path in 0..PATHS {
        for checksum in [Some(0), Some(0xffff), Some(0x1234), Some(1), None] {
            let mut frame = bench.probe(path);
            frame.checksum = checksum;
            assert_checksums(&bench.answered(&frame));
        }
        // What a sender with checksum offload leaves: the folded sum of the pseudo header alone.
        let mut frame = bench.probe(path);
        let bytes = frame.bytes();
        let Parsed::Plain(plain) = parse(&bytes) else { panic!("plain") };
        let from = if plain.ipv6 { plain.ip + 8 } else { plain.ip + 12 };
        let pseudo = [&bytes[from..plain.udp], &[0, 17, 0, (8 + LEN) as u8]].concat();
        frame.checksum = Some(!answer::checksum(&pseudo));
        assert_checksums(&bench.answered(&frame));
        // Many contents, so that carries of every kind occur.
        for _ in 0..2000 {
            let mut heartbeat = bench.heartbeat(path);
            (heartbeat.words[6], heartbeat.words[7]) = (bench.random.word(), bench.random.word());
            let frame = bench.wrap(path, &heartbeat);
            let (_, answer) = bench.both.receive(&frame.bytes()).expect("both sides agree");
            assert_checksums(&answer.expect("an answer"));
        }
    }
}

#[test]
fn an_answer_tells_age_and_flags() {
    let Some(mut bench) = Bench::new("an_answer_tells_age_and_flags") else { return };
    let cases = [(0, 0), (now(), 0xfc), (now() - 5_000_000_000, frame::FLAG_QUORATE), (now() + 1_000_000_000, 0)];
    for (progress, flags) in cases {
        (bench.both.node.progress_ns, bench.both.node.flags) = (progress, flags);
        world::install_own(&bench.both.rig, &bench.both.node);
        let probe = bench.probe(0);
        let bytes = bench.answered(&probe);
        let mut payload = [0; LEN];
        payload.copy_from_slice(&bytes[42..]);
        let dynamic = frame::from_bytes(&payload)[frame::word::DYNAMIC];
        assert_eq!(frame::flags(dynamic), flags | 1);
        match frame::age_ns(dynamic) {
            None => assert_eq!(progress, 0),
            Some(age) => {
                assert!(age <= now().saturating_sub(progress) && age + 100_000_000 >= now().saturating_sub(progress))
            }
        }
    }
}

#[test]
fn every_truncation() {
    let Some(mut bench) = Bench::new("every_truncation") else { return };
    for path in 0..PATHS {
        let bytes = bench.probe(path).bytes();
        let port = bytes.len() - LEN - 8 + 4;
        for length in 14..bytes.len() {
            // Whose port cannot be seen, is not ours.
            let counted = (length >= port).then_some(Counter::DropLength);
            assert_eq!(bench.expect(&bytes[..length], counted), None, "{length} bytes");
        }
        bench.expect(&bytes, Some(Counter::Answered)).expect("whole, it is answered");
        // And behind options and extension headers.
        let mut frame = bench.probe(path);
        frame.options = if frame.ipv6 { vec![] } else { vec![1; 8] };
        frame.extensions = if frame.ipv6 { vec![(0, vec![0; 8]), (44, vec![0; 8]), (60, vec![0; 8])] } else { vec![] };
        let bytes = frame.bytes();
        for length in 14..=bytes.len() {
            assert_eq!(bench.both.receive(&bytes[..length]).expect("both sides agree").1, None);
        }
    }
}

#[test]
fn every_bit() {
    let Some(mut bench) = Bench::new("every_bit") else { return };
    for path in 0..PATHS {
        let length = bench.probe(path).bytes().len();
        for bit in 0..length * 8 {
            let mut bytes = bench.probe(path).bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let (_, answer) = bench.both.receive(&bytes).expect("both sides agree");
            assert!(answer.is_none() || bit / 8 < length - LEN, "bit {bit} of the frame is not under the tag");
            let mut bytes = bench.echo(path, now()).bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let (judged, answer) = bench.both.receive(&bytes).expect("both sides agree");
            assert_eq!(answer, None, "an echo is never answered");
            assert!(judged.counted != Some(Counter::EchoTimely) || bit / 8 < length - LEN, "bit {bit} of an echo");
        }
    }
    bench.both.compare_counters().expect("the kernel counted the same");
}

#[test]
fn hop_limits() {
    let Some(mut bench) = Bench::new("hop_limits") else { return };
    for path in 0..PATHS {
        for least in [255, 200, 1] {
            bench.both.change(path, |settings| settings.min_hop_limit = least).expect("configured");
            for hop_limit in 0..=255 {
                let mut frame = bench.probe(path);
                frame.hop_limit = hop_limit;
                let counter = if hop_limit < least { Counter::DropHopLimit } else { Counter::Answered };
                bench.expect(&frame.bytes(), Some(counter));
            }
        }
    }
}

#[test]
fn what_is_not_ours_is_passed_untouched() {
    let Some(mut bench) = Bench::new("what_is_not_ours_is_passed_untouched") else { return };
    for path in 0..PATHS {
        for change in 0..7 {
            let mut frame = bench.probe(path);
            match change {
                0 => frame.ports[1] = 53,
                1 => (frame.ports[0], frame.ports[1]) = (3343, 3342),
                2 => frame.protocol = 6,
                3 if frame.ipv6 => frame.extensions = vec![(44, vec![0, 0, 0, 8, 0, 0, 0, 9])],
                3 => frame.fragment = 5,
                4 if frame.ipv6 => frame.extensions = vec![(60, vec![0; 8]); 6],
                4 => frame.tags = vec![(0x8100, 1); 5],
                5 if frame.ipv6 => frame.extensions = vec![(50, vec![0; 8])],
                5 => frame.fragment = 0x2001,
                _ => frame.payload.clear(),
            }
            let bytes = frame.bytes();
            if change == 6 {
                // Too short for a port even.
                assert_eq!(bench.expect(&bytes[..bytes.len() - 6], None), None);
            } else {
                assert_eq!(bench.expect(&bytes, None), None, "change {change}");
            }
        }
        for ethertype in [0x0806u16, 0x88cc, 0x05dc, 0] {
            let mut bytes = bench.probe(0).bytes();
            bytes[12..14].copy_from_slice(&ethertype.to_be_bytes());
            assert_eq!(bench.expect(&bytes, None), None);
        }
        // An IP version that is not its ethertype's, and an IPv4 header shorter than it can be.
        let mut bytes = bench.probe(0).bytes();
        bytes[14] = 0x65;
        bench.expect(&bytes, None);
        bytes[14] = 0x44;
        bench.expect(&bytes, None);
        let mut bytes = bench.probe(1).bytes();
        bytes[14] = 0x40;
        bench.expect(&bytes, None);
    }
}

#[test]
fn tags_of_every_kind() {
    let Some(mut bench) = Bench::new("tags_of_every_kind") else { return };
    let ours = Counter::DropLayer2;
    let cases: [(&[(u16, u16)], Counter); 9] = [
        (&[(0x8100, 10)], Counter::DropVlan),
        (&[(0x8100, 0)], ours),
        (&[(0x8100, 0xe000)], ours),
        (&[(0x88a8, 10)], ours),
        (&[(0x88a8, 10), (0x8100, 10)], ours),
        (&[(0x8100, 10), (0x8100, 10)], ours),
        (&[(0x8100, 10), (0x8100, 10), (0x8100, 10)], ours),
        (&[(0x8100, 10), (0x88a8, 10), (0x8100, 10), (0x88a8, 1)], ours),
        (&[(0x8100, 20)], Counter::DropVlan),
    ];
    for path in [0, 1] {
        for (tags, counter) in &cases {
            let mut frame = bench.probe(path);
            frame.tags = tags.to_vec();
            bench.dropped(&frame, *counter);
        }
    }
    for path in [2, 3] {
        let mut frame = bench.probe(path);
        frame.tags.clear();
        bench.dropped(&frame, Counter::DropVlan);
        let mut frame = bench.probe(path);
        frame.tags[0].1 ^= 1;
        bench.dropped(&frame, Counter::DropVlan);
        let frame = bench.probe(path);
        bench.answered(&frame);
    }
}

#[test]
fn options_fragments_and_extension_headers() {
    let Some(mut bench) = Bench::new("options_fragments_and_extension_headers") else { return };
    for length in 1..=10 {
        let mut frame = bench.probe(0);
        frame.options = vec![1; 4 * length];
        bench.dropped(&frame, Counter::DropLayer3);
    }
    for (fragment, counter) in [(0x2000, Counter::DropFragment), (0x6000, Counter::DropFragment)] {
        let mut frame = bench.probe(0);
        frame.fragment = fragment;
        bench.dropped(&frame, counter);
    }
    let fragment = (44, vec![0, 0, 0, 1, 0, 0, 0, 1]);
    let atomic = (44, vec![0; 8]);
    let extension = |kind, units: u8| (kind, [vec![0, units], vec![0; 6 + 8 * usize::from(units)]].concat());
    let cases = [
        (vec![extension(0, 0)], Counter::DropLayer3),
        (vec![extension(60, 3)], Counter::DropLayer3),
        (vec![extension(43, 1)], Counter::DropLayer3),
        (vec![extension(135, 0)], Counter::DropLayer3),
        (vec![(51, vec![0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])], Counter::DropLayer3),
        (vec![extension(60, 0); 5], Counter::DropLayer3),
        (vec![fragment.clone()], Counter::DropFragment),
        (vec![atomic], Counter::DropFragment),
        (vec![extension(0, 0), fragment.clone(), extension(60, 0)], Counter::DropFragment),
    ];
    for (extensions, counter) in cases {
        let mut frame = bench.probe(1);
        frame.extensions = extensions;
        bench.dropped(&frame, counter);
    }
}

#[test]
fn lengths() {
    let Some(mut bench) = Bench::new("lengths") else { return };
    for path in 0..PATHS {
        for error in [1, 2, 8, 0xffff, 0x8000] {
            let mut frame = bench.probe(path);
            frame.ip_length_error = error;
            bench.dropped(&frame, Counter::DropLength);
            let mut frame = bench.probe(path);
            frame.udp_length_error = error;
            bench.dropped(&frame, Counter::DropLength);
        }
        for length in [0, 1, LEN - 1, LEN + 1, 1200] {
            let mut frame = bench.probe(path);
            frame.payload.resize(length, 0);
            bench.dropped(&frame, Counter::DropLength);
        }
        // Bytes behind the packet belong to the link; they are no part of the heartbeat.
        let mut frame = bench.probe(path);
        frame.trailer = 4;
        bench.answered(&frame);
    }
}

#[test]
fn group_addresses_are_refused() {
    let Some(mut bench) = Bench::new("group_addresses_are_refused") else { return };
    for path in 0..PATHS {
        for end in 0..2 {
            for first in [0xff, 0x01, 0x33] {
                let mut frame = bench.probe(path);
                frame.macs[end][0] = first;
                bench.dropped(&frame, Counter::DropLayer2);
            }
        }
    }
}

#[test]
fn a_frame_stays_in_its_address_family() {
    let Some(mut bench) = Bench::new("a_frame_stays_in_its_address_family") else { return };
    let mut frame = bench.probe(0);
    frame.ipv6 = true;
    bench.dropped(&frame, Counter::DropUnlisted);
    frame.ipv6 = false;
    bench.answered(&frame);
}

#[test]
fn another_interface_is_another_path() {
    let Some(mut bench) = Bench::new("another_interface_is_another_path") else { return };
    let mut settings = bench.settings(0);
    settings.ifindex = LOOPBACK + 1000;
    bench.both.rig.route(world::route_key(&settings), Route { path: 0, conf: 0 }).expect("a route");
    let mut frame = bench.probe(0);
    frame.addresses[0][14] ^= 0x40;
    settings.peer[14] ^= 0x40;
    bench.both.rig.route(world::route_key(&settings), Route { path: 0, conf: 0 }).expect("a route");
    bench.dropped(&frame, Counter::DropUnlisted);
    // The explicit interface is the one that counts.
    let frame = bench.probe(0).bytes();
    let mut out = vec![0; 2048];
    let ran = bench.both.rig.receive_by(&frame, &mut out, LOOPBACK).expect("runs");
    assert_eq!(ran.action, Action::Transmit);
}

#[test]
fn a_path_left_to_userspace_is_passed() {
    let Some(mut bench) = Bench::new("a_path_left_to_userspace_is_passed") else { return };
    for path in 0..PATHS {
        bench.both.change(path, |settings| settings.shut = true).expect("configured");
        let bytes = bench.probe(path).bytes();
        assert_eq!(bench.expect(&bytes, None), None);
        bench.both.change(path, |settings| settings.shut = false).expect("configured");
        bench.expect(&bytes, Some(Counter::Answered)).expect("an answer");
    }
}

#[test]
fn a_tick_that_stays_locked_loses_the_frame() {
    let Some(mut bench) = Bench::new("a_tick_that_stays_locked_loses_the_frame") else { return };
    for frame in [bench.probe(0), bench.echo(0, now())] {
        let before = bench.both.rig.tick(0);
        bench.both.rig.ticks.set(0, 0, before.lock | 1);
        let mut out = vec![0; 2048];
        let ran = bench.both.rig.receive(&frame.bytes(), &mut out).expect("runs");
        assert_eq!(ran.action, Action::Drop);
        bench.both.rig.ticks.set(0, 0, before.lock);
        assert_eq!(bench.both.rig.tick(0), before, "nothing was recorded");
    }
    assert_eq!(bench.both.rig.counters().expect("counters")[Counter::Contended as usize], 2);
}

#[test]
fn a_route_that_leads_nowhere_is_our_own_fault() {
    let Some(mut bench) = Bench::new("a_route_that_leads_nowhere_is_our_own_fault") else { return };
    let key = world::route_key(&bench.settings(0));
    for route in [Route { path: 0, conf: CONFS_MAX }, Route { path: CONFS_MAX, conf: 0 }] {
        bench.both.rig.route(key, route).expect("a route");
        let bytes = bench.probe(0).bytes();
        let mut out = vec![0; 2048];
        assert_eq!(bench.both.rig.receive(&bytes, &mut out).expect("runs").action, Action::Drop);
    }
    assert_eq!(bench.both.rig.counters().expect("counters")[Counter::Internal as usize], 2);
}

#[test]
fn replays_and_the_window() {
    let Some(mut bench) = Bench::new("replays_and_the_window") else { return };
    for path in 0..PATHS {
        let with = |bench: &mut Bench, sequence| {
            let mut heartbeat = bench.heartbeat(path);
            heartbeat.words[5] = sequence;
            bench.wrap(path, &heartbeat)
        };
        let top = u64::MAX - 1;
        let order = [
            (0, false),
            (100, true),
            (100, false),
            (37, true),
            (36, false),
            (101, true),
            (38, true),
            (37, false),
            (top, true),
        ];
        for (sequence, good) in order {
            let frame = with(&mut bench, sequence);
            let counter = if good { Counter::Answered } else { Counter::DropReplay };
            bench.expect(&frame.bytes(), Some(counter));
        }
        for (sequence, good) in
            [(top - 63, true), (top - 64, false), (u64::MAX, true), (top - 62, true), (u64::MAX, false)]
        {
            let frame = with(&mut bench, sequence);
            let counter = if good { Counter::Answered } else { Counter::DropReplay };
            bench.expect(&frame.bytes(), Some(counter));
        }
    }
}

#[test]
fn handshakes_rise_and_leave_no_tick() {
    let Some(mut bench) = Bench::new("handshakes_rise_and_leave_no_tick") else { return };
    for named in [0, OWN - 1, OWN + 1, u64::MAX] {
        let mut heartbeat = bench.heartbeat(0);
        heartbeat.words[4] = named;
        let frame = bench.wrap(0, &heartbeat);
        bench.expect(&frame.bytes(), Some(Counter::AnsweredHandshake)).expect("an answer");
        bench.dropped(&frame, Counter::DropReplay);
        let tick = bench.both.rig.tick(0);
        assert_eq!((tick.heard_ns, tick.peer_incarnation, tick.probe_top), (0, 0, 0));
    }
}

#[test]
fn a_newer_incarnation_begins_anew() {
    let Some(mut bench) = Bench::new("a_newer_incarnation_begins_anew") else { return };
    for _ in 0..5 {
        let frame = bench.probe(0);
        bench.answered(&frame);
    }
    let mut heartbeat = bench.heartbeat(0);
    (heartbeat.words[3], heartbeat.words[9], heartbeat.words[5]) = (PEER + 1, PEER + 1, 2);
    let first = bench.wrap(0, &heartbeat);
    bench.answered(&first);
    bench.dropped(&first, Counter::DropReplay);
    // The older one is told so, once in a while, and its echoes are not taken.
    let old = bench.probe(0);
    let answer = bench.expect(&old.bytes(), Some(Counter::AnsweredStale)).expect("a stale echo");
    assert_eq!(answer[42 + 120..42 + 128], (PEER + 1).to_le_bytes(), "the newest known");
    assert_eq!(answer[42 + 70] & 7, 5, "an echo, flagged stale");
    assert_checksums(&answer);
    bench.dropped(&old, Counter::DropStaleLimit);
    let echo = bench.echo(0, now());
    bench.dropped(&echo, Counter::DropIncarnation);
    std::thread::sleep(std::time::Duration::from_millis(11));
    bench.expect(&old.bytes(), Some(Counter::AnsweredStale)).expect("a stale echo");
    // An echo of a newer one is a proof of it as well.
    bench.author[0] = PEER + 2;
    let echo = bench.echo(0, now());
    bench.dropped(&echo, Counter::EchoTimely);
    assert_eq!(bench.both.rig.tick(0).peer_incarnation, PEER + 2);
}

#[test]
fn a_stale_echo_tells_its_prober() {
    let Some(mut bench) = Bench::new("a_stale_echo_tells_its_prober") else { return };
    for (notice, newest) in [(OWN + 5, OWN + 5), (OWN + 3, OWN + 5)] {
        bench.sequence += 2;
        let mut echo = Heartbeat::echo(&bench.settings(0), 0, &bench.author, bench.sequence, now(), 1);
        echo.words[8] |= 4 << 48;
        echo.words[15] = notice;
        let frame = bench.wrap(0, &echo);
        bench.dropped(&frame, Counter::EchoTimely);
        assert_eq!(bench.both.rig.tick(0).stale_newest, newest);
    }
}

#[test]
fn a_frame_that_was_overtaken_changes_nothing_newer() {
    let Some(mut bench) = Bench::new("a_frame_that_was_overtaken_changes_nothing_newer") else { return };
    let old = bench.probe(0);
    bench.author[5] ^= 1;
    let mut heartbeat = bench.heartbeat(0);
    heartbeat.words[8] = u64::from(frame::FLAG_LEAVING) << 48;
    let new = bench.wrap(0, &heartbeat);
    bench.answered(&new);
    let before = bench.both.rig.tick(0);
    bench.answered(&old);
    let after = bench.both.rig.tick(0);
    assert_eq!((after.peer_dynamic, after.standing), (before.peer_dynamic, before.standing));
    assert!(after.heard_ns > before.heard_ns, "it is life all the same");
}

#[test]
fn a_late_echo_is_no_life_and_no_news() {
    let Some(mut bench) = Bench::new("a_late_echo_is_no_life_and_no_news") else { return };
    let first = bench.echo(0, now());
    bench.dropped(&first, Counter::EchoTimely);
    let before = bench.both.rig.tick(0);
    let late = bench.echo(0, now() - 20_000_000);
    bench.dropped(&late, Counter::EchoLate);
    let after = bench.both.rig.tick(0);
    assert_eq!(
        (after.heard_ns, after.echo_ns, after.peer_dynamic_ns),
        (before.heard_ns, before.echo_ns, before.peer_dynamic_ns)
    );
    assert!(after.round_trip_ns >= 20_000_000);
}

#[test]
fn a_departure_dates_the_round_trip() {
    let Some(mut bench) = Bench::new("a_departure_dates_the_round_trip") else { return };
    for path in 0..PATHS {
        let settings = bench.settings(path);
        let keys = settings.slots[0].expect("slot 0 holds a key");
        bench.sequence += 2;
        let own = Heartbeat::own_probe(&settings, 0, PEER, bench.sequence);
        let frame = Frame::from_node(&settings, &own.signed(&settings, &keys));
        assert_eq!(bench.both.depart(&frame.bytes()).expect("both sides agree"), Some(Counter::Departed));
        // The frame says that it was sent an hour ago; the kernel saw it leave just now.
        let echo = Heartbeat::echo(&settings, 0, &bench.author, bench.sequence, 1, 1);
        let echo = bench.wrap(path, &echo);
        bench.dropped(&echo, Counter::EchoTimely);
    }
}

#[test]
fn what_departs_unstamped() {
    let Some(mut bench) = Bench::new("what_departs_unstamped") else { return };
    let settings = bench.settings(0);
    let mut frame = Frame::from_node(&settings, &[0; LEN]);
    assert_eq!(bench.both.depart(&frame.bytes()).expect("agree"), Some(Counter::Departed), "it signs nothing itself");
    frame.addresses[1][15] ^= 0x40;
    assert_eq!(bench.both.depart(&frame.bytes()).expect("agree"), Some(Counter::DepartedUnknown));
    frame.ports[1] = 53;
    assert_eq!(bench.both.depart(&frame.bytes()).expect("agree"), None);
    let mut echo = Frame::from_node(&settings, &[0; LEN]);
    echo.payload[70] = 1;
    assert_eq!(bench.both.depart(&echo.bytes()).expect("agree"), None, "an echo is no departure");
    bench.both.compare_counters().expect("the kernel counted the same");
}

#[test]
fn a_key_that_was_replaced_opens_nothing() {
    let Some(mut bench) = Bench::new("a_key_that_was_replaced_opens_nothing") else { return };
    let frames = [bench.probe(0), bench.echo(0, now()), bench.probe(0), bench.echo(0, now())];
    bench.answered(&frames[0]);
    bench.dropped(&frames[1], Counter::EchoTimely);
    // Everything about the old key is now cached in the tick; the same slot gets another key.
    let keys = world::keys(&mut bench.random);
    bench.both.change(0, |settings| settings.slots[0] = Some(keys)).expect("configured");
    bench.dropped(&frames[2], Counter::DropTag);
    bench.dropped(&frames[3], Counter::DropTag);
    let frame = bench.probe(0);
    bench.answered(&frame);
    // A slot that is emptied holds no key, whatever is cached.
    let frame = bench.probe(0);
    bench.both.change(0, |settings| settings.slots[0] = None).expect("configured");
    bench.dropped(&frame, Counter::DropKeySlot);
}

#[test]
fn both_slots_are_taken_while_a_key_rotates() {
    let Some(mut bench) = Bench::new("both_slots_are_taken_while_a_key_rotates") else { return };
    let second = world::keys(&mut bench.random);
    bench.both.change(0, |settings| settings.slots[1] = Some(second)).expect("configured");
    for _ in 0..3 {
        let frame = bench.probe(0);
        bench.answered(&frame);
        let mut heartbeat = bench.heartbeat(0);
        heartbeat.words[0] |= 1 << 40;
        let settings = bench.settings(0);
        let frame = Frame::to_node(&settings, &heartbeat.signed(&settings, &second));
        bench.answered(&frame);
        // The other slot's key does not fit.
        heartbeat.words[5] += 1;
        let wrong = settings.slots[0].expect("slot 0 holds a key");
        let frame = Frame::to_node(&settings, &heartbeat.signed(&settings, &wrong));
        bench.dropped(&frame, Counter::DropTag);
    }
}

#[test]
fn nothing_is_reflected_or_turned_against_its_sender() {
    let Some(mut bench) = Bench::new("nothing_is_reflected_or_turned_against_its_sender") else { return };
    for path in 0..PATHS {
        let probe = bench.probe(path);
        let answer = bench.answered(&probe);
        // The echo came back to its own author, and the same with its addresses turned.
        assert_eq!(bench.expect(&answer, Some(Counter::DropUnlisted)), None);
        let Parsed::Plain(plain) = parse(&answer) else { panic!("plain") };
        let back = Frame::to_node(&bench.settings(path), &answer[plain.udp + 8..]);
        bench.dropped(&back, Counter::DropIds);
        // A probe relabelled as an echo, and an echo as a probe: first the kind alone, then the constants as well.
        let settings = bench.settings(path);
        let (probe, echo) = (bench.heartbeat(path), Heartbeat::echo(&settings, 0, &bench.author, 900, now(), 1));
        for (from, to, kind) in [(&probe, &echo, 1), (&echo, &probe, 0)] {
            let mut frame = bench.wrap(path, from);
            frame.payload[70] = kind;
            bench.dropped(&frame, Counter::DropIds);
            frame.payload[16..40].copy_from_slice(&to.bytes()[16..40]);
            bench.dropped(&frame, Counter::DropTag);
        }
    }
}

#[test]
fn another_pair_network_or_cluster_does_not_fit() {
    let Some(mut bench) = Bench::new("another_pair_network_or_cluster_does_not_fit") else { return };
    for path in 0..PATHS {
        // Good on one path, moved to another with every field made to look right: the tag is over them.
        let other = (path + 1) % PATHS;
        let heartbeat = bench.heartbeat(path);
        let settings = bench.settings(other);
        let frame = Frame::to_node(&settings, &bench.wrap(path, &heartbeat).payload);
        bench.dropped(&frame, Counter::DropCluster);
        let mut moved = bench.wrap(path, &heartbeat);
        let target = Heartbeat::probe(&settings, 0, &bench.author, OWN, bench.sequence).bytes();
        moved.payload[8..24].copy_from_slice(&target[8..24]);
        let frame = Frame::to_node(&settings, &moved.payload);
        bench.dropped(&frame, Counter::DropTag);
        let signer = settings.slots[0].expect("slot 0 holds a key");
        let right = Frame::to_node(
            &settings,
            &Heartbeat::probe(&settings, 0, &bench.author, OWN, bench.sequence).signed(&settings, &signer),
        );
        assert!(matches!(bench.both.receive(&right.bytes()).expect("agree").0.verdict, Verdict::Transmit(_)));
    }
}

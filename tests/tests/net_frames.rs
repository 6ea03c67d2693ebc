//! Frames of other sizes and makes than a heartbeat's, beside real daemons: large ones pass, and what is not plain is
//! refused by program and responder alike. It tests no loss.

use heartbeat_common::frame::{self, PORT};
use heartbeat_tests::lab::play::{PATIENCE, number, pause};
use heartbeat_tests::lab::relay::{Rules, Way};
use heartbeat_tests::lab::wait::root_or_skip;
use heartbeat_tests::lab::{Lab, Play, Port, Spec, wait_for};
use heartbeat_tests::xdp::random::Random;
use heartbeat_tests::xdp::{Frame, Rig, object, world};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

const A: Port = Port { node: 0, network: 0 };
const B: Port = Port { node: 1, network: 0 };
const NOTHING: Vec<String> = Vec::new();
/// MTU of a network that carries large frames, and a payload that nearly fills one.
const LARGE: u32 = 9000;
const PAYLOAD: usize = 8900;
/// A port of nobody's.
const OTHER_PORT: u16 = 7009;

/// A socket of a node on this network that never lets a datagram be fragmented.
fn socket(lab: &Lab, port: Port, six: bool, number: u16) -> UdpSocket {
    let address = if six { IpAddr::V6(lab.ipv6(port)) } else { IpAddr::V4(lab.ipv4(port)) };
    let socket = lab.node(port.node).enter(|| UdpSocket::bind((address, number))).unwrap().unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let (level, option, whole) = match six {
        true => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DO),
        false => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO),
    };
    // SAFETY: the value is an int that lives for the length of the call.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const whole).cast(), size_of_val(&whole) as u32)
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    socket
}

/// Sends large datagrams of changing bytes from a to b and back, and says how many of six arrived whole, in one frame
/// each.
fn pass_whole(lab: &Lab) -> usize {
    let mut whole = 0;
    for (from, to, six) in [(A, B, false), (B, A, false), (A, B, true)] {
        let receiver = socket(lab, to, six, OTHER_PORT);
        let sender = socket(lab, from, six, 0);
        let target: SocketAddr = receiver.local_addr().unwrap();
        for seed in 0..2_u8 {
            let payload: Vec<u8> = (0..PAYLOAD).map(|index| (index % 251) as u8 ^ seed).collect();
            let mut buffer = vec![0; 2 * PAYLOAD];
            let arrived = sender.send_to(&payload, target).is_ok()
                && receiver.recv(&mut buffer).is_ok_and(|length| buffer[..length] == payload);
            whole += usize::from(arrived);
        }
    }
    whole
}

/// Both nodes still run the native program, and both get their answers.
fn beats_on_natively(play: &Play) {
    let before = [(0, 1), (1, 0)].map(|(by, about)| play.echoes(by, about).unwrap());
    pause(1500);
    for ((by, about), before) in [(0, 1), (1, 0)].into_iter().zip(before) {
        let row = play.fast_path(by, "net1").unwrap();
        assert_eq!(row["mode"], "native", "{row}");
        let grown = play.echoes(by, about).unwrap() - before;
        assert!(grown >= 8, "{grown} echoes in 1.5 s");
    }
    play.wait_up(&[0, 1]).unwrap();
}

#[test]
fn large_frames_pass_beside_the_native_program_at_an_mtu_of_9000() {
    if !root_or_skip("large_frames_pass_beside_the_native_program_at_an_mtu_of_9000") {
        return;
    }
    let play = Play::lan_by(Spec { ipv6: true, mtu: LARGE, ..Spec::new(2, 1) }, "native").unwrap();
    let mark = play.mark().unwrap();
    assert_eq!(pass_whole(&play.lab), 6, "large datagrams that arrived whole");
    // A large frame on our port comes by the same way, and goes no further.
    let before = play.counter(1, "drop_length").unwrap();
    let sender = socket(&play.lab, A, false, 0);
    for _ in 0..20 {
        sender.send_to(&[0x42; PAYLOAD], (play.lab.ipv4(B), PORT)).unwrap();
    }
    wait_for(PATIENCE, "the large frames on our port to be dropped", || {
        let dropped = play.counter(1, "drop_length").unwrap() - before;
        if dropped == 20 { Ok(()) } else { Err(dropped) }
    })
    .unwrap();
    beats_on_natively(&play);
    assert_eq!(play.verdicts(&mark).unwrap(), NOTHING);
}

#[test]
fn an_mtu_may_grow_and_shrink_under_the_native_program() {
    if !root_or_skip("an_mtu_may_grow_and_shrink_under_the_native_program") {
        return;
    }
    let play = Play::lan_by(Spec { ipv6: true, ..Spec::new(2, 1) }, "native").unwrap();
    let mark = play.mark().unwrap();
    assert_eq!(pass_whole(&play.lab), 0, "an MTU of 1500 carries no large frame whole");
    play.lab.set_bridge_mtu(0, LARGE).unwrap();
    for port in [A, B] {
        play.lab.set_link_mtu(port, LARGE).unwrap();
    }
    assert_eq!(pass_whole(&play.lab), 6, "large datagrams that arrived whole");
    beats_on_natively(&play);
    for port in [A, B] {
        play.lab.set_link_mtu(port, 1500).unwrap();
    }
    assert_eq!(pass_whole(&play.lab), 0);
    beats_on_natively(&play);
    assert_eq!(play.verdicts(&mark).unwrap(), NOTHING);
}

#[test]
fn a_program_without_fragments_would_be_refused_at_an_mtu_of_9000() {
    if !root_or_skip("a_program_without_fragments_would_be_refused_at_an_mtu_of_9000") {
        return;
    }
    for (mtu, without) in [(1500, true), (LARGE, false)] {
        let lab = Lab::new(Spec { mtu, ..Spec::new(1, 1) }).unwrap();
        let attach = |object: fn() -> anyhow::Result<aya::Ebpf>| {
            let in_node = || {
                let index = nix::net::if_::if_nametoindex("net1")?;
                Rig::of(object()?)?.attach(index)
            };
            lab.node(0).enter(in_node).unwrap()
        };
        attach(object::load).unwrap();
        let refused = attach(object::load_without_fragments).err().map(|error| format!("{error:#}"));
        assert_eq!(refused.is_none(), without, "at {mtu}: {refused:?}");
    }
}

/// Something between the IP header and UDP.
type Between = Vec<u8>;

/// An IPv4 frame with options.
fn with_options(frame: &[u8], options: &Between) -> Vec<u8> {
    let mut out = [&frame[..34], options, &frame[34..]].concat();
    out[14] += (options.len() / 4) as u8;
    let total = u16::from_be_bytes([out[16], out[17]]) + options.len() as u16;
    out[16..18].copy_from_slice(&total.to_be_bytes());
    out[24..26].fill(0);
    let sum = heartbeat_tests::reference::answer::checksum(&out[14..34 + options.len()]);
    out[24..26].copy_from_slice(&sum.to_be_bytes());
    out
}

/// An IPv6 frame with an extension header of type `kind`, or several, of which each names the next.
fn with_extension(frame: &[u8], kind: u8, header: &Between) -> Vec<u8> {
    let mut out = [&frame[..54], header, &frame[54..]].concat();
    out[20] = kind;
    let length = u16::from_be_bytes([out[18], out[19]]) + header.len() as u16;
    out[18..20].copy_from_slice(&length.to_be_bytes());
    out
}

/// Takes a probe of each family from b's, on the way to a, and keeps every one from arriving.
fn probes(play: &Play) -> [Vec<u8>; 2] {
    let relay = play.lab.relay(A).unwrap();
    relay.set(Way::In, Rules { loss_per_mille: 1000, only_port: Some(PORT), ..Rules::default() });
    // What was on its way when the rule came is through.
    pause(50);
    relay.record();
    pause(250);
    let recorded = relay.recorded();
    let of = |headers: usize, ethertype: [u8; 2]| {
        let probe = |bytes: &[u8]| {
            let whole = bytes.len() == headers + frame::LEN && bytes[12..14] == ethertype;
            whole && bytes[headers + 70] & 3 == 0
        };
        let found = recorded.iter().find(|frame| frame.way == Way::In && probe(&frame.bytes));
        found.expect("b probed a").bytes.clone()
    };
    [of(14 + 28, [0x08, 0x00]), of(14 + 48, [0x86, 0xdd])]
}

#[test]
fn program_and_responder_refuse_frames_that_are_not_plain() {
    if !root_or_skip("program_and_responder_refuse_frames_that_are_not_plain") {
        return;
    }
    for fast_path in ["native", "off"] {
        let spec = Spec { ipv6: true, relays: vec![(A, 3)], ..Spec::new(2, 1) };
        let play = Play::lan_by(spec, fast_path).unwrap();
        let relay = play.lab.relay(A).unwrap();
        let [four, six] = probes(&play);
        let six_with = |kind, header: &[u8]| with_extension(&six, kind, &header.to_vec());
        let chain = [[60, 0, 1, 4, 0, 0, 0, 0].repeat(6), vec![17, 0, 1, 4, 0, 0, 0, 0]].concat();
        // What the kernel does not hand up has no counter where the program does not see it.
        let native_only = (fast_path == "native").then_some("drop_layer3");
        let cases = [
            ("IPv4 options", with_options(&four, &vec![1, 1, 1, 0]), Some("drop_layer3")),
            ("hop-by-hop options", six_with(0, &[17, 0, 1, 4, 0, 0, 0, 0]), Some("drop_layer3")),
            ("destination options", six_with(60, &[17, 0, 1, 4, 0, 0, 0, 0]), Some("drop_layer3")),
            ("a routing header, used up", six_with(43, &[17, 0, 0, 0, 0, 0, 0, 0]), Some("drop_layer3")),
            ("a fragment that is all there is", six_with(44, &[17, 0, 0, 0, 0, 0, 0, 9]), Some("drop_fragment")),
            ("more headers than the program looks through", six_with(60, &chain), Some("drop_layer3")),
            ("an authentication header", six_with(51, &[&[17, 4][..], &[0; 22]].concat()), native_only),
            ("a mobility header", six_with(135, &[17, 0, 0, 0, 0, 0, 0, 0]), native_only),
        ];
        let counters = || {
            ["drop_layer3", "drop_fragment", "answered", "drop_replay", "drop_length"]
                .map(|name| (name, play.counter(0, name).unwrap()))
        };
        for (what, bytes, counter) in cases {
            let before = counters();
            relay.inject(Way::In, bytes);
            let mut expected = before;
            for (name, value) in &mut expected {
                *value += u64::from(counter == Some(*name));
            }
            wait_for(PATIENCE, &format!("{what} to be refused ({fast_path})"), || {
                let now = counters();
                if now == expected { Ok(()) } else { Err(format!("{before:?} then {now:?}")) }
            })
            .unwrap();
            pause(50);
            assert_eq!(counters(), expected, "{what} ({fast_path})");
        }
        // Nothing but what stood between was wrong with them.
        let before = play.counter(0, "answered").unwrap();
        relay.inject(Way::In, four);
        relay.inject(Way::In, six);
        wait_for(PATIENCE, "the plain frames to be answered", || {
            let answered = play.counter(0, "answered").unwrap() - before;
            if answered == 2 { Ok(()) } else { Err(answered) }
        })
        .unwrap();
        relay.set(Way::In, Rules::default());
        play.wait_up(&[0, 1]).unwrap();
    }
}

#[test]
fn what_is_no_heartbeat_leaves_our_port_unharmed_and_is_no_departure() {
    if !root_or_skip("what_is_no_heartbeat_leaves_our_port_unharmed_and_is_no_departure") {
        return;
    }
    let play = Play::lan_by(Spec::new(2, 1), "native").unwrap();
    let receiver = socket(&play.lab, B, false, OTHER_PORT);
    let wire = play.lab.wire(A).unwrap();
    let departed = || number(&play.path(0, 1, 0).unwrap(), "departed").unwrap();
    // From a's address and heartbeat port to b's: the daemon's own socket has that port, so the frame is made by hand.
    let mut frame = Frame::to_node(&world::settings(&mut Random::new(1), 0), &[]);
    frame.macs = [play.lab.mac(B).unwrap(), play.lab.mac(A).unwrap()];
    frame.addresses = [A, B].map(|port| play.lab.ipv4(port).to_ipv6_mapped().octets());
    let (before, dropped) = (departed(), play.counter(1, "drop_length").unwrap());
    let mut buffer = [0; 2048];
    let lengths = [1, frame::LEN - 20, frame::LEN - 1, frame::LEN + 1, frame::LEN + 20, 1400];
    for round in 0..20_u8 {
        for length in lengths {
            frame.payload = vec![round; length];
            frame.ports = [PORT, OTHER_PORT];
            wire.send(&frame.bytes()).unwrap();
            let got = receiver.recv(&mut buffer).unwrap();
            assert_eq!(buffer[..got], frame.payload, "{length} bytes to another port");
            frame.ports = [PORT, PORT];
            wire.send(&frame.bytes()).unwrap();
        }
    }
    let sent = 20 * lengths.len() as u64;
    wait_for(PATIENCE, "b to drop what came to its port", || {
        let counted = play.counter(1, "drop_length").unwrap() - dropped;
        if counted == sent { Ok(()) } else { Err(format!("{counted} of {sent}")) }
    })
    .unwrap();
    let grown = departed() - before;
    assert!(grown < sent / 2, "{grown} departures while {} frames left that were none", 2 * sent);
    play.wait_up(&[0, 1]).unwrap();
}

//! Two responders and one forged frame: what goes out ends at once, and is never more than what came in.
//! First by handing each output to the other program, then on a veth pair with a program at each end.

use anyhow::{Context as _, Result, bail, ensure};
use heartbeat_common::counter::Counter;
use heartbeat_tests::reference::{Keys, LEN, Node, Settings};
use heartbeat_tests::xdp::random::Random;
use heartbeat_tests::xdp::rig::Action;
use heartbeat_tests::xdp::{Frame, Heartbeat, LOOPBACK, Rig, may_run, now, world};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::process::Command;
use std::time::Duration;

/// Incarnations of the two.
const A: u64 = 7;
const B: u64 = 70;

/// Two nodes that share keys and run the program.
struct Pair {
    rigs: [Rig; 2],
    settings: [Settings; 2],
}

/// The same path as the other end sees it.
fn mirrored(settings: &Settings, standing: [u64; 7]) -> Settings {
    let turn = |keys: Keys| Keys {
        theirs: keys.mine,
        mine: keys.theirs,
        peer_standing: keys.own_standing,
        own_standing: keys.peer_standing,
        their_fences: keys.own_fences,
        own_fences: keys.their_fences,
    };
    Settings {
        own: settings.peer,
        peer: settings.own,
        own_id: settings.peer_id,
        peer_id: settings.own_id,
        standing,
        slots: settings.slots.map(|slot| slot.map(turn)),
        ..settings.clone()
    }
}

impl Pair {
    fn new(index: u16, ifindexes: [u32; 2]) -> Result<Self> {
        let mut random = Random::new(3);
        let mut first = world::settings(&mut random, index);
        first.standing[0] = A;
        let mut second = mirrored(&first, world::standing(&mut random, B));
        (first.ifindex, second.ifindex) = (ifindexes[0], ifindexes[1]);
        let settings = [first, second];
        let mut rigs = [Rig::new()?, Rig::new()?];
        for (rig, settings) in rigs.iter_mut().zip(&settings) {
            world::install(rig, &Node { paths: vec![(settings.clone(), Default::default())], ..Node::default() })?;
        }
        Ok(Self { rigs, settings })
    }

    /// A good probe of A's to B, as B receives it.
    fn probe(&self, names: u64, sequence: u64) -> Frame {
        let (settings, author) = (&self.settings[1], self.settings[0].standing);
        let mut heartbeat = Heartbeat::probe(settings, 0, &author, names, sequence);
        heartbeat.words[6] = now();
        Frame::to_node(settings, &heartbeat.signed(settings, &settings.slots[0].expect("slot 0 holds a key")))
    }

    /// What an attacker without a key can send: each with the number of answers that it may cause at most.
    fn forged(&self) -> Vec<(&'static str, Vec<u8>, u64)> {
        let good = self.probe(B, 1000);
        let mut wrong_tag = good.clone();
        wrong_tag.payload[128] ^= 1;
        let mut echo_shaped = good.clone();
        echo_shaped.payload[70] |= 1;
        let mut mine = good.clone();
        mine.payload[16..24].copy_from_slice(&Heartbeat::own_probe(&self.settings[1], 0, A, 2).bytes()[16..24]);
        mine.payload[70] |= 1;
        let mut own_source = good.clone();
        own_source.addresses[0] = own_source.addresses[1];
        let mut broadcast = good.clone();
        broadcast.macs[1] = [0xff; 6];
        let mut zeros = good.clone();
        zeros.payload = vec![0; LEN];
        let mut short = good.clone();
        short.payload.truncate(24);
        vec![
            ("a forged probe", wrong_tag.bytes(), 0),
            ("a probe dressed as an echo", echo_shaped.bytes(), 0),
            ("a forged echo", mine.bytes(), 0),
            ("source and destination the same", own_source.bytes(), 0),
            ("an answer to everybody", broadcast.bytes(), 0),
            ("nothing but the port", zeros.bytes(), 0),
            ("74 bytes with both ports ours", short.bytes(), 0),
            ("a recorded probe, first time", good.bytes(), 1),
            ("the same probe again", good.bytes(), 0),
            ("a recorded handshake", self.probe(0, 1002).bytes(), 1),
            ("the same handshake again", self.probe(0, 1002).bytes(), 0),
        ]
    }
}

/// Hands a frame to B, what B sends to A, and so on; returns how often it was sent on.
fn transmissions(pair: &Pair, frame: &[u8]) -> u64 {
    let mut frame = frame.to_vec();
    let mut sent = 0;
    for turn in 0..1000 {
        let mut out = vec![0; 4096];
        let ran = pair.rigs[1 - turn % 2].receive(&frame, &mut out).expect("runs");
        if ran.action != Action::Transmit {
            break;
        }
        assert!(ran.length <= frame.len(), "out is never more than in");
        sent += 1;
        frame = out[..ran.length].to_vec();
    }
    sent
}

#[test]
fn handed_to_and_fro() {
    if !may_run("handed_to_and_fro") {
        return;
    }
    for index in [0, 1] {
        let pair = Pair::new(index, [LOOPBACK; 2]).expect("two programs");
        for (name, frame, most) in pair.forged() {
            // To B as it came from A; then to both, as a switch that floods would.
            assert_eq!(transmissions(&pair, &frame), most, "{name}");
            let mut out = vec![0; 4096];
            let ran = pair.rigs[0].receive(&frame, &mut out).expect("runs");
            assert_ne!(ran.action, Action::Transmit, "{name}, to whom it is not addressed");
        }
    }
}

/// A veth pair in a network namespace of this thread's own, which goes with the thread.
fn veth() -> Result<[u32; 2]> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).context("a network namespace")?;
    // Nothing but our frames: no neighbour discovery.
    std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").context("disabling IPv6")?;
    for arguments in ["link add hb0 type veth peer name hb1", "link set hb0 up", "link set hb1 up"] {
        let status = Command::new("ip").args(arguments.split(' ')).status().context("running ip")?;
        ensure!(status.success(), "ip {arguments}");
    }
    Ok([nix::net::if_::if_nametoindex("hb0")?, nix::net::if_::if_nametoindex("hb1")?])
}

/// Frames received by an interface.
fn received(name: &str) -> Result<u64> {
    let statistics = std::fs::read_to_string("/proc/thread-self/net/dev")?;
    let line = statistics.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':'));
    let packets = line.and_then(|line| line.split_whitespace().nth(1)).context("no such interface")?;
    Ok(packets.parse()?)
}

/// Sends raw frames out of an interface.
struct Wire(OwnedFd, libc::sockaddr_ll);

impl Wire {
    fn new(ifindex: u32) -> Result<Self> {
        // SAFETY: a call without preconditions.
        let socket = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if socket < 0 {
            bail!(std::io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and is nobody else's.
        let socket = unsafe { OwnedFd::from_raw_fd(socket) };
        // SAFETY: all zero is a valid address of this family.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_ifindex = i32::try_from(ifindex)?;
        Ok(Self(socket, address))
    }

    fn send(&self, frame: &[u8]) -> Result<()> {
        // SAFETY: frame and address are valid for the lengths given.
        let sent = unsafe {
            libc::sendto(
                self.0.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const self.1).cast(),
                size_of::<libc::sockaddr_ll>() as u32,
            )
        };
        ensure!(sent == frame.len() as isize, std::io::Error::last_os_error());
        Ok(())
    }
}

fn on_a_wire(index: u16) -> Result<()> {
    let [a, b] = veth()?;
    let mut pair = Pair::new(index, [a, b])?;
    pair.rigs[0].attach(a)?;
    pair.rigs[1].attach(b)?;
    let wire = Wire::new(a)?;
    let mut answers = 0;
    for (name, frame, most) in pair.forged() {
        let before = [received("hb0")?, received("hb1")?];
        wire.send(&frame)?;
        std::thread::sleep(Duration::from_millis(200));
        let came = [received("hb0")? - before[0], received("hb1")? - before[1]];
        // Counted at the receivers: B gets what was sent, A gets the answer if there is one, and that is all.
        ensure!(came == [most, 1], "{name}: {came:?} frames came, expected {:?}", [most, 1]);
        answers += most;
    }
    ensure!(answers > 0, "nothing was ever answered: the wire carries nothing");
    // The frames were made beforehand, so their echoes may be late; they are A's own all the same.
    let counters = pair.rigs[0].counters()?;
    let taken = counters[Counter::EchoTimely as usize] + counters[Counter::EchoLate as usize];
    ensure!(taken == answers, "{taken} of {answers} answers were taken as echoes");
    Ok(())
}

#[test]
fn on_a_veth_pair() {
    if !may_run("on_a_veth_pair") {
        return;
    }
    for index in [0, 1] {
        // A thread of its own: the namespace is the thread's and ends with it.
        std::thread::spawn(move || on_a_wire(index)).join().expect("no panic").expect("no loop");
    }
}

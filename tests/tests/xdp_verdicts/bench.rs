//! A peer that speaks to both sides, the kernel program and the reference, and says how each frame is to end.

use heartbeat_common::counter::Counter;
use heartbeat_common::lease::{bank, word};
use heartbeat_tests::reference::parse::{Parsed, parse};
use heartbeat_tests::reference::{LEN, Settings, answer};
use heartbeat_tests::xdp::checked::Checked;
use heartbeat_tests::xdp::random::Random;
use heartbeat_tests::xdp::{Frame, Heartbeat, Rig, may_run, world};

/// Own incarnation on every path.
pub const OWN: u64 = 7;
/// The peer's incarnation.
pub const PEER: u64 = 70;
/// Mark of the own vote's grants.
pub const MARK: u64 = 44;
/// Order of the view installed.
pub const VIEW: u64 = 9;
/// IPv4, IPv6, IPv4 in VLAN 10, IPv6 in VLAN 20.
pub const PATHS: usize = 4;

/// A probe's time to be answered, ns.
pub const DELAY: u64 = 60_000_000_000;

/// Both sides, and a peer that speaks to them.
pub struct Bench {
    pub both: Checked,
    pub random: Random,
    pub author: [u64; 7],
    pub sequence: u64,
}

impl Bench {
    pub fn new(test: &str) -> Option<Self> {
        if !may_run(test) {
            return None;
        }
        let mut random = Random::new(1);
        let mut settings: Vec<Settings> = (0..PATHS as u16).map(|index| world::settings(&mut random, index)).collect();
        for each in &mut settings {
            // Long, so that a test that is held up makes no echo late.
            each.answer_within_ns = DELAY;
        }
        settings[2].vlan = 10;
        settings[3].vlan = 20;
        let author = world::standing(&mut random, PEER);
        let both = Checked::of(Rig::new().expect("the program loads"), settings).expect("the maps are filled");
        Some(Self { both, random, author, sequence: 2 })
    }

    pub fn settings(&self, path: usize) -> Settings {
        self.both.node.paths[path].0.clone()
    }

    /// The next probe of the peer, before it is signed.
    pub fn heartbeat(&mut self, path: usize) -> Heartbeat {
        self.sequence += 2;
        Heartbeat::probe(&self.settings(path), 0, &self.author, OWN, self.sequence)
    }

    pub fn wrap(&self, path: usize, heartbeat: &Heartbeat) -> Frame {
        let settings = self.settings(path);
        let keys = settings.slots[0].expect("slot 0 holds a key");
        Frame::to_node(&settings, &heartbeat.signed(&settings, &keys))
    }

    pub fn probe(&mut self, path: usize) -> Frame {
        let heartbeat = self.heartbeat(path);
        self.wrap(path, &heartbeat)
    }

    pub fn echo(&mut self, path: usize, sent: u64) -> Frame {
        self.sequence += 2;
        let heartbeat = Heartbeat::echo(&self.settings(path), 0, &self.author, self.sequence, sent, 1);
        self.wrap(path, &heartbeat)
    }

    /// Makes both sides members of a view: this node's vote grants under [`MARK`], and the peer's grant on each path is
    /// the one in its standing.
    pub fn install_view(&mut self) {
        for path in 0..PATHS {
            self.both.change(path, |settings| settings.grant_mark = MARK).expect("configured");
        }
        let slots: Vec<u32> = (0..PATHS).map(|path| self.settings(path).vote_slot).collect();
        let grant = self.author[4];
        self.both.set_page(|page| {
            (page.incarnation, page.granting, page.order, page.member) = (OWN, MARK, VIEW, true);
            for slot in slots {
                page.votes[slot as usize] = (grant, 0);
            }
        });
    }

    /// The newest date of the vote on a path, in the kernel's page.
    pub fn date(&self, path: usize) -> u64 {
        let (lease, slot) = (&self.both.rig.lease, self.settings(path).vote_slot as usize);
        let at = word::BANKS + (lease.get(0, word::ACTIVE) & 1) as usize * bank::WORDS;
        lease.get(0, at + bank::DATES + slot)
    }

    /// Judges on both sides and checks how the frame ended. Returns the answer if there was one.
    #[track_caller]
    pub fn expect(&mut self, bytes: &[u8], counted: Option<Counter>) -> Option<Vec<u8>> {
        let (judged, answer) = self.both.receive(bytes).expect("both sides agree");
        assert_eq!(judged.counted, counted);
        self.both.compare_counters().expect("the kernel counted the same");
        answer
    }

    #[track_caller]
    pub fn dropped(&mut self, frame: &Frame, counter: Counter) {
        assert_eq!(self.expect(&frame.bytes(), Some(counter)), None);
    }

    #[track_caller]
    pub fn answered(&mut self, frame: &Frame) -> Vec<u8> {
        self.expect(&frame.bytes(), Some(Counter::Answered)).expect("an answer")
    }
}

/// Sums IP header and UDP datagram with their checksums in place: a right one makes all ones.
#[track_caller]
pub fn assert_checksums(bytes: &[u8]) {
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

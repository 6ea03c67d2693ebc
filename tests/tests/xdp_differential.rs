//! Random sequences of frames, judged by the kernel program and by the reference at once. State carries over from
//! frame to frame; after each, verdict, every byte and every recorded fact must agree.
//!
//! 10^7 frames; 10^9 with `HEARTBEAT_LONG=1`. The seed is printed, `HEARTBEAT_SEED` replays it: the draws are the
//! same, only the kernel's stamps differ.

use heartbeat_common::counter::Counter;
use heartbeat_tests::reference::{Keys, LEN, Settings};
use heartbeat_tests::xdp::checked::{Checked, hex};
use heartbeat_tests::xdp::random::Random;
use heartbeat_tests::xdp::{Frame, Heartbeat, Rig, may_run, now, world};
use std::collections::VecDeque;

/// Paths of each instance: IPv4 and IPv6, tagged and not.
const PATHS: u16 = 8;
/// Frames between two looks at the counters, which take a system call each.
const ROUND: u64 = 4096;
/// Least number of times that each counter must be hit in 10^7 frames.
const LEAST: u64 = 10_000;
/// The mark under which the paths' grants are given.
const MARK: u64 = 44;
/// Workers: one program, one set of maps and one reference each.
const WORKERS: u64 = 2;

/// What a worker keeps besides the two sides: what makes a frame *nearly* right.
struct Path {
    /// The peer's standing now.
    author: [u64; 7],
    /// Last sequence of the peer's probes and of own probes.
    sequence: [u64; 2],
    /// Frames seen lately, to be replayed.
    past: VecDeque<Vec<u8>>,
    /// A key that was replaced, with its slot.
    retired: Option<(u8, Keys)>,
}

struct Worker {
    both: Checked,
    random: Random,
    paths: Vec<Path>,
    authentic: u64,
    frames: u64,
}

impl Worker {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let settings: Vec<Settings> = (0..PATHS)
            .map(|index| {
                let mut settings = world::settings(&mut random, index);
                settings.vlan = if index % 4 < 2 { 0 } else { index };
                settings.min_hop_limit = if index < 4 { 255 } else { 64 };
                settings.grant_mark = MARK;
                // One of them beyond the page's slots.
                settings.vote_slot = [0, 1, 2, 94, 95, 96, 3, 4][usize::from(index)];
                settings
            })
            .collect();
        let paths = settings.iter().map(|_| Path::new(&mut random)).collect();
        let both = Checked::of(Rig::new().expect("the program loads"), settings).expect("the maps are filled");
        Self { both, random, paths, authentic: 0, frames: 0 }
    }

    fn run(&mut self, frames: u64) {
        while self.frames < frames {
            for _ in 0..ROUND {
                self.step();
            }
            self.both.compare_counters().expect("the kernel counted the same");
        }
    }

    fn step(&mut self) {
        let path = self.random.below(u64::from(PATHS)) as usize;
        match self.random.below(400) {
            17..=19 => self.set_page(),
            0 => self.reconfigure(path),
            1 => self.restart_peer(path),
            2 => self.set_own(),
            3 if self.random.one_in(4) => {
                self.both.forget(path);
                self.paths[path] = Path::new(&mut self.random);
            }
            4..=16 => self.depart(path),
            _ => self.receive(path),
        }
    }

    /// Changes what userspace may change while the program runs.
    fn reconfigure(&mut self, path: usize) {
        let random = &mut self.random;
        let mut fresh = world::keys(random);
        // Now and then only the keys of the exchanges, or only those of the standings.
        if let Some(old) = self.both.node.paths[path].0.slots[0] {
            match random.below(4) {
                0 => (fresh.peer_standing, fresh.own_standing) = (old.peer_standing, old.own_standing),
                1 => (fresh.theirs, fresh.mine) = (old.theirs, old.mine),
                _ => {}
            }
        }
        let (choice, slot, draw) = (random.below(5), random.below(2) as usize, random.word());
        let mut retired = None;
        let change = |settings: &mut Settings| match choice {
            0 | 1 => retired = settings.slots[slot].replace(fresh),
            2 => retired = settings.slots[slot].take(),
            3 => settings.answer_within_ns = [0, 500, 1000, 2000, 1_000_000, 10_000_000][(draw % 6) as usize],
            _ => settings.standing[3] = draw,
        };
        self.both.change(path, change).expect("configured");
        if retired.is_some() {
            self.paths[path].retired = retired.map(|keys| (slot as u8, keys));
        }
        // Without any key nothing is to be seen: not for long.
        let settings = &self.both.node.paths[path].0;
        if settings.slots == [None, None] {
            let keys = world::keys(&mut self.random);
            self.both
                .change(path, |settings| {
                    settings.slots[slot].get_or_insert(keys);
                })
                .expect("configured");
        }
    }

    fn restart_peer(&mut self, path: usize) {
        let newer = self.paths[path].author[0] + self.random.below(3);
        self.paths[path].author = world::standing(&mut self.random, newer);
        self.paths[path].sequence[0] = self.random.below(4);
    }

    /// Installs another view, or makes the page another incarnation's.
    fn set_page(&mut self) {
        let random = &mut self.random;
        let grants: Vec<(u32, u64)> = (0..usize::from(PATHS))
            .map(|path| (self.both.node.paths[path].0.vote_slot, self.paths[path].author[4]))
            .collect();
        let own = self.both.node.paths[0].0.standing[0];
        self.both.set_page(|page| {
            page.incarnation = random.pick(&[own, own, own, own, own - 1, 0]);
            page.fenced = random.pick(&[0, 0, own - 1, own]);
            page.granting = random.pick(&[MARK, MARK, MARK, 0, MARK + 1]);
            page.ahead = random.one_in(16);
            page.order = random.below(6);
            page.member = !random.one_in(3);
            for (slot, grant) in grants {
                if let Some(vote) = page.votes.get_mut(slot as usize) {
                    *vote = (if random.one_in(4) { 0 } else { grant }, random.pick(&[0, now() - 500_000]));
                }
            }
        });
    }

    fn set_own(&mut self) {
        self.both.node.flags = self.random.word() as u8 & !3;
        self.both.node.progress_ns = match self.random.below(4) {
            0 => 0,
            1 => now() + 1_000_000,
            _ => now().saturating_sub(self.random.below(20_000_000_000)),
        };
        world::install_own(&self.both.rig, &self.both.node);
    }

    fn depart(&mut self, path: usize) {
        let settings = self.both.node.paths[path].0.clone();
        let sequence = self.paths[path].sequence[1].wrapping_add(1 + self.random.below(3));
        self.paths[path].sequence[1] = sequence;
        let mut own = Heartbeat::own_probe(&settings, 0, self.paths[path].author[0], sequence);
        if self.random.one_in(16) {
            own.words[8] = self.random.below(4) << 48;
        }
        let mut frame = Frame::from_node(&settings, &own.bytes());
        if self.random.one_in(8) {
            frame.addresses[1][15] ^= 0x40;
        }
        self.both.depart(&frame.bytes()).unwrap_or_else(|fault| panic!("frame {}: {fault:#}", self.frames));
    }

    fn receive(&mut self, path: usize) {
        let (mut bytes, authentic) = self.draw(path);
        // Damage to a forged frame might make it good again.
        if authentic && self.random.one_in(32) {
            self.damage(&mut bytes);
        }
        self.frames += 1;
        let (judged, _) = self.both.receive(&bytes).unwrap_or_else(|fault| panic!("frame {}: {fault:#}", self.frames));
        let fences = [Counter::Fenced, Counter::FenceAcked, Counter::FenceTakenAck, Counter::DropFenceLimit];
        let taken = judged.counted.is_some_and(|counter| counter <= Counter::EchoLate || fences.contains(&counter));
        self.authentic += u64::from(taken);
        assert!(authentic || !taken, "a frame that nobody signed was taken: {}", hex(&bytes));
        if authentic {
            let past = &mut self.paths[path].past;
            past.push_back(bytes);
            if past.len() > 12 {
                past.pop_front();
            }
        }
    }

    /// Draws a frame; says whether its payload was signed by a key that is, or was, good.
    fn draw(&mut self, path: usize) -> (Vec<u8>, bool) {
        if self.random.one_in(24) && !self.paths[path].past.is_empty() {
            let index = self.random.below(self.paths[path].past.len() as u64) as usize;
            return (self.paths[path].past[index].clone(), true);
        }
        let settings = self.both.node.paths[path].0.clone();
        let mut slot = self.random.below(2) as u8;
        if settings.slots[usize::from(slot)].is_none() && !self.random.one_in(8) {
            slot ^= 1;
        }
        let mut heartbeat = match self.random.below(24) {
            0 | 1 => self.fence(&settings, path, slot),
            2..=9 => self.echo(&settings, path, slot),
            _ => self.probe(&settings, path, slot),
        };
        let mut signer = settings.slots[usize::from(slot)];
        let mut authentic = true;
        match self.random.below(64) {
            0 => authentic = false,
            1 => {
                if let Some((slot, keys)) = self.paths[path].retired {
                    heartbeat.words[0] = heartbeat.words[0] & !(0xff << 40) | u64::from(slot) << 40;
                    // It may have been put back by nobody: what is retired opens nothing.
                    (signer, authentic) = (Some(keys), false);
                }
            }
            2..=7 => self.bend(&mut heartbeat),
            _ => {}
        }
        let keys = signer.unwrap_or_else(|| world::keys(&mut self.random));
        let mut payload = heartbeat.signed(&settings, &keys);
        if !authentic && signer == settings.slots[usize::from(slot)] {
            let bit = self.random.below(64);
            payload[(128 + bit / 8) as usize] ^= 1 << (bit % 8);
        }
        // A fence without the second half of its tag is a kind that nobody knows.
        if heartbeat.words[8] >> 49 & 1 == 1 {
            match self.random.below(16) {
                0..=3 => payload[136..].fill(0),
                // A tag that is false already could be made good by it.
                4 if authentic => {
                    payload[128 + self.random.below(16) as usize] ^= 1;
                    authentic = false;
                }
                _ => {}
            }
        }
        let mut frame = Frame::to_node(&settings, &payload);
        if self.random.one_in(6) {
            self.deform(&mut frame);
        }
        (frame.bytes(), authentic)
    }

    fn probe(&mut self, settings: &Settings, path: usize, slot: u8) -> Heartbeat {
        let state = &mut self.paths[path];
        let random = &mut self.random;
        let sequence = near(random, &mut state.sequence[0]);
        let mut author = state.author;
        let mut responder = settings.standing[0];
        match random.below(24) {
            0 | 1 => responder = random.pick(&[0, responder - 1, responder + 1, u64::MAX]),
            2 | 3 => author[0] = author[0].saturating_sub(random.below(3)),
            4 => author[random.below(6) as usize + 1] = random.word(),
            5 => {
                state.author[1] = random.word();
                author = state.author;
            }
            _ => {}
        }
        let mut probe = Heartbeat::probe(settings, slot, &author, responder, sequence);
        probe.words[6] = random.word();
        probe.words[7] = match random.below(4) {
            0 => 0,
            1 => random.word(),
            _ => now() - random.below(1_000_000),
        };
        probe.words[8] = random.word() & 0x00fc_ffff_ffff_ffff;
        probe
    }

    /// A fence of this node or, less often, an acknowledgement of one of its own.
    fn fence(&mut self, settings: &Settings, path: usize, slot: u8) -> Heartbeat {
        let (random, own, peer) = (&mut self.random, settings.standing[0], self.paths[path].author[0]);
        if random.one_in(3) {
            let victim = peer.saturating_sub(random.below(3)) + u64::from(random.one_in(8));
            let mut ack = Heartbeat::acknowledgement(settings, slot, peer, victim);
            ack.words[3] = if random.one_in(8) { random.pick(&[own + 1, 0]) } else { own };
            ack.words[15] = random.below(4);
            return ack;
        }
        let victim = random.pick(&[own, own, own, own - 1, own + 1]);
        let order = (self.both.node.page.order + random.below(3)).saturating_sub(1);
        let mut fence = Heartbeat::fence(settings, slot, peer, victim, order);
        if random.one_in(16) {
            fence.words[random.pick(&[3, 4, 7, 9, 10, 15])] = random.below(2);
        }
        fence
    }

    fn echo(&mut self, settings: &Settings, path: usize, slot: u8) -> Heartbeat {
        let state = &mut self.paths[path];
        let random = &mut self.random;
        let sequence = near(random, &mut state.sequence[1]);
        let sent = match random.below(8) {
            0 => random.word(),
            1 => now() + 1_000_000,
            2 => now().saturating_sub(random.word() >> (24 + random.below(40))),
            _ => now().saturating_sub(random.below(2 * settings.answer_within_ns + 1)),
        };
        let mut author = state.author;
        match random.below(24) {
            0 => author[0] = author[0].saturating_sub(random.below(3)),
            1 if random.one_in(16) => author[0] += 1,
            2 => author[2] = random.word(),
            _ => {}
        }
        let mut echo = Heartbeat::echo(settings, slot, &author, sequence, sent, random.word() >> random.below(64));
        echo.words[4] = if random.one_in(8) { random.word() } else { author[0] };
        echo.words[8] = random.word() & 0x00f8_ffff_ffff_ffff | 1 << 48 | u64::from(random.one_in(16)) << 50;
        if random.one_in(16) {
            echo.words[15] = settings.standing[0] + random.below(4);
        }
        if random.one_in(24) {
            echo.words[3] = random.pick(&[settings.standing[0] - 1, settings.standing[0] + 1, 0]);
        }
        echo
    }

    /// Makes one field of a heartbeat wrong before it is signed: a peer with a fault, or of another version.
    fn bend(&mut self, heartbeat: &mut Heartbeat) {
        let random = &mut self.random;
        let words = &mut heartbeat.words;
        match random.below(10) {
            0 => words[0] ^= 1 << random.below(32),
            1 => words[0] ^= 1 << (32 + random.below(8)),
            2 => words[0] ^= 1 << (40 + random.below(8)),
            3 => words[0] ^= 1 << (48 + random.below(16)),
            4 => words[1] ^= 1 << random.below(64),
            5 => words[2] ^= 1 << random.below(64),
            6 => words[8] ^= 1 << (56 + random.below(8)),
            7 => words[8] ^= 2 << 48,
            8 => words[17] = 1 << random.below(64),
            _ => words[random.below(18) as usize] = random.word(),
        }
    }

    /// Makes the headers wrong, or somebody else's.
    fn deform(&mut self, frame: &mut Frame) {
        let random = &mut self.random;
        match random.below(14) {
            0 => frame.ports[1] = random.word() as u16,
            1 => frame.ports[0] = random.word() as u16,
            2 => frame.hop_limit = random.word() as u8,
            3 => frame.addresses[random.below(2) as usize][random.below(16) as usize] ^= 1 << random.below(8),
            4 => frame.ip_length_error = 1 << random.below(16),
            5 => frame.udp_length_error = 1 << random.below(16),
            6 => frame.fragment = random.pick(&[0x2000, 0x2001, 1, 0x8000, 0]),
            7 => frame.options = vec![random.word() as u8; 4 * (1 + random.below(10) as usize)],
            8 => {
                for _ in 0..=random.below(6) {
                    let kind = random.pick(&[0, 43, 60, 135, 44, 51, 50]);
                    let units = if kind == 44 { 0 } else { random.below(3) as u8 };
                    let length = if kind == 51 { (usize::from(units) + 2) * 4 } else { (usize::from(units) + 1) * 8 };
                    let mut bytes = vec![0; length];
                    bytes[1] = units;
                    bytes[3] = random.pick(&[0, 1, 8]);
                    frame.extensions.push((kind, bytes));
                }
            }
            9 => {
                frame.tags.clear();
                for _ in 0..random.below(6) {
                    frame.tags.push((random.pick(&[0x8100, 0x8100, 0x88a8]), random.word() as u16));
                }
            }
            10 => frame.checksum = Some(random.pick(&[0, 0, 0xffff, 0x1234])),
            11 => frame.macs[random.below(2) as usize][0] = random.word() as u8,
            12 => frame.protocol = random.word() as u8,
            _ => frame.payload.resize(random.pick(&[0, LEN - 1, LEN + 1, LEN + 500]), 0),
        }
    }

    /// Changes bytes without regard to what they mean.
    fn damage(&mut self, bytes: &mut Vec<u8>) {
        let random = &mut self.random;
        match random.below(3) {
            0 => bytes.truncate((14 + random.below(bytes.len() as u64 - 13) as usize).min(bytes.len())),
            1 => bytes.resize(bytes.len() + random.below(64) as usize, random.word() as u8),
            _ => {
                for _ in 0..=random.below(3) {
                    let bit = random.below(8 * bytes.len() as u64) as usize;
                    bytes[bit / 8] ^= 1 << (bit % 8);
                }
            }
        }
    }
}

impl Path {
    fn new(random: &mut Random) -> Self {
        let incarnation = 1 + random.below(1000);
        Self {
            author: world::standing(random, incarnation),
            sequence: if random.one_in(16) { [u64::MAX - 200; 2] } else { [random.below(1000); 2] },
            past: VecDeque::new(),
            retired: None,
        }
    }
}

/// A sequence: mostly the next, else near the window's edges. `last` is the newest drawn.
fn near(random: &mut Random, last: &mut u64) -> u64 {
    let sequence = match random.below(16) {
        0 => last.saturating_sub(random.below(70)),
        1 => last.wrapping_add(random.below(130)),
        2 => *last,
        3 if random.one_in(64) => random.pick(&[0, 1, u64::MAX, 1 << 32]),
        _ => last.wrapping_add(1),
    };
    // Leaps to the end of the numbers are tried, but not built upon.
    if sequence > *last && sequence - *last < 200 {
        *last = sequence;
    }
    sequence
}

#[test]
fn kernel_and_reference_agree() {
    if !may_run("kernel_and_reference_agree") {
        return;
    }
    let long = std::env::var_os("HEARTBEAT_LONG").is_some_and(|value| value == "1");
    let frames: u64 = if long { 1_000_000_000 } else { 10_000_000 };
    let frames = std::env::var("HEARTBEAT_FRAMES").map_or(frames, |text| text.parse().expect("a number of frames"));
    let seed = Random::seed("kernel_and_reference_agree");
    let start = std::time::Instant::now();
    let workers: Vec<Worker> = std::thread::scope(|scope| {
        let spawned: Vec<_> = (0..WORKERS)
            .map(|number| {
                scope.spawn(move || {
                    let mut worker = Worker::new(seed.wrapping_add(number << 32));
                    worker.run(frames / WORKERS);
                    worker
                })
            })
            .collect();
        spawned.into_iter().map(|worker| worker.join().expect("the sides agreed")).collect()
    });
    let total: u64 = workers.iter().map(|worker| worker.frames).sum();
    let authentic: u64 = workers.iter().map(|worker| worker.authentic).sum();
    let passed: u64 = workers.iter().map(|worker| worker.both.passed).sum();
    let rate = total as f64 / start.elapsed().as_secs_f64();
    println!("{total} frames in {:.1} s, {rate:.0} a second; {authentic} authentic", start.elapsed().as_secs_f64());
    println!("{:>20} {passed:>12}", "passed");
    let least = LEAST * frames / 10_000_000;
    let mut rare = Vec::new();
    for counter in Counter::ALL {
        let hits: u64 = workers.iter().map(|worker| worker.both.counted[*counter as usize]).sum();
        println!("{:>20} {hits:>12}", counter.name());
        // These need a hand in the maps: `xdp_verdicts` has them.
        let elsewhere = [Counter::Contended, Counter::Internal].contains(counter);
        if hits < least && !elsewhere {
            rare.push(counter.name());
        }
    }
    assert!(rare.is_empty(), "hit less than {least} times: {rare:?}");
    assert!(passed >= least);
    assert!(authentic * 5 >= total, "less than a fifth authentic");
}

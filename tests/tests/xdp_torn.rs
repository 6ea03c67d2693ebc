//! Two writers and the daemon's reader of one tick: no copy is torn, no write is lost; and both show at once when the
//! protocol is taken out, on the reader's side or on the writers'.
//!
//! On two CPUs: the second writer has CPU 1 to itself, so it writes while either of the others runs; the first
//! writer and the reader take turns on CPU 0. With more CPUs each has its own. A writer cannot be preempted by a
//! task while it writes, so a reader sees it in only from another CPU.

use heartbeat_common::counter::Counter;
use heartbeat_common::tick::Tick;
use heartbeat_tests::reference::{Keys, Settings};
use heartbeat_tests::xdp::random::Random;
use heartbeat_tests::xdp::rig::Action;
use heartbeat_tests::xdp::{Frame, Heartbeat, LOOPBACK, Rig, may_run, object, world};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Copies taken in the run that must show none torn.
const COPIES: u64 = 100_000_000;
/// Copies after which a run without the protocol must have shown a torn one.
const COPIES_WITHOUT: u64 = 20_000_000;
/// The tick.
const PATH: usize = 0;

/// What the two writers write.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Writers {
    /// Both feed the peer's probes, by turns in sequence.
    Probes,
    /// One feeds probes, the other lets own probes depart.
    ProbesAndDepartures,
}

/// What a run showed.
#[derive(Debug, Default)]
struct Seen {
    copies: u64,
    /// Copies before which the lock was held: the reader had to wait for the writer.
    met: u64,
    /// Copies that the reader gave up, as it does when a writer stays in.
    given_up: u64,
    torn: u64,
    /// Frames that the program said it had taken, and what the tick says.
    taken: u64,
    recorded: u64,
    lost: u64,
}

fn pin(cpu: usize) {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let mut set = CpuSet::new();
    set.set(cpu.min(cpus - 1)).expect("a CPU that there is");
    sched_setaffinity(Pid::from_raw(0), &set).expect("a thread may choose its CPU");
}

/// Says whether a copy mixes two writes. Only what one frame writes together is compared.
fn torn(tick: &Tick<u64>) -> bool {
    let top = tick.probe_top;
    if top != 0 {
        // Each probe carries its own sequence in the dynamic word, and in every word of its standing.
        let dynamic = top & 0xff_ffff;
        let standing = tick.standing[1..].iter().any(|word| *word != top);
        if tick.peer_dynamic != dynamic || standing || tick.probe_bits & 1 == 0 {
            return true;
        }
    }
    let times = tick.probe_ns != tick.heard_ns || tick.probe_ns != tick.answered_ns;
    let departed = tick.departed[(tick.departures % 8) as usize];
    let departures = tick.departures != 0 && (departed.sequence != tick.departures || departed.ns == 0);
    times || departures || tick.probes != tick.answers
}

fn probe(settings: &Settings, keys: &Keys, sequence: u64) -> Vec<u8> {
    let author = [70, sequence, sequence, sequence, sequence, sequence, sequence];
    let mut heartbeat = Heartbeat::probe(settings, 0, &author, settings.standing[0], sequence);
    heartbeat.words[8] = sequence & 0xff_ffff;
    Frame::to_node(settings, &heartbeat.signed(settings, keys)).bytes()
}

fn own_probe(settings: &Settings, sequence: u64) -> Vec<u8> {
    let heartbeat = Heartbeat::own_probe(settings, 0, 70, sequence);
    Frame::from_node(settings, &heartbeat.bytes()).bytes()
}

/// Lets two writers loose on one tick until `copies` were taken or one was torn and `stop_at_first`.
fn run(rig: &Rig, settings: &Settings, writers: Writers, copies: u64, heed: bool, stop_at_first: bool) -> Seen {
    let keys = settings.slots[0].expect("slot 0 holds a key");
    let (stop, next, taken) = (AtomicBool::new(false), AtomicU64::new(1), AtomicU64::new(0));
    let write = |cpu: usize, departures: bool| {
        pin(cpu);
        let mut out = vec![0; 2048];
        let mut own = 0;
        while !stop.load(Ordering::Relaxed) {
            if departures {
                rig.depart(&own_probe(settings, own + 1)).expect("runs");
                // One that found the lock held for too long (its holder's CPU was taken away) is lost, and made again:
                // count and sequence stay tied. Nobody else lets probes depart.
                own = rig.ticks.get(PATH, std::mem::offset_of!(Tick<u64>, departures) / 8);
                continue;
            }
            let frame = probe(settings, &keys, next.fetch_add(1, Ordering::Relaxed));
            let ran = rig.receive(&frame, &mut out).expect("runs");
            taken.fetch_add(u64::from(ran.action == Action::Transmit), Ordering::Relaxed);
        }
    };
    let mut seen = std::thread::scope(|scope| {
        scope.spawn(|| write(0, false));
        scope.spawn(|| write(1, writers == Writers::ProbesAndDepartures));
        let reader = scope.spawn(|| {
            pin(2 % std::thread::available_parallelism().map_or(1, usize::from));
            let seen = read(rig, copies, heed, stop_at_first);
            stop.store(true, Ordering::Relaxed);
            seen
        });
        reader.join().expect("the reader ends")
    });
    let tick = rig.tick(PATH as u32);
    (seen.taken, seen.recorded) = (taken.into_inner(), tick.probes);
    seen.lost = rig.counters().expect("counters")[Counter::Contended as usize];
    seen
}

/// Copies by the daemon's own reader, or without heeding the lock.
fn read(rig: &Rig, copies: u64, heed: bool, stop_at_first: bool) -> Seen {
    let shared = rig.shared(PATH as u32 + 1).expect("the maps are mapped");
    let mut seen = Seen::default();
    while seen.copies < copies && seen.given_up < copies && !(stop_at_first && seen.torn > 0) {
        seen.met += rig.ticks.get(PATH, 0) & 1;
        let tick = if heed { shared.tick(PATH as u32) } else { Some(rig.ticks.copy(PATH)) };
        match tick {
            Some(tick) => {
                seen.copies += 1;
                seen.torn += u64::from(torn(&tick));
            }
            None => seen.given_up += 1,
        }
    }
    seen
}

fn rig(of: aya::Ebpf) -> (Rig, Settings) {
    let mut settings = world::settings(&mut Random::new(5), 0);
    settings.ifindex = LOOPBACK;
    let node =
        heartbeat_tests::reference::Node { paths: vec![(settings.clone(), Default::default())], ..Default::default() };
    let mut rig = Rig::of(of).expect("the program loads");
    world::install(&mut rig, &node).expect("the maps are filled");
    (rig, settings)
}

#[test]
fn no_copy_is_torn() {
    if !may_run("no_copy_is_torn") {
        return;
    }
    for writers in [Writers::Probes, Writers::ProbesAndDepartures] {
        let (rig, settings) = rig(object::load().expect("the object"));
        let seen = run(&rig, &settings, writers, COPIES / 2, true, false);
        println!("{seen:?}");
        assert_eq!((seen.torn, seen.copies), (0, COPIES / 2));
        assert_eq!(seen.taken, seen.recorded, "a write was lost");
        assert!(seen.met > 1000, "the reader hardly met a writer: {} times", seen.met);
    }
}

#[test]
fn a_reader_that_ignores_the_lock_sees_torn_copies() {
    if !may_run("a_reader_that_ignores_the_lock_sees_torn_copies") {
        return;
    }
    for writers in [Writers::Probes, Writers::ProbesAndDepartures] {
        let (rig, settings) = rig(object::load().expect("the object"));
        let seen = run(&rig, &settings, writers, COPIES_WITHOUT, false, true);
        println!("{seen:?}");
        assert!(seen.torn > 0, "none torn in {} copies: the test proves nothing", seen.copies);
    }
}

#[test]
fn writers_without_the_lock_tear_the_tick_or_lose_writes() {
    if !may_run("writers_without_the_lock_tear_the_tick_or_lose_writes") {
        return;
    }
    let (rig, settings) = rig(object::load_unlocked().expect("the object, patched"));
    let seen = run(&rig, &settings, Writers::Probes, COPIES_WITHOUT, true, false);
    println!("{seen:?}");
    assert!(seen.torn > 0 && seen.taken != seen.recorded, "not noticed: {seen:?}");
}

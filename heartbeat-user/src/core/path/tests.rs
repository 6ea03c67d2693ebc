//! Tests of one path's counting and ladder, to the nanosecond.

use super::*;
use heartbeat_common::tick::{DEPARTURES, Departure};
use proptest::prelude::*;
use std::time::Duration;

const DELAY: u64 = 100;
const RULE: PathSettings =
    PathSettings { delay: Duration::from_micros(100), threshold: 5, lost: 2, unreachable: 4, failed: 5 };
const US: u64 = 1_000;
const START: u64 = 1_000 * US;

struct Rig {
    path: Path,
    tick: Tick<u64>,
    attempts: [Attempt; ATTEMPTS],
    usable: bool,
    mute: bool,
}

/// Times are microseconds after the start.
impl Rig {
    fn new() -> Self {
        let path = Path::new(RULE, MonoTime(START));
        Self { path, tick: Tick::default(), attempts: [Attempt::default(); ATTEMPTS], usable: true, mute: false }
    }

    fn up() -> Self {
        let mut rig = Self::new();
        rig.hear(1);
        rig.observe(1);
        assert_eq!(rig.path.state(), PathState::Up);
        rig
    }

    fn attempt(&mut self, sequence: u64, us: u64) {
        self.attempts[(sequence >> 1 & 7) as usize] = Attempt { sequence, ns: START + us * US };
    }

    fn depart(&mut self, sequence: u64, us: u64) {
        self.tick.departed[(sequence & 7) as usize] = Departure { sequence, ns: START + us * US };
    }

    fn send(&mut self, sequence: u64, us: u64) {
        self.attempt(sequence, us);
        self.depart(sequence, us);
    }

    fn hear(&mut self, us: u64) {
        self.tick.heard_ns = START + us * US;
    }

    fn observe_ns(&mut self, ns: u64) -> Vec<(PathState, u64)> {
        let input = PathInput {
            tick: &self.tick,
            attempts: &self.attempts,
            usable: self.usable,
            mute: self.mute,
            answers_in_kernel: false,
            changed: true,
        };
        let changes = self.path.observe(MonoTime(START + ns), &input);
        changes.steps.iter().map(|step| (step.to, (step.at.0 - START) / US)).collect()
    }

    fn observe(&mut self, us: u64) -> Vec<(PathState, u64)> {
        self.observe_ns(us * US)
    }

    fn counts(&self) -> (u32, u32) {
        (self.path.misses(), self.path.unsent())
    }
}

#[test]
fn a_probe_misses_exactly_one_delay_after_it_left() {
    let mut rig = Rig::up();
    rig.send(2, 10);
    assert_eq!(rig.observe_ns(110 * US - 1), []);
    assert_eq!(rig.counts(), (0, 0));
    assert_eq!(rig.path.timeout(), Some(MonoTime(START + 110 * US)));
    rig.observe(110);
    assert_eq!(rig.counts(), (1, 0));
    assert_eq!(rig.path.timeout(), None);
    rig.observe(500);
    assert_eq!(rig.counts(), (1, 0), "a probe is judged once");
}

#[test]
fn being_heard_at_or_after_departure_answers_it() {
    for (heard_ns, misses) in [(10 * US - 1, 1), (10 * US, 0), (10 * US + 1, 0)] {
        let mut rig = Rig::up();
        rig.send(2, 10);
        rig.tick.heard_ns = START + heard_ns;
        rig.observe(110);
        assert_eq!(rig.counts(), (misses, 0), "heard {heard_ns}");
    }
}

#[test]
fn probes_that_catch_up_make_no_silence_before_its_time() {
    let mut rig = Rig::up();
    for n in 0..5 {
        rig.send(2 + 2 * n, 2 + n * 60);
        rig.observe(2 + n * 60);
    }
    rig.observe(342);
    assert_eq!(rig.counts(), (5, 0));
    assert!(rig.path.suspect() && !rig.path.silent());
    // Heard at 1, so the detection time of 500 is over at 501, and somebody has to look then.
    assert_eq!(rig.path.timeout(), Some(MonoTime(START + 501 * US)));
    rig.observe_ns(501 * US - 1);
    assert!(!rig.path.silent());
    rig.observe(501);
    assert!(rig.path.silent());
    assert_eq!(rig.path.timeout(), None);
}

#[test]
fn being_heard_clears_what_was_counted() {
    let mut rig = Rig::up();
    for n in 0..3 {
        rig.send(2 + 2 * n, 10 + n * DELAY);
        rig.observe(10 + n * DELAY);
    }
    rig.observe(310);
    assert_eq!(rig.counts(), (3, 0));
    rig.hear(320);
    assert_eq!(rig.observe(320), [(PathState::Up, 320)]);
    assert_eq!(rig.counts(), (0, 0));
}

#[test]
fn an_attempt_that_never_left_is_unsent_and_one_that_left_late_is_judged_once() {
    let mut rig = Rig::up();
    rig.attempt(2, 10);
    rig.observe(10);
    assert_eq!(rig.path.timeout(), Some(MonoTime(START + 110 * US)));
    rig.observe(110);
    assert_eq!(rig.counts(), (0, 1));
    rig.depart(2, 150);
    rig.observe(400);
    assert_eq!(rig.counts(), (0, 1), "it left after its time: not a second fault");

    let mut rig = Rig::up();
    rig.attempt(2, 10);
    rig.observe(10);
    rig.depart(2, 90);
    rig.observe(110);
    assert_eq!(rig.counts(), (0, 0), "it left within its time and has one delay from then");
    rig.observe(190);
    assert_eq!(rig.counts(), (1, 0));
}

#[test]
fn probes_that_leave_together_count_once() {
    let mut rig = Rig::up();
    rig.send(2, 10);
    rig.send(4, 59);
    rig.send(6, 60);
    rig.observe(200);
    assert_eq!(rig.counts(), (2, 0), "49 us after the first is less than half a delay, 50 us is not");
}

#[test]
fn extra_probes_are_never_counted() {
    let mut rig = Rig::up();
    for sequence in [1, 3, 5, 7] {
        rig.send(sequence, 10 + sequence * 50);
    }
    rig.observe(1_000);
    assert_eq!(rig.counts(), (0, 0));
}

#[test]
fn what_the_kernel_no_longer_records_is_not_held_against_anybody() {
    let mut rig = Rig::up();
    // Eight attempts, all of which left; the ring holds the last four departures.
    for n in 0..8 {
        rig.send(2 + 2 * n, 10 + n * DELAY);
    }
    rig.observe(2_000);
    assert_eq!(rig.counts(), (4, 0));
}

#[test]
fn departures_seen_survive_the_ring() {
    let mut rig = Rig::up();
    for n in 0..4 {
        rig.send(2 + 2 * n, 10 + n);
    }
    rig.observe(20);
    // Four more leave together before the first are due.
    for n in 4..8 {
        rig.send(2 + 2 * n, 70 + n);
    }
    rig.observe(80);
    rig.observe(112);
    assert_eq!(rig.counts(), (1, 0));
    rig.observe(180);
    assert_eq!(rig.counts(), (2, 0));
}

#[test]
fn nothing_attempted_counts_nothing() {
    let mut rig = Rig::up();
    assert_eq!(rig.observe(1_000_000), []);
    assert_eq!(rig.counts(), (0, 0));
    assert_eq!(rig.path.timeout(), None);
}

#[test]
fn the_ladder_is_climbed_rung_by_rung_with_the_time_of_each_miss() {
    let mut rig = Rig::up();
    let mut seen = Vec::new();
    for n in 0..6 {
        rig.send(2 + 2 * n, 10 + n * DELAY);
        seen.extend(rig.observe(60 + n * DELAY));
    }
    use PathState::{Failed, Lost, Unreachable, Up};
    assert_eq!(seen, [(Lost, 210), (Unreachable, 410), (Failed, 510)]);
    rig.hear(700);
    assert_eq!(rig.observe(700), [(Up, 700)]);
}

#[test]
fn a_path_never_heard_waits_for_its_detection_time() {
    let mut rig = Rig::new();
    let mut seen = Vec::new();
    for n in 0..6 {
        rig.send(2 + 2 * n, 10 + n * DELAY);
        seen.extend(rig.observe(60 + n * DELAY));
    }
    use PathState::{Failed, Lost, Unreachable};
    assert_eq!(seen, [(Lost, 510), (Unreachable, 510), (Failed, 510)]);
}

#[test]
fn a_record_from_before_the_start_is_kept_but_proves_nothing() {
    let mut rig = Rig::new();
    rig.tick.heard_ns = START - 1;
    assert_eq!(rig.observe(0), []);
    assert_eq!((rig.path.state(), rig.path.was_heard()), (PathState::Unknown, false));
    assert_eq!(rig.path.heard(), MonoTime(START - 1));
    rig.tick.departed[2] = Departure { sequence: 2, ns: START - 1 };
    rig.observe(900);
    assert_eq!(rig.counts(), (0, 0));
}

#[test]
fn an_unusable_path_fails_at_once_and_counts_by_the_clock_while_this_node_runs() {
    let mut rig = Rig::up();
    rig.usable = false;
    assert_eq!(rig.observe(50), [(PathState::Failed, 50)]);
    assert_eq!(rig.path.timeout(), Some(MonoTime(START + 150 * US)));
    rig.observe_ns(150 * US - 1);
    assert_eq!(rig.counts(), (0, 0));
    rig.observe(150);
    assert_eq!(rig.counts(), (0, 1));
    assert_eq!(rig.path.timeout(), Some(MonoTime(START + 250 * US)));
    rig.observe(5_000);
    assert_eq!(rig.counts(), (0, 2), "a pause is not held against anybody");
    rig.usable = true;
    assert_eq!(rig.observe(5_010), []);
    rig.hear(5_020);
    assert_eq!(rig.observe(5_020), [(PathState::Up, 5_020)]);
}

#[test]
fn a_mute_path_fails_at_once_counts_nothing_and_steps_aside_when_nothing_is_heard() {
    let mut rig = Rig::up();
    rig.send(2, 10);
    rig.observe(110);
    assert_eq!(rig.counts(), (1, 0));
    rig.mute = true;
    assert_eq!(rig.observe(250), [(PathState::Failed, 250)]);
    assert_eq!((rig.counts(), rig.path.aside()), ((0, 0), false));
    let aside = MonoTime(rig.tick.heard_ns) + RULE.detection_time() + Duration::from_nanos(1);
    assert_eq!(rig.path.timeout(), Some(aside));
    rig.observe_ns(aside.0 - START - 1);
    assert!(!rig.path.aside());
    rig.observe_ns(aside.0 - START);
    assert_eq!((rig.counts(), rig.path.aside(), rig.path.timeout()), ((0, 0), true, None));
    rig.hear(5_000);
    assert_eq!(rig.observe(5_000), [], "heard, and still mute");
    assert!(!rig.path.aside());
    // Its carrier goes as well: from then on it counts as every path without one.
    rig.usable = false;
    rig.observe(5_010);
    rig.observe(5_110);
    assert_eq!((rig.counts(), rig.path.aside()), ((0, 1), false));
    (rig.usable, rig.mute) = (true, false);
    rig.hear(5_120);
    assert_eq!(rig.observe(5_120), [(PathState::Up, 5_120)]);
}

#[test]
fn the_deadline_of_the_echo_check_is_the_paths_too() {
    let mut path = Path::new(RULE, MonoTime(START));
    let attempts = [Attempt::default(); ATTEMPTS];
    let mut observe = |us: u64, count| {
        let tick = Tick { answers: count, echoes: count, echo_ns: START + 400 * US, ..Tick::default() };
        let input = PathInput::fresh(&tick, &attempts);
        let lost = path.observe(MonoTime(START + us * US), &input).echoes_lost;
        (lost, path.timeout())
    };
    assert_eq!(observe(0, 0), (None, None));
    assert_eq!(observe(400, 5), (None, Some(MonoTime(START + 500 * US))));
    let again = MonoTime(START + 500 * US) + crate::core::echoes::AGAIN;
    assert_eq!(observe(500, 5), (Some(EchoLoss { answers: 5, open: true }), Some(again)));
}

fn missed(count: u64) -> Rig {
    let mut rig = Rig::up();
    for n in 0..count {
        rig.send(2 + 2 * n, 10 + n * DELAY);
        rig.observe(10 + n * DELAY);
    }
    rig.observe(10 + count * DELAY);
    assert_eq!(u64::from(rig.path.count()), count);
    rig
}

#[test]
fn a_changed_rule_carries_silence_over_as_time_and_never_accuses_by_itself() {
    let slower = PathSettings { delay: Duration::from_micros(1_000), ..RULE };
    let mut rig = missed(4);
    rig.path.reconfigure(slower);
    assert_eq!(rig.counts(), (0, 0), "400 us are no whole delay of 1 ms");

    let quicker = PathSettings { threshold: 3, ..RULE };
    let mut rig = missed(4);
    rig.path.reconfigure(quicker);
    assert_eq!(rig.counts(), (1, 0));
    assert!(!rig.path.suspect());
    rig.send(20, 420);
    rig.observe(520);
    assert!(rig.path.suspect() && !rig.path.silent());

    let mut rig = missed(4);
    rig.path.reconfigure(RULE);
    assert_eq!(rig.counts(), (4, 0), "no change, no effect");
}

#[test]
fn probes_on_their_way_keep_the_longer_delay() {
    let mut rig = Rig::up();
    rig.send(2, 10);
    rig.observe(20);
    rig.path.reconfigure(PathSettings { delay: Duration::from_micros(200), ..RULE });
    rig.observe(5_000);
    assert_eq!(rig.counts(), (0, 0), "sent under a shorter delay: not judged");

    let mut rig = Rig::up();
    rig.path.reconfigure(PathSettings { delay: Duration::from_micros(200), ..RULE });
    rig.send(2, 10);
    rig.observe(20);
    rig.path.reconfigure(RULE);
    rig.observe_ns(210 * US - 1);
    assert_eq!(rig.counts(), (0, 0));
    rig.observe(210);
    assert_eq!(rig.counts(), (1, 0));
}

proptest! {
    /// Against arbitrary send, loss, departure and answer times: misses never exceed what left, nothing is counted
    /// before one delay, the deadline is exact, and an answer clears everything.
    #[test]
    fn counts_stay_within_the_facts(ops in prop::collection::vec((0u8..6, 1u64..160), 1..120)) {
        let mut rig = Rig::up();
        let (mut now, mut sequence) = (2, 0);
        let mut left: Vec<u64> = Vec::new();
        let mut tried: Vec<u64> = Vec::new();
        for (op, step) in ops {
            now += step;
            match op {
                0 | 1 => {
                    sequence += 2;
                    rig.send(sequence, now);
                    left.push(now);
                }
                2 => {
                    sequence += 2;
                    rig.attempt(sequence, now);
                    tried.push(now);
                }
                3 => rig.hear(now),
                _ => {}
            }
            if op == 5 {
                continue;
            }
            rig.observe(now);
            let heard = rig.tick.heard_ns;
            let due = |at: &&u64| START + **at * US > heard && **at + DELAY <= now;
            prop_assert!(rig.path.misses() as usize <= left.iter().filter(due).count());
            prop_assert!(rig.path.unsent() as usize <= tried.iter().filter(due).count());
            prop_assert!(op != 3 || rig.path.count() == 0);
            let before = (rig.counts(), rig.path.state());
            if let Some(timeout) = rig.path.timeout() {
                prop_assert!(timeout > MonoTime(START + now * US));
                let mut early = Rig { path: rig.path.clone(), ..rig };
                prop_assert_eq!(early.observe_ns(timeout.0 - 1 - START), []);
                prop_assert_eq!((early.counts(), early.path.state()), before);
            } else {
                let mut early = Rig { path: rig.path.clone(), ..rig };
                prop_assert_eq!(early.observe(now + 1_000_000), []);
                prop_assert_eq!((early.counts(), early.path.state()), before);
            }
        }
    }

    /// No panic, whatever the kernel's record says.
    #[test]
    fn garbage_never_panics(
        words in prop::collection::vec(any::<u64>(), 10 + DEPARTURES * 2),
        times in prop::collection::vec(any::<u64>(), 1..8),
        usable in any::<bool>(),
        mute in any::<bool>(),
    ) {
        let mut rig = Rig::new();
        (rig.usable, rig.mute) = (usable, mute);
        rig.tick.heard_ns = words[0];
        rig.tick.returned_ns = words[1];
        rig.tick.answers = words[2];
        for (slot, pair) in words[10..].chunks(2).enumerate() {
            rig.tick.departed[slot] = Departure { sequence: pair[0], ns: pair[1] };
            rig.attempts[slot] = Attempt { sequence: pair[1], ns: pair[0] };
        }
        for time in times {
            let input = PathInput {
                tick: &rig.tick, attempts: &rig.attempts, usable: rig.usable, mute: rig.mute, answers_in_kernel: true,
                changed: true,
            };
            let _ = rig.path.observe(MonoTime(time), &input);
            prop_assert!(rig.path.misses() as usize <= DEPARTURES);
        }
    }
}

//! Three clocks of this host side by side: that it slept, and that one of them runs out of its bounds, is seen by how they
//! part. It stops nothing itself.

use crate::core::agreement::document::{SLEW_PPM, SLEW_WINDOW};
use crate::core::agreement::types::Times;
use crate::core::time::MonoTime;
use nix::time::{ClockId, clock_gettime};

/// Over which time clocks are compared.
const WINDOW_NS: u64 = SLEW_WINDOW.as_nanos() as u64;
/// More than this gained or lost by CLOCK_MONOTONIC within the window is out of bounds: no more than waits cover.
const OUT_NS: u64 = WINDOW_NS / 1_000_000 * SLEW_PPM;
/// CLOCK_BOOTTIME and CLOCK_MONOTONIC part by this much only when the host sleeps.
const SLEPT_NS: u64 = 1_000_000;

fn read(clock: ClockId) -> u64 {
    let time = clock_gettime(clock).expect("clock_gettime knows the fixed clocks of Linux");
    time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64
}

/// Says whether the host slept since CLOCK_BOOTTIME was ahead of CLOCK_MONOTONIC by `offset` ns. That came of one reading,
/// which may have been interrupted; the shortest of sleeps is far longer.
#[must_use]
pub const fn slept_since(offset: u64, now: Times) -> bool {
    now.boot_ns.saturating_sub(now.mono.0) > offset.saturating_add(10 * SLEPT_NS)
}

/// Reads the clocks. CLOCK_MONOTONIC last: what a bank of the page adds to its stamps is then never too much.
#[must_use]
pub fn now() -> Times {
    let raw_ns = read(ClockId::CLOCK_MONOTONIC_RAW);
    let boot_ns = read(ClockId::CLOCK_BOOTTIME);
    Times { mono: MonoTime(read(ClockId::CLOCK_MONOTONIC)), boot_ns, raw_ns }
}

/// The tightest of three readings: one that was interrupted shows clocks further apart than they are.
#[must_use]
pub fn tight() -> Times {
    let one = || {
        let begun = read(ClockId::CLOCK_MONOTONIC);
        let times = now();
        (times.mono.0 - begun, times)
    };
    (0..3).map(|_| one()).min_by_key(|(took, _)| *took).map_or_else(now, |(_, times)| times)
}

/// What a look at the clocks found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The host slept since the last look.
    pub slept: bool,
    /// A clock has left its bounds (true) or is within them again.
    pub news: Option<bool>,
}

/// What was seen of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clocks {
    /// CLOCK_BOOTTIME less CLOCK_MONOTONIC.
    offset: Option<u64>,
    /// Where the window begins.
    from: Option<Times>,
    out: bool,
}

impl Clocks {
    /// Reads them.
    #[must_use]
    pub fn times(&self) -> Times {
        now()
    }

    /// Begins with the reading that a start is made by: a sleep between it and the first look is one that is seen.
    #[must_use]
    pub const fn begun(now: Times) -> Self {
        Self { offset: Some(now.boot_ns.saturating_sub(now.mono.0)), from: None, out: false }
    }

    /// Compares them with the look before.
    pub fn look(&mut self) -> Seen {
        self.compare(tight())
    }

    /// Compares these with the look before.
    pub fn compare(&mut self, now: Times) -> Seen {
        let offset = now.boot_ns.saturating_sub(now.mono.0);
        let slept = self.offset.is_some_and(|before| offset > before.saturating_add(SLEPT_NS));
        self.offset = Some(self.offset.map_or(offset, |before| if slept { offset } else { before.max(offset) }));
        let from = *self.from.get_or_insert(now);
        let (mono, raw) = (now.mono.0.saturating_sub(from.mono.0), now.raw_ns.saturating_sub(from.raw_ns));
        if raw < WINDOW_NS {
            let out = mono.abs_diff(raw) > OUT_NS;
            return Seen { slept, news: self.turn(out || self.out) };
        }
        self.from = Some(now);
        // A longer window, after a pause, has had more time to drift.
        let bound = OUT_NS.saturating_mul(raw / WINDOW_NS);
        Seen { slept, news: self.turn(mono.abs_diff(raw) > bound) }
    }

    fn turn(&mut self, out: bool) -> Option<bool> {
        (std::mem::replace(&mut self.out, out) != out).then_some(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::agreement::document::{DRIFT_PPM, LeaseTerms};
    use crate::core::agreement::stops::slack;
    use std::time::Duration;

    const S: u64 = 1_000_000_000;

    fn at(mono: u64, raw: u64, slept: u64) -> Times {
        Times { mono: MonoTime(100 * S + mono), boot_ns: 100 * S + mono + slept, raw_ns: 100 * S + raw }
    }

    #[test]
    fn a_sleep_is_seen_once() {
        let mut clocks = Clocks::default();
        assert!(!clocks.compare(at(0, 0, 0)).slept);
        assert!(!clocks.compare(at(S, S, 900_000)).slept, "readings are never quite together");
        assert!(clocks.compare(at(2 * S, 2 * S, 5 * S)).slept);
        assert!(!clocks.compare(at(3 * S, 3 * S, 5 * S)).slept);
    }

    #[test]
    fn a_sleep_before_the_first_look_is_seen() {
        let mut clocks = Clocks::begun(at(0, 0, 0));
        let seen = clocks.compare(at(S, S, 5 * S));
        assert!(seen.slept && seen.news.is_none(), "{seen:?}");
        assert!(!clocks.compare(at(2 * S, 2 * S, 5 * S)).slept);
        assert!(!Clocks::begun(at(0, 0, 0)).compare(at(S, S, 900_000)).slept);
    }

    #[test]
    fn a_sleep_is_seen_by_an_offset_of_before() {
        let offset = |slept| at(0, 0, slept).boot_ns - at(0, 0, slept).mono.0;
        assert!(slept_since(offset(0), at(S, S, 20_000_000)));
        assert!(!slept_since(offset(0), at(S, S, 9_000_000)), "a reading that was interrupted");
        assert!(!slept_since(offset(S), at(S, S, S)));
    }

    #[test]
    fn a_clock_that_is_slewed_is_out_until_a_whole_window_was_within_bounds() {
        let mut clocks = Clocks::default();
        assert_eq!(clocks.compare(at(0, 0, 0)).news, None);
        // 8 % fast: seen after little more than 10 ms.
        assert_eq!(clocks.compare(at(10_800_000, 10_000_000, 0)).news, None);
        assert_eq!(clocks.compare(at(12_960_000, 12_000_000, 0)).news, Some(true));
        let slewed = 960_000;
        assert_eq!(clocks.compare(at(S / 2 + slewed, S / 2, 0)).news, None);
        assert_eq!(clocks.compare(at(S + slewed, S, 0)).news, None, "the window that began with it is out");
        assert_eq!(clocks.compare(at(2 * S + slewed, 2 * S, 0)).news, Some(false));
    }

    #[test]
    fn drift_within_what_waits_allow_for_is_none_after_a_pause_either() {
        let mut clocks = Clocks::default();
        assert_eq!(clocks.compare(at(0, 0, 0)).news, None);
        let (raw, drift) = (50 * S, 50 * 400_000);
        assert_eq!(clocks.compare(at(raw + drift, raw, 0)).news, None);
    }

    /// The worst that passes: a slow crystal, and a clock that loses nearly all that a window allows at the end of the first
    /// and at the beginning of each later one. Who waits has a fast crystal.
    #[test]
    fn waits_cover_whatever_is_not_out() {
        for lease_ms in [100, 500, 20_000, 3_600_000] {
            let mut clocks = Clocks::default();
            let (step, once) = (S / 10, OUT_NS / 100 * 99);
            let (begun, lease) = (9 * step, u64::from(lease_ms) * 1_000_000);
            let (mut raw, mut lost) = (0, 0);
            while raw < begun + lease + lost {
                assert_eq!(clocks.compare(at(raw - lost, raw, 0)).news, None, "{raw}");
                raw += step;
                if raw == S || raw > S && raw % S == step {
                    lost += once;
                }
            }
            let crystal = |ns: u64, ppm: f64| ns as f64 / (1.0 + ppm / 1e6);
            let held = crystal(lease + lost, -(DRIFT_PPM as f64));
            let terms = LeaseTerms { lease_ms, stop_ms: 0, longest_ms: lease_ms };
            let waits = terms.surely_over() + slack(Duration::ZERO);
            let waited = crystal(waits.as_nanos() as u64, DRIFT_PPM as f64);
            assert!(waited >= held, "{lease_ms} ms: held for {held} ns, and waited for {waited} ns");
        }
    }

    #[test]
    fn the_host_s_clocks_are_read() {
        let mut clocks = Clocks::default();
        let (first, second) = (clocks.times(), clocks.times());
        assert!(second.mono >= first.mono && second.boot_ns >= first.boot_ns && second.raw_ns >= first.raw_ns);
        assert!(!clocks.look().slept);
    }
}

//! The clocks of one played machine: what each shows at a moment of true time, and when it will show something. It
//! knows drift, sleep and the pause of a whole virtual machine; it reads no real clock.

use heartbeat_user::core::agreement::stops::Clocks;
use heartbeat_user::core::time::MonoTime;

/// Nanoseconds of a millisecond.
pub const MS: u64 = 1_000_000;
/// Nanoseconds of a second.
pub const SECOND: u64 = 1_000_000_000;

/// Drift counts in billionths of the true rate.
const BILLION: i128 = 1_000_000_000;

/// What the clocks showed at one moment, and how fast they run from there.
#[derive(Clone, Debug)]
pub struct Clock {
    /// The moment, true time.
    at: u64,
    mono: u64,
    boot: u64,
    raw: u64,
    /// By how much CLOCK_MONOTONIC and CLOCK_BOOTTIME run too fast, billionths.
    ppb: i64,
    /// The same of CLOCK_MONOTONIC_RAW, which is never slewed.
    raw_ppb: i64,
    /// The machine sleeps, or is paused from outside: nothing runs.
    halted: Option<Halt>,
}

/// Why a machine stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Halt {
    /// It sleeps: CLOCK_BOOTTIME goes on.
    Sleep,
    /// Its hypervisor holds it: no clock shows it.
    Pause,
}

fn run(from: u64, elapsed: u64, ppb: i64) -> u64 {
    if ppb == 0 {
        return from + elapsed;
    }
    // Nearly all times are short; only what is beyond needs the wide division, which is slow.
    let short = i64::try_from(elapsed).ok().and_then(|elapsed| elapsed.checked_mul(ppb));
    let wide = || (i128::from(elapsed) * i128::from(ppb) / BILLION) as i64;
    let gained = short.map_or_else(wide, |product| product / BILLION as i64);
    from + elapsed.saturating_add_signed(gained)
}

impl Clock {
    /// Starts a machine at true time `at`; its clocks begin at `uptime` ns.
    #[must_use]
    pub const fn new(at: u64, uptime: u64, ppb: i64, raw_ppb: i64) -> Self {
        Self { at, mono: uptime, boot: uptime, raw: uptime, ppb, raw_ppb, halted: None }
    }

    /// Returns CLOCK_MONOTONIC at true time `at`, not before the last change.
    #[must_use]
    pub fn mono(&self, at: u64) -> u64 {
        if self.halted.is_some() { self.mono } else { run(self.mono, at - self.at, self.ppb) }
    }

    /// Returns the same for the core.
    #[must_use]
    pub fn mono_time(&self, at: u64) -> MonoTime {
        MonoTime(self.mono(at))
    }

    /// Returns CLOCK_BOOTTIME.
    #[must_use]
    pub fn boot(&self, at: u64) -> u64 {
        if self.halted == Some(Halt::Pause) { self.boot } else { run(self.boot, at - self.at, self.ppb) }
    }

    /// Returns CLOCK_MONOTONIC_RAW.
    #[must_use]
    pub fn raw(&self, at: u64) -> u64 {
        if self.halted.is_some() { self.raw } else { run(self.raw, at - self.at, self.raw_ppb) }
    }

    /// Returns the two clocks that waits are measured by.
    #[must_use]
    pub fn clocks(&self, at: u64) -> Clocks {
        Clocks { boot_ns: self.boot(at), raw_ns: self.raw(at) }
    }

    /// Returns the first moment of true time, not before `now`, at which CLOCK_MONOTONIC is at least `mono`, if nothing
    /// changes until then.
    #[must_use]
    pub fn when_mono(&self, mono: u64, now: u64) -> u64 {
        let left = mono.saturating_sub(self.mono(now));
        now + stretch(left, self.ppb)
    }

    /// Returns the same for CLOCK_BOOTTIME.
    #[must_use]
    pub fn when_boot(&self, boot: u64, now: u64) -> u64 {
        let left = boot.saturating_sub(self.boot(now));
        now + stretch(left, self.ppb)
    }

    /// Stops the machine.
    pub fn halt(&mut self, now: u64, halt: Halt) {
        self.settle(now);
        self.halted = Some(halt);
    }

    /// Lets it run on.
    pub fn run_on(&mut self, now: u64) {
        self.settle(now);
        self.halted = None;
    }

    /// Slews the disciplined clocks from now on.
    pub fn slew(&mut self, now: u64, ppb: i64) {
        self.settle(now);
        self.ppb = ppb;
    }

    /// Goes on, at `now`, from what was shown at `then`: the machine was restored from a snapshot. What slews the clocks
    /// of the one that it replaces goes on too, and ends as that would have.
    pub fn restore(&mut self, then: u64, now: u64, replaced: &Self) {
        self.settle(then);
        (self.at, self.ppb) = (now, replaced.ppb);
    }

    /// Says whether its hypervisor holds the machine, so that none of its clocks goes on.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.halted == Some(Halt::Pause)
    }

    /// Says whether the machine runs.
    #[must_use]
    pub const fn runs(&self) -> bool {
        self.halted.is_none()
    }

    fn settle(&mut self, now: u64) {
        let (mono, boot, raw) = (self.mono(now), self.boot(now), self.raw(now));
        (self.at, self.mono, self.boot, self.raw) = (now, mono, boot, raw);
    }
}

/// Returns the least true time in which a clock advances by `left`.
fn stretch(left: u64, ppb: i64) -> u64 {
    if left == 0 {
        return 0;
    }
    if ppb == 0 {
        return left.min(u64::MAX / 4) + 2;
    }
    let rate = BILLION + i128::from(ppb);
    if let (Some(product), Ok(rate)) = (left.checked_mul(BILLION as u64), u64::try_from(rate)) {
        return (product / rate).min(u64::MAX / 4) + 2;
    }
    // One more for the remainder that `run` drops.
    u64::try_from(i128::from(left) * BILLION / rate).unwrap_or(u64::MAX / 4).min(u64::MAX / 4) + 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_drift_and_halt_as_told() {
        let mut clock = Clock::new(1000, 500, 200_000, -200_000);
        let after = 1000 + SECOND;
        assert_eq!(clock.mono(after), 500 + SECOND + 200_000);
        assert_eq!(clock.raw(after), 500 + SECOND - 200_000);
        clock.halt(after, Halt::Sleep);
        let woken = after + SECOND;
        assert_eq!(clock.mono(woken), 500 + SECOND + 200_000, "sleep stops it");
        assert_eq!(clock.boot(woken), 500 + 2 * (SECOND + 200_000), "and not this one");
        clock.run_on(woken);
        clock.halt(woken, Halt::Pause);
        let (mono, boot) = (clock.mono(woken), clock.boot(woken));
        clock.run_on(woken + SECOND);
        assert_eq!((clock.mono(woken + SECOND), clock.boot(woken + SECOND)), (mono, boot), "nobody saw the pause");
    }

    #[test]
    fn a_moment_is_never_too_early() {
        for ppb in [-80_000_000, -200_000, 0, 137, 200_000] {
            let clock = Clock::new(77, 1_000, ppb, 0);
            for left in [0, 1, 999, 12_345_678, 40 * SECOND] {
                let target = clock.mono(1_000_077) + left;
                let when = clock.when_mono(target, 1_000_077);
                assert!(clock.mono(when) >= target && clock.mono(when) <= target + 4, "{ppb} {left}");
            }
        }
    }
}

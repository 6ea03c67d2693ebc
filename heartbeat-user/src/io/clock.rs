//! The clocks: the only place that reads them. It hands out numbers and judges none.

use crate::core::time::MonoTime;
use anyhow::{Context, bail};
use nix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// Nanoseconds of `clock`.
fn nanoseconds(clock: ClockId) -> u64 {
    let time = clock_gettime(clock).expect("clock_gettime knows the fixed clocks of Linux");
    time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64
}

/// Returns CLOCK_MONOTONIC, the clock of every interval and of the kernel's stamps.
#[must_use]
pub fn now() -> MonoTime {
    MonoTime(nanoseconds(ClockId::CLOCK_MONOTONIC))
}

/// Returns CLOCK_REALTIME in nanoseconds since 1970: for people, never for an interval.
#[must_use]
pub fn wall_ns() -> u64 {
    nanoseconds(ClockId::CLOCK_REALTIME)
}

/// Returns the time that the calling thread has had on a CPU.
#[must_use]
pub fn thread_used() -> Duration {
    Duration::from_nanos(nanoseconds(ClockId::CLOCK_THREAD_CPUTIME_ID))
}

/// Returns this machine start's id, two words of `/proc/sys/kernel/random/boot_id`.
///
/// # Errors
/// If it cannot be read or is no UUID.
pub fn boot_id() -> anyhow::Result<[u64; 2]> {
    let path = "/proc/sys/kernel/random/boot_id";
    let text = std::fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    let hex: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    if hex.len() != 32 {
        bail!("{path} holds no UUID: {text:?}");
    }
    let word = |range| u64::from_str_radix(&hex[range], 16).context("boot id");
    Ok([word(0..16)?, word(16..32)?])
}

/// Refuses a time namespace with a monotonic offset: the kernel's stamps do not follow it, so that no stamp of XDP
/// could be compared with the clock that this process reads.
///
/// # Errors
/// If this process reads a shifted CLOCK_MONOTONIC or CLOCK_BOOTTIME.
pub fn refuse_shifted() -> anyhow::Result<()> {
    let path = "/proc/self/timens_offsets";
    let Ok(text) = std::fs::read_to_string(path) else { return Ok(()) };
    for line in text.lines() {
        let mut fields = line.split_whitespace();
        let (name, seconds, nanoseconds) = (fields.next(), fields.next(), fields.next());
        if (seconds, nanoseconds) != (Some("0"), Some("0")) {
            bail!(
                "this process is in a time namespace that shifts the {} clock by {} s {} ns ({path}): the kernel's \
                 stamps are not shifted, so no probe could be judged; start heartbeatd outside of it",
                name.unwrap_or("?"),
                seconds.unwrap_or("?"),
                nanoseconds.unwrap_or("?")
            );
        }
    }
    Ok(())
}

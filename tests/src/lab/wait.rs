//! Waiting with a limit, the clock that stamps are compared on, and the one way a test says that it was skipped.
//! It never swallows what it waited for: the last state seen is in the error.

use anyhow::{Result, bail};
use nix::time::{ClockId, clock_gettime};
use std::fmt::Display;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// CLOCK_MONOTONIC in nanoseconds: the clock of ticks and events.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("CLOCK_MONOTONIC exists on every Linux");
    now.tv_sec().cast_unsigned() * 1_000_000_000 + now.tv_nsec().cast_unsigned()
}

/// Asks `look` every 5 ms until it returns `Ok`; its `Err` is the state seen.
///
/// # Errors
/// Fails after `limit` with what was waited for and the last state.
pub fn wait_for<T, E: Display>(limit: Duration, what: &str, look: impl FnMut() -> Result<T, E>) -> Result<T> {
    wait_every(Duration::from_millis(5), limit, what, look)
}

/// The same, asking every `pause`: where the asking itself would disturb what is measured.
///
/// # Errors
/// As [`wait_for`].
pub fn wait_every<T, E: Display>(
    pause: Duration,
    limit: Duration,
    what: &str,
    mut look: impl FnMut() -> Result<T, E>,
) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        match look() {
            Ok(value) => return Ok(value),
            Err(state) if Instant::now() >= end => bail!("waited {limit:?} for {what}; last seen: {state:#}"),
            Err(_) => std::thread::sleep(pause),
        }
    }
}

/// Says that test `name` cannot run here, where people and `cargo xtask test` see it.
pub fn skip(name: &str, reason: &str) {
    println!("SKIP {name}: {reason}");
    let Some(path) = std::env::var_os("HEARTBEAT_SKIPS") else { return };
    let written = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .and_then(|mut file| writeln!(file, "SKIP {name}: {reason}"));
    if let Err(error) = written {
        panic!("{}: {error}", Path::new(&path).display());
    }
}

/// True if the process is root; otherwise the skip of `name` is said.
#[must_use]
pub fn root_or_skip(name: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        skip(name, "needs root for network namespaces");
    }
    root
}

/// True if processes can be starved here: root, version 1 control groups and a second CPU. Otherwise the skip of `name`
/// is said.
#[must_use]
pub fn starvation_or_skip(name: &str) -> bool {
    if !root_or_skip(name) {
        return false;
    }
    let groups = super::guard::CGROUPS.iter().find(|group| !Path::new(group).join("tasks").exists());
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    match groups {
        Some(group) => skip(name, &format!("needs the version 1 control groups of {group}")),
        None if cpus < 2 => skip(name, "needs two CPUs"),
        None => return true,
    }
    false
}

/// Finds a binary of this workspace: `variable` if it is set, else beside the running binary or one directory above
/// (where tests find what `cargo build` made).
///
/// # Errors
/// Fails with the places looked at.
pub fn binary(name: &str, variable: &str) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        let path = PathBuf::from(path);
        if !path.is_file() {
            bail!("{variable} names {}, which is no file", path.display());
        }
        return Ok(path);
    }
    let own = std::env::current_exe()?;
    let places: Vec<PathBuf> = own.ancestors().skip(1).take(2).map(|directory| directory.join(name)).collect();
    match places.iter().find(|place| place.is_file()) {
        Some(place) => Ok(place.clone()),
        None => bail!("no {name} in {places:?}; build it, or set {variable}"),
    }
}

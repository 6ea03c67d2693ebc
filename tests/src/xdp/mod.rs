//! Drives the kernel program from tests: loads it, feeds it frames by `BPF_PROG_TEST_RUN`, reads what it recorded.
//! It pins nothing, and attaches only to interfaces that the caller made.

pub mod checked;
pub mod compare;
pub mod frames;
pub mod mapping;
pub mod object;
pub mod random;
pub mod rig;
pub mod world;

pub use frames::{Frame, Heartbeat};
pub use rig::{Action, Rig};

use std::io::Write as _;

/// Interface index of the loopback device, which `BPF_PROG_TEST_RUN` pretends that frames come in by.
pub const LOOPBACK: u32 = 1;

/// CLOCK_MONOTONIC, ns.
#[must_use]
pub fn now() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place for the result.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    assert_eq!(failed, 0, "CLOCK_MONOTONIC is always there");
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

/// Says whether the test `name` may load kernel programs. If not, prints and records that it was skipped.
#[must_use]
pub fn may_run(name: &str) -> bool {
    // SAFETY: a call without preconditions.
    if unsafe { libc::geteuid() } == 0 {
        return true;
    }
    let line = format!("SKIP {name}: needs root to load the kernel program");
    println!("{line}");
    if let Some(path) = std::env::var_os("HEARTBEAT_SKIPS") {
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).expect("the skip list opens");
        writeln!(file, "{line}").expect("the skip list is written");
    }
    false
}

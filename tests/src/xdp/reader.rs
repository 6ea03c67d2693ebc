//! A reader of ticks that other CPUs write: copies one until the lock says that the copy is whole.

use super::mapping::Mapping;
use heartbeat_common::tick::Tick;
use std::sync::atomic::{Ordering, fence};

/// Copies a tick; also says how many attempts were given up.
#[must_use]
pub fn whole(ticks: &Mapping, path: usize) -> (Tick<u64>, u64) {
    let mut retries = 0;
    loop {
        let before = ticks.get(path, 0);
        fence(Ordering::Acquire);
        let tick: Tick<u64> = ticks.copy(path);
        fence(Ordering::Acquire);
        if before & 1 == 0 && ticks.get(path, 0) == before {
            return (tick, retries);
        }
        retries += 1;
        std::hint::spin_loop();
    }
}

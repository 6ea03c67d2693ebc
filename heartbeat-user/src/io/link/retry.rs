//! When to try a peer again, and over which of its paths. It only reckons: time is waited, and chance drawn, elsewhere.

use std::net::IpAddr;
use std::time::Duration;

/// First wait after a failure.
pub const WAIT_MIN: Duration = Duration::from_millis(50);
/// Longest wait, where the control limit is long.
pub const WAIT_MAX: Duration = Duration::from_secs(2);
/// No wait is longer than this part of the control limit: whoever can be reached again is to be, several times over, before
/// it is left out for want of messages.
const WAITS_PER_LIMIT: u32 = 4;

/// Returns the longest wait under a control limit; never less than the first one, [`WAIT_MIN`].
#[must_use]
pub fn longest(control_limit: Duration) -> Duration {
    (control_limit / WAITS_PER_LIMIT).clamp(WAIT_MIN, WAIT_MAX)
}

/// A way to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkPath {
    /// This node's address.
    pub local: IpAddr,
    /// The peer's address.
    pub peer: IpAddr,
    /// Place of its network's role: a lower one is tried first.
    pub role_rank: u8,
    /// The peer is heard on it.
    pub is_up: bool,
    /// Its network; the lower one is tried first, all else being equal.
    pub network: u16,
}

/// Puts the paths of a peer in the order in which they are tried: role, then those that are up, then network.
pub fn sort(paths: &mut [LinkPath]) {
    paths.sort_by_key(|path| (path.role_rank, !path.is_up, path.network, path.local, path.peer));
}

/// Attempts in a row that failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retry {
    failures: u32,
}

impl Retry {
    /// Notes that an attempt, or the connection that it made, failed.
    pub fn failed(&mut self) {
        self.failures = self.failures.saturating_add(1);
    }

    /// Begins anew if there was a connection for long enough, whoever began it.
    pub fn stood(&mut self, time: Duration) {
        if time >= WAIT_MAX {
            self.failures = 0;
        }
    }

    /// Returns which of `count` paths comes next; `None` if there is none. Each failure passes to the next one.
    #[must_use]
    pub fn path(&self, count: usize) -> Option<usize> {
        (self.failures as usize).checked_rem(count)
    }

    /// Returns how long to wait before the next attempt: doubled with each failure up to `longest`, and three quarters to
    /// all of it by `chance`, so that two ends which fail together do not try together for ever.
    #[must_use]
    pub fn wait(&self, chance: u64, longest: Duration) -> Duration {
        let Some(doublings) = self.failures.checked_sub(1) else { return Duration::ZERO };
        let whole = WAIT_MIN.saturating_mul(1 << doublings.min(10)).min(longest);
        whole - whole / 4 * (chance % 1024) as u32 / 1024
    }
}

/// A row of numbers from a seed, for waits alone (Steele, Lea and Flood, "Fast splittable pseudorandom number
/// generators", 2014): nothing secret hangs on it.
#[derive(Clone, Copy, Debug)]
pub struct Chance(pub u64);

impl Chance {
    /// Returns the next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_their_bound_and_begin_anew() {
        let mut retry = Retry::default();
        assert_eq!(retry.wait(7, WAIT_MAX), Duration::ZERO);
        let (mut whole, mut short) = (Vec::new(), Vec::new());
        for _ in 0..9 {
            retry.failed();
            let wait = |chance| retry.wait(chance, WAIT_MAX);
            whole.push(wait(0).as_millis());
            assert!(wait(1023) >= wait(0) / 4 * 3 && wait(1023) < wait(0));
            short.push(retry.wait(0, Duration::from_millis(250)).as_millis());
        }
        assert_eq!(whole, [50, 100, 200, 400, 800, 1600, 2000, 2000, 2000]);
        assert_eq!(short, [50, 100, 200, 250, 250, 250, 250, 250, 250]);
        for _ in 0..100 {
            retry.failed();
        }
        assert_eq!(retry.wait(0, WAIT_MAX), WAIT_MAX);
        retry.stood(WAIT_MAX - Duration::from_nanos(1));
        assert_eq!(retry.wait(0, WAIT_MAX), WAIT_MAX);
        retry.stood(WAIT_MAX);
        assert_eq!(retry.wait(0, WAIT_MAX), Duration::ZERO);
    }

    #[test]
    fn the_longest_wait_is_a_part_of_the_control_limit() {
        let of = |limit_ms| longest(Duration::from_millis(limit_ms)).as_millis();
        // Of the profiles `lan`, `wsfc-2008` and `wsfc-2016`, and the shortest limit that can be set.
        assert_eq!([1000, 10_000, 40_000, 100].map(of), [250, 2000, 2000, 50]);
        assert_eq!(of(10), 50, "what a link takes at least");
    }

    #[test]
    fn each_failure_passes_to_the_next_path() {
        let mut retry = Retry::default();
        let mut tried = Vec::new();
        for _ in 0..5 {
            tried.push(retry.path(3));
            retry.failed();
        }
        assert_eq!(tried, [Some(0), Some(1), Some(2), Some(0), Some(1)]);
        assert_eq!(retry.path(0), None);
    }

    #[test]
    fn paths_go_by_role_then_life_then_network() {
        let (local, peer) = ([127, 0, 0, 1].into(), [127, 0, 0, 2].into());
        let path = |role_rank, is_up, network| LinkPath { local, peer, role_rank, is_up, network };
        let mut paths = [path(1, true, 1), path(0, false, 2), path(0, true, 4), path(0, true, 3)];
        sort(&mut paths);
        assert_eq!(paths.map(|path| path.network), [3, 4, 2, 1]);
    }
}

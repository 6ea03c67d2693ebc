//! Who may begin to speak: only a peer's own address, only so many at a time, and only so often. It decides before a byte is
//! read, so that whoever has no key costs no more than this; it knows no socket and no clock.

use super::rate::Bucket;
use crate::core::time::MonoTime;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Connections from one address that have not proved the key.
pub const PER_ADDRESS: usize = 2;
/// Connections from all addresses together that have not proved the key.
pub const IN_ALL: usize = 64;
/// Handshakes a second that one address may begin, in the long run: each costs this node some arithmetic.
pub const BEGUN_PER_S: u64 = 8;
/// Handshakes that one address may begin at once.
pub const BEGUN_BURST: u64 = 32;
/// Connections a second that a listener takes, in the long run, to let in or to turn away: a flood of them must not take
/// the CPU of those who matter.
pub const TAKEN_PER_S: u64 = 512;
/// Connections that it takes at once.
pub const TAKEN_BURST: u64 = 256;

/// How fast a listener takes connections.
#[derive(Clone, Copy, Debug)]
pub struct Pace(Bucket);

impl Default for Pace {
    fn default() -> Self {
        Self(Bucket::new(TAKEN_PER_S, TAKEN_BURST))
    }
}

impl Pace {
    /// Counts a connection taken at `now`, and returns for how long none is to be taken.
    #[must_use]
    pub fn take(&mut self, now: MonoTime) -> std::time::Duration {
        self.0.take(now, 1)
    }
}

/// Why a connection is closed unread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turned {
    /// No peer has this address on a path with the address that was called.
    Stranger,
    /// Too many of its connections have not proved the key, or it begins them too fast.
    Crowded,
}

/// The connections that have not proved the key, by their address.
#[derive(Debug, Default)]
pub struct Admission {
    half_open: BTreeMap<IpAddr, usize>,
    /// What each address has begun. Only those of peers are here: as many as the configuration names.
    begun: BTreeMap<IpAddr, Bucket>,
}

impl Admission {
    /// Lets a connection from `from` in at `now`, or not. Whoever is let in has to be [`Self::done`] once.
    ///
    /// # Errors
    /// Says why not.
    pub fn admit(&mut self, from: IpAddr, is_peer: bool, now: MonoTime) -> Result<(), Turned> {
        if !is_peer {
            return Err(Turned::Stranger);
        }
        let all: usize = self.half_open.values().sum();
        let same = self.half_open.get(&from).copied().unwrap_or(0);
        if same >= PER_ADDRESS || all >= IN_ALL {
            return Err(Turned::Crowded);
        }
        let begun = self.begun.entry(from).or_insert_with(|| Bucket::new(BEGUN_PER_S, BEGUN_BURST));
        if !begun.try_take(now) {
            return Err(Turned::Crowded);
        }
        self.half_open.insert(from, same + 1);
        Ok(())
    }

    /// Takes a connection off the list: it has proved the key, or it is closed.
    pub fn done(&mut self, from: IpAddr) {
        if let Some(count) = self.half_open.get_mut(&from) {
            *count -= 1;
            if *count == 0 {
                self.half_open.remove(&from);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const NOW: MonoTime = MonoTime(7_000_000_000);
    const SECOND: Duration = Duration::from_secs(1);

    fn address(last: u16) -> IpAddr {
        std::net::Ipv4Addr::new(10, 0, (last >> 8) as u8, last as u8).into()
    }

    #[test]
    fn strangers_and_crowds_are_turned_away() {
        let mut admission = Admission::default();
        assert_eq!(admission.admit(address(9), false, NOW), Err(Turned::Stranger));
        assert_eq!(admission.admit(address(1), true, NOW), Ok(()));
        assert_eq!(admission.admit(address(1), true, NOW), Ok(()));
        assert_eq!(admission.admit(address(1), true, NOW), Err(Turned::Crowded));
        assert_eq!(admission.admit(address(2), true, NOW), Ok(()), "another address is not crowded by it");
        admission.done(address(1));
        assert_eq!(admission.admit(address(1), true, NOW), Ok(()));
    }

    #[test]
    fn all_together_are_bounded_and_nothing_is_left_behind() {
        let mut admission = Admission::default();
        for last in 0..IN_ALL as u16 {
            assert_eq!(admission.admit(address(last), true, NOW), Ok(()));
        }
        assert_eq!(admission.admit(address(1000), true, NOW), Err(Turned::Crowded));
        admission.done(address(3));
        assert_eq!(admission.admit(address(1000), true, NOW), Ok(()));
        for last in (0..IN_ALL as u16).chain([1000, 4000]) {
            admission.done(address(last));
        }
        assert!(admission.half_open.is_empty());
    }

    #[test]
    fn an_address_begins_handshakes_at_a_pace_of_its_own() {
        let mut admission = Admission::default();
        let mut begin = |last, now| {
            let admitted = admission.admit(address(last), true, now);
            admitted.iter().for_each(|()| admission.done(address(last)));
            admitted.is_ok()
        };
        assert_eq!((0..1000).filter(|_| begin(1, NOW)).count() as u64, BEGUN_BURST);
        assert!(begin(2, NOW), "another address is not held up by it");
        // Those that were turned away cost it nothing: it goes on at its pace.
        let later = (1..=1000).filter(|step| begin(1, NOW + SECOND / 100 * *step)).count() as u64;
        assert!((10 * BEGUN_PER_S - 1..=10 * BEGUN_PER_S).contains(&later), "{later} in 10 s");
    }

    #[test]
    fn a_listener_takes_a_burst_and_then_so_many_a_second() {
        let mut pace = Pace::default();
        for taken in 0..TAKEN_BURST {
            assert_eq!(pace.take(NOW), Duration::ZERO, "{taken}");
        }
        // Having waited as it was told, each further one costs the same again.
        let step = pace.take(NOW);
        assert!(step > SECOND / 600 && step < SECOND / 500, "{step:?}");
        assert_eq!(pace.take(NOW + step), step);
    }
}

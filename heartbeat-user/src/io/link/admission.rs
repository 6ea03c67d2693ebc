//! Who may begin to speak: only a peer's own address, and only so many at a time. It decides before a byte is read, so
//! that whoever has no key costs no more than this; it knows no socket.

use std::collections::BTreeMap;
use std::net::IpAddr;

/// Connections from one address that have not proved the key.
pub const PER_ADDRESS: usize = 2;
/// Connections from all addresses together that have not proved the key.
pub const IN_ALL: usize = 64;

/// Why a connection is closed unread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turned {
    /// No peer has this address on a path with the address that was called.
    Stranger,
    /// Too many of its connections have not proved the key.
    Crowded,
}

/// The connections that have not proved the key, by their address.
#[derive(Debug, Default)]
pub struct Admission {
    half_open: BTreeMap<IpAddr, usize>,
}

impl Admission {
    /// Lets a connection from `from` in, or not. Whoever is let in has to be [`Self::done`] once.
    ///
    /// # Errors
    /// Says why not.
    pub fn admit(&mut self, from: IpAddr, is_peer: bool) -> Result<(), Turned> {
        if !is_peer {
            return Err(Turned::Stranger);
        }
        let all: usize = self.half_open.values().sum();
        let same = self.half_open.get(&from).copied().unwrap_or(0);
        if same >= PER_ADDRESS || all >= IN_ALL {
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

    fn address(last: u16) -> IpAddr {
        std::net::Ipv4Addr::new(10, 0, (last >> 8) as u8, last as u8).into()
    }

    #[test]
    fn strangers_and_crowds_are_turned_away() {
        let mut admission = Admission::default();
        assert_eq!(admission.admit(address(9), false), Err(Turned::Stranger));
        assert_eq!(admission.admit(address(1), true), Ok(()));
        assert_eq!(admission.admit(address(1), true), Ok(()));
        assert_eq!(admission.admit(address(1), true), Err(Turned::Crowded));
        assert_eq!(admission.admit(address(2), true), Ok(()), "another address is not crowded by it");
        admission.done(address(1));
        assert_eq!(admission.admit(address(1), true), Ok(()));
    }

    #[test]
    fn all_together_are_bounded_and_nothing_is_left_behind() {
        let mut admission = Admission::default();
        for last in 0..IN_ALL as u16 {
            assert_eq!(admission.admit(address(last), true), Ok(()));
        }
        assert_eq!(admission.admit(address(1000), true), Err(Turned::Crowded));
        admission.done(address(3));
        assert_eq!(admission.admit(address(1000), true), Ok(()));
        for last in (0..IN_ALL as u16).chain([1000, 4000]) {
            admission.done(address(last));
        }
        assert!(admission.half_open.is_empty());
    }
}

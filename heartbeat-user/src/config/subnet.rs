//! Subnets and addresses as written in the configuration. It decides which of them make sense on a wire.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// A subnet without host bits, `ADDRESS/LENGTH`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subnet {
    address: IpAddr,
    length: u8,
}

impl Subnet {
    /// Parses `ADDRESS/LENGTH`.
    ///
    /// # Errors
    /// Returns the rule that `text` breaks: the form, host bits that are set, or an address no node can have.
    pub fn parse(text: &str) -> Result<Self, String> {
        let form = "must be ADDRESS/LENGTH, as in \"10.1.0.0/24\" or \"fd00:1::/64\"";
        let (address, length) = text.split_once('/').ok_or(form)?;
        let address: IpAddr = address.parse().map_err(|_| form)?;
        let digits = length.len() <= 3 && !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
        let length: u8 = if digits { length.parse().map_err(|_| form)? } else { return Err(form.to_owned()) };
        let most = if address.is_ipv4() { 32 } else { 128 };
        if length == 0 || length > most {
            return Err(format!("length must be 1 to {most}"));
        }
        usable(address)?;
        let subnet = Self { address: masked(address, length), length };
        if subnet.address != address {
            return Err(format!("must have no host bits set, did you mean \"{subnet}\"?"));
        }
        Ok(subnet)
    }

    /// Says whether `address` lies in this subnet.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4() && masked(address, self.length) == self.address
    }

    /// Says whether any address lies in both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.address) || other.contains(self.address)
    }

    /// Returns the lowest address and the length of the prefix in bits.
    #[must_use]
    pub const fn parts(&self) -> (IpAddr, u8) {
        (self.address, self.length)
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.address, self.length)
    }
}

/// Parses a node's address.
pub(super) fn address(text: &str) -> Result<IpAddr, String> {
    let address: IpAddr = text.parse().map_err(|_| "must be an IPv4 or IPv6 address, without a length")?;
    usable(address)?;
    if address.is_unspecified() {
        return Err("must not be the unspecified address".to_owned());
    }
    Ok(address)
}

/// Refuses what no heartbeat can be sent to.
fn usable(address: IpAddr) -> Result<(), String> {
    let rule = match address {
        IpAddr::V4(address) if address.is_broadcast() => "must not be the broadcast address",
        IpAddr::V6(address) if address.to_ipv4_mapped().is_some() => "must be written as IPv4, not as IPv4-mapped IPv6",
        IpAddr::V6(address) if is_link_local(address) => {
            "must not be link-local: it would mean another host on each interface"
        }
        _ if address.is_multicast() => "must not be multicast",
        _ => return Ok(()),
    };
    Err(rule.to_owned())
}

fn is_link_local(address: Ipv6Addr) -> bool {
    address.segments()[0] & 0xffc0 == 0xfe80
}

fn masked(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            IpAddr::V4((address.to_bits() & mask).into())
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            IpAddr::V6((address.to_bits() & mask).into())
        }
    }
}

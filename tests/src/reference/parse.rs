//! From Ethernet bytes to a heartbeat in a plain frame, by reading slices. It knows no path and no key.

use super::{LEN, PORT};
use heartbeat_common::counter::Counter;

/// A plain frame on our port.
#[derive(Clone, Copy, Debug)]
pub struct Plain {
    /// VLAN id, 0 untagged.
    pub vlan: u16,
    /// Offset of the IP header.
    pub ip: usize,
    /// Offset of the UDP header.
    pub udp: usize,
    /// IPv6 rather than IPv4.
    pub ipv6: bool,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source, sixteen bytes.
    pub source: [u8; 16],
    /// Destination, sixteen bytes.
    pub destination: [u8; 16],
}

/// What a frame is.
#[derive(Clone, Copy, Debug)]
pub enum Parsed {
    /// Not visibly on our port.
    NotOurs,
    /// On our port, not plain.
    Malformed(Counter),
    /// A plain frame.
    Plain(Plain),
}
use Parsed::{Malformed, NotOurs};

const VLAN: u16 = 0x8100;
const SERVICE_VLAN: u16 = 0x88a8;

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// Parses a frame.
#[must_use]
pub fn parse(bytes: &[u8]) -> Parsed {
    let mut tags = Vec::new();
    let mut at = 12;
    let ethertype = loop {
        let Some(ethertype) = u16_at(bytes, at) else { return NotOurs };
        if ethertype != VLAN && ethertype != SERVICE_VLAN {
            break ethertype;
        }
        let Some(tag) = u16_at(bytes, at + 2) else { return NotOurs };
        tags.push((ethertype, tag & 0x0fff));
        at += 4;
    };
    // Deeper stacks are not looked through.
    if tags.len() > 4 {
        return NotOurs;
    }
    let vlan = match tags[..] {
        [] => Some(0),
        [(VLAN, id)] if id != 0 => Some(id),
        _ => None,
    };
    let parsed = match ethertype {
        0x0800 => ipv4(bytes, at + 2, vlan.unwrap_or(0)),
        0x86dd => ipv6(bytes, at + 2, vlan.unwrap_or(0)),
        _ => NotOurs,
    };
    match (parsed, vlan) {
        (Malformed(_) | Parsed::Plain(_), None) => Malformed(Counter::DropLayer2),
        (parsed, _) => parsed,
    }
}

fn ipv4(bytes: &[u8], ip: usize, vlan: u16) -> Parsed {
    let Some(header) = bytes.get(ip..ip + 20) else { return NotOurs };
    let header_length = usize::from(header[0] & 15) * 4;
    let fragment = u16::from_be_bytes([header[6], header[7]]);
    if header[0] >> 4 != 4 || header[9] != 17 || header_length < 20 || fragment & 0x1fff != 0 {
        return NotOurs;
    }
    if u16_at(bytes, ip + header_length + 2) != Some(PORT) {
        return NotOurs;
    }
    if header_length > 20 {
        return Malformed(Counter::DropLayer3);
    }
    if fragment & 0x2000 != 0 {
        return Malformed(Counter::DropFragment);
    }
    if usize::from(u16::from_be_bytes([header[2], header[3]])) != 20 + 8 + LEN {
        return Malformed(Counter::DropLength);
    }
    let mapped = |four: &[u8]| {
        let mut address = [0; 16];
        address[10..12].fill(0xff);
        address[12..].copy_from_slice(four);
        address
    };
    let (source, destination) = (mapped(&header[12..16]), mapped(&header[16..20]));
    udp(bytes, Plain { vlan, ip, udp: ip + 20, ipv6: false, hop_limit: header[8], source, destination })
}

fn ipv6(bytes: &[u8], ip: usize, vlan: u16) -> Parsed {
    let Some(header) = bytes.get(ip..ip + 40) else { return NotOurs };
    if header[0] >> 4 != 6 {
        return NotOurs;
    }
    if header[6] != 17 {
        return behind_extensions(bytes, ip + 40, header[6]);
    }
    if u16_at(bytes, ip + 42) != Some(PORT) {
        return NotOurs;
    }
    if usize::from(u16::from_be_bytes([header[4], header[5]])) != 8 + LEN {
        return Malformed(Counter::DropLength);
    }
    let mut source = [0; 16];
    let mut destination = [0; 16];
    source.copy_from_slice(&header[8..24]);
    destination.copy_from_slice(&header[24..40]);
    let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];
    if source.starts_with(&mapped) || destination.starts_with(&mapped) {
        return Malformed(Counter::DropUnlisted);
    }
    udp(bytes, Plain { vlan, ip, udp: ip + 40, ipv6: true, hop_limit: header[7], source, destination })
}

/// At most five extension headers are looked through.
fn behind_extensions(bytes: &[u8], mut at: usize, mut next: u8) -> Parsed {
    let mut fragmented = false;
    for _ in 0..=5 {
        let Some(header) = u16_at(bytes, at).map(u16::to_be_bytes) else { return NotOurs };
        let length = usize::from(header[1]);
        at += match next {
            17 if u16_at(bytes, at + 2) != Some(PORT) => return NotOurs,
            17 if fragmented => return Malformed(Counter::DropFragment),
            17 => return Malformed(Counter::DropLayer3),
            0 | 43 | 60 | 135 => (length + 1) * 8,
            51 => (length + 2) * 4,
            44 => {
                let first = u16_at(bytes, at + 2).is_some_and(|offset| offset & 0xfff8 == 0);
                if !first {
                    return NotOurs;
                }
                fragmented = true;
                8
            }
            _ => return NotOurs,
        };
        next = header[0];
    }
    NotOurs
}

fn udp(bytes: &[u8], plain: Plain) -> Parsed {
    let Some(header) = bytes.get(plain.udp..plain.udp + 8 + LEN) else { return Malformed(Counter::DropLength) };
    if usize::from(u16::from_be_bytes([header[4], header[5]])) != 8 + LEN {
        return Malformed(Counter::DropLength);
    }
    if u16::from_be_bytes([header[0], header[1]]) != PORT {
        return Malformed(Counter::DropPort);
    }
    if bytes[0] & 1 != 0 || bytes[6] & 1 != 0 {
        return Malformed(Counter::DropLayer2);
    }
    Parsed::Plain(plain)
}

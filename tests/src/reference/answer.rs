//! The echo that a probe ought to be turned into, with checksums summed byte pair by byte pair.
//! It only writes bytes; whether there is to be an echo is decided in `judge`.

use super::parse::Plain;
use super::{LEN, PORT, Settings, mac};

/// Swaps two ranges of equal length.
fn swap(bytes: &mut [u8], a: usize, b: usize, length: usize) {
    for index in 0..length {
        bytes.swap(a + index, b + index);
    }
}

/// The internet checksum of `bytes`, which have an even length.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u64 = bytes.chunks(2).map(|pair| u64::from(pair[0]) << 8 | u64::from(pair[1])).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// The UDP checksum of a plain frame, as if its checksum field were zero.
#[must_use]
pub fn udp_checksum(bytes: &[u8], ip: usize, udp: usize, ipv6: bool) -> u16 {
    let addresses = if ipv6 { ip + 8..ip + 40 } else { ip + 12..ip + 20 };
    let mut summed = bytes[addresses].to_vec();
    summed.extend_from_slice(&[0, 17]);
    summed.extend_from_slice(&((8 + LEN) as u16).to_be_bytes());
    summed.extend_from_slice(&bytes[udp..udp + 6]);
    summed.extend_from_slice(&[0, 0]);
    summed.extend_from_slice(&bytes[udp + 8..udp + 8 + LEN]);
    match checksum(&summed) {
        0 => 0xffff,
        sum => sum,
    }
}

/// What an echo says beyond the probe.
#[derive(Clone, Copy, Debug)]
pub struct Says {
    /// Receive time, ns.
    pub received: u64,
    /// Controller age in units of 2^20 ns, at most 2^24 - 1.
    pub age: u64,
    /// Dynamic flags, no kind.
    pub flags: u8,
    /// Newest incarnation of the prober known, in a stale echo; else 0.
    pub notice: u64,
    /// The grant of the standing goes with it.
    pub grants: bool,
    /// Key slot.
    pub slot: usize,
}

/// Turns the probe in `bytes` round.
#[must_use]
pub fn echo(bytes: &[u8], plain: &Plain, settings: &Settings, says: Says) -> Vec<u8> {
    turn(bytes, plain, |payload| {
        payload[56..64].copy_from_slice(&says.received.to_le_bytes());
        payload[64..67].copy_from_slice(&says.age.to_le_bytes()[..3]);
        payload[67..70].fill(0);
        payload[70] = says.flags & !3 | 1 | if says.notice == 0 { 0 } else { 4 };
        payload[71] = 0;
        for (index, word) in settings.standing.iter().enumerate() {
            payload[72 + 8 * index..80 + 8 * index].copy_from_slice(&word.to_le_bytes());
        }
        if !says.grants || says.notice != 0 {
            payload[104..112].fill(0);
        }
        if says.notice != 0 {
            payload[120..128].copy_from_slice(&says.notice.to_le_bytes());
        }
        let keys = settings.slots[says.slot].as_ref().expect("an authentic frame has a slot with keys");
        let tag = mac::tag(payload, settings, false, &keys.theirs, &keys.own_standing);
        payload[128..136].copy_from_slice(&tag.to_le_bytes());
    })
}

/// Turns the fence in `bytes` into its acknowledgement.
#[must_use]
pub fn acknowledgement(bytes: &[u8], plain: &Plain, settings: &Settings) -> Vec<u8> {
    turn(bytes, plain, |payload| {
        payload[70] = 3;
        payload[72..80].copy_from_slice(&settings.standing[0].to_le_bytes());
        // Standing flag 3: gated.
        payload[120] = (settings.standing[1] >> 35 & 1) as u8;
        let keys = settings.slots[usize::from(payload[5])].as_ref().expect("an authentic frame has a slot with keys");
        let tag = mac::fence_tag(payload, settings, true, &keys.own_fences);
        payload[128..144].copy_from_slice(&tag);
    })
}

/// Turns a frame round, with what `change` makes of its heartbeat.
fn turn(bytes: &[u8], plain: &Plain, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut out = bytes.to_vec();
    swap(&mut out, 0, 6, 6);
    let heartbeat = plain.udp + 8;
    change(&mut out[heartbeat..heartbeat + LEN]);
    if plain.ipv6 {
        swap(&mut out, plain.ip + 8, plain.ip + 24, 16);
        out[plain.ip + 7] = 255;
    } else {
        swap(&mut out, plain.ip + 12, plain.ip + 16, 4);
        out[plain.ip + 8] = 255;
        out[plain.ip + 10..plain.ip + 12].fill(0);
        let sum = checksum(&out[plain.ip..plain.ip + 20]);
        out[plain.ip + 10..plain.ip + 12].copy_from_slice(&sum.to_be_bytes());
    }
    out[plain.udp..plain.udp + 2].copy_from_slice(&PORT.to_be_bytes());
    out[plain.udp + 2..plain.udp + 4].copy_from_slice(&PORT.to_be_bytes());
    let sum = udp_checksum(&out, plain.ip, plain.udp, plain.ipv6);
    out[plain.udp + 6..plain.udp + 8].copy_from_slice(&sum.to_be_bytes());
    out
}

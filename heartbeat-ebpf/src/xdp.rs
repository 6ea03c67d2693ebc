//! From a received frame to its verdict: find the path, authenticate, record, answer in place.
//! It touches the packet and the maps; it decides nothing about anybody's membership.

use crate::packet::{self, Bytes, Payload, Plain, Shape, read, write};
use crate::{lock, maps};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::programs::XdpContext;
use heartbeat_common::counter::Counter;
use heartbeat_common::exchange::{self, Outcome};
use heartbeat_common::frame::{self, WORDS, Words};
use heartbeat_common::maps::RouteKey;
use heartbeat_common::path::PASS_TO_USERSPACE;

/// What becomes of a frame.
pub enum Verdict {
    /// Not on our port: passed on, untouched.
    NotOurs,
    /// Turned into an echo in place.
    Answered,
    /// Taken or dropped, and counted.
    Consumed,
}

/// Judges one frame.
#[inline(always)]
pub fn receive(ctx: &XdpContext) -> Verdict {
    let bytes = Bytes { start: ctx.data(), end: ctx.data_end() };
    let frame = match packet::plain(bytes) {
        Shape::NotOurs => return Verdict::NotOurs,
        Shape::Malformed(counter) => {
            maps::count(counter);
            return Verdict::Consumed;
        }
        Shape::Plain(frame) => frame,
    };
    // SAFETY: `plain` checked the UDP header. A checksum of zero is forbidden on IPv6; the MAC is the better judge.
    if frame.ipv6 && unsafe { read::<u16>(frame.udp, 6) } == 0 {
        maps::count(Counter::ChecksumZero);
    }
    // SAFETY: `ctx` is the kernel's own for this run.
    let ifindex = unsafe { (*ctx.ctx).ingress_ifindex };
    match exchange_frame(&frame, ifindex) {
        Ok(counter) => {
            maps::count(counter);
            match counter {
                Counter::Answered | Counter::AnsweredHandshake | Counter::AnsweredStale => Verdict::Answered,
                _ => Verdict::Consumed,
            }
        }
        Err(Counter::DropDisabled) => Verdict::NotOurs,
        Err(counter) => {
            maps::count(counter);
            Verdict::Consumed
        }
    }
}

#[inline(always)]
fn exchange_frame(frame: &Plain, ifindex: u32) -> Result<Counter, Counter> {
    let key = RouteKey { source: frame.source, destination: frame.destination, ifindex, zero: 0 };
    let route = maps::route(&key).ok_or(Counter::DropUnlisted)?;
    let conf = maps::conf(route).ok_or(Counter::Internal)?;
    let tick = maps::tick(route).ok_or(Counter::Internal)?;
    if conf.flags & PASS_TO_USERSPACE != 0 {
        return Err(Counter::DropDisabled);
    }
    if (frame.hop_limit as u32) < conf.min_hop_limit {
        return Err(Counter::DropHopLimit);
    }
    if frame.vlan as u32 != conf.vlan {
        return Err(Counter::DropVlan);
    }
    // SAFETY: `plain` checked the UDP header and the heartbeat behind it.
    let mut payload = Payload(unsafe { frame.udp.add(8) });
    let good = exchange::authenticate(&payload, conf, tick)?;
    // SAFETY: a helper without preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    let Some(held) = lock::take(&tick.lock) else { return Err(Counter::Contended) };
    let outcome = exchange::record(&payload, &good, conf, tick, now);
    if let Ok(Outcome::Taken(_, round_trip)) = outcome {
        maps::count_round_trip(route, round_trip);
    }
    held.release();
    match outcome? {
        Outcome::Taken(counter, _) => Ok(counter),
        Outcome::Answer(answer) => {
            let (progress, flags) = maps::own();
            let age = frame::age_since(progress, now);
            exchange::write_echo(&mut payload, &good, conf, answer, now, age, 0, flags);
            turn_round(frame, &payload);
            Ok(answer.counter)
        }
    }
}

/// Swaps addresses and ports, sets the hop limit and writes every checksum anew.
#[inline(always)]
fn turn_round(frame: &Plain, payload: &Payload) {
    // SAFETY: `plain` checked the Ethernet, IP and UDP headers that are written here.
    unsafe {
        let destination: (u32, u16) = (read(frame.ethernet, 0), read(frame.ethernet, 4));
        let source: (u32, u16) = (read(frame.ethernet, 6), read(frame.ethernet, 10));
        write(frame.ethernet, 0, source.0);
        write(frame.ethernet, 4, source.1);
        write(frame.ethernet, 6, destination.0);
        write(frame.ethernet, 10, destination.1);
    }
    let mut sum = (frame.source[0] & 0xffff_ffff) + (frame.source[0] >> 32);
    if frame.ipv6 {
        // SAFETY: as above.
        unsafe {
            write(frame.ip, 8, frame.destination[0]);
            write(frame.ip, 16, frame.destination[1]);
            write(frame.ip, 24, frame.source[0]);
            write(frame.ip, 32, frame.source[1]);
            write::<u8>(frame.ip, 7, 255);
        }
        sum += (frame.source[1] & 0xffff_ffff) + (frame.source[1] >> 32);
        sum += (frame.destination[0] & 0xffff_ffff) + (frame.destination[0] >> 32);
        sum += (frame.destination[1] & 0xffff_ffff) + (frame.destination[1] >> 32);
    } else {
        let (source, destination) = (frame.source[1] >> 32, frame.destination[1] >> 32);
        sum = source + destination;
        // SAFETY: as above.
        unsafe {
            write(frame.ip, 12, destination as u32);
            write(frame.ip, 16, source as u32);
            write::<u8>(frame.ip, 8, 255);
            write::<u16>(frame.ip, 10, 0);
            let mut header: u64 = 0;
            let words: [u32; 5] =
                [read(frame.ip, 0), read(frame.ip, 4), read(frame.ip, 8), read(frame.ip, 12), read(frame.ip, 16)];
            let mut index = 0;
            while index < 5 {
                header += words[index] as u64;
                index += 1;
            }
            write(frame.ip, 10, folded(header));
        }
    }
    // Pseudo header: protocol and length; UDP header: both ports and the length. All big-endian in memory.
    sum += u16::to_be(17) as u64 + 2 * u16::to_be((8 + frame::LEN) as u16) as u64;
    sum += 2 * u16::to_be(frame::PORT) as u64;
    let mut index = 0;
    while index < WORDS {
        let word = payload.get(index);
        sum += (word & 0xffff_ffff) + (word >> 32);
        index += 1;
    }
    let checksum = folded(sum);
    // SAFETY: as above.
    unsafe { write::<u16>(frame.udp, 6, if checksum == 0 { 0xffff } else { checksum }) };
}

/// Folds a sum of 32-bit words into the ones' complement of its ones' complement sum.
#[inline(always)]
fn folded(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}


//! From a received frame to its verdict: find the path, authenticate, record, answer in place.
//! It touches the packet and the maps; it decides nothing about anybody's membership, and obeys a fence.

use crate::packet::{self, Bytes, Payload, Plain, Shape, read, write};
use crate::{lock, maps};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::programs::XdpContext;
use core::cell::Cell;
use heartbeat_common::checksum;
use heartbeat_common::counter::Counter;
use heartbeat_common::exchange::{self, Outcome};
use heartbeat_common::fence;
use heartbeat_common::frame;
use heartbeat_common::maps::RouteKey;
use heartbeat_common::path::PathConf;
use heartbeat_common::tick::Tick;

/// Hop limit of every echo: the highest, so that a same-subnet prober can require it (RFC 5881, section 5).
const HOP_LIMIT: u8 = 255;
/// The protocol in the third word of an IPv4 header as it lies in memory: hop limit, protocol, checksum.
const PROTOCOL_MASK: u32 = 0xff00;

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
                Counter::Fenced | Counter::FenceAcked => Verdict::Answered,
                _ => Verdict::Consumed,
            }
        }
        Err(counter) => {
            maps::count(counter);
            Verdict::Consumed
        }
    }
}

#[inline(always)]
fn exchange_frame(frame: &Plain, ifindex: u32) -> Result<Counter, Counter> {
    let key = RouteKey { source: frame.source, destination: frame.destination, ifindex, zero: 0 };
    let (path, conf) = maps::route(&key)?;
    let tick = maps::tick(path).ok_or(Counter::Internal)?;
    if (frame.hop_limit as u32) < conf.min_hop_limit {
        return Err(Counter::DropHopLimit);
    }
    if frame.vlan as u32 != conf.vlan {
        return Err(Counter::DropVlan);
    }
    // SAFETY: `plain` checked the UDP header and the heartbeat behind it.
    let mut payload = Payload(unsafe { frame.udp.add(8) });
    let good = match exchange::authenticate(&payload, conf, tick) {
        Ok(good) => good,
        Err(Counter::DropReserved) if fence::is_fence(&payload) => {
            let counter = judge_fence(payload.0.cast(), conf, tick);
            if matches!(counter, Counter::Fenced | Counter::FenceAcked) {
                acknowledge(payload.0.cast(), conf);
                turn_acknowledgement(frame.ethernet, frame.ip, frame.udp, conf);
            }
            return Ok(counter);
        }
        Err(counter) => return Err(counter),
    };
    let page = maps::page().ok_or(Counter::Internal)?;
    // SAFETY: a helper without preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    let Some(held) = lock::take(&tick.lock) else { return Err(Counter::Contended) };
    let outcome = exchange::record(&payload, &good, conf, tick, &page, now);
    if let Ok(Outcome::Taken(_, round_trip)) = outcome {
        maps::count_round_trip(path, round_trip);
    }
    held.release();
    match outcome? {
        Outcome::Taken(counter, _) => Ok(counter),
        Outcome::Answer(answer) => {
            let (progress, flags) = maps::own();
            let age = frame::age_since(progress, now);
            let sum = exchange::write_echo(&mut payload, &good, conf, &page, answer, now, age, 0, flags);
            turn_round(frame, sum);
            Ok(answer.counter)
        }
    }
}

/// The heartbeat behind a pointer that the verifier knows the length of.
type Frame = [u64; frame::WORDS];

/// Judges a fence or its acknowledgement. A function of its own, as the two below are, so that the path of every other
/// frame is as short as without it; three, because the stacks of a chain of calls have 512 bytes together. What they take
/// and return fits into registers. This one and the next are exported: the verifier then goes through them once, and not
/// for each state in which the caller may be. For that it takes their pointers for ones that may be null.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn judge_fence(payload: *mut Frame, conf: *const PathConf, tick: *const Tick<Cell<u64>>) -> Counter {
    if payload.is_null() {
        return Counter::Internal;
    }
    let payload = Payload(payload.cast());
    // SAFETY: null, or the caller's references.
    let (Some(conf), Some(tick)) = (unsafe { (conf.as_ref(), tick.as_ref()) }) else { return Counter::Internal };
    let Some(page) = maps::page() else { return Counter::Internal };
    let good = match fence::authenticate(&payload, conf, &page) {
        Ok(good) => good,
        Err(counter) => return counter,
    };
    // SAFETY: a helper without preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    let Some(held) = lock::take(&tick.lock) else { return Counter::Contended };
    let outcome = fence::record(&payload, &good, conf, tick, &page, now);
    held.release();
    match outcome {
        Ok(counter) | Err(counter) => counter,
    }
}

/// Makes the acknowledgement of a fence that was found good.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn acknowledge(payload: *mut Frame, conf: *const PathConf) -> u32 {
    // SAFETY: null, or the caller's reference.
    if let Some(conf) = unsafe { conf.as_ref() }
        && !payload.is_null()
    {
        fence::write_ack(&mut Payload(payload.cast()), conf);
    }
    0
}

/// Turns an acknowledgement round. Its addresses are those that its path was found by.
#[inline(never)]
fn turn_acknowledgement(ethernet: *mut u8, ip: *mut u8, udp: *mut u8, conf: &PathConf) -> u32 {
    let (source, destination) = (conf.key.source, conf.key.destination);
    let ipv6 = !packet::is_mapped(source);
    // SAFETY: `plain` checked the UDP header and the heartbeat behind it.
    let sum = fence::ack_sum(&Payload(unsafe { udp.add(8) }), conf);
    turn_round(&Plain { ethernet, ip, udp, ipv6, vlan: 0, hop_limit: 0, source, destination }, sum);
    0
}

/// Swaps MAC and IP addresses (the ports are equal), sets the hop limit and writes the checksums in full.
/// `sum` is from `write_echo`.
#[inline(always)]
fn turn_round(frame: &Plain, sum: u64) {
    // SAFETY: `plain` checked the Ethernet, IP and UDP headers that are written here.
    unsafe {
        let destination: (u32, u16) = (read(frame.ethernet, 0), read(frame.ethernet, 4));
        let source: (u32, u16) = (read(frame.ethernet, 6), read(frame.ethernet, 10));
        write(frame.ethernet, 0, source.0);
        write(frame.ethernet, 4, source.1);
        write(frame.ethernet, 6, destination.0);
        write(frame.ethernet, 10, destination.1);
        if frame.ipv6 {
            write(frame.ip, 8, frame.destination[0]);
            write(frame.ip, 16, frame.destination[1]);
            write(frame.ip, 24, frame.source[0]);
            write(frame.ip, 32, frame.source[1]);
            write::<u8>(frame.ip, 7, HOP_LIMIT);
        } else {
            let (source, destination) = (frame.source[1] >> 32, frame.destination[1] >> 32);
            // Read before anything is written, and the third word written whole: a read of what two stores have just
            // written waits for both.
            let words: [u32; 3] = [read(frame.ip, 0), read(frame.ip, 4), read(frame.ip, 8)];
            let third = words[2] & PROTOCOL_MASK | HOP_LIMIT as u32;
            let header = source + destination + words[0] as u64 + words[1] as u64 + third as u64;
            write(frame.ip, 8, third | (checksum::fold(header) as u32) << 16);
            write(frame.ip, 12, destination as u32);
            write(frame.ip, 16, source as u32);
        }
        let sum = checksum::fold(sum);
        write::<u16>(frame.udp, 6, if sum == 0 { 0xffff } else { sum });
    }
}

//! Stamps the departure of this node's own probes, where the stack hands them to the device: after the neighbour
//! was resolved, before the queue. It changes no packet and drops none.

use crate::packet::{self, Bytes, ETH_LEN, IPV4_LEN, IPV6_LEN, Payload, Shape, TAG_LEN, UDP_LEN};
use crate::{lock, maps};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::programs::TcContext;
use heartbeat_common::counter::Counter;
use heartbeat_common::frame::{self, Kind, Words, word};
use heartbeat_common::maps::RouteKey;

/// Lengths of a plain heartbeat's frame: by IPv4 and by IPv6, untagged and with one VLAN tag.
const LENGTHS: [u32; 4] = {
    let (v4, v6) = (ETH_LEN + IPV4_LEN + UDP_LEN + frame::LEN, ETH_LEN + IPV6_LEN + UDP_LEN + frame::LEN);
    [v4 as u32, (v4 + TAG_LEN) as u32, v6 as u32, (v6 + TAG_LEN) as u32]
};

/// Records the departure if the frame is a probe of ours on a configured path.
#[inline(always)]
pub fn depart(ctx: &TcContext) {
    // A probe has one of four lengths. Everybody else's traffic ends here: pulling would copy the head of each clone,
    // and so of every TCP segment.
    let length = ctx.len();
    if !LENGTHS.contains(&length) {
        return;
    }
    let _ = ctx.pull_data(length);
    let bytes = Bytes { start: ctx.data(), end: ctx.data_end() };
    let Shape::Plain(plain) = packet::plain(bytes) else { return };
    // SAFETY: `plain` checked the UDP header and the heartbeat behind it.
    let payload = Payload(unsafe { plain.udp.add(8) });
    if (payload.get(word::DYNAMIC) >> 48) & frame::KIND_MASK != Kind::Probe as u64 {
        return;
    }
    // The route table is keyed as frames arrive: the peer first.
    // SAFETY: `ctx` is the kernel's own for this run.
    let ifindex = unsafe { (*ctx.skb.skb).ifindex };
    let key = RouteKey { source: plain.destination, destination: plain.source, ifindex, zero: 0 };
    let Some(tick) = maps::route(&key).ok().and_then(|(path, _)| maps::tick(path)) else {
        maps::count(Counter::DepartedUnknown);
        return;
    };
    // SAFETY: a helper without preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    let Some(held) = lock::take(&tick.lock) else {
        maps::count(Counter::Contended);
        return;
    };
    tick.depart(payload.get(word::SEQUENCE), now);
    held.release();
    maps::count(Counter::Departed);
}

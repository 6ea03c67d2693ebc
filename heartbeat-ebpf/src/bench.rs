//! Benchmark entries: each run copies the next of many prepared frames into the packet, so that every run does the
//! whole work, and then judges it, or not. It shares the product's modules and decides nothing of its own.
//!
//! BPF_PROG_TEST_RUN's repeat keeps what a program wrote into the packet: without the copy, the second run would
//! see an echo where the first saw a probe.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![allow(internal_features)]

mod lock;
mod maps;
mod packet;
mod xdp;

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::btf_maps::Array;
use aya_ebpf::macros::{btf_map, xdp as xdp_program};
use aya_ebpf::programs::XdpContext;

/// Words of a prepared frame: an IPv4 heartbeat is 186 bytes, an IPv6 one 206.
const FRAME_WORDS: usize = 26;

/// Prepared frames; the loader sets the number.
#[btf_map]
static FRAMES: Array<[u64; FRAME_WORDS], 1024> = Array::new();
/// Index of the next frame (0) and mask of the number of frames (1).
#[btf_map]
static CURSOR: Array<u64, 2> = Array::new();

/// Copies the next frame into the packet.
#[inline(always)]
fn next_frame(ctx: &XdpContext) -> Option<()> {
    let cursor = CURSOR.get_ptr_mut(0)?;
    let mask = *CURSOR.get(1)?;
    // SAFETY: a live entry; the benchmark runs on one CPU.
    let index = unsafe { *cursor };
    // SAFETY: as above.
    unsafe { *cursor = index + 1 };
    let frame = FRAMES.get((index & mask) as u32)?;
    let start = ctx.data();
    if start + FRAME_WORDS * 8 > ctx.data_end() {
        return None;
    }
    let mut word = 0;
    while word < FRAME_WORDS {
        // SAFETY: `FRAME_WORDS` words were checked; volatile, so that each is one store.
        unsafe { (start as *mut u64).add(word).write_volatile(frame[word]) };
        word += 1;
    }
    Some(())
}

/// The yardstick: the copy and a bare XDP_TX.
#[xdp_program(frags)]
fn bench_bare(ctx: XdpContext) -> u32 {
    match next_frame(&ctx) {
        Some(()) => xdp_action::XDP_TX,
        None => xdp_action::XDP_ABORTED,
    }
}

/// The copy and the product's whole path.
#[xdp_program(frags)]
fn bench_receive(ctx: XdpContext) -> u32 {
    if next_frame(&ctx).is_none() {
        return xdp_action::XDP_ABORTED;
    }
    match xdp::receive(&ctx) {
        xdp::Verdict::NotOurs => xdp_action::XDP_PASS,
        xdp::Verdict::Answered => xdp_action::XDP_TX,
        xdp::Verdict::Consumed => xdp_action::XDP_DROP,
    }
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

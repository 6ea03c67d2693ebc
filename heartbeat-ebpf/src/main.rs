//! The kernel side of heartbeat: an XDP program that authenticates, timestamps and answers heartbeats, and an
//! egress program that stamps the departure of this node's own probes.
//! The entry points only turn outcomes into verdicts. No membership is decided here.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![allow(internal_features)]

mod egress;
mod lock;
mod maps;
mod packet;
mod xdp;

use aya_ebpf::bindings::{TC_ACT_UNSPEC, xdp_action};
use aya_ebpf::macros::{classifier, xdp as xdp_program};
use aya_ebpf::programs::{TcContext, XdpContext};

#[xdp_program(frags)]
fn heartbeat_xdp(ctx: XdpContext) -> u32 {
    match xdp::receive(&ctx) {
        xdp::Verdict::NotOurs => xdp_action::XDP_PASS,
        xdp::Verdict::Answered => xdp_action::XDP_TX,
        xdp::Verdict::Consumed => xdp_action::XDP_DROP,
    }
}

#[classifier]
fn heartbeat_egress(ctx: TcContext) -> i32 {
    egress::depart(&ctx);
    TC_ACT_UNSPEC
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

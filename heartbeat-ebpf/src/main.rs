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
use aya_ebpf::macros::xdp as xdp_program;
use aya_ebpf::programs::{TcContext, XdpContext};
use core::ffi::c_void;

#[xdp_program(frags)]
fn heartbeat_xdp(ctx: XdpContext) -> u32 {
    let action = match xdp::receive(&ctx) {
        xdp::Verdict::NotOurs => xdp_action::XDP_PASS,
        xdp::Verdict::Answered => xdp_action::XDP_TX,
        xdp::Verdict::Consumed => xdp_action::XDP_DROP,
    };
    #[cfg(feature = "log")]
    aya_log_ebpf::debug!(&ctx, "{} bytes: XDP action {}", ctx.data_end() - ctx.data(), action);
    action
}

/// The macro `classifier` would put `__sk_buff` into the type information, and with it two forward declarations,
/// which LLVM orders by their address in memory: no two builds would be the same.
#[unsafe(no_mangle)]
#[unsafe(link_section = "classifier")]
pub extern "C" fn heartbeat_egress(ctx: *mut c_void) -> i32 {
    egress::depart(&TcContext::new(ctx.cast()));
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

//! The lab: what heartbeat's tests, demo and benchmarks share. It judges the product and is no part of it.

pub mod reference;
pub mod xdp;

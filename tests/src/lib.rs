//! What heartbeat's tests, demo and benchmarks stand on: the lab of network namespaces and what plays in it, the
//! reference of the packet path and what drives the kernel's. It judges the product and is no part of an installation.

pub mod bench;
pub mod demo;
pub mod faults;
pub mod lab;
pub mod model;
pub mod reference;
pub mod sim;
pub mod xdp;

//! What heartbeat's tests, demo and benchmarks stand on: the lab of network namespaces and what plays in it.
//! It decides nothing for a cluster and is no part of an installation.

pub mod bench;
pub mod demo;
pub mod lab;

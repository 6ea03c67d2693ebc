//! What heartbeat's kernel program and its controller must agree on: the wire format, the MAC, the
//! replay window, the tick of a path and the maps that hold them. It decides who is authentic; it
//! never decides who is a member, and it reads no clock, socket, file or map by itself.
//!
//! The same source runs in the XDP program, in the userspace responder and in the tests.
#![no_std]
#![deny(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod acceptor;
pub mod auth;
pub mod checksum;
pub mod counter;
pub mod exchange;
pub mod fence;
pub mod frame;
pub mod lease;
pub mod maps;
pub mod path;
pub mod replay;
pub mod siphash;
pub mod tick;
pub mod view;

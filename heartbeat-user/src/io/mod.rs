//! The shell: everything that touches the world. It acts on what `core` decided and decides nothing itself.
//!
//! ```text
//!   pacing thread  --probes-->  sockets --egress program--> ticks        (never waits on anything but time)
//!   deciding thread <--ticks--  mmapped maps  <--XDP--  wire
//!        |  events (bounded, counted when full)      | requests (bounded)
//!        v                                            ^
//!   journal thread -> events.jsonl, log      tokio: control socket, signals, notify
//! ```

pub mod attach;
pub mod clock;
pub mod interfaces;
pub mod memory;
pub mod object;
pub mod pins;
pub mod state;
pub mod sys;
pub mod table;

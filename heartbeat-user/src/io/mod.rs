//! The shell: everything that touches the world. It acts on what `core` decided and decides nothing itself.
//!
//! ```text
//!   pacer    --probes--> sockets --egress program--> ticks              waits for nothing but time
//!   decider  <--ticks--  mmapped maps <--XDP / responder--  wire        waits for time and orders
//!      | events                | orders
//!      v                       v
//!   journal --> events.jsonl   keeper: interfaces, programs, tables, pins, identity
//!      |
//!      v     decider <--messages--> link --TCP--> peers     decider --states--> disk --> agreement
//!   hooks
//!
//!   tokio: control socket, signals, service manager
//! ```

pub mod agreement;
pub mod attach;
pub mod backend;
#[cfg(feature = "bpf-log")]
pub mod bpf_log;
pub mod check;
pub mod clock;
pub mod conflict;
pub mod daemon;
pub mod decider;
pub mod detach;
pub mod disk;
pub mod egress;
pub mod fabric;
pub mod failure;
mod gating;
mod hands;
pub mod hooks;
pub mod interfaces;
pub mod journal;
pub mod keeper;
pub mod lateness;
pub mod lease_socket;
pub mod link;
pub mod lock;
pub mod logger;
pub mod looks;
pub mod manager;
pub mod mark_left;
pub mod memory;
pub mod nic;
pub mod nics;
pub mod object;
pub mod pacer;
pub mod page;
pub mod panics;
pub mod paths;
pub mod pins;
pub mod ran;
pub mod realtime;
pub mod responder;
pub mod services;
pub mod snapshot;
pub mod socket;
pub mod start;
pub mod state;
pub mod sys;
pub mod tc;
pub mod watchdog_device;

//! What `heartbeatctl` and `heartbeatd` say to each other over a Unix socket, and who may say it.
//! It carries questions and answers; it decides nothing about nodes and paths.
//!
//! One JSON object a line: the client sends one request, `{"verb": "events", "since_unix_ms": 0, "follow": true}`, the
//! server sends one answer and closes. Each answer holds `"schema": 1` and then either what was asked for
//! (`status` spreads its fields, the others hold one named list) or `"error": {"code", "message"}`. Only
//! `events` with `follow` is answered by many lines, `{"schema": 1, "event": {...}}` each, until one side ends it.

mod aim;
mod client;
mod error;
mod listen;
mod message;
mod model;
mod percentile;
mod permission;
mod server;
mod show;
mod tool;

pub use client::{Client, ClientError};
pub use error::{ErrorCode, Refusal};
pub use listen::{ListenError, Listener};
pub use message::{
    Answer, CountersBody, DetachedBody, DoneBody, ErrorBody, EventBody, EventsBody, NodesBody, PathsBody, Request,
    SCHEMA, Verb,
};
pub use model::*;
pub use percentile::{percentile_ns, round_trips};
pub use permission::{Access, Caller, Owner, may};
pub use server::{Backend, serve};
pub use show::{show_counters, show_event, show_nodes, show_paths, show_status};
pub use tool::{DetachAlone, run};

/// Longest request line, in bytes, its end included.
pub const REQUEST_MAX: usize = 64 * 1024;
/// Most connections at a time.
pub const CONNECTIONS_MAX: usize = 16;
/// Most of them that may follow events, so that followers never shut out questions.
pub const FOLLOWERS_MAX: usize = 8;
/// Name of the group whose members may read, and of the service's user.
pub const SERVICE_NAME: &str = "heartbeatd";

//! What `heartbeatctl` and `heartbeatd` say to each other over a Unix socket, and who may say it.
//! It carries questions and answers; it decides nothing about nodes and paths.
//!
//! One JSON object a line: the client sends one request, `{"verb": "events", "since_unix_ms": 0, "follow": true}`, the
//! server sends one answer and closes. Each answer holds `"schema": 1` and then either what was asked for
//! (`status`, `view` and `quorum` spread their fields, the others hold one named list; a change of the cluster is
//! answered by `done` and `view`) or `"error": {"code", "message"}`. Only
//! `events` with `follow` is answered by many lines, `{"schema": 1, "event": {...}}` each, until one side ends it.

mod aim;
mod change;
mod client;
mod door;
mod error;
mod lease;
mod listen;
mod message;
mod model;
mod percentile;
mod permission;
mod server;
mod show;
mod tool;
mod view;
mod words;

pub use change::{CHANGE_DEADLINE, Change, ChangedBody, Names, SettingChange, no_view};
pub use client::{Client, ClientError};
pub use door::AgreementDoor;
pub use error::{ErrorCode, Refusal};
pub use lease::LeaseFacts;
pub use listen::{ListenError, Listener};
pub use message::{
    Answer, CountersBody, DetachedBody, DoneBody, ErrorBody, EventBody, EventsBody, NodesBody, PathsBody, Request,
    SCHEMA, Verb,
};
pub use model::*;
pub use percentile::{percentile_ns, round_trips};
pub use permission::{Access, Caller, Owner, may};
pub use server::{Backend, serve};
pub use show::{show_counters, show_event, show_nodes, show_paths, show_quorum, show_status, show_view};
pub use tool::{DetachAlone, run};
pub use view::*;

/// Longest request line, in bytes, its end included.
pub const REQUEST_MAX: usize = 64 * 1024;
/// Most connections at a time.
pub const CONNECTIONS_MAX: usize = 16;
/// Most of them that may follow events, so that followers never shut out questions.
pub const FOLLOWERS_MAX: usize = 8;
/// Most of them that may have a change decided, each of which keeps a thread waiting: so they never shut out questions.
pub const CHANGES_MAX: usize = 2;
/// Name of the group whose members may read, and of the service's user.
pub const SERVICE_NAME: &str = "heartbeatd";

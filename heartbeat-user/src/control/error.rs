//! Why a request was not served. It names reasons; it serves nothing.

use serde::{Deserialize, Serialize};

/// The kind of a refusal, stable for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The request is no JSON object that this version understands.
    BadRequest,
    /// The request line did not come in time.
    Timeout,
    /// The request line is longer than [`super::REQUEST_MAX`].
    TooLong,
    /// Too many connections, or too many followers.
    Busy,
    /// The caller may not ask this.
    PermissionDenied,
    /// A follower did not read fast enough and has missed events.
    TooSlow,
    /// The daemon could not do it; the message says why.
    Failed,
    /// There is no view: the cluster was not initialised.
    NoView,
    /// No majority decided it in time; it was withdrawn.
    NoQuorum,
    /// A rule forbids it; nothing changed.
    RuleBroken,
    /// The name of another cluster was typed; nothing was done.
    WrongCluster,
    /// There is no such node; nothing was done.
    UnknownNode,
}

/// A request that was not served, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The kind.
    pub code: ErrorCode,
    /// One sentence for people.
    pub message: String,
}

impl Refusal {
    /// Makes a refusal.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// Makes the refusal of a daemon that could not do what was asked.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Failed, message)
    }
}

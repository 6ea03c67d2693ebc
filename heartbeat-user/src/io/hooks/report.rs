//! What became of a hook, for the log and for events. It starts and ends nothing.

use super::ChainError;
use crate::lease::{Refused, reason};
use std::io;
use std::path::PathBuf;

/// How a hook ended.
#[derive(Debug)]
pub enum End {
    /// It ended by itself, with this status.
    Exited(i32),
    /// A signal that was not from here ended it.
    Signalled(i32),
    /// It was ended when its time was over.
    TimedOut,
    /// It was ended when the lease was.
    LeaseOver,
    /// It was ended with heartbeatd.
    Stopped,
    /// It was not run: part of its path is not to be trusted.
    Untrusted(ChainError),
    /// It was not run: it needs the lease, and this node may not act.
    NotActing(Refused),
    /// It could not be run.
    Failed(io::Error),
}

impl End {
    /// Says that the hook did what it was for.
    #[must_use]
    pub fn is_success(&self) -> bool {
        matches!(self, Self::Exited(0))
    }

    /// Returns how it ended, for people.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Exited(status) => format!("ended with status {status}"),
            Self::Signalled(signal) => format!("was ended by signal {signal}"),
            Self::TimedOut => "was ended: its time was over".to_owned(),
            Self::LeaseOver => "was ended: this node may act no more".to_owned(),
            Self::Stopped => "was ended with heartbeatd".to_owned(),
            Self::Untrusted(error) => format!("was not run: {error}"),
            Self::NotActing(refused) => format!("was not run: {}", reason(*refused)),
            Self::Failed(error) => format!("could not be run: {error}"),
        }
    }
}

/// What became of one hook.
#[derive(Debug)]
pub struct Report {
    /// Its program.
    pub program: PathBuf,
    /// The event that it was run for.
    pub event: String,
    /// How it ended.
    pub end: End,
    /// What it wrote, at most [`super::OUTPUT_MAX`].
    pub output: Vec<u8>,
    /// Bytes that it wrote beyond that.
    pub cut: u64,
}

impl Report {
    /// Writes it to the log: what the hook wrote line by line, without what could pass for a line of another's.
    pub fn log(&self) {
        let (program, event) = (self.program.display(), &self.event);
        for line in String::from_utf8_lossy(&self.output).lines() {
            let line: String =
                line.chars().map(|letter| if letter.is_control() { '\u{fffd}' } else { letter }).collect();
            log::info!("hook {program} ({event}): {line}");
        }
        if self.cut > 0 {
            log::warn!("hook {program} ({event}): wrote {} bytes more than are kept", self.cut);
        }
        match &self.end {
            End::Exited(0) => log::debug!("hook {program} ({event}): done"),
            end => log::warn!("hook {program} ({event}): {}", end.text()),
        }
    }
}

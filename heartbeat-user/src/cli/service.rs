//! What the service manager tells heartbeatd through its environment, and what follows from it.
//! It decides from texts given to it; asking the manager is the caller's.

use super::ExitCode;
use std::time::Duration;

/// A service's watchdog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watchdog {
    /// There is none.
    Off,
    /// The service is killed if it has not reported for this long.
    Every(Duration),
}

/// Why a watchdog will not do, or could not be read.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum WatchdogError {
    /// It would kill a stalled daemon before its peers have judged it.
    #[error(
        "the service's watchdog ({watchdog_s} s) must be longer than hang_limit_s ({hang_limit_s} s): it would kill a \
         daemon that the kernel has just carried through a stall; raise WatchdogSec= or lower hang_limit_s"
    )]
    TooShort {
        /// The watchdog in seconds.
        watchdog_s: f64,
        /// The hang limit in seconds.
        hang_limit_s: f64,
    },
}

/// Checks that `watchdog` does not end before the hang limit.
///
/// The manager sets `WATCHDOG_USEC` for the main process alone, not for `ExecStartPre=`: `heartbeatd check` has to ask
/// the manager for the unit's `WatchdogUSec`, and `heartbeatd run` checks once more with what it was given.
///
/// # Errors
/// [`WatchdogError::TooShort`] if it is no longer than `hang_limit`.
pub fn check_watchdog(watchdog: Watchdog, hang_limit: Duration) -> Result<(), WatchdogError> {
    match watchdog {
        Watchdog::Every(every) if every <= hang_limit => {
            Err(WatchdogError::TooShort { watchdog_s: every.as_secs_f64(), hang_limit_s: hang_limit.as_secs_f64() })
        }
        _ => Ok(()),
    }
}

/// Units of the service manager's time spans, in microseconds.
const UNITS: [(&str, u64); 19] = [
    ("usec", 1),
    ("us", 1),
    ("msec", 1_000),
    ("ms", 1_000),
    ("seconds", 1_000_000),
    ("second", 1_000_000),
    ("sec", 1_000_000),
    ("s", 1_000_000),
    ("minutes", 60_000_000),
    ("minute", 60_000_000),
    ("min", 60_000_000),
    ("m", 60_000_000),
    ("hours", 3_600_000_000),
    ("hour", 3_600_000_000),
    ("hr", 3_600_000_000),
    ("h", 3_600_000_000),
    ("days", 86_400_000_000),
    ("day", 86_400_000_000),
    ("d", 86_400_000_000),
];

/// Parses a time span as the service manager writes and prints it: `90`, `90s`, `1min 30s`; `0` and `infinity` mean
/// that there is no watchdog. `WATCHDOG_USEC` is a plain number of microseconds and not for this function.
///
/// # Errors
/// A sentence for people, if `text` is no time span.
pub fn parse_time_span(text: &str) -> Result<Watchdog, String> {
    let refuse = || format!("'{text}' is no time span: expected such as 90s, 2min or \"1min 30s\"");
    let text = text.trim();
    if text == "infinity" {
        return Ok(Watchdog::Off);
    }
    let mut rest = text;
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let number: u64 = rest[..digits].parse().map_err(|_| refuse())?;
        let after = rest[digits..].trim_start();
        let letters = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let scale = match &after[..letters] {
            "" if after.is_empty() => 1_000_000,
            word => UNITS.iter().find(|(name, _)| *name == word).ok_or_else(refuse)?.1,
        };
        total = number.checked_mul(scale).and_then(|part| total.checked_add(part)).ok_or_else(refuse)?;
        rest = after[letters..].trim_start();
    }
    match (text.is_empty(), total) {
        (true, _) => Err(refuse()),
        (_, 0) => Ok(Watchdog::Off),
        (_, total) => Ok(Watchdog::Every(Duration::from_micros(total))),
    }
}

/// What the service manager says about the end of the daemon, as environment variables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceFacts {
    /// `SERVICE_RESULT`: set for `ExecStopPost=`.
    pub service_result: Option<String>,
    /// `EXIT_STATUS` of the main process, for `ExecStopPost=`.
    pub exit_status: Option<String>,
    /// `MONITOR_SERVICE_RESULT`: set for a unit started by `OnFailure=`.
    pub monitor_service_result: Option<String>,
    /// `MONITOR_EXIT_STATUS`, for a unit started by `OnFailure=`.
    pub monitor_exit_status: Option<String>,
}

impl ServiceFacts {
    /// Reads the facts through `lookup`, which returns an environment variable.
    #[must_use]
    pub fn read(lookup: impl Fn(&str) -> Option<String>) -> Self {
        Self {
            service_result: lookup("SERVICE_RESULT"),
            exit_status: lookup("EXIT_STATUS"),
            monitor_service_result: lookup("MONITOR_SERVICE_RESULT"),
            monitor_exit_status: lookup("MONITOR_EXIT_STATUS"),
        }
    }
}

/// What `heartbeatd mark-left` is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MarkLeft {
    /// Mark the node as left.
    Mark,
    /// Leave all as it is, for this reason.
    Nothing(&'static str),
    /// Ask the manager for the unit's `ActiveState` and mark the node if [`gave_up`] says so.
    AskManager,
}

/// Decides whether the service manager has given up restarting the daemon.
///
/// A manager runs `ExecStopPost=` after *every* end, and says there only how the daemon ended, not whether it will be
/// started again; when the start limit is hit it runs no `ExecStopPost=` at all. So that step marks the node only
/// where the exit status itself prevents a restart, and the start limit is `OnFailure=`'s, which some managers also
/// start between two automatic restarts: there the unit's state decides.
#[must_use]
pub fn mark_left_verdict(facts: &ServiceFacts) -> MarkLeft {
    const OTHER: &str = "another heartbeatd runs here: the node is its";
    let another = (ExitCode::AnotherInstance as u8).to_string();
    if let Some(result) = &facts.monitor_service_result {
        return match result.as_str() {
            _ if facts.monitor_exit_status.as_ref() == Some(&another) => MarkLeft::Nothing(OTHER),
            "start-limit-hit" => MarkLeft::Mark,
            "exit-code" if facts.monitor_exit_status.as_deref().is_some_and(final_status) => MarkLeft::Mark,
            _ => MarkLeft::AskManager,
        };
    }
    let Some(result) = &facts.service_result else {
        return MarkLeft::Mark;
    };
    match (result.as_str(), &facts.exit_status) {
        ("success", _) => MarkLeft::Nothing("the daemon ended in order and has said itself what that means"),
        ("exit-code", Some(status)) if *status == another => MarkLeft::Nothing(OTHER),
        ("exit-code", Some(status)) if final_status(status) => MarkLeft::Mark,
        _ => MarkLeft::Nothing("the manager restarts heartbeatd, or starts heartbeatd-left.service if it gives up"),
    }
}

fn final_status(status: &str) -> bool {
    ExitCode::ALL.iter().any(|code| code.prevents_restart() && (*code as u8).to_string() == status)
}

/// Says whether a unit in `active_state` (of `systemctl show --property=ActiveState --value`) will not be restarted.
#[must_use]
pub fn gave_up(active_state: &str) -> bool {
    matches!(active_state.trim(), "failed" | "inactive")
}

//! The verbs that read the page: `heartbeatctl is-quorate`, `wait` and `token`, and `heartbeatd hold`. They print, and
//! say by their exit code how things stand; they ask nothing of heartbeatd but the page.

use super::hold::{Ended, Waited};
use super::{Lease, OpenError, Places, Refused, Token, hold, reason, text, wait};
use crate::cli::{ExitCode, LeaseVerb};
use crate::io::realtime;
use heartbeat_common::view::Order;
use serde::Serialize;
use std::io::{self, Write};

/// SCHED_FIFO priority of `heartbeatd hold`: one below the thread that decides. What it holds on to ends when it runs.
const PRIORITY: u8 = 48;

/// One answer, for programs.
#[derive(Serialize)]
struct Body {
    schema: u32,
    acting: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    force: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    number: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    incarnation: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl Body {
    fn of(judged: Result<Token, Refused>) -> Self {
        let token = judged.ok();
        Self {
            schema: crate::control::SCHEMA,
            acting: token.is_some(),
            token: token.map(text),
            force: token.map(|token| Order(token.order).force()),
            number: token.map(|token| Order(token.order).number()),
            incarnation: token.map(|token| token.incarnation),
            reason: judged.err().map(reason),
        }
    }
}

/// Does what a verb asks: the answer goes to `out`, an error as one line to `errors`.
pub fn run(verb: &LeaseVerb, json: bool, out: &mut impl Write, errors: &mut impl Write) -> ExitCode {
    let judged = match verb {
        LeaseVerb::Wait(args) => wait(&args.page.places(), args.timeout),
        LeaseVerb::IsQuorate(args) | LeaseVerb::Token(args) => once(&args.places()),
    };
    let judged = match judged {
        Ok(token) => Ok(token),
        Err(Waited::Refused(refused)) => Err(refused),
        Err(Waited::NoPage(error)) => {
            let _ = writeln!(errors, "heartbeatctl: {error}");
            return without_page(&error);
        }
    };
    let wants_token = matches!(verb, LeaseVerb::Token(_));
    match print(judged, json, wants_token, out, errors) {
        // Whoever closed the pipe has seen enough.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            let _ = writeln!(errors, "heartbeatctl: cannot write: {error}");
            ExitCode::Error
        }
        _ if judged.is_ok() => ExitCode::Ok,
        _ => ExitCode::NotQuorate,
    }
}

fn once(places: &Places) -> Result<Token, Waited> {
    Lease::open(places).map_err(Waited::NoPage)?.acting().map_err(Waited::Refused)
}

fn print(
    judged: Result<Token, Refused>,
    json: bool,
    wants_token: bool,
    out: &mut impl Write,
    errors: &mut impl Write,
) -> io::Result<()> {
    match judged {
        _ if json => writeln!(out, "{}", serde_json::to_string(&Body::of(judged))?)?,
        Ok(token) if wants_token => writeln!(out, "{}", text(token))?,
        Ok(token) => writeln!(out, "this node may act, as {}", text(token))?,
        // A script that takes the token takes no sentence for one.
        Err(refused) if wants_token => writeln!(errors, "heartbeatctl: no token: {}", reason(refused))?,
        Err(refused) => writeln!(out, "this node may not act: {}", reason(refused))?,
    }
    out.flush()
}

fn without_page(error: &OpenError) -> ExitCode {
    match error {
        OpenError::Nowhere { .. } | OpenError::NobodyListens(_) | OpenError::NotYet(_) => ExitCode::NotRunning,
        OpenError::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => ExitCode::PermissionDenied,
        _ => ExitCode::Error,
    }
}

/// `heartbeatd hold`: returns when this node may act no more, with a sentence that says why.
///
/// # Errors
/// If the page that is there cannot be used.
pub fn run_hold(places: &Places) -> Result<String, OpenError> {
    // Best effort, each: none of it is needed to be right, only to end on time.
    if let Err(error) = realtime::fifo(PRIORITY) {
        eprintln!("heartbeatd: holds on without real-time priority, so what it holds may end late: {error}");
    }
    realtime::no_timer_slack();
    let _ = realtime::lock_memory();
    Ok(match hold(places)? {
        Ended::Refused(refused) => format!("over: {}", reason(refused)),
        Ended::Reborn(incarnation) => format!("over: incarnation {incarnation} of this node acts by now"),
    })
}

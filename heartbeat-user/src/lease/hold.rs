//! Holds on to the lease: waits until this node may act, says so, and ends when it may no more. The steps are pure; the
//! loop around them looks at the page and sleeps, and asks nothing of heartbeatd but the page and, once in the life of a
//! node, to take note of holders.

use super::note::{is_noted, note};
use super::{Lease, OpenError, Places, Refused, Token, now, reason, text};
use crate::io::manager;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, ClockNanosleepFlags, clock_nanosleep};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

/// How often the page is looked at. A lease that is not renewed ends at a moment known before, and is looked at then;
/// but a fence, or this node itself, ends it at any moment.
const LOOK: Duration = Duration::from_millis(50);
/// How often a page that is not there is asked for.
const OPEN: Duration = Duration::from_millis(200);
/// How often heartbeatd is asked whether it has another page by now: one that was killed may not have closed its own.
const AGAIN: Duration = Duration::from_secs(1);

/// What a holder does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Move {
    /// Look again then, CLOCK_BOOTTIME ns.
    LookAt(u64),
    /// Say that this node may act, then look again.
    Ready(Token),
    /// Open the page anew.
    Reopen,
    /// End: why this node may act no more.
    Over(Ended),
}

/// Why a holder ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// This node may not act.
    Refused(Refused),
    /// Another incarnation acts than the one that it began under: what that one ran must not go on.
    Reborn(u64),
}

/// One holder: from the first moment that this node may act to the first that it may not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holder {
    held: Option<u64>,
}

impl Holder {
    /// Says whether it holds on to the lease.
    #[must_use]
    pub const fn holds(&self) -> bool {
        self.held.is_some()
    }

    /// Takes what the page said at `now`, and `end`, until when its dates hold, both CLOCK_BOOTTIME ns.
    #[must_use]
    pub fn step(&mut self, judged: Result<Token, Refused>, end: u64, now: u64) -> Move {
        let later = now.saturating_add(LOOK.as_nanos() as u64);
        match (self.held, judged) {
            (None, Ok(token)) => {
                self.held = Some(token.incarnation);
                Move::Ready(token)
            }
            (None, Err(Refused::Closed)) => Move::Reopen,
            (None, Err(_)) => Move::LookAt(later),
            (Some(held), Ok(token)) if held == token.incarnation => Move::LookAt(end.clamp(now, later)),
            (Some(_), Ok(token)) => Move::Over(Ended::Reborn(token.incarnation)),
            (Some(_), Err(refused)) => Move::Over(Ended::Refused(refused)),
        }
    }
}

/// Holds on: tells the service manager that it is ready when this node may act, and returns why it may no more. It is not
/// ready before heartbeatd has taken note of holders: until then this node's kernel may say that it stops at once.
///
/// # Errors
/// If the page that is there cannot be used; one that is not there is waited for.
pub fn hold(places: &Places) -> Result<Ended, OpenError> {
    let mut holder = Holder::default();
    // What the manager was told that it waits for; `None` within: for heartbeatd to take note.
    let mut told = None;
    let mut lease = opened(places)?;
    let newer = asked_again(places);
    loop {
        lease = newer.try_recv().unwrap_or(lease);
        let noted = holder.holds() || is_noted(places) || {
            note(places);
            is_noted(places)
        };
        let judged = lease.acting();
        if !noted && judged.is_ok() {
            if told != Some(None) {
                manager::status("waits: heartbeatd has to take note first that something holds on to the lease");
                told = Some(None);
            }
            sleep_until(next(LOOK, None));
            continue;
        }
        match holder.step(judged, lease.end(), now()) {
            Move::LookAt(at) => {
                if let Err(refused) = judged
                    && told != Some(Some(refused))
                {
                    manager::status(&format!("waits: {}", reason(refused)));
                    told = Some(Some(refused));
                }
                sleep_until(at);
            }
            Move::Ready(token) => manager::ready(&format!("this node may act, as {}", text(token))),
            Move::Reopen => {
                sleep_until(next(OPEN, None));
                lease = opened(places)?;
            }
            Move::Over(ended) => {
                manager::stopping();
                return Ok(ended);
            }
        }
    }
}

/// Why a wait ended without a token.
#[derive(Debug)]
pub enum Waited {
    /// There is a page, and this node may not act.
    Refused(Refused),
    /// There is no page to judge.
    NoPage(OpenError),
}

/// Waits until this node may act, for `limit` or for ever, and returns the token.
///
/// # Errors
/// What stood against it last, or a page that cannot be used.
pub fn wait(places: &Places, limit: Option<Duration>) -> Result<Token, Waited> {
    let deadline = limit.map(|limit| now().saturating_add(u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX)));
    let over = |at: u64| deadline.is_some_and(|deadline| at >= deadline);
    let mut lease = None;
    loop {
        match Lease::open(places) {
            Ok(newer) => lease = Some(newer),
            Err(error) if lease.is_none() && (!error.passes() || error.is_denied() || over(now())) => {
                return Err(Waited::NoPage(error));
            }
            // A page that was handed out is judged on, whatever became of who did so.
            Err(_) => {}
        }
        let Some(page) = &lease else {
            sleep_until(next(OPEN, deadline));
            continue;
        };
        let again = now().saturating_add(AGAIN.as_nanos() as u64);
        loop {
            match page.acting() {
                Ok(token) => return Ok(token),
                Err(refused) if over(now()) => return Err(Waited::Refused(refused)),
                Err(refused) => {
                    sleep_until(next(LOOK, deadline));
                    if refused == Refused::Closed || now() >= again {
                        break;
                    }
                }
            }
        }
    }
}

fn next(pause: Duration, deadline: Option<u64>) -> u64 {
    now().saturating_add(pause.as_nanos() as u64).min(deadline.unwrap_or(u64::MAX))
}

/// Opens the page, however long that takes.
fn opened(places: &Places) -> Result<Lease, OpenError> {
    let mut told = false;
    loop {
        match Lease::open(places) {
            Err(error) if error.passes() => {
                if !told {
                    manager::status(&format!("waits: {error}"));
                    told = true;
                }
                sleep_until(next(OPEN, None));
            }
            opened => return opened,
        }
    }
}

/// Asks for the page again and again, on a thread of its own: a heartbeatd that is stopped takes its time, and what is
/// held has to end meanwhile. Without the thread a page that was not closed is held on to for as long as it is valid.
fn asked_again(places: &Places) -> Receiver<Lease> {
    let (newer, taken) = sync_channel(1);
    let places = places.clone();
    let ask = move || {
        loop {
            std::thread::sleep(AGAIN);
            if let Ok(lease) = Lease::open(&places)
                && newer.send(lease).is_err()
            {
                return;
            }
        }
    };
    if let Err(error) = std::thread::Builder::new().name("hb-again".to_owned()).spawn(ask) {
        manager::status(&format!("cannot ask for another page: {error}"));
    }
    taken
}

/// Sleeps until then by CLOCK_BOOTTIME: a machine that sleeps meanwhile is late for nothing. A signal ends it early.
fn sleep_until(at: u64) {
    let at = TimeSpec::from(Duration::from_nanos(at));
    let _ = clock_nanosleep(ClockId::CLOCK_BOOTTIME, ClockNanosleepFlags::TIMER_ABSTIME, &at);
}

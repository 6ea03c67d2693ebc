//! Whether this node may claim that all that acts on it asks its page first, and stops with it: then others take the
//! acknowledgement of a fence for a proof that it has stopped. It looks again every 10 s, hears of a holder before that
//! one holds anything, and claims nothing while it does not know.
//!
//! ```text
//! holder --connects to hold.sock--> claim no more --every frame says so--> mark `held` --seen by the holder--> ready
//! ```
//!
//! The mark outlives this process and is never taken away: a holder that has seen it needs no heartbeatd any more, and no
//! later controller claims anything beside it. Where the run directory goes with the service, so does the mark.

use crate::io::decider::Orders;
use crate::io::lease_socket::OpenSocket;
use crate::io::manager::{self, Properties};
use crate::lease::{HELD, HOLD_SOCKET};
use anyhow::Context;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::sync::{mpsc, oneshot};

/// How often it is looked whether the claim is still true. A look that brings nothing until the next one ends the claim.
const LOOK: Duration = Duration::from_secs(10);
/// Name of the thread that asks the service manager.
const THREAD: &str = "hb-gating";
/// How long every frame may take to be brought to claim nothing. A holder asks again after it.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pause after a holder that was answered: connections cost this thread little.
const REST: Duration = Duration::from_millis(1);

/// What units bind to, and what it is bound to.
const UNITS: [&str; 2] = ["heartbeat-quorate.target", "heartbeat-quorate.service"];
/// The properties that name who starts or stops with a unit.
const DEPENDENTS: [&str; 6] = ["WantedBy", "RequiredBy", "BoundBy", "ConsistsOf", "UpheldBy", "RequisiteOf"];
const ACTIVE: &str = "ActiveState";
const FILE: &str = "UnitFileState";

/// What the service manager says of the units that hold on to the lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Units {
    /// There is no service manager.
    NoManager,
    /// It does not say.
    Unknown,
    /// Nothing hangs on them, by its own word.
    Unused,
    /// Something does, or may at any moment: what.
    Used(String),
}

/// What a node may claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judged {
    /// All that acts here asks the page first.
    Gated,
    /// Nothing is known for sure: it claims nothing for the time being.
    Unknown,
    /// Something acts, or may, that stops in its own time: what.
    Ungated(String),
}

impl Judged {
    fn text(&self) -> String {
        match self {
            Self::Gated => "yes, all that acts here asks the page first".to_owned(),
            Self::Unknown => "not known, the service manager does not say what acts here".to_owned(),
            Self::Ungated(what) => format!("no, {what}"),
        }
    }
}

/// Judges what was seen. `hooks`: programs are run at events; `held`: a holder has said that it holds on to the lease.
#[must_use]
pub fn judge(hooks: bool, held: bool, units: &Units) -> Judged {
    match units {
        _ if hooks => Judged::Ungated("programs are run at events".to_owned()),
        _ if held => Judged::Ungated("something holds on to the lease".to_owned()),
        Units::Used(what) => Judged::Ungated(what.clone()),
        Units::Unknown => Judged::Unknown,
        Units::NoManager | Units::Unused => Judged::Gated,
    }
}

/// Judges what the manager said of the target and the holder, in this order.
#[must_use]
pub fn used(told: Option<&[Properties]>) -> Units {
    let Some([target, holder]) = told else { return Units::Unknown };
    for (unit, other, found) in [(UNITS[0], UNITS[1], target), (UNITS[1], UNITS[0], holder)] {
        let of = |property: &str| found.get(property).map_or("", String::as_str);
        match of(ACTIVE) {
            "" => return Units::Unknown,
            "inactive" | "failed" => {}
            state => return Units::Used(format!("{unit} is {state}")),
        }
        // What is enabled, or was generated or linked, may be started at any moment.
        if !["", "disabled", "masked", "masked-runtime"].contains(&of(FILE)) {
            return Units::Used(format!("{unit} is {}", of(FILE)));
        }
        let mut dependents = DEPENDENTS.iter().flat_map(|list| of(list).split_whitespace());
        if let Some(dependent) = dependents.find(|dependent| *dependent != other) {
            return Units::Used(format!("{dependent} hangs on {unit}"));
        }
    }
    Units::Unused
}

/// Asks the service manager, for 2 s at most.
fn look() -> Units {
    if !manager::is_there() {
        return Units::NoManager;
    }
    let properties: Vec<&str> = [ACTIVE, FILE].into_iter().chain(DEPENDENTS).collect();
    used(manager::of_units(&properties, &UNITS).as_deref())
}

/// Who keeps the claim true.
#[derive(Debug)]
pub struct Gating {
    socket: OpenSocket,
    mark: PathBuf,
    hooks: bool,
}

/// What the claim is told to. Told is whether the order was taken.
trait Claims {
    fn claim(&self, gated: bool, done: oneshot::Sender<()>) -> bool;
}

impl Claims for Orders {
    fn claim(&self, gated: bool, done: oneshot::Sender<()>) -> bool {
        self.gated(gated, done)
    }
}

impl Gating {
    /// Opens the socket that holders connect to. `hooks`: programs are run at events.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn open(run_dir: &Path, hooks: bool) -> anyhow::Result<Self> {
        let path = run_dir.join(HOLD_SOCKET);
        let socket = OpenSocket::bind_at(&path).with_context(|| format!("open the socket {}", path.display()))?;
        Ok(Self { socket, mark: run_dir.join(HELD), hooks })
    }

    /// Keeps the claim true, until it is dropped. To be run on the runtime's thread.
    ///
    /// # Errors
    /// If the socket cannot be waited on.
    pub async fn serve(self, orders: Orders) -> anyhow::Result<()> {
        self.serve_asking(&orders, look, LOOK).await
    }

    async fn serve_asking(self, claims: &impl Claims, ask: fn() -> Units, every: Duration) -> anyhow::Result<()> {
        let listener = self.socket.listener().context("watch the socket of holders")?;
        // A thread of its own: those of the runtime may all be taken by who waits for a change or for what runs to stop, and a
        // claim that is true no more would be made meanwhile.
        let (asked, questions) = std::sync::mpsc::sync_channel::<()>(1);
        let (answers, mut answered) = mpsc::channel(1);
        std::thread::Builder::new()
            .name(THREAD.to_owned())
            .spawn(move || {
                // It ends with this task, or after what it then waits for.
                while questions.recv().is_ok() && answers.blocking_send(ask()).is_ok() {}
            })
            .context("start the thread that asks the service manager")?;
        let mut look = tokio::time::interval(every);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut asking = false;
        let mut last = Judged::Unknown;
        loop {
            let held = self.mark.exists();
            tokio::select! {
                _ = look.tick() => {
                    if std::mem::replace(&mut asking, true) {
                        // Nobody has answered since the look before: what was found then is too old.
                        last = Judged::Unknown;
                        self.follow(claims, &last, held).await;
                    } else {
                        let _ = asked.try_send(());
                    }
                }
                Some(units) = answered.recv() => {
                    asking = false;
                    let judged = judge(self.hooks, held, &units);
                    if judged != last {
                        log::info!("a fence stops this node at once: {}", judged.text());
                        last = judged.clone();
                    }
                    self.follow(claims, &judged, held).await;
                }
                accepted = listener.accept() => {
                    if let Ok((mut holder, _)) = accepted && self.give_up(claims).await {
                        // It looks for the mark itself; this only spares it the wait.
                        let _ = holder.write_all(b"h").await;
                    }
                    tokio::time::sleep(REST).await;
                }
            }
        }
    }

    /// Has the claim be what was judged. Said again each time: an order that was not taken is lost otherwise.
    async fn follow(&self, claims: &impl Claims, judged: &Judged, held: bool) {
        // A holder that the manager starts later finds the mark, though this process may stand still by then.
        if matches!(judged, Judged::Ungated(_)) && !held {
            self.give_up(claims).await;
        } else {
            let _ = claims.claim(*judged == Judged::Gated, oneshot::channel().0);
        }
    }

    /// Gives the claim up for good: once no frame makes it any more, it leaves the mark. Says whether it is there.
    async fn give_up(&self, claims: &impl Claims) -> bool {
        if self.mark.exists() {
            return true;
        }
        let (done, told) = oneshot::channel();
        if !claims.claim(false, done) || !matches!(tokio::time::timeout(PATIENCE, told).await, Ok(Ok(()))) {
            log::warn!("frames that say that all here asks the page could not be changed yet: a holder has to wait");
            return false;
        }
        match leave(&self.mark) {
            Ok(()) => true,
            Err(error) => {
                log::error!("{}: {error}: a holder has to wait", self.mark.display());
                false
            }
        }
    }
}

/// Leaves the mark, which every user may see.
fn leave(mark: &Path) -> io::Result<()> {
    match OpenOptions::new().write(true).create_new(true).mode(0o444).open(mark) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;

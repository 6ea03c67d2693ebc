//! What this daemon offers to those who hold on to the lease, and what it runs for its operator: the lease socket, the
//! second pin of the page, hooks, the watchdog device. It starts and ends them; whether this node may act is told by the
//! page alone.

use crate::config::Config;
use crate::core::event::{EventBody, ViewEvent};
use crate::io::decider::Orders;
use crate::io::failure::Failure;
use crate::io::gating::Gating;
use crate::io::hooks::{self, Happened, Hooks, Report, Settings};
use crate::io::journal::{EventSink, Journal};
use crate::io::lease_socket::{LeaseSocket, Readable, Shown};
use crate::io::memory::Shared;
use crate::io::page::pin;
use crate::io::pins::PinDir;
use crate::io::ran::Ran;
use crate::io::watchdog_device::{self, Feeder, Guard};
use crate::lease::{self, Gate, Refused, Token};
use anyhow::Context;
use heartbeat_common::maps;
use serde_json::Value;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{broadcast, oneshot};
use tokio::task::JoinHandle;

/// How long hooks may take to be gone once they were killed.
const HOOKS_END: Duration = Duration::from_secs(5);

/// The page of this very process, for hooks.
struct OwnPage(Arc<Shared>);

impl Gate for OwnPage {
    fn acting(&self) -> Result<Token, Refused> {
        heartbeat_common::lease::acting(self.0.page(), lease::now())
    }
}

/// All of them, ready to be served.
pub struct Services {
    /// What a person should know.
    pub warnings: Vec<String>,
    /// What feeds the watchdog device, if one is configured.
    pub feeder: Option<Guard>,
    socket: LeaseSocket,
    shown: Shown,
    gating: Gating,
    hooks: Option<(Hooks, broadcast::Receiver<Value>)>,
    pin: PathBuf,
    ran: Arc<Ran>,
}

impl Services {
    /// Opens and starts them. The page is this incarnation's already; `adopted`: it was an earlier controller's, and goes
    /// on.
    ///
    /// # Errors
    /// If the lease socket cannot be opened, the watchdog device does not suit, or a thread cannot be made.
    pub fn start(
        config: &Config,
        node: String,
        journal: &Journal,
        shared: &Arc<Shared>,
        pins: Option<&PinDir>,
        ran: Arc<Ran>,
        adopted: bool,
    ) -> Result<Self, Failure> {
        let mut warnings = Vec::new();
        let socket = LeaseSocket::bind_at(&config.daemon.run_dir.join("lease.sock")).map_err(Failure::host)?;
        let shown = Shown::default();
        let page = shared.page();
        // The kernel's map is opened for reading by its pin; without a map the path is not looked at.
        let pinned = pins.map_or_else(PathBuf::new, |pins| pins.map(maps::LEASE));
        let readable = page.reader(&pinned).and_then(Readable::try_new).map_err(Failure::host)?;
        shown.set(Some(readable));
        let lease_pin = config.daemon.lease_pin.clone();
        let placed = if page.in_kernel() { pin::place(page.fd(), &lease_pin) } else { pin::remove(&lease_pin) };
        if let Err(error) = placed {
            warnings.push(format!("the page of the lease is handed out by its socket alone: {error:#}"));
        }
        let hooks = hooks(config, node, journal, shared, &ran).map_err(Failure::host)?;
        let acting = OwnPage(shared.clone()).acting().is_ok();
        let feeder = feeder(config, adopted, acting).map_err(Failure::config)?;
        for (program, error) in config.daemon.hooks.programs.iter().filter_map(|p| Some((p, hooks::check(p).err()?))) {
            warnings.push(format!("hook {} cannot be run: {error}", program.display()));
        }
        let gating = Gating::open(&config.daemon.run_dir, !config.daemon.hooks.programs.is_empty());
        let gating = gating.map_err(Failure::host)?;
        Ok(Self { gating, warnings, feeder, socket, shown, hooks, pin: lease_pin, ran })
    }

    /// Serves them on this runtime until they are ended. What this node claims of them goes to the deciding thread.
    #[must_use]
    pub fn serve(self, decider: Orders) -> Serving {
        let Self { socket, shown, gating, hooks, pin, ran, .. } = self;
        let page = shown.clone();
        let socket = tokio::spawn(async move {
            if let Err(error) = socket.serve(page).await {
                log::error!("the lease socket cannot be served: {error:#}");
            }
        });
        let gating = tokio::spawn(async move {
            if let Err(error) = gating.serve(decider).await {
                log::error!("holders cannot be served: {error:#}");
            }
        });
        let (end, ended) = oneshot::channel();
        let hooks = hooks.map(|(hooks, events)| tokio::spawn(offer(hooks, events, ended)));
        Serving { socket, shown, gating, hooks, end, pin, ran }
    }
}

/// All of them, served.
pub struct Serving {
    socket: JoinHandle<()>,
    shown: Shown,
    gating: JoinHandle<()>,
    hooks: Option<JoinHandle<Hooks>>,
    end: oneshot::Sender<()>,
    pin: PathBuf,
    ran: Arc<Ran>,
}

impl Serving {
    /// What this node runs.
    #[must_use]
    pub const fn ran(&self) -> &Arc<Ran> {
        &self.ran
    }

    /// Ends hooks and the lease socket. With `handover` the page and what acts by it stay for the next controller; else
    /// the page is over already, what it allowed is waited for, and the second pin goes. Says whether nothing runs.
    pub async fn end(self, handover: bool) -> bool {
        let _ = self.end.send(());
        let gone = match self.hooks {
            Some(task) => match task.await {
                Ok(mut hooks) => tokio::task::spawn_blocking(move || hooks.stop(HOOKS_END)).await.unwrap_or(false),
                Err(error) => {
                    log::error!("hooks cannot be ended: {error}");
                    false
                }
            },
            None => true,
        };
        if !gone {
            log::error!("not every hook has ended within {} s", HOOKS_END.as_secs());
        }
        let mut stopped = gone;
        if !handover {
            let ran = self.ran.clone();
            let waited = tokio::task::spawn_blocking(move || ran.wait()).await;
            let waited = waited.unwrap_or_else(|error| Err(error.to_string()));
            if let Err(what) = waited {
                log::error!("what this node ran has not stopped: {what}");
                stopped = false;
            }
            self.shown.set(None);
            if let Err(error) = pin::remove(&self.pin) {
                log::warn!("{error:#}");
            }
        }
        for task in [self.socket, self.gating] {
            task.abort();
            let _ = task.await;
        }
        stopped
    }
}

/// Offers what the journal has told to the hooks, until it is told to end.
async fn offer(hooks: Hooks, mut events: broadcast::Receiver<Value>, mut ended: oneshot::Receiver<()>) -> Hooks {
    let (mut dropped, mut lagged) = (0, 0);
    loop {
        let event = tokio::select! {
            biased;
            _ = &mut ended => return hooks,
            event = events.recv() => event,
        };
        match event {
            Ok(event) => {
                if let Some(happened) = happened(&event) {
                    hooks.offer(happened);
                }
            }
            Err(broadcast::error::RecvError::Lagged(missed)) => lagged += missed,
            Err(broadcast::error::RecvError::Closed) => {
                let _ = ended.await;
                return hooks;
            }
        }
        let now = hooks.dropped() + lagged;
        if now > dropped {
            log::warn!("{} hooks or events for them were dropped: too many waited", now - dropped);
            dropped = now;
        }
    }
}

/// Turns a line of the journal into what hooks are told; nothing, for what must not be told to them: that a hook failed
/// would let the next one fail.
fn happened(event: &Value) -> Option<Happened> {
    let name = event.get("event")?.as_str()?;
    // Those that allow to take something up: what may be done by them is done under a lease, or not.
    let needs_lease = matches!(name, "lease_gained" | "view_in_force");
    let told = name != "hook_failed";
    told.then(|| Happened { name: name.to_owned(), json: event.to_string(), needs_lease })
}

fn hooks(
    config: &Config,
    node: String,
    journal: &Journal,
    shared: &Arc<Shared>,
    ran: &Ran,
) -> anyhow::Result<Option<(Hooks, broadcast::Receiver<Value>)>> {
    let configured = &config.daemon.hooks;
    if configured.programs.is_empty() {
        return Ok(None);
    }
    let settings = Settings {
        programs: configured.programs.clone(),
        events: configured.events.iter().map(|event| event.name.to_owned()).collect(),
        limit: configured.timeout,
        node,
        shelter: ran.shelter().clone(),
        trusted: Settings::root().context("open the root directory for hooks")?,
    };
    let events = journal.view.subscribe();
    let sink = journal.sink.clone();
    let hooks = Hooks::start(settings, Arc::new(OwnPage(shared.clone())), move |report| tell(&report, &sink))?;
    Ok(Some((hooks, events)))
}

/// Logs how a hook ended, and tells of one that failed.
fn tell(report: &Report, sink: &EventSink) {
    report.log();
    if report.end.is_success() {
        return;
    }
    let known = EventBody::ALL.iter().chain(ViewEvent::ALL);
    let event_id = known.copied().find(|(_, name, _)| *name == report.event).map_or(0, |(id, ..)| id);
    let (hook, reason) = (report.program.display().to_string(), report.end.text());
    sink.now(ViewEvent::HookFailed { hook, event_id, reason }.into());
}

fn feeder(config: &Config, adopted: bool, acting: bool) -> anyhow::Result<Option<Guard>> {
    let Some(path) = config.daemon.watchdog_device.clone() else { return Ok(None) };
    let mut feeder = Feeder::of(path.clone(), config.settings.hang_limit);
    // Under a new incarnation all that the device guarded has stopped.
    let tried = if adopted { feeder.take_over(acting, || watchdog_device::runs(&path)) } else { feeder.probe() };
    tried.with_context(|| path.display().to_string())?;
    Ok(Some(Guard::new(feeder)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn hooks_are_told_of_what_happens_but_not_of_themselves() {
        let told = |name: &str| happened(&json!({"event": name, "id": 1}));
        let down = told("node_down").unwrap();
        assert_eq!((down.name.as_str(), down.needs_lease), ("node_down", false));
        assert_eq!(serde_json::from_str::<Value>(&down.json).unwrap(), json!({"event": "node_down", "id": 1}));
        for gaining in ["lease_gained", "view_in_force"] {
            assert!(told(gaining).unwrap().needs_lease, "{gaining}");
        }
        assert!(!told("quorum_lost").unwrap().needs_lease);
        assert_eq!(told("hook_failed"), None);
        assert_eq!(happened(&json!({"id": 1})), None);
    }
}

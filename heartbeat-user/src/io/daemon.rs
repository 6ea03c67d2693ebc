//! The daemon's life: start, serve, reload, end. It waits for signals and the service manager, and hands what they
//! say to the threads that act on it.

use crate::cli::{ExitCode, RunArgs};
use crate::config::{Config, load};
use crate::control::{AgreementDoor, CHANGE_DEADLINE, Change, serve};
use crate::core::agreement::types::{Outcome, Refusal, Request};
use crate::core::event::{EventBody, ViewEvent};
use crate::core::time::MonoTime;
use crate::io::agreement::door::Door;
use crate::io::backend::{DaemonBackend, views};
use crate::io::decider::{Decider, Over};
use crate::io::disk::exits;
use crate::io::failure::Failure;
use crate::io::journal::{EventSink, Journal};
use crate::io::keeper::{Goodbye, Keeper, Order};
use crate::io::memory::Shared;
use crate::io::pacer::Pacer;
use crate::io::start::{Running, start};
use crate::io::{clock, manager};
use anyhow::Context;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{oneshot, watch};

mod end;

use end::{End, ending_time, finish, leaving_time};

/// Time for which an announced handover holds: a stop long after is meant as a stop.
const HANDOVER: Duration = Duration::from_secs(600);
/// How often a forced start that came too early to have heard of anybody is asked for once more.
const FORCE_TRIES: u32 = 5;

/// Runs until told to stop.
///
/// # Errors
/// If the node cannot run as configured.
pub fn run(arguments: &RunArgs) -> Result<(), Failure> {
    let file = &arguments.config.config;
    if arguments.quorum.force_quorum.is_some() {
        let name = load(file)?.cluster.name;
        let forced = arguments.quorum.forced(&name);
        forced.map_err(|reason| Failure::new(ExitCode::Usage, anyhow::Error::msg(reason)))?;
    }
    let watchdog = manager::watchdog();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .thread_stack_size(256 * 1024)
        .build()
        .context("start the runtime")?;
    runtime.block_on(async {
        // Signals first: one that comes during the start is obeyed after it, never by sudden death with a program
        // attached.
        let signals = Signals::listen()?;
        let quorum = &arguments.quorum;
        let running = start(file, arguments.bpf_object.as_deref(), watchdog, quorum.prevent_quorum)?;
        serve_until_told(running, signals, watchdog, quorum.force_quorum.is_some()).await
    })
}

/// The signals that mean something.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn listen() -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|error| Failure::host(anyhow::Error::from(error).context("listen for signals")))
        };
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }
}

async fn serve_until_told(
    running: Running,
    signals: Signals,
    watchdog: Option<Duration>,
    force: bool,
) -> Result<(), Failure> {
    let Running {
        keeper,
        decider,
        pacer,
        journal,
        shared,
        plan,
        config,
        identity,
        memory_locked,
        warnings,
        mut ended,
        door,
        services,
        listener,
        locks,
    } = running;
    let handover = Arc::new(AtomicU64::new(0));
    let backend = Arc::new(DaemonBackend {
        config: config.clone(),
        plan: plan.clone(),
        shared: shared.clone(),
        pacer: pacer.clone(),
        decider: decider.orders(),
        deciding: decider.lateness.clone(),
        keeper: keeper.orders(),
        journal: journal.view.clone(),
        sink: journal.sink.clone(),
        handover: handover.clone(),
        started: clock::now(),
        generation: identity.generation,
        memory_locked,
        warnings,
        door: door.clone().map(|door| door as Arc<dyn AgreementDoor>),
    });
    let orders = keeper.orders();
    let (close, closed) = oneshot::channel::<()>();
    let server = tokio::spawn(async move {
        let closed = async { drop(closed.await) };
        if let Err(error) = serve(listener, backend, closed).await {
            log::error!("the control socket cannot be served: {error}");
        }
    });
    let serving = services.serve(decider.orders());
    let fed = watchdog.map(|every| tokio::spawn(feed_watchdog(shared.clone(), every)));
    manager::ready(&format!("incarnation {}, watching {} paths", identity.incarnation, plan.paths.len()));
    let settings = config.read().unwrap_or_else(PoisonError::into_inner).clone();
    let ran = serving.ran().clone();
    if let Some(door) = door.clone().filter(|_| force) {
        let heard = settings.settings.longest_detection_time() * 2;
        let change = Change::ForceQuorum { cluster: settings.cluster.name.clone() };
        tokio::spawn(force_quorum(door, heard, change, journal.sink.clone()));
    }
    let warn = |config: Arc<Config>| warn_of_seeds(door.clone(), config);
    warn(settings.clone()).await;
    let ending = wait_for_end(signals, &orders, &handover, &mut ended, || {
        warn(config.read().unwrap_or_else(PoisonError::into_inner).clone())
    })
    .await;
    manager::stopping();
    manager::extend(ending_time(settings.daemon.leave_timeout, ran.longest()));
    // What ran was told to stop when the agreement ended, or else by the page that is closed below.
    let told = match (&ending, door.clone()) {
        (End::Leave(_), Some(door)) => leave(door, leaving_time(settings.daemon.leave_timeout, ran.longest())).await,
        (End::Over(Over::Outrun(_)), _) => false,
        _ => true,
    };
    // Who asked for this end is answered before the socket goes.
    let _ = close.send(());
    let _ = server.await;
    if let Some(fed) = fed {
        fed.abort();
    }
    let is_handover = matches!(ending, End::Handover(_));
    if !is_handover {
        // Nobody acts from here on; what acted is waited for, and only then is anything said to have stopped.
        shared.page().close();
        if !told {
            ran.over_since(clock::now());
        }
    }
    let goodbye = match (is_handover, serving.end(is_handover).await) {
        (true, _) => Goodbye::Handover,
        (false, true) => Goodbye::Stopped,
        (false, false) => Goodbye::Leaving,
    };
    if let Some(how) = ending.how() {
        match clock::boot_id() {
            Ok(boot) => exits::note_end(&settings.daemon.state_dir, how, boot),
            Err(error) => log::warn!("{error:#}"),
        }
    }
    end(keeper, decider, pacer, journal, &shared, &ending, goodbye);
    drop(locks);
    ending.outcome()
}

/// Warns of what the configuration says of the first view and the view says otherwise: it is the view that holds.
async fn warn_of_seeds(door: Option<Arc<Door>>, config: Arc<Config>) {
    let Some(door) = door else { return };
    let shown = tokio::task::spawn_blocking(move || door.view().ok().and_then(|status| status.view)).await;
    if let Ok(Some(view)) = shown {
        views::outdated_seeds(&config, &view).iter().for_each(|warning| log::warn!("{warning}"));
    }
}

/// Goes on without the others, on the operator's word: after it would have heard one that has quorum.
async fn force_quorum(door: Arc<Door>, heard: Duration, change: Change, sink: EventSink) {
    let mut tries = 0..FORCE_TRIES;
    let asked = loop {
        tokio::time::sleep(heard).await;
        let asked = ask(door.clone(), Request::Force, CHANGE_DEADLINE).await;
        let unheard = matches!(asked, Ok(Outcome::Refused(Refusal::PeersUnheard)));
        // Whoever stood still just then has to look at its peers first.
        if !unheard || tries.next().is_none() {
            break asked;
        }
    };
    sink.now(asked_at_start(&change, asked, nix::unistd::getuid().as_raw()).into());
}

/// Returns the event of a change that the command line of the start asked for, as user `uid`.
fn asked_at_start(change: &Change, asked: Result<Outcome, String>, uid: u32) -> ViewEvent {
    let done = asked.and_then(|outcome| change.answer(&outcome).map_err(|refusal| refusal.message));
    if let Err(reason) = &done {
        log::error!("{reason}");
    }
    let outcome = done.map_or_else(|reason| reason, |changed| changed.done);
    ViewEvent::ChangeAsked { change: format!("{change}, by the start itself"), uid, outcome }
}

/// Has a view without this node decided, as far as that can be had in time. Says whether the agreement took it.
async fn leave(door: Arc<Door>, limit: Duration) -> bool {
    match ask(door, Request::Leave, limit).await {
        Ok(_) => true,
        Err(reason) => {
            log::warn!("this node leaves without a view that says so: {reason}");
            false
        }
    }
}

async fn ask(door: Arc<Door>, request: Request, limit: Duration) -> Result<Outcome, String> {
    let asked = tokio::task::spawn_blocking(move || door.request(request, limit)).await;
    asked.map_err(|error| error.to_string())?.map_err(|refusal| refusal.message)
}

/// Waits for SIGTERM or SIGINT, or for the end of this node's part; meanwhile reloads on SIGHUP, and calls `reloaded`
/// after it.
async fn wait_for_end<F: Future<Output = ()>>(
    mut signals: Signals,
    keeper: &SyncSender<Order>,
    handover: &AtomicU64,
    ended: &mut watch::Receiver<Option<Over>>,
    reloaded: impl Fn() -> F,
) -> End {
    loop {
        // Every arm is cancel-safe: a signal that is not taken stays pending.
        tokio::select! {
            _ = signals.terminate.recv() => {
                let announced = handover.load(Ordering::Acquire);
                if announced != 0 && clock::now().since(MonoTime(announced)) < HANDOVER {
                    return End::Handover("told to stop after an announced handover");
                }
                if manager::restart_is_asked().await {
                    return End::Handover("told to stop as part of a restart");
                }
                return End::Leave("told to stop");
            }
            _ = signals.interrupt.recv() => return End::Leave("interrupted"),
            _ = signals.hangup.recv() => {
                reload(keeper).await;
                reloaded().await;
            }
            Ok(over) = ended.wait_for(Option::is_some) => {
                if let Some(over) = *over {
                    return End::Over(over);
                }
            }
        }
    }
}

async fn reload(keeper: &SyncSender<Order>) {
    manager::reloading();
    let (answer, result) = tokio::sync::oneshot::channel();
    if keeper.try_send(Order::Reload(answer)).is_err() {
        log::error!("the keeper's thread takes no orders: nothing was reloaded");
        manager::ready("reload failed: busy");
        return;
    }
    match result.await {
        Ok(Ok(changes)) => manager::ready(&format!("reloaded: {changes}")),
        Ok(Err(reason)) => manager::ready(&format!("reload refused, the former settings stay: {reason}")),
        Err(_) => manager::ready("reload failed"),
    }
}

/// Feeds the service's watchdog only while the deciding loop proves progress: this task alone proves nothing.
async fn feed_watchdog(shared: Arc<Shared>, every: Duration) {
    let mut seen = 0;
    let mut ticker = tokio::time::interval(every / 4);
    loop {
        ticker.tick().await;
        let progress = shared.progress();
        if progress != seen {
            seen = progress;
            manager::feed();
        }
    }
}

/// Ends every thread, the keeper first: it says goodbye, which takes the others.
fn end(
    mut keeper: Keeper,
    mut decider: Decider,
    pacer: Arc<Pacer>,
    mut journal: Journal,
    shared: &Shared,
    ending: &End,
    goodbye: Goodbye,
) {
    let handover = goodbye == Goodbye::Handover;
    journal.sink.now(EventBody::Stopped { reason: ending.reason().to_owned(), handover });
    keeper.stop(goodbye);
    let rest = || {
        drop(pacer);
        journal.stop();
    };
    let orders = decider.orders();
    finish(shared, goodbye, || orders.disarm(), || decider.stop(), rest);
}

#[cfg(test)]
mod tests {
    use super::*;
    use heartbeat_common::view::Order;

    #[test]
    fn a_forced_start_names_who_asked_and_what_became_of_it() {
        let change = Change::ForceQuorum { cluster: "demo".into() };
        let event = |asked| match asked_at_start(&change, asked, 1000) {
            ViewEvent::ChangeAsked { change, uid, outcome } => (change, uid, outcome),
            other => panic!("{other:?}"),
        };
        let (change, uid, outcome) = event(Ok(Outcome::Decided(Order::new(1, 8).unwrap())));
        assert_eq!((change.as_str(), uid), ("go on without a majority, by the start itself", 1000));
        assert!(outcome.ends_with("decided in view 1.8"), "{outcome}");
        assert!(event(Ok(Outcome::Refused(Refusal::QuorateHeard))).2.contains("a node with quorum is heard"));
        assert_eq!(event(Err("nobody answered".into())).2, "nobody answered");
    }
}

//! The daemon's life: start, serve, reload, end. It waits for signals and the service manager, and hands what they
//! say to the threads that act on it.

use crate::cli::{ExitCode, RunArgs, Watchdog, check_watchdog};
use crate::control::{ListenError, Listener, serve};
use crate::core::event::EventBody;
use crate::io::backend::DaemonBackend;
use crate::io::failure::Failure;
use crate::io::keeper::Order;
use crate::io::start::{Running, start};
use crate::io::{clock, manager};
use anyhow::Context;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, RwLock};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Runs until told to stop.
///
/// # Errors
/// If the node cannot run as configured.
pub fn run(arguments: &RunArgs) -> Result<(), Failure> {
    let watchdog = manager::watchdog();
    let running = start(&arguments.config.config, arguments.bpf_object.as_deref())?;
    if let Some(every) = watchdog {
        check_watchdog(Watchdog::Every(every), running.config.settings.hang_limit).map_err(Failure::config)?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(2)
        .thread_stack_size(256 * 1024)
        .build()
        .context("start the runtime")?;
    runtime.block_on(serve_until_told(running, watchdog))
}

/// Why the daemon ends.
enum End {
    Leave(&'static str),
    Handover(&'static str),
}

async fn serve_until_told(running: Running, watchdog: Option<Duration>) -> Result<(), Failure> {
    let socket = running.config.daemon.run_dir.join("control.sock");
    let group = running.config.daemon.socket_group.clone().unwrap_or_default();
    let listener = match Listener::bind(&socket, &group) {
        Ok(listener) => listener,
        Err(error) => {
            let code = match error {
                ListenError::AnotherInstance { .. } => ExitCode::AnotherInstance,
                _ => ExitCode::Environment,
            };
            end(running, &End::Leave("the control socket could not be opened"));
            return Err(Failure::new(code, error));
        }
    };
    let handover = Arc::new(AtomicBool::new(false));
    let current = Arc::new(RwLock::new(running.config.clone()));
    let mut warnings = running.warnings.clone();
    warnings.extend(listener.warning().map(str::to_owned));
    let backend = Arc::new(DaemonBackend {
        config: current.clone(),
        plan: running.plan.clone(),
        shared: running.shared.clone(),
        pacer: running.pacer.clone(),
        decider: running.decider.orders(),
        deciding: running.decider.lateness.clone(),
        keeper: running.keeper.orders(),
        journal: running.journal.view.clone(),
        sink: running.journal.sink.clone(),
        handover: handover.clone(),
        started: clock::now(),
        generation: running.identity.generation,
        memory_locked: running.memory_locked,
        warnings,
    });
    let keeper = running.keeper.orders();
    let shared = running.shared.clone();
    let server = tokio::spawn(async move {
        let Err(error) = serve(listener, backend).await;
        log::error!("the control socket cannot be served: {error}");
    });
    let fed = watchdog.map(|every| tokio::spawn(feed_watchdog(shared, every)));
    manager::ready(&format!(
        "incarnation {}, watching {} paths",
        running.identity.incarnation,
        running.plan.paths.len()
    ));
    let ending = wait_for_end(&keeper, &handover).await?;
    manager::stopping();
    server.abort();
    if let Some(fed) = fed {
        fed.abort();
    }
    let _ = server.await;
    end(running, &ending);
    Ok(())
}

/// Waits for SIGTERM or SIGINT; meanwhile reloads on SIGHUP.
async fn wait_for_end(keeper: &SyncSender<Order>, handover: &AtomicBool) -> Result<End, Failure> {
    let failed = |error: std::io::Error| Failure::host(anyhow::Error::from(error).context("listen for signals"));
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(failed)?;
    loop {
        // Every arm is cancel-safe: a signal that is not taken stays pending.
        tokio::select! {
            _ = terminate.recv() => {
                if handover.load(Ordering::Acquire) {
                    return Ok(End::Handover("told to stop after an announced handover"));
                }
                if manager::restart_is_asked().await {
                    return Ok(End::Handover("told to stop as part of a restart"));
                }
                return Ok(End::Leave("told to stop"));
            }
            _ = interrupt.recv() => return Ok(End::Leave("interrupted")),
            _ = hangup.recv() => reload(keeper).await,
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
async fn feed_watchdog(shared: Arc<crate::io::memory::Shared>, every: Duration) {
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
fn end(mut running: Running, ending: &End) {
    let (handover, reason) = match ending {
        End::Leave(reason) => (false, *reason),
        End::Handover(reason) => (true, *reason),
    };
    running.journal.sink.now(EventBody::Stopped { reason: reason.to_owned(), handover });
    running.keeper.stop(handover);
    running.decider.stop();
    drop(running.pacer);
    running.journal.stop();
    drop(running.locks);
}

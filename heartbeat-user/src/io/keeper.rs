//! The keeper's thread: it keeps interfaces, tables, pins and identity as they should be, so that neither the pacing
//! nor the deciding thread ever waits for a disk, a driver or a table. It acts on orders and on what it finds; it
//! judges no peer.

mod reload;

use crate::config::Config;
use crate::core::event::EventBody;
use crate::core::identity::Reason;
use crate::io::fabric::Fabric;
use crate::io::journal::EventSink;
use crate::io::memory::Shared;
use crate::io::pacer::{Pacer, PacerCommand};
use crate::io::paths::{Announced, Who};
use crate::io::state::{State, StateDir};
use crate::io::watchdog_device::Guard;
use crate::io::{clock, decider, nics};
use anyhow::Context;
use heartbeat_common::frame::{FLAG_LEAVING, FLAG_STOPPED};
use heartbeat_common::maps::{self, Own};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

/// Orders waiting at most.
const ORDERS_MAX: usize = 64;
/// Time between two looks at addresses and interfaces.
const SCAN: Duration = Duration::from_millis(500);
/// Time between two comparisons of the tables and pins with what was written.
const REPAIR: Duration = Duration::from_secs(1);
/// Bounds of the time between two looks at the links: one delay, within these.
const LINK_CHECK: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));
/// Difference between wall clock and monotonic clock that counts as a step.
const STEP_NS: i128 = 500_000_000;

/// What the keeper can be told.
pub enum Order {
    /// Take an incarnation above this one.
    Reincarnate(u64),
    /// Echoes on this path do not arrive.
    StepDown(usize),
    /// Read the configuration again. The answer says what changed, or why nothing did.
    Reload(tokio::sync::oneshot::Sender<Result<String, String>>),
    /// Say this of the view from now on, in tables and probes. Told is whether it worked; only after that may the page
    /// grant under the new mark.
    Announce(Announced, Box<dyn FnOnce(bool) + Send>),
    /// Show the interfaces.
    Show(SyncSender<nics::View>),
    /// Take every program off.
    Detach(SyncSender<Result<(), String>>),
    /// End.
    Stop(Goodbye),
}

/// How a controller ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goodbye {
    /// Its programs stay for the next one.
    Handover,
    /// Nothing runs on this node any more that acted by its lease: it says that it has stopped.
    Stopped,
    /// Something may: it says that it leaves, and no more.
    Leaving,
}

/// The way to the keeper.
pub struct Keeper {
    orders: SyncSender<Order>,
    thread: Option<JoinHandle<()>>,
}

/// What the keeper looks after.
pub struct Kept {
    /// Interfaces and tables.
    pub fabric: Fabric,
    /// Shared memory.
    pub shared: Arc<Shared>,
    /// The pacing thread.
    pub pacer: Arc<Pacer>,
    /// The deciding thread.
    pub decider: decider::Orders,
    /// The state directory.
    pub state_dir: StateDir,
    /// What is in it.
    pub state: State,
    /// The configuration's file.
    pub config_file: PathBuf,
    /// Where events go.
    pub sink: EventSink,
    /// Id of this node.
    pub own: u16,
    /// The configuration in force, as others see it.
    pub current: Arc<RwLock<Arc<Config>>>,
    /// The watchdog that the service manager holds over this process.
    pub watchdog: Option<Duration>,
    /// What feeds the machine's watchdog device, if one is configured. Its time-out is changed here: a driver may be slow.
    pub feeder: Option<Guard>,
}

impl Keeper {
    /// Starts the thread.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn start(kept: Kept) -> anyhow::Result<Self> {
        let (orders, queue) = sync_channel(ORDERS_MAX);
        let thread = std::thread::Builder::new()
            .name("hb-keeper".to_owned())
            .spawn(move || {
                let plan = kept.fabric.paths.digest();
                Worker { kept, plan, outrun_by: None, last_offset: None }.run(&queue);
            })
            .context("start the keeper's thread")?;
        Ok(Self { orders, thread: Some(thread) })
    }

    /// Returns a way to give orders that can be kept elsewhere.
    #[must_use]
    pub fn orders(&self) -> SyncSender<Order> {
        self.orders.clone()
    }

    /// Ends the thread and waits for it.
    pub fn stop(&mut self, goodbye: Goodbye) {
        if let Some(thread) = self.thread.take() {
            let _ = self.orders.send(Order::Stop(goodbye));
            let _ = thread.join();
        }
    }
}

struct Worker {
    kept: Kept,
    /// Digest of the paths, which stay the same as long as this runs.
    plan: u64,
    /// An incarnation above this one is to be taken; tried until it is done.
    outrun_by: Option<u64>,
    /// Wall clock less monotonic clock, ns, at the last look.
    last_offset: Option<i128>,
}

impl Worker {
    fn run(&mut self, queue: &Receiver<Order>) {
        let start = clock::now();
        let (mut next_links, mut next_scan, mut next_repair) = (start, start + SCAN, start + REPAIR);
        loop {
            let now = clock::now();
            let wait = next_links.min(next_scan).min(next_repair).since(now);
            match queue.recv_timeout(wait) {
                Ok(Order::Stop(goodbye)) => {
                    self.end(goodbye);
                    return;
                }
                Ok(order) => self.obey(order),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let now = clock::now();
            if now >= next_links {
                let delay = self.kept.fabric.config().settings.same_subnet.delay;
                next_links = now + delay.clamp(LINK_CHECK.0, LINK_CHECK.1);
                match self.kept.fabric.check_links(&self.kept.shared) {
                    Ok(false) => {}
                    Ok(true) => next_scan = now,
                    Err(error) => log::error!("a lost link could not be replaced: {error:#}"),
                }
            }
            if now >= next_scan {
                next_scan = now + SCAN;
                if let Err(error) = self.kept.fabric.scan(false) {
                    log::error!("{error:#}");
                }
            }
            if now >= next_repair {
                next_repair = now + REPAIR;
                if let Err(error) = self.kept.fabric.repair() {
                    log::error!("tables or pins could not be compared: {error:#}");
                }
                self.repair_own();
                self.try_reincarnation();
                self.look_at_wall_clock();
            }
        }
    }

    /// Writes again what the kernel says of this node, where somebody else changed it: an echo that says that this node
    /// has left would be believed.
    fn repair_own(&self) {
        let (shared, state) = (&self.kept.shared, &self.kept.state);
        let flags = shared.wanted_flags();
        let found = shared.own();
        let wanted = Own {
            abi: maps::ABI.into(),
            progress_ns: found.progress_ns,
            flags: flags.into(),
            incarnation: state.incarnation,
            generation: state.generation,
            boot: state.boot,
            state_id: state.state_id,
            plan: self.plan,
        };
        // Flags that this process changed in between are not somebody else's: the next look tells.
        if found != wanted && shared.wanted_flags() == flags {
            shared.set_identity(&wanted);
            shared.set_flags(flags);
            self.kept.sink.now(EventBody::TableRepaired { table: maps::OWN.to_owned(), count: 1 });
        }
    }

    /// Tells a step of the wall clock. Nothing is timed by it; people who read the log want to know.
    fn look_at_wall_clock(&mut self) {
        let offset = i128::from(clock::wall_ns()) - i128::from(clock::now().0);
        if let Some(step_ms) = self.last_offset.replace(offset).and_then(|last| step_ms(last, offset)) {
            self.kept.sink.now(EventBody::ClockStep { step_ms });
        }
    }

    /// Takes a newer incarnation where one is due, and tries again at the next round what did not work.
    fn try_reincarnation(&mut self) {
        let Some(above) = self.outrun_by else { return };
        match self.reincarnate(above) {
            Ok(()) => self.outrun_by = None,
            Err(error) => {
                log::error!("this node is outrun and could not take a newer incarnation yet: {error:#}");
            }
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Reincarnate(above) => {
                self.outrun_by = self.outrun_by.max(Some(above));
                self.try_reincarnation();
            }
            Order::StepDown(path) => {
                let shared = self.kept.shared.clone();
                if let Err(error) = self.kept.fabric.step_down(path, &shared) {
                    log::error!("the next lower mode could not be entered: {error:#}");
                }
            }
            Order::Reload(answer) => {
                let result = self.reload();
                let file = self.kept.config_file.display().to_string();
                self.kept.sink.now(match &result {
                    Ok(changes) => EventBody::ConfigReloaded { file, changes: changes.clone() },
                    Err(error) => EventBody::ConfigRejected { file, reason: format!("{error:#}") },
                });
                let _ = answer.send(result.map_err(|error| format!("{error:#}")));
            }
            Order::Announce(announced, done) => {
                let said = self.kept.fabric.announce(announced);
                if let Err(error) = &said {
                    log::error!("what is to be said of the view could not be written: {error:#}");
                }
                done(said.is_ok());
            }
            Order::Show(answer) => {
                let _ = answer.try_send(nics::view(&self.kept.fabric));
            }
            Order::Detach(answer) => {
                let result = self.kept.fabric.leave_kernel().map_err(|error| format!("{error:#}"));
                let _ = answer.try_send(result);
            }
            Order::Stop(_) => {}
        }
    }

    /// Takes a newer incarnation: on disk first, then in the kernel, then in the probes. Each step can be done again.
    fn reincarnate(&mut self, above: u64) -> anyhow::Result<()> {
        let kept = &mut self.kept;
        let old = kept.fabric.paths.who().incarnation;
        if old > above {
            // Said again: whoever asked may wait for it.
            kept.decider.incarnation(old);
            return Ok(());
        }
        if kept.state.incarnation <= above {
            let new = above.checked_add(1).context("no newer incarnation exists")?;
            let state = State { incarnation: new, generation: 1, ..kept.state };
            kept.state_dir.write(&state)?;
            kept.state = state;
        }
        let new = kept.state.incarnation;
        // The lease and the grants of the old incarnation end before anything says that there is a new one.
        kept.shared.page().take_on(new, kept.state.boot, false);
        let own = Own { incarnation: new, generation: 1, ..kept.shared.own() };
        kept.shared.set_identity(&own);
        let config = kept.fabric.config().clone();
        kept.fabric.change_paths(&config, Who { incarnation: new, generation: 1 })?;
        // What was heard names the old incarnation; nothing of it counts for the new one.
        for path in 0..kept.shared.paths() {
            kept.shared.clear_tick(path);
        }
        kept.pacer.tell(PacerCommand::Signers(kept.fabric.paths.signers()));
        kept.decider.incarnation(new);
        kept.sink.now(EventBody::IncarnationChanged {
            old_incarnation: old,
            new_incarnation: new,
            reason: Reason::Outrun.to_string(),
        });
        Ok(())
    }

    /// Ends: either leaves everything for the next controller, or says goodbye and takes it away.
    fn end(&mut self, goodbye: Goodbye) {
        let kept = &mut self.kept;
        if goodbye == Goodbye::Handover {
            return;
        }
        // The kernel says it in every echo from now on, and a probe on each path says it at once.
        let all: Vec<u32> = (0..kept.shared.paths()).collect();
        kept.shared.change_flags(0, FLAG_LEAVING);
        kept.pacer.tell(PacerCommand::Burst(all.clone()));
        let delay = kept.fabric.config().settings.same_subnet.delay;
        std::thread::sleep(delay.min(Duration::from_millis(200)));
        // Nobody acts any more by the time that it is said, nor by a page that nobody looks after.
        kept.shared.page().close();
        // On disk before it is said: what has said "stopped" must not come back as the same incarnation.
        let state = State { left: true, ..kept.state };
        match kept.state_dir.write(&state) {
            Ok(()) if goodbye == Goodbye::Leaving => {
                log::error!(
                    "this node leaves without saying that it stopped: the others wait for its lease to run out"
                );
            }
            Ok(()) => kept.shared.change_flags(0, FLAG_LEAVING | FLAG_STOPPED),
            Err(error) => log::error!("{error:#}: this node leaves without saying that it stopped"),
        }
        kept.pacer.tell(PacerCommand::Burst(all));
        // Peers that were not reached by that ask within their delay; they are answered once more.
        std::thread::sleep((delay * 2).min(Duration::from_secs(2)));
        if let Err(error) = kept.fabric.detach_all() {
            log::error!("not everything could be taken off: {error:#}");
        }
    }
}

/// By how much the wall clock was stepped between two looks, ms, if that is more than it drifts.
fn step_ms(last: i128, offset: i128) -> Option<i64> {
    let step = offset - last;
    let past_all = if step < 0 { i64::MIN } else { i64::MAX };
    (step.abs() > STEP_NS).then(|| i64::try_from(step / 1_000_000).unwrap_or(past_all))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fault_54_a_step_is_told_and_drift_is_not() {
        let second = 1_000_000_000;
        let year = 31_556_952 * second;
        let offset = 1_700_000_000 * second;
        for (step, told) in [
            (0, None),
            (500_000_000, None),
            (-500_000_000, None),
            (500_000_001, Some(500)),
            (second, Some(1000)),
            (-second, Some(-1000)),
            (3600 * second, Some(3_600_000)),
            (-10 * year, Some(-315_569_520_000)),
            (10 * year, Some(315_569_520_000)),
        ] {
            assert_eq!(step_ms(offset, offset + step), told, "{step} ns");
        }
        assert_eq!(step_ms(0, i128::MAX), Some(i64::MAX));
        assert_eq!(step_ms(0, -i128::MAX), Some(i64::MIN));
    }
}

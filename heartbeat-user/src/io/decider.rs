//! The deciding thread: it copies the ticks, lets the core judge, carries the core's orders to the other threads, and
//! only then proves progress to the kernel. It waits for nothing but time and orders, and decides nothing itself.

use crate::core::agreement::types::Ending;
use crate::core::controller::{Command, Controller, Input};
use crate::core::event::LateSource;
use crate::core::ids::{NodeId, PathId};
use crate::core::path::PathInput;
use crate::core::settings::Settings;
use crate::core::time::{MonoTime, nanos};
use crate::io::agreement::{Errand, Hands};
use crate::io::journal::EventSink;
use crate::io::keeper;
use crate::io::lateness::LatenessRecord;
use crate::io::looks::Look;
use crate::io::memory::Shared;
use crate::io::pacer::{Pacer, PacerCommand};
use crate::io::paths::{Usable, Use};
use crate::io::{clock, realtime};
use anyhow::Context;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

mod bursts;
mod orders;
mod picture;
mod plan;
#[cfg(test)]
mod tests;

use bursts::{Bursts, PathBurst};
use orders::Order;

pub use orders::Orders;
pub use plan::Plan;

/// Orders waiting at most.
const ORDERS_MAX: usize = 64;
/// Bounds of a round: progress is proved at least this often, and not more often than this for nothing.
const ROUND: (Duration, Duration) = (Duration::from_micros(500), Duration::from_millis(250));

/// Why this node's part in the cluster is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// The agreement ends.
    Agreement(Ending),
    /// A peer knows an incarnation of this node that is not older than this, which is not the one that runs here.
    Outrun(u64),
}

/// What the deciding thread is made of.
pub struct DeciderSetup {
    /// What the core must be told.
    pub settings: Settings,
    /// Which path is which.
    pub plan: Arc<Plan>,
    /// Shared memory.
    pub shared: Arc<Shared>,
    /// The pacing thread.
    pub pacer: Arc<Pacer>,
    /// Whether each path can be used.
    pub usable: Arc<Usable>,
    /// Where events go.
    pub sink: EventSink,
    /// SCHED_FIFO priority wanted; 0: none.
    pub priority: u8,
    /// Where it says that this node's part in the cluster is over.
    pub ended: tokio::sync::watch::Sender<Option<Over>>,
    /// An agreement is to come by [`Orders::agreement`]: until then no newer incarnation is taken, which only it can be
    /// asked about, and which it would begin without.
    pub agrees: bool,
}

/// The deciding thread.
pub struct Decider {
    orders: Orders,
    /// How late its rounds began.
    pub lateness: Arc<LatenessRecord>,
    thread: Option<JoinHandle<()>>,
}

impl Decider {
    /// Starts the thread.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn start(setup: DeciderSetup) -> anyhow::Result<Self> {
        let (queue, orders) = sync_channel(ORDERS_MAX);
        let lateness = Arc::new(LatenessRecord::default());
        let plan = setup.plan.clone();
        let orders_kept = Orders { queue: queue.clone(), plan: plan.clone() };
        let mut worker = Worker::new(setup, lateness.clone(), orders_kept);
        let thread = std::thread::Builder::new()
            .name("hb-decider".to_owned())
            .spawn(move || worker.run(&orders))
            .context("start the deciding thread")?;
        Ok(Self { orders: Orders { queue, plan }, lateness, thread: Some(thread) })
    }

    /// Returns a way to give orders that can be kept elsewhere.
    #[must_use]
    pub fn orders(&self) -> Orders {
        self.orders.clone()
    }

    /// Ends the thread and waits for it.
    pub fn stop(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = self.orders.queue.send(Order::Stop);
            let _ = thread.join();
        }
    }
}

struct Worker {
    controller: Controller,
    shared: Arc<Shared>,
    pacer: Arc<Pacer>,
    usable: Arc<Usable>,
    sink: EventSink,
    lateness: Arc<LatenessRecord>,
    keeper: Option<SyncSender<keeper::Order>>,
    hands: Option<Box<Hands>>,
    /// They are still to come.
    agrees: bool,
    /// The way to this thread, for whom it asks something of.
    orders: Orders,
    ended: tokio::sync::watch::Sender<Option<Over>>,
    /// An incarnation above this one is to be taken, once nothing of the present one is under way.
    outrun: Option<u64>,
    /// Orders that the keeper did not take yet.
    held_back: VecDeque<keeper::Order>,
    priority: u8,
    /// What was last seen of each path.
    looks: Vec<Look>,
    peers: Vec<Peer>,
}

/// A peer, its paths, and the bursts on them.
struct Peer {
    id: NodeId,
    paths: Vec<usize>,
    bursts: Bursts,
}

impl Worker {
    fn new(setup: DeciderSetup, lateness: Arc<LatenessRecord>, orders: Orders) -> Self {
        let paths = setup.plan.paths.len();
        let paths_of = |id: NodeId| {
            let indexed = setup.plan.paths.iter().enumerate();
            indexed.filter(|(_, path)| path.peer_node == id.0).map(|(index, _)| index).collect()
        };
        let peers = setup.settings.nodes.iter().map(|node| node.id);
        let peers = peers.map(|id| Peer { id, paths: paths_of(id), bursts: Bursts::default() }).collect();
        Self {
            controller: Controller::new(setup.settings, clock::now()),
            shared: setup.shared,
            pacer: setup.pacer,
            usable: setup.usable,
            sink: setup.sink,
            lateness,
            keeper: None,
            hands: None,
            agrees: setup.agrees,
            orders,
            ended: setup.ended,
            outrun: None,
            held_back: VecDeque::with_capacity(ORDERS_MAX),
            priority: setup.priority,
            looks: vec![Look::default(); paths],
            peers,
        }
    }

    /// Longest time between two rounds: a fraction of the shortest delay, so that a peer never sees an age near the
    /// stall limit for want of a round.
    fn round(&self) -> Duration {
        let settings = self.controller.settings();
        let delay = settings.paths.iter().map(|path| path.settings.delay).min().unwrap_or(ROUND.1);
        (delay.min(settings.stall_limit / 4) / 2).clamp(ROUND.0, ROUND.1)
    }

    fn run(&mut self, orders: &Receiver<Order>) {
        realtime::no_timer_slack();
        if self.priority > 0 {
            // A refusal is told by the pacing thread, which asks for the same.
            let _ = realtime::fifo(self.priority);
        }
        let mut due = clock::now();
        loop {
            let now = clock::now();
            let late = self.note_lateness(due, now);
            self.turn(now);
            self.agree(now, late);
            let end = clock::now();
            self.note_pause(now, end);
            // What was believed is as of the round's start: no later progress is proved by it.
            self.shared.set_progress(now.0);
            due = end + self.round();
            let agreement = self.hands.as_ref().and_then(|hands| hands.due());
            if let Some(timeout) = self.controller.poll_timeout().into_iter().chain(agreement).min() {
                due = due.min(timeout.max(end + ROUND.0));
            }
            loop {
                match orders.recv_timeout(due.since(clock::now())) {
                    Ok(Order::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                    // Messages are read at once, but not more often than rounds may be.
                    Ok(Order::Wake) => due = due.min((end + ROUND.0).max(clock::now())),
                    Ok(order) => {
                        self.obey(order);
                        if let Some(soon) = self.hands.as_ref().and_then(|hands| hands.due()) {
                            due = due.min(soon.max(end + ROUND.0).max(clock::now()));
                        }
                    }
                    Err(RecvTimeoutError::Timeout) => break,
                }
            }
        }
    }

    /// Says whether the round that began at `now` was late beyond the budget.
    fn note_lateness(&mut self, due: MonoTime, now: MonoTime) -> bool {
        let budget = nanos(self.controller.settings().lateness_budget);
        self.lateness.note(now.0.saturating_sub(due.0), budget);
        self.controller.handle(Input::Late { source: LateSource::Decider, due, ran: now }, now);
        if let Some((due, ran)) = self.pacer.record.take_late() {
            let input = Input::Late { source: LateSource::Pacer, due: MonoTime(due), ran: MonoTime(ran) };
            self.controller.handle(input, now);
        }
        now.0.saturating_sub(due.0) > budget
    }

    /// The agreement's part of a round.
    fn agree(&mut self, now: MonoTime, late: bool) {
        if let Some(hands) = &mut self.hands {
            if self.outrun.is_some() && hands.freeze() {
                let above = self.outrun.take().unwrap_or_default();
                self.hold_back(keeper::Order::Reincarnate(above));
            } else {
                hands.round(now, late, &self.controller, &self.looks);
                if let Some(outrun) = hands.take_outrun() {
                    self.controller.handle(outrun, now);
                }
                hands.tell(&self.controller);
            }
        }
        self.run_errands();
    }

    /// Takes a newer incarnation: at once where there is no view to be a part of, once the disk holds what was promised
    /// where this node is no member. While it starts, the agreement is waited for, which is made for the older one: it says
    /// which of these it is. A member ends: a newer incarnation proves to others that what the older one ran has
    /// stopped, and it has first to be so.
    fn reincarnate(&mut self, above: u64) {
        match &self.hands {
            None if self.agrees => self.outrun = self.outrun.max(Some(above)),
            None => self.hold_back(keeper::Order::Reincarnate(above)),
            Some(hands) if hands.is_bound() => {
                self.shared.page().close();
                self.ended.send_if_modified(|over| over.is_none().then(|| *over = Some(Over::Outrun(above))).is_some());
            }
            Some(_) => self.outrun = self.outrun.max(Some(above)),
        }
    }

    fn run_errands(&mut self) {
        let errands = self.hands.as_mut().map(|hands| hands.errands()).unwrap_or_default();
        for errand in errands {
            match errand {
                Errand::Announce(announced, view, number) => {
                    let orders = self.orders.clone();
                    let told = move |done| drop(orders.queue.send(Order::Announced(view, done, number)));
                    self.hold_back(keeper::Order::Announce(announced, Box::new(told)));
                }
                Errand::End(ending) => drop(self.ended.send_replace(Some(Over::Agreement(ending)))),
            }
        }
        self.order_keeper();
    }

    /// Takes a pause within a round, from `start` to `end`, for what it is: own lateness, like one before a round.
    fn note_pause(&mut self, start: MonoTime, end: MonoTime) {
        let budget = nanos(self.controller.settings().lateness_budget);
        let late = nanos(end.since(start));
        if late > budget {
            self.lateness.note(late, budget);
            self.controller.handle(Input::Late { source: LateSource::Decider, due: start, ran: end }, end);
        }
    }

    /// One round. `now` was read before anything is copied: see `PathInput`.
    fn turn(&mut self, now: MonoTime) {
        for (path, look) in self.looks.iter_mut().enumerate() {
            look.refresh(path, &self.shared, &self.pacer.record, self.usable.of(path));
        }
        self.report_bursts(now);
        let inputs: Vec<PathInput<'_>> = self.looks.iter().map(Look::input).collect();
        self.controller.observe(now, &inputs);
        while let Some(event) = self.controller.poll_event() {
            self.sink.offer(event);
        }
        while let Some(command) = self.controller.poll_command() {
            self.carry(command);
        }
        self.order_keeper();
    }

    /// Tells the core of bursts that went out.
    fn report_bursts(&mut self, now: MonoTime) {
        for peer in &mut self.peers {
            let of_path = |path: &usize| {
                let (tried, taken) = self.pacer.record.burst(*path);
                let Use { usable, mute, .. } = self.looks[*path].used();
                PathBurst { tried, taken, usable: usable && !mute }
            };
            if let Some(sent) = peer.bursts.news(peer.paths.iter().map(of_path)) {
                self.controller.handle(Input::BurstSent { node: peer.id, sent: MonoTime(sent) }, now);
            }
        }
    }

    fn carry(&mut self, command: Command) {
        match command {
            Command::Burst { node } => {
                if let Some(peer) = self.peers.iter().find(|peer| peer.id == node) {
                    let paths = peer.paths.iter().map(|path| *path as u32).collect();
                    self.pacer.tell(PacerCommand::Burst(paths));
                }
            }
            Command::Reincarnate { above } => self.reincarnate(above),
            Command::StepDown { path: PathId(path) } => self.hold_back(keeper::Order::StepDown(path as usize)),
        }
    }

    /// Keeps an order for the keeper. Of more than its queue holds, the oldest are outdated.
    fn hold_back(&mut self, order: keeper::Order) {
        if self.held_back.len() == ORDERS_MAX {
            self.held_back.pop_front();
        }
        self.held_back.push_back(order);
    }

    /// Hands the keeper what it takes; the rest is offered again in the next round. Nothing is logged here: a log that
    /// is stuck must not stop this thread.
    fn order_keeper(&mut self) {
        let Some(keeper) = &self.keeper else { return };
        while let Some(order) = self.held_back.pop_front() {
            if let Err(TrySendError::Full(order) | TrySendError::Disconnected(order)) = keeper.try_send(order) {
                self.held_back.push_front(order);
                return;
            }
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Show(answer) => {
                let _ = answer.try_send(self.picture());
            }
            Order::Incarnation(own) => {
                self.controller.handle(Input::Incarnation { own }, clock::now());
                self.with_hands(|hands| hands.renew(own));
            }
            Order::Settings(mut settings) => {
                settings.incarnation = self.controller.settings().incarnation;
                self.controller.reconfigure(*settings, clock::now());
            }
            Order::Keeper(keeper) => self.keeper = Some(keeper),
            Order::Agreement(hands) => {
                (self.hands, self.agrees) = (Some(hands), false);
                // What was heard while this node started is judged now.
                if let Some(above) = self.outrun.take() {
                    self.reincarnate(above);
                }
            }
            Order::Wrote(report) => self.with_hands(|hands| hands.wrote(report)),
            Order::Announced(view, done, number) => self.with_hands(|hands| hands.announced(view, done, number)),
            Order::Gated(gated, done) if self.hands.is_some() => self.with_hands(|hands| hands.gate(gated, done)),
            // Where there is no agreement nothing is claimed.
            Order::Gated(_, done) => {
                let _ = done.send(());
            }
            Order::ServicesStopped(stopped) => self.with_hands(|hands| hands.services_stopped(stopped)),
            Order::Disarm => self.with_hands(Hands::disarm),
            Order::Terms(terms) => {
                let (terms, keys, fences) = *terms;
                self.with_hands(|hands| hands.reconfigure(terms, keys, fences));
            }
            Order::Request(request, answer) => self.with_hands(|hands| hands.request(request, answer)),
            Order::View(answer) => self.with_hands(|hands| drop(answer.try_send(hands.status()))),
            Order::Wake | Order::Stop => {}
        }
    }

    fn with_hands(&mut self, act: impl FnOnce(&mut Hands)) {
        if let Some(hands) = &mut self.hands {
            act(hands);
            hands.tell(&self.controller);
        }
        self.run_errands();
    }
}

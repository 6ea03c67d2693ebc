//! The deciding thread: it copies the ticks, lets the core judge, carries the core's orders to the other threads, and
//! only then proves progress to the kernel. It waits for nothing but time and orders, and decides nothing itself.

use crate::config::{Config, settings_hash};
use crate::core::agreement::Status;
use crate::core::agreement::types::{Ending, Outcome, Request};
use crate::core::controller::{Command, Controller, Input};
use crate::core::event::LateSource;
use crate::core::ids::{NetworkId, NodeId, PathId};
use crate::core::path::PathInput;
use crate::core::settings::{NetworkSpec, NodeSpec, PathSettings, PathSpec, Settings};
use crate::core::time::{MonoTime, nanos};
use crate::io::agreement::begin::{Terms, terms};
use crate::io::agreement::{Errand, Hands};
use crate::io::disk::Report;
use crate::io::journal::EventSink;
use crate::io::keeper;
use crate::io::lateness::LatenessRecord;
use crate::io::looks::Look;
use crate::io::memory::Shared;
use crate::io::pacer::{Pacer, PacerCommand};
use crate::io::paths::{Usable, Use};
use crate::io::snapshot::{NodeView, PathView, Snapshot};
use crate::io::{clock, realtime};
use crate::keys::KeyRing;
use anyhow::Context;
use heartbeat_common::view::Order as ViewOrder;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// Orders waiting at most.
const ORDERS_MAX: usize = 64;
/// A burst that the kernel refused on a usable path is not taken for asked, but for so many bursts in a row: a path that
/// can never be asked must not hide a death for ever.
const REFUSALS_MAX: u32 = 2;
/// Bounds of a round: progress is proved at least this often, and not more often than this for nothing.
const ROUND: (Duration, Duration) = (Duration::from_micros(500), Duration::from_millis(250));

/// What the thread can be told.
enum Order {
    Show(SyncSender<Snapshot>),
    Incarnation(u64),
    Settings(Box<Settings>),
    Keeper(SyncSender<keeper::Order>),
    /// Decide together with others from now on.
    Agreement(Box<Hands>),
    Wake,
    Wrote(Report),
    Announced(ViewOrder, bool),
    ServicesStopped(bool),
    Terms(Box<(Terms, KeyRing)>),
    Request(Request, SyncSender<Outcome>),
    View(SyncSender<Status>),
    Stop,
}

/// Why this node's part in the cluster is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// The agreement ends.
    Agreement(Ending),
    /// A peer knows an incarnation of this node that is not older than this, which is not the one that runs here.
    Outrun(u64),
}

/// A way to tell it.
#[derive(Clone)]
pub struct Orders {
    queue: SyncSender<Order>,
    plan: Arc<Plan>,
}

/// What does not change while the daemon runs: which path is which.
#[derive(Debug)]
pub struct Plan {
    /// Id of this node.
    pub own: u16,
    /// The paths, by index.
    pub paths: Vec<crate::config::PathPlan>,
}

impl Plan {
    /// Turns a configuration into what the core must be told.
    #[must_use]
    pub fn settings(&self, config: &Config, incarnation: u64) -> Settings {
        let path = |plan: &crate::config::PathPlan| {
            let rule = config.settings.path(plan.same_subnet);
            PathSpec {
                node: NodeId(plan.peer_node),
                network: NetworkId(plan.network),
                local: plan.local,
                peer: plan.peer,
                settings: PathSettings {
                    delay: rule.delay,
                    threshold: rule.threshold,
                    lost: rule.lost,
                    unreachable: rule.unreachable,
                    failed: rule.failed,
                },
            }
        };
        let peers = config.nodes.iter().filter(|node| node.id != self.own);
        Settings {
            incarnation,
            hash: settings_hash(config),
            nodes: peers.map(|node| NodeSpec { id: NodeId(node.id), name: node.name.clone() }).collect(),
            networks: config
                .networks
                .iter()
                .map(|network| NetworkSpec { id: NetworkId(network.id), name: network.name.clone() })
                .collect(),
            paths: self.paths.iter().map(path).collect(),
            stall_limit: config.settings.stall_limit,
            hang_limit: config.settings.hang_limit,
            lateness_budget: config.settings.lateness_budget,
        }
    }
}

impl Orders {
    /// Tells it that this node runs under a new incarnation.
    pub fn incarnation(&self, own: u64) {
        let _ = self.queue.send(Order::Incarnation(own));
    }

    /// Puts new settings and keys into force.
    pub fn settings(&self, config: &Config, keys: KeyRing) {
        // The core keeps its own incarnation; the number here is replaced by it.
        let _ = self.queue.send(Order::Settings(Box::new(self.plan.settings(config, 0))));
        let _ = self.queue.send(Order::Terms(Box::new((terms(config), keys))));
    }

    /// Tells it where the keeper takes orders.
    pub fn keeper(&self, keeper: SyncSender<keeper::Order>) {
        let _ = self.queue.send(Order::Keeper(keeper));
    }

    /// Gives it the agreement to drive.
    pub fn agreement(&self, hands: Box<Hands>) {
        let _ = self.queue.send(Order::Agreement(hands));
    }

    /// Wakes it: messages have come. Waits for nothing; if its queue is full it is awake.
    pub fn wake(&self) {
        let _ = self.queue.try_send(Order::Wake);
    }

    /// Tells it how a write of the agreement's state ended.
    pub fn wrote(&self, report: Report) {
        let _ = self.queue.send(Order::Wrote(report));
    }

    /// Tells it that all that this node runs has stopped or, not `stopped`, that this was waited for in vain.
    pub fn services_stopped(&self, stopped: bool) {
        let _ = self.queue.send(Order::ServicesStopped(stopped));
    }

    /// Asks the agreement for something, and waits at most `limit` for what becomes of it. `None`: no word of it.
    #[must_use]
    pub fn request(&self, request: Request, limit: Duration) -> Option<Outcome> {
        let (answer, wait) = sync_channel(1);
        self.queue.try_send(Order::Request(request, answer)).ok()?;
        wait.recv_timeout(limit).ok()
    }

    /// Asks how the agreement stands, and waits at most `limit`. `None`: there is none, or no answer.
    #[must_use]
    pub fn view(&self, limit: Duration) -> Option<Status> {
        let (answer, wait) = sync_channel(1);
        self.queue.try_send(Order::View(answer)).ok()?;
        wait.recv_timeout(limit).ok()
    }

    /// Asks for a picture of everything, and waits at most `limit`: a loop that makes no progress does not answer.
    #[must_use]
    pub fn show(&self, limit: Duration) -> Option<Snapshot> {
        let (answer, wait) = sync_channel(1);
        self.queue.try_send(Order::Show(answer)).ok()?;
        wait.recv_timeout(limit).ok()
    }
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

/// The newest burst on a path.
#[derive(Clone, Copy)]
struct PathBurst {
    /// When it was tried.
    tried: u64,
    /// When the kernel last took one.
    taken: u64,
    /// The path can be used.
    usable: bool,
}

/// Which of a peer's bursts count as asked.
#[derive(Default)]
struct Bursts {
    /// The newest one looked at.
    seen: u64,
    /// How many before it the kernel refused, in a row.
    refused: u32,
}

impl Bursts {
    /// Returns when a burst went out that was not reported yet: tried on every path, and taken by the kernel on every
    /// path that can be used.
    fn news(&mut self, paths: impl Iterator<Item = PathBurst> + Clone) -> Option<u64> {
        let tried = paths.clone().map(|path| path.tried).min().unwrap_or(0);
        if tried <= self.seen {
            return None;
        }
        self.seen = tried;
        let refused = paths.clone().any(|path| path.usable && path.taken < path.tried);
        if refused && self.refused < REFUSALS_MAX {
            self.refused += 1;
            return None;
        }
        self.refused = 0;
        Some(tried)
    }
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
    /// where this node is no member. A member ends: a newer incarnation proves to others that what the older one ran has
    /// stopped, and it has first to be so.
    fn reincarnate(&mut self, above: u64) {
        match &self.hands {
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
                Errand::Announce(announced, view) => {
                    let orders = self.orders.clone();
                    let told = move |done| drop(orders.queue.send(Order::Announced(view, done)));
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
            Order::Agreement(hands) => self.hands = Some(hands),
            Order::Wrote(report) => self.with_hands(|hands| hands.wrote(report)),
            Order::Announced(view, done) => self.with_hands(|hands| hands.announced(view, done)),
            Order::ServicesStopped(stopped) => self.with_hands(|hands| hands.services_stopped(stopped)),
            Order::Terms(terms) => {
                let (terms, keys) = *terms;
                self.with_hands(|hands| hands.reconfigure(terms, keys));
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

    fn picture(&self) -> Snapshot {
        let now = clock::now();
        let node = |(id, node): (NodeId, &crate::core::node::Node)| NodeView {
            id,
            name: node.name().node.clone(),
            verdict: node.verdict(),
            since: node.since(),
            reason: self.controller.reason(id),
            said: node.said(),
            settings_agree: node.settings_agree(),
            heard: node.heard(),
        };
        let path = |(id, spec, path): (PathId, &PathSpec, &crate::core::path::Path)| PathView {
            id,
            node: spec.node,
            rule: path.rule(),
            state: path.state(),
            since: path.since(),
            misses: path.misses(),
            unsent: path.unsent(),
            tick: *self.looks[id.index()].tick(),
            histogram: self.shared.histogram(id.0),
            sent: self.pacer.record.sent(id.index()),
        };
        Snapshot {
            now,
            incarnation: self.controller.settings().incarnation,
            isolated: self.controller.isolated_from().is_some(),
            stall_limit: self.controller.settings().stall_limit,
            hang_limit: self.controller.settings().hang_limit,
            nodes: self.controller.nodes().map(node).collect(),
            paths: self.controller.paths().map(path).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn burst(tried: u64, taken: u64, usable: bool) -> PathBurst {
        PathBurst { tried, taken, usable }
    }

    #[test]
    fn a_burst_counts_when_it_was_taken_on_every_path() {
        let mut bursts = Bursts::default();
        let mut news = |a, b| bursts.news([a, b].into_iter());
        assert_eq!(news(burst(0, 0, true), burst(0, 0, true)), None);
        assert_eq!(news(burst(10, 10, true), burst(0, 0, true)), None, "not tried on the second path yet");
        assert_eq!(news(burst(10, 10, true), burst(10, 10, true)), Some(10));
        assert_eq!(news(burst(10, 10, true), burst(10, 10, true)), None, "reported once");
        assert_eq!(news(burst(20, 20, true), burst(20, 10, false)), Some(20), "an unusable path holds nothing up");
    }

    #[test]
    fn a_refused_burst_is_not_believed_but_hides_no_death_for_ever() {
        let mut bursts = Bursts::default();
        let mut refused = |at| bursts.news([burst(at, at, true), burst(at, 0, true)].into_iter());
        let told: Vec<_> = (1..=6).map(|at| refused(at * 10)).collect();
        assert_eq!(told, [None, None, Some(30), None, None, Some(60)]);
        assert_eq!(refused(60), None, "one burst is looked at once");
    }
}

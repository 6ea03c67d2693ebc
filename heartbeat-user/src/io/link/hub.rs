//! Who is a peer and which connection stands with each: the one owner of the link's state, on the link's thread. It
//! starts and ends the tasks that call, listen and speak; what they say is `connection`'s, what stays is `hello`'s to
//! decide.

use super::admission::{Admission, Pace, Turned};
use super::connection::{self, Mailbox};
use super::hello::{Claim, Hello, HelloFault, Standing};
use super::inbox::Inbox;
use super::retry::{self, Chance, LinkPath, Retry, WAIT_MIN};
use super::{Count, Counts, LinkEvent, LinkSetup, Peer, rate, socket};
use crate::core::agreement::document::SCHEMA;
use crate::core::agreement::message::Message;
use crate::core::ids::NodeId;
use crate::io::clock;
use crate::io::conflict::Held;
use crate::keys::{KeyRing, SLOTS};
use std::cell::{Cell, RefCell, RefMut};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio::task::{JoinHandle, spawn_local};

/// How often an address that cannot be listened on is tried again.
const LISTEN_AGAIN: Duration = Duration::from_millis(500);
/// Rest after the system gave no connection, for want of descriptors or memory.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

// A head names a slot by one byte.
const _: () = assert!(SLOTS <= u8::MAX as usize);

/// A task that ends with its owner.
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The connection that stands with a peer. Dropping it ends it.
struct Incumbent {
    id: u64,
    claim: Claim,
    addresses: (IpAddr, IpAddr),
    slot: u8,
    /// Which cluster's state the peer said to hold; 0: none.
    instance: [u64; 2],
    mailbox: Rc<Mailbox>,
    _end: oneshot::Sender<()>,
}

struct PeerState {
    paths: Vec<LinkPath>,
    /// Newest incarnation heard; 0: none.
    known: u64,
    current: Option<Incumbent>,
    /// Told when `current` or `paths` change.
    changed: Rc<Notify>,
    _caller: Task,
}

impl PeerState {
    /// Ends what stands; says whether anything did.
    fn end(&mut self) -> bool {
        let ended = self.current.take().is_some();
        if ended {
            self.changed.notify_one();
        }
        ended
    }
}

struct State {
    standing: Standing,
    ring: KeyRing,
    /// Changes with everything that a hello or a handshake was made from.
    epoch: u64,
    peers: BTreeMap<NodeId, PeerState>,
    listeners: BTreeMap<IpAddr, Task>,
    admission: Admission,
    begun: u64,
    stood: u64,
    chance: Chance,
}

/// The owner of all.
pub(super) struct Hub {
    pub(super) own: NodeId,
    limit: Cell<Duration>,
    pub(super) counts: Arc<Counts>,
    port: u16,
    held: Held,
    inbox: Arc<Inbox>,
    state: RefCell<State>,
}

/// What a connection is made under; if the epoch has changed since, it is worth nothing.
pub(super) struct Terms {
    pub(super) ring: KeyRing,
    pub(super) standing: Standing,
    pub(super) known: u64,
    pub(super) epoch: u64,
}

/// A connection whose ends have greeted each other.
pub(super) struct Greeted {
    pub(super) node: NodeId,
    pub(super) own: Hello,
    pub(super) other: Hello,
    pub(super) begun_here: bool,
    pub(super) addresses: (IpAddr, IpAddr),
    pub(super) slot: u8,
    pub(super) epoch: u64,
}

/// The right of a connection to speak. It holds until `end` resolves.
pub(super) struct Seat {
    pub(super) node: NodeId,
    pub(super) incarnation: u64,
    pub(super) mailbox: Rc<Mailbox>,
    pub(super) end: oneshot::Receiver<()>,
    id: u64,
}

/// The least that the kernel's own clock for a connection tells apart.
fn at_least(limit: Duration) -> Duration {
    limit.max(Duration::from_millis(10))
}

impl Hub {
    pub(super) fn new(setup: &LinkSetup, inbox: Arc<Inbox>, counts: Arc<Counts>) -> Rc<Self> {
        let state = State {
            standing: setup.standing,
            ring: setup.keys.clone(),
            epoch: 0,
            peers: BTreeMap::new(),
            listeners: BTreeMap::new(),
            admission: Admission::default(),
            begun: 0,
            stood: 0,
            chance: Chance(setup.seed),
        };
        let limit = Cell::new(at_least(setup.control_limit));
        let held = setup.held.clone();
        Rc::new(Self { own: setup.own, limit, counts, port: setup.port, held, inbox, state: RefCell::new(state) })
    }

    /// Replaces the peers: what is gone ends, what is new begins, what stays is not disturbed.
    pub(super) fn reconfigure(self: &Rc<Self>, peers: Vec<Peer>) {
        let mut wanted: BTreeMap<_, _> = peers.into_iter().map(|peer| (peer.node, peer.paths)).collect();
        wanted.remove(&self.own);
        let locals: BTreeSet<_> = wanted.values().flatten().map(|path| path.local).collect();
        let mut lost = Vec::new();
        let mut state = self.state.borrow_mut();
        state.peers.retain(|node, peer| {
            let stays = wanted.contains_key(node);
            if !stays && peer.end() {
                lost.push(*node);
            }
            stays
        });
        for (node, mut paths) in wanted {
            retry::sort(&mut paths);
            if let Some(peer) = state.peers.get_mut(&node) {
                let leads = |addresses| paths.iter().any(|path| (path.local, path.peer) == addresses);
                if peer.current.as_ref().is_some_and(|current| !leads(current.addresses)) && peer.end() {
                    lost.push(node);
                }
                peer.paths = paths;
                peer.changed.notify_one();
            } else {
                let changed = Rc::new(Notify::new());
                let caller = Task(spawn_local(call(self.clone(), node, changed.clone())));
                state.peers.insert(node, PeerState { paths, known: 0, current: None, changed, _caller: caller });
            }
        }
        state.listeners.retain(|local, _| locals.contains(local));
        for local in locals {
            state.listeners.entry(local).or_insert_with(|| Task(spawn_local(listen(self.clone(), local))));
        }
        drop(state);
        self.leave_lost(lost);
    }

    pub(super) fn set_incarnation(&self, own: u64) {
        let mut state = self.state.borrow_mut();
        if own != state.standing.incarnation {
            state.standing.incarnation = own;
            self.end_where(state, |_, _| true);
        }
    }

    /// Takes a cluster's state as the own one. What stands with a peer that said to hold the same one stays; all others
    /// greet anew, for two that held none may have come to hold different ones since.
    pub(super) fn set_instance(&self, instance: [u64; 2]) {
        let mut state = self.state.borrow_mut();
        if instance != state.standing.instance {
            state.standing.instance = instance;
            self.end_where(state, |_, current| current.instance != instance);
        }
    }

    pub(super) fn heard(&self, node: NodeId, incarnation: u64) {
        let mut state = self.state.borrow_mut();
        let Some(peer) = state.peers.get_mut(&node) else { return };
        peer.known = peer.known.max(incarnation);
        let known = peer.known;
        if peer.current.as_ref().is_some_and(|current| current.claim.incarnation < known) && peer.end() {
            drop(state);
            self.leave_lost([node]);
        }
    }

    /// For how long messages may fail to pass before a connection is given up.
    pub(super) fn limit(&self) -> Duration {
        self.limit.get()
    }

    /// Puts another limit into force: every connection is made anew, for the kernel holds each to its own.
    pub(super) fn set_limit(&self, limit: Duration) {
        let limit = at_least(limit);
        if self.limit.replace(limit) != limit {
            self.end_where(self.state.borrow_mut(), |_, _| true);
        }
    }

    pub(super) fn set_keys(&self, ring: KeyRing) {
        let mut state = self.state.borrow_mut();
        let old = std::mem::replace(&mut state.ring, ring);
        let ring = state.ring.clone();
        let own = self.own;
        self.end_where(state, |node, current| {
            let key = |ring: &KeyRing| ring.link(own.0, node.0, usize::from(current.slot));
            old.cluster() != ring.cluster() || key(&old) != key(&ring)
        });
    }

    /// Begins a new epoch and ends the connections that `which` names.
    fn end_where(&self, mut state: RefMut<'_, State>, which: impl Fn(NodeId, &Incumbent) -> bool) {
        state.epoch += 1;
        let mut lost = Vec::new();
        for (node, peer) in &mut state.peers {
            if peer.current.as_ref().is_some_and(|current| which(*node, current)) && peer.end() {
                lost.push(*node);
            }
        }
        drop(state);
        self.leave_lost(lost);
    }

    /// Hands a message to the connection that stands with `to`.
    pub(super) fn send(&self, to: NodeId, message: Message) {
        let mut state = self.state.borrow_mut();
        let Some(peer) = state.peers.get_mut(&to) else { return self.counts.add(Count::Unsent) };
        let Some(current) = &peer.current else { return self.counts.add(Count::Unsent) };
        if current.mailbox.push(message).is_err() {
            peer.end();
            drop(state);
            self.counts.add(Count::Overfull);
            self.leave_lost([to]);
        }
    }

    /// Returns when nothing waits for a connected peer any more.
    pub(super) async fn flushed(&self) {
        let idle = |peer: &PeerState| peer.current.as_ref().is_none_or(|current| current.mailbox.is_idle());
        while !self.state.borrow().peers.values().all(idle) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Leaves an event for the deciding thread. The state is not borrowed meanwhile.
    pub(super) fn leave(&self, event: LinkEvent) {
        self.inbox.leave(event);
    }

    fn leave_lost(&self, nodes: impl IntoIterator<Item = NodeId>) {
        for node in nodes {
            self.leave(LinkEvent::Lost(node));
        }
    }

    /// Returns the node that has address `from` on a path with `local`.
    pub(super) fn peer_at(&self, local: IpAddr, from: IpAddr) -> Option<NodeId> {
        let leads = |peer: &PeerState| peer.paths.iter().any(|path| (path.local, path.peer) == (local, from));
        self.state.borrow().peers.iter().find(|(_, peer)| leads(peer)).map(|(node, _)| *node)
    }

    /// Returns what a connection with `node` is made under; `None` if it is no peer.
    pub(super) fn terms(&self, node: NodeId) -> Option<Terms> {
        let state = self.state.borrow();
        let known = state.peers.get(&node)?.known;
        Some(Terms { ring: state.ring.clone(), standing: state.standing, known, epoch: state.epoch })
    }

    /// Makes the own hello to `terms`. Only those of connections begun here count up.
    pub(super) fn hello(&self, terms: &Terms, begun_here: bool) -> Hello {
        let mut state = self.state.borrow_mut();
        state.begun += u64::from(begun_here);
        Hello {
            node: self.own,
            incarnation: terms.standing.incarnation,
            generation: terms.standing.generation,
            knows: terms.known,
            instance: terms.standing.instance,
            schema_lowest: SCHEMA,
            schema_highest: SCHEMA,
            counter: state.begun,
        }
    }

    /// Notes that the hello of `node` was refused.
    pub(super) fn refuse(&self, node: NodeId, fault: HelloFault) {
        self.counts.add(Count::BadHello);
        self.leave(match fault {
            HelloFault::Outrun(incarnation) => LinkEvent::Outrun(node, incarnation),
            fault => LinkEvent::Refused(node, fault),
        });
    }

    /// Gives a greeted connection its place, unless what it was made under has changed, or another one stays. The one
    /// that stays is asked for an answer then: if the peer has closed it, it ends at once and not in a control limit.
    pub(super) fn seat(&self, greeted: &Greeted) -> Option<Seat> {
        let node = greeted.node;
        let claim = Claim::new(&greeted.own, &greeted.other, greeted.begun_here);
        let mut state = self.state.borrow_mut();
        let id = state.stood;
        if greeted.epoch != state.epoch {
            return None;
        }
        let peer = state.peers.get_mut(&node).filter(|peer| peer.known <= claim.incarnation)?;
        if let Some(current) = peer.current.as_ref().filter(|current| current.claim >= claim) {
            current.mailbox.ask();
            self.counts.add(Count::Surplus);
            return None;
        }
        let (sender, end) = oneshot::channel();
        let mailbox = Rc::new(Mailbox::default());
        let stands = Incumbent {
            id,
            claim,
            addresses: greeted.addresses,
            slot: greeted.slot,
            instance: greeted.other.instance,
            mailbox: mailbox.clone(),
            _end: sender,
        };
        let displaced = peer.current.replace(stands);
        peer.known = claim.incarnation;
        peer.changed.notify_one();
        state.stood += 1;
        drop(state);
        self.counts.add(Count::Connected);
        if displaced.is_some() {
            self.counts.add(Count::Displaced);
            self.leave(LinkEvent::Lost(node));
        }
        self.leave(LinkEvent::Connected(node, claim.incarnation));
        Some(Seat { node, incarnation: claim.incarnation, mailbox, end, id })
    }

    /// Notes that a connection ended by itself.
    pub(super) fn unseat(&self, seat: &Seat) {
        let mut state = self.state.borrow_mut();
        let Some(peer) = state.peers.get_mut(&seat.node) else { return };
        if peer.current.as_ref().is_some_and(|current| current.id == seat.id) && peer.end() {
            drop(state);
            self.leave(LinkEvent::Lost(seat.node));
        }
    }

    /// Returns the path of the next attempt, or nothing while a connection stands or there is no path.
    fn next_path(&self, node: NodeId, retry: &Retry) -> Option<LinkPath> {
        let state = self.state.borrow();
        let peer = state.peers.get(&node).filter(|peer| peer.current.is_none())?;
        retry.path(peer.paths.len()).map(|index| peer.paths[index])
    }

    fn admit(self: &Rc<Self>, local: IpAddr, from: IpAddr) -> Option<Entry> {
        let is_peer = self.peer_at(local, from).is_some();
        let admitted = self.state.borrow_mut().admission.admit(from, is_peer, clock::now());
        match admitted {
            Ok(()) => Some(Entry { hub: self.clone(), from }),
            Err(turned) => {
                self.counts.add(if turned == Turned::Stranger { Count::Stranger } else { Count::Crowded });
                None
            }
        }
    }
}

/// A place among those that have not proved the key; given back when dropped.
pub(super) struct Entry {
    hub: Rc<Hub>,
    from: IpAddr,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.hub.state.borrow_mut().admission.done(self.from);
    }
}

/// Keeps calling a peer while no connection stands with it. The node with the lower id goes first, so that two that
/// start together seldom cross.
async fn call(hub: Rc<Hub>, node: NodeId, changed: Rc<Notify>) {
    let mut retry = Retry::default();
    let yields = if hub.own > node { WAIT_MIN } else { Duration::ZERO };
    loop {
        if hub.next_path(node, &retry).is_none() {
            let since = clock::now();
            changed.notified().await;
            // What failed before a connection that stood, maybe one begun by the peer, says nothing any more.
            retry.stood(clock::now().since(since));
            continue;
        }
        let chance = hub.state.borrow_mut().chance.draw();
        tokio::time::sleep(yields + retry.wait(chance, retry::longest(hub.limit()))).await;
        let Some(path) = hub.next_path(node, &retry) else { continue };
        if hub.held.contains(path.local) {
            retry.failed();
            continue;
        }
        retry.stood(connection::call(&hub, node, path, hub.port).await);
        retry.failed();
    }
}

/// Listens on one of the own addresses, from whenever it can be had.
async fn listen(hub: Rc<Hub>, local: IpAddr) {
    let mut told = false;
    while hub.held.contains(local) {
        tokio::time::sleep(LISTEN_AGAIN).await;
    }
    let listener = loop {
        match socket::listen(local, hub.port) {
            Ok(listener) => break listener,
            Err(error) if !told => {
                log::warn!("link: cannot listen on {local} port {}, and tries on: {error}", hub.port);
                told = true;
            }
            Err(_) => {}
        }
        tokio::time::sleep(LISTEN_AGAIN).await;
    };
    let mut pace = Pace::default();
    loop {
        let Ok((stream, from)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_AGAIN).await;
            continue;
        };
        let wait = pace.take(clock::now());
        let from = from.ip();
        match hub.admit(local, from) {
            Some(entry) => drop(spawn_local(connection::answer(hub.clone(), local, from, stream, entry))),
            None => socket::reset(stream),
        }
        // Peers that a flood keeps out of the queue are called from here, and this node does not wait for them.
        if rate::is_worth_waiting(wait) {
            tokio::time::sleep(wait).await;
        }
    }
}

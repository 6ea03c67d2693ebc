//! The link: messages between controllers, over TCP, sealed under the cluster's key. One connection stands between two
//! nodes that reach each other, begun by either; this thread keeps it up, and the deciding thread neither waits for it
//! nor shares a lock that it could wait for. It carries messages and says who is there; it judges nobody.
//!
//! ```text
//! deciding thread --Order--> hub: who is a peer, which connection stays     (hub.rs; pure: hello, retry, admission)
//!       ^                     |  one caller for each peer, one listener for each address
//!       |                     v
//!   LinkEvents <---------- connection: handshake (noise), hello, records    (connection.rs; pure: queue, rate)
//! ```
//!
//! A message that was taken for sending may still be lost with its connection: [`LinkEvent::Lost`] and then
//! [`LinkEvent::Connected`] say that this may have been so, and whoever has to say something says it again.

pub mod admission;
mod connection;
mod count;
pub mod hello;
mod hub;
mod inbox;
pub mod noise;
pub mod queue;
pub mod rate;
pub mod retry;
mod socket;
#[cfg(test)]
mod tests;

pub use count::{Count, Counts};
pub use inbox::LinkEvents;

use crate::core::agreement::message::Message;
use crate::core::ids::NodeId;
use crate::io::conflict::Held;
use crate::io::realtime;
use crate::keys::KeyRing;
use anyhow::Context;
use hello::{HelloFault, Standing};
use hub::Hub;
use inbox::Inbox;
use retry::LinkPath;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{Notify, mpsc};

/// Orders that wait for the thread at most.
const ORDERS_MAX: usize = 512;
/// Of these, places that messages leave free for everything else.
const ORDERS_KEPT: usize = 64;
/// At the end, for so long what was said last may still leave.
const FLUSH: Duration = Duration::from_millis(200);

/// What the link says to the deciding thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// A node said this, under this incarnation.
    Message(NodeId, u64, Message),
    /// Messages to this node pass, and it runs under this incarnation.
    Connected(NodeId, u64),
    /// They no longer do.
    Lost(NodeId),
    /// This node's own incarnation is not its newest: a peer, named first, knows this one.
    Outrun(NodeId, u64),
    /// A node with the cluster's key was not connected to, because of what it said of itself.
    Refused(NodeId, HelloFault),
}

impl LinkEvent {
    /// Returns the node that it is about.
    #[must_use]
    pub const fn node(&self) -> NodeId {
        match self {
            Self::Message(node, ..)
            | Self::Connected(node, _)
            | Self::Lost(node)
            | Self::Outrun(node, _)
            | Self::Refused(node, _) => *node,
        }
    }
}

/// A peer, and the ways to it; in any order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The peer.
    pub node: NodeId,
    /// Its paths.
    pub paths: Vec<LinkPath>,
}

/// What is called when there is something for the deciding thread; it must not wait.
pub type Waker = Arc<dyn Fn() + Send + Sync>;

/// What the link is made of.
pub struct LinkSetup {
    /// This node.
    pub own: NodeId,
    /// Under which incarnation, controller and cluster state it runs.
    pub standing: Standing,
    /// The cluster's keys.
    pub keys: KeyRing,
    /// The other nodes.
    pub peers: Vec<Peer>,
    /// TCP port of every node.
    pub port: u16,
    /// For how long messages may fail to pass before a connection is given up; at least 10 ms.
    pub control_limit: Duration,
    /// SCHED_FIFO priority wanted; 0: none.
    pub priority: u8,
    /// Own addresses that are held back: nobody is called or answered from there.
    pub held: Held,
    /// Any number, another one on each node: waits between attempts are drawn from it.
    pub seed: u64,
    /// Wakes the deciding thread.
    pub waker: Waker,
}

/// What the thread can be told.
enum Order {
    Send(NodeId, Box<Message>),
    Incarnation(u64),
    Instance([u64; 2]),
    Heard(NodeId, u64),
    Peers(Vec<Peer>),
    Keys(Box<KeyRing>),
    Limit(Duration),
}

/// The link's thread.
pub struct Link {
    orders: mpsc::Sender<Order>,
    stop: Arc<Notify>,
    counts: Arc<Counts>,
    thread: Option<JoinHandle<()>>,
}

impl Link {
    /// Starts the thread. The node's own incarnation and its grants are on disk and in the page before: the first word
    /// that is said here binds it.
    ///
    /// # Errors
    /// If the thread or its runtime cannot be made. An address that cannot be listened on is tried again and again.
    pub fn start(setup: LinkSetup) -> anyhow::Result<(Self, LinkEvents)> {
        let (orders, queue) = mpsc::channel(ORDERS_MAX);
        let stop = Arc::new(Notify::new());
        let counts = Arc::new(Counts::default());
        let inbox = Arc::new(Inbox::new(setup.waker.clone(), counts.clone()));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("link's runtime")?;
        let thread = {
            let (stop, counts, inbox) = (stop.clone(), counts.clone(), inbox.clone());
            std::thread::Builder::new()
                .name("hb-link".to_owned())
                .stack_size(512 * 1024)
                .spawn(move || {
                    if setup.priority > 0 {
                        // A refusal is reported by the pacing thread, which asks for more.
                        let _ = realtime::fifo(setup.priority);
                    }
                    let local = tokio::task::LocalSet::new();
                    local.block_on(&runtime, run(setup, inbox, counts, queue, &stop));
                })
                .context("start the link's thread")?
        };
        Ok((Self { orders, stop, counts, thread: Some(thread) }, LinkEvents::new(inbox)))
    }

    /// Hands over a message, at once. A report takes the place of older ones of its author that still wait. Says
    /// whether the thread took it: not if it is so far behind that it takes nothing more. A message for a node that is
    /// not connected is dropped; a node that leaves too many unread is disconnected.
    pub fn send(&self, to: NodeId, message: Message) -> bool {
        let taken = self.orders.capacity() > ORDERS_KEPT && self.tell(Order::Send(to, Box::new(message)));
        if !taken {
            self.counts.add(Count::Unsent);
        }
        taken
    }

    /// Tells it that this node runs under a new incarnation, which is on disk: every connection ends and begins anew.
    /// As with all that it is told: false if the thread is so far behind that it has to be told again.
    #[must_use]
    pub fn set_incarnation(&self, own: u64) -> bool {
        self.tell(Order::Incarnation(own))
    }

    /// Tells it which cluster's state this node holds since it joined or was the first. Connections with peers of the
    /// same one stay; the others begin anew.
    #[must_use]
    pub fn set_instance(&self, instance: [u64; 2]) -> bool {
        self.tell(Order::Instance(instance))
    }

    /// Tells it that an authentic frame of this incarnation of a peer was heard: what is connected under an older one
    /// ends.
    #[must_use]
    pub fn heard(&self, node: NodeId, incarnation: u64) -> bool {
        self.tell(Order::Heard(node, incarnation))
    }

    /// Replaces the peers and their paths. Connections over paths that stay, stay.
    #[must_use]
    pub fn reconfigure(&self, peers: Vec<Peer>) -> bool {
        self.tell(Order::Peers(peers))
    }

    /// Replaces the keys. Connections under a key that is still there stay.
    #[must_use]
    pub fn set_keys(&self, keys: KeyRing) -> bool {
        self.tell(Order::Keys(Box::new(keys)))
    }

    /// Puts another control limit into force; at least 10 ms. Where it differs, connections begin anew.
    #[must_use]
    pub fn set_limit(&self, limit: Duration) -> bool {
        self.tell(Order::Limit(limit))
    }

    /// Returns what has happened so far.
    #[must_use]
    pub fn counts(&self) -> &Arc<Counts> {
        &self.counts
    }

    /// Ends the thread, after what waits for connected peers has left or 200 ms have passed. It waits for that: not for
    /// the deciding thread while it decides.
    pub fn stop(mut self) {
        self.end();
    }

    fn tell(&self, order: Order) -> bool {
        self.orders.try_send(order).is_ok()
    }

    fn end(&mut self) {
        self.stop.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.end();
    }
}

async fn run(
    setup: LinkSetup,
    inbox: Arc<Inbox>,
    counts: Arc<Counts>,
    mut queue: mpsc::Receiver<Order>,
    stop: &Notify,
) {
    let hub = Hub::new(&setup, inbox, counts);
    hub.reconfigure(setup.peers);
    loop {
        // Both are safe to cancel: a permit and an order stay where they are until they are taken. Orders come first,
        // so that what was said before the end is said.
        let order = tokio::select! {
            biased;
            order = queue.recv() => order,
            () = stop.notified() => None,
        };
        match order {
            Some(Order::Send(to, message)) => hub.send(to, *message),
            Some(Order::Incarnation(own)) => hub.set_incarnation(own),
            Some(Order::Instance(instance)) => hub.set_instance(instance),
            Some(Order::Heard(node, incarnation)) => hub.heard(node, incarnation),
            Some(Order::Peers(peers)) => hub.reconfigure(peers),
            Some(Order::Keys(keys)) => hub.set_keys(*keys),
            Some(Order::Limit(limit)) => hub.set_limit(limit),
            None => break,
        }
    }
    let _ = tokio::time::timeout(FLUSH, hub.flushed()).await;
}

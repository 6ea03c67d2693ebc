//! Connections between controllers: one for each pair, in order and without loss until it breaks. It knows no bytes; who
//! may connect, and which connection stays, is tested where it is decided.

use super::clock::MS;
use heartbeat_user::core::agreement::document::Member;
use heartbeat_user::core::agreement::message::Message;
use std::collections::VecDeque;

/// How long a message may be stuck before its connection breaks.
const STUCK_MAX: u64 = 1_000 * MS;
/// How often a stuck one is tried.
const AGAIN: u64 = 50 * MS;
/// Messages on their way at most.
pub const QUEUE_MAX: usize = 64;

/// What becomes of a message that does not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stuck {
    /// It is tried again already.
    Waits,
    /// It is tried again then.
    Again(u64),
    /// Its connection breaks.
    Over,
}

/// One direction of a connection.
#[derive(Clone, Debug, Default)]
pub struct Pipe {
    /// Messages on their way, with the time at which each arrives.
    pub queue: VecDeque<(u64, Message)>,
    /// Since when the first of them is stuck; 0: it is not.
    stuck_since: u64,
    again: u64,
    /// Who sends, under the incarnation that connected.
    pub author: Option<Member>,
}

impl Pipe {
    /// Sends a message. Returns when it arrives: never before an earlier one.
    pub fn send(&mut self, at: u64, message: Message) -> u64 {
        let at = self.queue.back().map_or(at, |(last, _)| at.max(*last + 1));
        self.queue.push_back((at, message));
        at
    }

    /// Takes note that the first message does not pass at `now`.
    pub fn stuck(&mut self, now: u64) -> Stuck {
        if self.stuck_since == 0 {
            self.stuck_since = now;
        }
        if now - self.stuck_since > STUCK_MAX {
            return Stuck::Over;
        }
        if self.again > now {
            return Stuck::Waits;
        }
        self.again = now + AGAIN;
        Stuck::Again(self.again)
    }

    /// Takes the first message, if it has arrived by now.
    pub fn take(&mut self, now: u64) -> Option<Message> {
        if self.queue.front()?.0 > now {
            return None;
        }
        (self.stuck_since, self.again) = (0, 0);
        self.queue.pop_front().map(|(_, message)| message)
    }
}

/// A pair of nodes.
#[derive(Clone, Debug, Default)]
pub struct Pair {
    /// They are connected.
    pub open: bool,
    /// From the one of lower place to the other, and back.
    pub pipes: [Pipe; 2],
}

/// Every pair.
#[derive(Clone, Debug)]
pub struct Links {
    nodes: usize,
    pairs: Vec<Pair>,
}

impl Links {
    /// Makes the pairs of `nodes` nodes, none of them connected.
    #[must_use]
    pub fn new(nodes: usize) -> Self {
        Self { nodes, pairs: vec![Pair::default(); nodes * nodes] }
    }

    /// Returns a pair.
    pub fn pair(&mut self, a: usize, b: usize) -> &mut Pair {
        let (low, high) = (a.min(b), a.max(b));
        &mut self.pairs[low * self.nodes + high]
    }

    /// Returns one direction.
    pub fn pipe(&mut self, from: usize, to: usize) -> &mut Pipe {
        &mut self.pair(from, to).pipes[usize::from(from > to)]
    }

    /// Breaks a connection: what was on its way is gone. Says whether there was one.
    pub fn close(&mut self, a: usize, b: usize) -> bool {
        std::mem::take(self.pair(a, b)).open
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use heartbeat_common::view::Order;

    #[test]
    fn messages_keep_their_order_and_end_with_the_connection() {
        let mut links = Links::new(3);
        links.pair(2, 0).open = true;
        let message = |number| Message::Fetch(Order::new(0, number).unwrap());
        assert_eq!(links.pipe(2, 0).send(100, message(1)), 100);
        assert_eq!(links.pipe(2, 0).send(90, message(2)), 101, "none overtakes");
        assert!(links.pipe(0, 2).queue.is_empty(), "the way back is another");
        assert_eq!(links.pipe(2, 0).take(99), None);
        assert_eq!(links.pipe(2, 0).take(100), Some(message(1)));
        assert_eq!(links.pipe(2, 0).stuck(500), Stuck::Again(500 + AGAIN));
        assert_eq!(links.pipe(2, 0).stuck(600), Stuck::Waits);
        assert_eq!(links.pipe(2, 0).stuck(501 + STUCK_MAX), Stuck::Over);
        assert!(links.close(0, 2) && !links.close(0, 2));
        assert_eq!(links.pipe(2, 0).take(500), None);
    }
}

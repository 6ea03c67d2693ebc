//! What waits to be said to a peer, and what waits for the deciding thread: both are bounded, and a newer report takes
//! the place of an older one, so that whoever is slow misses what is stale first. It says what is lost; nothing here
//! waits.

use super::LinkEvent;
use crate::core::agreement::message::{Message, Report};
use heartbeat_common::lease::NODES_MAX;
use std::collections::VecDeque;

/// Messages for one peer that wait, reports apart: there is one of each author at most.
pub const OUT_MAX: usize = 32;
/// Messages for the deciding thread that wait.
pub const IN_MAX: usize = 256;

fn report(message: &Message) -> Option<&Report> {
    if let Message::Report(report) = message { Some(report) } else { None }
}

/// Says whether `older` is worth nothing once `newer` is there.
fn replaces(newer: &Report, older: &Report) -> bool {
    newer.author.node == older.author.node
        && (newer.author.incarnation, newer.serial) >= (older.author.incarnation, older.serial)
}

/// Too much waits for a peer: it does not take what is said to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// What waits to be said to one peer.
#[derive(Debug, Default)]
pub struct Outbox(VecDeque<Message>);

impl Outbox {
    /// Appends a message; a report takes out older ones of its author, and is dropped where a newer one waits.
    ///
    /// # Errors
    /// If [`OUT_MAX`] others wait, or reports of as many other authors as there may be nodes. Nothing has changed then.
    pub fn push(&mut self, message: Message) -> Result<(), Full> {
        if let Some(new) = report(&message) {
            if self.0.iter().filter_map(report).any(|old| replaces(old, new) && !replaces(new, old)) {
                return Ok(());
            }
            self.0.retain(|old| !report(old).is_some_and(|old| replaces(new, old)));
            if self.0.iter().filter_map(report).count() >= NODES_MAX {
                return Err(Full);
            }
        } else if self.0.iter().filter(|old| report(old).is_none()).count() >= OUT_MAX {
            return Err(Full);
        }
        self.0.push_back(message);
        Ok(())
    }

    /// Takes the next message.
    pub fn pop(&mut self) -> Option<Message> {
        self.0.pop_front()
    }

    /// Says whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What waits for the deciding thread.
#[derive(Debug, Default)]
pub struct Incoming(VecDeque<LinkEvent>);

impl Incoming {
    /// Appends an event; returns how many messages were lost for it: the oldest report, or itself where no report
    /// waits. Beginnings and ends of connections are never lost, but of one peer only the last two wait, and of what
    /// it was refused for the last.
    pub fn push(&mut self, event: LinkEvent) -> usize {
        match &event {
            LinkEvent::Message(from, _, Message::Report(new)) => self.0.retain(|old| match old {
                LinkEvent::Message(by, _, Message::Report(old)) => by != from || !replaces(new, old),
                _ => true,
            }),
            LinkEvent::Message(..) => {}
            LinkEvent::Connected(node, _) | LinkEvent::Lost(node) => {
                let is_state = |old: &LinkEvent| matches!(old, LinkEvent::Connected(..) | LinkEvent::Lost(_));
                self.keep_last(1, |old| is_state(old) && old.node() == *node);
            }
            LinkEvent::Outrun(node, _) | LinkEvent::Refused(node, _) => {
                let is_refusal = |old: &LinkEvent| matches!(old, LinkEvent::Outrun(..) | LinkEvent::Refused(..));
                self.keep_last(0, |old| is_refusal(old) && old.node() == *node);
            }
        }
        let is_message = |event: &LinkEvent| matches!(event, LinkEvent::Message(..));
        let mut lost = 0;
        if is_message(&event) && self.0.iter().filter(|event| is_message(event)).count() >= IN_MAX {
            let is_report = |event: &LinkEvent| matches!(event, LinkEvent::Message(_, _, Message::Report(_)));
            let Some(oldest) = self.0.iter().position(is_report) else { return 1 };
            self.0.remove(oldest);
            lost = 1;
        }
        self.0.push_back(event);
        lost
    }

    /// Takes the next event.
    pub fn pop(&mut self) -> Option<LinkEvent> {
        self.0.pop_front()
    }

    /// Takes out what `which` says, but for the last `kept`.
    fn keep_last(&mut self, kept: usize, which: impl Fn(&LinkEvent) -> bool) {
        let mut surplus = self.0.iter().filter(|event| which(event)).count().saturating_sub(kept);
        self.0.retain(|event| {
            let goes = surplus > 0 && which(event);
            surplus -= usize::from(goes);
            !goes
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::agreement::document::Member;
    use crate::core::ids::NodeId;
    use crate::io::link::hello::HelloFault;
    use heartbeat_common::view::{Ballot, Name, Order, VoteId};

    fn said(author: u16, incarnation: u64, serial: u64) -> Message {
        Message::Report(Box::new(Report {
            author: Member { node: NodeId(author), incarnation },
            serial,
            turn: 0,
            view: Name::NONE,
            vote: VoteId::NONE,
            sequence: 0,
            accepted: Ballot::NONE,
            round: 0,
            settings: 0,
            leaving: false,
            cannot_apply: false,
            joins: false,
            wishes: Vec::new(),
            remembers: Vec::new(),
            hears: Vec::new(),
            stopped: Vec::new(),
            ends: Vec::new(),
        }))
    }

    fn fetch(number: u64) -> Message {
        Message::Fetch(Order(number))
    }

    fn drain(mut out: Outbox) -> Vec<Message> {
        std::iter::from_fn(|| out.pop()).collect()
    }

    #[test]
    fn a_newer_report_takes_the_place_of_an_older_of_its_author() {
        let mut out = Outbox::default();
        for message in [said(1, 5, 1), fetch(1), said(2, 5, 1), said(1, 5, 2), said(1, 6, 1), said(1, 5, 9)] {
            assert_eq!(out.push(message), Ok(()));
        }
        assert_eq!(drain(out), [fetch(1), said(2, 5, 1), said(1, 6, 1)]);
    }

    #[test]
    fn messages_have_a_bound_and_reports_one_of_their_own() {
        let mut out = Outbox::default();
        for number in 0..OUT_MAX as u64 {
            assert_eq!(out.push(fetch(number)), Ok(()));
        }
        assert_eq!(out.push(said(1, 1, 1)), Ok(()));
        assert_eq!(out.push(fetch(99)), Err(Full));
        for author in 2..=NODES_MAX as u16 {
            assert_eq!(out.push(said(author, 1, 1)), Ok(()));
        }
        assert_eq!(out.push(said(1000, 1, 1)), Err(Full));
        assert_eq!(out.push(said(1, 1, 2)), Ok(()), "a newer one takes the place of an older");
        assert_eq!(drain(out).len(), OUT_MAX + NODES_MAX);
    }

    fn events(mut incoming: Incoming) -> Vec<LinkEvent> {
        std::iter::from_fn(|| incoming.pop()).collect()
    }

    #[test]
    fn when_too_much_waits_the_oldest_report_goes_first() {
        let mut incoming = Incoming::default();
        let from = |node: u16, message| LinkEvent::Message(NodeId(node), 1, message);
        assert_eq!(incoming.push(from(1, said(1, 1, 1))), 0);
        for number in 1..IN_MAX as u64 {
            assert_eq!(incoming.push(from(2, fetch(number))), 0);
        }
        assert_eq!(incoming.push(LinkEvent::Lost(NodeId(2))), 0, "a connection's end always fits");
        assert_eq!(incoming.push(from(2, fetch(1000))), 1);
        assert_eq!(incoming.push(from(2, fetch(1001))), 1);
        let all = events(incoming);
        assert_eq!((all.len(), all.first()), (IN_MAX + 1, Some(&from(2, fetch(1)))));
        assert_eq!(all.last(), Some(&from(2, fetch(1000))), "the last one came too late");
    }

    #[test]
    fn reports_are_kept_apart_by_who_brought_them() {
        let mut incoming = Incoming::default();
        for (node, message) in [(2, said(1, 1, 1)), (3, said(1, 1, 2)), (2, said(1, 1, 3))] {
            assert_eq!(incoming.push(LinkEvent::Message(NodeId(node), 1, message)), 0);
        }
        let kept: Vec<_> = events(incoming).iter().map(|event| event.node().0).collect();
        assert_eq!(kept, [3, 2]);
    }

    #[test]
    fn of_one_peer_two_changes_and_one_refusal_wait() {
        let mut incoming = Incoming::default();
        let node = NodeId(1);
        let refused = |known| LinkEvent::Refused(node, HelloFault::OldIncarnation { said: 1, known });
        for turn in 1..50 {
            incoming.push(LinkEvent::Connected(node, turn));
            incoming.push(LinkEvent::Lost(node));
            incoming.push(refused(turn));
        }
        incoming.push(LinkEvent::Connected(NodeId(2), 7));
        let left = [LinkEvent::Connected(node, 49), LinkEvent::Lost(node), refused(49)];
        assert_eq!(events(incoming)[..3], left);
    }
}

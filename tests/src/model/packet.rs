//! What is under way between nodes, in no order; and the marks by which is known what came twice, late or out of order.
//! It delivers nothing by itself.

use super::node::Load;
use super::shared::Shared;
use super::watch::{Reached, Watch};
use std::ops::Deref;

/// A message, or a fence, under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Packet {
    /// Node and incarnation that sent it.
    pub from: (u8, u8),
    /// Node and incarnation that it is for: a connection is between two of them.
    pub to: (u8, u8),
    /// What.
    pub load: Shared<Load>,
    /// What became of it so far.
    marks: u8,
}

/// It was held back: it comes whenever it likes, or never.
const HELD: u8 = 1 << 0;
/// It was sent while a message between the same two was held back.
const LATER: u8 = 1 << 1;
/// It was held back, and one that was sent later came before it.
const OVERTAKEN: u8 = 1 << 2;
/// It was held back, and a view was decided meanwhile.
const ACROSS: u8 = 1 << 3;
/// It came once already.
const AGAIN: u8 = 1 << 4;

impl Packet {
    /// Makes one that was just sent.
    #[must_use]
    pub fn new(from: (u8, u8), to: (u8, u8), load: Shared<Load>) -> Self {
        Self { from, to, load, marks: 0 }
    }

    /// It was held back.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.marks & HELD != 0
    }

    /// It is a message, and no fence.
    #[must_use]
    pub fn is_message(&self) -> bool {
        matches!(*self.load, Load::Message(_))
    }

    /// Two that are alike are one: a copy of what is held back is held back with it.
    fn key(&self) -> (u128, (u8, u8), (u8, u8)) {
        (self.load.digest(), self.from, self.to)
    }

    fn is_beside(&self, other: &Self) -> bool {
        (self.from, self.to) == (other.from, other.to) && self.is_message() && other.is_message()
    }
}

/// All that is under way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Net(Vec<Packet>);

impl Deref for Net {
    type Target = [Packet];
    fn deref(&self) -> &[Packet] {
        &self.0
    }
}

impl Net {
    /// Sends a packet. What is under way already is not sent once more.
    pub fn send(&mut self, mut packet: Packet) {
        if let Err(place) = self.0.binary_search_by_key(&packet.key(), Packet::key) {
            if self.0.iter().any(|other| other.is_held() && other.is_beside(&packet)) {
                packet.marks |= LATER;
            }
            self.0.insert(place, packet);
        }
    }

    /// Holds a packet back.
    pub fn hold(&mut self, place: usize) {
        self.0[place].marks |= HELD;
    }

    /// Lets a packet come; `stays`: it will come once more. Tells the record what that is.
    pub fn come(&mut self, place: usize, stays: bool, watch: &mut Watch) -> Packet {
        let packet = self.0[place].clone();
        for (mark, what) in [(OVERTAKEN, Reached::Overtaken), (ACROSS, Reached::Across), (AGAIN, Reached::Doubled)] {
            if packet.marks & mark != 0 {
                watch.reach(what);
            }
        }
        if stays {
            self.0[place].marks |= AGAIN;
        } else {
            self.0.remove(place);
        }
        let held = self.0.iter().any(|other| other.is_held() && other.is_beside(&packet));
        for other in self.0.iter_mut().filter(|other| other.is_beside(&packet)) {
            if packet.marks & LATER != 0 && other.is_held() {
                other.marks |= OVERTAKEN;
            }
            if !held {
                other.marks &= !LATER;
            }
        }
        packet
    }

    /// A view was decided.
    pub fn decided(&mut self) {
        for packet in self.0.iter_mut().filter(|packet| packet.is_held() && packet.is_message()) {
            packet.marks |= ACROSS;
        }
    }

    /// A controller ended: its connections end with it, and only fences still come.
    pub fn ended(&mut self, node: usize) {
        self.0.retain(|packet| usize::from(packet.to.0) != node || !packet.is_message());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::watch::tests::record;
    use heartbeat_common::view::Order;
    use heartbeat_user::core::agreement::message::Message;

    /// Sends a message that is told by its number, from node 1 to another.
    fn send(net: &mut Net, to: u8, number: u64) {
        let message = Message::Fetch(Order(number));
        net.send(Packet::new((0, 1), (to, 1), Shared::new(Load::Message(message))));
    }

    fn place(net: &Net, number: u64) -> usize {
        let wanted = Load::Message(Message::Fetch(Order(number)));
        net.iter().position(|packet| *packet.load == wanted).expect("it is under way")
    }

    fn come(net: &mut Net, number: u64, stays: bool) -> u16 {
        let mut watch = record();
        net.come(place(net, number), stays, &mut watch);
        watch.reached
    }

    #[test]
    fn what_comes_after_a_later_one_was_overtaken() {
        let mut net = Net::default();
        send(&mut net, 1, 1);
        send(&mut net, 1, 2);
        net.hold(place(&net, 1));
        assert_eq!(come(&mut net, 2, false), 0);
        send(&mut net, 2, 3);
        assert_eq!(come(&mut net, 3, false), 0, "of another connection");
        assert_eq!(come(&mut net.clone(), 1, false), 0, "the one that came had been sent before it was held back");
        send(&mut net, 1, 4);
        assert_eq!(come(&mut net.clone(), 1, false), 0, "the later one has not come yet");
        assert_eq!(come(&mut net, 4, false), 0);
        assert_eq!(come(&mut net, 1, false), Reached::Overtaken as u16);
        assert!(net.is_empty());
    }

    #[test]
    fn marks_end_with_what_they_are_about() {
        let (mut net, mut fresh) = (Net::default(), Net::default());
        send(&mut net, 1, 1);
        net.hold(place(&net, 1));
        send(&mut net, 1, 2);
        come(&mut net, 1, false);
        send(&mut fresh, 1, 2);
        assert_eq!(net, fresh, "nothing is held back any more");
    }

    #[test]
    fn the_second_coming_is_the_doubled_one() {
        let mut net = Net::default();
        send(&mut net, 1, 1);
        assert_eq!(come(&mut net, 1, true), 0);
        send(&mut net, 1, 1);
        assert_eq!(net.len(), 1, "it is under way already");
        assert_eq!(come(&mut net, 1, false), Reached::Doubled as u16);
    }

    #[test]
    fn what_was_held_back_across_a_decision_is_known() {
        let mut net = Net::default();
        send(&mut net, 1, 1);
        send(&mut net, 1, 2);
        net.hold(place(&net, 1));
        net.decided();
        assert_eq!(come(&mut net, 2, false), 0, "it was under way in the usual order");
        assert_eq!(come(&mut net, 1, false), Reached::Across as u16);
    }

    #[test]
    fn connections_end_with_a_controller() {
        let mut net = Net::default();
        send(&mut net, 1, 1);
        send(&mut net, 2, 2);
        net.ended(1);
        assert_eq!((net.len(), net[0].to.0), (1, 2));
    }
}

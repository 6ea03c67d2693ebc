//! What may never be, and what has to be reached: a record of what was decided and on which disks, written by the model
//! and not by the code under test.

use super::kernel::{Dates, NODES};
use super::node::{Fault, Node, Outcome, acting};
use super::shared::Shared;
use heartbeat_common::view::{Name, Order, VoteId};
use heartbeat_user::core::agreement::document::{Document, Member};
use heartbeat_user::core::ids::NodeId;

/// A property that does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Broken {
    /// S1: two documents of one order were decided, or one that does not follow the one before.
    Agreement,
    /// S2: a view was installed that no majority of the old votes has accepted on disk.
    OldVotes,
    /// S2: a view was decided while no majority of its own votes held the one before on disk.
    NewVotes,
    /// An incarnation that a view left out was admitted again.
    Readmitted,
    /// 3.5: somebody acts beside a view in force that lacks him.
    Acting,
    /// A step broke a rule by itself.
    Step(Fault),
}

/// Something that a check has to come across, or it has shown nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Reached {
    /// Two views were decided, one after the other.
    TwoViews = 1 << 0,
    /// A node that lost power is a member again and acts in the newest view.
    Recovered = 1 << 1,
    /// A node that lost its disk is, with a new vote.
    Rejoined = 1 << 2,
    /// A stalled node stayed a member of a view decided meanwhile, and acts in it.
    StalledKept = 1 << 3,
    /// A restarted controller with its page acts on, in a view decided after that.
    Adopted = 1 << 4,
    /// Somebody acts who was left out of a view already decided: the wait is for him.
    LeftOutActs = 1 << 5,
    /// A message came a second time.
    Doubled = 1 << 6,
    /// A crash came between the clear of grants and the acceptance on disk, and a view was decided afterwards.
    ClearedOnly = 1 << 7,
    /// Two crashes, and a start after each.
    TwoRestarts = 1 << 8,
    /// A node started with an empty disk.
    Emptied = 1 << 9,
    /// A controller went on after a stall of a quantum or more.
    Resumed = 1 << 10,
    /// A message came after one that was sent later on the same connection.
    Overtaken = 1 << 11,
    /// A message came that was held back while a view was decided.
    Across = 1 << 12,
    /// Each of [`KINDS`] in one history.
    All = 1 << 13,
    /// So, and every node acts in the newest view.
    AllAct = 1 << 14,
}

/// What has to come together in one history: two views one after the other, two crashes with their starts, a lost disk, a
/// stall, a message that comes twice, one that comes out of order.
pub const KINDS: u16 = Reached::TwoViews as u16
    | Reached::TwoRestarts as u16
    | Reached::Emptied as u16
    | Reached::Resumed as u16
    | Reached::Doubled as u16
    | Reached::Overtaken as u16;

/// What a node has been through.
pub mod past {
    /// It lost power.
    pub const POWER: u8 = 1 << 0;
    /// It lost its disk.
    pub const DISK: u8 = 1 << 1;
    /// A view with it was decided while it was stalled.
    pub const STALLED: u8 = 1 << 2;
    /// Its controller died.
    pub const KILLED: u8 = 1 << 3;
    /// A view was decided after its controller had come back.
    pub const KILLED_AND_ON: u8 = 1 << 4;
    /// It crashed in the middle of a step.
    pub const CUT: u8 = 1 << 5;
}

/// The record.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Watch {
    /// The views decided, one after the other.
    pub decided: Vec<Shared<Document>>,
    /// Names of them.
    names: Vec<Name>,
    /// Who accepted what as the successor of the newest.
    accepted: Vec<(VoteId, Name)>,
    /// Votes that held the newest view on disk.
    holds: Vec<VoteId>,
    /// Incarnations that were members once and were left out.
    left: Vec<Member>,
    /// What each node has been through.
    pub past: [u8; NODES],
    /// Crashes that a start came after; two are counted.
    restarts: u8,
    /// What was reached.
    pub reached: u16,
    /// The first property that did not hold.
    pub broken: Option<Broken>,
}

impl Watch {
    /// Begins with a view that these votes hold.
    #[must_use]
    pub fn new(view: Shared<Document>, holds: Vec<VoteId>) -> Self {
        let names = vec![view.name()];
        Self {
            decided: vec![view],
            names,
            accepted: Vec::new(),
            holds,
            left: Vec::new(),
            past: [0; NODES],
            restarts: 0,
            reached: 0,
            broken: None,
        }
    }

    /// Returns the newest view decided.
    #[must_use]
    pub fn newest(&self) -> &Document {
        self.decided.last().expect("it begins with one")
    }

    /// Returns how many views were decided after the first.
    #[must_use]
    pub fn changes(&self) -> usize {
        self.decided.len() - 1
    }

    /// Notes that something was reached.
    pub fn reach(&mut self, what: Reached) {
        self.reached |= what as u16;
        if self.reached & KINDS == KINDS {
            self.reached |= Reached::All as u16;
        }
    }

    /// Notes a start. `crashed`: the node had not ended by itself; `empty`: its disk is.
    pub fn started(&mut self, crashed: bool, empty: bool) {
        self.restarts = (self.restarts + u8::from(crashed)).min(2);
        if self.restarts == 2 {
            self.reach(Reached::TwoRestarts);
        }
        if empty {
            self.reach(Reached::Emptied);
        }
    }

    fn fail(&mut self, broken: Broken) {
        self.broken = self.broken.or(Some(broken));
    }

    /// Takes in what a step did. `stalled`: a bit for each node that is.
    pub fn take(&mut self, outcome: &Outcome, stalled: u8) {
        if let Some(fault) = outcome.fault {
            self.fail(Broken::Step(fault));
        }
        // A step's acceptances come to its disk before a view that they decide does.
        for (vote, view, document) in &outcome.accepted {
            if self.names.last() == Some(view) && !self.accepted.contains(&(*vote, *document)) {
                self.accepted.push((*vote, *document));
                self.accepted.sort_unstable();
            }
        }
        for (vote, document) in &outcome.installed {
            self.install(*vote, document, stalled);
        }
    }

    fn install(&mut self, vote: VoteId, document: &Shared<Document>, stalled: u8) {
        let known = self.decided.iter().find(|known| known.order >= document.order);
        match known {
            Some(known) if known == document => {}
            Some(_) => self.fail(Broken::Agreement),
            None => self.decide(document, stalled),
        }
        if self.decided.last() == Some(document) && !self.holds.contains(&vote) {
            self.holds.push(vote);
            self.holds.sort_unstable();
        }
    }

    fn decide(&mut self, document: &Shared<Document>, stalled: u8) {
        let parent = self.newest().clone();
        let (name, of) = (document.name(), self.names.last().copied().unwrap_or(Name::NONE));
        if Some(document.order) != parent.order.next() || document.parent != of.digest {
            self.fail(Broken::Agreement);
        }
        let accepted =
            self.accepted.iter().filter(|(_, value)| *value == name).map(|(vote, _)| parent.weight_of(*vote));
        if !parent.is_majority(accepted.sum()) {
            self.fail(Broken::OldVotes);
        }
        let held = self.holds.iter().map(|vote| document.weight_of(*vote));
        if !document.is_majority(held.sum()) {
            self.fail(Broken::NewVotes);
        }
        if document.members.iter().any(|member| self.left.contains(member)) {
            self.fail(Broken::Readmitted);
        }
        self.left.extend(parent.members.iter().filter(|member| !document.members.contains(member)));
        for member in &document.members {
            let place = super::kernel::index(member.node.0);
            if stalled >> place & 1 == 1 && parent.members.contains(member) {
                self.past[place] |= past::STALLED;
            }
            if self.past[place] & past::KILLED != 0 {
                self.past[place] |= past::KILLED_AND_ON;
            }
        }
        if self.past.iter().any(|past| past & past::CUT != 0) {
            self.reach(Reached::ClearedOnly);
        }
        self.decided.push(document.clone());
        self.names.push(name);
        self.accepted.clear();
        self.holds.clear();
        if self.changes() >= 2 {
            self.reach(Reached::TwoViews);
        }
    }

    /// Looks at who acts now: whoever does is a member of every view, not older than his, under which somebody acts.
    pub fn look(&mut self, nodes: &[Shared<Node>], dates: &[Dates; NODES], stalled: u8, now: u8) {
        let token = |place: usize| acting(&nodes[place], &dates[place], now).ok();
        let tokens: Vec<Option<Order>> = (0..nodes.len()).map(token).collect();
        for (place, order) in tokens.iter().enumerate() {
            let Some(order) = order else { continue };
            let who = Member { node: NodeId(place as u16 + 1), incarnation: nodes[place].incarnation };
            for other in tokens.iter().flatten().filter(|other| *other >= order) {
                let view = self.decided.iter().find(|view| view.order == *other);
                // A view from before the record began has all of them.
                if view.is_some_and(|view| !view.members.contains(&who)) {
                    self.fail(Broken::Acting);
                }
            }
            self.note(place, *order, who, stalled);
        }
        let newest = self.newest().order;
        if stalled == 0 && self.reached & Reached::All as u16 != 0 && tokens.iter().all(|token| *token == Some(newest))
        {
            self.reach(Reached::AllAct);
        }
    }

    fn note(&mut self, place: usize, order: Order, who: Member, stalled: u8) {
        let newest = self.newest();
        let (member, current) = (newest.members.contains(&who), newest.order == order);
        if !member {
            self.reach(Reached::LeftOutActs);
        }
        let awake = stalled >> place & 1 == 0;
        if member && current && awake {
            let past = self.past[place];
            for (bit, what) in [
                (past::POWER, Reached::Recovered),
                (past::DISK, Reached::Rejoined),
                (past::STALLED, Reached::StalledKept),
                (past::KILLED_AND_ON, Reached::Adopted),
            ] {
                if past & bit != 0 {
                    self.reach(what);
                }
            }
        }
    }
}

#[cfg(test)]
pub mod tests;

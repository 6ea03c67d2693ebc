//! One vote and the disk state that it belongs to: what changes in which order, and what may be answered when. It takes
//! the questions, asks for grants to be cleared and for bytes to be written, and lets no answer out before they are on
//! disk. It writes nothing itself, counts no votes and sends nothing.
//!
//! ```text
//! prepare, accept, install --> newest state --> Write --> (disk) --> written --> Answer, Installed
//!                         `--> ClearGrants, before the bytes of an acceptance or a new view are asked for
//! ```

use super::document::{Document, DocumentFault, Member};
use crate::core::ids::NodeId;
use borsh::{BorshDeserialize, BorshSerialize};
use heartbeat_common::acceptor::{Promise, Refusal, Register};
use heartbeat_common::lease::{NODES_MAX, SLOTS};
use heartbeat_common::view::{Ballot, Name, VoteId};
use std::collections::VecDeque;

/// What is on disk, whole: a promise, an acceptance and a view can never be of different times.
#[derive(Clone, Debug, PartialEq, Eq, Hash, BorshSerialize, BorshDeserialize)]
pub struct State {
    /// Rises with each change; an older copy of the disk is told by it.
    pub sequence: u64,
    /// The vote: this disk state's own, random.
    pub vote: VoteId,
    /// The view installed.
    pub installed: Document,
    /// What this vote has promised and accepted upon it.
    pub register: Register,
    /// The document accepted, if one was.
    pub accepted: Option<Document>,
    /// The newest state of each other vote that this node has heard of, by vote. It goes to disk with the next change.
    pub remembers: Vec<(VoteId, u64)>,
    /// How long each quarantine of the view has lasted, by member. It goes to disk with the view.
    pub quarantines: Vec<Served>,
}

/// How long a quarantine has lasted, as a node knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, BorshSerialize, BorshDeserialize)]
pub struct Served {
    /// Who may not join, under the newest incarnation admitted: another quarantine of it is of a later one.
    pub member: Member,
    /// How long that had lasted, ms.
    pub served_ms: u64,
    /// CLOCK_BOOTTIME of the machine start in which that was so, ns.
    pub boot_ns: u64,
}

impl State {
    /// Begins the state of a node that installs its first view.
    #[must_use]
    pub fn new(vote: VoteId, installed: Document) -> Self {
        let register = Register::open(installed.name());
        let (remembers, quarantines) = (Vec::new(), Vec::new());
        Self { sequence: 1, vote, installed, register, accepted: None, remembers, quarantines }
    }

    /// Says whether its parts belong together: what a disk returned is not believed.
    ///
    /// # Errors
    /// Says what is wrong.
    pub fn check(&self) -> Result<(), DocumentFault> {
        self.installed.check()?;
        let accepted = self.accepted.as_ref().map(Document::name);
        let value = accepted.map_or([0; 4], |name| name.digest);
        let fits = self.vote.is_vote()
            && self.sequence != 0
            && self.register.view == self.installed.name()
            && self.register.has_accepted() == accepted.is_some()
            && self.register.value == value;
        if self.remembers.len() > SLOTS || !self.remembers.is_sorted_by(|(one, _), (next, _)| one < next) {
            return Err(DocumentFault::Rule("what it remembers of other votes is too much, or not in order"));
        }
        let nodes = |one: &Served, next: &Served| one.member.node < next.member.node;
        if self.quarantines.len() > NODES_MAX || !self.quarantines.is_sorted_by(nodes) {
            return Err(DocumentFault::Rule("the quarantines that it knows are too many, or not in order"));
        }
        if fits { Ok(()) } else { Err(DocumentFault::Rule("its register is not that of its view")) }
    }
}

/// An answer to a proposer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reply {
    /// No older attempt will be answered; what was accepted, and its document, go with it.
    Promised {
        /// The attempt.
        ballot: Ballot,
        /// What was accepted before.
        promise: Promise,
        /// Its document.
        document: Option<Box<Document>>,
    },
    /// The value was accepted.
    Accepted {
        /// The attempt.
        ballot: Ballot,
        /// The document's digest.
        value: [u64; 4],
    },
    /// It was not.
    Refused {
        /// The attempt.
        ballot: Ballot,
        /// Why.
        refusal: Refusal,
    },
}

/// What has to be done, in this order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Clear all grants of this vote, before anything that follows.
    ClearGrants,
    /// Put this state on disk and say so.
    Write(Box<State>),
    /// Send an answer.
    Answer {
        /// To whom.
        to: NodeId,
        /// Upon which view.
        view: Name,
        /// What.
        reply: Reply,
    },
    /// The view of the state is on disk: it may be granted in and acted upon.
    Installed,
}

impl Effect {
    /// Says whether this answers that a value was accepted under the attempt that `reply` promises.
    fn accepts_under(&self, reply: &Reply) -> bool {
        let Reply::Promised { ballot: promised, .. } = reply else { return false };
        matches!(self, Self::Answer { reply: Reply::Accepted { ballot, .. }, .. } if ballot == promised)
    }
}

/// Something that waits for a state to be on disk.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Waiting {
    sequence: u64,
    effect: Effect,
}

/// A vote at work.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Voter {
    /// The newest state, on disk or on its way there.
    state: State,
    /// Sequence of the newest state known to be on disk.
    durable: u64,
    /// Sequence of the state that is being written.
    writing: Option<u64>,
    waiting: VecDeque<Waiting>,
    /// The disk failed: this vote is over for the life of this state.
    forfeited: bool,
}

impl Voter {
    /// Takes up a state that is on disk.
    #[must_use]
    pub const fn resume(state: State) -> Self {
        let durable = state.sequence;
        Self { state, durable, writing: None, waiting: VecDeque::new(), forfeited: false }
    }

    /// Begins with a state that is not on disk yet: it is written, and then installed.
    #[must_use]
    pub fn begin(state: State) -> (Self, Vec<Effect>) {
        let mut voter = Self { durable: 0, ..Self::resume(state) };
        let mut effects = Vec::new();
        voter.wait(Effect::Installed);
        voter.write(&mut effects);
        (voter, effects)
    }

    /// Returns the newest state.
    #[must_use]
    pub const fn state(&self) -> &State {
        &self.state
    }

    /// Says whether the newest state is on disk.
    #[must_use]
    pub const fn settled(&self) -> bool {
        self.durable == self.state.sequence
    }

    /// Says whether this vote may grant in its view: it is on disk, and no successor was accepted.
    #[must_use]
    pub fn may_grant(&self) -> bool {
        !self.forfeited && self.settled() && !self.state.register.has_accepted()
    }

    /// Returns the sequence of the newest state known to be on disk.
    #[must_use]
    pub const fn durable(&self) -> u64 {
        self.durable
    }

    /// Says whether the disk failed it.
    #[must_use]
    pub const fn forfeited(&self) -> bool {
        self.forfeited
    }

    /// Takes what is known of the states of other votes; it is written with the next change.
    pub fn remember(&mut self, states: Vec<(VoteId, u64)>) {
        self.state.remembers = states;
    }

    /// Takes how long quarantines have lasted; it is written with the next change.
    pub fn serve(&mut self, quarantines: Vec<Served>) {
        self.state.quarantines = quarantines;
    }

    /// Says whether a view that was decided is newer than the newest known, or wins over one of the same order, as only
    /// forced ones meet.
    #[must_use]
    pub fn yields_to(&self, document: &Document) -> bool {
        let (old, new) = (self.state.register.view, document.name());
        new.order > old.order || new.order == old.order && new.digest < old.digest
    }

    /// Takes a proposer's question whether an attempt may be made.
    pub fn prepare(&mut self, from: NodeId, view: Name, ballot: Ballot) -> Vec<Effect> {
        let mut effects = Vec::new();
        if self.forfeited {
            return effects;
        }
        match self.state.register.promise(view, ballot) {
            Ok((register, promise)) => {
                let document = self.state.accepted.clone().map(Box::new);
                self.change(register, None);
                let reply = Reply::Promised { ballot, promise, document };
                self.wait(Effect::Answer { to: from, view, reply });
                self.write(&mut effects);
            }
            Err(refusal) => effects.push(refused(from, view, ballot, refusal)),
        }
        self.release(&mut effects);
        effects
    }

    /// Takes a value to be accepted. The document was checked when it was read; one that does not follow the view is
    /// answered by nothing.
    pub fn accept(&mut self, from: NodeId, view: Name, ballot: Ballot, document: &Document) -> Vec<Effect> {
        let mut effects = Vec::new();
        let follows = document.parent == view.digest && Some(document.order) == view.order.next();
        if self.forfeited || !follows {
            return effects;
        }
        let value = document.name().digest;
        match self.state.register.accept(view, ballot, value) {
            Ok(register) => {
                if register != self.state.register {
                    effects.push(Effect::ClearGrants);
                }
                self.change(register, Some(document));
                self.wait(Effect::Answer { to: from, view, reply: Reply::Accepted { ballot, value } });
                self.write(&mut effects);
            }
            Err(refusal) => effects.push(refused(from, view, ballot, refusal)),
        }
        self.release(&mut effects);
        effects
    }

    /// Installs a view that was decided, if the one held yields to it. What was to be answered about the older one is not
    /// said any more: nothing of its register counts from here on.
    pub fn install(&mut self, document: &Document) -> Vec<Effect> {
        if self.forfeited || !self.yields_to(document) {
            return Vec::new();
        }
        let mut effects = vec![Effect::ClearGrants];
        self.waiting.clear();
        let sequence = self.state.sequence + 1;
        let remembers = std::mem::take(&mut self.state.remembers);
        let quarantines = std::mem::take(&mut self.state.quarantines);
        self.state = State { sequence, remembers, quarantines, ..State::new(self.state.vote, document.clone()) };
        self.wait(Effect::Installed);
        self.write(&mut effects);
        effects
    }

    /// Takes note that the state of this sequence is on disk.
    pub fn written(&mut self, sequence: u64) -> Vec<Effect> {
        let mut effects = Vec::new();
        if self.writing == Some(sequence) {
            self.writing = None;
            self.durable = self.durable.max(sequence);
            self.release(&mut effects);
            self.write(&mut effects);
        }
        effects
    }

    /// Takes note that a state could not be written. It is never tried again as if nothing had happened: what the disk
    /// holds is not known any more.
    pub fn failed(&mut self) -> Vec<Effect> {
        self.forfeited = true;
        self.waiting.clear();
        vec![Effect::ClearGrants]
    }

    fn change(&mut self, register: Register, accepted: Option<&Document>) {
        if register == self.state.register {
            return;
        }
        self.state.register = register;
        if let Some(document) = accepted {
            self.state.accepted = Some(document.clone());
        }
        self.state.sequence += 1;
    }

    /// Has something done once the newest state is on disk. One answer waits for each proposer: whoever asks while a write
    /// hangs asks again and again, and an attempt that it has given up needs no answer. That a value was accepted says all
    /// that a promise of the same attempt would.
    fn wait(&mut self, effect: Effect) {
        if let Effect::Answer { to, reply, .. } = &effect {
            let theirs = |waiting: &Waiting| matches!(waiting.effect, Effect::Answer { to: whom, .. } if whom == *to);
            if self.waiting.iter().any(|waiting| theirs(waiting) && waiting.effect.accepts_under(reply)) {
                return;
            }
            self.waiting.retain(|waiting| !theirs(waiting));
        }
        self.waiting.push_back(Waiting { sequence: self.state.sequence, effect });
    }

    /// Asks for the newest state to be written, unless it is there, or an older one is still on its way.
    fn write(&mut self, effects: &mut Vec<Effect>) {
        if self.writing.is_none() && !self.settled() {
            self.writing = Some(self.state.sequence);
            effects.push(Effect::Write(Box::new(self.state.clone())));
        }
    }

    fn release(&mut self, effects: &mut Vec<Effect>) {
        while self.waiting.front().is_some_and(|waiting| waiting.sequence <= self.durable) {
            effects.extend(self.waiting.pop_front().map(|waiting| waiting.effect));
        }
    }
}

const fn refused(to: NodeId, view: Name, ballot: Ballot, refusal: Refusal) -> Effect {
    Effect::Answer { to, view, reply: Reply::Refused { ballot, refusal } }
}

#[cfg(test)]
mod tests;

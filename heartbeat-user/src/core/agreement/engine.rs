//! The agreement as a whole: facts, messages and reports of work done in; work to do, answers and events out. It does no
//! I/O and reads no clock; whoever owns it brings the time and carries out the commands, in their order.
//!
//! What it does with them is in its neighbours: `regroup` (when and whom to ask, what reports come to), `ballots` (one
//! decision), `install` (a view on disk, and what the page holds of it), `claims` (what frames claim of what runs here), `owed`
//! (who must have stopped, fences), `ending` (leaving, being left out), `setback` (memory of an older snapshot), `requests`.

use super::ballots::Attempt;
use super::closing::is_member;
use super::document::{Document, Holder};
use super::ending::Course;
use super::ends::Ends;
use super::event::AgreementEvent;
use super::install::Page;
use super::message::Message;
use super::owed::Fences;
use super::peer::Peer;
use super::regroup::Regroup;
use super::requests::Requests;
use super::status::{Life, Stage, Status};
use super::stops::{Clocks, Stops};
use super::types::{Adopted, Command, Input, PeerFacts, QuarantineTerms, Setup, Times, Timing};
use super::voter::{State, Voter};
use crate::core::ids::NodeId;
use crate::core::time::MonoTime;
use heartbeat_common::lease::{NODES_MAX, hold};
use heartbeat_common::view::{Name, Order, VoteId};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// A view on this node's disk.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Held {
    pub document: Document,
    pub name: Name,
    /// When it was on disk, or this controller took it up.
    pub since: Clocks,
    pub mono: MonoTime,
    /// It has come into force here, and that was said.
    pub in_force: bool,
}

/// One node's part in the agreement.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Agreement {
    pub(super) setup: Setup,
    pub(super) now: Times,
    pub(super) peers: BTreeMap<NodeId, Peer>,
    /// The ticks were looked at since this node last ran late.
    pub(super) looked: bool,
    pub(super) voter: Option<Voter>,
    /// Since when the newest state is being written.
    pub(super) writing: Option<MonoTime>,
    pub(super) held: Option<Held>,
    pub(super) page: Page,
    pub(super) stops: Stops,
    pub(super) fences: Fences,
    pub(super) regroup: Regroup,
    pub(super) attempt: Option<Attempt>,
    pub(super) ends: Ends,
    pub(super) requests: Requests,
    pub(super) course: Course,
    pub(super) commands: VecDeque<Command>,
    pub(super) events: VecDeque<AgreementEvent>,
}

impl Agreement {
    /// Begins without a state on disk: the node waits for a view, or for [`super::types::Request::Init`].
    #[must_use]
    pub fn new(setup: Setup, now: Times) -> Self {
        let mut this = Self::begin(setup, now);
        this.begin_backoff();
        // A page that goes on may say what held the controller before, which was killed while it left: this one does not.
        this.commands.push_back(Command::Hold(0));
        this
    }

    fn begin(setup: Setup, now: Times) -> Self {
        let others = setup.configured.iter().map(|one| one.node).filter(|node| *node != setup.own.node);
        let peers = others.take(NODES_MAX - 1).map(|node| (node, Peer::new(node, now.mono))).collect();
        let regroup = Regroup::new(&setup, now.mono);
        Self {
            setup,
            now,
            peers,
            looked: false,
            voter: None,
            writing: None,
            held: None,
            page: Page::default(),
            stops: Stops::default(),
            fences: Fences::default(),
            regroup,
            attempt: None,
            ends: Ends::default(),
            requests: Requests::default(),
            course: Course::Runs,
            commands: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// Takes up the state that is on disk. `adopted`: the page, where it is one of this incarnation that goes on; else
    /// the page is empty. The commands that follow have to be carried out before the first message is sent.
    #[must_use]
    pub fn resume(setup: Setup, state: State, adopted: Option<Adopted>, now: Times) -> Self {
        let mut this = Self::begin(setup, now);
        this.ends = Ends::of(&state.remembers, &state.quarantines, now.clocks());
        this.voter = Some(Voter::resume(state));
        this.take_up(adopted);
        this.begin_backoff();
        this
    }

    /// Takes in whatever happened by `now`.
    pub fn handle(&mut self, input: Input, now: Times) {
        // Whoever owns this says when it ran late; but whatever comes first after a pause must not be judged by what was
        // seen before it, and it need not be that.
        let paused = now.mono.since(self.now.mono) > self.setup.timing.delay;
        self.now = Times {
            mono: now.mono.max(self.now.mono),
            boot_ns: now.boot_ns.max(self.now.boot_ns),
            raw_ns: now.raw_ns.max(self.now.raw_ns),
        };
        if self.course == Course::Ended {
            return;
        }
        if paused {
            self.late();
        }
        match input {
            Input::Facts(facts) => self.look(&facts),
            Input::Message(from, message) => self.hear(from, *message),
            Input::Connected(peer) => self.connected(peer),
            Input::Lost(_) | Input::Tick => {}
            Input::Written(sequence) => {
                let effects = self.voter.as_mut().map(|voter| voter.written(sequence)).unwrap_or_default();
                self.writing = None;
                self.carry_out(effects);
            }
            Input::WriteFailed => self.forfeit(),
            Input::StandingDone(order) => self.standing_done(order),
            Input::Page(view) => self.look_at_page(&view),
            Input::ServicesStopped => self.services_stopped(),
            Input::Request(number, request) => self.request(number, request),
            Input::Late => self.late(),
            Input::Slept => self.slept(),
            Input::ClockOut(out) => self.clock_out(out),
        }
        self.step();
    }

    /// Returns the next command, oldest first. All have to be taken after each [`Self::handle`].
    #[must_use]
    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// Returns the next event, oldest first.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<AgreementEvent> {
        self.events.pop_front()
    }

    /// Returns when [`Self::handle`] with [`Input::Tick`] would change anything, CLOCK_MONOTONIC; a time that has passed
    /// means at once. `None`: nothing is pending. What follows from facts alone comes with [`Input::Facts`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<MonoTime> {
        if self.course == Course::Ended {
            return None;
        }
        let waits = [self.stops.remaining(self.now.clocks()), self.lingers_for()];
        let waits = waits.into_iter().flatten().min().map(|left| self.now.mono + left);
        let regroup = [self.regroup_timeout(), self.attempt_timeout(), self.fence_timeout()];
        regroup.into_iter().chain([self.requests_timeout(), self.course_timeout(), waits]).flatten().min()
    }

    /// Returns the newest incarnation of a peer that is known here, be it by a report that another one passed on; 0: none.
    /// What it says under an older one does not count, so it has to be told.
    #[must_use]
    pub fn newest_of(&self, node: NodeId) -> u64 {
        self.peers.get(&node).map_or(0, Peer::newest)
    }

    /// Returns the setup in force.
    #[must_use]
    pub const fn setup(&self) -> &Setup {
        &self.setup
    }

    /// Puts other settings, timers and terms of quarantine into force. Who this node is, who is configured and what began
    /// the cluster stay.
    pub fn reconfigure(&mut self, settings: u64, timing: Timing, quarantine: QuarantineTerms) {
        (self.setup.settings, self.setup.timing, self.setup.quarantine) = (settings, timing, quarantine);
    }

    /// Returns how the agreement stands.
    #[must_use]
    pub fn status(&self) -> Status {
        let view = self.held.as_ref().map(|held| held.document.clone());
        let quarantined = view.iter().flat_map(|view| &view.quarantined);
        Status {
            quarantines: quarantined.map(|one| (one.node, self.quarantine_left(one.node))).collect(),
            life: self.life(),
            in_force: self.page.in_force,
            owed: self.stops.waited_for().collect(),
            stage: self.stage(),
            turn: self.regroup.turn,
            waits_for: self.regroup.waits_for.clone(),
            last_disk: view.as_ref().and_then(only_voter),
            view,
            acting: self.page.acting,
            forfeited: self.forfeited(),
            granting: self.page.granting,
        }
    }

    /// Everything that time and facts lead to, in an order in which nothing has to be done twice.
    fn step(&mut self) {
        self.outlast();
        self.prove_stops();
        self.come_into_force();
        self.give_grants();
        self.send_fences();
        self.run_regroup();
        self.run_attempt();
        self.run_requests();
        self.run_course();
    }

    fn look(&mut self, facts: &[PeerFacts]) {
        for fact in facts {
            if let Some(peer) = self.peers.get_mut(&fact.node) {
                peer.look(*fact, self.now.mono, &self.setup.timing);
            }
        }
        self.looked = true;
        self.tell_control();
        self.compare_with_tried();
    }

    /// What was seen and not seen before says nothing about now: messages that came meanwhile are not read yet.
    pub(super) fn late(&mut self) {
        self.looked = false;
        for peer in self.peers.values_mut() {
            peer.message_at = self.now.mono;
            if peer.control_lost.is_none() {
                peer.spoke_at = self.now.mono;
            }
            peer.fresh = false;
        }
        self.regroup.late(self.now.mono);
    }

    fn life(&self) -> Life {
        match (&self.course, &self.held) {
            (Course::Out { .. } | Course::Ended, _) => Life::Out,
            (Course::Leaving { .. }, _) => Life::Leaving,
            (Course::Runs, None) => Life::NoView,
            (Course::Runs, Some(held)) if !is_member(&held.document, self.setup.own) => Life::Observer,
            (Course::Runs, Some(_)) if self.page.in_force == Order::NONE => Life::Installed,
            (Course::Runs, Some(_)) => Life::Member,
        }
    }

    fn stage(&self) -> Stage {
        let held = self.held.as_ref().map(|held| held.name);
        let installing = self.voter.as_ref().is_some_and(|voter| held != Some(voter.state().register.view));
        let regroup = &self.regroup;
        // Between two attempts that nobody answered, too.
        let asks = regroup.active && regroup.tries > 0 && !regroup.waits_for.is_empty() && !regroup.lacks_votes();
        // Another node's ballot, until its outcome is known here.
        let asked = regroup.active && !self.quiet() && !installing;
        if self.attempt.is_some() || asks || asked {
            Stage::Pruning
        } else if installing || !self.stops.in_force() {
            Stage::Cleanup
        } else {
            self.regroup.stage()
        }
    }

    /// Returns the held view, if this node is a member of it.
    pub(super) fn membership(&self) -> Option<&Held> {
        self.held.as_ref().filter(|held| is_member(&held.document, self.setup.own))
    }

    pub(super) fn held_order(&self) -> Order {
        self.held.as_ref().map_or(Order::NONE, |held| held.name.order)
    }

    pub(super) fn own_vote(&self) -> VoteId {
        self.voter.as_ref().filter(|voter| !voter.forfeited()).map_or(VoteId::NONE, |voter| voter.state().vote)
    }

    pub(super) fn forfeited(&self) -> bool {
        self.voter.as_ref().is_some_and(Voter::forfeited)
    }

    pub(super) fn send(&mut self, to: NodeId, message: Message) {
        self.commands.push_back(Command::Send(to, Box::new(message)));
    }

    pub(super) fn send_all(&mut self, message: &Message) {
        let sends = self.peers.keys().map(|node| Command::Send(*node, Box::new(message.clone())));
        self.commands.extend(sends);
    }

    pub(super) fn tell(&mut self, event: AgreementEvent) {
        self.events.push_back(event);
    }

    pub(super) fn hold(&mut self, bit: u64, on: bool) {
        let bits = if on { self.page.hold | bit } else { self.page.hold & !bit };
        if bits != self.page.hold {
            self.page.hold = bits;
            self.commands.push_back(Command::Hold(bits));
        }
    }

    fn clock_out(&mut self, out: bool) {
        if out && self.page.hold & hold::CLOCK == 0 {
            self.tell(AgreementEvent::ClockOutOfBounds);
        }
        self.hold(hold::CLOCK, out);
    }

    /// Time that has passed since then on this node's own clock.
    pub(super) fn passed(&self, since: MonoTime) -> Duration {
        self.now.mono.since(since)
    }
}

/// Returns the node whose disk alone is the cluster: the only one with a vote.
pub(super) fn only_voter(view: &Document) -> Option<NodeId> {
    let mut voters = view.votes.iter().filter(|vote| vote.weight > 0);
    match (voters.next()?.holder, voters.next()) {
        (Holder::Node(node), None) => Some(node),
        _ => None,
    }
}

//! The agreement's hands: what the deciding thread does between the pure agreement and the world. It brings facts,
//! messages, the page and reports of the disk to the core, and carries out the core's commands in their order. It waits
//! for nobody, and decides nothing.

pub mod begin;
mod carry;
mod claim;
pub mod clocks;
pub mod door;
pub mod page;
mod renew;
pub mod stopper;

use self::begin::Terms;
use crate::core::agreement::document::Member;
use crate::core::agreement::types::{Command, Ending, Input, Outcome, PageView, Request, Standing, Times};
use crate::core::agreement::voter::State;
use crate::core::agreement::{Agreement, AgreementEvent, Status};
use crate::core::controller::{self, Controller};
use crate::core::event::{Event, NodeNames, ViewEvent, tell};
use crate::core::facts::{Facts, PeerLook};
use crate::core::ids::NodeId;
use crate::core::time::{MonoTime, millis};
use crate::io::clock;
use crate::io::disk::{Report, Writer};
use crate::io::journal::EventSink;
use crate::io::link::{Link, LinkEvent, LinkEvents};
use crate::io::looks::Look;
use crate::io::memory::Shared;
use crate::io::pacer::Pacer;
use crate::io::page::Page;
use crate::io::paths::Announced;
use crate::io::watchdog_device::Guard;
use crate::keys::FenceSigner;
use crate::keys::KeyRing;
use claim::Claim;
use clocks::Clocks;
use heartbeat_common::frame::FLAG_QUORATE;
use heartbeat_common::lease::{self, Words, word};
use heartbeat_common::view::Order;
use renew::Written;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;
use stopper::Stopper;
use tokio::sync::oneshot;

/// Messages taken in a round: those that are left come in the next one, which follows at once.
const MESSAGES_MAX: usize = 64;

/// What the hands are made of.
pub struct HandsSetup {
    /// The core, new or resumed.
    pub agreement: Agreement,
    /// What it wants done first.
    pub first: VecDeque<Command>,
    /// The state on disk that it was resumed with.
    pub durable: Option<Box<State>>,
    /// Shared memory, the page in it.
    pub shared: Arc<Shared>,
    /// The pacing thread.
    pub pacer: Arc<Pacer>,
    /// Where events go.
    pub sink: EventSink,
    /// Names of all nodes.
    pub names: NodeNames,
    /// What messages leave by, and come by.
    pub link: (Link, LinkEvents),
    /// The thread that writes the agreement's file.
    pub disk: Writer,
    /// The slot of each node's vote in the page.
    pub slots: BTreeMap<NodeId, usize>,
    /// Of each path, its peer and who signs fences on it.
    pub fences: Vec<(NodeId, FenceSigner)>,
    /// What feeds the watchdog device, if one is configured.
    pub feeder: Option<Guard>,
    /// Who waits for what runs to stop.
    pub stopper: Stopper,
    /// The clocks by which the agreement and the page were begun.
    pub began: Times,
}

/// What the keeper's thread is to do for the agreement.
pub enum Errand {
    /// Say this in every frame, then report [`Hands::announced`] under this number.
    Announce(Announced, Order, u64),
    /// End the daemon.
    End(Ending),
}

/// The agreement, and what it reaches the world by.
pub struct Hands {
    setup: HandsSetup,
    facts: Facts,
    clocks: Clocks,
    /// Who waits for the outcome of a request, by its number.
    asked: BTreeMap<u64, SyncSender<Outcome>>,
    requests: u64,
    nonce: u64,
    errands: Vec<Errand>,
    /// What every frame is to say, and that it does not yet.
    said: Option<Standing>,
    unannounced: bool,
    /// Whatever this node runs asks the page before it acts, as far as the view's time to stop does not say otherwise.
    claim: Claim,
    /// More messages wait.
    behind: bool,
    flags: u8,
    /// What happened, to be told with what this node itself saw of it.
    happened: Vec<AgreementEvent>,
    written: Written,
    /// This node is about to take a newer incarnation: nothing is promised under the old one any more.
    frozen: bool,
    /// The incarnation that the link does not know yet.
    unlinked: Option<u64>,
    /// Keys and control limit that the link was not told of yet.
    untold: Option<(KeyRing, Duration)>,
    /// What was last said of the watchdog device.
    device_fault: Option<String>,
    /// It is to be disarmed, and another thread had it.
    disarm_due: bool,
    /// When the kernel last acknowledged a fence to whom, on each path, as of the last look.
    answered: Vec<(NodeId, MonoTime)>,
    /// An earlier controller armed the device, and this one has not looked yet whether what it guards may still act.
    inherited: bool,
    /// Peers that took the present incarnation for this node's newest.
    greeted: BTreeSet<NodeId>,
    /// A newer one that a peer knows, and whether it is one of these.
    outrun: Option<(u64, bool)>,
}

impl Hands {
    /// Takes the core up and carries out what it wants before the first message.
    #[must_use]
    pub fn new(mut setup: HandsSetup) -> Self {
        let first = std::mem::take(&mut setup.first);
        let written = Written::new(setup.durable.take());
        let inherited = setup.feeder.as_ref().is_some_and(Guard::is_armed);
        let clocks = Clocks::begun(setup.began);
        let mut hands = Self {
            setup,
            facts: Facts::default(),
            clocks,
            asked: BTreeMap::new(),
            requests: 0,
            nonce: 0,
            errands: Vec::new(),
            said: None,
            unannounced: false,
            claim: Claim::default(),
            behind: false,
            flags: 0,
            happened: Vec::new(),
            written,
            frozen: false,
            unlinked: None,
            untold: None,
            device_fault: None,
            disarm_due: false,
            answered: Vec::new(),
            inherited,
            greeted: BTreeSet::new(),
            outrun: None,
        };
        hands.keep_alive();
        first.into_iter().for_each(|command| hands.carry_out(command));
        hands.carry_out_all();
        hands
    }

    /// One round, after the controller judged the same `looks` at `now`. `late`: it began so late that what was seen
    /// before says nothing about now.
    pub fn round(&mut self, now: MonoTime, late: bool, controller: &Controller, looks: &[Look]) {
        if self.disarm_due {
            self.disarm();
        }
        if self.frozen {
            return;
        }
        self.tell_link();
        let seen = self.clocks.look();
        if late {
            self.handle(Input::Late);
        }
        if seen.slept {
            self.handle(Input::Slept);
        }
        if let Some(out) = seen.news {
            self.handle(Input::ClockOut(out));
        }
        if std::mem::take(&mut self.unannounced) {
            self.announce_again();
        }
        self.look(now, controller, looks);
        self.listen();
        self.read_page();
        self.handle(Input::Tick);
    }

    /// Returns when the next round is due at the latest.
    #[must_use]
    pub fn due(&self) -> Option<MonoTime> {
        if self.frozen {
            return None;
        }
        if self.behind { Some(MonoTime::ZERO) } else { self.setup.agreement.poll_timeout() }
    }

    /// Takes what a peer said of a newer incarnation of this node since it was last asked.
    pub fn take_outrun(&mut self) -> Option<controller::Input> {
        self.outrun.take().map(|(newest, took)| controller::Input::Outrun { newest, took })
    }

    /// Takes what the keeper is to do.
    pub fn errands(&mut self) -> Vec<Errand> {
        std::mem::take(&mut self.errands)
    }

    /// Takes in how a write ended.
    pub fn wrote(&mut self, report: Report) {
        match report {
            Report::Written { sequence, .. } => {
                lease::remember_state(self.page(), sequence);
                self.written.done(sequence);
                self.handle(Input::Written(sequence));
            }
            Report::Failed { step, errno, .. } => {
                let error = std::io::Error::from_raw_os_error(errno);
                log::error!("the agreement's file: it cannot {step}: {error}");
                self.written.fail();
                // Whatever was to come of it: this vote is over, and so is this run.
                self.frozen = false;
                self.handle(Input::WriteFailed);
            }
        }
    }

    /// Takes in that all that this node runs has stopped; not `stopped`: that it was waited for in vain. The machine's
    /// watchdog is disarmed only by the former.
    pub fn services_stopped(&mut self, stopped: bool) {
        if stopped {
            self.disarm();
        }
        self.handle(Input::ServicesStopped);
    }

    /// Disarms the machine's watchdog, where this node may not act: all that it runs has stopped. Where another thread has
    /// the device, the next round does it.
    pub fn disarm(&mut self) {
        let acting = lease::acting(self.page(), self.clocks.times().boot_ns).is_ok();
        let Some(feeder) = self.setup.feeder.as_ref().filter(|_| !acting) else {
            self.disarm_due = false;
            return;
        };
        let disarmed = feeder.everything_stopped();
        self.disarm_due = disarmed.is_none();
        if let Some(Err(error)) = disarmed {
            log::error!("{error:#}");
        }
    }

    /// Puts other timers, terms of quarantine and keys into force; `fences` are the makers of fences under these keys, by
    /// path.
    pub fn reconfigure(&mut self, terms: Terms, keys: KeyRing, fences: Vec<FenceSigner>) {
        let Terms { settings, timing, quarantine } = terms;
        // The paths stay the same as long as this runs.
        for ((_, signer), fresh) in self.setup.fences.iter_mut().zip(fences) {
            *signer = fresh;
        }
        self.untold = Some((keys, timing.control_limit));
        self.tell_link();
        self.setup.agreement.reconfigure(settings, timing, quarantine);
        self.carry_out_all();
    }

    /// Takes in that every frame says what the announcement of this number says of this view, or that it could not be
    /// brought to.
    pub fn announced(&mut self, view: Order, done: bool, number: u64) {
        if done {
            self.claim.said(number);
            self.handle(Input::StandingDone(view));
        } else {
            self.unannounced = true;
        }
    }

    /// Claims from now on, or no more, that whatever this node runs asks the page before it acts. `done` is told once no
    /// frame claims it.
    pub fn gate(&mut self, gated: bool, done: oneshot::Sender<()>) {
        if self.claim.make(gated) {
            self.announce_again();
        }
        self.claim.await_none(done);
    }

    /// Asks the core for something. `answer` gets what becomes of it.
    pub fn request(&mut self, request: Request, answer: SyncSender<Outcome>) {
        if self.frozen {
            // Who asks learns that nothing is known of it.
            return;
        }
        self.requests += 1;
        self.asked.insert(self.requests, answer);
        self.handle(Input::Request(self.requests, request));
    }

    /// Says how the agreement stands.
    #[must_use]
    pub fn status(&self) -> Status {
        self.setup.agreement.status()
    }

    fn page(&self) -> &Page {
        self.setup.shared.page()
    }

    /// Returns this node, under the incarnation that the agreement goes by.
    #[must_use]
    pub fn own(&self) -> Member {
        self.setup.agreement.setup().own
    }

    fn handle(&mut self, input: Input) {
        if self.frozen {
            return;
        }
        let now = self.clocks.times();
        self.setup.agreement.handle(input, now);
        self.carry_out_all();
    }

    fn carry_out_all(&mut self) {
        while let Some(command) = self.setup.agreement.poll_command() {
            self.carry_out(command);
        }
        while let Some(event) = self.setup.agreement.poll_event() {
            if let AgreementEvent::OlderState { seen, .. } = event {
                // The next start is to know what this one was told: else it would take the same copy up again. The page
                // knows it where this one is killed, and goes with it where it ends.
                self.setup.disk.set_aside();
                lease::remember_state(self.page(), seen);
            }
            self.happened.push(event);
        }
    }

    /// Tells what happened since it was last called: of a node that was removed also what its paths looked like from here.
    pub fn tell(&mut self, controller: &Controller) {
        for event in self.happened.drain(..) {
            let at = match &event {
                AgreementEvent::QuorumLost { ended, .. } => Some(*ended),
                _ => None,
            };
            let mut event = tell(event, &self.setup.names);
            if let ViewEvent::NodeRemoved { member, paths, .. } = &mut event {
                *paths = controller.evidence_of(member.node_id);
            }
            let noticed = clock::now();
            if let ViewEvent::QuorumLost { noticed_after_ms, .. } = &mut event {
                *noticed_after_ms = at.map_or(0, |at| millis(noticed.since(at)));
            }
            self.setup.sink.offer(Event { at: at.unwrap_or(noticed), noticed, body: event.into() });
        }
    }

    fn look(&mut self, now: MonoTime, controller: &Controller, looks: &[Look]) {
        let mut facts = Vec::new();
        self.answered.clear();
        for (id, node) in controller.nodes() {
            let paths = || controller.paths().filter(move |(_, spec, _)| spec.node == id);
            let detection = paths().map(|(_, _, path)| path.rule().detection_time()).max().unwrap_or(Duration::ZERO);
            let looked = || paths().filter_map(|(path, ..)| looks.get(path.index()));
            let ticks: Vec<_> = looked().map(Look::tick).collect();
            let tried = looked().map(Look::newest_attempt).max().unwrap_or(0);
            let fact = self.facts.of(now, PeerLook { id, node, detection, tried }, &ticks);
            let newest = self.setup.agreement.newest_of(id).max(fact.incarnation);
            if newest != 0 {
                // A link that is too far behind learns of it in the next round.
                let _ = self.setup.link.0.heard(id, newest);
            }
            facts.push(fact);
            self.answered.extend(ticks.iter().map(|tick| (id, MonoTime(tick.fence_answered_ns))));
        }
        self.handle(Input::Facts(facts));
    }

    fn listen(&mut self) {
        self.behind = true;
        for _ in 0..MESSAGES_MAX {
            let Some(event) = self.setup.link.1.try_recv() else {
                self.behind = false;
                return;
            };
            match event {
                LinkEvent::Message(node, incarnation, message) => {
                    self.handle(Input::Message(Member { node, incarnation }, Box::new(message)));
                }
                LinkEvent::Connected(node, incarnation) => {
                    self.greeted.insert(node);
                    self.handle(Input::Connected(Member { node, incarnation }));
                }
                LinkEvent::Lost(node) => self.handle(Input::Lost(node)),
                LinkEvent::Outrun(node, newest) => {
                    log::debug!("node {node} knows incarnation {newest} of this node");
                    self.outrun = Some((newest, self.greeted.contains(&node)));
                }
                LinkEvent::Refused(node, fault) => log::warn!("messages with node {node}: {fault}"),
            }
        }
    }

    fn read_page(&mut self) {
        let page = self.page();
        let acting = lease::acting(page, self.clocks.times().boot_ns);
        self.feed(acting);
        if std::mem::take(&mut self.inherited) && acting.is_err() {
            // Nobody saw the end of what it guards: it is disarmed once that is over.
            self.setup.stopper.begin();
        }
        let page = self.page();
        let fenced = page.get(word::FENCED);
        let by = if fenced >= self.own().incarnation { first_fencer(&self.answered) } else { None };
        let view = PageView {
            acting,
            lease_until_ns: page::lease_until(page),
            fenced,
            fenced_by: by.map(|(node, _)| node),
            fenced_at: by.map_or(MonoTime::ZERO, |(_, at)| at),
        };
        let quorate = if acting.is_ok() { FLAG_QUORATE } else { 0 };
        self.set_flags(self.flags & !FLAG_QUORATE | quorate);
        self.handle(Input::Page(view));
        self.keep_alive();
    }

    /// Returns who signs fences, of each path with its peer.
    #[must_use]
    pub fn fences(&self) -> &[(NodeId, FenceSigner)] {
        &self.setup.fences
    }

    /// Returns this node's times.
    #[must_use]
    pub fn times(&self) -> Times {
        self.clocks.times()
    }
}

/// Returns who first had a fence acknowledged by this node's kernel, and when. Under a new incarnation all ticks begin
/// anew, so that no fence of an older one is among them but for those that came after its end.
fn first_fencer(answered: &[(NodeId, MonoTime)]) -> Option<(NodeId, MonoTime)> {
    answered.iter().filter(|(_, at)| *at != MonoTime::ZERO).min_by_key(|(_, at)| *at).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_fence_that_was_acknowledged_names_its_sender() {
        let answered = [(NodeId(1), MonoTime::ZERO), (NodeId(2), MonoTime(900)), (NodeId(3), MonoTime(700))];
        assert_eq!(first_fencer(&answered), Some((NodeId(3), MonoTime(700))));
        assert_eq!(first_fencer(&answered[..1]), None, "nobody is named where no path was answered on");
    }
}

//! The agreement's hands: what the deciding thread does between the pure agreement and the world. It brings facts,
//! messages, the page and reports of the disk to the core, and carries out the core's commands in their order. It waits
//! for nobody, and decides nothing.

pub mod begin;
mod clocks;
pub mod door;
mod page;

use crate::core::agreement::document::Member;
use crate::core::agreement::types::{Command, Ending, Input, Outcome, PageView, Request, Standing, Times};
use crate::core::agreement::{Agreement, Status};
use crate::core::controller::Controller;
use crate::core::event::{NodeNames, tell};
use crate::core::facts::{Facts, PeerLook};
use crate::core::ids::NodeId;
use crate::core::time::MonoTime;
use crate::io::disk::{Report, Writer};
use crate::io::journal::EventSink;
use crate::io::link::{Link, LinkEvent, LinkEvents};
use crate::io::looks::Look;
use crate::io::memory::Shared;
use crate::io::pacer::{Pacer, PacerCommand};
use crate::io::paths::Announced;
use crate::keys::FenceSigner;
use clocks::Clocks;
use heartbeat_common::fence;
use heartbeat_common::frame::{FLAG_MEMBER, FLAG_QUORATE, STANDING_GATED, STANDING_VOTES, STANDING_WAITS};
use heartbeat_common::lease::{self, Words, word};
use heartbeat_common::view::{Name, Order};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

/// Messages taken in a round: those that are left come in the next one, which follows at once.
const MESSAGES_MAX: usize = 64;

/// What the hands are made of.
pub struct HandsSetup {
    /// The core, new or resumed.
    pub agreement: Agreement,
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
    /// Whatever this node runs asks the page before it acts.
    pub gated: bool,
}

/// What the keeper's thread is to do for the agreement.
pub enum Errand {
    /// Say this in every frame, then report [`Hands::announced`].
    Announce(Announced, Order),
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
    said: Option<(Announced, Order)>,
    unannounced: bool,
    /// More messages wait.
    behind: bool,
    flags: u8,
}

impl Hands {
    /// Takes the core up and carries out what it wants before the first message.
    #[must_use]
    pub fn new(setup: HandsSetup) -> Self {
        let mut hands = Self {
            setup,
            facts: Facts::default(),
            clocks: Clocks::default(),
            asked: BTreeMap::new(),
            requests: 0,
            nonce: 0,
            errands: Vec::new(),
            said: None,
            unannounced: false,
            behind: false,
            flags: 0,
        };
        hands.carry_out_all();
        hands
    }

    /// One round, after the controller judged the same `looks` at `now`. `late`: it began so late that what was seen
    /// before says nothing about now.
    pub fn round(&mut self, now: MonoTime, late: bool, controller: &Controller, looks: &[Look]) {
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
        if std::mem::take(&mut self.unannounced)
            && let Some((announced, view)) = self.said.clone()
        {
            self.errands.push(Errand::Announce(announced, view));
        }
        self.look(now, controller, looks);
        self.listen();
        self.read_page();
        self.handle(Input::Tick);
    }

    /// Returns when the next round is due at the latest.
    #[must_use]
    pub fn due(&self) -> Option<MonoTime> {
        if self.behind { Some(MonoTime::ZERO) } else { self.setup.agreement.poll_timeout() }
    }

    /// Takes what the keeper is to do.
    pub fn errands(&mut self) -> Vec<Errand> {
        std::mem::take(&mut self.errands)
    }

    /// Takes in how a write ended.
    pub fn wrote(&mut self, report: Report) {
        match report {
            Report::Written { sequence, .. } => {
                self.page().raise(word::DISK_SEQUENCE, sequence);
                self.handle(Input::Written(sequence));
            }
            Report::Failed { step, errno, .. } => {
                let error = std::io::Error::from_raw_os_error(errno);
                log::error!("the agreement's file: {step:?}: {error}");
                self.handle(Input::WriteFailed);
            }
        }
    }

    /// Takes in that every frame says what belongs to this view, or that it could not be brought to.
    pub fn announced(&mut self, view: Order, done: bool) {
        if done {
            self.handle(Input::StandingDone(view));
        } else {
            self.unannounced = true;
        }
    }

    /// Asks the core for something. `answer` gets what becomes of it.
    pub fn request(&mut self, request: Request, answer: SyncSender<Outcome>) {
        self.requests += 1;
        self.asked.insert(self.requests, answer);
        self.handle(Input::Request(self.requests, request));
    }

    /// Says how the agreement stands.
    #[must_use]
    pub fn status(&self) -> Status {
        self.setup.agreement.status()
    }

    fn page(&self) -> &crate::io::page::Page {
        self.setup.shared.page()
    }

    fn own(&self) -> Member {
        self.setup.agreement.setup().own
    }

    fn handle(&mut self, input: Input) {
        let now = self.clocks.times();
        self.setup.agreement.handle(input, now);
        self.carry_out_all();
    }

    fn carry_out_all(&mut self) {
        while let Some(command) = self.setup.agreement.poll_command() {
            self.carry_out(command);
        }
        while let Some(event) = self.setup.agreement.poll_event() {
            self.setup.sink.now(tell(event, &self.setup.names).into());
        }
    }

    fn look(&mut self, now: MonoTime, controller: &Controller, looks: &[Look]) {
        let mut facts = Vec::new();
        for (id, node) in controller.nodes() {
            let paths = || controller.paths().filter(move |(_, spec, _)| spec.node == id);
            let detection = paths().map(|(_, _, path)| path.rule().detection_time()).max().unwrap_or(Duration::ZERO);
            let ticks: Vec<_> = paths().filter_map(|(path, ..)| looks.get(path.index())).map(Look::tick).collect();
            let fact = self.facts.of(now, PeerLook { id, node, detection }, &ticks);
            if fact.incarnation != 0 {
                // A link that is too far behind learns of it in the next round.
                let _ = self.setup.link.0.heard(id, fact.incarnation);
            }
            facts.push(fact);
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
                LinkEvent::Connected(node, incarnation) => self.handle(Input::Connected(Member { node, incarnation })),
                LinkEvent::Lost(node) => self.handle(Input::Lost(node)),
                // The kernel's stale echoes say the same, and the controller takes a newer one by them.
                LinkEvent::Outrun(node, newest) => log::debug!("node {node} knows incarnation {newest} of this node"),
                LinkEvent::Refused(node, fault) => log::warn!("messages with node {node}: {fault}"),
            }
        }
    }

    fn read_page(&mut self) {
        let page = self.page();
        let acting = lease::acting(page, self.clocks.times().boot_ns);
        let view = PageView { acting, fenced: page.get(word::FENCED), fenced_by: None };
        let quorate = if acting.is_ok() { FLAG_QUORATE } else { 0 };
        self.set_flags(self.flags & !FLAG_QUORATE | quorate);
        self.handle(Input::Page(view));
    }

    fn set_flags(&mut self, flags: u8) {
        if flags != self.flags {
            self.setup.shared.change_flags(self.flags & !flags, flags & !self.flags);
            self.flags = flags;
        }
    }

    fn carry_out(&mut self, command: Command) {
        match command {
            // One that cannot be had by the link is lost, as on the wire: what matters is said again.
            Command::Send(to, message) => drop(self.setup.link.0.send(to, *message)),
            Command::Write(state) => self.setup.disk.write(state),
            Command::ClearGrants(mark) => self.clear_grants(mark),
            Command::Install(bank) => {
                let times = self.clocks.times();
                page::install(self.setup.shared.page(), &bank, &self.setup.slots, times);
                let instance = self.setup.agreement.status().view.map(|view| view.instance);
                if let Some(instance) = instance {
                    let _ = self.setup.link.0.set_instance(instance);
                }
            }
            Command::SetGranting(mark) => drop(lease::grant(self.page(), mark)),
            Command::InForce(order) => self.page().raise(word::IN_FORCE, order.0),
            Command::Hold(bits) => self.page().set(word::HOLD, bits),
            Command::Standing(standing) => self.announce(&standing),
            Command::Burst => {
                let all = (0..self.setup.shared.paths()).collect();
                self.setup.pacer.tell(PacerCommand::Burst(all));
            }
            Command::Fence(victim, view) => self.fence(victim, view),
            // What runs here is held by the page: see `docs/quorum.md`.
            Command::StopServices => self.handle(Input::ServicesStopped),
            Command::Answer(number, outcome) => {
                if let Some(asker) = self.asked.remove(&number) {
                    // Who has gone away meanwhile misses nothing.
                    let _ = asker.try_send(outcome);
                }
            }
            Command::Exit(ending) => self.errands.push(Errand::End(ending)),
        }
    }

    fn clear_grants(&self, mark: u64) {
        let page = self.page();
        page.clear_grants(crate::io::clock::now().0);
        // Also where none was given yet: none is to be given later.
        page.set(word::CLEARED, mark);
    }

    fn announce(&mut self, standing: &Standing) {
        self.set_flags(self.flags & !FLAG_MEMBER | if standing.member { FLAG_MEMBER } else { 0 });
        let of = |set: bool, flag: u16| if set { flag } else { 0 };
        let flags = of(standing.votes, STANDING_VOTES)
            | of(!standing.member, STANDING_WAITS)
            | of(self.setup.gated, STANDING_GATED);
        let announced = Announced {
            order: standing.view.order.0,
            digest: standing.view.digest[0],
            mark: standing.mark,
            flags,
            grants: standing.grants.iter().map(|(node, grant)| (node.0, *grant)).collect(),
        };
        self.said = Some((announced.clone(), standing.view.order));
        self.errands.push(Errand::Announce(announced, standing.view.order));
    }

    fn fence(&mut self, victim: Member, view: Name) {
        self.nonce += 1;
        let order = fence::Order {
            sender: self.own().incarnation,
            victim: victim.incarnation,
            view,
            nonce: self.clocks.times().boot_ns.wrapping_add(self.nonce),
            reason: fence::Reason::Silent,
        };
        let paths = self.setup.fences.iter().enumerate().filter(|(_, (node, _))| *node == victim.node);
        let frames = paths.map(|(path, (_, signer))| (path as u32, signer.fence(&order))).collect();
        // Sent again after a delay, until it is acknowledged.
        let _ = self.setup.pacer.send_frames(frames);
    }

    /// Returns this node's times.
    #[must_use]
    pub fn times(&self) -> Times {
        self.clocks.times()
    }
}

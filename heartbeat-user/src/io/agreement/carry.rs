//! Carries out what the core commands, each in its turn: messages, the disk, the page, the frames, what runs here. It decides
//! nothing, and does nothing twice.

use super::{Errand, Hands, page};
use crate::core::agreement::document::Member;
use crate::core::agreement::types::{Command, Standing};
use crate::io::pacer::PacerCommand;
use crate::io::paths::Announced;
use heartbeat_common::fence;
use heartbeat_common::frame::{FLAG_LEAVING, FLAG_MEMBER, STANDING_GATED, STANDING_VOTES, STANDING_WAITS};
use heartbeat_common::lease::{self, Refused, Token, Words as _, bank, hold, word};
use heartbeat_common::view::Name;

/// For so long a page that no kernel keeps lives from a round to the next, where no view says it.
const LIFE_NS: u64 = 1_000_000_000;

impl Hands {
    /// Gives a page that no kernel keeps another lease of life: it goes when this process does.
    pub(super) fn keep_alive(&self) {
        let page = self.page();
        if page.in_kernel() {
            return;
        }
        let act = page.get(lease::active_bank(page) + bank::ACT_NS);
        let life = if act == 0 { LIFE_NS } else { act };
        page.set(word::LIVES_UNTIL, self.clocks.times().boot_ns.saturating_add(life));
    }

    /// Feeds the watchdog device by what the page said just now. A fault is logged when it changes. Where the keeper's thread
    /// has the device, the next round does it.
    pub(super) fn feed(&mut self, acting: Result<Token, Refused>) {
        let Some(fed) = self.setup.feeder.as_ref().and_then(|feeder| feeder.handle(acting)) else { return };
        let fault = fed.err().map(|error| format!("{error:#}"));
        if fault != self.device_fault {
            if let Some(fault) = &fault {
                log::error!("{fault}");
            }
            self.device_fault = fault;
        }
    }

    pub(super) fn set_flags(&mut self, flags: u8) {
        if flags != self.flags {
            self.setup.shared.change_flags(self.flags & !flags, flags & !self.flags);
            self.flags = flags;
        }
    }

    pub(super) fn carry_out(&mut self, command: Command) {
        match command {
            // One that cannot be had by the link is lost, as on the wire: what matters is said again.
            Command::Send(to, message) => drop(self.setup.link.0.send(to, *message)),
            Command::Write(state) => {
                lease::remember_vote(self.page(), state.vote);
                self.written.begin(state.clone());
                self.setup.disk.write(state);
            }
            Command::ClearGrants(mark) => self.clear_grants(mark),
            Command::Install(bank) => {
                let times = self.clocks.times();
                page::install(self.setup.shared.page(), &bank, &self.setup.slots, times);
                self.keep_alive();
                self.setup.stopper.stop_time_is((bank.lease.saturating_sub(bank.act)).as_millis() as u32);
                let instance = self.setup.agreement.status().view.map(|view| view.instance);
                if let Some(instance) = instance {
                    let _ = self.setup.link.0.set_instance(instance);
                }
            }
            Command::SetGranting(mark) => drop(lease::grant(self.page(), mark)),
            Command::InForce(order) => self.page().raise(word::IN_FORCE, order.0),
            Command::Hold(bits) => {
                self.page().set(word::HOLD, bits);
                // Every echo says so from now on, to those too whom no message reaches.
                let leaving = if bits & hold::LEAVING != 0 { FLAG_LEAVING } else { 0 };
                self.set_flags(self.flags & !FLAG_LEAVING | leaving);
            }
            Command::Standing(standing) => self.announce(&standing),
            Command::Burst => {
                let all = (0..self.setup.shared.paths()).collect();
                self.setup.pacer.tell(PacerCommand::Burst(all));
            }
            Command::Fence(victim, view) => self.fence(victim, view),
            // What runs here sees it by the page: see `docs/quorum.md`.
            Command::StopServices => self.setup.stopper.begin(),
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
        self.said = Some(standing.clone());
        self.announce_again();
    }

    /// Has every frame say what it should, where it does not or where the claim of this node has changed.
    pub(super) fn announce_again(&mut self) {
        let Some(standing) = &self.said else { return };
        let announced = announced(standing, self.claim.is_made());
        let number = self.claim.hand_out(announced.flags);
        self.errands.push(Errand::Announce(announced, standing.view.order, number));
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
}

/// Returns what every frame is to say of a view. `gated`: whatever this node runs asks its page before each act.
pub(super) fn announced(standing: &Standing, gated: bool) -> Announced {
    let of = |set: bool, flag: u16| if set { flag } else { 0 };
    let flags = of(standing.votes, STANDING_VOTES)
        | of(!standing.member, STANDING_WAITS)
        | of(gated && standing.stops_at_once, STANDING_GATED);
    Announced {
        order: standing.view.order.0,
        digest: standing.view.digest[0],
        mark: standing.mark,
        flags,
        grants: standing.grants.iter().map(|(node, grant)| (node.0, *grant)).collect(),
    }
}

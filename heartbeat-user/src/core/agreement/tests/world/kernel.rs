//! What the kernels of the cluster in memory do by themselves: they hear each other, give grants and date them, and obey
//! fences. No controller need run for that.

use super::{DETECTION, World, ms};
use crate::core::agreement::document::Member;
use crate::core::agreement::message::Health;
use crate::core::agreement::types::{Bank, PeerFacts, Standing};
use crate::core::ids::NodeId;
use heartbeat_common::lease::{Refused, Token};
use heartbeat_common::view::Order;
use std::collections::BTreeMap;
use std::time::Duration;

/// What a node's kernel goes on with while its controller does not run.
#[derive(Clone, Debug, Default)]
pub struct Kernel {
    pub up: bool,
    pub granting: u64,
    pub standing: Option<Standing>,
    pub bank: Option<Bank>,
    pub dates: BTreeMap<u16, u64>,
    pub own_date: u64,
    pub carry_until: u64,
    pub in_force: Order,
    pub cleared: u64,
    pub hold: u64,
    pub fenced: u64,
    pub stopped: bool,
    /// Its node's service manager gave up starting a controller.
    pub given_up: bool,
}

impl Kernel {
    pub fn lease_until(&self) -> u64 {
        let Some(bank) = &self.bank else { return 0 };
        let act = bank.act.as_millis() as u64;
        let mut dates: Vec<(u64, u32)> = bank
            .slots
            .iter()
            .map(|slot| (self.dates.get(&slot.node.0).map_or(0, |date| date + act), u32::from(slot.weight)))
            .collect();
        let own = if bank.own_mark != 0 && self.granting == bank.own_mark { u64::MAX } else { self.own_date + act };
        dates.push((if bank.own_mark == 0 || own == act { 0 } else { own }, u32::from(bank.own_weight)));
        dates.sort_unstable_by(|one, next| next.cmp(one));
        let mut sum = 0;
        for (until, weight) in dates {
            sum += weight;
            if sum * 2 > bank.total_weight {
                return until.max(self.carry_until);
            }
        }
        self.carry_until
    }

    pub fn acting(&self, incarnation: u64, now: u64) -> Result<Token, Refused> {
        match &self.bank {
            _ if !self.up || self.stopped || self.given_up => Err(Refused::Nobody),
            _ if self.fenced >= incarnation => Err(Refused::Fenced),
            _ if self.hold != 0 => Err(Refused::Held(self.hold)),
            Some(bank) if bank.member && self.in_force == Order::NONE => Err(Refused::NotInForce),
            Some(bank) if bank.member && now < self.lease_until() => Ok(Token { order: self.in_force.0, incarnation }),
            Some(bank) if bank.member => Err(Refused::Expired),
            Some(_) | None => Err(Refused::NoMember),
        }
    }
}

/// What a kernel knows of a peer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    pub incarnation: u64,
    pub since: u64,
    pub heard: u64,
    pub both_since: Option<u64>,
    pub older: u64,
    pub acked: u64,
    /// The newest probe of it that was accepted, and the newest that it answered.
    pub accepted: u64,
    pub answered: u64,
}

impl World {
    /// A node's controller dies, and its service manager gives up starting another one. `stopped`: all that it ran has
    /// stopped, and its kernel says so.
    pub fn give_up(&mut self, node: u16, stopped: bool) {
        self.kill_controller(node);
        let kernel = &mut self.nodes.get_mut(&node).unwrap().kernel;
        (kernel.given_up, kernel.stopped) = (true, stopped);
    }

    pub(super) fn hears(&self, a: u16, b: u16) -> bool {
        self.nodes[&a].kernel.up && self.nodes[&b].kernel.up && !self.deaf.contains(&(b, a))
    }

    /// What kernels see of each other, and the grants that they date.
    pub(super) fn exchange(&mut self) {
        let nodes: Vec<u16> = self.nodes.keys().copied().collect();
        for a in &nodes {
            for b in nodes.iter().filter(|b| *b != a) {
                if !self.hears(*a, *b) {
                    self.nodes.get_mut(a).unwrap().seen.entry(*b).or_default().both_since = None;
                    continue;
                }
                let (both, now) = (self.hears(*b, *a), self.now);
                let grant = if both { self.grant(*b, *a) } else { 0 };
                let (incarnation, tried) = (self.nodes[b].incarnation, self.nodes[b].tried);
                let this = self.nodes.get_mut(a).unwrap();
                let (answered_from, own) = (this.answered_from, this.tried);
                let seen = this.seen.entry(*b).or_default();
                if incarnation > seen.incarnation {
                    *seen = Seen { incarnation, since: now, acked: seen.acked, ..Seen::default() };
                }
                seen.heard = now;
                seen.accepted = seen.accepted.max(tried);
                seen.answered = seen.answered.max(if both { own } else { 0 });
                let asked = (now >= answered_from).then_some(now);
                seen.both_since = if both { seen.both_since.or(asked) } else { None };
                let slots = this.kernel.bank.iter().flat_map(|bank| &bank.slots);
                let expected = slots.filter(|slot| slot.node.0 == *b).map(|slot| slot.expected).next();
                if grant != 0 && expected == Some(grant) {
                    this.kernel.dates.insert(*b, now);
                }
            }
        }
    }

    fn grant(&self, of: u16, to: u16) -> u64 {
        let kernel = &self.nodes[&of].kernel;
        let Some(standing) = &kernel.standing else { return 0 };
        let goes =
            standing.mark != 0 && standing.mark == kernel.granting && kernel.fenced < self.nodes[&of].incarnation;
        let word = standing.grants.iter().find(|(node, _)| node.0 == to).map_or(0, |(_, word)| *word);
        if goes { word } else { 0 }
    }

    pub fn facts(&self, node: u16) -> Vec<PeerFacts> {
        let this = &self.nodes[&node];
        let fact = |(peer, seen): (&u16, &Seen)| {
            let other = &self.nodes[peer];
            let silent = self.now - seen.heard.max(1_000);
            let stalled = other.stalled_since.map_or(0, |since| self.now - since);
            let health = match () {
                () if seen.heard == 0 && silent < DETECTION => Health::Unknown,
                () if silent >= DETECTION => Health::Down,
                () if other.kernel.given_up => Health::GaveUp,
                () if other.kernel.stopped => Health::Left,
                () if stalled > 10_000 => Health::Hung,
                () if stalled > self.stall_limit => Health::Stalled,
                () => Health::Up,
            };
            PeerFacts {
                node: NodeId(*peer),
                incarnation: seen.incarnation,
                incarnation_since: ms(seen.since),
                older_heard: ms(seen.older),
                health,
                heard: ms(seen.heard),
                both_ways_since: seen.both_since.map(ms),
                controller_age: Some(Duration::from_millis(stalled)),
                generation: other.generation,
                stopped: other.kernel.stopped && self.hears(node, *peer),
                fence_acked: seen.acked,
                gated: self.gated,
                quorate: self.hears(node, *peer) && self.acting(*peer).is_ok(),
                accepted: seen.accepted,
                answered: seen.answered,
                tried: this.tried,
            }
        };
        this.seen.iter().map(fact).collect()
    }

    pub(super) fn fence(&mut self, from: u16, victim: Member, order: Order) {
        if self.no_fences || !self.hears(victim.node.0, from) || !self.hears(from, victim.node.0) {
            return;
        }
        let there = self.nodes.get_mut(&victim.node.0).unwrap();
        let newer = there
            .kernel
            .bank
            .as_ref()
            .is_none_or(|bank| order > bank.view.order || !bank.member && order.force() == bank.view.order.force());
        if there.incarnation == victim.incarnation && newer {
            there.kernel.fenced = victim.incarnation;
            there.kernel.granting = 0;
        }
        if there.kernel.fenced >= victim.incarnation {
            let seen = self.nodes.get_mut(&from).unwrap().seen.entry(victim.node.0).or_default();
            seen.acked = seen.acked.max(victim.incarnation);
        }
    }
}

//! What a node's kernel goes on with while its controller does not run: the page in short, with times in quanta. It
//! holds and judges; it decides nothing.

use heartbeat_common::lease::Refused;
use heartbeat_common::view::{Name, Order};
use heartbeat_user::core::agreement::types::{Bank, Standing};

/// Most nodes of a model.
pub const NODES: usize = 4;
/// The unit of time, ms. Whatever takes up to [`LEASE_MS`] is over one quantum after it began, and not before.
pub const QUANTUM_MS: u64 = 600;
/// The lease.
pub const LEASE_MS: u64 = 500;

/// Dates, in quanta, of the grants that a node's kernel has of each other vote; 0: none.
pub type Dates = [u8; NODES];

/// The page and the standing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Kernel {
    /// The machine runs.
    pub up: bool,
    /// Mark of the grants that go out.
    pub granting: u64,
    /// Mark that every path's standing is of, and its grants, by node.
    pub mark: u64,
    /// See `mark`.
    pub grants: [u64; NODES],
    /// The view of the active bank.
    pub view: Name,
    /// The incarnation is a member of it.
    pub member: bool,
    /// The grants expected in it, and weights, by node.
    pub expected: [u64; NODES],
    /// See `expected`.
    pub weights: [u8; NODES],
    /// The own vote's.
    pub own_mark: u64,
    /// See `own_mark`.
    pub own_weight: u8,
    /// All weights.
    pub total: u32,
    /// Quantum of the own clear in this bank; 0: none.
    pub own_date: u8,
    /// First quantum in which the lease of the bank before is over.
    pub carry_until: u8,
    /// The token's view.
    pub in_force: Order,
    /// Mark of the last view whose grants were cleared.
    pub cleared: u64,
    /// Reasons not to act.
    pub hold: u64,
    /// Highest incarnation fenced.
    pub fenced: u64,
    /// It said that it has stopped for good.
    pub stopped: bool,
}

/// First quantum in which a date counts no more.
fn end(date: u8) -> u8 {
    (u64::from(date) * QUANTUM_MS + LEASE_MS).div_ceil(QUANTUM_MS) as u8
}

impl Kernel {
    /// First quantum in which the lease is over, if nothing more comes; `u8::MAX`: it has no end.
    fn until(&self, dates: &Dates) -> u8 {
        let mut ends: Vec<(u8, u32)> = (0..NODES)
            .filter(|&node| dates[node] != 0)
            .map(|node| (end(dates[node]), u32::from(self.weights[node])))
            .collect();
        if self.own_mark != 0 && self.granting == self.own_mark {
            ends.push((u8::MAX, u32::from(self.own_weight)));
        } else if self.own_mark != 0 && self.own_date != 0 {
            ends.push((end(self.own_date), u32::from(self.own_weight)));
        }
        ends.sort_unstable_by(|one, next| next.cmp(one));
        let mut sum = 0;
        for (until, weight) in ends {
            sum += weight;
            if sum * 2 > self.total {
                return until;
            }
        }
        0
    }

    /// Judges as `lease::acting` does; the order is that of the token.
    pub fn acting(&self, incarnation: u64, dates: &Dates, now: u8) -> Result<Order, Refused> {
        if !self.up || self.stopped {
            Err(Refused::Nobody)
        } else if self.fenced >= incarnation {
            Err(Refused::Fenced)
        } else if self.hold != 0 {
            Err(Refused::Held(self.hold))
        } else if !self.member {
            Err(Refused::NoMember)
        } else if self.in_force == Order::NONE {
            Err(Refused::NotInForce)
        } else if now < self.carry_until || now < self.until(dates) {
            Ok(self.in_force)
        } else {
            Err(Refused::Expired)
        }
    }

    /// Makes a bank the active one, as `io::agreement::page::install` does. Its own dates begin empty.
    pub fn install(&mut self, bank: &Bank, dates: &Dates, now: u8) {
        let until = self.carry_until.max(self.until(dates)).min(end(now));
        self.carry_until = if bank.carry && self.member { until } else { 0 };
        (self.view, self.member) = (bank.view, bank.member);
        (self.expected, self.weights) = ([0; NODES], [0; NODES]);
        for slot in &bank.slots {
            let place = index(slot.node.0);
            (self.expected[place], self.weights[place]) = (slot.expected, slot.weight);
        }
        (self.own_mark, self.own_weight, self.own_date) = (bank.own_mark, bank.own_weight, 0);
        self.total = bank.total_weight;
    }

    /// Says from now on what the standing says.
    pub fn say(&mut self, standing: &Standing) {
        self.mark = standing.mark;
        self.grants = [0; NODES];
        for (node, word) in &standing.grants {
            self.grants[index(node.0)] = *word;
        }
    }

    /// Clears the own grants.
    pub fn clear(&mut self, mark: u64, now: u8) {
        if self.granting != 0 && self.granting == self.own_mark {
            self.own_date = now;
        }
        (self.granting, self.cleared) = (0, mark);
    }

    /// Returns the grant that goes out to a node now; 0: none.
    pub fn grant_to(&self, incarnation: u64, node: usize) -> u64 {
        let goes = self.up && self.mark != 0 && self.mark == self.granting && self.fenced < incarnation;
        if goes { self.grants[node] } else { 0 }
    }

    /// Obeys a fence as the kernel's program does. Returns whether it is acknowledged.
    pub fn fence(&mut self, own: u64, victim: u64, order: Order) -> bool {
        let outranked = order.force() < self.view.order.force();
        if own == victim && !outranked && (!self.member || order > self.view.order) {
            self.fenced = self.fenced.max(victim);
            self.granting = 0;
        }
        own > victim || self.fenced >= victim
    }
}

/// The place of a node, whose numbers begin at 1.
pub fn index(node: u16) -> usize {
    usize::from(node) - 1
}

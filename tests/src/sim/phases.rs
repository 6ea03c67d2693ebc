//! The phases of a world: faults, and safety alone; then, in some, none among a majority that is healed first; then none,
//! until there is one view and everybody acts; then, in the healthy cluster, one trial, and the same once more.

use super::clock::{MS, SECOND};
use super::ghost::{Violation, broken};
use super::heap::Event;
use super::plan::{self, Plan};
use super::rules::Rule;
use super::stats::Count;
use super::world::{START, World};
use heartbeat_common::lease;
use heartbeat_user::core::agreement::document::Document;
use heartbeat_user::core::agreement::types::Request;
use heartbeat_user::core::agreement::voter::State;

/// How often it is looked whether a world has settled.
pub(super) const LOOK: u64 = 250 * MS;
/// For how long a cluster that has settled is left alone.
pub(super) const CALM: u64 = SECOND;
/// What is left of a fault after its end: frames on their way, and a thread that stopped while it signed.
pub(super) const REST: u64 = 2 * SECOND;
/// Longest time between two orders to create the cluster, until it is.
const INIT_AGAIN: u64 = 500 * MS;
/// How often the operator asks for a quarantine to be over.
const CLEAR_AGAIN: u64 = 2 * SECOND;
/// So many of these orders are taken for causes.
const CLEARS_MAX: u32 = 4;

/// Plays a world, and returns it as it was at the end or at the first violation.
#[must_use]
pub fn play(plan: &Plan, trace: bool) -> World {
    let mut world = World::new(plan.clone());
    world.trace = trace;
    world.stats.add(Count::Worlds);
    world.begin();
    world.heap.at(START + SECOND, Event::Script(0));
    world.run_until(START + plan.safety_ns);
    if plan.core {
        world.core_settles();
    }
    if world.settles() && plan.trial {
        world.tried();
        world.settles();
    }
    if world.ghost.void {
        // Nothing is promised; it must not fall all the same.
        world.heal();
        world.run_until(world.now + 2 * REST);
    }
    world.stats.simulated_ns = world.now - START;
    world.stats.judged.merge(&world.ghost.judged.clone());
    for _ in 0..world.ghost.views().count() {
        world.stats.add(Count::Decided);
    }
    for _ in 0..world.ghost.forced {
        world.stats.add(Count::Forced);
    }
    world
}

impl World {
    /// Ends all faults, and plays until there is one view and everybody acts, and a little beyond. Says whether it came to
    /// that: not where a property broke before, or where more disks are lost than any cluster outlives.
    pub fn settles(&mut self) -> bool {
        if self.violation.is_some() || self.ghost.void {
            return false;
        }
        self.heal();
        // What a fault that is over can still bring is no fault of those who come back.
        self.run_until(self.now + REST);
        self.last_fault = self.now;
        loop {
            // Whoever was asked to leave, and did so only now, comes back like all others.
            self.bring_back(self.everybody());
            let found = self.settled();
            let over = self.now >= self.last_fault + self.converges_within();
            match found {
                Ok(()) => break,
                Err(_) if self.violation.is_some() || self.ghost.void => return false,
                Err(_) if !over => {}
                Err(_) if self.is_lost() => {
                    self.stats.add(Count::Unrecoverable);
                    return false;
                }
                Err(fault) => {
                    self.ghost.judged.add(Rule::L4);
                    self.check(broken("L4", fault));
                    return false;
                }
            }
            self.run_until(self.now + LOOK);
        }
        self.ghost.judged.add(Rule::L4);
        self.stats.settled_within(self.now - self.last_fault);
        let order = self.ghost.newest;
        self.run_until(self.now + CALM);
        if self.violation.is_none() {
            let calm = if self.ghost.newest == order { self.settled() } else { Err("it is followed".to_owned()) };
            let calm: Result<(), Violation> =
                calm.or_else(|fault| broken("L4", format!("{order:?} was reached, and then: {fault}")));
            self.check(calm);
        }
        self.stats.add(Count::Settled);
        self.violation.is_none()
    }

    fn is_lost(&self) -> bool {
        self.ghost.newest.is_view() && (!self.recoverable_without(None) || self.newest_is_forgotten())
    }

    /// Says whether no disk has the newest view any more, neither installed nor accepted: those that had it are of an
    /// earlier time now.
    fn newest_is_forgotten(&self) -> bool {
        let newest = self.ghost.newest;
        let has = |state: &State| {
            state.installed.order >= newest || state.accepted.as_ref().is_some_and(|value| value.order >= newest)
        };
        self.ghost.forgets() && !self.nodes.iter().any(|node| node.disk.agreement.as_deref().is_some_and(has))
    }

    pub(super) fn newest_document(&self) -> Option<&Document> {
        self.ghost.view(self.ghost.newest).map(|view| &view.document)
    }

    /// Returns all nodes, a bit for each.
    pub(super) const fn everybody(&self) -> u64 {
        (1 << self.plan.nodes) - 1
    }

    /// Starts which of some nodes, a bit for each, left after the last fault, and has the operator end their quarantines.
    pub(super) fn bring_back(&mut self, nodes: u64) {
        let is_meant = |place: &usize| nodes >> place & 1 == 1;
        for place in (0..self.nodes.len()).filter(is_meant) {
            if self.nodes[place].stays_down && self.nodes[place].process.is_none() {
                self.nodes[place].stays_down = false;
                let life = self.nodes[place].life;
                self.heap.at(self.now + 100 * MS, Event::Start(place as u8, life));
                self.last_fault = self.now;
            }
        }
        let Some(view) = self.newest_document() else { return };
        let quarantined = view.quarantined.iter().map(|one| one.node).filter(|node| is_meant(&plan::place(*node)));
        let quarantined: Vec<_> = quarantined.collect();
        if quarantined.is_empty() || self.now < self.cleared_at + CLEAR_AGAIN {
            return;
        }
        if let Some(by) = (0..self.nodes.len()).find(|place| self.acting(*place).is_some()) {
            self.cleared_at = self.now;
            for node in quarantined {
                self.request(by, Request::ClearQuarantine(node));
            }
            // The operator is the last cause here: but whoever has to be asked for again and again is late.
            self.clears += 1;
            if self.clears <= CLEARS_MAX {
                self.last_fault = self.now;
            }
        }
    }

    /// The time D of a regroup without anything that has to be waited for: the detection time, a delay of phase, and two
    /// delays and 200 ms to agree.
    #[must_use]
    pub fn d(&self) -> u64 {
        self.plan.detection_ns() + 3 * self.plan.delay_ns() + 200 * MS
    }

    /// The longest lease that may still run anywhere, with drift, ns.
    #[must_use]
    pub fn longest_lease(&self) -> u64 {
        let plan = u64::from(self.plan.lease_ms) * MS;
        let view = self.newest_document().map_or(0, |view| view.lease.surely_over().as_nanos() as u64);
        view.max(plan + plan / 1000)
    }

    /// Returns how long a cluster without faults may take until all are members and act: three times D, and whatever has to
    /// be waited for by the rules: the longest lease of those who were left out last, and the back-off of those who ended
    /// badly before.
    #[must_use]
    pub fn converges_within(&self) -> u64 {
        3 * self.d() + self.longest_lease() + self.back_off()
    }

    /// The longest time that any daemon waits before it asks to join.
    fn back_off(&self) -> u64 {
        let ends = self.nodes.iter().map(|node| node.ends.len().min(2)).max().unwrap_or(0);
        if ends == 0 { 0 } else { SECOND << ends }
    }

    /// Says whether a node's settings are not those of the cluster, so that no view lets it in. They are those of who
    /// created it, and after a forced start of who went on alone: be that the odd one, the others are the strangers.
    #[must_use]
    pub fn is_stranger(&self, place: usize) -> bool {
        let founder = self.plan.odd_settings.and_then(|_| self.ghost.founder());
        let founder = founder.map_or(0, |founder| plan::place(founder.node));
        self.plan.settings_of(place) != self.plan.settings_of(founder)
    }

    /// "After the heal one view, all healthy nodes members and acting."
    ///
    /// # Errors
    /// What is missing yet.
    pub fn settled(&self) -> Result<(), String> {
        self.settled_among(self.everybody())
    }

    /// The same of some nodes, a bit for each: "all of them members and acting".
    pub(super) fn settled_among(&self, nodes: u64) -> Result<(), String> {
        let newest = self.ghost.newest;
        let is_meant = |place: &usize| nodes >> place & 1 == 1 && !self.is_stranger(*place);
        for place in (0..self.nodes.len()).filter(is_meant) {
            let name = plan::name(place);
            let node = &self.nodes[place];
            let installed = node.disk.agreement.as_ref().map(|state| state.installed.order);
            let own = self.member(place);
            let is_member = own.is_some_and(|own| self.ghost.has_member(newest, own) == Some(true));
            if own.is_none() {
                return Err(format!("{name} does not run"));
            } else if installed != Some(newest) {
                return Err(format!("{name} holds {installed:?}, and {newest:?} was decided"));
            } else if !is_member {
                return Err(format!("{name} is no member of {newest:?}"));
            } else if let Err(why) = lease::acting(&node.kernel.page, node.clock.boot(self.now)) {
                return Err(format!("{name} does not act in {newest:?}: {why:?}"));
            }
        }
        Ok(())
    }

    /// The operator creates the cluster, once: on the first node, again only while nothing came of it.
    pub fn create(&mut self) {
        if self.ghost.newest.is_view() {
            return;
        }
        let instance = [self.random.word(), self.random.word()];
        self.request(0, Request::Init { instance });
        self.heap.at(self.now + INIT_AGAIN, Event::Script(0));
    }
}

//! Who says when a probe has left: the egress program of each interface, or the error queue of its sockets where the
//! program cannot be had. It notices that the program was taken off, or that frames do not come to it; it judges no
//! departure.

use super::{DETACH_PATIENCE_NS, Fabric};
use crate::core::event::{EventBody, Program};
use crate::io::egress::Egress;
use crate::io::memory::Shared;
use crate::io::nic::Nic;
use crate::io::pacer::PacerCommand;
use crate::io::{clock, sys};

/// Time until a program that was refused is tried again.
const REFUSED_PATIENCE_NS: u64 = 10_000_000_000;
/// What tells departures where no program does.
const INSTEAD: &str = "departures are taken from transmit timestamps";
/// So many probes sent and answered since the last look, none of them stamped: frames do not come to the program.
const BLIND: u64 = 2;

/// How the program was lost.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Loss {
    /// Somebody took it off.
    Detached,
    /// Another program before it takes the frames, and lets none come to it.
    Blind,
}

/// Probes of one path: (sent, stamped by the program, answered).
type Counts = (u64, u64, u64);

/// What was counted of each path at the last look.
#[derive(Debug, Default)]
pub(super) struct Stamps {
    at_ns: u64,
    counts: Vec<Counts>,
}

impl Fabric {
    /// Puts the egress program on an interface that is brought up. Where it cannot be had, the sockets report.
    pub(super) fn stamp_departures(&mut self, nic: &mut Nic) {
        let Some(object) = &mut self.object else { return };
        match Egress::attach(object, &nic.view.name, nic.ifindex) {
            Ok(egress) => {
                nic.egress = Some(egress);
                nic.view.unstamped = None;
            }
            Err(error) => {
                nic.view.unstamped = Some(format!("{error:#}: {INSTEAD}"));
                nic.egress_retry_ns = clock::now().0 + REFUSED_PATIENCE_NS;
            }
        }
    }

    /// Says that no program stamps departures on an interface, if none does.
    pub(super) fn tell_unstamped(&self, nic: &Nic) {
        if let Some(reason) = &nic.view.unstamped {
            let (interface, reason) = (nic.view.name.clone(), reason.clone());
            self.sink.now(EventBody::DeparturesUnstamped { interface, reason });
        }
    }

    /// Attaches the program again, before all others, wherever somebody took it off or keeps frames from it. Where that
    /// happens twice within a minute somebody means it: the sockets report departures until a minute has passed.
    pub(super) fn check_departures(&mut self, shared: &Shared) {
        let now = clock::now().0;
        let blind = self.blind_paths(now, shared);
        let mut lost: Vec<(u32, Loss)> = Vec::new();
        for nic in self.nics.values() {
            let Some(egress) = &nic.egress else { continue };
            let is_blind = || blind.iter().any(|path| nic.view.locals.contains(&self.paths.plans()[*path].local));
            let loss = if egress.alive() { is_blind().then_some(Loss::Blind) } else { Some(Loss::Detached) };
            // A device that is gone, or was moved away, is left to `scan`.
            if let Some(loss) = loss
                && sys::is_running(nic.ifindex).is_ok()
            {
                lost.push((nic.ifindex, loss));
            }
        }
        for (index, loss) in lost {
            if let Some(mut nic) = self.nics.remove(&index) {
                self.replace_egress(&mut nic, now, loss);
                self.nics.insert(index, nic);
            }
        }
    }

    fn replace_egress(&mut self, nic: &mut Nic, now: u64, loss: Loss) {
        drop(nic.egress.take());
        let again = nic.egress_lost_ns != 0 && now - nic.egress_lost_ns < DETACH_PATIENCE_NS;
        nic.egress_lost_ns = now;
        let why = match loss {
            Loss::Detached => {
                let interface = nic.view.name.clone();
                self.sink.now(EventBody::LinkDetachedForeign { interface, program: Program::Egress });
                "the egress program was detached twice within a minute"
            }
            Loss::Blind => "another program lets no frame come to the egress program",
        };
        if again {
            nic.view.unstamped = Some(format!("{why}: {INSTEAD}"));
            nic.egress_retry_ns = now + DETACH_PATIENCE_NS;
        } else {
            if loss == Loss::Blind {
                let reason = format!("{why}: it is put before all others again");
                self.sink.now(EventBody::DeparturesUnstamped { interface: nic.view.name.clone(), reason });
            }
            if self.stamp_again(nic) {
                return;
            }
        }
        self.report(nic, true);
        self.tell_unstamped(nic);
    }

    /// Looks once in a detection time which paths have their probes answered though none was seen to leave.
    fn blind_paths(&mut self, now: u64, shared: &Shared) -> Vec<usize> {
        let settings = &self.config.settings;
        let every = settings.detection_time(true).max(settings.detection_time(false)).as_nanos() as u64;
        if self.stamps.at_ns != 0 && now.saturating_sub(self.stamps.at_ns) < every {
            return Vec::new();
        }
        let count = |path: usize| -> Counts {
            let answered = shared.tick(path as u32).map_or((0, 0), |t| (t.departures, t.echoes + t.late_echoes));
            (self.pacer.record.sent(path), answered.0, answered.1)
        };
        let counts: Vec<Counts> = (0..self.paths.len()).map(count).collect();
        let grown = |(before, after): (&Counts, &Counts)| {
            after.0 >= before.0 + BLIND && after.1 == before.1 && after.2 >= before.2 + BLIND
        };
        let pairs = self.stamps.counts.iter().zip(&counts).map(grown).enumerate();
        let blind = pairs.filter(|(_, is_blind)| *is_blind).map(|(path, _)| path).collect();
        self.stamps = Stamps { at_ns: now, counts };
        blind
    }

    /// Tries once more where the program was given up or refused some time ago.
    pub(super) fn retry_departures(&mut self) {
        let now = clock::now().0;
        let due = |nic: &&Nic| nic.egress.is_none() && nic.view.unstamped.is_some() && now >= nic.egress_retry_ns;
        for index in self.nics.values().filter(due).map(|nic| nic.ifindex).collect::<Vec<_>>() {
            let Some(mut nic) = self.nics.remove(&index) else { continue };
            if self.stamp_again(&mut nic) {
                self.report(&nic, false);
            }
            self.nics.insert(index, nic);
        }
    }

    fn stamp_again(&mut self, nic: &mut Nic) -> bool {
        self.stamp_departures(nic);
        if nic.egress.is_some() {
            // What was counted while it was away says nothing of it.
            self.stamps = Stamps::default();
            let (interface, mode) = (nic.view.name.clone(), nic.view.mode.into());
            self.sink.now(EventBody::LinkReattached { interface, program: Program::Egress, mode });
        }
        nic.egress.is_some()
    }

    /// Lets the sockets of an interface report departures, or no longer.
    fn report(&self, nic: &Nic, reports: bool) {
        for index in nic.view.locals.iter().filter_map(|local| self.socket_index(*local)) {
            self.pacer.tell(PacerCommand::Reports(index, reports));
        }
    }
}

//! Who says when a probe has left: the egress program of each interface, or the error queue of its sockets where the
//! program cannot be had. It notices that the program was taken off; it judges no departure.

use super::{DETACH_PATIENCE_NS, Fabric};
use crate::core::event::{EventBody, Program};
use crate::io::egress::Egress;
use crate::io::nic::Nic;
use crate::io::pacer::PacerCommand;
use crate::io::{clock, sys};

/// What `status` says of an interface whose egress program somebody takes off again and again.
const UNSTAMPED: &str = "the egress program was detached: departures are taken from transmit timestamps";

impl Fabric {
    /// Puts the egress program on an interface that is brought up. Where it cannot be had, the sockets report.
    pub(super) fn stamp_departures(&mut self, nic: &mut Nic) {
        let Some(object) = &mut self.object else { return };
        match Egress::attach(object, &nic.name, nic.ifindex) {
            Ok(egress) => nic.egress = Some(egress),
            Err(error) => log::warn!("{error:#}: departures are taken from transmit timestamps there"),
        }
    }

    /// Attaches the program again wherever somebody took it off. Where that happens twice within a minute somebody
    /// means it: the sockets report departures until a minute has passed.
    pub(super) fn check_departures(&mut self) {
        let now = clock::now().0;
        let mut lost: Vec<u32> = Vec::new();
        for nic in self.nics.values_mut() {
            let dead = nic.egress.as_ref().is_some_and(|egress| !egress.alive());
            // A device that is gone, or was moved away, is left to `scan`.
            if dead && sys::is_running(nic.ifindex).is_ok() {
                lost.push(nic.ifindex);
            }
        }
        for index in lost {
            let Some(mut nic) = self.nics.remove(&index) else { continue };
            drop(nic.egress.take());
            let interface = nic.name.clone();
            self.sink.now(EventBody::LinkDetachedForeign { interface, program: Program::Egress });
            let again = nic.egress_lost_ns != 0 && now - nic.egress_lost_ns < DETACH_PATIENCE_NS;
            nic.egress_lost_ns = now;
            if again || !self.stamp_again(&mut nic) {
                self.report(&nic, true);
                nic.reason.get_or_insert_with(|| UNSTAMPED.to_owned());
            }
            self.nics.insert(index, nic);
        }
    }

    /// Tries once more where the program was given up a minute ago or longer.
    pub(super) fn retry_departures(&mut self) {
        let now = clock::now().0;
        let due = |nic: &&Nic| {
            nic.egress.is_none() && nic.egress_lost_ns != 0 && now - nic.egress_lost_ns >= DETACH_PATIENCE_NS
        };
        for index in self.nics.values().filter(due).map(|nic| nic.ifindex).collect::<Vec<_>>() {
            let Some(mut nic) = self.nics.remove(&index) else { continue };
            if self.stamp_again(&mut nic) {
                self.report(&nic, false);
                nic.reason.take_if(|reason| reason == UNSTAMPED);
            } else {
                nic.egress_lost_ns = now;
            }
            self.nics.insert(index, nic);
        }
    }

    fn stamp_again(&mut self, nic: &mut Nic) -> bool {
        self.stamp_departures(nic);
        if nic.egress.is_some() {
            let (interface, mode) = (nic.name.clone(), nic.mode.into());
            self.sink.now(EventBody::LinkReattached { interface, program: Program::Egress, mode });
        }
        nic.egress.is_some()
    }

    /// Lets the sockets of an interface report departures, or no longer.
    fn report(&self, nic: &Nic, reports: bool) {
        for index in nic.locals.iter().filter_map(|local| self.socket_index(*local)) {
            self.pacer.tell(PacerCommand::Reports(index, reports));
        }
    }
}

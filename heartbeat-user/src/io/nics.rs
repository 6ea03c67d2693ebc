//! A picture of the interfaces and of which path uses which, for status. It is a copy; changing it changes nothing.

use crate::io::fabric::Fabric;
use crate::io::nic::NicView;
use heartbeat_common::counter::Counter;
use heartbeat_common::frame::PORT;
use std::net::IpAddr;

/// Every interface, and the kernel's counters.
#[derive(Clone, Debug)]
pub struct View {
    /// Interfaces in use.
    pub nics: Vec<NicView>,
    /// Counters of the kernel, by their order.
    pub counters: Vec<u64>,
    /// What keeps this controller from its pin directory.
    pub pins_lost: Option<String>,
}

impl View {
    /// Returns the interface of a local address.
    #[must_use]
    pub fn of(&self, local: IpAddr) -> Option<&NicView> {
        self.nics.iter().find(|nic| nic.locals.contains(&local))
    }

    /// Says, for a person, which ports of this node another process has.
    #[must_use]
    pub fn ports_taken(&self) -> Vec<String> {
        let taken = |nic: &NicView| -> Vec<String> {
            let told = nic.taken.iter().filter(|(_, taken)| taken.told);
            told.map(|(local, _)| {
                format!("{}: another process has UDP port {PORT} of {local}, so no probe leaves from there", nic.name)
            })
            .collect()
        };
        self.nics.iter().flat_map(taken).collect()
    }
}

/// Takes the picture.
#[must_use]
pub fn view(fabric: &Fabric) -> View {
    let counter =
        |counter: &Counter| fabric.object.as_ref().and_then(|object| object.counter(*counter).ok()).unwrap_or(0);
    View {
        nics: fabric.nics.values().map(|nic| nic.view.clone()).collect(),
        counters: Counter::ALL.iter().map(counter).collect(),
        pins_lost: fabric.pins_lost(),
    }
}

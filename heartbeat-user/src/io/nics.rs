//! A picture of the interfaces and of which path uses which, for status. It is a copy; changing it changes nothing.

use crate::config::FastPath;
use crate::io::attach::Mode;
use crate::io::fabric::Fabric;
use heartbeat_common::counter::Counter;
use std::net::IpAddr;

/// One interface.
#[derive(Clone, Debug)]
pub struct NicView {
    /// Its name.
    pub name: String,
    /// What the configuration asks for.
    pub wanted: FastPath,
    /// What it got.
    pub mode: Mode,
    /// Why it got no more.
    pub reason: Option<String>,
    /// Why no program stamps departures there, and what tells them instead.
    pub unstamped: Option<String>,
    /// Whether a stripped VLAN tag can be noticed.
    pub vlan_tag_visible: Option<bool>,
    /// Whether it receives on kernel threads.
    pub threaded_napi: Option<bool>,
    /// Our addresses on it.
    pub locals: Vec<IpAddr>,
}

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
}

/// Takes the picture.
#[must_use]
pub fn view(fabric: &Fabric) -> View {
    let counter =
        |counter: &Counter| fabric.object.as_ref().and_then(|object| object.counter(*counter).ok()).unwrap_or(0);
    View {
        nics: fabric
            .nics
            .values()
            .map(|nic| NicView {
                name: nic.name.clone(),
                wanted: nic.wanted,
                mode: nic.mode,
                reason: nic.reason.clone(),
                unstamped: nic.unstamped.clone(),
                vlan_tag_visible: nic.vlan_tag_visible,
                threaded_napi: nic.threaded_napi,
                locals: nic.locals().to_vec(),
            })
            .collect(),
        counters: Counter::ALL.iter().map(counter).collect(),
        pins_lost: fabric.pins_lost(),
    }
}

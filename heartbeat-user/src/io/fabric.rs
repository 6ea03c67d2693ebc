//! The interfaces this node beats on: which programs are attached where, which sockets are open, and in which mode
//! echoes are answered. It brings interfaces up and down, steps down a mode where it may, and notices what others did
//! to it. It judges no peer.

mod departures;
mod modes;
mod ports;
mod repair;

use crate::config::{Config, FastPath};
use crate::core::event::{EchoMode, EventBody};
use crate::io::attach::{LinkHealth, Mode};
use crate::io::conflict::Held;
use crate::io::egress::Egress;
use crate::io::interfaces::{self, Interface};
use crate::io::journal::EventSink;
use crate::io::memory::Shared;
use crate::io::nic::{Nic, NicView};
use crate::io::object::Object;
use crate::io::pacer::{Pacer, PacerCommand};
use crate::io::paths::{Announced, Paths, Who};
use crate::io::pins::PinDir;
use crate::io::responder::Responder;
use crate::io::sys;
use crate::keys::KeyRing;
use ports::note_running;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// A second detachment within this time of the first ends the attempt to stay in the kernel.
const DETACH_PATIENCE_NS: u64 = 60_000_000_000;

/// The interfaces, and what they share.
pub struct Fabric {
    config: Arc<Config>,
    /// The paths.
    pub paths: Paths,
    /// The BPF object, where one could be loaded.
    pub object: Option<Object>,
    /// Its pins.
    pub pins: Option<PinDir>,
    /// Why there is none.
    pub without: Option<String>,
    /// Interfaces in use, by index.
    pub nics: BTreeMap<u32, Nic>,
    pacer: Arc<Pacer>,
    responder: Responder,
    sink: EventSink,
    /// Addresses that another machine may have, from which nothing is said yet.
    held: Held,
    /// What was last said of interfaces that cannot be brought up.
    failing: BTreeMap<u32, String>,
    /// What was counted of each path's probes when it was last looked whether departures are stamped.
    stamps: departures::Stamps,
    /// What was last said of a pin directory that is not to be had.
    pins_lost: Option<String>,
}

impl From<Mode> for EchoMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Native => Self::Native,
            Mode::Generic => Self::Generic,
            Mode::Userspace => Self::Userspace,
        }
    }
}

/// What a fabric is made of.
pub struct FabricSetup {
    /// The configuration.
    pub config: Arc<Config>,
    /// The paths.
    pub paths: Paths,
    /// The BPF object and its pins, or why there are none.
    pub kernel: Result<(Object, PinDir), String>,
    /// The pacing thread.
    pub pacer: Arc<Pacer>,
    /// The responder.
    pub responder: Responder,
    /// Where events go.
    pub sink: EventSink,
    /// Addresses that are held back.
    pub held: Held,
}

impl Fabric {
    /// Makes a fabric that uses no interface yet.
    #[must_use]
    pub fn new(setup: FabricSetup) -> Self {
        let (object, pins, without) = match setup.kernel {
            Ok((object, pins)) => (Some(object), Some(pins), None),
            Err(reason) => (None, None, Some(reason)),
        };
        Self {
            config: setup.config,
            paths: setup.paths,
            object,
            pins,
            without,
            nics: BTreeMap::new(),
            pacer: setup.pacer,
            responder: setup.responder,
            sink: setup.sink,
            held: setup.held,
            failing: BTreeMap::new(),
            stamps: departures::Stamps::default(),
            pins_lost: None,
        }
    }

    /// Brings every interface up that has one of our addresses which is not held back, and down every one that has none left; addresses that
    /// come and go on an interface in use are opened and closed without touching its program. With `strict`, as at
    /// start, what cannot be had as configured is an error; later it is logged once and tried again.
    ///
    /// # Errors
    /// If the addresses cannot be read or, with `strict`, an interface cannot be used as configured.
    pub fn scan(&mut self, strict: bool) -> anyhow::Result<()> {
        let present = interfaces::by_address()?;
        let mut wanted: BTreeMap<u32, (Interface, Vec<IpAddr>)> = BTreeMap::new();
        for local in self.paths.locals().iter().filter(|local| !self.held.contains(**local)) {
            if let Some(interface) = present.get(local) {
                wanted.entry(interface.ifindex).or_insert_with(|| (interface.clone(), Vec::new())).1.push(*local);
            }
        }
        let gone: Vec<u32> = self.nics.keys().copied().filter(|index| !wanted.contains_key(index)).collect();
        for index in gone {
            self.take_down(index);
        }
        // First what left any interface, then what came: an address that moved is not closed after it was opened anew.
        for (index, (interface, locals)) in &wanted {
            self.close_departed(*index, interface, locals);
        }
        self.failing.retain(|index, _| wanted.contains_key(index));
        for (index, (interface, locals)) in wanted {
            let done = if self.nics.contains_key(&index) {
                self.adjust(index, &interface, &locals)
            } else {
                self.bring_up(&interface, locals, strict)
            };
            match done {
                Ok(()) => drop(self.failing.remove(&index)),
                Err(error) if strict => return Err(error),
                Err(error) => {
                    let text = format!("{error:#}");
                    if self.failing.get(&index) != Some(&text) {
                        log::error!("interface {}: {text}; it is tried again", interface.name);
                        self.failing.insert(index, text);
                    }
                }
            }
        }
        Ok(())
    }

    fn bring_up(&mut self, interface: &Interface, locals: Vec<IpAddr>, strict: bool) -> anyhow::Result<()> {
        interfaces::refuse_hidden_tags_on(&self.config, self.paths.own(), interface, &locals)?;
        let wanted = self.config.fast_path(&interface.name);
        let mut nic = Nic {
            view: NicView {
                name: interface.name.clone(),
                wanted,
                mode: Mode::Userspace,
                reason: None,
                unstamped: None,
                vlan_tag_visible: interfaces::vlan_tag_visible(&interface.name),
                threaded_napi: interfaces::threaded_napi(&interface.name),
                locals: Vec::new(),
                taken: BTreeMap::new(),
            },
            ifindex: interface.ifindex,
            running: interface.running,
            attachment: None,
            egress: None,
            egress_lost_ns: 0,
            egress_retry_ns: 0,
            detached_ns: 0,
            entered_ns: 0,
        };
        if let Err(error) = self.equip(&mut nic, &locals, strict) {
            self.dismantle(nic);
            return Err(error);
        }
        if nic.view.locals.is_empty() {
            // Every address is still being checked for duplicates: it is not there yet.
            self.dismantle(nic);
            return Ok(());
        }
        if !strict {
            self.sink.now(EventBody::InterfaceAppeared { interface: interface.name.clone() });
        }
        self.warn(&nic);
        self.sink.now(EventBody::LinkAttached { interface: nic.view.name.clone(), mode: nic.view.mode.into() });
        self.tell_unstamped(&nic);
        self.nics.insert(nic.ifindex, nic);
        self.pacer.tell(PacerCommand::Signers(self.paths.signers()));
        Ok(())
    }

    /// Tables first, sockets next, the program last: whatever it answers, it answers completely.
    fn equip(&mut self, nic: &mut Nic, locals: &[IpAddr], strict: bool) -> anyhow::Result<()> {
        self.stamp_departures(nic);
        if nic.view.wanted != FastPath::Off && self.pins.is_some() {
            nic.view.mode = if nic.view.wanted == FastPath::Generic { Mode::Generic } else { Mode::Native };
        }
        for local in locals {
            if self.open_local(nic, *local)? {
                nic.view.locals.push(*local);
            }
        }
        if nic.view.locals.is_empty() {
            return Ok(());
        }
        let first = if nic.view.wanted == FastPath::Generic { Mode::Generic } else { Mode::Native };
        self.enter(nic, first, strict)
    }

    /// Takes everything off an interface that was put there.
    fn dismantle(&mut self, nic: Nic) {
        for local in self.paths.locals().to_vec() {
            if nic.view.locals.contains(&local) {
                self.close_local(local);
            }
        }
        if let Some(attachment) = nic.attachment {
            let _ = self.let_go(attachment);
        }
        if let Some(Err(error)) = nic.egress.map(Egress::detach) {
            log::warn!("interface {}: {error:#}", nic.view.name);
        }
    }

    fn warn(&self, nic: &Nic) {
        let untagged = self.paths.plans().iter().any(|plan| nic.view.locals.contains(&plan.local) && plan.vlan == 0);
        if nic.view.mode != Mode::Userspace && nic.view.vlan_tag_visible != Some(true) && untagged {
            let reason = match nic.view.vlan_tag_visible {
                Some(false) => {
                    "the device strips tags on receive (rx-vlan-offload); `ethtool -K DEVICE rxvlan off` keeps them"
                }
                _ => "the device may hand frames over without the tag they came with, which cannot be seen from here",
            };
            self.sink.now(EventBody::VlanUncertain { interface: nic.view.name.clone(), reason: reason.to_owned() });
        }
        if nic.view.threaded_napi == Some(true) {
            self.sink.now(EventBody::ThreadedNapi { interface: nic.view.name.clone() });
        }
    }

    fn take_down(&mut self, index: u32) {
        if let Some(nic) = self.nics.remove(&index) {
            let interface = nic.view.name.clone();
            self.dismantle(nic);
            self.sink.now(EventBody::InterfaceGone { interface });
        }
    }

    /// Looks whether every interface has its carrier and every link still does its work: a few calls for each
    /// interface, no waiting. Returns whether a link did not, or a device is gone: `scan` is then due at once.
    ///
    /// # Errors
    /// If a lost link can be replaced by nothing: the interface is then given up, and brought up again by `scan`.
    pub fn check_links(&mut self, shared: &Shared) -> anyhow::Result<bool> {
        let mut vanished = false;
        for nic in self.nics.values_mut() {
            // A device that is gone is left to `scan`.
            match sys::is_running(nic.ifindex) {
                Ok(running) => note_running(&self.paths, nic, running),
                Err(_) => vanished = true,
            }
        }
        self.check_departures(shared);
        let dead = |nic: &Nic| nic.attachment.as_ref().is_some_and(|link| link.health() == LinkHealth::Detached);
        let lost: Vec<u32> = self.nics.values().filter(|nic| dead(nic)).map(|nic| nic.ifindex).collect();
        let mut failed = None;
        for index in &lost {
            if let Err(error) = self.replace_link(*index) {
                self.take_down(*index);
                failed = Some(error);
            }
        }
        if !lost.is_empty() {
            // Who answers is part of what every probe says.
            self.pacer.tell(PacerCommand::Signers(self.paths.signers()));
        }
        failed.map_or(Ok(vanished || !lost.is_empty()), Err)
    }

    /// Puts a new configuration and keys into force, all or nothing; what needs a restart was refused before.
    ///
    /// # Errors
    /// If a table cannot be written: what was in force stays so.
    pub fn reload(&mut self, config: Arc<Config>, ring: KeyRing) -> anyhow::Result<()> {
        self.paths.reload(self.object.as_mut(), &self.config, &config, ring)?;
        self.config = config;
        Ok(())
    }

    /// Puts an identity and settings into force in every table.
    ///
    /// # Errors
    /// If a table cannot be written.
    pub fn change_paths(&mut self, config: &Config, who: Who) -> anyhow::Result<()> {
        self.paths.change(self.object.as_mut(), config, who)
    }

    /// Says of the view what is now to be said, in every table and then in every probe.
    ///
    /// # Errors
    /// If a table cannot be written.
    pub fn announce(&mut self, announced: Announced) -> anyhow::Result<()> {
        self.paths.announce(self.object.as_mut(), announced)?;
        self.pacer.tell(PacerCommand::Signers(self.paths.signers()));
        Ok(())
    }

    /// The configuration in force.
    #[must_use]
    pub fn config(&self) -> &Arc<Config> {
        &self.config
    }

    /// Takes every program off and removes every pin, at the end: nothing answers any longer.
    ///
    /// # Errors
    /// If a pin cannot be removed.
    pub fn detach_all(&mut self) -> anyhow::Result<()> {
        for index in self.nics.keys().copied().collect::<Vec<_>>() {
            if let Some(nic) = self.nics.remove(&index) {
                self.dismantle(nic);
            }
        }
        self.remove_pins()
    }
}

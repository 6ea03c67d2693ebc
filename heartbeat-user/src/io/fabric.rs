//! The interfaces this node beats on: which programs are attached where, which sockets are open, and in which mode
//! echoes are answered. It brings interfaces up and down, steps down a mode where it may, and notices what others did
//! to it. It judges no peer.

use crate::config::{Config, FastPath};
use crate::core::event::{EchoMode, EventBody};
use crate::io::attach::{self, AttachError, Attachment, Egress, LinkHealth, Mode};
use crate::io::interfaces::{self, Interface};
use crate::io::journal::EventSink;
use crate::io::object::Object;
use crate::io::pacer::{Pacer, PacerCommand};
use crate::io::paths::{Paths, Who};
use crate::io::pins::PinDir;
use crate::io::responder::{Door, Responder};
use crate::io::{clock, socket};
use anyhow::{Context, bail};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// A second detachment within this time of the first ends the attempt to stay in the kernel.
const DETACH_PATIENCE_NS: u64 = 60_000_000_000;

/// What one interface does.
#[derive(Debug)]
pub struct Nic {
    /// Its name.
    pub name: String,
    /// Its index.
    pub ifindex: u32,
    /// What the configuration asks for.
    pub wanted: FastPath,
    /// What it got.
    pub mode: Mode,
    /// Why it got no more.
    pub reason: Option<String>,
    /// Whether a stripped VLAN tag can be noticed; `None`: unknown.
    pub vlan_tag_visible: Option<bool>,
    /// Whether it receives on kernel threads.
    pub threaded_napi: Option<bool>,
    locals: Vec<IpAddr>,
    attachment: Option<Attachment>,
    egress: Option<Egress>,
    detached_ns: u64,
}

impl Nic {
    /// Our addresses on it.
    #[must_use]
    pub fn locals(&self) -> &[IpAddr] {
        &self.locals
    }
}

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
        }
    }

    /// Brings every interface up that has one of our addresses, and down every one that has none left. With `strict`,
    /// as at start, what cannot be had as configured is an error; later it is an event.
    ///
    /// # Errors
    /// If the addresses cannot be read or, with `strict`, an interface cannot be used as configured.
    pub fn scan(&mut self, strict: bool) -> anyhow::Result<()> {
        let present = interfaces::by_address()?;
        let mut wanted: BTreeMap<u32, (Interface, Vec<IpAddr>)> = BTreeMap::new();
        for local in self.paths.locals() {
            if let Some(interface) = present.get(local) {
                wanted.entry(interface.ifindex).or_insert_with(|| (interface.clone(), Vec::new())).1.push(*local);
            }
        }
        let gone: Vec<u32> = self
            .nics
            .iter()
            .filter(|(index, nic)| wanted.get(index).is_none_or(|(_, locals)| *locals != nic.locals))
            .map(|(index, _)| *index)
            .collect();
        for index in gone {
            self.take_down(index);
        }
        for (index, (interface, locals)) in wanted {
            if self.nics.contains_key(&index) {
                continue;
            }
            if !strict {
                self.sink.now(EventBody::InterfaceAppeared { interface: interface.name.clone() });
            }
            if let Err(error) = self.bring_up(&interface, locals, strict) {
                if strict {
                    return Err(error);
                }
                log::error!("interface {}: {error:#}", interface.name);
            }
        }
        Ok(())
    }

    fn bring_up(&mut self, interface: &Interface, locals: Vec<IpAddr>, strict: bool) -> anyhow::Result<()> {
        let wanted = self.config.fast_path(&interface.name);
        let mut nic = Nic {
            name: interface.name.clone(),
            ifindex: interface.ifindex,
            wanted,
            mode: Mode::Userspace,
            reason: None,
            vlan_tag_visible: interfaces::vlan_tag_visible(&interface.name),
            threaded_napi: interfaces::threaded_napi(&interface.name),
            locals,
            attachment: None,
            egress: None,
            detached_ns: 0,
        };
        if let Some(object) = &mut self.object {
            match attach::attach_egress(object, &nic.name) {
                Ok(egress) => nic.egress = Some(egress),
                Err(error) => log::warn!("{error:#}: departures are taken from transmit timestamps there"),
            }
        }
        // Tables first, sockets next, the program last: whatever it answers, it answers completely.
        self.route(&nic, wanted != FastPath::Off && self.object.is_some())?;
        self.open_sockets(&nic)?;
        let first = if wanted == FastPath::Generic { Mode::Generic } else { Mode::Native };
        self.enter(&mut nic, first, strict)?;
        self.warn(&nic);
        self.sink.now(EventBody::LinkAttached { interface: nic.name.clone(), mode: nic.mode.into() });
        self.nics.insert(nic.ifindex, nic);
        self.pacer.tell(PacerCommand::Signers(self.paths.signers()));
        Ok(())
    }

    fn warn(&self, nic: &Nic) {
        let untagged = self.paths.plans().iter().any(|plan| nic.locals.contains(&plan.local) && plan.vlan == 0);
        if nic.mode != Mode::Userspace && nic.vlan_tag_visible != Some(true) && untagged {
            let reason = match nic.vlan_tag_visible {
                Some(false) => "the device strips tags on receive (rx-vlan-offload); `ethtool -K DEVICE rxvlan off` keeps them",
                _ => "the device may hand frames over without the tag they came with, which cannot be seen from here",
            };
            self.sink.now(EventBody::VlanUncertain { interface: nic.name.clone(), reason: reason.to_owned() });
        }
        if nic.threaded_napi == Some(true) {
            self.sink.now(EventBody::ThreadedNapi { interface: nic.name.clone() });
        }
    }

    /// Enters the best mode from `from` on down that the configuration allows.
    fn enter(&mut self, nic: &mut Nic, from: Mode, strict: bool) -> anyhow::Result<()> {
        if nic.wanted == FastPath::Off {
            return self.enter_userspace(nic);
        }
        let (Some(object), Some(pins)) = (&mut self.object, &self.pins) else {
            let reason = self.without.clone().unwrap_or_else(|| "no BPF object".to_owned());
            if nic.wanted != FastPath::Auto {
                bail!("interface {}: fast_path = \"{}\" cannot be had: {reason}", nic.name, nic.wanted.name());
            }
            self.stepped_down(nic, Mode::Native, Mode::Userspace, &reason);
            return self.enter_userspace(nic);
        };
        let steps: &[Mode] = match (from, nic.wanted) {
            (Mode::Native, FastPath::Auto) => &[Mode::Native, Mode::Generic],
            (Mode::Native, FastPath::Native) => &[Mode::Native],
            (Mode::Generic, _) => &[Mode::Generic],
            _ => &[],
        };
        let mut tried: Option<(Mode, String)> = None;
        for mode in steps {
            match attach::attach(object, pins, nic.ifindex, *mode) {
                Ok(attachment) => {
                    nic.attachment = Some(attachment);
                    nic.mode = *mode;
                    if let Some((from, reason)) = tried {
                        self.stepped_down(nic, from, *mode, &reason);
                    }
                    return self.route(nic, true);
                }
                Err(AttachError::Foreign { program }) if strict => {
                    bail!("interface {}: {}", nic.name, AttachError::Foreign { program });
                }
                Err(error) if nic.wanted != FastPath::Auto && strict => {
                    return attach::refused(&nic.name, nic.wanted.name(), &error).map(|_| ());
                }
                Err(error) => {
                    let before = tried.map(|(_, reason)| format!("{reason}; ")).unwrap_or_default();
                    tried = Some((*mode, format!("{before}{error}")));
                }
            }
        }
        let (from, reason) = tried.unwrap_or((from, "no mode is left to try".to_owned()));
        self.stepped_down(nic, from, Mode::Userspace, &reason);
        self.enter_userspace(nic)
    }

    fn stepped_down(&self, nic: &mut Nic, from: Mode, to: Mode, reason: &str) {
        nic.reason = Some(reason.to_owned());
        self.sink.now(EventBody::StepDownMode {
            interface: nic.name.clone(),
            from: from.into(),
            to: to.into(),
            reason: reason.to_owned(),
        });
    }

    fn route(&mut self, nic: &Nic, in_kernel: bool) -> anyhow::Result<()> {
        for local in &nic.locals {
            self.paths.open(self.object.as_mut(), *local, nic.ifindex, in_kernel)?;
        }
        Ok(())
    }

    fn socket_index(&self, local: IpAddr) -> Option<usize> {
        self.paths.locals().binary_search(&local).ok()
    }

    /// Opens the sockets of an interface and gives each to the pacing thread.
    fn open_sockets(&self, nic: &Nic) -> anyhow::Result<()> {
        for local in &nic.locals {
            let fd = socket::open(*local, &nic.name)?;
            let reports = nic.egress.is_none();
            if reports {
                socket::report_departures(&fd)?;
            }
            if let Some(index) = self.socket_index(*local) {
                // Every probe leaves by the socket; what the responder hears, it hears by a second descriptor of it.
                let second = fd.try_clone().context("duplicate a socket")?;
                self.pacer.tell(PacerCommand::Socket(index, Some((fd, reports))));
                self.responder.set_door(index, Some(Door { fd: second, paths: self.paths.doors(*local) }));
            }
        }
        Ok(())
    }

    /// Answers in userspace.
    fn enter_userspace(&mut self, nic: &mut Nic) -> anyhow::Result<()> {
        nic.mode = Mode::Userspace;
        if let Some(attachment) = nic.attachment.take() {
            attachment.detach()?;
        }
        self.route(nic, false)
    }


    fn take_down(&mut self, index: u32) {
        let Some(nic) = self.nics.remove(&index) else { return };
        for local in &nic.locals {
            self.paths.close(self.object.as_mut(), *local);
            if let Some(index) = self.socket_index(*local) {
                self.pacer.tell(PacerCommand::Socket(index, None));
                self.responder.set_door(index, None);
            }
        }
        if let Some(attachment) = nic.attachment {
            let _ = attachment.detach();
        }
        if let (Some(egress), Some(object)) = (nic.egress, &mut self.object) {
            let _ = egress.detach(object);
        }
        self.sink.now(EventBody::InterfaceGone { interface: nic.name });
    }

    /// Looks whether every link still does its work: one call for each interface, no waiting. Returns whether one did
    /// not.
    ///
    /// # Errors
    /// If a lost link can be replaced by nothing.
    pub fn check_links(&mut self) -> anyhow::Result<bool> {
        let dead = |nic: &Nic| nic.attachment.as_ref().is_some_and(|link| link.health() == LinkHealth::Detached);
        let lost: Vec<u32> = self.nics.values().filter(|nic| dead(nic)).map(|nic| nic.ifindex).collect();
        for index in &lost {
            let Some(mut nic) = self.nics.remove(index) else { continue };
            let mode = nic.mode;
            if let Some(attachment) = nic.attachment.take() {
                let _ = attachment.detach();
            }
            let here = interfaces::by_address()?.values().any(|interface| interface.ifindex == nic.ifindex);
            if !here {
                // The device is gone or was moved away: `scan` says so and brings it back when it returns.
                self.nics.insert(nic.ifindex, nic);
                self.take_down(*index);
                continue;
            }
            self.sink.now(EventBody::LinkDetachedForeign { interface: nic.name.clone() });
            let now = clock::now().0;
            let again = nic.detached_ns != 0 && now - nic.detached_ns < DETACH_PATIENCE_NS;
            nic.detached_ns = now;
            if again {
                self.stepped_down(&mut nic, mode, Mode::Userspace, "the program was detached twice within a minute");
                self.enter_userspace(&mut nic)?;
            } else {
                self.enter(&mut nic, mode, false)?;
                if nic.mode == mode {
                    self.sink.now(EventBody::LinkReattached { interface: nic.name.clone(), mode: mode.into() });
                }
            }
            self.nics.insert(nic.ifindex, nic);
            // Who answers is part of what every probe says.
            self.pacer.tell(PacerCommand::Signers(self.paths.signers()));
        }
        Ok(!lost.is_empty())
    }

    /// Steps the interface of a path down one mode, because echoes of the present one do not arrive.
    ///
    /// # Errors
    /// If the next mode cannot be entered.
    pub fn step_down(&mut self, path: usize) -> anyhow::Result<()> {
        let Some(local) = self.paths.plans().get(path).map(|plan| plan.local) else { return Ok(()) };
        let Some(index) = self.nics.values().find(|nic| nic.locals.contains(&local)).map(|nic| nic.ifindex) else {
            return Ok(());
        };
        let Some(mut nic) = self.nics.remove(&index) else { return Ok(()) };
        let reason = format!("echoes by {} XDP do not arrive at the peers", nic.mode);
        let from = nic.mode;
        let result = if nic.wanted != FastPath::Auto || from == Mode::Userspace {
            nic.reason = Some(format!("{reason}, and fast_path = \"{}\" allows nothing else", nic.wanted.name()));
            log::error!("interface {}: {}", nic.name, nic.reason.as_deref().unwrap_or_default());
            Ok(())
        } else {
            if let Some(attachment) = nic.attachment.take() {
                attachment.detach()?;
            }
            if from == Mode::Native {
                let entered = self.enter(&mut nic, Mode::Generic, false);
                if nic.mode == Mode::Generic {
                    self.stepped_down(&mut nic, from, Mode::Generic, &reason);
                }
                entered
            } else {
                self.stepped_down(&mut nic, from, Mode::Userspace, &reason);
                self.enter_userspace(&mut nic)
            }
        };
        self.nics.insert(index, nic);
        self.pacer.tell(PacerCommand::Signers(self.paths.signers()));
        result
    }

    /// Compares tables and pins with what this node wrote, mends them, and says so.
    ///
    /// # Errors
    /// If something cannot be read or mended.
    pub fn repair(&mut self) -> anyhow::Result<()> {
        let (Some(object), Some(pins)) = (&mut self.object, &self.pins) else { return Ok(()) };
        for (table, count) in self.paths.repair(object)? {
            self.sink.now(EventBody::TableRepaired { table: table.to_owned(), count });
        }
        let mut restored = object.restore_pins(pins)?;
        for attachment in self.nics.values().filter_map(|nic| nic.attachment.as_ref()) {
            if !attachment.pinned() {
                pins.make()?;
                attachment.restore_pin()?;
                restored += 1;
            }
        }
        if restored > 0 {
            let directory = pins.path().display().to_string();
            self.sink.now(EventBody::PinsRestored { directory, count: restored });
        }
        Ok(())
    }

    /// Puts a new configuration into force; what needs a restart was refused before.
    pub fn set_config(&mut self, config: Arc<Config>) {
        self.config = config;
    }

    /// Puts an identity and settings into force in every table.
    ///
    /// # Errors
    /// If a table cannot be written.
    pub fn change_paths(&mut self, config: &Config, who: Who) -> anyhow::Result<()> {
        self.paths.change(self.object.as_mut(), config, who)
    }

    /// The configuration in force.
    #[must_use]
    pub fn config(&self) -> &Arc<Config> {
        &self.config
    }

    /// Takes the kernel out of it for as long as this controller runs: every program off, every pin removed, and
    /// userspace answers instead.
    ///
    /// # Errors
    /// If a table cannot be written or a pin not removed.
    pub fn leave_kernel(&mut self) -> anyhow::Result<()> {
        let reason = "the programs were detached by command";
        for index in self.nics.keys().copied().collect::<Vec<_>>() {
            let Some(mut nic) = self.nics.remove(&index) else { continue };
            let before = nic.mode;
            let entered = self.enter_userspace(&mut nic);
            if before != Mode::Userspace && entered.is_ok() {
                self.stepped_down(&mut nic, before, Mode::Userspace, reason);
            }
            self.nics.insert(index, nic);
            entered?;
        }
        self.pacer.tell(PacerCommand::Signers(self.paths.signers()));
        // Without pins nothing is repaired or attached again.
        self.without = Some(reason.to_owned());
        match self.pins.take() {
            Some(pins) => pins.remove_all(),
            None => Ok(()),
        }
    }

    /// Takes every program off and removes every pin: the kernel answers no longer.
    ///
    /// # Errors
    /// If a pin cannot be removed.
    pub fn detach_all(&mut self) -> anyhow::Result<()> {
        for nic in self.nics.values_mut() {
            if let Some(attachment) = nic.attachment.take() {
                attachment.detach()?;
            }
        }
        match &self.pins {
            Some(pins) => pins.remove_all(),
            None => Ok(()),
        }
    }
}

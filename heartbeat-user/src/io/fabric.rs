//! The interfaces this node beats on: which programs are attached where, which sockets are open, and in which mode
//! echoes are answered. It brings interfaces up and down, steps down a mode where it may, and notices what others did
//! to it. It judges no peer.

mod departures;
mod repair;

use crate::config::{Config, FastPath};
use crate::core::event::{EchoMode, EventBody, Program};
use crate::io::attach::{self, AttachError, LinkHealth, Mode};
use crate::io::egress::Egress;
use crate::io::interfaces::{self, Interface};
use crate::io::journal::EventSink;
use crate::io::memory::Shared;
use crate::io::nic::Nic;
use crate::io::object::Object;
use crate::io::pacer::{Pacer, PacerCommand};
use crate::io::paths::{Paths, Who};
use crate::io::pins::PinDir;
use crate::io::responder::{Door, Responder};
use crate::io::{clock, socket, sys};
use anyhow::{Context, bail};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// A second detachment within this time of the first ends the attempt to stay in the kernel.
const DETACH_PATIENCE_NS: u64 = 60_000_000_000;

/// Why nothing is attached after `detach_all`.
const DETACHED: &str = "the programs were detached by command";

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
            failing: BTreeMap::new(),
            stamps: departures::Stamps::default(),
            pins_lost: None,
        }
    }

    /// Brings every interface up that has one of our addresses, and down every one that has none left; addresses that
    /// come and go on an interface in use are opened and closed without touching its program. With `strict`, as at
    /// start, what cannot be had as configured is an error; later it is logged once and tried again.
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

    /// Closes the addresses that left an interface in use, and notes its name and whether it runs.
    fn close_departed(&mut self, index: u32, interface: &Interface, locals: &[IpAddr]) {
        let Some(mut nic) = self.nics.remove(&index) else { return };
        // Everything here goes by the index; the name is for people.
        nic.name.clone_from(&interface.name);
        for local in nic.locals.iter().filter(|local| !locals.contains(local)) {
            self.close_local(*local);
        }
        nic.locals.retain(|local| locals.contains(local));
        note_running(&self.paths, &mut nic, interface.running);
        self.nics.insert(index, nic);
    }

    /// Opens addresses that came to an interface in use.
    fn adjust(&mut self, index: u32, interface: &Interface, locals: &[IpAddr]) -> anyhow::Result<()> {
        let Some(mut nic) = self.nics.remove(&index) else { return Ok(()) };
        let result = self.adjust_nic(&mut nic, interface, locals);
        self.nics.insert(index, nic);
        result
    }

    fn adjust_nic(&mut self, nic: &mut Nic, interface: &Interface, locals: &[IpAddr]) -> anyhow::Result<()> {
        let new: Vec<IpAddr> = locals.iter().copied().filter(|local| !nic.locals.contains(local)).collect();
        interfaces::refuse_hidden_tags_on(&self.config, self.paths.own(), interface, &new)?;
        for local in new {
            if self.open_local(nic, local)? {
                nic.locals.push(local);
            }
        }
        Ok(())
    }

    fn bring_up(&mut self, interface: &Interface, locals: Vec<IpAddr>, strict: bool) -> anyhow::Result<()> {
        interfaces::refuse_hidden_tags_on(&self.config, self.paths.own(), interface, &locals)?;
        let wanted = self.config.fast_path(&interface.name);
        let mut nic = Nic {
            name: interface.name.clone(),
            ifindex: interface.ifindex,
            wanted,
            mode: Mode::Userspace,
            reason: None,
            vlan_tag_visible: interfaces::vlan_tag_visible(&interface.name),
            threaded_napi: interfaces::threaded_napi(&interface.name),
            running: interface.running,
            locals: Vec::new(),
            attachment: None,
            egress: None,
            egress_lost_ns: 0,
            egress_retry_ns: 0,
            unstamped: None,
            detached_ns: 0,
            entered_ns: 0,
        };
        if let Err(error) = self.equip(&mut nic, &locals, strict) {
            self.dismantle(nic);
            return Err(error);
        }
        if nic.locals.is_empty() {
            // Every address is still being checked for duplicates: it is not there yet.
            self.dismantle(nic);
            return Ok(());
        }
        if !strict {
            self.sink.now(EventBody::InterfaceAppeared { interface: interface.name.clone() });
        }
        self.warn(&nic);
        self.sink.now(EventBody::LinkAttached { interface: nic.name.clone(), mode: nic.mode.into() });
        self.tell_unstamped(&nic);
        self.nics.insert(nic.ifindex, nic);
        self.pacer.tell(PacerCommand::Signers(self.paths.signers()));
        Ok(())
    }

    /// Tables first, sockets next, the program last: whatever it answers, it answers completely.
    fn equip(&mut self, nic: &mut Nic, locals: &[IpAddr], strict: bool) -> anyhow::Result<()> {
        self.stamp_departures(nic);
        if nic.wanted != FastPath::Off && self.pins.is_some() {
            nic.mode = if nic.wanted == FastPath::Generic { Mode::Generic } else { Mode::Native };
        }
        for local in locals {
            if self.open_local(nic, *local)? {
                nic.locals.push(*local);
            }
        }
        if nic.locals.is_empty() {
            return Ok(());
        }
        let first = if nic.wanted == FastPath::Generic { Mode::Generic } else { Mode::Native };
        self.enter(nic, first, strict)
    }

    /// Opens one address: its tables, its socket, its door. False if the address cannot be used yet.
    fn open_local(&mut self, nic: &Nic, local: IpAddr) -> anyhow::Result<bool> {
        let fd = match socket::open(local, &nic.name) {
            Ok(fd) => fd,
            Err(error) if is_not_there_yet(&error) => return Ok(false),
            Err(error) => return Err(error),
        };
        self.paths.open(self.object.as_mut(), local, nic.ifindex, nic.mode != Mode::Userspace)?;
        self.paths.set_running(local, nic.running, nic.mode != Mode::Userspace);
        let reports = nic.egress.is_none();
        if reports {
            socket::report_departures(&fd)?;
        }
        if let Some(index) = self.socket_index(local) {
            // Every probe leaves by the socket; what the responder hears, it hears by a second descriptor of it. It
            // listens beside XDP too: where a program is lost, it answers at once.
            let second = fd.try_clone().context("duplicate a socket")?;
            self.pacer.tell(PacerCommand::Socket(index, Some((fd, reports))));
            self.responder.set_door(index, Some(Door { fd: second, paths: self.paths.doors(local) }));
        }
        Ok(true)
    }

    fn close_local(&mut self, local: IpAddr) {
        self.paths.close(self.object.as_mut(), local);
        if let Some(index) = self.socket_index(local) {
            self.pacer.tell(PacerCommand::Socket(index, None));
            self.responder.set_door(index, None);
        }
    }

    /// Takes everything off an interface that was put there.
    fn dismantle(&mut self, nic: Nic) {
        for local in self.paths.locals().to_vec() {
            if nic.locals.contains(&local) {
                self.close_local(local);
            }
        }
        if let Some(attachment) = nic.attachment {
            let _ = self.let_go(attachment);
        }
        if let Some(Err(error)) = nic.egress.map(Egress::detach) {
            log::warn!("interface {}: {error:#}", nic.name);
        }
    }

    fn warn(&self, nic: &Nic) {
        let untagged = self.paths.plans().iter().any(|plan| nic.locals.contains(&plan.local) && plan.vlan == 0);
        if nic.mode != Mode::Userspace && nic.vlan_tag_visible != Some(true) && untagged {
            let reason = match nic.vlan_tag_visible {
                Some(false) => {
                    "the device strips tags on receive (rx-vlan-offload); `ethtool -K DEVICE rxvlan off` keeps them"
                }
                _ => "the device may hand frames over without the tag they came with, which cannot be seen from here",
            };
            self.sink.now(EventBody::VlanUncertain { interface: nic.name.clone(), reason: reason.to_owned() });
        }
        if nic.threaded_napi == Some(true) {
            self.sink.now(EventBody::ThreadedNapi { interface: nic.name.clone() });
        }
    }

    /// Enters the best mode from `from` on down that the configuration allows. A mode that was asked for by name is
    /// entered or refused, at any time.
    fn enter(&mut self, nic: &mut Nic, from: Mode, strict: bool) -> anyhow::Result<()> {
        nic.entered_ns = clock::now().0;
        if nic.wanted == FastPath::Off {
            return self.enter_userspace(nic);
        }
        let ours = self.hold_pins();
        let by_name = nic.wanted != FastPath::Auto;
        let (Some(object), Some(pins)) = (&mut self.object, &self.pins) else {
            let reason = self.without.clone().unwrap_or_else(|| "no BPF object".to_owned());
            if by_name && reason != DETACHED {
                bail!("interface {}: fast_path = \"{}\" cannot be had: {reason}", nic.name, nic.wanted.name());
            }
            self.stepped_down(nic, Mode::Native, Mode::Userspace, &reason);
            return self.enter_userspace(nic);
        };
        let mut from = from;
        let left = if ours { attach::pinned_mode(pins, nic.ifindex)? } else { None };
        match (nic.wanted, left) {
            // A program that runs is taken over in its mode: no answer is lost.
            (FastPath::Auto, Some(Mode::Generic)) if from == Mode::Native => from = Mode::Generic,
            (FastPath::Native, Some(Mode::Generic)) => attach::remove_link(pins, Mode::Generic, nic.ifindex)?,
            (FastPath::Generic, Some(Mode::Native)) => attach::remove_link(pins, Mode::Native, nic.ifindex)?,
            _ => {}
        }
        let steps: &[Mode] = match (from, nic.wanted) {
            (Mode::Native, FastPath::Auto) => &[Mode::Native, Mode::Generic],
            (Mode::Native, FastPath::Native) => &[Mode::Native],
            (Mode::Generic, _) => &[Mode::Generic],
            _ => &[],
        };
        let mut tried: Option<(Mode, String)> = None;
        for mode in steps {
            match attach::attach(object, pins, ours, nic.ifindex, *mode) {
                Ok(attachment) => {
                    nic.attachment = Some(attachment);
                    nic.mode = *mode;
                    if let Some((from, reason)) = tried {
                        self.stepped_down(nic, from, *mode, &reason);
                    }
                    return self.route(nic, true);
                }
                Err(error @ AttachError::Foreign { .. }) if strict => bail!("interface {}: {error}", nic.name),
                Err(error) if by_name => {
                    bail!("interface {}: fast_path = \"{}\" cannot be had: {error}", nic.name, nic.wanted.name());
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
            self.paths.set_running(*local, nic.running, in_kernel);
        }
        Ok(())
    }

    fn socket_index(&self, local: IpAddr) -> Option<usize> {
        self.paths.locals().binary_search(&local).ok()
    }

    /// Answers in userspace.
    fn enter_userspace(&mut self, nic: &mut Nic) -> anyhow::Result<()> {
        nic.mode = Mode::Userspace;
        nic.entered_ns = clock::now().0;
        let detached = nic.attachment.take().map_or(Ok(()), |attachment| self.let_go(attachment));
        self.route(nic, false).and(detached)
    }

    fn take_down(&mut self, index: u32) {
        if let Some(nic) = self.nics.remove(&index) {
            let interface = nic.name.clone();
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

    fn replace_link(&mut self, index: u32) -> anyhow::Result<()> {
        let here = interfaces::by_address()?.values().any(|interface| interface.ifindex == index);
        if !here {
            // The device is gone or was moved away: the program there is let go, and `scan` brings back what returns.
            self.take_down(index);
            return Ok(());
        }
        let Some(mut nic) = self.nics.remove(&index) else { return Ok(()) };
        let result = self.reattach(&mut nic);
        self.nics.insert(index, nic);
        result
    }

    fn reattach(&mut self, nic: &mut Nic) -> anyhow::Result<()> {
        let mode = nic.mode;
        if let Some(attachment) = nic.attachment.take() {
            self.let_go(attachment)?;
        }
        self.sink.now(EventBody::LinkDetachedForeign { interface: nic.name.clone(), program: Program::Xdp });
        let now = clock::now().0;
        let again = nic.detached_ns != 0 && now - nic.detached_ns < DETACH_PATIENCE_NS;
        nic.detached_ns = now;
        if again && nic.wanted == FastPath::Auto {
            self.stepped_down(nic, mode, Mode::Userspace, "the program was detached twice within a minute");
            return self.enter_userspace(nic);
        }
        self.enter(nic, mode, false)?;
        if nic.mode == mode {
            let (interface, mode) = (nic.name.clone(), mode.into());
            self.sink.now(EventBody::LinkReattached { interface, program: Program::Xdp, mode });
        }
        Ok(())
    }

    /// Steps the interface of a path down one mode, because echoes of the present one do not arrive; unless they do on
    /// another path of it (then the fault is that peer's), or the present mode is too new to be judged.
    ///
    /// # Errors
    /// If the next mode cannot be entered.
    pub fn step_down(&mut self, path: usize, shared: &Shared) -> anyhow::Result<()> {
        let Some(plan) = self.paths.plans().get(path) else { return Ok(()) };
        let (local, same_subnet) = (plan.local, plan.same_subnet);
        let detection = self.config.settings.detection_time(same_subnet).as_nanos() as u64;
        let Some(index) = self.nics.values().find(|nic| nic.locals.contains(&local)).map(|nic| nic.ifindex) else {
            return Ok(());
        };
        let Some(mut nic) = self.nics.remove(&index) else { return Ok(()) };
        let now = clock::now().0;
        let arrives = |other: usize| {
            let tick = shared.tick(other as u32);
            other != path && tick.is_some_and(|tick| now.saturating_sub(tick.returned_ns) < detection)
        };
        let elsewhere = nic.locals.iter().flat_map(|local| self.paths.of_local(*local)).any(arrives);
        let result = if now.saturating_sub(nic.entered_ns) < detection {
            Ok(())
        } else if elsewhere {
            let peer = self.paths.plans()[path].peer;
            nic.reason =
                Some(format!("echoes do not arrive at {peer}, though they do at others: its fault, or the way's"));
            Ok(())
        } else {
            self.step_nic_down(&mut nic)
        };
        self.nics.insert(index, nic);
        self.pacer.tell(PacerCommand::Signers(self.paths.signers()));
        result
    }

    fn step_nic_down(&mut self, nic: &mut Nic) -> anyhow::Result<()> {
        let from = nic.mode;
        let reason = format!("echoes by {from} XDP do not arrive at the peers");
        if nic.wanted != FastPath::Auto || from == Mode::Userspace {
            nic.reason = Some(format!("{reason}, and fast_path = \"{}\" allows nothing else", nic.wanted.name()));
            return Ok(());
        }
        if let Some(attachment) = nic.attachment.take() {
            self.let_go(attachment)?;
        }
        if from == Mode::Native {
            let entered = self.enter(nic, Mode::Generic, false);
            if nic.mode == Mode::Generic {
                self.stepped_down(nic, from, Mode::Generic, &reason);
            }
            return entered;
        }
        self.stepped_down(nic, from, Mode::Userspace, &reason);
        self.enter_userspace(nic)
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
    /// userspace answers instead. It goes as far as it can, and then tells the first fault.
    ///
    /// # Errors
    /// If a table cannot be written or a pin cannot be removed.
    pub fn leave_kernel(&mut self) -> anyhow::Result<()> {
        let mut result = Ok(());
        for index in self.nics.keys().copied().collect::<Vec<_>>() {
            let Some(mut nic) = self.nics.remove(&index) else { continue };
            if nic.mode != Mode::Userspace {
                let before = nic.mode;
                let entered = self.enter_userspace(&mut nic);
                self.stepped_down(&mut nic, before, Mode::Userspace, DETACHED);
                result = result.and(entered);
            }
            self.nics.insert(index, nic);
        }
        self.pacer.tell(PacerCommand::Signers(self.paths.signers()));
        self.without = Some(DETACHED.to_owned());
        // Without pins nothing is repaired or attached again.
        result.and(self.remove_pins())
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

/// Notes whether an interface runs, for each of its paths.
fn note_running(paths: &Paths, nic: &mut Nic, running: bool) {
    if nic.running == running {
        return;
    }
    nic.running = running;
    for local in &nic.locals {
        paths.set_running(*local, running, nic.mode != Mode::Userspace);
    }
}

/// Says whether an address is configured but not to be used yet: IPv6 checks it for duplicates first.
fn is_not_there_yet(error: &anyhow::Error) -> bool {
    error.downcast_ref::<nix::errno::Errno>() == Some(&nix::errno::Errno::EADDRNOTAVAIL)
}

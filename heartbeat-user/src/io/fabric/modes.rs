//! How echoes are answered on an interface: entering the best mode that is allowed, stepping down from one whose echoes
//! do not arrive, attaching again what others took off, leaving the kernel. It judges no peer.

use super::{DETACH_PATIENCE_NS, Fabric};
use crate::config::FastPath;
use crate::core::event::{EventBody, Program};
use crate::io::attach::{self, AttachError, Mode};
use crate::io::memory::Shared;
use crate::io::nic::Nic;
use crate::io::pacer::PacerCommand;
use crate::io::{clock, interfaces};
use anyhow::bail;

/// Why nothing is attached after the kernel was left.
const DETACHED: &str = "the programs were detached by command";

impl Fabric {
    /// Enters the best mode from `from` on down that the configuration allows. A mode that was asked for by name is
    /// entered or refused, at any time.
    pub(super) fn enter(&mut self, nic: &mut Nic, from: Mode, strict: bool) -> anyhow::Result<()> {
        nic.entered_ns = clock::now().0;
        if nic.view.wanted == FastPath::Off {
            return self.enter_userspace(nic);
        }
        let ours = self.hold_pins();
        let by_name = nic.view.wanted != FastPath::Auto;
        let (Some(object), Some(pins)) = (&mut self.object, &self.pins) else {
            let reason = self.without.clone().unwrap_or_else(|| "no BPF object".to_owned());
            if by_name && reason != DETACHED {
                bail!(
                    "interface {}: fast_path = \"{}\" cannot be had: {reason}",
                    nic.view.name,
                    nic.view.wanted.name()
                );
            }
            self.stepped_down(nic, Mode::Native, Mode::Userspace, &reason);
            return self.enter_userspace(nic);
        };
        let mut from = from;
        let left = if ours { attach::pinned_mode(pins, nic.ifindex)? } else { None };
        match (nic.view.wanted, left) {
            // A program that runs is taken over in its mode: no answer is lost.
            (FastPath::Auto, Some(Mode::Generic)) if from == Mode::Native => from = Mode::Generic,
            (FastPath::Native, Some(Mode::Generic)) => attach::remove_link(pins, Mode::Generic, nic.ifindex)?,
            (FastPath::Generic, Some(Mode::Native)) => attach::remove_link(pins, Mode::Native, nic.ifindex)?,
            _ => {}
        }
        let steps: &[Mode] = match (from, nic.view.wanted) {
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
                    nic.view.mode = *mode;
                    if let Some((from, reason)) = tried {
                        self.stepped_down(nic, from, *mode, &reason);
                    }
                    return self.route(nic, true);
                }
                Err(error @ AttachError::Foreign { .. }) if strict => bail!("interface {}: {error}", nic.view.name),
                Err(error) if by_name => {
                    bail!(
                        "interface {}: fast_path = \"{}\" cannot be had: {error}",
                        nic.view.name,
                        nic.view.wanted.name()
                    );
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

    pub(super) fn stepped_down(&self, nic: &mut Nic, from: Mode, to: Mode, reason: &str) {
        nic.view.reason = Some(reason.to_owned());
        self.sink.now(EventBody::StepDownMode {
            interface: nic.view.name.clone(),
            from: from.into(),
            to: to.into(),
            reason: reason.to_owned(),
        });
    }

    fn route(&mut self, nic: &Nic, in_kernel: bool) -> anyhow::Result<()> {
        for local in &nic.view.locals {
            self.paths.open(self.object.as_mut(), *local, nic.ifindex, nic.running, in_kernel)?;
        }
        Ok(())
    }

    /// Answers in userspace.
    pub(super) fn enter_userspace(&mut self, nic: &mut Nic) -> anyhow::Result<()> {
        nic.view.mode = Mode::Userspace;
        nic.entered_ns = clock::now().0;
        let detached = nic.attachment.take().map_or(Ok(()), |attachment| self.let_go(attachment));
        self.route(nic, false).and(detached)
    }

    pub(super) fn replace_link(&mut self, index: u32) -> anyhow::Result<()> {
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
        let mode = nic.view.mode;
        if let Some(attachment) = nic.attachment.take() {
            self.let_go(attachment)?;
        }
        self.sink.now(EventBody::LinkDetachedForeign { interface: nic.view.name.clone(), program: Program::Xdp });
        let now = clock::now().0;
        let again = nic.detached_ns != 0 && now - nic.detached_ns < DETACH_PATIENCE_NS;
        nic.detached_ns = now;
        if again && nic.view.wanted == FastPath::Auto {
            self.stepped_down(nic, mode, Mode::Userspace, "the program was detached twice within a minute");
            return self.enter_userspace(nic);
        }
        self.enter(nic, mode, false)?;
        if nic.view.mode == mode {
            let (interface, mode) = (nic.view.name.clone(), mode.into());
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
        let Some(index) = self.nics.values().find(|nic| nic.view.locals.contains(&local)).map(|nic| nic.ifindex) else {
            return Ok(());
        };
        let Some(mut nic) = self.nics.remove(&index) else { return Ok(()) };
        let now = clock::now().0;
        let arrives = |other: usize| {
            let tick = shared.tick(other as u32);
            other != path && tick.is_some_and(|tick| now.saturating_sub(tick.returned_ns) < detection)
        };
        let elsewhere = nic.view.locals.iter().flat_map(|local| self.paths.of_local(*local)).any(arrives);
        let result = if now.saturating_sub(nic.entered_ns) < detection {
            Ok(())
        } else if elsewhere {
            let peer = self.paths.plans()[path].peer;
            nic.view.reason =
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
        let from = nic.view.mode;
        let reason = format!("echoes by {from} XDP do not arrive at the peers");
        if nic.view.wanted != FastPath::Auto || from == Mode::Userspace {
            nic.view.reason =
                Some(format!("{reason}, and fast_path = \"{}\" allows nothing else", nic.view.wanted.name()));
            return Ok(());
        }
        if let Some(attachment) = nic.attachment.take() {
            self.let_go(attachment)?;
        }
        if from == Mode::Native {
            let entered = self.enter(nic, Mode::Generic, false);
            if nic.view.mode == Mode::Generic {
                self.stepped_down(nic, from, Mode::Generic, &reason);
            }
            return entered;
        }
        self.stepped_down(nic, from, Mode::Userspace, &reason);
        self.enter_userspace(nic)
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
            if nic.view.mode != Mode::Userspace {
                let before = nic.view.mode;
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
}

//! The addresses of interfaces in use: the tables, the socket and the door of each. It opens what comes and closes what
//! goes, waits for a port that another process has, and leaves programs alone.

use super::Fabric;
use crate::core::event::EventBody;
use crate::io::attach::Mode;
use crate::io::interfaces::{self, Interface};
use crate::io::nic::{Nic, Taken};
use crate::io::pacer::PacerCommand;
use crate::io::paths::Paths;
use crate::io::responder::Door;
use crate::io::{clock, socket};
use anyhow::Context;
use heartbeat_common::frame::PORT;
use nix::errno::Errno;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

impl Fabric {
    /// Closes the addresses that left an interface in use, and notes its name and whether it runs.
    pub(super) fn close_departed(&mut self, index: u32, interface: &Interface, locals: &[IpAddr]) {
        let Some(mut nic) = self.nics.remove(&index) else { return };
        // Everything here goes by the index; the name is for people.
        nic.view.name.clone_from(&interface.name);
        for local in nic.view.locals.iter().filter(|local| !locals.contains(local)) {
            self.close_local(*local);
        }
        nic.view.locals.retain(|local| locals.contains(local));
        nic.view.taken.retain(|local, _| locals.contains(local));
        note_running(&self.paths, &mut nic, interface.running);
        self.nics.insert(index, nic);
    }

    /// Opens addresses that came to an interface in use, and tries again what ports it waits for.
    pub(super) fn adjust(&mut self, index: u32, interface: &Interface, locals: &[IpAddr]) -> anyhow::Result<()> {
        let Some(mut nic) = self.nics.remove(&index) else { return Ok(()) };
        let result = self.adjust_nic(&mut nic, interface, locals);
        self.nics.insert(index, nic);
        result
    }

    fn adjust_nic(&mut self, nic: &mut Nic, interface: &Interface, locals: &[IpAddr]) -> anyhow::Result<()> {
        let tried = self.try_taken(nic);
        let new: Vec<IpAddr> = locals.iter().copied().filter(|local| !nic.view.locals.contains(local)).collect();
        interfaces::refuse_hidden_tags_on(&self.config, self.paths.own(), interface, &new)?;
        for local in new {
            if self.open_local(nic, local)? {
                nic.view.locals.push(local);
            }
        }
        tried
    }

    /// Opens one address: its tables, its socket, its door. False if the address cannot be used yet. A port that another
    /// process has is waited for: XDP answers without a socket, and whoever is quick enough in the gap of a restart,
    /// which takes no right at all, must not be able to keep this node from starting.
    pub(super) fn open_local(&mut self, nic: &mut Nic, local: IpAddr) -> anyhow::Result<bool> {
        let fd = match socket::open(local, &nic.view.name) {
            Ok(fd) => Some(fd),
            // IPv6 checks a new address for duplicates first.
            Err(error) if is(&error, Errno::EADDRNOTAVAIL) => return Ok(false),
            Err(error) if is(&error, Errno::EADDRINUSE) => None,
            Err(error) => return Err(error),
        };
        let in_kernel = nic.view.mode != Mode::Userspace;
        self.paths.set_mute(local, fd.is_none());
        self.paths.open(self.object.as_mut(), local, nic.ifindex, nic.running, in_kernel)?;
        match fd {
            Some(fd) => self.furnish(nic, local, fd)?,
            None => drop(nic.view.taken.insert(local, Taken { since: clock::now(), told: false })),
        }
        Ok(true)
    }

    /// Gives an address's socket to those who use it.
    fn furnish(&self, nic: &Nic, local: IpAddr, fd: OwnedFd) -> anyhow::Result<()> {
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
        Ok(())
    }

    /// Tries once more to have the ports that another process had. That it still has one is told at the second look:
    /// a socket that this node has just closed may live on for a moment.
    fn try_taken(&self, nic: &mut Nic) -> anyhow::Result<()> {
        for (local, taken) in nic.view.taken.clone() {
            match socket::open(local, &nic.view.name) {
                Ok(fd) => {
                    self.furnish(nic, local, fd)?;
                    nic.view.taken.remove(&local);
                    self.paths.set_mute(local, false);
                    if taken.told {
                        let (interface, taken_ms) = (nic.view.name.clone(), clock::now().since(taken.since));
                        let taken_ms = u64::try_from(taken_ms.as_millis()).unwrap_or(u64::MAX);
                        self.sink.now(EventBody::PortFree { interface, address: local, port: PORT, taken_ms });
                    }
                }
                Err(error) if is(&error, Errno::EADDRINUSE) => {
                    if !taken.told {
                        nic.view.taken.insert(local, Taken { told: true, ..taken });
                        let interface = nic.view.name.clone();
                        self.sink.now(EventBody::PortTaken { interface, address: local, port: PORT });
                    }
                }
                // It is checked for duplicates once more, or is about to go.
                Err(error) if is(&error, Errno::EADDRNOTAVAIL) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    pub(super) fn close_local(&mut self, local: IpAddr) {
        self.paths.close(self.object.as_mut(), local);
        if let Some(index) = self.socket_index(local) {
            self.pacer.tell(PacerCommand::Socket(index, None));
            self.responder.set_door(index, None);
        }
    }

    pub(super) fn socket_index(&self, local: IpAddr) -> Option<usize> {
        self.paths.locals().binary_search(&local).ok()
    }
}

/// Notes whether an interface runs, for each of its paths.
pub(super) fn note_running(paths: &Paths, nic: &mut Nic, running: bool) {
    if nic.running == running {
        return;
    }
    nic.running = running;
    for local in &nic.view.locals {
        paths.set_usable(*local, running, nic.view.mode != Mode::Userspace);
    }
}

/// Says whether a socket could not be opened for this reason.
fn is(error: &anyhow::Error, errno: Errno) -> bool {
    error.downcast_ref::<Errno>() == Some(&errno)
}

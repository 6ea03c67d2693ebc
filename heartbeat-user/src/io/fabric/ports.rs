//! The addresses of interfaces in use: the tables, the socket and the door of each. It opens what comes and closes what
//! goes, and leaves programs alone.

use super::Fabric;
use crate::io::attach::Mode;
use crate::io::interfaces::{self, Interface};
use crate::io::nic::Nic;
use crate::io::pacer::PacerCommand;
use crate::io::paths::Paths;
use crate::io::responder::Door;
use crate::io::socket;
use anyhow::Context;
use std::net::IpAddr;

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
        note_running(&self.paths, &mut nic, interface.running);
        self.nics.insert(index, nic);
    }

    /// Opens addresses that came to an interface in use.
    pub(super) fn adjust(&mut self, index: u32, interface: &Interface, locals: &[IpAddr]) -> anyhow::Result<()> {
        let Some(mut nic) = self.nics.remove(&index) else { return Ok(()) };
        let result = self.adjust_nic(&mut nic, interface, locals);
        self.nics.insert(index, nic);
        result
    }

    fn adjust_nic(&mut self, nic: &mut Nic, interface: &Interface, locals: &[IpAddr]) -> anyhow::Result<()> {
        let new: Vec<IpAddr> = locals.iter().copied().filter(|local| !nic.view.locals.contains(local)).collect();
        interfaces::refuse_hidden_tags_on(&self.config, self.paths.own(), interface, &new)?;
        for local in new {
            if self.open_local(nic, local)? {
                nic.view.locals.push(local);
            }
        }
        Ok(())
    }

    /// Opens one address: its tables, its socket, its door. False if the address cannot be used yet.
    pub(super) fn open_local(&mut self, nic: &Nic, local: IpAddr) -> anyhow::Result<bool> {
        let fd = match socket::open(local, &nic.view.name) {
            Ok(fd) => fd,
            Err(error) if is_not_there_yet(&error) => return Ok(false),
            Err(error) => return Err(error),
        };
        self.paths.open(self.object.as_mut(), local, nic.ifindex, nic.view.mode != Mode::Userspace)?;
        self.paths.set_running(local, nic.running, nic.view.mode != Mode::Userspace);
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
        paths.set_running(*local, running, nic.view.mode != Mode::Userspace);
    }
}

/// Says whether an address is configured but not to be used yet: IPv6 checks it for duplicates first.
fn is_not_there_yet(error: &anyhow::Error) -> bool {
    error.downcast_ref::<nix::errno::Errno>() == Some(&nix::errno::Errno::EADDRNOTAVAIL)
}

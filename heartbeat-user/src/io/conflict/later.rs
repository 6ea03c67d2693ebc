//! Addresses that a new incarnation could not ask for at its start, since no link that passes frames had them. Each is
//! held back until it was asked for: no program, no table, no socket and no connection between controllers uses it. A
//! thread of its own asks, and ends with the last of them.

use super::{Question, SLOW_WAITS, Taken, Unasked, askable, listen};
use crate::core::event::NodeName;
use crate::io::interfaces;
use crate::io::journal::EventSink;
use anyhow::Context;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How often it is looked whether a link has come.
const LOOK: Duration = Duration::from_millis(500);
/// How long an address that another machine holds is left alone.
const AGAIN: Duration = Duration::from_secs(10);

/// The addresses that are held back. All clones are one.
#[derive(Clone, Debug, Default)]
pub struct Held(Arc<Mutex<BTreeSet<IpAddr>>>);

impl Held {
    /// Whether nothing may be said from an address yet.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(&address)
    }

    pub(super) fn add(&self, address: IpAddr) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(address);
    }

    fn release(&self, address: IpAddr) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&address);
    }
}

/// Begins to ask for addresses as their links come, each by a socket that was opened for it.
pub(super) fn begin(
    sockets: Vec<(IpAddr, OwnedFd)>,
    held: Held,
    node: NodeName,
    sink: EventSink,
) -> anyhow::Result<()> {
    let worker = Worker { waiting: sockets.into_iter().collect(), told: BTreeSet::new(), held, node, sink };
    std::thread::Builder::new()
        .name("hb-conflict".to_owned())
        .stack_size(super::STACK)
        .spawn(move || worker.run())
        .map(drop)
        .context("start a thread")
}

struct Worker {
    waiting: BTreeMap<IpAddr, OwnedFd>,
    /// Those whose other holder was told.
    told: BTreeSet<IpAddr>,
    held: Held,
    node: NodeName,
    sink: EventSink,
}

impl Worker {
    fn run(mut self) {
        let mut failed = String::new();
        while !self.waiting.is_empty() {
            let pause = match self.look() {
                Ok(None) => LOOK,
                Ok(Some(taken)) => {
                    self.tell(&taken);
                    AGAIN
                }
                Err(error) => {
                    let text = format!("{error:#}");
                    if text != failed {
                        log::warn!("it is not known yet whether another machine has an address of this node's: {text}");
                        failed = text;
                    }
                    LOOK
                }
            };
            std::thread::sleep(pause);
        }
    }

    /// Asks for what is there by now. Releases what nobody else holds, if that is so of all that was asked for: a machine
    /// that holds one address of this node's is to have none of it displaced.
    fn look(&mut self) -> anyhow::Result<Option<Taken>> {
        let (present, links) = (interfaces::by_address()?, interfaces::links()?);
        let mut questions = Vec::new();
        let mut never = Vec::new();
        for (address, socket) in &self.waiting {
            let Some(interface) = present.get(address) else { continue };
            match askable(links.get(&interface.ifindex)) {
                Ok(link) => questions.push(Question::new(*address, interface, link.address, socket.try_clone()?)?),
                Err(Unasked::NotYet) => {}
                Err(Unasked::Never(why)) => {
                    log::info!("{address}: not asked whether another machine has it: {} {why}", interface.name);
                    never.push(*address);
                }
            }
        }
        let all_own = links.values().map(|link| link.address).collect();
        if !questions.is_empty()
            && let Some(taken) = listen(&questions, &all_own, &SLOW_WAITS)
        {
            return Ok(Some(taken));
        }
        for address in never.into_iter().chain(questions.into_iter().map(|question| question.address)) {
            self.waiting.remove(&address);
            self.held.release(address);
        }
        Ok(None)
    }

    fn tell(&mut self, taken: &Taken) {
        if self.told.insert(taken.address) {
            self.sink.now(taken.told_by(self.node.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_held_for_all_who_ask() {
        let (held, address) = (Held::default(), IpAddr::from([10, 77, 1, 2]));
        let other = held.clone();
        assert!(!other.contains(address));
        held.add(address);
        assert!(other.contains(address) && !other.contains([10, 77, 1, 3].into()));
        held.release(address);
        assert!(!other.contains(address));
    }
}

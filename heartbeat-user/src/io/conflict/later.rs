//! Addresses that a new incarnation could not ask for at its start: no link that passes frames had them, or the question
//! could not be sent. Each is held back until it was asked for: no program, no table, no socket and no connection between
//! controllers uses it. A thread of its own asks, and ends with the last of them.

use super::ask::{Answers, Question, Unasked, askable, listen};
use super::frame::Mac;
use super::{SLOW_WAITS, Taken};
use crate::core::event::{EventBody, NodeName};
use crate::core::time::MonoTime;
use crate::io::clock;
use crate::io::interfaces::{self, Interface, Link};
use crate::io::journal::EventSink;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How often it is looked whether a link has come.
const LOOK: Duration = Duration::from_millis(500);
/// How long it is tried to ask for an address whose link is up, before it is used though nobody was asked: what keeps a
/// question from leaving for so long, as a rule of this host's own firewall does, is no matter of a link that comes up.
const PATIENCE: Duration = Duration::from_secs(30);
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

/// An address that waits.
struct Waiting {
    socket: OwnedFd,
    /// Since when it could not be asked for though its link is up, and why it could not the last time.
    in_vain: Option<(MonoTime, String)>,
}

/// Who asks for addresses as their links come, each by a socket that was opened for it.
pub(super) struct Worker {
    waiting: BTreeMap<IpAddr, Waiting>,
    /// Those whose other holder was told, and is not known to be gone.
    told: BTreeSet<IpAddr>,
    held: Held,
    node: NodeName,
    sink: EventSink,
}

impl Worker {
    pub(super) fn new(sockets: BTreeMap<IpAddr, OwnedFd>, held: Held, node: NodeName, sink: EventSink) -> Self {
        let waiting = sockets.into_iter().map(|(address, socket)| (address, Waiting { socket, in_vain: None }));
        Self { waiting: waiting.collect(), told: BTreeSet::new(), held, node, sink }
    }

    pub(super) fn run(mut self) {
        let mut failed = String::new();
        while !self.waiting.is_empty() {
            let host = interfaces::by_address().and_then(|present| Ok((present, interfaces::links()?)));
            let taken = match host {
                Ok((present, links)) => self.look(&present, &links, Question::new, &SLOW_WAITS),
                Err(error) => {
                    let text = format!("{error:#}");
                    if text != failed {
                        log::warn!("it is not known yet whether another machine has an address of this node's: {text}");
                        failed = text;
                    }
                    None
                }
            };
            taken.iter().for_each(|taken| self.tell(taken));
            std::thread::sleep(if taken.is_some() { AGAIN } else { LOOK });
        }
    }

    /// Asks for what is there by now, each by what `aimed` makes of its socket. Releases what nobody else holds, if that is so
    /// of all that was asked for: a machine that holds one address of this node's is to have none of it displaced. One that
    /// cannot be asked for holds up no other.
    fn look(
        &mut self,
        present: &BTreeMap<IpAddr, Interface>,
        links: &BTreeMap<u32, Link>,
        aimed: impl Fn(IpAddr, &Interface, Mac, &OwnedFd) -> anyhow::Result<Question>,
        waits: &[Duration],
    ) -> Option<Taken> {
        let (mut questions, mut free) = (Vec::new(), Vec::new());
        let mut unasked = BTreeMap::new();
        for (address, waiting) in &self.waiting {
            let Some(interface) = present.get(address) else { continue };
            match askable(links.get(&interface.ifindex)) {
                Ok(link) => match aimed(*address, interface, link.address, &waiting.socket) {
                    Ok(question) => questions.push(question),
                    Err(error) => drop(unasked.insert(*address, format!("{error:#}"))),
                },
                Err(Unasked::NotYet) => {}
                Err(Unasked::Never(why)) => {
                    log::info!("{address}: not asked whether another machine has it: {} {why}", interface.name);
                    free.push(*address);
                }
            }
        }
        if !questions.is_empty() {
            let all_own = links.values().map(|link| link.address).collect();
            let Answers { taken, unsent } = listen(&questions, &all_own, waits);
            if taken.is_some() {
                return taken;
            }
            let asked = questions.iter().map(|question| question.address);
            free.extend(asked.filter(|address| !unsent.contains_key(address)));
            unasked.extend(unsent);
        }
        for address in free {
            self.release(address);
        }
        self.go_on_unasked(unasked);
        None
    }

    /// Takes note of those that could not be asked for. What cannot be asked for though its link is up is used after a
    /// while: where this host itself lets no question out, waiting on brings no answer.
    fn go_on_unasked(&mut self, mut unasked: BTreeMap<IpAddr, String>) {
        let now = clock::now();
        let mut over = Vec::new();
        for (address, waiting) in &mut self.waiting {
            let Some(why) = unasked.remove(address) else {
                waiting.in_vain = None;
                continue;
            };
            let (since, known) = waiting.in_vain.take().unwrap_or((now, String::new()));
            if known != why {
                log::warn!("{address}: it could not be asked for yet ({why}): it is not used until it was");
            }
            // A machine that has held one address of this node's may hold all of them.
            if now.since(since) >= PATIENCE && self.told.is_empty() {
                over.push((*address, why.clone()));
            }
            waiting.in_vain = Some((since, why));
        }
        for (address, reason) in over {
            self.sink.now(EventBody::AddressUnasked { address, reason });
            self.release(address);
        }
    }

    fn release(&mut self, address: IpAddr) {
        self.waiting.remove(&address);
        self.told.remove(&address);
        self.held.release(address);
    }

    fn tell(&mut self, taken: &Taken) {
        if self.told.insert(taken.address) {
            self.sink.now(taken.told_by(self.node.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::ask::tests::{OTHER, OWN, announced, interface, mute, wire};
    use super::*;
    use crate::core::ids::NodeId;
    use crate::io::journal::{Journal, JournalSetup};
    use nix::net::if_::InterfaceFlags;

    const WAITS: [Duration; 2] = [Duration::from_millis(2); 2];

    fn address(last: u8) -> IpAddr {
        [10, 77, 1, last].into()
    }

    /// Somebody who waits for addresses, of which each is on a link that is up.
    struct Play {
        worker: Worker,
        present: BTreeMap<IpAddr, Interface>,
        links: BTreeMap<u32, Link>,
        journal: Journal,
        _directory: tempfile::TempDir,
    }

    impl Play {
        fn new(sockets: Vec<(u8, OwnedFd)>) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let setup = JournalSetup {
                file: directory.path().join("events.jsonl"),
                bytes_max: 1 << 20,
                files: 1,
                node: "a".to_owned(),
            };
            let journal = Journal::start(setup).unwrap();
            let held = Held::default();
            let sockets: BTreeMap<_, _> = sockets.into_iter().map(|(last, socket)| (address(last), socket)).collect();
            sockets.keys().for_each(|address| held.add(*address));
            let present = sockets.keys().map(|address| (*address, interface())).collect();
            let flags = InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING;
            let link = Link { hardware: libc::ARPHRD_ETHER, address: OWN, flags };
            let links = BTreeMap::from([(interface().ifindex, link)]);
            let node = NodeName { node: "a".to_owned(), node_id: NodeId(1) };
            let worker = Worker::new(sockets, held, node, journal.sink.clone());
            Self { worker, present, links, journal, _directory: directory }
        }

        /// Looks once; a socket of `refused` cannot be aimed.
        fn look(&mut self, refused: u8) -> Option<Taken> {
            let aimed = |asked: IpAddr, interface: &Interface, own: Mac, socket: &OwnedFd| {
                anyhow::ensure!(asked != address(refused), "it cannot be aimed");
                Question::by(asked, interface, own, socket)
            };
            self.worker.look(&self.present, &self.links, aimed, &WAITS)
        }

        /// The link of an address has been up since the machine started.
        fn begun_long_ago(&mut self, last: u8) {
            let waiting = self.worker.waiting.get_mut(&address(last)).unwrap();
            waiting.in_vain.as_mut().unwrap().0 = MonoTime::ZERO;
        }

        fn is_held(&self, last: u8) -> bool {
            self.worker.held.contains(address(last))
        }

        /// What was told, once all of it is there.
        fn told(mut self) -> Vec<(String, String)> {
            self.journal.stop();
            let text = |event: &serde_json::Value, key: &str| event[key].as_str().unwrap_or_default().to_owned();
            let events = self.journal.view.since(None);
            events.iter().map(|event| (text(event, "event"), text(event, "address"))).collect()
        }
    }

    #[test]
    fn one_that_cannot_be_aimed_holds_up_no_other() {
        let (sent, _other) = wire();
        let mut play = Play::new(vec![(2, mute()), (3, sent)]);
        assert_eq!(play.look(2), None);
        assert!(play.is_held(2) && !play.is_held(3));
        assert!(play.told().is_empty());
    }

    #[test]
    fn one_whose_question_cannot_be_sent_is_held_until_it_was() {
        let (sent, _other) = wire();
        let mut play = Play::new(vec![(2, mute())]);
        for _ in 0..3 {
            assert_eq!(play.look(0), None);
            assert!(play.is_held(2), "nothing is known of it");
        }
        play.worker.waiting.get_mut(&address(2)).unwrap().socket = sent;
        assert_eq!(play.look(0), None);
        assert!(!play.is_held(2));
        assert!(play.told().is_empty());
    }

    #[test]
    fn one_that_could_not_be_asked_for_all_the_time_is_used_and_that_is_told() {
        let mut play = Play::new(vec![(2, mute()), (3, mute())]);
        assert_eq!(play.look(0), None);
        play.begun_long_ago(2);
        play.begun_long_ago(3);
        // The interface of the one is gone for a while: its time begins anew.
        let gone = play.present.remove(&address(3)).unwrap();
        assert_eq!(play.look(0), None);
        play.present.insert(address(3), gone);
        assert_eq!(play.look(0), None);
        assert!(!play.is_held(2) && play.is_held(3));
        assert_eq!(play.told(), [("address_unasked".to_owned(), "10.77.1.2".to_owned())]);
    }

    #[test]
    fn where_another_machine_holds_one_none_is_used_unasked() {
        let (sent, other) = wire();
        let mut play = Play::new(vec![(2, mute()), (3, sent)]);
        other.send(&announced(OTHER, 3)).unwrap();
        let taken = play.look(0).unwrap();
        play.worker.tell(&taken);
        // Then no question can be sent any more, for long.
        play.worker.waiting.get_mut(&address(3)).unwrap().socket = mute();
        for _ in 0..2 {
            assert_eq!(play.look(0), None);
            play.begun_long_ago(2);
            play.begun_long_ago(3);
        }
        assert!(play.is_held(2) && play.is_held(3), "the other machine may have both");
        assert_eq!(play.told(), [("second_address".to_owned(), "10.77.1.3".to_owned())]);
    }

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

//! Whether another machine holds an address of this node's: a clone of it, or a host that was given the address twice.
//! It is asked on the link itself before a new incarnation speaks, since the newer incarnation always wins: a clone that
//! spoke would displace the member that runs. It asks, listens and says who answered; what follows is the start's.
//!
//! ```text
//! asked, nobody answers: free         another machine answers: the start is refused
//! no link yet, or the question could not be sent: not known, held back until it was asked (later.rs)
//! ```
//!
//! The kernel of whoever holds an address answers, so an answer takes no turn of anybody's userspace.

mod ask;
pub mod frame;
mod later;

pub use later::Held;

use crate::cli::ExitCode;
use crate::config::Config;
use crate::core::event::{EventBody, NodeName};
use crate::core::ids::NodeId;
use crate::io::failure::Failure;
use crate::io::journal::Journal;
use crate::io::{interfaces, realtime, sys};
use anyhow::Context;
use ask::{Answers, Question, Unasked, askable, listen};
use frame::Mac;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::thread::JoinHandle;
use std::time::Duration;

/// How long an answer is waited for after each question. RFC 5227 takes seconds, for links that are slow to come up; a
/// node that returns is missed for as long.
const WAITS: [Duration; 3] = [Duration::from_millis(50), Duration::from_millis(50), Duration::from_millis(100)];
/// The same for a link that has only now come up: the switch may take a second to pass frames, and nobody waits for this
/// node by then.
const SLOW_WAITS: [Duration; 3] = [Duration::from_millis(500); 3];
/// `CAP_NET_RAW`, from linux/capability.h.
const CAP_NET_RAW: u32 = 13;
/// Name of the threads that ask.
const THREAD: &str = "hb-conflict";
const STACK: usize = 128 * 1024;

/// An address of this node's that another machine holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The address.
    pub address: IpAddr,
    /// The interface on which it was asked for.
    pub interface: String,
    /// Who answered.
    pub holder: Mac,
}

impl fmt::Display for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.holder;
        let interface = &self.interface;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x} answers for it on {interface}")
    }
}

/// A question that is under way.
#[derive(Debug, Default)]
pub struct Asked {
    thread: Option<JoinHandle<Answers>>,
    /// What a person should know.
    warnings: Vec<String>,
    held: Held,
    /// By which each address is asked for.
    sockets: BTreeMap<IpAddr, OwnedFd>,
    /// SCHED_FIFO priority of who asks; 0: none.
    priority: u8,
}

/// What comes of it where nobody else has an address of this node's.
#[derive(Debug)]
pub struct Free {
    /// What a person should know.
    pub warnings: Vec<String>,
    /// The addresses that are held back, since they could not be asked for yet.
    pub held: Held,
}

/// Begins to ask for every address of this node's, where it takes a new incarnation: one that goes on has been speaking
/// all the time. A link that answers nothing is passed over by name; an address that no link has yet, or that cannot be
/// asked for just now, is held back.
///
/// Who asks has the scheduling of the threads that must not be late, two below the pacing thread: beside busy processes an
/// ordinary thread may get no turn for seconds, for which the start would wait. Where that is refused, which the pacing
/// thread tells, it is an ordinary thread: the start waits for its turn and nothing else changes, since the time to answer
/// counts from when the question was sent.
///
/// Afterwards the calling thread has no CAP_NET_RAW any more, unless it is root's: nothing else needs it.
///
/// # Errors
/// If a thread cannot be made.
pub fn ask(config: &Config, own: u16, new_incarnation: bool) -> anyhow::Result<Asked> {
    let mut asked = Asked { priority: config.daemon.realtime_priority.saturating_sub(2), ..Asked::default() };
    let asks = new_incarnation && config.daemon.address_conflict_detection;
    let (questions, all_own) = if asks { asked.open_all(config, own) } else { Default::default() };
    // Before any other thread begins but the log's, since each begins with what this one has.
    if let Err(error) = give_up_raw_packets() {
        log::warn!("CAP_NET_RAW could not be given up: {error}");
    }
    asked.begin(questions, all_own)?;
    Ok(asked)
}

/// Gives up the calling thread's right to raw packets, unless it is root's.
///
/// # Errors
/// If the kernel refuses, which leaves the right as it was.
pub fn give_up_raw_packets() -> std::io::Result<()> {
    if nix::unistd::geteuid().is_root() { Ok(()) } else { sys::give_up_capability(CAP_NET_RAW) }
}

impl Asked {
    /// Opens a socket for each address, and returns those that can be asked for now, and all that this host answers by. One
    /// that cannot keeps no other from it.
    fn open_all(&mut self, config: &Config, own: u16) -> (Vec<Question>, BTreeSet<Mac>) {
        let host = interfaces::by_address().and_then(|present| Ok((present, interfaces::links()?)));
        let (present, links) = host.unwrap_or_else(|error| {
            log::warn!("the links of this host are not known yet: {error:#}");
            Default::default()
        });
        let mut questions = Vec::new();
        for (_, address) in config.node(own).map_or(&[][..], |node| &node.addresses) {
            let interface = present.get(address);
            let link = interface.map_or(Err(Unasked::NotYet), |interface| askable(links.get(&interface.ifindex)));
            if let (Err(Unasked::Never(why)), Some(interface)) = (link, interface) {
                log::info!("{address}: not asked whether another machine has it: {} {why}", interface.name);
                continue;
            }
            let socket = match ask::open(*address) {
                Ok(socket) => socket,
                // No later thread has the right to it either.
                Err(error) => {
                    self.warnings.push(format!(
                        "nobody was asked whether another machine has an address of this node's: {address}: {error:#}"
                    ));
                    continue;
                }
            };
            match (link, interface) {
                (Ok(link), Some(interface)) => match Question::new(*address, interface, link.address, &socket) {
                    Ok(question) => questions.push(question),
                    Err(error) => self.hold(*address, &format!("{error:#}")),
                },
                _ => {
                    log::info!("{address}: no link has it yet: it is asked for before it is used");
                    self.held.add(*address);
                }
            }
            self.sockets.insert(*address, socket);
        }
        // Two interfaces of one host on one link answer for each other's addresses.
        (questions, links.values().map(|link| link.address).collect())
    }

    /// Holds an address back of which nothing is known, since it could not be asked for.
    fn hold(&self, address: IpAddr, why: &str) {
        log::warn!("{address}: it could not be asked for ({why}): it is not used until it was");
        self.held.add(address);
    }

    fn begin(&mut self, questions: Vec<Question>, all_own: BTreeSet<Mac>) -> anyhow::Result<()> {
        if !questions.is_empty() {
            self.thread = Some(spawn(self.priority, move || listen(&questions, &all_own, &WAITS))?);
        }
        Ok(())
    }

    /// Waits for the answers. Says who else has an address, and holds back what could not be asked for.
    fn wait(&mut self) -> anyhow::Result<Option<Taken>> {
        let Some(thread) = self.thread.take() else { return Ok(None) };
        let Ok(Answers { taken, unsent }) = thread.join() else {
            anyhow::bail!("the thread that asks whether another machine has an address of this node's has ended");
        };
        for (address, why) in unsent {
            self.hold(address, &why);
        }
        Ok(taken)
    }

    /// Waits for the answers, 200 ms from the question at most.
    ///
    /// # Errors
    /// Names the address and who has it, which the event log says too: this node must not speak.
    pub fn refuse(mut self, config: &Config, own: u16, journal: &mut Journal) -> Result<Free, Failure> {
        let name = config.node(own).map_or_else(String::new, |node| node.name.clone());
        let node = NodeName { node: name, node_id: NodeId(own) };
        let Some(taken) = self.wait().map_err(Failure::host)? else {
            let Self { warnings, held, mut sockets, priority, .. } = self;
            sockets.retain(|address, _| held.contains(*address));
            if !sockets.is_empty() {
                let worker = later::Worker::new(sockets, held.clone(), node, journal.sink.clone());
                spawn(priority, move || worker.run()).map_err(Failure::host)?;
            }
            return Ok(Free { warnings, held });
        };
        journal.sink.now(taken.told_by(node.clone()));
        // This process ends before the journal would have turned to it.
        journal.stop();
        Err(Failure::new(
            ExitCode::SecondAddress,
            anyhow::anyhow!(
                "{address}: {taken}: another machine runs as node {node}, such as a clone of this one, or was given the \
                 same address; this one says nothing, since its new incarnation would displace the other's",
                address = taken.address
            ),
        ))
    }
}

impl Taken {
    /// The event by which this node tells of it.
    fn told_by(&self, node: NodeName) -> EventBody {
        EventBody::SecondAddress { node, address: self.address.to_string(), reason: self.to_string() }
    }
}

/// Starts a thread that asks, under SCHED_FIFO at `priority` where that is allowed; 0: as an ordinary one.
fn spawn<T: Send + 'static>(priority: u8, work: impl FnOnce() -> T + Send + 'static) -> anyhow::Result<JoinHandle<T>> {
    let work = move || {
        if priority > 0 {
            // A refusal is told by the pacing thread, which asks for more.
            let _ = realtime::fifo(priority);
        }
        work()
    };
    let thread = std::thread::Builder::new().name(THREAD.to_owned()).stack_size(STACK);
    thread.spawn(work).context("start the thread that asks for addresses")
}

#[cfg(test)]
mod tests {
    use super::ask::tests::{OTHER, OWN, interface, mute, wire};
    use super::*;
    use nix::errno::Errno;
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

    fn address(last: u8) -> IpAddr {
        [10, 77, 1, last].into()
    }

    #[test]
    fn an_address_that_could_not_be_asked_for_is_not_known_and_held_back() {
        let mut asked = Asked::default();
        let (sent, _other) = wire();
        let question = |last: u8, socket: &OwnedFd| Question::by(address(last), &interface(), OWN, socket).unwrap();
        let questions = vec![question(2, &mute()), question(3, &sent)];
        asked.begin(questions, BTreeSet::from([OWN])).unwrap();
        assert_eq!(asked.wait().unwrap(), None);
        assert!(asked.held.contains(address(2)), "its question did not leave");
        assert!(!asked.held.contains(address(3)), "nobody answered for it");
    }

    #[test]
    fn who_asks_is_scheduled_as_those_who_must_not_be_late() {
        let allowed = |priority| std::thread::spawn(move || realtime::fifo(priority).is_ok()).join().unwrap();
        let policy = |priority| {
            let own = || {
                // SAFETY: a call without pointers, of the calling thread.
                unsafe { libc::sched_getscheduler(0) }
            };
            spawn(priority, own).unwrap().join().unwrap()
        };
        let fifo = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
        if allowed(3) {
            assert_eq!(policy(3), fifo);
        } else {
            println!("SCHED_FIFO is not allowed here: it asks as an ordinary thread");
        }
        assert_eq!(policy(0), libc::SCHED_OTHER);
        let config = crate::config::parse("t.toml", CONFIG.as_bytes()).unwrap();
        assert_eq!(ask(&config, 1, false).unwrap().priority, 48, "two below the pacing thread");
    }

    const CONFIG: &str = r#"[cluster]
name = "demo"
id = "6f0c5d9e2a417b83"
[daemon]
realtime_priority = 50
[[network]]
name = "net1"
subnets = ["10.0.0.0/24"]
[[node]]
name = "a"
id = 1
addresses = ["10.0.0.1"]
[[node]]
name = "b"
id = 2
addresses = ["10.0.0.2"]
"#;

    #[test]
    fn whoever_holds_an_address_is_named_with_the_interface() {
        let taken = Taken { address: address(2), interface: "eth0".to_owned(), holder: OTHER };
        assert_eq!(taken.to_string(), "02:00:00:00:00:0a answers for it on eth0");
    }

    #[test]
    fn a_thread_that_gave_up_the_capability_opens_no_packet_socket() {
        let opens = || socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None);
        let before = opens().is_ok();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                if opens().is_err() {
                    println!("without CAP_NET_RAW nothing can be given up");
                    return;
                }
                sys::give_up_capability(CAP_NET_RAW).unwrap();
                assert_eq!(opens().unwrap_err(), Errno::EPERM);
                sys::give_up_capability(CAP_NET_RAW).unwrap();
            });
        });
        assert_eq!(opens().is_ok(), before, "no other thread did");
    }
}

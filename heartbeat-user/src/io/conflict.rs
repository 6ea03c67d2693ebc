//! Whether another machine holds an address of this node's: a clone of it, or a host that was given the address twice.
//! It is asked on the link itself before a new incarnation speaks, since the newer incarnation always wins: a clone that
//! spoke would displace the member that runs. It asks, listens and says who answered; what follows is the start's.
//!
//! The kernel of whoever holds an address answers, so an answer takes no turn of anybody's userspace.

pub mod frame;
mod later;

pub use later::Held;

use crate::cli::ExitCode;
use crate::config::Config;
use crate::core::event::{EventBody, NodeName};
use crate::core::ids::NodeId;
use crate::io::failure::Failure;
use crate::io::interfaces::{self, Interface, Link};
use crate::io::journal::Journal;
use crate::io::{clock, sys};
use anyhow::Context;
use frame::Mac;
use nix::errno::Errno;
use nix::net::if_::InterfaceFlags;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, recv, recvfrom, send, socket};
use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
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
/// Frames read of one socket before the next is looked at.
const FRAMES_MAX: usize = 64;
/// More frames than a socket's buffer holds.
const OLD_MAX: usize = 4096;
/// Longer than any frame that is an answer.
const FRAME_MAX: usize = 1514;
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
    thread: Option<JoinHandle<Option<Taken>>>,
    /// What a person should know.
    warnings: Vec<String>,
    held: Held,
    /// For the addresses that are held back.
    sockets: Vec<(IpAddr, OwnedFd)>,
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
/// all the time. A link that answers nothing is passed over by name; an address that no link has yet is held back.
///
/// Afterwards the calling thread has no CAP_NET_RAW any more, unless it is root's: nothing else needs it.
#[must_use]
pub fn ask(config: &Config, own: u16, new_incarnation: bool) -> Asked {
    let mut asked = Asked::default();
    let questions = if new_incarnation && config.daemon.address_conflict_detection {
        asked.open_all(config, own)
    } else {
        Vec::new()
    };
    // Before any other thread begins but the log's, since each begins with what this one has.
    if let Err(error) = give_up_raw_packets() {
        log::warn!("CAP_NET_RAW could not be given up: {error}");
    }
    if let Err(error) = asked.begin(questions) {
        asked.warn(&format!("{error:#}"));
    }
    asked
}

/// Gives up the calling thread's right to raw packets, unless it is root's.
///
/// # Errors
/// If the kernel refuses, which leaves the right as it was.
pub fn give_up_raw_packets() -> std::io::Result<()> {
    if nix::unistd::geteuid().is_root() { Ok(()) } else { sys::give_up_capability(CAP_NET_RAW) }
}

impl Asked {
    fn warn(&mut self, why: &str) {
        self.warnings.push(format!("nobody was asked whether another machine has an address of this node's: {why}"));
    }

    /// Opens a socket for each address, and returns those that can be asked for now. One that cannot keeps no other from
    /// it.
    fn open_all(&mut self, config: &Config, own: u16) -> Vec<Question> {
        let host = interfaces::by_address().and_then(|present| Ok((present, interfaces::links()?)));
        let (present, links) = match host {
            Ok(host) => host,
            Err(error) => {
                self.warn(&format!("{error:#}"));
                return Vec::new();
            }
        };
        let mut questions = Vec::new();
        for (_, address) in config.node(own).map_or(&[][..], |node| &node.addresses) {
            let interface = present.get(address);
            let link = interface.map_or(Err(Unasked::NotYet), |interface| askable(links.get(&interface.ifindex)));
            if let (Err(Unasked::Never(why)), Some(interface)) = (link, interface) {
                log::info!("{address}: not asked whether another machine has it: {} {why}", interface.name);
                continue;
            }
            let opened = open(*address).and_then(|socket| match (link, interface) {
                (Ok(link), Some(interface)) => {
                    Question::new(*address, interface, link.address, socket).map(|question| questions.push(question))
                }
                _ => {
                    log::info!("{address}: no link has it yet: it is asked for before it is used");
                    self.held.add(*address);
                    self.sockets.push((*address, socket));
                    Ok(())
                }
            });
            if let Err(error) = opened {
                self.warn(&format!("{address}: {error:#}"));
            }
        }
        questions
    }

    fn begin(&mut self, questions: Vec<Question>) -> anyhow::Result<()> {
        if questions.is_empty() {
            return Ok(());
        }
        // Two interfaces of one host on one link answer for each other's addresses.
        let all_own = interfaces::links()?.values().map(|link| link.address).collect();
        let thread = std::thread::Builder::new()
            .name("hb-conflict".to_owned())
            .stack_size(STACK)
            .spawn(move || listen(&questions, &all_own, &WAITS))
            .context("start a thread")?;
        self.thread = Some(thread);
        Ok(())
    }

    /// Waits for the answers, 200 ms from the question at most.
    ///
    /// # Errors
    /// Names the address and who has it, which the event log says too: this node must not speak.
    pub fn refuse(mut self, config: &Config, own: u16, journal: &mut Journal) -> Result<Free, Failure> {
        let name = config.node(own).map_or_else(String::new, |node| node.name.clone());
        let node = NodeName { node: name, node_id: NodeId(own) };
        let taken = self.thread.take().and_then(|thread| thread.join().ok()).flatten();
        let Some(taken) = taken else {
            if !self.sockets.is_empty() {
                let sockets = std::mem::take(&mut self.sockets);
                later::begin(sockets, self.held.clone(), node, journal.sink.clone()).map_err(Failure::host)?;
            }
            return Ok(Free { warnings: self.warnings, held: self.held });
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

/// One address, and where it is asked for.
struct Question {
    address: IpAddr,
    interface: String,
    own: Mac,
    socket: OwnedFd,
}

impl Question {
    /// Aims a socket at an interface.
    fn new(address: IpAddr, interface: &Interface, own: Mac, socket: OwnedFd) -> anyhow::Result<Self> {
        aim(&socket, address, interface.ifindex).with_context(|| format!("{address} on {}", interface.name))?;
        // What came before the question is no answer to it: its sender may be gone by now.
        let mut old = [0; 1];
        for _ in 0..OLD_MAX {
            if recv(socket.as_raw_fd(), &mut old, MsgFlags::empty()).is_err() {
                break;
            }
        }
        Ok(Self { address, interface: interface.name.clone(), own, socket })
    }
}

/// Why others on a link cannot be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unasked {
    /// It passes no frames yet.
    NotYet,
    /// Nobody is there to answer, and why.
    Never(&'static str),
}

/// Returns the link where others can be asked.
fn askable(link: Option<&Link>) -> Result<&Link, Unasked> {
    let Some(link) = link else { return Err(Unasked::Never("has no link-layer address")) };
    let has = |flag| link.flags.contains(flag);
    if has(InterfaceFlags::IFF_LOOPBACK) {
        Err(Unasked::Never("is this host's alone"))
    } else if has(InterfaceFlags::IFF_NOARP) || has(InterfaceFlags::IFF_POINTOPOINT) {
        Err(Unasked::Never("resolves no addresses"))
    } else if link.hardware != libc::ARPHRD_ETHER {
        Err(Unasked::Never("is no Ethernet"))
    } else if has(InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING) {
        // Not IFF_LOWER_UP: a carrier is there up to a second before the first frame gets through.
        Ok(link)
    } else {
        Err(Unasked::NotYet)
    }
}

/// Opens a socket for what answers for an address. It hears nothing until it is aimed, which takes no right.
fn open(address: IpAddr) -> anyhow::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Packet, SockType::Raw, flags, None)
        .context("open a packet socket, which takes CAP_NET_RAW")?;
    if address.is_ipv6() {
        hear_advertisements_alone(&fd).context("set a filter")?;
    }
    Ok(fd)
}

/// Binds a socket to an interface, and to the frames that answer for an address.
fn aim(fd: &OwnedFd, address: IpAddr, ifindex: u32) -> anyhow::Result<()> {
    // SAFETY: all zero is a valid sockaddr_ll.
    let mut place: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    place.sll_family = libc::AF_PACKET as u16;
    place.sll_protocol = frame::ether_type(address).to_be();
    place.sll_ifindex = i32::try_from(ifindex).context("the index of an interface")?;
    let length = size_of_val(&place) as libc::socklen_t;
    // SAFETY: the address lives through the call and its length is given.
    let bound = unsafe { libc::bind(fd.as_raw_fd(), (&raw const place).cast(), length) };
    Errno::result(bound).map(drop).context("bind a packet socket")
}

/// Has the kernel drop what is no neighbour advertisement: an answer must not be lost in all that a busy host receives.
fn hear_advertisements_alone(fd: &OwnedFd) -> std::io::Result<()> {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
    const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut steps = [
        step(LOAD, 0, 0, frame::NEXT_HEADER_AT as u32),
        step(EQUAL, 0, 3, frame::ICMPV6.into()),
        step(LOAD, 0, 0, frame::ICMP_TYPE_AT as u32),
        step(EQUAL, 0, 1, frame::ADVERTISEMENT.into()),
        step(RETURN, 0, 0, u32::MAX),
        step(RETURN, 0, 0, 0),
    ];
    let program = libc::sock_fprog { len: steps.len() as u16, filter: steps.as_mut_ptr() };
    let length = size_of_val(&program) as libc::socklen_t;
    // SAFETY: the program and its steps live through the call, which copies them.
    let result = unsafe {
        libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, (&raw const program).cast(), length)
    };
    Errno::result(result).map(drop).map_err(Into::into)
}

/// Asks as often as it is worth it, and listens in between; the first other machine that answers ends it.
fn listen(questions: &[Question], all_own: &BTreeSet<Mac>, waits: &[Duration]) -> Option<Taken> {
    for (round, wait) in waits.iter().enumerate() {
        for question in questions {
            let bytes = frame::question(question.own, question.address);
            if let Err(error) = send(question.socket.as_raw_fd(), &bytes, MsgFlags::empty()) {
                log::warn!("{} on {}: question {}: {error}", question.address, question.interface, round + 1);
            }
        }
        // From the moment of asking, however late this thread ran: what came meanwhile waits in the sockets.
        let until = clock::now() + *wait;
        loop {
            let left = until.since(clock::now());
            if let Some(taken) = hear(questions, all_own, left) {
                return Some(taken);
            }
            if left.is_zero() {
                break;
            }
        }
    }
    None
}

/// Waits for frames as long as this, and reads those that came.
fn hear(questions: &[Question], all_own: &BTreeSet<Mac>, wait: Duration) -> Option<Taken> {
    let mut polled: Vec<PollFd<'_>> =
        questions.iter().map(|question| PollFd::new(question.socket.as_fd(), PollFlags::POLLIN)).collect();
    // Rounded up, so that the last wait is not many short ones.
    let wait_ms = u16::try_from(wait.as_micros().div_ceil(1000)).unwrap_or(u16::MAX);
    let _ = poll(&mut polled, PollTimeout::from(wait_ms));
    questions.iter().find_map(|question| read(question, all_own))
}

fn read(question: &Question, all_own: &BTreeSet<Mac>) -> Option<Taken> {
    let mut bytes = [0; FRAME_MAX];
    for _ in 0..FRAMES_MAX {
        let (length, from) = recvfrom::<LinkAddr>(question.socket.as_raw_fd(), &mut bytes).ok()?;
        let kind = from.map_or(0, |from| from.pkttype());
        let frame = bytes.get(..length).unwrap_or_default();
        if let Some(holder) = other_holder(frame, kind, question.address, all_own) {
            return Some(Taken { address: question.address, interface: question.interface.clone(), holder });
        }
    }
    None
}

/// Who else than this host says in a frame that it holds an address. `kind` is the kernel's word on whose frame it is.
fn other_holder(bytes: &[u8], kind: u8, address: IpAddr, all_own: &BTreeSet<Mac>) -> Option<Mac> {
    // Meant for another host, or of another VLAN, where the address may be anybody's.
    if kind == libc::PACKET_OTHERHOST {
        return None;
    }
    frame::holder(bytes, address).filter(|holder| !all_own.contains(holder))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Mac = [2, 0, 0, 0, 0, 0x0c];
    const SECOND: Mac = [2, 0, 0, 0, 0, 0x0d];
    const OTHER: Mac = [2, 0, 0, 0, 0, 0x0a];

    fn address() -> IpAddr {
        [10, 77, 1, 2].into()
    }

    fn announced(by: Mac) -> Vec<u8> {
        let mut frame = frame::question(by, address());
        frame[28..32].copy_from_slice(&[10, 77, 1, 2]);
        frame
    }

    #[test]
    fn own_interfaces_are_no_other_machine_and_frames_of_others_no_word() {
        let all_own = BTreeSet::from([OWN, SECOND]);
        let judge = |by, kind| other_holder(&announced(by), kind, address(), &all_own);
        assert_eq!(judge(OTHER, libc::PACKET_HOST), Some(OTHER));
        assert_eq!(judge(OTHER, libc::PACKET_BROADCAST), Some(OTHER));
        assert_eq!(judge(OTHER, libc::PACKET_OTHERHOST), None, "of another VLAN");
        assert_eq!(judge(OWN, libc::PACKET_BROADCAST), None, "sent back by the switch");
        assert_eq!(judge(SECOND, libc::PACKET_HOST), None, "two interfaces on one link");
    }

    #[test]
    fn a_link_that_answers_nothing_is_passed_over_by_name() {
        let (up, running) = (InterfaceFlags::IFF_UP, InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING);
        let ether = |flags| Link { hardware: libc::ARPHRD_ETHER, address: OWN, flags };
        let why = |link: Link| askable(Some(&link)).err();
        assert_eq!(why(ether(running)), None);
        assert_eq!(why(ether(up)), Some(Unasked::NotYet));
        assert_eq!(why(ether(up | InterfaceFlags::IFF_LOWER_UP)), Some(Unasked::NotYet), "it passes no frames yet");
        assert_eq!(why(ether(InterfaceFlags::IFF_RUNNING)), Some(Unasked::NotYet));
        for flags in [up, running] {
            let never = |link, why_never| assert_eq!(why(link), Some(Unasked::Never(why_never)));
            never(ether(flags | InterfaceFlags::IFF_LOOPBACK), "is this host's alone");
            never(ether(flags | InterfaceFlags::IFF_NOARP), "resolves no addresses");
            never(ether(flags | InterfaceFlags::IFF_POINTOPOINT), "resolves no addresses");
            never(Link { hardware: 32, ..ether(flags) }, "is no Ethernet");
        }
        assert_eq!(askable(None).err(), Some(Unasked::Never("has no link-layer address")));
    }

    #[test]
    fn whoever_holds_an_address_is_named_with_the_interface() {
        let taken = Taken { address: address(), interface: "eth0".to_owned(), holder: OTHER };
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

//! The question itself: a socket for what answers for an address, aimed at an interface, asked and listened to. It says of
//! each address what came of that; what follows is its caller's.

use super::Taken;
use super::frame::{self, Mac};
use crate::io::clock;
use crate::io::interfaces::{Interface, Link};
use anyhow::Context;
use nix::errno::Errno;
use nix::net::if_::InterfaceFlags;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, recv, recvfrom, send, socket};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

/// Frames read of one socket before the next is looked at.
const FRAMES_MAX: usize = 64;
/// More frames than a socket's buffer holds.
const OLD_MAX: usize = 4096;
/// Longer than any frame that is an answer.
const FRAME_MAX: usize = 1514;
/// Where in an ARP frame its sender's address is.
const ARP_SENDER_AT: usize = 28;

/// Why others on a link cannot be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unasked {
    /// It passes no frames yet.
    NotYet,
    /// Nobody is there to answer, and why.
    Never(&'static str),
}

/// Returns the link where others can be asked.
pub(super) fn askable(link: Option<&Link>) -> Result<&Link, Unasked> {
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

/// One address, and where it is asked for.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) address: IpAddr,
    pub(super) interface: String,
    own: Mac,
    socket: OwnedFd,
}

impl Question {
    /// Aims a socket at an interface.
    pub(super) fn new(address: IpAddr, interface: &Interface, own: Mac, socket: &OwnedFd) -> anyhow::Result<Self> {
        aim(socket, address, interface.ifindex).with_context(|| interface.name.clone())?;
        // What came before the question is no answer to it: its sender may be gone by now.
        let mut old = [0; 1];
        for _ in 0..OLD_MAX {
            if recv(socket.as_raw_fd(), &mut old, MsgFlags::empty()).is_err() {
                break;
            }
        }
        Self::by(address, interface, own, socket)
    }

    /// The same by a socket that is aimed, or needs not to be.
    pub(super) fn by(address: IpAddr, interface: &Interface, own: Mac, socket: &OwnedFd) -> anyhow::Result<Self> {
        let socket = socket.try_clone().context("another descriptor of the socket")?;
        Ok(Self { address, interface: interface.name.clone(), own, socket })
    }
}

/// Opens a socket for what answers for an address. It hears nothing until it is aimed, which takes no right.
pub(super) fn open(address: IpAddr) -> anyhow::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Packet, SockType::Raw, flags, None)
        .context("open a packet socket, which takes CAP_NET_RAW")?;
    hear_answers_alone(&fd, address).context("set a filter")?;
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

/// Has the kernel drop what does not speak of an address: an answer must not be lost in all that a busy host receives, nor
/// may a flood of other frames keep a thread busy that others have to wait for. What is let through is judged in full by
/// [`frame::holder`].
fn hear_answers_alone(fd: &OwnedFd, address: IpAddr) -> std::io::Result<()> {
    const BYTE: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
    const WORD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let wanted: Vec<(u16, usize, u32)> = match address {
        IpAddr::V4(address) => vec![(WORD, ARP_SENDER_AT, address.into())],
        IpAddr::V6(address) => {
            let target = frame::ICMP_TYPE_AT + 8;
            let bits = address.to_bits();
            let words = (0..4).map(|index| (WORD, target + 4 * index, (bits >> (96 - 32 * index)) as u32));
            let kind = [
                (BYTE, frame::NEXT_HEADER_AT, frame::ICMPV6.into()),
                (BYTE, frame::ICMP_TYPE_AT, frame::ADVERTISEMENT.into()),
            ];
            kind.into_iter().chain(words).collect()
        }
    };
    let step = |code, jf, k| libc::sock_filter { code, jt: 0, jf, k };
    let mut steps = Vec::new();
    for (index, (load, at, value)) in wanted.iter().enumerate() {
        // Past what is still compared, and past the word that lets it in.
        let out = 2 * (wanted.len() - index - 1) + 1;
        steps.extend([step(*load, 0, *at as u32), step(EQUAL, out as u8, *value)]);
    }
    steps.extend([step(RETURN, 0, u32::MAX), step(RETURN, 0, 0)]);
    let program = libc::sock_fprog { len: steps.len() as u16, filter: steps.as_mut_ptr() };
    let length = size_of_val(&program) as libc::socklen_t;
    // SAFETY: the program and its steps live through the call, which copies them.
    let result = unsafe {
        libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, (&raw const program).cast(), length)
    };
    Errno::result(result).map(drop).map_err(Into::into)
}

/// What came of asking.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// An address that another machine holds. Of the others nothing is known then.
    pub(super) taken: Option<Taken>,
    /// Those that could not be asked for even once, and why: nothing is known of them.
    pub(super) unsent: BTreeMap<IpAddr, String>,
}

/// Asks as often as it is worth it, and listens in between; the first other machine that answers ends it.
pub(super) fn listen(questions: &[Question], all_own: &BTreeSet<Mac>, waits: &[Duration]) -> Answers {
    let mut unsent: BTreeMap<IpAddr, String> =
        questions.iter().map(|question| (question.address, String::new())).collect();
    for wait in waits {
        for question in questions {
            let bytes = frame::question(question.own, question.address);
            match send(question.socket.as_raw_fd(), &bytes, MsgFlags::empty()) {
                Ok(_) => drop(unsent.remove(&question.address)),
                Err(error) => {
                    if let Some(why) = unsent.get_mut(&question.address) {
                        *why = format!("{}: send the question: {}", question.interface, std::io::Error::from(error));
                    }
                }
            }
        }
        // From the moment of asking, however late this thread ran: what came meanwhile waits in the sockets.
        let until = clock::now() + *wait;
        loop {
            let left = until.since(clock::now());
            if let Some(taken) = hear(questions, all_own, left) {
                return Answers { taken: Some(taken), unsent };
            }
            if left.is_zero() {
                break;
            }
        }
    }
    Answers { taken: None, unsent }
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
pub(super) mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::os::unix::net::UnixDatagram;

    pub const OWN: Mac = [2, 0, 0, 0, 0, 0x0c];
    const SECOND: Mac = [2, 0, 0, 0, 0, 0x0d];
    pub const OTHER: Mac = [2, 0, 0, 0, 0, 0x0a];
    const SHORT: Duration = Duration::from_millis(2);

    fn address() -> IpAddr {
        [10, 77, 1, 2].into()
    }

    /// The frame by which a machine says that it holds an address of IPv4 that ends so.
    pub fn announced(by: Mac, last: u8) -> Vec<u8> {
        let address = [10, 77, 1, last];
        let mut frame = frame::question(by, address.into());
        frame[28..32].copy_from_slice(&address);
        frame
    }

    pub fn interface() -> Interface {
        Interface { name: "eth0".to_owned(), ifindex: 7, running: true }
    }

    /// A socket by which nothing can be sent, for it is connected to nobody.
    pub fn mute() -> OwnedFd {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        socket.into()
    }

    /// A socket by which all can be sent, and the other end of it.
    pub fn wire() -> (OwnedFd, UnixDatagram) {
        let (own, other) = UnixDatagram::pair().unwrap();
        own.set_nonblocking(true).unwrap();
        (own.into(), other)
    }

    fn question(last: u8, socket: &OwnedFd) -> Question {
        Question::by([10, 77, 1, last].into(), &interface(), OWN, socket).unwrap()
    }

    #[test]
    fn what_could_not_be_sent_says_nothing_of_the_address() {
        let (sent, _other) = wire();
        let answers = listen(&[question(2, &mute()), question(3, &sent)], &BTreeSet::from([OWN]), &[SHORT; 2]);
        assert_eq!(answers.taken, None);
        let (address, why) = answers.unsent.first_key_value().unwrap();
        assert_eq!((answers.unsent.len(), *address), (1, [10, 77, 1, 2].into()));
        assert!(why.starts_with("eth0: send the question: ") && why.contains("os error 89"), "{why}");
    }

    #[test]
    fn an_answer_is_heard_beside_a_question_that_could_not_be_sent() {
        let (sent, other) = wire();
        other.send(&announced(OTHER, 3)).unwrap();
        let answers = listen(&[question(2, &mute()), question(3, &sent)], &BTreeSet::from([OWN]), &[SHORT; 2]);
        let taken = answers.taken.unwrap();
        assert_eq!((taken.address, taken.holder), ([10, 77, 1, 3].into(), OTHER));
    }

    #[test]
    fn nothing_but_what_speaks_of_the_address_reaches_the_thread_that_asks() {
        let (own, other) = wire();
        hear_answers_alone(&own, address()).unwrap();
        let heard = || recv(own.as_raw_fd(), &mut [0; FRAME_MAX], MsgFlags::empty()).ok();
        let said = announced(OTHER, 2);
        for frame in [&announced(OTHER, 3), &frame::question(OTHER, address()), &said[..ARP_SENDER_AT + 3].to_vec()] {
            other.send(frame).unwrap();
            assert_eq!(heard(), None);
        }
        other.send(&said).unwrap();
        assert_eq!(heard(), Some(said.len()));

        let six: IpAddr = "fd77:1::2".parse().unwrap();
        let (own, other) = wire();
        hear_answers_alone(&own, six).unwrap();
        let heard = || recv(own.as_raw_fd(), &mut [0; FRAME_MAX], MsgFlags::empty()).ok();
        // A solicitation names its target where an advertisement does.
        let mut advertised = frame::question(OTHER, six);
        other.send(&advertised).unwrap();
        assert_eq!(heard(), None);
        advertised[frame::ICMP_TYPE_AT] = frame::ADVERTISEMENT;
        other.send(&advertised).unwrap();
        assert_eq!(heard(), Some(advertised.len()));
        for at in [frame::NEXT_HEADER_AT, frame::ICMP_TYPE_AT + 8, frame::ICMP_TYPE_AT + 23] {
            let mut different = advertised.clone();
            different[at] ^= 1;
            other.send(&different).unwrap();
            assert_eq!(heard(), None, "byte {at}");
        }
    }

    #[test]
    fn own_interfaces_are_no_other_machine_and_frames_of_others_no_word() {
        let all_own = BTreeSet::from([OWN, SECOND]);
        let judge = |by, kind| other_holder(&announced(by, 2), kind, address(), &all_own);
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
}

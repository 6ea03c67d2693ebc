//! The Ethernet frames that ask who holds an address, and what is read from those that come: ARP as RFC 5227 has it, and
//! neighbour discovery as RFC 4862 does. It turns bytes into words and back; it opens, sends and decides nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A link-layer address of Ethernet.
pub type Mac = [u8; 6];

/// EtherType of ARP.
pub const ARP: u16 = 0x0806;
/// EtherType of IPv6.
pub const IPV6: u16 = 0x86dd;
/// Where in a frame an IPv6 header has its next header.
pub const NEXT_HEADER_AT: usize = ETHERNET + 6;
/// Where in a frame without extension headers the type of ICMPv6 is.
pub const ICMP_TYPE_AT: usize = ICMP_AT;
/// ICMPv6 as a next header.
pub const ICMPV6: u8 = 58;
/// ICMPv6 type of a neighbour advertisement.
pub const ADVERTISEMENT: u8 = 136;

const ETHERNET: usize = 14;
const ICMP_AT: usize = ETHERNET + 40;
/// Length of a neighbour message without options.
const NEIGHBOUR: usize = 24;
const SOLICITATION: u8 = 135;
/// Option of a neighbour advertisement: who holds the address.
const TARGET_LINK: u8 = 2;
/// Ethernet, IPv4, and the lengths of their addresses.
const ARP_HEAD: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// Builds the question whether anybody holds `address`. It names no sender's address, so that whoever hears it keeps
/// what it knows of the address.
#[must_use]
pub fn question(own: Mac, address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => arp_probe(own, address),
        IpAddr::V6(address) => solicitation(own, address),
    }
}

/// EtherType of what asks for `address`, and answers.
#[must_use]
pub const fn ether_type(address: IpAddr) -> u16 {
    if address.is_ipv4() { ARP } else { IPV6 }
}

fn arp_probe(own: Mac, address: Ipv4Addr) -> Vec<u8> {
    let nobody = [0; 6];
    let sender = Ipv4Addr::UNSPECIFIED.octets();
    [
        &[0xff; 6][..],
        &own,
        &ARP.to_be_bytes(),
        &ARP_HEAD,
        &1_u16.to_be_bytes(),
        &own,
        &sender,
        &nobody,
        &address.octets(),
    ]
    .concat()
}

fn solicitation(own: Mac, address: Ipv6Addr) -> Vec<u8> {
    let [.., x, y, z] = address.octets();
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(x), u16::from_be_bytes([y, z]));
    let source = Ipv6Addr::UNSPECIFIED;
    let mut message = [&[SOLICITATION, 0, 0, 0, 0, 0, 0, 0][..], &address.octets()].concat();
    let sum = checksum(source, group, &message).to_be_bytes();
    message[2..4].copy_from_slice(&sum);
    [
        &[0x33, 0x33, 0xff, x, y, z][..],
        &own,
        &IPV6.to_be_bytes(),
        &[0x60, 0, 0, 0, 0, NEIGHBOUR as u8, ICMPV6, 255],
        &source.octets(),
        &group.octets(),
        &message,
    ]
    .concat()
}

/// Who says in this frame that it holds `address`; `None` if the frame says nothing of the kind.
///
/// Others' questions are no such word, though RFC 5227 has two that ask at once give way: switches ask in the same way,
/// only to see who is there, and whoever holds an address answers.
#[must_use]
pub fn holder(frame: &[u8], address: IpAddr) -> Option<Mac> {
    let kind = u16::from_be_bytes(at(frame, 12)?);
    match address {
        IpAddr::V4(address) if kind == ARP => arp_holder(frame, address),
        IpAddr::V6(address) if kind == IPV6 => advertised(frame, address),
        _ => None,
    }
}

fn arp_holder(frame: &[u8], address: Ipv4Addr) -> Option<Mac> {
    let operation = u16::from_be_bytes(at(frame, ETHERNET + 6)?);
    let sender: [u8; 4] = at(frame, ETHERNET + 14)?;
    let whole = frame.len() >= ETHERNET + 28 && at(frame, ETHERNET)? == ARP_HEAD;
    if whole && matches!(operation, 1 | 2) && sender == address.octets() { at(frame, ETHERNET + 8) } else { None }
}

fn advertised(frame: &[u8], address: Ipv6Addr) -> Option<Mac> {
    let length = usize::from(u16::from_be_bytes(at(frame, ETHERNET + 4)?));
    let [version, next, hops] = [ETHERNET, NEXT_HEADER_AT, ETHERNET + 7].map(|place| frame.get(place).copied());
    // A hop limit below 255 has passed a router: it comes from another link.
    if version? >> 4 != 6 || (next?, hops?) != (ICMPV6, 255) || length < NEIGHBOUR {
        return None;
    }
    let (source, destination) = (at::<16>(frame, ETHERNET + 8)?.into(), at::<16>(frame, ETHERNET + 24)?.into());
    let message = frame.get(ICMP_AT..ICMP_AT.checked_add(length)?)?;
    let whole = checksum(source, destination, message) == 0;
    if !whole || message.get(..2)? != [ADVERTISEMENT, 0] || at(message, 8)? != address.octets() {
        return None;
    }
    let mut options = message.get(NEIGHBOUR..)?;
    while let [kind, eights, ..] = options {
        let length = usize::from(*eights) * 8;
        if length == 0 || length > options.len() {
            return None;
        }
        if *kind == TARGET_LINK && length == 8 {
            return at(options, 2);
        }
        options = &options[length..];
    }
    at(frame, 6)
}

/// The internet checksum of an ICMPv6 message; 0 over a message that carries its right one.
fn checksum(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> u16 {
    let length = (message.len() as u32).to_be_bytes();
    let whole = [&source.octets()[..], &destination.octets(), &length, &[0, 0, 0, ICMPV6], message].concat();
    let word = |pair: &[u8]| u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    let mut sum: u64 = whole.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// The bytes of a field.
fn at<const N: usize>(bytes: &[u8], place: usize) -> Option<[u8; N]> {
    bytes.get(place..place.checked_add(N)?)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Mac = [2, 0, 0, 0, 0, 0x0c];
    const OTHER: Mac = [2, 0, 0, 0, 0, 0x0a];
    // What Linux 6.18 answers to the two questions below, as it was on the wire.
    const ARP_ANSWER: &str = "02000000000c02000000000a0806000108000604000202000000000a0a4d010202000000000c00000000";
    const ADVERTISED: &str = "33330000000102000000000a86dd6000000000203afffd770001000000000000000000000002\
                              ff020000000000000000000000000001880059a020000000fd770001000000000000000000000002\
                              020102000000000a";

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[at * 2..at * 2 + 2], 16).unwrap()).collect()
    }

    fn four() -> IpAddr {
        [10, 77, 1, 2].into()
    }

    fn six() -> IpAddr {
        "fd77:1::2".parse().unwrap()
    }

    #[test]
    fn questions_are_these_bytes() {
        let arp = "ffffffffffff02000000000c0806000108000604000102000000000c000000000000000000000a4d0102";
        assert_eq!(question(OWN, four()), bytes(arp));
        let neighbour = "3333ff00000202000000000c86dd6000000000183aff00000000000000000000000000000000\
                         ff0200000000000000000001ff00000287007d2b00000000fd770001000000000000000000000002";
        assert_eq!(question(OWN, six()), bytes(neighbour));
        assert_eq!((ether_type(four()), ether_type(six())), (ARP, IPV6));
    }

    #[test]
    fn an_answer_names_who_holds_the_address() {
        for (hex, address) in [(ARP_ANSWER, four()), (ADVERTISED, six())] {
            let answer = bytes(hex);
            assert_eq!(holder(&answer, address), Some(OTHER));
            // Short frames are filled up by the card.
            assert_eq!(holder(&[&answer[..], &[0; 18]].concat(), address), Some(OTHER));
            for other in [[10, 77, 1, 3].into(), "fd77:1::3".parse().unwrap()] {
                assert_eq!(holder(&answer, other), None, "of another address");
            }
            for length in 0..answer.len() {
                assert_eq!(holder(&answer[..length], address), None, "{length} bytes");
            }
        }
    }

    #[test]
    fn an_announcement_is_a_word_and_a_question_is_none() {
        let mut announced = bytes(ARP_ANSWER);
        announced[21] = 1;
        assert_eq!(holder(&announced, four()), Some(OTHER), "a request of its own names the sender");
        announced[21] = 3;
        assert_eq!(holder(&announced, four()), None, "neither request nor reply");
        assert_eq!(holder(&question(OTHER, four()), four()), None);
        assert_eq!(holder(&question(OTHER, six()), six()), None);
    }

    #[test]
    fn whatever_is_damaged_in_an_advertisement_is_no_word() {
        let answer = bytes(ADVERTISED);
        // Neither the link's own head nor flow label and traffic class are under a checksum.
        for at in ETHERNET + 4..answer.len() {
            let mut damaged = answer.clone();
            damaged[at] ^= 1;
            assert_eq!(holder(&damaged, six()), None, "byte {at}");
        }
    }

    #[test]
    fn arp_of_other_hardware_or_protocols_is_no_word() {
        let answer = bytes(ARP_ANSWER);
        // The types and lengths of addresses, the operation, and the sender's address.
        for at in (ETHERNET..ETHERNET + 8).chain(ETHERNET + 14..ETHERNET + 18) {
            let mut other = answer.clone();
            other[at] ^= 1;
            assert_eq!(holder(&other, four()), None, "byte {at}");
        }
    }

    fn advertisement(options: &[u8]) -> Vec<u8> {
        message(ADVERTISEMENT, 0, options)
    }

    /// With its checksum written anew.
    fn message(kind: u8, code: u8, options: &[u8]) -> Vec<u8> {
        let mut frame = bytes(ADVERTISED);
        frame[ICMP_AT..ICMP_AT + 2].copy_from_slice(&[kind, code]);
        frame.truncate(ICMP_AT + NEIGHBOUR);
        frame.extend_from_slice(options);
        frame[ETHERNET + 5] = (NEIGHBOUR + options.len()) as u8;
        frame[ICMP_AT + 2..ICMP_AT + 4].fill(0);
        let place = |at: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&frame[at..at + 16]).unwrap());
        let sum = checksum(place(ETHERNET + 8), place(ETHERNET + 24), &frame[ICMP_AT..]);
        frame[ICMP_AT + 2..ICMP_AT + 4].copy_from_slice(&sum.to_be_bytes());
        frame
    }

    #[test]
    fn options_are_walked_to_their_end_and_no_further() {
        let own = [2, 1, 2, 0, 0, 0, 0, 0x0c];
        let other = [14, 1, 0, 0, 0, 0, 0, 0];
        assert_eq!(holder(&advertisement(&own), six()), Some(OWN));
        assert_eq!(holder(&message(ADVERTISEMENT, 1, &own), six()), None, "of another code");
        assert_eq!(holder(&message(SOLICITATION, 0, &own), six()), None, "a question");
        assert_eq!(holder(&advertisement(&[other, own].concat()), six()), Some(OWN));
        assert_eq!(holder(&advertisement(&[]), six()), Some(OTHER), "by whom it was sent");
        assert_eq!(holder(&advertisement(&other), six()), Some(OTHER));
        assert_eq!(holder(&advertisement(&[2, 0, 2, 0, 0, 0, 0, 0x0c]), six()), None, "an option without a length");
        assert_eq!(holder(&advertisement(&[2, 2, 2, 0, 0, 0, 0, 0x0c]), six()), None, "an option beyond the end");
    }

    proptest::proptest! {
        #[test]
        fn nothing_that_comes_is_too_much(frame in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = holder(&frame, four());
            let _ = holder(&frame, six());
        }
    }
}

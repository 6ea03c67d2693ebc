//! Builds frames, right ones and wrong ones, from Ethernet up. It signs what it is told to, with the reference's MAC.

use crate::reference::{self, Keys, LEN, PORT, Settings, answer, mac};

/// The eighteen words of a heartbeat, named where the tests set them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// In frame order.
    pub words: [u64; 18],
}

impl Heartbeat {
    /// A probe of the peer's to this node. `responder` is the incarnation of this node that it names.
    #[must_use]
    pub fn probe(settings: &Settings, slot: u8, author: &[u64; 7], responder: u64, sequence: u64) -> Self {
        let ids = ids(settings.network, settings.peer_id, settings.own_id);
        Self::new(settings, slot, ids, [author[0], responder, sequence, 0, 0, 0], author)
    }

    /// An echo of the peer's to a probe of this node's, sent at `sent` and received by the peer at `stamp`.
    #[must_use]
    pub fn echo(settings: &Settings, slot: u8, author: &[u64; 7], sequence: u64, sent: u64, stamp: u64) -> Self {
        let ids = ids(settings.network, settings.own_id, settings.peer_id);
        let own = settings.standing[0];
        Self::new(settings, slot, ids, [own, author[0], sequence, sent, stamp, 1 << 48], author)
    }

    /// A probe of this node's to the peer.
    #[must_use]
    pub fn own_probe(settings: &Settings, slot: u8, responder: u64, sequence: u64) -> Self {
        let ids = ids(settings.network, settings.own_id, settings.peer_id);
        let own = settings.standing;
        Self::new(settings, slot, ids, [own[0], responder, sequence, 0, 0, 0], &own)
    }

    /// A fence of the peer's, of this node's incarnation `victim`, by the view of `order`.
    #[must_use]
    pub fn fence(settings: &Settings, slot: u8, sender: u64, victim: u64, order: u64) -> Self {
        let ids = ids(settings.network, settings.peer_id, settings.own_id);
        let author = [sender, 0, order, 0xd0, 0xd1, 0xd2, 0];
        Self::new(settings, slot, ids, [sender, victim, 0x77, 2, 0, 2 << 48], &author)
    }

    /// The peer's acknowledgement, as incarnation `author`, of a fence of this node's.
    #[must_use]
    pub fn acknowledgement(settings: &Settings, slot: u8, author: u64, victim: u64) -> Self {
        let ids = ids(settings.network, settings.own_id, settings.peer_id);
        let standing = [author, 0, 5, 0xd0, 0xd1, 0xd2, 0];
        Self::new(settings, slot, ids, [settings.standing[0], victim, 0x77, 2, 0, 3 << 48], &standing)
    }

    fn new(settings: &Settings, slot: u8, ids: u64, middle: [u64; 6], author: &[u64; 7]) -> Self {
        let mut words = [0; 18];
        words[0] = u64::from(u32::from_le_bytes(*b"HBT1")) | 1 << 32 | u64::from(slot) << 40;
        words[1] = settings.cluster;
        words[2] = ids;
        words[3..9].copy_from_slice(&middle);
        words[9..16].copy_from_slice(author);
        Self { words }
    }

    /// The bytes, tagged as the peer would under `keys`.
    #[must_use]
    pub fn signed(&self, settings: &Settings, keys: &Keys) -> [u8; LEN] {
        let mut bytes = self.bytes();
        if bytes[70] & 2 == 2 {
            let tag = mac::fence_tag(&bytes, settings, false, &keys.their_fences);
            bytes[128..144].copy_from_slice(&tag);
            return bytes;
        }
        let echo = bytes[70] & 3 == 1;
        let exchange = if echo { &keys.mine } else { &keys.theirs };
        let tag = mac::tag(&bytes, settings, echo, exchange, &keys.peer_standing);
        bytes[128..136].copy_from_slice(&tag.to_le_bytes());
        bytes
    }

    /// The bytes as they are.
    #[must_use]
    pub fn bytes(&self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        for (chunk, word) in bytes.chunks_exact_mut(8).zip(self.words) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }
}

/// The ids word.
#[must_use]
pub fn ids(network: u16, prober: u16, responder: u16) -> u64 {
    u64::from(network) | u64::from(prober) << 16 | u64::from(responder) << 32
}

/// Headers around a payload. Every field can be wrong.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Destination and source MAC address.
    pub macs: [[u8; 6]; 2],
    /// VLAN tags: (protocol, tag).
    pub tags: Vec<(u16, u16)>,
    /// Source and destination, sixteen bytes.
    pub addresses: [[u8; 16]; 2],
    /// IPv6 rather than IPv4.
    pub ipv6: bool,
    /// Hop limit.
    pub hop_limit: u8,
    /// IPv4 flags and fragment offset.
    pub fragment: u16,
    /// IPv4 options, a multiple of four bytes.
    pub options: Vec<u8>,
    /// IPv6 extension headers before UDP: (type, bytes), the first byte is set to what follows.
    pub extensions: Vec<(u8, Vec<u8>)>,
    /// Source and destination port.
    pub ports: [u16; 2],
    /// Added to the IP length field.
    pub ip_length_error: u16,
    /// Added to the UDP length field.
    pub udp_length_error: u16,
    /// The UDP checksum field; `None`: as it ought to be.
    pub checksum: Option<u16>,
    /// IP protocol of what follows the IP header (and its extensions).
    pub protocol: u8,
    /// UDP payload.
    pub payload: Vec<u8>,
    /// Bytes behind the packet.
    pub trailer: usize,
}

impl Frame {
    /// A frame from the peer to this node on the path of `settings`.
    #[must_use]
    pub fn to_node(settings: &Settings, payload: &[u8]) -> Self {
        Self {
            macs: [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]],
            tags: if settings.vlan == 0 { vec![] } else { vec![(0x8100, settings.vlan)] },
            addresses: [settings.peer, settings.own],
            ipv6: !is_mapped(&settings.peer),
            hop_limit: 255,
            fragment: 0x4000,
            options: vec![],
            extensions: vec![],
            ports: [PORT, PORT],
            ip_length_error: 0,
            udp_length_error: 0,
            checksum: None,
            protocol: 17,
            payload: payload.to_vec(),
            trailer: 0,
        }
    }

    /// A frame from this node to the peer.
    #[must_use]
    pub fn from_node(settings: &Settings, payload: &[u8]) -> Self {
        let mut frame = Self::to_node(settings, payload);
        frame.macs.swap(0, 1);
        frame.addresses.swap(0, 1);
        frame
    }

    /// The bytes on the wire.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        out.extend_from_slice(&self.macs.concat());
        for (protocol, tag) in &self.tags {
            out.extend_from_slice(&protocol.to_be_bytes());
            out.extend_from_slice(&tag.to_be_bytes());
        }
        out.extend_from_slice(&if self.ipv6 { [0x86, 0xdd] } else { [0x08, 0x00] });
        let ip = out.len();
        let udp_length = (8 + self.payload.len()) as u16;
        if self.ipv6 {
            self.push_ipv6(&mut out, udp_length);
        } else {
            self.push_ipv4(&mut out, udp_length);
        }
        let udp = out.len();
        for port in self.ports {
            out.extend_from_slice(&port.to_be_bytes());
        }
        out.extend_from_slice(&udp_length.wrapping_add(self.udp_length_error).to_be_bytes());
        out.extend_from_slice(&self.checksum.unwrap_or(0).to_be_bytes());
        out.extend_from_slice(&self.payload);
        if self.checksum.is_none() && self.payload.len() == LEN {
            let sum = answer::udp_checksum(&out, ip, udp, self.ipv6);
            out[udp + 6..udp + 8].copy_from_slice(&sum.to_be_bytes());
        }
        out.resize(out.len() + self.trailer, 0xee);
        out
    }

    fn push_ipv4(&self, out: &mut Vec<u8>, udp_length: u16) {
        let header = 20 + self.options.len();
        let total = (header as u16 + udp_length).wrapping_add(self.ip_length_error);
        let at = out.len();
        out.extend_from_slice(&[0x40 | (header / 4) as u8, 0]);
        out.extend_from_slice(&total.to_be_bytes());
        out.extend_from_slice(&[0x12, 0x34]);
        out.extend_from_slice(&self.fragment.to_be_bytes());
        out.extend_from_slice(&[self.hop_limit, self.protocol, 0, 0]);
        for address in self.addresses {
            out.extend_from_slice(&address[12..]);
        }
        out.extend_from_slice(&self.options);
        let sum = answer::checksum(&out[at..]);
        out[at + 10..at + 12].copy_from_slice(&sum.to_be_bytes());
    }

    fn push_ipv6(&self, out: &mut Vec<u8>, udp_length: u16) {
        let extensions: usize = self.extensions.iter().map(|(_, bytes)| bytes.len()).sum();
        let length = (extensions as u16 + udp_length).wrapping_add(self.ip_length_error);
        let mut types: Vec<u8> = self.extensions.iter().map(|(kind, _)| *kind).collect();
        types.push(self.protocol);
        out.extend_from_slice(&[0x60, 0x0a, 0xbc, 0xde]);
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&[types[0], self.hop_limit]);
        out.extend_from_slice(&self.addresses.concat());
        for ((_, bytes), next) in self.extensions.iter().zip(&types[1..]) {
            out.push(*next);
            out.extend_from_slice(&bytes[1..]);
        }
    }
}

/// Says whether an address is an IPv4 one.
#[must_use]
pub fn is_mapped(address: &[u8; 16]) -> bool {
    address[..10] == [0; 10] && address[10..12] == [0xff, 0xff]
}

/// The heartbeat in an answer to a frame whose UDP header is at `udp`.
#[must_use]
pub fn stamp(answer: &[u8], udp: usize) -> u64 {
    reference::word(answer, udp + 8 + 56)
}

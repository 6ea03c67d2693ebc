//! Bounds-checked reading of headers, from Ethernet to the heartbeat. The only place with pointers into packets.
//! It finds out whether a frame is on our port and plain; it believes nothing else about it.

use heartbeat_common::counter::Counter;
use heartbeat_common::frame::{self, PORT, Words};

pub const ETH_LEN: usize = 14;
pub const TAG_LEN: usize = 4;
pub const IPV4_LEN: usize = 20;
pub const IPV6_LEN: usize = 40;
pub const UDP_LEN: usize = 8;
const UDP_TOTAL: u16 = (UDP_LEN + frame::LEN) as u16;
/// VLAN tags looked through when classifying a frame that is not plain.
const TAGS_MAX: usize = 4;
/// IPv6 extension headers looked through likewise.
const EXTENSIONS_MAX: usize = 6;

const ETH_IPV4: u16 = 0x0800;
const ETH_IPV6: u16 = 0x86dd;
const ETH_VLAN: u16 = 0x8100;
const ETH_SERVICE_VLAN: u16 = 0x88a8;
const PROTOCOL_UDP: u8 = 17;

/// The bytes between two packet pointers.
#[derive(Clone, Copy)]
pub struct Bytes {
    /// First byte.
    pub start: usize,
    /// One past the last.
    pub end: usize,
}

impl Bytes {
    /// Returns a pointer to a `T` at `offset` if it lies within.
    #[inline(always)]
    pub fn at<T>(self, offset: usize) -> Option<*mut T> {
        let start = self.start + offset;
        if start + size_of::<T>() > self.end { None } else { Some(start as *mut T) }
    }

    /// Reads a big-endian `u16`.
    #[inline(always)]
    pub fn be16(self, offset: usize) -> Option<u16> {
        let bytes = self.at::<u16>(offset)?;
        // SAFETY: within the packet, as `at` checked. BPF loads need no alignment on packets (NET_IP_ALIGN).
        Some(u16::from_be(unsafe { bytes.read_volatile() }))
    }
}

/// Reads memory of a packet, anywhere within what `at` checked.
///
/// # Safety
/// `offset..offset + size_of::<T>()` lies within what was checked behind `base`.
#[inline(always)]
pub unsafe fn read<T: Copy>(base: *mut u8, offset: usize) -> T {
    // SAFETY: the caller's promise. Volatile, so that the access is one instruction of this width.
    unsafe { base.add(offset).cast::<T>().read_volatile() }
}

/// Writes memory of a packet.
///
/// # Safety
/// As [`read`].
#[inline(always)]
pub unsafe fn write<T: Copy>(base: *mut u8, offset: usize, value: T) {
    // SAFETY: the caller's promise.
    unsafe { base.add(offset).cast::<T>().write_volatile(value) }
}

/// A heartbeat in a packet.
pub struct Payload(pub *mut u8);

impl Words for Payload {
    #[inline(always)]
    fn get(&self, index: usize) -> u64 {
        // SAFETY: `plain` checked that the whole frame lies within the packet; `index` is below `WORDS`.
        unsafe { read(self.0, index * 8) }
    }
    #[inline(always)]
    fn set(&mut self, index: usize, value: u64) {
        // SAFETY: as `get`.
        unsafe { write(self.0, index * 8, value) }
    }
}

/// A plain frame on our port.
pub struct Plain {
    /// Ethernet header.
    pub ethernet: *mut u8,
    /// IP header.
    pub ip: *mut u8,
    /// UDP header; the heartbeat follows.
    pub udp: *mut u8,
    /// IPv6 rather than IPv4.
    pub ipv6: bool,
    /// VLAN id, 0 if untagged.
    pub vlan: u16,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source address.
    pub source: [u64; 2],
    /// Destination address.
    pub destination: [u64; 2],
}

/// What a frame is to us.
pub enum Shape {
    /// Somebody else's: to be passed untouched.
    NotOurs,
    /// On our port, but not as a heartbeat comes.
    Malformed(Counter),
    /// On our port and plain.
    Plain(Plain),
}

/// Finds the heartbeat in a frame.
#[inline(always)]
pub fn plain(bytes: Bytes) -> Shape {
    let Some(ethertype) = bytes.be16(12) else { return Shape::NotOurs };
    match ethertype {
        ETH_IPV4 => ipv4(bytes, ETH_LEN, 0),
        ETH_IPV6 => ipv6(bytes, ETH_LEN, 0),
        ETH_VLAN | ETH_SERVICE_VLAN => tagged(bytes, ethertype),
        _ => Shape::NotOurs,
    }
}

/// One 802.1Q tag with an id may be a path's. Anything else on our port is malformed.
#[inline(always)]
fn tagged(bytes: Bytes, outer: u16) -> Shape {
    let (Some(tag), Some(inner)) = (bytes.be16(ETH_LEN), bytes.be16(ETH_LEN + 2)) else { return Shape::NotOurs };
    let id = tag & 0x0fff;
    if outer == ETH_VLAN && id != 0 && inner == ETH_IPV4 {
        return ipv4(bytes, ETH_LEN + TAG_LEN, id);
    }
    if outer == ETH_VLAN && id != 0 && inner == ETH_IPV6 {
        return ipv6(bytes, ETH_LEN + TAG_LEN, id);
    }
    let mut ethertype = inner;
    let mut offset = ETH_LEN + TAG_LEN;
    let mut depth = 1;
    while depth < TAGS_MAX && (ethertype == ETH_VLAN || ethertype == ETH_SERVICE_VLAN) {
        let Some(next) = bytes.be16(offset + 2) else { return Shape::NotOurs };
        ethertype = next;
        offset += TAG_LEN;
        depth += 1;
    }
    let ours = match ethertype {
        ETH_IPV4 => !matches!(ipv4(bytes, offset, 0), Shape::NotOurs),
        ETH_IPV6 => !matches!(ipv6(bytes, offset, 0), Shape::NotOurs),
        _ => false,
    };
    if ours { Shape::Malformed(Counter::DropLayer2) } else { Shape::NotOurs }
}

/// Says whether the UDP header at `offset` has our destination port.
#[inline(always)]
fn on_our_port(bytes: Bytes, offset: usize) -> bool {
    bytes.be16(offset + 2) == Some(PORT)
}

#[inline(always)]
fn ipv4(bytes: Bytes, offset: usize, vlan: u16) -> Shape {
    let Some(header) = bytes.at::<[u8; IPV4_LEN]>(offset) else { return Shape::NotOurs };
    let ip = header.cast::<u8>();
    // SAFETY: the twenty bytes were checked.
    let (protocol, version_length): (u8, u8) = unsafe { (read(ip, 9), read(ip, 0)) };
    if protocol != PROTOCOL_UDP || version_length >> 4 != 4 {
        return Shape::NotOurs;
    }
    // SAFETY: as above.
    let fragment = u16::from_be(unsafe { read(ip, 6) });
    if version_length != 0x45 {
        let length = ((version_length & 0x0f) as usize) * 4;
        let ours = length > IPV4_LEN && fragment & 0x1fff == 0 && on_our_port(bytes, offset + length);
        return if ours { Shape::Malformed(Counter::DropLayer3) } else { Shape::NotOurs };
    }
    if fragment & 0x1fff != 0 || !on_our_port(bytes, offset + IPV4_LEN) {
        return Shape::NotOurs;
    }
    if fragment & 0x2000 != 0 {
        return Shape::Malformed(Counter::DropFragment);
    }
    // SAFETY: as above.
    let (total, hop_limit, source, destination): (u16, u8, u32, u32) =
        unsafe { (read(ip, 2), read(ip, 8), read(ip, 12), read(ip, 16)) };
    if u16::from_be(total) != IPV4_LEN as u16 + UDP_TOTAL {
        return Shape::Malformed(Counter::DropLength);
    }
    udp(bytes, offset, IPV4_LEN, false, vlan, hop_limit, mapped(source), mapped(destination))
}

/// An IPv4 address, as it lies in memory, as the words of an IPv4-mapped IPv6 address.
#[inline(always)]
fn mapped(address: u32) -> [u64; 2] {
    [0, (address as u64) << 32 | 0xffff_0000]
}

/// Says whether an address stands for an IPv4 one.
#[inline(always)]
pub fn is_mapped(address: [u64; 2]) -> bool {
    address[0] == 0 && address[1] as u32 == 0xffff_0000
}

#[inline(always)]
fn ipv6(bytes: Bytes, offset: usize, vlan: u16) -> Shape {
    let Some(header) = bytes.at::<[u8; IPV6_LEN]>(offset) else { return Shape::NotOurs };
    let ip = header.cast::<u8>();
    // SAFETY: the forty bytes were checked.
    let (version, next, hop_limit): (u8, u8, u8) = unsafe { (read(ip, 0), read(ip, 6), read(ip, 7)) };
    if version >> 4 != 6 {
        return Shape::NotOurs;
    }
    if next != PROTOCOL_UDP {
        return extensions(bytes, offset + IPV6_LEN, next);
    }
    if !on_our_port(bytes, offset + IPV6_LEN) {
        return Shape::NotOurs;
    }
    // SAFETY: as above.
    let (length, source, destination): (u16, [u64; 2], [u64; 2]) =
        unsafe { (read(ip, 4), [read(ip, 8), read(ip, 16)], [read(ip, 24), read(ip, 32)]) };
    if u16::from_be(length) != UDP_TOTAL {
        return Shape::Malformed(Counter::DropLength);
    }
    // A mapped address stands for an IPv4 path in the route table; on the wire it is nobody's.
    if is_mapped(source) || is_mapped(destination) {
        return Shape::Malformed(Counter::DropUnlisted);
    }
    udp(bytes, offset, IPV6_LEN, true, vlan, hop_limit, source, destination)
}

/// Looks for our port behind extension headers. Never a heartbeat: only a reason to drop.
#[inline(always)]
fn extensions(bytes: Bytes, offset: usize, next: u8) -> Shape {
    let mut offset = offset;
    let mut next = next;
    let mut fragmented = false;
    let mut count = 0;
    while count < EXTENSIONS_MAX {
        match next {
            // Hop-by-hop, routing, destination options, mobility: length in units of eight bytes, less one.
            0 | 43 | 60 | 135 => {
                let Some(header) = bytes.be16(offset) else { return Shape::NotOurs };
                next = (header >> 8) as u8;
                offset += ((header & 0xff) as usize + 1) * 8;
            }
            // Fragment: only the first carries the UDP header.
            44 => {
                let (Some(header), Some(fragment)) = (bytes.be16(offset), bytes.be16(offset + 2)) else {
                    return Shape::NotOurs;
                };
                if fragment & 0xfff8 != 0 {
                    return Shape::NotOurs;
                }
                next = (header >> 8) as u8;
                offset += 8;
                fragmented = true;
            }
            // Authentication header: length in units of four bytes, less two.
            51 => {
                let Some(header) = bytes.be16(offset) else { return Shape::NotOurs };
                next = (header >> 8) as u8;
                offset += ((header & 0xff) as usize + 2) * 4;
            }
            PROTOCOL_UDP => {
                return match on_our_port(bytes, offset) {
                    false => Shape::NotOurs,
                    true if fragmented => Shape::Malformed(Counter::DropFragment),
                    true => Shape::Malformed(Counter::DropLayer3),
                };
            }
            _ => return Shape::NotOurs,
        }
        count += 1;
    }
    Shape::NotOurs
}

#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "inlined into both callers: BPF passes at most five")]
fn udp(
    bytes: Bytes,
    offset: usize,
    ip_length: usize,
    ipv6: bool,
    vlan: u16,
    hop_limit: u8,
    source: [u64; 2],
    destination: [u64; 2],
) -> Shape {
    let start = offset + ip_length;
    let Some(header) = bytes.at::<[u8; UDP_LEN + frame::LEN]>(start) else {
        return Shape::Malformed(Counter::DropLength);
    };
    let udp = header.cast::<u8>();
    // SAFETY: header and heartbeat were checked.
    let (source_port, length): (u16, u16) = unsafe { (read(udp, 0), read(udp, 4)) };
    if u16::from_be(length) != UDP_TOTAL {
        return Shape::Malformed(Counter::DropLength);
    }
    if u16::from_be(source_port) != PORT {
        return Shape::Malformed(Counter::DropPort);
    }
    let ethernet = bytes.start as *mut u8;
    // SAFETY: the IP header behind it was checked. Swapped, a group address would be the echo's source, or make
    // one echo many.
    if unsafe { read::<u8>(ethernet, 0) | read::<u8>(ethernet, 6) } & 1 != 0 {
        return Shape::Malformed(Counter::DropLayer2);
    }
    Shape::Plain(Plain {
        ethernet,
        ip: (bytes.start + offset) as *mut u8,
        udp,
        ipv6,
        vlan,
        hop_limit,
        source,
        destination,
    })
}

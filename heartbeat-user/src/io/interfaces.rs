//! The interfaces and addresses of this host, read when asked. It reports what is there; it configures nothing.

use anyhow::Context;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// One interface that has an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its index.
    pub ifindex: u32,
    /// Administratively up and with carrier.
    pub running: bool,
}

/// Returns the interface of each local address.
///
/// # Errors
/// If the kernel does not tell.
pub fn by_address() -> anyhow::Result<BTreeMap<IpAddr, Interface>> {
    let mut found = BTreeMap::new();
    for entry in getifaddrs().context("list the addresses of this host")? {
        let Some(storage) = entry.address else { continue };
        let address = if let Some(v4) = storage.as_sockaddr_in() {
            IpAddr::V4(v4.ip())
        } else if let Some(v6) = storage.as_sockaddr_in6() {
            IpAddr::V6(v6.ip())
        } else {
            continue;
        };
        let Ok(ifindex) = nix::net::if_::if_nametoindex(entry.interface_name.as_str()) else { continue };
        let running = entry.flags.contains(InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING);
        found.insert(address, Interface { name: entry.interface_name, ifindex, running });
    }
    Ok(found)
}

/// Says whether an interface processes received packets in kernel threads rather than softirqs, which a realtime task
/// can starve; `None` if the kernel does not say.
#[must_use]
pub fn threaded_napi(name: &str) -> Option<bool> {
    let text = std::fs::read_to_string(format!("/sys/class/net/{name}/threaded")).ok()?;
    Some(text.trim() != "0")
}

/// Driver families on which a VLAN tag is stripped before XDP sees the frame and no setting of this host prevents it
/// (measured on veth and bridge, native and generic).
#[must_use]
pub fn vlan_tag_visible(name: &str) -> Option<bool> {
    let driver = std::fs::read_link(format!("/sys/class/net/{name}/device/driver")).ok();
    match driver {
        // A device without a driver of its own is virtual: veth, bridge, macvlan. Whether a tag was stripped there
        // cannot be told from here.
        None => None,
        Some(_) => rx_vlan_offload(name).map(|stripped| !stripped),
    }
}

/// Reads the rx-vlan-offload flag by the legacy ethtool call.
fn rx_vlan_offload(name: &str) -> Option<bool> {
    const ETHTOOL_GFLAGS: u32 = 0x25;
    const ETH_FLAG_RXVLAN: u32 = 1 << 8;
    #[repr(C)]
    struct Value {
        command: u32,
        data: u32,
    }
    let mut value = Value { command: ETHTOOL_GFLAGS, data: 0 };
    // SAFETY: all zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = std::ptr::from_mut(&mut value).cast();
    let socket = std::net::UdpSocket::bind(("127.0.0.1", 0)).ok()?;
    use std::os::fd::AsRawFd;
    // SAFETY: SIOCETHTOOL reads and writes `value` through the request; both live through the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &mut request) };
    (result == 0).then_some(value.data & ETH_FLAG_RXVLAN != 0)
}

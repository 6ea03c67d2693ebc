//! The interfaces and addresses of this host, read when asked. It reports what is there; it configures nothing.

use crate::config::{Config, FastPath};
use anyhow::{Context, bail};
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
        // The same flags as in `sys::is_running`, and why.
        let running = entry.flags.contains(InterfaceFlags::IFF_UP | InterfaceFlags::IFF_LOWER_UP);
        found.insert(address, Interface { name: entry.interface_name, ifindex, running });
    }
    Ok(found)
}

/// What an interface is to its link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Kind of hardware, as ARP numbers it.
    pub hardware: u16,
    /// Link-layer address; of hardware with longer ones, the first six bytes.
    pub address: [u8; 6],
    /// `IFF_NOARP`, `IFF_LOOPBACK`, `IFF_POINTOPOINT` and others.
    pub flags: InterfaceFlags,
}

/// Returns the link of each interface, by its index.
///
/// # Errors
/// If the kernel does not tell.
pub fn links() -> anyhow::Result<BTreeMap<u32, Link>> {
    let mut found = BTreeMap::new();
    for entry in getifaddrs().context("list the links of this host")? {
        let Some(link) = entry.address.as_ref().and_then(|address| address.as_link_addr()) else { continue };
        let (Ok(index), Some(address)) = (u32::try_from(link.ifindex()), link.addr()) else { continue };
        found.insert(index, Link { hardware: link.hatype(), address, flags: entry.flags });
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

/// Says whether an interface is a VLAN device, which takes the tag off before its programs see a frame.
#[must_use]
pub fn is_vlan_device(name: &str) -> bool {
    let uevent = std::fs::read_to_string(format!("/sys/class/net/{name}/uevent")).unwrap_or_default();
    uevent.lines().any(|line| line == "DEVTYPE=vlan")
        || std::fs::exists(format!("/proc/net/vlan/{name}")).unwrap_or(false)
}

/// Refuses a network with a VLAN id whose address is on a VLAN device: a program there never sees the tag, and would
/// drop every heartbeat for the want of it.
///
/// # Errors
/// Names the network, the address and the device.
pub fn refuse_hidden_tags(config: &Config, own: u16) -> anyhow::Result<()> {
    hidden_tags(config, own, &by_address()?, is_vlan_device)
}

/// The same of one interface and some of its addresses, which may have come later than the start.
///
/// # Errors
/// As [`refuse_hidden_tags`].
pub fn refuse_hidden_tags_on(
    config: &Config,
    own: u16,
    interface: &Interface,
    locals: &[IpAddr],
) -> anyhow::Result<()> {
    hidden_tags(config, own, &addresses_on(interface, locals), is_vlan_device)
}

fn addresses_on(interface: &Interface, locals: &[IpAddr]) -> BTreeMap<IpAddr, Interface> {
    locals.iter().map(|local| (*local, interface.clone())).collect()
}

fn hidden_tags(
    config: &Config,
    own: u16,
    present: &BTreeMap<IpAddr, Interface>,
    is_vlan_device: impl Fn(&str) -> bool,
) -> anyhow::Result<()> {
    let addresses = config.node(own).map_or(&[][..], |node| &node.addresses);
    for (network, address) in addresses {
        let (Some(network), Some(interface)) = (config.network(*network), present.get(address)) else { continue };
        let name = &interface.name;
        if network.vlan != 0 && config.fast_path(name) != FastPath::Off && is_vlan_device(name) {
            bail!(
                "network \"{}\" has vlan = {}, but {address} is on {name}, a VLAN device: the tag is taken off before \
                 XDP sees a frame there, so frames come untagged; set vlan = 0, or fast_path = \"off\" for {name}",
                network.name,
                network.vlan
            );
        }
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    fn config(vlan: u16, fast_path: &str) -> Config {
        let text = format!(
            r#"[cluster]
name = "demo"
id = "6f0c5d9e2a417b83"
[daemon]
fast_path = "{fast_path}"
[[network]]
name = "net1"
subnets = ["10.0.0.0/24"]
vlan = {vlan}
[[node]]
name = "a"
id = 1
addresses = ["10.0.0.1"]
[[node]]
name = "b"
id = 2
addresses = ["10.0.0.2"]
"#
        );
        parse("t.toml", text.as_bytes()).expect("a good configuration")
    }

    #[test]
    fn a_vlan_id_on_a_vlan_device_is_refused_by_name() {
        let local: IpAddr = [10, 0, 0, 1].into();
        let interface = Interface { name: "eth0.100".to_owned(), ifindex: 3, running: true };
        let present = BTreeMap::from([(local, interface)]);
        let judge = |vlan, fast_path, device| hidden_tags(&config(vlan, fast_path), 1, &present, |_| device);
        let refusal = judge(100, "auto", true).expect_err("the tag is never seen").to_string();
        assert!(refusal.contains("eth0.100") && refusal.contains("vlan = 100"), "{refusal}");
        assert!(judge(100, "off", true).is_ok(), "the responder needs no tag");
        assert!(judge(0, "auto", true).is_ok());
        assert!(judge(100, "auto", false).is_ok());
    }

    #[test]
    fn an_interface_that_comes_later_is_judged_by_its_own_addresses_alone() {
        let interface = Interface { name: "eth0.100".to_owned(), ifindex: 3, running: true };
        let judge = |locals: &[IpAddr]| {
            hidden_tags(&config(100, "auto"), 1, &addresses_on(&interface, locals), |name| name == "eth0.100")
        };
        assert!(judge(&[[10, 0, 0, 1].into()]).unwrap_err().to_string().contains("eth0.100"));
        assert!(judge(&[[10, 0, 0, 9].into()]).is_ok(), "no address of this node's");
        assert!(judge(&[]).is_ok());
    }
}

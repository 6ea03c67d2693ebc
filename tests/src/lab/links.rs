//! The links of a lab: made, taken away, set down, narrowed. It changes links and queues only; what is dropped in the
//! bridges is `faults`' business.

use super::wait::wait_for;
use super::{Lab, Port};
use anyhow::{Context, Result};
use serde_json::Value;
use std::time::Duration;

impl Lab {
    pub(super) fn make_bridges(&self) -> Result<()> {
        let mut batch = String::new();
        for network in 1..=self.spec.networks {
            // No forwarding delay, no snooping: frames pass from the first moment, multicast as any other.
            batch += &format!("link add br-net{network} type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n");
            batch += &format!("link set br-net{network} mtu {} up\n", self.spec.mtu);
        }
        self.switch.ip(&batch)?;
        self.switch.nft("table bridge hb { chain forward { type filter hook forward priority 0; policy accept; }; }")
    }

    /// Makes both ends of a port's link and what lies between them.
    pub(super) fn make_link(&self, port: Port) -> Result<()> {
        let (switch_port, interface) = (self.switch_port(port), self.interface(port));
        let node = &self.nodes[port.node];
        let mtu = self.spec.mtu;
        let (near, far) = (self.relay_near(port), self.relay_far(port));
        let facing = if self.relayed(port) { &near } else { &switch_port };
        let mut batch = format!("link add {facing} type veth peer name {interface} netns {}\n", node.name());
        if self.relayed(port) {
            batch += &format!("link add {switch_port} type veth peer name {far}\n");
            batch += &format!("link set {near} mtu {mtu} promisc on up\nlink set {far} mtu {mtu} promisc on up\n");
        }
        let bridge = format!("br-net{}", port.network + 1);
        batch += &format!("link set {switch_port} mtu {mtu} master {bridge} up\n");
        self.switch.ip(&batch)?;
        if let Some(pass) = &self.pass {
            let link = self.switch.enter(|| pass.attach(facing))?.context("on a port of the switch")?;
            self.pass_links().insert(facing.clone(), link);
        }
        let mut batch = format!("link set {interface} mtu {mtu}\n");
        for address in self.addresses(port) {
            let length = if address.is_ipv4() { "24" } else { "64 nodad" };
            batch += &format!("address add {address}/{length} dev {interface}\n");
        }
        batch += &format!("link set {interface} up\n");
        if self.spec.routed {
            let (router, bridge) = (self.router(port), format!("br-net{}", port.network + 1));
            self.switch.ip(&format!("address add {router}/24 dev {bridge}\n"))?;
            batch += &format!("route add 10.{}.0.0/16 via {router} dev {interface}\n", 78 + port.network);
        }
        node.ip(&batch)?;
        if !self.spec.tx_offload || !self.spec.relays.is_empty() {
            node.run("ethtool", &["-K", &interface, "tx", "off"])?;
        }
        Ok(())
    }

    /// Waits until every link passes frames: the kernel opens a bridge port and a queue up to a second after both
    /// ends of a link are up.
    pub(super) fn settle(&self, ports: &[Port]) -> Result<()> {
        wait_for(Duration::from_secs(5), "the links to come up", || -> Result<()> {
            let shown = self.switch.run("bridge", &["-json", "link", "show"])?;
            let bridged: Vec<Value> = serde_json::from_str(&shown)?;
            for port in ports {
                let name = self.switch_port(*port);
                let found = bridged.iter().find(|link| link["ifname"] == *name);
                anyhow::ensure!(found.is_some_and(|link| link["state"] == "forwarding"), "port {name}: {found:?}");
                let shown = self.nodes[port.node].run("ip", &["-json", "link", "show", &self.interface(*port)])?;
                let links: Vec<Value> = serde_json::from_str(&shown)?;
                anyhow::ensure!(links.iter().all(|link| link["operstate"] == "UP"), "{name}: {shown}");
            }
            Ok(())
        })
    }

    /// Takes a node's interface away, as if its card were pulled out.
    ///
    /// # Errors
    /// Fails when it is not there.
    pub fn delete_interface(&self, port: Port) -> Result<()> {
        self.nodes[port.node].ip(&format!("link delete dev {}\n", self.interface(port)))?;
        if self.relayed(port) {
            self.switch.ip(&format!("link delete dev {}\n", self.switch_port(port)))?;
        }
        let mut links = self.pass_links();
        links.remove(&self.switch_port(port));
        links.remove(&self.relay_near(port));
        Ok(())
    }

    /// Brings back an interface that was taken away: same name and addresses, another index and MAC.
    /// At a relayed port the relay does not follow: its sockets belong to the old links.
    ///
    /// # Errors
    /// Fails when it is there already.
    pub fn add_interface(&self, port: Port) -> Result<()> {
        self.make_link(port)?;
        self.refresh()?;
        self.settle(&[port])
    }

    /// Sets the switch's end of a link up or down: the node sees its carrier come and go. After `up` the kernel may
    /// take a second to pass frames again, as a real switch does.
    ///
    /// # Errors
    /// Fails when there is no such port.
    pub fn set_carrier(&self, port: Port, up: bool) -> Result<()> {
        let end = if self.relayed(port) { self.relay_near(port) } else { self.switch_port(port) };
        self.switch.ip(&format!("link set {end} {}\n", if up { "up" } else { "down" }))
    }

    /// Sets a node's own interface up or down.
    ///
    /// # Errors
    /// Fails when there is no such interface.
    pub fn set_interface(&self, port: Port, up: bool) -> Result<()> {
        let state = if up { "up" } else { "down" };
        self.nodes[port.node].ip(&format!("link set {} {state}\n", self.interface(port)))
    }

    /// Sets the MTU of the switch's end of a port, bytes: larger frames do not pass it.
    ///
    /// # Errors
    /// Fails when the kernel refuses the size.
    pub fn set_mtu(&self, port: Port, mtu: u32) -> Result<()> {
        self.switch.ip(&format!("link set {} mtu {mtu}\n", self.switch_port(port)))
    }

    /// Sets the MTU of a port's whole link, bytes: the node's interface and what it leads to. A bridge keeps its own,
    /// and sends on what is larger than it only if [`Lab::set_bridge_mtu`] widened it.
    ///
    /// # Errors
    /// Fails when the kernel refuses the size, as it does where an XDP program takes only frames of one buffer.
    pub fn set_link_mtu(&self, port: Port, mtu: u32) -> Result<()> {
        let mut ends = vec![self.switch_port(port)];
        if self.relayed(port) {
            ends.extend([self.relay_near(port), self.relay_far(port)]);
        }
        self.switch.ip(&ends.iter().map(|end| format!("link set {end} mtu {mtu}\n")).collect::<String>())?;
        self.nodes[port.node].ip(&format!("link set {} mtu {mtu}\n", self.interface(port)))
    }

    /// Sets the MTU of a network's bridge, bytes.
    ///
    /// # Errors
    /// Fails when the kernel refuses the size.
    pub fn set_bridge_mtu(&self, network: usize, mtu: u32) -> Result<()> {
        self.switch.ip(&format!("link set br-net{} mtu {mtu}\n", network + 1))
    }

    /// Narrows what the switch sends to a port to `kbit` a second (at most 50 ms are queued); `None` widens it again.
    ///
    /// # Errors
    /// Fails when `tc` refuses the rate.
    pub fn set_rate(&self, port: Port, kbit: Option<u32>) -> Result<()> {
        let name = self.switch_port(port);
        match kbit {
            Some(kbit) => {
                let rate = format!("{kbit}kbit");
                // One full frame is the least burst that lets every frame pass at all.
                let burst = (self.spec.mtu + 14).max(kbit / 80 * 10).to_string();
                let tbf = ["tbf", "rate", &rate, "burst", &burst, "latency", "50ms"];
                self.switch.run("tc", &[&["qdisc", "replace", "dev", &name, "root"], &tbf[..]].concat())
            }
            None => self.switch.run("tc", &["qdisc", "delete", "dev", &name, "root"]),
        }
        .map(drop)
    }

    /// Puts the receive path of a node's interface on a kernel thread of its own (or back into softirq) and returns
    /// what the kernel then says. A veth without a native program has a NAPI only with GRO, and puts on it only what
    /// comes from an end without TSO: so the one is turned on and the other off, to stay.
    ///
    /// # Errors
    /// Fails when the device takes no threaded NAPI.
    pub fn set_threaded_napi(&self, port: Port, on: bool) -> Result<String> {
        let interface = self.interface(port);
        self.nodes[port.node].run("ethtool", &["-K", &interface, "gro", "on"])?;
        let facing = if self.relayed(port) { self.relay_near(port) } else { self.switch_port(port) };
        self.switch.run("ethtool", &["-K", &facing, "tso", "off"])?;
        let path = format!("class/net/{interface}/threaded");
        self.nodes[port.node].sysfs(&path, if on { "1" } else { "0" })
    }
}

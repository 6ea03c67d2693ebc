//! The lab: nodes in network namespaces behind a switch namespace, and every fault a test may ask of them. It makes
//! and unmakes the machine's state for tests, demo and benchmarks; it judges nothing that it sees.
//!
//! ```text
//! node a [net1]---[a-net1] switch: bridge br-net1 [b-net1]---[net1] node b      one bridge for each network
//!        [net2]---[a-net2]         bridge br-net2 [b-net2]---[net2]
//! relayed:  [net1]---[r-a-net1] relay in user space [s-a-net1]---[a-net1] bridge
//! ```
//!
//! Faults are injected in the switch, because a firewall on a node does not see what its XDP program answers. Every
//! switch-side end carries an XDP program that passes all, because XDP_TX on a veth is lost without one.

pub mod acts;
pub mod awake;
pub mod bpftool;
pub mod cluster;
pub mod crew;
pub mod daemon;
pub mod disk;
pub mod echo;
pub mod faults;
pub mod field;
pub mod follow;
pub mod guard;
pub mod holder;
mod links;
pub mod notify;
pub mod ns;
pub mod pass;
pub mod play;
pub mod probes;
pub mod relay;
pub mod safety;
pub mod sink;
pub mod starve;
pub mod tap;
pub mod timely;
mod told;
pub mod views;
pub mod wait;
pub mod wire;

pub use acts::{Acts, Views};
pub use cluster::Cluster;
pub use crew::Crew;
pub use daemon::{Daemon, Options};
pub use echo::{Answer, Echo};
pub use faults::{Direction, Fault, Span};
pub use follow::Follower;
pub use guard::{Leak, abandoned, leaks, leaks_of, leaks_tagged, sweep};
pub use holder::Holder;
pub use ns::NodeNs;
pub use play::{Mark, Play};
pub use probes::Probes;
pub use relay::{Relay, Rules};
pub use sink::Sink;
pub use starve::{Freezer, Hog, Quota};
pub use tap::Tap;
pub use timely::Timely;
pub use wait::{monotonic_ns, wait_for};
pub use wire::Wire;

use anyhow::{Context, Result, ensure};
use awake::Awake;
use faults::Faults;
use guard::Guard;
use nix::mount::{MsFlags, mount};
use pass::{Pass, PassLink};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One node's end of one network. Nodes and networks are counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    /// Index of the node.
    pub node: usize,
    /// Index of the network.
    pub network: usize,
}

/// What a lab is to have.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Names of the nodes, at most 6 characters each.
    pub nodes: Vec<String>,
    /// Number of networks, 1..=9. Network `k` (from 1) is 10.77.k.0/24 and fd77:k::/64, interface `net<k>`.
    pub networks: usize,
    /// Addresses of a family that each port has, 1..=8.
    pub addresses: usize,
    /// Whether each node has a subnet of its own on each network, 10.(77+k).(its number).0/24, and the switch routes
    /// between them. IPv4 alone, one address a port.
    pub routed: bool,
    /// Whether nodes have IPv4 addresses.
    pub ipv4: bool,
    /// Whether nodes have IPv6 addresses.
    pub ipv6: bool,
    /// MTU of every link and bridge, bytes.
    pub mtu: u32,
    /// Whether nodes leave checksums to the (virtual) device. Always off where a port is relayed: the relay sends
    /// bytes, and nobody would finish the sums.
    pub tx_offload: bool,
    /// Whether the switch's ends carry the passing XDP program.
    pub pass: bool,
    /// Ports that have a user-space relay between node and bridge, with the relay's seed.
    pub relays: Vec<(Port, u64)>,
}

impl Spec {
    /// `nodes` nodes named a, b, c... on `networks` networks, IPv4, MTU 1500.
    #[must_use]
    pub fn new(nodes: usize, networks: usize) -> Self {
        let name = |index: usize| {
            char::from_digit(index as u32 + 10, 36).map_or_else(|| format!("n{index}"), |letter| letter.to_string())
        };
        Self {
            nodes: (0..nodes).map(name).collect(),
            networks,
            addresses: 1,
            routed: false,
            ipv4: true,
            ipv6: false,
            mtu: 1500,
            tx_offload: true,
            pass: true,
            relays: Vec::new(),
        }
    }
}

/// A lab. Dropping it removes everything it made and ends everything that runs in it.
#[derive(Debug)]
pub struct Lab {
    spec: Spec,
    relays: BTreeMap<Port, Relay>,
    faults: Mutex<Faults>,
    links: Mutex<BTreeMap<String, PassLink>>,
    pass: Option<Pass>,
    nodes: Vec<NodeNs>,
    switch: NodeNs,
    /// What nodes do late is to be their own doing.
    awake: Mutex<Option<Awake>>,
    // Last: what it removes is still held open by the fields above.
    guard: Guard,
}

impl Lab {
    /// Makes the lab.
    ///
    /// # Errors
    /// Fails without root, or when one of the tools (`ip`, `nft`, `ethtool`) or the kernel refuses; nothing is left.
    pub fn new(spec: Spec) -> Result<Self> {
        ensure!((1..=9).contains(&spec.networks), "a lab has 1 to 9 networks, not {}", spec.networks);
        ensure!((1..=200).contains(&spec.nodes.len()), "a lab has 1 to 200 nodes, not {}", spec.nodes.len());
        let hosts = spec.nodes.len() * spec.addresses;
        ensure!(
            (1..=8).contains(&spec.addresses) && hosts <= 200,
            "a port has 1 to 8 addresses, a network at most 200"
        );
        ensure!(
            !spec.routed || (spec.ipv4 && !spec.ipv6 && spec.addresses == 1),
            "a routed lab has one IPv4 address a port"
        );
        ensure!(spec.nodes.iter().all(|name| (1..=6).contains(&name.len())), "node names have 1 to 6 characters");
        let guard = Guard::claim()?;
        let switch = NodeNs::create(guard.tag(), "switch")?;
        switch.sysctl("ipv6/conf/all/disable_ipv6", "1")?;
        switch.sysctl("ipv6/conf/default/disable_ipv6", "1")?;
        let nodes = spec.nodes.iter().map(|name| NodeNs::create(guard.tag(), name)).collect::<Result<Vec<_>>>()?;
        let pass = if spec.pass { Some(Pass::load()?) } else { None };
        let lab = Self {
            spec,
            relays: BTreeMap::new(),
            faults: Mutex::default(),
            links: Mutex::default(),
            pass,
            nodes,
            switch,
            awake: Mutex::new(Some(Awake::keep()?)),
            guard,
        };
        if lab.spec.routed {
            lab.switch.sysctl("ipv4/ip_forward", "1")?;
            // All subnets of a network share its bridge: a router would tell the nodes to do without it.
            for conf in ["all", "default"] {
                lab.switch.sysctl(&format!("ipv4/conf/{conf}/send_redirects"), "0")?;
            }
        }
        lab.make_bridges()?;
        for port in lab.ports() {
            lab.make_link(port)?;
        }
        lab.settle(&lab.ports())?;
        lab.make_scratch()?;
        lab.with_relays()
    }

    fn with_relays(mut self) -> Result<Self> {
        for (port, seed) in self.spec.relays.clone() {
            let (near, far) = (self.relay_near(port), self.relay_far(port));
            let relay = self.switch.enter(|| Relay::start(&near, &far, seed))??;
            self.relays.insert(port, relay);
        }
        Ok(self)
    }

    fn make_scratch(&self) -> Result<()> {
        let none: Option<&str> = None;
        let private = |path: &PathBuf| {
            std::fs::DirBuilder::new().mode(0o700).create(path).with_context(|| format!("making {}", path.display()))
        };
        let pins = self.scratch().join("bpf");
        private(&pins)?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(none, &pins, Some("bpf"), flags, Some("mode=0700")).context("mounting the lab's pin file system")?;
        for node in 0..self.nodes.len() {
            private(&self.node_dir(node))?;
            private(&self.pin_dir(node))?;
        }
        Ok(())
    }

    /// Keeps the processors awake no longer. A process in a cpu group that has just begun to run weighs next to nothing
    /// there, and loses whole seconds even to loops of the class SCHED_IDLE.
    fn let_sleep(&self) {
        drop(self.awake.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// What it was made to.
    #[must_use]
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Its tag, with which all its names begin.
    #[must_use]
    pub fn tag(&self) -> &str {
        self.guard.tag()
    }

    /// Its scratch directory (0700), removed with it.
    #[must_use]
    pub fn scratch(&self) -> PathBuf {
        self.guard.scratch()
    }

    /// A directory (0700) for the files of a node.
    #[must_use]
    pub fn node_dir(&self, node: usize) -> PathBuf {
        self.scratch().join(&self.spec.nodes[node])
    }

    /// A directory (0700) for the pins of a node, on the lab's own pin file system.
    #[must_use]
    pub fn pin_dir(&self, node: usize) -> PathBuf {
        self.scratch().join("bpf").join(&self.spec.nodes[node])
    }

    /// The namespace of a node.
    #[must_use]
    pub fn node(&self, node: usize) -> &NodeNs {
        &self.nodes[node]
    }

    /// The namespace of the switch.
    #[must_use]
    pub fn switch(&self) -> &NodeNs {
        &self.switch
    }

    /// The relay at a port that has one.
    #[must_use]
    pub fn relay(&self, port: Port) -> Option<&Relay> {
        self.relays.get(&port)
    }

    /// Every port, by node and then by network.
    #[must_use]
    pub fn ports(&self) -> Vec<Port> {
        (0..self.nodes.len()).flat_map(|node| self.ports_of(node)).collect()
    }

    /// The ports of one node.
    #[must_use]
    pub fn ports_of(&self, node: usize) -> Vec<Port> {
        (0..self.spec.networks).map(|network| Port { node, network }).collect()
    }

    /// The node's interface at a port.
    #[must_use]
    pub fn interface(&self, port: Port) -> String {
        format!("net{}", port.network + 1)
    }

    /// The bridge port in the switch, which faults name.
    #[must_use]
    pub fn switch_port(&self, port: Port) -> String {
        format!("{}-{}", self.spec.nodes[port.node], self.interface(port))
    }

    fn relay_near(&self, port: Port) -> String {
        format!("r-{}", self.switch_port(port))
    }

    fn relay_far(&self, port: Port) -> String {
        format!("s-{}", self.switch_port(port))
    }

    fn relayed(&self, port: Port) -> bool {
        self.spec.relays.iter().any(|(relayed, _)| *relayed == port)
    }

    /// The node's IPv4 address at a port.
    #[must_use]
    pub fn ipv4(&self, port: Port) -> Ipv4Addr {
        let (network, node) = (port.network as u8 + 1, port.node as u8 + 1);
        if self.spec.routed { Ipv4Addr::new(10, 77 + network, node, 1) } else { Ipv4Addr::new(10, 77, network, node) }
    }

    /// The switch's address in the subnet of a port, where it routes.
    fn router(&self, port: Port) -> Ipv4Addr {
        Ipv4Addr::new(10, 78 + port.network as u8, port.node as u8 + 1, 254)
    }

    /// The node's IPv6 address at a port.
    #[must_use]
    pub fn ipv6(&self, port: Port) -> Ipv6Addr {
        Ipv6Addr::new(0xfd77, port.network as u16 + 1, 0, 0, 0, 0, 0, port.node as u16 + 1)
    }

    /// Every address the node has at a port, the first one of each family being [`Lab::ipv4`] and [`Lab::ipv6`].
    #[must_use]
    pub fn addresses(&self, port: Port) -> Vec<IpAddr> {
        let hosts = (0..self.spec.addresses).map(|index| Port { node: port.node + index * self.nodes.len(), ..port });
        let both = |host: Port| {
            let four = self.spec.ipv4.then(|| IpAddr::V4(self.ipv4(host)));
            let six = self.spec.ipv6.then(|| IpAddr::V6(self.ipv6(host)));
            four.into_iter().chain(six)
        };
        hosts.flat_map(both).collect()
    }

    /// The subnets of a network.
    #[must_use]
    pub fn subnets(&self, network: usize) -> Vec<String> {
        if self.spec.routed {
            return (0..self.nodes.len()).map(|node| format!("10.{}.{}.0/24", 78 + network, node + 1)).collect();
        }
        let four = self.spec.ipv4.then(|| format!("10.77.{}.0/24", network + 1));
        let six = self.spec.ipv6.then(|| format!("fd77:{}::/64", network + 1));
        four.into_iter().chain(six).collect()
    }

    fn active(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pass_links(&self) -> MutexGuard<'_, BTreeMap<String, PassLink>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

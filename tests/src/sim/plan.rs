//! What one seed says of its world: how many nodes and networks, how fast they beat, how long their leases are, which
//! faults they meet. It draws; it plays nothing.

use super::clock::MS;
use super::faults::{self, Faults};
use crate::xdp::random::Random;
use heartbeat_user::core::ids::{NetworkId, NodeId};
use heartbeat_user::core::settings::{NetworkSpec, NodeSpec, PathSettings, PathSpec, Settings};
use heartbeat_user::keys::{self, KeyRing, Keys};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::OnceLock;
use std::time::Duration;

/// The cluster's id in every world.
pub const CLUSTER: u64 = 0x5eed;
/// The hash of everybody's settings.
const SETTINGS: u64 = 0x5e7;
/// Most networks of a world.
pub const NETWORKS_MAX: usize = 2;
/// Most nodes of a world.
pub const NODES_MAX: usize = 7;

/// The drawn world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Where it came from.
    pub seed: u64,
    /// Nodes.
    pub nodes: usize,
    /// Networks.
    pub networks: usize,
    /// Every path's rule.
    pub rule: PathSettings,
    /// The lease of the first view, ms.
    pub lease_ms: u32,
    /// Of it, the time to stop, ms.
    pub stop_ms: u32,
    /// Votes follow membership.
    pub dynamic: bool,
    /// The node that loses its vote first, by place.
    pub lower_priority: Option<usize>,
    /// A node whose settings differ from those of the others, by place.
    pub odd_settings: Option<usize>,
    /// Ungraceful ends after which a node is quarantined; 0: never.
    pub quarantine_threshold: u8,
    /// And for how long.
    pub quarantine: Duration,
    /// A node whose vote weighs nothing by configuration, by place; not the first.
    pub weightless: Option<usize>,
    /// Controller age above which a peer is stalled.
    pub stall_limit: Duration,
    /// And above which it hangs.
    pub hang_limit: Duration,
    /// Which faults there are.
    pub faults: Faults,
    /// How long they go on, ns.
    pub safety_ns: u64,
    /// A majority is healed alone, before all are.
    pub core: bool,
    /// Once all is well again, one more fault comes alone.
    pub trial: bool,
    /// Pauses last for up to a minute and a half: beyond every lease and hang limit.
    pub patient: bool,
}

impl Plan {
    /// Draws a world with faults.
    #[must_use]
    pub fn draw(seed: u64) -> Self {
        Self::draw_of(seed, None)
    }

    /// Draws a world with faults of so many nodes; `None`: as many as the seed says.
    #[must_use]
    pub fn draw_of(seed: u64, nodes: Option<usize>) -> Self {
        let mut random = Random::new(seed ^ 0x0070_6c61_6e00);
        let mut rare = Random::new(seed ^ 0x7261_7265);
        let usual = random.pick(&[2, 3, 3, 3, 4, 5, 5]);
        let nodes = nodes.unwrap_or(usual);
        let lease_ms = random.pick(&[300, 500, 500, 500, 1000, 3000]);
        let stop_ms = if random.one_in(4) { random.pick(&[50, 100, lease_ms / 3]).min(lease_ms - 200) } else { 0 };
        let drawn = Self {
            seed,
            nodes,
            networks: random.pick(&[1, 1, 2]),
            dynamic: !random.one_in(3),
            lower_priority: random.one_in(4).then(|| random.below(nodes as u64) as usize),
            lease_ms,
            stop_ms,
            hang_limit: Duration::from_millis(random.pick(&[2_000, 4_000, 60_000])),
            faults: faults::draw(seed),
            safety_ns: 20_000 * MS,
            // Drawn by itself: all else that a seed says stays what it is.
            core: Random::new(seed ^ 0x6865_616c).one_in(3),
            trial: true,
            odd_settings: rare.one_in(16).then(|| 1 + rare.below(nodes.max(2) as u64 - 1) as usize),
            quarantine_threshold: if rare.one_in(4) { rare.pick(&[1, 2, 3]) } else { 0 },
            weightless: rare.one_in(12).then(|| 1 + rare.below(nodes.max(2) as u64 - 1) as usize),
            quarantine: Duration::from_secs(rare.pick(&[3, 8, 60])),
            ..Self::calm(nodes)
        };
        if rare.one_in(48) { drawn.patiently() } else { drawn }
    }

    /// The same with pauses that last, for so long that there is time for some.
    fn patiently(self) -> Self {
        let pauses = 1 << faults::LONG_PAUSE | 1 << faults::MACHINE_PAUSED;
        let classes = (self.faults.classes | pauses) & !(1 << faults::SLEWED);
        Self { patient: true, safety_ns: 150_000 * MS, faults: Faults { classes, ..self.faults }, ..self }
    }

    /// Returns the place of each node's vote in a page.
    #[must_use]
    pub fn slots(&self) -> BTreeMap<NodeId, usize> {
        (0..self.nodes).map(|node| (id(node), node)).collect()
    }

    /// Returns a world of `nodes` nodes on one network without faults.
    #[must_use]
    pub fn calm(nodes: usize) -> Self {
        Self {
            seed: 1,
            nodes,
            networks: 1,
            rule: PathSettings { delay: Duration::from_millis(100), threshold: 5, lost: 2, unreachable: 4, failed: 5 },
            lease_ms: 500,
            stop_ms: 0,
            dynamic: true,
            lower_priority: None,
            odd_settings: None,
            quarantine_threshold: 0,
            quarantine: Duration::from_secs(60),
            weightless: None,
            stall_limit: Duration::from_millis(500),
            hang_limit: Duration::from_secs(60),
            faults: Faults::NONE,
            safety_ns: 0,
            core: false,
            trial: false,
            patient: false,
        }
    }

    /// Returns the delay, ns.
    #[must_use]
    pub fn delay_ns(&self) -> u64 {
        self.rule.delay.as_nanos() as u64
    }

    /// Returns the detection time, ns.
    #[must_use]
    pub fn detection_ns(&self) -> u64 {
        self.rule.detection_time().as_nanos() as u64
    }

    /// Returns for how long messages of a node whose controller runs may fail to pass.
    #[must_use]
    pub fn control_limit(&self) -> Duration {
        (self.rule.detection_time() * 2).max(Duration::from_secs(1))
    }

    /// Returns the hash of a node's settings.
    #[must_use]
    pub fn settings_of(&self, own: usize) -> u64 {
        if self.odd_settings == Some(own) { SETTINGS + 1 } else { SETTINGS }
    }

    /// Returns how many paths each node has.
    #[must_use]
    pub const fn paths(&self) -> usize {
        (self.nodes - 1) * self.networks
    }

    /// Returns the index, at `own`, of the path to a peer.
    #[must_use]
    pub const fn path_to(&self, own: usize, peer: usize, network: usize) -> usize {
        (if peer > own { peer - 1 } else { peer }) * self.networks + network
    }

    /// Returns where a path of `own` leads: peer and network.
    #[must_use]
    pub const fn peer_of(&self, own: usize, path: usize) -> (usize, usize) {
        let rank = path / self.networks;
        (if rank >= own { rank + 1 } else { rank }, path % self.networks)
    }

    /// Returns what frames show of a path.
    #[must_use]
    pub fn path_spec(&self, own: usize, path: usize) -> keys::PathSpec {
        let (peer, network) = self.peer_of(own, path);
        keys::PathSpec {
            network: network as u16 + 1,
            own: id(own).0,
            peer: id(peer).0,
            local: address(network, own),
            remote: address(network, peer),
            vlan: 0,
            answer_within: self.rule.delay,
            min_hop_limit: 255,
        }
    }

    /// Returns what a node's core is told.
    #[must_use]
    pub fn settings(&self, own: usize, incarnation: u64) -> Settings {
        let peers = (0..self.nodes).filter(|peer| *peer != own);
        let path = |path: usize| {
            let (peer, network) = self.peer_of(own, path);
            PathSpec {
                node: id(peer),
                network: NetworkId(network as u16 + 1),
                local: address(network, own),
                peer: address(network, peer),
                settings: self.rule,
            }
        };
        let network = |network: usize| NetworkSpec { id: NetworkId(network as u16 + 1), name: format!("net{network}") };
        Settings {
            incarnation,
            hash: self.settings_of(own),
            nodes: peers.map(|peer| NodeSpec { id: id(peer), name: name(peer) }).collect(),
            networks: (0..self.networks).map(network).collect(),
            paths: (0..self.paths()).map(path).collect(),
            stall_limit: self.stall_limit,
            hang_limit: self.hang_limit,
            lateness_budget: Duration::from_millis(25),
        }
    }
}

/// Returns the id of a node by its place.
#[must_use]
pub const fn id(place: usize) -> NodeId {
    NodeId(place as u16 + 1)
}

/// Returns the place of a node by its id.
#[must_use]
pub const fn place(id: NodeId) -> usize {
    id.0 as usize - 1
}

/// Returns the name of a node.
#[must_use]
pub fn name(place: usize) -> String {
    char::from(b'a' + place as u8).to_string()
}

const fn address(network: usize, node: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, network as u8, 0, node as u8 + 1))
}

/// Returns what every key is derived from: the same in every run.
///
/// # Panics
/// If there is no directory for temporary files: keys are only read from files.
pub fn ring() -> &'static KeyRing {
    static RING: OnceLock<KeyRing> = OnceLock::new();
    RING.get_or_init(|| {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = directory.path().join("key");
        let text: String = (0..32_u32).map(|byte| format!("{:02x}", byte * 7 + 1)).collect();
        std::fs::write(&file, text).expect("write a key");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&file, mode).expect("a key's mode");
        Keys::load(&file).expect("a key").ring(CLUSTER)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_there_and_back() {
        let plan = Plan { networks: 2, ..Plan::calm(5) };
        for own in 0..5 {
            for path in 0..plan.paths() {
                let (peer, network) = plan.peer_of(own, path);
                assert!(peer != own && plan.path_to(own, peer, network) == path);
            }
        }
    }

    #[test]
    fn a_seed_draws_one_world() {
        assert_eq!(Plan::draw(77), Plan::draw(77));
        assert!((0..50).any(|seed| Plan::draw(seed).nodes != Plan::draw(77).nodes));
    }
}

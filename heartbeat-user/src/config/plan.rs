//! What follows from a configuration: which node this host is, its paths, and the hash that peers compare.
//! Pure: the same configuration gives the same answer on every host.

use super::{Config, PathThresholds, Regroup, Role};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// One path of this node, as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathPlan {
    /// Id of the network.
    pub network: u16,
    /// The network's role: paths of a `client` network are watched like any other and shown as such.
    pub role: Role,
    /// This node's address.
    pub local: IpAddr,
    /// Id of the peer.
    pub peer_node: u16,
    /// The peer's address, of the same family.
    pub peer: IpAddr,
    /// Both addresses lie in one configured subnet.
    pub same_subnet: bool,
    /// VLAN id of the network; 0: untagged.
    pub vlan: u16,
}

/// Why this host cannot be told to be one of the nodes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelfError {
    /// No node has an address of this host.
    #[error(
        "this host is no node of the configuration: it has {}, and the nodes have {expected}",
        if .local.is_empty() { "no address" } else { .local.as_str() }
    )]
    None {
        /// The addresses of this host.
        local: String,
        /// The nodes with their addresses.
        expected: String,
    },
    /// Several nodes have an address of this host.
    #[error("this host has addresses of more than one node: {found}")]
    Ambiguous {
        /// The nodes found, with the addresses that are here.
        found: String,
    },
}

/// Finds the node that this host is by the addresses that it has. One address is enough: an interface may be missing.
///
/// # Errors
/// No node has any of `local`, or more than one has.
pub fn find_self(config: &Config, local: &[IpAddr]) -> Result<u16, SelfError> {
    let here = |node: &super::Node| -> Vec<IpAddr> {
        node.addresses.iter().map(|(_, address)| *address).filter(|address| local.contains(address)).collect()
    };
    let found: Vec<_> =
        config.nodes.iter().map(|node| (node, here(node))).filter(|(_, here)| !here.is_empty()).collect();
    match found.as_slice() {
        [(node, _)] => Ok(node.id),
        [] => {
            let all =
                |node: &super::Node| -> Vec<IpAddr> { node.addresses.iter().map(|(_, address)| *address).collect() };
            let local: BTreeSet<IpAddr> = local.iter().copied().collect();
            Err(SelfError::None {
                local: joined(local.iter()),
                expected: listed(config.nodes.iter().map(|node| (node, all(node)))),
            })
        }
        _ => Err(SelfError::Ambiguous { found: listed(found) }),
    }
}

fn joined<'a>(addresses: impl Iterator<Item = &'a IpAddr>) -> String {
    addresses.map(IpAddr::to_string).collect::<Vec<_>>().join(", ")
}

fn listed<'a>(nodes: impl IntoIterator<Item = (&'a super::Node, Vec<IpAddr>)>) -> String {
    let one = |(node, addresses): (&super::Node, Vec<IpAddr>)| format!("{} ({})", node.name, joined(addresses.iter()));
    nodes.into_iter().map(one).collect::<Vec<_>>().join(", ")
}

/// Lists the paths of node `own`: each of its addresses to each address of a peer, of the same family, on the same
/// network. Sorted by peer, network, own address and peer's address; empty for a node that is not configured.
#[must_use]
pub fn paths_for(config: &Config, own: u16) -> Vec<PathPlan> {
    let Some(node) = config.node(own) else { return Vec::new() };
    let mut paths = Vec::new();
    for peer in config.nodes.iter().filter(|peer| peer.id != own) {
        for (network_id, local) in &node.addresses {
            let Some(network) = config.network(*network_id).filter(|network| network.role.is_monitored()) else {
                continue;
            };
            let reached = peer.addresses.iter().filter(|(id, to)| id == network_id && to.is_ipv4() == local.is_ipv4());
            for (_, to) in reached {
                let same_subnet = network.subnets.iter().any(|subnet| subnet.contains(*local) && subnet.contains(*to));
                paths.push(PathPlan {
                    network: *network_id,
                    role: network.role,
                    local: *local,
                    peer_node: peer.id,
                    peer: *to,
                    same_subnet,
                    vlan: network.vlan,
                });
            }
        }
    }
    paths.sort_by_key(|path| (path.peer_node, path.network, path.local, path.peer));
    paths
}

/// Hashes what every node must have the same: cluster name and id, settings as they come out (not how they were
/// spelt), networks and nodes. What a host does on its own ([`super::Daemon`], interfaces, key file) is left out, and
/// so is the order in which things were written. Lease, stop time and the rules of votes are left out too: they begin a
/// cluster, and then the view says what holds.
#[must_use]
pub fn settings_hash(config: &Config) -> u64 {
    let mut hash = Canonical(Sha256::new());
    hash.text("heartbeat settings v2").text(&config.cluster.name).number(config.cluster.id);
    let settings = &config.settings;
    for PathThresholds { delay, threshold, lost, unreachable, failed } in [settings.same_subnet, settings.cross_subnet]
    {
        hash.number(delay.as_millis() as u64).number(threshold.into()).number(lost.into());
        hash.number(unreachable.into()).number(failed.into());
    }
    hash.number(settings.stall_limit.as_millis() as u64).number(settings.hang_limit.as_secs());
    hash.number(settings.lateness_budget.as_millis() as u64).number(settings.cross_subnet_min_hop_limit.into());
    let quorum = &settings.quorum;
    hash.number(quorum.quarantine_threshold.into()).number(quorum.quarantine_duration.as_secs());
    let Regroup { tick, opening_timeout, stage_timeout, pruning_timeout, control_limit } = settings.regroup;
    for time in [tick, opening_timeout, stage_timeout, pruning_timeout, control_limit] {
        hash.number(time.as_millis() as u64);
    }
    hash.number(config.networks.len() as u64);
    for network in &config.networks {
        hash.number(network.id.into()).text(&network.name).text(network.role.name()).number(network.vlan.into());
        let subnets: BTreeSet<_> = network.subnets.iter().collect();
        hash.number(subnets.len() as u64);
        for (address, length) in subnets.into_iter().map(super::Subnet::parts) {
            hash.address(address).number(length.into());
        }
    }
    hash.number(config.nodes.len() as u64);
    for node in &config.nodes {
        hash.number(node.id.into()).text(&node.name).number(node.weight.into()).number(node.addresses.len() as u64);
        for (network, address) in &node.addresses {
            hash.number((*network).into()).address(*address);
        }
    }
    hash.finish()
}

/// Feeds a hash so that no two different sequences of values give the same bytes.
struct Canonical(Sha256);

impl Canonical {
    fn number(&mut self, number: u64) -> &mut Self {
        self.0.update(number.to_le_bytes());
        self
    }

    fn text(&mut self, text: &str) -> &mut Self {
        self.number(text.len() as u64).0.update(text);
        self
    }

    fn address(&mut self, address: IpAddr) -> &mut Self {
        match address {
            IpAddr::V4(address) => self.number(4).0.update(address.octets()),
            IpAddr::V6(address) => self.number(6).0.update(address.octets()),
        }
        self
    }

    fn finish(self) -> u64 {
        let digest = self.0.finalize();
        let mut word = [0; 8];
        word.copy_from_slice(&digest[..8]);
        u64::from_le_bytes(word)
    }
}

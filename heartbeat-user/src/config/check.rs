//! Decides whether the parts of a configuration go together. It reads no text and gives no part a meaning of its own.

use super::fault::{FaultKind, Faults};
use super::read::{NetworkAt, NodeAt};
use super::section::{At, List};
use super::settings::NodeRef;
use super::{Network, Node, Role};
use heartbeat_common::maps::PATHS_MAX;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

/// Requires `low` < `high`; the fault is put where a value was given.
pub(super) fn rising(faults: &mut Faults, low: Option<&At<u64>>, high: Option<&At<u64>>) {
    let (Some(low), Some(high)) = (low, high) else { return };
    if low.value < high.value {
        return;
    }
    let name = |at: &At<u64>| at.key.rsplit('.').next().unwrap_or_default().to_owned();
    if high.given {
        let rule = format!("must be above {}, {} (got {})", name(low), low.value, high.value);
        faults.add(FaultKind::Relation, high.offset, high.key.clone(), rule);
    } else {
        let rule = format!("must be below {}, {} by default (got {})", name(high), high.value, low.value);
        faults.add(FaultKind::Relation, low.offset, low.key.clone(), rule);
    }
}

/// Requires that the lateness budget is at most the shortest delay.
pub(super) fn within_delay(faults: &mut Faults, budget: &At<u64>, shortest: u64) {
    if budget.value > shortest {
        let rule = format!("must be at most the shortest delay, {shortest} ms (got {})", budget.value);
        faults.add(FaultKind::Relation, budget.offset, budget.key.clone(), rule);
    }
}

/// Requires that a node is hung later than it is stalled.
pub(super) fn hang_above_stall(faults: &mut Faults, stall: &At<u64>, hang: &At<u64>) {
    if hang.value * 1000 > stall.value {
        return;
    }
    let from = if stall.given { "" } else { ", by default the same-subnet detection time" };
    let at = if hang.given || !stall.given { hang } else { stall };
    let rule = format!("hang_limit_s must exceed stall_limit_ms (got {} s and {} ms{from})", hang.value, stall.value);
    faults.add(FaultKind::Relation, at.offset, at.key.clone(), rule);
}

/// Requires that a stall takes at least one delay: the age is only seen once a delay.
pub(super) fn stall_above_delay(faults: &mut Faults, stall: &At<u64>, delay: u64) {
    if stall.value < delay {
        let rule = format!("must be at least same_subnet_delay_ms, {delay} (got {})", stall.value);
        faults.add(FaultKind::Relation, stall.offset, stall.key.clone(), rule);
    }
}

/// Requires that enough of the lease is left to act in, once what stopping takes is taken off.
pub(super) fn time_to_act(faults: &mut Faults, lease: &At<u64>, stop: &At<u64>, delay: u64, delays: u64) {
    if lease.value >= stop.value + delay * delays {
        return;
    }
    let at = if stop.given && !lease.given { stop } else { lease };
    let by_default = |at: &At<u64>| if at.given { "" } else { " by default" };
    let rule = format!(
        "quorum_arbitration_time_max_s must exceed stop_time_s by at least {delays} of the longest delay, {delay} ms \
         (got {} ms{} and {} ms{})",
        lease.value,
        by_default(lease),
        stop.value,
        by_default(stop)
    );
    faults.add(FaultKind::Relation, at.offset, at.key.clone(), rule);
}

/// Requires that there is time for a message to be said twice.
pub(super) fn two_ticks(faults: &mut Faults, time: &At<u64>, tick: &At<u64>) {
    if time.value < 2 * tick.value {
        let rule = format!("must be at least 2 x regroup_tick_ms, {} (got {})", tick.value, time.value);
        faults.add(FaultKind::Relation, time.offset, time.key.clone(), rule);
    }
}

/// Finds the node that a setting names.
pub(super) fn configured(faults: &mut Faults, named: &At<NodeRef>, nodes: &[Node]) -> Option<u16> {
    let (found, shown) = match &named.value {
        NodeRef::None => return None,
        NodeRef::Id(id) => (nodes.iter().find(|node| u64::from(node.id) == *id), id.to_string()),
        NodeRef::Name(name) => (nodes.iter().find(|node| node.name.eq_ignore_ascii_case(name)), format!("{name:?}")),
    };
    if found.is_none() {
        let rule = format!("must be the name or the id of a configured node (got {shown})");
        faults.add(FaultKind::Relation, named.offset, named.key.clone(), rule);
    }
    found.map(|node| node.id)
}

/// Requires that others can get to the lease: nobody else may pass through the directory of the pins.
pub(super) fn readable(faults: &mut Faults, pin_dir: &At<PathBuf>, lease_pin: &At<PathBuf>) {
    if lease_pin.value.starts_with(&pin_dir.value) {
        let at = if lease_pin.given { lease_pin } else { pin_dir };
        let rule = format!(
            "lease_pin must not lie in pin_dir, which nobody else may pass through (got {}, and {} is {})",
            lease_pin.value.display(),
            pin_dir.key,
            pin_dir.value.display()
        );
        faults.add(FaultKind::Relation, at.offset, at.key.clone(), rule);
    }
}

/// Requires that no item of a list is there twice.
pub(super) fn distinct<T>(faults: &mut Faults, items: &[At<T>], shown: impl Fn(&T) -> String) {
    let mut seen = Unique::new();
    for item in items {
        let name = shown(&item.value);
        seen.check(faults, name.clone(), &name, item);
    }
}

/// Requires that the pins have a directory of their own.
pub(super) fn apart(faults: &mut Faults, pin_dir: &At<PathBuf>, other: &At<PathBuf>) {
    if pin_dir.value == other.value {
        let at = if pin_dir.given { pin_dir } else { other };
        let rule =
            format!("pin_dir must be a directory of its own (got {}, also {})", pin_dir.value.display(), other.key);
        faults.add(FaultKind::Relation, at.offset, at.key.clone(), rule);
    }
}

/// Remembers what must be unique.
struct Unique<K> {
    seen: BTreeMap<K, (usize, String)>,
}

impl<K: Ord> Unique<K> {
    const fn new() -> Self {
        Self { seen: BTreeMap::new() }
    }

    /// Notes a fault if `value` was there before.
    fn check<T>(&mut self, faults: &mut Faults, value: K, shown: &str, at: &At<T>) {
        if let Some((offset, key)) = self.seen.get(&value) {
            let rule = format!("must be unique (got {shown}, also {key} in line {})", faults.line(*offset));
            faults.add(FaultKind::Relation, at.offset, at.key.clone(), rule);
        } else {
            self.seen.insert(value, (at.offset, at.key.clone()));
        }
    }
}

/// Checks networks and nodes, each by itself and against each other, and sorts both by id. What is at fault is left
/// out of the result.
pub(super) fn members(
    faults: &mut Faults,
    networks: List<NetworkAt>,
    nodes: List<NodeAt>,
) -> (Vec<Network>, Vec<Node>) {
    let before = faults.count();
    unique_networks(faults, &networks.items);
    subnets_apart(faults, &networks.items);
    // A subnet that could not be read would make addresses homeless that are right.
    let subnets_known = networks.complete && networks.items.iter().all(|network| network.subnets.complete);
    let mut networks: Vec<Network> = networks.items.into_iter().enumerate().map(place).collect();
    unique_nodes(faults, &nodes.items);
    a_vote(faults, &nodes);
    let addresses_known = nodes.complete && nodes.items.iter().all(|node| node.addresses.complete);
    if subnets_known {
        for address in nodes.items.iter().flat_map(|node| &node.addresses.items) {
            if home(&networks, address.value).is_none() {
                let rule = format!("must lie in a subnet of a network (got {})", address.value);
                faults.add(FaultKind::Relation, address.offset, address.key.clone(), rule);
            }
        }
    }
    if subnets_known && addresses_known && faults.count() == before {
        reach(faults, &networks, &nodes.items);
    }
    networks.sort_by_key(|network| network.id);
    let mut nodes: Vec<Node> = nodes.items.iter().filter_map(|node| settle(node, &networks)).collect();
    nodes.sort_by_key(|node| node.id);
    (networks, nodes)
}

fn unique_nodes(faults: &mut Faults, nodes: &[NodeAt]) {
    let mut names = Unique::new();
    let mut ids = Unique::new();
    let mut addresses = Unique::new();
    for node in nodes {
        if let Some(name) = &node.name {
            names.check(faults, name.value.to_lowercase(), &format!("{:?}", name.value), name);
        }
        if let Some(id) = &node.id {
            ids.check(faults, id.value, &id.value.to_string(), id);
        }
        for address in &node.addresses.items {
            addresses.check(faults, address.value, &address.value.to_string(), address);
        }
    }
}

/// Requires that somebody has a vote.
fn a_vote(faults: &mut Faults, nodes: &List<NodeAt>) {
    let none = nodes.items.iter().all(|node| node.weight.as_ref().is_some_and(|weight| weight.value == 0));
    if let Some(weight) = nodes.items.first().and_then(|node| node.weight.as_ref()).filter(|_| none && nodes.complete) {
        let rule = "at least one node must have weight 1 (got 0 for each)";
        faults.add(FaultKind::Relation, weight.offset, weight.key.clone(), rule);
    }
}

fn unique_networks(faults: &mut Faults, networks: &[NetworkAt]) {
    let mut names = Unique::new();
    let mut ids = Unique::new();
    for network in networks {
        if let Some(name) = &network.name {
            names.check(faults, name.value.to_lowercase(), &format!("{:?}", name.value), name);
        }
        if let Some(id) = &network.id {
            ids.check(faults, id.value, &id.value.to_string(), id);
        }
    }
}

fn subnets_apart(faults: &mut Faults, networks: &[NetworkAt]) {
    let all: Vec<_> = networks.iter().flat_map(|network| &network.subnets.items).collect();
    for (index, subnet) in all.iter().enumerate() {
        if let Some(other) = all.iter().take(index).find(|other| other.value.overlaps(&subnet.value)) {
            let line = faults.line(other.offset);
            let rule = format!(
                "must not overlap another subnet (got {}, and {} is {} in line {line})",
                subnet.value, other.key, other.value
            );
            faults.add(FaultKind::Relation, subnet.offset, subnet.key.clone(), rule);
        }
    }
}

/// Builds a network. What could not be read is a fault already; here anything stands for it.
fn place((index, network): (usize, NetworkAt)) -> Network {
    Network {
        id: network.id.map_or(index as u16, |id| id.value),
        name: network.name.map(|name| name.value).unwrap_or_default(),
        role: network.role.unwrap_or(Role::Both),
        subnets: network.subnets.items.iter().map(|subnet| subnet.value).collect(),
        vlan: network.vlan.unwrap_or_default(),
    }
}

fn home(networks: &[Network], address: IpAddr) -> Option<&Network> {
    networks.iter().find(|network| network.subnets.iter().any(|subnet| subnet.contains(address)))
}

fn settle(node: &NodeAt, networks: &[Network]) -> Option<Node> {
    let mut addresses: Vec<(u16, IpAddr)> = node
        .addresses
        .items
        .iter()
        .filter_map(|address| Some((home(networks, address.value)?.id, address.value)))
        .collect();
    addresses.sort_unstable();
    let (id, name, weight) = (node.id.as_ref()?.value, node.name.as_ref()?.value.clone(), node.weight.as_ref()?.value);
    Some(Node { id, name, addresses, weight: weight as u8 })
}

/// The ends that a node has: how many addresses of a family on a monitored network.
type Ends = BTreeMap<(u16, bool), usize>;

fn ends(networks: &[Network], node: &NodeAt) -> Ends {
    let mut ends = Ends::new();
    for address in &node.addresses.items {
        if let Some(network) = home(networks, address.value).filter(|network| network.role.is_monitored()) {
            *ends.entry((network.id, address.value.is_ipv4())).or_default() += 1;
        }
    }
    ends
}

/// Requires a path between any two nodes, and no more paths of one node than the maps hold.
fn reach(faults: &mut Faults, networks: &[Network], nodes: &[NodeAt]) {
    let all: Vec<Ends> = nodes.iter().map(|node| ends(networks, node)).collect();
    let mut total = Ends::new();
    for (end, count) in all.iter().flatten() {
        *total.entry(*end).or_default() += count;
    }
    for (index, (node, own)) in nodes.iter().zip(&all).enumerate() {
        let paths: usize = own.iter().map(|(end, count)| count * (total[end] - count)).sum();
        if paths > PATHS_MAX as usize {
            let rule = format!("must have at most {PATHS_MAX} paths to other nodes (got {paths})");
            faults.add(FaultKind::Relation, node.offset, node.key.clone(), rule);
        }
        let own: BTreeSet<_> = own.keys().collect();
        let apart = |other: &&(&NodeAt, &Ends)| !other.1.keys().any(|end| own.contains(end));
        let others = nodes.iter().zip(&all).take(index);
        if let Some((other, _)) = others.collect::<Vec<_>>().iter().find(|other| apart(other)) {
            let rule = format!(
                "must have an address of the same family as one of {} on a network whose role is not \"none\"",
                other.key
            );
            faults.add(FaultKind::Relation, node.offset, node.key.clone(), rule);
        }
    }
}

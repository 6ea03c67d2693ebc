//! Faults of the network, as rules of the switch: each change of them is one transaction of the kernel's, so that
//! what is cut together is cut at once. It touches no link and no node.

use super::{Lab, Port, monotonic_ns};
use anyhow::Result;
use std::fmt::Write;

/// Which way frames go at a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the node into the network.
    FromNode,
    /// From the network to the node.
    ToNode,
    /// Both.
    Both,
}

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing passes the port in that direction; the carrier stays up.
    Cut(Port, Direction),
    /// Nothing passes from the first port to the second (of the same network).
    OneWay(Port, Port),
    /// Frames are lost at random, so many of a thousand.
    Loss(Port, Direction, u32),
    /// Packets of that many bytes (from the IP header on; inclusive bounds) are lost.
    Length(Port, Direction, u32, u32),
    /// ARP and neighbour discovery are lost, both ways.
    Neighbours(Port),
    /// Every frame to the node is delivered twice.
    Duplicate(Port),
}

/// A stretch of CLOCK_MONOTONIC in which a change took effect, at one moment for all it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Just before it was asked for, ns.
    pub before_ns: u64,
    /// Just after it was done, ns.
    pub after_ns: u64,
}

/// The faults that are in force.
#[derive(Debug, Default)]
pub(super) struct Faults {
    active: Vec<Fault>,
    /// Whether the table that duplicates is there.
    duplicates: bool,
}

impl Lab {
    /// Adds faults, all at one moment.
    ///
    /// # Errors
    /// Fails when `nft` refuses a rule; then nothing has changed.
    pub fn inject(&self, faults: &[Fault]) -> Result<Span> {
        self.change(|active| active.extend_from_slice(faults))
    }

    /// Takes faults back, all at one moment; those that are not in force are ignored.
    ///
    /// # Errors
    /// Fails when `nft` does; then nothing has changed.
    pub fn repair(&self, faults: &[Fault]) -> Result<Span> {
        self.change(|active| active.retain(|fault| !faults.contains(fault)))
    }

    /// Takes back every fault of the switch's rules, at one moment.
    ///
    /// # Errors
    /// Fails when `nft` does; then nothing has changed.
    pub fn heal(&self) -> Result<Span> {
        self.change(Vec::clear)
    }

    /// Cuts ports both ways at one moment.
    ///
    /// # Errors
    /// As [`Lab::inject`].
    pub fn cut(&self, ports: &[Port]) -> Result<Span> {
        let cuts: Vec<Fault> = ports.iter().map(|port| Fault::Cut(*port, Direction::Both)).collect();
        self.inject(&cuts)
    }

    /// Cuts every port of a node at one moment: to the others, its machine is dead.
    ///
    /// # Errors
    /// As [`Lab::inject`].
    pub fn cut_all(&self, node: usize) -> Result<Span> {
        self.cut(&self.ports_of(node))
    }

    /// Cuts one network for every node.
    ///
    /// # Errors
    /// As [`Lab::inject`].
    pub fn cut_network(&self, network: usize) -> Result<Span> {
        let ports: Vec<Port> = (0..self.spec.nodes.len()).map(|node| Port { node, network }).collect();
        self.cut(&ports)
    }

    /// Lets nodes of different groups hear nothing of each other, on any network. A node in no group is cut off by
    /// none.
    ///
    /// # Errors
    /// As [`Lab::inject`].
    pub fn partition(&self, groups: &[&[usize]]) -> Result<Span> {
        let mut pairs = Vec::new();
        for (index, group) in groups.iter().enumerate() {
            let others = groups[index + 1..].iter().flat_map(|group| *group);
            pairs.extend(others.flat_map(|other| group.iter().map(|node| (*node, *other))));
        }
        self.part(&pairs)
    }

    /// Lets the nodes of each pair hear nothing of each other, on any network: all pairs in one moment.
    ///
    /// # Errors
    /// As [`Lab::inject`].
    pub fn part(&self, pairs: &[(usize, usize)]) -> Result<Span> {
        let both = pairs.iter().flat_map(|(one, other)| [(*one, *other), (*other, *one)]);
        let cuts = both.flat_map(|(from, to)| {
            let port = |node: usize, network: usize| Port { node, network };
            (0..self.spec.networks).map(move |network| Fault::OneWay(port(from, network), port(to, network)))
        });
        self.inject(&cuts.collect::<Vec<_>>())
    }

    /// Makes the rules anew, for links that came back under their old names.
    pub(super) fn refresh(&self) -> Result<()> {
        self.change(|_| {}).map(drop)
    }

    fn change(&self, edit: impl FnOnce(&mut Vec<Fault>)) -> Result<Span> {
        let mut faults = self.active();
        let mut wanted = faults.active.clone();
        edit(&mut wanted);
        let duplicates = wanted.iter().any(|fault| matches!(fault, Fault::Duplicate(_)));
        let script = self.script(&wanted, duplicates || faults.duplicates);
        let before_ns = monotonic_ns();
        self.switch.nft(&script)?;
        let after_ns = monotonic_ns();
        *faults = Faults { active: wanted, duplicates };
        Ok(Span { before_ns, after_ns })
    }

    /// The whole state of the switch as one transaction. The chain stays and only its rules are replaced, so there is
    /// no moment without a chain.
    fn script(&self, faults: &[Fault], duplicates: bool) -> String {
        let mut script = String::from("flush chain bridge hb forward\n");
        for rule in faults.iter().flat_map(|fault| self.rules(fault)) {
            writeln!(script, "add rule bridge hb forward {rule} counter drop").expect("a string takes all");
        }
        if duplicates {
            script += "add table netdev hb\ndelete table netdev hb\nadd table netdev hb\n";
        }
        for fault in faults {
            if let Fault::Duplicate(port) = fault {
                let name = self.switch_port(*port);
                let hook = format!("{{ type filter hook egress device \"{name}\" priority 0; }}");
                writeln!(script, "add chain netdev hb dup-{name} {hook}").expect("a string takes all");
                // The mark keeps the copy, which leaves by the same port, from being copied again.
                // Frames of heartbeats are counted: the controllers' messages are copied too.
                for counted in ["meta l4proto udp counter ", ""] {
                    let rule = format!("meta mark != 0x4842 {counted}meta mark set 0x4842 dup to \"{name}\"");
                    writeln!(script, "add rule netdev hb dup-{name} {rule}").expect("a string takes all");
                }
            }
        }
        script
    }

    /// What the dropping rules of one fault match.
    fn rules(&self, fault: &Fault) -> Vec<String> {
        let at = |port: Port, direction: Direction| {
            let name = self.switch_port(port);
            let from = (direction != Direction::ToNode).then(|| format!("iifname \"{name}\""));
            let to = (direction != Direction::FromNode).then(|| format!("oifname \"{name}\""));
            from.into_iter().chain(to)
        };
        match *fault {
            Fault::Cut(port, direction) => at(port, direction).collect(),
            Fault::OneWay(from, to) => {
                vec![format!("iifname \"{}\" oifname \"{}\"", self.switch_port(from), self.switch_port(to))]
            }
            Fault::Loss(port, direction, per_mille) => {
                at(port, direction).map(|side| format!("{side} numgen random mod 1000 < {per_mille}")).collect()
            }
            Fault::Length(port, direction, least, most) => {
                at(port, direction).map(|side| format!("{side} meta length {least}-{most}")).collect()
            }
            Fault::Neighbours(port) => at(port, Direction::Both)
                .flat_map(|side| {
                    let solicit = "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert }";
                    [format!("{side} ether type arp"), format!("{side} ether type ip6 {solicit}")]
                })
                .collect(),
            Fault::Duplicate(_) => Vec::new(),
        }
    }
}

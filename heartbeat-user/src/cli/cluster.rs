//! The verbs of heartbeatctl that change the cluster, and the options of a start without a majority. It parses words;
//! it asks nothing.

use crate::control::{Request, SettingChange};
use clap::{Args, Subcommand};

/// The name of the cluster, typed as the word of somebody who knows what is asked.
#[derive(Args, Debug, Clone)]
pub struct ClusterArgs {
    /// Name of this node's cluster, typed out so that no command meant for another one does harm here
    #[arg(value_name = "CLUSTER")]
    pub cluster: String,
}

/// Options of `heartbeatctl fence`.
#[derive(Args, Debug, Clone)]
pub struct FenceArgs {
    /// Name or id of the node to remove
    #[arg(value_name = "NODE")]
    pub node: String,
    /// The cluster's name.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

impl FenceArgs {
    pub(super) fn request(&self) -> Request {
        Request::Fence { node: self.node.clone(), cluster: self.cluster.cluster.clone() }
    }
}

/// A node by name or id.
#[derive(Args, Debug, Clone)]
pub struct NodeArgs {
    /// Name or id of the node
    #[arg(value_name = "NODE")]
    pub node: String,
}

/// Options of `heartbeatctl set`.
#[derive(Args, Debug, Clone)]
pub struct SetArgs {
    /// Which setting, and its value.
    #[command(subcommand)]
    pub setting: SetVerb,
}

/// The settings of a view.
#[derive(Subcommand, Debug, Clone)]
pub enum SetVerb {
    /// How long a node may act on its last proof of quorum, its death timer [WSFC: QuorumArbitrationTimeMax]
    #[command(
        name = "quorum_arbitration_time_max_s",
        visible_aliases = ["QuorumArbitrationTimeMax"],
        long_about = "How long a node may act on its last proof of quorum: the lease, and the death timer. The time to \
            stop what runs is part of it.\n\n\
            Longer: a node that is cut off for a while keeps its work. Shorter: what a dead node ran is taken over \
            sooner. After a cut the old length is waited for until no lease of that length can run any more; \
            `heartbeatctl quorum` shows the budget."
    )]
    QuorumArbitrationTimeMax {
        /// Its length in seconds, such as 20 or 0.5
        #[arg(value_name = "SECONDS", value_parser = parse_seconds)]
        lease_ms: u32,
    },
    /// How much of the lease it takes to stop what runs
    #[command(name = "stop_time_s")]
    StopTime {
        /// How much, in seconds; 0: everything asks before each act, and needs no time
        #[arg(value_name = "SECONDS", value_parser = parse_seconds)]
        stop_ms: u32,
    },
    /// Whether a node has a vote [WSFC: NodeWeight]
    #[command(name = "node_weight", visible_aliases = ["NodeWeight"])]
    NodeWeight {
        /// Name or id of the node
        #[arg(value_name = "NODE")]
        node: String,
        /// 0: it has none; 1: it has one
        #[arg(value_name = "WEIGHT", value_parser = clap::value_parser!(u8).range(0..=1))]
        weight: u8,
    },
    /// Which node loses its vote first where their number is even [WSFC: LowerQuorumPriorityNodeID]
    // With a small letter at its end it was taken before.
    #[command(
        name = "lower_quorum_priority_node",
        visible_aliases = ["LowerQuorumPriorityNodeID"],
        alias = "LowerQuorumPriorityNodeId"
    )]
    LowerQuorumPriorityNode {
        /// Name or id of the node, or `none`
        #[arg(value_name = "NODE")]
        node: String,
    },
    /// Whether votes follow membership, down to the last node standing [WSFC: DynamicQuorum]
    #[command(name = "dynamic_quorum", visible_aliases = ["DynamicQuorum"])]
    DynamicQuorum {
        /// `true` or `false` (1 and 0 are taken too)
        #[arg(value_name = "BOOL", value_parser = parse_bool, action = clap::ArgAction::Set)]
        dynamic: bool,
    },
}

impl SetVerb {
    /// Returns what is to be changed, as it is asked over the socket.
    #[must_use]
    pub fn setting(&self) -> SettingChange {
        match self.clone() {
            Self::QuorumArbitrationTimeMax { lease_ms } => SettingChange::QuorumArbitrationTimeMax { lease_ms },
            Self::StopTime { stop_ms } => SettingChange::StopTime { stop_ms },
            Self::NodeWeight { node, weight } => SettingChange::NodeWeight { node, weight },
            Self::LowerQuorumPriorityNode { node } => {
                SettingChange::LowerQuorumPriorityNode { node: (node != "none").then_some(node) }
            }
            Self::DynamicQuorum { dynamic } => SettingChange::DynamicQuorum { dynamic },
        }
    }
}

/// How a node starts where its cluster has no majority.
#[derive(Args, Debug, Clone, Default, PartialEq, Eq)]
pub struct QuorumArgs {
    /// Go on without a majority: your word that all other nodes of CLUSTER are down
    #[arg(
        long,
        value_name = "CLUSTER",
        conflicts_with = "prevent_quorum",
        long_help = "Go on without a majority: your word that all other nodes of CLUSTER are down, or will not be part \
            of it again before they have stopped.\n\n\
            The name of the cluster is typed out so that a command meant for another one does no harm here. The start \
            is refused while a node with quorum is heard. This node acts alone, after the longest lease that another \
            one could still hold; the others join it under new incarnations. Where the others were not down, both \
            sides act until they hear each other, and only what checks tokens is safe."
    )]
    pub force_quorum: Option<String>,
    /// Join a cluster that has a majority, and never be part of forming one
    #[arg(long)]
    pub prevent_quorum: bool,
}

impl QuorumArgs {
    /// Makes sure that a forced start is meant for this cluster. Returns whether one is asked for.
    ///
    /// # Errors
    /// A sentence that names both clusters, if the typed one is another.
    pub fn forced(&self, cluster: &str) -> Result<bool, String> {
        match &self.force_quorum {
            Some(typed) if typed != cluster => Err(format!(
                "--force-quorum {typed}: this node is of cluster {cluster}, so nothing was forced and nothing started"
            )),
            forced => Ok(forced.is_some()),
        }
    }
}

/// Reads seconds with at most three decimals as milliseconds.
fn parse_seconds(text: &str) -> Result<u32, String> {
    let wrong = || "expected seconds with at most three decimals, such as 20 or 0.5".to_owned();
    let long = || "that is longer than any lease".to_owned();
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || fraction.len() > 3 {
        return Err(wrong());
    }
    let ms: u32 = format!("{fraction:0<3}").parse().map_err(|_| wrong())?;
    let seconds: u32 = whole.parse().map_err(|_| long())?;
    seconds.checked_mul(1000).and_then(|whole| whole.checked_add(ms)).ok_or_else(long)
}

fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "true" | "1" | "on" | "yes" => Ok(true),
        "false" | "0" | "off" | "no" => Ok(false),
        _ => Err("expected true or false".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_read_to_the_millisecond() {
        for (text, ms) in [("0", 0), ("20", 20_000), ("0.5", 500), ("1.25", 1250), ("3.007", 3007), ("010", 10_000)] {
            assert_eq!(parse_seconds(text), Ok(ms), "{text}");
        }
        for bad in ["", ".", "1.", ".5", "-1", "+1", "1e3", "0.0001", "20s", "4294968", "99999999999", "1.2.3", "٣"] {
            assert!(parse_seconds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_forced_start_is_for_the_cluster_that_was_typed() {
        let args = |force: Option<&str>| QuorumArgs { force_quorum: force.map(str::to_owned), prevent_quorum: false };
        assert_eq!(args(None).forced("demo"), Ok(false));
        assert_eq!(args(Some("demo")).forced("demo"), Ok(true));
        let wrong = args(Some("prod")).forced("demo").unwrap_err();
        assert!(wrong.contains("prod") && wrong.contains("demo"), "{wrong}");
        assert!(args(Some("")).forced("demo").is_err());
    }
}

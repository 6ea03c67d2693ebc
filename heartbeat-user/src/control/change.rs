//! What a person asks of the cluster, from the words on the wire to what the deciding thread is asked; and back, from
//! what became of it to the sentence that is answered. It checks names and bounds; whether anything is done is decided
//! elsewhere.

use super::view::ViewNumber;
use super::{ErrorCode, Refusal};
use crate::core::agreement::REQUEST_TIME;
use crate::core::agreement::document::LEASE_MS;
use crate::core::agreement::message::Setting;
use crate::core::agreement::types::{Outcome, Refusal as Rule, Request};
use crate::core::event::seconds_text;
use crate::core::ids::NodeId;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// How long a change may take to be decided; it is withdrawn then.
pub const CHANGE_DEADLINE: Duration = REQUEST_TIME;

/// A setting of the view and its new value. Nodes are meant by name or id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "key", rename_all = "snake_case", deny_unknown_fields)]
pub enum SettingChange {
    /// Length of the lease, the death timer.
    QuorumArbitrationTimeMax {
        /// Its length, ms.
        lease_ms: u32,
    },
    /// How much of the lease stopping takes.
    StopTime {
        /// How much, ms.
        stop_ms: u32,
    },
    /// What a node's vote weighs by configuration.
    NodeWeight {
        /// Whose vote.
        node: String,
        /// 0 or 1.
        weight: u8,
    },
    /// Which node loses its vote first where their number is even.
    LowerQuorumPriorityNode {
        /// Which one; absent: none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        node: Option<String>,
    },
    /// Whether votes follow membership.
    DynamicQuorum {
        /// Whether they do.
        dynamic: bool,
    },
}

/// A change as it is asked for over the socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Create the cluster, with this node as its only member.
    Init {
        /// Its name, typed.
        cluster: String,
    },
    /// Leave the cluster and end.
    Leave,
    /// Remove a node, and stop it by its kernel.
    Fence {
        /// Which one.
        node: String,
        /// The cluster's name, typed.
        cluster: String,
    },
    /// Let a node join again before its time is over.
    ClearQuarantine {
        /// Which one.
        node: String,
    },
    /// Change a setting of the view.
    Set {
        /// Which one, and its value.
        setting: SettingChange,
    },
    /// Go on without a majority.
    ForceQuorum {
        /// The cluster's name, typed.
        cluster: String,
    },
}

/// The names that a change may use.
pub struct Names<'a> {
    /// The cluster's.
    pub cluster: &'a str,
    /// This node.
    pub own: NodeId,
    /// Every configured node.
    pub nodes: &'a [(NodeId, &'a str)],
}

impl Names<'_> {
    /// Finds a node by name, else by id.
    fn node(&self, text: &str) -> Result<NodeId, Refusal> {
        let named = self.nodes.iter().find(|(_, name)| *name == text);
        let numbered = || self.nodes.iter().find(|(id, _)| text.parse() == Ok(id.0));
        named.or_else(numbered).map(|(id, _)| *id).ok_or_else(|| {
            let known: Vec<&str> = self.nodes.iter().map(|(_, name)| *name).collect();
            let message = format!("{text:?} is no node of this cluster; its nodes are {}", known.join(", "));
            Refusal::new(ErrorCode::UnknownNode, message)
        })
    }

    /// Makes sure that whoever asks has typed the name of the cluster that this node is of.
    fn typed(&self, cluster: &str) -> Result<(), Refusal> {
        if cluster == self.cluster {
            return Ok(());
        }
        let message =
            format!("{cluster:?} was typed, but this node is of cluster {:?}: nothing was done", self.cluster);
        Err(Refusal::new(ErrorCode::WrongCluster, message))
    }
}

impl Change {
    /// Checks names and bounds. `instance` is random: the identity of a cluster that is created.
    ///
    /// # Errors
    /// A refusal that says what is wrong; nothing was done.
    pub fn request(&self, names: &Names<'_>, instance: [u64; 2]) -> Result<Request, Refusal> {
        Ok(match self {
            Self::Init { cluster } => {
                names.typed(cluster)?;
                Request::Init { instance }
            }
            Self::Leave => Request::Leave,
            Self::Fence { node, cluster } => {
                names.typed(cluster)?;
                let node = names.node(node)?;
                if node == names.own {
                    return Err(refused(self, "a node does not fence itself: use `heartbeatctl leave`"));
                }
                Request::Fence(node)
            }
            Self::ClearQuarantine { node } => Request::ClearQuarantine(names.node(node)?),
            Self::Set { setting } => Request::Set(setting.resolve(names)?),
            Self::ForceQuorum { cluster } => {
                names.typed(cluster)?;
                Request::Force
            }
        })
    }

    /// Returns the answer to this change: what was done, as a sentence and as the view that does it.
    ///
    /// # Errors
    /// A refusal that says why nothing was done.
    pub fn answer(&self, outcome: &Outcome) -> Result<ChangedBody, Refusal> {
        match outcome {
            Outcome::Decided(order) => {
                let view = ViewNumber::from(*order).to_string();
                Ok(ChangedBody { done: format!("{self}: decided in view {view}"), view: Some(view) })
            }
            Outcome::Done => Ok(ChangedBody { done: format!("{self}: done"), view: None }),
            Outcome::Refused(rule) => Err(self.forbidden(*rule)),
            Outcome::NoQuorum => {
                let message = format!(
                    "{self}: no majority of votes decided it within {} s, so it was withdrawn (an attempt that was \
                     under way may yet carry it: `heartbeatctl view` shows it)",
                    CHANGE_DEADLINE.as_secs()
                );
                Err(Refusal::new(ErrorCode::NoQuorum, message))
            }
        }
    }

    /// Returns the refusal that a rule makes.
    fn forbidden(&self, rule: Rule) -> Refusal {
        match rule {
            Rule::NoView => no_view(),
            Rule::UnknownNode => {
                let message = format!("{self}: the node is not one of the view; nothing was done");
                Refusal::new(ErrorCode::UnknownNode, message)
            }
            Rule::Busy => Refusal::new(ErrorCode::Busy, format!("{self}: too many changes wait to be decided")),
            Rule::HasView => refused(self, "this node has a view already, and a cluster is created once"),
            Rule::PeerHasView => refused(
                self,
                "another node is heard that has a view: this node joins it by itself, if it is configured there",
            ),
            Rule::PeersUnheard => refused(
                self,
                "peers had no time yet to be heard, so nobody knows what they hold: ask again in a moment",
            ),
            Rule::NotMember => refused(self, "this node is no member of the view: ask a member"),
            Rule::Lease => refused(
                self,
                format_args!(
                    "the lease less the time to stop must be at least three delays, and the lease {} to {} ms",
                    LEASE_MS.start(),
                    LEASE_MS.end()
                ),
            ),
            Rule::NoVotes => refused(self, "nobody would have a vote, and no view could follow"),
            Rule::QuorateHeard => {
                refused(self, "a node with quorum is heard: the cluster goes on there, and this node joins it")
            }
            Rule::NotWaiting => refused(self, "this node acts, or is not waiting for votes: there is nothing to force"),
            Rule::NoVote => {
                refused(self, "this node's state is lost or was given up, so it cannot stand for the cluster")
            }
            Rule::Exhausted => refused(self, "no number is left for another forced start"),
            Rule::Ending => refused(self, "heartbeatd is ending"),
            Rule::Conflict => refused(self, "somebody else changed it meanwhile: look at it and ask again"),
        }
    }
}

/// The refusal of what a rule forbids.
fn refused(what: impl fmt::Display, rule: impl fmt::Display) -> Refusal {
    Refusal::new(ErrorCode::RuleBroken, format!("{what}: refused, and nothing was done: {rule}"))
}

/// The refusal of everything that needs a view where there is none.
#[must_use]
pub fn no_view() -> Refusal {
    let message = "no view: the cluster was not initialised. Create it once, on one node, with `heartbeatctl init \
                   CLUSTER`; the others join it";
    Refusal::new(ErrorCode::NoView, message)
}

impl SettingChange {
    fn resolve(&self, names: &Names<'_>) -> Result<Setting, Refusal> {
        match self {
            Self::QuorumArbitrationTimeMax { lease_ms } if !LEASE_MS.contains(lease_ms) => {
                Err(refused(self, format_args!("a lease is {} to {} ms long", LEASE_MS.start(), LEASE_MS.end())))
            }
            Self::QuorumArbitrationTimeMax { lease_ms } => Ok(Setting::LeaseMs(*lease_ms)),
            Self::StopTime { stop_ms } if stop_ms >= LEASE_MS.end() => {
                Err(refused(self, "stopping must take less than the lease"))
            }
            Self::StopTime { stop_ms } => Ok(Setting::StopMs(*stop_ms)),
            Self::NodeWeight { weight, .. } if *weight > 1 => Err(refused(self, "a vote weighs 0 or 1")),
            Self::NodeWeight { node, weight } => Ok(Setting::Weight(names.node(node)?, *weight)),
            Self::LowerQuorumPriorityNode { node } => {
                Ok(Setting::LowerPriority(node.as_deref().map(|node| names.node(node)).transpose()?))
            }
            Self::DynamicQuorum { dynamic } => Ok(Setting::Dynamic(*dynamic)),
        }
    }
}

/// What was done: a sentence, and the view that does it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedBody {
    /// What was done, in one sentence.
    pub done: String,
    /// The view that was decided for it, `FORCE.NUMBER`; absent: none was needed.
    pub view: Option<String>,
}

impl fmt::Display for SettingChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::QuorumArbitrationTimeMax { lease_ms } => {
                write!(f, "quorum_arbitration_time_max_s = {}", seconds_text(*lease_ms))
            }
            Self::StopTime { stop_ms } => write!(f, "stop_time_s = {}", seconds_text(*stop_ms)),
            Self::NodeWeight { node, weight } => write!(f, "node_weight of {node} = {weight}"),
            Self::LowerQuorumPriorityNode { node } => {
                write!(f, "lower_quorum_priority_node = {}", node.as_deref().unwrap_or("none"))
            }
            Self::DynamicQuorum { dynamic } => write!(f, "dynamic_quorum = {dynamic}"),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Init { cluster } => write!(f, "create cluster {cluster}"),
            Self::Leave => f.write_str("leave the cluster"),
            Self::Fence { node, .. } => write!(f, "fence {node}"),
            Self::ClearQuarantine { node } => write!(f, "end the quarantine of {node}"),
            Self::Set { setting } => write!(f, "set {setting}"),
            Self::ForceQuorum { .. } => f.write_str("go on without a majority"),
        }
    }
}

#[cfg(test)]
mod tests;

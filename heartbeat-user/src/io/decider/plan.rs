//! Which path is which, and what the core is told of it. It does no I/O.

use crate::config::{Config, settings_hash};
use crate::core::ids::{NetworkId, NodeId};
use crate::core::settings::{NetworkSpec, NodeSpec, PathSettings, PathSpec, Settings};

/// What does not change while the daemon runs: which path is which.
#[derive(Debug)]
pub struct Plan {
    /// Id of this node.
    pub own: u16,
    /// The paths, by index.
    pub paths: Vec<crate::config::PathPlan>,
}

impl Plan {
    /// Turns a configuration into what the core must be told.
    #[must_use]
    pub fn settings(&self, config: &Config, incarnation: u64) -> Settings {
        let path = |plan: &crate::config::PathPlan| {
            let rule = config.settings.path(plan.same_subnet);
            PathSpec {
                node: NodeId(plan.peer_node),
                network: NetworkId(plan.network),
                local: plan.local,
                peer: plan.peer,
                settings: PathSettings {
                    delay: rule.delay,
                    threshold: rule.threshold,
                    lost: rule.lost,
                    unreachable: rule.unreachable,
                    failed: rule.failed,
                },
            }
        };
        let peers = config.nodes.iter().filter(|node| node.id != self.own);
        Settings {
            incarnation,
            hash: settings_hash(config),
            nodes: peers.map(|node| NodeSpec { id: NodeId(node.id), name: node.name.clone() }).collect(),
            networks: config
                .networks
                .iter()
                .map(|network| NetworkSpec { id: NetworkId(network.id), name: network.name.clone() })
                .collect(),
            paths: self.paths.iter().map(path).collect(),
            stall_limit: config.settings.stall_limit,
            hang_limit: config.settings.hang_limit,
            lateness_budget: config.settings.lateness_budget,
        }
    }
}

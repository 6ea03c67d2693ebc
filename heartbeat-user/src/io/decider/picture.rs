//! A picture of everything that the deciding thread knows, for those who ask. It changes nothing.

use super::Worker;
use crate::core::ids::{NodeId, PathId};
use crate::core::settings::PathSpec;
use crate::io::clock;
use crate::io::snapshot::{NodeView, PathView, Snapshot};

impl Worker {
    pub(super) fn picture(&self) -> Snapshot {
        let now = clock::now();
        let node = |(id, node): (NodeId, &crate::core::node::Node)| NodeView {
            id,
            name: node.name().node.clone(),
            verdict: node.verdict(),
            since: node.since(),
            reason: self.controller.reason(id),
            said: node.said(),
            settings_agree: node.settings_agree(),
            heard: node.heard(),
        };
        let path = |(id, spec, path): (PathId, &PathSpec, &crate::core::path::Path)| PathView {
            id,
            node: spec.node,
            rule: path.rule(),
            state: path.state(),
            since: path.since(),
            misses: path.misses(),
            unsent: path.unsent(),
            tick: *self.looks[id.index()].tick(),
            histogram: self.shared.histogram(id.0),
            sent: self.pacer.record.sent(id.index()),
        };
        Snapshot {
            now,
            incarnation: self.controller.settings().incarnation,
            isolated: self.controller.isolated_from().is_some(),
            stall_limit: self.controller.settings().stall_limit,
            hang_limit: self.controller.settings().hang_limit,
            nodes: self.controller.nodes().map(node).collect(),
            paths: self.controller.paths().map(path).collect(),
        }
    }
}

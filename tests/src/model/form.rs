//! How a check begins: a cluster that was formed by the rules, step by step, all of its nodes members that act.

use super::bounds::Bounds;
use super::cluster::{Cluster, Left, Seen, World};
use super::kernel::NODES;
use super::moves::Action;
use super::node::{Cut, Node, Step, acting};
use super::packet::Net;
use super::shared::Shared;
use super::watch::Watch;
use heartbeat_common::view::VoteId;
use heartbeat_user::core::agreement::build::first;
use heartbeat_user::core::agreement::document::{LeaseTerms, Member, QuorumTerms};
use heartbeat_user::core::agreement::types::Request;
use heartbeat_user::core::ids::NodeId;

/// More steps than any cluster takes to form.
const PATIENCE: usize = 20_000;

impl World {
    /// Returns the cluster formed, at peace: all are members and act, and nothing is under way.
    ///
    /// # Panics
    /// If it does not form: then there is nothing to be checked.
    #[must_use]
    pub fn formed(&self) -> Cluster {
        let Bounds { nodes, left, .. } = self.bounds;
        let mut state = nobody(nodes);
        for own in 0..nodes {
            self.step(&mut state, own, &Step::Start, Cut::Whole).expect("a start is whole");
        }
        let init = Step::Request(Request::Init { instance: [7, 7] });
        self.step(&mut state, 0, &init, Cut::Whole).expect("a request is whole");
        for _ in 0..PATIENCE {
            let usual = self.usual(&state).expect("time goes on");
            if usual == Action::Pass && state.net.is_empty() && self.at_peace(&state) {
                return begun(state, left);
            }
            state = self.next(&state, usual).expect("the usual can happen");
        }
        panic!("{nodes} nodes formed no cluster: {state:#?}");
    }

    fn at_peace(&self, state: &Cluster) -> bool {
        let view = state.nodes[0].kernel.view;
        (0..state.nodes.len()).all(|own| {
            let node = &state.nodes[own];
            let document = node.disk.as_ref().map(|disk| &disk.installed);
            let whole = document.is_some_and(|document| document.members.len() == state.nodes.len());
            whole && node.kernel.view == view && acting(node, &state.dates[own], state.now) == Ok(view.order)
        })
    }
}

fn nobody(nodes: usize) -> Cluster {
    let own = Member { node: NodeId(1), incarnation: 1 };
    let lease = LeaseTerms { lease_ms: 500, stop_ms: 0, longest_ms: 500 };
    let none = first(own, VoteId([1, 1]), [0, 0], lease, QuorumTerms { dynamic: true, lower_priority: None });
    Cluster {
        now: 5,
        nodes: vec![Shared::new(Node::default()); nodes],
        dates: [[0; NODES]; NODES],
        seen: [[Seen::default(); NODES]; NODES],
        ran: [4; NODES],
        stalled: 0,
        late: 0,
        net: Net::default(),
        left: Left { quanta: u8::MAX, ..Left::NOTHING },
        watch: Watch::new(Shared::new(none), Vec::new()),
    }
}

/// The record begins here: what led to it is not looked at.
fn begun(state: Cluster, left: Left) -> Cluster {
    let view = state.nodes[0].disk.as_ref().map(|disk| disk.installed.clone()).expect("it holds a view");
    let mut holds: Vec<VoteId> =
        state.nodes.iter().filter_map(|node| node.disk.as_ref()).map(|disk| disk.vote).collect();
    holds.sort_unstable();
    Cluster { left, watch: Watch::new(Shared::new(view), holds), ..state }
}

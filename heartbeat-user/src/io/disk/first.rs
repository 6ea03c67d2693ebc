//! The first view of a cluster, as `init` makes it: this node alone, with the settings of its configuration. It writes
//! nothing and asks nobody; whether a cluster may be made is the caller's to know.

use crate::config::Config;
use crate::core::agreement::document::{
    Document, DocumentFault, Holder, LeaseTerms, Member, QuorumTerms, SCHEMA, Vote,
};
use crate::core::agreement::voter::State;
use crate::core::ids::NodeId;
use heartbeat_common::lease::NODES_MAX;
use heartbeat_common::view::{Order, VoteId};
use thiserror::Error;

/// Who begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct First {
    /// This node, under its present incarnation.
    pub member: Member,
    /// Its vote.
    pub vote: VoteId,
    /// Tells this cluster from another one made of the same configuration: random.
    pub instance: [u64; 2],
}

/// Why this node cannot begin a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum InitFault {
    /// A view holds fewer nodes.
    #[error("the configuration has {0} nodes, and a view holds at most {NODES_MAX}")]
    TooMany(usize),
    /// It is not configured.
    #[error("node {0} is not in the configuration")]
    Unknown(NodeId),
    /// Its weight is 0.
    #[error("node {0} has weight 0: a cluster of it alone could decide nothing; begin on a node with a vote")]
    NoVote(NodeId),
    /// What came out is no document.
    #[error("{0}")]
    Document(#[from] DocumentFault),
}

/// Makes the state that begins a cluster.
///
/// # Errors
/// If this node cannot begin one.
pub fn first_state(config: &Config, first: &First) -> Result<State, InitFault> {
    let First { member, vote, instance } = *first;
    if config.nodes.len() > NODES_MAX {
        return Err(InitFault::TooMany(config.nodes.len()));
    }
    let node = config.node(member.node.0).ok_or(InitFault::Unknown(member.node))?;
    if node.weight == 0 {
        return Err(InitFault::NoVote(member.node));
    }
    let quorum = &config.settings.quorum;
    let lease_ms = millis(quorum.lease);
    let document = Document {
        schema: SCHEMA,
        instance,
        order: Order::new(0, 1).expect("1 is a number"),
        parent: [0; 4],
        members: vec![member],
        votes: vec![Vote { holder: Holder::Node(member.node), id: vote, configured: 1, weight: 1 }],
        admitted: vec![member],
        owed: Vec::new(),
        lease: LeaseTerms { lease_ms, stop_ms: millis(quorum.stop_time), longest_ms: lease_ms },
        quorum: QuorumTerms { dynamic: quorum.dynamic, lower_priority: quorum.lower_priority.map(NodeId) },
        quarantined: Vec::new(),
        removals: Vec::new(),
        change: None,
        witness: Vec::new(),
        settings: Vec::new(),
    };
    let state = State::new(vote, document);
    state.check()?;
    Ok(state)
}

/// Times of the configuration are whole milliseconds, far below 2^32 of them.
fn millis(time: std::time::Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    const EXAMPLE: &str = include_str!("../../../../packaging/heartbeatd.toml");

    fn first(node: u16) -> First {
        First { member: Member { node: NodeId(node), incarnation: 9 }, vote: VoteId([4, 5]), instance: [6, 7] }
    }

    fn config(change: impl Fn(&str) -> String) -> Config {
        parse("t.toml", change(EXAMPLE).as_bytes()).unwrap_or_else(|errors| panic!("{errors}"))
    }

    #[test]
    fn the_first_view_is_this_node_alone_with_the_settings_of_the_configuration() {
        let config = config(|text| {
            let settings = "[settings]\nquorum_arbitration_time_max_s = 2.5\nstop_time_s = 1\ndynamic_quorum = false\n\
                            lower_quorum_priority_node = \"c\"\n";
            text.replace("[settings]\n", settings)
        });
        let state = first_state(&config, &first(2)).unwrap();
        let view = &state.installed;
        assert_eq!((view.order, view.members.as_slice()), (Order::new(0, 1).unwrap(), &[first(2).member][..]));
        assert_eq!((view.instance, view.weight_of(VoteId([4, 5])), view.total_weight()), ([6, 7], 1, 1));
        assert_eq!(view.lease, LeaseTerms { lease_ms: 2500, stop_ms: 1000, longest_ms: 2500 });
        assert_eq!(view.quorum, QuorumTerms { dynamic: false, lower_priority: Some(NodeId(3)) });
        assert_eq!((state.sequence, state.vote, state.accepted), (1, VoteId([4, 5]), None));
    }

    #[test]
    fn a_node_that_could_not_decide_alone_begins_no_cluster() {
        let weightless = config(|text| text.replace("name = \"b\"\n", "name = \"b\"\nweight = 0\n"));
        let fault = first_state(&weightless, &first(2)).unwrap_err();
        assert_eq!(fault, InitFault::NoVote(NodeId(2)));
        assert!(first_state(&weightless, &first(1)).is_ok());
        assert_eq!(first_state(&weightless, &first(9)).unwrap_err(), InitFault::Unknown(NodeId(9)));
        let node = |id: usize| format!("[[node]]\nname = \"n{id}\"\nid = {id}\naddresses = [\"10.1.0.{id}\"]\n");
        let many = |nodes: usize| config(|text| text.to_owned() + &(4..=nodes).map(node).collect::<String>());
        assert!(first_state(&many(64), &first(1)).is_ok());
        assert_eq!(first_state(&many(65), &first(1)).unwrap_err(), InitFault::TooMany(65));
        let no_vote = First { vote: VoteId::NONE, ..first(1) };
        assert!(matches!(first_state(&many(3), &no_vote), Err(InitFault::Document(_))));
    }
}

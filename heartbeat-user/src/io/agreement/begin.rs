//! The agreement's start: its state from disk, its threads, and the core made of them. It refuses to guess: a disk that
//! cannot be read starts nothing.

use super::{Hands, HandsSetup, clocks};
use crate::config::{Config, Role, settings_hash};
use crate::core::agreement::Agreement;
use crate::core::agreement::document::{Member, QuorumTerms};
use crate::core::agreement::types::{Adopted, Configured, QuarantineTerms, Setup, Timing};
use crate::core::event::NodeNames;
use crate::core::ids::NodeId;
use crate::io::decider::{Orders, Plan};
use crate::io::disk::{AgreementFile, Owner, TakenUp, Writer, new_vote};
use crate::io::journal::EventSink;
use crate::io::link::retry::LinkPath;
use crate::io::link::{Link, LinkSetup, Peer, hello};
use crate::io::memory::Shared;
use crate::io::pacer::Pacer;
use crate::io::paths::vote_slot;
use crate::io::state::random;
use crate::keys::{FenceSigner, KeyRing};
use anyhow::Context;
use heartbeat_common::frame::PORT;
use heartbeat_common::lease::{self, NODES_MAX, Words, bank, word};
use heartbeat_common::view::Order;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// What is known of this node as it starts.
pub struct Beginning {
    /// The configuration.
    pub config: Arc<Config>,
    /// This node, under its incarnation.
    pub own: Member,
    /// Which controller of it this is.
    pub generation: u32,
    /// The id of the state directory's contents.
    pub state_id: u64,
    /// Newest sequence of the agreement's file that the page remembers; 0: none.
    pub floor: u64,
    /// The page is that of this incarnation, and goes on.
    pub adopted: bool,
    /// It only joins.
    pub join_only: bool,
    /// The cluster's keys.
    pub keys: KeyRing,
    /// Which path is which.
    pub plan: Arc<Plan>,
    /// Who signs fences, by path.
    pub fences: Vec<FenceSigner>,
    /// Shared memory.
    pub shared: Arc<Shared>,
    /// The pacing thread.
    pub pacer: Arc<Pacer>,
    /// Where events go.
    pub sink: EventSink,
}

/// Reads the newest sequence of the agreement's file that the page of this machine start remembers.
#[must_use]
pub fn floor<W: Words>(page: &W, boot: [u64; 2]) -> u64 {
    let ours = page.get(word::MAGIC) == lease::MAGIC && [page.get(word::BOOT), page.get(word::BOOT + 1)] == boot;
    if ours { page.get(word::DISK_SEQUENCE) } else { 0 }
}

/// Starts the agreement's threads and takes its state up. `None`: the configuration has more nodes than a view holds, and
/// this node watches its peers without one.
///
/// # Errors
/// If the state on disk cannot be read or written, or a thread cannot be made.
pub fn begin(beginning: Beginning, orders: &Orders) -> anyhow::Result<Option<Box<Hands>>> {
    let Beginning { config, own, .. } = &beginning;
    if config.nodes.len() > NODES_MAX {
        return Ok(None);
    }
    let owner = Owner { node: own.node, state_id: beginning.state_id };
    let file = AgreementFile::new(&config.daemon.state_dir, owner);
    let state = match file.take_up(beginning.floor)? {
        TakenUp::Absent => None,
        TakenUp::Resumed(state) => Some(*state),
        TakenUp::Lost { why, aside } => {
            let aside = aside.map_or_else(String::new, |path| format!("; what was there is now {}", path.display()));
            log::error!("{}: {why}: this node has no vote until a view names a new one{aside}", file.path().display());
            None
        }
    };
    let setup = setup(&beginning)?;
    let seed = setup.seed;
    let times = clocks::now();
    let agreement = match state {
        Some(state) => {
            let adopted = beginning.adopted.then(|| adopted(beginning.shared.page()));
            Agreement::resume(setup, state, adopted, times)
        }
        None => Agreement::new(setup, times),
    };
    let instance = agreement.status().view.map_or([0; 2], |view| view.instance);
    let reports = orders.clone();
    let disk = Writer::start(file, move |report| reports.wrote(report))?;
    let link = link(&beginning, orders, instance, seed)?;
    let slots = config.nodes.iter().filter_map(|node| {
        let slot = vote_slot(config, node.id)?;
        Some((NodeId(node.id), slot as usize))
    });
    let names = config.nodes.iter().map(|node| (NodeId(node.id), node.name.clone())).collect();
    let peers = beginning.plan.paths.iter().map(|path| NodeId(path.peer_node));
    Ok(Some(Box::new(Hands::new(HandsSetup {
        agreement,
        slots: slots.collect(),
        names: NodeNames::new(names),
        gated: config.settings.quorum.stop_time.is_zero(),
        fences: peers.zip(beginning.fences).collect(),
        shared: beginning.shared,
        pacer: beginning.pacer,
        sink: beginning.sink,
        link,
        disk,
    }))))
}

fn setup(beginning: &Beginning) -> anyhow::Result<Setup> {
    let config = &beginning.config;
    let (settings, node) = (&config.settings, |id: u16| NodeId(id));
    let (quorum, regroup) = (&settings.quorum, settings.regroup);
    let mut configured: Vec<_> =
        config.nodes.iter().map(|each| Configured { node: node(each.id), weight: each.weight }).collect();
    configured.sort_by_key(|each| each.node);
    Ok(Setup {
        own: beginning.own,
        generation: beginning.generation,
        configured,
        settings: settings_hash(config),
        lease_ms: millis(quorum.lease),
        stop_ms: millis(quorum.stop_time),
        quorum: QuorumTerms { dynamic: quorum.dynamic, lower_priority: quorum.lower_priority.map(node) },
        timing: Timing {
            tick: regroup.tick,
            opening: regroup.opening_timeout,
            stage: regroup.stage_timeout,
            pruning: regroup.pruning_timeout,
            control_limit: regroup.control_limit,
            detection: settings.longest_detection_time(),
            delay: settings.longest_delay(),
            leave: config.daemon.leave_timeout,
        },
        quarantine: QuarantineTerms { threshold: quorum.quarantine_threshold, duration: quorum.quarantine_duration },
        own_ends: 0,
        join_only: beginning.join_only,
        fresh_vote: new_vote()?,
        seed: random()?,
    })
}

/// Times of the configuration are whole milliseconds, far below 2^32 of them.
fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

fn adopted<W: Words>(page: &W) -> Adopted {
    let active = lease::active_bank(page);
    Adopted {
        bank: (page.get(active + bank::ORDER), page.get(active + bank::DIGEST)),
        in_force: Order(page.get(word::IN_FORCE)),
        cleared: page.get(word::CLEARED),
    }
}

fn link(
    beginning: &Beginning,
    orders: &Orders,
    instance: [u64; 2],
    seed: u64,
) -> anyhow::Result<(Link, crate::io::link::LinkEvents)> {
    let config = &beginning.config;
    let mut peers: BTreeMap<NodeId, Vec<LinkPath>> = BTreeMap::new();
    for path in &beginning.plan.paths {
        // Networks for the cluster's own traffic first.
        let role_rank = match path.role {
            Role::Internal => 0,
            Role::Both => 1,
            Role::Client | Role::None => 2,
        };
        let way = LinkPath { local: path.local, peer: path.peer, role_rank, is_up: true, network: path.network };
        peers.entry(NodeId(path.peer_node)).or_default().push(way);
    }
    let orders = orders.clone();
    Link::start(LinkSetup {
        own: beginning.own.node,
        standing: hello::Standing {
            incarnation: beginning.own.incarnation,
            generation: beginning.generation,
            instance,
        },
        keys: beginning.keys.clone(),
        peers: peers.into_iter().map(|(node, paths)| Peer { node, paths }).collect(),
        port: PORT,
        control_limit: config.settings.regroup.control_limit,
        priority: config.daemon.realtime_priority.saturating_sub(2),
        seed,
        waker: Arc::new(move || orders.wake()),
    })
    .context("messages between controllers")
}

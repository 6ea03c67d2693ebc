//! The agreement's start: its state from disk, its threads, and the core made of them. It refuses to guess: a disk that
//! cannot be read starts nothing.

use super::stopper::Stopper;
use super::{Hands, HandsSetup, clocks};
use crate::config::{Config, Role, settings_hash};
use crate::core::agreement::Agreement;
use crate::core::agreement::document::{Member, QuorumTerms};
use crate::core::agreement::types::{Adopted, Command, Configured, QuarantineTerms, Setup, Times, Timing};
use crate::core::agreement::voter::State;
use crate::core::event::NodeNames;
use crate::core::ids::NodeId;
use crate::io::conflict::Held;
use crate::io::decider::{Orders, Plan};
use crate::io::disk::{AgreementFile, TakenUp, Writer, new_vote};
use crate::io::journal::EventSink;
use crate::io::link::retry::LinkPath;
use crate::io::link::{Link, LinkEvents, LinkSetup, Peer, hello};
use crate::io::memory::Shared;
use crate::io::pacer::Pacer;
use crate::io::page::Page;
use crate::io::paths::{Announced, vote_slot};
use crate::io::ran::Ran;
use crate::io::state::random;
use crate::io::watchdog_device::Guard;
use crate::keys::{FenceSigner, KeyRing};
use anyhow::Context;
use heartbeat_common::frame::PORT;
use heartbeat_common::lease::{self, NODES_MAX, Remembered, Words, bank, word};
use heartbeat_common::view::{Order, VoteId};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// What is known of this node as it starts.
pub struct Beginning<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// This node, under its incarnation.
    pub own: Member,
    /// Which controller of it this is.
    pub generation: u32,
    /// What its disk holds.
    pub taken: TakenUp,
    /// What the page remembered of the agreement's file.
    pub remembered: Remembered,
    /// Runs of it that ended badly of late.
    pub own_ends: u8,
    /// The page is that of this incarnation, and goes on.
    pub adopted: bool,
    /// When the controller before last proved progress, CLOCK_MONOTONIC ns; 0: never.
    pub progress_ns: u64,
    /// It only joins.
    pub join_only: bool,
    /// The page.
    pub page: &'a Page,
}

/// What the agreement reaches the world by.
pub struct World<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// The agreement's file.
    pub file: AgreementFile,
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
    /// Addresses that are held back.
    pub held: Held,
    /// What this node runs.
    pub ran: Arc<Ran>,
    /// What feeds the watchdog device, if one is configured.
    pub feeder: Option<Guard>,
}

/// The core, made of what the disk holds, and what it wants done before anything else.
pub struct Begun {
    agreement: Agreement,
    first: VecDeque<Command>,
    durable: Option<Box<State>>,
    times: Times,
}

impl Begun {
    /// Returns what is to be said in every frame from the first one on; nothing, where no view is held.
    #[must_use]
    pub fn announced(&self) -> Option<Announced> {
        let standing = self.first.iter().rev().find_map(|command| match command {
            Command::Standing(standing) => Some(standing),
            _ => None,
        })?;
        // What acts here was not looked at yet.
        Some(super::carry::announced(standing, false))
    }
}

/// Has the page remember what a start found on disk: `durable` is a state that is a vote. A node that began without one has
/// no vote until a view names a new one, `fresh`: also where nobody can tell which vote was lost, none that is put back
/// later in the same machine start is believed.
pub fn remember<W: Words>(page: &W, durable: Option<&State>, fresh: VoteId) {
    let known = [page.get(word::VOTE), page.get(word::VOTE + 1)] != [0; 2];
    if let Some(state) = durable {
        lease::remember_vote(page, state.vote);
        lease::remember_state(page, state.sequence);
    } else if !known {
        lease::remember_vote(page, fresh);
    }
}

/// Makes the core. `None`: the configuration has more nodes than a view holds, and this node watches its peers without
/// one.
///
/// # Errors
/// If the kernel gives no random number.
pub fn begin(beginning: Beginning<'_>) -> anyhow::Result<Option<Begun>> {
    if beginning.config.nodes.len() > NODES_MAX {
        return Ok(None);
    }
    let page = beginning.page;
    let setup = setup(&beginning)?;
    // The first round compares the clocks with these: a sleep in between is seen then.
    let times = clocks::tight();
    let durable = match beginning.taken {
        TakenUp::Resumed(state) => Some(state),
        TakenUp::Absent | TakenUp::Lost { .. } => None,
    };
    remember(page, durable.as_deref(), setup.fresh_vote);
    let mut agreement = match &durable {
        Some(state) => {
            let adopted = beginning.adopted.then(|| adopted(page, times, beginning.progress_ns));
            Agreement::resume(setup, (**state).clone(), adopted, times)
        }
        None => Agreement::new(setup, times),
    };
    let first = std::iter::from_fn(|| agreement.poll_command()).collect();
    Ok(Some(Begun { agreement, first, durable, times }))
}

/// Starts the agreement's threads, and carries out what the core wants before the first message.
///
/// # Errors
/// If a thread cannot be made.
pub fn hands(begun: Begun, world: World<'_>, orders: &Orders) -> anyhow::Result<Box<Hands>> {
    let config = world.config;
    let setup = begun.agreement.setup();
    let (own, generation, seed) = (setup.own, setup.generation, setup.seed);
    let instance = begun.agreement.status().view.map_or([0; 2], |view| view.instance);
    let reports = orders.clone();
    let standing = hello::Standing { incarnation: own.incarnation, generation, instance };
    let link = link(&world, (own.node, standing), orders, seed)?;
    let disk = Writer::start(world.file, move |report| reports.wrote(report))?;
    let slots = config.nodes.iter().filter_map(|node| {
        let slot = vote_slot(config, node.id)?;
        Some((NodeId(node.id), slot as usize))
    });
    let names = config.nodes.iter().map(|node| (NodeId(node.id), node.name.clone())).collect();
    let peers = world.plan.paths.iter().map(|path| NodeId(path.peer_node));
    let setup = HandsSetup {
        agreement: begun.agreement,
        first: begun.first,
        durable: begun.durable,
        slots: slots.collect(),
        names: NodeNames::new(names),
        fences: peers.zip(world.fences).collect(),
        shared: world.shared,
        pacer: world.pacer,
        sink: world.sink,
        link,
        disk,
        feeder: world.feeder,
        stopper: Stopper::new(world.ran, orders.clone()),
        began: begun.times,
    };
    Ok(Box::new(Hands::new(setup)))
}

/// What of a configuration can change while the daemon runs.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Hash of the settings.
    pub settings: u64,
    /// The timers.
    pub timing: Timing,
    /// When a node is put into quarantine, and for how long.
    pub quarantine: QuarantineTerms,
}

/// Returns what of a configuration can change while the daemon runs.
#[must_use]
pub fn terms(config: &Config) -> Terms {
    let settings = &config.settings;
    let (quorum, regroup) = (&settings.quorum, settings.regroup);
    let timing = Timing {
        tick: regroup.tick,
        opening: regroup.opening_timeout,
        stage: regroup.stage_timeout,
        pruning: regroup.pruning_timeout,
        control_limit: regroup.control_limit,
        hang: settings.hang_limit,
        detection: settings.longest_detection_time(),
        delay: settings.longest_delay(),
        leave: config.daemon.leave_timeout,
    };
    let quarantine = QuarantineTerms { threshold: quorum.quarantine_threshold, duration: quorum.quarantine_duration };
    Terms { settings: settings_hash(config), timing, quarantine }
}

fn setup(beginning: &Beginning<'_>) -> anyhow::Result<Setup> {
    let config = beginning.config;
    let quorum = &config.settings.quorum;
    let mut configured: Vec<_> =
        config.nodes.iter().map(|each| Configured { node: NodeId(each.id), weight: each.weight }).collect();
    configured.sort_by_key(|each| each.node);
    let Terms { settings, timing, quarantine } = terms(config);
    Ok(Setup {
        own: beginning.own,
        generation: beginning.generation,
        configured,
        settings,
        lease_ms: millis(quorum.lease),
        stop_ms: millis(quorum.stop_time),
        quorum: QuorumTerms { dynamic: quorum.dynamic, lower_priority: quorum.lower_priority.map(NodeId) },
        timing,
        quarantine,
        own_ends: beginning.own_ends,
        join_only: beginning.join_only,
        fresh_vote: new_vote()?,
        remembered: beginning.remembered.sequence,
        seed: random()?,
    })
}

/// Times of the configuration are whole milliseconds, far below 2^32 of them.
fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

/// Returns what a page says at `now` that a controller of the same incarnation left behind, which last proved progress at
/// `progress_ns` (CLOCK_MONOTONIC; 0: never).
pub fn adopted<W: Words>(page: &W, now: Times, progress_ns: u64) -> Adopted {
    let active = lease::active_bank(page);
    // What ended before that, the controller before has told; whoever leaves had ended it by itself.
    let seen = progress_ns.min(now.mono.0).saturating_add(now.boot_ns.saturating_sub(now.mono.0));
    let could = page.get(active + bank::MEMBER) != 0 && page.get(word::IN_FORCE) != 0 && page.get(word::HOLD) == 0;
    Adopted {
        bank: (page.get(active + bank::ORDER), page.get(active + bank::DIGEST)),
        in_force: Order(page.get(word::IN_FORCE)),
        cleared: page.get(word::CLEARED),
        member: page.get(active + bank::MEMBER) != 0,
        slept: clocks::slept_since(page.get(active + bank::BOOT_OFFSET_NS), now),
        acting: could && super::page::lease_until(page) > seen,
    }
}

fn link(
    world: &World<'_>,
    (own, standing): (NodeId, hello::Standing),
    orders: &Orders,
    seed: u64,
) -> anyhow::Result<(Link, LinkEvents)> {
    let config = world.config;
    let mut peers: BTreeMap<NodeId, Vec<LinkPath>> = BTreeMap::new();
    for path in &world.plan.paths {
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
        own,
        standing,
        keys: world.keys.clone(),
        peers: peers.into_iter().map(|(node, paths)| Peer { node, paths }).collect(),
        port: PORT,
        control_limit: config.settings.regroup.control_limit,
        priority: config.daemon.realtime_priority.saturating_sub(2),
        seed,
        held: world.held.clone(),
        waker: Arc::new(move || orders.wake()),
    })
    .context("messages between controllers")
}

#[cfg(test)]
mod tests;

//! The start, step by step, in the order that safety asks for: locks, identity on disk, tables, sockets, programs. It
//! ends with every thread running, or with everything undone and the reason. It judges no peer.

use crate::cli::{ExitCode, Watchdog, check_watchdog};
use crate::config::{Config, find_self, load};
use crate::control::{ListenError, Listener};
use crate::core::agreement::document::Member;
use crate::core::event::{EventBody, NodeName};
use crate::core::identity::{Identity, Reason};
use crate::core::ids::NodeId;
use crate::io::agreement::begin::{self, Beginning, World};
use crate::io::agreement::door::Door;
use crate::io::decider::{Decider, DeciderSetup, Orders, Over, Plan};
use crate::io::disk::exits;
use crate::io::fabric::{Fabric, FabricSetup};
use crate::io::failure::Failure;
use crate::io::hooks::Shelter;
use crate::io::journal::{Journal, JournalSetup};
use crate::io::keeper::{Keeper, Kept};
use crate::io::lock::Locks;
use crate::io::memory::Shared;
use crate::io::object::Object;
use crate::io::pacer::{Pacer, PacerSetup};
use crate::io::paths::{Paths, Who, vote_slot};
use crate::io::ran::Ran;
use crate::io::responder::Responder;
use crate::io::services::Services;
use crate::io::state::{State, StateDir};
use crate::io::{attach, clock, conflict, interfaces, realtime};
use crate::keys::{KeyRing, Keys};
use anyhow::Context;
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use std::time::Duration;
use tokio::sync::watch;

mod kernel;
mod life;

use kernel::{Undo, holds_anything, kernel_side, leave_former_pins, take_on, take_over_ticks};
use life::{end_earlier, identify};

/// A running daemon's parts, ended in this order.
pub struct Running {
    /// The keeper.
    pub keeper: Keeper,
    /// The deciding thread.
    pub decider: Decider,
    /// The pacing thread.
    pub pacer: Arc<Pacer>,
    /// The journal.
    pub journal: Journal,
    /// Shared memory.
    pub shared: Arc<Shared>,
    /// Which path is which.
    pub plan: Arc<Plan>,
    /// The configuration in force.
    pub config: Arc<RwLock<Arc<Config>>>,
    /// Who this node is.
    pub identity: Identity,
    /// Memory is locked.
    pub memory_locked: bool,
    /// What a person should know.
    pub warnings: Vec<String>,
    /// Says when this node's part in the cluster is over, and why.
    pub ended: watch::Receiver<Option<Over>>,
    /// Where views are asked for; `None`: this node makes none.
    pub door: Option<Arc<Door>>,
    /// What holds on to the lease, or is told of events.
    pub services: Services,
    /// The control socket.
    pub listener: Listener,
    /// The locks, held to the end.
    pub locks: Locks,
}

/// Reads the configuration, and finds this node in it.
///
/// # Errors
/// If it is faulty, or this host is not in it.
pub fn configured(file: &Path) -> Result<(Config, u16), Failure> {
    let config = load(file)?;
    let own = own_node(&config)?;
    Ok((config, own))
}

/// Finds this node in the configuration by its addresses.
///
/// # Errors
/// If this host is not in it, or its addresses cannot be read.
pub fn own_node(config: &Config) -> Result<u16, Failure> {
    let present = interfaces::by_address().map_err(Failure::host)?;
    let local: Vec<IpAddr> = present.keys().copied().collect();
    find_self(config, &local).map_err(Failure::host)
}

/// Loads the cluster's key.
///
/// # Errors
/// If it cannot be read, or others could read it.
pub fn key_ring(config: &Config) -> Result<KeyRing, Failure> {
    let keys = Keys::load(&config.cluster.key_file).map_err(Failure::config)?;
    Ok(keys.ring(config.cluster.id))
}

/// Starts everything. `watchdog` is the one that the service manager holds over this process; with `join_only` this node
/// forms no view, and joins one.
///
/// # Errors
/// If the node cannot run as configured; nothing is left behind then that was not there before.
pub fn start(
    file: &Path,
    bpf_object: Option<&Path>,
    watchdog: Option<Duration>,
    join_only: bool,
) -> Result<Running, Failure> {
    clock::refuse_shifted().map_err(Failure::host)?;
    let (config, own) = configured(file)?;
    if let Some(every) = watchdog {
        check_watchdog(Watchdog::Every(every), config.settings.hang_limit).map_err(Failure::config)?;
    }
    interfaces::refuse_hidden_tags(&config, own).map_err(Failure::config)?;
    let ring = key_ring(&config)?;
    let config = Arc::new(config);
    let mut locks = Locks::take(&config.daemon.lock_dir)?;
    prepare_run_dir(&config.daemon.run_dir).map_err(Failure::host)?;
    let listener = open_control(&config)?;
    let state_dir = StateDir::open(&config.daemon.state_dir).map_err(Failure::host)?;
    // Before the note is written anew: a start that is killed in between leaves it to the next.
    let noted = StateDir::noted_pins(&config.daemon.state_dir).unwrap_or_else(|error| {
        log::warn!("{error:#}: whether pin_dir was another one before is not known");
        None
    });
    let moved = leave_former_pins(&config, noted.as_deref())?;
    state_dir.note_pins(&config.daemon.pin_dir).map_err(Failure::host)?;

    // Whatever the layout: pins are a trace of an earlier life.
    let lived = moved || state_dir.was_used() || holds_anything(&config.daemon.pin_dir);
    let (kernel, made) = kernel_side(&config, own, bpf_object, &mut locks)?;
    // Until it is known whether somebody's program is to be taken over, only what was made here is taken back.
    let mut undo = Undo::new(&kernel, !made);
    let placeholder = Who { incarnation: 1, generation: 1 };
    let mut paths = Paths::new(&config, own, ring.clone(), placeholder).map_err(Failure::config)?;
    let shared = match &kernel {
        Ok((object, _)) => object.share(paths.len() as u32),
        Err(_) => Shared::new(None, paths.len() as u32),
    };
    let shared = Arc::new(shared.map_err(Failure::host)?);
    take_over_ticks(&shared);
    let life = identify(&config, own, &state_dir, &shared, kernel.is_ok(), paths.digest(), lived)?;
    let (identity, state) = (life.identity, life.state);
    undo.pins = Undo::new(&kernel, identity.adopt).pins.take();
    let asked = conflict::ask(&config, own, !identity.adopt).map_err(Failure::host)?;
    let ran = Arc::new(Ran::new(config.settings.quorum.stop_time, Shelter::find()));
    if identity.adopt {
        // Of a controller that died: nobody waits for its hooks any more.
        ran.end_earlier_hooks().map_err(|error| Failure::host(anyhow::anyhow!(error)))?;
    } else {
        end_earlier(&ran, &shared, &life)?;
        undo.lease_pin = Some(config.daemon.lease_pin.clone());
    }
    let adopted = take_on(&kernel, &shared, &identity, &state, paths.digest())?;
    let who = Who { incarnation: identity.incarnation, generation: identity.generation };
    paths.change::<Object>(None, &config, who).map_err(Failure::host)?;

    let mut warnings: Vec<String> = listener.warning().map(str::to_owned).into_iter().collect();
    let memory_locked = lock_memory(&config, &mut warnings);
    let node = config.node(own).map_or_else(String::new, |node| node.name.clone());
    let mut journal = Journal::start(JournalSetup {
        file: config.daemon.event_log.clone(),
        bytes_max: config.daemon.event_log_max_kib * 1024,
        files: config.daemon.event_log_files,
        node: node.clone(),
    })
    .map_err(Failure::host)?;
    let mut services = Services::start(
        &config,
        node,
        &journal,
        &shared,
        kernel.as_ref().ok().map(|(_, pins)| pins),
        ran.clone(),
        adopted,
    )?;
    warnings.extend(services.warnings.iter().cloned());
    let plan = Arc::new(Plan { own, paths: paths.plans().to_vec() });
    let pacer = Pacer::start(PacerSetup {
        shared: shared.clone(),
        paths: paths.paced(),
        sockets: paths.locals().len(),
        priority: config.daemon.realtime_priority,
        budget_ns: config.settings.lateness_budget.as_nanos() as u64,
    })?;
    let pacer = Arc::new(pacer);
    let responder =
        Responder::start(shared.clone(), paths.confs.clone(), config.daemon.realtime_priority.saturating_sub(1))?;
    let (usable, fences) = (paths.usable.clone(), paths.fence_signers());

    // Nothing has been said under a new incarnation yet: it must not displace another machine's.
    let free = asked.refuse(&config, own, &mut journal)?;
    warnings.extend(free.warnings);
    let held = free.held;
    tell_start(&journal, &config, own, &identity, &state);
    report_refusals(&journal, &pacer, &config, memory_locked, &mut warnings);
    let begun = begin::begin(Beginning {
        config: &config,
        own: Member { node: NodeId(own), incarnation: identity.incarnation },
        generation: identity.generation,
        taken: life.taken,
        remembered: life.remembered,
        own_ends: life.own_ends,
        adopted,
        progress_ns: shared.progress(),
        join_only,
        page: shared.page(),
    })
    .map_err(Failure::host)?;
    if let Some(announced) = begun.as_ref().and_then(begin::Begun::announced) {
        // Said from the first frame on: an adopted program must not take its grants back until somebody says so.
        paths.announce::<Object>(None, announced).map_err(Failure::host)?;
    }
    let sink = journal.sink.clone();
    let setup = FabricSetup {
        config: config.clone(),
        paths,
        kernel,
        pacer: pacer.clone(),
        responder,
        sink,
        held: held.clone(),
    };
    let mut fabric = Fabric::new(setup);
    fabric.scan(true).map_err(Failure::host)?;
    drop_other_links(&fabric).map_err(Failure::host)?;
    let (ending, ended) = watch::channel(None);
    let decider = Decider::start(DeciderSetup {
        settings: plan.settings(&config, identity.incarnation),
        plan: plan.clone(),
        shared: shared.clone(),
        pacer: pacer.clone(),
        usable,
        sink: journal.sink.clone(),
        priority: config.daemon.realtime_priority.saturating_sub(1),
        ended: ending,
        agrees: begun.is_some(),
    })?;
    let current = Arc::new(RwLock::new(config.clone()));
    let keeper = Keeper::start(Kept {
        fabric,
        shared: shared.clone(),
        pacer: pacer.clone(),
        decider: decider.orders(),
        state_dir,
        state,
        config_file: PathBuf::from(file),
        sink: journal.sink.clone(),
        own,
        current: current.clone(),
        watchdog,
        feeder: services.feeder.clone(),
    })?;
    decider.orders().keeper(keeper.orders());
    let door = begun.is_some().then(|| door(&config, own, decider.orders(), &shared));
    if let Some(begun) = begun {
        let world = World {
            config: &config,
            file: life.file,
            keys: ring,
            plan: plan.clone(),
            fences,
            shared: shared.clone(),
            pacer: pacer.clone(),
            sink: journal.sink.clone(),
            held,
            ran,
            feeder: services.feeder.take(),
        };
        let hands = begin::hands(begun, world, &decider.orders()).map_err(Failure::host)?;
        decider.orders().agreement(hands);
    }
    undo.keep();
    exits::note_start(&config.daemon.state_dir, identity.incarnation, life.unsaid, state.boot);
    Ok(Running {
        keeper,
        decider,
        pacer,
        journal,
        shared,
        plan,
        config: current,
        identity,
        memory_locked,
        warnings,
        ended,
        door,
        services,
        listener,
        locks,
    })
}

fn door(config: &Config, own: u16, orders: Orders, shared: &Arc<Shared>) -> Arc<Door> {
    let peers = config.nodes.iter().filter(|node| node.id != own);
    let slots = peers.filter_map(|node| Some((vote_slot(config, node.id)? as usize, NodeId(node.id)))).collect();
    Arc::new(Door { orders, shared: shared.clone(), slots })
}

/// Opens the control socket, before anything is taken over or taken on: a start that cannot be controlled is none.
fn open_control(config: &Config) -> Result<Listener, Failure> {
    let socket = config.control_socket();
    let group = config.daemon.socket_group.clone().unwrap_or_default();
    Listener::bind(&socket, &group).map_err(|error| {
        let code = match error {
            ListenError::AnotherInstance { .. } => ExitCode::AnotherInstance,
            _ => ExitCode::Environment,
        };
        Failure::new(code, error)
    })
}

fn prepare_run_dir(directory: &Path) -> anyhow::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    std::fs::DirBuilder::new()
        .mode(0o755)
        .recursive(true)
        .create(directory)
        .with_context(|| format!("make the run directory {}", directory.display()))
}

fn lock_memory(config: &Config, warnings: &mut Vec<String>) -> bool {
    if !config.daemon.lock_memory {
        return false;
    }
    match realtime::lock_memory() {
        Ok(()) => true,
        Err(error) => {
            warnings.push(format!("memory is not locked: {error}"));
            false
        }
    }
}

fn tell_start(journal: &Journal, config: &Config, own: u16, identity: &Identity, state: &State) {
    let node = config.node(own).map_or_else(String::new, |node| node.name.clone());
    journal.sink.now(EventBody::Started {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        node: NodeName { node, node_id: NodeId(own) },
        incarnation: identity.incarnation,
        generation: identity.generation,
    });
    if identity.adopt {
        let (incarnation, generation) = (identity.incarnation, identity.generation);
        journal.sink.now(EventBody::ControllerAdopted { incarnation, generation });
    } else if identity.reason != Reason::FirstStart {
        journal.sink.now(EventBody::IncarnationChanged {
            old_incarnation: state.incarnation.saturating_sub(1),
            new_incarnation: identity.incarnation,
            reason: identity.reason.to_string(),
        });
    }
}

fn report_refusals(journal: &Journal, pacer: &Pacer, config: &Config, locked: bool, warnings: &mut Vec<String>) {
    let errno = pacer.record.realtime_errno.load(std::sync::atomic::Ordering::Acquire);
    if errno != 0 {
        let error = std::io::Error::from_raw_os_error(errno as i32);
        let priority = config.daemon.realtime_priority;
        let reason = format!("{error} (RLIMIT_RTPRIO, CAP_SYS_NICE or a cpu cgroup without realtime budget)");
        warnings.push(format!("no realtime scheduling: {reason}"));
        journal.sink.now(EventBody::RealtimeRefused { priority: priority.into(), reason });
    }
    if config.daemon.lock_memory && !locked {
        let reason = warnings.iter().find(|warning| warning.starts_with("memory")).cloned().unwrap_or_default();
        journal.sink.now(EventBody::MemlockRefused { reason });
    }
}

/// Removes links that an earlier controller pinned and this one does not use.
fn drop_other_links(fabric: &Fabric) -> anyhow::Result<()> {
    let Some(pins) = &fabric.pins else { return Ok(()) };
    let kept: Vec<_> = fabric.nics.values().map(|nic| (nic.view.mode, nic.ifindex)).collect();
    attach::remove_other_links(pins, &kept)
}

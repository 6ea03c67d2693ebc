//! The start, step by step, in the order that safety asks for: locks, identity on disk, tables, sockets, programs. It
//! ends with every thread running, or with everything undone and the reason.

use crate::cli::{ExitCode, Watchdog, check_watchdog};
use crate::config::{Config, FastPath, find_self, load};
use crate::control::{ListenError, Listener};
use crate::core::agreement::document::Member;
use crate::core::event::{EventBody, NodeName};
use crate::core::identity::{self, Disk, Found, Identity, Kept as KeptIdentity, Reason};
use crate::core::ids::NodeId;
use crate::core::time::MonoTime;
use crate::io::agreement::begin::{self, Beginning, World};
use crate::io::agreement::door::Door;
use crate::io::decider::{Decider, DeciderSetup, Over, Plan};
use crate::io::disk::{AgreementFile, Owner, TakenUp, exits};
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
use crate::io::pins::PinDir;
use crate::io::ran::Ran;
use crate::io::responder::Responder;
use crate::io::services::Services;
use crate::io::state::{State, StateDir, random};
use crate::io::{attach, clock, detach, interfaces, page, realtime};
use crate::keys::{KeyRing, Keys};
use anyhow::Context;
use heartbeat_common::frame::{FLAG_FENCED, FLAG_LEAVING, FLAG_STOPPED};
use heartbeat_common::lease::{self, Remembered, Words as _, word};
use heartbeat_common::maps::{self, Own};
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use std::time::Duration;
use tokio::sync::watch;

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

/// The kernel side, or why there is none.
type Kernel = Result<(Object, PinDir), String>;

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

/// Takes back what a start that fails has put into the kernel; what an earlier controller left for its successor stays
/// as it is.
struct Undo {
    pins: Option<PinDir>,
    /// The second pin of the lease's page.
    lease_pin: Option<PathBuf>,
}

impl Undo {
    fn new(kernel: &Kernel, adopt: bool) -> Self {
        let pins = if adopt { None } else { kernel.as_ref().ok().map(|(_, pins)| pins.clone()) };
        Self { pins, lease_pin: None }
    }

    /// The start did not fail.
    fn keep(&mut self) {
        (self.pins, self.lease_pin) = (None, None);
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.lease_pin.take().map(|pin| page::pin::remove(&pin)) {
            log::error!("not everything could be taken back: {error:#}");
        }
        if let Some(pins) = self.pins.take() {
            let undone = pins.hold().and_then(|ours| match ours {
                true => attach::remove_other_links(&pins, &[]).and_then(|()| pins.remove_all()),
                false => Ok(()),
            });
            if let Err(error) = undone {
                log::error!("not everything could be taken back: {error:#}");
            }
        }
    }
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
    state_dir.note_pins(&config.daemon.pin_dir).map_err(Failure::host)?;

    // Whatever the layout: pins are a trace of an earlier life.
    let lived = state_dir.was_used() || holds_anything(&config.daemon.pin_dir);
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
    let journal = Journal::start(JournalSetup {
        file: config.daemon.event_log.clone(),
        bytes_max: config.daemon.event_log_max_kib * 1024,
        files: config.daemon.event_log_files,
        node: node.clone(),
    })
    .map_err(Failure::host)?;
    let mut services =
        Services::start(&config, node, &journal, &shared, kernel.as_ref().ok().map(|(_, pins)| pins), ran.clone())?;
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
        join_only,
        gated: services.gated,
        page: shared.page(),
    })
    .map_err(Failure::host)?;
    if let Some(announced) = begun.as_ref().and_then(begin::Begun::announced) {
        // Said from the first frame on: an adopted program must not take its grants back until somebody says so.
        paths.announce::<Object>(None, announced).map_err(Failure::host)?;
    }
    let sink = journal.sink.clone();
    let setup = FabricSetup { config: config.clone(), paths, kernel, pacer: pacer.clone(), responder, sink };
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
            ran,
            feeder: services.feeder.take(),
        };
        let hands = begin::hands(begun, world, &decider.orders()).map_err(Failure::host)?;
        decider.orders().agreement(hands);
    }
    undo.keep();
    exits::note_start(&config.daemon.state_dir, identity.incarnation, state.boot);
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

fn door(config: &Config, own: u16, orders: crate::io::decider::Orders, shared: &Arc<Shared>) -> Arc<Door> {
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

/// Mends what an earlier controller may have left in the ticks: locks it was killed under, and MAC states of its keys.
fn take_over_ticks(shared: &Shared) {
    let locks = shared.repair_locks();
    if locks > 0 {
        log::warn!("{locks} ticks were left locked by an earlier controller that was killed; freed");
    }
    shared.forget_mac_states();
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

/// Loads the object and opens the pins, where any interface is to be answered in the kernel. Says too whether the pins
/// were made here: until the lock is had, whoever has it may still remove those that were there.
fn kernel_side(config: &Config, own: u16, file: Option<&Path>, locks: &mut Locks) -> Result<(Kernel, bool), Failure> {
    let mine: Vec<IpAddr> =
        config.node(own).map_or_else(Vec::new, |node| node.addresses.iter().map(|(_, a)| *a).collect());
    let names: Vec<String> = interfaces::by_address()
        .map_err(Failure::host)?
        .into_iter()
        .filter(|(address, _)| mine.contains(address))
        .map(|(_, interface)| interface.name)
        .collect();
    let wanted: Vec<FastPath> =
        names.iter().map(|name| config.fast_path(name)).chain([config.daemon.fast_path]).collect();
    if wanted.iter().all(|wanted| *wanted == FastPath::Off) {
        return Ok((without_kernel(config, locks, "fast_path = \"off\"".to_owned())?, false));
    }
    let must = wanted.iter().any(|wanted| matches!(wanted, FastPath::Native | FastPath::Generic));
    let root = &config.daemon.pin_dir;
    let mut made = false;
    let mut open = || -> Result<(Object, PinDir), Failure> {
        let pins = PinDir::open(root).map_err(Failure::host)?;
        locks.take_pins(&pins, patience(config))?;
        for other in pins.remove_foreign_versions().map_err(Failure::host)? {
            log::warn!("{other}: pins of another map layout were removed");
        }
        if let Err(error) = pins.check_maps() {
            log::warn!("{error:#}: all pins are made anew");
            pins.clear().map_err(Failure::host)?;
        }
        made = !pins.map(maps::OWN).exists();
        let object = Object::load(file, &pins).map_err(Failure::host)?;
        Ok((object, pins))
    };
    match open() {
        Ok(kernel) => Ok((Ok(kernel), made)),
        // A directory that somebody else made is refused whatever was asked for, and so is a second controller.
        Err(failure) if must || failure.code == ExitCode::AnotherInstance || is_squatted(root) => Err(failure),
        Err(failure) => Ok((without_kernel(config, locks, format!("{failure}"))?, false)),
    }
}

/// Goes without the kernel. A program that an earlier controller left would go on answering, and swallow what is meant
/// for us; that of one that runs is its own.
fn without_kernel(config: &Config, locks: &mut Locks, reason: String) -> Result<Kernel, Failure> {
    if let Some(pins) = locks.take_left_pins(&config.daemon.pin_dir, patience(config))? {
        pins.remove_links().map_err(Failure::host)?;
        // Nobody renews or ends that page any more, and an own grant in it would stand for ever.
        page::close_pinned(&pins.map(maps::LEASE)).map_err(Failure::host)?;
    }
    Ok(Err(reason))
}

/// How long the pin directory is tried for: a `heartbeatctl detach` that came into the gap of a restart is over by then.
fn patience(config: &Config) -> Duration {
    detach::goodbye(Some(config)) + Duration::from_secs(3)
}

/// Says whether the pin directory is there but not ours alone.
fn is_squatted(root: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::symlink_metadata(root)
        .is_ok_and(|found| found.uid() != nix::unistd::geteuid().as_raw() || found.mode() & 0o077 != 0)
}

/// Says whether a directory is there and not empty.
fn holds_anything(directory: &Path) -> bool {
    std::fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_some())
}

/// Who this node is, and what is on its disk.
struct Life {
    identity: Identity,
    state: State,
    /// The agreement's file, and what it held.
    file: AgreementFile,
    taken: TakenUp,
    /// What the page remembered of it.
    remembered: Remembered,
    /// Runs of this node that ended badly of late.
    own_ends: u8,
    /// What an earlier incarnation ran may run still: it was of this machine start, and did not say that it had stopped.
    may_run: bool,
}

/// Decides who this node is, and puts it on disk. `lived` says that this node was here before, whatever is left of it.
fn identify(
    config: &Config,
    own: u16,
    dir: &StateDir,
    shared: &Shared,
    kernel: bool,
    plan: u64,
    lived: bool,
) -> Result<Life, Failure> {
    let boot = clock::boot_id().map_err(Failure::host)?;
    let seed = random().map_err(Failure::host)? as u32;
    let read = dir.read().map_err(Failure::host)?;
    if let Err(reason) = &read {
        let level = if lived { log::Level::Warn } else { log::Level::Info };
        log::log!(level, "{reason}: this node takes a new incarnation");
    }
    let disk = read.ok();
    let fresh = StateDir::fresh(1, 1, boot).map_err(Failure::host)?;
    let state_id = disk.map_or(fresh.state_id, |state| state.state_id);
    let file = AgreementFile::new(&config.daemon.state_dir, Owner { node: NodeId(own), state_id });
    let remembered = lease::remembered(shared.page(), boot);
    let (learnt, taken) = votes(&file, remembered)?;
    let mark = shared.own();
    let pinned = (kernel && mark.abi == u64::from(maps::ABI)).then_some(KeptIdentity {
        incarnation: mark.incarnation,
        generation: mark.generation as u32,
        // Ticks of other paths are worth nothing: as if the pins were of another run.
        state_id: if mark.plan == plan { mark.state_id } else { 0 },
        boot: mark.boot,
    });
    let kept = |state: &State| KeptIdentity {
        incarnation: state.incarnation,
        generation: state.generation as u32,
        state_id: state.state_id,
        boot: state.boot,
    };
    // What the kernel has told the peers counts like what the disk says: an incarnation that said so is over.
    let told_left = pinned.is_some() && mark.flags & u64::from(FLAG_LEAVING | FLAG_STOPPED | FLAG_FENCED) != 0;
    let disk_left = |state: &State| Disk { kept: kept(state), left: state.left || told_left };
    let vote_lost = matches!(taken, TakenUp::Lost { .. });
    let found = Found { disk: disk.as_ref().map(disk_left), pins: pinned, boot, learnt, vote_lost, seed };
    let identity = identity::decide(&found).map_err(Failure::host)?;
    let state = State { state_id, incarnation: identity.incarnation, generation: identity.generation.into(), ..fresh };
    dir.write(&state).map_err(Failure::host)?;
    let may_run = disk.is_some_and(|state| state.boot == boot && !state.left);
    let own_ends = exits::before(&config.daemon.state_dir, identity.incarnation, boot);
    Ok(Life { identity, state, file, taken, remembered, own_ends, may_run })
}

/// Reads the agreement's file: the newest incarnation of this node that a view in it admitted, and what the vote goes on
/// with. A node that was let in under an incarnation that its own state has forgotten must not come as an older one:
/// each would be told that it was left out, one after the other.
fn votes(file: &AgreementFile, remembered: Remembered) -> Result<(u64, TakenUp), Failure> {
    let learnt = file.admitted().map_err(Failure::host)?;
    let taken = file.take_up(remembered).map_err(Failure::host)?;
    if let TakenUp::Lost { why, aside } = &taken {
        let aside =
            aside.as_ref().map_or_else(String::new, |path| format!("; what was there is now {}", path.display()));
        log::error!("{}: {why}: this node has no vote until a view names a new one{aside}", file.path().display());
    }
    Ok((learnt, taken))
}

/// Ends what the incarnation before ran, and waits until it has stopped: that the new one is heard proves it to others.
fn end_earlier(ran: &Ran, shared: &Shared, life: &Life) -> Result<(), Failure> {
    let page = shared.page();
    if page.get(word::MAGIC) == lease::MAGIC {
        page.close();
    }
    if let (TakenUp::Resumed(state), true) = (&life.taken, life.may_run) {
        ran.stop_time_is(state.installed.lease.stop_ms);
        if !page.in_kernel() {
            // Its own page went with it, and is over one lease later at the latest.
            std::thread::sleep(Duration::from_millis(state.installed.lease.lease_ms.into()));
        }
    }
    ran.over_since(if life.may_run { clock::now() } else { MonoTime::ZERO });
    ran.wait_for_earlier().map_err(|what| {
        Failure::host(anyhow::anyhow!(
            "what this node ran under its last incarnation has not stopped ({what}): a new one would prove to others that \
             it had"
        ))
    })
}

/// Makes the kernel's records those of this identity. A new incarnation begins only after the program of the old one
/// was taken off: that it is heard proves that the old one has stopped. Says whether the page of the lease is kept.
fn take_on(kernel: &Kernel, shared: &Shared, identity: &Identity, state: &State, plan: u64) -> Result<bool, Failure> {
    if !identity.adopt {
        if let Ok((_, pins)) = kernel {
            attach::remove_other_links(pins, &[]).map_err(Failure::host)?;
        }
        for path in 0..shared.paths() {
            shared.clear_tick(path);
        }
    }
    let kept = shared.page().take_on(identity.incarnation, state.boot, identity.adopt);
    // Only the deciding loop proves progress: an adopted program goes on showing the age that it had. A new incarnation
    // begins fresh, so that its first echoes do not show a controller that never made progress.
    let progress_ns = if identity.adopt { shared.progress() } else { clock::now().0 };
    shared.set_own(&Own {
        abi: maps::ABI.into(),
        progress_ns,
        flags: 0,
        incarnation: identity.incarnation,
        generation: identity.generation.into(),
        boot: state.boot,
        state_id: state.state_id,
        plan,
    });
    Ok(kept)
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

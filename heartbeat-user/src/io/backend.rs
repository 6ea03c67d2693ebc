//! Answers the control socket from what the other threads show. It copies and names; it decides nothing.

pub(super) mod views;

use crate::config::{Config, FastPath, Role as ConfigRole};
use crate::control::{self, AgreementDoor, Backend, CHANGE_DEADLINE, Change, ErrorCode, Refusal};
use crate::core::event::{EventBody, NodeNames, ViewEvent};
use crate::core::ids::NodeId;
use crate::core::node::Verdict;
use crate::core::path::PathState as CorePathState;
use crate::core::time::{MonoTime, millis};
use crate::io::attach::Mode;
use crate::io::clock;
use crate::io::decider::{self, Plan};
use crate::io::journal::{EventSink, JournalView};
use crate::io::keeper::Order;
use crate::io::lateness::LatenessRecord;
use crate::io::memory::Shared;
use crate::io::nics;
use crate::io::pacer::Pacer;
use crate::io::snapshot::{NodeView, PathView, Snapshot};
use crate::io::state;
use heartbeat_common::counter::Counter;
use heartbeat_common::frame::{self, STANDING_USERSPACE, word};
use jiff::Timestamp;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::broadcast;

/// How long a thread may take to show what it knows.
const ANSWER: Duration = Duration::from_millis(800);

/// What the backend is made of.
pub struct DaemonBackend {
    /// The configuration in force.
    pub config: Arc<RwLock<Arc<Config>>>,
    /// Which path is which.
    pub plan: Arc<Plan>,
    /// Shared memory.
    pub shared: Arc<Shared>,
    /// The pacing thread.
    pub pacer: Arc<Pacer>,
    /// The deciding thread.
    pub decider: decider::Orders,
    /// How late its rounds began.
    pub deciding: Arc<LatenessRecord>,
    /// The keeper.
    pub keeper: SyncSender<Order>,
    /// The journal.
    pub journal: JournalView,
    /// Where events go.
    pub sink: EventSink,
    /// When a handover was announced, ns; 0: never.
    pub handover: Arc<AtomicU64>,
    /// When this controller started.
    pub started: MonoTime,
    /// Generation of this controller.
    pub generation: u32,
    /// Memory is locked.
    pub memory_locked: bool,
    /// What a person should know from the start on.
    pub warnings: Vec<String>,
    /// Where views are asked for; `None`: this heartbeatd makes none.
    pub door: Option<Arc<dyn AgreementDoor>>,
}

fn wall(at: MonoTime, now: MonoTime) -> Option<Timestamp> {
    if at.0 == 0 {
        return None;
    }
    let ns = clock::wall_ns() as i128 - i128::from(now.0) + i128::from(at.0);
    Timestamp::from_nanosecond(ns).ok()
}

fn ago(at: MonoTime, now: MonoTime) -> Option<u64> {
    (at.0 != 0).then(|| millis(now.since(at)))
}

impl DaemonBackend {
    fn snapshot(&self) -> Result<Snapshot, Refusal> {
        self.decider.show(ANSWER).ok_or_else(|| {
            let message = format!("the deciding loop did not answer within {} ms", ANSWER.as_millis());
            Refusal::new(ErrorCode::Failed, message)
        })
    }

    fn nics(&self) -> Result<nics::View, Refusal> {
        let refuse = || Refusal::new(ErrorCode::Failed, "the keeper's thread did not answer".to_owned());
        let (answer, wait) = sync_channel(1);
        self.keeper.try_send(Order::Show(answer)).map_err(|_| refuse())?;
        wait.recv_timeout(ANSWER).map_err(|_| refuse())
    }

    fn config(&self) -> Arc<Config> {
        self.config.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn door(&self) -> Result<&dyn AgreementDoor, Refusal> {
        self.door.as_deref().ok_or_else(control::no_view)
    }

    fn glance(&self) -> Result<Option<control::ViewGlance>, Refusal> {
        let Some(door) = self.door.as_deref() else {
            return Ok(None);
        };
        let (status, facts, config) = (door.view()?, door.quorum()?, self.config());
        let names = names(&config);
        let quorum = views::quorum(&status, &facts, &names, NodeId(self.plan.own), detection(&config));
        Ok(Some(control::ViewGlance::of(views::view(&status, &facts, &names), quorum.as_ref())))
    }

    /// What the configuration says of the first view, and the view says otherwise.
    fn seeds(&self, config: &Config) -> Vec<String> {
        let view = self.door.as_deref().and_then(|door| door.view().ok()?.view);
        view.map_or_else(Vec::new, |view| views::outdated_seeds(config, &view))
    }

    /// Has a change decided.
    fn decide(&self, change: &Change) -> Result<control::ChangedBody, Refusal> {
        let config = self.config();
        let nodes: Vec<_> = config.nodes.iter().map(|node| (NodeId(node.id), node.name.as_str())).collect();
        let names = control::Names { cluster: &config.cluster.name, own: NodeId(self.plan.own), nodes: &nodes };
        let number = || state::random().map_err(|error| Refusal::failed(format!("{error:#}")));
        let request = change.request(&names, [number()?, number()?])?;
        change.answer(&self.door()?.request(request, CHANGE_DEADLINE)?)
    }

    fn node_status(snapshot: &Snapshot, view: &NodeView) -> control::NodeStatus {
        let now = snapshot.now;
        let mut flags = Vec::new();
        for (set, name) in [
            (view.said.leaving, "leaving"),
            (view.said.stopped, "stopped"),
            (view.said.fenced, "fenced"),
            (view.said.gave_up, "gave_up"),
        ] {
            if set {
                flags.push(name.to_owned());
            }
        }
        let paths: Vec<_> = snapshot.paths.iter().filter(|path| path.node == view.id).collect();
        let newest =
            paths.iter().max_by_key(|path| path.tick.peer_dynamic_ns).filter(|path| path.tick.peer_dynamic_ns > 0);
        let responder = newest.map(|path| {
            let identity = path.tick.standing[word::IDENTITY - word::STANDING];
            if (identity >> 32) as u16 & STANDING_USERSPACE != 0 {
                control::Responder::Userspace
            } else {
                control::Responder::Kernel
            }
        });
        let age = newest.and_then(|path| {
            let said = frame::age_ns(path.tick.peer_dynamic)?;
            Some(millis(Duration::from_nanos(said) + now.since(MonoTime(path.tick.peer_dynamic_ns))))
        });
        control::NodeStatus {
            name: view.name.clone(),
            id: view.id.0,
            state: match view.verdict {
                Verdict::Unknown => control::NodeState::Unknown,
                Verdict::Up => control::NodeState::Up,
                Verdict::Stalled => control::NodeState::Stalled,
                Verdict::Hung => control::NodeState::Hung,
                Verdict::Left => control::NodeState::Left,
                Verdict::Down => control::NodeState::Down,
            },
            since: wall(view.since, now),
            reason: view.reason.clone(),
            incarnation: (view.said.incarnation != 0).then_some(view.said.incarnation),
            generation: (view.said.generation != 0).then_some(view.said.generation.into()),
            controller_age_ms: age,
            flags,
            paths_up: paths.iter().filter(|path| path.state == CorePathState::Up).count() as u32,
            paths_total: paths.len() as u32,
            last_heard_ms_ago: ago(view.heard, now),
            responder,
            settings_agree: view.settings_agree,
        }
    }

    fn path_status(
        &self,
        config: &Config,
        snapshot: &Snapshot,
        nics: &nics::View,
        view: &PathView,
    ) -> control::PathStatus {
        let plan = &self.plan.paths[view.id.index()];
        let nic = nics.of(plan.local);
        let name = |id: u16| config.node(id).map_or_else(|| id.to_string(), |node| node.name.clone());
        let tick = &view.tick;
        // The newest probe may still be answered.
        let due = tick.departures.saturating_sub(u64::from(snapshot.now.0.saturating_sub(tick.echo_ns) > 0));
        let answered = tick.echoes + tick.late_echoes;
        let lost = due.saturating_sub(answered);
        control::PathStatus {
            network: config.network(plan.network).map_or_else(|| plan.network.to_string(), |net| net.name.clone()),
            role: match plan.role {
                ConfigRole::None => control::Role::None,
                ConfigRole::Internal => control::Role::Internal,
                ConfigRole::Client => control::Role::Client,
                ConfigRole::Both => control::Role::Both,
            },
            interface: nic.map(|nic| nic.name.clone()),
            local: plan.local,
            peer_node: name(plan.peer_node),
            peer_address: plan.peer,
            same_subnet: plan.same_subnet,
            state: match view.state {
                CorePathState::Unknown => control::PathState::Unknown,
                CorePathState::Up => control::PathState::Up,
                CorePathState::Lost => control::PathState::Lost,
                CorePathState::Unreachable => control::PathState::Unreachable,
                CorePathState::Failed => control::PathState::Failed,
            },
            since: wall(view.since, snapshot.now),
            mode: nic.map_or(control::Mode::Detached, |nic| mode(nic.mode)),
            misses: view.misses,
            unsent: view.unsent,
            delay_ms: millis(view.rule.delay),
            threshold: view.rule.threshold,
            last_heard_ms_ago: ago(MonoTime(tick.heard_ns), snapshot.now),
            rtt_us: control::round_trips(&view.histogram),
            sent: view.sent,
            departed: tick.departures,
            echoes: tick.echoes,
            late_echoes: tick.late_echoes,
            probes_answered: tick.answers,
            loss_percent: (due > 0).then(|| lost as f64 * 100.0 / due as f64),
            vlan: plan.vlan,
        }
    }

    fn loop_status(record: &LatenessRecord) -> control::LoopStatus {
        let summary = record.summary();
        control::LoopStatus {
            lateness_us: control::LatenessUs {
                p50: summary.p50_us as f64,
                p99: summary.p99_us as f64,
                max: summary.max_us as f64,
            },
            late_events: summary.late,
        }
    }

    fn realtime(&self, config: &Config) -> String {
        let record = &self.pacer.record;
        match (record.realtime.load(Ordering::Acquire), record.realtime_errno.load(Ordering::Acquire)) {
            (0, 0) if config.daemon.realtime_priority == 0 => "off (realtime_priority = 0)".to_owned(),
            (0, errno) => format!("refused: {}", std::io::Error::from_raw_os_error(errno as i32)),
            (priority, _) => format!("fifo {priority}"),
        }
    }
}

/// Every configured node's name.
fn names(config: &Config) -> NodeNames {
    NodeNames::new(config.nodes.iter().map(|node| (NodeId(node.id), node.name.clone())).collect())
}

/// The longest detection time that the configuration makes.
fn detection(config: &Config) -> Duration {
    config.settings.detection_time(true).max(config.settings.detection_time(false))
}

fn mode(mode: Mode) -> control::Mode {
    match mode {
        Mode::Native => control::Mode::Native,
        Mode::Generic => control::Mode::Generic,
        Mode::Userspace => control::Mode::Userspace,
    }
}

impl Backend for DaemonBackend {
    fn status(&self) -> Result<control::Status, Refusal> {
        let (snapshot, nics, config) = (self.snapshot()?, self.nics()?, self.config());
        let nodes: Vec<_> = snapshot.nodes.iter().map(|node| Self::node_status(&snapshot, node)).collect();
        let paths: Vec<_> =
            snapshot.paths.iter().map(|path| self.path_status(&config, &snapshot, &nics, path)).collect();
        let detection = |same: bool| {
            let rule = config.settings.path(same);
            control::DetectionStatus {
                delay_ms: millis(rule.delay),
                threshold: rule.threshold,
                detection_time_ms: millis(config.settings.detection_time(same)),
            }
        };
        let progress = self.shared.progress();
        // A thread that does not tell of views must not hide the rest.
        let seeds = self.seeds(&config);
        let (view, unseen) = match self.glance() {
            Ok(view) => (view, None),
            Err(refusal) => (None, Some(format!("what this node holds of views is not known: {refusal}"))),
        };
        let own = self.warnings.iter().cloned();
        Ok(control::Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cluster: config.cluster.name.clone(),
            cluster_id: format!("{:016x}", config.cluster.id),
            node: config.node(self.plan.own).map_or_else(String::new, |node| node.name.clone()),
            node_id: self.plan.own,
            incarnation: snapshot.incarnation,
            generation: self.generation.into(),
            uptime_ms: millis(snapshot.now.since(self.started)),
            settings: control::SettingsStatus {
                profile: config.settings.profile.name().to_owned(),
                same_subnet: detection(true),
                cross_subnet: detection(false),
                stall_limit_ms: millis(snapshot.stall_limit),
                hang_limit_ms: millis(snapshot.hang_limit),
            },
            controller_age_ms: ago(MonoTime(progress), clock::now()),
            pacing: control::PacingStatus {
                realtime: self.realtime(&config),
                memory_locked: self.memory_locked,
                own: Self::loop_status(&self.pacer.record.lateness),
            },
            deciding: Self::loop_status(&self.deciding),
            fast_path: nics
                .nics
                .iter()
                .map(|nic| control::FastPathStatus {
                    interface: nic.name.clone(),
                    mode: mode(nic.mode),
                    wanted: match nic.wanted {
                        FastPath::Auto => control::Wanted::Auto,
                        FastPath::Native => control::Wanted::Native,
                        FastPath::Generic => control::Wanted::Generic,
                        FastPath::Off => control::Wanted::Off,
                    },
                    reason: nic.reason.clone(),
                    unstamped: nic.unstamped.clone(),
                    vlan_tag_visible: nic.vlan_tag_visible,
                    threaded_napi: nic.threaded_napi,
                })
                .collect(),
            nodes: control::NodesSummary::of(&nodes),
            paths: control::PathsSummary::of(&paths),
            isolated: snapshot.isolated,
            view,
            warnings: own.chain(nics.ports_taken()).chain(nics.pins_lost).chain(unseen).chain(seeds).collect(),
        })
    }

    fn nodes(&self) -> Result<Vec<control::NodeStatus>, Refusal> {
        let snapshot = self.snapshot()?;
        Ok(snapshot.nodes.iter().map(|node| Self::node_status(&snapshot, node)).collect())
    }

    fn paths(&self) -> Result<Vec<control::PathStatus>, Refusal> {
        let (snapshot, nics, config) = (self.snapshot()?, self.nics()?, self.config());
        Ok(snapshot.paths.iter().map(|path| self.path_status(&config, &snapshot, &nics, path)).collect())
    }

    fn counters(&self) -> Result<Vec<control::CounterRow>, Refusal> {
        let nics = self.nics()?;
        let row = |(counter, kernel): (&Counter, &u64)| control::CounterRow {
            name: counter.name().to_owned(),
            value: kernel + self.shared.counted(*counter),
            meaning: counter.meaning().to_owned(),
        };
        Ok(Counter::ALL.iter().zip(&nics.counters).map(row).collect())
    }

    fn events_since(&self, since: Option<Timestamp>) -> Result<Vec<control::EventRecord>, Refusal> {
        Ok(self.journal.since(since))
    }

    fn subscribe(&self) -> broadcast::Receiver<control::EventRecord> {
        self.journal.subscribe()
    }

    fn handover(&self) -> Result<String, Refusal> {
        self.handover.store(clock::now().0, Ordering::Release);
        self.sink.now(EventBody::HandoverAnnounced { by: "heartbeatctl handover".to_owned() });
        Ok("a stop within the next ten minutes is part of a restart: the kernel goes on answering, and the next heartbeatd takes over"
            .to_owned())
    }

    fn detach(&self) -> Result<String, Refusal> {
        let failed = |message: String| Refusal::new(ErrorCode::Failed, message);
        let (answer, wait) = sync_channel(1);
        self.keeper.try_send(Order::Detach(answer)).map_err(|_| failed("the keeper's thread is busy".to_owned()))?;
        wait.recv_timeout(Duration::from_secs(5))
            .map_err(|_| failed("the keeper's thread did not answer".to_owned()))?
            .map_err(failed)?;
        Ok("the programs are off and their pins removed: userspace answers until the next start, which is a new incarnation".to_owned())
    }

    fn view(&self) -> Result<control::ViewStatus, Refusal> {
        let (door, config) = (self.door()?, self.config());
        Ok(views::view(&door.view()?, &door.quorum()?, &names(&config)))
    }

    fn quorum(&self) -> Result<control::QuorumStatus, Refusal> {
        let (door, config) = (self.door()?, self.config());
        let own = NodeId(self.plan.own);
        let quorum = views::quorum(&door.view()?, &door.quorum()?, &names(&config), own, detection(&config));
        quorum.ok_or_else(control::no_view)
    }

    fn change(&self, change: &Change, uid: u32) -> Result<control::ChangedBody, Refusal> {
        let decided = self.decide(change);
        let outcome = decided.as_ref().map_or_else(ToString::to_string, |changed| changed.done.clone());
        self.sink.now(EventBody::from(ViewEvent::ChangeAsked { change: change.to_string(), uid, outcome }));
        decided
    }
}

//! Every event: its number, name, level and fields. It says what happened; it decides nothing and writes nowhere.
//!
//! Numbers follow Windows clusters where the meaning is the same: 1122, 1123, 1125, 1126 and 1127 as the 2003
//! generation numbered them (1125 is "up", 1126 "unreachable"; later generations swapped the two). Everything else is
//! numbered from 20000. 1135 is the removal from a view, which a verdict alone (20000) is not.

mod cause;
mod declare;
mod parts;
#[cfg(test)]
mod tests;
mod text;
mod translate;
mod view;
mod view_text;

pub use cause::{ControlPlace, JoinCause, NotActing, RemovalCause, StopProof};
pub use parts::{
    Cause, EchoMode, Evidence, FailLocation, LateSource, Level, Link, NodeName, PathEvidence, PeerSaid, Program,
};
pub use translate::{NodeNames, seconds_text, tell};
pub use view::{Judgement, MemberName, ViewEvent, ViewId};

use crate::core::time::MonoTime;
use declare::events;
use serde::{Serialize, Serializer};
use std::net::IpAddr;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When it happened: a kernel stamp where there is one.
    pub at: MonoTime,
    /// When it was noticed.
    pub noticed: MonoTime,
    /// What happened.
    pub body: EventBody,
}

impl Event {
    /// Returns the event's number.
    #[must_use]
    pub const fn id(&self) -> u32 {
        self.body.id()
    }

    /// Returns the event's stable name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.body.name()
    }

    /// Returns how grave it is.
    #[must_use]
    pub const fn level(&self) -> Level {
        self.body.level()
    }
}

/// One flat JSON object: number, name, level, times, sentence, then the fields.
#[derive(Serialize)]
struct Line<'a> {
    id: u32,
    name: &'static str,
    level: Level,
    at_ns: MonoTime,
    noticed_ns: MonoTime,
    text: String,
    #[serde(flatten)]
    body: &'a EventBody,
}

impl Serialize for Event {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Line {
            id: self.id(),
            name: self.name(),
            level: self.level(),
            at_ns: self.at,
            noticed_ns: self.noticed,
            text: self.to_string(),
            body: &self.body,
        }
        .serialize(serializer)
    }
}

events! {
    /// What happened. Times are CLOCK_MONOTONIC ns, other units are in the names.
    EventBody + View(ViewEvent) {
        /// A path is heard again.
        PathRestored = 1122 "path_restored" Info {
            /// The path.
            #[serde(flatten)] link: Link,
            /// How long it was silent, ms.
            silent_ms: u64,
        }
        /// A path missed its first probes in a row.
        PathLost = 1123 "path_lost" Warning {
            /// The path.
            #[serde(flatten)] link: Link,
            /// Probes that left and were not answered, in a row.
            misses: u32,
            /// Probes that did not leave, in a row.
            unsent: u32,
            /// When the peer was last heard on it; 0: never.
            last_heard_ns: MonoTime,
        }
        /// A path that was unreachable or failed works again.
        PathUp = 1125 "path_up" Info {
            /// The path.
            #[serde(flatten)] link: Link,
            /// How long it was silent, ms.
            silent_ms: u64,
        }
        /// A path is unreachable.
        PathUnreachable = 1126 "path_unreachable" Warning {
            /// The path.
            #[serde(flatten)] link: Link,
            /// Probes that left and were not answered, in a row.
            misses: u32,
            /// Probes that did not leave, in a row.
            unsent: u32,
            /// When the peer was last heard on it; 0: never.
            last_heard_ns: MonoTime,
        }
        /// A path has failed.
        PathFailed = 1127 "path_failed" Error {
            /// The path.
            #[serde(flatten)] link: Link,
            /// Probes that left and were not answered, in a row.
            misses: u32,
            /// Probes that did not leave, in a row.
            unsent: u32,
            /// When the peer was last heard on it; 0: never.
            last_heard_ns: MonoTime,
            /// Where the fault is, as far as it can be told from here.
            location: FailLocation,
        }
        /// A peer is silent on every path.
        NodeDown = 20000 "node_down" Error {
            /// The peer.
            #[serde(flatten)] node: NodeName,
            /// What the verdict rests on.
            #[serde(flatten)] evidence: Box<Evidence>,
        }
        /// A peer is heard, for the first time or again.
        NodeUp = 20001 "node_up" Info {
            /// The peer.
            #[serde(flatten)] node: NodeName,
            /// Its incarnation.
            incarnation: u64,
            /// Since when it had been silent; absent where it was not Down.
            silent_from_ns: Option<MonoTime>,
            /// Until when.
            silent_to_ns: Option<MonoTime>,
        }
        /// A peer's kernel answers, its controller makes no progress.
        NodeStalled = 20002 "node_stalled" Warning {
            /// The peer.
            #[serde(flatten)] node: NodeName,
            /// Controller age, ms; absent where it is beyond what a frame can carry, or was never known.
            controller_age_ms: Option<u64>,
            /// The limit that it passed, ms.
            limit_ms: u64,
        }
        /// A stalled peer passed the hang limit.
        NodeHung = 20003 "node_hung" Error {
            /// The peer.
            #[serde(flatten)] node: NodeName,
            /// Controller age, ms; absent where it is beyond what a frame can carry, or was never known.
            controller_age_ms: Option<u64>,
            /// The limit that it passed, ms.
            limit_ms: u64,
        }
        /// A stalled or hung peer's controller makes progress again.
        NodeRecovered = 20004 "node_recovered" Info {
            /// The peer.
            #[serde(flatten)] node: NodeName,
            /// How long it was Stalled or Hung, ms.
            stalled_ms: u64,
        }
        /// A peer runs under a newer incarnation: the older one has stopped.
        NodeRestarted = 20005 "node_restarted" Warning {
            /// The peer.
            #[serde(flatten)] node: NodeName,
            /// The incarnation that stopped.
            old_incarnation: u64,
            /// The one that runs.
            new_incarnation: u64,
        }
        /// A peer's controller was restarted within one incarnation.
        ControllerRestarted = 20006 "controller_restarted" Info {
            /// The peer.
            #[serde(flatten)] node: NodeName,
            /// Its incarnation.
            incarnation: u64,
            /// The generation that ended.
            old_generation: u32,
            /// The one that runs.
            new_generation: u32,
        }
        /// A peer says that it leaves, has stopped or is fenced.
        NodeLeft = 20007 "node_left" Info {
            /// The peer.
            #[serde(flatten)] node: NodeName,
            /// Its incarnation.
            incarnation: u64,
            /// It says that it leaves.
            leaving: bool,
            /// It says that its controller has stopped for good.
            stopped: bool,
            /// It says that it obeys a fence.
            fenced: bool,
            /// It says that its service manager gave up starting its controller.
            gave_up: bool,
        }
        /// This node ran late.
        LocalLateness = 20010 "local_lateness" Warning {
            /// Which of its threads.
            source: LateSource,
            /// The most by which it ran late, us.
            max_us: u64,
            /// How often it ran late by more than the budget, since the last such event.
            count: u32,
            /// The budget, us.
            budget_us: u64,
        }
        /// This node hears no peer any more.
        Isolated = 20011 "isolated" Error {
            /// Peers that it should hear.
            peers: u32,
        }
        /// This node hears a peer again.
        IsolationEnded = 20012 "isolation_ended" Info {
            /// How long it heard none, ms.
            isolated_ms: u64,
        }
        /// XDP's echoes on a path do not arrive at the peer.
        EchoesLost = 20013 "echoes_lost" Error {
            /// The path.
            #[serde(flatten)] link: Link,
            /// Probes answered in vain since the last proof.
            answers: u64,
        }
        /// A peer runs with other settings than this node.
        SettingsDiffer = 20014 "settings_differ" Warning {
            /// The peer.
            #[serde(flatten)] node: NodeName,
            /// Hash of this node's settings, 16 hex digits.
            own_settings: String,
            /// Hash of the peer's.
            peer_settings: String,
        }
        /// A peer runs with the same settings again.
        SettingsAgree = 20015 "settings_agree" Info {
            /// The peer.
            #[serde(flatten)] node: NodeName,
            /// How long they differed, ms.
            differed_ms: u64,
        }
        /// This controller runs.
        Started = 20020 "started" Info {
            /// Its version.
            version: String,
            /// This node.
            #[serde(flatten)] node: NodeName,
            /// Its incarnation.
            incarnation: u64,
            /// Generation of its controller.
            generation: u32,
        }
        /// This controller ends.
        Stopped = 20021 "stopped" Info {
            /// Why.
            reason: String,
            /// True: the pinned program goes on answering for the next controller.
            handover: bool,
        }
        /// This node took a newer incarnation.
        IncarnationChanged = 20022 "incarnation_changed" Warning {
            /// The one before; 0: none is known.
            old_incarnation: u64,
            /// The new one.
            new_incarnation: u64,
            /// Why.
            reason: String,
        }
        /// This controller took over a running program.
        ControllerAdopted = 20023 "controller_adopted" Info {
            /// The incarnation that goes on.
            incarnation: u64,
            /// Generation of this controller.
            generation: u32,
        }
        /// A restart was announced: the program stays pinned.
        HandoverAnnounced = 20024 "handover_announced" Info {
            /// By whom.
            by: String,
        }
        /// Echoes are answered on an interface.
        LinkAttached = 20030 "link_attached" Info {
            /// Interface.
            interface: String,
            /// How.
            mode: EchoMode,
        }
        /// Echoes on an interface are answered in a lesser way than wanted.
        StepDownMode = 20031 "step_down_mode" Warning {
            /// Interface.
            interface: String,
            /// The way tried or used before.
            from: EchoMode,
            /// The way used now.
            to: EchoMode,
            /// Why.
            reason: String,
        }
        /// Somebody else detached one of this node's programs.
        LinkDetachedForeign = 20032 "link_detached_foreign" Error {
            /// Interface.
            interface: String,
            /// Which program.
            program: Program,
        }
        /// The program was attached again.
        LinkReattached = 20033 "link_reattached" Info {
            /// Interface.
            interface: String,
            /// Which program.
            program: Program,
            /// How echoes are answered there.
            mode: EchoMode,
        }
        /// Pins had vanished, or others were in their place, and were made again.
        PinsRestored = 20034 "pins_restored" Warning {
            /// Pin directory.
            directory: String,
            /// Pins made again.
            count: u32,
        }
        /// Entries of the kernel tables were not what this node had written, and were written again.
        TableRepaired = 20035 "table_repaired" Error {
            /// Table.
            table: String,
            /// Entries.
            count: u32,
        }
        /// A configured interface is there.
        InterfaceAppeared = 20036 "interface_appeared" Info {
            /// Interface.
            interface: String,
        }
        /// A configured interface is gone.
        InterfaceGone = 20037 "interface_gone" Error {
            /// Interface.
            interface: String,
        }
        /// Tagged frames cannot be told from untagged ones on an interface.
        VlanUncertain = 20038 "vlan_uncertain" Warning {
            /// Interface.
            interface: String,
            /// Why.
            reason: String,
        }
        /// An interface receives on kernel threads, which starve.
        ThreadedNapi = 20039 "threaded_napi" Warning {
            /// Interface.
            interface: String,
        }
        /// This node's identity is used by somebody else.
        SecondAddress = 20040 "second_address" Error {
            /// Who saw it: a peer, or this node itself.
            #[serde(flatten)] node: NodeName,
            /// This node's address: on the path to that peer, or the one that another machine holds.
            address: String,
            /// What was seen.
            reason: String,
        }
        /// No program stamps departures on an interface any more, or none did from the start.
        DeparturesUnstamped = 20041 "departures_unstamped" Warning {
            /// Interface.
            interface: String,
            /// Why, and what does instead.
            reason: String,
        }
        /// Another process has this node's port on an address: no probe leaves from there, while XDP goes on answering.
        PortTaken = 20042 "port_taken" Error {
            /// Interface.
            interface: String,
            /// The address.
            address: IpAddr,
            /// The UDP port.
            port: u16,
        }
        /// This node has its port on an address, which another process had.
        PortFree = 20043 "port_free" Info {
            /// Interface.
            interface: String,
            /// The address.
            address: IpAddr,
            /// The UDP port.
            port: u16,
            /// How long the other had it, as far as this node knows, ms.
            taken_ms: u64,
        }
        /// An address is used though nobody could be asked whether another machine has it.
        AddressUnasked = 20044 "address_unasked" Warning {
            /// The address.
            address: IpAddr,
            /// Why not.
            reason: String,
        }
        /// New settings are in force.
        ConfigReloaded = 20050 "config_reloaded" Info {
            /// File.
            file: String,
            /// What changed.
            changes: String,
        }
        /// New settings were refused; those before stay in force.
        ConfigRejected = 20051 "config_rejected" Error {
            /// File.
            file: String,
            /// Why.
            reason: String,
        }
        /// Events were lost.
        EventsDropped = 20052 "events_dropped" Error {
            /// How many.
            count: u64,
        }
        /// The wall clock was stepped. Nothing here is timed by it.
        ClockStep = 20053 "clock_step" Warning {
            /// By how much, ms; negative: back.
            step_ms: i64,
        }
        /// Realtime scheduling was refused.
        RealtimeRefused = 20054 "realtime_refused" Warning {
            /// The priority wanted.
            priority: u32,
            /// Why.
            reason: String,
        }
        /// Memory could not be locked.
        MemlockRefused = 20055 "memlock_refused" Warning {
            /// Why.
            reason: String,
        }
    }
}

impl EventBody {
    /// Returns how grave it is.
    #[must_use]
    pub const fn level(&self) -> Level {
        self.declared_level()
    }
}

impl From<ViewEvent> for EventBody {
    fn from(event: ViewEvent) -> Self {
        Self::View(event)
    }
}

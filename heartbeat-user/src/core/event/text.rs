//! The one sentence that people read for each event: what happened and why. It decides nothing.

use super::{Event, EventBody, Evidence, NodeName, Program};
use crate::core::time::{Human, MonoTime};
use std::fmt;
use std::time::Duration;

fn ms(value: u64) -> Human {
    Human(Duration::from_millis(value))
}

fn us(value: u64) -> Human {
    Human(Duration::from_micros(value))
}

/// A controller age, which may be unknown.
struct Age(Option<u64>);

impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(age) => write!(f, "{}", ms(age)),
            None => f.write_str("longer than can be told"),
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let EventBody::NodeDown { node, evidence } = &self.body {
            return node_down(f, node, evidence, self.noticed);
        }
        self.body.fmt(f)
    }
}

fn node_down(f: &mut fmt::Formatter<'_>, node: &NodeName, evidence: &Evidence, noticed: MonoTime) -> fmt::Result {
    let paths = evidence.paths.len();
    if evidence.never_heard {
        write!(f, "node {node} is down: it was never heard on any of {paths} paths")?;
    } else {
        let silent = Human(noticed.since(evidence.silent_since_ns));
        write!(f, "node {node} is down: silent on all of {paths} paths for {silent}")?;
    }
    let misses: u64 = evidence.paths.iter().map(|path| u64::from(path.misses)).sum();
    let unsent: u64 = evidence.paths.iter().map(|path| u64::from(path.unsent)).sum();
    let (cause, late) = (evidence.cause, us(evidence.own_lateness_us));
    write!(f, "; {cause} ({misses} missed, {unsent} unsent, own lateness at most {late})")
}

impl fmt::Display for EventBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use EventBody as E;
        match self {
            E::PathRestored { link, silent_ms } => write!(f, "{link} is heard again after {}", ms(*silent_ms)),
            E::PathLost { link, misses, unsent, .. } => {
                write!(f, "communication with {link} is lost: {misses} probes unanswered, {unsent} unsent in a row")
            }
            E::PathUp { link, silent_ms } => write!(f, "{link} is up again after {}", ms(*silent_ms)),
            E::PathUnreachable { link, misses, unsent, .. } => {
                write!(f, "{link} is unreachable: {misses} probes unanswered, {unsent} unsent in a row")
            }
            E::PathFailed { link, misses, unsent, location, .. } => {
                write!(f, "{link} has failed ({misses} probes unanswered, {unsent} unsent in a row): {location}")
            }
            E::NodeDown { node, evidence } => write!(f, "node {node} is down: {}", evidence.cause),
            E::NodeUp { node, incarnation, silent_from_ns: Some(from), silent_to_ns: Some(to) } => {
                let silent = Human(to.since(*from));
                write!(f, "node {node} (incarnation {incarnation}) is up: heard again after {silent} of silence")
            }
            E::NodeUp { node, incarnation, .. } => {
                write!(f, "node {node} (incarnation {incarnation}) is up: it is heard")
            }
            E::NodeStalled { node, controller_age_ms, limit_ms } => write!(
                f,
                "node {node} is stalled: its kernel answers, but its controller has made no progress for {} (limit {})",
                Age(*controller_age_ms),
                ms(*limit_ms)
            ),
            E::NodeHung { node, controller_age_ms, limit_ms } => write!(
                f,
                "node {node} is hung: its kernel answers, but its controller has made no progress for {} (limit {})",
                Age(*controller_age_ms),
                ms(*limit_ms)
            ),
            E::NodeRecovered { node, stalled_ms } => {
                write!(f, "node {node} is up: its controller makes progress again after {}", ms(*stalled_ms))
            }
            E::NodeRestarted { node, old_incarnation, new_incarnation } => write!(
                f,
                "node {node} has restarted: incarnation {new_incarnation} runs, so incarnation {old_incarnation} stopped"
            ),
            E::ControllerRestarted { node, old_generation, new_generation, .. } => write!(
                f,
                "node {node} has restarted its controller (generation {old_generation} to {new_generation}) \
                 without missing an answer"
            ),
            E::NodeLeft { node, stopped, fenced, gave_up, .. } => {
                let says = match (*fenced, *gave_up, *stopped) {
                    (true, ..) => "it says that it obeys a fence",
                    (_, true, true) => "it says that its service manager gave it up, and that it has stopped for good",
                    (_, true, false) => "it says that its service manager gave up starting its controller",
                    (_, _, true) => "it says that its controller has stopped for good",
                    _ => "it says that it is leaving",
                };
                write!(f, "node {node} has left: {says}")
            }
            E::LocalLateness { source, max_us, count, budget_us } => write!(
                f,
                "this node ran late: its {source} by up to {} ({count} times above the budget of {}), \
                 so it accuses nobody before it has asked again",
                us(*max_us),
                us(*budget_us)
            ),
            E::Isolated { peers } => {
                write!(f, "this node is cut off: it hears none of its {peers} peers on any path any more")
            }
            E::IsolationEnded { isolated_ms } => {
                write!(f, "this node is no longer cut off: it hears a peer again after {}", ms(*isolated_ms))
            }
            E::EchoesLost { link, answers } => write!(
                f,
                "echoes do not arrive at {link}: its last {answers} probes were answered, and none of its probes \
                 shows that an answer came"
            ),
            E::SettingsDiffer { node, own_settings, peer_settings } => write!(
                f,
                "node {node} runs with other settings than this node (hash {peer_settings}, here {own_settings}): the \
                 configuration files differ, or one was not put into force"
            ),
            E::SettingsAgree { node, differed_ms } => {
                write!(f, "node {node} runs with the same settings again after {}", ms(*differed_ms))
            }
            other => other.local(f),
        }
    }
}

impl EventBody {
    /// The sentences of events that this node's own doings raise.
    fn local(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use EventBody as E;
        match self {
            E::Started { version, node, incarnation, generation } => write!(
                f,
                "heartbeatd {version} runs as node {node}, incarnation {incarnation}, controller generation {generation}"
            ),
            E::Stopped { reason, handover: true } => {
                write!(f, "heartbeatd ends ({reason}) and leaves its program answering for the next controller")
            }
            E::Stopped { reason, .. } => write!(f, "heartbeatd ends: {reason}"),
            E::IncarnationChanged { old_incarnation, new_incarnation, reason } => {
                write!(f, "this node takes incarnation {new_incarnation} after {old_incarnation}: {reason}")
            }
            E::ControllerAdopted { incarnation, generation } => write!(
                f,
                "the running program was taken over: incarnation {incarnation} goes on under generation {generation}"
            ),
            E::HandoverAnnounced { by } => {
                write!(f, "{by} announced a restart: the program goes on answering meanwhile")
            }
            E::LinkAttached { interface, mode } => write!(f, "{interface}: probes are answered by {mode}"),
            E::StepDownMode { interface, from, to, reason } => {
                write!(f, "{interface}: probes are answered by {to} instead of {from}: {reason}")
            }
            E::LinkDetachedForeign { interface, program } => {
                write!(f, "{interface}: the {program} was detached, and not by heartbeatd")
            }
            E::LinkReattached { interface, program: Program::Egress, .. } => {
                write!(f, "{interface}: the {} was attached again and stamps departures", Program::Egress)
            }
            E::LinkReattached { interface, program, mode } => {
                write!(f, "{interface}: the {program} was attached again, probes are answered by {mode}")
            }
            E::PinsRestored { directory, count } => {
                write!(f, "{count} pins in {directory} had vanished or were not ours, and were made again")
            }
            E::TableRepaired { table, count } => {
                write!(f, "{count} entries of {table} were not what heartbeatd wrote, and were written again")
            }
            E::InterfaceAppeared { interface } => write!(f, "{interface}: the interface is there"),
            E::InterfaceGone { interface } => write!(f, "{interface}: the interface is gone"),
            E::VlanUncertain { interface, reason } => {
                write!(f, "{interface}: tagged frames cannot be told from untagged ones: {reason}")
            }
            E::ThreadedNapi { interface } => {
                write!(f, "{interface}: it receives on kernel threads (threaded NAPI), which busy processes can starve")
            }
            E::SecondAddress { node, address, reason } => {
                write!(f, "{address}: somebody else uses this node's identity, as node {node} saw: {reason}")
            }
            E::DeparturesUnstamped { interface, reason } => write!(f, "{interface}: {reason}"),
            E::PortTaken { interface, address, port } => write!(
                f,
                "{interface}: another process has UDP port {port} of {address}, so no probe leaves from there; it is \
                 tried again twice a second"
            ),
            E::PortFree { interface, address, port, taken_ms } => {
                write!(f, "{interface}: UDP port {port} of {address} is this node's again after {}", ms(*taken_ms))
            }
            E::AddressUnasked { address, reason } => {
                write!(f, "{address}: it is used though nobody could be asked whether another machine has it: {reason}")
            }
            E::ConfigReloaded { file, changes } => write!(f, "{file}: new settings are in force: {changes}"),
            E::ConfigRejected { file, reason } => {
                write!(f, "{file}: the new settings were refused and nothing changed: {reason}")
            }
            E::EventsDropped { count } => write!(f, "{count} events were lost, because nobody took them in time"),
            E::ClockStep { step_ms } => {
                write!(f, "the wall clock was stepped by {step_ms} ms; no verdict depends on it")
            }
            E::RealtimeRefused { priority, reason } => {
                write!(f, "realtime priority {priority} was refused, so probes may leave late: {reason}")
            }
            E::MemlockRefused { reason } => {
                write!(f, "memory could not be locked, so paging may delay probes: {reason}")
            }
            E::View(event) => fmt::Display::fmt(event, f),
            other => f.write_str(other.name()),
        }
    }
}

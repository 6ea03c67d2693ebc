//! Turns answers into text for people. It prints nothing and asks nothing.

mod view;

pub use view::{show_quorum, show_view};

use super::{
    CounterRow, DetectionStatus, EventRecord, FastPathStatus, LoopStatus, NodeStatus, NodesSummary, PathStatus,
    PathsSummary, RttUs, Status,
};
use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, ContentArrangement, Table};
use std::fmt::{Display, Write};

/// What stands where nothing is known.
const NONE: &str = "-";

/// Returns a node at a glance.
#[must_use]
pub fn show_status(status: &Status) -> String {
    let faults = status.faults();
    let health = if faults.is_empty() { "all is well".to_owned() } else { format!("degraded: {}", faults.join("; ")) };
    let settings = &status.settings;
    let fast: Vec<String> = status.fast_path.iter().map(fast_path).collect();
    let pacing = &status.pacing;
    let locked = if pacing.memory_locked { "memory locked" } else { "memory NOT locked" };
    let age = status.controller_age_ms.map_or_else(|| "never".to_owned(), |ms| format!("{ms} ms ago"));
    let rows = [
        ("health", health),
        (
            "node",
            format!(
                "{} (id {}) of cluster {} ({}), incarnation {}, generation {}, up {}, version {}",
                status.node,
                status.node_id,
                status.cluster,
                status.cluster_id,
                status.incarnation,
                status.generation,
                duration(status.uptime_ms),
                status.version
            ),
        ),
        ("view", view::glance(status.view.as_ref())),
        ("lease", view::lease(status.view.as_ref())),
        ("peers", peers(&status.nodes)),
        ("paths", paths(&status.paths)),
        (
            "detection",
            format!(
                "same subnet {}, cross subnet {}; stalled after {}, hung after {} (profile {})",
                detection(&settings.same_subnet),
                detection(&settings.cross_subnet),
                duration(settings.stall_limit_ms),
                duration(settings.hang_limit_ms),
                settings.profile
            ),
        ),
        ("fast path", if fast.is_empty() { "no interface".to_owned() } else { fast.join("; ") }),
        ("pacing", format!("{}, {locked}, {}", pacing.realtime, lateness(&pacing.own))),
        ("deciding", format!("{}, progress proved {age}", lateness(&status.deciding))),
    ];
    let warnings = status.warnings.iter().map(|warning| ("warning", warning.clone()));
    named(rows.into_iter().chain(warnings))
}

/// One line a value, each behind its name.
fn named(rows: impl IntoIterator<Item = (&'static str, String)>) -> String {
    let mut text = String::new();
    for (name, value) in rows {
        let _ = writeln!(text, "{name:<10} {}", plain(&value));
    }
    text
}

fn peers(nodes: &NodesSummary) -> String {
    counts(
        nodes.total,
        &[
            (nodes.up, "up"),
            (nodes.stalled, "stalled"),
            (nodes.hung, "hung"),
            (nodes.left, "left"),
            (nodes.down, "down"),
            (nodes.unknown, "unknown"),
        ],
    )
}

fn paths(paths: &PathsSummary) -> String {
    counts(
        paths.total,
        &[
            (paths.up, "up"),
            (paths.lost, "lost"),
            (paths.unreachable, "unreachable"),
            (paths.failed, "failed"),
            (paths.unknown, "unknown"),
        ],
    )
}

fn counts(total: u32, parts: &[(u32, &str)]) -> String {
    let named: Vec<String> =
        parts.iter().filter(|(count, _)| *count > 0).map(|(count, word)| format!("{count} {word}")).collect();
    if named.is_empty() { total.to_string() } else { format!("{total}: {}", named.join(", ")) }
}

fn detection(detection: &DetectionStatus) -> String {
    let DetectionStatus { delay_ms, threshold, detection_time_ms } = detection;
    format!("{delay_ms} ms x {threshold} = {}", duration(*detection_time_ms))
}

fn fast_path(fast: &FastPathStatus) -> String {
    let mut text = format!("{} {}", fast.interface, fast.mode);
    if fast.fallen_back() {
        let _ = write!(text, " (FALLEN BACK, wanted {}", fast.wanted);
        if let Some(reason) = &fast.reason {
            let _ = write!(text, ": {reason}");
        }
        text.push(')');
    }
    if let Some(unstamped) = &fast.unstamped {
        let _ = write!(text, " ({unstamped})");
    }
    if fast.threaded_napi == Some(true) {
        text.push_str(" (threaded NAPI: can be starved)");
    }
    if fast.vlan_tag_visible == Some(false) {
        text.push_str(" (VLAN tags not visible)");
    }
    text
}

fn lateness(own: &LoopStatus) -> String {
    let LoopStatus { lateness_us: late, late_events } = own;
    format!("late by {} / {} / {} (p50/p99/max), {late_events} late", us(late.p50), us(late.p99), us(late.max))
}

/// Returns the peers as a table.
#[must_use]
pub fn show_nodes(nodes: &[NodeStatus], heads: bool) -> String {
    let names =
        ["NODE", "ID", "STATE", "SINCE", "PATHS", "HEARD", "AGE", "INCARNATION", "RESPONDER", "FLAGS", "REASON"];
    let rows = nodes.iter().map(|node| {
        let incarnation = match (node.incarnation, node.generation) {
            (Some(incarnation), Some(generation)) => format!("{incarnation}.{generation}"),
            (incarnation, _) => or_none(incarnation),
        };
        let flags = if node.flags.is_empty() { NONE.to_owned() } else { node.flags.join(",") };
        vec![
            node.name.clone(),
            node.id.to_string(),
            node.state.to_string(),
            or_none(node.since.map(|at| at.strftime("%Y-%m-%dT%H:%M:%S%.3fZ"))),
            format!("{}/{}", node.paths_up, node.paths_total),
            or_none(node.last_heard_ms_ago.map(duration)),
            or_none(node.controller_age_ms.map(duration)),
            incarnation,
            or_none(node.responder),
            flags,
            plain(&node.reason),
        ]
    });
    table(&names, &[1], heads, rows)
}

/// Returns the paths as a table.
#[must_use]
pub fn show_paths(paths: &[PathStatus], heads: bool) -> String {
    let names = [
        "PEER",
        "NETWORK",
        "ROLE",
        "INTERFACE",
        "LOCAL",
        "ADDRESS",
        "STATE",
        "MODE",
        "MISSES",
        "UNSENT",
        "DETECT",
        "HEARD",
        "RTT-P50",
        "RTT-P99",
        "RTT-MAX",
        "SENT",
        "LEFT",
        "ECHOES",
        "LATE",
        "ANSWERED",
        "LOSS",
    ];
    let rows = paths.iter().map(|path| {
        let rtt = |of: fn(&RttUs) -> f64| path.rtt_us.as_ref().map_or_else(|| NONE.to_owned(), |rtt| us(of(rtt)));
        let interface = path.interface.clone().unwrap_or_else(|| NONE.to_owned());
        vec![
            path.peer_node.clone(),
            path.network.clone(),
            path.role.to_string(),
            if path.vlan == 0 { interface } else { format!("{interface} vlan {}", path.vlan) },
            path.local.to_string(),
            path.peer_address.to_string(),
            path.state.to_string(),
            path.mode.to_string(),
            path.misses.to_string(),
            path.unsent.to_string(),
            format!("{}msx{}", path.delay_ms, path.threshold),
            or_none(path.last_heard_ms_ago.map(duration)),
            rtt(|rtt| rtt.p50),
            rtt(|rtt| rtt.p99),
            rtt(|rtt| rtt.max),
            path.sent.to_string(),
            path.departed.to_string(),
            path.echoes.to_string(),
            path.late_echoes.to_string(),
            path.probes_answered.to_string(),
            path.loss_percent.map_or_else(|| NONE.to_owned(), |loss| format!("{loss:.3}%")),
        ]
    });
    table(&names, &[8, 9, 15, 16, 17, 18, 19, 20], heads, rows)
}

/// Returns the counters as a table.
#[must_use]
pub fn show_counters(counters: &[CounterRow], heads: bool) -> String {
    let rows = counters.iter().map(|row| vec![row.name.clone(), row.value.to_string(), row.meaning.clone()]);
    table(&["COUNTER", "VALUE", "MEANING"], &[1], heads, rows)
}

/// Returns one event as one line, without its end.
#[must_use]
pub fn show_event(event: &EventRecord) -> String {
    let field = |name: &str| match event.get(name) {
        Some(serde_json::Value::String(text)) => plain(text),
        Some(serde_json::Value::Null) | None => NONE.to_owned(),
        Some(other) => plain(&other.to_string()),
    };
    let [time, level, id, name, message] = ["time", "level", "id", "event", "message"].map(field);
    format!("{time} {level:<5} {id:>5} {name}: {message}")
}

fn table(names: &[&str], right: &[usize], heads: bool, rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    // Never wrapped: a row is a line, for eyes as for grep.
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    if heads {
        table.set_header(names.to_vec());
    }
    table.add_rows(rows);
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if right.contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut text = String::new();
    for line in table.lines() {
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

fn or_none(value: Option<impl Display>) -> String {
    value.map_or_else(|| NONE.to_owned(), |value| value.to_string())
}

/// Text of the daemon without what could steer a terminal.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Two leading units of a duration, milliseconds below a minute.
fn duration(ms: u64) -> String {
    let (seconds, minutes, hours, days) = (ms / 1000, ms / 60_000, ms / 3_600_000, ms / 86_400_000);
    match ms {
        0..1_000 => format!("{ms}ms"),
        1_000..60_000 if ms.is_multiple_of(1000) => format!("{seconds}s"),
        1_000..60_000 => format!("{}.{:03}s", seconds, ms % 1000),
        60_000..3_600_000 => format!("{minutes}m{}s", seconds % 60),
        3_600_000..86_400_000 => format!("{hours}h{}m", minutes % 60),
        _ => format!("{days}d{}h", hours % 24),
    }
}

/// Microseconds, or milliseconds where that reads better.
fn us(us: f64) -> String {
    if us < 1000.0 { format!("{us:.1}us") } else { format!("{:.2}ms", us / 1000.0) }
}

#[cfg(test)]
pub(super) mod tests;

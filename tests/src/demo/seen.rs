//! What nodes said from some moment on, and how it is read. It holds no opinion on what they should have said.

use serde_json::Value;
use std::collections::BTreeMap;

/// A moment in every node's event log.
#[derive(Clone, Debug)]
pub(super) struct Seen(Vec<usize>);

impl From<Vec<usize>> for Seen {
    fn from(counts: Vec<usize>) -> Self {
        Self(counts)
    }
}

impl Seen {
    /// Those of a node's events that came later.
    pub(super) fn after(&self, node: usize, events: Vec<Value>) -> Vec<Value> {
        let first = self.0.get(node).copied().unwrap_or(0);
        events.into_iter().skip(first).collect()
    }
}

/// The stable name of an event.
pub(super) fn name(event: &Value) -> &str {
    event["event"].as_str().or_else(|| event["name"].as_str()).unwrap_or("?")
}

/// True if the event has that name.
pub(super) fn is(event: &Value, wanted: &str) -> bool {
    name(event) == wanted
}

/// How often each event came, such as `node_stalled c, path_lost b x2`; "nothing" for none.
pub(super) fn summary(events: &[Value]) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for event in events {
        let about = event["node"].as_str().map(|node| format!(" {node}")).unwrap_or_default();
        *counts.entry(format!("{}{about}", name(event))).or_default() += 1;
    }
    if counts.is_empty() {
        return "nothing".to_owned();
    }
    let shown = counts.into_iter().map(|(what, count)| if count == 1 { what } else { format!("{what} x{count}") });
    shown.collect::<Vec<_>>().join(", ")
}

/// Time from the last answer to the verdict in a `node_down`, milliseconds, and this observer's own lateness in it.
pub(super) fn detection_ms(down: &Value) -> Option<(f64, f64)> {
    let noticed = down["noticed_ns"].as_u64()?;
    let silent_since = down["silent_since_ns"].as_u64()?;
    let lateness = down["own_lateness_us"].as_u64().unwrap_or(0);
    Some((noticed.checked_sub(silent_since)? as f64 / 1e6, lateness as f64 / 1e3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_later_events_are_seen() {
        let events = vec![json!({"event": "started"}), json!({"event": "node_up", "node": "b"})];
        assert_eq!(Seen::from(vec![1]).after(0, events.clone()), events[1..]);
        assert_eq!(Seen::from(vec![2]).after(0, events.clone()), Vec::<Value>::new());
        assert_eq!(Seen::from(vec![0, 0, 0]).after(2, events.clone()), events);
    }

    #[test]
    fn a_summary_counts() {
        let lost = json!({"event": "path_lost", "node": "b"});
        let events = [lost.clone(), json!({"name": "isolated"}), lost];
        assert_eq!(summary(&events), "isolated, path_lost b x2");
        assert_eq!(summary(&[]), "nothing");
    }

    #[test]
    fn detection_is_from_the_last_answer_to_the_verdict() {
        let down =
            json!({"noticed_ns": 1_550_000_000u64, "silent_since_ns": 1_000_000_000u64, "own_lateness_us": 2500});
        assert_eq!(detection_ms(&down), Some((550.0, 2.5)));
        assert_eq!(detection_ms(&json!({"noticed_ns": 5})), None);
        assert_eq!(detection_ms(&json!({"noticed_ns": 5, "silent_since_ns": 6})), None);
    }
}

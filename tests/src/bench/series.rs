//! What every row of views keeps beside its measurements: what came to the sink, and what of that breaks the rule of views.
//! And the profile that its bars are made of, as the nodes themselves show it. It measures nothing.

use super::{Bar, Figure};
use crate::lab::play::number;
use crate::lab::{Crew, Sink};
use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Interval of probes of the profile `lan`, ms.
pub const DELAY_MS: f64 = 100.0;
/// Its detection time, ms.
pub const DETECTION_MS: f64 = 500.0;
/// Its lease, ms: the detection time, by default.
pub const LEASE_MS: f64 = 500.0;

/// Figures that every row of views has, by name: another row adds them up.
pub const BROKEN: &str = "acts at the same time that break the rule of views";
/// Pairs of nodes and tokens that were seen to act at the same moment: what the rule had to judge.
pub const TOGETHER: &str = "pairs seen to act at the same time";
/// Acts that the sink refused, of each token the first.
pub const REFUSED: &str = "old tokens that the sink refused";

/// What a series found: measurements, and what the acts meanwhile came to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Series<T> {
    /// The measurements.
    pub all: Vec<T>,
    /// Rounds that were begun and measure nothing: the cluster changed by itself before anything was done to it.
    pub aside: usize,
    /// Acts that broke the rule of views.
    broken: usize,
    /// Acts that came to the sink.
    acts: u64,
    /// See [`TOGETHER`].
    together: usize,
    /// See [`REFUSED`].
    refused: usize,
    /// Longest time in which the sink did not look, ms.
    gap_ms: f64,
}

impl<T> Series<T> {
    /// Closes a series: what the nodes did meanwhile is judged.
    ///
    /// # Errors
    /// If a node never acted: then nothing was seen of it. If the nodes' logs cannot be read.
    pub fn of(all: Vec<T>, crew: &Crew, sink: &Sink) -> Result<Self> {
        let acts = sink.acts();
        for node in 0..crew.lab.spec().nodes.len() {
            ensure!(acts.last(node).is_some(), "node {} never acted", crew.name(node));
        }
        let faults = acts.faults(&crew.all_views()?);
        faults.iter().for_each(|fault| println!("  BROKEN: {fault}"));
        Ok(Self {
            all,
            aside: 0,
            broken: faults.len(),
            acts: acts.count,
            together: acts.together.len(),
            refused: acts.refused.len(),
            gap_ms: acts.longest_gap_ns as f64 / 1e6,
        })
    }

    /// Puts several together.
    #[must_use]
    pub fn join(all: Vec<Self>) -> Self {
        let nothing = Self { all: Vec::new(), aside: 0, broken: 0, acts: 0, together: 0, refused: 0, gap_ms: 0.0 };
        all.into_iter().fold(nothing, |mut joined, one| {
            joined.all.extend(one.all);
            joined.aside += one.aside;
            joined.broken += one.broken;
            joined.acts += one.acts;
            joined.together += one.together;
            joined.refused += one.refused;
            joined.gap_ms = joined.gap_ms.max(one.gap_ms);
            joined
        })
    }

    /// The figures that every series has.
    #[must_use]
    pub fn figures(&self) -> Vec<Figure> {
        vec![
            Figure::new(BROKEN, self.broken as f64, "", Bar::AtMost(0.0)),
            Figure::new(TOGETHER, self.together as f64, "", Bar::AtLeast(1.0)),
            Figure::new(REFUSED, self.refused as f64, "", Bar::Shown),
            Figure::new("acts that came to the sink", self.acts as f64, "", Bar::AtLeast(1.0)),
            Figure::new("longest time in which the sink did not look", self.gap_ms, "ms", Bar::Shown),
        ]
    }
}

/// Says that every node runs with the profile that the bars are made of: each path's delay and threshold, the lease, and no
/// time to stop.
///
/// # Errors
/// If one does not, or does not answer.
pub fn check_profile(crew: &Crew) -> Result<()> {
    for node in 0..crew.lab.spec().nodes.len() {
        let daemon = crew.daemon(node);
        let paths = daemon.ask("paths")?;
        let rows = paths["paths"].as_array().context("`paths` in the answer")?;
        ensure!(!rows.is_empty(), "node {} has no path", crew.name(node));
        let quorum = daemon.ctl(&["--json", "quorum"])?;
        let quorum = serde_json::from_slice(&quorum.stdout).with_context(|| format!("{quorum:?}"))?;
        rows.iter()
            .try_for_each(|row| is_profile(row, &quorum))
            .with_context(|| format!("node {}", crew.name(node)))?;
    }
    Ok(())
}

fn is_profile(path: &Value, quorum: &Value) -> Result<()> {
    let of_path =
        (number(path, "delay_ms")? as f64, number(path, "threshold")? as f64 * number(path, "delay_ms")? as f64);
    ensure!(of_path == (DELAY_MS, DETECTION_MS), "delay and detection time of {path}");
    let of_view = (number(quorum, "lease_ms")? as f64, number(quorum, "stop_ms")?);
    ensure!(of_view == (LEASE_MS, 0), "lease and time to stop of {quorum}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn another_profile_is_no_ground_for_these_bars() {
        let path = |delay: u64, threshold: u64| json!({"delay_ms": delay, "threshold": threshold});
        let quorum = |lease: u64, stop: u64| json!({"lease_ms": lease, "stop_ms": stop});
        is_profile(&path(100, 5), &quorum(500, 0)).unwrap();
        for (path, quorum) in [
            (path(100, 4), quorum(500, 0)),
            (path(50, 10), quorum(500, 0)),
            (path(100, 5), quorum(600, 0)),
            (path(100, 5), quorum(500, 100)),
            (json!({}), quorum(500, 0)),
        ] {
            assert!(is_profile(&path, &quorum).is_err(), "{path} {quorum}");
        }
    }

    #[test]
    fn a_sink_that_saw_nobody_beside_another_meets_no_bar() {
        let one = |together| Series { all: vec![1], aside: 1, broken: 0, acts: 9, together, refused: 2, gap_ms: 3.0 };
        let met = |series: &Series<i32>| series.figures().iter().all(Figure::met);
        assert!(!met(&one(0)) && met(&one(1)));
        let joined = Series::join(vec![one(0), Series { broken: 1, gap_ms: 4.0, ..one(2) }]);
        assert_eq!((joined.all.len(), joined.aside, joined.together, joined.refused), (2, 2, 2, 4));
        assert!(!met(&joined) && joined.gap_ms == 4.0);
    }
}

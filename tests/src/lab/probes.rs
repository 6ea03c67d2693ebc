//! Probes between two nodes that stay while others come and go: how many of them were lost since a moment, by the nodes' own
//! counters. What may be lost is the caller's to judge.

use super::Crew;
use super::play::number;
use anyhow::{Context, Result, ensure};
use std::time::Duration;

/// Between two readings: longer than an answer takes.
const APART: Duration = Duration::from_millis(30);
/// Readings of a moment: at any one of them some probes may be on their way.
const READINGS: usize = 4;
/// Readings after it: what was lost is open at each of them.
const READINGS_AFTER: usize = 20;

/// A moment in the counters of two nodes.
#[derive(Clone, Copy, Debug)]
pub struct Probes {
    nodes: [usize; 2],
    count: Count,
}

/// Probes between them, both ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Count {
    /// Seen leaving.
    departed: u64,
    /// Of them not answered in their time, or not yet.
    open: u64,
}

impl Probes {
    /// Begins to count.
    ///
    /// # Errors
    /// If one of the nodes does not show its paths.
    pub fn between(crew: &Crew, nodes: [usize; 2]) -> Result<Self> {
        Ok(Self { nodes, count: settled(READINGS, 0, || read(crew, nodes))? })
    }

    /// Returns how many that left since were not answered in their time.
    ///
    /// # Errors
    /// As there; if none left.
    pub fn lost(&self, crew: &Crew) -> Result<u64> {
        let after = settled(READINGS_AFTER, self.count.open, || read(crew, self.nodes))?;
        ensure!(after.departed > self.count.departed, "they do not ask each other: {self:?}, then {after:?}");
        Ok(after.open.saturating_sub(self.count.open))
    }
}

fn read(crew: &Crew, nodes: [usize; 2]) -> Result<Count> {
    let mut sum = Count { departed: 0, open: 0 };
    for (by, about) in [(nodes[0], nodes[1]), (nodes[1], nodes[0])] {
        let answer = crew.daemon(by).ask("paths")?;
        let rows = answer["paths"].as_array().context("`paths` in the answer")?;
        for row in rows.iter().filter(|row| row["peer_node"] == crew.name(about)) {
            let (departed, echoes) = (number(row, "departed")?, number(row, "echoes")?);
            sum.departed += departed;
            sum.open += departed.saturating_sub(echoes);
        }
    }
    Ok(sum)
}

/// Reads several times, and returns the reading with the least that is open. It is content with `enough`.
fn settled(readings: usize, enough: u64, mut read: impl FnMut() -> Result<Count>) -> Result<Count> {
    let mut best = read()?;
    for _ in 1..readings {
        if best.open <= enough {
            break;
        }
        std::thread::sleep(APART);
        let next = read()?;
        if next.open <= best.open {
            best = next;
        }
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes of readings with so many open, one after another, and how many were taken.
    fn of(open: &[u64], enough: u64) -> (Count, u64) {
        let mut taken = 0;
        let best = settled(open.len(), enough, || {
            taken += 1;
            Ok(Count { departed: 10 * taken, open: open[taken as usize - 1] })
        });
        (best.unwrap(), taken)
    }

    #[test]
    fn what_is_on_its_way_at_one_reading_is_not_lost() {
        assert_eq!(of(&[2, 1, 0, 9], 0), (Count { departed: 30, open: 0 }, 3));
        assert_eq!(of(&[3, 9, 9], 3), (Count { departed: 10, open: 3 }, 1), "no more than before");
    }

    #[test]
    fn what_is_lost_is_open_at_every_reading() {
        assert_eq!(of(&[2, 1, 2, 1], 0), (Count { departed: 40, open: 1 }, 4));
    }

    #[test]
    fn a_reading_that_fails_is_told() {
        assert!(settled(3, 0, || anyhow::bail!("nobody answers")).is_err());
    }
}

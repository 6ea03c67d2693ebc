//! The record of long runs: one line for each part that was played, so that many parts make one run. It says by which
//! program each was played, and refuses nothing: whoever adds the parts up looks whether they are of one program.

use super::run::Outcome;
use super::stats::Count;
use siphasher::sip128::{Hasher128, SipHasher24};
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::hash::Hasher;
use std::io::{self, Write};
use std::path::Path;

/// One part of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Digest of the program that played it.
    pub program: String,
    /// The first seed.
    pub first: u64,
    /// The last one that was to be played.
    pub last: u64,
    /// Worlds played: fewer than there are seeds, where it was stopped early.
    pub worlds: u64,
    /// Worlds that broke a rule.
    pub broken: Vec<u64>,
    /// Views decided.
    pub views: u64,
    /// Simulated time, s.
    pub simulated_s: u64,
    /// Real time, s.
    pub took_s: u64,
}

impl Part {
    /// Returns what came of the seeds from `first` on, `count` of them.
    #[must_use]
    pub fn of(program: String, first: u64, count: u64, outcome: &Outcome) -> Self {
        Self {
            program,
            first,
            last: first + count.saturating_sub(1),
            worlds: outcome.stats.of(Count::Worlds),
            broken: outcome.failures.iter().map(|failure| failure.seed).collect(),
            views: outcome.stats.of(Count::Decided),
            simulated_s: outcome.stats.simulated_ns / 1_000_000_000,
            took_s: outcome.took.as_secs(),
        }
    }

    /// Returns the line that stands for it in a record, without its end.
    #[must_use]
    pub fn line(&self) -> String {
        let Self { program, first, last, worlds, broken, views, simulated_s, took_s } = self;
        let mut line = format!(
            "program {program} seeds {first}-{last} worlds {worlds} broken {} views {views} simulated_s {simulated_s} \
             took_s {took_s}",
            broken.len()
        );
        for seed in broken {
            let _ = write!(line, " seed {seed}");
        }
        line
    }
}

/// Returns the digest of the program that runs, by SipHash-2-4 with a key of zeros: it tells builds apart, and proves
/// nothing.
///
/// # Errors
/// If its file cannot be read.
pub fn program() -> io::Result<String> {
    let mut hasher = SipHasher24::new();
    hasher.write(&std::fs::read("/proc/self/exe")?);
    Ok(format!("{:032x}", hasher.finish128().as_u128()))
}

/// Adds a part to a record, which is made where there is none.
///
/// # Errors
/// If it is not on disk for certain.
pub fn append(path: &Path, part: &Part) -> io::Result<()> {
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    // One write, so that two runs that end at once leave two lines.
    file.write_all(format!("{}\n", part.line()).as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::{Plan, many};

    #[test]
    fn a_part_is_one_line_and_is_added() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("record");
        let part = Part {
            program: "00ff".to_owned(),
            first: 10,
            last: 19,
            worlds: 9,
            broken: vec![12, 15],
            views: 70,
            simulated_s: 400,
            took_s: 2,
        };
        append(&path, &part).unwrap();
        append(&path, &Part { broken: Vec::new(), ..part }).unwrap();
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "program 00ff seeds 10-19 worlds 9 broken 2 views 70 simulated_s 400 took_s 2 seed 12 seed 15\n\
             program 00ff seeds 10-19 worlds 9 broken 0 views 70 simulated_s 400 took_s 2\n"
        );
    }

    #[test]
    fn a_part_tells_what_was_played() {
        let outcome = many(5, 2, 1, 1, &|_| Plan { safety_ns: 3_000_000_000, ..Plan::calm(2) }, &|_| {});
        let part = Part::of(program().unwrap(), 5, 2, &outcome);
        assert_eq!((part.first, part.last, part.worlds, part.broken.len()), (5, 6, 2, 0), "{part:?}");
        assert!(part.views >= 4 && part.simulated_s >= 6 && part.program.len() == 32, "{part:?}");
    }
}

//! The record of long runs: one line for each part that was played, so that many parts make one run. It says by which
//! program each was played, and refuses nothing: whoever adds the parts up looks whether they are of one program.

use super::rules::Rule;
use super::run::Outcome;
use super::stats::Count;
use siphasher::sip128::{Hasher128, SipHasher24};
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::hash::Hasher;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

/// The rule that who acts is a member of every newer view under which somebody acts, as failures name it.
const OVERLAP: &str = "S3";

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
    /// Real time, to the millisecond.
    pub took: Duration,
    /// How often somebody acted beside somebody else, and was judged for it.
    pub together: u64,
    /// Worlds in which one of them was no member of the other's view.
    pub overlaps: u64,
    /// Acts that a sink refused for their old tokens.
    pub refused: u64,
    /// The program holds its assertions.
    pub asserts: bool,
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
            took: Duration::from_millis(u64::try_from(outcome.took.as_millis()).unwrap_or(u64::MAX)),
            together: outcome.stats.judged.of(Rule::S3),
            overlaps: outcome.failures.iter().filter(|failure| failure.violation.property == OVERLAP).count() as u64,
            refused: outcome.stats.of(Count::ActsRefused),
            asserts: cfg!(debug_assertions),
        }
    }

    /// Returns the line that stands for it in a record, without its end.
    #[must_use]
    pub fn line(&self) -> String {
        let Self { program, first, last, worlds, broken, views, simulated_s, took, .. } = self;
        let Self { together, overlaps, refused, asserts, .. } = self;
        let mut line = format!(
            "program {program} seeds {first}-{last} worlds {worlds} broken {} views {views} simulated_s {simulated_s} \
             took_s {:.3} together {together} overlaps {overlaps} refused {refused} asserts {}",
            broken.len(),
            took.as_secs_f64(),
            u8::from(*asserts)
        );
        for seed in broken {
            let _ = write!(line, " seed {seed}");
        }
        line
    }

    /// Reads such a line again; `None`: it is none.
    #[must_use]
    pub fn read(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.split(' ').collect();
        let text = |name: &str| words.chunks(2).find(|pair| pair[0] == name).and_then(|pair| pair.get(1).copied());
        let number = |name: &str| text(name)?.parse::<u64>().ok();
        let (first, last) = text("seeds")?.split_once('-')?;
        let broken = words.chunks(2).filter(|pair| pair[0] == "seed").map(|pair| pair.get(1)?.parse().ok());
        let part = Self {
            program: text("program")?.to_owned(),
            first: first.parse().ok()?,
            last: last.parse().ok()?,
            worlds: number("worlds")?,
            broken: broken.collect::<Option<_>>()?,
            views: number("views")?,
            simulated_s: number("simulated_s")?,
            took: Duration::try_from_secs_f64(text("took_s")?.parse().ok()?).ok()?,
            together: number("together")?,
            overlaps: number("overlaps")?,
            refused: number("refused")?,
            asserts: number("asserts")? == 1,
        };
        (number("broken")? == part.broken.len() as u64).then_some(part)
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
            took: Duration::from_millis(2500),
            together: 30,
            overlaps: 1,
            refused: 4,
            asserts: true,
        };
        append(&path, &part).unwrap();
        let whole = Part { broken: Vec::new(), overlaps: 0, asserts: false, ..part.clone() };
        append(&path, &whole).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(
            text,
            "program 00ff seeds 10-19 worlds 9 broken 2 views 70 simulated_s 400 took_s 2.500 together 30 overlaps 1 refused \
             4 asserts 1 seed 12 seed 15\n\
             program 00ff seeds 10-19 worlds 9 broken 0 views 70 simulated_s 400 took_s 2.500 together 30 overlaps 0 refused \
             4 asserts 0\n"
        );
        assert_eq!(text.lines().map(Part::read).collect::<Vec<_>>(), [Some(part), Some(whole)]);
        let first = text.lines().next().unwrap();
        assert_eq!((Part::read(&first[..first.len() - 8]), Part::read("")), (None, None), "a seed is missing");
    }

    #[test]
    fn a_part_tells_what_was_played() {
        let outcome = many(5, 2, 1, 1, &|_| Plan { safety_ns: 3_000_000_000, ..Plan::calm(2) }, &|_| {});
        let part = Part::of(program().unwrap(), 5, 2, &outcome);
        assert_eq!((part.first, part.last, part.worlds, part.broken.len()), (5, 6, 2, 0), "{part:?}");
        assert!(part.views >= 4 && part.simulated_s >= 6 && part.program.len() == 32, "{part:?}");
        assert!(part.together > 0 && part.overlaps == 0 && part.asserts, "{part:?}");
    }
}

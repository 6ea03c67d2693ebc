//! How this node's runs ended: the last of them, kept for the next start, which waits the longer before it asks to join
//! the more of them ended badly. It is a help and no proof: what cannot be read counts as nothing, and no decision of
//! the cluster rests on it.

use super::put::{Step, WriteFault, replace};
use crate::config::{FileError, open_regular, read_limited};
use crate::io::clock;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

const FILE: &str = "exits.json";
const SCHEMA: u32 = 1;
/// Runs kept.
const KEPT: usize = 16;
/// Longest file that is read, bytes.
const LEN_MAX: u64 = 64 * 1024;
/// How long an end counts.
const COUNTED: Duration = Duration::from_secs(3600);

/// How a run ended, if it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// It has not, as far as is known.
    Running,
    /// It left on its own accord.
    Left,
    /// An operator asked for it to be removed.
    Removed,
    /// It was fenced.
    Fenced,
    /// A view left it out.
    LeftOut,
    /// Its disk failed it.
    DiskFailed,
    /// It was found to have ended without a word: a crash, a kill, a loss of power.
    Died,
    /// Its controller died again and again, until its service manager gave up starting it.
    GaveUp,
}

impl How {
    /// Says whether the next start has to be careful.
    #[must_use]
    pub const fn is_ungraceful(self) -> bool {
        matches!(self, Self::Fenced | Self::LeftOut | Self::DiskFailed | Self::Died | Self::GaveUp)
    }
}

/// A point in time, as far as two runs can compare it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// For people.
    pub wall: Timestamp,
    /// The machine start.
    pub boot: [u64; 2],
    /// CLOCK_BOOTTIME within it, ms.
    pub boottime_ms: u64,
}

/// A run of this node under one incarnation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Its incarnation.
    pub incarnation: u64,
    /// How it ended.
    pub how: How,
    /// When that was; of a run that has not ended, when it began.
    pub at: Moment,
}

/// The last runs, oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exits {
    schema: u32,
    runs: Vec<Run>,
}

impl Default for Exits {
    fn default() -> Self {
        Self { schema: SCHEMA, runs: Vec::new() }
    }
}

impl Exits {
    /// Reads what earlier runs left. Where that cannot be had there is nothing, and the reason comes with it.
    #[must_use]
    pub fn read(directory: &Path) -> (Self, Option<String>) {
        let path = directory.join(FILE);
        let bytes = open_regular(&path, false).and_then(|(file, _)| read_limited(file, &path, LEN_MAX));
        let none = |fault: Option<String>| (Self::default(), fault);
        let bytes = match bytes {
            Ok(bytes) => bytes,
            Err(FileError::Open { error, .. }) if error.kind() == ErrorKind::NotFound => return none(None),
            Err(error) => return none(Some(error.to_string())),
        };
        let said = |fault: String| none(Some(format!("{}: {fault}", path.display())));
        match serde_json::from_slice::<Self>(&bytes) {
            Ok(exits) if exits.schema != SCHEMA => said(format!("schema {}, this build reads {SCHEMA}", exits.schema)),
            Ok(mut exits) => {
                exits.shorten();
                (exits, None)
            }
            Err(error) => said(format!("not whole: {error}")),
        }
    }

    /// Takes note that a run begins. An older one that did not say how it ended has ended as `unsaid`; the same one that
    /// goes on, under another controller, is no end.
    pub fn begin(&mut self, incarnation: u64, unsaid: How, now: Moment) {
        if let Some(last) = self.runs.last_mut().filter(|last| last.how == How::Running) {
            if last.incarnation == incarnation {
                return;
            }
            // When it did is not known: it counts from when it was found.
            (last.how, last.at) = (unsaid, now);
        }
        self.runs.push(Run { incarnation, how: How::Running, at: now });
        self.shorten();
    }

    /// Takes note of how the run that goes on ends. Without one nothing ends.
    pub fn end(&mut self, how: How, now: Moment) {
        if let Some(last) = self.runs.last_mut().filter(|last| last.how == How::Running) {
            (last.how, last.at) = (how, now);
        }
    }

    /// Puts it on disk.
    ///
    /// # Errors
    /// If it is not there for certain.
    pub fn write(&self, directory: &Path) -> Result<(), WriteFault> {
        let text = serde_json::to_string_pretty(self).expect("runs are numbers and words");
        replace(directory, FILE, format!("{text}\n").as_bytes(), &|_: Step| Ok(()))
    }

    /// Returns the runs, oldest first.
    #[must_use]
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// Returns how many ended badly within the last hour. An end before this start of the machine is at least as old as
    /// that; by no clock is it known better.
    #[must_use]
    pub fn ungraceful(&self, now: &Moment) -> u32 {
        self.recent(now).count() as u32
    }

    /// Returns how many bad ends the start that comes now waits for. A single death is none: a node whose machine was
    /// reset, or that somebody mended after its manager gave it up, is back at once, and one that dies again and again is
    /// not.
    #[must_use]
    pub fn counted(&self, now: &Moment) -> u8 {
        match self.recent(now).collect::<Vec<_>>()[..] {
            [one] if matches!(one.how, How::Died | How::GaveUp) => 0,
            ref ends => u8::try_from(ends.len()).unwrap_or(u8::MAX),
        }
    }

    fn recent(&self, now: &Moment) -> impl Iterator<Item = &Run> {
        let now = *now;
        let age =
            move |at: &Moment| now.boottime_ms.saturating_sub(if at.boot == now.boot { at.boottime_ms } else { 0 });
        self.runs.iter().filter(move |run| run.how.is_ungraceful() && u128::from(age(&run.at)) < COUNTED.as_millis())
    }

    fn shorten(&mut self) {
        let beyond = self.runs.len().saturating_sub(KEPT);
        self.runs.drain(..beyond);
    }
}

/// Returns this moment.
#[must_use]
pub fn now(boot: [u64; 2]) -> Moment {
    let wall = Timestamp::from_nanosecond(clock::wall_ns().into()).unwrap_or_default();
    Moment { wall, boot, boottime_ms: crate::lease::now() / 1_000_000 }
}

/// Returns how many bad ends the start of an incarnation has to wait for, if the run before ended as `unsaid` where it did
/// not say how. Nothing is noted: a start that is refused is no run.
#[must_use]
pub fn before(directory: &Path, incarnation: u64, unsaid: How, boot: [u64; 2]) -> u8 {
    let (mut exits, now) = (Exits::read(directory).0, now(boot));
    exits.begin(incarnation, unsaid, now);
    exits.counted(&now)
}

/// Notes in the state directory that an incarnation runs, and how the run before ended where it did not say that.
pub fn note_start(directory: &Path, incarnation: u64, unsaid: How, boot: [u64; 2]) {
    note(directory, boot, |exits, now| exits.begin(incarnation, unsaid, now));
}

/// Notes how the incarnation that runs ended.
pub fn note_end(directory: &Path, how: How, boot: [u64; 2]) {
    note(directory, boot, |exits, now| exits.end(how, now));
}

/// Changes the file. It is a help and no more: what fails is logged.
fn note(directory: &Path, boot: [u64; 2], change: impl FnOnce(&mut Exits, Moment)) {
    let (mut exits, fault) = Exits::read(directory);
    if let Some(fault) = fault {
        log::warn!("{fault}: how earlier runs ended is forgotten");
    }
    change(&mut exits, now(boot));
    if let Err(error) = exits.write(directory) {
        log::warn!("{error}: the next start will not know how this run ended");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn at(boot: u64, seconds: u64) -> Moment {
        Moment { wall: Timestamp::UNIX_EPOCH, boot: [boot, 0], boottime_ms: seconds * 1000 }
    }

    #[test]
    fn a_run_that_said_nothing_has_died() {
        let mut exits = Exits::default();
        exits.begin(5, How::Died, at(1, 10));
        exits.begin(5, How::Died, at(1, 20));
        assert_eq!(exits.runs(), [Run { incarnation: 5, how: How::Running, at: at(1, 10) }], "a handover is no end");
        exits.begin(6, How::Died, at(1, 30));
        assert_eq!(exits.runs()[0], Run { incarnation: 5, how: How::Died, at: at(1, 30) });
        exits.end(How::Left, at(1, 40));
        exits.end(How::Fenced, at(1, 50));
        assert_eq!(exits.runs()[1], Run { incarnation: 6, how: How::Left, at: at(1, 40) }, "it ends once");
        assert_eq!(exits.ungraceful(&at(1, 60)), 1);
    }

    #[test]
    fn bad_ends_count_for_an_hour() {
        let mut exits = Exits::default();
        for incarnation in 1..=9 {
            exits.begin(incarnation, How::Died, at(1, incarnation));
            exits.end(How::Fenced, at(1, incarnation));
        }
        assert_eq!(exits.ungraceful(&at(1, 3600)), 9);
        assert_eq!(exits.ungraceful(&at(1, 3601)), 8, "the first was at 1 s");
        assert_eq!(exits.ungraceful(&at(1, 3609)), 0);
        // In another start of the machine nothing is known but that it was before it.
        assert_eq!((exits.ungraceful(&at(2, 3599)), exits.ungraceful(&at(2, 3600))), (9, 0));
        for how in [How::Left, How::Removed, How::Running] {
            assert!(!how.is_ungraceful(), "{how:?}");
        }
    }

    #[test]
    fn a_single_death_is_waited_for_by_nobody() {
        let mut exits = Exits::default();
        exits.begin(5, How::Died, at(1, 10));
        exits.begin(6, How::Died, at(2, 10));
        assert_eq!((exits.ungraceful(&at(2, 10)), exits.counted(&at(2, 10))), (1, 0));
        exits.begin(7, How::Died, at(2, 20));
        assert_eq!(exits.counted(&at(2, 20)), 2, "and then it died again");
        let mut fenced = Exits::default();
        fenced.begin(5, How::Died, at(1, 10));
        fenced.end(How::Fenced, at(1, 20));
        assert_eq!(fenced.counted(&at(1, 20)), 1);
    }

    #[test]
    fn who_was_given_up_by_its_manager_ended_badly_and_waits_for_the_second_time() {
        let mut exits = Exits::default();
        exits.begin(5, How::Died, at(1, 10));
        exits.begin(6, How::GaveUp, at(1, 20));
        assert_eq!(exits.runs()[0], Run { incarnation: 5, how: How::GaveUp, at: at(1, 20) });
        assert_eq!((exits.ungraceful(&at(1, 20)), exits.counted(&at(1, 20))), (1, 0));
        exits.begin(6, How::GaveUp, at(1, 25));
        assert_eq!(exits.ungraceful(&at(1, 25)), 1, "a handover is no end");
        exits.end(How::Left, at(1, 30));
        exits.begin(7, How::GaveUp, at(1, 40));
        assert_eq!(exits.runs()[1].how, How::Left, "it had said itself how it ended");
        exits.begin(8, How::Died, at(1, 50));
        assert_eq!(exits.counted(&at(1, 50)), 2, "it counts beside a death");
    }

    #[test]
    fn a_start_and_an_end_are_noted_in_the_directory() {
        let directory = tempfile::tempdir().unwrap();
        let starts = |incarnation| {
            let ends = before(directory.path(), incarnation, How::Died, [1, 0]);
            note_start(directory.path(), incarnation, How::Died, [1, 0]);
            ends
        };
        assert_eq!(starts(5), 0);
        note_end(directory.path(), How::Fenced, [1, 0]);
        let refused = |incarnation| before(directory.path(), incarnation, How::Died, [1, 0]);
        assert_eq!((refused(6), refused(7)), (1, 1), "none is a run");
        assert_eq!(starts(7), 1);
        note_end(directory.path(), How::Left, [1, 0]);
        assert_eq!((starts(8), starts(8)), (1, 1), "a handover is no end");
        assert_eq!(starts(9), 2, "it died");
    }

    #[test]
    fn what_was_written_is_read_back_and_what_is_broken_counts_as_nothing() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(Exits::read(directory.path()), (Exits::default(), None), "none yet");
        let mut exits = Exits::default();
        for incarnation in 0..40 {
            exits.begin(incarnation, How::Died, at(1, incarnation));
            exits.end(How::LeftOut, at(1, incarnation));
        }
        exits.write(directory.path()).unwrap();
        assert_eq!(Exits::read(directory.path()), (exits.clone(), None));
        assert_eq!((exits.runs().len(), exits.runs()[0].incarnation), (KEPT, 40 - KEPT as u64));
        let path = directory.path().join(FILE);
        let whole = fs::read_to_string(&path).unwrap();
        for length in 0..whole.len() - 1 {
            fs::write(&path, &whole[..length]).unwrap();
            let (exits, fault) = Exits::read(directory.path());
            assert!(exits.runs().is_empty() && fault.is_some(), "{length}");
        }
        fs::write(&path, whole.replace("\"schema\": 1", "\"schema\": 2")).unwrap();
        let (_, fault) = Exits::read(directory.path());
        assert!(fault.as_ref().is_some_and(|fault| fault.contains("schema 2, this build reads 1")), "{fault:?}");
    }
}

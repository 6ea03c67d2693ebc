//! Follows an event log from where it ends now. What was read is not read again: a benchmark that waits for an event
//! must not take the processors from the daemons that it measures. It judges nothing.

use super::wait::wait_every;
use anyhow::{Context, Result};
use serde_json::Value;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

/// Between two looks. Times are taken from the events, so it makes none of them longer.
const EVERY: Duration = Duration::from_millis(20);

/// An event log and the place up to which it was read.
#[derive(Debug)]
pub struct Follower {
    path: PathBuf,
    file: File,
    /// What follows the last whole line.
    rest: String,
}

impl Follower {
    /// Begins at the end of the log.
    ///
    /// # Errors
    /// If there is no log, or it cannot be read.
    pub fn from_end(path: PathBuf) -> Result<Self> {
        let mut file = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
        file.seek(SeekFrom::End(0)).with_context(|| format!("seeking in {}", path.display()))?;
        Ok(Self { path, file, rest: String::new() })
    }

    /// Returns the events that came since the last call, of a log that was rotated meanwhile too.
    ///
    /// # Errors
    /// If the log cannot be read, or a line of it is no event.
    pub fn read(&mut self) -> Result<Vec<Value>> {
        let mut events = self.read_file()?;
        let at_path = fs::metadata(&self.path).with_context(|| format!("looking at {}", self.path.display()))?;
        if at_path.ino() != self.file.metadata()?.ino() {
            events.extend(self.read_file()?);
            self.file = File::open(&self.path).with_context(|| format!("opening {}", self.path.display()))?;
            events.extend(self.read_file()?);
        }
        Ok(events)
    }

    /// Waits for an event of this name and returns all that came until then, and with it.
    ///
    /// # Errors
    /// Those of [`Self::read`], or if none comes within `limit`.
    pub fn wait(&mut self, limit: Duration, name: &str) -> Result<Vec<Value>> {
        let mut events = Vec::new();
        wait_every(EVERY, limit, &format!("{name} in {}", self.path.display()), || {
            events.extend(self.read().map_err(|error| format!("{error:#}"))?);
            if events.iter().any(|event| event["event"] == name) {
                return Ok(());
            }
            Err(format!("{} other events", events.len()))
        })?;
        Ok(events)
    }

    fn read_file(&mut self) -> Result<Vec<Value>> {
        self.file.read_to_string(&mut self.rest).with_context(|| format!("reading {}", self.path.display()))?;
        let whole = self.rest.rfind('\n').map_or(0, |end| end + 1);
        let parse = |line: &str| serde_json::from_str(line).with_context(|| format!("event {line:?}"));
        let events = self.rest[..whole].lines().map(parse).collect();
        self.rest.drain(..whole);
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn reads_each_event_once_over_halves_of_lines_and_a_rotation() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.jsonl");
        fs::write(&path, "{\"event\":\"before\"}\n").unwrap();
        let mut follower = Follower::from_end(path.clone()).unwrap();
        let mut log = File::options().append(true).open(&path).unwrap();
        let names = |events: Vec<Value>| events.iter().map(|event| event["event"].to_string()).collect::<String>();
        assert_eq!(names(follower.read().unwrap()), "");
        log.write_all(b"{\"event\":1}\n{\"event\"").unwrap();
        assert_eq!(names(follower.read().unwrap()), "1");
        log.write_all(b":2}\n{\"event\":3}\n").unwrap();
        fs::rename(&path, directory.path().join("events.jsonl.1")).unwrap();
        fs::write(&path, "{\"event\":4}\n").unwrap();
        assert_eq!(names(follower.read().unwrap()), "234");
        assert_eq!(names(follower.read().unwrap()), "");
        let error = follower.wait(Duration::from_millis(1), "down").unwrap_err();
        assert!(format!("{error:#}").contains("0 other events"), "{error:#}");
    }
}

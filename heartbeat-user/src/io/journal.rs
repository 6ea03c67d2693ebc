//! The event journal: one JSON line for each event, in a file that is bounded and rotated, on the log, and to whoever
//! follows. Its own thread does the writing; callers offer and never wait. What does not fit is counted and said.

use crate::core::event::{Event, EventBody, Level};
use crate::io::clock;
use anyhow::{Context, ensure};
use jiff::Timestamp;
use serde_json::{Map, Value};
use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use tokio::sync::broadcast;

/// Version of the layout of a line.
const SCHEMA: u32 = 1;
/// Events waiting to be written at most.
const QUEUE_MAX: usize = 4096;
/// Events kept in memory, for `heartbeatctl events`.
const KEPT_MAX: usize = 4096;

/// Where events are offered. Cheap to clone; never waits.
#[derive(Clone)]
pub struct EventSink {
    queue: SyncSender<Option<Event>>,
    dropped: Arc<AtomicU64>,
}

impl EventSink {
    /// Offers an event; it is counted if there is no room.
    pub fn offer(&self, event: Event) {
        if self.queue.try_send(Some(event)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Offers an event that happened now.
    pub fn now(&self, body: EventBody) {
        let now = clock::now();
        self.offer(Event { at: now, noticed: now, body });
    }
}

/// What is kept in memory and who listens. Events are kept as lines: taken apart, they need some five times the memory,
/// which is locked.
#[derive(Clone)]
pub struct JournalView {
    kept: Arc<Mutex<VecDeque<Arc<str>>>>,
    live: broadcast::Sender<Value>,
}

impl JournalView {
    /// Returns the kept events that happened at `since` or later.
    #[must_use]
    pub fn since(&self, since: Option<Timestamp>) -> Vec<Value> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let late_enough = |event: &Value| match (since, time_of(event)) {
            (Some(since), Some(time)) => time >= since,
            _ => true,
        };
        kept.iter().filter_map(|line| serde_json::from_str(line).ok()).filter(late_enough).collect()
    }

    /// Follows the events to come.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Value> {
        self.live.subscribe()
    }
}

fn time_of(event: &Value) -> Option<Timestamp> {
    event.get("time")?.as_str()?.parse().ok()
}

/// The journal's settings.
#[derive(Clone, Debug)]
pub struct JournalSetup {
    /// The file.
    pub file: PathBuf,
    /// Size at which it is rotated, bytes.
    pub bytes_max: u64,
    /// Files kept, the current one included.
    pub files: u32,
    /// Name of this node.
    pub node: String,
}

/// The journal's thread.
pub struct Journal {
    /// Where events are offered.
    pub sink: EventSink,
    /// What is kept in memory.
    pub view: JournalView,
    thread: Option<JoinHandle<()>>,
}

impl Journal {
    /// Opens the file and starts the thread.
    ///
    /// # Errors
    /// If the file cannot be opened for appending.
    pub fn start(setup: JournalSetup) -> anyhow::Result<Self> {
        if let Some(parent) = setup.file.parent()
            && !parent.is_dir()
        {
            fs::DirBuilder::new()
                .mode(0o750)
                .recursive(true)
                .create(parent)
                .with_context(|| format!("make the directory of the event log, {}", parent.display()))?;
        }
        let kept = tail(&setup.file);
        let output = Output::open(&setup)?;
        let (queue, events) = sync_channel(QUEUE_MAX);
        let dropped = Arc::new(AtomicU64::new(0));
        let view = JournalView { kept: Arc::new(Mutex::new(kept)), live: broadcast::channel(1024).0 };
        let mut writer =
            Writer { setup, output: Some(output), view: view.clone(), dropped: dropped.clone(), sequence: 0 };
        let thread = std::thread::Builder::new()
            .name("hb-journal".to_owned())
            .spawn(move || writer.run(&events))
            .context("start the journal's thread")?;
        Ok(Self { sink: EventSink { queue, dropped }, view, thread: Some(thread) })
    }

    /// Writes what is waiting and ends the thread; gives up on a disk that hangs.
    pub fn stop(&mut self) {
        let _ = self.sink.queue.try_send(None);
        if let Some(thread) = self.thread.take() {
            let until = clock::now() + std::time::Duration::from_secs(2);
            while !thread.is_finished() && clock::now() < until {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            if thread.is_finished() {
                let _ = thread.join();
            } else {
                log::warn!("the event log's disk does not answer: events that were waiting are lost");
            }
        }
    }
}

/// Reads the last events of an existing file; what is not a whole line of JSON is passed over.
fn tail(file: &Path) -> VecDeque<Arc<str>> {
    let mut kept = VecDeque::new();
    // What is no plain file is refused by `Output::open`; here it must not hang the start.
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(file);
    if let Ok(file) = opened
        && file.metadata().is_ok_and(|metadata| metadata.is_file())
    {
        for line in BufReader::new(file).lines().map_while(Result::ok) {
            if serde_json::from_str::<serde::de::IgnoredAny>(&line).is_ok() {
                if kept.len() == KEPT_MAX {
                    kept.pop_front();
                }
                kept.push_back(line.into());
            }
        }
    }
    kept
}

struct Output {
    file: File,
    bytes: u64,
}

impl Output {
    fn open(setup: &JournalSetup) -> anyhow::Result<Self> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o640)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(&setup.file)
            .with_context(|| format!("open the event log {}", setup.file.display()))?;
        let metadata = file.metadata().with_context(|| format!("look at the event log {}", setup.file.display()))?;
        ensure!(metadata.is_file(), "the event log {} is not a plain file", setup.file.display());
        Ok(Self { file, bytes: metadata.len() })
    }

    /// Says whether it is still the file at this path: somebody else may have moved it away, or removed it.
    fn is_at(&self, path: &Path) -> bool {
        let (Ok(open), Ok(named)) = (self.file.metadata(), fs::symlink_metadata(path)) else { return false };
        (open.dev(), open.ino()) == (named.dev(), named.ino())
    }
}

struct Writer {
    setup: JournalSetup,
    output: Option<Output>,
    view: JournalView,
    dropped: Arc<AtomicU64>,
    sequence: u64,
}

impl Writer {
    fn run(&mut self, events: &Receiver<Option<Event>>) {
        while let Ok(Some(event)) = events.recv() {
            let dropped = self.dropped.swap(0, Ordering::Relaxed);
            if dropped > 0 {
                let now = clock::now();
                self.take(&Event { at: now, noticed: now, body: EventBody::EventsDropped { count: dropped } });
            }
            self.take(&event);
        }
    }

    fn take(&mut self, event: &Event) {
        self.sequence += 1;
        let record = self.record(event);
        match event.level() {
            Level::Info => log::info!("[{}] {event}", event.id()),
            Level::Warning => log::warn!("[{}] {event}", event.id()),
            Level::Error => log::error!("[{}] {event}", event.id()),
        }
        let mut line = record.to_string();
        line.push('\n');
        // That events were lost is told until it is written: with each try that fails the count is as it was.
        let holds = if let EventBody::EventsDropped { count } = event.body { count } else { 1 };
        self.write(line.as_bytes(), holds);
        {
            let mut kept = self.view.kept.lock().unwrap_or_else(PoisonError::into_inner);
            if kept.len() == KEPT_MAX {
                kept.pop_front();
            }
            kept.push_back(line.trim_end().into());
        }
        // Nobody need be listening.
        let _ = self.view.live.send(record);
    }

    /// Makes the line: the wall time of the fact for people, the monotonic stamps for reckoning.
    fn record(&self, event: &Event) -> Value {
        let wall = clock::wall_ns() as i128;
        let now = i128::from(clock::now().0);
        let time = |at: u64| {
            Timestamp::from_nanosecond(wall - now + i128::from(at))
                .map_or_else(|_| String::new(), |time| time.to_string())
        };
        let mut line = Map::new();
        line.insert("schema".to_owned(), SCHEMA.into());
        line.insert("sequence".to_owned(), self.sequence.into());
        line.insert("time".to_owned(), time(event.at.0).into());
        line.insert("noticed".to_owned(), time(event.noticed.0).into());
        line.insert("observer".to_owned(), self.setup.node.clone().into());
        line.insert("event".to_owned(), event.name().into());
        line.insert("message".to_owned(), event.to_string().into());
        if let Ok(Value::Object(fields)) = serde_json::to_value(event) {
            for (name, value) in fields {
                if name != "name" && name != "text" {
                    line.insert(name, value);
                }
            }
        }
        Value::Object(line)
    }

    /// Writes a line; a disk that refuses is tried again with the next event. `holds`: how many events are lost with it.
    fn write(&mut self, line: &[u8], holds: u64) {
        if let Err(error) = self.append(line) {
            log::warn!("{error:#}");
            self.output = None;
            self.dropped.fetch_add(holds, Ordering::Relaxed);
        }
    }

    /// Appends to the file, or to the next one if it is full. A full one that cannot be moved away gets nothing more.
    fn append(&mut self, line: &[u8]) -> anyhow::Result<()> {
        let there = self.output.take().filter(|output| output.is_at(&self.setup.file));
        let mut output = there.map_or_else(|| Output::open(&self.setup), Ok)?;
        if output.bytes > 0 && output.bytes + line.len() as u64 > self.setup.bytes_max {
            self.rotate().with_context(|| format!("rotate {}", self.setup.file.display()))?;
            output = Output::open(&self.setup)?;
        }
        if let Err(error) = output.file.write_all(line) {
            // A full disk takes part of a line, which the next one would be read as the end of.
            cut_back(&output.file, output.bytes);
            return Err(error).with_context(|| format!("write {}", self.setup.file.display()));
        }
        output.bytes += line.len() as u64;
        self.output = Some(output);
        Ok(())
    }

    /// Moves file to file.1, file.1 to file.2 and so on; the oldest goes.
    fn rotate(&self) -> io::Result<()> {
        let numbered = |number: u32| {
            let mut name = self.setup.file.clone().into_os_string();
            if number > 0 {
                name.push(format!(".{number}"));
            }
            PathBuf::from(name)
        };
        if self.setup.files <= 1 {
            return gone_is_fine(fs::remove_file(numbered(0)));
        }
        // An older file that cannot be moved is in the way of the next only if that cannot take its place.
        for number in (1..self.setup.files - 1).rev() {
            let _ = fs::rename(numbered(number), numbered(number + 1));
        }
        gone_is_fine(fs::rename(numbered(0), numbered(1)))
    }
}

/// Takes off what is beyond so many bytes, as far as that can be done.
fn cut_back(file: &File, bytes: u64) {
    let longer = file.metadata().is_ok_and(|metadata| metadata.len() > bytes);
    if longer && let Err(error) = file.set_len(bytes) {
        log::warn!("take part of a line off the event log: {error}");
    }
}

/// Somebody else may have moved the file away.
fn gone_is_fine(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

#[cfg(test)]
mod tests;

//! The log on standard error, written by a thread of its own: whoever logs offers a line and never waits, also where nobody
//! reads standard error and its pipe is full. What does not fit is counted and said. It keeps no line and changes none;
//! which lines there are and how they look is env_logger's.

use crate::io::clock;
use crate::io::conflict::give_up_raw_packets;
use anyhow::Context;
use env_logger::{Builder, Target, WriteStyle};
use log::{LevelFilter, Log, Metadata, Record};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

/// Name of the thread that writes.
pub const THREAD: &str = "hb-log";
/// Lines waiting to be written at most.
const LINES_MAX: usize = 1024;
/// Longest that a flush waits.
const FLUSH: Duration = Duration::from_secs(1);
/// How often a flush looks for room, where there is none.
const PAUSE: Duration = Duration::from_millis(5);

/// What the thread is given.
enum Entry {
    Line(Vec<u8>),
    /// All before is written.
    Flushed(SyncSender<()>),
}

/// Takes each line whole, as env_logger writes it, and offers it.
struct Offer {
    entries: SyncSender<Entry>,
    dropped: Arc<AtomicU64>,
}

impl Write for Offer {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.entries.try_send(Entry::Line(line.to_vec())).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The log. Cheap to offer to, from any thread; never waits but to be flushed.
pub struct Logger {
    lines: env_logger::Logger,
    entries: SyncSender<Entry>,
}

impl Logger {
    /// Starts the thread, which writes lines up to `level` to `output`. It ends with the logger, once that has been
    /// dropped.
    ///
    /// # Errors
    /// If there can be no more threads.
    pub fn start(level: LevelFilter, output: impl Write + Send + 'static) -> io::Result<Self> {
        let (entries, queue) = sync_channel(LINES_MAX);
        let dropped = Arc::new(AtomicU64::new(0));
        let own = dropped.clone();
        std::thread::Builder::new().name(THREAD.to_owned()).spawn(move || {
            // It begins before the start asks for its addresses, and has no use for what that takes.
            if let Err(error) = give_up_raw_packets() {
                log::warn!("CAP_NET_RAW could not be given up by the log: {error}");
            }
            write(&queue, &own, output);
        })?;
        let offer = Offer { entries: entries.clone(), dropped };
        let mut lines = Builder::new();
        lines.filter_level(level).format_timestamp_micros().write_style(WriteStyle::Never);
        Ok(Self { lines: lines.target(Target::Pipe(Box::new(offer))).build(), entries })
    }

    /// Makes it the log of this process, on standard error.
    ///
    /// # Errors
    /// If there is a log already, standard error is closed, or the thread cannot be made.
    pub fn install(level: LevelFilter) -> anyhow::Result<()> {
        // Not by the lock of the standard library: a report of a panic takes that, and must not wait for this thread.
        let output = io::stderr().as_fd().try_clone_to_owned().context("standard error")?;
        let logger = Self::start(level, File::from(output)).context("start the thread of the log")?;
        log::set_boxed_logger(Box::new(logger)).context("there is a log already")?;
        log::set_max_level(level);
        Ok(())
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.lines.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        self.lines.log(record);
    }

    /// Waits until all that was offered is written, a second at most: for the end of the process.
    fn flush(&self) {
        let until = clock::now() + FLUSH;
        let (told, flushed) = sync_channel(1);
        while self.entries.try_send(Entry::Flushed(told.clone())).is_err() {
            if clock::now() >= until {
                return;
            }
            std::thread::sleep(PAUSE);
        }
        let _ = flushed.recv_timeout(until.since(clock::now()));
    }
}

/// Writes what comes. An output that refuses is tried again with the next line: there is nobody to tell.
fn write(queue: &Receiver<Entry>, dropped: &AtomicU64, mut output: impl Write) {
    while let Ok(entry) = queue.recv() {
        match entry {
            Entry::Line(line) => drop(output.write_all(&line)),
            Entry::Flushed(told) => drop(told.try_send(())),
        }
        let lost = dropped.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let _ = writeln!(output, "{lost} lines of the log were dropped: they were not read in time");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use std::io::Read;
    use std::sync::mpsc::channel;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn say(logger: &Logger, level: log::Level, text: &str) {
        logger.log(&Record::builder().level(level).target("t").args(format_args!("{text}")).build());
    }

    #[test]
    fn whoever_logs_goes_on_though_nobody_reads() {
        let (mut reader, writer) = io::pipe().unwrap();
        let logger = Logger::start(LevelFilter::Info, writer).unwrap();
        let (told, done) = channel();
        // A pipe holds 64 KiB.
        let text = "x".repeat(200);
        let logging = std::thread::spawn(move || {
            (0..5000).for_each(|_| say(&logger, log::Level::Error, &text));
            told.send(()).unwrap();
            logger
        });
        assert_eq!(done.recv_timeout(PATIENCE), Ok(()), "it waits for a reader");
        let logger = logging.join().unwrap();
        // The rest is written once it is read, and what is missing is said.
        let reading = std::thread::spawn(move || {
            let mut all = String::new();
            reader.read_to_string(&mut all).map(|_| all).unwrap()
        });
        logger.flush();
        drop(logger);
        let all = reading.join().unwrap();
        let lines = all.lines().filter(|line| line.contains("xxx")).count();
        let said = all
            .lines()
            .filter_map(|line| line.strip_suffix(" lines of the log were dropped: they were not read in time"));
        let dropped: usize = said.map(|count| count.parse::<usize>().unwrap()).sum();
        assert!(lines >= LINES_MAX && dropped > 0, "{lines} written, {dropped} dropped");
        assert_eq!(lines + dropped, 5000, "each line is written or counted");
    }

    #[test]
    fn a_line_has_time_level_and_place_and_what_is_below_the_level_is_none() {
        let (mut reader, writer) = io::pipe().unwrap();
        let logger = Logger::start(LevelFilter::Warn, writer).unwrap();
        say(&logger, log::Level::Warn, "first");
        say(&logger, log::Level::Info, "second");
        say(&logger, log::Level::Error, "third");
        logger.flush();
        drop(logger);
        let mut all = String::new();
        reader.read_to_string(&mut all).unwrap();
        let lines: Vec<&str> = all.lines().collect();
        assert_eq!(lines.len(), 2, "{all}");
        assert!(lines[0].ends_with("Z WARN  t] first") && lines[1].ends_with("Z ERROR t] third"), "{all}");
        let time = lines[0].trim_start_matches('[').split(' ').next().unwrap();
        assert!(time.parse::<Timestamp>().is_ok() && time.len() == "2024-01-01T00:00:00.123456Z".len(), "{time}");
    }

    #[test]
    fn a_flush_waits_no_longer_than_its_limit() {
        let (reader, writer) = io::pipe().unwrap();
        let logger = Logger::start(LevelFilter::Info, writer).unwrap();
        let text = "x".repeat(200);
        (0..3000).for_each(|_| say(&logger, log::Level::Error, &text));
        let (told, done) = channel();
        std::thread::spawn(move || {
            logger.flush();
            told.send(()).unwrap();
        });
        assert_eq!(done.recv_timeout(PATIENCE), Ok(()));
        drop(reader);
    }
}

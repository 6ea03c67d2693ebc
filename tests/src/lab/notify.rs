//! The service manager's end of the notify socket: what a daemon says of its readiness and state is kept with the
//! moment it came. It answers nothing and demands nothing.

use super::monotonic_ns;
use anyhow::{Context, Result};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// A line that a daemon sent, such as `READY=1`, and when it came (CLOCK_MONOTONIC ns).
pub type Line = (u64, String);

/// A listening notify socket; it is closed on drop.
#[derive(Debug)]
pub struct Notify {
    path: PathBuf,
    lines: Arc<Mutex<Vec<Line>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Notify {
    /// Listens at `path`, in place of whoever listened there before.
    ///
    /// # Errors
    /// Fails when the socket cannot be made.
    pub fn listen(path: &Path) -> Result<Self> {
        if path.exists() {
            std::fs::remove_file(path).with_context(|| format!("removing {}", path.display()))?;
        }
        let socket = UnixDatagram::bind(path).with_context(|| format!("binding {}", path.display()))?;
        // The daemon may run under another user; the directory is what keeps others out.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666)).context("opening the notify socket")?;
        socket.set_read_timeout(Some(Duration::from_millis(20))).context("the notify socket's timeout")?;
        let lines = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (kept, ended) = (Arc::clone(&lines), Arc::clone(&stop));
        let listen = move || listen(&socket, &kept, &ended);
        let thread = std::thread::Builder::new().name("lab-notify".to_owned()).spawn(listen)?;
        Ok(Self { path: path.to_owned(), lines, stop, thread: Some(thread) })
    }

    /// Where it listens.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Every line that came, in order.
    #[must_use]
    pub fn lines(&self) -> Vec<Line> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// When readiness was first said, CLOCK_MONOTONIC ns.
    #[must_use]
    pub fn ready(&self) -> Option<u64> {
        self.lines().iter().find(|(_, line)| line == "READY=1").map(|(at, _)| *at)
    }

    /// The last `STATUS=` that was said.
    #[must_use]
    pub fn status(&self) -> Option<String> {
        self.lines().iter().rev().find_map(|(_, line)| line.strip_prefix("STATUS=").map(str::to_owned))
    }
}

impl Drop for Notify {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn listen(socket: &UnixDatagram, lines: &Mutex<Vec<Line>>, stop: &AtomicBool) {
    let mut buffer = [0; 4096];
    while !stop.load(Ordering::Relaxed) {
        match socket.recv(&mut buffer) {
            Ok(length) => {
                let now = monotonic_ns();
                let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
                lines.extend(text.lines().map(|line| (now, line.to_owned())));
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => {
                eprintln!("lab: the notify socket: {error}");
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::wait_for;

    #[test]
    fn what_a_daemon_says_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify.sock");
        let notify = Notify::listen(&path).unwrap();
        assert_eq!((notify.ready(), notify.status()), (None, None));
        let daemon = UnixDatagram::unbound().unwrap();
        let before = monotonic_ns();
        daemon.send_to(b"STATUS=one\nREADY=1\n", &path).unwrap();
        daemon.send_to(b"STATUS=two", &path).unwrap();
        let two =
            || if notify.status().as_deref() == Some("two") { Ok(()) } else { Err(format!("{:?}", notify.lines())) };
        wait_for(Duration::from_secs(5), "both datagrams", two).unwrap();
        assert_eq!(notify.lines().len(), 3);
        assert!(notify.ready().unwrap() >= before);
        drop(notify);
        assert!(Notify::listen(&path).unwrap().ready().is_none(), "the next one begins anew");
    }
}

//! A recording sink for the acts of a lab's nodes: again and again it acts for each node that might, with the token read
//! from the node's page just before, and keeps what came, all on one clock. It asks no daemon and steers none: the page is
//! the kernel's, and is there while the daemon is stopped.

use super::acts::{Act, Acts};
use super::{Lab, monotonic_ns};
use crate::xdp::mapping::Mapping;
use anyhow::{Context, Result, ensure};
use heartbeat_common::lease::{self as page, LEN, MAGIC, Refused, Token, Words, word};
use heartbeat_common::maps;
use heartbeat_user::io::{realtime, sys};
use heartbeat_user::lease;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Between two rounds of acts.
const EVERY: Duration = Duration::from_micros(500);
/// Rounds between two looks for a page that took another's place.
const LOOKS: u64 = 20;
/// How long a page is watched that another one took the place of, ns: longer than any lease of a lab.
const KEPT_NS: u64 = 30_000_000_000;
/// SCHED_FIFO priority: above the daemons', so that whom they keep waiting it does not miss, and below hogs.
const PRIORITY: u8 = 60;

/// A page of a node.
#[derive(Debug)]
struct Held {
    page: RootPage,
    /// The pin's inode: it tells one page from the next.
    id: u64,
    /// Since when another one is pinned in its place, ns.
    replaced_ns: Option<u64>,
}

/// What belongs to one node.
#[derive(Debug, Default)]
struct Watched {
    pages: Vec<Held>,
    /// The newest pin seen, so that the page of a machine that died is not opened again.
    newest: u64,
}

#[derive(Debug)]
struct Inner {
    acts: Acts,
    nodes: Vec<Watched>,
}

/// The sink, and what acts for the nodes. Dropping it ends it.
#[derive(Debug)]
pub struct Sink {
    inner: Arc<Mutex<Inner>>,
    done: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Where the page of a node is pinned.
#[must_use]
pub fn page_pin(lab: &Lab, node: usize) -> PathBuf {
    lab.pin_dir(node).join("heartbeatd").join(format!("v{}", maps::ABI)).join(maps::LEASE)
}

/// The page of a node as root may map it: the memory that the kernel writes. A service reads copies; this looks at it a
/// thousand times a second, and takes no time from what it watches.
#[derive(Debug)]
pub struct RootPage(Mapping);

impl RootPage {
    /// Opens what is pinned there.
    ///
    /// # Errors
    /// If nothing is, or it is no page of this layout.
    pub fn open(path: &Path) -> Result<Self> {
        let fd = sys::object_get(path).with_context(|| format!("opening {}", path.display()))?;
        let page = Self(Mapping::new(fd.as_fd(), LEN, 1).with_context(|| format!("mapping {}", path.display()))?);
        ensure!(page.get(word::MAGIC) == MAGIC, "{} is no page yet", path.display());
        Ok(page)
    }

    /// Says under which token its node may act now, by the function that a service calls.
    ///
    /// # Errors
    /// Why it may not.
    pub fn acting(&self) -> Result<Token, Refused> {
        page::acting(self, lease::now())
    }
}

impl Words for RootPage {
    fn get(&self, index: usize) -> u64 {
        self.0.get(0, index)
    }

    fn set(&self, index: usize, _: u64) {
        unreachable!("word {index}: the page is only read here");
    }
}

impl Sink {
    /// Begins to act for all nodes of a lab; for one without a page as soon as it has one.
    ///
    /// # Errors
    /// If the thread cannot be made.
    pub fn start(lab: &Lab) -> Result<Self> {
        let pins: Vec<PathBuf> = (0..lab.spec().nodes.len()).map(|node| page_pin(lab, node)).collect();
        let nodes = pins.iter().map(|_| Watched::default()).collect();
        let inner = Arc::new(Mutex::new(Inner { acts: Acts::default(), nodes }));
        let done = Arc::new(AtomicBool::new(false));
        let (kept, ended) = (Arc::clone(&inner), Arc::clone(&done));
        let thread =
            std::thread::Builder::new().name("lab-sink".to_owned()).spawn(move || run(&kept, &pins, &ended))?;
        Ok(Self { inner, done, thread: Some(thread) })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns what has come so far.
    #[must_use]
    pub fn acts(&self) -> Acts {
        self.lock().acts.clone()
    }

    /// Says under which token a node may act now.
    ///
    /// # Errors
    /// Why it may not.
    pub fn acting(&self, node: usize) -> Result<Token, Refused> {
        self.lock().nodes[node].pages.last().map_or(Err(Refused::NoPage), |held| held.page.acting())
    }

    /// The machine of a node is gone, and with it everything that it ran: its pages are nobody's. The next start has
    /// another one.
    pub fn gone(&self, node: usize) {
        let mut inner = self.lock();
        let now = monotonic_ns();
        let Inner { acts, nodes } = &mut *inner;
        for held in nodes[node].pages.drain(..) {
            acts.idle(node, held.id, None, now);
        }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // What it met is in the record; there is nobody to tell of a panic while another one unwinds.
            let _ = thread.join();
        }
    }
}

fn run(inner: &Mutex<Inner>, pins: &[PathBuf], done: &AtomicBool) {
    realtime::no_timer_slack();
    // Without it the sink looks less often, and says so by its longest gap.
    let _ = realtime::fifo(PRIORITY);
    let (mut round, mut last) = (0_u64, monotonic_ns());
    while !done.load(Ordering::Relaxed) {
        {
            let mut inner = inner.lock().unwrap_or_else(PoisonError::into_inner);
            if round.is_multiple_of(LOOKS) {
                pins.iter().zip(&mut inner.nodes).for_each(|(pin, node)| look(pin, node));
            }
            let now = monotonic_ns();
            inner.acts.longest_gap_ns = inner.acts.longest_gap_ns.max(now.saturating_sub(last));
            last = now;
            act_for_all(&mut inner);
        }
        round += 1;
        std::thread::sleep(EVERY);
    }
}

/// Opens the page that is pinned now, if it is another one than before; one that was replaced is watched on for a while.
fn look(pin: &Path, node: &mut Watched) {
    let now = monotonic_ns();
    node.pages.retain(|held| held.replaced_ns.is_none_or(|at| now.saturating_sub(at) < KEPT_NS));
    let Ok(found) = std::fs::metadata(pin) else { return };
    if found.ino() == node.newest {
        return;
    }
    // One that is just being made is there at the next look.
    let Ok(page) = RootPage::open(pin) else { return };
    for held in &mut node.pages {
        held.replaced_ns.get_or_insert(now);
    }
    node.newest = found.ino();
    node.pages.push(Held { page, id: found.ino(), replaced_ns: None });
}

/// One act for every page that allows it; then every page is read once more, the other way round: whoever may act both
/// times, under one token, may act at all moments between, and so did together with all that were read there.
fn act_for_all(inner: &mut Inner) {
    let Inner { acts, nodes } = inner;
    let mut first: Vec<(Act, &Held)> = Vec::new();
    for (node, watched) in nodes.iter().enumerate() {
        for held in &watched.pages {
            let judged = held.page.acting();
            let now = monotonic_ns();
            match judged {
                Ok(token) => {
                    let act = Act { node, token };
                    acts.take(act, held.id, now);
                    // Leases run on another clock, which goes as fast while the machine does not sleep.
                    let left = lease::end(&held.page).saturating_sub(lease::now());
                    acts.allowed(node, held.id, monotonic_ns().saturating_add(left));
                    first.push((act, held));
                }
                Err(why) => acts.idle(node, held.id, Some(why), now),
            }
        }
    }
    for (index, (act, held)) in first.iter().enumerate().rev() {
        if held.page.acting() == Ok(act.token) {
            first[index + 1..].iter().for_each(|(later, _)| acts.both(*act, *later));
        }
    }
}

//! The memory that the kernel's packet path and this process share: ticks, histograms, the own record and the lease's
//! page (of which `page` tells), mmapped from the maps, or private memory of the same layout where no map can be had. It
//! copies and stores words; it judges nothing.

use crate::io::page::Page;
use anyhow::{Context, bail};
use heartbeat_common::counter::Counter;
use heartbeat_common::maps::{BUCKETS, Histogram, Own, PATHS_MAX};
use heartbeat_common::tick::{TICK_WORDS, Tick};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use std::cell::Cell;
use std::num::NonZeroUsize;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering, fence};
use std::time::Duration;

/// Attempts to copy a tick or take its lock before it is given up for now. The packet path writes for some 50 ns at a
/// time; a longer hold is a writer that lost its CPU, and no thread of ours spins until it has it back.
const ATTEMPTS: u32 = 2_000;
/// Looks in a row that find a lock odd and unmoved before it counts as left by a writer that was killed. One in the kernel
/// holds it for some 50 ns, or for as long as a hypervisor withholds its processor: hundreds of milliseconds were seen.
/// It is waited for only where a lock was in fact left, at a start or a new incarnation, and by looks rather than by the
/// clock: while this process does not run, or its whole machine does not, no time passes for the writer either.
const ABANDONED_LOOKS: u32 = 500;
/// From one look to the next.
const LOOK: Duration = Duration::from_millis(1);
/// What freeing adds to a lock: far more than releases do, so that a writer who comes back after all, and releases what is
/// no longer its own, brings back no value that anybody has seen since.
const FREED: u64 = (1 << 32) | 1;

/// One mapped array of `T`.
pub(super) struct Region {
    pub(super) start: NonNull<u8>,
    bytes: NonZeroUsize,
}

// SAFETY: the region is memory of words that are only read and written atomically or under the tick's lock.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// Maps a map's values, or private zeroed memory if `fd` is `None`.
    pub(super) fn new(fd: Option<BorrowedFd<'_>>, bytes: usize) -> anyhow::Result<Self> {
        let page = 4096;
        let bytes = NonZeroUsize::new(bytes.next_multiple_of(page)).context("an empty map")?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let start = match fd {
            // SAFETY: a fresh mapping at an address of the kernel's choice.
            Some(fd) => unsafe { mmap(None, bytes, protection, MapFlags::MAP_SHARED, fd, 0) },
            // SAFETY: as above.
            None => unsafe { mmap_anonymous(None, bytes, protection, MapFlags::MAP_PRIVATE) },
        };
        Ok(Self { start: start.context("mmap")?.cast(), bytes })
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: nothing borrows from the region any more: every borrow holds `&self`.
        let _ = unsafe { munmap(self.start.cast(), self.bytes.get()) };
    }
}

/// Ticks, histograms, the own record and the lease's page.
pub struct Shared {
    ticks: Region,
    histograms: Region,
    own: Region,
    page: Page,
    /// The dynamic flags that this process means the own record to have.
    wanted_flags: AtomicU8,
    /// Counters of the userspace responder; the kernel's own are per CPU in their map.
    counters: Vec<AtomicU64>,
    paths: u32,
}

/// Descriptors of the maps to be mapped.
pub struct MapFds<'a> {
    /// `TICKS`.
    pub ticks: BorrowedFd<'a>,
    /// `HISTOGRAMS`.
    pub histograms: BorrowedFd<'a>,
    /// `OWN`.
    pub own: BorrowedFd<'a>,
    /// `LEASE`.
    pub lease: BorrowedFd<'a>,
}

impl Shared {
    /// Maps the kernel's maps, or makes private memory of the same layout for `paths` paths without them.
    ///
    /// # Errors
    /// If mmap fails.
    pub fn new(maps: Option<&MapFds<'_>>, paths: u32) -> anyhow::Result<Self> {
        let entries = if maps.is_some() { PATHS_MAX as usize } else { paths.max(1) as usize };
        let ticks = Region::new(maps.map(|maps| maps.ticks), entries * size_of::<Tick<u64>>()).context("map TICKS")?;
        let histograms = Region::new(maps.map(|maps| maps.histograms), entries * size_of::<Histogram>())
            .context("map HISTOGRAMS")?;
        let own = Region::new(maps.map(|maps| maps.own), size_of::<Own>()).context("map OWN")?;
        let page = maps.map_or_else(Page::private, |maps| Page::of_map(maps.lease))?;
        let counters = Counter::ALL.iter().map(|_| AtomicU64::new(0)).collect();
        if paths > PATHS_MAX {
            bail!("{paths} paths are more than the {PATHS_MAX} that the maps hold");
        }
        Ok(Self { ticks, histograms, own, page, wanted_flags: AtomicU8::new(0), counters, paths })
    }

    /// Maps the own record alone, for a process that is not the controller.
    ///
    /// # Errors
    /// If mmap fails.
    pub fn of_own(fd: BorrowedFd<'_>) -> anyhow::Result<Self> {
        let own = Region::new(Some(fd), size_of::<Own>()).context("map OWN")?;
        let empty = || Region::new(None, 1);
        let (ticks, histograms, page) = (empty()?, empty()?, Page::private()?);
        let wanted_flags = AtomicU8::new(0);
        Ok(Self { ticks, histograms, own, page, wanted_flags, counters: Vec::new(), paths: 0 })
    }

    /// The lease's page.
    #[must_use]
    pub const fn page(&self) -> &Page {
        &self.page
    }

    /// Number of configured paths.
    #[must_use]
    pub fn paths(&self) -> u32 {
        self.paths
    }

    #[inline]
    fn tick_words(&self, path: u32) -> &[AtomicU64] {
        assert!(path < self.paths, "path {path} of {}", self.paths);
        // SAFETY: `path` is within the region; a tick is `TICK_WORDS` aligned words; `AtomicU64` has their layout.
        unsafe {
            let start = self.ticks.start.cast::<AtomicU64>().add(path as usize * TICK_WORDS);
            std::slice::from_raw_parts(start.as_ptr(), TICK_WORDS)
        }
    }

    /// Returns the lock of a path's tick. Equal to the lock of a copy that was made: nothing was written since.
    #[must_use]
    pub fn tick_lock(&self, path: u32) -> u64 {
        self.tick_words(path)[0].load(Ordering::Acquire)
    }

    /// Copies a path's tick, whole. `None` if a writer holds it just now: what was copied before is to be kept.
    #[must_use]
    // A caller that is optimised copies at its own speed: the test of torn copies takes 10^8 of them.
    #[inline]
    pub fn tick(&self, path: u32) -> Option<Tick<u64>> {
        let words = self.tick_words(path);
        let lock = &words[0];
        let mut copy = [0_u64; TICK_WORDS];
        for _ in 0..ATTEMPTS {
            let before = lock.load(Ordering::Acquire);
            if before & 1 == 0 {
                for (to, from) in copy.iter_mut().zip(words) {
                    *to = from.load(Ordering::Relaxed);
                }
                fence(Ordering::Acquire);
                if lock.load(Ordering::Relaxed) == before {
                    return Some(bytemuck::cast(copy));
                }
            }
            std::hint::spin_loop();
        }
        None
    }

    /// Runs `change` on a path's tick with its lock held, as the packet path does. `None` if the lock stays held.
    pub fn with_tick<R>(&self, path: u32, change: impl FnOnce(&Tick<Cell<u64>>) -> R) -> Option<R> {
        let words = self.tick_words(path);
        let lock = &words[0];
        for _ in 0..ATTEMPTS {
            let even = lock.load(Ordering::Relaxed) & !1;
            if lock.compare_exchange(even, even.wrapping_add(1), Ordering::SeqCst, Ordering::Relaxed).is_ok() {
                // The odd value before what is written under it, also where stores pass a compare-and-swap.
                fence(Ordering::Release);
                // SAFETY: the lock is held, so this is the only writer; `Cell<u64>` has the layout of `u64`.
                let result = change(unsafe { &*words.as_ptr().cast::<Tick<Cell<u64>>>() });
                // Only if it is still ours: one that stood for too long was taken for abandoned.
                let (held, free) = (even.wrapping_add(1), even.wrapping_add(2));
                if let Err(found) = lock.compare_exchange(held, free, Ordering::SeqCst, Ordering::Relaxed)
                    && found & 1 == 0
                {
                    // What was written is news all the same. If somebody holds the lock, its release will say so.
                    let news = found.wrapping_add(2);
                    let _ = lock.compare_exchange(found, news, Ordering::SeqCst, Ordering::Relaxed);
                }
                return Some(result);
            }
            std::hint::spin_loop();
        }
        None
    }

    /// Looks at a path's tick without its lock, for tests that are judged again under it.
    pub fn peek_tick<R>(&self, path: u32, look: impl FnOnce(&Tick<Cell<u64>>) -> R) -> R {
        let words = self.tick_words(path);
        // SAFETY: aligned words of the region; each is read once and may be stale, which the caller allows for.
        look(unsafe { &*words.as_ptr().cast::<Tick<Cell<u64>>>() })
    }

    /// Forgets what a path's tick holds: for a new incarnation of this node. Waits for the lock, and takes it from a
    /// writer that is gone; not for a thread that must be on time.
    pub fn clear_tick(&self, path: u32) {
        let words = self.tick_words(path);
        self.insist(path, |_| {
            for word in &words[1..] {
                word.store(0, Ordering::Relaxed);
            }
        });
    }

    /// Forgets the MAC states that the ticks keep: they were computed under the keys of an earlier run, and a key that
    /// was taken out of use must not live on in a pinned map. The next frame of each path computes them anew.
    pub fn forget_mac_states(&self) {
        for path in 0..self.paths {
            self.insist(path, |tick| {
                for cache in [&tick.theirs, &tick.mine] {
                    let words = [&cache.prober, &cache.responder, &cache.base].into_iter().chain(&cache.lanes);
                    words.for_each(|word| word.set(0));
                }
                tick.standing_digest.set(0);
                tick.standing_mark.set(0);
            });
        }
    }

    /// Runs `change` with a tick's lock held, however long that takes.
    fn insist(&self, path: u32, change: impl Fn(&Tick<Cell<u64>>)) {
        while self.with_tick(path, &change).is_none() {
            self.free_abandoned(path..path + 1);
        }
    }

    /// Frees every tick's lock that a killed controller left taken: the packet path would drop that path's frames for
    /// ever. Returns how many. For the start, while the lock of the pins keeps every other controller out.
    pub fn repair_locks(&self) -> usize {
        self.free_abandoned(0..self.paths)
    }

    /// Watches the locks of `paths` that are taken, and frees those that do not change.
    fn free_abandoned(&self, paths: std::ops::Range<u32>) -> usize {
        let value = |path: u32| self.tick_words(path)[0].load(Ordering::Acquire);
        let mut taken: Vec<(u32, u64)> =
            paths.map(|path| (path, value(path))).filter(|(_, lock)| lock & 1 == 1).collect();
        for _ in 0..ABANDONED_LOOKS {
            if taken.is_empty() {
                break;
            }
            std::thread::sleep(LOOK);
            taken.retain(|(path, lock)| value(*path) == *lock);
        }
        let free = |(path, lock): &&(u32, u64)| {
            let word = &self.tick_words(*path)[0];
            word.compare_exchange(*lock, lock.wrapping_add(FREED), Ordering::SeqCst, Ordering::Relaxed).is_ok()
        };
        taken.iter().filter(free).count()
    }

    /// Reads what a probe says of its path's peer: (its incarnation, its stamp to be returned, when its newest timely
    /// echo came). As long as none is proved, a greeting is word of one: where no echo gets through, two nodes learn each
    /// other's names from greetings alone. It may be an old one, replayed: what is proved is better. The words are not
    /// read as one; each stands for itself.
    #[must_use]
    pub fn peer_of(&self, path: u32) -> (u64, u64, u64) {
        let words = self.tick_words(path);
        let word = |offset: usize| words[offset / 8].load(Ordering::Relaxed);
        let known = word(std::mem::offset_of!(Tick<u64>, peer_incarnation));
        let greeting = word(std::mem::offset_of!(Tick<u64>, handshake_incarnation));
        let stamp = word(std::mem::offset_of!(Tick<u64>, peer_stamp));
        let echo_ns = word(std::mem::offset_of!(Tick<u64>, echo_ns));
        if known == 0 { (greeting, 0, echo_ns) } else { (known, stamp, echo_ns) }
    }

    fn histogram_words(&self, path: u32) -> &[AtomicU64] {
        assert!(path < self.paths, "path {path} of {}", self.paths);
        // SAFETY: as in `tick_words`.
        unsafe {
            let start = self.histograms.start.cast::<AtomicU64>().add(path as usize * BUCKETS);
            std::slice::from_raw_parts(start.as_ptr(), BUCKETS)
        }
    }

    /// Copies a path's round-trip histogram.
    #[must_use]
    pub fn histogram(&self, path: u32) -> Histogram {
        let mut buckets = [0; BUCKETS];
        for (to, from) in buckets.iter_mut().zip(self.histogram_words(path)) {
            *to = from.load(Ordering::Relaxed);
        }
        Histogram { buckets }
    }

    /// Counts a round trip that the userspace responder saw. The tick's lock is held.
    pub fn count_round_trip(&self, path: u32, ns: u64) {
        let bucket = &self.histogram_words(path)[heartbeat_common::maps::bucket(ns)];
        bucket.store(bucket.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    fn own_word(&self, offset: usize) -> &AtomicU64 {
        assert!(offset < size_of::<Own>());
        // SAFETY: an aligned word of the own record.
        unsafe { self.own.start.cast::<AtomicU64>().add(offset / 8).as_ref() }
    }

    /// Copies the own record.
    #[must_use]
    pub fn own(&self) -> Own {
        let mut words = [0_u64; size_of::<Own>() / 8];
        for (index, word) in words.iter_mut().enumerate() {
            *word = self.own_word(index * 8).load(Ordering::Acquire);
        }
        bytemuck::cast(words)
    }

    /// Writes the own record, `abi` last: a reader that sees it sees the rest.
    pub fn set_own(&self, own: &Own) {
        self.wanted_flags.store(own.flags as u8, Ordering::Release);
        let words: [u64; size_of::<Own>() / 8] = bytemuck::cast(*own);
        for (index, word) in words.iter().enumerate().skip(1) {
            self.own_word(index * 8).store(*word, Ordering::Release);
        }
        self.own_word(0).store(words[0], Ordering::Release);
    }

    /// Writes who this node is, and leaves alone what others write: progress and flags.
    pub fn set_identity(&self, own: &Own) {
        let words: [u64; size_of::<Own>() / 8] = bytemuck::cast(*own);
        let others = [std::mem::offset_of!(Own, progress_ns) / 8, std::mem::offset_of!(Own, flags) / 8];
        for (index, word) in words.iter().enumerate().filter(|(index, _)| !others.contains(index)) {
            self.own_word(index * 8).store(*word, Ordering::Release);
        }
    }

    /// Proves progress: the controller age counts from `now_ns`. Only the deciding loop calls this.
    pub fn set_progress(&self, now_ns: u64) {
        self.own_word(std::mem::offset_of!(Own, progress_ns)).store(now_ns, Ordering::Release);
    }

    /// Takes the date of the last progress away: no controller is there whose age could be told. For whoever gives up a
    /// node that has none any more.
    pub fn end_progress(&self) {
        self.set_progress(0);
    }

    /// Returns when progress was last proved.
    #[must_use]
    pub fn progress(&self) -> u64 {
        self.own_word(std::mem::offset_of!(Own, progress_ns)).load(Ordering::Acquire)
    }

    /// Sets the dynamic flags of every echo and probe.
    pub fn set_flags(&self, flags: u8) {
        self.wanted_flags.store(flags, Ordering::Release);
        self.own_word(std::mem::offset_of!(Own, flags)).store(u64::from(flags), Ordering::Release);
    }

    /// Takes some dynamic flags away and adds others, whoever else changes others at the same time.
    pub fn change_flags(&self, without: u8, with: u8) {
        let (keep, add) = (!without, with);
        let _ = self.wanted_flags.fetch_update(Ordering::AcqRel, Ordering::Acquire, |flags| Some(flags & keep | add));
        let word = self.own_word(std::mem::offset_of!(Own, flags));
        let changed = |flags: u64| Some(flags & u64::from(keep) | u64::from(add));
        let _ = word.fetch_update(Ordering::AcqRel, Ordering::Acquire, changed);
    }

    /// Returns the dynamic flags as this process set them, whatever others made of the record since.
    #[must_use]
    pub fn wanted_flags(&self) -> u8 {
        self.wanted_flags.load(Ordering::Acquire)
    }

    /// Returns the dynamic flags.
    #[must_use]
    pub fn flags(&self) -> u8 {
        self.own_word(std::mem::offset_of!(Own, flags)).load(Ordering::Acquire) as u8
    }

    /// Counts what the userspace responder did.
    pub fn count(&self, counter: Counter) {
        self.counters[counter as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Returns a counter of the userspace responder.
    #[must_use]
    pub fn counted(&self, counter: Counter) -> u64 {
        self.counters[counter as usize].load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared() -> Shared {
        Shared::new(None, 3).expect("private memory")
    }

    fn leave_taken(shared: &Shared, path: u32) {
        let lock = &shared.tick_words(path)[0];
        lock.store(lock.load(Ordering::Relaxed) | 1, Ordering::Relaxed);
    }

    #[test]
    fn a_lock_left_by_a_killed_writer_is_freed_and_no_other() {
        let shared = shared();
        assert_eq!(shared.repair_locks(), 0);
        shared.with_tick(1, |tick| tick.probes.set(7)).expect("a free lock");
        leave_taken(&shared, 1);
        assert_eq!(shared.tick(1), None);
        assert_eq!(shared.with_tick(1, |_| ()), None);
        assert_eq!(shared.repair_locks(), 1);
        assert_eq!(shared.tick(1).expect("a free lock").probes, 7);
        assert_eq!(shared.tick(1).expect("a free lock").lock, 3 + FREED);
        assert_eq!(shared.tick(0).expect("a free lock").lock, 0);
    }

    #[test]
    fn nobody_waits_for_a_lock_that_stays_taken() {
        let shared = shared();
        leave_taken(&shared, 1);
        let (told, answer) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| told.send([shared.tick(1).is_none(), shared.with_tick(1, |_| ()).is_none()]));
            let ended = answer.recv_timeout(Duration::from_secs(20));
            // Whoever waits all the same is let go: this is to fail, and not to hang.
            shared.repair_locks();
            assert_eq!(ended, Ok([true; 2]));
        });
    }

    #[test]
    fn a_lock_that_moves_is_not_taken_from_its_writer() {
        let shared = shared();
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // Always odd when looked at, but never for long the same.
                let lock = &shared.tick_words(2)[0];
                lock.store(1, Ordering::Relaxed);
                while !stop.load(Ordering::Relaxed) {
                    lock.fetch_add(2, Ordering::Relaxed);
                }
            });
            while shared.tick_words(2)[0].load(Ordering::Relaxed) == 0 {
                std::thread::yield_now();
            }
            let freed = shared.repair_locks();
            stop.store(true, Ordering::Relaxed);
            assert_eq!(freed, 0);
        });
    }

    #[test]
    fn a_writer_whose_lock_was_taken_away_still_says_that_it_wrote() {
        let shared = shared();
        let freed = shared.with_tick(0, |tick| {
            assert_eq!(shared.repair_locks(), 1, "it stood for too long");
            tick.probes.set(7);
            shared.tick_lock(0)
        });
        assert_ne!(Some(shared.tick_lock(0)), freed);
        assert_eq!(shared.tick(0).expect("a free lock").probes, 7);
    }

    #[test]
    fn a_tick_is_cleared_though_its_lock_was_left_taken() {
        let shared = shared();
        shared.with_tick(0, |tick| tick.peer_incarnation.set(9)).expect("a free lock");
        leave_taken(&shared, 0);
        shared.clear_tick(0);
        let tick = shared.tick(0).expect("a free lock");
        assert_eq!((tick.peer_incarnation, tick.lock & 1), (0, 0));
    }

    #[test]
    fn a_greeting_names_a_peer_of_which_nothing_is_proved() {
        let shared = shared();
        let told = |known, greeting| {
            shared.with_tick(1, |tick| {
                tick.peer_incarnation.set(known);
                tick.handshake_incarnation.set(greeting);
                tick.peer_stamp.set(77);
                tick.echo_ns.set(5);
            });
            shared.peer_of(1)
        };
        assert_eq!(told(8, 0), (8, 77, 5));
        assert_eq!(told(8, 9), (8, 77, 5), "a greeting may be an old one of a peer that lost its disk");
        assert_eq!(told(0, 9), (9, 0, 5));
    }

    #[test]
    fn mac_states_are_forgotten_and_facts_are_kept() {
        let shared = shared();
        let fill = |tick: &Tick<Cell<u64>>| {
            for cache in [&tick.theirs, &tick.mine] {
                cache.prober.set(1);
                cache.base.set(2);
                cache.lanes.iter().for_each(|lane| lane.set(3));
            }
            tick.standing_mark.set(4);
            tick.heard_ns.set(5);
        };
        shared.with_tick(2, fill).expect("a free lock");
        shared.forget_mac_states();
        let tick = shared.tick(2).expect("a free lock");
        assert_eq!((tick.theirs, tick.mine, tick.standing_mark), Default::default());
        assert_eq!(tick.heard_ns, 5);
    }

    #[test]
    fn flags_are_known_whatever_others_make_of_the_record() {
        let shared = shared();
        shared.set_own(&Own { flags: 8, ..Own::default() });
        assert_eq!(shared.wanted_flags(), 8);
        shared.change_flags(8, 64 | 128);
        assert_eq!((shared.flags(), shared.wanted_flags()), (192, 192));
        shared.own_word(std::mem::offset_of!(Own, flags)).store(16, Ordering::Relaxed);
        assert_eq!((shared.flags(), shared.wanted_flags()), (16, 192));
        shared.change_flags(64, 0);
        assert_eq!(shared.wanted_flags(), 128);
        shared.set_flags(4);
        assert_eq!((shared.flags(), shared.wanted_flags()), (4, 4));
    }

    #[test]
    fn a_new_identity_leaves_progress_alone() {
        let shared = shared();
        shared.set_own(&Own { abi: 1, incarnation: 3, generation: 4, ..Own::default() });
        shared.set_progress(77);
        shared.set_identity(&Own { incarnation: 5, generation: 1, progress_ns: 0, ..shared.own() });
        let own = shared.own();
        assert_eq!((own.abi, own.incarnation, own.generation, own.progress_ns), (1, 5, 1, 77));
    }
}

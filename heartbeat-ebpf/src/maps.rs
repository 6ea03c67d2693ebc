//! The maps, and typed access to them: each is named once, here. It holds no logic.

use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::btf_maps::{Array, HashMap, PerCpuArray};
use aya_ebpf::macros::btf_map;
use core::cell::Cell;
use core::intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xchg};
use heartbeat_common::counter::Counter;
use heartbeat_common::lease;
use heartbeat_common::maps::{CONFS_MAX, HINTS_MAX, Hint, Histogram, Own, PATHS_MAX, ROUTES_MAX, Route, RouteKey};
use heartbeat_common::path::PathConf;
use heartbeat_common::tick::Tick;

const MMAPABLE: usize = BPF_F_MMAPABLE as usize;
/// Attempts to raise a word that other CPUs raise at the same time.
const RAISES: u32 = 16;
const COUNTER_COUNT: usize = Counter::ALL.len();

#[btf_map]
static ROUTES: HashMap<RouteKey, Route, { ROUTES_MAX as usize }> = HashMap::new();
#[btf_map]
static HINTS: Array<Hint, { HINTS_MAX as usize }> = Array::new();
#[btf_map]
static CONFS: Array<PathConf, { CONFS_MAX as usize }> = Array::new();
#[btf_map]
static TICKS: Array<Tick<u64>, { PATHS_MAX as usize }, MMAPABLE> = Array::new();
#[btf_map]
static HISTOGRAMS: Array<Histogram, { PATHS_MAX as usize }, MMAPABLE> = Array::new();
#[btf_map]
static OWN: Array<Own, 1, MMAPABLE> = Array::new();
#[btf_map]
static COUNTERS: PerCpuArray<u64, COUNTER_COUNT> = PerCpuArray::new();
#[btf_map]
static LEASE: Array<[u64; lease::WORDS], 1, MMAPABLE> = Array::new();

/// Finds the index of a triple's path and its configuration: by the hint where that is right, else by the route table.
#[inline(always)]
pub fn route(key: &RouteKey) -> Result<(u32, &'static PathConf), Counter> {
    if let Some(hint) = HINTS.get(key.hint())
        && let Some(conf) = conf(hint.conf())
        && is_for(conf, key)
    {
        return Ok((conf.path, conf));
    }
    // SAFETY: an entry is replaced whole under RCU, which a program holds throughout; the copy is two words.
    let route = unsafe { ROUTES.get(key).copied() }.ok_or(Counter::DropUnlisted)?;
    Ok((route.path, conf(route.conf).ok_or(Counter::Internal)?))
}

/// Says whether a configuration is a triple's. What differs most often is compared first.
#[inline(always)]
fn is_for(conf: &PathConf, key: &RouteKey) -> bool {
    let found = &conf.key;
    found.source[1] == key.source[1]
        && found.destination[1] == key.destination[1]
        && found.ifindex == key.ifindex
        && found.source[0] == key.source[0]
        && found.destination[0] == key.destination[0]
}

/// Returns a path's configuration.
#[inline(always)]
fn conf(index: u32) -> Option<&'static PathConf> {
    CONFS.get(index).map(|conf| {
        // SAFETY: array entries live as long as the map, which outlives every run of the program.
        unsafe { &*core::ptr::from_ref(conf) }
    })
}

/// Returns a path's tick.
#[inline(always)]
pub fn tick(path: u32) -> Option<&'static Tick<Cell<u64>>> {
    let tick = TICKS.get_ptr_mut(path)?;
    // SAFETY: array entries live as long as the map; `Cell<u64>` has the layout of `u64`; writers hold its lock.
    Some(unsafe { &*tick.cast() })
}

/// Counts one round trip. The caller holds the lock of the path's tick, which serialises this as well.
#[inline(always)]
pub fn count_round_trip(path: u32, ns: u64) {
    if let Some(histogram) = HISTOGRAMS.get_ptr_mut(path) {
        let bucket = heartbeat_common::maps::bucket(ns);
        // SAFETY: `bucket` is below `BUCKETS`; no other writer is in, as the tick's lock is held.
        unsafe {
            let cell = (&raw mut (*histogram).buckets).cast::<u64>().add(bucket);
            *cell += 1;
        }
    }
}

/// Returns (when the controller last proved progress, the dynamic flags of every echo).
#[inline(always)]
pub fn own() -> (u64, u8) {
    match OWN.get_ptr(0) {
        // SAFETY: aligned words of a live entry; userspace writes each with one store.
        Some(own) => unsafe {
            ((&raw const (*own).progress_ns).read_volatile(), (&raw const (*own).flags).read_volatile() as u8)
        },
        None => (0, 0),
    }
}

/// The lease's page. Every access is one of a whole word.
pub struct Page(*mut u64);

impl lease::Words for Page {
    #[inline(always)]
    fn get(&self, index: usize) -> u64 {
        // SAFETY: an aligned word of a live entry, which has `WORDS` of them: the verifier sees to that as well.
        unsafe { self.0.add(index).read_volatile() }
    }
    #[inline(always)]
    fn set(&self, index: usize, value: u64) {
        // SAFETY: as above.
        unsafe { self.0.add(index).write_volatile(value) }
    }
    #[inline(always)]
    fn raise(&self, index: usize, value: u64) {
        let mut attempt = 0;
        while attempt < RAISES {
            let known = self.get(index);
            if known >= value {
                return;
            }
            // SAFETY: as above.
            let (_, raised) = unsafe {
                atomic_cxchg::<u64, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(
                    self.0.add(index),
                    known,
                    value,
                )
            };
            if raised {
                return;
            }
            attempt += 1;
        }
    }
    #[inline(always)]
    fn clear(&self, index: usize) {
        // SAFETY: as above.
        unsafe { atomic_xchg::<u64, { AtomicOrdering::SeqCst }>(self.0.add(index), 0) };
    }
}

/// Returns the lease's page.
#[inline(always)]
pub fn page() -> Option<Page> {
    LEASE.get_ptr_mut(0).map(|page| Page(page.cast()))
}

/// Counts one event on this CPU.
#[inline(always)]
pub fn count(counter: Counter) {
    if let Some(cell) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: the entry is this CPU's own, and the program is not preempted by itself.
        unsafe { *cell += 1 }
    }
}

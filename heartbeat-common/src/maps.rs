//! Names, sizes and small values of the shared maps. It holds layouts only.

/// Version of the map layout; part of the pin directory's name. Raise it with every change of a layout here.
pub const ABI: u32 = 2;
/// Most paths one node may have.
pub const PATHS_MAX: u32 = 1024;
/// Path configurations: two for each path, so that one is replaced while the other is read.
pub const CONFS_MAX: u32 = PATHS_MAX * 2;
/// Entries of the route table.
pub const ROUTES_MAX: u32 = PATHS_MAX * 2;
/// Entries of the hint table.
pub const HINTS_MAX: u32 = 1 << HINT_BITS;
const HINT_BITS: u32 = 12;
/// Buckets of a round-trip histogram: bucket `n` counts round trips of `2^n <= ns < 2^(n+1)`.
pub const BUCKETS: usize = 36;

/// Map of [`RouteKey`] to [`Route`].
pub const ROUTES: &str = "ROUTES";
/// Map of [`RouteKey::hint`] to [`Hint`].
pub const HINTS: &str = "HINTS";
/// Map of configuration index to [`crate::path::PathConf`]. It holds keys.
pub const CONFS: &str = "CONFS";
/// Map of path index to [`crate::tick::Tick`], mmapped by the controller.
pub const TICKS: &str = "TICKS";
/// Map of path index to [`Histogram`], mmapped by the controller.
pub const HISTOGRAMS: &str = "HISTOGRAMS";
/// One [`Own`], mmapped by the controller.
pub const OWN: &str = "OWN";
/// Per-CPU counters, by [`crate::counter::Counter`].
pub const COUNTERS: &str = "COUNTERS";
/// The one page of the lease ([`crate::lease`]), mmapped by the controller and by whoever acts on it.
pub const LEASE: &str = "LEASE";
/// Every map, in the order above.
pub const ALL: [&str; 8] = [ROUTES, HINTS, CONFS, TICKS, HISTOGRAMS, OWN, COUNTERS, LEASE];
/// The maps that are pinned and outlive a controller. No keys, but `TICKS` caches MAC states, which forge a tag of
/// their path as a key does: whoever may open the pins may do that, and a new controller clears the caches.
pub const PINNED: [&str; 5] = [TICKS, HISTOGRAMS, OWN, COUNTERS, LEASE];

/// Name of the XDP program.
pub const XDP_PROGRAM: &str = "heartbeat_xdp";
/// Name of the egress program that stamps departures.
pub const EGRESS_PROGRAM: &str = "heartbeat_egress";

/// The triple that a path is found by: interface, source and destination, as frames arrive.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct RouteKey {
    /// The peer's address, as [`crate::auth::AddressWords`].
    pub source: [u64; 2],
    /// This node's address.
    pub destination: [u64; 2],
    /// Index of the interface.
    pub ifindex: u32,
    /// Zero.
    pub zero: u32,
}

/// Where the route table leads.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct Route {
    /// Index of the path in `TICKS` and `HISTOGRAMS`.
    pub path: u32,
    /// Index of its configuration in `CONFS`.
    pub conf: u32,
}

/// Where a triple probably leads. A hint decides nothing: the configuration that it names must hold the triple, else the
/// route table is asked. A look-up there costs a sixth of the whole answer, which most frames are spared by this.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct Hint {
    /// Index of the configuration, plus one; 0: no hint.
    pub after_conf: u32,
}

impl Hint {
    /// Returns the hint at a configuration.
    #[must_use]
    pub const fn at(conf: u32) -> Self {
        Self { after_conf: conf.wrapping_add(1) }
    }

    /// Returns the index of the configuration; without a hint, one that lies outside of the table.
    #[inline(always)]
    #[must_use]
    pub const fn conf(self) -> u32 {
        self.after_conf.wrapping_sub(1)
    }
}

impl RouteKey {
    /// Returns the index in the hint table at which this triple's hint is kept. Triples may share one.
    #[inline(always)]
    #[must_use]
    pub const fn hint(&self) -> u32 {
        // Multiplied by 2^64 over the golden ratio, neighbouring addresses lie far apart (Fibonacci hashing). The other
        // factors keep source and destination from cancelling each other.
        let [a, b] = self.source;
        let [c, d] = self.destination;
        let folded = a ^ b ^ c.wrapping_mul(3) ^ d.wrapping_mul(5) ^ self.ifindex as u64;
        (folded.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - HINT_BITS)) as u32
    }
}

/// Round-trip histogram of one path.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct Histogram {
    /// Counts by power of two of the round trip in nanoseconds; the last bucket takes all above.
    pub buckets: [u64; BUCKETS],
}

/// What the controller tells its own kernel, and who wrote the maps.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct Own {
    /// [`ABI`], once the maps are filled in.
    pub abi: u64,
    /// When the deciding loop last proved progress, CLOCK_MONOTONIC ns; 0: never.
    pub progress_ns: u64,
    /// Dynamic flags that every echo carries (`frame::FLAG_*`, no kind).
    pub flags: u64,
    /// This node's incarnation.
    pub incarnation: u64,
    /// Generation of the controller that wrote this.
    pub generation: u64,
    /// First and second half of the boot id of the machine start that the maps belong to.
    pub boot: [u64; 2],
    /// Id of the state directory's contents (random, made with them): lost disk state is seen by it.
    pub state_id: u64,
    /// Digest of which path each index stands for: ticks of other paths are worth nothing.
    pub plan: u64,
}

/// Returns the bucket of a round trip.
#[inline(always)]
#[must_use]
pub const fn bucket(ns: u64) -> usize {
    // A binary search: BPF has no count-leading-zeros instruction.
    let mut value = ns;
    let mut bucket = 0;
    let mut shift = 32;
    while shift > 0 {
        if value >> shift != 0 {
            value >>= shift;
            bucket += shift;
        }
        shift /= 2;
    }
    if bucket >= BUCKETS { BUCKETS - 1 } else { bucket }
}

#[cfg(test)]
mod tests;

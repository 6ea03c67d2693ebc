//! The tick: the record that the packet path keeps of one path. Facts only; beliefs are userspace's.
//! Its methods change one tick whose lock the caller holds; locking is the caller's.
//!
//! `Tick<Cell<u64>>` is the map value as its writers see it, `Tick<u64>` a reader's copy: one layout.
//! Writers are serialised by `lock`, which is odd while one of them writes and rises by two with each write:
//! a reader copies until it has seen the same even value before and after.

use crate::frame::STANDING_WORDS;
use crate::replay::Window;
use core::cell::Cell;
use core::fmt;

/// Departures remembered, by the low bits of the sequence.
pub const DEPARTURES: usize = 8;

/// A MAC state kept for the pair of incarnations last seen, so that it need not be recomputed.
/// The lanes are as good as the key for this pair: `Debug` does not show them.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Cached<C> {
    /// The prober's incarnation; 0: nothing is cached.
    pub prober: C,
    /// The responder's incarnation as named.
    pub responder: C,
    /// First lane of the base that it continues: another key has another.
    pub base: C,
    /// The state's lanes.
    pub lanes: [C; 4],
}

/// A probe that left this host.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Departure<C> {
    /// Its sequence; 0: none.
    pub sequence: C,
    /// When the kernel saw it leave, CLOCK_MONOTONIC ns.
    pub ns: C,
}

/// What the packet path knows of one path. All times are this host's CLOCK_MONOTONIC ns; 0: never.
/// It holds what keys were worked into (`theirs`, `mine`, and the mark and digest of the standing), for which `Debug`
/// shows nothing.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Tick<C> {
    /// Sequence lock: odd while a writer is in.
    pub lock: C,
    /// Newest proof of life: an authentic probe, or an echo within its time, naming this incarnation.
    pub heard_ns: C,
    /// Newest incarnation of the peer proved; 0: none yet.
    pub peer_incarnation: C,
    /// When the newest probe of the peer came.
    pub probe_ns: C,
    /// Probe window: newest sequence.
    pub probe_top: C,
    /// Probe window: bits.
    pub probe_bits: C,
    /// When the newest echo within its time came.
    pub echo_ns: C,
    /// Echo window: newest sequence.
    pub echo_top: C,
    /// Echo window: bits.
    pub echo_bits: C,
    /// Round trip of the newest echo, late ones too.
    pub round_trip_ns: C,
    /// When a probe was last answered.
    pub answered_ns: C,
    /// Newest own receive stamp that a probe of the peer brought back: proof that echoes arrive.
    pub returned_ns: C,
    /// Newest receive stamp of the peer, the peer's clock: brought back by the next probe.
    pub peer_stamp: C,
    /// Dynamic word (age, hold, flags) of the newest frame that was no late echo.
    pub peer_dynamic: C,
    /// When that frame came.
    pub peer_dynamic_ns: C,
    /// Newest incarnation of this node that the peer knows, from its stale echo; 0: none.
    pub stale_newest: C,
    /// When a stale echo was last sent.
    pub stale_answered_ns: C,
    /// Handshake mark: incarnation of the newest probe answered that did not name this incarnation.
    pub handshake_incarnation: C,
    /// Handshake mark: its sequence.
    pub handshake_sequence: C,
    /// Authentic probes taken.
    pub probes: C,
    /// Echoes sent.
    pub answers: C,
    /// Echoes within their time.
    pub echoes: C,
    /// Echoes after their time.
    pub late_echoes: C,
    /// Own probes that left.
    pub departures: C,
    /// Standing of the peer, from the same frame or an earlier one with the same standing.
    pub standing: [C; STANDING_WORDS],
    /// Digest of `standing` under the key that `standing_mark` names.
    pub standing_digest: C,
    /// Names the key of `standing_digest`; 0: nothing cached.
    pub standing_mark: C,
    /// State of exchanges in which the peer is the prober.
    pub theirs: Cached<C>,
    /// State of exchanges in which this node is the prober.
    pub mine: Cached<C>,
    /// The newest departures.
    pub departed: [Departure<C>; DEPARTURES],
    /// When an authentic probe of an older incarnation of the peer came: while it does, the older has not stopped, or
    /// somebody replays it.
    pub older_heard_ns: C,
    /// When a fence of the peer's was last acknowledged.
    pub fence_answered_ns: C,
    /// Highest incarnation of the peer that it acknowledged to be fenced; 0: none.
    pub fence_acked: C,
    /// The incarnation of the peer that acknowledged it. The same one: its kernel obeyed. A newer one: it knows of it.
    pub fence_acked_by: C,
    /// [`crate::fence::GATED`], or 0.
    pub fence_acked_flags: C,
    /// When the acknowledgement came.
    pub fence_acked_ns: C,
}

impl<C: fmt::Debug> fmt::Debug for Cached<C> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Cached")
            .field("prober", &self.prober)
            .field("responder", &self.responder)
            .finish_non_exhaustive()
    }
}

impl<C: fmt::Debug> fmt::Debug for Tick<C> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Tick")
            .field("lock", &self.lock)
            .field("heard_ns", &self.heard_ns)
            .field("peer_incarnation", &self.peer_incarnation)
            .field("probe_ns", &self.probe_ns)
            .field("probe_top", &self.probe_top)
            .field("probe_bits", &self.probe_bits)
            .field("echo_ns", &self.echo_ns)
            .field("echo_top", &self.echo_top)
            .field("echo_bits", &self.echo_bits)
            .field("round_trip_ns", &self.round_trip_ns)
            .field("answered_ns", &self.answered_ns)
            .field("returned_ns", &self.returned_ns)
            .field("peer_stamp", &self.peer_stamp)
            .field("peer_dynamic", &self.peer_dynamic)
            .field("peer_dynamic_ns", &self.peer_dynamic_ns)
            .field("stale_newest", &self.stale_newest)
            .field("stale_answered_ns", &self.stale_answered_ns)
            .field("handshake_incarnation", &self.handshake_incarnation)
            .field("handshake_sequence", &self.handshake_sequence)
            .field("probes", &self.probes)
            .field("answers", &self.answers)
            .field("echoes", &self.echoes)
            .field("late_echoes", &self.late_echoes)
            .field("departures", &self.departures)
            .field("standing", &self.standing)
            .field("theirs", &self.theirs)
            .field("mine", &self.mine)
            .field("departed", &self.departed)
            .field("older_heard_ns", &self.older_heard_ns)
            .field("fence_answered_ns", &self.fence_answered_ns)
            .field("fence_acked", &self.fence_acked)
            .field("fence_acked_by", &self.fence_acked_by)
            .field("fence_acked_flags", &self.fence_acked_flags)
            .field("fence_acked_ns", &self.fence_acked_ns)
            .finish_non_exhaustive()
    }
}

#[cfg(feature = "user")]
#[allow(unsafe_code)]
mod pod {
    use super::Tick;
    // SAFETY: `repr(C)` and made of `u64` alone, so any bytes are a value and there is no padding.
    unsafe impl bytemuck::Zeroable for Tick<u64> {}
    // SAFETY: as above.
    unsafe impl bytemuck::Pod for Tick<u64> {}
}

/// Words in a tick.
pub const TICK_WORDS: usize = core::mem::size_of::<Tick<u64>>() / 8;

impl Tick<Cell<u64>> {
    /// Returns the window of the peer's probes.
    #[inline(always)]
    pub fn probe_window(&self) -> Window {
        Window { top: self.probe_top.get(), bits: self.probe_bits.get() }
    }

    /// Returns the window of the peer's echoes.
    #[inline(always)]
    pub fn echo_window(&self) -> Window {
        Window { top: self.echo_top.get(), bits: self.echo_bits.get() }
    }

    /// Records that own probe `sequence` left at `now`.
    #[inline(always)]
    pub fn depart(&self, sequence: u64, now: u64) {
        let slot = &self.departed[(sequence & (DEPARTURES as u64 - 1)) as usize];
        slot.sequence.set(sequence);
        slot.ns.set(now);
        self.departures.set(self.departures.get() + 1);
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::format;

    #[test]
    fn debug_shows_facts_and_no_keyed_state() {
        let secret = Cached { prober: 11, responder: 12, base: 7777, lanes: [7777; 4] };
        let tick = Tick::<u64> {
            heard_ns: 4242,
            standing_mark: 7777,
            standing_digest: 7777,
            theirs: secret,
            mine: secret,
            ..Tick::default()
        };
        let text = format!("{tick:?}");
        assert!(text.contains("heard_ns: 4242") && text.contains("prober: 11"), "{text}");
        assert!(!text.contains("7777"), "{text}");
    }
}

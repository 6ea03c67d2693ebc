//! What the packet path ought to know of one path, in plain fields. It holds facts and no rules.

use std::collections::BTreeSet;

/// Sequences taken, remembered one by one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taken(BTreeSet<u64>);

impl Taken {
    /// The newest one, 0 if none.
    #[must_use]
    pub fn newest(&self) -> u64 {
        self.0.last().copied().unwrap_or(0)
    }

    /// Says whether `sequence` is new and among the 64 up to the newest, or above it.
    #[must_use]
    pub fn may_take(&self, sequence: u64) -> bool {
        sequence != 0 && !self.0.contains(&sequence) && u128::from(sequence) + 64 > u128::from(self.newest())
    }

    /// Takes `sequence`.
    pub fn take(&mut self, sequence: u64) {
        self.0.insert(sequence);
        while self.0.len() > 64 {
            self.0.pop_first();
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// One bit for each of the 64 sequences down from the newest that was taken.
    #[must_use]
    pub fn bits(&self) -> u64 {
        let newest = self.newest();
        self.0
            .iter()
            .filter(|sequence| newest - **sequence < 64)
            .fold(0, |bits, sequence| bits | 1 << (newest - sequence))
    }
}

/// The facts of one path; times are ns of this host's clock, 0 never.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "each field is named and explained in `heartbeat_common::tick::Tick`")]
pub struct Facts {
    pub heard_ns: u64,
    pub peer_incarnation: u64,
    pub probe_ns: u64,
    pub probes_taken: Taken,
    pub echo_ns: u64,
    pub echoes_taken: Taken,
    pub round_trip_ns: u64,
    pub answered_ns: u64,
    pub returned_ns: u64,
    pub peer_stamp: u64,
    pub peer_dynamic: u64,
    pub peer_dynamic_ns: u64,
    pub stale_newest: u64,
    pub stale_answered_ns: u64,
    pub handshake: (u64, u64),
    pub probes: u64,
    pub answers: u64,
    pub echoes: u64,
    pub late_echoes: u64,
    pub departures: u64,
    pub standing: [u64; 7],
    /// By the low three bits of the sequence: (sequence, when it left).
    pub departed: [(u64, u64); 8],
    pub older_heard_ns: u64,
    pub fence_answered_ns: u64,
    /// Who was acknowledged to be fenced, by whom, whether gated, and when.
    pub fence_acked: (u64, u64, u64, u64),
    /// By power of two of the round trip.
    pub histogram: RoundTrips,
}

/// Round trips by power of two of their nanoseconds; the last place takes all above.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoundTrips(pub [u64; 36]);

impl Default for RoundTrips {
    fn default() -> Self {
        Self([0; 36])
    }
}

impl RoundTrips {
    /// Counts one.
    pub fn count(&mut self, ns: u64) {
        self.0[(ns.max(1).ilog2() as usize).min(35)] += 1;
    }
}

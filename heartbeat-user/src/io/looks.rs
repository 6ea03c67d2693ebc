//! What the deciding thread last copied of each path. It copies again only what was written since, and says which paths
//! that is; it judges nothing.

use crate::core::path::{Attempt, PathInput};
use crate::io::memory::Shared;
use crate::io::pacer::{ATTEMPTS, PacerRecord};
use crate::io::paths::Use;
use heartbeat_common::tick::Tick;

/// One path.
#[derive(Clone, Default)]
pub struct Look {
    tick: Tick<u64>,
    attempts: [Attempt; ATTEMPTS],
    used: Use,
    /// Marks of what was copied.
    marks: Marks,
    changed: bool,
}

/// What moves when something is written. Each is read before what it stands for: what is written meanwhile is found at
/// the next look.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Marks {
    /// The tick's lock at the copy; `None`: not copied yet.
    lock: Option<u64>,
    /// Departures that no program stamped.
    departures: u64,
    /// The newest attempt.
    attempt: u64,
}

impl Look {
    /// Copies what was written on path `index` since the last look.
    pub fn refresh(&mut self, index: usize, shared: &Shared, record: &PacerRecord, used: Use) {
        let marks = Marks {
            lock: Some(shared.tick_lock(index as u32)),
            departures: record.departures(index),
            attempt: record.newest_attempt(index),
        };
        self.changed = marks != self.marks || used != self.used;
        self.used = used;
        if marks.attempt != self.marks.attempt {
            self.attempts = record.attempts(index);
            self.marks.attempt = marks.attempt;
        }
        if (marks.lock, marks.departures) != (self.marks.lock, self.marks.departures)
            && let Some(mut tick) = shared.tick(index as u32)
        {
            // The lock as it was when this copy was whole.
            self.marks.lock = Some(tick.lock);
            self.marks.departures = marks.departures;
            record.merge_departures(index, &mut tick);
            self.tick = tick;
        }
    }

    /// The tick as last copied.
    #[must_use]
    pub const fn tick(&self) -> &Tick<u64> {
        &self.tick
    }

    /// Number of the newest probe that the pacing thread tried to send; 0: none yet.
    #[must_use]
    pub const fn newest_attempt(&self) -> u64 {
        self.marks.attempt
    }

    /// What the path was good for.
    #[must_use]
    pub const fn used(&self) -> Use {
        self.used
    }

    /// What the core is to judge by.
    #[must_use]
    pub const fn input(&self) -> PathInput<'_> {
        let Use { usable, mute, in_kernel } = self.used;
        let Self { tick, attempts, changed, .. } = self;
        PathInput { tick, attempts, usable, mute, answers_in_kernel: in_kernel, changed: *changed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use heartbeat_common::tick::DEPARTURES;

    const USED: Use = Use { usable: true, mute: false, in_kernel: true };

    struct Rig {
        shared: Shared,
        record: PacerRecord,
        look: Look,
    }

    impl Rig {
        /// A path that was looked at once.
        fn new() -> Self {
            let (shared, record) = (Shared::new(None, 2).unwrap(), PacerRecord::new(2));
            let mut rig = Self { shared, record, look: Look::default() };
            assert!(rig.news(USED), "the first look finds everything new");
            assert!(!rig.news(USED));
            rig
        }

        fn news(&mut self, used: Use) -> bool {
            self.look.refresh(1, &self.shared, &self.record, used);
            self.look.input().changed
        }
    }

    #[test]
    fn whatever_is_written_is_found_by_the_next_look_and_by_that_alone() {
        let mut rig = Rig::new();
        rig.shared.with_tick(1, |tick| tick.heard_ns.set(5)).unwrap();
        assert!(rig.news(USED) && rig.look.tick().heard_ns == 5);
        assert!(!rig.news(USED));
        rig.record.note_attempt(1, 14, 70);
        assert!(rig.news(USED) && rig.look.input().attempts.contains(&Attempt { sequence: 14, ns: 70 }));
        assert!(!rig.news(USED));
        assert!(rig.news(Use { mute: true, ..USED }) && rig.look.input().mute);
        assert!(!rig.news(Use { mute: true, ..USED }));
    }

    #[test]
    fn what_is_written_on_another_path_is_no_news() {
        let mut rig = Rig::new();
        rig.shared.with_tick(0, |tick| tick.heard_ns.set(5)).unwrap();
        rig.record.note_attempt(0, 14, 70);
        rig.record.note_departure(0, 14, 71);
        assert!(!rig.news(USED));
    }

    #[test]
    fn departures_of_both_kinds_are_counted_once() {
        let mut rig = Rig::new();
        rig.shared.with_tick(1, |tick| tick.departures.set(3)).unwrap();
        for sequence in [14, 16] {
            rig.record.note_departure(1, sequence, 71);
            assert!(rig.news(USED));
            assert_eq!(rig.look.tick().departed[sequence as usize % DEPARTURES].sequence, sequence);
            assert!(!rig.news(USED));
        }
        assert_eq!(rig.look.tick().departures, 5);
        rig.shared.with_tick(1, |tick| tick.departures.set(4)).unwrap();
        assert!(rig.news(USED));
        assert_eq!(rig.look.tick().departures, 6);
    }

    #[test]
    fn a_tick_that_a_writer_holds_is_looked_at_again() {
        let mut rig = Rig::new();
        let shared = &rig.shared;
        shared.with_tick(1, |tick| {
            tick.heard_ns.set(5);
            // Within the lock: nothing whole can be had.
            rig.look.refresh(1, shared, &rig.record, USED);
        });
        assert!(rig.look.input().changed && rig.look.tick().heard_ns == 0, "what was copied before is kept");
        assert!(rig.news(USED) && rig.look.tick().heard_ns == 5);
        assert!(!rig.news(USED));
    }
}

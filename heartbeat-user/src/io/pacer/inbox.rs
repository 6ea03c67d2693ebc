//! What the pacing thread is told: bursts by words that need no lock, the rest by a queue whose lock it only tries.

use super::{COMMANDS_MAX, MARK_WORDS, Marks, PacerCommand};
use heartbeat_common::maps::PATHS_MAX;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Where the pacing thread finds what it is told.
pub(super) struct Inbox {
    /// Paths to be probed at once.
    pub(super) bursts: [AtomicU64; MARK_WORDS],
    /// To end.
    pub(super) stop: AtomicBool,
    /// The rest. The pacing thread only tries this lock; who held it then wakes the thread again after.
    pub(super) queue: Mutex<Queue>,
}

/// Commands, and those obeyed, which hold the memory that the thread no longer needs.
pub(super) struct Queue {
    pub(super) waiting: VecDeque<PacerCommand>,
    pub(super) obeyed: Vec<PacerCommand>,
}

impl Inbox {
    pub(super) fn new() -> Self {
        Self {
            bursts: std::array::from_fn(|_| AtomicU64::new(0)),
            stop: AtomicBool::new(false),
            queue: Mutex::new(Queue {
                waiting: VecDeque::with_capacity(COMMANDS_MAX),
                obeyed: Vec::with_capacity(COMMANDS_MAX),
            }),
        }
    }

    /// Leaves a command. What was obeyed before is freed here, on the caller's thread.
    pub(super) fn put(&self, command: PacerCommand) -> bool {
        if let PacerCommand::Burst(paths) = &command {
            for path in paths.iter().filter(|path| **path < PATHS_MAX) {
                self.bursts[*path as usize / 64].fetch_or(1 << (path % 64), Ordering::AcqRel);
            }
            return true;
        }
        let mut freed = Vec::with_capacity(COMMANDS_MAX);
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut queue.obeyed, &mut freed);
        let room = queue.waiting.len() < COMMANDS_MAX;
        if room {
            queue.waiting.push_back(command);
        }
        drop(queue);
        room
    }

    /// Takes the paths to be probed at once; `None`: none.
    pub(super) fn take_bursts(&self) -> Option<Marks> {
        let marks: Marks = std::array::from_fn(|word| self.bursts[word].swap(0, Ordering::AcqRel));
        marks.iter().any(|word| *word != 0).then_some(marks)
    }
}

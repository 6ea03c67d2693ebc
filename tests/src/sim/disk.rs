//! The disk of one node: what survives the process and the machine, and in which steps it gets there. It fails, hangs
//! and forgets as it was told; what it holds goes through the bytes of the shipping form at each start.

use heartbeat_common::lease::Remembered;
use heartbeat_user::core::agreement::voter::State;
use heartbeat_user::core::identity;
use heartbeat_user::core::ids::NodeId;
use heartbeat_user::io::disk::{self, Lost, Owner};

/// How far a write is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The new file is being written: a crash leaves the old one.
    File,
    /// It was renamed, and the directory is not flushed yet: a crash leaves either.
    Renamed,
}

/// A write under way.
#[derive(Clone, Debug)]
pub struct Write {
    /// What is written.
    pub state: Box<State>,
    /// How far it is.
    pub step: Step,
}

/// What a write led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The next step comes.
    Goes,
    /// It is on disk.
    Durable(u64),
    /// The disk said no.
    Failed(u64),
}

/// What a start finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    Absent,
    /// A state that is whole.
    Whole(Box<State>),
    /// Something that is none: it was set aside.
    Lost(Lost),
}

/// The state directory.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    /// The agreement's file.
    pub agreement: Option<Box<State>>,
    /// Earlier contents of it, as a backup would have them: the newest last.
    pub copies: Vec<Box<State>>,
    /// The identity's file.
    pub identity: Option<identity::Disk>,
    /// The write under way.
    pub writing: Option<Write>,
    /// The write that comes after it.
    pub queued: Option<Box<State>>,
    /// The next write fails.
    pub fails: bool,
    /// The next write fails in its last step, and its file is there all the same.
    pub fails_late: bool,
    /// Until when nothing gets on, true time.
    pub hangs_until: u64,
    /// The file is an older one than the page remembers.
    pub older: bool,
    /// The file will be found cut off, or with one bit changed: where, as it was drawn.
    pub damage: Option<u64>,
}

/// Copies kept.
const COPIES: usize = 8;

impl Disk {
    /// Takes an order to write. Says whether it begins now.
    pub fn order(&mut self, state: Box<State>) -> bool {
        if self.writing.is_some() {
            self.queued = Some(state);
            return false;
        }
        self.writing = Some(Write { state, step: Step::File });
        true
    }

    /// Takes the write under way one step further. Returns what that led to, if anything is under way.
    pub fn advance(&mut self) -> Option<Outcome> {
        let write = self.writing.as_mut()?;
        if write.step == Step::File && !self.fails {
            write.step = Step::Renamed;
            return Some(Outcome::Goes);
        }
        let (failed, late) = (std::mem::take(&mut self.fails), std::mem::take(&mut self.fails_late));
        let write = self.writing.take()?;
        let sequence = write.state.sequence;
        if failed {
            return Some(Outcome::Failed(sequence));
        }
        self.keep(write.state);
        Some(if late { Outcome::Failed(sequence) } else { Outcome::Durable(sequence) })
    }

    /// Begins the write that waited; false: none did.
    pub fn begin_next(&mut self) -> bool {
        self.writing = self.queued.take().map(|state| Write { state, step: Step::File });
        self.writing.is_some()
    }

    fn keep(&mut self, state: Box<State>) {
        if let Some(old) = self.agreement.replace(state) {
            if self.copies.len() == COPIES {
                self.copies.remove(0);
            }
            self.copies.push(old);
        }
    }

    /// The process ends: what it handed to the kernel is completed all the same, what it had not is gone. `completes`
    /// says how a write in its last step ends; a machine that falls may lose it.
    pub fn crash(&mut self, completes: bool) {
        self.queued = None;
        if let Some(write) = self.writing.take()
            && write.step == Step::Renamed
            && completes
        {
            self.keep(write.state);
        }
    }

    /// Reads the agreement's file at a start, through its bytes: whatever the reader finds wrong is a disk that was
    /// tampered with. It is held against what the page remembers.
    #[must_use]
    pub fn read(&mut self, owner: Owner, remembered: Remembered) -> Found {
        self.older = false;
        let Some(kept) = &self.agreement else {
            let sequence = remembered.sequence;
            return if sequence == 0 { Found::Absent } else { Found::Lost(Lost::Gone(sequence)) };
        };
        let mut bytes = disk::encode(owner, kept);
        if let Some(draw) = self.damage.take() {
            let at = draw as usize % bytes.len();
            if draw >> 63 == 0 {
                bytes.truncate(at);
            } else {
                bytes[at] ^= 1 << (draw >> 32 & 7);
            }
        }
        match disk::decode(owner, remembered, &bytes) {
            Ok(state) => {
                assert_eq!(state, **kept, "a state is what was written");
                Found::Whole(Box::new(state))
            }
            Err(lost) => {
                self.agreement = None;
                Found::Lost(lost)
            }
        }
    }

    /// Returns the highest incarnation of a node that the view on this disk ever admitted; 0: none.
    #[must_use]
    pub fn admitted(&self, node: NodeId) -> u64 {
        self.agreement.as_ref().map_or(0, |state| state.installed.admitted_of(node))
    }

    /// Says whether what it holds will be a vote at the next start too.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        !self.fails && !self.fails_late && !self.older && self.damage.is_none()
    }

    /// Everything is gone.
    pub fn lose(&mut self) {
        *self = Self::default();
    }

    /// Puts an older state back, as from a backup: the `back`th before the present one, or the oldest known. Says whether
    /// there is one.
    pub fn put_back(&mut self, back: usize) -> bool {
        let at = self.copies.len().saturating_sub(back.max(1));
        let older = self.copies.get(at).cloned();
        let found = older.is_some();
        if found {
            self.agreement = older;
            self.copies.truncate(at);
            self.older = true;
        }
        found
    }
}

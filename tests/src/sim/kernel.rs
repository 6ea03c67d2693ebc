//! The kernel of one played machine: what the packet path keeps, and what it does with a frame, by the source that ships.
//! It runs whatever becomes of the daemon, and knows the time that it is told.

use super::net::Frame;
use super::node::Say;
use super::plan;
use heartbeat_common::auth;
use heartbeat_common::counter::Counter;
use heartbeat_common::exchange::{self, Outcome};
use heartbeat_common::fence;
use heartbeat_common::frame;
use heartbeat_common::lease;
use heartbeat_common::path::PathConf;
use heartbeat_common::tick::{TICK_WORDS, Tick};
use heartbeat_user::keys::{self, PathSpec};
use std::cell::Cell;

/// The lease's page, in memory.
#[derive(Clone, Debug)]
pub struct Page(Box<[Cell<u64>; lease::WORDS]>);

impl Default for Page {
    fn default() -> Self {
        Self(Box::new([const { Cell::new(0) }; lease::WORDS]))
    }
}

impl lease::Words for Page {
    #[inline(always)]
    fn get(&self, index: usize) -> u64 {
        self.0[index].get()
    }
    #[inline(always)]
    fn set(&self, index: usize, value: u64) {
        self.0[index].set(value);
    }
}

/// What outlives a daemon.
#[derive(Clone, Debug, Default)]
pub struct Kernel {
    /// A program is attached: frames are taken and answered.
    pub attached: bool,
    /// A tick for each path.
    pub ticks: Vec<Tick<Cell<u64>>>,
    /// What each path was told to be.
    confs: Vec<PathConf>,
    /// The lease's page.
    pub page: Page,
    /// When the deciding loop last proved progress, CLOCK_MONOTONIC ns.
    pub progress_ns: u64,
    /// Dynamic flags that every frame carries.
    pub flags: u8,
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// As what it was counted.
    pub counter: Counter,
    /// An answer was written over it.
    pub answers: bool,
}

impl Kernel {
    /// Makes a machine's kernel as it is after its start, for `paths` paths.
    #[must_use]
    pub fn new(paths: usize) -> Self {
        Self { ticks: (0..paths).map(|_| Tick::default()).collect(), ..Self::default() }
    }

    /// Takes every program off and forgets what was heard, as a start under a new incarnation does.
    pub fn renew(&mut self) {
        self.attached = false;
        self.flags = 0;
        self.confs.clear();
        self.ticks.iter_mut().for_each(|tick| *tick = Tick::default());
    }

    /// Tells it of a path, in the order of paths at first, and what to say on it.
    pub fn tell(&mut self, path: usize, spec: &PathSpec, say: &Say, slot: usize) {
        let conf = keys::path_conf(plan::ring(), spec, &say.words);
        let conf = PathConf { grant_mark: say.mark, vote_slot: slot as u32, ..conf };
        match self.confs.get_mut(path) {
            Some(place) => *place = conf,
            None => self.confs.push(conf),
        }
    }

    /// Tells it what to say on a path that it knows.
    pub fn restand(&mut self, path: usize, say: &Say) {
        let conf = &mut self.confs[path];
        // What is derived from keys alone stays; of what follows from the standing, the sum is of no use here.
        conf.standing = say.words;
        conf.grant_mark = say.mark;
        let slot = &mut conf.slots[0];
        slot.own_digest = auth::standing_digest(slot.own_standing_key, &say.words);
    }

    /// Takes a frame that came on a path at `now` (CLOCK_MONOTONIC); an answer is written over it.
    pub fn take(&self, path: usize, frame: &mut Frame, now: u64) -> Taken {
        let dropped = |counter| Taken { counter, answers: false };
        let (Some(conf), true) = (self.confs.get(path), self.attached) else { return dropped(Counter::DropUnlisted) };
        let tick = &self.ticks[path];
        let good = match exchange::authenticate(frame, conf, tick) {
            Ok(good) => good,
            Err(Counter::DropReserved) if fence::is_fence(frame) => return self.take_fence(path, frame, now),
            Err(counter) => return dropped(counter),
        };
        let outcome = exchange::record(frame, &good, conf, tick, &self.page, now);
        self.written(path);
        match outcome {
            Ok(Outcome::Answer(answer)) => {
                let age = frame::age_since(self.progress_ns, now);
                exchange::write_echo(frame, &good, conf, &self.page, answer, now, age, 0, self.flags);
                Taken { counter: answer.counter, answers: true }
            }
            Ok(Outcome::Taken(counter, _)) | Err(counter) => dropped(counter),
        }
    }

    fn take_fence(&self, path: usize, frame: &mut Frame, now: u64) -> Taken {
        let conf = &self.confs[path];
        let taken = fence::authenticate(frame, conf, &self.page)
            .and_then(|good| fence::record(frame, &good, conf, &self.ticks[path], &self.page, now));
        self.written(path);
        let counter = match taken {
            Ok(counter) | Err(counter) => counter,
        };
        let answers = matches!(taken, Ok(Counter::Fenced | Counter::FenceAcked));
        if answers {
            fence::write_ack(frame, conf);
        }
        Taken { counter, answers }
    }

    /// A probe left on a path.
    pub fn depart(&self, path: usize, sequence: u64, now: u64) {
        self.ticks[path].depart(sequence, now);
        self.written(path);
    }

    /// As the sequence lock of a tick shows to readers that it was written.
    fn written(&self, path: usize) {
        let lock = &self.ticks[path].lock;
        lock.set(lock.get() + 2);
    }

    /// Copies a tick as the controller reads it.
    pub fn copy_tick(&self, path: usize, into: &mut Tick<u64>) {
        let from: &[u64; TICK_WORDS] = {
            let tick: *const Tick<Cell<u64>> = &self.ticks[path];
            // SAFETY: a tick is `repr(C)` and made of words alone (`Pod` for `u64`), a `Cell<u64>` has the layout of a
            // `u64`, and nobody writes while this shared borrow of a single-threaded world lasts.
            unsafe { &*tick.cast() }
        };
        bytemuck::cast_mut::<Tick<u64>, [u64; TICK_WORDS]>(into).copy_from_slice(from);
    }
}

//! What a peer last said of itself, summed up over its paths. It judges nothing.

use heartbeat_common::frame::{self, word};
use heartbeat_common::tick::Tick;
use std::time::Duration;

/// What a peer's newest frame says of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Said {
    pub(super) at: u64,
    pub(super) dynamic: u64,
    pub(super) incarnation: u64,
    pub(super) generation: u32,
    pub(super) heard: u64,
    /// When the newest frame came that names its settings, and their hash; 0: not known.
    pub(super) settings: (u64, u64),
}

impl Said {
    /// Takes in the tick of one more path. A path may not have heard of the newest incarnation yet: what an older one
    /// says there is neither life nor a word of the newest.
    pub(crate) fn add(&mut self, tick: &Tick<u64>) {
        if tick.peer_incarnation < self.incarnation {
            return;
        }
        if tick.peer_incarnation > self.incarnation {
            *self = Self { incarnation: tick.peer_incarnation, ..Self::default() };
        }
        if tick.peer_dynamic_ns > self.at {
            (self.at, self.dynamic) = (tick.peer_dynamic_ns, tick.peer_dynamic);
        }
        self.heard = self.heard.max(tick.heard_ns);
        // The standing's words by their place in it.
        const GENERATION: usize = word::IDENTITY - word::STANDING;
        const SETTINGS: usize = word::SETTINGS - word::STANDING;
        if tick.standing[0] == self.incarnation && self.incarnation != 0 {
            self.generation = self.generation.max(tick.standing[GENERATION] as u32);
            self.settings = self.settings.max((tick.peer_dynamic_ns, tick.standing[SETTINGS]));
        }
    }

    pub(super) const fn flags(&self) -> u8 {
        frame::flags(self.dynamic)
    }

    pub(super) const fn left(&self) -> bool {
        self.at != 0 && self.flags() & (frame::FLAG_LEAVING | frame::FLAG_STOPPED | frame::FLAG_FENCED) != 0
    }

    /// Says that its service manager gave up starting its controller: it leaves, or has stopped, and its kernel knows of
    /// no progress that a controller ever made. Whoever leaves by itself has a controller for it; whoever gives a node up
    /// takes the date of the last progress out of its record (`heartbeatd mark-left`). An age that does not fit, after
    /// five hours, looks the same: so old it is as bad an end.
    pub(super) const fn gave_up(&self) -> bool {
        let leaves = self.flags() & (frame::FLAG_LEAVING | frame::FLAG_STOPPED) != 0;
        self.at != 0 && leaves && frame::age_ns(self.dynamic).is_none()
    }

    pub(super) fn age(&self) -> Option<Duration> {
        if self.at == 0 { None } else { frame::age_ns(self.dynamic).map(Duration::from_nanos) }
    }
}

//! Events and commands that wait to be taken. It holds a bounded number of them and loses the newest by count.

use super::Command;
use crate::core::event::{Event, EventBody};
use crate::core::time::MonoTime;
use std::collections::VecDeque;

/// Events held at most. One observation raises at most a handful for each path, and the owner takes them after each.
pub(super) const EVENTS_MAX: usize = 16_384;

#[derive(Clone, Debug, Default)]
pub(super) struct Outbox {
    events: VecDeque<Event>,
    commands: VecDeque<Command>,
    dropped: u64,
}

impl Outbox {
    pub(super) fn event(&mut self, at: MonoTime, noticed: MonoTime, body: EventBody) {
        if self.events.len() >= EVENTS_MAX {
            self.dropped = self.dropped.saturating_add(1);
        } else {
            self.events.push_back(Event { at, noticed, body });
        }
    }

    /// Asks for something that was not asked for already: commands so wait at most once for each node and path.
    pub(super) fn ask(&mut self, command: Command) {
        if !self.commands.contains(&command) {
            self.commands.push_back(command);
        }
    }

    pub(super) fn command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    pub(super) fn next_event(&mut self, now: MonoTime) -> Option<Event> {
        self.events.pop_front().or_else(|| {
            let count = std::mem::take(&mut self.dropped);
            (count > 0).then_some(Event { at: now, noticed: now, body: EventBody::EventsDropped { count } })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_counted_and_said() {
        let mut outbox = Outbox::default();
        let body = EventBody::Isolated { peers: 1 };
        for n in 0..EVENTS_MAX as u64 + 3 {
            outbox.event(MonoTime(n), MonoTime(n), body.clone());
        }
        let taken = std::iter::from_fn(|| outbox.next_event(MonoTime(9))).collect::<Vec<_>>();
        assert_eq!(taken.len(), EVENTS_MAX + 1);
        assert_eq!(taken.last().unwrap().body, EventBody::EventsDropped { count: 3 });
    }

    #[test]
    fn a_waiting_command_is_not_doubled() {
        let mut outbox = Outbox::default();
        outbox.ask(Command::Reincarnate { above: 4 });
        outbox.ask(Command::Reincarnate { above: 4 });
        outbox.ask(Command::Reincarnate { above: 5 });
        assert_eq!(outbox.command(), Some(Command::Reincarnate { above: 4 }));
        assert_eq!(outbox.command(), Some(Command::Reincarnate { above: 5 }));
        assert_eq!(outbox.command(), None);
    }
}

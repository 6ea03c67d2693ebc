//! What happens next: events by true time, and by the order in which they were foreseen where that is equal. It knows
//! nothing of what they mean.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A thread of a node's daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Thread {
    /// Sends probes.
    Pacer,
    /// Runs the core.
    Decider,
    /// Talks to the other controllers.
    Link,
    /// Writes the state.
    Disk,
    /// Tells the kernel what changes rarely.
    Keeper,
}

/// Threads of a daemon.
pub const THREADS: usize = 5;

/// Something that happens. Nodes are given by their place among all; `life` says which process or machine start it is
/// for, and is compared when it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A frame reaches a node.
    Frame(u32),
    /// A thread of this process is due.
    Wake(u8, Thread, u32),
    /// A burst that was asked for leaves.
    Burst(u8, u8, u32),
    /// A pacing thread that stopped between reading the stamp and reading the grant goes on.
    Sign(u8, u32, u32),
    /// A write has come to its next step.
    Disk(u8, u32),
    /// A message reaches the end of its connection: from, to.
    Message(u8, u8),
    /// A pair tries to connect.
    Connect(u8, u8),
    /// What runs under the lease looks at the page, or has stopped.
    Service(u8, u32),
    /// A daemon starts.
    Start(u8, u32),
    /// The programs of a daemon that ended are taken off.
    Detach(u8, u32),
    /// A fault begins or ends.
    Fault(u32),
    /// The next fault is drawn, by class.
    Draw(u8),
    /// A step of a directed test is due.
    Script(u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    time: u64,
    serial: u64,
    /// It waits for the end of a fault.
    held: bool,
    event: Event,
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.time, self.serial).cmp(&(other.time, other.serial))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// Events to come.
#[derive(Clone, Debug, Default)]
pub struct Heap {
    entries: BinaryHeap<Reverse<Entry>>,
    serial: u64,
}

impl Heap {
    /// Foresees an event.
    pub fn at(&mut self, time: u64, event: Event) {
        self.push(time, false, event);
    }

    /// Foresees an event that was due, and waits for the end of a fault.
    pub fn hold(&mut self, until: u64, event: Event) {
        self.push(until, true, event);
    }

    fn push(&mut self, time: u64, held: bool, event: Event) {
        self.serial += 1;
        self.entries.push(Reverse(Entry { time, serial: self.serial, held, event }));
    }

    /// Has all that waits for the end of a fault happen at `now`.
    pub fn release(&mut self, now: u64) {
        let entries = std::mem::take(&mut self.entries).into_iter();
        let due = |entry: Entry| Entry { time: if entry.held { entry.time.min(now) } else { entry.time }, ..entry };
        self.entries = entries.map(|Reverse(entry)| Reverse(due(entry))).collect();
    }

    /// Takes the next one that happens not after `end`.
    pub fn next(&mut self, end: u64) -> Option<(u64, Event)> {
        if self.entries.peek()?.0.time > end {
            return None;
        }
        self.entries.pop().map(|Reverse(entry)| (entry.time, entry.event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_comes_first_and_then_the_order_of_foresight() {
        let mut heap = Heap::default();
        for (time, fault) in [(5, 1), (3, 2), (5, 3), (9, 4)] {
            heap.at(time, Event::Fault(fault));
        }
        let taken: Vec<_> = std::iter::from_fn(|| heap.next(8)).collect();
        assert_eq!(taken, [(3, Event::Fault(2)), (5, Event::Fault(1)), (5, Event::Fault(3))]);
        assert_eq!(heap.next(9), Some((9, Event::Fault(4))));
    }

    #[test]
    fn what_is_held_comes_with_the_end_of_the_fault() {
        let mut heap = Heap::default();
        heap.hold(9, Event::Fault(1));
        heap.at(8, Event::Fault(2));
        heap.hold(7, Event::Fault(3));
        heap.release(4);
        let taken: Vec<_> = std::iter::from_fn(|| heap.next(9)).collect();
        assert_eq!(taken, [(4, Event::Fault(1)), (4, Event::Fault(3)), (8, Event::Fault(2))]);
    }
}

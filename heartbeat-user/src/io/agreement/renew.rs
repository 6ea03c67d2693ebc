//! A newer incarnation of a node that is no member: its part in the agreement begins anew, on the same disk state. What was
//! to be written is waited for first, so that nothing is answered under the new one that the disk does not hold.
//!
//! A member that is outrun does not come here: it ends, and what it ran with it, before anything is sent under another
//! incarnation.

use super::Hands;
use crate::core::agreement::voter::State;
use crate::core::agreement::{Agreement, Life};
use std::collections::VecDeque;

/// What is on disk, and what is on its way there.
#[derive(Debug, Default)]
pub(super) struct Written {
    durable: Option<Box<State>>,
    under_way: VecDeque<Box<State>>,
    failed: bool,
}

impl Written {
    pub fn new(durable: Option<Box<State>>) -> Self {
        Self { durable, ..Self::default() }
    }

    pub fn begin(&mut self, state: Box<State>) {
        self.under_way.push_back(state);
    }

    /// Takes in that a state is on disk. Older ones that were not reported were replaced by it while they waited.
    pub fn done(&mut self, sequence: u64) {
        while self.under_way.front().is_some_and(|state| state.sequence <= sequence) {
            self.durable = self.under_way.pop_front();
        }
    }

    pub fn fail(&mut self) {
        self.failed = true;
    }

    /// Says that the disk holds all that it was given.
    pub fn is_settled(&self) -> bool {
        self.under_way.is_empty() && !self.failed
    }
}

impl Hands {
    /// Says whether this node, under its present incarnation, is or was a member: then it may have run something.
    #[must_use]
    pub fn is_bound(&self) -> bool {
        !matches!(self.status().life, Life::NoView | Life::Observer)
    }

    /// Stops promising anything under the present incarnation. Says whether the disk holds all that was promised; until
    /// then it has to be asked again.
    pub fn freeze(&mut self) -> bool {
        self.frozen = !self.written.failed;
        self.frozen && self.written.is_settled()
    }

    /// Begins anew under this incarnation, which is on disk and in the page. Who waits for an outcome gets no word of it.
    pub fn renew(&mut self, own: u64) {
        let mut setup = self.setup.agreement.setup().clone();
        if !self.frozen || setup.own.incarnation == own {
            self.frozen = false;
            return;
        }
        setup.own.incarnation = own;
        setup.generation = 1;
        setup.seed = setup.seed.rotate_left(17) ^ own;
        let durable = self.written.durable.clone();
        setup.remembered = durable.as_ref().map_or(0, |state| state.sequence).max(setup.remembered);
        let now = self.clocks.times();
        self.setup.agreement = match durable {
            Some(state) => Agreement::resume(setup, *state, None, now),
            None => Agreement::new(setup, now),
        };
        self.facts.renew();
        self.asked.clear();
        self.greeted.clear();
        self.errands.clear();
        (self.said, self.unannounced, self.frozen, self.outrun) = (None, false, false, None);
        self.unlinked = Some(own);
        self.keep_alive();
        self.tell_link();
        self.carry_out_all();
    }

    /// Tells the link of a new incarnation, of keys and of a control limit, again where it was too far behind to listen.
    pub(super) fn tell_link(&mut self) {
        if let Some((keys, limit)) = &self.untold
            && self.setup.link.0.set_keys(keys.clone())
            && self.setup.link.0.set_limit(*limit)
        {
            self.untold = None;
        }
        if let Some(own) = self.unlinked
            && self.setup.link.0.set_incarnation(own)
        {
            self.unlinked = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::disk;

    fn state(sequence: u64) -> Box<State> {
        Box::new(State { sequence, ..disk::tests::state() })
    }

    #[test]
    fn what_is_on_disk_is_what_was_reported_last() {
        let mut written = Written::new(None);
        assert!(written.is_settled() && written.durable.is_none());
        written.begin(state(1));
        written.begin(state(2));
        written.begin(state(3));
        written.done(1);
        assert_eq!((written.durable.as_ref().unwrap().sequence, written.is_settled()), (1, false));
        // The second was replaced while it waited.
        written.done(3);
        assert_eq!((written.durable.as_ref().unwrap().sequence, written.is_settled()), (3, true));
        written.begin(state(4));
        written.fail();
        written.done(4);
        assert!(!written.is_settled(), "nobody knows what a disk holds that failed");
    }
}

//! The claim of this node that all that acts on it asks its page first, for which others take a fence's acknowledgement
//! for a proof that it has stopped. It counts what was handed out to be said, and knows when no frame makes the claim any
//! more; whether the claim is true is judged elsewhere.

use heartbeat_common::frame::STANDING_GATED;
use tokio::sync::oneshot;

/// Whether the claim is made, by which frames, and who waits until none makes it.
#[derive(Debug, Default)]
pub(super) struct Claim {
    made: bool,
    /// Announcements that were handed out, the last one that made the claim, and the last one that is in every frame.
    handed_out: u64,
    claiming: u64,
    said: u64,
    waiting: Vec<oneshot::Sender<()>>,
}

impl Claim {
    /// Says whether the claim is to be made.
    pub fn is_made(&self) -> bool {
        self.made
    }

    /// Makes the claim from now on, or no more. Says whether that is news.
    pub fn make(&mut self, made: bool) -> bool {
        std::mem::replace(&mut self.made, made) != made
    }

    /// Takes note of an announcement with these flags, and returns its number. Later ones have higher numbers.
    pub fn hand_out(&mut self, flags: u16) -> u64 {
        self.handed_out += 1;
        if flags & STANDING_GATED != 0 {
            self.claiming = self.handed_out;
        }
        self.handed_out
    }

    /// Takes note that every frame says what this announcement says, or a later one.
    pub fn said(&mut self, number: u64) {
        self.said = self.said.max(number);
        self.answer();
    }

    /// Tells `done` as soon as no frame makes the claim. Where it is made again meanwhile, `done` is told nothing.
    pub fn await_none(&mut self, done: oneshot::Sender<()>) {
        self.waiting.retain(|other| !other.is_closed());
        self.waiting.push(done);
        self.answer();
    }

    fn answer(&mut self) {
        if self.made {
            self.waiting.clear();
        } else if self.claiming == 0 || self.said > self.claiming {
            // Who has gone meanwhile misses nothing.
            for done in self.waiting.drain(..) {
                let _ = done.send(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(claim: &mut Claim) -> oneshot::Receiver<()> {
        let (done, told) = oneshot::channel();
        claim.await_none(done);
        told
    }

    #[test]
    fn a_claim_that_was_never_handed_out_is_over_at_once() {
        let mut claim = Claim::default();
        assert!(!claim.is_made() && told(&mut claim).try_recv().is_ok());
        let plain = claim.hand_out(0);
        assert!(told(&mut claim).try_recv().is_ok(), "nothing has claimed it yet");
        claim.said(plain);
        assert!(claim.make(true) && !claim.make(true) && claim.make(false));
        assert!(told(&mut claim).try_recv().is_ok(), "it was not handed out meanwhile");
    }

    #[test]
    fn a_claim_is_over_once_a_later_announcement_is_in_every_frame() {
        let mut claim = Claim::default();
        let plain = claim.hand_out(0);
        claim.make(true);
        let claiming = claim.hand_out(STANDING_GATED);
        claim.make(false);
        let (mut first, later) = (told(&mut claim), claim.hand_out(0));
        // What was handed out before it, done late, says nothing about it.
        claim.said(plain);
        claim.said(claiming);
        assert!(first.try_recv().is_err(), "frames still say it");
        claim.said(later);
        assert!(first.try_recv().is_ok() && told(&mut claim).try_recv().is_ok());
    }

    #[test]
    fn nobody_is_told_while_the_claim_is_made() {
        let mut claim = Claim::default();
        claim.make(true);
        let claiming = claim.hand_out(STANDING_GATED);
        claim.said(claiming);
        let mut early = told(&mut claim);
        assert_eq!(early.try_recv(), Err(oneshot::error::TryRecvError::Closed), "and need not wait");
        claim.make(false);
        let later = claim.hand_out(0);
        claim.said(later);
        claim.make(true);
        // Time to stop or view may keep the flag away though the claim is made.
        let plain = claim.hand_out(0);
        claim.said(plain);
        assert!(told(&mut claim).try_recv().is_err());
    }
}

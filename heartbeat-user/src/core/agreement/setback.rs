//! What shows that this node was set back: others know of it what it has not said or sent yet. Memory and disk of an older
//! snapshot go on as if nothing had been since, and what this incarnation says is old to everybody who heard it before. It
//! ends, and comes back as a newer one; and it tells others, who cannot know by themselves.

use super::document::Member;
use super::engine::Agreement;
use super::event::AgreementEvent;
use super::message::{Hears, Message, Report};
use super::peer::Peer;

/// By how much what a peer knows of may be above the paced probes that were tried: bursts are numbered too, and are not
/// counted among those. Each paced probe takes two numbers, and so does a burst at most.
const BURSTS: u64 = 1_000;

impl Agreement {
    /// Takes a report of this node's own that comes back. One which it has not made yet is of a time that was taken back.
    pub(super) fn hear_of_itself(&mut self, report: &Report) {
        if report.author == self.setup.own && report.serial > self.regroup.serial {
            self.set_back();
        }
    }

    /// Gives the newest report of a node back to it, where it says less: it may have forgotten that it made it. Whatever
    /// was merely overtaken on its way is answered the same, and means nothing to its author.
    pub(super) fn tell_author(&mut self, from: Member, report: &Report) {
        let known = self.peers.get(&from.node).and_then(|peer| peer.report.as_ref());
        let newer = known.filter(|known| known.author == report.author && known.serial > report.serial);
        if let Some(newer) = newer.cloned() {
            self.send(from.node, Message::Report(Box::new(newer)));
        }
    }

    /// Takes note of the highest probe of this node that a peer accepted.
    pub(super) fn note_accepted(&mut self, report: &Report) {
        let own = self.setup.own;
        let of_this = |hears: &&Hears| hears.peer == own;
        let accepted = report.hears.iter().find(of_this).map_or(0, |hears| hears.accepted);
        if let Some(peer) = self.peers.get_mut(&report.author.node) {
            peer.knows_of = peer.knows_of.max(accepted);
        }
    }

    /// Compares what peers knew of before this look with what this look shows to have been tried: whatever this thread did
    /// in between, all that they could know of is among it.
    pub(super) fn compare_with_tried(&mut self) {
        // Before the first probe there is nothing to compare with.
        let ahead = |peer: &Peer| peer.facts.tried != 0 && peer.knows_of > peer.facts.tried.saturating_add(BURSTS);
        if self.peers.values().any(ahead) {
            self.set_back();
        }
        // An answer is read after what was tried, so that it is compared with the next look.
        for peer in self.peers.values_mut() {
            peer.knows_of = peer.knows_of.max(peer.facts.answered);
        }
    }

    /// This memory is that of an older snapshot: the node goes out, and returns as a newer incarnation.
    pub(super) fn set_back(&mut self) {
        if !std::mem::replace(&mut self.page.ahead, true) {
            self.tell(AgreementEvent::TimeWentBack);
            self.go_out(false);
        }
    }
}

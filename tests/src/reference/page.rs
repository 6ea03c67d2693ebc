//! What the lease's page says, as far as the packet path reads or writes it, in plain fields.

/// The page of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The incarnation that it is of; 0: it was not made yet.
    pub incarnation: u64,
    /// The highest incarnation fenced.
    pub fenced: u64,
    /// The mark under which the own vote grants; 0: it does not.
    pub granting: u64,
    /// A stamp of the future came with a grant.
    pub ahead: bool,
    /// Order of the view installed.
    pub order: u64,
    /// The incarnation is a member of it.
    pub member: bool,
    /// By slot: the grant expected, and its newest date.
    pub votes: [(u64, u64); 96],
}

impl Default for Page {
    fn default() -> Self {
        Self { incarnation: 0, fenced: 0, granting: 0, ahead: false, order: 0, member: false, votes: [(0, 0); 96] }
    }
}

impl Page {
    /// Takes a grant that came at `now`, dated by an own stamp.
    pub fn renew(&mut self, slot: u32, grant: u64, date: u64, now: u64) {
        let Some((expected, newest)) = self.votes.get_mut(slot as usize) else { return };
        if grant == 0 || grant != *expected {
            return;
        }
        if date > now {
            self.ahead = true;
        } else {
            *newest = date.max(*newest);
        }
    }
}

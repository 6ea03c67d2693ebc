//! What a probe says of its moment, read in the one order that is safe. It sends nothing.

use crate::io::memory::Shared;
use crate::keys::ProbeSigner;
use heartbeat_common::frame::{FLAG_FENCED, WORDS};
use heartbeat_common::lease;
use std::sync::atomic::{Ordering, fence};

/// What a probe is to say of this moment.
pub(super) struct Asked {
    /// The peer's incarnation.
    peer: u64,
    /// The peer's stamp, to be returned.
    pub(super) stamp: u64,
    /// When its newest timely echo came.
    pub(super) echo_ns: u64,
    /// Whether this node's vote grants under the signer's mark.
    pub(super) grants: bool,
    /// Whether this incarnation was fenced.
    fenced: bool,
}

/// Reads the stamp that a probe returns, and only then whether it may bring a grant: the peer dates the grant by the
/// stamp. Whatever happens in between, be it a pause for hours, a grant that is still found to stand stood when the stamp
/// was read. The other way round, a grant that was read before an acceptance would go out with a stamp from after it.
/// `between` is for those who test that.
pub(super) fn ask(shared: &Shared, path: u32, signer: &ProbeSigner, between: impl FnOnce()) -> Asked {
    let (peer, stamp, echo_ns) = shared.peer_of(path);
    fence(Ordering::SeqCst);
    between();
    let (page, own) = (shared.page(), signer.incarnation());
    let (grants, fenced) = (lease::grants(page, signer.mark(), own), lease::fenced(page, own));
    Asked { peer, stamp, echo_ns, grants, fenced }
}

impl Asked {
    /// Signs the probe.
    pub(super) fn probe(&self, signer: &ProbeSigner, sequence: u64, now: u64, age: u64, flags: u8) -> [u64; WORDS] {
        let flags = if self.fenced { flags | FLAG_FENCED } else { flags };
        if self.grants {
            signer.probe(sequence, now, self.peer, self.stamp, age, flags)
        } else {
            signer.bare_probe(sequence, now, self.peer, self.stamp, age, flags)
        }
    }
}

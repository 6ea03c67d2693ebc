//! The replay window: which sequence numbers of one sender and incarnation were already taken.
//! It remembers the newest and the 63 below it (RFC 4303, section 3.4.3, has the shape). It knows no key:
//! callers move it only after the MAC was found good.

/// A window over sequence numbers; all zero is the empty window. Sequence 0 is never valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Window {
    /// The newest sequence taken.
    pub top: u64,
    /// Bit `n` says that `top - n` was taken.
    pub bits: u64,
}

impl Window {
    /// Says whether `sequence` may be taken: not 0, not older than the window, not taken before.
    #[inline(always)]
    #[must_use]
    pub const fn accepts(self, sequence: u64) -> bool {
        if sequence > self.top {
            return true;
        }
        let age = self.top - sequence;
        sequence != 0 && age < 64 && self.bits >> age & 1 == 0
    }

    /// Returns the window after `sequence`, which it accepts, was taken.
    #[inline(always)]
    #[must_use]
    pub const fn taken(self, sequence: u64) -> Self {
        if sequence > self.top {
            let step = sequence - self.top;
            let bits = if step < 64 { self.bits << step | 1 } else { 1 };
            Self { top: sequence, bits }
        } else {
            let age = self.top - sequence;
            Self { top: self.top, bits: self.bits | 1 << (age & 63) }
        }
    }
}

#[cfg(test)]
mod tests;

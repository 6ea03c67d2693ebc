//! SipHash-2-4 as a resumable state: the one MAC of heartbeat, in kernel and userspace alike.
//! It computes tags and nothing else; what a tag covers is decided in `auth`.
//!
//! The function is the published SipHash-2-4 (Aumasson and Bernstein, 2012); the tests pin its
//! published vectors. It is split into `absorb` and `finish` so that the state over a constant
//! prefix (a *midstate*) is computed once and reused for each frame.

/// A SipHash-2-4 state: the key, and every word absorbed so far.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct Midstate {
    /// The four lanes `v0` to `v3`.
    pub v: [u64; 4],
}

/// A state forges tags as well as its key does, so it is not shown.
impl core::fmt::Debug for Midstate {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.write_str("Midstate(..)")
    }
}

/// A 128-bit key as two little-endian words.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct Key {
    /// The low and the high word.
    pub k: [u64; 2],
}

impl core::fmt::Debug for Key {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.write_str("Key(..)")
    }
}

macro_rules! round {
    ($a:ident, $b:ident, $c:ident, $d:ident) => {
        $a = $a.wrapping_add($b);
        $b = $b.rotate_left(13);
        $b ^= $a;
        $a = $a.rotate_left(32);
        $c = $c.wrapping_add($d);
        $d = $d.rotate_left(16);
        $d ^= $c;
        $a = $a.wrapping_add($d);
        $d = $d.rotate_left(21);
        $d ^= $a;
        $c = $c.wrapping_add($b);
        $b = $b.rotate_left(17);
        $b ^= $c;
        $c = $c.rotate_left(32);
    };
}

impl Midstate {
    /// Starts a tag under `key`.
    #[inline(always)]
    pub const fn new(key: Key) -> Self {
        Self {
            v: [
                key.k[0] ^ 0x736f_6d65_7073_6575,
                key.k[1] ^ 0x646f_7261_6e64_6f6d,
                key.k[0] ^ 0x6c79_6765_6e65_7261,
                key.k[1] ^ 0x7465_6462_7974_6573,
            ],
        }
    }

    /// Absorbs eight bytes, given as a little-endian word.
    #[inline(always)]
    #[must_use]
    pub const fn absorb(self, word: u64) -> Self {
        let [mut a, mut b, mut c, mut d] = self.v;
        d ^= word;
        round!(a, b, c, d);
        round!(a, b, c, d);
        a ^= word;
        Self { v: [a, b, c, d] }
    }

    /// Ends the message with `tail`, its last zero to seven bytes in the low bits, and `len`, the
    /// whole message's length in bytes modulo 256. Returns the tag.
    #[inline(always)]
    #[must_use]
    pub const fn finish(self, tail: u64, len: u8) -> u64 {
        let last = (tail & 0x00ff_ffff_ffff_ffff) | ((len as u64) << 56);
        let [mut a, mut b, mut c, mut d] = self.absorb(last).v;
        c ^= 0xff;
        round!(a, b, c, d);
        round!(a, b, c, d);
        round!(a, b, c, d);
        round!(a, b, c, d);
        a ^ b ^ c ^ d
    }

    /// Starts a tag of 128 bits under `key`: [`Self::finish_128`] ends it.
    #[inline(always)]
    pub const fn new_128(key: Key) -> Self {
        let [a, b, c, d] = Self::new(key).v;
        Self { v: [a, b ^ 0xee, c, d] }
    }

    /// Ends a message of whole words, `len` bytes modulo 256, that was begun by [`Self::new_128`]. Returns the low and
    /// the high half of its tag.
    #[inline(always)]
    #[must_use]
    pub const fn finish_128(self, len: u8) -> [u64; 2] {
        let [mut a, mut b, mut c, mut d] = self.absorb((len as u64) << 56).v;
        c ^= 0xee;
        round!(a, b, c, d);
        round!(a, b, c, d);
        round!(a, b, c, d);
        round!(a, b, c, d);
        let low = a ^ b ^ c ^ d;
        b ^= 0xdd;
        round!(a, b, c, d);
        round!(a, b, c, d);
        round!(a, b, c, d);
        round!(a, b, c, d);
        [low, a ^ b ^ c ^ d]
    }
}

/// Tags a message made of whole words.
#[inline(always)]
#[must_use]
pub fn tag_words(key: Key, words: &[u64]) -> u64 {
    let mut state = Midstate::new(key);
    for word in words {
        state = state.absorb(*word);
    }
    state.finish(0, (words.len() * 8) as u8)
}

#[cfg(test)]
mod tests;

//! The lock of a tick: one word, odd while a writer is in. It serialises writers of one tick across CPUs and tells
//! readers in userspace whether their copy is whole; it guards nothing else.
//!
//! A `bpf_spin_lock` in the value would forbid mmap. Both operations are full barriers on every architecture.

use core::cell::Cell;
use core::intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xchg};

/// Attempts before a frame is given up as lost. A writer in the kernel is in for some 50 ns and cannot be preempted by a
/// task, so this is reached only if its CPU was taken away by a hypervisor, or if the userspace responder writes this
/// tick, which it does only where no program answers.
const ATTEMPTS: u32 = 512;

/// A lock that is held.
pub struct Held<'a> {
    word: &'a Cell<u64>,
    odd: u64,
}

/// Takes the lock, or returns `None` if it stays held.
#[inline(always)]
pub fn take(word: &Cell<u64>) -> Option<Held<'_>> {
    let mut attempt = 0;
    while attempt < ATTEMPTS {
        let even = word.get() & !1;
        // SAFETY: an aligned word of a live map value.
        let (_, taken) = unsafe {
            atomic_cxchg::<u64, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(
                word.as_ptr(),
                even,
                even.wrapping_add(1),
            )
        };
        if taken {
            return Some(Held { word, odd: even.wrapping_add(1) });
        }
        attempt += 1;
    }
    None
}

impl Held<'_> {
    /// Lets the next writer in, and tells readers that there is a new value.
    #[inline(always)]
    pub fn release(self) {
        // SAFETY: as in `take`.
        unsafe { atomic_xchg::<u64, { AtomicOrdering::SeqCst }>(self.word.as_ptr(), self.odd.wrapping_add(1)) };
    }
}

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
    // SAFETY: an aligned word of a live map value.
    let odd = match unsafe { attempt(word.as_ptr()) } {
        0 => take_contended(word.as_ptr()),
        odd => odd,
    };
    if odd == 0 { None } else { Some(Held { word, odd }) }
}

/// Takes the lock if nobody holds it: what it is then, which is odd, or 0.
///
/// # Safety
/// `word` is an aligned word of a live map value.
#[inline(always)]
unsafe fn attempt(word: *mut u64) -> u64 {
    // SAFETY: the caller's promise.
    let even = unsafe { word.read_volatile() } & !1;
    // SAFETY: as above.
    let (_, taken) = unsafe {
        atomic_cxchg::<u64, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(word, even, even.wrapping_add(1))
    };
    if taken { even.wrapping_add(1) } else { 0 }
}

/// Takes a lock that was held a moment ago: what it is then, or 0 if it stays held. Exported, so that the verifier walks
/// through all attempts once for each program, and not for each state in which a caller may be.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn take_contended(word: *mut u64) -> u64 {
    // The verifier knows no caller here.
    if word.is_null() {
        return 0;
    }
    let mut attempts = 1;
    while attempts < ATTEMPTS {
        // SAFETY: the caller's word, which is one of a live map value.
        let odd = unsafe { attempt(word) };
        if odd != 0 {
            return odd;
        }
        attempts += 1;
    }
    0
}

impl Held<'_> {
    /// Lets the next writer in, and tells readers that there is a new value.
    #[inline(always)]
    pub fn release(self) {
        // SAFETY: as in `take`.
        unsafe { atomic_xchg::<u64, { AtomicOrdering::SeqCst }>(self.word.as_ptr(), self.odd.wrapping_add(1)) };
    }
}

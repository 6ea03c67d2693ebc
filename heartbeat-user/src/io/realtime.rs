//! Scheduling class and memory of the threads that must not be late. It asks for what is allowed and reports what was
//! refused; nothing here is needed to be correct, only to be on time.

use nix::sys::mman::{MlockAllFlags, mlockall};
use std::io;

/// Puts the calling thread under SCHED_FIFO at `priority`, 1 to 99.
///
/// # Errors
/// If the limit (RLIMIT_RTPRIO), the capability or the cpu cgroup does not allow it.
pub fn fifo(priority: u8) -> io::Result<()> {
    let parameter = libc::sched_param { sched_priority: i32::from(priority) };
    // SAFETY: the parameter lives through the call; thread 0 is the calling one.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &parameter) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Takes the timer slack off the calling thread: a normal thread's timers are otherwise up to 50 us late on purpose.
pub fn no_timer_slack() {
    // SAFETY: a call without pointers.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1, 0, 0, 0) };
}

/// Locks what is mapped now and later, each page as it is first touched: locking whole stacks and maps at once would
/// cost megabytes that are never used.
///
/// # Errors
/// If RLIMIT_MEMLOCK or the capability does not allow it.
pub fn lock_memory() -> io::Result<()> {
    // MCL_ONFAULT, which nix does not name on every target.
    let on_fault = MlockAllFlags::from_bits_retain(libc::MCL_ONFAULT);
    mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE | on_fault).map_err(io::Error::from)
}

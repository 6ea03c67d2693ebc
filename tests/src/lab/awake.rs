//! Keeps the processors awake while nodes are played on them. A virtual processor that has nothing to do is given back, and
//! where the host is busy the hypervisor takes its time to return it: tens of milliseconds, which are the wire's and the
//! daemon's in no figure. A loop of the class SCHED_IDLE keeps it, and gives way at once to whatever else wants to run.

use anyhow::{Context, Result, ensure};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;

/// What is said beside figures that were taken so.
pub const NOTE: &str =
    "a loop of the class SCHED_IDLE on each processor kept it from being given back to the hypervisor";

/// A loop on each processor, until it is dropped.
#[derive(Debug)]
pub struct Awake {
    done: Arc<AtomicBool>,
    loops: Vec<JoinHandle<()>>,
}

impl Awake {
    /// Begins the loops, on the processors that this machine gives to processes.
    ///
    /// # Errors
    /// If a thread cannot be put on its processor or into its class.
    pub fn keep() -> Result<Self> {
        // Those of the main thread: the one that calls may be held to one.
        let allowed = sched_getaffinity(Pid::this()).context("the processors there are")?;
        let mut awake = Self { done: Arc::default(), loops: Vec::new() };
        for cpu in (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false)) {
            let (done, (ready, begun)) = (awake.done.clone(), mpsc::channel());
            awake.loops.push(std::thread::spawn(move || {
                let settled = hold(cpu).and_then(|()| give_way());
                let failed = settled.is_err();
                if ready.send(settled).is_err() || failed {
                    return;
                }
                // No pause instruction: a hypervisor takes many of them for a sign that nothing is done.
                let mut count = 0_u64;
                while !done.load(Ordering::Relaxed) {
                    count = black_box(count.wrapping_add(1));
                }
            }));
            begun.recv().context("a loop that keeps a processor awake")??;
        }
        Ok(awake)
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        for thread in self.loops.drain(..) {
            // It has nothing to panic of, and nothing is lost if it did.
            let _ = thread.join();
        }
    }
}

/// Holds this thread to one processor.
///
/// # Errors
/// If there is no such processor, or it is not this process's.
pub fn hold(cpu: usize) -> Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &cpus).with_context(|| format!("cpu {cpu}"))
}

/// Puts this thread into the class SCHED_IDLE.
fn give_way() -> Result<()> {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the pointer is to a live structure, which the call reads and does not keep.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const parameters) };
    ensure!(result == 0, "SCHED_IDLE: {}", std::io::Error::last_os_error());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_processor_has_a_loop_and_the_loops_end() {
        let awake = Awake::keep().unwrap();
        let there = std::thread::available_parallelism().unwrap().get();
        assert!(awake.loops.len() >= there, "{} loops on {there} processors", awake.loops.len());
        assert!(awake.loops.iter().all(|thread| !thread.is_finished()));
        drop(awake);
    }
}

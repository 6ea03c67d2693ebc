//! Log records of an XDP object that was built with its own `log` feature, on the daemon's log. For development: the
//! committed object makes none.

use anyhow::Context;
use aya::Ebpf;
use aya_log::EbpfLogger;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd;

/// Reads the object's records on a thread of its own, for as long as the process lives. An object without records is
/// said and fine. To be called after the programs were loaded.
///
/// # Errors
/// If the thread cannot be made.
pub fn bridge(ebpf: &mut Ebpf) -> anyhow::Result<()> {
    let mut logger = match EbpfLogger::init(ebpf) {
        Ok(logger) => logger,
        Err(error) => {
            log::info!("the BPF object makes no log records: {error}");
            return Ok(());
        }
    };
    std::thread::Builder::new()
        .name("hb-bpf-log".to_owned())
        .spawn(move || {
            loop {
                let ready = poll(&mut [PollFd::new(logger.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE);
                if ready.is_err_and(|error| error != nix::errno::Errno::EINTR) {
                    return;
                }
                logger.flush();
            }
        })
        .context("start the thread that reads the object's log records")?;
    Ok(())
}

//! A `heartbeatd hold` in a node of the lab, and the service manager's end of it: what stands for the quorate target of the
//! node. It is ready while the node may act, and over when it may not; it asks nothing of the node's daemon.

use super::notify::Notify;
use super::wait::{binary, wait_for};
use super::{Lab, monotonic_ns};
use anyhow::{Context, Result};
use std::fs::File;
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A holder. Dropping it ends it.
#[derive(Debug)]
pub struct Holder {
    child: Child,
    notify: Notify,
}

impl Holder {
    /// Starts one, which finds the node's page by its socket or its pin.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(lab: &Lab, node: usize) -> Result<Self> {
        let directory = lab.node_dir(node);
        let notify = Notify::listen(&directory.join("hold.sock"))?;
        let log = File::options().create(true).append(true).open(directory.join("hold.log"))?;
        let mut command = lab.node(node).command(binary("heartbeatd", "HEARTBEATD")?);
        command.arg("hold").arg("--lease-socket").arg(directory.join("run/lease.sock"));
        // A daemon that is stopped hands nothing out; the pin is there without it.
        let pin = lab.pin_dir(node).join("heartbeatd-lease/lease");
        command.arg("--lease-pin").arg(pin).env("NOTIFY_SOCKET", notify.path());
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn();
        Ok(Self { child: child.context("starting a holder")?, notify })
    }

    /// Waits until the node's target would be up.
    ///
    /// # Errors
    /// If it is not in time.
    pub fn wait_ready(&self, limit: Duration) -> Result<u64> {
        let ready = || self.notify.ready().ok_or_else(|| format!("{:?}", self.notify.lines()));
        wait_for(limit, "the target to be up", ready)
    }

    /// Says whether the target is up: it was, and the holder has not ended.
    ///
    /// # Errors
    /// If the system does not tell.
    pub fn is_up(&mut self) -> Result<bool> {
        Ok(self.notify.ready().is_some() && self.child.try_wait().context("looking at the holder")?.is_none())
    }

    /// Waits until the target is down, and returns when it was seen, CLOCK_MONOTONIC ns.
    ///
    /// # Errors
    /// If it is not in time.
    pub fn wait_down(&mut self, limit: Duration) -> Result<u64> {
        wait_for(limit, "the target to be down", || match self.child.try_wait() {
            Ok(Some(_)) => Ok(monotonic_ns()),
            Ok(None) => Err("still up".to_owned()),
            Err(error) => Err(error.to_string()),
        })
    }

    /// How it ended; `None`: it runs.
    ///
    /// # Errors
    /// If the system does not tell.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().context("looking at the holder")
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let end = Instant::now() + Duration::from_secs(1);
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

//! The configuration read again: what of it comes into force without a restart, and in which order. Anything else in it is
//! refused, and nothing changes.

use super::Worker;
use crate::cli::{Watchdog, check_watchdog};
use crate::config::{load, paths_for};
use crate::io::pacer::PacerCommand;
use crate::io::watchdog_device::Guard;
use crate::keys::Keys;
use anyhow::{Context as _, bail};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

impl Worker {
    /// Puts the configuration's settings into force; anything else in it needs a restart and is refused.
    pub(super) fn reload(&mut self) -> anyhow::Result<String> {
        let kept = &mut self.kept;
        let fresh = load(&kept.config_file)?;
        let old = kept.fabric.config().clone();
        if fresh.cluster != old.cluster || fresh.daemon != old.daemon || fresh.interfaces != old.interfaces {
            bail!(
                "[cluster], [daemon] and [interface.*] take a restart (`systemctl restart heartbeatd`, which loses no answer \
                 unless the cluster id, pin_dir or state_dir changes)"
            );
        }
        if paths_for(&fresh, kept.own) != paths_for(&old, kept.own) || fresh.nodes != old.nodes {
            bail!("nodes, networks and addresses take a restart, by which this node becomes a new incarnation");
        }
        if let Some(every) = kept.watchdog {
            check_watchdog(Watchdog::Every(every), fresh.settings.hang_limit)?;
        }
        let ring = Keys::load(&fresh.cluster.key_file)?.ring(fresh.cluster.id);
        let changes = format!(
            "same subnet {} ms x {}, cross subnet {} ms x {}, stall limit {} ms, hang limit {} s",
            fresh.settings.same_subnet.delay.as_millis(),
            fresh.settings.same_subnet.threshold,
            fresh.settings.cross_subnet.delay.as_millis(),
            fresh.settings.cross_subnet.threshold,
            fresh.settings.stall_limit.as_millis(),
            fresh.settings.hang_limit.as_secs(),
        );
        let fresh = Arc::new(fresh);
        // The device is never quicker than the hang limit in force: a longer limit is first asked of it, a shorter one last.
        let (limit, former) = (fresh.settings.hang_limit, old.settings.hang_limit);
        if limit > former {
            retime(kept.feeder.as_ref(), limit).context("hang_limit_s")?;
        }
        if let Err(error) = kept.fabric.reload(fresh.clone(), ring.clone()) {
            if limit > former
                && let Err(why) = retime(kept.feeder.as_ref(), former)
            {
                log::error!("the watchdog device keeps the time-out of what was refused: {why:#}");
            }
            return Err(error);
        }
        *kept.current.write().unwrap_or_else(PoisonError::into_inner) = fresh.clone();
        kept.pacer.tell(PacerCommand::Signers(kept.fabric.paths.signers()));
        let budget = fresh.settings.lateness_budget.as_nanos() as u64;
        kept.pacer.tell(PacerCommand::Delays(kept.fabric.paths.delays(), budget));
        kept.decider.settings(&fresh, ring, kept.fabric.paths.fence_signers());
        if limit < former
            && let Err(why) = retime(kept.feeder.as_ref(), limit)
        {
            log::warn!("the watchdog device keeps its longer time-out: {why:#}");
        }
        Ok(if fresh.settings == old.settings { "the key file alone was read again".to_owned() } else { changes })
    }
}

/// Has the watchdog device, if there is one, outlast a hang limit from now on.
fn retime(feeder: Option<&Guard>, hang_limit: Duration) -> anyhow::Result<()> {
    feeder.map_or(Ok(()), |feeder| feeder.retime(hang_limit))
}

//! Who this node is at its start: what its disk, its page and its pins say of the incarnations before, and the end of
//! what they ran. It writes the identity to disk, and touches no program and no peer.

use crate::config::Config;
use crate::core::identity::{self, Disk, Found, Identity, Kept as KeptIdentity};
use crate::core::ids::NodeId;
use crate::core::time::MonoTime;
use crate::io::disk::exits::How;
use crate::io::disk::{AgreementFile, Owner, TakenUp, exits};
use crate::io::failure::Failure;
use crate::io::memory::Shared;
use crate::io::ran::Ran;
use crate::io::state::{State, StateDir, random};
use crate::io::{clock, manager};
use heartbeat_common::frame::{FLAG_FENCED, FLAG_LEAVING, FLAG_STOPPED};
use heartbeat_common::lease::{self, Remembered};
use heartbeat_common::maps::{self, Own};
use std::time::Duration;

/// What the rest of a start may take: as much as the unit gives a whole one that has nothing to wait for.
const REST: Duration = Duration::from_secs(60);

/// Who this node is, and what is on its disk.
pub(super) struct Life {
    pub(super) identity: Identity,
    pub(super) state: State,
    /// The agreement's file, and what it held.
    pub(super) file: AgreementFile,
    pub(super) taken: TakenUp,
    /// What the page remembered of it.
    pub(super) remembered: Remembered,
    /// Runs of this node that ended badly of late.
    pub(super) own_ends: u8,
    /// How the last of them ended, if it has not noted that itself.
    pub(super) unsaid: How,
    /// What an earlier incarnation ran may run still: it was of this machine start, and did not say that it had stopped.
    pub(super) may_run: bool,
    /// The incarnation before, as far as the disk knows it; 0: it does not.
    pub(super) before: u64,
    /// Nothing of this node seems to run: it was never here, or the machine was started anew since.
    pub(super) nothing_ran: bool,
}

/// Decides who this node is, and puts it on disk. `lived` says that this node was here before, whatever is left of it.
pub(super) fn identify(
    config: &Config,
    own: u16,
    dir: &StateDir,
    shared: &Shared,
    kernel: bool,
    plan: u64,
    lived: bool,
) -> Result<Life, Failure> {
    let boot = clock::boot_id().map_err(Failure::host)?;
    let seed = random().map_err(Failure::host)? as u32;
    let read = dir.read().map_err(Failure::host)?;
    if let Err(reason) = &read {
        let level = if lived { log::Level::Warn } else { log::Level::Info };
        log::log!(level, "{reason}: this node takes a new incarnation");
    }
    let disk = read.ok();
    let fresh = StateDir::fresh(1, 1, boot).map_err(Failure::host)?;
    let state_id = disk.map_or(fresh.state_id, |state| state.state_id);
    let file = AgreementFile::new(&config.daemon.state_dir, Owner { node: NodeId(own), state_id });
    let remembered = lease::remembered(shared.page(), boot);
    let (learnt, taken) = votes(&file, remembered)?;
    let mark = shared.own();
    let pinned = (kernel && mark.abi == u64::from(maps::ABI)).then_some(KeptIdentity {
        incarnation: mark.incarnation,
        generation: mark.generation as u32,
        // Ticks of other paths are worth nothing: as if the pins were of another run.
        state_id: if mark.plan == plan { mark.state_id } else { 0 },
        boot: mark.boot,
    });
    let kept = |state: &State| KeptIdentity {
        incarnation: state.incarnation,
        generation: state.generation as u32,
        state_id: state.state_id,
        boot: state.boot,
    };
    // What the kernel has told the peers counts like what the disk says: an incarnation that said so is over.
    let told_left = pinned.is_some() && mark.flags & u64::from(FLAG_LEAVING | FLAG_STOPPED | FLAG_FENCED) != 0;
    let disk_left = |state: &State| Disk { kept: kept(state), left: state.left || told_left };
    let vote_lost = matches!(taken, TakenUp::Lost { .. });
    let found = Found { disk: disk.as_ref().map(disk_left), pins: pinned, boot, learnt, vote_lost, seed };
    let identity = identity::decide(&found).map_err(Failure::host)?;
    let state = State { state_id, incarnation: identity.incarnation, generation: identity.generation.into(), ..fresh };
    dir.write(&state).map_err(Failure::host)?;
    let may_run = disk.is_some_and(|state| state.boot == boot && !state.left);
    let of_this_boot = disk.is_none_or(|state| state.boot == boot) || pinned.is_some_and(|kept| kept.boot == boot);
    let nothing_ran = !lived || !of_this_boot;
    let unsaid = if pinned.is_some() { unsaid_end(&mark) } else { How::Died };
    let own_ends = exits::before(&config.daemon.state_dir, identity.incarnation, unsaid, boot);
    let before = disk.map_or(0, |state| state.incarnation);
    Ok(Life { identity, state, file, taken, remembered, own_ends, unsaid, may_run, before, nothing_ran })
}

/// How a run ended that did not say so, by the record that it left pinned: its service manager gave it up, and had the
/// kernel tell the peers (`io::mark_left`), or nobody did.
fn unsaid_end(mark: &Own) -> How {
    let told = mark.flags & u64::from(FLAG_LEAVING | FLAG_STOPPED) != 0;
    if told && mark.progress_ns == 0 { How::GaveUp } else { How::Died }
}

/// Reads the agreement's file: the newest incarnation of this node that a view in it admitted, and what the vote goes on
/// with. A node that was let in under an incarnation that its own state has forgotten must not come as an older one:
/// each would be told that it was left out, one after the other.
fn votes(file: &AgreementFile, remembered: Remembered) -> Result<(u64, TakenUp), Failure> {
    let learnt = file.admitted().map_err(Failure::host)?;
    let taken = file.take_up(remembered).map_err(Failure::host)?;
    if let TakenUp::Lost { why, aside } = &taken {
        let aside =
            aside.as_ref().map_or_else(String::new, |path| format!("; what was there is now {}", path.display()));
        log::error!("{}: {why}: this node has no vote until a view names a new one{aside}", file.path().display());
    }
    Ok((learnt, taken))
}

/// How long the start may take from where it begins to wait for so long: after it, as long as it may without.
const fn start_time(wait: Duration) -> Duration {
    wait.saturating_add(REST)
}

/// Ends what the incarnation before ran, and waits until it has stopped: that the new one is heard proves it to others.
/// The service manager is told how long that may take: it would end this start otherwise, and the next one waits as long.
pub(super) fn end_earlier(ran: &Ran, shared: &Shared, life: &Life) -> Result<(), Failure> {
    let ended = shared.page().end_earlier(life.before);
    if let (TakenUp::Resumed(state), true) = (&life.taken, life.may_run) {
        ran.stop_time_is(state.installed.lease.stop_ms);
        if !ended {
            // Whoever has that page open acts on until its lease is over, whatever page this incarnation has.
            let lease = Duration::from_millis(state.installed.lease.lease_ms.into());
            manager::extend(start_time(lease));
            std::thread::sleep(lease);
        }
    }
    // Said for itself: the manager takes no time as long as the longest of both together.
    manager::extend(start_time(ran.longest_earlier()));
    ran.over_since(if life.may_run { clock::now() } else { MonoTime::ZERO });
    ran.wait_for_earlier(life.nothing_ran).map_err(|what| {
        Failure::host(anyhow::anyhow!(
            "what this node ran under its last incarnation has not stopped ({what}): a new one would prove to others that \
             it had"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::hooks::Shelter;

    #[test]
    fn who_was_given_up_is_told_from_who_died_by_what_it_left() {
        let end = |progress_ns, flags: u8| unsaid_end(&Own { progress_ns, flags: flags.into(), ..Own::default() });
        assert_eq!((end(5, 0), end(0, 0)), (How::Died, How::Died), "killed, and killed before it made any progress");
        assert_eq!((end(5, FLAG_LEAVING), end(5, FLAG_LEAVING | FLAG_STOPPED)), (How::Died, How::Died), "taken off");
        assert_eq!((end(0, FLAG_LEAVING), end(0, FLAG_LEAVING | FLAG_STOPPED)), (How::GaveUp, How::GaveUp));
    }

    #[test]
    fn a_start_may_take_as_long_as_what_ran_before() {
        const S: Duration = Duration::from_secs(1);
        let ran = Ran::new(2 * S, Shelter::find());
        // A view gives it the longest time that there is.
        ran.stop_time_is(3_600_000);
        let time = start_time(ran.longest_earlier());
        assert!(time >= 3600 * S + REST, "{time:?}");
        assert!(ran.longest_earlier() > ran.longest(), "what its hooks have left is ended after it");
        // The manager is told of it in microseconds, of which there are 2^32 at most.
        assert!(time.as_micros() < 1 << 32);
        let unit = include_str!("../../../../packaging/heartbeatd.service");
        let whole = unit.lines().find_map(|line| line.strip_prefix("TimeoutStartSec=")).unwrap();
        assert_eq!(REST.as_secs().to_string(), whole);
    }
}

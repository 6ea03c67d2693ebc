//! `heartbeatd mark-left`: tells the peers, through the program that is still pinned, that this node's service manager
//! gave up starting its controller, and so that it has left. It acts only where no daemon runs and none is to come.

use crate::cli::{MarkLeft, ServiceFacts, gave_up, mark_left_verdict};
use crate::config::{Config, load};
use crate::io::failure::Failure;
use crate::io::hooks::Shelter;
use crate::io::memory::Shared;
use crate::io::pins::PinDir;
use crate::io::ran::Ran;
use crate::io::state::StateDir;
use crate::io::{hands, manager, page, sys};
use anyhow::{Context, bail};
use heartbeat_common::frame::{FLAG_LEAVING, FLAG_STOPPED};
use heartbeat_common::maps;
use nix::unistd::geteuid;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Where the state is if nothing says otherwise.
const STATE_DIR: &str = "/var/lib/heartbeatd";
/// Where the pins are if nothing says otherwise.
const PIN_DIR: &str = "/sys/fs/bpf/heartbeatd";

/// Marks the node, or says why not.
///
/// # Errors
/// If the node should be marked and could not be.
pub fn run(file: &Path) -> Result<String, Failure> {
    let facts = ServiceFacts::read(|name| std::env::var(name).ok());
    match mark_left_verdict(&facts) {
        MarkLeft::Nothing(reason) => return Ok(format!("nothing done: {reason}")),
        MarkLeft::AskManager => match manager_gave_up() {
            Some(true) => {}
            Some(false) => return Ok("nothing done: the service manager will start heartbeatd again".to_owned()),
            None => return Ok("nothing done: the service manager does not say whether it gave up".to_owned()),
        },
        MarkLeft::Mark => {}
    }
    let root = pin_dir(load(file).ok().as_ref()).map_err(Failure::host)?;
    // The lock of the pin directory alone: the lock file's directory goes with the service.
    let Some(pins) = PinDir::open_existing(&root).map_err(Failure::host)? else {
        return Ok("nothing done: no program of heartbeatd is pinned, so the kernel answers nothing".to_owned());
    };
    if !pins.hold().map_err(Failure::host)? {
        return Ok("nothing done: a heartbeatd runs here: the node is its".to_owned());
    }
    let own = pins.map(maps::OWN);
    if !own.exists() {
        return Ok("nothing done: no program of heartbeatd is pinned, so the kernel answers nothing".to_owned());
    }
    let stopped = mark(&own, By::Manager).map_err(Failure::host)?;
    let said = if stopped { "has left" } else { "leaves, and not that it has stopped, for something still runs" };
    Ok(match pins.answers() {
        true => format!("marked: the kernel tells every peer that this node {said}"),
        false => "marked, but no program of heartbeatd is attached, so the kernel answers nothing".to_owned(),
    })
}

/// Finds the pins: by the configuration or, where that is the very thing that is broken, by what the last start noted.
/// Root becomes the service's user before it reads what that user wrote: it would be led to any directory of its own.
///
/// # Errors
/// If there is a note that is not to be trusted.
pub(super) fn pin_dir(config: Option<&Config>) -> anyhow::Result<PathBuf> {
    if let Some(config) = config {
        return Ok(config.daemon.pin_dir.clone());
    }
    let state_dir = std::env::var_os("STATE_DIRECTORY").map_or_else(|| PathBuf::from(STATE_DIR), PathBuf::from);
    let noted = match fs::metadata(&state_dir) {
        Ok(found) if hands::enter(found.uid())? => {
            let own = geteuid().as_raw();
            if found.uid() != own {
                bail!("{}: belongs to uid {}, not to {own}: no note is read there", state_dir.display(), found.uid());
            }
            StateDir::noted_pins(&state_dir)?
        }
        _ => None,
    };
    Ok(noted.unwrap_or_else(|| PathBuf::from(PIN_DIR)))
}

/// Who ends a node's part where its controller has died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// An operator: it leaves in order.
    Operator,
    /// Its service manager, which starts no controller any more: an end that nobody wanted, and that peers count.
    Manager,
}

/// Sets in the pinned record of this node that it leaves and, once nothing runs any more that acted by its lease, that it
/// has stopped: every echo says so from then on. The lease ends before: who acts by it must not outlive what is said.
/// Returns whether "stopped" is said: not, if something runs on after its time.
///
/// # Errors
/// If the record or the lease's page cannot be opened or mapped.
pub(super) fn mark(pin: &Path, by: By) -> anyhow::Result<bool> {
    let fd = sys::object_get(pin).with_context(|| format!("open {}", pin.display()))?;
    let shared = Shared::of_own(fd.as_fd())?;
    let stop_time = page::close_pinned(&pin.with_file_name(maps::LEASE))?;
    say_leaving(&shared, by);
    let ran = Ran::new(stop_time, Shelter::find());
    // The service manager would end this sooner than what runs, where that may take long to stop.
    manager::extend(ran.longest() * 2);
    let stopped = ran.wait_for_earlier(false);
    match &stopped {
        Ok(()) => shared.set_flags(shared.flags() | FLAG_LEAVING | FLAG_STOPPED),
        Err(what) => eprintln!("heartbeatd: {what}"),
    }
    Ok(stopped.is_ok())
}

/// Says that this node leaves and, where its manager gave it up, that it has no controller whose age could be told: by
/// both together peers know (`core::node`). The frame has no flag left for it. A controller that was leaving when it was
/// killed has said so itself, and nothing makes another end of that.
fn say_leaving(shared: &Shared, by: By) {
    let leaves = shared.flags() & (FLAG_LEAVING | FLAG_STOPPED) != 0;
    if by == By::Manager && !leaves {
        // First: a frame in between shows a controller that hangs, and not one that leaves in order.
        shared.end_progress();
    }
    shared.set_flags(shared.flags() | FLAG_LEAVING);
}

/// Asks the manager whether it has given the unit up; `None` if it does not say.
fn manager_gave_up() -> Option<bool> {
    let unit = std::env::var("MONITOR_UNIT").unwrap_or_else(|_| crate::cli::DEFAULT_UNIT.to_owned());
    manager::of_unit("ActiveState", &unit).map(|state| gave_up(&state))
}

#[cfg(test)]
mod tests {
    use super::*;
    use heartbeat_common::frame::{FLAG_MEMBER, FLAG_QUORATE, Kind, age_ns, age_since, dynamic};
    use heartbeat_common::maps::Own;

    /// What a record of these flags says once it was marked, in turn, by these: its flags, and whether it tells an age.
    fn marked(flags: u8, by: &[By]) -> (u8, bool) {
        let shared = Shared::new(None, 1).expect("private memory");
        shared.set_own(&Own { progress_ns: 5, flags: flags.into(), ..Own::default() });
        by.iter().for_each(|by| say_leaving(&shared, *by));
        let word = dynamic(Kind::Echo, age_since(shared.progress(), 5_000_000_000), 0, 0);
        (shared.flags(), age_ns(word).is_some())
    }

    #[test]
    fn who_is_given_up_leaves_without_an_age_and_who_is_taken_off_with_one() {
        let member = FLAG_MEMBER | FLAG_QUORATE;
        assert_eq!(marked(member, &[By::Operator]), (member | FLAG_LEAVING, true));
        assert_eq!(marked(member, &[By::Manager]), (member | FLAG_LEAVING, false));
        assert_eq!(marked(member, &[By::Manager, By::Manager]), (member | FLAG_LEAVING, false), "said again");
        assert_eq!(marked(member, &[By::Manager, By::Operator]), (member | FLAG_LEAVING, false), "nor taken back");
    }

    #[test]
    fn who_was_leaving_when_its_controller_was_killed_leaves_in_order() {
        for said in [FLAG_LEAVING, FLAG_LEAVING | FLAG_STOPPED] {
            assert_eq!(marked(said, &[By::Manager]), (said, true));
        }
    }
}

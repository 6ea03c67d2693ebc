//! `heartbeatctl detach` where no heartbeatd runs: says goodbye through the program that a dead controller left pinned,
//! then takes it off. It acts only with the pin directory's lock in hand, which a controller that runs has.

use crate::cli::DEFAULT_CONFIG;
use crate::config::{Config, load};
use crate::control::{DetachedBody, ErrorCode, Refusal};
use crate::io::page::pin;
use crate::io::pins::{self, PinDir};
use crate::io::{hands, mark_left, sys};
use heartbeat_common::maps;
use std::fs;
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest delay between two probes of a peer, where no configuration says it.
const DELAY: Duration = Duration::from_secs(1);

/// Takes off what a controller that is gone has left in the kernel. `file` is its configuration.
///
/// # Errors
/// If the caller may not, a controller runs, or something cannot be removed.
pub fn run(file: &Path) -> Result<DetachedBody, Refusal> {
    let config = match load(file) {
        Ok(config) => Some(config),
        // The service's own may be the very thing that is broken: then its last start has noted where its pins are.
        // Any other file that cannot be read names no pins, and least of all those of the service.
        Err(_) if file == Path::new(DEFAULT_CONFIG) => None,
        Err(error) => return Err(failed(error)),
    };
    let root = mark_left::pin_dir(config.as_ref()).map_err(failed)?;
    let Some(pins) = open(&root)? else { return Ok(nothing_in(&root)) };
    if !pins.hold_left().map_err(failed)? {
        return Err(Refusal::failed(format!(
            "pin_dir {}: a heartbeatd runs and uses it, so nothing was detached; ask it by its own socket (--socket \
             RUN_DIR/control.sock)",
            root.display()
        )));
    }
    if pins.versions().map_err(failed)?.is_empty() {
        return Ok(nothing_in(&root));
    }
    let told = say_goodbye(&pins, config.as_ref());
    let removed = take_off(&pins).map_err(failed)?;
    if let Some(config) = &config {
        pin::remove(&config.daemon.lease_pin).map_err(failed)?;
    }
    let removed = removed.iter().map(|path| path.display().to_string()).collect();
    Ok(DetachedBody {
        done: format!(
            "heartbeatd is not running; {told}; the programs are off and their pins removed: nothing answers until the \
             next start, which is a new incarnation"
        ),
        removed,
    })
}

fn failed(error: impl Into<anyhow::Error>) -> Refusal {
    Refusal::failed(format!("{:#}", error.into()))
}

fn nothing_in(root: &Path) -> DetachedBody {
    let done = format!("nothing done: heartbeatd is not running, and nothing of it is pinned in {}", root.display());
    DetachedBody { done, removed: Vec::new() }
}

/// Opens the pin directory as whoever may work in it; `None` if there is none.
fn open(root: &Path) -> Result<Option<PinDir>, Refusal> {
    let found = match fs::symlink_metadata(root) {
        Ok(found) => Some(found),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) if error.kind() == ErrorKind::PermissionDenied => return Err(not_yours(root)),
        Err(error) => return Err(Refusal::failed(format!("look at {}: {error}", root.display()))),
    };
    // Where no bpffs is seen it may be hidden, and the program runs on.
    if let Some(looked) = pins::off_bpffs(root).map_err(failed)? {
        return Err(Refusal::failed(format!(
            "pin_dir {}: {} is not on a bpffs, so what is pinned cannot be seen from here (inside `ip netns exec` the \
             host's is hidden: enter the network namespace alone)",
            root.display(),
            looked.display()
        )));
    }
    let Some(found) = found else { return Ok(None) };
    if !hands::enter(found.uid()).map_err(failed)? {
        return Err(not_yours(root));
    }
    // What was there for root is not gone because the service's user cannot see it.
    if let Some(closed) = pins::closed(root) {
        return Err(Refusal::failed(closed));
    }
    PinDir::open_left(root).map_err(failed)
}

fn not_yours(root: &Path) -> Refusal {
    let message = format!(
        "{}: permission denied; where heartbeatd does not run, detach is for root and for the user whose pins these are",
        root.display()
    );
    Refusal::new(ErrorCode::PermissionDenied, message)
}

/// How long the peers are given to ask: every one of them asks once a delay.
pub(super) fn goodbye(config: Option<&Config>) -> Duration {
    config.map_or(DELAY, |config| config.settings.same_subnet.delay.max(config.settings.cross_subnet.delay)) * 2
}

/// Lets the kernel tell every peer that this node has left, and gives each the time to ask for it: a node that falls
/// silent without a word would be taken for dead. Returns what became of it.
fn say_goodbye(pins: &PinDir, config: Option<&Config>) -> String {
    let own = pins.map(maps::OWN);
    if !own.exists() {
        return "the peers were told nothing, for no record of this build is pinned".to_owned();
    }
    if !pins.answers() {
        return "the peers were told nothing, for no program of this build is attached any more".to_owned();
    }
    let said = match mark_left::mark(&own, mark_left::By::Operator) {
        Ok(true) => "the peers were told that this node has left",
        Ok(false) => "the peers were told that this node leaves, and not that it has stopped, for something still runs",
        Err(error) => return format!("the peers could not be told that this node leaves ({error:#})"),
    };
    // The pins go next, and with them the incarnation: what is said here is not taken back by a start.
    std::thread::sleep(goodbye(config));
    said.to_owned()
}

/// Takes every program off and removes every pin and the directories, whatever the map layout. Returns what was removed.
pub(super) fn take_off(pins: &PinDir) -> anyhow::Result<Vec<PathBuf>> {
    let directories = pins.versions()?;
    let mut removed = Vec::new();
    // Links first, in all of them: no program outlives the names of its maps.
    for directory in &directories {
        for link in pins::listed(directory)?.into_iter().filter(|path| pins::is_link(path)) {
            // A link goes with its last pin, unless somebody else holds it open.
            if let Ok(fd) = sys::object_get(&link) {
                let _ = sys::link_detach(fd.as_fd());
            }
            pins::remove(&link)?;
            removed.push(link);
        }
    }
    for directory in directories {
        pins::end_lease(&directory);
        removed.extend(pins::listed(&directory)?);
        pins::remove_tree(&directory)?;
        removed.push(directory);
    }
    // The root may be the package's own directory, and not ours to remove: then it stays, empty.
    if fs::remove_dir(pins.path()).is_ok() {
        removed.push(pins.path().to_owned());
    }
    Ok(removed)
}

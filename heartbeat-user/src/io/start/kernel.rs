//! The kernel side of a start: loads the object, opens the pins, takes on what is in them, and takes back what was made
//! if the start fails. It says nothing to a peer, and decides nothing about who this node is.

use crate::cli::ExitCode;
use crate::config::{Config, FastPath};
use crate::core::identity::Identity;
use crate::io::failure::Failure;
use crate::io::lock::{Locks, take_former_pins};
use crate::io::memory::Shared;
use crate::io::object::Object;
use crate::io::pins::PinDir;
use crate::io::state::State;
use crate::io::{attach, clock, detach, interfaces, page};
use heartbeat_common::maps::{self, Own};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The kernel side, or why there is none.
pub(super) type Kernel = Result<(Object, PinDir), String>;

/// Takes back what a start that fails has put into the kernel; what an earlier controller left for its successor stays
/// as it is.
pub(super) struct Undo {
    /// The pins that this start made.
    pub(super) pins: Option<PinDir>,
    /// The second pin of the lease's page.
    pub(super) lease_pin: Option<PathBuf>,
}

impl Undo {
    pub(super) fn new(kernel: &Kernel, adopt: bool) -> Self {
        let pins = if adopt { None } else { kernel.as_ref().ok().map(|(_, pins)| pins.clone()) };
        Self { pins, lease_pin: None }
    }

    /// The start did not fail.
    pub(super) fn keep(&mut self) {
        (self.pins, self.lease_pin) = (None, None);
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.lease_pin.take().map(|pin| page::pin::remove(&pin)) {
            log::error!("not everything could be taken back: {error:#}");
        }
        if let Some(pins) = self.pins.take() {
            let undone = pins.hold().and_then(|ours| match ours {
                true => attach::remove_other_links(&pins, &[]).and_then(|()| pins.remove_all()),
                false => Ok(()),
            });
            if let Err(error) = undone {
                log::error!("not everything could be taken back: {error:#}");
            }
        }
    }
}

/// Mends what an earlier controller may have left in the ticks: locks it was killed under, and MAC states of its keys.
pub(super) fn take_over_ticks(shared: &Shared) {
    let locks = shared.repair_locks();
    if locks > 0 {
        log::warn!("{locks} ticks were left locked by an earlier controller that was killed; freed");
    }
    shared.forget_mac_states();
}

/// Loads the object and opens the pins, where any interface is to be answered in the kernel. Says too whether the pins
/// were made here: until the lock is had, whoever has it may still remove those that were there.
pub(super) fn kernel_side(
    config: &Config,
    own: u16,
    file: Option<&Path>,
    locks: &mut Locks,
) -> Result<(Kernel, bool), Failure> {
    let mine: Vec<IpAddr> =
        config.node(own).map_or_else(Vec::new, |node| node.addresses.iter().map(|(_, a)| *a).collect());
    let names: Vec<String> = interfaces::by_address()
        .map_err(Failure::host)?
        .into_iter()
        .filter(|(address, _)| mine.contains(address))
        .map(|(_, interface)| interface.name)
        .collect();
    let wanted: Vec<FastPath> =
        names.iter().map(|name| config.fast_path(name)).chain([config.daemon.fast_path]).collect();
    if wanted.iter().all(|wanted| *wanted == FastPath::Off) {
        return Ok((without_kernel(config, locks, "fast_path = \"off\"".to_owned())?, false));
    }
    let must = wanted.iter().any(|wanted| matches!(wanted, FastPath::Native | FastPath::Generic));
    let root = &config.daemon.pin_dir;
    let mut made = false;
    let mut open = || -> Result<(Object, PinDir), Failure> {
        let pins = PinDir::open(root).map_err(Failure::host)?;
        locks.take_pins(&pins, patience(config))?;
        for other in pins.remove_foreign_versions().map_err(Failure::host)? {
            log::warn!("{other}: pins of another map layout were removed");
        }
        if let Err(error) = pins.check_maps() {
            log::warn!("{error:#}: all pins are made anew");
            pins.clear().map_err(Failure::host)?;
        }
        made = !pins.map(maps::OWN).exists();
        let object = Object::load(file, &pins).map_err(Failure::host)?;
        Ok((object, pins))
    };
    match open() {
        Ok(kernel) => Ok((Ok(kernel), made)),
        // A directory that somebody else made is refused whatever was asked for, and so is a second controller.
        Err(failure) if must || failure.code == ExitCode::AnotherInstance || is_squatted(root) => Err(failure),
        Err(failure) => Ok((without_kernel(config, locks, format!("{failure}"))?, false)),
    }
}

/// Goes without the kernel. A program that an earlier controller left would go on answering, and swallow what is meant
/// for us; that of one that runs is its own.
fn without_kernel(config: &Config, locks: &mut Locks, reason: String) -> Result<Kernel, Failure> {
    if let Some(pins) = locks.take_left_pins(&config.daemon.pin_dir, patience(config))? {
        pins.remove_links().map_err(Failure::host)?;
        // Nobody renews or ends that page any more, and an own grant in it would stand for ever.
        page::close_pinned(&pins.map(maps::LEASE)).map_err(Failure::host)?;
    }
    Ok(Err(reason))
}

/// Takes off what an earlier controller of this node left in another pin directory, `noted` by its start, than the one
/// that is configured now. Its program would answer on under the incarnation before, and renew a page that nobody looks
/// after any more, while a new incarnation that is heard says that all of the old one has stopped. That what was left there
/// has stopped is waited for as after lost pins. Says whether there was anything.
pub(super) fn leave_former_pins(config: &Config, noted: Option<&Path>) -> Result<bool, Failure> {
    let Some(former) = noted.filter(|noted| *noted != config.daemon.pin_dir) else { return Ok(false) };
    let Some(pins) = take_former_pins(former, patience(config))? else { return Ok(false) };
    let removed = detach::take_off(&pins).map_err(Failure::host)?;
    if removed.is_empty() {
        return Ok(false);
    }
    log::warn!(
        "pin_dir was {} before: what the controller before had there is off, and this node a new incarnation",
        former.display()
    );
    Ok(true)
}

/// How long the pin directory is tried for: a `heartbeatctl detach` that came into the gap of a restart is over by then.
fn patience(config: &Config) -> Duration {
    detach::goodbye(Some(config)) + Duration::from_secs(3)
}

/// Says whether the pin directory is there but not ours alone.
fn is_squatted(root: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::symlink_metadata(root)
        .is_ok_and(|found| found.uid() != nix::unistd::geteuid().as_raw() || found.mode() & 0o077 != 0)
}

/// Says whether a directory is there and not empty.
pub(super) fn holds_anything(directory: &Path) -> bool {
    std::fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_some())
}

/// Makes the kernel's records those of this identity. A new incarnation begins only after the program of the old one
/// was taken off: that it is heard proves that the old one has stopped. Says whether the page of the lease is kept.
pub(super) fn take_on(
    kernel: &Kernel,
    shared: &Shared,
    identity: &Identity,
    state: &State,
    plan: u64,
) -> Result<bool, Failure> {
    if !identity.adopt {
        if let Ok((_, pins)) = kernel {
            attach::remove_other_links(pins, &[]).map_err(Failure::host)?;
        }
        for path in 0..shared.paths() {
            shared.clear_tick(path);
        }
    }
    let kept = shared.page().take_on(identity.incarnation, state.boot, identity.adopt);
    // Only the deciding loop proves progress: an adopted program goes on showing the age that it had. A new incarnation
    // begins fresh, so that its first echoes do not show a controller that never made progress.
    let progress_ns = if identity.adopt { shared.progress() } else { clock::now().0 };
    shared.set_own(&Own {
        abi: maps::ABI.into(),
        progress_ns,
        flags: 0,
        incarnation: identity.incarnation,
        generation: identity.generation.into(),
        boot: state.boot,
        state_id: state.state_id,
        plan,
    });
    Ok(kept)
}

//! Attaching the XDP program to a device, taking a pinned link over, and noticing that one was lost. It steps down a mode
//! only where it was allowed to, and says so; it decides nothing about paths.

use crate::io::object::Object;
use crate::io::pins::{self, PinDir};
use crate::io::sys;
use anyhow::Context;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::XdpLink;
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

/// How frames of an interface are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// By XDP in the driver.
    Native,
    /// By XDP in the network stack.
    Generic,
    /// By the userspace responder.
    Userspace,
}

impl Mode {
    /// Returns the stable name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Userspace => "userspace",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// An XDP program on a device, held by a pinned link.
#[derive(Debug)]
pub struct Attachment {
    /// Index of the device.
    pub ifindex: u32,
    /// Native or generic.
    pub mode: Mode,
    /// Id of the program that was put there.
    program: u32,
    link: OwnedFd,
    pin: PathBuf,
}

/// What became of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkHealth {
    /// Attached where it was put, with the program that was put there.
    Alive,
    /// Detached or given another program behind our back, or its device is gone.
    Detached,
}

impl Attachment {
    /// Asks the kernel whether the link still does its work. One call, no waiting.
    #[must_use]
    pub fn health(&self) -> LinkHealth {
        match sys::xdp_link_info(self.link.as_fd()) {
            Ok(info) if info.ifindex == self.ifindex && info.program == self.program => LinkHealth::Alive,
            _ => LinkHealth::Detached,
        }
    }

    /// Says whether the pin is still there and still this link's; the descriptor keeps the link without it, but not over
    /// a restart.
    #[must_use]
    pub fn pinned(&self) -> bool {
        sys::is_pinned_at(self.link.as_fd(), &self.pin)
    }

    /// Makes the pin again, in place of whatever has its name: in a directory of ours nothing else has a use.
    ///
    /// # Errors
    /// If the directory does not take it.
    pub fn restore_pin(&self) -> anyhow::Result<()> {
        pins::remove(&self.pin)?;
        sys::object_pin(self.link.as_fd(), &self.pin).with_context(|| format!("pin {}", self.pin.display()))
    }

    /// Takes the program off the device and, where the pin directory is `ours`, removes the pin: in another
    /// controller's directory the pin of that name is its own.
    ///
    /// # Errors
    /// If the pin cannot be removed. A link that is already dead is fine.
    pub fn detach(self, ours: bool) -> anyhow::Result<()> {
        let _ = sys::link_detach(self.link.as_fd());
        if ours { pins::remove(&self.pin) } else { Ok(()) }
    }
}

/// Why a mode could not be had.
#[derive(Debug)]
pub enum AttachError {
    /// Somebody else's XDP program is on the device.
    Foreign {
        /// Id of that program.
        program: u32,
    },
    /// The device or the kernel does not support the mode.
    Unsupported(anyhow::Error),
}

impl fmt::Display for AttachError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Foreign { program } => write!(
                formatter,
                "another XDP program is on the device (id {program}, see `bpftool prog show id {program}`); heartbeat \
                 takes nothing over that is not its own"
            ),
            Self::Unsupported(error) => write!(formatter, "{error:#}"),
        }
    }
}

/// Attaches the XDP program to a device in one mode, or puts it into a pinned link of that device and mode. Where the
/// pin directory is not `ours`, nothing in it is touched: the link then lives by its descriptor alone until it can be
/// pinned.
///
/// # Errors
/// If the mode cannot be had there.
pub fn attach(
    object: &mut Object,
    pins: &PinDir,
    ours: bool,
    ifindex: u32,
    mode: Mode,
) -> Result<Attachment, AttachError> {
    let pin = pins.link(mode.name(), ifindex);
    let left = if ours { take_over(object, &pin, ifindex) } else { Ok(None) };
    match left {
        Ok(Some(link)) => return attachment(ifindex, mode, link, pin),
        Ok(None) => {}
        Err(error) => return Err(AttachError::Unsupported(error)),
    }
    if mode == Mode::Userspace {
        return Err(AttachError::Unsupported(anyhow::anyhow!("userspace is no XDP mode")));
    }
    match sys::xdp_program_of(ifindex) {
        Ok(Some((program, _))) => return Err(AttachError::Foreign { program }),
        Ok(None) => {}
        Err(error) => return Err(AttachError::Unsupported(error)),
    }
    let mut fresh = || -> anyhow::Result<OwnedFd> {
        let xdp = object.xdp()?;
        let program = xdp.fd().context("the XDP program is not loaded")?.as_fd();
        let link =
            sys::xdp_link(program, ifindex, mode == Mode::Generic).with_context(|| format!("attach {mode} XDP"))?;
        if ours {
            sys::object_pin(link.as_fd(), &pin).with_context(|| format!("pin {}", pin.display()))?;
        }
        Ok(link)
    };
    match fresh() {
        Ok(link) => attachment(ifindex, mode, link, pin),
        Err(error) => Err(AttachError::Unsupported(error)),
    }
}

fn attachment(ifindex: u32, mode: Mode, link: OwnedFd, pin: PathBuf) -> Result<Attachment, AttachError> {
    let info = sys::xdp_link_info(link.as_fd()).map_err(|error| AttachError::Unsupported(error.into()))?;
    Ok(Attachment { ifindex, mode, program: info.program, link, pin })
}

/// Returns the mode in which a program of ours is still attached to a device, left by an earlier controller.
///
/// # Errors
/// If the pins cannot be read.
pub fn pinned_mode(pins: &PinDir, ifindex: u32) -> anyhow::Result<Option<Mode>> {
    for mode in [Mode::Native, Mode::Generic] {
        let alive = sys::object_get(&pins.link(mode.name(), ifindex))
            .and_then(|fd| sys::xdp_link_info(fd.as_fd()))
            .is_ok_and(|info| info.ifindex == ifindex);
        if alive {
            return Ok(Some(mode));
        }
    }
    Ok(None)
}

/// Takes a pinned link off its device and removes the pin, where there is one.
///
/// # Errors
/// If the pin cannot be removed.
pub fn remove_link(pins: &PinDir, mode: Mode, ifindex: u32) -> anyhow::Result<()> {
    let path = pins.link(mode.name(), ifindex);
    if let Ok(fd) = sys::object_get(&path) {
        let _ = sys::link_detach(fd.as_fd());
    }
    pins::remove(&path)
}

/// Puts the program into the pinned link at `pin`, in one step that loses no frame. `None` if there is no link, or
/// only one of a device that is gone, which is then removed: such a link stays listed, dead, for ever.
fn take_over(object: &mut Object, pin: &std::path::Path, ifindex: u32) -> anyhow::Result<Option<OwnedFd>> {
    let fd = match sys::object_get(pin) {
        Ok(fd) => fd,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("open {}", pin.display())),
    };
    let alive = sys::xdp_link_info(fd.as_fd()).is_ok_and(|info| info.ifindex == ifindex);
    if !alive {
        pins::remove(pin)?;
        return Ok(None);
    }
    let link = XdpLink::try_from(FdLink::from(PinnedLink::from_pin(pin)?))?;
    let xdp = object.xdp()?;
    let id = xdp.attach_to_link(link).with_context(|| format!("put the program into {}", pin.display()))?;
    // aya would detach the link when it is dropped; the pin and our own descriptor hold it.
    drop(FdLink::try_from(xdp.take_link(id)?).map_err(|_| anyhow::anyhow!("not a bpf link"))?);
    Ok(Some(fd))
}

/// Removes the pinned links of a device in every mode but `keep`, or of devices that are gone.
///
/// # Errors
/// If a pin cannot be removed.
pub fn remove_other_links(pins: &PinDir, keep: &[(Mode, u32)]) -> anyhow::Result<()> {
    for (mode, ifindex, path) in pins.links()? {
        if keep.iter().any(|(kept, index)| kept.name() == mode && *index == ifindex) {
            continue;
        }
        if let Ok(fd) = sys::object_get(&path) {
            let _ = sys::link_detach(fd.as_fd());
        }
        pins::remove(&path)?;
    }
    Ok(())
}

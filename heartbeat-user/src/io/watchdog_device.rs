//! The machine's watchdog device: what ends the acts of a node on which nothing runs any more. It is armed when this
//! node begins to act, fed only with a valid reading of the lease, and disarmed when everything has stopped; else it
//! resets the machine. It judges no lease itself.
//!
//! ```text
//! closed --may act: open, set, read back--> armed --may act: fed--> armed
//!    ^                                        | may not act: not fed, and the time runs
//!    `----- everything stopped: 'V', close ---'
//! ```
//!
//! Each end of the daemon by which it says that it has stopped disarms it: when it was told to stop or to leave, when a view
//! left it out, when a newer incarnation of it is known, and when its disk failed. It stays armed where something still
//! runs, at a handover and at a crash: its successor takes it over as it is within the time-out, or the machine is reset.

mod guard;

pub use guard::Guard;

use crate::lease::{Refused, Token};
use anyhow::{Context, bail};
use nix::unistd::{AccessFlags, access};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// `WDIOF_MAGICCLOSE`, from linux/watchdog.h: it can be disarmed.
const MAGIC_CLOSE: u32 = 0x100;
/// The byte that says that the close to come is meant.
const MAGIC: &[u8] = b"V";

const NO_WATCHDOG: &str = "is no watchdog device";

/// `struct watchdog_info`, from linux/watchdog.h.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Info {
    /// What it can, as bits of `WDIOF_*`.
    pub options: u32,
    /// Version of its firmware.
    pub firmware_version: u32,
    /// What it is called.
    pub identity: [u8; 32],
}

/// An open watchdog: it runs.
pub trait Watchdog: Send {
    /// Returns what it can.
    ///
    /// # Errors
    /// As `WDIOC_GETSUPPORT`.
    fn info(&mut self) -> io::Result<Info>;
    /// Asks for a time-out in seconds; the device takes the nearest that it has.
    ///
    /// # Errors
    /// As `WDIOC_SETTIMEOUT`.
    fn set_timeout(&mut self, seconds: u32) -> io::Result<()>;
    /// Returns the time-out that is in force, in seconds.
    ///
    /// # Errors
    /// As `WDIOC_GETTIMEOUT`.
    fn timeout(&mut self) -> io::Result<u32>;
    /// Begins the time-out anew.
    ///
    /// # Errors
    /// As `WDIOC_KEEPALIVE`.
    fn feed(&mut self) -> io::Result<()>;
    /// Writes the byte that lets the close to come disarm it.
    ///
    /// # Errors
    /// As write(2).
    fn announce_close(&mut self) -> io::Result<()>;
}

#[allow(missing_docs, reason = "the macro documents nothing that it makes")]
mod calls {
    nix::ioctl_read!(get_support, b'W', 0, super::Info);
    nix::ioctl_read!(keep_alive, b'W', 5, libc::c_int);
    nix::ioctl_readwrite!(set_timeout, b'W', 6, libc::c_int);
    nix::ioctl_read!(get_timeout, b'W', 7, libc::c_int);
}

/// The kernel's.
#[derive(Debug)]
pub struct Device(File);

impl Device {
    /// Opens the device, which arms it.
    ///
    /// # Errors
    /// As open(2): busy if another has it.
    pub fn open(path: &Path) -> io::Result<Self> {
        OpenOptions::new().write(true).custom_flags(libc::O_CLOEXEC).open(path).map(Self)
    }
}

impl Watchdog for Device {
    fn info(&mut self) -> io::Result<Info> {
        let mut info = Info::default();
        // SAFETY: the kernel writes a `watchdog_info` into one that lives through the call.
        unsafe { calls::get_support(self.0.as_raw_fd(), &mut info) }?;
        Ok(info)
    }

    fn set_timeout(&mut self, seconds: u32) -> io::Result<()> {
        let mut seconds = libc::c_int::try_from(seconds).map_err(io::Error::other)?;
        // SAFETY: the kernel reads and writes an int that lives through the call.
        unsafe { calls::set_timeout(self.0.as_raw_fd(), &mut seconds) }?;
        Ok(())
    }

    fn timeout(&mut self) -> io::Result<u32> {
        let mut seconds = 0;
        // SAFETY: as above.
        unsafe { calls::get_timeout(self.0.as_raw_fd(), &mut seconds) }?;
        u32::try_from(seconds).map_err(io::Error::other)
    }

    fn feed(&mut self) -> io::Result<()> {
        let mut unused = 0;
        // SAFETY: as above.
        unsafe { calls::keep_alive(self.0.as_raw_fd(), &mut unused) }?;
        Ok(())
    }

    fn announce_close(&mut self) -> io::Result<()> {
        self.0.write_all(MAGIC)
    }
}

impl<W: Watchdog + ?Sized> Watchdog for Box<W> {
    fn info(&mut self) -> io::Result<Info> {
        (**self).info()
    }

    fn set_timeout(&mut self, seconds: u32) -> io::Result<()> {
        (**self).set_timeout(seconds)
    }

    fn timeout(&mut self) -> io::Result<u32> {
        (**self).timeout()
    }

    fn feed(&mut self) -> io::Result<()> {
        (**self).feed()
    }

    fn announce_close(&mut self) -> io::Result<()> {
        (**self).announce_close()
    }
}

/// Opens a watchdog; [`Device::open`] in earnest.
pub type Open<W> = Box<dyn FnMut() -> io::Result<W> + Send>;

/// What holds the device.
pub struct Feeder<W> {
    open: Open<W>,
    armed: Option<W>,
    /// How long the daemon may make no progress: no watchdog may be quicker.
    hang_limit: Duration,
}

impl Feeder<Box<dyn Watchdog>> {
    /// Makes the feeder of the device at `path`; it is opened when this node first acts.
    #[must_use]
    pub fn of(path: PathBuf, hang_limit: Duration) -> Self {
        Self::new(Box::new(move || Ok(Box::new(Device::open(&path)?) as Box<dyn Watchdog>)), hang_limit)
    }
}

impl<W: Watchdog> Feeder<W> {
    /// Makes a feeder; nothing is opened yet.
    #[must_use]
    pub fn new(open: Open<W>, hang_limit: Duration) -> Self {
        Self { open, armed: None, hang_limit }
    }

    /// Says whether the device runs.
    #[must_use]
    pub fn is_armed(&self) -> bool {
        self.armed.is_some()
    }

    /// Tries the device for the start: opens it, asks of it what it will have to do, and closes it disarmed. Nothing
    /// runs yet then that it would have to end.
    ///
    /// # Errors
    /// If it cannot be had, cannot be disarmed, or would be quicker than the hang limit.
    pub fn probe(&mut self) -> anyhow::Result<()> {
        if self.armed.is_none() {
            let mut watchdog = self.ready()?;
            watchdog.announce_close().context("disarm the watchdog device")?;
        }
        Ok(())
    }

    /// Takes over what an earlier controller of the same incarnation may have left armed, and what it guarded runs on: it
    /// is opened, which feeds it, and stays armed from there on. `acting`: this node may act just now. Where it may not,
    /// and the device is not known to run, it is tried as at any other start.
    ///
    /// # Errors
    /// As [`Self::probe`].
    pub fn take_over(&mut self, acting: bool, runs: impl FnOnce() -> bool) -> anyhow::Result<()> {
        if !acting && !runs() {
            return self.probe();
        }
        if self.armed.is_none() {
            self.armed = Some(self.ready()?);
        }
        Ok(())
    }

    /// Puts another hang limit into force: the time-out becomes that long, without a moment in which the device does not
    /// run if it does. To be called before a longer limit is in force, and after a shorter one is.
    ///
    /// # Errors
    /// If the device cannot have it: the former limit and time-out stay.
    pub fn retime(&mut self, hang_limit: Duration) -> anyhow::Result<()> {
        let before = std::mem::replace(&mut self.hang_limit, hang_limit);
        let tried = match &mut self.armed {
            Some(watchdog) => suits(watchdog, hang_limit),
            None => self.probe(),
        };
        if tried.is_err() {
            self.hang_limit = before;
            if let Some(watchdog) = &mut self.armed {
                suits(watchdog, before).context("put the former time-out back")?;
            }
        }
        tried
    }

    /// Takes what the page has just said: arms the device when this node begins to act, feeds it while it may, and lets
    /// its time run while it may not.
    ///
    /// # Errors
    /// If the device cannot be armed or fed. The caller says so, and this node acts on: it is the lease that says who may
    /// act, and the device guards beside it. A device that is armed and not fed resets the machine.
    pub fn handle(&mut self, judged: Result<Token, Refused>) -> anyhow::Result<()> {
        if judged.is_err() {
            return Ok(());
        }
        match &mut self.armed {
            Some(watchdog) => watchdog.feed().context("feed the watchdog device"),
            None => {
                // To be opened is to be fed.
                self.armed = Some(self.ready()?);
                Ok(())
            }
        }
    }

    /// Disarms the device, once everything that ran under the lease has stopped.
    ///
    /// # Errors
    /// If it cannot be told: it stays armed then, and is to be told again.
    pub fn everything_stopped(&mut self) -> anyhow::Result<()> {
        if let Some(watchdog) = &mut self.armed {
            watchdog.announce_close().context("disarm the watchdog device")?;
            self.armed = None;
        }
        Ok(())
    }

    /// Opens the device and makes sure of it, or closes it disarmed.
    fn ready(&mut self) -> anyhow::Result<W> {
        let mut watchdog = (self.open)().context("open the watchdog device")?;
        match suits(&mut watchdog, self.hang_limit) {
            Ok(()) => Ok(watchdog),
            Err(error) => {
                // Nothing to be done if this fails too: the machine is reset, and the log says why.
                let _ = watchdog.announce_close();
                Err(error)
            }
        }
    }
}

/// Sets the time-out and believes only what is read back.
fn suits<W: Watchdog>(watchdog: &mut W, hang_limit: Duration) -> anyhow::Result<()> {
    let info = watchdog.info().context("ask the watchdog device what it can")?;
    if info.options & MAGIC_CLOSE == 0 {
        bail!("the watchdog device cannot be disarmed: each orderly end of heartbeatd would reset this machine");
    }
    let least = u32::try_from(hang_limit.as_millis().div_ceil(1_000)).context("hang_limit_s")?;
    // A device without a choice says no; what it has is judged below.
    let set = watchdog.set_timeout(least);
    let found = watchdog.timeout().context("read the time-out of the watchdog device")?;
    if found >= least {
        return Ok(());
    }
    let why = set.err().map(|error| format!(" (it cannot be set: {error})")).unwrap_or_default();
    bail!(
        "the watchdog device resets this machine after {found} s{why}, sooner than hang_limit_s ({least} s): it would \
         kill the very daemon that the kernel has just carried"
    )
}

/// Says whether the kernel knows that the device at `path` runs: some do not tell, and count as one that does not.
#[must_use]
pub fn runs(path: &Path) -> bool {
    entry_of(path).is_some_and(|entry| state_of(&entry))
}

fn state_of(entry: &Path) -> bool {
    std::fs::read_to_string(entry.join("state")).is_ok_and(|state| state.trim() == "active")
}

/// Returns what the kernel says of a device; `None` if `path` is none.
fn entry_of(path: &Path) -> Option<PathBuf> {
    let found = std::fs::metadata(path).ok().filter(|found| found.file_type().is_char_device())?;
    let (major, minor) = (nix::sys::stat::major(found.rdev()), nix::sys::stat::minor(found.rdev()));
    // Miscellaneous device 130 is the first watchdog under its old name, which has no entry of its own.
    Some(if (major, minor) == (10, 130) {
        PathBuf::from("/sys/class/watchdog/watchdog0")
    } else {
        PathBuf::from(format!("/sys/dev/char/{major}:{minor}"))
    })
}

/// Looks at the device without opening it, which would arm it, for `heartbeatd check`.
///
/// # Errors
/// If it is no watchdog device, if this user may not write to it, if its driver or the kernel's command line forbids
/// disarming it, or if it is known to have no time-out as long as the hang limit.
pub fn check(path: &Path, hang_limit: Duration) -> anyhow::Result<()> {
    std::fs::metadata(path).with_context(|| path.display().to_string())?;
    let Some(entry) = entry_of(path) else { bail!("{}: {NO_WATCHDOG}", path.display()) };
    check_entry(&entry, hang_limit).with_context(|| path.display().to_string())?;
    access(path, AccessFlags::W_OK).with_context(|| format!("{}: cannot be written by this user", path.display()))
}

fn check_entry(entry: &Path, hang_limit: Duration) -> anyhow::Result<()> {
    if let Ok(class) = std::fs::read_link(entry.join("subsystem"))
        && class.file_name() != Some("watchdog".as_ref())
    {
        bail!("{NO_WATCHDOG}");
    }
    // A kernel that does not say leaves it to the start, which asks the device.
    let number = |name: &str| std::fs::read_to_string(entry.join(name)).ok()?.trim().parse::<u64>().ok();
    if number("nowayout") == Some(1) {
        bail!("it cannot be disarmed (nowayout): each orderly end of heartbeatd would reset this machine");
    }
    match number("max_timeout") {
        Some(most @ 1..) if Duration::from_secs(most) < hang_limit => bail!(
            "it resets this machine after {most} s at the latest, sooner than hang_limit_s ({} s)",
            hang_limit.as_secs()
        ),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;

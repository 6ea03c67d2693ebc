//! A small disk of its own for a directory of a node, which can be filled, made read-only and emptied again. It is
//! unmounted with the lab. It touches no disk of the machine.

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

/// A file system in memory, mounted in a lab's scratch directory.
#[derive(Debug)]
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one of so many bytes at a directory, which is made.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn mount(at: &Path, bytes: u64) -> Result<Self> {
        fs::create_dir_all(at).with_context(|| format!("making {}", at.display()))?;
        let options = format!("size={bytes},mode=0700");
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("tmpfs"), at, Some("tmpfs"), flags, Some(options.as_str()))
            .with_context(|| format!("mounting a small disk at {}", at.display()))?;
        Ok(Self(at.to_owned()))
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    /// Takes every byte that is left.
    ///
    /// # Errors
    /// If the filling cannot be begun.
    pub fn fill(&self) -> Result<()> {
        let mut file = fs::File::create(self.filler()).context("the filler")?;
        for size in [4096, 1] {
            // The last write fails: that is what it is for.
            while file.write_all(&vec![1; size]).is_ok() {}
        }
        Ok(())
    }

    /// Gives the room back.
    ///
    /// # Errors
    /// If there is none to give.
    pub fn free(&self) -> Result<()> {
        fs::remove_file(self.filler()).context("removing the filler")
    }

    /// Lets nothing be written, or lets it again.
    ///
    /// # Errors
    /// If the kernel refuses, as it does where a file is open for writing.
    pub fn read_only(&self, on: bool) -> Result<()> {
        let none: Option<&str> = None;
        let mode = if on { MsFlags::MS_RDONLY } else { MsFlags::empty() };
        mount(none, &self.0, none, MsFlags::MS_REMOUNT | mode, none).context("changing how it is mounted")
    }
}

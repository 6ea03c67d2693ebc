//! What an installation consists of: every file, where it goes and with which mode.
//! It reads directories to see what is there, and writes nothing.

use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// Where a file's content comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file, as it is.
    Copy(PathBuf),
    /// This text.
    Text(String),
}

/// One file of an installation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its content.
    pub source: Source,
    /// Its path in the installed system, absolute.
    pub to: PathBuf,
    /// Its mode.
    pub mode: u32,
}

/// An installation.
#[derive(Debug)]
pub struct Plan {
    /// Files.
    pub files: Vec<File>,
    /// Directories that are made even though no file of ours goes there.
    pub directories: Vec<PathBuf>,
}

impl Plan {
    /// Makes the plan of an installation from the tree at `top`, with man pages and completions from `generated`.
    ///
    /// # Errors
    /// A directory that has to be there cannot be read.
    pub fn make(top: &Path, generated: &Path, prefix: &Path) -> Result<Self> {
        let mut plan = Self { files: Vec::new(), directories: vec!["/etc/heartbeatd".into()] };
        let release = top.join("target/release");
        plan.copy(&release.join("heartbeatd"), &prefix.join("sbin/heartbeatd"), 0o755);
        plan.copy(&release.join("heartbeatctl"), &prefix.join("bin/heartbeatctl"), 0o755);

        let packaging = top.join("packaging");
        plan.units(&packaging, prefix)?;
        for kind in ["sysusers.d", "tmpfiles.d"] {
            plan.all(&packaging.join(kind), &prefix.join("lib").join(kind), ".conf")?;
        }
        plan.copy(&packaging.join("heartbeat_lease.h"), &prefix.join("include/heartbeat_lease.h"), 0o644);
        let documents = prefix.join("share/doc/heartbeatd");
        plan.copy(&packaging.join("heartbeatd.toml"), &documents.join("heartbeatd.toml"), 0o644);
        plan.all(top, &documents, ".md")?;
        // In a directory of their own, as here: they and the README refer to each other by that.
        plan.all(&top.join("docs"), &documents.join("docs"), ".md")?;
        for licence in ["LICENSE-MIT", "LICENSE-APACHE"] {
            plan.copy(&top.join(licence), &documents.join(licence), 0o644);
        }
        for section in ["1", "8"] {
            let pages = prefix.join(format!("share/man/man{section}"));
            plan.all(&generated.join("man"), &pages, &format!(".{section}"))?;
        }
        plan.completions(&generated.join("completions"), prefix)?;
        Ok(plan)
    }

    fn copy(&mut self, from: &Path, to: &Path, mode: u32) {
        self.files.push(File { source: Source::Copy(from.to_path_buf()), to: to.to_path_buf(), mode });
    }

    /// Adds every file in `from` whose name ends so.
    fn all(&mut self, from: &Path, to: &Path, end: &str) -> Result<()> {
        for name in names(from)?.iter().filter(|name| name.ends_with(end)) {
            self.copy(&from.join(name), &to.join(name), 0o644);
        }
        Ok(())
    }

    /// Adds the service's units, with the programs where this prefix has them.
    fn units(&mut self, packaging: &Path, prefix: &Path) -> Result<()> {
        for name in names(packaging)?.iter().filter(|name| name.ends_with(".service") || name.ends_with(".target")) {
            let path = packaging.join(name);
            let mut text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            for program in ["sbin/heartbeatd", "bin/heartbeatctl"] {
                text = text.replace(&format!("/usr/{program}"), &prefix.join(program).to_string_lossy());
            }
            let to = prefix.join("lib/systemd/system").join(name);
            self.files.push(File { source: Source::Text(text), to, mode: 0o644 });
        }
        Ok(())
    }

    fn completions(&mut self, from: &Path, prefix: &Path) -> Result<()> {
        let share = prefix.join("share");
        for name in names(from)? {
            let to = match name.strip_suffix(".bash") {
                Some(program) => share.join("bash-completion/completions").join(program),
                None if name.ends_with(".fish") => share.join("fish/vendor_completions.d").join(&name),
                None => share.join("zsh/vendor-completions").join(&name),
            };
            self.copy(&from.join(&name), &to, 0o644);
        }
        Ok(())
    }
}

/// Returns the names of the files in a directory, sorted.
fn names(directory: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let entry = entry.with_context(|| directory.display().to_string())?;
        if entry.path().is_file() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

//! `cargo xtask install` and `uninstall`: which file goes where, and taking exactly those away again.
//! It never touches a configuration, a key or a state that it did not make, unless told to purge.

mod plan;

use crate::shell;
use anyhow::{Context, Result, bail};
use plan::{Plan, Source};
use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

/// What belongs to the operator: kept by `uninstall`, unless it purges.
const KEPT: [&str; 3] = ["/etc/heartbeatd", "/var/lib/heartbeatd", "/var/log/heartbeatd"];

/// Where to install, or to uninstall from.
#[derive(clap::Args, Debug)]
pub struct Place {
    /// Install under DIR instead of into this system (for packages and tests)
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// Directory of programs, libraries and documents
    #[arg(long, value_name = "DIR", default_value = "/usr")]
    prefix: PathBuf,
}

/// Options of `uninstall`.
#[derive(clap::Args, Debug)]
pub struct Removal {
    #[command(flatten)]
    place: Place,
    /// Remove configuration, keys, state and events too
    #[arg(long)]
    purge: bool,
}

impl Place {
    /// Returns where an absolute path of the installed system lies from here.
    fn on_disk(&self, path: &Path) -> Result<PathBuf> {
        let inside = path.strip_prefix("/").with_context(|| format!("{} is not an absolute path", path.display()))?;
        if inside.components().any(|part| !matches!(part, Component::Normal(_))) {
            bail!("{} leaves the directory that it is installed under", path.display());
        }
        Ok(self.root.join(inside))
    }

    /// The list of what was installed, in the installed system.
    fn list(&self) -> PathBuf {
        self.prefix.join("share/heartbeatd/installed")
    }

    fn is_this_system(&self) -> bool {
        self.root == Path::new("/")
    }
}

/// Builds and installs everything.
///
/// # Errors
/// Something cannot be built, read or written.
pub fn install(place: &Place) -> Result<()> {
    let top = shell::root();
    shell::run(shell::cargo().args(["build", "--release", "--locked", "--package", "heartbeat-user", "--bins"]))?;
    let generated = top.join("target/generated");
    if generated.exists() {
        fs::remove_dir_all(&generated).with_context(|| generated.display().to_string())?;
    }
    let docs = ["run", "--quiet", "--locked", "--package", "xtask", "--features", "docs", "--", "generate"];
    shell::run(shell::cargo().args(docs).arg(&generated))?;
    let plan = Plan::make(&top, &generated, &place.prefix)?;
    put(place, &plan)?;
    println!("installed {} files under {}", plan.files.len(), place.root.display());
    if place.is_this_system() {
        println!(
            "next:\n  systemd-sysusers && systemd-tmpfiles --create && systemctl daemon-reload\n  \
             cp {}/share/doc/heartbeatd/heartbeatd.toml /etc/heartbeatd/    # and make it your cluster's\n  \
             heartbeatd genkey /etc/heartbeatd/cluster.key    # once, then copy it to every node\n  \
             chown heartbeatd: /etc/heartbeatd/cluster.key    # on every node: the service reads it\n  \
             heartbeatd check && systemctl enable --now heartbeatd",
            place.prefix.display()
        );
    }
    Ok(())
}

/// Removes what was installed.
///
/// # Errors
/// Nothing is installed there, or something cannot be removed.
pub fn uninstall(options: &Removal) -> Result<()> {
    let removed = take_away(&options.place)?;
    println!("removed {removed} files under {}", options.place.root.display());
    for kept in KEPT {
        let path = options.place.on_disk(Path::new(kept))?;
        if !path.exists() {
            continue;
        }
        if options.purge {
            fs::remove_dir_all(&path).with_context(|| path.display().to_string())?;
            println!("removed {}", path.display());
        } else {
            println!("kept {} (--purge removes it)", path.display());
        }
    }
    if options.place.is_this_system() {
        println!("a heartbeatd that still runs goes on until it is stopped: systemctl disable --now heartbeatd");
    }
    Ok(())
}

/// What was installed, as its list says: files, and the directories made for them.
#[derive(Debug, Default)]
struct Installed {
    files: BTreeSet<PathBuf>,
    directories: BTreeSet<PathBuf>,
}

impl Installed {
    fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path)
            .with_context(|| format!("{}: no heartbeatd was installed there by this command", path.display()))?;
        let mut installed = Self::default();
        for line in text.lines() {
            match line.split_once(' ') {
                Some(("file", path)) => installed.files.insert(path.into()),
                Some(("directory", path)) => installed.directories.insert(path.into()),
                _ => bail!("{}: `{line}` names neither a file nor a directory", path.display()),
            };
        }
        Ok(installed)
    }

    fn write(&self, path: &Path) -> Result<()> {
        let line = |kind: &str, path: &PathBuf| format!("{kind} {}\n", path.display());
        let directories = self.directories.iter().map(|path| line("directory", path));
        let text: String = directories.chain(self.files.iter().map(|path| line("file", path))).collect();
        replace(path, text.as_bytes(), 0o644)
    }
}

/// Carries out a plan. Files of an earlier installation that the plan no longer has are removed.
fn put(place: &Place, plan: &Plan) -> Result<()> {
    let list = place.on_disk(&place.list())?;
    let before = if list.exists() { Installed::read(&list)? } else { Installed::default() };
    let mut installed = Installed { directories: before.directories, ..Installed::default() };
    // Read everything first: a source that is missing must not leave half an installation.
    let mut contents = Vec::new();
    for file in &plan.files {
        let content = match &file.source {
            Source::Copy(from) => fs::read(from).with_context(|| from.display().to_string())?,
            Source::Text(text) => text.clone().into_bytes(),
        };
        contents.push((place.on_disk(&file.to)?, content, file.mode));
        installed.files.insert(file.to.clone());
    }
    for directory in &plan.directories {
        make_directory(place, directory, &mut installed.directories)?;
    }
    for (file, (to, content, mode)) in plan.files.iter().zip(contents) {
        if let Some(directory) = file.to.parent() {
            make_directory(place, directory, &mut installed.directories)?;
        }
        replace(&to, &content, mode)?;
    }
    if let Some(directory) = place.list().parent() {
        make_directory(place, directory, &mut installed.directories)?;
    }
    for old in before.files.difference(&installed.files) {
        remove(&place.on_disk(old)?)?;
    }
    installed.write(&list)
}

/// Makes a directory and those above it, and notes each that was not there.
fn make_directory(place: &Place, directory: &Path, made: &mut BTreeSet<PathBuf>) -> Result<()> {
    if directory == Path::new("/") {
        return fs::create_dir_all(&place.root).with_context(|| place.root.display().to_string());
    }
    let path = place.on_disk(directory)?;
    if path.is_dir() {
        return Ok(());
    }
    if let Some(above) = directory.parent() {
        make_directory(place, above, made)?;
    }
    fs::create_dir(&path).with_context(|| path.display().to_string())?;
    fs::set_permissions(&path, Permissions::from_mode(0o755)).with_context(|| path.display().to_string())?;
    made.insert(directory.to_path_buf());
    Ok(())
}

/// Replaces a file in one step, so that a program that runs is not written to.
fn replace(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let name = path.file_name().context("a file without a name")?.to_string_lossy();
    let new = path.with_file_name(format!(".{name}.new"));
    let write = || {
        fs::write(&new, content)?;
        fs::set_permissions(&new, Permissions::from_mode(mode))?;
        fs::rename(&new, path)
    };
    write().with_context(|| path.display().to_string())
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error).with_context(|| path.display().to_string()),
        _ => Ok(()),
    }
}

/// Removes what the list names, then the list, then the directories made for them that are empty now.
fn take_away(place: &Place) -> Result<usize> {
    let list = place.on_disk(&place.list())?;
    let installed = Installed::read(&list)?;
    for file in &installed.files {
        remove(&place.on_disk(file)?)?;
    }
    remove(&list)?;
    // Inner ones sort behind those that hold them.
    for directory in installed.directories.iter().rev() {
        let path = place.on_disk(directory)?;
        match fs::remove_dir(&path) {
            Err(error) if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty) => {
                return Err(error).with_context(|| path.display().to_string());
            }
            _ => {}
        }
    }
    Ok(installed.files.len())
}

#[cfg(test)]
mod tests;

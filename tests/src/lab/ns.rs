//! One network namespace and the ways into it: a command started there, a closure run there, a file of its sysfs.
//! Only the network namespace is ever entered for commands, because a new mount namespace would hide the pins.

use super::guard;
use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

/// Directory of named namespaces, as `ip netns` keeps it.
pub const NETNS_DIR: &str = "/run/netns";

/// A network namespace of one lab. Clones name the same namespace; its removal is the lab's.
#[derive(Clone, Debug)]
pub struct NodeNs {
    name: String,
    tag: String,
    file: Arc<File>,
}

impl NodeNs {
    /// Makes the namespace `<tag>-<short>`, with its loopback up.
    ///
    /// # Errors
    /// Fails when the lab is being torn down, or when `ip` does.
    pub fn create(tag: &str, short: &str) -> Result<Self> {
        ensure!(!guard::stopping(), "the lab is being torn down");
        let name = format!("{tag}-{short}");
        run(Command::new("ip").args(["netns", "add", &name]), "")?;
        let path = Path::new(NETNS_DIR).join(&name);
        let file = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
        let ns = Self { name, tag: tag.to_owned(), file: Arc::new(file) };
        ns.ip("link set lo up\n")?;
        Ok(ns)
    }

    /// Its name, as `ip netns list` shows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command that will run in this network namespace, in the mount namespace of the caller.
    /// It carries the lab's tag in its environment, by which it is found and ended with the lab.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env(guard::TAG_VARIABLE, &self.tag);
        let file = Arc::clone(&self.file);
        // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
        unsafe {
            command.pre_exec(move || setns(&*file, CloneFlags::CLONE_NEWNET).map_err(std::io::Error::from));
        }
        command
    }

    /// Runs `work` on a thread of its own in this namespace. Sockets made there stay there.
    ///
    /// # Errors
    /// Fails when the namespace cannot be entered. A panic of `work` goes on in the caller.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let inside = || -> Result<T> {
            setns(&*self.file, CloneFlags::CLONE_NEWNET).with_context(|| format!("entering {}", self.name))?;
            Ok(work())
        };
        match std::thread::scope(|scope| scope.spawn(inside).join()) {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Runs a program here to its end and returns what it printed.
    ///
    /// # Errors
    /// Fails when it cannot be started or ends with another status than 0; the error carries its stderr.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        run(self.command(program).args(arguments), "")
    }

    /// Gives `ip` a batch of commands, one a line.
    ///
    /// # Errors
    /// Fails at the first command that `ip` refuses.
    pub fn ip(&self, batch: &str) -> Result<()> {
        run(self.command("ip").args(["-batch", "-"]), batch).map(drop)
    }

    /// Gives `nft` a script: one transaction, all of it or nothing.
    ///
    /// # Errors
    /// Fails when `nft` refuses the script; nothing has changed then.
    pub fn nft(&self, script: &str) -> Result<()> {
        run(self.command("nft").args(["-f", "-"]), script).map(drop)
    }

    /// Writes a sysctl of this namespace, `path` below `/proc/sys/net`.
    ///
    /// # Errors
    /// Fails when the sysctl does not exist or refuses the value.
    pub fn sysctl(&self, path: &str, value: &str) -> Result<()> {
        let file = Path::new("/proc/sys/net").join(path);
        self.enter(|| std::fs::write(&file, value).with_context(|| format!("writing {value} to {}", file.display())))?
    }

    /// Writes a file of this namespace's sysfs (`path` below `/sys`) and returns what it then reads.
    /// The sysfs is mounted for the length of the call, on a thread with a mount namespace of its own.
    ///
    /// # Errors
    /// Fails when the file does not exist or refuses the value.
    pub fn sysfs(&self, path: &str, value: &str) -> Result<String> {
        let file = Path::new("/sys").join(path);
        self.enter(|| -> Result<String> {
            unshare(CloneFlags::CLONE_NEWNS).context("a mount namespace for sysfs")?;
            let none: Option<&str> = None;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("making mounts private")?;
            mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none).context("mounting sysfs")?;
            std::fs::write(&file, value).with_context(|| format!("writing {value} to {}", file.display()))?;
            Ok(std::fs::read_to_string(&file)?.trim().to_owned())
        })?
    }
}

/// Runs a command to its end with `input` on its stdin and returns its stdout.
///
/// # Errors
/// Fails when it cannot be started, or ends with another status than 0; the error carries its stderr and input.
pub fn run(command: &mut Command, input: &str) -> Result<String> {
    let shown = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {shown}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A command that ends without reading its input says why on stderr, which is more use than the broken pipe.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().with_context(|| format!("waiting for {shown}"))?;
    if !output.status.success() {
        bail!("{shown}: {}: {}\n{input}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

//! A `heartbeatd` in a node of the lab: configured, started, waited for, asked and ended. It reads what the daemon
//! says (readiness, events, status) and believes none of it: judging is the test's work.

use super::cluster::Cluster;
use super::follow::Follower;
use super::notify::Notify;
use super::starve::{self, Quota};
use super::wait::{binary, wait_for};
use super::{Lab, NodeNs};
use anyhow::{Context, Result, bail, ensure};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Gid, Pid, Uid, chown};
use serde_json::Value;
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

/// How long a daemon that gets no processor is asked for an answer.
const ASKING: Duration = Duration::from_secs(5);
const TMPFILES: &str = include_str!("../../../packaging/tmpfiles.d/heartbeatd.conf");

/// How one daemon is started. What is not said here is as the cluster or the lab has it.
#[derive(Debug)]
pub struct Options<'a> {
    /// `fast_path` of the configuration.
    pub fast_path: String,
    /// Further keys of `[daemon]`, values as they stand in the file.
    pub daemon: Vec<(String, String)>,
    /// Text that follows `[daemon]`, such as a table for one interface.
    pub extra: String,
    /// A key file other than the cluster's.
    pub key_file: Option<PathBuf>,
    /// Control group that it starts in.
    pub quota: Option<&'a Quota>,
    /// CPU that it is held to.
    pub cpu: Option<usize>,
    /// A command that starts it, such as `setpriv` with arguments; it must exec and not fork.
    pub wrapper: Vec<OsString>,
    /// User and group that own the node's directories and the key, where the wrapper makes it another user.
    pub owner: Option<(u32, u32)>,
    /// Variables of its environment.
    pub environment: Vec<(String, String)>,
    /// Further arguments of `heartbeatd run`.
    pub arguments: Vec<String>,
    /// How long it may take to be ready.
    pub ready_limit: Duration,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self {
            fast_path: "auto".to_owned(),
            daemon: Vec::new(),
            extra: String::new(),
            key_file: None,
            quota: None,
            cpu: None,
            wrapper: Vec::new(),
            owner: None,
            environment: Vec::new(),
            arguments: Vec::new(),
            // Programs are loaded and proved meanwhile, and others may do so at the same time.
            ready_limit: Duration::from_secs(30),
        }
    }
}

/// A running daemon. Dropping it kills it.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    ns: NodeNs,
    name: String,
    directory: PathBuf,
    notify: Notify,
}

/// A daemon of which all is there but its process.
#[derive(Debug)]
pub struct Prepared {
    command: Command,
    ns: NodeNs,
    name: String,
    directory: PathBuf,
    notify: Notify,
}

impl Prepared {
    /// Makes a daemon's files, and the command that starts it.
    ///
    /// # Errors
    /// Fails when there is no binary, or its files cannot be made.
    pub fn new(lab: &Lab, node: usize, cluster: &Cluster, options: &Options<'_>) -> Result<Self> {
        let program = binary("heartbeatd", "HEARTBEATD")?;
        if !cluster.key_file.exists() {
            make_key(&program, &cluster.key_file)?;
        }
        let directory = lab.node_dir(node);
        let config = directory.join("heartbeatd.toml");
        fs::write(&config, cluster.render(lab, node, options)).context("writing the configuration")?;
        fs::set_permissions(&config, fs::Permissions::from_mode(0o644)).context("the configuration's mode")?;
        let parts = [cluster.state_dir(lab, node), directory.join("run"), directory.join("log")];
        for path in parts {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&path).context("the daemon's directories")?;
        }
        if let Some(owner) = options.owner {
            give(lab, node, &cluster.key_file, owner)?;
        }
        let notify = Notify::listen(&directory.join("notify.sock"))?;
        let log = File::options().create(true).append(true).open(directory.join("heartbeatd.log"))?;
        let ns = lab.node(node).clone();
        let mut words = options.wrapper.clone();
        words.push(program.into_os_string());
        let mut command = ns.command(&words[0]);
        command.args(&words[1..]).arg("run").arg("--config").arg(&config).args(&options.arguments);
        command.env("NOTIFY_SOCKET", notify.path()).envs(options.environment.iter().cloned());
        if let Some(quota) = options.quota {
            quota.join(&mut command)?;
        }
        if let Some(cpu) = options.cpu {
            hold_to(&mut command, cpu)?;
        }
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(Self { command, ns, name: lab.spec().nodes[node].clone(), directory, notify })
    }

    /// Starts it and waits for nothing.
    ///
    /// # Errors
    /// Fails when the system starts no process.
    pub fn launch(self) -> Result<Daemon> {
        let Self { mut command, ns, name, directory, notify } = self;
        let child = command.spawn().with_context(|| format!("starting {}", command.get_program().display()))?;
        Ok(Daemon { child, ns, name, directory, notify })
    }
}

impl Daemon {
    /// Starts a daemon and waits until it says that it is ready.
    ///
    /// # Errors
    /// Fails when it cannot be started, ends, or is not ready in time; the error carries the end of its log.
    pub fn start(lab: &Lab, node: usize, cluster: &Cluster, options: &Options<'_>) -> Result<Self> {
        let mut daemon = Self::launch(lab, node, cluster, options)?;
        daemon.wait_ready(options.ready_limit)?;
        Ok(daemon)
    }

    /// Starts a daemon and waits for nothing.
    ///
    /// # Errors
    /// Fails when there is no binary, or its files cannot be made.
    pub fn launch(lab: &Lab, node: usize, cluster: &Cluster, options: &Options<'_>) -> Result<Self> {
        Prepared::new(lab, node, cluster, options)?.launch()
    }

    /// Waits until the daemon says that it is ready.
    ///
    /// # Errors
    /// Fails when it ends first or is not ready within `limit`; the error carries the end of its log.
    pub fn wait_ready(&mut self, limit: Duration) -> Result<()> {
        let end = Instant::now() + limit;
        while self.notify.ready().is_none() {
            if let Some(status) = self.child.try_wait().context("looking at the daemon")? {
                bail!("heartbeatd of node {} ended with {status} before it was ready:\n{}", self.name, self.log_end());
            }
            if Instant::now() > end {
                bail!("heartbeatd of node {} was not ready within {limit:?}:\n{}", self.name, self.log_end());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Name of its node.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its thread of a name.
    ///
    /// # Errors
    /// Fails when it has none.
    pub fn thread(&self, name: &str) -> Result<u32> {
        let threads = fs::read_dir(format!("/proc/{}/task", self.pid())).context("the daemon's threads")?;
        let named = |path: &Path| fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim() == name);
        let found = threads.flatten().map(|entry| entry.path()).find(|path| named(path));
        let number = found.as_deref().and_then(Path::file_name).and_then(|number| number.to_str()?.parse().ok());
        number.with_context(|| format!("heartbeatd of node {} has no thread {name}", self.name))
    }

    /// What it told the service manager.
    #[must_use]
    pub fn notify(&self) -> &Notify {
        &self.notify
    }

    /// Its configuration file.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.directory.join("heartbeatd.toml")
    }

    /// What it has written to stdout and stderr, earlier starts on this node included.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("heartbeatd.log")).unwrap_or_default()
    }

    fn log_end(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// Every event in its log, in order, earlier starts on this node included. A last line without its end is left
    /// for the next look.
    ///
    /// # Errors
    /// Fails when a line is not JSON.
    pub fn events(&self) -> Result<Vec<Value>> {
        read_events(&self.event_log())
    }

    /// Follows the event log from where it ends now.
    ///
    /// # Errors
    /// Those of [`Follower::from_end`].
    pub fn follow(&self) -> Result<Follower> {
        Follower::from_end(self.event_log())
    }

    fn event_log(&self) -> PathBuf {
        self.directory.join("log/events.jsonl")
    }

    /// Runs `heartbeatctl` against this daemon. Its exit code is the caller's to judge.
    ///
    /// # Errors
    /// Fails when it cannot be started.
    pub fn ctl(&self, arguments: &[&str]) -> Result<Output> {
        let program = binary("heartbeatctl", "HEARTBEATCTL")?;
        let socket = self.directory.join("run/control.sock");
        let mut command = self.ns.command(&program);
        command.arg("--socket").arg(socket).args(arguments).stdin(Stdio::null());
        command.output().with_context(|| format!("running {}", program.display()))
    }

    /// Runs `heartbeatctl` with `--json` and returns its answer. Exit code 4 (degraded) is an answer too. A deciding loop
    /// that this machine has no time for is asked again, for a while.
    ///
    /// # Errors
    /// Fails for any other exit code than 0 and 4, and when the answer is no JSON.
    pub fn ask(&self, verb: &str) -> Result<Value> {
        let until = Instant::now() + ASKING;
        let output = loop {
            let output = self.ctl(&[verb, "--json"])?;
            let said = String::from_utf8_lossy(&output.stderr);
            if matches!(output.status.code(), Some(0 | 4)) {
                break output;
            }
            ensure!(
                said.contains("did not answer within") && Instant::now() < until,
                "heartbeatctl {verb} on node {}: {}: {}",
                self.name,
                output.status,
                said.trim()
            );
            println!("node {} gave no answer to {verb} in time, and is asked again", self.name);
        };
        serde_json::from_slice(&output.stdout).with_context(|| format!("the answer to heartbeatctl {verb}"))
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// Fails when the daemon has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(self.pid().cast_signed()), signal).with_context(|| format!("{signal} to {}", self.name))
    }

    /// Stops it (SIGSTOP).
    ///
    /// # Errors
    /// Fails when it has ended.
    pub fn stop(&self) -> Result<()> {
        starve::stop(self.pid())
    }

    /// Lets it go on (SIGCONT).
    ///
    /// # Errors
    /// Fails when it has ended.
    pub fn resume(&self) -> Result<()> {
        starve::resume(self.pid())
    }

    /// How it has ended; `None`: it runs.
    ///
    /// # Errors
    /// Fails when the system does not tell.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().context("looking at the daemon")
    }

    /// Kills it (SIGKILL) and waits for its end.
    ///
    /// # Errors
    /// Fails when it cannot be waited for.
    pub fn kill(mut self) -> Result<ExitStatus> {
        self.child.kill().context("killing the daemon")?;
        self.child.wait().context("waiting for the daemon")
    }

    /// Asks it to end (SIGTERM) and waits.
    ///
    /// # Errors
    /// Fails when it has not ended within `limit`; it is killed then.
    pub fn terminate(self, limit: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait(limit)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// Fails when it has not ended within `limit`; it is killed then.
    pub fn wait(mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("the end of heartbeatd of node {}", self.name);
        wait_for(limit, &what, || match self.child.try_wait() {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err("still running".to_owned()),
            Err(error) => Err(error.to_string()),
        })
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- end of the log of node {}:\n{}\n---", self.name, self.log_end());
        }
        let _ = self.child.kill();
        let end = Instant::now() + Duration::from_secs(1);
        // A frozen daemon does not die before it is thawed; the lab's own removal ends it then.
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

pub(super) fn read_events(path: &Path) -> Result<Vec<Value>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
    };
    let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
    let parse = |line: &str| serde_json::from_str(line).with_context(|| format!("event {line:?}"));
    whole.lines().map(parse).collect()
}

fn hold_to(command: &mut Command, cpu: usize) -> Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(cpu).with_context(|| format!("cpu {cpu}"))?;
    // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
    unsafe { command.pre_exec(move || Ok(sched_setaffinity(Pid::from_raw(0), &cpus)?)) };
    Ok(())
}

fn make_key(program: &Path, key_file: &Path) -> Result<()> {
    let output = Command::new(program).arg("genkey").arg(key_file).output().context("heartbeatd genkey")?;
    ensure!(output.status.success(), "heartbeatd genkey: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

/// Gives a node's files to another user, and lets that user pass through the lab's own directories.
fn give(lab: &Lab, node: usize, key_file: &Path, (user, group): (u32, u32)) -> Result<()> {
    let directory = lab.node_dir(node);
    let parts = ["", "state", "run", "log"].map(|part| directory.join(part));
    for path in parts.iter().chain([&lab.pin_dir(node), &key_file.to_owned()]) {
        let owner = (Some(Uid::from_raw(user)), Some(Gid::from_raw(group)));
        chown(path, owner.0, owner.1).with_context(|| format!("giving {} away", path.display()))?;
    }
    for (path, mode) in
        [(PathBuf::from(super::guard::BASE), 0o711), (lab.scratch(), 0o711), (lab.scratch().join("bpf"), bpffs_mode()?)]
    {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))
            .with_context(|| format!("opening {}", path.display()))?;
    }
    Ok(())
}

/// What the package makes of the mode of /sys/fs/bpf, which is 0700 where a service manager mounts it, like the lab's.
fn bpffs_mode() -> Result<u32> {
    let mut lines = TMPFILES.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let line = lines.find(|words| words.get(..2) == Some(&["z", "/sys/fs/bpf"]));
    let mode = line.as_ref().and_then(|words| words.get(2)).context("the package opens no way through /sys/fs/bpf")?;
    u32::from_str_radix(mode, 8).context("a mode")
}

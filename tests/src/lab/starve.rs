//! Starvation of processes: stopped, frozen, held to a quota, or pushed aside by a hog. Every way ends by itself or
//! with the value that began it; none of them changes a setting of the machine.

use super::Lab;
use super::wait::{binary, wait_for};
use anyhow::{Context, Result, bail, ensure};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Longest time a hog may run: it must end even if nobody is left to end it.
pub const HOG_MAX: Duration = Duration::from_secs(600);

/// Stops a process (SIGSTOP).
///
/// # Errors
/// Fails when there is no such process.
pub fn stop(pid: u32) -> Result<()> {
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGSTOP).with_context(|| format!("stopping process {pid}"))
}

/// Lets a stopped process go on (SIGCONT).
///
/// # Errors
/// Fails when there is no such process.
pub fn resume(pid: u32) -> Result<()> {
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGCONT).with_context(|| format!("resuming process {pid}"))
}

/// CPU time that a process and its threads have used, in steps of 10 ms.
///
/// # Errors
/// Fails when there is no such process.
pub fn cpu_time(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid}"))?;
    let after_name = stat.rfind(')').context("a process's stat has a name in brackets")?;
    let ticks: u64 = stat[after_name..].split(' ').skip(12).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(Duration::from_millis(ticks * 10))
}

/// A control group of the lab in one hierarchy; empty groups are removed on drop, with processes moved out first.
#[derive(Debug)]
struct Group {
    path: PathBuf,
}

impl Group {
    fn new(lab: &Lab, hierarchy: &str, name: &str) -> Result<Self> {
        let root = Path::new("/sys/fs/cgroup").join(hierarchy);
        ensure!(root.join("tasks").exists(), "no version 1 `{hierarchy}` hierarchy at {}", root.display());
        let path = root.join(format!("{}-{name}", lab.tag()));
        fs::create_dir(&path).with_context(|| format!("making {}", path.display()))?;
        Ok(Self { path })
    }

    fn write(&self, file: &str, value: &str) -> Result<()> {
        let path = self.path.join(file);
        fs::write(&path, value).with_context(|| format!("writing {value} to {}", path.display()))
    }

    fn add(&self, pid: u32) -> Result<()> {
        self.write("cgroup.procs", &pid.to_string())
    }

    /// Lets a command start inside the group, so that not one instruction of it runs outside.
    fn join(&self, command: &mut Command) -> Result<()> {
        let path = self.path.join("cgroup.procs");
        let file = File::options().write(true).open(&path).with_context(|| format!("opening {}", path.display()))?;
        // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
        unsafe { command.pre_exec(move || (&file).write_all(b"0")) };
        Ok(())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let end = Instant::now() + Duration::from_secs(1);
        let parent = self.path.parent().map(|parent| parent.join("cgroup.procs")).unwrap_or_default();
        while fs::remove_dir(&self.path).is_err() && self.path.exists() && Instant::now() < end {
            let inside = fs::read_to_string(self.path.join("cgroup.procs")).unwrap_or_default();
            // A process that ended meanwhile needs no moving; the lab's own removal looks at the rest.
            inside.lines().for_each(|pid| drop(fs::write(&parent, pid)));
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Processes that can be frozen together (version 1 freezer). Dropping it thaws them.
#[derive(Debug)]
pub struct Freezer(Group);

impl Freezer {
    /// Makes an empty group; `name` is unique in the lab.
    ///
    /// # Errors
    /// Fails without a version 1 freezer.
    pub fn new(lab: &Lab, name: &str) -> Result<Self> {
        Group::new(lab, "freezer", name).map(Self)
    }

    /// Puts a process, with its threads, into the group.
    ///
    /// # Errors
    /// Fails when there is no such process.
    pub fn add(&self, pid: u32) -> Result<()> {
        self.0.add(pid)
    }

    /// Puts one thread into the group: the rest of its process runs on.
    ///
    /// # Errors
    /// Fails when there is no such thread.
    pub fn add_thread(&self, thread: u32) -> Result<()> {
        self.0.write("tasks", &thread.to_string())
    }

    /// Freezes the group and returns when all in it stand still.
    ///
    /// # Errors
    /// Fails when they do not within two seconds.
    pub fn freeze(&self) -> Result<()> {
        self.0.write("freezer.state", "FROZEN")?;
        wait_for(Duration::from_secs(2), "the group to freeze", || {
            let state = fs::read_to_string(self.0.path.join("freezer.state")).unwrap_or_default();
            if state.trim() == "FROZEN" { Ok(()) } else { Err(state) }
        })
    }

    /// Lets the group go on.
    ///
    /// # Errors
    /// Fails when the kernel refuses.
    pub fn thaw(&self) -> Result<()> {
        self.0.write("freezer.state", "THAWED")
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        if let Err(error) = self.thaw() {
            eprintln!("lab: {error:#}");
        }
    }
}

/// Processes that share a part of one CPU (version 1 cpu quota). A process in it cannot be SCHED_FIFO, since such a
/// group has no realtime runtime; one that is already cannot be added.
#[derive(Debug)]
pub struct Quota(Group);

impl Quota {
    /// Makes an empty group that may run for `run` in every `period`; `name` is unique in the lab.
    ///
    /// # Errors
    /// As [`Quota::set`], and without a version 1 cpu hierarchy.
    pub fn new(lab: &Lab, name: &str, run: Duration, period: Duration) -> Result<Self> {
        lab.let_sleep();
        let quota = Self(Group::new(lab, "cpu", name)?);
        quota.set(run, period)?;
        Ok(quota)
    }

    /// Changes how much the group may run.
    ///
    /// # Errors
    /// Fails when the kernel refuses: `run` under 1 ms, or a period outside 1 ms to 1 s.
    pub fn set(&self, run: Duration, period: Duration) -> Result<()> {
        self.0.write("cpu.cfs_period_us", &period.as_micros().to_string())?;
        self.0.write("cpu.cfs_quota_us", &run.as_micros().to_string())
    }

    /// Puts a running process, with its threads, into the group.
    ///
    /// # Errors
    /// Fails when there is no such process, or one of its threads is SCHED_FIFO.
    pub fn add(&self, pid: u32) -> Result<()> {
        self.0.add(pid)
    }

    /// Lets a command start inside the group.
    ///
    /// # Errors
    /// Fails when the group is gone.
    pub fn join(&self, command: &mut Command) -> Result<()> {
        self.0.join(command)
    }

    /// How often, and for how long in all, the group was held back.
    ///
    /// # Errors
    /// Fails when the kernel's figures cannot be read.
    pub fn throttled(&self) -> Result<(u64, Duration)> {
        let text = fs::read_to_string(self.0.path.join("cpu.stat")).context("the group's cpu.stat")?;
        let figure = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key)).and_then(|rest| rest.trim().parse().ok());
            line.with_context(|| format!("no {key} in cpu.stat"))
        };
        Ok((figure("nr_throttled ")?, Duration::from_nanos(figure("throttled_time ")?)))
    }
}

/// Processes that share a limit of memory or of number (version 1 controllers).
#[derive(Debug)]
pub struct Limited(Group);

impl Limited {
    /// Makes an empty group of which at most `bytes` of memory are used at a time; `name` is unique in the lab.
    ///
    /// # Errors
    /// Fails without a version 1 memory hierarchy.
    pub fn memory(lab: &Lab, name: &str, bytes: u64) -> Result<Self> {
        let group = Group::new(lab, "memory", name)?;
        group.write("memory.limit_in_bytes", &bytes.to_string())?;
        Ok(Self(group))
    }

    /// Makes an empty group of at most `count` processes and threads; `name` is unique in the lab.
    ///
    /// # Errors
    /// Fails without a version 1 pids hierarchy.
    pub fn processes(lab: &Lab, name: &str, count: u32) -> Result<Self> {
        let group = Group::new(lab, "pids", name)?;
        group.write("pids.max", &count.to_string())?;
        Ok(Self(group))
    }

    /// Puts a running process into the group.
    ///
    /// # Errors
    /// Fails when there is no such process.
    pub fn add(&self, pid: u32) -> Result<()> {
        self.0.add(pid)
    }

    /// Lets a command start inside the group.
    ///
    /// # Errors
    /// Fails when the group is gone.
    pub fn join(&self, command: &mut Command) -> Result<()> {
        self.0.join(command)
    }

    /// What a file of the group says, such as `memory.oom_control`.
    ///
    /// # Errors
    /// Fails when there is no such file.
    pub fn text(&self, file: &str) -> Result<String> {
        fs::read_to_string(self.0.path.join(file)).with_context(|| format!("the group's {file}"))
    }

    /// The first number in a file of the group, such as `memory.failcnt` or `pids.current`.
    ///
    /// # Errors
    /// Fails when there is no such file or number.
    pub fn figure(&self, file: &str) -> Result<u64> {
        let text = self.text(file)?;
        let number = text.split_whitespace().find_map(|word| word.parse().ok());
        number.with_context(|| format!("no number in {file}: {text:?}"))
    }

    /// Kills everything in the group, and lets nothing more begin there.
    pub fn kill(&self) {
        // A group of another kind has no such file, and needs none.
        let _ = fs::write(self.0.path.join("pids.max"), "0");
        let inside = fs::read_to_string(self.0.path.join("cgroup.procs")).unwrap_or_default();
        for pid in inside.lines().filter_map(|pid| pid.parse().ok()) {
            // One that has ended by itself is as good.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A process that does nothing but use one CPU. It ends at its own deadline, or when this is dropped.
#[derive(Debug)]
pub struct Hog {
    child: Child,
}

impl Hog {
    /// Starts a hog on `cpu`, SCHED_FIFO at `fifo` (1..=99) or at normal priority, and returns when it spins.
    ///
    /// # Errors
    /// Fails when heartbeat-lab is not built, or the priority is refused.
    pub fn start(lab: &Lab, cpu: usize, fifo: Option<i32>, duration: Duration) -> Result<Self> {
        Self::start_with(lab, cpu, fifo, duration, |_| Ok(()))
    }

    /// As [`Hog::start`], with a last word on the command, such as [`Quota::join`].
    ///
    /// # Errors
    /// As [`Hog::start`], and as `prepare`.
    pub fn start_with(
        lab: &Lab,
        cpu: usize,
        fifo: Option<i32>,
        duration: Duration,
        prepare: impl FnOnce(&mut Command) -> Result<()>,
    ) -> Result<Self> {
        let mut command = lab.switch().command(binary("heartbeat-lab", "HEARTBEAT_LAB")?);
        command.args(["hog", "--cpu", &cpu.to_string(), "--seconds", &duration.as_secs_f64().to_string()]);
        if let Some(priority) = fifo {
            command.args(["--fifo", &priority.to_string()]);
        }
        prepare(&mut command)?;
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("starting a hog")?;
        let stdout = child.stdout.take().context("the hog's stdout is a pipe")?;
        let hog = Self { child };
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).context("waiting for the hog")?;
        if line.trim() != "spinning" {
            bail!("the hog on cpu {cpu} did not start; it said {line:?}");
        }
        Ok(hog)
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its own end.
    ///
    /// # Errors
    /// Fails when it ended otherwise than by its deadline.
    pub fn wait(mut self) -> Result<()> {
        let status = self.child.wait().context("waiting for the hog")?;
        ensure!(status.success(), "the hog ended with {status}");
        Ok(())
    }
}

impl Drop for Hog {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let end = Instant::now() + Duration::from_secs(1);
        // A frozen hog does not die before it is thawed; the lab's own removal ends it then.
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// What a hog does: takes `cpu` (at SCHED_FIFO `fifo`, if given), says "spinning" and spins until its deadline. The
/// deadline is looked at inside the loop, because nothing else may get the CPU to end it.
///
/// # Errors
/// Fails when the CPU or the priority is refused, or the time is above [`HOG_MAX`].
pub fn spin(cpu: usize, fifo: Option<i32>, duration: Duration) -> Result<()> {
    ensure!(duration <= HOG_MAX, "a hog runs at most {HOG_MAX:?}");
    let end = Instant::now() + duration;
    let mut cpus = CpuSet::new();
    cpus.set(cpu).with_context(|| format!("cpu {cpu}"))?;
    sched_setaffinity(Pid::from_raw(0), &cpus).with_context(|| format!("taking cpu {cpu}"))?;
    if let Some(priority) = fifo {
        let parameters = libc::sched_param { sched_priority: priority };
        // SAFETY: the parameters live for the length of the call, which changes this thread's scheduling only.
        let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameters) };
        ensure!(result == 0, "SCHED_FIFO {priority}: {}", std::io::Error::last_os_error());
    }
    println!("spinning");
    std::io::stdout().flush().context("saying so")?;
    while Instant::now() < end {
        for _ in 0..1000 {
            std::hint::spin_loop();
        }
    }
    Ok(())
}

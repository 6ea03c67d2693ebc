//! Starts one hook: the descriptor that was checked, in a session of its own, with exactly the environment given and
//! without a right of the daemon's. Between fork and exec it makes system calls and reads the page; it allocates nothing
//! and takes no lock.

use crate::lease::{Gate, Token};
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, PipeReader};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

/// Variables of a hook's environment: all of them.
pub const VARIABLES: usize = 7;

/// What is started.
pub struct Launch {
    /// The program, checked.
    pub program: OwnedFd,
    /// What it is called, as it will see it.
    pub name: CString,
    /// Its environment.
    pub environment: [CString; VARIABLES],
    /// `cgroup.procs` of its control group; `None`: it has none of its own.
    pub group: Option<File>,
    /// The page.
    pub gate: Arc<dyn Gate>,
    /// What it is told to act under; it is not started if the page says otherwise by then.
    pub token: Option<Token>,
}

/// The error of a start whose token was outdated before it began.
pub const OUTDATED: i32 = libc::ECANCELED;

/// Starts it. What it writes, to both of its outputs, can be read from the pipe, which never blocks.
///
/// # Errors
/// As fork(2) and execveat(2); [`OUTDATED`] if the page says something else than the token.
pub fn launch(launch: Launch) -> io::Result<(Child, PipeReader)> {
    let (reader, writer) = io::pipe()?;
    let flags = nix::fcntl::OFlag::O_NONBLOCK;
    nix::fcntl::fcntl(reader.as_fd(), nix::fcntl::FcntlArg::F_SETFL(flags))?;
    // The name is only what an error would show: the closure below ends in another program or in an error.
    let mut command = Command::new("/proc/self/fd/hook");
    command.current_dir("/").stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    // SAFETY: the closure allocates nothing, takes no lock and calls only what may be called between fork and exec; nor
    // does the page's judge, by what `Gate` asks of it.
    unsafe { command.pre_exec(move || become_the_hook(&launch)) };
    Ok((command.spawn()?, reader))
}

/// Runs in the child, and returns only if the hook could not be started.
fn become_the_hook(launch: &Launch) -> io::Result<()> {
    let done = |result: libc::c_int| if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
    // SAFETY: a call without pointers.
    done(unsafe { libc::setsid() })?;
    if let Some(group) = &launch.group {
        write(group.as_raw_fd(), b"0")?;
    }
    drop_rights();
    close_the_rest();
    // A script is opened by its interpreter, through this descriptor.
    // SAFETY: a call without pointers, on a descriptor that is open.
    done(unsafe { libc::fcntl(launch.program.as_raw_fd(), libc::F_SETFD, 0) })?;
    let words = [launch.name.as_ptr(), std::ptr::null()];
    let mut environment = [std::ptr::null(); VARIABLES + 1];
    for (to, from) in environment.iter_mut().zip(&launch.environment) {
        *to = from.as_ptr();
    }
    // The last thing before the act.
    if launch.token.is_some() && launch.gate.acting().ok() != launch.token {
        return Err(io::Error::from_raw_os_error(OUTDATED));
    }
    // SAFETY: both lists end in a null, and what they point to lives until the program is replaced. No libc wrapper: one
    // that does not know a file's format would hand it to a shell.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            launch.program.as_raw_fd(),
            c"".as_ptr(),
            words.as_ptr(),
            environment.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
    }
    Err(io::Error::last_os_error())
}

/// Takes off what the daemon has and a hook must not: its capabilities, and its shelter from the kernel's killer.
fn drop_rights() {
    // SAFETY: calls without pointers.
    unsafe {
        let (clear, none): (libc::c_ulong, libc::c_ulong) = (libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong, 0);
        libc::prctl(libc::PR_CAP_AMBIENT, clear, none, none, none);
        libc::umask(0o022);
    }
    const SCORE: &CStr = c"/proc/self/oom_score_adj";
    // SAFETY: the name lives for ever.
    let fd = unsafe { libc::open(SCORE.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC) };
    if fd >= 0 {
        // Refused where it would be lowered, which is as well.
        let _ = write(fd, b"0");
        // SAFETY: the descriptor was opened above.
        unsafe { libc::close(fd) };
    }
}

/// Lets no descriptor pass but the three, also of those that heartbeatd itself was started with. A kernel before 5.11
/// refuses, and leaves it to each descriptor's own flag.
fn close_the_rest() {
    // SAFETY: a call without pointers; descriptors are marked, none is closed before the program is replaced.
    unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
}

fn write(fd: libc::c_int, bytes: &[u8]) -> io::Result<()> {
    // SAFETY: the bytes live through the call.
    let written = unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
    if written == bytes.len() as isize { Ok(()) } else { Err(io::Error::last_os_error()) }
}

//! The kernel's page of the lease: who may read it, and how it ends for those who have. In a mount namespace of the test's
//! own, with a bpffs of its own: both go with the test's thread.

use heartbeat_common::lease::{self, Refused, Words, acting, word};
use heartbeat_tests::xdp::{Rig, may_run};
use heartbeat_user::io::page::{Page, close_pinned, pin};
use heartbeat_user::io::sys;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use std::cell::Cell;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use tempfile::TempDir;

const BOOT: [u64; 2] = [1, 2];

/// A bpffs that this thread alone sees, in a directory that goes with it.
struct Bpffs(TempDir);

impl Bpffs {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace");
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("mounts of this thread's own");
        mount(Some("bpf"), directory.path(), Some("bpf"), MsFlags::empty(), none).expect("a bpffs");
        Self(directory)
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        // Else the directory could not be removed.
        let _ = umount2(self.0.path(), MntFlags::MNT_DETACH);
    }
}

/// Whether a descriptor can be mapped so.
fn maps(fd: &OwnedFd, protection: libc::c_int) -> bool {
    // SAFETY: a new mapping that nobody uses; it is given back at once.
    unsafe {
        let mapped = libc::mmap(std::ptr::null_mut(), lease::LEN, protection, libc::MAP_SHARED, fd.as_raw_fd(), 0);
        mapped != libc::MAP_FAILED && libc::munmap(mapped, lease::LEN) == 0
    }
}

/// Reads the page through a descriptor, as a page in memory.
fn read(fd: &OwnedFd) -> std::io::Result<[Cell<u64>; lease::WORDS]> {
    let mut words = [0; lease::WORDS];
    sys::map_value(fd.as_fd(), 0, &mut words)?;
    Ok(words.map(Cell::new))
}

/// A view of this node's vote alone, which acts.
fn install(page: &Page) {
    page.take_on(7, BOOT, false);
    let view =
        lease::Bank { order: 3, own_mark: 30, own_weight: 1, total_weight: 1, member: true, ..Default::default() };
    lease::install(page, &view);
    page.set(word::IN_FORCE, 3);
    assert!(lease::grant(page, 30) && acting(page, 1).is_ok());
}

#[test]
fn a_page_is_pinned_for_readers_and_ended_for_all() {
    if !may_run("a_page_is_pinned_for_readers_and_ended_for_all") {
        return;
    }
    let scratch = Bpffs::new();
    let at = scratch.0.path().join("heartbeatd-lease/lease");
    let (rig, other) = (Rig::new().expect("the program loads"), Rig::new().expect("the program loads"));
    let page = rig.page().expect("mapped");
    install(&page);
    assert!(page.reader(&at).is_err(), "it is pinned nowhere yet");
    // Twice is as good as once, and another's map is replaced.
    let stranger = other.page().expect("mapped");
    pin::place(stranger.fd(), &at).expect("pinned");
    assert!(page.reader(&at).is_err(), "another map's pin");
    pin::place(page.fd(), &at).expect("pinned");
    pin::place(page.fd(), &at).expect("pinned");
    let mode = |path: &Path| std::fs::metadata(path).expect("there").permissions().mode() & 0o7777;
    assert_eq!((mode(&at), mode(at.parent().expect("a directory"))), (0o444, 0o755));

    let reader = page.reader(&at).expect("a descriptor");
    let copy = read(&reader).expect("read");
    assert_eq!(acting(&copy, 1).map(|token| token.incarnation), Ok(7));
    assert!(sys::map_value(reader.as_fd(), 0, &mut [0; lease::WORDS - 1]).is_err(), "no byte beyond what was given");
    // Nor is it mapped at all: were it ever, the C header and the services could do without system calls.
    assert!(!maps(&reader, libc::PROT_READ) && !maps(&reader, libc::PROT_READ | libc::PROT_WRITE));

    // Whoever replaces the maps of a controller that is gone ends its lease.
    close_pinned(&at).expect("closed");
    assert_eq!(acting(&page, 1), Err(Refused::Closed));
    assert_eq!(page.get(word::GRANTING), 0);
    assert_eq!(acting(&read(&reader).expect("read"), 1), Err(Refused::Closed));
    pin::remove(&at).expect("removed");
    assert!(!at.parent().expect("a directory").exists());
    close_pinned(&at).expect("nothing to close");
    pin::remove(&at).expect("nothing to remove");
}

#[test]
fn a_map_that_never_was_a_page_is_left_alone() {
    if !may_run("a_map_that_never_was_a_page_is_left_alone") {
        return;
    }
    let scratch = Bpffs::new();
    let at = scratch.0.path().join("lease-of-nobody/lease");
    let rig = Rig::new().expect("the program loads");
    let page = rig.page().expect("mapped");
    pin::place(page.fd(), &at).expect("pinned");
    close_pinned(&at).expect("looked at");
    assert_eq!(page.get(word::CLOSED), 0);
}

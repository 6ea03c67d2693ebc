//! Disks that really fail: full, read-only, unreadable, and one whose flush fails though it took every byte. Each is
//! mounted in a mount namespace of one thread, below a directory of its own, and goes with it.

use super::*;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use std::fs::OpenOptions;
use std::io::Write;
use std::process::Command;

/// Says aloud that a test cannot run here; the runner counts these.
fn skip(name: &str, reason: &str) {
    let line = format!("SKIP {name}: {reason}\n");
    print!("{line}");
    if let Some(file) = std::env::var_os("HEARTBEAT_SKIPS") {
        OpenOptions::new().append(true).create(true).open(file).unwrap().write_all(line.as_bytes()).unwrap();
    }
}

/// Runs `test` on a thread with a mount namespace of its own, from which nothing gets out.
fn with_mounts(name: &str, test: impl FnOnce(&Path) + Send) {
    if !nix::unistd::geteuid().is_root() {
        return skip(name, "needs root to mount a disk that fails");
    }
    let directory = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
            test(directory.path());
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

fn tmpfs(at: &Path, size: &str) {
    mount(Some("hb-disk-test"), at, Some("tmpfs"), MsFlags::empty(), Some(format!("size={size}").as_str())).unwrap();
}

/// Takes all the room that there is.
fn fill(path: &Path) {
    let mut file = File::create(path).unwrap();
    let error = (0..1 << 16).find_map(|_| file.write_all(&[0; 4096]).err()).expect("a small disk gets full");
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
}

#[test]
fn a_full_disk_fails_and_keeps_the_old_state() {
    with_mounts("a_full_disk_fails_and_keeps_the_old_state", |directory| {
        tmpfs(directory, "64k");
        let file = file(directory);
        file.write(&state()).unwrap();
        fill(&directory.join("filler"));
        let reports = written(&file, vec![accepted(2), accepted(3)]);
        let failed = |sequence| Report::Failed { sequence, step: Step::Write, errno: libc::ENOSPC };
        assert_eq!(reports, [failed(2), failed(3)]);
        assert_eq!(file.read(since(1)).unwrap(), whole(&state()));
        assert!(matches!(file.take_up(since(1)), Err(Refused::Unwritable(fault)) if fault.errno() == libc::ENOSPC));
        // The next start finds room again, and the state that was.
        fs::remove_file(directory.join("filler")).unwrap();
        assert_eq!(file.take_up(since(1)).unwrap(), TakenUp::Resumed(Box::new(state())));
    });
}

#[test]
fn a_full_disk_takes_what_a_spare_has_room_for() {
    with_mounts("a_full_disk_takes_what_a_spare_has_room_for", |directory| {
        tmpfs(directory, "64k");
        let file = file(directory);
        (1..3).for_each(|sequence| file.write(&accepted(sequence)).unwrap());
        fill(&directory.join("filler"));
        let reports = written(&file, vec![accepted(3), accepted(4)]);
        assert!(reports.iter().all(|report| matches!(report, Report::Written { .. })), "{reports:?}");
        assert_eq!(file.read(since(4)).unwrap(), whole(&accepted(4)));
    });
}

#[test]
fn a_disk_that_became_read_only_fails_and_keeps_the_old_state() {
    with_mounts("a_disk_that_became_read_only_fails_and_keeps_the_old_state", |directory| {
        tmpfs(directory, "64k");
        let file = file(directory);
        file.write(&state()).unwrap();
        let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(None::<&str>, directory, None::<&str>, read_only, None::<&str>).unwrap();
        let failed = Report::Failed { sequence: 2, step: Step::Create, errno: libc::EROFS };
        assert_eq!(written(&file, vec![accepted(2)]), [failed]);
        assert_eq!(file.read(since(1)).unwrap(), whole(&state()));
        assert_eq!(file.set_aside().unwrap_err().errno(), libc::EROFS);
    });
}

#[test]
fn a_file_that_cannot_be_read_is_not_lost_but_refused() {
    with_mounts("a_file_that_cannot_be_read_is_not_lost_but_refused", |directory| {
        let file = file(directory);
        file.write(&state()).unwrap();
        // A regular file of this user's whose first byte is an error: nothing is mapped at address 0.
        mount(Some("/proc/self/mem"), &file.path(), None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        let refused = file.take_up(since(0)).unwrap_err();
        let Refused::Unreadable(FileError::Read { error, .. }) = &refused else { panic!("{refused}") };
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
        assert!(!directory.join("agreement.lost.1").exists());
    });
}

#[test]
fn what_is_no_file_of_ours_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let file = file(directory.path());
    std::os::unix::fs::symlink("/dev/zero", file.path()).unwrap();
    assert!(matches!(file.take_up(since(0)), Err(Refused::Unreadable(FileError::SymbolicLink(_)))));
    fs::remove_file(file.path()).unwrap();
    nix::unistd::mkfifo(&file.path(), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(matches!(file.take_up(since(0)), Err(Refused::Unreadable(FileError::NotRegular(_)))));
    // Of one that has no end only the beginning is read.
    fs::remove_file(file.path()).unwrap();
    File::create(file.path()).unwrap().set_len(1 << 40).unwrap();
    assert_eq!(file.read(since(0)).unwrap(), Found::Lost(Lost::Foreign));
}

/// A file system upon a file that has no room: it takes every byte into memory, and only the flush finds out.
#[test]
fn a_flush_that_fails_is_a_failure() {
    let name = "a_flush_that_fails_is_a_failure";
    with_mounts(name, |directory| {
        tmpfs(directory, "4m");
        let (image, disk) = (directory.join("image"), directory.join("disk"));
        File::create(&image).unwrap().set_len(16 << 20).unwrap();
        fs::create_dir(&disk).unwrap();
        let made =
            Command::new("mkfs.ext4").args(["-q", "-F", "-b", "4096", "-O", "^has_journal"]).arg(&image).output();
        match made {
            Ok(made) => assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr)),
            Err(error) => return skip(name, &format!("mkfs.ext4: {error}")),
        }
        let mounted = Command::new("mount").args(["-o", "loop"]).args([&image, &disk]).output().unwrap();
        if !mounted.status.success() {
            return skip(name, &format!("no loop device: {}", String::from_utf8_lossy(&mounted.stderr).trim()));
        }
        let file = file(&disk);
        file.write(&state()).unwrap();
        fill(&directory.join("filler"));
        // A block that the image has already takes a write; any other one finds the medium at its end.
        let failed = (2..2000).find_map(|sequence| file.write(&accepted(sequence)).err()).expect("the medium is full");
        assert_eq!(failed.step, Step::Flush, "{failed}");
        assert!([libc::EIO, libc::ENOSPC].contains(&failed.errno()), "kernels name it differently: {failed}");
        let Found::Whole(kept) = file.read(since(1)).unwrap() else { panic!("the old state is gone") };
        assert_eq!(kept.vote, state().vote);
    });
}

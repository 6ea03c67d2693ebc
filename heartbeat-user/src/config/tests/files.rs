//! Tests of which files are taken as a configuration.

use super::*;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

fn refused(path: &Path) -> String {
    load(path).unwrap_err().to_string()
}

#[test]
fn a_file_that_others_can_write_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("heartbeatd.toml");
    fs::write(&path, GOOD).unwrap();
    for mode in [0o600, 0o644, 0o640, 0o444] {
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        assert_eq!(load(&path).unwrap(), good(GOOD), "{mode:o}");
    }
    for mode in [0o664, 0o646, 0o666, 0o622] {
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        let expected = format!(
            "{path}: must not be writable by group or others (mode is {mode:04o}); fix it with: chmod go-w {path}",
            path = path.display()
        );
        assert_eq!(refused(&path), expected);
    }
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    if nix::unistd::geteuid().is_root() {
        chown(&path, Some(54_321), None).unwrap();
        let expected =
            format!("{}: must be owned by root or by user 0, who reads it (owner is user 54321)", path.display());
        assert_eq!(refused(&path), expected);
    }
}

#[test]
fn what_is_no_regular_file_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("heartbeatd.toml");
    assert_eq!(refused(&path), format!("{}: cannot be opened: No such file or directory (os error 2)", path.display()));
    assert_eq!(refused(directory.path()), format!("{}: must be a regular file", directory.path().display()));
    let pipe = directory.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    assert_eq!(refused(&pipe), format!("{}: must be a regular file", pipe.display()));
    assert_eq!(refused(Path::new("/dev/null")), "/dev/null: must be a regular file");
    fs::write(&path, GOOD).unwrap();
    let link = directory.path().join("link.toml");
    symlink(&path, &link).unwrap();
    assert_eq!(load(&link).unwrap(), good(GOOD));
}

#[test]
fn faults_name_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("heartbeatd.toml");
    fs::write(&path, GOOD.replace("id = 2", "id = 1")).unwrap();
    let expected = format!("{}:15:6: node[2].id: must be unique (got 1, also node[1].id in line 11)", path.display());
    assert_eq!(refused(&path), expected);
    let file = fs::File::create(&path).unwrap();
    file.set_len(10 << 20).unwrap();
    let expected = format!("{}:1:1: the file must not be larger than 1048576 bytes", path.display());
    assert_eq!(refused(&path), expected);
}

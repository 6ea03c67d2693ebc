//! What is checked before a hook is run: its way, and what it is told.

use super::*;
use std::os::unix::fs::PermissionsExt;

#[test]
fn a_hook_that_could_not_be_run_is_found_by_the_check() {
    let root = tempfile::tempdir().unwrap();
    std::fs::set_permissions(root.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let trusted = || (std::fs::File::open(root.path()).unwrap().into(), nix::unistd::geteuid().as_raw());
    let hook = root.path().join("hook");
    let judged = |mode: u32| {
        std::fs::write(&hook, "#!/bin/sh\n").unwrap();
        std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(mode)).unwrap();
        check_below(&trusted(), Path::new("/hook")).map_err(|error| error.to_string())
    };
    assert_eq!(judged(0o755), Ok(()));
    assert_eq!(judged(0o644), Err("/hook: is no file that can be run".to_owned()));
    assert_eq!(judged(0o775), Err("/hook: can be written by others (mode 0775)".to_owned()));
    let missing = check_below(&trusted(), Path::new("/none")).unwrap_err().to_string();
    assert!(missing.starts_with("/none: No such file"), "{missing}");
    assert!(matches!(check(Path::new("hook")), Err(ChainError::Path(_))));
    std::fs::create_dir(root.path().join("directory")).unwrap();
    assert!(check_below(&trusted(), Path::new("/directory")).is_err());
    std::fs::set_permissions(root.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    assert_eq!(judged(0o755), Err("/: can be written by others (mode 0777)".to_owned()));
}

#[test]
fn links_are_followed_as_far_as_the_kernel_does_and_files_are_no_directories() {
    let root = tempfile::tempdir().unwrap();
    std::fs::set_permissions(root.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let trusted = (std::fs::File::open(root.path()).unwrap().into(), nix::unistd::geteuid().as_raw());
    let judged = |path: &str| check_below(&trusted, Path::new(path)).map_err(|error| error.to_string());
    std::fs::write(root.path().join("0"), "#!/bin/sh\n").unwrap();
    std::fs::set_permissions(root.path().join("0"), std::fs::Permissions::from_mode(0o755)).unwrap();
    for link in 1..=41 {
        std::os::unix::fs::symlink((link - 1).to_string(), root.path().join(link.to_string())).unwrap();
    }
    assert_eq!((judged("/0"), judged("/40")), (Ok(()), Ok(())));
    assert!(judged("/41").unwrap_err().ends_with(": more than 40 symbolic links"));
    assert_eq!(judged("/0/0"), Err("/0: is no file that can be run".to_owned()), "though it could be by itself");
}

#[test]
fn an_event_that_no_variable_holds_is_refused() {
    let told = |length| {
        let happened = Happened { name: "x".to_owned(), json: "y".repeat(length), needs_lease: false };
        environment("a", &happened, None).map(|variables| variables.len()).ok()
    };
    assert_eq!((told(JSON_MAX), told(JSON_MAX + 1)), (Some(VARIABLES), None));
}

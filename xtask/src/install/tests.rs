//! Installs a made-up tree into temporary directories and takes it away again; builds nothing.

use super::*;

/// A tree with every file that an installation takes.
fn tree() -> tempfile::TempDir {
    let top = tempfile::tempdir().unwrap();
    for path in [
        "target/release/heartbeatd",
        "target/release/heartbeatctl",
        "packaging/sysusers.d/heartbeatd.conf",
        "packaging/tmpfiles.d/heartbeatd.conf",
        "packaging/heartbeatd.toml",
        "packaging/heartbeat_lease.h",
        "packaging/heartbeat-quorate.target",
        "README.md",
        "docs/security.md",
        "docs/picture.svg",
        "LICENSE-MIT",
        "LICENSE-APACHE",
        "generated/man/heartbeatd.8",
        "generated/man/heartbeatctl.1",
        "generated/completions/heartbeatctl.bash",
        "generated/completions/heartbeatctl.fish",
        "generated/completions/_heartbeatctl",
    ] {
        let path = top.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, path.file_name().unwrap().as_encoded_bytes()).unwrap();
    }
    fs::write(top.path().join("packaging/heartbeatd.service"), "ExecStart=/usr/sbin/heartbeatd run\n").unwrap();
    top
}

fn plan(top: &tempfile::TempDir, prefix: &str) -> Plan {
    Plan::make(top.path(), &top.path().join("generated"), Path::new(prefix)).unwrap()
}

fn place(root: &tempfile::TempDir, prefix: &str) -> Place {
    Place { root: root.path().join("system"), prefix: prefix.into() }
}

/// Every path under a directory.
fn everything(directory: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(directory).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(everything(&path));
        }
        found.insert(path);
    }
    found
}

#[test]
fn each_file_goes_where_its_readers_look() {
    let (top, root) = (tree(), tempfile::tempdir().unwrap());
    let place = place(&root, "/usr");
    put(&place, &plan(&top, "/usr")).unwrap();
    for (path, mode) in [
        ("usr/sbin/heartbeatd", 0o755),
        ("usr/bin/heartbeatctl", 0o755),
        ("usr/lib/systemd/system/heartbeatd.service", 0o644),
        ("usr/lib/systemd/system/heartbeat-quorate.target", 0o644),
        ("usr/include/heartbeat_lease.h", 0o644),
        ("usr/lib/sysusers.d/heartbeatd.conf", 0o644),
        ("usr/lib/tmpfiles.d/heartbeatd.conf", 0o644),
        ("usr/share/doc/heartbeatd/heartbeatd.toml", 0o644),
        ("usr/share/doc/heartbeatd/README.md", 0o644),
        ("usr/share/doc/heartbeatd/docs/security.md", 0o644),
        ("usr/share/doc/heartbeatd/LICENSE-MIT", 0o644),
        ("usr/share/man/man8/heartbeatd.8", 0o644),
        ("usr/share/man/man1/heartbeatctl.1", 0o644),
        ("usr/share/bash-completion/completions/heartbeatctl", 0o644),
        ("usr/share/zsh/vendor-completions/_heartbeatctl", 0o644),
        ("usr/share/fish/vendor_completions.d/heartbeatctl.fish", 0o644),
    ] {
        let file = fs::metadata(place.root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert!(file.is_file());
        assert_eq!(file.permissions().mode() & 0o7777, mode, "{path}");
    }
    assert!(place.root.join("etc/heartbeatd").is_dir());
    assert!(!everything(&place.root).iter().any(|path| path.extension().is_some_and(|end| end == "new")));
}

#[test]
fn uninstalling_leaves_what_was_there_before_and_nothing_else() {
    let (top, root) = (tree(), tempfile::tempdir().unwrap());
    let place = place(&root, "/usr");
    fs::create_dir_all(place.root.join("usr/bin")).unwrap();
    fs::write(place.root.join("usr/bin/other"), "other").unwrap();
    let before = everything(&place.root);
    put(&place, &plan(&top, "/usr")).unwrap();
    put(&place, &plan(&top, "/usr")).unwrap();
    assert!(everything(&place.root).len() > before.len() + 14);
    assert!(place.root.join("usr/share/doc/heartbeatd/docs").is_dir());
    take_away(&place).unwrap();
    assert_eq!(everything(&place.root), before);
    assert!(take_away(&place).unwrap_err().to_string().contains("no heartbeatd was installed"));
}

#[test]
fn configuration_and_keys_are_kept_unless_purged() {
    let (top, root) = (tree(), tempfile::tempdir().unwrap());
    let removal = |purge| Removal { place: place(&root, "/usr"), purge };
    let system = removal(false).place.root;
    for purge in [false, true] {
        put(&removal(purge).place, &plan(&top, "/usr")).unwrap();
        fs::create_dir_all(system.join("var/lib/heartbeatd")).unwrap();
        fs::write(system.join("var/lib/heartbeatd/state"), "state").unwrap();
        fs::write(system.join("etc/heartbeatd/cluster.key"), "key").unwrap();
        uninstall(&removal(purge)).unwrap();
        assert_eq!(system.join("etc/heartbeatd/cluster.key").exists(), !purge);
        assert_eq!(system.join("var/lib/heartbeatd/state").exists(), !purge);
        assert!(!system.join("usr").exists());
    }
}

#[test]
fn a_later_version_takes_the_files_away_that_it_no_longer_has() {
    let (top, root) = (tree(), tempfile::tempdir().unwrap());
    let place = place(&root, "/usr");
    put(&place, &plan(&top, "/usr")).unwrap();
    fs::remove_file(top.path().join("README.md")).unwrap();
    put(&place, &plan(&top, "/usr")).unwrap();
    assert!(!place.root.join("usr/share/doc/heartbeatd/README.md").exists());
    assert!(place.root.join("usr/share/doc/heartbeatd/LICENSE-MIT").exists());
    take_away(&place).unwrap();
    assert!(everything(&place.root).is_empty());
}

#[test]
fn another_prefix_is_written_into_the_unit() {
    let (top, root) = (tree(), tempfile::tempdir().unwrap());
    let place = place(&root, "/usr/local");
    put(&place, &plan(&top, "/usr/local")).unwrap();
    let unit = fs::read_to_string(place.root.join("usr/local/lib/systemd/system/heartbeatd.service")).unwrap();
    assert_eq!(unit, "ExecStart=/usr/local/sbin/heartbeatd run\n");
}

#[test]
fn a_missing_source_changes_nothing() {
    let (top, root) = (tree(), tempfile::tempdir().unwrap());
    let place = place(&root, "/usr");
    let plan = plan(&top, "/usr");
    fs::remove_file(top.path().join("LICENSE-MIT")).unwrap();
    assert!(put(&place, &plan).unwrap_err().to_string().contains("LICENSE-MIT"));
    assert!(everything(root.path()).is_empty());
}

#[test]
fn a_list_that_leads_outside_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let place = place(&root, "/usr");
    let outside = root.path().join("outside");
    fs::write(&outside, "precious").unwrap();
    let list = place.on_disk(&place.list()).unwrap();
    fs::create_dir_all(list.parent().unwrap()).unwrap();
    for line in ["file /../outside\n", "file outside\n", "nonsense\n"] {
        fs::write(&list, line).unwrap();
        assert!(take_away(&place).is_err(), "{line}");
        assert!(outside.exists());
    }
}

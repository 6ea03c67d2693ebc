//! What a run of the tests may leave behind on the host: namespaces, devices, mounts, pins, processes, cgroups.
//! It looks and reports; it removes nothing, as what it sees may be in use by another run.

use crate::shell;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the tests name whatever they make on the host.
const PREFIX: &str = "hb-";
const CGROUPS: &str = "/sys/fs/cgroup";

/// What is there now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot(BTreeSet<String>);

impl Snapshot {
    /// Looks at the host. `target` is where the binaries of this tree are.
    pub fn take(target: &Path) -> Self {
        let mut found = BTreeSet::new();
        found.extend(
            names(Path::new("/run/netns"), |name| name.starts_with(PREFIX)).map(|name| format!("netns {name}")),
        );
        found.extend(
            names(Path::new("/sys/class/net"), |name| name.starts_with(PREFIX)).map(|name| format!("link {name}")),
        );
        found.extend(
            names(Path::new("/sys/fs/bpf"), |name| name.starts_with("heartbeat")).map(|name| format!("pin {name}")),
        );
        found.extend(mounts(&fs::read_to_string("/proc/mounts").unwrap_or_default()));
        found.extend(processes(target));
        found.extend(programs());
        cgroups(Path::new(CGROUPS), 3, &mut found);
        Self(found)
    }

    /// Returns what is there now and was not there before.
    pub fn since(&self, before: &Self) -> Vec<String> {
        self.0.difference(&before.0).cloned().collect()
    }
}

fn names(directory: &Path, wanted: impl Fn(&str) -> bool) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).filter(move |name| wanted(name))
}

/// Returns bpf filesystems, and whatever is mounted on a name of ours.
fn mounts(table: &str) -> Vec<String> {
    let fields = table.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let ours = fields.filter(|fields| fields.len() > 2 && (fields[2] == "bpf" || fields[1].contains(PREFIX)));
    ours.map(|fields| format!("mount {} ({})", fields[1], fields[2])).collect()
}

/// Returns processes that run a binary of this tree, other than this one and its parents' cargo.
fn processes(target: &Path) -> Vec<String> {
    let own = std::process::id().to_string();
    let numbers = names(Path::new("/proc"), |name| name.bytes().all(|byte| byte.is_ascii_digit()));
    let running = numbers.filter(|number| *number != own).filter_map(|number| {
        let program = fs::read_link(PathBuf::from("/proc").join(&number).join("exe")).ok()?;
        program.starts_with(target).then(|| format!("process {number} {}", program.display()))
    });
    running.collect()
}

/// Returns our programs that the kernel still holds.
fn programs() -> Vec<String> {
    let list = shell::output(Command::new("bpftool").args(["prog", "show"])).unwrap_or_default();
    let ours = list.lines().filter(|line| line.contains(" name heartbeat_"));
    ours.map(|line| format!("program {}", line.split("  tag").next().unwrap_or(line))).collect()
}

fn cgroups(directory: &Path, depth: u32, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if depth == 0 || !path.is_dir() || path.is_symlink() {
            continue;
        }
        if entry.file_name().to_string_lossy().starts_with(PREFIX) {
            found.insert(format!("cgroup {}", path.display()));
        }
        cgroups(&path, depth - 1, found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_of_ours_are_found() {
        let table = "proc /proc proc rw 0 0\nnone /tmp/x bpf rw 0 0\nnsfs /run/netns/hb-12-a nsfs rw 0 0\n";
        assert_eq!(mounts(table), ["mount /tmp/x (bpf)", "mount /run/netns/hb-12-a (nsfs)"]);
    }

    #[test]
    fn a_process_that_runs_on_is_seen_and_gone_when_it_ended() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("sleeper");
        fs::copy("/bin/sleep", &program).unwrap();
        let before = Snapshot::take(directory.path());
        let mut child = Command::new(&program).arg("60").spawn().unwrap();
        let during = processes(directory.path());
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(during, [format!("process {} {}", child.id(), program.display())]);
        assert!(!before.0.iter().any(|found| found.contains("sleeper")));
        assert!(processes(directory.path()).is_empty());
    }

    #[test]
    fn only_what_is_new_counts() {
        let snapshot = |names: &[&str]| Snapshot(names.iter().map(|name| (*name).to_owned()).collect());
        assert_eq!(snapshot(&["a", "b"]).since(&snapshot(&["a", "c"])), ["b"]);
    }
}

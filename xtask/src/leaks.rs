//! What a run of the tests may leave behind on the host: namespaces, devices, mounts, pins, processes, cgroups.
//! It looks and reports; it removes nothing, as what it sees may be in use by another run.

use crate::shell;
use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// What the tests name whatever they make on the host.
const PREFIX: &str = "hb-";
/// How a process is named here.
const PROCESS: &str = "process ";
const CGROUPS: &str = "/sys/fs/cgroup";
/// Between two looks at what a run left.
pub const PAUSE: Duration = Duration::from_millis(250);
/// Looks after the first one, a minute's: the kernel takes network namespaces apart in a worker, one after another, once
/// their last holder is gone, and frees what hung on their devices with them.
const LOOKS: u32 = 240;

/// What is there now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot(BTreeSet<String>);

impl Snapshot {
    /// Looks at the host. `target` is where the binaries of this tree are.
    ///
    /// # Errors
    /// Something cannot be looked at: what is not seen is not gone.
    pub fn take(target: &Path) -> Result<Self> {
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
        found.extend(mounts(&fs::read_to_string("/proc/mounts").context("/proc/mounts")?));
        found.extend(processes(target));
        found.extend(programs()?);
        cgroups(Path::new(CGROUPS), 3, &mut found);
        Ok(Self(found))
    }

    /// Returns what is there now and was not there before.
    fn since(&self, before: &Self) -> Vec<String> {
        self.0.difference(&before.0).cloned().collect()
    }
}

/// What a run left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// What was there right after it.
    pub at_first: Vec<String>,
    /// What of that stayed.
    pub stayed: Vec<String>,
}

impl Leftovers {
    /// Looks at what was not there `before` the run, with a `pause` between two looks, until nothing of it is left or it has
    /// had its time. What comes later is of some other run, but for processes of this tree where the run left any: whoever
    /// starts what it left again and again leaves another each time.
    ///
    /// # Errors
    /// The first look failed. A later one that does is as if it had not been.
    pub fn wait(
        before: &Snapshot,
        mut look: impl FnMut() -> Result<Snapshot>,
        mut pause: impl FnMut(),
    ) -> Result<Self> {
        let at_first = look()?.since(before);
        let process = |one: &String| one.starts_with(PROCESS);
        let restarts = at_first.iter().any(process);
        let mut stayed = at_first.clone();
        for _ in 0..LOOKS {
            if stayed.is_empty() {
                break;
            }
            pause();
            let Ok(now) = look() else { continue };
            let another = |one: &String| restarts && process(one) && !at_first.contains(one);
            stayed.retain(|one| now.0.contains(one) && !another(one));
            stayed.extend(now.since(before).into_iter().filter(another));
        }
        Ok(Self { at_first, stayed })
    }
}

/// Says what holds something that stayed, as far as that can be told; a line each.
pub fn holders(left: &str) -> Vec<String> {
    let ask = |program: &str, words: &[&str]| shell::output(Command::new(program).args(words)).unwrap_or_default();
    let mut words = left.split([' ', ':']);
    match (words.next(), words.find(|word| !word.is_empty())) {
        (Some("program"), Some(id)) => {
            let shown = entries(&ask("bpftool", &["-f", "prog", "show", "id", id]), "");
            let links = entries(&ask("bpftool", &["-f", "link", "show"]), &format!(" prog {id} "));
            let links = links.into_iter().map(|link| format!("link {link}"));
            shown.into_iter().chain(links).chain(openers(id)).collect()
        }
        (Some("netns"), Some(name)) => {
            let inside = ask("ip", &["netns", "pids", name]);
            inside.split_whitespace().map(|process| format!("process {process} {}", command_line(process))).collect()
        }
        (Some("process"), Some(process)) => vec![command_line(process)],
        _ => Vec::new(),
    }
}

/// Returns the entries of a list of bpftool's that have `wanted` in their first line, each as one line.
fn entries(list: &str, wanted: &str) -> Vec<String> {
    let mut found: Vec<Vec<&str>> = Vec::new();
    let mut take = false;
    for line in list.lines() {
        if !line.starts_with(char::is_whitespace) {
            take = format!("{line} ").contains(wanted);
            found.extend(take.then(Vec::new));
        }
        if take && let Some(entry) = found.last_mut() {
            entry.extend(line.split_whitespace());
        }
    }
    found.into_iter().map(|words| words.join(" ")).collect()
}

/// Returns the processes that hold a program, or a link of it, open: not every bpftool can tell.
fn openers(program: &str) -> Vec<String> {
    let processes = names(Path::new("/proc"), |name| name.bytes().all(|byte| byte.is_ascii_digit()));
    let opener = |process: &String| {
        let table = Path::new("/proc").join(process).join("fdinfo");
        names(&table, |_| true).any(|file| is_of(&fs::read_to_string(table.join(file)).unwrap_or_default(), program))
    };
    processes.filter(opener).map(|process| format!("process {process} {}", command_line(&process))).collect()
}

/// Says whether what the kernel tells of an open file names a program.
fn is_of(told: &str, program: &str) -> bool {
    told.lines().filter_map(|line| line.strip_prefix("prog_id:")).any(|id| id.trim() == program)
}

fn command_line(process: &str) -> String {
    let words = fs::read(PathBuf::from("/proc").join(process).join("cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&words).replace('\0', " ").trim_end().to_owned()
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
fn programs() -> Result<Vec<String>> {
    let list = shell::output(Command::new("bpftool").args(["prog", "show"]))?;
    let ours = list.lines().filter(|line| line.contains(" name heartbeat_"));
    Ok(ours.map(|line| format!("program {}", line.split("  tag").next().unwrap_or(line))).collect())
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
        let before = Snapshot::take(directory.path()).unwrap();
        let mut child = Command::new(&program).arg("60").spawn().unwrap();
        let during = processes(directory.path());
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(during, [format!("process {} {}", child.id(), program.display())]);
        assert!(!before.0.iter().any(|found| found.contains("sleeper")));
        assert!(processes(directory.path()).is_empty());
    }

    fn snapshot(names: &[&str]) -> Snapshot {
        Snapshot(names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn only_what_is_new_counts() {
        assert_eq!(snapshot(&["a", "b"]).since(&snapshot(&["a", "c"])), ["b"]);
    }

    /// What was left where each look shows the next of `shows`, its last again and again; and how often was paused.
    fn waited(shows: &[&[&str]]) -> (Leftovers, u32) {
        let (mut looks, mut pauses) = (0, 0);
        let look = || {
            looks += 1;
            let shown = shows[(looks - 1).min(shows.len() - 1)];
            if shown.is_empty() { anyhow::bail!("nothing can be seen") } else { Ok(snapshot(shown)) }
        };
        let left = Leftovers::wait(&snapshot(&["a"]), look, || pauses += 1).unwrap();
        (left, pauses)
    }

    #[test]
    fn what_goes_away_in_time_is_no_leftover() {
        assert_eq!(waited(&[&["a"]]), (Leftovers::default(), 0), "nothing is waited for");
        let (left, pauses) = waited(&[&["a", "b", "c"], &["a", "c"], &["a", "b", "d"]]);
        assert_eq!((left.at_first, left.stayed, pauses), (vec!["b".into(), "c".into()], vec![], 2));
    }

    #[test]
    fn what_stays_is_a_leftover_and_what_comes_later_is_none() {
        let (left, pauses) = waited(&[&["b", "c"], &["b", "d"]]);
        assert_eq!((left.at_first, left.stayed), (vec!["b".into(), "c".into()], vec!["b".into()]));
        assert_eq!(PAUSE * pauses, Duration::from_secs(60));
    }

    #[test]
    fn what_nobody_could_look_at_is_not_gone() {
        let (left, pauses) = waited(&[&["b"], &[], &["b"], &["a"]]);
        assert_eq!((left.stayed, pauses), (vec![], 3));
        let fails = || anyhow::bail!("nothing can be seen");
        assert!(Leftovers::wait(&snapshot(&[]), fails, || ()).is_err());
    }

    #[test]
    fn a_process_that_is_started_again_and_again_is_a_leftover() {
        let looks: &[&[&str]] = &[&["process 1 x"], &["process 2 x", "netns c"], &["process 3 x", "netns c"]];
        assert_eq!(waited(looks).0.stayed, ["process 3 x"]);
        assert_eq!(waited(&[&["netns b"], &["process 2 x"]]).0.stayed, [""; 0], "of some other run");
    }

    #[test]
    fn the_links_of_a_program_are_found_in_bpftools_list() {
        let list = "4: xdp  prog 12\n\tifindex 2  \n\tpids heartbeatd(77)\n5: tcx  prog 123  \n\tifindex 3\n";
        assert_eq!(entries(list, " prog 12 "), ["4: xdp prog 12 ifindex 2 pids heartbeatd(77)"]);
        assert_eq!(entries(list, "").len(), 2);
        assert!(entries(list, " prog 1 ").is_empty() && entries("", "").is_empty());
    }

    #[test]
    fn an_open_file_is_known_by_its_program() {
        let link = "pos:\t0\nlink_type:\txdp\nlink_id:\t12\nprog_tag:\t7b655dc0\nprog_id:\t338\nifindex:\t2\n";
        assert!(is_of(link, "338"));
        assert!(!is_of(link, "33") && !is_of(link, "12") && !is_of("pos:\t0\n", "0"));
        assert!(openers("no program").is_empty());
    }

    #[test]
    fn a_process_that_stayed_is_told_by_its_words() {
        let own = std::process::id();
        let told = holders(&format!("process {own} {}", shell::root().display()));
        assert!(told[0].contains("xtask"), "{told:?}");
        assert!(holders("mount /run/x (bpf)").is_empty());
    }
}

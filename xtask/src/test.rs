//! `cargo xtask test`: installs what the tests need, builds, runs every test and counts what did not run.
//! It decides nothing about a test beyond whether its skip is allowed.

use crate::apt::{self, Need};
use crate::shell;
use crate::skips::Tally;
use anyhow::{Context, Result, bail};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What the tests call, and the packages that bring it.
const NEEDS: &[Need] = &[
    Need::Program("ip", "iproute2"),
    Need::Program("nft", "nftables"),
    Need::Program("ethtool", "ethtool"),
    Need::Program("bpftool", "bpftool"),
    Need::Program("tcpdump", "tcpdump"),
    Need::Program("setpriv", "util-linux"),
    Need::Program("ps", "procps"),
    Need::Program("man", "man-db"),
    Need::Program("systemd-analyze", "systemd"),
    Need::Program("mkfs.ext4", "e2fsprogs"),
];
/// Names of the tests that may be skipped.
const ALLOWED: &str = ".ci/allowed-skips";
/// How the files of tests of whole clusters begin. They mostly wait, so two of them are played at once.
const CLUSTERS: &str = "views_";
/// Those of them that judge by starvation, and so have the processors to themselves.
const CLUSTERS_ALONE: [&str; 2] = ["views_lease", "views_stall"];
/// Tests of whole clusters that are played at once: the lab asks for two processors.
const AT_ONCE: usize = 2;
/// Most tests of a group of the lab's that are run a second time.
const SECOND_TRIES: usize = 3;
/// An ordinary run should not take longer.
const LIMIT: Duration = Duration::from_secs(55 * 60);

/// Options of `test`.
#[derive(clap::Args, Debug, Default)]
pub struct Options {
    /// Run the long tests at their full length too: hours
    #[arg(long)]
    long: bool,
    /// Run only tests whose name contains FILTER
    #[arg(long, value_name = "FILTER")]
    only: Option<String>,
}

/// Runs the tests.
///
/// # Errors
/// A test failed or could not be built, something is missing, or a test was skipped that may not be.
pub fn run(options: &Options) -> Result<()> {
    let root = shell::root();
    apt::ensure("run the tests", NEEDS)?;
    let begun = Instant::now();
    let skips = root.join("target/skips.txt");
    fs::create_dir_all(root.join("target")).context("target")?;
    fs::write(&skips, "").with_context(|| skips.display().to_string())?;

    // The lab runs the real binaries, which `cargo test -p heartbeat-tests` alone would not build.
    shell::run(shell::cargo().args(["build", "--workspace", "--bins"]))?;
    if shell::is_root() {
        sweep(&root)?;
    }
    let mut tally = Tally::default();
    let test = |group: &Group, arguments: &[&str]| {
        let mut command = shell::cargo();
        command.args(["test", "--no-fail-fast"]).args(&group.targets).env("HEARTBEAT_SKIPS", &skips);
        if options.long {
            command.env("HEARTBEAT_LONG", "1");
        }
        command.arg("--").args(arguments);
        command
    };
    let mut well = true;
    for group in groups(&lab_files(&root)?) {
        let before = tally.clone();
        let threads = group.threads.map(|threads| format!("--test-threads={threads}"));
        let arguments: Vec<&str> = threads.iter().chain(&options.only).map(String::as_str).collect();
        let mut good = watch(&mut test(&group, &arguments), &mut tally)?;
        let names = second_tries(&before, &tally, |name| plays_in_real_time(&root, name));
        if !good && !names.is_empty() {
            good = names.iter().try_fold(true, |good, name| -> Result<bool> {
                Ok(try_again(&mut test(&group, &["--exact", name, "--test-threads=1"]), name, &mut tally)? && good)
            })?;
        }
        well &= good;
    }
    tally.take_file(&fs::read_to_string(&skips).with_context(|| skips.display().to_string())?);
    judge(&root, &tally, well, begun.elapsed(), options)
}

/// Tests that one call of cargo runs.
#[derive(Debug)]
struct Group {
    /// What cargo is to test.
    targets: Vec<String>,
    /// How many tests run at once; `None`: as many as the machine has processors.
    threads: Option<usize>,
}

/// Returns all tests that a run plays, in order, by the names of the lab's `files` of tests. These share the host's
/// network, CPUs and clocks: one at a time, and after the others; of whole clusters, which are last, some at once.
fn groups(files: &[String]) -> [Group; 3] {
    let at_once = |name: &&String| name.starts_with(CLUSTERS) && !CLUSTERS_ALONE.contains(&name.as_str());
    let (at_once, alone): (Vec<&String>, Vec<&String>) = files.iter().partition(at_once);
    let group = |words: &[&str], files: &[&String], threads| {
        let words = words.iter().map(|word| (*word).to_owned());
        let files = files.iter().flat_map(|name| ["--test".to_owned(), (*name).clone()]);
        Group { targets: words.chain(files).collect(), threads }
    };
    [
        group(&["--workspace", "--exclude", "heartbeat-tests"], &[], None),
        group(&["--package", "heartbeat-tests", "--lib", "--bins"], &alone, Some(1)),
        group(&["--package", "heartbeat-tests"], &at_once, Some(AT_ONCE)),
    ]
}

/// Returns the names of the lab's files of tests.
///
/// # Errors
/// If they cannot be listed.
fn lab_files(root: &Path) -> Result<Vec<String>> {
    let directory = root.join("tests/tests");
    let mut names = Vec::new();
    for entry in fs::read_dir(&directory).with_context(|| directory.display().to_string())? {
        let path = entry.with_context(|| directory.display().to_string())?.path();
        names.extend(path.file_stem().and_then(|name| name.to_str()).map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

/// Takes away what a killed run left (namespaces, daemons, pins, control groups) and says what it was: it would take
/// turns from the tests, or answer them. What cannot be taken away is said, and left to the tests' own judgement.
fn sweep(root: &Path) -> Result<()> {
    let mut command = Command::new(root.join("target/debug/heartbeat-lab"));
    let status = command.arg("sweep").status().with_context(|| shell::shown(&command))?;
    if !status.success() {
        println!("something of an earlier run is still there: the tests may suffer by it");
    }
    Ok(())
}

/// Returns the names of the tests that failed since `before` and may be run once more: few, all of which may `play` again,
/// and none of a run that broke a rule of safety. That a second one breaks none does not make it good.
fn second_tries(before: &Tally, now: &Tally, play: impl Fn(&str) -> bool) -> Vec<String> {
    if now.breaches.len() > before.breaches.len() {
        println!("\na rule of safety was broken: no test of these is run once more");
        return Vec::new();
    }
    let names = &now.failed_names[before.failed_names.len()..];
    let all_named = (now.failed - before.failed) as usize == names.len();
    let few = all_named && names.len() <= SECOND_TRIES;
    if few && names.iter().all(|name| play(name)) { names.to_vec() } else { Vec::new() }
}

/// Says whether a test plays in real time, and so may be run once more: those in files that begin with one of these
/// words. What the kernel's program answers, what a reader sees torn, and whether a starved victim was called down is the
/// same on every machine: there one failure is a failure.
fn plays_in_real_time(root: &Path, name: &str) -> bool {
    const FILES: [&str; 6] = ["check_", "host_", "lab_", "net_", "unit_", "views_"];
    let head = format!("fn {}()", name.rsplit("::").next().unwrap_or(name));
    let Ok(files) = fs::read_dir(root.join("tests/tests")) else { return false };
    files.flatten().any(|file| {
        let plays = file.file_name().to_str().is_some_and(|file| FILES.iter().any(|word| file.starts_with(word)));
        plays && fs::read_to_string(file.path()).is_ok_and(|text| text.contains(&head))
    })
}

/// Runs a test of the lab that failed once more, alone: the lab plays in real time on machines that are shared, and a
/// machine that loses turns fails tests that the product passes. Both outcomes are shown and counted, and a test that
/// fails twice has failed.
fn try_again(command: &mut Command, name: &str, tally: &mut Tally) -> Result<bool> {
    println!("\n{name} failed: it is run once more, alone");
    let mut again = Tally::default();
    let good = watch(command, &mut again)? && again.passed == 1 && again.failed == 0 && again.breaches.is_empty();
    tally.breaches.append(&mut again.breaches);
    if good {
        tally.failed -= 1;
        tally.passed += 1;
        tally.second_try.push(name.to_owned());
    }
    Ok(good)
}

/// Runs a command, shows its output and counts what it says. Returns whether it ended well.
fn watch(command: &mut Command, tally: &mut Tally) -> Result<bool> {
    println!("+ {}", shell::shown(command));
    let mut child = command.stdout(Stdio::piped()).spawn().with_context(|| shell::shown(command))?;
    let output = child.stdout.take().context("the output was asked for")?;
    for line in BufReader::new(output).split(b'\n') {
        let line = line.context("reading the tests' output")?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        tally.take_line(&line);
    }
    Ok(child.wait().context("waiting for the tests")?.success())
}

/// Prints the summary; its last line is for people and programs alike.
fn judge(root: &Path, tally: &Tally, well: bool, took: Duration, options: &Options) -> Result<()> {
    let path = root.join(ALLOWED);
    let allowed = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let unexpected = tally.unexpected(&allowed);
    println!();
    for (name, reason) in &tally.skipped {
        let allowed = if unexpected.iter().any(|(other, _)| other == name) { "NOT ALLOWED" } else { "allowed" };
        println!("skipped ({allowed}): {name}: {reason}");
    }
    if !options.long && took > LIMIT {
        println!("the tests took {} s: they should end within {} s", took.as_secs(), LIMIT.as_secs());
    }
    for breach in &tally.breaches {
        println!("a rule of safety was broken: {breach}");
    }
    for name in &tally.second_try {
        println!("passed only when run once more, alone: {name}");
    }
    println!(
        "{} passed, {} failed, {} skipped ({} not allowed) in {} s",
        tally.passed,
        tally.failed,
        tally.skipped.len(),
        unexpected.len(),
        took.as_secs()
    );
    if !tally.breaches.is_empty() {
        bail!("tests broke a rule of safety");
    }
    if !well || tally.failed > 0 {
        bail!("tests failed");
    }
    if tally.passed == 0 {
        bail!("no test ran{}", options.only.as_ref().map_or(String::new(), |only| format!(": none matches `{only}`")));
    }
    if !unexpected.is_empty() {
        bail!("tests were skipped that {ALLOWED} does not name");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_counted_and_the_end_is_seen() {
        let mut tally = Tally::default();
        let mut command = Command::new("sh");
        command.args(["-c", "echo 'test result: ok. 3 passed; 0 failed'; echo 'SKIP a: b'; printf '\\377\\n'; exit 1"]);
        assert!(!watch(&mut command, &mut tally).unwrap());
        assert_eq!((tally.passed, tally.skipped.len()), (3, 1));
        assert!(watch(&mut Command::new("true"), &mut tally).unwrap());
        assert!(watch(&mut Command::new("no-such-program"), &mut tally).is_err());
    }

    #[test]
    fn only_what_plays_in_real_time_may_be_tried_again() {
        let root = shell::root();
        assert!(plays_in_real_time(&root, "napi_becomes_a_thread"));
        for name in ["kernel_and_reference_agree", "two_hundred_starved_windows_and_nobody_down", "no_such_test"] {
            let text = |file: &str| fs::read_to_string(root.join("tests/tests").join(file)).unwrap();
            let there = text("xdp_differential.rs") + &text("starvation_pairs.rs");
            assert!(name == "no_such_test" || there.contains(name), "{name} was renamed");
            assert!(!plays_in_real_time(&root, name), "{name}");
        }
    }

    /// The lab's files of tests that a run plays, each with how many of its tests run at once.
    fn played() -> Vec<(String, usize)> {
        let mut played = Vec::new();
        for group in groups(&lab_files(&shell::root()).unwrap()) {
            let named = group.targets.windows(2).filter(|pair| pair[0] == "--test");
            played.extend(named.map(|pair| (pair[1].clone(), group.threads.unwrap())));
        }
        played.sort();
        played
    }

    #[test]
    fn every_file_of_tests_is_played_by_exactly_one_group() {
        let directory = fs::read_dir(shell::root().join("tests/tests")).unwrap();
        let mut there: Vec<String> =
            directory.map(|entry| entry.unwrap().file_name().into_string().unwrap().replace(".rs", "")).collect();
        there.sort();
        let played: Vec<String> = played().into_iter().map(|(name, _)| name).collect();
        assert_eq!(played, there);
        assert!(there.iter().any(|name| name == "views_form"), "{there:?}");
    }

    #[test]
    fn clusters_are_played_two_at_once_but_for_those_that_judge_by_starvation() {
        let played = played();
        for (name, threads) in &played {
            let at_once = name.starts_with("views_") && name != "views_lease" && name != "views_stall";
            assert_eq!(*threads, if at_once { 2 } else { 1 }, "{name}");
        }
        for name in CLUSTERS_ALONE {
            assert!(played.contains(&(name.to_owned(), 1)), "{name} was renamed");
        }
    }

    #[test]
    fn all_else_of_the_workspace_is_tested_first() {
        let [others, lab, clusters] = groups(&["a".to_owned(), "views_b".to_owned(), "views_stall".to_owned()]);
        assert_eq!(
            (others.targets.join(" "), others.threads),
            ("--workspace --exclude heartbeat-tests".to_owned(), None)
        );
        assert_eq!(lab.targets.join(" "), "--package heartbeat-tests --lib --bins --test a --test views_stall");
        assert_eq!(clusters.targets.join(" "), "--package heartbeat-tests --test views_b");
    }

    #[test]
    fn a_second_try_counts_only_if_exactly_the_test_passes() {
        let mut tally = Tally { failed: 2, ..Tally::default() };
        let said = |text: &str| {
            let mut command = Command::new("echo");
            command.arg(text);
            command
        };
        assert!(try_again(&mut said("test result: ok. 1 passed; 0 failed"), "a", &mut tally).unwrap());
        assert!(!try_again(&mut said("test result: ok. 0 passed; 0 failed"), "b", &mut tally).unwrap());
        assert!(!try_again(&mut said("test result: FAILED. 0 passed; 1 failed"), "b", &mut tally).unwrap());
        assert_eq!((tally.passed, tally.failed, tally.second_try), (1, 1, vec!["a".to_owned()]));
    }

    #[test]
    fn a_run_that_broke_a_rule_of_safety_gives_no_second_try() {
        let tally = |lines: &[&str]| {
            let mut tally = Tally::default();
            lines.iter().for_each(|line| tally.take_line(line));
            tally
        };
        let failed = ["test a ... FAILED", "SAFETY: two digests", "test result: FAILED. 5 passed; 1 failed"];
        let (before, late) = (tally(&failed[1..2]), tally(&[failed[0], failed[2]]));
        let names = |before: &Tally, now: &Tally| second_tries(before, now, |name| name == "a");
        assert_eq!(names(&Tally::default(), &late), ["a"], "it was late, and nothing else");
        assert!(names(&Tally::default(), &tally(&failed)).is_empty());
        assert_eq!(names(&before, &tally(&failed)), ["a"], "that was another run");
        assert!(second_tries(&Tally::default(), &late, |_| false).is_empty());
        assert!(names(&Tally::default(), &Tally { failed: 2, ..late.clone() }).is_empty(), "one that nobody named");
        let many = ["test a ... FAILED"; SECOND_TRIES + 1];
        assert!(names(&Tally::default(), &Tally { failed: many.len() as u64, ..tally(&many) }).is_empty());
    }

    #[test]
    fn a_second_try_that_breaks_a_rule_of_safety_is_none() {
        let mut tally = Tally { failed: 1, ..Tally::default() };
        let mut command = Command::new("sh");
        command.args(["-c", "echo 'SAFETY: a and b'; echo 'test result: ok. 1 passed; 0 failed'"]);
        assert!(!try_again(&mut command, "a", &mut tally).unwrap());
        assert_eq!((tally.passed, tally.failed, tally.breaches), (0, 1, vec!["a and b".to_owned()]));
    }

    #[test]
    fn failed_tests_are_known_by_name() {
        let mut tally = Tally::default();
        tally.take_line("test fault_17_a ... FAILED");
        tally.take_line("test fault_18_b ... ok");
        assert_eq!(tally.failed_names, ["fault_17_a"]);
    }

    #[test]
    fn a_run_is_good_only_if_something_passed_and_nothing_was_skipped_unasked() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join(".ci")).unwrap();
        fs::write(root.path().join(ALLOWED), "allowed\n").unwrap();
        let judge = |tally: &Tally, well| judge(root.path(), tally, well, Duration::ZERO, &Options::default());
        let mut tally = Tally::default();
        assert!(judge(&tally, true).is_err(), "nothing ran");
        tally.take_line("test result: ok. 1 passed; 0 failed");
        tally.take_line("SKIP allowed: reason");
        judge(&tally, true).unwrap();
        assert!(judge(&tally, false).is_err(), "a binary did not build or crashed");
        let mut failed = tally.clone();
        failed.failed = 1;
        assert!(judge(&failed, true).is_err());
        let broken = Tally { breaches: vec!["two digests".to_owned()], ..tally.clone() };
        assert!(judge(&broken, true).unwrap_err().to_string().contains("safety"), "whatever else passed");
        tally.take_line("SKIP other: reason");
        assert!(judge(&tally, true).is_err());
    }
}

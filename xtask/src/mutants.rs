//! `cargo xtask mutants`: puts known bugs back, one at a time, into a copy of the tree. Each is a patch in
//! `tests/mutants` that names the rule it breaks and the test that is there for it; that test has to pass without the
//! patch, and to fail with it by an assertion. It changes nothing in the tree itself, and there is no switch for any bug.

mod patch;
mod tree;

use crate::shell;
use anyhow::{Context, Result, bail, ensure};
use patch::Patch;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};
use tree::Copied;

/// Where the patches are.
const PATCHES: &str = "tests/mutants";
/// CI tries one part of so many; which one, the number of commits says.
const PARTS: usize = 2;
/// No test of the core takes that long, whatever is wrong with it.
const TEST_LIMIT: Duration = Duration::from_secs(120);

/// Options of `mutants`.
#[derive(clap::Args, Debug, Default)]
pub struct Options {
    /// Only this mutant
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Only part K of N, as `2/4`
    #[arg(long, value_name = "K/N", conflicts_with = "only", value_parser = parse_part)]
    part: Option<(usize, usize)>,
}

fn parse_part(text: &str) -> Result<(usize, usize)> {
    let (part, parts) = text.split_once('/').context("it is to be K/N")?;
    let (part, parts) = (part.parse()?, parts.parse()?);
    ensure!((1..=parts).contains(&part), "there is no part {part} of {parts}");
    Ok((part, parts))
}

/// Tries mutants.
///
/// # Errors
/// A patch cannot be read, does not apply or does not compile; a test is not there, or fails without the patch; or a
/// mutant lives.
pub fn run(options: &Options) -> Result<()> {
    let all = patch::read_all(&shell::root().join(PATCHES))?;
    let chosen = choose(all, options)?;
    let copied = Copied::make(&shell::root(), &shell::root().join("target/mutants"))?;
    prove_good(&copied, &chosen)?;
    let mut alive = Vec::new();
    for patch in &chosen {
        let begun = Instant::now();
        let outcome = kill(&copied, patch);
        copied.restore()?;
        let seconds = begun.elapsed().as_secs_f64();
        match outcome {
            Ok(()) => println!("killed {} in {seconds:.0} s", patch.name),
            Err(error) => {
                println!("ALIVE  {} after {seconds:.0} s: {error:#}", patch.name);
                alive.push(patch.name.clone());
            }
        }
    }
    println!("{} mutants, {} killed, {} not", chosen.len(), chosen.len() - alive.len(), alive.len());
    ensure!(alive.is_empty(), "not killed: {}", alive.join(", "));
    Ok(())
}

/// Tries the part of them whose turn it is.
///
/// # Errors
/// As [`run`].
pub fn ci() -> Result<()> {
    let commits = shell::output(Command::new("git").args(["rev-list", "--count", "HEAD"]).current_dir(shell::root()))?;
    let commits: usize = commits.trim().parse().context("number of commits")?;
    run(&Options { only: None, part: Some((commits % PARTS + 1, PARTS)) })
}

fn choose(all: Vec<Patch>, options: &Options) -> Result<Vec<Patch>> {
    let number = all.len();
    let (part, parts) = options.part.unwrap_or((1, 1));
    let wanted = |(place, patch): &(usize, Patch)| match &options.only {
        Some(name) => *name == patch.name,
        None => place % parts == part - 1,
    };
    let chosen: Vec<Patch> = all.into_iter().enumerate().filter(wanted).map(|(_, patch)| patch).collect();
    if let Some(name) = options.only.as_ref().filter(|_| chosen.is_empty()) {
        bail!("no mutant is called `{name}`");
    }
    println!("{} of {number} mutants", chosen.len());
    Ok(chosen)
}

/// The tests that are to kill pass as long as nothing is wrong: all of them are there.
fn prove_good(copied: &Copied, chosen: &[Patch]) -> Result<()> {
    let mut tests: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for patch in chosen {
        tests.entry(&patch.package).or_default().extend(patch.tests.iter().map(String::as_str));
    }
    for (package, tests) in tests {
        let program = build(copied, package).with_context(|| format!("{package} without any patch"))?;
        for test in tests {
            let ran = run_test(copied, package, &program, test)?;
            ensure!(ran.is(test, "ok"), "{package}: `{test}` does not pass without any patch:\n{}", ran.output);
        }
    }
    Ok(())
}

fn kill(copied: &Copied, patch: &Patch) -> Result<()> {
    copied.apply(&patch.file)?;
    let program = build(copied, &patch.package).context("it does not compile, so it shows nothing")?;
    for test in &patch.tests {
        let ran = run_test(copied, &patch.package, &program, test)?;
        ensure!(!ran.timed_out, "`{test}` did not end within {} s", TEST_LIMIT.as_secs());
        ensure!(ran.is(test, "FAILED"), "`{test}` passes with it");
        ensure!(ran.output.contains(" panicked at "), "`{test}` failed by no assertion:\n{}", ran.output);
    }
    Ok(())
}

/// Builds a package's unit tests in the copy, and returns the program.
fn build(copied: &Copied, package: &str) -> Result<PathBuf> {
    let mut command = shell::cargo();
    command.args(["test", "--locked", "--lib", "--no-run", "--message-format=json", "--package", package]);
    // Each mutant changes a line or two: built piecemeal and unoptimised, it is there in a fraction of the time.
    command.args(["--config", "profile.dev.package.heartbeat-user.opt-level=0"]).env("CARGO_INCREMENTAL", "1");
    // Into the target directory of all tasks: what the tests have built of others' crates is not built again.
    command.current_dir(copied.tree());
    let told = shell::output(&mut command)?;
    let messages = told.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let program = messages.filter(|message| message["profile"]["test"] == true).find_map(|message| {
        let program = message["executable"].as_str()?;
        Some(PathBuf::from(program))
    });
    program.with_context(|| format!("cargo named no program of {package}'s tests"))
}

/// How a test ended.
struct Ran {
    output: String,
    timed_out: bool,
}

impl Ran {
    fn is(&self, test: &str, word: &str) -> bool {
        self.output.lines().any(|line| line == format!("test {test} ... {word}"))
    }
}

fn run_test(copied: &Copied, package: &str, program: &Path, test: &str) -> Result<Ran> {
    let said = copied.place().join("said");
    let file = fs::File::create(&said).with_context(|| said.display().to_string())?;
    let mut command = Command::new(program);
    command.args(["--exact", test, "--test-threads=1"]).current_dir(copied.tree().join(package));
    command.stdin(Stdio::null()).stderr(file.try_clone()?).stdout(file).env_remove("RUST_BACKTRACE");
    let mut child = command.spawn().with_context(|| shell::shown(&command))?;
    let deadline = Instant::now() + TEST_LIMIT;
    let timed_out = loop {
        if child.try_wait()?.is_some() {
            break false;
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            break true;
        }
        sleep(Duration::from_millis(20));
    };
    let output = fs::read(&said).with_context(|| said.display().to_string())?;
    Ok(Ran { output: String::from_utf8_lossy(&output).into_owned(), timed_out })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_read() {
        assert_eq!(parse_part("2/4").unwrap(), (2, 4));
        for bad in ["0/4", "5/4", "4", "a/4", "1/0"] {
            assert!(parse_part(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn parts_are_all_of_them_and_none_twice() {
        let all = || patch::read_all(&shell::root().join(PATCHES)).unwrap();
        let of = |part| choose(all(), &Options { only: None, part: Some((part, PARTS)) }).unwrap();
        let mut names: Vec<String> = (1..=PARTS).flat_map(of).map(|patch| patch.name).collect();
        names.sort_unstable();
        assert_eq!(names, all().into_iter().map(|patch| patch.name).collect::<Vec<_>>());
    }

    /// A mutant that no longer applies is not noticed until its turn comes, and tries nothing until then.
    #[test]
    fn every_patch_applies_to_the_tree() {
        let all = patch::read_all(&shell::root().join(PATCHES)).unwrap();
        let refused = |patch: &Patch| {
            let tried = shell::output(tree::applying(&shell::root()).arg("--check").arg(&patch.file));
            tried.err().map(|error| format!("{}: {error:#}", patch.name))
        };
        let refused: Vec<String> = all.iter().filter_map(refused).collect();
        assert!(refused.is_empty(), "these have to follow the code:\n{}", refused.join("\n"));
    }

    /// The document that says which patch stands for which bug names patches that are there.
    #[test]
    fn the_documentation_names_patches_that_are_there() {
        let text = fs::read_to_string(shell::root().join("docs/known-bugs.md")).unwrap();
        let all: BTreeSet<String> =
            patch::read_all(&shell::root().join(PATCHES)).unwrap().into_iter().map(|patch| patch.name).collect();
        let cells = text.lines().filter_map(|line| line.split('|').nth(3));
        let named: Vec<&str> = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
        assert!(named.len() >= 20, "{named:?}");
        let missing: Vec<&&str> = named.iter().filter(|name| !all.contains(**name)).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }

    #[test]
    fn one_is_chosen_by_name() {
        let all = || patch::read_all(&shell::root().join(PATCHES)).unwrap();
        let only = |name: &str| choose(all(), &Options { only: Some(name.to_owned()), part: None });
        assert_eq!(only("grants-never-cleared").unwrap().len(), 1);
        assert!(only("no-such-mutant").is_err());
    }

    #[test]
    fn a_test_is_told_by_its_whole_line() {
        let ran = Ran { output: "running 1 test\ntest a::b ... FAILED\n".to_owned(), timed_out: false };
        assert!(ran.is("a::b", "FAILED") && !ran.is("b", "FAILED") && !ran.is("a::b", "ok"));
    }
}

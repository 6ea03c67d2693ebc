//! `cargo xtask ci`: every check that a change has to pass, in the order in which they are cheap.
//! It runs all of them even if one fails, and fails if one did.

use crate::apt::{self, Need};
use crate::leaks::{self, Leftovers, Snapshot};
use crate::{ebpf, model, mutants, shell, sim, test};
use anyhow::{Result, bail};
use std::path::Path;
use std::thread;
use std::time::Instant;

type Check = (&'static str, fn() -> Result<()>);

const CHECKS: &[Check] = &[
    ("format", format),
    ("lints", lints),
    ("documentation", documentation),
    ("kernel object", ebpf::check),
    ("lints of the kernel program", ebpf::lint),
    ("simulator", sim::check),
    ("model check", model::ci),
    ("mutants", mutants::ci),
    ("tests", || test::run(&test::Options::default())),
];

/// Runs every check.
///
/// # Errors
/// One of them failed; the error names all that did.
pub fn run() -> Result<()> {
    apt::ensure("look for what tests leave behind", &[Need::Program("bpftool", "bpftool")])?;
    let target = shell::root().join("target");
    let before = Snapshot::take(&target)?;
    let mut failed = Vec::new();
    for (name, check) in CHECKS {
        println!("\n== {name}");
        let begun = Instant::now();
        let outcome = check();
        let seconds = begun.elapsed().as_secs();
        match outcome {
            Ok(()) => println!("== {name}: passed in {seconds} s"),
            Err(error) => {
                println!("{error:#}\n== {name}: FAILED after {seconds} s");
                failed.push(*name);
            }
        }
    }
    println!("\n== leftovers");
    let nothing = leave_nothing(&before, &target).unwrap_or_else(|error| {
        println!("{error:#}");
        false
    });
    if !nothing {
        failed.push("leftovers");
    }
    println!("\nci: {} checks passed, {} failed", CHECKS.len() + 1 - failed.len(), failed.len());
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

/// Says whether nothing stays of what was not there `before`, and says what does and how long it took.
fn leave_nothing(before: &Snapshot, target: &Path) -> Result<bool> {
    let begun = Instant::now();
    let left = Leftovers::wait(before, || Snapshot::take(target), || thread::sleep(leaks::PAUSE))?;
    for one in &left.stayed {
        println!("left behind: {one}");
        leaks::holders(one).iter().for_each(|holder| println!("    {holder}"));
    }
    let gone = left.at_first.iter().filter(|one| !left.stayed.contains(one)).count();
    if !left.at_first.is_empty() {
        println!("{gone} of {} went away within {:.1} s", left.at_first.len(), begun.elapsed().as_secs_f64());
    }
    Ok(left.stayed.is_empty())
}

fn format() -> Result<()> {
    shell::run(shell::cargo().args(["fmt", "--all", "--check"]))?;
    shell::run(shell::cargo().args(["fmt", "--manifest-path", "heartbeat-ebpf/Cargo.toml", "--check"]))
}

fn lints() -> Result<()> {
    let everything = ["--workspace", "--all-targets", "--all-features", "--locked"];
    shell::run(shell::cargo().arg("clippy").args(everything).args(["--", "-D", "warnings"]))
}

fn documentation() -> Result<()> {
    let mut doc = shell::cargo();
    doc.args(["doc", "--workspace", "--no-deps", "--locked", "--document-private-items"]);
    shell::run(doc.env("RUSTDOCFLAGS", "-D warnings"))
}

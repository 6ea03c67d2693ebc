//! `cargo xtask sim`: builds the simulator with its assertions and hands over to it. What is simulated is in
//! heartbeat-tests.

use crate::{launch, shell};
use anyhow::Result;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

/// Options of `sim`.
///
/// Plays whole clusters in virtual time: the shipping controllers on played clocks, wires, disks, threads and machines,
/// with faults drawn from a seed, and every rule of membership checked at every event. One seed is one run. It prints how
/// far it is, what happened, how fast it went, and each seed that broke a rule with the command that plays it again; it
/// ends with 1 if there is one.
///
/// Examples:
///   cargo xtask sim --seeds 10000             ten thousand worlds
///   cargo xtask sim --seeds 1000000           the long run
///   cargo xtask sim --seed 50000 --seeds 50000 --record FILE   one part of it, and a line for it
///   cargo xtask sim --seed 77 --trace         one world, with all that happens in it
///   cargo xtask sim --seeds 500 -- --nodes 5  more options: `cargo xtask sim -- --help`
#[derive(clap::Args, Debug)]
#[command(verbatim_doc_comment)]
pub struct Options {
    /// Worlds to play (100 if neither this nor --seed is given)
    #[arg(long, value_name = "N")]
    seeds: Option<u64>,
    /// The first seed; without --seeds: the only one
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Add a line to this file: which program played which seeds, and what came of them
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Print everything that happens; best with one seed
    #[arg(long)]
    trace: bool,
    /// Passed through to heartbeat-sim, after `--`
    #[arg(last = true, value_name = "OPTION")]
    rest: Vec<OsString>,
}

/// The simulator.
pub const PROGRAM: &str = "heartbeat-sim";
/// The profile: as fast as a release, with every assertion.
const PROFILE: &str = "sim";
/// What every change has to pass: so many worlds. How fast they went is printed and judged by nobody here: machines
/// differ.
const CHECK: [&str; 2] = ["--seeds", "10000"];

/// Plays worlds.
///
/// # Errors
/// It cannot be built or started. Does not return otherwise.
pub fn run(options: &Options) -> Result<()> {
    build(PROGRAM)?;
    launch::become_built(PROFILE, PROGRAM, arguments(options))
}

/// Plays the worlds that every change has to pass.
///
/// # Errors
/// It cannot be built, a rule was broken, or something that is to be played never happened.
pub fn check() -> Result<()> {
    shell::run(Command::new(build(PROGRAM)?).args(CHECK))
}

/// Builds a program of heartbeat-tests as fast as a release, with every assertion, and returns where it is.
///
/// # Errors
/// It cannot be built.
pub fn build(program: &str) -> Result<PathBuf> {
    let target = ["--package", "heartbeat-tests", "--bin", program, "--profile", PROFILE];
    shell::run(shell::cargo().arg("build").args(target))?;
    Ok(shell::root().join("target").join(PROFILE).join(program))
}

fn arguments(options: &Options) -> Vec<OsString> {
    let mut arguments = Vec::new();
    for (name, value) in [("--seeds", options.seeds), ("--seed", options.seed)] {
        if let Some(value) = value {
            arguments.extend([name.into(), value.to_string().into()]);
        }
    }
    if let Some(file) = &options.record {
        arguments.extend(["--record".into(), file.clone().into_os_string()]);
    }
    if options.trace {
        arguments.push("--trace".into());
    }
    arguments.extend(options.rest.iter().cloned());
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_pass_through() {
        let (record, rest) = (Some(PathBuf::from("runs")), vec!["--threads=1".into()]);
        let options = Options { seeds: Some(20), seed: Some(7), record, trace: true, rest };
        let expected = ["--seeds", "20", "--seed", "7", "--record", "runs", "--trace", "--threads=1"];
        assert_eq!(arguments(&options), expected);
        let none = Options { seeds: None, seed: None, record: None, trace: false, rest: Vec::new() };
        assert!(arguments(&none).is_empty());
    }
}

//! `cargo xtask demo`, `bench` and `run`: build what they need and hand over to it.
//! Arguments pass through; what they mean is decided by the program that gets them.

use crate::apt::{self, Need};
use crate::{shell, sim};
use anyhow::{Context, Result};
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// What the lab calls.
const NEEDS: &[Need] = &[
    Need::Program("ip", "iproute2"),
    Need::Program("nft", "nftables"),
    Need::Program("ethtool", "ethtool"),
    Need::Program("bpftool", "bpftool"),
];

/// Options of `bench`.
#[derive(clap::Args, Debug)]
pub struct Bench {
    /// Fewer samples: minutes instead of hours
    #[arg(long)]
    quick: bool,
    /// Run only this benchmark
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Where figures, raw data and plots go
    #[arg(long, value_name = "DIR")]
    out: Option<OsString>,
    /// Measure again what an earlier run into the same directory has finished
    #[arg(long)]
    again: bool,
}

/// Options of `demo` and `run`.
#[derive(clap::Args, Debug)]
pub struct Rest {
    /// Passed through
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Plays the demonstration.
///
/// # Errors
/// It cannot be built or started. Does not return otherwise.
pub fn demo(options: &Rest) -> Result<()> {
    lab("demo", options.arguments.iter().cloned())
}

/// Runs benchmarks.
///
/// # Errors
/// As [`demo`].
pub fn bench(options: &Bench) -> Result<()> {
    if plays_worlds(options) {
        sim::build(sim::PROGRAM)?;
    }
    lab("bench", bench_arguments(options))
}

/// Says whether the simulator is among what is measured.
fn plays_worlds(options: &Bench) -> bool {
    options.only.as_deref().is_none_or(|only| only == "simulator")
}

/// Runs heartbeatd of this tree in the foreground.
///
/// # Errors
/// As [`demo`].
pub fn heartbeatd(options: &Rest) -> Result<()> {
    shell::run(shell::cargo().args(["build", "--release", "--package", "heartbeat-user", "--bins"]))?;
    become_program("heartbeatd", std::iter::once("run".into()).chain(options.arguments.iter().cloned()))
}

fn bench_arguments(options: &Bench) -> Vec<OsString> {
    let mut arguments = Vec::new();
    if options.quick {
        arguments.push("--quick".into());
    }
    if let Some(only) = &options.only {
        arguments.extend(["--only".into(), only.into()]);
    }
    if let Some(out) = &options.out {
        arguments.extend(["--out".into(), out.clone()]);
    }
    if options.again {
        arguments.push("--again".into());
    }
    arguments
}

fn lab(task: &str, arguments: impl IntoIterator<Item = OsString>) -> Result<()> {
    apt::ensure(&format!("run `{task}`"), NEEDS)?;
    let packages = ["--package", "heartbeat-user", "--package", "heartbeat-tests"];
    shell::run(shell::cargo().args(["build", "--release", "--bins"]).args(packages))?;
    become_program("heartbeat-lab", std::iter::once(task.into()).chain(arguments))
}

fn become_program(name: &str, arguments: impl IntoIterator<Item = OsString>) -> Result<()> {
    become_built("release", name, arguments)
}

/// Replaces this process by a program built under a profile, so that signals reach the program itself and its exit
/// status is ours.
///
/// # Errors
/// It cannot be started. Does not return otherwise.
pub fn become_built(profile: &str, name: &str, arguments: impl IntoIterator<Item = OsString>) -> Result<()> {
    let mut command = Command::new(shell::root().join("target").join(profile).join(name));
    command.args(arguments);
    println!("+ {}", shell::shown(&command));
    Err(command.exec()).with_context(|| format!("cannot start `{}`", shell::shown(&command)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bench_options_pass_through() {
        let bench = |quick, only: Option<&str>, out: Option<&str>, again| {
            bench_arguments(&Bench { quick, only: only.map(Into::into), out: out.map(Into::into), again })
        };
        assert!(bench(false, None, None, false).is_empty());
        let all = ["--quick", "--only", "rtt", "--out", "/o", "--again"];
        assert_eq!(bench(true, Some("rtt"), Some("/o"), true), all);
    }

    #[test]
    fn the_simulator_is_built_where_it_is_measured() {
        let of = |only: Option<&str>| {
            plays_worlds(&Bench { quick: true, only: only.map(Into::into), out: None, again: false })
        };
        assert!(of(None) && of(Some("simulator")) && !of(Some("death")));
    }

    #[test]
    fn a_program_that_was_not_built_is_named() {
        assert!(become_program("no-such-program", []).unwrap_err().to_string().contains("no-such-program"));
    }
}

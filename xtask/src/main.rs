//! heartbeat's build, test, demo, bench and install commands, by `cargo xtask`.
//! This file only takes the command line apart; each task has a file of its own.

mod apt;
mod ci;
mod ebpf;
mod launch;
mod leaks;
mod shell;
mod skips;
mod test;

use clap::Parser;
use std::process::ExitCode;

/// heartbeat's build, test, demo, bench and install commands
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Task {
    /// Build the kernel objects and their manifest; --check proves the committed ones
    BuildEbpf(ebpf::Options),
    /// Install what the tests need, build, run every test, and count the skips
    Test(test::Options),
    /// Build, and play the demonstration: a cluster in namespaces through starvation, death, cuts and restarts
    Demo(launch::Rest),
    /// Build, and measure: figures, raw data and plots to files
    Bench(launch::Bench),
    /// Build heartbeatd and run it on this node in the foreground; arguments pass through
    Run(launch::Rest),
    /// Run every check that a change has to pass
    Ci,
}

fn main() -> ExitCode {
    let outcome = match Task::parse() {
        Task::BuildEbpf(options) => ebpf::run(&options),
        Task::Test(options) => test::run(&options),
        Task::Demo(options) => launch::demo(&options),
        Task::Bench(options) => launch::bench(&options),
        Task::Run(options) => launch::heartbeatd(&options),
        Task::Ci => ci::run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

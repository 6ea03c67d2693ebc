//! heartbeat's build, test, demo, bench and install commands, by `cargo xtask`.
//! This file only takes the command line apart; each task has a file of its own.

mod apt;
mod ebpf;
mod shell;

use clap::Parser;
use std::process::ExitCode;

/// heartbeat's build, test, demo, bench and install commands
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Task {
    /// Build the kernel objects and their manifest; --check proves the committed ones
    BuildEbpf(ebpf::Options),
}

fn main() -> ExitCode {
    let outcome = match Task::parse() {
        Task::BuildEbpf(options) => ebpf::run(&options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

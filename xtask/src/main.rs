//! heartbeat's build, test, demo, bench and install commands, by `cargo xtask`.
//! This file only takes the command line apart; each task has a file of its own.

mod apt;
mod ci;
#[cfg(feature = "docs")]
mod docs;
mod ebpf;
mod install;
mod launch;
mod leaks;
mod model;
mod mutants;
mod shell;
mod sim;
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
    /// Build the simulator, and play clusters by seed in virtual time
    Sim(sim::Options),
    /// Build, and check the agreement exhaustively within bounds, by stateright
    ModelCheck(model::Options),
    /// Put known bugs back into a copy of the tree, one at a time: each has to fail the test that is there for it
    Mutants(mutants::Options),
    /// Build heartbeatd and run it on this node in the foreground; arguments pass through
    Run(launch::Rest),
    /// Run every check that a change has to pass
    Ci,
    /// Build and install heartbeatd, heartbeatctl, service, man pages, completions and documents
    Install(install::Place),
    /// Remove what `install` installed; configuration, keys and state stay unless purged
    Uninstall(install::Removal),
    /// Write man pages and completions into DIR
    #[cfg(feature = "docs")]
    Generate {
        /// Where to
        #[arg(value_name = "DIR")]
        directory: std::path::PathBuf,
    },
}

fn main() -> ExitCode {
    let outcome = match Task::parse() {
        Task::BuildEbpf(options) => ebpf::run(&options),
        Task::Test(options) => test::run(&options),
        Task::Demo(options) => launch::demo(&options),
        Task::Bench(options) => launch::bench(&options),
        Task::Sim(options) => sim::run(&options),
        Task::ModelCheck(options) => model::run(&options),
        Task::Mutants(options) => mutants::run(&options),
        Task::Run(options) => launch::heartbeatd(&options),
        Task::Ci => ci::run(),
        Task::Install(place) => install::install(&place),
        Task::Uninstall(options) => install::uninstall(&options),
        #[cfg(feature = "docs")]
        Task::Generate { directory } => docs::generate(&directory),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

//! The model check's command line: which bounds, and whether all that has to hold does. It checks nothing itself.

use clap::Parser;
use heartbeat_tests::model;
use std::process::ExitCode;
use std::thread::available_parallelism;

/// Checks the agreement exhaustively within bounds.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Only clusters of so many nodes.
    #[arg(long, value_parser = clap::value_parser!(u8).range(3..=4))]
    nodes: Option<u8>,
    /// The bounds that take hours, in place of those of CI.
    #[arg(long)]
    long: bool,
    /// Only the bounds of this name.
    #[arg(long)]
    bounds: Option<String>,
    /// Threads.
    #[arg(long)]
    threads: Option<usize>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let threads = arguments.threads.unwrap_or_else(|| available_parallelism().map_or(1, usize::from));
    let chosen = match &arguments.bounds {
        Some(name) => model::named(name),
        None => Ok(model::chosen(arguments.nodes.map(usize::from), arguments.long)),
    };
    match chosen {
        Ok(bounds) if model::run(&bounds, threads) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("heartbeat-model: {error:#}");
            ExitCode::FAILURE
        }
    }
}

//! The lab's command line: hogs for tests, the demonstration, the benchmark, and the sweep that removes what killed
//! labs left. It decides nothing; every command is one call into the library.

use anyhow::Result;
use clap::{Parser, Subcommand};
use heartbeat_tests::lab::{self, Cluster, Daemon, Hog, Lab, Options, Spec, starve};
use heartbeat_tests::{bench, demo};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Namespaces, faults, demonstration and benchmark for heartbeat.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Use one CPU until a deadline.
    Hog {
        /// CPU to take, from 0.
        #[arg(long)]
        cpu: usize,
        /// SCHED_FIFO priority; normal scheduling without it.
        #[arg(long, value_parser = clap::value_parser!(i32).range(1..=99))]
        fifo: Option<i32>,
        /// Seconds until it ends by itself.
        #[arg(long)]
        seconds: f64,
    },
    /// Play nodes and clusters through their faults, in at most five minutes.
    Demo,
    /// Measure, and compare with the bars.
    Bench {
        /// Fewer samples: minutes instead of hours.
        #[arg(long)]
        quick: bool,
        /// Only this scenario.
        #[arg(long)]
        only: Option<String>,
        /// Directory for figures, raw data and plots.
        #[arg(long, default_value = "target/bench")]
        out: PathBuf,
        /// Measure again what has been measured before.
        #[arg(long)]
        again: bool,
    },
    /// Remove what labs of dead processes left, say what it was, and list what live ones have.
    Sweep,
    /// Make a lab with one process in it, say its tag, and wait (for tests of the clean-up).
    #[command(hide = true)]
    Hold {
        /// Run a heartbeatd in it too.
        #[arg(long)]
        daemon: bool,
        /// Seconds until it ends by itself.
        #[arg(long)]
        seconds: f64,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("heartbeat-lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> Result<ExitCode> {
    let good = match verb {
        Verb::Hog { cpu, fifo, seconds } => {
            starve::spin(cpu, fifo, Duration::try_from_secs_f64(seconds)?)?;
            true
        }
        Verb::Demo => demo::run()?,
        Verb::Bench { quick, only, out, again } => bench::run(only.as_deref(), &bench::Context { quick, out, again })?,
        Verb::Sweep => sweep(),
        Verb::Hold { daemon, seconds } => {
            hold(daemon, Duration::try_from_secs_f64(seconds)?)?;
            true
        }
    };
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn sweep() -> bool {
    let found = lab::abandoned();
    let left = lab::sweep();
    for leak in found.iter().filter(|leak| !left.contains(leak)) {
        println!("removed what a killed lab left: {leak}");
    }
    for leak in &left {
        println!("could not remove {leak}");
    }
    for leak in lab::leaks() {
        println!("in use: {leak}");
    }
    left.is_empty()
}

fn hold(daemon: bool, duration: Duration) -> Result<()> {
    // A daemon without a peer attaches nothing.
    let lab = Lab::new(Spec::new(1 + usize::from(daemon), 1))?;
    let options = Options { fast_path: "native".to_owned(), ..Options::default() };
    let _daemon = daemon.then(|| Daemon::start(&lab, 0, &Cluster::new(&lab, "lan"), &options)).transpose()?;
    let _frozen = lab::Freezer::new(&lab, "hold")?;
    let _hog = Hog::start(&lab, 0, None, duration)?;
    println!("{}", lab.tag());
    std::thread::sleep(duration);
    Ok(())
}

//! heartbeatctl: hands its command line to the library and ends with the code that it returns. It decides nothing.

use clap::Parser;
use heartbeat_user::{cli::Heartbeatctl, control, io::detach};
use std::process::ExitCode;

fn main() -> ExitCode {
    let line = Heartbeatctl::parse();
    control::run(&line, detach::run, &mut std::io::stdout().lock(), &mut std::io::stderr().lock()).into()
}

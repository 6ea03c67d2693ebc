//! heartbeatctl: hands its command line to the library and ends with the code that it returns. It decides nothing.

use heartbeat_user::cli::{ControlLine, parse_control};
use heartbeat_user::{control, io::detach, lease};
use std::process::ExitCode;

fn main() -> ExitCode {
    let (out, errors) = (&mut std::io::stdout().lock(), &mut std::io::stderr().lock());
    match parse_control(std::env::args_os()).unwrap_or_else(|error| error.exit()) {
        ControlLine::Page { verb, json } => lease::run(&verb, json, out, errors).into(),
        ControlLine::Ask(line) => control::run(&line, detach::run, out, errors).into(),
    }
}

//! heartbeatd: hands its command line to the library and ends with the code that it returns. It decides nothing.

use clap::Parser;
use heartbeat_user::cli::{DaemonCommand, ExitCode, Heartbeatd};
use heartbeat_user::io::check::Found;
use heartbeat_user::io::failure::Failure;
use heartbeat_user::io::logger::Logger;
use heartbeat_user::io::{check, daemon, mark_left, panics};
use heartbeat_user::{keys, lease};

fn main() -> std::process::ExitCode {
    match act(Heartbeatd::parse().into_command()) {
        Ok(()) => ExitCode::Ok.into(),
        Err(failure) => {
            eprintln!("heartbeatd: {failure}");
            failure.code.into()
        }
    }
}

fn act(command: DaemonCommand) -> Result<(), Failure> {
    match command {
        DaemonCommand::Run(arguments) => {
            panics::abort_on_panic();
            Logger::install(arguments.log_level).map_err(Failure::host)?;
            let ended = daemon::run(&arguments);
            log::logger().flush();
            ended
        }
        DaemonCommand::Check(arguments) => {
            let Found { warnings, mut faults, budget } = check::run(&arguments);
            if let Some(budget) = budget {
                println!("{budget}");
            }
            for warning in warnings {
                println!("warning: {warning}");
            }
            // A start would end with the code of the first, and find the next at the next start.
            let Some(last) = faults.pop() else {
                println!("{}: no fault found", arguments.config.config.display());
                return Ok(());
            };
            let code = faults.first().map_or(last.code, |first| first.code);
            for failure in faults {
                eprintln!("heartbeatd: {failure}");
            }
            Err(Failure { code, ..last })
        }
        DaemonCommand::Genkey(arguments) => {
            keys::generate(&arguments.file).map_err(Failure::making_key)?;
            println!("{}: a new key, mode 0600; copy it to every node of the cluster", arguments.file.display());
            Ok(())
        }
        DaemonCommand::MarkLeft(arguments) => {
            println!("{}", mark_left::run(&arguments.config)?);
            Ok(())
        }
        DaemonCommand::Hold(arguments) => {
            println!("{}", lease::run_hold(&arguments.page.places()).map_err(Failure::host)?);
            Ok(())
        }
    }
}

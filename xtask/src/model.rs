//! `cargo xtask model-check`: builds the checker and hands over to it. What is checked, and how far, is the checker's.

use crate::{shell, sim};
use anyhow::Result;
use std::ffi::OsString;
use std::process::Command;

/// Options of `model-check`.
#[derive(clap::Args, Debug, Default)]
pub struct Options {
    /// Only clusters of so many nodes
    #[arg(long, value_parser = clap::value_parser!(u8).range(3..=4))]
    nodes: Option<u8>,
    /// The bounds that take hours, in place of those of CI
    #[arg(long)]
    long: bool,
    /// Only these bounds, by name
    #[arg(long, value_name = "NAME", conflicts_with_all = ["nodes", "long"])]
    bounds: Option<String>,
}

/// Checks.
///
/// # Errors
/// The checker cannot be built, or something does not hold.
pub fn run(options: &Options) -> Result<()> {
    shell::run(Command::new(sim::build("heartbeat-model")?).args(arguments(options)))
}

/// Checks what CI checks.
///
/// # Errors
/// As [`run`].
pub fn ci() -> Result<()> {
    run(&Options::default())
}

fn arguments(options: &Options) -> Vec<OsString> {
    let mut arguments = Vec::new();
    if let Some(nodes) = options.nodes {
        arguments.extend(["--nodes".into(), nodes.to_string().into()]);
    }
    if options.long {
        arguments.push("--long".into());
    }
    if let Some(bounds) = &options.bounds {
        arguments.extend(["--bounds".into(), bounds.into()]);
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_pass_through() {
        assert!(arguments(&Options::default()).is_empty());
        let some = Options { nodes: Some(4), long: true, bounds: None };
        assert_eq!(arguments(&some), ["--nodes", "4", "--long"]);
        let named = Options { bounds: Some("three".to_owned()), ..Options::default() };
        assert_eq!(arguments(&named), ["--bounds", "three"]);
    }
}

//! Installs missing Debian packages where it may, and else says exactly what to type.
//! It installs nothing that is there already, and never without naming it.

use crate::shell;
use anyhow::{Result, bail};
use std::process::Command;

/// Something that a task needs from the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Need {
    /// A program, and the package that brings it: satisfied by the program, wherever it is from.
    Program(&'static str, &'static str),
    /// A package itself.
    Package(String),
}

impl Need {
    fn package(&self) -> &str {
        match self {
            Self::Program(_, package) => package,
            Self::Package(package) => package,
        }
    }

    fn is_met(&self) -> bool {
        match self {
            Self::Program(program, _) => shell::find_program(program).is_some(),
            Self::Package(package) => is_installed(package),
        }
    }
}

/// Makes sure that `needs` are met; `purpose` completes the sentence "needed to ...".
///
/// # Errors
/// Something is missing and this is not root on a Debian system (the error has the lines to type), or apt failed.
pub fn ensure(purpose: &str, needs: &[Need]) -> Result<()> {
    let missing: Vec<&str> = needs.iter().filter(|need| !need.is_met()).map(Need::package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !shell::is_root() || shell::find_program("apt-get").is_none() {
        bail!("{}", advice(purpose, &missing));
    }
    println!("installing Debian packages needed to {purpose}: {}", missing.join(" "));
    shell::run(apt_get().arg("update"))?;
    shell::run(apt_get().args(["install", "-y", "--no-install-recommends"]).args(missing))
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.arg("-q").env("DEBIAN_FRONTEND", "noninteractive");
    command
}

fn advice(purpose: &str, missing: &[&str]) -> String {
    format!(
        "these Debian packages are needed to {purpose}: {names}\nrun as root:\n  apt-get update\n  \
         apt-get install -y --no-install-recommends {names}",
        names = missing.join(" ")
    )
}

fn is_installed(package: &str) -> bool {
    let mut query = Command::new("dpkg-query");
    query.args(["--show", "--showformat=${db:Status-Status}", package]);
    shell::output(&mut query).is_ok_and(|status| status == "installed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_can_be_pasted() {
        let advice = advice("build the object", &["rustc-web", "llvm-22-dev"]);
        assert!(advice.ends_with("\n  apt-get install -y --no-install-recommends rustc-web llvm-22-dev"), "{advice}");
    }

    #[test]
    fn a_program_that_is_there_needs_no_package() {
        ensure("test", &[Need::Program("sh", "no-such-package")]).unwrap();
        assert!(!Need::Program("no-such-program", "no-such-package").is_met());
    }

    #[test]
    fn an_unknown_package_is_missing() {
        assert!(!is_installed("no-such-package"));
    }
}

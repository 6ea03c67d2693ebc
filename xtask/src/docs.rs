//! Makes man pages and shell completions from the command lines themselves.
//! It writes into one directory and says nothing that `--help` does not.

use anyhow::{Context, Result};
use clap::{Command, CommandFactory};
use clap_complete::{Shell, generate_to};
use clap_mangen::Man;
use heartbeat_user::cli::{Heartbeatd, control_command};
use std::fs;
use std::path::Path;

/// Writes `man/` and `completions/` in `directory`.
///
/// # Errors
/// A file cannot be written.
pub fn generate(directory: &Path) -> Result<()> {
    let (man, completions) = (directory.join("man"), directory.join("completions"));
    for directory in [&man, &completions] {
        fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    }
    for (command, section) in [(Heartbeatd::command(), "8"), (control_command(), "1")] {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let name = command.get_name().to_owned();
            generate_to(shell, &mut command.clone(), name, &completions)
                .with_context(|| completions.display().to_string())?;
        }
        let mut command = command.disable_help_subcommand(true);
        command.build();
        pages(&command, section, &man).with_context(|| man.display().to_string())?;
    }
    Ok(())
}

/// Writes the page of a command and those of its subcommands.
fn pages(command: &Command, section: &str, directory: &Path) -> std::io::Result<()> {
    for subcommand in command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set()) {
        pages(subcommand, section, directory)?;
    }
    Man::new(command.clone()).section(section).generate_to(directory).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_and_completion_is_made() {
        let directory = tempfile::tempdir().unwrap();
        generate(directory.path()).unwrap();
        let pages =
            ["heartbeatd.8", "heartbeatd-check.8", "heartbeatctl.1", "heartbeatctl-status.1", "heartbeatctl-token.1"];
        for page in pages {
            let page = fs::read_to_string(directory.path().join("man").join(page)).unwrap();
            assert!(page.contains(".SH NAME"), "{page}");
        }
        for completion in ["heartbeatctl.bash", "_heartbeatctl", "heartbeatctl.fish", "heartbeatd.bash", "_heartbeatd"]
        {
            assert!(directory.path().join("completions").join(completion).is_file(), "{completion}");
        }
    }
}

//! A start that failed, with the exit code that programs tell it by. It carries; it prints nothing.

use crate::cli::ExitCode;
use crate::config::LoadError;
use crate::io::lock::LockError;
use crate::keys::KeyError;
use std::fmt;

/// Why the daemon did not run, or ended.
#[derive(Debug)]
pub struct Failure {
    /// What programs tell it by.
    pub code: ExitCode,
    /// What people read.
    pub error: anyhow::Error,
}

impl Failure {
    /// Makes a failure with `code`.
    pub fn new(code: ExitCode, error: impl Into<anyhow::Error>) -> Self {
        Self { code, error: error.into() }
    }

    /// Makes a failure of this host: something is missing that heartbeatd needs.
    pub fn host(error: impl Into<anyhow::Error>) -> Self {
        Self::new(ExitCode::Environment, error)
    }

    /// Makes a failure of the configuration or the key.
    pub fn config(error: impl Into<anyhow::Error>) -> Self {
        Self::new(ExitCode::BadConfiguration, error)
    }

    /// Makes a failure of making a key: a file that is there is a refusal, anything else is this host's.
    #[must_use]
    pub fn making_key(error: KeyError) -> Self {
        match error {
            KeyError::Exists(_) => Self::new(ExitCode::Error, error),
            _ => Self::host(error),
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(ExitCode::Error, error)
    }
}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Self {
        Self::config(error)
    }
}

impl From<LockError> for Failure {
    fn from(error: LockError) -> Self {
        match error {
            LockError::Held(text) => Self::new(ExitCode::AnotherInstance, anyhow::anyhow!(text)),
            LockError::Failed(error) => Self::host(error),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:#}", self.error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load;

    #[test]
    fn a_key_that_is_there_is_a_refusal_and_no_fault_of_the_host() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("cluster.key");
        let make = |file: &std::path::Path| crate::keys::generate(file).map_err(Failure::making_key);
        make(&file).unwrap();
        assert_eq!(make(&file).unwrap_err().code, ExitCode::Error);
        assert_eq!(make(&directory.path().join("none/cluster.key")).unwrap_err().code, ExitCode::Environment);
    }

    #[test]
    fn a_reason_is_told_once() {
        let text = Failure::from(load(std::path::Path::new("/no/such/file")).unwrap_err()).to_string();
        assert_eq!(text, "/no/such/file: cannot be opened: No such file or directory (os error 2)");
    }
}

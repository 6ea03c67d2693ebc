//! Asks a running heartbeatd: finds its socket, makes sure whose it is, sends one request, reads answers.
//! It believes no socket that another user could have put there.

use super::{CHANGE_DEADLINE, ErrorCode, Refusal, Request, SCHEMA, SERVICE_NAME};
use crate::cli::ExitCode;
use nix::unistd::{User, geteuid};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Time for the daemon to take a request and answer it.
const DEADLINE: Duration = Duration::from_secs(5);
/// The same for a change of the cluster, which its members decide meanwhile.
const CHANGE: Duration = CHANGE_DEADLINE.saturating_add(DEADLINE);
const LATE: &str = "heartbeatd did not answer within 5 s: it may be stalled";
const LATE_CHANGE: &str =
    "heartbeatd did not answer within 15 s: it may be stalled; `heartbeatctl view` shows whether the change was made";
/// Longest line that is believed to be an answer.
const ANSWER_MAX: u64 = 64 * 1024 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is no socket, or nobody listens on it.
    #[error("heartbeatd is not running: {reason} at {path}; start it with: systemctl start heartbeatd")]
    NotRunning {
        /// Where one was looked for.
        path: PathBuf,
        /// What was found instead.
        reason: &'static str,
    },
    /// The file system keeps the caller out.
    #[error("{0}: permission denied; heartbeatctl is for root and members of group heartbeatd")]
    Denied(PathBuf),
    /// The socket or the process behind it is not heartbeatd's.
    #[error("{path}: {what} belongs to uid {uid}, not to root, heartbeatd's user or yourself: not asking it")]
    Foreign {
        /// The socket.
        path: PathBuf,
        /// The file, or the process that listens.
        what: &'static str,
        /// Whose it is.
        uid: u32,
    },
    /// The daemon refused.
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// The daemon speaks another version.
    #[error("heartbeatd answered with schema {0}, this heartbeatctl reads schema {SCHEMA}: use the one of its version")]
    Schema(Value),
    /// The answer could not be read.
    #[error("{path}: {what}")]
    Io {
        /// The socket.
        path: PathBuf,
        /// What went wrong.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

impl ClientError {
    /// Returns how heartbeatctl ends with this error.
    #[must_use]
    pub const fn exit_code(&self) -> ExitCode {
        match self {
            Self::NotRunning { .. } => ExitCode::NotRunning,
            Self::Denied(_) | Self::Refused(Refusal { code: ErrorCode::PermissionDenied, .. }) => {
                ExitCode::PermissionDenied
            }
            Self::Refused(Refusal { code: ErrorCode::NoView | ErrorCode::NoQuorum, .. }) => ExitCode::NotQuorate,
            Self::Refused(Refusal { code: ErrorCode::WrongCluster | ErrorCode::UnknownNode, .. }) => ExitCode::Usage,
            _ => ExitCode::Error,
        }
    }
}

/// A request on its way, and the answers to it.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    reader: BufReader<UnixStream>,
    /// What is said of a daemon that does not answer in time.
    late: &'static str,
}

impl Client {
    /// Connects to the heartbeatd at `path` and sends `request`.
    ///
    /// # Errors
    /// [`ClientError`]; nothing was asked then.
    pub fn ask(path: &Path, request: &Request) -> Result<Self, ClientError> {
        let trusted = trusted_users();
        check_file(path, &trusted)?;
        let stream = UnixStream::connect(path).map_err(|error| connect_error(path, error))?;
        let peer = nix::sys::socket::getsockopt(&stream, nix::sys::socket::sockopt::PeerCredentials)
            .map_err(|error| failed(path, "cannot tell who listens")(error.into()))?;
        if !trusted.contains(&peer.uid()) {
            return Err(ClientError::Foreign { path: path.to_owned(), what: "the process behind it", uid: peer.uid() });
        }
        let mut line = serde_json::to_vec(request).map_err(|error| failed(path, "cannot ask")(error.into()))?;
        line.push(b'\n');
        let (patience, late) = if request.verb().is_change() { (CHANGE, LATE_CHANGE) } else { (DEADLINE, LATE) };
        let mut client = Self { path: path.to_owned(), reader: BufReader::new(stream), late };
        client.deadline(Some(patience))?;
        // A daemon that is busy answers and closes without reading: its answer matters more than this error.
        if let Err(error) = client.reader.get_mut().write_all(&line)
            && error.kind() != io::ErrorKind::BrokenPipe
        {
            return Err(failed(path, "cannot ask")(error));
        }
        Ok(client)
    }

    /// Reads the next answer; `None` at the end of them.
    ///
    /// # Errors
    /// [`ClientError`], among them what the daemon refused.
    pub fn answer(&mut self) -> Result<Option<Value>, ClientError> {
        let mut line = Vec::new();
        let read = (&mut self.reader).take(ANSWER_MAX).read_until(b'\n', &mut line);
        match read {
            Ok(0) => return Ok(None),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(failed(&self.path, self.late)(error));
            }
            Err(error) => return Err(failed(&self.path, "heartbeatd broke off")(error)),
        }
        let mut value: Value = serde_json::from_slice(&line)
            .map_err(|error| failed(&self.path, "heartbeatd's answer is broken")(error.into()))?;
        match value.get("schema") {
            Some(schema) if *schema == SCHEMA => {}
            schema => return Err(ClientError::Schema(schema.cloned().unwrap_or(Value::Null))),
        }
        match value.get_mut("error") {
            Some(error) => Err(ClientError::Refused(self.read(error.take())?)),
            None => Ok(Some(value)),
        }
    }

    /// Reads the one answer to a question.
    ///
    /// # Errors
    /// [`ClientError`], also if there is none.
    pub fn single(&mut self) -> Result<Value, ClientError> {
        self.answer()?.ok_or_else(|| failed(&self.path, "no answer")(io::ErrorKind::UnexpectedEof.into()))
    }

    /// Reads `value` as a `T`.
    ///
    /// # Errors
    /// If it is none.
    pub fn read<T: DeserializeOwned>(&self, value: Value) -> Result<T, ClientError> {
        serde_json::from_value(value).map_err(|error| failed(&self.path, "heartbeatd's answer is broken")(error.into()))
    }

    /// Waits for answers without end from here on, as a stream of events needs.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn wait_for_ever(&mut self) -> Result<(), ClientError> {
        self.deadline(None)
    }

    fn deadline(&mut self, deadline: Option<Duration>) -> Result<(), ClientError> {
        let stream = self.reader.get_ref();
        let set = stream.set_read_timeout(deadline).and_then(|()| stream.set_write_timeout(deadline));
        set.map_err(failed(&self.path, "cannot set a deadline"))
    }
}

fn failed(path: &Path, what: &'static str) -> impl Fn(io::Error) -> ClientError {
    move |source| ClientError::Io { path: path.to_owned(), what, source }
}

/// Root, the caller, and the service's user if there is one.
fn trusted_users() -> Vec<u32> {
    let service = User::from_name(SERVICE_NAME).ok().flatten().map(|user| user.uid.as_raw());
    [0, geteuid().as_raw()].into_iter().chain(service).collect()
}

fn check_file(path: &Path, trusted: &[u32]) -> Result<(), ClientError> {
    let found = std::fs::metadata(path).map_err(|error| connect_error(path, error))?;
    if !found.file_type().is_socket() {
        return Err(ClientError::NotRunning { path: path.to_owned(), reason: "something that is no socket" });
    }
    if !trusted.contains(&found.uid()) {
        return Err(ClientError::Foreign { path: path.to_owned(), what: "the socket", uid: found.uid() });
    }
    Ok(())
}

fn connect_error(path: &Path, error: io::Error) -> ClientError {
    let path = path.to_owned();
    match error.kind() {
        io::ErrorKind::NotFound => ClientError::NotRunning { path, reason: "no socket" },
        io::ErrorKind::ConnectionRefused => ClientError::NotRunning { path, reason: "nobody listens on the socket" },
        io::ErrorKind::PermissionDenied => ClientError::Denied(path),
        _ => ClientError::Io { path, what: "cannot connect", source: error },
    }
}

//! heartbeatctl itself: asks, prints, and says by its exit code how things stand. It decides nothing else, and does
//! nothing to the kernel: what `detach` does where nobody can be asked is given to it.

use super::aim::{Aim, AimError, aim};
use super::{
    Answer, ChangedBody, Client, ClientError, CountersBody, DetachedBody, DoneBody, ErrorCode, NodeState, NodesBody,
    PathsBody, QuorumStatus, Refusal, Status, ViewStatus, show_counters, show_event, show_nodes, show_paths,
    show_quorum, show_status, show_view,
};
use crate::cli::{ControlVerb, DEFAULT_SOCKET, ExitCode, Heartbeatctl};
use serde_json::Value;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

/// How often a busy daemon is asked again, and after which pause.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(100);

/// Detaches where no heartbeatd runs that could be asked, by the configuration in this file.
pub type DetachAlone = fn(&Path) -> Result<DetachedBody, Refusal>;

/// Why heartbeatctl could not do what was asked.
#[derive(Debug, thiserror::Error)]
enum ToolError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("{0}")]
    Usage(AimError),
    #[error("cannot write: {0}")]
    Output(#[from] io::Error),
}

/// Does what the command line asks: the answer goes to `out`, an error as one line to `errors`.
pub fn run(line: &Heartbeatctl, alone: DetachAlone, out: &mut impl Write, errors: &mut impl Write) -> ExitCode {
    let outcome = serve(line, alone, out).and_then(|code| Ok(out.flush().map(|()| code)?));
    match outcome {
        Ok(code) => code,
        // Whoever closed the pipe has seen enough.
        Err(ToolError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::Ok,
        Err(error) => {
            let _ = writeln!(errors, "heartbeatctl: {}", with_cause(&error));
            match error {
                ToolError::Client(error) => error.exit_code(),
                ToolError::Usage(_) => ExitCode::Usage,
                ToolError::Output(_) => ExitCode::Error,
            }
        }
    }
}

impl From<AimError> for ToolError {
    fn from(error: AimError) -> Self {
        match error {
            AimError::Unreadable(refusal) => Self::Client(refusal.into()),
            two @ AimError::Two { .. } => Self::Usage(two),
        }
    }
}

fn with_cause(error: &ToolError) -> String {
    match error {
        ToolError::Client(ClientError::Io { source, .. }) => format!("{error}: {source}"),
        _ => error.to_string(),
    }
}

fn serve(line: &Heartbeatctl, alone: DetachAlone, out: &mut impl Write) -> Result<ExitCode, ToolError> {
    if let ControlVerb::Events(events) = &line.verb
        && events.follow
    {
        return follow(line, out);
    }
    let Aim { socket, config } = meant(line)?;
    let (client, value) = match (ask(line, &socket), &line.verb) {
        (Err(ClientError::NotRunning { .. }), ControlVerb::Detach(_)) => {
            let config = config.ok_or_else(|| nobodys(&socket))?;
            return tell_detached(line, alone(&config).map_err(ClientError::from)?, out);
        }
        (asked, _) => asked?,
    };
    let heads = !line.no_headers;
    let mut code = ExitCode::Ok;
    let text = match &line.verb {
        ControlVerb::Status => {
            let status: Answer<Status> = client.read(value.clone())?;
            if !status.body.faults().is_empty() {
                code = ExitCode::Degraded;
            }
            show_status(&status.body)
        }
        ControlVerb::Nodes => {
            let NodesBody { nodes } = client.read(value.clone())?;
            if nodes.iter().any(|node| node.state != NodeState::Up || node.paths_up == 0) {
                code = ExitCode::Degraded;
            }
            show_nodes(&nodes, heads)
        }
        ControlVerb::Paths => show_paths(&client.read::<PathsBody>(value.clone())?.paths, heads),
        ControlVerb::Counters => show_counters(&client.read::<CountersBody>(value.clone())?.counters, heads),
        ControlVerb::Events(_) => lines(&value),
        ControlVerb::Handover | ControlVerb::Detach(_) => {
            format!("{}\n", client.read::<DoneBody>(value.clone())?.done)
        }
        ControlVerb::View => {
            let view: ViewStatus = client.read(value.clone())?;
            if !view.acting {
                code = ExitCode::NotQuorate;
            }
            show_view(&view)
        }
        ControlVerb::Quorum => {
            let quorum: QuorumStatus = client.read(value.clone())?;
            if quorum.lease_left_ms.is_none() {
                code = ExitCode::NotQuorate;
            }
            show_quorum(&quorum, heads)
        }
        ControlVerb::Init(_)
        | ControlVerb::Leave
        | ControlVerb::Fence(_)
        | ControlVerb::ClearQuarantine(_)
        | ControlVerb::Set(_)
        | ControlVerb::ForceQuorum(_) => format!("{}\n", client.read::<ChangedBody>(value.clone())?.done),
    };
    if line.json {
        writeln!(out, "{value}")?;
    } else {
        out.write_all(text.as_bytes())?;
    }
    Ok(code)
}

/// Finds the heartbeatd that the command line means. Only what is done without it takes a configuration.
fn meant(line: &Heartbeatctl) -> Result<Aim, ToolError> {
    match &line.verb {
        ControlVerb::Detach(args) => Ok(aim(line.socket.as_deref(), args.config.as_deref())?),
        _ => Ok(Aim { socket: line.socket.clone().unwrap_or_else(|| DEFAULT_SOCKET.into()), config: None }),
    }
}

/// The refusal to detach by a configuration that is of another heartbeatd than the socket.
fn nobodys(socket: &Path) -> ClientError {
    ClientError::from(Refusal::failed(format!(
        "nobody listens at {}, and the configuration of the service names another socket or cannot be read, so nothing \
         was detached: give --config FILE of the heartbeatd that is meant, or no --socket for the service",
        socket.display()
    )))
}

fn tell_detached(line: &Heartbeatctl, body: DetachedBody, out: &mut impl Write) -> Result<ExitCode, ToolError> {
    if line.json {
        writeln!(out, "{}", serde_json::to_string(&Answer::new(body)).map_err(io::Error::from)?)?;
        return Ok(ExitCode::Ok);
    }
    writeln!(out, "{}", body.done)?;
    for path in &body.removed {
        writeln!(out, "removed {path}")?;
    }
    Ok(ExitCode::Ok)
}

fn lines(value: &Value) -> String {
    let events = value.get("events").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    events.iter().map(|event| show_event(event) + "\n").collect()
}

/// Asks until the daemon is not too busy to answer.
fn ask(line: &Heartbeatctl, socket: &Path) -> Result<(Client, Value), ClientError> {
    let request = line.verb.request();
    for _ in 1..TRIES {
        let mut client = Client::ask(socket, &request)?;
        match client.single() {
            Err(ClientError::Refused(Refusal { code: ErrorCode::Busy, .. })) => std::thread::sleep(PAUSE),
            answer => return Ok((client, answer?)),
        }
    }
    let mut client = Client::ask(socket, &request)?;
    let answer = client.single()?;
    Ok((client, answer))
}

fn follow(line: &Heartbeatctl, out: &mut impl Write) -> Result<ExitCode, ToolError> {
    let Aim { socket, .. } = meant(line)?;
    let mut client = Client::ask(&socket, &line.verb.request())?;
    client.wait_for_ever()?;
    while let Some(mut answer) = client.answer()? {
        let event = answer.get_mut("event").map(Value::take).unwrap_or_default();
        if line.json {
            writeln!(out, "{event}")?;
        } else {
            writeln!(out, "{}", show_event(&event))?;
        }
        // Whoever follows wants each event when it comes.
        out.flush()?;
    }
    let ended = ClientError::NotRunning { path: socket, reason: "it has closed the stream" };
    Err(ended.into())
}

//! heartbeatctl as people and programs run it: exit codes, messages, tables and JSON, against a server of this
//! process that answers from memory. It needs no cluster.

use heartbeat_user::cli::ExitCode;
use heartbeat_user::control::{
    Backend, BudgetStatus, Change, ChangedBody, CounterRow, DetectionStatus, ErrorCode, EventRecord, FastPathStatus,
    Life, Listener, LoopStatus, Mode, NodeState, NodeStatus, NodesSummary, PacingStatus, PathStatus, PathsSummary,
    QuorumStatus, Refusal, SettingsStatus, Stage, Status, ViewRef, ViewStatus, Wanted, no_view, serve,
};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use tokio::sync::{broadcast, oneshot};

struct Known {
    down: Mutex<bool>,
    paths_up: Mutex<u32>,
    mode: Mutex<Mode>,
    acting: Mutex<bool>,
    stream: broadcast::Sender<EventRecord>,
}

fn event(at: Timestamp, name: &str) -> EventRecord {
    json!({"time": at.to_string(), "level": "info", "id": 20001, "event": name, "message": "it happened"})
}

impl Backend for Known {
    fn status(&self) -> Result<Status, Refusal> {
        let detection = DetectionStatus { delay_ms: 100, threshold: 5, detection_time_ms: 500 };
        Ok(Status {
            version: "0.1.0".into(),
            cluster: "demo".into(),
            cluster_id: "6f0c5d9e2a417b83".into(),
            node: "a".into(),
            node_id: 1,
            incarnation: 1,
            generation: 1,
            uptime_ms: 1000,
            settings: SettingsStatus {
                profile: "lan".into(),
                same_subnet: detection.clone(),
                cross_subnet: detection,
                stall_limit_ms: 500,
                hang_limit_ms: 60_000,
            },
            controller_age_ms: Some(1),
            pacing: PacingStatus { realtime: "fifo 50".into(), memory_locked: true, own: LoopStatus::default() },
            deciding: LoopStatus::default(),
            fast_path: vec![FastPathStatus {
                interface: "net1".into(),
                mode: *self.mode.lock().unwrap(),
                wanted: Wanted::Auto,
                reason: Some("the driver has no native XDP".into()),
                unstamped: None,
                vlan_tag_visible: None,
                threaded_napi: None,
            }],
            nodes: NodesSummary::of(&self.nodes()?),
            paths: PathsSummary::default(),
            isolated: false,
            view: None,
            warnings: Vec::new(),
        })
    }
    fn nodes(&self) -> Result<Vec<NodeStatus>, Refusal> {
        let down = *self.down.lock().unwrap();
        Ok(vec![NodeStatus {
            name: "b".into(),
            id: 2,
            state: if down { NodeState::Down } else { NodeState::Up },
            since: None,
            reason: "because".into(),
            incarnation: None,
            generation: None,
            controller_age_ms: None,
            flags: Vec::new(),
            paths_up: *self.paths_up.lock().unwrap(),
            paths_total: 1,
            last_heard_ms_ago: None,
            responder: None,
            settings_agree: None,
        }])
    }
    fn paths(&self) -> Result<Vec<PathStatus>, Refusal> {
        Ok(Vec::new())
    }
    fn counters(&self) -> Result<Vec<CounterRow>, Refusal> {
        Ok(vec![CounterRow { name: "answered".into(), value: 7, meaning: "authentic probe".into() }])
    }
    fn events_since(&self, since: Option<Timestamp>) -> Result<Vec<EventRecord>, Refusal> {
        let ago = |seconds| Timestamp::now() - SignedDuration::from_secs(seconds);
        let all = [(ago(7200), "old"), (ago(60), "recent")];
        let wanted = all.iter().filter(|(at, _)| since.is_none_or(|since| *at >= since));
        Ok(wanted.map(|(at, name)| event(*at, name)).collect())
    }
    fn subscribe(&self) -> broadcast::Receiver<EventRecord> {
        self.stream.subscribe()
    }
    fn handover(&self) -> Result<String, Refusal> {
        Ok("the next stop is part of a restart".into())
    }
    fn detach(&self) -> Result<String, Refusal> {
        Err(Refusal::failed("nothing is attached"))
    }
    fn view(&self) -> Result<ViewStatus, Refusal> {
        let acting = *self.acting.lock().unwrap();
        Ok(ViewStatus {
            life: Life::NoView,
            view: None,
            in_force: None,
            stage: Stage::Closing,
            waits_for: vec!["b".into()],
            acting,
            not_acting: (!acting).then(|| "because".into()),
            token: acting.then(|| "0.7.1".into()),
        })
    }
    fn quorum(&self) -> Result<QuorumStatus, Refusal> {
        Ok(QuorumStatus {
            view: ViewRef { force: 0, number: 7, digest: "00".into() },
            dynamic: true,
            lower_priority: None,
            votes: Vec::new(),
            votes_total: 3,
            votes_needed: 2,
            votes_fresh: 2,
            lease_ms: 500,
            stop_ms: 0,
            longest_ms: 500,
            lease_left_ms: self.acting.lock().unwrap().then_some(400),
            last_disk: None,
            budget: BudgetStatus { detection_ms: 500, view_ms: 20, in_force_ms: 501 },
        })
    }
    fn change(&self, change: &Change, _uid: u32) -> Result<ChangedBody, Refusal> {
        match change {
            Change::Leave => Ok(ChangedBody { done: "left".into(), view: Some("0.8".into()) }),
            Change::Init { .. } => Err(Refusal::new(ErrorCode::WrongCluster, "another was typed")),
            Change::Fence { .. } => Err(Refusal::new(ErrorCode::RuleBroken, "a rule forbids it")),
            Change::ClearQuarantine { .. } => Err(Refusal::new(ErrorCode::UnknownNode, "no such node")),
            Change::Set { .. } => Err(Refusal::new(ErrorCode::NoQuorum, "nobody answered")),
            Change::ForceQuorum { .. } => Err(no_view()),
        }
    }
}

#[test]
fn views_and_changes_end_with_codes_of_their_own() {
    let daemon = Daemon::start();
    let ask = |args: &[&str], code| ended(&ctl(&daemon.socket(), args), code);
    let (out, _) = ask(&["view"], ExitCode::Ok);
    assert!(out.contains("acts, with token 0.7.1") && out.contains("waits for  b"), "{out}");
    let (out, _) = ask(&["quorum"], ExitCode::Ok);
    assert!(out.contains("400ms left"), "{out}");
    let (out, _) = ask(&["leave"], ExitCode::Ok);
    assert_eq!(out, "left\n");
    let (out, _) = ask(&["leave", "--json"], ExitCode::Ok);
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), json!({"schema": 1, "done": "left", "view": "0.8"}));
    for (args, code, said) in [
        (&["init", "x"][..], ExitCode::Usage, "another was typed"),
        (&["fence", "b", "x"], ExitCode::Error, "a rule forbids it"),
        (&["clear-quarantine", "z"], ExitCode::Usage, "no such node"),
        (&["set", "dynamic_quorum", "true"], ExitCode::NotQuorate, "nobody answered"),
        (&["force-quorum", "x"], ExitCode::NotQuorate, "the cluster was not initialised"),
    ] {
        let (out, err) = ask(args, code);
        assert!(out.is_empty() && err.contains(said), "{args:?}: {out}{err}");
    }
    *daemon.known.acting.lock().unwrap() = false;
    let (out, _) = ask(&["view"], ExitCode::NotQuorate);
    assert!(out.contains("may NOT act: because"), "{out}");
    let (out, _) = ask(&["quorum", "--json"], ExitCode::NotQuorate);
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap()["lease_left_ms"], Value::Null);
}

struct Daemon {
    directory: tempfile::TempDir,
    known: Arc<Known>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Daemon {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let listener = Listener::bind(&directory.path().join("control.sock"), "root").unwrap();
        let (stream, _) = broadcast::channel(16);
        let known = Arc::new(Known {
            down: Mutex::new(false),
            paths_up: Mutex::new(1),
            mode: Mutex::new(Mode::Native),
            acting: Mutex::new(true),
            stream,
        });
        let (stop, stopped) = oneshot::channel::<()>();
        let backend: Arc<dyn Backend> = known.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                tokio::select! {
                    ended = serve(listener, backend, std::future::pending()) => panic!("{ended:?}"),
                    _ = stopped => {}
                }
            });
        });
        Self { directory, known, stop: Some(stop), thread: Some(thread) }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("control.sock")
    }

    fn end(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.end();
    }
}

fn heartbeatctl(socket: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_heartbeatctl"));
    command.arg("--socket").arg(socket).args(args).env_remove("HEARTBEAT_SOCKET");
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn ctl(socket: &Path, args: &[&str]) -> Output {
    heartbeatctl(socket, args).output().unwrap()
}

fn ended(output: &Output, code: ExitCode) -> (String, String) {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code as i32), "{out}{err}");
    (out.into_owned(), err.into_owned())
}

#[test]
fn says_when_nobody_runs() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("none.sock");
    let (out, err) = ended(&ctl(&socket, &["status"]), ExitCode::NotRunning);
    assert_eq!(out, "");
    assert_eq!(
        err,
        format!(
            "heartbeatctl: heartbeatd is not running: no socket at {}; start it with: systemctl start heartbeatd\n",
            socket.display()
        )
    );
    // A socket whose daemon has died.
    drop(UnixListener::bind(&socket).unwrap());
    let (_, err) = ended(&ctl(&socket, &["nodes"]), ExitCode::NotRunning);
    assert!(err.contains("nobody listens on the socket at"), "{err}");
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    let (_, err) = ended(&ctl(&file, &["nodes"]), ExitCode::NotRunning);
    assert!(err.contains("something that is no socket at"), "{err}");
    ended(&ctl(&socket, &["poke"]), ExitCode::Usage);
}

#[test]
fn status_and_nodes_end_by_health() {
    let daemon = Daemon::start();
    let (out, err) = ended(&ctl(&daemon.socket(), &["status"]), ExitCode::Ok);
    assert!(out.starts_with("health     all is well\n") && err.is_empty(), "{out}{err}");
    ended(&ctl(&daemon.socket(), &["nodes"]), ExitCode::Ok);
    *daemon.known.mode.lock().unwrap() = Mode::Generic;
    let (out, _) = ended(&ctl(&daemon.socket(), &["status"]), ExitCode::Degraded);
    assert!(out.contains("net1 generic (FALLEN BACK, wanted auto: the driver has no native XDP)"), "{out}");
    ended(&ctl(&daemon.socket(), &["nodes"]), ExitCode::Ok);
    // Up as far as this node knows, and on no path to be asked.
    *daemon.known.paths_up.lock().unwrap() = 0;
    ended(&ctl(&daemon.socket(), &["nodes"]), ExitCode::Degraded);
    *daemon.known.paths_up.lock().unwrap() = 1;
    *daemon.known.down.lock().unwrap() = true;
    let (out, _) = ended(&ctl(&daemon.socket(), &["nodes", "--no-headers"]), ExitCode::Degraded);
    assert!(out.starts_with("b  ") && out.contains("down") && out.lines().count() == 1, "{out}");
    // Only these two judge.
    ended(&ctl(&daemon.socket(), &["paths"]), ExitCode::Ok);
    ended(&ctl(&daemon.socket(), &["counters"]), ExitCode::Ok);
}

#[test]
fn json_is_one_object_with_its_schema() {
    let daemon = Daemon::start();
    let verbs =
        [("status", "cluster"), ("nodes", "nodes"), ("paths", "paths"), ("counters", "counters"), ("events", "events")];
    for (verb, field) in verbs {
        let (out, _) = ended(&ctl(&daemon.socket(), &[verb, "--json"]), ExitCode::Ok);
        let value: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(value["schema"], 1, "{verb}");
        assert!(!value[field].is_null(), "{verb}");
        assert_eq!(out.lines().count(), 1, "{verb}");
    }
    let (out, _) = ended(&ctl(&daemon.socket(), &["handover"]), ExitCode::Ok);
    assert_eq!(out, "the next stop is part of a restart\n");
    let (_, err) = ended(&ctl(&daemon.socket(), &["detach"]), ExitCode::Error);
    assert_eq!(err, "heartbeatctl: nothing is attached\n");
}

/// Writes the configuration of a heartbeatd that listens in `run_dir`.
fn configuration(run_dir: &Path) -> PathBuf {
    let file = run_dir.join("heartbeatd.toml");
    let text = format!(
        "[cluster]\nname = \"demo\"\nid = \"0000000000000001\"\n[daemon]\nrun_dir = \"{}\"\n\
         [[network]]\nname = \"net\"\nsubnets = [\"10.1.0.0/24\"]\n\
         [[node]]\nname = \"a\"\nid = 1\naddresses = [\"10.1.0.1\"]\n\
         [[node]]\nname = \"b\"\nid = 2\naddresses = [\"10.1.0.2\"]\n",
        run_dir.display()
    );
    std::fs::write(&file, text).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    file
}

#[test]
fn detach_is_asked_of_the_heartbeatd_that_the_configuration_names() {
    let (daemon, nobody) = (Daemon::start(), tempfile::tempdir().unwrap());
    let (own, other) = (configuration(daemon.directory.path()), configuration(nobody.path()));
    let detach = |socket: Option<&Path>, config: Option<&Path>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_heartbeatctl"));
        command.arg("detach").env_remove("HEARTBEAT_SOCKET").env_remove("HEARTBEATD_CONFIG");
        for (option, path) in [("--socket", socket), ("--config", config)] {
            command.args(path.map(|path| [Path::new(option), path]).into_iter().flatten());
        }
        command.output().unwrap()
    };
    let refused = "heartbeatctl: nothing is attached\n";
    for (socket, config) in [(None, Some(&*own)), (Some(daemon.socket()), Some(&*own)), (Some(daemon.socket()), None)] {
        let (_, err) = ended(&detach(socket.as_deref(), config), ExitCode::Error);
        assert_eq!(err, refused, "{socket:?} {config:?}");
    }
    let (_, err) = ended(&detach(Some(&daemon.socket()), Some(&other)), ExitCode::Usage);
    assert!(err.contains("are of two heartbeatds: give one of them"), "{err}");
    // Where nobody listens, the pins of the service are not meant.
    let (out, err) = ended(&detach(Some(&nobody.path().join("control.sock")), None), ExitCode::Error);
    assert!(out.is_empty() && err.contains("nothing was detached: give --config FILE"), "{err}");
}

#[test]
fn events_by_time_and_as_a_stream() {
    let mut daemon = Daemon::start();
    let (out, _) = ended(&ctl(&daemon.socket(), &["events"]), ExitCode::Ok);
    assert_eq!(out.lines().count(), 2, "{out}");
    let (out, _) = ended(&ctl(&daemon.socket(), &["events", "--since", "1h"]), ExitCode::Ok);
    assert!(out.lines().count() == 1 && out.contains("info  20001 recent: it happened"), "{out}");
    let (out, _) = ended(&ctl(&daemon.socket(), &["events", "--since", "2999-01-01T00:00:00Z"]), ExitCode::Ok);
    assert_eq!(out, "");
    let mut follower =
        heartbeatctl(&daemon.socket(), &["events", "--follow", "--json", "--since", "1h"]).spawn().unwrap();
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    let mut next = || serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).unwrap()["event"].clone();
    assert_eq!(next(), "recent");
    daemon.known.stream.send(event(Timestamp::now(), "new")).unwrap();
    assert_eq!(next(), "new");
    daemon.end();
    assert_eq!(follower.wait().unwrap().code(), Some(ExitCode::NotRunning as i32));
    let mut err = String::new();
    follower.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert!(err.contains("heartbeatd is not running"), "{err}");
}

#[test]
fn a_closed_pipe_is_no_error() {
    let daemon = Daemon::start();
    let mut child = heartbeatctl(&daemon.socket(), &["counters"]).spawn().unwrap();
    drop(child.stdout.take());
    let mut err = String::new();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert_eq!((child.wait().unwrap().code(), err.as_str()), (Some(0), ""));
}

/// A server that another user put there could tell anything.
#[test]
fn foreign_sockets_are_not_asked() {
    if !nix::unistd::geteuid().is_root() {
        let line = "SKIP foreign_sockets_are_not_asked: needs root to give a socket to another user\n";
        print!("{line}");
        if let Some(file) = std::env::var_os("HEARTBEAT_SKIPS") {
            let mut file = std::fs::OpenOptions::new().append(true).create(true).open(file).unwrap();
            file.write_all(line.as_bytes()).unwrap();
        }
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("control.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    listener.set_nonblocking(true).unwrap();
    std::os::unix::fs::chown(&socket, Some(54_320), None).unwrap();
    let (_, err) = ended(&ctl(&socket, &["status"]), ExitCode::Error);
    assert!(err.contains("the socket belongs to uid 54320"), "{err}");
    assert!(listener.accept().is_err(), "it was not even connected to");
    // Root's file, but another user listens: the kernel notes who that is when listening starts. One thread takes on
    // that identity, by the system call itself, which the library would make for all threads.
    std::os::unix::fs::chown(&socket, Some(0), None).unwrap();
    let listener = std::thread::spawn(move || {
        // SAFETY: the call takes integers and changes this thread's credentials only.
        assert_eq!(unsafe { nix::libc::syscall(nix::libc::SYS_setresuid, 54_320, 54_320, 54_320) }, 0);
        nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(1).unwrap()).unwrap();
        listener
    });
    let listener = listener.join().unwrap();
    let (_, err) = ended(&ctl(&socket, &["status"]), ExitCode::Error);
    assert!(err.contains("the process behind it belongs to uid 54320"), "{err}");
    let (mut stream, _) = listener.accept().unwrap();
    let mut told = String::new();
    stream.read_to_string(&mut told).unwrap();
    assert_eq!(told, "", "it was told nothing");
}

/// A daemon that is stopped takes the connection, by its kernel, and says nothing.
#[test]
fn a_daemon_that_does_not_answer_is_not_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("control.sock");
    let _listener = UnixListener::bind(&socket).unwrap();
    let start = std::time::Instant::now();
    let (_, err) = ended(&ctl(&socket, &["status"]), ExitCode::Error);
    assert!(err.contains("did not answer within 5 s: it may be stalled"), "{err}");
    assert!(start.elapsed() < std::time::Duration::from_secs(8));
}

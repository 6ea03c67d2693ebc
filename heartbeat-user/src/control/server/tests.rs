//! The protocol, its permissions and its limits, against a backend that knows nothing.

use super::super::show::tests::{node, path, quorum, status, view};
use super::super::{Client, ClientError, NodeState, PathState, SettingChange, Verb};
use super::*;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream as Stream;
use std::path::PathBuf;
use std::time::Instant;

struct Fake {
    log: Mutex<Vec<EventRecord>>,
    stream: broadcast::Sender<EventRecord>,
    done: Mutex<Vec<&'static str>>,
    changes: Mutex<Vec<(Change, u32)>>,
}

impl Backend for Fake {
    fn status(&self) -> Result<Status, Refusal> {
        Ok(status())
    }
    fn nodes(&self) -> Result<Vec<NodeStatus>, Refusal> {
        Ok(vec![node("b", NodeState::Up), node("c", NodeState::Down)])
    }
    fn paths(&self) -> Result<Vec<PathStatus>, Refusal> {
        Ok(vec![path("b", PathState::Up); 1024])
    }
    fn counters(&self) -> Result<Vec<CounterRow>, Refusal> {
        Err(Refusal::failed("the counters cannot be read"))
    }
    fn events_since(&self, since: Option<Timestamp>) -> Result<Vec<EventRecord>, Refusal> {
        // A slow disk, which nobody else may notice.
        std::thread::sleep(Duration::from_millis(200));
        let since = since.map_or(i64::MIN, Timestamp::as_second);
        Ok(self.log.lock().unwrap().iter().filter(|event| event["n"].as_i64().unwrap() >= since).cloned().collect())
    }
    fn subscribe(&self) -> broadcast::Receiver<EventRecord> {
        self.stream.subscribe()
    }
    fn handover(&self) -> Result<String, Refusal> {
        self.done.lock().unwrap().push("handover");
        Ok("noted".into())
    }
    fn detach(&self) -> Result<String, Refusal> {
        self.done.lock().unwrap().push("detach");
        Ok("detached".into())
    }
    fn view(&self) -> Result<ViewStatus, Refusal> {
        Ok(view())
    }
    fn quorum(&self) -> Result<QuorumStatus, Refusal> {
        Ok(quorum())
    }
    fn change(&self, change: &Change, uid: u32) -> Result<ChangedBody, Refusal> {
        self.changes.lock().unwrap().push((change.clone(), uid));
        // A cluster that takes its time.
        if matches!(change, Change::ClearQuarantine { .. }) {
            std::thread::sleep(Duration::from_millis(1500));
        }
        Ok(ChangedBody { done: format!("{change}: decided"), view: Some("0.8".into()) })
    }
}

/// A server on a thread of its own, ended when dropped.
struct Server {
    path: PathBuf,
    backend: Arc<Fake>,
    _directory: tempfile::TempDir,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    fn start() -> Self {
        Self::owned_by(|owner| owner)
    }

    fn owned_by(change: impl FnOnce(Owner) -> Owner) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let path = directory.path().join("control.sock");
        let mut listener = Listener::bind(&path, "root").unwrap();
        listener.owner = change(listener.owner);
        let log = Mutex::new((0..3).map(|n| json!({"n": n})).collect());
        let (stream, _) = broadcast::channel(64);
        let backend = Arc::new(Fake { log, stream, done: Mutex::default(), changes: Mutex::default() });
        let (stop, stopped) = oneshot::channel::<()>();
        let served: Arc<dyn Backend> = backend.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(serve(listener, served, async { drop(stopped.await) })).unwrap();
        });
        Self { path, backend, _directory: directory, stop: Some(stop), thread: Some(thread) }
    }

    fn connect(&self) -> Stream {
        let stream = Stream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream
    }

    /// Sends bytes as they are, returns all that comes back.
    fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        // A server that has refused already does not read the rest.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    }

    fn ask(&self, request: &Request) -> Result<Value, ClientError> {
        Client::ask(&self.path, request)?.single()
    }

    fn follow(&self) -> Client {
        let client =
            Client::ask(&self.path, &Request::Events { since_unix_ms: Some(i64::from(u16::MAX)), follow: true });
        client.unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.stop.take().map(|stop| stop.send(()));
        let ended = self.thread.take().map(std::thread::JoinHandle::join);
        assert!(std::thread::panicking() || ended.is_some_and(|ended| ended.is_ok()));
    }
}

fn code(answer: &str) -> String {
    let value: Value = serde_json::from_str(answer).unwrap_or_else(|error| panic!("{error}: {answer:?}"));
    assert_eq!(value["schema"], 1, "{answer}");
    value["error"]["code"].as_str().unwrap_or("none").to_owned()
}

#[test]
fn whoever_is_being_answered_at_the_end_gets_the_answer() {
    let server = Server::start();
    let (path, begun) = (server.path.clone(), Instant::now());
    let asker =
        std::thread::spawn(move || Client::ask(&path, &Request::ClearQuarantine { node: "c".into() })?.single());
    while server.backend.changes.lock().unwrap().is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(10), "it was asked");
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(server);
    assert_eq!(asker.join().unwrap().unwrap()["view"], "0.8");
}

#[test]
fn answers_carry_the_schema_and_what_was_asked() {
    let server = Server::start();
    let answer = server.ask(&Request::Status {}).unwrap();
    assert_eq!((&answer["schema"], &answer["cluster"], &answer["node_id"]), (&json!(1), &json!("demo"), &json!(1)));
    assert_eq!(answer["settings"]["same_subnet"]["detection_time_ms"], 500);
    assert_eq!(answer["pacing"]["lateness_us"]["p50"], 11.5);
    assert_eq!(answer["fast_path"][0]["mode"], "native");
    let answer = server.ask(&Request::Nodes {}).unwrap();
    assert_eq!((&answer["nodes"][1]["state"], &answer["schema"]), (&json!("down"), &json!(1)));
    assert_eq!(answer["nodes"][1]["since"], "2026-01-31T12:00:00.5Z");
    let answer = server.ask(&Request::Paths {}).unwrap();
    assert_eq!(answer["paths"].as_array().unwrap().len(), 1024, "far more than a socket buffer holds");
    let error = server.ask(&Request::Counters {}).unwrap_err();
    assert_eq!(error.to_string(), "the counters cannot be read");
    assert_eq!(server.ask(&Request::Handover {}).unwrap()["done"], "noted");
    assert_eq!(server.ask(&Request::Detach {}).unwrap()["done"], "detached");
    assert_eq!(*server.backend.done.lock().unwrap(), ["handover", "detach"]);
    let answer = server.ask(&Request::View {}).unwrap();
    assert_eq!((&answer["view"]["number"], &answer["in_force"]), (&json!(7), &json!("0.7")));
    assert_eq!(answer["view"]["members"][1], json!({"name": "b", "id": 2, "incarnation": 3}));
    let answer = server.ask(&Request::Quorum {}).unwrap();
    assert_eq!((&answer["votes"][1]["granted_ms_ago"], &answer["lease_left_ms"]), (&json!(1234), &json!(432)));
}

#[test]
fn a_change_is_asked_in_the_name_of_the_caller() {
    let server = Server::start();
    let answer = server.ask(&Request::Init { cluster: "demo".into() }).unwrap();
    assert_eq!(answer, json!({"schema": 1, "done": "create cluster demo: decided", "view": "0.8"}));
    let uid = nix::unistd::geteuid().as_raw();
    assert_eq!(*server.backend.changes.lock().unwrap(), [(Change::Init { cluster: "demo".into() }, uid)]);
}

#[test]
fn changes_that_wait_for_the_cluster_leave_room_for_questions() {
    let server = Server::start();
    let asked = || Request::ClearQuarantine { node: "b".into() };
    let waiting: Vec<Client> = (0..CHANGES_MAX).map(|_| Client::ask(&server.path, &asked()).unwrap()).collect();
    let start = Instant::now();
    while server.backend.changes.lock().unwrap().len() < CHANGES_MAX {
        assert!(start.elapsed() < Duration::from_secs(5), "they are begun");
        std::thread::sleep(Duration::from_millis(2));
    }
    let error = server.ask(&asked()).unwrap_err();
    assert!(matches!(&error, ClientError::Refused(Refusal { code: ErrorCode::Busy, .. })), "{error}");
    server.ask(&Request::View {}).unwrap();
    for mut client in waiting {
        assert_eq!(client.single().unwrap()["view"], "0.8");
    }
    server.ask(&asked()).unwrap();
    assert_eq!(server.backend.changes.lock().unwrap().len(), CHANGES_MAX + 1, "the one refused was not begun");
}

#[test]
fn requests_are_what_the_wire_says() {
    for (request, text) in [
        (Request::Status {}, r#"{"verb":"status"}"#),
        (Request::Events { since_unix_ms: None, follow: false }, r#"{"verb":"events","follow":false}"#),
        (
            Request::Events { since_unix_ms: Some(-5), follow: true },
            r#"{"verb":"events","since_unix_ms":-5,"follow":true}"#,
        ),
    ] {
        assert_eq!(serde_json::to_string(&request).unwrap(), text);
        assert_eq!(serde_json::from_str::<Request>(text).unwrap(), request);
    }
    for (setting, text) in [
        (SettingChange::QuorumArbitrationTimeMax { lease_ms: 500 }, r#""quorum_arbitration_time_max","lease_ms":500"#),
        (SettingChange::StopTime { stop_ms: 0 }, r#""stop_time","stop_ms":0"#),
        (SettingChange::NodeWeight { node: "b".into(), weight: 1 }, r#""node_weight","node":"b","weight":1"#),
        (SettingChange::LowerQuorumPriorityNode { node: None }, r#""lower_quorum_priority_node""#),
        (SettingChange::DynamicQuorum { dynamic: true }, r#""dynamic_quorum","dynamic":true"#),
    ] {
        let (request, text) = (Request::Set { setting }, format!(r#"{{"verb":"set","setting":{{"key":{text}}}}}"#));
        assert_eq!(serde_json::to_string(&request).unwrap(), text);
        assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), request);
    }
    for verb in Verb::ALL {
        let mut object = json!({"verb": verb.name()});
        for (argument, verbs) in [
            ("cluster", &[Verb::Init, Verb::Fence, Verb::ForceQuorum][..]),
            ("node", &[Verb::Fence, Verb::ClearQuarantine]),
        ] {
            if verbs.contains(&verb) {
                object[argument] = json!("x");
            }
        }
        if verb == Verb::Set {
            object["setting"] = json!({"key": "stop_time", "stop_ms": 5});
        }
        let request: Request = serde_json::from_value(object).unwrap();
        assert_eq!(request.verb(), verb);
    }
}

#[test]
fn bad_requests_are_refused_by_name() {
    let server = Server::start();
    for bad in
        ["x\n", "{}\n", "[]\n", "\"status\"\n", "{\"verb\":\"poke\"}\n", "{\"verb\":\"status\",\"x\":1}\n", "\0\n"]
    {
        assert_eq!(code(&server.raw(bad.as_bytes())), "bad_request", "{bad:?}");
    }
    assert_eq!(code(&server.raw(b"{\"verb\":\"events\",\"since_unix_ms\":9223372036854775807}\n")), "bad_request");
    assert_eq!(code(&server.raw(b"{\"verb\":\"events\",\"since_unix_ms\":1e99}\n")), "bad_request");
    assert_eq!(code(&server.raw(&[0xff, b'\n'])), "bad_request");
    for bad in [
        json!({"verb": "init"}),
        json!({"verb": "fence", "node": "b"}),
        json!({"verb": "set", "setting": {"key": "poke"}}),
        json!({"verb": "set", "setting": {"key": "stop_time", "stop_ms": -1}}),
        json!({"verb": "set", "setting": {"key": "stop_time", "stop_ms": 1, "x": 1}}),
        json!({"verb": "clear_quarantine", "node": "b"}),
    ] {
        assert_eq!(code(&server.raw(format!("{bad}\n").as_bytes())), "bad_request", "{bad}");
    }
    assert_eq!(code(&server.raw(&vec![b' '; REQUEST_MAX])), "too_long");
    let mut longest = br#"{"verb":"handover"}"#.to_vec();
    longest.resize(REQUEST_MAX - 1, b' ');
    longest.push(b'\n');
    assert_eq!(code(&server.raw(&longest)), "none");
    assert_eq!(server.raw(b""), "", "who asks nothing is told nothing");
    assert_eq!(code(&server.raw(br#"{"verb":"status"}"#)), "none", "the end of the input ends a line too");
}

#[test]
fn permission_is_asked_of_the_table() {
    if nix::unistd::geteuid().is_root() {
        // Root may do all; for the rest a child with another identity asks.
        let server = Server::owned_by(|owner| Owner { uid: owner.uid, group: Some(54_321) });
        std::fs::set_permissions(&server.path, std::fs::Permissions::from_mode(0o666)).unwrap();
        std::fs::set_permissions(server.path.parent().unwrap(), std::fs::Permissions::from_mode(0o755)).unwrap();
        for (uid, gid, verb, expected) in [
            (54_320, 54_321, "status", "none"),
            (54_320, 54_321, "detach", "permission_denied"),
            (54_320, 54_321, "quorum", "none"),
            (54_320, 54_321, "leave", "permission_denied"),
            (54_320, 54_320, "view", "permission_denied"),
            (54_320, 54_320, "status", "permission_denied"),
            (0, 0, "handover", "none"),
        ] {
            assert_eq!(code(&ask_as(&server, uid, gid, verb)), expected, "{uid}:{gid} {verb}");
        }
        assert_eq!(*server.backend.done.lock().unwrap(), ["handover"]);
        assert!(server.backend.changes.lock().unwrap().is_empty());
    } else {
        let own = nix::unistd::geteuid().as_raw();
        let server = Server::owned_by(|_| Owner { uid: own + 1, group: None });
        assert!(matches!(server.ask(&Request::Detach {}), Err(ClientError::Refused(_))));
        assert!(server.backend.done.lock().unwrap().is_empty());
    }
}

/// Connects with the effective ids `uid` and `gid`, which the kernel notes at that moment. Only the calling thread
/// takes them on: the system calls are made directly, not through the library that changes all threads.
fn ask_as(server: &Server, uid: u32, gid: u32, verb: &str) -> String {
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            // SAFETY: these calls take integers and a null list, and change this thread's credentials only.
            unsafe {
                assert_eq!(libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>()), 0);
                assert_eq!(libc::syscall(libc::SYS_setresgid, gid, gid, gid), 0);
                assert_eq!(libc::syscall(libc::SYS_setresuid, uid, uid, uid), 0);
            }
            server.raw(format!("{{\"verb\":\"{verb}\"}}\n").as_bytes())
        });
        asking.join().unwrap()
    })
}

#[test]
fn events_are_read_without_holding_up_others() {
    let server = Server::start();
    let start = Instant::now();
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| server.ask(&Request::Events { since_unix_ms: Some(1000), follow: false }).unwrap());
        std::thread::sleep(Duration::from_millis(50));
        server.ask(&Request::Status {}).unwrap();
        assert!(start.elapsed() < Duration::from_millis(180), "{:?}", start.elapsed());
        assert_eq!(slow.join().unwrap()["events"], json!([{"n": 1}, {"n": 2}]));
    });
}

#[test]
fn following_sends_log_and_stream_once_each() {
    let server = Server::start();
    let mut client = Client::ask(&server.path, &Request::Events { since_unix_ms: None, follow: true }).unwrap();
    // While the log is still being read: one event that is in it too, one that is not.
    std::thread::sleep(Duration::from_millis(80));
    server.backend.log.lock().unwrap().push(json!({"n": 3}));
    server.backend.stream.send(json!({"n": 3})).unwrap();
    server.backend.stream.send(json!({"n": 4})).unwrap();
    for n in 0..5 {
        assert_eq!(client.single().unwrap()["event"], json!({ "n": n }));
    }
    server.backend.stream.send(json!({"n": 5})).unwrap();
    assert_eq!(client.single().unwrap(), json!({"schema": 1, "event": {"n": 5}}));
    drop(client);
    let gone = Instant::now();
    while server.backend.stream.receiver_count() > 0 {
        assert!(gone.elapsed() < Duration::from_secs(5), "a follower that went is noticed");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn followers_leave_room_for_questions() {
    let server = Server::start();
    let mut followers: Vec<Client> = (0..FOLLOWERS_MAX).map(|_| server.follow()).collect();
    while server.backend.stream.receiver_count() < FOLLOWERS_MAX {
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut last = server.follow();
    assert!(matches!(last.single(), Err(ClientError::Refused(Refusal { code: ErrorCode::Busy, .. }))));
    server.ask(&Request::Status {}).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    server.backend.stream.send(json!({"n": 9})).unwrap();
    for follower in &mut followers {
        assert_eq!(follower.single().unwrap()["event"]["n"], 9);
    }
}

#[test]
fn a_slow_follower_is_dropped_and_holds_up_nobody() {
    let server = Server::start();
    let slow = server.follow();
    let mut quick = server.follow();
    std::thread::sleep(Duration::from_millis(400));
    let bulk = "x".repeat(64 * 1024);
    for n in 0..20 {
        server.backend.stream.send(json!({"n": n, "bulk": bulk})).unwrap();
        assert_eq!(quick.single().unwrap()["event"]["n"], n);
    }
    server.ask(&Request::Status {}).unwrap();
    let start = Instant::now();
    while server.backend.stream.receiver_count() > 1 {
        assert!(start.elapsed() < WRITE_DEADLINE * 3, "the slow one is dropped");
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(slow);
}

#[test]
fn a_follower_that_missed_events_is_told_so() {
    let server = Server::start();
    let mut follower = server.follow();
    while server.backend.stream.receiver_count() < 1 {
        std::thread::sleep(Duration::from_millis(5));
    }
    // More than the channel holds, while the log is still being read.
    for n in 0..100 {
        server.backend.stream.send(json!({ "n": n })).unwrap();
    }
    assert!(matches!(follower.single(), Err(ClientError::Refused(Refusal { code: ErrorCode::TooSlow, .. }))));
}

#[test]
fn a_request_has_its_deadline() {
    let server = Server::start();
    let start = Instant::now();
    let mut stream = server.connect();
    stream.write_all(b"{\"verb\":").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(code(&answer), "timeout");
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(900) && took < Duration::from_secs(4), "{took:?}");
}

#[test]
fn a_thousand_stuck_clients_shut_nobody_out() {
    let server = Server::start();
    let stuck: Vec<Stream> = (0..1000)
        .map(|_| {
            let mut stream = server.connect();
            let _ = stream.write_all(b"{\"ver");
            stream
        })
        .collect();
    // All of them at once again while one client asks for something.
    let start = Instant::now();
    server.ask(&Request::Nodes {}).unwrap();
    assert!(start.elapsed() < Duration::from_millis(900), "sooner than any deadline: {:?}", start.elapsed());
    let mut told = 0;
    for mut stream in stuck {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        told += usize::from(code(&answer) == "busy");
    }
    assert!(told >= 1000 - CONNECTIONS_MAX, "pushed out and told so: {told}");
    server.ask(&Request::Status {}).unwrap();
}

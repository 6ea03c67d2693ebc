//! What services see of the lease: the page by its socket, the verbs and the holder as programs of their own. The page
//! is the test's; nothing here needs heartbeatd.

mod page;

use heartbeat_common::lease::{MAGIC, Refused, Words, hold as held, word};
use heartbeat_user::io::lease_socket::{LeaseSocket, Readable, Shown};
use heartbeat_user::lease::{HELD, HOLD_SOCKET, Lease, OpenError, Owner, Page, Places, now, text};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use page::{INCARNATION, Server, TOKEN, Written};
use std::io::{IoSlice, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const MS: u64 = 1_000_000;

/// A socket that is served as heartbeatd does.
struct Served {
    directory: tempfile::TempDir,
    shown: Shown,
    server: Option<Server>,
}

impl Served {
    fn new() -> Self {
        let mut served = Self { directory: tempfile::tempdir().unwrap(), shown: Shown::default(), server: None };
        served.start();
        served.note();
        served
    }

    /// heartbeatd has taken note of holders.
    fn note(&self) {
        std::fs::write(self.directory.path().join(HELD), "").unwrap();
    }

    fn start(&mut self) {
        let socket = LeaseSocket::bind_at(&self.path()).unwrap();
        self.server = Some(Server::start(socket, self.shown.clone()));
    }

    fn stop(&mut self) {
        self.server.take().expect("it is served").stop();
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("lease.sock")
    }

    fn places(&self) -> Places {
        Places { socket: self.path(), pin: None, owner: Owner::default() }
    }

    fn show(&self, page: &Written) {
        self.shown.set(Some(Readable::try_new(page.readable()).unwrap()));
    }

    fn tool(&self, words: &[&str]) -> (i32, String, String) {
        let mut tool = Command::new(env!("CARGO_BIN_EXE_heartbeatctl"));
        let output = tool.args(words).arg("--lease-socket").arg(self.path()).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }
}

#[test]
fn the_page_is_handed_out_for_reading_to_everybody() {
    let mut served = Served::new();
    let found = std::fs::symlink_metadata(served.path()).unwrap();
    assert_eq!(found.mode() & 0o7777, 0o666);
    assert!(matches!(Lease::open(&served.places()), Err(OpenError::NotYet(_))));
    let page = Written::new();
    served.show(&page);
    let lease = Lease::open(&served.places()).unwrap();
    assert_eq!(lease.acting(), Err(Refused::Expired));
    page.grant(true);
    assert_eq!(lease.acting().map(text).as_deref(), Ok(TOKEN));
    assert_eq!(lease.end(), u64::MAX);
    page.grant(false);
    page.until(now() + 60_000 * MS);
    assert!(lease.acting().is_ok());
    page.set(word::CLOSED, 1);
    assert_eq!(lease.acting(), Err(Refused::Closed));
    served.stop();
    assert!(!served.path().exists());
    assert!(matches!(Lease::open(&served.places()), Err(OpenError::NobodyListens(_))));
    assert!(lease.acting().is_err(), "what is mapped stays mapped");
}

#[test]
fn only_a_descriptor_that_cannot_write_is_handed_out_or_mapped() {
    let page = Written::new();
    assert!(Readable::try_new(page.writable()).unwrap_err().to_string().contains("not for reading alone"));
    assert!(Page::open(page.writable().as_fd()).is_err());
    assert!(Page::open(page.readable().as_fd()).is_ok());
    // What is handed out can be mapped for writing by nobody.
    let fd = page.readable();
    let length = std::num::NonZeroUsize::new(4096).unwrap();
    let writing = nix::sys::mman::ProtFlags::PROT_WRITE;
    // SAFETY: it fails, or is never used.
    let mapped = unsafe { nix::sys::mman::mmap(None, length, writing, nix::sys::mman::MapFlags::MAP_SHARED, &fd, 0) };
    assert_eq!(mapped.unwrap_err(), nix::Error::EACCES);
}

#[test]
fn what_is_no_page_is_refused() {
    let served = Served::new();
    let page = Written::new();
    served.show(&page);
    page.set(word::MAGIC, MAGIC ^ 1);
    let error = Lease::open(&served.places()).unwrap_err();
    assert!(matches!(&error, OpenError::NoPage { source, .. } if source.kind() == std::io::ErrorKind::InvalidData));
    // A file that could be cut off under its reader, or written by whoever opens it anew.
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let map = |file: &tempfile::NamedTempFile| Page::open(std::fs::File::open(file.path()).unwrap().as_fd());
    assert!(map(&file).unwrap_err().to_string().contains("shorter"));
    std::io::Write::write_all(&mut file, &[0; 4096]).unwrap();
    assert!(map(&file).is_err());
    assert!(Readable::try_new(std::fs::File::open(file.path()).unwrap().into()).is_err());
}

/// Listens as somebody who hands out `descriptors`.
fn hand_out(listener: UnixListener, descriptors: Vec<OwnedFd>) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(&[0])], &rights, MsgFlags::empty(), None).unwrap();
    })
}

#[test]
fn more_than_a_page_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let page = Written::new();
    for count in [2, 5] {
        let path = directory.path().join(format!("{count}.sock"));
        let descriptors = (0..count).map(|_| page.readable()).collect();
        let sender = hand_out(UnixListener::bind(&path).unwrap(), descriptors);
        let places = Places { socket: path, pin: None, owner: Owner::default() };
        let error = Lease::open(&places).unwrap_err().to_string();
        assert!(error.contains("more than one descriptor"), "{error}");
        sender.join().unwrap();
    }
}

#[test]
fn a_pin_that_others_could_have_made_is_not_opened() {
    let directory = tempfile::tempdir().unwrap();
    let pin = directory.path().join("lease");
    let places = Places { socket: directory.path().join("none.sock"), pin: Some(pin.clone()), owner: Owner::default() };
    assert!(matches!(Lease::open(&places), Err(OpenError::Nowhere { .. })));
    std::fs::write(&pin, "").unwrap();
    std::fs::set_permissions(&pin, std::fs::Permissions::from_mode(0o666)).unwrap();
    assert!(matches!(Lease::open(&places), Err(OpenError::Writable { mode: 0o666, .. })));
    std::fs::set_permissions(&pin, std::fs::Permissions::from_mode(0o444)).unwrap();
    // A file that is no pin passes the look at its modes, and is refused by the kernel.
    assert!(matches!(Lease::open(&places), Err(OpenError::Io { what: "open the pinned page", .. })));
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(Lease::open(&places), Err(OpenError::Writable { mode: 0o777, .. })));
}

#[test]
fn the_pin_is_opened_where_heartbeatd_stands_still() {
    let directory = tempfile::tempdir().unwrap();
    let (socket, pin) = (directory.path().join("lease.sock"), directory.path().join("lease"));
    // It takes connections, as the system does for it, and answers none.
    let _listener = UnixListener::bind(&socket).unwrap();
    let places = Places { socket, pin: Some(pin.clone()), owner: Owner::default() };
    let error = Lease::open(&places).unwrap_err();
    assert!(matches!(&error, OpenError::Io { what: "receive the page", .. }) && error.passes(), "{error}");
    std::fs::write(&pin, "").unwrap();
    std::fs::set_permissions(&pin, std::fs::Permissions::from_mode(0o444)).unwrap();
    // This one is no pin, as the kernel says.
    assert!(matches!(Lease::open(&places), Err(OpenError::Io { what: "open the pinned page", .. })));
}

#[test]
fn a_flood_of_connections_shuts_nobody_out_and_a_file_in_the_way_is_left_alone() {
    let mut served = Served::new();
    served.show(&Written::new());
    for _ in 0..300 {
        // Taken and dropped unread: nothing of it stays with the server.
        drop(UnixStream::connect(served.path()).unwrap());
    }
    assert!(Lease::open(&served.places()).is_ok());
    // A killed controller's socket is replaced.
    served.stop();
    drop(UnixListener::bind(served.path()).unwrap());
    assert!(served.path().exists());
    served.start();
    assert!(Lease::open(&served.places()).is_ok());
    let path = served.directory.path().join("file");
    std::fs::write(&path, "precious").unwrap();
    assert!(format!("{:#}", LeaseSocket::bind_at(&path).unwrap_err()).contains("no socket"));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn the_verbs_say_by_their_exit_code_how_things_stand() {
    let served = Served::new();
    assert_eq!(served.tool(&["is-quorate"]).0, 3);
    let (code, out, errors) = served.tool(&["token"]);
    assert!((code, out.as_str()) == (3, "") && errors.contains("no page to hand out yet"), "{errors}");
    let page = Written::new();
    served.show(&page);
    let (code, out, _) = served.tool(&["is-quorate"]);
    assert!(code == 9 && out.contains("no majority of votes"), "{out}");
    let (code, out, errors) = served.tool(&["token"]);
    assert!((code, out.as_str()) == (9, "") && errors.contains("no token"), "{errors}");
    page.grant(true);
    assert_eq!(served.tool(&["is-quorate"]).0, 0);
    assert_eq!(served.tool(&["token"]), (0, format!("{TOKEN}\n"), String::new()));
    let (_, out, _) = served.tool(&["token", "--json"]);
    let answer: serde_json::Value = serde_json::from_str(&out).unwrap();
    let expected = serde_json::json!({
        "schema": 1, "acting": true, "token": TOKEN, "force": 1, "number": 7, "incarnation": INCARNATION,
    });
    assert_eq!(answer, expected);
    page.set(word::HOLD, held::LEAVING);
    let (code, out, _) = served.tool(&["is-quorate", "--json"]);
    assert!(code == 9 && out.contains("\"acting\":false") && out.contains("this node is leaving"), "{out}");
}

/// What a shell sees of the three verbs where there is no page, or none that the caller may look at.
#[test]
fn the_verbs_tell_a_page_that_is_missing_from_one_that_may_not_be_seen() {
    let mut served = Served::new();
    let verbs: [&[&str]; 3] = [&["is-quorate"], &["token"], &["wait", "--quorate", "--timeout", "0"]];
    let told = |served: &Served, code: i32, text: &str| {
        for verb in verbs {
            let (found, out, errors) = served.tool(verb);
            assert!((found, out.as_str()) == (code, "") && errors.contains(text), "{verb:?}: {found} {out}{errors}");
            // A program is told the same, and nothing that could be taken for an answer.
            let (found, out, _) = served.tool(&[verb, &["--json"]].concat());
            assert_eq!((found, out.as_str()), (code, ""), "{verb:?}");
        }
    };
    // heartbeatd runs and has none yet; it was killed, and its socket left behind; it was never here.
    told(&served, 3, "no page to hand out yet");
    served.stop();
    drop(UnixListener::bind(served.path()).unwrap());
    told(&served, 3, "nobody listens there");
    std::fs::remove_file(served.path()).unwrap();
    told(&served, 3, "nobody listens there");
    // Something that is no page, and that is not believed.
    let file = tempfile::NamedTempFile::new().unwrap();
    let sender = |served: &Served| {
        let _ = std::fs::remove_file(served.path());
        hand_out(UnixListener::bind(served.path()).unwrap(), vec![std::fs::File::open(file.path()).unwrap().into()])
    };
    let sent = sender(&served);
    let (code, out, errors) = served.tool(&["is-quorate"]);
    assert!((code, out.as_str()) == (1, "") && errors.contains("hands out no page"), "{errors}");
    sent.join().unwrap();
}

#[test]
fn a_page_that_the_caller_may_not_see_is_said_to_be_so_at_once() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIP a_page_that_the_caller_may_not_see_is_said_to_be_so_at_once: needs root to become another user");
        return;
    }
    let served = Served::new();
    served.show(&Written::new());
    std::fs::set_permissions(served.directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::set_permissions(served.path(), std::fs::Permissions::from_mode(0o600)).unwrap();
    // The other user may not be let to where the program was built.
    let tool = served.directory.path().join("heartbeatctl");
    std::fs::copy(env!("CARGO_BIN_EXE_heartbeatctl"), &tool).unwrap();
    for verb in [&["is-quorate"][..], &["token"], &["wait", "--quorate"]] {
        let mut asked = Command::new(&tool);
        asked.args(verb).arg("--lease-socket").arg(served.path()).current_dir("/");
        let begun = Instant::now();
        let output = asked.uid(65534).gid(65534).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(5), &b""[..]), "{verb:?}: {errors}");
        assert!(errors.contains("Permission denied"), "{errors}");
        assert!(begun.elapsed() < LONG, "no wait changes that");
    }
}

#[test]
fn a_wait_ends_when_the_lease_comes_or_its_time_is_over() {
    let served = Served::new();
    assert_eq!(served.tool(&["wait", "--quorate", "--timeout", "0"]).0, 3);
    assert_eq!(served.tool(&["wait"]).0, 2, "what to wait for has to be named");
    let page = Written::new();
    served.show(&page);
    let begun = Instant::now();
    assert_eq!(served.tool(&["wait", "--quorate", "--timeout", "300ms"]).0, 9);
    assert!(begun.elapsed() >= Duration::from_millis(300));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(200));
            page.grant(true);
        });
        assert_eq!(served.tool(&["wait", "--quorate", "--timeout", "20s"]).0, 0);
    });
}

/// `heartbeatd hold` under a service manager that the test plays.
struct Holder {
    child: Child,
    manager: UnixDatagram,
}

impl Holder {
    fn start(served: &Served) -> Self {
        let path = served.directory.path().join("notify.sock");
        let _ = std::fs::remove_file(&path);
        let manager = UnixDatagram::bind(&path).unwrap();
        manager.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_heartbeatd"))
            .args(["hold", "--lease-socket"])
            .arg(served.path())
            .env("NOTIFY_SOCKET", &path)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, manager }
    }

    /// Waits until the manager is told something with `text` in it; false after `limit`.
    fn tells(&self, text: &str, limit: Duration) -> bool {
        let (begun, mut buffer) = (Instant::now(), [0; 4096]);
        while begun.elapsed() < limit {
            if let Ok(length) = self.manager.recv(&mut buffer)
                && String::from_utf8_lossy(&buffer[..length]).contains(text)
            {
                return true;
            }
        }
        false
    }

    /// Waits for its end; what it said, and the exit code.
    fn ended(mut self) -> (String, Option<i32>) {
        let mut said = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        (said, self.child.wait().unwrap().code())
    }
}

const LONG: Duration = Duration::from_secs(20);

#[test]
fn the_holder_is_ready_while_acting_and_over_when_fenced() {
    let mut served = Served::new();
    let holder = Holder::start(&served);
    assert!(holder.tells("STATUS=waits", LONG));
    let page = Written::new();
    served.show(&page);
    assert!(holder.tells("no majority of votes", LONG));
    assert!(!holder.tells("READY=1", Duration::from_millis(300)));
    page.grant(true);
    assert!(holder.tells("READY=1", LONG));
    // It needs heartbeatd no more.
    served.stop();
    page.set(word::FENCED, INCARNATION);
    assert!(holder.tells("STOPPING=1", LONG));
    assert_eq!(holder.ended(), ("over: this node was fenced\n".to_owned(), Some(0)));
}

#[test]
fn the_holder_ends_with_the_lease_though_nobody_says_so() {
    let served = Served::new();
    let page = Written::new();
    served.show(&page);
    page.until(now() + 3_600_000 * MS);
    let holder = Holder::start(&served);
    assert!(holder.tells("READY=1", LONG));
    let end = now() + 1_000 * MS;
    page.until(end);
    assert!(holder.tells("STOPPING=1", LONG));
    assert!(now() >= end, "not before the end");
    assert_eq!(holder.ended(), ("over: no majority of votes has granted lately\n".to_owned(), Some(0)));
}

/// Until heartbeatd has taken note, its kernel may say that this node stops at once when it is fenced.
#[test]
fn the_holder_is_not_ready_before_heartbeatd_has_taken_note() {
    let served = Served::new();
    let (mark, asked) = (served.directory.path().join(HELD), served.directory.path().join(HOLD_SOCKET));
    std::fs::remove_file(&mark).unwrap();
    let page = Written::new();
    served.show(&page);
    page.grant(true);
    // Nobody is there to take note.
    let mut holder = Holder::start(&served);
    assert!(holder.tells("heartbeatd has to take note", LONG));
    assert!(!holder.tells("READY=1", Duration::from_millis(500)));
    // heartbeatd hears of it, and stands still before it has done anything.
    let listener = UnixListener::bind(&asked).unwrap();
    let (stream, _) = listener.accept().unwrap();
    assert!(!holder.tells("READY=1", Duration::from_millis(500)));
    // A mark that anybody could have left is none.
    std::os::unix::fs::symlink("/etc/passwd", &mark).unwrap();
    assert!(!holder.tells("READY=1", Duration::from_millis(500)));
    std::fs::remove_file(&mark).unwrap();
    served.note();
    drop(stream);
    assert!(holder.tells("READY=1", LONG));
    // The next one finds the mark, though nobody is there.
    holder.child.kill().unwrap();
    holder.child.wait().unwrap();
    drop(listener);
    let next = Holder::start(&served);
    assert!(next.tells("READY=1", LONG));
    page.set(word::FENCED, INCARNATION);
    assert_eq!(next.ended().1, Some(0));
}

/// heartbeatd without a map, killed: nobody closes its page, and a node that is alone would act under it for ever.
#[test]
fn the_holder_lets_go_of_a_page_that_heartbeatd_replaced() {
    let served = Served::new();
    let (orphaned, page) = (Written::new(), Written::new());
    served.show(&orphaned);
    let holder = Holder::start(&served);
    assert!(holder.tells("no majority of votes", LONG));
    // Before it may act: the other page makes it ready.
    page.grant(true);
    served.show(&page);
    assert!(holder.tells("READY=1", LONG));
    // While it may: the next page says that nobody acts.
    let next = Written::new();
    next.set(word::INCARNATION, 0);
    served.show(&next);
    assert!(holder.tells("STOPPING=1", LONG));
    assert_eq!(holder.ended(), ("over: heartbeatd has not started on this node\n".to_owned(), Some(0)));
}

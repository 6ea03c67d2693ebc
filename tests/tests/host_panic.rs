//! A panic in one thread of heartbeatd ends the whole process, and every way into the daemon asks for that. It runs
//! itself again as the process that is to die. And whichever thread of a real daemon is killed, nothing of it lives on.

use heartbeat_tests::lab::crew::{Crew, PATIENCE};
use heartbeat_tests::lab::timely::Timely;
use heartbeat_tests::lab::wait::root_or_skip;
use heartbeat_tests::lab::{Options, monotonic_ns, wait_for};
use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const CHILD: &str = "HEARTBEAT_PANIC_CHILD";

#[test]
fn fault_43_a_panic_in_any_thread_ends_the_whole_process() {
    if let Some(way) = std::env::var_os(CHILD) {
        heartbeat_user::io::panics::abort_on_panic();
        let caught = way == "caught";
        let work = move || {
            if caught {
                // As a runtime does with what it is given to do: its thread lives on, where nothing ends the process.
                let _ = std::panic::catch_unwind(|| panic!("as a test"));
            } else {
                panic!("as a test");
            }
        };
        let thread = std::thread::Builder::new().name("hb-keeper".to_owned()).spawn(work);
        // Were it the thread alone that ended, its end would be seen here and the process would end in order.
        let _ = thread.unwrap().join();
        std::process::exit(0);
    }
    let own = std::env::current_exe().unwrap();
    let name = "fault_43_a_panic_in_any_thread_ends_the_whole_process";
    for way in ["alone", "caught"] {
        let mut child = Command::new(&own);
        child.args([name, "--exact", "--nocapture"]).env(CHILD, way).stdin(Stdio::null());
        let output = child.output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        let aborted = Some(nix::sys::signal::Signal::SIGABRT as i32);
        assert_eq!(output.status.signal(), aborted, "{way}: {}: {text}", output.status);
        assert!(text.contains("hb-keeper") && text.contains("as a test"), "who panicked, and why: {text}");
    }
}

/// Threads of a process: (number, name).
fn threads(process: u32) -> Vec<(i32, String)> {
    let entries = std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let name = |path: &Path| Some(std::fs::read_to_string(path.join("comm")).ok()?.trim().to_owned());
    let thread = |entry: std::fs::DirEntry| {
        let path = entry.path();
        Some((path.file_name()?.to_str()?.parse().ok()?, name(&path)?))
    };
    entries.filter_map(thread).collect()
}

fn kill_thread(process: u32, thread: i32) {
    // SAFETY: numbers alone are passed.
    let result = unsafe { libc::syscall(libc::SYS_tgkill, process.cast_signed(), thread, libc::SIGKILL) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

/// Nothing of a daemon is left whichever of its threads is killed, at once; its kernel answers on meanwhile, and the next
/// daemon goes on where it was. That a *panic* in one comes to the same is shown above: from outside a daemon cannot be
/// made to panic.
#[test]
fn fault_43_whichever_of_its_threads_is_killed_nothing_of_a_daemon_lives_on() {
    if !root_or_skip("fault_43_whichever_of_its_threads_is_killed_nothing_of_a_daemon_lives_on") {
        return;
    }
    let (a, b) = (0, 1);
    let mut crew = Crew::pair(2, &[("stall_limit_ms", 5000)], &Options::default()).unwrap();
    let mark = crew.mark().unwrap();
    let mut killed: BTreeSet<String> = BTreeSet::new();
    let mut gone = Timely::new("one thread killed, until the whole process is gone", Duration::from_millis(500));
    loop {
        let pid = crew.daemon(b).pid();
        // The runtime's own threads come and go with its clients; the main thread has the name of the program.
        let next = threads(pid).into_iter().find(|(_, name)| !killed.contains(name) && !name.starts_with("tokio"));
        let Some((thread, name)) = next else { break };
        let daemon = crew.take(b);
        let from = monotonic_ns();
        kill_thread(pid, thread);
        let ended = daemon.wait(PATIENCE).unwrap();
        gone.add(from, monotonic_ns()).unwrap();
        assert_eq!(ended.signal(), Some(libc::SIGKILL), "{name}");
        assert!(threads(pid).is_empty(), "{name}: {:?}", threads(pid));
        let answers = || crew.daemon(a).ask("paths").unwrap()["paths"][0]["echoes"].as_u64().unwrap();
        let before = answers();
        let more = || if answers() > before + 1 { Ok(()) } else { Err("no answer") };
        wait_for(PATIENCE, "the kernel to answer on", more).unwrap();
        crew.start(b, &Options::default()).unwrap();
        crew.all_up().unwrap();
        killed.insert(name);
    }
    let all = ["hb-pacer", "hb-decider", "hb-keeper", "hb-link", "hb-disk", "hb-journal"];
    assert!(all.iter().all(|name| killed.contains(*name)), "{killed:?}");
    gone.judge().unwrap();
    crew.nobody_removed(&mark).unwrap();
    wait_for(PATIENCE, "each restart to be told", || {
        let told = crew.said(&mark, a, "controller_restarted").unwrap().len();
        if told == killed.len() { Ok(()) } else { Err(format!("{told} of {}", killed.len())) }
    })
    .unwrap();
}

#[test]
fn fault_43_the_daemon_asks_for_it_before_anything_else() {
    let main = include_str!("../../heartbeat-user/src/bin/heartbeatd.rs");
    let run = main.split("DaemonCommand::Run(arguments) => {").nth(1).expect("the daemon's arm");
    assert_eq!(run.trim_start().lines().next(), Some("panics::abort_on_panic();"));
}

#[test]
fn a_process_without_the_hook_lives_on() {
    // The control of the test above: without the hook a panic ends its thread alone.
    let quiet = std::thread::spawn(|| std::panic::catch_unwind(|| panic!("as a control")).is_err());
    std::thread::sleep(Duration::from_millis(1));
    assert!(quiet.join().unwrap());
}

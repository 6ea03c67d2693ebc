//! A panic in one thread of heartbeatd ends the whole process, and every way into the daemon asks for that. It runs
//! itself again as the process that is to die.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::Duration;

const CHILD: &str = "HEARTBEAT_PANIC_CHILD";

#[test]
fn fault_43_a_panic_in_any_thread_ends_the_whole_process() {
    if std::env::var_os(CHILD).is_some() {
        heartbeat_user::io::panics::abort_on_panic();
        let thread = std::thread::Builder::new().name("hb-keeper".to_owned()).spawn(|| panic!("as a test"));
        // Were it the thread alone that ended, its end would be seen here and the process would end in order.
        let _ = thread.unwrap().join();
        std::process::exit(0);
    }
    let own = std::env::current_exe().unwrap();
    let name = "fault_43_a_panic_in_any_thread_ends_the_whole_process";
    let mut child = Command::new(own);
    child.args([name, "--exact", "--nocapture"]).env(CHILD, "1").stdin(Stdio::null());
    let output = child.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.signal(), Some(nix::sys::signal::Signal::SIGABRT as i32), "{}: {text}", output.status);
    assert!(text.contains("hb-keeper") && text.contains("as a test"), "who panicked, and why: {text}");
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

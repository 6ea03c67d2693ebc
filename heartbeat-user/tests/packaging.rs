//! The service files as the service manager reads them, and against what the binaries promise. It starts no service.
//!
//! `systemd-analyze verify` wants the programs to be there: it is given copies of the units in which the installed
//! path of heartbeatd is replaced by that of the binary under test, and nothing else is changed.

use heartbeat_user::cli::{ExitCode, Watchdog, check_watchdog, parse_time_span};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

const UNITS: [&str; 4] =
    ["heartbeatd.service", "heartbeatd-left.service", "heartbeat-quorate.service", "heartbeat-quorate.target"];
/// Highest exposure allowed, as `systemd-analyze security` prints it.
const EXPOSURE_MAX: f64 = 2.2;
/// The default of hang_limit_s.
const HANG_LIMIT: Duration = Duration::from_secs(60);

fn packaging() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging")
}

fn text(file: &str) -> String {
    std::fs::read_to_string(packaging().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// Says aloud that a test cannot run here; the runner counts these.
fn skip(name: &str, reason: &str) {
    let line = format!("SKIP {name}: {reason}\n");
    print!("{line}");
    if let Some(file) = std::env::var_os("HEARTBEAT_SKIPS") {
        let mut file = std::fs::OpenOptions::new().append(true).create(true).open(file).unwrap();
        file.write_all(line.as_bytes()).unwrap();
    }
}

/// Runs a program; `None` and a named skip if it is not installed.
fn run(test: &str, program: &str, args: &[&dyn AsRef<std::ffi::OsStr>]) -> Option<Output> {
    match Command::new(program).args(args.iter().map(|arg| arg.as_ref())).env("LC_ALL", "C").output() {
        Ok(output) => Some(output),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            skip(test, &format!("{program} is not installed"));
            None
        }
        Err(error) => panic!("{program}: {error}"),
    }
}

/// Every value of `key` in `unit`, in order.
fn values(unit: &str, key: &str) -> Vec<String> {
    let prefix = format!("{key}=");
    text(unit).lines().filter_map(|line| line.strip_prefix(&prefix)).map(str::to_owned).collect()
}

fn one(unit: &str, key: &str) -> String {
    let mut all = values(unit, key);
    assert_eq!(all.len(), 1, "{unit}: {key}");
    all.remove(0)
}

/// Writes both units, changed by `change`, into a directory of their own.
fn copies(change: impl Fn(String) -> String) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for unit in UNITS {
        let copy = text(unit).replace("/usr/sbin/heartbeatd", env!("CARGO_BIN_EXE_heartbeatd"));
        std::fs::write(directory.path().join(unit), change(copy)).unwrap();
    }
    directory
}

fn verify(test: &str, directory: &Path) -> Option<(bool, String)> {
    let units = UNITS.map(|unit| directory.join(unit));
    let [first, second, third, fourth] = &units;
    let output = run(test, "systemd-analyze", &[&"verify", &"--man=no", first, second, third, fourth])?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    // Complaints about units of the host are not ours.
    let ours = said.lines().filter(|line| line.contains("heartbeat")).map(|line| format!("{line}\n")).collect();
    Some((output.status.success(), ours))
}

#[test]
fn units_are_clean() {
    let test = "units_are_clean";
    let Some(clean) = verify(test, copies(|unit| unit).path()) else { return };
    assert_eq!(clean, (true, String::new()));
    // The check itself can fail.
    let broken = copies(|unit| unit.replace("WatchdogSec=", "WatchDogSec="));
    let (_, said) = verify(test, broken.path()).expect("it ran a moment ago");
    assert!(said.contains("WatchDogSec"), "{said}");
}

fn exposure(test: &str, unit: &Path) -> Option<f64> {
    let output = run(test, "systemd-analyze", &[&"security", &"--offline=true", &"--no-pager", &unit])?;
    let said = String::from_utf8_lossy(&output.stdout);
    let line = said.lines().find(|line| line.contains("Overall exposure level"));
    let line = line.unwrap_or_else(|| panic!("no exposure in {said}{}", String::from_utf8_lossy(&output.stderr)));
    let number = line.rsplit_once(": ").and_then(|(_, rest)| rest.split(' ').next()).and_then(|word| word.parse().ok());
    Some(number.unwrap_or_else(|| panic!("no number in {line}")))
}

#[test]
fn exposure_is_low() {
    let test = "exposure_is_low";
    for unit in UNITS.into_iter().filter(|unit| unit.ends_with(".service")) {
        let Some(exposure) = exposure(test, &packaging().join(unit)) else { return };
        assert!(exposure <= EXPOSURE_MAX, "{unit}: {exposure}");
        println!("{unit}: exposure {exposure}");
    }
    // The measure itself can fail.
    let bare = copies(|unit| unit.replace("Protect", "X-Protect").replace("SystemCallFilter", "X-Filter"));
    let exposure = exposure(test, &bare.path().join(UNITS[0])).expect("it ran a moment ago");
    assert!(exposure > EXPOSURE_MAX, "{exposure}");
}

#[test]
fn watchdog_outlasts_the_hang_limit() {
    let watchdog = parse_time_span(&one("heartbeatd.service", "WatchdogSec")).unwrap();
    assert_ne!(watchdog, Watchdog::Off);
    check_watchdog(watchdog, HANG_LIMIT).unwrap();
}

#[test]
fn the_daemon_and_who_marks_the_node_as_left_may_ask_for_more_time_to_stop() {
    // What runs under the lease may take longer than any limit that a unit could name.
    assert_eq!(one("heartbeatd.service", "NotifyAccess"), "exec", "the step after the daemon asks too");
    assert_eq!(one("heartbeatd-left.service", "NotifyAccess"), "main");
}

#[test]
fn restarts_are_prevented_by_the_codes_that_say_so() {
    let expected: Vec<String> =
        ExitCode::ALL.iter().filter(|code| code.prevents_restart()).map(|code| (*code as u8).to_string()).collect();
    assert_eq!(one("heartbeatd.service", "RestartPreventExitStatus"), expected.join(" "));
    assert_eq!(one("heartbeatd.service", "Restart"), "on-failure");
    // There is no stop-post step once the start limit is hit: both ways are there.
    assert_eq!(one("heartbeatd.service", "OnFailure"), "heartbeatd-left.service");
    assert_eq!(one("heartbeatd.service", "ExecStopPost"), "-/usr/sbin/heartbeatd mark-left");
}

#[test]
fn rights_are_these_and_no_more() {
    for (unit, capabilities) in [
        ("heartbeatd.service", "CAP_BPF CAP_NET_ADMIN CAP_NET_RAW CAP_PERFMON"),
        ("heartbeatd-left.service", "CAP_BPF"),
    ] {
        assert_eq!(one(unit, "CapabilityBoundingSet"), capabilities);
        assert_eq!(one(unit, "AmbientCapabilities"), capabilities);
        assert_eq!(one(unit, "User"), "heartbeatd");
        assert_eq!(one(unit, "NoNewPrivileges"), "yes");
        assert_eq!(one(unit, "LimitCORE"), "0");
        assert!(one(unit, "ReadWritePaths").starts_with("-/sys/fs/bpf/heartbeatd"), "{unit}");
    }
    // Packet sockets are among the kinds that may be opened, or the capability would be worth nothing.
    assert!(one("heartbeatd.service", "RestrictAddressFamilies").split(' ').any(|family| family == "AF_PACKET"));
    // The pacing thread's default priority is within the limit.
    assert!(one("heartbeatd.service", "LimitRTPRIO").parse::<u32>().unwrap() >= 50);
}

/// Each command line in the units is one that the binary takes.
#[test]
fn commands_are_known_to_the_binary() {
    use clap::Parser;
    let mut checked = 0;
    for unit in UNITS {
        for key in ["ExecStartPre", "ExecStart", "ExecReload", "ExecStopPost"] {
            for line in values(unit, key) {
                let words: Vec<&str> = line.trim_start_matches('-').split(' ').collect();
                if words[0] == "/usr/sbin/heartbeatd" {
                    heartbeat_user::cli::Heartbeatd::try_parse_from(words).unwrap_or_else(|error| panic!("{error}"));
                    checked += 1;
                }
            }
        }
    }
    assert_eq!(checked, 6);
}

/// The user and the pin directory as sysusers and tmpfiles make them, in a root of their own.
#[test]
fn user_and_pin_directory_are_made() {
    let test = "user_and_pin_directory_are_made";
    if !nix::unistd::geteuid().is_root() {
        return skip(test, "needs root to give a directory to a user");
    }
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(root.path().join("etc")).unwrap();
    // As systemd mounts it: closed to the service's user.
    let bpffs = root.path().join("sys/fs/bpf");
    std::fs::create_dir_all(&bpffs).unwrap();
    std::fs::set_permissions(&bpffs, std::fs::Permissions::from_mode(0o700)).unwrap();
    let option = format!("--root={}", root.path().display());
    let sysusers = packaging().join("sysusers.d/heartbeatd.conf");
    let tmpfiles = packaging().join("tmpfiles.d/heartbeatd.conf");
    let Some(made) = run(test, "systemd-sysusers", &[&option, &sysusers]) else { return };
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let users = std::fs::read_to_string(root.path().join("etc/passwd")).unwrap();
    let user: Vec<&str> = users.lines().find(|line| line.starts_with("heartbeatd:")).unwrap().split(':').collect();
    assert!(user[6].ends_with("nologin"), "{users}");
    let Some(made) = run(test, "systemd-tmpfiles", &[&option, &"--create", &tmpfiles]) else { return };
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let way = std::fs::metadata(&bpffs).unwrap();
    assert_eq!((way.mode() & 0o7777, way.uid()), (0o711, 0), "to be passed, and not to be read");
    for (directory, mode) in [("heartbeatd", 0o700), ("heartbeatd-lease", 0o755)] {
        let pins = std::fs::metadata(bpffs.join(directory)).unwrap();
        assert_eq!((pins.mode() & 0o7777, pins.uid().to_string().as_str()), (mode, user[2]), "{directory}");
    }
}

/// What makes units bound to the target start and stop with the lease.
#[test]
fn the_target_follows_the_lease() {
    let (service, target) = ("heartbeat-quorate.service", "heartbeat-quorate.target");
    assert_eq!(one(target, "BindsTo"), service);
    assert_eq!(one(target, "After"), service);
    assert_eq!(one(service, "ExecStart"), "/usr/sbin/heartbeatd hold");
    assert_eq!(one(service, "Type"), "notify");
    // A unit that is bound is only stopped by it: it has to be started again, and again without end.
    assert!(one(service, "ExecStartPost").ends_with(&format!("systemctl start --no-block {target}")));
    assert_eq!((one(service, "Restart").as_str(), one(service, "StartLimitIntervalSec").as_str()), ("always", "0"));
    assert_eq!(one(service, "TimeoutStartSec"), "infinity");
    // A holder that dies is seen as dead before the next one is started; a direct restart would leave the target up.
    assert_eq!(values(service, "RestartMode"), [""; 0]);
    // No right, and no need of the daemon.
    assert_eq!((one(service, "DynamicUser").as_str(), one(service, "CapabilityBoundingSet").as_str()), ("yes", ""));
    for key in ["Requires", "BindsTo", "PartOf", "Requisite"] {
        assert!(!values(service, key).iter().any(|unit| unit.contains("heartbeatd")), "{key}");
    }
    // A node that waits for quorum ends its boot nonetheless.
    assert_eq!(one(service, "DefaultDependencies"), "no");
}

/// A hook's control group is made below the unit's own, which has to be the service's to divide.
#[test]
fn hooks_have_their_control_group() {
    assert_eq!(one("heartbeatd.service", "Delegate"), "pids");
    let paths = one("heartbeatd.service", "ReadWritePaths");
    assert!(paths.split(' ').any(|path| path == "-/sys/fs/cgroup/system.slice/%n"), "{paths}");
}

/// Debian ships an unrelated `heartbeat`, which owns that unit, user and those paths.
#[test]
fn nothing_is_named_as_the_other_heartbeat() {
    let mut files = 0;
    for directory in [packaging(), packaging().join("sysusers.d"), packaging().join("tmpfiles.d")] {
        for entry in std::fs::read_dir(directory).unwrap().map(Result::unwrap).filter(|entry| entry.path().is_file()) {
            let name = entry.file_name().into_string().unwrap();
            let ours = ["heartbeatd", "heartbeat-quorate.", "heartbeat_lease.h"];
            assert!(ours.iter().any(|begin| name.starts_with(begin)), "{name}");
            let text = std::fs::read_to_string(entry.path()).unwrap();
            for other in ["heartbeat.service", "/heartbeat/", "/heartbeat ", "=heartbeat\n", "/ha.d"] {
                assert!(!text.contains(other), "{name}: {other}");
            }
            files += 1;
        }
    }
    assert!(files >= 4);
}

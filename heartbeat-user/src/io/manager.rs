//! The service manager: what it is told and what is asked of it, by the daemon and by those who work beside it. The
//! daemon calls from the runtime's thread, never from one that must be on time: a stalled manager may block it.

use sd_notify::NotifyState;
use std::collections::BTreeMap;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt;

/// How long the manager may take to say what it is doing.
const ASK: Duration = Duration::from_secs(2);
/// How often it is looked whether it has.
const LOOK: Duration = Duration::from_millis(5);

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        log::debug!("the service manager could not be told: {error}");
    }
}

/// Says that the service is ready.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Says what the service is doing.
pub fn status(text: &str) {
    tell(&[NotifyState::Status(text)]);
}

/// Says that the configuration is being read again.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

/// Says that the service is ending.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Says that what the service is at may take so long, some 71 minutes at most, whatever limit the manager has for it.
pub fn extend(longest: Duration) {
    tell(&[NotifyState::ExtendTimeoutUsec(u32::try_from(longest.as_micros()).unwrap_or(u32::MAX))]);
}

/// Feeds the watchdog.
pub fn feed() {
    tell(&[NotifyState::Watchdog]);
}

/// Returns the watchdog that the manager holds over this process.
#[must_use]
pub fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}

/// Says whether this machine was started by systemd, which then is the service manager (sd_booted(3)).
#[must_use]
pub fn is_there() -> bool {
    std::path::Path::new("/run/systemd/system").is_dir()
}

/// What the service manager says of one unit, by property. What it does not know is not there.
pub type Properties = BTreeMap<String, String>;

/// Asks the service manager for a property of a unit; `None` if it does not say.
#[must_use]
pub fn of_unit(property: &str, unit: &str) -> Option<String> {
    let mut told = of_units(&[property], &[unit])?;
    told.pop()?.remove(property).filter(|value| !value.is_empty())
}

/// Asks the service manager for properties of units, at once: what it says of each unit, in their order. `None` if it
/// does not say, or not within 2 s: nothing is known then.
#[must_use]
pub fn of_units(properties: &[&str], units: &[&str]) -> Option<Vec<Properties>> {
    let mut command = Command::new("systemctl");
    command.args(["show", &format!("--property={}", properties.join(","))]).args(units);
    let told = parsed(&answer(command, ASK)?);
    (told.len() == units.len()).then_some(told)
}

/// Runs a command that answers on its standard output. `None` if it fails, or takes longer than `limit`: it is killed
/// then, for a manager that is stuck would hold up whoever asks.
fn answer(mut command: Command, limit: Duration) -> Option<String> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().ok()?;
    let until = Instant::now() + limit;
    let succeeded = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status.success(),
            Ok(None) if Instant::now() < until => std::thread::sleep(LOOK),
            // One that says more than a pipe holds never ends, and ends here too.
            Ok(None) | Err(_) => {
                let _ = child.kill();
                let _ = child.wait();
                break false;
            }
        }
    };
    let mut text = String::new();
    child.stdout.take().filter(|_| succeeded)?.read_to_string(&mut text).ok()?;
    Some(text)
}

/// Takes apart what `systemctl show` prints: `Key=value` lines, with an empty line between units.
fn parsed(text: &str) -> Vec<Properties> {
    let pair = |line: &str| line.split_once('=').map(|(key, value)| (key.to_owned(), value.trim().to_owned()));
    let unit = |block: &str| block.lines().filter_map(pair).collect::<Properties>();
    text.trim_matches('\n').split("\n\n").map(unit).filter(|unit| !unit.is_empty()).collect()
}

/// Asks the manager whether this stop is the first half of a restart. Without a manager, or without an answer, it is a
/// stop: leaving is then the safe reading, for nobody may come after.
pub async fn restart_is_asked() -> bool {
    // Set by systemd for the units that it runs.
    if std::env::var_os("INVOCATION_ID").is_none() || std::env::var_os("NOTIFY_SOCKET").is_none() {
        return false;
    }
    let Some(unit) = own_unit() else { return false };
    let asked = async {
        let mut child = tokio_command(&["list-jobs", "--no-legend", "--plain"])?;
        let mut text = String::new();
        child.stdout.take()?.read_to_string(&mut text).await.ok()?;
        let _ = child.wait().await;
        Some(text)
    };
    match tokio::time::timeout(ASK, asked).await {
        Ok(Some(jobs)) => is_restarting(&jobs, &unit),
        _ => false,
    }
}

fn tokio_command(arguments: &[&str]) -> Option<tokio::process::Child> {
    tokio::process::Command::new("systemctl")
        .args(arguments)
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .ok()
}

/// Returns the name of the unit that this process runs in, from its control group.
fn own_unit() -> Option<String> {
    unit_of(&std::fs::read_to_string("/proc/self/cgroup").ok()?)
}

fn unit_of(cgroups: &str) -> Option<String> {
    cgroups
        .lines()
        .filter_map(|line| line.rsplit('/').find(|part| part.ends_with(".service")))
        .map(str::to_owned)
        .next()
}

/// Finds a restart of `unit` in what `systemctl list-jobs` prints: job, unit, type, state.
fn is_restarting(jobs: &str, unit: &str) -> bool {
    jobs.lines().any(|line| {
        let mut fields = line.split_whitespace();
        let (_, name, kind) = (fields.next(), fields.next(), fields.next());
        name == Some(unit) && matches!(kind, Some("restart" | "try-restart" | "reload-or-start"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_manager_that_fails_or_does_not_answer_says_nothing() {
        assert_eq!(answer(shell("echo ActiveState=active"), ASK).as_deref(), Some("ActiveState=active\n"));
        assert_eq!(answer(shell("echo ActiveState=inactive; exit 1"), ASK), None);
        assert_eq!(answer(Command::new("/no/such/program"), ASK), None);
        let begun = Instant::now();
        // It is the program itself that hangs: nothing of it stays behind.
        assert_eq!(answer(shell("echo ActiveState=inactive; exec sleep 60"), Duration::from_millis(200)), None);
        assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    }

    #[test]
    fn what_is_shown_of_units_is_taken_apart() {
        let shown = parsed("BoundBy=a.service b.service\nActiveState=active\n\nBoundBy=\nActiveState=inactive\n");
        assert_eq!(shown.len(), 2);
        assert_eq!((shown[0]["BoundBy"].as_str(), shown[0]["ActiveState"].as_str()), ("a.service b.service", "active"));
        assert_eq!((shown[1]["BoundBy"].as_str(), shown[1]["ActiveState"].as_str()), ("", "inactive"));
        assert!(parsed("").is_empty() && parsed("\n\n").is_empty());
        assert_eq!(parsed("Environment=A=B\n")[0]["Environment"], "A=B");
    }

    #[test]
    fn a_restart_is_told_from_a_stop() {
        let jobs = "  412 heartbeatd.service restart running\n  413 other.service stop waiting\n";
        assert!(is_restarting(jobs, "heartbeatd.service"));
        assert!(!is_restarting(jobs, "other.service"));
        assert!(!is_restarting("", "heartbeatd.service"));
        assert!(!is_restarting("No jobs running.\n", "heartbeatd.service"));
    }

    #[test]
    fn the_unit_is_found_in_both_layouts_of_control_groups() {
        assert_eq!(unit_of("0::/system.slice/heartbeatd.service\n").as_deref(), Some("heartbeatd.service"));
        assert_eq!(
            unit_of("3:cpu:/\n1:name=systemd:/system.slice/heartbeatd@b.service/x\n").as_deref(),
            Some("heartbeatd@b.service")
        );
        assert_eq!(unit_of("0::/user.slice/session-1.scope\n"), None);
    }
}

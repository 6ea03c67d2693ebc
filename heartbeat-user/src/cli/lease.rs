//! The verbs of heartbeatctl that read the page of this node instead of asking heartbeatd, and `heartbeatd hold`: their
//! options and help. It opens nothing.

use super::{Heartbeatctl, Watchdog, parse_time_span};
use crate::lease::{PIN, Places, SOCKET};
use clap::{ArgMatches, Args, Command, CommandFactory, FromArgMatches, Subcommand};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What is asked of the page.
#[derive(Subcommand, Clone, Debug)]
pub enum LeaseVerb {
    /// Say by the exit code whether this node may act
    #[command(
        long_about = "Say whether this node may act: 0 if it may, 9 if not, 3 if there is no page to ask, 5 if this user \
        may not ask for it.\n\n\
        It reads the page that the kernel renews and asks nothing of heartbeatd, so it is right also while heartbeatd \
        is stalled. The answer is of this moment: ask again before each act, and let whoever receives the act check \
        its token."
    )]
    IsQuorate(LeaseArgs),
    /// Wait until this node may act
    #[command(long_about = "Wait until this node may act: 0 as soon as it may, 9 if it might not for the whole \
        --timeout, 3 if there was no page in all that time, 5 at once if this user may not ask for it.")]
    Wait(WaitArgs),
    /// Print the token that each act of this node has to carry: force.number.incarnation
    #[command(long_about = "Print the token that each act of this node has to carry: force.number.incarnation.\n\n\
        A receiver keeps the highest view (force, then number) that it was ever shown and refuses lower ones, and of \
        one node refuses lower incarnations. Nothing is printed and the exit code is 9 where this node may not act, 3 \
        where there is no page to ask, 5 where this user may not ask for it.")]
    Token(LeaseArgs),
}

/// Which page.
#[derive(Args, Clone, Debug, Default)]
pub struct LeaseArgs {
    /// Socket where heartbeatd hands out its page [default: /run/heartbeatd/lease.sock]
    #[arg(long, value_name = "PATH", env = "HEARTBEAT_LEASE_SOCKET")]
    pub lease_socket: Option<PathBuf>,
    /// Pin of the page, tried where nobody listens or answers at the socket [default: none with --lease-socket, else
    /// /sys/fs/bpf/heartbeatd-lease/lease]
    #[arg(long, value_name = "PATH", env = "HEARTBEAT_LEASE_PIN")]
    pub lease_pin: Option<PathBuf>,
}

impl LeaseArgs {
    /// Returns where to look. The service's pin is that of the service's node: it says nothing of another socket's.
    #[must_use]
    pub fn places(&self) -> Places {
        let pin = match (&self.lease_socket, &self.lease_pin) {
            (_, Some(pin)) => Some(pin.clone()),
            (None, None) => Some(PathBuf::from(PIN)),
            (Some(socket), None) => (socket == Path::new(SOCKET)).then(|| PathBuf::from(PIN)),
        };
        let socket = self.lease_socket.clone().unwrap_or_else(|| SOCKET.into());
        Places { socket, pin, ..Places::default() }
    }
}

/// Options of `heartbeatctl wait`.
#[derive(Args, Clone, Debug)]
pub struct WaitArgs {
    /// Wait until this node may act
    #[arg(long, required = true)]
    pub quorate: bool,
    /// Give up after this time, such as 30s or "1min 30s" [default: wait for ever]
    #[arg(long, value_name = "TIME", value_parser = parse_limit)]
    pub timeout: Option<Duration>,
    /// Which page.
    #[command(flatten)]
    pub page: LeaseArgs,
}

/// Options of `heartbeatd hold`.
#[derive(Args, Clone, Debug)]
pub struct HoldArgs {
    /// Which page.
    #[command(flatten)]
    pub page: LeaseArgs,
}

/// Parses a time; `0` is a single look.
fn parse_limit(text: &str) -> Result<Duration, String> {
    match parse_time_span(text)? {
        Watchdog::Every(limit) => Ok(limit),
        Watchdog::Off if text.trim() == "infinity" => Err("leave --timeout out to wait for ever".to_owned()),
        Watchdog::Off => Ok(Duration::ZERO),
    }
}

/// A command line of heartbeatctl.
#[derive(Debug)]
pub enum ControlLine {
    /// It reads the page.
    Page {
        /// What is asked.
        verb: LeaseVerb,
        /// Whether the answer is for programs.
        json: bool,
    },
    /// It asks heartbeatd.
    Ask(Heartbeatctl),
}

/// Returns the whole command of heartbeatctl: the verbs that ask heartbeatd and those that read the page.
#[must_use]
pub fn control_command() -> Command {
    LeaseVerb::augment_subcommands(Heartbeatctl::command())
}

/// Parses a command line of heartbeatctl.
///
/// # Errors
/// What clap says, `--help` and `--version` among it.
pub fn parse_control<I, T>(line: I) -> Result<ControlLine, clap::Error>
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    let mut command = control_command();
    let matches = command.try_get_matches_from_mut(line)?;
    let parsed = match matches.subcommand_name() {
        Some(name) if LeaseVerb::has_subcommand(name) => page(&matches),
        _ => Heartbeatctl::from_arg_matches(&matches).map(ControlLine::Ask),
    };
    parsed.map_err(|error| error.format(&mut command))
}

fn page(matches: &ArgMatches) -> Result<ControlLine, clap::Error> {
    Ok(ControlLine::Page { verb: LeaseVerb::from_arg_matches(matches)?, json: matches.get_flag("json") })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{ControlVerb, DaemonCommand, ExitCode, Heartbeatd};
    use clap::Parser;

    fn verb(line: &[&str]) -> (LeaseVerb, bool) {
        match parse_control(line).unwrap() {
            ControlLine::Page { verb, json } => (verb, json),
            ControlLine::Ask(line) => panic!("{line:?}"),
        }
    }

    #[test]
    fn the_whole_command_is_consistent() {
        control_command().debug_assert();
        let help = control_command().render_long_help().to_string();
        for verb in ["is-quorate", "wait", "token", "status", "detach"] {
            assert!(help.contains(&format!("\n  {verb} ")), "{verb}");
        }
    }

    #[test]
    fn verbs_of_the_page_are_told_from_those_of_the_socket() {
        let (token, json) = verb(&["heartbeatctl", "token", "--json"]);
        assert!(matches!(token, LeaseVerb::Token(_)) && json);
        let (is_quorate, json) = verb(&["heartbeatctl", "is-quorate"]);
        assert!(matches!(is_quorate, LeaseVerb::IsQuorate(_)) && !json);
        let asked = parse_control(["heartbeatctl", "status", "--json"]).unwrap();
        let ControlLine::Ask(line) = asked else { panic!("status asks heartbeatd") };
        assert!(matches!(line.verb, ControlVerb::Status) && line.json);
        for bad in [&["heartbeatctl", "poke"][..], &["heartbeatctl", "wait"], &["heartbeatctl"]] {
            let code = parse_control(bad).unwrap_err().exit_code();
            assert_eq!(code, ExitCode::Usage as i32, "{bad:?}");
        }
        assert_eq!(parse_control(["heartbeatctl", "--version"]).unwrap_err().exit_code(), 0);
    }

    #[test]
    fn a_wait_takes_a_time() {
        let limit = |text: &str| match parse_control(["heartbeatctl", "wait", "--quorate", "--timeout", text]) {
            Ok(ControlLine::Page { verb: LeaseVerb::Wait(args), .. }) => Ok(args.timeout),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.exit_code()),
        };
        assert_eq!(limit("1min 30s"), Ok(Some(Duration::from_secs(90))));
        assert_eq!(limit("250ms"), Ok(Some(Duration::from_millis(250))));
        assert_eq!(limit("0"), Ok(Some(Duration::ZERO)), "a single look");
        assert_eq!(limit("infinity"), Err(2));
        assert_eq!(limit("soon"), Err(2));
        let (LeaseVerb::Wait(args), _) = verb(&["heartbeatctl", "wait", "--quorate"]) else { panic!("wait") };
        assert_eq!(args.timeout, None);
    }

    #[test]
    fn another_socket_is_not_judged_by_the_services_pin() {
        let places = |socket: Option<&str>, pin: Option<&str>| {
            let args = LeaseArgs { lease_socket: socket.map(PathBuf::from), lease_pin: pin.map(PathBuf::from) };
            let places = args.places();
            (places.socket, places.pin)
        };
        assert_eq!(places(None, None), (SOCKET.into(), Some(PIN.into())));
        assert_eq!(places(Some(SOCKET), None), (SOCKET.into(), Some(PIN.into())));
        assert_eq!(places(Some("/b/lease.sock"), None), ("/b/lease.sock".into(), None));
        assert_eq!(places(Some("/b/s"), Some("/b/p")), ("/b/s".into(), Some("/b/p".into())));
        assert_eq!(places(None, Some("/b/p")), (SOCKET.into(), Some("/b/p".into())));
    }

    #[test]
    fn the_holder_takes_a_page() {
        let line = Heartbeatd::try_parse_from(["heartbeatd", "hold", "--lease-socket", "/s"]).unwrap();
        let DaemonCommand::Hold(args) = line.into_command() else { panic!("hold") };
        assert_eq!(args.page.places().socket, PathBuf::from("/s"));
    }
}

//! `heartbeatd check`: finds every fault before a start or a reload, and starts nothing. What would be refused is an
//! error; what would work less well than it could is a warning.

use crate::cli::{CheckArgs, DEFAULT_CONFIG, ExitCode, Watchdog, check_watchdog, parse_time_span};
use crate::config::{Config, FastPath};
use crate::io::attach::{AttachError, Mode};
use crate::io::failure::Failure;
use crate::io::pins::{self, PinDir};
use crate::io::start::{configured, key_ring};
use crate::io::{clock, hands, interfaces, manager, sys};
use heartbeat_common::maps;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

/// Capabilities that loading and attaching need: number and name.
const CAPABILITIES: [(u32, &str); 3] = [(12, "CAP_NET_ADMIN"), (38, "CAP_PERFMON"), (39, "CAP_BPF")];
const CAP_SYS_ADMIN: u32 = 21;

/// Checks everything that a start would need. Returns the warnings.
///
/// # Errors
/// The first thing that a start would be refused for.
pub fn run(arguments: &CheckArgs) -> Result<Vec<String>, Failure> {
    clock::refuse_shifted().map_err(Failure::host)?;
    let missing = missing_capabilities();
    if nix::unistd::geteuid().is_root()
        && let Some(user) = service_user(&arguments.config.config, || manager::of_unit("User", &arguments.unit))
    {
        hands::become_user(&user).map_err(Failure::host)?;
        println!("checked as user {user}, whom {} runs as", arguments.unit);
    }
    let (config, own) = configured_in_time(arguments)?;
    drop(key_ring(&config)?);
    let watchdog = arguments.watchdog.or_else(|| from_environment().or_else(|| from_manager(&arguments.unit)));
    if let Some(watchdog) = watchdog {
        check_watchdog(watchdog, config.settings.hang_limit).map_err(Failure::config)?;
    }
    let mut warnings = Vec::new();
    kernel_needs(&config, &missing, &mut warnings)?;
    interfaces::refuse_hidden_tags(&config, own).map_err(Failure::config)?;
    interface_needs(&config, own, &mut warnings)?;
    if std::fs::read_to_string("/proc/sys/kernel/unprivileged_bpf_disabled").is_ok_and(|text| text.trim() == "0") {
        warnings.push(
            "kernel.unprivileged_bpf_disabled = 0: any local user may load BPF programs; 1 or 2 is safer".to_owned(),
        );
    }
    Ok(warnings)
}

/// Reads the configuration, and waits for an address as long as was asked for: a service that started before the network
/// would otherwise use up its starts.
fn configured_in_time(arguments: &CheckArgs) -> Result<(Config, u16), Failure> {
    let until = clock::now() + Duration::from_secs(arguments.wait_address);
    loop {
        match configured(&arguments.config.config) {
            Err(failure) if failure.code == ExitCode::Environment && clock::now() < until => {
                std::thread::sleep(Duration::from_millis(250));
            }
            other => return other,
        }
    }
}

fn from_environment() -> Option<Watchdog> {
    let us: u64 = std::env::var("WATCHDOG_USEC").ok()?.parse().ok()?;
    Some(Watchdog::Every(Duration::from_micros(us)))
}

fn from_manager(unit: &str) -> Option<Watchdog> {
    parse_time_span(&manager::of_unit("WatchdogUSec", unit)?).ok()
}

/// Says as whom root has to check: owners and modes that are right for the service are not right for root, and what
/// root may read the service perhaps may not. That holds for the service's own configuration alone.
fn service_user(config: &Path, unit_user: impl FnOnce() -> Option<String>) -> Option<String> {
    if config != Path::new(DEFAULT_CONFIG) { None } else { unit_user().filter(|user| user != "root") }
}

/// What the fast path needs of the kernel and of this process: refused where it was asked for by name, a warning where
/// `auto` would do without. The pin directory is looked at in any case.
fn kernel_needs(config: &Config, missing: &[&str], warnings: &mut Vec<String>) -> Result<(), Failure> {
    // One that is not ours alone is refused whatever was asked for: a start without the kernel looks there as well, for
    // what an earlier one left.
    PinDir::open_left(&config.daemon.pin_dir).map_err(Failure::host)?;
    let wanted: Vec<FastPath> =
        config.interfaces.values().map(|over| over.fast_path).chain([config.daemon.fast_path]).collect();
    if wanted.iter().all(|wanted| *wanted == FastPath::Off) {
        return Ok(());
    }
    let must = wanted.iter().any(|wanted| matches!(wanted, FastPath::Native | FastPath::Generic));
    let mut faults = Vec::new();
    if !missing.is_empty() {
        faults.push(format!("{} missing: XDP programs cannot be loaded or attached", missing.join(" and ")));
    }
    faults.extend(pin_dir_fault(&config.daemon.pin_dir));
    match faults.is_empty() {
        true => Ok(()),
        false if must => Err(Failure::host(anyhow::anyhow!(faults.join("; ")))),
        false => {
            warnings.push(format!("{}: fast_path = \"auto\" will answer in userspace", faults.join("; ")));
            Ok(())
        }
    }
}

fn missing_capabilities() -> Vec<&'static str> {
    let effective = std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|text| {
            let line = text.lines().find_map(|line| line.strip_prefix("CapEff:"))?.trim().to_owned();
            u64::from_str_radix(&line, 16).ok()
        })
        .unwrap_or(0);
    let has = |capability: u32| effective >> capability & 1 == 1;
    if has(CAP_SYS_ADMIN) {
        return Vec::new();
    }
    CAPABILITIES.iter().filter(|(number, _)| !has(*number)).map(|(_, name)| *name).collect()
}

/// Says why nothing can be pinned in the pin directory.
fn pin_dir_fault(root: &Path) -> Option<String> {
    if let Some(closed) = pins::closed(root) {
        return Some(closed);
    }
    let looked = pins::off_bpffs(root).unwrap_or_else(|_| Some(root.to_owned()))?;
    Some(format!("pin_dir {}: {} is not on a bpffs", root.display(), looked.display()))
}

/// What the interfaces of this node have in store: absent ones, foreign programs, kernel threads.
fn interface_needs(config: &Config, own: u16, warnings: &mut Vec<String>) -> Result<(), Failure> {
    let present = interfaces::by_address().map_err(Failure::host)?;
    let addresses: Vec<IpAddr> =
        config.node(own).map_or_else(Vec::new, |node| node.addresses.iter().map(|(_, address)| *address).collect());
    for address in addresses {
        let Some(interface) = present.get(&address) else {
            warnings.push(format!("{address}: no interface has it: its paths are down until one does"));
            continue;
        };
        if config.fast_path(&interface.name) != FastPath::Off
            && let Ok(Some((program, _))) = sys::xdp_program_of(interface.ifindex)
            && !is_ours(&config.daemon.pin_dir, interface.ifindex, program)
        {
            let foreign = AttachError::Foreign { program };
            return Err(Failure::host(anyhow::anyhow!("interface {}: {foreign}", interface.name)));
        }
        if interfaces::threaded_napi(&interface.name) == Some(true) {
            warnings.push(format!(
                "{name}: receives on kernel threads (threaded NAPI), which busy processes delay and a realtime task \
                 starves: `echo 0 > /sys/class/net/{name}/threaded`, or raise them: \
                 `pgrep napi/{name}- | xargs -n1 chrt --fifo --pid 1`",
                name = interface.name
            ));
        }
    }
    Ok(())
}

/// Says whether the XDP program of a device is held by a pin of ours. A pin that may not be opened counts as one.
fn is_ours(pin_dir: &Path, ifindex: u32, program: u32) -> bool {
    let directory = pin_dir.join(format!("v{}", maps::ABI));
    [Mode::Native, Mode::Generic].iter().any(|mode| {
        let pin = directory.join(format!("xdp-{mode}-{ifindex}"));
        match sys::object_get(&pin) {
            Ok(link) => sys::xdp_link_info(link.as_fd()).is_ok_and(|info| info.program == program),
            Err(error) => error.kind() != ErrorKind::NotFound,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_checks_the_services_configuration_as_the_service() {
        let own = Path::new(DEFAULT_CONFIG);
        let of = |user: &str| Some(user.to_owned());
        assert_eq!(service_user(own, || of("heartbeatd")), of("heartbeatd"));
        assert_eq!(service_user(own, || of("root")), None);
        assert_eq!(service_user(own, || None), None);
        assert_eq!(service_user(Path::new("/tmp/other.toml"), || panic!("nobody is asked")), None);
    }
}

//! `heartbeatd check`: finds every fault before a start or a reload, and starts nothing. What would be refused is an
//! error; what would work less well than it could is a warning.

use crate::cli::{CheckArgs, DEFAULT_CONFIG, Watchdog, check_watchdog, parse_time_span};
use crate::config::{Budget, Config, FastPath, fault_at, load};
use crate::io::attach::{AttachError, Mode};
use crate::io::failure::Failure;
use crate::io::pins::{self, PinDir};
use crate::io::start::{key_ring, own_node};
use crate::io::{clock, hands, hooks, interfaces, manager, sys, watchdog_device};
use heartbeat_common::maps;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

/// Capabilities that loading and attaching need: number and name.
const CAPABILITIES: [(u32, &str); 3] = [(12, "CAP_NET_ADMIN"), (38, "CAP_PERFMON"), (39, "CAP_BPF")];
/// What asking for an address takes.
const CAP_NET_RAW: u32 = 13;
const CAP_SYS_ADMIN: u32 = 21;

/// What was found.
#[derive(Debug, Default)]
pub struct Found {
    /// What would work less well than it could.
    pub warnings: Vec<String>,
    /// What a start would be refused for, in the order in which it would look.
    pub faults: Vec<Failure>,
    /// How long things take with the settings; `None` where they could not be read.
    pub budget: Option<Budget>,
}

impl Found {
    /// Keeps the fault of a part that can be judged apart from the others.
    fn take(&mut self, judged: Result<(), Failure>) {
        self.faults.extend(judged.err());
    }
}

/// Checks everything that a start would need. Without a configuration that can be read, or as a user who cannot be, there
/// is nothing more to look at.
#[must_use]
pub fn run(arguments: &CheckArgs) -> Found {
    let mut found = Found::default();
    found.take(clock::refuse_shifted().map_err(Failure::host));
    let effective = effective_capabilities();
    let missing = missing_capabilities(effective);
    if nix::unistd::geteuid().is_root()
        && let Some(user) = service_user(&arguments.config.config, || manager::of_unit("User", &arguments.unit))
    {
        if let Err(error) = hands::become_user(&user) {
            found.take(Err(Failure::host(error)));
            return found;
        }
        println!("checked as user {user}, whom {} runs as", arguments.unit);
    }
    let config = match load(&arguments.config.config) {
        Ok(config) => config,
        Err(error) => {
            found.take(Err(error.into()));
            return found;
        }
    };
    found.budget = Some(Budget::of(&config.settings));
    found.warnings.extend(config.warnings());
    found.take(key_ring(&config).map(drop));
    let watchdog = arguments.watchdog.or_else(|| from_environment().or_else(|| from_manager(&arguments.unit)));
    if let Some(watchdog) = watchdog {
        found.take(check_watchdog(watchdog, config.settings.hang_limit).map_err(Failure::config));
    }
    named_on_host(&config, &arguments.config.config, &mut found);
    kernel_needs(&config, &missing, &mut found);
    if config.daemon.address_conflict_detection && effective >> CAP_NET_RAW & 1 == 0 {
        found.warnings.push(
            "CAP_NET_RAW missing: a start cannot ask whether another machine has this node's addresses, and a clone of \
             it would displace it"
                .to_owned(),
        );
    }
    match own_in_time(&config, arguments.wait_address) {
        Ok(own) => {
            found.take(interfaces::refuse_hidden_tags(&config, own).map_err(Failure::config));
            interface_needs(&config, own, &mut found);
        }
        Err(failure) => found.faults.push(failure),
    }
    if std::fs::read_to_string("/proc/sys/kernel/unprivileged_bpf_disabled").is_ok_and(|text| text.trim() == "0") {
        found.warnings.push(
            "kernel.unprivileged_bpf_disabled = 0: any local user may load BPF programs; 1 or 2 is safer".to_owned(),
        );
    }
    found
}

/// Looks at what the configuration names on this host and is used only later on, perhaps in need: the programs of hooks
/// and the watchdog device. Each is told of by its place in `file`. A start refuses a device that does not suit; it runs
/// without a hook that cannot be run, and a restart must not fail for one either: a node would leave for it.
fn named_on_host(config: &Config, file: &Path, found: &mut Found) {
    let programs = config.daemon.hooks.programs.iter().enumerate();
    found.warnings.extend(programs.filter_map(|(index, program)| {
        let error = hooks::check(program).err()?;
        let why = format!(
            "cannot be run as a hook: a program that root alone can change and heartbeatd's user can run is wanted ({error})"
        );
        Some(fault_at(file, "daemon", "on_event", Some(index), &why).to_string())
    }));
    if let Some(device) = &config.daemon.watchdog_device
        && let Err(error) = watchdog_device::check(device, config.settings.hang_limit)
    {
        let rule = format!("must be a watchdog device that can be disarmed and outlasts hang_limit_s ({error:#})");
        found.take(Err(Failure::config(fault_at(file, "daemon", "watchdog_device", None, &rule))));
    }
}

/// Finds this node in the configuration, and waits for an address as long as was asked for: a service that started
/// before the network would otherwise use up its starts.
fn own_in_time(config: &Config, wait_s: u64) -> Result<u16, Failure> {
    let until = clock::now() + Duration::from_secs(wait_s);
    loop {
        match own_node(config) {
            Err(_) if clock::now() < until => std::thread::sleep(Duration::from_millis(250)),
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
fn kernel_needs(config: &Config, missing: &[&str], found: &mut Found) {
    // One that is not ours alone is refused whatever was asked for: a start without the kernel looks there as well, for
    // what an earlier one left.
    found.take(PinDir::open_left(&config.daemon.pin_dir).map(drop).map_err(Failure::host));
    let wanted: Vec<FastPath> =
        config.interfaces.values().map(|over| over.fast_path).chain([config.daemon.fast_path]).collect();
    if wanted.iter().all(|wanted| *wanted == FastPath::Off) {
        return;
    }
    let must = wanted.iter().any(|wanted| matches!(wanted, FastPath::Native | FastPath::Generic));
    let mut faults = Vec::new();
    if !missing.is_empty() {
        faults.push(format!("{} missing: XDP programs cannot be loaded or attached", missing.join(" and ")));
    }
    faults.extend(pin_dir_fault(&config.daemon.pin_dir));
    for fault in faults {
        if must {
            found.take(Err(Failure::host(anyhow::anyhow!(fault))));
        } else {
            found.warnings.push(format!("{fault}: fast_path = \"auto\" will answer in userspace"));
        }
    }
}

fn effective_capabilities() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap_or_default();
    u64::from_str_radix(line.trim(), 16).unwrap_or(0)
}

fn missing_capabilities(effective: u64) -> Vec<&'static str> {
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
fn interface_needs(config: &Config, own: u16, found: &mut Found) {
    let present = match interfaces::by_address() {
        Ok(present) => present,
        Err(error) => return found.take(Err(Failure::host(error))),
    };
    let addresses: Vec<IpAddr> =
        config.node(own).map_or_else(Vec::new, |node| node.addresses.iter().map(|(_, address)| *address).collect());
    for address in addresses {
        let Some(interface) = present.get(&address) else {
            found.warnings.push(format!("{address}: no interface has it: its paths are down until one does"));
            continue;
        };
        if config.fast_path(&interface.name) != FastPath::Off
            && let Ok(Some((program, _))) = sys::xdp_program_of(interface.ifindex)
            && !is_ours(&config.daemon.pin_dir, interface.ifindex, program)
        {
            let foreign = AttachError::Foreign { program };
            found.take(Err(Failure::host(anyhow::anyhow!("interface {}: {foreign}", interface.name))));
        }
        if interfaces::threaded_napi(&interface.name) == Some(true) {
            found.warnings.push(format!(
                "{name}: receives on kernel threads (threaded NAPI), which busy processes delay and a realtime task \
                 starves: `echo 0 > /sys/class/net/{name}/threaded`, or raise them: \
                 `pgrep napi/{name}- | xargs -n1 chrt --fifo --pid 1`",
                name = interface.name
            ));
        }
    }
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
    fn hooks_and_the_watchdog_device_are_looked_at_before_they_are_needed() {
        const MEMBERS: &str = r#"
[cluster]
name = "c"
id = "00000000000000ff"
[[network]]
name = "n"
subnets = ["10.0.0.0/24"]
[[node]]
name = "a"
id = 1
addresses = ["10.0.0.1"]
[[node]]
name = "b"
id = 2
addresses = ["10.0.0.2"]
[daemon]
"#;
        let file = tempfile::NamedTempFile::new().unwrap();
        let judged = |daemon: &str| -> (Vec<String>, Vec<String>) {
            std::fs::write(file.path(), format!("{MEMBERS}{daemon}")).unwrap();
            let config = load(file.path()).unwrap();
            let mut found = Found::default();
            named_on_host(&config, file.path(), &mut found);
            (found.warnings, found.faults.iter().map(ToString::to_string).collect())
        };
        assert_eq!(judged(""), (vec![], vec![]));
        let (warnings, faults) =
            judged("on_event = [\"/bin/sh\", \"/no/such/hook\"]\nwatchdog_device = \"/dev/null\"\n");
        let shown = file.path().display();
        // A restart goes on without the hook; the device would be refused by it.
        assert_eq!((warnings.len(), faults.len()), (1, 1), "{warnings:?} {faults:?}");
        let hook = format!("{shown}:17:24: daemon.on_event[2]: cannot be run as a hook");
        assert!(warnings[0].starts_with(&hook) && warnings[0].contains("/no: No such file"), "{}", warnings[0]);
        let device = format!("{shown}:18:19: daemon.watchdog_device: must be a watchdog device");
        assert!(faults[0].starts_with(&device) && faults[0].contains("is no watchdog device"), "{}", faults[0]);
        // What is no path of a program at all is a fault of the configuration, as it was.
        std::fs::write(file.path(), format!("{MEMBERS}on_event = [\"hook\"]\n")).unwrap();
        assert!(load(file.path()).is_err());
    }

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

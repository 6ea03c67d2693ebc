//! Turns the text of a configuration into a [`Config`], table by table. What two tables must agree on is `check`'s.

use super::fault::{ConfigErrors, FaultKind, Faults};
use super::schema::{self, CLUSTER_KEYS, DAEMON_KEYS, INTERFACE_KEYS, NETWORK_KEYS, NODE_KEYS, SETTINGS_KEYS};
use super::section::{At, List, Section, join};
use super::settings::read_settings;
use super::subnet::{self, Subnet};
use super::{Cluster, Config, Daemon, FastPath, HookEvent, Hooks, InterfaceOverride, Role};
use super::{SIZE_MAX, check};
use crate::core::event::{EventBody, Level, ViewEvent};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Most networks, subnets of a network, nodes and addresses of a node: far above what the packet path holds.
const NETWORKS_MAX: usize = 64;
const SUBNETS_MAX: usize = 32;
const NODES_MAX: usize = 256;
const ADDRESSES_MAX: usize = 64;

/// Room that `/control.sock` and a NUL leave in a socket address.
const RUN_DIR_MAX: usize = 94;
const PATH_MAX: usize = 1024;
/// Most programs run at an event, and most events named for them.
const HOOKS_MAX: usize = 16;
const HOOK_EVENTS_MAX: usize = 256;

/// A network, and where its parts were written.
pub(super) struct NetworkAt {
    pub(super) name: Option<At<String>>,
    pub(super) id: Option<At<u16>>,
    pub(super) role: Option<Role>,
    pub(super) subnets: List<At<Subnet>>,
    pub(super) vlan: Option<u16>,
}

/// A node, and where its parts were written.
pub(super) struct NodeAt {
    pub(super) key: String,
    pub(super) offset: usize,
    pub(super) name: Option<At<String>>,
    pub(super) id: Option<At<u16>>,
    pub(super) addresses: List<At<IpAddr>>,
    pub(super) weight: Option<At<u64>>,
}

/// Reads a configuration. `file` is only what messages call it.
///
/// # Errors
/// Returns every fault, in the order of the text. Where the text is no TOML, only that is judged: what a half-read
/// text means would be a guess.
pub fn parse(file: &str, bytes: &[u8]) -> Result<Config, ConfigErrors> {
    let text = text_of(file, bytes)?;
    let mut faults = Faults::new(file, text);
    let (root, errors) = DeTable::parse_recoverable(text);
    let mut sound = true;
    for error in errors {
        let offset = error.span().map_or(0, |span| span.start);
        // A key given twice leaves the rest of the text as clear as it was.
        let duplicate = error.message() == "duplicate key";
        sound &= duplicate;
        let rule = if duplicate { "this key or table was given before" } else { error.message() };
        let rule = format!("not TOML: {}", super::fault::shorten(rule));
        faults.add(FaultKind::Syntax, offset, "", rule);
    }
    let config = if sound { document(&mut faults, root.get_ref()) } else { None };
    faults.finish()?;
    Ok(config.expect("a configuration without a fault has every part"))
}

/// Finds the text in the bytes of a file: UTF-8, of bearable size, without byte order mark.
fn text_of<'b>(file: &str, bytes: &'b [u8]) -> Result<&'b str, ConfigErrors> {
    let one = |text: &str, offset: usize, rule: String| {
        let mut faults = Faults::new(file, text);
        faults.add(FaultKind::Syntax, offset, "", rule);
        faults.finish()
    };
    if bytes.len() as u64 > SIZE_MAX {
        one("", 0, format!("the file must not be larger than {SIZE_MAX} bytes"))?;
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text),
        Err(error) => {
            let (good, bad) = bytes.split_at(error.valid_up_to());
            let good = std::str::from_utf8(good).unwrap_or_default();
            let first = bad.first().copied().unwrap_or_default();
            one(good, good.len(), format!("the file must be UTF-8 (got byte 0x{first:02x})"))?;
            Ok(good)
        }
    }
}

fn document(faults: &mut Faults, root: &DeTable<'_>) -> Option<Config> {
    let mut tables = Section::open(faults, String::new(), 0, root, schema::ROOT);
    let [cluster, settings, daemon, interfaces, networks, nodes] = schema::ROOT.map(|key| tables.take(key));
    for (key, required) in [("cluster", cluster), ("network", networks), ("node", nodes)] {
        if required.is_none() {
            tables.missing(key);
        }
    }
    let absent = DeTable::new();
    let absent = Some((0, &absent));
    let cluster = table(faults, "cluster", cluster, None)
        .and_then(|(offset, table)| read_cluster(Section::open(faults, "cluster".into(), offset, table, CLUSTER_KEYS)));
    let settings = table(faults, schema::SETTINGS, settings, absent).and_then(|(offset, table)| {
        read_settings(Section::open(faults, schema::SETTINGS.into(), offset, table, SETTINGS_KEYS))
    });
    let daemon = table(faults, "daemon", daemon, absent)
        .and_then(|(offset, table)| read_daemon(Section::open(faults, "daemon".into(), offset, table, DAEMON_KEYS)));
    let interfaces = read_interfaces(faults, interfaces);
    let networks = read_items(faults, "network", networks, NETWORKS_MAX, NETWORK_KEYS, read_network);
    let nodes = read_items(faults, "node", nodes, NODES_MAX, NODE_KEYS, read_node);
    let named = nodes.complete && nodes.items.iter().all(|node| node.name.is_some() && node.id.is_some());
    let (networks, nodes) = check::members(faults, networks, nodes);
    let mut settings = settings?;
    if named {
        settings.settings.quorum.lower_priority = check::configured(faults, &settings.lower_priority, &nodes);
    }
    Some(Config { cluster: cluster?, settings: settings.settings, daemon: daemon?, interfaces, networks, nodes })
}

type Value<'a> = Option<&'a Spanned<DeValue<'a>>>;

/// Finds the table that `value` must be; `absent` stands for none at all.
fn table<'a>(
    faults: &mut Faults,
    key: &str,
    value: Value<'a>,
    absent: Option<(usize, &'a DeTable<'a>)>,
) -> Option<(usize, &'a DeTable<'a>)> {
    let Some(value) = value else { return absent };
    let at = value.span();
    let DeValue::Table(table) = value.get_ref() else {
        faults.add(FaultKind::Type, at.start, key, format!("must be one table, written [{key}]"));
        return None;
    };
    Some((at.start, table))
}

/// Reads each table of a list of tables.
fn read_items<'a, T>(
    faults: &mut Faults,
    key: &str,
    value: Value<'a>,
    most: usize,
    known: &'static [&'static str],
    read: impl Fn(Section<'_, 'a>, usize) -> T,
) -> List<T> {
    let mut list = List { items: Vec::new(), complete: false };
    let Some(value) = value else { return list };
    let at = value.span().start;
    let DeValue::Array(items) = value.get_ref() else {
        faults.add(FaultKind::Type, at, key, format!("must be a list of tables, each written [[{key}]]"));
        return list;
    };
    list.complete = !items.is_empty() && items.len() <= most;
    if !list.complete {
        let at = items.get(most).map_or(at, |item| item.span().start);
        faults.add(FaultKind::Range, at, key, format!("must be given 1 to {most} times (got {})", items.len()));
    }
    for (index, item) in items.iter().take(most).enumerate() {
        let path = format!("{key}[{}]", index + 1);
        let at = item.span().start;
        if let DeValue::Table(table) = item.get_ref() {
            list.items.push(read(Section::open(faults, path, at, table, known), index));
        } else {
            list.complete = false;
            faults.add(FaultKind::Type, at, path, format!("must be a table, written [[{key}]]"));
        }
    }
    list
}

fn read_cluster(mut section: Section<'_, '_>) -> Option<Cluster> {
    let name = section.required("name", |text| {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if (1..=32).contains(&text.len()) && text.bytes().all(allowed) {
            return Ok(text.to_owned());
        }
        Err("must be 1 to 32 of a-z, 0-9 and -".to_owned())
    });
    let id = section.required("id", |text| {
        let hex = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        match u64::from_str_radix(text, 16) {
            Ok(id) if hex && id != 0 => Ok(id),
            _ => Err("must be 16 hex digits, not all 0".to_owned()),
        }
    });
    let key_file = directory(&mut section, "key_file", "/etc/heartbeatd/cluster.key", PATH_MAX);
    Some(Cluster { name: name?.value, id: id?.value, key_file: key_file?.value })
}

fn read_daemon(mut section: Section<'_, '_>) -> Option<Daemon> {
    let fast_path = fast_path(&mut section);
    let pin_dir = directory(&mut section, "pin_dir", "/sys/fs/bpf/heartbeatd", PATH_MAX);
    let state_dir = directory(&mut section, "state_dir", "/var/lib/heartbeatd", PATH_MAX);
    let run_dir = directory(&mut section, "run_dir", "/run/heartbeatd", RUN_DIR_MAX);
    let lock_default = run_dir.as_ref().map_or(PathBuf::from("/run/heartbeatd"), |run_dir| run_dir.value.clone());
    let lock_dir = directory(&mut section, "lock_dir", lock_default, PATH_MAX);
    let event_log = directory(&mut section, "event_log", "/var/log/heartbeatd/events.jsonl", PATH_MAX);
    let lease_pin = directory(&mut section, "lease_pin", "/sys/fs/bpf/heartbeatd-lease/lease", PATH_MAX);
    if let Some(pin_dir) = &pin_dir {
        for other in [&state_dir, &run_dir, &lock_dir].into_iter().flatten() {
            check::apart(section.faults, pin_dir, other);
        }
        if let Some(lease_pin) = &lease_pin {
            check::readable(section.faults, pin_dir, lease_pin);
        }
    }
    let max_kib = section.integer_or("event_log_max_kib", 64..=1_048_576, "KiB", 10_240);
    let files = section.integer_or("event_log_files", 1..=100, "", 5);
    let priority = section.integer_or("realtime_priority", 0..=99, "", 50);
    let lock_memory = section.boolean_or("lock_memory", true);
    let detection = section.boolean_or("address_conflict_detection", true);
    let group = section.text("socket_group", |text| {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
        if text.len() <= 32 && !text.starts_with('-') && text.bytes().all(allowed) {
            return Ok((!text.is_empty()).then(|| text.to_owned()));
        }
        Err("must be the name of a group, or \"\" for none".to_owned())
    });
    let group = group.unwrap_or_else(|| Some(section.default("socket_group", Some("heartbeatd".to_owned()))));
    let watchdog_device = section
        .text("watchdog_device", |text| if text.is_empty() { Ok(None) } else { absolute(text, PATH_MAX).map(Some) });
    let watchdog_device = watchdog_device.unwrap_or_else(|| Some(section.default("watchdog_device", None)));
    let leave_timeout = section.integer_or("leave_timeout_s", 1..=600, "s", 5);
    let hooks = read_hooks(&mut section);
    Some(Daemon {
        fast_path: fast_path?.unwrap_or(FastPath::Auto),
        pin_dir: pin_dir?.value,
        state_dir: state_dir?.value,
        run_dir: run_dir?.value,
        lock_dir: lock_dir?.value,
        event_log: event_log?.value,
        event_log_max_kib: max_kib?.value,
        event_log_files: files?.value as u32,
        realtime_priority: priority?.value as u8,
        lock_memory: lock_memory?,
        address_conflict_detection: detection?,
        socket_group: group?.value,
        lease_pin: lease_pin?.value,
        leave_timeout: Duration::from_secs(leave_timeout?.value),
        watchdog_device: watchdog_device?.value,
        hooks: hooks?,
    })
}

/// What is run at which events.
fn read_hooks(section: &mut Section<'_, '_>) -> Option<Hooks> {
    let programs = section.list_or_empty("on_event", HOOKS_MAX, |text| absolute(text, PATH_MAX));
    let events = section.list_or_empty("hook_events", HOOK_EVENTS_MAX, |text| {
        let known = events().find(|(id, name, _)| text == *name || text == id.to_string());
        let Some((id, name, _)) = known else { return Err(unknown_event(text)) };
        Ok(HookEvent { id: *id, name })
    });
    let timeout = section.integer_or("hook_timeout_s", 1..=3600, "s", 10);
    check::distinct(section.faults, &programs.items, |program| program.display().to_string());
    check::distinct(section.faults, &events.items, |event| event.name.to_owned());
    if !programs.complete || !events.complete {
        return None;
    }
    Some(Hooks {
        programs: programs.items.into_iter().map(|at| at.value).collect(),
        events: events.items.into_iter().map(|at| at.value).collect(),
        timeout: Duration::from_secs(timeout?.value),
    })
}

/// Every event: number, name and level.
fn events() -> impl Iterator<Item = &'static (u32, &'static str, Level)> {
    EventBody::ALL.iter().chain(ViewEvent::ALL)
}

fn unknown_event(text: &str) -> String {
    let names = events().map(|(_, name, _)| *name);
    let meant = super::fault::nearest(text, names).map(|meant| format!(", did you mean {meant:?}?"));
    format!("must be the name or the id of an event{}", meant.unwrap_or_default())
}

fn read_interfaces(faults: &mut Faults, value: Value<'_>) -> BTreeMap<String, InterfaceOverride> {
    let mut interfaces = BTreeMap::new();
    let Some(value) = value else { return interfaces };
    let DeValue::Table(tables) = value.get_ref() else {
        let rule = "must be tables by name, written [interface.NAME]";
        faults.add(FaultKind::Type, value.span().start, "interface", rule);
        return interfaces;
    };
    for (name, value) in tables {
        let (at, name): (usize, &str) = (name.span().start, name.get_ref());
        let path = join("interface", name);
        let DeValue::Table(table) = value.get_ref() else {
            faults.add(FaultKind::Type, at, path, "must be a table, written [interface.NAME]");
            continue;
        };
        // The kernel's own rule for names of interfaces.
        let bad = |character: char| character.is_whitespace() || character.is_control() || "/:".contains(character);
        if name.is_empty() || name.len() > 15 || name == "." || name == ".." || name.chars().any(bad) {
            let rule = "must be the name of an interface: 1 to 15 bytes, without space, / and :";
            faults.add(FaultKind::Range, at, path.clone(), rule);
        }
        let mut section = Section::open(faults, path, value.span().start, table, INTERFACE_KEYS);
        match fast_path(&mut section) {
            Some(Some(fast_path)) => drop(interfaces.insert(name.to_owned(), InterfaceOverride { fast_path })),
            Some(None) => section.missing("fast_path"),
            None => {}
        }
    }
    interfaces
}

fn read_network(mut section: Section<'_, '_>, index: usize) -> NetworkAt {
    let name = section.required("name", |text| label(text, 32));
    let id = section.integer_or("id", 1..=65_535, "", index as u64 + 1).map(narrow);
    let role = section.text("role", |text| choice(text, &Role::ALL.map(|each| (each.name(), each))));
    let role = role.map_or(Some(Role::Both), |role| role.map(|at| at.value));
    let subnets = section.list("subnets", SUBNETS_MAX, Subnet::parse);
    let vlan = section.integer_or("vlan", 0..=4094, "", 0).map(|at| at.value as u16);
    NetworkAt { name, id, role, subnets, vlan }
}

fn read_node(mut section: Section<'_, '_>, _index: usize) -> NodeAt {
    let name = section.required("name", |text| label(text, 63));
    let id = section.integer("id", 1..=65_535, "").unwrap_or_else(|| {
        section.missing("id");
        None
    });
    let addresses = section.list("addresses", ADDRESSES_MAX, subnet::address);
    let weight = section.integer_or("weight", 0..=1, "", 1);
    NodeAt { key: section.path.clone(), offset: section.offset, name, id: id.map(narrow), addresses, weight }
}

/// An id, whose range was checked.
fn narrow(at: At<u64>) -> At<u16> {
    at.map(|id| id as u16)
}

fn fast_path(section: &mut Section<'_, '_>) -> Option<Option<FastPath>> {
    match section.text("fast_path", |text| choice(text, &FastPath::ALL.map(|each| (each.name(), each)))) {
        None => Some(None),
        Some(given) => Some(Some(given?.value)),
    }
}

/// Reads an absolute path without `..`, of at most `most` bytes.
fn directory(
    section: &mut Section<'_, '_>,
    key: &str,
    default: impl Into<PathBuf>,
    most: usize,
) -> Option<At<PathBuf>> {
    let given = section.text(key, |text| absolute(text, most));
    given.unwrap_or_else(|| Some(section.default(key, default.into())))
}

/// Takes an absolute path without `..`, of at most `most` bytes.
fn absolute(text: &str, most: usize) -> Result<PathBuf, String> {
    let plain =
        text.starts_with('/') && !text.chars().any(char::is_control) && !text.split('/').any(|part| part == "..");
    if plain && text.len() <= most && text.len() > 1 {
        // Collecting the components drops what is doubled or trailing, so that equal paths are equal.
        return Ok(std::path::Path::new(text).components().collect());
    }
    Err(format!("must be an absolute path without \"..\", of at most {most} bytes"))
}

/// Reads a name for people and events.
pub(super) fn label(text: &str, most: usize) -> Result<String, String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    if (1..=most).contains(&text.len()) && text.bytes().all(allowed) {
        return Ok(text.to_owned());
    }
    Err(format!("must be 1 to {most} of letters, digits, _, - and ."))
}

/// Reads one of several words.
pub(super) fn choice<T: Copy>(text: &str, choices: &[(&str, T)]) -> Result<T, String> {
    if let Some((_, value)) = choices.iter().find(|(name, _)| *name == text) {
        return Ok(*value);
    }
    let names: Vec<String> = choices.iter().map(|(name, _)| format!("{name:?}")).collect();
    Err(format!("must be one of {}", names.join(", ")))
}

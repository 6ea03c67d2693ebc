//! Which keys exist, in which table, under which spellings. It holds names only.

/// Path of the table of thresholds and limits.
pub(super) const SETTINGS: &str = "settings";

/// The tables at the root.
pub(super) const ROOT: &[&str; 6] = &["cluster", "settings", "daemon", "interface", "network", "node"];

/// The keys of each table, by the way that its header is written.
pub const TABLES: &[(&str, &[&str])] = &[
    ("[cluster]", CLUSTER_KEYS),
    ("[settings]", SETTINGS_KEYS),
    ("[daemon]", DAEMON_KEYS),
    ("[interface.NAME]", INTERFACE_KEYS),
    ("[[network]]", NETWORK_KEYS),
    ("[[node]]", NODE_KEYS),
];

pub(super) const CLUSTER_KEYS: &[&str] = &["name", "id", "key_file"];
pub(super) const SETTINGS_KEYS: &[&str] = &[
    "profile",
    "same_subnet_delay_ms",
    "same_subnet_threshold",
    "cross_subnet_delay_ms",
    "cross_subnet_threshold",
    "path_lost_ticks",
    "path_unreachable_ticks",
    "path_failed_ticks",
    "stall_limit_ms",
    "hang_limit_s",
    "lateness_budget_ms",
    "cross_subnet_min_hop_limit",
    "quorum_arbitration_time_max_s",
    "stop_time_s",
    "dynamic_quorum",
    "lower_quorum_priority_node",
    "quarantine_threshold",
    "quarantine_duration_s",
    "regroup_tick_ms",
    "regroup_opening_timeout_ms",
    "regroup_stage_timeout_ms",
    "regroup_pruning_timeout_ms",
    "control_limit_ms",
];
pub(super) const DAEMON_KEYS: &[&str] = &[
    "fast_path",
    "pin_dir",
    "state_dir",
    "run_dir",
    "lock_dir",
    "event_log",
    "event_log_max_kib",
    "event_log_files",
    "realtime_priority",
    "lock_memory",
    "address_conflict_detection",
    "socket_group",
    "lease_pin",
    "leave_timeout_s",
    "watchdog_device",
    "on_event",
    "hook_events",
    "hook_timeout_s",
];
pub(super) const INTERFACE_KEYS: &[&str] = &["fast_path"];
pub(super) const NETWORK_KEYS: &[&str] = &["name", "id", "role", "subnets", "vlan"];
pub(super) const NODE_KEYS: &[&str] = &["name", "id", "addresses", "weight"];

/// WSFC spellings of keys.
pub const ALIASES: &[(&str, &str)] = &[
    ("SameSubnetDelay", "same_subnet_delay_ms"),
    ("SameSubnetThreshold", "same_subnet_threshold"),
    ("CrossSubnetDelay", "cross_subnet_delay_ms"),
    ("CrossSubnetThreshold", "cross_subnet_threshold"),
    ("ClusSvcHangTimeout", "hang_limit_s"),
    ("QuorumArbitrationTimeMax", "quorum_arbitration_time_max_s"),
    ("DynamicQuorum", "dynamic_quorum"),
    ("LowerQuorumPriorityNodeID", "lower_quorum_priority_node"),
    ("QuarantineThreshold", "quarantine_threshold"),
    ("QuarantineDuration", "quarantine_duration_s"),
    ("ClusSvcRegroupTickInMilliseconds", "regroup_tick_ms"),
    ("ClusSvcRegroupOpeningTimeout", "regroup_opening_timeout_ms"),
    ("ClusSvcRegroupStageTimeout", "regroup_stage_timeout_ms"),
    ("ClusSvcRegroupPruningTimeout", "regroup_pruning_timeout_ms"),
    ("NodeWeight", "weight"),
];

/// WSFC spellings whose values are seconds, where the key's are milliseconds.
const IN_SECONDS: &[&str] =
    &["ClusSvcRegroupOpeningTimeout", "ClusSvcRegroupStageTimeout", "ClusSvcRegroupPruningTimeout"];

/// Says whether a key was written in a spelling that has seconds where the key has milliseconds.
pub(super) fn in_seconds(written: &str) -> bool {
    IN_SECONDS.contains(&written)
}

/// Returns the key that `name` is a spelling of.
pub(super) fn canonical(name: &str) -> &str {
    ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, key)| key)
}

/// Returns the header of the one table that has `name`, if exactly one has.
pub(super) fn home(name: &str) -> Option<&'static str> {
    let mut homes = TABLES.iter().filter(|(_, keys)| keys.contains(&canonical(name)));
    match (homes.next(), homes.next()) {
        (Some((header, _)), None) => Some(header),
        _ => None,
    }
}

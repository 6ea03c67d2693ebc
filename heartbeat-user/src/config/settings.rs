//! Reads the table of delays, thresholds and limits. Every value that was not given follows from those that were.

use super::section::{At, Section};
use super::{PathThresholds, Profile, Quorum, Regroup, Settings, check, read};
use std::ops::RangeInclusive;
use std::time::Duration;

const DELAY_MS: RangeInclusive<u64> = 1..=10_000;
const THRESHOLD: RangeInclusive<u64> = 2..=120;
const TICKS: RangeInclusive<u64> = 1..=120;
/// Up to the longest detection time that delay and threshold can make.
const STALL_LIMIT_MS: RangeInclusive<u64> = 1..=1_200_000;
/// Ages above this do not fit into a frame for certain.
const HANG_LIMIT_S: RangeInclusive<u64> = 1..=14_400;
const LATENESS_BUDGET_MS: RangeInclusive<u64> = 1..=10_000;
/// What a view's document takes.
const LEASE_MS: RangeInclusive<u64> = 100..=3_600_000;
const STOP_TIME_MS: RangeInclusive<u64> = 0..=3_600_000;
/// WSFC's lease, and the default with its profiles.
const LEASE_WSFC_MS: u64 = 20_000;
/// As many delays are left of the lease after stopping: a proof of quorum that is lost may come twice more.
const DELAYS_TO_ACT: u64 = 3;
const QUARANTINE_THRESHOLD: RangeInclusive<u64> = 0..=100;
/// The longest is WSFC's way to say "until it is cleared".
const QUARANTINE_DURATION_S: RangeInclusive<u64> = 1..=u32::MAX as u64;
const REGROUP_TICK_MS: RangeInclusive<u64> = 10..=1000;
const REGROUP_TIMEOUT_MS: RangeInclusive<u64> = 100..=60_000;
const CONTROL_LIMIT_MS: RangeInclusive<u64> = 100..=3_600_000;
/// Least default of the control limit, ms.
const CONTROL_LIMIT_LEAST: u64 = 1000;

/// A node, as a setting names it.
#[derive(Clone, Debug)]
pub(super) enum NodeRef {
    None,
    Id(u64),
    Name(String),
}

/// The settings, but for the node that they name: the nodes are not known yet.
pub(super) struct SettingsAt {
    pub(super) settings: Settings,
    pub(super) lower_priority: At<NodeRef>,
}

/// What other values follow from. Where a value is at fault there is `None`, and nothing is said of what follows.
struct Ground {
    profile: Profile,
    longest_delay: Option<u64>,
    longest_detection: Option<u64>,
}

pub(super) fn read_settings(mut section: Section<'_, '_>) -> Option<SettingsAt> {
    let profile = section.text("profile", |text| read::choice(text, &Profile::ALL.map(|each| (each.name(), each))));
    let profile = profile.unwrap_or_else(|| Some(section.default("profile", Profile::Lan)));
    // A wrong profile is a fault already: with the first one's values the rest can still be judged on its own.
    let [same, cross] = profile.as_ref().map_or(Profile::Lan, |at| at.value).values();
    let same_delay = section.integer_or("same_subnet_delay_ms", DELAY_MS, "ms", same.0);
    let same_threshold = section.integer_or("same_subnet_threshold", THRESHOLD, "", same.1);
    let cross_delay = section.integer_or("cross_subnet_delay_ms", DELAY_MS, "ms", cross.0);
    let cross_threshold = section.integer_or("cross_subnet_threshold", THRESHOLD, "", cross.1);
    let ladder = ladder(&mut section);
    let delays = profile.as_ref().and(same_delay.as_ref()).zip(cross_delay.as_ref());
    let shortest = delays.map_or(1, |(same, cross)| same.value.min(cross.value));
    let budget = section.integer_or("lateness_budget_ms", LATENESS_BUDGET_MS, "ms", (shortest / 4).max(1));
    if let (Some(budget), Some(_)) = (&budget, delays) {
        check::within_delay(section.faults, budget, shortest);
    }
    let detection = delays.zip(same_threshold.as_ref()).map(|((delay, _), threshold)| delay.value * threshold.value);
    let cross_detection =
        delays.zip(cross_threshold.as_ref()).map(|((_, delay), threshold)| delay.value * threshold.value);
    let ground = Ground {
        profile: profile.as_ref().map_or(Profile::Lan, |at| at.value),
        longest_delay: delays.map(|(same, cross)| same.value.max(cross.value)),
        longest_detection: detection.zip(cross_detection).map(|(same, cross)| same.max(cross)),
    };
    let (stall, hang) = limits(&mut section, detection, delays.map(|(delay, _)| delay.value));
    let hop_limit = section.integer_or("cross_subnet_min_hop_limit", 1..=255, "", 64);
    let quorum = quorum(&mut section, &ground);
    let regroup = regroup(&mut section, &ground);
    let lower_priority = node_ref(&mut section, "lower_quorum_priority_node");

    let Ladder { lost, unreachable, failed } = ladder?;
    let path = |delay: u64, threshold: u64| {
        let threshold = threshold as u32;
        let failed = failed.unwrap_or(threshold.max(unreachable + 1));
        PathThresholds { delay: Duration::from_millis(delay), threshold, lost, unreachable, failed }
    };
    let settings = Settings {
        profile: profile?.value,
        same_subnet: path(same_delay?.value, same_threshold?.value),
        cross_subnet: path(cross_delay?.value, cross_threshold?.value),
        stall_limit: Duration::from_millis(stall?.value),
        hang_limit: Duration::from_secs(hang?.value),
        lateness_budget: Duration::from_millis(budget?.value),
        cross_subnet_min_hop_limit: hop_limit?.value as u8,
        quorum: quorum?,
        regroup: regroup?,
    };
    Some(SettingsAt { settings, lower_priority: lower_priority? })
}

/// The misses at which a path goes down a step; `failed` is `None` where it follows from the threshold.
struct Ladder {
    lost: u32,
    unreachable: u32,
    failed: Option<u32>,
}

fn ladder(section: &mut Section<'_, '_>) -> Option<Ladder> {
    let lost = section.integer_or("path_lost_ticks", TICKS, "", 2);
    let unreachable = section.integer_or("path_unreachable_ticks", TICKS, "", 4);
    let failed = section.integer("path_failed_ticks", TICKS, "");
    check::rising(section.faults, lost.as_ref(), unreachable.as_ref());
    if let Some(Some(failed)) = &failed {
        check::rising(section.faults, unreachable.as_ref(), Some(failed));
    }
    let failed = match failed {
        None => None,
        Some(given) => Some(given?.value as u32),
    };
    Some(Ladder { lost: lost?.value as u32, unreachable: unreachable?.value as u32, failed })
}

/// Reads the limits of a controller's age.
fn limits(
    section: &mut Section<'_, '_>,
    detection: Option<u64>,
    delay: Option<u64>,
) -> (Option<At<u64>>, Option<At<u64>>) {
    let stall = section.integer_or("stall_limit_ms", STALL_LIMIT_MS, "ms", detection.unwrap_or(1));
    let hang = section.integer_or("hang_limit_s", HANG_LIMIT_S, "s", 60);
    let known = detection.or(stall.as_ref().filter(|stall| stall.given).map(|stall| stall.value));
    if let (Some(stall), Some(hang), Some(_)) = (&stall, &hang, known) {
        check::hang_above_stall(section.faults, stall, hang);
    }
    if let (Some(stall), Some(delay)) = (stall.as_ref().filter(|stall| stall.given), delay) {
        check::stall_above_delay(section.faults, stall, delay);
    }
    (stall, hang)
}

fn quorum(section: &mut Section<'_, '_>, ground: &Ground) -> Option<Quorum> {
    let stop = section.seconds_or("stop_time_s", STOP_TIME_MS, 0);
    let stopping = stop.as_ref().map_or(0, |stop| stop.value);
    let least = ground.longest_delay.map_or(0, |delay| delay * DELAYS_TO_ACT);
    let default = match ground.profile {
        Profile::Lan => ground.longest_detection.unwrap_or(0).max(least) + stopping,
        Profile::Wsfc2003 | Profile::Wsfc2008 | Profile::Wsfc2016 => LEASE_WSFC_MS.max(least + stopping),
    };
    let default = default.clamp(*LEASE_MS.start(), *LEASE_MS.end());
    let lease = section.seconds_or("quorum_arbitration_time_max_s", LEASE_MS, default);
    if let (Some(lease), Some(stop), Some(delay)) = (&lease, &stop, ground.longest_delay) {
        check::time_to_act(section.faults, lease, stop, delay, DELAYS_TO_ACT);
    }
    let dynamic = section.switch_or("dynamic_quorum", true);
    let threshold = section.integer_or("quarantine_threshold", QUARANTINE_THRESHOLD, "", 3);
    let duration = section.integer_or("quarantine_duration_s", QUARANTINE_DURATION_S, "s", 7200);
    Some(Quorum {
        lease: Duration::from_millis(lease?.value),
        stop_time: Duration::from_millis(stop?.value),
        dynamic: dynamic?,
        lower_priority: None,
        quarantine_threshold: threshold?.value as u8,
        quarantine_duration: Duration::from_secs(duration?.value),
    })
}

fn regroup(section: &mut Section<'_, '_>, ground: &Ground) -> Option<Regroup> {
    let (tick, timeout) = if ground.profile == Profile::Lan { (50, 500) } else { (300, 5000) };
    let tick = section.integer_or("regroup_tick_ms", REGROUP_TICK_MS, "ms", tick);
    let least = tick.as_ref().map_or(0, |tick| tick.value * 2);
    let mut time = |key, range, default: u64| -> Option<At<u64>> {
        let time = section.integer_or(key, range, "ms", default.max(least));
        if let (Some(time), Some(tick)) = (&time, &tick) {
            check::two_ticks(section.faults, time, tick);
        }
        time
    };
    let opening = time("regroup_opening_timeout_ms", REGROUP_TIMEOUT_MS, timeout);
    let stage = time("regroup_stage_timeout_ms", REGROUP_TIMEOUT_MS, timeout);
    let pruning = time("regroup_pruning_timeout_ms", REGROUP_TIMEOUT_MS, timeout);
    let detection = ground.longest_detection.unwrap_or(0);
    let control = time("control_limit_ms", CONTROL_LIMIT_MS, (detection * 2).max(CONTROL_LIMIT_LEAST));
    Some(Regroup {
        tick: Duration::from_millis(tick?.value),
        opening_timeout: Duration::from_millis(opening?.value),
        stage_timeout: Duration::from_millis(stage?.value),
        pruning_timeout: Duration::from_millis(pruning?.value),
        control_limit: Duration::from_millis(control?.value),
    })
}

/// Reads the name or the id of a node, or `""` or 0 for none, as WSFC has it.
fn node_ref(section: &mut Section<'_, '_>, key: &str) -> Option<At<NodeRef>> {
    if section.is_integer(key) {
        let id = section.integer(key, 0..=65_535, "")??;
        return Some(id.map(|id| if id == 0 { NodeRef::None } else { NodeRef::Id(id) }));
    }
    let named = |text: &str| {
        if text.is_empty() {
            return Ok(NodeRef::None);
        }
        read::label(text, 63).map(NodeRef::Name).map_err(|_| "must be the name or the id of a node".to_owned())
    };
    section.text(key, named).unwrap_or_else(|| Some(section.default(key, NodeRef::None)))
}

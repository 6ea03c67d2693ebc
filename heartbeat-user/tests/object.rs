//! Compares the committed kernel object with heartbeat-common: programs, maps, and the layout of every shared value.
//! It needs neither root nor the toolchain of the object; it does not load anything.
//!
//! A failure after a change in heartbeat-common means: run `cargo xtask build-ebpf`.

#[path = "object/btf.rs"]
mod btf;

use btf::{Btf, Map, Member};
use heartbeat_common::counter::Counter;
use heartbeat_common::lease;
use heartbeat_common::maps::{self, Hint, Histogram, Own, Route, RouteKey};
use heartbeat_common::path::{FenceKeys, PathConf, Slot};
use heartbeat_common::siphash::{Key, Midstate};
use heartbeat_common::tick::{Cached, Departure, Tick};
use object::{Object, ObjectSection, ObjectSymbol, SymbolKind};
use std::collections::BTreeMap;

const OBJECT: &[u8] = include_bytes!("../bpf/heartbeat.bpfel.o");

const HASH: u32 = 1;
const ARRAY: u32 = 2;
const PER_CPU_ARRAY: u32 = 6;
const MMAPABLE: u32 = 1 << 10;

fn file() -> object::File<'static> {
    object::File::parse(OBJECT).unwrap()
}

fn types() -> Btf {
    Btf::parse(file().section_by_name(".BTF").unwrap().data().unwrap())
}

/// The programs, as (section, name).
fn programs() -> Vec<(String, String)> {
    let file = file();
    let mut programs = Vec::new();
    for symbol in file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text) {
        let section = file.section_by_index(symbol.section_index().unwrap()).unwrap();
        if section.name().unwrap() != ".text" {
            programs.push((section.name().unwrap().to_owned(), symbol.name().unwrap().to_owned()));
        }
    }
    programs.sort();
    programs
}

#[test]
fn it_is_for_little_endian_bpf_and_has_its_licence() {
    let file = file();
    assert_eq!((file.architecture(), file.is_little_endian()), (object::Architecture::Bpf, true));
    assert_eq!(file.section_by_name("license").unwrap().data().unwrap(), b"Dual MIT/GPL\0");
}

#[test]
fn it_has_the_programs() {
    let expected = [("classifier", maps::EGRESS_PROGRAM), ("xdp.frags", maps::XDP_PROGRAM)];
    assert_eq!(programs(), expected.map(|(section, name)| (section.to_owned(), name.to_owned())));
}

#[test]
fn it_has_line_information_and_no_other_debug_information() {
    let sections: Vec<String> = file().sections().map(|section| section.name().unwrap().to_owned()).collect();
    assert!(sections.iter().any(|name| name == ".BTF.ext"), "{sections:?}");
    assert!(!sections.iter().any(|name| name.contains("debug")), "{sections:?}");
    // The legacy maps of aya-log, which other loaders refuse.
    assert!(!sections.iter().any(|name| name == "maps"), "built with the feature `log`: {sections:?}");
}

#[test]
fn it_names_no_place_of_the_machine_that_built_it() {
    let text = String::from_utf8_lossy(OBJECT);
    assert!(text.contains("/heartbeat/heartbeat-ebpf/src/"));
    for place in ["/home/", "/root/", "/tmp/", "registry/src"] {
        assert!(!text.contains(place), "{place}");
    }
}

#[test]
fn its_maps_are_those_of_heartbeat_common() {
    fn map<K, V>(kind: u32, entries: u32, flags: u32) -> Map {
        Map { kind, key: size_of::<K>() as u64, value: size_of::<V>() as u64, entries, flags }
    }
    let counters = u32::try_from(Counter::ALL.len()).unwrap();
    let expected = BTreeMap::from([
        (maps::ROUTES.to_owned(), map::<RouteKey, Route>(HASH, maps::ROUTES_MAX, 0)),
        (maps::HINTS.to_owned(), map::<u32, Hint>(ARRAY, maps::HINTS_MAX, 0)),
        (maps::CONFS.to_owned(), map::<u32, PathConf>(ARRAY, maps::CONFS_MAX, 0)),
        (maps::TICKS.to_owned(), map::<u32, Tick<u64>>(ARRAY, maps::PATHS_MAX, MMAPABLE)),
        (maps::HISTOGRAMS.to_owned(), map::<u32, Histogram>(ARRAY, maps::PATHS_MAX, MMAPABLE)),
        (maps::OWN.to_owned(), map::<u32, Own>(ARRAY, 1, MMAPABLE)),
        (maps::COUNTERS.to_owned(), map::<u32, u64>(PER_CPU_ARRAY, counters, 0)),
        (maps::LEASE.to_owned(), map::<u32, [u64; lease::WORDS]>(ARRAY, 1, MMAPABLE)),
    ]);
    assert_eq!(types().maps(), expected);
    let mut all = maps::ALL.to_vec();
    all.sort_unstable();
    assert_eq!(expected.keys().map(String::as_str).collect::<Vec<_>>(), all);
}

/// Compares one structure, member by member. A member that is not named here does not compile.
macro_rules! same_layout {
    ($type:ty as $pattern:ident, $name:literal, { $($member:ident),* $(,)? }) => {{
        // SAFETY: every type compared here is `repr(C)` and made of integers, which may all be zero.
        let $pattern { $($member),* } = unsafe { std::mem::zeroed::<$type>() };
        let expected = vec![$(Member {
            name: stringify!($member).to_owned(),
            offset: std::mem::offset_of!($type, $member) as u64,
            size: size_of_val(&$member) as u64,
        }),*];
        assert_eq!(types().structure($name), (size_of::<$type>() as u64, expected), $name);
    }};
}

#[test]
fn a_route_lies_as_in_heartbeat_common() {
    same_layout!(RouteKey as RouteKey, "RouteKey", { source, destination, ifindex, zero });
    same_layout!(Route as Route, "Route", { path, conf });
    same_layout!(Hint as Hint, "Hint", { after_conf });
}

#[test]
fn a_path_configuration_lies_as_in_heartbeat_common() {
    same_layout!(PathConf as PathConf, "PathConf", {
        key, cluster, theirs_ids, mine_ids, standing, answer_within_ns, slots, min_hop_limit, vlan, flags, path,
        grant_mark, vote_slot, zero, fences,
    });
    same_layout!(FenceKeys as FenceKeys, "FenceKeys", { theirs, mine });
    same_layout!(Slot as Slot, "Slot", { theirs, mine, standing_key, own_digest, own_standing_key, echo_sum });
    same_layout!(Key as Key, "Key", { k });
    same_layout!(Midstate as Midstate, "Midstate", { v });
}

#[test]
fn a_tick_lies_as_in_heartbeat_common() {
    same_layout!(Tick<u64> as Tick, "Tick_3C_u64_3E_", {
        lock, heard_ns, peer_incarnation, probe_ns, probe_top, probe_bits, echo_ns, echo_top, echo_bits,
        round_trip_ns, answered_ns, returned_ns, peer_stamp, peer_dynamic, peer_dynamic_ns, stale_newest,
        stale_answered_ns, handshake_incarnation, handshake_sequence, probes, answers, echoes, late_echoes,
        departures, standing, standing_digest, standing_mark, theirs, mine, departed, older_heard_ns,
        fence_answered_ns, fence_acked, fence_acked_by, fence_acked_flags, fence_acked_ns,
    });
    same_layout!(Cached<u64> as Cached, "Cached_3C_u64_3E_", { prober, responder, base, lanes });
    same_layout!(Departure<u64> as Departure, "Departure_3C_u64_3E_", { sequence, ns });
}

#[test]
fn a_histogram_and_the_own_entry_lie_as_in_heartbeat_common() {
    same_layout!(Histogram as Histogram, "Histogram", { buckets });
    same_layout!(Own as Own, "Own", { abi, progress_ns, flags, incarnation, generation, boot, state_id, plan });
}

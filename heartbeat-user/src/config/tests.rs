//! Tests of the configuration: what is taken, what follows from it, and the exact words for what is not.

use super::*;
use std::net::IpAddr;

mod bad;
mod files;
mod quorum;

const EXAMPLE: &str = include_str!("../../../packaging/heartbeatd.toml");

/// A small configuration without a fault; the tests change single lines of it.
const GOOD: &str = r#"[cluster]
name = "demo"
id = "6f0c5d9e2a417b83"
[settings]
profile = "lan"
[[network]]
name = "net1"
subnets = ["10.1.0.0/24", "fd00:1::/64"]
[[node]]
name = "a"
id = 1
addresses = ["10.1.0.1"]
[[node]]
name = "b"
id = 2
addresses = ["10.1.0.2"]
"#;

fn good(text: &str) -> Config {
    parse("t.toml", text.as_bytes()).unwrap_or_else(|errors| panic!("{errors}"))
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn settings(lines: &str) -> Settings {
    good(&GOOD.replace("profile = \"lan\"", lines)).settings
}

/// Takes the "#" away from every line that shows a default.
fn with_every_default_given() -> String {
    let shown = |line: &str| line.strip_prefix('#').is_some_and(|rest| !rest.is_empty() && !rest.starts_with(' '));
    let lines: Vec<&str> = EXAMPLE.lines().map(|line| if shown(line) { &line[1..] } else { line }).collect();
    lines.join("\n")
}

#[test]
fn the_example_is_good_and_what_it_shows_are_the_defaults() {
    let config = good(EXAMPLE);
    let mut given = good(&with_every_default_given());
    let eth0 = given.interfaces.remove("eth0");
    assert_eq!(eth0, Some(InterfaceOverride { fast_path: FastPath::Off }));
    assert_eq!(given, config);
    assert_eq!(paths_for(&config, 1).len(), 6);
}

#[test]
fn the_example_has_every_key() {
    let text = with_every_default_given();
    let root: toml::Table = text.parse().unwrap();
    let keys_of = |value: &toml::Value| -> Vec<String> { value.as_table().unwrap().keys().cloned().collect() };
    let tables = [
        keys_of(&root["cluster"]),
        keys_of(&root["settings"]),
        keys_of(&root["daemon"]),
        keys_of(&root["interface"]["eth0"]),
        keys_of(&root["network"][0]),
        keys_of(&root["node"][0]),
    ];
    assert_eq!(tables.len(), TABLES.len());
    for (mut shown, (header, known)) in tables.into_iter().zip(TABLES) {
        let mut known: Vec<String> = known.iter().map(|key| (*key).to_owned()).collect();
        known.sort();
        shown.sort();
        assert_eq!(shown, known, "{header}");
    }
    for (alias, _) in ALIASES {
        assert!(EXAMPLE.contains(alias), "{alias}");
    }
    for profile in Profile::ALL {
        assert!(EXAMPLE.contains(&format!("\"{}\"", profile.name())), "{profile:?}");
    }
}

#[test]
fn profiles_are_those_of_the_documents() {
    let ms = Duration::from_millis;
    let path =
        |delay, threshold, failed| PathThresholds { delay: ms(delay), threshold, lost: 2, unreachable: 4, failed };
    let expected = [
        ("lan", path(100, 5, 5), path(100, 5, 5), 500, 25),
        ("wsfc-2003", path(1200, 6, 6), path(1200, 6, 6), 7200, 300),
        ("wsfc-2008", path(1000, 5, 5), path(1000, 5, 5), 5000, 250),
        ("wsfc-2016", path(1000, 10, 10), path(1000, 20, 20), 10_000, 250),
    ];
    for (name, same, cross, stall, budget) in expected {
        let settings = settings(&format!("profile = \"{name}\""));
        assert_eq!((settings.same_subnet, settings.cross_subnet), (same, cross), "{name}");
        assert_eq!((settings.stall_limit, settings.hang_limit), (ms(stall), ms(60_000)), "{name}");
        assert_eq!(settings.lateness_budget, ms(budget), "{name}");
    }
    assert_eq!(good(&GOOD.replace("[settings]\nprofile = \"lan\"\n", "")).settings, settings("profile = \"lan\""));
}

#[test]
fn numbers_override_the_profile() {
    let settings = settings(
        "profile = \"wsfc-2016\"\nSameSubnetDelay = 1\nSameSubnetThreshold = 2\ncross_subnet_threshold = 120\n\
         ClusSvcHangTimeout = 9\nlateness_budget_ms = 1",
    );
    assert_eq!(settings.detection_time(true), Duration::from_millis(2));
    assert_eq!(settings.detection_time(false), Duration::from_secs(120));
    assert_eq!((settings.same_subnet.failed, settings.cross_subnet.failed), (5, 120));
    assert_eq!((settings.stall_limit, settings.hang_limit), (Duration::from_millis(2), Duration::from_secs(9)));
}

#[test]
fn the_longest_detection_time_is_taken() {
    let settings = settings("same_subnet_delay_ms = 10_000\nsame_subnet_threshold = 120\nhang_limit_s = 0x3840");
    assert_eq!(settings.stall_limit, Duration::from_secs(1200));
    assert_eq!(settings.hang_limit, Duration::from_secs(14_400));
}

#[test]
fn daemon_keys_are_taken() {
    let daemon = "[daemon]\nfast_path = \"generic\"\npin_dir = \"/sys/fs/bpf//x/\"\nrun_dir = \"/tmp/r\"\n\
                  realtime_priority = 0\nlock_memory = false\naddress_conflict_detection = false\nsocket_group = \"\"\n\
                  [interface.\"eth0.10\"]\nfast_path = \"off\"\n";
    let config = good(&format!("{GOOD}{daemon}"));
    let lock_dir = config.daemon.lock_dir.clone();
    assert_eq!((lock_dir, config.daemon.pin_dir.to_str()), ("/tmp/r".into(), Some("/sys/fs/bpf/x")));
    assert_eq!((config.daemon.socket_group.clone(), config.daemon.lock_memory), (None, false));
    assert!(!config.daemon.address_conflict_detection && good(GOOD).daemon.address_conflict_detection);
    assert_eq!((config.fast_path("eth0.10"), config.fast_path("eth0")), (FastPath::Off, FastPath::Generic));
    assert_eq!(good(GOOD).daemon.lock_dir, PathBuf::from("/run/heartbeatd"));
}

#[test]
fn line_ends_and_byte_order_mark_change_nothing() {
    let config = good(GOOD);
    assert_eq!(good(&GOOD.replace('\n', "\r\n")), config);
    assert_eq!(good(&format!("\u{feff}{GOOD}")), config);
    assert_eq!(good(GOOD.trim_end()), config);
}

/// Three nodes: two subnets of one routed network, IPv6 beside IPv4, an unused network.
const ROUTED: &str = r#"[cluster]
name = "demo"
id = "0000000000000001"
[settings]
cross_subnet_min_hop_limit = 200
[[network]]
name = "wide"
id = 7
role = "internal"
subnets = ["10.1.0.0/24", "10.2.0.0/24", "fd00:1::/64"]
vlan = 10
[[network]]
name = "clients"
role = "client"
subnets = ["192.168.0.0/16"]
[[network]]
name = "backup"
role = "none"
subnets = ["172.16.0.0/16"]
[[node]]
name = "c"
id = 30
addresses = ["10.2.0.3"]
[[node]]
name = "a"
id = 10
addresses = ["172.16.0.1", "fd00:1::1", "10.1.0.1", "192.168.0.1"]
[[node]]
name = "b"
id = 20
addresses = ["10.1.0.2", "fd00:1::2", "172.16.0.2", "10.1.0.22", "192.168.0.2"]
"#;

#[test]
fn paths_join_every_pair_of_one_family_and_network() {
    let config = good(ROUTED);
    let shown: Vec<String> = paths_for(&config, 10)
        .iter()
        .map(|path| {
            let PathPlan { network, local, peer_node, peer, same_subnet, vlan, .. } = path;
            let min_hop_limit = config.settings.min_hop_limit(*same_subnet);
            format!("{peer_node} {network} {local} {peer} {same_subnet} {vlan} {min_hop_limit}")
        })
        .collect();
    let expected = [
        "20 2 192.168.0.1 192.168.0.2 true 0 255",
        "20 7 10.1.0.1 10.1.0.2 true 10 255",
        "20 7 10.1.0.1 10.1.0.22 true 10 255",
        "20 7 fd00:1::1 fd00:1::2 true 10 255",
        "30 7 10.1.0.1 10.2.0.3 false 10 200",
    ];
    assert_eq!(shown, expected);
    assert_eq!(paths_for(&config, 10)[0].role, Role::Client);
    assert!(paths_for(&config, 11).is_empty());
    // Each path is seen from its other end as well.
    for own in [10, 20, 30] {
        for path in paths_for(&config, own) {
            let back = paths_for(&config, path.peer_node);
            assert!(back.iter().any(|back| {
                (back.peer_node, back.network, back.local, back.peer) == (own, path.network, path.peer, path.local)
                    && back.same_subnet == path.same_subnet
            }));
        }
    }
}

#[test]
fn self_is_found_by_any_address() {
    let config = good(ROUTED);
    assert_eq!(find_self(&config, &[ip("127.0.0.1"), ip("172.16.0.1")]), Ok(10));
    assert_eq!(find_self(&config, &[ip("10.1.0.2"), ip("10.1.0.22")]), Ok(20));
    let none = find_self(&config, &[ip("127.0.0.1"), ip("10.9.0.1"), ip("10.9.0.1")]).unwrap_err();
    assert_eq!(
        none.to_string(),
        "this host is no node of the configuration: it has 10.9.0.1, 127.0.0.1, and the nodes have \
         a (192.168.0.1, 172.16.0.1, 10.1.0.1, fd00:1::1), \
         b (192.168.0.2, 172.16.0.2, 10.1.0.2, 10.1.0.22, fd00:1::2), c (10.2.0.3)"
    );
    let bare = find_self(&config, &[]).unwrap_err().to_string();
    assert!(bare.starts_with("this host is no node of the configuration: it has no address, and the nodes have a ("));
    let both = find_self(&config, &[ip("10.1.0.1"), ip("10.2.0.3"), ip("192.168.0.1")]).unwrap_err();
    assert_eq!(
        both.to_string(),
        "this host has addresses of more than one node: a (192.168.0.1, 10.1.0.1), c (10.2.0.3)"
    );
}

#[test]
fn the_settings_hash_follows_what_must_agree() {
    let hash = |text: &str| settings_hash(&good(text));
    let base = hash(ROUTED);
    // Pinned: nodes of different builds compare it.
    assert_eq!(base, 5_096_845_374_930_880_264);
    let reordered = ROUTED.replace("\"10.1.0.0/24\", \"10.2.0.0/24\"", "\"10.2.0.0/24\", \"10.1.0.0/24\"");
    let spelt = ROUTED.replace("[settings]\n", "[settings]\nprofile = \"lan\"\nSameSubnetDelay = 100\n");
    let local =
        format!("{ROUTED}[daemon]\nfast_path = \"off\"\nrun_dir = \"/r\"\n[interface.x]\nfast_path = \"off\"\n");
    let key = ROUTED.replace("name = \"demo\"", "name = \"demo\"\nkey_file = \"/k\"");
    // They begin a cluster; then the view says what holds, and nodes are not told from each other by them.
    let seeds = ROUTED.replace(
        "[settings]\n",
        "[settings]\nQuorumArbitrationTimeMax = 9\nstop_time_s = 1\ndynamic_quorum = false\n\
         lower_quorum_priority_node = \"a\"\n",
    );
    let hooks = format!("{ROUTED}[daemon]\non_event = [\"/h\"]\nhook_timeout_s = 1\nlease_pin = \"/l\"\n");
    for same in [reordered, spelt, local, key, seeds, hooks, ROUTED.replace('\n', "\r\n")] {
        assert_eq!(hash(&same), base, "{same}");
    }
    let changes = [
        ("\"demo\"", "\"demo2\""),
        ("\"0000000000000001\"", "\"0000000000000002\""),
        ("hop_limit = 200", "hop_limit = 201"),
        ("[settings]\n", "[settings]\nsame_subnet_delay_ms = 99\n"),
        ("[settings]\n", "[settings]\nsame_subnet_threshold = 6\npath_failed_ticks = 5\nstall_limit_ms = 500\n"),
        ("[settings]\n", "[settings]\ncross_subnet_delay_ms = 200\n"),
        ("[settings]\n", "[settings]\ncross_subnet_threshold = 7\n"),
        ("[settings]\n", "[settings]\npath_lost_ticks = 1\n"),
        ("[settings]\n", "[settings]\npath_unreachable_ticks = 3\n"),
        ("[settings]\n", "[settings]\npath_failed_ticks = 6\n"),
        ("[settings]\n", "[settings]\nstall_limit_ms = 501\n"),
        ("[settings]\n", "[settings]\nhang_limit_s = 61\n"),
        ("[settings]\n", "[settings]\nlateness_budget_ms = 26\n"),
        ("[settings]\n", "[settings]\nquarantine_threshold = 4\n"),
        ("[settings]\n", "[settings]\nquarantine_duration_s = 7201\n"),
        ("[settings]\n", "[settings]\nregroup_tick_ms = 51\n"),
        ("[settings]\n", "[settings]\nregroup_opening_timeout_ms = 501\n"),
        ("[settings]\n", "[settings]\nregroup_stage_timeout_ms = 501\n"),
        ("[settings]\n", "[settings]\nregroup_pruning_timeout_ms = 501\n"),
        ("[settings]\n", "[settings]\ncontrol_limit_ms = 1001\n"),
        ("name = \"c\"", "name = \"c\"\nweight = 0"),
        ("id = 7", "id = 8"),
        ("\"wide\"", "\"wider\""),
        ("role = \"none\"", "role = \"both\""),
        ("192.168.0.0/16", "192.168.0.0/17"),
        ("vlan = 10", "vlan = 11"),
        ("id = 30", "id = 31"),
        ("name = \"c\"", "name = \"d\""),
        ("10.2.0.3", "10.2.0.4"),
        (", \"10.1.0.22\"", ""),
    ];
    let mut seen = vec![base];
    for (from, to) in changes {
        let changed = ROUTED.replace(from, to);
        assert_ne!(changed, ROUTED, "{from}");
        let hash = hash(&changed);
        assert!(!seen.contains(&hash), "{from} -> {to}");
        seen.push(hash);
    }
}

#[test]
fn a_misspelt_key_is_told_from_a_strange_one() {
    let known = ["same_subnet_delay_ms", "vlan", "name"];
    let nearest = |word| fault::nearest(word, known.into_iter());
    assert_eq!(nearest("same_subnet_delay"), Some("same_subnet_delay_ms"));
    assert_eq!((nearest("valn"), nearest("Name"), nearest("naem")), (Some("vlan"), Some("name"), Some("name")));
    assert_eq!((nearest("colour"), nearest("")), (None, None));
}

mod arbitrary {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let errors = parse("t.toml", &bytes).unwrap_err();
            prop_assert!(!errors.0.is_empty());
        }

        /// A good file with a piece cut out and another put in.
        #[test]
        fn mutations_never_panic(at in 0..EXAMPLE.len(), cut in 0..40_usize, put in "[\\[\\]=\"#\\\\\n.a-f0-9é\u{0}-]{0,12}") {
            let mut bytes = EXAMPLE.as_bytes().to_vec();
            let end = (at + cut).min(bytes.len());
            bytes.splice(at..end, put.bytes());
            if let Err(errors) = parse("t.toml", &bytes) {
                let lines = bytes.iter().filter(|byte| **byte == b'\n').count() + 1;
                for fault in &errors.0 {
                    prop_assert!((1..=lines).contains(&fault.line) && fault.column >= 1);
                    prop_assert!(!fault.to_string().contains('\n'), "{fault}");
                }
            }
        }

        #[test]
        fn every_value_of_every_key_is_taken_or_refused(
            key in proptest::sample::select(TABLES.iter().flat_map(|(_, keys)| keys.iter().copied()).collect::<Vec<_>>()),
            value in proptest::sample::select(vec![
                "0", "-1", "1", "2", "121", "99999999999999999999999999", "-9223372036854775808", "1.5", "nan", "true",
                "\"\"", "\"x\"", "\"a\\nb\"", "[]", "[1]", "[\"10.1.0.0/24\"]", "{}", "{ a = 1 }", "1979-05-27",
                "0xffffffffffffffff",
            ]),
        ) {
            let replaced: Vec<String> = with_every_default_given()
                .lines()
                .map(|line| if line.starts_with(&format!("{key} = ")) { format!("{key} = {value}") } else { line.into() })
                .collect();
            let _ = parse("t.toml", replaced.join("\n").as_bytes());
        }
    }
}

//! Every rule broken once, with the exact message; fault 86 of the catalogue among them.

use super::*;

/// Returns the messages for a text, without the file's name.
fn messages(bytes: &[u8]) -> Vec<String> {
    let errors = match parse("t.toml", bytes) {
        Ok(config) => panic!("taken: {config:?}"),
        Err(errors) => errors,
    };
    errors.0.iter().map(|fault| fault.to_string().strip_prefix("t.toml:").unwrap().to_owned()).collect()
}

/// Replaces `from` in the good configuration and compares the messages.
#[track_caller]
pub(super) fn case(from: &str, to: &str, expected: &[&str]) {
    let text = GOOD.replacen(from, to, 1);
    assert_ne!(text, GOOD, "{from:?} is not there");
    assert_eq!(messages(text.as_bytes()), expected, "{from:?} -> {to:?}");
}

#[track_caller]
pub(super) fn setting(lines: &str, expected: &[&str]) {
    case("profile = \"lan\"", lines, expected);
}

#[track_caller]
pub(super) fn appended(lines: &str, expected: &[&str]) {
    assert_eq!(messages(format!("{GOOD}{lines}").as_bytes()), expected, "{lines:?}");
}

#[test]
fn fault_86_unknown_keys() {
    setting(
        "same_subnet_treshold = 5",
        &["5:1: settings.same_subnet_treshold: unknown key, did you mean \"same_subnet_threshold\"?"],
    );
    // Its own spelling is as far as the WSFC one is near, but for the case of the letters.
    for (written, meant) in [
        ("same_subnet_delay", "same_subnet_delay_ms"),
        ("cross_subnet_delay", "cross_subnet_delay_ms"),
        ("Same_Subnet_Threshold", "same_subnet_threshold"),
        ("samesubnetthreshold", "same_subnet_threshold"),
        ("SameSubnetTreshold", "SameSubnetThreshold"),
        ("clus_svc_hang_timeout", "hang_limit_s"),
    ] {
        let fault = format!("5:1: settings.{written}: unknown key, did you mean {meant:?}?");
        setting(&format!("{written} = 5"), &[fault.as_str()]);
    }
    setting("SameSubnetDelai = 5", &["5:1: settings.SameSubnetDelai: unknown key, did you mean \"SameSubnetDelay\"?"]);
    setting(
        "fast_path = \"off\"\npriority = 1",
        &["5:1: settings.fast_path: unknown key", "6:1: settings.priority: unknown key"],
    );
    setting("realtime_priority = 1", &["5:1: settings.realtime_priority: unknown key here, it belongs in [daemon]"]);
    case("name = \"a\"", "name = \"a\"\nwieght = 1", &["11:1: node[1].wieght: unknown key, did you mean \"weight\"?"]);
    setting("weight = 1", &["5:1: settings.weight: unknown key here, it belongs in [[node]]"]);
    let meant = "unknown key, did you mean \"QuorumArbitrationTimeMax\"?";
    setting("QuorumArbitrationTimeMin = 7", &[&format!("5:1: settings.QuorumArbitrationTimeMin: {meant}")]);
    case("name = \"a\"", "name = \"a\"\n  \"a b\\n\" = 1", &["11:3: node[1].\"a b\\n\": unknown key"]);
    appended("[clutser]\nx = 1", &["17:2: clutser: unknown key, did you mean \"cluster\"?"]);
    appended(
        "[interface.eth0]\nfast_pth = \"off\"\n",
        &[
            "17:1: interface.eth0.fast_path: is required",
            "18:1: interface.eth0.fast_pth: unknown key, did you mean \"fast_path\"?",
        ],
    );
}

#[test]
fn fault_86_numbers() {
    let delay = |got: &str, rule: &str| {
        setting(
            &format!("same_subnet_delay_ms = {got}"),
            &[&format!("5:24: settings.same_subnet_delay_ms: {rule} (got {got})")],
        );
    };
    for got in ["0", "-1", "10001", "99999999999999999999999999999999999999999", "0xffffffffffffffff", "-0x0"] {
        if got != "-0x0" {
            delay(got, "must be 1 to 10000 ms");
        }
    }
    for got in ["1.0", "nan", "\"100\"", "true", "[100]", "{ ms = 100 }", "1979-05-27"] {
        delay(got, "must be an integer, 1 to 10000 ms");
    }
    setting("same_subnet_threshold = 1", &["5:25: settings.same_subnet_threshold: must be 2 to 120 (got 1)"]);
    setting("cross_subnet_threshold = 121", &["5:26: settings.cross_subnet_threshold: must be 2 to 120 (got 121)"]);
    setting(
        "cross_subnet_min_hop_limit = 256",
        &["5:30: settings.cross_subnet_min_hop_limit: must be 1 to 255 (got 256)"],
    );
    case("id = 1", "id = 0", &["11:6: node[1].id: must be 1 to 65535 (got 0)"]);
    case("name = \"net1\"", "name = \"net1\"\nvlan = 4095", &["8:8: network[1].vlan: must be 0 to 4094 (got 4095)"]);
    appended("[daemon]\nrealtime_priority = 100", &["18:21: daemon.realtime_priority: must be 0 to 99 (got 100)"]);
    appended("[daemon]\nlock_memory = 1", &["18:15: daemon.lock_memory: must be true or false (got 1)"]);
}

#[test]
fn fault_86_duplicates() {
    case("id = 2", "id = 1", &["15:6: node[2].id: must be unique (got 1, also node[1].id in line 11)"]);
    case("\"b\"", "\"A\"", &["14:8: node[2].name: must be unique (got \"A\", also node[1].name in line 10)"]);
    case(
        "10.1.0.2",
        "10.1.0.1",
        &["16:14: node[2].addresses[1]: must be unique (got 10.1.0.1, also node[1].addresses[1] in line 12)"],
    );
    case("id = 1", "id = 1\nid = 3", &["12:1: not TOML: this key or table was given before"]);
    let again =
        ["17:2: not TOML: this key or table was given before", "18:1: not TOML: this key or table was given before"];
    appended("[cluster]\nname = 1", &again);
    setting(
        "SameSubnetDelay = 9\nsame_subnet_delay_ms = 9",
        &["6:1: settings.same_subnet_delay_ms: is given twice, in two spellings"],
    );
    case(
        "[[node]]",
        "[[network]]\nname = \"NET1\"\nid = 1\nsubnets = [\"10.2.0.0/24\"]\n[[node]]",
        &[
            "10:8: network[2].name: must be unique (got \"NET1\", also network[1].name in line 7)",
            "11:6: network[2].id: must be unique (got 1, also network[1].id in line 6)",
        ],
    );
}

#[test]
fn fault_86_bytes() {
    let long = "x".repeat(10 << 20);
    assert_eq!(messages(long.as_bytes()), ["1:1: the file must not be larger than 1048576 bytes"]);
    assert_eq!(messages(b"[cluster]\r\nname = \"\xc3\xa9\xff\""), ["2:10: the file must be UTF-8 (got byte 0xff)"]);
    assert_eq!(messages(b"\xff\xfe["), ["1:1: the file must be UTF-8 (got byte 0xff)"]);
    assert_eq!(
        messages(b"\xef\xbb\xbfx = 1"),
        ["1:1: x: unknown key", "1:1: cluster: is required", "1:1: network: is required", "1:1: node: is required"]
    );
    assert_eq!(messages(b""), ["1:1: cluster: is required", "1:1: network: is required", "1:1: node: is required"]);
    // A carriage return does not shift the column.
    let text = GOOD.replace('\n', "\r\n").replace("id = 2", "id = 0");
    assert_eq!(messages(text.as_bytes()), ["15:6: node[2].id: must be 1 to 65535 (got 0)"]);
    case("\"a\"", "\"é\" # é\n€ = 1", &["11:1: not TOML: invalid unquoted key, expected letters, numbers, `-`, `_`"]);
}

#[test]
fn what_is_missing() {
    case("name = \"demo\"\n", "", &["1:1: cluster.name: is required"]);
    case("id = \"6f0c5d9e2a417b83\"\n", "", &["1:1: cluster.id: is required"]);
    case("name = \"net1\"\n", "", &["6:1: network[1].name: is required"]);
    case("subnets = [\"10.1.0.0/24\", \"fd00:1::/64\"]\n", "", &["6:1: network[1].subnets: is required"]);
    case(
        "id = 1\naddresses = [\"10.1.0.1\"]\n",
        "",
        &["9:1: node[1].id: is required", "9:1: node[1].addresses: is required"],
    );
    case("[\"10.1.0.1\"]", "[]", &["12:13: node[1].addresses: must have 1 to 64 items (got 0)"]);
}

#[test]
fn what_has_the_wrong_shape() {
    case("[[network]]", "[network]", &["6:1: network: must be a list of tables, each written [[network]]"]);
    assert_eq!(
        messages(b"cluster = 1\nsettings = []\ndaemon = \"\"\ninterface = 1\nnetwork = 1\nnode = [1]"),
        [
            "1:11: cluster: must be one table, written [cluster]",
            "2:12: settings: must be one table, written [settings]",
            "3:10: daemon: must be one table, written [daemon]",
            "4:13: interface: must be tables by name, written [interface.NAME]",
            "5:11: network: must be a list of tables, each written [[network]]",
            "6:9: node[1]: must be a table, written [[node]]",
        ]
    );
    assert_eq!(
        messages(
            GOOD.split("[[network]]")
                .next()
                .unwrap()
                .replace("[cluster]", "node = []\nnetwork = []\n[cluster]")
                .as_bytes()
        ),
        ["1:8: node: must be given 1 to 256 times (got 0)", "2:11: network: must be given 1 to 64 times (got 0)"]
    );
    case("[\"10.1.0.1\"]", "\"10.1.0.1\"", &["12:13: node[1].addresses: must be a list of strings (got \"10.1.0.1\")"]);
    case("[\"10.1.0.1\"]", "[1]", &["12:14: node[1].addresses[1]: must be a string (got 1)"]);
    appended("[interface]\neth0 = \"off\"", &["18:1: interface.eth0: must be a table, written [interface.NAME]"]);
    appended(
        "[interface.\"a/b\"]\nfast_path = \"off\"",
        &["17:12: interface.\"a/b\": must be the name of an interface: 1 to 15 bytes, without space, / and :"],
    );
    case("name = \"demo\"", "name = \"demo\"\n[cluster", &["3:9: not TOML: unclosed table, expected `]`"]);
}

#[test]
fn what_is_outside_the_words_taken() {
    let profiles = "must be one of \"lan\", \"wsfc-2003\", \"wsfc-2008\", \"wsfc-2016\"";
    setting("profile = \"wan\"", &[&format!("5:11: settings.profile: {profiles} (got \"wan\")")]);
    case("\"demo\"", "\"Demo\"", &["2:8: cluster.name: must be 1 to 32 of a-z, 0-9 and - (got \"Demo\")"]);
    for got in ["\"6f0c5d9e2a417b8\"", "\"0000000000000000\"", "\"+f0c5d9e2a417b83\"", "\"6f0c5d9e2a417b83 \""] {
        case("\"6f0c5d9e2a417b83\"", got, &[&format!("3:6: cluster.id: must be 16 hex digits, not all 0 (got {got})")]);
    }
    case("\"6f0c5d9e2a417b83\"", "6", &["3:6: cluster.id: must be a string (got 6)"]);
    let path = "must be an absolute path without \"..\", of at most 1024 bytes";
    case("[settings]", "key_file = \"key\"\n[settings]", &[&format!("4:12: cluster.key_file: {path} (got \"key\")")]);
    appended("[daemon]\npin_dir = \"/a/../b\"", &[&format!("18:11: daemon.pin_dir: {path} (got \"/a/../b\")")]);
    let long = format!("/{}", "r".repeat(94));
    appended(
        &format!("[daemon]\nrun_dir = \"{long}\""),
        &[&format!(
            "18:11: daemon.run_dir: must be an absolute path without \"..\", of at most 94 bytes (got \"/{}...)",
            "r".repeat(58)
        )],
    );
    appended(
        "[daemon]\nfast_path = \"xdp\"\nsocket_group = \"a b\"",
        &[
            "18:13: daemon.fast_path: must be one of \"auto\", \"native\", \"generic\", \"off\" (got \"xdp\")",
            "19:16: daemon.socket_group: must be the name of a group, or \"\" for none (got \"a b\")",
        ],
    );
    case(
        "name = \"net1\"",
        "name = \"net 1\"\nrole = \"all\"",
        &[
            "7:8: network[1].name: must be 1 to 32 of letters, digits, _, - and . (got \"net 1\")",
            "8:8: network[1].role: must be one of \"none\", \"internal\", \"client\", \"both\" (got \"all\")",
        ],
    );
}

#[test]
fn addresses_and_subnets() {
    let subnet = |got: &str, rule: &str| {
        case("10.1.0.0/24", got, &[&format!("8:12: network[1].subnets[1]: {rule} (got \"{got}\")")]);
    };
    let form = "must be ADDRESS/LENGTH, as in \"10.1.0.0/24\" or \"fd00:1::/64\"";
    for got in ["10.1.0.0", "10.1.0/24", "10.1.0.0/", "10.1.0.0/+24", "10.1.0.0/0024", "10.1.0.0/24/1", "net"] {
        subnet(got, form);
    }
    subnet("10.1.0.0/33", "length must be 1 to 32");
    subnet("10.1.0.0/0", "length must be 1 to 32");
    subnet("fd00::/129", "length must be 1 to 128");
    subnet("10.1.0.5/24", "must have no host bits set, did you mean \"10.1.0.0/24\"?");
    subnet("fe80::/64", "must not be link-local: it would mean another host on each interface");
    subnet("::ffff:10.1.0.0/120", "must be written as IPv4, not as IPv4-mapped IPv6");
    subnet("224.0.0.0/8", "must not be multicast");
    let address = |got: &str, rule: &str| {
        case("10.1.0.1", got, &[&format!("12:14: node[1].addresses[1]: {rule} (got \"{got}\")")]);
    };
    address("10.1.0.1/24", "must be an IPv4 or IPv6 address, without a length");
    address("fe80::1%eth0", "must be an IPv4 or IPv6 address, without a length");
    address("0.0.0.0", "must not be the unspecified address");
    address("::", "must not be the unspecified address");
    address("255.255.255.255", "must not be the broadcast address");
    address("ff02::1", "must not be multicast");
    case("10.1.0.1", "10.2.0.1", &["12:14: node[1].addresses[1]: must lie in a subnet of a network (got 10.2.0.1)"]);
    case(
        "fd00:1::/64",
        "10.1.0.0/25",
        &[
            "8:27: network[1].subnets[2]: must not overlap another subnet (got 10.1.0.0/25, and network[1].subnets[1] is 10.1.0.0/24 in line 8)",
        ],
    );
    case(
        "[[node]]",
        "[[network]]\nname = \"net2\"\nsubnets = [\"10.0.0.0/8\"]\n[[node]]",
        &[
            "11:12: network[2].subnets[1]: must not overlap another subnet (got 10.0.0.0/8, and network[1].subnets[1] is 10.1.0.0/24 in line 8)",
        ],
    );
}

#[test]
fn relations_between_settings() {
    setting(
        "path_lost_ticks = 4",
        &["5:19: settings.path_lost_ticks: must be below path_unreachable_ticks, 4 by default (got 4)"],
    );
    setting(
        "path_unreachable_ticks = 2",
        &["5:26: settings.path_unreachable_ticks: must be above path_lost_ticks, 2 (got 2)"],
    );
    setting(
        "path_failed_ticks = 4",
        &["5:21: settings.path_failed_ticks: must be above path_unreachable_ticks, 4 (got 4)"],
    );
    setting(
        "lateness_budget_ms = 101",
        &["5:22: settings.lateness_budget_ms: must be at most the shortest delay, 100 ms (got 101)"],
    );
    setting(
        "stall_limit_ms = 99",
        &["5:18: settings.stall_limit_ms: must be at least same_subnet_delay_ms, 100 (got 99)"],
    );
    setting(
        "hang_limit_s = 2\nstall_limit_ms = 2000",
        &["5:16: settings.hang_limit_s: hang_limit_s must exceed stall_limit_ms (got 2 s and 2000 ms)"],
    );
    setting(
        "stall_limit_ms = 60000",
        &["5:18: settings.stall_limit_ms: hang_limit_s must exceed stall_limit_ms (got 60 s and 60000 ms)"],
    );
    setting(
        "SameSubnetDelay = 1000\nSameSubnetThreshold = 60",
        &[
            "4:1: settings.hang_limit_s: hang_limit_s must exceed stall_limit_ms (got 60 s and 60000 ms, by default the same-subnet detection time)",
        ],
    );
    appended(
        "[daemon]\npin_dir = \"/r/\"\nrun_dir = \"/r\"\nlock_dir = \"/l\"",
        &["18:11: daemon.pin_dir: pin_dir must be a directory of its own (got /r, also daemon.run_dir)"],
    );
}

#[test]
fn every_two_nodes_need_a_path_and_no_node_too_many() {
    let reach = |from: &str| {
        format!(
            "{from}: node[2]: must have an address of the same family as one of node[1] on a network whose role is not \"none\""
        )
    };
    case("10.1.0.2", "fd00:1::2", &[&reach("13:1")]);
    case("name = \"net1\"", "name = \"net1\"\nrole = \"none\"", &[&reach("14:1")]);
    let many = |from: usize, count: usize| -> String {
        let addresses: Vec<String> =
            (0..count).map(|index| format!("\"10.1.{}.{}\"", (from + index) / 64, 1 + (from + index) % 64)).collect();
        addresses.join(", ")
    };
    let nodes = |second: usize| -> String {
        let [head, ..] = GOOD.split("[[node]]").collect::<Vec<_>>()[..] else { unreachable!() };
        let node = |id: usize, from: usize, count: usize| {
            format!("[[node]]\nname = \"n{id}\"\nid = {id}\naddresses = [{}]\n", many(from, count))
        };
        let rest: String = (2..18).map(|id| node(id, id * 64, if id == 17 { second } else { 64 })).collect();
        format!("{}{}{rest}", head.replace("10.1.0.0/24", "10.1.0.0/16"), node(1, 0, 1))
    };
    assert_eq!(messages(nodes(64).as_bytes()).len(), 16);
    assert_eq!(
        messages(nodes(64).as_bytes())[0],
        "13:1: node[2]: must have at most 1024 paths to other nodes (got 61504)"
    );
}

#[test]
fn all_faults_are_told_at_once_in_order() {
    let text = GOOD
        .replace("\"demo\"", "\"\"")
        .replace("profile = \"lan\"", "profile = 1\nstall_limit = 5\npath_lost_ticks = 9")
        .replace("[[network]]", "[daemon]\nfast_path = \"yes\"\n[[network]]")
        .replace("id = 2", "id = 1")
        .replace("10.1.0.2", "10.3.0.2");
    let expected = [
        "2:8: cluster.name: must be 1 to 32 of a-z, 0-9 and - (got \"\")",
        "5:11: settings.profile: must be a string (got 1)",
        "6:1: settings.stall_limit: unknown key, did you mean \"stall_limit_ms\"?",
        "7:19: settings.path_lost_ticks: must be below path_unreachable_ticks, 4 by default (got 9)",
        "9:13: daemon.fast_path: must be one of \"auto\", \"native\", \"generic\", \"off\" (got \"yes\")",
        "19:6: node[2].id: must be unique (got 1, also node[1].id in line 15)",
        "20:14: node[2].addresses[1]: must lie in a subnet of a network (got 10.3.0.2)",
    ];
    assert_eq!(messages(text.as_bytes()), expected);
}

#[test]
fn faults_beyond_a_hundred_are_counted() {
    let text: String = (0..150).map(|index| format!("k{index} = 1\n")).collect();
    let errors = parse("t.toml", text.as_bytes()).unwrap_err();
    assert_eq!(errors.0.len(), 153);
    let shown = errors.to_string();
    assert_eq!((shown.lines().count(), shown.lines().last()), (101, Some("... and 53 more faults")));
    assert_eq!((errors.0[0].kind, errors.0[1].kind), (FaultKind::Unknown, FaultKind::Missing));
}

#[test]
fn a_file_full_of_faults_is_judged_in_time() {
    for piece in ["[[node]]\nid=1\n", "[[network]]\n", "a=1\n", "[[[", "{", "a.", "\"10.1.0.0/24\",", "\u{e9}"] {
        for head in ["", "[[network]]\nsubnets = [\n", "x = "] {
            let text = format!("{head}{}", piece.repeat((1 << 17) / piece.len()));
            let start = std::time::Instant::now();
            assert!(!messages(text.as_bytes()).is_empty());
            assert!(start.elapsed() < Duration::from_secs(30), "{piece:?} after {head:?}: {:?}", start.elapsed());
        }
    }
}

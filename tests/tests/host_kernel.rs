//! What others on the host do to the programs, pins and tables of a running daemon, and what a start finds of them. It
//! edits the kernel as root would, by bpftool; no daemon is told of it.

use heartbeat_common::frame::{FLAG_LEAVING, FLAG_STOPPED};
use heartbeat_common::maps;
use heartbeat_tests::lab::bpftool::{bpftool, links_in, pin_a_map, text};
use heartbeat_tests::lab::crew::{Crew, Mark, event_name, refused};
use heartbeat_tests::lab::wait::root_or_skip;
use heartbeat_tests::lab::{Cluster, Lab, Options, Spec, monotonic_ns, wait_for};
use serde_json::Value;
use std::path::PathBuf;
use std::time::Duration;

const A: usize = 0;
const B: usize = 1;
/// What others may take from the machine meanwhile, ms.
const NOISE_MS: u64 = 250;

/// Two nodes on one network that show each other up. The threshold leaves room for a busy machine.
fn pair() -> Crew {
    Crew::pair(1, &[("same_subnet_threshold", 10), ("stall_limit_ms", 4000)], &Options::default()).unwrap()
}

/// The pinned XDP link of a node that has one.
fn link_pin(crew: &Crew, node: usize) -> PathBuf {
    links_in(&crew.pins(node)).pop().expect("a pinned link")
}

/// Id of the map of a name that a node's program uses.
fn map_id(crew: &Crew, node: usize, name: &str) -> String {
    let link = bpftool(&["link", "show", "pinned", text(&link_pin(crew, node))]).unwrap();
    let program = link["prog_id"].as_u64().expect("the link's program").to_string();
    let program = bpftool(&["prog", "show", "id", &program]).unwrap();
    let ids = program["map_ids"].as_array().expect("the program's maps").iter().map(ToString::to_string);
    let mut named = ids.filter(|id| bpftool(&["map", "show", "id", id]).is_ok_and(|map| map["name"] == name));
    named.next().unwrap_or_else(|| panic!("no map {name} in {program}"))
}

/// Milliseconds from `since_ns` until an event was noticed.
fn after_ms(event: &Value, since_ns: u64) -> u64 {
    event["noticed_ns"].as_u64().unwrap().saturating_sub(since_ns) / 1_000_000
}

fn detach(crew: &Crew, node: usize) -> u64 {
    let link = bpftool(&["link", "show", "pinned", text(&link_pin(crew, node))]).unwrap();
    let now = monotonic_ns();
    bpftool(&["link", "detach", "id", &link["id"].to_string()]).unwrap();
    now
}

fn count(crew: &Crew, mark: &Mark, name: &str) -> usize {
    crew.said(mark, B, name).unwrap().len()
}

#[test]
fn fault_71_taking_the_program_off_or_overwriting_it_is_refused_by_the_kernel() {
    if !root_or_skip("fault_71_taking_the_program_off_or_overwriting_it_is_refused_by_the_kernel") {
        return;
    }
    let crew = pair();
    let mark = crew.mark().unwrap();
    let node = crew.lab.node(B);
    let off = node.run("ip", &["link", "set", "dev", "net1", "xdp", "off"]).unwrap_err().to_string();
    assert!(off.contains("active BPF XDP link"), "{off}");
    let link = bpftool(&["link", "show", "pinned", text(&link_pin(&crew, B))]).unwrap();
    let id = link["prog_id"].to_string();
    let over = node.run("bpftool", &["net", "attach", "xdp", "id", &id, "dev", "net1", "overwrite"]).unwrap_err();
    assert!(over.to_string().contains("busy"), "{over}");
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!((count(&crew, &mark, "link_detached_foreign"), count(&crew, &mark, "step_down_mode")), (0, 0));
    assert_eq!(crew.verdicts(&mark).unwrap(), vec![]);
    crew.all_up().unwrap();
}

#[test]
fn fault_72_a_detached_link_is_seen_within_one_delay_and_attached_once() {
    if !root_or_skip("fault_72_a_detached_link_is_seen_within_one_delay_and_attached_once") {
        return;
    }
    let crew = pair();
    let mark = crew.mark().unwrap();
    let detached = detach(&crew, B);
    let seen = crew.await_said(&mark, B, "link_detached_foreign").unwrap();
    assert!(after_ms(&seen, detached) <= 100 + NOISE_MS, "one delay is 100 ms: {seen}");
    crew.await_said(&mark, B, "link_reattached").unwrap();
    assert_eq!(crew.modes(B).unwrap()[0].1, "native");
    crew.all_up().unwrap();
    // Again within the minute: somebody means it. Userspace answers, and says so.
    let again = crew.mark().unwrap();
    let detached = detach(&crew, B);
    let step = crew.await_said(&again, B, "step_down_mode").unwrap();
    assert!(after_ms(&step, detached) <= 100 + NOISE_MS, "{step}");
    assert_eq!((&step["from"], &step["to"]), (&"native".into(), &"userspace".into()), "{step}");
    assert_eq!(count(&crew, &again, "link_reattached"), 0);
    wait_for(Duration::from_secs(5), "a to hear that userspace answers", || {
        let peer = crew.peer(A, B).unwrap();
        if peer["responder"] == "userspace" { Ok(()) } else { Err(peer) }
    })
    .unwrap();
    assert_eq!(crew.modes(B).unwrap()[0].1, "userspace");
    crew.all_up().unwrap();
    crew.nobody_removed(&mark).unwrap();
}

#[test]
fn fault_73_a_foreign_program_is_named_and_left_alone() {
    if !root_or_skip("fault_73_a_foreign_program_is_named_and_left_alone") {
        return;
    }
    let lab = Lab::new(Spec::new(2, 1)).unwrap();
    let cluster = Cluster::new(&lab, "lan");
    let pass = heartbeat_tests::lab::pass::Pass::load().unwrap();
    let _link = lab.node(B).enter(|| pass.attach("net1")).unwrap().unwrap();
    let shown = || lab.node(B).run("bpftool", &["-j", "net", "list", "dev", "net1"]).unwrap();
    let before: Value = serde_json::from_str(&shown()).unwrap();
    let id = before[0]["xdp"][0]["id"].as_u64().expect("the foreign program").to_string();
    for fast_path in ["auto", "native", "generic"] {
        let options = Options { fast_path: fast_path.to_owned(), ..Options::default() };
        let ended = refused(&lab, B, &cluster, &options).unwrap();
        assert_eq!(ended.code, Some(8), "{fast_path}: {}", ended.text);
        assert!(ended.text.contains("net1") && ended.text.contains(&id), "{fast_path}, program {id}: {}", ended.text);
        assert_eq!(serde_json::from_str::<Value>(&shown()).unwrap(), before, "{fast_path}");
    }
    let mut crew = Crew::new(lab, cluster);
    crew.start(B, &Options { fast_path: "off".to_owned(), ..Options::default() }).unwrap();
}

#[test]
fn fault_74_pins_removed_while_running_are_made_again() {
    if !root_or_skip("fault_74_pins_removed_while_running_are_made_again") {
        return;
    }
    let mut crew = pair();
    let mark = crew.mark().unwrap();
    std::fs::remove_dir_all(crew.lab.pin_dir(B).join("heartbeatd")).unwrap();
    let restored = crew.await_said(&mark, B, "pins_restored").unwrap();
    assert_eq!(restored["count"], 6, "five maps and a link: {restored}");
    use std::os::unix::fs::PermissionsExt;
    for directory in [crew.pins(B), crew.lab.pin_dir(B).join("heartbeatd")] {
        assert_eq!(std::fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o700);
    }
    assert_eq!(crew.verdicts(&mark).unwrap(), vec![], "no echo was missing");
    // They are as good as the first ones: the next controller adopts them.
    crew.take(B).kill().unwrap();
    crew.start(B, &Options::default()).unwrap();
    crew.await_said(&mark, B, "controller_adopted").unwrap();
    crew.all_up().unwrap();
    crew.nobody_removed(&mark).unwrap();
}

fn hex(value: &Value) -> Vec<String> {
    value.as_array().expect("bytes").iter().map(|byte| byte.as_str().expect("a byte").to_owned()).collect()
}

fn map(words: &[&str], parts: &[(&str, &[String])]) {
    let mut all: Vec<&str> = vec!["map"];
    all.extend(words);
    for (name, bytes) in parts {
        all.extend([*name, "hex"]);
        all.extend(bytes.iter().map(|byte| byte.trim_start_matches("0x")));
    }
    bpftool(&all).unwrap();
}

#[test]
fn fault_76_edited_tables_are_written_again_within_a_second_and_told() {
    if !root_or_skip("fault_76_edited_tables_are_written_again_within_a_second_and_told") {
        return;
    }
    let crew = pair();
    let routes = map_id(&crew, B, maps::ROUTES);
    let entries = bpftool(&["map", "dump", "id", &routes]).unwrap();
    let key = hex(&entries[0]["key"]);
    let configurations = map_id(&crew, B, maps::CONFS);
    let route = hex(&entries[0]["value"]);
    let index: Vec<String> = route[4..].to_vec();
    let zeros = vec![
        "0x00".to_owned();
        bpftool(&["map", "show", "id", &configurations]).unwrap()["bytes_value"].as_u64().unwrap() as usize
    ];
    let hints = map_id(&crew, B, maps::HINTS);
    let places = bpftool(&["map", "dump", "id", &hints]).unwrap();
    let set = |place: &&serde_json::Value| hex(&place["value"]).iter().any(|byte| byte != "0x00");
    let place = hex(&places.as_array().unwrap().iter().find(set).unwrap()["key"]);
    let none = vec![
        "0x00".to_owned();
        bpftool(&["map", "show", "id", &hints]).unwrap()["bytes_value"].as_u64().unwrap() as usize
    ];
    let astray = [["0xff"; 4], ["0xff"; 4]].concat().into_iter().map(str::to_owned).collect::<Vec<_>>();
    let edits: [(&str, &dyn Fn()); 4] = [
        (maps::ROUTES, &|| map(&["delete", "id", &routes], &[("key", &key)])),
        (maps::ROUTES, &|| map(&["update", "id", &routes], &[("key", &key), ("value", &astray)])),
        (maps::CONFS, &|| map(&["update", "id", &configurations], &[("key", &index), ("value", &zeros)])),
        (maps::HINTS, &|| map(&["update", "id", &hints], &[("key", &place), ("value", &none)])),
    ];
    for (table, edit) in edits {
        let (mark, edited) = (crew.mark().unwrap(), monotonic_ns());
        edit();
        let told = crew.await_said(&mark, B, "table_repaired").unwrap();
        assert_eq!((&told["table"], &told["count"]), (&table.into(), &1.into()), "{told}");
        assert!(after_ms(&told, edited) <= 1000 + NOISE_MS, "{told}");
        crew.all_up().unwrap();
    }
    assert_eq!(bpftool(&["map", "dump", "id", &routes]).unwrap(), entries);
}

#[test]
fn fault_76_what_the_kernel_says_of_this_node_is_written_again_as_well() {
    if !root_or_skip("fault_76_what_the_kernel_says_of_this_node_is_written_again_as_well") {
        return;
    }
    let crew = pair();
    let (mark, edited) = (crew.mark().unwrap(), monotonic_ns());
    let own = map_id(&crew, B, maps::OWN);
    let mut value = hex(&bpftool(&["map", "dump", "id", &own]).unwrap()[0]["value"]);
    let flags = std::mem::offset_of!(maps::Own, flags);
    value[flags] = format!("{:#04x}", FLAG_LEAVING | FLAG_STOPPED);
    map(&["update", "id", &own], &[("key", &vec!["0x00".to_owned(); 4]), ("value", &value)]);
    let told = crew.await_said(&mark, B, "table_repaired").unwrap();
    assert_eq!(told["table"], maps::OWN, "{told}");
    assert!(after_ms(&told, edited) <= 1000 + NOISE_MS, "{told}");
    crew.all_up().unwrap();
    assert_eq!(crew.peer(A, B).unwrap()["flags"], serde_json::json!([]));
}

#[test]
fn fault_77_pins_of_another_layout_are_removed_and_never_read() {
    if !root_or_skip("fault_77_pins_of_another_layout_are_removed_and_never_read") {
        return;
    }
    let mut crew = pair();
    crew.take(B).kill().unwrap();
    let root = crew.lab.pin_dir(B).join("heartbeatd");
    // A directory of another version, and a map of this version's name with another size.
    std::fs::create_dir(root.join("v0")).unwrap();
    pin_a_map(&root.join("v0/TICKS"), "64", "TICKS");
    std::fs::remove_file(crew.pins(B).join(maps::TICKS)).unwrap();
    pin_a_map(&crew.pins(B).join(maps::TICKS), "64", "TICKS");
    let mark = crew.mark().unwrap();
    crew.start(B, &Options::default()).unwrap();
    assert!(!root.join("v0").exists());
    let log = crew.daemon(B).log();
    assert!(log.contains("pins of another map layout were removed"), "{log}");
    assert!(log.contains("made by another build") && log.contains("all pins are made anew"), "{log}");
    crew.all_up().unwrap();
    assert_eq!(crew.said(&mark, B, "controller_adopted").unwrap().len(), 0, "nothing was taken from them");
    crew.await_said(&mark, A, "node_restarted").unwrap();
    let ticks = bpftool(&["map", "show", "pinned", text(&crew.pins(B).join(maps::TICKS))]).unwrap();
    assert_eq!(ticks["max_entries"], maps::PATHS_MAX);
}

#[test]
fn fault_79_a_controller_that_stalled_has_lost_no_liveness() {
    if !root_or_skip("fault_79_a_controller_that_stalled_has_lost_no_liveness") {
        return;
    }
    let crew = pair();
    let mark = crew.mark().unwrap();
    crew.daemon(A).stop().unwrap();
    std::thread::sleep(Duration::from_secs(3));
    crew.daemon(A).resume().unwrap();
    crew.await_said(&mark, A, "local_lateness").unwrap();
    crew.all_up().unwrap();
    crew.nobody_removed(&mark).unwrap();
    // The record of the time that it slept through is in the map: B's probes were taken in, each dated.
    let said: Vec<String> = crew.since(&mark, A).unwrap().iter().map(|event| event_name(event).to_owned()).collect();
    assert!(!said.iter().any(|name| name == "events_dropped" || name.starts_with("path_")), "{said:?}");
}

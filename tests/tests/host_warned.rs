//! What makes a fast path worse than it could be is told by name: by `check` before the start, by an event at it, by
//! `status` after it. Nothing is refused for it.

use heartbeat_tests::lab::crew::{Crew, heartbeatd};
use heartbeat_tests::lab::wait::root_or_skip;
use heartbeat_tests::lab::{Cluster, Lab, Options, Port, Spec};

const B: usize = 1;
/// Gives a process the sysfs of its network namespace, as a host and a container have it.
const SYSFS: [&str; 6] = ["unshare", "--mount", "sh", "-c", "mount -t sysfs sysfs /sys && exec \"$@\"", "sh"];

#[test]
fn a_receive_path_on_kernel_threads_is_warned_of() {
    if !root_or_skip("a_receive_path_on_kernel_threads_is_warned_of") {
        return;
    }
    let lab = Lab::new(Spec::new(2, 1)).unwrap();
    assert_eq!(lab.set_threaded_napi(Port { node: B, network: 0 }, true).unwrap(), "1");
    let cluster = Cluster::new(&lab, "lan");
    let mut crew = Crew::new(lab, cluster);
    let mark = crew.mark().unwrap();
    crew.start_all(&Options { wrapper: SYSFS.map(Into::into).to_vec(), ..Options::default() }).unwrap();
    let told = crew.await_said(&mark, B, "threaded_napi").unwrap();
    assert_eq!(told["interface"], "net1", "{told}");
    assert!(crew.said(&mark, 0, "threaded_napi").unwrap().is_empty(), "the other receives in softirq");
    let status = crew.daemon(B).ask("status").unwrap();
    let interfaces = status["fast_path"].as_array().unwrap();
    assert!(interfaces.iter().any(|one| one["threaded_napi"] == true), "{status}");

    let file = crew.daemon(B).config();
    let checked = heartbeatd(&crew.lab, B, &SYSFS, &["check", "--config", file.to_str().unwrap()]).unwrap();
    let text = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(checked.status.success() && text.contains("warning: net1: receives on kernel threads"), "{text}");
}

/// A veth takes a tag off and keeps it beside the frame, where XDP does not see it: an untagged path there may be fed
/// with tagged frames, and nobody can tell.
#[test]
fn fault_25_a_device_that_may_take_tags_off_is_told_at_start() {
    if !root_or_skip("fault_25_a_device_that_may_take_tags_off_is_told_at_start") {
        return;
    }
    let lab = Lab::new(Spec::new(2, 1)).unwrap();
    let cluster = Cluster::new(&lab, "lan");
    let mut crew = Crew::new(lab, cluster);
    let mark = crew.mark().unwrap();
    crew.start_all(&Options::default()).unwrap();
    let told = crew.await_said(&mark, B, "vlan_uncertain").unwrap();
    assert_eq!(told["interface"], "net1", "{told}");
    assert!(told["reason"].as_str().unwrap().contains("tag"), "{told}");
}

/// A restart runs the check first: a node must not leave for a hook that somebody has moved.
#[test]
fn a_hook_that_cannot_be_run_keeps_no_node_from_starting() {
    if !root_or_skip("a_hook_that_cannot_be_run_keeps_no_node_from_starting") {
        return;
    }
    let lab = Lab::new(Spec::new(2, 1)).unwrap();
    let cluster = Cluster::new(&lab, "lan");
    let mut crew = Crew::new(lab, cluster);
    let daemon = vec![("on_event".to_owned(), "[\"/no/such/hook\"]".to_owned())];
    crew.start(B, &Options { daemon, ..Options::default() }).unwrap();
    let warnings = crew.daemon(B).ask("status").unwrap()["warnings"].to_string();
    assert!(warnings.contains("hook /no/such/hook cannot be run"), "{warnings}");
    let file = crew.daemon(B).config();
    let checked = heartbeatd(&crew.lab, B, &[], &["check", "--config", file.to_str().unwrap()]).unwrap();
    let text = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert_eq!(checked.status.code(), Some(0), "{text}");
    assert!(text.contains("daemon.on_event[1]: cannot be run as a hook"), "{text}");
}

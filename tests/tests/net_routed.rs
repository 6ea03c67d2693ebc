//! Nodes with a router between them, real daemons: other thresholds, other hop limits, the same verdicts. The router is
//! the switch; it judges nothing.

use heartbeat_tests::lab::crew::{Crew, PATIENCE};
use heartbeat_tests::lab::wait::root_or_skip;
use heartbeat_tests::lab::{Cluster, Lab, Options, Spec, wait_for};
use nix::sys::signal::Signal;

const A: usize = 0;
const B: usize = 1;

fn pair(options: &Options<'_>) -> Crew {
    let lab = Lab::new(Spec { routed: true, ..Spec::new(2, 2) }).unwrap();
    let cluster = Cluster::new(&lab, "lan")
        .with("cross_subnet_delay_ms", 100)
        .with("cross_subnet_threshold", 10)
        .with("stall_limit_ms", 4000);
    let mut crew = Crew::new(lab, cluster);
    crew.start_all(options).unwrap();
    crew
}

#[test]
fn a_routed_pair_beats_by_the_cross_subnet_thresholds_and_notices_a_death() {
    if !root_or_skip("a_routed_pair_beats_by_the_cross_subnet_thresholds_and_notices_a_death") {
        return;
    }
    let crew = pair(&Options { fast_path: "native".to_owned(), ..Options::default() });
    for node in [A, B] {
        let answer = crew.daemon(node).ask("paths").unwrap();
        let paths = answer["paths"].as_array().unwrap();
        assert_eq!(paths.len(), 2, "{answer}");
        for path in paths {
            assert_eq!((&path["same_subnet"], &path["state"]), (&false.into(), &"up".into()), "{path}");
        }
        wait_for(PATIENCE, "probes to be answered by name", || {
            let answered = crew.counter(node, "answered").unwrap();
            if answered > 0 { Ok(()) } else { Err(answered) }
        })
        .unwrap();
        assert_eq!(crew.counter(node, "drop_hop_limit").unwrap(), 0, "node {node}");
    }
    let mark = crew.mark().unwrap();
    // What is routed is not forwarded by the bridge, where faults are injected: it is the router that dies.
    crew.lab.switch().sysctl("ipv4/ip_forward", "0").unwrap();
    let down = crew.await_said(&mark, A, "node_down").unwrap();
    let silence = down["noticed_ns"].as_u64().unwrap() - down["silent_since_ns"].as_u64().unwrap();
    assert!(silence >= 1_000_000_000, "not before 10 x 100 ms: {down}");
    crew.lab.switch().sysctl("ipv4/ip_forward", "1").unwrap();
    crew.all_up().unwrap();
}

#[test]
fn a_hop_limit_that_was_reloaded_is_in_force_and_can_be_taken_back() {
    if !root_or_skip("a_hop_limit_that_was_reloaded_is_in_force_and_can_be_taken_back") {
        return;
    }
    let crew = pair(&Options::default());
    let reload = |limit: u64| {
        let cluster = crew.cluster.clone().with("cross_subnet_min_hop_limit", limit);
        let text = cluster.render(&crew.lab, B, &Options::default());
        std::fs::write(crew.daemon(B).config(), text).unwrap();
        crew.daemon(B).signal(Signal::SIGHUP).unwrap();
    };
    let mark = crew.mark().unwrap();
    // One router on the way: 254 is what comes.
    reload(255);
    crew.await_said(&mark, B, "node_down").unwrap();
    assert!(crew.said(&mark, B, "config_rejected").unwrap().is_empty());
    wait_for(PATIENCE, "frames to be counted", || {
        let dropped = crew.counter(B, "drop_hop_limit").unwrap();
        if dropped > 0 { Ok(()) } else { Err(dropped) }
    })
    .unwrap();
    reload(254);
    crew.all_up().unwrap();
}

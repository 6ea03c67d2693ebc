//! Nodes of one cluster that were given different settings, as real daemons notice it. It compares no settings itself.

use heartbeat_tests::lab::crew::Crew;
use heartbeat_tests::lab::wait::root_or_skip;
use heartbeat_tests::lab::{Cluster, Lab, Options, Spec, wait_for};
use nix::sys::signal::Signal;
use std::time::Duration;

const A: usize = 0;
const B: usize = 1;

#[test]
fn other_settings_are_told_by_both_nodes_once_and_so_is_their_end() {
    if !root_or_skip("other_settings_are_told_by_both_nodes_once_and_so_is_their_end") {
        return;
    }
    let lab = Lab::new(Spec::new(2, 1)).unwrap();
    let agreed = Cluster::new(&lab, "lan").with("same_subnet_threshold", 10);
    let mut crew = Crew::new(lab, agreed.clone());
    crew.start(A, &Options::default()).unwrap();
    let mark = crew.mark().unwrap();
    crew.cluster = agreed.clone().with("hang_limit_s", 50);
    crew.start(B, &Options::default()).unwrap();
    crew.all_up().unwrap();
    assert_eq!(crew.said(&mark, A, "settings_differ").unwrap().len(), 0, "not before it has lasted");
    let told = crew.await_said(&mark, A, "settings_differ").unwrap();
    let mirrored = crew.await_said(&mark, B, "settings_differ").unwrap();
    assert_eq!((&told["node"], &mirrored["node"]), (&"b".into(), &"a".into()));
    assert_eq!(
        (&told["own_settings"], &told["peer_settings"]),
        (&mirrored["peer_settings"], &mirrored["own_settings"])
    );
    assert_ne!(told["own_settings"], told["peer_settings"]);
    assert_eq!(crew.peer(A, B).unwrap()["settings_agree"], false);
    crew.all_up().unwrap();

    // The node that was forgotten gets the file of the others.
    let text = agreed.render(&crew.lab, B, &Options::default());
    std::fs::write(crew.daemon(B).config(), text).unwrap();
    crew.daemon(B).signal(Signal::SIGHUP).unwrap();
    for (by, about) in [(A, "b"), (B, "a")] {
        let told = crew.await_said(&mark, by, "settings_agree").unwrap();
        assert_eq!(told["node"], about, "{told}");
        assert!(told["differed_ms"].as_u64().unwrap() >= 5000, "{told}");
    }
    wait_for(Duration::from_secs(2), "agreement to be shown", || {
        let peer = crew.peer(A, B).unwrap();
        if peer["settings_agree"] == true { Ok(()) } else { Err(peer) }
    })
    .unwrap();
    for by in [A, B] {
        assert_eq!(crew.said(&mark, by, "settings_differ").unwrap().len(), 1);
    }
    crew.nobody_removed(&mark).unwrap();
}

//! Two hundred (victim, window) pairs in real time: victims stopped, frozen, held to a quota, beside hogs. Nobody may be
//! called down. Long windows are the benchmark's.

use heartbeat_tests::bench::{Field, Plan, starve};
use heartbeat_tests::lab::wait::starvation_or_skip;
use std::time::Duration;

#[test]
fn two_hundred_starved_windows_and_nobody_down() {
    if !starvation_or_skip("two_hundred_starved_windows_and_nobody_down") {
        return;
    }
    let plan = Plan {
        field: Field { labs: 2, stopped: 3, frozen: 2, quota: 2, hogged: 2 },
        pairs: 200,
        window: (0.1, 3.0),
        limit: Duration::from_secs(90),
    };
    let counted = starve(plan).unwrap();
    println!("{} pairs, {} beside a FIFO hog", counted.pairs.len(), counted.beside_fifo());
    assert!(counted.downs.is_empty(), "{}", counted.downs.join("\n"));
    assert!(counted.pairs.len() >= plan.pairs, "only {} pairs", counted.pairs.len());
    assert!(counted.beside_fifo() >= 10, "only {} beside a FIFO hog", counted.beside_fifo());
    assert!(counted.stalls > 0, "nobody was seen to be starved");
}

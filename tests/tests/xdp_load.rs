//! What loading the programs costs: each start of the daemon, and each handover, waits for the kernel's verifier. It
//! counts what the verifier processed, which is the same on a busy machine, and takes no time.

use heartbeat_tests::xdp::{Rig, may_run};

/// Most instructions that the verifier may process for both programs together. It prunes otherwise in each kernel: 95,000
/// at the last count in 6.18, 136,000 in 6.1. Above the ceiling something multiplies: a loop walked through in every state
/// of its caller, or a branch whose two sides stay apart for all the rest of the program.
const CEILING: u32 = 150_000;

#[test]
fn the_verifier_is_done_soon() {
    if !may_run("the_verifier_is_done_soon") {
        return;
    }
    let rig = Rig::new().expect("the programs load");
    let counts = rig.verified().expect("the kernel counts");
    println!("{counts:?}");
    assert_eq!(counts.len(), 2, "{counts:?}");
    // A program that is all pruned away, or another object, would prove nothing.
    assert!(counts.iter().all(|(_, count)| *count > 1_000), "{counts:?}");
    assert!(counts.iter().map(|(_, count)| count).sum::<u32>() <= CEILING, "{counts:?}, together above {CEILING}");
}

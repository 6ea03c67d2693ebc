//! A panic in any thread ends the whole process, so that a daemon is never half alive. It ends; it mends nothing.

use crate::io::logger;

/// From now on a panic in any thread is reported as usual and then aborts the process. A thread that merely ended
/// would leave the others running: probes without verdicts, or verdicts without probes.
pub fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        // What was logged before says how it came to this. The log's own thread cannot wait for itself.
        if std::thread::current().name() != Some(logger::THREAD) {
            log::logger().flush();
        }
        std::process::abort();
    }));
}

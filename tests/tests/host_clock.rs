//! The wall clock: nothing is timed by it. The machine's clock is never stepped; the sources are read instead.

use std::fs;
use std::path::{Path, PathBuf};

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Lines of shipped code (no tests, no comments) that hold one of `words`: (file, line).
fn uses(words: &[&str]) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut files = Vec::new();
    for part in ["heartbeat-user/src", "heartbeat-common/src", "heartbeat-ebpf/src"] {
        sources(&root.join(part), &mut files);
    }
    assert!(files.len() > 50, "only {} sources found", files.len());
    let mut found = Vec::new();
    for file in files.iter().filter(|file| !file.to_string_lossy().contains("/tests")) {
        let text = fs::read_to_string(file).unwrap();
        let shipped = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        for line in shipped.lines().filter(|line| !line.trim_start().starts_with("//")) {
            if words.iter().any(|word| line.contains(word)) {
                let name = file.strip_prefix(root).unwrap().display().to_string();
                found.push((name, line.trim().to_owned()));
            }
        }
    }
    found
}

#[test]
fn fault_54_only_one_function_reads_the_wall_clock() {
    let reads =
        ["CLOCK_REALTIME", "SystemTime", "Timestamp::now", "Zoned::now", "CLOCK_TAI", "ktime_get_real", "gettimeofday"];
    let found = uses(&reads);
    let allowed = [
        ("heartbeat-user/src/io/clock.rs", "nanoseconds(ClockId::CLOCK_REALTIME)"),
        // heartbeatctl, which reads what a person means by "ten minutes ago".
        ("heartbeat-user/src/cli/since.rs", "since(text, Timestamp::now())"),
    ];
    for (file, line) in &found {
        assert!(allowed.contains(&(file, line)), "{file}: {line}");
    }
    assert_eq!(found.len(), allowed.len(), "{found:?}");
}

#[test]
fn fault_54_what_the_wall_clock_says_is_shown_and_times_nothing() {
    let found = uses(&["wall_ns("]);
    let shown = [
        "heartbeat-user/src/io/clock.rs",
        "heartbeat-user/src/io/journal.rs",
        "heartbeat-user/src/io/backend.rs",
        // When a run ended, for people; what is counted is counted by the boot clock.
        "heartbeat-user/src/io/disk/exits.rs",
    ];
    for (file, line) in &found {
        let step = file == "heartbeat-user/src/io/keeper.rs" && line.starts_with("let offset = ");
        assert!(step || shown.contains(&file.as_str()), "{file}: {line}");
    }
    assert!(found.iter().any(|(file, _)| file.ends_with("keeper.rs")), "a step is noticed: {found:?}");
}

#[test]
fn fault_54_the_core_reads_no_clock_at_all() {
    let clocks = uses(&["clock::", "clock_gettime", "Instant::now"]);
    let core: Vec<_> = clocks.iter().filter(|(file, _)| file.starts_with("heartbeat-user/src/core")).collect();
    assert!(core.is_empty(), "{core:?}");
    assert!(clocks.len() > 10, "the search finds what there is: {}", clocks.len());
}

//! Counts what the tests did: passed, failed, skipped. A skip that nobody allowed by name is a failure, and so is a breach
//! of safety, which the lab marks. It reads what the tests print and append; it runs nothing.

use std::collections::BTreeMap;

/// Begins the line by which the lab marks a breach of safety, as `tests/src/lab/safety.rs` has it.
const BREACH: &str = "SAFETY: ";

/// Sums over all test binaries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Tests that passed.
    pub passed: u64,
    /// Tests that failed.
    pub failed: u64,
    /// Names of those that said so.
    pub failed_names: Vec<String>,
    /// Names of those that failed first and passed when they were run once more, alone.
    pub second_try: Vec<String>,
    /// What broke a rule of safety, in the words of the tests.
    pub breaches: Vec<String>,
    /// Name and reason of each test that did not run.
    pub skipped: BTreeMap<String, String>,
}

impl Tally {
    /// Takes in one line of a test binary's output.
    pub fn take_line(&mut self, line: &str) {
        let line = line.trim();
        if let Some(counts) = line.strip_prefix("test result: ") {
            let number = |what: &str| {
                let mut parts = counts.split([';', '.']);
                parts.find_map(|part| part.trim().strip_suffix(what)?.trim().parse::<u64>().ok()).unwrap_or(0)
            };
            self.passed += number("passed");
            self.failed += number("failed");
        } else if let Some(skip) = line.strip_prefix("SKIP ") {
            self.skip(skip);
        } else if let Some(what) = line.strip_prefix(BREACH) {
            self.breaches.push(what.to_owned());
        } else if let Some(name) = line.strip_prefix("test ").and_then(|test| test.strip_suffix(" ... FAILED")) {
            self.failed_names.push(name.to_owned());
        } else if let Some(test) = line.strip_prefix("test ")
            && let Some((name, reason)) = test.split_once(" ... ignored")
        {
            let reason = reason.trim_start_matches([',', ' ']);
            self.skip(&format!("{name}: {}", if reason.is_empty() { "ignored" } else { reason }));
        }
    }

    /// Takes in the file that the tests appended their skips to.
    pub fn take_file(&mut self, text: &str) {
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            self.skip(line.strip_prefix("SKIP ").unwrap_or(line));
        }
    }

    /// Takes in one skip, as `name: reason`. A test path's `::` is no end of a name.
    fn skip(&mut self, skip: &str) {
        let (name, reason) = skip.split_once(": ").unwrap_or((skip, "no reason given"));
        self.skipped.insert(name.trim().to_owned(), reason.trim().to_owned());
    }

    /// Returns the skips that `allowed` does not name.
    pub fn unexpected<'a>(&'a self, allowed: &str) -> Vec<(&'a str, &'a str)> {
        let allowed: Vec<&str> = allowed_names(allowed).collect();
        let skips = self.skipped.iter().filter(|(name, _)| !allowed.contains(&name.as_str()));
        skips.map(|(name, reason)| (name.as_str(), reason.as_str())).collect()
    }
}

/// Returns the names in an allow file: one a line, `#` begins a comment.
fn allowed_names(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(|line| line.split('#').next().unwrap_or_default().trim()).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(lines: &str) -> Tally {
        let mut tally = Tally::default();
        lines.lines().for_each(|line| tally.take_line(line));
        tally
    }

    #[test]
    fn results_are_summed_over_binaries() {
        let tally = tally(
            "test result: ok. 9 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s\n\
             test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 3 filtered out; finished in 1.21s\n",
        );
        assert_eq!((tally.passed, tally.failed), (11, 1));
        assert!(tally.skipped.is_empty());
    }

    #[test]
    fn skips_come_from_output_and_file_and_count_once() {
        let mut tally =
            tally("SKIP lab::cut: not root\ntest long ... ignored, takes an hour\ntest x ... ignored\ntest y ... ok");
        tally.take_file("SKIP lab::cut: not root\nother: no bpffs\n\n");
        let expected = [("lab::cut", "not root"), ("long", "takes an hour"), ("other", "no bpffs"), ("x", "ignored")];
        assert_eq!(tally.unexpected(""), expected);
    }

    #[test]
    fn a_breach_is_noted_among_what_a_failed_test_has_printed() {
        let tally = tally(
            "test fault_05_x ... FAILED\n\nfailures:\n\n---- fault_05_x stdout ----\nfault_05_x: 20 rounds\n\
             SAFETY: node 2 acted until 9\n\nthread 'fault_05_x' panicked at tests/tests/views_split.rs:47:5:\n\
             called `Result::unwrap()` on an `Err` value: node 2 acted until 9\nof SAFETY: nothing more\n",
        );
        assert_eq!(tally.breaches, ["node 2 acted until 9"]);
        assert_eq!(tally.failed_names, ["fault_05_x"]);
    }

    #[test]
    fn the_lab_marks_breaches_as_they_are_read() {
        let path = crate::shell::root().join("tests/src/lab/safety.rs");
        let marked = format!("pub const MARK: &str = {BREACH:?};");
        assert!(std::fs::read_to_string(path).unwrap().contains(&marked), "{marked}");
    }

    #[test]
    fn only_the_skips_allowed_by_name_are_allowed() {
        let tally = tally("SKIP a: one\nSKIP b: two");
        assert_eq!(tally.unexpected("# nothing\n\n a # because\n"), [("b", "two")]);
        assert_eq!(tally.unexpected("a b\n").len(), 2, "one name a line");
        assert!(tally.unexpected("b\na\n").is_empty());
    }
}

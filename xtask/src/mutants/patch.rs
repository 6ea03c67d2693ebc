//! A mutant as its file tells it: what is broken, which rule that is, and which test is there for it. It applies nothing.

use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};

/// Fewest mutants that there are to be.
const LEAST: usize = 30;

/// A mutant.
#[derive(Clone, Debug)]
pub struct Patch {
    /// The file's name, without its ending.
    pub name: String,
    /// The file.
    pub file: PathBuf,
    /// The package whose unit tests are to kill it.
    pub package: String,
    /// These of them, each by itself.
    pub tests: Vec<String>,
}

/// Reads all mutants of a directory, by name.
///
/// # Errors
/// There are fewer than there have to be, one cannot be read, or one lacks a part of its head.
pub fn read_all(directory: &Path) -> Result<Vec<Patch>> {
    let entries = fs::read_dir(directory).with_context(|| directory.display().to_string())?;
    let mut patches = Vec::new();
    for entry in entries {
        let file = entry?.path();
        if file.extension().is_some_and(|ending| ending == "patch") {
            let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
            patches.push(read(&file, &text).with_context(|| file.display().to_string())?);
        }
    }
    patches.sort_by(|one, next| one.name.cmp(&next.name));
    ensure!(patches.len() >= LEAST, "{} mutants are too few", patches.len());
    Ok(patches)
}

fn read(file: &Path, text: &str) -> Result<Patch> {
    let (head, diff) = text.split_once("\n--- ").context("it has no diff")?;
    let values = |key: &str| -> Vec<String> {
        let lines = head.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix(": "));
        lines.map(|value| value.trim().to_owned()).filter(|value| !value.is_empty()).collect()
    };
    let (tests, packages) = (values("Test"), values("Package"));
    let said = head.lines().next().is_some_and(|line| line.ends_with('.'));
    ensure!(said, "its first line says in a sentence what is broken");
    ensure!(values("Rule").len() == 1, "it names one rule");
    ensure!(packages.len() == 1, "it names one package");
    ensure!(!tests.is_empty(), "it names no test");
    ensure!(diff.contains("\n+++ b/") && diff.contains("\n@@ "), "its diff is none");
    let name = file.file_stem().context("it has no name")?.to_string_lossy().into_owned();
    Ok(Patch { name, file: file.to_owned(), package: packages.concat(), tests })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str =
        "It breaks.\n\nRule: it holds\nPackage: p\nTest: a::b\nTest: c\n\n--- a/f\n+++ b/f\n@@ -1 +1 @@\n-a\n+b\n";

    #[test]
    fn a_head_is_read() {
        let patch = read(Path::new("/x/name.patch"), GOOD).unwrap();
        assert_eq!((patch.name.as_str(), patch.package.as_str()), ("name", "p"));
        assert_eq!(patch.tests, ["a::b", "c"]);
    }

    #[test]
    fn a_head_that_lacks_something_is_refused() {
        for part in
            ["It breaks.", "Rule: it holds\n", "Package: p\n", "Test: a::b\nTest: c\n", "+++ b/f\n", "@@ -1 +1 @@"]
        {
            let text = GOOD.replace(part, "");
            assert!(read(Path::new("name.patch"), &text).is_err(), "without {part:?}");
        }
    }
}

//! The copy of the tree that mutants are put into: made of the files that belong to the repository, and made good again
//! after each. What did not change is not written, so that little is built anew.

use crate::shell;
use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A copy.
pub struct Copied {
    root: PathBuf,
    place: PathBuf,
    files: BTreeSet<PathBuf>,
}

impl Copied {
    /// Copies the tree at `root` to `place`, or brings an earlier copy there up to date.
    ///
    /// # Errors
    /// A file cannot be listed, read or written.
    pub fn make(root: &Path, place: &Path) -> Result<Self> {
        let listed = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
        let files = shell::output(Command::new("git").args(listed).current_dir(root))?;
        let files = files.split('\0').filter(|file| !file.is_empty()).map(PathBuf::from);
        // A file that was removed and not committed yet is listed all the same.
        let files = files.filter(|file| root.join(file).is_file()).collect();
        let copied = Self { root: root.to_owned(), place: place.to_owned(), files };
        fs::create_dir_all(copied.tree()).with_context(|| copied.tree().display().to_string())?;
        copied.restore()?;
        Ok(copied)
    }

    /// Returns where the copy is.
    pub fn tree(&self) -> PathBuf {
        self.place.join("tree")
    }

    /// Returns the directory that it is in, which is no part of it.
    pub fn place(&self) -> &Path {
        &self.place
    }

    /// Makes the copy what the tree is.
    ///
    /// # Errors
    /// A file cannot be read, written or removed.
    pub fn restore(&self) -> Result<()> {
        for file in &self.files {
            let (from, to) = (self.root.join(file), self.tree().join(file));
            let bytes = fs::read(&from).with_context(|| from.display().to_string())?;
            if fs::read(&to).is_ok_and(|old| old == bytes) {
                continue;
            }
            if let Some(directory) = to.parent() {
                fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
            }
            fs::write(&to, bytes).with_context(|| to.display().to_string())?;
        }
        let mut there = Vec::new();
        list(&self.tree(), &mut there)?;
        for path in there {
            if path.strip_prefix(self.tree()).is_ok_and(|file| !self.files.contains(file)) {
                fs::remove_file(&path).with_context(|| path.display().to_string())?;
            }
        }
        Ok(())
    }

    /// Applies a patch to the copy, whole or not at all.
    ///
    /// # Errors
    /// It does not apply: the code that it is about was changed, and it has to follow.
    pub fn apply(&self, patch: &Path) -> Result<()> {
        shell::output(applying(&self.tree()).arg(patch)).context("it does not apply: it has to follow the code")?;
        Ok(())
    }
}

/// Returns the command that applies the patches that it is given yet to the tree there.
pub fn applying(tree: &Path) -> Command {
    let mut command = Command::new("git");
    command.args(["apply", "--whitespace=nowarn"]).current_dir(tree);
    // A copy lies within the repository, and is none of its files: git would pass over all of them and say nothing.
    if let Some(above) = tree.parent() {
        command.env("GIT_CEILING_DIRECTORIES", above);
    }
    command
}

fn list(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            list(&entry.path(), files)?;
        } else {
            files.push(entry.path());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn git(directory: &Path, arguments: &[&str]) {
        shell::output(Command::new("git").args(arguments).current_dir(directory)).unwrap();
    }

    #[test]
    fn a_copy_is_patched_and_made_good_again() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        fs::write(&file, "one\n").unwrap();
        fs::write(root.path().join(".gitignore"), "target\n").unwrap();
        git(root.path(), &["init", "--quiet"]);
        git(root.path(), &["add", "."]);
        let copied = Copied::make(root.path(), &root.path().join("target/mutants")).unwrap();
        let there = copied.tree().join("file");
        assert_eq!(fs::read_to_string(&there).unwrap(), "one\n");
        let patch = root.path().join("target/p.patch");
        fs::write(&patch, "It breaks.\n\n--- a/file\n+++ b/file\n@@ -1 +1 @@\n-one\n+two\n").unwrap();
        copied.apply(&patch).unwrap();
        assert_eq!(fs::read_to_string(&there).unwrap(), "two\n");
        assert!(copied.apply(&patch).is_err(), "what does not apply is an error");
        fs::write(copied.tree().join("other"), "").unwrap();
        copied.restore().unwrap();
        assert_eq!(fs::read_to_string(&there).unwrap(), "one\n");
        assert!(!copied.tree().join("other").exists());
        assert_eq!(fs::read_to_string(&file).unwrap(), "one\n", "the tree itself is never touched");
    }
}

//! What root does to the kernel's objects behind a daemon's back, by bpftool. It knows pins and maps; what should come of
//! it is the test's to know.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Runs bpftool and returns its answer, null where it gives none.
///
/// # Errors
/// What it says if it fails.
///
/// # Panics
/// If there is no bpftool.
pub fn bpftool(words: &[&str]) -> Result<Value, String> {
    let output = Command::new("bpftool").arg("-j").args(words).output().expect("bpftool is installed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    match output.status.success() {
        true => Ok(serde_json::from_str(&text).unwrap_or(Value::Null)),
        false => Err(format!("{words:?}: {text}{}", String::from_utf8_lossy(&output.stderr))),
    }
}

/// The pinned XDP links in a directory.
///
/// # Panics
/// If it cannot be read.
#[must_use]
pub fn links_in(directory: &Path) -> Vec<PathBuf> {
    let pins = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    pins.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("xdp-")).collect()
}

/// Pins a new map of one entry at `path`; `value` is the entry's size.
///
/// # Panics
/// If it cannot be made.
pub fn pin_a_map(path: &Path, value: &str, name: &str) {
    let words =
        ["map", "create", text(path), "type", "array", "key", "4", "value", value, "entries", "1", "name", name];
    bpftool(&words).unwrap();
}

/// A path as a word of a command line.
///
/// # Panics
/// If it is no text.
#[must_use]
pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

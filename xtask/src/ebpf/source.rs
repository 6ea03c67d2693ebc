//! What the kernel objects are made of: the hash over it, and the binaries it declares.
//! It reads the tree and changes nothing.

use super::manifest::hex;
use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};

/// Directory of the kernel program.
pub const DIRECTORY: &str = "heartbeat-ebpf";
/// Where the objects are committed.
pub const OBJECTS: &str = "heartbeat-user/bpf";

/// Files and directories that an object is made of. Unit tests are left out: they cannot reach an object.
const SOURCES: &[&str] = &[
    "heartbeat-ebpf/src",
    "heartbeat-ebpf/Cargo.toml",
    "heartbeat-ebpf/Cargo.lock",
    "heartbeat-common/src",
    "heartbeat-common/Cargo.toml",
];

/// The object of each binary.
const NAMES: &[(&str, &str)] = &[("heartbeat", "heartbeat.bpfel.o"), ("bench", "heartbeat-bench.bpfel.o")];

/// Hashes the source under `root` together with the compiler flags that decide about the code.
///
/// # Errors
/// A file cannot be read.
pub fn hash(root: &Path, flags: &[&str]) -> Result<String> {
    let mut files = Vec::new();
    for source in SOURCES {
        collect(&root.join(source), &mut files)?;
    }
    files.sort();
    let mut hash = Sha256::new();
    for file in files {
        let content = fs::read(&file).with_context(|| file.display().to_string())?;
        let name = file.strip_prefix(root).unwrap_or(&file).to_string_lossy().into_owned();
        for part in [name.as_bytes(), &content] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
    }
    for flag in flags {
        hash.update((flag.len() as u64).to_le_bytes());
        hash.update(flag);
    }
    Ok(hex(&hash.finalize()))
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let name = path.file_name().unwrap_or_default();
    if name == "tests" || name == "tests.rs" {
        return Ok(());
    }
    if !path.is_dir() {
        files.push(path.to_path_buf());
        return Ok(());
    }
    for entry in fs::read_dir(path).with_context(|| path.display().to_string())? {
        collect(&entry?.path(), files)?;
    }
    Ok(())
}

/// Returns (binary, object) of every binary that the kernel program's Cargo.toml declares.
///
/// # Errors
/// The file cannot be read, or declares a binary that has no object name here.
pub fn bins(root: &Path) -> Result<Vec<(String, String)>> {
    let path = root.join(DIRECTORY).join("Cargo.toml");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    parse_bins(&text).with_context(|| path.display().to_string())
}

fn parse_bins(text: &str) -> Result<Vec<(String, String)>> {
    let table: toml::Table = text.parse()?;
    let declared = table.get("bin").and_then(toml::Value::as_array).context("it declares no [[bin]]")?;
    let names = declared.iter().filter_map(|bin| bin.get("name")?.as_str());
    names
        .map(|bin| match NAMES.iter().find(|(known, _)| *known == bin) {
            Some((_, object)) => Ok((bin.to_owned(), (*object).to_owned())),
            None => bail!("binary `{bin}` has no object name: add it to NAMES in xtask/src/ebpf/source.rs"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for path in ["heartbeat-ebpf/src", "heartbeat-common/src/frame"] {
            fs::create_dir_all(directory.path().join(path)).unwrap();
        }
        for path in [
            "heartbeat-ebpf/src/main.rs",
            "heartbeat-ebpf/Cargo.toml",
            "heartbeat-ebpf/Cargo.lock",
            "heartbeat-common/src/frame.rs",
            "heartbeat-common/src/frame/tests.rs",
            "heartbeat-common/Cargo.toml",
        ] {
            fs::write(directory.path().join(path), path).unwrap();
        }
        directory
    }

    #[test]
    fn the_hash_does_not_depend_on_the_place() {
        assert_eq!(hash(tree().path(), &["-a"]).unwrap(), hash(tree().path(), &["-a"]).unwrap());
    }

    #[test]
    fn every_part_counts_but_unit_tests() {
        let tree = tree();
        let before = hash(tree.path(), &["-a"]).unwrap();
        assert_ne!(hash(tree.path(), &["-b"]).unwrap(), before, "flags");
        assert_ne!(hash(tree.path(), &["-", "a"]).unwrap(), before, "where a flag ends");

        fs::write(tree.path().join("heartbeat-common/src/frame/tests.rs"), "more").unwrap();
        assert_eq!(hash(tree.path(), &["-a"]).unwrap(), before, "unit tests");

        let from = tree.path().join("heartbeat-common/src/frame.rs");
        fs::write(&from, "changed").unwrap();
        assert_ne!(hash(tree.path(), &["-a"]).unwrap(), before, "content");
        fs::write(&from, "heartbeat-common/src/frame.rs").unwrap();
        assert_eq!(hash(tree.path(), &["-a"]).unwrap(), before);
        fs::rename(&from, tree.path().join("heartbeat-common/src/frames.rs")).unwrap();
        assert_ne!(hash(tree.path(), &["-a"]).unwrap(), before, "name");
    }

    #[test]
    fn a_missing_file_is_an_error() {
        let tree = tree();
        fs::remove_file(tree.path().join("heartbeat-ebpf/Cargo.lock")).unwrap();
        assert!(hash(tree.path(), &[]).unwrap_err().to_string().contains("Cargo.lock"));
    }

    #[test]
    fn binaries_are_those_declared() {
        let both = "[[bin]]\nname = \"heartbeat\"\n[[bin]]\nname = \"bench\"\n";
        let pair = |bin: &str, object: &str| (bin.to_owned(), object.to_owned());
        let expected = [pair("heartbeat", "heartbeat.bpfel.o"), pair("bench", "heartbeat-bench.bpfel.o")];
        assert_eq!(parse_bins(both).unwrap(), expected);
        assert!(parse_bins("[[bin]]\nname = \"other\"\n").unwrap_err().to_string().contains("`other`"));
        assert!(parse_bins("[package]\nname = \"x\"\n").is_err());
    }
}

//! The manifest beside the committed objects: what they were built from, and by which tools.
//! It compares facts; it builds nothing.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::Path;

/// Version of the manifest's own form.
pub const SCHEMA: u32 = 1;
/// File name of the manifest, in the objects' directory.
pub const FILE: &str = "heartbeat.bpf.json";

/// What was built, from what, by what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Version of the map layout.
    pub map_abi: u32,
    /// Hash of everything that the objects are made of: see `source::hash`.
    pub source_hash: String,
    /// Instruction set of the objects.
    pub target_cpu: String,
    /// The tools that made them.
    pub tools: Tools,
    /// The objects.
    pub objects: Vec<Entry>,
}

/// Versions of the tools that decide about the bytes of an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tools {
    /// The compiler's own version line.
    pub rustc: String,
    /// Version of the LLVM that links and strips.
    pub llvm: String,
    /// Version of bpf-linker.
    pub bpf_linker: String,
}

/// One committed object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Name of the binary in the kernel program's Cargo.toml.
    pub bin: String,
    /// File name, in the objects' directory.
    pub file: String,
    /// SHA-256 of the file, in hex.
    pub sha256: String,
    /// Size of the file.
    pub bytes: u64,
}

impl Entry {
    /// Describes an object.
    pub fn of(bin: &str, file: &str, content: &[u8]) -> Self {
        Self { bin: bin.into(), file: file.into(), sha256: sha256(content), bytes: content.len() as u64 }
    }
}

impl Manifest {
    /// Reads the manifest in `directory`.
    ///
    /// # Errors
    /// It is missing, or not of this form.
    pub fn read(directory: &Path) -> Result<Self> {
        let path = directory.join(FILE);
        let text = fs::read_to_string(&path).with_context(|| {
            format!("{}: run `cargo xtask build-ebpf` and commit the objects with it", path.display())
        })?;
        serde_json::from_str(&text).with_context(|| format!("{}: not a manifest of this version", path.display()))
    }

    /// Writes the manifest into `directory`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, directory: &Path) -> Result<()> {
        let path = directory.join(FILE);
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(&path, text).with_context(|| path.display().to_string())
    }

    /// Returns what is wrong with the committed files, one line each, without building anything.
    ///
    /// `bins` are the (binary, object) pairs that there should be.
    pub fn faults(&self, directory: &Path, source_hash: &str, map_abi: u32, bins: &[(String, String)]) -> Vec<String> {
        const REMEDY: &str = "run `cargo xtask build-ebpf` and commit the objects with their manifest";
        let mut faults = Vec::new();
        if self.schema != SCHEMA {
            faults.push(format!("{FILE}: schema {} where {SCHEMA} is expected: {REMEDY}", self.schema));
        }
        if self.source_hash != source_hash {
            faults.push(format!("the source of the kernel program changed since the objects were built: {REMEDY}"));
        }
        if self.map_abi != map_abi {
            faults.push(format!("the objects have map ABI {}, the source has {map_abi}: {REMEDY}", self.map_abi));
        }
        for (bin, file) in bins {
            match self.objects.iter().find(|entry| entry.bin == *bin && entry.file == *file) {
                None => faults.push(format!("{file}: not in {FILE}: {REMEDY}")),
                Some(entry) => faults.extend(entry.fault(directory).map(|fault| format!("{fault}: {REMEDY}"))),
            }
        }
        for entry in self.objects.iter().filter(|entry| !bins.iter().any(|(bin, _)| *bin == entry.bin)) {
            faults.push(format!("{}: made of `{}`, which the source no longer has: {REMEDY}", entry.file, entry.bin));
        }
        faults
    }
}

impl Entry {
    fn fault(&self, directory: &Path) -> Option<String> {
        let content = match fs::read(directory.join(&self.file)) {
            Ok(content) => content,
            Err(error) => return Some(format!("{}: {error}", self.file)),
        };
        (Self::of(&self.bin, &self.file, &content) != *self)
            .then(|| format!("{}: not the file that {FILE} describes", self.file))
    }
}

/// Returns a SHA-256 in hex.
pub fn sha256(content: &[u8]) -> String {
    hex(&Sha256::digest(content))
}

/// Returns bytes in hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn committed(directory: &Path) -> (Manifest, Vec<(String, String)>) {
        fs::write(directory.join("a.o"), b"object").unwrap();
        let manifest = Manifest {
            schema: SCHEMA,
            map_abi: 1,
            source_hash: "cafe".into(),
            target_cpu: "v3".into(),
            tools: Tools { rustc: "1".into(), llvm: "2".into(), bpf_linker: "3".into() },
            objects: vec![Entry::of("a", "a.o", b"object")],
        };
        (manifest, vec![("a".into(), "a.o".into())])
    }

    #[test]
    fn what_is_written_is_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let (manifest, _) = committed(directory.path());
        manifest.write(directory.path()).unwrap();
        assert_eq!(Manifest::read(directory.path()).unwrap(), manifest);
    }

    #[test]
    fn a_missing_manifest_names_the_remedy() {
        let directory = tempfile::tempdir().unwrap();
        let error = Manifest::read(directory.path()).unwrap_err();
        assert!(error.to_string().contains("cargo xtask build-ebpf"), "{error}");
    }

    #[test]
    fn good_files_have_no_fault_and_each_fault_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        let (good, bins) = committed(at);
        assert_eq!(good.faults(at, "cafe", 1, &bins), [""; 0]);

        let one = |manifest: &Manifest, hash: &str, abi: u32, bins: &[(String, String)]| {
            let faults = manifest.faults(at, hash, abi, bins);
            assert_eq!(faults.len(), 1, "{faults:?}");
            faults[0].clone()
        };
        assert!(one(&good, "beef", 1, &bins).starts_with("the source of the kernel program changed"));
        assert!(one(&good, "cafe", 2, &bins).contains("map ABI 1"));
        assert!(one(&Manifest { schema: 0, ..good.clone() }, "cafe", 1, &bins).contains("schema 0"));
        assert!(one(&good, "cafe", 1, &[]).contains("no longer has"));
        let more = [bins.clone(), vec![("b".into(), "b.o".into())]].concat();
        assert!(one(&good, "cafe", 1, &more).starts_with("b.o: not in"));
        fs::write(at.join("a.o"), b"0bject").unwrap();
        assert!(one(&good, "cafe", 1, &bins).starts_with("a.o: not the file"));
        fs::remove_file(at.join("a.o")).unwrap();
        assert!(one(&good, "cafe", 1, &bins).starts_with("a.o: No such file"));
    }

    #[test]
    fn sha256_of_nothing() {
        assert_eq!(sha256(b""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }
}

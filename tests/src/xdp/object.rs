//! The committed object: loads it as it is, or with its lock or its word on fragments taken out, to show what they are
//! there for. It changes nothing on disk.

use anyhow::{Context as _, Result, bail};
use aya::{Ebpf, EbpfLoader};
use std::path::PathBuf;

/// Path of the object under test: the committed one, or what `HEARTBEAT_OBJECT` names.
#[must_use]
pub fn path() -> PathBuf {
    std::env::var_os("HEARTBEAT_OBJECT").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../heartbeat-user/bpf/heartbeat.bpfel.o")),
        PathBuf::from,
    )
}

/// Loads the object.
///
/// # Errors
/// If it cannot be read, parsed, or is refused by the kernel when its maps are made.
pub fn load() -> Result<Ebpf> {
    load_bytes(&read()?)
}

/// Loads the object with each compare-and-exchange made a plain store: writers of a tick are then not serialised.
/// The lock word still turns odd and even, so a reader that heeds it is misled by the writers alone.
///
/// # Errors
/// As [`load`]; also if the object has no compare-and-exchange.
pub fn load_unlocked() -> Result<Ebpf> {
    let mut bytes = read()?;
    let mut patched = 0;
    for instruction in bytes.chunks_exact_mut(8) {
        // BPF_STX | BPF_ATOMIC | BPF_DW with BPF_CMPXCHG becomes BPF_STX | BPF_MEM | BPF_DW. It leaves r0, which
        // the program compares with what it expected to find, at what it expected.
        if instruction[0] == 0xdb && instruction[4..8] == [0xf1, 0, 0, 0] {
            instruction[0] = 0x7b;
            instruction[4..8].fill(0);
            patched += 1;
        }
    }
    if patched == 0 {
        bail!("no lock found in the object");
    }
    load_bytes(&bytes)
}

/// Loads the object as if the program took no frames of several buffers: the name of its section says that it does.
///
/// # Errors
/// As [`load`]; also if the object does not say so.
pub fn load_without_fragments() -> Result<Ebpf> {
    const NAME: &[u8] = b"xdp.frags\0";
    const PLAIN: &[u8] = b"xdp\0\0\0\0\0\0\0";
    let mut bytes = read()?;
    let mut patched = 0;
    for at in 0..bytes.len().saturating_sub(NAME.len()) {
        if bytes[at..].starts_with(NAME) {
            bytes[at..at + NAME.len()].copy_from_slice(PLAIN);
            patched += 1;
        }
    }
    if patched == 0 {
        bail!("the object does not take fragments");
    }
    load_bytes(&bytes)
}

fn read() -> Result<Vec<u8>> {
    let path = path();
    std::fs::read(&path).with_context(|| format!("reading {}", path.display()))
}

fn load_bytes(bytes: &[u8]) -> Result<Ebpf> {
    EbpfLoader::new().load(bytes).context("loading the kernel program's object")
}

//! `cargo xtask build-ebpf`: builds the kernel objects, or proves that the committed ones are what the source builds.
//! It writes nothing but the objects and their manifest, and those only when everything was built.

pub mod manifest;
mod object;
mod source;
mod toolchain;

use crate::apt::{self, Need};
use crate::shell;
use anyhow::{Context, Result, bail};
use manifest::{Entry, Manifest};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use toolchain::Toolchain;

const TARGET: &str = "bpfel-unknown-none";
const TARGET_CPU: &str = "v3";
/// Flags that decide about the code. BTF needs full debug information; atomics need instruction set v3.
const FLAGS: &[&str] = &["-Cdebuginfo=2", "-Ctarget-cpu=v3", "-Clink-arg=--btf"];

/// Options of `build-ebpf`.
#[derive(clap::Args, Debug)]
pub struct Options {
    /// Build nothing anew for good: prove that the committed objects are what the source builds
    #[arg(long, conflicts_with_all = ["features", "out"])]
    check: bool,
    /// Cargo features of the kernel program, such as `log`: for development, never committed
    #[arg(long, requires = "out")]
    features: Option<String>,
    /// Write the main object to FILE and leave the committed ones alone
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Does what the options ask for.
///
/// # Errors
/// The toolchain cannot be had, the build failed, or a committed object is not what the source builds.
pub fn run(options: &Options) -> Result<()> {
    if options.check {
        return check();
    }
    let root = shell::root();
    let toolchain = Toolchain::ensure(&root)?;
    let built = build(&root, &toolchain, options.features.as_deref())?;
    match &options.out {
        Some(path) => write_one(path, &built),
        None => commit(&root, &toolchain, &built),
    }
}

/// An object as built.
struct Built {
    bin: String,
    file: String,
    content: Vec<u8>,
}

/// Checks the committed objects without building: whether they are those of the manifest, and whether the source is.
///
/// # Errors
/// They are not; the error names each fault and the remedy.
fn check_committed(root: &Path) -> Result<Manifest> {
    let directory = root.join(source::OBJECTS);
    let manifest = Manifest::read(&directory)?;
    let abi = heartbeat_common::maps::ABI;
    let faults = manifest.faults(&directory, &source::hash(root, FLAGS)?, abi, &source::bins(root)?);
    if !faults.is_empty() {
        bail!("{}", faults.join("\n"));
    }
    println!("build-ebpf: the committed objects are those of {}, and the source is theirs", manifest::FILE);
    Ok(manifest)
}

/// Proves that the committed objects are what the source builds.
///
/// # Errors
/// They are not, or the toolchain cannot be had.
pub fn check() -> Result<()> {
    let root = &shell::root();
    let manifest = check_committed(root)?;
    let toolchain = Toolchain::ensure(root)?;
    let same_tools = manifest.tools == toolchain.tools;
    if !same_tools {
        println!(
            "build-ebpf: the tools here are not the manifest's, so program sections are compared instead of bytes\n  \
             here:     {:?}\n  manifest: {:?}",
            toolchain.tools, manifest.tools
        );
    }
    let mut faults = Vec::new();
    for built in build(root, &toolchain, None)? {
        let committed = fs::read(root.join(source::OBJECTS).join(&built.file)).with_context(|| built.file.clone())?;
        if same_tools && committed == built.content {
            println!("build-ebpf: {}: {} bytes, all as built here", built.file, committed.len());
            continue;
        }
        let sections = object::differences(&committed, &built.content).with_context(|| built.file.clone())?;
        match (same_tools, sections.is_empty()) {
            (false, true) => println!("build-ebpf: {}: every program section is as built here", built.file),
            (true, true) => {
                faults.push(format!("{}: differs from what is built here in debug information", built.file))
            }
            (_, false) => {
                faults.push(format!("{}: differs from what is built here in {}", built.file, sections.join(", ")));
            }
        }
    }
    if !faults.is_empty() {
        bail!("{}\nrun `cargo xtask build-ebpf` and commit the objects with their manifest", faults.join("\n"));
    }
    Ok(())
}

/// Runs clippy over the kernel program, with warnings denied.
///
/// # Errors
/// It warns, or the toolchain cannot be had.
pub fn lint() -> Result<()> {
    let root = shell::root();
    let toolchain = Toolchain::ensure(&root)?;
    apt::ensure("lint the kernel program", &[Need::Package("rust-web-clippy".into())])?;
    let mut cargo = toolchain.cargo(&root.join(source::DIRECTORY));
    cargo.args(["check", "--locked", "--release", "--target", TARGET, "--bins", "--target-dir"]);
    // The wrapper gets only the crates of this tree; the lints of its arguments hold for them alone.
    cargo.arg(root.join("target/ebpf-lints")).env("RUSTC_WORKSPACE_WRAPPER", "/usr/bin/clippy-driver");
    shell::run(cargo.env("CLIPPY_ARGS", "-D__CLIPPY_HACKERY__warnings__CLIPPY_HACKERY__"))
}

/// Writes the objects and the manifest to where they are committed.
fn commit(root: &Path, toolchain: &Toolchain, built: &[Built]) -> Result<()> {
    let directory = root.join(source::OBJECTS);
    fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
    for object in built {
        write(&directory.join(&object.file), &object.content)?;
    }
    let manifest = Manifest {
        schema: manifest::SCHEMA,
        map_abi: heartbeat_common::maps::ABI,
        source_hash: source::hash(root, FLAGS)?,
        target_cpu: TARGET_CPU.to_owned(),
        tools: toolchain.tools.clone(),
        objects: built.iter().map(|object| Entry::of(&object.bin, &object.file, &object.content)).collect(),
    };
    manifest.write(&directory)
}

fn write_one(path: &Path, built: &[Built]) -> Result<()> {
    let main = built.first().context("nothing was built")?;
    write(path, &main.content)
}

fn write(path: &Path, content: &[u8]) -> Result<()> {
    fs::write(path, content).with_context(|| path.display().to_string())?;
    println!("build-ebpf: {}: {} bytes, sha256 {}", path.display(), content.len(), manifest::sha256(content));
    Ok(())
}

/// Builds every binary of the kernel program. `features` go to the binaries' crate.
fn build(root: &Path, toolchain: &Toolchain, features: Option<&str>) -> Result<Vec<Built>> {
    let bins = source::bins(root)?;
    let crate_directory = root.join(source::DIRECTORY);
    // The sources of dependencies have to be there before the folders that hold them can be named below.
    let fetch = &mut toolchain.cargo(&crate_directory);
    shell::run(fetch.args(["fetch", "--locked", "--quiet", "--target", TARGET]))
        .context("is heartbeat-ebpf/Cargo.lock up to date? (cargo update --workspace there)")?;

    // Apart from ordinary builds, so that a development build does not make the next one compile everything.
    let target = root.join("target").join(if features.is_some() { "ebpf-development" } else { "ebpf" });
    let mut cargo = toolchain.cargo(&crate_directory);
    cargo.args(["build", "--locked", "--release", "--target", TARGET, "--bins", "--target-dir"]).arg(&target);
    if let Some(features) = features {
        cargo.args(["--features", features]);
    }
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags(root, &toolchain::cargo_home()?, toolchain)?);
    shell::run(&mut cargo)?;

    let release = target.join(TARGET).join("release");
    bins.into_iter()
        .map(|(bin, file)| {
            let content = strip(toolchain, &release.join(&bin), &target.join(&file))?;
            object::refuse_unordered(&content).with_context(|| file.clone())?;
            Ok(Built { bin, file, content })
        })
        .collect()
}

/// Returns all compiler flags, as cargo takes them: source paths are replaced by names that are the same everywhere.
fn flags(root: &Path, cargo_home: &Path, toolchain: &Toolchain) -> Result<OsString> {
    let mut flags: Vec<OsString> = FLAGS.iter().map(OsString::from).collect();
    let pair = |name: &str, path: &Path, to: &str| {
        let mut flag = OsString::from(name);
        flag.push(path);
        flag.push(to);
        flag
    };
    flags.push(pair("-Clinker=", &toolchain.linker, ""));
    flags.push(pair("--remap-path-prefix=", root, "=/heartbeat"));
    // One folder a registry; a mirror has another name, and must not change a byte.
    let sources = cargo_home.join("registry/src");
    let mut folders = Vec::new();
    for folder in fs::read_dir(&sources).with_context(|| sources.display().to_string())? {
        folders.push(folder?.path());
    }
    folders.sort();
    flags.extend(folders.iter().map(|folder| pair("--remap-path-prefix=", folder, "=/cargo")));
    let library = PathBuf::from(format!("/usr/src/rustc-{}", toolchain.release));
    flags.push(pair("--remap-path-prefix=", &library, "=/rustc"));
    Ok(flags.join(std::ffi::OsStr::new("\u{1f}")))
}

/// Strips a linked object down to what loaders read, and returns it.
///
/// Line information stays, for verifier logs. Its relocations go: they are all against the start of a section, so
/// that no loader applies them, and they are as large as the information itself. What the compiler named goes by names
/// that are the same everywhere.
fn strip(toolchain: &Toolchain, from: &Path, to: &Path) -> Result<Vec<u8>> {
    let mut nm = Command::new(toolchain.llvm.join("llvm-nm"));
    let symbols = shell::output(nm.args(["--defined-only", "--format=just-symbols"]).arg(from))?;
    let mut objcopy = Command::new(toolchain.llvm.join("llvm-objcopy"));
    objcopy.args(["--strip-debug", "--remove-section=.rel.BTF", "--remove-section=.rel.BTF.ext"]);
    for symbol in symbols.lines() {
        if let Some(name) = without_crate_hash(symbol) {
            objcopy.arg(format!("--redefine-sym={symbol}={name}"));
        }
    }
    shell::run(objcopy.args([from, to]))?;
    fs::read(to).with_context(|| to.display().to_string())
}

/// Returns a mangled name (RFC 2603) without the hash of its crate, which is of the directory that it was built in;
/// `None`: it has none.
fn without_crate_hash(symbol: &str) -> Option<String> {
    let at = symbol.strip_prefix("_R")?.find("Cs")? + "_R".len();
    let (hash, rest) = symbol[at + "Cs".len()..].split_once('_')?;
    let is_hash = !hash.is_empty() && hash.bytes().all(|byte| byte.is_ascii_alphanumeric());
    is_hash.then(|| format!("{}C{rest}", &symbol[..at]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_does_not_say_where_it_was_built() {
        let name = without_crate_hash("_RNvNtCs15kW1RytPAK_9heartbeat3xdp20turn_acknowledgement");
        assert_eq!(name.as_deref(), Some("_RNvNtC9heartbeat3xdp20turn_acknowledgement"));
        for other in ["memcpy", "acknowledge", "_RNvNtC9heartbeat3xdp4turn", "HINTCs_1"] {
            assert_eq!(without_crate_hash(other), None, "{other}");
        }
    }
}

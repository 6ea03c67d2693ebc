//! The toolchain of the kernel objects: Debian's compiler with its BPF core library, and bpf-linker.
//! It installs what is missing and says so; it never touches the toolchain of the rest.

use super::manifest::Tools;
use crate::apt::{self, Need};
use crate::shell;
use anyhow::{Context, Result, bail};
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Version of bpf-linker: another one may make other bytes of the same source.
const BPF_LINKER: &str = "0.13.0";
/// Versions of LLVM that this bpf-linker can be built with.
const LLVM_VERSIONS: std::ops::RangeInclusive<u32> = 21..=23;
const RUSTC: &str = "/usr/bin/rustc";
const CARGO: &str = "/usr/bin/cargo";

/// Tools that were found, and what they are.
pub struct Toolchain {
    /// bpf-linker.
    pub linker: PathBuf,
    /// Where LLVM's own tools are.
    pub llvm: PathBuf,
    /// The compiler's release, such as `1.96.0`.
    pub release: String,
    /// What the manifest says about them.
    pub tools: Tools,
}

impl Toolchain {
    /// Finds the toolchain, and installs what is missing; bpf-linker goes under `root`/target/tools.
    ///
    /// # Errors
    /// Something is missing and cannot be installed from here; the error says what to type.
    pub fn ensure(root: &Path) -> Result<Self> {
        const PACKAGES: &[&str] =
            &["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf", "g++", "zlib1g-dev", "libzstd-dev", "libxml2-dev"];
        let needs: Vec<Need> = PACKAGES.iter().map(|name| Need::Package((*name).into())).collect();
        apt::ensure("build the kernel objects", &needs)?;

        let version = shell::output(clean(&mut Command::new(RUSTC)).arg("-vV"))?;
        let release = field(&version, "release")?.to_owned();
        let major = llvm_major(field(&version, "LLVM version")?)?;
        apt::ensure("link the kernel objects", &[Need::Package(format!("llvm-{major}-dev"))])?;
        let prefix = PathBuf::from(format!("/usr/lib/llvm-{major}"));
        let llvm = prefix.join("bin");
        let tools = Tools {
            rustc: version.lines().next().unwrap_or_default().trim_start_matches("rustc ").to_owned(),
            llvm: shell::output(Command::new(llvm.join("llvm-config")).arg("--version"))?.trim().to_owned(),
            bpf_linker: BPF_LINKER.to_owned(),
        };
        let linker = ensure_linker(root, major, &prefix)?;
        Ok(Self { linker, llvm, release, tools })
    }

    /// Returns a call of Debian's cargo that sees nothing of the cargo that runs this task.
    pub fn cargo(&self, directory: &Path) -> Command {
        let mut command = Command::new(CARGO);
        // The compiler's version is checked above, so what is "unstable" cannot change under us.
        clean(&mut command).current_dir(directory).env("RUSTC", RUSTC).env("RUSTC_BOOTSTRAP", "1");
        command
    }
}

/// Returns the value of a line of `rustc -vV`.
fn field<'a>(version: &'a str, name: &str) -> Result<&'a str> {
    let value = version.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    value.with_context(|| format!("`{RUSTC} -vV` has no line `{name}`"))
}

/// Returns the LLVM to link with: the compiler's own, as an older one cannot read its code.
fn llvm_major(version: &str) -> Result<u32> {
    let major = version.split('.').next().and_then(|major| major.parse().ok());
    let major = major.with_context(|| format!("`{version}` is not a version of LLVM"))?;
    if !LLVM_VERSIONS.contains(&major) {
        bail!(
            "{RUSTC} comes with LLVM {major}, but bpf-linker {BPF_LINKER} links with {} to {}: another bpf-linker is \
             needed (BPF_LINKER in xtask/src/ebpf/toolchain.rs)",
            LLVM_VERSIONS.start(),
            LLVM_VERSIONS.end()
        );
    }
    Ok(major)
}

fn ensure_linker(root: &Path, major: u32, prefix: &Path) -> Result<PathBuf> {
    let directory = root.join(format!("target/tools/bpf-linker-{BPF_LINKER}-llvm{major}"));
    let linker = directory.join("bin/bpf-linker");
    let works = |linker: &Path| {
        let version = shell::output(Command::new(linker).arg("--version"));
        version.is_ok_and(|version| version.split_whitespace().any(|word| word == BPF_LINKER))
    };
    if works(&linker) {
        return Ok(linker);
    }
    println!("installing bpf-linker {BPF_LINKER} into {} (once, a minute or two)", directory.display());
    let mut install = shell::cargo();
    install
        .args(["install", "bpf-linker", "--locked", "--force", "--version", BPF_LINKER, "--no-default-features"])
        .args(["--features", &format!("llvm-{major}"), "--root"])
        .arg(&directory)
        .env_remove("CARGO_TARGET_DIR") // Its own scratch directory, removed when it is done.
        // Without it the build looks for LLVM in /usr/lib64 alone.
        .env("LLVM_PREFIX", prefix);
    shell::run(&mut install)?;
    if !works(&linker) {
        bail!("{} was installed but is not bpf-linker {BPF_LINKER}", linker.display());
    }
    Ok(linker)
}

/// Takes away what the outer cargo and rustup put into the environment.
fn clean(command: &mut Command) -> &mut Command {
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(leaks) {
            command.env_remove(name);
        }
    }
    command
}

/// Says whether an environment variable would change what another cargo builds. Where to download from may stay.
fn leaks(name: &str) -> bool {
    const KEPT: &[&str] = &["CARGO_HOME", "CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTR", "CARGO_SOURCE_", "CARGO_TERM_"];
    const TAKEN: &[&str] = &["CARGO", "RUSTC", "RUSTDOC", "RUSTFLAGS", "RUSTUP_", "RUST_RECURSION", "LD_LIBRARY_PATH"];
    let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
    starts(TAKEN) && !starts(KEPT)
}

/// Returns the home of cargo: where it keeps the sources of dependencies.
///
/// # Errors
/// Neither CARGO_HOME nor HOME is set.
pub fn cargo_home() -> Result<PathBuf> {
    let home = || env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo"));
    env::var_os("CARGO_HOME").map(PathBuf::from).or_else(home).context("neither CARGO_HOME nor HOME is set")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outer_toolchain_does_not_leak() {
        for name in
            ["CARGO", "CARGO_MANIFEST_DIR", "CARGO_TARGET_DIR", "RUSTUP_TOOLCHAIN", "RUSTFLAGS", "RUSTC_WRAPPER"]
        {
            assert!(leaks(name), "{name}");
        }
        for name in ["CARGO_HOME", "CARGO_HTTP_CAINFO", "CARGO_REGISTRIES_X_INDEX", "PATH", "HOME", "https_proxy"] {
            assert!(!leaks(name), "{name}");
        }
    }

    #[test]
    fn facts_are_read_from_the_compilers_words() {
        let version = "rustc 1.96.0 (ac68 2026-05-25)\nbinary: rustc\nrelease: 1.96.0\nLLVM version: 22.1.8\n";
        assert_eq!(field(version, "release").unwrap(), "1.96.0");
        assert_eq!(llvm_major(field(version, "LLVM version").unwrap()).unwrap(), 22);
        assert!(field(version, "host").is_err());
    }

    #[test]
    fn an_llvm_that_the_linker_does_not_know_is_refused() {
        assert!(llvm_major("20.1.0").unwrap_err().to_string().contains("LLVM 20"));
        assert!(llvm_major("").is_err());
    }
}

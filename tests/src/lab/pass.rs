//! An XDP program that passes every frame, for the switch's ends of veth pairs: without one there, what a node's
//! program sends by XDP_TX is lost silently; and a program that accepts every frame that leaves, so that none comes to
//! the programs behind it. They look at no frame and count nothing.

use anyhow::{Context, Result, ensure};
use std::io::Error;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// `r0 = XDP_PASS; exit`.
const PASS: [u64; 2] = [0x0000_0002_0000_00b7, 0x95];
/// `r0 = TC_ACT_OK; exit`.
const ACCEPT: [u64; 2] = [0xb7, 0x95];
const LICENSE: &[u8] = b"GPL\0";
const BPF_PROG_LOAD: i64 = 5;
const BPF_LINK_CREATE: i64 = 28;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
const BPF_TCX_EGRESS: u32 = 47;
const BPF_F_BEFORE: u32 = 1 << 3;
/// The program takes frames of several buffers, so that a large MTU does not refuse it.
const BPF_F_XDP_HAS_FRAGS: u32 = 1 << 5;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

#[repr(C)]
#[derive(Default)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
}

#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
}

/// The loaded program.
#[derive(Debug)]
pub struct Pass(OwnedFd);

/// The program on one interface; it leaves with this value, or with the process.
#[derive(Debug)]
pub struct PassLink {
    _link: OwnedFd,
}

impl Pass {
    /// Loads the program.
    ///
    /// # Errors
    /// Fails when the kernel refuses it, which it does without CAP_BPF and CAP_NET_ADMIN.
    pub fn load() -> Result<Self> {
        load(BPF_PROG_TYPE_XDP, &PASS, BPF_F_XDP_HAS_FRAGS).map(Self).context("loading the passing XDP program")
    }

    /// Attaches it, in native mode, to an interface of the calling thread's network namespace.
    ///
    /// # Errors
    /// Fails when there is no such interface, or it has a program, or its driver takes none.
    pub fn attach(&self, interface: &str) -> Result<PassLink> {
        let index = nix::net::if_::if_nametoindex(interface).with_context(|| format!("looking for {interface}"))?;
        let attributes = LinkCreate {
            prog_fd: self.0.as_raw_fd().cast_unsigned(),
            target_ifindex: index,
            attach_type: BPF_XDP,
            flags: XDP_FLAGS_DRV_MODE,
        };
        let link = bpf(BPF_LINK_CREATE, &attributes).with_context(|| format!("attaching XDP to {interface}"))?;
        Ok(PassLink { _link: link })
    }
}

/// The program that accepts what leaves, loaded.
#[derive(Debug)]
pub struct Accept(OwnedFd);

impl Accept {
    /// Loads the program.
    ///
    /// # Errors
    /// As [`Pass::load`].
    pub fn load() -> Result<Self> {
        load(BPF_PROG_TYPE_SCHED_CLS, &ACCEPT, 0).map(Self).context("loading the accepting program")
    }

    /// Attaches it to what an interface of the calling thread's network namespace sends: before every program there,
    /// or behind them.
    ///
    /// # Errors
    /// Fails when there is no such interface, or no room for one more.
    pub fn attach(&self, interface: &str, before: bool) -> Result<PassLink> {
        let index = nix::net::if_::if_nametoindex(interface).with_context(|| format!("looking for {interface}"))?;
        let attributes = LinkCreate {
            prog_fd: self.0.as_raw_fd().cast_unsigned(),
            target_ifindex: index,
            attach_type: BPF_TCX_EGRESS,
            flags: if before { BPF_F_BEFORE } else { 0 },
        };
        let link = bpf(BPF_LINK_CREATE, &attributes).with_context(|| format!("attaching to {interface}"))?;
        Ok(PassLink { _link: link })
    }
}

fn load(kind: u32, instructions: &[u64; 2], flags: u32) -> Result<OwnedFd> {
    let mut name = [0; 16];
    name[..7].copy_from_slice(b"hb_pass");
    let attributes = ProgLoad {
        prog_type: kind,
        insn_cnt: instructions.len() as u32,
        insns: instructions.as_ptr() as u64,
        license: LICENSE.as_ptr() as u64,
        prog_flags: flags,
        prog_name: name,
        ..ProgLoad::default()
    };
    bpf(BPF_PROG_LOAD, &attributes)
}

/// Calls bpf() for a command that returns a file descriptor.
fn bpf<T>(command: i64, attributes: &T) -> Result<OwnedFd> {
    let size = size_of::<T>();
    // SAFETY: `attributes` is a prefix of union bpf_attr, `size` bytes long and without padding; what it points to
    // lives for the length of the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size) };
    ensure!(fd >= 0, Error::last_os_error());
    let fd = i32::try_from(fd).context("a file descriptor")?;
    // SAFETY: the call has just made this descriptor, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

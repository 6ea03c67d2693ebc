//! Raw calls that no library of ours offers: bpf objects by path, what a bpf link is attached to, the XDP program of
//! a device. Each returns plain data or an error; none keeps state.

use anyhow::{Context, bail};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const BPF_MAP_LOOKUP_ELEM: libc::c_int = 1;
const BPF_OBJ_PIN: libc::c_int = 6;
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_LINK_DETACH: libc::c_int = 34;
/// `BPF_F_RDONLY`, from linux/bpf.h.
const F_RDONLY: u32 = 1 << 3;
/// Magic number of bpffs, from linux/magic.h.
const BPF_FS_MAGIC: libc::c_long = 0xcafe_4a11;
/// `BPF_LINK_TYPE_XDP`, from linux/bpf.h.
const LINK_TYPE_XDP: u32 = 6;
/// `BPF_LINK_TYPE_TCX`, from linux/bpf.h.
const LINK_TYPE_TCX: u32 = 11;
/// `BPF_TCX_EGRESS`, from linux/bpf.h.
const ATTACH_TCX_EGRESS: u32 = 47;
/// `BPF_F_BEFORE`, from linux/bpf.h.
const F_BEFORE: u32 = 1 << 3;
/// `BPF_XDP`, from linux/bpf.h.
const ATTACH_XDP: u32 = 37;
/// `XDP_FLAGS_SKB_MODE`, from linux/if_link.h.
const XDP_GENERIC: u32 = 1 << 1;
/// `XDP_FLAGS_DRV_MODE`, from linux/if_link.h.
const XDP_NATIVE: u32 = 1 << 2;

/// Calls bpf(2) with a zero-padded attribute of `size_of::<T>()` bytes.
fn bpf<T>(command: libc::c_int, attribute: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: the kernel reads and writes at most `size_of::<T>()` bytes of an attribute that lives through the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attribute), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Opens a pinned object.
///
/// # Errors
/// As bpf(2): `NotFound` if there is no such pin.
pub fn object_get(path: &Path) -> io::Result<OwnedFd> {
    object_open(path, 0)
}

/// Opens a pinned map so that it can be read by [`map_value`] and no more. It cannot be mapped: the kernel takes a
/// mapping of what is open for reading alone for a private one, and maps no map so.
///
/// # Errors
/// As [`object_get`].
pub fn object_get_to_read(path: &Path) -> io::Result<OwnedFd> {
    object_open(path, F_RDONLY)
}

fn object_open(path: &Path, file_flags: u32) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attribute {
        pathname: u64,
        bpf_fd: u32,
        file_flags: u32,
    }
    let path = CString::new(path.as_os_str().as_bytes())?;
    let fd = bpf(BPF_OBJ_GET, &mut Attribute { pathname: path.as_ptr() as u64, bpf_fd: 0, file_flags })?;
    // SAFETY: the kernel just gave this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Says whether what is pinned at `path` is this very object, be it a link or a map. A pin that cannot be opened is not.
#[must_use]
pub fn is_pinned_at(fd: BorrowedFd<'_>, path: &Path) -> bool {
    // Ids are given once and for all, but links and maps are numbered apart: the words that follow tell them apart.
    object_get(path).and_then(|pinned| Ok(object_info(pinned.as_fd())? == object_info(fd)?)).unwrap_or(false)
}

/// Copies the value of one key of a map whose values have the length of `value`.
///
/// # Errors
/// As bpf(2), or if the values have another length, or `fd` is no map.
pub fn map_value(fd: BorrowedFd<'_>, key: u32, value: &mut [u64]) -> io::Result<()> {
    #[repr(C)]
    struct Attribute {
        map_fd: u32,
        zero: u32,
        key: u64,
        value: u64,
        flags: u64,
    }
    // struct bpf_map_info: type, id, key_size, value_size.
    let info = object_info(fd)?;
    if (info[2], info[3] as usize) != (4, size_of_val(value)) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a map with values of another length"));
    }
    let (map_fd, key, value) = (fd.as_raw_fd() as u32, (&raw const key) as u64, value.as_mut_ptr() as u64);
    bpf(BPF_MAP_LOOKUP_ELEM, &mut Attribute { map_fd, zero: 0, key, value, flags: 0 }).map(|_| ())
}

/// Pins an object, 0600.
///
/// # Errors
/// As bpf(2).
pub fn object_pin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    #[repr(C)]
    struct Attribute {
        pathname: u64,
        bpf_fd: u32,
        file_flags: u32,
    }
    let c_path = CString::new(path.as_os_str().as_bytes())?;
    let fd = fd.as_raw_fd() as u32;
    bpf(BPF_OBJ_PIN, &mut Attribute { pathname: c_path.as_ptr() as u64, bpf_fd: fd, file_flags: 0 }).map(|_| ())
}

/// What a bpf link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkInfo {
    /// Its id.
    pub id: u32,
    /// Id of its program.
    pub program: u32,
    /// Index of the device that the link is attached to; 0 once it was detached or the device is gone.
    pub ifindex: u32,
}

/// Asks the kernel what an XDP link is attached to.
///
/// # Errors
/// If `fd` is no XDP link.
pub fn xdp_link_info(fd: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    link_info(fd, LINK_TYPE_XDP)
}

/// Asks the kernel what a tcx link is attached to.
///
/// # Errors
/// If `fd` is no tcx link.
pub fn tcx_link_info(fd: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    link_info(fd, LINK_TYPE_TCX)
}

/// Attaches a program to what a device sends, before any other there. It is off again when the last descriptor of the
/// link is closed.
///
/// # Errors
/// As bpf(2); kernels before 6.6 know no such link (EINVAL).
pub fn tcx_egress_link(program: BorrowedFd<'_>, ifindex: u32) -> io::Result<OwnedFd> {
    // union bpf_attr for BPF_LINK_CREATE: prog_fd, target_ifindex, attach_type, flags, then for tcx relative_fd,
    // (pad), expected_revision. Before nothing named is before all: a program that accepts frames ends the row, and
    // none behind it sees them.
    let mut attribute = [program.as_raw_fd() as u32, ifindex, ATTACH_TCX_EGRESS, F_BEFORE, 0, 0, 0, 0];
    let fd = bpf(BPF_LINK_CREATE, &mut attribute)?;
    // SAFETY: the kernel just gave this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Attaches an XDP program to a device. It is off again when the last descriptor and the last pin of the link are gone.
///
/// # Errors
/// As bpf(2).
pub fn xdp_link(program: BorrowedFd<'_>, ifindex: u32, generic: bool) -> io::Result<OwnedFd> {
    // union bpf_attr for BPF_LINK_CREATE: prog_fd, target_ifindex, attach_type, flags.
    let flags = if generic { XDP_GENERIC } else { XDP_NATIVE };
    let mut attribute = [program.as_raw_fd() as u32, ifindex, ATTACH_XDP, flags, 0, 0, 0, 0];
    let fd = bpf(BPF_LINK_CREATE, &mut attribute)?;
    // SAFETY: the kernel just gave this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn link_info(fd: BorrowedFd<'_>, kind: u32) -> io::Result<LinkInfo> {
    // struct bpf_link_info: type, id, prog_id, (pad), then the union, whose xdp and tcx members begin with an ifindex.
    let info = object_info(fd)?;
    if info[0] != kind {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a link of another kind"));
    }
    Ok(LinkInfo { id: info[1], program: info[2], ifindex: info[4] })
}

/// The first words of what the kernel says of an object: of a link or a map, its type and its id come first.
fn object_info(fd: BorrowedFd<'_>) -> io::Result<[u32; 16]> {
    #[repr(C)]
    struct Attribute {
        bpf_fd: u32,
        info_len: u32,
        info: u64,
    }
    let mut info = [0_u32; 16];
    let mut attribute = Attribute {
        bpf_fd: fd.as_raw_fd() as u32,
        info_len: size_of_val(&info) as u32,
        info: info.as_mut_ptr() as u64,
    };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attribute)?;
    Ok(info)
}

/// Detaches a link for good; its pin and descriptors stay, dead.
///
/// # Errors
/// As bpf(2).
pub fn link_detach(fd: BorrowedFd<'_>) -> io::Result<()> {
    let mut attribute = [fd.as_raw_fd() as u32, 0];
    bpf(BPF_LINK_DETACH, &mut attribute).map(|_| ())
}

/// Gives up a capability of the calling thread, for good, and with it that of every thread and process that it makes
/// from then on. One that it does not have is no error.
///
/// # Errors
/// As capset(2).
pub fn give_up_capability(number: u32) -> io::Result<()> {
    /// `_LINUX_CAPABILITY_VERSION_3`, from linux/capability.h: two words of 32 bits of each kind.
    const VERSION: u32 = 0x2008_0522;
    // The version, and the thread: 0 is the calling one.
    let mut header = [VERSION, 0];
    // Effective, permitted and inheritable; the lower words first.
    let mut sets = [[0_u32; 3]; 2];
    // SAFETY: the kernel reads the header and writes two triples, which both live through the call.
    if unsafe { libc::syscall(libc::SYS_capget, header.as_mut_ptr(), sets.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    if let Some(set) = sets.get_mut(number as usize / 32) {
        set.iter_mut().for_each(|word| *word &= !(1 << (number % 32)));
    }
    // SAFETY: the kernel reads the header and two triples, which both live through the call.
    if unsafe { libc::syscall(libc::SYS_capset, header.as_mut_ptr(), sets.as_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Says whether `path` lies on a bpffs.
///
/// # Errors
/// If it cannot be looked at.
pub fn is_bpffs(path: &Path) -> anyhow::Result<bool> {
    let c_path = CString::new(path.as_os_str().as_bytes()).context("path with a zero byte")?;
    // SAFETY: all zero is a valid statfs.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers live through the call.
    if unsafe { libc::statfs(c_path.as_ptr(), &mut stat) } != 0 {
        return Err(io::Error::last_os_error()).with_context(|| format!("statfs {}", path.display()));
    }
    Ok(stat.f_type as libc::c_long == BPF_FS_MAGIC)
}

/// Returns the id of the XDP program on a device, whoever put it there, and the mode (1 native, 2 generic,
/// 3 offloaded); `None` if there is none.
///
/// # Errors
/// If the kernel does not answer the netlink request.
pub fn xdp_program_of(ifindex: u32) -> anyhow::Result<Option<(u32, u8)>> {
    const IFLA_XDP: u16 = 43;
    const IFLA_XDP_ATTACHED: u16 = 2;
    const IFLA_XDP_PROG_ID: u16 = 4;
    let answer = get_link(ifindex).with_context(|| format!("RTM_GETLINK {ifindex}"))?;
    // nlmsghdr (16 bytes), ifinfomsg (16 bytes), attributes.
    let Some(xdp) = attribute(answer.get(32..).unwrap_or_default(), IFLA_XDP) else { return Ok(None) };
    let mode = attribute(xdp, IFLA_XDP_ATTACHED).and_then(|bytes| bytes.first().copied()).unwrap_or(0);
    let id = attribute(xdp, IFLA_XDP_PROG_ID)
        .and_then(|bytes| bytes.get(..4)?.try_into().ok())
        .map_or(0, u32::from_ne_bytes);
    Ok(if mode == 0 { None } else { Some((id, mode)) })
}

/// Says whether a device is administratively up and has a carrier, at this moment: not `IFF_RUNNING`, which the kernel
/// updates up to a second late, so that a path that works would count as down.
///
/// # Errors
/// If there is no such device or the kernel does not answer.
pub fn is_running(ifindex: u32) -> anyhow::Result<bool> {
    const WANTED: u32 = (libc::IFF_UP | libc::IFF_LOWER_UP) as u32;
    let answer = get_link(ifindex).with_context(|| format!("RTM_GETLINK {ifindex}"))?;
    // nlmsghdr (16 bytes), then of ifinfomsg: family and padding (2), type (2), index (4), flags.
    let flags = answer.get(24..28).and_then(|bytes| bytes.try_into().ok()).map(u32::from_ne_bytes);
    Ok(flags.context("a short answer to RTM_GETLINK")? & WANTED == WANTED)
}

/// Finds a netlink attribute's payload.
pub(super) fn attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    const NESTED: u16 = 1 << 15;
    while let (Some(length), Some(kind)) = (bytes.get(0..2), bytes.get(2..4)) {
        let length = usize::from(u16::from_ne_bytes([length[0], length[1]]));
        let kind = u16::from_ne_bytes([kind[0], kind[1]]) & !NESTED;
        let payload = bytes.get(4..length)?;
        if kind == wanted {
            return Some(payload);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
    None
}

/// Sends RTM_GETLINK for one device and returns the answer.
fn get_link(ifindex: u32) -> anyhow::Result<Vec<u8>> {
    use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};
    let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    let mut request = Vec::with_capacity(32);
    request.extend(32_u32.to_ne_bytes());
    request.extend((libc::RTM_GETLINK).to_ne_bytes());
    request.extend((libc::NLM_F_REQUEST as u16).to_ne_bytes());
    request.extend(1_u32.to_ne_bytes());
    request.extend(0_u32.to_ne_bytes());
    request.extend([0_u8; 4]);
    request.extend(ifindex.to_ne_bytes());
    request.extend([0_u8; 8]);
    send(fd.as_raw_fd(), &request, MsgFlags::empty())?;
    let mut answer = vec![0; 32 * 1024];
    let length = recv(fd.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    answer.truncate(length);
    let kind = answer.get(4..6).map(|bytes| u16::from_ne_bytes([bytes[0], bytes[1]]));
    if kind != Some(libc::RTM_NEWLINK) {
        bail!("no such device");
    }
    Ok(answer)
}

//! One interface in use: what was asked for it, what it got, and what is held there for it. It holds; `fabric` acts.

use crate::config::FastPath;
use crate::core::time::MonoTime;
use crate::io::attach::{Attachment, Mode};
use crate::io::egress::Egress;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// What is shown of an interface.
#[derive(Clone, Debug)]
pub struct NicView {
    /// Its name.
    pub name: String,
    /// What the configuration asks for.
    pub wanted: FastPath,
    /// What it got.
    pub mode: Mode,
    /// Why it got no more.
    pub reason: Option<String>,
    /// Why no program stamps departures there, and what tells them instead.
    pub unstamped: Option<String>,
    /// Whether a stripped VLAN tag can be noticed; `None`: unknown.
    pub vlan_tag_visible: Option<bool>,
    /// Whether it receives on kernel threads.
    pub threaded_napi: Option<bool>,
    /// Our addresses on it.
    pub locals: Vec<IpAddr>,
    /// Those of them whose port another process has.
    pub taken: BTreeMap<IpAddr, Taken>,
}

/// A port of ours that another process has.
#[derive(Clone, Copy, Debug)]
pub struct Taken {
    /// Since when this node knows it.
    pub since: MonoTime,
    /// It lasts, and was told.
    pub told: bool,
}

/// What one interface does.
#[derive(Debug)]
pub struct Nic {
    /// What is shown of it.
    pub view: NicView,
    /// Its index.
    pub ifindex: u32,
    pub(super) running: bool,
    pub(super) attachment: Option<Attachment>,
    pub(super) egress: Option<Egress>,
    /// When the egress program was last lost: detached by somebody else, or kept from seeing frames; 0: never.
    pub(super) egress_lost_ns: u64,
    /// When it is to be attached once more, if it is not there.
    pub(super) egress_retry_ns: u64,
    /// When somebody else last detached the program; 0: never.
    pub(super) detached_ns: u64,
    /// When the present mode was entered.
    pub(super) entered_ns: u64,
}

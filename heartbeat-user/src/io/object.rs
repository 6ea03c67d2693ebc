//! The BPF object: loading it with the pinned maps, and typed handles on what was loaded. Names of maps and programs
//! are used here and nowhere else. It attaches nothing.

use crate::io::memory::{MapFds, Shared};
use crate::io::paths::Tables;
use crate::io::pins::{self, PinDir};
use crate::io::sys;
use anyhow::{Context, bail};
use aya::maps::{Array, HashMap, MapData, PerCpuArray};
use aya::programs::{SchedClassifier, Xdp};
use aya::{Ebpf, EbpfLoader};
use heartbeat_common::counter::Counter;
use heartbeat_common::maps::{self, Hint, Route, RouteKey};
use heartbeat_common::path::PathConf;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// The committed object, made by `cargo xtask build-ebpf`.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../bpf/heartbeat.bpfel.o");

/// A value that aya may copy in and out of a map.
#[repr(transparent)]
#[derive(Clone, Copy)]
struct Value<T>(T);
// SAFETY: only instantiated with `Pod` types of `heartbeat-common`, whose bytes are all initialised.
unsafe impl<T: bytemuck::Pod> aya::Pod for Value<T> {}

/// The loaded object.
pub struct Object {
    ebpf: Ebpf,
    routes: HashMap<MapData, Value<RouteKey>, Value<Route>>,
    hints: Array<MapData, Value<Hint>>,
    confs: Array<MapData, Value<PathConf>>,
    counters: PerCpuArray<MapData, u64>,
    counters_fd: OwnedFd,
}

impl Object {
    /// Loads the object: the committed one, or `file` in its place. Maps of facts are taken from their pins, or made
    /// and pinned.
    ///
    /// # Errors
    /// If the kernel refuses it; the message carries the verifier's log.
    pub fn load(file: Option<&Path>, pins: &PinDir) -> anyhow::Result<Self> {
        let mut loader = EbpfLoader::new();
        for name in maps::PINNED {
            loader.map_pin_path(name, pins.map(name));
        }
        let mut ebpf = match file {
            Some(file) => loader.load_file(file).with_context(|| format!("load the BPF object {}", file.display())),
            None => loader.load(OBJECT).context("load the BPF object"),
        }?;
        for name in maps::PINNED {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(pins.map(name), std::fs::Permissions::from_mode(0o600))
                .with_context(|| format!("guard {}", pins.map(name).display()))?;
        }
        xdp_of(&mut ebpf)?.load().context("load the XDP program")?;
        egress_of(&mut ebpf)?.load().context("load the egress program")?;
        #[cfg(feature = "bpf-log")]
        crate::io::bpf_log::bridge(&mut ebpf)?;
        let routes = ebpf.take_map(maps::ROUTES).context("no map ROUTES")?.try_into()?;
        let hints = ebpf.take_map(maps::HINTS).context("no map HINTS")?.try_into()?;
        let confs = ebpf.take_map(maps::CONFS).context("no map CONFS")?.try_into()?;
        let counters = ebpf.take_map(maps::COUNTERS).context("no map COUNTERS")?.try_into()?;
        let counters_fd = sys::object_get(&pins.map(maps::COUNTERS)).context("open the pinned counters")?;
        Ok(Self { ebpf, routes, hints, confs, counters, counters_fd })
    }

    /// Maps the shared memory for `paths` paths.
    ///
    /// # Errors
    /// If a map is missing or mmap fails.
    pub fn share(&self, paths: u32) -> anyhow::Result<Shared> {
        let fds = MapFds {
            ticks: self.map_fd(maps::TICKS)?,
            histograms: self.map_fd(maps::HISTOGRAMS)?,
            own: self.map_fd(maps::OWN)?,
            lease: self.map_fd(maps::LEASE)?,
        };
        Shared::new(Some(&fds), paths)
    }

    /// Pins the maps of facts again where their pins have vanished or are another map's, in place of that; returns how
    /// many.
    ///
    /// # Errors
    /// If a pin cannot be made.
    pub fn restore_pins(&self, pins: &PinDir) -> anyhow::Result<u32> {
        let mut restored = 0;
        for name in maps::PINNED {
            let path = pins.map(name);
            let fd = if name == maps::COUNTERS { self.counters_fd.as_fd() } else { self.map_fd(name)? };
            if !sys::is_pinned_at(fd, &path) {
                pins.make()?;
                pins::remove(&path)?;
                sys::object_pin(fd, &path).with_context(|| format!("pin {}", path.display()))?;
                restored += 1;
            }
        }
        Ok(restored)
    }

    fn map_fd(&self, name: &str) -> anyhow::Result<BorrowedFd<'_>> {
        match self.ebpf.map(name).with_context(|| format!("no map {name}"))? {
            aya::maps::Map::Array(data) => Ok(data.fd().as_fd()),
            other => bail!("map {name} is {other:?}, not an array"),
        }
    }

    /// The XDP program.
    ///
    /// # Errors
    /// If the object does not hold it.
    pub fn xdp(&mut self) -> anyhow::Result<&mut Xdp> {
        xdp_of(&mut self.ebpf)
    }

    /// The egress program.
    ///
    /// # Errors
    /// If the object does not hold it.
    pub fn egress(&mut self) -> anyhow::Result<&mut SchedClassifier> {
        egress_of(&mut self.ebpf)
    }

    /// Sums a counter over all CPUs.
    ///
    /// # Errors
    /// As bpf(2).
    pub fn counter(&self, counter: Counter) -> anyhow::Result<u64> {
        let values = self.counters.get(&(counter as u32), 0).with_context(|| format!("read {}", counter.name()))?;
        Ok(values.iter().sum())
    }
}

impl Tables for Object {
    fn set_conf(&mut self, index: u32, conf: &PathConf) -> anyhow::Result<()> {
        self.confs.set(index, Value(*conf), 0).with_context(|| format!("write configuration {index}"))
    }

    fn conf(&self, index: u32) -> anyhow::Result<PathConf> {
        Ok(self.confs.get(&index, 0).with_context(|| format!("read configuration {index}"))?.0)
    }

    fn set_route(&mut self, key: &RouteKey, route: Route) -> anyhow::Result<()> {
        self.routes.insert(Value(*key), Value(route), 0).context("write a route")
    }

    fn route(&self, key: &RouteKey) -> Option<Route> {
        self.routes.get(&Value(*key), 0).ok().map(|value| value.0)
    }

    fn remove_route(&mut self, key: &RouteKey) {
        let _ = self.routes.remove(&Value(*key));
    }

    fn set_hint(&mut self, key: &RouteKey, hint: Hint) -> anyhow::Result<()> {
        self.hints.set(key.hint(), Value(hint), 0).context("write a hint")
    }

    fn hint(&self, key: &RouteKey) -> anyhow::Result<Hint> {
        Ok(self.hints.get(&key.hint(), 0).context("read a hint")?.0)
    }
}

fn xdp_of(ebpf: &mut Ebpf) -> anyhow::Result<&mut Xdp> {
    Ok(ebpf.program_mut(maps::XDP_PROGRAM).context("the object has no XDP program")?.try_into()?)
}

fn egress_of(ebpf: &mut Ebpf) -> anyhow::Result<&mut SchedClassifier> {
    Ok(ebpf.program_mut(maps::EGRESS_PROGRAM).context("the object has no egress program")?.try_into()?)
}

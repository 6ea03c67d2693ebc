//! One loaded instance of the kernel program, with its maps at hand.

use super::{LOOPBACK, mapping, mapping::Mapping, now, object};
use anyhow::{Context as _, Result, bail};
use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray};
use aya::programs::{Program, SchedClassifier, Xdp, XdpMode};
use aya::{Ebpf, TestRun as _, TestRunOptions};
use heartbeat_common::counter::Counter;
use heartbeat_common::lease;
use heartbeat_common::maps::{self, Hint, Histogram, Own, PATHS_MAX, Route, RouteKey};
use heartbeat_common::path::PathConf;
use heartbeat_common::tick::Tick;
use heartbeat_user::io::memory::{MapFds, Shared};
use heartbeat_user::io::page::Page;
use std::os::fd::AsFd as _;

/// A map value as the loader wants it.
#[repr(transparent)]
#[derive(Clone, Copy)]
struct Value<T>(T);

// SAFETY: transparent over a type that is plain bytes.
unsafe impl<T: bytemuck::Pod> aya::Pod for Value<T> {}

/// What the program returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// XDP_DROP.
    Drop,
    /// XDP_PASS.
    Pass,
    /// XDP_TX.
    Transmit,
    /// Anything else.
    Other(u32),
}

/// One run of the program.
#[derive(Clone, Copy, Debug)]
pub struct Ran {
    /// What it returned.
    pub action: Action,
    /// Length of the frame afterwards.
    pub length: usize,
    /// Just before, ns.
    pub before: u64,
    /// Just after, ns.
    pub after: u64,
}

/// A loaded program.
pub struct Rig {
    bpf: Ebpf,
    /// `TICKS`, mapped.
    pub ticks: Mapping,
    /// `HISTOGRAMS`, mapped.
    pub histograms: Mapping,
    /// `OWN`, mapped.
    pub own: Mapping,
    /// `LEASE`, mapped.
    pub lease: Mapping,
}

impl Rig {
    /// Loads the program under test.
    ///
    /// # Errors
    /// If it cannot be loaded.
    pub fn new() -> Result<Self> {
        Self::of(object::load()?)
    }

    /// Takes over an object whose programs are not loaded yet.
    ///
    /// # Errors
    /// If the kernel refuses a program or a map.
    pub fn of(mut bpf: Ebpf) -> Result<Self> {
        let xdp: &mut Xdp = bpf.program_mut(maps::XDP_PROGRAM).context("no XDP program")?.try_into()?;
        xdp.load().context("loading the XDP program")?;
        let egress: &mut SchedClassifier =
            bpf.program_mut(maps::EGRESS_PROGRAM).context("no egress program")?.try_into()?;
        egress.load().context("loading the egress program")?;
        let entries = PATHS_MAX as usize;
        let ticks = mapping::of(&bpf, maps::TICKS, size_of::<Tick<u64>>(), entries)?;
        let histograms = mapping::of(&bpf, maps::HISTOGRAMS, size_of::<Histogram>(), entries)?;
        let own = mapping::of(&bpf, maps::OWN, size_of::<Own>(), 1)?;
        let lease = mapping::of(&bpf, maps::LEASE, lease::LEN, 1)?;
        Ok(Self { bpf, ticks, histograms, own, lease })
    }

    /// How many instructions the verifier processed for each program, by name: a loop's body once for each pass, and all
    /// that follows a branch once for each state in which it may be reached.
    ///
    /// # Errors
    /// If the kernel does not say, as before 5.16.
    pub fn verified(&self) -> Result<Vec<(&str, u32)>> {
        let programs = self.bpf.programs();
        let counts = programs.map(|(name, program)| {
            let info = program.info().with_context(|| format!("asking about {name}"))?;
            let count = info.verified_instruction_count();
            Ok((name, count.with_context(|| format!("the kernel keeps no count for {name}"))?))
        });
        counts.collect()
    }

    /// Sets or replaces a route.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn route(&mut self, key: RouteKey, route: Route) -> Result<()> {
        let map = self.bpf.map_mut(maps::ROUTES).context("no routes")?;
        HashMap::<&mut MapData, Value<RouteKey>, Value<Route>>::try_from(map)?.insert(Value(key), Value(route), 0)?;
        Ok(())
    }

    /// Replaces the hint at a triple's place.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn hint(&mut self, key: &RouteKey, hint: Hint) -> Result<()> {
        let map = self.bpf.map_mut(maps::HINTS).context("no hints")?;
        Array::<&mut MapData, Value<Hint>>::try_from(map)?.set(key.hint(), Value(hint), 0)?;
        Ok(())
    }

    /// Replaces a path's configuration.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn configure(&mut self, index: u32, conf: &PathConf) -> Result<()> {
        let map = self.bpf.map_mut(maps::CONFS).context("no configurations")?;
        Array::<&mut MapData, Value<PathConf>>::try_from(map)?.set(index, Value(*conf), 0)?;
        Ok(())
    }

    /// Every counter, summed over the CPUs, in index order.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn counters(&self) -> Result<Vec<u64>> {
        let map = PerCpuArray::<&MapData, u64>::try_from(self.bpf.map(maps::COUNTERS).context("no counters")?)?;
        Counter::ALL.iter().map(|counter| Ok(map.get(&(*counter as u32), 0)?.iter().sum())).collect()
    }

    /// Attaches the program to an interface of the current network namespace, native, until the rig is dropped.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn attach(&mut self, ifindex: u32) -> Result<()> {
        let xdp: &mut Xdp = self.bpf.program_mut(maps::XDP_PROGRAM).context("no XDP program")?.try_into()?;
        xdp.attach_to_if_index(ifindex, XdpMode::Driver).with_context(|| format!("attaching to {ifindex}"))?;
        Ok(())
    }

    fn xdp(&self) -> &Xdp {
        match self.bpf.program(maps::XDP_PROGRAM) {
            Some(Program::Xdp(program)) => program,
            _ => unreachable!("checked when the object was loaded"),
        }
    }

    fn egress(&self) -> &SchedClassifier {
        match self.bpf.program(maps::EGRESS_PROGRAM) {
            Some(Program::SchedClassifier(program)) => program,
            _ => unreachable!("checked when the object was loaded"),
        }
    }

    /// Lets the program judge `frame`, which comes in by the loopback device; the result is in `out`.
    ///
    /// # Errors
    /// If the kernel cannot run it: a frame shorter than an Ethernet header, or `out` shorter than the frame.
    pub fn receive(&self, frame: &[u8], out: &mut [u8]) -> Result<Ran> {
        self.run(TestRunOptions { data_in: Some(frame), data_out: Some(out), repeat: 1, ..Default::default() })
    }

    /// As [`Self::receive`], by interface `ifindex` of the current network namespace.
    ///
    /// # Errors
    /// As there; also if there is no such interface.
    pub fn receive_by(&self, frame: &[u8], out: &mut [u8], ifindex: u32) -> Result<Ran> {
        self.receive_as(frame, out, ifindex, frame.len())
    }

    /// As [`Self::receive`], with no more than the first `linear` bytes where the program may read them; the rest is in
    /// further buffers.
    ///
    /// # Errors
    /// As there; also below an Ethernet header, and on kernels before 6.18, which split where they like.
    pub fn receive_split(&self, frame: &[u8], out: &mut [u8], linear: usize) -> Result<Ran> {
        self.receive_as(frame, out, LOOPBACK, linear)
    }

    fn receive_as(&self, frame: &[u8], out: &mut [u8], ifindex: u32, linear: usize) -> Result<Ran> {
        let linear = u32::try_from(linear).context("a frame's length")?;
        // `struct xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let context: [u32; 6] = [0, linear, 0, ifindex, 0, 0];
        let options = TestRunOptions { data_in: Some(frame), data_out: Some(out), ..Default::default() };
        self.run(TestRunOptions { ctx_in: Some(bytemuck::bytes_of(&context)), repeat: 1, ..options })
    }

    fn run(&self, options: TestRunOptions<'_>) -> Result<Ran> {
        let before = now();
        let result = self.xdp().test_run(options)?;
        let after = now();
        let action = match result.return_value {
            1 => Action::Drop,
            2 => Action::Pass,
            3 => Action::Transmit,
            other => Action::Other(other),
        };
        Ok(Ran { action, length: result.data_size_out as usize, before, after })
    }

    /// Lets `frame` leave by the loopback device.
    ///
    /// # Errors
    /// If the kernel cannot run the program.
    pub fn depart(&self, frame: &[u8]) -> Result<(u32, u64, u64)> {
        let before = now();
        let options = TestRunOptions { data_in: Some(frame), repeat: 1, ..Default::default() };
        let result = self.egress().test_run(options)?;
        Ok((result.return_value, before, now()))
    }

    /// The tick of a path, when nobody writes it.
    #[must_use]
    pub fn tick(&self, path: u32) -> Tick<u64> {
        self.ticks.copy(path as usize)
    }

    /// Maps the first `paths` paths as the daemon does.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn shared(&self, paths: u32) -> Result<Shared> {
        let fd = |name| match self.bpf.map(name) {
            Some(Map::Array(data)) => Ok(data.fd().as_fd()),
            _ => bail!("no array {name}"),
        };
        let (ticks, histograms) = (fd(maps::TICKS)?, fd(maps::HISTOGRAMS)?);
        let fds = MapFds { ticks, histograms, own: fd(maps::OWN)?, lease: fd(maps::LEASE)? };
        Shared::new(Some(&fds), paths)
    }

    /// Maps the lease's page as the daemon does.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn page(&self) -> Result<Page> {
        match self.bpf.map(maps::LEASE) {
            Some(Map::Array(data)) => Page::of_map(data.fd().as_fd()),
            _ => bail!("no array {}", maps::LEASE),
        }
    }

    /// Tells the kernel what the controller tells it.
    pub fn own(&self, own: &Own) {
        self.own.put(0, own);
    }
}

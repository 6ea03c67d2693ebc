//! The paths as the shell holds them: their plans, keys and configurations in kernel and responder, and whether each
//! can be used. It writes tables; what is attached where, `fabric` says.

mod places;
mod tables;
#[cfg(test)]
mod tests;

pub use tables::Tables;

use crate::config::{Config, PathPlan, paths_for, settings_hash};
use crate::io::pacer::PacedPath;
use crate::io::responder::Confs;
use crate::io::socket::port_of;
use crate::keys::{FenceSigner, KeyRing, PathSpec, ProbeSigner, path_conf, route_key};
use anyhow::bail;
use heartbeat_common::frame::{self, STANDING_USERSPACE, STANDING_WORDS};
use heartbeat_common::lease::NODES_MAX;
use heartbeat_common::maps::{self, Hint, PATHS_MAX, Route, RouteKey};
use heartbeat_common::path::PathConf;
use places::Places;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// Whether each path can be used, and by whom it is answered: written by the keeper, read by the deciding loop.
#[derive(Debug)]
pub struct Usable {
    usable: Vec<AtomicBool>,
    mute: Vec<AtomicBool>,
    in_kernel: Vec<AtomicBool>,
}

/// What one path is good for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Use {
    /// Its interface runs.
    pub usable: bool,
    /// Another process has its port: nothing can be asked on it.
    pub mute: bool,
    /// XDP answers on it.
    pub in_kernel: bool,
}

impl Usable {
    /// Begins with nothing that can be used.
    #[must_use]
    pub fn new(paths: usize) -> Self {
        let flags = || (0..paths).map(|_| AtomicBool::new(false)).collect();
        Self { usable: flags(), mute: flags(), in_kernel: flags() }
    }

    /// Returns what a path is good for.
    #[must_use]
    pub fn of(&self, path: usize) -> Use {
        let of = |flags: &[AtomicBool]| flags[path].load(Ordering::Acquire);
        Use { usable: of(&self.usable), mute: of(&self.mute), in_kernel: of(&self.in_kernel) }
    }

    /// Sets whether a path has no port.
    pub fn set_mute(&self, path: usize, mute: bool) {
        self.mute[path].store(mute, Ordering::Release);
    }

    /// Sets the rest.
    pub fn set(&self, path: usize, usable: bool, in_kernel: bool) {
        self.in_kernel[path].store(in_kernel, Ordering::Release);
        self.usable[path].store(usable, Ordering::Release);
    }
}

/// Who this node is at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Who {
    /// Incarnation.
    pub incarnation: u64,
    /// Controller generation.
    pub generation: u32,
}

/// What this node says of the view that it has installed, and whom its vote grants in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Announced {
    /// Order of the view; 0: none.
    pub order: u64,
    /// First word of its digest.
    pub digest: u64,
    /// Mark of the own vote's grants in it; 0: it gives none.
    pub mark: u64,
    /// Standing flags besides that of the responder.
    pub flags: u16,
    /// The grant for each member, by node.
    pub grants: BTreeMap<u16, u64>,
}

/// Returns the slot of a node's vote in the page: its place among the configured nodes. None beyond what a view holds.
#[must_use]
pub fn vote_slot(config: &Config, node: u16) -> Option<u32> {
    let place = config.nodes.iter().position(|each| each.id == node)?;
    (place < NODES_MAX).then_some(place as u32)
}

/// Where a path's frames arrive: what the kernel's tables hold for it.
#[derive(Clone, Copy, Debug)]
struct Entry {
    key: RouteKey,
    route: Route,
    conf: PathConf,
}

/// Every path of this node.
pub struct Paths {
    own: u16,
    ring: KeyRing,
    plans: Vec<PathPlan>,
    specs: Vec<PathSpec>,
    locals: Vec<IpAddr>,
    settings: u64,
    who: Who,
    announced: Announced,
    /// Slot of each path's peer in the page.
    vote_slots: Vec<u32>,
    entries: Vec<Option<Entry>>,
    /// Where their hints are.
    places: Places,
    /// Tables may hold what is no longer in force.
    behind: bool,
    /// Whether the interface of each path is there.
    opened: Vec<bool>,
    /// Configurations as the responder reads them.
    pub confs: Confs,
    /// Whether each path can be used.
    pub usable: Arc<Usable>,
}

impl Paths {
    /// Plans the paths of node `own`.
    ///
    /// # Errors
    /// If there are more than the maps hold.
    pub fn new(config: &Config, own: u16, ring: KeyRing, who: Who) -> anyhow::Result<Self> {
        let plans = paths_for(config, own);
        if plans.len() > PATHS_MAX as usize {
            bail!("{} paths are more than the {PATHS_MAX} that a node can have", plans.len());
        }
        let specs: Vec<_> = plans.iter().map(|plan| PathSpec::new(own, plan, &config.settings)).collect();
        let mut locals: Vec<IpAddr> = plans.iter().map(|plan| plan.local).collect();
        locals.sort_unstable();
        locals.dedup();
        let usable = Arc::new(Usable::new(plans.len()));
        let (entries, opened) = (vec![None; plans.len()], vec![false; plans.len()]);
        let settings = settings_hash(config);
        // Beyond what a view holds nobody's grant is expected, whatever the slot.
        let vote_slots = plans.iter().map(|plan| vote_slot(config, plan.peer_node).unwrap_or(u32::MAX)).collect();
        let mut paths = Self {
            own,
            ring,
            plans,
            specs,
            locals,
            settings,
            who,
            announced: Announced::default(),
            vote_slots,
            entries,
            places: Places::default(),
            behind: false,
            opened,
            confs: Arc::new(RwLock::new(Vec::new())),
            usable,
        };
        paths.refresh_confs();
        Ok(paths)
    }

    /// The plans, by index of the path.
    #[must_use]
    pub fn plans(&self) -> &[PathPlan] {
        &self.plans
    }

    /// The local addresses, each once: the index is the socket's.
    #[must_use]
    pub fn locals(&self) -> &[IpAddr] {
        &self.locals
    }

    /// Id of this node.
    #[must_use]
    pub const fn own(&self) -> u16 {
        self.own
    }

    /// Who this node is at the moment.
    #[must_use]
    pub const fn who(&self) -> Who {
        self.who
    }

    /// Number of paths.
    #[must_use]
    pub fn len(&self) -> usize {
        self.plans.len()
    }

    /// Says whether there is no path at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.plans.is_empty()
    }

    /// Digest of which path each index stands for, and under which keys.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let mut hash = Sha256::new();
        for spec in &self.specs {
            hash.update(format!("{} {} {} {} {}\n", spec.network, spec.own, spec.peer, spec.local, spec.remote));
            hash.update(spec.vlan.to_le_bytes());
        }
        hash.update(self.ring.cluster().to_le_bytes());
        let bytes = hash.finalize();
        let mut word = [0; 8];
        word.copy_from_slice(&bytes[..8]);
        u64::from_le_bytes(word)
    }

    fn standing(&self, path: usize) -> [u64; STANDING_WORDS] {
        let userspace = if self.opened[path] && !self.usable.of(path).in_kernel { STANDING_USERSPACE } else { 0 };
        let (said, identity) = (&self.announced, |flags| frame::identity(self.who.generation, flags));
        // A grant without a mark would be sent whatever the page says.
        let grant = said.grants.get(&self.specs[path].peer).filter(|_| said.mark != 0).copied().unwrap_or(0);
        let view = [said.order, said.digest, grant];
        [self.who.incarnation, identity(said.flags | userspace), view[0], view[1], view[2], self.settings, 0]
    }

    fn conf(&self, path: usize) -> PathConf {
        let (grant_mark, vote_slot) = (self.announced.mark, self.vote_slots[path]);
        PathConf { grant_mark, vote_slot, ..path_conf(&self.ring, &self.specs[path], &self.standing(path)) }
    }

    fn refresh_confs(&mut self) {
        let fresh: Vec<_> = (0..self.len()).map(|path| self.conf(path)).collect();
        *self.confs.write().unwrap_or_else(PoisonError::into_inner) = fresh;
    }

    /// Indices of the paths of a local address.
    pub fn of_local(&self, local: IpAddr) -> impl Iterator<Item = usize> + '_ {
        self.plans.iter().enumerate().filter(move |(_, plan)| plan.local == local).map(|(index, _)| index)
    }

    /// The peers of a local address, with their paths: what the responder needs.
    #[must_use]
    pub fn doors(&self, local: IpAddr) -> BTreeMap<IpAddr, u32> {
        self.of_local(local).map(|path| (self.plans[path].peer, path as u32)).collect()
    }

    /// Probe makers, by index.
    #[must_use]
    pub fn signers(&self) -> Vec<ProbeSigner> {
        let signer = |path: usize| ProbeSigner::new(&self.ring, &self.specs[path], &self.standing(path));
        (0..self.len()).map(|path| signer(path).granting_under(self.announced.mark)).collect()
    }

    /// Fence makers, by index.
    #[must_use]
    pub fn fence_signers(&self) -> Vec<FenceSigner> {
        self.specs.iter().map(|spec| FenceSigner::new(&self.ring, spec)).collect()
    }

    /// What the pacing thread needs, by index.
    #[must_use]
    pub fn paced(&self) -> Vec<PacedPath> {
        let signers = self.signers();
        let paced = |(spec, signer): (&PathSpec, ProbeSigner)| PacedPath {
            signer,
            socket: self.locals.binary_search(&spec.local).expect("every path's local address is among the locals"),
            peer: port_of(spec.remote),
            delay_ns: spec.answer_within.as_nanos() as u64,
        };
        self.specs.iter().zip(signers).map(paced).collect()
    }

    /// Probe intervals, by index, ns.
    #[must_use]
    pub fn delays(&self) -> Vec<u64> {
        self.specs.iter().map(|spec| spec.answer_within.as_nanos() as u64).collect()
    }

    /// Notes whether the paths of a local address can be used, and writes what the kernel must know of them, usable or
    /// not: it answers without this node's socket. The route is written last: a frame finds the whole configuration or
    /// none.
    ///
    /// # Errors
    /// If a table cannot be written.
    pub fn open<T: Tables>(
        &mut self,
        tables: Option<&mut T>,
        local: IpAddr,
        ifindex: u32,
        usable: bool,
        in_kernel: bool,
    ) -> anyhow::Result<()> {
        let of_local: Vec<_> = self.of_local(local).collect();
        for path in &of_local {
            self.opened[*path] = true;
            self.usable.set(*path, usable, in_kernel);
        }
        self.refresh_confs();
        if let Some(tables) = tables {
            for path in of_local {
                self.write(tables, path, ifindex)?;
            }
        }
        Ok(())
    }

    /// Notes whether another process has the port of a local address: what is known before the address is opened.
    pub fn set_mute(&self, local: IpAddr, mute: bool) {
        for path in self.of_local(local) {
            self.usable.set_mute(path, mute);
        }
    }

    /// Notes whether a local address can be used: not while its interface is down or without carrier.
    pub fn set_usable(&self, local: IpAddr, usable: bool, in_kernel: bool) {
        for path in self.of_local(local) {
            self.usable.set(path, usable, in_kernel);
        }
    }

    fn write<T: Tables>(&mut self, tables: &mut T, path: usize, ifindex: u32) -> anyhow::Result<()> {
        let key = route_key(&self.specs[path], ifindex);
        let conf = PathConf { key, path: path as u32, ..self.conf(path) };
        let before = self.entries[path];
        // The configuration in use is never written over: a frame on another CPU may be reading it.
        let index = path as u32 * 2 + before.map_or(0, |entry| 1 - entry.route.conf % 2);
        let route = Route { path: path as u32, conf: index };
        tables.set_conf(index, &conf)?;
        tables.set_route(&key, route)?;
        if let Some(before) = before
            && before.key != key
        {
            tables.remove_route(&before.key);
            self.places.take(&before.key, path);
        }
        self.entries[path] = Some(Entry { key, route, conf });
        self.places.put(&key, path);
        self.write_hint(tables, &key)?;
        before.map_or(Ok(()), |before| self.write_hint(tables, &before.key))
    }

    /// Writes the hint at a triple's place: that of the first path that has its place there.
    fn write_hint<T: Tables>(&self, tables: &mut T, key: &RouteKey) -> anyhow::Result<()> {
        tables.set_hint(key, self.hint(key))
    }

    fn hint(&self, key: &RouteKey) -> Hint {
        let there = self.places.first(key).and_then(|path| self.entries[path]);
        there.map_or(Hint::default(), |entry| Hint::at(entry.route.conf))
    }

    /// Marks the paths of a local address unusable and takes them out of the kernel's tables.
    pub fn close<T: Tables>(&mut self, tables: Option<&mut T>, local: IpAddr) {
        let of_local: Vec<_> = self.of_local(local).collect();
        for path in &of_local {
            self.opened[*path] = false;
            self.usable.set(*path, false, false);
        }
        if let Some(tables) = tables {
            for path in of_local {
                if let Some(entry) = self.entries[path].take() {
                    tables.remove_route(&entry.key);
                    self.places.take(&entry.key, path);
                    // A hint that stays would go on leading to the configuration.
                    if let Err(error) = self.write_hint(tables, &entry.key) {
                        log::error!("the path to {} is closed, but: {error:#}", self.specs[path].remote);
                    }
                }
            }
        }
    }

    /// Puts a new identity or new settings into force in every table. If that fails, this node is who it was, and what
    /// was written already is set back by `repair`, or by the next try.
    ///
    /// # Errors
    /// If a table cannot be written.
    pub fn change<T: Tables>(&mut self, tables: Option<&mut T>, config: &Config, who: Who) -> anyhow::Result<()> {
        let before = std::mem::replace(&mut self.who, who);
        self.settings = settings_hash(config);
        self.specs = self.plans.iter().map(|plan| PathSpec::new(self.own, plan, &config.settings)).collect();
        self.refresh_confs();
        let written = tables.map_or(Ok(()), |tables| self.write_all(tables));
        if written.is_err() {
            self.who = before;
            self.refresh_confs();
        }
        written
    }

    /// Says in every table what is now to be said of the view. No grant goes out by it before the page grants under its
    /// mark. If that fails, what was said before is still meant, and set back by `repair` or by the next try.
    ///
    /// # Errors
    /// If a table cannot be written.
    pub fn announce<T: Tables>(&mut self, tables: Option<&mut T>, announced: Announced) -> anyhow::Result<()> {
        let before = std::mem::replace(&mut self.announced, announced);
        self.refresh_confs();
        let written = tables.map_or(Ok(()), |tables| self.write_all(tables));
        if written.is_err() {
            self.announced = before;
            self.refresh_confs();
        }
        written
    }

    fn write_all<T: Tables>(&mut self, tables: &mut T) -> anyhow::Result<()> {
        self.behind = true;
        for path in 0..self.len() {
            if let Some(entry) = self.entries[path] {
                self.write(tables, path, entry.key.ifindex)?;
            }
        }
        self.behind = false;
        Ok(())
    }

    /// Puts other keys and settings into force in every table, or leaves those `old` ones in force: half a reload would
    /// send by one key and expect another.
    ///
    /// # Errors
    /// If a table cannot be written.
    pub fn reload<T: Tables>(
        &mut self,
        mut tables: Option<&mut T>,
        old: &Config,
        fresh: &Config,
        ring: KeyRing,
    ) -> anyhow::Result<()> {
        let (who, old_ring) = (self.who, std::mem::replace(&mut self.ring, ring));
        let Err(error) = self.change(tables.as_deref_mut(), fresh, who) else { return Ok(()) };
        self.ring = old_ring;
        if let Err(again) = self.change(tables, old, who) {
            log::error!("not every table could be set back: {again:#}; it is tried again every second");
        }
        Err(error)
    }

    /// Compares the kernel's tables with what was written, and writes again what differs: (table, entries) of each
    /// repair. What could not be set back before is set back first.
    ///
    /// # Errors
    /// If a table cannot be read or written.
    pub fn repair<T: Tables>(&mut self, tables: &mut T) -> anyhow::Result<Vec<(&'static str, u32)>> {
        if self.behind {
            self.write_all(tables)?;
        }
        let (mut confs, mut routes, mut hints) = (0, 0, 0);
        for entry in self.entries.iter().flatten() {
            if tables.conf(entry.route.conf)? != entry.conf {
                tables.set_conf(entry.route.conf, &entry.conf)?;
                confs += 1;
            }
            if tables.route(&entry.key) != Some(entry.route) {
                tables.set_route(&entry.key, entry.route)?;
                routes += 1;
            }
            if tables.hint(&entry.key)? != self.hint(&entry.key) {
                self.write_hint(tables, &entry.key)?;
                hints += 1;
            }
        }
        let repaired = [(maps::CONFS, confs), (maps::ROUTES, routes), (maps::HINTS, hints)];
        Ok(repaired.into_iter().filter(|(_, count)| *count > 0).collect())
    }
}

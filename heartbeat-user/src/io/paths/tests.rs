//! Tests of what is written into the kernel's tables, and when, with tables in memory that refuse on demand. What a
//! frame finds by them, the tests of the program say.

use super::*;
use crate::config::parse;
use crate::keys::Keys;

const LOCALS: [IpAddr; 2] =
    [IpAddr::V4(std::net::Ipv4Addr::new(10, 1, 0, 1)), IpAddr::V4(std::net::Ipv4Addr::new(10, 2, 0, 1))];
const WHO: Who = Who { incarnation: 7, generation: 1 };

/// Node a of two, on two networks: path 0 is on the first, path 1 on the second.
fn config(delay_ms: u32) -> Config {
    let text = format!(
        r#"[cluster]
name = "demo"
id = "6f0c5d9e2a417b83"
[settings]
profile = "lan"
same_subnet_delay_ms = {delay_ms}
[[network]]
name = "net1"
subnets = ["10.1.0.0/24"]
[[network]]
name = "net2"
subnets = ["10.2.0.0/24"]
[[node]]
name = "a"
id = 1
addresses = ["10.1.0.1", "10.2.0.1"]
[[node]]
name = "b"
id = 2
addresses = ["10.1.0.2", "10.2.0.2"]
"#
    );
    parse("t.toml", text.as_bytes()).unwrap()
}

fn ring(secret: &str) -> KeyRing {
    Keys::parse(secret.repeat(8).as_bytes()).unwrap().ring(0x6f0c_5d9e_2a41_7b83)
}

fn old_ring() -> KeyRing {
    ring("00010203")
}

fn paths() -> Paths {
    Paths::new(&config(100), 1, old_ring(), WHO).unwrap()
}

/// Tables in memory.
#[derive(Clone, Default)]
struct Memory {
    confs: BTreeMap<u32, PathConf>,
    routes: Vec<(RouteKey, Route)>,
    hints: BTreeMap<u32, Hint>,
    /// Writes until then.
    written: u32,
    /// Writes that are refused, by their number.
    refused: std::ops::Range<u32>,
}

impl Memory {
    fn note(&mut self) -> anyhow::Result<()> {
        self.written += 1;
        if self.refused.contains(&(self.written - 1)) { bail!("write {} is refused", self.written - 1) } else { Ok(()) }
    }

    /// The configuration that frames of a path find by the route of their triple.
    fn found(&self, key: &RouteKey) -> Option<PathConf> {
        self.route(key).map(|route| self.confs[&route.conf])
    }
}

impl Tables for Memory {
    fn set_conf(&mut self, index: u32, conf: &PathConf) -> anyhow::Result<()> {
        self.note()?;
        self.confs.insert(index, *conf);
        Ok(())
    }

    fn conf(&self, index: u32) -> anyhow::Result<PathConf> {
        Ok(self.confs[&index])
    }

    fn set_route(&mut self, key: &RouteKey, route: Route) -> anyhow::Result<()> {
        self.note()?;
        self.remove_route(key);
        self.routes.push((*key, route));
        Ok(())
    }

    fn route(&self, key: &RouteKey) -> Option<Route> {
        self.routes.iter().find(|(other, _)| other == key).map(|(_, route)| *route)
    }

    fn remove_route(&mut self, key: &RouteKey) {
        self.routes.retain(|(other, _)| other != key);
    }

    fn set_hint(&mut self, key: &RouteKey, hint: Hint) -> anyhow::Result<()> {
        self.note()?;
        self.hints.insert(key.hint(), hint);
        Ok(())
    }

    fn hint(&self, key: &RouteKey) -> anyhow::Result<Hint> {
        Ok(self.hints.get(&key.hint()).copied().unwrap_or_default())
    }
}

fn key(paths: &Paths, path: usize, ifindex: u32) -> RouteKey {
    route_key(&paths.specs[path], ifindex)
}

/// An interface on which the second path has its place where the first has it on interface 1.
fn shared_place(paths: &Paths) -> u32 {
    let place = key(paths, 0, 1).hint();
    (2..1_000_000).find(|ifindex| key(paths, 1, *ifindex).hint() == place).expect("some triple shares the place")
}

fn open(paths: &mut Paths, tables: &mut Memory, path: usize, ifindex: u32) {
    paths.open(Some(tables), LOCALS[path], ifindex, true, true).unwrap();
}

/// Asserts that the hint at a triple's place leads where the route of `path` does, or nowhere.
fn leads(tables: &Memory, key: &RouteKey, to: Option<&RouteKey>) {
    let wanted = to.map_or(Hint::default(), |to| Hint::at(tables.route(to).expect("a route").conf));
    assert_eq!(tables.hint(key).unwrap(), wanted);
}

#[test]
fn a_place_that_two_triples_share_has_the_hint_of_the_first_that_is_open() {
    let (mut paths, mut tables) = (paths(), Memory::default());
    let ifindex = shared_place(&paths);
    let (first, second) = (key(&paths, 0, 1), key(&paths, 1, ifindex));
    open(&mut paths, &mut tables, 1, ifindex);
    leads(&tables, &second, Some(&second));
    open(&mut paths, &mut tables, 0, 1);
    leads(&tables, &second, Some(&first));
    // Each change leaves the configuration in use for the other one of the path.
    for generation in 2..4 {
        paths.change(Some(&mut tables), &config(100), Who { generation, ..WHO }).unwrap();
        leads(&tables, &second, Some(&first));
    }
    paths.close(Some(&mut tables), LOCALS[0]);
    leads(&tables, &first, Some(&second));
    for generation in 4..6 {
        paths.change(Some(&mut tables), &config(100), Who { generation, ..WHO }).unwrap();
        leads(&tables, &first, Some(&second));
    }
    paths.close(Some(&mut tables), LOCALS[1]);
    leads(&tables, &first, None);
    assert!(tables.routes.is_empty());
}

#[test]
fn a_closed_path_is_found_by_no_hint() {
    let (mut paths, mut tables) = (paths(), Memory::default());
    let of = [key(&paths, 0, 1), key(&paths, 1, 2)];
    open(&mut paths, &mut tables, 0, 1);
    open(&mut paths, &mut tables, 1, 2);
    paths.close(Some(&mut tables), LOCALS[0]);
    leads(&tables, &of[0], None);
    leads(&tables, &of[1], Some(&of[1]));
    // An address that moves leaves no hint either.
    open(&mut paths, &mut tables, 1, 3);
    leads(&tables, &of[1], None);
    let moved = key(&paths, 1, 3);
    leads(&tables, &moved, Some(&moved));
}

#[test]
fn what_others_changed_is_written_again_once_each() {
    let (mut paths, mut tables) = (paths(), Memory::default());
    let ifindex = shared_place(&paths);
    let (first, second) = (key(&paths, 0, 1), key(&paths, 1, ifindex));
    open(&mut paths, &mut tables, 0, 1);
    open(&mut paths, &mut tables, 1, ifindex);
    let good = tables.clone();
    assert_eq!(paths.repair(&mut tables).unwrap(), []);
    assert_eq!(tables.written, good.written, "nothing to mend, nothing written");
    for wrong in [Hint::default(), Hint::at(good.route(&second).unwrap().conf)] {
        tables.hints.insert(first.hint(), wrong);
        assert_eq!(paths.repair(&mut tables).unwrap(), [(maps::HINTS, 1)]);
        assert_eq!(tables.hints, good.hints);
    }
    tables.confs.insert(good.route(&second).unwrap().conf, PathConf { path: 9, ..good.found(&second).unwrap() });
    tables.remove_route(&first);
    assert_eq!(paths.repair(&mut tables).unwrap(), [(maps::CONFS, 1), (maps::ROUTES, 1)]);
    assert_eq!(tables.route(&first), good.route(&first));
    assert_eq!(tables.confs, good.confs);
}

/// Two open paths under the old keys and settings, their triples, and what frames find by them.
fn before_reload() -> (Paths, Memory, [RouteKey; 2], [Option<PathConf>; 2]) {
    let (mut paths, mut tables) = (paths(), Memory::default());
    let of = [key(&paths, 0, 1), key(&paths, 1, 2)];
    open(&mut paths, &mut tables, 0, 1);
    open(&mut paths, &mut tables, 1, 2);
    let found = of.map(|key| tables.found(&key));
    (paths, tables, of, found)
}

/// What userspace goes by: configurations of the responder without their triples, and delays.
fn userspace(paths: &Paths) -> (Vec<PathConf>, Vec<u64>) {
    (paths.confs.read().unwrap().clone(), paths.delays())
}

#[test]
fn a_reload_puts_new_keys_and_settings_into_every_table() {
    let (mut paths, mut tables, of, old) = before_reload();
    let before = userspace(&paths);
    let written = tables.written;
    let in_use = of.map(|key| tables.route(&key).unwrap().conf);
    paths.reload(Some(&mut tables), &config(100), &config(50), ring("04050607")).unwrap();
    assert_eq!(tables.written - written, 8, "per path a configuration, its route, and its hint twice");
    for (path, key) in of.iter().enumerate() {
        let (now, before) = (tables.found(key).unwrap(), old[path].unwrap());
        assert!(now.slots != before.slots && now.standing != before.standing);
        assert_eq!(now.answer_within_ns, 50_000_000);
        assert_eq!(tables.confs.get(&in_use[path]), old[path].as_ref(), "a frame may still be reading it");
    }
    let now = userspace(&paths);
    assert!(now.0 != before.0 && now.1 != before.1);
}

#[test]
fn a_reload_that_fails_at_any_write_leaves_the_old_keys_and_settings_in_force_everywhere() {
    for write in 0..8 {
        let (mut paths, mut tables, of, old) = before_reload();
        let before = userspace(&paths);
        tables.refused = tables.written + write..tables.written + write + 1;
        let error = paths.reload(Some(&mut tables), &config(100), &config(50), ring("04050607")).unwrap_err();
        assert!(format!("{error:#}").contains("is refused"), "{error:#}");
        assert_eq!(of.map(|key| tables.found(&key)), old, "write {write}");
        assert_eq!(userspace(&paths), before, "write {write}");
        assert_eq!(paths.repair(&mut tables).unwrap(), [], "nothing else is left to mend");
    }
}

#[test]
fn what_could_not_be_set_back_is_set_back_later() {
    for write in 0..8 {
        let (mut paths, mut tables, of, old) = before_reload();
        tables.refused = tables.written + write..u32::MAX;
        paths.reload(Some(&mut tables), &config(100), &config(50), ring("04050607")).unwrap_err();
        assert!(paths.repair(&mut tables).is_err(), "write {write}");
        tables.refused = 0..0;
        paths.repair(&mut tables).unwrap();
        assert_eq!(of.map(|key| tables.found(&key)), old, "write {write}");
        let hinted = of.map(|key| tables.confs.get(&tables.hint(&key).unwrap().conf()).copied());
        assert_eq!(hinted, old, "write {write}");
        let written = tables.written;
        paths.repair(&mut tables).unwrap();
        assert_eq!(tables.written, written, "and then no more");
    }
}

#[test]
fn an_incarnation_that_could_not_be_written_everywhere_is_not_taken_and_can_be_tried_again() {
    let newer = Who { incarnation: WHO.incarnation + 1, ..WHO };
    for write in 0..8 {
        let (mut paths, mut tables, of, old) = before_reload();
        tables.refused = tables.written + write..tables.written + write + 1;
        paths.change(Some(&mut tables), &config(100), newer).unwrap_err();
        assert_eq!(paths.who(), WHO, "write {write}: it would pass for taken");
        let mut again = tables.clone();
        paths.repair(&mut tables).unwrap();
        assert_eq!(of.map(|key| tables.found(&key)), old, "write {write}");
        again.refused = 0..0;
        paths.change(Some(&mut again), &config(100), newer).unwrap();
        assert_eq!(paths.who(), newer);
        for key in &of {
            assert_eq!(again.found(key).unwrap().standing[0], newer.incarnation, "write {write}");
        }
    }
}

#[test]
fn a_reload_reaches_the_hop_limit_of_routed_paths() {
    // Node a and node b lie in different subnets of the second network.
    let routed = |limit: u8| {
        let mut config = config(100);
        config.settings.cross_subnet_min_hop_limit = limit;
        config.networks[1].subnets = config.networks[0].subnets.clone();
        config
    };
    let (old, fresh) = (routed(64), routed(200));
    let mut tables = Memory::default();
    let mut paths = Paths::new(&old, 1, old_ring(), WHO).unwrap();
    for local in LOCALS {
        paths.open(Some(&mut tables), local, 7, true, true).unwrap();
    }
    let limits = |paths: &Paths, tables: &Memory| -> Vec<u32> {
        (0..paths.len()).map(|path| tables.found(&paths.entries[path].unwrap().key).unwrap().min_hop_limit).collect()
    };
    assert_eq!(limits(&paths, &tables), [255, 64]);
    assert_eq!(crate::config::paths_for(&old, 1), crate::config::paths_for(&fresh, 1), "no other plan");
    paths.reload(Some(&mut tables), &old, &fresh, old_ring()).unwrap();
    assert_eq!(limits(&paths, &tables), [255, 200]);
}

/// What this node says of view 5, in which it grants node 2 by `grant`.
fn announced(mark: u64, grant: u64) -> Announced {
    Announced {
        order: 5,
        digest: 6,
        mark,
        flags: frame::STANDING_VOTES | frame::STANDING_GATED,
        grants: [(2, grant)].into(),
    }
}

#[test]
fn what_is_announced_is_in_every_table_and_every_probe() {
    let (mut paths, mut tables) = (paths(), Memory::default());
    for local in LOCALS {
        paths.open(Some(&mut tables), local, 1, true, true).unwrap();
    }
    let before = tables.clone();
    paths.announce(Some(&mut tables), announced(44, 45)).unwrap();
    for path in 0..2 {
        let conf = tables.found(&key(&paths, path, 1)).unwrap();
        assert_eq!(conf.standing[2..5], [5, 6, 45]);
        assert_eq!((conf.standing[1] >> 32) as u16, frame::STANDING_VOTES | frame::STANDING_GATED);
        assert_eq!((conf.grant_mark, conf.vote_slot), (44, 1));
        let old = before.found(&key(&paths, path, 1)).unwrap();
        assert_eq!((old.standing[2..5].to_vec(), old.grant_mark), (vec![0, 0, 0], 0));
        assert_ne!(conf.slots[0].own_digest, old.slots[0].own_digest);
        assert_eq!(paths.confs.read().unwrap()[path].standing, conf.standing, "the responder says the same");
        let signer = &paths.signers()[path];
        assert_eq!(signer.mark(), 44);
        assert_eq!(signer.probe(2, 1, 1, 1, 1, 0)[frame::word::GRANT], 45);
    }
    // Without a mark nothing could take a grant back: there is none.
    paths.announce(Some(&mut tables), announced(0, 45)).unwrap();
    assert_eq!(tables.found(&key(&paths, 0, 1)).unwrap().standing[4], 0);
    // Nor is one given to whom the view does not have.
    paths.announce(Some(&mut tables), Announced { grants: [(3, 45)].into(), ..announced(44, 0) }).unwrap();
    assert_eq!(tables.found(&key(&paths, 0, 1)).unwrap().standing[4], 0);
}

#[test]
fn an_announcement_that_cannot_be_written_is_not_meant() {
    let (mut paths, mut tables) = (paths(), Memory::default());
    for local in LOCALS {
        paths.open(Some(&mut tables), local, 1, true, true).unwrap();
    }
    paths.announce(Some(&mut tables), announced(44, 45)).unwrap();
    tables.refused = tables.written + 3..u32::MAX;
    paths.announce(Some(&mut tables), announced(54, 55)).unwrap_err();
    assert!(paths.signers().iter().all(|signer| signer.mark() == 44));
    assert!(paths.confs.read().unwrap().iter().all(|conf| conf.grant_mark == 44));
    tables.refused = 0..0;
    paths.repair(&mut tables).unwrap();
    assert!((0..2).all(|path| tables.found(&key(&paths, path, 1)).unwrap().grant_mark == 44));
}

#[test]
fn a_votes_slot_is_its_nodes_place_in_the_configuration() {
    let config = config(100);
    assert_eq!([1, 2, 3].map(|node| vote_slot(&config, node)), [Some(0), Some(1), None]);
}

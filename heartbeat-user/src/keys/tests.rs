//! Tests of the key file, the derivation and the signer, against the code that the packet path runs.

use super::*;
use heartbeat_common::counter::Counter;
use heartbeat_common::exchange::{self, Outcome};
use heartbeat_common::frame::{self, STANDING_WORDS, WORDS, word};
use heartbeat_common::path::{PathConf, SLOT0, SLOT1};
use heartbeat_common::tick::Tick;
use heartbeat_common::view::{Name, Order};
use heartbeat_common::{fence, lease};
use std::cell::Cell;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::Duration;

const CLUSTER: u64 = 0x6f0c_5d9e_2a41_7b83;
const FIRST: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const SECOND: &str = "1f1e1d1c1b1a191817161514131211100f0e0d0c0b0a09080706050403020100";

fn keys(text: &str) -> Keys {
    Keys::parse(text.as_bytes()).unwrap()
}

fn both(active: usize) -> KeyRing {
    keys(&format!("active = {active}\n0:{FIRST}\n1:{SECOND}\n")).ring(CLUSTER)
}

fn refused(text: &str) -> (usize, &'static str) {
    Keys::parse(text.as_bytes()).map(|_| ()).unwrap_err()
}

#[test]
fn key_file_forms() {
    let one = keys(FIRST);
    assert_eq!((one.active(), one.ring(CLUSTER).holds(0), one.ring(CLUSTER).holds(1)), (0, true, false));
    let other = keys(&format!("# comment\r\n\r\n 1: {SECOND}\r\n"));
    assert_eq!((other.active(), other.ring(CLUSTER).holds(0), other.ring(CLUSTER).holds(1)), (1, false, true));
    let two = keys(&format!("1:{SECOND}\nactive=1\n0:{FIRST}"));
    assert_eq!((two.active(), two.ring(CLUSTER).holds(0), two.ring(CLUSTER).holds(1)), (1, true, true));
    assert_eq!(keys(&FIRST.to_uppercase()).ring(CLUSTER).exchange(1, 2, 0), one.ring(CLUSTER).exchange(1, 2, 0));
}

#[test]
fn key_file_faults() {
    let form = "must be 64 hex digits, after 0: or 1: where there are two keys";
    let none = "the file holds no key; make one with: heartbeatd genkey FILE";
    let cases = [
        (String::new(), 1, none),
        ("# nothing\n\n".to_owned(), 1, none),
        (format!("\n\n{}", &FIRST[1..]), 3, form),
        (format!("{FIRST}0"), 1, form),
        (format!("2:{FIRST}"), 1, form),
        (format!("{}g", &FIRST[1..]), 1, form),
        ("\u{fffd}\0".to_owned(), 1, form),
        ("0".repeat(64), 1, "the key is one byte repeated; make one with: heartbeatd genkey FILE"),
        (format!("{FIRST}\n{SECOND}"), 2, "this slot has a key already; write 0:KEY and 1:KEY for two"),
        (format!("active = 0\n0:{FIRST}\n1:{FIRST}"), 3, "both slots hold the same key"),
        (format!("0:{FIRST}\n1:{SECOND}"), 2, "with two keys, \"active = 0\" or \"active = 1\" is required"),
        (format!("active = 1\n{FIRST}"), 2, "the active slot holds no key"),
        (format!("active = 2\n{FIRST}"), 1, "must be \"active = 0\" or \"active = 1\""),
        (format!("active = 0\nactive = 0\n{FIRST}"), 2, "the active slot is given twice"),
        ("#".repeat(4097), 1, "the file must not be larger than 4096 bytes"),
    ];
    for (text, line, rule) in cases {
        assert_eq!(refused(&text), (line, rule), "{text:?}");
    }
}

#[test]
fn derivation_matches_an_independent_one() {
    // HMAC-SHA256 of Python's standard library, RFC 5869 written out by hand.
    let ring = keys(FIRST).ring(CLUSTER);
    assert_eq!(ring.exchange(1, 2, 0).unwrap().k, [0x770a_dbd7_c4b9_30f3, 0x8bf5_bed3_b347_f0c2]);
    assert_eq!(ring.exchange(2, 1, 0).unwrap().k, [0x27f8_7d6d_3893_71f6, 0x4d5d_0ff1_15b7_568c]);
    assert_eq!(ring.standing(1, 2, 0).unwrap().k, [0x1daa_8b9f_8ae5_b10b, 0x206a_aab9_23ee_0dec]);
    assert_eq!(ring.exchange(1, 2, 1), None);
    assert_eq!(ring.exchange(1, 2, 2), None);
}

#[test]
fn every_input_of_the_derivation_changes_the_key() {
    let ring = both(0);
    let other = keys(&format!("1:{FIRST}")).ring(CLUSTER);
    let all = [
        ring.exchange(1, 2, 0),
        ring.exchange(2, 1, 0),
        ring.exchange(1, 3, 0),
        ring.exchange(1, 0x0200, 0),
        ring.exchange(1, 2, 1),
        ring.standing(1, 2, 0),
        ring.standing(2, 1, 0),
        ring.standing(1, 2, 1),
        ring.fence(1, 2, 0),
        ring.fence(2, 1, 0),
        ring.fence(1, 2, 1),
        other.exchange(1, 2, 1),
        keys(FIRST).ring(CLUSTER + 1).exchange(1, 2, 0),
    ];
    for (index, key) in all.iter().enumerate() {
        assert!(key.is_some() && !all[..index].contains(key), "{index}");
    }
}

#[test]
fn nothing_secret_is_shown() {
    let (ring, keys) = (both(0), keys(FIRST));
    let (path, standing) = (paths()[0].clone(), standing(7));
    let conf = path_conf(&ring, &path, &standing);
    let shown = format!("{ring:?} {keys:?} {:?} {:?}", conf.slots[0], ProbeSigner::new(&ring, &path, &standing));
    let lanes = conf.slots.iter().flat_map(|slot| slot.mine.v.into_iter().chain(slot.theirs.v));
    let words = conf.slots.iter().flat_map(|slot| slot.standing_key.k.into_iter().chain(slot.own_standing_key.k));
    let fences = conf.fences.iter().flat_map(|keys| keys.theirs.k.into_iter().chain(keys.mine.k));
    let shown = format!("{shown} {conf:?} {:?}", FenceSigner::new(&ring, &path));
    for secret in lanes.chain(words).chain(fences) {
        assert!(!shown.contains(&secret.to_string()) && !shown.contains(&format!("{secret:x}")));
    }
    assert!(!shown.contains("[0, 1, 2, 3") && !shown.contains(&FIRST[..16]), "{shown}");
}

/// Both ends of one path: node 1 is first, node 2 second.
fn paths() -> [PathSpec; 2] {
    let (first, second) = ("10.1.0.1".parse().unwrap(), "10.1.0.2".parse().unwrap());
    let one = PathSpec {
        network: 3,
        own: 1,
        peer: 2,
        local: first,
        remote: second,
        vlan: 10,
        answer_within: Duration::from_millis(100),
        min_hop_limit: 255,
    };
    [one.clone(), PathSpec { own: 2, peer: 1, local: second, remote: first, ..one }]
}

fn standing(incarnation: u64) -> [u64; STANDING_WORDS] {
    [incarnation, frame::identity(5, 0), 11, 12, 13, 14, 0]
}

/// A tick as its writers see it, which has seen nothing.
fn tick() -> Tick<Cell<u64>> {
    Tick::default()
}

/// A page that nothing was written to.
fn page() -> [Cell<u64>; lease::WORDS] {
    [const { Cell::new(0) }; lease::WORDS]
}

struct Ends {
    signer: ProbeSigner,
    confs: [PathConf; 2],
}

fn ends(active: usize) -> Ends {
    let (ring, paths) = (both(active), paths());
    let confs = [path_conf(&ring, &paths[0], &standing(7)), path_conf(&ring, &paths[1], &standing(9))];
    Ends { signer: ProbeSigner::new(&ring, &paths[0], &standing(7)), confs }
}

/// Lets node 2 take and answer a probe.
fn answer(ends: &Ends, probe: &[u64; WORDS]) -> [u64; WORDS] {
    let (tick, mut echo) = (tick(), *probe);
    let good = exchange::authenticate(probe, &ends.confs[1], &tick).unwrap();
    let page = page();
    let outcome = exchange::record(probe, &good, &ends.confs[1], &tick, &page, 5_000).unwrap();
    let Outcome::Answer(answer) = outcome else { panic!("{outcome:?}") };
    exchange::write_echo(&mut echo, &good, &ends.confs[1], &page, answer, 5_000, 1, 0, 0);
    echo
}

#[test]
fn probe_and_echo_are_authentic_in_both_slots() {
    for active in [0, 1] {
        let mut ends = ends(active);
        for expected in [0, 9, 4] {
            ends.signer.expect_peer(expected);
            let probe = ends.signer.probe(2, 1_000, 9, 77, 3, frame::FLAG_LEAVING);
            let echo = answer(&ends, &probe);
            let tick = tick();
            let good = exchange::authenticate(&echo, &ends.confs[0], &tick).unwrap();
            assert!(good.echo && good.slot == active as u64);
            let outcome = exchange::record(&echo, &good, &ends.confs[0], &tick, &page(), 9_000).unwrap();
            assert_eq!(outcome, Outcome::Taken(Counter::EchoTimely, 8_000));
            assert_eq!((tick.peer_incarnation.get(), tick.peer_stamp.get()), (9, 5_000));
        }
    }
}

#[test]
fn a_probe_goes_with_its_grant_or_without() {
    let ends = ends(0);
    for (probe, grant) in [
        (ends.signer.probe(2, 1_000, 9, 77, 3, 0), 13),
        (ends.signer.bare_probe(4, 1_000, 9, 77, 3, frame::FLAG_FENCED), 0),
    ] {
        assert_eq!(probe[word::GRANT], grant);
        let mut told = standing(7);
        told[word::GRANT - word::STANDING] = grant;
        assert_eq!(probe[word::STANDING..word::TAG], told);
        exchange::authenticate(&probe, &ends.confs[1], &tick()).unwrap();
        // Neither passes for the other.
        let mut other = probe;
        other[word::GRANT] ^= 13;
        assert!(exchange::authenticate(&other, &ends.confs[1], &tick()).is_err());
    }
    assert_eq!((ends.signer.mark(), ends.signer.clone().granting_under(5).mark()), (0, 5));
}

#[test]
fn a_fence_is_authentic_to_its_victim_alone() {
    let (ring, paths) = (both(1), paths());
    let signer = FenceSigner::new(&ring, &paths[0]);
    let view = Name { order: Order(5), digest: [1, 2, 3, 4] };
    let order = fence::Order { sender: 7, victim: 9, view, nonce: 3, reason: fence::Reason::Silent };
    let mut frame = signer.fence(&order);
    let victim = path_conf(&ring, &paths[1], &standing(9));
    let (tick, page) = (tick(), page());
    lease::begin(&page, 9, [1, 2]);
    assert_eq!(exchange::authenticate(&frame, &victim, &tick).map(|_| ()), Err(Counter::DropReserved));
    let good = fence::authenticate(&frame, &victim, &page).unwrap();
    assert_eq!(fence::record(&frame, &good, &victim, &tick, &page, 1_000), Ok(Counter::Fenced));
    assert!(lease::fenced(&page, 9));
    // And its acknowledgement to the sender.
    fence::write_ack(&mut frame, &victim);
    let sender = path_conf(&ring, &paths[0], &standing(7));
    let good = fence::authenticate(&frame, &sender, &page).unwrap();
    assert_eq!(fence::record(&frame, &good, &sender, &tick, &page, 2_000), Ok(Counter::FenceTakenAck));
    assert_eq!(tick.fence_acked.get(), 9);
    for strange in [PathSpec { vlan: 11, ..paths[0].clone() }, PathSpec { local: paths[0].remote, ..paths[0].clone() }]
    {
        let frame = FenceSigner::new(&ring, &strange).fence(&order);
        assert_eq!(fence::authenticate(&frame, &victim, &page).map(|_| ()), Err(Counter::DropFenceTag));
    }
}

#[test]
fn one_flipped_bit_anywhere_is_refused() {
    let ends = ends(0);
    let probes = [2, 4].map(|sequence| ends.signer.probe(sequence, 1_000, 9, 77, 3, 0));
    let echoes = probes.map(|probe| answer(&ends, &probe));
    let mut refused = 0;
    for ([before, frame], conf) in [(probes, &ends.confs[1]), (echoes, &ends.confs[0])] {
        // Once with the MAC states of an earlier frame at hand, and once without.
        let warm = tick();
        let good = exchange::authenticate(&before, conf, &warm).unwrap();
        exchange::record(&before, &good, conf, &warm, &page(), 9_000).unwrap();
        for tick in [warm, tick()] {
            assert!(exchange::authenticate(&frame, conf, &tick).is_ok());
            for bit in 0..frame::LEN * 8 {
                let mut bytes = frame::to_bytes(&frame);
                bytes[bit / 8] ^= 1 << (bit % 8);
                let flipped = frame::from_bytes(&bytes);
                assert!(exchange::authenticate(&flipped, conf, &tick).is_err(), "bit {bit}");
                refused += 1;
            }
        }
    }
    assert_eq!(refused, 2 * 2 * 144 * 8);
}

#[test]
fn what_the_frame_does_not_carry_is_under_the_tag() {
    let ends = ends(0);
    let probe = ends.signer.probe(2, 1_000, 9, 77, 3, 0);
    let [_, there] = paths();
    let strange = [
        PathSpec { local: "10.1.0.3".parse().unwrap(), ..there.clone() },
        PathSpec { remote: "10.1.0.3".parse().unwrap(), ..there.clone() },
        PathSpec { local: there.remote, remote: there.local, ..there.clone() },
        PathSpec { vlan: 11, ..there.clone() },
    ];
    for path in strange {
        let conf = path_conf(&both(0), &path, &standing(9));
        let result = exchange::authenticate(&probe, &conf, &tick()).map(|_| ());
        assert_eq!(result, Err(Counter::DropTag), "{path:?}");
    }
    let other = keys(SECOND).ring(CLUSTER);
    let conf = path_conf(&other, &there, &standing(9));
    assert_eq!(exchange::authenticate(&probe, &conf, &tick()).map(|_| ()), Err(Counter::DropTag));
    let empty = path_conf(&keys(&format!("1:{SECOND}")).ring(CLUSTER), &there, &standing(9));
    assert_eq!(exchange::authenticate(&probe, &empty, &tick()).map(|_| ()), Err(Counter::DropKeySlot));
}

#[test]
fn a_rotation_has_no_gap() {
    let [here, there] = paths();
    let (old, new) = (format!("0:{FIRST}"), format!("1:{SECOND}"));
    let steps = [old.clone(), format!("active=0\n{old}\n{new}"), format!("active=1\n{old}\n{new}"), new.clone()];
    for pair in steps.windows(2) {
        for (mine, theirs) in [(&pair[0], &pair[1]), (&pair[1], &pair[0])] {
            let signer = ProbeSigner::new(&keys(mine).ring(CLUSTER), &here, &standing(7));
            let conf = path_conf(&keys(theirs).ring(CLUSTER), &there, &standing(9));
            let probe = signer.probe(2, 1_000, 9, 77, 3, 0);
            assert!(exchange::authenticate(&probe, &conf, &tick()).is_ok(), "{mine} to {theirs}");
        }
    }
}

#[test]
fn conf_and_route_say_what_the_path_says() {
    let [here, there] = paths();
    let conf = path_conf(&both(0), &here, &standing(7));
    assert_eq!((conf.cluster, conf.vlan, conf.min_hop_limit, conf.path), (CLUSTER, 10, 255, 0));
    assert_eq!((conf.mine_ids, conf.theirs_ids), (frame::ids(3, 1, 2), frame::ids(3, 2, 1)));
    assert_eq!((conf.flags, conf.answer_within_ns), (SLOT0 | SLOT1, 100_000_000));
    let one = path_conf(&keys(FIRST).ring(CLUSTER), &here, &standing(7));
    assert_eq!((one.flags, one.slots[1]), (SLOT0, heartbeat_common::path::Slot::default()));
    let (here, there) = (route_key(&here, 4), route_key(&there, 4));
    assert_eq!((here.source, here.destination), (there.destination, there.source));
    // As the packet path packs an IPv4 address: 10.1.0.2 behind ::ffff:0:0/96.
    assert_eq!(here.source, [0, 0x0200_010a_ffff_0000]);
    assert_eq!(address_words("fd00:1::2".parse().unwrap()), [0x0100_00fd, 0x0200_0000_0000_0000]);
}

#[test]
fn generated_key_files_load_and_are_never_overwritten() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cluster.key");
    generate(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    let before = std::fs::read(&path).unwrap();
    let keys = Keys::load(&path).unwrap();
    let again = generate(&path).unwrap_err();
    assert_eq!(again.to_string(), format!("{}: exists; a key file is never overwritten", path.display()));
    assert_eq!(std::fs::read(&path).unwrap(), before);
    let other = directory.path().join("other.key");
    generate(&other).unwrap();
    let other_key = Keys::load(&other).unwrap().ring(CLUSTER).exchange(1, 2, 0);
    assert_ne!(keys.ring(CLUSTER).exchange(1, 2, 0), other_key);

    let dangling = directory.path().join("dangling.key");
    let target = directory.path().join("target");
    symlink(&target, &dangling).unwrap();
    assert!(matches!(generate(&dangling), Err(KeyError::Exists(_))));
    assert!(!target.exists());
    let nowhere = generate(&directory.path().join("no/such/dir.key"));
    assert!(matches!(nowhere, Err(KeyError::Write { .. })));
}

#[test]
fn key_files_that_others_reach_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cluster.key");
    generate(&path).unwrap();
    let mode = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    for bad in [0o604, 0o644, 0o660, 0o620, 0o610, 0o601, 0o4600] {
        mode(bad);
        let message = Keys::load(&path).unwrap_err().to_string();
        let expected = format!(
            "{path}: must be readable by its owner alone (or by root and the daemon's own group, mode 0640) \
             (mode is {bad:04o}); fix it with: chmod 0600 {path}",
            path = path.display()
        );
        assert_eq!(message, expected);
    }
    for good in [0o600, 0o400] {
        mode(good);
        Keys::load(&path).unwrap();
    }
    // Group reading is for a file of root in this process's own group, and for nothing else.
    mode(0o640);
    let is_root = nix::unistd::geteuid().is_root();
    assert_eq!(Keys::load(&path).is_ok(), is_root);
    if is_root {
        std::os::unix::fs::chown(&path, None, Some(nix::unistd::getegid().as_raw() + 54_321)).unwrap();
        assert!(matches!(Keys::load(&path), Err(KeyError::File(FileError::Mode { mode: 0o640, .. }))));
        std::os::unix::fs::chown(&path, Some(54_321), None).unwrap();
        mode(0o600);
        assert!(matches!(Keys::load(&path), Err(KeyError::File(FileError::Owner { owner: 54_321, .. }))));
        std::os::unix::fs::chown(&path, Some(0), None).unwrap();
    }
    mode(0o600);
    let link = directory.path().join("link.key");
    symlink(&path, &link).unwrap();
    let message = Keys::load(&link).unwrap_err().to_string();
    assert_eq!(message, format!("{}: must not be a symbolic link", link.display()));
    assert!(matches!(Keys::load(directory.path()), Err(KeyError::File(FileError::NotRegular(_)))));
    let pipe = directory.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    assert!(matches!(Keys::load(&pipe), Err(KeyError::File(FileError::NotRegular(_)))));
}

#[test]
fn arbitrary_key_files_never_panic() {
    use proptest::prelude::*;
    let line = prop_oneof![
        Just(FIRST.to_owned()),
        Just(format!("0:{FIRST}")),
        Just(format!("1:{SECOND}")),
        Just("active = 1".to_owned()),
        "\\PC{0,80}",
    ];
    let lines = proptest::collection::vec(line, 0..6);
    proptest!(|(lines in lines, bytes in proptest::collection::vec(any::<u8>(), 0..200))| {
        let text = lines.join("\n");
        if let Ok(keys) = Keys::parse(text.as_bytes()) {
            prop_assert!(keys.ring(1).exchange(1, 2, keys.active()).is_some());
        }
        prop_assert!(Keys::parse(&bytes).is_err());
    });
}

#[test]
fn a_link_has_one_secret_for_both_ends_and_no_other_pair_slot_or_cluster_has_it() {
    let ring = both(0);
    let secret = ring.link(1, 2, 0).unwrap();
    assert_eq!(*secret, *ring.link(2, 1, 0).unwrap());
    let others = [ring.link(1, 3, 0), ring.link(1, 2, 1), keys(FIRST).ring(CLUSTER + 1).link(1, 2, 0)];
    assert!(others.into_iter().all(|other| *other.unwrap() != *secret));
    assert!(keys(FIRST).ring(CLUSTER).link(1, 2, 1).is_none() && ring.link(1, 2, SLOTS).is_none());
    // The packet path's keys are halves of another expansion.
    let exchange = ring.exchange(1, 2, 0).unwrap().k;
    assert_ne!(secret[..8], exchange[0].to_le_bytes());
}

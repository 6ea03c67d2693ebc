//! Each of the 2^20 ways in which five members can hear each other, through the whole judgement: reports in, verdict out.
//! That the set in it is the best one is the search's to show; here it is who stays, who goes, and who may decide it.

use super::world::{DETECTION, World};
use crate::core::agreement::closing::{Plan, Scene, Verdict, judge};
use crate::core::agreement::document::{Document, Holder, Reason};
use crate::core::agreement::message::{Health, Hears, Report};
use crate::core::agreement::parted::Patience;
use crate::core::agreement::select::bits;
use crate::core::ids::NodeId;
use heartbeat_common::view::Ballot;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const ALL: u64 = 0b11111;

/// What each node reports that hears these, and is heard by those of them.
type Said = BTreeMap<(usize, u64, u64), Report>;

/// The report of a member that hears `heard`, both ways where they are `mutual`.
fn says(view: &Document, author: usize, heard: u64, mutual: u64) -> Report {
    let own = view.members[author];
    let edge = |peer: usize| {
        let (hears, both) = (heard >> peer & 1 == 1, mutual >> peer & 1 == 1);
        Hears {
            peer: view.members[peer],
            health: if hears { Health::Up } else { Health::Down },
            both_ways_ms: if both { 5_000 } else { 0 },
            silent_ms: if hears { 10 } else { 600 },
            controller_age_ms: 0,
            messages_pass: both,
            accepted: 0,
        }
    };
    Report {
        author: own,
        serial: 1,
        turn: 1,
        view: view.name(),
        vote: view.votes.iter().find(|vote| vote.holder == Holder::Node(own.node)).expect("it votes").id,
        sequence: 1,
        accepted: Ballot::NONE,
        round: 0,
        settings: 5,
        leaving: false,
        cannot_apply: false,
        joins: false,
        hears: (0..5).filter(|peer| *peer != author).map(edge).collect(),
        stopped: Vec::new(),
        ends: Vec::new(),
        wishes: Vec::new(),
        remembers: Vec::new(),
    }
}

fn all_said(view: &Document) -> Said {
    let heard = (0..5).flat_map(|node| (0..=ALL).filter(move |set| set >> node & 1 == 0).map(move |set| (node, set)));
    let both =
        heard.flat_map(|(node, set)| (0..=set).filter(move |mutual| mutual & !set == 0).map(move |m| (node, set, m)));
    both.map(|(node, heard, mutual)| ((node, heard, mutual), says(view, node, heard, mutual))).collect()
}

/// Whom a node hears: each has four bits of the graph, one for each other node.
fn heard(graph: u64, node: usize) -> u64 {
    let others = graph >> (node * 4) & 0b1111;
    others & ((1 << node) - 1) | others >> node << (node + 1)
}

/// The nodes that a node reaches over pairs that hear each other: all of them have the same reports.
fn part(node: usize, mutual: &[u64; 5]) -> u64 {
    let mut known = 1 << node;
    loop {
        let more = bits(known).fold(known, |more, one| more | mutual[one]);
        if more == known {
            return known;
        }
        known = more;
    }
}

fn is_connected(set: u64, mutual: &[u64; 5]) -> bool {
    bits(set).all(|node| set & !(mutual[node] | 1 << node) == 0)
}

/// The judgement of one connected part, once everything was waited for.
fn judged(view: &Document, said: &Said, part: u64, hears: &[u64; 5], mutual: &[u64; 5]) -> Verdict {
    let report = |node: usize| (view.members[node].node, &said[&(node, hears[node], mutual[node])]);
    judge(&Scene {
        view,
        name: view.name(),
        reports: bits(part).map(report).collect(),
        behind: BTreeMap::new(),
        detection: Duration::from_millis(DETECTION),
        settings: 5,
        opened: true,
        opened_twice: true,
        must_decide: false,
        released: BTreeSet::new(),
        passed_over: BTreeSet::new(),
        patience: Patience { lasted: None, over: true, wary: false },
    })
}

/// Says that a plan is one that this part may make: of the most that are connected, who goes is named with a reason that
/// is true, and those who stay propose.
fn check(view: &Document, plan: &Plan, part: u64, hears: &[u64; 5], mutual: &[u64; 5], most: u32) {
    let place = |node| view.members.iter().position(|member| member.node == node).unwrap();
    let stay = plan.members.iter().fold(0_u64, |set, member| set | 1 << place(member.node));
    assert!(is_connected(stay, mutual) && stay & !part == 0 && stay != ALL);
    assert!(stay.count_ones() == most && most >= 3);
    let gone: Vec<usize> = plan.removals.iter().map(|removal| place(removal.member.node)).collect();
    assert_eq!(gone.iter().fold(0_u64, |set, node| set | 1 << *node), ALL & !stay);
    for (removal, node) in plan.removals.iter().zip(gone) {
        let silent = bits(stay).all(|by| hears[by] >> node & 1 == 0);
        assert_eq!(removal.reason, if silent { Reason::Down } else { Reason::NotConnected });
        let judges = bits(stay).zip(0..).filter(|(by, _)| mutual[*by] >> node & 1 == 0);
        assert_eq!(removal.judges, judges.fold(0_u64, |set, (_, place)| set | 1 << place));
    }
    assert_eq!(plan.ranks.iter().fold(0_u64, |set, node| set | 1 << place(*node)), stay);
    assert!(plan.stalled.is_empty() && plan.wish.is_none());
}

#[test]
fn every_way_in_which_five_members_hear_each_other_is_judged_and_one_part_at_most_goes_on() {
    let view = World::formed(5).view(1);
    let said = all_said(&view);
    let is_of = |node: NodeId, part: u64| {
        let place = view.members.iter().position(|member| member.node == node);
        place.is_some_and(|place| part >> place & 1 == 1)
    };
    // What a part's reports come to depends on nothing but whom its nodes hear: each such scene is judged once.
    let mut seen = vec![0_u64; (1 << 25) / 64];
    let (mut scenes, mut same, mut proposed, mut left_to_others, mut waits) = (0, 0, 0, 0, 0);
    for graph in 0..1_u64 << 20 {
        let hears: [u64; 5] = std::array::from_fn(|node| heard(graph, node));
        let mutual: [u64; 5] =
            std::array::from_fn(|a| bits(hears[a]).filter(|&b| hears[b] >> a & 1 == 1).fold(0, |set, b| set | 1 << b));
        let mut left = ALL;
        while left != 0 {
            let part = part(left.trailing_zeros() as usize, &mutual);
            left &= !part;
            let rows = bits(part).fold(0, |rows, node| rows | graph & 0b1111 << (node * 4));
            let scene = (rows << 5 | part) as usize;
            if seen[scene / 64] >> (scene % 64) & 1 == 1 {
                continue;
            }
            seen[scene / 64] |= 1 << (scene % 64);
            scenes += 1;
            let connected = (0..=ALL).filter(|set| set & !part == 0 && is_connected(*set, &mutual));
            let most = connected.map(u64::count_ones).max().unwrap_or(0);
            match judged(&view, &said, part, &hears, &mutual) {
                Verdict::Same { apart } => {
                    assert!(is_connected(ALL, &mutual) && apart.is_empty(), "{graph:05x}");
                    same += 1;
                }
                // Of others that are heard and have said nothing it is taken that they hear each other: it is for them to
                // propose, and nobody of this part is among them.
                Verdict::Propose(plan) if plan.members.iter().all(|member| !is_of(member.node, part)) => {
                    assert!(most < 3 && plan.ranks.iter().all(|node| !is_of(*node, part)), "{graph:05x}: {plan:?}");
                    left_to_others += 1;
                }
                Verdict::Propose(plan) => {
                    check(&view, &plan, part, &hears, &mutual, most);
                    proposed += 1;
                }
                Verdict::Waits { available, missing } => {
                    assert!(
                        most <= available && available < 3 && !missing.is_empty(),
                        "{graph:05x}: {available} {missing:?}"
                    );
                    waits += 1;
                }
                verdict => panic!("{graph:05x}: {verdict:?}"),
            }
        }
    }
    // All five connected is one scene; of the others all kinds were seen.
    assert_eq!(same, 1);
    assert!(proposed > 0 && left_to_others > 0 && waits > 0, "{proposed} {left_to_others} {waits}");
    assert_eq!(scenes, same + proposed + left_to_others + waits);
}

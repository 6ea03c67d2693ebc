//! Ways that pass heartbeats and no messages, and the reverse: there is no limbo, within the control limit it is decided
//! who goes, and all come to the same. And what an operator is told of a change that nobody can decide.

use heartbeat_common::view::Order;
use heartbeat_tests::lab::crew::Crew;
use heartbeat_tests::lab::timely::{CONTROL_LIMIT, DELAY, VIEW};
use heartbeat_tests::lab::views::{long_rounds, rounds};
use heartbeat_tests::lab::wait::root_or_skip;
use heartbeat_tests::lab::{Direction, Fault, Port, Sink, Timely, monotonic_ns};
use serde_json::Value;
use std::time::Duration;

/// Bytes of a heartbeat from the IP header on: IPv4, UDP and 18 words.
const HEARTBEAT: u32 = 20 + 8 + 18 * 8;
/// Shortest IPv4 packet with TCP in it. ARP, which is shorter, passes.
const TCP_LEAST: u32 = 40;
/// A regroup waits so long for the reports of those that it hears.
const OPENING: Duration = Duration::from_millis(500);
/// For so long who hears whom has to have been the same before somebody who is heard goes for it: two delays.
const SETTLING: Duration = DELAY.saturating_mul(2);
/// What messages pass, and that they do not, is seen up to so much apart: each end asks for itself, a quarter of the limit
/// after the last one came at the latest.
const APART: Duration = Duration::from_millis(250);

/// Within this all are at one on who goes where messages do not pass: the limit, the reports that do not come, and what
/// has to settle; then a regroup as any other.
fn by_messages(what: &str) -> Timely {
    let decided = CONTROL_LIMIT + APART + OPENING + SETTLING + Duration::from_millis(400);
    // The last message came up to a quarter of the limit before the fault.
    Timely::new(what, decided).not_before(CONTROL_LIMIT / 2)
}

/// Lets only heartbeats pass at a node's ports.
fn no_messages(node: usize) -> Vec<Fault> {
    ports(node, |port| {
        let lengths = [(TCP_LEAST, HEARTBEAT - 1), (HEARTBEAT + 1, 1500)];
        lengths.map(|(least, most)| Fault::Length(port, Direction::Both, least, most)).to_vec()
    })
}

/// Lets everything but heartbeats pass at a node's ports.
fn no_heartbeats(node: usize) -> Vec<Fault> {
    ports(node, |port| vec![Fault::Length(port, Direction::Both, HEARTBEAT, HEARTBEAT)])
}

fn ports(node: usize, faults: impl Fn(Port) -> Vec<Fault>) -> Vec<Fault> {
    (0..2).flat_map(|network| faults(Port { node, network })).collect()
}

/// `fault` takes node 2 out for one of `causes`, in time: all the others say so once and for the same cause, and node 2 acts
/// in nothing by the time that they take over. Mended by `mend`, it joins again.
fn goes_for(
    (crew, sink): (&mut Crew, &Sink),
    decided: &mut Timely,
    causes: &[&str],
    fault: impl FnOnce(&Crew),
    mend: impl FnOnce(&Crew),
) {
    let (before, mark, from) = (crew.stands(0).unwrap().view, crew.mark().unwrap(), monotonic_ns());
    fault(crew);
    let view = crew.await_view(&[0, 1]).unwrap();
    assert_eq!(Some(view), before.next());
    decided.add(from, crew.all_installed(&mark, &[0, 1], view).unwrap()).unwrap();
    let removed = [0, 1].map(|by| crew.await_said_of(&mark, by, "node_removed", 2).unwrap());
    assert!(causes.iter().any(|cause| removed[0]["cause"] == *cause), "{causes:?}: {}", removed[0]);
    assert_eq!(removed[0]["cause"], removed[1]["cause"], "the same on all nodes");
    sink.acts().gave_way(&[2], &[0, 1], view).unwrap();
    mend(crew);
    crew.await_view(&[0, 1, 2]).unwrap();
    for by in [0, 1] {
        assert_eq!(crew.said(&mark, by, "node_removed").unwrap().len(), 1, "once");
    }
}

/// What node 2's firewall takes, from outside, and its own messages: XDP answers before it, and its probes leave.
const SHUT: &str = "add table inet shut\n\
    add chain inet shut in { type filter hook input priority 0; }\n\
    add chain inet shut out { type filter hook output priority 0; }\n\
    add rule inet shut in udp dport 3343 counter drop\n\
    add rule inet shut in tcp dport 3343 drop\nadd rule inet shut in tcp sport 3343 drop\n\
    add rule inet shut out tcp dport 3343 drop\nadd rule inet shut out tcp sport 3343 drop\n";

/// The firewall drops all that comes to the port, heartbeats and messages. No member that stays hears it any less, and
/// it is out all the same once the control limit has passed; where to look for it is said.
#[test]
fn fault_38_a_node_whose_firewall_drops_messages_is_no_member_though_its_kernel_answers() {
    let name = "fault_38_a_node_whose_firewall_drops_messages_is_no_member_though_its_kernel_answers";
    if !root_or_skip(name) {
        return;
    }
    let (count, _) = rounds(name, 200);
    let (mut crew, sink) = Crew::formed(3).unwrap();
    let mut decided = by_messages("a firewall that drops all of the port, until its node is in no view");
    for _ in 0..count {
        let mark = crew.mark().unwrap();
        goes_for(
            (&mut crew, &sink),
            &mut decided,
            &["no_messages"],
            |crew| crew.lab.node(2).nft(SHUT).unwrap(),
            |crew| {
                for by in [0, 1] {
                    assert_eq!(crew.said(&mark, by, "node_down").unwrap().len(), 0, "it was never silent");
                }
                let lost = [0, 1].map(|by| crew.said(&mark, by, "control_lost").unwrap());
                let there = |event: &Value| event["node"] == "c" && event["location"] == "there";
                assert!(lost.iter().flatten().any(there), "somebody says at whose end to look: {lost:?}");
                crew.lab.node(2).nft("delete table inet shut\n").unwrap();
            },
        );
    }
    decided.judge().unwrap();
    crew.audit(&sink).unwrap();
}

#[test]
fn fault_39_where_heartbeats_pass_and_messages_do_not_the_node_goes_within_the_control_limit() {
    let name = "fault_39_where_heartbeats_pass_and_messages_do_not_the_node_goes_within_the_control_limit";
    if !root_or_skip(name) {
        return;
    }
    let (count, _) = rounds(name, 200);
    let (mut crew, sink) = Crew::formed(3).unwrap();
    let mut decided = by_messages("heartbeats that pass where messages do not, until it is decided who goes");
    for _ in 0..count {
        let fault = |crew: &Crew| crew.lab.inject(&no_messages(2)).map(drop).unwrap();
        goes_for((&mut crew, &sink), &mut decided, &["no_messages"], fault, |crew| {
            assert!(crew.lab.dropped().unwrap() > 0);
            crew.lab.heal().unwrap();
        });
    }
    decided.judge().unwrap();
    crew.audit(&sink).unwrap();
}

/// Two of five are more than may go at once: they go one after the other, and the three go on.
#[test]
fn fault_39_where_messages_reach_two_of_five_no_more_these_go_one_after_the_other() {
    let name = "fault_39_where_messages_reach_two_of_five_no_more_these_go_one_after_the_other";
    if !root_or_skip(name) {
        return;
    }
    let (count, _) = long_rounds(name, 100);
    let (mut crew, sink) = Crew::formed(5).unwrap();
    let both = CONTROL_LIMIT + APART + (OPENING + SETTLING + Duration::from_millis(400)) * 2;
    let mut decided = Timely::new("two whose messages do not pass, until both are in no view", both);
    for _ in 0..count {
        let (before, mark, from) = (crew.stands(0).unwrap().view, crew.mark().unwrap(), monotonic_ns());
        crew.lab.inject(&[no_messages(3), no_messages(4)].concat()).unwrap();
        let view = crew.await_view(&[0, 1, 2]).unwrap();
        assert_eq!(Some(view), before.next().and_then(Order::next), "one view for each");
        decided.add(from, crew.all_installed(&mark, &[0, 1, 2], view).unwrap()).unwrap();
        for by in [0, 1, 2] {
            let mut removed = ["d", "e"].map(|name| {
                let node = if name == "d" { 3 } else { 4 };
                let told = crew.await_said_of(&mark, by, "node_removed", node).unwrap();
                assert_eq!(told["cause"], "no_messages", "{told}");
                told["view"].to_string()
            });
            removed.sort();
            assert_ne!(removed[0], removed[1], "not by one view");
            assert!(crew.said(&mark, by, "node_down").unwrap().is_empty(), "they were never silent");
        }
        sink.acts().gave_way(&[3, 4], &[0, 1, 2], view).unwrap();
        crew.lab.heal().unwrap();
        crew.await_view(&[0, 1, 2, 3, 4]).unwrap();
    }
    decided.judge().unwrap();
    crew.audit(&sink).unwrap();
}

#[test]
fn fault_39_where_messages_pass_and_heartbeats_do_not_the_node_goes_as_one_that_is_silent() {
    let name = "fault_39_where_messages_pass_and_heartbeats_do_not_the_node_goes_as_one_that_is_silent";
    if !root_or_skip(name) {
        return;
    }
    let (count, _) = rounds(name, 200);
    let (mut crew, sink) = Crew::formed(3).unwrap();
    // Where its own report comes first, what it says has to settle.
    let mut decided = Timely::new("messages that pass where heartbeats do not, until it is decided", VIEW + SETTLING);
    for _ in 0..count {
        let fault = |crew: &Crew| crew.lab.inject(&no_heartbeats(2)).map(drop).unwrap();
        // By messages it says itself whom it does not hear: where that comes before the verdicts of all who stay, it is
        // "not connected" with them.
        goes_for((&mut crew, &sink), &mut decided, &["down", "not_connected"], fault, |crew| {
            assert!(crew.lab.dropped().unwrap() > 0);
            crew.lab.heal().unwrap();
        });
    }
    decided.judge().unwrap();
    crew.audit(&sink).unwrap();
}

#[test]
fn fault_39_between_two_alone_that_do_not_reach_each_other_by_messages_one_goes_by_rule() {
    let name = "fault_39_between_two_alone_that_do_not_reach_each_other_by_messages_one_goes_by_rule";
    if !root_or_skip(name) {
        return;
    }
    let (count, _) = rounds(name, 200);
    let (mut crew, sink) = Crew::formed(3).unwrap();
    let mut decided = by_messages("two that do not reach each other by messages, until one of them goes");
    // b and c alone: their firewalls drop each other's messages.
    let fault = |crew: &Crew| {
        for (node, other) in [(1, 3), (2, 2)] {
            let hosts = format!("{{ 10.77.1.{other}, 10.77.2.{other} }}");
            let shut = format!(
                "add table inet shut\nadd chain inet shut in {{ type filter hook input priority 0; }}\n\
                 add rule inet shut in ip saddr {hosts} tcp dport 3343 drop\n\
                 add rule inet shut in ip saddr {hosts} tcp sport 3343 drop\n"
            );
            crew.lab.node(node).nft(&shut).unwrap();
        }
    };
    let mend = |crew: &Crew| {
        [1, 2].iter().for_each(|node| crew.lab.node(*node).nft("delete table inet shut\n").unwrap());
    };
    for _ in 1..count {
        // As well connected as b, c has the higher id.
        goes_for((&mut crew, &sink), &mut decided, &["no_messages"], fault, mend);
    }
    decided.judge().unwrap();
    fault(&crew);
    let view = crew.await_view(&[0, 1]).unwrap();
    // Four control limits: nobody takes turns.
    crew.stays(&[0, 1], view, CONTROL_LIMIT * 4).unwrap();
    mend(&crew);
    crew.await_view(&[0, 1, 2]).unwrap();
    crew.audit(&sink).unwrap();
}

#[test]
fn a_change_that_no_majority_can_decide_is_withdrawn_and_whoever_asked_is_told_so() {
    if !root_or_skip("a_change_that_no_majority_can_decide_is_withdrawn_and_whoever_asked_is_told_so") {
        return;
    }
    let mut crew = Crew::idle(2).unwrap();
    // With votes that follow membership one of the two would go on, and decide it alone.
    crew.cluster = crew.cluster.clone().with("dynamic_quorum", false);
    let sink = crew.form().unwrap();
    let view = crew.stands(0).unwrap().view;
    crew.lab.partition(&[&[0], &[1]]).unwrap();
    crew.await_stands(0, "to stop acting", |stands| !stands.acting).unwrap();
    let change = ["set", "lower_quorum_priority_node", "b"];
    let set = crew.daemon(0).ctl(&change).unwrap();
    let said = String::from_utf8_lossy(&set.stderr).into_owned();
    assert_eq!(set.status.code(), Some(9), "{said}");
    assert!(said.contains("no majority of votes") && said.contains("withdrawn"), "{said}");
    crew.lab.heal().unwrap();
    assert_eq!(crew.await_view(&[0, 1]).unwrap(), view, "what was withdrawn is not decided later");
    let set = crew.daemon(0).ctl(&change).unwrap();
    assert!(set.status.success(), "{set:?}");
    crew.audit(&sink).unwrap();
}

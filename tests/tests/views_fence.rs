//! Orders that stop a node: obeyed by its kernel while its userspace stands still, waited out where they do not arrive,
//! and harmless to what comes after. And one identity on two machines.

use heartbeat_common::frame::{Kind, word};
use heartbeat_common::lease::Refused;
use heartbeat_tests::lab::crew::{Crew, programs};
use heartbeat_tests::lab::relay::{Recorded, Way};
use heartbeat_tests::lab::timely::{DELAY, LEASE, noticed};
use heartbeat_tests::lab::views::{FORMING, LEFT_OUT, long_rounds, pause_at_random, rounds};
use heartbeat_tests::lab::wait::root_or_skip;
use heartbeat_tests::lab::{Cluster, Lab, Options, Port, Sink, Spec, Timely, monotonic_ns, safety, wait_for};
use std::time::Duration;

const C: usize = 2;
/// Where the words begin in an untagged frame of IPv4.
const WORDS_AT: usize = 14 + 20 + 8;

fn fence(crew: &Crew) {
    let asked = crew.daemon(0).ctl(&["fence", "c", "lab"]).unwrap();
    assert!(asked.status.success(), "{asked:?}");
}

/// c's last act came before the first one in a view without it.
fn stopped_first(crew: &mut Crew, sink: &Sink) {
    let view = crew.await_view(&[0, 1]).unwrap();
    sink.acts().gave_way(&[C], &[0, 1], view).unwrap();
}

/// Within a second of the order the node acts no more; where its userspace runs, that says why and ends, and its kernel
/// answers nothing any more. There is no watchdog device here, which would reset a machine whose userspace does not run.
#[test]
fn fault_106_a_fenced_node_is_stopped_by_its_kernel_whether_its_userspace_runs_or_not() {
    let name = "fault_106_a_fenced_node_is_stopped_by_its_kernel_whether_its_userspace_runs_or_not";
    if !root_or_skip(name) {
        return;
    }
    let (count, mut random) = rounds(name, 500);
    let (mut crew, sink) = Crew::formed(3).unwrap();
    let wrong = crew.daemon(0).ctl(&["fence", "c", "other"]).unwrap();
    assert!(!wrong.status.success(), "the cluster's name is typed: {wrong:?}");
    let mut inactive = Timely::new("a fence asked for, until its node acts no more", Duration::from_secs(1));
    let mut ended = Timely::new("a fence sent, until its node has stopped and said so", Duration::from_secs(1));
    for round in 0..count {
        let stopped = round % 2 == 0;
        let mark = crew.mark().unwrap();
        let old = crew.incarnation(C).unwrap();
        // Taken, so that nobody starts it again before it was looked at.
        let daemon = crew.take(C);
        if stopped {
            daemon.stop().unwrap();
            pause_at_random(&mut random, Duration::from_millis(1000));
        }
        let asked = monotonic_ns();
        fence(&crew);
        stopped_first(&mut crew, &sink);
        inactive.add(asked, sink.acts().last(C).unwrap()).unwrap();
        for by in [0, 1] {
            assert_eq!(crew.await_said_of(&mark, by, "node_removed", C).unwrap()["cause"], "fenced");
            crew.await_said_of(&mark, by, "known_stopped", C).unwrap();
        }
        if stopped {
            assert_eq!(sink.stopped(C).unwrap(), Refused::Fenced, "nobody ran there");
            daemon.resume().unwrap();
        }
        assert_eq!(daemon.wait(FORMING).unwrap().code(), Some(LEFT_OUT));
        assert_eq!(programs(&crew.lab, C).unwrap(), (0, 0), "nothing answers for it");
        if !stopped {
            let sent = [0, 1].map(|by| crew.await_said_of(&mark, by, "fence_sent", C).unwrap());
            let sent = sent.iter().map(|event| noticed(event).unwrap()).min().unwrap();
            ended.add(sent, noticed(&crew.await_said(&mark, C, "stopped").unwrap()).unwrap()).unwrap();
        }
        // One whose controller runs may hear of the view before it looks at its kernel.
        let said = crew.since(&mark, C).unwrap();
        let told = |id: u32, name: &str| said.iter().any(|event| event["id"] == id && event["event"] == name);
        assert!(told(1118, "fenced") || !stopped && told(1006, "left_out"), "{said:?}");
        let last = sink.acts().of(C).filter(|one| one.act.token.incarnation == old).map(|one| one.last_ns).max();
        crew.start_at_once(C).unwrap();
        crew.await_view(&[0, 1, 2]).unwrap();
        let late = sink.acts().of(C).filter(|one| one.act.token.incarnation == old).map(|one| one.last_ns).max();
        safety::ensure(late == last, || format!("what was fenced acts no more: {last:?}, then {late:?}")).unwrap();
    }
    inactive.judge().unwrap();
    ended.judge().unwrap();
    crew.audit(&sink).unwrap();
}

/// Where the order does not arrive, the node acts no more once its lease is over, by itself, and the others waited for that.
#[test]
fn fault_107_a_fence_that_never_arrives_is_waited_out_by_both_sides() {
    let name = "fault_107_a_fence_that_never_arrives_is_waited_out_by_both_sides";
    if !root_or_skip(name) {
        return;
    }
    let (count, mut random) = rounds(name, 500);
    let (mut crew, sink) = Crew::formed(3).unwrap();
    let mut inactive = Timely::new("cut off and fenced in vain, until it acts no more", LEASE);
    for _ in 0..count {
        let mark = crew.mark().unwrap();
        pause_at_random(&mut random, Duration::from_millis(100));
        let cut = crew.lab.cut_all(C).unwrap();
        fence(&crew);
        stopped_first(&mut crew, &sink);
        for by in [0, 1] {
            crew.await_said_of(&mark, by, "fence_sent", C).unwrap();
            let known = crew.await_said_of(&mark, by, "known_stopped", C).unwrap();
            assert_eq!(known["proof"], "waited", "{known}");
            assert!(crew.said(&mark, by, "fence_acknowledged").unwrap().is_empty());
        }
        assert_eq!(sink.stopped(C).unwrap(), Refused::Expired, "by itself");
        inactive.add(cut.after_ns, sink.acts().last(C).unwrap()).unwrap();
        crew.lab.heal().unwrap();
        crew.await_view(&[0, 1, 2]).unwrap();
    }
    inactive.judge().unwrap();
    crew.audit(&sink).unwrap();
}

fn is_fence(frame: &Recorded) -> bool {
    let at = WORDS_AT + word::DYNAMIC * 8;
    let dynamic = frame.bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes);
    frame.way == Way::In && dynamic.is_some_and(|word| word >> 48 & 0b11 == Kind::Fence as u64)
}

#[test]
fn fault_108_a_fence_of_an_older_incarnation_that_comes_late_stops_nobody() {
    let name = "fault_108_a_fence_of_an_older_incarnation_that_comes_late_stops_nobody";
    if !root_or_skip(name) {
        return;
    }
    let (count, _) = long_rounds(name, 100);
    let port = Port { node: C, network: 0 };
    let lab = Lab::new(Spec { relays: vec![(port, 11)], ..Spec::new(3, 1) }).unwrap();
    let cluster = Cluster::new(&lab, "lan").with("quarantine_threshold", 0);
    let mut crew = Crew::new(lab, cluster);
    let sink = crew.form().unwrap();
    for _ in 0..count {
        crew.lab.relay(port).unwrap().record();
        fence(&crew);
        crew.await_left_out(C).unwrap();
        let fences: Vec<Recorded> = crew.lab.relay(port).unwrap().recorded().into_iter().filter(is_fence).collect();
        assert!(!fences.is_empty(), "no fence was recorded");
        crew.start_at_once(C).unwrap();
        let view = crew.await_view(&[0, 1, 2]).unwrap();
        let from = monotonic_ns();
        let before = crew.counter(C, "fence_acked").unwrap() + crew.counter(C, "drop_fence_limit").unwrap();
        for _ in 0..20 {
            crew.lab.relay(port).unwrap().replay(&fences);
            std::thread::sleep(Duration::from_millis(20));
        }
        wait_for(Duration::from_secs(5), "the late fences to be counted", || {
            let now = crew.counter(C, "fence_acked").unwrap() + crew.counter(C, "drop_fence_limit").unwrap();
            if now >= before + 20 { Ok(()) } else { Err(now) }
        })
        .unwrap();
        assert_eq!(crew.await_view(&[0, 1, 2]).unwrap(), view);
        assert_eq!(sink.acts().breaks_of(C, from, monotonic_ns()).count(), 0, "it acts on");
        assert_eq!(crew.counter(C, "fenced").unwrap(), 0);
    }
    crew.audit(&sink).unwrap();
}

/// Exit code of a start that found another machine with an address of this node's.
const SECOND_ADDRESS: i32 = 11;
/// What a start may take before it asks whether another machine has its addresses: it loads its programs first.
const BEFORE_ASKING: Duration = Duration::from_millis(1300);

/// Starts what takes itself for b on c's machine, as a service manager does again and again; each start is refused.
fn start_in_vain(crew: &mut Crew, times: usize, refused: &mut Timely) {
    for _ in 0..times {
        let mark = crew.mark().unwrap();
        crew.launch(C, &Options::default()).unwrap();
        let launched = monotonic_ns();
        let ended = crew.take(C).wait(Duration::from_secs(10)).unwrap();
        assert_eq!(ended.code(), Some(SECOND_ADDRESS), "{ended}");
        let said = crew.since(&mark, C).unwrap();
        let named = said.iter().filter(|event| event["event"] == "second_address").collect::<Vec<_>>();
        assert_eq!((named.len(), &named[0]["node"]), (1, &"b".into()), "{said:?}");
        refused.add(launched, noticed(named[0]).unwrap()).unwrap();
        assert!(!said.iter().any(|event| event["event"] == "started"), "{said:?}");
    }
}

fn a_clone_is_refused(name: &str, spec: Spec, (own, other): (&str, &str), refused: &mut Timely) {
    let lab = Lab::new(spec).unwrap();
    let cluster = Cluster::new(&lab, "lan").with("quarantine_threshold", 0);
    let mut crew = Crew::new(lab, cluster);
    crew.start(0, &Options::default()).unwrap();
    crew.start(1, &Options::default()).unwrap();
    let sink = crew.created(&[0, 1]).unwrap();
    let (view, incarnation) = (crew.stands(0).unwrap().view, crew.incarnation(1).unwrap());
    let (mark, from) = (crew.mark().unwrap(), monotonic_ns());
    // c's machine comes with b's address, and so takes itself for b.
    crew.lab.node(C).ip(&format!("address del {own} dev net1\naddress add {other} dev net1 nodad\n")).unwrap();
    start_in_vain(&mut crew, 3, refused);
    // The member's kernel speaks on while its controller is restarted: that one asks nobody.
    crew.take(1).kill().unwrap();
    crew.start(1, &Options::default()).unwrap();
    crew.await_view(&[0, 1]).unwrap();
    start_in_vain(&mut crew, 1, refused);
    let stands = crew.stands(0).unwrap();
    assert_eq!((stands.view, stands.acting), (view, true), "{name}: {stands:?}: {:?}", crew.verdicts(&mark).unwrap());
    assert!(crew.stands(1).unwrap().acting, "{name}: the incumbent stays");
    assert_eq!(crew.incarnation(1).unwrap(), incarnation);
    let acts = sink.acts();
    for member in [0, 1] {
        assert_eq!(acts.breaks_of(member, from, monotonic_ns()).count(), 0, "{name}: node {member} acts on");
    }
    // The log of what takes itself for b is that of node c: it is no node of the record.
    safety::ensure(acts.of(C).count() == 0, || format!("the newcomer never acts: {:?}", acts.stretches)).unwrap();
    // A machine of its own is let in.
    crew.lab.node(C).ip(&format!("address del {other} dev net1\naddress add {own} dev net1 nodad\n")).unwrap();
    crew.start_at_once(C).unwrap();
    crew.await_view(&[0, 1, 2]).unwrap();
    crew.audit(&sink).unwrap();
}

#[test]
fn fault_84_whoever_comes_with_the_identity_of_a_member_that_runs_is_refused_and_the_member_stays() {
    let name = "fault_84_whoever_comes_with_the_identity_of_a_member_that_runs_is_refused_and_the_member_stays";
    if !root_or_skip(name) {
        return;
    }
    let (count, _) = long_rounds(name, 20);
    let mut refused = Timely::new("a clone's start, until it is refused", BEFORE_ASKING + DELAY * 2);
    for _ in 0..count {
        a_clone_is_refused("IPv4", Spec::new(3, 1), ("10.77.1.3/24", "10.77.1.2/24"), &mut refused);
        let six = Spec { ipv4: false, ipv6: true, ..Spec::new(3, 1) };
        a_clone_is_refused("IPv6", six, ("fd77:1::3/64", "fd77:1::2/64"), &mut refused);
    }
    refused.judge().unwrap();
}

/// Starts what takes itself for b on c's machine while it can ask nobody, and lets it ask after that.
fn a_clone_that_cannot_ask_says_nothing(set_askable: impl Fn(&Crew, bool)) {
    let lab = Lab::new(Spec::new(3, 1)).unwrap();
    let cluster = Cluster::new(&lab, "lan").with("quarantine_threshold", 0);
    let mut crew = Crew::new(lab, cluster);
    crew.start(0, &Options::default()).unwrap();
    crew.start(1, &Options::default()).unwrap();
    let sink = crew.created(&[0, 1]).unwrap();
    let (view, incarnation) = (crew.stands(0).unwrap().view, crew.incarnation(1).unwrap());
    let (mark, from) = (crew.mark().unwrap(), monotonic_ns());
    set_askable(&crew, false);
    crew.lab.node(C).ip("address del 10.77.1.3/24 dev net1\naddress add 10.77.1.2/24 dev net1\n").unwrap();
    // Nobody can be asked, so it runs, and holds the address back.
    crew.start(C, &Options::default()).unwrap();
    set_askable(&crew, true);
    wait_for(Duration::from_secs(10), "the clone to see that it is one", || {
        let said = crew.said(&mark, C, "second_address").unwrap();
        if said.len() == 1 { Ok(()) } else { Err(format!("{said:?}")) }
    })
    .unwrap();
    std::thread::sleep(Duration::from_secs(4));
    assert!(crew.said(&mark, C, "interface_appeared").unwrap().is_empty(), "nothing of it uses the link");
    assert!(crew.said(&mark, 0, "node_restarted").unwrap().is_empty());
    let stands = crew.stands(0).unwrap();
    assert_eq!((stands.view, stands.acting), (view, true), "{stands:?}: {:?}", crew.verdicts(&mark).unwrap());
    assert!(crew.stands(1).unwrap().acting, "the incumbent stays");
    assert_eq!(crew.incarnation(1).unwrap(), incarnation);
    for member in [0, 1] {
        assert_eq!(sink.acts().breaks_of(member, from, monotonic_ns()).count(), 0, "node {member} acts on");
    }
    // One of its own, which can ask as late, is let in.
    crew.take(C).kill().unwrap();
    set_askable(&crew, false);
    crew.lab.node(C).ip("address del 10.77.1.2/24 dev net1\naddress add 10.77.1.3/24 dev net1\n").unwrap();
    crew.start_at_once(C).unwrap();
    set_askable(&crew, true);
    crew.await_view(&[0, 1, 2]).unwrap();
    crew.audit(&sink).unwrap();
}

#[test]
fn fault_84_a_clone_whose_link_comes_up_late_says_nothing_and_a_node_whose_link_does_is_let_in() {
    let name = "fault_84_a_clone_whose_link_comes_up_late_says_nothing_and_a_node_whose_link_does_is_let_in";
    if !root_or_skip(name) {
        return;
    }
    let (count, _) = long_rounds(name, 20);
    for _ in 0..count {
        a_clone_that_cannot_ask_says_nothing(|crew, askable| {
            crew.lab.set_carrier(Port { node: C, network: 0 }, askable).unwrap();
        });
    }
}

#[test]
fn a_clone_whose_question_cannot_be_sent_says_nothing_and_a_node_whose_question_cannot_is_let_in() {
    let name = "a_clone_whose_question_cannot_be_sent_says_nothing_and_a_node_whose_question_cannot_is_let_in";
    if !root_or_skip(name) {
        return;
    }
    // A firewall of its own keeps the question from leaving.
    let rule =
        "table netdev mute { chain out { type filter hook egress device \"net1\" priority 0; ether type arp drop; }; }";
    a_clone_that_cannot_ask_says_nothing(|crew, askable| {
        crew.lab.node(C).nft(if askable { "delete table netdev mute" } else { rule }).unwrap();
    });
}

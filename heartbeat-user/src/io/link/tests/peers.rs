//! Nodes among themselves: who is connected, what passes, which connection stays.

use super::*;

#[test]
fn six_nodes_that_start_at_once_reach_each_other() {
    const COUNT: u16 = 6;
    let net = Net(2);
    let nodes: Vec<_> = (1..=COUNT).map(|own| net.start(own, COUNT)).collect();
    for from in 1..=COUNT {
        for to in (1..=COUNT).filter(|to| *to != from) {
            let number = u64::from(from * 100 + to);
            nodes[usize::from(from) - 1].say_until_heard(&nodes[usize::from(to) - 1], (from, to), number);
        }
    }
    // Then nothing ends and nothing is begun any more.
    settle(&nodes.iter().collect::<Vec<_>>());
    let connected = || nodes.iter().map(Node::connected).collect::<Vec<_>>();
    let before = connected();
    std::thread::sleep(LIMIT + LIMIT / 2);
    assert_eq!(connected(), before);
    for node in &nodes {
        assert_eq!(node.link.counts().get(Count::Silent), 0, "pings keep what is quiet");
    }
}

#[test]
fn what_is_said_last_arrives_before_the_end() {
    let net = Net(3);
    let (one, two) = (net.start(1, 2), net.start(2, 2));
    one.say_until_heard(&two, (1, 2), 1);
    settle(&[&one, &two]);
    for number in 2..20 {
        assert!(one.link.send(NodeId(2), fetch(number)));
    }
    one.link.stop();
    for number in 2..20 {
        two.wait(&LinkEvent::Message(NodeId(1), 5, fetch(number)));
    }
    two.wait(&LinkEvent::Lost(NodeId(1)));
}

#[test]
fn a_new_incarnation_begins_anew_and_messages_carry_it() {
    let net = Net(4);
    let (one, two) = (net.start(1, 2), net.start(2, 2));
    one.wait_connected(2, 5);
    assert!(two.link.set_incarnation(7));
    one.wait(&LinkEvent::Lost(NodeId(2)));
    one.wait_connected(2, 7);
    let end = Instant::now() + PATIENCE;
    let wanted = LinkEvent::Message(NodeId(2), 7, fetch(1));
    while one.next(Duration::from_millis(50)).as_ref() != Some(&wanted) {
        two.link.send(NodeId(1), fetch(1));
        assert!(Instant::now() < end);
    }
}

#[test]
fn a_reborn_peer_displaces_its_old_connection_which_never_comes_back() {
    let net = Net(5);
    let (one, two) = (net.start_patient(1, 2), net.start(2, 2));
    one.wait_connected(2, 5);
    two.wait_connected(1, 5);
    let mut reborn = Fake::call(net, 1, &hello(2, 6, 1));
    one.wait(&LinkEvent::Lost(NodeId(2)));
    one.wait_connected(2, 6);
    // The old one is told, and is refused for as long as it tries.
    two.wait(&LinkEvent::Outrun(NodeId(1), 6));
    one.wait(&LinkEvent::Refused(NodeId(2), HelloFault::OldIncarnation { said: 5, known: 6 }));
    reborn.say_fetch(3).unwrap();
    one.wait(&LinkEvent::Message(NodeId(2), 6, fetch(3)));
}

#[test]
fn an_incarnation_heard_elsewhere_ends_the_connection_of_the_older() {
    let net = Net(6);
    let (one, two) = (net.start(1, 2), net.start(2, 2));
    one.wait_connected(2, 5);
    assert!(one.link.heard(NodeId(2), 5));
    assert!(one.link.heard(NodeId(2), 9));
    one.wait(&LinkEvent::Lost(NodeId(2)));
    two.wait(&LinkEvent::Outrun(NodeId(1), 9));
    // It takes the hint.
    assert!(two.link.set_incarnation(10));
    one.wait_connected(2, 10);
}

#[test]
fn a_connection_begun_by_the_higher_id_does_not_displace_one_begun_by_the_lower() {
    let net = Net(7);
    let listener = TcpListener::bind((net.at(2), PORT)).unwrap();
    let one = net.start_patient(1, 2);
    let mut stands = Fake::answer(&listener, &hello(2, 5, 0));
    one.wait_connected(2, 5);
    assert_eq!((stands.heard.node, stands.heard.counter), (NodeId(1), 1));
    let mut surplus = Fake::call(net, 1, &hello(2, 5, 1000));
    wait_closed(&mut surplus.stream);
    one.wait_count(Count::Surplus, 1);
    // The one that stays is asked, long before its next ping: were it closed here, its end would be known.
    assert_eq!(read_record(&mut stands.stream, &mut stands.secure), [2]);
    stands.say_fetch(4).unwrap();
    one.wait(&LinkEvent::Message(NodeId(2), 5, fetch(4)));
    assert_eq!(one.link.counts().get(Count::Displaced), 0);
}

#[test]
fn a_later_connection_of_the_same_beginner_takes_the_place_of_the_older() {
    let net = Net(8);
    // Node 2 is the called one here: the lower id begins.
    let two = net.start_patient(2, 2);
    let mut first = Fake::call(net, 2, &hello(1, 5, 1));
    two.wait_connected(1, 5);
    let mut second = Fake::call(net, 2, &hello(1, 5, 2));
    wait_closed(&mut first.stream);
    second.say_fetch(8).unwrap();
    two.wait(&LinkEvent::Message(NodeId(1), 5, fetch(8)));
    wait_closed(&mut Fake::call(net, 2, &hello(1, 5, 1)).stream);
    assert_eq!(two.link.counts().get(Count::Displaced), 1);
    assert_eq!(two.link.counts().get(Count::Surplus), 1);
}

#[test]
fn states_of_two_clusters_do_not_meet_and_none_meets_any() {
    let net = Net(9);
    let with = |own, instance| {
        let mut setup = net.setup(own, 3);
        setup.standing.instance = instance;
        Node::start(setup)
    };
    let (one, two, three) = (with(1, [1, 1]), with(2, [2, 2]), with(3, [0; 2]));
    one.wait(&LinkEvent::Refused(NodeId(2), HelloFault::OtherInstance));
    two.wait(&LinkEvent::Refused(NodeId(1), HelloFault::OtherInstance));
    three.say_until_heard(&two, (3, 2), 1);
    // Having joined the one it is through with the other.
    assert!(three.link.set_instance([1, 1]));
    three.wait(&LinkEvent::Lost(NodeId(2)));
    three.wait(&LinkEvent::Refused(NodeId(2), HelloFault::OtherInstance));
    three.say_until_heard(&one, (3, 1), 2);
}

#[test]
fn peers_come_and_go() {
    let net = Net(10);
    let (one, two) = (net.start(1, 2), net.start(2, 2));
    two.wait_connected(1, 5);
    let three = net.start(3, 3);
    one.wait_count(Count::Stranger, 1);
    assert!(one.link.reconfigure(net.peers(1, 3)));
    one.wait_connected(3, 5);
    three.wait_connected(1, 5);
    one.say_until_heard(&two, (1, 2), 1);
    assert!(one.link.reconfigure(vec![]));
    two.wait(&LinkEvent::Lost(NodeId(1)));
    three.wait(&LinkEvent::Lost(NodeId(1)));
    assert!(one.link.reconfigure(net.peers(1, 3)));
    two.wait_connected(1, 5);
    three.wait_connected(1, 5);
}

#[test]
fn where_one_path_leads_nowhere_the_next_is_taken() {
    let net = Net(12);
    let listener = TcpListener::bind((net.at(2), PORT)).unwrap();
    let mut setup = net.setup(1, 0);
    let nowhere = LinkPath { peer: net.at(99), network: 0, ..net.path(1, 2) };
    setup.peers = vec![Peer { node: NodeId(2), paths: vec![net.path(1, 2), nowhere] }];
    let _one = Node::start(setup);
    let (mut stream, from) = listener.accept().unwrap();
    assert_eq!(from.ip(), net.at(1));
    let mut opening = [0; OPENING_LEN];
    stream.read_exact(&mut opening).unwrap();
    assert_eq!(Head::decode(&opening), Ok(Head { slot: 0, beginner: 1, answerer: 2 }));
}

#[test]
fn a_key_is_rotated_without_a_gap_and_taken_out_with_its_connections() {
    let net = Net(11);
    let (one, two) = (net.start(1, 2), net.start(2, 2));
    one.say_until_heard(&two, (1, 2), 1);
    settle(&[&one, &two]);
    let stood = one.connected();
    for active in [0, 1] {
        assert!(one.link.set_keys(ring(&[1, 2], active)) && two.link.set_keys(ring(&[1, 2], active)));
        one.say_until_heard(&two, (1, 2), 2 + active as u64);
    }
    assert_eq!(one.connected(), stood);
    // Another key takes the slot of the one that the connection is under.
    for node in [&one, &two] {
        assert!(node.link.set_keys(ring(&[3, 2], 1)));
    }
    one.wait_count(Count::Connected, stood + 1);
    two.say_until_heard(&one, (2, 1), 9);
}

#[test]
fn another_control_limit_holds_for_connections_made_anew() {
    let net = Net(61);
    let (one, two) = (net.start(1, 2), net.start(2, 2));
    settle(&[&one, &two]);
    let stood = one.connected();
    assert!(one.link.set_limit(LIMIT), "as it was");
    one.say_until_heard(&two, (1, 2), 2);
    assert_eq!(one.connected(), stood);
    assert!(one.link.set_limit(2 * LIMIT));
    one.wait_count(Count::Connected, stood + 1);
    two.say_until_heard(&one, (2, 1), 3);
}

//! Tests of what the pacing thread shows and how it is told things, without the thread.

use super::*;
use heartbeat_common::lease;

#[test]
fn departures_are_kept_once_each_and_merged_by_sequence() {
    let record = PacerRecord::new(2);
    record.note_departure(1, 16, 100);
    record.note_departure(1, 16, 150);
    record.note_departure(1, 18, 200);
    // Parked for a neighbour, and reported after the one that took its place.
    record.note_departure(1, 26, 300);
    record.note_departure(1, 18, 400);
    let mut tick = Tick::<u64> { departures: 5, ..Tick::default() };
    (tick.departed[0].sequence, tick.departed[0].ns) = (24, 90);
    record.merge_departures(1, &mut tick);
    assert_eq!(tick.departures, 5 + 3);
    assert_eq!((tick.departed[0].sequence, tick.departed[0].ns), (24, 90), "the newer one stays");
    assert_eq!((tick.departed[2].sequence, tick.departed[2].ns), (26, 300));
    let mut other = Tick::default();
    record.merge_departures(0, &mut other);
    assert_eq!(other, Tick::default());
}

#[test]
fn a_merge_never_pairs_one_sequence_with_anothers_time() {
    let record = PacerRecord::new(1);
    let last = 8 * 200_000;
    std::thread::scope(|scope| {
        scope.spawn(|| (8..=last).step_by(8).for_each(|sequence| record.note_departure(0, sequence, sequence * 3)));
        let mut seen = 0;
        while seen < last {
            let mut tick = Tick::default();
            record.merge_departures(0, &mut tick);
            let departed = tick.departed[0];
            assert_eq!(departed.ns, departed.sequence * 3);
            seen = seen.max(departed.sequence);
        }
    });
}

#[test]
fn a_burst_that_the_kernel_refused_was_tried_and_not_taken() {
    let record = PacerRecord::new(1);
    assert_eq!(record.burst(0), (0, 0));
    record.note_burst(0, 10, true);
    record.note_burst(0, 20, false);
    assert_eq!(record.burst(0), (20, 10));
    record.note_burst(0, 30, true);
    assert_eq!(record.burst(0), (30, 30));
}

#[test]
fn the_worst_lateness_is_taken_once_with_the_newest_time() {
    let record = PacerRecord::new(0);
    assert_eq!(record.take_late(), None);
    record.note_late(100, 190);
    record.note_late(300, 330);
    assert_eq!(record.take_late(), Some((240, 330)));
    assert_eq!(record.take_late(), None);
}

#[test]
fn bursts_need_no_lock_and_add_up() {
    let inbox = Inbox::new();
    let held = inbox.queue.lock().expect("free");
    assert!(inbox.put(PacerCommand::Burst(vec![1, 70])));
    assert!(inbox.put(PacerCommand::Burst(vec![1, PATHS_MAX - 1, PATHS_MAX])));
    drop(held);
    let marks = inbox.take_bursts().expect("three paths");
    let paths: Vec<_> = (0..PATHS_MAX as usize).filter(|path| marked(&marks, *path)).collect();
    assert_eq!(paths, [1, 70, PATHS_MAX as usize - 1]);
    assert_eq!(inbox.take_bursts(), None);
}

fn worker() -> Worker {
    let setup = PacerSetup {
        shared: Arc::new(Shared::new(None, 1).expect("private memory")),
        paths: Vec::new(),
        sockets: 1,
        priority: 0,
        budget_ns: 1,
    };
    let wake = Arc::new(EventFd::from_flags(EfdFlags::EFD_NONBLOCK).expect("an eventfd"));
    Worker::new(setup, Arc::new(PacerRecord::new(0)), wake, Arc::new(Inbox::new()))
}

#[test]
fn a_held_queue_is_left_for_later_and_what_was_obeyed_is_handed_back() {
    let mut worker = worker();
    let inbox = worker.inbox.clone();
    assert!(inbox.put(PacerCommand::Delays(vec![5; 100], 77)));
    let held = inbox.queue.lock().expect("free");
    worker.obey_all();
    drop(held);
    assert_eq!(worker.budget_ns, 1);
    worker.obey_all();
    assert_eq!(worker.budget_ns, 77);
    let obeyed = |inbox: &Inbox| inbox.queue.lock().expect("free").obeyed.len();
    assert_eq!(obeyed(&inbox), 1, "its memory is not freed by the pacing thread");
    assert!(inbox.put(PacerCommand::Delays(Vec::new(), 78)));
    assert_eq!(obeyed(&inbox), 0, "but by whoever tells it the next thing");
}

#[test]
fn a_socket_taken_away_is_closed_at_once() {
    let mut worker = worker();
    let (reader, writer) = std::io::pipe().expect("a pipe");
    worker.inbox.put(PacerCommand::Socket(0, Some((writer.into(), false))));
    worker.obey_all();
    worker.inbox.put(PacerCommand::Socket(0, None));
    worker.obey_all();
    let mut rest = String::new();
    let mut reader = reader;
    assert_eq!(std::io::Read::read_to_string(&mut reader, &mut rest).expect("the end"), 0);
}

fn signer() -> ProbeSigner {
    let keys = crate::keys::Keys::parse(&[b'7'; 63].iter().chain(b"8").copied().collect::<Vec<_>>()).expect("a key");
    let spec = crate::keys::PathSpec {
        network: 1,
        own: 1,
        peer: 2,
        local: "10.0.0.1".parse().expect("an address"),
        remote: "10.0.0.2".parse().expect("an address"),
        vlan: 0,
        answer_within: std::time::Duration::from_millis(50),
        min_hop_limit: 255,
    };
    ProbeSigner::new(&keys.ring(1), &spec, &[7, 0, 9, 8, 13, 0, 0]).granting_under(77)
}

/// Shared memory of a node of incarnation 7 that grants under mark 77, whose peer stamped 1000 last.
fn granting() -> Shared {
    let shared = Shared::new(None, 1).expect("private memory");
    shared.page().take_on(7, [1, 2], false);
    lease::install(shared.page(), &lease::Bank { own_mark: 77, ..lease::Bank::default() });
    assert!(lease::grant(shared.page(), 77));
    shared.with_tick(0, |tick| {
        tick.peer_incarnation.set(70);
        tick.peer_stamp.set(1_000);
    });
    shared
}

/// The grants are cleared, an acceptance is written, and a newer stamp comes, all while this thread stands still.
#[test]
fn the_stamp_is_read_before_the_grant() {
    let (shared, signer) = (granting(), signer());
    let asked = ask(&shared, 0, &signer, || {
        shared.page().clear_grants(2_000);
        shared.with_tick(0, |tick| tick.peer_stamp.set(3_000));
    });
    assert!(asked.stamp < 2_000 || !asked.grants, "the grant would be dated after the acceptance");
    let probe = asked.probe(&signer, 2, 5_000, 0, 0);
    assert_eq!((probe[frame::word::STAMP], probe[frame::word::GRANT]), (1_000, 0));
    // Without anything in between, it goes with its grant.
    let shared = granting();
    let probe = ask(&shared, 0, &signer, || ()).probe(&signer, 2, 5_000, 0, 0);
    assert_eq!((probe[frame::word::STAMP], probe[frame::word::GRANT]), (1_000, 13));
}

#[test]
fn a_signer_of_the_view_before_grants_nothing_in_the_next() {
    let (shared, signer) = (granting(), signer());
    shared.page().clear_grants(2_000);
    lease::install(shared.page(), &lease::Bank { own_mark: 78, ..lease::Bank::default() });
    assert!(lease::grant(shared.page(), 78));
    assert!(!ask(&shared, 0, &signer, || ()).grants);
    assert!(ask(&shared, 0, &signer.granting_under(78), || ()).grants);
}

#[test]
fn a_fenced_node_asks_as_one() {
    use heartbeat_common::lease::Words;
    let (shared, signer) = (granting(), signer());
    shared.page().raise(lease::word::FENCED, 7);
    let probe = ask(&shared, 0, &signer, || ()).probe(&signer, 2, 5_000, 0, frame::FLAG_MEMBER);
    assert_eq!(frame::flags(probe[frame::word::DYNAMIC]), frame::FLAG_MEMBER | frame::FLAG_FENCED);
    assert_eq!(probe[frame::word::GRANT], 0);
}

#[test]
fn frames_that_are_ready_go_out_as_they_are() {
    let (receiver, sender) = (udp(), udp());
    let peer = SockaddrStorage::from(receiver.local_addr().expect("an address"));
    let setup = PacerSetup {
        shared: Arc::new(granting()),
        paths: vec![PacedPath { signer: signer(), socket: 0, peer, delay_ns: 1_000_000_000 }],
        sockets: 1,
        priority: 0,
        budget_ns: 1,
    };
    let wake = Arc::new(EventFd::from_flags(EfdFlags::EFD_NONBLOCK).expect("an eventfd"));
    let mut worker = Worker::new(setup, Arc::new(PacerRecord::new(1)), wake, Arc::new(Inbox::new()));
    let frame = std::array::from_fn(|index| index as u64);
    let command = || PacerCommand::Frames(vec![(0, frame), (9, frame)]);
    worker.obey(&mut command());
    worker.obey(&mut PacerCommand::Socket(0, Some((sender.into(), false))));
    worker.obey(&mut command());
    let mut bytes = [0; frame::LEN + 1];
    assert_eq!(receiver.recv(&mut bytes).expect("a frame"), frame::LEN);
    assert_eq!(bytes[..frame::LEN], frame::to_bytes(&frame));
    assert!(receiver.recv(&mut bytes).is_err(), "one, of the path that there is, once there is a socket");
    assert_eq!(worker.record.sent(0), 0, "it was no probe");
}

fn udp() -> std::net::UdpSocket {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.set_nonblocking(true).expect("not waiting");
    socket
}

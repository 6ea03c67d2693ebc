//! Tests of what the pacing thread shows and how it is told things, without the thread.

use super::*;

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

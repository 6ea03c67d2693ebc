//! What becomes of orders on the deciding thread, without the thread: incarnations taken while this node starts, keys, and
//! the machine's watchdog.

use super::*;
use crate::core::agreement::Agreement;
use crate::core::agreement::document::{Member, QuorumTerms};
use crate::core::agreement::types::{Configured, QuarantineTerms, Setup, Timing};
use crate::core::agreement::voter::State;
use crate::core::event::NodeNames;
use crate::io::agreement::begin::Terms;
use crate::io::agreement::stopper::Stopper;
use crate::io::agreement::{HandsSetup, clocks};
use crate::io::conflict::Held;
use crate::io::disk::{self, AgreementFile, Owner, Writer};
use crate::io::hooks::Shelter;
use crate::io::journal::{Journal, JournalSetup};
use crate::io::link::{Link, LinkSetup, hello};
use crate::io::pacer::PacerSetup;
use crate::io::ran::Ran;
use crate::io::watchdog_device::{Feeder, Guard, Info, Watchdog};
use crate::keys::{FenceSigner, KeyRing, Keys};
use heartbeat_common::fence;
use heartbeat_common::lease::Token;
use heartbeat_common::view::{Name, Order as ViewOrder, VoteId};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

const MS: Duration = Duration::from_millis(1);

/// A deciding thread that does not run, and all that it reaches.
struct Desk {
    worker: Worker,
    keeper: Receiver<keeper::Order>,
    ended: tokio::sync::watch::Receiver<Option<Over>>,
    orders: Orders,
    sink: EventSink,
    directory: tempfile::TempDir,
    _journal: Journal,
    _queue: Receiver<Order>,
}

impl Desk {
    fn new(agrees: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let setup = JournalSetup {
            file: directory.path().join("events.jsonl"),
            bytes_max: 1 << 20,
            files: 1,
            node: "a".to_owned(),
        };
        let journal = Journal::start(setup).unwrap();
        let shared = Arc::new(Shared::new(None, 1).unwrap());
        let pacer = PacerSetup { shared: shared.clone(), paths: Vec::new(), sockets: 0, priority: 0, budget_ns: 0 };
        let plan = Arc::new(Plan { own: 1, paths: Vec::new() });
        let (queue, inbox) = sync_channel(ORDERS_MAX);
        let orders = Orders { queue, plan: plan.clone() };
        let (ending, ended) = tokio::sync::watch::channel(None);
        let settings = Settings {
            incarnation: 5,
            hash: 0,
            nodes: Vec::new(),
            networks: Vec::new(),
            paths: Vec::new(),
            stall_limit: 1000 * MS,
            hang_limit: 60_000 * MS,
            lateness_budget: 50 * MS,
        };
        let setup = DeciderSetup {
            settings,
            plan,
            shared,
            pacer: Arc::new(Pacer::start(pacer).unwrap()),
            usable: Arc::new(Usable::new(0)),
            sink: journal.sink.clone(),
            priority: 0,
            ended: ending,
            agrees,
        };
        let mut worker = Worker::new(setup, Arc::default(), orders.clone());
        let (to_keeper, keeper) = sync_channel(8);
        worker.keeper = Some(to_keeper);
        let sink = journal.sink.clone();
        Self { worker, keeper, ended, orders, sink, directory, _journal: journal, _queue: inbox }
    }

    /// The agreement of node 1 under incarnation 5, with what its disk holds.
    fn hands(&self, durable: Option<State>, feeder: Option<Guard>) -> Box<Hands> {
        let configured = [1, 2].map(|node| Configured { node: NodeId(node), weight: 1 }).to_vec();
        let setup = Setup {
            own: Member { node: NodeId(1), incarnation: 5 },
            generation: 1,
            configured,
            settings: 0,
            lease_ms: 500,
            stop_ms: 0,
            quorum: QuorumTerms { dynamic: true, lower_priority: None },
            timing: timing(),
            quarantine: QuarantineTerms { threshold: 0, duration: 1000 * MS },
            own_ends: 0,
            join_only: false,
            fresh_vote: VoteId([3, 4]),
            remembered: 0,
            seed: 1,
        };
        let times = clocks::tight();
        let link = Link::start(LinkSetup {
            own: NodeId(1),
            standing: hello::Standing { incarnation: 5, generation: 1, instance: [0; 2] },
            keys: ring(0),
            peers: Vec::new(),
            port: 0,
            control_limit: 1000 * MS,
            priority: 0,
            seed: 1,
            held: Held::default(),
            waker: Arc::new(|| {}),
        });
        let file = AgreementFile::new(self.directory.path(), Owner { node: NodeId(1), state_id: 7 });
        let durable = durable.map(Box::new);
        let mut agreement = match &durable {
            Some(state) => Agreement::resume(setup, (**state).clone(), None, times),
            None => Agreement::new(setup, times),
        };
        let first: VecDeque<_> = std::iter::from_fn(|| agreement.poll_command()).collect();
        Box::new(Hands::new(HandsSetup {
            agreement,
            first,
            durable,
            shared: self.worker.shared.clone(),
            pacer: self.worker.pacer.clone(),
            sink: self.sink.clone(),
            names: NodeNames::new(vec![(NodeId(1), "a".to_owned()), (NodeId(2), "b".to_owned())]),
            link: link.unwrap(),
            disk: Writer::start(file, |_| {}).unwrap(),
            slots: BTreeMap::from([(NodeId(1), 0), (NodeId(2), 1)]),
            fences: vec![(NodeId(2), signer(0))],
            feeder,
            stopper: Stopper::new(Arc::new(Ran::new(Duration::ZERO, Shelter::find())), self.orders.clone()),
            began: times,
        }))
    }

    /// What the keeper was told of newer incarnations.
    fn reincarnations(&self) -> Vec<u64> {
        let above = |order| if let keeper::Order::Reincarnate(above) = order { Some(above) } else { None };
        self.keeper.try_iter().filter_map(above).collect()
    }
}

fn timing() -> Timing {
    Timing {
        tick: 50 * MS,
        opening: 500 * MS,
        stage: 500 * MS,
        pruning: 500 * MS,
        control_limit: 1000 * MS,
        hang: 60_000 * MS,
        detection: 300 * MS,
        delay: 100 * MS,
        leave: 5000 * MS,
    }
}

/// Keys of both slots, with this one in force.
fn ring(active: usize) -> KeyRing {
    let (old, new) = ("00010203".repeat(8), "a4a5a6a7".repeat(8));
    Keys::parse(format!("active = {active}\n0:{old}\n1:{new}\n").as_bytes()).unwrap().ring(9)
}

fn signer(active: usize) -> FenceSigner {
    let path = crate::keys::PathSpec {
        network: 1,
        own: 1,
        peer: 2,
        local: [10, 1, 0, 1].into(),
        remote: [10, 1, 0, 2].into(),
        vlan: 0,
        answer_within: 100 * MS,
        min_hop_limit: 255,
    };
    FenceSigner::new(&ring(active), &path)
}

#[test]
fn what_is_heard_of_a_newer_incarnation_at_the_start_waits_for_the_agreement() {
    let mut desk = Desk::new(true);
    desk.worker.reincarnate(7);
    desk.worker.reincarnate(6);
    desk.worker.order_keeper();
    assert_eq!(desk.reincarnations(), Vec::<u64>::new(), "the agreement would begin under the older one");
    let hands = desk.hands(None, None);
    desk.worker.obey(Order::Agreement(hands));
    desk.worker.agree(clock::now(), false);
    assert_eq!(desk.reincarnations(), [7], "once nothing is promised under the older one any more");
    // The keeper has taken it, on disk and in the page.
    desk.worker.obey(Order::Incarnation(8));
    assert_eq!(desk.worker.hands.as_ref().unwrap().own().incarnation, 8);
    assert_eq!(*desk.ended.borrow(), None);
}

#[test]
fn a_member_that_is_outrun_at_its_start_ends() {
    let mut desk = Desk::new(true);
    desk.worker.reincarnate(7);
    let hands = desk.hands(Some(disk::tests::state()), None);
    assert!(hands.is_bound());
    desk.worker.obey(Order::Agreement(hands));
    desk.worker.agree(clock::now(), false);
    assert_eq!(desk.reincarnations(), Vec::<u64>::new(), "the newer would prove that what the older ran has stopped");
    assert_eq!(*desk.ended.borrow(), Some(Over::Outrun(7)));
}

#[test]
fn without_an_agreement_a_newer_incarnation_is_taken_at_once() {
    let mut desk = Desk::new(false);
    desk.worker.reincarnate(7);
    desk.worker.order_keeper();
    assert_eq!(desk.reincarnations(), [7]);
}

#[test]
fn fences_are_signed_by_the_keys_of_the_last_reload() {
    let mut desk = Desk::new(true);
    let hands = desk.hands(None, None);
    desk.worker.obey(Order::Agreement(hands));
    let view = Name { order: ViewOrder(5), digest: [1, 2, 3, 4] };
    let order = fence::Order { sender: 5, victim: 9, view, nonce: 3, reason: fence::Reason::Silent };
    let signed = |desk: &Desk| desk.worker.hands.as_ref().unwrap().fences()[0].1.fence(&order);
    assert_eq!(signed(&desk), signer(0).fence(&order));
    let terms =
        Terms { settings: 0, timing: timing(), quarantine: QuarantineTerms { threshold: 0, duration: 1000 * MS } };
    desk.worker.obey(Order::Terms(Box::new((terms, ring(1), vec![signer(1)]))));
    assert_eq!(signed(&desk), signer(1).fence(&order));
}

/// A device that tells when it was disarmed, and sets no time-out while its driver is busy.
#[derive(Clone, Default)]
struct Armed {
    disarmed: Arc<AtomicBool>,
    driver: Arc<Mutex<()>>,
}

impl Watchdog for Armed {
    fn info(&mut self) -> io::Result<Info> {
        Ok(Info { options: 0x100, ..Info::default() })
    }
    fn set_timeout(&mut self, _: u32) -> io::Result<()> {
        drop(self.driver.lock().unwrap());
        Ok(())
    }
    fn timeout(&mut self) -> io::Result<u32> {
        Ok(60)
    }
    fn feed(&mut self) -> io::Result<()> {
        Ok(())
    }
    fn announce_close(&mut self) -> io::Result<()> {
        self.disarmed.store(true, Ordering::Release);
        Ok(())
    }
}

impl Armed {
    /// Arms it, as a node that acts does.
    fn guard(&self) -> Guard {
        let own = self.clone();
        let mut feeder =
            Feeder::new(Box::new(move || Ok(Box::new(own.clone()) as Box<dyn Watchdog>)), Duration::from_secs(60));
        feeder.handle(Ok(Token { order: 1, incarnation: 5 })).unwrap();
        Guard::new(feeder)
    }

    fn is_disarmed(&self) -> bool {
        self.disarmed.load(Ordering::Acquire)
    }
}

#[test]
fn who_was_outrun_disarms_the_watchdog_once_all_has_stopped() {
    let mut desk = Desk::new(true);
    let device = Armed::default();
    let hands = desk.hands(Some(disk::tests::state()), Some(device.guard()));
    desk.worker.obey(Order::Agreement(hands));
    desk.worker.reincarnate(7);
    assert_eq!(*desk.ended.borrow(), Some(Over::Outrun(7)));
    assert!(!device.is_disarmed(), "what runs may not have stopped yet");
    desk.worker.obey(Order::Disarm);
    assert!(device.is_disarmed());
}

#[test]
fn a_driver_that_is_slow_to_change_a_time_out_holds_up_no_decision() {
    let mut desk = Desk::new(true);
    let device = Armed::default();
    let guard = device.guard();
    let hands = desk.hands(Some(disk::tests::state()), Some(guard.clone()));
    desk.worker.obey(Order::Agreement(hands));
    std::thread::scope(|scope| {
        let busy = device.driver.lock().unwrap();
        // The keeper's thread, which waits for the driver.
        let keeper = scope.spawn(|| guard.retime(Duration::from_secs(50)));
        let acting = || Ok(Token { order: 1, incarnation: 5 });
        let until = std::time::Instant::now() + Duration::from_secs(60);
        while guard.handle(acting()).is_some() {
            assert!(std::time::Instant::now() < until, "the keeper's thread never got to the driver");
            std::thread::sleep(MS);
        }
        // Neither a round nor the end of what ran waits for it.
        desk.worker.agree(clock::now(), false);
        desk.worker.obey(Order::ServicesStopped(true));
        assert!(!device.is_disarmed(), "the keeper's thread has the device");
        drop(busy);
        keeper.join().unwrap().unwrap();
    });
    desk.worker.agree(clock::now(), false);
    assert!(device.is_disarmed(), "it is done as soon as it can be");
}

//! Links over loopback, each node with an address of its own, and a peer made by hand that does what no node would.

use super::hello::{Hello, HelloFault, Standing};
use super::noise::{self, Head, OPENING_LEN, REPLY_LEN, Secure};
use super::retry::LinkPath;
use super::*;
use crate::core::agreement::document::SCHEMA;
use crate::keys::Keys;
use heartbeat_common::view::Order as ViewOrder;
use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::Instant;

mod faults;
mod peers;

const PORT: u16 = 13_343;
/// A machine that stands still for less than three quarters of it ends no connection.
const LIMIT: Duration = Duration::from_secs(3);
/// Nothing here takes that long on a machine that runs at all.
const PATIENCE: Duration = Duration::from_secs(30);
const CLUSTER: u64 = 0x6f0c_5d9e_2a41_7b83;

/// Addresses of one test, so that tests and processes do not meet.
#[derive(Clone, Copy)]
struct Net(u8);

impl Net {
    fn at(self, node: u16) -> IpAddr {
        [127, self.0, (std::process::id() % 250) as u8 + 1, node as u8].into()
    }

    fn path(self, from: u16, to: u16) -> LinkPath {
        LinkPath { local: self.at(from), peer: self.at(to), role_rank: 0, is_up: true, network: 1 }
    }

    fn peers(self, own: u16, count: u16) -> Vec<Peer> {
        let others = (1..=count).filter(|node| *node != own);
        others.map(|node| Peer { node: NodeId(node), paths: vec![self.path(own, node)] }).collect()
    }

    fn setup(self, own: u16, count: u16) -> LinkSetup {
        LinkSetup {
            own: NodeId(own),
            standing: Standing { incarnation: 5, generation: 1, instance: [0; 2] },
            keys: ring(&[1], 0),
            peers: self.peers(own, count),
            port: PORT,
            control_limit: LIMIT,
            priority: 0,
            held: Held::default(),
            seed: u64::from(own),
            waker: Arc::new(|| {}),
        }
    }

    fn start(self, own: u16, count: u16) -> Node {
        Node::start(self.setup(own, count))
    }

    /// A node that waits long for peers made by hand, which send no pings, and whose own pings come later than anybody
    /// here waits for.
    fn start_patient(self, own: u16, count: u16) -> Node {
        let mut setup = self.setup(own, count);
        setup.control_limit = 8 * PATIENCE;
        Node::start(setup)
    }
}

/// Keys made of one number each, for slot 0 and maybe 1.
fn ring(secrets: &[u8], active: usize) -> KeyRing {
    let hex = |first: u8| (0..32_u8).map(|byte| format!("{:02x}", byte ^ first)).collect::<String>();
    let lines: String = secrets.iter().enumerate().map(|(slot, first)| format!("{slot}:{}\n", hex(*first))).collect();
    Keys::parse(format!("active = {active}\n{lines}").as_bytes()).unwrap().ring(CLUSTER)
}

fn fetch(number: u64) -> Message {
    Message::Fetch(ViewOrder(number))
}

struct Node {
    link: Link,
    events: LinkEvents,
    woken: mpsc::Receiver<()>,
}

impl Node {
    fn start(mut setup: LinkSetup) -> Self {
        let (wake, woken) = mpsc::channel();
        setup.waker = Arc::new(move || {
            let _ = wake.send(());
        });
        let (link, events) = Link::start(setup).unwrap();
        Self { link, events, woken }
    }

    /// The next event, when the waker said that it is there.
    fn next(&self, limit: Duration) -> Option<LinkEvent> {
        let end = Instant::now() + limit;
        loop {
            if let Some(event) = self.events.try_recv() {
                return Some(event);
            }
            self.woken.recv_timeout(end.saturating_duration_since(Instant::now())).ok()?;
        }
    }

    /// Waits for an event, past others.
    #[track_caller]
    fn wait(&self, wanted: &LinkEvent) {
        let mut seen = Vec::new();
        let end = Instant::now() + PATIENCE;
        while let Some(event) = self.next(end.saturating_duration_since(Instant::now())) {
            if event == *wanted {
                return;
            }
            seen.push(event);
        }
        panic!("no {wanted:?}, but {seen:?}, and {:?}", self.link.counts());
    }

    #[track_caller]
    fn wait_connected(&self, node: u16, incarnation: u64) {
        self.wait(&LinkEvent::Connected(NodeId(node), incarnation));
    }

    #[track_caller]
    fn wait_count(&self, count: Count, least: u64) {
        let end = Instant::now() + PATIENCE;
        while self.link.counts().get(count) < least {
            assert!(Instant::now() < end, "{count:?} stays below {least}: {:?}", self.link.counts());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn connected(&self) -> u64 {
        self.link.counts().get(Count::Connected)
    }

    /// Says a message until the other node has it: what a connection loses is said again.
    #[track_caller]
    fn say_until_heard(&self, to: &Self, ids: (u16, u16), number: u64) {
        let end = Instant::now() + PATIENCE;
        let wanted = LinkEvent::Message(NodeId(ids.0), 5, fetch(number));
        while Instant::now() < end {
            assert!(self.link.send(NodeId(ids.1), fetch(number)));
            while let Some(event) = to.next(Duration::from_millis(50)) {
                if event == wanted {
                    return;
                }
            }
        }
        panic!("{ids:?}: {:?} / {:?}", self.link.counts(), to.link.counts());
    }
}

/// Waits until what crossed at the start is settled: nothing began for many turns of these threads, however long each
/// of them took.
fn settle(nodes: &[&Node]) {
    let connected = || nodes.iter().map(|node| node.connected()).collect::<Vec<_>>();
    let (mut last, mut quiet) = (connected(), 0);
    while quiet < 50 {
        std::thread::sleep(Duration::from_millis(10));
        let now = connected();
        quiet = if now == last { quiet + 1 } else { 0 };
        last = now;
    }
}

/// A peer made by hand.
struct Fake {
    stream: TcpStream,
    secure: Secure,
    heard: Hello,
}

fn connect(net: Net, from: u16, to: u16) -> TcpStream {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let path = net.path(from, to);
    let end = Instant::now() + PATIENCE;
    loop {
        // The node's listener may not be there yet.
        match runtime.block_on(socket::connect(path, PORT, PATIENCE)) {
            Ok(stream) => {
                let stream = stream.into_std().unwrap();
                stream.set_nonblocking(false).unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                return stream;
            }
            Err(error) => assert!(Instant::now() < end, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn hello(node: u16, incarnation: u64, counter: u64) -> Hello {
    Hello {
        node: NodeId(node),
        incarnation,
        generation: 1,
        knows: 0,
        instance: [0; 2],
        schema_lowest: SCHEMA,
        schema_highest: SCHEMA,
        counter,
    }
}

fn read_record(stream: &mut TcpStream, secure: &mut Secure) -> Vec<u8> {
    let mut prefix = [0; 2];
    stream.read_exact(&mut prefix).unwrap();
    let mut record = vec![0; noise::record_len(prefix).unwrap()];
    stream.read_exact(&mut record).unwrap();
    secure.open(&record).unwrap()
}

impl Fake {
    fn handshake(net: Net, from: u16, to: u16) -> (TcpStream, Secure) {
        let mut stream = connect(net, from, to);
        let (begun, opening) = noise::begin(&ring(&[1], 0), Head { slot: 0, beginner: from, answerer: to }).unwrap();
        stream.write_all(&opening).unwrap();
        let mut reply = [0; REPLY_LEN];
        stream.read_exact(&mut reply).unwrap();
        let secure = begun.finish(&reply).unwrap();
        (stream, secure)
    }

    /// Begins a connection with node `to`.
    fn call(net: Net, to: u16, hello: &Hello) -> Self {
        let (mut stream, mut secure) = Self::handshake(net, hello.node.0, to);
        let said = secure.seal(&[&[0], &hello.encode()[..]].concat()).unwrap();
        stream.write_all(&said).unwrap();
        let heard = borsh::from_slice(&read_record(&mut stream, &mut secure)[1..]).unwrap();
        Self { stream, secure, heard }
    }

    /// Answers a node that calls.
    fn answer(listener: &TcpListener, hello: &Hello) -> Self {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut opening = [0; OPENING_LEN];
        stream.read_exact(&mut opening).unwrap();
        let head = Head::decode(&opening).unwrap();
        let (mut secure, reply) = noise::answer(&ring(&[1], 0), head, &opening).unwrap();
        stream.write_all(&reply).unwrap();
        let heard = borsh::from_slice(&read_record(&mut stream, &mut secure)[1..]).unwrap();
        stream.write_all(&secure.seal(&[&[0], &hello.encode()[..]].concat()).unwrap()).unwrap();
        Self { stream, secure, heard }
    }

    fn say(&mut self, plain: &[u8]) -> std::io::Result<()> {
        let sealed = self.secure.seal(plain).unwrap();
        self.stream.write_all(&sealed)
    }

    fn say_fetch(&mut self, number: u64) -> std::io::Result<()> {
        self.say(&[&[1], &fetch(number).encode()[..]].concat())
    }
}

/// Reads until the other end closes; panics if it does not.
#[track_caller]
fn wait_closed(stream: &mut TcpStream) {
    let mut bytes = [0; 4096];
    let end = Instant::now() + PATIENCE;
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return,
            Ok(_) => assert!(Instant::now() < end, "it is not closed"),
            // A read with a limit is not taken up again where the process was stopped.
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
                return;
            }
        }
    }
}

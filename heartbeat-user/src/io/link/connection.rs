//! One connection from its first byte to its last: handshake, hellos, then records each way until either end has had
//! enough. It may not speak before the hub has given it its place, nor after the hub has taken that away.

use super::hello::{HELLO_LEN, Hello, HelloFault};
use super::hub::{Entry, Greeted, Hub, Terms};
use super::noise::{self, Head, NoiseFault, OPENING_LEN, REPLY_LEN, Secure};
use super::queue::{Full, Outbox};
use super::rate::{self, Rate};
use super::retry::LinkPath;
use super::{Count, LinkEvent, socket};
use crate::core::agreement::message::{MESSAGE_MAX, Message};
use crate::core::ids::NodeId;
use crate::io::clock;
use std::cell::{Cell, RefCell};
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::timeout;

/// Time for a connection to be made, and again for its ends to greet each other.
pub(super) const HANDSHAKE: Duration = Duration::from_secs(1);
/// Where nothing is to be said for this part of the control limit, a ping is.
const PINGS_PER_LIMIT: u32 = 4;

// A message and what says that it is one fit into a record.
const _: () = assert!(MESSAGE_MAX < noise::PLAIN_MAX);

/// What a record is: its first byte.
mod kind {
    pub const HELLO: u8 = 0;
    pub const MESSAGE: u8 = 1;
    pub const PING: u8 = 2;
}

/// What waits to be said on a connection.
#[derive(Default)]
pub(super) struct Mailbox {
    outbox: RefCell<Outbox>,
    asks: Cell<bool>,
    /// The last that was taken has left.
    is_idle: Cell<bool>,
    changed: Notify,
}

impl Mailbox {
    /// Appends a message.
    pub(super) fn push(&self, message: Message) -> Result<(), Full> {
        self.outbox.borrow_mut().push(message)?;
        self.changed.notify_one();
        Ok(())
    }

    /// Says something now, so that a peer that has closed the connection says so.
    pub(super) fn ask(&self) {
        self.asks.set(true);
        self.changed.notify_one();
    }

    /// Says whether all has left.
    pub(super) fn is_idle(&self) -> bool {
        self.is_idle.get() && self.outbox.borrow().is_empty()
    }

    /// Waits for the next message, at most for `rest`; `None`: a ping is due.
    async fn next(&self, rest: Duration) -> Option<Message> {
        loop {
            if let Some(message) = self.outbox.borrow_mut().pop() {
                self.is_idle.set(false);
                return Some(message);
            }
            if self.asks.take() {
                return None;
            }
            self.is_idle.set(true);
            // Safe to cancel: a permit that came meanwhile stays for the next time.
            if timeout(rest, self.changed.notified()).await.is_err() {
                return None;
            }
        }
    }
}

/// Why a connection came to nothing.
enum Failed {
    /// The other end closed it, the network broke it, or it is no longer wanted.
    Gone,
    /// Something that is counted.
    Counted(Count),
    /// The peer was refused, or refuses.
    Refused(NodeId, HelloFault),
}

impl From<io::Error> for Failed {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

impl From<NoiseFault> for Failed {
    fn from(fault: NoiseFault) -> Self {
        Self::Counted(if fault == NoiseFault::Head { Count::BadHead } else { Count::BadKey })
    }
}

/// Calls a peer over a path, and speaks with it. Returns for how long.
pub(super) async fn call(hub: &Hub, node: NodeId, path: LinkPath, port: u16) -> Duration {
    let Ok(Ok(mut stream)) = timeout(HANDSHAKE, socket::connect(path, port, hub.limit())).await else {
        return Duration::ZERO;
    };
    match timeout(HANDSHAKE, greet(hub, node, (path.local, path.peer), &mut stream)).await {
        Ok(Ok((secure, greeted))) => speak(hub, stream, secure, &greeted).await,
        Ok(Err(failed)) => note(hub, failed),
        Err(_) => note(hub, Failed::Counted(Count::TooSlow)),
    }
}

/// Answers a connection that was let in, and speaks with whoever it is.
pub(super) async fn answer(hub: Rc<Hub>, local: IpAddr, from: IpAddr, mut stream: TcpStream, entry: Entry) {
    if socket::prepare(&stream, hub.limit()).is_err() {
        return;
    }
    match timeout(HANDSHAKE, greet_back(&hub, local, from, &mut stream, entry)).await {
        Ok(Ok((secure, greeted))) => drop(speak(&hub, stream, secure, &greeted).await),
        Ok(Err(failed)) => {
            // A hello that refuses has to arrive; to all others nothing was said that they need.
            if !matches!(failed, Failed::Refused(..)) {
                socket::reset(stream);
            }
            note(&hub, failed);
        }
        Err(_) => {
            socket::reset(stream);
            note(&hub, Failed::Counted(Count::TooSlow));
        }
    }
}

fn note(hub: &Hub, failed: Failed) -> Duration {
    match failed {
        Failed::Gone => {}
        Failed::Counted(count) => hub.counts.add(count),
        Failed::Refused(node, fault) => hub.refuse(node, fault),
    }
    Duration::ZERO
}

/// The beginner's part of handshake and hellos.
async fn greet(
    hub: &Hub,
    node: NodeId,
    addresses: (IpAddr, IpAddr),
    stream: &mut TcpStream,
) -> Result<(Secure, Greeted), Failed> {
    let terms = hub.terms(node).ok_or(Failed::Gone)?;
    let slot = terms.ring.active() as u8;
    let (begun, opening) = noise::begin(&terms.ring, Head { slot, beginner: hub.own.0, answerer: node.0 })?;
    stream.write_all(&opening).await?;
    let mut reply = [0; REPLY_LEN];
    stream.read_exact(&mut reply).await?;
    let mut secure = begun.finish(&reply)?;
    let own = hub.hello(&terms, true);
    say_hello(stream, &mut secure, &own).await?;
    let said = hear_hello(stream, &mut secure).await?;
    let other = judge(hub, &said, node, &terms)?;
    Ok((secure, Greeted { node, own, other, begun_here: true, addresses, slot, epoch: terms.epoch }))
}

/// The answerer's part. Until the first record has been opened the beginner may be a recording.
async fn greet_back(
    hub: &Hub,
    local: IpAddr,
    from: IpAddr,
    stream: &mut TcpStream,
    entry: Entry,
) -> Result<(Secure, Greeted), Failed> {
    let mut opening = [0; OPENING_LEN];
    stream.read_exact(&mut opening).await?;
    let head = Head::decode(&opening)?;
    let node = NodeId(head.beginner);
    if head.answerer != hub.own.0 || hub.peer_at(local, from) != Some(node) {
        return Err(Failed::Counted(Count::BadHead));
    }
    let terms = hub.terms(node).ok_or(Failed::Gone)?;
    let (mut secure, reply) = noise::answer(&terms.ring, head, &opening)?;
    stream.write_all(&reply).await?;
    let said = hear_hello(stream, &mut secure).await?;
    drop(entry);
    // Said before the other's is judged: whoever is refused learns why.
    let own = hub.hello(&terms, false);
    say_hello(stream, &mut secure, &own).await?;
    let other = judge(hub, &said, node, &terms)?;
    let addresses = (local, from);
    Ok((secure, Greeted { node, own, other, begun_here: false, addresses, slot: head.slot, epoch: terms.epoch }))
}

async fn say_hello(stream: &mut TcpStream, secure: &mut Secure, hello: &Hello) -> Result<(), Failed> {
    let sealed = secure.seal(&[&[kind::HELLO], &hello.encode()[..]].concat())?;
    Ok(stream.write_all(&sealed).await?)
}

async fn hear_hello(stream: &mut TcpStream, secure: &mut Secure) -> Result<Vec<u8>, Failed> {
    let record = read_record(stream, HELLO_LEN + 1).await?.ok_or(Failed::Counted(Count::BadKey))?;
    let plain = secure.open(&record)?;
    match plain.split_first() {
        Some((&kind::HELLO, hello)) => Ok(hello.to_vec()),
        _ => Err(Failed::Counted(Count::BadHello)),
    }
}

/// Judges a hello by what is known now: a newer incarnation may have been heard since the handshake began. Where this
/// node itself has become another one since, nothing said to the former one counts.
fn judge(hub: &Hub, said: &[u8], node: NodeId, terms: &Terms) -> Result<Hello, Failed> {
    let now = hub.terms(node).filter(|now| now.epoch == terms.epoch).ok_or(Failed::Gone)?;
    Hello::judge(said, node, &now.standing, now.known).map_err(|fault| Failed::Refused(node, fault))
}

/// Reads a record whose plaintext has at most `max` bytes; `None`: its length is none that a record has here.
async fn read_record(stream: &mut (impl AsyncRead + Unpin), max: usize) -> io::Result<Option<Vec<u8>>> {
    let mut prefix = [0; 2];
    stream.read_exact(&mut prefix).await?;
    let Some(len) = noise::record_len(prefix).ok().filter(|len| *len <= max + noise::TAG_LEN) else {
        return Ok(None);
    };
    let mut record = vec![0; len];
    stream.read_exact(&mut record).await?;
    Ok(Some(record))
}

/// Speaks until either end has had enough. Returns for how long.
async fn speak(hub: &Hub, mut stream: TcpStream, secure: Secure, greeted: &Greeted) -> Duration {
    let Some(mut seat) = hub.seat(greeted) else { return Duration::ZERO };
    let begun = clock::now();
    let secure = RefCell::new(secure);
    let (mut reader, mut writer) = stream.split();
    let (node, incarnation) = (seat.node, seat.incarnation);
    // Whatever ends first ends the connection, so nothing that is cut off here is taken up again. The end comes first:
    // once the place is lost, nothing more is heard.
    let failed = tokio::select! {
        biased;
        _ = &mut seat.end => Failed::Gone,
        failed = hear(hub, node, incarnation, &mut reader, &secure) => failed,
        failed = say(hub, &seat.mailbox, &mut writer, &secure) => failed,
    };
    note(hub, failed);
    hub.unseat(&seat);
    clock::now().since(begun)
}

async fn hear(
    hub: &Hub,
    node: NodeId,
    incarnation: u64,
    reader: &mut (impl AsyncRead + Unpin),
    secure: &RefCell<Secure>,
) -> Failed {
    let mut rate = Rate::default();
    loop {
        // What came is looked at before the time: a thread that was late itself finds what came meanwhile.
        let record = match timeout(hub.limit(), read_record(reader, noise::PLAIN_MAX)).await {
            Ok(Ok(Some(record))) => record,
            Ok(Ok(None)) => return Failed::Counted(Count::BadRecord),
            Ok(Err(_)) => return Failed::Gone,
            Err(_) => return Failed::Counted(Count::Silent),
        };
        let Ok(plain) = secure.borrow_mut().open(&record) else { return Failed::Counted(Count::BadRecord) };
        match plain.split_first() {
            Some((&kind::PING, [])) => {}
            Some((&kind::MESSAGE, bytes)) => match Message::decode(bytes) {
                Ok(message) => hub.leave(LinkEvent::Message(node, incarnation, message)),
                Err(_) => return Failed::Counted(Count::BadMessage),
            },
            _ => return Failed::Counted(Count::BadMessage),
        }
        let wait = rate.take(clock::now(), record.len());
        if rate::is_worth_waiting(wait) {
            hub.counts.add(Count::Held);
            tokio::time::sleep(wait).await;
        }
    }
}

async fn say(hub: &Hub, mailbox: &Mailbox, writer: &mut (impl AsyncWrite + Unpin), secure: &RefCell<Secure>) -> Failed {
    loop {
        let plain = match mailbox.next(hub.limit() / PINGS_PER_LIMIT).await {
            Some(message) => [&[kind::MESSAGE], &message.encode()[..]].concat(),
            None => vec![kind::PING],
        };
        if plain.len() > MESSAGE_MAX + 1 {
            // No peer would read it, nor this connection any further.
            hub.counts.add(Count::Unsent);
            continue;
        }
        let Ok(sealed) = secure.borrow_mut().seal(&plain) else { return Failed::Gone };
        match timeout(hub.limit(), writer.write_all(&sealed)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Failed::Gone,
            Err(_) => return Failed::Counted(Count::Silent),
        }
    }
}

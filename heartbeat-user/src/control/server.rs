//! Serves the control socket: reads one request a connection, judges the caller, answers from the backend.
//! It keeps every limit by itself and lets no client hold up another, nor the daemon.

use super::change::{Change, ChangedBody};
use super::listen::caller;
use super::message::{Answer, CountersBody, DoneBody, ErrorBody, EventBody, EventsBody, NodesBody, PathsBody};
use super::permission::may;
use super::{
    CHANGES_MAX, CONNECTIONS_MAX, CounterRow, ErrorCode, EventRecord, FOLLOWERS_MAX, Listener, NodeStatus, Owner,
    PathStatus, QuorumStatus, REQUEST_MAX, Refusal, Request, Status, ViewStatus,
};
use jiff::Timestamp;
use serde::Serialize;
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{broadcast, oneshot};
use tokio::time::timeout;

/// Time for a request line to come whole.
const REQUEST_DEADLINE: Duration = Duration::from_secs(1);
/// Time for an answer, or one line of a stream, to be taken.
const WRITE_DEADLINE: Duration = Duration::from_secs(2);
/// Pause after the system refused a connection, so that a lack of descriptors does not make a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Events of the log remembered while a stream starts, so that none is sent twice.
const OVERLAP: usize = 1024;

/// What the daemon can be asked. No call may wait for anything but a short lock; only `events_since` may read a disk,
/// and only `change` may wait until the cluster has decided.
pub trait Backend: Send + Sync + 'static {
    /// Returns the node at a glance.
    ///
    /// # Errors
    /// A refusal that says why not.
    fn status(&self) -> Result<Status, Refusal>;
    /// Returns every peer.
    ///
    /// # Errors
    /// A refusal that says why not.
    fn nodes(&self) -> Result<Vec<NodeStatus>, Refusal>;
    /// Returns every path.
    ///
    /// # Errors
    /// A refusal that says why not.
    fn paths(&self) -> Result<Vec<PathStatus>, Refusal>;
    /// Returns every counter.
    ///
    /// # Errors
    /// A refusal that says why not.
    fn counters(&self) -> Result<Vec<CounterRow>, Refusal>;
    /// Returns the events of the log from `since` on, oldest first. Called on a thread where it may block.
    ///
    /// # Errors
    /// A refusal that says why not.
    fn events_since(&self, since: Option<Timestamp>) -> Result<Vec<EventRecord>, Refusal>;
    /// Subscribes to the events to come.
    fn subscribe(&self) -> broadcast::Receiver<EventRecord>;
    /// Notes that the next stop is part of a restart; returns what was done, in one sentence.
    ///
    /// # Errors
    /// A refusal that says why not.
    fn handover(&self) -> Result<String, Refusal>;
    /// Detaches the kernel programs; returns what was done, in one sentence.
    ///
    /// # Errors
    /// A refusal that says why not.
    fn detach(&self) -> Result<String, Refusal>;
    /// Returns the view that this node holds, and what it waits for.
    ///
    /// # Errors
    /// A refusal that says why not.
    fn view(&self) -> Result<ViewStatus, Refusal>;
    /// Returns the votes, and the lease that they give.
    ///
    /// # Errors
    /// A refusal that says why not, also where there is no view.
    fn quorum(&self) -> Result<QuorumStatus, Refusal>;
    /// Has a change of the cluster decided for user `uid`; returns what was done. It waits at most
    /// [`super::CHANGE_DEADLINE`] and a second.
    ///
    /// # Errors
    /// A refusal that says why nothing was done.
    fn change(&self, change: &Change, uid: u32) -> Result<ChangedBody, Refusal>;
}

/// Serves `listener` from `backend` until `over` comes: then nobody is let in any more, and who is being answered gets the
/// answer, as far as it is taken in time. It wants a current-thread runtime or any other with time and I/O on.
///
/// # Errors
/// Only if the listener cannot be handed to the runtime.
pub async fn serve(listener: Listener, backend: Arc<dyn Backend>, over: impl Future<Output = ()>) -> io::Result<()> {
    let socket = tokio::net::UnixListener::from_std(listener.socket.try_clone()?)?;
    let slots = Arc::new(Mutex::new(Slots::default()));
    let mut connections = tokio::task::JoinSet::new();
    tokio::pin!(over);
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut over => break,
            accepted = socket.accept() => accepted,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, _)) => {
                if let Some((slot, evicted)) = Slot::take(&slots) {
                    let connection = Connection { stream, owner: listener.owner, backend: backend.clone(), slot };
                    connections.spawn(connection.serve(evicted));
                    // The new one gets its turn first: a request that is already there is read before a flood of
                    // other connections can push it out.
                    tokio::task::yield_now().await;
                } else {
                    refuse_at_the_door(&stream);
                }
            }
            Err(error) => {
                log::warn!("control socket: cannot take a connection: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    let answered = async {
        while lock(&slots).entries.iter().any(|entry| matches!(entry.phase, Phase::Answering | Phase::Changing)) {
            if connections.join_next().await.is_none() {
                break;
            }
        }
    };
    let _ = timeout(WRITE_DEADLINE, answered).await;
    Ok(())
}

fn busy() -> Refusal {
    Refusal::new(ErrorCode::Busy, format!("heartbeatd is busy: it serves {CONNECTIONS_MAX} connections at a time"))
}

/// Says that there is no room, if that can be said without waiting.
fn refuse_at_the_door(stream: &UnixStream) {
    if let Ok(line) = line(&Answer::new(ErrorBody { error: busy() })) {
        let _ = stream.try_write(&line);
    }
}

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Its request has not come yet: it may be pushed out by a newer connection.
    Waiting,
    /// It is being answered.
    Answering,
    /// It follows events.
    Following,
    /// It waits until the cluster has decided.
    Changing,
}

impl Phase {
    /// Returns how many connections may be in it at a time.
    const fn most(self) -> usize {
        match self {
            Self::Waiting | Self::Answering => CONNECTIONS_MAX,
            Self::Following => FOLLOWERS_MAX,
            Self::Changing => CHANGES_MAX,
        }
    }
}

struct Entry {
    id: u64,
    phase: Phase,
    evict: Option<oneshot::Sender<()>>,
}

/// The connections that are open, oldest first.
#[derive(Default)]
struct Slots {
    next: u64,
    entries: Vec<Entry>,
}

/// One connection's place among them; given back when dropped.
struct Slot {
    id: u64,
    slots: Arc<Mutex<Slots>>,
}

fn lock(slots: &Mutex<Slots>) -> MutexGuard<'_, Slots> {
    // The entries are valid between any two statements, so a panic elsewhere has not broken them.
    slots.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Slot {
    /// Takes a slot, pushing out the oldest connection that has not asked anything yet if all are taken.
    fn take(slots: &Arc<Mutex<Slots>>) -> Option<(Self, oneshot::Receiver<()>)> {
        let mut inner = lock(slots);
        if inner.entries.len() >= CONNECTIONS_MAX {
            let oldest = inner.entries.iter().position(|entry| entry.phase == Phase::Waiting)?;
            let entry = inner.entries.remove(oldest);
            if let Some(evict) = entry.evict {
                let _ = evict.send(());
            }
        }
        inner.next += 1;
        let id = inner.next;
        let (evict, evicted) = oneshot::channel();
        inner.entries.push(Entry { id, phase: Phase::Waiting, evict: Some(evict) });
        Some((Self { id, slots: slots.clone() }, evicted))
    }

    /// Moves on to `phase`; false if this connection was pushed out or there are enough in that phase.
    fn enter(&self, phase: Phase) -> bool {
        let mut inner = lock(&self.slots);
        if inner.entries.iter().filter(|entry| entry.phase == phase).count() >= phase.most() {
            return false;
        }
        let found = inner.entries.iter_mut().find(|entry| entry.id == self.id);
        found.map(|entry| entry.phase = phase).is_some()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        lock(&self.slots).entries.retain(|entry| entry.id != self.id);
    }
}

struct Connection {
    stream: UnixStream,
    owner: Owner,
    backend: Arc<dyn Backend>,
    slot: Slot,
}

impl Connection {
    async fn serve(mut self, evicted: oneshot::Receiver<()>) {
        let request = tokio::select! {
            biased;
            request = read_request(&mut self.stream) => request,
            _ = evicted => Err(Some(busy())),
        };
        let outcome = match request {
            Ok(request) => self.answer(request).await,
            Err(Some(refusal)) => Err(refusal),
            Err(None) => return,
        };
        if let Err(error) = outcome {
            let _ = self.send(&Answer::new(ErrorBody { error })).await;
        }
    }

    async fn answer(&mut self, request: Request) -> Result<(), Refusal> {
        let verb = request.verb();
        let caller = caller(&self.stream).map_err(|error| Refusal::failed(format!("who asks? {error}")))?;
        if !may(&caller, verb, self.owner) {
            let message = format!("user {} may not ask heartbeatd for {}", caller.uid, verb.name());
            return Err(Refusal::new(ErrorCode::PermissionDenied, message));
        }
        if !self.slot.enter(Phase::Answering) {
            return Err(busy());
        }
        let (backend, uid) = (self.backend.clone(), caller.uid);
        let sent = match request {
            Request::Status {} => self.send(&Answer::new(aside(move || backend.status()).await?)).await,
            Request::Nodes {} => {
                self.send(&Answer::new(NodesBody { nodes: aside(move || backend.nodes()).await? })).await
            }
            Request::Paths {} => {
                self.send(&Answer::new(PathsBody { paths: aside(move || backend.paths()).await? })).await
            }
            Request::Counters {} => {
                let counters = aside(move || backend.counters()).await?;
                self.send(&Answer::new(CountersBody { counters })).await
            }
            Request::Handover {} => self.send(&Answer::new(DoneBody { done: backend.handover()? })).await,
            Request::Detach {} => {
                self.send(&Answer::new(DoneBody { done: aside(move || backend.detach()).await? })).await
            }
            Request::Events { since_unix_ms, follow: false } => {
                let events = self.logged(moment(since_unix_ms)?).await?;
                self.send(&Answer::new(EventsBody { events })).await
            }
            Request::Events { since_unix_ms, follow: true } => return self.follow(moment(since_unix_ms)?).await,
            Request::View {} => self.send(&Answer::new(aside(move || backend.view()).await?)).await,
            Request::Quorum {} => self.send(&Answer::new(aside(move || backend.quorum()).await?)).await,
            Request::Init { cluster } => return self.change(Change::Init { cluster }, uid).await,
            Request::Leave {} => return self.change(Change::Leave, uid).await,
            Request::Fence { node, cluster } => return self.change(Change::Fence { node, cluster }, uid).await,
            Request::ClearQuarantine { node } => return self.change(Change::ClearQuarantine { node }, uid).await,
            Request::Set { setting } => return self.change(Change::Set { setting }, uid).await,
            Request::ForceQuorum { cluster } => return self.change(Change::ForceQuorum { cluster }, uid).await,
        };
        // Whoever does not take the answer is gone: nobody is left to tell.
        if let Err(error) = sent {
            log::debug!("control socket: {} not delivered: {error}", verb.name());
        }
        Ok(())
    }

    /// Has a change decided. Whoever goes away meanwhile has asked for it nonetheless.
    async fn change(&mut self, change: Change, uid: u32) -> Result<(), Refusal> {
        if !self.slot.enter(Phase::Changing) {
            let message = format!("heartbeatd is busy: {CHANGES_MAX} changes at a time are decided");
            return Err(Refusal::new(ErrorCode::Busy, message));
        }
        let backend = self.backend.clone();
        let changed = aside(move || backend.change(&change, uid)).await?;
        if let Err(error) = self.send(&Answer::new(changed)).await {
            log::debug!("control socket: the outcome of a change was not delivered: {error}");
        }
        Ok(())
    }

    async fn logged(&self, since: Option<Timestamp>) -> Result<Vec<EventRecord>, Refusal> {
        let backend = self.backend.clone();
        aside(move || backend.events_since(since)).await
    }

    async fn follow(&mut self, since: Option<Timestamp>) -> Result<(), Refusal> {
        if !self.slot.enter(Phase::Following) {
            let message = format!("heartbeatd is busy: {FOLLOWERS_MAX} followers at a time are served");
            return Err(Refusal::new(ErrorCode::Busy, message));
        }
        // Subscribed first, so that nothing falls between the log and the stream; what is in both is sent once.
        let mut stream = self.backend.subscribe();
        let mut seen = VecDeque::new();
        for event in self.logged(since).await? {
            if self.send_event(&event).await.is_err() {
                return Ok(());
            }
            if seen.len() == OVERLAP {
                seen.pop_front();
            }
            seen.push_back(event);
        }
        loop {
            let event = tokio::select! {
                event = stream.recv() => event,
                () = hung_up(&self.stream) => return Ok(()),
            };
            match event {
                Ok(event) if seen.contains(&event) => {}
                Ok(event) => {
                    // The stream is in order: the first event that the log did not hold ends the overlap.
                    seen.clear();
                    if self.send_event(&event).await.is_err() {
                        return Ok(());
                    }
                }
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    let message = format!("read too slowly: {missed} events were missed; the event log has them");
                    return Err(Refusal::new(ErrorCode::TooSlow, message));
                }
                Err(broadcast::error::RecvError::Closed) => return Ok(()),
            }
        }
    }

    async fn send_event(&mut self, event: &EventRecord) -> io::Result<()> {
        self.send(&Answer::new(EventBody { event: event.clone() })).await
    }

    async fn send<T: Serialize>(&mut self, answer: &Answer<T>) -> io::Result<()> {
        let line = line(answer)?;
        timeout(WRITE_DEADLINE, self.stream.write_all(&line)).await.map_err(|_| io::ErrorKind::TimedOut)?
    }
}

fn line<T: Serialize>(answer: &Answer<T>) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    Ok(line)
}

fn moment(unix_ms: Option<i64>) -> Result<Option<Timestamp>, Refusal> {
    unix_ms
        .map(Timestamp::from_millisecond)
        .transpose()
        .map_err(|error| Refusal::new(ErrorCode::BadRequest, format!("since_unix_ms: {error}")))
}

/// Reads one request. `Err(None)`: the client went without asking.
async fn read_request(stream: &mut UnixStream) -> Result<Request, Option<Refusal>> {
    let refuse = |code, message: String| Err(Some(Refusal::new(code, message)));
    let Ok(read) = timeout(REQUEST_DEADLINE, read_line(stream)).await else {
        return refuse(ErrorCode::Timeout, format!("no whole request within {} s", REQUEST_DEADLINE.as_secs()));
    };
    let line = match read {
        Ok(line) => line,
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
            return refuse(ErrorCode::TooLong, format!("a request has at most {REQUEST_MAX} bytes"));
        }
        Err(_) => return Err(None),
    };
    if line.is_empty() {
        return Err(None);
    }
    serde_json::from_slice(&line)
        .or_else(|error| refuse(ErrorCode::BadRequest, format!("not a request that heartbeatd knows: {error}")))
}

/// Reads up to the first line end, which is taken off, or the end of what the client sends.
async fn read_line(stream: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let read = stream.read(&mut chunk).await?;
        if let Some(end) = chunk[..read].iter().position(|byte| *byte == b'\n') {
            line.extend_from_slice(&chunk[..end]);
            return if line.len() < REQUEST_MAX { Ok(line) } else { Err(io::ErrorKind::FileTooLarge.into()) };
        }
        line.extend_from_slice(&chunk[..read]);
        if line.len() >= REQUEST_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        if read == 0 {
            return Ok(line);
        }
    }
}

/// Returns once the client has closed its side. What it still sends is read and dropped.
async fn hung_up(stream: &UnixStream) {
    let mut dropped = [0; 256];
    loop {
        if stream.readable().await.is_err() {
            return;
        }
        match stream.try_read(&mut dropped) {
            Ok(0) => return,
            Ok(_) => tokio::task::yield_now().await,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests;

/// Asks the backend on a thread where it may wait for another: the runtime's own has signals and a watchdog to serve.
async fn aside<T: Send + 'static>(ask: impl FnOnce() -> Result<T, Refusal> + Send + 'static) -> Result<T, Refusal> {
    let asked = tokio::task::spawn_blocking(ask).await;
    asked.map_err(|error| Refusal::failed(format!("heartbeatd could not be asked: {error}")))?
}

//! What becomes of one frame on a configured path: authenticate, record in the tick and in the lease, answer.
//! It is the packet path's whole logic after the headers were parsed, for XDP and the userspace responder; fences are
//! told in `fence`. It sends nothing, reads no clock and takes no lock: `record` wants the tick's lock held,
//! `authenticate` does not.

use crate::auth;
use crate::checksum;
use crate::counter::Counter;
use crate::frame::{self, Kind, Words, word};
use crate::lease;
use crate::path::{PathConf, Slot};
use crate::siphash::{Key, Midstate};
use crate::tick::{Cached, DEPARTURES, Tick};
use core::cell::Cell;

/// Shortest time between two stale echoes on one path. A recorder that replays old probes cannot make more.
pub const STALE_GAP_NS: u64 = 10_000_000;

/// How a probe stands to what is known of its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Current on both sides: it refreshes the tick.
    Current,
    /// It does not name this node's incarnation: answered, so that its sender learns it, without a tick.
    Handshake,
    /// Its sender's incarnation is older than the newest known: answered "stale", at a limited rate.
    Stale,
}

/// A frame whose tag was found good.
#[derive(Clone, Copy, Debug)]
pub struct Authentic {
    /// True for an echo, false for a probe.
    pub echo: bool,
    /// Key slot it was tagged with.
    pub slot: u64,
    /// State over what probe and echo share.
    pub shared: Midstate,
    /// State over the constants and both incarnations, where it is not the one in the tick.
    pub learned: Option<Midstate>,
    /// Digest of the author's standing, where it is not the one in the tick.
    pub digest: Option<u64>,
}

/// What to send back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Newest incarnation of the prober known, for a stale echo; 0 for a plain one.
    pub notice: u64,
    /// What to count.
    pub counter: Counter,
}

/// What a good frame led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A probe to be answered.
    Answer(Answer),
    /// An echo, taken; its round trip in ns goes into the histogram.
    Taken(Counter, u64),
}

#[inline(always)]
fn classify<W: Words>(frame: &W, own: u64, tick: &Tick<Cell<u64>>) -> Result<Standing, Counter> {
    let prober = frame.get(word::PROBER_INCARNATION);
    let sequence = frame.get(word::SEQUENCE);
    let known = tick.peer_incarnation.get();
    if sequence == 0 {
        return Err(Counter::DropReplay);
    }
    if prober < known {
        return Ok(Standing::Stale);
    }
    if frame.get(word::RESPONDER_INCARNATION) != own {
        let mark = tick.handshake_incarnation.get();
        let newer = prober > mark || (prober == mark && sequence > tick.handshake_sequence.get());
        return if newer { Ok(Standing::Handshake) } else { Err(Counter::DropReplay) };
    }
    if prober > known || tick.probe_window().accepts(sequence) {
        Ok(Standing::Current)
    } else {
        Err(Counter::DropReplay)
    }
}

/// Says why a head word that is neither slot's is wrong.
#[cold]
fn head_fault(head: u64) -> Counter {
    if head as u32 != frame::MAGIC {
        Counter::DropMagic
    } else if (head >> 32) as u8 != frame::VERSION {
        Counter::DropVersion
    } else if (head >> 48) != 0 {
        Counter::DropReserved
    } else {
        Counter::DropKeySlot
    }
}

#[inline(always)]
fn cached(cache: &Cached<Cell<u64>>, prober: u64, responder: u64, base: Midstate) -> Option<Midstate> {
    if cache.prober.get() == prober && cache.responder.get() == responder && cache.base.get() == base.v[0] {
        let [a, b, c, d] = &cache.lanes;
        Some(Midstate { v: [a.get(), b.get(), c.get(), d.get()] })
    } else {
        None
    }
}

/// Word by word, and over at the first that differs: read all at once they would not fit into BPF's ten registers.
#[inline(always)]
fn cached_digest<W: Words>(frame: &W, tick: &Tick<Cell<u64>>, key: Key) -> Option<u64> {
    if tick.standing_mark.get() != mark(key) {
        return None;
    }
    let mut index = 0;
    while index < frame::STANDING_WORDS {
        if tick.standing[index].get() != frame.get(word::STANDING + index) {
            return None;
        }
        index += 1;
    }
    Some(tick.standing_digest.get())
}

/// Says which key a cached digest belongs to. Not the slot's number: a slot's key is replaced by rotation, and what
/// was computed under the old one must not be found again. Never 0, which says that nothing is cached.
#[inline(always)]
const fn mark(key: Key) -> u64 {
    key.k[0] | 1
}

/// Checks a frame, cheapest test first, and its tag last. Nothing is believed or changed before.
///
/// # Errors
/// Returns the counter of the first test that the frame does not pass.
#[inline(always)]
pub fn authenticate<W: Words>(frame: &W, conf: &PathConf, tick: &Tick<Cell<u64>>) -> Result<Authentic, Counter> {
    let head = frame.get(word::HEAD);
    // Taken as a number, here and below: a branch for each slot would have the verifier go twice through all that
    // follows.
    let slot = head >> frame::SLOT_SHIFT & 1;
    if head & !(1 << frame::SLOT_SHIFT) != frame::head(0) {
        return Err(head_fault(head));
    }
    if frame.get(word::CLUSTER) != conf.cluster {
        return Err(Counter::DropCluster);
    }
    let own = conf.standing[0];
    let prober = frame.get(word::PROBER_INCARNATION);
    let dynamic = frame.get(word::DYNAMIC);
    let kind = (dynamic >> 48) & frame::KIND_MASK;
    if dynamic >> 56 != 0 || frame.get(word::TAG_HIGH) != 0 || prober == 0 {
        return Err(Counter::DropReserved);
    }
    let echo = kind == Kind::Echo as u64;
    if echo {
        if frame.get(word::IDS) != conf.mine_ids {
            return Err(Counter::DropIds);
        }
        if prober != own {
            return Err(Counter::DropIncarnation);
        }
        if !tick.echo_window().accepts(frame.get(word::SEQUENCE)) {
            return Err(Counter::DropReplay);
        }
        if frame.get(word::STANDING) < tick.peer_incarnation.get() {
            return Err(Counter::DropIncarnation);
        }
    } else if kind == Kind::Probe as u64 {
        if frame.get(word::IDS) != conf.theirs_ids {
            return Err(Counter::DropIds);
        }
        if frame.get(word::STANDING) != prober {
            return Err(Counter::DropIncarnation);
        }
        classify(frame, own, tick)?;
    } else {
        return Err(Counter::DropKind);
    }
    if !conf.has_slot(slot) {
        return Err(Counter::DropKeySlot);
    }

    // The fast way: key, both incarnations and the standing are those of the last frame.
    let keys = slot_of(conf, slot);
    let base = if echo { keys.mine } else { keys.theirs };
    let responder = frame.get(word::RESPONDER_INCARNATION);
    let cache = if echo { &tick.mine } else { &tick.theirs };
    let (sequence, sent) = (frame.get(word::SEQUENCE), frame.get(word::SENT));
    let (stamp, tag) = (frame.get(word::STAMP), frame.get(word::TAG));
    if let Some(state) = cached(cache, prober, responder, base)
        && let Some(digest) = cached_digest(frame, tick, keys.standing_key)
    {
        let shared = auth::with_probe(state, sequence, sent);
        if auth::tag(shared, stamp, digest, dynamic) == tag {
            return Ok(Authentic { echo, slot, shared, learned: None, digest: None });
        }
        // Another CPU may have been changing the cache while it was read: decide without it.
    }
    let learned = auth::with_incarnations(base, prober, responder);
    let digest = auth::standing_digest(keys.standing_key, &auth::standing_of(frame));
    let shared = auth::with_probe(learned, sequence, sent);
    if auth::tag(shared, stamp, digest, dynamic) != tag {
        return Err(Counter::DropTag);
    }
    Ok(Authentic { echo, slot, shared, learned: Some(learned), digest: Some(digest) })
}

#[inline(always)]
fn slot_of(conf: &PathConf, slot: u64) -> &Slot {
    &conf.slots[(slot & 1) as usize]
}

/// Records a good frame that came at `now` in the tick, whose lock is held, and in the lease's page. What may have
/// changed since `authenticate` looked, on another CPU, is judged again.
///
/// # Errors
/// Returns the counter of what the frame turned out to be; the tick is then unchanged, but that a stale probe came.
#[inline(always)]
pub fn record<W: Words, P: lease::Words>(
    frame: &W,
    good: &Authentic,
    conf: &PathConf,
    tick: &Tick<Cell<u64>>,
    page: &P,
    now: u64,
) -> Result<Outcome, Counter> {
    if good.echo {
        record_echo(frame, good, conf, tick, page, now)
    } else {
        record_probe(frame, good, conf, tick, page, now)
    }
}

/// Renews the lease by the grant in a good frame that names this incarnation, if it brings one. The date is this node's
/// own stamp that the granter returned: a probe brings back when its last echo had come, an echo when its probe was
/// sent. When the frame itself came says nothing: it may have been under way for long.
#[inline(always)]
pub fn renew<W: Words, P: lease::Words>(frame: &W, echo: bool, conf: &PathConf, page: &P, now: u64) {
    let grant = frame.get(word::GRANT);
    if grant != 0 {
        let date = frame.get(if echo { word::SENT } else { word::STAMP });
        lease::renew(page, conf.vote_slot as usize, grant, date, now);
    }
}

#[inline(always)]
fn record_probe<W: Words, P: lease::Words>(
    frame: &W,
    good: &Authentic,
    conf: &PathConf,
    tick: &Tick<Cell<u64>>,
    page: &P,
    now: u64,
) -> Result<Outcome, Counter> {
    let prober = frame.get(word::PROBER_INCARNATION);
    let sequence = frame.get(word::SEQUENCE);
    match classify(frame, conf.standing[0], tick)? {
        Standing::Current => {}
        Standing::Handshake => {
            tick.handshake_incarnation.set(prober);
            tick.handshake_sequence.set(sequence);
            return Ok(Outcome::Answer(Answer { notice: 0, counter: Counter::AnsweredHandshake }));
        }
        Standing::Stale => {
            raise(&tick.older_heard_ns, now);
            let last = tick.stale_answered_ns.get();
            if last != 0 && now.saturating_sub(last) < STALE_GAP_NS {
                return Err(Counter::DropStaleLimit);
            }
            tick.stale_answered_ns.set(now);
            let notice = tick.peer_incarnation.get();
            return Ok(Outcome::Answer(Answer { notice, counter: Counter::AnsweredStale }));
        }
    }
    if prober > tick.peer_incarnation.get() {
        adopt_incarnation(tick, prober);
    }
    let newest = sequence > tick.probe_top.get();
    let window = tick.probe_window().taken(sequence);
    tick.probe_top.set(window.top);
    tick.probe_bits.set(window.bits);
    raise(&tick.probe_ns, now);
    raise(&tick.heard_ns, now);
    let returned = frame.get(word::STAMP);
    if returned <= now {
        raise(&tick.returned_ns, returned);
    }
    raise(&tick.answered_ns, now);
    tick.probes.set(tick.probes.get() + 1);
    tick.answers.set(tick.answers.get() + 1);
    keep_state(frame, good, conf, tick);
    if newest {
        keep_standing(frame, good, conf, tick, now);
    }
    renew(frame, false, conf, page, now);
    Ok(Outcome::Answer(Answer { notice: 0, counter: Counter::Answered }))
}

#[inline(always)]
fn record_echo<W: Words, P: lease::Words>(
    frame: &W,
    good: &Authentic,
    conf: &PathConf,
    tick: &Tick<Cell<u64>>,
    page: &P,
    now: u64,
) -> Result<Outcome, Counter> {
    let sequence = frame.get(word::SEQUENCE);
    let author = frame.get(word::STANDING);
    let known = tick.peer_incarnation.get();
    if author < known {
        return Err(Counter::DropIncarnation);
    }
    let window = tick.echo_window();
    if !window.accepts(sequence) {
        return Err(Counter::DropReplay);
    }
    let adopted = author > known;
    if adopted {
        adopt_incarnation(tick, author);
    }
    let newest = sequence > window.top;
    let window = window.taken(sequence);
    tick.echo_top.set(window.top);
    tick.echo_bits.set(window.bits);
    // The departure that the kernel stamped, where it is still known: the send time in the frame was taken before
    // the send call, and the call may have waited.
    let departed = &tick.departed[(sequence & (DEPARTURES as u64 - 1)) as usize];
    let sent = if departed.sequence.get() == sequence { departed.ns.get() } else { frame.get(word::SENT) };
    let round_trip = now.saturating_sub(sent);
    tick.round_trip_ns.set(round_trip);
    raise(&tick.peer_stamp, frame.get(word::STAMP));
    if frame::flags(frame.get(word::DYNAMIC)) & frame::FLAG_STALE != 0 {
        raise(&tick.stale_newest, frame.get(word::NOTICE));
    }
    keep_state(frame, good, conf, tick);
    // A late one too: it is dated by its probe, and no less true for having been under way.
    renew(frame, true, conf, page, now);
    let timely = round_trip <= conf.answer_within_ns;
    // A late echo's age was true when it was written; taken for new it would hide a controller that hangs.
    if adopted || newest && timely {
        keep_standing(frame, good, conf, tick, now);
    }
    if timely {
        raise(&tick.echo_ns, now);
        raise(&tick.heard_ns, now);
        tick.echoes.set(tick.echoes.get() + 1);
        Ok(Outcome::Taken(Counter::EchoTimely, round_trip))
    } else {
        tick.late_echoes.set(tick.late_echoes.get() + 1);
        Ok(Outcome::Taken(Counter::EchoLate, round_trip))
    }
}

/// Begins a newer incarnation of the peer: nothing of the older one outlives it.
#[inline(always)]
fn adopt_incarnation(tick: &Tick<Cell<u64>>, incarnation: u64) {
    tick.peer_incarnation.set(incarnation);
    tick.probe_top.set(0);
    tick.probe_bits.set(0);
    tick.peer_stamp.set(0);
}

/// Keeps the MAC state that the next frame will need again.
#[inline(always)]
fn keep_state<W: Words>(frame: &W, good: &Authentic, conf: &PathConf, tick: &Tick<Cell<u64>>) {
    let Some(state) = good.learned else { return };
    let keys = slot_of(conf, good.slot);
    let (cache, base) = if good.echo { (&tick.mine, keys.mine) } else { (&tick.theirs, keys.theirs) };
    cache.prober.set(frame.get(word::PROBER_INCARNATION));
    cache.responder.set(frame.get(word::RESPONDER_INCARNATION));
    cache.base.set(base.v[0]);
    let [a, b, c, d] = &cache.lanes;
    a.set(state.v[0]);
    b.set(state.v[1]);
    c.set(state.v[2]);
    d.set(state.v[3]);
}

/// Keeps what the frame says of its author. Only of the newest one: a frame that was overtaken says what was.
#[inline(always)]
fn keep_standing<W: Words>(frame: &W, good: &Authentic, conf: &PathConf, tick: &Tick<Cell<u64>>, now: u64) {
    tick.peer_dynamic.set(frame.get(word::DYNAMIC));
    tick.peer_dynamic_ns.set(now);
    let Some(digest) = good.digest else { return };
    let mut index = 0;
    while index < frame::STANDING_WORDS {
        tick.standing[index].set(frame.get(word::STANDING + index));
        index += 1;
    }
    tick.standing_digest.set(digest);
    tick.standing_mark.set(mark(slot_of(conf, good.slot).standing_key));
}

#[inline(always)]
fn raise(cell: &Cell<u64>, value: u64) {
    if value > cell.get() {
        cell.set(value);
    }
}

/// Turns a probe, found good, into its echo, in place, and returns the sum for its UDP checksum
/// (see [`checksum`]). `received` and `hold_us` are of this host's clock, `age` is from
/// [`frame::age_since`], `flags` are the dynamic flags without kind.
///
/// Whether the grant goes with it is read here, after the probe came and before the echo leaves: its date, which is when
/// the probe was sent, lies before an acceptance that clears the grants.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "inlined: the kernel passes at most five")]
pub fn write_echo<W: Words, P: lease::Words>(
    frame: &mut W,
    good: &Authentic,
    conf: &PathConf,
    page: &P,
    answer: Answer,
    received: u64,
    age: u64,
    hold_us: u64,
    flags: u8,
) -> u64 {
    let keys = slot_of(conf, good.slot);
    let mut flags = flags;
    let mut digest = keys.own_digest;
    let mut sum = keys.echo_sum;
    let mut index = 0;
    while index < frame::STANDING_WORDS {
        frame.set(word::STANDING + index, conf.standing[index]);
        index += 1;
    }
    let fenced = lease::fenced(page, conf.standing[0]);
    if answer.notice != 0 || fenced || page.get(lease::word::GRANTING) != conf.grant_mark {
        // Rare, or short: the standing is not the one that was hashed beforehand.
        if answer.notice != 0 {
            flags |= frame::FLAG_STALE;
        }
        if fenced {
            flags |= frame::FLAG_FENCED;
        }
        frame.set(word::GRANT, 0);
        frame.set(word::NOTICE, answer.notice);
        digest = auth::standing_digest(keys.own_standing_key, &auth::standing_of(frame));
        sum = checksum::add(sum, answer.notice).wrapping_sub(checksum::of(conf.standing[word::GRANT - word::STANDING]));
    }
    let dynamic = frame::dynamic(Kind::Echo, age, hold_us, flags);
    frame.set(word::STAMP, received);
    frame.set(word::DYNAMIC, dynamic);
    let tag = auth::tag(good.shared, received, digest, dynamic);
    frame.set(word::TAG, tag);
    sum.wrapping_add(checksum::of(frame.get(word::PROBER_INCARNATION)))
        .wrapping_add(checksum::of(frame.get(word::RESPONDER_INCARNATION)))
        .wrapping_add(checksum::of(frame.get(word::SEQUENCE)))
        .wrapping_add(checksum::of(frame.get(word::SENT)))
        .wrapping_add(checksum::of(received))
        .wrapping_add(checksum::of(dynamic))
        .wrapping_add(checksum::of(tag))
}

#[cfg(test)]
mod tests;

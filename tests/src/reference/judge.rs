//! The rules: what becomes of a frame, and of the facts. It is told the time and keeps everything in `Node`.

use super::answer::{self, Says};
use super::parse::{self, Parsed, Plain};
use super::{Facts, LEN, Page, Settings, fence, mac, word};
use heartbeat_common::counter::Counter;

/// Shortest time between two stale echoes on one path, ns.
pub const STALE_GAP_NS: u64 = 10_000_000;

/// A node as the model sees it.
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// Its paths: settings and facts.
    pub paths: Vec<(Settings, Facts)>,
    /// When its controller last proved progress; 0 never.
    pub progress_ns: u64,
    /// Dynamic flags of every echo.
    pub flags: u8,
    /// The lease's page.
    pub page: Page,
}

/// What becomes of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Passed on untouched.
    Pass,
    /// Taken or dropped.
    Drop,
    /// Turned round.
    Transmit(Vec<u8>),
}

/// Verdict, and what is counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// What becomes of the frame.
    pub verdict: Verdict,
    /// What is counted; nothing for a frame that is not ours.
    pub counted: Option<Counter>,
    /// An IPv6 frame without checksum, counted besides.
    pub checksum_zero: bool,
    /// Index of the path whose facts it may have changed.
    pub path: Option<usize>,
}

fn dropped(counter: Counter) -> (Verdict, Counter) {
    (Verdict::Drop, counter)
}

impl Node {
    /// Judges a frame that came in by `ifindex` at `now`.
    pub fn receive(&mut self, bytes: &[u8], ifindex: u32, now: u64) -> Judged {
        let (plain, verdict) = match parse::parse(bytes) {
            Parsed::NotOurs => {
                return Judged { verdict: Verdict::Pass, counted: None, checksum_zero: false, path: None };
            }
            Parsed::Malformed(counter) => (None, dropped(counter)),
            Parsed::Plain(plain) => (Some(plain), dropped(Counter::DropUnlisted)),
        };
        let mut judged = Judged { verdict: verdict.0, counted: Some(verdict.1), checksum_zero: false, path: None };
        let Some(plain) = plain else { return judged };
        judged.checksum_zero = plain.ipv6 && bytes[plain.udp + 6..plain.udp + 8] == [0, 0];
        judged.path = self.find(ifindex, &plain);
        let Some(index) = judged.path else { return judged };
        let (progress, flags) = (self.progress_ns, self.flags);
        let (settings, facts) = &mut self.paths[index];
        let says = Says { received: now, age: age(progress, now), flags, notice: 0, grants: true, slot: 0 };
        let (verdict, counter) = on_path(bytes, &plain, settings, facts, &mut self.page, says);
        judged.verdict = verdict;
        judged.counted = Some(counter);
        judged
    }

    fn find(&self, ifindex: u32, plain: &Plain) -> Option<usize> {
        self.paths.iter().position(|(settings, _)| {
            settings.ifindex == ifindex && settings.peer == plain.source && settings.own == plain.destination
        })
    }

    /// Records the departure of an own probe by `ifindex` at `now`; says what is counted.
    pub fn depart(&mut self, bytes: &[u8], ifindex: u32, now: u64) -> Option<Counter> {
        let Parsed::Plain(plain) = parse::parse(bytes) else { return None };
        if bytes[plain.udp + 8 + 70] & 3 != 0 {
            return None;
        }
        let found = self.paths.iter_mut().find(|(settings, _)| {
            settings.ifindex == ifindex && settings.peer == plain.destination && settings.own == plain.source
        });
        let Some((_, facts)) = found else { return Some(Counter::DepartedUnknown) };
        let sequence = word(bytes, plain.udp + 8 + 40);
        facts.departed[(sequence % 8) as usize] = (sequence, now);
        facts.departures += 1;
        Some(Counter::Departed)
    }
}

/// The age that an echo carries.
fn age(progress_ns: u64, now: u64) -> u64 {
    let most = (1 << 24) - 1;
    if progress_ns == 0 { most } else { (now.saturating_sub(progress_ns) / (1 << 20)).min(most) }
}

fn on_path(
    bytes: &[u8],
    plain: &Plain,
    settings: &Settings,
    facts: &mut Facts,
    page: &mut Page,
    says: Says,
) -> (Verdict, Counter) {
    let heartbeat = &bytes[plain.udp + 8..plain.udp + 8 + LEN];
    if plain.hop_limit < settings.min_hop_limit {
        return dropped(Counter::DropHopLimit);
    }
    if plain.vlan != settings.vlan {
        return dropped(Counter::DropVlan);
    }
    let slot = match check_constants(heartbeat, settings, facts) {
        Ok(slot) => slot,
        Err(Counter::DropReserved) if is_whole(heartbeat, settings) && fence::is_fence(heartbeat) => {
            let (answered, counter) = fence::judge(heartbeat, settings, facts, page, says.received);
            let verdict = match answered {
                true => Verdict::Transmit(answer::acknowledgement(bytes, plain, settings)),
                false => Verdict::Drop,
            };
            return (verdict, counter);
        }
        Err(counter) => return dropped(counter),
    };
    let Some(keys) = &settings.slots[slot] else { return dropped(Counter::DropKeySlot) };
    let echo = heartbeat[70] & 3 == 1;
    let exchange = if echo { &keys.mine } else { &keys.theirs };
    if mac::tag(heartbeat, settings, echo, exchange, &keys.peer_standing) != word(heartbeat, 128) {
        return dropped(Counter::DropTag);
    }
    if echo {
        page.renew(settings.vote_slot, word(heartbeat, 104), word(heartbeat, 48), says.received);
        return dropped(take_echo(heartbeat, settings, facts, says.received));
    }
    let (counter, notice) = take_probe(heartbeat, settings, facts, says.received);
    if counter == Counter::Answered {
        page.renew(settings.vote_slot, word(heartbeat, 104), word(heartbeat, 56), says.received);
    }
    if counter == Counter::DropStaleLimit {
        return dropped(counter);
    }
    let fenced = page.fenced >= settings.standing[0];
    let flags = if fenced { says.flags | 0x20 } else { says.flags };
    let grants = !fenced && page.granting == settings.grant_mark;
    (Verdict::Transmit(answer::echo(bytes, plain, settings, Says { slot, notice, grants, flags, ..says })), counter)
}

/// Says whether what every frame begins with is right.
fn is_whole(heartbeat: &[u8], settings: &Settings) -> bool {
    heartbeat[6..8] == [0, 0] && word(heartbeat, 8) == settings.cluster
}

/// Everything that is tested before the tag. Returns the key slot that the frame names.
fn check_constants(heartbeat: &[u8], settings: &Settings, facts: &Facts) -> Result<usize, Counter> {
    if &heartbeat[0..4] != b"HBT1" {
        return Err(Counter::DropMagic);
    }
    if heartbeat[4] != 1 {
        return Err(Counter::DropVersion);
    }
    if heartbeat[6..8] != [0, 0] {
        return Err(Counter::DropReserved);
    }
    if heartbeat[5] > 1 {
        return Err(Counter::DropKeySlot);
    }
    if word(heartbeat, 8) != settings.cluster {
        return Err(Counter::DropCluster);
    }
    if heartbeat[71] != 0 || word(heartbeat, 136) != 0 || word(heartbeat, 24) == 0 {
        return Err(Counter::DropReserved);
    }
    let echo = match heartbeat[70] & 3 {
        0 => false,
        1 => true,
        _ => return Err(Counter::DropKind),
    };
    let (prober, responder) =
        if echo { (settings.own_id, settings.peer_id) } else { (settings.peer_id, settings.own_id) };
    let ids = [settings.network, prober, responder, 0].map(u16::to_le_bytes).concat();
    if heartbeat[16..24] != ids {
        return Err(Counter::DropIds);
    }
    let (sequence, author, prober) = (word(heartbeat, 40), word(heartbeat, 72), word(heartbeat, 24));
    if echo {
        if prober != settings.standing[0] {
            return Err(Counter::DropIncarnation);
        }
        if !facts.echoes_taken.may_take(sequence) {
            return Err(Counter::DropReplay);
        }
        if author < facts.peer_incarnation {
            return Err(Counter::DropIncarnation);
        }
    } else {
        if author != prober {
            return Err(Counter::DropIncarnation);
        }
        let replayed = match relation(heartbeat, settings, facts) {
            Relation::Old => false,
            Relation::Stranger => (prober, sequence) <= facts.handshake,
            Relation::Current => prober == facts.peer_incarnation && !facts.probes_taken.may_take(sequence),
        };
        if replayed || sequence == 0 {
            return Err(Counter::DropReplay);
        }
    }
    Ok(usize::from(heartbeat[5]))
}

/// How a probe's sender stands to what is known of it.
enum Relation {
    /// A newer incarnation of it is known.
    Old,
    /// It does not name this node's incarnation.
    Stranger,
    /// Neither.
    Current,
}

fn relation(heartbeat: &[u8], settings: &Settings, facts: &Facts) -> Relation {
    if word(heartbeat, 24) < facts.peer_incarnation {
        Relation::Old
    } else if word(heartbeat, 32) != settings.standing[0] {
        Relation::Stranger
    } else {
        Relation::Current
    }
}

/// A newer incarnation of the peer begins.
fn adopt(facts: &mut Facts, incarnation: u64) {
    facts.peer_incarnation = incarnation;
    facts.probes_taken.clear();
    facts.peer_stamp = 0;
}

fn believe(heartbeat: &[u8], facts: &mut Facts, now: u64) {
    facts.peer_dynamic = word(heartbeat, 64);
    facts.peer_dynamic_ns = now;
    facts.standing = std::array::from_fn(|index| word(heartbeat, 72 + 8 * index));
}

fn take_probe(heartbeat: &[u8], settings: &Settings, facts: &mut Facts, now: u64) -> (Counter, u64) {
    let (prober, sequence) = (word(heartbeat, 24), word(heartbeat, 40));
    match relation(heartbeat, settings, facts) {
        Relation::Stranger => {
            facts.handshake = (prober, sequence);
            return (Counter::AnsweredHandshake, 0);
        }
        Relation::Old => {
            facts.older_heard_ns = facts.older_heard_ns.max(now);
            if facts.stale_answered_ns != 0 && now.saturating_sub(facts.stale_answered_ns) < STALE_GAP_NS {
                return (Counter::DropStaleLimit, 0);
            }
            facts.stale_answered_ns = now;
            return (Counter::AnsweredStale, facts.peer_incarnation);
        }
        Relation::Current => {}
    }
    if prober > facts.peer_incarnation {
        adopt(facts, prober);
    }
    if sequence > facts.probes_taken.newest() {
        believe(heartbeat, facts, now);
    }
    facts.probes_taken.take(sequence);
    facts.probe_ns = facts.probe_ns.max(now);
    facts.heard_ns = facts.heard_ns.max(now);
    facts.answered_ns = facts.answered_ns.max(now);
    // A stamp from the future is not of this clock.
    if word(heartbeat, 56) <= now {
        facts.returned_ns = facts.returned_ns.max(word(heartbeat, 56));
    }
    facts.probes += 1;
    facts.answers += 1;
    (Counter::Answered, 0)
}

/// When the probe with this echo left: as the kernel saw it, else as the echo says.
#[must_use]
pub fn sent(heartbeat: &[u8], facts: &Facts) -> u64 {
    let sequence = word(heartbeat, 40);
    let (departed, when) = facts.departed[(sequence % 8) as usize];
    if departed == sequence { when } else { word(heartbeat, 48) }
}

fn take_echo(heartbeat: &[u8], settings: &Settings, facts: &mut Facts, now: u64) -> Counter {
    let (sequence, author) = (word(heartbeat, 40), word(heartbeat, 72));
    let adopted = author > facts.peer_incarnation;
    if adopted {
        adopt(facts, author);
    }
    let round_trip = now.saturating_sub(sent(heartbeat, facts));
    let timely = round_trip <= settings.answer_within_ns;
    // What a late echo says of its author was true long ago.
    if adopted || timely && sequence > facts.echoes_taken.newest() {
        believe(heartbeat, facts, now);
    }
    facts.echoes_taken.take(sequence);
    facts.round_trip_ns = round_trip;
    facts.histogram.count(round_trip);
    facts.peer_stamp = facts.peer_stamp.max(word(heartbeat, 56));
    if heartbeat[70] & 4 != 0 {
        facts.stale_newest = facts.stale_newest.max(word(heartbeat, 120));
    }
    if !timely {
        facts.late_echoes += 1;
        return Counter::EchoLate;
    }
    facts.echo_ns = facts.echo_ns.max(now);
    facts.heard_ns = facts.heard_ns.max(now);
    facts.echoes += 1;
    Counter::EchoTimely
}

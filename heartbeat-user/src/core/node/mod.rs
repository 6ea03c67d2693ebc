//! One peer: what is believed of it, from its paths and from what it says of itself. It counts no probes.
//!
//! ```text
//! Unknown --heard--> Up <--progress-- Stalled --hang limit--> Hung        any of these --leaving, stopped,
//!    |                |  --stall limit-->                                 fenced--> Left --answer without
//!    |                |                                                   those flags--> Up
//!    +-- silent on every path, and silent through a burst --> Down --heard--> Up
//! ```

mod agreement;
mod burst;
mod said;
mod silence;
#[cfg(test)]
mod tests;

use crate::core::event::{Cause, EventBody, Evidence, NodeName, PathEvidence, PeerSaid};
use crate::core::lateness::Lateness;
use crate::core::time::{MonoTime, millis};
use agreement::{Agreement, Told};
use burst::Burst;
use heartbeat_common::frame;
use serde::Serialize;
use std::time::Duration;

pub(crate) use said::Said;
pub(crate) use silence::Silence;

/// What is believed of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Not heard yet, and not silent for long enough to say more.
    Unknown,
    /// It is heard, and its controller makes progress.
    Up,
    /// It is heard, and its controller has made no progress for the stall limit.
    Stalled,
    /// It is heard, and its controller has made no progress for the hang limit.
    Hung,
    /// It said that it leaves, has stopped, is fenced or was given up.
    Left,
    /// It is silent on every path.
    Down,
}

/// Ages above which an answering peer is not Up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub stall: Duration,
    pub hang: Duration,
}

/// What is to be done about a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Nothing,
    /// Ask it once more, on every path at once.
    Burst,
    /// Nothing holds the verdict Down back any more.
    Accuse,
}

/// What is believed of one peer, and why.
#[derive(Clone, Debug)]
pub struct Node {
    name: NodeName,
    verdict: Verdict,
    since: MonoTime,
    said: Said,
    /// When it was last Up before it became Stalled or Hung.
    stalled_from: MonoTime,
    watched_from: MonoTime,
    /// Its leaving was told; true: and that it has stopped.
    left_told: Option<bool>,
    burst: Burst,
    agreement: Agreement,
    down: Option<Box<Evidence>>,
}

impl Node {
    pub(crate) fn new(name: NodeName, now: MonoTime) -> Self {
        Self {
            name,
            verdict: Verdict::Unknown,
            since: now,
            said: Said::default(),
            stalled_from: now,
            watched_from: now,
            left_told: None,
            burst: Burst::default(),
            agreement: Agreement::default(),
            down: None,
        }
    }

    pub(crate) fn rename(&mut self, name: NodeName) {
        self.name = name;
    }

    /// Returns its name and number.
    #[must_use]
    pub const fn name(&self) -> &NodeName {
        &self.name
    }

    /// Returns what is believed of it.
    #[must_use]
    pub const fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// Returns since when, by the stamp of the fact.
    #[must_use]
    pub const fn since(&self) -> MonoTime {
        self.since
    }

    /// Returns what the verdict Down rests on, while it is the verdict.
    #[must_use]
    pub fn evidence(&self) -> Option<&Evidence> {
        self.down.as_deref()
    }

    /// Returns when it was last heard on any path, by the kernel's stamp; 0: never.
    #[must_use]
    pub const fn heard(&self) -> MonoTime {
        MonoTime(self.said.heard)
    }

    /// Says whether it was heard since this controller watches it.
    #[must_use]
    pub const fn was_heard(&self) -> bool {
        self.said.heard != 0 && self.said.heard >= self.watched_from.0
    }

    /// Says whether it runs with the same settings as this node, by its last word; `None` before it said.
    #[must_use]
    pub const fn settings_agree(&self) -> Option<bool> {
        self.agreement.agrees()
    }

    /// Returns what it last said of itself.
    #[must_use]
    pub fn said(&self) -> PeerSaid {
        let flags = if self.said.at == 0 { 0 } else { self.said.flags() };
        PeerSaid {
            peer_said_ns: MonoTime(self.said.at),
            incarnation: self.said.incarnation,
            generation: self.said.generation,
            controller_age_ms: self.said.age().map(millis),
            leaving: flags & frame::FLAG_LEAVING != 0,
            stopped: flags & frame::FLAG_STOPPED != 0,
            fenced: flags & frame::FLAG_FENCED != 0,
            gave_up: self.said.gave_up(),
        }
    }

    /// Returns why the verdict is what it is, in a few words.
    #[must_use]
    pub fn reason(&self) -> String {
        match (self.verdict, &self.down) {
            (Verdict::Unknown, _) => "not heard yet".to_string(),
            (Verdict::Up, _) => "heard, and its controller makes progress".to_string(),
            (Verdict::Stalled, _) => "heard, but its controller makes no progress: stall limit passed".to_string(),
            (Verdict::Hung, _) => "heard, but its controller makes no progress: hang limit passed".to_string(),
            (Verdict::Left, _) if self.said().fenced => "it obeys a fence".to_string(),
            (Verdict::Left, _) if self.said().gave_up => {
                "its service manager gave up starting its controller".to_string()
            }
            (Verdict::Left, _) if self.said().stopped => "it stopped for good".to_string(),
            (Verdict::Left, _) => "it is leaving".to_string(),
            (Verdict::Down, Some(down)) if down.never_heard => format!("never heard: {}", down.cause),
            (Verdict::Down, Some(down)) => down.cause.to_string(),
            (Verdict::Down, None) => "silent on every path".to_string(),
        }
    }

    /// Takes in what the peer said. Pushes (time of the fact, event) for everything that changed.
    /// Returns whether it was heard anew.
    pub(crate) fn listen(&mut self, said: Said, limits: Limits, out: &mut Vec<(MonoTime, EventBody)>) -> bool {
        let before = self.said;
        // Paths come and go with the settings; what was once proved stays proved.
        let heard = if said.incarnation < before.incarnation { before.heard } else { said.heard.max(before.heard) };
        let older = (said.incarnation, said.at) < (before.incarnation, before.at);
        self.said = Said { heard, ..if older { before } else { said } };
        self.said.generation = if self.said.incarnation == before.incarnation {
            self.said.generation.max(before.generation)
        } else {
            self.said.generation
        };
        let heard = self.said.heard > before.heard;
        if heard {
            self.burst = Burst::default();
        }
        self.tell_restarts(before, out);
        if self.was_heard() && (self.said.at > before.at || heard) {
            self.place(before, heard, limits, out);
        }
        heard
    }

    /// Compares its settings with this node's, whose hash is `own`. Returns (time, event) where there is news.
    pub(crate) fn compare(&mut self, now: MonoTime, own: u64) -> Option<(MonoTime, EventBody)> {
        let (_, theirs) = self.said.settings;
        if self.verdict != Verdict::Up || theirs == 0 || own == 0 {
            self.agreement.pause();
            return None;
        }
        let node = self.name.clone();
        Some(match self.agreement.note(now, theirs == own)? {
            Told::Differ(from) => {
                let (own_settings, peer_settings) = (format!("{own:016x}"), format!("{theirs:016x}"));
                (from, EventBody::SettingsDiffer { node, own_settings, peer_settings })
            }
            Told::Agree(from) => (now, EventBody::SettingsAgree { node, differed_ms: millis(now.since(from)) }),
        })
    }

    /// Returns when a difference of settings that goes on is told.
    pub(crate) fn compare_timeout(&self) -> Option<MonoTime> {
        self.agreement.timeout()
    }

    fn tell_restarts(&mut self, before: Said, out: &mut Vec<(MonoTime, EventBody)>) {
        let now = self.said;
        let at = MonoTime(now.at.max(now.heard));
        let node = self.name.clone();
        if before.incarnation != 0 && now.incarnation > before.incarnation {
            let (old_incarnation, new_incarnation) = (before.incarnation, now.incarnation);
            self.since = at;
            out.push((at, EventBody::NodeRestarted { node, old_incarnation, new_incarnation }));
        } else if before.generation != 0 && now.generation > before.generation {
            let (old_generation, new_generation) = (before.generation, now.generation);
            let incarnation = now.incarnation;
            out.push((at, EventBody::ControllerRestarted { node, incarnation, old_generation, new_generation }));
        }
    }

    /// Finds the verdict on a peer that spoke; `heard` says that it did so within its time.
    fn place(&mut self, before: Said, heard: bool, limits: Limits, out: &mut Vec<(MonoTime, EventBody)>) {
        let PeerSaid { peer_said_ns, incarnation, leaving, stopped, fenced, gave_up, .. } = self.said();
        if self.said.left() {
            // Told again when "leaving" becomes "stopped": only that is proof that nothing runs any more.
            let told = self.left_told.is_some_and(|told| told || !stopped) && incarnation == before.incarnation;
            if !told {
                let node = self.name.clone();
                self.left_told = Some(stopped);
                out.push((peer_said_ns, EventBody::NodeLeft { node, incarnation, leaving, stopped, fenced, gave_up }));
            }
            self.set(Verdict::Left, peer_said_ns);
            return;
        }
        if matches!(self.verdict, Verdict::Unknown | Verdict::Down | Verdict::Left) {
            // A silent peer is up again by a word within its time alone; a late echo changes no verdict.
            if !heard && self.verdict != Verdict::Left {
                return;
            }
            let at = MonoTime(self.said.heard);
            let silent = self.verdict == Verdict::Down && before.heard != 0;
            let silent_from_ns = silent.then_some(MonoTime(before.heard));
            let silent_to_ns = silent.then_some(at);
            self.left_told = None;
            self.set(Verdict::Up, at);
            let node = self.name.clone();
            out.push((at, EventBody::NodeUp { node, incarnation, silent_from_ns, silent_to_ns }));
        }
        if self.said.at != 0 {
            self.judge_age(peer_said_ns, limits, out);
        }
    }

    fn judge_age(&mut self, at: MonoTime, limits: Limits, out: &mut Vec<(MonoTime, EventBody)>) {
        let age = self.said.age();
        let past = |limit: Duration| age.is_none_or(|age| age > limit);
        let verdict = if past(limits.hang) {
            Verdict::Hung
        } else if past(limits.stall) {
            Verdict::Stalled
        } else {
            Verdict::Up
        };
        if verdict == self.verdict {
            return;
        }
        if self.verdict == Verdict::Up {
            self.stalled_from = at;
        }
        let node = self.name.clone();
        let controller_age_ms = age.map(millis);
        let body = match verdict {
            Verdict::Hung => EventBody::NodeHung { node, controller_age_ms, limit_ms: millis(limits.hang) },
            Verdict::Stalled => EventBody::NodeStalled { node, controller_age_ms, limit_ms: millis(limits.stall) },
            _ => EventBody::NodeRecovered { node, stalled_ms: millis(at.since(self.stalled_from)) },
        };
        out.push((at, body));
        self.set(verdict, at);
    }

    fn set(&mut self, verdict: Verdict, at: MonoTime) {
        if verdict != self.verdict {
            (self.verdict, self.since) = (verdict, at);
            self.down = None;
        }
    }

    /// Takes note that the burst asked for was sent.
    pub(crate) fn note_burst(&mut self, sent: MonoTime) {
        self.burst.note_sent(sent);
    }

    /// Decides what is next. A peer that is Down or has left is asked nothing more.
    pub(crate) fn next(&mut self, now: MonoTime, silence: &Silence, late: &Lateness) -> Next {
        if self.settled() { Next::Nothing } else { self.burst.next(now, silence, late) }
    }

    /// Returns when the same silence would lead to something new.
    pub(crate) fn timeout(&self, now: MonoTime, silence: &Silence, late: &Lateness) -> Option<MonoTime> {
        if self.settled() { None } else { self.burst.timeout(now, silence, late) }
    }

    /// Says whether silence changes nothing about it any more.
    pub(crate) const fn settled(&self) -> bool {
        matches!(self.verdict, Verdict::Down | Verdict::Left)
    }

    /// Passes the verdict Down, and returns (time of death, event). `paths` are all of its paths.
    pub(crate) fn accuse(
        &mut self,
        now: MonoTime,
        paths: Vec<PathEvidence>,
        isolated: bool,
        late: &Lateness,
    ) -> (MonoTime, EventBody) {
        let silent_since_ns = self.heard();
        let cause = if isolated {
            Cause::Isolated
        } else if paths.iter().all(|path| path.misses == 0) {
            Cause::CannotSend
        } else {
            Cause::PeerSilent
        };
        let from = silent_since_ns.max(self.watched_from);
        let own_lateness = late.worst(from, now);
        let evidence = Box::new(Evidence {
            silent_since_ns,
            cause,
            never_heard: self.said.heard == 0,
            burst_ns: self.burst.sent().unwrap_or_default(),
            own_lateness_us: u64::try_from(own_lateness.as_micros()).unwrap_or(u64::MAX),
            said: self.said(),
            paths,
        });
        let at = if self.said.heard == 0 { self.watched_from } else { silent_since_ns };
        self.set(Verdict::Down, at);
        self.down = Some(evidence.clone());
        self.burst = Burst::default();
        (at, EventBody::NodeDown { node: self.name.clone(), evidence })
    }
}

//! What somebody asks: checked at once, carried in reports as a wish where it needs a view, answered when a view has
//! fulfilled it or its time is over. Whoever asked learns whether it was this request that was fulfilled.

use super::build::{first, forced, keeps_votes};
use super::closing::applies;
use super::document::{ChangeId, Document, Holder, LEASE_MS, LeaseTerms, Vote};
use super::ending::Course;
use super::engine::Agreement;
use super::event::AgreementEvent;
use super::message::{Setting, WISHES_MAX, Wish, Wished};
use super::peer::Peer;
use super::types::{Command, Ending, Outcome, Refusal, Request};
use crate::core::ids::NodeId;
use crate::core::time::MonoTime;
use heartbeat_common::view::Order;
use std::time::Duration;

/// How long a request may take to be decided; it is withdrawn then, and whoever asked is told so.
pub const TIME: Duration = Duration::from_secs(10);
/// So many of the longest delays a lease must have beside the time to stop.
const LEASE_DELAYS: u32 = 3;

/// A request that is not answered yet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Open {
    number: u64,
    until: MonoTime,
    waits: Waits,
}

/// What it waits for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Waits {
    /// A cluster of this instance is to be created, once no peer can know one.
    Peers([u64; 2]),
    /// A view that fulfils this wish; and what it changes, as it was when it was asked for.
    Wish(Wished, Option<Setting>),
    /// This view on the own disk.
    View(Order),
    /// The end of this node's part.
    End,
}

/// All that are not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Requests {
    open: Vec<Open>,
    /// Number of the newest wish.
    sequence: u64,
}

impl Requests {
    pub fn wishes(&self) -> impl Iterator<Item = &Wished> {
        self.open.iter().filter_map(|open| match &open.waits {
            Waits::Wish(wished, _) => Some(wished),
            Waits::Peers(_) | Waits::View(_) | Waits::End => None,
        })
    }
}

impl Agreement {
    /// Takes a request.
    pub(super) fn request(&mut self, number: u64, request: Request) {
        let asked = match request {
            Request::Init { instance } => self.no_cluster_known().map(|()| Some(Waits::Peers(instance))),
            Request::Leave => {
                self.leave(Ending::Left);
                Ok(Some(Waits::End))
            }
            Request::Force => self.force(),
            Request::Fence(node) if node == self.setup.own.node => Err(Refusal::UnknownNode),
            Request::Fence(node) => self.wish(Wish::Without(node)).and_then(|waits| match waits {
                None => Err(Refusal::UnknownNode),
                waits => Ok(waits),
            }),
            Request::ClearQuarantine(node) => self.wish(Wish::Release(node)),
            Request::Set(setting) => self.check_setting(setting).and_then(|()| self.wish(Wish::Change(setting))),
        };
        match asked {
            Ok(Some(waits)) => {
                let reported = matches!(waits, Waits::Wish(..));
                self.requests.open.push(Open { number, until: self.now.mono + TIME, waits });
                if reported {
                    self.report_now();
                }
            }
            Ok(None) => self.commands.push_back(Command::Answer(number, Outcome::Done)),
            Err(why) => self.commands.push_back(Command::Answer(number, Outcome::Refused(why))),
        }
    }

    /// Says whether nothing that this node has or has heard speaks of a cluster.
    fn no_cluster_known(&self) -> Result<(), Refusal> {
        if self.voter.is_some() {
            return Err(Refusal::HasView);
        }
        let knows = |peer: &Peer| {
            let reported = peer.report.as_ref().is_some_and(|report| report.view.order.is_view());
            reported || peer.says_quorate()
        };
        if self.peers.values().any(knows) { Err(Refusal::PeerHasView) } else { Ok(()) }
    }

    /// Creates the cluster that was asked for, or refuses it. A node that began a moment ago has heard of nobody yet:
    /// whoever is up may first say that there is one.
    fn create_when_heard(&mut self) {
        let asked = self.requests.open.iter().find_map(|open| match open.waits {
            Waits::Peers(instance) => Some((open.number, instance)),
            _ => None,
        });
        let Some((number, instance)) = asked else { return };
        let (now, timing) = (self.now.mono, &self.setup.timing);
        let (detection, limit) = (timing.detection, timing.control_limit);
        let heard = self.looked && self.peers.values().all(|peer| peer.said_all(now, detection, limit));
        let created = match self.no_cluster_known() {
            Ok(()) if !heard => return,
            Ok(()) => self.create(instance),
            Err(why) => Err(why),
        };
        match created {
            Ok(order) => {
                let open = self.requests.open.iter_mut().find(|open| open.number == number);
                open.into_iter().for_each(|open| open.waits = Waits::View(order));
            }
            Err(why) => self.answer_these(vec![(number, Outcome::Refused(why))]),
        }
    }

    fn create(&mut self, instance: [u64; 2]) -> Result<Order, Refusal> {
        let (lease_ms, stop_ms) = (self.setup.lease_ms, self.setup.stop_ms);
        let lease = LeaseTerms { lease_ms, stop_ms, longest_ms: lease_ms };
        let document = first(self.setup.own, self.setup.fresh_vote, instance, lease, self.setup.quorum);
        if document.check().is_err() {
            return Err(Refusal::Lease);
        }
        let order = document.order;
        self.learn(document);
        Ok(order)
    }

    /// Goes on alone, by an operator's word. Everybody else of the newest view is owed, and waited for.
    fn force(&mut self) -> Result<Option<Waits>, Refusal> {
        if self.course != Course::Runs {
            return Err(Refusal::Ending);
        }
        let held = self.held.as_ref().ok_or(Refusal::NoView)?;
        if !self.own_vote().is_vote() {
            return Err(Refusal::NoVote);
        }
        if self.page.acting {
            return Err(Refusal::NotWaiting);
        }
        if self.peers.values().any(Peer::says_quorate) {
            return Err(Refusal::QuorateHeard);
        }
        // Whoever has quorum may only not have been heard yet: a node that began a moment ago, or stood still, cannot say.
        let (now, detection) = (self.now.mono, self.setup.timing.detection);
        if !self.peers.is_empty() && (!self.looked || self.peers.values().any(|peer| peer.is_young(now, detection))) {
            return Err(Refusal::PeersUnheard);
        }
        let document = forced(&held.document, held.name, self.setup.own, self.own_vote());
        let document = document.filter(|document| document.check().is_ok()).ok_or(Refusal::Exhausted)?;
        let view = document.order;
        self.learn(document);
        self.tell(AgreementEvent::ForcedQuorum { view });
        Ok(Some(Waits::View(view)))
    }

    fn check_setting(&self, setting: Setting) -> Result<(), Refusal> {
        let view = &self.membership().ok_or(Refusal::NotMember)?.document;
        let mut lease = (view.lease.lease_ms, view.lease.stop_ms);
        match setting {
            Setting::LeaseMs(ms) => lease.0 = ms,
            Setting::StopMs(ms) => lease.1 = ms,
            Setting::Weight(node, weight) => check_weight(view, node, weight)?,
            Setting::LowerPriority(Some(node)) => {
                let known = self.setup.configured.iter().any(|one| one.node == node);
                known.then_some(()).ok_or(Refusal::UnknownNode)?;
            }
            Setting::LowerPriority(None) | Setting::Dynamic(_) => {}
        }
        let act = Duration::from_millis(u64::from(lease.0.saturating_sub(lease.1)));
        let long = act >= self.setup.timing.delay.saturating_mul(LEASE_DELAYS);
        if !LEASE_MS.contains(&lease.0) || !long {
            return Err(Refusal::Lease);
        }
        if keeps_votes(view, setting) { Ok(()) } else { Err(Refusal::NoVotes) }
    }

    fn wish(&mut self, wish: Wish) -> Result<Option<Waits>, Refusal> {
        let held = self.membership().ok_or(Refusal::NotMember)?;
        if !applies(&held.document, wish) {
            return Ok(None);
        }
        if self.requests.wishes().count() >= WISHES_MAX {
            return Err(Refusal::Busy);
        }
        let before = setting_in(&held.document, wish);
        self.requests.sequence += 1;
        // Numbers of an earlier controller of this incarnation are never used again.
        let sequence = u64::from(self.setup.generation) << 32 | self.requests.sequence;
        let id = ChangeId { by: self.setup.own, sequence };
        Ok(Some(Waits::Wish(Wished { id, wish }, before)))
    }

    /// Answers what the view now on disk fulfils, by itself or because nothing is left to wish.
    pub(super) fn requests_installed(&mut self) {
        let Some(held) = &self.held else { return };
        let (order, change) = (held.name.order, held.document.change);
        let outcome = |open: &Open| match &open.waits {
            Waits::Wish(wished, _) if change == Some(wished.id) => Some(Outcome::Decided(order)),
            Waits::Wish(wished, before) => overtaken(&held.document, wished.wish, *before),
            Waits::View(view) if *view == order => Some(Outcome::Decided(order)),
            Waits::View(view) if *view < order => Some(Outcome::NoQuorum),
            Waits::Peers(_) | Waits::View(_) | Waits::End => None,
        };
        let answers = self.requests.open.iter().filter_map(|open| Some((open.number, outcome(open)?))).collect();
        self.answer_these(answers);
    }

    /// Creates a cluster where it was asked for, and withdraws what took too long.
    pub(super) fn run_requests(&mut self) {
        self.create_when_heard();
        let over = |open: &&Open| open.until <= self.now.mono && open.waits != Waits::End;
        let outcome = |open: &Open| match open.waits {
            Waits::Peers(_) => Outcome::Refused(Refusal::PeersUnheard),
            Waits::Wish(..) | Waits::View(_) | Waits::End => Outcome::NoQuorum,
        };
        let answers: Vec<_> = self.requests.open.iter().filter(over).map(|open| (open.number, outcome(open))).collect();
        if !answers.is_empty() {
            self.answer_these(answers);
            self.report_now();
        }
    }

    pub(super) fn answer_all_at_end(&mut self) {
        let outcome = |open: &Open| match open.waits {
            Waits::End => Outcome::Done,
            Waits::Peers(_) | Waits::Wish(..) | Waits::View(_) => Outcome::NoQuorum,
        };
        let answers = self.requests.open.iter().map(|open| (open.number, outcome(open))).collect();
        self.answer_these(answers);
    }

    fn answer_these(&mut self, answers: Vec<(u64, Outcome)>) {
        for (number, outcome) in answers {
            self.requests.open.retain(|open| open.number != number);
            self.commands.push_back(Command::Answer(number, outcome));
        }
    }

    pub(super) fn requests_timeout(&self) -> Option<MonoTime> {
        let open = self.requests.open.iter();
        let (now, timing) = (self.now.mono, &self.setup.timing);
        let creates = open.clone().any(|open| matches!(open.waits, Waits::Peers(_)));
        let heard = self.peers.values().filter(|_| creates);
        let heard = heard.flat_map(|peer| peer.said_all_by(timing.detection, timing.control_limit));
        let ends = open.filter(|open| open.waits != Waits::End).map(|open| open.until);
        ends.chain(heard.filter(|end| *end > now)).min()
    }

    /// Returns what a change was about, where this node knows it.
    pub(super) fn setting_of(&self, change: ChangeId) -> Option<Setting> {
        let reports = self.peers.values().filter_map(|peer| peer.report.as_ref());
        let mut told = reports.flat_map(|report| &report.wishes).chain(self.requests.wishes());
        match told.find(|wished| wished.id == change)?.wish {
            Wish::Change(setting) => Some(setting),
            Wish::Without(_) | Wish::Release(_) => None,
        }
    }
}

/// Returns what became of a wish by a view that fulfils another one: it is so already, somebody else changed the same
/// thing `before` it, or it has become one that no view can fulfil. `None`: it is wished for still.
fn overtaken(view: &Document, wish: Wish, before: Option<Setting>) -> Option<Outcome> {
    let Wish::Change(setting) = wish else { return (!applies(view, wish)).then_some(Outcome::Done) };
    let holds = setting_in(view, wish);
    if holds == Some(setting) {
        Some(Outcome::Done)
    } else if holds != before {
        Some(Outcome::Refused(Refusal::Conflict))
    } else if applies(view, wish) && keeps_votes(view, setting) {
        None
    } else {
        Some(Outcome::Refused(match setting {
            Setting::LeaseMs(_) | Setting::StopMs(_) => Refusal::Lease,
            Setting::Weight(..) | Setting::LowerPriority(_) | Setting::Dynamic(_) => Refusal::NoVotes,
        }))
    }
}

/// Returns what a view holds of that which a wish changes.
fn setting_in(view: &Document, wish: Wish) -> Option<Setting> {
    let Wish::Change(setting) = wish else { return None };
    Some(match setting {
        Setting::LeaseMs(_) => Setting::LeaseMs(view.lease.lease_ms),
        Setting::StopMs(_) => Setting::StopMs(view.lease.stop_ms),
        Setting::Weight(node, _) => {
            let vote = view.votes.iter().find(|vote| vote.holder == Holder::Node(node));
            Setting::Weight(node, vote.map_or(0, |vote| vote.configured))
        }
        Setting::LowerPriority(_) => Setting::LowerPriority(view.quorum.lower_priority),
        Setting::Dynamic(_) => Setting::Dynamic(view.quorum.dynamic),
    })
}

fn check_weight(view: &Document, node: NodeId, weight: u8) -> Result<(), Refusal> {
    let (own, others): (Vec<&Vote>, Vec<&Vote>) = view.votes.iter().partition(|vote| vote.holder == Holder::Node(node));
    if own.is_empty() {
        Err(Refusal::UnknownNode)
    } else if weight > 1 || weight == 0 && others.iter().all(|vote| vote.configured == 0) {
        Err(Refusal::NoVotes)
    } else {
        Ok(())
    }
}

//! What goes into the agreement and what comes out of it: facts, messages and reports of work done on one side, work to
//! do and answers on the other. It holds values; what they lead to is decided in [`super::Agreement`].

use super::document::{Member, QuorumTerms};
use super::message::{Health, Message};
use super::stops::Clocks;
use super::voter::State;
use crate::core::ids::NodeId;
use crate::core::time::MonoTime;
use heartbeat_common::lease::{Refused, Token};
use heartbeat_common::view::{Name, Order, VoteId};
use std::time::Duration;

/// The clocks of one moment, read together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Times {
    /// CLOCK_MONOTONIC: what stages are timed by, and what [`super::Agreement::poll_timeout`] is in.
    pub mono: MonoTime,
    /// CLOCK_BOOTTIME, ns.
    pub boot_ns: u64,
    /// CLOCK_MONOTONIC_RAW, ns.
    pub raw_ns: u64,
}

impl Times {
    /// Returns the two clocks that a wait for somebody else's stop has to pass on.
    #[must_use]
    pub const fn clocks(self) -> Clocks {
        Clocks { boot_ns: self.boot_ns, raw_ns: self.raw_ns }
    }
}

/// A node of the configuration, this one among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Configured {
    /// Which.
    pub node: NodeId,
    /// What its vote weighs when it first gets one, 0 or 1; from then on the view says it.
    pub weight: u8,
}

/// How long things may take. All are above zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Timing {
    /// Between two reports while a regroup runs.
    pub tick: Duration,
    /// How long reports are waited for.
    pub opening: Duration,
    /// How long answers to one step of an attempt are waited for; then it is asked again, or the next in rank tries.
    pub stage: Duration,
    /// How long an attempt may last before those that do not answer are looked at anew.
    pub pruning: Duration,
    /// How long messages of a node whose controller runs may fail to pass.
    pub control_limit: Duration,
    /// After so long without progress a controller counts as hung. For so long the controllers of a node may begin one after
    /// another without a word.
    pub hang: Duration,
    /// The detection time: for so long a joiner and every member must have heard each other.
    pub detection: Duration,
    /// The longest delay of a path: how often a fence is sent, and how long a newer incarnation must be heard alone.
    pub delay: Duration,
    /// How long a node that leaves waits for the view without it.
    pub leave: Duration,
}

/// Who is kept from joining, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct QuarantineTerms {
    /// Ungraceful ends within an hour that lead to it; 0: never.
    pub threshold: u8,
    /// How long it lasts.
    pub duration: Duration,
}

/// What the agreement must be told at its start.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Setup {
    /// This node, under its incarnation.
    pub own: Member,
    /// Which controller of this incarnation this is; rises with each.
    pub generation: u32,
    /// All nodes of the configuration, this one too, by node; at most 64.
    pub configured: Vec<Configured>,
    /// Hash of the settings that all nodes must have the same.
    pub settings: u64,
    /// The lease of the first view, ms. Later views carry their own.
    pub lease_ms: u32,
    /// How much of it stopping takes, ms.
    pub stop_ms: u32,
    /// How votes make a majority in the first view.
    pub quorum: QuorumTerms,
    /// How long things may take.
    pub timing: Timing,
    /// Who is kept from joining.
    pub quarantine: QuarantineTerms,
    /// Ungraceful ends of this node within the last hour: it waits before it asks to join.
    pub own_ends: u8,
    /// It only joins, and forms no view.
    pub join_only: bool,
    /// A vote id never used before, random: for a node whose disk holds no state yet.
    pub fresh_vote: VoteId,
    /// Newest sequence of any state that this node's disk is known to have held; 0: none. The state of a fresh vote goes
    /// on from there: no copy of what the disk held before passes for newer than it.
    pub remembered: u64,
    /// A random number: it spreads attempts in time.
    pub seed: u64,
}

/// What the page said that a controller of the same incarnation left behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Adopted {
    /// The view of the active bank: its order, and the first word of its digest.
    pub bank: (u64, u64),
    /// The last view in force.
    pub in_force: Order,
    /// Mark of the last view whose grants were cleared.
    pub cleared: u64,
    /// The active bank lets this incarnation act as a member.
    pub member: bool,
    /// The machine slept since the bank was made. Nobody looks after the page while no controller runs, so who takes it up
    /// has to see that.
    pub slept: bool,
    /// This node acted when the controller before last proved progress. If it does not any more, nobody has told of that.
    pub acting: bool,
}

/// What the kernel's ticks and the detector say of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PeerFacts {
    /// Who.
    pub node: NodeId,
    /// The newest incarnation heard; 0: none.
    pub incarnation: u64,
    /// When this incarnation was first heard.
    pub incarnation_since: MonoTime,
    /// When an older incarnation was last heard in an authentic frame; zero: never.
    pub older_heard: MonoTime,
    /// What is believed of it.
    pub health: Health,
    /// When it was last heard; zero: never.
    pub heard: MonoTime,
    /// Since when each hears the other, under the present incarnations, without a gap; `None`: not both ways now.
    pub both_ways_since: Option<MonoTime>,
    /// How old its controller last said to be; `None`: not known.
    pub controller_age: Option<Duration>,
    /// Which controller of this incarnation it last said to be; 0: not known.
    pub generation: u32,
    /// This incarnation said that it has stopped for good, after all that it ran had.
    pub stopped: bool,
    /// The highest incarnation of it whose fence the kernel of that very incarnation has obeyed and acknowledged; 0:
    /// none.
    pub fence_acked: u64,
    /// The acknowledgement said that this kernel gates all that the node runs.
    pub gated: bool,
    /// It says that it is quorate.
    pub quorate: bool,
    /// The highest number of a probe of this incarnation that the own kernel accepted, on any path; 0: none.
    pub accepted: u64,
    /// The highest number of an own probe that it answered, on any path; 0: none.
    pub answered: u64,
    /// The highest number of a probe that this controller tried to send it, on any path; 0: none yet. Whether it left does
    /// not matter: nothing later than this can be known to anybody.
    pub tried: u64,
}

/// What the page says now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageView {
    /// Whether this node may act, and why not.
    pub acting: Result<Token, Refused>,
    /// Until when the lease holds by its newest dates, or held, CLOCK_BOOTTIME ns; 0: not known, [`u64::MAX`]: no end.
    pub lease_until_ns: u64,
    /// The highest incarnation of this node that was fenced; 0: none.
    pub fenced: u64,
    /// Who sent that fence, as far as it is known.
    pub fenced_by: Option<NodeId>,
    /// When the kernel acknowledged it to that node; zero: not known.
    pub fenced_at: MonoTime,
}

/// What somebody asks of the agreement.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Request {
    /// Create the cluster: the first view, of this node alone. The instance is random. Done once each peer has said that
    /// it knows no view, or had a detection time to; one that is heard and says nothing, the control limit.
    Init {
        /// The new cluster's identity.
        instance: [u64; 2],
    },
    /// Leave the view, and end.
    Leave,
    /// Decide a view without this node.
    Fence(NodeId),
    /// Let this node join again.
    ClearQuarantine(NodeId),
    /// Change what the view holds.
    Set(super::message::Setting),
    /// Go on with this node alone: the operator's word that all others are down. Refused while a quorate node is heard,
    /// and before the controller has run for a detection time: until then nobody need have been heard.
    Force,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// A view that fulfils it was decided, and is on this node's disk.
    Decided(Order),
    /// It needs no view: it is so already, or was done.
    Done,
    /// It breaks a rule; nothing was tried.
    Refused(Refusal),
    /// No view was decided in time, and the request was withdrawn. Only where an attempt that carried it was on its way
    /// already may it yet be fulfilled.
    NoQuorum,
}

/// Which rule a request breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// There is no view: the cluster was not created, or this node has not joined it.
    NoView,
    /// There is a view already.
    HasView,
    /// A peer with a view is heard.
    PeerHasView,
    /// Peers had no time yet to be heard: whether they know a view, where detecting one takes longer than a request may; or
    /// whether one is quorate, within a detection time of this controller's start.
    PeersUnheard,
    /// This node is no member.
    NotMember,
    /// The node is not one of the view.
    UnknownNode,
    /// The lease less the time to stop is shorter than three delays, or out of its bounds.
    Lease,
    /// Nobody would have a vote.
    NoVotes,
    /// A quorate node is heard.
    QuorateHeard,
    /// This node acts, or is not waiting for votes.
    NotWaiting,
    /// The disk state is lost or forfeited.
    NoVote,
    /// Too many requests are open.
    Busy,
    /// Force counts are used up.
    Exhausted,
    /// This node ends.
    Ending,
    /// Another change of the same thing was decided first: whoever asked had not seen it.
    Conflict,
}

/// What the owner reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// What ticks and detector say of all peers, after a look at them: once a round.
    Facts(Vec<PeerFacts>),
    /// A message, from the node at the other end of the connection.
    Message(Member, Box<Message>),
    /// A connection stands.
    Connected(Member),
    /// It does no more.
    Lost(NodeId),
    /// The state of this sequence is on disk.
    Written(u64),
    /// A state could not be written.
    WriteFailed,
    /// Every path's standing names this view and carries its grants.
    StandingDone(Order),
    /// What the page says: once a round.
    Page(PageView),
    /// All that this node runs has stopped.
    ServicesStopped,
    /// Somebody asks; the number comes back with the answer.
    Request(u64, Request),
    /// This round began so late that what was seen before says nothing about now.
    Late,
    /// This machine slept.
    Slept,
    /// A clock runs out of its bounds (true), or within them again.
    ClockOut(bool),
    /// Time passed: nothing else.
    Tick,
}

/// A vote's place in a bank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slot {
    /// Whose vote; the owner knows the slot of each node.
    pub node: NodeId,
    /// What it weighs.
    pub weight: u8,
    /// The grant that it gives this incarnation in this view.
    pub expected: u64,
}

/// A whole description of an installed view, for the page. Its floor is the moment in which it is made active.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Bank {
    /// The view.
    pub view: Name,
    /// The lease.
    pub lease: Duration,
    /// The lease less the time to stop.
    pub act: Duration,
    /// What GRANTING is while the own vote grants; 0: there is no own vote.
    pub own_mark: u64,
    /// Weight of the own vote.
    pub own_weight: u8,
    /// All weights together.
    pub total_weight: u32,
    /// This incarnation is a member.
    pub member: bool,
    /// The lease of the bank before goes on until its end: this incarnation was a member there too.
    pub carry: bool,
    /// The votes of others.
    pub slots: Vec<Slot>,
}

/// What this node's frames say from now on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Standing {
    /// The view installed.
    pub view: Name,
    /// What GRANTING is while the grants below hold; 0: there are none.
    pub mark: u64,
    /// The grant for each peer, by node; 0: none. Peers not named get none.
    pub grants: Vec<(NodeId, u64)>,
    /// This incarnation is a member.
    pub member: bool,
    /// This disk state has a vote.
    pub votes: bool,
    /// The view leaves what runs no time to stop: its kernel, where it gates all of it, ends it at once.
    pub stops_at_once: bool,
}

/// Why the controller ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ending {
    /// It was asked to leave.
    Left,
    /// A view left it out, or its kernel was fenced: it returns under a new incarnation.
    Out,
    /// The same by an operator's order: no fault of this node's.
    Removed,
    /// Its disk failed.
    Forfeited,
}

/// What the owner is asked to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// Send a message; one that cannot be sent may be lost.
    Send(NodeId, Box<Message>),
    /// Put this state on disk, and report [`Input::Written`] or [`Input::WriteFailed`].
    Write(Box<State>),
    /// Clear all grants, dating the own one first, and mark this view as cleared; before what follows is begun.
    ClearGrants(u64),
    /// Make this bank the active one.
    Install(Box<Bank>),
    /// Let grants of this mark go out. The owner reads the fenced incarnation once more, and does not where it is not
    /// below the own one.
    SetGranting(u64),
    /// This view is in force.
    InForce(Order),
    /// Reasons of this node's own not to act, all of them ([`heartbeat_common::lease::hold`]).
    Hold(u64),
    /// Say this in every frame, and report [`Input::StandingDone`].
    Standing(Box<Standing>),
    /// Ask every peer once more on every path.
    Burst,
    /// Send one fence on every path of this node.
    Fence(Member, Name),
    /// Stop all that this node runs, and report [`Input::ServicesStopped`].
    StopServices,
    /// Answer a request.
    Answer(u64, Outcome),
    /// End. Before `stopped` is said it is on disk that this incarnation left.
    Exit(Ending),
}

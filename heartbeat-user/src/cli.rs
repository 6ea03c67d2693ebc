//! The command lines of `heartbeatd` and `heartbeatctl`: options, help, and what their exit codes mean.
//! It parses words and decides nothing about a cluster; it opens no file, socket or process.

mod cluster;
mod exit;
mod lease;
mod service;
mod since;

pub use cluster::{ClusterArgs, FenceArgs, NodeArgs, QuorumArgs, SetArgs, SetVerb};
pub use exit::ExitCode;
pub use lease::{ControlLine, HoldArgs, LeaseArgs, LeaseVerb, WaitArgs, control_command, parse_control};
pub use service::{
    MarkLeft, ServiceFacts, Watchdog, WatchdogError, check_watchdog, gave_up, mark_left_verdict, parse_time_span,
};
pub use since::parse_since;

use crate::control::Request;
use clap::{Args, Parser, Subcommand};
use jiff::Timestamp;
use std::path::PathBuf;

/// Where `heartbeatd` looks for its configuration.
pub const DEFAULT_CONFIG: &str = "/etc/heartbeatd/heartbeatd.toml";
/// Where `heartbeatctl` looks for the daemon's socket.
pub const DEFAULT_SOCKET: &str = "/run/heartbeatd/control.sock";
/// The unit that `heartbeatd check` asks the service manager about.
pub const DEFAULT_UNIT: &str = "heartbeatd.service";

/// Failover-cluster membership whose heartbeats are answered and timestamped in the kernel.
#[derive(Parser, Debug)]
#[command(
    name = "heartbeatd",
    version,
    about,
    args_conflicts_with_subcommands = true,
    long_about = "heartbeatd keeps the membership of a failover cluster. Its heartbeats are answered and timestamped in \
        the kernel by XDP, so a node whose userspace is starved is not taken for dead; heartbeatd itself reads those \
        stamps and decides which peers are up, stalled, hung, gone or down.\n\n\
        Without a subcommand it runs in the foreground, as `heartbeatd run` does. Every node of a cluster takes the \
        same configuration file; a node finds itself in it by its own addresses.",
    after_long_help = concat!(
        "FIRST STEPS:\n",
        "  heartbeatd genkey /etc/heartbeatd/cluster.key    make the cluster's key; copy it to every node, mode 0600\n",
        "  chown heartbeatd: /etc/heartbeatd/cluster.key    let the service read it, on every node\n",
        "  heartbeatd check                                 find every fault before the first start\n",
        "  systemctl enable --now heartbeatd                run it\n",
        "  heartbeatctl status                              look at it\n",
        "  heartbeatctl init CLUSTER                        once, on one node: create it; the others join\n\n",
        "EXIT CODES:\n",
        "  0  all is well\n",
        "  1  it failed or refused (genkey on a file that is there); the message says why\n",
        "  2  the command line is wrong\n",
        "  6  the configuration or the key is wrong\n",
        "  7  another heartbeatd runs with the same directories\n",
        "  8  this host lacks something (bpffs, a capability, an address), or its disk failed\n",
        "  10 the cluster left this node out or fenced it: a restart joins anew\n",
        "  11 another machine answers for an address of this node's: nothing was said\n",
    )
)]
pub struct Heartbeatd {
    /// What to do; `run` if nothing is named.
    #[command(subcommand)]
    pub command: Option<DaemonCommand>,
    /// Options of `run`, for a call without a subcommand.
    #[command(flatten)]
    pub run: RunArgs,
}

impl Heartbeatd {
    /// Returns what was asked for, `run` with its options if no subcommand was named.
    #[must_use]
    pub fn into_command(self) -> DaemonCommand {
        self.command.unwrap_or(DaemonCommand::Run(self.run))
    }
}

/// What `heartbeatd` can be asked to do.
#[derive(Subcommand, Debug)]
pub enum DaemonCommand {
    /// Run in the foreground until told to stop (the default)
    #[command(long_about = "Run in the foreground until told to stop.\n\n\
        SIGHUP reads the configuration again; a faulty one is refused and changes nothing. SIGTERM leaves the cluster, \
        unless the stop is part of a restart (asked of the service manager, or announced by `heartbeatctl handover`): \
        then the kernel program stays and goes on answering until the next heartbeatd takes it over.")]
    Run(RunArgs),
    /// Find every fault in configuration, key, files, interfaces and host, and start nothing
    #[command(long_about = "Find every fault in configuration, key, file modes, capabilities, bpffs, interfaces and \
        service settings, and start nothing. Each fault is one line that names the file, line, key and rule. \
        The service runs this before each start and before each reload.\n\n\
        It also says what the settings add up to: how long until a dead node is called down, is out of the view and \
        is taken over from, and how long a node that is cut off goes on acting. A warning is what is allowed and may \
        not do what was meant: two nodes with votes, more nodes than a view holds, a lease shorter than the detection \
        time.\n\n\
        The service's watchdog must be longer than hang_limit_s: a shorter one would kill the very daemon whose node \
        the kernel has just carried. It is read from --watchdog, else from WATCHDOG_USEC, else asked of the service \
        manager.\n\n\
        Root checks the service's own configuration as the user that the service runs as.")]
    Check(CheckArgs),
    /// Make a new cluster key in FILE (mode 0600); an existing file is never overwritten
    Genkey(GenkeyArgs),
    /// Tell the peers that this node has left, for the service manager to call after it gave up
    #[command(
        long_about = "Tell the peers that this node has left, since its service manager gave up starting heartbeatd, \
        through the kernel program that is still pinned. Its peers count that as a bad end, of which three within an hour \
        lead to quarantine; heartbeatctl leave and heartbeatctl detach are none.\n\n\
        The service manager calls it after each end of heartbeatd (ExecStopPost=) and once it has given up restarting \
        (OnFailure=heartbeatd-left.service). Called by the manager it first asks whether a restart is still to come, \
        and then does nothing. Called by hand it marks the node at once. It never touches a node whose heartbeatd runs."
    )]
    MarkLeft(ConfigArgs),
    /// Hold on to the lease: ready while this node may act, over when it may not (for heartbeat-quorate.service)
    #[command(long_about = "Hold on to the lease of this node: wait until it may act, say so to the service manager \
        (READY=1), and end when it may no more.\n\n\
        heartbeat-quorate.service runs it, and heartbeat-quorate.target is bound to that: units bound to the target are \
        started while this node may act and stopped when the lease ends, also where heartbeatd itself is stopped. It \
        reads the page that the kernel renews, needs no right and asks nothing of heartbeatd.")]
    Hold(HoldArgs),
}

/// Options of `heartbeatd run`.
#[derive(Args, Debug, Clone)]
pub struct RunArgs {
    /// Where the configuration is.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// How much to log: off, error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", default_value = "info", env = "HEARTBEATD_LOG")]
    pub log_level: log::LevelFilter,
    /// Load this kernel object instead of the built-in one (for development)
    #[arg(long, value_name = "FILE")]
    pub bpf_object: Option<PathBuf>,
    /// Accepted for service files written for other daemons; heartbeatd never forks
    #[arg(long, hide = true)]
    pub foreground: bool,
    /// How to start where the cluster has no majority.
    #[command(flatten)]
    pub quorum: QuorumArgs,
}

/// Options of `heartbeatd check`.
#[derive(Args, Debug, Clone)]
pub struct CheckArgs {
    /// Where the configuration is.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Watchdog to judge, such as 90s or "1min 30s", instead of the one of the environment or the unit
    #[arg(long, value_name = "TIME", value_parser = parse_time_span)]
    pub watchdog: Option<Watchdog>,
    /// Unit whose WatchdogSec= is asked of the service manager
    #[arg(long, value_name = "UNIT", default_value = DEFAULT_UNIT)]
    pub unit: String,
    /// Seconds to wait for this host to get one of its addresses, which at boot may come late
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub wait_address: u64,
}

/// Where the configuration is.
#[derive(Args, Debug, Clone)]
pub struct ConfigArgs {
    /// Configuration file
    #[arg(short, long, value_name = "FILE", default_value = DEFAULT_CONFIG, env = "HEARTBEATD_CONFIG")]
    pub config: PathBuf,
}

/// Options of `heartbeatd genkey`.
#[derive(Args, Debug, Clone)]
pub struct GenkeyArgs {
    /// File to make; its directory must exist
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

/// Look at a running heartbeatd and steer it.
#[derive(Parser, Debug)]
#[command(
    name = "heartbeatctl",
    version,
    about,
    long_about = "heartbeatctl asks the heartbeatd of this host what it knows, and tells it the few things that a \
        person decides. Tables are for people; --json gives the same answer to programs, with \"schema\": 1 in each \
        object and units in the names of its fields.\n\n\
        Reading (status, nodes, paths, events, counters, view, quorum) is for root, for heartbeatd's own user and for \
        members of its group; everything that changes something is for root and heartbeatd's own user. Only detach \
        works without a heartbeatd that runs.",
    after_long_help = concat!(
        "EXAMPLES:\n",
        "  heartbeatctl status                      this node at a glance\n",
        "  heartbeatctl nodes                       one line a peer: state, since when, why\n",
        "  heartbeatctl paths --json | jq '.paths[] | select(.state != \"up\")'\n",
        "  heartbeatctl events --since 2h           what happened in the last two hours\n",
        "  heartbeatctl events --since now --follow what happens from now on\n",
        "  heartbeatctl handover                    the next stop is a restart: the kernel goes on answering\n",
        "  heartbeatctl detach                      take off what answers, also what a dead heartbeatd left\n",
        "  heartbeatctl init CLUSTER                create the cluster, once, on one node; the others join it\n",
        "  heartbeatctl view                        who is a member, is it in force, whom does it wait for\n",
        "  heartbeatctl quorum                      votes, lease, and how long a takeover takes\n",
        "  heartbeatctl set node_weight c 0         take the vote of node c\n",
        "  heartbeatctl fence c CLUSTER             remove node c, and stop it by its kernel\n\n",
        "EXIT CODES:\n",
        "  0  all is well\n",
        "  1  it failed; the message says why\n",
        "  2  the command line is wrong\n",
        "  3  heartbeatd is not running\n",
        "  4  degraded: a node is not up or no path to it is (nodes, status), a path has failed or a fast path has\n",
        "     fallen back, or this node may not act (status)\n",
        "  5  permission denied\n",
        "  9  not quorate: this node may not act (view, quorum), no majority decided the change, or there is no view\n",
    )
)]
pub struct Heartbeatctl {
    /// Socket of the heartbeatd to ask [default: /run/heartbeatd/control.sock; detach: that of the configuration]
    #[arg(long, global = true, value_name = "PATH", env = "HEARTBEAT_SOCKET")]
    pub socket: Option<PathBuf>,
    /// Print the answer as one JSON object (events --follow: one object a line)
    #[arg(long, global = true)]
    pub json: bool,
    /// Leave out the heads of tables
    #[arg(long, global = true)]
    pub no_headers: bool,
    /// What to ask.
    #[command(subcommand)]
    pub verb: ControlVerb,
}

/// What `heartbeatctl` can ask.
#[derive(Subcommand, Debug)]
pub enum ControlVerb {
    /// Show this node at a glance: identity, peers, paths, detection times, fast path, lateness, warnings
    Status,
    /// Show each peer: state, since when, why, incarnation, controller age
    #[command(long_about = "Show each peer. States:\n\n\
        up        its kernel answers and its controller makes progress\n\
        stalled   its kernel answers, its controller makes no progress; it stays a member\n\
        hung      the same, past the hang limit\n\
        left      it said that it leaves or has stopped\n\
        down      silent on every path for the detection time\n\
        unknown   not heard yet")]
    Nodes,
    /// Show each path: state, misses, round trips, loss, mode
    #[command(long_about = "Show each path, one local interface to one peer address. States: up, lost, unreachable, \
        failed, and unknown before the first answer.\n\n\
        Round trips are read from a histogram with one bucket for each power of two of nanoseconds: a percentile is \
        interpolated inside its bucket, and the largest is the upper edge of the highest bucket hit.")]
    Paths,
    /// Show what happened, or what happens
    #[command(long_about = "Show the events in the daemon's log, oldest first.\n\n\
        --since takes a duration counted back from now (90s, 15m, 2h, 1d), a moment (2026-01-31T12:00:00Z), or `now`.")]
    Events(EventsArgs),
    /// Show how frames on heartbeat's port ended, one counter a line
    Counters,
    /// Announce that the next stop is part of a restart: the kernel program stays and goes on answering
    Handover,
    /// Detach the kernel programs and remove their pins: the kernel answers no more until the next start
    #[command(long_about = "Detach the kernel programs and remove their pins.\n\n\
        A heartbeatd that runs is asked to: userspace answers in the kernel's place until the next start. Which one is \
        meant the configuration says, by its run_dir; where --socket is given too, both must be of the same one.\n\n\
        Where none runs, heartbeatctl does it itself: what a controller that died has left would answer for it until \
        the next start. The peers are told first that this node has left, and nothing answers from then on. This is \
        for root and for the user whose pins they are; the configuration says where they are, so that one is needed \
        for a heartbeatd that is not the service. A directory that a heartbeatd uses is left alone. Nothing to detach \
        is no error.")]
    Detach(DetachArgs),
    /// Show the view: its members, whether it is in force, and whom this node waits for
    #[command(
        long_about = "Show what the members have agreed on, under a number that only grows: FORCE.NUMBER, where \
        FORCE counts forced starts.\n\n\
        A view is agreed when it was decided, and in force at a node when everybody it left out is known to have \
        stopped. Until then those that go on act under the last view in force, and nobody takes over.\n\n\
        What this node is: no_view, observer (it asks to join), installed (a member, not in force yet), member, \
        leaving, out. Stages on the way to the next view: activate, waiting, pruning, cleanup, stabilized.\n\n\
        Exit code 9: it may not act."
    )]
    View,
    /// Show the votes, the lease that they give, and how long a takeover takes
    #[command(
        long_about = "Show the votes upon the next view and the age of each one's newest grant to this node, by \
        this node's own stamp. While grants that are younger than the lease make a majority, this node may act; the \
        lease is its death timer. Exit code 9: it may not.\n\n\
        With dynamic votes the last node standing may be the only one whose disk counts: it is named then."
    )]
    Quorum,
    /// Create the cluster, once, with this node as its only member; the other nodes join it
    #[command(long_about = "Create the cluster, with this node as its only member. It is done once, on one node; all \
        others join by themselves.\n\n\
        Refused where this node has the state of a cluster already, and where a peer with a view is heard. An empty \
        disk never stands for a view: a node that lost its disk joins, and nothing is to be created again.")]
    Init(ClusterArgs),
    /// Leave the cluster and end: the others need not wait for this node
    #[command(
        long_about = "Leave the cluster: what this node runs is stopped, its vote is handed over, and heartbeatd \
        ends. The others take over at once, for they know that it has stopped. `systemctl stop heartbeatd` does the \
        same."
    )]
    Leave,
    /// Remove a node, and have its kernel stop it
    #[command(
        long_about = "Remove a node from the view, and stop it: once the view without it is decided, its members \
        send its kernel a fence, which ends its permission to act though nothing else of it runs. It comes back under \
        a new incarnation when its heartbeatd is started again.\n\n\
        For a node that is sick and does not know it. A node that is dead is removed without it."
    )]
    Fence(FenceArgs),
    /// Let a node join again before its quarantine is over
    ClearQuarantine(NodeArgs),
    /// Change a setting of the view, on every node at once
    #[command(
        long_about = "Change a setting of the view. The members decide it as they decide everything: it holds on \
        all of them under one view's number, or nowhere. Without a majority nothing changes, and exit code 9 says so."
    )]
    Set(SetArgs),
    /// Go on without a majority: your word that the other nodes are down
    #[command(
        long_about = "Go on without a majority, on a node that waits for one: your word that all other nodes are \
        down, or will not be part of the cluster again before they have stopped.\n\n\
        Refused while a node with quorum is heard, and on a node without the cluster's state. This node acts alone, \
        after the longest lease that another one could still hold; the others join it under new incarnations. Where \
        the others were not down, both sides act until they hear each other, and only what checks tokens is safe. Who \
        asked for it stands in the event log."
    )]
    ForceQuorum(ClusterArgs),
}

/// Options of `heartbeatctl detach`.
#[derive(Args, Debug, Clone)]
pub struct DetachArgs {
    /// Configuration file of the heartbeatd that is meant [default: /etc/heartbeatd/heartbeatd.toml]
    #[arg(short, long, value_name = "FILE", env = "HEARTBEATD_CONFIG")]
    pub config: Option<PathBuf>,
}

/// Options of `heartbeatctl events`.
#[derive(Args, Debug, Clone)]
pub struct EventsArgs {
    /// Only events from then on: a duration back from now (90s, 15m, 2h, 1d), an RFC 3339 time, or `now`
    #[arg(long, value_name = "WHEN", value_parser = parse_since)]
    pub since: Option<Timestamp>,
    /// Go on with what happens, until interrupted
    #[arg(short, long)]
    pub follow: bool,
}

impl ControlVerb {
    /// Returns the request that asks this of the daemon.
    #[must_use]
    pub fn request(&self) -> Request {
        match self {
            Self::Status => Request::Status {},
            Self::Nodes => Request::Nodes {},
            Self::Paths => Request::Paths {},
            Self::Counters => Request::Counters {},
            Self::Handover => Request::Handover {},
            Self::Detach(_) => Request::Detach {},
            Self::View => Request::View {},
            Self::Quorum => Request::Quorum {},
            Self::Init(args) => Request::Init { cluster: args.cluster.clone() },
            Self::Leave => Request::Leave {},
            Self::Fence(args) => args.request(),
            Self::ClearQuarantine(args) => Request::ClearQuarantine { node: args.node.clone() },
            Self::Set(args) => Request::Set { setting: args.setting.setting() },
            Self::ForceQuorum(args) => Request::ForceQuorum { cluster: args.cluster.clone() },
            Self::Events(args) => {
                Request::Events { since_unix_ms: args.since.map(Timestamp::as_millisecond), follow: args.follow }
            }
        }
    }
}

#[cfg(test)]
mod tests;

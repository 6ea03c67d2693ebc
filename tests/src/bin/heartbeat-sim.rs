//! The simulator's command line: plays worlds by seed, prints what broke and how to play it again, and what all of them
//! went through. What is played and checked is in the library.

use clap::Parser;
use heartbeat_tests::sim::plan::{NODES_MAX, Plan};
use heartbeat_tests::sim::record::{self, Part};
use heartbeat_tests::sim::run::{self, Failure, Outcome, Progress};
use heartbeat_tests::sim::stats::{Count, Stats, TIMES};
use heartbeat_tests::sim::{faults, phases, world};
use std::path::PathBuf;
use std::process::ExitCode;

/// Seeds from which on everything that is counted must have happened.
const MANY: u64 = 10_000;

/// Plays whole clusters in virtual time, each drawn from a seed, and checks the rules of membership at every event.
///
/// A world has two to five nodes. What decides in it is the code that ships; played are clocks, wires, disks, threads and
/// machines. First come faults: loss, delay, doubled and damaged frames, cuts, starved and killed daemons, machines that
/// sleep, fall or are paused, disks that fail, hang, are lost or put back, clocks that run wrong, forged and replayed
/// frames, operators who ask for changes. Then, in some, a majority heals, and has to be a view that acts within a bounded
/// time, while all others stay cut off or dead. Then everything heals, and within such a time every node has to be a
/// member that acts. Then one fault comes alone, and what it leads to has a bound too. One seed is one run, to the last
/// event.
///
/// Examples:
///   heartbeat-sim --seeds 10000              ten thousand worlds, and what they went through
///   heartbeat-sim --seed 77 --trace          one world, with all that happens in it
///   heartbeat-sim --seed 77 --without loss,sleep   the same with two kinds of faults left out
///   heartbeat-sim --seeds 200 --nodes 5      worlds of five nodes, for their speed
///   heartbeat-sim --seed 50000 --seeds 50000 --record FILE   one part of a long run, and a line for it
///
/// It ends with 1 if a rule was broken; each failing seed is printed with the rule, the time, and the command that plays
/// it again with no more faults than it needs.
#[derive(Parser, Debug)]
#[command(name = "heartbeat-sim", version, verbatim_doc_comment)]
struct Options {
    /// Worlds to play (100 if neither this nor --seed is given)
    #[arg(long, value_name = "N")]
    seeds: Option<u64>,
    /// The first seed; without --seeds: the only one
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Print everything that happens; best with one seed
    #[arg(long)]
    trace: bool,
    /// Kinds of faults to leave out, by name (`--list` shows them)
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    without: Vec<String>,
    /// List the kinds of faults, and end
    #[arg(long)]
    list: bool,
    /// Nodes of every world, instead of what the seed draws
    #[arg(long, value_name = "NODES", value_parser = clap::value_parser!(u64).range(1..=NODES_MAX as u64))]
    nodes: Option<u64>,
    /// Threads that play
    #[arg(long, value_name = "N", default_value_t = 2)]
    threads: usize,
    /// Stop after so many worlds that broke a rule
    #[arg(long, value_name = "N", default_value_t = 8)]
    failures: usize,
    /// Add a line to this file: which program played which seeds, and what came of them
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Fail if fewer seconds than this are simulated in a second
    #[arg(long, value_name = "RATE", default_value_t = 0)]
    at_least: u64,
}

fn main() -> ExitCode {
    let options = Options::parse();
    if options.list {
        faults::NAMES.iter().for_each(|name| println!("{name}"));
        return ExitCode::SUCCESS;
    }
    let mut without = 0;
    for name in &options.without {
        match faults::NAMES.iter().position(|known| known == name) {
            Some(class) => without |= 1 << class,
            None => {
                eprintln!("heartbeat-sim: no kind of faults is named {name}; there are {}", faults::NAMES.join(", "));
                return ExitCode::FAILURE;
            }
        }
    }
    let nodes = options.nodes.and_then(|nodes| usize::try_from(nodes).ok());
    let draw = move |seed| {
        let mut plan = Plan::draw_of(seed, nodes);
        plan.faults.classes &= !without;
        plan
    };
    match (options.seeds, options.seed) {
        (None, Some(seed)) => one(&options, &draw(seed)),
        (seeds, first) => many(&options, first.unwrap_or(0), seeds.unwrap_or(100), &draw),
    }
}

fn one(options: &Options, plan: &Plan) -> ExitCode {
    println!("{plan:?}");
    println!("faults: {}", named(plan));
    let world = phases::play(plan, options.trace);
    let at = (world.now - world::START) as f64 / 1e9;
    match world.violation {
        None => {
            println!(
                "seed {} holds: {at:.1} s, {} events, newest view {:?}",
                plan.seed, world.stats.events, world.ghost.newest
            );
            ExitCode::SUCCESS
        }
        Some(violation) => {
            println!("seed {} breaks {} after {at:.6} s: {}", plan.seed, violation.property, violation.what);
            ExitCode::FAILURE
        }
    }
}

fn many(options: &Options, first: u64, count: u64, draw: &(dyn Fn(u64) -> Plan + Sync)) -> ExitCode {
    println!("seeds {first} to {} on {} threads", first + count.saturating_sub(1), options.threads.max(1));
    let outcome = run::many(first, count, options.threads.max(1), options.failures.max(1), draw, &print_progress);
    print_stats(&outcome.stats);
    for failure in &outcome.failures {
        print_failure(options, &run::shrink(failure));
    }
    let slow = print_speed(options, &outcome);
    let recorded = recorded(options, first, count, &outcome);
    let whole = count >= MANY && outcome.failures.is_empty() && options.without.is_empty();
    let missing = if whole { never(&outcome.stats) } else { Vec::new() };
    for name in &missing {
        println!("never happened in {count} worlds: {name}");
    }
    if outcome.failures.is_empty() && missing.is_empty() && !slow && recorded {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Adds what was played to the record, if one is kept. Says whether that is done.
fn recorded(options: &Options, first: u64, count: u64, outcome: &Outcome) -> bool {
    let Some(path) = &options.record else { return true };
    let added = record::program().and_then(|program| {
        let part = Part::of(program, first, count, outcome);
        println!("recorded: {}", part.line());
        record::append(path, &part)
    });
    added.inspect_err(|error| eprintln!("heartbeat-sim: {}: {error}", path.display())).is_ok()
}

fn print_progress(progress: &Progress) {
    let Progress { played, of, simulated_ns, took, failures } = progress;
    let rate = *simulated_ns as f64 / 1e9 / took.as_secs_f64();
    println!(
        "{played} of {of} worlds after {:.0} s, {rate:.0} times as fast, {failures} broke a rule",
        took.as_secs_f64()
    );
}

fn print_stats(stats: &Stats) {
    let heading = |title: &str| println!("\n{title}:");
    let line = |(name, count): (String, u64)| println!("  {name:<38} {count:>14}");
    heading("faults that happened");
    stats.faults_by_name().for_each(line);
    heading("what came of it");
    stats.counts_by_name().for_each(line);
    heading("times taken, mean and longest, ms");
    for (name, taken) in TIMES.iter().zip(&stats.times) {
        let (mean, most) = (taken.sum_ns / taken.count.max(1), taken.most_ns);
        println!("  {name:<38} {:>14} {:>7}", mean / 1_000_000, most / 1_000_000);
    }
    heading("rules, and how often each had something to judge");
    for (name, says, judged) in stats.rules() {
        match judged {
            Some(count) => println!("  {name:<9}{count:>12}  {says}"),
            None => println!("  {name:<9}{:>12}  {says}: there is no witness yet", "not judged"),
        }
    }
    heading("frames, by their end");
    stats.frames_by_name().filter(|(_, count)| *count > 0).for_each(line);
}

/// What ought to happen in many worlds and did not. Frames that cannot be on this network are left out.
fn never(stats: &Stats) -> Vec<String> {
    stats
        .faults_by_name()
        .chain(stats.counts_by_name())
        .chain(stats.rules().filter_map(|(name, _, judged)| Some((format!("rule {name}"), judged?))))
        .filter(|(_, count)| *count == 0)
        .map(|(name, _)| name)
        .collect()
}

fn print_failure(options: &Options, failure: &Failure) {
    let Failure { seed, violation, at, plan } = failure;
    println!("\nseed {seed} breaks {} after {at:?}: {}", violation.property, violation.what);
    println!("  with {} nodes, {} networks, and of faults: {}", plan.nodes, plan.networks, named(plan));
    let drawn = Plan::draw(*seed).faults;
    let off: Vec<_> = (0..faults::CLASSES)
        .filter(|class| drawn.has(*class) && !plan.faults.has(*class))
        .map(|class| faults::NAMES[class])
        .collect();
    let without = if off.is_empty() { String::new() } else { format!(" --without {}", off.join(",")) };
    let nodes = options.nodes.map_or_else(String::new, |nodes| format!(" --nodes {nodes}"));
    let more = if off.is_empty() && options.nodes.is_none() { "" } else { " --" };
    println!("  again: cargo xtask sim --seed {seed} --trace{more}{nodes}{without}");
}

fn named(plan: &Plan) -> String {
    let on = (0..faults::CLASSES).filter(|class| plan.faults.has(*class)).map(|class| faults::NAMES[class]);
    let drift = plan.faults.drift.then_some("drift");
    on.chain(drift).collect::<Vec<_>>().join(", ")
}

/// Prints how fast it went. Says whether that is too slow.
fn print_speed(options: &Options, outcome: &Outcome) -> bool {
    let simulated = outcome.stats.simulated_ns as f64 / 1e9;
    let took = outcome.took.as_secs_f64();
    let (rate, each) = (simulated / took, simulated / took / options.threads.max(1) as f64);
    let views = outcome.stats.of(Count::Decided);
    println!("\n{} worlds, {views} views decided, {} events", outcome.stats.of(Count::Worlds), outcome.stats.events);
    println!("{simulated:.0} s simulated in {took:.1} s: {rate:.0} times as fast, {each:.0} times on each thread");
    println!("{} worlds broke a rule", outcome.failures.len());
    let slow = options.at_least > 0 && rate < options.at_least as f64;
    if slow {
        println!("slower than {} times real time", options.at_least);
    }
    slow
}

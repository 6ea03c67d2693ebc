//! How fast the simulator goes for five nodes, on one thread and on all processors: the program that plays every change's
//! worlds, with its assertions. And what those worlds came to. It plays nothing itself.

use super::series::{BROKEN, REFUSED, TOGETHER};
use super::{Bar, Context, Figure, Found};
use crate::sim::record::Part;
use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Nodes of every world.
const NODES: u64 = 5;
/// So many seconds are simulated in a second, at least.
const RATIO: f64 = 1000.0;
const PROGRAM: &str = "heartbeat-sim";

/// What some worlds came to.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Played {
    threads: usize,
    worlds: u64,
    broken: u64,
    simulated_s: u64,
    took_s: f64,
    together: u64,
    overlaps: u64,
    refused: u64,
}

impl Played {
    /// Reads a record of one part; it must be of a program with its assertions.
    fn read(threads: usize, record: &str) -> Result<Self> {
        let part = record.lines().last().and_then(Part::read).with_context(|| format!("a record: {record:?}"))?;
        ensure!(part.asserts, "{PROGRAM} was built without its assertions: this is another program's speed");
        let Part { worlds, broken, simulated_s, took, together, overlaps, refused, .. } = part;
        let broken = broken.len() as u64;
        Ok(Self { threads, worlds, broken, simulated_s, took_s: took.as_secs_f64(), together, overlaps, refused })
    }

    fn ratio(&self) -> f64 {
        self.simulated_s as f64 / self.took_s
    }
}

/// The program as every change's worlds are played by it: `HEARTBEAT_SIM`, or what the build left beside this one.
fn program() -> Result<PathBuf> {
    let built = || -> Result<PathBuf> {
        let own = std::env::current_exe()?;
        Ok(own.ancestors().nth(2).context("a directory of builds")?.join("sim").join(PROGRAM))
    };
    let path = std::env::var_os("HEARTBEAT_SIM").map_or_else(built, |path| Ok(path.into()))?;
    ensure!(path.is_file(), "there is no {}; `cargo xtask bench` builds it", path.display());
    Ok(path)
}

fn play(threads: usize, worlds: u64) -> Result<Played> {
    let directory = tempfile::tempdir().context("a place for a record")?;
    let record = directory.path().join("record");
    let mut command = Command::new(program()?);
    command.args(["--seed", "0", "--seeds", &worlds.to_string(), "--nodes", &NODES.to_string()]);
    command.args(["--threads", &threads.to_string()]).arg("--record").arg(&record);
    let ended = command.stdin(Stdio::null()).stdout(Stdio::null()).status().context("running the simulator")?;
    // One that met a broken rule ends so, and has written what it met.
    let text = std::fs::read_to_string(&record).with_context(|| format!("{PROGRAM} ended with {ended}"))?;
    Played::read(threads, &text)
}

/// `simulator`: five nodes, on one thread and on all processors.
pub fn run(context: &Context) -> Result<Found> {
    let worlds = context.choose(100, 3000);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let one = context.step("simulator-one", || play(1, worlds))?;
    let all = context.step(&format!("simulator-{threads}"), || play(threads, worlds))?;
    let mut raw = String::from("threads,worlds,broken,simulated_s,took_s,together,overlaps,refused\n");
    for Played { threads, worlds, broken, simulated_s, took_s, together, overlaps, refused } in [&one, &all] {
        writeln!(raw, "{threads},{worlds},{broken},{simulated_s},{took_s},{together},{overlaps},{refused}")?;
    }
    context.raw("simulator.csv", &raw)?;
    let notes = vec![
        format!("worlds of {NODES} nodes, seeds from 0, by the program that every change has to pass, with its assertions"),
        "every rule is judged at every event, and the time for that is in it; what is simulated ends with a world's last \
         event"
            .to_owned(),
        "the bar does not say on how many threads: both are held to it".to_owned(),
    ];
    Ok(Found { figures: figures(&one, &all, worlds), notes })
}

fn figures(one: &Played, all: &Played, worlds: u64) -> Vec<Figure> {
    let sum = |value: fn(&Played) -> u64| (value(one) + value(all)) as f64;
    vec![
        Figure::new("worlds of five nodes, on one thread", one.worlds as f64, "", Bar::AtLeast(worlds as f64)),
        Figure::new("simulated : real time, one thread", one.ratio(), "", Bar::AtLeast(RATIO)),
        Figure::new("worlds of five nodes, on all processors", all.worlds as f64, "", Bar::AtLeast(worlds as f64)),
        Figure::new("simulated : real time, all processors", all.ratio(), "", Bar::AtLeast(RATIO)),
        Figure::new("processors", all.threads as f64, "", Bar::Shown),
        Figure::new("worlds that broke a rule", sum(|one| one.broken), "", Bar::AtMost(0.0)),
        Figure::new(BROKEN, sum(|one| one.overlaps), "", Bar::AtMost(0.0)),
        Figure::new(TOGETHER, sum(|one| one.together), "", Bar::AtLeast(1.0)),
        Figure::new(REFUSED, sum(|one| one.refused), "", Bar::Shown),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(took: &str, overlaps: u64, asserts: u8) -> String {
        format!(
            "program 00 seeds 0-9 worlds 10 broken {overlaps} views 5 simulated_s 5000 took_s {took} together 7 overlaps \
             {overlaps} refused 3 asserts {asserts}{}\n",
            " seed 4".repeat(overlaps as usize)
        )
    }

    #[test]
    fn a_slow_run_a_short_one_and_one_with_an_overlap_meet_no_bar() {
        let met = |one: &str, worlds| {
            let played = Played::read(1, one).unwrap();
            figures(&played, &played, worlds).iter().all(Figure::met)
        };
        assert!(met(&record("4.900", 0, 1), 10));
        assert!(
            !met(&record("5.100", 0, 1), 10) && !met(&record("4.900", 0, 1), 11) && !met(&record("4.900", 1, 1), 10)
        );
    }

    #[test]
    fn a_program_without_its_assertions_is_not_measured() {
        assert!(Played::read(1, &record("4.900", 0, 0)).is_err());
        assert!(Played::read(1, "").is_err());
    }
}

//! What the packet path costs: the bench entry with the program less the same entry without it, run by turns through
//! BPF_PROG_TEST_RUN. It measures the program alone, warm; round trips at real rates are another scenario's.

use super::svg::Plot;
use super::{Bar, Context, Figure, Found, stats};
use crate::reference::Settings;
use crate::xdp::random::Random;
use crate::xdp::{Frame, Heartbeat, world};
use anyhow::{Context as _, Result, ensure};
use aya::maps::{Array, HashMap, MapData};
use aya::programs::Xdp;
use aya::{Ebpf, EbpfLoader, TestRun as _, TestRunOptions};
use heartbeat_common::maps::{Hint, Route, RouteKey};
use heartbeat_common::path::PathConf;
use std::fmt::Write;

/// The object, built beside the product's from the same modules.
const OBJECT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../heartbeat-user/bpf/heartbeat-bench.bpfel.o");
/// Bytes that the entry copies.
const LENGTH: usize = 208;
/// Frames made ready at a time.
const FRAMES: u32 = 1024;
/// Frames of one timed run: some 30 µs, short enough for many of them to have the processor core to themselves where
/// another virtual machine computes on it by turns.
const RUN: u32 = 128;

/// XDP_TX.
const ANSWERED: u32 = 3;

/// A kind of frame: its name, the verdict it must get, its bar, and what is wrong with it.
type Case = (&'static str, u32, Bar, fn(&mut Frame));

/// The case for which the path has no hint, as where another triple shares its place.
const HINT_MISSED: &str = "authentic probe, hint missed";

const CASES: &[Case] = &[
    ("authentic probe, answered", ANSWERED, Bar::AtMost(150.0), |_| {}),
    (HINT_MISSED, ANSWERED, Bar::Shown, |_| {}),
    ("not ours: another port", 2, Bar::AtMost(10.0), |frame| frame.ports = [5353, 5353]),
    ("not ours: TCP", 2, Bar::AtMost(10.0), |frame| frame.protocol = 6),
    ("unlisted source", 1, Bar::AtMost(50.0), |frame| frame.addresses[0][15] ^= 0x55),
    ("malformed: UDP length", 1, Bar::AtMost(50.0), |frame| frame.udp_length_error = 4),
    ("malformed: hop limit", 1, Bar::AtMost(50.0), |frame| frame.hop_limit = 64),
    ("forged tag", 1, Bar::Shown, |frame| frame.payload[128] ^= 1),
];

#[repr(transparent)]
#[derive(Clone, Copy)]
struct Value<T>(T);

// SAFETY: transparent over a type that is plain bytes.
unsafe impl<T: bytemuck::Pod> aya::Pod for Value<T> {}

struct Bench {
    bpf: Ebpf,
    settings: Settings,
    author: [u64; 7],
    sequence: u64,
}

impl Bench {
    fn new() -> Result<Self> {
        let mut bpf = EbpfLoader::new().load_file(OBJECT).with_context(|| format!("loading {OBJECT}"))?;
        for name in ["bench_bare", "bench_receive"] {
            let program: &mut Xdp = bpf.program_mut(name).with_context(|| format!("no {name}"))?.try_into()?;
            program.load().with_context(|| format!("loading {name}"))?;
        }
        let mut random = Random::new(1);
        let settings = world::settings(&mut random, 0);
        let author = world::standing(&mut random, 70);
        let route = Route { path: 0, conf: 0 };
        let routes = bpf.map_mut("ROUTES").context("no routes")?;
        HashMap::<&mut MapData, Value<RouteKey>, Value<Route>>::try_from(routes)?.insert(
            Value(world::route_key(&settings)),
            Value(route),
            0,
        )?;
        let confs = bpf.map_mut("CONFS").context("no configurations")?;
        Array::<&mut MapData, Value<PathConf>>::try_from(confs)?.set(0, Value(world::conf(&settings)), 0)?;
        let mut bench = Self { bpf, settings, author, sequence: 2 };
        bench.cursor(1, u64::from(FRAMES) - 1)?;
        Ok(bench)
    }

    fn hint(&mut self, hint: Hint) -> Result<()> {
        let hints = self.bpf.map_mut("HINTS").context("no hints")?;
        let place = world::route_key(&self.settings).hint();
        Ok(Array::<&mut MapData, Value<Hint>>::try_from(hints)?.set(place, Value(hint), 0)?)
    }

    fn cursor(&mut self, index: u32, value: u64) -> Result<()> {
        let cursor = self.bpf.map_mut("CURSOR").context("no cursor")?;
        Ok(Array::<&mut MapData, u64>::try_from(cursor)?.set(index, value, 0)?)
    }

    /// Makes new frames of a kind: a sequence is answered once.
    fn prepare(&mut self, spoil: fn(&mut Frame)) -> Result<()> {
        let keys = self.settings.slots[0].context("slot 0 holds a key")?;
        let map = self.bpf.map_mut("FRAMES").context("no frames")?;
        let mut frames = Array::<&mut MapData, [u8; LENGTH]>::try_from(map)?;
        for index in 0..FRAMES {
            self.sequence += 2;
            let own = self.settings.standing[0];
            let heartbeat = Heartbeat::probe(&self.settings, 0, &self.author, own, self.sequence);
            let mut frame = Frame::to_node(&self.settings, &heartbeat.signed(&self.settings, &keys));
            spoil(&mut frame);
            let mut bytes = frame.bytes();
            bytes.resize(LENGTH, 0);
            let bytes: [u8; LENGTH] = bytes.try_into().ok().context("a frame's length")?;
            frames.set(index, bytes, 0)?;
        }
        Ok(())
    }

    /// Runs a program over the frames from `first` on: its last verdict and the mean time, ns.
    fn time(&mut self, program: &str, first: u32) -> Result<(u32, f64)> {
        self.cursor(0, first.into())?;
        let program: &mut Xdp = self.bpf.program_mut(program).context("no program")?.try_into()?;
        let data = [0; LENGTH];
        let mut out = [0; LENGTH + 64];
        let options =
            TestRunOptions { data_in: Some(&data), data_out: Some(&mut out), repeat: RUN, ..Default::default() };
        let ran = program.test_run(options)?;
        Ok((ran.return_value, ran.duration.as_nanos() as f64))
    }
}

pub fn run(context: &Context) -> Result<Found> {
    let rounds = context.choose(15, 125);
    let mut bench = Bench::new()?;
    let mut found = Found::default();
    let mut raw = String::from("case,run,bare_ns,receive_ns\n");
    let mut plot = Plot {
        title: "Cost above the bare entry, sorted runs".to_owned(),
        axes: ["run".to_owned(), "ns above the least bare run".to_owned()],
        ..Plot::default()
    };
    for (name, verdict, bar, spoil) in CASES {
        bench.hint(if *name == HINT_MISSED { Hint::default() } else { Hint::at(0) })?;
        let (mut bare, mut whole) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            // Only a frame that is answered changes what the next run of it finds.
            if round == 0 || *verdict == ANSWERED {
                bench.prepare(*spoil)?;
            }
            for first in (0..FRAMES).step_by(RUN as usize) {
                // Whoever comes second finds the frames in the cache: they take turns.
                let mut turns = ["bench_bare", "bench_receive"];
                let bare_first = (first / RUN).is_multiple_of(2);
                if !bare_first {
                    turns.reverse();
                }
                let [one, other] = [bench.time(turns[0], first)?, bench.time(turns[1], first)?];
                let ((_, without), (seen, with)) = if bare_first { (one, other) } else { (other, one) };
                ensure!(seen == *verdict, "{name}: verdict {seen}, expected {verdict}");
                writeln!(raw, "{name},{},{without},{with}", bare.len())?;
                bare.push(without);
                whole.push(with);
            }
        }
        let base = stats::least(&bare);
        if found.figures.is_empty() {
            // The machine's own speed, which the rest stands beside.
            found.figures.push(Figure::new("bare entry, minimum", base, "ns", Bar::Shown));
            found.figures.push(Figure::new("bare entry, median", stats::median(&bare), "ns", Bar::Shown));
        }
        found.figures.push(Figure::new(format!("{name}, minimum"), stats::least(&whole) - base, "ns", *bar));
        let median = stats::median(&whole) - stats::median(&bare);
        found.figures.push(Figure::new(format!("{name}, median"), median, "ns", Bar::Shown));
        let points = stats::sorted(whole).into_iter().enumerate().map(|(run, ns)| (run as f64, ns - base)).collect();
        plot.series.push(((*name).to_owned(), points));
    }
    found.notes.push(format!(
        "{} interleaved runs of {RUN} frames each, fresh ones where they are answered; minimum less minimum, median less median",
        rounds * (FRAMES / RUN)
    ));
    context.raw("xdp-cost.csv", &raw)?;
    context.plot("xdp-cost.svg", &plot)?;
    Ok(found)
}

//! Runs the kernel program and the reference side by side on the same frames, and compares after each.

use super::rig::{Action, Ran};
use super::{Rig, compare, frames, random::Random, world};
use crate::reference::parse::{Parsed, parse};
use crate::reference::{Judged, LEN, Node, Verdict, judge, word};
use anyhow::{Context as _, Result, bail, ensure};
use heartbeat_common::counter::Counter;
use heartbeat_common::maps::Histogram;
use heartbeat_common::path::PathConf;
use heartbeat_common::tick::Tick;

/// Longest frame that can be judged, bytes: more than any that a link of MTU 9000 carries.
const FRAME_MAX: usize = 16 * 1024;

/// Both sides, and what each counted.
pub struct Checked {
    /// The kernel's side.
    pub rig: Rig,
    /// The reference.
    pub node: Node,
    /// Frames by how they ended: one for each counter.
    pub counted: Vec<u64>,
    /// Frames that were passed on.
    pub passed: u64,
    out: Vec<u8>,
}

impl Checked {
    /// Loads the program and tells it of `paths` paths.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn new(random: &mut Random, paths: u16) -> Result<Self> {
        Self::of(Rig::new()?, (0..paths).map(|index| world::settings(random, index)).collect())
    }

    /// Tells `rig` of the paths.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn of(mut rig: Rig, settings: Vec<crate::reference::Settings>) -> Result<Self> {
        let node =
            Node { paths: settings.into_iter().map(|each| (each, Default::default())).collect(), ..Node::default() };
        world::install(&mut rig, &node)?;
        Ok(Self { rig, node, counted: vec![0; Counter::ALL.len()], passed: 0, out: vec![0; FRAME_MAX] })
    }

    /// Changes the settings of a path on both sides.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn change(&mut self, path: usize, change: impl FnOnce(&mut crate::reference::Settings)) -> Result<()> {
        change(&mut self.node.paths[path].0);
        let conf = PathConf { path: path as u32, ..world::conf(&self.node.paths[path].0) };
        self.rig.configure(path as u32, &conf)
    }

    /// Changes the page on both sides.
    pub fn set_page(&mut self, change: impl FnOnce(&mut crate::reference::Page)) {
        change(&mut self.node.page);
        world::install_page(&self.rig, &self.node);
    }

    /// Makes both sides believe that the last fence on a path was acknowledged at `ns`.
    pub fn fence_answered(&mut self, path: usize, ns: u64) {
        self.node.paths[path].1.fence_answered_ns = ns;
        self.rig.ticks.set(path, std::mem::offset_of!(Tick<u64>, fence_answered_ns) / 8, ns);
    }

    /// Forgets a path's facts on both sides.
    pub fn forget(&mut self, path: usize) {
        self.node.paths[path].1 = Default::default();
        self.rig.ticks.put::<Tick<u64>>(path, &Tick::default());
        self.rig.histograms.put(path, &Histogram { buckets: [0; heartbeat_common::maps::BUCKETS] });
    }

    /// Makes both sides believe that the last stale echo on a path was sent at `ns`.
    pub fn stale_answered(&mut self, path: usize, ns: u64) {
        self.node.paths[path].1.stale_answered_ns = ns;
        self.rig.ticks.set(path, std::mem::offset_of!(Tick<u64>, stale_answered_ns) / 8, ns);
    }

    /// Lets both sides judge a frame. Returns the answer if there was one.
    ///
    /// # Errors
    /// If they differ: in verdict, in any byte of the answer, or in any fact recorded.
    pub fn receive(&mut self, frame: &[u8]) -> Result<(Judged, Option<Vec<u8>>)> {
        let ran = self.rig.receive(frame, &mut self.out)?;
        let now = self.moment(frame, ran)?;
        ensure!((ran.before..=ran.after).contains(&now), "stamped {now}, not within {}..={}", ran.before, ran.after);
        let judged = self.node.receive(frame, super::LOOPBACK, now);
        self.compare(frame, ran, &judged)
            .with_context(|| format!("reference: {:?}, frame {}", judged.counted, hex(frame)))?;
        self.tally(&judged);
        let answer = (ran.action == Action::Transmit).then(|| self.out[..ran.length].to_vec());
        Ok((judged, answer))
    }

    /// The kernel's time of the frame, from what it wrote. Where it wrote none, time did not decide.
    fn moment(&self, frame: &[u8], ran: Ran) -> Result<u64> {
        let Parsed::Plain(plain) = parse(frame) else { return Ok(ran.before) };
        let acknowledged = self.out[plain.udp + 8 + 70] == 3;
        if ran.action == Action::Transmit {
            ensure!(ran.length == frame.len(), "the answer has {} bytes, the probe {}", ran.length, frame.len());
            if !acknowledged {
                return Ok(frames::stamp(&self.out, plain.udp));
            }
        }
        let found = self
            .node
            .paths
            .iter()
            .position(|(settings, _)| settings.peer == plain.source && settings.own == plain.destination);
        let Some(path) = found else { return Ok(ran.before) };
        let facts = &self.node.paths[path].1;
        let tick = self.rig.tick(path as u32);
        if ran.action == Action::Transmit {
            return Ok(tick.fence_answered_ns);
        }
        if tick.fence_acked != facts.fence_acked.0 {
            return Ok(tick.fence_acked_ns);
        }
        if tick.older_heard_ns != facts.older_heard_ns {
            return Ok(tick.older_heard_ns);
        }
        if tick.echoes != facts.echoes {
            return Ok(tick.echo_ns);
        }
        if tick.late_echoes != facts.late_echoes {
            let heartbeat = &frame[plain.udp + 8..plain.udp + 8 + LEN];
            return Ok(judge::sent(heartbeat, facts) + tick.round_trip_ns);
        }
        Ok(ran.before)
    }

    fn compare(&self, frame: &[u8], ran: Ran, judged: &Judged) -> Result<()> {
        let out = &self.out[..ran.length];
        match (&judged.verdict, ran.action) {
            (Verdict::Drop, Action::Drop) => ensure!(out == frame, "a dropped frame was changed"),
            (Verdict::Pass, Action::Pass) => ensure!(out == frame, "a passed frame was changed"),
            (Verdict::Transmit(bytes), Action::Transmit) => {
                ensure!(out == bytes, "answers differ:\n  kernel    {}\n  reference {}", hex(out), hex(bytes));
            }
            (_, action) => bail!("the kernel says {action:?}, the reference {:?}", judged.verdict),
        }
        if let Some(path) = judged.path {
            self.compare_facts(path)?;
        }
        Ok(())
    }

    /// Compares the facts of a path.
    ///
    /// # Errors
    /// If they differ.
    pub fn compare_facts(&self, path: usize) -> Result<()> {
        let facts = &self.node.paths[path].1;
        let differences = compare::differences(&self.rig.tick(path as u32), facts);
        ensure!(differences.is_empty(), "the tick of path {path} differs:{differences}");
        let histogram: Histogram = self.rig.histograms.copy(path);
        let page = compare::page_differences(&self.rig, &self.node.page, self.node.paths[path].0.vote_slot);
        ensure!(page.is_empty(), "the page differs:{page}");
        ensure!(compare::same_histogram(&histogram, facts), "the histogram of path {path} differs: {histogram:?}");
        Ok(())
    }

    fn tally(&mut self, judged: &Judged) {
        match judged.counted {
            Some(counter) => self.counted[counter as usize] += 1,
            None => self.passed += 1,
        }
        if judged.checksum_zero {
            self.counted[Counter::ChecksumZero as usize] += 1;
        }
    }

    /// Lets a frame leave on both sides.
    ///
    /// # Errors
    /// If the sides differ, or the frame's departure is not stamped within the call.
    pub fn depart(&mut self, frame: &[u8]) -> Result<Option<Counter>> {
        let found = match parse(frame) {
            Parsed::Plain(plain) => self
                .node
                .paths
                .iter()
                .position(|(settings, _)| settings.peer == plain.destination && settings.own == plain.source)
                .map(|path| (path, (word(frame, plain.udp + 48) % 8) as usize)),
            _ => None,
        };
        let known = found.map(|(path, _)| self.node.paths[path].1.departures);
        let (action, before, after) = self.rig.depart(frame)?;
        ensure!(action == u32::MAX, "the egress program returned {action}, not TC_ACT_UNSPEC");
        let mut now = before;
        if let Some((path, slot)) = found {
            let tick = self.rig.tick(path as u32);
            if Some(tick.departures) != known {
                now = tick.departed[slot].ns;
                ensure!((before..=after).contains(&now), "departure stamped {now}, not within {before}..={after}");
            }
        }
        let counted = self.node.depart(frame, super::LOOPBACK, now);
        if let Some((path, _)) = found {
            self.compare_facts(path)?;
        }
        if let Some(counter) = counted {
            self.counted[counter as usize] += 1;
        }
        Ok(counted)
    }

    /// Compares the kernel's counters with what was counted here.
    ///
    /// # Errors
    /// If any differs.
    pub fn compare_counters(&self) -> Result<()> {
        let kernel = self.rig.counters()?;
        for (counter, (is, ought)) in Counter::ALL.iter().zip(kernel.iter().zip(&self.counted)) {
            ensure!(is == ought, "counter {}: kernel {is}, reference {ought}", counter.name());
        }
        Ok(())
    }
}

/// Bytes as hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

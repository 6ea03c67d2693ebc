//! The steps of the demonstration that show a cluster: views, leases, fences, and who may act when. Each says what is
//! expected of it; what nodes might do is read from their pages by a sink, on one clock.

use super::{A, B, Book, C, Finding};
use crate::lab::crew::Mark;
use crate::lab::timely::VIEW;
use crate::lab::{Crew, Holder, Probes, Sink, Span, monotonic_ns};
use anyhow::{Context, Result, ensure};
use heartbeat_common::lease::Refused;
use heartbeat_common::view::Order;
use std::time::Duration;

/// How long a node is stopped while its lease is watched.
const STOPPED: Duration = Duration::from_secs(30);
/// Lease of the profile, and one delay, ms.
const LEASE_MS: f64 = 500.0;
const DELAY_MS: f64 = 100.0;
const TRIO: [usize; 3] = [A, B, C];

/// Plays every step.
pub(super) fn play(book: &mut Book) {
    three(book);
    quarantined(book);
    five(book);
}

/// Forms a cluster as a step. `None`: it did not form, and nothing can be played with it.
fn form(book: &mut Book, nodes: usize, quarantine: u32) -> Option<(Crew, Sink)> {
    let mut made = None;
    let step = if quarantine > 0 {
        format!("{nodes} nodes, quarantine after {quarantine}")
    } else {
        format!("{nodes} nodes form a cluster")
    };
    book.row(&step, "no view, then one of all in force", || {
        let mut crew = Crew::idle(nodes)?;
        crew.cluster = crew.cluster.clone().with("quarantine_threshold", quarantine);
        crew.start_together(&(0..nodes).collect::<Vec<_>>())?;
        let none = (0..nodes).map(|node| Ok(crew.stands(node)?.life == "no_view")).collect::<Result<Vec<_>>>()?;
        let all: Vec<usize> = (0..nodes).collect();
        let sink = crew.created(&all)?;
        let stands = crew.stands(A)?;
        let seen = format!("view {}, members {}", stands.view.number(), stands.members.join(", "));
        made = Some((crew, sink));
        Ok((none.iter().all(|none| *none), seen))
    });
    made
}

fn three(book: &mut Book) {
    let Some((mut crew, sink)) = form(book, 3, 0) else { return };
    book.row("c stopped for 30 s keeps its target", "target up, no gap, same view", || stopped(&mut crew, &sink));
    book.row("c cut off while it is stopped", "out of its lease within 600 ms", || cut_off(&mut crew, &sink));
    book.row("partition: a, b | c", "c's last act before the first take-over", || parted(&mut crew, &sink));
    book.row("c stopped and fenced", "its kernel obeys, 1118, joins anew", || fenced(&mut crew, &sink));
    book.row("c reboots and joins", "newer incarnation; a and b lose nothing", || reboot(&mut crew, &sink));
    book.row("three: b starved, c dies", "the view waits for b, and says so", || waits(&mut crew, &sink));
    judge(book, &crew, &sink);
}

/// What the sink saw of a cluster.
fn judge(book: &mut Book, crew: &Crew, sink: &Sink) {
    book.row("nobody acted who might not", "0 acts that break the rule", || {
        let acts = sink.acts();
        let faults = acts.faults(&crew.all_views()?);
        let gap = acts.longest_gap_ns / 1_000_000;
        Ok((
            faults.is_empty() && acts.count > 0,
            format!("{} of {} acts; longest gap {gap} ms", faults.len(), acts.count),
        ))
    });
}

fn after(span: Span, at_ns: u64) -> f64 {
    (at_ns as f64 - span.after_ns as f64) / 1e6
}

fn gaps(sink: &Sink, node: usize, from: u64) -> usize {
    sink.acts().breaks_of(node, from, monotonic_ns()).count()
}

fn stopped(crew: &mut Crew, sink: &Sink) -> Result<Finding> {
    let mut holder = Holder::start(&crew.lab, C)?;
    holder.wait_ready(Duration::from_secs(5))?;
    let (view, from) = (crew.stands(A)?.view, monotonic_ns());
    crew.daemon(C).stop()?;
    std::thread::sleep(STOPPED);
    let (up, gaps) = (holder.is_up()?, gaps(sink, C, from));
    crew.daemon(C).resume()?;
    let same = crew.await_view(&TRIO)? == view;
    let target = if up { "up" } else { "DOWN" };
    Ok((
        up && gaps == 0 && same,
        format!("target {target} after {STOPPED:?}, {gaps} gaps, view {}", if same { "the same" } else { "ANOTHER" }),
    ))
}

fn cut_off(crew: &mut Crew, sink: &Sink) -> Result<Finding> {
    let mut holder = Holder::start(&crew.lab, C)?;
    holder.wait_ready(Duration::from_secs(5))?;
    crew.daemon(C).stop()?;
    std::thread::sleep(Duration::from_secs(1));
    let cut = crew.lab.cut_all(C)?;
    let down = after(cut, holder.wait_down(Duration::from_secs(5))?);
    crew.await_view(&[A, B])?;
    let last = after(cut, sink.acts().last(C).context("it acted before")?);
    crew.daemon(C).resume()?;
    crew.lab.heal()?;
    crew.await_view(&TRIO)?;
    let good = last <= LEASE_MS + DELAY_MS;
    Ok((good, format!("last act {last:.0} ms after the cut, target down after {down:.0} ms")))
}

/// When c last acted, and when it was first acted in the view without it, ms after the cut.
fn handed_over(sink: &Sink, view: Order, cut: Span) -> Result<(f64, f64)> {
    let acts = sink.acts();
    let last = acts.last(C).context("c acted")?;
    let first = [A, B].iter().filter_map(|node| acts.first_from(*node, view)).min().context("a or b acts")?;
    Ok((after(cut, last), after(cut, first)))
}

fn parted(crew: &mut Crew, sink: &Sink) -> Result<Finding> {
    let cut = crew.lab.partition(&[&[A, B], &[C]])?;
    let view = crew.await_view(&[A, B])?;
    let (last, first) = handed_over(sink, view, cut)?;
    crew.lab.heal()?;
    crew.await_view(&TRIO)?;
    Ok((last < first, format!("c until {last:.0} ms, view {} from {first:.0} ms", view.number())))
}

fn fenced(crew: &mut Crew, sink: &Sink) -> Result<Finding> {
    let mark = crew.mark()?;
    crew.daemon(C).stop()?;
    let asked = crew.daemon(A).ctl(&["fence", "c", "lab"])?;
    ensure!(asked.status.success(), "heartbeatctl fence: {}", String::from_utf8_lossy(&asked.stderr));
    crew.await_view(&[A, B])?;
    let obeyed = sink.acting(C) == Err(Refused::Fenced);
    crew.daemon(C).resume()?;
    crew.await_left_out(C)?;
    let told = crew.since(&mark, C)?.iter().any(|event| event["id"] == 1118);
    crew.start_at_once(C)?;
    crew.await_view(&TRIO)?;
    let word = |yes: bool| if yes { "" } else { "NOT " };
    Ok((obeyed && told, format!("{}obeyed while stopped, 1118 {}said", word(obeyed), word(told))))
}

fn reboot(crew: &mut Crew, sink: &Sink) -> Result<Finding> {
    let (old, probes, mark, from) =
        (crew.incarnation(C)?, Probes::between(crew, [A, B])?, crew.mark()?, monotonic_ns());
    crew.machine_dies(C, sink)?;
    crew.lab.heal()?;
    crew.start_at_once(C)?;
    crew.await_view(&TRIO)?;
    let lost = probes.lost(crew)?;
    let said = |by| -> Result<usize> { Ok(crew.said(&mark, by, "started")?.len()) };
    let (restarts, gaps) = (said(A)? + said(B)?, gaps(sink, A, from) + gaps(sink, B, from));
    let newer = crew.incarnation(C)? > old;
    Ok((
        newer && lost + (restarts + gaps) as u64 == 0,
        format!("a and b: {lost} lost, {restarts} restarts, {gaps} gaps"),
    ))
}

fn waits(crew: &mut Crew, sink: &Sink) -> Result<Finding> {
    let before = crew.stands(A)?.view;
    crew.daemon(B).stop()?;
    let cut = crew.lab.cut_all(C)?;
    let waiting = crew.await_stands(A, "to wait for b", |stands| stands.waits_for == ["b"]);
    let same = crew.stands(A)?.view == before;
    let last = after(cut, sink.acts().last(C).context("c acted")?);
    crew.daemon(B).resume()?;
    let follows = crew.await_view(&[A, B])?;
    crew.lab.heal()?;
    crew.await_view(&TRIO)?;
    waiting?;
    let good = same && last <= LEASE_MS + DELAY_MS && Some(follows) == before.next();
    Ok((good, format!("waits for b; c's last act after {last:.0} ms; view {} when b ran", follows.number())))
}

fn quarantined(book: &mut Book) {
    let Some((mut crew, sink)) = form(book, 3, 3) else { return };
    let mut mark = None;
    book.row("c ends badly three times", "1672 by a and b, 1675, then 1676 by c", || {
        let begun = crew.mark()?;
        let finding = loops(&mut crew, &sink, &begun);
        mark = Some(begun);
        finding
    });
    book.row("c's quarantine is cleared", "c joins", || {
        let mark = mark.context("there was none")?;
        let cleared = crew.daemon(A).ctl(&["clear-quarantine", "c"])?;
        ensure!(cleared.status.success(), "{}", String::from_utf8_lossy(&cleared.stderr));
        let view = crew.await_view(&TRIO)?;
        let told = !crew.said(&mark, A, "quarantine_cleared")?.is_empty();
        Ok((told, format!("member again in view {}", view.number())))
    });
    judge(book, &crew, &sink);
}

fn loops(crew: &mut Crew, sink: &Sink, mark: &Mark) -> Result<Finding> {
    for end in 0..3 {
        crew.machine_dies(C, sink)?;
        crew.await_view(&[A, B])?;
        crew.lab.heal()?;
        crew.start_at_once(C)?;
        if end < 2 {
            crew.await_view(&TRIO)?;
        }
    }
    for by in [A, B] {
        crew.await_said_of(mark, by, "node_quarantined", C)?;
    }
    crew.await_said_of(mark, A, "join_refused_by_quarantine", C)?;
    let own = crew.await_said(mark, C, "quarantined")?;
    let acts = crew.stands(C)?.acting;
    Ok((!acts && own["id"] == 1676, "1672 by a and b, 1675, 1676 by c; it stays out".to_owned()))
}

fn five(book: &mut Book) {
    let Some((mut crew, sink)) = form(book, 5, 0) else { return };
    book.row("five: c starved, e dies", "the view follows within 1000 ms", || {
        let before = crew.stands(A)?.view;
        crew.daemon(C).stop()?;
        std::thread::sleep(Duration::from_millis(1500));
        let mark = crew.mark()?;
        let death = crew.machine_dies(4, &sink)?;
        let view = crew.await_view_of(&[A, B, 3], &[A, B, C, 3])?;
        // On the last of those that run.
        let took = crew.all_installed(&mark, &[A, B, 3], view)?.saturating_sub(death.before_ns);
        crew.daemon(C).resume()?;
        let same = crew.await_view(&[A, B, C, 3])? == view;
        let in_time = Duration::from_nanos(took) <= VIEW;
        let seen = format!("view {} after {:.0} ms, c in it", view.number(), took as f64 / 1e6);
        Ok((in_time && same && Some(view) == before.next(), seen))
    });
    judge(book, &crew, &sink);
}

//! The steps of the demonstration, in their order, each with what is expected of it. A step changes the lab and reads
//! the nodes; how it is told is the book's business.

use super::{A, B, Book, C, Finding, HOG_CPU, PATIENCE, Play, STARVED, pairs, seen};
use crate::lab::{Hog, Port, wait_for};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::time::Duration;

/// Detection must fall between these, from the last answer, in milliseconds; own lateness is added to the latter.
const DETECTION_MS: (f64, f64) = (500.0, 650.0);

/// A way to starve a node's userspace.
#[derive(Clone, Copy)]
enum Way {
    Stopped,
    Quota,
    Hog,
}

impl Way {
    const ALL: [Self; 3] = [Self::Stopped, Self::Quota, Self::Hog];

    const fn text(self) -> &'static str {
        match self {
            Self::Stopped => "c stopped (SIGSTOP)",
            Self::Quota => "b held to a cpu quota",
            Self::Hog => "c beside a FIFO 99 hog",
        }
    }

    const fn victim(self) -> usize {
        match self {
            Self::Quota => B,
            Self::Stopped | Self::Hog => C,
        }
    }
}

/// Plays every step.
pub(super) fn play(book: &mut Book) -> Result<()> {
    let mut play = Play::new("auto")?;
    book.row("all up", "each node shows both others up", || all_up(&play));
    for way in Way::ALL {
        book.row(&format!("{}, XDP", way.text()), "stalled, no node down", || starve_xdp(&play, way));
    }
    {
        book.note("a second cluster, answered by userspace");
        let off = Play::new("off")?;
        book.row("all up, fast_path off", "each node shows both others up", || all_up(&off));
        for way in Way::ALL {
            let step = format!("{}, fast_path off", way.text());
            book.row(&step, "falsely removed (node_down)", || starve_off(&off, way));
        }
    }
    book.row("death of c: all its ports cut", "c down 500 to 650 ms after its last answer", || death(&play));
    book.row("c heard again", "node_up, then all up", || heal_node(&play));
    book.row("network net1 cut", "1123, 1126, 1127 on every path of it, no node down", || cut_network(&play));
    book.row("net1 healed", "1122 and 1125 on every path of it", || heal_network(&play));
    book.row("c restarts by handover", "one event, same incarnation", || handover(&mut play));
    book.row("c restarts anew", "left, then a newer incarnation up", || restart(&mut play));
    Ok(())
}

fn all_up(play: &Play) -> Result<Finding> {
    play.wait_all_up(&[A, B, C])?;
    let status = play.daemon(A)?.ask("status")?;
    let modes: Vec<String> = status["fast_path"]
        .as_array()
        .context("`fast_path` in the status")?
        .iter()
        .map(|path| format!("{} {}", path["interface"].as_str().unwrap_or("?"), path["mode"].as_str().unwrap_or("?")))
        .collect();
    let answered_by = if play.fast_path == "off" { "userspace" } else { "native" };
    let good = modes.iter().all(|mode| mode.ends_with(answered_by)) && modes.len() == 2;
    Ok((good, format!("up; a answers by {}", modes.join(", "))))
}

/// Starves a node and undoes it afterwards; `during` runs in between.
fn starving<T>(play: &Play, way: Way, during: impl FnOnce() -> Result<T>) -> Result<T> {
    let daemon = play.daemon(way.victim())?;
    match way {
        Way::Stopped => {
            daemon.stop()?;
            let result = during();
            daemon.resume()?;
            result
        }
        Way::Quota => {
            // Something else in the group takes what little there is, as a busy container would.
            let eater =
                Hog::start_with(&play.lab, 0, None, Duration::from_secs(20), |command| play.quota.join(command))?;
            play.quota.set(Duration::from_millis(1), Duration::from_secs(1))?;
            let result = during();
            drop(eater);
            play.quota.set(Duration::from_millis(200), Duration::from_millis(100))?;
            result
        }
        Way::Hog => {
            let hog = Hog::start(&play.lab, HOG_CPU, Some(99), Duration::from_secs(10))?;
            let result = during();
            drop(hog);
            result
        }
    }
}

/// Every node-level event in what `nodes` said since, with who said it.
fn said_of_nodes(play: &Play, since: &seen::Seen, nodes: &[usize]) -> Result<Vec<(usize, Value)>> {
    let mut all = Vec::new();
    for node in nodes {
        let said = play.since(since, *node)?;
        all.extend(said.into_iter().filter(|event| seen::name(event).starts_with("node_")).map(|event| (*node, event)));
    }
    Ok(all)
}

fn tell(play: &Play, said: &[(usize, Value)]) -> String {
    let mut parts = Vec::new();
    for node in [A, B, C] {
        let own: Vec<Value> = said.iter().filter(|(by, _)| *by == node).map(|(_, event)| event.clone()).collect();
        if !own.is_empty() {
            parts.push(format!("{}: {}", play.name(node), seen::summary(&own)));
        }
    }
    if parts.is_empty() { "nothing of any node".to_owned() } else { parts.join("; ") }
}

fn starve_xdp(play: &Play, way: Way) -> Result<Finding> {
    let since = play.watch()?;
    let victim = way.victim();
    let observers: Vec<usize> = [A, B, C].into_iter().filter(|node| *node != victim).collect();
    starving(play, way, || {
        std::thread::sleep(STARVED);
        Ok(())
    })?;
    // What the victim's controller believes once it runs again counts too: it may accuse nobody.
    play.wait_all_up(&[A, B, C])?;
    let said = said_of_nodes(play, &since, &[A, B, C])?;
    let down = said.iter().any(|(_, event)| seen::is(event, "node_down"));
    let stalled = |by: &usize| {
        said.iter()
            .any(|(who, event)| who == by && seen::is(event, "node_stalled") && event["node"] == play.name(victim))
    };
    // A quota or a hog leaves the daemon a moment now and then: that it stalled is certain only where it was stopped.
    let noticed = !matches!(way, Way::Stopped) || observers.iter().all(stalled);
    Ok((!down && noticed, tell(play, &said)))
}

fn starve_off(play: &Play, way: Way) -> Result<Finding> {
    let since = play.watch()?;
    let victim = way.victim();
    let down = starving(play, way, || {
        let down = play.wait_said(&since, A, "node_down", victim);
        down.with_context(|| format!("{} for {PATIENCE:?}", way.text()))
    })?;
    play.wait_all_up(&[A, B, C])?;
    let after = seen::detection_ms(&down).map_or_else(String::new, |(time, _)| format!(" after {time:.0} ms"));
    Ok((true, format!("a: node_down {}{after}", play.name(victim))))
}

fn death(play: &Play) -> Result<Finding> {
    let since = play.watch()?;
    play.lab.cut_all(C)?;
    let mut times = Vec::new();
    let mut good = true;
    for by in [A, B] {
        let down = play.wait_said(&since, by, "node_down", C)?;
        let (time, lateness) = seen::detection_ms(&down).with_context(|| format!("no stamps in {down}"))?;
        good &= time >= DETECTION_MS.0 && time <= DETECTION_MS.1 + lateness;
        times.push(format!("{}: down after {time:.0} ms", play.name(by)));
    }
    let said_so = || match play.since(&since, C) {
        Ok(events) if events.iter().any(|event| seen::is(event, "isolated")) => Ok(()),
        Ok(_) => Err("not yet".to_owned()),
        Err(error) => Err(format!("{error:#}")),
    };
    let isolated = wait_for(Duration::from_secs(3), "c to say that it is isolated", said_so).is_ok();
    let said = said_of_nodes(play, &since, &[A, B])?;
    let others = said.iter().filter(|(_, event)| seen::is(event, "node_down") && event["node"] != play.name(C)).count();
    times.push(format!("c: {}", if isolated { "isolated" } else { "does not say that it is isolated" }));
    if others > 0 {
        times.push(format!("{others} others down"));
    }
    Ok((good && isolated && others == 0, times.join("; ")))
}

fn heal_node(play: &Play) -> Result<Finding> {
    let since = play.watch()?;
    play.lab.heal()?;
    for by in [A, B] {
        play.wait_said(&since, by, "node_up", C)?;
    }
    play.wait_all_up(&[A, B, C])?;
    let said = said_of_nodes(play, &since, &[A, B])?;
    Ok((said.iter().all(|(_, event)| seen::is(event, "node_up")), tell(play, &said)))
}

/// Waits until every node has said each of `ids` of its path to every other on net1.
fn wait_paths(play: &Play, since: &seen::Seen, ids: &[u64]) -> Result<()> {
    wait_for(PATIENCE, &format!("events {ids:?} of every path on net1"), || {
        for (by, about) in pairs(&[A, B, C]) {
            let said = play.since(since, by)?;
            for id in ids {
                let path = |event: &Value| event["node"] == play.name(about) && event["network"] == "net1";
                let found = said.iter().any(|event| event["id"] == *id && path(event));
                let (by, about) = (play.name(by), play.name(about));
                ensure!(found, "no {id} of node {by} for its path to {about}; it said {}", seen::summary(&said));
            }
        }
        Ok::<_, anyhow::Error>(())
    })
}

fn cut_network(play: &Play) -> Result<Finding> {
    let since = play.watch()?;
    play.lab.cut_network(0)?;
    wait_paths(play, &since, &[1123, 1126, 1127])?;
    // Long enough for a removal that is only late to show.
    std::thread::sleep(Duration::from_secs(1));
    let said = said_of_nodes(play, &since, &[A, B, C])?;
    let port = Port { node: A, network: 0 };
    Ok((said.is_empty(), format!("1123, 1126, 1127 by all over {}; {}", play.lab.interface(port), tell(play, &said))))
}

fn heal_network(play: &Play) -> Result<Finding> {
    let since = play.watch()?;
    play.lab.heal()?;
    wait_paths(play, &since, &[1122, 1125])?;
    play.wait_all_up(&[A, B, C])?;
    let said = said_of_nodes(play, &since, &[A, B, C])?;
    Ok((said.is_empty(), format!("1122, 1125 by all; {}", tell(play, &said))))
}

fn incarnation(play: &Play) -> Result<u64> {
    let peer = play.peer(A, C)?;
    peer["incarnation"].as_u64().with_context(|| format!("no incarnation in {peer}"))
}

fn handover(play: &mut Play) -> Result<Finding> {
    let since = play.watch()?;
    let before = incarnation(play)?;
    let output = play.daemon(C)?.ctl(&["handover"])?;
    ensure!(output.status.success(), "heartbeatctl handover: {}", String::from_utf8_lossy(&output.stderr));
    play.end(C)?;
    play.start(C)?;
    for by in [A, B] {
        play.wait_said(&since, by, "controller_restarted", C)?;
    }
    play.wait_all_up(&[A, B, C])?;
    let after = incarnation(play)?;
    let said = said_of_nodes(play, &since, &[A, B])?;
    let seen = format!("controller_restarted; incarnation {before} then {after}; {}", tell(play, &said));
    Ok((before == after && said.is_empty(), seen))
}

fn restart(play: &mut Play) -> Result<Finding> {
    let since = play.watch()?;
    let before = incarnation(play)?;
    play.end(C)?;
    for by in [A, B] {
        play.wait_said(&since, by, "node_left", C)?;
    }
    play.start(C)?;
    for by in [A, B] {
        play.wait_said(&since, by, "node_restarted", C)?;
    }
    play.wait_all_up(&[A, B, C])?;
    let after = incarnation(play)?;
    let said = said_of_nodes(play, &since, &[A, B])?;
    let down = said.iter().any(|(_, event)| seen::is(event, "node_down"));
    Ok((after > before && !down, format!("incarnation {before} then {after}; {}", tell(play, &said))))
}

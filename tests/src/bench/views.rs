//! How long a cluster takes from a machine's death to the next view, and until others may take over what it ran. Machines
//! die by cuts in the switch; times are those of the nodes' own events and of their acts, on the one clock of this machine.

use super::death::side_by_side;
use super::series::{DETECTION_MS, Series, check_profile};
use super::svg::Plot;
use super::withheld::Withheld;
use super::{Bar, Context, Figure, Found, stats};
use crate::lab::acts::order;
use crate::lab::crew::event_name;
use crate::lab::wait::wait_every;
use crate::lab::{Crew, Sink, Span, awake, views};
use crate::xdp::random::Random;
use anyhow::{Context as _, Result, anyhow, ensure};
use heartbeat_common::view::{Order, VoteId};
use heartbeat_user::config;
use heartbeat_user::core::agreement::document::Member;
use heartbeat_user::core::ids::NodeId;
use heartbeat_user::io::disk::{AgreementFile, First, Owner, first_state};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt::Write;
use std::time::{Duration, Instant};

/// Clusters of three that die side by side.
const LABS: usize = 2;
/// A new view is due on every survivor after this, ms.
const VIEW_MS: f64 = 1000.0;
/// Taking over is allowed after this: twice the detection time and 200 ms.
const TAKE_OVER_MS: f64 = 2.0 * DETECTION_MS + 200.0;
/// From the last verdict to the new view, ms.
const VERDICT_MS: f64 = 20.0;
/// Whose first state is written where nothing but the disk is measured.
const EXAMPLE: &[u8] = include_bytes!("../../../packaging/heartbeatd.toml");
/// How long the survivors' events may take to their logs.
const LOGS: Duration = Duration::from_secs(10);

/// One death as the survivors went through it. Times in ms from the beginning of the cut.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Death {
    /// To the first survivor's verdict.
    first_verdict_ms: f64,
    /// To the last survivor's verdict.
    verdict_ms: f64,
    /// To the new view on the last survivor.
    view_ms: f64,
    /// Until the last survivor may take over: it has said that the view is in force, and has acted in it.
    take_over_ms: f64,
    /// To the first act in the new view.
    act_ms: f64,
    /// What the hypervisor withheld from all processors together meanwhile.
    withheld_ms: f64,
}

impl Death {
    /// The view came before a survivor had its own verdict.
    fn is_early(&self) -> bool {
        self.view_ms < self.verdict_ms
    }

    /// From the last verdict to the view on the last survivor. A view that did not wait for the last one is measured from
    /// the first: no time is below 0.
    fn decision_ms(&self) -> f64 {
        self.view_ms - if self.is_early() { self.first_verdict_ms } else { self.verdict_ms }
    }
}

/// What one survivor said of a death, CLOCK_MONOTONIC ns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Said {
    /// Its own verdict; `None`: it learned of the view before it had one.
    verdict: Option<u64>,
    /// The first view of the survivors alone was installed.
    view: u64,
    /// Which one.
    order: Order,
    /// That one or a later one was in force.
    in_force: u64,
}

/// Reads what a survivor said since `from`: nothing from before counts.
fn said_of(events: &[Value], from: u64, dead: &str, rest: &[String]) -> Result<Said> {
    let at = |event: &Value| event["noticed_ns"].as_u64().filter(|at| *at >= from);
    let first =
        |fits: &dyn Fn(&Value) -> bool| events.iter().filter(|event| fits(event)).find_map(|one| Some((at(one)?, one)));
    let of = |event: &Value, name: &str| event_name(event) == name;
    let verdict = first(&|event| of(event, "node_down") && event["node"] == dead).map(|(at, _)| at);
    let alone = |event: &Value| {
        let members = event["members"].as_array().map(Vec::as_slice).unwrap_or_default();
        members.len() == rest.len() && rest.iter().all(|node| members.iter().any(|member| member == node))
    };
    let view = first(&|event| of(event, "view_installed") && alone(event));
    let (view, installed) = view.with_context(|| format!("no view of {rest:?} alone in {events:?}"))?;
    let order = order(&installed["view"])?;
    let newer = |event: &Value| crate::lab::acts::order(&event["view"]).is_ok_and(|one| one >= order);
    let in_force = first(&|event| of(event, "view_in_force") && newer(event));
    let (in_force, _) = in_force.with_context(|| format!("{order:?} is in force nowhere in {events:?}"))?;
    Ok(Said { verdict, view, order, in_force })
}

/// Says whether a node judged anybody, or its membership changed, between the mark and the cut: what comes after is not of
/// the cut alone.
fn is_disturbed(events: &[Value], cut: u64) -> bool {
    let names = ["node_down", "isolated", "quorum_lost", "view_installed"];
    events
        .iter()
        .any(|event| names.contains(&event_name(event)) && event["noticed_ns"].as_u64().is_some_and(|at| at < cut))
}

/// The moment of the first of these events of this name that is of `view`, CLOCK_MONOTONIC ns.
pub fn moment(events: &[Value], name: &str, view: Order) -> Result<u64> {
    let of_view = |event: &&Value| event_name(event) == name && order(&event["view"]).is_ok_and(|order| order == view);
    let event = events.iter().find(of_view).with_context(|| format!("no {name} of {view:?}: {events:?}"))?;
    event["noticed_ns"].as_u64().with_context(|| format!("no moment in {event}"))
}

/// Milliseconds from the beginning of a cut.
fn since(cut: Span, at_ns: u64) -> f64 {
    (at_ns as f64 - cut.before_ns as f64) / 1e6
}

fn least_and_most(moments: impl IntoIterator<Item = u64>) -> Option<(u64, u64)> {
    moments.into_iter().fold(None, |found, at| {
        let (least, most) = found.unwrap_or((at, at));
        Some((least.min(at), most.max(at)))
    })
}

/// Lets one machine die and come back; `None`: something had changed before it died, and this is no death of it alone.
fn die(crew: &mut Crew, sink: &Sink, random: &mut Random) -> Result<Option<Death>> {
    let count = crew.lab.spec().nodes.len();
    let all: Vec<usize> = (0..count).collect();
    crew.all_up()?;
    crew.await_view(&all)?;
    let dead = random.below(count as u64) as usize;
    let rest: Vec<usize> = all.iter().copied().filter(|node| *node != dead).collect();
    let names: Vec<String> = rest.iter().map(|node| crew.name(*node).to_owned()).collect();
    let mark = crew.mark()?;
    views::pause_at_random(random, Duration::from_millis(300));
    let withheld = Withheld::now();
    let cut = crew.lab.cut_all(dead)?;
    // Asking would take the processors from the daemons that are measured.
    std::thread::sleep(Duration::from_millis(1500));
    let withheld_ms = withheld.ms_since();
    crew.await_view(&rest)?;
    let disturbed = |node: &usize| -> Result<bool> { Ok(is_disturbed(&crew.since(&mark, *node)?, cut.before_ns)) };
    let death = if all.iter().map(disturbed).collect::<Result<Vec<_>>>()?.contains(&true) {
        None
    } else {
        let said = rest.iter().map(|by| {
            wait_every(Duration::from_millis(100), LOGS, &format!("what node {} says", crew.name(*by)), || {
                said_of(&crew.since(&mark, *by)?, cut.before_ns, crew.name(dead), &names)
            })
        });
        let said = said.collect::<Result<Vec<_>>>()?;
        let acts = sink.acts();
        let acted = rest.iter().zip(&said).map(|(node, said)| {
            acts.first_from(*node, said.order)
                .with_context(|| format!("node {} never acts in the view", crew.name(*node)))
        });
        let acted = acted.collect::<Result<Vec<_>>>()?;
        let allowed = said.iter().zip(&acted).map(|(said, acted)| said.in_force.max(*acted));
        let verdicts = least_and_most(said.iter().filter_map(|said| said.verdict)).context("nobody has a verdict")?;
        let last = |moments: Option<(u64, u64)>| moments.map(|(_, most)| since(cut, most)).context("a survivor");
        Some(Death {
            first_verdict_ms: since(cut, verdicts.0),
            verdict_ms: since(cut, verdicts.1),
            view_ms: last(least_and_most(said.iter().map(|said| said.view)))?,
            take_over_ms: last(least_and_most(allowed))?,
            act_ms: since(cut, acted.iter().copied().min().context("a survivor")?),
            withheld_ms,
        })
    };
    crew.lab.heal()?;
    crew.await_view(&all)?;
    Ok(death)
}

fn series(nodes: usize, index: usize, count: usize) -> Result<Series<Death>> {
    let states = states()?;
    let (mut crew, sink) = Crew::formed_on(nodes, states.path())?;
    check_profile(&crew)?;
    let mut random = Random::new(crate::xdp::now() ^ index as u64);
    let (mut all, mut aside) = (Vec::new(), 0);
    while all.len() < count {
        match die(&mut crew, &sink, &mut random)? {
            Some(death) => all.push(death),
            None => aside += 1,
        }
        ensure!(aside <= count, "the cluster changes by itself: {aside} rounds");
    }
    let mut found = Series::of(all, &crew, &sink)?;
    found.aside = aside;
    Ok(found)
}

/// A place for the nodes' states on a disk, as they have it in life.
pub fn states() -> Result<tempfile::TempDir> {
    tempfile::tempdir_in("/var/tmp").context("a place for states on a disk")
}

/// Steps, and deaths of each cluster in a step.
fn sizes(context: &Context) -> (usize, usize) {
    context.choose((1, 2), (10, 50))
}

/// 1000 deaths among three, in steps; both scenarios read them.
fn of_three(context: &Context) -> Result<Series<Death>> {
    let (steps, each) = sizes(context);
    let measure = |step| {
        let all = context.step(&format!("views-three-{step}"), || side_by_side(LABS, |index| series(3, index, each)));
        all.map(Series::join)
    };
    let all = Series::join((0..steps).map(measure).collect::<Result<Vec<_>>>()?);
    raw(context, "views-three.csv", &all.all)?;
    Ok(all)
}

fn raw(context: &Context, name: &str, deaths: &[Death]) -> Result<()> {
    let mut raw = String::from("first_verdict_ms,verdict_ms,view_ms,take_over_ms,act_ms,withheld_ms\n");
    for Death { first_verdict_ms, verdict_ms, view_ms, take_over_ms, act_ms, withheld_ms } in deaths {
        writeln!(raw, "{first_verdict_ms},{verdict_ms},{view_ms},{take_over_ms},{act_ms},{withheld_ms}")?;
    }
    context.raw(name, &raw)
}

fn spread(name: &str, values: &[f64]) -> Vec<Figure> {
    let sorted = stats::sorted(values.to_vec());
    [("least", 0.0), ("median", 0.5), ("p99", 0.99), ("most", 1.0)]
        .map(|(word, of)| Figure::new(format!("{name}, {word}"), stats::percentile(&sorted, of), "ms", Bar::Shown))
        .into()
}

/// How many deaths there are to be, and how many rounds were none.
fn counts(series: &Series<Death>, wanted: usize) -> [Figure; 2] {
    [
        Figure::new("deaths", series.all.len() as f64, "", Bar::AtLeast(wanted as f64)),
        Figure::new("rounds set aside: something changed before the cut", series.aside as f64, "", Bar::Shown),
    ]
}

fn notes() -> Vec<String> {
    vec![
        "machines die by cutting all their ports in the switch; who was cut off finds itself left out, ends, and is \
         started again"
            .to_owned(),
        "times are of the nodes' own events, CLOCK_MONOTONIC, which all of them share here".to_owned(),
        "the nodes' states are on this machine's disk, below /var/tmp".to_owned(),
        awake::NOTE.to_owned(),
    ]
}

/// `view-death`: three nodes, `lan`: a machine's death to the new view installed on every survivor.
pub fn view_death(context: &Context) -> Result<Found> {
    let series = of_three(context)?;
    let times: Vec<f64> = series.all.iter().map(|death| death.view_ms).collect();
    let within = times.iter().filter(|time| **time <= VIEW_MS).count();
    let (steps, each) = sizes(context);
    let mut figures = Vec::from(counts(&series, steps * each * LABS));
    figures.push(Figure::new(
        "deaths without a view within 1000 ms",
        (times.len() - within) as f64,
        "",
        Bar::AtMost(0.0),
    ));
    figures.extend(spread("death to the new view on every survivor", &times));
    figures.extend(series.figures());
    context.plot(
        "view-death.svg",
        &Plot {
            title: "Time from a machine's death".to_owned(),
            axes: ["ms".to_owned(), "share of deaths".to_owned()],
            series: vec![
                ("verdict".to_owned(), distribution(&series.all, |death| death.verdict_ms)),
                ("new view".to_owned(), distribution(&series.all, |death| death.view_ms)),
                ("take-over".to_owned(), distribution(&series.all, |death| death.take_over_ms)),
            ],
            ..Plot::default()
        },
    )?;
    Ok(Found { figures, notes: notes() })
}

fn distribution(deaths: &[Death], value: fn(&Death) -> f64) -> Vec<(f64, f64)> {
    stats::distribution(deaths.iter().map(value).collect())
}

/// `take-over`: a machine's death until its work may be taken over, no stop time set.
pub fn take_over(context: &Context) -> Result<Found> {
    let series = of_three(context)?;
    let times: Vec<f64> = series.all.iter().map(|death| death.take_over_ms).collect();
    let p99 = stats::percentile(&stats::sorted(times.clone()), 0.99);
    let (steps, each) = sizes(context);
    let mut figures = Vec::from(counts(&series, steps * each * LABS));
    figures.push(Figure::new("death to take-over allowed, p99", p99, "ms", Bar::AtMost(TAKE_OVER_MS)));
    figures.extend(spread("death to take-over allowed on every survivor", &times));
    let acts: Vec<f64> = series.all.iter().map(|death| death.act_ms).collect();
    figures.extend(spread("death to the first act in the new view", &acts));
    figures.extend(series.figures());
    let mut notes = notes();
    notes.push(
        "allowed: the survivor has said that the view is in force, and has acted in it, whichever came later; of the \
         survivors the last"
            .to_owned(),
    );
    Ok(Found { figures, notes })
}

/// `view-verdict`: five nodes: the last survivor's verdict to the new view on every survivor.
pub fn view_verdict(context: &Context) -> Result<Found> {
    let (steps, each) = sizes(context);
    let measure = |step| {
        let series = context.step(&format!("views-five-{step}"), || series(5, 0, each))?;
        // After each part: a disk that is slow for a while shows.
        Ok((series, context.step(&format!("views-writes-{step}"), durable_writes)?))
    };
    let parts = (0..steps).map(measure).collect::<Result<Vec<_>>>()?;
    let (parts, writes): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
    let series = Series::join(parts);
    raw(context, "views-five.csv", &series.all)?;
    let times: Vec<f64> = series.all.iter().map(Death::decision_ms).collect();
    let p99 = stats::percentile(&stats::sorted(times.clone()), 0.99);
    let early = series.all.iter().filter(|death| death.is_early()).count();
    let mut figures = Vec::from(counts(&series, steps * each));
    figures.extend([
        Figure::new("last verdict to the view on every survivor, p99", p99, "ms", Bar::AtMost(VERDICT_MS)),
        Figure::new("views before the last verdict, timed from the first", early as f64, "", Bar::Shown),
    ]);
    figures.extend(spread("last verdict to the view", &times));
    let median = |times: &Vec<f64>| stats::percentile(&stats::sorted(times.clone()), 0.5);
    let slowest = stats::most(&writes.iter().map(median).collect::<Vec<_>>());
    let writes = stats::sorted(writes.concat());
    let shown = [
        ("median", stats::percentile(&writes, 0.5)),
        ("p99", stats::percentile(&writes, 0.99)),
        ("median after the part in which it was slowest", slowest),
    ];
    figures.extend(
        shown.map(|(word, ms)| Figure::new(format!("one durable write by itself, {word}"), ms, "ms", Bar::Shown)),
    );
    figures.extend(series.figures());
    let mut notes = notes();
    notes.push("three durable writes, one after another, are part of it: promise, acceptance, installation".to_owned());
    Ok(Found { figures, notes })
}

/// What it takes to put a small state on disk where the nodes' states are, one after another and as a node does it, ms
/// each.
fn durable_writes() -> Result<Vec<f64>> {
    let directory = states()?;
    let config = config::parse("heartbeatd.toml", EXAMPLE).map_err(|errors| anyhow!("{errors}"))?;
    let node = NodeId(config.nodes.first().context("a node")?.id);
    let first = First { member: Member { node, incarnation: 1 }, vote: VoteId([1, 1]), instance: [1, 1] };
    let mut state = first_state(&config, &first)?;
    let file = AgreementFile::new(directory.path(), Owner { node, state_id: 1 });
    file.create(&state)?;
    let mut times = Vec::new();
    for _ in 0..200 {
        file.prepare();
        state.sequence += 1;
        let at = Instant::now();
        file.write(&state)?;
        times.push(at.elapsed().as_secs_f64() * 1e3);
    }
    Ok(times)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn events() -> Vec<Value> {
        let said = |name: &str, at: u64, view: &str, members: &[&str]| {
            let mut event = json!({"event": name, "noticed_ns": at, "members": members, "node": "c"});
            event["view"] = view.into();
            event
        };
        vec![
            said("view_installed", 50, "0.1", &["a", "b"]),
            said("view_in_force", 60, "0.1", &[]),
            said("node_down", 200, "", &[]),
            said("view_installed", 210, "0.3", &["a", "c"]),
            said("view_installed", 220, "0.4", &["b", "a"]),
            said("view_in_force", 230, "0.3", &[]),
            said("view_in_force", 240, "0.5", &[]),
        ]
    }

    #[test]
    fn only_what_comes_after_the_cut_and_is_a_view_of_the_survivors_alone_counts() {
        let rest = ["a", "b"].map(str::to_owned);
        let said = said_of(&events(), 100, "c", &rest).unwrap();
        assert_eq!(said, Said { verdict: Some(200), view: 220, order: Order(4), in_force: 240 });
        assert_eq!(said_of(&events(), 100, "a", &rest).unwrap().verdict, None, "a verdict on somebody else");
        assert!(said_of(&events()[..4], 100, "c", &rest).is_err(), "no view of these alone");
        assert!(said_of(&events()[..6], 100, "c", &rest).is_err(), "in force was an older view");
    }

    #[test]
    fn a_round_in_which_something_changed_before_the_cut_is_none() {
        assert!(is_disturbed(&events(), 100) && !is_disturbed(&events()[1..], 100));
        assert!(is_disturbed(&events()[2..], 201));
    }

    #[test]
    fn no_view_takes_less_than_no_time_from_a_verdict() {
        let death = |verdict_ms| Death {
            first_verdict_ms: 500.0,
            verdict_ms,
            view_ms: 560.0,
            take_over_ms: 1100.0,
            act_ms: 1100.0,
            withheld_ms: 0.0,
        };
        assert_eq!((death(550.0).decision_ms(), death(550.0).is_early()), (10.0, false));
        assert_eq!((death(570.0).decision_ms(), death(570.0).is_early()), (60.0, true));
    }
}

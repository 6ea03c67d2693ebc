//! What a node may tell of views: each view once and in order, each removal once, right before the view that made it or the
//! one by which the node learned of it. A removal comes with its cause, unless a view made it that the node missed. It
//! judges event logs, and waits for nothing.

use super::acts::{Views, order};
use super::play::{name, number};
use anyhow::{Context, Result, bail, ensure};
use heartbeat_common::view::Order;
use serde_json::Value;
use std::collections::BTreeMap;

/// A removal that a node told, until it tells the next view.
struct Removal<'a> {
    event: &'a Value,
    /// The view that it names.
    view: Order,
    node: &'a str,
    incarnation: u64,
    /// The log has a hole before it: the node may have installed a view in there.
    late: bool,
    /// The log has a hole after it: the view installed may be in there.
    torn: bool,
}

impl<'a> Removal<'a> {
    fn read(event: &'a Value, late: bool) -> Result<Self> {
        let node = event["node"].as_str().with_context(|| format!("whose removal? {event}"))?;
        let (view, incarnation) = (order(&event["view"])?, number(event, "incarnation")?);
        Ok(Self { event, view, node, incarnation, late, torn: false })
    }

    /// Says that a node may tell this that told of view `last` and then of `next`.
    fn judge(&self, last: Order, next: Order, views: &Views) -> Result<()> {
        let Self { event, view, .. } = self;
        if self.torn {
            ensure!(*view <= next, "a removal by view {view:?}, and then view {next:?}: {event}");
        } else if event["cause"].is_string() {
            ensure!(*view == next, "a removal by view {view:?}, told with view {next:?}: {event}");
        } else {
            self.judge_unexplained(last, next, views)
                .with_context(|| format!("a removal without its cause between {last:?} and {next:?}: {event}"))?;
        }
        Ok(())
    }

    /// Without its cause a removal names the view that made it, where that is known: the node missed that view. Else it names
    /// the view installed, which is the first that the node knows to be without a member of the one before.
    fn judge_unexplained(&self, last: Order, next: Order, views: &Views) -> Result<()> {
        let view = self.view;
        ensure!(last.is_view(), "the node held no view before");
        ensure!(last < view && view <= next, "it did not miss view {view:?}");
        let member = |of: Order| views.holds(of, self.node, self.incarnation);
        let before = views.parent(view).and_then(member);
        if view == next {
            ensure!(before != Some(true), "the view installed made it itself");
            ensure!(self.late || member(last) != Some(false), "the view before was without it");
        } else {
            ensure!(before != Some(false), "the view before the one that it names was without it");
        }
        let mut later = views.orders().filter(|one| view <= *one && *one <= next);
        later.find(|one| member(*one) == Some(true)).map_or(Ok(()), |one| bail!("it is a member of view {one:?}"))
    }
}

/// Says that each view was installed once by each run of a node, in rising order; that each removal was told once, and a
/// view after it; and that only those lack their cause that a view made which the node missed. `views` is what all nodes
/// told.
///
/// # Errors
/// If it was otherwise.
pub fn told_in_order(events: &[Value], views: &Views) -> Result<()> {
    let (mut newest, mut fresh, mut hole) = (Order::NONE, false, false);
    let mut removed: Vec<(&Value, &Value)> = Vec::new();
    let mut open: Vec<Removal<'_>> = Vec::new();
    for event in events {
        match name(event) {
            "view_installed" => {
                let view = order(&event["view"])?;
                // A run whose state is lost learns the newest view once more, and no older one.
                ensure!(view > newest || fresh && view == newest, "view {view:?} was installed after {newest:?}");
                open.drain(..).try_for_each(|removal| removal.judge(newest, view, views))?;
                (newest, fresh, hole) = (view, false, false);
            }
            // Who is killed may have told less than what is on its disk.
            happened @ ("started" | "events_dropped") => {
                hole = true;
                open.iter_mut().for_each(|removal| removal.torn = true);
                if happened == "started" {
                    fresh = true;
                    removed.clear();
                }
            }
            "node_removed" => {
                let one = (&event["node"], &event["incarnation"]);
                ensure!(!removed.contains(&one), "{one:?} was removed twice: {event}");
                removed.push(one);
                open.push(Removal::read(event, hole)?);
            }
            _ => {}
        }
    }
    open.first().map_or(Ok(()), |removal| bail!("a removal, and no view after it: {}", removal.event))
}

/// Says that each view has one digest, whoever installed it.
///
/// # Errors
/// If one has two.
pub fn one_digest(events: &[Value], digests: &mut BTreeMap<Order, String>) -> Result<()> {
    for event in events.iter().filter(|event| name(event) == "view_installed") {
        let digest = event["digest"].as_str().with_context(|| format!("{event}"))?;
        let first = digests.entry(order(&event["view"])?).or_insert_with(|| digest.to_owned());
        ensure!(first == digest, "two views of one number: {first} and {event}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const C: u64 = 30;
    const NEW_C: u64 = 31;

    fn view(view: &str) -> Value {
        json!({"event": "view_installed", "view": view})
    }

    fn started() -> Value {
        json!({"event": "started"})
    }

    fn removed(incarnation: u64, by: &str) -> Value {
        json!({"event": "node_removed", "node": "c", "incarnation": incarnation, "view": by, "cause": "down"})
    }

    fn unexplained(incarnation: u64, by: &str) -> Value {
        json!({"event": "node_removed", "node": "c", "incarnation": incarnation, "view": by})
    }

    /// What a told: it saw all views. c is in views 1 and 2 under one incarnation, in view 5 under a newer one, in view 7 no
    /// more, and a forced view follows.
    fn views() -> Views {
        let said = |view: &str, members: &[&str]| json!({"event": "view_installed", "view": view, "members": members});
        let joined = |view: &str, node: &str, incarnation: u64| json!({"event": "node_joined", "view": view, "node": node, "incarnation": incarnation});
        let log = vec![
            said("0.1", &["a", "b", "c"]),
            joined("0.1", "a", 10),
            joined("0.1", "b", 20),
            joined("0.1", "c", C),
            said("0.2", &["a", "b", "c"]),
            said("0.3", &["a", "b"]),
            said("0.4", &["a", "b"]),
            said("0.5", &["a", "b", "c"]),
            joined("0.5", "c", NEW_C),
            said("0.6", &["a", "b", "c"]),
            said("0.7", &["a", "b"]),
            said("1.8", &["b"]),
        ];
        Views::read(&[log], &["a", "b", "c"].map(str::to_owned)).unwrap()
    }

    fn good(events: &[Value]) {
        told_in_order(events, &views()).unwrap();
    }

    fn bad(events: &[Value], why: &str) {
        let error = format!("{:#}", told_in_order(events, &views()).unwrap_err());
        assert!(error.contains(why), "{error}");
    }

    #[test]
    fn a_view_told_twice_or_backwards_is_found() {
        good(&[
            view("0.2"),
            removed(C, "0.3"),
            view("0.3"),
            view("0.6"),
            removed(NEW_C, "0.7"),
            view("0.7"),
            view("1.8"),
        ]);
        good(&[view("0.2"), started(), view("0.2"), view("0.3")]);
        bad(&[view("0.2"), started(), view("0.1")], "was installed after");
        bad(&[view("0.2"), view("0.2")], "was installed after");
        bad(&[view("1.8"), view("0.2")], "was installed after");
        bad(&[view("0.2"), removed(C, "0.3"), removed(C, "0.3"), view("0.3")], "removed twice");
        bad(&[view("0.2"), unexplained(C, "0.3"), view("0.4"), removed(C, "0.5"), view("0.5")], "removed twice");
        good(&[view("0.2"), removed(C, "0.3"), view("0.3"), started(), removed(C, "0.4"), view("0.4")]);
    }

    #[test]
    fn a_removal_with_its_cause_is_told_with_the_view_that_made_it() {
        bad(&[view("0.2"), removed(C, "0.3"), view("0.4")], "told with view");
        bad(&[view("0.2"), removed(C, "0.4"), view("0.3")], "told with view");
        bad(&[view("0.2"), removed(C, "0.3")], "no view after it");
    }

    #[test]
    fn who_missed_the_view_may_tell_its_removal_without_the_cause() {
        good(&[view("0.2"), unexplained(C, "0.3"), view("0.4")]);
        good(&[view("0.1"), unexplained(C, "0.3"), view("0.4"), view("0.5")]);
        good(&[view("0.1"), started(), unexplained(C, "0.3"), view("0.7")]);
        // What joined and left in between is named too, where it is not known to have stopped.
        good(&[view("0.4"), unexplained(NEW_C, "0.7"), view("1.8")]);
        // Where the view that made it is not known, the one installed is named.
        good(&[view("0.2"), unexplained(C, "0.4"), view("0.4")]);
        good(&[view("0.2"), unexplained(C, "0.5"), view("0.5")]);
        good(&[view("0.6"), unexplained(NEW_C, "1.8"), view("1.8")]);
    }

    #[test]
    fn who_saw_the_view_tells_the_cause() {
        bad(&[view("0.2"), unexplained(C, "0.3"), view("0.3")], "made it itself");
        bad(&[view("0.1"), unexplained(C, "0.3"), view("0.3")], "made it itself");
        bad(&[view("0.3"), unexplained(C, "0.3"), view("0.4")], "did not miss");
        bad(&[view("0.4"), unexplained(C, "0.3"), view("0.5")], "did not miss");
        bad(&[view("0.2"), unexplained(C, "0.4"), view("0.3")], "did not miss");
        bad(&[unexplained(C, "0.3"), view("0.4")], "held no view");
        bad(&[view("0.2"), unexplained(C, "0.3")], "no view after it");
        bad(&[view("0.2"), unexplained(C, "0.3"), started()], "no view after it");
    }

    #[test]
    fn what_is_said_without_a_cause_agrees_with_what_the_others_installed() {
        bad(&[view("0.1"), unexplained(C, "0.2"), view("0.4")], "is a member of view");
        bad(&[view("0.1"), unexplained(C, "0.4"), view("0.5")], "was without it");
        bad(&[view("0.2"), unexplained(NEW_C, "0.3"), view("0.4")], "was without it");
        bad(&[view("0.2"), unexplained(NEW_C, "0.4"), view("0.4")], "was without it");
        bad(&[view("0.4"), unexplained(C, "0.6"), view("0.7")], "was without it");
        // Of a view that nobody told of nothing is known but its number.
        let nobody = Views::default();
        told_in_order(&[view("0.2"), unexplained(C, "0.3"), view("0.4")], &nobody).unwrap();
        assert!(told_in_order(&[view("0.2"), unexplained(C, "0.5"), view("0.4")], &nobody).is_err());
    }

    #[test]
    fn in_a_hole_of_the_log_the_view_may_be_lost() {
        let dropped = || json!({"event": "events_dropped", "count": 3});
        for hole in [started, dropped] {
            good(&[view("0.2"), removed(C, "0.3"), hole(), view("0.4")]);
            good(&[view("0.2"), unexplained(C, "0.3"), hole(), view("0.7")]);
            bad(&[view("0.2"), unexplained(C, "0.4"), hole(), view("0.3")], "and then view");
            bad(&[view("0.2"), hole(), unexplained(C, "0.3"), view("0.3")], "made it itself");
            good(&[view("0.4"), hole(), unexplained(NEW_C, "1.8"), view("1.8")]);
            bad(&[view("0.4"), unexplained(NEW_C, "1.8"), view("1.8")], "the view before was without it");
        }
    }

    #[test]
    fn two_views_of_one_number_are_found() {
        let view = |view: &str, digest: &str| json!({"event": "view_installed", "view": view, "digest": digest});
        let mut digests = BTreeMap::new();
        one_digest(&[view("0.1", "aa"), view("0.2", "bb")], &mut digests).unwrap();
        one_digest(&[view("0.2", "bb")], &mut digests).unwrap();
        assert!(one_digest(&[view("0.1", "cc")], &mut digests).is_err());
    }
}

//! What nodes did while they might act, as a recording sink keeps it: it takes an act or refuses it by its token alone,
//! notes who acted at the same moment as whom, and says afterwards which of that breaks the rule of views. It reads no
//! page and no clock.
//!
//! The rule: if `i` acts in view `a` and `j` acts in view `b >= a` at the same time, then `i`, under its incarnation, is a
//! member of `b`.

use super::play::name;
use anyhow::{Context, Result};
use heartbeat_common::lease::{Refused, Token};
use heartbeat_common::view::Order;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Who acted, and under which token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Act {
    /// Index of the node.
    pub node: usize,
    /// What the act carried.
    pub token: Token,
}

/// Acts of one node under one token, one after another. Times are CLOCK_MONOTONIC ns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Who, and under which token.
    pub act: Act,
    /// The first act.
    pub first_ns: u64,
    /// The last one so far.
    pub last_ns: u64,
}

/// A moment in which a node that had acted might not any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Break {
    /// Index of the node.
    pub node: usize,
    /// When it was seen, CLOCK_MONOTONIC ns.
    pub at_ns: u64,
    /// Why it might not act; `None`: its machine was gone.
    pub why: Option<Refused>,
}

/// An act that the sink refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stale {
    /// What was refused.
    pub act: Act,
    /// Highest view that the sink had been shown.
    pub highest: Order,
    /// When, CLOCK_MONOTONIC ns.
    pub at_ns: u64,
}

/// Everything that came to the sink.
#[derive(Clone, Debug, Default)]
pub struct Acts {
    /// Acts, by when each stretch began. Refused ones are among them: the node believed that it might.
    pub stretches: Vec<Stretch>,
    /// Ends of acting.
    pub breaks: Vec<Break>,
    /// Acts that came after the end that the page had shown at the act before: what was between the two is not known. The
    /// moment is that end.
    pub unsure: Vec<Break>,
    /// Acts refused; of each token the first alone.
    pub refused: Vec<Stale>,
    /// Who acted at the same moment as whom; the lower node first.
    pub together: BTreeSet<(Act, Act)>,
    /// Acts in all.
    pub count: u64,
    /// Longest time in which the sink itself did not look, ns.
    pub longest_gap_ns: u64,
    /// The highest view shown, and the newest incarnation of each node.
    highest: Order,
    newest: BTreeMap<usize, u64>,
    /// The stretch that goes on, by node and page.
    open: BTreeMap<(usize, u64), usize>,
    /// Until when the page allowed to act, as it stood at the last act, by node and page; CLOCK_MONOTONIC ns.
    until: BTreeMap<(usize, u64), u64>,
    /// What was refused, to tell each once.
    stale: BTreeSet<Act>,
}

impl Acts {
    /// Takes an act that came by page `page` of its node, or refuses it.
    pub fn take(&mut self, act: Act, page: u64, at_ns: u64) {
        self.count += 1;
        let until = self.until.get(&(act.node, page)).copied();
        if let Some(until) = until.filter(|until| *until < at_ns && self.open.contains_key(&(act.node, page))) {
            self.unsure.push(Break { node: act.node, at_ns: until, why: Some(Refused::Expired) });
        }
        match self.open.get(&(act.node, page)) {
            Some(&index) if self.stretches[index].act == act => self.stretches[index].last_ns = at_ns,
            _ => {
                self.open.insert((act.node, page), self.stretches.len());
                self.stretches.push(Stretch { act, first_ns: at_ns, last_ns: at_ns });
            }
        }
        let newest = self.newest.entry(act.node).or_default();
        let highest = self.highest;
        if act.token.order < highest.0 || act.token.incarnation < *newest {
            if self.stale.insert(act) {
                self.refused.push(Stale { act, highest, at_ns });
            }
            return;
        }
        self.highest = Order(act.token.order);
        *newest = act.token.incarnation;
    }

    /// Takes note until when a page allows to act as it stands at an act, CLOCK_MONOTONIC ns.
    pub fn allowed(&mut self, node: usize, page: u64, until_ns: u64) {
        self.until.insert((node, page), until_ns);
    }

    /// Takes note that a node might not act by a page of its own.
    pub fn idle(&mut self, node: usize, page: u64, why: Option<Refused>, at_ns: u64) {
        if self.open.remove(&(node, page)).is_some() {
            self.breaks.push(Break { node, at_ns, why });
        }
    }

    /// Takes note of two nodes that acted at the same moment.
    pub fn both(&mut self, one: Act, other: Act) {
        self.together.insert(if one.node <= other.node { (one, other) } else { (other, one) });
    }

    /// Returns when a node last acted, CLOCK_MONOTONIC ns; `None`: never.
    #[must_use]
    pub fn last(&self, node: usize) -> Option<u64> {
        self.of(node).map(|stretch| stretch.last_ns).max()
    }

    /// Returns until when a node's pages allowed it to act, as they stood at the last act by each, CLOCK_MONOTONIC ns; `None`:
    /// it never acted.
    #[must_use]
    pub fn until(&self, node: usize) -> Option<u64> {
        self.until.range((node, 0)..=(node, u64::MAX)).map(|(_, until)| *until).max()
    }

    /// Returns when a node first acted in a view of this number or a higher one, CLOCK_MONOTONIC ns.
    #[must_use]
    pub fn first_from(&self, node: usize, order: Order) -> Option<u64> {
        self.of(node).filter(|stretch| stretch.act.token.order >= order.0).map(|stretch| stretch.first_ns).min()
    }

    /// Returns the stretches of a node.
    pub fn of(&self, node: usize) -> impl Iterator<Item = &Stretch> {
        self.stretches.iter().filter(move |stretch| stretch.act.node == node)
    }

    /// Returns the moments between these two in which a node that acted might not any more.
    pub fn breaks_of(&self, node: usize, from_ns: u64, to_ns: u64) -> impl Iterator<Item = &Break> {
        self.breaks.iter().filter(move |one| one.node == node && (from_ns..=to_ns).contains(&one.at_ns))
    }

    /// Returns how often an act came so late between these two that it is not known whether the node might act all the time.
    #[must_use]
    pub fn unsure_of(&self, node: usize, from_ns: u64, to_ns: u64) -> usize {
        self.unsure.iter().filter(|one| one.node == node && (from_ns..=to_ns).contains(&one.at_ns)).count()
    }

    /// Returns everything that breaks the rule of views, one line each; and every act refused that no member of the
    /// highest view sent.
    #[must_use]
    pub fn faults(&self, views: &Views) -> Vec<String> {
        let both = self.together.iter().flat_map(|(one, other)| {
            // Of two in the same view each has to be a member; else the one in the lower has to be one of the higher.
            let same = one.token.order == other.token.order;
            let lower_first = one.token.order <= other.token.order;
            let first = lower_first.then_some((one, other));
            let second = (same || !lower_first).then_some((other, one));
            first.into_iter().chain(second)
        });
        let broken = both.filter(|(lower, higher)| !views.has(Order(higher.token.order), **lower));
        let broken = broken.map(|(lower, higher)| format!("{lower:?} acted while {higher:?} did"));
        let strangers = self.refused.iter().filter(|stale| !views.has(stale.highest, stale.act));
        broken.chain(strangers.map(|stale| format!("refused, of no member: {stale:?}"))).collect()
    }
}

/// Members of every view, by node, with the incarnations that they are members under.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Views {
    names: Vec<String>,
    /// By view and node: the incarnation.
    members: BTreeMap<u64, BTreeMap<usize, u64>>,
}

impl Views {
    /// Puts them together from what all nodes said: `logs` are their events, by node, and `names` their names.
    ///
    /// # Errors
    /// If an event is not as it is written, or nobody said under which incarnation a member joined.
    pub fn read(logs: &[Vec<Value>], names: &[String]) -> Result<Self> {
        let mut joined: BTreeMap<(usize, u64), u64> = BTreeMap::new();
        let mut members: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        let index = |value: &Value| {
            let found = value.as_str().and_then(|text| names.iter().position(|name| name == text));
            found.with_context(|| format!("{value} is no node"))
        };
        for event in logs.iter().flatten() {
            match name(event) {
                "node_joined" => {
                    let incarnation = event["incarnation"].as_u64().with_context(|| format!("{event}"))?;
                    joined.insert((index(&event["node"])?, order(&event["view"])?.0), incarnation);
                }
                "view_installed" => {
                    let list = event["members"].as_array().with_context(|| format!("{event}"))?;
                    members.insert(order(&event["view"])?.0, list.iter().map(index).collect::<Result<_>>()?);
                }
                _ => {}
            }
        }
        let mut views = BTreeMap::new();
        for (view, nodes) in members {
            let mut of = BTreeMap::new();
            for node in nodes {
                // The newest joining not after this view: incarnations only rise.
                let range = joined.range((node, 0)..=(node, view));
                let (_, incarnation) = range.last().with_context(|| format!("nobody said how node {node} joined"))?;
                of.insert(node, *incarnation);
            }
            views.insert(view, of);
        }
        Ok(Self { names: names.to_vec(), members: views })
    }

    /// Says whether an act's author is a member of a view, under its incarnation.
    #[must_use]
    pub fn has(&self, view: Order, act: Act) -> bool {
        self.members.get(&view.0).is_some_and(|members| members.get(&act.node) == Some(&act.token.incarnation))
    }

    /// Says whether an incarnation of the node with this name is a member of a view; `None`: nobody said anything of the view.
    #[must_use]
    pub fn holds(&self, view: Order, name: &str, incarnation: u64) -> Option<bool> {
        let node = self.names.iter().position(|one| one == name);
        let members = self.members.get(&view.0)?;
        Some(node.and_then(|node| members.get(&node)) == Some(&incarnation))
    }

    /// Returns the view upon which a view was decided; `None`: nobody said anything of it. The first view of a force count
    /// is decided upon one of the force count before.
    #[must_use]
    pub fn parent(&self, view: Order) -> Option<Order> {
        let before = view.number().checked_sub(1)?;
        let same = Order::new(view.force(), 0)?;
        let first = self.members.range(same.0..view.0).next().is_none();
        let force = if first { view.force().checked_sub(1)? } else { view.force() };
        Order::new(force, before).filter(|parent| self.members.contains_key(&parent.0))
    }

    /// Returns the orders of all views, the lowest first.
    pub fn orders(&self) -> impl Iterator<Item = Order> {
        self.members.keys().map(|order| Order(*order))
    }
}

/// Reads a view as events and answers write it, `FORCE.NUMBER`.
///
/// # Errors
/// If it is none.
pub fn order(value: &Value) -> Result<Order> {
    let text = value.as_str().with_context(|| format!("{value} is no view"))?;
    let (force, number) = text.split_once('.').with_context(|| format!("{text} is no view"))?;
    Order::new(force.parse()?, number.parse()?).with_context(|| format!("{text} is no view"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn act(node: usize, order: u64, incarnation: u64) -> Act {
        Act { node, token: Token { order, incarnation } }
    }

    /// a and b are in views 1 and 2, c under 30 in view 1 and under 31 in view 3.
    fn views() -> Views {
        let said = |view: &str, members: &[&str]| json!({"event": "view_installed", "view": view, "members": members});
        let joined = |view: &str, node: &str, incarnation: u64| json!({"event": "node_joined", "view": view, "node": node, "incarnation": incarnation});
        let a = vec![
            said("0.1", &["a", "b", "c"]),
            joined("0.1", "a", 10),
            joined("0.1", "b", 20),
            joined("0.1", "c", 30),
            said("0.2", &["a", "b"]),
        ];
        let b = vec![said("0.3", &["a", "b", "c"]), joined("0.3", "c", 31)];
        Views::read(&[a, b], &["a", "b", "c"].map(str::to_owned)).unwrap()
    }

    #[test]
    fn members_are_known_by_their_incarnations() {
        let views = views();
        assert_eq!(views.orders().collect::<Vec<_>>(), [1, 2, 3].map(Order));
        let has = |view, act| views.has(Order(view), act);
        assert!(has(1, act(2, 0, 30)) && !has(1, act(2, 0, 31)), "the first incarnation");
        assert!(!has(2, act(2, 0, 30)) && !has(2, act(2, 0, 31)), "left out");
        assert!(has(3, act(2, 0, 31)) && !has(3, act(2, 0, 30)), "the second");
        assert!(has(3, act(0, 0, 10)) && !has(4, act(0, 0, 10)));
        assert_eq!((views.holds(Order(2), "c", 30), views.holds(Order(3), "c", 31)), (Some(false), Some(true)));
        assert_eq!((views.holds(Order(4), "c", 31), views.holds(Order(3), "nobody", 31)), (None, Some(false)));
        let nobody = [vec![json!({"event": "view_installed", "view": "0.1", "members": ["a"]})]];
        assert!(Views::read(&nobody, &["a".to_owned()]).is_err(), "nobody said how it joined");
    }

    #[test]
    fn the_view_before_is_known_where_somebody_told_of_it() {
        let said = |view: &str| json!({"event": "view_installed", "view": view, "members": []});
        let views = Views::read(&[["0.3", "0.4", "1.5", "1.6", "1.8"].map(said).to_vec()], &[]).unwrap();
        let order = |force, number| Order::new(force, number).unwrap();
        assert_eq!(views.parent(order(0, 4)), Some(order(0, 3)));
        assert_eq!(views.parent(order(1, 5)), Some(order(0, 4)), "the first of its force count");
        assert_eq!(views.parent(order(1, 6)), Some(order(1, 5)));
        assert_eq!(
            (views.parent(order(1, 8)), views.parent(order(0, 3)), views.parent(order(0, 1))),
            (None, None, None)
        );
    }

    #[test]
    fn a_left_out_node_that_acts_beside_the_new_view_is_found() {
        let mut acts = Acts::default();
        acts.both(act(2, 1, 30), act(0, 1, 10));
        acts.both(act(1, 1, 20), act(0, 2, 10));
        assert_eq!(acts.faults(&views()), Vec::<String>::new(), "members of the higher view may go on in the lower");
        acts.both(act(0, 2, 10), act(2, 1, 30));
        assert_eq!(acts.faults(&views()).len(), 1, "{acts:?}");
        // In the view of its return an older incarnation is a stranger, whichever way round the two are told.
        acts.both(act(2, 3, 30), act(0, 3, 10));
        assert_eq!(acts.faults(&views()).len(), 2);
    }

    #[test]
    fn the_sink_refuses_lower_views_and_older_incarnations() {
        let mut acts = Acts::default();
        acts.take(act(0, 2, 10), 1, 5);
        acts.take(act(1, 1, 20), 1, 6);
        acts.take(act(1, 1, 20), 1, 7);
        assert_eq!(acts.refused, [Stale { act: act(1, 1, 20), highest: Order(2), at_ns: 6 }], "told once");
        assert_eq!(acts.faults(&views()), Vec::<String>::new(), "b is a member of view 2");
        acts.take(act(2, 1, 30), 1, 8);
        assert_eq!(acts.faults(&views()).len(), 1, "c is none");
        acts.take(act(2, 3, 31), 2, 9);
        acts.take(act(2, 3, 30), 1, 10);
        assert_eq!(acts.refused.len(), 3, "an older incarnation of the same node");
    }

    #[test]
    fn stretches_and_breaks_are_kept_by_node_and_token() {
        let mut acts = Acts::default();
        acts.take(act(0, 1, 10), 1, 5);
        acts.take(act(0, 1, 10), 1, 6);
        acts.take(act(0, 2, 10), 1, 7);
        acts.idle(0, 1, Some(Refused::Expired), 8);
        acts.idle(0, 1, Some(Refused::Expired), 9);
        acts.take(act(0, 2, 10), 1, 11);
        let spans: Vec<_> = acts.of(0).map(|one| (one.act.token.order, one.first_ns, one.last_ns)).collect();
        assert_eq!(spans, [(1, 5, 6), (2, 7, 7), (2, 11, 11)]);
        assert_eq!(acts.breaks_of(0, 0, 20).map(|one| one.at_ns).collect::<Vec<_>>(), [8], "said once");
        assert_eq!((acts.last(0), acts.first_from(0, Order(2)), acts.last(1)), (Some(11), Some(7), None));
    }

    #[test]
    fn an_act_that_comes_after_the_end_shown_before_it_proves_no_lease_in_between() {
        let mut acts = Acts::default();
        let look = |acts: &mut Acts, at_ns, until_ns| {
            acts.take(act(0, 1, 10), 1, at_ns);
            acts.allowed(0, 1, until_ns);
        };
        look(&mut acts, 100, 600);
        look(&mut acts, 590, 610);
        assert_eq!((acts.unsure_of(0, 0, 2000), acts.until(0)), (0, Some(610)));
        look(&mut acts, 620, 1100);
        assert_eq!((acts.unsure_of(0, 0, 2000), acts.unsure_of(0, 611, 2000), acts.unsure_of(1, 0, 2000)), (1, 0, 0));
        // An end that was seen is a break, and nothing that is not known.
        acts.idle(0, 1, Some(Refused::Expired), 1101);
        look(&mut acts, 1300, 1800);
        assert_eq!((acts.unsure_of(0, 0, 2000), acts.breaks_of(0, 0, 2000).count()), (1, 1));
        assert_eq!((acts.until(0), acts.until(1)), (Some(1800), None));
    }
}

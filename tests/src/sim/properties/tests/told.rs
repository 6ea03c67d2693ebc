//! What is told twice, out of turn, or is not so.

use super::*;
use heartbeat_common::lease::Refused;
use heartbeat_user::core::agreement::AgreementEvent;
use heartbeat_user::core::agreement::document::Removal;
use heartbeat_user::core::time::MonoTime;

fn removal(node: usize, reason: Reason) -> Removal {
    Removal { member: member(node, 10), reason, silent_ms: 0, controller_age_ms: 0, judges: 0 }
}

/// Two daemons, of which the first has told the views that were decided.
fn told(views: &[Document]) -> World {
    let mut world = after_faults(&[]);
    for view in views {
        world.ghost.admit_alone(view, world.now);
        world.agreed(0, installed(view));
    }
    assert_eq!(broken_property(&world), None);
    world
}

fn installed(view: &Document) -> AgreementEvent {
    AgreementEvent::ViewInstalled { view: view.name(), members: Vec::new(), voters: Vec::new(), change: None }
}

fn joined(number: u64, node: usize) -> AgreementEvent {
    AgreementEvent::NodeJoined { view: Order(number), member: member(node, 10) }
}

fn lost(number: u64) -> AgreementEvent {
    let (why, ended) = (Refused::Expired, MonoTime::ZERO);
    AgreementEvent::QuorumLost { view: Order(number), why, missing: Vec::new(), ended }
}

/// Tells these one after the other. Returns the first that broke something, by its place, and what it broke.
fn tells(mut world: World, events: &[AgreementEvent]) -> Option<(usize, &'static str)> {
    for (at, event) in events.iter().enumerate() {
        world.agreed(0, event.clone());
        if let Some(property) = broken_property(&world) {
            return Some((at, property));
        }
    }
    None
}

#[test]
fn a_join_that_is_told_twice_or_not_at_all_or_is_none_is_seen() {
    let (one, both) = (document(1, &[0], &[]), document(2, &[0, 1], &[]));
    let world = || told(&[one.clone(), both.clone()]);
    let third = installed(&document(3, &[0, 1], &[]));
    assert_eq!(tells(world(), &[joined(2, 1), third.clone()]), None);
    assert_eq!(tells(world(), &[third]), Some((0, "S14")), "nobody was told of");
    assert_eq!(tells(world(), &[joined(2, 1), joined(2, 1)]), Some((1, "S14")), "twice");
    assert_eq!(tells(world(), &[joined(1, 0)]), Some((0, "S14")), "of a view before");
    assert_eq!(tells(world(), &[joined(2, 2)]), Some((0, "S14")), "no member");
}

#[test]
fn a_leave_that_no_view_shows_or_that_is_told_twice_is_seen() {
    let first = document(1, &[0, 1], &[]);
    let left = |view: u64| AgreementEvent::NodeLeftView { view: Order(view), member: member(1, 10), handed_over: true };
    let plays = |reason: Reason, events: &[AgreementEvent]| {
        let next = Document { removals: vec![removal(1, reason)], ..document(2, &[0], &[]) };
        let mut world = told(std::slice::from_ref(&first));
        world.ghost.admit_alone(&next, world.now);
        let mut events = events.to_vec();
        events.push(installed(&next));
        tells(world, &events)
    };
    assert_eq!(plays(Reason::Left, &[left(2)]), None);
    assert_eq!(plays(Reason::Left, &[]), Some((0, "S14")), "it is not told");
    assert_eq!(plays(Reason::Left, &[left(2), left(2)]), Some((2, "S14")), "twice");
    assert_eq!(plays(Reason::Left, &[left(1)]), Some((1, "S14")), "by a view that did not");
    assert_eq!(plays(Reason::Fenced, &[left(2)]), Some((1, "S14")), "it went for another reason");
}

#[test]
fn a_permission_that_is_told_out_of_turn_is_seen() {
    let world = || told(&[document(1, &[0, 1], &[]), document(2, &[0, 1], &[])]);
    let gained = |view: u64| AgreementEvent::LeaseGained { view: Order(view) };
    assert_eq!(tells(world(), &[gained(1), lost(2), gained(2), lost(2)]), None);
    assert_eq!(tells(world(), &[lost(2), gained(2)]), None, "it took over from another controller");
    assert_eq!(tells(world(), &[gained(1), lost(2), lost(2)]), Some((2, "S14")), "lost twice");
    assert_eq!(tells(world(), &[gained(1), gained(2)]), Some((1, "S14")), "gained twice");
    assert_eq!(tells(world(), &[gained(2), lost(2), gained(1)]), Some((2, "S14")), "an older view");
    assert_eq!(tells(world(), &[gained(1), lost(1)]), Some((1, "S14")), "of a view that it does not hold");
    let given_up = AgreementEvent::LeaseGivenUp { view: Order(2) };
    assert_eq!(tells(world(), &[gained(2), given_up, lost(2)]), Some((2, "S14")), "it had given it up");
}

#[test]
fn a_view_that_is_told_in_force_twice_or_is_not_held_is_seen() {
    let world = || told(&[document(1, &[0, 1], &[]), document(2, &[0, 1], &[])]);
    let in_force = |view: u64| AgreementEvent::ViewInForce { view: Order(view), after: Duration::ZERO };
    assert_eq!(tells(world(), &[in_force(2)]), None);
    assert_eq!(tells(world(), &[in_force(2), in_force(2)]), Some((1, "S14")));
    assert_eq!(tells(world(), &[in_force(1)]), Some((0, "S14")));
}

#[test]
fn a_quarantine_that_is_told_twice_or_is_none_is_seen() {
    let world = || told(&[document(1, &[0, 1], &[])]);
    let quarantined =
        |node: usize| AgreementEvent::Quarantined { node: plan::id(node), ends: 3, remaining: Duration::ZERO };
    let cleared = |node: usize| AgreementEvent::QuarantineCleared { node: plan::id(node) };
    assert_eq!(tells(world(), &[quarantined(1)]), Some((0, "S14")), "it is in none");
    assert_eq!(tells(world(), &[cleared(1), cleared(1)]), Some((1, "S14")), "twice");
    let refused = AgreementEvent::QuarantineRefused { node: plan::id(1), remaining: Duration::ZERO };
    let asks = |world: &mut World, incarnation: u64| {
        world.hears = Some(member(1, incarnation));
        world.agreed(0, refused.clone());
        broken_property(world)
    };
    let mut world = world();
    assert_eq!((asks(&mut world, 10), asks(&mut world, 11)), (None, None));
    assert_eq!(asks(&mut world, 10), Some("S14"), "once for each incarnation");
}

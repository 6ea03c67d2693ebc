//! What people see of views and votes. It starts nothing.

use super::super::super::{BudgetStatus, Life, Stage, ViewDocument};
use super::*;

fn name(number: u64) -> ViewRef {
    ViewRef { force: 0, number, digest: "00112233445566aa".into() }
}

fn of(name: &str, id: u16, incarnation: u64) -> MemberStatus {
    MemberStatus { name: name.into(), id, incarnation }
}

pub(crate) fn view() -> ViewStatus {
    ViewStatus {
        life: Life::Member,
        view: Some(ViewDocument {
            name: name(7),
            members: vec![of("a", 1, 12), of("b", 2, 3)],
            removals: Vec::new(),
            owed: Vec::new(),
            quarantined: Vec::new(),
        }),
        in_force: Some("0.7".into()),
        stage: Stage::Stabilized,
        waits_for: Vec::new(),
        acting: true,
        not_acting: None,
        token: Some("0.7.12".into()),
    }
}

pub(crate) fn quorum() -> QuorumStatus {
    let vote = |holder: &str, id, weight, own, granted_ms_ago| VoteStatus {
        holder: holder.into(),
        id: Some(id),
        configured: 1,
        weight,
        own,
        granted_ms_ago,
    };
    QuorumStatus {
        view: name(7),
        dynamic: true,
        lower_priority: Some("b".into()),
        votes: vec![vote("a", 1, 1, true, Some(0)), vote("b", 2, 0, false, Some(1234)), vote("c", 3, 0, false, None)],
        votes_total: 1,
        votes_needed: 1,
        votes_fresh: 1,
        lease_ms: 500,
        stop_ms: 0,
        longest_ms: 20_000,
        lease_left_ms: Some(432),
        last_disk: Some("a".into()),
        budget: BudgetStatus { detection_ms: 500, view_ms: 20, in_force_ms: 501 },
    }
}

/// A view that has left c out, of which nothing is known yet.
fn waiting() -> ViewStatus {
    let mut status = view();
    let view = status.view.as_mut().unwrap();
    view.name = name(8);
    view.removals = vec![RemovalStatus {
        member: of("c", 3, 4),
        reason: RemovalReason::Down,
        judges: vec!["a".into(), "b".into()],
        silent_ms: 512,
        controller_age_ms: 9,
    }];
    view.owed = vec![OwedStatus { member: of("c", 3, 4), left_out_by: "0.8".into(), stopped: false }];
    view.quarantined = vec![QuarantineStatus { name: "d".into(), id: 4, exits: 3, remaining_ms: 5_400_000 }];
    status.waits_for = vec!["c to have stopped".into()];
    status.stage = Stage::Cleanup;
    status
}

#[test]
fn a_view_in_force_is_short() {
    assert_eq!(
        show_view(&view()),
        "view       0.7 (00112233445566aa), in force\n\
         node       member; acts, with token 0.7.12\n\
         stage      stabilized\n\
         members    a (incarnation 12), b (incarnation 3)\n"
    );
}

#[test]
fn a_view_not_in_force_says_whom_it_waits_for_and_why() {
    let text = show_view(&waiting());
    for part in [
        "view       0.8 (00112233445566aa), agreed, NOT in force\n",
        "in force   still 0.7: who goes on acts under that one\n",
        "stage      cleanup\nwaits for  c to have stopped\n",
        "left out   c (incarnation 4): silent on every path for 512ms; so judged by a, b\n",
        "owed       c (incarnation 4), left out by view 0.8: NOT known to have stopped\n",
        "quarantine d may not join for 1h30m: it ended ungracefully 3 times within an hour\n",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
}

#[test]
fn who_may_not_act_is_told_why() {
    let mut status = view();
    (status.acting, status.token, status.not_acting) = (false, None, Some("its kernel obeyed\na fence".into()));
    assert!(show_view(&status).contains("node       member; may NOT act: its kernel obeyed a fence\n"), "one line");
    (status.view, status.in_force, status.life) = (None, None, Life::NoView);
    assert!(show_view(&status).starts_with("view       none\nnode       no_view; may NOT act"));
}

#[test]
fn votes_have_a_row_each_and_the_last_disk_is_named() {
    let text = show_quorum(&quorum(), true);
    for part in [
        "view       0.7 (00112233445566aa)\n",
        "votes      1 of 1 granted within the lease, 1 needed; they follow membership; b loses its own first\n",
        "lease      500ms, of which stopping takes 0ms; 432ms left; the longest that may still run anywhere is 20s\n",
        "budget     detection 500ms + view 20ms + in force 501ms = taken over within 1.021s\n",
        "last disk  a's disk alone is the cluster: without it no view can follow\n",
        "HOLDER         ID  WEIGHT  CONFIGURED     GRANTED\n",
        "a (this node)   1       1           1      stands\n",
        "b               2       0           1  1.234s ago\n",
        "c               3       0           1           -\n",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    assert!(!show_quorum(&quorum(), false).contains("HOLDER"));
    let over = QuorumStatus { lease_left_ms: None, dynamic: false, lower_priority: None, ..quorum() };
    let text = show_quorum(&over, true);
    assert!(text.contains("it is OVER") && text.contains("they stay as configured\n"), "{text}");
}

#[test]
fn status_has_view_and_lease_in_a_line_each() {
    let glanced = |status: ViewStatus| ViewGlance::of(status, Some(&quorum()));
    let well = glanced(view());
    assert_eq!(glance(Some(&well)), "0.7 (00112233445566aa), in force of a, b; member, stabilized");
    assert_eq!(
        lease(Some(&well)),
        "432ms of 500ms left; votes of a; LAST DISK: a's disk alone is the cluster: without it no view can follow"
    );
    assert_eq!(well.fault(), None);
    let waits = glanced(waiting());
    let text = glance(Some(&waits));
    assert!(text.contains("; d in quarantine for 1h30m; waits for"), "{text}");
    assert!(text.contains("agreed, NOT in force of a, b; acts under 0.7 meanwhile"), "{text}");
    assert!(text.ends_with("; waits for c to have stopped"), "{text}");
    assert_eq!(waits.fault().unwrap(), "view 0.8 is not in force: waits for c to have stopped");
    assert!(glance(None).starts_with("none: the cluster was not initialised"));
    assert_eq!(lease(None), "-");
}

#[test]
fn what_is_wrong_with_a_view_is_a_fault() {
    let mut status = view();
    (status.acting, status.token, status.not_acting) = (false, None, Some("it is no member of the view".into()));
    let quorum = QuorumStatus { lease_left_ms: None, ..quorum() };
    let mut glanced = ViewGlance::of(status, Some(&quorum));
    assert_eq!(glanced.fault().unwrap(), "may not act in view 0.7: it is no member of the view");
    assert!(lease(Some(&glanced)).starts_with("may NOT act: it is no member of the view; votes of a"));
    (glanced.held, glanced.life, glanced.waits_for) = (None, Life::NoView, vec!["b".into(), "c".into()]);
    assert_eq!(glanced.fault().unwrap(), "no view: waits for b, c");
    assert_eq!(glance(Some(&glanced)), "none (no_view); waits for b, c");
}

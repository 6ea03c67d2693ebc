//! Ends of the daemon: why it ends, what the next start and the caller are told of that, how long it may take, and what is
//! done last. It ends no thread by itself.

use crate::cli::ExitCode;
use crate::core::agreement::types::Ending;
use crate::io::clock;
use crate::io::decider::Over;
use crate::io::disk::exits::How;
use crate::io::failure::Failure;
use crate::io::keeper::Goodbye;
use crate::io::memory::Shared;
use std::time::Duration;

/// How much longer a leave may take than a view and the stop of what runs do together.
const MARGIN: Duration = Duration::from_secs(10);
/// What an end takes beside these: hooks, goodbyes, the log.
const REST: Duration = Duration::from_secs(20);

/// How long an announced successor may take before the controller age begins to grow: an orderly restart is no stall.
/// A controller that dies announces nothing, and its age grows at once.
const SUCCESSION: Duration = Duration::from_secs(2);

/// Why the daemon ends.
pub(super) enum End {
    Leave(&'static str),
    Handover(&'static str),
    /// This node's part in the cluster is over.
    Over(Over),
}

impl End {
    /// Returns how this run ended, for the next start; `None`: it goes on.
    pub(super) const fn how(&self) -> Option<How> {
        Some(match self {
            Self::Handover(_) => return None,
            Self::Leave(_) | Self::Over(Over::Agreement(Ending::Left)) => How::Left,
            Self::Over(Over::Agreement(Ending::Removed)) => How::Removed,
            Self::Over(Over::Agreement(Ending::Out) | Over::Outrun(_)) => How::LeftOut,
            Self::Over(Over::Agreement(Ending::Forfeited)) => How::DiskFailed,
        })
    }

    /// Returns what is told as the reason.
    pub(super) const fn reason(&self) -> &'static str {
        match self {
            Self::Leave(reason) | Self::Handover(reason) => reason,
            Self::Over(Over::Agreement(Ending::Left)) => "left the cluster",
            Self::Over(Over::Agreement(Ending::Out)) => "left out by the cluster",
            Self::Over(Over::Agreement(Ending::Removed)) => "removed by an operator's order",
            Self::Over(Over::Agreement(Ending::Forfeited)) => "the agreement could not be kept on disk",
            Self::Over(Over::Outrun(_)) => "a peer knows a newer incarnation of this node",
        }
    }

    pub(super) fn outcome(self) -> Result<(), Failure> {
        match self {
            Self::Leave(_) | Self::Handover(_) | Self::Over(Over::Agreement(Ending::Left)) => Ok(()),
            Self::Over(Over::Agreement(Ending::Out)) => {
                let error = anyhow::anyhow!("the cluster left this node out: a restart joins anew");
                Err(Failure::new(ExitCode::Fenced, error))
            }
            Self::Over(Over::Agreement(Ending::Removed)) => {
                let error = anyhow::anyhow!("an operator had this node removed: a restart joins anew");
                Err(Failure::new(ExitCode::Fenced, error))
            }
            Self::Over(Over::Outrun(known)) => {
                let error = anyhow::anyhow!(
                    "a peer knows incarnation {known} of this node, which is not the one that ran here: a restart joins \
                     anew"
                );
                Err(Failure::new(ExitCode::Fenced, error))
            }
            Self::Over(Over::Agreement(Ending::Forfeited)) => Err(Failure::host(anyhow::anyhow!(
                "the agreement could not be kept on disk: this node's vote is forfeited"
            ))),
        }
    }
}

/// How long a leave is waited for: `view` for the view without this node, `stop` for what runs to stop, and a margin. The
/// agreement gives up by itself at the former, once what runs has stopped.
pub(super) const fn leaving_time(view: Duration, stop: Duration) -> Duration {
    view.saturating_add(stop).saturating_add(MARGIN)
}

/// How long an end may take: what did not stop while this node left is waited for once more.
pub(super) const fn ending_time(view: Duration, stop: Duration) -> Duration {
    leaving_time(view, stop).saturating_add(stop).saturating_add(REST)
}

/// Has the machine's watchdog disarmed where all has stopped, however this came to its end: it would reset the machine.
/// Gives an announced successor its time: once nothing proves progress any more, which would take it back, and before
/// `rest`, which waits for the log: its disk may be slow, and peers see the age grow.
pub(super) fn finish(
    shared: &Shared,
    goodbye: Goodbye,
    disarm: impl FnOnce(),
    stop_deciding: impl FnOnce(),
    rest: impl FnOnce(),
) {
    if goodbye == Goodbye::Stopped {
        disarm();
    }
    stop_deciding();
    if goodbye == Goodbye::Handover {
        shared.set_progress((clock::now() + SUCCESSION).0);
    }
    rest();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::ran::Ran;

    #[test]
    fn a_successor_has_its_time_before_the_log_is_waited_for_and_after_the_last_progress() {
        for goodbye in [Goodbye::Handover, Goodbye::Stopped, Goodbye::Leaving] {
            let handover = goodbye == Goodbye::Handover;
            let shared = Shared::new(None, 1).unwrap();
            let last = clock::now();
            let mut waited = false;
            finish(
                &shared,
                goodbye,
                || (),
                || shared.set_progress(last.0),
                || {
                    waited = true;
                    let progress = shared.progress();
                    match handover {
                        true => assert!(progress >= (last + SUCCESSION).0, "{progress} after {last:?}"),
                        false => assert_eq!(progress, last.0, "whoever leaves has no successor"),
                    }
                },
            );
            assert!(waited);
        }
    }

    #[test]
    fn an_operators_order_is_waited_for_by_no_later_start() {
        let how = |ending| End::Over(Over::Agreement(ending)).how().unwrap();
        assert!(!how(Ending::Removed).is_ungraceful() && !how(Ending::Left).is_ungraceful());
        assert!(how(Ending::Out).is_ungraceful() && how(Ending::Forfeited).is_ungraceful());
        let ended = End::Over(Over::Agreement(Ending::Removed)).outcome().unwrap_err();
        assert_eq!(ended.code, ExitCode::Fenced, "it is to be started again all the same");
    }

    #[test]
    fn the_watchdog_is_disarmed_by_each_end_that_says_stopped_and_by_no_other() {
        for goodbye in [Goodbye::Handover, Goodbye::Stopped, Goodbye::Leaving] {
            let shared = Shared::new(None, 1).unwrap();
            let (disarmed, decides) = (std::cell::Cell::new(false), std::cell::Cell::new(true));
            let disarm = || {
                assert!(decides.get(), "the deciding thread does it");
                disarmed.set(true);
            };
            finish(&shared, goodbye, disarm, || decides.set(false), || ());
            assert_eq!(disarmed.get(), goodbye == Goodbye::Stopped, "{goodbye:?}");
        }
    }

    #[test]
    fn a_leave_is_waited_for_as_long_as_a_view_lets_what_runs_stop() {
        let ran = Ran::new(Duration::from_secs(2), crate::io::hooks::Shelter::find());
        let view = Duration::from_secs(5);
        assert!(leaving_time(view, ran.longest()) >= Duration::from_secs(2 + 5 + 10));
        // A view lets it take five minutes.
        ran.stop_time_is(300_000);
        let leaving = leaving_time(view, ran.longest());
        assert!(leaving >= Duration::from_secs(300 + 5 + 10), "{leaving:?}");
        assert!(ending_time(view, ran.longest()) >= leaving + ran.longest());
    }
}

//! Decides this node's identity at start, (incarnation, controller generation), from what survived.
//! It reads and writes neither disk nor pins.

use serde::Serialize;
use std::fmt;
use thiserror::Error;

/// Identity as one of its two keepers has it: the state directory, or the pinned maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Incarnation; 0: none was taken yet.
    pub incarnation: u64,
    /// Controller generation within it.
    pub generation: u32,
    /// Random id made with the state directory's contents.
    pub state_id: u64,
    /// Boot id of the machine start in which it was written.
    pub boot: [u64; 2],
}

/// What the state directory holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disk {
    /// The identity last used.
    pub kept: Kept,
    /// The node left: what ran under that incarnation has stopped for good.
    pub left: bool,
}

/// Everything the decision rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// The state directory's contents, if any.
    pub disk: Option<Disk>,
    /// The pinned maps' contents, if any; the caller has checked their layout.
    pub pins: Option<Kept>,
    /// Boot id of this machine start.
    pub boot: [u64; 2],
    /// Newest incarnation of this node that a peer is known to know, or that a view on this disk admitted; 0: none.
    pub learnt: u64,
    /// What this node promised by its vote is lost, though the rest of the state directory may be there.
    pub vote_lost: bool,
    /// A random number. A first start may be one that has lost all memory of an earlier: were its incarnation always
    /// the same, peers could take it for the one that they know. Unlike, it is newer, or older and told so by them.
    pub seed: u32,
}

/// First incarnations are below this.
const FIRST_BELOW: u32 = 1 << 20;

/// Why the identity is what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Same boot, pins and disk state agree: the running incarnation goes on.
    Adopted,
    /// Neither disk state nor pins: the first start, or both were lost.
    FirstStart,
    /// Pins without disk state, or the vote's part of it is lost.
    DiskLost,
    /// The node had left.
    Left,
    /// The machine was started anew.
    Rebooted,
    /// Disk state of this boot without pins.
    PinsLost,
    /// Pins and disk state are not of one run.
    Disagree,
    /// A peer knows a newer incarnation of this node.
    Outrun,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Adopted => "pins and disk state of this boot agree",
            Self::FirstStart => "there is neither disk state nor a pinned program",
            Self::DiskLost => "the disk state was lost",
            Self::Left => "the node had left",
            Self::Rebooted => "the machine was started anew",
            Self::PinsLost => "the pinned program was gone",
            Self::Disagree => "pins and disk state are not of one run",
            Self::Outrun => "a peer knows a newer incarnation of this node",
        })
    }
}

/// The identity to run under. It goes to disk before the first probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Incarnation, at least 1.
    pub incarnation: u64,
    /// Controller generation, at least 1.
    pub generation: u32,
    /// True: take the pins over as they are. False: whatever is pinned must go.
    pub adopt: bool,
    /// Why.
    pub reason: Reason,
}

/// The number of incarnations or generations is used up; nothing was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("no number above {0} is left for the identity")]
pub struct Exhausted(pub u64);

/// Decides the identity.
///
/// The incarnation is kept only when nothing of the run can have been lost; otherwise it rises above every number
/// known, for a newer incarnation must prove that the older has stopped.
///
/// # Errors
/// [`Exhausted`] when the next number does not exist.
pub fn decide(found: &Found) -> Result<Identity, Exhausted> {
    let reason = reason(found);
    let disk = found.disk.map(|disk| disk.kept);
    let newest = |of: fn(&Kept) -> u64| disk.iter().chain(&found.pins).map(of).max().unwrap_or(0);
    let own = newest(|kept| kept.incarnation);
    let incarnation = own.max(found.learnt);
    if reason == Reason::Adopted {
        let generation = newest(|kept| u64::from(kept.generation));
        let generation = u32::try_from(generation + 1).map_err(|_| Exhausted(generation))?;
        return Ok(Identity { incarnation, generation, adopt: true, reason });
    }
    // What a peer remembers need not be the newest: another one may have heard a later incarnation, which the next number
    // would take a second time. By a random step it is newer than that one too, or older and told so.
    let guessed = reason == Reason::FirstStart || found.learnt > own;
    let step = if guessed { u64::from(found.seed % FIRST_BELOW) } else { 0 };
    let incarnation = incarnation.checked_add(1 + step).ok_or(Exhausted(incarnation))?;
    Ok(Identity { incarnation, generation: 1, adopt: false, reason })
}

fn reason(found: &Found) -> Reason {
    let (disk, pins) = match (found.disk, found.pins) {
        (None, None) => return if found.learnt == 0 { Reason::FirstStart } else { Reason::Outrun },
        (None, Some(_)) => return Reason::DiskLost,
        (Some(disk), pins) => (disk, pins),
    };
    if disk.left {
        return Reason::Left;
    }
    if found.vote_lost {
        return Reason::DiskLost;
    }
    if disk.kept.boot != found.boot {
        return Reason::Rebooted;
    }
    let Some(pins) = pins else { return Reason::PinsLost };
    let one_run =
        (pins.incarnation, pins.state_id, pins.boot) == (disk.kept.incarnation, disk.kept.state_id, disk.kept.boot);
    if !one_run || pins.incarnation == 0 {
        Reason::Disagree
    } else if found.learnt > pins.incarnation {
        Reason::Outrun
    } else {
        Reason::Adopted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: [u64; 2] = [1, 2];
    const KEPT: Kept = Kept { incarnation: 7, generation: 3, state_id: 9, boot: BOOT };

    fn found(disk: Option<Disk>, pins: Option<Kept>, learnt: u64) -> Found {
        Found { disk, pins, boot: BOOT, learnt, vote_lost: false, seed: 0 }
    }

    fn disk(kept: Kept) -> Option<Disk> {
        Some(Disk { kept, left: false })
    }

    #[test]
    fn table() {
        let other_boot = Kept { boot: [1, 3], ..KEPT };
        let other_state = Kept { state_id: 8, incarnation: 11, ..KEPT };
        let older = Kept { incarnation: 6, generation: 90, ..KEPT };
        let raised = |incarnation, reason| Ok(Identity { incarnation, generation: 1, adopt: false, reason });
        let kept = |generation| Ok(Identity { incarnation: 7, generation, adopt: true, reason: Reason::Adopted });
        let cases = [
            ("first start", found(None, None, 0), raised(1, Reason::FirstStart)),
            ("another first start", Found { seed: 41, ..found(None, None, 0) }, raised(42, Reason::FirstStart)),
            (
                "the last first incarnation",
                Found { seed: u32::MAX, ..found(None, None, 0) },
                raised(u64::from(FIRST_BELOW), Reason::FirstStart),
            ),
            (
                "another incarnation may be known elsewhere",
                Found { seed: 41, ..found(disk(KEPT), Some(KEPT), 8) },
                raised(50, Reason::Outrun),
            ),
            (
                "the seed is for what is not known for certain",
                Found { seed: 41, ..found(disk(KEPT), None, 0) },
                raised(8, Reason::PinsLost),
            ),
            ("no state, but a peer remembers", found(None, None, 5), raised(6, Reason::Outrun)),
            ("restart", found(disk(KEPT), Some(KEPT), 0), kept(4)),
            ("restart, peers know this incarnation", found(disk(KEPT), Some(KEPT), 7), kept(4)),
            ("disk behind by a generation", found(disk(KEPT), Some(Kept { generation: 5, ..KEPT }), 0), kept(6)),
            ("pins behind by a generation", found(disk(Kept { generation: 5, ..KEPT }), Some(KEPT), 0), kept(6)),
            ("a peer knows more", found(disk(KEPT), Some(KEPT), 8), raised(9, Reason::Outrun)),
            ("reboot", found(disk(other_boot), None, 0), raised(8, Reason::Rebooted)),
            ("reboot, pins of this boot", found(disk(other_boot), Some(KEPT), 0), raised(8, Reason::Rebooted)),
            ("pins of another boot", found(disk(KEPT), Some(other_boot), 0), raised(8, Reason::Disagree)),
            ("pins lost", found(disk(KEPT), None, 0), raised(8, Reason::PinsLost)),
            ("disk lost", found(None, Some(KEPT), 0), raised(8, Reason::DiskLost)),
            ("disk lost, learnt more", found(None, Some(KEPT), 20), raised(21, Reason::DiskLost)),
            ("disk made anew", found(disk(KEPT), Some(other_state), 0), raised(12, Reason::Disagree)),
            ("pins of an older incarnation", found(disk(KEPT), Some(older), 0), raised(8, Reason::Disagree)),
            (
                "the vote lost, all else there",
                Found { vote_lost: true, ..found(disk(KEPT), Some(KEPT), 0) },
                raised(8, Reason::DiskLost),
            ),
            (
                "the vote lost, and a view on disk admitted more",
                Found { vote_lost: true, ..found(disk(KEPT), Some(KEPT), 30) },
                raised(31, Reason::DiskLost),
            ),
            ("a view on disk admitted more", found(disk(KEPT), None, 30), raised(31, Reason::PinsLost)),
            ("left", found(Some(Disk { kept: KEPT, left: true }), None, 0), raised(8, Reason::Left)),
            ("left, pins there", found(Some(Disk { kept: KEPT, left: true }), Some(KEPT), 0), raised(8, Reason::Left)),
            (
                "disk of no incarnation",
                found(disk(Kept { incarnation: 0, ..KEPT }), Some(Kept { incarnation: 0, ..KEPT }), 0),
                raised(1, Reason::Disagree),
            ),
            ("incarnations used up", found(None, None, u64::MAX), Err(Exhausted(u64::MAX))),
            (
                "generations used up",
                found(disk(Kept { generation: u32::MAX, ..KEPT }), Some(KEPT), 0),
                Err(Exhausted(u64::from(u32::MAX))),
            ),
        ];
        for (name, found, expected) in cases {
            assert_eq!(decide(&found), expected, "{name}");
        }
    }

    /// Every combination of small values: kept only when all agree, above everything known otherwise.
    #[test]
    fn exhaustive() {
        let numbers = [1, 2];
        let mut kepts = vec![None];
        for incarnation in numbers {
            for state_id in numbers {
                for boot in numbers {
                    kepts.push(Some(Kept { incarnation, generation: 1, state_id, boot: [boot, 0] }));
                }
            }
        }
        let mut adopted = 0;
        for (kept, pins, left, learnt) in kepts.iter().flat_map(|&kept| {
            kepts.iter().flat_map(move |&pins| {
                [false, true].into_iter().flat_map(move |left| (0..4).map(move |learnt| (kept, pins, left, learnt)))
            })
        }) {
            let disk = kept.map(|kept| Disk { kept, left });
            let found = Found { disk, pins, boot: [1, 0], learnt, vote_lost: false, seed: 0 };
            let identity = decide(&found).unwrap();
            let known = [kept.map(|k| k.incarnation), pins.map(|k| k.incarnation), Some(learnt)];
            let known = known.into_iter().flatten().max().unwrap();
            let agree = kept.is_some_and(|k| Some(k) == pins && k.boot == found.boot && learnt <= k.incarnation);
            if agree && !left {
                adopted += 1;
                assert_eq!((identity.incarnation, identity.generation, identity.adopt), (known, 2, true), "{found:?}");
            } else {
                let expected = (known + 1, 1, false);
                assert_eq!((identity.incarnation, identity.generation, identity.adopt), expected, "{found:?}");
            }
        }
        assert_eq!(adopted, 10);
    }
}

//! Who may ask what: one table, judged by what the kernel says about the caller. It trusts nothing the caller says.

use super::Verb;

/// What a verb does, as far as permission goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It looks: for root, the daemon's own user and members of the socket's group.
    Read,
    /// It changes something: for root and the daemon's own user.
    Write,
}

/// The one table of verbs and what they need.
const TABLE: [(Verb, Access); Verb::ALL.len()] = [
    (Verb::Status, Access::Read),
    (Verb::Nodes, Access::Read),
    (Verb::Paths, Access::Read),
    (Verb::Events, Access::Read),
    (Verb::Counters, Access::Read),
    (Verb::Handover, Access::Write),
    (Verb::Detach, Access::Write),
    (Verb::View, Access::Read),
    (Verb::Quorum, Access::Read),
    (Verb::Init, Access::Write),
    (Verb::Leave, Access::Write),
    (Verb::Fence, Access::Write),
    (Verb::ClearQuarantine, Access::Write),
    (Verb::Set, Access::Write),
    (Verb::ForceQuorum, Access::Write),
];

/// A caller, by the kernel's word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary group ids.
    pub groups: Vec<u32>,
}

/// Whose the socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// User id of the daemon.
    pub uid: u32,
    /// Group whose members may read; `None`: there is no such group.
    pub group: Option<u32>,
}

/// Says whether `caller` may ask `verb` of a daemon whose socket is `owner`'s.
#[must_use]
pub fn may(caller: &Caller, verb: Verb, owner: Owner) -> bool {
    let trusted = caller.uid == 0 || caller.uid == owner.uid;
    match access(verb) {
        Some(Access::Write) => trusted,
        Some(Access::Read) => {
            trusted || owner.group.is_some_and(|group| caller.gid == group || caller.groups.contains(&group))
        }
        None => false,
    }
}

fn access(verb: Verb) -> Option<Access> {
    TABLE.iter().find(|(named, _)| *named == verb).map(|(_, access)| *access)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_is_listed_once() {
        for verb in Verb::ALL {
            assert_eq!(TABLE.iter().filter(|(named, _)| *named == verb).count(), 1, "{verb:?}");
        }
    }

    #[test]
    fn exact_matrix() {
        const DAEMON: u32 = 990;
        const GROUP: u32 = 991;
        let owner = Owner { uid: DAEMON, group: Some(GROUP) };
        let caller = |uid, gid, groups: &[u32]| Caller { uid, gid, groups: groups.to_vec() };
        // Caller, may read, may write.
        let callers = [
            ("root", caller(0, 0, &[]), true, true),
            ("the daemon's user", caller(DAEMON, 5, &[]), true, true),
            ("primary group", caller(1000, GROUP, &[]), true, false),
            ("supplementary group", caller(1000, 1000, &[4, GROUP]), true, false),
            ("group of the same number as the user", caller(1000, DAEMON, &[DAEMON]), false, false),
            ("root's group", caller(1000, 0, &[0]), false, false),
            ("nobody", caller(65534, 65534, &[65534]), false, false),
        ];
        let read = [Verb::Status, Verb::Nodes, Verb::Paths, Verb::Events, Verb::Counters, Verb::View, Verb::Quorum];
        let write = [
            Verb::Handover,
            Verb::Detach,
            Verb::Init,
            Verb::Leave,
            Verb::Fence,
            Verb::ClearQuarantine,
            Verb::Set,
            Verb::ForceQuorum,
        ];
        assert_eq!(read.len() + write.len(), Verb::ALL.len());
        for (name, caller, may_read, may_write) in callers {
            for verb in read {
                assert_eq!(may(&caller, verb, owner), may_read, "{name}: {verb:?}");
            }
            for verb in write {
                assert_eq!(may(&caller, verb, owner), may_write, "{name}: {verb:?}");
            }
            let closed = Owner { uid: DAEMON, group: None };
            let trusted = caller.uid == 0 || caller.uid == DAEMON;
            assert_eq!(may(&caller, Verb::Status, closed), trusted, "{name}: without a group");
        }
    }
}

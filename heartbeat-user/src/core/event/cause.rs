//! Why things happen in the agreement, in words: one stable word for programs and one clause for people each. It says
//! them; it finds none of them out.

use crate::core::agreement::document::Reason;
use crate::core::agreement::event::{ControlFault, JoinFault};
use crate::core::agreement::stops::How;
use heartbeat_common::lease::{Refused, hold};
use serde::{Serialize, Serializer};
use std::fmt;

/// Declares an enum that says another one in words.
macro_rules! words {
    ($(#[doc = $about:literal])* $name:ident of $from:ident {
        $($variant:ident = $word:literal $clause:literal,)*
    }) => {
        $(#[doc = $about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name { $(#[doc = $clause] $variant,)* }

        impl $name {
            /// Every value.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Returns the word for programs.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }

        impl From<$from> for $name {
            fn from(from: $from) -> Self {
                match from { $($from::$variant => Self::$variant,)* }
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.word())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => $clause,)* })
            }
        }
    };
}

words! {
    /// Why a view left a member out, and where the fault was.
    RemovalCause of Reason {
        Down = "down" "it was silent on every path: it is dead, or cut off from those that judged it",
        Hung = "hung" "its kernel answered and its controller made no progress: the fault is on that node",
        Restarted = "restarted" "it came back under a newer incarnation: the older one had ended by itself",
        Left = "left" "it left by itself",
        NotConnected = "not_connected"
            "it and others that stay did not hear each other both ways: the fault is between them",
        NoMessages = "no_messages"
            "its controller ran and its messages did not pass: the fault is on the way (TCP 3343), such as a firewall",
        CannotApply = "cannot_apply" "it said that it cannot apply what was decided: the fault is its disk",
        Fenced = "fenced" "an operator asked for it",
        Forced = "forced" "an operator forced a start without it",
        GaveUp = "gave_up" "its service manager gave up starting its controller: the fault is on that node",
    }
}
words! {
    /// How it is known that an incarnation has stopped.
    StopProof of How {
        Said = "said" "its controller said so, after all that it ran had stopped",
        Fenced = "fenced" "its kernel acknowledged a fence, and gates all that it runs",
        Restarted = "restarted" "a newer incarnation is heard, which starts only after the older one has ended",
        Told = "told" "another member knows it",
        Waited = "waited" "the longest lease that it could have had is over",
    }
}
words! {
    /// Why a node may not join.
    JoinCause of JoinFault {
        Settings = "settings" "its settings are others: make the configuration files equal and reload both",
        Quarantined = "quarantined" "it is in quarantine",
        LeftOut = "left_out" "this incarnation was a member and was left out: it returns as a newer one, by a restart",
        Doubled = "doubled"
            "its older incarnation is still heard: two hosts have one identity, and the first one stays",
        Full = "full" "a view has no room for more nodes",
    }
}
words! {
    /// Where the fault is if messages of a node do not pass.
    ControlPlace of ControlFault {
        There = "there"
            "those of others do, so the fault is at that node or on the way to it (TCP 3343), such as a firewall",
        Here = "here"
            "nor do those of any other member, so the fault is at this node (TCP 3343), such as its firewall",
        NotDetermined = "not_determined" "the fault is on the way (TCP 3343), such as a firewall at either end",
    }
}

/// Why this node may not act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotActing(pub Refused);

/// Bits of [`hold`], as a word and as a clause.
const HOLDS: [(u64, &str, &str); 4] = [
    (hold::CLOCK, "clock", "a clock of this node runs out of its bounds"),
    (hold::DISK, "disk", "its disk state is lost or was given up"),
    (hold::LEAVING, "leaving", "it is leaving"),
    (hold::STOPPING, "stopping", "it was left out, and stops what it runs"),
];

impl NotActing {
    /// Returns the word for programs.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self.0 {
            Refused::NoPage => "no_page",
            Refused::Closed => "closed",
            Refused::Nobody => "nobody",
            Refused::Fenced => "fenced",
            Refused::Held(bits) => HOLDS.iter().find(|(bit, ..)| bits & bit != 0).map_or("held", |(_, word, _)| word),
            Refused::Ahead => "ahead",
            Refused::NoMember => "no_member",
            Refused::NotInForce => "not_in_force",
            Refused::Expired => "expired",
            Refused::Unsteady => "unsteady",
        }
    }
}

impl Serialize for NotActing {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.word())
    }
}

impl fmt::Display for NotActing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self.0 {
            Refused::NoPage => "the page of the lease is of another layout",
            Refused::Closed => "the page of the lease was closed: the controller has ended, or made a new one",
            Refused::Nobody => "no incarnation runs",
            Refused::Fenced => "its kernel obeyed a fence",
            Refused::Held(bits) => {
                let held = |(bit, _, clause): &(u64, _, &'static str)| (bits & bit != 0).then_some(*clause);
                let said: Vec<&str> = HOLDS.iter().filter_map(held).collect();
                let said = if said.is_empty() { "a reason of its own".to_owned() } else { said.join(", and ") };
                return f.write_str(&said);
            }
            Refused::Ahead => "its memory is that of an older snapshot",
            Refused::NoMember => "it is no member of the view",
            Refused::NotInForce => "no view has come into force since it joined",
            Refused::Expired => "no majority of votes has granted within the lease",
            Refused::Unsteady => "the page of the lease is being replaced",
        };
        f.write_str(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_hold_is_named_and_several_are_joined() {
        assert_eq!(HOLDS.iter().fold(0, |all, (bit, ..)| all | bit), hold::ALL);
        let both = NotActing(Refused::Held(hold::DISK | hold::LEAVING));
        assert_eq!(both.to_string(), "its disk state is lost or was given up, and it is leaving");
        assert_eq!((both.word(), NotActing(Refused::Held(1 << 40)).word()), ("disk", "held"));
    }

    #[test]
    fn words_are_plain_and_clauses_say_more() {
        let removal = RemovalCause::ALL.iter().map(|one| (one.word(), one.to_string()));
        let proof = StopProof::ALL.iter().map(|one| (one.word(), one.to_string()));
        let join = JoinCause::ALL.iter().map(|one| (one.word(), one.to_string()));
        for (word, clause) in removal.chain(proof).chain(join) {
            assert!(word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{word}");
            assert!(clause.len() > word.len() && clause.contains(' ') && !clause.ends_with('.'), "{clause}");
        }
        assert_eq!(RemovalCause::from(Reason::NoMessages).word(), "no_messages");
    }
}

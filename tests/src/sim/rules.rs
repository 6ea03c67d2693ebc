//! The rules that are watched while a world is played, and how often each had something to judge: a rule that never
//! came to a case has shown nothing. It judges nothing itself.

/// Declares the rules once: variant, name, and what it says.
macro_rules! rules {
    ($($variant:ident = $name:literal, $says:literal;)*) => {
        /// A rule.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Rule { $(#[doc = $says] $variant,)* }

        impl Rule {
            /// Every rule with its name and what it says, in order.
            pub const ALL: &[(Self, &'static str, &'static str)] = &[$((Self::$variant, $name, $says),)*];
        }
    };
}

rules! {
    S1 = "S1", "two views of one order are one view, and follow the one before";
    S2 = "S2", "no view without a majority of the votes before it, that hold it and have promised";
    S3 = "S3", "who acts is a member of every newer view under which somebody acts";
    InForce = "in force", "what a view left out has stopped when it comes into force";
    Lease = "lease", "who acts was granted by a majority of one view within one lease before";
    S4 = "S4", "an act that comes after its time is refused by its token";
    S5 = "S5", "the first act after a gap rests on grants within the lease, after a sleep on new ones";
    S6 = "S6", "a fence is sent by a member of a decided view, against what it left out";
    S7 = "S7", "nobody is accused who was heard within the detection time";
    S8 = "S8", "no frame makes a controller younger than it is, and none that hangs is called up";
    Joins = "joins", "who joins and each member have heard each other's messages";
    S9 = "S9", "states, ballots and incarnations only rise";
    S10 = "S10", "a witness grants one side at most";
    S11 = "S11", "the members of a view have the same settings";
    S14 = "S14", "each change is told once by each node, in order of views, and a removal with its cause";
    Clear = "clear", "grants are cleared before an acceptance or a view is written";
    Limbo = "limbo", "whose messages do not pass go in time, a few with each view, or all stay";
    Stopped = "stopped", "nothing runs of what is said to have stopped";
    L1 = "L1", "a death is seen in its time, and left out of the view within D";
    L2 = "L2", "the majority that is left acts within D, one lease and a regroup";
    L3 = "L3", "a restart is over in time, and touches nobody else";
    L4 = "L4", "after the last fault any connected majority, and then everybody, is one view and acts, in time";
    L8 = "L8", "who hears nobody says so before it accuses anybody";
}

/// Rules that nothing can be judged by yet: there is no witness.
pub const NOT_YET: &[Rule] = &[Rule::S10];

/// How often each rule had something to judge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged([u64; Rule::ALL.len()]);

impl Default for Judged {
    fn default() -> Self {
        Self([0; Rule::ALL.len()])
    }
}

impl Judged {
    /// Counts one.
    pub fn add(&mut self, rule: Rule) {
        self.0[rule as usize] += 1;
    }

    /// Returns how often a rule had something to judge.
    #[must_use]
    pub const fn of(&self, rule: Rule) -> u64 {
        self.0[rule as usize]
    }

    /// Adds another's.
    pub fn merge(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(own, other)| *own += other);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_is_counted_by_itself() {
        let mut judged = Judged::default();
        for (rule, ..) in Rule::ALL {
            judged.add(*rule);
        }
        judged.add(Rule::S5);
        let mut both = judged;
        both.merge(&judged);
        assert!(Rule::ALL.iter().all(|(rule, ..)| both.of(*rule) == if *rule == Rule::S5 { 4 } else { 2 }));
    }
}

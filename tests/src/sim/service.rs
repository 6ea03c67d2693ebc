//! What runs under the lease of one machine: the holder that ships, what it keeps running, and a sink that takes what that
//! does to the outside. It survives the daemon and ends with the machine.

use heartbeat_common::lease::Token;
use heartbeat_user::lease::Holder;

/// What runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Nothing.
    #[default]
    Stopped,
    /// It runs under this token, or an older one of the same incarnation.
    Running(Token),
    /// It was told to stop, and needs until then, true time.
    Stopping(Token, u64),
}

/// The holder and what it holds.
#[derive(Clone, Debug, Default)]
pub struct Service {
    /// What runs.
    pub state: State,
    /// How long stopping takes at most, ns: the shortest such time of the views under which it ran.
    pub stop_ns: u64,
    /// What holds on to the lease.
    pub holder: Holder,
    /// Which look at the page comes next: older ones do not.
    pub serial: u32,
    /// Acts done.
    pub acts: u64,
    /// Acts that the sink refused.
    pub refused: u64,
}

impl Service {
    /// Returns under which token something runs at `now`.
    #[must_use]
    pub const fn runs(&self, now: u64) -> Option<Token> {
        match self.state {
            State::Running(token) => Some(token),
            State::Stopping(token, until) if until > now => Some(token),
            _ => None,
        }
    }
}

/// What receives acts: it keeps the highest order seen, and per node the highest incarnation, and refuses less.
#[derive(Clone, Debug, Default)]
pub struct Sink {
    highest: u64,
    incarnations: [u64; super::plan::NODES_MAX],
}

impl Sink {
    /// Returns the highest order that it took.
    #[must_use]
    pub const fn highest(&self) -> u64 {
        self.highest
    }

    /// Takes an act of a node. Says whether it was let through.
    pub fn act(&mut self, node: usize, token: Token) -> bool {
        if token.order < self.highest || token.incarnation < self.incarnations[node] {
            return false;
        }
        self.highest = token.order;
        self.incarnations[node] = token.incarnation;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sink_takes_no_older_token() {
        let token = |order, incarnation| Token { order, incarnation };
        let mut sink = Sink::default();
        assert!(sink.act(0, token(3, 10)) && sink.act(1, token(5, 20)) && sink.act(0, token(5, 10)));
        assert!(!sink.act(0, token(4, 11)), "an older view");
        assert!(sink.act(0, token(5, 11)) && !sink.act(0, token(6, 10)), "an older incarnation");
    }
}

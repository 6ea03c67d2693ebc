//! The agreement: which view comes after this one, who may act in it, and who must have stopped first. It is pure as all
//! of the core: it reads no clock, disk, socket or random number.
//!
//! ```text
//! verdicts, reports --> select (who can stay together) --> votes (who decides the next) --> Document
//!                                                                                              |
//!              Register (heartbeat_common::acceptor) <-- ballots upon the view before <--------+
//! ```

pub mod document;
pub mod grant;
pub mod message;
pub mod proposer;
pub mod select;
pub mod stops;
pub mod voter;
pub mod votes;

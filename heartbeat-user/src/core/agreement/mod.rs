//! The agreement: which view comes after this one, who may act in it, and who must have stopped first. It is pure as all
//! of the core: it reads no clock, disk, socket or random number.
//!
//! ```text
//! verdicts, reports --> select (who can stay together) --> votes (who decides the next) --> Document
//!                                                                                              |
//!              Register (heartbeat_common::acceptor) <-- ballots upon the view before <--------+
//! ```

mod ballots;
pub mod build;
mod claims;
pub mod closing;
pub mod document;
mod ending;
mod ends;
mod engine;
pub mod event;
pub mod grant;
mod hear;
mod install;
pub mod message;
mod owed;
pub mod parted;
mod peer;
pub mod proposer;
mod regroup;
mod report;
mod requests;
pub mod select;
mod setback;
mod status;
pub mod stops;
mod telling;
#[cfg(test)]
mod tests;
pub mod types;
pub mod voter;
pub mod votes;
mod waiting;

pub use engine::Agreement;
pub use event::AgreementEvent;
pub use install::mark;
pub use requests::TIME as REQUEST_TIME;
pub use status::{Life, Stage, Status};

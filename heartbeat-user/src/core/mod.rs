//! The pure core: what is decided from ticks, attempts and time, and how it is said. It reads no clock, socket, file
//! or random number, starts nothing and sleeps nowhere: time and facts come in as arguments, events and commands go
//! out by polling.
//!
//! ```text
//! PathInput (tick, attempts) --> Path (misses, ladder) --+
//!                                                        +--> Node (verdict, burst) --> Controller --> Event, Command
//! Input (burst sent, late)   --> Lateness ---------------+
//! ```

pub mod agreement;
pub mod controller;
pub mod echoes;
pub mod event;
pub mod facts;
pub mod identity;
pub mod ids;
pub mod lateness;
pub mod node;
pub mod path;
pub mod settings;
pub mod time;

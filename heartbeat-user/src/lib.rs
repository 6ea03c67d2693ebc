//! heartbeat's controller. `core` decides and is pure; `config` turns text into settings; `io` does everything that
//! touches the world; `control` is what `heartbeatd` and `heartbeatctl` say to each other; `cli` is their command lines.
//!
//! ```text
//! frame -> XDP -> ticks -> io::ticks -> core::controller (detector) -> Event -> io::journal, control socket
//!                                                                   -> Command -> io
//! ```

pub mod cli;
pub mod config;
pub mod control;
pub mod core;
pub mod io;
pub mod keys;
pub mod lease;

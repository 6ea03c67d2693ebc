//! The simulator: a whole cluster in virtual time, from one seed. What decides is the code that ships: the packet path
//! (`exchange`, `lease`, `acceptor`), the detector, the agreement, their forms on wire and disk. Played are time, wire,
//! disk, threads and machines; and faults of all of them, drawn from the seed.
//!
//! ```text
//! Plan (seed) --> World --events--> Kernel  (frames, page)         --+
//!                   |               pacer, decider, keeper, disk   --+--> Ghost: what reached a disk
//!                   |               holder and what it runs        --+    properties: checked at every event
//!                   `-- Player: faults by class, then none         --> a core settled? all settled? then one trial,
//!                                                                      and settled?
//! ```
//!
//! The properties ask the ghost record, which the world writes from disks, frames and true time, and never the core.

pub mod clock;
mod cuts;
mod decider;
pub mod disk;
pub mod faults;
pub mod ghost;
pub mod heap;
pub mod kernel;
pub mod link;
mod machine;
mod majority;
mod muted;
pub mod net;
pub mod node;
mod pacer;
pub mod phases;
pub mod plan;
pub mod properties;
pub mod record;
pub mod rules;
pub mod run;
pub mod service;
mod shell;
mod start;
pub mod stats;
mod strikes;
pub mod trial;
pub mod world;

pub use phases::play;
pub use plan::Plan;
pub use run::{many, shrink};
pub use world::World;

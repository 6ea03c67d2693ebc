//! The kernel's tables of paths, as the paths write and compare them. It names what a table can do; what is to be in it,
//! `paths` says.

use heartbeat_common::maps::{Hint, Route, RouteKey};
use heartbeat_common::path::PathConf;

/// Tables that frames find their path by.
pub trait Tables {
    /// Writes one path configuration.
    ///
    /// # Errors
    /// As bpf(2).
    fn set_conf(&mut self, index: u32, conf: &PathConf) -> anyhow::Result<()>;

    /// Reads one path configuration back.
    ///
    /// # Errors
    /// As bpf(2).
    fn conf(&self, index: u32) -> anyhow::Result<PathConf>;

    /// Points a triple at a path and its configuration, in one step.
    ///
    /// # Errors
    /// As bpf(2).
    fn set_route(&mut self, key: &RouteKey, route: Route) -> anyhow::Result<()>;

    /// Reads a route.
    fn route(&self, key: &RouteKey) -> Option<Route>;

    /// Removes a route; a missing one is fine.
    fn remove_route(&mut self, key: &RouteKey);

    /// Writes the hint at a triple's place, in one step.
    ///
    /// # Errors
    /// As bpf(2).
    fn set_hint(&mut self, key: &RouteKey, hint: Hint) -> anyhow::Result<()>;

    /// Reads the hint at a triple's place, which may be another triple's.
    ///
    /// # Errors
    /// As bpf(2).
    fn hint(&self, key: &RouteKey) -> anyhow::Result<Hint>;
}

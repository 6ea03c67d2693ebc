//! Clusters in memory: how they form, change, split and come back, and each rule that keeps two of them from acting.

mod claims;
mod directed;
mod endings;
mod grants;
mod graphs;
mod heard;
mod judged;
mod life;
mod limits;
mod outside;
mod page;
mod parted;
mod passing;
mod peer;
mod returns;
mod rules;
mod scene;
mod setback;
mod shrink;
mod stages;
mod stale;
mod told;
mod wants;
mod words;
mod world;

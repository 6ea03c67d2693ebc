//! Five nodes of which three can be starved, each in its own way: stopped, held to a next to nothing of a processor by a
//! quota, or pushed aside by a hog of the highest priority. It starves and feeds; it judges nothing.

use super::views::FORMING;
use super::{Crew, Hog, Options, Quota, Sink};
use anyhow::Result;
use std::time::Duration;

/// The CPU that hogs take. The other nodes stay off it.
const HOG_CPU: usize = 1;
/// The node that is stopped.
pub const STOPPED: usize = 2;
/// The node in a quota group.
pub const HELD: usize = 3;
/// The node beside a hog.
pub const HOGGED: usize = 4;
/// The nodes that can be starved.
pub const VICTIMS: [usize; 3] = [STOPPED, HELD, HOGGED];
/// All of them.
pub const ALL: [usize; 5] = [0, 1, STOPPED, HELD, HOGGED];

/// The cluster. What holds processes ends after them.
#[derive(Debug)]
pub struct Field {
    /// Its nodes.
    pub crew: Crew,
    /// What takes their acts.
    pub sink: Sink,
    quota: Quota,
}

/// What keeps a node from running, until it is fed again.
#[derive(Debug, Default)]
pub struct Starved {
    _hog: Option<Hog>,
}

impl Field {
    /// Forms it.
    ///
    /// # Errors
    /// If it does not form.
    pub fn new() -> Result<Self> {
        let mut crew = Crew::idle(ALL.len())?;
        let quota = Quota::new(&crew.lab, "quota", Duration::from_millis(200), Duration::from_millis(100))?;
        for node in ALL {
            start(&mut crew, &quota, node)?;
        }
        let sink = crew.created(&ALL)?;
        Ok(Self { crew, sink, quota })
    }

    /// Begins to starve a victim; what does it ends by itself after `most`.
    ///
    /// # Errors
    /// If that is refused.
    pub fn starve(&self, node: usize, most: Duration) -> Result<Starved> {
        match node {
            STOPPED => self.crew.daemon(STOPPED).stop()?,
            HELD => {
                // Something else in the group takes what little there is, as a busy container would.
                let eater = Hog::start_with(&self.crew.lab, 0, None, most, |command| self.quota.join(command))?;
                self.quota.set(Duration::from_millis(1), Duration::from_secs(1))?;
                return Ok(Starved { _hog: Some(eater) });
            }
            _ => return Ok(Starved { _hog: Some(Hog::start(&self.crew.lab, HOG_CPU, Some(99), most)?) }),
        }
        Ok(Starved::default())
    }

    /// Lets it run again.
    ///
    /// # Errors
    /// If that is refused.
    pub fn feed(&self, node: usize, starved: Starved) -> Result<()> {
        match node {
            STOPPED => self.crew.daemon(STOPPED).resume()?,
            // First the room to run: held to the quota, the eater would take a second to die.
            HELD => self.quota.set(Duration::from_millis(200), Duration::from_millis(100))?,
            _ => {}
        }
        drop(starved);
        Ok(())
    }

    /// Starts a victim again that was left out, as it was before.
    ///
    /// # Errors
    /// If it does not end, or start.
    pub fn start_again(&mut self, node: usize) -> Result<()> {
        self.crew.await_left_out(node)?;
        self.crew.forget_exits(node)?;
        start(&mut self.crew, &self.quota, node)
    }
}

fn start(crew: &mut Crew, quota: &Quota, node: usize) -> Result<()> {
    let quota = (node == HELD).then_some(quota);
    let cpu = Some(if node == HOGGED { HOG_CPU } else { 0 });
    crew.start(node, &Options { quota, cpu, ready_limit: FORMING, ..Options::default() })
}

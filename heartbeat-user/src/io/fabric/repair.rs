//! What others did to tables and pins, set right again once a second. It writes what this node had written before, and
//! nothing into a directory that another controller has.

use super::Fabric;
use crate::core::event::EventBody;

impl Fabric {
    /// Compares tables and pins with what this node wrote, mends them, and says so.
    ///
    /// # Errors
    /// If something cannot be read or mended.
    pub fn repair(&mut self) -> anyhow::Result<()> {
        self.retry_departures();
        let (Some(object), Some(pins)) = (&mut self.object, &self.pins) else { return Ok(()) };
        for (table, count) in self.paths.repair(object)? {
            self.sink.now(EventBody::TableRepaired { table: table.to_owned(), count });
        }
        // A directory that somebody put in the place of ours is not ours to pin in before it is taken.
        if !pins.hold()? {
            if !std::mem::replace(&mut self.pins_taken, true) {
                log::error!(
                    "pin_dir {}: somebody removed it, and another heartbeatd uses what is there now: nothing is pinned \
                     until that one ends; stop one of the two, or give it a pin_dir of its own",
                    pins.path().display()
                );
            }
            return Ok(());
        }
        self.pins_taken = false;
        let mut restored = object.restore_pins(pins)?;
        for attachment in self.nics.values().filter_map(|nic| nic.attachment.as_ref()) {
            if !attachment.pinned() {
                pins.make()?;
                attachment.restore_pin()?;
                restored += 1;
            }
        }
        if restored > 0 {
            let directory = pins.path().display().to_string();
            self.sink.now(EventBody::PinsRestored { directory, count: restored });
        }
        Ok(())
    }
}

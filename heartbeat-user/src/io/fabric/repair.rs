//! What others did to tables and pins, set right again once a second. It writes what this node had written before.

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

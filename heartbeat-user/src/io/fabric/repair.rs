//! What others did to tables and pins, set right again once a second. It writes what this node had written before, and
//! nothing into a directory that another controller has.

use super::Fabric;
use crate::core::event::EventBody;
use crate::io::attach::Attachment;

impl Fabric {
    /// Compares tables and pins with what this node wrote, mends them, and says so.
    ///
    /// # Errors
    /// If something cannot be read or mended.
    pub fn repair(&mut self) -> anyhow::Result<()> {
        self.retry_departures();
        let Some(object) = &mut self.object else { return Ok(()) };
        if self.pins.is_none() {
            return Ok(());
        }
        for (table, count) in self.paths.repair(object)? {
            self.sink.now(EventBody::TableRepaired { table: table.to_owned(), count });
        }
        // A directory that somebody put in the place of ours is not ours to pin in before it is taken.
        if !self.hold_pins() {
            return Ok(());
        }
        let (Some(object), Some(pins)) = (&mut self.object, &self.pins) else { return Ok(()) };
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

    /// What keeps this controller from its pin directory, for a person.
    #[must_use]
    pub fn pins_lost(&self) -> Option<String> {
        let (lost, pins) = (self.pins_lost.as_ref()?, self.pins.as_ref()?);
        Some(format!("pin_dir {}: {lost}", pins.path().display()))
    }

    /// Says whether the pin directory is this controller's, before each use of it; one that somebody removed is made
    /// and taken again. What keeps it from that is logged once.
    pub(super) fn hold_pins(&mut self) -> bool {
        let Some(pins) = &self.pins else { return false };
        let lost = match pins.hold() {
            Ok(true) => {
                self.pins_lost = None;
                return true;
            }
            Ok(false) => "somebody removed it, and another heartbeatd uses what is there now: nothing is pinned until \
                          that one ends; stop one of the two, or give it a pin_dir of its own"
                .to_owned(),
            Err(error) => format!("it cannot be taken again, and nothing is pinned until it can: {error:#}"),
        };
        if self.pins_lost.as_ref() != Some(&lost) {
            log::error!("pin_dir {}: {lost}", pins.path().display());
            self.pins_lost = Some(lost);
        }
        false
    }

    /// Takes a program off its device, and removes its pin where the directory is this controller's.
    pub(super) fn let_go(&mut self, attachment: Attachment) -> anyhow::Result<()> {
        let ours = self.hold_pins();
        attachment.detach(ours)
    }

    /// Removes every pin and the directory for good, unless they are another controller's.
    pub(super) fn remove_pins(&mut self) -> anyhow::Result<()> {
        let ours = self.hold_pins();
        match self.pins.take() {
            Some(pins) if ours => pins.remove_all(),
            _ => Ok(()),
        }
    }
}

//! The egress program on a device: attaching it, noticing that somebody took it off, and leaving nothing behind. It
//! goes with this process, for without a controller nothing is sent; it decides nothing about paths.

use crate::io::object::Object;
use crate::io::{sys, tc};
use anyhow::{Context, bail};
use aya::programs::SchedClassifier;
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcAttachType, qdisc_add_clsact};
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};

/// The egress program on a device. Dropping it takes it off.
pub struct Egress {
    ifindex: u32,
    /// Id of the program that was put there.
    program: u32,
    held: Held,
}

/// By what it is held there.
enum Held {
    /// By a link, on kernels of 6.6 or later: the program goes with the descriptor.
    Link(OwnedFd),
    /// By a filter of the clsact queue.
    Filter {
        /// `None` only while it is dropped.
        filter: Option<SchedClassifierLink>,
        /// The queue was added for it.
        added: bool,
    },
}

impl fmt::Debug for Egress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = if matches!(self.held, Held::Link(_)) { "link" } else { "filter" };
        write!(formatter, "Egress({} by {held})", self.ifindex)
    }
}

impl Egress {
    /// Attaches the egress program to a device: by a link or, before 6.6, by a filter.
    ///
    /// # Errors
    /// If the kernel refuses both.
    pub fn attach(object: &mut Object, interface: &str, ifindex: u32) -> anyhow::Result<Self> {
        let program: &mut SchedClassifier = object.egress()?;
        let id = program.info().context("ask for the egress program's id")?.id();
        let fd = program.fd().context("the egress program is not loaded")?.try_clone()?;
        match sys::tcx_egress_link(fd.as_fd(), ifindex) {
            Ok(link) => Ok(Self { ifindex, program: id, held: Held::Link(link) }),
            // What a kernel says that knows no such link.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Self::attach_filter(object, interface, ifindex),
            Err(error) => Err(error).with_context(|| format!("attach the egress program to {interface}")),
        }
    }

    /// Attaches it by a filter of the clsact queue, which is added where there is none, as kernels before 6.6 need it.
    ///
    /// # Errors
    /// If the kernel refuses it.
    pub fn attach_filter(object: &mut Object, interface: &str, ifindex: u32) -> anyhow::Result<Self> {
        // The filter of a controller that was killed is still there, and would stamp every departure once more.
        let name = heartbeat_common::maps::EGRESS_PROGRAM;
        let _ = aya::programs::tc::qdisc_detach_program(interface, TcAttachType::Egress, name);
        // Refused if there is one already, which is then somebody else's. So is what a killed controller left: it can
        // no longer be told who added that.
        let added = qdisc_add_clsact(interface).is_ok();
        let mut attach = || -> anyhow::Result<(SchedClassifierLink, u32)> {
            let program: &mut SchedClassifier = object.egress()?;
            let options = TcAttachOptions::Netlink(NlOptions::default());
            let id = program.attach_with_options(interface, TcAttachType::Egress, options)?;
            Ok((program.take_link(id)?, program.info()?.id()))
        };
        match attach() {
            Ok((filter, program)) => Ok(Self { ifindex, program, held: Held::Filter { filter: Some(filter), added } }),
            Err(error) => {
                if added {
                    let _ = tc::remove_clsact(ifindex);
                }
                Err(error).with_context(|| format!("attach the egress program to {interface}"))
            }
        }
    }

    /// Says whether the program still hangs where it was put. One call or two, no waiting.
    #[must_use]
    pub fn alive(&self) -> bool {
        match &self.held {
            Held::Link(link) => sys::tcx_link_info(link.as_fd())
                .is_ok_and(|info| info.ifindex == self.ifindex && info.program == self.program),
            // An answer that did not come is no proof that the filter is gone.
            Held::Filter { .. } => tc::filters(self.ifindex, tc::Side::Egress)
                .map_or(true, |filters| filters.iter().any(|filter| filter.program == Some(self.program))),
        }
    }

    /// Takes the program off, and the queue if it was added for it and holds nothing else. What is gone already, with
    /// its device or by somebody else's hand, is fine.
    ///
    /// # Errors
    /// If the queue should go and does not.
    pub fn detach(mut self) -> anyhow::Result<()> {
        self.take_off()
    }

    fn take_off(&mut self) -> anyhow::Result<()> {
        let Held::Filter { filter, added } = &mut self.held else { return Ok(()) };
        drop(filter.take());
        if !std::mem::take(added) {
            return Ok(());
        }
        for side in [tc::Side::Ingress, tc::Side::Egress] {
            match tc::filters(self.ifindex, side) {
                Ok(filters) if filters.is_empty() => {}
                // Somebody else uses it by now, or it is gone.
                _ => return Ok(()),
            }
        }
        if let Err(error) = tc::remove_clsact(self.ifindex) {
            bail!("remove the clsact queue of device {}: {error:#}", self.ifindex);
        }
        Ok(())
    }
}

impl Drop for Egress {
    fn drop(&mut self) {
        if let Err(error) = self.take_off() {
            log::warn!("{error:#}");
        }
    }
}

//! The lease for those who hold on to it: services, hooks and the tools read the page of this node and ask, without the
//! daemon, whether they may act. It reads and judges; it never writes a word of the page and starts nothing.
//!
//! ```no_run
//! use heartbeat_user::lease::{Lease, Places};
//!
//! let lease = Lease::open(&Places::default())?;
//! match lease.acting() {
//!     Ok(token) => println!("may act, as {}", heartbeat_user::lease::text(token)),
//!     Err(refused) => println!("may not act: {}", heartbeat_user::lease::reason(refused)),
//! }
//! # Ok::<(), heartbeat_user::lease::OpenError>(())
//! ```
//!
//! A judgement is of one moment. Ask just before each act that others see, and give the token to whoever receives it:
//! between the question and the act this process may be stopped for any time, and only the receiver can tell.

mod end;
mod hold;
mod note;
mod open;
mod page;
mod tool;

pub use end::end;
pub use heartbeat_common::lease::{LEN, Refused, Token, hold as held};
pub use hold::{Ended, Holder, Move, Waited, hold, wait};
pub use note::{HELD, HOLD_SOCKET};
pub use open::{OpenError, Owner, Places, SERVICE_USER};
pub use page::Page;
pub use tool::{run, run_hold};

use heartbeat_common::view::Order;
use nix::time::{ClockId, clock_gettime};

/// Where heartbeatd hands the page to whoever asks.
pub const SOCKET: &str = "/run/heartbeatd/lease.sock";
/// Where the page is pinned for whoever may pass through the bpffs.
pub const PIN: &str = "/sys/fs/bpf/heartbeatd-lease/lease";

/// Says whether something may act, just now. Whoever implements it takes no lock, waits for nothing and allocates
/// nothing: a hook asks between its fork and its exec.
pub trait Gate: Send + Sync {
    /// Returns the token to act under.
    ///
    /// # Errors
    /// Why not to act.
    fn acting(&self) -> Result<Token, Refused>;
}

/// The page of this node, open for reading.
#[derive(Debug)]
pub struct Lease {
    page: Page,
}

impl Lease {
    /// Opens the page: from heartbeatd's socket, or by its pin where nobody listens there.
    ///
    /// # Errors
    /// [`OpenError`]: there is none, it is not heartbeatd's, or it could not be judged from here.
    pub fn open(places: &Places) -> Result<Self, OpenError> {
        open::open(places)
    }

    /// Judges a page that was opened otherwise.
    #[must_use]
    pub fn of(page: Page) -> Self {
        Self { page }
    }

    /// Says whether this node may act now, and under which token. It costs a few short system calls where the kernel keeps
    /// the page, and none where heartbeatd runs without the kernel.
    ///
    /// # Errors
    /// Why not. After [`Refused::Closed`] the page has to be opened anew: a later heartbeatd has another one. One that
    /// was killed may not have closed its own, so that also a page which refuses for long is to be opened anew.
    pub fn acting(&self) -> Result<Token, Refused> {
        self.page.acting(now)
    }

    /// Returns until when the lease holds as its dates stand, CLOCK_BOOTTIME ns. It may go on for longer, and end at any
    /// moment: by a fence, or by this node itself.
    /// A page that cannot be read just now ends at once.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.page.end()
    }
}

impl Gate for Lease {
    fn acting(&self) -> Result<Token, Refused> {
        Self::acting(self)
    }
}

/// Returns CLOCK_BOOTTIME, the clock of leases: it goes on while the machine sleeps.
#[must_use]
pub fn now() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("clock_gettime knows the fixed clocks of Linux");
    time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64
}

/// Returns a token as programs pass it on: `force.number.incarnation`, decimal. Tokens are compared number by number,
/// from the left.
#[must_use]
pub fn text(token: Token) -> String {
    format!("{}.{}", view_text(token), token.incarnation)
}

/// Returns the view of a token as `force.number`.
#[must_use]
pub fn view_text(token: Token) -> String {
    let order = Order(token.order);
    format!("{}.{}", order.force(), order.number())
}

/// Returns why this node may not act, for people.
#[must_use]
pub fn reason(refused: Refused) -> String {
    let fixed = match refused {
        Refused::NoPage => "the page is not of the layout that this program knows",
        Refused::Closed => "heartbeatd has closed this page",
        Refused::Nobody => "heartbeatd has not started on this node",
        Refused::Fenced => "this node was fenced",
        Refused::Ahead => "this machine was set back to an older snapshot",
        Refused::NoMember => "this node is no member of its newest view",
        Refused::NotInForce => "no view with this node is in force yet",
        Refused::Expired => "no majority of votes has granted lately",
        Refused::Unsteady => "views follow each other too fast",
        Refused::Held(bits) => return held_reason(bits),
    };
    fixed.to_owned()
}

fn held_reason(bits: u64) -> String {
    const NAMES: [(u64, &str); 4] = [
        (held::CLOCK, "a clock of this node runs out of bounds"),
        (held::DISK, "the disk state of this node is lost"),
        (held::LEAVING, "this node is leaving"),
        (held::STOPPING, "this node was left out and stops"),
    ];
    let mut names: Vec<&str> = NAMES.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| *name).collect();
    if bits & !held::ALL != 0 {
        names.push("this node holds back, for a reason of a later version");
    }
    names.join("; ")
}

#[cfg(test)]
mod tests;

//! What the exit codes of both programs mean, in one place. It ends no process.

/// How `heartbeatd` or `heartbeatctl` ended. The discriminant is the exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum ExitCode {
    /// All is well.
    Ok = 0,
    /// It failed; the message says why.
    Error = 1,
    /// The command line is wrong (the parser's own code).
    Usage = 2,
    /// No heartbeatd listens (the service manager's own code for "not running").
    NotRunning = 3,
    /// A node is not up, a path has failed, or a fast path has fallen back.
    Degraded = 4,
    /// The caller may not do this.
    PermissionDenied = 5,
    /// The configuration or the key is wrong.
    BadConfiguration = 6,
    /// Another heartbeatd runs with the same directories.
    AnotherInstance = 7,
    /// This host lacks something: bpffs, a capability, an interface, a disk that keeps what it is given; or what ran here
    /// before has not stopped.
    Environment = 8,
    /// This node may not act: it has no view in force, or no fresh majority of votes has granted.
    NotQuorate = 9,
    /// The cluster left this node out or fenced it: what it ran has stopped, and a restart joins anew.
    Fenced = 10,
    /// Another machine answers for an address of this node's: this one has said nothing.
    SecondAddress = 11,
}

impl ExitCode {
    /// Every code, in order.
    pub const ALL: [Self; 12] = [
        Self::Ok,
        Self::Error,
        Self::Usage,
        Self::NotRunning,
        Self::Degraded,
        Self::PermissionDenied,
        Self::BadConfiguration,
        Self::AnotherInstance,
        Self::Environment,
        Self::NotQuorate,
        Self::Fenced,
        Self::SecondAddress,
    ];

    /// Says that another start would end the same way, so that the service manager need not try
    /// (`RestartPreventExitStatus=` of the unit lists the same).
    #[must_use]
    pub const fn prevents_restart(self) -> bool {
        matches!(self, Self::Usage | Self::BadConfiguration | Self::AnotherInstance)
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code as u8)
    }
}

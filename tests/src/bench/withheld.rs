//! Processor time that a hypervisor withheld from this machine while something was measured: late figures have two
//! possible authors, and this names the one that is not measured. It reads, and judges nothing.

use nix::unistd::{SysconfVar, sysconf};
use std::fs;

/// Time of all processors so far: in all, and withheld by the hypervisor. In the kernel's ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Withheld {
    all: u64,
    stolen: u64,
}

impl Withheld {
    /// As of now; nothing where the kernel does not say.
    #[must_use]
    pub fn now() -> Self {
        fs::read_to_string("/proc/stat").map_or_else(|_| Self::default(), |text| Self::read(&text))
    }

    /// Reads the first line of /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal. Guests' time, which
    /// follows, is in user and nice already.
    fn read(text: &str) -> Self {
        let first = text.lines().next().and_then(|line| line.strip_prefix("cpu ")).unwrap_or_default();
        let times: Vec<u64> = first.split_whitespace().take(8).filter_map(|time| time.parse().ok()).collect();
        Self { all: times.iter().sum(), stolen: times.get(7).copied().unwrap_or(0) }
    }

    /// Share of the time since then that was withheld, in percent.
    #[must_use]
    pub fn percent_since(self) -> f64 {
        self.percent_until(Self::now())
    }

    /// Time withheld since then on all processors together, in ms; the kernel counts it in steps of a tick.
    #[must_use]
    pub fn ms_since(self) -> f64 {
        let tick_ms = sysconf(SysconfVar::CLK_TCK).ok().flatten().map_or(10.0, |ticks| 1000.0 / ticks as f64);
        Self::now().stolen.saturating_sub(self.stolen) as f64 * tick_ms
    }

    fn percent_until(self, end: Self) -> f64 {
        let all = end.all.saturating_sub(self.all).max(1);
        end.stolen.saturating_sub(self.stolen) as f64 * 100.0 / all as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_is_of_all_processors() {
        let begun = Withheld::read("cpu  10 0 10 70 0 0 0 10 3 0\ncpu0 1 2 3\n");
        let ended = Withheld::read("cpu  20 0 20 140 0 0 0 20 6 0\n");
        assert_eq!((begun.all, begun.stolen), (100, 10));
        assert!((begun.percent_until(ended) - 10.0).abs() < 1e-9);
        assert_eq!(Withheld::read("nothing"), Withheld::default());
        assert!(Withheld::default().percent_until(Withheld::default()).abs() < 1e-9);
    }
}

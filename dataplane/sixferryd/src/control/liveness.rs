//! How a tunnel's peer is watched, and the list of those that are.

use std::collections::BTreeSet;
use std::time::Duration;

use sixferry_fwd::TunnelId;

use super::Control;

/// Least and most seconds between probes.
pub(crate) const INTERVAL: std::ops::RangeInclusive<u16> = 5..=3600;
/// Seconds between probes when nothing is said.
pub(crate) const DEFAULT_INTERVAL: u16 = 30;

/// How to find out whether a peer is alive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum LivenessMode {
    #[default]
    Off,
    /// What comes out of the tunnel counts; nothing is sent.
    Passive,
    /// Neighbour unreachability probes to the peer's link-local address.
    Nud,
    /// Echo requests to the peer's address on the link.
    Echo,
}

/// Mode and interval in two bytes: there is one in each of a million records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Liveness(u16);

impl Default for Liveness {
    fn default() -> Self {
        Self::new(LivenessMode::Off, DEFAULT_INTERVAL)
    }
}

impl Liveness {
    pub(crate) const fn new(mode: LivenessMode, interval_seconds: u16) -> Self {
        let mode = match mode {
            LivenessMode::Off => 0,
            LivenessMode::Passive => 1,
            LivenessMode::Nud => 2,
            LivenessMode::Echo => 3,
        };
        Self(mode << 14 | interval_seconds & 0x3fff)
    }

    pub(crate) const fn mode(self) -> LivenessMode {
        match self.0 >> 14 {
            0 => LivenessMode::Off,
            1 => LivenessMode::Passive,
            2 => LivenessMode::Nud,
            _ => LivenessMode::Echo,
        }
    }

    pub(crate) const fn interval_seconds(self) -> u16 {
        self.0 & 0x3fff
    }

    /// Time between probes.
    pub(crate) fn interval(self) -> Duration {
        Duration::from_secs(self.interval_seconds().into())
    }
}

/// Slots whose watching began, changed or ended since somebody last asked. Bounded by the table.
#[derive(Debug, Default)]
pub(super) struct Rewatched(BTreeSet<u32>);

impl Rewatched {
    pub(super) fn note(&mut self, tunnel: TunnelId, before: Liveness, after: Liveness) {
        if before.mode() != LivenessMode::Off || after.mode() != LivenessMode::Off {
            self.0.insert(tunnel.0);
        }
    }
}

impl Control {
    /// Up to `most` tunnels whose watching began, changed or ended since the last call, and how each
    /// is to be watched now; `None`: not any more. State kept for a tunnel told here starts anew.
    pub(crate) fn take_rewatched(&mut self, most: usize) -> Vec<(TunnelId, Option<Liveness>)> {
        let mut taken = Vec::new();
        while taken.len() < most
            && let Some(slot) = self.rewatched.0.pop_first()
        {
            let tunnel = TunnelId(slot);
            let now = self.store.get(tunnel).map(|record| record.liveness);
            taken.push((tunnel, now.filter(|l| l.mode() != LivenessMode::Off)));
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mode_and_interval_fit_two_bytes() {
        for mode in [
            LivenessMode::Off,
            LivenessMode::Passive,
            LivenessMode::Nud,
            LivenessMode::Echo,
        ] {
            for seconds in [*INTERVAL.start(), DEFAULT_INTERVAL, *INTERVAL.end()] {
                let both = Liveness::new(mode, seconds);
                assert_eq!((both.mode(), both.interval_seconds()), (mode, seconds));
            }
        }
    }
}

//! How long everything takes: the RFC's own durations, or minutes.

use serde::Serialize;
use std::time::Duration;

/// Durations and repetitions.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Scale {
    /// Its name.
    pub name: &'static str,
    /// A trial of a search or of the loss curve. RFC 2544, 24: 60 s.
    pub trial: Duration,
    /// Steps of a search.
    pub steps: u32,
    /// A stream whose delays are measured in its second half. RFC 8219, 7.2: 120 s.
    pub latency: Duration,
    /// A stream whose delay variation is measured. RFC 8219, 7.3.1: 60 s.
    pub variation: Duration,
    /// How often latency and variation are measured. RFC 8219: 20 times at least.
    pub repetitions: u32,
    /// How often the longest burst is searched. RFC 2544, 26.4: 50 times.
    pub bursts: u32,
    /// The longest burst that is tried. RFC 2544, 26.4: 2 s at the highest rate.
    pub burst_max: u64,
    /// Length of the overload. RFC 2544, 26.5: 60 s.
    pub overload: Duration,
    /// How long it is watched afterwards.
    pub recovery: Duration,
    /// How often the process is restarted. RFC 6201, 4: 3 times at least.
    pub resets: u32,
    /// Frame sizes, where none are named.
    pub sizes: &'static [usize],
}

/// Which of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Named {
    /// Some minutes: to see that all of it works, and for a first idea
    Ci,
    /// About an hour
    Hour,
    /// The durations of the RFC, for hardware: days
    Rfc,
}

/// RFC 8219, 5.1.1, as far as an interface with the usual MTU carries them.
const ALL_SIZES: [usize; 8] = [64, 128, 256, 512, 768, 1024, 1280, 1518];

impl Named {
    /// What it stands for.
    #[must_use]
    pub const fn scale(self) -> Scale {
        match self {
            Self::Ci => Scale {
                name: "ci",
                trial: Duration::from_millis(700),
                steps: 6,
                latency: Duration::from_millis(1600),
                variation: Duration::from_millis(1000),
                repetitions: 3,
                bursts: 2,
                burst_max: 1 << 17,
                overload: Duration::from_millis(700),
                recovery: Duration::from_millis(500),
                resets: 3,
                sizes: &[64, 1518],
            },
            Self::Hour => Scale {
                name: "hour",
                trial: Duration::from_secs(2),
                steps: 7,
                latency: Duration::from_secs(8),
                variation: Duration::from_secs(4),
                repetitions: 7,
                bursts: 7,
                burst_max: 1 << 20,
                overload: Duration::from_secs(5),
                recovery: Duration::from_secs(2),
                resets: 5,
                sizes: &ALL_SIZES,
            },
            Self::Rfc => Scale {
                name: "rfc",
                trial: Duration::from_secs(60),
                steps: 10,
                latency: Duration::from_secs(120),
                variation: Duration::from_secs(60),
                repetitions: 20,
                bursts: 50,
                burst_max: 1 << 26,
                overload: Duration::from_secs(60),
                recovery: Duration::from_secs(60),
                resets: 10,
                sizes: &ALL_SIZES,
            },
        }
    }
}

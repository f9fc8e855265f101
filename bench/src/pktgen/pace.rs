//! How many frames to send; a line for the generator's standard input.

use std::str::FromStr;

/// `TICK_SHIFT` of `bpf/generator.bpf.c`, as a factor.
const TICKS_PER_SECOND: u64 = 1_000_000_000 << 6;
/// `PAUSED` of `bpf/generator.bpf.c`.
const PAUSED: u64 = u64::MAX;

/// How fast to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// As fast as it goes.
    Full,
    /// So many a second.
    PerSecond(u64),
    /// So many a second, seven of eight of them such as a relay drops.
    Flood(u64),
    /// None.
    Paused,
}

impl Pace {
    /// Million frames a second.
    #[must_use]
    pub const fn mpps(mpps: f64) -> Self {
        // a rate of frames is far below 2^53 and positive
        Self::PerSecond((mpps * 1e6) as u64)
    }

    /// The line that asks for it, for ever.
    #[must_use]
    pub fn line(self) -> String {
        self.up_to(u64::MAX)
    }

    /// The line that asks for it until `limit` frames have been sent in all.
    #[must_use]
    pub fn up_to(self, limit: u64) -> String {
        let Orders { gap, flood, .. } = self.orders(limit);
        format!("{gap} {} {limit}", u8::from(flood))
    }

    /// What a sender does.
    #[must_use]
    pub fn orders(self, limit: u64) -> Orders {
        Orders {
            gap: match self {
                Self::Full => 0,
                Self::PerSecond(rate) | Self::Flood(rate) => TICKS_PER_SECOND / rate.max(1),
                Self::Paused => PAUSED,
            },
            flood: matches!(self, Self::Flood(_)),
            limit,
        }
    }
}

/// What a sender does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Orders {
    /// Ticks, 64 to a nanosecond, between two frames.
    pub(super) gap: u64,
    pub(super) flood: bool,
    /// Frames in all.
    pub(super) limit: u64,
}

impl Orders {
    /// The same when so many frames have been sent by another sender.
    pub(super) const fn after(self, sent: u64) -> Self {
        Self {
            limit: if self.limit == u64::MAX {
                self.limit
            } else {
                self.limit.saturating_sub(sent)
            },
            ..self
        }
    }

    /// Nanoseconds between two frames; `None`: send nothing.
    pub(super) fn nanoseconds(self) -> Option<f64> {
        (self.gap != PAUSED).then(|| self.gap as f64 * 1e9 / TICKS_PER_SECOND as f64)
    }
}

impl FromStr for Orders {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let numbers: Option<Vec<u64>> = line.split(' ').map(|word| word.parse().ok()).collect();
        match numbers.as_deref() {
            Some(&[gap, flood, limit]) => Ok(Self {
                gap,
                flood: flood != 0,
                limit,
            }),
            _ => Err(format!("`{line}`: want gap, flood and limit")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_is_what_the_program_reads() {
        let source = include_str!("../../bpf/generator.bpf.c");
        assert!(source.contains("#define TICK_SHIFT 6 "));
        assert!(source.contains("#define PAUSED (~0ull)"));
        let max = u64::MAX;
        let million = Pace::PerSecond(1_000_000);
        assert_eq!(million.line(), format!("64000 0 {max}"));
        assert_eq!(Pace::Flood(1_000_000).up_to(5), "64000 1 5");
        assert_eq!(Pace::Full.line(), format!("0 0 {max}"));
        assert_eq!(Pace::Paused.line(), format!("{max} 0 {max}"));
        for pace in [Pace::Full, million, Pace::Flood(3), Pace::Paused] {
            assert_eq!(pace.up_to(9).parse(), Ok(pace.orders(9)));
        }
        assert_eq!(million.orders(1).nanoseconds(), Some(1000.0));
        assert_eq!(Pace::Paused.orders(1).nanoseconds(), None);
        assert!("1 2".parse::<Orders>().is_err());
    }
}

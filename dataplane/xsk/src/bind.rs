//! The ladder of AF_XDP modes: zero-copy, native copy, generic copy.
//!
//! Zero-copy needs the driver's help, native copy needs a driver that runs XDP programs, generic
//! needs nothing and costs most. A bare "not supported" helps nobody, so the report keeps what
//! was tried and what the kernel said.

use std::fmt;
use std::str::FromStr;

/// What the operator asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PortMode {
    /// The best that works.
    #[default]
    Auto,
    /// Zero-copy or nothing.
    ZeroCopy,
    /// Native copy or nothing.
    Copy,
    /// Generic copy.
    Generic,
}

impl PortMode {
    /// Every mode, in the order of the documentation.
    pub const ALL: [Self; 4] = [Self::Auto, Self::ZeroCopy, Self::Copy, Self::Generic];

    /// What is tried, best first.
    pub fn ladder(self) -> &'static [Rung] {
        match self {
            Self::Auto => &[Rung::ZeroCopy, Rung::Copy, Rung::Generic],
            Self::ZeroCopy => &[Rung::ZeroCopy],
            Self::Copy => &[Rung::Copy],
            Self::Generic => &[Rung::Generic],
        }
    }

    /// The name in configuration and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::ZeroCopy => "zero-copy",
            Self::Copy => "copy",
            Self::Generic => "generic",
        }
    }
}

impl fmt::Display for PortMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The text is none of the four modes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a port mode; use auto, zero-copy, copy or generic")]
pub struct UnknownMode(String);

impl FromStr for PortMode {
    type Err = UnknownMode;

    fn from_str(text: &str) -> Result<Self, UnknownMode> {
        let found = Self::ALL.into_iter().find(|mode| mode.name() == text);
        found.ok_or_else(|| UnknownMode(text.to_owned()))
    }
}

/// One rung of the ladder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rung {
    /// Native XDP, the NIC writes into our memory.
    ZeroCopy,
    /// Native XDP, the kernel copies.
    Copy,
    /// XDP in the kernel's generic receive path, the kernel copies.
    Generic,
}

impl Rung {
    /// How the XDP program is attached.
    pub fn xdp_mode(self) -> XdpMode {
        match self {
            Self::ZeroCopy | Self::Copy => XdpMode::Native,
            Self::Generic => XdpMode::Generic,
        }
    }

    /// How the sockets are bound.
    pub fn bind_mode(self) -> BindMode {
        match self {
            Self::ZeroCopy => BindMode::ZeroCopy,
            Self::Copy | Self::Generic => BindMode::Copy,
        }
    }

    /// The name in logs, metrics and the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::ZeroCopy => "zero-copy",
            Self::Copy => "copy",
            Self::Generic => "generic",
        }
    }
}

impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How a socket is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BindMode {
    /// The driver reads and writes our memory.
    ZeroCopy,
    /// The kernel copies each frame.
    Copy,
}

impl fmt::Display for BindMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ZeroCopy => "zero-copy",
            Self::Copy => "copy",
        })
    }
}

/// Where the XDP program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum XdpMode {
    /// In the driver.
    Native,
    /// In the kernel's generic receive path.
    Generic,
}

impl fmt::Display for XdpMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Generic => "generic",
        })
    }
}

/// Which mode a port runs in and why not a better one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BindReport {
    /// What was configured.
    pub asked: PortMode,
    /// The rung in force.
    pub rung: Rung,
    /// How the sockets are bound, as the kernel tells after the bind.
    pub mode: BindMode,
    /// Where the XDP program runs.
    pub xdp_mode: XdpMode,
    /// The rungs that did not hold, with the kernel's answer.
    pub tried: Vec<(Rung, String)>,
}

impl fmt::Display for BindReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "AF_XDP {} ({} XDP, {} bind), asked for {}",
            self.rung, self.xdp_mode, self.mode, self.asked
        )?;
        for (rung, error) in &self.tried {
            write!(f, "; {rung} refused: {error}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for mode in PortMode::ALL {
            assert_eq!(mode.name().parse(), Ok(mode));
        }
        assert_eq!(
            "fast".parse::<PortMode>().unwrap_err().to_string(),
            "`fast` is not a port mode; use auto, zero-copy, copy or generic"
        );
    }

    #[test]
    fn report_says_which_and_why() {
        let report = BindReport {
            asked: PortMode::Auto,
            rung: Rung::Copy,
            mode: BindMode::Copy,
            xdp_mode: XdpMode::Native,
            tried: vec![(Rung::ZeroCopy, "Operation not supported".to_owned())],
        };
        assert_eq!(
            report.to_string(),
            "AF_XDP copy (native XDP, copy bind), asked for auto; zero-copy refused: Operation \
             not supported"
        );
    }

    #[test]
    fn ladder_starts_with_the_best() {
        assert_eq!(
            PortMode::Auto.ladder(),
            [Rung::ZeroCopy, Rung::Copy, Rung::Generic]
        );
        for rung in PortMode::Auto.ladder() {
            let native = rung.xdp_mode() == XdpMode::Native;
            assert_eq!(native, *rung != Rung::Generic);
        }
    }
}

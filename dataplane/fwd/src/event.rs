//! What the packet path tells the control side: rare things that somebody has to know of or decide.

use crate::id::TunnelId;
use std::net::Ipv4Addr;

/// Most events of one batch; more are counted and left out.
pub const EVENTS_MAX: usize = 64;

/// Something noticed while processing packets. Paced per tunnel, so no sender can make a flood of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A UDP tunnel packet with a right inner source came from elsewhere and was dropped
    /// ([`Rebind::Control`](crate::Rebind::Control)).
    EndpointMismatch {
        /// The tunnel.
        tunnel: TunnelId,
        /// Where it came from.
        seen: (Ipv4Addr, u16),
    },
    /// A UDP tunnel's peer has moved ([`Rebind::InnerSource`](crate::Rebind::InnerSource)), or was
    /// heard for the first time.
    EndpointChanged {
        /// The tunnel.
        tunnel: TunnelId,
        /// Where it was; port 0 when that was not known.
        from: (Ipv4Addr, u16),
        /// Where it is.
        to: (Ipv4Addr, u16),
    },
    /// A router lowered the path MTU of a tunnel.
    PathMtu {
        /// The tunnel.
        tunnel: TunnelId,
        /// The new estimate, outer header included.
        mtu: u16,
    },
    /// A router reported that packets of a tunnel do not arrive.
    OuterError {
        /// The tunnel.
        tunnel: TunnelId,
        /// ICMPv4 type.
        kind: u8,
        /// ICMPv4 code.
        code: u8,
    },
}

impl Event {
    /// The tunnel it is about.
    #[must_use]
    pub const fn tunnel(&self) -> TunnelId {
        match self {
            Self::EndpointMismatch { tunnel, .. }
            | Self::EndpointChanged { tunnel, .. }
            | Self::PathMtu { tunnel, .. }
            | Self::OuterError { tunnel, .. } => *tunnel,
        }
    }
}

//! What becomes of a packet.

use crate::drop_reason::DropReason;
use crate::id::PortId;

/// The one verdict every packet gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Forward by this port; the packet has been rewritten.
    Tx(PortId),
    /// Send by this port: an answer or error built in the packet's place.
    Answer(PortId),
    /// Hand to the slow path: unchanged but for [`PuntReason::HostDelivery`] and
    /// [`PuntReason::OuterTooBig`].
    Punt(PuntReason),
    /// Discard.
    Drop(DropReason),
}

/// Declares the punt reasons: variant, stable name, operator text.
macro_rules! punt_reasons {
    ($($variant:ident, $name:literal, $text:literal;)+) => {
        /// Why a packet goes to the slow path.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum PuntReason {
            $(#[doc = $text] $variant,)+
        }

        impl PuntReason {
            /// All reasons, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// Metric label.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            /// What an operator reads.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            /// Stable number.
            #[must_use]
            pub const fn index(self) -> usize {
                self as usize
            }
        }
    };
}

punt_reasons! {
    NextHopUnresolved, "next_hop_unresolved", "the next hop's hardware address is not known yet; held while the kernel resolves it";
    RouterSolicitation, "router_solicitation", "a router solicitation out of a tunnel, for the subscriber that answers them";
    Dhcpv6, "dhcpv6", "a DHCPv6 packet to ff02::1:2 out of a tunnel, for the DHCPv6 service";
    HostDelivery, "host_delivery", "a packet for the relay host itself: the bare IPv6 packet, for the host port";
    Fragment, "fragment", "a fragment of a tunnel packet, to be reassembled";
    OuterTooBig, "outer_too_big", "a finished outer packet beyond the egress link's MTU, to be sent in fragments";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_two_bytes() {
        assert_eq!(size_of::<Verdict>(), 2);
    }
}

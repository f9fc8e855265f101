//! Every reason to discard a packet, in one list.
//!
//! A name is never reused for another cause and a number never for another name: dashboards and
//! alerts live longer than versions. New reasons go to the end.

/// Declares the drop reasons: variant, name, group, whether counted per tunnel, operator text.
macro_rules! drop_reasons {
    ($($variant:ident, $name:literal, $group:literal, $tunnel:literal, $text:literal;)+) => {
        /// Why a packet was discarded.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum DropReason {
            $(#[doc = $text] $variant,)+
        }

        impl DropReason {
            /// All reasons, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// Name as the specification and the packet vectors write it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            /// What part of the processing drops for it.
            #[must_use]
            pub const fn group(self) -> &'static str {
                match self { $(Self::$variant => $group),+ }
            }

            /// Whether it is also counted per tunnel.
            #[must_use]
            pub const fn per_tunnel(self) -> bool {
                match self { $(Self::$variant => $tunnel),+ }
            }

            /// What an operator reads.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            /// Stable number.
            #[inline]
            #[must_use]
            pub const fn index(self) -> usize {
                self as usize
            }

            /// The reason of that name.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|reason| reason.name() == name)
            }

            /// Metric label: the name in lower case.
            #[must_use]
            pub fn label(self) -> String {
                self.name().to_ascii_lowercase()
            }
        }
    };
}

drop_reasons! {
    V4Truncated, "V4_TRUNCATED", "outer", false, "shorter than an IPv4 header";
    V4Version, "V4_VERSION", "outer", false, "IPv4 EtherType but another version";
    V4Ihl, "V4_IHL", "outer", false, "IPv4 header length below 20 bytes";
    V4Length, "V4_LENGTH", "outer", false, "IPv4 total length below the header or beyond the frame";
    V4Checksum, "V4_CHECKSUM", "outer", false, "IPv4 header checksum is wrong";
    V4Options, "V4_OPTIONS", "outer", false, "IPv4 options (refused by policy; source routes always)";
    ReasmOverlap, "REASM_OVERLAP", "fragments", false, "overlapping fragments: the datagram is discarded";
    ReasmTiny, "REASM_TINY", "fragments", false, "first fragment without the whole inner IPv6 header";
    ReasmTimeout, "REASM_TIMEOUT", "fragments", false, "fragments did not become whole in time";
    ReasmLimit, "REASM_LIMIT", "fragments", false, "too many reassemblies open";
    NoTunnel, "NO_TUNNEL", "lookup", false, "no tunnel has these outer addresses";
    TunnelDown, "TUNNEL_DOWN", "lookup", true, "the tunnel is administratively down";
    DecapDisabled, "DECAP_DISABLED", "lookup", false, "input is switched off for this domain";
    AnycastDisabled, "ANYCAST_DISABLED", "lookup", false, "6to4 anycast is off";
    V4SrcMartian, "V4_SRC_MARTIAN", "outer address", false, "outer source is no global unicast address";
    V4SrcBroadcast, "V4_SRC_BROADCAST", "outer address", false, "outer source is a connected subnet's broadcast address";
    V4IngressFilter, "V4_INGRESS_FILTER", "outer address", false, "outer source fails the reverse path check";
    V4DstMartian, "V4_DST_MARTIAN", "outer address", false, "outer destination is no global unicast address";
    V4DstBroadcast, "V4_DST_BROADCAST", "outer address", false, "outer destination is a connected subnet's broadcast address";
    InnerTruncated, "INNER_TRUNCATED", "inner", false, "less than an IPv6 header inside the tunnel packet";
    InnerVersion, "INNER_VERSION", "inner", false, "the tunnel packet carries no IPv6";
    InnerLength, "INNER_LENGTH", "inner", false, "inner payload length beyond the tunnel packet";
    V6Truncated, "V6_TRUNCATED", "inner", false, "shorter than an IPv6 header";
    V6Version, "V6_VERSION", "inner", false, "IPv6 EtherType but another version";
    V6Length, "V6_LENGTH", "inner", false, "IPv6 payload length beyond the frame";
    V6SrcInvalid, "V6_SRC_INVALID", "inner", false, "source is multicast, unspecified, loopback, IPv4-compatible or IPv4-mapped";
    V6SrcScope, "V6_SRC_SCOPE", "inner", false, "link-local source leaving its link";
    V6DstInvalid, "V6_DST_INVALID", "inner", false, "multicast, link-local or otherwise impossible destination";
    V6DstEmbedsMartian, "V6_DST_EMBEDS_MARTIAN", "inner", false, "destination embeds an impossible IPv4 address";
    V6HopLimit, "V6_HOP_LIMIT", "inner", false, "hop limit used up, and no ICMPv6 error may be sent";
    V6NoRoute, "V6_NO_ROUTE", "inner", false, "no route, and no ICMPv6 error may be sent";
    V6TooBig, "V6_TOO_BIG", "inner", false, "larger than the path takes, and no ICMPv6 error may be sent";
    Rh0, "RH0", "inner", true, "routing header type 0";
    InnerSrcSpoof, "INNER_SRC_SPOOF", "spoofing", true, "inner source lies in no prefix of the tunnel";
    V6SrcSpoofNative, "V6_SRC_SPOOF_NATIVE", "spoofing", false, "a tunnel's source address arrived on the native side";
    S6to4SrcMismatch, "S6TO4_SRC_MISMATCH", "spoofing", false, "6to4 source does not embed the outer source";
    S6to4DstMismatch, "S6TO4_DST_MISMATCH", "spoofing", false, "6to4 destination does not embed the outer destination";
    S6to4NativeNative, "S6TO4_NATIVE_NATIVE", "spoofing", false, "neither address is 6to4";
    S6to4PeerRestricted, "S6TO4_PEER_RESTRICTED", "spoofing", false, "outer source outside the allowed 6to4 peers";
    S6rdSrcMismatch, "S6RD_SRC_MISMATCH", "spoofing", false, "6rd source does not embed the outer source";
    S6rdSrcNotInDomain, "S6RD_SRC_NOT_IN_DOMAIN", "spoofing", false, "source outside the 6rd domain";
    S6rdDstNotMine, "S6RD_DST_NOT_MINE", "spoofing", false, "destination outside the own 6rd delegated prefix";
    LoopSelf, "LOOP_SELF", "loops", false, "the packet would be sent to the relay itself";
    LoopSameTunnel, "LOOP_SAME_TUNNEL", "loops", true, "the packet would go back into the tunnel it came from";
    EcnCeOnNotEct, "ECN_CE_ON_NOT_ECT", "ECN, ND", true, "outer congestion mark on a packet that cannot carry it";
    NdInvalid, "ND_INVALID", "ECN, ND", true, "neighbour discovery message with a wrong hop limit, checksum or form";
    Icmp4Checksum, "ICMP4_CHECKSUM", "ICMPv4", false, "ICMPv4 checksum is wrong";
    Icmp4NoTunnel, "ICMP4_NO_TUNNEL", "ICMPv4", false, "ICMPv4 error about a packet of no tunnel";
    Icmp4InnerMismatch, "ICMP4_INNER_MISMATCH", "ICMPv4", false, "ICMPv4 error quotes an inner packet that would not use this tunnel";
    Icmp4StaticMtu, "ICMP4_STATIC_MTU", "ICMPv4", false, "fragmentation needed for a tunnel of fixed MTU: ignored";
    Icmp4NoChange, "ICMP4_NO_CHANGE", "ICMPv4", false, "fragmentation needed that lowers nothing (not an error)";
    Icmp4Consumed, "ICMP4_CONSUMED", "ICMPv4", false, "ICMPv4 error noted and not relayed (not an error)";
    UdpChecksum, "UDP_CHECKSUM", "UDP", false, "UDP checksum is wrong";
    UdpLength, "UDP_LENGTH", "UDP", false, "UDP length below 8 or beyond the packet";
    UdpRemoteMismatch, "UDP_REMOTE_MISMATCH", "UDP", true, "UDP tunnel packet from another address than the peer's";
    UdpKeepalive, "UDP_KEEPALIVE", "UDP", false, "UDP keepalive (not an error)";
    NexthopUnresolved, "NEXTHOP_UNRESOLVED", "resources", false, "the next hop did not resolve in time";
    TxRingFull, "TX_RING_FULL", "resources", false, "the egress queue had no room";
    UmemExhausted, "UMEM_EXHAUSTED", "resources", false, "no free frame";
    PuntLimit, "PUNT_LIMIT", "resources", false, "slow path full or over its rate";
    IcmpRateLimited, "ICMP_RATE_LIMITED", "resources", false, "an ICMPv6 error or answer was due but over its rate";
    EthTruncated, "ETH_TRUNCATED", "link", false, "shorter than its Ethernet header";
    EthType, "ETH_TYPE", "link", false, "neither IPv4 nor IPv6";
    EthVlan, "ETH_VLAN", "link", false, "VLAN tag this port does not accept";
    PortDown, "PORT_DOWN", "link", false, "the port is unknown or down";
    V4Protocol, "V4_PROTOCOL", "outer", false, "outer protocol is none the relay handles";
    V4Fragment, "V4_FRAGMENT", "fragments", false, "fragment of an outer packet, and reassembly is off";
    V4TooBig, "V4_TOO_BIG", "outer", false, "the outer packet exceeds the egress link's MTU";
    HostPortAbsent, "HOST_PORT_ABSENT", "lookup", false, "for the relay host itself, which has no host port";
    V6Blackhole, "V6_BLACKHOLE", "lookup", false, "the route says discard";
    V4NoRoute, "V4_NO_ROUTE", "lookup", false, "no IPv4 route to the tunnel's remote address";
    V4Denied, "V4_DENIED", "outer address", false, "outer address on the domain's list of refused addresses";
    EndpointUnknown, "ENDPOINT_UNKNOWN", "UDP", false, "the UDP tunnel's peer has not been heard yet";
    ProbeReply, "PROBE_REPLY", "ECN, ND", false, "echo reply or neighbour advertisement to an address of the relay (not an error)";
    Dhcpv6Invalid, "DHCPV6_INVALID", "ECN, ND", false, "sent to the DHCPv6 servers' address, but not to their port";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_found_again() {
        for (i, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), i);
            assert_eq!(DropReason::from_name(reason.name()), Some(*reason));
            assert!(!reason.text().is_empty() && !reason.group().is_empty());
        }
    }

    #[test]
    fn numbers_of_released_reasons_stay() {
        // one from each end of the list as first published; a failure means a number was reused
        assert_eq!(DropReason::V4Truncated.index(), 0);
        assert_eq!(DropReason::InnerSrcSpoof.index(), 33);
        assert_eq!(DropReason::IcmpRateLimited.index(), 60);
        assert_eq!(DropReason::V6Blackhole.index(), 69);
    }
}

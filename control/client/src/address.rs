//! Addresses and prefixes between their wire form (4 or 16 bytes in network order) and
//! [`std::net`], whose text form is the canonical one (RFC 5952).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv6Net};
use sixferry_proto::dataplane::v1 as api;

use crate::Error;

/// An address from its 4 or 16 bytes; `None` for any other length.
pub fn ip_from_bytes(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(v4).into());
    }
    <[u8; 16]>::try_from(bytes)
        .ok()
        .map(|v6| Ipv6Addr::from(v6).into())
}

/// The 4 or 16 bytes of an address.
pub fn ip_to_bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// A prefix from its wire form; `None` if the address or the length is impossible.
pub fn net_from_proto(prefix: &api::IpPrefix) -> Option<IpNet> {
    let address = ip_from_bytes(&prefix.address)?;
    IpNet::new(address, u8::try_from(prefix.length).ok()?).ok()
}

/// The wire form of a prefix.
pub fn net_to_proto(net: IpNet) -> api::IpPrefix {
    api::IpPrefix {
        address: ip_to_bytes(net.addr()),
        length: u32::from(net.prefix_len()),
    }
}

/// `aa:bb:cc:dd:ee:ff`; empty for no bytes.
pub fn format_mac(bytes: &[u8]) -> String {
    let octets: Vec<String> = bytes.iter().map(|b| format!("{b:02x}")).collect();
    octets.join(":")
}

pub(crate) fn required_v4(field: &'static str, bytes: &[u8]) -> Result<Ipv4Addr, Error> {
    match ip_from_bytes(bytes) {
        Some(IpAddr::V4(v4)) => Ok(v4),
        _ => Err(Error::malformed(field, "is not an IPv4 address")),
    }
}

pub(crate) fn required_v6(field: &'static str, bytes: &[u8]) -> Result<Ipv6Addr, Error> {
    match ip_from_bytes(bytes) {
        Some(IpAddr::V6(v6)) => Ok(v6),
        _ => Err(Error::malformed(field, "is not an IPv6 address")),
    }
}

pub(crate) fn optional_ip(field: &'static str, bytes: &[u8]) -> Result<Option<IpAddr>, Error> {
    if bytes.is_empty() {
        return Ok(None);
    }
    match ip_from_bytes(bytes) {
        Some(address) => Ok(Some(address)),
        None => Err(Error::malformed(field, "is not an IP address")),
    }
}

pub(crate) fn required_net(field: &'static str, prefix: &api::IpPrefix) -> Result<IpNet, Error> {
    net_from_proto(prefix).ok_or_else(|| Error::malformed(field, "is not a prefix"))
}

pub(crate) fn required_net6(field: &'static str, prefix: &api::IpPrefix) -> Result<Ipv6Net, Error> {
    match required_net(field, prefix)? {
        IpNet::V6(net) => Ok(net),
        IpNet::V4(_) => Err(Error::malformed(field, "is not an IPv6 prefix")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_convert_both_ways_and_print_canonically() {
        for text in ["198.51.100.1", "2001:db8::1", "::ffff:192.0.2.1", "fe80::"] {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(ip_from_bytes(&ip_to_bytes(address)), Some(address));
            assert_eq!(address.to_string(), text);
        }
    }

    #[test]
    fn other_lengths_are_no_address() {
        for len in [0, 1, 3, 5, 15, 17] {
            assert_eq!(ip_from_bytes(&vec![0; len]), None, "{len} bytes");
        }
    }

    #[test]
    fn prefixes_convert_both_ways() {
        for text in ["0.0.0.0/0", "192.0.2.0/24", "2001:db8::/48", "::/0"] {
            let net: IpNet = text.parse().unwrap();
            assert_eq!(net_from_proto(&net_to_proto(net)), Some(net));
        }
        let too_long = api::IpPrefix {
            address: vec![192, 0, 2, 0],
            length: 33,
        };
        assert_eq!(net_from_proto(&too_long), None);
        let absurd = api::IpPrefix {
            address: vec![192, 0, 2, 0],
            length: 256 + 24,
        };
        assert_eq!(net_from_proto(&absurd), None);
    }

    #[test]
    fn mac_addresses_are_lower_case_with_colons() {
        assert_eq!(format_mac(&[0, 0x1b, 0xFF, 1, 2, 3]), "00:1b:ff:01:02:03");
        assert_eq!(format_mac(&[]), "");
    }
}

//! Values of arguments, shared by commands and by files to load.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use sixferry_client::{Dscp, Ttl};

/// `5`, `5s`, `500ms`, `2m`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" | "s" => 1.0,
        "ms" => 1e-3,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        other => return Err(format!("unknown unit {other}: use ms, s, m or h")),
    };
    let number: f64 = digits
        .parse()
        .map_err(|_| "a number with a unit, e.g. 500ms, 2s, 1m".to_owned())?;
    match Duration::try_from_secs_f64(number * unit) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err("must be positive".to_owned()),
    }
}

/// An IPv6 prefix without host bits.
pub(crate) fn prefix6(text: &str) -> Result<Ipv6Net, String> {
    let net: Ipv6Net = text
        .parse()
        .map_err(|_| "an IPv6 prefix, e.g. 2001:db8:100::/48".to_owned())?;
    if net.trunc() == net {
        Ok(net)
    } else {
        Err(format!("host bits are set; the prefix is {}", net.trunc()))
    }
}

/// A prefix of either family without host bits; a bare address is one host.
pub(crate) fn prefix(text: &str) -> Result<IpNet, String> {
    if let Ok(address) = text.parse::<std::net::IpAddr>() {
        return Ok(IpNet::from(address));
    }
    let net: IpNet = text
        .parse()
        .map_err(|_| "a prefix, e.g. 2001:db8:100::/48 or 192.0.2.0/24".to_owned())?;
    if net.trunc() == net {
        Ok(net)
    } else {
        Err(format!("host bits are set; the prefix is {}", net.trunc()))
    }
}

/// An IPv4 prefix without host bits; a bare address is one host.
pub(crate) fn prefix4(text: &str) -> Result<Ipv4Net, String> {
    match prefix(text) {
        Ok(IpNet::V4(net)) => Ok(net),
        Err(problem) if problem.starts_with("host bits") => Err(problem),
        _ => Err("an IPv4 prefix, e.g. 192.0.2.0/24".to_owned()),
    }
}

/// A whole number of seconds between two limits, with a unit.
pub(crate) fn seconds(text: &str, least: u16, most: u16) -> Result<u16, String> {
    let value = duration(text)?;
    let limits = format!("whole seconds, {least}s to {most}s");
    match u16::try_from(value.as_secs()) {
        Ok(seconds) if value.subsec_nanos() == 0 && (least..=most).contains(&seconds) => {
            Ok(seconds)
        }
        _ => Err(limits),
    }
}

/// An address of a lookup: inside a tunnel, or outside with or without a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LookupAddress {
    Inner(Ipv6Addr),
    Outer(Ipv4Addr),
    Port(SocketAddrV4),
}

pub(crate) fn lookup_key(text: &str) -> Result<LookupAddress, String> {
    match text.parse() {
        Ok(IpAddr::V6(inner)) => return Ok(LookupAddress::Inner(inner)),
        Ok(IpAddr::V4(outer)) => return Ok(LookupAddress::Outer(outer)),
        Err(_) => {}
    }
    match text.parse::<SocketAddrV4>() {
        Ok(address) if address.port() != 0 => Ok(LookupAddress::Port(address)),
        _ => Err("an IPv6 address, an IPv4 address, or an IPv4 address and :PORT".to_owned()),
    }
}

/// The id of a tunnel or a domain.
pub(crate) fn tunnel_id(text: &str) -> Result<String, String> {
    let fits = (1..=63).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    if fits {
        Ok(text.to_owned())
    } else {
        Err("1 to 63 of A-Z a-z 0-9 . _ -".to_owned())
    }
}

/// `1`..`255` or `inherit`.
pub(crate) fn ttl(text: &str) -> Result<Ttl, String> {
    if text == "inherit" {
        return Ok(Ttl::Inherit);
    }
    match text.parse() {
        Ok(ttl @ 1..=255) => Ok(Ttl::Fixed(ttl)),
        _ => Err("1 to 255, or inherit".to_owned()),
    }
}

/// `0`..`63` or `copy`.
pub(crate) fn dscp(text: &str) -> Result<Dscp, String> {
    if text == "copy" {
        return Ok(Dscp::Copy);
    }
    match text.parse() {
        Ok(dscp @ 0..=63) => Ok(Dscp::Fixed(dscp)),
        _ => Err("0 to 63, or copy".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(duration("5"), Ok(Duration::from_secs(5)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for wrong in ["", "s", "0", "-1", "5 s", "5x", "1e400", "nan"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn prefixes_with_host_bits_name_the_right_one() {
        assert_eq!(
            prefix6("2001:db8::1/48"),
            Err("host bits are set; the prefix is 2001:db8::/48".to_owned())
        );
        assert!(prefix6("192.0.2.0/24").is_err());
        assert_eq!(prefix("192.0.2.1").unwrap().to_string(), "192.0.2.1/32");
        assert_eq!(prefix("::/0").unwrap().to_string(), "::/0");
        assert!(prefix("192.0.2.1/24").is_err());
    }

    #[test]
    fn addresses_of_a_lookup() {
        use LookupAddress::{Inner, Outer, Port};
        let v4 = Ipv4Addr::new(192, 0, 2, 1);
        assert_eq!(lookup_key("192.0.2.1"), Ok(Outer(v4)));
        assert_eq!(
            lookup_key("192.0.2.1:4028"),
            Ok(Port(SocketAddrV4::new(v4, 4028)))
        );
        assert_eq!(
            lookup_key("2001:db8::1"),
            Ok(Inner("2001:db8::1".parse().unwrap()))
        );
        for wrong in ["", "192.0.2.1:0", "192.0.2.1:65536", "[2001:db8::1]:5", "x"] {
            assert!(lookup_key(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn whole_seconds_and_ipv4_prefixes() {
        assert_eq!(seconds("1m", 5, 3600), Ok(60));
        for wrong in ["4", "1.5s", "2h", "x"] {
            assert!(seconds(wrong, 5, 3600).is_err(), "{wrong}");
        }
        assert_eq!(prefix4("10.0.0.0/8").unwrap().to_string(), "10.0.0.0/8");
        assert_eq!(
            prefix4("10.0.0.1/8"),
            Err("host bits are set; the prefix is 10.0.0.0/8".to_owned())
        );
        assert!(prefix4("2001:db8::/32").is_err());
    }

    #[test]
    fn ids_ttl_and_dscp() {
        assert!(tunnel_id("User-1.a_b").is_ok());
        for wrong in ["", "a b", "ü", &"x".repeat(64)] {
            assert!(tunnel_id(wrong).is_err(), "{wrong}");
        }
        assert_eq!(ttl("inherit"), Ok(Ttl::Inherit));
        assert_eq!(ttl("255"), Ok(Ttl::Fixed(255)));
        assert!(ttl("0").is_err() && ttl("256").is_err());
        assert_eq!(dscp("copy"), Ok(Dscp::Copy));
        assert_eq!(dscp("63"), Ok(Dscp::Fixed(63)));
        assert!(dscp("64").is_err());
    }
}

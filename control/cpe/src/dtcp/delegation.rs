//! `-P`: parts of a delegated prefix for the links behind this host.
//!
//! ```text
//!  |<---- prefix ---->|<-- SLA -->|<---- host id ---->|
//!  |                  |           len                128
//! ```

use std::net::Ipv6Addr;
use std::str::FromStr;

use ipnet::Ipv6Net;

/// One `interface[/SLA[/hostid[/len]]]`; empty parts are defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Interface.
    pub interface: String,
    /// Which subnet of the prefix: 0, unless said otherwise.
    pub sla: u128,
    /// Host part of our address; `None`: from the hardware address (RFC 4291 appendix A).
    pub host: Option<u128>,
    /// Length of the subnet's prefix.
    pub len: u8,
}

const DEFAULT_LEN: u8 = 64;
/// Longest interface name of the kernel.
const NAME_MAX: usize = 15;

impl FromStr for Link {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split('/');
        let interface = parts.next().unwrap_or_default();
        let is_name = |c: char| c.is_ascii_graphic() && c != ':';
        if interface.is_empty() || interface.len() > NAME_MAX || !interface.chars().all(is_name) {
            return Err(format!("`{interface}` is no interface name"));
        }
        let mut part = || parts.next().filter(|part| !part.is_empty());
        let sla = part().map_or(Ok(0), number)?;
        let host = part().map(host).transpose()?;
        let len = match part() {
            None => DEFAULT_LEN,
            Some(text) => text
                .parse()
                .ok()
                .filter(|len| (1..=126).contains(len))
                .ok_or_else(|| format!("`{text}` is no prefix length from 1 to 126"))?,
        };
        if parts.next().is_some() {
            return Err("it is interface/SLA/hostid/length".to_owned());
        }
        if host.is_none() && len != DEFAULT_LEN {
            return Err(format!(
                "a host id from the hardware address needs a prefix of 64 bits, not {len}"
            ));
        }
        Ok(Self {
            interface: interface.to_owned(),
            sla,
            host,
            len,
        })
    }
}

/// Decimal, or hexadecimal after `0x`.
fn number(text: &str) -> Result<u128, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u128::from_str_radix(hex, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| format!("`{text}` is no number (decimal, or hexadecimal after 0x)"))
}

/// A number, or the end of an address: `::1:2`.
fn host(text: &str) -> Result<u128, String> {
    if text.starts_with("::") {
        let address: Result<Ipv6Addr, _> = text.parse();
        return address
            .map(u128::from)
            .map_err(|_| format!("`{text}` is no host id"));
    }
    number(text)
}

impl Link {
    /// Our address on the link, with the length of its subnet's prefix.
    ///
    /// # Errors
    /// When the parts do not fit into the prefix.
    pub fn address(&self, prefix: Ipv6Net, mac: Option<[u8; 6]>) -> Result<Ipv6Net, String> {
        let name = &self.interface;
        if prefix.prefix_len() > self.len {
            return Err(format!("{name}: {prefix} is longer than {} bits", self.len));
        }
        let sla_bits = self.len - prefix.prefix_len();
        if self.sla.checked_shr(u32::from(sla_bits)).unwrap_or(0) != 0 {
            return Err(format!(
                "{name}: SLA {} does not fit into the {sla_bits} bits between {prefix} and /{}",
                self.sla, self.len
            ));
        }
        let host = match (self.host, mac) {
            (Some(host), _) => host,
            (None, Some(mac)) => eui64(mac),
            (None, None) => return Err(format!("{name} has no hardware address: give a host id")),
        };
        let host_bits = 128 - u32::from(self.len);
        if host.checked_shr(host_bits).unwrap_or(0) != 0 {
            return Err(format!(
                "{name}: the host id does not fit into the {host_bits} bits after /{}",
                self.len
            ));
        }
        if host == 0 {
            // RFC 4291 section 2.6.1
            return Err(format!("{name}: host id 0 means all routers of the subnet"));
        }
        let subnet = self.sla.checked_shl(host_bits).unwrap_or(0);
        let address = Ipv6Addr::from(u128::from(prefix.network()) | subnet | host);
        Ipv6Net::new(address, self.len).map_err(|e| e.to_string())
    }
}

/// The interface identifier of a hardware address (RFC 4291 appendix A).
const fn eui64([a, b, c, d, e, f]: [u8; 6]) -> u128 {
    u64::from_be_bytes([a ^ 2, b, c, 0xff, 0xfe, d, e, f]) as u128
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAC: Option<[u8; 6]> = Some([0x02, 0x11, 0x22, 0x33, 0x44, 0x55]);

    fn address(link: &str, prefix: &str) -> Result<String, String> {
        let link: Link = link.parse()?;
        let prefix = prefix.parse().expect("prefix");
        link.address(prefix, MAC).map(|net| net.to_string())
    }

    #[test]
    fn parts_make_an_address() {
        for (link, prefix, wanted) in [
            (
                "eth0",
                "2001:db8:100::/48",
                "2001:db8:100:0:11:22ff:fe33:4455/64",
            ),
            (
                "eth0/5",
                "2001:db8:100::/48",
                "2001:db8:100:5:11:22ff:fe33:4455/64",
            ),
            ("eth0/0xff/1", "2001:db8:100::/48", "2001:db8:100:ff::1/64"),
            (
                "eth0//::1:2",
                "2001:db8:100:7::/64",
                "2001:db8:100:7::1:2/64",
            ),
            (
                "eth0/1/1/112",
                "2001:db8:100:7::/64",
                "2001:db8:100:7::1:1/112",
            ),
            (
                "eth0/65535/1",
                "2001:db8:100::/48",
                "2001:db8:100:ffff::1/64",
            ),
        ] {
            assert_eq!(address(link, prefix), Ok(wanted.to_owned()), "{link}");
        }
    }

    #[test]
    fn what_does_not_fit_is_said() {
        for (link, prefix, why) in [
            ("", "2001:db8::/48", "no interface name"),
            (
                "averyveryverylongname",
                "2001:db8::/48",
                "no interface name",
            ),
            ("eth0/x", "2001:db8::/48", "no number"),
            ("eth0/1/::g", "2001:db8::/48", "no host id"),
            ("eth0/1/1/128", "2001:db8::/48", "no prefix length"),
            (
                "eth0/1/1/64/1",
                "2001:db8::/48",
                "interface/SLA/hostid/length",
            ),
            ("eth0/1//80", "2001:db8::/48", "needs a prefix of 64 bits"),
            (
                "eth0/65536/1",
                "2001:db8::/48",
                "does not fit into the 16 bits",
            ),
            ("eth0/1/1", "2001:db8::/64", "does not fit into the 0 bits"),
            ("eth0/0/1", "2001:db8::/65", "longer than 64 bits"),
            ("eth0/0/0", "2001:db8::/64", "all routers"),
            (
                "eth0/0/0x10000/112",
                "2001:db8::/64",
                "does not fit into the 16 bits",
            ),
        ] {
            let error = address(link, prefix).expect_err(link);
            assert!(error.contains(why), "{link}: {error}");
        }
        let link: Link = "tun0".parse().expect("a link");
        let prefix = "2001:db8::/64".parse().expect("prefix");
        assert!(link.address(prefix, None).is_err());
    }

    proptest! {
        #[test]
        fn an_address_is_always_inside_the_prefix(
            bits in 16_u8..=64, sla in any::<u128>(), host in any::<u64>(), len in 1_u8..=126,
        ) {
            let prefix = Ipv6Net::new("2001:db8:1234:5678::".parse().expect("address"), bits)
                .expect("length").trunc();
            let link = Link { interface: "eth0".to_owned(), sla, host: Some(host.into()), len };
            if let Ok(address) = link.address(prefix, None) {
                prop_assert!(prefix.contains(&address.addr()));
                prop_assert_eq!(address.prefix_len(), len);
            }
        }
    }
}

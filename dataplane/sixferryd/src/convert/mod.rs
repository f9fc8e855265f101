//! Between the API's messages and the dataplane's types. No state, no decisions but "is this a
//! value of that type".

pub(crate) mod counter;
pub(crate) mod domain;
pub(crate) mod mask;
mod outer;
pub(crate) mod route;
pub(crate) mod tunnel;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sixferry_fwd::{Ipv4Prefix, Ipv6Prefix};
use sixferry_proto::dataplane::v1 as pb;

use crate::control::error::Error;
use crate::control::{Atomicity, Counts, WriteMode};
use crate::netlink::Prefix;

use outer::{Outer, OuterFields, OuterShown};

/// An address of either family.
pub(crate) fn ip_from(bytes: &[u8]) -> Result<IpAddr, String> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Ok(Ipv4Addr::from(v4).into());
    }
    if let Ok(v6) = <[u8; 16]>::try_from(bytes) {
        return Ok(Ipv6Addr::from(v6).into());
    }
    Err(format!("{} bytes; an address has 4 or 16", bytes.len()))
}

/// An IPv4 address.
pub(crate) fn ip4_from(bytes: &[u8]) -> Result<Ipv4Addr, String> {
    let bytes: [u8; 4] = bytes.try_into().map_err(|_| wrong_len(bytes, "IPv4", 4))?;
    Ok(bytes.into())
}

/// An IPv6 address.
pub(crate) fn ip6_from(bytes: &[u8]) -> Result<Ipv6Addr, String> {
    let bytes: [u8; 16] = bytes.try_into().map_err(|_| wrong_len(bytes, "IPv6", 16))?;
    Ok(bytes.into())
}

fn wrong_len(bytes: &[u8], family: &str, len: usize) -> String {
    match bytes.len() {
        0 => format!("missing; an {family} address of {len} bytes"),
        given => format!("{given} bytes; an {family} address has {len}"),
    }
}

/// An address as bytes.
pub(crate) fn ip_bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

/// An IPv6 prefix.
pub(crate) fn prefix6_from(prefix: &pb::IpPrefix) -> Result<Ipv6Prefix, String> {
    let address = ip6_from(&prefix.address)?;
    let len = u8::try_from(prefix.length).ok().filter(|len| *len <= 128);
    let len = len.ok_or_else(|| format!("length {} is beyond 128", prefix.length))?;
    Ipv6Prefix::new(address, len).ok_or_else(|| {
        let meant = Ipv6Prefix::containing(address, len);
        format!("{address}/{len} has bits set after the prefix; did you mean {meant}?")
    })
}

/// An IPv4 prefix.
pub(crate) fn prefix4_from(prefix: &pb::IpPrefix) -> Result<Ipv4Prefix, String> {
    let address = ip4_from(&prefix.address)?;
    let len = u8::try_from(prefix.length).ok().filter(|len| *len <= 32);
    let len = len.ok_or_else(|| format!("length {} is beyond 32", prefix.length))?;
    Ipv4Prefix::new(address, len).ok_or_else(|| {
        let meant = Ipv4Prefix::containing(address, len);
        format!("{address}/{len} has bits set after the prefix; did you mean {meant}?")
    })
}

/// An IPv4 prefix as a message.
pub(crate) fn prefix4_message(prefix: Ipv4Prefix) -> pb::IpPrefix {
    let address = prefix.address().octets().to_vec();
    pb::IpPrefix {
        address,
        length: prefix.len().into(),
    }
}

/// A prefix of either family.
pub(crate) fn prefix_from(prefix: &pb::IpPrefix) -> Result<Prefix, String> {
    let address = ip_from(&prefix.address)?;
    let found = u8::try_from(prefix.length)
        .ok()
        .and_then(|len| Prefix::of(address, len));
    let found = found.ok_or_else(|| format!("length {} is beyond the address", prefix.length))?;
    if found.addr() != address {
        let (meant, len) = (found.addr(), found.len());
        return Err(format!(
            "{address}/{len} has bits set after the prefix; did you mean {meant}/{len}?"
        ));
    }
    Ok(found)
}

/// An IPv6 prefix as a message.
pub(crate) fn prefix6_message(prefix: Ipv6Prefix) -> pb::IpPrefix {
    let address = prefix.address().octets().to_vec();
    pb::IpPrefix {
        address,
        length: prefix.len().into(),
    }
}

/// A prefix as a message.
pub(crate) fn prefix_message(prefix: Prefix) -> pb::IpPrefix {
    pb::IpPrefix {
        address: ip_bytes(prefix.addr()),
        length: prefix.len().into(),
    }
}

pub(crate) fn atomicity(value: i32) -> Result<Atomicity, Error> {
    match pb::Atomicity::try_from(value) {
        Ok(pb::Atomicity::Unspecified | pb::Atomicity::ContinueOnError) => {
            Ok(Atomicity::EachForItself)
        }
        Ok(pb::Atomicity::RollbackOnError | pb::Atomicity::DataplaneAtomic) => {
            Ok(Atomicity::AllOrNothing)
        }
        Err(_) => Err(Error::field(
            "atomicity",
            format!("{value} is no Atomicity"),
        )),
    }
}

fn write_mode(value: i32) -> Result<WriteMode, Error> {
    match pb::WriteMode::try_from(value) {
        Ok(pb::WriteMode::Unspecified | pb::WriteMode::Upsert) => Ok(WriteMode::Upsert),
        Ok(pb::WriteMode::Create) => Ok(WriteMode::Create),
        Ok(pb::WriteMode::Update) => Ok(WriteMode::Update),
        Err(_) => Err(Error::field("mode", format!("{value} is no WriteMode"))),
    }
}

pub(crate) fn counts_message(counts: Counts) -> pb::ApplyCounts {
    let Counts {
        created,
        updated,
        unchanged,
        deleted,
    } = counts;
    pb::ApplyCounts {
        created,
        updated,
        unchanged,
        deleted,
    }
}

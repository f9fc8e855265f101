//! What a tunnel may look like.

use super::super::error::TableError;
use super::super::spec::{Dscp, EncapKind, Rebind, Ttl, TunnelSpec, UdpEncap};
use super::tunnels::claimed;
use sixferry_wire::{embed, ipv6};
use std::net::Ipv4Addr;

/// Every link carries this much (RFC 791).
const IPV4_MIN_MTU: u16 = 68;

/// Addresses and ports.
fn check_ends(spec: &TunnelSpec) -> Result<(), TableError> {
    let udp = match spec.encap {
        EncapKind::SixInFour => None,
        EncapKind::Udp(udp) => Some(udp),
    };
    if let Some(udp) = udp {
        check_ports(&udp, spec.remote)?;
    }
    let waiting = udp.is_some_and(|u| u.remote_port == 0) && spec.remote.is_unspecified();
    let remote = if waiting { spec.local } else { spec.remote };
    for address in [spec.local, remote] {
        if embed::is_impossible(u32::from(address)) {
            return Err(TableError::OuterAddress { address });
        }
    }
    // RFC 6324: we would be our own peer
    if spec.local == spec.remote {
        return Err(TableError::OuterAddress {
            address: spec.remote,
        });
    }
    Ok(())
}

fn check_ports(udp: &UdpEncap, remote: Ipv4Addr) -> Result<(), TableError> {
    if udp.local_port == 0 {
        return Err(TableError::Port {
            port: 0,
            remote: false,
        });
    }
    // both are told, or both are learnt, or the port of a known address; and who shares a port must
    // be told
    let known = (udp.remote_port != 0, !remote.is_unspecified());
    let fits = match udp.rebind {
        Rebind::InnerSourcePort => known.1 && (known.0 || !udp.shared),
        _ => known.0 == known.1 && (known.0 || !udp.shared),
    };
    if !fits {
        return Err(TableError::Port {
            port: udp.remote_port,
            remote: true,
        });
    }
    Ok(())
}

pub(super) fn check_fields(spec: &TunnelSpec) -> Result<(), TableError> {
    check_ends(spec)?;
    if spec.min_path_mtu < IPV4_MIN_MTU {
        return Err(TableError::PathMtu {
            mtu: spec.min_path_mtu,
        });
    }
    if let Some(mtu) = spec.path_mtu.filter(|mtu| *mtu < IPV4_MIN_MTU) {
        return Err(TableError::PathMtu { mtu });
    }
    if !(ipv6::MIN_MTU..=TunnelSpec::MAX_MTU).contains(&spec.mtu) {
        return Err(TableError::Mtu { mtu: spec.mtu });
    }
    if spec.ttl == Ttl::Fixed(0) {
        return Err(TableError::Ttl);
    }
    if let Dscp::Fixed(dscp) = spec.dscp
        && dscp > 63
    {
        return Err(TableError::Dscp { dscp });
    }
    if spec.prefixes.len() > TunnelSpec::MAX_PREFIXES {
        return Err(TableError::TooManyPrefixes {
            count: spec.prefixes.len(),
        });
    }
    if let Some(link) = spec.link
        && (!link.prefix.contains(link.address) || link.prefix.len() == 128)
    {
        return Err(TableError::LinkAddress {
            address: link.address,
            prefix: link.prefix,
        });
    }
    if let Some(address) = spec
        .link_local
        .filter(|a| !ipv6::is_link_local(u128::from(*a)))
    {
        return Err(TableError::LinkLocal { address });
    }
    for (prefix, _) in claimed(spec) {
        let bits = prefix.bits();
        let unusable = ipv6::is_invalid_source(bits) || ipv6::is_link_local(bits);
        if prefix.len() < 8 || unusable {
            return Err(TableError::PrefixInvalid { prefix });
        }
    }
    Ok(())
}

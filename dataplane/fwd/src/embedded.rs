//! The rules of 6to4 and 6rd: RFC 3056 section 5.3 and 9, RFC 3964 section 5, RFC 5969 section 9.2
//! and 12, RFC 6324.
//!
//! The far end of such a domain is read from each packet, so each packet is checked: an address that
//! was fine a moment ago proves nothing about this one. Sanity first, then equality of inner and
//! outer addresses: which reason a packet is counted under is part of the interface.

use crate::drop_reason::DropReason;
use crate::id::{PortId, TunnelId};
use crate::tables::record;
use crate::tables::{DomainRecord, Role, Tables, Target, Urpf};
use sixferry_wire::{embed, ipv6};

/// fec0::/10, deprecated site-local addresses.
const fn is_site_local(address: u128) -> bool {
    address >> 118 == 0x3fb
}

/// What is neither source nor destination in a domain (RFC 3964 section 5.3.2): ::/16, link-local,
/// site-local, multicast.
const fn is_unusable(address: u128) -> bool {
    address >> 112 == 0
        || ipv6::is_link_local(address)
        || is_site_local(address)
        || ipv6::is_multicast(address)
}

/// Whether a 6to4 address embeds an address no peer can have.
fn embeds_martian(domain: &DomainRecord, address: u128) -> bool {
    ipv6::embedded_6to4(address).is_some_and(|v4| domain.is_martian(v4))
}

/// The checks of an outer source before anything inside is looked at.
pub(crate) fn outer_source(
    tables: &Tables,
    domain: &DomainRecord,
    source: u32,
    rx_port: PortId,
    vlan: u16,
) -> Result<(), DropReason> {
    // the operator named the relay: whatever its address is, it is wanted
    let named = matches!(
        domain.role,
        Role::Ce { br: far } | Role::Site { relay: far } if u32::from_be_bytes(far) == source
    );
    if !named && domain.is_martian(source) {
        return Err(DropReason::V4SrcMartian);
    }
    if tables.is_broadcast(source) {
        return Err(DropReason::V4SrcBroadcast);
    }
    if tables.is_local_v4(source) {
        // RFC 1812 section 5.3.7: nobody but us sends from our address
        return Err(DropReason::LoopSelf);
    }
    if !named && domain.is_denied(source) {
        return Err(DropReason::V4Denied);
    }
    if !named && !domain.is_peer(source) {
        return Err(DropReason::S6to4PeerRestricted);
    }
    if !has_way_back(tables, domain.urpf, source, rx_port, vlan) {
        return Err(DropReason::V4IngressFilter);
    }
    Ok(())
}

/// RFC 3704: loose and strict reverse path.
fn has_way_back(tables: &Tables, urpf: Urpf, source: u32, rx_port: PortId, vlan: u16) -> bool {
    if urpf == Urpf::Off {
        return true;
    }
    let Target::NextHop(id) = tables.route4(source.to_be_bytes()) else {
        return false;
    };
    urpf == Urpf::Loose
        || tables
            .next_hop(id)
            .is_some_and(|hop| hop.port == rx_port && hop.tag.map_or(0, |(vlan, _)| vlan) == vlan)
}

/// The checks of inner addresses at the exit.
pub(crate) fn exit(
    tables: &Tables,
    domain: &DomainRecord,
    (src, dst): (u128, u128),
    outer_src: u32,
    outer_dst: u32,
) -> Result<(), DropReason> {
    if is_unusable(src) || embeds_martian(domain, src) {
        return Err(DropReason::V6SrcInvalid);
    }
    if is_unusable(dst) {
        return Err(DropReason::V6DstInvalid);
    }
    if embeds_martian(domain, dst) {
        return Err(DropReason::V6DstEmbedsMartian);
    }
    if domain.is_six_to_four() && ipv6::embedded_6to4(dst).is_some_and(|v4| tables.is_broadcast(v4))
    {
        return Err(DropReason::V4DstBroadcast);
    }
    // what comes by a relay may have any source, but not that of a tunnel of ours
    if domain.has_site() && !domain.embedding.contains(src) && is_known_here(tables, src) {
        return Err(DropReason::InnerSrcSpoof);
    }
    match domain.role {
        Role::Relay | Role::Site { .. } => six_to_four_exit(src, dst, outer_src, outer_dst),
        Role::Br => six_rd_source(domain, src, outer_src),
        Role::Ce { br } => {
            if u32::from_be_bytes(br) != outer_src {
                six_rd_source(domain, src, outer_src)?;
            }
            // RFC 5969 section 9.2: only what is delegated to this site
            if domain.is_own(dst) {
                Ok(())
            } else {
                Err(DropReason::S6rdDstNotMine)
            }
        }
    }
}

/// Whether an address is the relay's own, of a tunnel's user or of a customer of a border relay here:
/// none of them sends by way of another relay.
fn is_known_here(tables: &Tables, address: u128) -> bool {
    let target = Target::decode(tables.fib6().lookup(address));
    let customer = |d: &DomainRecord| d.role == Role::Br && d.embedding.contains(address);
    target == Target::Local
        || target.tunnel().is_some()
        || address == u128::from(tables.settings().router_address)
        || tables.domains().any(customer)
}

/// RFC 3964 section 5.1 and 5.2: what a 6to4 address says must be what the outer header says, or
/// anybody can send in anybody's name.
fn six_to_four_exit(
    src: u128,
    dst: u128,
    outer_src: u32,
    outer_dst: u32,
) -> Result<(), DropReason> {
    match (ipv6::embedded_6to4(src), ipv6::embedded_6to4(dst)) {
        (Some(v4), _) if v4 != outer_src => Err(DropReason::S6to4SrcMismatch),
        (_, Some(v4)) if v4 != outer_dst => Err(DropReason::S6to4DstMismatch),
        (None, None) => Err(DropReason::S6to4NativeNative),
        _ => Ok(()),
    }
}

/// RFC 5969 section 9.2.
fn six_rd_source(domain: &DomainRecord, src: u128, outer_src: u32) -> Result<(), DropReason> {
    match domain.embedding.embedded(src) {
        None => Err(DropReason::S6rdSrcNotInDomain),
        Some(v4) if v4 != outer_src => Err(DropReason::S6rdSrcMismatch),
        Some(_) => Ok(()),
    }
}

/// The checks at the entry that come before the hop limit: sanity of the addresses, loops.
pub(crate) fn entry(
    tables: &Tables,
    domain: &DomainRecord,
    src: u128,
    dst: u128,
) -> Result<(), DropReason> {
    if is_unusable(src) || embeds_martian(domain, src) {
        return Err(DropReason::V6SrcInvalid);
    }
    if is_unusable(dst) {
        return Err(DropReason::V6DstInvalid);
    }
    if domain.is_own(dst) {
        // RFC 6324, RFC 5969 section 12: a relay has no site there, a site's router has a route
        return Err(DropReason::LoopSelf);
    }
    let far = domain.embedding.embedded(dst);
    if let Some(v4) = far {
        if domain.is_martian(v4) {
            return Err(DropReason::V4DstMartian);
        }
        if tables.is_broadcast(v4) {
            return Err(DropReason::V4DstBroadcast);
        }
        if domain.is_denied(v4) {
            return Err(DropReason::V4Denied);
        }
        if tables.is_local_v4(v4) {
            return Err(DropReason::LoopSelf);
        }
    }
    match domain.role {
        Role::Relay | Role::Site { .. } => match ipv6::embedded_6to4(src) {
            // only the router that has the embedded address may send for it
            Some(v4) if v4 != domain.local => Err(DropReason::S6to4SrcMismatch),
            None if far.is_none() => Err(DropReason::S6to4NativeNative),
            _ => Ok(()),
        },
        Role::Br => Ok(()),
        // the border relay would drop it
        Role::Ce { .. } if !domain.is_own(src) => Err(DropReason::S6rdSrcNotInDomain),
        Role::Ce { .. } => Ok(()),
    }
}

/// Whether the domain has a far end for `dst`: an allowed peer, or the relay it is told to use.
pub(crate) fn reaches(domain: &DomainRecord, dst: u128) -> bool {
    match domain.embedding.embedded(dst) {
        Some(v4) => domain.is_peer(v4),
        None => domain.has_site(),
    }
}

/// The outer address of the peer that has `address`, if we would send it a packet of our own.
pub(crate) fn peer(tables: &Tables, id: TunnelId, address: u128) -> Option<[u8; 4]> {
    let record = tables.tunnel(id).filter(|r| r.has(record::DOMAIN))?;
    let domain = tables.domain(record)?;
    let router = u128::from(tables.settings().router_address);
    // a forged source must not make us send to just any IPv4 address
    entry(tables, domain, router, address).ok()?;
    domain.embedding.embedded(address)?;
    reaches(domain, address).then(|| domain.far_end(address))?
}

/// Whether an address of the domain is the relay's own: the anycast address of 6to4 relays (RFC 6343
/// section 4.2.1), the subnet-router anycast address of a border relay (RFC 5969 section 5).
pub(crate) fn answers(domain: &DomainRecord, dst: u128) -> bool {
    const ANYCAST: u128 =
        embed::SIX_TO_FOUR | (u32::from_be_bytes(embed::SIX_TO_FOUR_ANYCAST) as u128) << 80;
    match domain.role {
        Role::Relay => domain.anycast && dst == ANYCAST,
        Role::Br => dst == domain.own,
        Role::Site { .. } | Role::Ce { .. } => false,
    }
}

/// Whether an IPv6 address embeds one of our own IPv4 addresses, other than as the site that we serve
/// ourselves: a packet to it would come back, one from it was here before (RFC 6324 section 3.2).
#[inline]
pub(crate) fn embeds_local(tables: &Tables, address: u128) -> bool {
    let can = ipv6::embedded_6to4(address).is_some() || tables.has_domains();
    can && embeds_local_in_a_domain(tables, address)
}

fn embeds_local_in_a_domain(tables: &Tables, address: u128) -> bool {
    let six_to_four = ipv6::embedded_6to4(address).is_some_and(|v4| tables.is_local_v4(v4));
    if !tables.has_domains() {
        return six_to_four;
    }
    let embeds = |d: &DomainRecord| {
        let v4 = d.embedding.embedded(address);
        v4.is_some_and(|v4| tables.is_local_v4(v4))
    };
    (six_to_four || tables.domains().any(embeds)) && !tables.domains().any(|d| d.serves(address))
}

//! A tunnel as the dataplane is told of it.

use ipnet::Ipv6Net;
use sixferry_client::{Encap, MtuMode, Rebind, TunnelLink, TunnelUpdate, UdpEncap};

use crate::pairs::link_of;
use crate::{Transport, Tunnel, TunnelId};

/// The entry that makes the dataplane have the tunnel as it is, or not at all.
pub(super) fn update(id: TunnelId, tunnel: Option<&Tunnel>) -> TunnelUpdate {
    match tunnel {
        None => TunnelUpdate::delete(id.to_string()),
        Some(tunnel) => TunnelUpdate::upsert(spec(tunnel)),
    }
}

fn spec(tunnel: &Tunnel) -> sixferry_client::Tunnel {
    let mut spec = match tunnel.transport {
        Transport::SixInFour => {
            sixferry_client::Tunnel::new(tunnel.id.to_string(), tunnel.local, tunnel.remote)
        }
        Transport::Udp {
            local_port,
            remote_port,
            any_source,
        } => {
            let id = tunnel.id.to_string();
            let mut spec = sixferry_client::Tunnel::udp(id, tunnel.local, local_port);
            let rebind = match (remote_port, any_source) {
                (Some(_), _) => Rebind::Deny,
                (None, true) => Rebind::InnerSource,
                (None, false) => Rebind::InnerSourcePort,
            };
            if remote_port.is_some() || !any_source {
                spec.remote = tunnel.remote;
            }
            spec.encap = Encap::Udp(UdpEncap {
                remote_port,
                rebind,
                ..UdpEncap::new(local_port)
            });
            spec
        }
    };
    spec.mtu = tunnel.mtu;
    spec.mtu_mode = MtuMode::Static;
    spec.prefixes.clone_from(&tunnel.prefixes);
    if let Some(pair) = &tunnel.pair {
        spec.prefixes.insert(0, Ipv6Net::from(pair.client));
        spec.link = Some(TunnelLink {
            prefix: link_of(pair),
            address: pair.server,
        });
    }
    spec
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pairs::pair_of;
    use crate::state::sample;

    #[test]
    fn a_host_has_its_address_and_the_link_around_the_pair() {
        let mut tunnel = sample(7);
        tunnel.pair = pair_of("2001:db8::/64".parse().unwrap(), 0);
        let spec = spec(&tunnel);
        assert_eq!(spec.id, "t7");
        assert_eq!(
            spec.prefixes,
            ["2001:db8::6/128".parse::<Ipv6Net>().unwrap()]
        );
        let link = spec.link.unwrap();
        assert_eq!(link.prefix, "2001:db8::4/126".parse::<Ipv6Net>().unwrap());
        assert_eq!(link.address.to_string(), "2001:db8::5");
        assert!(spec.strict_source);
    }

    #[test]
    fn a_told_port_is_fixed_and_an_untold_one_is_learnt() {
        let mut tunnel = sample(7);
        for (remote_port, any_source, rebind) in [
            (Some(4028), false, Rebind::Deny),
            (None, false, Rebind::InnerSourcePort),
            (None, true, Rebind::InnerSource),
        ] {
            tunnel.transport = Transport::Udp {
                local_port: 4030,
                remote_port,
                any_source,
            };
            let spec = spec(&tunnel);
            let Encap::Udp(udp) = spec.encap else {
                panic!("{:?}", spec.encap);
            };
            assert_eq!((udp.local_port, udp.remote_port), (4030, remote_port));
            assert_eq!(udp.rebind, rebind);
            assert_eq!(spec.remote.is_unspecified(), any_source);
        }
    }
}

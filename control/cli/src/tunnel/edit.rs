//! Arguments that describe a tunnel.

use std::net::{Ipv4Addr, Ipv6Addr};

use clap::Args;
use ipnet::Ipv6Net;
use sixferry_client::{
    Dscp, Encap, Ttl, Tunnel, TunnelField, TunnelLink, TunnelUpdate, UdpEncap, WriteMode,
};

use crate::args::Writer;
use crate::error::CliError;
use crate::json::outer::{Ecn, MtuMode};
use crate::json::tunnel::{Encapsulation, Liveness, Rebind};
use crate::parse;

/// Properties that have a default.
#[derive(Args, Clone, Debug, Default)]
struct Properties {
    /// IPv6 prefix routed into the tunnel, also what its packets may come from; may be repeated.
    #[arg(long = "prefix", value_name = "PREFIX", value_delimiter = ',',
        value_parser = parse::prefix6)]
    prefixes: Vec<Ipv6Net>,
    /// Prefix of the numbered link between relay and user.
    #[arg(long, value_name = "PREFIX", requires = "link_address", value_parser = parse::prefix6)]
    link_prefix: Option<Ipv6Net>,
    /// Our address on that link; answers ping.
    #[arg(long, value_name = "ADDRESS", requires = "link_prefix")]
    link_address: Option<Ipv6Addr>,
    /// Our link-local address. [default: made from --local]
    #[arg(long, value_name = "ADDRESS")]
    link_local: Option<Ipv6Addr>,
    /// Largest inner packet in bytes, 1280..1480 (1472 with UDP). [default: 1280; with
    /// --mtu-mode dynamic as much as the path carries]
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u16).range(1280..=1480))]
    mtu: Option<u16>,
    /// How the outer Don't Fragment bit is set. [default: static]
    #[arg(long, value_enum, value_name = "MODE")]
    mtu_mode: Option<MtuMode>,
    /// With --mtu-mode dynamic: first estimate of the path MTU. [default: that of the egress link]
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u16).range(68..))]
    path_mtu: Option<u16>,
    /// With --mtu-mode dynamic: ICMPv4 errors cannot push the path MTU below this. [default: 576]
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u16).range(68..))]
    min_path_mtu: Option<u16>,
    /// Lower the MSS of TCP connections to what the tunnel carries. [default: false]
    #[arg(long, value_name = "true|false", num_args = 0..=1, require_equals = true,
        default_missing_value = "true")]
    mss_clamp: Option<bool>,
    /// Outer TTL: 1..255, or inherit. [default: 64]
    #[arg(long, value_name = "NUMBER|inherit", value_parser = parse::ttl)]
    ttl: Option<Ttl>,
    /// Outer DSCP: 0..63, or copy. [default: 0]
    #[arg(long, value_name = "NUMBER|copy", value_parser = parse::dscp)]
    dscp: Option<Dscp>,
    /// ECN at the tunnel entry. [default: normal]
    #[arg(long, value_enum, value_name = "MODE")]
    ecn: Option<Ecn>,
    /// UDP: the user's port. Without it and --remote the user is not known yet.
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    remote_port: Option<u16>,
    /// UDP: what to do when the user appears elsewhere. [default: control]
    #[arg(long, value_enum, value_name = "POLICY")]
    rebind: Option<Rebind>,
    /// How to find out whether the user is there. [default: off]
    #[arg(long, value_enum, value_name = "HOW")]
    liveness: Option<Liveness>,
    /// Time between probes, 5s..1h. [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = interval)]
    liveness_interval: Option<u16>,
}

fn interval(text: &str) -> Result<u16, String> {
    parse::seconds(text, 5, 3600)
}

impl Properties {
    /// Puts what is given into the tunnel and tells which fields that were.
    fn apply(mut self, tunnel: &mut Tunnel) -> Vec<TunnelField> {
        let mut fields = Vec::new();
        if !self.prefixes.is_empty() {
            tunnel.prefixes = std::mem::take(&mut self.prefixes);
            fields.push(TunnelField::Prefixes);
        }
        if let (Some(prefix), Some(address)) = (self.link_prefix, self.link_address) {
            tunnel.link = Some(TunnelLink { prefix, address });
            fields.push(TunnelField::Link);
        }
        if let Some(address) = self.link_local {
            tunnel.link_local = Some(address);
            fields.push(TunnelField::LinkLocal);
        }
        self.apply_mtu(tunnel, &mut fields);
        if let Some(ttl) = self.ttl {
            tunnel.ttl = ttl;
            fields.push(TunnelField::Ttl);
        }
        if let Some(dscp) = self.dscp {
            tunnel.dscp = dscp;
            fields.push(TunnelField::Dscp);
        }
        if let Some(ecn) = self.ecn {
            tunnel.ecn = ecn.into();
            fields.push(TunnelField::Ecn);
        }
        if let Some(mode) = self.liveness {
            tunnel.liveness.mode = mode.into();
            fields.push(TunnelField::LivenessMode);
        }
        if let Some(interval) = self.liveness_interval {
            tunnel.liveness.interval = interval;
            fields.push(TunnelField::LivenessInterval);
        }
        if let Encap::Udp(udp) = &mut tunnel.encap {
            if let Some(port) = self.remote_port {
                udp.remote_port = Some(port);
                fields.push(TunnelField::RemotePort);
            }
            if let Some(policy) = self.rebind {
                udp.rebind = policy.into();
                fields.push(TunnelField::Rebind);
            }
        }
        fields
    }

    fn apply_mtu(&self, tunnel: &mut Tunnel, fields: &mut Vec<TunnelField>) {
        if let Some(mtu) = self.mtu {
            tunnel.mtu = mtu;
            fields.push(TunnelField::Mtu);
        }
        if let Some(mode) = self.mtu_mode {
            tunnel.mtu_mode = mode.into();
            fields.push(TunnelField::MtuMode);
            if mode == MtuMode::Dynamic && self.mtu.is_none() {
                // The MTU that was right for a fixed mode would cap the path.
                tunnel.mtu = 0;
                fields.push(TunnelField::Mtu);
            }
        }
        if let Some(path_mtu) = self.path_mtu {
            tunnel.path_mtu = Some(path_mtu);
            fields.push(TunnelField::PathMtu);
        }
        if let Some(least) = self.min_path_mtu {
            tunnel.min_path_mtu = least;
            fields.push(TunnelField::MinPathMtu);
        }
        if let Some(clamp) = self.mss_clamp {
            tunnel.mss_clamp = clamp;
            fields.push(TunnelField::MssClamp);
        }
    }

    /// The option that only UDP has, if one was given.
    fn udp_option(&self) -> Option<&'static str> {
        match (self.remote_port, self.rebind) {
            (Some(_), _) => Some("--remote-port"),
            (_, Some(_)) => Some("--rebind"),
            _ => None,
        }
    }
}

#[derive(Args, Debug)]
pub(crate) struct AddArgs {
    /// Name of the tunnel: 1 to 63 of A-Z a-z 0-9 . _ -
    #[arg(value_parser = parse::tunnel_id)]
    id: String,
    /// IPv4 address of this relay.
    #[arg(long, value_name = "ADDRESS")]
    local: Ipv4Addr,
    /// IPv4 address of the user; may be left out with UDP: he is where his first packet comes
    /// from.
    #[arg(long, value_name = "ADDRESS", required_unless_present = "local_port")]
    remote: Option<Ipv4Addr>,
    /// What carries the packets.
    #[arg(long, value_enum, value_name = "HOW", default_value = "6in4")]
    encap: Encapsulation,
    /// UDP: our port; one for each tunnel, 4028 and upward by convention.
    #[arg(long, value_name = "PORT", required_if_eq("encap", "udp"),
        value_parser = clap::value_parser!(u16).range(1..))]
    local_port: Option<u16>,
    /// UDP: other tunnels use this port too; they are told apart by the user's endpoint.
    #[arg(long, requires_all = ["local_port", "remote", "remote_port"])]
    shared_port: bool,
    #[command(flatten)]
    properties: Properties,
    /// The outer DSCP overwrites the inner one at the exit.
    #[arg(long)]
    dscp_decap_copy: bool,
    /// Accept any inner source: the user can then spoof.
    #[arg(long)]
    no_strict_source: bool,
    /// Create it administratively down.
    #[arg(long)]
    down: bool,
    /// Replace the tunnel if it exists.
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    pub(super) writer: Writer,
}

impl AddArgs {
    pub(super) fn into_update(self) -> Result<TunnelUpdate, CliError> {
        let unknown = Ipv4Addr::UNSPECIFIED;
        let mut tunnel = Tunnel::new(self.id, self.local, self.remote.unwrap_or(unknown));
        if self.encap == Encapsulation::Udp {
            tunnel.encap = Encap::Udp(UdpEncap {
                shared: self.shared_port,
                ..UdpEncap::new(self.local_port.unwrap_or_default())
            });
            if self.remote.is_some() != self.properties.remote_port.is_some() {
                return usage("--remote and --remote-port go together");
            }
        } else {
            let port = self.local_port.map(|_| "--local-port");
            if let Some(option) = port.or(self.properties.udp_option()) {
                return usage(&format!("{option} needs --encap udp"));
            }
        }
        tunnel.dscp_decap_copy = self.dscp_decap_copy;
        tunnel.strict_source = !self.no_strict_source;
        tunnel.admin_up = !self.down;
        self.properties.apply(&mut tunnel);
        Ok(TunnelUpdate::Upsert {
            tunnel,
            fields: None,
            mode: if self.replace {
                WriteMode::Upsert
            } else {
                WriteMode::Create
            },
        })
    }
}

fn usage<T>(text: &str) -> Result<T, CliError> {
    Err(CliError::Usage(text.to_owned()))
}

#[derive(Args, Debug)]
pub(crate) struct SetArgs {
    /// The tunnel.
    #[arg(value_parser = parse::tunnel_id, add = crate::completion::tunnels())]
    id: String,
    /// IPv4 address of this relay.
    #[arg(long, value_name = "ADDRESS")]
    local: Option<Ipv4Addr>,
    /// IPv4 address of the user. With UDP: together with --remote-port, the user is moved there.
    #[arg(long, value_name = "ADDRESS")]
    remote: Option<Ipv4Addr>,
    /// UDP: our port.
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    local_port: Option<u16>,
    #[command(flatten)]
    properties: Properties,
    /// Remove all prefixes.
    #[arg(long, conflicts_with = "prefixes")]
    no_prefix: bool,
    /// Remove the numbered link.
    #[arg(long, conflicts_with = "link_prefix")]
    no_link: bool,
    /// Whether the outer DSCP overwrites the inner one at the exit.
    #[arg(long, value_name = "true|false")]
    dscp_decap_copy: Option<bool>,
    /// Refuse inner sources outside the prefixes and the link.
    #[arg(long, conflicts_with = "no_strict_source")]
    strict_source: bool,
    /// Accept any inner source: the user can then spoof.
    #[arg(long)]
    no_strict_source: bool,
    /// Switch it on.
    #[arg(long, conflicts_with = "down")]
    up: bool,
    /// Switch it off: packets are dropped and answered with Address Unreachable.
    #[arg(long)]
    down: bool,
    #[command(flatten)]
    pub(super) writer: Writer,
}

impl SetArgs {
    pub(super) fn into_update(self) -> Result<TunnelUpdate, CliError> {
        // Only the fields in the mask are read; the others are placeholders.
        let unset = Ipv4Addr::UNSPECIFIED;
        let mut tunnel = Tunnel::new(
            self.id,
            self.local.unwrap_or(unset),
            self.remote.unwrap_or(unset),
        );
        if self.local_port.or(self.properties.remote_port).is_some()
            || self.properties.rebind.is_some()
        {
            tunnel.encap = Encap::Udp(UdpEncap::new(self.local_port.unwrap_or_default()));
        }
        let mut fields = self.properties.apply(&mut tunnel);
        tunnel.strict_source = !self.no_strict_source;
        tunnel.admin_up = !self.down;
        tunnel.dscp_decap_copy = self.dscp_decap_copy.unwrap_or(false);
        for (given, field) in [
            (self.local.is_some(), TunnelField::Local),
            (self.remote.is_some(), TunnelField::Remote),
            (self.local_port.is_some(), TunnelField::LocalPort),
            (self.no_prefix, TunnelField::Prefixes),
            (self.no_link, TunnelField::Link),
            (self.dscp_decap_copy.is_some(), TunnelField::DscpDecapCopy),
            (
                self.strict_source || self.no_strict_source,
                TunnelField::StrictSource,
            ),
            (self.up || self.down, TunnelField::AdminUp),
        ] {
            if given {
                fields.push(field);
            }
        }
        if fields.is_empty() {
            return usage(
                "nothing to set: name a property, e.g. --mtu 1480 (see tunnel set --help)",
            );
        }
        Ok(TunnelUpdate::Upsert {
            tunnel,
            fields: Some(fields),
            mode: WriteMode::Update,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use crate::tunnel::TunnelCommand;
    use clap::Parser;

    fn update(line: &str) -> Result<TunnelUpdate, String> {
        let words = ["sixferry", "tunnel"].into_iter();
        let cli =
            Cli::try_parse_from(words.chain(line.split_whitespace())).map_err(|e| e.to_string())?;
        let update = match cli.command {
            Command::Tunnel(TunnelCommand::Add(args)) => args.into_update(),
            Command::Tunnel(TunnelCommand::Set(args)) => args.into_update(),
            other => panic!("{other:?}"),
        };
        update.map_err(|e| e.to_string())
    }

    fn parts(update: TunnelUpdate) -> (Tunnel, Option<Vec<TunnelField>>, WriteMode) {
        match update {
            TunnelUpdate::Upsert {
                tunnel,
                fields,
                mode,
            } => (tunnel, fields, mode),
            TunnelUpdate::Delete { .. } => panic!("a delete"),
        }
    }

    #[test]
    fn add_with_everything() {
        let line = "add user-1 --local 198.51.100.1 --remote 192.0.2.10 \
                    --prefix 2001:db8:100::/48 --prefix 2001:db8:200::/48,2001:db8:300::/48 \
                    --link-prefix 2001:db8:f::/64 --link-address 2001:db8:f::1 \
                    --mtu 1480 --mtu-mode managed --ttl inherit --dscp 46 --ecn compat \
                    --no-strict-source --down --owner me";
        let (tunnel, fields, mode) = parts(update(line).unwrap());
        assert_eq!(tunnel.prefixes.len(), 3);
        assert_eq!(tunnel.mtu, 1480);
        assert_eq!(tunnel.mtu_mode, sixferry_client::MtuMode::Managed);
        assert_eq!(tunnel.ttl, Ttl::Inherit);
        assert_eq!(tunnel.dscp, Dscp::Fixed(46));
        assert_eq!(tunnel.ecn, sixferry_client::Ecn::Compat);
        assert!(!tunnel.strict_source && !tunnel.admin_up);
        assert!(tunnel.link.is_some());
        assert_eq!((fields, mode), (None, WriteMode::Create));
    }

    #[test]
    fn add_defaults_and_replace() {
        let line = "add t --local 198.51.100.1 --remote 192.0.2.10 --replace";
        let (tunnel, _, mode) = parts(update(line).unwrap());
        let expected = Tunnel::new("t", [198, 51, 100, 1].into(), [192, 0, 2, 10].into());
        assert_eq!((tunnel, mode), (expected, WriteMode::Upsert));
    }

    #[test]
    fn add_udp() {
        let line = "add u --local 198.51.100.1 --encap udp --local-port 4028 \
                    --rebind inner-source --mtu-mode dynamic --path-mtu 1400 --mss-clamp \
                    --liveness passive --liveness-interval 1m";
        let (tunnel, _, _) = parts(update(line).unwrap());
        let Encap::Udp(udp) = tunnel.encap else {
            panic!("not UDP");
        };
        assert_eq!((udp.local_port, udp.remote_port), (4028, None));
        assert_eq!(udp.rebind, sixferry_client::Rebind::InnerSource);
        assert!(tunnel.remote.is_unspecified() && tunnel.mss_clamp);
        assert_eq!((tunnel.mtu, tunnel.path_mtu), (0, Some(1400)));
        assert_eq!(tunnel.liveness.interval, 60);
        let line = "add u --local 198.51.100.1 --encap udp --local-port 4028 --shared-port \
                    --remote 192.0.2.10 --remote-port 40000 --mss-clamp=false";
        let (tunnel, _, _) = parts(update(line).unwrap());
        let Encap::Udp(udp) = tunnel.encap else {
            panic!("not UDP");
        };
        assert!(udp.shared && !tunnel.mss_clamp);
        assert_eq!(udp.remote_port, Some(40_000));
    }

    #[test]
    fn set_moves_a_udp_user_and_opens_the_path() {
        let line = "set u --remote 203.0.113.7 --remote-port 61000";
        let (tunnel, fields, _) = parts(update(line).unwrap());
        assert_eq!(tunnel.remote, Ipv4Addr::new(203, 0, 113, 7));
        assert!(matches!(tunnel.encap, Encap::Udp(udp) if udp.remote_port == Some(61_000)));
        let expected = vec![TunnelField::RemotePort, TunnelField::Remote];
        assert_eq!(fields, Some(expected));
        let (tunnel, fields, _) = parts(update("set u --mtu-mode dynamic").unwrap());
        assert_eq!(tunnel.mtu, 0);
        assert_eq!(fields, Some(vec![TunnelField::MtuMode, TunnelField::Mtu]));
    }

    #[test]
    fn set_names_only_what_was_given() {
        let (tunnel, fields, mode) = parts(update("set t --mtu 1400 --up --no-link").unwrap());
        assert_eq!(tunnel.mtu, 1400);
        assert!(tunnel.admin_up);
        let expected = vec![TunnelField::Mtu, TunnelField::Link, TunnelField::AdminUp];
        assert_eq!((fields, mode), (Some(expected), WriteMode::Update));
        let (tunnel, fields, _) = parts(update("set t --no-strict-source").unwrap());
        assert!(!tunnel.strict_source);
        assert_eq!(fields, Some(vec![TunnelField::StrictSource]));
    }

    #[test]
    fn wrong_arguments_are_named() {
        for (line, expected) in [
            ("add t --remote 192.0.2.1", "--local"),
            ("add t --local x --remote 192.0.2.1", "--local"),
            ("add t/x --local 1.1.1.1 --remote 2.2.2.2", "1 to 63 of"),
            ("set t --mtu 1279", "1279 is not in 1280..=1480"),
            (
                "set t --prefix 2001:db8::1/48",
                "the prefix is 2001:db8::/48",
            ),
            ("set t --link-prefix 2001:db8::/64", "--link-address"),
            ("set t --ttl 0", "1 to 255"),
            ("set t --up --down", "cannot be used with"),
            (
                "set t --prefix 2001:db8::/48 --no-prefix",
                "cannot be used with",
            ),
            ("set t", "nothing to set"),
            ("add t --local 1.1.1.1 --encap udp", "--local-port"),
            (
                "add t --local 1.1.1.1 --remote 2.2.2.2 --local-port 4028",
                "--local-port needs --encap udp",
            ),
            (
                "add t --local 1.1.1.1 --remote 2.2.2.2 --rebind deny",
                "--rebind needs --encap udp",
            ),
            (
                "add t --local 1.1.1.1 --encap udp --local-port 1 --remote 2.2.2.2",
                "--remote and --remote-port go together",
            ),
            (
                "add t --local 1.1.1.1 --encap udp --local-port 1 --shared-port",
                "--remote",
            ),
            ("set t --liveness-interval 2s", "5s to 3600s"),
            ("set t --path-mtu 67", "67 is not in 68"),
        ] {
            let error = update(line).unwrap_err();
            assert!(error.contains(expected), "{line}: {error}");
        }
    }
}

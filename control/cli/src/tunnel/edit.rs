//! Arguments that describe a tunnel.

use std::net::{Ipv4Addr, Ipv6Addr};

use clap::Args;
use ipnet::Ipv6Net;
use sixferry_client::{Dscp, Ttl, Tunnel, TunnelField, TunnelLink, TunnelUpdate, WriteMode};

use crate::args::Writer;
use crate::error::CliError;
use crate::json::tunnel::{Ecn, MtuMode};
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
    /// Largest inner packet in bytes, 1280..1480. [default: 1280]
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u16).range(1280..=1480))]
    mtu: Option<u16>,
    /// How the outer Don't Fragment bit is set. [default: static]
    #[arg(long, value_enum, value_name = "MODE")]
    mtu_mode: Option<MtuMode>,
    /// Outer TTL: 1..255, or inherit. [default: 64]
    #[arg(long, value_name = "NUMBER|inherit", value_parser = parse::ttl)]
    ttl: Option<Ttl>,
    /// Outer DSCP: 0..63, or copy. [default: 0]
    #[arg(long, value_name = "NUMBER|copy", value_parser = parse::dscp)]
    dscp: Option<Dscp>,
    /// ECN at the tunnel entry. [default: normal]
    #[arg(long, value_enum, value_name = "MODE")]
    ecn: Option<Ecn>,
}

impl Properties {
    /// Puts what is given into the tunnel and tells which fields that were.
    fn apply(self, tunnel: &mut Tunnel) -> Vec<TunnelField> {
        let mut fields = Vec::new();
        if !self.prefixes.is_empty() {
            tunnel.prefixes = self.prefixes;
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
        if let Some(mtu) = self.mtu {
            tunnel.mtu = mtu;
            fields.push(TunnelField::Mtu);
        }
        if let Some(mode) = self.mtu_mode {
            tunnel.mtu_mode = mode.into();
            fields.push(TunnelField::MtuMode);
        }
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
        fields
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
    /// IPv4 address of the user.
    #[arg(long, value_name = "ADDRESS")]
    remote: Ipv4Addr,
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
        let mut tunnel = Tunnel::new(self.id, self.local, self.remote);
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

#[derive(Args, Debug)]
pub(crate) struct SetArgs {
    /// The tunnel.
    #[arg(value_parser = parse::tunnel_id)]
    id: String,
    /// IPv4 address of this relay.
    #[arg(long, value_name = "ADDRESS")]
    local: Option<Ipv4Addr>,
    /// IPv4 address of the user.
    #[arg(long, value_name = "ADDRESS")]
    remote: Option<Ipv4Addr>,
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
        let mut fields = self.properties.apply(&mut tunnel);
        tunnel.strict_source = !self.no_strict_source;
        tunnel.admin_up = !self.down;
        tunnel.dscp_decap_copy = self.dscp_decap_copy.unwrap_or(false);
        for (given, field) in [
            (self.local.is_some(), TunnelField::Local),
            (self.remote.is_some(), TunnelField::Remote),
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
            return Err(CliError::Usage(
                "nothing to set: name a property, e.g. --mtu 1480 (see tunnel set --help)"
                    .to_owned(),
            ));
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
        ] {
            let error = update(line).unwrap_err();
            assert!(error.contains(expected), "{line}: {error}");
        }
    }
}

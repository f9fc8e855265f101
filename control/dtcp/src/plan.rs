//! From a login to what is asked of the lifecycle: which interface, which prefixes, which ports.

use std::net::Ipv4Addr;
use std::sync::Arc;

use sixferry_lifecycle::{Acquire, Error, Lease, Profile, Service, Transport, WantedTransport};

use crate::config::Config;
use crate::interfaces::{self, Interfaces};
use crate::machine::{Rules, Wish};
use crate::routetable::{Entry, RouteTable};
use crate::wire::TunnelType;
use crate::wire::reply::{Failure, Granted};

/// The configuration and the routetable, as one login finds them.
#[derive(Debug)]
pub struct Settings {
    /// The configuration.
    pub config: Config,
    /// What sessions must know of it.
    pub rules: Rules,
    /// Who has what, with `routetable`.
    pub routes: Option<Arc<RouteTable>>,
    interfaces: Interfaces,
    service: Service,
}

/// The two ends of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// The server's address as the client knows it, NAT apart.
    pub server: Ipv4Addr,
    /// The client's address as the server sees it.
    pub client: Ipv4Addr,
}

impl Settings {
    /// Joins the two.
    ///
    /// # Errors
    /// What is wrong with the choice of interfaces.
    pub fn new(config: Config, routes: Option<Arc<RouteTable>>) -> Result<Self, interfaces::Error> {
        let interfaces = Interfaces::new(&config)?;
        let interfaces = match &routes {
            Some(routes) => interfaces.without(routes.pins()),
            None => interfaces,
        };
        let rules = config.rules();
        Ok(Self {
            config,
            rules,
            routes,
            interfaces,
            service: "dtcp".into(),
        })
    }

    /// Whether the configured interface name has no number, so that only pins work.
    #[must_use]
    pub fn nameless(&self) -> bool {
        self.interfaces.choice(None).is_none()
    }

    /// What to ask for.
    ///
    /// # Errors
    /// Why there is nothing to ask for.
    pub fn plan(&self, wish: &Wish, ends: Ends) -> Result<Acquire, Failure> {
        let entry = self.entry(&wish.user);
        let pin = entry.and_then(|entry| entry.pin.as_ref());
        let Some(slot) = self.interfaces.choice(pin) else {
            return Err(Failure::InterfaceName);
        };
        let network = wish.kind == TunnelType::Network;
        let prefixes = match entry {
            Some(entry) if network => entry.prefixes.clone(),
            _ => Vec::new(),
        };
        Ok(Acquire {
            service: self.service.clone(),
            account: wish.account,
            profile: match wish.kind {
                TunnelType::TunnelOnly => Profile::Link,
                TunnelType::Host => Profile::Host,
                TunnelType::Network => Profile::Network,
            },
            local: ends.server,
            remote: ends.client,
            transport: self.transport(wish),
            slot,
            host_prefix: self
                .config
                .host_prefix
                .filter(|_| wish.kind == TunnelType::Host),
            // A line with `-` says that he has none; no line at all leaves it to the account.
            prefixless: network && entry.is_some_and(|entry| entry.prefixes.is_empty()),
            prefixes,
            mtu: self.config.mtu,
            exclusive: network || pin.is_some(),
        })
    }

    fn entry(&self, user: &[u8]) -> Option<&Entry> {
        let user = std::str::from_utf8(user).ok()?;
        self.routes.as_ref()?.entry(user)
    }

    fn transport(&self, wish: &Wish) -> WantedTransport {
        match wish.udp {
            None => WantedTransport::SixInFour,
            Some(request) => WantedTransport::Udp {
                ports: self.config.udp.first_port..=self.config.udp.last_port,
                remote_port: request.client_port,
                any_source: self.config.udp.any_source,
            },
        }
    }

    /// What the client is told of its lease.
    ///
    /// # Errors
    /// The lease is not what was asked for.
    pub fn granted(&self, wish: &Wish, lease: &Lease) -> Result<Granted, Failure> {
        let udp_port = match (wish.udp, lease.transport) {
            (Some(_), Transport::Udp { local_port, .. }) => Some(local_port),
            (None, Transport::SixInFour) => None,
            _ => return Err(Failure::Internal),
        };
        let pair = lease.pair.map(|pair| (pair.client, pair.server));
        if pair.is_some() != (wish.kind == TunnelType::Host) {
            return Err(Failure::Internal);
        }
        Ok(Granted {
            client: lease.remote,
            server: self.config.announce.unwrap_or(lease.local),
            pair,
            prefixes: match wish.kind {
                TunnelType::Network => lease.prefixes.clone(),
                TunnelType::TunnelOnly | TunnelType::Host => Vec::new(),
            },
            udp_port,
        })
    }
}

/// What a client is told when the lifecycle says no.
#[must_use]
pub fn refusal(error: &Error) -> Failure {
    match error {
        Error::SoldOut { .. } => Failure::SoldOut,
        Error::EndpointInUse { .. } => Failure::InUse,
        Error::PrefixInUse { .. } => Failure::PrefixInUse,
        Error::NoPrefix => Failure::NoRoute,
        Error::NoAccount => Failure::Authentication,
        Error::Invalid { .. } | Error::Refused(_) => Failure::Internal,
        Error::Unavailable(_) => Failure::Busy,
    }
}

//! One tunnel at work: packets from the TUN device to the relay and back.
//!
//! Each direction is a loop of its own, so a full socket buffer on the way out never delays
//! what comes in. What may pass is decided in [`inner`], [`peers`], [`proto41`] and [`udp`].

pub mod inner;
pub mod peers;
pub mod probe;
pub mod proto41;
mod socket;
mod tun;
pub mod udp;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;

use tokio::sync::Notify;

use self::inner::Outgoing;
use self::peers::Peers;
use self::socket::{RawSocket, Received, SendError, UdpLink};
use self::tun::Tun;
use crate::Error;
use crate::counters::{Counters, DropReason, Snapshot};

/// Smallest MTU an IPv6 link may have (RFC 8200 section 5).
pub const MIN_MTU: u16 = 1280;
/// Packets handled before the other direction gets its turn.
const BURST: usize = 64;
/// Longest IPv4 datagram, reassembled ones included.
const MAX_DATAGRAM: usize = 65_535;

/// What carries the inner packets, and whom they come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encap {
    /// IPv4 protocol 41.
    Proto41(Peers),
    /// UDP.
    Udp {
        /// Our port; 0: the kernel chooses one.
        local_port: u16,
        /// The relay's address and port.
        relay: SocketAddrV4,
        /// What is sent every 20 to 25 s, for the NAT in between.
        keepalive: Keepalive,
    },
}

/// What keeps a NAT's mapping alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keepalive {
    /// Nothing: there is no NAT.
    Off,
    /// An empty datagram.
    Empty,
    /// An IPv6 packet, for a relay that learns its peer's endpoint: an echo request.
    Echo {
        /// An address of this end that the relay knows.
        source: Ipv6Addr,
        /// The relay's address, or all routers of the link.
        destination: Ipv6Addr,
    },
}

impl Encap {
    /// Bytes of the outer headers.
    #[must_use]
    pub const fn outer_len(&self) -> usize {
        match self {
            Self::Proto41(_) => proto41::OUTER_LEN,
            Self::Udp { .. } => udp::OUTER_LEN,
        }
    }

    fn relay(&self) -> Ipv4Addr {
        match self {
            Self::Proto41(peers) => peers.relay(),
            Self::Udp { relay, .. } => *relay.ip(),
        }
    }
}

/// What a tunnel needs to know of its two ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// What carries the packets.
    pub encap: Encap,
    /// Our IPv4 address: the outer source.
    pub local: Ipv4Addr,
    /// Inner MTU.
    pub mtu: u16,
    /// Set DF on outer packets. Off is RFC 4213's static mode (section 3.2.1): the outer
    /// packet may be fragmented on its way.
    pub dont_fragment: bool,
    /// Name for the TUN device; the kernel chooses one if absent.
    pub device: Option<String>,
    /// Addresses of this end: no packet from the tunnel may claim to come from them.
    pub own: Vec<Ipv6Addr>,
}

impl Config {
    fn check(&self) -> Result<(), Error> {
        if self.mtu < MIN_MTU {
            return Err(Error::Config(format!(
                "MTU {} is below {MIN_MTU}, the least that IPv6 allows (RFC 8200 section 5)",
                self.mtu
            )));
        }
        let most = MAX_DATAGRAM - self.encap.outer_len();
        if usize::from(self.mtu) > most {
            return Err(Error::Config(format!(
                "MTU {} leaves no room for the outer header: at most {most}",
                self.mtu,
            )));
        }
        if self.local == self.encap.relay() {
            return Err(Error::Config(format!(
                "both ends are {}: a tunnel to oneself is a loop",
                self.local
            )));
        }
        Ok(())
    }
}

#[derive(Debug)]
enum Link {
    Raw(RawSocket, Peers),
    Udp(UdpLink, SocketAddrV4),
}

impl Link {
    fn open(config: &Config) -> Result<Self, Error> {
        Ok(match config.encap {
            Encap::Proto41(peers) => Self::Raw(RawSocket::open(config)?, peers),
            Encap::Udp {
                local_port, relay, ..
            } => Self::Udp(UdpLink::open(config, local_port, relay)?, relay),
        })
    }
}

/// A tunnel with its TUN device. Dropping it removes the device.
#[derive(Debug)]
pub struct Tunnel {
    config: Config,
    tun: Tun,
    link: Link,
    counters: Arc<Counters>,
    hurry: Notify,
}

impl Tunnel {
    /// Creates the TUN device (down, without addresses) and the socket towards the relay.
    ///
    /// Must be called within a tokio runtime with I/O enabled.
    ///
    /// # Errors
    /// When the settings make no sense, or the device or the socket cannot be had.
    pub fn open(config: Config) -> Result<Self, Error> {
        config.check()?;
        let link = Link::open(&config)?;
        let tun = Tun::create(config.device.as_deref(), config.mtu)?;
        Ok(Self {
            config,
            tun,
            link,
            counters: Arc::default(),
            hurry: Notify::new(),
        })
    }

    /// Gives the tunnel other ends while its device stays as it is. What this end sends from is
    /// kept open if it can be: a NAT in between then still knows us.
    ///
    /// # Errors
    /// As [`Tunnel::open`]; the tunnel is then as before.
    pub fn relink(&mut self, config: Config) -> Result<(), Error> {
        config.check()?;
        if config.mtu != self.config.mtu {
            self.tun.set_mtu(config.mtu)?;
        }
        let same_local = config.local == self.config.local;
        match (&mut self.link, self.config.encap, config.encap) {
            (Link::Raw(_, peers), _, Encap::Proto41(new)) if same_local => *peers = new,
            (
                Link::Udp(link, relay),
                Encap::Udp { local_port, .. },
                Encap::Udp {
                    local_port: new_port,
                    relay: new,
                    ..
                },
            ) if same_local && local_port == new_port => {
                link.set_relay(new);
                *relay = new;
            }
            _ => self.link = Link::open(&config)?,
        }
        self.config = config;
        Ok(())
    }

    /// UDP: sends a keepalive now, for a relay that may have forgotten where we are.
    pub fn hurry(&self) {
        self.hurry.notify_one();
    }

    /// UDP: our end, as the kernel has it.
    #[must_use]
    pub fn local_endpoint(&self) -> Option<SocketAddr> {
        match &self.link {
            Link::Raw(..) => None,
            Link::Udp(link, _) => link.local(),
        }
    }

    /// Name of the TUN device.
    #[must_use]
    pub fn device(&self) -> &str {
        self.tun.name()
    }

    /// Interface index of the TUN device.
    #[must_use]
    pub fn device_index(&self) -> u32 {
        self.tun.index()
    }

    /// The counters of this moment.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            socket_overflow: match &self.link {
                Link::Raw(socket, _) => socket.overflow(),
                Link::Udp(link, _) => link.overflow(),
            },
            ..self.counters.snapshot()
        }
    }

    /// Carries packets until one of the two ends breaks. Drop the future to stop.
    ///
    /// # Errors
    /// When the TUN device or the socket stops working; single packets that cannot be sent
    /// are counted instead.
    pub async fn run(&self) -> Result<std::convert::Infallible, Error> {
        tokio::select! {
            broken = self.uplink() => broken,
            broken = self.downlink() => broken,
            broken = self.keepalives() => broken,
        }
    }

    /// What keeps the NAT's mapping alive, the first at once.
    async fn keepalives(&self) -> Result<std::convert::Infallible, Error> {
        let (Link::Udp(link, _), Encap::Udp { keepalive, .. }) = (&self.link, self.config.encap)
        else {
            return std::future::pending().await;
        };
        for sequence in (0..=u16::MAX).cycle() {
            let packet;
            let inner: &[u8] = match keepalive {
                Keepalive::Off => break,
                Keepalive::Empty => &[],
                Keepalive::Echo {
                    source,
                    destination,
                } => {
                    packet = probe::echo_request(source, destination, sequence);
                    &packet
                }
            };
            match link.send(Outgoing { inner, tos: 0 }).await {
                Ok(()) => self.counters.keepalive_sent(),
                Err(SendError::Refused(cause)) => {
                    tracing::debug!(%cause, "keepalive refused");
                    self.counters.dropped(DropReason::SendFailed);
                }
                Err(SendError::Broken(error)) => return Err(error),
            }
            tokio::select! {
                () = tokio::time::sleep(udp::keepalive_delay()) => {}
                () = self.hurry.notified() => {}
            }
        }
        std::future::pending().await
    }

    async fn uplink(&self) -> Result<std::convert::Infallible, Error> {
        let mut buffer = vec![0; MAX_DATAGRAM];
        loop {
            self.tun.readable().await?;
            for _ in 0..BURST {
                match self.tun.try_recv(&mut buffer)? {
                    Some(len) => self.send_up(&buffer[..len]).await?,
                    None => break,
                }
            }
            tokio::task::yield_now().await;
        }
    }

    async fn send_up(&self, packet: &[u8]) -> Result<(), Error> {
        let outgoing = match inner::encap(packet, self.config.mtu) {
            Ok(outgoing) => outgoing,
            Err(reason) => {
                self.counters.dropped(reason);
                return Ok(());
            }
        };
        let sent = match &self.link {
            Link::Raw(socket, peers) => match peers.destination(outgoing.inner) {
                Ok(to) => socket.send(outgoing, to).await,
                Err(reason) => {
                    self.counters.dropped(reason);
                    return Ok(());
                }
            },
            Link::Udp(link, _) => link.send(outgoing).await,
        };
        match sent {
            Ok(()) => self.counters.encapsulated(outgoing.inner.len()),
            Err(SendError::Refused(cause)) => {
                tracing::debug!(%cause, "outer packet refused");
                self.counters.dropped(DropReason::SendFailed);
            }
            Err(SendError::Broken(error)) => return Err(error),
        }
        Ok(())
    }

    async fn downlink(&self) -> Result<std::convert::Infallible, Error> {
        let mut buffer = vec![0; MAX_DATAGRAM];
        loop {
            match &self.link {
                Link::Raw(socket, _) => socket.readable().await?,
                Link::Udp(link, _) => link.readable().await?,
            }
            for _ in 0..BURST {
                let received = match &self.link {
                    Link::Raw(socket, _) => socket.try_recv(&mut buffer)?,
                    Link::Udp(link, _) => link.try_recv(&mut buffer)?,
                };
                let Some(received) = received else {
                    break;
                };
                self.take(&mut buffer, &received).await?;
            }
            tokio::task::yield_now().await;
        }
    }

    /// The datagrams of one read.
    async fn take(&self, buffer: &mut [u8], received: &Received) -> Result<(), Error> {
        let Some(bytes) = buffer.get_mut(..received.len) else {
            return Ok(());
        };
        if bytes.is_empty() {
            return self.take_one(bytes, received).await;
        }
        for datagram in bytes.chunks_mut(received.stride) {
            self.take_one(datagram, received).await?;
        }
        Ok(())
    }

    async fn take_one(&self, datagram: &mut [u8], received: &Received) -> Result<(), Error> {
        let own = &self.config.own;
        let inner = match &self.link {
            Link::Raw(_, peers) => proto41::decap(datagram, peers, own).map(Some),
            Link::Udp(_, relay) => udp::decap(datagram, received.from, *relay, received.ecn, own),
        };
        match inner {
            Ok(Some(inner)) => self.deliver(inner).await?,
            Ok(None) => self.counters.keepalive_received(),
            Err(reason) => self.counters.dropped(reason),
        }
        Ok(())
    }

    async fn deliver(&self, inner: &[u8]) -> Result<(), Error> {
        match self.tun.send(inner).await {
            Ok(()) => self.counters.decapsulated(inner.len()),
            // The kernel says EIO while the link is down and EINVAL for what it will not take.
            Err(source)
                if source.kind() == io::ErrorKind::InvalidInput
                    || source.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) =>
            {
                self.counters.dropped(DropReason::TunRefused);
            }
            Err(source) => return Err(self.tun.error("write", source)),
        }
        Ok(())
    }
}

//! One tunnel at work: packets from the TUN device to the relay and back.
//!
//! Each direction is a loop of its own, so a full socket buffer on the way out never delays
//! what comes in. What may pass is decided in [`proto41`].

pub mod proto41;
mod socket;
mod tun;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use self::socket::{RawSocket, SendError};
use self::tun::Tun;
use crate::Error;
use crate::counters::{Counters, DropReason, Snapshot};

/// Smallest MTU an IPv6 link may have (RFC 8200 section 5).
pub const MIN_MTU: u16 = 1280;
/// Packets handled before the other direction gets its turn.
const BURST: usize = 64;
/// Longest IPv4 datagram, reassembled ones included.
const MAX_DATAGRAM: usize = 65_535;

/// What a 6in4 tunnel needs to know of its two ends.
#[derive(Clone, Debug)]
pub struct Config {
    /// Our IPv4 address: the outer source.
    pub local: Ipv4Addr,
    /// The relay's IPv4 address: the outer destination, and the only source we believe.
    pub remote: Ipv4Addr,
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

/// A configured 6in4 tunnel with its TUN device. Dropping it removes the device.
#[derive(Debug)]
pub struct SixInFour {
    config: Config,
    tun: Tun,
    socket: RawSocket,
    counters: Arc<Counters>,
}

impl SixInFour {
    /// Creates the TUN device (down, without addresses) and the socket towards the relay.
    ///
    /// Must be called within a tokio runtime with I/O enabled.
    ///
    /// # Errors
    /// When the settings make no sense, or the device or the socket cannot be had.
    pub fn open(config: Config) -> Result<Self, Error> {
        if config.mtu < MIN_MTU {
            return Err(Error::Config(format!(
                "MTU {} is below {MIN_MTU}, the least that IPv6 allows (RFC 8200 section 5)",
                config.mtu
            )));
        }
        if usize::from(config.mtu) > MAX_DATAGRAM - proto41::OUTER_LEN {
            return Err(Error::Config(format!(
                "MTU {} leaves no room for the outer header: at most {}",
                config.mtu,
                MAX_DATAGRAM - proto41::OUTER_LEN
            )));
        }
        if config.local == config.remote {
            return Err(Error::Config(format!(
                "both ends are {}: a tunnel to oneself is a loop",
                config.local
            )));
        }
        let socket = RawSocket::open(&config)?;
        let tun = Tun::create(config.device.as_deref(), config.mtu)?;
        Ok(Self {
            config,
            tun,
            socket,
            counters: Arc::default(),
        })
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
            socket_overflow: self.socket.overflow(),
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
        }
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
        let outgoing = match proto41::encap(packet, self.config.mtu) {
            Ok(outgoing) => outgoing,
            Err(reason) => {
                self.counters.dropped(reason);
                return Ok(());
            }
        };
        match self.socket.send(outgoing).await {
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
            self.socket.readable().await?;
            for _ in 0..BURST {
                let Some(len) = self.socket.try_recv(&mut buffer)? else {
                    break;
                };
                match proto41::decap(&mut buffer[..len], self.config.remote, &self.config.own) {
                    Ok(inner) => self.deliver(inner).await?,
                    Err(reason) => self.counters.dropped(reason),
                }
            }
            tokio::task::yield_now().await;
        }
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

//! The socket towards the relay: a raw one for protocol 41, or a UDP one. The kernel writes the
//! outer headers, reassembles fragments on the way in, and tells us the sender.
//!
//! A raw socket understands the datagram calls, so it travels as tokio's `UdpSocket`: that is
//! the one owner of a socket which waits without unsafe code. `quinn-udp` carries the ECN field
//! of each UDP datagram, which only control messages can, both ways.

use std::fs;
use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU8, Ordering};

use quinn_udp::{EcnCodepoint, RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use rustix::io::Errno;
use rustix::net::sockopt::{self, Ipv4PathMtuDiscovery};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, ipproto, socket_with};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::Config;
use super::inner::Outgoing;
use crate::Error;

/// Room for about 2,000 full packets: a burst must survive a scheduling gap of some 10 ms.
const SOCKET_BUFFER: usize = 4 << 20;
/// Outer TTL (RFC 4213 section 3.3 leaves it to us; 64 is what relays and hosts use).
const TTL: u32 = 64;

const RAW: &str = "raw socket for protocol 41";
const UDP: &str = "UDP socket";

/// Why a packet was not sent.
pub(super) enum SendError {
    /// This packet was refused; the next may pass.
    Refused(io::Error),
    /// The socket is of no more use.
    Broken(Error),
}

/// One read from the socket.
pub(super) struct Received {
    /// Bytes of all datagrams.
    pub(super) len: usize,
    /// Bytes of each but the last: the kernel hands over several at once (UDP GRO).
    pub(super) stride: usize,
    /// UDP: who sent them. Of protocol 41 the header says it.
    pub(super) from: SocketAddr,
    /// UDP: the ECN field of the outer header.
    pub(super) ecn: u8,
}

#[derive(Debug)]
pub(super) struct RawSocket {
    socket: UdpSocket,
    /// TOS the socket has now: it changes only when a packet carries another ECN field.
    tos: AtomicU8,
    inode: Option<u64>,
}

impl RawSocket {
    pub(super) fn open(config: &Config) -> Result<Self, Error> {
        let (socket, inode) = open(config, RAW, SocketType::RAW, ipproto::IPV6, 0)?;
        Ok(Self {
            socket,
            tos: AtomicU8::new(0),
            inode,
        })
    }

    pub(super) async fn readable(&self) -> Result<(), Error> {
        self.socket.readable().await.map_err(broken(RAW, "wait"))
    }

    /// One datagram with its IPv4 header, or nothing when the queue is empty.
    pub(super) fn try_recv(&self, buffer: &mut [u8]) -> Result<Option<Received>, Error> {
        let len = some(self.socket.try_recv(buffer)).map_err(broken(RAW, "receive"))?;
        Ok(len.map(|len| Received {
            len,
            stride: len.max(1),
            from: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0).into(),
            ecn: 0,
        }))
    }

    pub(super) async fn send(&self, outgoing: Outgoing<'_>, to: Ipv4Addr) -> Result<(), SendError> {
        if self.tos.load(Ordering::Relaxed) != outgoing.tos {
            let set = sockopt::set_ip_tos(&self.socket, outgoing.tos);
            set.map_err(|e| SendError::Broken(broken(RAW, "set the TOS")(e.into())))?;
            self.tos.store(outgoing.tos, Ordering::Relaxed);
        }
        let to = SocketAddrV4::new(to, 0);
        let sent = self.socket.send_to(outgoing.inner, to).await;
        sent.map(|_| ()).map_err(|e| refused(RAW, e))
    }

    /// Datagrams the kernel dropped because we did not fetch them in time.
    pub(super) fn overflow(&self) -> u64 {
        overflow("raw", self.inode)
    }
}

#[derive(Debug)]
pub(super) struct UdpLink {
    socket: UdpSocket,
    state: UdpSocketState,
    relay: SocketAddrV4,
    inode: Option<u64>,
}

impl UdpLink {
    pub(super) fn open(config: &Config, port: u16, relay: SocketAddrV4) -> Result<Self, Error> {
        let (socket, inode) = open(config, UDP, SocketType::DGRAM, ipproto::UDP, port)?;
        let state = UdpSocketState::new(UdpSockRef::from(&socket));
        let state = state.map_err(|e| setup(UDP, "ask for the ECN field")(e))?;
        // Again, for the helper sets DF as it likes.
        set_df(&socket, UDP, config.dont_fragment)?;
        Ok(Self {
            socket,
            state,
            relay,
            inode,
        })
    }

    /// From now on datagrams go there.
    pub(super) fn set_relay(&mut self, relay: SocketAddrV4) {
        self.relay = relay;
    }

    /// Our end.
    pub(super) fn local(&self) -> Option<SocketAddr> {
        self.socket.local_addr().ok()
    }

    pub(super) async fn readable(&self) -> Result<(), Error> {
        self.socket.readable().await.map_err(broken(UDP, "wait"))
    }

    /// Datagrams of one sender, or nothing when the queue is empty.
    pub(super) fn try_recv(&self, buffer: &mut [u8]) -> Result<Option<Received>, Error> {
        let mut meta = [RecvMeta::default()];
        let read = self.socket.try_io(Interest::READABLE, || {
            let mut buffers = [IoSliceMut::new(buffer)];
            self.state
                .recv(UdpSockRef::from(&self.socket), &mut buffers, &mut meta)
        });
        let [meta] = meta;
        Ok(some(read)
            .map_err(broken(UDP, "receive"))?
            .map(|_| Received {
                len: meta.len,
                stride: meta.stride.max(1),
                from: meta.addr,
                ecn: meta.ecn.map_or(0, |ecn| ecn as u8),
            }))
    }

    pub(super) async fn send(&self, outgoing: Outgoing<'_>) -> Result<(), SendError> {
        let transmit = Transmit {
            destination: self.relay.into(),
            ecn: EcnCodepoint::from_bits(outgoing.tos),
            contents: outgoing.inner,
            segment_size: None,
            src_ip: None,
        };
        let sent = self.socket.async_io(Interest::WRITABLE, || {
            self.state
                .try_send(UdpSockRef::from(&self.socket), &transmit)
        });
        sent.await.map_err(|e| refused(UDP, e))
    }

    /// Datagrams the kernel dropped because we did not fetch them in time.
    pub(super) fn overflow(&self) -> u64 {
        overflow("udp", self.inode)
    }
}

/// A socket bound to our address, and its inode.
fn open(
    config: &Config,
    name: &'static str,
    kind: SocketType,
    protocol: rustix::net::Protocol,
    port: u16,
) -> Result<(UdpSocket, Option<u64>), Error> {
    let cannot = |operation| move |e: Errno| setup(name, operation)(e.into());
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = socket_with(AddressFamily::INET, kind, flags, Some(protocol));
    let fd: OwnedFd = fd.map_err(cannot("create"))?;
    bind(&fd, &SocketAddrV4::new(config.local, port)).map_err(|e| match e {
        Errno::ADDRNOTAVAIL => Error::LocalAddress {
            local: config.local,
        },
        e => cannot("bind")(e),
    })?;
    set_df(&fd, name, config.dont_fragment)?;
    sockopt::set_ip_ttl(&fd, TTL).map_err(cannot("set the TTL"))?;
    // The limit of ordinary users is 208 KiB; without the privilege we live with less.
    if sockopt::set_socket_recv_buffer_size_force(&fd, SOCKET_BUFFER).is_err() {
        sockopt::set_socket_recv_buffer_size(&fd, SOCKET_BUFFER)
            .map_err(cannot("set the receive buffer"))?;
    }
    let inode = rustix::fs::fstat(&fd).ok().map(|stat| stat.st_ino);
    let socket = UdpSocket::from_std(fd.into()).map_err(setup(name, "register"))?;
    Ok((socket, inode))
}

fn set_df(
    socket: impl std::os::fd::AsFd,
    name: &'static str,
    dont_fragment: bool,
) -> Result<(), Error> {
    let discovery = if dont_fragment {
        Ipv4PathMtuDiscovery::DO
    } else {
        Ipv4PathMtuDiscovery::DONT
    };
    sockopt::set_ip_mtu_discover(socket, discovery)
        .map_err(|e| setup(name, "set the DF policy")(e.into()))
}

fn setup(socket: &'static str, operation: &'static str) -> impl Fn(io::Error) -> Error {
    let hint = if socket == RAW {
        " (needs CAP_NET_RAW)"
    } else {
        ""
    };
    move |source| Error::SocketSetup {
        socket,
        operation,
        source,
        hint,
    }
}

fn broken(socket: &'static str, operation: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::Socket {
        socket,
        operation,
        source,
    }
}

fn refused(socket: &'static str, source: io::Error) -> SendError {
    if source.raw_os_error() == Some(Errno::BADF.raw_os_error()) {
        return SendError::Broken(broken(socket, "send")(source));
    }
    SendError::Refused(source)
}

/// Nothing to read is no error.
fn some<T>(read: io::Result<T>) -> io::Result<Option<T>> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(e) => Err(e),
    }
}

fn overflow(table: &str, inode: Option<u64>) -> u64 {
    let Some(inode) = inode else { return 0 };
    // Sockets are listed by network namespace: `thread-self`, not `self`, is ours.
    fs::read_to_string(format!("/proc/thread-self/net/{table}"))
        .ok()
        .and_then(|table| drops_of(&table, inode))
        .unwrap_or(0)
}

/// The `drops` column of the line with this inode in `/proc/net/raw` or `udp`.
fn drops_of(table: &str, inode: u64) -> Option<u64> {
    const INODE: usize = 9;
    const DROPS: usize = 12;
    let inode = inode.to_string();
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        (fields.get(INODE) == Some(&inode.as_str())).then(|| fields.get(DROPS)?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_come_from_the_line_of_our_socket() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   \
                     uid  timeout inode ref pointer drops\n   41: 0100007F:0029 00000000:0000 07 \
                     00000000:00000000 00:00000000 00000000     0        0 4711 2 \
                     0000000000000000 0\n   41: 0200000A:0029 00000000:0000 07 \
                     00000000:00000000 00:00000000 00000000     0        0 4712 2 \
                     0000000000000000 93\n";
        assert_eq!(drops_of(table, 4712), Some(93));
        assert_eq!(drops_of(table, 4711), Some(0));
        assert_eq!(drops_of(table, 1), None);
    }
}

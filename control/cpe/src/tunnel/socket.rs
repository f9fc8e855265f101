//! The raw IPv4 socket of protocol 41. The kernel writes the outer header, reassembles
//! fragments on the way in, and tells us the sender in the header it hands over.
//!
//! A raw socket understands the datagram calls, so it travels as tokio's `UdpSocket`: that is
//! the one owner of a socket which waits without unsafe code.

use std::fs;
use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::sync::atomic::{AtomicU8, Ordering};

use rustix::io::Errno;
use rustix::net::sockopt::{self, Ipv4PathMtuDiscovery};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, ipproto, socket_with};
use tokio::net::UdpSocket;

use super::Config;
use super::proto41::Outgoing;
use crate::Error;

/// Room for about 2,000 full packets: a burst must survive a scheduling gap of some 10 ms.
const SOCKET_BUFFER: usize = 4 << 20;
/// Outer TTL (RFC 4213 section 3.3 leaves it to us; 64 is what relays and hosts use).
const TTL: u32 = 64;

/// Why a packet was not sent.
pub(super) enum SendError {
    /// This packet was refused; the next may pass.
    Refused(io::Error),
    /// The socket is of no more use.
    Broken(Error),
}

#[derive(Debug)]
pub(super) struct RawSocket {
    socket: UdpSocket,
    remote: SocketAddr,
    /// TOS the socket has now: it changes only when a packet carries another ECN field.
    tos: AtomicU8,
    inode: Option<u64>,
}

impl RawSocket {
    pub(super) fn open(config: &Config) -> Result<Self, Error> {
        let setup = |operation| {
            move |e: Errno| Error::SocketSetup {
                operation,
                source: e.into(),
            }
        };
        let fd = socket_with(
            AddressFamily::INET,
            SocketType::RAW,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            Some(ipproto::IPV6),
        )
        .map_err(setup("create"))?;
        bind(&fd, &SocketAddrV4::new(config.local, 0)).map_err(|e| match e {
            Errno::ADDRNOTAVAIL => Error::LocalAddress {
                local: config.local,
            },
            e => Error::SocketSetup {
                operation: "bind",
                source: e.into(),
            },
        })?;
        let discovery = if config.dont_fragment {
            Ipv4PathMtuDiscovery::DO
        } else {
            Ipv4PathMtuDiscovery::DONT
        };
        sockopt::set_ip_mtu_discover(&fd, discovery).map_err(setup("set the DF policy"))?;
        sockopt::set_ip_ttl(&fd, TTL).map_err(setup("set the TTL"))?;
        // The limit of ordinary users is 208 KiB; without the privilege we live with less.
        if sockopt::set_socket_recv_buffer_size_force(&fd, SOCKET_BUFFER).is_err() {
            sockopt::set_socket_recv_buffer_size(&fd, SOCKET_BUFFER)
                .map_err(setup("set the receive buffer"))?;
        }
        let inode = rustix::fs::fstat(&fd).ok().map(|stat| stat.st_ino);
        let socket = UdpSocket::from_std(fd.into()).map_err(|source| Error::SocketSetup {
            operation: "register",
            source,
        })?;
        let remote = SocketAddrV4::new(config.remote, 0).into();
        Ok(Self {
            socket,
            remote,
            tos: AtomicU8::new(0),
            inode,
        })
    }

    pub(super) async fn readable(&self) -> Result<(), Error> {
        self.socket.readable().await.map_err(broken("wait"))
    }

    /// One datagram with its IPv4 header, or nothing when the queue is empty.
    pub(super) fn try_recv(&self, buffer: &mut [u8]) -> Result<Option<usize>, Error> {
        match self.socket.try_recv(buffer) {
            Ok(len) => Ok(Some(len)),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(source) => Err(Error::Socket {
                operation: "receive",
                source,
            }),
        }
    }

    pub(super) async fn send(&self, outgoing: Outgoing<'_>) -> Result<(), SendError> {
        if self.tos.load(Ordering::Relaxed) != outgoing.tos {
            sockopt::set_ip_tos(&self.socket, outgoing.tos).map_err(|e| {
                SendError::Broken(Error::Socket {
                    operation: "set the TOS",
                    source: e.into(),
                })
            })?;
            self.tos.store(outgoing.tos, Ordering::Relaxed);
        }
        match self.socket.send_to(outgoing.inner, self.remote).await {
            Ok(_) => Ok(()),
            Err(source) if source.raw_os_error() == Some(Errno::BADF.raw_os_error()) => {
                Err(SendError::Broken(Error::Socket {
                    operation: "send",
                    source,
                }))
            }
            Err(source) => Err(SendError::Refused(source)),
        }
    }

    /// Datagrams the kernel dropped because we did not fetch them in time.
    pub(super) fn overflow(&self) -> u64 {
        let Some(inode) = self.inode else { return 0 };
        // Sockets are listed by network namespace: `thread-self`, not `self`, is ours.
        fs::read_to_string("/proc/thread-self/net/raw")
            .ok()
            .and_then(|table| drops_of(&table, inode))
            .unwrap_or(0)
    }
}

fn broken(operation: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::Socket { operation, source }
}

/// The `drops` column of the line with this inode in `/proc/net/raw`.
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

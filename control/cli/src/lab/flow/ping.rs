//! ICMPv6 echo by a raw socket, so that Packet Too Big is seen as it arrives (RFC 4443).

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddrV6};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::sockopt::{self, Ipv6PathMtuDiscovery, Timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrAny, SocketFlags, SocketType, bind, ipproto,
    recvfrom, sendto, socket_with,
};

use super::Party;
use crate::lab::error::Error;

const IPV6_HEADER: usize = 40;
const ICMP_HEADER: usize = 8;
const ECHO_REQUEST: u8 = 128;
const ECHO_REPLY: u8 = 129;
const PACKET_TOO_BIG: u8 = 2;
const UNREACHABLE: u8 = 1;
const TIME_EXCEEDED: u8 = 3;

/// What became of one echo request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The same bytes came back.
    Reply(Duration),
    /// Something came back, but not what was sent.
    Damaged,
    /// Packet Too Big.
    TooBig { mtu: u32, from: Ipv6Addr },
    /// Another ICMPv6 error.
    Refused { kind: u8, code: u8, from: Ipv6Addr },
    /// The kernel did not even send it: larger than the path MTU it knows.
    RefusedHere,
    /// The kernel had no route.
    NoRoute,
    /// Nothing.
    Silence,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reply(time) => write!(f, "reply after {} us", time.as_micros()),
            Self::Damaged => write!(f, "the reply differs from the request"),
            Self::TooBig { mtu, from } => write!(f, "Packet Too Big, MTU {mtu}, from {from}"),
            Self::Refused { kind, code, from } => {
                write!(f, "ICMPv6 error type {kind} code {code} from {from}")
            }
            Self::RefusedHere => write!(f, "refused by the sender's own kernel (EMSGSIZE)"),
            Self::NoRoute => write!(f, "the sender has no route"),
            Self::Silence => write!(f, "no answer"),
        }
    }
}

/// Sends echo requests to one address.
#[derive(Debug)]
pub(super) struct Pinger {
    socket: OwnedFd,
    to: Ipv6Addr,
    identifier: u16,
    sequence: u16,
}

impl Pinger {
    pub(super) fn open(from: &Party, to: Ipv6Addr) -> Result<Self, Error> {
        let socket = from.netns.enter(|| open_socket(from.address))?;
        let socket = socket.map_err(Error::errno("cannot open a raw socket"))?;
        // Other pings in the same namespace get copies of our replies: tell them apart.
        let [low, high, ..] = std::process::id().to_le_bytes();
        Ok(Self {
            socket,
            to,
            identifier: u16::from_le_bytes([low, high]),
            sequence: 0,
        })
    }

    /// Requests sent so far.
    pub(super) fn sent(&self) -> u16 {
        self.sequence
    }

    /// Sends one request of `len` bytes, IPv6 header included, and waits for what comes of it.
    pub(super) fn ping(&mut self, len: usize, limit: Duration) -> Result<Outcome, Error> {
        self.sequence = self.sequence.wrapping_add(1);
        let request = self.request(len);
        let started = Instant::now();
        let to = SocketAddrV6::new(self.to, 0, 0, 0);
        match sendto(&self.socket, &request, SendFlags::empty(), &to) {
            Ok(_) => {}
            Err(Errno::MSGSIZE) => return Ok(Outcome::RefusedHere),
            Err(Errno::NETUNREACH | Errno::HOSTUNREACH) => return Ok(Outcome::NoRoute),
            Err(e) => return Err(Error::errno(format!("cannot ping {}", self.to))(e)),
        }
        let mut buffer = [0; 2048];
        loop {
            let left = limit.saturating_sub(started.elapsed());
            if left.is_zero() {
                return Ok(Outcome::Silence);
            }
            let Some((len, from)) = self.receive(&mut buffer, left)? else {
                continue;
            };
            if let Some(outcome) = self.judge(&request, &buffer[..len], from, started.elapsed()) {
                return Ok(outcome);
            }
        }
    }

    fn receive(
        &self,
        buffer: &mut [u8],
        limit: Duration,
    ) -> Result<Option<(usize, Ipv6Addr)>, Error> {
        // A timeout of zero would mean none at all.
        let limit = limit.max(Duration::from_millis(1));
        sockopt::set_socket_timeout(&self.socket, Timeout::Recv, Some(limit))
            .map_err(Error::errno("cannot set a time limit"))?;
        match recvfrom(&self.socket, buffer, RecvFlags::empty()) {
            Ok((len, _, from)) => Ok(Some((len, ipv6(from)))),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(e) => Err(Error::errno("cannot receive")(e)),
        }
    }

    fn request(&self, len: usize) -> Vec<u8> {
        let mut request = vec![ECHO_REQUEST, 0, 0, 0];
        request.extend_from_slice(&self.identifier.to_be_bytes());
        request.extend_from_slice(&self.sequence.to_be_bytes());
        let data = len.saturating_sub(IPV6_HEADER + ICMP_HEADER);
        request.extend((0..data).map(|i| (i % 251) as u8));
        request
    }

    /// Whether a message belongs to the request, and what it says. The kernel has checked the
    /// checksum and took the IPv6 header off.
    fn judge(
        &self,
        request: &[u8],
        message: &[u8],
        from: Ipv6Addr,
        elapsed: Duration,
    ) -> Option<Outcome> {
        let (header, rest) = message.split_first_chunk::<ICMP_HEADER>()?;
        match header[0] {
            ECHO_REPLY if from == self.to && header[4..] == request[4..ICMP_HEADER] => {
                Some(if rest == &request[ICMP_HEADER..] {
                    Outcome::Reply(elapsed)
                } else {
                    Outcome::Damaged
                })
            }
            kind @ (PACKET_TOO_BIG | UNREACHABLE | TIME_EXCEEDED) => {
                let quoted = rest.get(IPV6_HEADER..IPV6_HEADER + ICMP_HEADER)?;
                if quoted[0] != ECHO_REQUEST || quoted[4..] != request[4..ICMP_HEADER] {
                    return None;
                }
                let mtu = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
                Some(if kind == PACKET_TOO_BIG {
                    Outcome::TooBig { mtu, from }
                } else {
                    Outcome::Refused {
                        kind,
                        code: header[1],
                        from,
                    }
                })
            }
            _ => None,
        }
    }
}

fn open_socket(from: Ipv6Addr) -> rustix::io::Result<OwnedFd> {
    let socket = socket_with(
        AddressFamily::INET6,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(ipproto::ICMPV6),
    )?;
    // The user's end has several addresses: take the one that replies are to go to.
    bind(&socket, &SocketAddrV6::new(from, 0, 0, 0))?;
    // Never fragment: the tests are about the path's MTU.
    sockopt::set_ipv6_mtu_discover(&socket, Ipv6PathMtuDiscovery::DO)?;
    Ok(socket)
}

fn ipv6(from: Option<SocketAddrAny>) -> Ipv6Addr {
    from.and_then(|from| std::net::SocketAddr::try_from(from).ok())
        .map_or(Ipv6Addr::UNSPECIFIED, |from| match from.ip() {
            IpAddr::V6(address) => address,
            IpAddr::V4(address) => address.to_ipv6_mapped(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pinger() -> std::io::Result<Pinger> {
        let (socket, _) = std::os::unix::net::UnixDatagram::pair()?;
        let to = Ipv6Addr::LOCALHOST;
        Ok(Pinger {
            socket: socket.into(),
            to,
            identifier: 7,
            sequence: 9,
        })
    }

    #[test]
    fn answers_are_told_from_strangers() {
        let pinger = pinger().expect("a socket");
        let request = pinger.request(104);
        assert_eq!(request.len(), 64);
        let judge =
            |message: &[u8], from| pinger.judge(&request, message, from, Duration::from_micros(5));
        let mut reply = request.clone();
        reply[0] = ECHO_REPLY;
        let good = Some(Outcome::Reply(Duration::from_micros(5)));
        assert_eq!(judge(&reply, pinger.to), good);
        assert_eq!(
            judge(&reply, Ipv6Addr::UNSPECIFIED),
            None,
            "somebody else's"
        );
        let mut damaged = reply.clone();
        damaged[20] ^= 1;
        assert_eq!(judge(&damaged, pinger.to), Some(Outcome::Damaged));
        reply[7] ^= 1;
        assert_eq!(judge(&reply, pinger.to), None, "another sequence number");
        for len in 0..ICMP_HEADER {
            assert_eq!(judge(&request[..len], pinger.to), None);
        }
    }

    #[test]
    fn errors_count_only_when_they_quote_our_request() {
        let pinger = pinger().expect("a socket");
        let request = pinger.request(1281);
        let relay: Ipv6Addr = "2001:db8:2::1".parse().expect("address");
        let mut error = vec![PACKET_TOO_BIG, 0, 0, 0, 0, 0, 5, 0];
        error.extend_from_slice(&[0; IPV6_HEADER]);
        error.extend_from_slice(&request);
        let judge = |error: &[u8]| pinger.judge(&request, error, relay, Duration::ZERO);
        assert_eq!(
            judge(&error),
            Some(Outcome::TooBig {
                mtu: 1280,
                from: relay
            })
        );
        error[0] = UNREACHABLE;
        error[1] = 3;
        assert_eq!(
            judge(&error),
            Some(Outcome::Refused {
                kind: 1,
                code: 3,
                from: relay
            })
        );
        assert_eq!(judge(&error[..50]), None, "too short to tell");
        error[IPV6_HEADER + ICMP_HEADER + 5] ^= 1;
        assert_eq!(judge(&error), None, "another program's ping");
    }
}

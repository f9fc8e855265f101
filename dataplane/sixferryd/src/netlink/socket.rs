//! One rtnetlink socket.
//!
//! We read the socket ourselves instead of through `rtnetlink`'s connection task, because that
//! task moves every message into an unbounded queue: behind a full BGP feed it would hold the
//! whole feed. Here what we have not read yet stays in the kernel, whose buffer has a limit and
//! says when it was exceeded.

use std::io;

use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkMessage};
use netlink_packet_route::neighbour::NeighbourMessage;
use netlink_packet_route::route::RouteMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NLMSG_OVERRUN,
    NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload, NlasIterator,
};
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use rustix::io::Errno;

use super::types::Kind;

/// Why the mirror cannot work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetlinkError {
    /// The kernel refuses the socket.
    #[error("cannot open a netlink socket: {0}")]
    Open(#[source] io::Error),
    /// The kernel refuses to tell of changes.
    #[error("cannot subscribe to netlink notifications: {0}")]
    Subscribe(#[source] io::Error),
    /// The host port's device cannot be used.
    #[error("cannot set the host port's device up: {0}")]
    Device(#[source] io::Error),
    /// A table could not be read.
    #[error("cannot read the kernel's {what} over netlink: {source}")]
    Dump {
        /// Which table.
        what: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// Notifications we follow. `RTNLGRP_NEXTHOP` because IPv4 routes die silently with the next-hop
/// object they were made from.
const GROUPS: [u32; 7] = [
    1,  // RTNLGRP_LINK
    3,  // RTNLGRP_NEIGH
    5,  // RTNLGRP_IPV4_IFADDR
    7,  // RTNLGRP_IPV4_ROUTE
    9,  // RTNLGRP_IPV6_IFADDR
    11, // RTNLGRP_IPV6_ROUTE
    32, // RTNLGRP_NEXTHOP
];

const RTM_DELNEXTHOP: u16 = 105;
const NHA_ID: u16 = 1;
const NEXTHOP_HEADER_LEN: usize = 8;
const HEADER_LEN: usize = 16;
/// The kernel builds dump datagrams of at most 32 KiB; a link with many virtual functions may need
/// more in one message.
const DATAGRAM_MAX: usize = 128 * 1024;

/// A socket for `NETLINK_ROUTE`.
pub(super) struct RouteSocket {
    inner: TokioSocket,
    buffer: Vec<u8>,
    /// Of the last request; notifications have none.
    sequence: Option<u32>,
}

/// What a message is.
#[derive(Debug)]
pub(super) enum Message {
    Route {
        message: RouteNetlinkMessage,
        flags: u16,
    },
    NexthopObjectGone(u32),
    /// End of a dump.
    Done {
        interrupted: bool,
    },
    /// Acknowledgement, or the reason of a refusal.
    Answer(io::Result<()>),
    /// The kernel dropped notifications.
    Overrun,
    /// Not understood by the codec.
    Undecodable(String),
}

impl RouteSocket {
    /// A socket for requests.
    pub(super) fn requests() -> Result<Self, NetlinkError> {
        let mut inner = TokioSocket::new(NETLINK_ROUTE).map_err(NetlinkError::Open)?;
        inner.socket_mut().bind_auto().map_err(NetlinkError::Open)?;
        Ok(Self {
            inner,
            buffer: Vec::with_capacity(DATAGRAM_MAX),
            sequence: None,
        })
    }

    /// A socket that receives notifications, with a receive buffer of this size.
    pub(super) fn notifications(receive_buffer: usize) -> Result<Self, NetlinkError> {
        let mut inner = TokioSocket::new(NETLINK_ROUTE).map_err(NetlinkError::Open)?;
        let socket = inner.socket_mut();
        // Without CAP_NET_ADMIN the system's limit holds; then overruns are only more likely.
        let forced =
            rustix::net::sockopt::set_socket_recv_buffer_size_force(&*socket, receive_buffer);
        if forced.is_err() {
            rustix::net::sockopt::set_socket_recv_buffer_size(&*socket, receive_buffer)
                .map_err(|e| NetlinkError::Subscribe(e.into()))?;
        }
        let groups = GROUPS.iter().fold(0, |mask, group| mask | 1 << (group - 1));
        socket
            .bind(&SocketAddr::new(0, groups))
            .map_err(NetlinkError::Subscribe)?;
        Ok(Self {
            inner,
            buffer: Vec::with_capacity(DATAGRAM_MAX),
            sequence: None,
        })
    }

    /// Waits for one datagram and returns its messages.
    pub(super) async fn receive(&mut self) -> io::Result<Vec<Message>> {
        loop {
            self.buffer.clear();
            match self.inner.recv_from(&mut self.buffer).await {
                // Anybody may send to a netlink port; only the kernel's word counts.
                Ok(from) if from.port_number() == 0 => {
                    return Ok(messages(&self.buffer, self.sequence));
                }
                Ok(_) => {}
                Err(e) => return overrun(e),
            }
        }
    }

    /// The next datagram's messages, if one is there already.
    pub(super) fn try_receive(&mut self) -> io::Result<Option<Vec<Message>>> {
        loop {
            self.buffer.clear();
            match self.inner.socket_ref().recv_from(&mut self.buffer, 0) {
                Ok((_, from)) if from.port_number() == 0 => {
                    return Ok(Some(messages(&self.buffer, self.sequence)));
                }
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(e) => return overrun(e).map(Some),
            }
        }
    }

    /// Asks for a table; [`Self::receive`] then yields it, up to [`Message::Done`].
    pub(super) async fn start_dump(&mut self, kind: Kind) -> io::Result<()> {
        let message = match kind {
            Kind::Links => {
                let mut message = LinkMessage::default();
                let mask = vec![LinkExtentMask::SkipStats];
                message.attributes.push(LinkAttribute::ExtMask(mask));
                RouteNetlinkMessage::GetLink(message)
            }
            Kind::Addresses => RouteNetlinkMessage::GetAddress(AddressMessage::default()),
            Kind::Neighbours => RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()),
            Kind::Routes4 | Kind::Routes6 => {
                let mut message = RouteMessage::default();
                message.header.address_family = if kind == Kind::Routes4 {
                    AddressFamily::Inet
                } else {
                    AddressFamily::Inet6
                };
                RouteNetlinkMessage::GetRoute(message)
            }
        };
        self.send(message, NLM_F_REQUEST | NLM_F_DUMP).await
    }

    /// Makes a request and waits for the kernel's answer, with what it sent before that.
    pub(super) async fn request(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.send(message, NLM_F_REQUEST | NLM_F_ACK | flags)
            .await?;
        let mut replies = Vec::new();
        loop {
            for message in self.receive().await? {
                match message {
                    Message::Answer(answer) => return answer.map(|()| replies),
                    Message::Route { message, .. } => replies.push(message),
                    Message::Undecodable(why) => {
                        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
                    }
                    Message::Done { .. } | Message::NexthopObjectGone(_) | Message::Overrun => {}
                }
            }
        }
    }

    async fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        let sequence = self.sequence.unwrap_or_default().wrapping_add(1);
        self.sequence = Some(sequence);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = sequence;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        self.inner.send_to(&bytes, &SocketAddr::new(0, 0)).await?;
        Ok(())
    }
}

fn overrun(error: io::Error) -> io::Result<Vec<Message>> {
    if error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error()) {
        Ok(vec![Message::Overrun])
    } else {
        Err(error)
    }
}

/// Splits a datagram into its messages; with a `sequence`, only those that answer it.
fn messages(mut datagram: &[u8], sequence: Option<u32>) -> Vec<Message> {
    let mut out = Vec::new();
    while datagram.len() >= HEADER_LEN {
        let word = |at: usize| {
            datagram[at..at + 4]
                .try_into()
                .map_or(0, u32::from_ne_bytes)
        };
        let half = |at: usize| {
            datagram[at..at + 2]
                .try_into()
                .map_or(0, u16::from_ne_bytes)
        };
        let len = word(0) as usize;
        if len < HEADER_LEN || len > datagram.len() {
            out.push(Message::Undecodable(format!(
                "a message claims a length of {len}"
            )));
            break;
        }
        let mut header = NetlinkHeader::default();
        header.length = word(0);
        header.message_type = half(4);
        header.flags = half(6);
        if sequence.is_none_or(|sequence| sequence == word(8)) {
            out.extend(message(&header, &datagram[HEADER_LEN..len]));
        }
        datagram = datagram.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    out
}

fn message(header: &NetlinkHeader, payload: &[u8]) -> Option<Message> {
    let interrupted = header.flags & NLM_F_DUMP_INTR != 0;
    let code = || {
        payload
            .first_chunk()
            .map_or(0, |code| i32::from_ne_bytes(*code))
    };
    let result = |code: i32| match code {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code.saturating_neg())),
    };
    Some(match header.message_type {
        // A dump that fails half way says so in its last message.
        NLMSG_DONE if code() < 0 => Message::Answer(result(code())),
        NLMSG_DONE => Message::Done { interrupted },
        NLMSG_ERROR => Message::Answer(result(code())),
        NLMSG_OVERRUN => Message::Overrun,
        RTM_DELNEXTHOP => Message::NexthopObjectGone(nexthop_id(payload)?),
        16..=31 => match RouteNetlinkMessage::deserialize(header, payload) {
            Ok(message) => Message::Route {
                message,
                flags: header.flags,
            },
            Err(e) => Message::Undecodable(e.to_string()),
        },
        _ => return None,
    })
}

fn nexthop_id(payload: &[u8]) -> Option<u32> {
    let attributes = NlasIterator::new(payload.get(NEXTHOP_HEADER_LEN..)?);
    let id = attributes
        .filter_map(Result::ok)
        .find(|a| a.kind() == NHA_ID)?;
    id.value().try_into().ok().map(u32::from_ne_bytes)
}

#[cfg(test)]
#[path = "tests/socket.rs"]
mod tests;

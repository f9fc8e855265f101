//! Probes of a tunnel's liveness: a neighbour solicitation to the peer's link-local address (RFC 4213
//! section 3.8, RFC 4861 section 7.3) or an echo request to its address on the link.

use crate::batch::PuntInfo;
use crate::drop_reason::DropReason;
use crate::icmp_error::{Origin, Way, back, way_back, write_checksum};
use crate::id::{PortId, Ticks, TunnelId};
use crate::local::Local;
use crate::packet::{FRAME_LEN, HEADROOM, Packet};
use crate::process::{Context, Stop};
use crate::rewrite::Span;
use crate::tables::record::TunnelRecord;
use crate::tables::{Tables, default_link_local};
use crate::verdict::Verdict;
use sixferry_wire::{icmpv6, ipv6};
use std::net::Ipv6Addr;
use std::ops::Range;

/// What to ask the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Neighbour solicitation for the peer's link-local address, from ours. 6in4 and UDP tunnels with a
    /// known peer.
    Nud,
    /// Echo request from our address on the link.
    Echo {
        /// Our address on the link.
        from: Ipv6Addr,
        /// The peer's address.
        to: Ipv6Addr,
        /// Identifier.
        identifier: u16,
        /// Sequence number.
        sequence: u16,
    },
}

/// Why no probe can be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoProbe {
    /// There is no such tunnel, it is down, or a domain.
    NoTunnel,
    /// The neighbour on the way must be resolved first.
    Unresolved(PuntInfo),
    /// The way is closed for this reason.
    Closed(DropReason),
}

/// Builds the frame of a probe in `frame`: where it is, and the port to send it by. `local` gives the
/// IPv4 identification; a `dry_run` one keeps the probe out of the tunnel's counters.
///
/// # Errors
/// [`NoProbe`].
pub fn probe(
    tables: &Tables,
    local: &mut Local,
    now: Ticks,
    tunnel: TunnelId,
    probe: Probe,
    frame: &mut [u8; FRAME_LEN],
) -> Result<(PortId, Range<usize>), NoProbe> {
    use crate::tables::record;
    let record = tables
        .tunnel(tunnel)
        .filter(|r| r.has(record::UP) && !r.has(record::DOMAIN))
        .ok_or(NoProbe::NoTunnel)?;
    let message = Message::new(tables, tunnel, record, probe);
    let len = ipv6::HEADER_LEN + message.body.len();
    let mut packet =
        Packet::new(frame.as_mut_slice(), HEADROOM, len, PortId(0)).ok_or(NoProbe::NoTunnel)?;
    let span = Span {
        start: HEADROOM,
        end: HEADROOM + len,
    };
    message.write(&mut packet, span);
    let mut context = Context { tables, local, now };
    let origin = Origin::Tunnel {
        id: tunnel,
        peer: record.remote,
    };
    let way: Result<Way, Stop> = way_back(&context, origin, DropReason::EndpointUnknown);
    let sent = way.and_then(|way| back(&mut context, &mut packet, &way, span));
    match sent {
        Ok(Verdict::Answer(port)) => Ok((port, packet.head()..packet.tail())),
        Err(Stop::Punt(_, info)) => Err(NoProbe::Unresolved(info)),
        Err(Stop::Drop(reason)) => Err(NoProbe::Closed(reason)),
        Ok(_) => Err(NoProbe::NoTunnel),
    }
}

/// The ICMPv6 message of a probe.
struct Message {
    src: u128,
    dst: u128,
    hop_limit: u8,
    /// Type to target or sequence number, checksum empty.
    body: Vec<u8>,
}

impl Message {
    fn new(tables: &Tables, id: TunnelId, record: &TunnelRecord, probe: Probe) -> Self {
        match probe {
            Probe::Nud => {
                // RFC 4213 section 3.7: what the peer's address is unless it was told otherwise
                let peer = default_link_local(record.remote);
                let mut body = vec![icmpv6::NEIGHBOUR_SOLICIT, 0, 0, 0, 0, 0, 0, 0];
                body.extend_from_slice(&peer.to_be_bytes());
                Self {
                    src: tables.link_local(id, record),
                    dst: peer,
                    hop_limit: 255,
                    body,
                }
            }
            Probe::Echo {
                from,
                to,
                identifier,
                sequence,
            } => {
                let mut body = vec![icmpv6::ECHO_REQUEST, 0, 0, 0];
                body.extend_from_slice(&identifier.to_be_bytes());
                body.extend_from_slice(&sequence.to_be_bytes());
                Self {
                    src: u128::from(from),
                    dst: u128::from(to),
                    hop_limit: 64,
                    body,
                }
            }
        }
    }

    fn write(&self, packet: &mut Packet<'_>, span: Span) {
        let repr = ipv6::Repr {
            payload_len: u16::try_from(self.body.len()).unwrap_or(0),
            next_header: ipv6::NH_ICMPV6,
            hop_limit: self.hop_limit,
            src: self.src,
            dst: self.dst,
        };
        if let Some(header) = packet.array_mut(span.start) {
            repr.emit(header);
        }
        let at = ipv6::HEADER_LEN;
        if let Some(body) = packet.bytes_mut().get_mut(at..at + self.body.len()) {
            body.copy_from_slice(&self.body);
        }
        write_checksum(packet, span, self.src, self.dst);
    }
}

//! Up to [`BATCH_MAX`] packets and what became of them.

use crate::id::{NextHopId, PortId, TunnelId};
use crate::packet::Packet;
use crate::verdict::Verdict;
use arrayvec::ArrayVec;
use std::net::IpAddr;

/// Most packets in a batch: two lines of 32 for AF_XDP copy mode, and enough misses in flight.
pub const BATCH_MAX: usize = 64;

/// What the slow path needs to know of a punted packet besides its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PuntInfo {
    /// The unresolved next hop.
    pub next_hop: Option<NextHopId>,
    /// The neighbour to resolve.
    pub resolve: Option<IpAddr>,
    /// The tunnel the packet came by, or leaves by if it is too big.
    pub tunnel: Option<TunnelId>,
    /// Where a packet that is too big leaves.
    pub egress: Option<PortId>,
}

/// A batch of packets. After [`process`](crate::process) every packet has one verdict.
#[derive(Debug, Default)]
pub struct Batch<'f> {
    pub(crate) packets: ArrayVec<Packet<'f>, BATCH_MAX>,
    pub(crate) verdicts: ArrayVec<Verdict, BATCH_MAX>,
    pub(crate) punts: ArrayVec<(u8, PuntInfo), BATCH_MAX>,
    pub(crate) injected: bool,
}

impl<'f> Batch<'f> {
    /// An empty batch of received packets.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty batch of packets that come back from the slow path: counted as injected, not as
    /// received.
    #[must_use]
    pub fn injected() -> Self {
        Self {
            injected: true,
            ..Self::default()
        }
    }

    /// Adds a packet.
    ///
    /// # Errors
    /// Gives the packet back when the batch is full.
    pub fn push(&mut self, packet: Packet<'f>) -> Result<(), Packet<'f>> {
        self.packets.try_push(packet).map_err(|full| full.element())
    }

    /// How many packets.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.packets.len()
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// The packets, rewritten in place once processed.
    #[must_use]
    pub fn packets(&self) -> &[Packet<'f>] {
        &self.packets
    }

    /// One verdict a packet, in order; empty before processing.
    #[must_use]
    pub fn verdicts(&self) -> &[Verdict] {
        &self.verdicts
    }

    /// What belongs to the punt verdict of packet `i`; empty for others.
    #[must_use]
    pub fn punt_info(&self, i: usize) -> PuntInfo {
        self.punts
            .iter()
            .find(|(at, _)| usize::from(*at) == i)
            .map_or_else(PuntInfo::default, |(_, info)| *info)
    }
}

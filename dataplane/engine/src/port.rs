//! What a worker asks of a port: one queue of one interface, whatever carries it.

use std::os::fd::BorrowedFd;

use arrayvec::ArrayVec;

use crate::frame::{BATCH_MAX, Frame, FramePool};

/// One received packet: its frame and where in it the bytes are.
#[derive(Debug)]
pub struct RxPacket {
    /// The buffer.
    pub frame: Frame,
    /// Offset of the first byte in the frame.
    pub head: u16,
    /// Length in bytes.
    pub len: u16,
}

/// One queue of one interface as its worker sees it.
///
/// A port and its worker share nothing with other threads: no method locks, allocates or waits.
/// Frames move in and out through the worker's pool; at any moment `pool.available()` plus
/// `held()` of all ports equals `pool.capacity()`.
pub trait Port {
    /// Appends received packets to `out`, up to the room left in it. A port without a fill ring
    /// takes frames from the pool for them.
    fn rx(&mut self, pool: &mut FramePool, out: &mut ArrayVec<RxPacket, BATCH_MAX>);

    /// Queues one packet for transmission.
    ///
    /// # Errors
    /// Gives the frame back when the tx ring is full. The port counts it in
    /// [`PortQueueStats::tx_ring_full`], the worker as a drop.
    fn tx(&mut self, frame: Frame, head: u16, len: u16, pool: &mut FramePool) -> Result<(), Frame>;

    /// Once per turn: wakes the kernel if packets wait for it, returns the frames of finished
    /// transmissions to the pool and refills the fill ring from it.
    fn flush(&mut self, pool: &mut FramePool);

    /// Frames inside this port: fill, rx, tx and completion rings together.
    fn held(&self) -> usize;

    /// Totals since the port was opened. The worker calls this between turns, a few times
    /// a second and when packets cease, so an implementation may ask the kernel here.
    fn stats(&self) -> PortQueueStats;

    /// The descriptor that becomes readable when packets arrive; `None` for ports that are asked
    /// in turn (memory, pcap).
    fn poll_fd(&self) -> Option<BorrowedFd<'_>>;

    /// Stops and gives back the frames that can be had. `held()` tells what could not.
    fn close(&mut self, pool: &mut FramePool);
}

/// Totals of one queue of one port since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortQueueStats {
    /// Packets handed to the worker.
    pub rx_packets: u64,
    /// Their bytes, as the port counts them (no FCS).
    pub rx_bytes: u64,
    /// Packets taken for transmission.
    pub tx_packets: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Packets lost before the worker saw them for other reasons than the two below (the kernel's
    /// `rx_dropped`; for memory and pcap ports: longer than a frame).
    pub rx_dropped: u64,
    /// Packets lost because the worker did not empty the rx ring in time.
    pub rx_ring_full: u64,
    /// Packets lost, or receive attempts put off, because no free buffer was there.
    pub rx_fill_empty: u64,
    /// Descriptors the kernel refused to receive into: always a defect of ours.
    pub rx_invalid: u64,
    /// Descriptors the kernel refused to send: always a defect of ours.
    pub tx_invalid: u64,
    /// Packets refused by `tx` because the tx ring was full.
    pub tx_ring_full: u64,
    /// Packets queued by `tx` that the kernel did not take (`sendto` or `write` failed).
    pub tx_errors: u64,
    /// Wake-up calls made for transmission.
    pub tx_kicks: u64,
    /// Wake-up calls made for reception.
    pub rx_kicks: u64,
}

impl PortQueueStats {
    /// Field names and values, in a fixed order: what metrics and the API list.
    pub fn fields(&self) -> [(&'static str, u64); Self::COUNT] {
        [
            ("rx_packets", self.rx_packets),
            ("rx_bytes", self.rx_bytes),
            ("tx_packets", self.tx_packets),
            ("tx_bytes", self.tx_bytes),
            ("rx_dropped", self.rx_dropped),
            ("rx_ring_full", self.rx_ring_full),
            ("rx_fill_empty", self.rx_fill_empty),
            ("rx_invalid", self.rx_invalid),
            ("tx_invalid", self.tx_invalid),
            ("tx_ring_full", self.tx_ring_full),
            ("tx_errors", self.tx_errors),
            ("tx_kicks", self.tx_kicks),
            ("rx_kicks", self.rx_kicks),
        ]
    }

    /// Number of fields.
    pub const COUNT: usize = 13;

    /// The inverse of [`PortQueueStats::fields`].
    pub(crate) fn from_values(values: [u64; Self::COUNT]) -> Self {
        let [
            rx_packets,
            rx_bytes,
            tx_packets,
            tx_bytes,
            rx_dropped,
            rx_ring_full,
            rx_fill_empty,
            rx_invalid,
            tx_invalid,
            tx_ring_full,
            tx_errors,
            tx_kicks,
            rx_kicks,
        ] = values;
        Self {
            rx_packets,
            rx_bytes,
            tx_packets,
            tx_bytes,
            rx_dropped,
            rx_ring_full,
            rx_fill_empty,
            rx_invalid,
            tx_invalid,
            tx_ring_full,
            tx_errors,
            tx_kicks,
            rx_kicks,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stats_fields_round_trip_in_order() {
        let values = std::array::from_fn(|i| i as u64 + 1);
        let stats = PortQueueStats::from_values(values);
        assert_eq!(stats.fields().map(|(_, v)| v), values);
        assert_eq!(stats.rx_packets, 1);
        assert_eq!(stats.rx_kicks, 13);
    }
}

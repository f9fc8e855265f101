//! What the endpoint counts: packets each way and every drop by its reason.
//!
//! Names are the relay's wherever the cause is the same, so that both ends of a tunnel can be
//! read side by side.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

/// Declares the drop reasons once: variant, printed name, text for the operator.
macro_rules! drop_reasons {
    ($($variant:ident, $name:literal, $text:literal;)+) => {
        /// Why a packet was not passed on.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum DropReason {
            $(#[doc = $text] $variant,)+
        }

        impl DropReason {
            /// Every reason, in the order they are printed.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$variant,)+];

            /// The name used in statistics.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(DropReason::$variant => $name,)+ }
            }

            /// One sentence for the operator.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $(DropReason::$variant => $text,)+ }
            }
        }
    };
}

drop_reasons! {
    V4Truncated, "V4_TRUNCATED", "Outer packet shorter than an IPv4 header.";
    V4Version, "V4_VERSION", "Outer packet is not IPv4.";
    V4Length, "V4_LENGTH", "Outer lengths contradict each other.";
    V4SrcMartian, "V4_SRC_MARTIAN", "Outer source is no global unicast address.";
    V4DstMartian, "V4_DST_MARTIAN", "Inner destination embeds no unicast IPv4 address.";
    NoTunnel, "NO_TUNNEL", "Protocol 41 from an address that is not the relay.";
    UdpRemoteMismatch, "UDP_REMOTE_MISMATCH", "UDP from an endpoint that is not the relay's.";
    S6to4SrcMismatch, "S6TO4_SRC_MISMATCH", "6to4 source does not embed the outer source.";
    S6to4DstMismatch, "S6TO4_DST_MISMATCH", "6to4 destination is not this site.";
    S6rdSrcMismatch, "S6RD_SRC_MISMATCH", "6rd source does not embed the outer source.";
    S6rdDstNotMine, "S6RD_DST_NOT_MINE", "6rd destination is not this customer's.";
    LoopSelf, "LOOP_SELF", "Inner destination embeds our own IPv4 address.";
    InnerTruncated, "INNER_TRUNCATED", "Inner packet shorter than an IPv6 header.";
    InnerVersion, "INNER_VERSION", "Inner packet is not IPv6.";
    InnerLength, "INNER_LENGTH", "Inner payload length beyond the end of the packet.";
    V6SrcInvalid, "V6_SRC_INVALID", "Inner source no packet may have.";
    V6SrcOwn, "V6_SRC_OWN", "Inner source is an address of this end.";
    EcnCeOnNotEct, "ECN_CE_ON_NOT_ECT", "Congestion marked on a packet that cannot carry the mark.";
    V6TooBig, "V6_TOO_BIG", "Inner packet larger than the tunnel MTU.";
    SendFailed, "SEND_FAILED", "The kernel refused the outer packet (no route, or a firewall).";
    TunRefused, "TUN_REFUSED", "The TUN device refused the inner packet (link down).";
}

/// Packets and bytes of one direction; bytes are those of the inner packet.
#[derive(Debug, Default)]
pub struct Flow {
    packets: AtomicU64,
    bytes: AtomicU64,
}

impl Flow {
    fn count(&self, len: usize) {
        self.packets.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(len as u64, Ordering::Relaxed);
    }
}

/// Live counters of one endpoint.
#[derive(Debug)]
pub struct Counters {
    encap: Flow,
    decap: Flow,
    keepalives_sent: AtomicU64,
    keepalives_received: AtomicU64,
    drops: Vec<AtomicU64>,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            encap: Flow::default(),
            decap: Flow::default(),
            keepalives_sent: AtomicU64::new(0),
            keepalives_received: AtomicU64::new(0),
            drops: DropReason::ALL.iter().map(|_| AtomicU64::new(0)).collect(),
        }
    }
}

impl Counters {
    /// Counts a packet sent to the relay.
    pub fn encapsulated(&self, len: usize) {
        self.encap.count(len);
    }

    /// Counts a packet delivered to the TUN device.
    pub fn decapsulated(&self, len: usize) {
        self.decap.count(len);
    }

    /// Counts a keepalive to the relay.
    pub fn keepalive_sent(&self) {
        self.keepalives_sent.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a keepalive from the relay.
    pub fn keepalive_received(&self) {
        self.keepalives_received.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a packet that goes nowhere.
    pub fn dropped(&self, reason: DropReason) {
        if let Some(counter) = self.drops.get(reason as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The figures of this moment.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Snapshot {
            encap_packets: load(&self.encap.packets),
            encap_bytes: load(&self.encap.bytes),
            decap_packets: load(&self.decap.packets),
            decap_bytes: load(&self.decap.bytes),
            keepalives_sent: load(&self.keepalives_sent),
            keepalives_received: load(&self.keepalives_received),
            socket_overflow: 0,
            drops: DropReason::ALL
                .iter()
                .zip(&self.drops)
                .map(|(reason, counter)| (reason.name(), load(counter)))
                .filter(|(_, count)| *count > 0)
                .collect(),
        }
    }
}

/// The counters at one moment; drops that never happened are left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Snapshot {
    /// Packets sent to the relay.
    pub encap_packets: u64,
    /// Their inner bytes.
    pub encap_bytes: u64,
    /// Packets taken from the relay.
    pub decap_packets: u64,
    /// Their inner bytes.
    pub decap_bytes: u64,
    /// UDP: empty datagrams sent.
    pub keepalives_sent: u64,
    /// UDP: empty datagrams received.
    pub keepalives_received: u64,
    /// Packets the kernel threw away because the socket's buffer was full.
    pub socket_overflow: u64,
    /// Drops by reason.
    #[serde(serialize_with = "as_map")]
    pub drops: Vec<(&'static str, u64)>,
}

fn as_map<S: serde::Serializer>(drops: &[(&str, u64)], to: S) -> Result<S::Ok, S::Error> {
    to.collect_map(drops.iter().copied())
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "encap {} packets {} bytes, decap {} packets {} bytes, socket overflow {}",
            self.encap_packets,
            self.encap_bytes,
            self.decap_packets,
            self.decap_bytes,
            self.socket_overflow
        )?;
        if self.keepalives_sent + self.keepalives_received > 0 {
            let (sent, received) = (self.keepalives_sent, self.keepalives_received);
            write!(f, ", keepalives {sent} sent {received} received")?;
        }
        if self.drops.is_empty() {
            return write!(f, ", no drops");
        }
        for (name, count) in &self.drops {
            write!(f, ", {name} {count}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_indices_match() {
        let mut names: Vec<_> = DropReason::ALL.iter().map(|r| r.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), DropReason::ALL.len());
        for (index, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
        }
    }

    #[test]
    fn snapshot_shows_only_drops_that_happened() {
        let counters = Counters::default();
        counters.encapsulated(100);
        counters.encapsulated(50);
        counters.decapsulated(7);
        counters.dropped(DropReason::TunRefused);
        counters.dropped(DropReason::NoTunnel);
        counters.dropped(DropReason::NoTunnel);
        let snapshot = counters.snapshot();
        assert_eq!((snapshot.encap_packets, snapshot.encap_bytes), (2, 150));
        assert_eq!((snapshot.decap_packets, snapshot.decap_bytes), (1, 7));
        assert_eq!(snapshot.drops, [("NO_TUNNEL", 2), ("TUN_REFUSED", 1)]);
        let json = serde_json::to_value(&snapshot).expect("plain data");
        assert_eq!(json["drops"]["NO_TUNNEL"], 2);
    }
}

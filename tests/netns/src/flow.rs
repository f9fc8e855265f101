//! A numbered UDP stream: says which packets were lost and how long the longest gap was. Either end
//! may be a bare protocol-41 peer, for tests that need a tunnel's user but no kernel of his.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use etherparse::PacketBuilder;
use rustix::net::sockopt::set_socket_recv_buffer_size_force;

use crate::net::Net;
use crate::raw::RawIpv4;
use crate::wait::wait_for;

/// The receiver may be off its core for long on a small machine: room for that, so that a loss
/// counted here is one of the path's.
const RECEIVE_BUFFER: usize = 8 << 20;
/// After the last packet was sent, stragglers have this long.
const DRAIN: Duration = Duration::from_secs(3);
/// Sequence number at the start of every payload.
const SEQ_LEN: usize = 8;
/// Memory for the record of a flow is bounded by this many packets.
const MAX_PACKETS: u64 = 20_000_000;

/// The ports inside a tunnel where a bare peer plays the user.
const PEER_PORT: u16 = 4041;
/// IPv4, IPv6 and UDP headers of a packet as a bare peer receives it.
const TUNNEL_HEADERS: usize = 20 + 40 + 8;
/// How long a receiver waits before it looks whether the flow was stopped.
const RECEIVE: Duration = Duration::from_millis(20);

/// The user's end of a 6in4 tunnel without a router behind it.
#[derive(Clone, Copy, Debug)]
pub struct Peer<'n> {
    /// Where its outer packets leave.
    pub net: &'n Net,
    /// Its outer address, one of `net`.
    pub outer: Ipv4Addr,
    /// The relay's.
    pub relay: Ipv4Addr,
    /// Its inner address.
    pub inner: Ipv6Addr,
}

/// A running flow.
#[derive(Debug)]
pub struct UdpFlow {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    received: Arc<AtomicU64>,
    sender: JoinHandle<()>,
    receiver: JoinHandle<Record>,
}

/// What became of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowReport {
    /// Packets sent.
    pub sent: u64,
    /// Different packets received.
    pub received: u64,
    /// Packets received more than once.
    pub duplicated: u64,
    /// Sequence numbers that never arrived, as ranges of first and last.
    pub lost: Vec<(u64, u64)>,
    /// The longest time in which nothing arrived.
    pub longest_gap: Duration,
}

#[derive(Debug, Default)]
struct Record {
    seen: Vec<bool>,
    duplicated: u64,
    longest_gap: Duration,
}

impl FlowReport {
    /// Number of packets that never arrived.
    #[must_use]
    pub fn lost_packets(&self) -> u64 {
        self.sent - self.received
    }
}

impl UdpFlow {
    /// Sends `rate` packets a second of `payload` bytes from `source` in `from` to `destination`
    /// in `to`.
    ///
    /// # Panics
    /// When an address is not there.
    #[must_use]
    pub fn start(
        (from, source): (&Net, impl Into<IpAddr>),
        (to, destination): (&Net, impl Into<IpAddr>),
        payload: usize,
        rate: u32,
    ) -> Self {
        let (source, destination) = (source.into(), destination.into());
        let tx = sender_socket(from, source);
        let rx = receiver_socket(to, destination, 0);
        let address = rx.local_addr().expect("a bound address");
        // Unreachable errors come back here when a test breaks the path on purpose; the number is
        // used up and the receiver will miss it.
        let send = move |bytes: &[u8]| drop(tx.send_to(bytes, address));
        Self::run(payload, rate, send, move |bytes| rx.recv(bytes).ok())
    }

    /// The same from a tunnel's bare user to `destination` in `to`.
    ///
    /// # Panics
    /// When an address is not there.
    #[must_use]
    pub fn from_peer(
        peer: Peer<'_>,
        (to, destination): (&Net, Ipv6Addr),
        payload: usize,
        rate: u32,
    ) -> Self {
        let Peer { relay, inner, .. } = peer;
        let tx = RawIpv4::protocol_41(peer.net, peer.outer);
        let rx = receiver_socket(to, destination.into(), PEER_PORT);
        let send = move |bytes: &[u8]| {
            let mut packet = Vec::with_capacity(bytes.len() + TUNNEL_HEADERS);
            PacketBuilder::ipv6(inner.octets(), destination.octets(), 64)
                .udp(PEER_PORT, PEER_PORT)
                .write(&mut packet, bytes)
                .expect("a packet");
            tx.send(relay, &packet);
        };
        Self::run(payload, rate, send, move |bytes| rx.recv(bytes).ok())
    }

    /// The same from `source` in `from` to a tunnel's bare user.
    ///
    /// # Panics
    /// When an address is not there.
    #[must_use]
    pub fn to_peer(
        (from, source): (&Net, Ipv6Addr),
        peer: Peer<'_>,
        payload: usize,
        rate: u32,
    ) -> Self {
        let tx = sender_socket(from, source.into());
        let rx = RawIpv4::protocol_41(peer.net, peer.outer);
        rx.receive_buffer(RECEIVE_BUFFER);
        let inner = peer.inner;
        let send = move |bytes: &[u8]| drop(tx.send_to(bytes, (inner, PEER_PORT)));
        Self::run(payload, rate, send, move |bytes| {
            let packet = rx.receive(RECEIVE)?;
            // Others talk to the user as well: answers to what a test floods the relay with.
            let is_ours = packet.get(44..60) == Some(&inner.octets()[..])
                && packet.get(62..64) == Some(&PEER_PORT.to_be_bytes()[..])
                && packet.get(26) == Some(&17);
            let payload = packet.get(TUNNEL_HEADERS..).filter(|_| is_ours)?;
            bytes[..payload.len()].copy_from_slice(payload);
            Some(payload.len())
        })
    }

    fn run(
        payload: usize,
        rate: u32,
        send_one: impl FnMut(&[u8]) + Send + 'static,
        receive_one: impl FnMut(&mut [u8]) -> Option<usize> + Send + 'static,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicU64::new(0));
        let received = Arc::new(AtomicU64::new(0));
        let sender = {
            let (stop, sent) = (stop.clone(), sent.clone());
            thread::spawn(move || send(send_one, payload.max(SEQ_LEN), rate, &stop, &sent))
        };
        let receiver = {
            let (stop, received) = (stop.clone(), received.clone());
            let sent = sent.clone();
            thread::spawn(move || receive(receive_one, &stop, &sent, &received))
        };
        Self {
            stop,
            sent,
            received,
            sender,
            receiver,
        }
    }

    /// Packets received so far.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Packets sent so far.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Waits until `more` further packets have arrived, and says how long that took.
    ///
    /// # Panics
    /// When they do not within `timeout`.
    pub fn wait_received(&self, more: u64, timeout: Duration) -> Duration {
        let target = self.received() + more;
        let reached = wait_for(timeout, || (self.received() >= target).then_some(()));
        match reached {
            Some(((), took)) => took,
            None => panic!(
                "{} of {} packets arrived; waited {timeout:?} for {target}",
                self.received(),
                self.sent()
            ),
        }
    }

    /// Stops sending, waits for what is under way and reports.
    ///
    /// # Panics
    /// When a thread of the flow panicked.
    #[must_use]
    pub fn stop(self) -> FlowReport {
        self.stop.store(true, Ordering::Release);
        self.sender.join().expect("the sender does not panic");
        let record = self.receiver.join().expect("the receiver does not panic");
        let sent = self.sent.load(Ordering::Acquire);
        let mut lost: Vec<(u64, u64)> = Vec::new();
        let mut received = 0;
        for seq in 0..sent {
            let index = usize::try_from(seq).expect("bounded by MAX_PACKETS");
            if record.seen.get(index).copied().unwrap_or(false) {
                received += 1;
            } else if let Some(last) = lost.last_mut().filter(|last| last.1 + 1 == seq) {
                last.1 = seq;
            } else {
                lost.push((seq, seq));
            }
        }
        let Record {
            duplicated,
            longest_gap,
            ..
        } = record;
        FlowReport {
            sent,
            received,
            duplicated,
            lost,
            longest_gap,
        }
    }
}

fn sender_socket(net: &Net, source: IpAddr) -> UdpSocket {
    let socket = net.enter(|| UdpSocket::bind((source, 0)));
    socket.unwrap_or_else(|error| panic!("binding {source}: {error}"))
}

fn receiver_socket(net: &Net, destination: IpAddr, port: u16) -> UdpSocket {
    let socket = net.enter(|| UdpSocket::bind((destination, port)));
    let socket = socket.unwrap_or_else(|error| panic!("binding {destination}: {error}"));
    set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER).expect("a larger receive buffer");
    socket
        .set_read_timeout(Some(RECEIVE))
        .expect("a receive timeout");
    socket
}

fn send(
    mut send_one: impl FnMut(&[u8]),
    payload: usize,
    rate: u32,
    stop: &AtomicBool,
    sent: &AtomicU64,
) {
    let mut bytes = vec![0x5a; payload];
    let start = Instant::now();
    let mut seq: u64 = 0;
    while !stop.load(Ordering::Acquire) && seq < MAX_PACKETS {
        let due = start.elapsed().as_secs_f64() * f64::from(rate);
        while (seq as f64) < due && seq < MAX_PACKETS {
            bytes[..SEQ_LEN].copy_from_slice(&seq.to_be_bytes());
            send_one(&bytes);
            seq += 1;
            sent.store(seq, Ordering::Release);
        }
        thread::sleep(Duration::from_millis(1));
    }
}

fn receive(
    mut receive_one: impl FnMut(&mut [u8]) -> Option<usize>,
    stop: &AtomicBool,
    sent: &AtomicU64,
    received: &AtomicU64,
) -> Record {
    let mut record = Record::default();
    let mut bytes = vec![0; 65536];
    let mut last: Option<Instant> = None;
    let mut stopped: Option<Instant> = None;
    loop {
        if let Some(len) = receive_one(&mut bytes) {
            let now = Instant::now();
            if let Some(last) = last {
                record.longest_gap = record.longest_gap.max(now - last);
            }
            last = Some(now);
            let Some(seq) = bytes[..len].first_chunk::<SEQ_LEN>() else {
                continue;
            };
            let seq = u64::from_be_bytes(*seq);
            if seq >= MAX_PACKETS {
                continue;
            }
            let index = usize::try_from(seq).expect("bounded by MAX_PACKETS");
            if record.seen.len() <= index {
                record.seen.resize(index + 1, false);
            }
            if record.seen[index] {
                record.duplicated += 1;
            } else {
                record.seen[index] = true;
                received.fetch_add(1, Ordering::Relaxed);
            }
        }
        if stop.load(Ordering::Acquire) {
            let since = stopped.get_or_insert_with(Instant::now).elapsed();
            let all = received.load(Ordering::Relaxed) == sent.load(Ordering::Acquire);
            if since > DRAIN || (all && since > Duration::from_millis(100)) {
                return record;
            }
        }
    }
}

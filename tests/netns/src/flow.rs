//! A numbered UDP stream: says which packets were lost and how long the longest gap was.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_socket_recv_buffer_size_force;

use crate::net::Net;
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
        let tx = from.enter(|| UdpSocket::bind((source, 0)));
        let tx = tx.unwrap_or_else(|error| panic!("binding {source}: {error}"));
        let rx = to.enter(|| UdpSocket::bind((destination, 0)));
        let rx = rx.unwrap_or_else(|error| panic!("binding {destination}: {error}"));
        set_socket_recv_buffer_size_force(&rx, RECEIVE_BUFFER).expect("a larger receive buffer");
        let address = rx.local_addr().expect("a bound address");

        let stop = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicU64::new(0));
        let received = Arc::new(AtomicU64::new(0));
        let sender = {
            let (stop, sent) = (stop.clone(), sent.clone());
            thread::spawn(move || send(&tx, address, payload.max(SEQ_LEN), rate, &stop, &sent))
        };
        let receiver = {
            let (stop, received) = (stop.clone(), received.clone());
            let sent = sent.clone();
            thread::spawn(move || receive(&rx, &stop, &sent, &received))
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

fn send(
    socket: &UdpSocket,
    to: SocketAddr,
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
            // Unreachable errors come back here when a test breaks the path on purpose; the
            // number is used up and the receiver will miss it.
            let _ = socket.send_to(&bytes, to);
            seq += 1;
            sent.store(seq, Ordering::Release);
        }
        thread::sleep(Duration::from_millis(1));
    }
}

fn receive(
    socket: &UdpSocket,
    stop: &AtomicBool,
    sent: &AtomicU64,
    received: &AtomicU64,
) -> Record {
    let mut record = Record::default();
    let mut bytes = vec![0; 65536];
    socket
        .set_read_timeout(Some(Duration::from_millis(20)))
        .expect("a receive timeout");
    let mut last: Option<Instant> = None;
    let mut stopped: Option<Instant> = None;
    loop {
        if let Ok(len) = socket.recv(&mut bytes) {
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

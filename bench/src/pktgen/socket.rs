//! A packet socket: slower than live frames, and every interface takes it.

use super::pace::Orders;
use super::role::{self, Reading, Seat};
use super::traffic::{self, TAG_LEN, Traffic};
use crate::error::{Context, Error};
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::LinkAddr;
use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketType};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

/// Frames between two looks at the orders.
const LOOK: u32 = 64;
/// How long the sender sleeps when it has nothing to send, or no room.
const NAP: Duration = Duration::from_micros(50);
/// Nearer than this it waits awake.
const NEAR: f64 = 100_000.0;

#[derive(Debug, Default)]
struct Counts {
    sent: AtomicU64,
    tagged: AtomicU64,
    bytes: AtomicU64,
}

/// A running sender; its thread ends with the process.
#[derive(Debug)]
pub struct PacketSender {
    orders: Arc<Mutex<Orders>>,
    counts: Arc<Counts>,
    thread: i32,
    outcome: Receiver<Error>,
}

/// A socket that sends by one interface and receives nothing.
fn open(interface: &str) -> Result<OwnedFd, Error> {
    let socket = rustix::net::socket(AddressFamily::PACKET, SocketType::RAW, None)
        .during("a packet socket")?;
    let mut found = getifaddrs().during("the interfaces' addresses")?;
    let link: LinkAddr = found
        .find_map(|entry| {
            let named = entry.interface_name == interface;
            entry.address?.as_link_addr().copied().filter(|_| named)
        })
        .ok_or("no such interface")
        .during(interface)?;
    nix::sys::socket::bind(socket.as_raw_fd(), &link).during(interface)?;
    Ok(socket)
}

impl PacketSender {
    /// Starts sending as ordered.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn start(
        traffic: &Traffic,
        interface: &str,
        seat: Option<Seat>,
        first: Orders,
    ) -> Result<Self, Error> {
        let socket = open(interface)?;
        let orders = Arc::new(Mutex::new(first));
        let counts = Arc::new(Counts::default());
        let (ready, started) = mpsc::channel();
        let (ended, outcome) = mpsc::channel();
        let mut sender = Sender {
            socket,
            frames: Frames::new(traffic),
            orders: orders.clone(),
            counts: counts.clone(),
        };
        let interface = interface.to_owned();
        std::thread::spawn(move || {
            let settled = seat.map_or(Ok(()), |seat| role::settle(seat.cpu, seat.nice));
            let thread = rustix::thread::gettid().as_raw_nonzero().get();
            let good = settled.is_ok();
            _ = ready.send(settled.map(|()| thread));
            if let (true, Err(error)) = (good, sender.run().during(interface)) {
                _ = ended.send(error);
            }
        });
        let thread = started.recv().during("the generator's thread")??;
        Ok(Self {
            orders,
            counts,
            thread,
            outcome,
        })
    }

    /// Sends otherwise from now on.
    pub fn order(&mut self, wanted: Orders) {
        *self.orders.lock() = wanted;
    }

    /// What it has sent.
    ///
    /// # Errors
    /// When the sender has failed.
    pub fn reading(&self) -> Result<Reading, Error> {
        if let Ok(error) = self.outcome.try_recv() {
            return Err(error);
        }
        Ok(Reading {
            at: role::now(),
            packets: self.counts.sent.load(Ordering::Relaxed),
            tagged: self.counts.tagged.load(Ordering::Relaxed),
            bytes: self.counts.bytes.load(Ordering::Relaxed),
            on_cpu: role::on_cpu(self.thread)?,
            ..Reading::default()
        })
    }
}

/// Frame after frame, as the XDP program makes them.
#[derive(Debug)]
pub(super) struct Frames {
    traffic: Traffic,
    slots: Vec<usize>,
    destinations: Vec<u64>,
    pub(super) buffer: Vec<u8>,
    number: u32,
}

impl Frames {
    pub(super) fn new(traffic: &Traffic) -> Self {
        Self {
            traffic: traffic.clone(),
            slots: traffic.sizes.slots(),
            destinations: traffic.destinations(),
            buffer: vec![0; traffic.sizes.longest()],
            number: 0,
        }
    }

    /// The next frame's length, and whether it has a time tag.
    pub(super) fn prepare(&mut self) -> (usize, bool) {
        let len = self.slots[self.number as usize % self.slots.len()];
        let flow = self.traffic.flow(self.number);
        self.traffic.write(&mut self.buffer[..len], len, flow);
        if let Some(bits) = self.destinations.get(flow as usize) {
            let at = self.traffic.flow_bits().at - 2;
            self.buffer[at..at + 8].copy_from_slice(&bits.to_be_bytes());
        }
        let every = self.traffic.tag_every;
        let is_tagged = every > 0 && self.number.is_multiple_of(every);
        if is_tagged {
            traffic::tag(&mut self.buffer[..len], role::now());
        } else if every > 0 {
            // the buffer may still hold one
            self.buffer[len - TAG_LEN..len].fill(0);
        }
        self.number = self.number.wrapping_add(1);
        (len, is_tagged)
    }
}

struct Sender {
    socket: OwnedFd,
    frames: Frames,
    orders: Arc<Mutex<Orders>>,
    counts: Arc<Counts>,
}

impl Sender {
    fn run(&mut self) -> Result<(), Errno> {
        let mut due = role::now() as f64;
        loop {
            let orders = *self.orders.lock();
            let left = orders.limit - self.counts.sent.load(Ordering::Relaxed).min(orders.limit);
            let Some(gap) = orders.nanoseconds().filter(|_| left > 0) else {
                due = role::now() as f64;
                std::thread::sleep(NAP);
                continue;
            };
            for _ in 0..left.min(LOOK.into()) {
                let now = role::now() as f64;
                due = due.max(now - gap * f64::from(self.frames.traffic.catch_up));
                if due > now + NEAR {
                    std::thread::sleep(NAP);
                    break;
                }
                while (role::now() as f64) < due {
                    std::hint::spin_loop();
                }
                due += gap;
                self.send()?;
            }
        }
    }

    fn send(&mut self) -> Result<(), Errno> {
        let (len, is_tagged) = self.frames.prepare();
        loop {
            let bytes = &self.frames.buffer[..len];
            match rustix::net::send(&self.socket, bytes, SendFlags::empty()) {
                Ok(_) => break,
                // the interface's queue is full: it takes more when it has sent some
                Err(Errno::NOBUFS | Errno::AGAIN | Errno::INTR) => std::thread::sleep(NAP),
                Err(error) => return Err(error),
            }
        }
        let add = |count: &AtomicU64, more: u64| {
            // one writer: no locked add needed
            count.store(count.load(Ordering::Relaxed) + more, Ordering::Relaxed);
        };
        add(&self.counts.sent, 1);
        add(&self.counts.tagged, u64::from(is_tagged));
        add(&self.counts.bytes, len as u64);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pktgen::sizes::Sizes;

    fn frames(sizes: Sizes, tag_every: u32, count: usize) -> Vec<(Vec<u8>, bool)> {
        let mut frames = Frames::new(&Traffic {
            sizes,
            tag_every,
            ..Traffic::default()
        });
        (0..count)
            .map(|_| {
                let (len, is_tagged) = frames.prepare();
                (frames.buffer[..len].to_vec(), is_tagged)
            })
            .collect()
    }

    #[test]
    fn a_tag_is_on_the_frames_that_are_to_have_one_only() {
        let mix = "120:1,94:1".parse().expect("sizes");
        for (at, (bytes, is_tagged)) in frames(mix, 4, 16).into_iter().enumerate() {
            assert_eq!(is_tagged, at % 4 == 0);
            let end = &bytes[bytes.len() - TAG_LEN..];
            assert_eq!(end.starts_with(b"sxft"), is_tagged, "frame {at}");
        }
    }

    #[test]
    fn without_tags_the_shortest_frame_is_all_headers() {
        let (bytes, _) = frames(Sizes::one(82), 0, 1).remove(0);
        // the inner UDP header: its ports, its length, its checksum
        assert_eq!(bytes[74..], [0xc0, 0, 0, 9, 0, 8, 0x12, 0x34]);
    }
}

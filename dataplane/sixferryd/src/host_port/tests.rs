//! The thread's work by hand, with a pair of sockets in the device's place.

use std::net::Ipv6Addr;
use std::os::unix::net::UnixDatagram;

use sixferry_engine::{Engine, EngineConfig, HostConfig};
use sixferry_fwd::{Settings, TablesBuilder};

use super::*;

const PORT: PortId = PortId(3);

struct Socket(UnixDatagram);

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Device for Socket {
    fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.recv(buffer)
    }

    fn deliver(&self, packet: &[u8]) -> io::Result<()> {
        self.0.send(packet).map(drop)
    }
}

fn packet(src: &str, dst: &str) -> Vec<u8> {
    let mut packet = vec![0; ipv6::HEADER_LEN];
    packet[0] = 0x60;
    for (at, address) in [(8, src), (24, dst)] {
        let address: Ipv6Addr = address.parse().expect("address");
        packet[at..at + 16].copy_from_slice(&address.octets());
    }
    packet
}

fn mover(workers: usize, buffers: usize) -> (Mover<Socket>, UnixDatagram) {
    let tables = TablesBuilder::new(Settings::default(), workers).snapshot();
    let config = EngineConfig {
        host: Some(HostConfig {
            port: PORT,
            buffers,
        }),
        ..EngineConfig::new(workers, 1)
    };
    let engine = Engine::new(&config, tables).expect("engine");
    let (ours, theirs) = UnixDatagram::pair().expect("sockets");
    ours.set_nonblocking(true).expect("nonblocking");
    let mover = Mover {
        device: Socket(ours),
        end: engine.host.expect("asked for"),
        port: PORT,
        counters: Arc::default(),
        pending: None,
    };
    (mover, theirs)
}

#[test]
fn a_full_ring_stops_the_reading_and_loses_nothing() {
    let (mut mover, host) = mover(1, 2);
    let one = packet("2001:db8::1", "2001:db8:100::1");
    for _ in 0..5 {
        host.send(&one).expect("room");
    }
    assert!(!mover.take());
    assert_eq!(mover.end.injector().accepted(), 2);
    assert!(mover.pending.is_some());
    // Nobody empties the ring: the third packet stays where it is, two are still unread.
    assert!(!mover.take());
    assert!(mover.pending.is_some());
    let mut buffer = [0; 100];
    assert!(mover.device.receive(&mut buffer).is_ok());
    assert!(mover.device.receive(&mut buffer).is_ok());
    assert!(mover.device.receive(&mut buffer).is_err());
    let counts = mover.counters.counts();
    assert_eq!((counts.from_host.packets, counts.from_host.bytes), (2, 80));
    assert_eq!(counts.dropped, 0);
}

#[test]
fn only_ipv6_beyond_the_link_is_taken_and_flows_keep_their_worker() {
    let (mut mover, host) = mover(4, 8);
    let mut v4 = packet("2001:db8::1", "2001:db8:100::1");
    v4[0] = 0x45;
    let local = [
        packet("fe80::1", "ff02::2"),
        packet("::", "ff02::16"),
        packet("fe80::1", "fe80::2"),
        v4,
        vec![0x60; 39],
    ];
    for packet in &local {
        assert_eq!(worker_of(packet, 4), None);
        host.send(packet).expect("room");
    }
    mover.take();
    assert_eq!(mover.end.injector().accepted(), 0);

    let mut workers = BTreeSet::new();
    for i in 0..64 {
        let packet = packet("2001:db8::1", &format!("2001:db8:100::{i:x}"));
        let worker = worker_of(&packet, 4).expect("ours");
        assert_eq!(worker_of(&packet, 4), Some(worker));
        workers.insert(worker);
    }
    assert_eq!(workers.len(), 4, "spread over all");
}

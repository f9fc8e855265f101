//! AF_XDP on veth pairs: frames in and out, in both XDP modes, and between two interfaces that
//! share one memory. The other end is always the kernel's own stack.

#[path = "support/lab.rs"]
mod lab;
#[path = "support/netns.rs"]
mod netns;

use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use lab::{FRAMES, Lab, PATIENCE, PORT, RELAY, assert_no_frame_lost, open_one, spec, steer_udp};
use netns::Netns;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sixferry_engine::{BATCH_MAX, FramePool, HEADROOM, Port, RxPacket};
use sixferry_xsk::open::open;
use sixferry_xsk::{
    BindMode, Covering, OpenOptions, Outcome, PortMode, Rung, XdpMode, XskPort, XskSet,
};

fn wait_readable(port: &XskPort) {
    let fd = port.poll_fd().unwrap();
    let timeout = Timespec {
        tv_sec: 0,
        tv_nsec: 20_000_000,
    };
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    poll(&mut fds, Some(&timeout)).unwrap();
}

/// Turns a UDP packet round in place: MAC addresses, IPv4 addresses and ports swapped, which
/// leaves every checksum as it is.
fn turn_round(packet: &mut [u8]) {
    for (a, b, len) in [(0, 6, 6), (26, 30, 4), (34, 36, 2)] {
        for i in 0..len {
            packet.swap(a + i, b + i);
        }
    }
}

/// Sends every packet back until `done`. Odd ones move 20 bytes towards the start of their frame,
/// as encapsulation does.
fn echo(set: &mut XskSet, done: &std::sync::atomic::AtomicBool) -> u64 {
    let worker = &mut set.workers[0];
    let (pool, port) = (&mut worker.pool, &mut worker.ports[0]);
    let mut batch: ArrayVec<RxPacket, BATCH_MAX> = ArrayVec::new();
    let mut echoed = 0;
    while !done.load(std::sync::atomic::Ordering::Relaxed) {
        port.rx(pool, &mut batch);
        if batch.is_empty() {
            wait_readable(port);
        }
        for packet in batch.drain(..) {
            let (mut frame, mut head, len) = (packet.frame, packet.head, packet.len);
            assert_eq!(usize::from(head), HEADROOM, "room for encapsulation");
            let range = usize::from(head)..usize::from(head + len);
            turn_round(&mut frame.bytes_mut()[range.clone()]);
            if echoed % 2 == 1 {
                frame.bytes_mut().copy_within(range, usize::from(head) - 20);
                head -= 20;
            }
            port.tx(frame, head, len, pool).unwrap();
            echoed += 1;
        }
        port.flush(pool);
        assert_no_frame_lost(pool, std::slice::from_ref(port));
    }
    echoed
}

/// Datagrams of many sizes from the peer's kernel through the socket and back.
fn echo_test(mode: PortMode, xdp_mode: XdpMode) {
    let lab = Lab::new(1);
    let done = std::sync::atomic::AtomicBool::new(false);
    let (ready, is_ready) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let relay = scope.spawn(|| {
            lab.relay.enter();
            let mut set = open_one(mode).unwrap();
            let report = set.ports[0].report.clone();
            assert_eq!(report.xdp_mode, xdp_mode, "{report}");
            assert_eq!(report.mode, BindMode::Copy, "{report}");
            steer_udp(&mut set);
            ready.send(()).unwrap();
            let echoed = echo(&mut set, &done);
            let counters = set.ports[0].steering.counters().unwrap();
            let stats = set.workers[0].ports[0].stats();
            (echoed, counters, stats)
        });
        is_ready.recv_timeout(PATIENCE).unwrap();
        let sent = lab.peer.run(|| {
            let socket = UdpSocket::bind("198.51.100.2:40000").unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.connect((RELAY, PORT)).unwrap();
            let mut sent = 0_u64;
            for round in 0..20_usize {
                // A window: the peer's receive buffer is finite.
                let sizes: Vec<usize> = (0..32).map(|i| (round * 32 + i) * 1472 / 639).collect();
                for (i, size) in sizes.iter().enumerate() {
                    socket.send(&vec![(round + i) as u8; *size]).unwrap();
                }
                for (i, size) in sizes.iter().enumerate() {
                    let mut answer = [0; 2048];
                    let len = socket.recv(&mut answer).unwrap();
                    assert_eq!(len, *size);
                    assert!(answer[..len].iter().all(|byte| *byte == (round + i) as u8));
                    sent += 1;
                }
            }
            sent
        });
        lab.ping();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        let (echoed, counters, stats) = relay.join().unwrap();
        assert_eq!((sent, echoed), (640, 640));
        assert_eq!(counters.of(Outcome::XskUdp), 640);
        assert_eq!(counters.redirected(), 640);
        assert!(counters.of(Outcome::PassIcmp4) >= 1, "the ping");
        assert_eq!((stats.rx_packets, stats.tx_packets), (640, 640));
        assert_eq!(stats.rx_dropped + stats.rx_invalid + stats.tx_invalid, 0);
        assert_eq!(stats.rx_ring_full + stats.tx_errors, 0);
        assert!(stats.tx_kicks > 0);
    });
}

#[test]
#[ignore = "needs root"]
fn datagrams_are_echoed_in_native_mode() {
    echo_test(PortMode::Auto, XdpMode::Native);
}

#[test]
#[ignore = "needs root"]
fn datagrams_are_echoed_in_generic_mode() {
    echo_test(PortMode::Generic, XdpMode::Generic);
}

/// An Ethernet frame with a UDP datagram from the relay to the peer, without UDP checksum.
fn datagram(number: u16) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];
    let mut ip = vec![0x45, 0, 0, 30, 0, 0, 0, 0, 64, 17, 0, 0];
    ip.extend(RELAY.octets());
    ip.extend([198, 51, 100, 2]);
    let sum: u32 = ip
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]))
        .sum();
    let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    frame.extend(ip);
    frame.extend(PORT.to_be_bytes());
    frame.extend(40000_u16.to_be_bytes());
    frame.extend([0, 10, 0, 0]);
    frame.extend(number.to_be_bytes());
    frame
}

#[test]
#[ignore = "needs root"]
fn one_flush_sends_more_than_one_kick_takes() {
    const COUNT: u16 = 200;
    let lab = Lab::new(1);
    let socket = lab.peer.run(|| {
        let socket = UdpSocket::bind("198.51.100.2:40000").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    });
    lab.relay.run(|| {
        let mut set = open_one(PortMode::Copy).unwrap();
        let worker = &mut set.workers[0];
        let (pool, port) = (&mut worker.pool, &mut worker.ports[0]);
        for number in 0..COUNT {
            let packet = datagram(number);
            let mut frame = pool.pop().unwrap();
            let head = usize::from(number) % 7 + 100;
            frame.bytes_mut()[head..head + packet.len()].copy_from_slice(&packet);
            port.tx(frame, head as u16, packet.len() as u16, pool)
                .unwrap();
        }
        port.flush(pool);
        let stats = port.stats();
        assert!(stats.tx_kicks >= u64::from(COUNT) / 32, "{stats:?}");
        assert_eq!(stats.tx_packets, u64::from(COUNT));
        // All frames come home once the kernel is through with them.
        let deadline = Instant::now() + PATIENCE;
        let rx_frames = FRAMES as usize / 2;
        while port.held() > rx_frames && Instant::now() < deadline {
            port.flush(pool);
        }
        assert_eq!(port.held(), rx_frames);
        assert_no_frame_lost(pool, std::slice::from_ref(port));
    });
    let mut missing: BTreeSet<u16> = (0..COUNT).collect();
    while !missing.is_empty() {
        let mut buffer = [0; 16];
        assert_eq!(socket.recv(&mut buffer).unwrap(), 2);
        assert!(missing.remove(&u16::from_be_bytes([buffer[0], buffer[1]])));
    }
}

#[test]
#[ignore = "needs root"]
fn full_tx_ring_gives_the_frame_back() {
    let lab = Lab::new(1);
    lab.relay.run(|| {
        let options = OpenOptions {
            workers: 1,
            frames: 8192,
        };
        let mut set = open(&[spec("r0", PortMode::Copy)], options).unwrap();
        let worker = &mut set.workers[0];
        let (pool, port) = (&mut worker.pool, &mut worker.ports[0]);
        // Without a flush nothing leaves the ring.
        for _ in 0..sixferry_xsk::RING_ENTRIES {
            let frame = pool.pop().unwrap();
            port.tx(frame, 256, 60, pool).unwrap();
        }
        assert_eq!(pool.available(), 0);
        let mut other = FramePool::heap(1);
        let frame = port.tx(other.pop().unwrap(), 256, 60, pool).unwrap_err();
        assert_eq!(port.stats().tx_ring_full, 1);
        other.push(frame);
        let deadline = Instant::now() + PATIENCE;
        while pool.available() < 4096 && Instant::now() < deadline {
            port.flush(pool);
        }
        assert_eq!(pool.available(), 4096);
        // A frame of other memory is refused, whatever the ring says.
        let frame = port.tx(other.pop().unwrap(), 256, 60, pool).unwrap_err();
        other.push(frame);
        assert_eq!(port.stats().tx_invalid, 1);
    });
}

#[test]
#[ignore = "needs root"]
fn frames_cross_between_interfaces_of_one_memory() {
    let lab = Lab::new(1);
    let far = Netns::new();
    netns::sh(&format!(
        "ip link add r1 netns {} address 02:00:00:00:00:03 type veth \
         peer name p1 netns {} address 02:00:00:00:00:04",
        lab.relay.name, far.name
    ));
    lab.relay.sh("ip link set r1 up");
    far.sh("ip link set p1 up");
    far.sh("ip address add 2001:db8:100::9/64 dev p1 nodad");
    // The kernel takes packets to a new address only once it has made the route to itself.
    let routes = || far.sh("ip -6 route show table local");
    let deadline = Instant::now() + PATIENCE;
    while !routes().contains("local 2001:db8:100::9 ") {
        assert!(Instant::now() < deadline, "no route: {}", routes());
        std::thread::sleep(Duration::from_millis(5));
    }
    lab.peer
        .sh("ip route add 2001:db8:100::/48 via 2001:db8:1::1");
    let receiver = far.run(|| {
        let socket = UdpSocket::bind("[2001:db8:100::9]:5000").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    });
    let sender = lab
        .peer
        .run(|| UdpSocket::bind("[2001:db8:1::2]:5001").unwrap());
    lab.relay.run(|| {
        // r0 native, r1 generic: each port has the mode of its own.
        let specs = [spec("r0", PortMode::Auto), spec("r1", PortMode::Generic)];
        let options = OpenOptions {
            workers: 1,
            frames: FRAMES,
        };
        let mut set = open(&specs, options).unwrap();
        assert_eq!(set.ports[0].report.rung, Rung::Copy);
        assert_eq!(set.ports[1].report.rung, Rung::Generic);
        let prefix = Covering::new("2001:db8:100::".parse().unwrap(), 48).unwrap();
        let tables = set.ports[0].steering.tables_mut();
        tables.set_covering(&[prefix].into()).unwrap();
        let worker = &mut set.workers[0];
        let pool = &mut worker.pool;
        let mut batch = ArrayVec::new();
        let mut forwarded = 0;
        for number in 0..100_u8 {
            sender
                .send_to(&[number; 100], "[2001:db8:100::9]:5000")
                .unwrap();
        }
        let deadline = Instant::now() + PATIENCE;
        while forwarded < 100 && Instant::now() < deadline {
            worker.ports[0].rx(pool, &mut batch);
            if batch.is_empty() {
                wait_readable(&worker.ports[0]);
            }
            for RxPacket {
                mut frame,
                head,
                len,
            } in batch.drain(..)
            {
                let start = usize::from(head);
                let macs = [2, 0, 0, 0, 0, 4, 2, 0, 0, 0, 0, 3];
                frame.bytes_mut()[start..start + 12].copy_from_slice(&macs);
                worker.ports[1].tx(frame, head, len, pool).unwrap();
                forwarded += 1;
            }
            for port in &mut worker.ports {
                port.flush(pool);
            }
            assert_no_frame_lost(pool, &worker.ports);
        }
        assert_eq!(forwarded, 100);
    });
    for number in 0..100_u8 {
        let mut buffer = [0; 200];
        let len = receiver.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..len], [number; 100]);
    }
}

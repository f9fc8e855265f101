//! Capture files through a worker.

use std::io::{Cursor, Write};
use std::sync::Arc;

use parking_lot::Mutex;
use sixferry_engine::{
    Engine, EngineConfig, FramePool, HEADROOM, LinkLayer, PcapPort, Port, ReplayClock,
};
use sixferry_fwd::{CounterSnapshot, IpId, Ticks};

use crate::support::{V4_PORT, V6_PORT, control, from_user, ports, to_user};

#[derive(Clone, Default)]
struct Output(Arc<Mutex<Vec<u8>>>);

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A capture file of these packets, a millisecond apart.
fn capture(packets: &[Vec<u8>]) -> Vec<u8> {
    let (output, clock) = (Output::default(), ReplayClock::default());
    let port = PcapPort::new(LinkLayer::Ethernet, clock.clone());
    let mut port = port.write_to(Box::new(output.clone())).unwrap();
    let mut pool = FramePool::heap(1);
    for (n, packet) in packets.iter().enumerate() {
        clock.set(Ticks(Ticks::PER_SECOND + n as u64 * 1_000_000));
        let mut frame = pool.pop().unwrap();
        frame.bytes_mut()[HEADROOM..HEADROOM + packet.len()].copy_from_slice(packet);
        port.tx(frame, HEADROOM as u16, packet.len() as u16, &mut pool)
            .unwrap();
    }
    port.finish().unwrap();
    output.0.lock().clone()
}

/// Replays two captures in batches of `batch`; returns what left by each port, and the counters.
fn replay(inputs: [&[u8]; 2], batch: usize) -> ([Vec<u8>; 2], CounterSnapshot) {
    let mut control = control(1);
    let config = EngineConfig {
        ip_id: IpId::Fixed(0x1234),
        ..EngineConfig::new(1, 7)
    };
    let mut engine = Engine::new(&config, control.tables.snapshot()).unwrap();
    let clock = ReplayClock::default();
    let outputs = [Output::default(), Output::default()];
    let both = std::array::from_fn(|side| {
        PcapPort::new(LinkLayer::Ethernet, clock.clone())
            .read_from(Box::new(Cursor::new(inputs[side].to_vec())))
            .and_then(|port| port.write_to(Box::new(outputs[side].clone())))
            .unwrap()
            .batches_of(batch)
    });
    let mut worker = engine
        .seats
        .remove(0)
        .worker(ports(both), FramePool::heap(128));
    while let Some(time) = worker
        .ports()
        .iter()
        .filter_map(|(_, port)| port.next_time())
        .min()
    {
        clock.set(time);
        worker.turn(time);
        assert_eq!(worker.frames(), 128);
    }
    let mut ports = worker.into_ports();
    for id in [V4_PORT, V6_PORT] {
        ports.remove(id).unwrap().finish().unwrap();
    }
    let files = outputs.map(|output| output.0.lock().clone());
    (files, engine.counters[0].snapshot())
}

#[test]
fn replay_is_exact_whatever_the_batch() {
    let v4 = capture(&[from_user(10), from_user(1200), to_user(5), from_user(0)]);
    let v6 = capture(&[to_user(10), to_user(1300), to_user(900)]);
    let (files, counters) = replay([&v4, &v6], 64);
    assert_eq!((counters.received.packets, counters.unaccounted()), (7, 0));
    assert_eq!(
        (counters.forwarded.packets, counters.answered.packets),
        (6, 1)
    );
    assert!(
        files.iter().all(|file| file.len() > 24),
        "something left by both ports"
    );
    for batch in [1, 2, 64] {
        assert_eq!(replay([&v4, &v6], batch), (files.clone(), counters.clone()));
    }
}

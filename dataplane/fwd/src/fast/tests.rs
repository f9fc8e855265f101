//! With the shortcut and without it: the same, whatever the tables and the packets.

mod world;

use crate::batch::{BATCH_MAX, Batch};
use crate::classify::{Kind, Parsed, classify};
use crate::counters::WorkerCounters;
use crate::event::Event;
use crate::fast::{self, Glance, Shortcut};
use crate::id::{PortId, Ticks, TunnelId};
use crate::local::{IpId, Local, LocalConfig};
use crate::lookup::{Walks, lookup};
use crate::packet::{FRAME_LEN, HEADROOM, Packet};
use crate::process::{Context, passes};
use crate::tables::{Tables, TablesBuilder};
use crate::verdict::Verdict;
use std::sync::Arc;
use world::Rng;

type Received = (PortId, Vec<u8>);

fn local(dry_run: bool) -> Local {
    Local::new(LocalConfig {
        worker: 0,
        workers: 1,
        seed: 5,
        ip_id: IpId::Counter,
        shared: Arc::new(WorkerCounters::new()),
        dry_run,
    })
}

fn frames(received: &[Received]) -> Vec<[u8; FRAME_LEN]> {
    let mut frames = vec![[0; FRAME_LEN]; received.len()];
    for (frame, (_, bytes)) in frames.iter_mut().zip(received) {
        frame[HEADROOM..HEADROOM + bytes.len()].copy_from_slice(bytes);
    }
    frames
}

fn packets<'f>(
    frames: &'f mut [[u8; FRAME_LEN]],
    received: &'f [Received],
) -> impl Iterator<Item = Packet<'f>> {
    frames
        .iter_mut()
        .zip(received)
        .map(|(frame, (port, bytes))| {
            Packet::new(frame, HEADROOM, bytes.len(), *port).expect("it fits")
        })
}

/// A relay of its own, which processes one way or the other.
struct Relay {
    builder: TablesBuilder,
    tables: Arc<Tables>,
    local: Local,
}

impl Relay {
    fn new(seed: u64) -> Self {
        let mut builder = world::tables(seed);
        Self {
            tables: builder.snapshot(),
            builder,
            local: local(false),
        }
    }

    /// All that can be told of what became of each packet.
    fn send<const SHORTCUT: bool>(&mut self, received: &[Received], now: Ticks) -> Vec<String> {
        let mut frames = frames(received);
        let mut batch = Batch::new();
        for packet in packets(&mut frames, received) {
            batch.push(packet).expect("room");
        }
        passes::<SHORTCUT>(&mut batch, &self.tables, &mut self.local, now);
        let outcome = |(i, (packet, verdict)): (usize, (&Packet<'_>, &Verdict))| {
            let (head, info) = (packet.head(), batch.punt_info(i));
            format!("{verdict:?} {info:?} at {head}: {:02x?}", packet.bytes())
        };
        let each = batch.packets().iter().zip(batch.verdicts());
        each.enumerate().map(outcome).collect()
    }

    /// All that it has counted, learnt and told.
    fn state(&mut self) -> String {
        let mut events: Vec<Event> = Vec::new();
        self.local.take_events(|event| events.push(event));
        let tunnels: Vec<_> = (0..10)
            .map(TunnelId)
            .map(|id| {
                let b = &self.builder;
                (
                    b.tunnel_counters(id),
                    b.endpoint(id),
                    b.path_mtu(id),
                    b.outer_errors(id),
                )
            })
            .collect();
        let counters = self.local.counters();
        format!("{counters:?} {events:?} {tunnels:?}")
    }

    /// How many of these packets the shortcut takes.
    fn taken(&self, received: &[Received]) -> [usize; 3] {
        let mut frames = frames(received);
        let mut packets: Vec<Packet<'_>> = packets(&mut frames, received).collect();
        let mut parsed = vec![Parsed::EMPTY; packets.len()];
        let tunnels = self.tables.tunnels(usize::MAX);
        let mut walks = Walks::new(self.tables.fib6(), tunnels);
        let glance = Glance::new(&self.tables);
        classify::<true>(&packets, &glance, &mut walks, &mut parsed);
        lookup(&mut parsed, &packets, &self.tables, &mut walks);
        let mut context = Context {
            tables: &self.tables,
            local: &mut local(true),
            now: Ticks(1),
        };
        let mut shortcut = Shortcut::new(tunnels);
        let mut taken = [0; 3];
        let ordinary = packets.iter_mut().zip(&parsed);
        for (packet, p) in ordinary.filter(|(_, p)| p.ordinary != 0) {
            let (kind, verdict) = match p.kind {
                Kind::Outer => (0, fast::decap(&mut shortcut, &context, packet, p)),
                Kind::Udp => (1, fast::decap(&mut shortcut, &context, packet, p)),
                Kind::Native => (2, fast::encap(&mut shortcut, &mut context, packet, p)),
                _ => continue,
            };
            taken[kind] += usize::from(verdict.is_some());
        }
        taken
    }
}

#[test]
fn the_shortcut_makes_no_difference() {
    const WORLDS: u64 = 2000;
    let mut taken = [0; 3];
    let mut sent = 0;
    for seed in 0..WORLDS {
        let (mut short, mut full) = (Relay::new(seed), Relay::new(seed));
        let mut rng = Rng(!seed);
        for round in 1..3u64 {
            let count = 1 + rng.below(BATCH_MAX);
            let received: Vec<Received> = (0..count).map(|_| world::packet(&mut rng)).collect();
            // far enough apart for peers to move and path MTUs to rise
            let now = Ticks(round * 1000 * Ticks::PER_SECOND);
            for (sum, n) in taken.iter_mut().zip(short.taken(&received)) {
                *sum += n;
            }
            sent += count;
            let (a, b) = (
                short.send::<true>(&received, now),
                full.send::<false>(&received, now),
            );
            for ((a, b), (port, bytes)) in a.iter().zip(&b).zip(&received) {
                assert_eq!(a, b, "world {seed}, by {port:?}: {bytes:02x?}");
            }
            assert_eq!(short.state(), full.state(), "world {seed}");
        }
    }
    // a shortcut that nothing takes would pass, too
    assert!(taken.iter().all(|n| n * 100 > sent), "{taken:?} of {sent}");
}

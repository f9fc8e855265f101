//! `process` by direction, number of tunnels, inner length and batch length, and the yardstick beside it.
//!
//! One iteration is one pass over 8192 shuffled frames; throughput is in packets.

#![allow(
    missing_docs,
    reason = "criterion's macros generate undocumented items"
)]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use sixferry_bench::arena::{Arena, Direction, FRAMES, Memory, Shape};
use sixferry_bench::population::{Layout, Population, local};
use sixferry_bench::yardstick::{Policy, Yardstick};
use std::cell::OnceCell;
use std::time::Duration;

const TUNNELS: [(u32, &str); 3] = [(1, "1"), (10_000, "10k"), (1_000_000, "1M")];
const INNER: [usize; 3] = [64, 576, 1480];
const BATCH: [usize; 3] = [1, 32, 64];

fn bench(c: &mut Criterion) {
    let mut memory = Memory::new();
    let mut arena = Arena::new(&mut memory, 0x000a_4e4a);
    let mut local = local();
    for (tunnels, name) in TUNNELS {
        // built when the first bench that a filter lets through needs it, and shared by the others
        let population = OnceCell::new();
        let build = || {
            Population::tunnels(tunnels, Layout::Contiguous)
                .expect("the tables take distinct tunnels")
        };
        let mut yardstick = None;
        for direction in Direction::ALL {
            let mut group = c.benchmark_group(format!("{}/{name}", direction.name()));
            group
                .throughput(Throughput::Elements(FRAMES as u64))
                .warm_up_time(Duration::from_millis(200))
                .measurement_time(Duration::from_secs(1))
                .sample_size(20);
            for inner_len in INNER {
                for batch_len in BATCH {
                    let shape = Shape {
                        direction,
                        inner_len,
                        batch_len,
                    };
                    let id = BenchmarkId::new(format!("{inner_len}B"), format!("batch{batch_len}"));
                    group.bench_function(id, |b| {
                        let population = population.get_or_init(build);
                        b.iter_custom(|passes| {
                            (0..passes)
                                .map(|_| arena.round(population, &mut local, shape))
                                .sum()
                        });
                    });
                }
            }
            let shape = Shape {
                direction,
                inner_len: INNER[0],
                batch_len: BATCH[2],
            };
            group.bench_function("yardstick", |b| {
                let population = population.get_or_init(build);
                let yardstick = yardstick.get_or_insert_with(|| Yardstick::new(population));
                b.iter_custom(|passes| {
                    (0..passes)
                        .map(|_| {
                            arena.yardstick_round(population, yardstick, Policy::Sources, shape)
                        })
                        .sum()
                });
            });
            group.finish();
        }
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);

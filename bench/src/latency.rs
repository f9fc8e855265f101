//! How long a read takes that no cache line prefetched: the yardstick beside the figures of large
//! tables.

use crate::rng::Rng;
use std::hint::black_box;
use std::time::Instant;

const LINE: usize = 64;

/// Nanoseconds of one dependent read in a random walk over `bytes` of memory, `rounds` times.
#[must_use]
pub fn measure(bytes: usize, rounds: usize) -> Vec<f64> {
    const STEPS: usize = 200_000;
    let lines = (bytes / LINE).max(2);
    let mut order: Vec<usize> = (0..lines).collect();
    Rng::new(0x1a7e_0c51).shuffle(&mut order);
    // one cycle through all lines, so that no walk settles in a part of them
    let mut next = vec![[0_usize; LINE / size_of::<usize>()]; lines];
    for (at, to) in order.iter().zip(order.iter().cycle().skip(1)) {
        next[*at][0] = *to;
    }
    let mut at = order[0];
    (0..rounds)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..STEPS {
                at = next[at][0];
            }
            black_box(at);
            start.elapsed().as_nanos() as f64 / STEPS as f64
        })
        .collect()
}

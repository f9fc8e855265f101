//! Section 10.2: what more tunnels cost.

use super::super::Error;
use super::super::lab::Lab;
use super::rates::{self, Throughput};
use super::stand::Stand;
use super::{Direction, Job, Lengths};
use serde::Serialize;

/// One number of tunnels.
#[derive(Clone, Debug, Serialize)]
pub struct Point {
    /// How many.
    pub tunnels: u32,
    /// Seconds that adding them took, all of them or those that were new.
    pub added_in: f64,
    /// Packets of random tunnels.
    pub throughput: Throughput,
    /// In percent of the throughput of the first number: (x1 - xn) / x1.
    pub degradation: f64,
    /// The same of the flat-out rate, which noise disturbs less.
    pub flat_out_degradation: f64,
}

/// The result in one direction.
#[derive(Clone, Debug, Serialize)]
pub struct Scalability {
    /// Which way.
    pub direction: Direction,
    /// Frames' lengths.
    pub lengths: Lengths,
    /// A new device for each number of tunnels, which are added at once.
    pub simultaneous: Vec<Point>,
    /// One device, to which tunnels are added.
    pub incremental: Vec<Point>,
}

pub(super) fn run(job: &Job, direction: Direction) -> Result<Scalability, Error> {
    let nominal = job.sizes.first().copied().unwrap_or_default();
    let lengths = Lengths::new(nominal, job.encapsulation, false);
    let mut simultaneous = Vec::new();
    for tunnels in job.tunnels.iter().copied() {
        let lab = Lab::new()?;
        // the time of a load is that of all tunnels but the first
        let mut stand = Stand::start(&lab, job, direction, 1)?;
        let point = point(job, &mut stand, lengths, tunnels, simultaneous.first())?;
        say(direction, "at once", &point);
        simultaneous.push(point);
    }
    let lab = Lab::new()?;
    let mut stand = Stand::start(&lab, job, direction, 1)?;
    let mut incremental = Vec::new();
    for tunnels in job.tunnels.iter().copied() {
        let point = point(job, &mut stand, lengths, tunnels, incremental.first())?;
        say(direction, "one after the other", &point);
        incremental.push(point);
    }
    Ok(Scalability {
        direction,
        lengths,
        simultaneous,
        incremental,
    })
}

fn point(
    job: &Job,
    stand: &mut Stand<'_>,
    lengths: Lengths,
    tunnels: u32,
    first: Option<&Point>,
) -> Result<Point, Error> {
    let added_in = stand.grow(tunnels)?;
    let throughput = rates::throughput(&mut stand.tester(lengths, 0)?, &job.scale)?;
    let degradation = |own: f64, first: Option<f64>| {
        let first = first.unwrap_or(own);
        (first - own) / first.max(f64::MIN_POSITIVE) * 100.0
    };
    Ok(Point {
        tunnels,
        added_in,
        degradation: degradation(
            throughput.found.mpps,
            first.map(|point| point.throughput.found.mpps),
        ),
        flat_out_degradation: degradation(
            throughput.flat_out_mpps,
            first.map(|point| point.throughput.flat_out_mpps),
        ),
        throughput,
    })
}

fn say(direction: Direction, how: &str, point: &Point) {
    eprintln!(
        "{direction}, {} tunnels {how}: {}, degradation {:.1} % ({:.1} % flat out)",
        point.tunnels, point.throughput, point.degradation, point.flat_out_degradation
    );
}

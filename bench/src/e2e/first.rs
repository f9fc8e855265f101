//! How long it takes from a call of the API until the first packet of the new tunnel gets through.

use super::controller::{Changed, tunnel};
use super::daemon::Daemon;
use super::lab::{Lab, Place};
use super::trial::Plan;
use super::{Context, Error};
use crate::pktgen::pace::Pace;
use crate::pktgen::remote::Role;
use crate::pktgen::role;
use crate::pktgen::sink::{Arrived, FIRST, FORGET};
use crate::pktgen::sizes::Sizes;
use crate::pktgen::traffic::{Addresses, FIRST_PEER, TAG_LEN, Traffic, prefix};
use crate::statistics::quantile;
use serde::Serialize;
use sixferry_client::{Client, ElectionId, Options, Target, TunnelStream, TunnelUpdate};
use sixferry_engine::PUBLISH_INTERVAL;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// Tunnels, one after the other.
const PROBES: usize = 100;
/// Frames a second that its peer sends all the time: the time is known to one of their gaps.
const PACE: u64 = 5_000;
/// A packet that has not come by then does not come.
const PATIENCE: Duration = Duration::from_secs(5);
/// Nobody else's tunnel.
const OWNER: &str = "first-packet";

/// The result for one number of tunnels.
#[derive(Clone, Debug, Serialize)]
pub struct FirstPackets {
    /// Tunnels that there were already.
    tunnels: u64,
    probes: usize,
    /// From the call until the first packet was through: p50, p99, the longest, in milliseconds.
    through_ms: [f64; 3],
    /// From the call until its answer, likewise.
    answered_ms: [f64; 3],
}

/// Measures it beside a daemon whose tunnels are those of the flows below `flow`, with nobody else
/// sending.
///
/// # Errors
/// What does not start, and when no packet comes.
pub fn run(
    lab: &Lab,
    plan: &Plan,
    daemon: &Daemon,
    sink: &mut Role,
    flow: u32,
) -> Result<FirstPackets, Error> {
    let tunnels = daemon.counted()?.1;
    let traffic = Traffic {
        sizes: Sizes::one(plan.frame_len + TAG_LEN),
        tag_every: 1,
        catch_up: 1,
        addresses: Addresses {
            first_peer: Ipv4Addr::from(FIRST_PEER + flow),
            first_prefix: Ipv6Addr::from(prefix(flow)),
            ..Addresses::default()
        },
        ..Traffic::default()
    };
    let mut generator = lab.slow_generator(&traffic, plan.generator_cpu)?;
    generator.tell(&Pace::PerSecond(PACE).line())?;
    let mut prober = Prober::start(&daemon.socket(), flow)?;
    let (mut through, mut answered) = (Vec::new(), Vec::new());
    // the first call of a connection is another matter
    _ = prober.probe(sink)?;
    for _ in 0..PROBES {
        // on a relay that has nothing else to publish
        std::thread::sleep(PUBLISH_INTERVAL * 3);
        let [packet, answer] = prober.probe(sink)?;
        through.push(packet);
        answered.push(answer);
    }
    Ok(FirstPackets {
        tunnels,
        probes: PROBES,
        through_ms: quantiles(through),
        answered_ms: quantiles(answered),
    })
}

/// The same beside a new daemon without any tunnel, where the first one also tells the steering programs
/// its address.
///
/// # Errors
/// As [`run`].
pub fn run_alone(plan: &Plan) -> Result<FirstPackets, Error> {
    let lab = Lab::new()?;
    let mut sink = lab.sink(Place::Sink, "sink0")?;
    let daemon = Daemon::start(&lab, &plan.daemon, plan.device_cpu)?;
    run(&lab, plan, &daemon, &mut sink, 0)
}

fn quantiles(mut milliseconds: Vec<f64>) -> [f64; 3] {
    milliseconds.sort_by(f64::total_cmp);
    [0.5, 0.99, 1.0].map(|share| quantile(&milliseconds, share))
}

struct Prober {
    runtime: Runtime,
    stream: TunnelStream,
    flow: u32,
}

impl Prober {
    fn start(socket: &Path, flow: u32) -> Result<Self, Error> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .during("a runtime")?;
        let stream = runtime.block_on(async {
            let target = Target::Unix(socket.to_owned());
            let client = Client::connect(&target, &Options::default()).await?;
            let session = client.open_session(OWNER, ElectionId::now()).await?;
            session.tunnel_stream(1).await
        });
        Ok(Self {
            runtime,
            stream: stream.during("a stream")?,
            flow,
        })
    }

    /// One tunnel comes and goes; milliseconds from the call until its first packet was through, and until
    /// the answer.
    fn probe(&mut self, sink: &mut Role) -> Result<[f64; 2], Error> {
        sink.tell(FORGET)?;
        let tunnel = tunnel(self.flow, Changed::Nothing);
        let id = tunnel.id.clone();
        let called = role::now();
        self.change(TunnelUpdate::upsert(tunnel))?;
        let answered = role::now();
        let deadline = Instant::now() + PATIENCE;
        let arrived = loop {
            sink.order(FIRST)?;
            let seen: Arrived = sink.answer()?;
            match seen.first {
                Some(first) => break first.arrived,
                None if Instant::now() > deadline => {
                    return Err("no packet").during("the new tunnel");
                }
                None => {}
            }
        };
        self.change(TunnelUpdate::delete(id))?;
        if arrived < called {
            return Err("a packet without a tunnel").during("the new tunnel");
        }
        let milliseconds = |later: u64| (later - called) as f64 / 1e6;
        Ok([milliseconds(arrived), milliseconds(answered)])
    }

    /// A call with its answer.
    fn change(&mut self, update: TunnelUpdate) -> Result<(), Error> {
        let Self {
            runtime, stream, ..
        } = self;
        let answer = runtime.block_on(async {
            stream.send(&[update])?;
            stream.next().await
        });
        match answer.during("a call")?.failures.first() {
            Some(failure) => Err(failure.to_string()).during("a call"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for FirstPackets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p99, longest] = self.through_ms;
        let [answer50, answer99, _] = self.answered_ms;
        write!(
            f,
            "{:>7} tunnels: a new one's first packet is through {p50:.2} ms after the call (p99 {p99:.2}, \
             longest {longest:.2}), the answer there after {answer50:.2} ms (p99 {answer99:.2})",
            self.tunnels
        )
    }
}

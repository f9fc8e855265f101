//! A control process that goes on changing tunnels: removals, peers that move, additions.

use super::controller::{Changed, OWNER, tunnel};
use super::lab::{Lab, Place};
use super::role;
use super::{Context, Error};
use crate::changes::plan::{ABSENT, Kind, MOVED, Plan, Step, due};
use crate::pktgen;
use crate::pktgen::remote::Role;
use crate::pktgen::role::Seat;
use crate::statistics::quantile;
use serde::{Deserialize, Serialize};
use sixferry_client::{
    Client, ElectionId, Options, Target, Tunnel, TunnelAck, TunnelStream, TunnelUpdate,
};
use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// Messages on their way.
const WINDOW: usize = 16;
/// Most changes that the API takes in a message.
const MESSAGE_MAX: usize = 512;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What to do for a while.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Order {
    /// Changes a second; absent: as many as are acknowledged.
    pub per_second: Option<u32>,
    /// Changes in a message.
    pub batch: usize,
    /// How long.
    pub seconds: f64,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Changes {
    /// Changes that the daemon has acknowledged.
    pub changes: u64,
    /// Until the last acknowledgement.
    pub seconds: f64,
    /// From when a message was due, or was sent, until its acknowledgement, which comes when the workers
    /// have its tables: p50, p99, the longest, in milliseconds.
    pub acknowledged_ms: [f64; 3],
}

impl Changes {
    /// Changes a second.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        self.changes as f64 / self.seconds.max(1e-9)
    }
}

/// Changes tunnels of these flows as ordered, until standard input ends. Called in a process of its
/// own.
///
/// # Errors
/// What the daemon refuses.
pub fn run(socket: &Path, flows: Range<u32>, seat: Seat) -> Result<(), Error> {
    role::settle(seat.cpu, seat.nice)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .during("a runtime")?;
    let started = runtime.block_on(Changer::start(socket, flows));
    let mut changer = started.during("changing tunnels")?;
    role::serve(|line| {
        let order: Order = serde_json::from_str(line).during("an order")?;
        work(&runtime, &mut changer, order)
    })
}

fn work(runtime: &Runtime, changer: &mut Changer, order: Order) -> Result<Changes, Error> {
    let done = runtime.block_on(changer.work(order));
    done.during("changing tunnels")
}

struct Changer {
    stream: TunnelStream,
    plan: Plan,
    tunnels: Vec<Tunnel>,
}

impl Changer {
    async fn start(socket: &Path, flows: Range<u32>) -> Result<Self, Failure> {
        let client = Client::connect(&Target::Unix(socket.to_owned()), &Options::default()).await?;
        let session = client.open_session(OWNER, ElectionId::now()).await?;
        let tunnels: Vec<Tunnel> = flows.map(|flow| tunnel(flow, Changed::Nothing)).collect();
        let plan = Plan::new(tunnels.len(), tunnels.len() / ABSENT, 0x0c4a_46e5);
        let mut stream = session.tunnel_stream(WINDOW).await?;
        let removals: Vec<TunnelUpdate> = (plan.absent().iter())
            .map(|at| TunnelUpdate::delete(&*tunnels[*at].id))
            .collect();
        for batch in removals.chunks(MESSAGE_MAX) {
            stream.send(batch)?;
            applied(stream.next().await?)?;
        }
        Ok(Self {
            stream,
            plan,
            tunnels,
        })
    }

    fn batch(&mut self, count: usize) -> Vec<TunnelUpdate> {
        let Self { plan, tunnels, .. } = self;
        let update = |Step { kind, tunnel }| {
            let tunnel: &mut Tunnel = &mut tunnels[tunnel];
            match kind {
                Kind::Remove => return TunnelUpdate::delete(&*tunnel.id),
                Kind::Replace => {
                    tunnel.remote = Ipv4Addr::from(u32::from(tunnel.remote) ^ MOVED);
                }
                Kind::Add => {}
            }
            TunnelUpdate::upsert(tunnel.clone())
        };
        plan.by_ref().take(count).map(update).collect()
    }

    async fn work(&mut self, order: Order) -> Result<Changes, Failure> {
        let length = Duration::from_secs_f64(order.seconds);
        let when = |number| order.per_second.map(|rate| due(number, order.batch, rate));
        let start = Instant::now();
        let mut changes = Changes::default();
        let mut waiting = VecDeque::new();
        let mut times = Vec::new();
        let mut number = 0;
        loop {
            let elapsed = start.elapsed();
            let next = when(number).unwrap_or(elapsed);
            let over = elapsed >= length || next >= length;
            if !over && next <= elapsed && self.stream.has_room() {
                let batch = self.batch(order.batch);
                self.stream.send(&batch)?;
                waiting.push_back(next);
                number += 1;
                continue;
            }
            // whoever has room waits for whatever is first: the next message or an answer
            let wait = if over || !self.stream.has_room() {
                None
            } else {
                Some(next.saturating_sub(elapsed))
            };
            let answer = match (wait, waiting.is_empty()) {
                (None, true) => break,
                (None, false) => Some(self.stream.next().await?),
                (Some(wait), true) => {
                    tokio::time::sleep(wait).await;
                    None
                }
                (Some(wait), false) => tokio::select! {
                    answer = self.stream.next() => Some(answer?),
                    () = tokio::time::sleep(wait) => None,
                },
            };
            if let Some(answer) = answer {
                changes.changes += applied(answer)?;
                let sent = waiting.pop_front().unwrap_or_default();
                times.push((start.elapsed().saturating_sub(sent)).as_secs_f64() * 1e3);
            }
        }
        changes.seconds = start.elapsed().as_secs_f64();
        times.sort_by(f64::total_cmp);
        changes.acknowledged_ms = [0.5, 0.99, 1.0].map(|share| quantile(&times, share));
        Ok(changes)
    }
}

/// How many changes an answer acknowledges.
fn applied(answer: TunnelAck) -> Result<u64, Failure> {
    match answer.failures.first() {
        Some(failure) => Err(failure.to_string().into()),
        None => Ok(answer.entries as u64),
    }
}

/// A running control process of this kind; killed on drop.
#[derive(Debug)]
pub struct Remote(Role);

impl Remote {
    /// Starts one beside the daemon that listens at `socket`; one of eight of its tunnels is gone when it
    /// returns.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(lab: &Lab, socket: &Path, flows: Range<u32>, seat: Seat) -> Result<Self, Error> {
        let program = pktgen::beside("sixferry-bench-e2e")?;
        let mut command = lab.command(Place::Device, &program);
        command.arg("changer").arg(socket);
        command.args([flows.start, flows.end, seat.cpu as u32].map(|n| n.to_string()));
        command.args(["--nice", &seat.nice.to_string()]);
        Ok(Self(Role::spawn(
            "the control process".to_owned(),
            &mut command,
            seat.nice,
        )?))
    }

    /// Has it change tunnels, and says what came of it.
    ///
    /// # Errors
    /// When the daemon refused something.
    pub fn work(&mut self, order: &Order) -> Result<Changes, Error> {
        let line = serde_json::to_string(order).during("an order")?;
        self.0.order(&line)?;
        self.0.answer()
    }
}

//! CounterService.

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime};

use sixferry_fwd::{CounterSnapshot, DropReason, PuntReason, TunnelId};
use sixferry_proto::dataplane::v1 as pb;
use sixferry_proto::dataplane::v1::counter_service_server::CounterService;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::Api;
use crate::control::domains::{DomainView, MAX_DOMAINS};
use crate::control::error::Error;
use crate::control::read::{SCAN_SLOTS, Sample};
use crate::convert::counter::{
    host_port_counters, liveness_counters, reassembly_counters, tunnel_counters, worker_counters,
};

const MAX_TUNNELS: usize = 1000;
const MAX_TOP: u32 = 100;
const DEFAULT_TOP: u32 = 10;
const WINDOW: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(10);
const INTERVAL: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(3600);

/// All tunnels' traffic at one moment, by slot.
struct Samples {
    at: Instant,
    by_slot: Vec<Sample>,
}

/// A ranking asked for.
#[derive(Clone, Copy)]
struct Top {
    limit: usize,
    order: pb::TopOrder,
    window: Duration,
}

#[tonic::async_trait]
impl CounterService for Api {
    async fn read_counters(
        &self,
        request: Request<pb::ReadCountersRequest>,
    ) -> Result<Response<pb::ReadCountersResponse>, Status> {
        let selection = request.into_inner().selection.unwrap_or_default();
        let top = check(&selection)?;
        self.check_objects(&selection)?;
        let mut report_top = Vec::new();
        if let Some(top) = top {
            let _permit = self.rank_permit()?;
            let before = self.sample_all().await;
            tokio::time::sleep(top.window).await;
            report_top = self.rank(top, before).await.0;
        }
        let report = self.report(&selection, report_top);
        Ok(Response::new(pb::ReadCountersResponse {
            dataplane_instance_id: self.instance(),
            report: Some(report),
        }))
    }

    type StreamCountersStream = ReceiverStream<Result<pb::StreamCountersResponse, Status>>;

    async fn stream_counters(
        &self,
        request: Request<pb::StreamCountersRequest>,
    ) -> Result<Response<Self::StreamCountersStream>, Status> {
        let request = request.into_inner();
        let selection = request.selection.unwrap_or_default();
        let top = check(&selection)?;
        self.check_objects(&selection)?;
        let interval = duration("interval", request.interval, INTERVAL)?;
        let permit = top.map(|_| self.rank_permit()).transpose()?;
        let (out, stream) = mpsc::channel(1);
        let api = self.clone();
        tokio::spawn(async move {
            let _permit = permit;
            api.stream(selection, top, interval, out).await;
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn list_drop_reasons(
        &self,
        _request: Request<pb::ListDropReasonsRequest>,
    ) -> Result<Response<pb::ListDropReasonsResponse>, Status> {
        let reasons = DropReason::ALL.iter().map(|reason| pb::DropReason {
            name: reason.name().to_owned(),
            label: reason.label(),
            number: u32::try_from(reason.index()).unwrap_or(u32::MAX),
            text: reason.text().to_owned(),
        });
        let punt_reasons = PuntReason::ALL.iter().map(|reason| pb::PuntReason {
            name: reason.name().to_owned(),
            text: reason.text().to_owned(),
        });
        Ok(Response::new(pb::ListDropReasonsResponse {
            dataplane_instance_id: self.instance(),
            reasons: reasons.collect(),
            punt_reasons: punt_reasons.collect(),
        }))
    }
}

fn check(selection: &pb::CounterSelection) -> Result<Option<Top>, Error> {
    if selection.tunnel_ids.len() > MAX_TUNNELS {
        let text = format!("{} ids; at most {MAX_TUNNELS}", selection.tunnel_ids.len());
        return Err(Error::field("selection.tunnel_ids", text));
    }
    if selection.domain_ids.len() > MAX_DOMAINS {
        let text = format!("{} ids; at most {MAX_DOMAINS}", selection.domain_ids.len());
        return Err(Error::field("selection.domain_ids", text));
    }
    let Some(top) = &selection.top else {
        return Ok(None);
    };
    let limit = if top.limit == 0 {
        DEFAULT_TOP
    } else {
        top.limit
    };
    if limit > MAX_TOP {
        let text = format!("{limit} is outside 1..{MAX_TOP}");
        return Err(Error::field("selection.top.limit", text));
    }
    let order = pb::TopOrder::try_from(top.order)
        .map_err(|_| Error::field("selection.top.order", "unknown to this version"))?;
    let window = duration("selection.top.window", top.window, WINDOW)?;
    Ok(Some(Top {
        limit: usize::try_from(limit).unwrap_or(0),
        order,
        window,
    }))
}

fn duration(
    path: &str,
    given: Option<prost_types::Duration>,
    range: std::ops::RangeInclusive<Duration>,
) -> Result<Duration, Error> {
    let Some(given) = given else {
        return Ok(Duration::from_secs(1));
    };
    let value = Duration::try_from(given).ok().filter(|d| range.contains(d));
    value.ok_or_else(|| {
        Error::field(
            path,
            format!("outside {:?}..{:?}", range.start(), range.end()),
        )
    })
}

impl Api {
    fn check_objects(&self, selection: &pb::CounterSelection) -> Result<(), Error> {
        self.shared.with(|control| {
            let missing = |id: &&String| control.tunnel(id, false).is_none();
            if let Some(id) = selection.tunnel_ids.iter().find(missing) {
                return Err(Error::TunnelNotFound(id.clone()));
            }
            let missing = |id: &&String| control.domain(id).is_none();
            match selection.domain_ids.iter().find(missing) {
                Some(id) => Err(Error::DomainNotFound(id.clone())),
                None => Ok(()),
            }
        })
    }

    fn domain_entries(&self, selection: &pb::CounterSelection) -> Vec<pb::DomainCounterEntry> {
        let views = self.shared.with(|control| {
            if selection.all_domains {
                return control.list_domains(None, None, MAX_DOMAINS).0;
            }
            let ids = selection.domain_ids.iter();
            ids.filter_map(|id| control.domain(id)).collect()
        });
        let entry = |view: DomainView| pb::DomainCounterEntry {
            counters: view.totals.as_ref().map(tunnel_counters),
            domain_id: view.id,
            owner: view.owner.to_string(),
        };
        views.into_iter().map(entry).collect()
    }

    fn rank_permit(&self) -> Result<tokio::sync::OwnedSemaphorePermit, Error> {
        let permit = self.rankings.clone().try_acquire_owned();
        permit.map_err(|_| Error::Busy("too many rankings of tunnels run at this moment"))
    }

    async fn stream(
        &self,
        selection: pb::CounterSelection,
        top: Option<Top>,
        interval: Duration,
        out: mpsc::Sender<Result<pb::StreamCountersResponse, Status>>,
    ) {
        let mut timer = tokio::time::interval(interval);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut before: Option<Samples> = None;
        loop {
            tokio::select! {
                _ = timer.tick() => {}
                () = out.closed() => return,
            }
            let mut ranked = Vec::new();
            if let Some(top) = top {
                before = Some(match before.take() {
                    None => self.sample_all().await,
                    Some(before) => {
                        let (entries, now) = self.rank(top, before).await;
                        ranked = entries;
                        now
                    }
                });
            }
            let message = pb::StreamCountersResponse {
                dataplane_instance_id: self.instance(),
                report: Some(self.report(&selection, ranked)),
            };
            if out.send(Ok(message)).await.is_err() {
                return;
            }
        }
    }

    fn report(
        &self,
        selection: &pb::CounterSelection,
        top_tunnels: Vec<pb::TopTunnelEntry>,
    ) -> pb::CounterReport {
        let each = self.runtime.counters();
        let total = each
            .iter()
            .fold(CounterSnapshot::default(), |sum, one| sum.sum(one));
        let workers = if selection.per_worker {
            (0..)
                .zip(&each)
                .map(|(i, one)| worker_counters(Some(i), one))
                .collect()
        } else {
            Vec::new()
        };
        let views = self.shared.with(|control| {
            let ids = selection.tunnel_ids.iter();
            ids.filter_map(|id| control.tunnel(id, true))
                .collect::<Vec<_>>()
        });
        let tunnels = views.into_iter().map(|view| pb::TunnelCounterEntry {
            counters: view.totals.as_ref().map(tunnel_counters),
            tunnel_id: view.id,
            owner: view.owner.to_string(),
        });
        let slow = &self.runtime.slow_path;
        let (transmitted, transmit_refused) = self.runtime.transmitted();
        pb::CounterReport {
            time: Some(SystemTime::now().into()),
            total: Some(worker_counters(None, &total)),
            workers,
            tunnels: tunnels.collect(),
            top_tunnels,
            held_packets: slow.held(),
            slow_path: Some(pb::SlowPathCounters {
                taken: slow.taken(),
                reinjected: slow.reinjected(),
                delivered: slow.delivered(),
                held: slow.held(),
                merged: slow.merged(),
                transmitted,
                transmit_refused,
                drops: DropReason::ALL
                    .iter()
                    .map(|reason| (reason, slow.drops_for(*reason)))
                    .filter(|(_, count)| count.packets > 0)
                    .map(|(reason, count)| pb::DropCount {
                        reason: reason.name().to_owned(),
                        count: Some(pb::PacketsBytes {
                            packets: count.packets,
                            bytes: count.bytes,
                        }),
                    })
                    .collect(),
            }),
            domains: self.domain_entries(selection),
            reassembly: Some(reassembly_counters(self.live.reassembly())),
            host_port: self.live.host_port().map(host_port_counters),
            liveness: Some(liveness_counters(self.live.liveness())),
        }
    }

    /// Reads all tunnels, some slots at a time.
    async fn sample_all(&self) -> Samples {
        let mut samples = Samples {
            at: Instant::now(),
            by_slot: Vec::new(),
        };
        self.each_slots(|slots| {
            for (tunnel, sample) in slots {
                put(&mut samples.by_slot, tunnel, sample);
            }
        })
        .await;
        samples
    }

    async fn each_slots(&self, mut visit: impl FnMut(Vec<(TunnelId, Sample)>)) {
        let mut from = 0;
        loop {
            let (slots, end) = self
                .shared
                .with(|c| (c.sample(from, SCAN_SLOTS), c.slots()));
            visit(slots);
            from += SCAN_SLOTS;
            if from >= end {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    /// The busiest since `before`, and the samples for the next time.
    async fn rank(&self, top: Top, mut before: Samples) -> (Vec<pb::TopTunnelEntry>, Samples) {
        let now = Instant::now();
        let seconds = now.duration_since(before.at).as_secs_f64().max(1e-3);
        let mut best: Vec<(u64, TunnelId, Sample)> = Vec::new();
        self.each_slots(|slots| {
            for (tunnel, sample) in slots {
                let old = before
                    .by_slot
                    .get(tunnel.index())
                    .copied()
                    .unwrap_or_default();
                let delta = since(sample, old);
                put(&mut before.by_slot, tunnel, sample);
                let key = match top.order {
                    pb::TopOrder::Bytes => delta.in_bytes + delta.out_bytes,
                    pb::TopOrder::Drops => delta.drops,
                    pb::TopOrder::Packets | pb::TopOrder::Unspecified => {
                        delta.in_packets + delta.out_packets
                    }
                };
                if key == 0 {
                    continue;
                }
                best.push((key, tunnel, delta));
                // Cut back now and then: what is kept stays small however many are busy.
                if best.len() >= 4096 {
                    cut(&mut best, top.limit);
                }
            }
        })
        .await;
        before.at = now;
        cut(&mut best, top.limit);
        let views: HashMap<TunnelId, _> = self.shared.with(|control| {
            let view = |(_, tunnel, _): &(u64, TunnelId, Sample)| {
                Some((*tunnel, control.tunnel_at(*tunnel)?))
            };
            best.iter().filter_map(view).collect()
        });
        let rate = |count: u64| count as f64 / seconds;
        let entry = |(_, tunnel, delta): (u64, TunnelId, Sample)| {
            let view = views.get(&tunnel)?;
            Some(pb::TopTunnelEntry {
                tunnel_id: view.id.clone(),
                owner: view.owner.to_string(),
                counters: view.totals.as_ref().map(tunnel_counters),
                received_packets_per_second: rate(delta.in_packets),
                received_bytes_per_second: rate(delta.in_bytes),
                sent_packets_per_second: rate(delta.out_packets),
                sent_bytes_per_second: rate(delta.out_bytes),
                dropped_packets_per_second: rate(delta.drops),
            })
        };
        (best.into_iter().filter_map(entry).collect(), before)
    }
}

fn put(by_slot: &mut Vec<Sample>, tunnel: TunnelId, sample: Sample) {
    if by_slot.len() <= tunnel.index() {
        by_slot.resize(tunnel.index() + 1, Sample::default());
    }
    if let Some(slot) = by_slot.get_mut(tunnel.index()) {
        *slot = sample;
    }
}

/// Counters that went back belong to a new tunnel in an old slot: it began at 0.
fn since(now: Sample, old: Sample) -> Sample {
    let minus = |now: u64, old: u64| now.checked_sub(old).unwrap_or(now);
    Sample {
        in_packets: minus(now.in_packets, old.in_packets),
        in_bytes: minus(now.in_bytes, old.in_bytes),
        out_packets: minus(now.out_packets, old.out_packets),
        out_bytes: minus(now.out_bytes, old.out_bytes),
        drops: minus(now.drops, old.drops),
    }
}

fn cut(best: &mut Vec<(u64, TunnelId, Sample)>, limit: usize) {
    best.sort_unstable_by_key(|(key, tunnel, _)| (std::cmp::Reverse(*key), *tunnel));
    best.truncate(limit);
}

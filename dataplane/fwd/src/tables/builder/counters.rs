//! What tunnels and domains carried.

use super::super::record::{self, TUNNEL_DROPS, TunnelCounters};
use super::super::spec::TunnelTotals;
use super::TablesBuilder;
use crate::id::TunnelId;
use std::sync::atomic::Ordering;

impl TablesBuilder {
    /// What a tunnel or domain carried since it was added.
    #[must_use]
    pub fn tunnel_counters(&self, id: TunnelId) -> Option<TunnelTotals> {
        self.records
            .get(id.index())
            .filter(|r| r.has(record::IN_USE))?;
        let mut totals = self.raw_counters(id);
        if let Some(base) = self.baselines.get(&id.0) {
            totals.in_packets = totals.in_packets.wrapping_sub(base.in_packets);
            totals.in_bytes = totals.in_bytes.wrapping_sub(base.in_bytes);
            totals.out_packets = totals.out_packets.wrapping_sub(base.out_packets);
            totals.out_bytes = totals.out_bytes.wrapping_sub(base.out_bytes);
            totals.ecn_unusual = totals.ecn_unusual.saturating_sub(base.ecn_unusual);
            for (reason, count) in &mut totals.drops {
                let before = base
                    .drops
                    .iter()
                    .find(|(r, _)| r == reason)
                    .map_or(0, |(_, n)| *n);
                *count = count.saturating_sub(before);
            }
            totals.drops.retain(|(_, count)| *count != 0);
        }
        Some(totals)
    }

    fn raw_counters(&self, id: TunnelId) -> TunnelTotals {
        let mut totals = TunnelTotals::default();
        let mut drops = [0u64; TUNNEL_DROPS.len()];
        for worker in self
            .counters
            .iter()
            .filter_map(|table| table.get(id.index()))
        {
            let TunnelCounters {
                in_packets,
                in_bytes,
                out_packets,
                out_bytes,
                ..
            } = worker;
            totals.in_packets += in_packets.load(Ordering::Relaxed);
            totals.in_bytes += in_bytes.load(Ordering::Relaxed);
            totals.out_packets += out_packets.load(Ordering::Relaxed);
            totals.out_bytes += out_bytes.load(Ordering::Relaxed);
            totals.ecn_unusual += u64::from(worker.ecn_unusual.load(Ordering::Relaxed));
            for (sum, one) in drops.iter_mut().zip(&worker.drops) {
                *sum += u64::from(one.load(Ordering::Relaxed));
            }
        }
        let counted = TUNNEL_DROPS.iter().copied().zip(drops);
        totals.drops = counted.filter(|(_, count)| *count != 0).collect();
        totals
    }

    /// Counters never go back: a tunnel that gets a used id starts from here.
    pub(super) fn set_baseline(&mut self, id: TunnelId) {
        let totals = self.raw_counters(id);
        if totals == TunnelTotals::default() {
            self.baselines.remove(&id.0);
        } else {
            self.baselines.insert(id.0, totals);
        }
    }
}

//! Metric families, written at scrape time.

use std::fmt::Error;

use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

/// A label set of a metric.
pub type Labels = Vec<(&'static str, String)>;

/// A set of one label.
pub fn label(key: &'static str, value: impl ToString) -> Labels {
    vec![(key, value.to_string())]
}

/// Writes metric families.
#[derive(Debug)]
pub struct Families<'a> {
    /// Where to.
    pub encoder: DescriptorEncoder<'a>,
}

impl Families<'_> {
    fn family<T>(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        values: impl IntoIterator<Item = (Labels, T)>,
        encode: impl Fn(&mut MetricEncoder<'_>, T) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut family = self.encoder.encode_descriptor(name, help, None, kind)?;
        for (labels, value) in values {
            if labels.is_empty() {
                encode(&mut family, value)?;
            } else {
                encode(&mut family.encode_family(&labels)?, value)?;
            }
        }
        Ok(())
    }

    /// Counters with labels.
    pub fn counters(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels, u64)>,
    ) -> Result<(), Error> {
        self.family(name, help, MetricType::Counter, values, |encoder, value| {
            encoder.encode_counter::<NoLabelSet, _, u64>(&value, None)
        })
    }

    /// Gauges with labels.
    pub fn gauges(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels, i64)>,
    ) -> Result<(), Error> {
        self.family(name, help, MetricType::Gauge, values, |encoder, value| {
            encoder.encode_gauge(&value)
        })
    }

    /// One gauge.
    pub fn gauge(&mut self, name: &str, help: &str, value: u64) -> Result<(), Error> {
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        self.gauges(name, help, [(Labels::new(), value)])
    }

    /// One counter.
    pub fn counter(&mut self, name: &str, help: &str, value: u64) -> Result<(), Error> {
        self.counters(name, help, [(Labels::new(), value)])
    }
}

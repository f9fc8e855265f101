//! The figures of a run, as the benches have written them.

use super::goals::Spread;
use crate::environment::Environment;
use crate::error::{Context, Error};
use serde_json::Value;
use std::path::Path;

/// The JSON of one or more benches.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    files: Vec<Value>,
}

/// A test's throughput.
#[derive(Clone, Debug)]
pub(super) struct Rate {
    pub(super) name: String,
    pub(super) text: String,
    pub(super) mpps: Spread,
}

/// A table in one direction, in memory.
#[derive(Clone, Debug)]
pub(super) struct Memory {
    pub(super) name: String,
    pub(super) nanoseconds: Spread,
    /// Time in relation to the yardstick's.
    pub(super) to_yardstick: Spread,
}

fn spread(value: &Value) -> Option<Spread> {
    let number = |key: &str| value.get(key)?.as_f64();
    let rounds = value.get("rounds")?.as_u64().filter(|rounds| *rounds > 0)?;
    Some(Spread {
        rounds: Some(rounds),
        median: number("median")?,
        quartiles: number("lower_quartile")
            .zip(number("upper_quartile"))
            .map(<[f64; 2]>::from),
    })
}

impl Figures {
    /// The figures of these files' contents.
    #[must_use]
    pub const fn new(files: Vec<Value>) -> Self {
        Self { files }
    }

    /// Reads files.
    ///
    /// # Errors
    /// When one is not there, or no JSON.
    pub fn read(paths: &[impl AsRef<Path>]) -> Result<Self, Error> {
        let mut files = Vec::new();
        for path in paths {
            let name = path.as_ref().display().to_string();
            let bytes = std::fs::read(path).during(&name)?;
            files.push(serde_json::from_slice(&bytes).during(&name)?);
        }
        Ok(Self { files })
    }

    fn at(&self, pointer: &str) -> Option<&Value> {
        self.files.iter().find_map(|file| file.pointer(pointer))
    }

    fn list(&self, pointer: &str) -> &[Value] {
        let list = self.at(pointer).and_then(Value::as_array);
        list.map_or(&[], Vec::as_slice)
    }

    /// The machine and the moment.
    #[must_use]
    pub fn environment(&self) -> Environment {
        let found = self.at("/environment").cloned();
        found
            .and_then(|value| serde_json::from_value(value).ok())
            .unwrap_or_default()
    }

    /// A text or a number.
    pub(super) fn text(&self, pointer: &str) -> String {
        match self.at(pointer) {
            Some(Value::String(text)) => text.clone(),
            Some(value) => value.to_string(),
            None => "unknown".to_owned(),
        }
    }

    /// A number, if there is one.
    pub(super) fn found(&self, pointer: &str) -> Option<f64> {
        self.at(pointer)?.as_f64()
    }

    /// A number, 0 where there is none.
    pub(super) fn number(&self, pointer: &str) -> f64 {
        self.found(pointer).unwrap_or(0.0)
    }

    pub(super) fn rates(&self) -> Vec<Rate> {
        let rate = |line: &Value| {
            let text = |key: &str| Some(line.get(key)?.as_str()?.to_owned());
            Some(Rate {
                name: text("name")?,
                text: text("text")?,
                mpps: spread(line.get("mpps")?)?,
            })
        };
        self.list("/throughput/tests")
            .iter()
            .filter_map(rate)
            .collect()
    }

    pub(super) fn ratios(&self) -> Vec<(String, Spread)> {
        let ratio = |line: &Value| {
            let name = |key: &str| line.get(key)?.as_str();
            let pair = format!("{} / {}", name("test")?, name("yardstick")?);
            Some((pair, spread(line.get("ratio")?)?))
        };
        self.list("/throughput/ratios")
            .iter()
            .filter_map(ratio)
            .collect()
    }

    pub(super) fn ratio(&self, test: &str, yardstick: &str) -> Option<Spread> {
        let is = |line: &&Value, key: &str, name: &str| {
            line.get(key).and_then(Value::as_str) == Some(name)
        };
        let lines = self.list("/throughput/ratios").iter();
        lines
            .filter(|line| is(line, "test", test) && is(line, "yardstick", yardstick))
            .find_map(|line| spread(line.get("ratio")?))
    }

    /// What a packet costs in memory.
    pub(super) fn memory(&self) -> Vec<Memory> {
        let case = |line: &Value| {
            Some(Memory {
                name: line.get("name")?.as_str()?.to_owned(),
                nanoseconds: spread(line.get("nanoseconds")?)?,
                to_yardstick: spread(line.get("ratio_to_yardstick")?)?,
            })
        };
        self.list("/cases").iter().filter_map(case).collect()
    }

    /// What of the rate out of one tunnel the yardstick loses with a million scattered ones, in percent:
    /// the part of a relay's loss that the machine's memory decides.
    pub(super) fn degradation_of_yardstick(&self) -> Option<f64> {
        let nanoseconds = |name: &str| {
            let of_it = |line: &&Value| line.get("name").and_then(Value::as_str) == Some(name);
            let case = self.list("/cases").iter().find(of_it)?;
            Some(spread(case.get("yardstick_nanoseconds")?)?.median)
        };
        let [one, scattered] = ["decap one tunnel", "decap scattered"].map(nanoseconds);
        Some((1.0 - one? / scattered?) * 100.0)
    }

    pub(super) fn why_not(&self, test: &str) -> Option<String> {
        let lines = self.list("/throughput/skipped").iter();
        lines
            .filter(|line| line.get("name").and_then(Value::as_str) == Some(test))
            .find_map(|line| Some(line.get("why")?.as_str()?.to_owned()))
    }

    pub(super) fn timing(&self, field: &str) -> Option<Spread> {
        spread(self.at(&format!("/timing{field}"))?)
    }

    /// Frames lost while tunnels were re-synced or changed, in all that was measured.
    pub(super) fn lost(&self) -> Option<Spread> {
        let found = ["/resync/lost", "/changes/lost"].map(|pointer| self.found(pointer));
        let lost = found.into_iter().flatten().reduce(|a, b| a + b)?;
        Some(Spread {
            median: lost,
            quartiles: None,
            rounds: None,
        })
    }

    /// What other programs found out about a goal: what it is, and the figure.
    pub(super) fn judged(&self, number: u8) -> Vec<(String, Spread)> {
        let lists = self
            .files
            .iter()
            .filter_map(|file| file.get("goals")?.as_array());
        let of = |goal: &Value| {
            let right = goal.get("number")?.as_u64()? == u64::from(number);
            let what = goal.get("what")?.as_str()?.to_owned();
            let alone = Spread {
                median: goal.get("figure")?.as_f64()?,
                quartiles: None,
                rounds: None,
            };
            let of_rounds = goal.get("spread").and_then(spread);
            Some((what, of_rounds.unwrap_or(alone))).filter(|_| right)
        };
        lists.flatten().filter_map(of).collect()
    }
}

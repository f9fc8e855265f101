//! Lengths of frames: one, or a mix.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// `SLOTS` of `bpf/generator.bpf.c`.
pub(super) const SLOTS: usize = 64;
/// The usual mix of 7, 4 and 1, as frames without FCS; the short ones hold a time tag in any tunnel.
const IMIX: &str = "102:7,570:4,1514:1";

/// Lengths and how often each comes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Sizes(Vec<(usize, u32)>);

impl Sizes {
    /// All frames have this length.
    #[must_use]
    pub fn one(len: usize) -> Self {
        Self(vec![(len, 1)])
    }

    /// The shortest of them.
    #[must_use]
    pub fn shortest(&self) -> usize {
        self.0.iter().map(|(len, _)| *len).min().unwrap_or(0)
    }

    /// The longest of them.
    #[must_use]
    pub fn longest(&self) -> usize {
        self.0.iter().map(|(len, _)| *len).max().unwrap_or(0)
    }

    /// The length of each frame of 64, evenly mixed; a single one if all have the same.
    pub(super) fn slots(&self) -> Vec<usize> {
        if self.0.len() == 1 {
            return vec![self.longest()];
        }
        let total: i64 = self.0.iter().map(|(_, weight)| i64::from(*weight)).sum();
        let mut credit = vec![0_i64; self.0.len()];
        let mut slots = Vec::new();
        for _ in 0..SLOTS {
            for (credit, (_, weight)) in credit.iter_mut().zip(&self.0) {
                *credit += i64::from(*weight);
            }
            // the one that is most behind
            let next = (0..credit.len()).max_by_key(|at| credit[*at]).unwrap_or(0);
            credit[next] -= total;
            slots.push(self.0[next].0);
        }
        slots
    }
}

impl FromStr for Sizes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = if text == "imix" { IMIX } else { text };
        let part = |part: &str| {
            let (len, weight) = part.split_once(':').unwrap_or((part, "1"));
            match (len.parse::<usize>(), weight.parse::<u32>()) {
                (Ok(len), Ok(weight @ 1..=1000)) => Ok((len, weight)),
                _ => Err(format!(
                    "`{part}`: a length, or a length and its weight up to 1000 as in 570:4"
                )),
            }
        };
        let sizes: Vec<_> = text.split(',').map(part).collect::<Result<_, _>>()?;
        if sizes.len() > SLOTS / 2 {
            return Err(format!("{} lengths: at most {}", sizes.len(), SLOTS / 2));
        }
        Ok(Self(sizes))
    }
}

impl TryFrom<String> for Sizes {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Sizes> for String {
    fn from(sizes: Sizes) -> Self {
        sizes.to_string()
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (len, weight)) in self.0.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            write!(f, "{comma}{len}:{weight}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mix_is_as_weighed_and_mixed() {
        let mix: Sizes = "imix".parse().expect("known");
        let slots = mix.slots();
        let count = |len: usize| slots.iter().filter(|slot| **slot == len).count();
        assert_eq!(slots.len(), SLOTS);
        assert_eq!(count(102) + count(570) + count(1514), SLOTS);
        assert!((36..=38).contains(&count(102)) && (20..=22).contains(&count(570)));
        // no two long ones in a row
        assert!(!slots.windows(2).any(|pair| pair == [1514, 1514]));
        assert_eq!(mix.to_string().parse(), Ok(mix));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "82:", "82:0", "a", "82,,90", "82:1001"] {
            assert!(text.parse::<Sizes>().is_err(), "{text}");
        }
        assert_eq!("82".parse(), Ok(Sizes::one(82)));
        assert_eq!(Sizes::one(82).slots(), [82]);
    }
}

//! Which logical interfaces a login may get: `-i`, `-c`, `-o` of dtcps and the pins of the
//! routetable.
//!
//! Here an interface is a name for a tunnel, a stem and a unit; the unit drives the address pair of
//! `host`. Nothing is created in the kernel, so cloning and the choice among existing ones differ
//! only in which units may be given.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use regex::Regex;
use sixferry_lifecycle::{Slot, SlotChoice};

use crate::config::Config;

/// Highest unit that is ever created: far above what a table holds, and within every /64.
pub const UNIT_MAX: u32 = 999_999;

/// Most interfaces that `existing` may list: a regular expression is tried on each at every reload.
const EXISTING_MAX: usize = 1_000_000;

/// Why interfaces cannot be chosen as configured.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not a regular expression.
    #[error("interfaces: {0}")]
    Pattern(String),
    /// Not a name or a range of names.
    #[error("existing: {0:?} is not a range of interfaces such as gif0-gif99")]
    Existing(String),
    /// Too many.
    #[error("existing: more than {EXISTING_MAX} interfaces")]
    TooMany,
}

/// The choice of interfaces, by the configuration and the pins of a routetable.
#[derive(Clone, Debug)]
pub struct Interfaces {
    base: Base,
    /// What a user without a pin may get; `None`: the configured name has no number.
    choice: Option<SlotChoice>,
}

#[derive(Clone, Debug)]
enum Base {
    /// All of a stem between two units: created at need, or existing ones without a gap.
    Range(Arc<str>, RangeInclusive<u32>),
    /// These.
    List(Arc<[Slot]>),
    /// A name without a number.
    Nameless,
}

impl Interfaces {
    /// The choice without any pin.
    ///
    /// # Errors
    /// What is wrong with `interfaces` or `existing`.
    pub fn new(config: &Config) -> Result<Self, Error> {
        let existing = parse_existing(&config.existing)?;
        let base = match config.interfaces.as_deref() {
            None => Base::of(slots(&existing, |_| true)),
            Some(name) if config.cloning && is_exact(name) => parse_slot(name)
                .map_or(Base::Nameless, |first| {
                    Base::Range(first.stem, first.unit..=UNIT_MAX)
                }),
            Some(pattern) => Base::of(matching(&existing, pattern)?),
        };
        let mut interfaces = Self { base, choice: None };
        interfaces.choice = interfaces.choose(&BTreeMap::new());
        Ok(interfaces)
    }

    /// The same, without what users are pinned to.
    #[must_use]
    pub fn without(mut self, pins: &BTreeMap<Slot, Box<str>>) -> Self {
        self.choice = self.choose(pins);
        self
    }

    /// What a user may get: his pin, or what is nobody's. `None`: the configured name has no
    /// number, so there is none.
    #[must_use]
    pub fn choice(&self, pin: Option<&Slot>) -> Option<SlotChoice> {
        match pin {
            Some(slot) => Some(SlotChoice::Exactly(slot.clone())),
            None => self.choice.clone(),
        }
    }

    fn choose(&self, pins: &BTreeMap<Slot, Box<str>>) -> Option<SlotChoice> {
        match &self.base {
            Base::Nameless => None,
            Base::Range(stem, units) => Some(range(stem.clone(), units.clone(), pins)),
            Base::List(slots) => {
                let free = slots.iter().filter(|slot| !pins.contains_key(slot));
                Some(SlotChoice::OneOf(free.cloned().collect()))
            }
        }
    }
}

impl Base {
    fn of(slots: Arc<[Slot]>) -> Self {
        match contiguous(&slots) {
            Some((stem, units)) => Self::Range(stem, units),
            None => Self::List(slots),
        }
    }
}

fn range(
    stem: Arc<str>,
    units: RangeInclusive<u32>,
    pins: &BTreeMap<Slot, Box<str>>,
) -> SlotChoice {
    let except = pins
        .keys()
        .filter(|slot| slot.stem == stem && units.contains(&slot.unit))
        .map(|slot| slot.unit)
        .collect();
    SlotChoice::Range {
        stem,
        units,
        except,
    }
}

/// Sorted slots without a gap are a range, which costs nothing to hand around.
fn contiguous(slots: &[Slot]) -> Option<(Arc<str>, RangeInclusive<u32>)> {
    let (first, last) = (slots.first()?, slots.last()?);
    let len = u32::try_from(slots.len()).ok()?;
    // Sorted and without doubles, so nothing is missing if the ends are as far apart as the length.
    (first.stem == last.stem && last.unit - first.unit + 1 == len)
        .then(|| (first.stem.clone(), first.unit..=last.unit))
}

/// Whether a name contains nothing that a regular expression gives a meaning to. A dot does not
/// count as such: it may stand in a name.
fn is_exact(name: &str) -> bool {
    name.bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

/// A stem and a unit, such as `gif10`. `None` when the number is missing, has leading zeros (it
/// would not be found under its name again) or is too large.
#[must_use]
pub fn parse_slot(name: &str) -> Option<Slot> {
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let unit = &name[stem.len()..];
    let good = (1..=15).contains(&stem.len()) && is_exact(stem);
    if !good || (unit.len() > 1 && unit.starts_with('0')) {
        return None;
    }
    let unit = unit.parse().ok().filter(|unit| *unit <= UNIT_MAX)?;
    Some(Slot {
        stem: stem.into(),
        unit,
    })
}

type Ranges = BTreeMap<Arc<str>, Vec<RangeInclusive<u32>>>;

fn parse_existing(names: &[String]) -> Result<Ranges, Error> {
    let mut ranges = Ranges::new();
    let mut total = 0_usize;
    for text in names {
        let bad = || Error::Existing(text.clone());
        // A name may contain a hyphen, but what reads as two names is a range.
        let ends = text.split_once('-');
        let ends = ends.and_then(|(first, last)| Some((parse_slot(first)?, parse_slot(last)?)));
        let (first, last) = match ends {
            Some(ends) => ends,
            None => parse_slot(text)
                .map(|slot| (slot.clone(), slot))
                .ok_or_else(bad)?,
        };
        if first.stem != last.stem || first.unit > last.unit {
            return Err(bad());
        }
        total += (last.unit - first.unit) as usize + 1;
        if total > EXISTING_MAX {
            return Err(Error::TooMany);
        }
        ranges
            .entry(first.stem)
            .or_default()
            .push(first.unit..=last.unit);
    }
    Ok(ranges)
}

fn slots(ranges: &Ranges, good: impl Fn(&Slot) -> bool) -> Arc<[Slot]> {
    let mut slots: Vec<Slot> = ranges
        .iter()
        .flat_map(|(stem, units)| {
            let units = units.iter().cloned().flatten();
            units.map(|unit| Slot {
                stem: stem.clone(),
                unit,
            })
        })
        .filter(|slot| good(slot))
        .collect();
    slots.sort_unstable();
    slots.dedup();
    slots.into()
}

/// Those that match as a whole: `gif1` does not mean gif10.
fn matching(existing: &Ranges, pattern: &str) -> Result<Arc<[Slot]>, Error> {
    let regex = Regex::new(&format!("^(?:{pattern})$"))
        .map_err(|error| Error::Pattern(format!("{pattern:?}: {error}")))?;
    Ok(slots(existing, |slot| regex.is_match(&slot.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(name: &str) -> Slot {
        parse_slot(name).unwrap()
    }

    fn pins(names: &[&str]) -> BTreeMap<Slot, Box<str>> {
        names.iter().map(|name| (slot(name), "x".into())).collect()
    }

    fn config(interfaces: Option<&str>, cloning: bool, existing: &[&str]) -> Config {
        Config {
            interfaces: interfaces.map(str::to_owned),
            cloning,
            existing: existing.iter().map(|&name| name.to_owned()).collect(),
            ..Config::default()
        }
    }

    fn choice(config: &Config, pinned: &[&str]) -> Option<SlotChoice> {
        Interfaces::new(config)
            .unwrap()
            .without(&pins(pinned))
            .choice(None)
    }

    fn range(stem: &str, units: RangeInclusive<u32>, except: &[u32]) -> Option<SlotChoice> {
        Some(SlotChoice::Range {
            stem: stem.into(),
            units,
            except: except.into(),
        })
    }

    #[test]
    fn dtcp_29_exact_name_clones_from_its_unit_up() {
        let config = config(Some("gif10"), true, &[]);
        assert_eq!(
            choice(&config, &["gif7", "gif42", "tun42", "gif12"]),
            range("gif", 10..=UNIT_MAX, &[12, 42])
        );
    }

    #[test]
    fn dtcp_29_expression_takes_existing_ones_anchored_at_both_ends() {
        let existing = ["gif0-gif99", "tun3"];
        assert_eq!(
            choice(&config(Some("gif1[0-9]"), true, &existing), &["gif11"]),
            range("gif", 10..=19, &[11])
        );
        let existing_gap = config(Some("gif[12]5|tun3"), true, &["gif0-gif25", "tun3"]);
        assert_eq!(
            choice(&existing_gap, &["gif15"]),
            Some(SlotChoice::OneOf([slot("gif25"), slot("tun3")].into()))
        );
        assert_eq!(
            choice(&config(None, true, &existing[..1]), &[]),
            range("gif", 0..=99, &[])
        );
    }

    #[test]
    fn dtcp_29_without_cloning_a_name_is_an_expression() {
        let existing = ["gif0-gif99"];
        assert_eq!(
            choice(&config(Some("gif10"), false, &existing), &[]),
            range("gif", 10..=10, &[])
        );
        assert_eq!(
            choice(&config(Some("gif"), false, &existing), &[]),
            Some(SlotChoice::OneOf([].into()))
        );
    }

    #[test]
    fn name_without_a_number_gives_no_choice_but_pins_still_work() {
        let interfaces = Interfaces::new(&config(Some("gif"), true, &[])).unwrap();
        assert_eq!(interfaces.choice(None), None);
        let pin = slot("gif7");
        assert_eq!(
            interfaces.choice(Some(&pin)),
            Some(SlotChoice::Exactly(pin))
        );
    }

    #[test]
    fn mistakes_are_named() {
        let problem = |config: &Config| Interfaces::new(config).unwrap_err().to_string();
        assert!(problem(&config(Some("gif["), true, &[])).starts_with("interfaces: \"gif[\""));
        for bad in ["gif", "gif5-gif1", "gif1-tun2", "", "gif007", "gif1-"] {
            assert_eq!(
                Interfaces::new(&config(None, true, &[bad])).unwrap_err(),
                Error::Existing(bad.to_owned())
            );
        }
        let many = config(None, true, &["gif0-gif999999", "tun0"]);
        assert_eq!(Interfaces::new(&many).unwrap_err(), Error::TooMany);
    }

    #[test]
    fn slots_are_read_from_the_end() {
        assert_eq!(
            slot("ng0"),
            Slot {
                stem: "ng".into(),
                unit: 0
            }
        );
        assert_eq!(
            slot("a1b22"),
            Slot {
                stem: "a1b".into(),
                unit: 22
            }
        );
        for bad in [
            "",
            "7",
            "gif",
            "gif01",
            "gif-",
            "gi f1",
            "gif99999999999",
            "sixteenletterss-1",
        ] {
            assert_eq!(parse_slot(bad), None, "{bad}");
        }
    }
}

//! Logical interfaces: which unit of a stem is the lowest free one.

use hashbrown::HashMap;
use std::sync::Arc;

use crate::runs::Runs;
use crate::{Slot, SlotChoice};

/// Slots that are taken.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    stems: HashMap<Arc<str>, Runs>,
}

impl Slots {
    /// Whether it was free.
    pub(crate) fn take(&mut self, slot: &Slot) -> bool {
        let units = self.stems.entry_ref(&slot.stem).or_default();
        units.insert(slot.unit.into())
    }

    /// Whether it was taken.
    pub(crate) fn free(&mut self, slot: &Slot) -> bool {
        let Some(units) = self.stems.get_mut(&slot.stem) else {
            return false;
        };
        let was = units.remove(slot.unit.into());
        if units.is_empty() {
            self.stems.remove(&slot.stem);
        }
        was
    }

    pub(crate) fn is_taken(&self, slot: &Slot) -> bool {
        let units = self.stems.get(&slot.stem);
        units.is_some_and(|u| u.contains(slot.unit.into()))
    }

    /// The lowest free slot of the choice whose unit is not in `also` either: the numbers of a link's
    /// addresses follow the unit, and another stem may have used them up.
    pub(crate) fn choose(&self, choice: &SlotChoice, also: Option<&Runs>) -> Option<Slot> {
        let free = |slot: &Slot| {
            !self.is_taken(slot) && also.is_none_or(|units| !units.contains(slot.unit.into()))
        };
        match choice {
            SlotChoice::Exactly(slot) => free(slot).then(|| slot.clone()),
            SlotChoice::OneOf(slots) => slots.iter().find(|s| free(s)).cloned(),
            SlotChoice::Range {
                stem,
                units,
                except,
            } => {
                let taken = self.stems.get(stem);
                let unit = lowest(*units.start(), *units.end(), except, [taken, also])?;
                let stem = stem.clone();
                Some(Slot { stem, unit })
            }
        }
    }
}

/// Whether a slot is one of the choice.
pub(crate) fn fits(choice: &SlotChoice, slot: &Slot) -> bool {
    match choice {
        SlotChoice::Exactly(only) => only == slot,
        SlotChoice::OneOf(slots) => slots.contains(slot),
        SlotChoice::Range {
            stem,
            units,
            except,
        } => {
            *stem == slot.stem
                && units.contains(&slot.unit)
                && except.binary_search(&slot.unit).is_err()
        }
    }
}

fn lowest(first: u32, last: u32, except: &[u32], sets: [Option<&Runs>; 2]) -> Option<u32> {
    let mut unit = first;
    loop {
        if unit > last {
            return None;
        }
        let mut next = u64::from(unit);
        for set in sets.into_iter().flatten() {
            next = set.next_missing(next)?;
        }
        let candidate = u32::try_from(next).ok()?;
        let candidate = past_exceptions(except, candidate)?;
        if candidate == unit {
            return Some(unit);
        }
        unit = candidate;
    }
}

/// The lowest number from `unit` on that is no exception. A block of neighbours is left in one step:
/// a sorted list without repeats has the same distance in numbers and places exactly inside one.
fn past_exceptions(except: &[u32], unit: u32) -> Option<u32> {
    let Ok(at) = except.binary_search(&unit) else {
        return Some(unit);
    };
    let block = &except[at..];
    let mut good = 0;
    let mut bad = block.len();
    while bad - good > 1 {
        let middle = usize::midpoint(good, bad);
        if (block[middle] - unit) as usize == middle {
            good = middle;
        } else {
            bad = middle;
        }
    }
    block[good].checked_add(1)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::ops::RangeInclusive;

    use proptest::prelude::*;

    use super::*;

    fn slot(stem: &str, unit: u32) -> Slot {
        let stem = stem.into();
        Slot { stem, unit }
    }

    fn range(units: RangeInclusive<u32>, except: &[u32]) -> SlotChoice {
        SlotChoice::Range {
            stem: "gif".into(),
            units,
            except: except.into(),
        }
    }

    #[test]
    fn cloning_gives_the_lowest_free_unit_from_the_base() {
        let mut slots = Slots::default();
        let choice = range(10..=u32::MAX, &[]);
        for unit in 10..13 {
            let next = slots.choose(&choice, None).unwrap();
            assert_eq!(next, slot("gif", unit));
            assert!(slots.take(&next));
            assert!(!slots.take(&next));
        }
        assert!(slots.free(&slot("gif", 11)));
        assert!(!slots.free(&slot("gif", 11)));
        assert_eq!(slots.choose(&choice, None), Some(slot("gif", 11)));
    }

    #[test]
    fn pinned_units_are_left_out_and_ranges_end() {
        let mut slots = Slots::default();
        assert_eq!(
            slots.choose(&range(0..=3, &[0, 1]), None),
            Some(slot("gif", 2))
        );
        assert!(slots.take(&slot("gif", 2)));
        assert_eq!(
            slots.choose(&range(0..=3, &[0, 1]), None),
            Some(slot("gif", 3))
        );
        assert_eq!(slots.choose(&range(0..=3, &[0, 1, 3]), None), None);
        let last = range(u32::MAX..=u32::MAX, &[u32::MAX]);
        assert_eq!(slots.choose(&last, None), None);
    }

    #[test]
    fn lists_are_taken_in_their_order() {
        let mut slots = Slots::default();
        let both = SlotChoice::OneOf([slot("tun", 9), slot("gif", 1)].into());
        assert_eq!(slots.choose(&both, None), Some(slot("tun", 9)));
        slots.take(&slot("tun", 9));
        assert_eq!(slots.choose(&both, None), Some(slot("gif", 1)));
        let pinned = SlotChoice::Exactly(slot("tun", 9));
        assert_eq!(slots.choose(&pinned, None), None);
        slots.free(&slot("tun", 9));
        assert_eq!(slots.choose(&pinned, None), Some(slot("tun", 9)));
        assert!(fits(&both, &slot("gif", 1)) && !fits(&both, &slot("gif", 2)));
    }

    #[test]
    fn a_million_units_are_no_burden() {
        let mut slots = Slots::default();
        let choice = range(0..=u32::MAX, &(500_000..600_000).collect::<Vec<_>>());
        for _ in 0..1_000_000 {
            let next = slots.choose(&choice, None).unwrap();
            slots.take(&next);
        }
        assert_eq!(slots.choose(&choice, None), Some(slot("gif", 1_100_000)));
    }

    proptest! {
        #[test]
        fn always_the_lowest_that_is_free(
            taken in proptest::collection::btree_set(0_u32..30, 0..20),
            also in proptest::collection::btree_set(0_u32..30, 0..20),
            except in proptest::collection::btree_set(0_u32..30, 0..20),
            first in 0_u32..30,
            len in 0_u32..30,
        ) {
            let mut slots = Slots::default();
            let mut units = Runs::default();
            for unit in &taken {
                slots.take(&slot("gif", *unit));
            }
            for unit in &also {
                units.insert((*unit).into());
            }
            let list: Vec<_> = except.iter().copied().collect();
            let choice = range(first..=first + len, &list);
            let used: BTreeSet<_> = taken.iter().chain(&also).chain(&except).copied().collect();
            let model = (first..=first + len).find(|u| !used.contains(u));
            let chosen = slots.choose(&choice, Some(&units));
            prop_assert_eq!(chosen.as_ref().map(|s| s.unit), model);
            prop_assert!(chosen.is_none_or(|s| fits(&choice, &s)));
        }
    }
}

//! A set of numbers kept as runs: the lowest number that is missing from it is found in logarithmic
//! time, however many are taken.

use std::collections::BTreeMap;

/// A set of numbers; neighbours share one entry.
#[derive(Clone, Debug, Default)]
pub(crate) struct Runs {
    /// First number of a run to its last.
    runs: BTreeMap<u64, u64>,
    len: u64,
}

impl Runs {
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    fn run_of(&self, number: u64) -> Option<(u64, u64)> {
        let (&first, &last) = self.runs.range(..=number).next_back()?;
        (number <= last).then_some((first, last))
    }

    pub(crate) fn contains(&self, number: u64) -> bool {
        self.run_of(number).is_some()
    }

    /// The lowest number from `from` on that is not in the set; `None` beyond the last number there is.
    pub(crate) fn next_missing(&self, from: u64) -> Option<u64> {
        match self.run_of(from) {
            Some((_, last)) => last.checked_add(1),
            None => Some(from),
        }
    }

    /// Adds a number; whether it was missing.
    pub(crate) fn insert(&mut self, number: u64) -> bool {
        if self.contains(number) {
            return false;
        }
        let mut first = number;
        let mut last = number;
        if let Some(before) = number.checked_sub(1)
            && let Some((start, _)) = self.run_of(before)
        {
            first = start;
        }
        if let Some(after) = number.checked_add(1)
            && let Some(end) = self.runs.remove(&after)
        {
            last = end;
        }
        self.runs.insert(first, last);
        self.len += 1;
        true
    }

    /// Takes a number out; whether it was there.
    pub(crate) fn remove(&mut self, number: u64) -> bool {
        let Some((first, last)) = self.run_of(number) else {
            return false;
        };
        self.runs.remove(&first);
        if first < number {
            self.runs.insert(first, number - 1);
        }
        if number < last {
            self.runs.insert(number + 1, last);
        }
        self.len -= 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_set(steps in proptest::collection::vec((any::<bool>(), 0_u64..40), 0..200)) {
            let mut runs = Runs::default();
            let mut model = BTreeSet::new();
            for (add, number) in steps {
                if add {
                    prop_assert_eq!(runs.insert(number), model.insert(number));
                } else {
                    prop_assert_eq!(runs.remove(number), model.remove(&number));
                }
                prop_assert_eq!(runs.len(), model.len() as u64);
                prop_assert_eq!(runs.is_empty(), model.is_empty());
                for from in 0..41 {
                    prop_assert_eq!(runs.contains(from), model.contains(&from));
                    let lowest = (from..).find(|n| !model.contains(n));
                    prop_assert_eq!(runs.next_missing(from), lowest);
                }
                for (first, last) in &runs.runs {
                    prop_assert!(!model.contains(&(last + 1)), "run {first} is split");
                }
            }
        }
    }

    #[test]
    fn the_last_number_ends_it() {
        let mut runs = Runs::default();
        assert!(runs.insert(u64::MAX));
        assert_eq!(runs.next_missing(u64::MAX), None);
        assert!(runs.insert(u64::MAX - 1));
        assert_eq!(runs.next_missing(u64::MAX - 1), None);
        assert!(runs.remove(u64::MAX));
        assert_eq!(runs.next_missing(0), Some(0));
    }
}

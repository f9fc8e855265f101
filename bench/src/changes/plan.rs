//! Which tunnel changes next, and how; and when.

use crate::rng::Rng;
use std::time::Duration;

/// One of so many changing tunnels is not there at the start, so that what is added is not what has
/// just been removed.
pub(crate) const ABSENT: usize = 8;
/// This makes another address of a peer's, out of all that are in use.
pub(crate) const MOVED: u32 = 0x0100_0000;

/// How a tunnel changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Remove,
    /// Its peer has moved: the tunnel stays, and its packets come from elsewhere.
    Replace,
    Add,
}

/// A change of one of the changing tunnels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) kind: Kind,
    /// Its place in the list of the changing tunnels.
    pub(crate) tunnel: usize,
}

/// An endless sequence of removals, replacements and additions in equal parts, of random tunnels.
#[derive(Debug)]
pub(crate) struct Plan {
    present: Vec<usize>,
    absent: Vec<usize>,
    rng: Rng,
    next: Kind,
}

impl Plan {
    /// For so many tunnels, of which the last `absent` are not there.
    pub(crate) fn new(tunnels: usize, absent: usize, seed: u64) -> Self {
        let first = tunnels.saturating_sub(absent);
        let mut rng = Rng::new(seed);
        // absent ones in all places, as they will be after a while
        let mut all: Vec<usize> = (0..tunnels).collect();
        rng.shuffle(&mut all);
        Self {
            absent: all.split_off(first),
            present: all,
            rng,
            next: Kind::Remove,
        }
    }

    /// Those that are not there now.
    pub(crate) fn absent(&self) -> &[usize] {
        &self.absent
    }

    /// How many are there now.
    #[cfg(test)]
    pub(crate) fn present(&self) -> usize {
        self.present.len()
    }

    fn pick(rng: &mut Rng, from: &mut Vec<usize>) -> Option<usize> {
        (!from.is_empty()).then(|| from.swap_remove(rng.below(from.len())))
    }
}

impl Iterator for Plan {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        let kind = self.next;
        let (tunnel, next) = match kind {
            Kind::Remove => (Self::pick(&mut self.rng, &mut self.present)?, Kind::Replace),
            Kind::Replace => (Self::pick(&mut self.rng, &mut self.present)?, Kind::Add),
            Kind::Add => (Self::pick(&mut self.rng, &mut self.absent)?, Kind::Remove),
        };
        match kind {
            Kind::Remove => self.absent.push(tunnel),
            Kind::Replace | Kind::Add => self.present.push(tunnel),
        }
        self.next = next;
        Some(Step { kind, tunnel })
    }
}

/// When message `number` of `batch` changes each is due, at so many changes a second.
pub(crate) fn due(number: u64, batch: usize, per_second: u32) -> Duration {
    let changes = u128::from(number) * batch as u128;
    let nanoseconds = changes * 1_000_000_000 / u128::from(per_second.max(1));
    Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_third_and_meets_tunnels_it_can_have() {
        let mut plan = Plan::new(100, 10, 1);
        let mut there = [true; 100];
        for tunnel in plan.absent() {
            there[*tunnel] = false;
        }
        let mut counts = [0; 3];
        for step in plan.by_ref().take(3000) {
            let was = std::mem::replace(&mut there[step.tunnel], step.kind != Kind::Remove);
            assert_eq!(was, step.kind != Kind::Add, "{step:?}");
            counts[step.kind as usize] += 1;
        }
        assert_eq!(counts, [1000; 3]);
        let left = there.iter().filter(|there| **there).count();
        assert_eq!((left, plan.present(), plan.absent().len()), (90, 90, 10));
    }

    #[test]
    fn a_plan_without_enough_tunnels_ends() {
        assert_eq!(Plan::new(0, 0, 1).next(), None);
        let kinds: Vec<Kind> = Plan::new(1, 0, 1).map(|step| step.kind).collect();
        assert_eq!(kinds, [Kind::Remove], "nothing is left to replace");
    }

    #[test]
    fn messages_come_at_the_rate_whatever_their_size() {
        let second = Duration::from_secs(1);
        assert_eq!(due(500, 20, 10_000), second);
        assert_eq!(due(10_000, 1, 10_000), second);
        assert_eq!(due(0, 512, 10_000), Duration::ZERO);
        assert_eq!(due(1, 512, 10_000), Duration::from_micros(51_200));
    }
}

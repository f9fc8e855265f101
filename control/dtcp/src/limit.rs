//! Limits by address and in all: how many sessions, how many wrong logins, how many log lines.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use hashbrown::HashMap;

/// Most addresses whose wrong logins are remembered. An attacker with more addresses than that has
/// the limit per session left against him.
const ADDRESSES_MAX: usize = 65_536;

/// Why a connection is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// As many sessions as there may be.
    Sessions,
    /// As many without a tunnel.
    Greeted,
    /// As many without a tunnel from that address.
    Address,
}

/// How much may be admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ceilings {
    pub(crate) sessions: usize,
    pub(crate) greeted: usize,
    pub(crate) greeted_per_address: usize,
}

/// Counts the sessions there are. Those without a tunnel are bounded by address, so that whoever
/// opens connections for the sake of it keeps out himself only.
#[derive(Debug, Default)]
pub(crate) struct Admission {
    sessions: usize,
    greeted: usize,
    by_address: HashMap<Ipv4Addr, usize>,
}

impl Admission {
    pub(crate) fn admit(&mut self, address: Ipv4Addr, ceilings: Ceilings) -> Result<(), Full> {
        if self.sessions >= ceilings.sessions {
            return Err(Full::Sessions);
        }
        let here = self.by_address.get(&address).copied().unwrap_or(0);
        if here >= ceilings.greeted_per_address {
            return Err(Full::Address);
        }
        if self.greeted >= ceilings.greeted {
            return Err(Full::Greeted);
        }
        self.sessions += 1;
        self.down(address);
        Ok(())
    }

    /// A session has lost its tunnel, or starts without one.
    pub(crate) fn down(&mut self, address: Ipv4Addr) {
        self.greeted += 1;
        *self.by_address.entry(address).or_default() += 1;
    }

    /// A session has got a tunnel, or ends without one.
    pub(crate) fn up(&mut self, address: Ipv4Addr) {
        self.greeted -= 1;
        if let Some(count) = self.by_address.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.by_address.remove(&address);
            }
        }
    }

    /// A session has ended; one without a tunnel must be [`Self::up`] first.
    pub(crate) fn leave(&mut self) {
        self.sessions -= 1;
    }

    pub(crate) fn sessions(&self) -> usize {
        self.sessions
    }

    pub(crate) fn greeted(&self) -> usize {
        self.greeted
    }
}

/// Wrong logins by address: so many at once, and so many more as time goes by.
#[derive(Debug)]
pub(crate) struct Failures {
    burst: u32,
    /// Time after which one is forgotten.
    each: Duration,
    /// When all wrong logins of the address will be forgotten.
    addresses: HashMap<Ipv4Addr, Instant>,
}

impl Failures {
    pub(crate) fn new(burst: u32, forgotten_per_minute: u32) -> Self {
        Self {
            burst,
            each: Duration::from_secs(60) / forgotten_per_minute.max(1),
            addresses: HashMap::new(),
        }
    }

    /// Other limits from now on; what was counted stays.
    pub(crate) fn set(&mut self, burst: u32, forgotten_per_minute: u32) {
        self.burst = burst;
        self.each = Duration::from_secs(60) / forgotten_per_minute.max(1);
    }

    /// Whether the address has to wait.
    pub(crate) fn limited(&self, address: Ipv4Addr, now: Instant) -> bool {
        let Some(clean) = self.addresses.get(&address) else {
            return false;
        };
        clean.saturating_duration_since(now) > self.each * self.burst.saturating_sub(1)
    }

    pub(crate) fn add(&mut self, address: Ipv4Addr, now: Instant) {
        if self.addresses.len() >= ADDRESSES_MAX && !self.addresses.contains_key(&address) {
            self.addresses.retain(|_, clean| *clean > now);
            if self.addresses.len() >= ADDRESSES_MAX {
                return;
            }
        }
        let clean = self.addresses.entry(address).or_insert(now);
        // No further ahead than the burst: who goes on while limited is not kept out for ever.
        let latest = now + self.each * self.burst;
        *clean = ((*clean).max(now) + self.each).min(latest);
    }
}

/// So many log lines at once, and so many more per second; the rest is counted.
#[derive(Debug)]
pub(crate) struct LogBudget {
    left: u32,
    second: Instant,
}

/// Lines about sessions per second.
const LOG_LINES: u32 = 200;

impl LogBudget {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            left: LOG_LINES,
            second: now,
        }
    }

    pub(crate) fn take(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.second) >= Duration::from_secs(1) {
            *self = Self::new(now);
        }
        let good = self.left > 0;
        self.left = self.left.saturating_sub(1);
        good
    }
}

/// Lines of one session: 20 seconds' worth at once, then at the rate.
#[derive(Debug)]
pub(crate) struct Pace {
    /// When the session would be without debt.
    clear: Instant,
}

const PACE_BURST: u32 = 20;

impl Pace {
    pub(crate) fn new(now: Instant) -> Self {
        Self { clear: now }
    }

    /// Counts a line; the time until which the next has to wait, if it has to.
    pub(crate) fn line(&mut self, now: Instant, per_second: u32) -> Option<Instant> {
        let each = Duration::from_secs(1) / per_second.max(1);
        self.clear = self.clear.max(now) + each;
        let burst = each * per_second.saturating_mul(PACE_BURST);
        let wait = self.clear.checked_sub(burst)?;
        (wait > now).then_some(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
    const B: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

    #[test]
    fn one_address_cannot_take_the_place_of_others() {
        let ceilings = Ceilings {
            sessions: 10,
            greeted: 6,
            greeted_per_address: 3,
        };
        let mut admission = Admission::default();
        for _ in 0..3 {
            admission.admit(A, ceilings).unwrap();
        }
        assert_eq!(admission.admit(A, ceilings), Err(Full::Address));
        admission.admit(B, ceilings).unwrap();
        // With a tunnel it does not count against its address any more.
        admission.up(A);
        admission.admit(A, ceilings).unwrap();
        assert_eq!((admission.sessions(), admission.greeted()), (5, 4));
        for index in 0..2 {
            admission
                .admit(Ipv4Addr::new(10, 0, 0, index), ceilings)
                .unwrap();
        }
        assert_eq!(admission.admit(B, ceilings), Err(Full::Greeted));
        admission.leave();
        assert_eq!(admission.sessions(), 6);
    }

    #[test]
    fn wrong_logins_are_forgotten_with_time() {
        let start = Instant::now();
        let mut failures = Failures::new(3, 60);
        for _ in 0..3 {
            assert!(!failures.limited(A, start));
            failures.add(A, start);
        }
        assert!(failures.limited(A, start));
        assert!(!failures.limited(B, start));
        for _ in 0..100 {
            failures.add(A, start);
        }
        assert!(!failures.limited(A, start + Duration::from_secs(1)));
    }

    #[test]
    fn table_of_addresses_is_bounded() {
        let start = Instant::now();
        let mut failures = Failures::new(3, 60);
        for index in 0..70_000_u32 {
            failures.add(Ipv4Addr::from(index), start);
        }
        assert_eq!(failures.addresses.len(), ADDRESSES_MAX);
        failures.add(Ipv4Addr::from(99_999), start + Duration::from_secs(2));
        assert_eq!(failures.addresses.len(), 1);
    }

    #[test]
    fn lines_have_a_burst_and_then_a_rate() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        let free = (0..).take_while(|_| pace.line(start, 50).is_none()).count();
        assert_eq!(free, 1000);
        let wait = pace.line(start, 50).unwrap();
        assert!(wait > start && wait <= start + Duration::from_millis(50));
        assert!(pace.line(start + Duration::from_secs(1), 50).is_none());
    }
}

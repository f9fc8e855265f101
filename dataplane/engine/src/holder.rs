//! Packets that wait until their next hop is resolved.
//!
//! At most three per neighbour, for at most a second, and a bounded number in all: a scan of a
//! connected prefix must not turn into memory. When a neighbour's queue is full the oldest packet
//! goes (RFC 4861 section 7.2.2: "the new arrival SHOULD replace the oldest entry"). Pure: the
//! punt thread passes the time in, asks the kernel to resolve and injects what is released.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use sixferry_fwd::{NextHopId, PortId, PuntInfo, Ticks};

/// Bounds of the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HoldLimits {
    /// Packets per neighbour.
    pub per_neighbour: usize,
    /// Packets in all.
    pub total: usize,
    /// Longest wait, in ticks.
    pub max_age: Ticks,
}

impl Default for HoldLimits {
    /// Three per neighbour, 1,024 in all, one second.
    fn default() -> Self {
        Self {
            per_neighbour: 3,
            total: 1024,
            max_age: Ticks(Ticks::PER_SECOND),
        }
    }
}

/// Whom a packet waits for: an address on the link of a next hop, or its gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Neighbour {
    next_hop: Option<NextHopId>,
    address: Option<IpAddr>,
}

/// A packet that waits, or waited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The packet as it was received.
    pub bytes: Vec<u8>,
    /// Where it came in: it is injected as if received there again.
    pub rx_port: PortId,
    /// The worker that punted it.
    pub worker: usize,
    /// When it began to wait.
    pub since: Ticks,
}

/// What became of a packet offered to the queue, and what its owner has to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Hold {
    /// It waits, as the neighbour's first: ask the kernel to resolve.
    First,
    /// It waits behind others: the kernel has been asked.
    Behind,
    /// It waits in the place of an older one, which is to be counted as `NEXTHOP_UNRESOLVED`.
    Replaced(Held),
    /// There is no room, or no neighbour is named: it is to be counted as `NEXTHOP_UNRESOLVED`.
    Refused(Held),
}

/// The queue of packets that wait for a next hop.
#[derive(Debug)]
pub struct HoldQueue {
    limits: HoldLimits,
    waiting: BTreeMap<Neighbour, VecDeque<Held>>,
    len: usize,
}

impl HoldQueue {
    /// An empty queue.
    pub fn new(limits: HoldLimits) -> Self {
        Self {
            limits,
            waiting: BTreeMap::new(),
            len: 0,
        }
    }

    /// Lets a packet wait for the neighbour that `info` names: the address to resolve on a
    /// connected prefix, else the gateway of the next hop.
    pub fn hold(&mut self, info: &PuntInfo, packet: Held) -> Hold {
        let neighbour = Neighbour {
            next_hop: info.next_hop,
            address: info.resolve,
        };
        let nobody = neighbour.next_hop.is_none() && neighbour.address.is_none();
        if nobody || self.limits.per_neighbour == 0 {
            return Hold::Refused(packet);
        }
        if let Some(queue) = self.waiting.get_mut(&neighbour) {
            if queue.len() >= self.limits.per_neighbour {
                queue.push_back(packet);
                return match queue.pop_front() {
                    Some(oldest) => Hold::Replaced(oldest),
                    None => Hold::Behind,
                };
            }
            if self.len >= self.limits.total {
                return Hold::Refused(packet);
            }
            queue.push_back(packet);
            self.len += 1;
            return Hold::Behind;
        }
        if self.len >= self.limits.total {
            return Hold::Refused(packet);
        }
        self.waiting.insert(neighbour, VecDeque::from([packet]));
        self.len += 1;
        Hold::First
    }

    /// The address of a connected prefix has resolved: its packets, oldest first, to be injected. A
    /// packet released too early (the same address on another port) is simply punted again.
    pub fn release(&mut self, address: IpAddr) -> Vec<Held> {
        self.take(|neighbour| neighbour.address == Some(address))
    }

    /// The gateway of next hop `id` has resolved, or the next hop is gone: its packets, oldest
    /// first, to be injected.
    pub fn release_next_hop(&mut self, id: NextHopId) -> Vec<Held> {
        self.take(|neighbour| neighbour.next_hop == Some(id))
    }

    /// Everything, at the end; to be counted.
    pub fn clear(&mut self) -> Vec<Held> {
        self.take(|_| true)
    }

    fn take(&mut self, wanted: impl Fn(&Neighbour) -> bool) -> Vec<Held> {
        let mut taken = Vec::new();
        self.waiting.retain(|neighbour, queue| {
            if wanted(neighbour) {
                taken.extend(queue.drain(..));
            }
            !queue.is_empty()
        });
        self.len -= taken.len();
        taken.sort_by_key(|held| held.since);
        taken
    }

    /// The packets that have waited too long, to be counted as `NEXTHOP_UNRESOLVED`.
    pub fn expire(&mut self, now: Ticks) -> Vec<Held> {
        let max_age = self.limits.max_age.0;
        let mut expired = Vec::new();
        self.waiting.retain(|_, queue| {
            while queue
                .front()
                .is_some_and(|held| now.0.saturating_sub(held.since.0) >= max_age)
            {
                expired.extend(queue.pop_front());
            }
            !queue.is_empty()
        });
        self.len -= expired.len();
        expired
    }

    /// When [`HoldQueue::expire`] has something to do next.
    pub fn next_expiry(&self) -> Option<Ticks> {
        let oldest = self
            .waiting
            .values()
            .filter_map(|queue| queue.front())
            .map(|held| held.since);
        oldest
            .min()
            .map(|since| Ticks(since.0.saturating_add(self.limits.max_age.0)))
    }

    /// The addresses of connected prefixes waited for: to be asked for again should the kernel have
    /// given up.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.waiting
            .keys()
            .filter_map(|neighbour| neighbour.address)
    }

    /// Packets that wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: u64 = 1_000_000;

    fn address(n: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, n])
    }

    fn info(n: u8) -> PuntInfo {
        PuntInfo {
            next_hop: Some(NextHopId(1)),
            resolve: Some(address(n)),
            ..PuntInfo::default()
        }
    }

    fn packet(byte: u8, ms: u64) -> Held {
        Held {
            bytes: vec![byte; 40],
            rx_port: PortId(0),
            worker: 0,
            since: Ticks(ms * MS),
        }
    }

    #[test]
    fn fourth_packet_replaces_the_first() {
        let mut queue = HoldQueue::new(HoldLimits::default());
        assert_eq!(queue.hold(&info(1), packet(1, 0)), Hold::First);
        assert_eq!(queue.hold(&info(1), packet(2, 1)), Hold::Behind);
        assert_eq!(queue.hold(&info(1), packet(3, 2)), Hold::Behind);
        assert_eq!(
            queue.hold(&info(1), packet(4, 3)),
            Hold::Replaced(packet(1, 0))
        );
        assert_eq!(
            queue.hold(&info(2), packet(5, 4)),
            Hold::First,
            "another neighbour"
        );
        assert_eq!(queue.len(), 4);

        let released: Vec<u8> = queue
            .release(address(1))
            .iter()
            .map(|h| h.bytes[0])
            .collect();
        assert_eq!(released, [2, 3, 4]);
        assert_eq!(queue.len(), 1);
        assert!(queue.release(address(1)).is_empty());
        assert_eq!(
            queue.hold(&info(1), packet(6, 5)),
            Hold::First,
            "the kernel is asked anew"
        );
    }

    #[test]
    fn a_packet_waits_a_second_and_no_more() {
        let mut queue = HoldQueue::new(HoldLimits::default());
        queue.hold(&info(1), packet(1, 100));
        queue.hold(&info(1), packet(2, 600));
        queue.hold(&info(2), packet(3, 300));
        assert_eq!(queue.next_expiry(), Some(Ticks(1100 * MS)));
        assert!(queue.expire(Ticks(1100 * MS - 1)).is_empty());
        assert_eq!(queue.expire(Ticks(1100 * MS)), [packet(1, 100)]);
        assert_eq!(queue.expire(Ticks(5000 * MS)).len(), 2);
        assert_eq!((queue.len(), queue.next_expiry()), (0, None));
    }

    #[test]
    fn all_neighbours_together_are_bounded() {
        let mut queue = HoldQueue::new(HoldLimits {
            total: 10,
            ..HoldLimits::default()
        });
        let refused = (0..100)
            .filter(|n| matches!(queue.hold(&info(*n), packet(*n, 0)), Hold::Refused(_)))
            .count();
        assert_eq!((refused, queue.len()), (90, 10));
        assert_eq!(queue.addresses().count(), 10);
    }

    #[test]
    fn a_packet_that_names_nobody_is_refused() {
        let mut queue = HoldQueue::new(HoldLimits::default());
        let refused = queue.hold(&PuntInfo::default(), packet(1, 0));
        assert_eq!(refused, Hold::Refused(packet(1, 0)));
    }

    #[test]
    fn a_next_hop_releases_all_its_neighbours() {
        let mut queue = HoldQueue::new(HoldLimits::default());
        queue.hold(&info(2), packet(2, 5));
        queue.hold(&info(1), packet(1, 4));
        let other = PuntInfo {
            next_hop: Some(NextHopId(2)),
            ..PuntInfo::default()
        };
        queue.hold(&other, packet(3, 3));
        let released = queue.release_next_hop(NextHopId(1));
        assert_eq!(released, [packet(1, 4), packet(2, 5)]);
        assert_eq!(queue.release_next_hop(NextHopId(2)), [packet(3, 3)]);
        assert!(queue.is_empty());
    }

    proptest! {
        #[test]
        fn every_packet_comes_out_exactly_once(
            steps in prop::collection::vec((0_u8..4, 0_u8..6, 0_u64..400), 1..200),
        ) {
            let mut queue = HoldQueue::new(HoldLimits { total: 12, ..HoldLimits::default() });
            let (mut now, mut offered, mut out) = (0, 0_usize, 0_usize);
            for (step, who, passed) in steps {
                now += passed;
                match step {
                    0 | 1 => {
                        offered += 1;
                        if let Hold::Replaced(_) | Hold::Refused(_) =
                            queue.hold(&info(who), packet(who, now))
                        {
                            out += 1;
                        }
                    }
                    2 => out += queue.release(address(who)).len(),
                    _ => {
                        out += queue.expire(Ticks(now * MS)).len();
                        prop_assert!(queue.next_expiry().is_none_or(|at| at.0 > now * MS));
                    }
                }
                prop_assert!(queue.len() <= 12);
                prop_assert_eq!(offered, out + queue.len());
            }
            out += queue.clear().len();
            prop_assert_eq!(offered, out);
        }
    }
}

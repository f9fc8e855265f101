//! UDP ports of the relay: one per tunnel.
//!
//! The user's NAT may hold a mapping to a port long after its tunnel is gone: a port that was never
//! used is better than one that was, and of those the one that was freed longest ago.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use hashbrown::HashMap;

use crate::runs::Runs;

/// Ports of all local addresses.
#[derive(Debug, Default)]
pub(crate) struct Ports {
    addresses: HashMap<Ipv4Addr, Address>,
}

/// At most 65,536 entries each way.
#[derive(Debug, Default)]
struct Address {
    /// Taken now or before.
    ever: Runs,
    taken: Runs,
    /// Free again, by when.
    freed: BTreeMap<u64, u16>,
    /// The other way round.
    freed_at: HashMap<u16, u64>,
    clock: u64,
}

impl Ports {
    pub(crate) fn choose(&self, local: Ipv4Addr, range: &RangeInclusive<u16>) -> Option<u16> {
        let (first, last) = (*range.start(), *range.end());
        if first > last {
            return None;
        }
        let Some(address) = self.addresses.get(&local) else {
            return Some(first.max(1)).filter(|port| range.contains(port));
        };
        let fresh = address.ever.next_missing(u64::from(first.max(1)));
        if let Some(fresh) = fresh.and_then(|port| u16::try_from(port).ok())
            && fresh <= last
        {
            return Some(fresh);
        }
        let mut oldest_first = address.freed.values();
        oldest_first.find(|port| range.contains(port)).copied()
    }

    /// Whether it was free.
    pub(crate) fn take(&mut self, local: Ipv4Addr, port: u16) -> bool {
        let address = self.addresses.entry(local).or_default();
        if !address.taken.insert(port.into()) {
            return false;
        }
        address.ever.insert(port.into());
        if let Some(at) = address.freed_at.remove(&port) {
            address.freed.remove(&at);
        }
        true
    }

    /// Whether it was taken.
    pub(crate) fn free(&mut self, local: Ipv4Addr, port: u16) -> bool {
        let Some(address) = self.addresses.get_mut(&local) else {
            return false;
        };
        if !address.taken.remove(port.into()) {
            return false;
        }
        address.clock += 1;
        address.freed.insert(address.clock, port);
        address.freed_at.insert(port, address.clock);
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

    #[test]
    fn upward_from_the_base_and_each_address_for_itself() {
        let mut ports = Ports::default();
        for port in 4028..4031 {
            assert_eq!(ports.choose(HERE, &(4028..=65535)), Some(port));
            assert!(ports.take(HERE, port));
            assert!(!ports.take(HERE, port));
        }
        let other = Ipv4Addr::new(192, 0, 2, 2);
        assert_eq!(ports.choose(other, &(4028..=65535)), Some(4028));
    }

    #[test]
    fn a_freed_port_is_reused_last() {
        let mut ports = Ports::default();
        let range = 4028..=4030;
        ports.take(HERE, 4028);
        ports.take(HERE, 4029);
        assert!(ports.free(HERE, 4029) && ports.free(HERE, 4028));
        assert!(!ports.free(HERE, 4028));
        for port in [4030, 4029, 4028] {
            assert_eq!(ports.choose(HERE, &range), Some(port));
            ports.take(HERE, port);
        }
        assert_eq!(ports.choose(HERE, &range), None);
    }

    #[test]
    fn port_0_and_inverted_ranges_give_nothing() {
        let ports = Ports::default();
        assert_eq!(ports.choose(HERE, &(0..=0)), None);
        assert_eq!(ports.choose(HERE, &(0..=9)), Some(1));
        #[expect(clippy::reversed_empty_ranges, reason = "that is what is tested")]
        let inverted = 9..=1;
        assert_eq!(ports.choose(HERE, &inverted), None);
    }

    proptest! {
        #[test]
        fn never_used_first_then_longest_free(
            steps in proptest::collection::vec((any::<bool>(), 0_usize..12), 0..120),
        ) {
            let range = 100_u16..=107;
            let mut ports = Ports::default();
            let mut taken: Vec<u16> = Vec::new();
            let mut queue: Vec<u16> = range.clone().collect();
            for (take, which) in steps {
                if take {
                    let port = ports.choose(HERE, &range);
                    prop_assert_eq!(port, queue.first().copied());
                    if let Some(port) = port {
                        prop_assert!(ports.take(HERE, port));
                        queue.remove(0);
                        taken.push(port);
                    }
                } else if !taken.is_empty() {
                    let port = taken.remove(which % taken.len());
                    prop_assert!(ports.free(HERE, port));
                    queue.push(port);
                }
            }
        }
    }
}

//! Whom held packets wait for.
//!
//! A neighbour that resolves is first known to the tables that changes are made in, and to the workers
//! only once these are published. A packet sent back in between would be punted again, over and over,
//! until the slow path's rate is used up.

use std::net::IpAddr;

use sixferry_fwd::PuntInfo;

/// Next hops and addresses, each in one of two states.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// Not resolved yet.
    asked: Vec<PuntInfo>,
    /// Resolved by this change, which the workers may not see yet.
    settling: Vec<(u64, PuntInfo)>,
}

impl Waiting {
    pub(super) fn is_empty(&self) -> bool {
        self.asked.is_empty() && self.settling.is_empty()
    }

    /// Whether all that is missing is that the workers see a change.
    pub(super) fn settles(&self) -> bool {
        !self.settling.is_empty()
    }

    pub(super) fn add(&mut self, info: PuntInfo) {
        let settling = self.settling.iter().any(|(_, other)| *other == info);
        if !settling && !self.asked.contains(&info) {
            self.asked.push(info);
        }
    }

    pub(super) fn asked(&self) -> &[PuntInfo] {
        &self.asked
    }

    /// These are resolved, by change number `change` at the latest.
    pub(super) fn settle(&mut self, settled: Vec<PuntInfo>, change: u64) {
        self.asked.retain(|info| !settled.contains(info));
        self.settling
            .extend(settled.into_iter().map(|info| (change, info)));
    }

    /// The workers see change number `change`: takes out what they can send to.
    pub(super) fn seen(&mut self, change: u64) -> Vec<PuntInfo> {
        let seen = self.settling.extract_if(.., |(by, _)| *by <= change);
        seen.map(|(_, info)| info).collect()
    }

    /// Forgets the addresses that no packet waits for any more.
    pub(super) fn keep(&mut self, alive: &[IpAddr]) {
        let wanted = |info: &PuntInfo| info.resolve.is_none_or(|address| alive.contains(&address));
        self.asked.retain(|info| wanted(info));
        self.settling.retain(|(_, info)| wanted(info));
    }

    pub(super) fn clear(&mut self) {
        self.asked.clear();
        self.settling.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(last: u8) -> PuntInfo {
        PuntInfo {
            resolve: Some(IpAddr::from([192, 0, 2, last])),
            ..PuntInfo::default()
        }
    }

    #[test]
    fn what_is_resolved_waits_until_the_workers_see_it() {
        let mut waiting = Waiting::default();
        for last in [1, 2, 1] {
            waiting.add(to(last));
        }
        assert_eq!(waiting.asked(), [to(1), to(2)]);
        waiting.settle(vec![to(1)], 7);
        waiting.add(to(1));
        assert_eq!(waiting.asked(), [to(2)], "asked once");
        assert_eq!(waiting.seen(6), []);
        assert!(waiting.settles());
        assert_eq!(waiting.seen(7), [to(1)]);
        assert_eq!(waiting.seen(7), [], "taken out");
        assert!(!waiting.settles() && !waiting.is_empty());
        waiting.add(to(1));
        assert_eq!(waiting.asked(), [to(2), to(1)], "unresolved once more");
    }

    #[test]
    fn what_nobody_waits_for_is_forgotten_in_both_states() {
        let mut waiting = Waiting::default();
        for last in 1..=4 {
            waiting.add(to(last));
        }
        waiting.settle(vec![to(3), to(4)], 1);
        waiting.keep(&[IpAddr::from([192, 0, 2, 2]), IpAddr::from([192, 0, 2, 4])]);
        assert_eq!(waiting.asked(), [to(2)]);
        assert_eq!(waiting.seen(1), [to(4)]);
        waiting.clear();
        assert!(waiting.is_empty());
    }
}

//! The log of changes that watchers resume from.
//!
//! An entry only names a slot: a watcher reads the tunnel as it is now, so many changes to one
//! tunnel cost a slow watcher one message. There is no queue per watcher; one that falls out of
//! the log starts over, and never slows the dataplane down.

use std::collections::VecDeque;
use std::sync::Arc;

use sixferry_fwd::TunnelId;

/// Changes kept.
pub(crate) const LOG_LEN: usize = 65_536;

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Created or changed. Void if the slot's record is newer: then a later entry tells it.
    Upserted(TunnelId),
    Removed {
        id: Box<str>,
        owner: Arc<str>,
    },
}

/// The last changes; each has the revision after the one before.
#[derive(Debug)]
pub(crate) struct WatchLog {
    entries: VecDeque<Change>,
    /// Revision of the newest entry.
    revision: u64,
    limit: usize,
}

impl WatchLog {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            entries: VecDeque::new(),
            revision: 0,
            limit,
        }
    }

    /// Revision of the table.
    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// Appends a change and gives its revision.
    pub(crate) fn push(&mut self, change: Change) -> u64 {
        if self.entries.len() == self.limit {
            self.entries.pop_front();
        }
        self.entries.push_back(change);
        self.revision += 1;
        self.revision
    }

    /// The changes after `revision`, with theirs; `None` when the log does not reach back so far
    /// or has not got there yet.
    pub(crate) fn since(&self, revision: u64) -> Option<impl Iterator<Item = (u64, &Change)> + '_> {
        let missed = self.revision.checked_sub(revision)?;
        let missed = usize::try_from(missed).ok()?;
        let skip = self.entries.len().checked_sub(missed)?;
        let first = revision + 1;
        Some(
            self.entries
                .iter()
                .skip(skip)
                .enumerate()
                .map(move |(i, c)| (first + i as u64, c)),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resumes_inside_the_log_only() {
        let mut log = WatchLog::new(3);
        for slot in 1..=5 {
            assert_eq!(log.push(Change::Upserted(TunnelId(slot))), u64::from(slot));
        }
        let tail: Vec<_> = log.since(3).expect("kept").map(|(r, _)| r).collect();
        assert_eq!(tail, [4, 5]);
        assert_eq!(log.since(2).expect("kept").count(), 3);
        assert!(log.since(1).is_none(), "compacted");
        assert!(log.since(6).is_none(), "the future");
        assert_eq!(log.since(5).expect("kept").count(), 0);
    }
}

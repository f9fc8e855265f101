//! Where packets were lost: every stage between generator and sink, and what explains a difference.

use super::Error;
use super::daemon::{Counted, Daemon};
use super::lab::{Lab, Place};
use crate::pktgen::stream::{Tester, settle};
use serde::Serialize;
use std::fmt;
use std::time::Duration;

/// Longer than counters of a worker may be old.
const REFRESH: Duration = Duration::from_millis(1100);
/// All counters at a moment when nothing is on its way.
#[derive(Clone, Copy, Debug, Default)]
pub struct Snapshot {
    generated: u64,
    counted: Counted,
    link_dropped: u64,
    arrived: u64,
}

/// What became of the packets between two snapshots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Account {
    /// Left the generator.
    pub generated: u64,
    /// Arrived at the sink.
    pub arrived: u64,
    /// Lost before the daemon's XDP program: by the wire.
    pub before: i64,
    /// Lost between that and the worker: it did not come in time.
    pub at_ring: i64,
    /// Taken by the worker and not sent: dropped for a named reason, or punted.
    pub in_worker: i64,
    /// Given to the kernel and not arrived.
    pub after: i64,
    /// Lost packets that no counter of daemon or kernel explains.
    pub unexplained: i64,
}

impl Snapshot {
    /// Before generator, daemon and sink have done anything.
    ///
    /// # Errors
    /// When the links are not there.
    pub fn fresh(lab: &Lab) -> Result<Self, Error> {
        Ok(Self {
            link_dropped: link_dropped(lab)?,
            ..Self::default()
        })
    }
}

fn link_dropped(lab: &Lab) -> Result<u64, Error> {
    let out = lab.link_counters(Place::Device, "dut1")?.tx.dropped;
    Ok(out + lab.link_counters(Place::Sink, "sink0")?.rx.dropped)
}

impl Account {
    /// Lost anywhere.
    #[must_use]
    pub fn lost(&self) -> i64 {
        difference(self.generated, self.arrived)
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "wire {}, ring {}, worker {}, after {}, unexplained {}",
            self.before, self.at_ring, self.in_worker, self.after, self.unexplained
        )
    }
}

/// Reads everything, after waiting until no packet is on its way. The generator must be paused.
///
/// # Errors
/// When somebody does not answer.
pub fn take(lab: &Lab, daemon: &Daemon, tester: &mut Tester) -> Result<Snapshot, Error> {
    settle(&mut tester.sink)?;
    // a worker looks at its sockets' statistics once in this time
    std::thread::sleep(REFRESH);
    let (counted, _) = daemon.counted()?;
    Ok(Snapshot {
        generated: tester.generator.read()?.packets,
        counted,
        link_dropped: link_dropped(lab)?,
        arrived: tester.sink.read()?.packets,
    })
}

/// What became of the packets between two snapshots.
#[must_use]
pub fn between(from: &Snapshot, to: &Snapshot) -> Account {
    let span = |pick: fn(&Snapshot) -> u64| pick(to).saturating_sub(pick(from));
    let generated = span(|s| s.generated);
    let steered = span(|s| s.counted.steered);
    let received = span(|s| s.counted.received);
    let forwarded = span(|s| s.counted.forwarded);
    let arrived = span(|s| s.arrived);
    let mut account = Account {
        generated,
        arrived,
        before: difference(generated, steered),
        at_ring: difference(steered, received),
        in_worker: difference(received, forwarded),
        after: difference(forwarded, arrived),
        unexplained: 0,
    };
    let explained = span(|s| s.counted.ring_full)
        + span(|s| s.counted.refused)
        + span(|s| s.counted.dropped)
        + span(|s| s.link_dropped);
    account.unexplained =
        account.at_ring + account.in_worker + account.after - explained.cast_signed();
    account
}

fn difference(from: u64, to: u64) -> i64 {
    from.cast_signed() - to.cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(generated: u64, arrived: u64, ring_full: u64) -> Snapshot {
        let taken = generated - ring_full;
        Snapshot {
            generated,
            counted: Counted {
                steered: generated,
                ring_full,
                received: taken,
                forwarded: taken,
                dropped: 0,
                refused: 0,
            },
            link_dropped: 0,
            arrived,
        }
    }

    #[test]
    fn a_loss_at_the_ring_is_explained_and_one_on_the_wire_is_not() {
        let start = snapshot(1000, 1000, 0);
        let full = between(&start, &snapshot(3000, 2990, 10));
        assert_eq!((full.lost(), full.at_ring, full.unexplained), (10, 10, 0));
        let wire = between(&start, &snapshot(3000, 2990, 0));
        assert_eq!((wire.lost(), wire.after, wire.unexplained), (10, 10, 10));
    }
}

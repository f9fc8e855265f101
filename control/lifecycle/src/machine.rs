//! The life of a tunnel: which event takes it from which state to which. No I/O.
//!
//! ```text
//!            Acquired         Confirmed
//!   (none) ----------> Pending -----> Active <------ Acquired ------- Orphaned
//!                        |  \           |  \-------- Restarted -------->  |
//!                        |   \--------- | ---------- Restarted -------->  |
//!                        |              |                                 |
//!                        +-- Released --+----------- Released ------------+
//!                                       v
//!                                   Releasing -- Removed --> Tombstone
//! ```
//! `Pending` is orphaned too: `Active` is written late, so after a crash it says nothing about whether
//! the user has his answer.

use crate::{Cause, TunnelState};

/// What happens to a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A user gets it: a new one, an orphan, or one that somebody else of the account held.
    Acquired {
        /// There was a holder.
        replaced: bool,
    },
    /// The connected dataplanes forward it.
    Confirmed,
    /// The process started; its plugin's sessions are gone.
    Restarted,
    /// It is taken away or given back.
    Released(Cause),
    /// The connected dataplanes have removed it.
    Removed,
}

/// Where an event leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) to: TunnelState,
    pub(crate) cause: Cause,
    /// There is a new holder: the number goes up.
    pub(crate) new_lease: bool,
}

/// The event makes no sense in this state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Illegal;

/// `from` `None`: it does not exist.
pub(crate) fn step(from: Option<TunnelState>, event: Event) -> Result<Step, Illegal> {
    use TunnelState::{Active, Orphaned, Pending, Releasing, Tombstone};
    let (to, cause, new_lease) = match (from, event) {
        (None, Event::Acquired { replaced: false }) => (Pending, Cause::Login, true),
        (Some(Orphaned), Event::Acquired { replaced: false }) => (Active, Cause::Login, true),
        (Some(Pending | Active), Event::Acquired { replaced: true }) => {
            (Active, Cause::Replaced, true)
        }
        (Some(Pending), Event::Confirmed) => (Active, Cause::Confirmed, false),
        (Some(Pending | Active), Event::Restarted) => (Orphaned, Cause::Restart, false),
        (Some(Pending | Active | Orphaned), Event::Released(cause)) => (Releasing, cause, false),
        (Some(Releasing), Event::Removed) => (Tombstone, Cause::Confirmed, false),
        _ => return Err(Illegal),
    };
    Ok(Step {
        to,
        cause,
        new_lease,
    })
}

/// Whether the dataplane is to have it.
pub(crate) fn forwards(state: TunnelState) -> bool {
    matches!(
        state,
        TunnelState::Pending | TunnelState::Active | TunnelState::Orphaned
    )
}

#[cfg(test)]
mod tests {
    use TunnelState::{Active, Orphaned, Pending, Releasing, Tombstone};

    use super::*;

    const STATES: [Option<TunnelState>; 6] = [
        None,
        Some(Pending),
        Some(Active),
        Some(Orphaned),
        Some(Releasing),
        Some(Tombstone),
    ];

    /// Rows: events; columns: the states above. `x`: illegal.
    const TABLE: [(Event, &str); 6] = [
        (Event::Acquired { replaced: false }, "PxxAxx"),
        (Event::Acquired { replaced: true }, "xAAxxx"),
        (Event::Confirmed, "xAxxxx"),
        (Event::Restarted, "xOOxxx"),
        (Event::Released(Cause::Quit), "xRRRxx"),
        (Event::Removed, "xxxxTx"),
    ];

    #[test]
    fn every_event_in_every_state() {
        for (event, row) in TABLE {
            for (from, expected) in STATES.into_iter().zip(row.chars()) {
                let found = match step(from, event) {
                    Err(Illegal) => 'x',
                    Ok(Step { to, .. }) => match to {
                        Pending => 'P',
                        Active => 'A',
                        Orphaned => 'O',
                        Releasing => 'R',
                        Tombstone => 'T',
                    },
                };
                assert_eq!(found, expected, "{from:?} {event:?}");
            }
        }
    }

    #[test]
    fn only_a_new_holder_gets_a_new_number_and_a_release_keeps_its_cause() {
        for (event, _) in TABLE {
            for from in STATES {
                let Ok(step) = step(from, event) else {
                    continue;
                };
                let acquired = matches!(event, Event::Acquired { .. });
                assert_eq!(step.new_lease, acquired, "{from:?} {event:?}");
            }
        }
        let step = step(Some(Active), Event::Released(Cause::IdleTimeout)).unwrap();
        assert_eq!(step.cause, Cause::IdleTimeout);
    }

    #[test]
    fn what_is_not_released_forwards() {
        let forwarding: Vec<_> = STATES
            .into_iter()
            .flatten()
            .filter(|s| forwards(*s))
            .collect();
        assert_eq!(forwarding, [Pending, Active, Orphaned]);
    }
}

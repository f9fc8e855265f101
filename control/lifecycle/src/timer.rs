//! What happens because time passes: a little at every tick, so that nothing waits for it long.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::shared::Shared;
use crate::state::edit::Logged;
use crate::store::{Store, Write};
use crate::{Cause, RevokeCause};

const TICK: Duration = Duration::from_millis(250);
/// Ended per tick, of each kind: 10,000 per second.
const PER_TICK: usize = 2500;
/// The positions of the dataplanes inform; nothing depends on them.
const STORE_POSITIONS: Duration = Duration::from_secs(5);
const PRUNE: Duration = Duration::from_secs(60);

/// Ends graces and quarantines, and keeps the dataplanes' positions.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut positions = Instant::now();
    loop {
        ticks.tick().await;
        let over = {
            let mut state = shared.state.lock();
            let now = state.clock.now();
            if state.end_quarantines(now, PER_TICK) > 0 {
                shared.work.notify_one();
            }
            state.forget_foreign(now, PER_TICK);
            let over = state.grace_over(now, PER_TICK);
            let number = |id| state.tunnel(id).map(|entry| (id, entry.tunnel.lease));
            over.into_iter().filter_map(number).collect::<Vec<_>>()
        };
        for (id, number) in over {
            let told = Some(RevokeCause::Administrative);
            shared.release(id, Some(number), Cause::GraceEnded, told);
        }
        if positions.elapsed() >= STORE_POSITIONS {
            positions = Instant::now();
            store_positions(&shared);
        }
    }
}

fn store_positions(shared: &Shared) {
    let mut state = shared.state.lock();
    let at = state.clock.now();
    let mut writes = Vec::new();
    for relay in &mut state.relays {
        let seq = relay.stats.applied_seq;
        if relay.stored_seq != seq {
            relay.stored_seq = seq;
            let relay = relay.stats.name.clone();
            writes.push(Write::RelayAt { relay, seq, at });
        }
    }
    if !writes.is_empty() {
        state.burials.extend(writes.into_iter().map(|write| Logged {
            write,
            with: Vec::new(),
            transition: None,
        }));
        shared.work.notify_one();
    }
}

/// Keeps the past within its limits.
pub(crate) async fn prune(shared: Arc<Shared>, store: Store) {
    loop {
        let now = shared.now();
        let wait = match store.prune(&shared.config.retention, now).await {
            Ok(pruned) if pruned.more => Duration::from_millis(200),
            Ok(_) => PRUNE,
            Err(error) => {
                tracing::debug!(%error, "the past was not pruned");
                PRUNE
            }
        };
        sleep(wait).await;
    }
}

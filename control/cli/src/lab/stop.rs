//! Ctrl-C and SIGTERM as a flag: whoever waits looks at it, so the clean-up always runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};

use super::error::Error;

/// How often a waiting loop looks again.
const STEP: Duration = Duration::from_millis(20);

/// Whether somebody wants us to stop.
#[derive(Clone, Debug, Default)]
pub(super) struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Catches SIGINT, SIGTERM and SIGHUP from now on.
    pub(super) fn install() -> Result<Self, Error> {
        let stop = Self::default();
        let flag = stop.clone();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Error::io("cannot start the signal thread"))?;
        let (ready, installed) = std::sync::mpsc::channel();
        // A runtime and a thread of its own: set-up steps block, signals must not wait for them.
        thread::spawn(move || runtime.block_on(flag.watch(&ready)));
        installed
            .recv()
            .unwrap_or_else(|_| Err(std::io::Error::other("the signal thread died")))
            .map_err(Error::io("cannot catch signals"))?;
        Ok(stop)
    }

    async fn watch(self, ready: &std::sync::mpsc::Sender<std::io::Result<()>>) {
        let install = || {
            Ok((
                signal(SignalKind::interrupt())?,
                signal(SignalKind::terminate())?,
                signal(SignalKind::hangup())?,
            ))
        };
        let (mut interrupt, mut terminate, mut hangup) = match install() {
            Ok(signals) => signals,
            Err(error) => {
                let _ = ready.send(Err(error));
                return;
            }
        };
        let _ = ready.send(Ok(()));
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
            self.0.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        if self.requested() {
            Err(Error::Interrupted)
        } else {
            Ok(())
        }
    }

    /// Looks again and again until `look` finds something, somebody wants us to stop, or the
    /// time is over (then `None`).
    pub(super) fn wait_for<T>(
        &self,
        limit: Duration,
        mut look: impl FnMut() -> Result<Option<T>, Error>,
    ) -> Result<Option<T>, Error> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(found) = look()? {
                return Ok(Some(found));
            }
            self.check()?;
            if Instant::now() >= deadline {
                return Ok(None);
            }
            thread::sleep(STEP);
        }
    }
}

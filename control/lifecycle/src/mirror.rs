//! The mirror behind its lock, and the end of the service.
//!
//! Whoever panics with the mirror in hand may leave it half changed, and then nothing that is decided
//! on it is right any more: the service ends, and a new start reads the store, as after a kill.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

use crate::state::State;

/// Whether the service has come to an end that nobody wished for.
#[derive(Debug, Default)]
pub(crate) struct End {
    why: watch::Sender<Option<String>>,
}

impl End {
    /// Ends it; the first reason stays.
    pub(crate) fn now(&self, why: &str) {
        self.why.send_if_modified(|known| {
            let first = known.is_none();
            known.get_or_insert_with(|| why.to_owned());
            first
        });
    }

    pub(crate) fn is_over(&self) -> bool {
        self.why.borrow().is_some()
    }

    /// Why it ended, once it has.
    pub(crate) async fn wait(&self) -> String {
        let mut why = self.why.subscribe();
        loop {
            if let Some(why) = why.borrow_and_update().clone() {
                return why;
            }
            if why.changed().await.is_err() {
                // The sender is `self`.
                std::future::pending::<()>().await;
            }
        }
    }
}

/// The mirror.
#[derive(Debug)]
pub(crate) struct Mirror {
    state: Mutex<State>,
    end: Arc<End>,
}

impl Mirror {
    pub(crate) fn new(state: State, end: Arc<End>) -> Self {
        Self {
            state: Mutex::new(state),
            end,
        }
    }

    pub(crate) fn lock(&self) -> Locked<'_> {
        Locked {
            state: self.state.lock(),
            end: &self.end,
            panicking: std::thread::panicking(),
        }
    }
}

/// The mirror in hand.
pub(crate) struct Locked<'a> {
    state: MutexGuard<'a, State>,
    end: &'a End,
    /// It was taken in the course of a panic, which is somebody else's.
    panicking: bool,
}

impl Deref for Locked<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        if !self.panicking && std::thread::panicking() {
            self.end.now("a task failed while it changed the mirror");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[test]
    fn a_panic_with_the_mirror_in_hand_ends_it_and_no_other() {
        let end = Arc::new(End::default());
        let mirror = Mirror::new(State::default(), end.clone());
        struct Late<'a>(&'a Mirror);
        impl Drop for Late<'_> {
            fn drop(&mut self) {
                drop(self.0.lock());
            }
        }
        let elsewhere = catch_unwind(AssertUnwindSafe(|| {
            let _late = Late(&mirror);
            panic!("on purpose");
        }));
        assert!(elsewhere.is_err() && !end.is_over());
        let in_hand = catch_unwind(AssertUnwindSafe(|| {
            let _state = mirror.lock();
            panic!("on purpose");
        }));
        assert!(in_hand.is_err() && end.is_over());
    }
}

//! The parts of the daemon: each is started, watched, and started again when it ends, without the
//! others noticing.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;
use tokio::time::Instant;

/// First wait before a part is started again; doubles with every failure in a row.
const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(15);
/// A part that ran this long has recovered.
const RECOVERED: Duration = Duration::from_secs(60);

/// How a part is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PartView {
    pub(crate) up: bool,
    /// Why it is down, or the last time was.
    pub(crate) message: String,
    pub(crate) restarts: u64,
}

/// How all parts are; changes are told to whoever watches.
#[derive(Debug)]
pub(crate) struct Board {
    parts: Mutex<BTreeMap<&'static str, PartView>>,
    changed: watch::Sender<u64>,
}

impl Board {
    pub(crate) fn new() -> Self {
        Self {
            parts: Mutex::default(),
            changed: watch::Sender::new(0),
        }
    }

    fn change(&self, name: &'static str, change: impl FnOnce(&mut PartView)) {
        change(self.parts.lock().entry(name).or_default());
        self.changed.send_modify(|count| *count += 1);
    }

    /// The part is not to run any more.
    pub(crate) fn remove(&self, name: &'static str) {
        self.parts.lock().remove(name);
        self.changed.send_modify(|count| *count += 1);
    }

    /// Every part that is to run here, by name.
    pub(crate) fn read(&self) -> BTreeMap<&'static str, PartView> {
        self.parts.lock().clone()
    }

    /// Resolves whenever something changed.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

/// Where a running part is found by those who use it.
#[derive(Debug)]
pub(crate) struct Place<T>(RwLock<Option<T>>);

impl<T: Clone> Place<T> {
    pub(crate) fn empty() -> Self {
        Self(RwLock::new(None))
    }

    pub(crate) fn get(&self) -> Option<T> {
        self.0.read().clone()
    }

    pub(crate) fn set(&self, value: Option<T>) {
        *self.0.write() = value;
    }
}

/// Why a part did not start or did not go on.
#[derive(Debug)]
pub(crate) enum Ended {
    /// It was told to stop.
    Stopped,
    /// It could not go on; it is started again.
    Failed(String),
}

/// Runs a part until it was told to stop. `run` starts it, calls `up` when it works, and resolves
/// when it has ended.
pub(crate) async fn supervise(
    board: Arc<Board>,
    name: &'static str,
    run: impl Fn(Up) -> BoxFuture<'static, Ended> + Send,
) {
    board.change(name, |_| {});
    let mut wait = FIRST_WAIT;
    loop {
        let started = Instant::now();
        let up = Up {
            board: Arc::clone(&board),
            name,
        };
        // What a panic leaves half done is the part's own state, which is dropped with it.
        let ended = AssertUnwindSafe(async { run(up).await })
            .catch_unwind()
            .await;
        let why = match ended {
            Ok(Ended::Stopped) => {
                board.change(name, |part| part.up = false);
                return;
            }
            Ok(Ended::Failed(why)) => why,
            Err(panic) => format!("panicked: {}", text_of(&*panic)),
        };
        if started.elapsed() >= RECOVERED {
            wait = FIRST_WAIT;
        }
        tracing::error!(
            part = name,
            wait_ms = wait.as_millis() as u64,
            "{why}; it is started again"
        );
        board.change(name, |part| {
            *part = PartView {
                up: false,
                message: why,
                restarts: part.restarts + 1,
            };
        });
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

/// Says that a part works.
pub(crate) struct Up {
    board: Arc<Board>,
    name: &'static str,
}

impl Up {
    pub(crate) fn now(&self) {
        tracing::info!(part = self.name, "runs");
        self.is(Ok(()));
    }

    /// Says how a running part is.
    pub(crate) fn is(&self, health: Result<(), String>) {
        let same = {
            let parts = self.board.parts.lock();
            parts.get(self.name).is_some_and(|part| match &health {
                Ok(()) => part.up,
                Err(why) => !part.up && part.message == *why,
            })
        };
        if same {
            return;
        }
        if let Err(why) = &health {
            tracing::warn!(part = self.name, "{why}");
        }
        self.board.change(self.name, |part| {
            part.up = health.is_ok();
            if let Err(why) = health {
                part.message = why;
            }
        });
    }
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no message")
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_part_that_panics_is_started_again_and_the_others_do_not_notice() {
        let board = Arc::new(Board::new());
        let tries = Arc::new(AtomicUsize::new(0));
        let shaky = {
            let tries = Arc::clone(&tries);
            supervise(Arc::clone(&board), "shaky", move |up| {
                let attempt = tries.fetch_add(1, Ordering::Relaxed);
                async move {
                    match attempt {
                        0 => return Ended::Failed("port in use".to_owned()),
                        1 => panic!("index {attempt} out of range"),
                        _ => up.now(),
                    }
                    std::future::pending().await
                }
                .boxed()
            })
        };
        let calm = supervise(Arc::clone(&board), "calm", |up| {
            up.now();
            std::future::pending().boxed()
        });
        let shaky = tokio::spawn(shaky);
        let calm = tokio::spawn(calm);
        let mut changes = board.watch();
        let mut messages = Vec::new();
        while !board.read().get("shaky").is_some_and(|part| part.up) {
            changes.changed().await.unwrap();
            let parts = board.read();
            assert!(parts.get("calm").is_none_or(|part| part.restarts == 0));
            if let Some(part) = parts.get("shaky")
                && messages.last() != Some(&part.message)
            {
                messages.push(part.message.clone());
            }
        }
        assert_eq!(
            messages[messages.len() - 2..],
            ["port in use", "panicked: index 1 out of range"]
        );
        assert_eq!(board.read()["shaky"].restarts, 2);
        assert_eq!(
            board.read()["calm"],
            PartView {
                up: true,
                ..PartView::default()
            }
        );
        assert!(!calm.is_finished() && !shaky.is_finished());
        shaky.abort();
        calm.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn waits_grow_to_a_limit_and_a_stop_is_final() {
        let board = Arc::new(Board::new());
        let (starts, mut seen) = tokio::sync::mpsc::unbounded_channel();
        let task = tokio::spawn(supervise(Arc::clone(&board), "x", move |_| {
            let count = starts.send(Instant::now());
            let ended = count.map_or(Ended::Stopped, |()| Ended::Failed("no".to_owned()));
            std::future::ready(ended).boxed()
        }));
        let mut at = Vec::new();
        while at.len() < 10 {
            at.push(seen.recv().await.unwrap());
        }
        let waits: Vec<_> = at
            .windows(2)
            .map(|pair| (pair[1] - pair[0]).as_millis())
            .collect();
        assert_eq!(waits[..4], [250, 500, 1000, 2000]);
        assert_eq!(waits[8], 15_000);
        drop(seen);
        task.await.unwrap();
        assert!(!board.read()["x"].up);
    }
}

//! The terminal while it shows nothing, and the signals that end or interrupt that.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use parking_lot::Mutex;
use rustix::termios::{
    LocalModes, OptionalActions, QueueSelector, Termios, tcflush, tcgetattr, tcsetattr,
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP};
use signal_hook::flag::register_conditional_default;
use signal_hook::iterator::{Handle, Signals};
use signal_hook::low_level::emulate_default_handler;

const SIGNALS: [i32; 5] = [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP];

/// Whether a signal does what it does by default. A handler cannot be taken away again, so one stays
/// for each signal that had none, and this says what it is to do.
type Defaults = BTreeMap<i32, Arc<AtomicBool>>;

static DEFAULTS: OnceLock<Mutex<Defaults>> = OnceLock::new();

/// One prompt at a time has the terminal.
static TERMINAL: Mutex<()> = Mutex::new(());

#[derive(Debug)]
struct Terminal {
    before: Termios,
    silent: Termios,
    prompt: String,
    /// The prompt has not ended.
    asking: bool,
}

impl Terminal {
    fn new(prompt: &str) -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        silent
            .local_modes
            .insert(LocalModes::ECHONL | LocalModes::ICANON | LocalModes::ISIG);
        Ok(Self {
            before,
            silent,
            prompt: prompt.to_owned(),
            asking: true,
        })
    }

    /// What was typed before the prompt was there is thrown away, as everywhere.
    fn hide(&self) -> io::Result<()> {
        tcsetattr(io::stdin(), OptionalActions::Flush, &self.silent)?;
        throw_away()?;
        say(&self.prompt);
        Ok(())
    }

    /// Half a secret is thrown away: it must not become a command of the shell.
    fn show(&self) -> io::Result<()> {
        // Before the echo comes back, or what is still on its way would be shown.
        let thrown = throw_away();
        tcsetattr(io::stdin(), OptionalActions::Flush, &self.before)?;
        thrown
    }
}

/// Also the keys that the kernel has received and not yet handed to the terminal's line: `tcsetattr`
/// alone leaves these, and on a busy machine they arrive after it.
fn throw_away() -> io::Result<()> {
    tcflush(io::stdin(), QueueSelector::IFlush)?;
    Ok(())
}

/// Standard error: the prompt is no part of the output, and nothing depends on its being seen.
fn say(text: &str) {
    let mut err = io::stderr().lock();
    let _seen = err.write_all(text.as_bytes()).and_then(|()| err.flush());
}

/// A terminal that shows nothing until this ends.
#[derive(Debug)]
pub(crate) struct Hidden<'h> {
    terminal: Arc<Mutex<Terminal>>,
    watched: Handle,
    watcher: Option<JoinHandle<()>>,
    handled: &'h [i32],
    ended: bool,
    _alone: parking_lot::MutexGuard<'static, ()>,
}

impl<'h> Hidden<'h> {
    pub(crate) fn new(prompt: &str, handled: &'h [i32]) -> io::Result<Self> {
        let alone = TERMINAL.lock();
        let terminal = Arc::new(Mutex::new(Terminal::new(prompt)?));
        // Before the echo goes: there is no moment at which a signal leaves it off.
        let signals = Signals::new(SIGNALS)?;
        let watched = signals.handle();
        for default in defaults().lock().values() {
            default.store(false, Ordering::SeqCst);
        }
        let watcher = watch(signals, Arc::clone(&terminal))?;
        let hidden = Self {
            terminal,
            watched,
            watcher: Some(watcher),
            handled,
            ended: false,
            _alone: alone,
        };
        hidden.terminal.lock().hide()?;
        Ok(hidden)
    }

    pub(crate) fn end(mut self) -> io::Result<()> {
        self.restore()
    }

    fn restore(&mut self) -> io::Result<()> {
        if std::mem::replace(&mut self.ended, true) {
            return Ok(());
        }
        let shown = {
            let mut terminal = self.terminal.lock();
            terminal.asking = false;
            terminal.show()
        };
        let kept = keep_defaults(self.handled);
        self.watched.close();
        if let Some(watcher) = self.watcher.take() {
            // It ends with its signals, and a panic in it has been reported.
            let _ = watcher.join();
        }
        shown.and(kept)
    }
}

impl Drop for Hidden<'_> {
    fn drop(&mut self) {
        let _ = self.restore();
    }
}

fn defaults() -> &'static Mutex<Defaults> {
    DEFAULTS.get_or_init(Mutex::default)
}

/// From here on signals do what they did before, but for those that others handle.
fn keep_defaults(handled: &[i32]) -> io::Result<()> {
    let mut defaults = defaults().lock();
    for signal in SIGNALS.into_iter().filter(|one| !handled.contains(one)) {
        if let Some(default) = defaults.get(&signal) {
            default.store(true, Ordering::SeqCst);
            continue;
        }
        let default = Arc::new(AtomicBool::new(true));
        register_conditional_default(signal, Arc::clone(&default))?;
        defaults.insert(signal, default);
    }
    Ok(())
}

fn watch(mut signals: Signals, terminal: Arc<Mutex<Terminal>>) -> io::Result<JoinHandle<()>> {
    let watcher = std::thread::Builder::new().name("prompt".to_owned());
    watcher.spawn(move || {
        for signal in &mut signals {
            let terminal = terminal.lock();
            // Should it fail, dying is still what the signal is for.
            let _ = terminal.show();
            say("\n");
            let _ = emulate_default_handler(signal);
            // Only after a stop is there an afterwards.
            if terminal.asking {
                let _ = terminal.hide();
            }
        }
    })
}

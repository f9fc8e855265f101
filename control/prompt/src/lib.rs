//! A secret typed at the terminal, without showing it.
//!
//! The terminal has its echo back however the prompt ends: with a line, with an error, with Ctrl-C,
//! or with a signal from elsewhere. Stopped by Ctrl-Z it gives the terminal back too, and asks again
//! when it goes on. What was typed is nowhere but in the buffer that is returned, which wipes itself.

#![forbid(unsafe_code)]

mod guard;

use std::io::{self, IsTerminal};

use rustix::io::Errno;
use zeroize::Zeroizing;

/// The terminal's own limit for one line.
pub const LINE_MAX: usize = 4095;

/// Why there is no secret.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Standard input is something else.
    #[error("standard input is no terminal")]
    NoTerminal,
    /// The end of the input, and nothing before it.
    #[error("nothing was typed")]
    Closed,
    /// More than the caller takes.
    #[error("longer than {0} bytes")]
    TooLong(usize),
    /// The terminal does not work.
    #[error("terminal: {0}")]
    Terminal(#[from] io::Error),
}

/// Shows a prompt on standard error and reads a line of at most `max` bytes from the terminal that
/// is standard input. An empty line is a line.
///
/// While it waits, SIGHUP, SIGINT, SIGQUIT, SIGTERM and SIGTSTP restore the terminal and then do what
/// they do by default, and all but those in `handled` go on doing so afterwards: the caller has
/// handlers of its own for these, in place before it asks.
///
/// # Errors
/// Without a terminal, at the end of its input, or with too long a line.
pub fn ask(prompt: &str, max: usize, handled: &[i32]) -> Result<Zeroizing<Vec<u8>>, Error> {
    if !io::stdin().is_terminal() {
        return Err(Error::NoTerminal);
    }
    let hidden = guard::Hidden::new(prompt, handled)?;
    let line = read_line();
    hidden.end()?;
    let line = line?;
    if line.len() > max {
        return Err(Error::TooLong(max));
    }
    Ok(line)
}

/// Reads past the buffer of the standard library, which would keep a copy.
fn read_line() -> Result<Zeroizing<Vec<u8>>, Error> {
    let stdin = io::stdin();
    let mut line = Zeroizing::new(vec![0; LINE_MAX + 1]);
    let mut len = 0;
    while let Some(room) = line.get_mut(len..).filter(|room| !room.is_empty()) {
        let read = match rustix::io::read(&stdin, room) {
            Ok(read) => read,
            Err(Errno::INTR) => continue,
            Err(error) => return Err(Error::Terminal(error.into())),
        };
        len += read;
        let ended = line.get(..len).is_some_and(|line| line.ends_with(b"\n"));
        if read == 0 || ended {
            break;
        }
    }
    if len == 0 {
        return Err(Error::Closed);
    }
    line.truncate(len);
    while line
        .last()
        .is_some_and(|last| matches!(last, b'\r' | b'\n'))
    {
        line.pop();
    }
    Ok(line)
}

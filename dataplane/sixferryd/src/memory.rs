//! Memory that the tables give back stays with the process, in huge pages.
//!
//! Every change copies chunks of the tables and frees the old ones. An allocator that returns those to
//! the kernel does so in pieces smaller than a huge page; what is allocated there next lies in small
//! pages, and each packet waits for their translations.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// The allocator's setting: milliseconds until free memory goes back to the kernel, -1 for never. It is
/// read before `main`.
const PURGE_DELAY: &str = "MIMALLOC_PURGE_DELAY";

/// Has the allocator keep what is freed, unless the operator has set something else: starts the program
/// again, in this process, with the setting. Call it before there is a second thread.
///
/// # Errors
///
/// The program cannot be started again: then the allocator returns memory after a second.
pub(crate) fn keep() -> io::Result<()> {
    if std::env::var_os(PURGE_DELAY).is_some() {
        return Ok(());
    }
    let mut args = std::env::args_os();
    let mut again = Command::new(std::env::current_exe()?);
    if let Some(name) = args.next() {
        again.arg0(name);
    }
    Err(again.args(args).env(PURGE_DELAY, "-1").exec())
}

//! The traffic generator and the sink of all benches, and of `sixferry-pktgen`.
//!
//! ```text
//!   Traffic: what the frames are        Stream: how many, how fast      Outcome: what arrived, when
//!        |                                   |                              ^
//!   Generator --- interface --- device under test --- interface --- Sink ---+--- Tester
//! ```
//!
//! The generator has the kernel run an XDP program on live frames ([`live`]), or sends through a packet
//! socket where the interface refuses those ([`socket`]). Each is a process of its own in its own
//! namespace ([`remote::Role`]), started by [`spawn_generator`] and [`spawn_sink`]; a [`stream::Tester`]
//! holds both and runs one [`stream::Stream`] after the other.

pub mod generator;
pub mod histogram;
pub mod live;
pub mod measure;
pub mod operate;
pub mod pace;
pub mod remote;
pub mod role;
pub mod search;
pub mod sink;
pub mod sizes;
pub mod socket;
pub mod stream;
pub mod traffic;

use crate::error::{Context, Error};
use generator::Choice;
use remote::Role;
use role::Seat;
use std::path::PathBuf;
use std::process::Command;
use traffic::Traffic;

/// `sixferry-pktgen` beside the running program: the generator and sink of every bench.
///
/// # Errors
/// When it is not there.
pub fn program() -> Result<PathBuf, Error> {
    beside("sixferry-pktgen")
}

/// A program of this crate, beside the running one.
///
/// # Errors
/// When it is not there.
pub fn beside(name: &str) -> Result<PathBuf, Error> {
    let path = std::env::current_exe()
        .during("this program's path")?
        .with_file_name(name);
    if path.exists() {
        Ok(path)
    } else {
        Err("not there; fix: cargo build --release -p sixferry-bench --features e2e")
            .during(path.display().to_string())
    }
}

/// Starts a generator that waits for orders. `command` runs [`program`] where the interface is.
///
/// # Errors
/// When it ends instead; it has said why on standard error.
pub fn spawn_generator(
    command: &mut Command,
    interface: &str,
    traffic: &Traffic,
    seat: Seat,
    choice: Choice,
) -> Result<Role, Error> {
    let traffic = serde_json::to_string(traffic).during("the traffic")?;
    command
        .args(["obey", "generator", interface, "--traffic", &traffic])
        .args(["--cpu", &seat.cpu.to_string()])
        .args(["--nice", &seat.nice.to_string()])
        .args(["--mode", choice.word()]);
    Role::spawn(format!("generator at {interface}"), command, seat.nice)
}

/// Starts a sink that answers questions. `command` runs [`program`] where the interface is.
///
/// # Errors
/// As [`spawn_generator`].
pub fn spawn_sink(command: &mut Command, interface: &str, nice: i32) -> Result<Role, Error> {
    command.args(["obey", "sink", interface]);
    Role::spawn(format!("sink at {interface}"), command, nice)
}

/// An interface's index.
pub(crate) fn interface_index(interface: &str) -> Result<u32, Error> {
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        None,
    )
    .during("a socket")?;
    rustix::net::netdevice::name_to_index(socket, interface)
        .during(format!("interface {interface}"))
}

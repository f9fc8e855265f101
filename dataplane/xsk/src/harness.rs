//! The steering program run on single frames by the kernel, without an interface or traffic.

use aya::programs::{TestRun, TestRunOptions};

use crate::error::{Operation, SetupError};
use crate::socket::Socket;
use crate::steer::{Outcome, SteerConfig};
use crate::tables::SteerTables;

const XDP_PASS: u32 = 2;
const XDP_REDIRECT: u32 = 4;
/// In place of an interface's name in errors.
const LABEL: &str = "steering test";

/// What the program did with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SteerVerdict {
    /// To the kernel.
    Pass(Outcome),
    /// To the relay's socket.
    Redirect(Outcome),
    /// An action the program should never return, or one it did not count once.
    Unexpected(u32),
}

impl SteerVerdict {
    /// Whether the frame goes to the relay.
    pub fn is_redirect(self) -> bool {
        matches!(self, Self::Redirect(_))
    }

    /// Whether the frame goes to the kernel.
    pub fn is_pass(self) -> bool {
        matches!(self, Self::Pass(_))
    }
}

/// The steering program, loaded with a configuration, for `BPF_PROG_TEST_RUN`.
pub struct SteeringHarness {
    tables: SteerTables,
    // Kept open: closing it empties its slot in the map. An empty map would turn every redirect
    // into a pass; an unbound socket makes it visible and takes no queue.
    _socket: Socket,
}

impl SteeringHarness {
    /// Loads the program and configures it. Test frames arrive on queue 0.
    ///
    /// # Errors
    /// As [`Steering::attach`](crate::Steering::attach), needing the same capabilities.
    pub fn new(config: &SteerConfig) -> Result<Self, SetupError> {
        let socket = Socket::unbound()
            .map_err(|error| SetupError::new(LABEL, Operation::OpenSocket, error))?;
        let mut tables = SteerTables::load(LABEL, 1)?;
        tables.set_socket(0, std::os::fd::AsFd::as_fd(&socket))?;
        tables.apply(config)?;
        Ok(Self {
            tables,
            _socket: socket,
        })
    }

    /// The configuration, to be changed.
    pub fn tables_mut(&mut self) -> &mut SteerTables {
        &mut self.tables
    }

    /// Runs the program on one Ethernet frame.
    ///
    /// # Errors
    /// The kernel's; it refuses frames shorter than an Ethernet header.
    pub fn run(&mut self, frame: &[u8]) -> Result<SteerVerdict, SetupError> {
        let before = self.tables.counters()?;
        let options = TestRunOptions {
            data_in: Some(frame),
            ..TestRunOptions::default()
        };
        let result = self
            .tables
            .program()?
            .test_run(options)
            .map_err(|error| SetupError::new(LABEL, Operation::TestRun, error))?;
        let after = self.tables.counters()?;
        let mut counted = Outcome::ALL
            .iter()
            .copied()
            .filter(|outcome| after.of(*outcome) != before.of(*outcome));
        Ok(
            match (counted.next(), counted.next(), result.return_value) {
                (Some(outcome), None, XDP_REDIRECT) if outcome.is_redirect() => {
                    SteerVerdict::Redirect(outcome)
                }
                (Some(outcome), None, XDP_PASS) if !outcome.is_redirect() => {
                    SteerVerdict::Pass(outcome)
                }
                (_, _, action) => SteerVerdict::Unexpected(action),
            },
        )
    }
}

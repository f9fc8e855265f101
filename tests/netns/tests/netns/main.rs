//! Namespace tests: the real daemon between real peers. All need root; `make test` runs them.
#![forbid(unsafe_code)]

mod checksum;
mod control;
mod crossed;
mod dtcp;
mod floods;
mod fragments;
mod guest;
mod host;
mod host_port;
mod interop;
mod modes;
mod next_hop;
mod peers;
mod setup;
mod sit;
mod soak;

use sixferry_netns_tests::daemon::{Daemon, DaemonConfig};
use sixferry_netns_tests::topology::{Lab, LabPlan};

/// A lab with a daemon that serves its guest's tunnel. The daemon comes first in the tuple: it
/// must go before its namespace does.
fn started(plan: &LabPlan, mode: &str, mtu: u16) -> Option<(Daemon, Lab)> {
    let lab = plan.build()?;
    let daemon = Daemon::start(&lab.relay, &DaemonConfig::of_lab(&lab, mode, mtu));
    Some((daemon, lab))
}

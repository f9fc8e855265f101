//! The tests of a round, and whose ratios mean something.

use super::controller::Load;
use super::device::Device;
use super::lab::Place;
use super::peers;
use super::report::{Pair, Skipped};
use super::trial::Test;
use crate::pktgen::traffic::Encapsulation;

/// Routes of the IPv6 table that encapsulation is measured with.
const ROUTES: u32 = 220_000;

/// All tests, and those that cannot run here.
#[must_use]
pub fn tests(tunnels: u32) -> (Vec<Test>, Vec<Skipped>) {
    use Encapsulation::{Native, SixInFour, Udp};
    let sink = Some((Place::Sink, "sink0"));
    let there = Some((Place::Device, "dut0"));
    let back = Some((Place::Generator, "gen0"));
    let reference = Device::Reference;
    let daemon = Device::Daemon;
    let one = daemon(Load::SixInFour(1));
    let many = daemon(Load::SixInFour(tunnels));
    let mut tests: Vec<Test> = [
        (
            "generator",
            "XDP drop: what is offered",
            Device::None,
            SixInFour,
            there,
        ),
        (
            "rxdrop-bare",
            "AF_XDP receives and drops, nothing parsed",
            reference("bare"),
            SixInFour,
            None,
        ),
        (
            "rxdrop",
            "AF_XDP receives and drops, steered",
            reference("drop"),
            SixInFour,
            None,
        ),
        (
            "l2fwd",
            "AF_XDP sends it back",
            reference("echo"),
            SixInFour,
            back,
        ),
        (
            "ref-decap",
            "AF_XDP strips, no lookup",
            reference("decap"),
            SixInFour,
            sink,
        ),
        ("decap", "sixferryd, 1 tunnel", one, SixInFour, sink),
        (
            "decap-udp",
            "sixferryd, 1 tunnel, IPv6 in UDP",
            daemon(Load::Udp(1)),
            Udp,
            sink,
        ),
        (
            "decap-many",
            "sixferryd, many tunnels",
            many,
            SixInFour,
            sink,
        ),
        (
            "ref-encap",
            "AF_XDP prepends, no lookup",
            reference("encap"),
            Native,
            sink,
        ),
        ("encap", "sixferryd, 1 tunnel", one, Native, sink),
        (
            "encap-routes",
            "sixferryd, 220,000 routes",
            daemon(Load::Routes(ROUTES)),
            Native,
            sink,
        ),
        ("encap-many", "sixferryd, many tunnels", many, Native, sink),
        (
            "forwarding",
            "Linux forwards plain IPv6, a CPU of its own",
            Device::Forwarding,
            Native,
            sink,
        ),
        (
            "xdp-decap",
            "decapsulation in the kernel, 1 tunnel",
            Device::InKernel(1),
            SixInFour,
            sink,
        ),
        (
            "xdp-decap-many",
            "decapsulation in the kernel, many tunnels",
            Device::InKernel(tunnels),
            SixInFour,
            sink,
        ),
        (
            "testpmd",
            "DPDK testpmd, AF_XDP driver, io",
            Device::Testpmd,
            SixInFour,
            sink,
        ),
    ]
    .into_iter()
    .map(|(name, text, device, encapsulation, counted)| Test {
        name,
        text,
        device,
        encapsulation,
        counted,
    })
    .collect();
    let mut skipped = Vec::new();
    if peers::testpmd().is_none() {
        tests.retain(|test| test.device != Device::Testpmd);
        skipped.push(Skipped {
            name: "testpmd",
            why: "dpdk-testpmd is not installed",
        });
    }
    (tests, skipped)
}

/// Ratios within a round.
pub const PAIRS: [Pair; 14] = {
    const fn pair(test: &'static str, yardstick: &'static str) -> Pair {
        Pair { test, yardstick }
    }
    [
        pair("decap", "rxdrop"),
        pair("decap", "l2fwd"),
        pair("decap", "ref-decap"),
        pair("decap-many", "ref-decap"),
        pair("decap-udp", "decap"),
        pair("decap", "testpmd"),
        pair("decap", "forwarding"),
        pair("decap", "xdp-decap"),
        pair("decap-many", "xdp-decap-many"),
        pair("encap", "ref-encap"),
        pair("encap-routes", "ref-encap"),
        pair("encap-many", "ref-encap"),
        pair("encap", "forwarding"),
        pair("rxdrop", "rxdrop-bare"),
    ]
};

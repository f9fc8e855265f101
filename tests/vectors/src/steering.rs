//! Runs the `steering` frames through the real XDP program, by `BPF_PROG_TEST_RUN`.
//!
//! The schema fixes the configuration: tunnel address 198.51.100.1, UDP port 4028 there, VLAN 100, the
//! tunnel prefixes of configuration `6in4`, host address 2001:db8:ffff::1. The port's hardware address
//! is the one each unicast frame is addressed to.

use crate::schema::{SteeringFrame, VectorFile, unhex};
use sixferry_xsk::{AddressUse, Covering, SteerConfig, SteeringHarness};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};

const TUNNEL: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const UDP_PORT: u16 = 4028;
const VLAN: u16 = 100;
const HOST: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1);

/// The configuration the schema fixes, with the prefixes of `file`'s configuration `6in4`.
#[must_use]
pub fn config(file: &VectorFile) -> SteerConfig {
    let tunnels = file
        .configs
        .get("6in4")
        .map_or(&[][..], |config| &config.tunnels);
    let prefixes = tunnels
        .iter()
        .flat_map(|t| t.prefixes.iter().chain(&t.link_prefix));
    let covering = prefixes.filter_map(|text| text.parse::<sixferry_fwd::Ipv6Prefix>().ok());
    SteerConfig {
        mac: [0; 6],
        tunnel_addresses: BTreeMap::from([(
            TUNNEL,
            AddressUse {
                proto41: true,
                dedicated: false,
            },
        )]),
        udp_ports: BTreeSet::from([(TUNNEL, UDP_PORT)]),
        host_addresses: BTreeSet::from([HOST]),
        covering: covering
            .filter_map(|p| Covering::new(p.address(), p.len()))
            .collect(),
        vlans: BTreeSet::from([VLAN]),
    }
}

/// Runs one frame.
///
/// # Errors
/// What the program did instead, or why it could not run.
pub fn run(harness: &mut SteeringHarness, frame: &SteeringFrame) -> Result<(), String> {
    let bytes = unhex(&frame.in_hex)?;
    let mac = bytes
        .first_chunk::<6>()
        .ok_or("shorter than a MAC address")?;
    if mac[0] & 1 == 0 {
        harness
            .tables_mut()
            .set_mac(*mac)
            .map_err(|e| e.to_string())?;
    }
    let verdict = harness.run(&bytes).map_err(|e| e.to_string())?;
    let right = match frame.expect.as_str() {
        "xsk" => verdict.is_redirect(),
        "kernel" => verdict.is_pass(),
        other => return Err(format!("expect `{other}`")),
    };
    if right {
        Ok(())
    } else {
        Err(format!("want {}, got {verdict:?}", frame.expect))
    }
}

/// Runs all frames of a file and prints what differs; whether all were right.
#[must_use]
pub fn report(file: &VectorFile, verbose: bool) -> bool {
    if file.steering.is_empty() {
        return true;
    }
    let mut harness = match SteeringHarness::new(&config(file)) {
        Ok(harness) => harness,
        Err(error) => {
            println!("steering: {} frames not run: {error}", file.steering.len());
            // without the privilege to load a program there is nothing to say about it
            return !rustix::process::geteuid().is_root();
        }
    };
    let mut failed = 0;
    for frame in &file.steering {
        match run(&mut harness, frame) {
            Ok(()) if verbose => println!("pass steering {}", frame.name),
            Ok(()) => {}
            Err(error) => {
                failed += 1;
                println!(
                    "FAIL steering {} ({}): {error}\nin   {}",
                    frame.name, frame.why, frame.in_hex
                );
            }
        }
    }
    println!(
        "steering: {} right, {failed} wrong",
        file.steering.len() - failed
    );
    failed == 0
}

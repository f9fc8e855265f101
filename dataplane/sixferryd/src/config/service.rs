//! `[host_port]`, `[reassembly]`, `[liveness]` and `[state]`: what runs beside the packet threads.

use std::ops::RangeInclusive;
use std::time::Duration;

use sixferry_service::Findings;

use super::check::{MAX_INTERFACE_NAME, copied, place, value_or, word};
use super::raw::{Key, RawHostPort, RawLiveness, RawReassembly, RawState};
use super::{HostPortConfig, LivenessConfig, PortSection, ReassemblyConfig, StateConfig};

/// IPv6's minimum, and what a packet buffer holds.
const HOST_MTU: RangeInclusive<u32> = 1280..=1500;

/// A number within its range, or an error and the default.
fn within(
    key: &str,
    value: &Key<u32>,
    default: u32,
    range: RangeInclusive<u32>,
    findings: &mut Findings<'_>,
) -> u32 {
    let given = copied(value, default);
    if range.contains(&given) {
        return given;
    }
    let (least, most) = (range.start(), range.end());
    let message = format!("{given} is outside {least}..{most}");
    findings.error(key, place(value), message);
    default
}

pub(super) fn host_port(
    raw: &RawHostPort,
    ports: &[PortSection],
    findings: &mut Findings<'_>,
) -> Option<HostPortConfig> {
    let name = value_or(&raw.name, "sixferry0").to_owned();
    let key = "host_port.name";
    if name.is_empty() || name.len() > MAX_INTERFACE_NAME || name.contains(['/', ' ', '%']) {
        let message = format!("{name:?} is no name for a device (1 to 15 bytes, no / or space)");
        findings.error(key, place(&raw.name), message);
    } else if ports.iter().any(|port| port.name == name) {
        let message =
            format!("{name:?} is a [[port]] too; the host port makes a device of its own");
        findings.error(key, place(&raw.name), message);
    }
    let mtu = within("host_port.mtu", &raw.mtu, 1280, HOST_MTU, findings);
    let words = [("covering", true), ("none", false)];
    let routes = word("host_port.routes", &raw.routes, &words, true, findings);
    copied(&raw.enabled, false).then(|| HostPortConfig {
        name,
        mtu: u16::try_from(mtu).unwrap_or(1280),
        routes,
    })
}

pub(super) fn reassembly(raw: &RawReassembly, findings: &mut Findings<'_>) -> ReassemblyConfig {
    let key = |field: &str| format!("reassembly.{field}");
    let contexts = within(&key("contexts"), &raw.contexts, 1024, 1..=65_536, findings);
    let per_source = within(&key("per_source"), &raw.per_source, 4, 1..=64, findings);
    if per_source > contexts {
        let message = format!("{per_source} of one source, but only {contexts} of all");
        findings.error(&key("per_source"), place(&raw.per_source), message);
    }
    // The least holds one datagram of the largest size.
    let range = 65_536..=268_435_456;
    let bytes = within(&key("bytes"), &raw.bytes, 2_097_152, range, findings);
    let seconds = within(
        &key("timeout_seconds"),
        &raw.timeout_seconds,
        5,
        1..=60,
        findings,
    );
    ReassemblyConfig {
        per_source,
        contexts,
        bytes,
        timeout: Duration::from_secs(seconds.into()),
    }
}

pub(super) fn liveness(raw: &RawLiveness, findings: &mut Findings<'_>) -> LivenessConfig {
    let key = "liveness.probes_per_second";
    LivenessConfig {
        probes_per_second: within(key, &raw.probes_per_second, 1000, 1..=100_000, findings),
    }
}

pub(super) fn state(raw: &RawState, findings: &mut Findings<'_>) -> StateConfig {
    let save = copied(&raw.save, true);
    let restore = copied(&raw.restore, false);
    if restore && !save {
        let message = "would start from a file nobody writes; set state.save = true".to_owned();
        findings.error("state.restore", place(&raw.restore), message);
    }
    let key = "state.interval_seconds";
    let seconds = within(key, &raw.interval_seconds, 5, 1..=3600, findings);
    StateConfig {
        save,
        restore,
        interval: Duration::from_secs(seconds.into()),
    }
}

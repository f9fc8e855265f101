//! Driver name, queue counts and offloads of an interface, by the ethtool ioctl.

use std::fmt;
use std::io;
use std::os::fd::AsRawFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

const SIOCETHTOOL: libc::Ioctl = 0x8946;
const ETH_SS_FEATURES: u32 = 4;
const STRING_LEN: usize = 32;

/// What must be off: a tag that the NIC strips or inserts is invisible to XDP and AF_XDP, and
/// frames that it glues together do not fit a buffer.
const OFFLOADS: [&str; 6] = [
    "rx-vlan-hw-parse",
    "tx-vlan-hw-insert",
    "rx-vlan-stag-hw-parse",
    "tx-vlan-stag-hw-insert",
    "rx-lro",
    "rx-gro-hw",
];

/// Queues of an interface that are in use now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueCounts {
    /// Receive queues.
    pub rx: u32,
    /// Transmit queues.
    pub tx: u32,
}

impl QueueCounts {
    /// Queues that can carry a worker: those that exist in both directions.
    pub fn usable(self) -> u32 {
        self.rx.min(self.tx)
    }
}

/// What became of the offloads that must be off.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OffloadReport {
    /// Were on and are off now. They stay so: the previous state is not restored.
    pub switched_off: Vec<&'static str>,
    /// Are on and could not be switched off.
    pub still_on: Vec<&'static str>,
}

impl fmt::Display for OffloadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |names: &[&str]| match names {
            [] => "none".to_owned(),
            names => names.join(", "),
        };
        write!(f, "switched off: {}", list(&self.switched_off))?;
        write!(f, "; still on: {}", list(&self.still_on))
    }
}

/// The commands used, each with the layout of its buffer in 32-bit words.
#[derive(Clone, Copy)]
enum Command {
    /// cmd, then six text fields and counts: 196 bytes.
    DriverInfo,
    /// cmd, four maxima, four counts (rx, tx, other, combined).
    Channels,
    /// cmd, reserved, 64-bit mask, one length.
    StringSetInfo,
    /// cmd, set, length, then that many texts of 32 bytes.
    Strings(usize),
    /// cmd, blocks, then (available, requested, active, never changed) per block.
    Features(usize),
    /// cmd, blocks, then (valid, requested) per block.
    SetFeatures(usize),
}

impl Command {
    fn number(self) -> u32 {
        match self {
            Self::DriverInfo => 0x03,
            Self::Strings(_) => 0x1b,
            Self::StringSetInfo => 0x37,
            Self::Features(_) => 0x3a,
            Self::SetFeatures(_) => 0x3b,
            Self::Channels => 0x3c,
        }
    }

    fn words(self) -> usize {
        match self {
            Self::DriverInfo => 196 / 4,
            Self::Channels => 9,
            Self::StringSetInfo => 5,
            Self::Strings(count) => 3 + count * STRING_LEN / 4,
            Self::Features(blocks) => 2 + 4 * blocks,
            Self::SetFeatures(blocks) => 2 + 2 * blocks,
        }
    }
}

/// Runs one command. `fill` writes the input words after the command number.
fn ethtool(
    interface: &str,
    command: Command,
    fill: impl FnOnce(&mut [u32]),
) -> io::Result<Vec<u32>> {
    let socket = socket_with(
        AddressFamily::INET,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let mut buffer = vec![0_u32; command.words()];
    fill(&mut buffer[1..]);
    buffer[0] = command.number();
    let mut name = [0; libc::IFNAMSIZ];
    if interface.len() >= name.len() {
        return Err(io::ErrorKind::NotFound.into());
    }
    for (to, from) in name.iter_mut().zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    let mut request = libc::ifreq {
        ifr_name: name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_data: buffer.as_mut_ptr().cast(),
        },
    };
    // SAFETY: `request` names a buffer of the size that the command's layout takes
    // (`Command::words`); the kernel reads and writes no more than that layout. The number of
    // strings and feature blocks is a constant of the running kernel, asked for beforehand. Both
    // live until the call returns.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(buffer)
}

/// The text in a run of words, up to the first zero.
fn text(words: &[u32]) -> String {
    let bytes = words.iter().flat_map(|word| word.to_ne_bytes());
    let bytes: Vec<u8> = bytes.take_while(|byte| *byte != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The name of the interface's driver.
///
/// # Errors
/// The kernel's; not every interface has one.
pub fn driver(interface: &str) -> io::Result<String> {
    let info = ethtool(interface, Command::DriverInfo, |_| {})?;
    Ok(text(&info[1..9]))
}

/// How many queues the interface uses. Where the driver does not tell, the kernel's list of
/// queues does, and one is assumed where there is neither.
pub fn queue_counts(interface: &str) -> QueueCounts {
    match ethtool(interface, Command::Channels, |_| {}) {
        Ok(counts) => QueueCounts {
            rx: (counts[5] + counts[8]).max(1),
            tx: (counts[6] + counts[8]).max(1),
        },
        Err(_) => listed_queues(interface),
    }
}

fn listed_queues(interface: &str) -> QueueCounts {
    let mut counts = QueueCounts { rx: 0, tx: 0 };
    let listed = std::fs::read_dir(format!("/sys/class/net/{interface}/queues"));
    for entry in listed.into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        counts.rx += u32::from(name.starts_with("rx-"));
        counts.tx += u32::from(name.starts_with("tx-"));
    }
    QueueCounts {
        rx: counts.rx.max(1),
        tx: counts.tx.max(1),
    }
}

/// Positions of the features in [`OFFLOADS`], as far as this kernel knows them.
fn offload_bits(interface: &str) -> io::Result<(usize, Vec<(&'static str, usize)>)> {
    let info = ethtool(interface, Command::StringSetInfo, |words| {
        // The 64-bit mask lies at bytes 8 to 15 of the command: words 1 and 2 after the number.
        let mask = (1_u64 << ETH_SS_FEATURES).to_ne_bytes();
        let (low, high) = mask.split_at(4);
        for (word, half) in words[1..3].iter_mut().zip([low, high]) {
            *word = u32::from_ne_bytes(half.try_into().unwrap_or_default());
        }
    })?;
    let count = info[4] as usize;
    let strings = ethtool(interface, Command::Strings(count), |words| {
        words[0] = ETH_SS_FEATURES;
        words[1] = count as u32;
    })?;
    let names: Vec<String> = strings[3..].chunks(STRING_LEN / 4).map(text).collect();
    let bits = OFFLOADS.into_iter().filter_map(|wanted| {
        let bit = names.iter().position(|name| name == wanted)?;
        Some((wanted, bit))
    });
    Ok((count.div_ceil(32), bits.collect()))
}

fn active_features(interface: &str, blocks: usize) -> io::Result<Vec<u32>> {
    let features = ethtool(interface, Command::Features(blocks), |words| {
        words[0] = blocks as u32;
    })?;
    Ok(features[2..].chunks(4).map(|block| block[2]).collect())
}

/// Switches off what hides VLAN tags or glues frames together.
///
/// # Errors
/// The kernel's, when it does not even list the features. What merely stays on is in the report.
pub fn switch_offloads_off(interface: &str) -> io::Result<OffloadReport> {
    let (blocks, bits) = offload_bits(interface)?;
    let is_on = |active: &[u32], bit: usize| {
        let block = active.get(bit / 32);
        block.is_some_and(|block| block & 1 << (bit % 32) != 0)
    };
    let before = active_features(interface, blocks)?;
    let on: Vec<(&'static str, usize)> = bits
        .into_iter()
        .filter(|(_, bit)| is_on(&before, *bit))
        .collect();
    let mut report = OffloadReport::default();
    if on.is_empty() {
        return Ok(report);
    }
    // One at a time: a driver that refuses one feature would refuse the set.
    for (_, bit) in &on {
        let _ = ethtool(interface, Command::SetFeatures(blocks), |words| {
            words[0] = blocks as u32;
            words[1 + 2 * (bit / 32)] = 1 << (bit % 32);
        });
    }
    let after = active_features(interface, blocks)?;
    for (name, bit) in on {
        if is_on(&after, bit) {
            report.still_on.push(name);
        } else {
            report.switched_off.push(name);
        }
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_interface_has_no_driver_and_one_queue() {
        assert!(driver("sfx-none").is_err());
        assert!(driver("a-name-longer-than-fifteen").is_err());
        assert_eq!(queue_counts("sfx-none").usable(), 1);
        assert!(switch_offloads_off("sfx-none").is_err());
    }

    #[test]
    fn kernel_knows_the_offloads_by_name() {
        let (blocks, bits) = offload_bits("lo").unwrap();
        assert!(blocks >= 1);
        assert_eq!(bits.len(), OFFLOADS.len(), "{bits:?}");
    }

    #[test]
    fn report_reads_well() {
        let report = OffloadReport {
            switched_off: vec!["rx-lro", "rx-gro-hw"],
            still_on: vec![],
        };
        assert_eq!(
            report.to_string(),
            "switched off: rx-lro, rx-gro-hw; still on: none"
        );
    }
}

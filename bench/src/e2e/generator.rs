//! The generator: XDP live frames out of an interface, as fast as a CPU can.

use super::role::{self, Reading};
use super::{Context, Error};
use crate::frame::{self, Flow};
use crate::population::{LOCAL, NATIVE};
use aya::maps::{Array, PerCpuArray};
use aya::programs::{TestRun, TestRunAttrs, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use sixferry_wire::{checksum, ether, ipv4};
use std::sync::mpsc;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/generator.bpf.o"));

/// `HEADER_WORDS` of `bpf/generator.bpf.c`.
const HEADER_WORDS: usize = 7;
/// `TICK_SHIFT` of `bpf/generator.bpf.c`, as a factor.
const TICKS_PER_SECOND: u64 = 1_000_000_000 << 6;
/// `PAUSED` of `bpf/generator.bpf.c`.
const PAUSED: u64 = u64::MAX;
/// Frames that the kernel keeps in flight in one go.
const BATCH: u32 = 64;
/// The smallest 6in4 frame with UDP inside; the shortest possible.
pub const FRAME_MIN: usize = 14 + 20 + 40 + 8;
/// Address of the first tunnel's peer.
pub const FIRST_PEER: u32 = 0x0a40_0000;

/// What to send.
#[derive(Clone, Debug)]
pub struct Traffic {
    /// Out of tunnels, or native.
    pub tunnelled: bool,
    /// Tunnels they belong to: a power of two.
    pub flows: u32,
    /// Length of the frames, without FCS.
    pub frame_len: usize,
}

/// The /48 of a flow, as the generator writes it.
#[must_use]
pub fn prefix(flow: u32) -> u128 {
    0x2a00 << 112 | u128::from(flow) << 80
}

impl Traffic {
    fn template(&self) -> Vec<u8> {
        let host = prefix(0) | 0x1_0000_0000_0001;
        let outer_len = if self.tunnelled { ipv4::HEADER_LEN } else { 0 };
        let inner_len = self.frame_len - ether::HEADER_LEN - outer_len;
        let native = u128::from(NATIVE);
        let flow = if self.tunnelled {
            Flow {
                outer: Some(([0; 4], LOCAL.octets())),
                src: host,
                dst: native,
                inner_len,
            }
        } else {
            Flow {
                outer: None,
                src: native,
                dst: host,
                inner_len,
            }
        };
        let mut bytes = vec![0; self.frame_len];
        frame::write(&mut bytes, &flow);
        // the program adds source and checksum
        if self.tunnelled {
            bytes[ether::HEADER_LEN + 10..ether::HEADER_LEN + 12].fill(0);
        }
        bytes
    }

    fn load(&self, template: &[u8], egress: u32) -> Result<Ebpf, Error> {
        let mut header = [0_u64; HEADER_WORDS];
        for (word, bytes) in header.iter_mut().zip(template.as_chunks::<8>().0) {
            *word = u64::from_ne_bytes(*bytes);
        }
        let ip = template.get(ether::HEADER_LEN..ether::HEADER_LEN + ipv4::HEADER_LEN);
        let base = u32::from(checksum::fold(checksum::sum(ip.unwrap_or(&[]))));
        EbpfLoader::new()
            .override_global("egress", &egress, true)
            .override_global("tunnelled", &u32::from(self.tunnelled), true)
            .override_global("flow_mask", &(self.flows - 1), true)
            .override_global("first_peer", &FIRST_PEER, true)
            .override_global("checksum_base", &base, true)
            .override_global("header", &header, true)
            .load(OBJECT)
            .during("loading the generator")
    }
}

/// How many frames to send; a line for the generator's standard input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// As fast as it goes, as from the start.
    Full,
    /// So many a second.
    PerSecond(u64),
    /// So many a second, seven of eight of them such as a relay drops.
    Flood(u64),
    /// None.
    Paused,
}

impl Pace {
    /// The line that asks for it.
    #[must_use]
    pub fn line(self) -> String {
        let flood = u8::from(matches!(self, Self::Flood(_)));
        format!("{} {flood}", self.gap())
    }

    /// Ticks between two frames, as the program takes them.
    fn gap(self) -> u64 {
        match self {
            Self::Full => 0,
            Self::PerSecond(rate) | Self::Flood(rate) => TICKS_PER_SECOND / rate.max(1),
            Self::Paused => PAUSED,
        }
    }
}

/// Where a process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    /// Its CPU.
    pub cpu: usize,
    /// Its nice value there.
    pub nice: i32,
}

/// Sends until standard input ends. Called in the generator's namespace.
///
/// # Errors
/// What the kernel refuses.
pub fn run(interface: &str, traffic: &Traffic, seat: Seat) -> Result<(), Error> {
    let egress = rustix::net::netdevice::name_to_index(
        rustix::net::socket(
            rustix::net::AddressFamily::INET,
            rustix::net::SocketType::DGRAM,
            None,
        )
        .during("a socket")?,
        interface,
    )
    .during(interface)?;
    let template = traffic.template();
    let mut ebpf = traffic.load(&template, egress)?;
    let map = ebpf.take_map("sent").ok_or("no such map").during("sent")?;
    let sent = PerCpuArray::<_, u64>::try_from(map).during("sent")?;
    let map = ebpf.take_map("gap").ok_or("no such map").during("gap")?;
    let mut gap = Array::<_, u64>::try_from(map).during("gap")?;
    let (ready, started) = mpsc::channel();
    // blocks in the kernel from here on; the process's end ends it
    std::thread::spawn(move || {
        let outcome = (|| {
            role::settle(seat.cpu, seat.nice)?;
            _ = ready.send(Ok(rustix::thread::gettid().as_raw_nonzero().get()));
            generate(&mut ebpf, &template, egress)
        })();
        _ = ready.send(outcome.map(|()| 0));
    });
    let thread = started.recv().during("the generator's thread")??;
    role::serve(|command| {
        if !command.is_empty() {
            for (at, number) in (0..2).zip(command.split(' ')) {
                gap.set(at, number.parse::<u64>().during(command)?, 0)
                    .during("gap")?;
            }
        }
        if let Ok(outcome) = started.try_recv() {
            outcome?;
        }
        Ok(Reading {
            at: role::now(),
            packets: sent.get(&0, 0).during("sent")?.iter().sum(),
            flooded: sent.get(&1, 0).during("sent")?.iter().sum(),
            on_cpu: role::on_cpu(thread)?,
        })
    })
}

fn generate(ebpf: &mut Ebpf, template: &[u8], ingress: u32) -> Result<(), Error> {
    let program = ebpf
        .program_mut("sixferry_generate")
        .ok_or("no such program")
        .during("sixferry_generate")?;
    let program: &mut Xdp = program.try_into().during("sixferry_generate")?;
    program.load().during("loading the generator")?;
    // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex
    let data_end = u32::try_from(template.len()).during("the frame's length")?;
    let context = [0, data_end, 0, ingress, 0, 0].map(u32::to_ne_bytes);
    loop {
        // one long call: the end of each waits for a grace period of the kernel, some 20 ms
        let options = TestRunOptions {
            data_in: Some(template),
            ctx_in: Some(context.as_flattened()),
            repeat: i32::MAX.unsigned_abs(),
            attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
            ..TestRunOptions::default()
        };
        program.test_run(options).during("live frames")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = include_str!("../../bpf/generator.bpf.c");

    #[test]
    fn the_header_is_as_long_as_the_program_thinks() {
        assert!(SOURCE.contains(&format!("#define HEADER_WORDS {HEADER_WORDS} ")));
        // up to and with the hop limit of the inner header
        const { assert!(HEADER_WORDS * 8 >= 14 + 20 + 8 && HEADER_WORDS * 8 <= FRAME_MIN - 20) };
    }

    #[test]
    fn the_pace_is_what_the_program_reads() {
        assert!(SOURCE.contains("#define TICK_SHIFT 6 "));
        assert!(SOURCE.contains("#define PAUSED (~0ull)"));
        assert_eq!(Pace::PerSecond(1_000_000).line(), "64000 0");
        assert_eq!(Pace::Flood(1_000_000).line(), "64000 1");
        assert_eq!(Pace::Full.line(), "0 0");
        assert_eq!(Pace::Paused.line(), format!("{} 0", u64::MAX));
    }

    #[test]
    fn templates_leave_room_for_the_flow() {
        for tunnelled in [true, false] {
            let traffic = Traffic {
                tunnelled,
                flows: 1,
                frame_len: FRAME_MIN,
            };
            let template = traffic.template();
            assert_eq!(template.len(), FRAME_MIN);
            let ether_type = ether::parse(&template).map(|header| header.ether_type);
            let expected = if tunnelled {
                ether::TYPE_IPV4
            } else {
                ether::TYPE_IPV6
            };
            assert_eq!(ether_type, Some(expected));
        }
    }
}

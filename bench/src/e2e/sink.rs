//! The sink: counts and drops what arrives at an interface.

use super::role::{self, Reading};
use super::{Context, Error};
use aya::Ebpf;
use aya::maps::PerCpuArray;
use aya::programs::{Xdp, xdp::XdpMode};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sink.bpf.o"));

/// Counts until standard input ends. Called in the interface's namespace.
///
/// # Errors
/// What the kernel refuses.
pub fn run(interface: &str) -> Result<(), Error> {
    let mut ebpf = Ebpf::load(OBJECT).during("loading the sink")?;
    let map = ebpf
        .take_map("arrived")
        .ok_or("no such map")
        .during("arrived")?;
    let arrived = PerCpuArray::<_, u64>::try_from(map).during("arrived")?;
    let program = ebpf
        .program_mut("sixferry_sink")
        .ok_or("no such program")
        .during("sixferry_sink")?;
    let program: &mut Xdp = program.try_into().during("sixferry_sink")?;
    program.load().during("loading the sink")?;
    program
        .attach(interface, XdpMode::Driver)
        .during(format!("attaching the sink to {interface}"))?;
    role::serve(|_| {
        Ok(Reading {
            at: role::now(),
            packets: arrived.get(&0, 0).during("arrived")?.iter().sum(),
            on_cpu: 0,
            ..Reading::default()
        })
    })
}

//! The yardstick: AF_XDP with nothing looked up, over the same sockets and steering as the relay.

use super::role::{self, Reading};
use super::{Context, Error};
use crate::frame::{INSIDE_MAC, RELAY_MAC};
use crate::pktgen::traffic::{FIRST_PEER, prefix};
use crate::population::LOCAL;
use aya::Ebpf;
use aya::maps::XskMap;
use aya::programs::{Xdp, xdp::XdpMode};
use sixferry_engine::{BATCH_MAX, Frame, FramePool, Port, RxPacket};
use sixferry_wire::{ether, ipv4};
use sixferry_xsk::open::{OpenOptions, PortSpec, open};
use sixferry_xsk::{AddressUse, Covering, PortMode, SteerConfig, XskPort};
use std::net::Ipv6Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;

static BARE: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/bare.bpf.o"));

/// The name of its working thread.
pub const THREAD: &str = "reference";
/// As many as the relay has.
pub const FRAMES: u32 = 16_384;

/// What the worker does with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Work {
    /// Gives the frame back: the ceiling of reception.
    Drop,
    /// The same, with an XDP program that parses nothing: what steering costs.
    Bare,
    /// Swaps the hardware addresses and sends it back: the ceiling of forwarding.
    Echo,
    /// Strips the outer header, sends by the other port.
    Decap,
    /// Puts a fixed outer header in front, sends by the other port.
    Encap,
}

impl Work {
    fn interfaces(self) -> usize {
        match self {
            Self::Drop | Self::Bare | Self::Echo => 1,
            Self::Decap | Self::Encap => 2,
        }
    }
}

/// Works until standard input ends. Called in the namespace of the device under test.
///
/// # Errors
/// What the kernel refuses.
pub fn run(work: Work, interfaces: &[String], cpu: usize) -> Result<(), Error> {
    let specs: Vec<PortSpec> = interfaces
        .iter()
        .take(work.interfaces())
        .map(|interface| PortSpec {
            interface: interface.clone(),
            mode: PortMode::Auto,
        })
        .collect();
    let options = OpenOptions {
        workers: 1,
        frames: FRAMES,
    };
    let mut set = open(&specs, options).during("opening the ports")?;
    for port in &mut set.ports {
        let wanted = steering(port.steering.tables().config().mac);
        port.steering.apply(&wanted).during("steering")?;
    }
    let mut worker = set.workers.remove(0);
    let mut bare = None;
    if let (Work::Bare, Some(port)) = (work, worker.ports.first()) {
        // one program fits
        set.ports.clear();
        bare = Some(attach_bare(port)?);
    }
    let taken = Arc::new(AtomicU64::new(0));
    let count = taken.clone();
    let (ready, started) = mpsc::channel();
    let named = std::thread::Builder::new().name(THREAD.to_owned());
    let work = move || {
        let thread = rustix::thread::gettid().as_raw_nonzero().get();
        _ = ready.send(role::settle(cpu, role::FIRST_IN_LINE).map(|()| thread));
        loop {
            let done = turn(work, &mut worker.ports, &mut worker.pool);
            // one writer: no locked add needed
            count.store(count.load(Ordering::Relaxed) + done, Ordering::Relaxed);
        }
    };
    named.spawn(work).during("the worker's thread")?;
    let thread = started.recv().during("the worker's thread")??;
    role::serve(|_| {
        Ok(Reading {
            at: role::now(),
            packets: taken.load(Ordering::Relaxed),
            on_cpu: role::on_cpu(thread)?,
            ..Reading::default()
        })
    })?;
    // detach first; the worker's thread goes with the process
    drop((set.ports, bare));
    Ok(())
}

/// Gives all that comes to the port's socket.
fn attach_bare(port: &XskPort) -> Result<Ebpf, Error> {
    let name = "sixferry_bare";
    let mut ebpf = Ebpf::load(BARE).during(name)?;
    let map = ebpf.take_map("sockets").ok_or("no such map");
    let mut sockets = XskMap::try_from(map.during(name)?).during(name)?;
    let socket = port.socket_fd().ok_or("closed").during("the socket")?;
    sockets.set(port.queue(), socket, 0).during("the socket")?;
    let program = ebpf.program_mut(name).ok_or("no such program");
    let program: &mut Xdp = program.during(name)?.try_into().during(name)?;
    program.load().during(name)?;
    program
        .attach(port.interface(), XdpMode::Driver)
        .during(name)?;
    Ok(ebpf)
}

/// What the relay would ask for with the bench's tunnels.
fn steering(mac: [u8; 6]) -> SteerConfig {
    let used = AddressUse {
        proto41: true,
        dedicated: false,
    };
    SteerConfig {
        mac,
        tunnel_addresses: [(LOCAL, used)].into(),
        covering: Covering::new(Ipv6Addr::from(prefix(0)), 16)
            .into_iter()
            .collect(),
        ..SteerConfig::default()
    }
}

/// Takes what is there and deals with it; returns how many packets that were.
fn turn(work: Work, ports: &mut [XskPort], pool: &mut FramePool) -> u64 {
    let mut received = arrayvec::ArrayVec::<RxPacket, BATCH_MAX>::new();
    let Some((first, others)) = ports.split_first_mut() else {
        return 0;
    };
    first.rx(pool, &mut received);
    let taken = received.len() as u64;
    for packet in received {
        let done = match (work, others.first_mut()) {
            (Work::Decap, Some(out)) => decap(packet, out, pool),
            (Work::Encap, Some(out)) => encap(packet, out, pool),
            (Work::Echo, _) => echo(packet, first, pool),
            _ => Err(packet.frame),
        };
        if let Err(frame) = done {
            pool.push(frame);
        }
    }
    first.flush(pool);
    for port in others {
        port.flush(pool);
    }
    taken
}

fn echo(packet: RxPacket, out: &mut XskPort, pool: &mut FramePool) -> Result<(), Frame> {
    let RxPacket {
        mut frame,
        head,
        len,
    } = packet;
    let start = usize::from(head);
    let (dst, src) = frame.bytes_mut()[start..start + 12].split_at_mut(6);
    dst.swap_with_slice(src);
    out.tx(frame, head, len, pool)
}

fn decap(packet: RxPacket, out: &mut XskPort, pool: &mut FramePool) -> Result<(), Frame> {
    const OUTER: u16 = ipv4::HEADER_LEN as u16;
    let RxPacket {
        mut frame,
        head,
        len,
    } = packet;
    let start = usize::from(head + OUTER);
    let bytes = &mut frame.bytes_mut()[start..];
    if let Some(header) = bytes.first_chunk_mut() {
        ether::emit(header, INSIDE_MAC, RELAY_MAC, ether::TYPE_IPV6);
    }
    bytes[ether::HEADER_LEN + 7] -= 1;
    out.tx(frame, head + OUTER, len - OUTER, pool)
}

fn encap(packet: RxPacket, out: &mut XskPort, pool: &mut FramePool) -> Result<(), Frame> {
    const OUTER: u16 = ipv4::HEADER_LEN as u16;
    let RxPacket {
        mut frame,
        head,
        len,
    } = packet;
    let start = usize::from(head - OUTER);
    let bytes = &mut frame.bytes_mut()[start..];
    bytes[ether::HEADER_LEN + ipv4::HEADER_LEN + 7] -= 1;
    let repr = ipv4::Repr {
        tos: 0,
        total_len: len + OUTER - ether::HEADER_LEN as u16,
        identification: 0,
        df: false,
        ttl: 64,
        protocol: ipv4::PROTO_IPV6,
        src: LOCAL.octets(),
        dst: FIRST_PEER.to_be_bytes(),
    };
    if let Some(header) = bytes.first_chunk_mut() {
        ether::emit(header, INSIDE_MAC, RELAY_MAC, ether::TYPE_IPV4);
    }
    if let Some(header) = bytes[ether::HEADER_LEN..].first_chunk_mut() {
        repr.emit(header);
    }
    out.tx(frame, head - OUTER, len + OUTER, pool)
}

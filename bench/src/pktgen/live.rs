//! XDP live frames: the kernel runs the program on pages of its own and sends what that redirects.

use super::pace::{Orders, Pace};
use super::role::{self, Reading, Seat};
use super::sizes::SLOTS;
use super::traffic::Traffic;
use crate::error::{Context, Error};
use aya::maps::{Array, MapData};
use aya::programs::{ProgramError, TestRun, TestRunAttrs, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use std::io::ErrorKind;
use std::sync::mpsc::{self, Receiver};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/generator.bpf.o"));

/// `HEADER_WORDS` of `bpf/generator.bpf.c`.
const HEADER_WORDS: usize = 7;
const PROGRAM: &str = "sixferry_generate";

/// The program and what it works on.
struct Program {
    ebpf: Ebpf,
    template: Vec<u8>,
    egress: u32,
    batch: u32,
}

/// How it is watched and steered.
struct Maps {
    sent: Array<MapData, u64>,
    orders: Array<MapData, u64>,
}

/// A running sender. Its thread is in the kernel until the process ends.
pub struct Live {
    maps: Maps,
    thread: i32,
    outcome: Receiver<Error>,
}

fn load(traffic: &Traffic, egress: u32) -> Result<(Program, Maps), Error> {
    let template = traffic.template();
    let mut header = [0_u64; HEADER_WORDS];
    for (word, bytes) in header.iter_mut().zip(template.as_chunks::<8>().0) {
        *word = u64::from_ne_bytes(*bytes);
    }
    // the program adds source, length and checksum
    let slots = traffic.sizes.slots();
    let mut lengths = [0_u16; SLOTS];
    for (slot, len) in lengths.iter_mut().zip(&slots) {
        *slot = u16::try_from(*len).during("a frame's length")?;
    }
    let bits = traffic.flow_bits();
    let destinations = traffic.destinations();
    let outer_len = traffic.encapsulation.outer_len() as u32;
    let mut ebpf = EbpfLoader::new()
        .override_global("egress", &egress, true)
        .override_global("outer_len", &outer_len, true)
        .override_global("flows", &traffic.flows, true)
        .override_global("first_peer", &u32::from(traffic.addresses.first_peer), true)
        .override_global("checksum_base", &traffic.checksum_base(), true)
        .override_global("flow_at", &(bits.at as u32), true)
        .override_global("flow_base", &bits.base, true)
        .override_global("flow_mask", &bits.mask, true)
        .override_global("routed", &u32::from(!destinations.is_empty()), true)
        .override_global("tag_every", &traffic.tag_every, true)
        .override_global("catch_up", &traffic.catch_up, true)
        .override_global("slot_mask", &(slots.len() as u32 - 1), true)
        .override_global("slot_len", &lengths, true)
        .override_global("header", &header, true)
        .map_max_entries("routes", destinations.len().max(1) as u32)
        .load(OBJECT)
        .during("loading the generator")?;
    let mut map = |name: &str| ebpf.take_map(name).ok_or("no such map").during(name);
    let mut routes = Array::<_, u64>::try_from(map("routes")?).during("routes")?;
    for (at, bits) in (0..).zip(destinations) {
        routes.set(at, bits, 0).during("routes")?;
    }
    let maps = Maps {
        sent: Array::try_from(map("sent")?).during("sent")?,
        orders: Array::try_from(map("orders")?).during("orders")?,
    };
    let mut program = Program {
        ebpf,
        template,
        egress,
        batch: traffic.batch,
    };
    program.xdp()?.load().during("loading the generator")?;
    Ok((program, maps))
}

impl Maps {
    fn order(&mut self, wanted: Orders) -> Result<(), Error> {
        let values = [wanted.gap, u64::from(wanted.flood), wanted.limit];
        for (at, value) in (0..).zip(values) {
            self.orders.set(at, value, 0).during("orders")?;
        }
        Ok(())
    }
}

impl Maps {
    fn reading(&self) -> Result<Reading, Error> {
        let total = |at: u32| self.sent.get(&at, 0).during("sent");
        Ok(Reading {
            at: role::now(),
            packets: total(0)?,
            flooded: total(1)?,
            tagged: total(2)?,
            bytes: total(3)?,
            on_cpu: 0,
        })
    }
}

impl Program {
    fn xdp(&mut self) -> Result<&mut Xdp, Error> {
        let program = self.ebpf.program_mut(PROGRAM).ok_or("no such program");
        program.during(PROGRAM)?.try_into().during(PROGRAM)
    }

    /// Runs the program until that fails, in long calls, for the end of each waits for a grace period of
    /// the kernel, some 20 ms.
    fn run_on(&mut self) -> Error {
        loop {
            if let Err(error) = self.run(i32::MAX.unsigned_abs()) {
                return error;
            }
        }
    }

    fn run(&mut self, frames: u32) -> Result<(), Error> {
        let template = self.template.clone();
        let data_end = u32::try_from(template.len()).during("the frame's length")?;
        // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex
        let context = [0, data_end, 0, self.egress, 0, 0].map(u32::to_ne_bytes);
        let options = TestRunOptions {
            data_in: Some(&template),
            ctx_in: Some(context.as_flattened()),
            repeat: frames,
            attrs: TestRunAttrs::new().xdp_live_frames(self.batch),
            ..TestRunOptions::default()
        };
        match self.xdp()?.test_run(options) {
            // the process was stopped, and goes on
            Err(ProgramError::SyscallError(error))
                if error.io_error.kind() == ErrorKind::Interrupted =>
            {
                Ok(())
            }
            result => result.map(drop).during("live frames"),
        }
    }
}

/// Sends a few frames, and says how many if the interface counts them as sent. Drivers that cannot
/// transmit what is redirected drop it without a word.
///
/// # Errors
/// What the kernel refuses.
pub fn probe(
    traffic: &Traffic,
    interface: &str,
    egress: u32,
    frames: u32,
) -> Result<Option<Reading>, Error> {
    let (mut program, mut maps) = load(traffic, egress)?;
    let before = transmitted(interface)?;
    maps.order(Pace::Full.orders(frames.into()))?;
    program.run(frames)?;
    let taken = transmitted(interface)? - before;
    let sent = maps.reading()?;
    Ok((taken >= u64::from(frames.div_ceil(2))).then_some(sent))
}

fn transmitted(interface: &str) -> Result<u64, Error> {
    let path = format!("/sys/class/net/{interface}/statistics/tx_packets");
    let text = std::fs::read_to_string(&path).during(&path)?;
    text.trim().parse().during(path)
}

impl Live {
    /// Starts sending as ordered.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn start(
        traffic: &Traffic,
        egress: u32,
        seat: Option<Seat>,
        first: Orders,
    ) -> Result<Self, Error> {
        let (mut program, mut maps) = load(traffic, egress)?;
        maps.order(first)?;
        let (ready, started) = mpsc::channel();
        let (ended, outcome) = mpsc::channel();
        // blocks in the kernel from here on; the process's end ends it
        std::thread::spawn(move || {
            let settled = seat.map_or(Ok(()), |seat| role::settle(seat.cpu, seat.nice));
            let thread = rustix::thread::gettid().as_raw_nonzero().get();
            let good = settled.is_ok();
            _ = ready.send(settled.map(|()| thread));
            if good {
                _ = ended.send(program.run_on());
            }
        });
        let thread = started.recv().during("the generator's thread")??;
        Ok(Self {
            maps,
            thread,
            outcome,
        })
    }

    /// Sends otherwise from now on.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn order(&mut self, wanted: Orders) -> Result<(), Error> {
        self.maps.order(wanted)
    }

    /// What it has sent.
    ///
    /// # Errors
    /// When the sender has failed.
    pub fn reading(&self) -> Result<Reading, Error> {
        if let Ok(error) = self.outcome.try_recv() {
            return Err(error);
        }
        Ok(Reading {
            on_cpu: role::on_cpu(self.thread)?,
            ..self.maps.reading()?
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pktgen::sizes::Sizes;
    use crate::pktgen::socket::Frames;
    use crate::pktgen::traffic::Encapsulation;
    use clap::ValueEnum;

    const SOURCE: &str = include_str!("../../bpf/generator.bpf.c");

    #[test]
    fn the_header_is_as_long_as_the_program_thinks() {
        assert!(SOURCE.contains(&format!("#define HEADER_WORDS {HEADER_WORDS} ")));
        assert!(SOURCE.contains(&format!("#define SLOTS {SLOTS}\n")));
        for kind in Encapsulation::value_variants() {
            // up to and with the hop limit of the inner header
            assert!(HEADER_WORDS * 8 >= 14 + kind.outer_len() + 8);
            assert!(HEADER_WORDS * 8 <= kind.frame_min());
        }
    }

    /// The first frames of the program, run on pages that were through a device under test.
    fn frames(traffic: &Traffic, count: u32) -> Vec<Vec<u8>> {
        let (mut program, mut maps) = load(traffic, 1).expect("the program loads");
        maps.order(Pace::Full.orders(u64::MAX)).expect("orders");
        let mut used = traffic.template();
        used[..HEADER_WORDS * 8].fill(0xa5);
        (0..count)
            .map(|_| {
                let mut out = vec![0; used.len() + 256];
                let options = TestRunOptions {
                    data_in: Some(&used),
                    data_out: Some(&mut out),
                    ..TestRunOptions::default()
                };
                let result = program
                    .xdp()
                    .expect("XDP")
                    .test_run(options)
                    .expect("a run");
                out.truncate(result.data_size_out as usize);
                assert_eq!(result.return_value, 4, "XDP_REDIRECT");
                out
            })
            .collect()
    }

    #[test]
    #[ignore = "needs root"]
    fn the_program_makes_the_frames_of_the_other_sender() {
        let kinds = Encapsulation::value_variants();
        let routed = [(Encapsulation::Native, true)];
        for (kind, routes) in kinds.iter().map(|kind| (*kind, false)).chain(routed) {
            for sizes in ["130", "110:2,300:1,1514:1"] {
                let traffic = Traffic {
                    encapsulation: kind,
                    flows: 1000,
                    sizes: sizes.parse::<Sizes>().expect("sizes"),
                    routes,
                    ..Traffic::default()
                };
                let mut other = Frames::new(&traffic);
                for (at, frame) in frames(&traffic, 100).iter().enumerate() {
                    let (len, _) = other.prepare();
                    assert_eq!(frame, &other.buffer[..len], "{kind:?} {sizes} frame {at}");
                }
            }
        }
    }
}

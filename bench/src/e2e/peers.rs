//! What relays are compared with besides the reference worker: the kernel's own forwarding, a
//! decapsulation that never leaves the kernel, and DPDK.

use super::lab::{Lab, Place, run};
use super::role::{self, Reading};
use super::{Context, Error, LOOK, last_lines};
use crate::cpu;
use crate::frame::{INSIDE_MAC, RELAY_MAC};
use crate::pktgen::interface_index;
use crate::pktgen::traffic::FIRST_PEER;
use aya::EbpfLoader;
use aya::maps::HashMap;
use aya::programs::{Xdp, xdp::XdpMode};
use rustix::process::Pid;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::NamedTempFile;

static DECAP: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/decap.bpf.o"));
/// How long DPDK may take to start.
const START: Duration = Duration::from_secs(30);
/// A worker that has been on its CPU for so many nanoseconds polls its ports: before that it waits in a
/// pipe.
const POLLING: u64 = 20_000_000;
/// How long the kernel may take to start a thread.
const THREAD: Duration = Duration::from_secs(5);

/// Decapsulates in the kernel from one interface to another until standard input ends. Called in the
/// namespace of the device under test.
///
/// # Errors
/// What the kernel refuses.
pub fn decap_in_kernel(ingress: &str, egress: &str, tunnels: u32) -> Result<(), Error> {
    let egress = interface_index(egress)?;
    let mut ebpf = EbpfLoader::new()
        .override_global("egress", &egress, true)
        .override_global("destination", &INSIDE_MAC, true)
        .override_global("source", &RELAY_MAC, true)
        .map_max_entries("tunnels", tunnels)
        .load(DECAP)
        .during("loading the decapsulation")?;
    let map = ebpf.take_map("tunnels").ok_or("no such map");
    let mut table =
        HashMap::<_, [u8; 4], u32>::try_from(map.during("tunnels")?).during("tunnels")?;
    for tunnel in 0..tunnels {
        let peer = (FIRST_PEER + tunnel).to_be_bytes();
        table.insert(peer, tunnel, 0).during("tunnels")?;
    }
    let name = "sixferry_decap";
    let program = ebpf.program_mut(name).ok_or("no such program");
    let program: &mut Xdp = program.during(name)?.try_into().during(name)?;
    program.load().during("loading the decapsulation")?;
    program
        .attach(ingress, XdpMode::Driver)
        .during(format!("attaching to {ingress}"))?;
    // it has no thread whose CPU time would say anything
    role::serve(|_| Ok(Reading::default()))
}

/// The kernel forwards IPv6 in the device's namespace, `dut0`'s receive work in a thread of its own; off
/// again on drop.
#[derive(Debug)]
pub struct Forwarding<'a>(&'a Lab);

impl<'a> Forwarding<'a> {
    /// Switches it on, the thread on `cpu`.
    ///
    /// # Errors
    /// When there is no such thread.
    pub fn start(lab: &'a Lab, cpu: usize) -> Result<Self, Error> {
        let forwarding = Self(lab);
        forwarding.switch(true)?;
        let deadline = Instant::now() + THREAD;
        let thread = loop {
            if let Some(thread) = thread("napi/dut0-") {
                break thread;
            }
            if Instant::now() > deadline {
                return Err("the kernel has not started it").during("dut0's receive thread");
            }
            std::thread::sleep(LOOK);
        };
        cpu::pin_thread(Some(thread), cpu).during("dut0's receive thread")?;
        // a container may forbid it
        _ = rustix::process::setpriority_process(Some(thread), role::FIRST_IN_LINE);
        Ok(forwarding)
    }

    fn switch(&self, on: bool) -> Result<(), Error> {
        let value = u8::from(on);
        let route = if on { "replace" } else { "del" };
        let script = format!(
            "echo {value} > /sys/class/net/dut0/threaded
             echo {value} > /proc/sys/net/ipv6/conf/all/forwarding
             ip -6 route {route} 2a00::/16 via 2001:db8:2::2"
        );
        let mut command = self.0.command(Place::Device, Path::new("sh"));
        run(command.args(["-ec", &script]))
    }
}

impl Drop for Forwarding<'_> {
    fn drop(&mut self) {
        _ = self.switch(false);
    }
}

/// The kernel's thread whose name begins so; the newest, for a namespace that is going may still have
/// one.
fn thread(name: &str) -> Option<Pid> {
    let named = |entry: std::fs::DirEntry| {
        let number: i32 = entry.file_name().to_str()?.parse().ok()?;
        let comm = std::fs::read_to_string(entry.path().join("comm")).ok()?;
        comm.starts_with(name).then_some(number)
    };
    let entries = std::fs::read_dir("/proc").ok()?;
    let newest = entries.flatten().filter_map(named).max()?;
    Pid::from_raw(newest)
}

/// DPDK's forwarder, if it is installed.
#[must_use]
pub fn testpmd() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|directory| directory.join("dpdk-testpmd"))
        .find(|program| program.exists())
}

/// A running testpmd; killed on drop.
#[derive(Debug)]
pub struct Testpmd {
    child: Child,
    log: NamedTempFile,
}

impl Testpmd {
    /// Has it pass on all that comes, between `dut0` and `dut1` through its AF_XDP driver, on the
    /// device's CPU.
    ///
    /// # Errors
    /// When it is not installed or does not start; the error has the end of its log.
    pub fn start(lab: &Lab, cpus: [usize; 2]) -> Result<Self, Error> {
        let program = testpmd().ok_or("not installed").during("dpdk-testpmd")?;
        let log = NamedTempFile::new().during("testpmd's log")?;
        let output = || log.reopen().during("testpmd's log");
        let [main, worker] = cpus;
        let mut command: Command = lab.command(Place::Device, &program);
        command
            .args(["-l", &format!("{main},{worker}")])
            .arg(format!("--main-lcore={main}"))
            .args(["--no-huge", "-m", "512", "--no-pci"])
            .args(["--file-prefix", &format!("sfb-{}", std::process::id())])
            .args(["--vdev", "net_af_xdp0,iface=dut0"])
            .args(["--vdev", "net_af_xdp1,iface=dut1"])
            .args(["--", "--nb-cores=1", "--forward-mode=io", "--auto-start"])
            .args(["--stats-period=0", "--total-num-mbufs=16384", "--burst=64"])
            .args(["--txd=1024", "--rxd=1024"]);
        let child = command
            // it ends with its standard input
            .stdin(Stdio::piped())
            .stdout(output()?)
            .stderr(output()?)
            .spawn()
            .during("dpdk-testpmd")?;
        super::lab::weigh(child.id(), role::FIRST_IN_LINE);
        let mut testpmd = Self { child, log };
        testpmd.wait()?;
        Ok(testpmd)
    }

    /// Until it forwards. Its main thread shares the generator's CPU, and would not get that far beside
    /// traffic.
    fn wait(&mut self) -> Result<(), Error> {
        let deadline = Instant::now() + START;
        while self.worker_on_cpu().unwrap_or(0) < POLLING {
            let ended = self.child.try_wait().during("testpmd")?;
            if ended.is_some() || Instant::now() > deadline {
                let action = ended.map_or("is not ready".to_owned(), |status| status.to_string());
                return Err(last_lines(self.log.path())).during(format!("testpmd: {action}"));
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Its process.
    #[must_use]
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// Nanoseconds that its worker has been on a CPU.
    ///
    /// # Errors
    /// When it has ended.
    pub fn worker_on_cpu(&self) -> Result<u64, Error> {
        let worker = |name| role::thread_of(self.child.id(), name);
        // the name it has before and after DPDK 23
        let task = worker("rte-worker-").or_else(|_| worker("dpdk-worker"))?;
        role::schedstat(&task)
    }
}

impl Drop for Testpmd {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

//! The XDP programs on their interfaces, attached as bpf links.
//!
//! A link lives as long as its descriptor, so a daemon that dies, however it dies, leaves the
//! interface to the kernel.

use aya::Ebpf;
use aya::programs::links::FdLink;
use aya::programs::{Xdp, loaded_programs, xdp};
use rustix::io::Errno;
use rustix::thread::CapabilitySet;

use crate::bind::XdpMode;
use crate::error::{Operation, SetupError};
use crate::link::{AttachedProgram, LinkInfo};
use crate::steer::{SteerConfig, SteerCounters};
use crate::tables::SteerTables;

const PASS_PROGRAM: &str = "sixferry_pass";

static PASS_OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/pass.bpf.o"));

/// The steering program attached to one interface; detached when dropped.
pub struct Steering {
    // Dropped first: no frame is redirected while the maps go.
    _link: FdLink,
    mode: XdpMode,
    ifindex: u32,
    tables: SteerTables,
}

impl Steering {
    /// Loads the program and attaches it to `interface`, with its MAC address set and everything
    /// else passed to the kernel until told otherwise.
    ///
    /// # Errors
    /// [`SetupError::ProgramPresent`] if any XDP program is there already, or why the kernel
    /// refused.
    pub fn attach(interface: &str, mode: XdpMode, queues: u32) -> Result<Self, SetupError> {
        let link = LinkInfo::query(interface)?;
        let mac = link.require_mac()?;
        refuse_present(&link)?;
        let mut tables = SteerTables::load(interface, queues)?;
        tables.set_mac(mac)?;
        let attached = attach_link(tables.program()?, &link, mode)?;
        Ok(Self {
            _link: attached,
            mode,
            ifindex: link.index,
            tables,
        })
    }

    /// Where the program runs.
    pub fn mode(&self) -> XdpMode {
        self.mode
    }

    /// Index of the interface it is attached to.
    pub fn ifindex(&self) -> u32 {
        self.ifindex
    }

    /// What the program steers by, to be changed.
    pub fn tables_mut(&mut self) -> &mut SteerTables {
        &mut self.tables
    }

    /// What the program steers by.
    pub fn tables(&self) -> &SteerTables {
        &self.tables
    }

    /// Shorthand for [`SteerTables::apply`].
    ///
    /// # Errors
    /// As there.
    pub fn apply(&mut self, wanted: &SteerConfig) -> Result<(), SetupError> {
        self.tables.apply(wanted)
    }

    /// Shorthand for [`SteerTables::counters`].
    ///
    /// # Errors
    /// As there.
    pub fn counters(&self) -> Result<SteerCounters, SetupError> {
        self.tables.counters()
    }
}

/// A program that passes every frame, attached to an interface; detached when dropped.
///
/// The far end of a veth pair needs one before it accepts frames sent by XDP.
pub struct AttachedPass {
    _link: FdLink,
}

impl AttachedPass {
    /// Attaches the program to `interface`, which is looked up in the calling thread's network
    /// namespace.
    ///
    /// # Errors
    /// As [`Steering::attach`].
    pub fn attach(interface: &str, mode: XdpMode) -> Result<Self, SetupError> {
        let link = LinkInfo::query(interface)?;
        refuse_present(&link)?;
        require_bpf(interface)?;
        let fail = |error| SetupError::new(interface, Operation::LoadProgram, error);
        let mut ebpf = Ebpf::load(PASS_OBJECT).map_err(fail)?;
        load_program(&mut ebpf, PASS_PROGRAM).map_err(fail)?;
        let program = xdp_program(&mut ebpf, PASS_PROGRAM).map_err(fail)?;
        Ok(Self {
            _link: attach_link(program, &link, mode)?,
        })
    }
}

/// Refuses before the loader finds out: it probes the kernel's features once per process, and
/// takes every refusal for a missing feature.
pub(crate) fn require_bpf(interface: &str) -> Result<(), SetupError> {
    let held = rustix::thread::capabilities(None)
        .map_err(|error| SetupError::new(interface, Operation::LoadProgram, error))?
        .effective;
    let has = |one| held.intersects(one | CapabilitySet::SYS_ADMIN);
    if has(CapabilitySet::BPF) && has(CapabilitySet::NET_ADMIN) {
        return Ok(());
    }
    Err(SetupError::new(
        interface,
        Operation::LoadProgram,
        Errno::PERM,
    ))
}

pub(crate) fn xdp_program<'a>(
    ebpf: &'a mut Ebpf,
    name: &str,
) -> Result<&'a mut Xdp, aya::EbpfError> {
    use aya::programs::ProgramError::{NotLoaded, UnexpectedProgramType};
    let program = ebpf.program_mut(name).ok_or(NotLoaded)?;
    Ok(program.try_into().map_err(|_| UnexpectedProgramType)?)
}

pub(crate) fn load_program(ebpf: &mut Ebpf, name: &str) -> Result<(), aya::EbpfError> {
    Ok(xdp_program(ebpf, name)?.load()?)
}

fn refuse_present(link: &LinkInfo) -> Result<(), SetupError> {
    match AttachedProgram::on(link) {
        None => Ok(()),
        Some(program) => Err(SetupError::ProgramPresent {
            interface: link.name.clone(),
            program,
        }),
    }
}

fn attach_link(program: &mut Xdp, link: &LinkInfo, mode: XdpMode) -> Result<FdLink, SetupError> {
    let flags = match mode {
        XdpMode::Native => xdp::XdpMode::Driver,
        XdpMode::Generic => xdp::XdpMode::Skb,
    };
    let fail = |error| SetupError::new(&link.name, Operation::Attach, error);
    let attached = match program.attach_to_if_index(link.index, flags) {
        Ok(id) => program.take_link(id).map_err(fail)?,
        Err(error) => {
            let error = fail(error);
            if matches!(error.errno(), Some(Errno::BUSY | Errno::EXIST)) {
                // Somebody was faster since we looked.
                refuse_present(&LinkInfo::query(&link.name)?)?;
            }
            return Err(error);
        }
    };
    // Without bpf links (before Linux 5.9) the loader attaches over netlink instead; such a
    // program would stay when we die and send the tunnels' packets to nobody.
    FdLink::try_from(attached)
        .map_err(|error| SetupError::new(&link.name, Operation::Attach, error))
}

/// The name of a loaded program, if the kernel lets us ask.
pub(crate) fn program_name(id: u32) -> Option<String> {
    let mut programs = loaded_programs().filter_map(Result::ok);
    let found = programs.find(|program| program.id() == id)?;
    found.name_as_str().map(str::to_owned)
}

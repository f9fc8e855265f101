//! One AF_XDP socket: made, given rings, bound to one queue of one interface.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::xdp::{
    SocketAddrXdp, SocketAddrXdpFlags, SocketAddrXdpWithSharedUmem, XDP_PGOFF_RX_RING,
    XDP_PGOFF_TX_RING, XDP_UMEM_PGOFF_COMPLETION_RING, XDP_UMEM_PGOFF_FILL_RING, XdpOptionsFlags,
    XdpStatistics, XdpUmemReg, XdpUmemRegFlags,
};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with,
    sockopt,
};
use sixferry_engine::FRAME_LEN;

use crate::RING_ENTRIES;
use crate::bind::BindMode;
use crate::error::{Operation, SetupError};
use crate::ring::{Consumer, Desc, Producer};
use crate::umem::Umem;

/// A queue stays busy for 20 to 32 ms after its last socket closed, and for more than a second where others
/// keep the CPUs or the lock of the network configuration, which the kernel needs to let go of it.
const BUSY_WAIT: Duration = Duration::from_secs(5);
const BUSY_STEP: Duration = Duration::from_millis(5);
/// Copy mode charges every frame in flight to the socket: enough for a full ring of full frames
/// with their book-keeping, where the default stops at some 90 of them.
const SEND_BUFFER: usize = RING_ENTRIES as usize * 4096;

/// The file descriptor of an AF_XDP socket.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
}

/// The rings of a socket.
pub(crate) struct Rings {
    pub(crate) fill: Producer<u64>,
    pub(crate) rx: Consumer<Desc>,
    pub(crate) tx: Producer<Desc>,
    pub(crate) completion: Consumer<u64>,
}

/// Where a socket is bound.
#[derive(Clone, Debug)]
pub(crate) struct QueueId {
    pub(crate) interface: String,
    pub(crate) ifindex: u32,
    pub(crate) queue: u32,
}

impl Socket {
    /// An unbound socket. In a map of sockets it makes a redirect visible without taking a queue.
    pub(crate) fn unbound() -> io::Result<Self> {
        let fd = socket_with(
            AddressFamily::XDP,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            None,
        )?;
        Ok(Self { fd })
    }

    /// A socket with rings, bound to `queue` in `mode`.
    ///
    /// The first socket of a mode registers the memory, further ones share that registration.
    /// Sockets of another mode register the same memory again: the kernel gives all sharers of a
    /// registration one mode, and one port may have zero-copy where another has not.
    pub(crate) fn open(
        queue: &QueueId,
        umem: &Arc<Umem>,
        mode: BindMode,
    ) -> Result<(Arc<Self>, Rings), SetupError> {
        let fail =
            |operation| move |errno: Errno| SetupError::new(&queue.interface, operation, errno);
        let socket = Self::unbound()
            .map_err(|error| SetupError::new(&queue.interface, Operation::OpenSocket, error))?;
        let leader = umem.leader(mode);
        if leader.is_none() {
            sockopt::set_xdp_umem_reg(&socket.fd, registration(umem))
                .map_err(fail(Operation::RegisterUmem))?;
        }
        // Best effort: without the right to it the default remains, which only costs speed.
        let _ = sockopt::set_socket_send_buffer_size_force(&socket.fd, SEND_BUFFER);
        let rings = socket
            .rings()
            .map_err(|error| SetupError::new(&queue.interface, Operation::MakeRings, error))?;
        socket.bind(queue, mode, leader.as_deref())?;
        let socket = Arc::new(socket);
        if leader.is_none() {
            umem.add_leader(mode, &socket);
        }
        Ok((socket, rings))
    }

    fn rings(&self) -> io::Result<Rings> {
        sockopt::set_xdp_umem_fill_ring_size(&self.fd, RING_ENTRIES)?;
        sockopt::set_xdp_umem_completion_ring_size(&self.fd, RING_ENTRIES)?;
        sockopt::set_xdp_rx_ring_size(&self.fd, RING_ENTRIES)?;
        sockopt::set_xdp_tx_ring_size(&self.fd, RING_ENTRIES)?;
        let at = sockopt::xdp_mmap_offsets(&self.fd)?;
        let n = RING_ENTRIES;
        Ok(Rings {
            fill: Producer::map(&self.fd, &at.fr, n, XDP_UMEM_PGOFF_FILL_RING)?,
            completion: Consumer::map(&self.fd, &at.cr, n, XDP_UMEM_PGOFF_COMPLETION_RING)?,
            rx: Consumer::map(&self.fd, &at.rx, n, XDP_PGOFF_RX_RING)?,
            tx: Producer::map(&self.fd, &at.tx, n, XDP_PGOFF_TX_RING)?,
        })
    }

    fn bind(
        &self,
        queue: &QueueId,
        mode: BindMode,
        leader: Option<&Self>,
    ) -> Result<(), SetupError> {
        let deadline = Instant::now() + BUSY_WAIT;
        loop {
            let result = match leader {
                // The kernel refuses any other flag here: mode and wake-up are the leader's.
                Some(leader) => {
                    let flags = SocketAddrXdpFlags::XDP_SHARED_UMEM;
                    let addr = SocketAddrXdpWithSharedUmem {
                        addr: SocketAddrXdp::new(flags, queue.ifindex, queue.queue),
                        shared_umem_fd: leader.as_fd(),
                    };
                    bind(&self.fd, &addr)
                }
                None => {
                    let flags = SocketAddrXdpFlags::XDP_USE_NEED_WAKEUP
                        | match mode {
                            BindMode::ZeroCopy => SocketAddrXdpFlags::XDP_ZEROCOPY,
                            BindMode::Copy => SocketAddrXdpFlags::XDP_COPY,
                        };
                    let addr = SocketAddrXdp::new(flags, queue.ifindex, queue.queue);
                    bind(&self.fd, &addr)
                }
            };
            match result {
                Ok(()) => return Ok(()),
                Err(Errno::BUSY) if Instant::now() < deadline => std::thread::sleep(BUSY_STEP),
                Err(Errno::BUSY) => {
                    return Err(SetupError::QueueBusy {
                        interface: queue.interface.clone(),
                        queue: queue.queue,
                    });
                }
                Err(errno) => {
                    return Err(SetupError::new(&queue.interface, Operation::Bind, errno));
                }
            }
        }
    }

    /// The mode in force, whatever was asked for.
    pub(crate) fn bind_mode(&self) -> io::Result<BindMode> {
        let options = sockopt::xdp_options(&self.fd)?;
        Ok(if options.contains(XdpOptionsFlags::XDP_OPTIONS_ZEROCOPY) {
            BindMode::ZeroCopy
        } else {
            BindMode::Copy
        })
    }

    pub(crate) fn statistics(&self) -> io::Result<XdpStatistics> {
        Ok(sockopt::xdp_statistics(&self.fd)?)
    }

    /// Asks the kernel to look at the tx ring.
    pub(crate) fn kick_tx(&self) -> Result<(), Errno> {
        send(&self.fd, &[], SendFlags::DONTWAIT).map(|_| ())
    }

    /// Asks the kernel to look at the fill ring.
    pub(crate) fn kick_rx(&self) {
        let mut nothing = [0_u8; 0];
        // "Nothing there" and "busy" are the usual answers; the next turn asks again.
        let _ = recv(&self.fd, &mut nothing[..], RecvFlags::DONTWAIT);
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn registration(umem: &Umem) -> XdpUmemReg {
    XdpUmemReg {
        addr: umem.base_addr(),
        len: umem.len(),
        chunk_size: FRAME_LEN as u32,
        // The kernel leaves 256 bytes of its own in front of each packet: the headroom we want.
        headroom: 0,
        flags: XdpUmemRegFlags::empty(),
        tx_metadata_len: 0,
    }
}

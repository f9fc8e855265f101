//! A relay and a peer namespace, and the ports opened in them.
//!
//! ```text
//! relay namespace            peer namespace
//! r0 198.51.100.1/24  <-->  p0 198.51.100.2/24
//!    2001:db8:1::1/64          2001:db8:1::2/64
//! ```

use std::net::Ipv4Addr;
use std::time::Duration;

use sixferry_engine::{FramePool, Port};
use sixferry_xsk::open::open;
use sixferry_xsk::{AddressUse, OpenOptions, PortMode, PortSpec, SetupError, XskPort, XskSet};

use crate::netns::{self, Netns};

pub(crate) const RELAY: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
pub(crate) const PORT: u16 = 4028;
pub(crate) const FRAMES: u32 = 1024;
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A relay namespace and a peer, joined by a veth pair with `queues` queues each.
pub(crate) struct Lab {
    pub(crate) relay: Netns,
    pub(crate) peer: Netns,
}

impl Lab {
    pub(crate) fn new(queues: u32) -> Self {
        let (relay, peer) = (Netns::new(), Netns::new());
        let many = format!("numrxqueues {queues} numtxqueues {queues}");
        netns::sh(&format!(
            "ip link add r0 netns {} {many} address 02:00:00:00:00:01 type veth \
             peer name p0 netns {} {many} address 02:00:00:00:00:02",
            relay.name, peer.name
        ));
        relay.sh("ip address add 198.51.100.1/24 dev r0");
        relay.sh("ip address add 2001:db8:1::1/64 dev r0 nodad");
        relay.sh("ip link set r0 up");
        peer.sh("ip address add 198.51.100.2/24 dev p0");
        peer.sh("ip address add 2001:db8:1::2/64 dev p0 nodad");
        peer.sh("ip link set p0 up");
        // A kernel sender leaves checksums to the NIC, which veth has not.
        peer.sh("ethtool -K p0 tx off txvlan off");
        peer.sh("ip neigh add 198.51.100.1 lladdr 02:00:00:00:00:01 dev p0 nud permanent");
        peer.sh("ip neigh add 2001:db8:1::1 lladdr 02:00:00:00:00:01 dev p0 nud permanent");
        Self { relay, peer }
    }

    pub(crate) fn ping(&self) {
        self.peer.sh("ping -q -c 1 -W 5 198.51.100.1");
    }
}

pub(crate) fn spec(interface: &str, mode: PortMode) -> PortSpec {
    PortSpec {
        interface: interface.to_owned(),
        mode,
    }
}

pub(crate) fn open_one(mode: PortMode) -> Result<XskSet, SetupError> {
    let options = OpenOptions {
        workers: 1,
        frames: FRAMES,
    };
    open(&[spec("r0", mode)], options)
}

/// Steers UDP to the relay's tunnel port to the socket.
pub(crate) fn steer_udp(set: &mut XskSet) {
    let tables = set.ports[0].steering.tables_mut();
    let used = AddressUse {
        proto41: true,
        dedicated: false,
    };
    tables.add_tunnel_address(RELAY, used).unwrap();
    tables.add_udp_port(RELAY, PORT).unwrap();
}

#[track_caller]
pub(crate) fn assert_no_frame_lost(pool: &FramePool, ports: &[XskPort]) {
    let held: usize = ports.iter().map(Port::held).sum();
    assert_eq!(pool.available() + held, pool.capacity());
}

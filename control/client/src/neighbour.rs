//! Neighbours, typed.

use std::net::IpAddr;

use sixferry_proto::dataplane::v1 as api;

use crate::Error;
use crate::address::ip_from_bytes;
use crate::outer::small;

pub use api::NeighbourState;

/// A neighbour on a link of a port, as mirrored from the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Its address.
    pub address: IpAddr,
    /// Its hardware address; empty while it is not known.
    pub mac: Vec<u8>,
    /// Name of the port.
    pub port: String,
    /// 802.1Q VLAN; `None`: untagged.
    pub vlan_id: Option<u16>,
    /// What the kernel says.
    pub state: NeighbourState,
    /// The kernel keeps it alive because the dataplane asked for it.
    pub managed: bool,
    /// A next hop of a route points to it.
    pub used: bool,
}

impl TryFrom<api::Neighbour> for Neighbour {
    type Error = Error;

    fn try_from(proto: api::Neighbour) -> Result<Self, Error> {
        let vlan_id: u16 = small("neighbour.vlan_id", proto.vlan_id)?;
        Ok(Self {
            address: ip_from_bytes(&proto.address).ok_or(Error::malformed(
                "neighbour.address",
                "is not an IP address",
            ))?,
            state: proto.state(),
            mac: proto.mac,
            port: proto.port,
            vlan_id: (vlan_id != 0).then_some(vlan_id),
            managed: proto.managed,
            used: proto.used_by_next_hop,
        })
    }
}

//! What the kernel tells about an interface: one RTM_GETLINK question over netlink.
//!
//! Also the one way to learn without privileges whether an XDP program is attached.

use std::fmt;
use std::io;

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::net::{recv, send, socket_with};

use crate::bind::XdpMode;
use crate::error::{Operation, SetupError};

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const IFF_UP: u32 = 1;
const ARPHRD_ETHER: u16 = 1;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_XDP: u16 = 43;
const IFLA_XDP_ATTACHED: u16 = 2;
const IFLA_XDP_PROG_ID: u16 = 4;
/// Attribute types carry two flag bits on top.
const NLA_TYPE_MASK: u16 = 0x3fff;
const NLMSG_HEADER: usize = 16;
const IFINFO: usize = 16;
/// The answer about one link; interfaces with many VF or statistics attributes need the most.
const ANSWER_MAX: usize = 64 << 10;

/// An interface as the kernel describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkInfo {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// Its MAC address, if it is an Ethernet interface.
    pub mac: Option<[u8; 6]>,
    /// Its MTU.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// Kind of a virtual interface (`veth`, `vlan`, …).
    pub kind: Option<String>,
    /// The XDP program on it.
    pub xdp: Option<XdpAttachment>,
}

/// An XDP program on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XdpAttachment {
    /// Its kernel-wide id, if there is exactly one program.
    pub program_id: Option<u32>,
    /// Where it runs; `None` if in the NIC's hardware or in several places.
    pub mode: Option<XdpMode>,
}

/// An XDP program that is in the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachedProgram {
    /// Its kernel-wide id.
    pub id: Option<u32>,
    /// Its name, if we may ask for it.
    pub name: Option<String>,
}

impl AttachedProgram {
    /// Whether another Sixferry daemon owns it.
    pub fn is_sixferry(&self) -> bool {
        self.name.as_deref() == Some(crate::tables::STEER_PROGRAM)
    }

    /// The program on the link, with its name if the kernel tells us. `None` if there is none.
    pub fn on(link: &LinkInfo) -> Option<Self> {
        let id = link.xdp?.program_id;
        let name = id.and_then(crate::attach::program_name);
        Some(Self { id, name })
    }
}

impl fmt::Display for AttachedProgram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_sixferry() {
            f.write_str("another Sixferry daemon runs on this interface")?;
        } else {
            f.write_str("an XDP program is attached already")?;
        }
        match (self.id, &self.name) {
            (Some(id), Some(name)) => write!(f, " (program {id} `{name}`)")?,
            (Some(id), None) => write!(f, " (program {id})")?,
            _ => {}
        }
        if self.is_sixferry() {
            f.write_str("; fix: stop it first")
        } else {
            f.write_str(
                "; fix: stop its owner (`bpftool net`, `bpftool link` name it) or, if it was \
                 left behind, `ip link set dev … xdp off`",
            )
        }
    }
}

impl LinkInfo {
    /// Asks the kernel about the interface called `name`.
    ///
    /// # Errors
    /// [`SetupError::NoSuchInterface`], or what the kernel answered.
    pub fn query(name: &str) -> Result<Self, SetupError> {
        // IFNAMSIZ counts a final zero; a longer name cannot exist.
        if name.is_empty() || name.len() > 15 || name.contains('\0') {
            return Err(SetupError::NoSuchInterface {
                interface: name.to_owned(),
            });
        }
        ask(name).map_err(|error| SetupError::new(name, Operation::ReadLink, error))
    }

    /// The MAC address, or why there is none.
    pub(crate) fn require_mac(&self) -> Result<[u8; 6], SetupError> {
        self.mac.ok_or_else(|| SetupError::NotEthernet {
            interface: self.name.clone(),
        })
    }
}

fn ask(name: &str) -> io::Result<LinkInfo> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        // NETLINK_ROUTE is protocol 0.
        None,
    )?;
    send(&socket, &request(name), SendFlags::empty())?;
    let mut answer = vec![0; ANSWER_MAX];
    let (_, len) = recv(&socket, &mut answer[..], RecvFlags::TRUNC)?;
    let answer = answer.get(..len).ok_or(io::ErrorKind::InvalidData)?;
    parse(answer)
}

fn request(name: &str) -> Vec<u8> {
    let value_len = name.len() + 1;
    let attr_len = 4 + value_len;
    let total = NLMSG_HEADER + IFINFO + attr_len.next_multiple_of(4);
    let mut out = Vec::with_capacity(total);
    out.extend((total as u32).to_ne_bytes());
    out.extend(RTM_GETLINK.to_ne_bytes());
    out.extend(NLM_F_REQUEST.to_ne_bytes());
    out.extend([0; 8 + IFINFO]);
    out.extend((attr_len as u16).to_ne_bytes());
    out.extend(IFLA_IFNAME.to_ne_bytes());
    out.extend(name.as_bytes());
    out.resize(total, 0);
    out
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at + 2)?;
    Some(u16::from_ne_bytes(bytes.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

/// Type and value of each attribute; stops at the first that does not fit.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & NLA_TYPE_MASK;
        let value = bytes.get(4..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, value))
    })
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0);
    String::from_utf8_lossy(&bytes[..end.unwrap_or(bytes.len())]).into_owned()
}

fn parse(answer: &[u8]) -> io::Result<LinkInfo> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidData);
    let body = answer.get(NLMSG_HEADER..).ok_or_else(invalid)?;
    match u16_at(answer, 4) {
        Some(RTM_NEWLINK) => parse_link(body).ok_or_else(invalid),
        Some(NLMSG_ERROR) => {
            let code = u32_at(body, 0).ok_or_else(invalid)? as i32;
            Err(Errno::from_raw_os_error(-code).into())
        }
        _ => Err(invalid()),
    }
}

fn parse_link(body: &[u8]) -> Option<LinkInfo> {
    let ether = u16_at(body, 2)? == ARPHRD_ETHER;
    let mut link = LinkInfo {
        name: String::new(),
        index: u32_at(body, 4)?,
        mac: None,
        mtu: 0,
        up: u32_at(body, 8)? & IFF_UP != 0,
        kind: None,
        xdp: None,
    };
    for (kind, value) in attributes(body.get(IFINFO..)?) {
        match kind {
            IFLA_ADDRESS if ether => link.mac = value.try_into().ok(),
            IFLA_IFNAME => link.name = text(value),
            IFLA_MTU => link.mtu = u32_at(value, 0)?,
            IFLA_LINKINFO => {
                let info = attributes(value).find(|(kind, _)| *kind == IFLA_INFO_KIND);
                link.kind = info.map(|(_, name)| text(name));
            }
            IFLA_XDP => link.xdp = parse_xdp(value),
            _ => {}
        }
    }
    Some(link)
}

fn parse_xdp(value: &[u8]) -> Option<XdpAttachment> {
    let find = |wanted| attributes(value).find_map(|(k, v)| (k == wanted).then_some(v));
    let mode = match find(IFLA_XDP_ATTACHED)?.first()? {
        0 => return None,
        1 => Some(XdpMode::Native),
        2 => Some(XdpMode::Generic),
        _ => None,
    };
    let program_id = find(IFLA_XDP_PROG_ID).and_then(|id| u32_at(id, 0));
    Some(XdpAttachment { program_id, mode })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_described() {
        let link = LinkInfo::query("lo").unwrap();
        assert_eq!((link.name.as_str(), link.index), ("lo", 1));
        assert_eq!(link.mac, None, "loopback is no Ethernet interface");
        assert!(matches!(
            link.require_mac(),
            Err(SetupError::NotEthernet { .. })
        ));
    }

    #[test]
    fn missing_interface_is_named() {
        for name in ["sfx-none", "", "a-name-that-is-too-long"] {
            let error = LinkInfo::query(name).unwrap_err();
            assert!(
                matches!(&error, SetupError::NoSuchInterface { interface } if interface == name),
                "{error}"
            );
        }
    }

    #[test]
    fn truncated_answers_are_refused_not_followed() {
        let mut answer = request("eth0");
        answer[4] = RTM_NEWLINK as u8;
        assert_eq!(parse(&answer).unwrap().name, "eth0");
        for len in 0..answer.len() {
            let _ = parse(&answer[..len]);
        }
        // An attribute length that reaches beyond the message.
        answer[NLMSG_HEADER + IFINFO] = 200;
        assert_eq!(parse(&answer).unwrap().name, "");
        answer[NLMSG_HEADER + IFINFO] = 0;
        assert_eq!(parse(&answer).unwrap().name, "");
    }

    #[test]
    fn second_daemon_is_told_from_a_foreign_program() {
        let mut program = AttachedProgram {
            id: Some(7),
            name: Some("xdp_dispatcher".to_owned()),
        };
        assert!(program.to_string().contains("(program 7 `xdp_dispatcher`)"));
        program.name = Some(crate::tables::STEER_PROGRAM.to_owned());
        assert!(program.to_string().starts_with("another Sixferry daemon"));
    }
}

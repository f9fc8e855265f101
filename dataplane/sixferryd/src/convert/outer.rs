//! What tunnels and domains say of the outer header, in the same fields.

use sixferry_fwd::{Dscp, Ecn, MtuMode, Ttl};
use sixferry_proto::dataplane::v1 as pb;

use crate::control::spec::Violation;

/// The fields as a message has them.
#[derive(Clone, Copy, Debug)]
pub(super) struct OuterFields<'a> {
    pub(super) mtu: u32,
    pub(super) mtu_mode: i32,
    pub(super) ttl: Option<&'a u32>,
    pub(super) ttl_inherit: bool,
    pub(super) dscp: Option<&'a u32>,
    /// `None`: not said.
    pub(super) dscp_copy: Option<bool>,
    pub(super) ecn: i32,
}

/// What they mean; `None` where the default depends on more.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Outer {
    pub(super) mtu: Option<u16>,
    pub(super) mtu_mode: Option<MtuMode>,
    pub(super) ttl: Ttl,
    pub(super) dscp: Option<Dscp>,
    pub(super) ecn: Ecn,
}

impl Outer {
    pub(super) fn read(fields: &OuterFields<'_>, bad: &mut Vec<Violation>) -> Self {
        let mut outer = Self::default();
        if fields.mtu != 0 {
            // Beyond u16 is out of range anyway: the check of the whole says so.
            outer.mtu = Some(u16::try_from(fields.mtu).unwrap_or(u16::MAX));
        }
        outer.mtu_mode = match pb::MtuMode::try_from(fields.mtu_mode) {
            Ok(pb::MtuMode::Unspecified) => None,
            Ok(pb::MtuMode::Static) => Some(MtuMode::Static),
            Ok(pb::MtuMode::Managed) => Some(MtuMode::Managed),
            Ok(pb::MtuMode::Dynamic) => Some(MtuMode::Dynamic),
            Err(_) => {
                bad.push(Violation::new("mtu_mode", "unknown to this version"));
                None
            }
        };
        match (fields.ttl, fields.ttl_inherit) {
            (Some(_), true) => bad.push(Violation::new("ttl", "not together with ttl_inherit")),
            (None, true) => outer.ttl = Ttl::Inherit,
            (None, false) => {}
            (Some(ttl), false) => match u8::try_from(*ttl) {
                Ok(ttl) if ttl > 0 => outer.ttl = Ttl::Fixed(ttl),
                _ => bad.push(Violation::new("ttl", format!("{ttl} is outside 1..255"))),
            },
        }
        outer.dscp = match (fields.dscp, fields.dscp_copy) {
            (Some(_), Some(true)) => {
                bad.push(Violation::new("dscp", "not together with dscp_copy"));
                None
            }
            (None, Some(true)) => Some(Dscp::Copy),
            (None, Some(false)) => Some(Dscp::Fixed(0)),
            (None, None) => None,
            (Some(dscp), _) => match u8::try_from(*dscp) {
                Ok(dscp) if dscp <= 63 => Some(Dscp::Fixed(dscp)),
                _ => {
                    bad.push(Violation::new("dscp", format!("{dscp} is outside 0..63")));
                    None
                }
            },
        };
        match pb::EcnMode::try_from(fields.ecn) {
            Ok(pb::EcnMode::Unspecified | pb::EcnMode::Normal) => outer.ecn = Ecn::Normal,
            Ok(pb::EcnMode::Compat) => outer.ecn = Ecn::Compat,
            Err(_) => bad.push(Violation::new("ecn", "unknown to this version")),
        }
        outer
    }
}

/// The fields for a message to show.
#[derive(Clone, Copy, Debug)]
pub(super) struct OuterShown {
    pub(super) mtu_mode: pb::MtuMode,
    pub(super) ttl: Option<u32>,
    pub(super) ttl_inherit: bool,
    pub(super) dscp: Option<u32>,
    pub(super) dscp_copy: bool,
    pub(super) ecn: pb::EcnMode,
}

impl OuterShown {
    pub(super) fn of(mtu_mode: MtuMode, ttl: Ttl, dscp: Dscp, ecn: Ecn) -> Self {
        let (ttl, ttl_inherit) = match ttl {
            Ttl::Fixed(ttl) => (Some(ttl.into()), false),
            Ttl::Inherit => (None, true),
        };
        let (dscp, dscp_copy) = match dscp {
            Dscp::Fixed(dscp) => (Some(dscp.into()), false),
            Dscp::Copy => (None, true),
        };
        Self {
            mtu_mode: match mtu_mode {
                MtuMode::Static => pb::MtuMode::Static,
                MtuMode::Managed => pb::MtuMode::Managed,
                MtuMode::Dynamic => pb::MtuMode::Dynamic,
            },
            ttl,
            ttl_inherit,
            dscp,
            dscp_copy,
            ecn: match ecn {
                Ecn::Normal => pb::EcnMode::Normal,
                Ecn::Compat => pb::EcnMode::Compat,
            },
        }
    }
}

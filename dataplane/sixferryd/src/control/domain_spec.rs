//! What a domain may look like, and a wanted one as a request gives it (RFC 3056, 3964, 7526, 5969).

use std::net::Ipv4Addr;

use sixferry_fwd::{
    DomainKind, DomainSpec, Dscp, Ecn, Ipv4Prefix, Ipv6Prefix, MtuMode, SixRdRole, SixToFourRole,
    Ttl, Urpf,
};

use super::error::Error;
use super::mask::{self, pick};
use super::spec::{MAX_MTU, Violation, check_header, routable6, unicast4};

/// 6to4's anycast address (RFC 3068), the way out of a site that names none.
pub(crate) const SIX_TO_FOUR_ANYCAST: Ipv4Addr = Ipv4Addr::new(192, 88, 99, 1);

/// Which fields of a domain an update touches.
pub(crate) type DomainMask = mask::Mask<Group>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Group {
    Kind,
    Local,
    Input,
    Urpf,
    Allow,
    Deny,
    Mtu,
    MtuMode,
    Ttl,
    Dscp,
    DscpDecap,
    Ecn,
    MssClamp,
    Up,
}

impl mask::Group for Group {
    const FIELDS: &[(&str, Self)] = &[
        ("six_to_four", Self::Kind),
        ("six_rd", Self::Kind),
        ("local", Self::Local),
        ("input", Self::Input),
        ("urpf", Self::Urpf),
        ("allow_v4", Self::Allow),
        ("deny_v4", Self::Deny),
        ("mtu", Self::Mtu),
        ("mtu_mode", Self::MtuMode),
        ("ttl", Self::Ttl),
        ("ttl_inherit", Self::Ttl),
        ("dscp", Self::Dscp),
        ("dscp_copy", Self::Dscp),
        ("dscp_decap_copy", Self::DscpDecap),
        ("ecn", Self::Ecn),
        ("mss_clamp", Self::MssClamp),
        ("admin_up", Self::Up),
    ];

    fn index(self) -> u8 {
        self as u8
    }
}

/// A domain as a request writes it: what depends on the mechanism is still open.
#[derive(Clone, Debug)]
pub(crate) struct WantedDomain {
    /// `None`: missing or unreadable.
    pub(crate) kind: Option<DomainKind>,
    pub(crate) local: Ipv4Addr,
    pub(crate) input: bool,
    pub(crate) urpf: Urpf,
    pub(crate) allow_v4: Vec<Ipv4Prefix>,
    pub(crate) deny_v4: Vec<Ipv4Prefix>,
    /// `None`: the default.
    pub(crate) mtu: Option<u16>,
    /// `None`: the default.
    pub(crate) mtu_mode: Option<MtuMode>,
    pub(crate) ttl: Ttl,
    /// `None`: the default of the mechanism.
    pub(crate) dscp: Option<Dscp>,
    pub(crate) dscp_decap_copy: bool,
    pub(crate) ecn: Ecn,
    pub(crate) mss_clamp: bool,
    pub(crate) up: bool,
}

impl Default for WantedDomain {
    fn default() -> Self {
        Self {
            kind: None,
            local: Ipv4Addr::UNSPECIFIED,
            input: true,
            urpf: Urpf::Off,
            allow_v4: Vec::new(),
            deny_v4: Vec::new(),
            mtu: None,
            mtu_mode: None,
            ttl: Ttl::Fixed(64),
            dscp: None,
            dscp_decap_copy: false,
            ecn: Ecn::Normal,
            mss_clamp: false,
            up: true,
        }
    }
}

impl WantedDomain {
    /// What a domain is, as a request would write it.
    pub(crate) fn of(spec: &DomainSpec) -> Self {
        Self {
            kind: Some(spec.kind),
            local: spec.local,
            input: spec.input,
            urpf: spec.urpf,
            allow_v4: spec.allow_v4.clone(),
            deny_v4: spec.deny_v4.clone(),
            mtu: Some(spec.mtu),
            mtu_mode: Some(spec.mtu_mode),
            ttl: spec.ttl,
            dscp: Some(spec.dscp),
            dscp_decap_copy: spec.dscp_decap_copy,
            ecn: spec.ecn,
            mss_clamp: spec.mss_clamp,
            up: spec.up,
        }
    }

    /// The domain, checked by itself.
    pub(crate) fn finish(self) -> Result<DomainSpec, Vec<Violation>> {
        let Some(kind) = self.kind else {
            let text = "missing: give six_to_four or six_rd";
            return Err(vec![Violation::new("mechanism", text)]);
        };
        let dscp = self.dscp.unwrap_or(match kind {
            // RFC 5969 section 9: by default the traffic class MUST be copied.
            DomainKind::SixRd { .. } => Dscp::Copy,
            DomainKind::SixToFour { .. } => Dscp::Fixed(0),
        });
        let spec = DomainSpec {
            kind,
            local: self.local,
            input: self.input,
            urpf: self.urpf,
            allow_v4: self.allow_v4,
            deny_v4: self.deny_v4,
            mtu: self.mtu.unwrap_or(1280),
            mtu_mode: self.mtu_mode.unwrap_or(if is_anycast_br(&kind) {
                MtuMode::Managed
            } else {
                MtuMode::Static
            }),
            ttl: self.ttl,
            dscp,
            dscp_decap_copy: self.dscp_decap_copy,
            ecn: self.ecn,
            mss_clamp: self.mss_clamp,
            up: self.up,
        };
        let found = check_domain(&spec);
        if found.is_empty() {
            Ok(spec)
        } else {
            Err(found)
        }
    }
}

/// What a request says of one domain.
#[derive(Clone, Debug)]
pub(crate) struct DomainPatch {
    /// Every field, defaults where nothing was given.
    pub(crate) wanted: WantedDomain,
    /// What could not be read; counts only for fields that are touched.
    pub(crate) unreadable: Vec<Violation>,
    pub(crate) mask: DomainMask,
}

impl DomainPatch {
    /// A patch that sets everything.
    pub(crate) fn whole(spec: &DomainSpec) -> Self {
        Self {
            wanted: WantedDomain::of(spec),
            unreadable: Vec::new(),
            mask: DomainMask::ALL,
        }
    }

    /// The domain as it is to be, checked by itself.
    pub(crate) fn apply(self, existing: Option<&DomainSpec>) -> Result<DomainSpec, Error> {
        let mask = if existing.is_some() {
            self.mask
        } else {
            DomainMask::ALL
        };
        let touched = |v: &Violation| mask.touches(v.field);
        let unreadable: Vec<_> = self.unreadable.into_iter().filter(touched).collect();
        if !unreadable.is_empty() {
            return Err(Error::violations(unreadable));
        }
        let wanted = match existing {
            Some(old) => merge(&WantedDomain::of(old), self.wanted, mask),
            None => self.wanted,
        };
        let new = wanted.finish().map_err(Error::violations)?;
        match existing {
            Some(old) => immutable(&old.kind, &new.kind).map(|()| new),
            None => Ok(new),
        }
    }
}

/// Kind and role stay: routes into the domain count on its way out.
fn immutable(old: &DomainKind, new: &DomainKind) -> Result<(), Error> {
    let part = |kind: &DomainKind| match kind {
        DomainKind::SixToFour { role, .. } => (0, matches!(role, SixToFourRole::Site { .. })),
        DomainKind::SixRd { role, .. } => (1, matches!(role, SixRdRole::Ce { .. })),
    };
    let field = match (part(old), part(new)) {
        (before, after) if before == after => return Ok(()),
        ((a, _), (b, _)) if a != b => "mechanism",
        ((0, _), _) => "six_to_four.role",
        _ => "six_rd.role",
    };
    Err(Error::Immutable { field })
}

fn merge(old: &WantedDomain, new: WantedDomain, mask: DomainMask) -> WantedDomain {
    if mask == DomainMask::ALL {
        return new;
    }
    macro_rules! take {
        ($group:ident, $field:ident) => {
            pick!(mask, Group::$group, old.$field, new.$field)
        };
    }
    WantedDomain {
        kind: take!(Kind, kind),
        local: take!(Local, local),
        input: take!(Input, input),
        urpf: take!(Urpf, urpf),
        allow_v4: take!(Allow, allow_v4),
        deny_v4: take!(Deny, deny_v4),
        mtu: take!(Mtu, mtu),
        mtu_mode: take!(MtuMode, mtu_mode),
        ttl: take!(Ttl, ttl),
        dscp: take!(Dscp, dscp),
        dscp_decap_copy: take!(DscpDecap, dscp_decap_copy),
        ecn: take!(Ecn, ecn),
        mss_clamp: take!(MssClamp, mss_clamp),
        up: take!(Up, up),
    }
}

fn is_anycast_br(kind: &DomainKind) -> bool {
    matches!(
        kind,
        DomainKind::SixRd {
            role: SixRdRole::Br { anycast: true },
            ..
        }
    )
}

/// Whether routes may lead into the domain besides its own prefix: whether it has a way out.
pub(crate) fn way_out(kind: &DomainKind) -> Option<Ipv4Addr> {
    match kind {
        DomainKind::SixToFour {
            role: SixToFourRole::Site { relay },
            ..
        } => Some(*relay),
        DomainKind::SixRd {
            role: SixRdRole::Ce { br },
            ..
        } => Some(*br),
        _ => None,
    }
}

/// Everything wrong with a domain taken by itself.
pub(crate) fn check_domain(spec: &DomainSpec) -> Vec<Violation> {
    let mut found = Vec::new();
    if let Err(why) = unicast4(spec.local) {
        found.push(Violation::new("local", format!("{} {why}", spec.local)));
    }
    check_header(spec.mtu, MAX_MTU, spec.ttl, spec.dscp, &mut found);
    if spec.mtu_mode == MtuMode::Dynamic {
        let text = "STATIC or MANAGED: a domain has many far ends and so no one path MTU";
        found.push(Violation::new("mtu_mode", text));
    }
    for (field, list) in [("allow_v4", &spec.allow_v4), ("deny_v4", &spec.deny_v4)] {
        let most = DomainSpec::MAX_FILTERS;
        if list.len() > most {
            let text = format!("{} prefixes; at most {most}", list.len());
            found.push(Violation::new(field, text));
        }
    }
    match spec.kind {
        DomainKind::SixToFour { peer_v4_len, .. } => {
            if peer_v4_len > 32 {
                let text = format!("{peer_v4_len} is outside 0..32");
                found.push(Violation::new("six_to_four.peer_v4_length", text));
            }
            if let Some(far) = way_out(&spec.kind) {
                check_far(far, spec.local, "six_to_four.relay", &mut found);
            }
        }
        DomainKind::SixRd {
            prefix,
            v4_common,
            v4_mask_len,
            ..
        } => {
            if !spec.allow_v4.is_empty() {
                let text = "only with six_to_four: a 6rd domain knows no martians";
                found.push(Violation::new("allow_v4", text));
            }
            check_six_rd(spec.local, prefix, v4_common, v4_mask_len, &mut found);
            if let Some(far) = way_out(&spec.kind) {
                check_far(far, spec.local, "six_rd.br", &mut found);
            }
            if is_anycast_br(&spec.kind) && spec.mtu_mode != MtuMode::Managed {
                let text = "an anycast border relay must set DF: MANAGED (RFC 5969 section 9.1)";
                found.push(Violation::new("mtu_mode", text));
            }
        }
    }
    found
}

fn check_far(far: Ipv4Addr, local: Ipv4Addr, field: &'static str, found: &mut Vec<Violation>) {
    if let Err(why) = unicast4(far) {
        found.push(Violation::new(field, format!("{far} {why}")));
    } else if far == local {
        found.push(Violation::new(field, format!("{far} is the local address")));
    }
}

fn check_six_rd(
    local: Ipv4Addr,
    prefix: Ipv6Prefix,
    v4_common: Ipv4Addr,
    v4_mask_len: u8,
    found: &mut Vec<Violation>,
) {
    if let Err(why) = routable6(prefix.address(), prefix.len()) {
        found.push(Violation::new("six_rd.prefix", format!("{prefix} {why}")));
    }
    if v4_mask_len > 32 {
        let text = format!("{v4_mask_len} is outside 0..32");
        found.push(Violation::new("six_rd.v4_mask_length", text));
        return;
    }
    let (n, m) = (u16::from(prefix.len()), u16::from(v4_mask_len));
    if n + 32 - m > 64 {
        let text = format!(
            "the delegated prefixes would be /{} ({n} + 32 - {m}); at most /64: a shorter prefix or \
             a longer v4_mask_length",
            n + 32 - m
        );
        found.push(Violation::new("six_rd.prefix", text));
    }
    match Ipv4Prefix::new(v4_common, v4_mask_len) {
        None => {
            let meant = Ipv4Prefix::containing(v4_common, v4_mask_len).address();
            let text = format!(
                "{v4_common} has bits set after its {v4_mask_len} common ones; did you mean {meant}?"
            );
            found.push(Violation::new("six_rd.v4_common", text));
        }
        Some(common) if !common.contains(local) => {
            let text = format!("{local} is not in the domain's IPv4 addresses, {common}");
            found.push(Violation::new("local", text));
        }
        Some(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn six_rd(prefix: &str, common: [u8; 4], mask: u8, role: SixRdRole) -> WantedDomain {
        WantedDomain {
            kind: Some(DomainKind::SixRd {
                prefix: prefix.parse().expect("a prefix"),
                v4_common: common.into(),
                v4_mask_len: mask,
                role,
            }),
            local: [10, 1, 0, 1].into(),
            ..WantedDomain::default()
        }
    }

    fn refused(wanted: WantedDomain) -> Vec<(&'static str, String)> {
        let found = wanted.finish().expect_err("refused");
        found.into_iter().map(|v| (v.field, v.text)).collect()
    }

    const BR: SixRdRole = SixRdRole::Br { anycast: false };

    #[test]
    fn defaults_follow_the_mechanism() {
        let spec = six_rd("2001:db8::/32", [10, 0, 0, 0], 8, BR)
            .finish()
            .expect("fine");
        assert_eq!((spec.dscp, spec.mtu_mode), (Dscp::Copy, MtuMode::Static));
        let anycast = SixRdRole::Br { anycast: true };
        let spec = six_rd("2001:db8::/32", [10, 0, 0, 0], 8, anycast)
            .finish()
            .expect("fine");
        assert_eq!(spec.mtu_mode, MtuMode::Managed);
        let relay = WantedDomain {
            kind: Some(DomainKind::SixToFour {
                role: SixToFourRole::Relay,
                peer_v4_len: 0,
                anycast: false,
            }),
            local: [8, 1, 2, 3].into(),
            ..WantedDomain::default()
        };
        assert_eq!(relay.finish().expect("fine").dscp, Dscp::Fixed(0));
    }

    #[test]
    fn a_6rd_domain_must_fit_into_64_bits_and_hold_its_own_address() {
        let found = refused(six_rd("2001:db8::/33", [0; 4], 0, BR));
        assert_eq!(found[0].0, "six_rd.prefix");
        assert!(found[0].1.contains("/65"), "{found:?}");
        assert!(six_rd("2001:db8::/32", [0; 4], 0, BR).finish().is_ok());
        let found = refused(six_rd("2001:db8::/32", [10, 2, 0, 0], 16, BR));
        assert_eq!(found[0].0, "local");
        let found = refused(six_rd("2001:db8::/32", [10, 1, 0, 1], 8, BR));
        assert_eq!(found[0].0, "six_rd.v4_common");
        let br = [10, 1, 0, 1].into();
        let found = refused(six_rd(
            "2001:db8::/32",
            [10, 0, 0, 0],
            8,
            SixRdRole::Ce { br },
        ));
        assert_eq!(found[0].0, "six_rd.br");
    }

    #[test]
    fn an_anycast_border_relay_sets_df() {
        let mut wanted = six_rd(
            "2001:db8::/32",
            [10, 0, 0, 0],
            8,
            SixRdRole::Br { anycast: true },
        );
        wanted.mtu_mode = Some(MtuMode::Static);
        assert_eq!(refused(wanted)[0].0, "mtu_mode");
    }

    #[test]
    fn kind_and_role_stay() {
        let old = six_rd("2001:db8::/32", [10, 0, 0, 0], 8, BR)
            .finish()
            .expect("fine");
        let br = [10, 0, 0, 9].into();
        let new = six_rd("2001:db8::/32", [10, 0, 0, 0], 8, SixRdRole::Ce { br })
            .finish()
            .expect("fine");
        let error = DomainPatch::whole(&new).apply(Some(&old));
        let field = "six_rd.role";
        assert_eq!(error, Err(Error::Immutable { field }));
        assert_eq!(way_out(&new.kind), Some(br));
    }

    #[test]
    fn only_touched_fields_change() {
        let old = six_rd("2001:db8::/32", [10, 0, 0, 0], 8, BR)
            .finish()
            .expect("fine");
        let patch = DomainPatch {
            wanted: WantedDomain {
                mtu: Some(1480),
                ..WantedDomain::default()
            },
            unreadable: vec![Violation::new("six_rd.prefix", "missing")],
            mask: DomainMask::from_names(["mtu"]).expect("a name"),
        };
        let new = patch.clone().apply(Some(&old)).expect("fine");
        assert_eq!(new, DomainSpec { mtu: 1480, ..old });
        assert!(patch.apply(None).is_err(), "a new one needs everything");
    }
}

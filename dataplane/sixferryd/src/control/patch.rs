//! A wanted tunnel as a request gives it: all fields, or some fields of one that exists.

use sixferry_fwd::{EncapKind, MtuMode, TunnelSpec, UdpEncap};

use super::error::Error;
use super::liveness::{DEFAULT_INTERVAL, Liveness, LivenessMode};
use super::mask::{self, pick};
use super::spec::{MAX_MTU, MAX_UDP_MTU, Violation, check_tunnel, default_link_local};

/// Which fields of a tunnel an update touches.
pub(crate) type Mask = mask::Mask<Group>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Group {
    Encap,
    Local,
    Remote,
    Prefixes,
    Link,
    LinkLocal,
    Mtu,
    MtuMode,
    Ttl,
    Dscp,
    DscpDecap,
    Ecn,
    Strict,
    Up,
    LocalPort,
    RemotePort,
    SharedPort,
    Rebind,
    PathMtu,
    MinPathMtu,
    MssClamp,
    Liveness,
    LivenessInterval,
}

impl mask::Group for Group {
    const FIELDS: &[(&str, Self)] = &[
        ("encapsulation", Self::Encap),
        ("local", Self::Local),
        ("remote", Self::Remote),
        ("prefixes", Self::Prefixes),
        ("link_prefix", Self::Link),
        ("link_address", Self::Link),
        ("link_local_address", Self::LinkLocal),
        ("mtu", Self::Mtu),
        ("mtu_mode", Self::MtuMode),
        ("ttl", Self::Ttl),
        ("ttl_inherit", Self::Ttl),
        ("dscp", Self::Dscp),
        ("dscp_copy", Self::Dscp),
        ("dscp_decap_copy", Self::DscpDecap),
        ("ecn", Self::Ecn),
        ("strict_source", Self::Strict),
        ("admin_up", Self::Up),
        ("local_port", Self::LocalPort),
        ("remote_port", Self::RemotePort),
        ("shared_port", Self::SharedPort),
        ("rebind", Self::Rebind),
        ("path_mtu", Self::PathMtu),
        ("min_path_mtu", Self::MinPathMtu),
        ("mss_clamp", Self::MssClamp),
        ("liveness", Self::Liveness),
        ("liveness_interval_seconds", Self::LivenessInterval),
    ];

    fn index(self) -> u8 {
        self as u8
    }
}

/// UDP without a port: what a tunnel of another encapsulation has.
pub(crate) const NO_UDP: UdpEncap = UdpEncap {
    local_port: 0,
    remote_port: 0,
    shared: false,
    rebind: sixferry_fwd::Rebind::Control,
};

/// A tunnel as a request writes it: ports stand beside the encapsulation, and defaults that depend
/// on other fields are still open.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// Everything but `encap` and `mtu`.
    pub(crate) spec: TunnelSpec,
    pub(crate) is_udp: bool,
    pub(crate) udp: UdpEncap,
    /// `None`: the default.
    pub(crate) mtu: Option<u16>,
    pub(crate) liveness: LivenessMode,
    /// Seconds.
    pub(crate) liveness_interval: u16,
}

impl Wanted {
    /// What a tunnel is, as a request would write it.
    pub(crate) fn of(spec: &TunnelSpec, liveness: Liveness) -> Self {
        let udp = match spec.encap {
            EncapKind::SixInFour => None,
            EncapKind::Udp(udp) => Some(udp),
        };
        Self {
            is_udp: udp.is_some(),
            udp: udp.unwrap_or(NO_UDP),
            mtu: Some(spec.mtu),
            liveness: liveness.mode(),
            liveness_interval: liveness.interval_seconds(),
            spec: spec.clone(),
        }
    }

    /// The tunnel and how it is watched, checked by themselves.
    pub(crate) fn finish(self) -> Result<(TunnelSpec, Liveness), Vec<Violation>> {
        let mut found = Vec::new();
        let mut spec = self.spec;
        spec.encap = if self.is_udp {
            EncapKind::Udp(self.udp)
        } else {
            EncapKind::SixInFour
        };
        if !self.is_udp && self.udp != NO_UDP {
            let fields = [
                ("local_port", self.udp.local_port != 0),
                ("remote_port", self.udp.remote_port != 0),
                ("shared_port", self.udp.shared),
                ("rebind", self.udp.rebind != NO_UDP.rebind),
            ];
            let given = fields.iter().filter(|(_, given)| *given);
            found.extend(
                given.map(|(field, _)| Violation::new(field, "only with encapsulation UDP")),
            );
        }
        spec.mtu = match (self.mtu, spec.mtu_mode) {
            (Some(mtu), _) => mtu,
            (None, MtuMode::Static | MtuMode::Managed) => 1280,
            (None, MtuMode::Dynamic) if self.is_udp => MAX_UDP_MTU,
            (None, MtuMode::Dynamic) => MAX_MTU,
        };
        // Readers see the default spelt out: writing it back must change nothing.
        if spec.link_local == Some(default_link_local(spec.local)) {
            spec.link_local = None;
        }
        let interval = match self.liveness_interval {
            0 => DEFAULT_INTERVAL,
            seconds => seconds,
        };
        found.extend(check_tunnel(&spec, self.liveness, interval));
        if found.is_empty() {
            Ok((spec, Liveness::new(self.liveness, interval)))
        } else {
            Err(found)
        }
    }
}

/// What a request says of one tunnel.
#[derive(Clone, Debug)]
pub(crate) struct TunnelPatch {
    /// Every field, defaults where nothing was given.
    pub(crate) wanted: Wanted,
    /// What could not be read. Counts only for fields that are touched: an update of the MTU
    /// need not repeat the addresses.
    pub(crate) unreadable: Vec<Violation>,
    pub(crate) mask: Mask,
}

impl TunnelPatch {
    /// A patch that sets everything.
    pub(crate) fn whole(spec: &TunnelSpec, liveness: Liveness) -> Self {
        Self {
            wanted: Wanted::of(spec, liveness),
            unreadable: Vec::new(),
            mask: Mask::ALL,
        }
    }

    /// The tunnel as it is to be, checked by itself.
    pub(crate) fn apply(
        self,
        existing: Option<(&TunnelSpec, Liveness)>,
    ) -> Result<(TunnelSpec, Liveness), Error> {
        let mask = if existing.is_some() {
            self.mask
        } else {
            Mask::ALL
        };
        let touched = |v: &Violation| mask.touches(v.field);
        let unreadable: Vec<_> = self.unreadable.into_iter().filter(touched).collect();
        if !unreadable.is_empty() {
            return Err(Error::violations(unreadable));
        }
        let wanted = match existing {
            Some((spec, liveness)) => merge(&Wanted::of(spec, liveness), self.wanted, mask),
            None => self.wanted,
        };
        if let Some((old, _)) = existing {
            immutable(old, &wanted)?;
        }
        wanted.finish().map_err(Error::violations)
    }
}

fn immutable(old: &TunnelSpec, wanted: &Wanted) -> Result<(), Error> {
    let (was_udp, shared) = match old.encap {
        EncapKind::SixInFour => (false, false),
        EncapKind::Udp(udp) => (true, udp.shared),
    };
    let field = if was_udp != wanted.is_udp {
        "encapsulation"
    } else if was_udp && shared != wanted.udp.shared {
        "shared_port"
    } else {
        return Ok(());
    };
    Err(Error::Immutable { field })
}

fn merge(old: &Wanted, new: Wanted, mask: Mask) -> Wanted {
    if mask == Mask::ALL {
        return new;
    }
    macro_rules! take {
        ($group:ident, $($field:ident).+) => {
            pick!(mask, Group::$group, old.$($field).+, new.$($field).+)
        };
    }
    Wanted {
        is_udp: take!(Encap, is_udp),
        udp: UdpEncap {
            local_port: take!(LocalPort, udp.local_port),
            remote_port: take!(RemotePort, udp.remote_port),
            shared: take!(SharedPort, udp.shared),
            rebind: take!(Rebind, udp.rebind),
        },
        mtu: take!(Mtu, mtu),
        liveness: take!(Liveness, liveness),
        liveness_interval: take!(LivenessInterval, liveness_interval),
        spec: TunnelSpec {
            encap: old.spec.encap,
            mtu: old.spec.mtu,
            local: take!(Local, spec.local),
            remote: take!(Remote, spec.remote),
            prefixes: take!(Prefixes, spec.prefixes),
            link: take!(Link, spec.link),
            link_local: take!(LinkLocal, spec.link_local),
            mtu_mode: take!(MtuMode, spec.mtu_mode),
            path_mtu: take!(PathMtu, spec.path_mtu),
            min_path_mtu: take!(MinPathMtu, spec.min_path_mtu),
            mss_clamp: take!(MssClamp, spec.mss_clamp),
            ttl: take!(Ttl, spec.ttl),
            dscp: take!(Dscp, spec.dscp),
            dscp_decap_copy: take!(DscpDecap, spec.dscp_decap_copy),
            ecn: take!(Ecn, spec.ecn),
            strict_source: take!(Strict, spec.strict_source),
            up: take!(Up, spec.up),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn old() -> TunnelSpec {
        TunnelSpec::new([198, 51, 100, 1].into(), [192, 0, 2, 1].into())
    }

    fn patch(names: &[&str]) -> TunnelPatch {
        let mut spec = TunnelSpec::new([0, 0, 0, 0].into(), [0, 0, 0, 0].into());
        spec.mtu = 1400;
        let mut wanted = Wanted::of(&spec, Liveness::default());
        wanted.udp.remote_port = 9;
        TunnelPatch {
            wanted,
            unreadable: vec![Violation::new("local", "missing")],
            mask: Mask::from_names(names.iter().copied()).expect("names"),
        }
    }

    #[test]
    fn only_touched_fields_change_and_are_checked() {
        let old = old();
        let existing = Some((&old, Liveness::default()));
        let (new, _) = patch(&["mtu", "id"]).apply(existing).expect("fine");
        assert_eq!(
            (new.local, new.remote, new.mtu),
            (old.local, old.remote, 1400)
        );
        let missing = Error::field("local", "missing");
        assert_eq!(patch(&["local"]).apply(existing), Err(missing.clone()));
        assert_eq!(
            patch(&["mtu"]).apply(None),
            Err(missing),
            "a new one needs everything"
        );
    }

    #[test]
    fn a_port_alone_moves_a_udp_tunnel_and_needs_one() {
        let plain = old();
        let only = Error::field("remote_port", "only with encapsulation UDP");
        let existing = Some((&plain, Liveness::default()));
        assert_eq!(patch(&["remote_port"]).apply(existing), Err(only));
        let udp = TunnelSpec {
            encap: EncapKind::Udp(UdpEncap {
                local_port: 4028,
                remote_port: 7,
                ..NO_UDP
            }),
            ..plain
        };
        let existing = Some((&udp, Liveness::default()));
        let (new, _) = patch(&["remote_port"]).apply(existing).expect("fine");
        let EncapKind::Udp(ports) = new.encap else {
            panic!("still UDP");
        };
        assert_eq!((ports.local_port, ports.remote_port), (4028, 9));
        let fixed = Error::Immutable {
            field: "encapsulation",
        };
        assert_eq!(patch(&["encapsulation"]).apply(existing), Err(fixed));
    }

    #[test]
    fn the_default_mtu_follows_the_mode() {
        let of = |mode, udp: bool| {
            let mut wanted = Wanted::of(&old(), Liveness::default());
            wanted.mtu = None;
            wanted.spec.mtu_mode = mode;
            wanted.is_udp = udp;
            wanted.udp.local_port = if udp { 4028 } else { 0 };
            wanted.udp.remote_port = wanted.udp.local_port;
            wanted.finish().expect("fine").0.mtu
        };
        assert_eq!(of(MtuMode::Static, false), 1280);
        assert_eq!(of(MtuMode::Dynamic, false), 1480);
        assert_eq!(of(MtuMode::Dynamic, true), 1472);
    }

    #[test]
    fn unknown_names_are_told() {
        assert_eq!(
            Mask::from_names(["mtu", "nope"]).expect_err("unknown"),
            "nope"
        );
    }
}

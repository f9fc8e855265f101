//! A wanted tunnel as a request gives it: all fields, or some fields of one that exists.

use sixferry_fwd::TunnelSpec;

use super::error::Error;
use super::spec::{Violation, check_spec, default_link_local};

/// Groups of fields that are set together, by the name the API gives each.
const FIELDS: [(&str, Group); 17] = [
    ("encapsulation", Group::Encap),
    ("local", Group::Local),
    ("remote", Group::Remote),
    ("prefixes", Group::Prefixes),
    ("link_prefix", Group::Link),
    ("link_address", Group::Link),
    ("link_local_address", Group::LinkLocal),
    ("mtu", Group::Mtu),
    ("mtu_mode", Group::MtuMode),
    ("ttl", Group::Ttl),
    ("ttl_inherit", Group::Ttl),
    ("dscp", Group::Dscp),
    ("dscp_copy", Group::Dscp),
    ("dscp_decap_copy", Group::DscpDecap),
    ("ecn", Group::Ecn),
    ("strict_source", Group::Strict),
    ("admin_up", Group::Up),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Group {
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
}

/// Which fields an update touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mask(u16);

impl Mask {
    /// Every field.
    pub(crate) const ALL: Self = Self(u16::MAX);

    /// The fields of these names; `id` is allowed and means nothing, for it is the key.
    pub(crate) fn from_names<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut bits = 0;
        for name in names {
            match FIELDS.iter().find(|(field, _)| *field == name) {
                Some((_, group)) => bits |= 1 << *group as u8,
                None if name == "id" => {}
                None => return Err(name.to_owned()),
            }
        }
        Ok(Self(bits))
    }

    fn has(self, group: Group) -> bool {
        self.0 & (1 << group as u8) != 0
    }

    /// Whether a field of that name is touched; names without a group always are.
    fn touches(self, name: &str) -> bool {
        FIELDS
            .iter()
            .find(|(field, _)| *field == name)
            .is_none_or(|(_, group)| self.has(*group))
    }
}

/// What a request says of one tunnel.
#[derive(Clone, Debug)]
pub(crate) struct TunnelPatch {
    /// Every field, defaults where nothing was given.
    pub(crate) spec: TunnelSpec,
    /// What could not be read. Counts only for fields that are touched: an update of the MTU
    /// need not repeat the addresses.
    pub(crate) unreadable: Vec<Violation>,
    pub(crate) mask: Mask,
}

impl TunnelPatch {
    /// The tunnel as it is to be, checked by itself.
    pub(crate) fn apply(self, existing: Option<&TunnelSpec>) -> Result<TunnelSpec, Error> {
        let mask = if existing.is_some() {
            self.mask
        } else {
            Mask::ALL
        };
        let unreadable: Vec<_> = self
            .unreadable
            .into_iter()
            .filter(|v| mask.touches(v.field))
            .collect();
        if !unreadable.is_empty() {
            return Err(Error::violations(unreadable));
        }
        let mut spec = match existing {
            Some(old) => merge(old, self.spec, mask),
            None => self.spec,
        };
        // Readers see the default spelt out: writing it back must change nothing.
        if spec.link_local == Some(default_link_local(spec.local)) {
            spec.link_local = None;
        }
        if existing.is_some_and(|old| old.encap != spec.encap) {
            return Err(Error::Immutable {
                field: "encapsulation",
            });
        }
        let found = check_spec(&spec);
        if found.is_empty() {
            Ok(spec)
        } else {
            Err(Error::violations(found))
        }
    }
}

fn merge(old: &TunnelSpec, new: TunnelSpec, mask: Mask) -> TunnelSpec {
    if mask == Mask::ALL {
        return new;
    }
    macro_rules! pick {
        ($group:ident, $field:ident) => {
            if mask.has(Group::$group) {
                new.$field
            } else {
                old.$field.clone()
            }
        };
    }
    TunnelSpec {
        local: pick!(Local, local),
        remote: pick!(Remote, remote),
        encap: pick!(Encap, encap),
        prefixes: pick!(Prefixes, prefixes),
        link: pick!(Link, link),
        link_local: pick!(LinkLocal, link_local),
        mtu: pick!(Mtu, mtu),
        mtu_mode: pick!(MtuMode, mtu_mode),
        path_mtu: pick!(MtuMode, path_mtu),
        min_path_mtu: pick!(MtuMode, min_path_mtu),
        mss_clamp: pick!(Mtu, mss_clamp),
        ttl: pick!(Ttl, ttl),
        dscp: pick!(Dscp, dscp),
        dscp_decap_copy: pick!(DscpDecap, dscp_decap_copy),
        ecn: pick!(Ecn, ecn),
        strict_source: pick!(Strict, strict_source),
        up: pick!(Up, up),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patch(names: &[&str]) -> TunnelPatch {
        let mut spec = TunnelSpec::new([0, 0, 0, 0].into(), [0, 0, 0, 0].into());
        spec.mtu = 1400;
        TunnelPatch {
            spec,
            unreadable: vec![Violation::new("local", "missing")],
            mask: Mask::from_names(names.iter().copied()).expect("names"),
        }
    }

    #[test]
    fn only_touched_fields_change_and_are_checked() {
        let old = TunnelSpec::new([198, 51, 100, 1].into(), [192, 0, 2, 1].into());
        let new = patch(&["mtu", "id"]).apply(Some(&old)).expect("fine");
        assert_eq!(
            (new.local, new.remote, new.mtu),
            (old.local, old.remote, 1400)
        );
        let missing = Error::field("local", "missing");
        assert_eq!(patch(&["local"]).apply(Some(&old)), Err(missing.clone()));
        assert_eq!(
            patch(&["mtu"]).apply(None),
            Err(missing),
            "a new one needs everything"
        );
    }

    #[test]
    fn unknown_names_are_told() {
        assert_eq!(Mask::from_names(["mtu", "nope"]), Err("nope".to_owned()));
    }
}

//! Update masks: which fields of an object a request sets.

use std::marker::PhantomData;

/// Fields that are set together. At most 32 groups.
pub(crate) trait Group: Copy + 'static {
    /// Every field by the name the API gives it.
    const FIELDS: &[(&str, Self)];

    /// Number of the group.
    fn index(self) -> u8;
}

/// Which fields an update touches.
#[derive(Debug)]
pub(crate) struct Mask<G> {
    bits: u32,
    groups: PhantomData<G>,
}

impl<G> Clone for Mask<G> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<G> Copy for Mask<G> {}

impl<G> PartialEq for Mask<G> {
    fn eq(&self, other: &Self) -> bool {
        self.bits == other.bits
    }
}

impl<G: Group> Mask<G> {
    /// Every field.
    pub(crate) const ALL: Self = Self {
        bits: u32::MAX,
        groups: PhantomData,
    };

    /// The fields of these names; `id` is allowed and means nothing, for it is the key.
    pub(crate) fn from_names<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut bits = 0;
        for name in names {
            match G::FIELDS.iter().find(|(field, _)| *field == name) {
                Some((_, group)) => bits |= 1 << group.index(),
                None if name == "id" => {}
                None => return Err(name.to_owned()),
            }
        }
        Ok(Self {
            bits,
            groups: PhantomData,
        })
    }

    pub(super) fn has(self, group: G) -> bool {
        self.bits & (1 << group.index()) != 0
    }

    /// Whether a field of that name is touched, or the one a path leads through; names without a
    /// group always are.
    pub(super) fn touches(self, path: &str) -> bool {
        let name = path.split('.').next().unwrap_or(path);
        G::FIELDS
            .iter()
            .find(|(field, _)| *field == name)
            .is_none_or(|(_, group)| self.has(*group))
    }
}

/// One value of two: the new one if its group is touched.
macro_rules! pick {
    ($mask:expr, $group:expr, $old:expr, $new:expr) => {
        if $mask.has($group) {
            $new
        } else {
            $old.clone()
        }
    };
}
pub(super) use pick;

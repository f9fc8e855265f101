//! Read masks: which top-level fields of an object a reader wants.

use crate::control::error::Error;

/// An object whose fields a read mask can name.
pub(crate) trait Masked: Default {
    /// Names a read mask may hold.
    const FIELDS: &[&str];

    /// The object without the fields not named; its key always stays.
    fn keep(self, names: &[String]) -> Self;
}

/// The fields of a message by name; the first is its key. A `oneof` stands behind a semicolon with
/// the names of its members.
macro_rules! masked {
    ($message:ty, $key:ident, $($field:ident),+ $(; $oneof:ident: $($member:literal),+)?) => {
        impl $crate::convert::mask::Masked for $message {
            const FIELDS: &[&str] =
                &[stringify!($key), $(stringify!($field),)+ $($($member),+)?];

            fn keep(self, names: &[String]) -> Self {
                let has = |name: &str| names.iter().any(|n| n == name);
                let mut kept = Self { $key: self.$key, ..Self::default() };
                $(if has(stringify!($field)) { kept.$field = self.$field; })+
                $(if [$($member),+].iter().any(|name| has(name)) { kept.$oneof = self.$oneof; })?
                kept
            }
        }
    };
}
pub(crate) use masked;

/// A read mask that was checked; `None` wants everything.
#[derive(Debug)]
pub(crate) struct ReadMask(Option<Vec<String>>);

impl ReadMask {
    pub(crate) fn of<M: Masked>(mask: Option<prost_types::FieldMask>) -> Result<Self, Error> {
        let Some(mask) = mask else {
            return Ok(Self(None));
        };
        let unknown = |path: &&String| !M::FIELDS.contains(&path.as_str());
        match mask.paths.iter().find(unknown) {
            Some(path) => Err(Error::field("read_mask", format!("no field {path:?}"))),
            None => Ok(Self(Some(mask.paths))),
        }
    }

    /// Whether that field is wanted.
    pub(crate) fn wants(&self, field: &str) -> bool {
        self.0
            .as_ref()
            .is_none_or(|names| names.iter().any(|n| n == field))
    }

    pub(crate) fn apply<M: Masked>(&self, message: M) -> M {
        match &self.0 {
            Some(names) => message.keep(names),
            None => message,
        }
    }
}

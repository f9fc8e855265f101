//! Where a key stands in the text, by its path: for problems a plugin's own check names by key.

use std::ops::Range;

use toml::de::{DeTable, DeValue};

/// The place of the value at `path`, such as `dtcp.udp.first_port`; of the nearest section above it
/// where the key is not written.
pub(super) fn of(text: &str, path: &str) -> Option<Range<usize>> {
    let document = DeTable::parse(text).ok()?;
    let mut table = document.get_ref();
    let mut found = None;
    for word in path.split('.') {
        let Some((key, value)) = table.iter().find(|(key, _)| key.get_ref() == word) else {
            break;
        };
        found = Some(key.span());
        match value.get_ref() {
            DeValue::Table(inner) => table = inner,
            _ => {
                found = Some(value.span());
                break;
            }
        }
    }
    found
}

//! Which real peers must be there.
//!
//! A machine without user-mode-linux, qemu or AF_XDP may skip what needs them. `make test` run by
//! root names them in `SIXFERRY_REQUIRE` (`afxdp,sit,qemu`), and then a missing one is a failure.

/// True when the environment demands `feature`.
#[must_use]
pub fn required(feature: &str) -> bool {
    std::env::var("SIXFERRY_REQUIRE")
        .is_ok_and(|list| list.split(',').any(|item| item.trim() == feature))
}

/// Decides about a test whose peer may be missing: true means run it.
///
/// # Panics
/// When `feature` is required and `missing` says why it cannot be had.
#[must_use]
pub fn available(feature: &str, missing: Option<&str>) -> bool {
    match missing {
        None => true,
        Some(why) if required(feature) => {
            panic!("SIXFERRY_REQUIRE names {feature}, but {why}")
        }
        Some(why) => {
            eprintln!("skipped: {why} (SIXFERRY_REQUIRE={feature} makes this a failure)");
            false
        }
    }
}

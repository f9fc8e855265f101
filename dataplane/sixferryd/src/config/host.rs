//! What a check must know of the host; a trait, so that tests need no interfaces.

use std::path::Path;

/// The host as the checks see it.
pub(crate) trait Host {
    /// Whether a network interface of that name exists.
    fn has_interface(&self, name: &str) -> bool;
    /// Whether a directory exists.
    fn has_dir(&self, path: &Path) -> bool;
    /// Whether a file exists and can be read by this process.
    fn can_read(&self, path: &Path) -> Result<(), String>;
    /// Processors that are online.
    fn cpus(&self) -> u32;
}

/// The host this process runs on.
#[derive(Debug)]
pub(crate) struct LiveHost;

impl Host for LiveHost {
    fn has_interface(&self, name: &str) -> bool {
        // By netdevice(7), not sysfs: in a namespace /sys may still show another one's interfaces.
        use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, socket_with};
        socket_with(
            AddressFamily::INET,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            None,
        )
        .is_ok_and(|fd| netdevice::name_to_index(fd, name).is_ok())
    }

    fn has_dir(&self, path: &Path) -> bool {
        path.is_dir()
    }

    fn can_read(&self, path: &Path) -> Result<(), String> {
        std::fs::File::open(path)
            .map(drop)
            .map_err(|e| e.to_string())
    }

    fn cpus(&self) -> u32 {
        std::thread::available_parallelism()
            .map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX))
    }
}

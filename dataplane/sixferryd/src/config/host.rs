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
    /// The highest number of a CPU that is online, plus one.
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

    // Not those this thread may use: a reload is checked by a thread kept off the workers' CPUs.
    fn cpus(&self) -> u32 {
        std::fs::read_to_string("/sys/devices/system/cpu/online")
            .ok()
            .and_then(|list| after_last(&list))
            .unwrap_or_else(|| {
                std::thread::available_parallelism()
                    .map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX))
            })
    }
}

/// What comes after the last number of a list like `0-3,8`.
fn after_last(list: &str) -> Option<u32> {
    let last = list.trim().rsplit([',', '-']).next()?;
    last.parse::<u32>().ok()?.checked_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_are_counted_by_the_last_one() {
        assert_eq!(after_last("0\n"), Some(1));
        assert_eq!(after_last("0-1\n"), Some(2));
        assert_eq!(after_last("0-3,8-11,16\n"), Some(17));
        for nothing in ["", "\n", "0-", "x", "0-4294967295"] {
            assert_eq!(after_last(nothing), None, "{nothing:?}");
        }
    }
}

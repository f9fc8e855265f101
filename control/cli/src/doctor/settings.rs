//! What the daemon's configuration says about interfaces and memory. Only what the checks need:
//! whether the file is right is for `sixferryd --check` and `check-config`.

use std::path::Path;

use toml::{Table, Value};

use super::Check;
use super::system::System;

/// Frames per worker unless configured.
const DEFAULT_FRAMES: u64 = 16_384;
/// Name of the host port unless configured.
const DEFAULT_HOST_PORT: &str = "sixferry0";
const UDP_HEADER_LEN: u64 = 8;

/// The part of the configuration that matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Settings {
    /// Names of the ports.
    pub(super) ports: Vec<String>,
    /// Configured number of workers; 0: by the queues.
    pub(super) workers: u64,
    /// Frames of 2048 bytes per worker.
    pub(super) frames: u64,
    /// Largest inner MTU of the configured tunnels and domains, as if all were in protocol 41:
    /// what UDP adds counts as well.
    pub(super) tunnel_mtu: u64,
    /// Name of the host port, if it is switched on.
    pub(super) host_port: Option<String>,
    /// VLANs are named in the configuration.
    pub(super) vlans: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            ports: Vec::new(),
            workers: 0,
            frames: DEFAULT_FRAMES,
            tunnel_mtu: 1280,
            host_port: None,
            vlans: false,
        }
    }
}

impl Settings {
    /// Reads the file; without one the defaults serve.
    pub(super) fn read(system: &System, path: &Path) -> (Self, Check) {
        let name = path.display();
        let text = match std::fs::read_to_string(system.path(path)) {
            Ok(text) => text,
            Err(error) => {
                let check = Check::warn(
                    "configuration",
                    format!("{name}: {error}; assuming the defaults"),
                    "name the file with --config, or create it",
                );
                return (Self::default(), check);
            }
        };
        match text.parse::<Table>() {
            Ok(table) => {
                let settings = Self::from_table(&table);
                let ports = settings.ports.len();
                let check = if ports == 0 {
                    Check::warn(
                        "configuration",
                        format!("{name} names no port: nothing will be forwarded"),
                        "add a [[port]] section with the name of an interface",
                    )
                } else {
                    Check::ok("configuration", format!("{name}, {ports} ports"))
                };
                (settings, check)
            }
            Err(error) => {
                let message = error.message().to_owned();
                let check = Check::fail(
                    "configuration",
                    format!("{name} is no TOML: {message}"),
                    format!("see `sixferryd --config {name} --check`"),
                );
                (Self::default(), check)
            }
        }
    }

    fn from_table(table: &Table) -> Self {
        let sections = |key: &str| {
            let list = table.get(key).and_then(Value::as_array);
            list.into_iter().flatten().filter_map(Value::as_table)
        };
        let number = |value: Option<&Value>| {
            let number = value.and_then(Value::as_integer)?;
            u64::try_from(number).ok()
        };
        let worker = |key: &str| number(table.get("worker").and_then(|w| w.get(key)));
        let name = |port: &Table| Some(port.get("name")?.as_str()?.to_owned());
        let named_vlans = |port: &Table| {
            let vlans = port.get("vlans").and_then(Value::as_array);
            vlans.is_some_and(|v| !v.is_empty())
        };
        let mtu = |section: &Table| {
            let udp = section.get("encap").and_then(Value::as_str) == Some("udp");
            Some(number(section.get("mtu"))? + if udp { UDP_HEADER_LEN } else { 0 })
        };
        let mtu = sections("tunnel")
            .chain(sections("domain"))
            .filter_map(mtu)
            .max();
        let host_port = table.get("host_port").and_then(Value::as_table);
        let host_port = host_port.filter(|h| h.get("enabled") == Some(&Value::Boolean(true)));
        Self {
            ports: sections("port").filter_map(name).collect(),
            workers: worker("count").unwrap_or(0),
            frames: worker("frames").unwrap_or(DEFAULT_FRAMES),
            tunnel_mtu: mtu.unwrap_or(1280).max(1280),
            host_port: host_port.map(|h| {
                let name = h.get("name").and_then(Value::as_str);
                name.unwrap_or(DEFAULT_HOST_PORT).to_owned()
            }),
            vlans: sections("port").any(named_vlans),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    fn read(text: &str) -> (Settings, Check) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("d.toml"), text).unwrap();
        Settings::read(&System::fake(dir.path(), &[]), Path::new("/d.toml"))
    }

    #[test]
    fn what_matters_is_read() {
        let (settings, check) = read(
            "[worker]\ncount = 2\nframes = 4096\n\
             [[port]]\nname = \"eth0\"\nvlans = [7]\n[[port]]\nname = \"eth1\"\n\
             [[tunnel]]\nid = \"a\"\nmtu = 1400\n[[tunnel]]\nid = \"b\"\n\
             [[tunnel]]\nid = \"u\"\nencap = \"udp\"\nmtu = 1472\n\
             [[domain]]\nid = \"d\"\nmtu = 1300\n[host_port]\nenabled = true\n",
        );
        let expected = Settings {
            ports: vec!["eth0".into(), "eth1".into()],
            workers: 2,
            frames: 4096,
            tunnel_mtu: 1480,
            host_port: Some("sixferry0".into()),
            vlans: true,
        };
        assert_eq!(settings, expected);
        assert_eq!(check.status, Status::Ok);
    }

    #[test]
    fn no_file_no_port_and_no_toml() {
        let dir = tempfile::tempdir().unwrap();
        let system = System::fake(dir.path(), &[]);
        let (settings, check) = Settings::read(&system, Path::new("/none.toml"));
        assert_eq!(
            (settings, check.status),
            (Settings::default(), Status::Warn)
        );
        assert_eq!(read("").1.status, Status::Warn);
        assert_eq!(read("port = [").1.status, Status::Fail);
    }
}

//! Files of tunnels: JSON lines as `tunnel list --jsonl` prints them, or CSV with a header.
//!
//! A file is checked as a whole before anything is sent: half a typo is no reason for half a load.

use std::io::Read;
use std::path::Path;

use clap::ValueEnum;
use sixferry_client::Tunnel;

use crate::error::CliError;
use crate::json::outer::{Ecn, MtuMode};
use crate::json::tunnel as shape;

/// Larger files are refused: about ten million tunnels.
const MAX_FILE_LEN: u64 = 2 << 30;

/// How many bad lines are reported.
const MAX_PROBLEMS: usize = 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// One JSON object per line.
    Jsonl,
    /// Comma-separated, first line names the columns; several prefixes are separated by spaces.
    Csv,
}

/// A checked file.
#[derive(Debug)]
pub(crate) struct TunnelFile {
    text: String,
    format: Format,
    count: u64,
}

impl TunnelFile {
    /// Reads and checks; `-` is standard input.
    pub(crate) fn open(path: &Path, format: Option<Format>) -> Result<Self, CliError> {
        let text = read(path)?;
        let format = format.unwrap_or_else(|| guess(path, &text));
        let mut file = Self {
            text,
            format,
            count: 0,
        };
        let mut problems = Vec::new();
        let mut wrong: u64 = 0;
        let mut count = 0;
        for (line, tunnel) in file.parse()? {
            match tunnel {
                Ok(_) => count += 1,
                Err(problem) => {
                    wrong += 1;
                    if problems.len() < MAX_PROBLEMS {
                        problems.push(format!("{}:{line}: {problem}", path.display()));
                    }
                }
            }
        }
        file.count = count;
        if wrong == 0 {
            return Ok(file);
        }
        if wrong > problems.len() as u64 {
            problems.push(format!("and {} more", wrong - problems.len() as u64));
        }
        problems.push("nothing was sent".to_owned());
        Err(CliError::Failed(problems.join("\n  ")))
    }

    /// Tunnels in it.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Line of an entry, by its position.
    pub(crate) fn line_of(&self, position: u64) -> Option<usize> {
        let position = usize::try_from(position).ok()?;
        self.parse().ok()?.nth(position).map(|(line, _)| line)
    }

    /// The tunnels. The file was checked, so nothing is left out.
    pub(crate) fn tunnels(&self) -> impl Iterator<Item = Tunnel> {
        let rows = self.parse().into_iter().flatten();
        rows.filter_map(|(_, tunnel)| tunnel.ok())
    }

    /// Line numbers and tunnels; an error if the header is unusable.
    fn parse(&self) -> Result<impl Iterator<Item = (usize, Result<Tunnel, String>)>, CliError> {
        let mut lines = self.text.lines().enumerate().map(|(i, l)| (i + 1, l));
        let columns = match self.format {
            Format::Jsonl => Vec::new(),
            Format::Csv => {
                let header = lines.find(|(_, l)| !is_blank(l)).map(|(_, l)| l);
                csv_columns(header.unwrap_or_default())?
            }
        };
        let format = self.format;
        let rows = lines.filter(|(_, line)| !is_blank(line));
        Ok(rows.map(move |(number, line)| {
            let tunnel = match format {
                Format::Jsonl => serde_json::from_str(line).map_err(|e| e.to_string()),
                Format::Csv => csv_row(&columns, line),
            };
            (number, tunnel.and_then(shape::Tunnel::into_client))
        }))
    }
}

fn is_blank(line: &str) -> bool {
    let line = line.trim();
    line.is_empty() || line.starts_with('#')
}

fn read(path: &Path) -> Result<String, CliError> {
    let cannot = |e: std::io::Error| CliError::Usage(format!("{}: {e}", path.display()));
    let source: Box<dyn Read> = if path == Path::new("-") {
        Box::new(std::io::stdin())
    } else {
        Box::new(std::fs::File::open(path).map_err(cannot)?)
    };
    let mut text = String::new();
    let mut limited = source.take(MAX_FILE_LEN + 1);
    limited.read_to_string(&mut text).map_err(cannot)?;
    if text.len() as u64 > MAX_FILE_LEN {
        let problem = format!("{}: larger than 2 GiB: split it", path.display());
        return Err(CliError::Usage(problem));
    }
    Ok(text)
}

fn guess(path: &Path, text: &str) -> Format {
    let is_csv = path.extension().is_some_and(|e| e == "csv");
    if is_csv || (path == Path::new("-") && !text.trim_start().starts_with('{')) {
        Format::Csv
    } else {
        Format::Jsonl
    }
}

/// A column of a CSV file: sets its field from text.
type Column = (
    &'static str,
    fn(&mut shape::Tunnel, &str) -> Result<(), String>,
);

const COLUMNS: &[Column] = &[
    ("id", |t, v| {
        v.clone_into(&mut t.id);
        Ok(())
    }),
    ("local", |t, v| set(&mut t.local, v, "an IPv4 address")),
    ("remote", |t, v| {
        set_some(&mut t.remote, v, "an IPv4 address")
    }),
    ("encapsulation", |t, v| {
        t.encapsulation = match v {
            "sixInFour" | "6in4" => shape::Encapsulation::SixInFour,
            "udp" => shape::Encapsulation::Udp,
            _ => return Err("sixInFour or udp".to_owned()),
        };
        Ok(())
    }),
    ("localPort", |t, v| set_some(&mut t.local_port, v, "a port")),
    ("remotePort", |t, v| {
        set_some(&mut t.remote_port, v, "a port")
    }),
    ("sharedPort", |t, v| {
        set_some(&mut t.shared_port, v, "true or false")
    }),
    ("rebind", |t, v| {
        let word = shape::Rebind::from_str(v, false);
        t.rebind = Some(word.map_err(|_| "deny, control, inner-source or inner-source-port")?);
        Ok(())
    }),
    ("prefixes", |t, v| {
        let parsed = v.split_whitespace().map(crate::parse::prefix6);
        t.prefixes = parsed.collect::<Result<_, _>>()?;
        Ok(())
    }),
    ("linkPrefix", |t, v| {
        t.link_prefix = Some(crate::parse::prefix6(v)?);
        Ok(())
    }),
    ("linkAddress", |t, v| {
        set_some(&mut t.link_address, v, "an IPv6 address")
    }),
    ("mtu", |t, v| set_some(&mut t.mtu, v, "a number")),
    ("mtuMode", |t, v| {
        let word = MtuMode::from_str(v, false);
        t.mtu_mode = word.map_err(|_| "static, managed or dynamic")?;
        Ok(())
    }),
    ("pathMtu", |t, v| set_some(&mut t.path_mtu, v, "a number")),
    ("minPathMtu", |t, v| {
        set_some(&mut t.min_path_mtu, v, "a number")
    }),
    ("mssClamp", |t, v| set(&mut t.mss_clamp, v, "true or false")),
    ("ttl", |t, v| {
        let ttl = crate::parse::ttl(v)?;
        t.ttl_inherit = ttl == sixferry_client::Ttl::Inherit;
        if let sixferry_client::Ttl::Fixed(ttl) = ttl {
            t.ttl = Some(ttl);
        }
        Ok(())
    }),
    ("dscp", |t, v| {
        let dscp = crate::parse::dscp(v)?;
        t.dscp_copy = dscp == sixferry_client::Dscp::Copy;
        if let sixferry_client::Dscp::Fixed(dscp) = dscp {
            t.dscp = Some(dscp);
        }
        Ok(())
    }),
    ("ecn", |t, v| {
        t.ecn = Ecn::from_str(v, false).map_err(|_| "normal or compat")?;
        Ok(())
    }),
    ("strictSource", |t, v| {
        set(&mut t.strict_source, v, "true or false")
    }),
    ("adminUp", |t, v| set(&mut t.admin_up, v, "true or false")),
    ("liveness", |t, v| {
        let word = shape::Liveness::from_str(v, false);
        t.liveness = word.map_err(|_| "off, passive, nud or echo")?;
        Ok(())
    }),
    ("livenessIntervalSeconds", |t, v| {
        set_some(&mut t.liveness_interval_seconds, v, "a number")
    }),
];

fn set<T: std::str::FromStr>(target: &mut T, value: &str, expected: &str) -> Result<(), String> {
    *target = value.parse().map_err(|_| expected.to_owned())?;
    Ok(())
}

fn set_some<T: std::str::FromStr>(
    target: &mut Option<T>,
    value: &str,
    expected: &str,
) -> Result<(), String> {
    *target = Some(value.parse().map_err(|_| expected.to_owned())?);
    Ok(())
}

fn csv_columns(header: &str) -> Result<Vec<&'static Column>, CliError> {
    let mut columns = Vec::new();
    for name in header.split(',').map(str::trim) {
        let Some(column) = COLUMNS.iter().find(|(known, _)| *known == name) else {
            let known: Vec<_> = COLUMNS.iter().map(|(known, _)| *known).collect();
            return Err(CliError::Failed(format!(
                "CSV header: unknown column \"{name}\"; known are {}",
                known.join(", ")
            )));
        };
        if columns.iter().any(|(seen, _): &&Column| *seen == name) {
            let problem = format!("CSV header: column \"{name}\" stands twice");
            return Err(CliError::Failed(problem));
        }
        columns.push(column);
    }
    for needed in ["id", "local", "remote"] {
        if !columns.iter().any(|(name, _)| *name == needed) {
            let problem = format!("CSV header: column \"{needed}\" is missing");
            return Err(CliError::Failed(problem));
        }
    }
    Ok(columns)
}

fn csv_row(columns: &[&'static Column], line: &str) -> Result<shape::Tunnel, String> {
    let cells: Vec<&str> = line.split(',').map(str::trim).collect();
    if cells.len() != columns.len() {
        let (cells, columns) = (cells.len(), columns.len());
        return Err(format!("{cells} values for {columns} columns"));
    }
    let unset = std::net::Ipv4Addr::UNSPECIFIED;
    let blank = sixferry_client::Tunnel::new("", unset, unset);
    let mut tunnel = shape::Tunnel::from(sixferry_client::TunnelEntry::new(blank));
    (tunnel.ttl, tunnel.dscp, tunnel.mtu) = (None, None, None);
    for ((name, put), cell) in columns.iter().zip(cells) {
        let needed = matches!(*name, "id" | "local");
        if cell.is_empty() && !needed {
            continue;
        }
        put(&mut tunnel, cell).map_err(|expected| format!("{name}: {expected}"))?;
    }
    Ok(tunnel)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sixferry_client::Ttl;

    fn open(name: &str, text: &str) -> Result<TunnelFile, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        TunnelFile::open(&path, None).map_err(|e| e.to_string())
    }

    #[test]
    fn json_lines_with_comments_and_blank_lines() {
        let file = open(
            "t.jsonl",
            "# users\n\n\
             {\"id\":\"a\",\"local\":\"198.51.100.1\",\"remote\":\"192.0.2.1\"}\n\
             {\"id\":\"b\",\"local\":\"198.51.100.1\",\"remote\":\"192.0.2.2\",\"mtu\":1480}\n",
        )
        .unwrap();
        assert_eq!(file.count(), 2);
        let tunnels: Vec<_> = file.tunnels().collect();
        assert_eq!((tunnels[1].id.as_str(), tunnels[1].mtu), ("b", 1480));
        assert_eq!(file.line_of(1), Some(4));
    }

    #[test]
    fn csv_with_columns_in_any_order() {
        let file = open(
            "t.csv",
            "remote, id, local, prefixes, ttl, adminUp\n\
             192.0.2.1, a, 198.51.100.1, 2001:db8:1::/48 2001:db8:2::/48, inherit, false\n\
             192.0.2.2, b, 198.51.100.1, , ,\n",
        )
        .unwrap();
        let tunnels: Vec<_> = file.tunnels().collect();
        assert_eq!(tunnels[0].prefixes.len(), 2);
        assert_eq!(tunnels[0].ttl, Ttl::Inherit);
        assert!(!tunnels[0].admin_up);
        let plain = Tunnel::new("b", [198, 51, 100, 1].into(), [192, 0, 2, 2].into());
        assert_eq!(tunnels[1], plain);
    }

    #[test]
    fn csv_of_udp_tunnels_may_leave_the_user_out() {
        let file = open(
            "t.csv",
            "id,local,remote,encapsulation,localPort,remotePort,rebind,mtuMode,liveness\n\
             a,198.51.100.1,,udp,4028,,inner-source,dynamic,passive\n\
             b,198.51.100.1,192.0.2.2,udp,4029,4028,,,\n",
        )
        .unwrap();
        let tunnels: Vec<_> = file.tunnels().collect();
        assert!(tunnels[0].remote.is_unspecified());
        assert_eq!(tunnels[0].mtu, 0, "as large as the path");
        let sixferry_client::Encap::Udp(udp) = tunnels[1].encap else {
            panic!("not UDP");
        };
        assert_eq!((udp.local_port, udp.remote_port), (4029, Some(4028)));
        let error = open("t.csv", "id,local,remote\na,198.51.100.1,\n").unwrap_err();
        assert!(error.contains("t.csv:2: remote is missing"), "{error}");
    }

    #[test]
    fn every_bad_line_is_named_and_nothing_is_sent() {
        let error = open(
            "t.csv",
            "id,local,remote\na,198.51.100.1,192.0.2.1\nb,x,192.0.2.2\nc,1.2.3.4\n",
        )
        .unwrap_err();
        assert!(error.contains("t.csv:3: local: an IPv4 address"), "{error}");
        assert!(error.contains("t.csv:4: 2 values for 3 columns"), "{error}");
        assert!(error.ends_with("nothing was sent"), "{error}");
        let error = open("t.jsonl", "{\"id\":\"a\",\"mtuu\":1}\n").unwrap_err();
        assert!(error.contains("t.jsonl:1: unknown field `mtuu`"), "{error}");
    }

    #[test]
    fn headers_are_checked() {
        for (header, expected) in [
            ("id,local", "column \"remote\" is missing"),
            ("id,local,remote,colour", "unknown column \"colour\""),
            ("id,local,remote,id", "column \"id\" stands twice"),
        ] {
            let error = open("t.csv", header).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn long_lists_of_problems_are_cut() {
        let error = open("t.jsonl", &"{}\n".repeat(25)).unwrap_err();
        assert!(error.contains("and 15 more"), "{error}");
    }

    #[test]
    fn a_missing_file_is_a_usage_error() {
        let error = TunnelFile::open(Path::new("/nonexistent/t.csv"), None).unwrap_err();
        assert!(
            matches!(&error, CliError::Usage(text) if text.contains("t.csv")),
            "{error}"
        );
    }
}

//! From text to [`Config`]: syntax, then every value, then how the values fit together.

use std::net::{IpAddr, SocketAddr};
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sixferry_client::{DEFAULT_SOCKET, Options, Target, TlsFiles};
use sixferry_lifecycle::store::Retention;
use sixferry_lifecycle::{DataplaneConfig, LifecycleConfig};
use sixferry_service::{Findings, LogConfig, MAX_TEXT_LEN, TcpTls, check_level};
use toml::Spanned;

use super::raw::{
    Key, Raw, RawControl, RawDataplane, RawLifecycle, RawLog, RawStore, RawTcp, RawTls,
};
use super::{Checked, Config, Only, StoreConfig, host, place};

/// `sun_path` of unix(7), less the final zero.
const MAX_SOCKET_PATH: usize = 107;
const DEFAULT_STATE_DIR: &str = "/var/lib/sixferry";
const DEFAULT_METRICS: &str = "127.0.0.1:9465";
/// Microseconds.
const DAY: i64 = 24 * 3600 * 1_000_000;

pub(super) fn check(text: &str, file: &Path, only: Option<Only>) -> Checked {
    let mut findings = Findings::new(text, file);
    let mut config = None;
    if text.len() > MAX_TEXT_LEN {
        let message = format!("{} bytes; at most {MAX_TEXT_LEN} are read", text.len());
        findings.error("", None, message);
    } else {
        match toml::from_str::<Raw>(text) {
            Ok(raw) => config = Some(convert(raw, text, file, only, &mut findings)),
            Err(error) => findings.syntax_error(&error),
        }
    }
    let config = config.filter(|_| !findings.has_errors());
    Checked {
        findings: findings.into_sorted(),
        config,
    }
}

fn convert(
    raw: Raw,
    text: &str,
    file: &Path,
    only: Option<Only>,
    findings: &mut Findings<'_>,
) -> Config {
    let state_dir = PathBuf::from(value_or(&raw.control.state_dir, DEFAULT_STATE_DIR));
    let unix_socket = unix_socket(&raw.control, only, findings);
    let tcp = raw.control.tcp.as_ref();
    let tcp = tcp.and_then(|tcp| tcp_tls(tcp, findings));
    if unix_socket.is_none() && tcp.is_none() {
        let message = "neither unix_socket nor tcp: nobody could ask or tell it anything";
        findings.error(
            "control",
            place(&raw.control.unix_socket),
            message.to_owned(),
        );
    }
    let metrics = metrics(&raw.metrics.listen, only, findings);
    let store = store(&raw.store, &state_dir, findings);
    let lifecycle = lifecycle(&raw.lifecycle, &raw.store, &raw.dataplane, findings);
    let remote = remote(&raw.control, only, findings);
    let dtcp = raw.dtcp.map(Spanned::into_inner);
    if let Some(dtcp) = &dtcp {
        let mut problems = dtcp.check();
        if !dtcp.timeouts.traffic.is_zero() {
            // The library can do it for a host that counts; otherwise the plugin would never start.
            let problem = "timeouts.traffic: this daemon does not count packets yet; only 0 serves";
            problems.push(problem.to_owned());
        }
        plugin("dtcp", problems, text, findings);
    } else if only == Some(Only::Dtcp) {
        let message = "--only dtcp needs this section; it may be empty";
        findings.error("dtcp", None, message.to_owned());
    }
    let config = Config {
        only,
        state_dir,
        unix_socket,
        tcp,
        metrics,
        log: log(&raw.log, findings),
        store,
        lifecycle,
        remote,
        dtcp,
    };
    one_port_one_listener(&config, text, findings);
    if config.runs_lifecycle() {
        host::check_store(&config, file, text, findings);
    }
    config
}

pub(super) fn value_or<'a>(key: &'a Key<String>, default: &'a str) -> &'a str {
    key.as_ref().map_or(default, |k| k.get_ref().as_str())
}

pub(super) fn place<T>(key: &Key<T>) -> Option<Range<usize>> {
    key.as_ref().map(Spanned::span)
}

/// A number within its range, or an error and the default.
fn within(
    key: &str,
    value: &Key<u32>,
    default: u32,
    range: RangeInclusive<u32>,
    findings: &mut Findings<'_>,
) -> u32 {
    let given = value.as_ref().map_or(default, |v| *v.get_ref());
    if range.contains(&given) {
        return given;
    }
    let (least, most) = (range.start(), range.end());
    findings.error(
        key,
        place(value),
        format!("{given} is outside {least}..{most}"),
    );
    default
}

fn seconds(
    key: &str,
    value: &Key<u32>,
    default: u32,
    range: RangeInclusive<u32>,
    findings: &mut Findings<'_>,
) -> Duration {
    Duration::from_secs(within(key, value, default, range, findings).into())
}

/// What a plugin's own check found, each line beginning with its key.
fn plugin(section: &str, problems: Vec<String>, text: &str, findings: &mut Findings<'_>) {
    for problem in problems {
        let (key, message) = problem.split_once(": ").unwrap_or(("", &problem));
        let path = format!("{section}.{key}");
        let path = path.trim_end_matches('.');
        findings.error(path, place::of(text, path), message.to_owned());
    }
}

fn unix_socket(
    raw: &RawControl,
    only: Option<Only>,
    findings: &mut Findings<'_>,
) -> Option<PathBuf> {
    // A plugin of its own must not take the place of the process it asks.
    let default = match only {
        None | Some(Only::Lifecycle) => sixferry_client::control::DEFAULT_SOCKET.to_owned(),
        Some(other) => format!("/run/sixferry/control-{}.sock", other.name()),
    };
    let path = value_or(&raw.unix_socket, &default);
    if path.is_empty() {
        return None;
    }
    if path.len() > MAX_SOCKET_PATH {
        let message = format!(
            "{} bytes; a socket's path has at most {MAX_SOCKET_PATH}",
            path.len()
        );
        findings.error("control.unix_socket", place(&raw.unix_socket), message);
    }
    Some(path.into())
}

fn tcp_tls(raw: &Spanned<RawTcp>, findings: &mut Findings<'_>) -> Option<TcpTls> {
    let at = raw.span();
    let raw = raw.get_ref();
    let listen = match &raw.listen {
        Some(listen) => socket_addr("control.tcp.listen", listen, findings),
        None => {
            let message = "missing: an address and port, such as \"[::]:5843\"".to_owned();
            findings.error("control.tcp.listen", Some(at.clone()), message);
            None
        }
    };
    let section = "control.tcp";
    let cert = readable(section, "cert", &raw.cert, &at, findings);
    let key = readable(section, "key", &raw.key, &at, findings);
    let client_ca = readable(section, "client_ca", &raw.client_ca, &at, findings);
    Some(TcpTls {
        listen: listen?,
        cert,
        key,
        client_ca,
    })
}

/// A file that must be there.
fn readable(
    section: &str,
    key: &str,
    value: &Key<String>,
    section_at: &Range<usize>,
    findings: &mut Findings<'_>,
) -> PathBuf {
    let key = format!("{section}.{key}");
    let Some(path) = value else {
        let message = "missing: TCP is used with mutual TLS only".to_owned();
        findings.error(&key, Some(section_at.clone()), message);
        return PathBuf::new();
    };
    if let Err(error) = std::fs::File::open(path.get_ref()) {
        let message = format!("{:?} cannot be read: {error}", path.get_ref());
        findings.error(&key, Some(path.span()), message);
    }
    PathBuf::from(path.get_ref())
}

fn socket_addr(
    key: &str,
    value: &Spanned<String>,
    findings: &mut Findings<'_>,
) -> Option<SocketAddr> {
    let parsed = value.get_ref().parse();
    if parsed.is_err() {
        let message = format!(
            "{:?} is no address and port, such as \"127.0.0.1:9465\"",
            value.get_ref()
        );
        findings.error(key, Some(value.span()), message);
    }
    parsed.ok()
}

fn metrics(
    listen: &Key<String>,
    only: Option<Only>,
    findings: &mut Findings<'_>,
) -> Option<SocketAddr> {
    match listen {
        // Two processes of one host cannot both have the default.
        None if matches!(only, None | Some(Only::Lifecycle)) => DEFAULT_METRICS.parse().ok(),
        None => None,
        Some(listen) if listen.get_ref().is_empty() => None,
        Some(listen) => socket_addr("metrics.listen", listen, findings),
    }
}

fn log(raw: &RawLog, findings: &mut Findings<'_>) -> LogConfig {
    let json = match value_or(&raw.format, "text") {
        "text" => false,
        "json" => true,
        other => {
            let message = format!("{other:?} is unknown; text or json");
            findings.error("log.format", place(&raw.format), message);
            false
        }
    };
    let level = value_or(&raw.level, "info").to_owned();
    if let Err(error) = check_level(&level) {
        let message = format!("{level:?} is no level: {error}; such as \"info\"");
        findings.error("log.level", place(&raw.level), message);
    }
    LogConfig { json, level }
}

fn store(raw: &RawStore, state_dir: &Path, findings: &mut Findings<'_>) -> StoreConfig {
    let default = format!("sqlite:{}", state_dir.join("control.db").display());
    let url = value_or(&raw.url, &default);
    let known = ["sqlite:/", "postgres://", "postgresql://"];
    if !known.iter().any(|scheme| url.starts_with(scheme)) {
        // The value is not repeated: it may have a password.
        let message = "begins neither with sqlite:/ (a whole path follows) nor with postgres://";
        findings.error("store.url", place(&raw.url), message.to_owned());
    }
    let default = state_dir.join("control.key").display().to_string();
    let key_file = PathBuf::from(value_or(&raw.key_file, &default));
    let timeout = seconds(
        "store.timeout_seconds",
        &raw.timeout_seconds,
        10,
        1..=300,
        findings,
    );
    StoreConfig {
        url: url.to_owned(),
        key_file,
        timeout,
    }
}

fn lifecycle(
    raw: &RawLifecycle,
    store: &RawStore,
    dataplanes: &[Spanned<RawDataplane>],
    findings: &mut Findings<'_>,
) -> LifecycleConfig {
    let defaults = LifecycleConfig::default();
    let most = |limit: usize| u32::try_from(limit).unwrap_or(u32::MAX);
    let mut number = |key: &str, value: &Key<u32>, default: u32, range| {
        within(&format!("lifecycle.{key}"), value, default, range, findings)
    };
    let grace = number("grace_seconds", &raw.grace_seconds, 90, 0..=86_400);
    let wait = number("wait_seconds", &raw.wait_seconds, 10, 1..=60);
    let per_user = number("tunnels_per_user", &raw.tunnels_per_user, 0, 0..=65_536);
    let tunnels = most(defaults.max_tunnels);
    let max_tunnels = number("max_tunnels", &raw.max_tunnels, tunnels, 1..=4_000_000);
    let users = most(defaults.max_accounts);
    let max_users = number("max_users", &raw.max_users, users, 1..=10_000_000);
    let keep = within("store.keep_days", &store.keep_days, 90, 1..=3650, findings);
    LifecycleConfig {
        dataplanes: dataplane_list(dataplanes, findings),
        grace: Duration::from_secs(grace.into()),
        acquire_timeout: Duration::from_secs(wait.into()),
        tunnels_per_account: per_user,
        max_tunnels: usize::try_from(max_tunnels).unwrap_or(usize::MAX),
        max_accounts: usize::try_from(max_users).unwrap_or(usize::MAX),
        retention: Retention {
            age: i64::from(keep) * DAY,
            ..Retention::default()
        },
        ..defaults
    }
}

fn dataplane_list(
    raw: &[Spanned<RawDataplane>],
    findings: &mut Findings<'_>,
) -> Vec<DataplaneConfig> {
    if raw.is_empty() {
        return vec![DataplaneConfig {
            name: Arc::from("local"),
            target: Target::Unix(DEFAULT_SOCKET.into()),
            options: Options::default(),
        }];
    }
    let mut list: Vec<(DataplaneConfig, Range<usize>)> = Vec::new();
    for (index, entry) in raw.iter().enumerate() {
        let section = format!("dataplane[{index}]");
        let at = entry.span();
        let Some(dataplane) = dataplane(&section, entry.get_ref(), &at, findings) else {
            continue;
        };
        let twin = list.iter().find_map(|(other, place)| {
            if other.name == dataplane.name {
                Some(("name", other.name.to_string(), place))
            } else if other.target == dataplane.target {
                Some(("address", other.target.to_string(), place))
            } else {
                None
            }
        });
        if let Some((key, value, place)) = twin {
            let line = findings.line_of(place);
            let message = format!("{value:?} is also that of the dataplane of line {line}");
            findings.error(&format!("{section}.{key}"), Some(at.clone()), message);
        }
        list.push((dataplane, at));
    }
    if list.len() > LifecycleConfig::MAX_DATAPLANES {
        let most = LifecycleConfig::MAX_DATAPLANES;
        findings.error(
            "dataplane",
            None,
            format!("{} of them; at most {most}", list.len()),
        );
    }
    list.into_iter().map(|(dataplane, _)| dataplane).collect()
}

fn dataplane(
    section: &str,
    raw: &RawDataplane,
    at: &Range<usize>,
    findings: &mut Findings<'_>,
) -> Option<DataplaneConfig> {
    let name = value_or(&raw.name, "local");
    let good = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    if !(1..=63).contains(&name.len()) || !name.bytes().all(good) {
        let message = format!("{name:?} is no name: 1 to 63 of A-Z a-z 0-9 . _ -");
        findings.error(&format!("{section}.name"), place(&raw.name), message);
    }
    let default = Spanned::new(at.clone(), format!("unix:{DEFAULT_SOCKET}"));
    let address = raw.address.as_ref().unwrap_or(&default);
    let key = format!("{section}.address");
    let target = target(&key, address, &format!("{section}.tls"), &raw.tls, findings)?;
    let key = format!("{section}.timeout_seconds");
    let timeout = seconds(&key, &raw.timeout_seconds, 10, 1..=120, findings);
    Some(DataplaneConfig {
        name: name.into(),
        target,
        options: Options { timeout },
    })
}

/// `unix:PATH`, or `HOST:PORT` with TLS files.
fn target(
    key: &str,
    address: &Spanned<String>,
    tls_section: &str,
    tls: &Key<RawTls>,
    findings: &mut Findings<'_>,
) -> Option<Target> {
    let text = address.get_ref();
    if let Some(path) = text.strip_prefix("unix:") {
        if !path.starts_with('/') || path.len() > MAX_SOCKET_PATH {
            let message = format!("{path:?} is no whole path of at most {MAX_SOCKET_PATH} bytes");
            findings.error(key, Some(address.span()), message);
            return None;
        }
        return Some(Target::Unix(path.into()));
    }
    let port = text.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
    if !matches!(port, Some(Ok(1..))) {
        let message = format!("{text:?} is neither unix:PATH nor HOST:PORT");
        findings.error(key, Some(address.span()), message);
        return None;
    }
    let missing = Spanned::new(address.span(), RawTls::default());
    let at = tls.as_ref().map_or_else(|| address.span(), Spanned::span);
    let tls = tls.as_ref().unwrap_or(&missing).get_ref();
    let tls = TlsFiles {
        ca: readable(tls_section, "ca", &tls.ca, &at, findings),
        cert: readable(tls_section, "cert", &tls.cert, &at, findings),
        key: readable(tls_section, "key", &tls.key, &at, findings),
        server_name: None,
    };
    Some(Target::Tcp {
        address: text.clone(),
        tls,
    })
}

fn remote(raw: &RawControl, only: Option<Only>, findings: &mut Findings<'_>) -> Option<Target> {
    let default = Spanned::new(
        0..0,
        format!("unix:{}", sixferry_client::control::DEFAULT_SOCKET),
    );
    let address = raw.lifecycle.as_ref().unwrap_or(&default);
    if only != Some(Only::Dtcp) && raw.lifecycle.is_none() {
        return None;
    }
    let key = "control.lifecycle";
    let target = target(
        key,
        address,
        "control.lifecycle_tls",
        &raw.lifecycle_tls,
        findings,
    );
    target.filter(|_| only == Some(Only::Dtcp))
}

/// Two listeners on one port would stop the start half way.
fn one_port_one_listener(config: &Config, text: &str, findings: &mut Findings<'_>) {
    let mut listeners: Vec<(&str, SocketAddr)> = Vec::new();
    if let Some(tcp) = &config.tcp {
        listeners.push(("control.tcp.listen", tcp.listen));
    }
    if let Some(listen) = config.metrics {
        listeners.push(("metrics.listen", listen));
    }
    if let Some(dtcp) = config.runs_dtcp() {
        let listen = dtcp.listen.iter();
        let listen = listen.map(|ip| SocketAddr::new(IpAddr::V4(*ip), dtcp.port));
        listeners.extend(listen.map(|listen| ("dtcp.port", listen)));
    }
    for (i, (key, listen)) in listeners.iter().enumerate() {
        let twin = listeners[..i].iter().find(|(other, earlier)| {
            other != key
                && earlier.port() == listen.port()
                && (earlier.ip() == listen.ip()
                    || earlier.ip().is_unspecified()
                    || listen.ip().is_unspecified())
        });
        if let Some((other, _)) = twin {
            let message = format!("port {} is also that of {other}", listen.port());
            findings.error(key, place::of(text, key), message);
        }
    }
}

//! From text to [`Config`]: syntax, then every value, then how the values fit together.

use std::net::{Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::path::{Path, PathBuf};

use sixferry_fwd::{Ipv6Prefix, OuterOptions, PortId, RateLimits, Settings};
use toml::Spanned;

use super::raw::{
    Key, Raw, RawApi, RawLog, RawPort, RawRouter, RawSteering, RawTcp, RawVlans, RawWorker,
};
use super::{
    ApiConfig, Checked, Config, Host, Idle, LogConfig, PortMode, PortSection, TcpTls, WorkerConfig,
    domain, service, tunnel,
};
use sixferry_service::Findings;

/// `sun_path` of unix(7), less the final zero.
const MAX_SOCKET_PATH: usize = 107;
/// IFNAMSIZ of netdevice(7), less the final zero.
pub(super) const MAX_INTERFACE_NAME: usize = 15;
/// What the XDP program's prefix map holds.
const MAX_STEERING: usize = 1024;
const MAX_WORKERS: u32 = 64;
const FRAMES: std::ops::RangeInclusive<u32> = 1024..=1_048_576;

pub(super) fn check(text: &str, file: &Path, host: &dyn Host) -> Checked {
    let mut findings = Findings::new(text, file);
    if text.len() > super::MAX_TEXT_LEN {
        let most = super::MAX_TEXT_LEN;
        findings.error(
            "",
            None,
            format!("{} bytes; at most {most} are read", text.len()),
        );
        return Checked {
            findings: findings.into_sorted(),
            config: None,
        };
    }
    let config = match toml::from_str::<Raw>(text) {
        Ok(raw) => Some(convert(raw, &mut findings, host)),
        Err(error) => {
            findings.syntax_error(&error);
            None
        }
    };
    let config = config.filter(|_| !findings.has_errors());
    Checked {
        findings: findings.into_sorted(),
        config,
    }
}

fn convert(raw: Raw, findings: &mut Findings<'_>, host: &dyn Host) -> Config {
    let state_dir = value_or(&raw.state_dir, "/var/lib/sixferry");
    let api = api(raw.api, findings, host);
    let metrics = metrics(&raw.metrics.listen, findings);
    let log = log(&raw.log, findings);
    let ports = ports(raw.port, findings, host);
    let worker = worker(&raw.worker, findings, host);
    let settings = settings(&raw.router, !ports.is_empty(), findings);
    let steering = steering(raw.steering, findings);
    let host_port = service::host_port(&raw.host_port, &ports, findings);
    let reassembly = service::reassembly(&raw.reassembly, findings);
    let liveness = service::liveness(&raw.liveness, findings);
    let state = service::state(&raw.state, findings);
    let tunnels = tunnel::tunnels(raw.tunnel, findings);
    let domains = domain::domains(raw.domain, &tunnels, findings);
    let state_dir = PathBuf::from(state_dir);
    Config {
        state_dir,
        api,
        metrics,
        log,
        worker,
        settings,
        ports,
        steering,
        host_port,
        reassembly,
        liveness,
        state,
        tunnels,
        domains,
    }
}

pub(super) fn value_or<'a>(key: &'a Key<String>, default: &'a str) -> &'a str {
    key.as_ref().map_or(default, |k| k.get_ref().as_str())
}

pub(super) fn place<T>(key: &Key<T>) -> Option<Range<usize>> {
    key.as_ref().map(Spanned::span)
}

pub(super) fn copied<T: Copy>(key: &Key<T>, default: T) -> T {
    key.as_ref().map_or(default, |k| *k.get_ref())
}

/// One of a few words, or an error that lists them.
pub(super) fn word<T: Copy>(
    key: &str,
    value: &Key<String>,
    words: &[(&str, T)],
    default: T,
    findings: &mut Findings<'_>,
) -> T {
    let Some(given) = value else { return default };
    if let Some((_, meaning)) = words.iter().find(|(word, _)| word == given.get_ref()) {
        return *meaning;
    }
    let known: Vec<_> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
    let message = format!("{:?} is not one of {}", given.get_ref(), known.join(", "));
    findings.error(key, Some(given.span()), message);
    default
}

fn api(raw: RawApi, findings: &mut Findings<'_>, host: &dyn Host) -> ApiConfig {
    let socket = value_or(&raw.unix_socket, "/run/sixferry/dataplane.sock");
    let at = place(&raw.unix_socket);
    let key = "api.unix_socket";
    let unix_socket = (!socket.is_empty()).then(|| PathBuf::from(socket));
    if let Some(path) = &unix_socket {
        // The directory itself is made at start; what holds it must be there.
        let dir = path.parent().unwrap_or(Path::new("/"));
        let above = dir.parent().unwrap_or(Path::new("/"));
        if !path.is_absolute() {
            findings.error(key, at, format!("{socket:?} is not an absolute path"));
        } else if socket.len() > MAX_SOCKET_PATH {
            let message = format!("{} bytes; at most {MAX_SOCKET_PATH}", socket.len());
            findings.error(key, at, message);
        } else if !host.has_dir(dir) && !host.has_dir(above) {
            let message = format!("no directory {}; create it", dir.display());
            findings.error(key, at, message);
        }
    }
    let tcp = raw.tcp.and_then(|tcp| {
        let at = tcp.span();
        tcp_config(&tcp.into_inner(), at, findings, host)
    });
    if unix_socket.is_none() && tcp.is_none() {
        let message = "neither a unix socket nor TCP: nothing could program the dataplane";
        findings.warning("api", None, message.to_owned());
    }
    ApiConfig { unix_socket, tcp }
}

fn tcp_config(
    raw: &RawTcp,
    at: Range<usize>,
    findings: &mut Findings<'_>,
    host: &dyn Host,
) -> Option<TcpTls> {
    let listen = match &raw.listen {
        Some(listen) => socket_addr("api.tcp.listen", listen, findings),
        None => {
            let message = "missing; e.g. listen = \"192.0.2.1:5841\"".to_owned();
            findings.error("api.tcp.listen", Some(at.clone()), message);
            None
        }
    };
    let mut file = |key: &str, value: &Key<String>| {
        let Some(path) = value else {
            // Plaintext TCP would let anyone on the path program tunnels.
            let message = "missing: TCP is served with mutual TLS only".to_owned();
            findings.error(key, Some(at.clone()), message);
            return PathBuf::new();
        };
        if let Err(why) = host.can_read(Path::new(path.get_ref())) {
            let message = format!("{:?} cannot be read: {why}", path.get_ref());
            findings.error(key, Some(path.span()), message);
        }
        PathBuf::from(path.get_ref())
    };
    let cert = file("api.tcp.cert", &raw.cert);
    let key = file("api.tcp.key", &raw.key);
    let client_ca = file("api.tcp.client_ca", &raw.client_ca);
    Some(TcpTls {
        listen: listen?,
        cert,
        key,
        client_ca,
    })
}

fn socket_addr(
    key: &str,
    value: &Spanned<String>,
    findings: &mut Findings<'_>,
) -> Option<SocketAddr> {
    let parsed = value.get_ref().parse();
    if parsed.is_err() {
        let message = format!(
            "{:?} is not address:port, e.g. \"127.0.0.1:9464\"",
            value.get_ref()
        );
        findings.error(key, Some(value.span()), message);
    }
    parsed.ok()
}

fn metrics(listen: &Key<String>, findings: &mut Findings<'_>) -> Option<SocketAddr> {
    match listen {
        None => Some(SocketAddr::from(([127, 0, 0, 1], 9464))),
        Some(off) if off.get_ref().is_empty() => None,
        Some(listen) => socket_addr("metrics.listen", listen, findings),
    }
}

fn log(raw: &RawLog, findings: &mut Findings<'_>) -> LogConfig {
    let json = word(
        "log.format",
        &raw.format,
        &[("text", false), ("json", true)],
        false,
        findings,
    );
    let level = value_or(&raw.level, "info").to_owned();
    if let Err(error) = sixferry_service::check_level(&level) {
        let message = format!("{level:?}: {error}; e.g. \"info\" or \"info,sixferryd=debug\"");
        findings.error("log.level", place(&raw.level), message);
    }
    LogConfig { json, level }
}

fn worker(raw: &RawWorker, findings: &mut Findings<'_>, host: &dyn Host) -> WorkerConfig {
    let idle_words = [
        ("spin", Idle::Spin),
        ("poll", Idle::Poll),
        ("auto", Idle::Auto),
    ];
    let config = WorkerConfig {
        count: copied(&raw.count, 0),
        idle: word("worker.idle", &raw.idle, &idle_words, Idle::Auto, findings),
        pin: copied(&raw.pin, true),
        first_cpu: copied(&raw.first_cpu, 0),
        frames: copied(&raw.frames, 16_384),
    };
    if config.count > MAX_WORKERS {
        let message = format!("{} is outside 0..{MAX_WORKERS}", config.count);
        findings.error("worker.count", place(&raw.count), message);
    }
    if !FRAMES.contains(&config.frames) {
        let (least, most) = (FRAMES.start(), FRAMES.end());
        let message = format!("{} is outside {least}..{most}", config.frames);
        findings.error("worker.frames", place(&raw.frames), message);
    }
    let cpus = host.cpus();
    if config.pin && config.first_cpu.saturating_add(config.count.max(1)) > cpus {
        let message = format!(
            "{} worker(s) from cpu {} on, but the host has {cpus}; lower worker.count or \
             worker.first_cpu, or set worker.pin = false",
            config.count.max(1),
            config.first_cpu
        );
        let at = place(&raw.first_cpu).or_else(|| place(&raw.count));
        findings.error("worker.first_cpu", at, message);
    }
    config
}

fn settings(raw: &RawRouter, has_ports: bool, findings: &mut Findings<'_>) -> Settings {
    let mut settings = Settings::default();
    match &raw.address {
        Some(text) => match text.get_ref().parse::<Ipv6Addr>() {
            Ok(address) if is_router_address(address) => settings.router_address = address,
            Ok(address) => {
                let message = format!("{address} cannot be a source: give a global unicast one");
                findings.error("router.address", Some(text.span()), message);
            }
            Err(_) => {
                let message = format!("{:?} is no IPv6 address", text.get_ref());
                findings.error("router.address", Some(text.span()), message);
            }
        },
        None if has_ports => {
            let message = "missing: the source of ICMPv6 errors, an IPv6 address of this host; \
                           e.g. address = \"2001:db8::1\" under [router]";
            findings.error("router.address", None, message.to_owned());
        }
        None => {}
    }
    let limits = |limits: &mut RateLimits, keys: [&Key<u32>; 4]| {
        limits.global_per_second = copied(keys[0], limits.global_per_second);
        limits.global_burst = copied(keys[1], limits.global_burst);
        limits.tunnel_per_second = copied(keys[2], limits.tunnel_per_second);
        limits.tunnel_burst = copied(keys[3], limits.tunnel_burst);
    };
    limits(
        &mut settings.icmp_errors,
        [
            &raw.icmp_errors_per_second,
            &raw.icmp_errors_burst,
            &raw.icmp_errors_per_tunnel_per_second,
            &raw.icmp_errors_per_tunnel_burst,
        ],
    );
    limits(
        &mut settings.answers,
        [
            &raw.answers_per_second,
            &raw.answers_burst,
            &raw.answers_per_tunnel_per_second,
            &raw.answers_per_tunnel_burst,
        ],
    );
    let options = [("drop", OuterOptions::Drop), ("skip", OuterOptions::Skip)];
    let default = settings.outer_options;
    settings.outer_options = word(
        "router.outer_options",
        &raw.outer_options,
        &options,
        default,
        findings,
    );
    settings.native_source_check = copied(&raw.native_source_check, settings.native_source_check);
    settings
}

pub(crate) fn is_router_address(address: Ipv6Addr) -> bool {
    let first = address.segments()[0];
    first != 0 && first < 0xfe80
}

fn ports(
    raw: Vec<Spanned<RawPort>>,
    findings: &mut Findings<'_>,
    host: &dyn Host,
) -> Vec<PortSection> {
    let mut ports: Vec<PortSection> = Vec::new();
    if raw.is_empty() {
        let message = "no [[port]]: the API is served but no packet is forwarded";
        findings.warning("port", None, message.to_owned());
    }
    if raw.len() > PortId::MAX {
        let message = format!("{} ports; at most {}", raw.len(), PortId::MAX);
        findings.error("port", raw.get(PortId::MAX).map(Spanned::span), message);
    }
    for (i, spanned) in raw.into_iter().enumerate() {
        let at = spanned.span();
        let raw = spanned.into_inner();
        let key = format!("port[{i}].name");
        let name = value_or(&raw.name, "");
        let at = place(&raw.name).unwrap_or(at);
        if name.is_empty() {
            findings.error(&key, Some(at), "missing; e.g. name = \"eth0\"".to_owned());
        } else if name.len() > MAX_INTERFACE_NAME || name.contains('/') {
            let message = format!("{name:?} is no interface name (at most 15 bytes, no /)");
            findings.error(&key, Some(at), message);
        } else if ports.iter().any(|p| p.name == name) {
            findings.error(
                &key,
                Some(at),
                format!("{name:?} is listed twice; remove one"),
            );
        } else if !host.has_interface(name) {
            let message = format!("no interface {name:?} on this host; `ip link` lists them");
            findings.error(&key, Some(at), message);
        }
        let modes = [
            ("auto", PortMode::Auto),
            ("zero-copy", PortMode::ZeroCopy),
            ("copy", PortMode::Copy),
            ("generic", PortMode::Generic),
        ];
        let mode = word(
            &format!("port[{i}].mode"),
            &raw.mode,
            &modes,
            PortMode::Auto,
            findings,
        );
        let vlans = vlans(&format!("port[{i}].vlans"), &raw.vlans, findings);
        ports.push(PortSection {
            name: name.to_owned(),
            mode,
            vlans,
        });
    }
    ports
}

fn vlans(key: &str, raw: &Key<RawVlans>, findings: &mut Findings<'_>) -> Option<Vec<u16>> {
    let at = place(raw);
    match raw.as_ref()?.get_ref() {
        RawVlans::Word(word) if word == "auto" => None,
        RawVlans::Word(word) => {
            findings.error(
                key,
                at,
                format!("{word:?} is neither \"auto\" nor a list of VLANs"),
            );
            None
        }
        RawVlans::List(list) => {
            for vid in list.iter().filter(|vid| !(1..=4094).contains(*vid)) {
                findings.error(key, at.clone(), format!("VLAN {vid} is outside 1..4094"));
            }
            Some(list.clone())
        }
    }
}

fn steering(raw: RawSteering, findings: &mut Findings<'_>) -> Vec<Ipv6Prefix> {
    if raw.prefixes.len() > MAX_STEERING {
        let message = format!("{} prefixes; at most {MAX_STEERING}", raw.prefixes.len());
        findings.error("steering.prefixes", None, message);
    }
    raw.prefixes
        .iter()
        .enumerate()
        .filter_map(|(i, text)| prefix(&format!("steering.prefixes[{i}]"), text, findings))
        .collect()
}

/// An IPv6 prefix, or an error that shows the one probably meant.
pub(super) fn prefix(
    key: &str,
    text: &Spanned<String>,
    findings: &mut Findings<'_>,
) -> Option<Ipv6Prefix> {
    use sixferry_fwd::ParsePrefixError;
    let given = text.get_ref();
    match given.parse::<Ipv6Prefix>() {
        Ok(prefix) => Some(prefix),
        Err(error) => {
            let meant = given
                .split_once('/')
                .filter(|_| error == ParsePrefixError::HostBits)
                .and_then(|(a, len)| {
                    Some(Ipv6Prefix::containing(a.parse().ok()?, len.parse().ok()?))
                });
            let message = match meant {
                Some(meant) => format!("{given:?}: {error}; did you mean \"{meant}\"?"),
                None => format!("{given:?}: {error}; e.g. \"2001:db8:100::/48\""),
            };
            findings.error(key, Some(text.span()), message);
            None
        }
    }
}

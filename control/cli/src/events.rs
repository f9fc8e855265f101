//! `sixferry events`.

use std::time::{Duration, UNIX_EPOCH};

use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use sixferry_client::{Endpoint, Event, EventKind, Happening, Noticed};

use crate::args::Global;
use crate::error::CliError;
use crate::json::timestamp;
use crate::json::tunnel::state_name;
use crate::output::{self, Interrupt};
use crate::parse;

#[derive(Args, Debug)]
pub(crate) struct EventsArgs {
    /// Only these kinds; may be repeated.
    #[arg(long = "kind", value_enum, value_name = "KIND", value_delimiter = ',')]
    kinds: Vec<Kind>,
    /// Only about tunnels of this owner; events of ports are shown anyway.
    #[arg(long, value_name = "NAME")]
    owner: Option<String>,
    /// End after so many events.
    #[arg(short = 'n', long, value_name = "NUMBER",
        value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End after this time.
    #[arg(long = "for", value_name = "TIME", value_parser = parse::duration)]
    span: Option<Duration>,
    /// What is done anyway; accepted because other tools ask for it.
    #[arg(short, long, hide = true)]
    follow: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// A UDP tunnel's packet came from elsewhere and was dropped.
    EndpointMismatch,
    /// A UDP tunnel's user moved by itself.
    EndpointChanged,
    /// A user was found alive or went silent.
    Liveness,
    /// A path MTU was lowered or raised.
    PathMtu,
    /// An ICMPv4 error came back.
    OuterError,
    /// A port went up or down.
    Port,
}

impl From<Kind> for EventKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::EndpointMismatch => Self::EndpointMismatch,
            Kind::EndpointChanged => Self::EndpointChanged,
            Kind::Liveness => Self::Liveness,
            Kind::PathMtu => Self::PathMtu,
            Kind::OuterError => Self::OuterError,
            Kind::Port => Self::Port,
        }
    }
}

pub(crate) async fn run(global: &Global, args: EventsArgs) -> Result<(), CliError> {
    let client = global.connect().await?;
    let kinds: Vec<EventKind> = args.kinds.iter().map(|&kind| kind.into()).collect();
    let mut watch = client.watch_events(&kinds, args.owner.as_deref());
    let mut stop = Interrupt::install()?;
    let end = async {
        match args.span {
            Some(span) => tokio::time::sleep(span).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(end);
    let mut left = args.count;
    while left != Some(0) {
        let noticed = tokio::select! {
            noticed = watch.next() => noticed?,
            () = stop.wait() => return Ok(()),
            () = &mut end => return Ok(()),
        };
        if let (Noticed::Event(_), Some(left)) = (&noticed, &mut left) {
            *left -= 1;
        }
        if global.json {
            output::json_line(&to_json(&noticed))?;
        } else {
            output::line(&text(&noticed))?;
        }
    }
    Ok(())
}

fn at(event: &Event) -> Option<String> {
    let since = event.time?.duration_since(UNIX_EPOCH).ok()?;
    timestamp(i64::try_from(since.as_secs()).ok()?)
}

fn state(state: sixferry_client::TunnelState) -> &'static str {
    state_name(state).unwrap_or("unknown")
}

fn text(noticed: &Noticed) -> String {
    let event = match noticed {
        Noticed::Ready => return "= watching".to_owned(),
        Noticed::Lagged { lost } => return format!("! {lost} events were lost here"),
        Noticed::Disconnected { cause } => {
            return format!("! disconnected, trying again: {cause}");
        }
        Noticed::Event(event) => event,
    };
    let what = match &event.happening {
        Happening::EndpointMismatch {
            tunnel,
            seen,
            current,
            ..
        } => {
            let place = current.map(|c| format!("is at {c}"));
            let place = place.unwrap_or_else(|| "was not seen yet".to_owned());
            format!("endpoint-mismatch  {tunnel}: packet from {seen}, the user {place}; dropped")
        }
        Happening::EndpointChanged { tunnel, from, to } => match from {
            Some(from) => {
                format!("endpoint-changed  {tunnel}: the user moved from {from} to {to}")
            }
            None => format!("endpoint-changed  {tunnel}: the user appeared at {to}"),
        },
        Happening::Liveness { tunnel, from, to } => {
            format!("liveness  {tunnel}: {}, was {}", state(*to), state(*from))
        }
        Happening::PathMtu {
            tunnel,
            path_mtu,
            mtu,
        } => format!("path-mtu  {tunnel}: path {path_mtu}, tunnel {mtu}"),
        Happening::OuterError {
            tunnel,
            icmp_type,
            icmp_code,
        } => format!("outer-error  {tunnel}: ICMPv4 type {icmp_type} code {icmp_code}"),
        Happening::Port { port, up } => {
            let state = if *up { "up" } else { "down" };
            format!("port  {port}: {state}")
        }
    };
    match at(event) {
        Some(time) => format!("{time}  {what}"),
        None => what,
    }
}

fn to_json(noticed: &Noticed) -> Value {
    let event = match noticed {
        Noticed::Ready => return json!({ "ready": {} }),
        Noticed::Lagged { lost } => return json!({ "lagged": { "lost": lost } }),
        Noticed::Disconnected { cause } => return json!({ "disconnected": { "cause": cause } }),
        Noticed::Event(event) => event,
    };
    let end = |e: &Endpoint| json!({ "address": e.address, "port": e.port });
    let maybe = |e: &Option<Endpoint>| e.as_ref().map_or(Value::Null, end);
    let (name, what) = match &event.happening {
        Happening::EndpointMismatch {
            tunnel,
            local,
            seen,
            current,
        } => (
            "endpointMismatch",
            json!({
                "tunnelId": tunnel,
                "local": maybe(local),
                "seen": end(seen),
                "current": maybe(current),
            }),
        ),
        Happening::EndpointChanged { tunnel, from, to } => (
            "endpointChanged",
            json!({ "tunnelId": tunnel, "from": maybe(from), "to": end(to) }),
        ),
        Happening::Liveness { tunnel, from, to } => (
            "livenessChanged",
            json!({ "tunnelId": tunnel, "from": state(*from), "to": state(*to) }),
        ),
        Happening::PathMtu {
            tunnel,
            path_mtu,
            mtu,
        } => (
            "pathMtuChanged",
            json!({ "tunnelId": tunnel, "pathMtu": path_mtu, "mtu": mtu }),
        ),
        Happening::OuterError {
            tunnel,
            icmp_type,
            icmp_code,
        } => (
            "outerError",
            json!({ "tunnelId": tunnel, "icmpType": icmp_type, "icmpCode": icmp_code }),
        ),
        Happening::Port { port, up } => ("portChanged", json!({ "port": port, "up": up })),
    };
    json!({ "time": at(event), "owner": event.owner, name: what })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(happening: Happening) -> Noticed {
        Noticed::Event(Event {
            time: Some(UNIX_EPOCH + Duration::from_secs(951_827_696)),
            owner: "dtcp".into(),
            happening,
        })
    }

    fn endpoint(port: u16) -> Endpoint {
        Endpoint {
            address: [192, 0, 2, 10].into(),
            port: Some(port),
        }
    }

    #[test]
    fn events_are_one_line_each() {
        let tunnel = || "u1".to_owned();
        for (happening, expected) in [
            (
                Happening::EndpointMismatch {
                    tunnel: tunnel(),
                    local: None,
                    seen: endpoint(61_000),
                    current: None,
                },
                "endpoint-mismatch  u1: packet from 192.0.2.10:61000, the user was not seen yet; \
                 dropped",
            ),
            (
                Happening::EndpointChanged {
                    tunnel: tunnel(),
                    from: Some(endpoint(4028)),
                    to: endpoint(61_000),
                },
                "endpoint-changed  u1: the user moved from 192.0.2.10:4028 to 192.0.2.10:61000",
            ),
            (
                Happening::Liveness {
                    tunnel: tunnel(),
                    from: sixferry_client::TunnelState::Up,
                    to: sixferry_client::TunnelState::Unreachable,
                },
                "liveness  u1: unreachable, was up",
            ),
            (
                Happening::PathMtu {
                    tunnel: tunnel(),
                    path_mtu: 1400,
                    mtu: 1380,
                },
                "path-mtu  u1: path 1400, tunnel 1380",
            ),
            (
                Happening::OuterError {
                    tunnel: tunnel(),
                    icmp_type: 3,
                    icmp_code: 1,
                },
                "outer-error  u1: ICMPv4 type 3 code 1",
            ),
            (
                Happening::Port {
                    port: "eth0".into(),
                    up: false,
                },
                "port  eth0: down",
            ),
        ] {
            let expected = format!("2000-02-29T12:34:56Z  {expected}");
            assert_eq!(text(&event(happening)), expected);
        }
        assert_eq!(
            text(&Noticed::Lagged { lost: 7 }),
            "! 7 events were lost here"
        );
    }

    #[test]
    fn the_shape_of_an_event_is_stable() {
        let changed = event(Happening::EndpointChanged {
            tunnel: "u1".into(),
            from: None,
            to: endpoint(61_000),
        });
        assert_eq!(
            to_json(&changed).to_string(),
            r#"{"endpointChanged":{"from":null,"to":{"address":"192.0.2.10","port":61000},"#
                .to_owned()
                + r#""tunnelId":"u1"},"owner":"dtcp","time":"2000-02-29T12:34:56Z"}"#
        );
        assert_eq!(to_json(&Noticed::Ready).to_string(), r#"{"ready":{}}"#);
    }
}

//! `sixferry events`: what the dataplane notices, and what becomes of users' tunnels, in one stream.

mod transitions;

use std::time::{Duration, UNIX_EPOCH};

use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use sixferry_client::{Endpoint, Event, EventKind, EventWatch, Happening, Noticed};

use crate::args::Global;
use crate::error::CliError;
use crate::json::timestamp;
use crate::json::tunnel::state_name;
use crate::output::{self, Interrupt};
use crate::parse;
use transitions::{Told, Transitions};

#[derive(Args, Debug)]
pub(crate) struct EventsArgs {
    /// Only these kinds; may be repeated.
    #[arg(long = "kind", value_enum, value_name = "KIND", value_delimiter = ',')]
    kinds: Vec<Kind>,
    /// Only about tunnels of this owner; events of ports are shown anyway, and those of the control
    /// plane where the owner is `lifecycle`.
    #[arg(long, value_name = "NAME")]
    owner: Option<String>,
    /// Only about tunnels of this user: what the control plane tells.
    #[arg(long, value_name = "NAME", conflicts_with = "owner", add = crate::completion::users())]
    user: Option<String>,
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
    /// A user's tunnel changed its state; told by the control plane.
    TunnelState,
}

impl Kind {
    /// As the dataplane has it; `None`: it is the control plane's.
    fn of_dataplane(self) -> Option<EventKind> {
        match self {
            Self::EndpointMismatch => Some(EventKind::EndpointMismatch),
            Self::EndpointChanged => Some(EventKind::EndpointChanged),
            Self::Liveness => Some(EventKind::Liveness),
            Self::PathMtu => Some(EventKind::PathMtu),
            Self::OuterError => Some(EventKind::OuterError),
            Self::Port => Some(EventKind::Port),
            Self::TunnelState => None,
        }
    }
}

/// Which of the two are watched.
#[derive(Debug, PartialEq, Eq)]
struct Sources {
    dataplane: bool,
    /// `Some(true)`: it was asked for, and must be there.
    control: Option<bool>,
}

impl EventsArgs {
    fn sources(&self) -> Sources {
        let asked = self.user.is_some() || self.kinds.contains(&Kind::TunnelState);
        let others = self.kinds.iter().any(|kind| kind.of_dataplane().is_some());
        let wanted = asked || (self.kinds.is_empty() && self.foreign_owner().is_none());
        Sources {
            dataplane: self.user.is_none() && (others || self.kinds.is_empty()),
            control: wanted.then_some(asked),
        }
    }

    /// An owner whose tunnels are none of the control plane's.
    fn foreign_owner(&self) -> Option<&str> {
        self.owner.as_deref().filter(|owner| *owner != "lifecycle")
    }
}

pub(crate) async fn run(global: &Global, args: EventsArgs) -> Result<(), CliError> {
    let sources = args.sources();
    let mut stop = Interrupt::install()?;
    let mut watch = match sources.dataplane {
        true => {
            let client = global.connect().await?;
            let kinds = args.kinds.iter().filter_map(|kind| kind.of_dataplane());
            let kinds: Vec<EventKind> = kinds.collect();
            Some(client.watch_events(&kinds, args.owner.as_deref()))
        }
        false => None,
    };
    let mut control = match sources.control {
        None => None,
        Some(required) => match global.control().await {
            Ok(client) => {
                let user = args.user.clone().unwrap_or_default();
                Some(Transitions::new(client, user))
            }
            Err(error) if required => return Err(error),
            // Many relays have no control plane.
            Err(_) => None,
        },
    };
    let end = async {
        match args.span {
            Some(span) => tokio::time::sleep(span).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(end);
    let mut left = args.count;
    while left != Some(0) {
        let (counts, shown) = tokio::select! {
            noticed = next(&mut watch) => {
                let noticed = noticed?;
                let counts = matches!(noticed, Noticed::Event(_));
                (counts, if global.json { to_json(&noticed).to_string() } else { text(&noticed) })
            }
            told = next_transition(&mut control) => {
                let told = told?;
                (matches!(told, Told::Transition(_)), told.show(global.json))
            }
            () = stop.wait() => return Ok(()),
            () = &mut end => return Ok(()),
        };
        if let (true, Some(left)) = (counts, &mut left) {
            *left -= 1;
        }
        output::line(&shown)?;
    }
    Ok(())
}

async fn next(watch: &mut Option<EventWatch>) -> Result<Noticed, CliError> {
    match watch {
        Some(watch) => Ok(watch.next().await?),
        None => std::future::pending().await,
    }
}

async fn next_transition(watch: &mut Option<Transitions>) -> Result<Told, CliError> {
    match watch {
        Some(watch) => watch.next().await,
        None => std::future::pending().await,
    }
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

    #[test]
    fn what_is_asked_for_says_who_is_watched() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            events: EventsArgs,
        }
        let of = |words: &[&str]| {
            let words = std::iter::once("events").chain(words.iter().copied());
            <Line as clap::Parser>::try_parse_from(words)
                .unwrap()
                .events
                .sources()
        };
        let sources = |dataplane, control| Sources { dataplane, control };
        assert_eq!(of(&[]), sources(true, Some(false)));
        assert_eq!(of(&["--kind", "port"]), sources(true, None));
        assert_eq!(
            of(&["--kind", "port,tunnel-state"]),
            sources(true, Some(true))
        );
        assert_eq!(of(&["--user", "alice"]), sources(false, Some(true)));
        assert_eq!(of(&["--owner", "static"]), sources(true, None));
        assert_eq!(of(&["--owner", "lifecycle"]), sources(true, Some(false)));
    }

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

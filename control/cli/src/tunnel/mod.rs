//! `sixferry tunnel`.

mod control;
mod edit;
mod file;
mod load;
mod view;
mod watch;

use std::net::{Ipv4Addr, SocketAddrV4};

use clap::{Args, Subcommand};
use ipnet::Ipv6Net;
use serde::Serialize;
use sixferry_client::{ProgramOptions, Session, TunnelKey, TunnelUpdate};

use crate::args::{Global, Writer};
use crate::error::CliError;
use crate::json::control::ControlTunnel;
use crate::json::tunnel::Tunnel;
use crate::json::written;
use crate::parse::LookupAddress;
use crate::{output, parse};

pub(crate) use control::list as control_list;

/// Owner of the control plane's tunnels.
const LIFECYCLE: &str = "lifecycle";

#[derive(Debug, Subcommand)]
pub(crate) enum TunnelCommand {
    /// Create a tunnel.
    Add(Box<edit::AddArgs>),
    /// Change some properties of a tunnel; the others stay.
    Set(Box<edit::SetArgs>),
    /// Remove tunnels.
    #[command(visible_alias = "del")]
    Delete(DeleteArgs),
    /// List tunnels.
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Show everything about one tunnel, its counters included.
    Show(ShowArgs),
    /// Find the tunnel of a packet, by its inner IPv6 address or its two outer IPv4 addresses.
    Lookup(LookupArgs),
    /// Say what became of a user's tunnel, and why.
    History(control::HistoryArgs),
    /// Take users' tunnels away; their sessions end.
    Disconnect(control::DisconnectArgs),
    /// Print the tunnels, then every change as it happens.
    Watch(watch::WatchArgs),
    /// Create or change tunnels from a file; others are left alone.
    Load(load::LoadArgs),
    /// Make an owner's tunnels equal to a file: what is not in it is removed.
    Sync(load::SyncArgs),
}

#[derive(Args, Debug)]
pub(crate) struct DeleteArgs {
    /// Tunnels to remove.
    #[arg(required = true, value_parser = parse::tunnel_id, add = crate::completion::tunnels())]
    id: Vec<String>,
    #[command(flatten)]
    writer: Writer,
}

#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    /// Only tunnels of this owner.
    #[arg(long, value_name = "NAME")]
    owner: Option<String>,
    /// At most this many; 0: all. [default: 1000 for the table, all for JSON]
    #[arg(long, value_name = "NUMBER")]
    limit: Option<u64>,
    /// One JSON object per line, as `tunnel load` reads it.
    #[arg(long)]
    jsonl: bool,
    /// More columns, all prefixes.
    #[arg(long)]
    wide: bool,
    /// Users' tunnels as the control plane has them: whose, in what state, since when.
    #[arg(long, conflicts_with_all = ["owner", "jsonl", "wide"])]
    users: bool,
    /// The same, only this user's.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["owner", "jsonl", "wide"],
        add = crate::completion::users())]
    user: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct ShowArgs {
    /// The tunnel.
    #[arg(value_parser = parse::tunnel_id, add = crate::completion::tunnels())]
    id: String,
}

#[derive(Args, Debug)]
pub(crate) struct LookupArgs {
    /// An IPv6 address inside a tunnel, or the relay's IPv4 address, with a port for UDP.
    #[arg(value_name = "INNER|LOCAL[:PORT]", value_parser = parse::lookup_key)]
    address: LookupAddress,
    /// With the relay's address: the user's IPv4 address; with UDP only where tunnels share a
    /// port, and with the user's port.
    #[arg(value_name = "REMOTE[:PORT]", value_parser = parse::lookup_key)]
    remote: Option<LookupAddress>,
}

/// The answer of a lookup.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Found {
    #[serde(skip_serializing_if = "Option::is_none")]
    matched_prefix: Option<Ipv6Net>,
    tunnel: Tunnel,
}

pub(crate) async fn run(global: &Global, command: TunnelCommand) -> Result<(), CliError> {
    match command {
        TunnelCommand::Add(args) => {
            let writer = args.writer.clone();
            let update = args.into_update()?;
            let mut session = global.session(&writer).await?;
            write(global, &mut session, vec![update]).await
        }
        TunnelCommand::Set(args) => {
            let writer = args.writer.clone();
            let update = args.into_update()?;
            let mut session = global.session(&writer).await?;
            write(global, &mut session, vec![update]).await
        }
        TunnelCommand::Delete(args) => {
            let delete = |id| TunnelUpdate::Delete {
                id,
                must_exist: true,
            };
            let updates = args.id.into_iter().map(delete).collect();
            let mut session = global.session(&args.writer).await?;
            write(global, &mut session, updates).await
        }
        TunnelCommand::List(args) if args.users || args.user.is_some() => {
            control::list_users(global, args.user.as_deref(), args.limit).await
        }
        TunnelCommand::List(args) => list(global, &args).await,
        TunnelCommand::Show(args) => show(global, &args).await,
        TunnelCommand::History(args) => control::history(global, args).await,
        TunnelCommand::Disconnect(args) => control::disconnect(global, args).await,
        TunnelCommand::Lookup(args) => lookup(global, &args).await,
        TunnelCommand::Watch(args) => watch::run(global, &args).await,
        TunnelCommand::Load(args) => load::load(global, &args).await,
        TunnelCommand::Sync(args) => load::sync(global, &args).await,
    }
}

/// The answer of `show`.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    tunnel: Tunnel,
    /// What the control plane knows of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    control: Option<ControlTunnel>,
}

/// The control plane is asked about its own tunnels alone.
async fn show(global: &Global, args: &ShowArgs) -> Result<(), CliError> {
    let tunnel: Tunnel = global.connect().await?.tunnel(&args.id).await?.into();
    let control = match tunnel.owner == LIFECYCLE {
        true => control::find(global, &args.id).await,
        false => None,
    };
    if global.json {
        return output::json(&Shown { tunnel, control });
    }
    let mut text = view::details(&tunnel);
    if let Some(control) = control {
        text.push('\n');
        text.push_str(&control::details(&control));
    }
    output::line(&text)
}

async fn write(
    global: &Global,
    session: &mut Session,
    updates: Vec<TunnelUpdate>,
) -> Result<(), CliError> {
    let options = ProgramOptions::default();
    let report = session.program_tunnels(updates, &options, |_| {}).await?;
    written::finish(global, report)
}

async fn list(global: &Global, args: &ListArgs) -> Result<(), CliError> {
    let client = global.connect().await?;
    let json = global.json || args.jsonl;
    let limit = match args.limit {
        Some(0) => u64::MAX,
        Some(limit) => limit,
        None if json => u64::MAX,
        None => 1000,
    };
    let mut pages = client.tunnels(args.owner.as_deref(), page_size(limit));
    let mut shown = 0;
    let mut total = 0;
    let mut table = view::List::new(args.wide);
    let mut separator = "{\"tunnels\":[";
    while shown < limit {
        let Some(page) = pages.next().await? else {
            break;
        };
        total = page.total.unwrap_or_default();
        let room = usize::try_from(limit - shown).unwrap_or(usize::MAX);
        let mut text = String::new();
        for entry in page.items.into_iter().take(room) {
            shown += 1;
            let tunnel = Tunnel::from(entry);
            if !json {
                table.add(&tunnel);
                continue;
            }
            let object = serde_json::to_string(&tunnel).map_err(std::io::Error::other)?;
            if args.jsonl {
                text.push_str(&format!("{object}\n"));
            } else {
                text.push_str(&format!("{separator}\n{object}"));
                separator = ",";
            }
        }
        output::write(text.as_bytes())?;
    }
    if args.jsonl {
        return Ok(());
    }
    if global.json {
        let open = if shown == 0 { separator } else { "\n" };
        return output::line(&format!("{open}],\"totalCount\":{total}}}"));
    }
    output::line(&table.render())?;
    if shown == limit && shown < total && args.owner.is_none() {
        output::line(&format!("{shown} of {total} tunnels; --limit 0 shows all"))?;
    }
    Ok(())
}

fn page_size(limit: u64) -> u32 {
    u32::try_from(limit.clamp(1, 1000)).unwrap_or(1000)
}

/// What is asked for.
fn lookup_key(args: &LookupArgs) -> Result<TunnelKey, CliError> {
    use LookupAddress::{Inner, Outer, Port};
    let usage = |text: &str| Err(CliError::Usage(text.to_owned()));
    let anybody = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
    match (args.address, args.remote) {
        (Inner(inner), None) => Ok(TunnelKey::Inner(inner)),
        (Outer(local), Some(Outer(remote))) => Ok(TunnelKey::Outer { local, remote }),
        (Port(local), None) => Ok(TunnelKey::Udp {
            local,
            remote: anybody,
        }),
        (Port(local), Some(Port(remote))) => Ok(TunnelKey::Udp { local, remote }),
        (Outer(_), None) => usage("an outer lookup needs both: the relay's address and the user's"),
        (Outer(_) | Port(_), Some(Outer(_) | Port(_))) => {
            usage("UDP needs a port on both addresses, protocol 41 on none")
        }
        (Inner(_), Some(_)) | (_, Some(Inner(_))) => {
            usage("give one inner IPv6 address, or two outer IPv4 addresses")
        }
    }
}

async fn lookup(global: &Global, args: &LookupArgs) -> Result<(), CliError> {
    let key = lookup_key(args)?;
    let found = global.connect().await?.lookup_tunnel(key).await?;
    let tunnel = Tunnel::from(found.entry);
    if global.json {
        return output::json(&Found {
            matched_prefix: found.prefix,
            tunnel,
        });
    }
    let mut text = String::new();
    if let Some(prefix) = found.prefix {
        text = format!("Matched  {prefix}\n\n");
    }
    output::line(&(text + &view::details(&tunnel)))
}

//! Tunnels as the control plane knows them: whose, since when, why.

use clap::Args;
use serde::Serialize;
use sixferry_client::control::{ControlClient, api};

use crate::args::Global;
use crate::describe;
use crate::error::CliError;
use crate::json::control::{ControlTunnel, Transition};
use crate::output::{self, Column, Facts, Table};

/// Tunnels of a page.
const PAGE: u32 = 1000;

#[derive(Args, Debug)]
pub(crate) struct HistoryArgs {
    /// The tunnel; it may be gone.
    id: String,
}

#[derive(Args, Debug)]
pub(crate) struct DisconnectArgs {
    /// Tunnels to take away from their users.
    #[arg(required_unless_present = "user", add = crate::completion::control_tunnels())]
    id: Vec<String>,
    /// All of this user.
    #[arg(long, value_name = "NAME", conflicts_with = "id", add = crate::completion::users())]
    user: Option<String>,
}

/// The answer of `tunnel list --users`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    tunnels: Vec<ControlTunnel>,
    total_count: u64,
}

/// The answer of `tunnel history`.
#[derive(Serialize)]
struct History {
    transitions: Vec<Transition>,
}

/// `tunnel list --users`.
pub(super) async fn list_users(
    global: &Global,
    user: Option<&str>,
    limit: Option<u64>,
) -> Result<(), CliError> {
    let client = global.control().await?;
    let limit = match limit {
        Some(0) => u64::MAX,
        Some(limit) => limit,
        None if global.json => u64::MAX,
        None => 1000,
    };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut request = api::ListTunnelsRequest {
        page_size: PAGE,
        user: user.unwrap_or_default().to_owned(),
        ..api::ListTunnelsRequest::default()
    };
    let mut listed = Listed {
        tunnels: Vec::new(),
        total_count: 0,
    };
    loop {
        let page = client.list_tunnels(request.clone()).await?;
        listed.total_count = page.total_count;
        listed
            .tunnels
            .extend(page.tunnels.into_iter().map(Into::into));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() || listed.tunnels.len() >= limit {
            break;
        }
    }
    listed.tunnels.truncate(limit);
    if global.json {
        return output::json(&listed);
    }
    output::line(&list(&listed.tunnels))
}

/// A table.
pub(crate) fn list(tunnels: &[ControlTunnel]) -> String {
    if tunnels.is_empty() {
        return "no tunnels\n".to_owned();
    }
    let mut table = Table::new(&[
        Column::Left("ID"),
        Column::Left("USER"),
        Column::Left("SERVICE"),
        Column::Left("SLOT"),
        Column::Left("REMOTE"),
        Column::Left("PREFIXES"),
        Column::Left("STATE"),
        Column::Left("SINCE"),
    ]);
    for tunnel in tunnels {
        let remote = tunnel
            .remote
            .map_or_else(|| "-".to_owned(), |remote| remote.to_string());
        table.row([
            tunnel.id.clone(),
            tunnel.user.clone(),
            tunnel.service.clone(),
            tunnel.slot.clone(),
            remote,
            describe::first(&inner(tunnel)),
            tunnel.state.to_owned(),
            tunnel.state_time.clone().unwrap_or_default(),
        ]);
    }
    table.render()
}

/// What is routed to the user, his link address first.
fn inner(tunnel: &ControlTunnel) -> Vec<String> {
    let link = tunnel.client_address.iter().map(ToString::to_string);
    link.chain(tunnel.prefixes.iter().map(ToString::to_string))
        .collect()
}

pub(super) async fn history(global: &Global, args: HistoryArgs) -> Result<(), CliError> {
    let client = global.control().await?;
    let request = api::ListTunnelHistoryRequest { id: args.id };
    let answer = client.list_tunnel_history(request).await?;
    let history = History {
        transitions: answer.transitions.into_iter().map(Into::into).collect(),
    };
    if global.json {
        return output::json(&history);
    }
    let mut table = Table::new(&[
        Column::Left("TIME"),
        Column::Left("FROM"),
        Column::Left("TO"),
        Column::Left("CAUSE"),
        Column::Left("USER"),
    ]);
    for transition in &history.transitions {
        table.row([
            transition.time.clone().unwrap_or_default(),
            transition.from.to_owned(),
            transition.to.to_owned(),
            transition.cause.to_owned(),
            transition.user.clone(),
        ]);
    }
    output::line(&table.render())
}

pub(super) async fn disconnect(global: &Global, args: DisconnectArgs) -> Result<(), CliError> {
    let client = global.control().await?;
    let request = api::DisconnectTunnelsRequest {
        ids: args.id,
        user: args.user.unwrap_or_default(),
    };
    let disconnected = client.disconnect_tunnels(request).await?.disconnected;
    if global.json {
        return output::json(&serde_json::json!({ "disconnected": disconnected }));
    }
    output::line(&format!("{disconnected} disconnected"))
}

/// The control plane's part of `tunnel show`; `None` where it does not answer or knows none such.
pub(super) async fn find(global: &Global, id: &str) -> Option<ControlTunnel> {
    let client: ControlClient = global.control().await.ok()?;
    let request = api::GetTunnelRequest { id: id.to_owned() };
    client
        .get_tunnel(request)
        .await
        .ok()?
        .tunnel
        .map(Into::into)
}

/// The same for people.
pub(super) fn details(tunnel: &ControlTunnel) -> String {
    let mut facts = Facts::default();
    let since = tunnel.state_time.as_deref().unwrap_or("an unknown time");
    facts
        .add("User", &tunnel.user)
        .add("Service", format!("{}, {}", tunnel.service, tunnel.profile))
        .add("Interface", &tunnel.slot)
        .add("Lifecycle", format!("{} since {since}", tunnel.state));
    if let Some(created) = &tunnel.create_time {
        facts.add("Created", created);
    }
    facts.render()
}

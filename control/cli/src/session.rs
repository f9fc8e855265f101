//! `sixferry session`: who is logged in by DTCP.

use clap::{Args, Subcommand};
use serde::Serialize;
use sixferry_client::control::api;

use crate::args::Global;
use crate::error::CliError;
use crate::json::control::Session;
use crate::output::{self, Column, Table};

/// Sessions of a page.
const PAGE: u32 = 1000;

#[derive(Debug, Subcommand)]
pub(crate) enum SessionCommand {
    /// List the DTCP sessions.
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// End sessions; their tunnels go with them. The users may log in again: suspend one to keep
    /// him out.
    Disconnect(DisconnectArgs),
}

#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    /// Only this user's.
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true,
        add = crate::completion::users())]
    user: String,
    /// At most this many; 0: all. [default: 1000 for the table, all for JSON]
    #[arg(long, value_name = "NUMBER")]
    limit: Option<u64>,
}

#[derive(Args, Debug)]
pub(crate) struct DisconnectArgs {
    /// Their numbers.
    #[arg(required = true, add = crate::completion::sessions())]
    ids: Vec<u64>,
}

/// The answer of a listing.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Sessions {
    sessions: Vec<Session>,
    total_count: u64,
}

pub(crate) async fn run(global: &Global, command: SessionCommand) -> Result<(), CliError> {
    match command {
        SessionCommand::List(args) => list(global, args).await,
        SessionCommand::Disconnect(args) => {
            let client = global.control().await?;
            for id in args.ids {
                let request = api::DisconnectSessionRequest { id };
                client.disconnect_session(request).await?;
            }
            if global.json {
                return output::json(&serde_json::json!({}));
            }
            output::line("disconnected")
        }
    }
}

async fn list(global: &Global, args: ListArgs) -> Result<(), CliError> {
    let client = global.control().await?;
    let limit = match args.limit {
        Some(0) => u64::MAX,
        Some(limit) => limit,
        None if global.json => u64::MAX,
        None => 1000,
    };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut request = api::ListSessionsRequest {
        page_size: PAGE,
        user: args.user,
        ..api::ListSessionsRequest::default()
    };
    let mut found = Sessions {
        sessions: Vec::new(),
        total_count: 0,
    };
    loop {
        let page = client.list_sessions(request.clone()).await?;
        found.total_count = page.total_count;
        found
            .sessions
            .extend(page.sessions.into_iter().map(Session::from));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() || found.sessions.len() >= limit {
            break;
        }
    }
    found.sessions.truncate(limit);
    if global.json {
        return output::json(&found);
    }
    output::line(&table(&found.sessions))
}

fn table(sessions: &[Session]) -> String {
    if sessions.is_empty() {
        return "no sessions\n".to_owned();
    }
    let mut table = Table::new(&[
        Column::Right("ID"),
        Column::Left("CLIENT"),
        Column::Left("USER"),
        Column::Left("TUNNEL"),
        Column::Left("TYPE"),
        Column::Left("SINCE"),
        Column::Left("HEARD"),
    ]);
    let or_dash = |text: &str| if text.is_empty() { "-" } else { text }.to_owned();
    for session in sessions {
        let client = session
            .client
            .map_or_else(|| "-".to_owned(), |client| client.to_string());
        table.row([
            session.id.to_string(),
            format!("{client}:{}", session.client_port),
            or_dash(&session.user),
            or_dash(&session.tunnel_id),
            or_dash(&session.r#type),
            or_dash(session.connect_time.as_deref().unwrap_or_default()),
            or_dash(session.heard_time.as_deref().unwrap_or_default()),
        ]);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_a_table() {
        let session = api::DtcpSession {
            id: 7,
            client: vec![192, 0, 2, 10],
            client_port: 40_000,
            connect_time: Some(prost_types::Timestamp {
                seconds: 951_827_696,
                nanos: 0,
            }),
            ..api::DtcpSession::default()
        };
        let up = api::DtcpSession {
            id: 8,
            user: "alice".into(),
            tunnel_id: "t1".into(),
            r#type: "network".into(),
            ..session.clone()
        };
        assert_eq!(
            table(&[session.into(), up.into()]),
            "ID  CLIENT            USER   TUNNEL  TYPE     SINCE                 HEARD\n \
             7  192.0.2.10:40000  -      -       -        2000-02-29T12:34:56Z  -\n \
             8  192.0.2.10:40000  alice  t1      network  2000-02-29T12:34:56Z  -\n"
        );
    }
}

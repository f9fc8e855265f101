//! `sixferry pool`.

use clap::{Args, Subcommand};
use ipnet::Ipv6Net;
use serde_json::json;
use sixferry_client::control::api;

use crate::args::Global;
use crate::error::CliError;
use crate::json::control::{Pool, User, prefix_message};
use crate::output::{self, Column, Table};
use crate::parse;

#[derive(Debug, Subcommand)]
pub(crate) enum PoolCommand {
    /// Create a pool of prefixes to delegate, or of address pairs.
    Add(AddArgs),
    /// Remove a pool of which nothing is assigned.
    #[command(visible_alias = "del")]
    Delete(NameArgs),
    /// List the pools and how full they are.
    #[command(visible_alias = "ls")]
    List,
    /// Give a user a prefix for good.
    Assign(AssignArgs),
    /// Take a prefix from a user; nobody gets it until its quarantine is over.
    Release(ReleaseArgs),
}

#[derive(Args, Debug)]
pub(crate) struct AddArgs {
    /// 1 to 63 of A-Z a-z 0-9 . _ -
    name: String,
    /// What it is given from; no two pools overlap.
    #[arg(value_parser = parse::prefix6)]
    prefix: Ipv6Net,
    /// Length of the prefixes that are given, 48 to 64. Without it: address pairs of links.
    #[arg(long, value_name = "LENGTH", value_parser = clap::value_parser!(u32).range(48..=64))]
    delegate: Option<u32>,
    /// Seconds during which a freed number is given to nobody. [default: 86400 for prefixes, 0
    /// for address pairs]
    #[arg(long, value_name = "SECONDS")]
    quarantine: Option<u32>,
}

#[derive(Args, Debug)]
pub(crate) struct NameArgs {
    /// Which.
    #[arg(add = crate::completion::pools())]
    name: String,
}

#[derive(Args, Debug)]
pub(crate) struct AssignArgs {
    /// To whom.
    #[arg(add = crate::completion::users())]
    user: String,
    /// From which pool.
    #[arg(add = crate::completion::pools())]
    pool: String,
    /// This one and no other. [default: the lowest free one]
    #[arg(value_parser = parse::prefix6)]
    prefix: Option<Ipv6Net>,
}

#[derive(Args, Debug)]
pub(crate) struct ReleaseArgs {
    /// From whom.
    #[arg(add = crate::completion::users())]
    user: String,
    /// What.
    #[arg(value_parser = parse::prefix6)]
    prefix: Ipv6Net,
}

pub(crate) async fn run(global: &Global, command: PoolCommand) -> Result<(), CliError> {
    let client = global.control().await?;
    match command {
        PoolCommand::Add(args) => {
            let default = if args.delegate.is_some() { 86_400 } else { 0 };
            let pool = api::Pool {
                name: args.name,
                prefix: Some(prefix_message(args.prefix)),
                delegated_length: args.delegate.unwrap_or_default(),
                quarantine_seconds: args.quarantine.unwrap_or(default),
            };
            let request = api::CreatePoolRequest { pool: Some(pool) };
            let pool = client.create_pool(request).await?.pool;
            let entry = api::PoolEntry {
                pool,
                ..api::PoolEntry::default()
            };
            say(global, &json!(Pool::from(entry)), "created")
        }
        PoolCommand::Delete(args) => {
            let request = api::DeletePoolRequest { name: args.name };
            client.delete_pool(request).await?;
            say(global, &json!({}), "deleted")
        }
        PoolCommand::List => {
            let answer = client.list_pools(api::ListPoolsRequest {}).await?;
            let pools: Vec<Pool> = answer.pools.into_iter().map(Into::into).collect();
            say(global, &json!({ "pools": pools }), &table(&pools))
        }
        PoolCommand::Assign(args) => {
            let request = api::AssignPrefixRequest {
                user: args.user,
                pool: args.pool,
                prefix: args.prefix.map(prefix_message),
            };
            let answer = client.assign_prefix(request).await?;
            let user = api::User {
                prefixes: answer.prefix.into_iter().collect(),
                ..api::User::default()
            };
            let given = User::from(user).prefixes;
            let given = given.first().map_or_else(String::new, ToString::to_string);
            let user = User::from(answer.user.unwrap_or_default());
            say(global, &json!({ "prefix": given, "user": user }), &given)
        }
        PoolCommand::Release(args) => {
            let request = api::ReleasePrefixRequest {
                user: args.user,
                prefix: Some(prefix_message(args.prefix)),
            };
            let answer = client.release_prefix(request).await?;
            let user = User::from(answer.user.unwrap_or_default());
            say(global, &json!({ "user": user }), "released")
        }
    }
}

fn say(global: &Global, json: &serde_json::Value, text: &str) -> Result<(), CliError> {
    if global.json {
        return output::json(json);
    }
    output::line(text)
}

fn table(pools: &[Pool]) -> String {
    if pools.is_empty() {
        return "no pools\n".to_owned();
    }
    let mut table = Table::new(&[
        Column::Left("NAME"),
        Column::Left("PREFIX"),
        Column::Left("GIVES"),
        Column::Right("USED"),
        Column::Right("QUARANTINED"),
        Column::Right("OF"),
    ]);
    for pool in pools {
        let gives = match pool.delegated_length {
            0 => "address pairs".to_owned(),
            length => format!("/{length}"),
        };
        let prefix = pool
            .prefix
            .map_or_else(|| "-".to_owned(), |prefix| prefix.to_string());
        table.row([
            pool.name.clone(),
            prefix,
            gives,
            pool.used.to_string(),
            pool.quarantined.to_string(),
            pool.capacity.to_string(),
        ]);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_are_a_table() {
        let pool = |name: &str, delegated_length, capacity| Pool {
            name: name.to_owned(),
            prefix: Some("2001:db8:1000::/36".parse().unwrap()),
            delegated_length,
            quarantine_seconds: 0,
            capacity,
            used: 2,
            quarantined: 1,
        };
        assert_eq!(
            table(&[pool("sites", 48, 4096), pool("links", 0, 16_383)]),
            "NAME   PREFIX              GIVES          USED  QUARANTINED     OF\n\
             sites  2001:db8:1000::/36  /48               2            1   4096\n\
             links  2001:db8:1000::/36  address pairs     2            1  16383\n"
        );
    }
}

//! `sixferry domain`: 6to4 and 6rd.

mod edit;
mod line;
mod view;

use std::net::IpAddr;

use clap::{Args, Subcommand};
use serde::Serialize;
use sixferry_client::{DomainKey, DomainUpdate, ProgramOptions, WriteMode};

use crate::args::{Global, Writer};
use crate::error::CliError;
use crate::json::domain::Domain;
use crate::json::written;
use crate::{output, parse};

pub(crate) use self::line::add_line;

#[derive(Debug, Subcommand)]
pub(crate) enum DomainCommand {
    /// Create a domain.
    Add(Box<edit::AddArgs>),
    /// Change some properties of a domain; the others stay.
    Set(Box<edit::SetArgs>),
    /// Remove domains, and the routes into them.
    #[command(visible_alias = "del")]
    Delete(DeleteArgs),
    /// List domains.
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Show everything about one domain, its counters included.
    Show(ShowArgs),
    /// Translate an address: which IPv4 end does an IPv6 address embed, or which prefix is
    /// delegated to an IPv4 address?
    Lookup(LookupArgs),
}

#[derive(Args, Debug)]
pub(crate) struct DeleteArgs {
    /// Domains to remove.
    #[arg(required = true, value_parser = parse::tunnel_id, add = crate::completion::domains())]
    id: Vec<String>,
    #[command(flatten)]
    writer: Writer,
}

#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    /// Only domains of this owner.
    #[arg(long, value_name = "NAME")]
    owner: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct ShowArgs {
    /// The domain.
    #[arg(value_parser = parse::tunnel_id, add = crate::completion::domains())]
    id: String,
}

#[derive(Args, Debug)]
pub(crate) struct LookupArgs {
    /// An IPv6 or IPv4 address.
    address: IpAddr,
    /// Which domain to ask. [default: the one that fits]
    #[arg(long, value_name = "NAME", value_parser = parse::tunnel_id,
        add = crate::completion::domains())]
    domain: Option<String>,
}

/// The answer of a list.
#[derive(Serialize)]
struct Listed {
    domains: Vec<Domain>,
}

/// The answer of a lookup.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Found {
    domain_id: String,
    outer_address: std::net::Ipv4Addr,
    #[serde(skip_serializing_if = "Option::is_none")]
    delegated_prefix: Option<ipnet::Ipv6Net>,
    own: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    refused_reason: Option<String>,
}

pub(crate) async fn run(global: &Global, command: DomainCommand) -> Result<(), CliError> {
    match command {
        DomainCommand::Add(args) => {
            let writer = args.writer.clone();
            let update = args.into_update()?;
            write(global, &writer, vec![update]).await
        }
        DomainCommand::Set(args) => set(global, *args).await,
        DomainCommand::Delete(args) => {
            let delete = |id| DomainUpdate::Delete {
                id,
                must_exist: true,
            };
            let updates = args.id.into_iter().map(delete).collect();
            write(global, &args.writer, updates).await
        }
        DomainCommand::List(args) => list(global, &args).await,
        DomainCommand::Show(args) => {
            let domain = global.connect().await?.domain(&args.id).await?.into();
            if global.json {
                return output::json(&domain);
            }
            output::line(&view::details(&domain))
        }
        DomainCommand::Lookup(args) => lookup(global, &args).await,
    }
}

async fn write(
    global: &Global,
    writer: &Writer,
    updates: Vec<DomainUpdate>,
) -> Result<(), CliError> {
    let mut session = global.session(writer).await?;
    let options = ProgramOptions::default();
    let report = session.program_domains(updates, &options, |_| {}).await?;
    written::finish(global, report)
}

/// The mechanism is one field of the API, so what is not named of it is read first.
async fn set(global: &Global, args: edit::SetArgs) -> Result<(), CliError> {
    let writer = args.writer.clone();
    let now = global.connect().await?.domain(args.id()).await?.domain;
    let (domain, fields) = args.apply(now)?;
    let update = DomainUpdate::Upsert {
        domain: Box::new(domain),
        fields: Some(fields),
        mode: WriteMode::Update,
    };
    write(global, &writer, vec![update]).await
}

async fn list(global: &Global, args: &ListArgs) -> Result<(), CliError> {
    let client = global.connect().await?;
    let mut pages = client.domains(args.owner.as_deref(), 100);
    // The table has at most 64.
    let mut domains = Vec::new();
    while let Some(page) = pages.next().await? {
        domains.extend(page.items.into_iter().map(Domain::from));
    }
    if global.json {
        return output::json(&Listed { domains });
    }
    output::line(&view::list(&domains))
}

async fn lookup(global: &Global, args: &LookupArgs) -> Result<(), CliError> {
    let key = match args.address {
        IpAddr::V4(outer) => DomainKey::Outer(outer),
        IpAddr::V6(inner) => DomainKey::Inner(inner),
    };
    let client = global.connect().await?;
    let found = client.lookup_domain(args.domain.as_deref(), key).await?;
    let found = Found {
        domain_id: found.entry.domain.id,
        outer_address: found.outer,
        delegated_prefix: found.delegated,
        own: found.own,
        refused_reason: found.refused,
    };
    if global.json {
        return output::json(&found);
    }
    output::line(&view::found(&found))
}

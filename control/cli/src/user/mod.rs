//! `sixferry user`.

mod import;
mod secret;

use clap::{Args, Subcommand};
use ipnet::Ipv6Net;
use serde::Serialize;
use sixferry_client::control::{ControlClient, api};

use crate::args::Global;
use crate::describe;
use crate::error::CliError;
use crate::json::control::{User, prefix_message};
use crate::output::{self, Column, Facts, Table};
use crate::parse;
use secret::SecretArgs;

/// Users of a page.
const PAGE: u32 = 1000;

#[derive(Debug, Subcommand)]
pub(crate) enum UserCommand {
    /// Create a user.
    ///
    /// His secret is asked for twice, without echo, or read from a file or standard input. It is no
    /// argument: those are seen by everybody on the host.
    Add(AddArgs),
    /// Change some properties of a user; the others stay.
    Set(SetArgs),
    /// Remove users and take their tunnels away.
    #[command(visible_alias = "del")]
    Delete(DeleteArgs),
    /// List users.
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Show one user and his tunnels.
    Show(ShowArgs),
    /// Create or change users from a dump of pop.auth, `user:secret` lines, or an export.
    Import(import::ImportArgs),
    /// Print all users as JSON lines that can be imported.
    Export(import::ExportArgs),
}

#[derive(Args, Debug)]
pub(crate) struct AddArgs {
    /// 1 to 64 printable ASCII characters without space.
    name: String,
    #[command(flatten)]
    secret: SecretArgs,
    /// He has no secret, and cannot log in until one is set.
    #[arg(long, conflicts_with_all = ["secret_file", "secret_stdin"])]
    no_secret: bool,
    /// A prefix of his own; may be repeated.
    #[arg(long = "prefix", value_name = "PREFIX", value_parser = parse::prefix6)]
    prefixes: Vec<Ipv6Net>,
    /// He may not log in.
    #[arg(long)]
    suspended: bool,
}

#[derive(Args, Debug)]
pub(crate) struct SetArgs {
    /// Who.
    #[arg(add = crate::completion::users())]
    name: String,
    /// Ask for a new secret.
    #[arg(long, conflicts_with_all = ["secret_file", "secret_stdin", "clear_secret"])]
    secret: bool,
    #[command(flatten)]
    source: SecretArgs,
    /// Take his secret away.
    #[arg(long, conflicts_with_all = ["secret_file", "secret_stdin"])]
    clear_secret: bool,
    /// His prefixes, in the place of those he has; may be repeated.
    #[arg(long = "prefix", value_name = "PREFIX", value_parser = parse::prefix6)]
    prefixes: Vec<Ipv6Net>,
    /// He has no prefixes.
    #[arg(long, conflicts_with = "prefixes")]
    no_prefixes: bool,
    /// He may not log in, and his tunnels are taken away.
    #[arg(long, conflicts_with = "resume")]
    suspend: bool,
    /// He may log in again.
    #[arg(long)]
    resume: bool,
}

#[derive(Args, Debug)]
pub(crate) struct DeleteArgs {
    /// Who.
    #[arg(required = true, add = crate::completion::users())]
    names: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    /// Only users whose name begins like this.
    #[arg(value_name = "START", default_value = "", hide_default_value = true)]
    start: String,
    /// At most this many; 0: all. [default: 1000 for the table, all for JSON]
    #[arg(long, value_name = "NUMBER")]
    limit: Option<u64>,
}

#[derive(Args, Debug)]
pub(crate) struct ShowArgs {
    /// Who.
    #[arg(add = crate::completion::users())]
    name: String,
}

/// The answer of a listing.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Users {
    users: Vec<User>,
    total_count: u64,
}

pub(crate) async fn run(global: &Global, command: UserCommand) -> Result<(), CliError> {
    match command {
        UserCommand::Add(args) => add(global, args).await,
        UserCommand::Set(args) => set(global, args).await,
        UserCommand::Delete(args) => delete(global, args).await,
        UserCommand::List(args) => list(global, &args).await,
        UserCommand::Show(args) => show(global, args).await,
        UserCommand::Import(args) => import::import(global, &args).await,
        UserCommand::Export(args) => import::export(global, &args).await,
    }
}

fn messages(prefixes: &[Ipv6Net]) -> Vec<api::Prefix> {
    prefixes.iter().copied().map(prefix_message).collect()
}

/// One line, or the user as JSON.
fn written(global: &Global, user: Option<api::User>, what: &str) -> Result<(), CliError> {
    if global.json {
        return output::json(&User::from(user.unwrap_or_default()));
    }
    output::line(what)
}

async fn add(global: &Global, args: AddArgs) -> Result<(), CliError> {
    let secret = if args.no_secret {
        Vec::new()
    } else {
        args.secret.read(&args.name)?
    };
    let status = if args.suspended {
        api::UserStatus::Suspended
    } else {
        api::UserStatus::Active
    };
    let user = api::User {
        name: args.name,
        status: status.into(),
        prefixes: messages(&args.prefixes),
        ..api::User::default()
    };
    let request = api::CreateUserRequest {
        user: Some(user),
        secret,
    };
    let answer = global.control().await?.create_user(request).await?;
    written(global, answer.user, "created")
}

async fn set(global: &Global, args: SetArgs) -> Result<(), CliError> {
    let mut paths = Vec::new();
    if args.suspend || args.resume {
        paths.push("status".to_owned());
    }
    if args.no_prefixes || !args.prefixes.is_empty() {
        paths.push("prefixes".to_owned());
    }
    let secret = if args.secret || args.source.is_given() {
        args.source.read(&args.name)?
    } else {
        Vec::new()
    };
    if paths.is_empty() && secret.is_empty() && !args.clear_secret {
        return Err(CliError::Usage("nothing to set".to_owned()));
    }
    let status = if args.suspend {
        api::UserStatus::Suspended
    } else {
        api::UserStatus::Active
    };
    let user = api::User {
        name: args.name,
        status: status.into(),
        prefixes: messages(&args.prefixes),
        ..api::User::default()
    };
    let request = api::SetUserRequest {
        user: Some(user),
        update_mask: Some(prost_types::FieldMask { paths }),
        secret,
        clear_secret: args.clear_secret,
    };
    let answer = global.control().await?.set_user(request).await?;
    written(global, answer.user, "changed")
}

async fn delete(global: &Global, args: DeleteArgs) -> Result<(), CliError> {
    let client = global.control().await?;
    for name in args.names {
        client.delete_user(api::DeleteUserRequest { name }).await?;
    }
    if global.json {
        return output::json(&serde_json::json!({}));
    }
    output::line("deleted")
}

async fn list(global: &Global, args: &ListArgs) -> Result<(), CliError> {
    let client = global.control().await?;
    let limit = match args.limit {
        Some(0) => u64::MAX,
        Some(limit) => limit,
        None if global.json => u64::MAX,
        None => 1000,
    };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut users = Users {
        users: Vec::new(),
        total_count: 0,
    };
    let mut request = api::ListUsersRequest {
        page_size: PAGE,
        name_prefix: args.start.clone(),
        ..api::ListUsersRequest::default()
    };
    loop {
        let page = client.list_users(request.clone()).await?;
        users.total_count = page.total_count;
        users.users.extend(page.users.into_iter().map(User::from));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() || users.users.len() >= limit {
            break;
        }
    }
    let cut = users.users.len() > limit || !request.page_token.is_empty();
    users.users.truncate(limit);
    if global.json {
        return output::json(&users);
    }
    output::line(&table(&users))?;
    if cut {
        let (shown, total) = (users.users.len(), users.total_count);
        output::line(&format!("{shown} of {total} users; --limit 0 shows all"))?;
    }
    Ok(())
}

fn table(users: &Users) -> String {
    if users.users.is_empty() {
        return "no users\n".to_owned();
    }
    let mut table = Table::new(&[
        Column::Left("NAME"),
        Column::Left("STATUS"),
        Column::Left("SECRET"),
        Column::Left("PREFIXES"),
    ]);
    for user in &users.users {
        table.row([
            user.name.clone(),
            user.status.clone(),
            if user.has_secret { "yes" } else { "no" }.to_owned(),
            describe::first(&user.prefixes),
        ]);
    }
    table.render()
}

/// The answer of `show`.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    user: User,
    tunnels: Vec<crate::json::control::ControlTunnel>,
}

async fn show(global: &Global, args: ShowArgs) -> Result<(), CliError> {
    let client: ControlClient = global.control().await?;
    let name = args.name;
    let request = api::GetUserRequest { name: name.clone() };
    let user = client.get_user(request).await?.user.unwrap_or_default();
    let request = api::ListTunnelsRequest {
        page_size: PAGE,
        user: name,
        ..api::ListTunnelsRequest::default()
    };
    let tunnels = client.list_tunnels(request).await?.tunnels;
    let shown = Shown {
        user: user.into(),
        tunnels: tunnels.into_iter().map(Into::into).collect(),
    };
    if global.json {
        return output::json(&shown);
    }
    output::line(&details(&shown))
}

fn details(shown: &Shown) -> String {
    let user = &shown.user;
    let mut facts = Facts::default();
    facts
        .add("User", &user.name)
        .add("Status", &user.status)
        .add(
            "Secret",
            if user.has_secret {
                "set"
            } else {
                "none: he cannot log in"
            },
        )
        .add("Prefixes", describe::all(&user.prefixes));
    for (name, time) in [
        ("Created", &user.create_time),
        ("Changed", &user.change_time),
    ] {
        if let Some(time) = time {
            facts.add(name, time);
        }
    }
    format!(
        "{}\n{}",
        facts.render(),
        crate::tunnel::control_list(&shown.tunnels)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> User {
        User {
            name: name.to_owned(),
            status: "active".to_owned(),
            has_secret: true,
            prefixes: vec![
                "2001:db8:1::/48".parse().unwrap(),
                "2001:db8:2::/48".parse().unwrap(),
            ],
            create_time: Some("2026-01-01T00:00:00Z".to_owned()),
            ..User::default()
        }
    }

    #[test]
    fn users_are_a_table() {
        let users = Users {
            users: vec![
                user("alice"),
                User {
                    has_secret: false,
                    prefixes: Vec::new(),
                    ..user("bob")
                },
            ],
            total_count: 2,
        };
        assert_eq!(
            table(&users),
            "NAME   STATUS  SECRET  PREFIXES\n\
             alice  active  yes     2001:db8:1::/48 +1\n\
             bob    active  no      -\n"
        );
    }

    #[test]
    fn the_shape_of_a_user_is_stable_and_has_no_secret() {
        let text = serde_json::to_string(&user("alice")).unwrap();
        assert_eq!(
            text,
            r#"{"name":"alice","status":"active","hasSecret":true,"prefixes":["2001:db8:1::/48","#
                .to_owned()
                + r#""2001:db8:2::/48"],"createTime":"2026-01-01T00:00:00Z"}"#
        );
    }

    #[test]
    fn show_ends_with_his_tunnels() {
        let shown = Shown {
            user: user("alice"),
            tunnels: Vec::new(),
        };
        let text = details(&shown);
        assert!(
            text.starts_with("User      alice\nStatus    active\nSecret    set\n"),
            "{text}"
        );
        assert!(text.ends_with("\nno tunnels\n"), "{text}");
    }
}

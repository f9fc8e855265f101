//! `sixferry tunnel watch`.

use clap::Args;
use serde_json::json;
use sixferry_client::WatchEvent;

use super::view;
use crate::args::Global;
use crate::error::CliError;
use crate::json::tunnel::Tunnel;
use crate::output::{self, Interrupt};

#[derive(Args, Debug)]
pub(crate) struct WatchArgs {
    /// Only tunnels of this owner.
    #[arg(long, value_name = "NAME")]
    owner: Option<String>,
    /// Leave out the tunnels there are at the start.
    #[arg(long)]
    changes_only: bool,
}

pub(super) async fn run(global: &Global, args: &WatchArgs) -> Result<(), CliError> {
    let client = global.connect().await?;
    let mut watch = client.watch_tunnels(args.owner.as_deref());
    let mut stop = Interrupt::install()?;
    // A snapshot after a reset tells what changed meanwhile, so it is always shown.
    let mut quiet = args.changes_only;
    loop {
        let event = tokio::select! {
            event = watch.next() => event?,
            () = stop.wait() => return Ok(()),
        };
        let hide = quiet && matches!(event, WatchEvent::Upserted(_));
        quiet &= !matches!(event, WatchEvent::SnapshotDone { .. });
        if hide {
            continue;
        }
        if global.json {
            output::json_line(&event_json(event))?;
        } else {
            output::line(&event_line(event))?;
        }
    }
}

fn event_line(event: WatchEvent) -> String {
    match event {
        WatchEvent::Upserted(entry) => {
            let tunnel = Tunnel::from(*entry);
            let prefixes: Vec<String> = tunnel.prefixes.iter().map(ToString::to_string).collect();
            format!(
                "+ {}  {} -> {}  {}  {}  owner {}  revision {}",
                tunnel.id,
                view::local(&tunnel),
                view::user(&tunnel),
                prefixes.join(" "),
                view::state(&tunnel),
                tunnel.owner,
                tunnel.revision
            )
        }
        WatchEvent::Removed { id, owner } => format!("- {id}  owner {owner}"),
        WatchEvent::SnapshotDone { count } => format!("= {count} tunnels; changes follow"),
        WatchEvent::Reset { cause } => format!("! starting over: {cause}"),
        WatchEvent::Disconnected { cause } => format!("! disconnected, trying again: {cause}"),
    }
}

fn event_json(event: WatchEvent) -> serde_json::Value {
    match event {
        WatchEvent::Upserted(entry) => json!({ "upserted": Tunnel::from(*entry) }),
        WatchEvent::Removed { id, owner } => json!({ "removed": { "id": id, "owner": owner } }),
        WatchEvent::SnapshotDone { count } => json!({ "snapshotDone": { "count": count } }),
        WatchEvent::Reset { cause } => json!({ "reset": { "cause": cause } }),
        WatchEvent::Disconnected { cause } => json!({ "disconnected": { "cause": cause } }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::tunnel::tests::entry;

    #[test]
    fn events_are_one_line_each() {
        assert_eq!(
            event_line(WatchEvent::Upserted(Box::new(entry()))),
            "+ user-1  198.51.100.1 -> 192.0.2.10  2001:db8:100::/48 2001:db8:200::/48  up  \
             owner cli  revision 42"
        );
        let removed = WatchEvent::Removed {
            id: "t".into(),
            owner: "cli".into(),
        };
        assert_eq!(event_line(removed.clone()), "- t  owner cli");
        assert_eq!(
            event_json(removed).to_string(),
            r#"{"removed":{"id":"t","owner":"cli"}}"#
        );
    }
}

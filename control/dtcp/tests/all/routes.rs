//! The routetable: as a file, and as logins find it.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sixferry_dtcp::Config;
use sixferry_dtcp::routetable::{Entry, RouteTable, load};

use crate::bed::{Bed, config};

fn shown(user: &str, entry: &Entry) -> String {
    let prefixes: Vec<String> = entry.prefixes.iter().map(ToString::to_string).collect();
    let prefixes = if prefixes.is_empty() {
        "-".to_owned()
    } else {
        prefixes.join(",")
    };
    let pin = entry
        .pin
        .as_ref()
        .map(|pin| format!(" {pin}"))
        .unwrap_or_default();
    format!("{user} {prefixes}{pin}\n")
}

/// `NN-input` as read: its problems by line, then what its users have.
fn golden(number: &str) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/routetable");
    let input = std::fs::read(dir.join(format!("{number}-input"))).unwrap();
    let (table, problems) = RouteTable::parse(&input);
    let mut output = String::new();
    for problem in &problems.first {
        writeln!(output, "{}: {problem}", problem.line).unwrap();
    }
    assert_eq!(problems.total, problems.first.len());
    let text = String::from_utf8(input).unwrap();
    let mut seen = std::collections::HashSet::new();
    for user in text
        .lines()
        .filter_map(|line| line.split_whitespace().next())
    {
        if let Some(entry) = table.entry(user)
            && seen.insert(user)
        {
            output += &shown(user, entry);
        }
    }
    assert_eq!(seen.len(), table.len());
    assert_eq!(
        output,
        std::fs::read_to_string(dir.join(format!("{number}-output"))).unwrap()
    );
}

#[test]
fn dtcp_36_table_of_the_manual() {
    golden("01");
}

#[test]
fn dtcp_36_blanks_comments_crlf_and_host_bits() {
    golden("02");
}

#[test]
fn dtcp_36_bad_lines_are_named_and_good_ones_kept() {
    golden("03");
}

#[test]
fn dtcp_36_bytes_that_are_no_text() {
    let (table, problems) = RouteTable::parse(b"\xff\xfe 2001:db8::/48\na\0b -\nok -\nx \xff/48\n");
    assert_eq!((table.len(), problems.total), (1, 3));
}

#[test]
fn dtcp_36_many_problems_are_counted_not_kept() {
    let (_, problems) = RouteTable::parse("bad\n".repeat(50_000).as_bytes());
    assert_eq!((problems.total, problems.first.len()), (50_000, 1000));
}

fn hundred_thousand_lines() -> String {
    let mut text = String::new();
    for n in 0..100_000 {
        writeln!(
            text,
            "user{n} 2001:{:x}:{:x}::/48 gif{n}",
            0x1000 + n / 0x10000,
            n % 0x10000
        )
        .unwrap();
    }
    text
}

#[test]
fn dtcp_36_100k_lines_are_read() {
    let (table, problems) = RouteTable::parse(hundred_thousand_lines().as_bytes());
    let found = (table.len(), table.pins().len(), problems.total);
    assert_eq!(found, (100_000, 100_000, 0));
}

#[test]
#[ignore = "measures"]
fn how_fast_100k_lines_are_read() {
    let text = hundred_thousand_lines();
    for _ in 0..5 {
        let start = Instant::now();
        let (table, _) = RouteTable::parse(text.as_bytes());
        eprintln!("{} lines in {:?}", table.len(), start.elapsed());
    }
}

proptest::proptest! {
    #[test]
    fn dtcp_36_no_table_makes_it_panic(text in "([a-c ]{0,4}[0-9a-f:/,\\-]{0,20}[ \tgif0-9]{0,8}\r?\n?){0,20}") {
        let (table, _) = RouteTable::parse(text.as_bytes());
        // Whatever it was, no two users have addresses in common.
        let users: Vec<&Entry> = ["a", "b", "c", "aa", "ab"].iter().filter_map(|u| table.entry(u)).collect();
        for (index, one) in users.iter().enumerate() {
            for other in &users[index + 1..] {
                for a in &one.prefixes {
                    for b in &other.prefixes {
                        proptest::prop_assert!(!a.contains(b) && !b.contains(a), "{a} {b}");
                    }
                }
            }
        }
    }
}

struct Table {
    _dir: tempfile::TempDir,
    path: std::path::PathBuf,
}

impl Table {
    fn new(text: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("routetable");
        std::fs::write(&path, text).unwrap();
        Self { _dir: dir, path }
    }

    /// Replaced as editors do it: another file of the same name.
    fn replace(&self, text: &str) {
        let new = self.path.with_extension("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, &self.path).unwrap();
    }

    fn config(&self) -> Config {
        Config {
            routetable: Some(self.path.clone()),
            ..config()
        }
    }
}

const TABLE: &str = "alice 2001:db8:100::/48\n\
                     bob 2001:db8:200::/56,2001:db8:201::/64 gif42\n\
                     carol - gif7\n";

#[tokio::test]
async fn dtcp_13_network_and_tunnelroute_are_the_same() {
    let table = Table::new(TABLE);
    let bed = Bed::new(table.config());
    for kind in ["network", "tunnelroute"] {
        let mut client = bed.client(1).await;
        let reply = client.login("alice", "s3cret", kind).await;
        assert_eq!(reply, "+OK 127.1.0.1 127.0.0.1 2001:db8:100::/48");
        assert_eq!(
            bed.fake.tunnels()[0].prefixes,
            ["2001:db8:100::/48".parse().unwrap()]
        );
    }
    let mut dave = bed.client(2).await;
    assert_eq!(
        dave.login("dave", "tr0ub4dor", "network").await,
        "-ERR no route for user"
    );
}

#[tokio::test]
async fn dtcp_14_several_prefixes_in_the_order_of_the_file() {
    let table = Table::new(TABLE);
    let bed = Bed::new(table.config());
    let reply = bed.client(1).await.login("bob", "hunter2", "network").await;
    assert_eq!(
        reply,
        "+OK 127.1.0.1 127.0.0.1 2001:db8:200::/56,2001:db8:201::/64"
    );
}

#[tokio::test]
async fn dtcp_15_dash_and_pin_for_all_types() {
    let table = Table::new(TABLE);
    let bed = Bed::new(table.config());
    for (kind, reply) in [
        ("tunnelonly", "+OK 127.1.0.1 127.0.0.1"),
        ("network", "+OK 127.1.0.1 127.0.0.1"),
        (
            "host",
            "+OK 127.1.0.1 127.0.0.1 2001:db8:ffff::22 2001:db8:ffff::21",
        ),
    ] {
        let mut client = bed.client(1).await;
        assert_eq!(client.login("carol", "open-sesame", kind).await, reply);
        assert_eq!(bed.fake.tunnels()[0].slot.to_string(), "gif7");
        client.ask("quit").await;
        client.ends().await;
    }
}

#[tokio::test]
async fn dtcp_15_pinned_interface_is_never_anothers() {
    let table = Table::new("carol - gif0\nbob - gif2\n");
    let bed = Bed::new(table.config());
    let mut clients = Vec::new();
    for n in 0..3 {
        clients.push(bed.logged_in(n, "alice", "host").await);
    }
    let mut slots: Vec<_> = bed
        .fake
        .tunnels()
        .iter()
        .map(|t| t.slot.to_string())
        .collect();
    slots.sort();
    assert_eq!(slots, ["gif1", "gif3", "gif4"]);
}

#[tokio::test]
async fn dtcp_27_newest_login_wins_for_network_and_pinned() {
    let table = Table::new(TABLE);
    let bed = Bed::new(table.config());
    for (user, secret, kind) in [
        ("alice", "s3cret", "network"),
        ("carol", "open-sesame", "tunnelonly"),
    ] {
        let mut old = bed.client(1).await;
        assert!(old.login(user, secret, kind).await.starts_with("+OK "));
        let mut new = bed.client(2).await;
        assert!(
            new.login(user, secret, kind)
                .await
                .starts_with("+OK 127.1.0.2 ")
        );
        assert_eq!(
            old.line().await.as_deref(),
            Some("-ERR replaced by a newer session")
        );
        old.ends().await;
        new.pings().await;
        assert_eq!(bed.fake.count(), 1);
        new.ask("quit").await;
        new.ends().await;
        assert_eq!(bed.fake.count(), 0);
    }
}

#[tokio::test]
async fn dtcp_37_reload_is_atomic_and_sessions_stay() {
    let table = Table::new(TABLE);
    let bed = Bed::new(table.config());
    let mut first = bed.client(1).await;
    let before = first.login("alice", "s3cret", "network").await;
    assert!(before.ends_with(" 2001:db8:100::/48"));
    let reload = async {
        for round in 0..20 {
            let second = if round % 2 == 0 { 0x9 } else { 0x8 };
            table.replace(&format!(
                "dave 2001:db8:{second}00::/48,2001:db8:{second}01::/48\n"
            ));
            bed.server.reload(table.config()).await.unwrap();
        }
    };
    let logins = async {
        let mut client = bed.client(2).await;
        for _ in 0..50 {
            let reply = client.login("dave", "tr0ub4dor", "network").await;
            let good = [
                "-ERR no route for user",
                "+OK 127.1.0.2 127.0.0.1 2001:db8:900::/48,2001:db8:901::/48",
                "+OK 127.1.0.2 127.0.0.1 2001:db8:800::/48,2001:db8:801::/48",
            ];
            assert!(good.contains(&reply.as_str()), "{reply}");
        }
    };
    tokio::join!(reload, logins);
    first.pings().await;
    assert!(
        bed.fake
            .tunnels()
            .iter()
            .any(|t| t.remote.octets() == [127, 1, 0, 1])
    );
    // Until its next login.
    assert_eq!(
        first.login("alice", "s3cret", "network").await,
        "-ERR no route for user"
    );
}

#[tokio::test]
async fn dtcp_37_unreadable_table_leaves_the_old_one() {
    let table = Table::new(TABLE);
    let bed = Bed::new(table.config());
    std::fs::remove_file(&table.path).unwrap();
    bed.server.reload(table.config()).await.unwrap();
    assert!(
        bed.logged_in(1, "alice", "network")
            .await
            .ask("ping")
            .await
            .starts_with("+OK")
    );
    assert!(bed.server.stats().routetable_failures >= 1);
    // A path that never could be read is an error, and nothing changes.
    let other = Config {
        routetable: Some("/nonexistent/routetable".into()),
        ..table.config()
    };
    assert!(bed.server.reload(other).await.is_err());
    bed.logged_in(2, "bob", "network").await.pings().await;
}

#[tokio::test]
async fn dtcp_37_change_is_noticed_without_a_signal() {
    let table = Table::new("bob 2001:db8:200::/48\n");
    let bed = Bed::new(table.config());
    let mut client = bed.client(1).await;
    assert_eq!(
        client.login("alice", "s3cret", "network").await,
        "-ERR no route for user"
    );
    table.replace(TABLE);
    bed.until("it is read again", |bed| {
        bed.server.stats().routetable_reloads > 0
    })
    .await;
    assert!(
        client
            .login("alice", "s3cret", "network")
            .await
            .starts_with("+OK ")
    );
}

/// What is logged, as text.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Logs of this thread come here for as long as the guard lives.
    fn catch(&self) -> tracing::subscriber::DefaultGuard {
        let log = self.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || log.clone())
            .finish();
        tracing::subscriber::set_default(subscriber)
    }

    fn count(&self, what: &str) -> usize {
        String::from_utf8_lossy(&self.0.lock())
            .matches(what)
            .count()
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn dtcp_37_trouble_with_the_table_is_said_once_per_cause_and_tried_again() {
    const STAYS: &str = "stays in force";
    let log = Log::default();
    let _caught = log.catch();
    let table = Table::new(TABLE);
    let bed = Bed::new(table.config());
    std::fs::remove_file(&table.path).unwrap();
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!((log.count(STAYS), log.count("No such file")), (1, 1));
    let tries = bed.server.stats().routetable_failures;
    assert!((8..=20).contains(&tries), "{tries}");
    // Another cause is news, at once.
    std::fs::create_dir(&table.path).unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!((log.count(STAYS), log.count("not a regular file")), (2, 1));
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(log.count(STAYS), 2);
    // Who asks is told; the same is no news afterwards.
    bed.server.reload(table.config()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(log.count(STAYS), 3);
    // The file that is back is read at once, and what happens to it later is news again.
    std::fs::remove_dir(&table.path).unwrap();
    std::fs::write(&table.path, TABLE).unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(bed.server.stats().routetable_reloads, 1);
    std::fs::remove_file(&table.path).unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!((log.count(STAYS), log.count("No such file")), (4, 2));
}

#[test]
fn dtcp_37_a_pipe_is_refused_without_waiting_for_a_writer() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pipe");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, mode).unwrap();
    assert!(load(&path).is_err());
}

#[test]
fn dtcp_37_directories_are_not_read() {
    let dir = tempfile::tempdir().unwrap();
    assert!(load(dir.path()).is_err());
    assert!(load(&dir.path().join("missing")).is_err());
}

#[tokio::test]
async fn network_without_a_table_uses_the_accounts_prefixes_if_told_to() {
    let bed = Bed::new(Config {
        network: Some(true),
        ..config()
    });
    let mut client = bed.client(1).await;
    // This lifecycle's accounts have none.
    assert_eq!(
        client.login("alice", "s3cret", "network").await,
        "-ERR no route for user"
    );
}

//! Stores of earlier and later versions of the program, and of others.

use sixferry_lifecycle::store::{Loaded, Store, StoreError, StoreOptions, Write};
use sixferry_lifecycle::{AccountId, TunnelId, TunnelState};
use sqlx::{Connection, PgConnection, SqliteConnection};

use crate::home::{Home, account, bury, insert, put, tunnel, udp_tunnel};

/// What the fixtures hold: each is the dump of a store that was filled so when its version was the
/// newest.
async fn fill(store: &Store) {
    let mut first = account(1);
    first.prefixes = vec!["2001:db8:ff::/48".parse().expect("prefix")];
    let secret = Write::SetSecret {
        account: AccountId(1),
        secret: Some(sixferry_lifecycle::secret::Sealed::from_bytes(vec![
            1, 2, 3,
        ])),
        at: 2_000,
    };
    put(store, vec![Write::InsertAccount(first), secret]).await;
    put(
        store,
        vec![insert(&tunnel(1, 1)), insert(&udp_tunnel(2, 1))],
    )
    .await;
    put(store, vec![bury(&tunnel(1, 1), 9_000, 10_000)]).await;
}

/// For the fixture of a new version: fills a store, whose dump (`sqlite3 … .dump`, `pg_dump
/// --inserts`) it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "does nothing without the URL of a store"]
async fn fill_a_store_for_a_fixture() {
    let Ok(url) = std::env::var("SIXFERRY_TEST_FILL_URL") else {
        return;
    };
    let store = Store::open(&url, &StoreOptions::default())
        .await
        .expect("open");
    fill(&store).await;
    store.close().await;
}

fn assert_filled(loaded: &Loaded) {
    assert_eq!(loaded.last_seq, 5);
    assert!(loaded.accounts[0].has_secret);
    assert_eq!(loaded.accounts[0].prefixes.len(), 1);
    assert_eq!(loaded.tunnels.len(), 1);
    let live = &loaded.tunnels[0];
    assert_eq!((live.id, live.revision), (TunnelId(2), 4));
    assert_eq!(live.prefixes, udp_tunnel(2, 1).prefixes);
    let gone = &loaded.tombstones[0].tunnel;
    assert_eq!((gone.id, gone.state), (TunnelId(1), TunnelState::Tombstone));
    assert_eq!(loaded.next.tunnel, 3);
}

async fn execute(home: &Home, sql: &'static str) {
    let sql = sqlx::raw_sql(sql);
    match home {
        Home::Sqlite(_) => {
            let mut link = SqliteConnection::connect(&home.url())
                .await
                .expect("connect");
            sql.execute(&mut link).await.expect("execute");
            link.close().await.expect("close");
        }
        Home::Postgresql(_) => {
            let mut link = PgConnection::connect(&home.url()).await.expect("connect");
            sql.execute(&mut link).await.expect("execute");
            link.close().await.expect("close");
        }
    }
}

async fn a_fixture_is_brought_up_to_date(home: &Home, fixture: &'static str) {
    if let Home::Sqlite(dir) = home {
        // As the program of that version left it.
        let path = dir.path().join("control.db");
        std::fs::File::create(&path).expect("file");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&path, mode).expect("chmod");
    }
    execute(home, fixture).await;
    let store = home.open().await;
    assert_filled(&store.load(0).await.expect("load"));
    assert_eq!(
        store.history(TunnelId(1), 9).await.expect("history").len(),
        2
    );
    put(&store, vec![insert(&tunnel(3, 1))]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn version_1_on_sqlite() {
    a_fixture_is_brought_up_to_date(&Home::sqlite(), include_str!("fixtures/v1.sqlite.sql")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root"]
async fn version_1_on_postgresql() {
    let fixture = include_str!("fixtures/v1.postgres.sql");
    a_fixture_is_brought_up_to_date(&Home::postgresql(), fixture).await;
}

async fn a_newer_schema_is_refused(home: &Home) {
    let store = home.open().await;
    fill(&store).await;
    store.close().await;
    execute(
        home,
        "INSERT INTO _sqlx_migrations \
         (version, description, success, checksum, execution_time) \
         VALUES (9999, 'of the future', TRUE, 'x', 1)",
    )
    .await;
    let error = Store::open(&home.url(), &StoreOptions::default())
        .await
        .expect_err("opened");
    assert!(
        matches!(error, StoreError::Newer { found: 9999, .. }),
        "{error:?}"
    );
    let text = error.to_string();
    assert!(
        text.contains("schema 9999") && text.contains("newer program"),
        "{text}"
    );
    // It was left as it is.
    execute(home, "DELETE FROM _sqlx_migrations WHERE version = 9999").await;
    assert_filled(&home.open().await.load(0).await.expect("load"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_schema_is_refused_on_sqlite() {
    a_newer_schema_is_refused(&Home::sqlite()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root"]
async fn a_newer_schema_is_refused_on_postgresql() {
    a_newer_schema_is_refused(&Home::postgresql()).await;
}

/// A database with other tables of these names is not taken over, and nothing of ours is left in it.
async fn somebody_elses_database_is_left_alone(home: &Home) {
    if let Home::Sqlite(_) = home {
        home.open().await.close().await;
        execute(home, "DROP TABLE _sqlx_migrations").await;
    } else {
        execute(home, "CREATE TABLE tunnel (x INTEGER)").await;
    }
    let error = Store::open(&home.url(), &StoreOptions::default())
        .await
        .expect_err("opened");
    assert!(matches!(error, StoreError::Fatal { .. }), "{error:?}");
    assert!(error.to_string().contains("already exists"), "{error}");
    if let Home::Postgresql(cluster) = home {
        let sql = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1";
        let tables = cluster.psql("postgres", sql).expect("psql");
        assert_eq!(tables, "_sqlx_migrations\ntunnel");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn somebody_elses_database_is_left_alone_on_sqlite() {
    somebody_elses_database_is_left_alone(&Home::sqlite()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root"]
async fn somebody_elses_database_is_left_alone_on_postgresql() {
    somebody_elses_database_is_left_alone(&Home::postgresql()).await;
}

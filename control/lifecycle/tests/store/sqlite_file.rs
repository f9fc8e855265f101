//! The file: whose it is, where it may be, and what is said when it is broken.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use sixferry_lifecycle::store::{Batch, Store, StoreError, StoreOptions, Write};
use sqlx::{Connection, SqliteConnection};

use crate::home::{Home, account, commit, insert, put, tunnel};

async fn refusal(url: &str) -> StoreError {
    match Store::open(url, &StoreOptions::default()).await {
        Ok(_) => panic!("{url} was opened"),
        Err(error) => error,
    }
}

#[tokio::test]
async fn the_files_are_the_owners_alone() {
    let home = Home::sqlite();
    let store = home.open().await;
    put(&store, vec![Write::InsertAccount(account(1))]).await;
    let path = store.path().expect("a file").clone();
    let dir = path.parent().expect("directory");
    let mut seen = 0;
    for entry in fs::read_dir(dir).expect("directory") {
        let metadata = entry.expect("entry").metadata().expect("metadata");
        assert_eq!(metadata.mode() & 0o777, 0o600);
        seen += 1;
    }
    // The file, its log, the log's index, the lock.
    assert_eq!(seen, 4);
    store.close().await;

    fs::set_permissions(&path, Permissions::from_mode(0o640)).expect("chmod");
    let error = refusal(&home.url()).await.to_string();
    assert!(error.contains("control.db: others may use it"), "{error}");
}

#[tokio::test]
async fn where_it_cannot_be_is_said() {
    let dir = tempfile::tempdir().expect("directory");
    let base = dir.path().display();
    fs::write(dir.path().join("file"), "").expect("file");
    fs::create_dir(dir.path().join("sub")).expect("directory");
    for (url, said) in [
        (
            format!("sqlite:{base}/none/x.db"),
            "none: there is no such directory",
        ),
        (format!("sqlite:{base}/file/x.db"), "file: is no directory"),
        (
            format!("sqlite:{base}/sub"),
            "sub: cannot be opened for writing",
        ),
        ("sqlite::memory:".to_owned(), "needs the path of a file"),
        ("sqlite:".to_owned(), "needs the path of a file"),
        (
            "mysql://x".to_owned(),
            "must begin with sqlite: or postgres://",
        ),
        ("postgres://u:geheim@[/x".to_owned(), "not a PostgreSQL URL"),
    ] {
        let error = refusal(&url).await;
        assert!(!error.is_unavailable());
        let text = error.to_string();
        assert!(text.contains(said), "{url}: {text}");
        assert!(!format!("{text} {error:?}").contains("geheim"));
    }
}

#[tokio::test]
async fn a_second_process_is_refused() {
    let home = Home::sqlite();
    let store = home.open().await;
    assert!(matches!(refusal(&home.url()).await, StoreError::InUse(_)));
    store.close().await;
    home.open().await.load(0).await.expect("load");
}

#[tokio::test]
async fn no_sqlite_file_is_damaged() {
    let home = Home::sqlite();
    let store = home.open().await;
    let path = store.path().expect("a file").clone();
    store.close().await;
    overwrite(&path, 0, 100);
    let error = refusal(&home.url()).await;
    assert!(matches!(error, StoreError::Damaged { .. }), "{error:?}");
    assert!(
        error.to_string().contains("restore it from a backup"),
        "{error}"
    );
}

#[tokio::test]
async fn a_damaged_page_is_damage_at_the_start() {
    let home = Home::sqlite();
    let store = home.open().await;
    put(&store, vec![Write::InsertAccount(account(1))]).await;
    let groups = (1..=200).map(|id| vec![insert(&tunnel(id, 1))]).collect();
    commit(&store, groups).await;
    let path = store.path().expect("a file").clone();
    store.close().await;
    let len = fs::metadata(&path).expect("metadata").len();
    // All pages but the first, which has the schema.
    overwrite(&path, 4096, len - 4096);
    let error = match Store::open(&home.url(), &StoreOptions::default()).await {
        Ok(store) => store.load(0).await.expect_err("loaded"),
        Err(error) => error,
    };
    assert!(matches!(error, StoreError::Damaged { .. }), "{error:?}");
}

fn overwrite(path: &Path, offset: u64, len: u64) {
    let file = File::options().write(true).open(path).expect("open");
    let garbage = vec![0xa5; usize::try_from(len).expect("small")];
    file.write_all_at(&garbage, offset).expect("write");
}

#[tokio::test]
async fn a_lock_of_somebody_else_is_waited_for() {
    let home = Home::sqlite();
    let options = StoreOptions {
        timeout: Duration::from_millis(50),
        ..StoreOptions::default()
    };
    let store = Store::open(&home.url(), &options).await.expect("open");
    let mut other = SqliteConnection::connect(&home.url())
        .await
        .expect("connect");
    let lock = "BEGIN IMMEDIATE";
    sqlx::query(lock).execute(&mut other).await.expect("lock");
    let batch = Batch::new(vec![vec![Write::InsertAccount(account(1))]]);
    let error = store.commit(&batch).await.expect_err("locked");
    assert!(error.is_unavailable(), "{error:?}");
    other.close().await.expect("close");
    assert!(store.commit(&batch).await.expect("commit")[0].is_ok());
}

#[tokio::test]
async fn it_is_durable_and_checks_its_references() {
    let home = Home::sqlite();
    let store = home.open().await;
    let path = store.path().expect("a file").clone();
    let mut other = SqliteConnection::connect(&home.url())
        .await
        .expect("connect");
    let mode: String = sqlx::query_scalar("PRAGMA journal_mode")
        .fetch_one(&mut other)
        .await
        .expect("pragma");
    assert_eq!(mode, "wal");
    assert!(path.with_extension("db-wal").exists());
    let loose: Vec<String> = sqlx::query_scalar(
        "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table' \
         AND strict = 0 AND name NOT LIKE 'sqlite%' AND name NOT LIKE '_sqlx%'",
    )
    .fetch_all(&mut other)
    .await
    .expect("tables");
    assert_eq!(loose, Vec::<String>::new());
}

//! The embedded store: transactions, sharing between connections, schemas.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use store::sqlite::bump;
use store::testing::Place;
use store::{Backend, Durability, Sqlite, StoreError, StoreOptions, StoreUrl, Topic};

const TABLE: &str = "CREATE TABLE test (n INTEGER PRIMARY KEY)";

async fn open(place: &Place) -> Sqlite {
    match place.open().await.unwrap() {
        Backend::Sqlite(sqlite) => sqlite,
        Backend::Redis(_) => panic!("not SQLite"),
    }
}

async fn insert(sqlite: &Sqlite, n: i64) -> Result<(), StoreError> {
    sqlite
        .write(move |tx| Ok(tx.execute("INSERT INTO test VALUES (?1)", [n]).map(drop)?))
        .await
}

async fn count(sqlite: &Sqlite) -> i64 {
    sqlite
        .read(|db| {
            Ok::<_, StoreError>(db.query_row("SELECT count(*) FROM test", [], |row| row.get(0))?)
        })
        .await
        .unwrap()
}

#[tokio::test]
async fn a_job_that_fails_or_panics_is_undone_alone() {
    let place = Place::sqlite().unwrap();
    let sqlite = open(&place).await;
    assert_eq!(sqlite.durability(), Durability::Fsynced);
    sqlite.component("test", 1, TABLE).await.unwrap();
    let mut jobs = tokio::task::JoinSet::new();
    for n in 0..300i64 {
        let sqlite = sqlite.clone();
        jobs.spawn(async move {
            let work = move |tx: &rusqlite::Transaction<'_>| {
                tx.execute("INSERT INTO test VALUES (?1)", [n])?;
                assert!(n % 10 != 7, "a bug");
                if n % 10 == 3 {
                    Err(StoreError::Foreign("refused".to_owned()))
                } else {
                    Ok(())
                }
            };
            (n, sqlite.write(work).await)
        });
    }
    for (n, result) in jobs.join_all().await {
        match n % 10 {
            3 => assert!(matches!(result, Err(StoreError::Foreign(_)))),
            7 => assert!(matches!(result, Err(StoreError::Stopped))),
            _ => result.unwrap(),
        }
    }
    assert_eq!(count(&sqlite).await, 240);
}

#[tokio::test]
async fn readers_cannot_write() {
    let place = Place::sqlite().unwrap();
    let sqlite = open(&place).await;
    sqlite.component("test", 1, TABLE).await.unwrap();
    let refused = sqlite
        .read(|db| Ok(db.execute("INSERT INTO test VALUES (1)", [])?))
        .await;
    assert!(matches!(refused, Err(StoreError::Sqlite { .. })));
    assert_eq!(count(&sqlite).await, 0);
}

#[tokio::test]
async fn two_writers_wait_for_each_other_up_to_the_busy_timeout() {
    let place = Place::sqlite().unwrap();
    let here = open(&place).await;
    here.component("test", 1, TABLE).await.unwrap();
    let options = StoreOptions {
        busy_timeout: Duration::from_millis(100),
        ..StoreOptions::default()
    };
    let Backend::Sqlite(there) = Backend::open(&place.url(), &options).await.unwrap() else {
        panic!("not SQLite")
    };
    let holding = tokio::spawn(async move {
        let hold = |tx: &rusqlite::Transaction<'_>| {
            tx.execute("INSERT INTO test VALUES (1)", [])?;
            std::thread::sleep(Duration::from_millis(700));
            Ok::<_, StoreError>(())
        };
        here.write(hold).await
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(matches!(insert(&there, 2).await, Err(StoreError::Busy)));
    holding.await.unwrap().unwrap();
    insert(&there, 2).await.unwrap();
    assert_eq!(count(&there).await, 2);
}

#[tokio::test]
async fn a_counted_change_is_seen_by_another_connection() {
    let place = Place::sqlite().unwrap();
    let (here, there) = (open(&place).await, open(&place).await);
    let (mut control, feedback) = (
        there.changes(Topic::Control),
        there.changes(Topic::Feedback),
    );
    here.write(|tx| bump(tx, Topic::Control)).await.unwrap();
    tokio::time::timeout(Duration::from_secs(1), control.changed())
        .await
        .unwrap()
        .unwrap();
    assert_eq!((*control.borrow(), *feedback.borrow()), (1, 0));
    assert_eq!(*here.changes(Topic::Control).borrow(), 1);
}

#[tokio::test]
async fn other_schemas_and_other_files_are_refused() {
    let place = Place::sqlite().unwrap();
    let sqlite = open(&place).await;
    sqlite.component("test", 2, TABLE).await.unwrap();
    for other in [1, 3] {
        let refused = sqlite.component("test", other, TABLE).await;
        assert!(
            matches!(refused, Err(StoreError::Schema { found: 2, supported, .. }) if supported == other)
        );
    }

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("foreign.sqlite");
    rusqlite::Connection::open(&path)
        .unwrap()
        .execute_batch("CREATE TABLE theirs (x)")
        .unwrap();
    let url = StoreUrl::Embedded { path: path.clone() };
    let options = StoreOptions::default();
    assert!(matches!(
        Backend::open(&url, &options).await,
        Err(StoreError::Foreign(_))
    ));
    let theirs = rusqlite::Connection::open(&path).unwrap();
    assert!(theirs.prepare("SELECT * FROM theirs").is_ok());
    assert!(
        theirs.prepare("SELECT * FROM store_component").is_err(),
        "it was changed"
    );

    std::fs::write(
        &path,
        b"this is no database at all, but long enough to be read as one",
    )
    .unwrap();
    assert!(matches!(
        Backend::open(&url, &options).await,
        Err(StoreError::Sqlite { .. })
    ));
    let no_folder = StoreUrl::Embedded {
        path: path.join("below-a-file/x.sqlite"),
    };
    assert!(matches!(
        Backend::open(&no_folder, &options).await,
        Err(StoreError::File { .. })
    ));
}

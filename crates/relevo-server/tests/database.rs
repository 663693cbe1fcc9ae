//! The database may go at any time.

#![expect(clippy::unwrap_used, reason = "clippy knows tests only by their attribute, and helpers have none")]

mod support;

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use relevo_server::{Migrated, migrate, settings::Layer};
use sqlx::{ConnectOptions, Row, sqlite::SqliteConnectOptions};
use support::{START, TestServer, eventually, test_repo};

/// The first column of the first row.
fn ask(database: &Path, statement: &'static str) -> Option<i64> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut connection = SqliteConnectOptions::new().filename(database).read_only(true).connect().await.ok()?;
        sqlx::query(statement).fetch_one(&mut connection).await.ok()?.try_get(0).ok()
    })
}

#[test]
fn the_index_says_what_the_metadata_says() {
    let server = TestServer::start();
    server.publish(&test_repo());

    assert_eq!(server.get("/readyz").status, 200);

    for (statement, count) in [
        ("SELECT count(*) FROM devices", 2),
        ("SELECT count(*) FROM builds", 2),
        ("SELECT count(*) FROM packages", 3),
        ("SELECT count(*) FROM packages WHERE from_build = '100' AND bytes = 1200", 1),
        ("SELECT timestamp_version FROM repository", 1),
    ] {
        assert_eq!(ask(&server.database(), statement), Some(count), "{statement}");
    }
}

#[test]
fn downloads_are_counted_by_file_and_day_and_nothing_else() {
    let server = TestServer::start();
    let repo = test_repo();
    server.publish(&repo);
    let package = repo.files.keys().find(|name| name.ends_with("100-to-101.rvp")).unwrap();
    let path = format!("/repo/targets/{package}");
    for headers in [&[][..], &[("Range", "bytes=0-9")], &[("Range", "bytes=10-19")], &[("If-None-Match", "*")]] {
        server.send("GET", &path, headers);
    }
    server.send("HEAD", &path, &[]);

    let database = server.database();
    let _dir = server.stop();

    assert_eq!(ask(&database, "SELECT sum(begun) FROM downloads"), Some(2));
    assert_eq!(ask(&database, "SELECT day FROM downloads"), Some(START / 86_400));
    let columns = "SELECT count(*) FROM pragma_table_info('downloads') WHERE name NOT IN ('sha256', 'day', 'begun')";
    assert_eq!(ask(&database, columns), Some(0));
}

#[test]
fn a_database_that_is_deleted_while_the_server_runs_is_made_anew() {
    let server = TestServer::start();
    server.publish(&test_repo());
    assert_eq!(server.get("/readyz").status, 200);

    for suffix in ["", "-wal", "-shm"] {
        let _absent = fs::remove_file(format!("{}{suffix}", server.database().display()));
    }

    assert_eq!(server.get("/repo/metadata/timestamp.json").status, 200);
    assert_eq!(server.get("/readyz").status, 200);
    assert_eq!(ask(&server.database(), "SELECT count(*) FROM packages"), Some(3));
}

#[test]
fn a_database_whose_main_file_alone_is_deleted_is_made_anew() {
    let server = TestServer::start();
    server.publish(&test_repo());
    assert_eq!(server.get("/readyz").status, 200);

    fs::remove_file(server.database()).unwrap();

    assert_eq!(server.get("/readyz").status, 200);
    assert_eq!(ask(&server.database(), "SELECT count(*) FROM packages"), Some(3));
}

#[test]
fn a_file_that_is_no_database_is_put_aside() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("relevo.db"), "no database at all ".repeat(1000)).unwrap();
    fs::write(dir.path().join("relevo.db-wal"), "no journal").unwrap();

    let server = TestServer::start_in(dir, |_| {});
    server.publish(&test_repo());

    assert_eq!(server.get("/readyz").status, 200);
    assert_eq!(ask(&server.database(), "SELECT count(*) FROM devices"), Some(2));
    assert!(fs::read_to_string(server.dir.path().join("relevo.db.damaged")).unwrap().starts_with("no database"));
}

#[test]
fn a_database_that_is_damaged_inside_is_made_anew() {
    let server = TestServer::start();
    server.publish(&test_repo());
    assert_eq!(server.get("/readyz").status, 200);
    let dir = server.stop();
    let path = dir.path().join("relevo.db");
    let mut bytes = fs::read(&path).unwrap();
    for byte in bytes.iter_mut().skip(4096) {
        *byte ^= 0x5a;
    }
    fs::write(&path, bytes).unwrap();

    let server = TestServer::start_in(dir, |_| {});

    assert_eq!(server.get("/readyz").status, 200);
    assert_eq!(ask(&server.database(), "SELECT count(*) FROM packages"), Some(3));
}

#[test]
fn without_a_database_the_repository_is_served_and_the_server_is_not_ready() {
    let dir = tempfile::tempdir().unwrap();
    // A directory stands where the file should be; this stops even root.
    fs::create_dir_all(dir.path().join("relevo.db/x")).unwrap();

    let server = TestServer::start_in(dir, |_| {});
    server.publish(&test_repo());

    assert_eq!(server.get("/repo/metadata/1.root.json").status, 200);
    assert!(server.get("/").text().contains("build 101"));
    let ready = server.get("/readyz");
    assert_eq!(ready.status, 503);
    assert_eq!(ready.json()["problems"][0]["part"], "database");
    assert!(!ready.text().contains(server.dir.path().to_str().unwrap()), "{}", ready.text());

    fs::remove_dir_all(server.database()).unwrap();
    assert_eq!(server.get("/readyz").status, 200);
}

#[test]
fn the_index_is_made_without_anybody_asking() {
    let server = TestServer::start();

    server.publish(&test_repo());

    eventually("the index", || ask(&server.database(), "SELECT count(*) FROM packages") == Some(3));
}

#[test]
fn migrate_makes_tables_and_index() {
    let server = TestServer::start();
    server.publish(&test_repo());
    let dir = server.stop();
    let database = dir.path().join("state/index.db");
    let layer = |repository: &str| Layer {
        repository: Some(dir.path().join(repository)),
        database: Some(database.clone()),
        ..Layer::default()
    };
    let run = |layer: Layer| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(migrate(&layer.settings().unwrap())).unwrap()
    };

    assert!(matches!(run(layer("nothing")), Migrated::TablesOnly { .. }));
    assert_eq!(ask(&database, "SELECT count(*) FROM devices"), Some(0));
    assert_eq!(run(layer("relevo")), Migrated::Indexed { devices: 2 });
    assert_eq!(ask(&database, "SELECT count(*) FROM devices"), Some(2));
    assert_eq!(fs::metadata(&database).unwrap().permissions().mode() & 0o777 & 0o022, 0);
}

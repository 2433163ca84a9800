//! Opening: the file and its folder, whether it is ours, its schema, its first epoch.

use std::fs::{DirBuilder, File};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection, SqlSafeStr};
use tokio::time::Instant;

use super::super::error::{NOT_A_DATABASE, result_code};
use super::{PATIENCE, connection, reading};
use crate::store::row;
use crate::store::{OpenOptions, Random, StoreError};

/// Marks a file as ours: `MGW1` in ASCII, where SQLite keeps the number of the application that a file belongs to.
const APPLICATION: i32 = 0x4d47_5731;

/// The schema, step by step. A step that was released is never changed: the next one changes what it made.
const MIGRATIONS: [(&str, &str); 1] = [("keys, accounts and audit", include_str!("../migrations/0001_keys_accounts_and_audit.sql"))];

/// What is to be found where a store should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Examined {
    /// A store with the schema of this program.
    Store { keys: u64, revision: u64 },
    /// A store with an older schema, which is brought up to date when it is opened.
    Older { schema: i64 },
}

/// Looks at a store, and through the whole of it for damage, without changing anything: its schema stays as it is.
///
/// # Errors
/// Those of opening a store that must be there; [`StoreError::Damaged`] with what SQLite finds.
pub async fn examine(path: &Path) -> Result<Examined, StoreError> {
    prepare(path, OpenOptions { create: false })?;
    let mut connection = connect(reading(path), path).await?;
    let examined = examine_over(&mut connection, path).await;
    connection.close().await.map_err(StoreError::when("close the store"))?;
    examined
}

async fn examine_over(connection: &mut SqliteConnection, path: &Path) -> Result<Examined, StoreError> {
    let schema = schema(connection, path).await?;
    if schema == 0 {
        return Err(StoreError::Missing { path: path.to_owned() });
    }
    let found = sqlx::query_scalar::<_, String>("PRAGMA quick_check(1)").fetch_one(&mut *connection).await;
    let found = found.map_err(StoreError::when("look through the store"))?;
    if found != "ok" {
        return Err(StoreError::Damaged { what: "the database file".to_owned(), problem: found });
    }
    if schema < newest() {
        return Ok(Examined::Older { schema });
    }
    let counts = "SELECT (SELECT coalesce(max(number), 0) FROM keys) AS keys, (SELECT coalesce(max(revision), 0) FROM changes) AS revision";
    let counts = sqlx::query(counts).fetch_one(connection).await.map_err(StoreError::when("count the keys"))?;
    Ok(Examined::Store { keys: row::count(&counts, "keys")?, revision: row::count(&counts, "revision")? })
}

/// Makes the folder and an empty file where they are missing and may be made.
pub(super) fn prepare(path: &Path, options: OpenOptions) -> Result<(), StoreError> {
    match path.metadata() {
        Ok(_) => return Ok(()),
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(StoreError::File { path: path.to_owned(), source: error }),
        Err(_) if !options.create => return Err(StoreError::Missing { path: path.to_owned() }),
        Err(_) => {}
    }
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(|source| StoreError::Folder { path: folder.to_owned(), source })?;
    }
    // With this mode before SQLite sees it: the log and the shared memory beside it get the same. Only a file that is made
    // here is opened here: closing any other would drop the locks that this process may hold on it.
    match File::options().write(true).create_new(true).mode(0o600).open(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(StoreError::File { path: path.to_owned(), source: error }),
        _ => Ok(()),
    }
}

/// Makes sure that the file is ours, with the schema of this program and an epoch. An empty file is no store yet.
pub(super) async fn bring_up_to_date(path: &Path, options: OpenOptions, random: &Random) -> Result<(), StoreError> {
    let mut connection = connect(connection(path), path).await?;
    match schema(&mut connection, path).await? {
        0 if !options.create => return Err(StoreError::Missing { path: path.to_owned() }),
        found if found < newest() => {
            use_write_ahead_log(&mut connection).await?;
            upgrade(&mut connection, path, random).await?;
        }
        _ => {}
    }
    connection.close().await.map_err(StoreError::when("open the store"))
}

async fn connect(options: SqliteConnectOptions, path: &Path) -> Result<SqliteConnection, StoreError> {
    options.connect().await.map_err(|error| match &error {
        sqlx::Error::Database(database) if result_code(&**database) == Some(NOT_A_DATABASE) => {
            StoreError::Foreign { path: path.to_owned() }
        }
        _ => StoreError::when("open the store")(error),
    })
}

/// The number of the newest migration that the file has seen; 0 if it is empty.
async fn schema(connection: &mut SqliteConnection, path: &Path) -> Result<i64, StoreError> {
    let foreign = || StoreError::Foreign { path: path.to_owned() };
    let tables = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM sqlite_schema").fetch_one(&mut *connection).await;
    let tables = tables.map_err(|error| match &error {
        sqlx::Error::Database(database) if result_code(&**database) == Some(NOT_A_DATABASE) => foreign(),
        _ => StoreError::when("open the store")(error),
    })?;
    if tables == 0 {
        return Ok(0);
    }
    let application = sqlx::query_scalar::<_, i32>("PRAGMA application_id").fetch_one(&mut *connection).await;
    if application.map_err(StoreError::when("open the store"))? != APPLICATION {
        return Err(foreign());
    }
    let found = sqlx::query_scalar::<_, i64>("SELECT coalesce(max(version), 0) FROM _sqlx_migrations").fetch_one(connection).await;
    let found = found.map_err(StoreError::when("read the version of the store's schema"))?;
    if found > newest() {
        return Err(StoreError::NewerSchema { path: path.to_owned(), found, known: newest() });
    }
    Ok(found)
}

/// A property of the file that stays. Whoever else opens it at the same moment may be in the way, and for this SQLite does
/// not wait by itself.
async fn use_write_ahead_log(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    let give_up = Instant::now() + PATIENCE;
    loop {
        let switched = sqlx::query("PRAGMA journal_mode = wal").execute(&mut *connection).await;
        match switched.map_err(StoreError::when("switch the store to write-ahead logging")) {
            Err(StoreError::Busy) if Instant::now() < give_up => tokio::time::sleep(Duration::from_millis(10)).await,
            done => return done.map(drop),
        }
    }
}

/// All missing steps and the first epoch in one transaction: there never is half a schema. Looks again under the lock, since
/// another process may have done it meanwhile.
async fn upgrade(connection: &mut SqliteConnection, path: &Path, random: &Random) -> Result<(), StoreError> {
    let failed = StoreError::when;
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.map_err(failed("lock the store"))?;
    if schema(&mut transaction, path).await? < newest() {
        // Not `run`, whose generic argument keeps the future of whoever opens a store from being sent to another thread.
        migrations().run_direct(None, &mut *transaction, false).await.map_err(|error| match error {
            sqlx::migrate::MigrateError::Execute(source) | sqlx::migrate::MigrateError::ExecuteMigration(source, _) => {
                failed("bring the store's schema up to date")(source)
            }
            other => StoreError::Damaged { what: "its schema".to_owned(), problem: other.to_string() },
        })?;
        let mark = sqlx::AssertSqlSafe(format!("PRAGMA application_id = {APPLICATION}"));
        sqlx::query(mark).execute(&mut *transaction).await.map_err(failed("mark the store"))?;
        let first = "INSERT INTO epochs (number, epoch, revision) SELECT 1, ?, 0 WHERE NOT EXISTS (SELECT 1 FROM epochs)";
        let epoch: [u8; 16] = random.bytes()?;
        sqlx::query(first).bind(&epoch[..]).execute(&mut *transaction).await.map_err(failed("begin the store's first epoch"))?;
    }
    transaction.commit().await.map_err(failed("bring the store's schema up to date"))
}

fn migrations() -> Migrator {
    let numbered = MIGRATIONS.into_iter().zip(1..);
    let migration = |((name, sql), version): ((&'static str, &'static str), i64)| {
        Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
    };
    Migrator::with_migrations(numbered.map(migration).collect())
}

const fn newest() -> i64 {
    MIGRATIONS.len() as i64
}

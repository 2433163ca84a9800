//! The store in an SQLite file.
//!
//! Write-ahead logging, and a commit is on the disk before it is answered. Three kinds of connections: one that writes, under
//! a lock of this process and `BEGIN IMMEDIATE` against others, so that no write ever has to be upgraded and fail; a few that
//! read; and one for the marks of nodes, which need not survive a power cut and therefore wait for no disk.
//!
//! A connection on which anything was left open (a failure, a caller that went away in the middle) is not mended but closed,
//! with which SQLite takes back whatever was not committed; the next one who writes opens another.

mod bulk;
mod nodes;
mod open;
mod read;
mod watch;
mod write;

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection};
use tokio::sync::{Mutex, OwnedMutexGuard};

pub use self::open::{Examined, examine};
pub use self::watch::Watch;
pub use self::write::Write;
use super::{OpenOptions, Random, StoreError};

/// How long one who writes waits for another process, and one who reads for a free connection.
const PATIENCE: Duration = Duration::from_secs(5);
const READERS: u32 = 4;

/// The store. Cheap to clone; all clones share the connections.
#[derive(Clone)]
pub struct Store(Arc<Database>);

struct Database {
    path: PathBuf,
    identity: Identity,
    readers: SqlitePool,
    writer: Slot,
    marker: Slot,
}

/// Which file it is, whatever its name.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
}

impl Store {
    /// Opens the store at `path`, brings its schema up to date and begins its first epoch if it has none.
    ///
    /// # Errors
    /// No file and none to be made; a file of something else; a schema newer than this program's; an operating system that
    /// refuses.
    pub async fn open(path: &Path, options: OpenOptions, random: &Random) -> Result<Self, StoreError> {
        open::prepare(path, options)?;
        open::bring_up_to_date(path, options, random).await?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .acquire_timeout(PATIENCE)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_lazy_with(reading(path));
        let writer = Slot::new(connection(path).pragma("cache_size", "-65536"));
        let marker = Slot::new(connection(path).synchronous(SqliteSynchronous::Normal));
        let identity = Identity::of(path).ok_or_else(|| StoreError::Missing { path: path.to_owned() })?;
        Ok(Self(Arc::new(Database { path: path.to_owned(), identity, readers, writer, marker })))
    }

    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Brings what was committed into the one file, as far as nobody else is reading it, and closes every connection, for a
    /// clean stop. What other clones do afterwards opens new ones or fails.
    pub async fn close(&self) {
        self.0.readers.close().await;
        for slot in [&self.0.writer, &self.0.marker] {
            if let Some(mut connection) = slot.connection.lock().await.take() {
                // Nothing is lost if these fail: what was committed is in the log already.
                let _ = sqlx::query("PRAGMA wal_checkpoint(passive)").execute(&mut connection).await;
                let _ = connection.close().await;
            }
        }
    }

    /// Begins to change something: everything until the commit is one transaction.
    ///
    /// # Errors
    /// Another process that does not let go of the store; a store that is gone or was replaced.
    pub async fn write(&self) -> Result<Write, StoreError> {
        self.check_identity()?;
        Write::begin(self.0.writer.take().await?).await
    }

    /// # Errors
    /// What stands at the path now is not what was opened, so that changes would be lost or never seen.
    fn check_identity(&self) -> Result<(), StoreError> {
        if Identity::of(&self.0.path) == Some(self.0.identity) {
            return Ok(());
        }
        Err(StoreError::Replaced { path: self.0.path.clone() })
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("path", &self.0.path).finish_non_exhaustive()
    }
}

impl Identity {
    fn of(path: &Path) -> Option<Self> {
        path.metadata().ok().map(|file| Self { device: file.dev(), inode: file.ino() })
    }
}

/// What all connections have in common.
fn connection(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .busy_timeout(PATIENCE)
        .foreign_keys(true)
        .synchronous(SqliteSynchronous::Full)
        // The log shrinks again after a large import.
        .pragma("journal_size_limit", "67108864")
        .disable_statement_logging()
}

fn reading(path: &Path) -> SqliteConnectOptions {
    // Not opened read-only: a reader may be the first one to need the shared memory beside the file.
    connection(path).pragma("query_only", "on")
}

/// The place of a connection that one at a time may use.
struct Slot {
    options: SqliteConnectOptions,
    connection: Arc<Mutex<Option<SqliteConnection>>>,
}

/// The connection of a slot, taken out. It goes back by [`Held::put_back`] alone; dropped, it is closed.
struct Held {
    slot: OwnedMutexGuard<Option<SqliteConnection>>,
    connection: SqliteConnection,
}

impl Slot {
    fn new(options: SqliteConnectOptions) -> Self {
        Self { options, connection: Arc::default() }
    }

    /// Waits for its turn and, if need be, connects.
    async fn take(&self) -> Result<Held, StoreError> {
        let mut slot = Arc::clone(&self.connection).lock_owned().await;
        let connection = match slot.take() {
            Some(connection) => connection,
            None => self.options.connect().await.map_err(StoreError::when("connect to the store"))?,
        };
        Ok(Held { slot, connection })
    }
}

impl Held {
    fn put_back(mut self) {
        *self.slot = Some(self.connection);
    }
}

//! Noticing that somebody committed, in microseconds and without reading anything.

use std::fmt;

use sqlx::sqlite::SqliteConnection;
use sqlx::{ConnectOptions, Connection};

use super::{Store, reading};
use crate::store::StoreError;

/// Tells whether anything was committed since it was last asked, by whatever process. A hint and nothing more: marks of nodes
/// are commits, too, so whoever is told yes asks for the position.
pub struct Watch {
    store: Store,
    /// Its own, and never written on: SQLite counts the commits of all others for each connection.
    connection: SqliteConnection,
    version: i64,
}

impl Store {
    /// # Errors
    /// A store that does not answer.
    pub async fn watch(&self) -> Result<Watch, StoreError> {
        let mut connection = reading(self.path()).connect().await.map_err(StoreError::when("connect to the store"))?;
        let version = data_version(&mut connection).await?;
        Ok(Watch { store: self.clone(), connection, version })
    }
}

impl Watch {
    /// Whether anything was committed since the last call, or since the watch began. Asked every few milliseconds, this is what
    /// makes changes take effect "immediately"; it costs a few microseconds.
    ///
    /// # Errors
    /// [`StoreError::Replaced`] if the file at the path is no longer the one that is open: nothing that is committed to the
    /// other one would ever be seen here. A store that does not answer.
    pub async fn changed(&mut self) -> Result<bool, StoreError> {
        self.store.check_identity()?;
        let version = data_version(&mut self.connection).await?;
        let changed = version != self.version;
        self.version = version;
        Ok(changed)
    }

    /// Closes it, for a clean stop: the last connection that is closed removes the log beside the store.
    pub async fn close(self) {
        // Nothing is lost if this fails.
        let _ = self.connection.close().await;
    }
}

async fn data_version(connection: &mut SqliteConnection) -> Result<i64, StoreError> {
    sqlx::query_scalar("PRAGMA data_version").fetch_one(connection).await.map_err(StoreError::when("watch the store"))
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("store", &self.store).finish_non_exhaustive()
    }
}

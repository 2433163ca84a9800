//! Running nodes. They are no part of the truth: nothing here takes a revision, and a power cut may lose the last marks.

use std::time::Duration;

use sqlx::AssertSqlSafe;
use sqlx::sqlite::SqliteConnection;

use super::{Held, Store};
use crate::access::time::Timestamp;
use crate::store::row::{self, number};
use crate::store::{NodeEntry, Position, StoreError};

/// How long a node that died is kept on the list behind the end of its lease, for people who look for it.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);

impl Store {
    /// Puts a node on the list, or puts it there anew. Those that died long ago go off it.
    ///
    /// # Errors
    /// A store that does not answer; so for everything below.
    pub async fn register_node(&self, node: &NodeEntry) -> Result<(), StoreError> {
        let mut marker = self.marker().await?;
        let sql = format!("INSERT OR REPLACE INTO nodes ({}) VALUES (?, ?, ?, ?, ?, ?, ?)", row::NODE);
        let insert = sqlx::query(AssertSqlSafe(sql))
            .bind(node.id.clone())
            .bind(node.name.clone())
            .bind(node.version.clone())
            .bind(node.started_at.millis())
            .bind(node.last_seen.millis())
            .bind(number(node.revision))
            .bind(node.lease_ends.map(|end| end.millis()));
        insert.execute(&mut marker.connection).await.map_err(StoreError::when("register this node"))?;
        let forgotten = node.last_seen.minus(KEPT).millis();
        let prune = sqlx::query("DELETE FROM nodes WHERE lease_ends < ?1 AND last_seen < ?1").bind(forgotten);
        prune.execute(&mut marker.connection).await.map_err(StoreError::when("forget nodes that died"))?;
        marker.put_back();
        Ok(())
    }

    /// Says that a node runs and what it enforces: a revision only if it is one of this store, else 0, since a number of another
    /// copy confirms nothing here. False if the node is not on the list: it was forgotten and has to register anew.
    pub async fn mark_node(
        &self,
        id: &str,
        enforced: Option<Position>,
        now: Timestamp,
        lease_ends: Option<Timestamp>,
    ) -> Result<bool, StoreError> {
        let mut marker = self.marker().await?;
        let update = sqlx::query(
            "UPDATE nodes SET revision = coalesce((SELECT revision FROM changes WHERE revision = ? AND stamp = ?), 0), epoch = ?, \
             last_seen = ?, lease_ends = ? WHERE id = ?",
        );
        let update = update
            .bind(enforced.map(|at| number(at.revision)))
            .bind(enforced.map(|at| at.stamp.to_bytes().to_vec()))
            .bind(enforced.map(|at| at.epoch.to_bytes().to_vec()))
            .bind(now.millis())
            .bind(lease_ends.map(|end| end.millis()))
            .bind(id.to_owned());
        let done = update.execute(&mut marker.connection).await.map_err(StoreError::when("mark this node"))?;
        marker.put_back();
        Ok(done.rows_affected() > 0)
    }

    /// Takes a node off the list, as a clean stop does. False if it was not on it.
    pub async fn remove_node(&self, id: &str) -> Result<bool, StoreError> {
        let mut marker = self.marker().await?;
        let removed = remove(&mut marker.connection, id).await?;
        marker.put_back();
        Ok(removed)
    }

    /// Whether a node is on the list.
    pub async fn has_node(&self, id: &str) -> Result<bool, StoreError> {
        let found = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM nodes WHERE id = ?)").bind(id.to_owned());
        found.fetch_one(&self.0.readers).await.map_err(StoreError::when("look for a node"))
    }

    async fn marker(&self) -> Result<Held, StoreError> {
        // Marks in a file that nobody else has open any more would tell nobody anything.
        self.check_identity()?;
        self.0.marker.take().await
    }

    /// All nodes on the list, whether they still run or not, in the order in which they started.
    pub async fn nodes(&self) -> Result<Vec<NodeEntry>, StoreError> {
        let mut connection = self.0.readers.acquire().await.map_err(StoreError::when("list nodes"))?;
        all(&mut connection).await
    }
}

pub(super) async fn all(connection: &mut SqliteConnection) -> Result<Vec<NodeEntry>, StoreError> {
    let sql = format!("SELECT {} FROM nodes ORDER BY started_at, id", row::NODE);
    let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(connection).await;
    rows.map_err(StoreError::when("list nodes"))?.iter().map(row::node).collect()
}

pub(super) async fn remove(connection: &mut SqliteConnection, id: &str) -> Result<bool, StoreError> {
    let done = sqlx::query("DELETE FROM nodes WHERE id = ?").bind(id.to_owned()).execute(connection).await;
    Ok(done.map_err(StoreError::when("remove a node"))?.rows_affected() > 0)
}

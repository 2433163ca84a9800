//! Many keys at once: for imports of millions.

use std::collections::HashSet;

use sqlx::sqlite::{Sqlite, SqliteConnection};
use sqlx::{QueryBuilder, Row};

use super::{Store, Write};
use crate::access::key::KeyId;
use crate::access::secret::Digest;
use crate::store::StoreError;
use crate::store::row::{self, KeyRow, number};

/// Rows in one statement: SQLite takes at most 32766 parameters, a row has 17.
const ROWS: usize = 500;

impl Write {
    /// Adds keys, each under a revision of its own, in their order.
    ///
    /// # Errors
    /// [`StoreError::Taken`] if an id or a digest is there already; the transaction is of no use then.
    pub async fn insert_keys(&mut self, keys: &mut [KeyRow]) -> Result<(), StoreError> {
        for rows in keys.chunks_mut(ROWS) {
            let first = self.revision + 1;
            for (key, revision) in rows.iter_mut().zip(first..) {
                key.revision = revision;
                self.revision = revision;
            }
            let added = insert(rows).build().execute(self.connection()).await;
            added.map_err(StoreError::when("add keys"))?;
            self.log_inserted(rows).await?;
        }
        Ok(())
    }

    async fn log_inserted(&mut self, keys: &[KeyRow]) -> Result<(), StoreError> {
        let mut sql = QueryBuilder::<Sqlite>::new("INSERT INTO changes (revision, kind, subject) ");
        sql.push_values(keys, |mut values, key| {
            values.push_bind(number(key.revision)).push("'key'").push_bind(key.id.to_bytes().to_vec());
        });
        sql.build().execute(self.connection()).await.map(drop).map_err(StoreError::when("take the next revisions"))
    }
}

impl Store {
    /// Which of these digests and ids are there already, tombstones included.
    ///
    /// # Errors
    /// A store that does not answer, or is damaged.
    pub async fn known(&self, digests: &[Digest], ids: &[KeyId]) -> Result<(HashSet<Digest>, HashSet<KeyId>), StoreError> {
        let mut connection = self.0.readers.acquire().await.map_err(StoreError::when("look for keys"))?;
        let digests = found::<32>(&mut connection, "digest", digests.iter().map(|digest| digest.as_bytes().to_vec())).await?;
        let ids = found::<16>(&mut connection, "id", ids.iter().map(|id| id.to_bytes().to_vec())).await?;
        Ok((digests.into_iter().map(Digest::from_bytes).collect(), ids.into_iter().map(KeyId::from_bytes).collect()))
    }
}

fn insert(keys: &[KeyRow]) -> QueryBuilder<Sqlite> {
    let mut sql = QueryBuilder::new(format!("INSERT INTO keys ({}) ", row::KEY));
    sql.push_values(keys, |mut values, key| {
        values
            .push_bind(key.id.to_bytes().to_vec())
            .push_bind(key.digest.as_bytes().to_vec())
            .push_bind(key.account.to_bytes().to_vec())
            .push_bind(key.name.clone())
            .push_bind(key.environment.name())
            .push_bind(key.hint.as_str().to_owned())
            .push_bind(key.permissions.to_string())
            .push_bind(key.ip_restrictions.enabled())
            .push_bind(row::allowed_text(&key.ip_restrictions))
            .push_bind(key.created_at.millis())
            .push_bind(key.created_by.clone())
            .push_bind(key.expires_at.map(|at| at.millis()))
            .push_bind(row::state_name(key.state))
            .push_bind(key.revoked_at.map(|at| at.millis()))
            .push_bind(key.replaces.map(|id| id.to_bytes().to_vec()))
            .push_bind(key.replaced_by.map(|id| id.to_bytes().to_vec()))
            .push_bind(number(key.revision));
    });
    sql
}

async fn found<const N: usize>(
    connection: &mut SqliteConnection,
    column: &'static str,
    values: impl Iterator<Item = Vec<u8>>,
) -> Result<Vec<[u8; N]>, StoreError> {
    let values: Vec<Vec<u8>> = values.collect();
    let mut found = Vec::new();
    for some in values.chunks(ROWS) {
        let mut sql = QueryBuilder::<Sqlite>::new(format!("SELECT {column} FROM keys WHERE {column} IN ("));
        let mut list = sql.separated(", ");
        for value in some {
            list.push_bind(value.clone());
        }
        list.push_unseparated(")");
        let rows = sql.build().fetch_all(&mut *connection).await.map_err(StoreError::when("look for keys"))?;
        // What has another length is none of those that were asked for.
        found.extend(rows.iter().filter_map(|row| <[u8; N]>::try_from(row.try_get::<&[u8], _>(0).ok()?).ok()));
    }
    Ok(found)
}

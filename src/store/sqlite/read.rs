//! Reading: one key, lists, everything, and what changed.

use sqlx::sqlite::{Sqlite, SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, QueryBuilder, Row};

use super::{Store, reading};
use crate::access::key::{AccountId, KeyId, Status};
use crate::access::secret::Digest;
use crate::index::IndexChange;
use crate::store::audit::{Chain, Entry};
use crate::store::row::{self, AccountRow, KeyRow, number};
use crate::store::{Epoch, KeyQuery, Loaded, Position, Stamp, Standing, StoreError};

/// Rows read at a time where everything is read: enough to make the trip to the database's thread cheap.
const PAGE: i64 = 4096;

/// One statement, so that all is of one moment: a row for each epoch, with the rest beside each. `?` is a revision.
const STANDING: &str = "SELECT epoch, coalesce(newest.revision, 0) AS revision, newest.stamp AS stamp, \
                               (SELECT stamp FROM changes WHERE revision = ?) AS asked \
                        FROM epochs LEFT JOIN (SELECT revision, stamp FROM changes ORDER BY revision DESC LIMIT 1) AS newest \
                        ORDER BY number";

impl Store {
    /// The current epoch and the newest revision.
    ///
    /// # Errors
    /// A store that does not answer, or is damaged; so for everything below.
    pub async fn position(&self) -> Result<Position, StoreError> {
        Ok(self.standing(0).await?.position)
    }

    /// Where the store stands, and what it knows of a revision that somebody else knows.
    pub async fn standing(&self, revision: u64) -> Result<Standing, StoreError> {
        let rows = sqlx::query(STANDING).bind(number(revision)).fetch_all(&self.0.readers).await;
        standing_of(&rows.map_err(StoreError::when("read the newest revision"))?, revision)
    }

    /// All epochs, the oldest first; the last one is current.
    pub async fn lineage(&self) -> Result<Vec<Epoch>, StoreError> {
        Ok(self.standing(0).await?.lineage)
    }

    /// The number of keys, tombstones included.
    pub async fn count_keys(&self) -> Result<u64, StoreError> {
        // Rows are numbered from 1 and never deleted: the last number is the count, without a walk over millions.
        let row = sqlx::query("SELECT coalesce(max(number), 0) AS keys FROM keys").fetch_one(&self.0.readers).await;
        row::count(&row.map_err(StoreError::when("count the keys"))?, "keys")
    }

    /// Hands out everything that decisions depend on, as it was at the returned position: accounts first, then keys.
    pub async fn load_all(&self, mut hand_out: impl FnMut(Loaded) + Send) -> Result<Position, StoreError> {
        let mut moment = Moment::begin(self).await?;
        let position = moment.position().await?;
        moment
            .each(row::ACCOUNT, "accounts", |found| row::account(found).map(|account| hand_out(Loaded::Account(account.indexed()))))
            .await?;
        moment.each(row::INDEXED_KEY, "keys", |found| row::indexed_key(found).map(|key| hand_out(Loaded::Key(key)))).await?;
        moment.end().await?;
        Ok(position)
    }

    /// Hands out every key in full, the oldest first, as they were at one moment; `hand_out` may end it with an error of its own.
    pub async fn each_key<E>(&self, mut hand_out: impl FnMut(KeyRow) -> Result<(), E> + Send) -> Result<(), E>
    where
        E: From<StoreError> + Send,
    {
        let mut moment = Moment::begin(self).await?;
        moment.each(row::KEY, "keys", |found| hand_out(row::key(found)?)).await?;
        Ok(moment.end().await?)
    }

    /// What the revisions behind `known` touched, as it is now, in their order and without a gap, each with where it leads to; at
    /// most `limit` of them. They are read together with the revision of `known` itself: what another copy of the store holds
    /// behind that number is never handed out.
    ///
    /// # Errors
    /// [`StoreError::OtherHistory`] if the revision of `known` is not there, or is another one; [`StoreError::Gap`] if the log of
    /// changes does not reach back so far.
    pub async fn changes_after(&self, known: Position, limit: u32) -> Result<Vec<(Position, IndexChange)>, StoreError> {
        let rows = sqlx::query(
            "SELECT changes.revision AS change, stamp, kind, accounts.suspended, coalesce(keys.id, accounts.id, x'') AS id, digest, account, \
                    environment, state, expires_at, permissions, ip_enabled, ip_allowed \
             FROM changes \
             LEFT JOIN keys ON changes.kind = 'key' AND keys.id = changes.subject \
             LEFT JOIN accounts ON changes.kind = 'account' AND accounts.id = changes.subject \
             WHERE changes.revision >= ? ORDER BY changes.revision LIMIT ?",
        );
        let rows = rows.bind(number(known.revision)).bind(i64::from(limit) + 1).fetch_all(&self.0.readers).await;
        let rows = rows.map_err(StoreError::when("read what changed"))?;
        let behind = rows_behind(known, &rows)?;
        let mut changes = Vec::with_capacity(behind.len());
        for (row, due) in behind.iter().take(limit as usize).zip(known.revision + 1..) {
            let reached = reached(row, known.epoch)?;
            if reached.revision != due {
                return Err(StoreError::Gap { asked: known.revision, oldest: reached.revision });
            }
            changes.push((reached, row::change(row)?));
        }
        Ok(changes)
    }

    pub async fn key(&self, id: KeyId) -> Result<Option<KeyRow>, StoreError> {
        let mut connection = self.0.readers.acquire().await.map_err(StoreError::when("read a key"))?;
        find_key(&mut connection, id).await
    }

    /// The key whose secret has this digest.
    pub async fn key_with_digest(&self, digest: &Digest) -> Result<Option<KeyRow>, StoreError> {
        let sql = format!("SELECT {} FROM keys WHERE digest = ?", row::KEY);
        let found = sqlx::query(AssertSqlSafe(sql)).bind(digest.as_bytes().to_vec()).fetch_optional(&self.0.readers).await;
        found.map_err(StoreError::when("read a key"))?.as_ref().map(row::key).transpose()
    }

    /// Keys, the newest first.
    pub async fn keys(&self, query: &KeyQuery) -> Result<Vec<KeyRow>, StoreError> {
        let rows = list(query).build().fetch_all(&self.0.readers).await;
        rows.map_err(StoreError::when("list keys"))?.iter().map(row::key).collect()
    }

    pub async fn account(&self, id: AccountId) -> Result<Option<AccountRow>, StoreError> {
        let mut connection = self.0.readers.acquire().await.map_err(StoreError::when("read an account"))?;
        find_account(&mut connection, id).await
    }

    pub async fn account_named(&self, name: &str) -> Result<Option<AccountRow>, StoreError> {
        let mut connection = self.0.readers.acquire().await.map_err(StoreError::when("read an account"))?;
        find_account_named(&mut connection, name).await
    }

    /// Accounts, the newest first; only such as are older by their ids than `before`.
    pub async fn accounts(&self, before: Option<AccountId>, limit: u32) -> Result<Vec<AccountRow>, StoreError> {
        let sql = format!("SELECT {} FROM accounts WHERE ?1 IS NULL OR id < ?1 ORDER BY id DESC LIMIT ?2", row::ACCOUNT);
        let before = before.map(|id| id.to_bytes().to_vec());
        let rows = sqlx::query(AssertSqlSafe(sql)).bind(before).bind(limit).fetch_all(&self.0.readers).await;
        rows.map_err(StoreError::when("list accounts"))?.iter().map(row::account).collect()
    }

    /// Lines of the audit log behind number `after` of a chain, in their order.
    pub async fn audit_entries(&self, chain: Chain, after: u64, limit: u32) -> Result<Vec<Entry>, StoreError> {
        let sql = format!("SELECT {} FROM audit WHERE chain = ? AND seq > ? ORDER BY seq LIMIT ?", row::ENTRY);
        let rows = sqlx::query(AssertSqlSafe(sql)).bind(row::chain(chain)).bind(number(after)).bind(limit);
        let rows = rows.fetch_all(&self.0.readers).await.map_err(StoreError::when("read the audit log"))?;
        rows.iter().map(|found| row::entry(found, chain)).collect()
    }
}

fn standing_of(rows: &[SqliteRow], asked: u64) -> Result<Standing, StoreError> {
    let without_epochs = || StoreError::Damaged { what: "its epochs".to_owned(), problem: "there is none".to_owned() };
    let current = rows.last().ok_or_else(without_epochs)?;
    let position = Position {
        epoch: row::epoch(current)?,
        revision: row::count(current, "revision")?,
        stamp: row::stamp(current, "stamp")?.unwrap_or(Stamp::BEGINNING),
    };
    let stamp = if asked == 0 { Some(Stamp::BEGINNING) } else { row::stamp(current, "asked")? };
    Ok(Standing { position, lineage: rows.iter().map(row::epoch).collect::<Result<_, _>>()?, stamp })
}

/// The rows of the log of changes behind that of `known`, which must be the first of them; nothing has a row of its own.
fn rows_behind(known: Position, rows: &[SqliteRow]) -> Result<&[SqliteRow], StoreError> {
    if known.revision == 0 {
        return Ok(rows);
    }
    let other = StoreError::OtherHistory { revision: known.revision };
    let Some((first, behind)) = rows.split_first() else { return Err(other) };
    match reached(first, known.epoch)? {
        first if first == known => Ok(behind),
        first if first.revision == known.revision => Err(other),
        first => Err(StoreError::Gap { asked: known.revision, oldest: first.revision }),
    }
}

fn reached(row: &SqliteRow, epoch: Epoch) -> Result<Position, StoreError> {
    Ok(Position { epoch, revision: row::count(row, "change")?, stamp: row::stamp(row, "stamp")?.unwrap_or(Stamp::BEGINNING) })
}

pub(super) async fn find_key(connection: &mut SqliteConnection, id: KeyId) -> Result<Option<KeyRow>, StoreError> {
    let sql = format!("SELECT {} FROM keys WHERE id = ?", row::KEY);
    let found = sqlx::query(AssertSqlSafe(sql)).bind(id.to_bytes().to_vec()).fetch_optional(connection).await;
    found.map_err(StoreError::when("read a key"))?.as_ref().map(row::key).transpose()
}

pub(super) async fn find_account(connection: &mut SqliteConnection, id: AccountId) -> Result<Option<AccountRow>, StoreError> {
    let sql = format!("SELECT {} FROM accounts WHERE id = ?", row::ACCOUNT);
    let found = sqlx::query(AssertSqlSafe(sql)).bind(id.to_bytes().to_vec()).fetch_optional(connection).await;
    found.map_err(StoreError::when("read an account"))?.as_ref().map(row::account).transpose()
}

pub(super) async fn find_account_named(connection: &mut SqliteConnection, name: &str) -> Result<Option<AccountRow>, StoreError> {
    let sql = format!("SELECT {} FROM accounts WHERE name = ?", row::ACCOUNT);
    let found = sqlx::query(AssertSqlSafe(sql)).bind(name.to_owned()).fetch_optional(connection).await;
    found.map_err(StoreError::when("read an account"))?.as_ref().map(row::account).transpose()
}

fn list(query: &KeyQuery) -> QueryBuilder<Sqlite> {
    let mut sql = QueryBuilder::new(format!("SELECT {} FROM keys WHERE true", row::KEY));
    if let Some(account) = query.account {
        sql.push(" AND account = ").push_bind(account.to_bytes().to_vec());
    }
    if let Some(environment) = query.environment {
        sql.push(" AND environment = ").push_bind(environment.name());
    }
    if let Some(before) = query.before {
        sql.push(" AND id < ").push_bind(before.to_bytes().to_vec());
    }
    if let Some(status) = query.status {
        push_status(&mut sql, status, query);
    }
    if let Some(text) = query.text.as_deref().filter(|text| !text.is_empty()) {
        push_search(&mut sql, text);
    }
    sql.push(" ORDER BY id DESC LIMIT ").push_bind(query.limit);
    sql
}

/// The same rule as [`crate::access::key::LifeState::status`], so that a list can be filtered where it is.
fn push_status(sql: &mut QueryBuilder<Sqlite>, status: Status, query: &KeyQuery) {
    let now = query.now.millis();
    match status {
        Status::Revoked => sql.push(" AND state = 'revoked'"),
        Status::Expired => sql.push(" AND state <> 'revoked' AND expires_at <= ").push_bind(now),
        Status::Active => sql.push(" AND state = 'active' AND coalesce(expires_at > ").push_bind(now).push(", true)"),
        Status::Paused => sql.push(" AND state = 'paused' AND coalesce(expires_at > ").push_bind(now).push(", true)"),
    };
}

fn push_search(sql: &mut QueryBuilder<Sqlite>, text: &str) {
    let pattern = format!("%{}%", text.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_"));
    sql.push(" AND (name LIKE ").push_bind(pattern.clone()).push(" ESCAPE '\\' OR hint LIKE ").push_bind(pattern).push(" ESCAPE '\\'");
    if let Some((first, last)) = ids_beginning_with(text) {
        sql.push(" OR id BETWEEN ").push_bind(first.to_bytes().to_vec()).push(" AND ").push_bind(last.to_bytes().to_vec());
    }
    sql.push(")");
}

/// The first and the last id whose written form begins so.
fn ids_beginning_with(text: &str) -> Option<(KeyId, KeyId)> {
    let shown = text.strip_prefix(KeyId::PREFIX).filter(|shown| !shown.is_empty())?;
    let missing = (KeyId::LENGTH - KeyId::PREFIX.len()).checked_sub(shown.len())?;
    let filled = |with: &str| KeyId::parse(&format!("{text}{}", with.repeat(missing))).ok();
    Some((filled("0")?, filled("z")?))
}

/// A connection of its own on which everything is seen as it was at one moment, however long it takes.
struct Moment(SqliteConnection);

impl Moment {
    async fn begin(store: &Store) -> Result<Self, StoreError> {
        let options = reading(store.path()).row_buffer_size(PAGE as usize);
        let mut connection = options.connect().await.map_err(StoreError::when("connect to the store"))?;
        sqlx::query("BEGIN").execute(&mut connection).await.map_err(StoreError::when("begin to read"))?;
        Ok(Self(connection))
    }

    async fn position(&mut self) -> Result<Position, StoreError> {
        let rows = sqlx::query(STANDING).bind(0_i64).fetch_all(&mut self.0).await;
        Ok(standing_of(&rows.map_err(StoreError::when("read the newest revision"))?, 0)?.position)
    }

    /// Shows every row of a table, in the order in which they were inserted.
    async fn each<E: From<StoreError>>(
        &mut self,
        columns: &'static str,
        table: &'static str,
        mut show: impl FnMut(&SqliteRow) -> Result<(), E>,
    ) -> Result<(), E> {
        let sql = format!("SELECT number, {columns} FROM {table} WHERE number > ? ORDER BY number LIMIT {PAGE}");
        let mut last = 0_i64;
        loop {
            let page = sqlx::query(AssertSqlSafe(sql.as_str())).bind(last).fetch_all(&mut self.0).await;
            let page = page.map_err(StoreError::when("read everything"))?;
            let Some(newest) = page.last() else { return Ok(()) };
            last = newest.try_get("number").map_err(StoreError::when("read everything"))?;
            page.iter().try_for_each(&mut show)?;
        }
    }

    async fn end(self) -> Result<(), StoreError> {
        self.0.close().await.map_err(StoreError::when("close a connection"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_id_lies_between_the_first_and_last_with_each_of_its_beginnings(bytes: [u8; 16], length in 1_usize..=26) {
            let id = KeyId::from_bytes(bytes);
            let text = id.to_string();
            let (first, last) = ids_beginning_with(&text[..4 + length]).unwrap();
            prop_assert!(first <= id && id <= last);
            prop_assert!(first.to_string().starts_with(&text[..4 + length]));
            prop_assert!(last.to_string().starts_with(&text[..4 + length]));
        }

        #[test]
        fn what_begins_no_id_panics_nobody(text in "key_.{0,30}") {
            let _ = ids_beginning_with(&text);
        }
    }
}

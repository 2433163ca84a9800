//! Writing: one transaction, its revisions and its lines of the audit log.

use std::fmt;

use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Sqlite};

use super::{Held, nodes, read};
use crate::access::key::{AccountId, KeyId};
use crate::store::audit::{BEGINNING, Entry, Line};
use crate::store::row::{self, AccountRow, KeyRow, number};
use crate::store::{Epoch, NodeEntry, StoreError};

/// A transaction that writes. Nobody else writes meanwhile, in this process or another. Dropped without a commit it leaves
/// nothing behind.
pub struct Write {
    pub(super) held: Held,
    /// The newest revision, those of this transaction included.
    pub(super) revision: u64,
}

impl Write {
    pub(super) async fn begin(mut held: Held) -> Result<Self, StoreError> {
        let connection = &mut held.connection;
        sqlx::query("BEGIN IMMEDIATE").execute(&mut *connection).await.map_err(StoreError::when("lock the store for a change"))?;
        let newest = sqlx::query("SELECT coalesce(max(revision), 0) AS revision FROM changes").fetch_one(connection).await;
        let revision = row::count(&newest.map_err(StoreError::when("read the newest revision"))?, "revision")?;
        Ok(Self { held, revision })
    }

    /// The newest revision, those that this transaction took included.
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    /// Makes everything true at once and returns the newest revision. It is on the disk then.
    ///
    /// # Errors
    /// Nothing of it is true then, as far as anybody can tell: only after a failure of the disk may it turn out otherwise.
    pub async fn commit(mut self) -> Result<u64, StoreError> {
        sqlx::query("COMMIT").execute(self.connection()).await.map_err(StoreError::when("commit a change"))?;
        self.held.put_back();
        Ok(self.revision)
    }

    /// Takes everything back. Dropping does the same, but costs a new connection.
    pub async fn abandon(mut self) -> Result<(), StoreError> {
        sqlx::query("ROLLBACK").execute(self.connection()).await.map_err(StoreError::when("take a change back"))?;
        self.held.put_back();
        Ok(())
    }

    /// # Errors
    /// A store that does not answer, or is damaged; so for everything below.
    pub async fn key(&mut self, id: KeyId) -> Result<Option<KeyRow>, StoreError> {
        read::find_key(self.connection(), id).await
    }

    pub async fn account(&mut self, id: AccountId) -> Result<Option<AccountRow>, StoreError> {
        read::find_account(self.connection(), id).await
    }

    pub async fn account_named(&mut self, name: &str) -> Result<Option<AccountRow>, StoreError> {
        read::find_account_named(self.connection(), name).await
    }

    pub async fn nodes(&mut self) -> Result<Vec<NodeEntry>, StoreError> {
        nodes::all(self.connection()).await
    }

    /// Adds a key under the next revision, which is written into `key`.
    ///
    /// # Errors
    /// [`StoreError::Taken`] if its id or its digest is there already.
    pub async fn insert_key(&mut self, key: &mut KeyRow) -> Result<(), StoreError> {
        self.insert_keys(std::slice::from_mut(key)).await
    }

    /// Writes what may change of a key and alters who may pass: state, expiry, IP restrictions, successor. Takes the next
    /// revision, which is written into `key`.
    pub async fn update_key(&mut self, key: &mut KeyRow) -> Result<(), StoreError> {
        key.revision = self.take_revision("key", &key.id.to_bytes()).await?;
        let update = sqlx::query(
            "UPDATE keys SET state = ?, revoked_at = ?, expires_at = ?, ip_enabled = ?, ip_allowed = ?, replaced_by = ?, revision = ? \
             WHERE id = ?",
        );
        let update = update
            .bind(row::state_name(key.state))
            .bind(key.revoked_at.map(|at| at.millis()))
            .bind(key.expires_at.map(|at| at.millis()))
            .bind(key.ip_restrictions.enabled())
            .bind(row::allowed_text(&key.ip_restrictions))
            .bind(key.replaced_by.map(|id| id.to_bytes().to_vec()))
            .bind(number(key.revision))
            .bind(key.id.to_bytes().to_vec());
        self.execute_on_one(update, "change a key", "key", &key.id).await
    }

    /// Gives a key another name. No decision depends on it, so it takes no revision.
    pub async fn rename_key(&mut self, id: KeyId, name: &str) -> Result<(), StoreError> {
        let update = sqlx::query("UPDATE keys SET name = ? WHERE id = ?").bind(name.to_owned()).bind(id.to_bytes().to_vec());
        self.execute_on_one(update, "rename a key", "key", &id).await
    }

    /// Adds an account. Nobody is suspended by that, so it takes no revision.
    ///
    /// # Errors
    /// [`StoreError::Taken`] if its id or its name is there already.
    pub async fn insert_account(&mut self, account: &AccountRow) -> Result<(), StoreError> {
        let insert = sqlx::query("INSERT INTO accounts (id, name, suspended, created_at, created_by) VALUES (?, ?, ?, ?, ?)");
        let insert = insert
            .bind(account.id.to_bytes().to_vec())
            .bind(account.name.clone())
            .bind(account.suspended)
            .bind(account.created_at.millis())
            .bind(account.created_by.clone());
        insert.execute(self.connection()).await.map(drop).map_err(StoreError::when("add an account"))
    }

    /// Suspends an account or lets it pass again. Takes the next revision.
    pub async fn set_suspended(&mut self, id: AccountId, suspended: bool) -> Result<(), StoreError> {
        self.take_revision("account", &id.to_bytes()).await?;
        let update = sqlx::query("UPDATE accounts SET suspended = ? WHERE id = ?").bind(suspended).bind(id.to_bytes().to_vec());
        self.execute_on_one(update, "suspend an account", "account", &id).await
    }

    /// Begins a new epoch: nodes that know another history of this store load everything anew. For that, the epochs of whatever
    /// nodes on the list have in service go into the lineage before it, and so do those `known` otherwise.
    pub async fn begin_epoch(&mut self, epoch: Epoch, known: &[Epoch]) -> Result<(), StoreError> {
        let begin = StoreError::when;
        let listed = "INSERT OR IGNORE INTO epochs (epoch, revision) SELECT DISTINCT epoch, ? FROM nodes WHERE epoch IS NOT NULL";
        let revision = number(self.revision);
        sqlx::query(listed).bind(revision).execute(self.connection()).await.map_err(begin("settle the epochs of nodes"))?;
        for known in known {
            let insert = sqlx::query("INSERT OR IGNORE INTO epochs (epoch, revision) VALUES (?, ?)");
            let insert = insert.bind(known.to_bytes().to_vec()).bind(revision);
            insert.execute(self.connection()).await.map_err(begin("settle an epoch"))?;
        }
        let insert = sqlx::query("INSERT INTO epochs (epoch, revision) VALUES (?, ?)");
        let insert = insert.bind(epoch.to_bytes().to_vec()).bind(revision);
        insert.execute(self.connection()).await.map(drop).map_err(begin("begin an epoch"))
    }

    /// Takes a node off the list, as part of a change that is in the audit log.
    pub async fn remove_node(&mut self, id: &str) -> Result<bool, StoreError> {
        nodes::remove(self.connection(), id).await
    }

    /// Writes a line behind the last one of its chain.
    pub async fn audit(&mut self, line: &Line) -> Result<(), StoreError> {
        let sql = format!("SELECT {} FROM audit WHERE chain = ? ORDER BY seq DESC LIMIT 1", row::ENTRY);
        let last = sqlx::query(AssertSqlSafe(sql)).bind(row::chain(line.chain)).fetch_optional(self.connection()).await;
        let last = last.map_err(StoreError::when("read the audit log"))?;
        let last = last.map(|found| row::entry(&found, line.chain)).transpose()?;
        let (seq, hash) = last.map_or((0, BEGINNING), |last| (last.seq, last.hash));
        let entry = Entry::behind(seq, hash, line);
        let sql = format!("INSERT INTO audit (chain, {}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row::ENTRY);
        let insert = sqlx::query(AssertSqlSafe(sql))
            .bind(row::chain(entry.chain))
            .bind(number(entry.seq))
            .bind(entry.at.millis())
            .bind(entry.actor_kind)
            .bind(entry.actor)
            .bind(entry.source)
            .bind(entry.action)
            .bind(entry.subject)
            .bind(entry.refused)
            .bind(entry.before)
            .bind(entry.after)
            .bind(entry.previous.to_vec())
            .bind(entry.hash.to_vec());
        insert.execute(self.connection()).await.map(drop).map_err(StoreError::when("write the audit log"))
    }

    pub(super) const fn connection(&mut self) -> &mut SqliteConnection {
        &mut self.held.connection
    }

    async fn take_revision(&mut self, kind: &'static str, subject: &[u8; 16]) -> Result<u64, StoreError> {
        let next = self.revision + 1;
        let insert = sqlx::query("INSERT INTO changes (revision, kind, subject) VALUES (?, ?, ?)");
        let insert = insert.bind(number(next)).bind(kind).bind(subject.to_vec());
        insert.execute(self.connection()).await.map_err(StoreError::when("take the next revision"))?;
        self.revision = next;
        Ok(next)
    }

    /// Runs an update that must touch one row: whoever updates has read the row in this transaction.
    async fn execute_on_one(
        &mut self,
        update: sqlx::query::Query<'_, Sqlite, <Sqlite as sqlx::Database>::Arguments>,
        doing: &'static str,
        kind: &str,
        id: &impl fmt::Display,
    ) -> Result<(), StoreError> {
        let done = update.execute(self.connection()).await.map_err(StoreError::when(doing))?;
        if done.rows_affected() == 1 {
            return Ok(());
        }
        Err(StoreError::Damaged { what: format!("{kind} {id}"), problem: "it is gone".to_owned() })
    }
}

impl fmt::Debug for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Write").field("revision", &self.revision).finish_non_exhaustive()
    }
}

//! Stored rows and typed values: the only place where the one becomes the other.
//!
//! Whatever a row holds that this program would not have written is [`StoreError::Damaged`] with the name of the key or
//! account, never a default: a restriction that does not parse must not become "from everywhere".

use sqlx::Row;
use sqlx::sqlite::{Sqlite, SqliteRow};

use super::audit::{Chain, Entry};
use super::{Epoch, NodeEntry, Stamp, StoreError};
use crate::access::address::{IpRestrictions, IpRule};
use crate::access::key::{AccountId, Environment, KeyId, LifeState, Status};
use crate::access::permission::{PermissionName, Permissions};
use crate::access::secret::{Digest, Hint};
use crate::access::time::Timestamp;
use crate::index::{IndexChange, IndexedAccount, IndexedKey};

/// A key with everything that the store holds of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyRow {
    pub id: KeyId,
    pub digest: Digest,
    pub account: AccountId,
    pub name: String,
    pub environment: Environment,
    pub hint: Hint,
    pub permissions: Permissions,
    pub ip_restrictions: IpRestrictions,
    pub created_at: Timestamp,
    pub created_by: String,
    pub expires_at: Option<Timestamp>,
    pub state: LifeState,
    pub revoked_at: Option<Timestamp>,
    /// The key that this one was made from by rotation.
    pub replaces: Option<KeyId>,
    /// The key that rotation made from this one.
    pub replaced_by: Option<KeyId>,
    /// Of the newest change that a decision depends on; set by the store when it writes the row.
    pub revision: u64,
}

impl KeyRow {
    pub fn status(&self, now: Timestamp) -> Status {
        self.state.status(self.expires_at, now)
    }

    /// What a decision needs of it.
    pub fn indexed(&self) -> IndexedKey {
        IndexedKey {
            digest: self.digest,
            id: self.id,
            account: self.account,
            environment: self.environment,
            state: self.state,
            expires_at: self.expires_at,
            permissions: self.permissions.clone(),
            addresses: self.ip_restrictions.rule(),
        }
    }
}

/// An account likewise.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AccountRow {
    pub id: AccountId,
    /// Unique.
    pub name: String,
    pub suspended: bool,
    pub created_at: Timestamp,
    pub created_by: String,
}

impl AccountRow {
    pub const fn indexed(&self) -> IndexedAccount {
        IndexedAccount { id: self.id, suspended: self.suspended }
    }
}

/// The columns that [`key`] reads.
pub(super) const KEY: &str = "id, digest, account, name, environment, hint, permissions, ip_enabled, ip_allowed, created_at, \
                              created_by, expires_at, state, revoked_at, replaces, replaced_by, revision";

/// The columns that [`indexed_key`] reads.
pub(super) const INDEXED_KEY: &str = "id, digest, account, environment, state, expires_at, permissions, ip_enabled, ip_allowed";

/// The columns that [`account`] reads.
pub(super) const ACCOUNT: &str = "id, name, suspended, created_at, created_by";

/// The columns that [`node`] reads.
pub(super) const NODE: &str = "id, name, version, started_at, last_seen, revision, lease_ends";

/// The columns that [`entry`] reads.
pub(super) const ENTRY: &str = "seq, at, actor_kind, actor, source, action, subject, refused, before, after, previous, hash";

pub(super) fn key(row: &SqliteRow) -> Result<KeyRow, StoreError> {
    let fields = Fields::of_key(row)?;
    let read = || -> Result<KeyRow, String> {
        Ok(KeyRow {
            id: KeyId::from_bytes(fields.bytes("id")?),
            digest: Digest::from_bytes(fields.bytes("digest")?),
            account: AccountId::from_bytes(fields.bytes("account")?),
            name: fields.value("name")?,
            environment: fields.value::<String>("environment")?.parse()?,
            hint: Hint::parse(fields.value("hint")?)?,
            permissions: permissions_from(fields.value("permissions")?)?,
            ip_restrictions: fields.ip_restrictions()?,
            created_at: fields.time("created_at")?,
            created_by: fields.value("created_by")?,
            expires_at: fields.optional_time("expires_at")?,
            state: state_from(fields.value("state")?)?,
            revoked_at: fields.optional_time("revoked_at")?,
            replaces: fields.optional_key("replaces")?,
            replaced_by: fields.optional_key("replaced_by")?,
            revision: fields.count("revision")?,
        })
    };
    read().map_err(|problem| fields.damaged(problem))
}

/// The part of a key that a decision needs.
pub(super) fn indexed_key(row: &SqliteRow) -> Result<IndexedKey, StoreError> {
    let fields = Fields::of_key(row)?;
    let read = || -> Result<IndexedKey, String> {
        Ok(IndexedKey {
            digest: Digest::from_bytes(fields.bytes("digest")?),
            id: KeyId::from_bytes(fields.bytes("id")?),
            account: AccountId::from_bytes(fields.bytes("account")?),
            environment: fields.value::<&str>("environment")?.parse()?,
            state: state_from(fields.value("state")?)?,
            expires_at: fields.optional_time("expires_at")?,
            permissions: permissions_from(fields.value("permissions")?)?,
            addresses: fields.ip_restrictions()?.rule(),
        })
    };
    read().map_err(|problem| fields.damaged(problem))
}

pub(super) fn account(row: &SqliteRow) -> Result<AccountRow, StoreError> {
    let id = Fields { row, what: "an account".to_owned() }.bytes("id").map(AccountId::from_bytes);
    let what = id.as_ref().map_or_else(|_| "an account".to_owned(), |id| format!("account {id}"));
    let fields = Fields { row, what };
    let read = || -> Result<AccountRow, String> {
        Ok(AccountRow {
            id: id.clone()?,
            name: fields.value("name")?,
            suspended: fields.value("suspended")?,
            created_at: fields.time("created_at")?,
            created_by: fields.value("created_by")?,
        })
    };
    read().map_err(|problem| fields.damaged(problem))
}

pub(super) fn node(row: &SqliteRow) -> Result<NodeEntry, StoreError> {
    let fields = Fields { row, what: "a node".to_owned() };
    let read = || -> Result<NodeEntry, String> {
        Ok(NodeEntry {
            id: fields.value("id")?,
            name: fields.value("name")?,
            version: fields.value("version")?,
            started_at: fields.time("started_at")?,
            last_seen: fields.time("last_seen")?,
            revision: fields.count("revision")?,
            lease_ends: fields.optional_time("lease_ends")?,
        })
    };
    read().map_err(|problem| fields.damaged(problem))
}

pub(super) fn entry(row: &SqliteRow, chain: Chain) -> Result<Entry, StoreError> {
    let fields = Fields { row, what: format!("the audit log of {chain:?}") };
    let read = || -> Result<Entry, String> {
        Ok(Entry {
            chain,
            seq: fields.count("seq")?,
            at: fields.time("at")?,
            actor_kind: fields.value("actor_kind")?,
            actor: fields.value("actor")?,
            source: fields.value("source")?,
            action: fields.value("action")?,
            subject: fields.value("subject")?,
            refused: fields.value("refused")?,
            before: fields.value("before")?,
            after: fields.value("after")?,
            previous: fields.bytes("previous")?,
            hash: fields.bytes("hash")?,
        })
    };
    read().map_err(|problem| fields.damaged(problem))
}

pub(super) fn epoch(row: &SqliteRow) -> Result<Epoch, StoreError> {
    let fields = Fields { row, what: "its epochs".to_owned() };
    fields.bytes("epoch").map(Epoch::from_bytes).map_err(|problem| fields.damaged(problem))
}

/// A stamp of the log of changes; none if there is no such row.
pub(super) fn stamp(row: &SqliteRow, column: &str) -> Result<Option<Stamp>, StoreError> {
    let fields = Fields { row, what: "its log of changes".to_owned() };
    let bytes = fields.value::<Option<&[u8]>>(column).map_err(|problem| fields.damaged(problem))?;
    let stamp = |bytes: &[u8]| bytes.try_into().map(Stamp::from_bytes).map_err(|_| fields.damaged(format!("{column}: not 8 bytes long")));
    bytes.map(stamp).transpose()
}

/// What a row of the log of changes, with what it touched beside it, leaves behind.
pub(super) fn change(row: &SqliteRow) -> Result<IndexChange, StoreError> {
    let fields = Fields { row, what: "its log of changes".to_owned() };
    let gone = || fields.damaged("a revision touched what is not there".to_owned());
    match fields.value("kind").map_err(|problem| fields.damaged(problem))? {
        "key" => fields.bytes::<16>("id").map_err(|_| gone()).and_then(|_| indexed_key(row)).map(IndexChange::Key),
        _ => {
            let read = || Ok(IndexedAccount { id: AccountId::from_bytes(fields.bytes("id")?), suspended: fields.value("suspended")? });
            read().map(IndexChange::Account).map_err(|_: String| gone())
        }
    }
}

/// How a chain is named in the audit log.
pub(super) fn chain(chain: Chain) -> Vec<u8> {
    match chain {
        Chain::Operator => Vec::new(),
        Chain::Account(id) => id.to_bytes().to_vec(),
    }
}

/// A number that cannot be negative.
pub(super) fn count(row: &SqliteRow, column: &str) -> Result<u64, StoreError> {
    let fields = Fields { row, what: "its revisions".to_owned() };
    fields.count(column).map_err(|problem| fields.damaged(problem))
}

pub(super) const fn state_name(state: LifeState) -> &'static str {
    match state {
        LifeState::Active => "active",
        LifeState::Paused => "paused",
        LifeState::Revoked => "revoked",
    }
}

pub(super) fn allowed_text(restrictions: &IpRestrictions) -> String {
    restrictions.allowed().iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

/// As SQLite counts. What does not fit, which would take longer than the sun lasts, stays the largest.
pub(super) fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn state_from(text: &str) -> Result<LifeState, String> {
    match text {
        "active" => Ok(LifeState::Active),
        "paused" => Ok(LifeState::Paused),
        "revoked" => Ok(LifeState::Revoked),
        _ => Err(format!("`{}` is no state", text.escape_debug())),
    }
}

fn permissions_from(text: &str) -> Result<Permissions, String> {
    if text == "full" {
        return Ok(Permissions::Full);
    }
    let names = text.split(' ').map(PermissionName::parse).collect::<Result<Vec<_>, _>>()?;
    Permissions::list(names).ok_or_else(|| "no permissions".to_owned())
}

/// The columns of one row, and what to call it when they cannot be read.
struct Fields<'r> {
    row: &'r SqliteRow,
    what: String,
}

impl<'r> Fields<'r> {
    fn of_key(row: &'r SqliteRow) -> Result<Self, StoreError> {
        let unnamed = Self { row, what: "a key".to_owned() };
        let id = unnamed.bytes("id").map_err(|problem| unnamed.damaged(problem))?;
        Ok(Self { row, what: format!("key {}", KeyId::from_bytes(id)) })
    }

    fn damaged(&self, problem: String) -> StoreError {
        StoreError::Damaged { what: self.what.clone(), problem }
    }

    fn value<T>(&self, column: &str) -> Result<T, String>
    where
        T: sqlx::Decode<'r, Sqlite> + sqlx::Type<Sqlite>,
    {
        self.row.try_get(column).map_err(|error| format!("{column}: {error}"))
    }

    fn bytes<const N: usize>(&self, column: &str) -> Result<[u8; N], String> {
        self.value::<&[u8]>(column)?.try_into().map_err(|_| format!("{column}: not {N} bytes long"))
    }

    fn optional_key(&self, column: &str) -> Result<Option<KeyId>, String> {
        let Some(bytes) = self.value::<Option<&[u8]>>(column)? else { return Ok(None) };
        bytes.try_into().map(|bytes| Some(KeyId::from_bytes(bytes))).map_err(|_| format!("{column}: not 16 bytes long"))
    }

    fn time(&self, column: &str) -> Result<Timestamp, String> {
        time_from(column, self.value(column)?)
    }

    fn optional_time(&self, column: &str) -> Result<Option<Timestamp>, String> {
        self.value::<Option<i64>>(column)?.map(|millis| time_from(column, millis)).transpose()
    }

    fn count(&self, column: &str) -> Result<u64, String> {
        u64::try_from(self.value::<i64>(column)?).map_err(|_| format!("{column}: below zero"))
    }

    fn ip_restrictions(&self) -> Result<IpRestrictions, String> {
        let allowed = self.value::<&str>("ip_allowed")?.split_terminator(' ').map(IpRule::parse).collect::<Result<Vec<_>, _>>()?;
        Ok(IpRestrictions::stored(self.value("ip_enabled")?, allowed))
    }
}

fn time_from(column: &str, millis: i64) -> Result<Timestamp, String> {
    let time = Timestamp::from_millis(millis);
    (time.millis() == millis).then_some(time).ok_or_else(|| format!("{column}: {millis} is no time"))
}

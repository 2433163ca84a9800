//! The wire types: what the admin API answers and `--json` prints. Names and order of the fields are part of the contract.

use serde::{Deserialize, Serialize, Serializer};

use crate::access::address::IpRestrictions;
use crate::access::key::{AccountId, Environment, KeyId, Status};
use crate::access::permission::Permissions;
use crate::access::secret::{GeneratedSecret, Hint};
use crate::access::time::Timestamp;
use crate::store::{AccountRow, KeyRow, NodeEntry};

/// A key, without its digest.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct KeyView {
    pub id: KeyId,
    pub account: AccountId,
    pub name: String,
    #[serde(serialize_with = "text")]
    pub environment: Environment,
    #[serde(serialize_with = "text")]
    pub hint: Hint,
    /// At the moment of the answer.
    #[serde(serialize_with = "text")]
    pub status: Status,
    #[serde(serialize_with = "permissions")]
    pub permissions: Permissions,
    pub ip_restrictions: IpRestrictionsView,
    pub created_at: Timestamp,
    pub created_by: String,
    pub expires_at: Option<Timestamp>,
    /// Not known in this release.
    pub last_used: Option<Timestamp>,
    pub replaces: Option<KeyId>,
    pub replaced_by: Option<KeyId>,
}

/// IP restrictions as they are shown, and as they are asked for.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with `enabled` and `allowed`")]
pub struct IpRestrictionsView {
    pub enabled: bool,
    pub allowed: Vec<String>,
}

/// The answer to create: the only time, but for [`RotatedKey`], that a secret is shown.
#[derive(Debug, Serialize)]
pub struct CreatedKey {
    #[serde(flatten)]
    pub key: KeyView,
    #[serde(serialize_with = "reveal")]
    pub secret: GeneratedSecret,
    pub confirmation: Confirmation,
}

/// The answer to rotate: the new key, its secret, and what became of the old one.
#[derive(Debug, Serialize)]
pub struct RotatedKey {
    #[serde(flatten)]
    pub key: KeyView,
    #[serde(serialize_with = "reveal")]
    pub secret: GeneratedSecret,
    pub old: KeyView,
    pub confirmation: Confirmation,
}

/// The answer to a change of name or IP restrictions.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct EditedKey {
    #[serde(flatten)]
    pub key: KeyView,
    pub confirmation: Confirmation,
}

/// The answer to pause, resume and revoke.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ChangedKey {
    pub key: KeyView,
    pub confirmation: Confirmation,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct AccountView {
    pub id: AccountId,
    pub name: String,
    pub suspended: bool,
    pub created_at: Timestamp,
    pub created_by: String,
}

/// The answer to suspend and resume.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ChangedAccount {
    pub account: AccountView,
    pub confirmation: Confirmation,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct NodeView {
    pub id: String,
    pub name: String,
    pub version: String,
    pub started_at: Timestamp,
    pub last_seen: Timestamp,
    /// The revision that it enforces.
    pub revision: u64,
    /// Until when it may let requests pass without hearing from the store; null for ever.
    pub lease_ends: Option<Timestamp>,
    /// Whether it marked itself within the last six seconds.
    pub live: bool,
}

/// The answer to an import.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Imported {
    pub keys: u64,
    pub confirmation: Confirmation,
}

/// A part of a list, and where the next one begins.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Null at the end.
    pub next_cursor: Option<String>,
}

/// Which nodes enforce a change, and how soon they did.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Confirmation {
    /// Those that run, and those that may still let requests pass although nobody hears from them.
    pub nodes: usize,
    pub confirmed: usize,
    /// From the commit to the last confirmation that came; null if none did.
    pub slowest_ms: Option<u64>,
    /// Those that did not confirm.
    pub silent: Vec<SilentNode>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct SilentNode {
    pub node: String,
    pub name: String,
    pub last_seen: Timestamp,
    /// When it stops to let requests pass by itself; null for never.
    pub lease_ends: Option<Timestamp>,
}

impl KeyView {
    pub fn of(row: &KeyRow, now: Timestamp) -> Self {
        Self {
            id: row.id,
            account: row.account,
            name: row.name.clone(),
            environment: row.environment,
            hint: row.hint.clone(),
            status: row.status(now),
            permissions: row.permissions.clone(),
            ip_restrictions: IpRestrictionsView::of(&row.ip_restrictions),
            created_at: row.created_at,
            created_by: row.created_by.clone(),
            expires_at: row.expires_at,
            last_used: None,
            replaces: row.replaces,
            replaced_by: row.replaced_by,
        }
    }
}

impl IpRestrictionsView {
    pub fn of(restrictions: &IpRestrictions) -> Self {
        Self { enabled: restrictions.enabled(), allowed: restrictions.allowed().iter().map(ToString::to_string).collect() }
    }
}

impl AccountView {
    pub fn of(row: AccountRow) -> Self {
        Self { id: row.id, name: row.name, suspended: row.suspended, created_at: row.created_at, created_by: row.created_by }
    }
}

impl NodeView {
    pub fn of(node: NodeEntry, now: Timestamp) -> Self {
        let live = node.is_live(now);
        let NodeEntry { id, name, version, started_at, last_seen, revision, lease_ends } = node;
        Self { id, name, version, started_at, last_seen, revision, lease_ends, live }
    }
}

impl SilentNode {
    pub fn of(node: NodeEntry) -> Self {
        Self { node: node.id, name: node.name, last_seen: node.last_seen, lease_ends: node.lease_ends }
    }
}

/// `"full"`, or a list of names.
pub(super) fn permissions<S: Serializer>(permissions: &Permissions, serializer: S) -> Result<S::Ok, S::Error> {
    match permissions.names() {
        None => serializer.serialize_str("full"),
        Some(names) => serializer.collect_seq(names.iter().map(|name| name.as_str())),
    }
}

pub(super) fn text<T: std::fmt::Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn reveal<S: Serializer>(secret: &GeneratedSecret, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(secret.reveal())
}

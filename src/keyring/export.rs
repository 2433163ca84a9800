//! All keys as NDJSON, one a line, with their digests and without any secret: what `import` reads.

use std::collections::HashMap;
use std::io::Write;

use serde::Serialize;

use super::Keyring;
use super::error::KeyringError;
use super::view::{IpRestrictionsView, permissions, text};
use crate::access::key::{AccountId, Environment, KeyId, LifeState};
use crate::access::permission::Permissions;
use crate::access::secret::{Digest, Hint};
use crate::access::time::Timestamp;
use crate::store::KeyRow;

/// How many keys lie between two calls of `progress`.
const STEP: u64 = 10_000;

/// A line. Every field but the digest is as [`super::view::KeyView`] shows it; `status` never says `expired`, since
/// that follows from `expires_at`.
#[derive(Serialize)]
struct ExportedKey<'a> {
    #[serde(serialize_with = "text")]
    digest: Digest,
    id: KeyId,
    account: AccountId,
    /// So that a store in which the account has another id can find it.
    account_name: Option<&'a str>,
    name: &'a str,
    #[serde(serialize_with = "text")]
    environment: Environment,
    #[serde(serialize_with = "text")]
    hint: &'a Hint,
    status: &'static str,
    #[serde(serialize_with = "permissions")]
    permissions: &'a Permissions,
    ip_restrictions: IpRestrictionsView,
    created_at: Timestamp,
    created_by: &'a str,
    expires_at: Option<Timestamp>,
    revoked_at: Option<Timestamp>,
    replaces: Option<KeyId>,
    replaced_by: Option<KeyId>,
}

impl Keyring {
    /// Writes every key, the oldest first, as they all were at one moment, and returns how many. `progress` hears now and then
    /// how many were written.
    ///
    /// # Errors
    /// A store that does not answer, or is damaged; an output that takes no more.
    pub async fn export(&self, out: &mut (dyn Write + Send), progress: &mut (dyn FnMut(u64) + Send)) -> Result<u64, KeyringError> {
        let names = self.account_names().await?;
        let mut written = 0_u64;
        let each = |row: KeyRow| {
            write_line(out, &row, names.get(&row.account).map(String::as_str)).map_err(KeyringError::Output)?;
            written += 1;
            if written.is_multiple_of(STEP) {
                progress(written);
            }
            Ok::<_, KeyringError>(())
        };
        self.store.each_key(each).await?;
        out.flush().map_err(KeyringError::Output)?;
        progress(written);
        Ok(written)
    }

    async fn account_names(&self) -> Result<HashMap<AccountId, String>, KeyringError> {
        let mut names = HashMap::new();
        let mut before = None;
        loop {
            let accounts = self.store.accounts(before, 1000).await?;
            let Some(last) = accounts.last() else { return Ok(names) };
            before = Some(last.id);
            names.extend(accounts.into_iter().map(|account| (account.id, account.name)));
        }
    }
}

fn write_line(out: &mut dyn Write, row: &KeyRow, account_name: Option<&str>) -> std::io::Result<()> {
    let line = ExportedKey {
        digest: row.digest,
        id: row.id,
        account: row.account,
        account_name,
        name: &row.name,
        environment: row.environment,
        hint: &row.hint,
        status: match row.state {
            LifeState::Active => "active",
            LifeState::Paused => "paused",
            LifeState::Revoked => "revoked",
        },
        permissions: &row.permissions,
        ip_restrictions: IpRestrictionsView::of(&row.ip_restrictions),
        created_at: row.created_at,
        created_by: &row.created_by,
        expires_at: row.expires_at,
        revoked_at: row.revoked_at,
        replaces: row.replaces,
        replaced_by: row.replaced_by,
    };
    serde_json::to_writer(&mut *out, &line)?;
    out.write_all(b"\n")
}

//! Making a key.

use super::Keyring;
use super::actor::Actor;
use super::attempt::Attempt;
use super::check::{self, Problems};
use super::error::KeyringError;
use super::list::no_account;
use super::view::{CreatedKey, IpRestrictionsView, KeyView};
use crate::access::address::IpRestrictions;
use crate::access::key::{KeyId, LifeState};
use crate::access::secret::GeneratedSecret;
use crate::access::time::Timestamp;
use crate::store::{KeyRow, Random};

/// What a key is made from, as it was written.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NewKey {
    /// Name or id.
    pub account: String,
    pub name: String,
    pub environment: String,
    /// None for full access.
    pub permissions: Option<Vec<String>>,
    pub ip_restrictions: Option<IpRestrictionsView>,
    /// RFC 3339; None for never.
    pub expires_at: Option<String>,
}

impl Keyring {
    /// Makes a key. Its secret is in the answer and nowhere else.
    ///
    /// # Errors
    /// Everything that is wrong with `new`, at once.
    pub async fn create(&self, actor: &Actor, new: &NewKey) -> Result<CreatedKey, KeyringError> {
        let mut attempt = self.attempt(actor, "key.create", None).await?;
        let now = attempt.now;
        let outcome = attempt.create(new).await;
        let ((row, secret), committed) = attempt.conclude(outcome).await?;
        let confirmation = self.confirm(committed, row.revision).await;
        Ok(CreatedKey { key: KeyView::of(&row, now), secret, confirmation })
    }
}

impl Attempt<'_> {
    async fn create(&mut self, new: &NewKey) -> Result<(KeyRow, GeneratedSecret), KeyringError> {
        let account = self.account(&new.account).await?;
        let mut problems = Problems::default();
        match &account {
            Some(account) => self.about(account.id, account.id.to_string()),
            None => problems.add("account", no_account(&new.account)),
        }
        let name = problems.take("name", check::name(&new.name));
        let environment = problems.take("environment", check::environment(&new.environment));
        let permissions = problems.permissions(new.permissions.as_deref(), &self.keyring().permissions);
        let ip_restrictions = match &new.ip_restrictions {
            Some(asked) => problems.ip_restrictions(asked),
            None => Some(IpRestrictions::default()),
        };
        let expires_at = new.expires_at.as_deref().map(|text| check::future(text, self.now)).transpose();
        let expires_at = problems.take("expires_at", expires_at);
        let (Some(account), Some(name), Some(environment), Some(permissions), Some(ip_restrictions), Some(expires_at)) =
            (account, name, environment, permissions, ip_restrictions, expires_at)
        else {
            return Err(problems.into_error());
        };
        let random = &self.keyring().random;
        let secret = GeneratedSecret::generate(environment, |bytes| random.fill(bytes))?;
        let mut row = KeyRow {
            id: new_id(self.now, random)?,
            digest: secret.digest(),
            account: account.id,
            name,
            environment,
            hint: secret.hint(),
            permissions,
            ip_restrictions,
            created_at: self.now,
            created_by: self.actor().to_string(),
            expires_at,
            state: LifeState::Active,
            revoked_at: None,
            replaces: None,
            replaced_by: None,
            revision: 0,
        };
        self.add(&mut row).await?;
        Ok((row, secret))
    }

    /// Adds a key, with its line of the audit log.
    pub(super) async fn add(&mut self, row: &mut KeyRow) -> Result<(), KeyringError> {
        self.write.insert_key(row).await?;
        self.about(row.account, row.id.to_string());
        self.note(None::<&KeyView>, Some(&KeyView::of(row, self.now))).await
    }
}

pub(super) fn new_id(now: Timestamp, random: &Random) -> Result<KeyId, KeyringError> {
    Ok(KeyId::new(now, random.bytes()?))
}

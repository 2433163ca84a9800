//! Changing a key: its name, its IP restrictions, its state, and its successor.

use std::time::Duration;

use super::actor::Actor;
use super::attempt::Attempt;
use super::check::{self, Problems};
use super::create::new_id;
use super::error::{FieldProblem, KeyringError};
use super::view::{ChangedKey, EditedKey, IpRestrictionsView, KeyView, RotatedKey};
use super::{Keyring, parse_duration};
use crate::access::address::IpRestrictions;
use crate::access::key::{KeyId, LifeState, Status};
use crate::access::secret::{GeneratedSecret, hide_secrets};
use crate::store::KeyRow;

/// How long the old key lives on beside the new one, unless somebody says otherwise.
const OVERLAP: Duration = Duration::from_secs(24 * 60 * 60);
const LONGEST_OVERLAP: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Of the reason for a revocation, in characters.
const LONGEST_REASON: usize = 500;

/// What may be changed of a key. What is None stays.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Edit {
    pub name: Option<String>,
    pub ip_restrictions: Option<Restrict>,
}

/// A change of IP restrictions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Restrict {
    /// Another switch and another list.
    Set(IpRestrictionsView),
    /// Switched on with the list that there is.
    On,
    /// Switched off; the list is kept.
    Off,
}

impl Keyring {
    /// Changes name and IP restrictions of a key that is not revoked.
    ///
    /// # Errors
    /// Everything that is wrong with `edit`, at once; no such key; a revoked key.
    pub async fn edit(&self, actor: &Actor, id: KeyId, edit: &Edit) -> Result<EditedKey, KeyringError> {
        let action = if edit.ip_restrictions.is_some() { "key.restrict" } else { "key.rename" };
        let mut attempt = self.attempt(actor, action, Some(id.to_string())).await?;
        let now = attempt.now;
        let outcome = attempt.edit(id, edit).await;
        let (row, committed) = attempt.conclude(outcome).await?;
        // A new name alone has no revision: what was in force before is, and long confirmed.
        let confirmation = self.confirm(committed, row.revision).await;
        Ok(EditedKey { key: KeyView::of(&row, now), confirmation })
    }

    /// Pauses an active key.
    ///
    /// # Errors
    /// No such key, or not active.
    pub async fn pause(&self, actor: &Actor, id: KeyId) -> Result<ChangedKey, KeyringError> {
        let attempt = self.attempt(actor, "key.pause", Some(id.to_string())).await?;
        self.switch(attempt, id, Status::Active, LifeState::Paused).await
    }

    /// Makes a paused key active again.
    ///
    /// # Errors
    /// No such key, or not paused.
    pub async fn resume(&self, actor: &Actor, id: KeyId) -> Result<ChangedKey, KeyringError> {
        let attempt = self.attempt(actor, "key.resume", Some(id.to_string())).await?;
        self.switch(attempt, id, Status::Paused, LifeState::Active).await
    }

    /// Revokes a key for good. The reason, if any, goes into the audit log.
    ///
    /// # Errors
    /// No such key, or one that is revoked already.
    pub async fn revoke(&self, actor: &Actor, id: KeyId, reason: Option<&str>) -> Result<ChangedKey, KeyringError> {
        let mut attempt = self.attempt(actor, "key.revoke", Some(id.to_string())).await?;
        let now = attempt.now;
        let outcome = attempt.revoke(id, reason).await;
        let (row, committed) = attempt.conclude(outcome).await?;
        let confirmation = self.confirm(committed, row.revision).await;
        Ok(ChangedKey { key: KeyView::of(&row, now), confirmation })
    }

    /// Makes a new key in the place of an active one, which lives on for `overlap` (`0s` to `30d`, by default `24h`), but never
    /// longer than it would have.
    ///
    /// # Errors
    /// No such key; one that is not active or has a successor; an overlap that is none.
    pub async fn rotate(&self, actor: &Actor, id: KeyId, overlap: Option<&str>) -> Result<RotatedKey, KeyringError> {
        let mut attempt = self.attempt(actor, "key.rotate", Some(id.to_string())).await?;
        let now = attempt.now;
        let outcome = attempt.rotate(id, overlap).await;
        let ((new, secret, old), committed) = attempt.conclude(outcome).await?;
        let confirmation = self.confirm(committed, old.revision.max(new.revision)).await;
        Ok(RotatedKey { key: KeyView::of(&new, now), secret, old: KeyView::of(&old, now), confirmation })
    }

    async fn switch(&self, mut attempt: Attempt<'_>, id: KeyId, from: Status, to: LifeState) -> Result<ChangedKey, KeyringError> {
        let now = attempt.now;
        let outcome = attempt.switch(id, from, to).await;
        let (row, committed) = attempt.conclude(outcome).await?;
        let confirmation = self.confirm(committed, row.revision).await;
        Ok(ChangedKey { key: KeyView::of(&row, now), confirmation })
    }
}

impl Attempt<'_> {
    async fn edit(&mut self, id: KeyId, edit: &Edit) -> Result<KeyRow, KeyringError> {
        let old = self.key(id).await?;
        if old.state == LifeState::Revoked {
            return Err(wrong_status(&old, Status::Revoked, "never changes"));
        }
        let mut problems = Problems::default();
        let name = edit.name.as_deref().and_then(|text| problems.take("name", check::name(text)));
        let restrictions = edit.ip_restrictions.as_ref().and_then(|asked| restricted(&mut problems, &old.ip_restrictions, asked));
        problems.none()?;
        let mut new = old.clone();
        if let Some(name) = name {
            self.write.rename_key(id, &name).await?;
            new.name = name;
        }
        if let Some(restrictions) = restrictions {
            new.ip_restrictions = restrictions;
            self.write.update_key(&mut new).await?;
        }
        if new != old {
            self.note_change(&old, &new).await?;
        }
        Ok(new)
    }

    async fn switch(&mut self, id: KeyId, from: Status, to: LifeState) -> Result<KeyRow, KeyringError> {
        let old = self.key(id).await?;
        let status = old.status(self.now);
        if status != from {
            return Err(wrong_status(&old, status, &format!("only one that is {from} can be {}", done_to(to))));
        }
        let mut new = KeyRow { state: to, ..old.clone() };
        self.write.update_key(&mut new).await?;
        self.note_change(&old, &new).await?;
        Ok(new)
    }

    async fn revoke(&mut self, id: KeyId, reason: Option<&str>) -> Result<KeyRow, KeyringError> {
        let old = self.key(id).await?;
        if old.state == LifeState::Revoked {
            return Err(wrong_status(&old, Status::Revoked, "there is nothing left to do"));
        }
        if reason.is_some_and(|reason| reason.chars().count() > LONGEST_REASON) {
            return Err(invalid("reason", format!("a reason has at most {LONGEST_REASON} characters")));
        }
        let mut new = KeyRow { state: LifeState::Revoked, revoked_at: Some(self.now), ..old.clone() };
        self.write.update_key(&mut new).await?;
        let reason = reason.map(|reason| hide_secrets(reason).into_owned());
        let (old, new_view) = (KeyView::of(&old, self.now), KeyView::of(&new, self.now));
        self.note(Some(&old), Some(&Revocation { key: new_view, reason })).await?;
        Ok(new)
    }

    async fn rotate(&mut self, id: KeyId, overlap: Option<&str>) -> Result<(KeyRow, GeneratedSecret, KeyRow), KeyringError> {
        let old = self.key(id).await?;
        let status = old.status(self.now);
        if status != Status::Active {
            return Err(wrong_status(&old, status, "only one that is active can be rotated"));
        }
        if let Some(successor) = old.replaced_by {
            return Err(KeyringError::WrongStatus(format!("key {id} was rotated already: its successor is {successor}")));
        }
        let overlap = overlap.map_or(Ok(OVERLAP), parse_overlap).map_err(|detail| invalid("overlap", detail))?;
        let random = &self.keyring().random;
        let secret = GeneratedSecret::generate(old.environment, |bytes| random.fill(bytes))?;
        let mut new = KeyRow {
            id: new_id(self.now, random)?,
            digest: secret.digest(),
            hint: secret.hint(),
            created_at: self.now,
            created_by: self.actor().to_string(),
            // The same lifetime, from now.
            expires_at: old.expires_at.map(|end| self.now.plus(end.since(old.created_at))),
            replaces: Some(id),
            ..old.clone()
        };
        let mut retired = KeyRow { replaced_by: Some(new.id), ..old.clone() };
        if overlap.is_zero() {
            retired.state = LifeState::Revoked;
            retired.revoked_at = Some(self.now);
        } else {
            let end = self.now.plus(overlap);
            retired.expires_at = Some(old.expires_at.map_or(end, |earlier| earlier.min(end)));
        }
        self.write.update_key(&mut retired).await?;
        self.note_change(&old, &retired).await?;
        self.add(&mut new).await?;
        Ok((new, secret, retired))
    }

    async fn note_change(&mut self, old: &KeyRow, new: &KeyRow) -> Result<(), KeyringError> {
        self.note(Some(&KeyView::of(old, self.now)), Some(&KeyView::of(new, self.now))).await
    }
}

/// What the audit log keeps of a revocation.
#[derive(serde::Serialize)]
struct Revocation {
    #[serde(flatten)]
    key: KeyView,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

fn restricted(problems: &mut Problems, old: &IpRestrictions, asked: &Restrict) -> Option<IpRestrictions> {
    match asked {
        Restrict::Set(asked) => problems.ip_restrictions(asked),
        Restrict::Off => Some(IpRestrictions::stored(false, old.allowed().to_vec())),
        Restrict::On if old.allowed().is_empty() => {
            let detail = "the list is empty, and switched on it would refuse everybody: give the addresses that are allowed";
            problems.add("ip_restrictions.enabled", detail);
            None
        }
        Restrict::On => Some(IpRestrictions::stored(true, old.allowed().to_vec())),
    }
}

fn parse_overlap(text: &str) -> Result<Duration, String> {
    let overlap = parse_duration(text)?;
    if overlap > LONGEST_OVERLAP {
        return Err("an overlap is 0s to 30d long".to_owned());
    }
    Ok(overlap)
}

fn wrong_status(key: &KeyRow, status: Status, why: &str) -> KeyringError {
    KeyringError::WrongStatus(format!("key {} is {status}: {why}", key.id))
}

const fn done_to(to: LifeState) -> &'static str {
    match to {
        LifeState::Active => "resumed",
        LifeState::Paused => "paused",
        LifeState::Revoked => "revoked",
    }
}

fn invalid(field: &str, detail: String) -> KeyringError {
    KeyringError::Invalid(vec![FieldProblem { field: field.to_owned(), detail }])
}

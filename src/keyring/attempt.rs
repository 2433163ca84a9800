//! One try to change something: the transaction, its line of the audit log, and what follows the commit.

use serde::Serialize;
use serde_json::Value;

use super::actor::Actor;
use super::error::KeyringError;
use super::{Confirmation, Keyring, confirmation};
use crate::access::key::{AccountId, KeyId};
use crate::access::secret::hide_secrets;
use crate::access::time::Timestamp;
use crate::store::audit::{Chain, Line};
use crate::store::{AccountRow, KeyRow, NodeEntry, StoreError, Write};

/// A change that is being made: everything up to [`Attempt::conclude`] happens in one transaction, or not at all.
pub(super) struct Attempt<'a> {
    keyring: &'a Keyring,
    actor: &'a Actor,
    action: &'static str,
    /// The id of what is changed, as far as it is known.
    subject: Option<String>,
    /// Whose chain the lines go to: the operator's until an account is found.
    chain: Chain,
    pub(super) now: Timestamp,
    pub(super) write: Write,
}

/// A change that was made: its revision, and the nodes that were on the list at the commit.
pub(super) struct Committed {
    pub(super) revision: u64,
    pub(super) nodes: Vec<NodeEntry>,
}

impl Keyring {
    pub(super) async fn attempt<'a>(
        &'a self,
        actor: &'a Actor,
        action: &'static str,
        subject: Option<String>,
    ) -> Result<Attempt<'a>, KeyringError> {
        let write = self.store.write().await?;
        Ok(Attempt { keyring: self, actor, action, subject, chain: Chain::Operator, now: self.clock.now(), write })
    }

    /// Waits until the live nodes enforce `revision`, at most two seconds.
    pub(super) async fn confirm(&self, committed: Committed, revision: u64) -> Confirmation {
        let look = || async {
            tokio::time::sleep(confirmation::LOOK_EVERY).await;
            // The change is made. If the store does not answer now, nobody can have confirmed.
            tokio::time::timeout(confirmation::ANSWER_WITHIN, self.store.nodes()).await.ok()?.ok()
        };
        confirmation::wait(revision, committed.nodes, &self.clock, look).await
    }
}

impl Attempt<'_> {
    pub(super) const fn keyring(&self) -> &Keyring {
        self.keyring
    }

    pub(super) const fn actor(&self) -> &Actor {
        self.actor
    }

    pub(super) fn about(&mut self, account: AccountId, subject: String) {
        self.chain = Chain::Account(account);
        self.subject = Some(subject);
    }

    pub(super) async fn key(&mut self, id: KeyId) -> Result<KeyRow, KeyringError> {
        let key = self.write.key(id).await?.ok_or_else(|| KeyringError::NotFound { what: "key", name: id.to_string() })?;
        self.about(key.account, id.to_string());
        Ok(key)
    }

    /// An account by its name or its id.
    pub(super) async fn account(&mut self, text: &str) -> Result<Option<AccountRow>, StoreError> {
        match AccountId::parse(text) {
            Ok(id) => self.write.account(id).await,
            Err(_) => self.write.account_named(text.trim()).await,
        }
    }

    /// Writes that it was done: of `before` and `after` only what differs.
    pub(super) async fn note(&mut self, before: Option<&impl Serialize>, after: Option<&impl Serialize>) -> Result<(), KeyringError> {
        let (before, after) = difference(before.map(json), after.map(json));
        let line = self.line(None, before, after);
        Ok(self.write.audit(&line).await?)
    }

    /// Commits what was done, or takes it back and writes that it was refused.
    pub(super) async fn conclude<T>(mut self, outcome: Result<T, KeyringError>) -> Result<(T, Committed), KeyringError> {
        match outcome {
            Ok(value) => {
                let nodes = self.write.nodes().await?;
                let revision = self.write.commit().await?;
                Ok((value, Committed { revision, nodes }))
            }
            Err(refusal) if refusal.is_refusal() => {
                let detail = serde_json::json!({ "detail": hide_secrets(&refusal.to_string()) });
                let line = self.line(Some(refusal.code()), None, Some(detail));
                // What was written before it was found to be wrong is taken back first.
                self.write.abandon().await?;
                let mut write = self.keyring.store.write().await?;
                write.audit(&line).await?;
                write.commit().await?;
                Err(refusal)
            }
            Err(failure) => {
                self.write.abandon().await?;
                Err(failure)
            }
        }
    }

    pub(super) fn line(&self, refused: Option<&'static str>, before: Option<Value>, after: Option<Value>) -> Line {
        Line {
            chain: self.chain,
            at: self.now,
            actor_kind: self.actor.kind.name(),
            actor: self.actor.name.clone(),
            source: self.actor.source.clone(),
            action: self.action,
            subject: self.subject.clone(),
            refused,
            before,
            after,
        }
    }
}

fn json(value: &impl Serialize) -> Value {
    // The wire types have text for keys and no numbers that JSON lacks: they always can be written.
    serde_json::to_value(value).unwrap_or(Value::Null)
}

/// Both without the fields that are the same in both.
fn difference(before: Option<Value>, after: Option<Value>) -> (Option<Value>, Option<Value>) {
    let (Some(Value::Object(mut old)), Some(Value::Object(mut new))) = (before.clone(), after.clone()) else { return (before, after) };
    let same: Vec<String> = old.iter().filter(|&(field, value)| new.get(field) == Some(value)).map(|(field, _)| field.clone()).collect();
    for field in same {
        old.remove(&field);
        new.remove(&field);
    }
    (Some(Value::Object(old)), Some(Value::Object(new)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_line_tells_what_differs_and_no_more() {
        let (before, after) = difference(Some(json!({"a": 1, "b": 2, "c": null})), Some(json!({"a": 1, "b": 3, "c": null})));
        assert_eq!((before, after), (Some(json!({"b": 2})), Some(json!({"b": 3}))));
        assert_eq!(difference(None, Some(json!({"a": 1}))), (None, Some(json!({"a": 1}))));
    }
}

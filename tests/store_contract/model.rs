//! Random things done to keys, against a model of the rules that is small enough to be seen to be right.

use std::time::Duration;

use martis_gateway::access::key::{KeyId, LifeState, Status};
use martis_gateway::access::time::Timestamp;
use martis_gateway::index::IndexChange;
use martis_gateway::keyring::view::{IpRestrictionsView, KeyView};
use martis_gateway::keyring::{Edit, KeyringError, NewKey, Restrict};
use martis_gateway::store::Position;
use proptest::prelude::*;

use crate::support::{TestKeyring, actor, new_key};

#[derive(Clone, Debug)]
enum Step {
    Create { lifetime: Option<u32> },
    Rename { key: usize },
    Set { key: usize, enabled: bool, entries: u8 },
    On { key: usize },
    Off { key: usize },
    Rotate { key: usize, overlap: Option<u32> },
    Pause { key: usize },
    Resume { key: usize },
    Revoke { key: usize },
    Wait { seconds: u32 },
}

/// A key as the rules of the contract have it.
#[derive(Clone, Debug)]
struct ModelKey {
    name: String,
    created_at: Timestamp,
    expires_at: Option<Timestamp>,
    paused: bool,
    revoked: bool,
    enabled: bool,
    allowed: Vec<String>,
    replaces: Option<usize>,
    replaced_by: Option<usize>,
}

impl ModelKey {
    fn status(&self, now: Timestamp) -> Status {
        match self {
            Self { revoked: true, .. } => Status::Revoked,
            Self { expires_at: Some(end), .. } if now >= *end => Status::Expired,
            Self { paused: true, .. } => Status::Paused,
            _ => Status::Active,
        }
    }
}

#[derive(Default)]
struct Model {
    keys: Vec<ModelKey>,
    revision: u64,
}

impl Model {
    /// What the step does, or the code of its refusal.
    fn take(&mut self, step: &Step, now: Timestamp) -> Result<(), &'static str> {
        match *step {
            Step::Wait { .. } => Ok(()),
            Step::Create { lifetime } => {
                self.keys.push(ModelKey {
                    name: "New".to_owned(),
                    created_at: now,
                    expires_at: lifetime.map(|lifetime| now.plus(seconds(lifetime))),
                    paused: false,
                    revoked: false,
                    enabled: false,
                    allowed: vec![],
                    replaces: None,
                    replaced_by: None,
                });
                self.revision += 1;
                Ok(())
            }
            Step::Rename { key } => self.change(key, false, |key| {
                key.name = "Renamed".to_owned();
                Ok(())
            }),
            Step::Set { key, enabled, entries } => self.change(key, true, |key| {
                if enabled && entries == 0 {
                    return Err("invalid_fields");
                }
                (key.enabled, key.allowed) = (enabled, addresses(entries));
                Ok(())
            }),
            Step::On { key } => self.change(key, true, |key| {
                key.enabled = true;
                if key.allowed.is_empty() { Err("invalid_fields") } else { Ok(()) }
            }),
            Step::Off { key } => self.change(key, true, |key| {
                key.enabled = false;
                Ok(())
            }),
            Step::Pause { key } => self.change(key, true, |key| {
                let allowed = key.status(now) == Status::Active;
                key.paused = true;
                if allowed { Ok(()) } else { Err("wrong_status") }
            }),
            Step::Resume { key } => self.change(key, true, |key| {
                let allowed = key.status(now) == Status::Paused;
                key.paused = false;
                if allowed { Ok(()) } else { Err("wrong_status") }
            }),
            Step::Revoke { key } => self.change(key, true, |key| {
                key.revoked = true;
                Ok(())
            }),
            Step::Rotate { key, overlap } => {
                let (place, successor) = (self.place(key), self.keys.len());
                let old = self.keys[place].clone();
                self.change(key, true, |key| {
                    if key.status(now) != Status::Active || key.replaced_by.is_some() {
                        return Err("wrong_status");
                    }
                    let overlap = overlap.unwrap_or(86_400);
                    if overlap > 30 * 86_400 {
                        return Err("invalid_fields");
                    }
                    key.replaced_by = Some(successor);
                    match overlap {
                        0 => key.revoked = true,
                        _ => {
                            key.expires_at =
                                Some(key.expires_at.unwrap_or(Timestamp::from_millis(i64::MAX)).min(now.plus(seconds(overlap))))
                        }
                    }
                    Ok(())
                })?;
                self.revision += 1;
                let expires_at = old.expires_at.map(|end| now.plus(end.since(old.created_at)));
                self.keys.push(ModelKey { created_at: now, expires_at, replaces: Some(place), ..old });
                Ok(())
            }
        }
    }

    fn place(&self, key: usize) -> usize {
        key % self.keys.len()
    }

    /// Revoked keys never change, and a refusal changes nothing.
    fn change(
        &mut self,
        key: usize,
        takes_revision: bool,
        change: impl FnOnce(&mut ModelKey) -> Result<(), &'static str>,
    ) -> Result<(), &'static str> {
        let place = self.place(key);
        let mut changed = self.keys[place].clone();
        if changed.revoked {
            return Err("wrong_status");
        }
        change(&mut changed)?;
        self.keys[place] = changed;
        self.revision += u64::from(takes_revision);
        Ok(())
    }
}

fn seconds(count: u32) -> Duration {
    Duration::from_secs(u64::from(count))
}

fn addresses(count: u8) -> Vec<String> {
    (0..count).map(|last| format!("192.0.2.{last}")).collect()
}

/// Does the step for real; the ids of new keys are added to `ids`.
async fn take(test: &TestKeyring, ids: &mut Vec<KeyId>, step: &Step) -> Result<(), KeyringError> {
    let keyring = &test.keyring;
    let by = &actor();
    let id = |key: &usize| ids[key % ids.len()];
    let restrict = |asked| Edit { name: None, ip_restrictions: Some(asked) };
    match step {
        Step::Wait { seconds: count } => test.time.pass(seconds(*count)),
        Step::Create { lifetime } => {
            let expires_at = lifetime.map(|lifetime| test.time.clock().now().plus(seconds(lifetime)).to_string());
            let created = keyring.create(by, &NewKey { expires_at, ..new_key("New") }).await?;
            ids.push(created.key.id);
        }
        Step::Rename { key } => drop(keyring.edit(by, id(key), &Edit { name: Some("Renamed".to_owned()), ip_restrictions: None }).await?),
        Step::Set { key, enabled, entries } => {
            let asked = IpRestrictionsView { enabled: *enabled, allowed: addresses(*entries) };
            drop(keyring.edit(by, id(key), &restrict(Restrict::Set(asked))).await?);
        }
        Step::On { key } => drop(keyring.edit(by, id(key), &restrict(Restrict::On)).await?),
        Step::Off { key } => drop(keyring.edit(by, id(key), &restrict(Restrict::Off)).await?),
        Step::Rotate { key, overlap } => {
            let overlap = overlap.map(|overlap| format!("{overlap}s"));
            let rotated = keyring.rotate(by, id(key), overlap.as_deref()).await?;
            ids.push(rotated.key.id);
        }
        Step::Pause { key } => drop(keyring.pause(by, id(key)).await?),
        Step::Resume { key } => drop(keyring.resume(by, id(key)).await?),
        Step::Revoke { key } => drop(keyring.revoke(by, id(key), None).await?),
    }
    Ok(())
}

#[track_caller]
fn compare(shown: &KeyView, expected: &ModelKey, ids: &[KeyId], now: Timestamp) {
    assert_eq!(shown.status, expected.status(now));
    assert_eq!((&shown.name, shown.created_at, shown.expires_at), (&expected.name, expected.created_at, expected.expires_at));
    assert_eq!((shown.ip_restrictions.enabled, &shown.ip_restrictions.allowed), (expected.enabled, &expected.allowed));
    assert_eq!(shown.replaces, expected.replaces.map(|place| ids[place]));
    assert_eq!(shown.replaced_by, expected.replaced_by.map(|place| ids[place]));
}

async fn run(steps: Vec<Step>) {
    let test = TestKeyring::new().await;
    let (mut model, mut ids) = (Model::default(), Vec::new());
    let first = Step::Create { lifetime: None };
    for step in std::iter::once(&first).chain(&steps) {
        let now = test.time.clock().now();
        let expected = model.take(step, now);
        let done = take(&test, &mut ids, step).await;
        assert_eq!(done.map_err(|error| error.code()), expected, "{step:?}");
        assert_eq!(test.keyring.store().position().await.unwrap().revision, model.revision, "{step:?}");
    }
    let now = test.time.clock().now();
    for (id, expected) in ids.iter().zip(&model.keys) {
        compare(&test.keyring.show(*id).await.unwrap(), expected, &ids, now);
    }
    // Whoever follows the log ends with the same keys.
    let mut followed = std::collections::HashMap::new();
    let store = test.keyring.store();
    let beginning = Position::beginning(store.position().await.unwrap().epoch);
    for (_, change) in store.changes_after(beginning, u32::MAX).await.unwrap() {
        let IndexChange::Key(key) = change else { panic!("{change:?}") };
        followed.insert(key.id, key);
    }
    assert_eq!(followed.len(), ids.len());
    for (id, expected) in ids.iter().zip(&model.keys) {
        let revoked = followed[id].state == LifeState::Revoked;
        assert_eq!((revoked, followed[id].expires_at), (expected.revoked, expected.expires_at));
    }
}

fn steps() -> impl Strategy<Value = Step> {
    let key = 0..6_usize;
    let overlap = prop_oneof![Just(None), Just(Some(0)), (1..200_u32).prop_map(Some), Just(Some(30 * 86_400)), Just(Some(30 * 86_400 + 1))];
    prop_oneof![
        prop::option::of(1..200_u32).prop_map(|lifetime| Step::Create { lifetime }),
        key.clone().prop_map(|key| Step::Rename { key }),
        (key.clone(), any::<bool>(), 0..4_u8).prop_map(|(key, enabled, entries)| Step::Set { key, enabled, entries }),
        key.clone().prop_map(|key| Step::On { key }),
        key.clone().prop_map(|key| Step::Off { key }),
        (key.clone(), overlap).prop_map(|(key, overlap)| Step::Rotate { key, overlap }),
        key.clone().prop_map(|key| Step::Pause { key }),
        key.clone().prop_map(|key| Step::Resume { key }),
        key.prop_map(|key| Step::Revoke { key }),
        (0..120_u32).prop_map(|seconds| Step::Wait { seconds }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_done_to_keys_they_are_as_the_rules_say(steps in prop::collection::vec(steps(), 1..40)) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run(steps));
    }
}

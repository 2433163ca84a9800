//! The audit log: a line for each change and each refused try, in unbroken chains.

use martis_gateway::access::key::{AccountId, KeyId};
use martis_gateway::keyring::{Edit, Restrict};
use martis_gateway::store::Store;
use martis_gateway::store::audit::{BEGINNING, Chain, Entry};
use sqlx::{Connection, SqliteConnection};

use crate::support::{START, TestKeyring, actor, new_key};

/// A chain that was checked link by link.
async fn chain(store: &Store, chain: Chain) -> Vec<Entry> {
    let entries = store.audit_entries(chain, 0, 10_000).await.unwrap();
    let (mut seq, mut hash) = (0, BEGINNING);
    for entry in &entries {
        assert!(entry.follows(seq, &hash), "{entry:?}");
        (seq, hash) = (entry.seq, entry.hash);
    }
    entries
}

async fn shop(test: &TestKeyring) -> AccountId {
    test.keyring.account("Shop").await.unwrap().id
}

fn told(entries: &[Entry]) -> Vec<(&str, Option<&str>)> {
    entries.iter().map(|entry| (entry.action.as_str(), entry.refused.as_deref())).collect()
}

#[tokio::test]
async fn every_change_is_a_line_with_who_when_from_where_what_before_and_after() {
    let test = TestKeyring::new().await;
    let key = test.keyring.create(&actor(), &new_key("Web")).await.unwrap().key;
    test.keyring.edit(&actor(), key.id, &Edit { name: Some("Web shop".to_owned()), ip_restrictions: None }).await.unwrap();
    test.keyring.pause(&actor(), key.id).await.unwrap();
    test.keyring.resume(&actor(), key.id).await.unwrap();
    let rotated = test.keyring.rotate(&actor(), key.id, Some("0s")).await.unwrap();
    test.keyring.revoke(&actor(), rotated.key.id, Some("a test")).await.unwrap();
    test.keyring.suspend_account(&actor(), "Shop").await.unwrap();
    test.keyring.resume_account(&actor(), "Shop").await.unwrap();

    let entries = chain(test.keyring.store(), Chain::Account(shop(&test).await)).await;
    let actions = ["account.create", "key.create", "key.rename", "key.pause", "key.resume", "key.rotate", "key.rotate", "key.revoke"];
    assert_eq!(told(&entries[..8]), actions.map(|action| (action, None)));
    assert_eq!(told(&entries[8..]), [("account.suspend", None), ("account.resume", None)]);
    let rename = &entries[2];
    assert_eq!((rename.actor_kind.as_str(), rename.actor.as_str(), rename.source.as_str()), ("command_line", "ana", "a terminal"));
    assert_eq!((rename.at, rename.subject.as_deref()), (START, Some(key.id.to_string().as_str())));
    assert_eq!((rename.before.as_deref(), rename.after.as_deref()), (Some(r#"{"name":"Web"}"#), Some(r#"{"name":"Web shop"}"#)));
    assert_eq!(entries[6].subject, Some(rotated.key.id.to_string()));
    assert!(entries[7].after.as_deref().unwrap().contains(r#""reason":"a test""#));
    assert_eq!(chain(test.keyring.store(), Chain::Operator).await, []);
}

#[tokio::test]
async fn a_refused_try_is_a_line_and_changes_nothing_else() {
    let test = TestKeyring::new().await;
    let key = test.keyring.create(&actor(), &new_key("Web")).await.unwrap().key;
    let position = test.keyring.store().position().await.unwrap();
    let account = shop(&test).await;
    let before = chain(test.keyring.store(), Chain::Account(account)).await.len();

    test.keyring.resume(&actor(), key.id).await.unwrap_err();
    let on = Edit { name: Some("Another".to_owned()), ip_restrictions: Some(Restrict::On) };
    test.keyring.edit(&actor(), key.id, &on).await.unwrap_err();
    test.keyring.rotate(&actor(), key.id, Some("31d")).await.unwrap_err();
    test.keyring.resume_account(&actor(), "Shop").await.unwrap_err();
    test.keyring.create(&actor(), &new_key("")).await.unwrap_err();
    test.keyring.revoke(&actor(), KeyId::from_bytes([3; 16]), None).await.unwrap_err();
    test.keyring.suspend_account(&actor(), "Nobody").await.unwrap_err();

    let entries = chain(test.keyring.store(), Chain::Account(account)).await;
    let refused = [
        ("key.resume", Some("wrong_status")),
        ("key.restrict", Some("invalid_fields")),
        ("key.rotate", Some("invalid_fields")),
        ("account.resume", Some("wrong_status")),
        ("key.create", Some("invalid_fields")),
    ];
    assert_eq!(told(&entries[before..]), refused);
    let of_the_operator = [("key.revoke", Some("not_found")), ("account.suspend", Some("not_found"))];
    assert_eq!(told(&chain(test.keyring.store(), Chain::Operator).await), of_the_operator);
    assert_eq!(test.keyring.store().position().await.unwrap(), position);
    assert_eq!(test.keyring.show(key.id).await.unwrap(), key);
}

#[tokio::test]
async fn accepting_a_store_begins_an_epoch_and_is_a_line_of_the_operator() {
    let test = TestKeyring::new().await;
    let before = test.keyring.store().position().await.unwrap();
    let accepted = test.keyring.accept_store(&actor(), &[]).await.unwrap();
    let position = test.keyring.store().position().await.unwrap();
    assert_eq!((position.epoch, position.revision), (accepted.epoch, accepted.revision));
    assert_eq!(test.keyring.store().lineage().await.unwrap(), [before.epoch, accepted.epoch]);
    assert_eq!(told(&chain(test.keyring.store(), Chain::Operator).await), [("store.accept", None)]);
}

#[tokio::test]
async fn the_log_can_only_be_added_to() {
    let test = TestKeyring::new().await;
    test.keyring.create(&actor(), &new_key("Web")).await.unwrap();
    let account = shop(&test).await;
    let before = chain(test.keyring.store(), Chain::Account(account)).await;
    let mut connection = SqliteConnection::connect(test.store.path().to_str().unwrap()).await.unwrap();
    let tampering = [
        "UPDATE audit SET actor = 'bob'",
        "DELETE FROM audit",
        "DELETE FROM audit WHERE seq = 2",
        "INSERT INTO audit SELECT chain, 9, at, actor_kind, actor, source, action, subject, refused, before, after, previous, hash FROM audit LIMIT 1",
        "DELETE FROM keys",
        "INSERT INTO changes VALUES (99, 'key', x'')",
    ];
    for statement in tampering {
        assert!(sqlx::raw_sql(statement).execute(&mut connection).await.is_err(), "{statement}");
    }
    assert_eq!(chain(test.keyring.store(), Chain::Account(account)).await, before);
}

//! Opening an SQLite file, and the files that it leaves.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use martis_gateway::store::{Epoch, Examined, OpenOptions, Position, Random, Store, StoreError, examine};
use sqlx::{Connection, SqliteConnection};

use crate::support::{TestKeyring, TestStore, actor, add_account, add_key, key_row, new_key, node};

async fn sql(path: &Path, statement: &'static str) {
    let mut connection = SqliteConnection::connect(path.to_str().unwrap()).await.unwrap();
    sqlx::raw_sql(statement).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn a_store_that_is_missing_is_made_only_if_it_may_be() {
    let test = TestStore::new();
    let refusal = test.try_open(false).await.unwrap_err();
    assert!(matches!(refusal, StoreError::Missing { .. }));
    assert!(refusal.to_string().contains("martis-gateway serve"));
    assert!(!test.path().exists());
    test.open().await;
    test.try_open(false).await.unwrap();
}

#[tokio::test]
async fn an_empty_file_is_no_store_yet() {
    let test = TestStore::new();
    fs::create_dir(test.path().parent().unwrap()).unwrap();
    fs::write(test.path(), "").unwrap();
    assert!(matches!(test.try_open(false).await, Err(StoreError::Missing { .. })));
    assert!(matches!(examine(&test.path()).await, Err(StoreError::Missing { .. })));
    assert_eq!(files_beside(&test), 1);
    assert_eq!(fs::read(test.path()).unwrap(), b"");
    test.try_open(true).await.unwrap();
}

#[tokio::test]
async fn looking_at_a_store_changes_nothing_and_finds_damage() {
    let test = TestStore::new();
    let store = test.open().await;
    add_account(&store).await;
    let mut rows: Vec<_> = (0..500).map(key_row).collect();
    let mut write = store.write().await.unwrap();
    write.insert_keys(&mut rows).await.unwrap();
    write.commit().await.unwrap();
    assert_eq!(examine(&test.path()).await.unwrap(), Examined::Store { keys: 500, revision: 500 });
    store.close().await;
    let mut whole = fs::read(test.path()).unwrap();
    assert_eq!(examine(&test.path()).await.unwrap(), Examined::Store { keys: 500, revision: 500 });
    assert_eq!((fs::read(test.path()).unwrap() == whole, files_beside(&test)), (true, 1));

    let page = whole.len() / 2 / 4096 * 4096;
    whole[page..page + 4096].fill(0xa5);
    fs::write(test.path(), whole).unwrap();
    let damage = examine(&test.path()).await.unwrap_err();
    assert!(matches!(damage, StoreError::Damaged { .. }), "{damage:?}");
}

#[tokio::test]
async fn a_store_that_was_closed_is_in_its_one_file_also_while_somebody_else_has_it_open() {
    let test = TestStore::new();
    let (store, other) = (test.open().await, test.open().await);
    let watch = other.watch().await.unwrap();
    add_account(&store).await;
    add_key(&store, key_row(1)).await.unwrap();
    store.close().await;
    let copy = TestStore::new();
    fs::create_dir(copy.path().parent().unwrap()).unwrap();
    fs::copy(test.path(), copy.path()).unwrap();
    assert_eq!(copy.open().await.count_keys().await.unwrap(), 1);
    watch.close().await;
    other.close().await;
    assert_eq!(files_beside(&test), 1);
}

fn files_beside(test: &TestStore) -> usize {
    fs::read_dir(test.path().parent().unwrap()).unwrap().count()
}

#[tokio::test]
async fn the_files_are_for_their_owner_alone() {
    let test = TestStore::new();
    let store = test.open().await;
    add_account(&store).await;
    store.register_node(&node("node_1", 0)).await.unwrap();
    let files: Vec<_> = fs::read_dir(test.path().parent().unwrap()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 3, "{files:?}");
    for file in files {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
    assert_eq!(mode(test.path().parent().unwrap()), 0o700);
}

#[tokio::test(flavor = "multi_thread")]
async fn handles_that_open_a_new_store_at_once_agree_on_one() {
    let test = std::sync::Arc::new(TestStore::new());
    let opening = (0..8).map(|_| {
        let test = std::sync::Arc::clone(&test);
        tokio::spawn(async move { test.open().await.position().await.unwrap() })
    });
    let mut positions = Vec::new();
    for opened in opening.collect::<Vec<_>>() {
        positions.push(opened.await.unwrap());
    }
    assert!(positions.windows(2).all(|pair| pair[0] == pair[1]), "{positions:?}");
}

#[tokio::test]
async fn what_a_kill_leaves_at_any_moment_is_the_last_committed_state() {
    let test = TestStore::new();
    let store = test.open().await;
    add_account(&store).await;
    let kept = add_key(&store, key_row(1)).await.unwrap();
    let mut write = store.write().await.unwrap();
    let mut rows: Vec<_> = (2..3000).map(key_row).collect();
    write.insert_keys(&mut rows).await.unwrap();
    let during = copied(&test);
    write.commit().await.unwrap();
    let after = copied(&test);
    for (killed, revision) in [(during, 1), (after, 2999)] {
        let store = killed.try_open(false).await.unwrap();
        assert_eq!(store.position().await.unwrap().revision, revision);
        assert_eq!(store.count_keys().await.unwrap(), revision);
        assert_eq!(store.key(kept.id).await.unwrap(), Some(kept.clone()));
        assert_eq!(add_key(&store, key_row(5000)).await.unwrap().revision, revision + 1);
    }
}

/// What a kill would leave on the disk now: all but the memory that processes share.
fn copied(test: &TestStore) -> TestStore {
    let copy = TestStore::new();
    fs::create_dir(copy.path().parent().unwrap()).unwrap();
    for ending in ["", "-wal"] {
        let [from, to] = [test.path(), copy.path()].map(|path| format!("{}{ending}", path.display()));
        fs::copy(from, to).unwrap();
    }
    copy
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_left_as_it_is() {
    let test = TestStore::new();
    test.open().await.close().await;
    sql(&test.path(), "INSERT INTO _sqlx_migrations VALUES (99, 'of the future', '2030-01-01', true, x'00', 0)").await;
    let before = fs::read(test.path()).unwrap();
    let refusal = test.try_open(true).await.unwrap_err();
    assert!(matches!(refusal, StoreError::NewerSchema { found: 99, known: 1, .. }), "{refusal:?}");
    assert!(refusal.to_string().contains("start the newer martis-gateway"));
    assert_eq!(fs::read(test.path()).unwrap(), before);
}

#[tokio::test]
async fn what_is_no_store_is_refused_and_left_as_it_is() {
    let test = TestStore::new();
    fs::create_dir(test.path().parent().unwrap()).unwrap();
    let text = "This is a letter and no database. ".repeat(100);
    fs::write(test.path(), &text).unwrap();
    let refusal = test.try_open(true).await.unwrap_err();
    assert!(matches!(refusal, StoreError::Foreign { .. }), "{refusal:?}");
    assert_eq!(fs::read_to_string(test.path()).unwrap(), text);

    let other = test.folder.path().join("other.db");
    fs::write(&other, "").unwrap();
    sql(&other, "CREATE TABLE recipes (name TEXT)").await;
    let before = fs::read(&other).unwrap();
    let refusal = Store::open(&other, OpenOptions { create: true }, &Random::of_the_machine()).await.unwrap_err();
    assert!(matches!(refusal, StoreError::Foreign { .. }), "{refusal:?}");
    assert_eq!(fs::read(&other).unwrap(), before);
}

#[tokio::test]
async fn a_file_that_was_replaced_while_open_is_noticed() {
    let test = TestStore::new();
    let store = test.open().await;
    add_account(&store).await;
    let mut watch = store.watch().await.unwrap();
    let aside = test.folder.path().join("aside.db");
    fs::rename(test.path(), &aside).unwrap();
    assert!(matches!(watch.changed().await, Err(StoreError::Replaced { .. })));
    fs::copy(&aside, test.path()).unwrap();
    assert!(matches!(watch.changed().await, Err(StoreError::Replaced { .. })));
    assert!(matches!(store.write().await, Err(StoreError::Replaced { .. })));
    assert!(matches!(store.register_node(&node("node_1", 0)).await, Err(StoreError::Replaced { .. })));
}

#[tokio::test]
async fn a_row_that_does_not_parse_is_an_error_that_names_the_key() {
    let damages = [
        "UPDATE keys SET ip_allowed = '10.0.0.0/8 nonsense'",
        "UPDATE keys SET ip_allowed = '0.0.0.0/0'",
        "DROP TRIGGER keys_keep_what_they_are; UPDATE keys SET permissions = ''",
        "UPDATE keys SET expires_at = 9223372036854775807",
        "DROP TRIGGER keys_keep_what_they_are; PRAGMA ignore_check_constraints = on; UPDATE keys SET digest = x'00'",
    ];
    for damage in damages {
        let test = TestStore::new();
        let store = test.open().await;
        add_account(&store).await;
        let row = add_key(&store, key_row(1)).await.unwrap();
        sql(&test.path(), damage).await;
        let named = format!("key {}", row.id);
        let errors = [
            store.load_all(|_| {}).await.map(drop).unwrap_err(),
            store.changes_after(Position::beginning(Epoch::from_bytes([0; 16])), 10).await.map(drop).unwrap_err(),
            store.key(row.id).await.map(drop).unwrap_err(),
        ];
        for error in errors {
            assert!(matches!(&error, StoreError::Damaged { what, .. } if *what == named), "{damage}: {error:?}");
        }
    }
}

#[tokio::test]
async fn no_file_of_the_store_ever_holds_a_secret() {
    let test = TestKeyring::new().await;
    let mut secrets = Vec::new();
    for number in 0..20 {
        let created = test.keyring.create(&actor(), &new_key(&format!("Key {number}"))).await.unwrap();
        let rotated = test.keyring.rotate(&actor(), created.key.id, None).await.unwrap();
        secrets.extend([created.secret, rotated.secret]);
    }
    // Neither do those that somebody writes where they do not belong.
    let stray = secrets[0].reveal().to_owned();
    test.keyring.create(&actor(), &new_key(&stray)).await.unwrap_err();
    test.keyring.create_account(&actor(), &stray).await.unwrap_err();
    test.keyring.suspend_account(&actor(), &stray).await.unwrap_err();
    test.keyring.forget_node(&actor(), &stray).await.unwrap_err();
    let mut with_stray = new_key("Key");
    with_stray.permissions = Some(vec![stray.clone()]);
    with_stray.expires_at = Some(stray.clone());
    with_stray.environment = stray.clone();
    test.keyring.create(&actor(), &with_stray).await.unwrap_err();
    let id = test.keyring.create(&actor(), &new_key("Leaked")).await.unwrap().key.id;
    test.keyring.revoke(&actor(), id, Some(&format!("leaked as {stray} in a chat"))).await.unwrap();
    for entry in fs::read_dir(test.store.path().parent().unwrap()).unwrap() {
        let content = fs::read(entry.unwrap().path()).unwrap();
        for secret in &secrets {
            let unique = &secret.reveal().as_bytes()[8..40];
            assert!(memchr::memmem::find(&content, unique).is_none());
        }
    }
}

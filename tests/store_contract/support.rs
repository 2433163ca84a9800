//! A store in a folder of its own, and the values that cases are made of.

use std::io::{Cursor, Read};
use std::path::PathBuf;
use std::time::Duration;

use martis_gateway::access::address::IpRestrictions;
use martis_gateway::access::key::{AccountId, Environment, KeyId, LifeState};
use martis_gateway::access::permission::{PermissionName, Permissions};
use martis_gateway::access::secret::{Digest, Hint};
use martis_gateway::access::time::Timestamp;
use martis_gateway::clock::TestClock;
use martis_gateway::keyring::{Actor, ActorKind, Keyring, NewKey};
use martis_gateway::store::{AccountRow, KeyRow, NodeEntry, OpenOptions, Random, Store, StoreError};

pub const START: Timestamp = Timestamp::from_millis(1_790_000_000_000);

pub struct TestStore {
    pub folder: tempfile::TempDir,
}

impl TestStore {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("data").join("martis.db")
    }

    /// A handle with connections of its own, as another process would have.
    pub async fn open(&self) -> Store {
        self.try_open(true).await.unwrap()
    }

    pub async fn try_open(&self, create: bool) -> Result<Store, StoreError> {
        Store::open(&self.path(), OpenOptions { create }, &Random::of_the_machine()).await
    }
}

/// A store with an account `Shop`, the keyring on it, and its clock.
pub struct TestKeyring {
    pub store: TestStore,
    pub keyring: Keyring,
    pub time: TestClock,
}

impl TestKeyring {
    pub async fn new() -> Self {
        let store = TestStore::new();
        let time = TestClock::at(START);
        let keyring = Keyring::new(store.open().await, time.clock(), Random::seeded(1), &permissions());
        keyring.create_account(&actor(), "Shop").await.unwrap();
        Self { store, keyring, time }
    }
}

pub fn permissions() -> [PermissionName; 2] {
    ["payments.charges:read", "payments.charges:write"].map(|name| PermissionName::parse(name).unwrap())
}

pub fn actor() -> Actor {
    Actor { kind: ActorKind::CommandLine, name: "ana".to_owned(), source: "a terminal".to_owned() }
}

pub fn new_key(name: &str) -> NewKey {
    NewKey { account: "Shop".to_owned(), name: name.to_owned(), environment: "production".to_owned(), ..NewKey::default() }
}

pub fn account_row(number: u8) -> AccountRow {
    AccountRow {
        id: AccountId::from_bytes([number; 16]),
        name: format!("Account {number}"),
        suspended: false,
        created_at: START,
        created_by: "ana".to_owned(),
    }
}

/// A key of account 1, unlike any with another number.
pub fn key_row(number: u32) -> KeyRow {
    let digest = Digest::of(&number.to_le_bytes());
    let mut id = [0; 10];
    id[..4].copy_from_slice(&number.to_be_bytes());
    KeyRow {
        id: KeyId::new(START.plus(Duration::from_millis(u64::from(number))), id),
        digest,
        account: AccountId::from_bytes([1; 16]),
        name: format!("Key {number}"),
        environment: Environment::Sandbox,
        hint: Hint::unknown(Environment::Sandbox),
        permissions: Permissions::list(permissions().to_vec()).unwrap(),
        ip_restrictions: IpRestrictions::parse(true, &["10.0.0.0/8", "2001:db8::1"]).unwrap(),
        created_at: START,
        created_by: "ana".to_owned(),
        expires_at: Some(START.plus(Duration::from_secs(3600))),
        state: LifeState::Active,
        revoked_at: None,
        replaces: None,
        replaced_by: None,
        revision: 0,
    }
}

pub fn node(id: &str, revision: u64) -> NodeEntry {
    NodeEntry {
        id: id.to_owned(),
        name: "here".to_owned(),
        version: "0.1.0".to_owned(),
        started_at: START,
        last_seen: START,
        revision,
        lease_ends: Some(START.plus(Duration::from_secs(60))),
    }
}

/// Adds account 1, to which [`key_row`]s belong.
pub async fn add_account(store: &Store) {
    let mut write = store.write().await.unwrap();
    write.insert_account(&account_row(1)).await.unwrap();
    write.commit().await.unwrap();
}

pub async fn add_key(store: &Store, mut row: KeyRow) -> Result<KeyRow, StoreError> {
    let mut write = store.write().await?;
    write.insert_key(&mut row).await?;
    write.commit().await?;
    Ok(row)
}

/// For an import: opens the text anew each time.
pub fn opens(text: &str) -> impl Fn() -> std::io::Result<Box<dyn Read + Send>> + Sync {
    let text = text.as_bytes().to_vec();
    move || Ok(Box::new(Cursor::new(text.clone())) as Box<dyn Read + Send>)
}

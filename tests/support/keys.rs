//! Keys for tests, made by the keyring as the command line makes them.

use std::io;

use martis_gateway::access::key::{AccountId, KeyId};
use martis_gateway::access::secret::PresentedSecret;
use martis_gateway::keyring::view::{Confirmation, CreatedKey, Imported, IpRestrictionsView};
use martis_gateway::keyring::{Actor, ActorKind, Edit, Keyring, ListKeys, NewKey, Restrict};

/// The account that the keys of [`a_key`] belong to.
pub const ACCOUNT: &str = "acme";

/// A key with its secret, which only a test may keep.
#[derive(Clone)]
pub struct TestKey {
    pub id: KeyId,
    pub account: AccountId,
    pub secret: String,
}

/// Makes and changes keys beside the node.
#[derive(Clone)]
pub struct Keys {
    pub keyring: Keyring,
    pub actor: Actor,
}

impl Keys {
    pub async fn new(keyring: Keyring) -> Self {
        let actor = Actor { kind: ActorKind::CommandLine, name: "tests".to_owned(), source: "command line".to_owned() };
        let keys = Self { keyring, actor };
        if keys.keyring.account(ACCOUNT).await.is_err() {
            keys.account(ACCOUNT).await;
        }
        keys
    }

    pub async fn account(&self, name: &str) {
        self.keyring.create_account(&self.actor, name).await.unwrap();
    }

    /// Makes a key; where a node runs, it knows the key when this returns.
    pub async fn make(&self, new: NewKey) -> TestKey {
        self.make_confirmed(new).await.0
    }

    pub async fn make_confirmed(&self, new: NewKey) -> (TestKey, Confirmation) {
        let CreatedKey { key, secret, confirmation } = self.keyring.create(&self.actor, &new).await.unwrap();
        (TestKey { id: key.id, account: key.account, secret: secret.reveal().to_owned() }, confirmation)
    }

    /// Imports a key by its digest, as it comes from another system: a line of NDJSON without the account and the name.
    pub async fn import(&self, secret: &str, environment: &str) -> TestKey {
        let digest = PresentedSecret::new(secret.as_bytes()).digest();
        let line = format!(r#"{{"account":"{ACCOUNT}","name":"imported","environment":"{environment}","digest":"{digest}"}}"#);
        self.import_lines(&line).await;
        let listed = self.keyring.list(&ListKeys { q: Some("imported".to_owned()), ..ListKeys::default() }).await.unwrap();
        let key = &listed.items[0];
        TestKey { id: key.id, account: key.account, secret: secret.to_owned() }
    }

    pub async fn import_lines(&self, lines: &str) -> Imported {
        let open = || Ok(Box::new(io::Cursor::new(lines.as_bytes().to_vec())) as Box<dyn io::Read + Send>);
        self.keyring.import(&self.actor, &open, &mut |_| {}).await.unwrap()
    }

    pub async fn restrict(&self, key: &TestKey, addresses: &[&str]) -> Confirmation {
        let edit = Edit { ip_restrictions: Some(Restrict::Set(only(addresses))), ..Edit::default() };
        self.keyring.edit(&self.actor, key.id, &edit).await.unwrap().confirmation
    }

    pub async fn revoke(&self, key: &TestKey) -> Confirmation {
        self.keyring.revoke(&self.actor, key.id, None).await.unwrap().confirmation
    }

    pub async fn pause(&self, key: &TestKey) -> Confirmation {
        self.keyring.pause(&self.actor, key.id).await.unwrap().confirmation
    }

    pub async fn resume(&self, key: &TestKey) -> Confirmation {
        self.keyring.resume(&self.actor, key.id).await.unwrap().confirmation
    }
}

/// A production key with full access from everywhere.
pub fn a_key() -> NewKey {
    NewKey { account: ACCOUNT.to_owned(), name: "test".to_owned(), environment: "production".to_owned(), ..NewKey::default() }
}

pub fn a_sandbox_key() -> NewKey {
    NewKey { environment: "sandbox".to_owned(), ..a_key() }
}

/// A production key for some addresses.
pub fn a_key_for(addresses: &[&str]) -> NewKey {
    NewKey { ip_restrictions: Some(only(addresses)), ..a_key() }
}

/// A production key with some permissions.
pub fn a_key_with(permissions: &[&str]) -> NewKey {
    NewKey { permissions: Some(permissions.iter().map(|&name| name.to_owned()).collect()), ..a_key() }
}

/// IP restrictions that are switched on.
pub fn only(addresses: &[&str]) -> IpRestrictionsView {
    IpRestrictionsView { enabled: true, allowed: addresses.iter().map(|&address| address.to_owned()).collect() }
}

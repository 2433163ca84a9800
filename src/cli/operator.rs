//! Who runs a command and with what: the configuration, the store that it names, and the name that the audit log gets.

use std::path::Path;

use anyhow::{Result, bail};

use super::{Told, output};
use crate::clock::Clock;
use crate::config::{self, Config, StoreUrl};
use crate::keyring::{Actor, ActorKind, Keyring};
use crate::store::{OpenOptions, Random, Store, StoreError};
use crate::sync;
use crate::sync::snapshot::SnapshotFile;

/// The operator at the command line.
#[derive(Debug)]
pub struct Operator {
    pub config: Config,
    pub clock: Clock,
    pub random: Random,
    pub actor: Actor,
}

impl Operator {
    /// Reads the configuration that the flag, the environment or the working folder names.
    ///
    /// # Errors
    /// Everything that is wrong with it, told already.
    pub fn load(flag: Option<&Path>) -> Result<Self> {
        Ok(Self { config: load_config(flag)?, clock: Clock::of_the_machine(), random: Random::of_the_machine(), actor: actor() })
    }

    /// Does something with the keyring over the store, which must be there.
    ///
    /// # Errors
    /// A store that cannot be opened, and those of `work`.
    pub async fn with_keyring(&self, work: impl AsyncFnOnce(&Keyring) -> Result<()>) -> Result<()> {
        self.with_keyring_of(OpenOptions { create: false }, work).await
    }

    /// The same; a missing store is made, by the same rule as a node does it.
    ///
    /// # Errors
    /// A store that can be neither opened nor made, and those of `work`.
    pub async fn with_keyring_of_a_new_store(&self, work: impl AsyncFnOnce(&Keyring) -> Result<()>) -> Result<()> {
        match self.with_keyring_of(OpenOptions { create: may_make_store(&self.config)?.is_ok() }, work).await {
            Err(error) if is_missing(&error) => Err(may_make_store(&self.config)?.err().map_or(error, Into::into)),
            done => done,
        }
    }

    async fn with_keyring_of(&self, options: OpenOptions, work: impl AsyncFnOnce(&Keyring) -> Result<()>) -> Result<()> {
        let store = Store::open(store_path(&self.config)?, options, &self.random).await?;
        let keyring = Keyring::new(store, self.clock.clone(), self.random.clone(), &self.config.permission_names);
        let done = work(&keyring).await;
        // Then everything is in the store's one file: what stood beside it would be missing from a copy.
        keyring.store().close().await;
        done
    }
}

/// Reads the configuration and tells everything that is wrong with it.
///
/// # Errors
/// Only [`Told`].
pub fn load_config(flag: Option<&Path>) -> Result<Config> {
    let path = config::find(flag, std::env::var_os("MARTIS_CONFIG"));
    config::load(&path).map_err(|problems| {
        output::note(problems.render(true));
        Told.into()
    })
}

/// Whether a missing store may be made.
///
/// # Errors
/// A kind of store that this release does not have; within, what a node says that makes none.
pub fn may_make_store(config: &Config) -> Result<Result<(), sync::Mislaid>> {
    Ok(sync::may_make_store(store_path(config)?, &SnapshotFile::new(config.snapshot.path.clone())))
}

fn is_missing(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(StoreError::Missing { .. }))
}

/// # Errors
/// A kind of store that this release does not have.
pub fn store_path(config: &Config) -> Result<&Path> {
    match &config.store {
        StoreUrl::Sqlite(path) => Ok(path),
        StoreUrl::Postgres(_) => bail!("store.url: this release keeps its store in SQLite only; write `sqlite:` and a path"),
    }
}

/// The user of the machine whose process this is. The environment may say anything; the kernel does not.
pub fn actor() -> Actor {
    let uid = rustix::process::getuid().as_raw();
    let name = std::fs::read_to_string("/etc/passwd").ok().and_then(|users| user_name(&users, uid));
    let source = rustix::system::uname().nodename().to_string_lossy().into_owned();
    Actor { kind: ActorKind::CommandLine, name: name.unwrap_or_else(|| format!("uid {uid}")), source }
}

/// The name of a user in the format of passwd(5).
fn user_name(users: &str, uid: u32) -> Option<String> {
    let uid = uid.to_string();
    let user = users.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| fields.get(2) == Some(&uid.as_str()))?;
    user.first().map(|name| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_known_by_name_where_the_machine_lists_one() {
        let users = "root:x:0:0:root:/root:/bin/bash\nada:x:1000:1000::/home/ada:/bin/sh\n";
        assert_eq!(user_name(users, 1000).as_deref(), Some("ada"));
        assert_eq!(user_name(users, 100), None);
    }
}

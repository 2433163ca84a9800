//! What can be done to keys and accounts, and nothing else may do it.
//!
//! Each change checks its rules, is written and gets its line of the audit log in one transaction of the store; a refused try
//! is a line, too. What alters who may pass is answered when the running nodes have confirmed that they enforce it (see
//! [`Confirmation`]). Inputs are text, as people and programs wrote it, so that everything that is wrong with them is reported
//! at once; outputs are the wire types of [`view`], which the admin API and the command line share.
//!
//! The rules of a key's life:
//! - pause: from `active`; resume: from `paused`; revoke: from anything but `revoked`, and nothing leads back;
//! - rotate: an `active` key that has no successor yet;
//! - rename, restrict: anything but `revoked`.
//!
//! Deliberately absent: clocks and randomness (both are handed in), sign-in and roles, and HTTP.

mod account;
mod actor;
mod attempt;
mod change;
mod check;
mod confirmation;
mod create;
mod error;
pub mod explain;
mod export;
mod import;
mod list;
mod node;
pub mod view;

use std::sync::Arc;
use std::time::Duration;

pub use self::account::ListAccounts;
pub use self::actor::{Actor, ActorKind};
pub use self::change::{Edit, Restrict};
pub use self::create::NewKey;
pub use self::error::{FieldProblem, ImportProblems, KeyringError, LineProblem};
pub use self::import::{Open, Progress};
pub use self::list::ListKeys;
pub use self::node::AcceptedStore;
pub use self::view::Confirmation;

use crate::access::permission::PermissionName;
use crate::access::secret::hide_secrets;
use crate::access::time::{self, NoDuration};
use crate::clock::Clock;
use crate::store::{Random, Store};

/// Everything that can be done to keys. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Keyring {
    store: Store,
    clock: Clock,
    random: Random,
    /// Those that the configuration names.
    permissions: Arc<[PermissionName]>,
}

impl Keyring {
    /// `permissions` are those that the configuration names: no key is made for another.
    pub fn new(store: Store, clock: Clock, random: Random, permissions: &[PermissionName]) -> Self {
        Self { store, clock, random, permissions: permissions.into() }
    }

    pub const fn store(&self) -> &Store {
        &self.store
    }

    pub const fn clock(&self) -> &Clock {
        &self.clock
    }
}

/// Parses a duration as the configuration writes them, too: `30s`, `24h`, `90d`.
///
/// # Errors
/// A sentence that says what one looks like.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    time::parse_duration(text).map_err(|why| {
        let shown = hide_secrets(text);
        match why {
            NoDuration::Form => {
                format!("`{}` is no duration: write a number and ms, s, m, h or d, such as 30s, 24h or 90d", shown.escape_debug())
            }
            NoDuration::TooLong => format!("`{}` is longer than can be counted", shown.escape_debug()),
        }
    })
}

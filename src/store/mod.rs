//! The truth: keys, accounts, the log of changes, the audit log, and who runs.
//!
//! One machine: an SQLite file. The public items are the whole of what anybody may ask of a store, so that another kind can
//! stand behind them; everything that knows SQL is in `sqlite`, everything that turns a stored row into a typed value and back
//! is in [`row`].
//!
//! - **Revisions.** Every committed change that a decision depends on takes the next number, under the one lock that a writer
//!   holds: they have no gaps and are in the order of commits. That is an inserted key, a change of a key's state, expiry or
//!   IP restrictions, and the suspension of an account. A new name, a new account (nobody is suspended by it) and the marks of
//!   nodes take none. [`Store::changes_after`] tells what each revision touched.
//! - **Secrets** are not here, only their digests; a digest is unique for ever, since keys are never deleted.
//! - **Stamps.** A store that was put back from a backup counts anew from an older revision, and numbers come again. Each
//!   revision therefore has eight random bytes beside its number: who knows both knows whether it is the same revision.
//! - **Epochs.** `store accept` makes such a store the truth: it begins a new epoch, and the lineage of epochs tells nodes that
//!   they may forget what they knew of the older ones.
//! - **Audit.** A line is written in the transaction of what it tells: neither is there without the other.
//!
//! Deliberately absent: rules about what may be done to a key (those are `keyring`'s), clocks, and waiting for nodes.

pub mod audit;
mod error;
mod random;
pub mod row;
mod sqlite;

use std::fmt;
use std::time::Duration;

pub use self::error::{StoreError, Taken};
pub use self::random::Random;
pub use self::row::{AccountRow, KeyRow};
pub use self::sqlite::{Examined, Store, Watch, Write, examine};

use crate::access::key::{AccountId, Environment, KeyId, Status};
use crate::access::time::Timestamp;
use crate::index::{IndexedAccount, IndexedKey};

/// How often a running node marks itself.
pub const MARK_EVERY: Duration = Duration::from_secs(2);
/// For how long after a mark a node counts as live.
pub const LIVE_FOR: Duration = Duration::from_secs(6);

/// How to open a store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpenOptions {
    /// Whether to make the file, and its folder, if there is none.
    pub create: bool,
}

/// The name of one history of a store: 16 random bytes, written as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch([u8; 16]);

impl Epoch {
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    pub const fn to_bytes(self) -> [u8; 16] {
        self.0
    }

    /// Parses 32 lower-case hexadecimal digits.
    ///
    /// # Errors
    /// A sentence that says what one looks like.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{}` is no epoch: one is 32 lower-case hexadecimal digits", text.escape_debug());
        if text.len() != 32 || !text.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c)) {
            return Err(wrong());
        }
        u128::from_str_radix(text, 16).map(|number| Self(number.to_be_bytes())).map_err(|_| wrong())
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Epoch({self})")
    }
}

/// What tells a revision from one of the same number in another copy of the store: 8 random bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp([u8; 8]);

impl Stamp {
    /// That of revision 0, at which nothing has happened: there it is the epoch that tells stores apart.
    pub const BEGINNING: Self = Self([0; 8]);

    pub const fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(bytes)
    }

    pub const fn to_bytes(self) -> [u8; 8] {
        self.0
    }
}

/// How far a store has come, and on which way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Position {
    pub epoch: Epoch,
    /// The newest revision; 0 while nothing has happened.
    pub revision: u64,
    /// Of that revision.
    pub stamp: Stamp,
}

impl Position {
    /// That of a store in which nothing has happened.
    pub const fn beginning(epoch: Epoch) -> Self {
        Self { epoch, revision: 0, stamp: Stamp::BEGINNING }
    }
}

/// All that tells whether a store is the one, and in the state, that somebody knows; as it was at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Standing {
    pub position: Position,
    /// All epochs, the oldest first; the last one is current.
    pub lineage: Vec<Epoch>,
    /// The stamp of the revision that was asked for; none if the store has, or remembers, no such revision.
    pub stamp: Option<Stamp>,
}

/// A piece of the whole that [`Store::load_all`] hands out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Loaded {
    Account(IndexedAccount),
    Key(IndexedKey),
}

/// A running node, as it registered and last marked itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeEntry {
    /// Made new at each start.
    pub id: String,
    /// For people.
    pub name: String,
    pub version: String,
    pub started_at: Timestamp,
    pub last_seen: Timestamp,
    /// The revision that it enforces.
    pub revision: u64,
    /// Until when it may let requests pass without hearing from the store; None for ever. A node that has no index yet lets
    /// nobody pass: its lease ends when it registers.
    pub lease_ends: Option<Timestamp>,
}

impl NodeEntry {
    /// Whether its last mark is recent enough for it to be waited for. One from the future says nothing of the present.
    pub fn is_live(&self, now: Timestamp) -> bool {
        now.since(self.last_seen) <= LIVE_FOR && self.last_seen.since(now) <= LIVE_FOR
    }

    /// Whether it may still let requests pass, as far as the store knows.
    pub fn may_serve(&self, now: Timestamp) -> bool {
        self.lease_ends.is_none_or(|end| now < end)
    }
}

/// Which keys to list: newest first.
#[derive(Clone, Debug)]
pub struct KeyQuery {
    pub account: Option<AccountId>,
    pub environment: Option<Environment>,
    /// The status at `now`.
    pub status: Option<Status>,
    /// A part of the name or the hint, in any case, or the beginning of the id.
    pub text: Option<String>,
    /// Only keys that are older than this one by their ids.
    pub before: Option<KeyId>,
    pub limit: u32,
    pub now: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_is_read_back_as_it_was_written() {
        for bytes in [[0; 16], [255; 16], [1; 16]] {
            let epoch = Epoch::from_bytes(bytes);
            assert_eq!(Epoch::parse(&epoch.to_string()).unwrap(), epoch);
        }
        for wrong in ["", "0", "+0000000000000000000000000000001", &"A".repeat(32), &"0".repeat(33)] {
            assert!(Epoch::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_node_is_live_for_six_seconds_after_its_mark() {
        let mark = Timestamp::from_millis(1_000_000);
        let node = NodeEntry {
            id: "node_1".to_owned(),
            name: "here".to_owned(),
            version: "1".to_owned(),
            started_at: mark,
            last_seen: mark,
            revision: 0,
            lease_ends: Some(mark.plus(Duration::from_secs(60))),
        };
        assert!(node.is_live(mark.plus(LIVE_FOR)));
        assert!(!node.is_live(mark.plus(LIVE_FOR + Duration::from_millis(1))));
        // Clocks of two machines differ a little; one that was set back does not keep a dead node alive.
        assert!(node.is_live(mark.minus(LIVE_FOR)));
        assert!(!node.is_live(mark.minus(LIVE_FOR + Duration::from_millis(1))));
        assert!(node.may_serve(mark.plus(Duration::from_millis(59_999))));
        assert!(!node.may_serve(mark.plus(Duration::from_secs(60))));
    }
}

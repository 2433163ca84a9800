//! The bytes of a snapshot: what stands where, and how a record is written and read. No files and no threads.
//!
//! ```text
//! header   magic 8 · format 4 · epoch 16 · revision 8 · stamp 8 · heard_at 8 · keys 8 · accounts 8 · length of the body 8 · CRC-32 of these 4
//! body     blocks: kind 1 · length 4 · records. Of several records of one digest the last counts
//! trailer  BLAKE3 of the body and then the header, 32
//! ```
//! All numbers are little-endian. A key without narrowing takes `KEY` bytes. The header has a check of its own because its
//! counts decide how much memory is asked for, before the checksum of the whole can be known.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::SnapshotError;
use crate::access::address::{AddressRule, AddressSet};
use crate::access::key::{AccountId, Environment, KeyId, LifeState};
use crate::access::permission::{PermissionName, Permissions};
use crate::access::secret::Digest;
use crate::access::time::Timestamp;
use crate::index::{IndexedAccount, IndexedKey};
use crate::store::{Epoch, Position, Stamp};

/// The only format so far.
pub(super) const FORMAT: u32 = 1;
/// Begins with a byte that no text begins with and ends in the one that a transfer as text would change.
pub(super) const MAGIC: [u8; 8] = *b"\x89MARTIS\n";
pub(super) const HEADER: usize = 80;
pub(super) const TRAILER: usize = blake3::OUT_LEN;
pub(super) const BLOCK_HEAD: usize = 5;
/// A key without narrowing: digest, id, account, expiry, flags.
pub(super) const KEY: usize = 32 + 16 + 16 + 8 + 1;

const SANDBOX: u8 = 1;
const PAUSED: u8 = 1 << 1;
const REVOKED: u8 = 1 << 2;
const EXPIRES: u8 = 1 << 3;
const LISTED: u8 = 1 << 4;
const RESTRICTED: u8 = 1 << 5;
const KNOWN: u8 = SANDBOX | PAUSED | REVOKED | EXPIRES | LISTED | RESTRICTED;

/// The beginning of a snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Header {
    pub(super) position: Position,
    pub(super) heard_at: Timestamp,
    /// Different digests; the body may hold more records than that.
    pub(super) keys: u64,
    pub(super) accounts: u64,
    /// In bytes.
    pub(super) body: u64,
}

impl Header {
    pub(super) fn to_bytes(self) -> [u8; HEADER] {
        let mut bytes = Vec::with_capacity(HEADER);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend_from_slice(&self.position.epoch.to_bytes());
        bytes.extend_from_slice(&self.position.revision.to_le_bytes());
        bytes.extend_from_slice(&self.position.stamp.to_bytes());
        bytes.extend_from_slice(&self.heard_at.millis().to_le_bytes());
        for number in [self.keys, self.accounts, self.body] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        let check = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&check.to_le_bytes());
        bytes.try_into().expect("the fields of a header have fixed lengths")
    }

    /// Reads a header, which need not be there in full.
    ///
    /// # Errors
    /// Why it is none; the length of the file is compared by the caller.
    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, SnapshotError> {
        let shown = bytes.len().min(MAGIC.len());
        if bytes.get(..shown) != MAGIC.get(..shown) {
            return Err(SnapshotError::Foreign);
        }
        let truncated = SnapshotError::Truncated { expected: (HEADER + TRAILER) as u64, found: bytes.len() as u64 };
        let Some(bytes) = bytes.first_chunk::<HEADER>() else { return Err(truncated) };
        let mut fields = Fields(bytes.get(MAGIC.len()..).unwrap_or_default());
        // A newer format may have another header altogether: its number is looked at before the check.
        match fields.take().map(u32::from_le_bytes) {
            Some(found) if found > FORMAT => Err(SnapshotError::NewerFormat { found, known: FORMAT }),
            Some(FORMAT) => fields.header(bytes).ok_or(SnapshotError::Header),
            _ => Err(SnapshotError::Header),
        }
    }

    /// What the whole file takes; none if no file can be that long.
    pub(super) fn file_length(&self) -> Option<u64> {
        self.body.checked_add((HEADER + TRAILER) as u64)
    }
}

/// What the records of a block are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Keys,
    Accounts,
}

impl Kind {
    pub(super) fn head(self, length: u32) -> [u8; BLOCK_HEAD] {
        let kind = match self {
            Self::Keys => 1,
            Self::Accounts => 2,
        };
        let [a, b, c, d] = length.to_le_bytes();
        [kind, a, b, c, d]
    }

    /// The kind, and the length of the records in bytes.
    pub(super) fn of_head(head: [u8; BLOCK_HEAD]) -> Option<(Self, u32)> {
        let [kind, length @ ..] = head;
        let kind = match kind {
            1 => Self::Keys,
            2 => Self::Accounts,
            _ => return None,
        };
        Some((kind, u32::from_le_bytes(length)))
    }
}

pub(super) fn put_account(out: &mut Vec<u8>, account: &IndexedAccount) {
    out.extend_from_slice(&account.id.to_bytes());
    out.push(u8::from(account.suspended));
}

pub(super) fn put_key(out: &mut Vec<u8>, key: &IndexedKey) {
    out.extend_from_slice(key.digest.as_bytes());
    out.extend_from_slice(&key.id.to_bytes());
    out.extend_from_slice(&key.account.to_bytes());
    out.extend_from_slice(&key.expires_at.map_or(0, Timestamp::millis).to_le_bytes());
    out.push(flags(key));
    if let Some(names) = key.permissions.names() {
        put_count(out, names.len());
        for name in names {
            // A name has at most 100 bytes.
            out.push(name.as_str().len() as u8);
            out.extend_from_slice(name.as_str().as_bytes());
        }
    }
    if let AddressRule::Only(set) = &key.addresses {
        let (v4, v6) = set.ranges();
        put_count(out, v4.len());
        v4.iter().flat_map(|(first, last)| [first, last]).for_each(|address| out.extend_from_slice(&address.octets()));
        put_count(out, v6.len());
        v6.iter().flat_map(|(first, last)| [first, last]).for_each(|address| out.extend_from_slice(&address.octets()));
    }
}

/// A list too long for its count would be read back as damaged, not as another list; no store holds one.
fn put_count(out: &mut Vec<u8>, count: usize) {
    out.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
}

fn flags(key: &IndexedKey) -> u8 {
    let environment = match key.environment {
        Environment::Production => 0,
        Environment::Sandbox => SANDBOX,
    };
    let state = match key.state {
        LifeState::Active => 0,
        LifeState::Paused => PAUSED,
        LifeState::Revoked => REVOKED,
    };
    let expires = if key.expires_at.is_some() { EXPIRES } else { 0 };
    let listed = if key.permissions == Permissions::Full { 0 } else { LISTED };
    let restricted = if key.addresses == AddressRule::Anywhere { 0 } else { RESTRICTED };
    environment | state | expires | listed | restricted
}

/// Bytes that are taken apart from the front. Whatever does not fit, down to a flag that has no meaning, gives none.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn account(&mut self) -> Option<IndexedAccount> {
        let id = AccountId::from_bytes(self.take()?);
        let suspended = match self.take()? {
            [0] => false,
            [1] => true,
            _ => return None,
        };
        Some(IndexedAccount { id, suspended })
    }

    pub(super) fn key(&mut self) -> Option<IndexedKey> {
        let digest = Digest::from_bytes(self.take()?);
        let id = KeyId::from_bytes(self.take()?);
        let account = AccountId::from_bytes(self.take()?);
        let expiry = i64::from_le_bytes(self.take()?);
        let [flags] = self.take()?;
        let state = match flags & (PAUSED | REVOKED) {
            0 => LifeState::Active,
            PAUSED => LifeState::Paused,
            REVOKED => LifeState::Revoked,
            _ => return None,
        };
        Some(IndexedKey {
            digest,
            id,
            account,
            environment: if flags & SANDBOX == 0 { Environment::Production } else { Environment::Sandbox },
            state,
            expires_at: expires_at(expiry, flags)?,
            permissions: if flags & LISTED == 0 { Permissions::Full } else { self.permissions()? },
            addresses: if flags & RESTRICTED == 0 { AddressRule::Anywhere } else { AddressRule::Only(self.addresses()?) },
        })
    }

    pub(super) fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn header(&mut self, whole: &[u8; HEADER]) -> Option<Header> {
        let epoch = Epoch::from_bytes(self.take()?);
        let revision = u64::from_le_bytes(self.take()?);
        let position = Position { epoch, revision, stamp: Stamp::from_bytes(self.take()?) };
        let heard_at = moment(i64::from_le_bytes(self.take()?))?;
        let mut number = || self.take().map(u64::from_le_bytes);
        let header = Header { position, heard_at, keys: number()?, accounts: number()?, body: number()? };
        (header.to_bytes() == *whole).then_some(header)
    }

    fn permissions(&mut self) -> Option<Permissions> {
        let names: Option<Vec<_>> = (0..self.count()?).map(|_| self.name()).collect();
        Permissions::list(names?)
    }

    fn name(&mut self) -> Option<PermissionName> {
        let [length] = self.take()?;
        let (name, rest) = self.0.split_at_checked(usize::from(length))?;
        self.0 = rest;
        PermissionName::parse(std::str::from_utf8(name).ok()?).ok()
    }

    fn addresses(&mut self) -> Option<AddressSet> {
        let v4: Option<Vec<_>> = (0..self.count()?).map(|_| Some((self.v4()?, self.v4()?))).collect();
        let v6: Option<Vec<_>> = (0..self.count()?).map(|_| Some((self.v6()?, self.v6()?))).collect();
        AddressSet::from_ranges(v4?, v6?)
    }

    fn v4(&mut self) -> Option<Ipv4Addr> {
        self.take::<4>().map(Ipv4Addr::from)
    }

    fn v6(&mut self) -> Option<Ipv6Addr> {
        self.take::<16>().map(Ipv6Addr::from)
    }

    fn count(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }
}

fn expires_at(expiry: i64, flags: u8) -> Option<Option<Timestamp>> {
    match flags & EXPIRES {
        _ if flags & !KNOWN != 0 => None,
        0 => (expiry == 0).then_some(None),
        _ => moment(expiry).map(Some),
    }
}

/// None for a number that no [`Timestamp`] holds.
pub(super) fn moment(millis: i64) -> Option<Timestamp> {
    Some(Timestamp::from_millis(millis)).filter(|moment| moment.millis() == millis)
}

//! The keys in memory: from the digest of a secret to the record that the decision needs.
//!
//! One map, one truth. [`IndexWriter`] is the only one who changes it and is not `Clone`; readers are cheap clones and never
//! wait for a store or for a batch of the writer. A full load is built aside and swapped in whole; single changes go in place,
//! in the order of their revisions. Revoked keys stay as tombstones. A load that fails swaps nothing: the last good index stays
//! in service and its age shows. Look-ups are by closure: neither a guard of the map nor a reference into it leaves this file.
//!
//! The age of an index counts by the wall clock, so that it outlives the process. A clock that is set back must not make an
//! index younger: [`IndexWriter::aging`] gives the handle with which somebody who knows the monotonic time sees to that.
//!
//! Deliberately absent: anything that waits. There is no store, no network, no clock and no `async` here.

use std::collections::HashSet;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use dashmap::DashMap;

use crate::access::address::AddressRule;
use crate::access::key::{AccountId, Environment, Found, KeyId, KeyRecord, Life, LifeState, Narrowing};
use crate::access::permission::Permissions;
use crate::access::secret::Digest;
use crate::access::time::Timestamp;

/// Many, so that the map's locks are held for one small part of it at a time: a part's growth, or its copying into a snapshot,
/// must not be felt by requests.
const SHARDS: usize = 512;

/// An index without content, of which nobody is told yet that it may serve.
pub fn new_index(max_staleness: Option<Duration>) -> (IndexWriter, IndexReader) {
    let shared = Arc::new(Shared {
        generation: ArcSwap::from_pointee(Generation::with_room_for(0)),
        revision: AtomicU64::new(0),
        heard_at: AtomicI64::new(NEVER_HEARD),
        heard_by: Mutex::new(None),
        max_staleness: max_staleness.map_or(i64::MAX, |limit| i64::try_from(limit.as_millis()).unwrap_or(i64::MAX)),
    });
    (IndexWriter { shared: Arc::clone(&shared) }, IndexReader { shared })
}

/// A key as a store or a snapshot holds it, with all that a decision needs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IndexedKey {
    pub digest: Digest,
    pub id: KeyId,
    pub account: AccountId,
    pub environment: Environment,
    pub state: LifeState,
    pub expires_at: Option<Timestamp>,
    pub permissions: Permissions,
    pub addresses: AddressRule,
}

/// An account likewise.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IndexedAccount {
    pub id: AccountId,
    pub suspended: bool,
}

/// What a single change leaves behind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum IndexChange {
    Key(IndexedKey),
    Account(IndexedAccount),
}

/// The read side. Cheap to clone.
#[derive(Clone)]
pub struct IndexReader {
    shared: Arc<Shared>,
}

/// The write side: there is one.
pub struct IndexWriter {
    shared: Arc<Shared>,
}

/// The part of the write side that lets an index grow old. Cheap to clone.
#[derive(Clone)]
pub struct Aging {
    shared: Arc<Shared>,
}

/// A whole index being built aside.
pub struct Load(Generation);

/// A change that is not the next one: the caller has to load anew.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("revision {found} came where {expected} was due")]
pub struct OutOfOrder {
    pub expected: u64,
    pub found: u64,
}

type Keys = DashMap<Digest, KeyRecord, BuildHasherDefault<AlreadyUniform>>;

/// All that is replaced together by a full load.
struct Generation {
    keys: Keys,
    /// Few or none, and so always at hand: a record that pointed to its account would cost each decision a wait for memory.
    suspended: ArcSwap<HashSet<AccountId>>,
    any_suspended: AtomicBool,
}

const NEVER_HEARD: i64 = i64::MIN;

struct Shared {
    generation: ArcSwap<Generation>,
    revision: AtomicU64,
    /// When the store last said what its newest revision is, in milliseconds since the Unix epoch. Written under the lock of
    /// `heard_by` alone.
    heard_at: AtomicI64,
    /// The same by the monotonic clock; none until that is known. No request comes near it.
    heard_by: Mutex<Option<Instant>>,
    /// In milliseconds.
    max_staleness: i64,
}

impl IndexReader {
    /// Looks up a key and hands it to `ask`, while the map's part that holds it is locked for reading: `ask` must be short.
    #[inline]
    pub fn look_up<R>(&self, digest: &Digest, ask: impl FnOnce(Option<Found<'_>>) -> R) -> R {
        let generation = self.shared.generation.load();
        let record = generation.keys.get(digest);
        let found = |record| Found { record, account_suspended: generation.is_suspended(&record.account) };
        ask(record.as_deref().map(found))
    }

    /// Whether decisions may be made: there is an index, and it was known to be current within `snapshot.max_staleness`.
    #[inline]
    pub fn may_serve(&self, now: Timestamp) -> bool {
        let heard_at = self.shared.heard_at.load(Ordering::Acquire);
        heard_at != NEVER_HEARD && now.millis().saturating_sub(heard_at) <= self.shared.max_staleness
    }

    /// Since when the index may be behind the store; None while there is no index.
    pub fn heard_at(&self) -> Option<Timestamp> {
        let heard_at = self.shared.heard_at.load(Ordering::Acquire);
        (heard_at != NEVER_HEARD).then(|| Timestamp::from_millis(heard_at))
    }

    /// When the lease is over if the store is not heard from again; None for never, or while there is no index.
    pub fn lease_ends(&self) -> Option<Timestamp> {
        let limited = self.shared.max_staleness != i64::MAX;
        self.heard_at().filter(|_| limited).map(|at| Timestamp::from_millis(at.millis().saturating_add(self.shared.max_staleness)))
    }

    /// The revision that is enforced.
    pub fn revision(&self) -> u64 {
        self.shared.revision.load(Ordering::Acquire)
    }

    /// The number of keys, tombstones included.
    pub fn len(&self) -> usize {
        self.shared.generation.load().keys.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Shows each key once. Keys that change meanwhile are shown as they were or as they are; keys that are added meanwhile
    /// may be missed: whoever needs one revision has to ask again for what changed. Holds one part of the map locked for
    /// reading at a time.
    pub fn for_each<E>(&self, mut show: impl FnMut(IndexedKey) -> Result<(), E>) -> Result<(), E> {
        let generation = self.shared.generation.load_full();
        generation.keys.iter().try_for_each(|entry| show(indexed(*entry.key(), entry.value())))
    }

    /// One key in full.
    pub fn key(&self, digest: &Digest) -> Option<IndexedKey> {
        self.look_up(digest, |found| found.map(|found| indexed(*digest, found.record)))
    }
}

impl IndexWriter {
    pub fn reader(&self) -> IndexReader {
        IndexReader { shared: Arc::clone(&self.shared) }
    }

    /// Begins a whole index aside, with room for about `keys`.
    pub fn load(keys: usize) -> Load {
        Load(Generation::with_room_for(keys))
    }

    /// Puts a whole index into service.
    pub fn swap(&mut self, load: Load, revision: u64, heard_at: Timestamp) {
        self.shared.generation.store(Arc::new(load.0));
        self.shared.revision.store(revision, Ordering::Release);
        // Last: with it the index may serve.
        self.shared.heard(heard_at, None);
    }

    /// Puts the change of the next revision into service. The next decision sees it.
    ///
    /// # Errors
    /// Any other revision; nothing is changed then.
    pub fn apply(&mut self, revision: u64, change: IndexChange) -> Result<(), OutOfOrder> {
        let expected = self.shared.revision.load(Ordering::Acquire) + 1;
        if revision != expected {
            return Err(OutOfOrder { expected, found: revision });
        }
        match change {
            IndexChange::Key(key) => self.shared.generation.load().insert(key),
            IndexChange::Account(account) => self.shared.generation.load().set_account(account),
        }
        self.shared.revision.store(revision, Ordering::Release);
        Ok(())
    }

    /// The store said what its newest revision is, and it is the one in service; when, by both clocks.
    pub fn heard(&self, at: Timestamp, by: Instant) {
        self.shared.heard(at, Some(by));
    }

    /// For whoever watches the time.
    pub fn aging(&self) -> Aging {
        Aging { shared: Arc::clone(&self.shared) }
    }

    /// The accounts that are suspended; of others nothing is kept.
    pub fn suspended(&self) -> Vec<AccountId> {
        self.shared.generation.load().suspended.load().iter().copied().collect()
    }
}

impl Aging {
    /// Sees to it that the index is no younger than the monotonic time since the store was heard from, whatever became of the
    /// wall clock meanwhile: if it would be, the moment of hearing is put back. To be called often enough for the lease to end
    /// in time, with the present by both clocks.
    pub fn pass(&self, now: Timestamp, monotonic: Instant) {
        let mut heard_by = self.shared.heard_by.lock().unwrap_or_else(PoisonError::into_inner);
        let heard_at = self.shared.heard_at.load(Ordering::Acquire);
        if heard_at == NEVER_HEARD {
            return;
        }
        // An index that came with nothing but a time is as old as that says, and grows older from here on.
        let so_old = || monotonic.checked_sub(now.since(Timestamp::from_millis(heard_at))).unwrap_or(monotonic);
        let age = monotonic.saturating_duration_since(*heard_by.get_or_insert_with(so_old));
        let latest = now.minus(age).millis();
        if latest < heard_at {
            self.shared.heard_at.store(latest, Ordering::Release);
        }
    }
}

impl Shared {
    fn heard(&self, at: Timestamp, by: Option<Instant>) {
        let mut heard_by = self.heard_by.lock().unwrap_or_else(PoisonError::into_inner);
        *heard_by = by;
        self.heard_at.store(at.millis(), Ordering::Release);
    }
}

impl Load {
    pub fn key(&mut self, key: IndexedKey) {
        self.0.insert(key);
    }

    pub fn account(&mut self, account: IndexedAccount) {
        self.0.set_account(account);
    }

    pub fn len(&self) -> usize {
        self.0.keys.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.keys.is_empty()
    }
}

impl Generation {
    fn with_room_for(keys: usize) -> Self {
        Self {
            keys: Keys::with_capacity_and_hasher_and_shard_amount(keys, BuildHasherDefault::default(), SHARDS),
            suspended: ArcSwap::default(),
            any_suspended: AtomicBool::new(false),
        }
    }

    #[inline]
    fn is_suspended(&self, account: &AccountId) -> bool {
        self.any_suspended.load(Ordering::Acquire) && self.suspended.load().contains(account)
    }

    fn insert(&self, key: IndexedKey) {
        let record = KeyRecord {
            id: key.id,
            account: key.account,
            life: Life::new(key.environment, key.state, key.expires_at),
            narrowing: Narrowing::of(key.permissions, key.addresses),
        };
        self.keys.insert(key.digest, record);
    }

    /// Suspensions are rare: the set is copied for each.
    fn set_account(&self, account: IndexedAccount) {
        if self.suspended.load().contains(&account.id) == account.suspended {
            return;
        }
        let mut suspended = HashSet::clone(&self.suspended.load());
        if account.suspended {
            suspended.insert(account.id);
        } else {
            suspended.remove(&account.id);
        }
        let any = !suspended.is_empty();
        self.suspended.store(Arc::new(suspended));
        self.any_suspended.store(any, Ordering::Release);
    }
}

fn indexed(digest: Digest, record: &KeyRecord) -> IndexedKey {
    let narrowing = record.narrowing.as_deref();
    IndexedKey {
        digest,
        id: record.id,
        account: record.account,
        environment: record.life.environment(),
        state: record.life.state(),
        expires_at: record.life.expires_at(),
        permissions: narrowing.map_or(Permissions::Full, |narrowing| narrowing.permissions.clone()),
        addresses: narrowing.map_or(AddressRule::Anywhere, |narrowing| narrowing.addresses.clone()),
    }
}

impl fmt::Debug for IndexReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IndexReader").field("keys", &self.len()).field("revision", &self.revision()).finish_non_exhaustive()
    }
}

impl fmt::Debug for IndexWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IndexWriter").field("reader", &self.reader()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Aging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Aging").finish_non_exhaustive()
    }
}

impl fmt::Debug for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Load").field("keys", &self.len()).finish_non_exhaustive()
    }
}

/// Hands on the eight bytes that [`Digest`] hashes itself to: BLAKE3 spread them evenly already, and only digests of keys
/// that the platform made or imported are ever inserted, so nobody chooses them to collide.
#[derive(Default, Clone, Copy)]
struct AlreadyUniform(u64);

impl Hasher for AlreadyUniform {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }

    fn write(&mut self, bytes: &[u8]) {
        // Not used by `Digest`; correct, if slow, for anything else.
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u8, state: LifeState) -> IndexedKey {
        IndexedKey {
            digest: Digest::of(&[number]),
            id: KeyId::from_bytes([number; 16]),
            account: AccountId::from_bytes([7; 16]),
            environment: Environment::Sandbox,
            state,
            expires_at: None,
            permissions: Permissions::Full,
            addresses: AddressRule::Anywhere,
        }
    }

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    #[test]
    fn an_index_serves_nobody_before_its_first_load_and_after_its_lease() {
        let (mut writer, reader) = new_index(Some(Duration::from_millis(50)));
        assert!(!reader.may_serve(at(0)));
        writer.swap(IndexWriter::load(0), 3, at(100));
        assert!(reader.may_serve(at(150)));
        assert!(!reader.may_serve(at(151)));
        writer.heard(at(151), Instant::now());
        assert!(reader.may_serve(at(201)));
        assert_eq!(reader.lease_ends(), Some(at(201)));
    }

    #[test]
    fn a_clock_that_stands_still_makes_no_lease_longer() {
        let (began, millis) = (Instant::now(), Duration::from_millis);
        let (mut writer, reader) = new_index(Some(millis(50)));
        let aging = writer.aging();
        aging.pass(at(100), began);
        writer.swap(IndexWriter::load(0), 3, at(90));
        // The wall clock shows 100 all the while, as it does after it was set back.
        for (passed, oldest) in [(0, 90), (30, 60), (40, 50)] {
            aging.pass(at(100), began + millis(passed));
            assert_eq!((reader.heard_at(), reader.may_serve(at(100))), (Some(at(oldest)), true));
        }
        aging.pass(at(100), began + millis(41));
        assert!(!reader.may_serve(at(100)), "the lease is over by the monotonic clock");
        // Heard from again, also at the moment that the wall clock still shows, it is young again.
        writer.heard(at(100), began + millis(60));
        aging.pass(at(100), began + millis(70));
        assert_eq!(reader.heard_at(), Some(at(90)));
        // Of the two clocks the one by which it is older counts.
        aging.pass(at(130), began + millis(70));
        assert_eq!((reader.heard_at(), reader.may_serve(at(141))), (Some(at(90)), false));
    }

    #[test]
    fn without_a_limit_the_lease_never_ends() {
        let (mut writer, reader) = new_index(None);
        writer.swap(IndexWriter::load(0), 0, at(0));
        assert!(reader.may_serve(at(i64::MAX)));
        assert_eq!(reader.lease_ends(), None);
    }

    #[test]
    fn changes_go_in_one_by_one_and_in_order_only() {
        let (mut writer, reader) = new_index(None);
        let mut load = IndexWriter::load(1);
        load.key(key(1, LifeState::Active));
        writer.swap(load, 5, at(0));
        assert_eq!(writer.apply(7, IndexChange::Key(key(1, LifeState::Revoked))), Err(OutOfOrder { expected: 6, found: 7 }));
        assert_eq!(reader.key(&Digest::of(&[1])).unwrap().state, LifeState::Active);
        writer.apply(6, IndexChange::Key(key(1, LifeState::Revoked))).unwrap();
        assert_eq!(reader.key(&Digest::of(&[1])), Some(key(1, LifeState::Revoked)));
        assert_eq!((reader.revision(), reader.len()), (6, 1));
    }

    #[test]
    fn suspending_an_account_is_seen_through_each_of_its_keys() {
        let (mut writer, reader) = new_index(None);
        let mut load = IndexWriter::load(2);
        load.key(key(1, LifeState::Active));
        writer.swap(load, 0, at(0));
        writer.apply(1, IndexChange::Account(IndexedAccount { id: AccountId::from_bytes([7; 16]), suspended: true })).unwrap();
        writer.apply(2, IndexChange::Key(key(2, LifeState::Active))).unwrap();
        for number in [1, 2] {
            assert!(reader.look_up(&Digest::of(&[number]), |found| found.unwrap().account_suspended));
        }
    }

    #[test]
    fn a_swap_replaces_everything() {
        let (mut writer, reader) = new_index(None);
        let mut load = IndexWriter::load(1);
        load.key(key(1, LifeState::Active));
        writer.swap(load, 0, at(0));
        let mut load = IndexWriter::load(1);
        load.key(key(2, LifeState::Active));
        load.account(IndexedAccount { id: AccountId::from_bytes([7; 16]), suspended: true });
        writer.swap(load, 9, at(1));
        assert_eq!(reader.key(&Digest::of(&[1])), None);
        assert!(reader.look_up(&Digest::of(&[2]), |found| found.unwrap().account_suspended));
        assert_eq!(writer.suspended(), [AccountId::from_bytes([7; 16])]);
    }

    #[test]
    fn every_key_is_shown_once() {
        let (mut writer, reader) = new_index(None);
        let mut load = IndexWriter::load(100);
        (0..100).for_each(|number| load.key(key(number, LifeState::Active)));
        writer.swap(load, 0, at(0));
        let mut shown = Vec::new();
        let gather = |key: IndexedKey| {
            shown.push(key.id);
            Ok::<_, ()>(())
        };
        reader.for_each(gather).unwrap();
        shown.sort();
        assert_eq!(shown, (0..100).map(|number| KeyId::from_bytes([number; 16])).collect::<Vec<_>>());
    }
}

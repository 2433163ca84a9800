//! Snapshots written, read and spoilt: on real files, since the files are what is promised.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::mpsc;
use std::thread;

use proptest::prelude::*;
use tempfile::TempDir;

use super::format::{BLOCK_HEAD, HEADER, KEY, TRAILER};
use super::*;
use crate::access::address::{AddressRule, IpRestrictions};
use crate::access::key::{AccountId, Environment, KeyId, LifeState};
use crate::access::permission::{PermissionName, Permissions};
use crate::access::secret::Digest;
use crate::index::{IndexChange, IndexReader, IndexWriter, IndexedAccount, IndexedKey, Load, new_index};
use crate::store::{Epoch, Stamp};

const EPOCH: Epoch = Epoch::from_bytes([9; 16]);
const HEARD: Timestamp = Timestamp::from_millis(1_800_000_000_000);

/// What a decision can depend on, in an order that two of them can be compared in.
type Content = (Vec<IndexedKey>, Vec<IndexedAccount>);

struct Place {
    _folder: TempDir,
    file: SnapshotFile,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = SnapshotFile::new(folder.path().join("data/keys.snapshot"));
        Self { _folder: folder, file }
    }

    /// A snapshot of a few keys of every sort, and its bytes.
    fn written() -> (Self, Vec<u8>) {
        let place = Self::new();
        place.write(&a_few_keys(), 7);
        let bytes = fs::read(place.file.path()).unwrap();
        (place, bytes)
    }

    fn write(&self, content: &Content, revision: u64) -> Facts {
        let (writer, reader) = in_service(content, revision);
        self.file.write(&reader, || Some(ending(&writer, vec![]))).unwrap()
    }

    /// What reading says once the file has these bytes.
    fn refusal(&self, bytes: &[u8]) -> SnapshotError {
        fs::write(self.file.path(), bytes).unwrap();
        let refusal = read(self.file.path()).expect_err("a spoilt snapshot was read");
        assert!(self.file.find().0.is_none());
        refusal
    }
}

fn key(number: u64) -> IndexedKey {
    let mut id = [0; 16];
    id[8..].copy_from_slice(&number.to_be_bytes());
    IndexedKey {
        digest: Digest::of(&number.to_be_bytes()),
        id: KeyId::from_bytes(id),
        account: AccountId::from_bytes([(number % 3) as u8; 16]),
        environment: if number.is_multiple_of(2) { Environment::Production } else { Environment::Sandbox },
        state: LifeState::Active,
        expires_at: None,
        permissions: Permissions::Full,
        addresses: AddressRule::Anywhere,
    }
}

fn narrowed(number: u64) -> IndexedKey {
    let names = ["b:write", "a:read"].map(|name| PermissionName::parse(name).unwrap());
    let addresses = IpRestrictions::parse(true, &["203.0.113.0/24", "10.0.0.1", "2001:db8::/32"]).unwrap();
    IndexedKey {
        state: LifeState::Revoked,
        expires_at: Some(HEARD),
        permissions: Permissions::list(names.into()).unwrap(),
        addresses: addresses.rule(),
        ..key(number)
    }
}

fn account(number: u8, suspended: bool) -> IndexedAccount {
    IndexedAccount { id: AccountId::from_bytes([number; 16]), suspended }
}

fn a_few_keys() -> Content {
    let paused = IndexedKey { state: LifeState::Paused, addresses: IpRestrictions::stored(true, vec![]).rule(), ..key(1) };
    (vec![key(0), paused, narrowed(2), key(3)], vec![account(0, true), account(1, true), account(2, true)])
}

fn in_service((keys, accounts): &Content, revision: u64) -> (IndexWriter, IndexReader) {
    let (mut writer, reader) = new_index(None);
    let mut load = IndexWriter::load(keys.len());
    keys.iter().for_each(|key| load.key(key.clone()));
    accounts.iter().for_each(|&account| load.account(account));
    writer.swap(load, revision, HEARD);
    (writer, reader)
}

fn at(revision: u64) -> Position {
    Position { epoch: EPOCH, revision, stamp: Stamp::from_bytes([5; 8]) }
}

fn ending(writer: &IndexWriter, changes: Vec<IndexChange>) -> Ending {
    Ending::of(writer, at(writer.reader().revision()), changes).unwrap()
}

fn content_of(load: Load) -> Content {
    let (mut writer, _) = new_index(None);
    writer.swap(load, 0, HEARD);
    content(&writer)
}

fn content(writer: &IndexWriter) -> Content {
    let mut keys = Vec::new();
    let gather = |key| {
        keys.push(key);
        Ok::<_, ()>(())
    };
    writer.reader().for_each(gather).unwrap();
    keys.sort_by_key(|key| *key.digest.as_bytes());
    let mut accounts: Vec<_> = writer.suspended().into_iter().map(|id| IndexedAccount { id, suspended: true }).collect();
    accounts.sort_by_key(|account| account.id);
    (keys, accounts)
}

/// As the content of an index with these in it is shown.
fn sorted(content: &Content) -> Content {
    super::tests::content(&in_service(content, 0).0)
}

#[test]
fn what_was_written_is_read_with_its_facts() {
    let place = Place::new();
    let written = place.write(&a_few_keys(), 7);
    let (facts, load) = read(place.file.path()).unwrap();
    assert_eq!(facts, written);
    assert_eq!((facts.position, facts.heard_at, facts.keys, facts.suspended_accounts), (at(7), HEARD, 4, 3));
    assert_eq!(facts.length, fs::metadata(place.file.path()).unwrap().len());
    assert_eq!(show(place.file.path()).unwrap(), facts);
    assert_eq!(content_of(load), sorted(&a_few_keys()));
}

#[test]
fn an_index_without_keys_is_a_snapshot_like_any_other() {
    let place = Place::new();
    let facts = place.write(&Content::default(), 0);
    assert_eq!(facts.length as usize, HEADER + TRAILER);
    assert!(read(place.file.path()).unwrap().1.is_empty());
}

#[test]
fn many_blocks_are_read_like_one() {
    let place = Place::new();
    let content: Content = ((0..20_000).map(|number| if number % 10 == 0 { narrowed(number) } else { key(number) }).collect(), vec![]);
    place.write(&content, 1);
    assert_eq!(content_of(read(place.file.path()).unwrap().1), sorted(&content));
}

#[test]
fn a_snapshot_is_for_its_owner_alone_and_leaves_nothing_beside_it() {
    let (place, _) = Place::written();
    assert_eq!(fs::metadata(place.file.path()).unwrap().permissions().mode() & 0o777, 0o600);
    let folder = place.file.path().parent().unwrap();
    assert_eq!(fs::metadata(folder).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(names_in(folder), ["keys.snapshot"]);
}

#[test]
fn every_flipped_bit_is_found() {
    let (place, bytes) = Place::written();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut spoilt = bytes.clone();
            spoilt[at] ^= 1 << bit;
            place.refusal(&spoilt);
        }
    }
}

#[test]
fn each_part_of_the_file_is_refused_with_its_own_reason() {
    let (place, bytes) = Place::written();
    let flipped = |at: usize| {
        let mut spoilt = bytes.clone();
        spoilt[at] ^= 0x80;
        place.refusal(&spoilt)
    };
    let end = bytes.len();
    for in_magic in [0, 7] {
        assert!(matches!(flipped(in_magic), SnapshotError::Foreign));
    }
    assert!(matches!(flipped(11), SnapshotError::NewerFormat { known: 1, .. }));
    // Epoch, revision, stamp, moment, keys, accounts, length, check: the first and the last byte of each.
    for (first, last) in [(12, 27), (28, 35), (36, 43), (44, 51), (52, 59), (60, 67), (68, 75), (76, 79)] {
        assert!(matches!(flipped(first), SnapshotError::Header), "{first}");
        assert!(matches!(flipped(last), SnapshotError::Header), "{last}");
    }
    // The kind and the length of the first block; flags that mean nothing.
    let first_flags = HEADER + BLOCK_HEAD + KEY - 1;
    for in_frame in [HEADER, HEADER + BLOCK_HEAD - 1, first_flags] {
        assert!(matches!(flipped(in_frame), SnapshotError::Body { at: 80, .. }), "{in_frame}");
    }
    // A byte of a digest in the first record, of an account's id in the last, and of the checksum itself.
    for at in [HEADER + BLOCK_HEAD, end - TRAILER - 2, end - TRAILER, end - 1] {
        assert!(matches!(flipped(at), SnapshotError::Checksum), "{at}");
    }
}

#[test]
fn a_snapshot_cut_off_anywhere_is_truncated() {
    let (place, bytes) = Place::written();
    for length in 0..bytes.len() {
        match place.refusal(&bytes[..length]) {
            SnapshotError::Truncated { expected, found } => {
                assert_eq!(found, length as u64);
                assert!(length < HEADER || expected == bytes.len() as u64);
            }
            other => panic!("cut off at {length}: {other}"),
        }
    }
}

#[test]
fn a_byte_behind_the_end_is_refused() {
    let (place, bytes) = Place::written();
    assert!(matches!(place.refusal(&[&bytes[..], &[0]].concat()), SnapshotError::Surplus { surplus: 1 }));
}

#[test]
fn what_is_no_snapshot_is_called_so() {
    let place = Place::written().0;
    for foreign in [&b"SQLite format 3\0"[..], b"#", &[0; 4096], "{\"keys\":[]}".as_bytes()] {
        assert!(matches!(place.refusal(foreign), SnapshotError::Foreign));
    }
    assert!(matches!(place.refusal(b""), SnapshotError::Truncated { found: 0, .. }));
    fs::remove_file(place.file.path()).unwrap();
    assert!(matches!(read(place.file.path()), Err(SnapshotError::Missing)));
    fs::create_dir(place.file.path()).unwrap();
    assert!(matches!(read(place.file.path()), Err(SnapshotError::Unreadable(_))));
}

/// Sets the header's number at a place, and makes both checks fit again.
fn forged(bytes: &[u8], at: usize, number: &[u8]) -> Vec<u8> {
    let mut forged = bytes.to_vec();
    forged[at..at + number.len()].copy_from_slice(number);
    let check = crc32fast::hash(&forged[..HEADER - 4]).to_le_bytes();
    forged[HEADER - 4..HEADER].copy_from_slice(&check);
    let trailer = forged.len() - TRAILER;
    let mut hasher = blake3::Hasher::new();
    hasher.update(&forged[HEADER..trailer]).update(&forged[..HEADER]);
    forged[trailer..].copy_from_slice(hasher.finalize().as_bytes());
    forged
}

#[test]
fn a_newer_format_is_named_and_not_guessed_at() {
    let (place, bytes) = Place::written();
    let refusal = place.refusal(&forged(&bytes, 8, &2_u32.to_le_bytes()));
    assert!(matches!(refusal, SnapshotError::NewerFormat { found: 2, known: 1 }), "{refusal}");
}

#[test]
fn counts_that_do_not_fit_are_refused_even_with_good_checks() {
    let (place, bytes) = Place::written();
    assert!(matches!(place.refusal(&forged(&bytes, 52, &3_u64.to_le_bytes())), SnapshotError::Count { of: "keys", expected: 3, found: 4 }));
    assert!(matches!(
        place.refusal(&forged(&bytes, 60, &4_u64.to_le_bytes())),
        SnapshotError::Count { of: "accounts", expected: 4, found: 3 }
    ));
    // More than could stand in the body: no memory is asked for.
    for absurd in [1 << 20, u64::MAX] {
        assert!(matches!(place.refusal(&forged(&bytes, 52, &absurd.to_le_bytes())), SnapshotError::Header));
    }
    assert!(matches!(place.refusal(&forged(&bytes, 68, &u64::MAX.to_le_bytes())), SnapshotError::Header));
}

#[test]
fn what_changes_while_it_is_copied_is_in_it_as_it_was_at_the_end() {
    let place = Place::new();
    let (mut writer, reader) = in_service(&((0..20_000).map(key).collect(), vec![]), 0);
    let (ask, asked) = mpsc::sync_channel::<mpsc::Sender<Ending>>(1);
    thread::scope(|scope| {
        let writing = scope.spawn(|| {
            place.file.write(&reader, || {
                let (answer, answered) = mpsc::channel();
                ask.send(answer).unwrap();
                answered.recv().ok()
            })
        });
        let mut changes = Vec::new();
        let mut change = |number: u64| {
            let change = match number % 4 {
                0 => IndexChange::Account(account((number % 3) as u8, number.is_multiple_of(8))),
                // Keys that are new, and old ones more than once.
                1 => IndexChange::Key(key(20_000 + number)),
                _ => IndexChange::Key(if number % 50 < 25 { narrowed(number % 1_000) } else { key(number % 1_000) }),
            };
            writer.apply(reader.revision() + 1, change.clone()).unwrap();
            changes.push(change);
        };
        let mut numbers = 1..;
        let answer = loop {
            change(numbers.next().unwrap());
            if let Ok(answer) = asked.try_recv() {
                break answer;
            }
        };
        numbers.take(500).for_each(&mut change);
        answer.send(ending(&writer, changes)).unwrap();
        let facts = writing.join().unwrap().unwrap();
        assert_eq!((facts.position.revision, facts.keys), (reader.revision(), reader.len() as u64));
    });
    assert_eq!(content_of(read(place.file.path()).unwrap().1), content(&writer));
}

#[test]
fn a_copy_that_was_overtaken_leaves_what_was_there() {
    let (place, bytes) = Place::written();
    let (_, reader) = in_service(&a_few_keys(), 8);
    assert!(matches!(place.file.write(&reader, || None), Err(WriteError::Overtaken)));
    assert_eq!(fs::read(place.file.path()).unwrap(), bytes);
    assert_eq!(names_in(place.file.path().parent().unwrap()), ["keys.snapshot"]);
}

#[test]
fn the_generation_before_is_kept_and_used_when_the_newest_is_spoilt() {
    let place = Place::new();
    for revision in 1..=3 {
        place.write(&a_few_keys(), revision);
    }
    assert_eq!(show(&place.file.older()).unwrap().position.revision, 2);
    let found = place.file.find().0.unwrap();
    assert_eq!((found.facts.position.revision, found.generation), (3, Generation::Newest));

    let mut spoilt = fs::read(place.file.path()).unwrap();
    spoilt[100] ^= 1;
    fs::write(place.file.path(), spoilt).unwrap();
    let (found, faults) = place.file.find();
    assert_eq!(found.map(|found| (found.facts.position.revision, found.generation)), Some((2, Generation::Older)));
    assert!(matches!(&faults[..], [Fault { path, source: SnapshotError::Checksum }] if path == place.file.path()));

    fs::write(place.file.older(), "").unwrap();
    let (found, faults) = place.file.find();
    assert!(found.is_none());
    assert_eq!(faults.len(), 2);
}

#[test]
fn a_missing_newest_is_reported_only_if_there_is_an_older_one() {
    let place = Place::new();
    assert_eq!(place.file.find().1.len(), 0);
    place.write(&a_few_keys(), 1);
    fs::rename(place.file.path(), place.file.older()).unwrap();
    let (found, faults) = place.file.find();
    assert_eq!(found.unwrap().generation, Generation::Older);
    assert!(matches!(faults[0].source, SnapshotError::Missing));
    let (facts, faults) = place.file.facts();
    assert_eq!((facts.map(|facts| facts.position.revision), faults.len()), (Some(1), 1));
}

#[test]
fn a_spoilt_newest_does_not_push_out_the_older_one() {
    let place = Place::new();
    place.write(&a_few_keys(), 1);
    place.write(&a_few_keys(), 2);
    fs::write(place.file.path(), "spoilt").unwrap();
    place.write(&a_few_keys(), 3);
    assert_eq!(show(place.file.path()).unwrap().position.revision, 3);
    assert_eq!(show(&place.file.older()).unwrap().position.revision, 1);
}

#[test]
fn what_a_killed_writer_left_behind_is_in_nobodys_way() {
    let (place, _) = Place::written();
    let folder = place.file.path().parent().unwrap();
    fs::write(folder.join("keys.snapshot.new"), "half a snapsh").unwrap();
    fs::remove_file(place.file.older()).ok();
    fs::hard_link(place.file.path(), place.file.older()).unwrap();
    place.write(&a_few_keys(), 8);
    assert_eq!(names_in(folder), ["keys.snapshot", "keys.snapshot.1"]);
    assert_eq!(show(place.file.path()).unwrap().position.revision, 8);
    assert_eq!(show(&place.file.older()).unwrap().position.revision, 7);
}

#[test]
fn a_later_moment_is_kept_beside_the_snapshot_that_it_was_noted_for() {
    let place = Place::new();
    let facts = place.write(&a_few_keys(), 1);
    let later = Timestamp::from_millis(HEARD.millis() + 60_000);
    place.file.heard(&facts.checksum, later).unwrap();
    assert_eq!(place.file.find().0.unwrap().facts.heard_at, later);
    // The note never makes a snapshot older, and speaks of that one only.
    place.file.heard(&facts.checksum, Timestamp::from_millis(0)).unwrap();
    assert_eq!(place.file.find().0.unwrap().facts.heard_at, HEARD);
    assert!(place.file.heard(&facts.checksum, later).unwrap());
    place.write(&a_few_keys(), 2);
    assert_eq!(place.file.find().0.unwrap().facts.heard_at, HEARD);
    assert!(!place.file.heard(&facts.checksum, later).unwrap());
}

#[test]
fn a_spoilt_note_says_nothing() {
    let place = Place::new();
    let facts = place.write(&a_few_keys(), 1);
    place.file.heard(&facts.checksum, Timestamp::from_millis(HEARD.millis() + 60_000)).unwrap();
    let path = place.file.path().with_file_name("keys.snapshot.heard");
    let note = fs::read(&path).unwrap();
    for at in 0..note.len() {
        let mut spoilt = note.clone();
        spoilt[at] ^= 1;
        for spoilt in [&spoilt[..], &note[..at]] {
            fs::write(&path, spoilt).unwrap();
            assert_eq!(place.file.find().0.unwrap().facts.heard_at, HEARD, "{at}");
        }
    }
}

fn names_in(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

prop_compose! {
    fn any_permissions()(names in prop::collection::vec("[a-z.]{1,20}:[a-z]{1,10}", 0..5)) -> Permissions {
        let names = names.iter().map(|name| PermissionName::parse(name).unwrap()).collect();
        Permissions::list(names).unwrap_or(Permissions::Full)
    }
}

prop_compose! {
    fn any_addresses()(enabled: bool, v4: Vec<(u32, u8)>, v6: Vec<(u128, u8)>) -> AddressRule {
        let v4 = v4.iter().map(|&(bits, length)| format!("{}/{}", std::net::Ipv4Addr::from(bits), length % 32 + 1));
        let v6 = v6.iter().map(|&(bits, length)| format!("{}/{}", std::net::Ipv6Addr::from(bits), length % 32 + 97));
        let rules = v4.chain(v6).filter_map(|rule| crate::access::address::IpRule::parse(&rule).ok()).collect();
        IpRestrictions::stored(enabled, rules).rule()
    }
}

prop_compose! {
    fn any_key()(
        number: u64,
        account: u8,
        environment in prop::sample::select(&Environment::ALL[..]),
        state in prop::sample::select(&[LifeState::Active, LifeState::Paused, LifeState::Revoked][..]),
        expiry in prop::option::of(0..253_402_000_000_000_i64),
        permissions in any_permissions(),
        addresses in any_addresses(),
    ) -> IndexedKey {
        let account = AccountId::from_bytes([account; 16]);
        IndexedKey { account, environment, state, expires_at: expiry.map(Timestamp::from_millis), permissions, addresses, ..key(number) }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_content_is_read_as_it_was_written(keys in prop::collection::vec(any_key(), 0..40), suspended: Vec<(u8, bool)>, revision: u64) {
        let content: Content = (keys, suspended.into_iter().map(|(number, suspended)| account(number, suspended)).collect());
        let place = Place::new();
        prop_assert_eq!(place.write(&content, revision).position.revision, revision);
        prop_assert_eq!(content_of(read(place.file.path()).unwrap().1), sorted(&content));
    }

    #[test]
    fn no_records_panic_the_reader(records: Vec<u8>) {
        let mut fields = super::format::Fields(&records);
        while fields.key().is_some() {}
        while fields.account().is_some() {}
    }
}

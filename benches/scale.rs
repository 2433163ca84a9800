//! Ten million keys: what they take in memory, and how long a snapshot of them takes to write and to load.
//!
//! `cargo bench --bench scale [-- KEYS]`. Prints figures and asserts none: they are the machine's as much as ours. Memory is
//! what the process holds resident, before and after, divided by the number of keys: the map, the records and the accounts
//! (ten keys each), and whatever the allocator adds.

use std::time::Instant;

use martis_gateway::access::address::AddressRule;
use martis_gateway::access::key::{AccountId, Environment, KeyId, LifeState};
use martis_gateway::access::permission::Permissions;
use martis_gateway::access::secret::Digest;
use martis_gateway::access::time::Timestamp;
use martis_gateway::index::{IndexWriter, IndexedKey, new_index};
use martis_gateway::store::{Epoch, Position};
use martis_gateway::sync::snapshot::{Ending, SnapshotFile};

#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

fn main() {
    let keys = std::env::args().skip(1).find_map(|argument| argument.parse::<u64>().ok()).unwrap_or(10_000_000);
    let before = resident();
    let start = Instant::now();
    let (mut writer, reader) = new_index(None);
    let mut load = IndexWriter::load(keys as usize);
    (0..keys).for_each(|number| load.key(key(number)));
    writer.swap(load, 1, NOW);
    report("index built, seconds", start.elapsed().as_secs_f64());
    report("index, bytes a key", (resident() - before) as f64 / keys as f64);

    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = SnapshotFile::new(folder.path().join("keys.snapshot"));
    let start = Instant::now();
    file.write(&reader, || Ending::of(&writer, Position { revision: 1, ..Position::beginning(Epoch::from_bytes([1; 16])) }, Vec::new()))
        .expect("the snapshot is written");
    report("snapshot written, seconds", start.elapsed().as_secs_f64());
    report("snapshot, bytes a key", std::fs::metadata(file.path()).expect("the snapshot").len() as f64 / keys as f64);
    drop((writer, reader));

    let start = Instant::now();
    let (mut writer, reader) = new_index(None);
    let (found, faults) = file.find();
    let found = found.unwrap_or_else(|| panic!("the snapshot is good: {faults:?}"));
    writer.swap(found.load, found.facts.position.revision, found.facts.heard_at);
    report("snapshot loaded and in service, seconds", start.elapsed().as_secs_f64());
    assert_eq!(reader.len() as u64, keys);
}

fn key(number: u64) -> IndexedKey {
    IndexedKey {
        digest: Digest::of(&number.to_le_bytes()),
        id: KeyId::from_bytes(u128::from(number).to_be_bytes()),
        account: AccountId::from_bytes(u128::from(number / 10).to_be_bytes()),
        environment: Environment::Production,
        state: LifeState::Active,
        expires_at: None,
        permissions: Permissions::Full,
        addresses: AddressRule::Anywhere,
    }
}

fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: u64 = pages.split(' ').nth(1).and_then(|field| field.parse().ok()).expect("the second field is a number");
    pages * rustix::param::page_size() as u64
}

#[allow(clippy::print_stdout, reason = "a bench reports")]
fn report(what: &str, figure: f64) {
    println!("{what:45} {figure:10.2}");
}

//! The index following a real SQLite store, which is changed through other handles, moved away and replaced.

use std::path::Path;

use tempfile::TempDir;
use tokio::time::{Instant, timeout};

use super::snapshot::{Generation, read};
use super::*;
use crate::access::address::IpRestrictions;
use crate::access::key::{AccountId, Environment, KeyId, LifeState};
use crate::access::permission::Permissions;
use crate::access::secret::{Digest, Hint};
use crate::clock::TestClock;
use crate::index::{IndexReader, IndexedKey};
use crate::store::{AccountRow, KeyRow, NodeEntry, OpenOptions};

const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);
const LEASE: Duration = Duration::from_secs(12 * 3_600);
const ACCOUNT: AccountId = AccountId::from_bytes([7; 16]);
/// How long anything may take before a test fails. None of what is waited for takes nearly as long.
const PATIENCE: Duration = Duration::from_secs(20);

/// A folder with a store and a snapshot in it, and a clock that stands still.
struct World {
    folder: TempDir,
    time: TestClock,
    random: Random,
}

/// A node in it.
struct Running {
    sync: Sync,
    index: IndexReader,
    metrics: Metrics,
}

impl World {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), time: TestClock::at(NOW), random: Random::seeded(1) }
    }

    /// With a store that holds an account and keys 1 to `keys`.
    async fn with_keys(keys: u64) -> Self {
        let world = Self::new();
        let store = world.store().await;
        let mut write = store.write().await.unwrap();
        let account = AccountRow { id: ACCOUNT, name: "one".to_owned(), suspended: false, created_at: NOW, created_by: String::new() };
        write.insert_account(&account).await.unwrap();
        for number in 1..=keys {
            write.insert_key(&mut key(number)).await.unwrap();
        }
        write.commit().await.unwrap();
        store.close().await;
        world
    }

    fn settings(&self) -> Settings {
        Settings {
            store: self.store_path(),
            create_store: false,
            snapshot: self.snapshot(),
            max_staleness: Some(LEASE),
            node_name: "here".to_owned(),
        }
    }

    fn start(&self) -> Running {
        self.start_with(self.settings())
    }

    fn start_with(&self, settings: Settings) -> Running {
        let clock = self.time.clock();
        let metrics = Metrics::new(clock.clone());
        let (writer, index) = new_index(settings.max_staleness);
        let sync = start(settings, writer, &clock, &self.random, &metrics).unwrap();
        Running { sync, index, metrics }
    }

    /// A node that has followed the store and stopped cleanly, so that there is a snapshot.
    async fn run_once(&self) {
        let node = self.start();
        node.until(|state| state.store == StoreState::Followed).await;
        node.sync.stop().await;
    }

    fn store_path(&self) -> PathBuf {
        self.folder.path().join("martis.db")
    }

    fn snapshot(&self) -> SnapshotFile {
        SnapshotFile::new(self.folder.path().join("keys.snapshot"))
    }

    /// A handle of its own, as another process would have.
    async fn store(&self) -> Store {
        Store::open(&self.store_path(), OpenOptions { create: true }, &self.random).await.unwrap()
    }

    async fn nodes(&self) -> Vec<NodeEntry> {
        self.store().await.nodes().await.unwrap()
    }

    /// Puts the store's files where `name` says: it is then gone from where the node looks for it.
    fn move_store(&self, from: &str, to: &str) {
        for suffix in ["", "-wal", "-shm"] {
            let path = |name: &str| self.folder.path().join(format!("{name}{suffix}"));
            match std::fs::rename(path(from), path(to)) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                done => done.unwrap(),
            }
        }
    }
}

impl Running {
    async fn until(&self, holds: impl FnMut(&SyncState) -> bool) -> SyncState {
        let mut state = self.sync.state();
        timeout(PATIENCE, state.wait_for(holds)).await.expect("it did not come to that").unwrap().clone()
    }

    async fn until_revision(&self, revision: u64) -> SyncState {
        self.until(|state| state.index.is_some_and(|index| index.revision == revision)).await
    }

    fn state_of(&self, number: u64) -> Option<LifeState> {
        self.index.key(&key(number).digest).map(|key| key.state)
    }
}

fn key(number: u64) -> KeyRow {
    let mut id = [0; 16];
    id[8..].copy_from_slice(&number.to_be_bytes());
    KeyRow {
        id: KeyId::from_bytes(id),
        digest: Digest::of(&number.to_be_bytes()),
        account: ACCOUNT,
        name: "a key".to_owned(),
        environment: Environment::Sandbox,
        hint: Hint::unknown(Environment::Sandbox),
        permissions: Permissions::Full,
        ip_restrictions: IpRestrictions::default(),
        created_at: NOW,
        created_by: String::new(),
        expires_at: None,
        state: LifeState::Active,
        revoked_at: None,
        replaces: None,
        replaced_by: None,
        revision: 0,
    }
}

async fn set_state(store: &Store, number: u64, state: LifeState) -> u64 {
    let mut write = store.write().await.unwrap();
    let mut key = write.key(key(number).id).await.unwrap().unwrap();
    (key.state, key.revoked_at) = (state, (state == LifeState::Revoked).then_some(NOW));
    write.update_key(&mut key).await.unwrap();
    write.commit().await.unwrap()
}

async fn insert(store: &Store, number: u64) -> u64 {
    let mut write = store.write().await.unwrap();
    write.insert_key(&mut key(number)).await.unwrap();
    write.commit().await.unwrap()
}

async fn accept(store: &Store) {
    let mut write = store.write().await.unwrap();
    write.begin_epoch(Epoch::from_bytes([200; 16])).await.unwrap();
    write.commit().await.unwrap();
}

/// Waits for what cannot be waited for by a channel.
async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < PATIENCE, "{what}");
        tokio::task::yield_now().await;
    }
}

fn content(index: &IndexReader) -> Vec<IndexedKey> {
    let mut keys = Vec::new();
    let gather = |key| {
        keys.push(key);
        Ok::<_, ()>(())
    };
    index.for_each(gather).unwrap();
    keys.sort_by_key(|key| key.id);
    keys
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_starts_from_the_store() {
    let world = World::with_keys(3).await;
    let node = world.start();
    assert!(!node.index.may_serve(NOW));
    let state = node.until(|state| state.store == StoreState::Followed).await;
    assert_eq!((node.index.len(), state.index.unwrap().revision, state.index.unwrap().heard_at), (3, 3, NOW));
    assert_eq!(state.problem, None);
    assert!(node.index.may_serve(NOW));
    assert!(node.sync.store().borrow().is_some());
    node.sync.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_through_another_handle_is_in_force_within_a_quarter_of_a_second() {
    let world = World::with_keys(20).await;
    let node = world.start();
    node.until(|state| state.store == StoreState::Followed).await;
    let other = world.store().await;
    let mut took = Vec::new();
    for number in 1..=9 {
        let revision = set_state(&other, number, LifeState::Revoked).await;
        let committed = Instant::now();
        node.until_revision(revision).await;
        took.push(committed.elapsed());
        assert_eq!(node.state_of(number), Some(LifeState::Revoked));
    }
    took.sort();
    // The middle one: a machine that is busy with other tests may hold up any single one.
    assert!(took[4] < Duration::from_millis(250), "{took:?}");
    let page = node.metrics.encode();
    assert!(page.contains("martis_gateway_revocation_seconds_count 9"), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn suspending_an_account_comes_into_force() {
    let world = World::with_keys(1).await;
    let node = world.start();
    node.until(|state| state.store == StoreState::Followed).await;
    let mut write = world.store().await.write().await.unwrap();
    write.set_suspended(ACCOUNT, true).await.unwrap();
    node.until_revision(write.commit().await.unwrap()).await;
    assert!(node.index.look_up(&key(1).digest, |found| found.unwrap().account_suspended));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_changes_at_random_leave_the_index_equal_to_the_store() {
    let world = World::with_keys(50).await;
    let node = world.start();
    let other = world.store().await;
    let mut random = fastrand::Rng::with_seed(3);
    let mut revision = 0;
    for number in 51..200 {
        revision = match random.u8(..3) {
            0 => insert(&other, number).await,
            pausing => {
                let state = if pausing == 1 { LifeState::Paused } else { LifeState::Active };
                set_state(&other, random.u64(1..=50), state).await
            }
        };
    }
    node.until_revision(revision).await;
    let mut stored = Vec::new();
    let gather = |key: KeyRow| {
        stored.push(key.indexed());
        Ok::<_, StoreError>(())
    };
    other.each_key(gather).await.unwrap();
    stored.sort_by_key(|key| key.id);
    assert_eq!(content(&node.index), stored);
    // And the snapshot that is written on a clean stop holds just that.
    node.sync.stop().await;
    let (facts, load) = read(world.snapshot().path()).unwrap();
    assert_eq!(facts.revision, revision);
    let (mut writer, reader) = new_index(None);
    writer.swap(load, facts.revision, facts.heard_at);
    assert_eq!(content(&reader), stored);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_gone_keeps_serving_and_catches_up_when_it_is_back() {
    let world = World::with_keys(2).await;
    let node = world.start();
    node.until(|state| state.store == StoreState::Followed).await;
    world.move_store("martis.db", "elsewhere.db");
    let state = node.until(|state| state.store == StoreState::Unreachable).await;
    assert!(state.problem.is_some());
    let mut withdrawn = node.sync.store();
    timeout(PATIENCE, withdrawn.wait_for(Option::is_none)).await.expect("nobody must write into a file that was moved away").unwrap();
    assert!(node.index.may_serve(NOW));
    assert_eq!(node.state_of(1), Some(LifeState::Active));

    let elsewhere = Store::open(&world.folder.path().join("elsewhere.db"), OpenOptions { create: false }, &world.random).await.unwrap();
    let revision = set_state(&elsewhere, 1, LifeState::Revoked).await;
    elsewhere.close().await;
    world.move_store("elsewhere.db", "martis.db");
    node.until_revision(revision).await;
    assert_eq!(node.state_of(1), Some(LifeState::Revoked));
    node.until(|state| state.store == StoreState::Followed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_copy_of_the_store_is_refused_until_it_is_accepted() {
    let world = World::with_keys(2).await;
    std::fs::copy(world.store_path(), world.folder.path().join("backup.db")).unwrap();
    let store = world.store().await;
    let revoked = set_state(&store, 1, LifeState::Revoked).await;
    store.close().await;
    let node = world.start();
    node.until(|state| state.store == StoreState::Followed).await;

    world.move_store("martis.db", "newer.db");
    world.move_store("backup.db", "martis.db");
    let state = node.until(|state| state.store == StoreState::Refused).await;
    assert!(state.problem.unwrap().contains("store accept"));
    assert!(node.sync.store().borrow().is_none(), "nothing may be written into a store that is refused");
    assert_eq!((node.index.revision(), node.state_of(1)), (revoked, Some(LifeState::Revoked)));

    // It ages: what the refused store says is not heard.
    world.time.pass(Duration::from_secs(60));
    let older = world.store().await;
    set_state(&older, 2, LifeState::Paused).await;
    assert!(node.sync.state().borrow().is_old(world.time.clock().now()));
    assert_eq!(node.state_of(2), Some(LifeState::Active));
    assert!(older.nodes().await.unwrap().is_empty());

    accept(&older).await;
    let state = node.until(|state| state.store == StoreState::Followed).await;
    assert_eq!(state.index.unwrap().epoch, Epoch::from_bytes([200; 16]));
    assert_eq!((node.state_of(1), node.state_of(2)), (Some(LifeState::Active), Some(LifeState::Paused)));
    assert!(!node.sync.state().borrow().is_old(world.time.clock().now()));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_store_is_refused_whatever_its_revision() {
    let world = World::with_keys(2).await;
    let node = world.start();
    node.until(|state| state.store == StoreState::Followed).await;
    world.move_store("martis.db", "ours.db");
    let foreign = World { random: Random::seeded(2), ..World::with_keys(0).await };
    let path = foreign.folder.path().join("foreign.db");
    let store = Store::open(&path, OpenOptions { create: true }, &foreign.random).await.unwrap();
    store.close().await;
    std::fs::copy(path, world.store_path()).unwrap();
    let state = node.until(|state| state.store == StoreState::Refused).await;
    assert!(state.problem.unwrap().contains("another store"));
    assert_eq!(node.index.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_in_the_log_of_changes_leads_to_a_full_load() {
    use sqlx::{ConnectOptions, Connection};
    let world = World::with_keys(2).await;
    let node = world.start();
    node.until(|state| state.store == StoreState::Followed).await;
    world.move_store("martis.db", "elsewhere.db");
    node.until(|state| state.store == StoreState::Unreachable).await;
    let path = world.folder.path().join("elsewhere.db");
    let store = Store::open(&path, OpenOptions { create: false }, &world.random).await.unwrap();
    insert(&store, 3).await;
    let revision = insert(&store, 4).await;
    store.close().await;
    let mut connection = sqlx::sqlite::SqliteConnectOptions::new().filename(&path).connect().await.unwrap();
    sqlx::query("DELETE FROM changes WHERE revision < 4").execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    world.move_store("elsewhere.db", "martis.db");
    node.until_revision(revision).await;
    assert_eq!(node.index.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_store_gone_a_node_starts_from_its_snapshot_and_is_no_younger_by_it() {
    let world = World::with_keys(3).await;
    world.run_once().await;
    world.move_store("martis.db", "elsewhere.db");
    world.time.pass(Duration::from_secs(3_600));
    // Even one that may make stores makes none in the place of this one.
    let node = world.start_with(Settings { create_store: true, ..world.settings() });
    let state = node.until_revision(3).await;
    assert_eq!(state.index.unwrap().heard_at, NOW);
    assert!(node.index.may_serve(world.time.clock().now()));
    assert_eq!(content(&node.index).len(), 3);
    node.until(|state| state.store == StoreState::Unreachable && state.problem.is_some()).await;
    assert!(!world.store_path().exists());

    world.time.pass(LEASE);
    assert!(!node.index.may_serve(world.time.clock().now()), "the lease is over");
    world.move_store("elsewhere.db", "martis.db");
    node.until(|state| state.store == StoreState::Followed).await;
    assert!(node.index.may_serve(world.time.clock().now()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_from_the_future_makes_no_lease_longer() {
    let world = World::with_keys(1).await;
    world.run_once().await;
    std::fs::remove_file(world.store_path()).unwrap();
    let world = World { time: TestClock::at(NOW.minus(LEASE)), ..world };
    let node = world.start();
    assert_eq!(node.until_revision(1).await.index.unwrap().heard_at, NOW.minus(LEASE));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_store_and_a_snapshot_a_node_is_not_ready_until_there_is_a_store() {
    let world = World::new();
    let node = world.start();
    let state = node.until(|state| state.problem.is_some()).await;
    assert_eq!((state.store, state.index), (StoreState::Unreachable, None));
    assert!(!node.index.may_serve(NOW));
    assert!(!world.store_path().exists());
    insert_account_and_key(&world.store().await).await;
    node.until_revision(1).await;
    assert!(node.index.may_serve(NOW));
}

async fn insert_account_and_key(store: &Store) {
    let mut write = store.write().await.unwrap();
    let account = AccountRow { id: ACCOUNT, name: "one".to_owned(), suspended: false, created_at: NOW, created_by: String::new() };
    write.insert_account(&account).await.unwrap();
    write.insert_key(&mut key(1)).await.unwrap();
    write.commit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_start_makes_the_store() {
    let world = World::new();
    let node = world.start_with(Settings { create_store: true, ..world.settings() });
    node.until(|state| state.store == StoreState::Followed).await;
    assert!(node.index.may_serve(NOW));
    assert!(node.index.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_behind_the_snapshot_is_refused_at_the_start_too() {
    let world = World::with_keys(2).await;
    std::fs::copy(world.store_path(), world.folder.path().join("backup.db")).unwrap();
    let store = world.store().await;
    set_state(&store, 1, LifeState::Revoked).await;
    store.close().await;
    world.run_once().await;
    world.move_store("martis.db", "newer.db");
    world.move_store("backup.db", "martis.db");
    let node = world.start();
    node.until(|state| state.store == StoreState::Refused).await;
    node.until_revision(3).await;
    assert_eq!(node.state_of(1), Some(LifeState::Revoked));
    assert!(node.index.may_serve(NOW));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unusable_snapshot_keeps_no_node_from_starting() {
    let world = World::with_keys(2).await;
    world.run_once().await;
    let whole = std::fs::read(world.snapshot().path()).unwrap();
    // Nothing readable, and a good header over a spoilt body that is ahead of the store.
    let mut spoilt = whole.clone();
    spoilt[100] ^= 1;
    for bytes in [b"no snapshot".to_vec(), spoilt] {
        std::fs::write(world.snapshot().path(), bytes).unwrap();
        let behind = World::with_keys(1).await;
        std::fs::copy(behind.store_path(), world.store_path()).unwrap();
        let node = world.start();
        node.until(|state| state.store == StoreState::Followed).await;
        assert_eq!(node.index.len(), 1);
        node.sync.stop().await;
        assert_eq!(read(world.snapshot().path()).unwrap().0.revision, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_registers_confirms_and_goes_off_the_list() {
    let world = World::with_keys(1).await;
    let node = world.start();
    let id = node.sync.node().to_string();
    let store = world.store().await;
    let confirmed = async |revision: u64| store.nodes().await.unwrap().iter().any(|entry| entry.id == id && entry.revision == revision);
    eventually("the node registers", || confirmed(1)).await;
    let revision = set_state(&store, 1, LifeState::Paused).await;
    node.sync.nudge().notify_one();
    eventually("the node confirms", || confirmed(revision)).await;
    let entry = store.nodes().await.unwrap().remove(0);
    assert_eq!((entry.name.as_str(), entry.started_at, entry.last_seen), ("here", NOW, NOW));
    let lease_ends = entry.lease_ends.unwrap();
    assert!(lease_ends >= node.index.lease_ends().unwrap() && lease_ends <= NOW.plus(LEASE).plus(crate::store::LIVE_FOR));

    assert!(store.remove_node(&id).await.unwrap());
    eventually("a node that was forgotten registers anew", || confirmed(revision)).await;
    node.sync.stop().await;
    assert!(store.nodes().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_start_is_another_node() {
    let world = World::with_keys(0).await;
    let (one, other) = (world.start(), world.start());
    assert_ne!(one.sync.node(), other.sync.node());
    eventually("both are on the list", || async { world.nodes().await.len() == 2 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_snapshot_follows_a_change_within_ten_seconds() {
    let world = World::with_keys(1).await;
    let node = world.start();
    let store = world.store().await;
    node.until(|state| state.store == StoreState::Followed).await;
    for number in 2..=3 {
        let revision = insert(&store, number).await;
        let began = Instant::now();
        let written = async || world.snapshot().facts().0.is_some_and(|facts| facts.revision == revision);
        eventually("the snapshot is written", written).await;
        assert!(began.elapsed() < Duration::from_secs(10));
    }
    assert_eq!(world.snapshot().find().0.unwrap().generation, Generation::Newest);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_stop_keeps_the_last_moment_at_which_the_store_was_heard_from() {
    let world = World::with_keys(1).await;
    world.run_once().await;
    let before = std::fs::read(world.snapshot().path()).unwrap();
    std::fs::rename(world.store_path(), world.folder.path().join("elsewhere.db")).unwrap();
    let node = world.start();
    node.until_revision(1).await;
    world.time.pass(Duration::from_secs(600));
    std::fs::rename(world.folder.path().join("elsewhere.db"), world.store_path()).unwrap();
    node.until(|state| state.store == StoreState::Followed).await;
    node.sync.stop().await;
    assert_eq!(std::fs::read(world.snapshot().path()).unwrap(), before, "nothing changed that would need another snapshot");
    assert_eq!(world.snapshot().find().0.unwrap().facts.heard_at, NOW.plus(Duration::from_secs(600)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_can_be_written_from_a_store_without_a_node() {
    let world = World::with_keys(5).await;
    let facts = write_snapshot(&world.store().await, &world.snapshot(), &world.time.clock()).await.unwrap();
    assert_eq!((facts.keys, facts.revision, facts.heard_at), (5, 5, NOW));
    assert_eq!(read(world.snapshot().path()).unwrap().0, facts);
    assert!(Path::new(world.snapshot().path()).exists());
}

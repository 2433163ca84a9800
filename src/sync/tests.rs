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

    /// Copies the store, which nobody has open.
    fn back_up(&self) {
        std::fs::copy(self.store_path(), self.folder.path().join("backup.db")).unwrap();
    }

    /// Puts the copy in the place of the store.
    fn restore(&self) {
        self.move_store("martis.db", "newer.db");
        std::fs::copy(self.folder.path().join("backup.db"), self.store_path()).unwrap();
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

/// As `store accept` does it; what snapshots know is settled only if it is named.
async fn accept(store: &Store, epoch: u8, known: &[Epoch]) -> Epoch {
    let epoch = Epoch::from_bytes([epoch; 16]);
    let mut write = store.write().await.unwrap();
    write.begin_epoch(epoch, known).await.unwrap();
    write.commit().await.unwrap();
    epoch
}

/// Runs a statement that no handle of a store would.
async fn sql(path: &Path, statement: &'static str) {
    use sqlx::{ConnectOptions, Connection};
    let mut connection = sqlx::sqlite::SqliteConnectOptions::new().filename(path).connect().await.unwrap();
    sqlx::raw_sql(statement).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
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
    assert_eq!(facts.position.revision, revision);
    let (mut writer, reader) = new_index(None);
    writer.swap(load, facts.position.revision, facts.heard_at);
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
    world.back_up();
    let store = world.store().await;
    let revoked = set_state(&store, 1, LifeState::Revoked).await;
    store.close().await;
    let node = world.start();
    node.until(|state| state.store == StoreState::Followed).await;

    world.restore();
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
    // But people are told of it: it lets requests pass, and confirms nothing.
    let entry = older.nodes().await.unwrap().remove(0);
    assert_eq!((entry.id, entry.revision), (node.sync.node().to_string(), 0));
    assert_eq!(entry.lease_ends, Some(NOW.plus(LEASE).plus(crate::store::LIVE_FOR)));

    let accepted = accept(&older, 200, &[]).await;
    let state = node.until(|state| state.store == StoreState::Followed).await;
    assert_eq!(state.index.unwrap().epoch, accepted);
    assert_eq!((node.state_of(1), node.state_of(2)), (Some(LifeState::Active), Some(LifeState::Paused)));
    assert!(!node.sync.state().borrow().is_old(world.time.clock().now()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_went_back_stays_refused_when_its_numbers_have_caught_up() {
    let world = World::with_keys(2).await;
    world.back_up();
    let node = world.start();
    node.until(|state| state.store == StoreState::Followed).await;
    let store = world.store().await;
    insert(&store, 3).await;
    let seen = insert(&store, 4).await;
    node.until_revision(seen).await;
    store.close().await;

    world.restore();
    node.until(|state| state.store == StoreState::Refused).await;
    let restored = world.store().await;
    set_state(&restored, 1, LifeState::Revoked).await;
    for number in [5, 6] {
        insert(&restored, number).await;
    }
    let told = async || node.sync.state().borrow().problem.as_deref().is_some_and(|problem| problem.contains("went another way"));
    eventually("the node looks at what the numbers are of", told).await;
    assert_eq!(node.sync.state().borrow().store, StoreState::Refused);
    assert_eq!((node.index.revision(), node.state_of(5), node.state_of(6)), (seen, None, None));
    // Nor does it confirm the numbers to whoever revoked the key.
    assert_eq!(restored.nodes().await.unwrap()[0].revision, 0);

    accept(&restored, 200, &[]).await;
    node.until_revision(5).await;
    assert_eq!((node.state_of(1), node.state_of(4), node.state_of(6)), (Some(LifeState::Revoked), None, Some(LifeState::Active)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_went_back_while_no_node_ran_is_refused_whatever_its_number() {
    let world = World::with_keys(1).await;
    world.back_up();
    let store = world.store().await;
    set_state(&store, 1, LifeState::Revoked).await;
    store.close().await;
    world.run_once().await;
    world.restore();
    let restored = world.store().await;
    assert_eq!(insert(&restored, 2).await, 2, "the same number again");
    let node = world.start();
    node.until(|state| state.store == StoreState::Refused && state.index.is_some()).await;
    assert_eq!((node.state_of(1), node.state_of(2)), (Some(LifeState::Revoked), None));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_copy_can_be_put_back_and_accepted_again_and_again() {
    let world = World::with_keys(2).await;
    world.back_up();
    let node = world.start();
    node.until(|state| state.store == StoreState::Followed).await;
    for epoch in 1..=3 {
        world.restore();
        node.until(|state| state.store == StoreState::Refused || state.index.unwrap().revision == 2).await;
        let store = world.store().await;
        let revision = insert(&store, 100 + u64::from(epoch)).await;
        // The first copy is where the node stands: there is nothing to refuse yet.
        if epoch > 1 {
            node.until(|state| state.store == StoreState::Refused).await;
        }
        let accepted = accept(&store, epoch, &[]).await;
        let state = node.until(|state| state.index.is_some_and(|index| index.epoch == accepted)).await;
        assert_eq!(state.index.unwrap().revision, revision);
        assert_eq!(node.index.len(), 3);
        store.close().await;
    }
    node.sync.stop().await;

    // Now with nobody running who could tell what it knows: the snapshot does.
    world.restore();
    let store = world.store().await;
    let accepted = accept(&store, 4, &world.snapshot().epochs()).await;
    let node = world.start();
    node.until(|state| state.store == StoreState::Followed && state.index.unwrap().epoch == accepted).await;
    assert_eq!(node.index.len(), 2);
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
    sql(&path, "DELETE FROM changes WHERE revision = 3").await;
    world.move_store("elsewhere.db", "martis.db");
    node.until_revision(revision).await;
    assert_eq!(node.index.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_forgot_what_is_known_of_it_is_refused() {
    let world = World::with_keys(4).await;
    world.run_once().await;
    insert(&world.store().await, 5).await;
    sql(&world.store_path(), "DELETE FROM changes WHERE revision < 5").await;
    let node = world.start();
    let state = node.until(|state| state.store == StoreState::Refused).await;
    assert!(state.problem.unwrap().contains("no longer tells"));
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_store_that_was_found_to_be_damaged_nothing_is_built_until_all_of_it_was_read() {
    let world = World::with_keys(3).await;
    world.run_once().await;
    sql(&world.store_path(), "UPDATE keys SET ip_allowed = 'nonsense' WHERE number = 2").await;
    let node = world.start();
    let names = async |number: u64| {
        let damaged = format!("damaged at key {}", key(number).id);
        node.sync.state().borrow().problem.as_deref().is_some_and(|problem| problem.contains(&damaged))
    };
    node.until_revision(3).await;
    eventually("reading all of it fails", || names(2)).await;
    let store = world.store().await;
    let revision = set_state(&store, 3, LifeState::Revoked).await;
    // By the other name it is seen that all was read again, with the change in it.
    sql(&world.store_path(), "UPDATE keys SET ip_allowed = 'nonsense' WHERE number = 1").await;
    eventually("it is tried again", || names(1)).await;
    assert_eq!((node.index.revision(), node.state_of(3)), (3, Some(LifeState::Active)));
    sql(&world.store_path(), "UPDATE keys SET ip_allowed = '' WHERE number < 3").await;
    node.until_revision(revision).await;
    assert_eq!((node.index.len(), node.state_of(3)), (3, Some(LifeState::Revoked)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_cannot_mark_itself_applies_changes_but_grows_no_younger() {
    let world = World::with_keys(2).await;
    let node = world.start();
    node.until(|state| state.store == StoreState::Followed).await;
    let store = world.store().await;
    eventually("the node tells its lease", || async { store.nodes().await.unwrap()[0].revision == 2 }).await;
    let no_marks = "CREATE TRIGGER no_marks BEFORE UPDATE ON nodes BEGIN SELECT RAISE(ABORT, 'the disk is full'); END;
                    CREATE TRIGGER no_nodes BEFORE INSERT ON nodes BEGIN SELECT RAISE(ABORT, 'the disk is full'); END";
    sql(&world.store_path(), no_marks).await;
    let told = store.nodes().await.unwrap()[0].lease_ends.unwrap();
    world.time.pass(Duration::from_secs(600));
    let revision = set_state(&store, 1, LifeState::Revoked).await;
    node.until_revision(revision).await;
    let revision = insert(&store, 3).await;
    node.until_revision(revision).await;
    assert_eq!(node.state_of(1), Some(LifeState::Revoked));
    assert!(node.index.lease_ends().unwrap() <= told, "nobody waits for it any more");
    sql(&world.store_path(), "DROP TRIGGER no_marks; DROP TRIGGER no_nodes").await;
    let young = async || node.index.heard_at() == Some(NOW.plus(Duration::from_secs(600)));
    eventually("it hears again once it can mark itself", young).await;
    assert!(store.nodes().await.unwrap()[0].lease_ends.unwrap() >= node.index.lease_ends().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_cannot_register_serves_nothing_that_the_store_would_not_know_of() {
    let world = World::with_keys(2).await;
    let no_nodes = "CREATE TRIGGER no_nodes BEFORE INSERT ON nodes BEGIN SELECT RAISE(ABORT, 'the disk is full'); END";
    sql(&world.store_path(), no_nodes).await;
    let node = world.start();
    let state = node.until(|state| state.problem.is_some()).await;
    assert!(state.problem.unwrap().contains("the disk is full"));
    assert!(!node.index.may_serve(NOW));
    sql(&world.store_path(), "DROP TRIGGER no_nodes").await;
    node.until(|state| state.store == StoreState::Followed).await;
    node.sync.stop().await;

    // With a snapshot it serves by that, follows what changes, and is as old as the snapshot says.
    sql(&world.store_path(), no_nodes).await;
    let later = NOW.plus(Duration::from_secs(600));
    world.time.set(later);
    let store = world.store().await;
    let revision = set_state(&store, 1, LifeState::Revoked).await;
    let node = world.start();
    node.until_revision(revision).await;
    assert_eq!((node.index.heard_at(), node.state_of(1)), (Some(NOW), Some(LifeState::Revoked)));
    assert_eq!(node.sync.state().borrow().store, StoreState::Unreachable);
    sql(&world.store_path(), "DROP TRIGGER no_nodes").await;
    node.until(|state| state.store == StoreState::Followed).await;
    assert_eq!(node.index.heard_at(), Some(later));
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_clean_stop_all_of_the_store_is_in_its_one_file() {
    let world = World::with_keys(1).await;
    let node = world.start();
    node.until(|state| state.store == StoreState::Followed).await;
    let other = world.store().await;
    let revision = insert(&other, 2).await;
    other.close().await;
    node.until_revision(revision).await;
    node.sync.stop().await;
    world.back_up();
    assert!(world.folder.path().read_dir().unwrap().all(|entry| !entry.unwrap().file_name().to_string_lossy().ends_with("-wal")));
    let copy = Store::open(&world.folder.path().join("backup.db"), OpenOptions { create: false }, &world.random).await.unwrap();
    assert_eq!(copy.position().await.unwrap().revision, revision);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_ends_by_the_monotonic_clock_though_the_wall_clock_was_set_back() {
    let world = World::with_keys(1).await;
    let node = world.start();
    node.until(|state| state.store == StoreState::Followed).await;
    world.move_store("martis.db", "elsewhere.db");
    node.until(|state| state.store == StoreState::Unreachable).await;
    let past = LEASE + Duration::from_secs(1);
    // Only the monotonic clock gets ahead by this.
    world.time.set(NOW.minus(past));
    world.time.pass(past);
    assert_eq!(world.time.clock().now(), NOW);
    eventually("the lease is over", async || !node.index.may_serve(NOW)).await;
    world.move_store("elsewhere.db", "martis.db");
    node.until(|state| state.store == StoreState::Followed).await;
    assert!(node.index.may_serve(NOW));
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
    let state = node.until(|state| state.store == StoreState::Unreachable && state.problem.is_some()).await;
    assert!(state.problem.unwrap().contains("no new one is made"));
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
    world.back_up();
    let store = world.store().await;
    set_state(&store, 1, LifeState::Revoked).await;
    store.close().await;
    world.run_once().await;
    world.restore();
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
        assert_eq!(read(world.snapshot().path()).unwrap().0.position.revision, 1);
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
        let written = async || world.snapshot().facts().0.is_some_and(|facts| facts.position.revision == revision);
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
    assert_eq!((facts.keys, facts.position.revision, facts.heard_at), (5, 5, NOW));
    assert_eq!(read(world.snapshot().path()).unwrap().0, facts);
    assert!(Path::new(world.snapshot().path()).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_never_overwritten_by_a_store_that_a_node_would_refuse() {
    let world = World::with_keys(2).await;
    world.back_up();
    let store = world.store().await;
    insert(&store, 3).await;
    write_snapshot(&store, &world.snapshot(), &world.time.clock()).await.unwrap();
    store.close().await;
    world.restore();
    let restored = world.store().await;
    let written = std::fs::read(world.snapshot().path()).unwrap();
    let refusal = write_snapshot(&restored, &world.snapshot(), &world.time.clock()).await.unwrap_err();
    assert!(refusal.to_string().contains("an older copy was put in its place"), "{refusal}");
    insert(&restored, 4).await;
    let refusal = write_snapshot(&restored, &world.snapshot(), &world.time.clock()).await.unwrap_err();
    assert!(refusal.to_string().contains("went another way"), "{refusal}");
    assert_eq!(std::fs::read(world.snapshot().path()).unwrap(), written);
    accept(&restored, 200, &[]).await;
    let facts = write_snapshot(&restored, &world.snapshot(), &world.time.clock()).await.unwrap();
    assert_eq!(facts.position, restored.position().await.unwrap());
}

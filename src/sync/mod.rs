//! From the store to the index: load everything, follow the changes, know how old the index is, keep a snapshot to start from.
//!
//! One task owns the only [`IndexWriter`]. It asks SQLite every few milliseconds whether anybody committed, which costs next
//! to nothing, and the store itself every two seconds besides. What it may believe is decided by epoch, revision and stamp
//! (`judge`): a store that went back, or of another history, is refused and an alarm raised; the index stays, and ages. A store that does not answer is tried again at least every two seconds. Whatever fails, the last good index serves.
//!
//! Beside it run two small ones: `node` tells the store that this node lives and what it enforces, `report` measures and
//! warns. Deliberately absent: writes to the store other than the marks of this node, and anything in the path of a request.

mod follow;
mod judge;
mod keep;
mod node;
mod report;
pub mod snapshot;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Interval, MissedTickBehavior, interval};

use self::follow::{Ended, Follower};
pub use self::judge::Refusal;
use self::judge::{Verdict, judge};
use self::keep::Keeper;
use self::node::{Enforced, Node};
use self::snapshot::{Ending, Facts, SnapshotFile, WriteError};
use crate::access::id::NodeId;
use crate::access::time::Timestamp;
use crate::clock::Clock;
use crate::index::{IndexWriter, Load, new_index};
use crate::store::{Epoch, Loaded, Position, Random, Store, StoreError};
use crate::telemetry::metrics::Metrics;

/// The age from which on an index is called old.
pub const OLD: Duration = Duration::from_secs(60);

/// How often SQLite is asked whether anybody committed.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What the task works with.
#[derive(Clone, Debug)]
pub struct Settings {
    pub store: PathBuf,
    /// Whether to make a store if there is none. Even so, none is made in place of one that a snapshot speaks of.
    pub create_store: bool,
    pub snapshot: SnapshotFile,
    /// As the index was made with; for the lease that this node tells the store.
    pub max_staleness: Option<Duration>,
    /// The node's name, for people.
    pub node_name: String,
}

/// How things stand between the store and the index.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SyncState {
    pub store: StoreState,
    /// Since when.
    pub store_since: Timestamp,
    /// None until there is something to decide by.
    pub index: Option<IndexState>,
    /// Why the store is not followed, in one line; the last reason, if it is.
    pub problem: Option<String>,
}

/// What the store is to this node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StoreState {
    /// It did not answer when it was last asked, or was not asked yet.
    Unreachable,
    /// It answers, and its changes are in force here.
    Followed,
    /// It answers, but holds another or an older history than the index. `store accept` would make it the truth.
    Refused,
}

/// What decisions are made by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IndexState {
    pub epoch: Epoch,
    pub revision: u64,
    /// When the store was last known to have no newer revision.
    pub heard_at: Timestamp,
}

impl SyncState {
    /// For how long the index may have been behind the store; none without an index.
    pub fn age(&self, now: Timestamp) -> Option<Duration> {
        self.index.map(|index| now.since(index.heard_at))
    }

    /// Whether people should know of the age.
    pub fn is_old(&self, now: Timestamp) -> bool {
        self.age(now).is_some_and(|age| age >= OLD)
    }
}

/// The running task, as the rest of the program sees it. Dropped, it lets the task end; [`Sync::stop`] also waits for that.
pub struct Sync {
    node: NodeId,
    state: watch::Receiver<SyncState>,
    store: watch::Receiver<Option<Store>>,
    nudge: Arc<Notify>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

/// Starts following the store. Must be called on the runtime that is to do it.
///
/// # Errors
/// The operating system gave no random bytes for the id of this node.
pub fn start(settings: Settings, writer: IndexWriter, clock: &Clock, random: &Random, metrics: &Metrics) -> Result<Sync, getrandom::Error> {
    let node = NodeId::new(clock.now(), random.bytes()?);
    let (state, seen_state) = watch::channel(SyncState::unreached(clock.now()));
    let (store, seen_store) = watch::channel(None);
    let (listing, seen_listing) = watch::channel(None);
    let (enforced, seen_enforced) = watch::channel(Enforced::At(None));
    let entry = Node::new(node, &settings, clock.clone());
    let marking = tokio::spawn(entry.clone().mark_until_told(seen_listing, seen_enforced));
    let reporting = tokio::spawn(report::report(writer.reader(), writer.aging(), clock.clone(), metrics.clone(), seen_state.clone()));
    let keeper = Keeper::new(settings.snapshot.clone());
    let published = follow::Published { state, store, listing, enforced };
    let follower = Follower::new(settings, writer, keeper, entry, published, clock.clone(), random.clone(), metrics.clone());
    let nudge = Arc::new(Notify::new());
    let (stop, stopped) = oneshot::channel();
    let nudged = Arc::clone(&nudge);
    let task = tokio::spawn(async move {
        let Ended { last, connected } = follow(follower, nudged, stopped).await;
        // Told by the follower's end, it takes this node off the list.
        let _ = marking.await;
        connected.close().await;
        last.finish().await;
        reporting.abort();
    });
    Ok(Sync { node, state: seen_state, store: seen_store, nudge, stop, task })
}

/// Follows until told to stop, and gives back what has to be finished.
async fn follow(mut follower: Follower, nudge: Arc<Notify>, mut stopped: oneshot::Receiver<()>) -> Ended {
    let mut ticks: Interval = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let turn = async {
            follower.turn().await;
            tokio::select! {
                _ = ticks.tick() => {}
                () = nudge.notified() => {}
            }
        };
        tokio::select! {
            biased;
            // An error means that whoever could tell is gone.
            _ = &mut stopped => return follower.end(),
            () = turn => {}
        }
    }
}

impl Sync {
    /// The id of this node, made new at each start.
    pub const fn node(&self) -> NodeId {
        self.node
    }

    /// How things stand. Who waits is woken when the revision in force or the state of the store changes, not each time the
    /// store was heard from.
    pub fn state(&self) -> watch::Receiver<SyncState> {
        self.state.clone()
    }

    /// The store that is being followed; none before it was first reached, and while it is gone, replaced or refused.
    pub fn store(&self) -> watch::Receiver<Option<Store>> {
        self.store.clone()
    }

    /// To be notified by whoever commits a change in this process: it is then looked for at once.
    pub fn nudge(&self) -> Arc<Notify> {
        Arc::clone(&self.nudge)
    }

    /// A clean stop: this node goes off the store's list, and the snapshot is brought up to date. To be called when no more
    /// requests are decided.
    pub async fn stop(self) {
        let _ = self.stop.send(());
        if let Err(error) = self.task.await {
            tracing::error!(%error, "following the store did not end well");
        }
    }
}

impl SyncState {
    const fn unreached(now: Timestamp) -> Self {
        Self { store: StoreState::Unreachable, store_since: now, index: None, problem: None }
    }
}

impl fmt::Debug for Sync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sync").field("node", &self.node).finish_non_exhaustive()
    }
}

/// Why no snapshot could be made from a store.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotFromStoreError {
    #[error("load the keys from the store")]
    Load(#[from] StoreError),
    /// The snapshot that is there is of a newer history, or of another.
    #[error("the snapshot that is there stays: {0}")]
    Refused(Refusal),
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Writes a snapshot of a store as it is, beside a running node or without one.
///
/// # Errors
/// A store that does not answer, or that a node with the snapshot of before would refuse; a disk that does not take it. The
/// snapshot of before stays.
pub async fn write_snapshot(store: &Store, file: &SnapshotFile, clock: &Clock) -> Result<Facts, SnapshotFromStoreError> {
    let heard_at = clock.now();
    let known = file.facts().0.map(|facts| facts.position);
    let (position, load) = load(store).await?;
    // Not before the load: it is the store that was loaded which has to be the right one.
    let standing = store.standing(known.map_or(0, |known| known.revision)).await?;
    if let Verdict::Refuse(refusal) = judge(known, &standing) {
        return Err(SnapshotFromStoreError::Refused(refusal));
    }
    let (mut writer, reader) = new_index(None);
    writer.swap(load, position.revision, heard_at);
    let file = file.clone();
    let write = move || file.write(&reader, || Ending::of(&writer, position, Vec::new()));
    Ok(tokio::task::spawn_blocking(write).await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?)
}

/// Why no store is made where there is none.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "there is no store at {}, and no new one is made in place of the one that is known here: put that one back, or, if it is lost, \
     remove the snapshot {1} (and {1}.1) to begin with an empty one", store.display(), snapshot.display()
)]
pub struct Mislaid {
    pub store: PathBuf,
    pub snapshot: PathBuf,
}

/// Whether a missing store may be made, by whoever it is. A new, empty store in place of one that was mislaid would be refused by
/// what is known of that one, and would take the changes that were meant for it.
///
/// # Errors
/// There is a snapshot, which was made from a store.
pub fn may_make_store(store: &Path, snapshot: &SnapshotFile) -> Result<(), Mislaid> {
    if !snapshot.exists() {
        return Ok(());
    }
    Err(Mislaid { store: store.to_owned(), snapshot: snapshot.path().to_owned() })
}

/// Everything that the store holds, and where it stood then.
async fn load(store: &Store) -> Result<(Position, Load), StoreError> {
    let mut load = IndexWriter::load(usize::try_from(store.count_keys().await?).unwrap_or(usize::MAX));
    let position = store.load_all(|row| match row {
        Loaded::Key(key) => load.key(key),
        Loaded::Account(account) => load.account(account),
    });
    let position = position.await?;
    Ok((position, load))
}

/// An error and all that caused it, in one line.
fn in_one_line(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |line, cause| format!("{line}: {cause}"))
}

#[cfg(test)]
mod tests;

//! What the store says, judged and put into service.
//!
//! Each turn asks whether anybody committed and, if so or if it was not asked for two seconds, for the store's position. The
//! moment that counts for the age of the index is always the one *before* the question. A payload is never trusted without a
//! number: changes go in one by one as the index counts them, and whatever does not fit leads to a full load aside.

use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant as Timer, timeout};

use super::keep::{Keeper, Last};
use super::node::{Enforced, Node};
use super::snapshot::{Fault, Found, Generation};
use super::{IndexState, Settings, StoreState, SyncState, in_one_line, load};
use crate::access::key::LifeState;
use crate::access::secret::Digest;
use crate::access::time::Timestamp;
use crate::clock::Clock;
use crate::index::{IndexChange, IndexReader, IndexWriter, OutOfOrder};
use crate::store::{Epoch, OpenOptions, Position, Random, Store, StoreError, Watch};
use crate::telemetry::metrics::Metrics;

/// How often the store is asked for its position, whatever SQLite says of commits.
const ASK_EVERY: Duration = Duration::from_secs(2);
/// How long one answer may take; all of them are a matter of milliseconds but a full load, which may take what it needs.
const PATIENCE: Duration = Duration::from_secs(5);
/// A lost store is tried again after the first of these, then after twice as long each time up to the second.
const FIRST_RETRY: Duration = Duration::from_millis(50);
const LAST_RETRY: Duration = Duration::from_millis(1_500);
/// Changes that are read at a time: between two batches what is in force is confirmed.
const BATCH: u32 = 1_000;

/// Follows the store. The only owner of the index's write side.
pub(super) struct Follower {
    settings: Settings,
    clock: Clock,
    random: Random,
    metrics: Metrics,
    writer: IndexWriter,
    reader: IndexReader,
    keeper: Keeper,
    node: Node,
    published: Published,
    /// What the index was loaded from, or, before there is one, what the snapshot on the disk says that it holds. A store is
    /// judged by it.
    ours: Option<Position>,
    store: Stage,
    connection: Option<Connection>,
    retry: Retry,
    /// A moment at which the index is known to have lacked nothing.
    complete_at: Instant,
    snapshot_tried: bool,
}

/// What the rest of the program sees of it.
pub(super) struct Published {
    pub(super) state: watch::Sender<SyncState>,
    pub(super) store: watch::Sender<Option<Store>>,
    pub(super) enforced: watch::Sender<Enforced>,
}

/// How far the store has been opened. Opening makes files and folders and may hang in that, so it has a thread of its own and
/// is waited for only so long.
enum Stage {
    Closed,
    Opening(JoinHandle<Result<Store, StoreError>>),
    Open(Store),
}

/// A store that answers.
struct Connection {
    store: Store,
    watch: Watch,
    /// Whether something was committed that has not been looked at.
    behind: bool,
    asked: Timer,
    /// Whether it was judged to be the truth, and knows of this node.
    accepted: bool,
}

struct Retry {
    at: Timer,
    after: Duration,
}

/// One moment, by both clocks.
#[derive(Clone, Copy)]
struct Moment {
    wall: Timestamp,
    monotonic: Instant,
}

/// Why the store is not followed for now.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    OutOfOrder(#[from] OutOfOrder),
    #[error("the store took longer than {} seconds to answer", PATIENCE.as_secs())]
    Silent,
}

/// What to do about a store that stands somewhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    Follow,
    Reload,
    Refuse(Refusal),
}

/// Why a store is not the truth for an index.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
enum Refusal {
    #[error(
        "the store is at revision {theirs} and this node has seen revision {ours} of it: an older copy was put in its place. \
         Put the newer one back, or run `martis-gateway store accept` to make this one the truth"
    )]
    Behind { ours: u64, theirs: u64 },
    #[error(
        "the store is of epoch {theirs} and does not come from epoch {ours}, which this node knows: it is another store. \
         Put the right one back, or, if this one is to be the truth, remove this node's snapshot and start it again"
    )]
    Foreign { ours: Epoch, theirs: Epoch },
}

impl Follower {
    #[expect(clippy::too_many_arguments, reason = "called once, where everything is put together")]
    pub(super) fn new(
        settings: Settings,
        writer: IndexWriter,
        keeper: Keeper,
        node: Node,
        published: Published,
        clock: Clock,
        random: Random,
        metrics: Metrics,
    ) -> Self {
        let (claimed, faults) = settings.snapshot.facts();
        faults.iter().for_each(alarm);
        Self {
            reader: writer.reader(),
            ours: claimed.map(|facts| Position { epoch: facts.epoch, revision: facts.revision }),
            store: Stage::Closed,
            connection: None,
            retry: Retry { at: Timer::now(), after: FIRST_RETRY },
            complete_at: clock.monotonic(),
            snapshot_tried: false,
            settings,
            clock,
            random,
            metrics,
            writer,
            keeper,
            node,
            published,
        }
    }

    /// One look at the store, at the snapshot if there is nothing to decide by yet, and at whether to write one.
    pub(super) async fn turn(&mut self) {
        if Timer::now() >= self.retry.at {
            match self.contact().await {
                Ok(()) => self.retry.after = FIRST_RETRY,
                Err(trouble) => self.lost(&trouble),
            }
        }
        if !self.in_service() && !self.snapshot_tried {
            self.start_from_snapshot().await;
        }
        self.keeper.tend(&self.writer, self.ours.map(|ours| ours.epoch));
    }

    /// The end of following: everything is let go of but what has to be written.
    pub(super) fn end(self) -> Last {
        self.published.enforced.send_replace(Enforced::NoMore);
        Last { keeper: self.keeper, writer: self.writer, epoch: self.ours.map(|ours| ours.epoch) }
    }

    async fn contact(&mut self) -> Result<(), Trouble> {
        let now = Moment { wall: self.clock.now(), monotonic: self.clock.monotonic() };
        // Taken out: on any trouble it is dropped, and made anew with the next try.
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        connection.behind |= answer(connection.watch.changed()).await?;
        if connection.behind || connection.asked.elapsed() >= ASK_EVERY {
            self.ask(&mut connection).await?;
        }
        if connection.accepted {
            self.heard(now);
        }
        self.connection = Some(connection);
        Ok(())
    }

    /// Begins to listen before anything is read, so that no commit falls between the two.
    async fn connect(&mut self) -> Result<Connection, Trouble> {
        let store = self.open().await?;
        // If even that fails, it is looked at from the beginning: the file may be gone, or another.
        let watch = answer(store.watch()).await.inspect_err(|_| self.let_go())?;
        Ok(Connection { store, watch, behind: true, asked: Timer::now(), accepted: false })
    }

    /// Whoever would still write to a file that was moved away would write into nothing.
    fn let_go(&mut self) {
        self.store = Stage::Closed;
        self.published.store.send_replace(None);
    }

    async fn open(&mut self) -> Result<Store, Trouble> {
        if let Stage::Closed = self.store {
            let (path, random) = (self.settings.store.clone(), self.random.clone());
            let options = OpenOptions { create: self.may_create() };
            let runtime = Handle::current();
            let open = move || runtime.block_on(Store::open(&path, options, &random));
            self.store = Stage::Opening(spawn_blocking(open));
        }
        if let Stage::Opening(opening) = &mut self.store {
            let opened = timeout(PATIENCE, opening).await.map_err(|_| Trouble::Silent)?;
            self.store = Stage::Closed;
            let opened = opened.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
            self.store = Stage::Open(opened);
        }
        match &self.store {
            Stage::Open(store) => Ok(store.clone()),
            Stage::Closed | Stage::Opening(_) => Err(Trouble::Silent),
        }
    }

    /// A new, empty store in place of one that was mislaid would be refused by what is known of that one, and would take the
    /// changes that were meant for it.
    fn may_create(&self) -> bool {
        self.settings.create_store && self.ours.is_none() && !self.settings.snapshot.exists()
    }

    /// Asks the store where it stands, and brings the index there if the store is the truth.
    async fn ask(&mut self, connection: &mut Connection) -> Result<(), Trouble> {
        connection.asked = Timer::now();
        let store = &connection.store;
        let position = answer(store.position()).await?;
        let verdict = self.verdict(store, position).await?;
        if let Verdict::Refuse(refusal) = verdict {
            (connection.accepted, connection.behind) = (false, false);
            self.refused(&refusal);
            return Ok(());
        }
        if !connection.accepted {
            // Before anything is read for good: whoever commits from now on waits for this node, too.
            self.confirm(position.epoch);
            self.node.register(store).await;
            self.published.store.send_replace(Some(store.clone()));
        }
        match verdict {
            Verdict::Reload => self.reload(store).await?,
            _ => self.catch_up(store, position.revision).await?,
        }
        (connection.accepted, connection.behind) = (true, false);
        Ok(())
    }

    async fn verdict(&self, store: &Store, theirs: Position) -> Result<Verdict, Trouble> {
        let ours = self.ours();
        let same_epoch = ours.is_none_or(|ours| ours.epoch == theirs.epoch);
        let lineage = if same_epoch { Vec::new() } else { answer(store.lineage()).await? };
        match judge(ours, theirs, &lineage) {
            Verdict::Follow if !self.in_service() => Ok(Verdict::Reload),
            verdict => Ok(verdict),
        }
    }

    /// Applies what the store has behind the index.
    async fn catch_up(&mut self, store: &Store, newest: u64) -> Result<(), Trouble> {
        match self.apply_all(store).await {
            Err(Trouble::OutOfOrder(_) | Trouble::Store(StoreError::Gap { .. })) => self.reload(store).await,
            // Nothing is left to apply, and still the store says that there is.
            Ok(()) if self.reader.revision() < newest => self.reload(store).await,
            done => done,
        }
    }

    async fn apply_all(&mut self, store: &Store) -> Result<(), Trouble> {
        loop {
            let changes = answer(store.changes_after(self.reader.revision(), BATCH)).await?;
            let last = changes.len() < BATCH as usize;
            for (revision, change) in changes {
                self.apply(revision, change)?;
            }
            self.in_force();
            if last {
                return Ok(());
            }
        }
    }

    fn apply(&mut self, revision: u64, change: IndexChange) -> Result<(), OutOfOrder> {
        let revokes = matches!(&change, IndexChange::Key(key) if key.state == LifeState::Revoked && !self.is_revoked(&key.digest));
        self.keeper.changed(&change);
        self.writer.apply(revision, change)?;
        // From a moment at which the change was not there yet: the longest that it can have taken, whatever other clocks show.
        let took = self.clock.monotonic().saturating_duration_since(self.complete_at);
        self.metrics.set_feed_lag(took);
        if revokes {
            self.metrics.revocation(took);
        }
        Ok(())
    }

    fn is_revoked(&self, digest: &Digest) -> bool {
        self.reader.look_up(digest, |found| found.is_some_and(|found| found.record.life.state() == LifeState::Revoked))
    }

    /// Loads everything aside and swaps it in. Until then, and if it fails, what there was stays in service.
    async fn reload(&mut self, store: &Store) -> Result<(), Trouble> {
        let heard_at = self.clock.now();
        let (mut position, mut load) = load(store).await?;
        // From here on whoever commits is told that this node may let requests pass: what was committed before that is read now.
        self.node.announce(store, heard_at).await;
        loop {
            let changes = answer(store.changes_after(position.revision, BATCH)).await?;
            let last = changes.len() < BATCH as usize;
            for (revision, change) in changes {
                position.revision = revision;
                match change {
                    IndexChange::Key(key) => load.key(key),
                    IndexChange::Account(account) => load.account(account),
                }
            }
            if last {
                break;
            }
        }
        tracing::info!(keys = load.len(), revision = position.revision, epoch = %position.epoch, "the index was loaded from the store");
        self.writer.swap(load, position.revision, heard_at);
        self.ours = Some(position);
        self.keeper.replaced();
        self.in_force();
        Ok(())
    }

    /// For a node that cannot start from the store.
    async fn start_from_snapshot(&mut self) {
        self.snapshot_tried = true;
        let file = self.settings.snapshot.clone();
        let finding = spawn_blocking(move || file.find());
        let (found, faults) = finding.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
        faults.iter().for_each(alarm);
        match found {
            Some(found) => self.serve(found),
            // What it said of itself binds nobody: an unusable snapshot keeps no node from starting when the store answers.
            None => {
                self.ours = None;
                self.connection = None;
            }
        }
    }

    fn serve(&mut self, Found { facts, load, generation }: Found) {
        let now = self.clock.now();
        tracing::warn!(
            keys = facts.keys,
            revision = facts.revision,
            epoch = %facts.epoch,
            age_s = now.since(facts.heard_at).as_secs(),
            "the index was loaded from the snapshot: the store is not followed"
        );
        // A moment that is still to come would make the lease longer than it is.
        self.writer.swap(load, facts.revision, facts.heard_at.min(now));
        self.ours = Some(Position { epoch: facts.epoch, revision: facts.revision });
        match generation {
            Generation::Newest => self.keeper.started_from(&facts),
            Generation::Older => self.keeper.replaced(),
        }
        self.in_force();
    }

    /// The store was heard from, and had nothing at that moment that is not in force here.
    fn heard(&mut self, at: Moment) {
        self.writer.heard(at.wall);
        self.complete_at = at.monotonic;
        if self.publish(StoreState::Followed, None) {
            tracing::info!(revision = self.reader.revision(), "the store is followed");
        }
    }

    fn refused(&self, refusal: &Refusal) {
        self.published.store.send_replace(None);
        if self.publish(StoreState::Refused, Some(refusal.to_string())) {
            tracing::error!(error = %refusal, "the store is refused: decisions are made by what was known before");
        }
    }

    fn lost(&mut self, trouble: &Trouble) {
        self.retry.at = Timer::now() + self.retry.after;
        self.retry.after = (self.retry.after * 2).min(LAST_RETRY);
        if let Trouble::Store(StoreError::Replaced { .. }) = trouble {
            self.let_go();
        }
        let problem = in_one_line(trouble);
        if self.publish(StoreState::Unreachable, Some(problem.clone())) {
            tracing::warn!(error = %problem, "the store is not followed: it is tried again until it answers");
            if matches!(trouble, Trouble::Store(StoreError::Missing { .. })) && self.settings.create_store && !self.may_create() {
                tracing::warn!(
                    "no new store is made in place of the one that the snapshot was made from: put that one back, or remove the snapshot"
                );
            }
        }
    }

    /// Tells everybody which revision is in force now.
    fn in_force(&self) {
        if let Some(ours) = self.ours() {
            self.confirm(ours.epoch);
        }
        let index = self.index_state();
        self.published.state.send_if_modified(|state| {
            let before = std::mem::replace(&mut state.index, index);
            before.map(|index| (index.epoch, index.revision)) != index.map(|index| (index.epoch, index.revision))
        });
    }

    /// Numbers of one epoch say nothing in another.
    fn confirm(&self, epoch: Epoch) {
        let comparable = self.in_service() && self.ours().is_some_and(|ours| ours.epoch == epoch);
        let revision = Enforced::Revision(if comparable { self.reader.revision() } else { 0 });
        self.published.enforced.send_if_modified(|enforced| std::mem::replace(enforced, revision) != revision);
    }

    /// Whether the store became something else by this: only then are those woken who wait.
    fn publish(&self, store: StoreState, problem: Option<String>) -> bool {
        let index = self.index_state();
        let now = self.clock.now();
        self.published.state.send_if_modified(|state| {
            state.index = index;
            // It begins as unreachable, for no reason yet.
            let turned = state.store != store || (state.problem.is_none() && problem.is_some());
            state.problem = problem.or_else(|| state.problem.take());
            if turned {
                (state.store, state.store_since) = (store, now);
            }
            turned
        })
    }

    fn index_state(&self) -> Option<IndexState> {
        let heard_at = self.reader.heard_at()?;
        self.ours().map(|Position { epoch, revision }| IndexState { epoch, revision, heard_at })
    }

    fn in_service(&self) -> bool {
        self.reader.heard_at().is_some()
    }

    fn ours(&self) -> Option<Position> {
        self.ours.map(|ours| if self.in_service() { Position { revision: self.reader.revision(), ..ours } } else { ours })
    }
}

/// Whether a store is the truth for an index: of the same epoch and not behind it, or of a later one that comes from it.
fn judge(ours: Option<Position>, theirs: Position, lineage: &[Epoch]) -> Verdict {
    let Some(ours) = ours else { return Verdict::Reload };
    if ours.epoch == theirs.epoch {
        return match ours.revision <= theirs.revision {
            true => Verdict::Follow,
            false => Verdict::Refuse(Refusal::Behind { ours: ours.revision, theirs: theirs.revision }),
        };
    }
    match lineage.contains(&ours.epoch) {
        true => Verdict::Reload,
        false => Verdict::Refuse(Refusal::Foreign { ours: ours.epoch, theirs: theirs.epoch }),
    }
}

/// An answer of the store, if it comes in time.
async fn answer<T>(asked: impl Future<Output = Result<T, StoreError>>) -> Result<T, Trouble> {
    timeout(PATIENCE, asked).await.map_err(|_| Trouble::Silent)?.map_err(Trouble::Store)
}

fn alarm(fault: &Fault) {
    tracing::error!(error = %in_one_line(fault), "a snapshot is unusable");
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Epoch = Epoch::from_bytes([1; 16]);
    const TWO: Epoch = Epoch::from_bytes([2; 16]);

    fn at(epoch: Epoch, revision: u64) -> Position {
        Position { epoch, revision }
    }

    #[test]
    fn without_an_index_every_store_is_the_truth() {
        assert_eq!(judge(None, at(ONE, 0), &[]), Verdict::Reload);
    }

    #[test]
    fn a_store_of_the_same_epoch_must_not_be_behind() {
        assert_eq!(judge(Some(at(ONE, 5)), at(ONE, 5), &[ONE]), Verdict::Follow);
        assert_eq!(judge(Some(at(ONE, 5)), at(ONE, 6), &[ONE]), Verdict::Follow);
        assert_eq!(judge(Some(at(ONE, 5)), at(ONE, 4), &[ONE]), Verdict::Refuse(Refusal::Behind { ours: 5, theirs: 4 }));
    }

    #[test]
    fn a_later_epoch_is_the_truth_wherever_it_stands_and_a_foreign_one_never() {
        assert_eq!(judge(Some(at(ONE, 5)), at(TWO, 1), &[ONE, TWO]), Verdict::Reload);
        assert_eq!(judge(Some(at(ONE, 5)), at(TWO, 9), &[TWO]), Verdict::Refuse(Refusal::Foreign { ours: ONE, theirs: TWO }));
        // Ours is the later one: the store was put back to before it was accepted.
        assert_eq!(judge(Some(at(TWO, 5)), at(ONE, 9), &[ONE]), Verdict::Refuse(Refusal::Foreign { ours: TWO, theirs: ONE }));
    }
}

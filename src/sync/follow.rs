//! What the store says, judged and put into service.
//!
//! Each turn asks whether anybody committed and, if so or if it was not asked for two seconds, for the store's position. The
//! moment that counts for the age of the index is always the one *before* the question. A payload is never trusted without a
//! number and its stamp: changes go in one by one as the index counts them, and whatever does not fit leads to a full load aside.

use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant as Timer, timeout};

use super::judge::{Refusal, Verdict, judge};
use super::keep::{Keeper, Last};
use super::node::{Enforced, Node};
use super::snapshot::{Fault, Found, Generation};
use super::{IndexState, Mislaid, Settings, StoreState, SyncState, in_one_line, load, may_make_store};
use crate::access::key::LifeState;
use crate::access::secret::Digest;
use crate::access::time::Timestamp;
use crate::clock::Clock;
use crate::index::{IndexChange, IndexReader, IndexWriter, OutOfOrder};
use crate::store::{OpenOptions, Position, Random, Store, StoreError, Watch};
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
    /// Where the index stands, or, before there is one, what the snapshot on the disk says that it holds. A store is judged by
    /// it.
    ours: Option<Position>,
    /// Whether the store was found to be damaged: nothing less than a whole load makes it believable again.
    damaged: bool,
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
    /// The store to write to: one that is followed.
    pub(super) store: watch::Sender<Option<Store>>,
    /// The store to be on the list of: one that answers, refused or not.
    pub(super) listing: watch::Sender<Option<Store>>,
    pub(super) enforced: watch::Sender<Enforced>,
}

/// How far the store has been opened. Opening makes files and folders and may hang in that, so it has a thread of its own and
/// is waited for only so long.
enum Stage {
    Closed,
    Opening(JoinHandle<Result<Store, StoreError>>),
    Open(Store),
}

/// What has to be finished when following has ended.
pub(super) struct Ended {
    pub(super) last: Last,
    pub(super) connected: Connected,
}

/// What was connected to the store.
pub(super) struct Connected {
    store: Stage,
    watch: Option<Watch>,
}

/// A store that answers.
struct Connection {
    store: Store,
    watch: Watch,
    /// Whether something was committed that has not been looked at.
    behind: bool,
    asked: Timer,
    /// Whether it was told of this node since it was connected to, or since it turned out to be another one.
    told: bool,
    /// Whether it was judged to be the truth.
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
    #[error(transparent)]
    Mislaid(#[from] Mislaid),
    #[error("the store was replaced while it was loaded: {0}")]
    Refused(Refusal),
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
            ours: claimed.map(|facts| facts.position),
            damaged: false,
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
        self.keeper.tend(&self.writer, self.ours);
    }

    /// The end of following: everything is let go of but what has to be written.
    pub(super) fn end(self) -> Ended {
        self.published.enforced.send_replace(Enforced::NoMore);
        let last = Last { keeper: self.keeper, writer: self.writer, position: self.ours };
        Ended { last, connected: Connected { store: self.store, watch: self.connection.map(|connection| connection.watch) } }
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
            self.ask(&mut connection, now).await?;
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
        Ok(Connection { store, watch, behind: true, asked: Timer::now(), told: false, accepted: false })
    }

    /// Whoever would still write to a file that was moved away would write into nothing.
    fn let_go(&mut self) {
        self.store = Stage::Closed;
        self.published.store.send_replace(None);
        self.published.listing.send_replace(None);
    }

    async fn open(&mut self) -> Result<Store, Trouble> {
        if let Stage::Closed = self.store {
            let (path, random) = (self.settings.store.clone(), self.random.clone());
            let options = OpenOptions { create: self.settings.create_store && self.may_make_store().is_ok() };
            let runtime = Handle::current();
            let open = move || runtime.block_on(Store::open(&path, options, &random));
            self.store = Stage::Opening(spawn_blocking(open));
        }
        if let Stage::Opening(opening) = &mut self.store {
            let opened = timeout(PATIENCE, opening).await.map_err(|_| Trouble::Silent)?;
            self.store = Stage::Closed;
            match opened.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic())) {
                Ok(opened) => self.store = Stage::Open(opened),
                Err(missing @ StoreError::Missing { .. }) if self.settings.create_store => {
                    self.may_make_store()?;
                    return Err(missing.into());
                }
                Err(error) => return Err(error.into()),
            }
        }
        match &self.store {
            Stage::Open(store) => Ok(store.clone()),
            Stage::Closed | Stage::Opening(_) => Err(Trouble::Silent),
        }
    }

    /// Not in place of one that this node knows.
    fn may_make_store(&self) -> Result<(), Mislaid> {
        let (store, snapshot) = (&self.settings.store, &self.settings.snapshot);
        match self.ours {
            Some(_) => Err(Mislaid { store: store.clone(), snapshot: snapshot.path().to_owned() }),
            None => may_make_store(store, snapshot),
        }
    }

    /// Asks the store where it stands, and brings the index there if the store is the truth.
    async fn ask(&mut self, connection: &mut Connection, now: Moment) -> Result<(), Trouble> {
        connection.asked = Timer::now();
        let store = &connection.store;
        let verdict = self.verdict(store).await?;
        // Before anything is read for good: whoever commits from now on waits for this node, too. Also where it refuses what is
        // committed: it goes on by what it knew, and people have to be told.
        let refused = matches!(verdict, Verdict::Refuse(_));
        if self.in_service() && !refused {
            self.node.heard(now.wall);
        }
        // A store that turned into another one may hold an old mark of this node, or none.
        let turned = connection.accepted == refused;
        let known = connection.told && !turned && answer(self.node.is_listed(store)).await?;
        let listing = if known { Ok(()) } else { self.list(store).await };
        connection.told = listing.is_ok();
        let reached = match verdict {
            Verdict::Refuse(refusal) => {
                (connection.accepted, connection.behind) = (false, false);
                self.refused(&refusal);
                return Ok(());
            }
            Verdict::Reload => self.reload(store).await,
            Verdict::Follow => self.catch_up(store).await,
        };
        // What was read is in force in any case; but a node that is not on the list of the store has not heard from it.
        reached.and(listing.map_err(Trouble::Store))?;
        self.published.store.send_if_modified(|published| published.replace(store.clone()).is_none());
        (connection.accepted, connection.behind) = (true, false);
        Ok(())
    }

    /// Puts this node on the store's list. If that fails, the marks that follow may yet do it.
    async fn list(&self, store: &Store) -> Result<(), StoreError> {
        let told = self.node.tell_now(store, self.in_service_at()).await;
        self.published.listing.send_if_modified(|listing| listing.replace(store.clone()).is_none());
        told
    }

    async fn verdict(&self, store: &Store) -> Result<Verdict, Trouble> {
        let standing = answer(store.standing(self.ours.map_or(0, |ours| ours.revision))).await?;
        match judge(self.ours, &standing) {
            Verdict::Follow if self.damaged || !self.in_service() => Ok(Verdict::Reload),
            verdict => Ok(verdict),
        }
    }

    /// Applies what the store has behind the index.
    async fn catch_up(&mut self, store: &Store) -> Result<(), Trouble> {
        match self.apply_all(store).await {
            Err(Trouble::OutOfOrder(_) | Trouble::Store(StoreError::Gap { .. })) => self.reload(store).await,
            done => done,
        }
    }

    async fn apply_all(&mut self, store: &Store) -> Result<(), Trouble> {
        while let Some(ours) = self.ours {
            let changes = answer(store.changes_after(ours, BATCH)).await?;
            let last = changes.len() < BATCH as usize;
            for (position, change) in changes {
                self.apply(position, change)?;
            }
            self.in_force();
            if last {
                break;
            }
        }
        Ok(())
    }

    fn apply(&mut self, position: Position, change: IndexChange) -> Result<(), OutOfOrder> {
        let revokes = matches!(&change, IndexChange::Key(key) if key.state == LifeState::Revoked && !self.is_revoked(&key.digest));
        self.keeper.changed(&change);
        self.writer.apply(position.revision, change)?;
        self.ours = Some(position);
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
        let announced = self.tell_of(heard_at, store).await;
        let heard_at = match (&announced, self.reader.heard_at()) {
            (Ok(()), _) => heard_at,
            // What is new comes into force, but makes the index no younger.
            (Err(_), Some(before)) => before,
            (Err(_), None) => return announced.map_err(Trouble::Store),
        };
        loop {
            let changes = answer(store.changes_after(position, BATCH)).await?;
            let last = changes.len() < BATCH as usize;
            for (reached, change) in changes {
                position = reached;
                match change {
                    IndexChange::Key(key) => load.key(key),
                    IndexChange::Account(account) => load.account(account),
                }
            }
            if last {
                break;
            }
        }
        // It was judged before it was loaded, and may have been replaced in between.
        if let Verdict::Refuse(refusal) = self.verdict(store).await? {
            return Err(Trouble::Refused(refusal));
        }
        tracing::info!(keys = load.len(), revision = position.revision, epoch = %position.epoch, "the index was loaded from the store");
        self.writer.swap(load, position.revision, heard_at);
        (self.ours, self.damaged) = (Some(position), false);
        self.keeper.replaced();
        self.in_force();
        announced.map_err(Trouble::Store)
    }

    async fn tell_of(&self, heard_at: Timestamp, store: &Store) -> Result<(), StoreError> {
        self.node.heard(heard_at);
        self.node.tell_now(store, self.in_service_at()).await
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
            revision = facts.position.revision,
            epoch = %facts.position.epoch,
            age_s = now.since(facts.heard_at).as_secs(),
            "the index was loaded from the snapshot: the store is not followed"
        );
        // A moment that is still to come would make the lease longer than it is.
        let heard_at = facts.heard_at.min(now);
        self.node.heard(heard_at);
        self.writer.swap(load, facts.position.revision, heard_at);
        self.ours = Some(facts.position);
        match generation {
            Generation::Newest => self.keeper.started_from(&facts),
            Generation::Older => self.keeper.replaced(),
        }
        self.in_force();
    }

    /// The store was heard from, and had nothing at that moment that is not in force here. Its list must not say of this node that
    /// it lets nobody pass when it does: the index is made no younger than is known there.
    fn heard(&mut self, at: Moment) {
        self.node.heard(at.wall);
        if let Some(covered) = self.node.covered() {
            let heard = at.no_later_than(covered);
            self.writer.heard(heard.wall, heard.monotonic);
        }
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
        match trouble {
            Trouble::Store(StoreError::Replaced { .. }) => self.let_go(),
            Trouble::Store(StoreError::Damaged { .. }) => self.damaged = true,
            _ => {}
        }
        let problem = in_one_line(trouble);
        if self.publish(StoreState::Unreachable, Some(problem.clone())) {
            tracing::warn!(error = %problem, "the store is not followed: it is tried again until it answers");
        }
    }

    /// Tells everybody which revision is in force now. A store that is not of the same history takes no notice of its number.
    fn in_force(&self) {
        let enforced = Enforced::At(self.in_service_at());
        self.published.enforced.send_if_modified(|before| std::mem::replace(before, enforced) != enforced);
        let index = self.index_state();
        self.published.state.send_if_modified(|state| {
            let before = std::mem::replace(&mut state.index, index);
            before.map(|index| (index.epoch, index.revision)) != index.map(|index| (index.epoch, index.revision))
        });
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
        self.ours.map(|Position { epoch, revision, .. }| IndexState { epoch, revision, heard_at })
    }

    fn in_service(&self) -> bool {
        self.reader.heard_at().is_some()
    }

    fn in_service_at(&self) -> Option<Position> {
        self.ours.filter(|_| self.in_service())
    }
}

impl Connected {
    /// Closes everything, so that what was committed is in the store's one file.
    pub(super) async fn close(self) {
        let closing = async {
            if let Some(watch) = self.watch {
                watch.close().await;
            }
            if let Stage::Open(store) = self.store {
                store.close().await;
            }
        };
        if timeout(PATIENCE, closing).await.is_err() {
            tracing::warn!("the store could not be closed in time: what was committed last may be in its log, which belongs to it");
        }
    }
}

impl Moment {
    /// This one, or one so much before it that the wall clock shows `latest`.
    fn no_later_than(self, latest: Timestamp) -> Self {
        let before = self.wall.since(latest);
        let monotonic = self.monotonic.checked_sub(before).unwrap_or(self.monotonic);
        Self { wall: self.wall.minus(before), monotonic }
    }
}

/// An answer of the store, if it comes in time.
async fn answer<T>(asked: impl Future<Output = Result<T, StoreError>>) -> Result<T, Trouble> {
    timeout(PATIENCE, asked).await.map_err(|_| Trouble::Silent)?.map_err(Trouble::Store)
}

fn alarm(fault: &Fault) {
    tracing::error!(error = %in_one_line(fault), "a snapshot is unusable");
}

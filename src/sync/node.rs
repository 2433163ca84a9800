//! This node on the store's list: that it lives, what it enforces, and until when it may go on without the store.
//!
//! Whoever changes a key waits for these marks, so one follows at once on every batch that came into force, and one every two
//! seconds in any case. They are written by a task of their own: a store that is being written to for long keeps a mark
//! waiting, and must not keep changes waiting behind it.
//!
//! A store that is refused is told as well, since it is there that people look who runs; what is enforced of another history
//! confirms nothing in it. And the other way round: a node that could not tell the store that it may let requests pass does not
//! grow younger by what it reads there ([`Node::covered`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, watch};
use tokio::time::timeout;

use super::{Settings, in_one_line};
use crate::access::id::NodeId;
use crate::access::time::Timestamp;
use crate::clock::Clock;
use crate::store::{LIVE_FOR, MARK_EVERY, NodeEntry, Position, Store, StoreError};

/// After a mark that failed: often enough for whoever waits for it.
const RETRY: Duration = Duration::from_millis(200);
/// For being registered and for going off the list.
const PATIENCE: Duration = Duration::from_secs(2);

/// What there is to tell the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Enforced {
    /// None while there is nothing to decide by.
    At(Option<Position>),
    /// No more requests are decided: a clean stop.
    NoMore,
}

/// This node.
#[derive(Clone)]
pub(super) struct Node {
    id: String,
    name: String,
    started_at: Timestamp,
    max_staleness: Option<Duration>,
    clock: Clock,
    hearing: Arc<Hearing>,
}

/// When this node heard from the store, as the lease that it tells counts; both in milliseconds since the Unix epoch.
struct Hearing {
    /// The latest moment that the index has, or is about to have.
    heard_at: AtomicI64,
    /// The latest that the store was told of.
    told: AtomicI64,
    /// One tells at a time, so that what is told later is what is known later.
    turn: Mutex<()>,
}

const NEVER: i64 = i64::MIN;

impl Node {
    pub(super) fn new(id: NodeId, settings: &Settings, clock: Clock) -> Self {
        Self {
            id: id.to_string(),
            name: settings.node_name.clone(),
            started_at: clock.now(),
            max_staleness: settings.max_staleness,
            clock,
            hearing: Arc::new(Hearing { heard_at: AtomicI64::new(NEVER), told: AtomicI64::new(NEVER), turn: Mutex::default() }),
        }
    }

    /// There is, or is about to be, an index that was known to be current at this moment.
    pub(super) fn heard(&self, at: Timestamp) {
        self.hearing.heard_at.fetch_max(at.millis(), Ordering::AcqRel);
    }

    /// Whether the store knows of this node: one that was put back from a copy may not.
    pub(super) async fn is_listed(&self, store: &Store) -> Result<bool, StoreError> {
        store.has_node(&self.id).await
    }

    /// Tells the store now and not only with the next mark.
    pub(super) async fn tell_now(&self, store: &Store, enforced: Option<Position>) -> Result<(), StoreError> {
        timeout(PATIENCE, self.tell(store, enforced)).await.unwrap_or(Err(StoreError::Busy))
    }

    /// Up to which moment of hearing from the store its list tells the truth about this node's lease; none if it tells nothing.
    pub(super) fn covered(&self) -> Option<Timestamp> {
        let forever = Timestamp::from_millis(i64::MAX);
        moment(&self.hearing.told).map(|told| if self.max_staleness.is_none() { forever } else { told.plus(LIVE_FOR) })
    }

    /// Marks this node in whatever store is followed, until a clean stop takes it off the list. If following ends in another way,
    /// the node falls silent: requests may still be decided here, and whoever changes a key must be told so.
    pub(super) async fn mark_until_told(self, mut stores: watch::Receiver<Option<Store>>, mut enforced: watch::Receiver<Enforced>) {
        let mut failing = false;
        loop {
            let store = stores.borrow_and_update().clone();
            let enforced_now = *enforced.borrow_and_update();
            let marked = match (&store, enforced_now) {
                (Some(store), Enforced::At(position)) => self.tell(store, position).await,
                (Some(store), Enforced::NoMore) => return self.leave(store).await,
                (None, Enforced::NoMore) => return,
                (None, Enforced::At(_)) => Ok(()),
            };
            self.report(&marked, &mut failing);
            tokio::select! {
                told = enforced.changed() => if told.is_err() { return },
                Ok(()) = stores.changed() => {}
                () = tokio::time::sleep(if marked.is_ok() { MARK_EVERY } else { RETRY }) => {}
            }
        }
    }

    /// Marks this node, and registers it first if it is not on the list.
    async fn tell(&self, store: &Store, enforced: Option<Position>) -> Result<(), StoreError> {
        let _turn = self.hearing.turn.lock().await;
        let heard_at = moment(&self.hearing.heard_at);
        let lease_ends = self.lease_ends(heard_at);
        if !store.mark_node(&self.id, enforced, self.clock.wall(), lease_ends).await? {
            store.register_node(&self.entry(lease_ends)).await?;
            store.mark_node(&self.id, enforced, self.clock.wall(), lease_ends).await?;
        }
        self.hearing.told.store(heard_at.map_or(NEVER, Timestamp::millis), Ordering::Release);
        Ok(())
    }

    /// The clock is the one that others see, too: they compare it with theirs.
    fn entry(&self, lease_ends: Option<Timestamp>) -> NodeEntry {
        NodeEntry {
            id: self.id.clone(),
            name: self.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: self.started_at,
            last_seen: self.clock.wall(),
            revision: 0,
            lease_ends,
        }
    }

    /// Later than the index's own by as long as a node may be silent and still count as live: until its next mark, it hears from
    /// the store many times, and each time its lease grows. Without an index nobody is let pass.
    fn lease_ends(&self, heard_at: Option<Timestamp>) -> Option<Timestamp> {
        match (heard_at, self.max_staleness) {
            (None, _) => Some(self.clock.wall()),
            (Some(_), None) => None,
            (Some(heard_at), Some(limit)) => Some(heard_at.plus(limit).plus(LIVE_FOR)),
        }
    }

    /// What fails of it is made up for by the end of the lease.
    async fn leave(&self, store: &Store) {
        match timeout(PATIENCE, store.remove_node(&self.id)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(error = %in_one_line(&error), "this node could not go off the store's list"),
            Err(_) => tracing::warn!("this node could not go off the store's list in time"),
        }
    }

    /// Once for each row of failures.
    fn report(&self, marked: &Result<(), StoreError>, failing: &mut bool) {
        if let (Err(error), false) = (marked, *failing) {
            tracing::warn!(error = %in_one_line(error), "this node could not mark itself in the store: until it can, its lease does not grow");
        }
        *failing = marked.is_err();
    }
}

fn moment(millis: &AtomicI64) -> Option<Timestamp> {
    Some(millis.load(Ordering::Acquire)).filter(|&millis| millis != NEVER).map(Timestamp::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::TestClock;
    use crate::store::{OpenOptions, Random};
    use crate::sync::snapshot::SnapshotFile;

    const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

    /// How many nodes are on the list after following ended in this way.
    async fn left_on_the_list(end: impl FnOnce(watch::Sender<Enforced>)) -> usize {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("martis.db");
        let store = Store::open(&path, OpenOptions { create: true }, &Random::seeded(1)).await.unwrap();
        let snapshot = SnapshotFile::new(folder.path().join("keys.snapshot"));
        let settings = Settings { store: path, create_store: false, snapshot, max_staleness: None, node_name: "here".to_owned() };
        let node = Node::new(NodeId::new(NOW, [0; 10]), &settings, TestClock::at(NOW).clock());
        node.tell_now(&store, None).await.unwrap();
        assert_eq!(store.nodes().await.unwrap().len(), 1);
        let (_stores, seen_store) = watch::channel(Some(store.clone()));
        let (enforced, seen_enforced) = watch::channel(Enforced::At(None));
        end(enforced);
        node.mark_until_told(seen_store, seen_enforced).await;
        store.nodes().await.unwrap().len()
    }

    #[tokio::test]
    async fn a_clean_stop_takes_a_node_off_the_list_and_nothing_else_does() {
        let clean_stop = |enforced: watch::Sender<Enforced>| {
            enforced.send_replace(Enforced::NoMore);
        };
        assert_eq!(left_on_the_list(clean_stop).await, 0);
        assert_eq!(left_on_the_list(drop).await, 1);
    }
}

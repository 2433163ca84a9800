//! This node on the store's list: that it lives, what it enforces, and until when it may go on without the store.
//!
//! Whoever changes a key waits for these marks, so one follows at once on every batch that came into force, and one every two
//! seconds in any case. They are written by a task of their own: a store that is being written to for long keeps a mark
//! waiting, and must not keep changes waiting behind it.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use super::{Settings, in_one_line};
use crate::access::id::NodeId;
use crate::access::time::Timestamp;
use crate::clock::Clock;
use crate::index::IndexReader;
use crate::store::{LIVE_FOR, MARK_EVERY, NodeEntry, Store, StoreError};

/// After a mark that failed: often enough for whoever waits for it.
const RETRY: Duration = Duration::from_millis(200);
/// For being registered and for going off the list. What is missed is made up for by the next mark, or by the end of the lease.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is there to confirm to the store that is followed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Enforced {
    /// 0 while what is in force is of another epoch.
    Revision(u64),
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
    index: IndexReader,
}

impl Node {
    pub(super) fn new(id: NodeId, settings: &Settings, clock: Clock, index: IndexReader) -> Self {
        Self {
            id: id.to_string(),
            name: settings.node_name.clone(),
            started_at: clock.now(),
            max_staleness: settings.max_staleness,
            clock,
            index,
        }
    }

    /// Puts this node on the list of a store that begins to be followed.
    pub(super) async fn register(&self, store: &Store) {
        self.try_to("register", store.register_node(&self.entry(0))).await;
    }

    /// Says, before an index that was heard of at `heard_at` comes into service, that it is about to.
    pub(super) async fn announce(&self, store: &Store, heard_at: Timestamp) {
        let lease_ends = self.lease_ends(Some(heard_at));
        self.try_to("announce itself", store.mark_node(&self.id, 0, self.clock.now(), lease_ends)).await;
    }

    /// Marks this node in whatever store is followed, until a clean stop takes it off the list. If following ends in another way,
    /// the node falls silent: requests may still be decided here, and whoever changes a key must be told so.
    pub(super) async fn mark_until_told(self, mut stores: watch::Receiver<Option<Store>>, mut enforced: watch::Receiver<Enforced>) {
        let mut failing = false;
        loop {
            let store = stores.borrow_and_update().clone();
            let to_confirm = *enforced.borrow_and_update();
            let marked = match (&store, to_confirm) {
                (Some(store), Enforced::Revision(revision)) => self.mark(store, revision).await,
                (Some(store), Enforced::NoMore) => return self.try_to("go off the list", store.remove_node(&self.id)).await,
                (None, Enforced::NoMore) => return,
                (None, Enforced::Revision(_)) => Ok(()),
            };
            self.report(&marked, &mut failing);
            tokio::select! {
                told = enforced.changed() => if told.is_err() { return },
                Ok(()) = stores.changed() => {}
                () = tokio::time::sleep(if marked.is_ok() { MARK_EVERY } else { RETRY }) => {}
            }
        }
    }

    async fn mark(&self, store: &Store, revision: u64) -> Result<(), StoreError> {
        if store.mark_node(&self.id, revision, self.clock.now(), self.lease_ends(self.index.heard_at())).await? {
            return Ok(());
        }
        tracing::info!(node = self.id, "this node was not on the store's list, and registers");
        store.register_node(&self.entry(revision)).await
    }

    fn entry(&self, revision: u64) -> NodeEntry {
        NodeEntry {
            id: self.id.clone(),
            name: self.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: self.started_at,
            last_seen: self.clock.now(),
            revision,
            lease_ends: self.lease_ends(self.index.heard_at()),
        }
    }

    /// Later than the index's own by as long as a node may be silent and still count as live: until its next mark, it hears from
    /// the store many times, and each time its lease grows. Without an index nobody is let pass.
    fn lease_ends(&self, heard_at: Option<Timestamp>) -> Option<Timestamp> {
        match (heard_at, self.max_staleness) {
            (None, _) => Some(self.clock.now()),
            (Some(_), None) => None,
            (Some(heard_at), Some(limit)) => Some(heard_at.plus(limit).plus(LIVE_FOR)),
        }
    }

    async fn try_to<T>(&self, what: &'static str, done: impl Future<Output = Result<T, StoreError>>) {
        match timeout(PATIENCE, done).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(error = %in_one_line(&error), "this node could not {what} in time"),
            Err(_) => tracing::warn!("this node could not {what} in time"),
        }
    }

    /// Once for each row of failures.
    fn report(&self, marked: &Result<(), StoreError>, failing: &mut bool) {
        if let (Err(error), false) = (marked, *failing) {
            tracing::warn!(error = %in_one_line(error), "this node could not mark itself in the store: it is tried again");
        }
        *failing = marked.is_err();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::TestClock;
    use crate::index::new_index;
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
        let node = Node::new(NodeId::new(NOW, [0; 10]), &settings, TestClock::at(NOW).clock(), new_index(None).1);
        node.register(&store).await;
        assert_eq!(store.nodes().await.unwrap().len(), 1);
        let (_stores, seen_store) = watch::channel(Some(store.clone()));
        let (enforced, seen_enforced) = watch::channel(Enforced::Revision(0));
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

//! Revisions, the log of changes, and what a decision is loaded from.

use martis_gateway::access::address::IpRestrictions;
use martis_gateway::access::key::LifeState;
use martis_gateway::index::IndexChange;
use martis_gateway::store::{Epoch, Loaded, Position, Stamp, Store, StoreError, Taken};

use crate::support::{TestStore, account_row, add_account, add_key, key_row, node};

async fn everything(store: &Store) -> (u64, Vec<Loaded>) {
    let mut loaded = Vec::new();
    let position = store.load_all(|row| loaded.push(row)).await.unwrap();
    (position.revision, loaded)
}

/// What changed from the beginning on, by the numbers.
async fn log(store: &Store) -> Vec<(u64, IndexChange)> {
    let beginning = Position::beginning(store.position().await.unwrap().epoch);
    let changes = store.changes_after(beginning, 1000).await.unwrap();
    changes.into_iter().map(|(position, change)| (position.revision, change)).collect()
}

/// Where a store stood at a revision that it has.
async fn at(store: &Store, revision: u64) -> Position {
    let standing = store.standing(revision).await.unwrap();
    Position { revision, stamp: standing.stamp.unwrap(), ..standing.position }
}

#[tokio::test]
async fn a_new_store_has_an_epoch_and_no_revision() {
    let test = TestStore::new();
    let store = test.open().await;
    let position = store.position().await.unwrap();
    assert_eq!(position.revision, 0);
    assert_eq!(store.lineage().await.unwrap(), [position.epoch]);
    assert_eq!(test.open().await.position().await.unwrap(), position);
    assert_eq!(position, Position::beginning(position.epoch));
    assert_eq!(store.changes_after(position, 10).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn revisions_have_no_gap_and_are_in_the_order_of_commits_with_eight_writers() {
    let test = TestStore::new();
    let handles = [test.open().await, test.open().await];
    add_account(&handles[0]).await;
    let writers = (0..8_u32).map(|writer| {
        let store = handles[writer as usize % 2].clone();
        tokio::spawn(async move {
            let mut taken = Vec::new();
            for number in 0..12 {
                let row = add_key(&store, key_row(writer * 1000 + number)).await.unwrap();
                // A write that is given up in between takes nothing.
                let mut given_up = store.write().await.unwrap();
                given_up.insert_key(&mut key_row(writer * 1000 + 500 + number)).await.unwrap();
                drop(given_up);
                taken.push((row.revision, row.id));
            }
            assert!(taken.is_sorted());
            taken
        })
    });
    let mut taken = Vec::new();
    for writer in writers.collect::<Vec<_>>() {
        taken.extend(writer.await.unwrap());
    }
    taken.sort();
    assert_eq!(taken.iter().map(|(revision, _)| *revision).collect::<Vec<_>>(), (1..=96).collect::<Vec<_>>());
    let log = log(&handles[1]).await;
    let logged = log.iter().map(|(revision, change)| match change {
        IndexChange::Key(key) => (*revision, key.id),
        IndexChange::Account(account) => panic!("{account:?}"),
    });
    assert_eq!(logged.collect::<Vec<_>>(), taken);
}

#[tokio::test]
async fn changes_tell_what_each_revision_touched_as_it_is_now() {
    let test = TestStore::new();
    let store = test.open().await;
    add_account(&store).await;
    let mut first = add_key(&store, key_row(1)).await.unwrap();
    let second = add_key(&store, key_row(2)).await.unwrap();
    let mut write = store.write().await.unwrap();
    write.set_suspended(account_row(1).id, true).await.unwrap();
    first.state = LifeState::Revoked;
    write.update_key(&mut first).await.unwrap();
    assert_eq!(write.commit().await.unwrap(), 4);
    let suspended = IndexChange::Account(martis_gateway::index::IndexedAccount { id: account_row(1).id, suspended: true });
    let expected = [
        (1, IndexChange::Key(first.indexed())),
        (2, IndexChange::Key(second.indexed())),
        (3, suspended),
        (4, IndexChange::Key(first.indexed())),
    ];
    assert_eq!(log(&store).await, expected);
    let third = store.changes_after(at(&store, 2).await, 1).await.unwrap();
    assert_eq!(third, [(at(&store, 3).await, expected[2].1.clone())]);
    assert_eq!(store.changes_after(at(&store, 4).await, 10).await.unwrap(), []);
    assert_eq!(store.position().await.unwrap(), at(&store, 4).await);
}

#[tokio::test]
async fn each_revision_is_told_from_those_of_its_number_in_copies_of_the_store() {
    let test = TestStore::new();
    let store = test.open().await;
    add_account(&store).await;
    add_key(&store, key_row(1)).await.unwrap();
    store.close().await;
    let copy = TestStore::new();
    std::fs::create_dir(copy.path().parent().unwrap()).unwrap();
    std::fs::copy(test.path(), copy.path()).unwrap();
    let (one, other) = (test.open().await, copy.open().await);
    assert_eq!(one.position().await.unwrap(), other.position().await.unwrap());

    // The same change with the same number, and yet another revision; one at a time or many at once.
    for store in [&one, &other] {
        add_key(store, key_row(2)).await.unwrap();
        let mut write = store.write().await.unwrap();
        write.insert_keys(&mut [key_row(3), key_row(4)]).await.unwrap();
        write.commit().await.unwrap();
    }
    let mut stamps = vec![Stamp::BEGINNING, at(&one, 1).await.stamp];
    for revision in 2..=4 {
        stamps.extend([at(&one, revision).await.stamp, at(&other, revision).await.stamp]);
    }
    for (at, stamp) in stamps.iter().enumerate() {
        assert!(!stamps[..at].contains(stamp), "{stamps:?}");
    }
    assert_eq!(one.changes_after(at(&other, 1).await, 10).await.unwrap().len(), 3);
    for known in [at(&other, 2).await, at(&other, 4).await, Position { revision: 5, ..at(&one, 4).await }] {
        let refusal = one.changes_after(known, 10).await.unwrap_err();
        assert!(matches!(refusal, StoreError::OtherHistory { revision } if revision == known.revision), "{refusal:?}");
    }
    assert_eq!(one.standing(5).await.unwrap().stamp, None);
}

#[tokio::test]
async fn everything_is_loaded_as_it_was_written() {
    let test = TestStore::new();
    let store = test.open().await;
    add_account(&store).await;
    let mut rows: Vec<_> = (0..5000).map(key_row).collect();
    rows[7].ip_restrictions = IpRestrictions::default();
    rows[8].expires_at = None;
    let mut write = store.write().await.unwrap();
    write.insert_keys(&mut rows).await.unwrap();
    write.commit().await.unwrap();
    let (revision, loaded) = everything(&store).await;
    assert_eq!(revision, 5000);
    assert_eq!(loaded[0], Loaded::Account(account_row(1).indexed()));
    let expected: Vec<Loaded> = rows.iter().map(|row| Loaded::Key(row.indexed())).collect();
    assert_eq!(loaded[1..], expected);
    assert_eq!(store.count_keys().await.unwrap(), 5000);
    assert_eq!(store.key(rows[8].id).await.unwrap().unwrap(), rows[8]);
    let last = store.changes_after(at(&store, 4999).await, 10).await.unwrap();
    assert_eq!(last, [(store.position().await.unwrap(), IndexChange::Key(rows[4999].indexed()))]);
}

#[tokio::test]
async fn a_write_that_is_dropped_in_the_middle_leaves_the_last_committed_state() {
    let test = TestStore::new();
    let store = test.open().await;
    add_account(&store).await;
    let kept = add_key(&store, key_row(1)).await.unwrap();
    for _ in 0..3 {
        let mut write = store.write().await.unwrap();
        write.insert_key(&mut key_row(2)).await.unwrap();
        write.update_key(&mut key_row(1)).await.unwrap();
        write.begin_epoch(Epoch::from_bytes([9; 16]), &[]).await.unwrap();
        drop(write);
    }
    for store in [store, test.open().await] {
        assert_eq!(store.position().await.unwrap().revision, 1);
        assert_eq!(store.lineage().await.unwrap().len(), 1);
        assert_eq!(store.key(kept.id).await.unwrap(), Some(kept.clone()));
        assert!(matches!(add_key(&store, key_row(1)).await, Err(StoreError::Taken(_))));
    }
}

#[tokio::test]
async fn a_digest_is_unique_for_ever_also_that_of_a_revoked_key() {
    let test = TestStore::new();
    let store = test.open().await;
    add_account(&store).await;
    let mut row = add_key(&store, key_row(1)).await.unwrap();
    row.state = LifeState::Revoked;
    let mut write = store.write().await.unwrap();
    write.update_key(&mut row).await.unwrap();
    write.commit().await.unwrap();
    let mut again = key_row(2);
    again.digest = row.digest;
    assert!(matches!(add_key(&store, again).await, Err(StoreError::Taken(Taken::Digest))));
    assert_eq!(store.position().await.unwrap().revision, 2);
}

#[tokio::test]
async fn a_revoked_key_stays_revoked_whatever_anybody_writes() {
    let test = TestStore::new();
    let store = test.open().await;
    add_account(&store).await;
    let mut row = add_key(&store, key_row(1)).await.unwrap();
    row.state = LifeState::Revoked;
    let mut write = store.write().await.unwrap();
    write.update_key(&mut row).await.unwrap();
    write.commit().await.unwrap();
    row.state = LifeState::Active;
    let mut write = store.write().await.unwrap();
    assert!(write.update_key(&mut row).await.is_err());
    write.abandon().await.unwrap();
    assert_eq!(store.key(row.id).await.unwrap().unwrap().state, LifeState::Revoked);
}

#[tokio::test]
async fn names_new_accounts_and_marks_of_nodes_take_no_revision() {
    let test = TestStore::new();
    let store = test.open().await;
    add_account(&store).await;
    let row = add_key(&store, key_row(1)).await.unwrap();
    let mut write = store.write().await.unwrap();
    write.rename_key(row.id, "Another").await.unwrap();
    write.insert_account(&account_row(2)).await.unwrap();
    assert_eq!(write.commit().await.unwrap(), 1);
    store.register_node(&node("node_1", 0)).await.unwrap();
    store.mark_node("node_1", None, node("", 0).last_seen, None).await.unwrap();
    store.remove_node("node_1").await.unwrap();
    assert_eq!(store.position().await.unwrap().revision, 1);
    assert_eq!(store.key(row.id).await.unwrap().unwrap().name, "Another");
}

#[tokio::test]
async fn a_watch_sees_what_other_handles_commit() {
    let test = TestStore::new();
    let (one, other) = (test.open().await, test.open().await);
    add_account(&one).await;
    let mut watch = one.watch().await.unwrap();
    assert!(!watch.changed().await.unwrap());
    for (store, number) in [(&one, 1), (&other, 2)] {
        add_key(store, key_row(number)).await.unwrap();
        assert!(watch.changed().await.unwrap());
        assert!(!watch.changed().await.unwrap());
    }
    let mut given_up = other.write().await.unwrap();
    given_up.insert_key(&mut key_row(3)).await.unwrap();
    given_up.abandon().await.unwrap();
    assert!(!watch.changed().await.unwrap());
}

#[tokio::test]
async fn epochs_line_up_and_the_last_one_is_current() {
    let test = TestStore::new();
    let store = test.open().await;
    let first = store.position().await.unwrap().epoch;
    let mut write = store.write().await.unwrap();
    write.begin_epoch(Epoch::from_bytes([9; 16]), &[]).await.unwrap();
    write.commit().await.unwrap();
    assert_eq!(store.lineage().await.unwrap(), [first, Epoch::from_bytes([9; 16])]);
    assert_eq!(store.position().await.unwrap().epoch, Epoch::from_bytes([9; 16]));
}

#[tokio::test]
async fn beginning_an_epoch_settles_those_that_nodes_and_snapshots_know() {
    let test = TestStore::new();
    let store = test.open().await;
    let [of_a_node, of_a_snapshot, new] = [1, 2, 3].map(|number| Epoch::from_bytes([number; 16]));
    let first = store.position().await.unwrap().epoch;
    for (id, epoch) in [("node_1", of_a_node), ("node_2", first)] {
        store.register_node(&node(id, 0)).await.unwrap();
        store.mark_node(id, Some(Position::beginning(epoch)), node("", 0).last_seen, None).await.unwrap();
    }
    store.register_node(&node("without_an_index", 0)).await.unwrap();
    let mut write = store.write().await.unwrap();
    write.begin_epoch(new, &[first, of_a_snapshot, of_a_node]).await.unwrap();
    write.commit().await.unwrap();
    assert_eq!(store.lineage().await.unwrap(), [first, of_a_node, of_a_snapshot, new]);
    assert_eq!(store.position().await.unwrap().epoch, new);
}

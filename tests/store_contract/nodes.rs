//! Who runs.

use std::time::Duration;

use martis_gateway::store::{NodeEntry, Position, Stamp};

use crate::support::{START, TestStore, add_account, add_key, key_row, node};

#[tokio::test]
async fn a_node_registers_marks_itself_and_is_removed() {
    let test = TestStore::new();
    let store = test.open().await;
    assert_eq!(store.nodes().await.unwrap(), []);
    store.register_node(&node("node_1", 3)).await.unwrap();
    store.register_node(&NodeEntry { lease_ends: None, ..node("node_2", 4) }).await.unwrap();
    let later = START.plus(Duration::from_secs(2));
    assert!(store.mark_node("node_1", None, later, Some(later)).await.unwrap());
    let marked = NodeEntry { revision: 0, last_seen: later, lease_ends: Some(later), ..node("node_1", 3) };
    assert_eq!(store.nodes().await.unwrap(), [marked, NodeEntry { lease_ends: None, ..node("node_2", 4) }]);
    assert!(store.has_node("node_1").await.unwrap());
    assert!(store.remove_node("node_1").await.unwrap());
    assert!(!store.has_node("node_1").await.unwrap());
    assert!(!store.remove_node("node_1").await.unwrap());
    assert!(!store.mark_node("node_1", None, later, None).await.unwrap());
    assert_eq!(store.nodes().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_mark_confirms_a_revision_only_if_it_is_one_of_this_store() {
    let test = TestStore::new();
    let store = test.open().await;
    add_account(&store).await;
    add_key(&store, key_row(1)).await.unwrap();
    let position = store.position().await.unwrap();
    store.register_node(&node("node_1", 0)).await.unwrap();
    let another = Position { stamp: Stamp::from_bytes([7; 8]), ..position };
    for (enforced, confirmed) in [(position, 1), (another, 0), (Position { revision: 2, ..position }, 0)] {
        assert!(store.mark_node("node_1", Some(enforced), START, None).await.unwrap());
        assert_eq!(store.nodes().await.unwrap()[0].revision, confirmed, "{enforced:?}");
    }
}

#[tokio::test]
async fn a_node_that_died_long_ago_goes_off_the_list_and_one_whose_lease_never_ends_does_not() {
    let test = TestStore::new();
    let store = test.open().await;
    store.register_node(&node("dead", 0)).await.unwrap();
    store.register_node(&NodeEntry { lease_ends: None, ..node("forever", 0) }).await.unwrap();
    let a_day_later = START.plus(Duration::from_secs(25 * 60 * 60));
    store.register_node(&NodeEntry { started_at: a_day_later, last_seen: a_day_later, lease_ends: None, ..node("new", 0) }).await.unwrap();
    let left: Vec<String> = store.nodes().await.unwrap().into_iter().map(|node| node.id).collect();
    assert_eq!(left, ["forever", "new"]);
}

#[tokio::test]
async fn marks_do_not_wait_for_a_write_that_is_being_made_in_the_same_process_longer_than_it_takes() {
    let test = TestStore::new();
    let store = test.open().await;
    store.register_node(&node("node_1", 0)).await.unwrap();
    let write = store.write().await.unwrap();
    let mark = store.mark_node("node_1", None, START, None);
    let (marked, committed) = tokio::join!(mark, async {
        tokio::task::yield_now().await;
        write.commit().await
    });
    assert!(marked.unwrap());
    committed.unwrap();
}

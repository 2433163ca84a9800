//! Who runs.

use std::time::Duration;

use martis_gateway::store::NodeEntry;

use crate::support::{START, TestStore, node};

#[tokio::test]
async fn a_node_registers_marks_itself_and_is_removed() {
    let test = TestStore::new();
    let store = test.open().await;
    assert_eq!(store.nodes().await.unwrap(), []);
    store.register_node(&node("node_1", 3)).await.unwrap();
    store.register_node(&NodeEntry { lease_ends: None, ..node("node_2", 4) }).await.unwrap();
    let later = START.plus(Duration::from_secs(2));
    assert!(store.mark_node("node_1", 5, later, Some(later)).await.unwrap());
    let marked = NodeEntry { revision: 5, last_seen: later, lease_ends: Some(later), ..node("node_1", 3) };
    assert_eq!(store.nodes().await.unwrap(), [marked, NodeEntry { lease_ends: None, ..node("node_2", 4) }]);
    assert!(store.remove_node("node_1").await.unwrap());
    assert!(!store.remove_node("node_1").await.unwrap());
    assert!(!store.mark_node("node_1", 6, later, None).await.unwrap());
    assert_eq!(store.nodes().await.unwrap().len(), 1);
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
    let mark = store.mark_node("node_1", 1, START, None);
    let (marked, committed) = tokio::join!(mark, async {
        tokio::task::yield_now().await;
        write.commit().await
    });
    assert!(marked.unwrap());
    committed.unwrap();
}

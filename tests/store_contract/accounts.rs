//! Accounts, and the list of nodes as the operator sees it.

use std::time::Duration;

use martis_gateway::keyring::{KeyringError, ListAccounts};
use martis_gateway::store::NodeEntry;

use crate::support::{START, TestKeyring, actor, node};

#[tokio::test]
async fn an_account_has_a_name_that_no_other_has_and_is_found_by_name_or_id() {
    let test = TestKeyring::new().await;
    let account = test.keyring.account("Shop").await.unwrap();
    assert_eq!(test.keyring.account(&account.id.to_string()).await.unwrap(), account);
    for (name, why) in [("Shop", "with this name"), (" Shop ", "with this name"), ("", "1 to 100"), ("acct_1", "acct_")] {
        let Err(KeyringError::Invalid(problems)) = test.keyring.create_account(&actor(), name).await else { panic!("{name}") };
        assert_eq!(problems[0].field, "name");
        assert!(problems[0].detail.contains(why), "{problems:?}");
    }
    assert_eq!(test.keyring.account("Nobody").await.unwrap_err().code(), "not_found");
}

#[tokio::test]
async fn accounts_are_listed_page_by_page_each_once() {
    let test = TestKeyring::new().await;
    for number in 0..24 {
        test.keyring.create_account(&actor(), &format!("Account {number}")).await.unwrap();
    }
    let mut names = Vec::new();
    let mut cursor = None;
    loop {
        let page = test.keyring.list_accounts(&ListAccounts { limit: Some(10), cursor }).await.unwrap();
        names.extend(page.items.into_iter().map(|account| account.name));
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 25);
}

#[tokio::test]
async fn an_account_is_suspended_once_and_resumed_once() {
    let test = TestKeyring::new().await;
    let suspended = test.keyring.suspend_account(&actor(), "Shop").await.unwrap();
    assert!(suspended.account.suspended);
    assert_eq!(test.keyring.store().position().await.unwrap().revision, 1);
    assert_eq!(test.keyring.suspend_account(&actor(), "Shop").await.unwrap_err().code(), "wrong_status");
    assert!(!test.keyring.resume_account(&actor(), "Shop").await.unwrap().account.suspended);
    assert_eq!(test.keyring.resume_account(&actor(), "Shop").await.unwrap_err().code(), "wrong_status");
}

#[tokio::test]
async fn a_node_that_died_can_be_forgotten_and_a_live_one_cannot() {
    let test = TestKeyring::new().await;
    let store = test.keyring.store();
    store.register_node(&node("live", 0)).await.unwrap();
    let dead = NodeEntry { last_seen: START.minus(Duration::from_secs(7)), ..node("dead", 0) };
    store.register_node(&dead).await.unwrap();
    assert_eq!(test.keyring.forget_node(&actor(), "live").await.unwrap_err().code(), "wrong_status");
    assert_eq!(test.keyring.forget_node(&actor(), "nobody").await.unwrap_err().code(), "not_found");
    assert_eq!(test.keyring.forget_node(&actor(), "dead").await.unwrap().id, "dead");
    let left = test.keyring.nodes().await.unwrap();
    assert_eq!(left.iter().map(|node| (node.id.as_str(), node.live)).collect::<Vec<_>>(), [("live", true)]);
}

#[tokio::test]
async fn a_change_is_answered_when_the_live_node_has_confirmed_it() {
    let test = TestKeyring::new().await;
    let store = test.keyring.store().clone();
    store.register_node(&node("live", 0)).await.unwrap();
    store.register_node(&NodeEntry { last_seen: START.minus(Duration::from_secs(7)), ..node("lost", 0) }).await.unwrap();
    let node = async {
        let mut watch = store.watch().await.unwrap();
        loop {
            let position = store.position().await.unwrap();
            if position.revision > 0 {
                return store.mark_node("live", Some(position), START, None).await.unwrap();
            }
            while !watch.changed().await.unwrap() {
                tokio::task::yield_now().await;
            }
        }
    };
    let actor = actor();
    let (changed, marked) = tokio::join!(test.keyring.suspend_account(&actor, "Shop"), node);
    assert!(marked);
    let confirmation = changed.unwrap().confirmation;
    assert_eq!((confirmation.nodes, confirmation.confirmed), (2, 1));
    assert_eq!(confirmation.silent.iter().map(|node| node.node.as_str()).collect::<Vec<_>>(), ["lost"]);
    assert!(confirmation.slowest_ms.is_some());
}

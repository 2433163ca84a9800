//! What is answered to those who make, change and look for keys.

use std::time::Duration;

use martis_gateway::access::secret::is_well_formed;
use martis_gateway::keyring::view::IpRestrictionsView;
use martis_gateway::keyring::{Edit, KeyringError, ListKeys, NewKey, Restrict};

use crate::support::{START, TestKeyring, actor, new_key};

fn restrictions(enabled: bool, allowed: &[&str]) -> IpRestrictionsView {
    IpRestrictionsView { enabled, allowed: allowed.iter().map(|&entry| entry.to_owned()).collect() }
}

fn restrict(asked: Restrict) -> Edit {
    Edit { name: None, ip_restrictions: Some(asked) }
}

#[tokio::test]
async fn the_answer_to_create_has_the_fields_of_the_contract_in_their_order() {
    let test = TestKeyring::new().await;
    let new = NewKey {
        permissions: Some(vec!["payments.charges:write".to_owned(), "payments.charges:read".to_owned()]),
        ip_restrictions: Some(restrictions(true, &["10.1.2.3/8"])),
        expires_at: Some(START.plus(Duration::from_secs(3600)).to_string()),
        ..new_key("  Web shop ")
    };
    let created = test.keyring.create(&actor(), &new).await.unwrap();
    assert!(is_well_formed(created.secret.reveal().as_bytes()));
    let account = test.keyring.account("Shop").await.unwrap().id;
    let expected = format!(
        r#"{{"id":"{}","account":"{account}","name":"Web shop","environment":"production","hint":"{}","status":"active","permissions":["payments.charges:read","payments.charges:write"],"ip_restrictions":{{"enabled":true,"allowed":["10.0.0.0/8"]}},"created_at":"{START}","created_by":"ana (command line)","expires_at":"{}","last_used":null,"replaces":null,"replaced_by":null,"secret":"{}","confirmation":{{"nodes":0,"confirmed":0,"slowest_ms":null,"silent":[]}}}}"#,
        created.key.id,
        created.secret.hint(),
        START.plus(Duration::from_secs(3600)),
        created.secret.reveal(),
    );
    assert_eq!(serde_json::to_string(&created).unwrap(), expected);
    assert!(!format!("{created:?}").contains(created.secret.reveal()));
}

#[tokio::test]
async fn everything_that_is_wrong_with_a_new_key_is_said_at_once() {
    let test = TestKeyring::new().await;
    let new = NewKey {
        account: "Nobody".to_owned(),
        name: String::new(),
        environment: "live".to_owned(),
        permissions: Some(vec!["payments.charges:wite".to_owned()]),
        ip_restrictions: Some(restrictions(true, &["10.0.0.0/8", "::/0", "example.com"])),
        expires_at: Some(START.to_string()),
    };
    let Err(KeyringError::Invalid(problems)) = test.keyring.create(&actor(), &new).await else { panic!() };
    let fields: Vec<&str> = problems.iter().map(|problem| problem.field.as_str()).collect();
    let expected =
        ["account", "name", "environment", "permissions[0]", "ip_restrictions.allowed[1]", "ip_restrictions.allowed[2]", "expires_at"];
    assert_eq!(fields, expected);
    assert_eq!(test.keyring.list(&ListKeys::default()).await.unwrap().items, []);
}

#[tokio::test]
async fn the_list_of_addresses_survives_switching_off() {
    let test = TestKeyring::new().await;
    let id = test.keyring.create(&actor(), &new_key("Web")).await.unwrap().key.id;
    let edit = |asked: Restrict| {
        let keyring = test.keyring.clone();
        async move { keyring.edit(&actor(), id, &restrict(asked)).await.map(|edited| edited.key.ip_restrictions) }
    };
    let Err(KeyringError::Invalid(problems)) = edit(Restrict::On).await else { panic!() };
    assert_eq!(problems[0].field, "ip_restrictions.enabled");
    assert_eq!(edit(Restrict::Set(restrictions(true, &["192.0.2.1/24"]))).await.unwrap(), restrictions(true, &["192.0.2.0/24"]));
    assert_eq!(edit(Restrict::Off).await.unwrap(), restrictions(false, &["192.0.2.0/24"]));
    assert_eq!(edit(Restrict::On).await.unwrap(), restrictions(true, &["192.0.2.0/24"]));
    assert_eq!(test.keyring.show(id).await.unwrap().ip_restrictions, restrictions(true, &["192.0.2.0/24"]));
}

#[tokio::test]
async fn an_overlap_is_at_most_thirty_days_and_a_key_is_rotated_once() {
    let test = TestKeyring::new().await;
    let id = test.keyring.create(&actor(), &new_key("Web")).await.unwrap().key.id;
    for wrong in ["31d", "soon", "", "-1s"] {
        let Err(KeyringError::Invalid(problems)) = test.keyring.rotate(&actor(), id, Some(wrong)).await else { panic!("{wrong}") };
        assert_eq!(problems[0].field, "overlap");
    }
    let rotated = test.keyring.rotate(&actor(), id, Some("30d")).await.unwrap();
    assert_eq!(rotated.old.expires_at, Some(START.plus(Duration::from_secs(30 * 86_400))));
    assert_eq!((rotated.key.replaces, rotated.old.replaced_by), (Some(id), Some(rotated.key.id)));
    assert_eq!(test.keyring.rotate(&actor(), id, None).await.unwrap_err().code(), "wrong_status");
}

#[tokio::test]
async fn keys_are_listed_newest_first_page_by_page_and_new_ones_move_nothing() {
    let test = TestKeyring::new().await;
    for number in 0..25 {
        test.time.pass(Duration::from_millis(1));
        test.keyring.create(&actor(), &new_key(&format!("Key {number}"))).await.unwrap();
    }
    let mut names = Vec::new();
    let mut cursor = None;
    loop {
        let page = test.keyring.list(&ListKeys { limit: Some(10), cursor, ..ListKeys::default() }).await.unwrap();
        names.extend(page.items.into_iter().map(|key| key.name));
        test.time.pass(Duration::from_millis(1));
        test.keyring.create(&actor(), &new_key("Newcomer")).await.unwrap();
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(names, (0..25).rev().map(|number| format!("Key {number}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn lists_can_be_narrowed() {
    let test = TestKeyring::new().await;
    test.keyring.create_account(&actor(), "Other").await.unwrap();
    let active = test.keyring.create(&actor(), &new_key("Web 100%")).await.unwrap();
    let sandbox = NewKey { environment: "sandbox".to_owned(), ..new_key("Sandbox") };
    let sandbox = test.keyring.create(&actor(), &sandbox).await.unwrap().key;
    let other = NewKey { account: "Other".to_owned(), ..new_key("Till") };
    let other = test.keyring.create(&actor(), &other).await.unwrap().key;
    let expiring = NewKey { expires_at: Some(START.plus(Duration::from_secs(1)).to_string()), ..new_key("Short") };
    let expired = test.keyring.create(&actor(), &expiring).await.unwrap().key;
    test.keyring.pause(&actor(), sandbox.id).await.unwrap();
    test.keyring.revoke(&actor(), other.id, None).await.unwrap();
    test.time.pass(Duration::from_secs(1));
    let names = |list: ListKeys| {
        let keyring = test.keyring.clone();
        async move { keyring.list(&list).await.unwrap().items.into_iter().map(|key| key.name).collect::<Vec<_>>() }
    };
    let by_status = |status: &str| names(ListKeys { status: Some(status.to_owned()), ..ListKeys::default() });
    let by_text = |q: &str| names(ListKeys { q: Some(q.to_owned()), ..ListKeys::default() });
    assert_eq!(by_status("active").await, ["Web 100%"]);
    assert_eq!(by_status("paused").await, ["Sandbox"]);
    assert_eq!(by_status("expired").await, ["Short"]);
    assert_eq!(by_status("revoked").await, ["Till"]);
    assert_eq!(names(ListKeys { account: Some("Other".to_owned()), ..ListKeys::default() }).await, ["Till"]);
    assert_eq!(names(ListKeys { environment: Some("sandbox".to_owned()), ..ListKeys::default() }).await, ["Sandbox"]);
    assert_eq!(by_text("0%").await, ["Web 100%"]);
    assert_eq!(by_text("%").await, ["Web 100%"]);
    assert_eq!(by_text("WEB").await, ["Web 100%"]);
    assert_eq!(by_text(&expired.id.to_string()).await, ["Short"]);
    assert_eq!(by_text(&active.key.hint.to_string()).await, ["Web 100%"]);
    assert_eq!(by_text(active.secret.reveal()).await, ["Web 100%"]);
    assert_eq!(by_text("nothing like it").await, Vec::<String>::new());
}

#[tokio::test]
async fn everything_that_is_wrong_with_a_question_is_said_at_once() {
    let test = TestKeyring::new().await;
    let list = ListKeys {
        account: Some("Nobody".to_owned()),
        environment: Some("live".to_owned()),
        status: Some("gone".to_owned()),
        q: None,
        limit: Some(101),
        cursor: Some("7".to_owned()),
    };
    let Err(KeyringError::Invalid(problems)) = test.keyring.list(&list).await else { panic!() };
    let fields: Vec<&str> = problems.iter().map(|problem| problem.field.as_str()).collect();
    assert_eq!(fields, ["account", "environment", "status", "limit", "cursor"]);
}

//! Import and export.

use std::time::Duration;

use martis_gateway::access::secret::Digest;
use martis_gateway::keyring::{Edit, ImportProblems, KeyringError, ListKeys, NewKey, Progress, Restrict};
use martis_gateway::store::Loaded;
use martis_gateway::store::audit::Chain;

use crate::support::{START, TestKeyring, actor, new_key, opens};

async fn import(test: &TestKeyring, text: &str) -> Result<u64, KeyringError> {
    test.keyring.import(&actor(), &opens(text), &mut |_| {}).await.map(|imported| imported.keys)
}

async fn problems(test: &TestKeyring, text: &str) -> ImportProblems {
    match import(test, text).await {
        Err(KeyringError::Import(problems)) => problems,
        other => panic!("{other:?}"),
    }
}

async fn exported(test: &TestKeyring) -> String {
    let mut out = Vec::new();
    test.keyring.export(&mut out, &mut |_| {}).await.unwrap();
    String::from_utf8(out).unwrap()
}

async fn indexed(test: &TestKeyring) -> Vec<Loaded> {
    let mut keys = Vec::new();
    test.keyring.store().load_all(|row| keys.push(row)).await.unwrap();
    keys.into_iter().filter(|row| matches!(row, Loaded::Key(_))).collect()
}

fn digest(number: u32) -> Digest {
    Digest::of(&number.to_le_bytes())
}

fn line(number: u32) -> String {
    format!(r#"{{"digest":"{}","account":"Shop","name":"Key {number}","environment":"production"}}"#, digest(number))
}

#[tokio::test]
async fn what_was_exported_is_imported_as_it_was() {
    let test = TestKeyring::new().await;
    let full = NewKey {
        permissions: Some(vec!["payments.charges:read".to_owned()]),
        expires_at: Some(START.plus(Duration::from_secs(5)).to_string()),
        ..new_key("Ünïcode \"quoted\" \\ name")
    };
    let full = test.keyring.create(&actor(), &full).await.unwrap().key;
    let asked = martis_gateway::keyring::view::IpRestrictionsView {
        enabled: true,
        allowed: vec!["10.0.0.0/8".to_owned(), "2001:db8::1".to_owned()],
    };
    test.keyring.edit(&actor(), full.id, &Edit { name: None, ip_restrictions: Some(Restrict::Set(asked)) }).await.unwrap();
    let rotated = test.keyring.create(&actor(), &new_key("Rotated")).await.unwrap().key;
    test.keyring.rotate(&actor(), rotated.id, Some("0s")).await.unwrap();
    let paused = test.keyring.create(&actor(), &new_key("Paused")).await.unwrap().key;
    test.keyring.pause(&actor(), paused.id).await.unwrap();
    test.time.pass(Duration::from_secs(10));
    let text = exported(&test).await;
    assert_eq!(text.lines().count(), 4);

    // In the other store the account has another id: it is found by its name.
    let other = TestKeyring::new().await;
    other.keyring.create_account(&actor(), "Filler").await.unwrap();
    other.time.pass(Duration::from_secs(10));
    assert_eq!(import(&other, &text).await.unwrap(), 4);
    let (before, after) = (exported(&test).await, exported(&other).await);
    let ids = [test.keyring.account("Shop").await.unwrap().id, other.keyring.account("Shop").await.unwrap().id].map(|id| id.to_string());
    assert_eq!(before.replace(&ids[0], &ids[1]), after);
    let all = other.keyring.list(&ListKeys::default()).await.unwrap().items;
    assert_eq!(all.len(), 4);
}

#[tokio::test]
async fn a_secret_is_hashed_as_it_is_read_and_is_in_no_file() {
    let test = TestKeyring::new().await;
    let ours = test.keyring.create(&actor(), &new_key("Elsewhere")).await.unwrap().secret;
    let foreign = format!("sk_test_{}-{}", "x".repeat(40), "legacy.make");
    let other = TestKeyring::new().await;
    let text = format!(
        "{{\"secret\":\"{}\",\"account\":\"Shop\",\"name\":\"One\"}}\r\n\n{{\"secret\":\"{foreign}\",\"account\":\"Shop\",\"name\":\"Two\"}}",
        ours.reveal()
    );
    assert_eq!(import(&other, &text).await.unwrap(), 2);
    let keys = other.keyring.list(&ListKeys { environment: Some("production".to_owned()), ..ListKeys::default() }).await.unwrap().items;
    assert_eq!((keys.len(), &keys[0].hint, keys[0].created_at), (1, &ours.hint(), START));
    let digests: Vec<Digest> =
        indexed(&other).await.into_iter().map(|row| if let Loaded::Key(key) = row { key.digest } else { panic!() }).collect();
    assert_eq!(digests, [ours.digest(), Digest::of(foreign.as_bytes())]);
    for entry in std::fs::read_dir(other.store.path().parent().unwrap()).unwrap() {
        let content = std::fs::read(entry.unwrap().path()).unwrap();
        for unique in [&ours.reveal()[8..], "legacy.make"] {
            assert!(memchr::memmem::find(&content, unique.as_bytes()).is_none());
        }
    }
}

#[tokio::test]
async fn everything_that_is_wrong_is_said_with_its_line_and_nothing_is_done() {
    let test = TestKeyring::new().await;
    assert_eq!(import(&test, &line(100)).await.unwrap(), 1);
    let position = test.keyring.store().position().await.unwrap();
    let secret = format!("sk_live_{}", "Z".repeat(38));
    let cases = [
        (line(1), None),
        (line(1), Some("digest: the same as in line 1")),
        (line(100), Some("digest: there is, or was, a key with this one in the store")),
        ("nonsense".to_owned(), Some("no JSON object")),
        (line(2).replace("Shop", "Nobody"), Some("account: there is no account `Nobody`")),
        (line(3).replace("production", "live"), Some("environment: ")),
        (line(4).replace("\"name\"", "\"nom\""), Some("unknown field `nom`")),
        (
            format!(r#"{{"secret":"{secret}","account":"Shop","name":"A","environment":"sandbox"}}"#),
            Some("the secret is one of production"),
        ),
        (format!(r#"{{"secret":"{}\u0041","account":"Shop","name":"A"}}"#, &secret[1..]), Some("without backslashes")),
        (format!(r#"{{"secret":"sk_live_a,b","account":"Shop","name":"{secret}"}}"#), Some("no comma")),
        (format!(r#"{{"account":"{secret}","name":"A","ip_restrictions":"{secret}-{secret}"}}"#), Some("invalid type, expected")),
        (r#"{"account":"Shop","name":"A","environment":"production"}"#.to_owned(), Some("digest: missing")),
        (line(5).replace('}', r#","expires_at":"soon"}"#), Some("expires_at: `soon`")),
        (line(6).replace('}', r#","permissions":["a:b"]}"#), Some("permissions[0]: the configuration names no permission `a:b`")),
        (line(7).replace('}', r#","status":"gone"}"#), Some("status: `gone`")),
        (line(8).replace('}', r#","ip_restrictions":{"enabled":true,"allowed":["::/0"]}}"#), Some("ip_restrictions.allowed[0]")),
        (line(9).replace('}', r#","created_at":"9000-01-01T00:00:00Z"}"#), Some("created_at: ")),
        (line(10).replace('}', r#","hint":"sk_test_…abcd"}"#), Some("hint: ")),
        (r#"{"secret":"sk_live_","account":"Shop","name":"A"}"#.to_owned(), Some("secret: a secret has at least 16 characters behind")),
        (
            r#"{"secret":"sk_live_123456789012345","account":"Shop","name":"A"}"#.to_owned(),
            Some("secret: a secret has at least 16 characters"),
        ),
        (
            line(12).replace('}', r#","status":"expired","expires_at":"9000-01-01T00:00:00Z"}"#),
            Some("status: `expired`, but `expires_at` is still to come: 9000-01-01T00:00:00Z"),
        ),
        (line(13).replace('}', r#","status":"expired"}"#), Some("status: `expired` needs `expires_at`")),
        (line(14).replace('}', r#","status":"expired","expires_at":"2000-01-01T00:00:00Z"}"#), None),
        (r#""text""#.to_owned(), Some("invalid type, expected an object of fields")),
        (line(15).replace('}', r#","ip_restrictions":5}"#), Some("expected an object with `enabled` and `allowed`")),
        ("x".repeat(300 * 1024), Some("longer than")),
        (line(11), None),
    ];
    let text: Vec<&str> = cases.iter().map(|(line, _)| line.as_str()).collect();
    let found = problems(&test, &text.join("\n")).await;
    for (number, (_, expected)) in (1..).zip(&cases) {
        let details: Vec<&str> =
            found.lines.iter().filter(|problem| problem.line == number).map(|problem| problem.detail.as_str()).collect();
        match expected {
            None => assert!(details.is_empty(), "{number}: {details:?}"),
            Some(expected) => assert!(details.iter().any(|detail| detail.contains(expected)), "{number}: {expected}: {details:?}"),
        }
    }
    assert!(!KeyringError::Import(found).to_string().contains("ZZZZZ"));
    assert_eq!(test.keyring.store().position().await.unwrap(), position);
    let refused = test.keyring.store().audit_entries(Chain::Operator, 0, 10).await.unwrap();
    assert_eq!(refused[0].refused.as_deref(), Some("invalid_import"));
}

#[tokio::test]
async fn digests_that_differ_at_their_ends_only_are_two() {
    let test = TestKeyring::new().await;
    let with = |end: &str| line(0).replace(&digest(0).to_string(), &format!("{}{end}", "0".repeat(63)));
    assert_eq!(import(&test, &format!("{}\n{}", with("a"), with("b"))).await.unwrap(), 2);
    let found = problems(&test, &format!("{}\n{}", with("c"), with("c"))).await;
    assert_eq!(found.lines[0].detail, "digest: the same as in line 1");
}

#[tokio::test]
async fn each_key_takes_a_revision_and_each_batch_a_line_of_the_audit_log() {
    let test = TestKeyring::new().await;
    let lines: Vec<String> = (0..4500).map(line).collect();
    let mut heard = Vec::new();
    let imported = test.keyring.import(&actor(), &opens(&lines.join("\n")), &mut |progress| heard.push(progress)).await.unwrap();
    assert_eq!(imported.keys, 4500);
    assert_eq!(test.keyring.store().position().await.unwrap().revision, 4500);
    assert_eq!(heard.last(), Some(&Progress::Writing { keys: 4500, of: 4500 }));
    let account = test.keyring.account("Shop").await.unwrap().id;
    let entries = test.keyring.store().audit_entries(Chain::Account(account), 0, 100).await.unwrap();
    let told: Vec<usize> = entries
        .iter()
        .filter(|entry| entry.action == "keys.import")
        .map(|entry| entry.after.as_deref().unwrap().matches("key_").count())
        .collect();
    assert_eq!(told, [2000, 2000, 500]);
    let loaded: Vec<Digest> =
        indexed(&test).await.into_iter().map(|row| if let Loaded::Key(key) = row { key.digest } else { panic!() }).collect();
    assert_eq!(loaded, (0..4500).map(digest).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_import_that_is_stopped_says_how_far_it_came() {
    let test = TestKeyring::new().await;
    let lines: Vec<String> = (0..2500).map(line).collect();
    let (good, opened) = (lines.join("\n"), std::sync::atomic::AtomicU32::new(0));
    let changed = good.replace(&line(2400), "{}");
    let open = || {
        let first = opened.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0;
        opens(if first { &good } else { &changed })()
    };
    match test.keyring.import(&actor(), &open, &mut |_| {}).await {
        Err(KeyringError::ImportStopped { line: 2000, keys: 2000, source }) => {
            assert!(matches!(*source, KeyringError::ImportChanged { line: 2401 }), "{source:?}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(test.keyring.store().count_keys().await.unwrap(), 2000);
}

#[tokio::test]
async fn an_empty_file_imports_nothing() {
    let test = TestKeyring::new().await;
    assert_eq!(import(&test, "\n\n").await.unwrap(), 0);
    assert_eq!(test.keyring.store().position().await.unwrap().revision, 0);
}

//! Keys: made, shown, changed and ended.

use std::process::Stdio;

use serde_json::{Value, json};

use super::machine::{Machine, Ran, holds, ran, text};

#[test]
fn a_secret_is_printed_once_and_is_in_no_file() {
    let machine = Machine::with_account();
    let created = machine.run(&["keys", "create", "--account", "Acme", "--name", "Shop", "--environment", "production"]).done();
    let secret = created.out.split_whitespace().find(|word| word.starts_with("sk_live_") && word.len() == 46).unwrap().to_owned();
    assert_eq!(created.out.matches(&secret).count(), 1);
    let created = created.prints(&["shown this once", "secret store", "No node runs"]);
    assert!(!created.err.contains(&secret));
    let list = machine.run(&["keys", "list"]).done();
    assert!(list.out.contains("Shop") && !list.out.contains(&secret));
    for file in machine.files() {
        assert!(!holds(&file, &secret), "{}", file.display());
    }
}

#[test]
fn a_key_is_made_as_asked() {
    let machine = Machine::with_account();
    let created = machine.make_key(&[
        "sandbox",
        "--permission",
        "payments.charges:write",
        "--permission",
        "payments.charges:read",
        "--allow-ip",
        "10.1.2.3/8",
        "--allow-ip",
        "::ffff:192.0.2.1",
        "--expires-in",
        "90d",
    ]);
    assert_eq!(created["environment"], "sandbox");
    assert_eq!(created["status"], "active");
    assert_eq!(created["permissions"], json!(["payments.charges:read", "payments.charges:write"]));
    assert_eq!(created["ip_restrictions"], json!({"enabled": true, "allowed": ["10.0.0.0/8", "192.0.2.1"]}));
    assert_eq!(created["confirmation"], json!({"nodes": 0, "confirmed": 0, "slowest_ms": null, "silent": []}));
    assert!(text(&created, "secret").starts_with("sk_test_"));
    assert!(text(&created, "created_by").ends_with("(command line)"));
    assert!(created["expires_at"].is_string());

    let shown = machine.ask(&["keys", "show", text(&created, "id")]);
    let fields = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(fields(&shown).len(), 14, "{shown}");
    for field in fields(&shown) {
        assert_eq!(shown[&field], created[&field]);
    }
    machine.run(&["keys", "show", text(&created, "id")]).done().prints(&[
        "10.0.0.0/8, 192.0.2.1",
        "payments.charges:read, payments.charges:write",
        "in 90 days",
        "just now",
    ]);
}

#[test]
fn everything_that_is_wrong_with_a_new_key_is_told_at_once() {
    let arguments = ["keys", "create", "--account", "Nobody", "--name", "", "--environment", "production"];
    let wrong = ["--permission", "payments.charges:wirte", "--allow-ip", "here", "--allow-ip", "0.0.0.0/0"];
    let ran = Machine::with_account().run(&[&arguments[..], &wrong[..]].concat()).failed();
    assert_eq!(ran.out, "");
    ran.complains(&[
        "error: account: ",
        "name: ",
        "did you mean `payments.charges:write`?",
        "`here` is neither",
        "`0.0.0.0/0` is every address",
    ]);
}

#[test]
fn wrong_usage_is_told_with_what_would_be_right() {
    let machine = Machine::with_account();
    let wrong = |arguments: &[&str], said: &str| {
        assert_eq!(machine.run(arguments).wrong_usage().complains(&[said]).out, "", "{arguments:?}");
    };
    wrong(&["keys", "create", "--name", "a", "--environment", "production"], "--account <ACCOUNT>");
    wrong(&["keys", "create", "--account", "Acme", "--name", "a", "--environment", "staging"], "production, sandbox");
    wrong(&["keys", "create", "--account", "Acme", "--name", "a", "--environment", "sandbox", "--expires-in", "soon"], "90d");
    let id = "key_00000000000000000000000000";
    for duration in ["5", "soon", "1M", "1h 30m", "1.5h"] {
        wrong(&["keys", "rotate", id, "--overlap", duration], "no duration: write a number and ms, s, m, h or d");
        let create = ["keys", "create", "--account", "Acme", "--name", "a", "--environment", "sandbox", "--expires-in", duration];
        wrong(&create, "no duration: write a number and ms, s, m, h or d");
    }
    wrong(&["keys", "show", "nonsense"], "begins with `key_`");
    wrong(&["keys", "restrict", "--allow-ip", "192.0.2.1", id], "the id of a key and goes in front of the addresses");
    wrong(&["keys", "restrict", id], "restrict [OPTIONS] <ID> <--allow-ip");
    wrong(&["keys", "restrict", "key_00000000000000000000000000"], "--allow-ip <CIDR>...|--on|--off");
    wrong(&["keys", "restrict", "key_00000000000000000000000000", "--on", "--off"], "cannot be used with");
    wrong(&["keys", "list", "--status", "gone"], "active, paused, expired, revoked");
    wrong(&["key", "list"], "keys");
}

#[test]
fn a_secret_given_by_mistake_is_not_repeated() {
    let machine = Machine::with_account();
    let created = machine.make_key(&["production"]);
    let secret = text(&created, "secret");
    for arguments in [&["keys", "show", secret][..], &["keys", "list", "--account", secret], &["nodes", "forget", secret], &[secret]] {
        let ran = machine.run(arguments);
        assert_ne!(ran.code, 0);
        assert!(!ran.err.contains(secret) && ran.err.contains("sk_live_…"), "{ran:?}");
    }
    // Whoever has found a secret somewhere finds its key.
    assert_eq!(machine.ask(&["keys", "list", "--q", secret])["items"][0]["id"], created["id"]);
}

#[test]
fn json_may_be_asked_for_anywhere() {
    let machine = Machine::with_account();
    machine.make_key(&["production"]);
    let behind = machine.run(&["keys", "list", "--json"]).done();
    for arguments in [&["--json", "keys", "list"], &["keys", "--json", "list"]] {
        assert_eq!(machine.run(arguments).done().out, behind.out);
    }
    assert_eq!(behind.json()["next_cursor"], Value::Null);
}

#[test]
fn the_configuration_may_be_named_anywhere_and_by_the_environment() {
    let machine = Machine::with_account();
    let elsewhere = machine.path("else");
    std::fs::create_dir(&elsewhere).unwrap();
    for arguments in [&["--config", "../gateway.toml", "accounts", "list"], &["accounts", "list", "--config", "../gateway.toml"]] {
        ran(machine.gateway(arguments).current_dir(&elsewhere).spawn().unwrap()).done().prints(&["Acme"]);
    }
    let named = |name| ran(machine.gateway(&["accounts", "list"]).current_dir(&elsewhere).env("MARTIS_CONFIG", name).spawn().unwrap());
    named("../gateway.toml").done().prints(&["Acme"]);
    named("missing.toml").failed().complains(&["missing.toml", "there is no such file", "MARTIS_CONFIG"]);
}

#[test]
fn keys_are_listed_by_what_they_are_and_page_by_page() {
    let machine = Machine::with_account();
    machine.run(&["keys", "list"]).done().prints(&["There is no such key."]);
    let production = machine.make_key(&["production"]);
    let sandbox = machine.make_key(&["sandbox"]);
    machine.run(&["keys", "pause", text(&sandbox, "id")]).done();
    let ids = |arguments: &[&str]| {
        let page = machine.ask(&[&["keys", "list"], arguments].concat());
        page["items"].as_array().unwrap().iter().map(|key| key["id"].clone()).collect::<Vec<_>>()
    };
    let (production, sandbox) = (production["id"].clone(), sandbox["id"].clone());
    assert_eq!(ids(&[]), [sandbox.clone(), production.clone()]);
    assert_eq!(ids(&["--environment", "production"]), std::slice::from_ref(&production));
    assert_eq!(ids(&["--status", "paused", "--account", "Acme"]), std::slice::from_ref(&sandbox));
    assert_eq!(ids(&["--q", "nothing"]), [] as [Value; 0]);
    let first = machine.ask(&["keys", "list", "--limit", "1"]);
    assert_eq!(ids(&["--limit", "1", "--cursor", text(&first, "next_cursor")]), [production]);
    machine.run(&["keys", "list", "--limit", "1"]).done().complains(&["--cursor key_"]);
    machine.run(&["keys", "list", "--limit", "0"]).failed().complains(&["limit: ", "1 to 100"]);
}

#[test]
fn a_key_lives_as_it_is_told() {
    let machine = Machine::with_account();
    let created = machine.make_key(&["production"]);
    let id = text(&created, "id");
    let does = |arguments: &[&str], said: &[&str]| machine.run(arguments).done().prints(said);
    does(&["keys", "rename", id, "Shop 2"], &["Shop 2"]);
    does(&["keys", "restrict", id, "--allow-ip", "192.0.2.1", "10.0.0.0/8"], &["192.0.2.1, 10.0.0.0/8", "No node runs"]);
    does(&["keys", "restrict", id, "--off"], &["any (switched off: 192.0.2.1, 10.0.0.0/8)"]);
    does(&["keys", "restrict", id, "--on"], &["192.0.2.1, 10.0.0.0/8"]);
    does(&["keys", "pause", id], &["Paused the key", "Shop 2"]);
    machine.run(&["keys", "pause", id]).failed().complains(&["only one that is active can be paused"]);
    does(&["keys", "resume", id], &["Resumed the key"]);
    does(&["keys", "rotate", id], &["shown this once", "works until", "replaces"]);
    machine.run(&["keys", "rotate", id]).failed().complains(&["rotated already"]);
    does(&["keys", "revoke", id, "--reason", "leaked"], &["Revoked the key", "Shop 2"]);
    machine.run(&["keys", "revoke", id]).failed().complains(&["nothing left to do"]);
    machine.run(&["keys", "rename", id, "x"]).failed();
    machine.run(&["keys", "show", "key_00000000000000000000000000"]).failed().complains(&["error: there is no key"]);
}

#[test]
fn programs_get_what_the_admin_api_answers() {
    let machine = Machine::with_account();
    let created = machine.make_key(&["production", "--expires-in", "30d"]);
    let id = text(&created, "id");
    let renamed = machine.ask(&["keys", "rename", id, "Shop 2"]);
    assert_eq!((text(&renamed, "name"), renamed["confirmation"].is_object()), ("Shop 2", true));
    let restricted = machine.ask(&["keys", "restrict", id, "--allow-ip", "192.0.2.1"]);
    assert_eq!(restricted["ip_restrictions"], json!({"enabled": true, "allowed": ["192.0.2.1"]}));
    assert_eq!(machine.ask(&["keys", "pause", id])["key"]["status"], "paused");
    assert_eq!(machine.ask(&["keys", "resume", id])["key"]["status"], "active");

    let rotated = machine.ask(&["keys", "rotate", id, "--overlap", "0s"]);
    assert_eq!((&rotated["replaces"], &rotated["old"]["id"]), (&created["id"], &created["id"]));
    assert_eq!((&rotated["old"]["status"], &rotated["old"]["replaced_by"]), (&json!("revoked"), &rotated["id"]));
    assert!(text(&rotated, "secret").starts_with("sk_live_") && rotated["expires_at"].is_string());

    let revoked = machine.ask(&["keys", "revoke", text(&rotated, "id"), "--yes"]);
    assert_eq!(revoked["key"]["status"], "revoked");
    assert_eq!(revoked["confirmation"]["nodes"], 0);
}

#[test]
fn a_reader_who_has_enough_is_no_failure() {
    let machine = Machine::with_account();
    let id = machine.make_key(&["production"])["id"].clone();
    let id = id.as_str().unwrap();
    for arguments in
        [&["keys", "list"][..], &["keys", "list", "--json"], &["keys", "pause", id], &["accounts", "list"], &["completions", "bash"]]
    {
        let ended = unread(&machine, arguments).done();
        assert_eq!(ended.err, "", "{arguments:?}");
    }
}

#[test]
fn a_secret_that_nobody_reads_is_told_with_what_to_do() {
    let machine = Machine::with_account();
    let create = ["keys", "create", "--account", "Acme", "--name", "Shop", "--environment", "production"];
    let lost = ["was made, but its secret could not be shown: rotate or revoke it"];
    unread(&machine, &create).failed().complains(&lost);
    unread(&machine, &[&create[..], &["--json"]].concat()).failed().complains(&lost);
    let list = machine.ask(&["keys", "list"]);
    unread(&machine, &["keys", "rotate", text(&list["items"][0], "id")]).failed().complains(&lost);
}

/// A command whose standard output nobody reads any more.
fn unread(machine: &Machine, arguments: &[&str]) -> Ran {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    ran(machine.gateway(arguments).stdout(writer).spawn().unwrap())
}

#[test]
fn an_overlap_that_is_none_is_told() {
    let machine = Machine::with_account();
    let created = machine.make_key(&["production"]);
    machine.run(&["keys", "rotate", text(&created, "id"), "--overlap", "31d"]).failed().complains(&["overlap: "]);
}

#[test]
fn revoking_asks_on_a_terminal_and_only_there() {
    let machine = Machine::with_account();
    let created = machine.make_key(&["production"]);
    let id = text(&created, "id");
    let status = || text(&machine.ask(&["keys", "show", id]), "status").to_owned();

    assert!(on_a_terminal(&machine, id, "n\n").contains("Revoke the production key"));
    assert_eq!(status(), "active");
    assert!(on_a_terminal(&machine, id, "\n").contains("nothing was changed"));
    assert_eq!(status(), "active");
    assert!(on_a_terminal(&machine, id, "y\n").contains("Revoked the key"));
    assert_eq!(status(), "revoked");
}

/// What is seen on a terminal where a key is revoked and this is typed; `script` is a terminal to what it runs.
fn on_a_terminal(machine: &Machine, id: &str, typed: &str) -> String {
    use std::io::Write as _;
    let line = format!("{} keys revoke {id}", super::machine::program());
    let mut child = machine.command("script", &["-qec", &line, "/dev/null"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(typed.as_bytes()).unwrap();
    // Held open until the end: `script` would tell its terminal of it.
    let output = child.wait_with_output().unwrap();
    drop(input);
    String::from_utf8(output.stdout).unwrap()
}

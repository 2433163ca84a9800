//! Importing and exporting keys.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use super::machine::{Machine, holds, ran, text};

#[test]
fn what_was_exported_is_imported_as_it_was() {
    let here = Machine::with_account();
    let first =
        here.make_key(&["production", "--permission", "payments.charges:read", "--allow-ip", "192.0.2.0/24", "--expires-in", "30d"]);
    let second = here.make_key(&["sandbox"]);
    here.run(&["keys", "rotate", text(&first, "id")]).done();
    here.run(&["keys", "revoke", text(&second, "id")]).done();
    here.run(&["keys", "export", "keys.ndjson"]).done().prints(&["Exported 3 keys."]);
    let mode = fs::metadata(here.path("keys.ndjson")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(!holds(&here.path("keys.ndjson"), text(&first, "secret")));

    let there = Machine::with_account();
    fs::copy(here.path("keys.ndjson"), there.path("keys.ndjson")).unwrap();
    there.run(&["keys", "import", "keys.ndjson"]).done().prints(&["Imported 3 keys.", "No node runs"]);
    let keys =
        |machine: &Machine| machine.ask(&["keys", "list"])["items"].as_array().unwrap().iter().map(without_account).collect::<Vec<_>>();
    assert_eq!(keys(&there), keys(&here));
}

/// The account has the same name there, and another id.
fn without_account(key: &Value) -> Value {
    let mut key = key.clone();
    key.as_object_mut().unwrap().remove("account").unwrap();
    key
}

#[test]
fn an_export_goes_to_standard_output_too() {
    let machine = Machine::with_account();
    let created = machine.make_key(&["production"]);
    let exported = machine.run(&["keys", "export", "-"]).done().complains(&["Exported 1 key."]);
    assert_eq!(exported.out.lines().count(), 1);
    assert_eq!((&exported.json()["id"], text(&exported.json(), "digest").len()), (&created["id"], 64));
    assert_eq!(machine.ask(&["keys", "export", "keys.ndjson"]), json!({"keys": 1}));
    machine.run(&["keys", "export", "missing/keys.ndjson"]).failed().complains(&["write missing/keys.ndjson", "No such file"]);
}

#[test]
fn imported_secrets_work_and_are_kept_nowhere() {
    let machine = Machine::with_account();
    let secret = "sk_live_of-another-make-0123456789";
    let line = json!({"secret": secret, "account": "Acme", "name": "Old shop"});
    fs::write(machine.path("keys.ndjson"), format!("{line}\n")).unwrap();
    machine.run(&["keys", "import", "keys.ndjson"]).done();
    fs::remove_file(machine.path("keys.ndjson")).unwrap();
    for file in machine.files() {
        assert!(!holds(&file, secret), "{}", file.display());
    }
    let arguments = ["explain", "GET", "https://api.martis.test/", "--from", "192.0.2.7", "--secret-stdin", "--json"];
    let explained = machine.run_with_input(&arguments, secret).done().json();
    assert_eq!(text(&explained, "decision"), "forwarded");
}

#[test]
fn an_import_with_mistakes_changes_nothing_and_names_the_lines() {
    let machine = Machine::with_account();
    let good = json!({"digest": "0".repeat(64), "account": "Acme", "name": "a", "environment": "production"});
    fs::write(machine.path("keys.ndjson"), format!("{good}\n{{}}\nnonsense\n")).unwrap();
    machine.run(&["keys", "import", "keys.ndjson"]).failed().complains(&["line 2: ", "line 3: ", "nothing was imported"]);
    assert_eq!(machine.ask(&["keys", "list"])["items"], json!([]));
}

#[test]
fn an_export_that_nobody_reads_to_its_end_is_no_failure() {
    let machine = Machine::with_account();
    machine.make_key(&["production"]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let ended = ran(machine.gateway(&["keys", "export", "-"]).stdout(writer).spawn().unwrap()).done();
    assert_eq!(ended.err, "");
}

#[test]
fn only_a_file_is_imported_since_it_is_read_twice() {
    let machine = Machine::with_account();
    machine.run(&["keys", "import", "-"]).failed().complains(&["read twice", "name a file"]);
    machine.run(&["keys", "import", "/dev/null"]).failed().complains(&["is no file"]);
    machine.run(&["keys", "import", "missing"]).failed().complains(&["read missing", "No such file"]);
}

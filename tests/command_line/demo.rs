//! `demo`: a whole system, tried by its own lines.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use super::machine::{Machine, ran};

/// One at a time: each takes the ports that it is known by, if it can.
static TURN: Mutex<()> = Mutex::new(());

#[test]
fn every_line_does_what_it_says() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let machine = Machine::new();
    let checked = machine.run(&["demo", "--check"]).done().prints(&["✓ curl -si", "keys revoke", "lines did what they say"]);
    assert!(!checked.out.contains('✗') && checked.out.matches('✓').count() >= 10, "{checked:?}");
    for code in ["environment", "Missing key", "Refused address", "Missing permission", "/readyz", "/healthz", "/metrics"] {
        assert!(checked.out.contains(code), "{code}");
    }
    assert_eq!(machine.files(), [machine.path("gateway.toml")], "the temporary folder is removed");
}

#[test]
fn without_curl_the_same_requests_are_sent_and_it_is_said() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let machine = Machine::new();
    fs::create_dir(machine.path("bin")).unwrap();
    symlink("/bin/sh", machine.path("bin/sh")).unwrap();
    let without = machine.gateway(&["demo", "--check", "--json"]).env("PATH", machine.path("bin")).spawn().unwrap();
    let tried = ran(without).done().complains(&["curl is not installed"]).json();
    assert!(tried.as_array().unwrap().iter().all(|tried| tried["problem"].is_null()), "{tried}");
}

#[test]
fn an_interrupt_ends_it_clean() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let machine = Machine::new();
    let mut child = machine.gateway(&["demo"]).stderr(Stdio::inherit()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("/metrics")), "it prints what there is to try");
    assert!(machine.files().iter().any(|file| file.ends_with("keys.db")), "while it runs, its store is there");
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-s", "INT", &pid]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(machine.files(), [machine.path("gateway.toml")]);
}

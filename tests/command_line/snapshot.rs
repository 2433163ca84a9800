//! Snapshots: written beside no node, shown, verified.

use std::fs;

use super::machine::{Machine, text};

#[test]
fn a_snapshot_is_written_shown_and_verified() {
    let machine = Machine::with_account();
    machine.run(&["snapshot", "show"]).failed().complains(&["show the snapshot", "there is none"]);
    machine.run(&["snapshot", "verify"]).failed().prints(&["✗", "there is none"]);
    machine.make_key(&["production"]);
    machine.run(&["snapshot", "write"]).done().prints(&["Wrote 1 key of revision 1 to", "keys.snapshot"]);
    machine.run(&["snapshot", "show"]).done().prints(&["revision", "keys", "just now"]);
    let shown = machine.ask(&["snapshot", "show"]);
    assert_eq!((&shown["revision"], &shown["keys"], &shown["suspended_accounts"]), (&1.into(), &1.into(), &0.into()));
    assert_eq!(text(&shown, "checksum").len(), 64);
    machine.run(&["snapshot", "verify"]).done().prints(&["✓", "whole, 1 key of revision 1"]);
}

#[test]
fn both_generations_are_verified_and_a_damaged_one_is_named() {
    let machine = Machine::with_account();
    machine.make_key(&["production"]);
    machine.run(&["snapshot", "write"]).done();
    machine.make_key(&["sandbox"]);
    machine.run(&["snapshot", "write"]).done();
    assert_eq!(machine.ask(&["snapshot", "verify"]).as_array().unwrap().len(), 2);

    let newest = machine.path("data/keys.snapshot");
    let mut bytes = fs::read(&newest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&newest, bytes).unwrap();
    let verified = machine.run(&["snapshot", "verify", "--json"]).failed().json();
    assert!(text(&verified[0], "problem").contains("damaged"), "{verified}");
    assert!(verified[1]["problem"].is_null());
    machine.run(&["snapshot", "verify"]).failed().prints(&["✗", "✓"]);
}

#[test]
fn without_a_store_there_is_nothing_to_write() {
    Machine::new().run(&["snapshot", "write"]).failed().complains(&["there is no store"]);
}

#[test]
fn a_store_that_went_back_does_not_take_the_snapshots_place_until_it_is_accepted() {
    let machine = Machine::with_account();
    fs::copy(machine.path("data/martis.db"), machine.path("backup.db")).unwrap();
    machine.make_key(&["production"]);
    machine.run(&["snapshot", "write"]).done();
    fs::copy(machine.path("backup.db"), machine.path("data/martis.db")).unwrap();
    machine.run(&["snapshot", "write"]).failed().complains(&["an older copy was put in its place", "store accept"]);
    // Neither does it when its numbers have caught up.
    machine.make_key(&["sandbox"]);
    machine.run(&["snapshot", "write"]).failed().complains(&["went another way", "store accept"]);
    machine.run(&["store", "accept"]).done();
    machine.run(&["snapshot", "write"]).done().prints(&["of revision 1"]);
    // The same copy again: what the snapshot knows is settled by accepting, too.
    fs::copy(machine.path("backup.db"), machine.path("data/martis.db")).unwrap();
    machine.run(&["snapshot", "write"]).failed().complains(&["never heard of epoch"]);
    machine.run(&["store", "accept"]).done();
    machine.run(&["snapshot", "write"]).done().prints(&["of revision 0"]);
}

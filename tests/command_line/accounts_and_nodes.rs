//! Accounts, the fleet, and the store as a whole.

use super::machine::{Machine, eventually, text};

#[test]
fn an_account_is_made_with_the_store_if_there_is_none() {
    let machine = Machine::new();
    machine.run(&["accounts", "list"]).failed().complains(&["there is no store at", "data/martis.db"]);
    machine.run(&["accounts", "create", "Acme"]).done().prints(&["Made the account Acme (acct_"]);
    machine.run(&["accounts", "create", "Acme"]).failed().complains(&["name: there is an account with this name"]);
    machine.run(&["accounts", "list"]).done().prints(&["Acme", "active", "just now"]);
    let list = machine.ask(&["accounts", "list"]);
    assert_eq!((text(&list["items"][0], "name"), &list["items"][0]["suspended"]), ("Acme", &false.into()));
}

#[test]
fn after_a_command_everything_is_in_the_one_file_of_the_store() {
    let machine = Machine::with_account();
    machine.make_key(&["production"]);
    machine.run(&["accounts", "create", "Acme"]).failed();
    assert_eq!(machine.files(), [machine.path("data/martis.db"), machine.path("gateway.toml")]);
}

#[test]
fn an_account_is_suspended_and_resumed_by_name_or_id() {
    let machine = Machine::with_account();
    let list = machine.ask(&["accounts", "list"]);
    machine.run(&["accounts", "suspend", "Acme"]).done().prints(&["Suspended the account Acme", "No node runs"]);
    machine.run(&["accounts", "suspend", "Acme"]).failed().complains(&["suspended already"]);
    let resumed = machine.ask(&["accounts", "resume", text(&list["items"][0], "id")]);
    assert_eq!((&resumed["account"]["suspended"], &resumed["confirmation"]["nodes"]), (&false.into(), &0.into()));
    machine.run(&["accounts", "suspend", "Nobody"]).failed().complains(&["there is no account `Nobody`"]);
}

#[test]
fn a_change_says_which_nodes_enforce_it() {
    let machine = Machine::with_account();
    machine.run(&["nodes"]).done().prints(&["No node runs."]);
    let created = machine.make_key(&["production"]);
    let mut node = machine.start_node();
    machine.run(&["nodes"]).done().prints(&["node_", "live", "in 12 h"]);
    node.signal("HUP");

    machine.run(&["keys", "pause", text(&created, "id")]).done().prints(&["Enforced by 1 of 1 node, by the last one after"]);
    let revoked = machine.ask(&["keys", "revoke", text(&created, "id")]);
    assert_eq!((&revoked["confirmation"]["nodes"], &revoked["confirmation"]["confirmed"]), (&1.into(), &1.into()));
    assert!(revoked["confirmation"]["slowest_ms"].is_u64());
    assert!(node.is_running(), "SIGHUP reloads and does not end a node");

    node.signal("TERM");
    assert_eq!(node.ended(), Some(0));
    assert!(!machine.path("data/martis.db-wal").exists(), "all of the store is in its one file");
    machine.run(&["nodes"]).done().prints(&["No node runs."]);
}

#[test]
fn a_silent_node_is_named_until_it_is_forgotten() {
    let machine = Machine::with_account();
    let created = machine.make_key(&["production"]);
    let node = machine.start_node();
    let id = text(&machine.ask(&["nodes"])["items"][0], "id").to_owned();
    node.signal("KILL");
    assert_eq!(node.ended(), None);

    let paused = machine
        .run(&["keys", "pause", text(&created, "id"), "--json"])
        .done()
        .complains(&["did not confirm", &format!("nodes forget {id}")]);
    let confirmation = &paused.json()["confirmation"];
    assert_eq!((&confirmation["confirmed"], text(&confirmation["silent"][0], "node")), (&0.into(), id.as_str()));

    // Who may pass is not altered by a name, so it does not matter who knows it.
    let made = machine.make_key(&["production"]);
    assert_eq!(machine.run(&["keys", "rename", text(&made, "id"), "Shop 2"]).done().err, "");
    machine.run(&["keys", "restrict", text(&made, "id"), "--allow-ip", "192.0.2.1"]).done().complains(&["did not confirm"]);

    // It counts as live for some seconds yet, and a live node is not forgotten.
    let forgotten = eventually("a node to be forgotten", || Some(machine.run(&["nodes", "forget", &id])).filter(|ran| ran.code == 0));
    forgotten.prints(&["Forgot the node", &id]);
    assert_eq!(machine.ask(&["keys", "resume", text(&created, "id")])["confirmation"]["nodes"], 0);
    machine.run(&["nodes", "forget", &id]).failed().complains(&["there is no node"]);
}

#[test]
fn accepting_a_store_begins_a_new_epoch() {
    let machine = Machine::with_account();
    let first = machine.ask(&["store", "accept"]);
    let second = machine.ask(&["store", "accept"]);
    assert_ne!(first["epoch"], second["epoch"]);
    machine.run(&["store", "accept"]).done().prints(&["From now on nodes take this store for the truth"]);
}

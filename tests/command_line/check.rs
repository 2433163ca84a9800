//! `check`: what would keep a node from starting, without starting one.

use std::fs;
use std::net::TcpListener;

use super::machine::Machine;

/// Sections with which a node takes ports that nobody else has.
const ANY_PORTS: &str = "[[listeners]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n";

/// `check` and `serve` of the same configuration.
#[track_caller]
fn both_fail(config: &str, said: &[&str]) {
    let machine = Machine::with_config(config);
    let serve = machine.run(&["serve"]).failed().complains(said);
    let check = machine.run(&["check"]).failed().complains(said);
    assert_eq!((check.err, check.out.as_str()), (serve.err, ""));
}

#[test]
fn check_says_of_a_bad_configuration_what_serve_says() {
    both_fail("[limits]\nbody_byte = 5\nconnections = 0\n", &["gateway.toml:2:1", "did you mean `body_bytes`?", "gateway.toml:3"]);
    both_fail("[store]\nurl = \"mysql://x\"\n", &["gateway.toml:2:7"]);
    both_fail("this is not TOML", &["gateway.toml:1"]);
    let postgres = "[store]\nurl = \"postgres://a@b/c\"\n";
    both_fail(&format!("{postgres}{ANY_PORTS}[limits]\nconnections = 10\n"), &["SQLite only"]);
}

#[test]
fn a_good_configuration_is_summed_up_and_nothing_is_left_behind() {
    let machine = Machine::new();
    machine.run(&["check"]).done().prints(&[
        "gateway.toml is fine: 1 listener, 0 with TLS; production and sandbox; 1 upstream; 2 permissions",
        "made at the first start",
    ]);
    assert_eq!(machine.files(), [machine.path("gateway.toml")]);
    machine.run(&["accounts", "create", "Acme"]).done();
    machine.run(&["check"]).done().prints(&["the store has 0 keys at revision 0"]);
}

#[test]
fn programs_get_problems_and_warnings_with_their_places() {
    let machine = Machine::with_config("[limits]\nconnections = 0\n");
    let checked = machine.run(&["check", "--json"]).failed().complains(&["connections"]).json();
    assert_eq!((&checked["problems"][0]["line"], &checked["problems"][0]["column"]), (&2.into(), &15.into()));
    let checked = Machine::new().ask(&["check"]);
    assert_eq!((checked["problems"].as_array().unwrap().len(), checked["warnings"].as_array().unwrap().len()), (0, 0));
}

#[test]
fn what_the_configuration_names_is_looked_at() {
    let machine = Machine::with_config(
        "[[listeners]]\naddress = \"203.0.113.1:1\"\n[admin]\naddress = \"127.0.0.1:0\"\n[store]\nurl = \"sqlite:store\"\n[snapshot]\npath = \"file/keys\"\n",
    );
    fs::write(machine.path("store"), "no database, but long enough to be taken for one at first sight").unwrap();
    fs::write(machine.path("file"), "").unwrap();
    machine.run(&["check"]).failed().complains(&["listen on 203.0.113.1:1", "write the snapshot", "is not a store of martis-gateway"]);
}

#[test]
fn a_certificate_that_does_not_fit_is_told() {
    let listener =
        "[[listeners]]\naddress = \"127.0.0.1:0\"\ntls = { certificates = [{ certificate = \"cert.pem\", private_key = \"key.pem\" }] }\n";
    let machine = Machine::with_config(&format!("{listener}[admin]\naddress = \"127.0.0.1:0\"\n"));
    let one = rcgen::generate_simple_self_signed(["api.martis.test".to_owned()]).unwrap();
    let other = rcgen::generate_simple_self_signed(["api.martis.test".to_owned()]).unwrap();
    fs::write(machine.path("cert.pem"), one.cert.pem()).unwrap();
    fs::write(machine.path("key.pem"), other.signing_key.serialize_pem()).unwrap();
    machine.run(&["check"]).failed().complains(&["do not belong together"]);
    machine.run(&["serve"]).failed().complains(&["do not belong together"]);
    fs::write(machine.path("key.pem"), one.signing_key.serialize_pem()).unwrap();
    machine.run(&["check"]).done().prints(&["1 listener, 1 with TLS"]);
}

#[test]
fn an_address_in_use_is_a_warning_since_it_may_be_the_running_nodes() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let machine = Machine::with_config(&format!("[[listeners]]\naddress = \"{address}\"\n[admin]\naddress = \"127.0.0.1:0\"\n"));
    machine.run(&["check"]).done().complains(&[&format!("warning: {address} is in use")]);
    machine.run(&["serve"]).failed().complains(&[&format!("listen on {address}")]);
}

#[test]
fn no_store_is_made_in_place_of_the_one_that_a_snapshot_is_of() {
    let machine = Machine::with_account();
    machine.run(&["snapshot", "write"]).done();
    fs::remove_file(machine.path("data/martis.db")).unwrap();
    let said = ["no new one is made in place of the one that is known", "remove the snapshot"];
    machine.run(&["check"]).failed().complains(&said);
    machine.run(&["accounts", "create", "Other"]).failed().complains(&said);
    // An empty file is no more a store than none.
    fs::write(machine.path("data/martis.db"), "").unwrap();
    machine.run(&["check"]).failed().complains(&said);
    machine.run(&["accounts", "create", "Other"]).failed().complains(&said);
    fs::remove_file(machine.path("data/martis.db")).unwrap();
    fs::remove_file(machine.path("data/keys.snapshot")).unwrap();
    machine.run(&["accounts", "create", "Other"]).done();
}

#[test]
fn check_changes_nothing_of_what_stands_in_the_stores_place() {
    let machine = Machine::new();
    fs::create_dir(machine.path("data")).unwrap();
    fs::write(machine.path("data/martis.db"), "").unwrap();
    machine.run(&["check"]).done().prints(&["made at the first start"]);
    assert_eq!(fs::read(machine.path("data/martis.db")).unwrap(), b"");
    machine.run(&["accounts", "create", "Acme"]).done();
    let before = fs::read(machine.path("data/martis.db")).unwrap();
    machine.run(&["check"]).done().prints(&["the store has 0 keys at revision 0"]);
    assert!(fs::read(machine.path("data/martis.db")).unwrap() == before);
    assert_eq!(machine.files(), [machine.path("data/martis.db"), machine.path("gateway.toml")]);
}

#[test]
fn check_looks_through_the_whole_store_for_damage() {
    let machine = Machine::with_account();
    let path = machine.path("data/martis.db");
    let mut bytes = fs::read(&path).unwrap();
    // From the second page on: the first has the header, by which it is still one of ours.
    bytes[4096..].fill(0xa5);
    fs::write(&path, bytes).unwrap();
    machine.run(&["check"]).failed().complains(&["the store is damaged"]);
}
